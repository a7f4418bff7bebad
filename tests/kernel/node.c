// SPDX-License-Identifier: GPL-2.0-or-later
/* OBJ-2, OBJ-11: nodes are made, and destroyed in arrays, all or none. */
#include "raw.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

TEST("OBJ-2 a node is made with a cookie that comes with its messages")
{
	static const u64 cookies[] = { 0, 1, 0x1234, 1ULL << 63, UINT64_MAX, 1 };
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n[ARRAY_SIZE(cookies)], h[ARRAY_SIZE(cookies)];

	for (size_t i = 0; i < ARRAY_SIZE(cookies); i++) {
		n[i] = node_new(&a, cookies[i]);
		h[i] = grant(&a, n[i], &b);
		for (size_t j = 0; j < i; j++) {
			NE(n[i], n[j]);
			NE(h[i], h[j]);
		}
	}
	EQ(peer_info(&a).n_nodes, ARRAY_SIZE(cookies));
	for (size_t i = ARRAY_SIZE(cookies); i-- > 0;)
		OK(send_str(&b, h[i], "x"));
	for (size_t i = ARRAY_SIZE(cookies); i-- > 0;) {
		struct in in;

		OK(recv_now(&a, &in));
		EQ(in.m.id, n[i]);
		EQ(in.m.cookie, cookies[i]);
	}
}

TEST("OBJ-2 NODE_CREATE that fails makes nothing")
{
	struct peer a = peer_new(0);
	struct bus1_cmd_node cmd = {};
	struct bus1_cmd_info before = peer_info(&a);

	for (int i = 2; i < 64; i++) {
		cmd = (struct bus1_cmd_node){ .flags = 1ULL << i };
		ERR(node_create(&a, &cmd), EINVAL);
	}
	cmd = (struct bus1_cmd_node){ .id = 1 };
	ERR(node_create(&a, &cmd), EINVAL);
	cmd = (struct bus1_cmd_node){ .id = 1ULL << 63 };
	ERR(node_create(&a, &cmd), EINVAL);

	/* The id can not be told: so there is no node. */
	cmd = (struct bus1_cmd_node){};
	ERR(node_create(&a, read_only(&cmd, sizeof(cmd))), EFAULT);
	ERR(node_create(&a, NULL), EFAULT);
	SAME_INFO(&a, &before);
}

TEST("OBJ-2 an id that is not known never makes a node")
{
	static const u64 unknown[] = { 0, 1, 2, 3, 4, 0x100, 1ULL << 32, 1ULL << 63, UINT64_MAX };
	struct peer a = peer_new(1 << 16), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), nb = node_new(&b, 2);
	struct bus1_cmd_info at_a = peer_info(&a), at_b = peer_info(&b);
	u64 out;

	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
		u64 id = unknown[i];

		if (id == h || id == nb)
			continue;
		ERR(send_str(&b, id, "x"), ENXIO);
		ERR(send_many(&b, 0, &id, 1, NULL, "x"), ENXIO);
		ERR(send_many(&b, BUS1_SEND_PARTIAL, &id, 1, NULL, "x"), ENXIO);
		ERR(send_id(&b, h, id), ENXIO);
		ERR(send_ids(&b, h, (u64[]){ nb, id }, 2), ENXIO);
		ERR(destroy(&b, id), ENXIO);
		ERR(destroy_unused(&b, id), ENXIO);
		ERR(release(&b, id), ENXIO);
		ERR(slice_release(&b, id), ENXIO);
		ERR(transfer(&b, &a, 0, &id, &out, 1), ENXIO);
		ERR(transfer(&b, &a, BUS1_TRANSFER_MOVE, &id, &out, 1), ENXIO);
		SAME_INFO(&b, &at_b);
		SAME_INFO(&a, &at_a);
	}
	NOTHING(&a);
	NOTHING(&b);
}

static int by_value(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

TEST("OBJ-3 ids of nodes and handles are never used again, nor 0")
{
	enum { ROUNDS = 300 };
	struct peer a = peer_new(0), b = peer_new(0);
	static u64 ids[3 * ROUNDS];
	size_t n_ids = 0;

	for (int i = 0; i < ROUNDS; i++) {
		u64 n = node_new(&a, 1), m = node_new(&a, 2), nb = node_new(&b, 3);
		u64 h = grant(&b, nb, &a);

		/* Freed in another order than made: free lists would show. */
		ids[n_ids++] = n;
		ids[n_ids++] = m;
		ids[n_ids++] = h;
		OK(destroy(&a, i % 2 ? m : n));
		OK(release(&a, h));
		OK(destroy(&a, i % 2 ? n : m));
		OK(destroy(&b, nb));
	}
	qsort(ids, n_ids, sizeof(ids[0]), by_value);
	NE(ids[0], 0);
	for (size_t i = 1; i < n_ids; i++)
		NE(ids[i], ids[i - 1]);
}

TEST("OBJ-11 NODE_DESTROY says why not")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), m = node_new(&a, 2), dead = node_new(&a, 3);
	u64 nb = node_new(&b, 4), h = grant(&b, nb, &a), gone = grant(&b, node_new(&b, 5), &a);
	struct bus1_cmd_info before;

	OK(destroy(&a, dead));
	OK(release(&a, gone));
	before = peer_info(&a);
	ERR(destroy(&a, 0), ENXIO);
	ERR(destroy(&a, UINT64_MAX), ENXIO);
	ERR(destroy(&a, dead), ENXIO);
	ERR(destroy(&a, gone), ENXIO);
	ERR(destroy(&a, h), EPERM);
	ERR(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 0, (u64[]){ n, n }, 2), EINVAL);
	ERR(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 0, (u64[]){ n, m, n }, 3), EINVAL);
	ERR(destroy_unused(&a, h), EPERM);
	ERR(destroy_unused(&a, dead), ENXIO);
	ERR(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, BUS1_DESTROY_UNUSED, (u64[]){ n, m, m }, 3),
	    EINVAL);
	for (int i = 1; i < 64; i++)
		ERR(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 1ULL << i, &n, 1), EINVAL);
	SAME_INFO(&a, &before);
	OK(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 0, (u64[]){ m, n }, 2));
}

TEST("OBJ-11 destroying an array with one bad id destroys none")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n[5], h[5], foreign = grant(&b, node_new(&b, 1), &a);
	struct { u64 id; int err; } bad[] = {
		{ 0, ENXIO }, { UINT64_MAX - 7, ENXIO }, { foreign, EPERM }, { 0, EINVAL },
	};

	for (int i = 0; i < 5; i++) {
		n[i] = node_new(&a, (u64)i);
		h[i] = grant(&a, n[i], &b);
		OK(send_str(&b, h[i], "waits"));
	}
	bad[3].id = n[4];	/* a second time, whichever it replaces */
	for (size_t k = 0; k < ARRAY_SIZE(bad); k++)
		for (int at = 0; at < 4; at++) {
			u64 ids[5];

			memcpy(ids, n, sizeof(ids));
			ids[at] = bad[k].id;
			ERR(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 0, ids, 5), bad[k].err);
			EQ(peer_info(&a).n_nodes, 5);
			EQ(peer_info(&a).n_queued, 5);
			EQ(peer_info(&b).n_queued, 0);
		}
	for (int i = 0; i < 5; i++) {
		GOT_TEXT(&a, n[i], "waits");
		OK(send_str(&b, h[i], "lives"));
	}
	OK(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 0, n, 5));
	EQ(peer_info(&a).n_nodes, 0);
	NOTHING(&a);
	EQ(peer_info(&b).n_queued, 5);
}

TEST("OBJ-11 as many nodes as one command takes are destroyed at once")
{
	struct peer a = peer_new(0), b = peer_new(0);
	static u64 n[BUS1_MAX_IDS + 1], h[BUS1_MAX_IDS], out[BUS1_MAX_IDS];
	struct in in;

	for (int i = 0; i <= BUS1_MAX_IDS; i++)
		n[i] = node_new(&a, (u64)i);
	OK(transfer(&a, &b, 0, n, h, BUS1_MAX_IDS));
	ERR(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 0, n, BUS1_MAX_IDS + 1), EMSGSIZE);
	EQ(peer_info(&a).n_nodes, BUS1_MAX_IDS + 1);
	OK(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 0, n, BUS1_MAX_IDS));
	EQ(peer_info(&a).n_nodes, 1);
	for (int i = 0; i < BUS1_MAX_IDS; i++) {
		OK(recv_now(&b, &in));
		EQ(in.m.type, BUS1_MSG_NODE_DEAD);
		out[i] = in.m.id;
	}
	NOTHING(&b);
	qsort(h, BUS1_MAX_IDS, sizeof(h[0]), by_value);
	qsort(out, BUS1_MAX_IDS, sizeof(out[0]), by_value);
	MEM(h, out, sizeof(h));
	NOTHING(&a);
}

TEST("OBJ-11 messages to a destroyed node are dropped, and no others")
{
	struct peer a = peer_new(1 << 20), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), m = node_new(&a, 2), nc = node_new(&c, 3);
	u64 to_n = grant(&a, n, &b), to_m = grant(&a, m, &b), hc = grant(&c, nc, &b);
	static u8 data[5000];
	struct bus1_cmd_info info;

	OK(send_str(&b, to_m, "first"));
	OK(send_str(&b, to_n, "dropped"));
	OK(send_data(&b, to_n, data, sizeof(data)));
	OK(send_str(&b, to_m, "second"));
	OK(send_id(&b, to_n, hc));
	OK(send_str(&b, to_m, "third"));
	OK(release(&b, hc));
	NOTHING(&c);		/* the queue of a is a user */

	OK(destroy(&a, n));
	info = peer_info(&a);
	EQ(info.n_queued, 3);
	EQ(info.n_slices, 0);
	EQ(info.pool_used, 0);
	EQ(info.n_handles, 0);
	GOT_UNUSED(&c, nc, 1);
	GOT_DEAD(&b, to_n);
	NOTHING(&b);
	GOT_TEXT(&a, m, "first");
	GOT_TEXT(&a, m, "second");
	GOT_TEXT(&a, m, "third");
	NOTHING(&a);
	ERR(send_str(&b, to_n, "late"), EHOSTUNREACH);
	ERR(send_str(&a, n, "late"), ENXIO);
}

TEST("OBJ-11 messages to a destroyed node are never received, however many wait")
{
	struct peer a = peer_new(1 << 16), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), m = node_new(&a, 2), nc = node_new(&c, 3);
	u64 to_n = grant(&a, n, &b), to_m = grant(&a, m, &b), hc = grant(&c, nc, &b);
	u64 dests[800];

	/* More before them than are looked through at once; and all there is. */
	for (int round = 0; round < 2; round++) {
		if (!round) {
			for (size_t i = 0; i < ARRAY_SIZE(dests); i++)
				dests[i] = to_m;
			for (int i = 0; i < 3; i++)
				OK(send_many(&b, 0, dests, ARRAY_SIZE(dests), NULL, "m"));
		}
		for (size_t i = 0; i < ARRAY_SIZE(dests); i++)
			dests[i] = to_n;
		for (int i = 0; i < 3; i++)
			OK(send_many(&b, 0, dests, ARRAY_SIZE(dests), NULL, "n"));
		OK(send_id(&b, to_n, hc));
		OK(destroy(&a, n));
		GOT_DEAD(&b, to_n);
		OK(release(&b, to_n));
		if (!round)
			for (size_t i = 0; i < 3 * ARRAY_SIZE(dests); i++)
				GOT_TEXT(&a, m, "m");
		CHECK(!readable(&a));
		NOTHING(&a);
		EQ(peer_info(&a).n_queued, 0);
		EQ(peer_info(&a).n_handles, 0);
		if (!round) {
			n = node_new(&a, 1);
			to_n = grant(&a, n, &b);
		}
	}
	/* What they held is given up with them. */
	OK(release(&b, hc));
	GOT_UNUSED(&c, nc, 1);
	NOTHING(&c);
}

TEST("OBJ-11 no unused notice follows a destruction, and one that waits goes")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), m = node_new(&a, 2), w = grant(&a, m, &b);

	OK(release(&b, h));
	EQ(peer_info(&a).n_queued, 1);
	OK(destroy(&a, n));
	EQ(peer_info(&a).n_queued, 0);
	NOTHING(&a);

	OK(destroy(&a, m));
	GOT_DEAD(&b, w);
	h = grant(&b, w, &c);
	OK(release(&b, w));
	OK(release(&c, h));
	NOTHING(&a);
	NOTHING(&b);
	NOTHING(&c);
}

TEST("OBJ-10 DESTROY_UNUSED refuses while a node has users")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), free_node = node_new(&a, 2), nb = node_new(&b, 3);
	u64 to_b = grant(&b, nb, &a), h, hc;
	struct bus1_cmd_info before = peer_info(&a);

	/* in a queue */
	OK(send_id(&a, to_b, n));
	ERR(destroy_unused(&a, n), EBUSY);
	/* held */
	h = GOT_ID(&b, nb);
	ERR(destroy_unused(&a, n), EBUSY);
	/* held by another */
	hc = grant(&b, h, &c);
	OK(release(&b, h));
	ERR(destroy_unused(&a, n), EBUSY);
	/* one used node keeps all of an array */
	ERR(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, BUS1_DESTROY_UNUSED,
		    (u64[]){ free_node, n }, 2), EBUSY);
	ERR(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, BUS1_DESTROY_UNUSED,
		    (u64[]){ n, free_node }, 2), EBUSY);
	SAME_INFO(&a, &before);
	OK(send_str(&c, hc, "alive"));
	GOT_TEXT(&a, n, "alive");

	OK(release(&c, hc));
	OK(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, BUS1_DESTROY_UNUSED,
		   (u64[]){ n, free_node }, 2));
	NOTHING(&a);
	EQ(peer_info(&a).n_nodes, 0);
}

TEST("OBJ-10 a node that was never used can be destroyed as unused")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);

	OK(destroy_unused(&a, n));
	ERR(destroy_unused(&a, n), ENXIO);
	NOTHING(&a);
}

struct instant {
	struct peer a, b;
	u64 h[2];
	int first;
	bool go;
};

static void probe_both(void *arg)
{
	struct instant *t = arg;
	int r;

	while (!__atomic_load_n(&t->go, __ATOMIC_ACQUIRE))
		sched_yield();
	for (;;) {
		r = send_data(&t->b, t->h[t->first], NULL, 0);
		if (r && r != -EAGAIN) {
			ERR(r, EHOSTUNREACH);
			ERR(send_data(&t->b, t->h[!t->first], NULL, 0), EHOSTUNREACH);
			return;
		}
	}
}

TEST("OBJ-11 nodes of one array die at one instant")
{
	/* Who finds one dead must not find the other alive after that. */
	for (unsigned int i = 0; i < test_rounds(150); i++) {
		struct instant t = { .a = peer_new(0), .b = peer_new(0), .first = i % 2 };
		struct test_thread thread;
		u64 n[2];

		for (int j = 0; j < 2; j++) {
			n[j] = node_new(&t.a, 1);
			t.h[j] = grant(&t.a, n[j], &t.b);
		}
		test_start(&thread, probe_both, &t);
		__atomic_store_n(&t.go, true, __ATOMIC_RELEASE);
		for (unsigned int j = 0; j < i % 16; j++)
			recv_now(&t.a, &(struct in){});
		OK(ids_cmd(&t.a, BUS1_CMD_NODE_DESTROY, 0, n, 2));
		test_join(&thread);
		peer_close(&t.a);
		peer_close(&t.b);
	}
}

struct undone {
	struct peer a, b;
	u64 n[3], to_n[3], nb, to_b;
	bool stop;
};

static void destroy_in_vain(void *arg)
{
	struct undone *t = arg;
	u64 ids[] = { t->n[0], t->n[1], t->n[2], t->n[0] };

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		ERR(ids_cmd(&t->a, BUS1_CMD_NODE_DESTROY, 0, ids, 4), EINVAL);
		ERR(ids_cmd(&t->a, BUS1_CMD_NODE_DESTROY, BUS1_DESTROY_UNUSED, ids, 3), EBUSY);
	}
}

TEST("OBJ-11 nobody sees anything of a destruction that fails")
{
	struct undone t = { .a = peer_new(0), .b = peer_new(0) };
	struct test_thread thread;
	struct in in;

	t.nb = node_new(&t.b, 1);
	t.to_b = grant(&t.b, t.nb, &t.a);
	/* The last one has users, the first two have none but while they travel. */
	for (int i = 0; i < 3; i++) {
		t.n[i] = node_new(&t.a, 2);
		t.to_n[i] = grant(&t.a, t.n[i], &t.b);
	}
	test_start(&thread, destroy_in_vain, &t);
	for (unsigned int i = 0; i < test_rounds(3000); i++) {
		OK(send_ids(&t.a, t.to_b, t.n, 3));
		OK(send_many(&t.b, 0, t.to_n, 3, NULL, "x"));
		OK(recv_now(&t.b, &in));
		EQ(in.m.n_handles, 3);
		for (int j = 0; j < 3; j++) {
			EQ(in.h[j].id, t.to_n[j]);
			EQ(in.h[j].flags, 0);
			GOT_TEXT(&t.a, t.n[j], "x");
		}
		OK(ids_cmd(&t.b, BUS1_CMD_HANDLE_RELEASE, 0, t.to_n, 3));
	}
	__atomic_store_n(&t.stop, true, __ATOMIC_RELAXED);
	test_join(&thread);
	NOTHING(&t.a);
	NOTHING(&t.b);
}

struct unseen {
	struct peer b;
	u64 h[3], gone;
	bool stop;
};

static void release_in_vain(void *arg)
{
	struct unseen *t = arg;
	u64 ids[] = { t->h[0], t->h[1], t->h[2], t->gone };

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED))
		ERR(ids_cmd(&t->b, BUS1_CMD_HANDLE_RELEASE, 0, ids, 4), ENXIO);
}

TEST("OBJ-11 nor of a release that fails")
{
	struct peer a = peer_new(0);
	struct unseen t = { .b = peer_new(0) };
	struct test_thread thread;
	u64 n[3], out[3];

	for (int i = 0; i < 3; i++) {
		n[i] = node_new(&a, 1);
		t.h[i] = grant(&a, n[i], &t.b);
	}
	t.gone = grant(&a, node_new(&a, 2), &t.b);
	OK(release(&t.b, t.gone));
	OK(recv_now(&a, &(struct in){}));
	test_start(&thread, release_in_vain, &t);
	for (unsigned int i = 0; i < test_rounds(3000); i++) {
		OK(send_many(&t.b, 0, t.h, 3, NULL, "x"));
		OK(transfer(&t.b, &t.b, 0, t.h, out, 3));
		for (int j = 0; j < 3; j++) {
			GOT_TEXT(&a, n[j], "x");
			EQ(out[j], t.h[j]);
		}
		OK(ids_cmd(&t.b, BUS1_CMD_HANDLE_RELEASE, 0, t.h, 3));
	}
	__atomic_store_n(&t.stop, true, __ATOMIC_RELAXED);
	test_join(&thread);
	NOTHING(&a);
}
