// SPDX-License-Identifier: GPL-2.0-or-later
/* MSG-9: who asks for it receives by priority, and first come, first served within one. */
#include "raw.h"

#include <string.h>

static int send_at(const struct peer *p, u64 dest, u32 priority, u64 value)
{
	struct bus1_cmd_send cmd = { .dest = dest, .priority = priority, .data = PTR(&value),
				     .len = sizeof(value) };

	return send_cmd(p, &cmd);
}

static void got_value(const struct peer *p, u32 priority, u64 value)
{
	struct in in;

	OK(recv_now(p, &in));
	EQ(in.m.type, BUS1_MSG_DATA);
	EQ(in.m.len, sizeof(value));
	MEM(in.data, &value, sizeof(value));
	EQ(in.m.priority, priority);
}

TEST("MSG-9 without asking for it priority changes nothing")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), to_a = grant(&a, n, &b);
	struct in in;

	for (u64 i = 0; i <= BUS1_MAX_PRIORITY; i++)
		OK(send_at(&b, to_a, (u32)(i * 7 % 32), i));
	for (u64 i = 0; i <= BUS1_MAX_PRIORITY; i++) {
		OK(recv_now(&a, &in));
		MEM(in.data, &i, sizeof(i));
	}
	NOTHING(&a);
}

TEST("MSG-9 higher ones come first, and in order among themselves")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), m = node_new(&a, 2);
	u64 to[] = { grant(&a, n, &b), grant(&a, m, &b) };

	OK(setup(&a, BUS1_PEER_PRIORITY));
	for (u64 i = 0; i < 128; i++)
		OK(send_at(&b, to[i % 2], (u32)(i * 13 % 32), i));
	for (u32 priority = BUS1_MAX_PRIORITY; priority <= BUS1_MAX_PRIORITY; priority--)
		for (u64 i = 0; i < 128; i++)
			if (i * 13 % 32 == priority)
				got_value(&a, priority, i);
	NOTHING(&a);
	/* One that comes later overtakes, while others wait. */
	OK(send_at(&b, to[0], 1, 10));
	OK(send_at(&b, to[0], 1, 11));
	got_value(&a, 1, 10);
	OK(send_at(&b, to[0], 2, 12));
	OK(send_at(&b, to[0], 0, 13));
	got_value(&a, 2, 12);
	got_value(&a, 1, 11);
	OK(send_at(&b, to[0], 31, 14));
	got_value(&a, 31, 14);
	got_value(&a, 0, 13);
	NOTHING(&a);
}

TEST("MSG-9 several in one call, and peeks, have the same order")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), to_a = grant(&a, n, &b), buf[64];
	static const u32 priorities[] = { 3, 0, 31, 3, 7, 0, 31, 8 };
	static const u64 order[] = { 2, 6, 7, 4, 0, 3, 1, 5 };
	struct bus1_msg m[8];
	struct bus1_cmd_recv cmd = {
		.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(m), .n_msgs = 8, .msg_size = sizeof(m[0]),
		.buf = PTR(buf), .buf_size = sizeof(buf) };
	struct in in;

	OK(setup(&a, BUS1_PEER_PRIORITY));
	for (u64 i = 0; i < 8; i++)
		OK(send_at(&b, to_a, priorities[i], i));
	for (u32 i = 0; i < 8; i++) {
		OK(peek(&a, i, &in));
		MEM(in.data, &order[i], sizeof(order[i]));
		EQ(in.m.priority, priorities[order[i]]);
	}
	ERR(peek(&a, 8, &in), EAGAIN);
	OK(recv_cmd(&a, &cmd));
	EQ(cmd.n_msgs, 8);
	for (int i = 0; i < 8; i++)
		MEM((u8 *)buf + m[i].offset, &order[i], sizeof(order[i]));
}

TEST("MSG-9 notices have the lowest, and their place among those")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), u = node_new(&a, 2), to_a = grant(&a, n, &b), nb = node_new(&b, 3);
	u64 dies = grant(&b, nb, &a), hu = grant(&a, u, &b);

	OK(setup(&a, BUS1_PEER_PRIORITY));
	OK(send_at(&b, to_a, 0, 1));
	OK(destroy(&b, nb));
	OK(send_at(&b, to_a, 0, 2));
	OK(release(&b, hu));
	OK(send_at(&b, to_a, 1, 3));
	OK(send_at(&b, to_a, 0, 4));
	got_value(&a, 1, 3);
	got_value(&a, 0, 1);
	GOT_DEAD(&a, dies);
	got_value(&a, 0, 2);
	GOT_UNUSED(&a, u, 1);
	got_value(&a, 0, 4);
	NOTHING(&a);
}

TEST("MSG-9 a death comes after its handle, however low that is")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), to_a = grant(&a, n, &b), nc = node_new(&c, 2);
	u64 h = grant(&c, nc, &b);
	struct bus1_pass pass = { .id = h };
	struct bus1_cmd_send cmd = { .dest = to_a, .priority = 0, .handles = PTR(&pass),
				     .n_handles = 1 };
	struct in in;
	u64 id;

	OK(setup(&a, BUS1_PEER_PRIORITY));
	OK(send_at(&b, to_a, 0, 1));
	OK(send_cmd(&b, &cmd));
	OK(destroy(&c, nc));
	OK(send_at(&b, to_a, 9, 2));
	cmd.priority = 5;
	OK(send_cmd(&b, &cmd));
	got_value(&a, 9, 2);
	/* It comes twice; the later one is received first. */
	OK(recv_now(&a, &in));
	EQ(in.m.priority, 5);
	id = in.h[0].id;
	got_value(&a, 0, 1);
	for (int notice = 0, handle = 0; notice + handle < 2; ) {
		OK(recv_now(&a, &in));
		if (in.m.type == BUS1_MSG_NODE_DEAD) {
			EQ(in.m.id, id);
			notice++;
		} else {
			EQ(in.h[0].id, id);
			handle++;
		}
		LE(notice, 1);
		LE(handle, 1);
	}
	NOTHING(&a);
}

TEST("MSG-9 it can be turned on and off, and counts from then on")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), to_a = grant(&a, n, &b);
	bool seen[4] = {};
	struct in in;

	/* What was sent before has the lowest. */
	OK(send_at(&b, to_a, 31, 1));
	OK(send_at(&b, to_a, 5, 2));
	OK(setup(&a, BUS1_PEER_PRIORITY));
	OK(send_at(&b, to_a, 0, 3));
	OK(send_at(&b, to_a, 1, 4));
	got_value(&a, 1, 4);
	for (u64 i = 1; i <= 3; i++) {
		OK(recv_now(&a, &in));
		MEM(in.data, &i, sizeof(i));
	}
	/* Off again nothing is lost of what waits. */
	OK(send_at(&b, to_a, 7, 0));
	OK(send_at(&b, to_a, 9, 1));
	OK(setup(&a, 0));
	OK(send_at(&b, to_a, 31, 2));
	OK(send_at(&b, to_a, 0, 3));
	for (int i = 0; i < 4; i++) {
		u64 value;

		OK(recv_now(&a, &in));
		memcpy(&value, in.data, sizeof(value));
		LT(value, 4);
		CHECK(!seen[value]);
		seen[value] = true;
		if (value == 3)
			CHECK(seen[2]);
	}
	NOTHING(&a);
	/* For this peer alone. */
	OK(send_at(&a, n, 0, 1));
	OK(send_at(&a, n, 1, 2));
	got_value(&a, 0, 1);
}

TEST("MSG-9 a multicast is at the place that each receiver gives it")
{
	struct peer a = peer_new(0), b = peer_new(0), s = peer_new(0);
	u64 na = node_new(&a, 1), nb = node_new(&b, 2), value = 7;
	u64 dests[] = { grant(&a, na, &s), grant(&b, nb, &s) };
	struct bus1_cmd_send cmd = { .dests = PTR(dests), .n_dests = 2, .priority = 3,
				     .data = PTR(&value), .len = sizeof(value) };
	struct in in;

	OK(setup(&a, BUS1_PEER_PRIORITY));
	OK(send_at(&s, dests[0], 2, 1));
	OK(send_at(&s, dests[1], 2, 1));
	OK(send_cmd(&s, &cmd));
	cmd.priority = BUS1_MAX_PRIORITY;
	cmd.flags = BUS1_SEND_ORDERED;
	value = 8;
	OK(send_cmd(&s, &cmd));
	got_value(&a, 31, 8);
	got_value(&a, 3, 7);
	got_value(&a, 2, 1);
	for (u64 i = 0; i < 3; i++) {
		static const u64 order[] = { 1, 7, 8 };

		OK(recv_now(&b, &in));
		MEM(in.data, &order[i], sizeof(order[i]));
	}
}

TEST("MSG-9 what SETUP and priorities may not be")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	struct snapshot w = SNAPSHOT(&a);

	for (int i = 1; i < 64; i++)
		ERR(setup(&a, 1ULL << i), EINVAL);
	ERR(setup(&a, BUS1_PEER_PRIORITY | 2), EINVAL);
	/* None of these turned it on. */
	OK(send_at(&a, n, 0, 1));
	OK(send_at(&a, n, 1, 2));
	got_value(&a, 0, 1);
	drain(&a);
	ERR(send_at(&a, n, BUS1_MAX_PRIORITY + 1, 1), EINVAL);
	ERR(send_at(&a, n, 1u << 31, 1), EINVAL);
	ERR(send_at(&a, n, UINT32_MAX, 1), EINVAL);
	SAME_SNAPSHOT(&w);
}

struct flood {
	struct peer a, b[3];
	u64 to_a[3];
	unsigned int rounds;
	u32 next;
};

static void send_flood(void *arg)
{
	struct flood *t = arg;
	u32 me = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED);

	for (u64 i = 0; i < t->rounds; i++)
		while (send_at(&t->b[me], t->to_a[me], (u32)(i % 3) * 10, (u64)me << 32 | i))
			test_sleep_ms(1);
}

TEST("MSG-9 the messages of one sender and one priority stay in order")
{
	struct flood t = { .a = peer_new(0), .rounds = test_rounds(3000) };
	u64 n = node_new(&t.a, 1), last[3][3] = {};
	struct test_thread threads[3];

	OK(setup(&t.a, BUS1_PEER_PRIORITY));
	for (int i = 0; i < 3; i++) {
		t.b[i] = peer_new(0);
		t.to_a[i] = grant(&t.a, n, &t.b[i]);
		test_start(&threads[i], send_flood, &t);
	}
	for (u64 i = 0; i < 3 * t.rounds; i++) {
		struct in in;
		u64 v;

		OK(recv_wait(&t.a, &in));
		memcpy(&v, in.data, sizeof(v));
		LE(last[v >> 32][in.m.priority / 10], (u32)v);
		last[v >> 32][in.m.priority / 10] = (u32)v + 1;
		EQ((u32)v % 3, in.m.priority / 10);
	}
	for (int i = 0; i < 3; i++)
		test_join(&threads[i]);
	NOTHING(&t.a);
}
