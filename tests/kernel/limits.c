// SPDX-License-Identifier: GPL-2.0-or-later
/* What takes many: EDQUOT, and queues that are longer than a queue may be. */
#include "raw.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
	MOST = 1 << 18,			/* more than any limit */
	USER = 7001,
	OWNER = 7002,
};

/* Nodes, until there may be no more of them; how many that are. */
static u32 fill_nodes(const struct peer *p, u64 *ids)
{
	struct bus1_cmd_info before;
	struct bus1_cmd_node cmd;
	u32 n = 0;
	int r;

	for (;;) {
		cmd = (struct bus1_cmd_node){};
		r = node_create(p, &cmd);
		if (r)
			break;
		LT(n, MOST);
		ids[n++] = cmd.id;
	}
	ERR(r, EDQUOT);
	EQ(cmd.id, 0);
	before = peer_info(p);
	ERR(node_create(p, &cmd), EDQUOT);
	/* Facets count, too. */
	ERR(mint(p, 0, ids[0], 1, &(u64){ 0 }), EDQUOT);
	ERR(mint(p, BUS1_MINT_ONCE, ids[n - 1], 0, &(u64){ 0 }), EDQUOT);
	SAME_INFO(p, &before);
	EQ(before.n_nodes, n);
	return n;
}

/* As many handles as `b` takes, of nodes of two others, who may have fewer than by default: it takes its time. */
static u32 fill_handles(const struct peer *b, struct peer owners[2])
{
	static u64 n[MOST], out[BUS1_MAX_IDS];
	u32 total = 0, have;
	int r = 0;

	for (int i = 0; i < 2; i++) {
		owners[i] = peer_of(OWNER, 0);
		have = fill_nodes(&owners[i], n);
		for (u32 step = BUS1_MAX_IDS; step; step /= 2)
			while (have >= step &&
			       !(r = transfer(&owners[i], b, 0, n + have - step, out, step))) {
				have -= step;
				total += step;
			}
		if (have) {
			ERR(r, EDQUOT);
			/* And one less is one more. */
			OK(destroy(&owners[i], n[0]));
			node_new(&owners[i], 1);
			ERR(node_create(&owners[i], &(struct bus1_cmd_node){}), EDQUOT);
			return total;
		}
	}
	FAIL("a peer holds more handles than two peers have nodes");
}

TEST_TIMEOUT("ABI-2 a peer has as many nodes and handles as it may have, EDQUOT", 120)
{
	struct peer a = peer_new(0), b = peer_of(USER, 0), c = peer_new(0), owners[2];
	u64 na = node_new(&a, 1), nb = node_new(&b, 2), nc = node_new(&c, 3);
	u64 a_to_b = grant(&b, nb, &a), a_to_c = grant(&c, nc, &a), known, dests[2];
	struct bus1_pass pass[3] = {};
	struct bus1_cmd_info at_a, at_b, at_c;
	u64 out[3], spare[2];
	s32 errors[2];
	u32 total;
	int fd;

	/* Half of what its user may have, and less than what it may have coming. */
	OK(limit_set(USER, MAX_HANDLES, 20000));
	OK(limit_set(OWNER, MAX_NODES, 16000));
	known = grant(&a, na, &b);
	total = fill_handles(&b, owners);
	EQ(total, 10000 - 1);
	EQ(peer_info(&b).n_handles, total + 1);

	/* What it has not, it does not get, by whatever way; nor anything with it. */
	spare[0] = node_new(&a, 4);
	spare[1] = node_new(&a, 5);
	fd = (int)OK(export_fd(&a, spare[0], 0));
	at_a = peer_info(&a);
	at_b = peer_info(&b);
	at_c = peer_info(&c);
	ERR(transfer(&a, &b, 0, spare, out, 1), EDQUOT);
	ERR(transfer(&a, &b, 0, (u64[]){ na, spare[0], na }, out, 3), EDQUOT);
	ERR(transfer(&a, &b, BUS1_TRANSFER_MOVE, &a_to_c, out, 1), EDQUOT);
	ERR(give(&a, na, &b, BUS1_TRANSFER_WEAK, 0, out), EDQUOT);
	ERR(give(&b, known, NULL, BUS1_TRANSFER_WEAK, 0, out), EDQUOT);
	ERR(give(&b, known, NULL, 0, BUS1_RIGHT_SEND, out), EDQUOT);
	ERR(import_cmd(&b, fd, &(struct bus1_handle){}), EDQUOT);
	ERR(send_pass(&a, a_to_b, a_to_c, BUS1_PASS_MOVE, 0), EDQUOT);
	ERR(send_id(&a, a_to_b, spare[0]), EDQUOT);
	ERR(send_ids(&a, a_to_b, (u64[]){ na, spare[0] }, 2), EDQUOT);
	pass[0].id = na;
	pass[1].id = spare[0];
	dests[0] = a_to_c;
	dests[1] = a_to_b;
	ERR(send_cmd(&a, &(struct bus1_cmd_send){
		.dests = PTR(dests), .n_dests = 2, .errors = PTR(errors),
		.handles = PTR(pass), .n_handles = 2 }), EDQUOT);
	EQ(errors[0], 0);
	EQ(errors[1], -EDQUOT);
	SAME_INFO(&a, &at_a);
	SAME_INFO(&b, &at_b);
	SAME_INFO(&c, &at_c);
	NOTHING(&b);
	NOTHING(&c);
	OK(destroy_unused(&a, spare[1]));

	/* Others get it; and it gets more counts of what it has. */
	OK(send_cmd(&a, &(struct bus1_cmd_send){
		.flags = BUS1_SEND_PARTIAL, .dests = PTR(dests), .n_dests = 2,
		.errors = PTR(errors), .handles = PTR(pass), .n_handles = 2 }));
	EQ(errors[0], 0);
	EQ(errors[1], -EDQUOT);
	EQ(peer_info(&c).n_queued, 1);
	NOTHING(&b);
	EQ(grant(&a, na, &b), known);
	OK(send_id(&a, a_to_b, na));
	EQ(GOT_ID(&b, nb), known);

	/* One less, and there is room for one. */
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ known, known, known }, 3));
	OK(send_id(&a, a_to_b, spare[0]));
	ERR(send_id(&a, a_to_b, na), EDQUOT);
	GOT_ID(&b, nb);
	OK(limit_set(USER, MAX_HANDLES, LIMIT_DEFAULT));
	OK(limit_set(OWNER, MAX_NODES, LIMIT_DEFAULT));
}

/* Peers and exported handles together: each has a file, which the machine has to have room for. */
TEST_TIMEOUT("ABI-2 there are as many exported handles as there may be, EDQUOT", 120)
{
	enum { FILES = (1 << 16) + 100 };
	struct rlimit limit = { FILES, FILES };
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b);
	static int fds[FILES];
	unsigned int have;
	struct snapshot w;
	u32 made = 0;
	int fd;

	if (test_slow() > 1)
		SKIP("takes too much memory here");
	if (geteuid() || setrlimit(RLIMIT_NOFILE, &limit))
		SKIP("only for who may have that many files");
	while ((fd = export_fd(made % 2 ? &a : &b, made % 2 ? n : h, made % 4)) >= 0) {
		LT(made, FILES);
		fds[made++] = fd;
	}
	ERR(fd, EDQUOT);
	GT(made, 1000);
	have = open_fds();
	w = SNAPSHOT(&a, &b);
	ERR(export_fd(&a, n, 0), EDQUOT);
	ERR(export_fd(&b, h, 0), EDQUOT);
	EQ(open_fds(), have);
	SAME_SNAPSHOT(&w);
	/* One less, and there is room for one. */
	close_fd(fds[0]);
	fds[0] = (int)OK(export_fd(&a, n, 0));
	ERR(export_fd(&a, n, 0), EDQUOT);
	for (u32 i = 0; i < made; i++)
		close_fd(fds[i]);
	OK(release(&b, h));
	GOT_UNUSED(&a, n, 1);
}

TEST_TIMEOUT("OBJ-10 more notices than a queue takes messages", 120)
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 tmp = node_new(&b, 1);
	u32 most = fill_queue(&b, tmp), n_nodes;
	static u64 n[1 << 16], h[1 << 16];

	OK(destroy(&b, tmp));
	EQ(drain(&b), 0);
	n_nodes = (most / BUS1_MAX_IDS + 1) * BUS1_MAX_IDS;
	if (n_nodes > ARRAY_SIZE(n))
		SKIP("a queue takes %u messages", most);
	for (u32 i = 0; i < n_nodes; i++)
		n[i] = node_new(&a, i);
	for (u32 i = 0; i < n_nodes; i += BUS1_MAX_IDS)
		OK(transfer(&a, &b, 0, n + i, h + i, BUS1_MAX_IDS));
	for (u32 i = 0; i < n_nodes; i += BUS1_MAX_IDS)
		OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, h + i, BUS1_MAX_IDS));
	EQ(peer_info(&a).n_queued, n_nodes);
	/* All of them withdrawn. */
	for (u32 i = 0; i < n_nodes; i += BUS1_MAX_IDS)
		OK(transfer(&a, &b, 0, n + i, h + i, BUS1_MAX_IDS));
	EQ(peer_info(&a).n_queued, 0);
	/* Those of one half, and deaths of the other. */
	for (u32 i = 0; i < n_nodes / 2; i += BUS1_MAX_IDS)
		OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, h + i, BUS1_MAX_IDS));
	EQ(drain(&a), (n_nodes / 2 + BUS1_MAX_IDS - 1) / BUS1_MAX_IDS * BUS1_MAX_IDS);
	for (u32 i = 0; i < n_nodes; i += BUS1_MAX_IDS)
		OK(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 0, n + i, BUS1_MAX_IDS));
	EQ(drain(&b), n_nodes - (n_nodes / 2 + BUS1_MAX_IDS - 1) / BUS1_MAX_IDS * BUS1_MAX_IDS);
	NOTHING(&a);
}

struct beside {
	u64 looks;
	bool stop;
};

/* Gets on, on the processor on which the node is destroyed. */
static void get_on(void *arg)
{
	struct beside *t = arg;

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		__atomic_add_fetch(&t->looks, 1, __ATOMIC_RELAXED);
		sched_yield();
	}
}

TEST_TIMEOUT("OBJ-8 OBJ-10 a node with thousands of holders dies, and others get on meanwhile", 400)
{
	unsigned int n_holders = test_slow() > 1 ? 3000 : 10000;
	struct rlimit limit = { n_holders + 100, n_holders + 100 };
	struct peer a = peer_new(0), *holders = calloc(n_holders, sizeof(*holders));
	u64 n = node_new(&a, 1), *ids = calloc(n_holders, sizeof(*ids)), before;
	struct timespec from, to;
	struct beside t = {};
	struct test_thread thread;
	cpu_set_t cpu;

	CHECK(holders && ids);
	if (geteuid() || setrlimit(RLIMIT_NOFILE, &limit))
		SKIP("only for who may have that many files");
	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	OK(SYS(sched_setaffinity(0, sizeof(cpu), &cpu)));
	for (unsigned int i = 0; i < n_holders; i++) {
		holders[i] = peer_new(0);
		ids[i] = grant(&a, n, &holders[i]);
	}
	test_start(&thread, get_on, &t);
	before = __atomic_load_n(&t.looks, __ATOMIC_RELAXED);
	clock_gettime(CLOCK_MONOTONIC, &from);
	OK(destroy(&a, n));
	clock_gettime(CLOCK_MONOTONIC, &to);
	/* Several times what one has the processor for. */
	if ((to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec > 50000000)
		GT(__atomic_load_n(&t.looks, __ATOMIC_RELAXED), before);
	__atomic_store_n(&t.stop, true, __ATOMIC_RELAXED);
	test_join(&thread);
	for (unsigned int i = 0; i < n_holders; i++) {
		GOT_DEAD(&holders[i], ids[i]);
		ERR(send_str(&holders[i], ids[i], "x"), EHOSTUNREACH);
		peer_close(&holders[i]);
	}
	NOTHING(&a);
	free(holders);
	free(ids);
}
