// SPDX-License-Identifier: GPL-2.0-or-later
/* MSG-2: one message to many, in one transaction. */
#include "raw.h"

#include <sched.h>
#include <string.h>

enum { N = 8 };

/* `a` sends to the nodes of N peers. */
struct group {
	struct peer a, b[N];
	u64 node[N], to[N];
};

static struct group group_new(size_t pool_size)
{
	struct group g = { .a = peer_new(0) };

	for (int i = 0; i < N; i++) {
		g.b[i] = peer_new(pool_size);
		g.node[i] = node_new(&g.b[i], 100 + (u64)i);
		g.to[i] = grant(&g.b[i], g.node[i], &g.a);
	}
	return g;
}

TEST("MSG-2 a multicast is one copy for each destination")
{
	struct group g = group_new(pool_for(100000));
	size_t sizes[] = { 0, 5, 5000, 100000 };
	static u8 data[100000];
	struct in in;
	s32 errors[N];

	for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
		memset(errors, 0x5a, sizeof(errors));
		fill(data, sizes[k], k);
		OK(send_cmd(&g.a, &(struct bus1_cmd_send){
			.dests = PTR(g.to), .n_dests = N, .errors = PTR(errors),
			.data = sizes[k] ? PTR(data) : 0, .len = sizes[k] }));
		for (int i = 0; i < N; i++) {
			EQ(errors[i], 0);
			OK(recv_now(&g.b[i], &in));
			EQ(in.m.id, g.node[i]);
			EQ(in.m.cookie, 100 + i);
			EQ(in.m.len, sizes[k]);
			MEM(in.data, data, sizes[k]);
			if (in.m.slice)
				OK(slice_release(&g.b[i], in.m.slice));
			NOTHING(&g.b[i]);
		}
	}
}

TEST("MSG-2 destinations may repeat, share a peer, and be one's own")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 own = node_new(&a, 1), n = node_new(&b, 2), m = node_new(&b, 3);
	u64 to_n = grant(&b, n, &a), to_m = grant(&b, m, &a);
	u64 dests[] = { to_n, own, to_m, to_n, to_n, own };
	int got_n = 0, got_m = 0;
	struct in in;

	OK(send_many(&a, 0, dests, ARRAY_SIZE(dests), NULL, "all"));
	GOT_TEXT(&a, own, "all");
	GOT_TEXT(&a, own, "all");
	NOTHING(&a);
	for (int i = 0; i < 4; i++) {
		OK(recv_now(&b, &in));
		MEM(in.data, "all", 3);
		CHECK(in.m.id == n || in.m.id == m);
		*(in.m.id == n ? &got_n : &got_m) += 1;
	}
	NOTHING(&b);
	EQ(got_n, 3);
	EQ(got_m, 1);
}

TEST("MSG-2 as many destinations as one command takes")
{
	struct group g = group_new(0);
	static u64 dests[BUS1_MAX_DESTS];
	static s32 errors[BUS1_MAX_DESTS];

	memset(errors, 0x11, sizeof(errors));
	for (int i = 0; i < BUS1_MAX_DESTS; i++)
		dests[i] = g.to[i % N];
	OK(send_many(&g.a, 0, dests, BUS1_MAX_DESTS, errors, "wide"));
	for (int i = 0; i < BUS1_MAX_DESTS; i++) {
		EQ(errors[i], 0);
		GOT_TEXT(&g.b[i % N], g.node[i % N], "wide");
	}
	for (int i = 0; i < N; i++)
		NOTHING(&g.b[i]);
}

TEST("MSG-2 each receiver gets a count of its own for each handle")
{
	struct group g = group_new(0);
	u64 n = node_new(&g.a, 1), h[N];
	struct bus1_pass pass = { .id = n };

	OK(send_cmd(&g.a, &(struct bus1_cmd_send){
		.dests = PTR(g.to), .n_dests = N, .handles = PTR(&pass), .n_handles = 1 }));
	for (int i = 0; i < N; i++)
		h[i] = GOT_ID(&g.b[i], g.node[i]);
	for (int i = 0; i < N; i++) {
		NOTHING(&g.a);
		ERR(destroy_unused(&g.a, n), EBUSY);
		OK(send_str(&g.b[i], h[i], "x"));
		GOT_TEXT(&g.a, n, "x");
		OK(release(&g.b[i], h[i]));
		ERR(release(&g.b[i], h[i]), ENXIO);
	}
	GOT_UNUSED(&g.a, n, 1);
}

/* Destinations that fail, each for another reason. */
struct bad {
	struct peer full, small, gone;
	u64 id[4];
	int err[4];
	size_t len;		/* of a payload that does it */
};

static void bad_new(struct bad *bad, struct group *g)
{
	u64 n, dead;

	memset(bad, 0, sizeof(*bad));
	bad->id[0] = UINT64_MAX - 5;
	bad->err[0] = ENXIO;

	bad->gone = peer_new(0);
	dead = node_new(&bad->gone, 1);
	bad->id[1] = grant(&bad->gone, dead, &g->a);
	bad->err[1] = EHOSTUNREACH;
	OK(destroy(&bad->gone, dead));
	GOT_DEAD(&g->a, bad->id[1]);

	bad->full = peer_new(1 << 20);
	n = node_new(&bad->full, 2);
	bad->id[2] = grant(&bad->full, n, &g->a);
	bad->err[2] = EAGAIN;
	fill_queue(&g->a, bad->id[2]);

	bad->small = peer_new(0);
	n = node_new(&bad->small, 3);
	bad->id[3] = grant(&bad->small, n, &g->a);
	bad->err[3] = EMSGSIZE;
	bad->len = peer_info(&bad->small).max_inline + 1;
}

TEST_LONG("MSG-2 one destination that fails, and none gets it", 60)
{
	struct group g = group_new(1 << 16);
	u64 n = node_new(&g.a, 1);
	struct bus1_pass pass = { .id = n };
	u8 data[8192] = {};
	struct bad bad;

	bad_new(&bad, &g);
	for (int k = 0; k < 4; k++)
		for (int at = 0; at < N; at += N / 2 - 1) {
			struct bus1_cmd_info before[N];
			u64 dests[N];
			s32 errors[N];

			memcpy(dests, g.to, sizeof(dests));
			dests[at] = bad.id[k];
			memset(errors, 0x5a, sizeof(errors));
			for (int i = 0; i < N; i++)
				before[i] = peer_info(&g.b[i]);
			ERR(send_cmd(&g.a, &(struct bus1_cmd_send){
				.dests = PTR(dests), .n_dests = N, .errors = PTR(errors),
				.data = PTR(data), .len = bad.len,
				.handles = PTR(&pass), .n_handles = 1 }), bad.err[k]);
			for (int i = 0; i < N; i++) {
				EQ(errors[i], i == at ? -bad.err[k] : 0);
				SAME_INFO(&g.b[i], &before[i]);
				NOTHING(&g.b[i]);
			}
			/* Without errors[], too. */
			ERR(send_cmd(&g.a, &(struct bus1_cmd_send){
				.dests = PTR(dests), .n_dests = N,
				.data = PTR(data), .len = bad.len }), bad.err[k]);
			for (int i = 0; i < N; i++)
				NOTHING(&g.b[i]);
		}
	NOTHING(&g.a);
	OK(destroy_unused(&g.a, n));
}

TEST_LONG("MSG-2 several fail, the command has the error of one that did", 60)
{
	struct group g = group_new(1 << 16);
	u8 data[8192] = {};
	struct bad bad;
	u64 dests[N];
	s32 errors[N];
	int r, told = 0;

	bad_new(&bad, &g);
	memcpy(dests, g.to, sizeof(dests));
	for (int k = 0; k < 4; k++)
		dests[2 * k + 1] = bad.id[3 - k];
	memset(errors, 0x5a, sizeof(errors));
	r = send_cmd(&g.a, &(struct bus1_cmd_send){
		.dests = PTR(dests), .n_dests = N, .errors = PTR(errors),
		.data = PTR(data), .len = bad.len });
	for (int i = 0; i < N; i++) {
		if (i % 2)
			CHECK(!errors[i] || errors[i] == -bad.err[3 - i / 2]);
		else
			EQ(errors[i], 0);
		if (errors[i])
			told += errors[i] == r ? 1 : 0;
		NOTHING(&g.b[i]);
	}
	GT(told, 0);
}

TEST_LONG("MSG-2 PARTIAL, those get it that can, and errors[] tells of the others", 60)
{
	struct group g = group_new(1 << 16);
	u64 n = node_new(&g.a, 1), dests[N];
	struct bus1_pass pass = { .id = n };
	u8 data[8192] = {};
	struct bad bad;
	s32 errors[N];
	struct in in;

	bad_new(&bad, &g);
	memcpy(dests, g.to, sizeof(dests));
	for (int k = 0; k < 4; k++)
		dests[2 * k] = bad.id[k];
	memset(errors, 0x5a, sizeof(errors));
	fill(data, bad.len, 1);
	OK(send_cmd(&g.a, &(struct bus1_cmd_send){
		.flags = BUS1_SEND_PARTIAL, .dests = PTR(dests), .n_dests = N,
		.errors = PTR(errors), .data = PTR(data), .len = bad.len,
		.handles = PTR(&pass), .n_handles = 1 }));
	for (int i = 0; i < N; i++) {
		EQ(errors[i], i % 2 ? 0 : -bad.err[i / 2]);
		if (i % 2) {
			OK(recv_now(&g.b[i], &in));
			EQ(in.m.len, bad.len);
			MEM(in.data, data, bad.len);
			EQ(in.m.n_handles, 1);
			OK(slice_release(&g.b[i], in.m.slice));
			OK(release(&g.b[i], in.h[0].id));
		}
		NOTHING(&g.b[i]);
	}
	/* Those that failed use it no more than those that let it go. */
	GOT_UNUSED(&g.a, n, 1);
	EQ(peer_info(&bad.small).n_queued, 0);
	EQ(peer_info(&bad.small).n_handles, 0);
	EQ(peer_info(&bad.full).n_slices, 0);
	EQ(peer_info(&bad.full).n_handles, 0);
}

TEST_LONG("MSG-2 PARTIAL fails when all do, with the error of the first", 60)
{
	struct group g = group_new(1 << 16);
	u8 data[8192] = {};
	struct bad bad;

	bad_new(&bad, &g);
	for (int k = 0; k < 4; k++) {
		u64 dests[4];
		s32 errors[4] = { 9, 9, 9, 9 };
		struct bus1_cmd_send cmd = {
			.flags = BUS1_SEND_PARTIAL, .dests = PTR(dests), .n_dests = 4,
			.errors = PTR(errors), .data = PTR(data), .len = bad.len,
		};

		for (int i = 0; i < 4; i++)
			dests[i] = bad.id[(i + k) % 4];
		ERR(send_cmd(&g.a, &cmd), bad.err[k]);
		for (int i = 0; i < 4; i++)
			EQ(errors[i], -bad.err[(i + k) % 4]);
		cmd.errors = 0;
		ERR(send_cmd(&g.a, &cmd), bad.err[k]);
		cmd.n_dests = 1;
		ERR(send_cmd(&g.a, &cmd), bad.err[k]);
	}
}

TEST("MSG-2 what concerns the command fails it, PARTIAL or not")
{
	struct group g = group_new(1 << 16);
	u8 *data = edge_alloc(5000);
	u64 n = node_new(&g.a, 1);
	struct bus1_pass pass[2] = { { .id = n }, { .id = 0 } };

	for (u64 flags = 0; flags <= BUS1_SEND_PARTIAL; flags++) {
		s32 errors[N];
		struct bus1_cmd_send cmd[] = {
			{ .data = PTR(data), .len = 5001 },
			{ .data = PTR(data), .len = 10000 },
			{ .data = 8, .len = 8 },
			{ .handles = PTR(pass), .n_handles = 2 },
			{ .data = PTR(data), .len = BUS1_MAX_PAYLOAD + 1 },
		};
		static const int err[] = { EFAULT, EFAULT, EFAULT, ENXIO, EMSGSIZE };

		for (size_t k = 0; k < ARRAY_SIZE(cmd); k++) {
			memset(errors, 0, sizeof(errors));
			cmd[k].flags = flags;
			cmd[k].dests = PTR(g.to);
			cmd[k].n_dests = N;
			cmd[k].errors = PTR(errors);
			ERR(send_cmd(&g.a, &cmd[k]), err[k]);
			for (int i = 0; i < N; i++) {
				NOTHING(&g.b[i]);
				EQ(peer_info(&g.b[i]).n_slices, 0);
				EQ(peer_info(&g.b[i]).pool_used, 0);
				EQ(peer_info(&g.b[i]).n_handles, 0);
			}
		}
	}
	NOTHING(&g.a);
	OK(destroy_unused(&g.a, n));
}

TEST("MSG-2 errors[] that can not be written, and nothing is sent")
{
	struct group g = group_new(0);
	s32 *half = edge_alloc(3 * sizeof(*half));
	s32 zero[N] = {};
	u64 bad[] = { PTR(half), PTR(read_only(zero, sizeof(zero))), 8, 0xffff800000000000,
		      UINT64_MAX - 3, UINT64_MAX - 15 };

	for (u64 flags = 0; flags <= BUS1_SEND_PARTIAL; flags++)
		for (size_t k = 0; k < ARRAY_SIZE(bad); k++) {
			ERR(send_cmd(&g.a, &(struct bus1_cmd_send){
				.flags = flags, .dests = PTR(g.to), .n_dests = N,
				.errors = bad[k] }), EFAULT);
			for (int i = 0; i < N; i++)
				NOTHING(&g.b[i]);
		}
	/* It is n_dests long, and no longer. */
	OK(send_cmd(&g.a, &(struct bus1_cmd_send){
		.dests = PTR(g.to), .n_dests = 3, .errors = PTR(half) }));
}

TEST("MSG-2 a pool that is full fails its own copy only")
{
	struct group g = group_new(pool_for(40000));
	static u8 data[40000];
	s32 errors[N] = {};

	OK(send_data(&g.a, g.to[3], data, sizeof(data)));
	ERR(send_cmd(&g.a, &(struct bus1_cmd_send){
		.dests = PTR(g.to), .n_dests = N, .errors = PTR(errors),
		.data = PTR(data), .len = sizeof(data) }), EAGAIN);
	for (int i = 0; i < N; i++) {
		EQ(errors[i], i == 3 ? -EAGAIN : 0);
		EQ(peer_info(&g.b[i]).n_queued, i == 3);
		EQ(peer_info(&g.b[i]).n_slices, i == 3);
	}
	OK(send_cmd(&g.a, &(struct bus1_cmd_send){
		.flags = BUS1_SEND_PARTIAL, .dests = PTR(g.to), .n_dests = N,
		.errors = PTR(errors), .data = PTR(data), .len = sizeof(data) }));
	for (int i = 0; i < N; i++) {
		EQ(errors[i], i == 3 ? -EAGAIN : 0);
		EQ(peer_info(&g.b[i]).n_queued, 1);
		EQ(peer_info(&g.b[i]).n_slices, 1);
	}
}

struct dying {
	struct group g;
	u64 n;
	unsigned int how;
	bool go;
};

static void die(void *arg)
{
	struct dying *t = arg;

	while (!__atomic_load_n(&t->go, __ATOMIC_ACQUIRE))
		sched_yield();
	if (t->how)
		peer_close(&t->g.b[N / 2]);
	else
		OK(destroy(&t->g.b[N / 2], t->g.node[N / 2]));
}

TEST_TIMEOUT("MSG-2 a destination dies meanwhile, all get it, or none", 120)
{
	u8 data[5000] = {};

	for (unsigned int round = 0; round < test_rounds(120); round++) {
		struct dying t = { .g = group_new(1 << 18), .how = round & 1 };
		size_t len = round & 2 ? 5 : sizeof(data);
		struct test_thread thread;
		unsigned int sent = 0;
		int r;

		t.n = node_new(&t.g.a, 1);
		test_start(&thread, die, &t);
		for (;;) {
			struct bus1_pass pass = { .id = t.n };

			if (sent == round % 4)
				__atomic_store_n(&t.go, true, __ATOMIC_RELEASE);
			/* No more than the pools take: that would be another error. */
			while (sent == 10 && !__atomic_load_n(&thread.done, __ATOMIC_ACQUIRE))
				sched_yield();
			r = send_cmd(&t.g.a, &(struct bus1_cmd_send){
				.dests = PTR(t.g.to), .n_dests = N, .data = PTR(data),
				.len = len, .handles = PTR(&pass), .n_handles = 1 });
			if (r)
				break;
			sent++;
		}
		ERR(r, EHOSTUNREACH);
		test_join(&thread);
		for (int i = 0; i < N; i++)
			if (i != N / 2)
				EQ(peer_info(&t.g.b[i]).n_queued, sent);
		for (int i = 0; i < N; i++)
			if (i != N / 2 || !t.how)
				peer_close(&t.g.b[i]);
		/* What was in the queues is gone; so is every user of the node. */
		OK(destroy_unused(&t.g.a, t.n));
		peer_close(&t.g.a);
	}
}

static void send_rounds(void *arg)
{
	struct dying *t = arg;

	for (unsigned int i = 0; i < test_rounds(400); i++) {
		int r = send_many(&t->g.a, i & 1 ? BUS1_SEND_PARTIAL : 0, t->g.to, N, NULL, "x");

		if (r && r != -EAGAIN)
			ERR(r, EHOSTUNREACH);
	}
}

TEST_TIMEOUT("MSG-2 multicasts from several threads, over one group and back", 120)
{
	/* Two senders that lock the same receivers in different orders. */
	struct dying t = { .g = group_new(0) }, u = { .g = t.g };
	struct test_thread x, y, z;
	struct in in;

	u.g.a = peer_new(0);
	for (int i = 0; i < N; i++)
		u.g.to[N - 1 - i] = grant(&t.g.b[i], t.g.node[i], &u.g.a);
	test_start(&x, send_rounds, &t);
	test_start(&y, send_rounds, &u);
	test_start(&z, send_rounds, &t);
	while (!__atomic_load_n(&x.done, __ATOMIC_ACQUIRE) ||
	       !__atomic_load_n(&y.done, __ATOMIC_ACQUIRE) ||
	       !__atomic_load_n(&z.done, __ATOMIC_ACQUIRE))
		for (int i = 0; i < N; i++)
			recv_now(&t.g.b[i], &in);
	test_join(&x);
	test_join(&y);
	test_join(&z);
}
