// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Android's Binder, by the raw interface of its C driver: the server is the context
 * manager of a binderfs of its own, or of the one device, and the client calls it.
 * Both read what they get in place, and give it back with their next command.
 *
 * A call is one ioctl. The server needs two: the one that replies ends as soon as it
 * has been told that the reply is sent, and another waits for the next call.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/android/binder.h>
#include <linux/mount.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define MAP_MAX (4 << 20)	/* what the driver cuts a mapping to */

struct binder_end {
	struct end end;
	bool server;
	int dir;			/* where the device is */
	int fd;
	uint8_t *map;			/* where payloads arrive */
	size_t map_size;
	uint64_t used;			/* the buffer that goes back next, or 0 */
	const void *data;		/* what is sent next */
	size_t len;
	bool pending;			/* server: there is something to reply */
};

/* Commands, as the driver reads them one behind the other. */
struct commands {
	uint8_t bytes[128];
	size_t n;
};

static void put(struct commands *c, uint32_t command, const void *arg, size_t size)
{
	memcpy(c->bytes + c->n, &command, sizeof(command));
	memcpy(c->bytes + c->n + sizeof(command), arg, size);
	c->n += sizeof(command) + size;
}

static void put_transaction(struct commands *c, uint32_t command, uint32_t flags, const struct binder_end *b)
{
	struct binder_transaction_data t = {
		.target.handle = 0,	/* the context manager */
		.flags = flags,
		.data_size = b->len,
		.data.ptr.buffer = ptr(b->data),
	};

	put(c, command, &t, sizeof(t));
}

/*
 * Give the commands, and wait for what `want` says. One ioctl, if the driver brings
 * it in one. Finds where the payload lies, unless what is wanted is only to be told
 * that it is sent.
 */
static int binder_talk(struct binder_end *b, struct commands *c, uint32_t want, size_t len)
{
	uint8_t in[256];

	for (;;) {
		struct binder_write_read rw = {
			.write_size = c->n,
			.write_buffer = ptr(c->bytes),
			.read_size = sizeof(in),
			.read_buffer = ptr(in),
		};
		struct binder_transaction_data t;
		uint32_t what;

		if (ioctl(b->fd, BINDER_WRITE_READ, &rw) < 0)
			return -errno;
		if (rw.write_consumed != c->n)
			return -EIO;
		c->n = 0;
		for (size_t i = 0; i + sizeof(what) <= rw.read_consumed; i += _IOC_SIZE(what)) {
			memcpy(&what, in + i, sizeof(what));
			i += sizeof(what);
			if (what == want && what == BR_TRANSACTION_COMPLETE)
				return 0;
			if (what == BR_NOOP || what == BR_TRANSACTION_COMPLETE || what == BR_SPAWN_LOOPER)
				continue;
			if (what == BR_DEAD_REPLY || what == BR_FAILED_REPLY)
				return -ECONNRESET;
			if (what != want)
				return -EBADMSG;
			memcpy(&t, in + i, sizeof(t));
			b->used = t.data.ptr.buffer;
			b->end.data = (const uint8_t *)(uintptr_t)b->used;
			return t.data_size == len ? 0 : -EBADMSG;
		}
	}
}

static int binder_send(struct end *e, const void *data, size_t len)
{
	struct binder_end *b = (struct binder_end *)e;

	b->data = data;
	b->len = len;
	b->pending = true;
	return 0;
}

/* What was given to send goes with this. */
static int binder_recv(struct end *e, size_t offset, size_t len)
{
	struct binder_end *b = (struct binder_end *)e;
	struct commands c = {};

	if (b->used)
		put(&c, BC_FREE_BUFFER, &b->used, sizeof(b->used));
	b->used = 0;
	if (b->pending)
		put_transaction(&c, b->server ? BC_REPLY : BC_TRANSACTION, 0, b);
	b->pending = false;
	return binder_talk(b, &c, b->server ? BR_TRANSACTION : BR_REPLY, len);
}

static int binder_push(struct end *e, const void *data, size_t len)
{
	struct binder_end *b = (struct binder_end *)e;
	struct commands c = {};

	b->data = data;
	b->len = len;
	put_transaction(&c, BC_TRANSACTION, TF_ONE_WAY, b);
	return binder_talk(b, &c, BR_TRANSACTION_COMPLETE, 0);
}

static void binder_close(struct end *e)
{
	struct binder_end *b = (struct binder_end *)e;

	if (b->map)
		munmap(b->map, b->map_size);
	if (b->fd >= 0)
		close(b->fd);
	if (b->dir >= 0)
		close(b->dir);
	free(b);
}

/* A binderfs that is mounted nowhere, and goes with its last user. */
static int binderfs(void)
{
	int fd, fs = (int)syscall(SYS_fsopen, "binder", FSOPEN_CLOEXEC);

	if (fs < 0)
		return -errno;
	fd = syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0 ? -1 :
	     (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
	if (fd < 0)
		fd = -errno;
	close(fs);
	return fd;
}

static void load_module(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		execl("/sbin/modprobe", "modprobe", "-q", "binder_linux", (char *)NULL);
		_exit(127);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

static struct binder_end *binder_new(int dir, size_t size, bool server)
{
	struct binder_end *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->end.transport = &transport_binder;
	b->end.chunk = size;
	b->server = server;
	b->fd = -1;
	b->dir = dup(dir);
	b->map_size = (2 * size + 0x20000) & ~(size_t)0xfff;
	if (b->map_size > MAP_MAX)
		b->map_size = MAP_MAX;
	return b;
}

/*
 * There is one to a device. It stays for a moment after it has closed the device, as
 * the driver cleans up later.
 */
static int become_manager(int fd)
{
	int zero = 0;

	for (int i = 0; ioctl(fd, BINDER_SET_CONTEXT_MGR, &zero) < 0; i++) {
		if (errno != EBUSY || i == 1000)
			return -errno;
		usleep(1000);
	}
	return 0;
}

/* The device of a machine without binderfs, if nobody uses it. */
static int device(void)
{
	int dir, r, fd = open("/dev/binder", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? absent("this kernel has no Binder") :
		       absent("/dev/binder: %s", strerror(errno));
	r = become_manager(fd);
	close(fd);
	if (r < 0)
		return r == -EBUSY ? absent("/dev/binder has a context manager") : r;
	dir = open("/dev", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return dir < 0 ? -errno : dir;
}

static int directory(void)
{
	int dir = binderfs();

	if (dir == -ENODEV) {
		load_module();
		dir = binderfs();
	}
	if (dir == -ENODEV)
		return device();
	if (dir == -EPERM)
		return absent("mounting binderfs needs CAP_SYS_ADMIN");
	return dir < 0 ? absent("binderfs: %s", strerror(-dir)) : dir;
}

static int binder_open(struct end **a, struct end **b, size_t size, bool alone)
{
	struct binder_end *x, *y;
	int dir = directory();

	if (dir < 0)
		return dir;
	x = binder_new(dir, size, false);
	y = binder_new(dir, size, true);
	close(dir);
	if (!x || !y) {
		if (x)
			binder_close(&x->end);
		if (y)
			binder_close(&y->end);
		return -ENOMEM;
	}
	*a = &x->end;
	*b = &y->end;
	return 0;
}

/* The driver knows a process by its open file, so each opens its own. */
static int binder_attach(struct end *e)
{
	struct binder_end *b = (struct binder_end *)e;
	uint32_t enter = BC_ENTER_LOOPER;
	struct binder_write_read rw = { .write_size = sizeof(enter), .write_buffer = ptr(&enter) };
	struct binder_version version;
	int zero = 0, r;

	b->fd = openat(b->dir, "binder", O_RDWR | O_CLOEXEC);
	if (b->fd < 0 || ioctl(b->fd, BINDER_VERSION, &version) < 0)
		return -errno;
	if (version.protocol_version != BINDER_CURRENT_PROTOCOL_VERSION)
		return -EPROTO;
	b->map = mmap(NULL, b->map_size, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, b->fd, 0);
	if (b->map == MAP_FAILED) {
		b->map = NULL;
		return -errno;
	}
	/* No threads but this one. */
	if (ioctl(b->fd, BINDER_SET_MAX_THREADS, &zero) < 0)
		return -errno;
	if (!b->server)
		return 0;
	r = become_manager(b->fd);
	if (r < 0)
		return r;
	return ioctl(b->fd, BINDER_WRITE_READ, &rw) < 0 ? -errno : 0;
}

const struct transport transport_binder = {
	.name = "binder",
	.open = binder_open,
	.attach = binder_attach,
	.send = binder_send,
	.recv = binder_recv,
	.close = binder_close,
	.push = binder_push,
};
