// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * OBJ-12: a descriptor that holds a handle, for who gets it by whatever way: over a
 * socket, by inheriting it, across exec. It can be polled for the end of its node.
 */
#include "raw.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int to_poll(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN | POLLOUT };

	OK(SYS(poll(&pfd, 1, 0)));
	return pfd.revents & (POLLHUP | POLLERR | POLLNVAL);
}

TEST("OBJ-12 a handle is exported, and imported any number of times, by any peer")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 0xa), h = grant(&a, n, &b);
	struct bus1_handle got;
	int of_handle, of_node;
	u64 hc;

	of_handle = (int)OK(export_fd(&b, h, 0));
	of_node = (int)OK(export_fd(&a, n, 0));
	EQ(OK(SYS(fcntl(of_handle, F_GETFD))), FD_CLOEXEC);
	EQ(OK(SYS(fcntl(of_node, F_GETFD))), FD_CLOEXEC);

	/* To who has it, another count; to another, a handle; to the owner, the node. */
	OK(import_cmd(&b, of_handle, &got));
	EQ(got.id, h);
	EQ(got.flags, 0);
	EQ(got.cookie, 0);
	EQ(got.rights, ALL_RIGHTS);
	EQ(import_fd(&b, of_node), h);
	hc = import_fd(&c, of_node);
	EQ(import_fd(&c, of_handle), hc);
	OK(send_str(&c, hc, "imported"));
	GOT_TEXT(&a, n, "imported");
	OK(import_cmd(&a, of_handle, &got));
	EQ(got.id, n);
	EQ(got.cookie, 0xa);
	CHECK(got.flags & BUS1_HANDLE_OWN);
	/* Each import is a count. */
	ERR(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ h, h, h, h }, 4), ENXIO);
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ h, h, h }, 3));
	OK(ids_cmd(&c, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ hc, hc }, 2));
	ERR(release(&a, n), EPERM);
	/* The descriptors use the node. */
	NOTHING(&a);
	close_fd(of_handle);
	NOTHING(&a);
	ERR(destroy_unused(&a, n), EBUSY);
	close_fd(of_node);
	GOT_UNUSED(&a, n, 1);
	OK(destroy_unused(&a, n));
}

TEST("OBJ-12 the descriptor holds its handle when its maker is gone")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1);
	int fd = (int)OK(export_fd(&b, grant(&a, n, &b), 0)), copy;

	peer_close(&b);
	NOTHING(&a);
	copy = (int)OK(SYS(fcntl(fd, F_DUPFD_CLOEXEC, 0)));
	close_fd(fd);
	OK(send_str(&c, import_fd(&c, copy), "c"));
	GOT_TEXT(&a, n, "c");
	peer_close(&c);
	NOTHING(&a);
	close_fd(copy);
	GOT_UNUSED(&a, n, 1);
	NOTHING(&a);
}

TEST("OBJ-12 rights and badge go with the descriptor")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), f = facet_new(&a, n, 77), h = grant(&a, f, &b), same;
	struct bus1_handle got;

	for (u32 drop = 0; drop <= ALL_RIGHTS; drop++) {
		int fd = (int)OK(export_fd(&b, h, drop));

		OK(import_cmd(&b, fd, &got));
		EQ(got.rights, ALL_RIGHTS & ~drop);
		same = grant_as(&b, h, NULL, 0, drop);
		EQ(got.id, same);
		if (drop & BUS1_RIGHT_SEND) {
			ERR(send_str(&b, got.id, "x"), EPERM);
		} else {
			OK(send_str(&b, got.id, "x"));
			GOT_BADGE(&a, n, 77, "x");
		}
		close_fd(fd);
	}
	for (int i = 2; i < 32; i++)
		ERR(export_fd(&b, h, 1u << i), EINVAL);
	/* A descriptor to a facet uses the facet. */
	peer_close(&b);
	GOT_NOTICES(&a, { BUS1_MSG_NODE_UNUSED, f }, { BUS1_MSG_NODE_UNUSED, n });
	close_fd((int)OK(export_fd(&a, f, 0)));
	GOT_NOTICES(&a, { BUS1_MSG_NODE_UNUSED, f }, { BUS1_MSG_NODE_UNUSED, n });
}

/* The node dies in each of the ways it may. */
static void die(int how, struct peer *a, u64 n, u64 f)
{
	if (how == 0)
		OK(destroy(a, f));
	else if (how == 1)
		OK(destroy(a, n));
	else
		peer_close(a);
}

TEST("OBJ-12 a descriptor hangs up when its node is dead, for poll and epoll")
{
	for (int how = 0; how < 3; how++) {
		struct peer a = peer_new(0), b = peer_new(0);
		u64 n = node_new(&a, 1), f = facet_new(&a, n, 1);
		int fd = (int)OK(export_fd(&a, f, 0)), level, edge;
		struct epoll_event ev = { .events = 0 };
		struct bus1_handle got;

		level = (int)OK(SYS(epoll_create1(EPOLL_CLOEXEC)));
		edge = (int)OK(SYS(epoll_create1(EPOLL_CLOEXEC)));
		OK(SYS(epoll_ctl(level, EPOLL_CTL_ADD, fd, &ev)));
		ev.events = EPOLLET;
		OK(SYS(epoll_ctl(edge, EPOLL_CTL_ADD, fd, &ev)));
		EQ(to_poll(fd), 0);
		EQ(epoll_wait(level, &ev, 1, 0), 0);
		EQ(epoll_wait(edge, &ev, 1, 0), 0);
		die(how, &a, n, f);
		EQ(to_poll(fd), POLLHUP);
		for (int i = 0; i < 2; i++) {
			EQ(epoll_wait(level, &ev, 1, 0), 1);
			EQ(ev.events & EPOLLHUP, EPOLLHUP);
			EQ(epoll_wait(edge, &ev, 1, 0), i == 0);
			EQ(ev.events & EPOLLHUP, EPOLLHUP);
		}
		/* From now on it holds a dead handle. */
		OK(import_cmd(&b, fd, &got));
		EQ(got.flags, BUS1_HANDLE_DEAD);
		ERR(send_str(&b, got.id, "x"), EHOSTUNREACH);
		GOT_DEAD(&b, got.id);
		NOTHING(&b);
		close_fd(fd);
		close_fd(level);
		close_fd(edge);
		/* Nobody is told that what is dead is unused. */
		if (how == 1)
			NOTHING(&a);
	}
}

struct watch {
	int fd, epoll;
	int hangups;
};

static void watch_poll(void *arg)
{
	struct watch *w = arg;
	struct pollfd pfd = { .fd = w->fd };

	EQ(poll(&pfd, 1, (int)(30000 * test_slow())), 1);
	EQ(pfd.revents, POLLHUP);
	__atomic_add_fetch(&w->hangups, 1, __ATOMIC_RELAXED);
}

static void watch_epoll(void *arg)
{
	struct watch *w = arg;
	struct epoll_event ev;

	EQ(epoll_wait(w->epoll, &ev, 1, (int)(30000 * test_slow())), 1);
	EQ(ev.events & EPOLLHUP, EPOLLHUP);
	__atomic_add_fetch(&w->hangups, 1, __ATOMIC_RELAXED);
}

TEST("OBJ-12 a death wakes all who wait for it on the descriptor")
{
	for (int how = 0; how < 3; how++) {
		struct peer a = peer_new(0);
		u64 n = node_new(&a, 1), f = facet_new(&a, n, 1);
		struct watch w = { .fd = (int)OK(export_fd(&a, f, 0)) };
		struct epoll_event ev = { .events = EPOLLET };
		struct test_thread t[4];

		w.epoll = (int)OK(SYS(epoll_create1(EPOLL_CLOEXEC)));
		OK(SYS(epoll_ctl(w.epoll, EPOLL_CTL_ADD, w.fd, &ev)));
		for (int i = 0; i < 4; i++)
			test_start(&t[i], i < 3 ? watch_poll : watch_epoll, &w);
		test_sleep_ms(20);
		EQ(__atomic_load_n(&w.hangups, __ATOMIC_RELAXED), 0);
		die(how, &a, n, f);
		for (int i = 0; i < 4; i++)
			test_join(&t[i]);
		EQ(w.hangups, 4);
		close_fd(w.fd);
		close_fd(w.epoll);
	}
}

static void send_over(int sock, int fd)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} c = {};
	char byte = 'x';
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c,
			    .msg_controllen = sizeof(c.space) };

	c.h.cmsg_level = SOL_SOCKET;
	c.h.cmsg_type = SCM_RIGHTS;
	c.h.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&c.h), &fd, sizeof(fd));
	EQ(OK(SYS(sendmsg(sock, &m, 0))), 1);
}

static int receive_over(int sock)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} c = {};
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c,
			    .msg_controllen = sizeof(c.space) };
	int fd;

	EQ(OK(SYS(recvmsg(sock, &m, MSG_CMSG_CLOEXEC))), 1);
	EQ(c.h.cmsg_type, SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(&c.h), sizeof(fd));
	return fd;
}

TEST("OBJ-12 over a socket, to a process that has no peer yet")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	int socks[2], fd;
	pid_t pid;

	OK(SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks)));
	pid = test_fork();
	if (!pid) {
		struct peer p;

		close_fd(a.fd);
		close_fd(socks[0]);
		fd = receive_over(socks[1]);
		p = peer_new(0);
		OK(send_str(&p, import_fd(&p, fd), "the first capability"));
		_exit(0);
	}
	close_fd(socks[1]);
	fd = (int)OK(export_fd(&a, n, 0));
	send_over(socks[0], fd);
	close_fd(fd);
	test_wait(pid);
	GOT_TEXT(&a, n, "the first capability");
	GOT_UNUSED(&a, n, 1);

	/* In a socket that nobody reads it is a user, until the socket goes. */
	close_fd(socks[0]);
	OK(SYS(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, socks)));
	fd = (int)OK(export_fd(&a, n, 0));
	send_over(socks[0], fd);
	close_fd(fd);
	ERR(destroy_unused(&a, n), EBUSY);
	NOTHING(&a);
	close_fd(socks[1]);
	close_fd(socks[0]);
	for (u64 end = test_deadline(20); !readable(&a); test_sleep_ms(1))
		LT(test_now(), end);
	GOT_UNUSED(&a, n, 2);
}

TEST("OBJ-12 by inheritance")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	int fd = (int)OK(export_fd(&a, n, 0));
	pid_t pid = test_fork();

	if (!pid) {
		struct peer p = peer_new(0);

		OK(send_str(&p, import_fd(&p, fd), "child"));
		_exit(0);
	}
	close_fd(fd);
	test_wait(pid);
	GOT_TEXT(&a, n, "child");
	GOT_UNUSED(&a, n, 1);
}

/*
 * What this program is after it executed itself, in "OBJ-12 across exec". There is
 * no test around it: it tells by its exit status.
 */
__attribute__((constructor)) static void after_exec(void)
{
	const char *s = getenv("BUS1_TEST_EXPORTED");
	struct bus1_cmd_import cmd = {};
	struct bus1_cmd_send send = { .data = PTR("executed"), .len = 8 };
	int fd;

	if (!s)
		return;
	fd = open("/dev/" BUS1_DEVICE, O_RDWR | O_CLOEXEC);
	cmd.fd = atoi(s);
	if (fd < 0 || ioctl(fd, BUS1_CMD_HANDLE_IMPORT, &cmd))
		_exit(10);
	send.dest = cmd.handle.id;
	_exit(ioctl(fd, BUS1_CMD_SEND, &send) ? 11 : 0);
}

TEST("OBJ-12 across exec, if it is let through")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	int fd = (int)OK(export_fd(&a, n, 0));

	for (int let = 0; let < 2; let++) {
		pid_t pid = test_fork();
		int status;

		if (!pid) {
			char text[16];

			snprintf(text, sizeof(text), "%d", fd);
			OK(SYS(setenv("BUS1_TEST_EXPORTED", text, 1)));
			if (let)
				OK(SYS(fcntl(fd, F_SETFD, 0)));
			execl("/proc/self/exe", "abi", NULL);
			_exit(12);
		}
		EQ(waitpid(pid, &status, 0), pid);
		CHECK(WIFEXITED(status));
		EQ(WEXITSTATUS(status), let ? 0 : 10);
	}
	GOT_TEXT(&a, n, "executed");
	NOTHING(&a);
	close_fd(fd);
	GOT_UNUSED(&a, n, 1);
}

TEST("OBJ-12 export and import say why not, and change nothing")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), gone = grant(&a, node_new(&a, 2), &b);
	u64 weak = grant_as(&b, h, NULL, BUS1_TRANSFER_WEAK, 0);
	u64 bound = grant_as(&b, h, NULL, 0, BUS1_RIGHT_TRANSFER);
	struct bus1_cmd_export ex;
	struct bus1_cmd_import im;
	struct bus1_handle got;
	int pipes[2], fd, path, dead, event = (int)OK(SYS(eventfd(0, EFD_CLOEXEC)));
	unsigned int open_before;
	struct snapshot w;

	OK(release(&b, gone));
	OK(recv_now(&a, &(struct in){}));
	fd = (int)OK(export_fd(&a, n, 0));
	OK(SYS(pipe2(pipes, O_CLOEXEC)));
	path = (int)OK(SYS(open("/dev/null", O_PATH | O_CLOEXEC)));
	close_fd(dead = (int)OK(SYS(fcntl(0, F_DUPFD_CLOEXEC, 0))));
	w = SNAPSHOT(&a, &b);
	open_before = open_fds();
	ERR(export_fd(&b, 0, 0), ENXIO);
	ERR(export_fd(&b, gone, 0), ENXIO);
	ERR(export_fd(&b, UINT64_MAX, 0), ENXIO);
	ERR(export_fd(&b, weak, 0), EPERM);
	ERR(export_fd(&b, bound, 0), EPERM);
	for (int i = 0; i < 64; i++) {
		ex = (struct bus1_cmd_export){ .id = h, .flags = 1ULL << i };
		ERR(raw(&b, BUS1_CMD_HANDLE_EXPORT, &ex), EINVAL);
		im = (struct bus1_cmd_import){ .fd = fd, .flags = 1ULL << i };
		ERR(raw(&b, BUS1_CMD_HANDLE_IMPORT, &im), EINVAL);
		ex = (struct bus1_cmd_export){ .id = h, .fd = i < 32 ? (int)(1u << i) : -1 };
		ERR(raw(&b, BUS1_CMD_HANDLE_EXPORT, &ex), EINVAL);
		im = (struct bus1_cmd_import){ .fd = fd, .reserved = i < 32 ? 1u << i : ~0u };
		ERR(raw(&b, BUS1_CMD_HANDLE_IMPORT, &im), EINVAL);
	}
	for (size_t i = 0; i < sizeof(im.handle); i++) {
		im = (struct bus1_cmd_import){ .fd = fd };
		((u8 *)&im.handle)[i] = 1;
		ERR(raw(&b, BUS1_CMD_HANDLE_IMPORT, &im), EINVAL);
	}
	ex = (struct bus1_cmd_export){ .id = h };
	ERR(raw(&b, BUS1_CMD_HANDLE_EXPORT, read_only(&ex, sizeof(ex))), EFAULT);
	im = (struct bus1_cmd_import){ .fd = fd };
	ERR(raw(&b, BUS1_CMD_HANDLE_IMPORT, read_only(&im, sizeof(im))), EFAULT);
	ERR(import_cmd(&b, -1, &got), EBADF);
	ERR(import_cmd(&b, 1 << 30, &got), EBADF);
	ERR(import_cmd(&b, dead, &got), EBADF);
	ERR(import_cmd(&b, path, &got), EBADF);
	ERR(import_cmd(&b, pipes[0], &got), EMEDIUMTYPE);
	ERR(import_cmd(&b, a.fd, &got), EMEDIUMTYPE);
	ERR(import_cmd(&b, b.fd, &got), EMEDIUMTYPE);
	ERR(import_cmd(&b, event, &got), EMEDIUMTYPE);
	EQ(open_fds(), open_before);
	SAME_SNAPSHOT(&w);
	/* No descriptor is left for another. */
	leave_fds(0);
	ERR(export_fd(&b, h, 0), EMFILE);
	SAME_SNAPSHOT(&w);
	/* A handle whose only use failed is released as it should be. */
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ h, bound, weak }, 3));
	close_fd(fd);
	GOT_UNUSED(&a, n, 1);
}

TEST("OBJ-12 an exported handle is no peer, nor anything else")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), out = 0;
	struct peer fake = { .fd = (int)OK(export_fd(&a, n, 0)) };
	struct bus1_cmd_info info = {};
	struct snapshot w = SNAPSHOT(&a, &b);
	char byte = 0;

	ERR(raw(&fake, BUS1_CMD_PEER_INFO, &info), ENOTTY);
	ERR(node_create(&fake, &(struct bus1_cmd_node){}), ENOTTY);
	ERR(import_cmd(&fake, fake.fd, &(struct bus1_handle){}), ENOTTY);
	ERR(give(&a, n, &fake, 0, 0, &out), EMEDIUMTYPE);
	CHECK(read(fake.fd, &byte, 1) < 0);
	CHECK(write(fake.fd, &byte, 1) < 0);
	CHECK(mmap(NULL, page_size(), PROT_READ, MAP_SHARED, fake.fd, 0) == MAP_FAILED);
	/* Not sent, in whatever message: no cycle of files forms. */
	ERR(send_fds(&a, n, &fake.fd, 1), ELOOP);
	ERR(send_fds(&a, n, &a.fd, 1), ELOOP);
	SAME_SNAPSHOT(&w);
}

TEST("OBJ-12 many descriptors of one handle, closed in any order")
{
	enum { MANY = 200 };
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b);
	int fds[MANY];

	for (int i = 0; i < MANY; i++)
		fds[i] = (int)OK(export_fd(i % 2 ? &a : &b, i % 2 ? n : h, (u32)i / 2 % 2));
	OK(release(&b, h));
	for (int i = 0; i < MANY; i++) {
		NOTHING(&a);
		close_fd(fds[(i * 77) % MANY]);
	}
	GOT_UNUSED(&a, n, 1);
	NOTHING(&a);
}
