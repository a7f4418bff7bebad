// SPDX-License-Identifier: GPL-2.0-or-later
/* RES-4: who finds no room at a receiver can be told when there is some: by a notice, or by poll. */
#include "room.h"

#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <unistd.h>

static struct scene scene_new(void)
{
	struct scene s = { .a = peer_new(0), .b = peer_new(page_size()) };

	s.node = node_new(&s.b, 1);
	s.to_b = grant(&s.b, s.node, &s.a);
	return s;
}

int send_flags(const struct peer *p, u64 dest, u64 flags, u64 deadline)
{
	return send_cmd(p, &(struct bus1_cmd_send){
		.flags = flags, .dest = dest, .data = PTR(data), .len = LEN,
		.deadline = deadline });
}

static int send_notify(const struct peer *p, u64 dest)
{
	return send_flags(p, dest, BUS1_SEND_NOTIFY, 0);
}

/* As much as it may have there. */
static u32 fill_up(const struct peer *p, u64 dest)
{
	u32 n = 0;
	int r;

	while (!(r = send_data(p, dest, data, LEN)))
		LT(n++, 1000);
	ERR(r, EAGAIN);
	return n;
}

struct scene scene_full(void)
{
	struct scene s = scene_new();

	EQ(page_size(), 4096);
	EQ(fill_up(&s.a, s.to_b), MOST);
	return s;
}

bool take(const struct peer *p)
{
	struct in in;
	int r = recv_now(p, &in);

	if (r) {
		ERR(r, EAGAIN);
		return false;
	}
	EQ(in.m.type, BUS1_MSG_DATA);
	EQ(in.m.len, LEN);
	OK(slice_release(p, in.m.slice));
	return true;
}

#define GOT_WRITABLE(p, handle)						\
	got_notice(__FILE__, __LINE__, p, BUS1_MSG_WRITABLE, handle, 0, false)

/*
 * The death of a handle that waited, which may first be told to try again: it
 * finds out then.
 */
static void got_end(const struct peer *p, u64 handle)
{
	struct in in;

	OK(recv_now(p, &in));
	if (in.m.type == BUS1_MSG_WRITABLE) {
		EQ(in.m.id, handle);
		OK(recv_now(p, &in));
	}
	EQ(in.m.type, BUS1_MSG_NODE_DEAD);
	EQ(in.m.id, handle);
}

bool writable(const struct peer *p)
{
	u32 events = poll_now(p);

	EQ(!!(events & POLLOUT), !!(events & POLLWRNORM));
	return events & POLLOUT;
}

TEST("RES-4 who finds no room has one notice when there is some")
{
	struct scene s = scene_full();

	for (int round = 0; round < 3; round++) {
		CHECK(writable(&s.a));
		ERR(send_notify(&s.a, s.to_b), EAGAIN);
		CHECK(!writable(&s.a));
		/* It waits already: that is no second one. */
		ERR(send_notify(&s.a, s.to_b), EAGAIN);
		ERR(send_data(&s.a, s.to_b, data, LEN), EAGAIN);
		CHECK(!writable(&s.a));
		CHECK(!readable(&s.a));
		NOTHING(&s.a);
		CHECK(take(&s.b));
		CHECK(readable(&s.a));
		CHECK(writable(&s.a));
		GOT_WRITABLE(&s.a, s.to_b);
		NOTHING(&s.a);
		CHECK(!readable(&s.a));
		OK(send_notify(&s.a, s.to_b));
		ERR(send_data(&s.a, s.to_b, data, LEN), EAGAIN);
		NOTHING(&s.a);
	}
	/* Who did not ask is not told. */
	CHECK(take(&s.b));
	NOTHING(&s.a);
}

TEST("RES-4 without a notice when there is room, for a node of one's own, or for another error")
{
	struct scene s = scene_new();
	u64 own;

	OK(send_notify(&s.a, s.to_b));
	CHECK(take(&s.b));
	NOTHING(&s.a);
	own = s.node;
	EQ(fill_up(&s.b, own), MOST);
	ERR(send_notify(&s.b, own), EAGAIN);
	CHECK(writable(&s.b));
	for (int i = 0; i < MOST; i++)
		CHECK(take(&s.b));
	NOTHING(&s.b);
	ERR(send_cmd(&s.a, &(struct bus1_cmd_send){
		.flags = BUS1_SEND_NOTIFY, .dest = s.to_b, .data = PTR(data), .len = 1 << 20 }),
	    EMSGSIZE);
	ERR(send_notify(&s.a, 12345), ENXIO);
	ERR(send_cmd(&s.a, &(struct bus1_cmd_send){
		.flags = BUS1_SEND_NOTIFY, .dest = s.to_b, .data = 8, .len = LEN }), EFAULT);
	CHECK(writable(&s.a));
	NOTHING(&s.a);
}

TEST_LONG("RES-4 a queue that is full of nothing but messages gives the same notice", 60)
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&b, 1), h = grant(&b, n, &a);

	EQ(fill_queue(&a, h), (1 << 16) / 8 * 3);
	ERR(send_cmd(&a, &(struct bus1_cmd_send){ .flags = BUS1_SEND_NOTIFY, .dest = h }), EAGAIN);
	CHECK(!writable(&a));
	GOT_TEXT(&b, n, "");
	GOT_WRITABLE(&a, h);
	CHECK(writable(&a));
	OK(send_cmd(&a, &(struct bus1_cmd_send){ .flags = BUS1_SEND_NOTIFY, .dest = h }));
	ERR(send_str(&a, h, ""), EAGAIN);
	/* It goes with its node. */
	ERR(send_cmd(&a, &(struct bus1_cmd_send){ .flags = BUS1_SEND_NOTIFY, .dest = h }), EAGAIN);
	OK(destroy(&b, n));
	CHECK(writable(&a));
	got_end(&a, h);
	NOTHING(&a);
}

TEST("RES-4 a notice of room comes first, and by itself, and no peek shows it")
{
	struct scene s = scene_full();
	u64 own = node_new(&s.a, 7);
	struct bus1_msg m[4];
	u64 buf[32];
	struct bus1_cmd_recv cmd = {
		.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(m), .n_msgs = 4,
		.msg_size = sizeof(m[0]), .buf = PTR(buf), .buf_size = sizeof(buf) };
	struct bus1_cmd_recv again = cmd;
	struct in in;

	OK(send_str(&s.a, own, "1"));
	OK(send_str(&s.a, own, "2"));
	ERR(send_notify(&s.a, s.to_b), EAGAIN);
	CHECK(take(&s.b));
	OK(peek(&s.a, 0, &in));
	EQ(in.m.type, BUS1_MSG_DATA);
	ERR(peek(&s.a, 2, &in), EAGAIN);
	OK(recv_cmd(&s.a, &cmd));
	EQ(cmd.n_msgs, 1);
	EQ(cmd.buf_used, 0);
	EQ(m[0].type, BUS1_MSG_WRITABLE);
	EQ(m[0].id, s.to_b);
	EQ(m[0].slice | m[0].len | m[0].n_handles | m[0].n_fds | m[0].cookie | m[0].badge, 0);
	OK(recv_cmd(&s.a, &again));
	EQ(again.n_msgs, 2);
	EQ(m[0].type, BUS1_MSG_DATA);
	NOTHING(&s.a);
}

TEST("RES-4 a notice of room survives a receive that faults")
{
	struct scene s = scene_full();
	struct bus1_msg m[2];
	u64 buf[8], bad[] = { 8, PTR(read_only(m, sizeof(m))) };

	ERR(send_notify(&s.a, s.to_b), EAGAIN);
	CHECK(take(&s.b));
	for (u32 n = 1; n <= 2; n++)
		for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
			struct bus1_cmd_recv cmd = {
				.flags = BUS1_RECV_NONBLOCK, .msgs = bad[i], .n_msgs = n,
				.msg_size = sizeof(m[0]), .buf = PTR(buf), .buf_size = sizeof(buf) };

			ERR(recv_cmd(&s.a, &cmd), EFAULT);
			CHECK(readable(&s.a));
		}
	GOT_WRITABLE(&s.a, s.to_b);
	NOTHING(&s.a);
}

/* A thread that receives once in each round. */
struct taker {
	struct test_thread thread;
	const struct peer *p;
	u32 round, done;
	int r;
};

static void take_in_rounds(void *arg)
{
	struct taker *t = arg;
	u32 round = 0;
	struct in in;

	for (;;) {
		u32 now;

		while ((now = __atomic_load_n(&t->round, __ATOMIC_ACQUIRE)) == round)
			sched_yield();
		if (now == UINT32_MAX)
			return;
		round = now;
		t->r = recv_now(t->p, &in);
		__atomic_store_n(&t->done, round, __ATOMIC_RELEASE);
	}
}

TEST("RES-4 MSG-11 of two receivers one gets the notice and the other the message behind it")
{
	struct scene s = scene_full();
	u64 own = node_new(&s.a, 7);
	struct taker t[2] = { { .p = &s.a }, { .p = &s.a } };

	for (int i = 0; i < 2; i++)
		test_start(&t[i].thread, take_in_rounds, &t[i]);
	for (u32 round = 1; round <= 2000; round++) {
		ERR(send_notify(&s.a, s.to_b), EAGAIN);
		CHECK(take(&s.b));
		OK(send_data(&s.a, own, data, 1));
		for (int i = 0; i < 2; i++)
			__atomic_store_n(&t[i].round, round, __ATOMIC_RELEASE);
		for (int i = 0; i < 2; i++) {
			while (__atomic_load_n(&t[i].done, __ATOMIC_ACQUIRE) != round)
				sched_yield();
			OK(t[i].r);
		}
		OK(send_data(&s.a, s.to_b, data, LEN));
	}
	for (int i = 0; i < 2; i++) {
		__atomic_store_n(&t[i].round, UINT32_MAX, __ATOMIC_RELEASE);
		test_join(&t[i].thread);
	}
}

TEST("RES-4 a handle that is released waits no more, and is told nothing")
{
	struct scene s = scene_full();

	/* Before there is room, and after. */
	for (int after = 0; after < 2; after++) {
		ERR(send_notify(&s.a, s.to_b), EAGAIN);
		if (after) {
			CHECK(take(&s.b));
			CHECK(readable(&s.a));
		} else {
			CHECK(!writable(&s.a));
		}
		OK(release(&s.a, s.to_b));
		CHECK(writable(&s.a));
		CHECK(!readable(&s.a));
		NOTHING(&s.a);
		for (int i = after; i < MOST; i++)
			CHECK(take(&s.b));
		GOT_UNUSED(&s.b, s.node, (u64)after + 1);
		NOTHING(&s.b);
		NOTHING(&s.a);
		s.to_b = grant(&s.b, s.node, &s.a);
		EQ(fill_up(&s.a, s.to_b), MOST);
	}
}

TEST("RES-4 the end of the node, of its owner and of the sender ends a wait for a notice")
{
	for (int how = 0; how < 4; how++) {
		struct scene s = scene_full();
		u64 other = node_new(&s.b, 2), to_other = grant(&s.b, other, &s.a);

		ERR(send_notify(&s.a, s.to_b), EAGAIN);
		ERR(send_notify(&s.a, to_other), EAGAIN);
		CHECK(!writable(&s.a));
		if (how == 0) {
			/* What was in the queue goes with it, so that the other has room. */
			struct in in;

			OK(destroy(&s.b, s.node));
			OK(recv_now(&s.a, &in));
			if (in.m.id == s.to_b) {
				EQ(in.m.type, BUS1_MSG_WRITABLE);
				GOT_WRITABLE(&s.a, to_other);
			} else {
				EQ(in.m.type, BUS1_MSG_WRITABLE);
				EQ(in.m.id, to_other);
			}
			got_end(&s.a, s.to_b);
			CHECK(writable(&s.a));
			ERR(send_notify(&s.a, s.to_b), EHOSTUNREACH);
			OK(send_notify(&s.a, to_other));
		} else if (how == 1) {
			u64 dead[2], n = 0;
			struct in in;

			peer_close(&s.b);
			while (!recv_now(&s.a, &in)) {
				CHECK(in.m.id == s.to_b || in.m.id == to_other);
				if (in.m.type == BUS1_MSG_WRITABLE)
					continue;
				EQ(in.m.type, BUS1_MSG_NODE_DEAD);
				LT(n, 2);
				dead[n++] = in.m.id;
			}
			EQ(n, 2);
			NE(dead[0], dead[1]);
			CHECK(writable(&s.a));
			ERR(send_notify(&s.a, s.to_b), EHOSTUNREACH);
		} else if (how == 2) {
			peer_close(&s.a);
			for (int i = 0; i < MOST; i++)
				CHECK(take(&s.b));
			GOT_NOTICES(&s.b, { BUS1_MSG_NODE_UNUSED, s.node },
				    { BUS1_MSG_NODE_UNUSED, other });
			continue;
		} else {
			/* Told, and not received. */
			CHECK(take(&s.b));
			CHECK(readable(&s.a));
			peer_close(&s.b);
			peer_close(&s.a);
			continue;
		}
		NOTHING(&s.a);
		peer_close(&s.a);
		if (how != 1)
			peer_close(&s.b);
	}
}

TEST("RES-4 CALL-1 a call that finds no room, and wants to know, is told when there is some")
{
	for (int waits = 0; waits < 2; waits++) {
		struct scene s = scene_full();
		struct bus1_cmd_call cmd = {
			.send = { .flags = BUS1_SEND_NOTIFY, .dest = s.to_b, .data = PTR(data), .len = LEN },
			.flags = waits ? 0 : BUS1_CALL_ASYNC };
		struct in in;

		if (waits)
			cmd.recv = recv_into(&in, 0, 0);
		ERR(raw(&s.a, BUS1_CMD_CALL, &cmd), EAGAIN);
		CHECK(!writable(&s.a));
		NOTHING(&s.a);
		CHECK(take(&s.b));
		GOT_WRITABLE(&s.a, s.to_b);
		CHECK(writable(&s.a));
		/* The caller's own pool is not told of: it has none here. */
		cmd.reply_size = 4096;
		ERR(raw(&s.a, BUS1_CMD_CALL, &cmd), EMSGSIZE);
		cmd.reply_size = 0;
		if (!waits) {
			OK(raw(&s.a, BUS1_CMD_CALL, &cmd));
			EQ(peer_info(&s.b).n_queued, MOST);
		}
		NOTHING(&s.a);
		peer_close(&s.a);
		peer_close(&s.b);
	}
}

TEST("RES-4 writable is a peer of which no handle waits, at however many receivers")
{
	enum { N = 5 };
	struct peer a = peer_new(0), b[N];
	u64 to[N];

	for (int i = 0; i < N; i++) {
		b[i] = peer_new(page_size());
		to[i] = grant(&b[i], node_new(&b[i], 1), &a);
		fill_up(&a, to[i]);
		ERR(send_notify(&a, to[i]), EAGAIN);
	}
	for (int i = 0; i < N; i++) {
		CHECK(!writable(&a));
		CHECK(take(&b[i]));
		GOT_WRITABLE(&a, to[i]);
	}
	CHECK(writable(&a));
	NOTHING(&a);
}

TEST("RES-4 MSG-2 a multicast has a notice for each destination that had no room")
{
	enum { N = 4 };

	for (int partial = 0; partial < 2; partial++) {
		struct peer a = peer_new(0), b[N];
		u64 to[N], node[N];
		s32 errors[N];

		for (int i = 0; i < N; i++) {
			b[i] = peer_new(page_size());
			node[i] = node_new(&b[i], 1);
			to[i] = grant(&b[i], node[i], &a);
			if (i % 2)
				fill_up(&a, to[i]);
		}
		struct bus1_cmd_send cmd = {
			.flags = BUS1_SEND_NOTIFY | (partial ? BUS1_SEND_PARTIAL : 0),
			.dests = PTR(to), .n_dests = N, .errors = PTR(errors),
			.data = PTR(data), .len = LEN };
		if (partial)
			OK(send_cmd(&a, &cmd));
		else
			ERR(send_cmd(&a, &cmd), EAGAIN);
		for (int i = 0; i < N; i++) {
			EQ(errors[i], i % 2 ? -EAGAIN : 0);
			EQ(peer_info(&b[i]).n_queued, i % 2 ? MOST : partial);
		}
		CHECK(!writable(&a));
		CHECK(take(&b[3]));
		GOT_WRITABLE(&a, to[3]);
		CHECK(!writable(&a));
		NOTHING(&a);
		CHECK(take(&b[1]));
		GOT_WRITABLE(&a, to[1]);
		CHECK(writable(&a));
		NOTHING(&a);
		cmd.flags &= ~BUS1_SEND_PARTIAL;
		OK(send_cmd(&a, &cmd));
		peer_close(&a);
		for (int i = 0; i < N; i++)
			peer_close(&b[i]);
	}
}

static u32 events(int fd)
{
	struct epoll_event ev = {};

	return OK(SYS(epoll_wait(fd, &ev, 1, 0))) ? ev.events : 0;
}

TEST("RES-4 MSG-12 epoll is told of room, level and edge")
{
	struct scene s = scene_full();
	int level = (int)OK(SYS(epoll_create1(EPOLL_CLOEXEC)));
	int edge = (int)OK(SYS(epoll_create1(EPOLL_CLOEXEC)));
	struct epoll_event ev = { .events = EPOLLOUT }, ev_edge = { .events = EPOLLOUT | EPOLLET };

	OK(SYS(epoll_ctl(level, EPOLL_CTL_ADD, s.a.fd, &ev)));
	OK(SYS(epoll_ctl(edge, EPOLL_CTL_ADD, s.a.fd, &ev_edge)));
	EQ(events(edge), EPOLLOUT);
	EQ(events(edge), 0);
	for (int round = 0; round < 3; round++) {
		EQ(events(level), EPOLLOUT);
		EQ(events(level), EPOLLOUT);
		ERR(send_notify(&s.a, s.to_b), EAGAIN);
		EQ(events(level), 0);
		EQ(events(edge), 0);
		CHECK(take(&s.b));
		EQ(events(level), EPOLLOUT);
		EQ(events(edge), EPOLLOUT);
		EQ(events(edge), 0);
		GOT_WRITABLE(&s.a, s.to_b);
		EQ(fill_up(&s.a, s.to_b), 1);
		events(edge);
	}
	close(level);
	close(edge);
}
