// SPDX-License-Identifier: GPL-2.0-or-later
/* MSG-8: to peek shows what would be received, and changes nothing. */
#include "raw.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* What a peek showed is what is received then. */
static void same_message(const struct in *seen, const struct in *got)
{
	EQ(seen->m.type, got->m.type);
	EQ(seen->m.id, got->m.id);
	EQ(seen->m.cookie, got->m.cookie);
	EQ(seen->m.len, got->m.len);
	EQ(seen->m.badge, got->m.badge);
	EQ(seen->m.seq, got->m.seq);
	EQ(seen->m.priority, got->m.priority);
	EQ(seen->m.n_handles ? seen->m.n_handles : got->m.n_handles, got->m.n_handles);
	EQ(seen->m.n_fds ? seen->m.n_fds : got->m.n_fds, got->m.n_fds);
	if (!got->m.slice)
		MEM(seen->data, got->data, got->m.len);
}

TEST("MSG-8 a peek shows each message that waits, in their order")
{
	struct peer a = peer_new(1 << 20), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 0xa), m = node_new(&a, 0xb), f = facet_new(&a, n, 9);
	u64 to[] = { grant(&a, n, &b), grant(&a, m, &b), grant(&a, f, &b) };
	u64 unused = node_new(&a, 0xc), along = grant(&c, node_new(&c, 1), &b);
	static u8 data[5000];
	static struct in seen[24], again, got;
	struct bus1_cmd_node stamped = { .flags = BUS1_NODE_CREDS };
	struct snapshot w;
	u32 count;

	fill(data, sizeof(data), 1);
	for (u32 i = 0; i < 16; i++) {
		struct bus1_pass pass = { .id = along };
		struct bus1_cmd_send cmd = { .dest = to[i % 3], .data = PTR(data),
					     .len = i % 4 == 3 ? sizeof(data) : i };

		if (!cmd.len)
			cmd.data = 0;
		if (i % 5 == 0 && i) {
			cmd.handles = PTR(&pass);
			cmd.n_handles = 1;
		}
		if (i == 7) {
			cmd.fds = PTR(&(s32){ 0 });
			cmd.n_fds = 1;
		}
		OK(send_cmd(&b, &cmd));
	}
	grant(&b, node_new(&b, 1), &a);
	OK(release(&b, grant(&a, unused, &b)));
	OK(node_create(&a, &stamped));
	OK(send_str(&a, stamped.id, "stamped"));
	peer_close(&b);			/* a notice of death; n, m and f are unused */
	count = peer_info(&a).n_queued;
	GE(count, 20);
	LE(count, ARRAY_SIZE(seen));

	w = SNAPSHOT(&a);
	for (int round = 0; round < 3; round++)
		for (u32 i = 0; i < count; i++) {
			u32 at = round == 1 ? count - 1 - i : i;

			OK(peek(&a, at, round ? &again : &seen[at]));
			if (round)
				same_message(&again, &seen[at]);
		}
	ERR(peek(&a, count, &again), EAGAIN);
	ERR(peek(&a, count + 1, &again), EAGAIN);
	ERR(peek(&a, UINT32_MAX, &again), EAGAIN);
	SAME_SNAPSHOT(&w);
	for (u32 i = 0; i < count; i++) {
		OK(recv_now(&a, &got));
		EQ(got.m.flags & BUS1_MSG_F_PEEKED, 0);
		same_message(&seen[i], &got);
		if (i + 1 < count) {
			OK(peek(&a, 0, &again));
			same_message(&again, &seen[i + 1]);
		}
	}
	NOTHING(&a);
	ERR(peek(&a, 0, &again), EAGAIN);
}

TEST("MSG-8 what a message brings stays with it")
{
	struct peer a = peer_new(1 << 20), b = peer_new(0);
	u64 n = node_new(&a, 1), to_a = grant(&a, n, &b), nb = node_new(&b, 2);
	static u8 data[5000];
	struct bus1_pass pass = { .id = nb };
	struct bus1_cmd_send cmd = { .dest = to_a, .data = PTR(data), .len = sizeof(data),
				     .handles = PTR(&pass), .n_handles = 1 };
	int fds[2];
	struct in in;
	struct bus1_cmd_info info;

	OK(SYS(pipe2(fds, O_CLOEXEC)));
	cmd.fds = PTR(&fds[1]);
	cmd.n_fds = 1;
	OK(send_cmd(&b, &cmd));
	close_fd(fds[1]);
	info = peer_info(&a);
	for (int i = 0; i < 3; i++) {
		unsigned int before = open_fds();

		OK(peek(&a, 0, &in));
		EQ(in.m.type, BUS1_MSG_DATA);
		EQ(in.m.len, sizeof(data));
		EQ(open_fds(), before);
		SAME_INFO(&a, &info);
		if (in.m.slice)
			ERR(slice_release(&a, in.m.slice), ENXIO);
		SAME_INFO(&a, &info);
	}
	EQ(poll(&(struct pollfd){ .fd = fds[0] }, 1, 0), 0);
	ERR(destroy_unused(&b, nb), EBUSY);
	OK(recv_with(&a, &in, BUS1_RECV_FDS));
	EQ(in.m.n_handles, 1);
	EQ(in.m.n_fds, 1);
	MEM(in.data, data, sizeof(data));
	OK(slice_release(&a, in.m.slice));
	OK(release(&a, in.h[0].id));
	GOT_UNUSED(&b, nb, 1);
}

TEST("MSG-8 a message that does not fit is told, a fault is one, and it stays")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1), buf[8];
	struct bus1_msg m;
	struct bus1_cmd_recv good = {
		.flags = BUS1_RECV_PEEK, .msgs = PTR(&m), .n_msgs = 1, .msg_size = sizeof(m),
		.buf = PTR(buf), .buf_size = sizeof(buf) }, cmd;
	struct bus1_cmd_info info;

	OK(send_str(&a, n, "first"));
	OK(send_str(&a, n, "second"));
	info = peer_info(&a);
#define BAD(err, ...)								\
	do {									\
		cmd = good;							\
		__VA_ARGS__;							\
		ERR(recv_cmd(&a, &cmd), err);					\
		SAME_INFO(&a, &info);						\
	} while (0)
	for (u32 index = 0; index < 2; index++) {
		BAD(EMSGSIZE, cmd.index = index; cmd.buf = 0; cmd.buf_size = 0);
		GE(cmd.buf_used, index ? 6 : 5);
		LE(cmd.buf_used, 8);
		BAD(EFAULT, cmd.index = index; cmd.buf = 8);
		BAD(EFAULT, cmd.index = index; cmd.msgs = 8);
		BAD(EFAULT, cmd.index = index; cmd.buf = PTR(read_only(buf, sizeof(buf))));
	}
	BAD(EINVAL, cmd.n_msgs = 0);
	BAD(EINVAL, cmd.n_msgs = 2);
	BAD(EINVAL, cmd.flags |= BUS1_RECV_DROP);
	BAD(EINVAL, cmd.flags = BUS1_RECV_NONBLOCK; cmd.index = 1);
	BAD(EINVAL, cmd.flags = BUS1_RECV_DROP; cmd.index = 1);
	BAD(EAGAIN, cmd.index = 2);
#undef BAD
	cmd = good;
	cmd.index = 1;
	OK(recv_cmd(&a, &cmd));
	EQ(cmd.n_msgs, 1);
	MEM((u8 *)buf + m.offset, "second", 6);
	GOT_TEXT(&a, n, "first");
	GOT_TEXT(&a, n, "second");
}

TEST("MSG-8 a peek never waits, and takes no wake-up")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	int epoll = (int)OK(SYS(epoll_create1(EPOLL_CLOEXEC)));
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET };
	struct in in;

	/* The file blocks, and the call does not say NONBLOCK. */
	ERR(peek(&a, 0, &in), EAGAIN);
	OK(SYS(epoll_ctl(epoll, EPOLL_CTL_ADD, a.fd, &ev)));
	EQ(epoll_wait(epoll, &ev, 1, 0), 0);
	OK(send_str(&a, n, "x"));
	OK(peek(&a, 0, &in));
	EQ(epoll_wait(epoll, &ev, 1, 0), 1);
	/* Nor does it make one. */
	OK(peek(&a, 0, &in));
	EQ(epoll_wait(epoll, &ev, 1, 0), 0);
	CHECK(readable(&a));
	GOT_TEXT(&a, n, "x");
	CHECK(!readable(&a));
}

struct waiter {
	struct peer p;
	struct in in;
};

static void wait_for_one(void *arg)
{
	struct waiter *w = arg;

	OK(recv_wait(&w->p, &w->in));
}

TEST("MSG-8 who waits for a message gets it, however much others peek")
{
	struct waiter w = { .p = peer_new(0) };
	u64 n = node_new(&w.p, 1);

	for (unsigned int i = 0; i < test_rounds(300); i++) {
		struct test_thread thread;
		struct in in;

		test_start(&thread, wait_for_one, &w);
		if (i % 10 == 0)
			test_asleep(getpid(), thread.tid);
		peek(&w.p, 0, &in);
		OK(send_data(&w.p, n, &i, sizeof(i)));
		for (int j = 0; j < 3; j++) {
			int r = peek(&w.p, 0, &in);

			if (r)
				ERR(r, EAGAIN);
			else
				MEM(in.data, &i, sizeof(i));
		}
		test_join(&thread);
		MEM(w.in.data, &i, sizeof(i));
		ERR(peek(&w.p, 0, &in), EAGAIN);
	}
}

TEST("MSG-8 a notice that was peeked at is withdrawn like any other")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), dies = grant(&b, node_new(&b, 1), &a);
	struct in in;

	OK(release(&b, h));
	OK(peek(&a, 0, &in));
	EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
	h = grant(&a, n, &b);
	ERR(peek(&a, 0, &in), EAGAIN);
	NOTHING(&a);
	peer_close(&b);
	for (u32 i = 0; i < 2; i++)
		OK(peek(&a, i, &in));
	OK(release(&a, dies));
	ERR(peek(&a, 1, &in), EAGAIN);
	GOT_UNUSED(&a, n, 2);
	NOTHING(&a);
}

TEST("MSG-8 messages to a node that is destroyed are not seen, either")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1), m = node_new(&a, 2);
	struct in in;

	for (int i = 0; i < 4; i++)
		OK(send_str(&a, i % 2 ? m : n, "x"));
	OK(destroy(&a, n));
	for (u32 i = 0; i < 2; i++) {
		OK(peek(&a, i, &in));
		EQ(in.m.id, m);
	}
	ERR(peek(&a, 2, &in), EAGAIN);
}

struct churn {
	struct peer a, b;
	u64 n, to_a;
	bool stop;
};

static void send_and_drop(void *arg)
{
	struct churn *t = arg;
	static u8 data[500];

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		send_data(&t->b, t->to_a, data, sizeof(data));
		send_id(&t->b, t->to_a, t->to_a);
		drop_now(&t->a, &(struct bus1_msg){});
		drop_now(&t->a, &(struct bus1_msg){});
	}
}

TEST("MSG-8 peeks while messages come and go")
{
	struct churn t = { .a = peer_new(1 << 16), .b = peer_new(0) };
	struct test_thread thread;

	t.n = node_new(&t.a, 1);
	t.to_a = grant(&t.a, t.n, &t.b);
	test_start(&thread, send_and_drop, &t);
	for (u32 i = 0; i < test_rounds(5000); i++) {
		struct in in;
		int r = peek(&t.a, i % 3, &in);

		if (r) {
			ERR(r, EAGAIN);
			continue;
		}
		EQ(in.m.id, t.n);
		EQ(in.m.len, in.m.n_handles ? 0 : in.m.len);
	}
	__atomic_store_n(&t.stop, true, __ATOMIC_RELAXED);
	test_join(&thread);
	drain(&t.a);
	EQ(peer_info(&t.a).n_slices, 0);
}
