// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * MSG-6: descriptors in messages. They arrive close-on-exec, if they are asked for;
 * what could hold messages in turn is refused; none is lost or left open.
 */
#include "cast.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The reading end; the other one, which is to be sent, in *fd. */
static int pipe_new(int *fd)
{
	int fds[2];

	OK(SYS(pipe2(fds, O_CLOEXEC | O_NONBLOCK)));
	*fd = fds[1];
	return fds[0];
}

/* That nobody has the other end any more; files are closed a little later. */
static bool hung_up(int end)
{
	struct pollfd pfd = { .fd = end };

	return poll(&pfd, 1, (int)(5000 * test_slow())) == 1 && pfd.revents & POLLHUP;
}

static bool still_open(int end)
{
	struct pollfd pfd = { .fd = end };

	return poll(&pfd, 1, 0) == 0;
}

/* Whether what is written here is read there; and that it is close-on-exec. */
static void through(int fd, int end)
{
	u64 said = (u64)rand(), heard = 0;

	EQ(OK(SYS(fcntl(fd, F_GETFD))), FD_CLOEXEC);
	EQ(OK(SYS(write(fd, &said, sizeof(said)))), sizeof(said));
	EQ(OK(SYS(read(end, &heard, sizeof(heard)))), sizeof(heard));
	EQ(said, heard);
}

static bool same_file(int a, int b)
{
	struct stat x, y;

	OK(SYS(fstat(a, &x)));
	OK(SYS(fstat(b, &y)));
	return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

TEST("MSG-6 descriptors arrive with their message, as other numbers of the same files")
{
	static const u32 counts[] = { 1, 2, 3, 8, 64 };
	struct pair t = pair_of(0, 1 << 16);

	for (size_t k = 0; k < ARRAY_SIZE(counts); k++) {
		u32 n = counts[k];
		int end[64];
		s32 fds[64];
		unsigned int before;
		struct in in;

		for (u32 i = 0; i < n; i++)
			end[i] = pipe_new(&fds[i]);
		OK(send_fds(&t.a, t.to_b, fds, n));
		for (u32 i = 0; i < n; i++)
			close_fd(fds[i]);
		before = open_fds();
		OK(recv_with(&t.b, &in, BUS1_RECV_FDS));
		EQ(in.m.flags, 0);
		EQ(in.m.n_fds, n);
		EQ(open_fds(), before + n);
		for (u32 i = 0; i < n; i++) {
			through(in.fds[i], end[i]);
			for (u32 j = 0; j < i; j++)
				NE(in.fds[i], in.fds[j]);
		}
		for (u32 i = 0; i < n; i++) {
			close_fd(in.fds[i]);
			CHECK(hung_up(end[i]));
			close_fd(end[i]);
		}
		NOTHING(&t.b);
	}
}

TEST("MSG-6 as many as a message takes, and one of them as often as one likes")
{
	struct pair t = pair_of(0, 0);
	s32 fds[BUS1_MAX_FDS + 1];
	struct in in;
	int fd, end = pipe_new(&fd);

	for (int i = 0; i <= BUS1_MAX_FDS; i++)
		fds[i] = fd;
	ERR(send_fds(&t.a, t.to_b, fds, BUS1_MAX_FDS + 1), EMSGSIZE);
	OK(send_fds(&t.a, t.to_b, fds, BUS1_MAX_FDS));
	close_fd(fd);
	OK(recv_with(&t.b, &in, BUS1_RECV_FDS));
	EQ(in.m.n_fds, BUS1_MAX_FDS);
	for (int i = 0; i < BUS1_MAX_FDS; i++) {
		CHECK(still_open(end));
		through(in.fds[i], end);
		close_fd(in.fds[i]);
	}
	CHECK(hung_up(end));
}

TEST("MSG-6 payload, handles, descriptors and stamp come together")
{
	struct pair t = pair_of(0, 1 << 20);
	u64 nb, n[3];
	static u8 data[5000];
	struct bus1_cmd_node create = { .flags = BUS1_NODE_CREDS, .cookie = 2 };
	struct in in;

	OK(node_create(&t.b, &create));
	nb = create.id;
	fill(data, sizeof(data), 1);
	for (u64 i = 0; i < 3; i++)
		n[i] = node_new(&t.a, i);
	for (u32 n_handles = 0; n_handles <= 3; n_handles++)
		for (u32 n_fds = 0; n_fds <= 3; n_fds++)
			for (size_t len = 0; len <= sizeof(data); len = len ? len * 17 : 1) {
				struct bus1_pass pass[3] = {};
				int end[3];
				s32 fds[3];
				struct bus1_cmd_send cmd = {
					.dest = grant(&t.b, nb, &t.a), .data = len ? PTR(data) : 0,
					.len = len, .handles = n_handles ? PTR(pass) : 0,
					.n_handles = n_handles, .fds = n_fds ? PTR(fds) : 0,
					.n_fds = n_fds };

				for (int i = 0; i < 3; i++) {
					pass[i].id = n[i];
					end[i] = pipe_new(&fds[i]);
				}
				OK(send_cmd(&t.a, &cmd));
				OK(recv_with(&t.b, &in, BUS1_RECV_FDS));
				EQ(in.m.id, nb);
				EQ(in.m.len, len);
				MEM(in.data, data, len);
				EQ(in.m.n_handles, n_handles);
				EQ(in.m.n_fds, n_fds);
				CHECK(in.creds);
				EQ(in.creds->pid, getpid());
				for (u32 i = 0; i < n_fds; i++) {
					through(in.fds[i], end[i]);
					close_fd(in.fds[i]);
				}
				for (u32 i = 0; i < n_handles; i++)
					OK(release(&t.b, in.h[i].id));
				for (int i = 0; i < 3; i++) {
					close_fd(fds[i]);
					close_fd(end[i]);
				}
				if (in.m.slice)
					OK(slice_release(&t.b, in.m.slice));
			}
}

TEST("MSG-6 without being asked for they are closed, and that is said")
{
	struct pair t = pair_of(0, 0);
	s32 fds[3];
	int end[3];
	unsigned int before;
	struct in in;

	for (int i = 0; i < 3; i++)
		end[i] = pipe_new(&fds[i]);
	before = open_fds();
	OK(send_fds(&t.a, t.to_b, fds, 3));
	OK(recv_now(&t.b, &in));
	EQ(in.m.flags, BUS1_MSG_F_FDS_CLOSED);
	EQ(in.m.n_fds, 3);
	EQ(open_fds(), before);
	for (int i = 0; i < 3; i++) {
		CHECK(still_open(end[i]));
		close_fd(fds[i]);
		CHECK(hung_up(end[i]));
	}
	/* Asked for where there is none. */
	OK(send_str(&t.a, t.to_b, "none"));
	OK(recv_with(&t.b, &in, BUS1_RECV_FDS));
	EQ(in.m.flags, 0);
	EQ(in.m.n_fds, 0);
	EQ(open_fds(), before - 3);
}

/* What is sent with it, if anything, does not arrive either. */
static void refused(struct pair *t, s32 bad, int err)
{
	int fd, end = pipe_new(&fd);
	unsigned int before = open_fds();
	struct snapshot w = SNAPSHOT(&t->a, &t->b);

	for (int at = 0; at < 3; at++) {
		s32 fds[3] = { fd, fd, fd };
		struct bus1_cmd_send cmd = {
			.dest = t->to_b, .fds = PTR(fds), .n_fds = 3, .data = PTR("abc"), .len = 3,
			.handles = PTR(&(struct bus1_pass){ .id = t->to_b }), .n_handles = 1 };

		fds[at] = bad;
		ERR(send_cmd(&t->a, &cmd), err);
		cmd.flags = BUS1_SEND_PARTIAL;
		cmd.dests = PTR(((u64[]){ t->to_b, t->to_b }));
		cmd.n_dests = 2;
		cmd.dest = 0;
		ERR(send_cmd(&t->a, &cmd), err);
	}
	EQ(open_fds(), before);
	SAME_SNAPSHOT(&w);
	close_fd(fd);
	CHECK(hung_up(end));
	close_fd(end);
	ERR(send_fds(&t->a, t->to_b, &bad, 1), err);
	NOTHING(&t->b);
}

TEST("MSG-6 what is not an open file is refused")
{
	struct pair t = pair_of(0, 0);
	int closed;

	close_fd(closed = (int)OK(SYS(fcntl(0, F_DUPFD_CLOEXEC, 600))));
	refused(&t, -1, EBADF);
	refused(&t, closed, EBADF);
	refused(&t, 1 << 30, EBADF);
	refused(&t, INT32_MIN, EBADF);
	refused(&t, INT32_MAX, EBADF);
	refused(&t, AT_FDCWD, EBADF);
}

TEST("MSG-6 what could hold a message in turn is refused")
{
	struct pair t = pair_of(0, 0);
	struct io_uring_params params = {};
	int socks[2], ring, exported;
	struct peer c;

	refused(&t, t.a.fd, ELOOP);
	refused(&t, t.b.fd, ELOOP);
	refused(&t, peer_new(0).fd, ELOOP);
	/* A bystander's, with which one has nothing to do. */
	c = peer_new(0);
	exported = (int)OK(export_fd(&c, node_new(&c, 1), 0));
	refused(&t, exported, ELOOP);
	peer_close(&c);			/* it is dead now */
	refused(&t, exported, ELOOP);
	for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET; type++) {
		if (type == SOCK_RAW || type == SOCK_RDM)
			continue;
		OK(SYS(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, socks)));
		refused(&t, socks[0], ELOOP);
		close_fd(socks[0]);
		refused(&t, socks[1], ELOOP);
		close_fd(socks[1]);
		socks[0] = (int)OK(SYS(socket(AF_UNIX, type | SOCK_CLOEXEC, 0)));
		refused(&t, socks[0], ELOOP);
		close_fd(socks[0]);
	}
	ring = (int)syscall(SYS_io_uring_setup, 4, &params);
	if (ring < 0)
		SKIP("io_uring_setup: %s", strerrorname_np(errno));
	refused(&t, ring, ELOOP);
}

TEST("MSG-6 all other files are taken")
{
	struct pair t = pair_of(0, 0);
	int all[] = {
		open("/dev/null", O_RDWR | O_CLOEXEC),
		open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		open("/proc/self/stat", O_RDONLY | O_CLOEXEC),
		memfd_create("test", MFD_CLOEXEC),
		eventfd(0, EFD_CLOEXEC),
		epoll_create1(EPOLL_CLOEXEC),
		socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0),
		(int)syscall(SYS_pidfd_open, getpid(), 0),
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		struct in in;

		if (all[i] < 0)
			continue;
		OK(send_fds(&t.a, t.to_b, &all[i], 1));
		OK(recv_with(&t.b, &in, BUS1_RECV_FDS));
		NE(in.fds[0], all[i]);
		CHECK(same_file(in.fds[0], all[i]));
		close_fd(in.fds[0]);
	}
}

TEST("MSG-6 one that can not be installed is told in its place, the others arrive")
{
	for (unsigned int room = 0; room < 4; room++) {
		struct pair t = pair_of(0, 0);
		int end[3];
		s32 fds[3];
		pid_t pid;

		for (int i = 0; i < 3; i++)
			end[i] = pipe_new(&fds[i]);
		OK(send_fds(&t.a, t.to_b, fds, 3));
		for (int i = 0; i < 3; i++)
			close_fd(fds[i]);
		/* A process of its own, for its limit. */
		pid = test_fork();
		if (!pid) {
			struct in in;

			leave_fds(room);
			OK(recv_with(&t.b, &in, BUS1_RECV_FDS));
			EQ(in.m.n_fds, 3);
			for (unsigned int i = 0; i < 3; i++) {
				if (i < room)
					through(in.fds[i], end[i]);
				else
					EQ(in.fds[i], -EMFILE);
			}
			NOTHING(&t.b);
			/* Those are closed already. */
			for (unsigned int i = room; i < 3; i++)
				CHECK(hung_up(end[i]));
			_exit(0);
		}
		test_wait(pid);
		for (int i = 0; i < 3; i++)
			close_fd(end[i]);
		peer_close(&t.a);
		peer_close(&t.b);
	}
}

TEST("MSG-6 a receive that faults, or does not fit, installs and loses none")
{
	struct pair t = pair_of(0, 0);
	u64 n = node_new(&t.a, 1), *small;
	struct bus1_msg m;
	s32 fds[3];
	int end[3];
	unsigned int before;
	struct bus1_cmd_send send = {
		.dest = t.to_b, .fds = PTR(fds), .n_fds = 3, .data = PTR("0123456789"), .len = 10,
		.handles = PTR(&(struct bus1_pass){ .id = n }), .n_handles = 1 };
	struct bus1_cmd_recv good = {
		.flags = BUS1_RECV_NONBLOCK | BUS1_RECV_FDS, .msgs = PTR(&m), .n_msgs = 1,
		.msg_size = sizeof(m) }, cmd;
	struct snapshot w;
	struct in in;
	u32 need;

	for (int i = 0; i < 3; i++)
		end[i] = pipe_new(&fds[i]);
	OK(send_cmd(&t.a, &send));
	for (int i = 0; i < 3; i++)
		close_fd(fds[i]);
	before = open_fds();
	w = SNAPSHOT(&t.a, &t.b);
	cmd = good;
	ERR(recv_cmd(&t.b, &cmd), EMSGSIZE);
	need = cmd.buf_used;
	GE(need, 10 + 24 + 12);
	LE(need, 4096);
	small = edge_alloc((need + 7) / 8 * 8);
	for (u32 size = 0; size < need; size += 4) {
		cmd = good;
		cmd.buf = size ? PTR(small) : 0;
		cmd.buf_size = size;
		ERR(recv_cmd(&t.b, &cmd), EMSGSIZE);
		EQ(cmd.buf_used, need);
	}
	/* The buffer ends too early, wherever that is; or there is none, or no msgs[]. */
	for (u32 there = 0; there < need; there += 8) {
		cmd = good;
		cmd.buf = PTR(edge_alloc(there));
		cmd.buf_size = need;
		ERR(recv_cmd(&t.b, &cmd), EFAULT);
	}
	cmd = good;
	cmd.buf = PTR(read_only(&m, sizeof(m)));
	cmd.buf_size = need;
	ERR(recv_cmd(&t.b, &cmd), EFAULT);
	cmd.buf = PTR(small);
	cmd.msgs = PTR(read_only(&m, sizeof(m)));
	ERR(recv_cmd(&t.b, &cmd), EFAULT);
	cmd.msgs = PTR(&m);
	EQ(open_fds(), before);
	SAME_SNAPSHOT(&w);
	for (int i = 0; i < 3; i++)
		CHECK(still_open(end[i]));
	cmd = good;
	cmd.buf = PTR(small);
	cmd.buf_size = need;
	OK(recv_cmd(&t.b, &cmd));
	EQ(m.n_fds, 3);
	EQ(m.n_handles, 1);
	for (int i = 0; i < 3; i++)
		through(((s32 *)((u8 *)small + m.fds))[i], end[i]);
	EQ(open_fds(), before + 3);
	ERR(recv_now(&t.b, &in), EAGAIN);
}

TEST("MSG-6 several messages in one call, of which the last does not fit or faults")
{
	struct pair t = pair_of(0, 0);
	struct bus1_msg *m = edge_alloc(2 * sizeof(*m));
	u64 buf[64];
	int end[3], fd;
	unsigned int before;
	struct in in;

	for (int fault = 0; fault < 2; fault++) {
		struct bus1_cmd_recv cmd = {
			.flags = BUS1_RECV_NONBLOCK | BUS1_RECV_FDS, .msgs = PTR(m), .n_msgs = 3,
			.msg_size = sizeof(*m), .buf = PTR(buf),
			.buf_size = fault ? sizeof(buf) : 2 * 8 };
		u32 got = 0;

		before = open_fds();
		for (int i = 0; i < 3; i++) {
			end[i] = pipe_new(&fd);
			OK(send_fds(&t.a, t.to_b, &fd, 1));
			close_fd(fd);
		}
		if (fault) {
			/* Two have room in what is mapped. All that come are whole. */
			int r = recv_cmd(&t.b, &cmd);

			if (r)
				ERR(r, EFAULT);
			else
				got = cmd.n_msgs;
			LE(got, 2);
		} else {
			struct bus1_msg three[3];

			cmd.msgs = PTR(three);
			OK(recv_cmd(&t.b, &cmd));
			got = cmd.n_msgs;
			EQ(got, 2);
			memcpy(m, three, 2 * sizeof(*m));
		}
		for (u32 i = 0; i < 3; i++) {
			s32 one;

			if (i < got) {
				one = *(s32 *)((u8 *)buf + m[i].fds);
			} else {
				OK(recv_with(&t.b, &in, BUS1_RECV_FDS));
				one = in.fds[0];
			}
			through(one, end[i]);
			close_fd(one);
			CHECK(hung_up(end[i]));
			close_fd(end[i]);
		}
		NOTHING(&t.b);
		EQ(open_fds(), before);
	}
}

TEST("MSG-6 whatever a message ends by, its files are closed")
{
	for (int how = 0; how < 6; how++) {
		struct pair t = pair_of(0, 0);
		int fd, end = pipe_new(&fd);
		struct bus1_msg m;
		u64 f;

		if (how == 5) {
			/* It was sent to two, of which one can not. */
			ERR(send_cmd(&t.a, &(struct bus1_cmd_send){
				.dests = PTR(((u64[]){ t.to_b, 0 })), .n_dests = 2,
				.fds = PTR(&fd), .n_fds = 1 }), ENXIO);
		} else if (how == 4) {
			f = facet_new(&t.b, t.nb, 1);
			OK(send_fds(&t.a, grant(&t.b, f, &t.a), &fd, 1));
			OK(destroy(&t.b, f));
		} else {
			OK(send_fds(&t.a, t.to_b, &fd, 1));
		}
		if (how < 4)
			close_fd(fd);
		if (how == 0) {
			OK(drop_now(&t.b, &m));
			EQ(m.flags & BUS1_MSG_F_DROPPED, BUS1_MSG_F_DROPPED);
		} else if (how == 1) {
			OK(destroy(&t.b, t.nb));
		} else if (how == 2) {
			peer_close(&t.b);
		} else if (how == 3) {
			/* Its sender goes, and it stays. */
			peer_close(&t.a);
			CHECK(still_open(end));
			peer_close(&t.b);
		}
		if (how >= 4)
			close_fd(fd);
		CHECK(hung_up(end));
	}
}

TEST("MSG-6 a message keeps its files open, whoever closes them")
{
	struct pair t = pair_of(0, 0);
	int fd, end = pipe_new(&fd);
	pid_t pid = test_fork();
	struct in in;

	if (!pid) {
		OK(send_fds(&t.a, t.to_b, &fd, 1));
		_exit(0);
	}
	close_fd(fd);
	test_wait(pid);
	CHECK(still_open(end));
	OK(recv_with(&t.b, &in, BUS1_RECV_FDS));
	through(in.fds[0], end);
	close_fd(in.fds[0]);
	CHECK(hung_up(end));
}

TEST("MSG-6 each receiver of a multicast has descriptors of its own")
{
	struct peer a = peer_new(0), b[3];
	u64 nb[3], dests[4];
	int fd, end = pipe_new(&fd);
	s32 errors[4];
	struct in in;

	for (int i = 0; i < 3; i++) {
		b[i] = peer_new(0);
		nb[i] = node_new(&b[i], 1);
		dests[i] = grant(&b[i], nb[i], &a);
	}
	dests[3] = 0;
	OK(send_cmd(&a, &(struct bus1_cmd_send){
		.flags = BUS1_SEND_PARTIAL, .dests = PTR(dests), .n_dests = 4,
		.errors = PTR(errors), .fds = PTR(&fd), .n_fds = 1 }));
	EQ(errors[3], -ENXIO);
	close_fd(fd);
	for (int i = 0; i < 3; i++) {
		CHECK(still_open(end));
		if (i == 1) {
			peer_close(&b[i]);
			continue;
		}
		OK(recv_with(&b[i], &in, BUS1_RECV_FDS));
		through(in.fds[0], end);
		close_fd(in.fds[0]);
	}
	CHECK(hung_up(end));
}

TEST("MSG-6 a message with descriptors to oneself")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	int fd, end = pipe_new(&fd);
	struct in in;

	OK(send_fds(&a, n, &fd, 1));
	OK(recv_with(&a, &in, BUS1_RECV_FDS));
	NE(in.fds[0], fd);
	close_fd(fd);
	through(in.fds[0], end);
}

TEST("MSG-6 closing the receiver while files wait, thousands of them")
{
	struct pair t = pair_of(0, 0);
	s32 fds[BUS1_MAX_FDS];
	int fd, end = pipe_new(&fd), r;
	u32 n = 0;

	for (int i = 0; i < BUS1_MAX_FDS; i++)
		fds[i] = fd;
	while (!(r = send_fds(&t.a, t.to_b, fds, BUS1_MAX_FDS)))
		n += BUS1_MAX_FDS;
	ERR(r, EAGAIN);
	GT(n, 5000);
	close_fd(fd);
	CHECK(still_open(end));
	peer_close(&t.b);
	CHECK(hung_up(end));
}
