// SPDX-License-Identifier: GPL-2.0-or-later
/* OBJ-3, OBJ-4, OBJ-11: handles are counted, local, and keep their identity. */
#include "raw.h"

#include <sched.h>
#include <string.h>

TEST("OBJ-4 the same node is the same handle, by whatever way it came")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), other = node_new(&a, 2);
	u64 nb = node_new(&b, 3), nc = node_new(&c, 4);
	u64 a_to_b = grant(&b, nb, &a), a_to_c = grant(&c, nc, &a), c_to_b = grant(&b, nb, &c);
	u64 h, hc, pair[2];

	/* from the owner; directly; through a third; from oneself */
	OK(send_id(&a, a_to_b, n));
	h = GOT_ID(&b, nb);
	EQ(grant(&a, n, &b), h);
	OK(send_id(&a, a_to_c, n));
	hc = GOT_ID(&c, nc);
	OK(send_id(&c, c_to_b, hc));
	EQ(GOT_ID(&b, nb), h);
	OK(send_id(&b, nb, h));
	EQ(GOT_ID(&b, nb), h);

	/* Another node of the same owner is another handle. */
	OK(send_ids(&a, a_to_b, (u64[]){ other, n }, 2));
	GOT_IDS(&b, nb, pair, 2);
	NE(pair[0], h);
	EQ(pair[1], h);
	EQ(peer_info(&b).n_handles, 2);

	/* five counts of h, and no sixth */
	ERR(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ h, h, h, h, h, h }, 6), ENXIO);
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ h, h, h, h }, 4));
	OK(send_str(&b, h, "last count"));
	GOT_TEXT(&a, n, "last count");
	OK(release(&b, h));
	ERR(release(&b, h), ENXIO);
	ERR(send_str(&b, h, "none"), ENXIO);
	NOTHING(&a);	/* c holds it */
	OK(release(&c, hc));
	GOT_UNUSED(&a, n, 1);
}

TEST("OBJ-4 a handle to one's own node arrives as that node")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 0xc00c1e), h = grant(&a, n, &b), nb = node_new(&b, 7);
	u64 to_b = grant(&b, nb, &a);
	struct bus1_cmd_info before = peer_info(&a);
	struct in in;

	/* Back from another, and from oneself. */
	OK(send_id(&b, h, h));
	OK(recv_now(&a, &in));
	EQ(in.m.n_handles, 1);
	EQ(in.h[0].id, n);
	EQ(in.h[0].cookie, 0xc00c1e);
	EQ(in.h[0].flags, BUS1_HANDLE_OWN);
	EQ(in.h[0].rights, BUS1_RIGHT_SEND | BUS1_RIGHT_TRANSFER);
	OK(send_id(&a, n, n));
	OK(recv_now(&a, &in));
	EQ(in.h[0].id, n);
	EQ(in.h[0].cookie, 0xc00c1e);
	EQ(in.h[0].flags, BUS1_HANDLE_OWN);

	/* There is no count of it. */
	ERR(release(&a, n), EPERM);
	SAME_INFO(&a, &before);

	/* Any other: no cookie, no flags. */
	OK(send_id(&a, to_b, n));
	OK(recv_now(&b, &in));
	EQ(in.h[0].id, h);
	EQ(in.h[0].cookie, 0);
	EQ(in.h[0].flags, 0);
	EQ(in.h[0].rights, BUS1_RIGHT_SEND | BUS1_RIGHT_TRANSFER);
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ h, h }, 2));
	GOT_UNUSED(&a, n, 1);
	NOTHING(&a);
}

TEST("OBJ-3 an id of another peer means nothing")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 nodes[20], h[20], out, nc = node_new(&c, 1), to_c;
	struct bus1_cmd_info before;

	/* Ids that a and b have, and c has not: c made one node only. */
	for (int i = 0; i < 20; i++) {
		nodes[i] = node_new(&a, (u64)i);
		h[i] = grant(&a, nodes[i], &b);
	}
	to_c = grant(&c, nc, &a);
	before = peer_info(&c);
	for (int i = 10; i < 20; i++) {
		u64 ids[] = { nodes[i], h[i], to_c };

		for (int j = 0; j < 3; j++) {
			if (ids[j] == nc)
				continue;
			ERR(send_str(&c, ids[j], "forged"), ENXIO);
			ERR(send_id(&c, nc, ids[j]), ENXIO);
			ERR(release(&c, ids[j]), ENXIO);
			ERR(destroy(&c, ids[j]), ENXIO);
			ERR(transfer(&c, &b, 0, &ids[j], &out, 1), ENXIO);
		}
	}
	SAME_INFO(&c, &before);
	NOTHING(&a);
	NOTHING(&b);
}

TEST("OBJ-3 each delivery adds one count, and k deliveries need k releases")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), nb = node_new(&b, 2), to_b = grant(&b, nb, &a), h = 0;
	u64 ids[BUS1_MAX_HANDLES], got[BUS1_MAX_HANDLES];

	for (int k = 1; k <= 7; k++) {
		for (int i = 0; i < k; i++)
			OK(send_id(&a, to_b, n));
		for (int i = 0; i < k; i++) {
			u64 id = GOT_ID(&b, nb);

			if (i)
				EQ(id, h);
			h = id;
		}
		for (int i = 0; i < k; i++) {
			NOTHING(&a);
			OK(release(&b, h));
		}
		ERR(release(&b, h), ENXIO);
		GOT_UNUSED(&a, n, k);
	}

	/* The same in one message, as often as it holds. */
	for (int i = 0; i < BUS1_MAX_HANDLES; i++)
		ids[i] = n;
	OK(send_ids(&a, to_b, ids, BUS1_MAX_HANDLES));
	GOT_IDS(&b, nb, got, BUS1_MAX_HANDLES);
	for (int i = 1; i < BUS1_MAX_HANDLES; i++)
		EQ(got[i], got[0]);
	NE(got[0], h);
	EQ(peer_info(&b).n_handles, 1);
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, got, BUS1_MAX_HANDLES - 1));
	NOTHING(&a);
	OK(release(&b, got[0]));
	GOT_UNUSED(&a, n, 8);
}

TEST("OBJ-3 a handle that is gone comes back under another id")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), seen[50];

	for (int i = 0; i < 50; i++) {
		seen[i] = grant(&a, n, &b);
		for (int j = 0; j < i; j++)
			NE(seen[i], seen[j]);
		OK(release(&b, seen[i]));
		ERR(release(&b, seen[i]), ENXIO);
		ERR(send_str(&b, seen[i], "gone"), ENXIO);
	}
	EQ(peer_info(&b).n_handles, 0);
}

TEST("OBJ-3 a release takes no count that is still on its way")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), nb = node_new(&b, 2), to_b = grant(&b, nb, &a);
	u64 h = grant(&a, n, &b), again;

	OK(send_id(&a, to_b, n));
	OK(release(&b, h));
	ERR(release(&b, h), ENXIO);
	ERR(send_str(&b, h, "gone"), ENXIO);
	NOTHING(&a);		/* the queue is a user of n */
	ERR(destroy_unused(&a, n), EBUSY);

	again = GOT_ID(&b, nb);
	NE(again, h);		/* the id went with the last count */
	OK(send_str(&b, again, "here"));
	GOT_TEXT(&a, n, "here");
	OK(release(&b, again));
	GOT_UNUSED(&a, n, 1);
}

TEST("OBJ-11 HANDLE_RELEASE says why not, and then releases none")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), m = node_new(&a, 2), h = grant(&a, n, &b), g = grant(&a, m, &b);
	u64 own = node_new(&b, 3), x = node_new(&a, 4), gone = grant(&a, x, &b);
	struct { u64 ids[4]; u32 n; int err; } bad[] = {
		{ { 0 }, 1, ENXIO },
		{ { UINT64_MAX }, 1, ENXIO },
		{ { gone }, 1, ENXIO },
		{ { own }, 1, EPERM },
		{ { h, h }, 2, ENXIO },
		{ { h, g, h }, 3, ENXIO },
		{ { h, g, 0 }, 3, ENXIO },
		{ { 0, h, g }, 3, ENXIO },
		{ { h, own, g }, 3, EPERM },
		{ { g, h, own }, 3, EPERM },
		{ { g, h, gone }, 3, ENXIO },
	};
	struct bus1_cmd_info before;

	OK(release(&b, gone));
	GOT_UNUSED(&a, x, 1);
	before = peer_info(&b);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		ERR(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, bad[i].ids, bad[i].n), bad[i].err);
		SAME_INFO(&b, &before);
	}
	for (int i = 0; i < 64; i++)
		ERR(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 1ULL << i, &h, 1), EINVAL);
	NOTHING(&a);
	OK(send_str(&b, h, "x"));
	OK(send_str(&b, g, "y"));
	GOT_TEXT(&a, n, "x");
	GOT_TEXT(&a, m, "y");
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ g, h }, 2));
	EQ(peer_info(&a).n_queued, 2);
}

TEST("OBJ-11 as many counts as one command takes are given back at once")
{
	struct peer a = peer_new(0), b = peer_new(0);
	static u64 n[BUS1_MAX_IDS], h[BUS1_MAX_IDS + 1];
	struct in in;

	for (int i = 0; i < BUS1_MAX_IDS; i++)
		n[i] = node_new(&a, (u64)i);
	OK(transfer(&a, &b, 0, n, h, BUS1_MAX_IDS));
	h[BUS1_MAX_IDS] = h[0];
	ERR(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, h, BUS1_MAX_IDS + 1), EMSGSIZE);
	EQ(peer_info(&b).n_handles, BUS1_MAX_IDS);
	/* The last one fails: none. */
	h[BUS1_MAX_IDS - 1] = h[0];
	ERR(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, h, BUS1_MAX_IDS), ENXIO);
	EQ(peer_info(&b).n_handles, BUS1_MAX_IDS);
	NOTHING(&a);
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, h, BUS1_MAX_IDS - 1));
	EQ(peer_info(&b).n_handles, 1);
	for (int i = 0; i < BUS1_MAX_IDS - 1; i++) {
		OK(recv_now(&a, &in));
		EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
		EQ(in.m.id, n[in.m.cookie]);
	}
	NOTHING(&a);
}

TEST("OBJ-3 a handle of a dead node stays until it is released")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), nc = node_new(&c, 2), to_c, out;

	EQ(grant(&a, n, &b), h);
	to_c = grant(&c, nc, &b);
	OK(destroy(&a, n));
	GOT_DEAD(&b, h);
	EQ(peer_info(&b).n_handles, 2);
	ERR(send_str(&b, h, "dead"), EHOSTUNREACH);
	/* It can be passed on, copied, and released as often as it has counts. */
	OK(send_id(&b, to_c, h));
	OK(transfer(&b, &b, 0, &h, &out, 1));
	EQ(out, h);
	OK(release(&b, h));
	OK(release(&b, h));
	OK(release(&b, h));
	ERR(release(&b, h), ENXIO);
	ERR(send_str(&b, h, "gone"), ENXIO);
	EQ(peer_info(&b).n_handles, 1);
	NOTHING(&a);
	NOTHING(&b);
}

struct race {
	struct peer a, b;
	u64 n, nb, to_b;
	unsigned int rounds;
	u64 delivered;
};

static void deliver(void *arg)
{
	struct race *t = arg;
	int r;

	for (unsigned int i = 0; i < t->rounds; i++) {
		while ((r = send_id(&t->a, t->to_b, t->n)) == -EAGAIN)
			sched_yield();
		OK(r);
	}
}

static void take(void *arg)
{
	struct race *t = arg;
	struct in in;

	/* Each delivery is released at once, while the next ones are made. */
	for (;;) {
		OK(recv_wait(&t->b, &in));
		if (!in.m.n_handles)
			return;
		EQ(in.m.n_handles, 1);
		EQ(in.h[0].flags, 0);
		OK(release(&t->b, in.h[0].id));
		__atomic_add_fetch(&t->delivered, 1, __ATOMIC_RELAXED);
	}
}

static void race(unsigned int takers)
{
	struct race t = { .a = peer_new(0), .b = peer_new(0), .rounds = test_rounds(1500) };
	struct test_thread sender, taker[4];
	struct in in;
	u64 seq = 0;
	bool unused = false;

	t.n = node_new(&t.a, 1);
	t.nb = node_new(&t.b, 2);
	t.to_b = grant(&t.b, t.nb, &t.a);
	for (unsigned int i = 0; i < takers; i++)
		test_start(&taker[i], take, &t);
	test_start(&sender, deliver, &t);

	/* The notices that the owner sees meanwhile have a rising seq. */
	while (!__atomic_load_n(&sender.done, __ATOMIC_ACQUIRE)) {
		if (recv_now(&t.a, &in)) {
			sched_yield();
			continue;
		}
		EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
		EQ(in.m.id, t.n);
		GT(in.m.seq, seq);
		seq = in.m.seq;
	}
	test_join(&sender);
	for (unsigned int i = 0; i < takers; i++)
		OK(send_str(&t.a, t.to_b, "end"));
	for (unsigned int i = 0; i < takers; i++)
		test_join(&taker[i]);
	EQ(t.delivered, t.rounds);

	/* Now it has no user, and that was said last. */
	while (!recv_now(&t.a, &in)) {
		EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
		GT(in.m.seq, seq);
		seq = in.m.seq;
		unused = true;
	}
	CHECK(unused || seq);
	LE(seq, t.rounds);
	EQ(peer_info(&t.b).n_handles, 0);
	OK(destroy_unused(&t.a, t.n));
}

TEST("OBJ-3 releases race with deliveries of the same node")
{
	race(1);
}

TEST("OBJ-3 releases in several threads race with deliveries of the same node")
{
	race(3);
}

struct hammer {
	struct peer a, b;
	u64 h;
	unsigned int rounds;
	int taken;
};

static void release_some(void *arg)
{
	struct hammer *t = arg;

	for (unsigned int i = 0; i < t->rounds; i++) {
		int r = release(&t->b, t->h);

		if (!r)
			__atomic_add_fetch(&t->taken, 1, __ATOMIC_RELAXED);
		else
			ERR(r, ENXIO);
	}
}

TEST("OBJ-3 threads that release one handle get as many counts as it has")
{
	for (unsigned int i = 0; i < test_rounds(40); i++) {
		struct hammer t = { .a = peer_new(0), .b = peer_new(0), .rounds = 30 };
		struct test_thread threads[3];
		u64 n = node_new(&t.a, 1), ids[50], out[50];

		for (int j = 0; j < 50; j++)
			ids[j] = n;
		OK(transfer(&t.a, &t.b, 0, ids, out, 50));
		t.h = out[0];
		for (int j = 0; j < 3; j++)
			test_start(&threads[j], release_some, &t);
		for (int j = 0; j < 3; j++)
			test_join(&threads[j]);
		EQ(t.taken, 50);
		GOT_UNUSED(&t.a, n, 1);
		NOTHING(&t.a);
		peer_close(&t.a);
		peer_close(&t.b);
	}
}
