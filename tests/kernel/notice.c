// SPDX-License-Identifier: GPL-2.0-or-later
/* OBJ-10: what the kernel tells holders and owners, when, and how often. */
#include "raw.h"

#include <sched.h>
#include <string.h>

TEST("OBJ-10 the death of a node is told to each holder, once")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0), d = peer_new(0);
	u64 n = node_new(&a, 1), hb = grant(&a, n, &b), hc = grant(&b, hb, &c), hd;

	EQ(grant(&a, n, &b), hb);
	EQ(grant(&a, n, &b), hb);
	hd = grant(&c, hc, &d);
	OK(release(&d, hd));
	OK(destroy(&a, n));
	GOT_DEAD(&b, hb);
	GOT_DEAD(&c, hc);
	NOTHING(&b);
	NOTHING(&c);
	NOTHING(&d);	/* held it once */
	NOTHING(&a);
}

TEST("OBJ-10 a death is never told before the handle arrived")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), nb = node_new(&b, 2), to_b = grant(&b, nb, &a), h;

	OK(send_str(&a, to_b, "before"));
	OK(send_id(&a, to_b, n));
	OK(send_str(&a, to_b, "between"));
	OK(destroy(&a, n));
	OK(send_str(&a, to_b, "after"));
	GOT_TEXT(&b, nb, "before");
	h = GOT_ID(&b, nb);
	GOT_TEXT(&b, nb, "between");
	GOT_DEAD(&b, h);
	GOT_TEXT(&b, nb, "after");
	NOTHING(&b);
	OK(release(&b, h));
	NOTHING(&b);
}

TEST("OBJ-10 notices keep their place among messages")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), dies = node_new(&a, 2), left = node_new(&a, 3);
	u64 nb = node_new(&b, 4), to_b = grant(&b, nb, &a);
	u64 to_a = grant(&a, n, &b), h_dies = grant(&a, dies, &b), h_left = grant(&a, left, &b);

	OK(send_str(&a, to_b, "1"));
	OK(destroy(&a, dies));
	OK(send_str(&a, to_b, "2"));
	GOT_TEXT(&b, nb, "1");
	GOT_DEAD(&b, h_dies);
	GOT_TEXT(&b, nb, "2");

	OK(send_str(&b, to_a, "3"));
	OK(release(&b, h_left));
	OK(send_str(&b, to_a, "4"));
	OK(release(&b, to_a));
	GOT_TEXT(&a, n, "3");
	GOT_UNUSED(&a, left, 1);
	GOT_TEXT(&a, n, "4");
	GOT_UNUSED(&a, n, 1);
	NOTHING(&a);
	NOTHING(&b);
}

TEST("OBJ-10 a death that was not read is withdrawn with the handle")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), nb = node_new(&b, 2);

	EQ(grant(&a, n, &b), h);
	OK(send_str(&b, nb, "stays"));
	OK(destroy(&a, n));
	EQ(peer_info(&b).n_queued, 2);
	OK(release(&b, h));	/* one count is left */
	EQ(peer_info(&b).n_queued, 2);
	OK(release(&b, h));
	EQ(peer_info(&b).n_queued, 1);
	GOT_TEXT(&b, nb, "stays");
	NOTHING(&b);
	CHECK(!readable(&b));
}

TEST("OBJ-8 a handle that arrives late arrives dead, and its death is told")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), nc = node_new(&c, 2);
	u64 to_c = grant(&c, nc, &b), first, second;
	struct in in;

	OK(destroy(&a, n));
	GOT_DEAD(&b, h);
	OK(send_id(&b, to_c, h));
	OK(recv_now(&c, &in));
	EQ(in.m.n_handles, 1);
	EQ(in.h[0].flags, BUS1_HANDLE_DEAD);
	EQ(in.h[0].cookie, 0);
	first = in.h[0].id;
	GOT_DEAD(&c, first);
	NOTHING(&c);

	/* While it is held: the same handle, and no second notice. */
	OK(send_id(&b, to_c, h));
	OK(recv_now(&c, &in));
	EQ(in.h[0].id, first);
	EQ(in.h[0].flags, BUS1_HANDLE_DEAD);
	NOTHING(&c);

	/* It was gone: another handle, which has its own. */
	OK(release(&c, first));
	OK(release(&c, first));
	OK(send_id(&b, to_c, h));
	OK(recv_now(&c, &in));
	second = in.h[0].id;
	NE(second, first);
	EQ(in.h[0].flags, BUS1_HANDLE_DEAD);
	GOT_DEAD(&c, second);
	NOTHING(&c);
	ERR(send_str(&c, second, "x"), EHOSTUNREACH);
	OK(release(&c, second));
	OK(release(&b, h));
	NOTHING(&b);
}

TEST("OBJ-8 the handle of a peer that ended arrives dead, and its death is told")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 h = grant(&a, node_new(&a, 1), &b), nc = node_new(&c, 2), to_c = grant(&c, nc, &b);
	struct in in;

	peer_close(&a);
	OK(send_id(&b, to_c, h));
	GOT_DEAD(&b, h);
	OK(recv_now(&c, &in));
	EQ(in.h[0].flags, BUS1_HANDLE_DEAD);
	GOT_DEAD(&c, in.h[0].id);
	NOTHING(&c);
	/* Directly, too. */
	OK(release(&c, in.h[0].id));
	GOT_DEAD(&c, grant(&b, h, &c));
	NOTHING(&c);
}

TEST("OBJ-10 a dead handle that comes twice is told once, after the first")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), nc = node_new(&c, 2);
	u64 to_c = grant(&c, nc, &b), got, both[2];

	OK(destroy(&a, n));
	OK(send_ids(&b, to_c, (u64[]){ h, h }, 2));
	OK(send_id(&b, to_c, h));
	GOT_IDS(&c, nc, both, 2);
	got = both[0];
	EQ(both[1], got);
	/* Before or after the second: both are after the first. */
	{
		struct in in;
		int notices = 0, handles = 0;

		for (int i = 0; i < 2; i++) {
			OK(recv_now(&c, &in));
			if (in.m.type == BUS1_MSG_NODE_DEAD) {
				EQ(in.m.id, got);
				notices++;
			} else {
				EQ(in.h[0].id, got);
				handles++;
			}
		}
		EQ(notices, 1);
		EQ(handles, 1);
	}
	NOTHING(&c);
	OK(ids_cmd(&c, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ got, got, got }, 3));
	ERR(release(&c, got), ENXIO);
	NOTHING(&c);
}

TEST("OBJ-10 no death is told of a handle that was dropped with its message")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), nb = node_new(&b, 2), to_b = grant(&b, nb, &a);
	u64 m = node_new(&a, 3), keep = node_new(&b, 5), to_keep = grant(&b, keep, &a);
	struct bus1_msg msg;

	OK(send_id(&a, to_b, n));
	OK(destroy(&a, n));
	EQ(peer_info(&b).n_queued, 2);
	OK(drop_now(&b, &msg));
	EQ(msg.type, BUS1_MSG_DATA);
	NOTHING(&b);
	EQ(peer_info(&b).n_handles, 0);

	/* The same, where the message goes because its destination does. */
	OK(send_id(&a, to_b, m));
	OK(destroy(&a, m));
	OK(send_str(&a, to_keep, "x"));
	OK(destroy(&b, nb));
	GOT_TEXT(&b, keep, "x");
	NOTHING(&b);
	GOT_DEAD(&a, to_b);
	EQ(peer_info(&b).n_handles, 0);
}

TEST("OBJ-10 a death waits for a later message when the earlier one is dropped")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), nb = node_new(&b, 2), to_b = grant(&b, nb, &a);
	u64 hc = grant(&a, n, &c), c_to_b = grant(&b, nb, &c);
	struct bus1_msg msg;
	u64 h;

	/* handle, death, handle: the first goes unread */
	OK(send_id(&a, to_b, n));
	OK(destroy(&a, n));
	OK(send_id(&c, c_to_b, hc));
	OK(drop_now(&b, &msg));
	h = GOT_ID(&b, nb);
	GOT_DEAD(&b, h);
	NOTHING(&b);
	OK(release(&b, h));
}

TEST("OBJ-10 a death waits for a later message when the earlier handle is released")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), nb = node_new(&b, 2), to_b = grant(&b, nb, &a);
	u64 hc = grant(&a, n, &c), c_to_b = grant(&b, nb, &c), first, h;

	OK(send_id(&a, to_b, n));
	OK(destroy(&a, n));
	OK(send_id(&c, c_to_b, hc));
	first = GOT_ID(&b, nb);
	OK(release(&b, first));
	h = GOT_ID(&b, nb);
	NE(h, first);
	GOT_DEAD(&b, h);
	NOTHING(&b);
	OK(release(&b, h));
}

TEST("OBJ-10 unused is told when the last user goes, not before")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 0xc0), hb = grant(&a, n, &b), hc = grant(&b, hb, &c);
	struct in in;

	EQ(grant(&a, n, &c), hc);
	OK(release(&b, hb));
	NOTHING(&a);
	OK(release(&c, hc));
	NOTHING(&a);
	OK(release(&c, hc));
	OK(recv_now(&a, &in));
	EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
	EQ(in.m.id, n);
	EQ(in.m.cookie, 0xc0);
	EQ(in.m.seq, 1);
	NOTHING(&a);

	/* The node is there still, and can be used again. */
	hb = grant(&a, n, &b);
	OK(send_str(&b, hb, "again"));
	GOT_TEXT(&a, n, "again");
	OK(release(&b, hb));
	GOT_UNUSED(&a, n, 2);
	OK(destroy_unused(&a, n));
	NOTHING(&a);
}

TEST("OBJ-10 unused is told when the last user was a message that goes unread")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), nb = node_new(&b, 2), to_b = grant(&b, nb, &a);
	struct bus1_msg msg;

	/* dropped by the receiver */
	OK(send_id(&a, to_b, n));
	NOTHING(&a);
	OK(drop_now(&b, &msg));
	GOT_UNUSED(&a, n, 1);
	/* dropped with its destination */
	OK(send_id(&a, to_b, n));
	NOTHING(&a);
	OK(destroy(&b, nb));
	GOT_DEAD_AND_UNUSED(&a, to_b, n, 2);
	OK(release(&a, to_b));
	/* dropped with its receiver */
	nb = node_new(&b, 3);
	to_b = grant(&b, nb, &a);
	OK(send_id(&a, to_b, n));
	OK(send_ids(&a, to_b, (u64[]){ n, n, n }, 3));
	NOTHING(&a);
	peer_close(&b);
	GOT_DEAD_AND_UNUSED(&a, to_b, n, 3);
	NOTHING(&a);
	OK(destroy_unused(&a, n));
}

TEST("OBJ-10 a message outlives its sender, and its handles with it")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), hc = grant(&a, n, &c), nb = node_new(&b, 2), h;

	OK(send_id(&c, grant(&b, nb, &c), hc));
	peer_close(&c);
	NOTHING(&a);
	h = GOT_ID(&b, nb);
	GOT_UNUSED(&b, nb, 1);
	OK(send_str(&b, h, "through"));
	GOT_TEXT(&a, n, "through");
	OK(release(&b, h));
	GOT_UNUSED(&a, n, 1);
}

TEST("OBJ-10 unused is withdrawn when the node is used again")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), nb = node_new(&b, 2), to_b = grant(&b, nb, &a), h;

	h = grant(&a, n, &b);
	OK(release(&b, h));
	EQ(peer_info(&a).n_queued, 1);
	CHECK(readable(&a));
	h = grant(&a, n, &b);
	EQ(peer_info(&a).n_queued, 0);
	CHECK(!readable(&a));
	NOTHING(&a);
	OK(release(&b, h));

	/* By a message, too, from when it is sent. */
	EQ(peer_info(&a).n_queued, 1);
	OK(send_id(&a, to_b, n));
	NOTHING(&a);
	OK(release(&b, GOT_ID(&b, nb)));
	GOT_UNUSED(&a, n, 3);
	NOTHING(&a);
}

TEST("OBJ-10 a withdrawn notice comes back at the end of the queue")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), m = node_new(&a, 2), to_m = grant(&a, m, &b), h;

	h = grant(&a, n, &b);
	OK(release(&b, h));
	OK(send_str(&b, to_m, "1"));
	h = grant(&a, n, &b);
	OK(send_str(&b, to_m, "2"));
	OK(release(&b, h));
	OK(send_str(&b, to_m, "3"));
	GOT_TEXT(&a, m, "1");
	GOT_TEXT(&a, m, "2");
	GOT_UNUSED(&a, n, 2);
	GOT_TEXT(&a, m, "3");
	NOTHING(&a);
}

TEST("OBJ-10 seq tells how many times the node became used")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1);

	for (u64 seq = 1; seq <= 20; seq++) {
		u64 hb = grant(&a, n, &b), hc = grant(&b, hb, &c);

		/* More users do not make it used another time. */
		EQ(grant(&a, n, &b), hb);
		OK(release(&b, hb));
		OK(release(&b, hb));
		hb = grant(&c, hc, &b);
		OK(release(&c, hc));
		OK(release(&b, hb));
		/* Every third is overtaken before it is read. */
		if (seq % 3)
			GOT_UNUSED(&a, n, seq);
		else
			EQ(peer_info(&a).n_queued, 1);
	}
	NOTHING(&a);
}

TEST("OBJ-10 a send that fails makes nothing used")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), nb = node_new(&b, 2), to_b = grant(&b, nb, &a), h;

	/* Unused waits, and is not withdrawn by what has no effect. */
	h = grant(&a, n, &b);
	OK(release(&b, h));
	ERR(send_ids(&a, to_b, (u64[]){ n, 0 }, 2), ENXIO);
	EQ(peer_info(&a).n_queued, 1);
	OK(destroy(&b, nb));
	ERR(send_id(&a, to_b, n), EHOSTUNREACH);
	ERR(transfer(&a, &b, 0, (u64[]){ n, 0 }, (u64[2]){}, 2), ENXIO);
	GOT_UNUSED(&a, n, 1);
	GOT_DEAD(&a, to_b);
	NOTHING(&a);
	OK(destroy_unused(&a, n));
}

TEST_LONG("OBJ-10 notices come when the queue is full", 60)
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), dies = node_new(&a, 2), h = grant(&a, dies, &b), last;
	u64 nb = node_new(&b, 3), to_b = grant(&b, nb, &a), to_a = grant(&a, n, &b);
	u32 sent, sent_a;

	sent = fill_queue(&a, to_b);
	sent_a = fill_queue(&b, to_a);
	GT(sent, 15);
	OK(destroy(&a, dies));
	last = grant(&a, node_new(&a, 4), &b);
	OK(release(&b, last));
	EQ(peer_info(&b).n_queued, sent + 1);
	EQ(peer_info(&a).n_queued, sent_a + 1);
	ERR(send_data(&a, to_b, NULL, 0), EAGAIN);

	/* It is the last one; then there is room again. */
	for (u32 i = 0; i < sent; i += BUS1_MAX_MSGS) {
		static struct bus1_msg m[BUS1_MAX_MSGS];
		struct bus1_cmd_recv cmd = {
			.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(m), .msg_size = sizeof(m[0]),
			.n_msgs = sent - i < BUS1_MAX_MSGS ? sent - i : BUS1_MAX_MSGS,
		};

		OK(recv_cmd(&b, &cmd));
		for (u32 j = 0; j < cmd.n_msgs; j++)
			EQ(m[j].type, BUS1_MSG_DATA);
	}
	GOT_DEAD(&b, h);
	NOTHING(&b);
	OK(send_str(&a, to_b, "room again"));
	GOT_TEXT(&b, nb, "room again");
}

struct churn {
	struct peer a, b, c;
	u64 n;
	u64 h;
};

static void use_and_leave(void *arg)
{
	struct churn *t = arg;

	for (unsigned int i = 0; i < test_rounds(1000); i++) {
		u64 h = 0;

		OK(transfer(&t->a, &t->b, 0, &t->n, &h, 1));
		OK(release(&t->b, h));
	}
}

static void use_and_leave_c(void *arg)
{
	struct churn *t = arg;

	for (unsigned int i = 0; i < test_rounds(1000); i++) {
		u64 h = 0;

		OK(transfer(&t->a, &t->c, 0, &t->n, &h, 1));
		OK(release(&t->c, h));
	}
}

TEST("OBJ-10 unused while other threads use the node")
{
	struct churn t = { .a = peer_new(0), .b = peer_new(0), .c = peer_new(0) };
	struct test_thread x, y;
	struct in in;
	u64 seq = 0;
	int r;

	t.n = node_new(&t.a, 1);
	test_start(&x, use_and_leave, &t);
	test_start(&y, use_and_leave_c, &t);
	for (;;) {
		bool over = __atomic_load_n(&x.done, __ATOMIC_ACQUIRE) &&
			    __atomic_load_n(&y.done, __ATOMIC_ACQUIRE);

		r = recv_now(&t.a, &in);
		if (r) {
			ERR(r, EAGAIN);
			if (over)
				break;
			continue;
		}
		EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
		GT(in.m.seq, seq);
		seq = in.m.seq;
	}
	test_join(&x);
	test_join(&y);
	GT(seq, 0);
	OK(destroy_unused(&t.a, t.n));
	NOTHING(&t.a);
}

struct passing {
	struct peer a, b, c;
	u64 n, h, c_to_b;
	u32 turn;
	unsigned int rounds;
};

static void await(const u32 *word, u32 value)
{
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value)
		sched_yield();
}

static void pass_on(void *arg)
{
	struct passing *t = arg;

	for (u32 i = 0; i < t->rounds; i++) {
		await(&t->turn, 2 * i + 1);
		OK(send_id(&t->c, t->c_to_b, t->h));
		OK(send_id(&t->c, t->c_to_b, t->h));
		__atomic_store_n(&t->turn, 2 * i + 2, __ATOMIC_RELEASE);
	}
}

TEST("OBJ-10 a death while the handle is passed on is told once, after it")
{
	struct passing t = {
		.a = peer_new(0), .b = peer_new(0), .c = peer_new(0), .rounds = test_rounds(1500),
	};
	u64 nb = node_new(&t.b, 1);
	struct test_thread thread;

	t.c_to_b = grant(&t.b, nb, &t.c);
	test_start(&thread, pass_on, &t);
	for (u32 i = 0; i < t.rounds; i++) {
		int handles = 0, deaths = 0;
		u64 id = 0;

		t.n = node_new(&t.a, 1);
		t.h = grant(&t.a, t.n, &t.c);
		__atomic_store_n(&t.turn, 2 * i + 1, __ATOMIC_RELEASE);
		for (unsigned int j = 0; j < i % 8; j++)
			recv_now(&t.a, &(struct in){});
		OK(destroy(&t.a, t.n));
		await(&t.turn, 2 * i + 2);
		for (int j = 0; j < 3; j++) {
			struct in in;

			OK(recv_now(&t.b, &in));
			if (in.m.type == BUS1_MSG_NODE_DEAD) {
				GT(handles, 0);
				EQ(in.m.id, id);
				deaths++;
			} else {
				EQ(in.m.n_handles, 1);
				if (handles++)
					EQ(in.h[0].id, id);
				id = in.h[0].id;
				EQ(in.h[0].flags & ~BUS1_HANDLE_DEAD, 0);
				if (deaths)
					EQ(in.h[0].flags, BUS1_HANDLE_DEAD);
			}
		}
		EQ(handles, 2);
		EQ(deaths, 1);
		NOTHING(&t.b);
		OK(ids_cmd(&t.b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ id, id }, 2));
		GOT_DEAD(&t.c, t.h);
		OK(release(&t.c, t.h));
	}
	test_join(&thread);
	NOTHING(&t.a);
}
