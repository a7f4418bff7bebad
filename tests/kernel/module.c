// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Loading and unloading. These tests take the module away from everybody, for a
 * moment: they run only where that is possible, and where it can be loaded again
 * from a file: BUS1_TEST_MODULE, or where the machine that runs the tests has it.
 */
#include "watch.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *module_file(void)
{
	const char *file = getenv("BUS1_TEST_MODULE");

	if (file)
		return file;
	return access("/bus1/bus1.ko", R_OK) ? "/lib/modules/bus1.ko" : "/bus1/bus1.ko";
}

static int unload(void)
{
	return (int)SYS(syscall(SYS_delete_module, "bus1", O_NONBLOCK));
}

static int load(void)
{
	int fd = open(module_file(), O_RDONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = (int)SYS(syscall(SYS_finit_module, fd, "", 0));
	close(fd);
	return r;
}

static void need_module(void)
{
	struct test_counts c;

	if (geteuid())
		SKIP("only for root");
	if (access(module_file(), R_OK))
		SKIP("%s: %s", module_file(), strerrorname_np(errno));
	if (!test_counts(&c))
		SKIP("the module is not loaded as one");
	if (c.n[TEST_PEERS])
		SKIP("somebody else uses it");
}

/* Until the device node is there again: udev or devtmpfs make it. */
static void wait_for_device(void)
{
	u64 end = test_deadline(10);

	while (access("/dev/" BUS1_DEVICE, R_OK | W_OK)) {
		if (test_now() > end)
			FAIL("there is no /dev/" BUS1_DEVICE);
		test_sleep_ms(5);
	}
}

TEST("OBJ-1 the module stays while there is a peer")
{
	struct peer p, q;

	need_module();
	p = peer_new(0);
	ERR(unload(), EWOULDBLOCK);
	OK(send_str(&p, node_new(&p, 1), "still there"));
	/* While there is a mapping, too. */
	q = peer_new(1 << 16);
	peer_close(&p);
	OK(SYS(close(q.fd)));
	ERR(unload(), EWOULDBLOCK);
	OK(SYS(munmap((void *)q.pool, q.pool_size)));
	OK(unload());
	EQ(open("/dev/" BUS1_DEVICE, O_RDWR), -1);
	OK(load());
	wait_for_device();
}

TEST("OBJ-12 the module stays while there is an exported handle")
{
	struct peer p;
	int fd, copy;

	need_module();
	p = peer_new(0);
	fd = (int)OK(export_fd(&p, node_new(&p, 1), 0));
	/* Of a node that is dead, too. */
	peer_close(&p);
	ERR(unload(), EWOULDBLOCK);
	copy = (int)OK(SYS(fcntl(fd, F_DUPFD_CLOEXEC, 0)));
	close_fd(fd);
	ERR(unload(), EWOULDBLOCK);
	close_fd(copy);
	OK(unload());
	OK(load());
	wait_for_device();
}

/* A peer's whole life, if the module is there. */
static void live(void)
{
	struct peer p = { .fd = open("/dev/" BUS1_DEVICE, O_RDWR | O_CLOEXEC) }, q;
	struct bus1_handle h;
	u64 n;
	int fd;

	if (p.fd < 0)
		return;
	q.fd = open("/dev/" BUS1_DEVICE, O_RDWR | O_CLOEXEC);
	CHECK(q.fd >= 0);
	q.pool = NULL;
	n = node_new(&p, 1);
	fd = (int)OK(export_fd(&p, n, 0));
	OK(import_cmd(&q, fd, &h));
	OK(send_fds(&q, h.id, &(s32){ 0 }, 1));
	OK(send_pass(&q, h.id, h.id, 0, 0));
	peer_close(&q);
	peer_close(&p);
	close_fd(fd);
}

TEST_TIMEOUT("OBJ-1 the module goes only when nobody uses it, however often it is asked", 120)
{
	for (int kept = 1; kept >= 0; kept--) {
		unsigned int rounds = test_rounds(kept ? 2000 : 50);
		int fd = -1, stop[2];
		pid_t pids[2];

		need_module();
		if (kept) {
			struct peer p = peer_new(0);

			fd = (int)OK(export_fd(&p, node_new(&p, 1), 0));
			peer_close(&p);
		}
		OK(SYS(pipe2(stop, O_CLOEXEC | O_NONBLOCK)));
		for (int i = 0; i < 2; i++) {
			pids[i] = test_fork();
			if (!pids[i]) {
				char byte;

				if (fd >= 0)
					close_fd(fd);
				close_fd(stop[1]);
				while (read(stop[0], &byte, 1) < 0)
					live();
				_exit(0);
			}
		}
		for (unsigned int i = 0; i < rounds; i++) {
			int r = unload();

			if (r) {
				ERR(r, EWOULDBLOCK);
				continue;
			}
			EQ(kept, 0);
			OK(load());
		}
		close_fd(stop[1]);
		for (int i = 0; i < 2; i++)
			test_wait(pids[i]);
		if (kept)
			close_fd(fd);
		wait_for_device();
	}
}

TEST_TIMEOUT("OBJ-1 loading, using and unloading leaves nothing", 120)
{
	need_module();
	for (unsigned int i = 0; i < test_rounds(25); i++) {
		struct peer a, b;
		u64 n, h, m;
		u8 data[5000] = {};

		/* What is freed later is freed while the module goes. */
		a = peer_new(1 << 16);
		b = peer_new(1 << 16);
		n = node_new(&a, 1);
		m = node_new(&b, 2);
		h = grant(&a, n, &b);
		OK(send_data(&b, h, data, sizeof(data)));
		OK(send_id(&b, h, m));
		OK(send_id(&b, h, h));
		peer_close(&b);
		peer_close(&a);
		OK(unload());
		OK(load());
		wait_for_device();
	}
}

TEST("RES-6 the module goes while its events are on, and comes back with them off")
{
	need_module();
	trace_start();
	for (unsigned int i = 0; i < 3; i++) {
		struct peer p = peer_new(0);

		trace_set(NULL, true);
		OK(send_str(&p, node_new(&p, 1), "traced"));
		trace_read();
		event_next(NULL, "send", NULL);
		peer_close(&p);
		OK(unload());
		/* What it traced is shown no more: it took the formats along. */
		EQ(trace_read(), 0);
		OK(load());
		wait_for_device();
		p = peer_new(0);
		OK(send_str(&p, node_new(&p, 1), "not traced"));
		EQ(trace_read(), 0);
		CHECK(!trace_is_on("send"));
		peer_close(&p);
	}
	trace_stop();
}
