// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ORD-5: who stalls, in the middle of a copy from or to its memory, delays
 * nobody else. The memory belongs to a userfaultfd, so that the stall lasts
 * for as long as a test wants it to.
 */
#include "tar.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct stalled {
	struct test_thread thread;
	const struct peer *p;
	unsigned long cmd;
	union {
		struct bus1_cmd_send send;
		struct bus1_cmd_recv recv;
		struct bus1_cmd_transfer transfer;
		struct bus1_cmd_ids ids;
	} arg;
	int r;
};

static void stall(void *arg)
{
	struct stalled *s = arg;

	s->r = raw(s->p, s->cmd, &s->arg);
}

static void stall_start(struct stalled *s, const struct peer *p, const struct tar *t)
{
	s->p = p;
	test_start(&s->thread, stall, s);
	tar_wait(t);
}

/* Sender a, receivers b and c, bystander x; each knows the nodes of b and c. */
struct scene {
	struct peer a, b, c, x;
	u64 nb, nc, a_to[2], x_to[2];
};

static struct scene scene_new(void)
{
	struct scene s = {
		.a = peer_new(0), .b = peer_new(1 << 20), .c = peer_new(1 << 20),
		.x = peer_new(0),
	};

	s.nb = node_new(&s.b, 1);
	s.nc = node_new(&s.c, 2);
	s.a_to[0] = grant(&s.b, s.nb, &s.a);
	s.a_to[1] = grant(&s.c, s.nc, &s.a);
	s.x_to[0] = grant(&s.b, s.nb, &s.x);
	s.x_to[1] = grant(&s.c, s.nc, &s.x);
	return s;
}

static void scene_close(struct scene *s)
{
	peer_close(&s->a);
	peer_close(&s->b);
	peer_close(&s->c);
	peer_close(&s->x);
}

/* Everything that others may want of the receivers works. */
static void business_as_usual(struct scene *s)
{
	u8 data[5000];
	u64 n, h;
	struct in in;

	fill(data, sizeof(data), 5);
	for (int i = 0; i < 3; i++) {
		OK(send_str(&s->x, s->x_to[0], "unicast"));
		GOT_TEXT(&s->b, s->nb, "unicast");
		OK(send_data(&s->x, s->x_to[0], data, sizeof(data)));
		OK(recv_now(&s->b, &in));
		MEM(in.data, data, sizeof(data));
		OK(slice_release(&s->b, in.m.slice));
		OK(send_many(&s->x, 0, s->x_to, 2, NULL, "multicast"));
		GOT_TEXT(&s->b, s->nb, "multicast");
		GOT_TEXT(&s->c, s->nc, "multicast");
		/* Notices, both ways, and what the owner does. */
		n = node_new(&s->b, 9);
		h = grant(&s->b, n, &s->x);
		OK(send_str(&s->x, h, "to be dropped"));
		OK(release(&s->x, h));
		OK(destroy(&s->b, n));
		n = node_new(&s->x, 9);
		h = grant(&s->x, n, &s->b);
		OK(destroy(&s->x, n));
		GOT_DEAD(&s->b, h);
		OK(release(&s->b, h));
		NOTHING(&s->b);
		CHECK(!readable(&s->b));
	}
}

static void stalled_sender(const char *what, struct bus1_cmd_send send, bool multicast)
{
	struct tar t = tar_new();
	struct scene s = scene_new();
	struct stalled st = { .cmd = BUS1_CMD_SEND };
	size_t page = page_size();
	u64 at = PTR(t.mem) + page;
	/* One entry is there, the next is not. */
	u64 *dests = (u64 *)(t.mem + page) - 1;
	struct bus1_iovec *iovs = (struct bus1_iovec *)(t.mem + page) - 1;
	struct bus1_pass *pass = (struct bus1_pass *)(t.mem + page) - 1;

	st.arg.send = send;
	if (!strcmp(what, "payload"))
		st.arg.send.data = at - 5;
	dests[0] = s.a_to[0];
	if (!strcmp(what, "dests")) {
		st.arg.send.dests = PTR(dests);
		st.arg.send.n_dests = 2;
	} else if (multicast) {
		st.arg.send.dests = PTR(s.a_to);
		st.arg.send.n_dests = 2;
	} else {
		st.arg.send.dest = s.a_to[0];
	}
	if (!strcmp(what, "iovs")) {
		iovs[0] = (struct bus1_iovec){ PTR("abc"), 3 };
		st.arg.send.iovs = PTR(iovs);
		st.arg.send.n_iovs = 2;
	}
	if (!strcmp(what, "handles")) {
		pass[0] = (struct bus1_pass){ .id = s.a_to[0] };
		st.arg.send.handles = PTR(pass);
		st.arg.send.n_handles = 2;
	}
	/* Zero is a descriptor that is open. */
	if (!strcmp(what, "fds")) {
		*((s32 *)(t.mem + page) - 1) = 1;
		st.arg.send.fds = at - 4;
		st.arg.send.n_fds = 2;
	}
	if (!strcmp(what, "errors"))
		st.arg.send.errors = at - 4;

	stall_start(&st, &s.a, &t);
	business_as_usual(&s);
	CHECK(!__atomic_load_n(&st.thread.done, __ATOMIC_ACQUIRE));
	tar_melt(&t);
	test_join(&st.thread);
	/* The rest of the memory was zero: no id that is known. */
	if (!strcmp(what, "dests") || !strcmp(what, "handles")) {
		ERR(st.r, ENXIO);
	} else {
		OK(st.r);
		OK(recv_now(&s.b, &(struct in){}));
		if (multicast)
			OK(recv_now(&s.c, &(struct in){}));
	}
	business_as_usual(&s);
}

TEST("ORD-5 a sender that stalls in its payload delays nobody")
{
	stalled_sender("payload", (struct bus1_cmd_send){ .len = 5000 }, false);
}

TEST("ORD-5 a sender that stalls in a small payload delays nobody")
{
	stalled_sender("payload", (struct bus1_cmd_send){ .len = 20 }, false);
}

TEST("ORD-5 a multicast that stalls in its payload delays nobody")
{
	stalled_sender("payload", (struct bus1_cmd_send){ .len = 5000 }, true);
}

TEST("ORD-5 a small multicast that stalls delays nobody")
{
	stalled_sender("payload", (struct bus1_cmd_send){ .len = 20 }, true);
}

TEST("ORD-5 a sender that stalls in dests[] delays nobody")
{
	stalled_sender("dests", (struct bus1_cmd_send){}, true);
}

TEST("ORD-5 a sender that stalls in iovs[] delays nobody")
{
	stalled_sender("iovs", (struct bus1_cmd_send){}, true);
}

TEST("ORD-5 a sender that stalls in handles[] delays nobody")
{
	stalled_sender("handles", (struct bus1_cmd_send){}, false);
}

TEST("ORD-5 a sender that stalls in fds[] delays nobody")
{
	stalled_sender("fds", (struct bus1_cmd_send){}, true);
}

TEST("ORD-5 an ordered multicast that stalls delays no other")
{
	struct tar t = tar_new();
	struct scene s = scene_new();
	struct stalled st = { .cmd = BUS1_CMD_SEND, .arg.send = {
		.flags = BUS1_SEND_ORDERED, .dests = PTR(s.a_to), .n_dests = 2,
		.data = PTR(t.mem) + page_size() - 10, .len = 5000 } };

	stall_start(&st, &s.a, &t);
	for (int i = 0; i < 3; i++) {
		OK(send_many(&s.x, BUS1_SEND_ORDERED, s.x_to, 2, NULL, "ordered"));
		GOT_TEXT(&s.b, s.nb, "ordered");
		GOT_TEXT(&s.c, s.nc, "ordered");
	}
	business_as_usual(&s);
	tar_melt(&t);
	test_join(&st.thread);
	OK(st.r);
	OK(recv_now(&s.b, &(struct in){}));
	OK(recv_now(&s.c, &(struct in){}));
}

TEST("OBJ-9 a one-shot that stalls while it is sent is not spent yet")
{
	for (int what = 0; what < 6; what++) {
		struct tar t = tar_new();
		struct scene s = scene_new();
		u64 f = once_new(&s.b, s.nb, 7), h = grant(&s.b, f, &s.a), g = grant(&s.b, f, &s.x);
		struct stalled st = { .cmd = BUS1_CMD_SEND, .arg.send = {
			.dest = h, .data = PTR(t.mem) + page_size() - 10,
			.len = what & 1 ? 5000 : 20 } };

		stall_start(&st, &s.a, &t);
		business_as_usual(&s);
		NOTHING(&s.x);
		if (what & 4) {
			/* Another thread gives the count back. */
			OK(release(&s.a, h));
			ERR(release(&s.a, h), ENXIO);
		} else if (what & 2) {
			/* Another is faster. */
			OK(send_str(&s.x, g, "faster"));
			GOT_BADGE(&s.b, s.nb, 7, "faster");
			GOT_DEAD(&s.a, h);
		}
		tar_melt(&t);
		test_join(&st.thread);
		if (what & 4) {
			ERR(st.r, ENXIO);
			NOTHING(&s.b);
			OK(send_str(&s.x, g, "mine"));
			GOT_BADGE(&s.b, s.nb, 7, "mine");
		} else if (what & 2) {
			ERR(st.r, EHOSTUNREACH);
			OK(release(&s.a, h));
			NOTHING(&s.b);
		} else {
			struct in in;

			OK(st.r);
			OK(recv_now(&s.b, &in));
			EQ(in.m.badge, 7);
			GOT_DEAD(&s.x, g);
			ERR(release(&s.a, h), ENXIO);
		}
		scene_close(&s);
	}
}

TEST("OBJ-5 a move that stalls while it is sent has not happened yet")
{
	for (int what = 0; what < 4; what++) {
		struct tar t = tar_new();
		struct scene s = scene_new();
		u64 n = node_new(&s.x, 3), h = grant(&s.x, n, &s.a);
		struct bus1_pass pass = { .id = h, .flags = BUS1_PASS_MOVE };
		struct stalled st = { .cmd = BUS1_CMD_SEND, .arg.send = {
			.dest = what & 1 ? 0 : s.a_to[0], .dests = what & 1 ? PTR(s.a_to) : 0,
			.n_dests = what & 1 ? 2 : 0, .data = PTR(t.mem) + page_size() - 10,
			.len = 5000, .handles = PTR(&pass), .n_handles = 1 } };

		stall_start(&st, &s.a, &t);
		OK(send_str(&s.a, h, "still mine"));
		GOT_TEXT(&s.x, n, "still mine");
		/* What is given away meanwhile can not be moved any more. */
		if (what & 2)
			OK(release(&s.a, h));
		tar_melt(&t);
		test_join(&st.thread);
		ERR(st.r, what & 2 ? ENXIO : 0);
		ERR(release(&s.a, h), ENXIO);
		EQ(peer_info(&s.b).n_queued, !(what & 2));
		EQ(peer_info(&s.c).n_queued, what == 1);
		EQ(peer_info(&s.b).n_handles, !(what & 2));
		peer_close(&s.a);
		peer_close(&s.b);
		peer_close(&s.c);
		GOT_NOTICES(&s.x, { BUS1_MSG_NODE_DEAD, s.x_to[0] },
			    { BUS1_MSG_NODE_DEAD, s.x_to[1] }, { BUS1_MSG_NODE_UNUSED, n });
		peer_close(&s.x);
	}
}

TEST("MSG-6 a receiver is killed while it stalls, and the descriptors stay in the message")
{
	for (int what = 0; what < 2; what++) {
		struct scene s = scene_new();
		int fds[2];
		struct in in;
		pid_t pid;

		OK(SYS(pipe2(fds, O_CLOEXEC)));
		OK(send_fds(&s.x, s.x_to[0], (s32[]){ fds[1], fds[1] }, 2));
		close_fd(fds[1]);
		pid = test_fork();
		if (!pid) {
			struct tar t = tar_new();
			u64 at = PTR(t.mem) + page_size();
			struct bus1_msg m;
			u64 buf[8];
			struct bus1_cmd_recv cmd = {
				.flags = BUS1_RECV_FDS, .n_msgs = 1, .msg_size = sizeof(m),
				.msgs = what ? at : PTR(&m), .buf = what ? PTR(buf) : at,
				.buf_size = sizeof(buf) };

			recv_cmd(&s.b, &cmd);
			FAIL("it did not stall");
		}
		test_asleep(pid, pid);
		OK(send_str(&s.x, s.x_to[0], "next"));
		test_kill(pid);
		OK(recv_with(&s.b, &in, BUS1_RECV_FDS));
		EQ(in.m.n_fds, 2);
		for (int i = 0; i < 2; i++) {
			GE(in.fds[i], 0);
			EQ(write(in.fds[i], "x", 1), 1);
			EQ(read(fds[0], &(char){ 0 }, 1), 1);
			close_fd(in.fds[i]);
		}
		EQ(read(fds[0], &(char){ 0 }, 1), 0);
		close_fd(fds[0]);
		GOT_TEXT(&s.b, s.nb, "next");
		scene_close(&s);
	}
}

TEST("ORD-5 a sender that stalls in errors[] delays nobody")
{
	stalled_sender("errors", (struct bus1_cmd_send){}, true);
}

TEST("ORD-5 a receiver goes while a sender stalls")
{
	for (int how = 0; how < 4; how++) {
		struct tar t = tar_new();
		struct scene s = scene_new();
		struct stalled st = { .cmd = BUS1_CMD_SEND, .arg.send = {
			.dest = s.a_to[0], .data = PTR(t.mem) + page_size() - 10,
			.len = how & 1 ? 5000 : 20 } };

		stall_start(&st, &s.a, &t);
		if (how & 2)
			peer_close(&s.b);
		else
			OK(destroy(&s.b, s.nb));
		GOT_DEAD(&s.x, s.x_to[0]);
		CHECK(!__atomic_load_n(&st.thread.done, __ATOMIC_ACQUIRE));
		tar_melt(&t);
		test_join(&st.thread);
		ERR(st.r, EHOSTUNREACH);
		if (!(how & 2)) {
			EQ(peer_info(&s.b).n_slices, 0);
			EQ(peer_info(&s.b).pool_used, 0);
			peer_close(&s.b);
		}
		peer_close(&s.a);
		peer_close(&s.c);
		peer_close(&s.x);
	}
}

TEST("ORD-5 a sender is killed while it stalls, and leaves nothing")
{
	for (int multicast = 0; multicast < 2; multicast++) {
		struct scene s = scene_new();
		u64 n = node_new(&s.x, 1), h = grant(&s.x, n, &s.a);
		struct bus1_pass pass = { .id = h };
		struct bus1_cmd_send send = {
			.dest = multicast ? 0 : s.a_to[0],
			.dests = multicast ? PTR(s.a_to) : 0, .n_dests = multicast ? 2 : 0,
			.handles = PTR(&pass), .n_handles = 1,
		};
		pid_t pid = test_fork();

		if (!pid) {
			struct tar t = tar_new();

			send.data = PTR(t.mem);
			send.len = t.size;
			raw(&s.a, BUS1_CMD_SEND, &send);
			FAIL("it did not stall");
		}
		close(s.a.fd);
		test_asleep(pid, pid);
		business_as_usual(&s);
		NOTHING(&s.x);
		test_kill(pid);
		NOTHING(&s.b);
		NOTHING(&s.c);
		for (int i = 0; i < 2; i++) {
			EQ(peer_info(i ? &s.c : &s.b).n_slices, 0);
			EQ(peer_info(i ? &s.c : &s.b).n_handles, 0);
			EQ(peer_info(i ? &s.c : &s.b).pool_used, 0);
		}
		GOT_UNUSED(&s.x, n, 1);
		business_as_usual(&s);
		peer_close(&s.b);
		peer_close(&s.c);
		peer_close(&s.x);
	}
}

TEST("ORD-5 a receiver that stalls delays no sender, nor what it sent itself")
{
	for (int what = 0; what < 3; what++) {
		struct tar t = tar_new();
		struct scene s = scene_new();
		struct stalled st = { .cmd = BUS1_CMD_RECV };
		struct bus1_msg m;
		u64 buf[64], b_to_c = grant(&s.c, s.nc, &s.b), n, h;
		u64 at = PTR(t.mem) + page_size();
		u8 data[4000] = {};

		OK(send_str(&s.x, s.x_to[0], "what stalls"));
		st.arg.recv = (struct bus1_cmd_recv){
			.msgs = what == 0 ? at : PTR(&m),
			.n_msgs = 1, .msg_size = sizeof(m),
			.buf = what == 1 ? at : PTR(buf),
			.buf_size = sizeof(buf),
			.release = what == 2 ? at : 0, .n_release = what == 2,
		};
		stall_start(&st, &s.b, &t);
		for (int i = 0; i < 3; i++) {
			OK(send_str(&s.x, s.x_to[0], "small"));
			OK(send_data(&s.a, s.a_to[0], data, sizeof(data)));
			OK(send_many(&s.x, 0, s.x_to, 2, NULL, "multicast"));
			GOT_TEXT(&s.c, s.nc, "multicast");
			OK(send_str(&s.b, b_to_c, "from b"));
			GOT_TEXT(&s.c, s.nc, "from b");
			n = node_new(&s.b, 7);
			h = grant(&s.b, n, &s.x);
			OK(send_str(&s.x, h, "dropped"));
			OK(release(&s.x, h));
			OK(destroy(&s.b, n));
		}
		CHECK(!__atomic_load_n(&st.thread.done, __ATOMIC_ACQUIRE));
		tar_melt(&t);
		test_join(&st.thread);
		if (what == 2) {
			ERR(st.r, ENXIO);
			GOT_TEXT(&s.b, s.nb, "what stalls");
		} else {
			OK(st.r);
			EQ(st.arg.recv.n_msgs, 1);
		}
		for (int i = 0; i < 3; i++) {
			struct in in;

			GOT_TEXT(&s.b, s.nb, "small");
			OK(recv_now(&s.b, &in));
			EQ(in.m.len, sizeof(data));
			GOT_TEXT(&s.b, s.nb, "multicast");
		}
		NOTHING(&s.b);
		scene_close(&s);
	}
}

TEST("MSG-10 the node of a message goes while the message is received")
{
	/* Whichever was first: the message, or none; and nothing is left over. */
	for (int what = 0; what < 2; what++) {
		struct tar t = tar_new();
		struct scene s = scene_new();
		struct stalled st = { .cmd = BUS1_CMD_RECV };
		u64 at = PTR(t.mem) + page_size(), n = node_new(&s.x, 3), buf[64];
		struct bus1_pass pass = { .id = n };
		struct bus1_msg m;
		u8 data[4000] = {};

		OK(send_cmd(&s.x, &(struct bus1_cmd_send){
			.dest = s.x_to[0], .data = PTR(data), .len = sizeof(data),
			.handles = PTR(&pass), .n_handles = 1 }));
		st.arg.recv = (struct bus1_cmd_recv){
			.flags = BUS1_RECV_NONBLOCK,
			.msgs = what == 0 ? at : PTR(&m), .n_msgs = 1, .msg_size = sizeof(m),
			.buf = what == 1 ? at : PTR(buf), .buf_size = sizeof(buf),
		};
		stall_start(&st, &s.b, &t);
		OK(destroy(&s.b, s.nb));
		tar_melt(&t);
		test_join(&st.thread);
		if (st.r) {
			ERR(st.r, EAGAIN);
		} else {
			const struct bus1_msg *got = what == 0 ? (void *)(t.mem + page_size()) : &m;
			const u8 *out = what == 1 ? t.mem + page_size() : (u8 *)buf;
			struct bus1_handle h;

			EQ(got->n_handles, 1);
			memcpy(&h, out + got->handles, sizeof(h));
			OK(release(&s.b, h.id));
			OK(slice_release(&s.b, got->slice));
		}
		EQ(peer_info(&s.b).n_handles, 0);
		EQ(peer_info(&s.b).n_slices, 0);
		GOT_DEAD_AND_UNUSED(&s.x, s.x_to[0], n, 1);
		NOTHING(&s.x);
		NOTHING(&s.b);
		scene_close(&s);
	}
}

TEST("OBJ-13 a transfer that stalls delays nobody")
{
	for (int what = 0; what < 2; what++) {
		struct tar t = tar_new();
		struct scene s = scene_new();
		u64 at = PTR(t.mem) + page_size(), out[600], ids[600];
		u32 n_ids = 600;
		struct stalled st = { .cmd = BUS1_CMD_HANDLE_TRANSFER, .arg.transfer = {
			.ids = what == 0 ? at : PTR(ids), .out = what == 1 ? at : PTR(out),
			.n_ids = n_ids, .peer_fd = s.b.fd } };

		for (u32 i = 0; i < n_ids; i++)
			ids[i] = s.x_to[1];
		stall_start(&st, &s.x, &t);
		business_as_usual(&s);
		tar_melt(&t);
		test_join(&st.thread);
		if (what == 0)
			ERR(st.r, ENXIO);
		else
			OK(st.r);
		scene_close(&s);
	}
}

TEST("OBJ-13 a move that stalls at out[] has not happened yet")
{
	for (int ends = 0; ends < 2; ends++) {
		struct tar t = tar_new();
		struct scene s = scene_new();
		u64 *out = (u64 *)(t.mem + page_size()) - 1, h = s.x_to[1];
		u64 ids[] = { h, s.x_to[0] };
		struct stalled st = { .cmd = BUS1_CMD_HANDLE_TRANSFER, .arg.transfer = {
			.flags = BUS1_TRANSFER_MOVE, .ids = PTR(ids), .out = PTR(out),
			.n_ids = 2, .peer_fd = s.a.fd } };

		stall_start(&st, &s.x, &t);
		business_as_usual(&s);
		if (ends) {
			/* What is released meanwhile can not be moved any more. */
			OK(release(&s.x, h));
			ERR(release(&s.x, h), ENXIO);
		} else {
			NOTHING(&s.a);
		}
		tar_melt(&t);
		test_join(&st.thread);
		if (ends) {
			ERR(st.r, ENXIO);
			OK(send_str(&s.x, s.x_to[0], "it stays"));
			GOT_TEXT(&s.b, s.nb, "it stays");
		} else {
			OK(st.r);
			ERR(release(&s.x, s.x_to[0]), ENXIO);
			ERR(release(&s.x, h), ENXIO);
			EQ(out[0], s.a_to[1]);
			EQ(out[1], s.a_to[0]);
			OK(ids_cmd(&s.a, BUS1_CMD_HANDLE_RELEASE, 0,
				   (u64[]){ out[0], out[0], out[1], out[1] }, 4));
			GOT_UNUSED(&s.b, s.nb, 1);
		}
		scene_close(&s);
	}
}
