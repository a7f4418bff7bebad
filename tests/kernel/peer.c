// SPDX-License-Identifier: GPL-2.0-or-later
/* OBJ-1: how a peer begins and ends, and what goes with it. */
#include "raw.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

TEST("OBJ-1 opening the device makes a peer that has nothing")
{
	struct peer a = peer_new(0);
	struct bus1_cmd_info info = peer_info(&a);

	EQ(info.flags, 0);
	EQ(info.pool_size, 0);
	EQ(info.pool_pages, 0);
	EQ(info.pool_used, 0);
	EQ(info.n_nodes, 0);
	EQ(info.n_handles, 0);
	EQ(info.n_queued, 0);
	EQ(info.n_slices, 0);
	EQ(info.n_calls, 0);
	GT(info.max_inline, 0);
	NOTHING(&a);
}

TEST("OBJ-1 each open is another peer")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1);

	EQ(peer_info(&a).n_nodes, 1);
	EQ(peer_info(&b).n_nodes, 0);
	ERR(destroy(&b, n), ENXIO);
	ERR(send_str(&b, n, "x"), ENXIO);
}

TEST("OBJ-1 a peer has nothing to read or write")
{
	struct peer a = peer_new(0);
	char c = 0;

	CHECK(read(a.fd, &c, 1) < 0);
	CHECK(write(a.fd, &c, 1) < 0);
}

TEST("OBJ-1 a peer ends with its last descriptor and not before")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b);
	int second = (int)OK(SYS(dup(a.fd)));

	close(a.fd);
	NOTHING(&b);
	a.fd = second;
	OK(send_str(&b, h, "still there"));
	GOT_TEXT(&a, n, "still there");

	close(second);
	GOT_DEAD(&b, h);
	NOTHING(&b);
	ERR(send_str(&b, h, "gone"), EHOSTUNREACH);
}

TEST("OBJ-1 a child inherits the peer, and the pool with it")
{
	struct peer a = peer_new(1 << 16), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b);
	u8 data[5000];
	struct in in;
	pid_t pid;

	fill(data, sizeof(data), 1);
	OK(send_data(&b, h, data, sizeof(data)));
	pid = test_fork();
	if (!pid) {
		OK(recv_now(&a, &in));
		EQ(in.m.len, sizeof(data));
		NE(in.m.slice, 0);
		MEM(in.data, data, sizeof(data));
		OK(slice_release(&a, in.m.slice));
		OK(send_str(&b, h, "from the child"));
		_exit(0);
	}
	test_wait(pid);
	EQ(peer_info(&a).n_slices, 0);
	GOT_TEXT(&a, n, "from the child");
}

TEST("OBJ-1 closing tells every holder of every node, once")
{
	enum { HOLDERS = 8, NODES = 5 };
	struct peer a = peer_new(0), b[HOLDERS];
	u64 n[NODES], h[HOLDERS][NODES];

	for (int j = 0; j < NODES; j++)
		n[j] = node_new(&a, (u64)j);
	for (int i = 0; i < HOLDERS; i++) {
		b[i] = peer_new(0);
		for (int j = 0; j < NODES; j++) {
			h[i][j] = grant(&a, n[j], &b[i]);
			/* A second count gives no second notice. */
			EQ(grant(&a, n[j], &b[i]), h[i][j]);
		}
	}
	peer_close(&a);
	for (int i = 0; i < HOLDERS; i++) {
		unsigned int seen = 0;

		EQ(peer_info(&b[i]).n_queued, NODES);
		for (int k = 0; k < NODES; k++) {
			struct in in;

			OK(recv_now(&b[i], &in));
			EQ(in.m.type, BUS1_MSG_NODE_DEAD);
			for (int j = 0; j < NODES; j++)
				if (in.m.id == h[i][j])
					seen |= 1u << j;
		}
		EQ(seen, (1u << NODES) - 1);
		NOTHING(&b[i]);
		for (int j = 0; j < NODES; j++)
			ERR(send_str(&b[i], h[i][j], "gone"), EHOSTUNREACH);
	}
}

TEST("OBJ-1 closing gives back the handles, and the owners hear of it")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), other = node_new(&a, 2), kept = node_new(&a, 3);

	grant(&a, n, &b);
	grant(&a, n, &b);
	grant(&a, other, &b);
	grant(&a, kept, &b);
	grant(&a, kept, &c);
	peer_close(&b);

	EQ(peer_info(&a).n_queued, 2);
	for (int i = 0; i < 2; i++) {
		struct in in;

		OK(recv_now(&a, &in));
		EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
		CHECK(in.m.id == n || in.m.id == other);
		EQ(in.m.cookie, in.m.id == n ? 1 : 2);
		EQ(in.m.seq, 1);
		/* It may not come a second time. */
		OK(destroy_unused(&a, in.m.id));
	}
	NOTHING(&a);
}

TEST("OBJ-1 closing drops the queue, and the handles in it")
{
	struct test_counts before, after;
	struct peer a = peer_new(0), b = peer_new(1 << 20);
	u64 n = node_new(&a, 1), to_b, nb = node_new(&b, 9);
	u8 data[10000];
	bool counted = test_counts(&before);

	fill(data, sizeof(data), 2);
	to_b = grant(&b, nb, &a);
	OK(send_id(&a, to_b, n));
	OK(send_data(&a, to_b, data, sizeof(data)));
	if (counted) {
		CHECK(test_counts(&after));
		/* Two, and a handle in one of them. */
		EQ(after.n[TEST_MESSAGES], before.n[TEST_MESSAGES] + 3);
		EQ(after.n[TEST_SLICES], before.n[TEST_SLICES] + 1);
		GE(after.n[TEST_POOL_PAGES], before.n[TEST_POOL_PAGES] + 3);
	}
	NOTHING(&a);	/* n has a user: the queue */
	peer_close(&b);
	/* a held a handle to b's node, and b's queue the last one of n. */
	GOT_DEAD_AND_UNUSED(&a, to_b, n, 1);
	NOTHING(&a);
}

TEST("OBJ-1 two peers whose queues hold each other's nodes go away")
{
	struct peer a = peer_new(0), b = peer_new(0);
	struct test_counts before;
	bool counted = test_counts(&before);
	struct peer c = peer_new(0), d = peer_new(0);
	char why[200];

	for (int i = 0; i < 10; i++) {
		u64 nc = node_new(&c, 1), nd = node_new(&d, 2);
		u64 to_d = grant(&d, nd, &c), to_c = grant(&c, nc, &d);

		OK(send_id(&c, to_d, nc));
		OK(send_id(&d, to_c, nd));
		/* And to itself, with its own node and with the other's. */
		OK(send_id(&c, nc, nc));
		OK(send_id(&c, nc, to_d));
	}
	peer_close(&c);
	peer_close(&d);
	if (counted && !test_counts_settle(&before, why, sizeof(why)))
		FAIL("left behind: %s", why);
	NOTHING(&a);
	NOTHING(&b);
}

TEST("OBJ-1 a ring of peers, each in the next one's queue, goes away")
{
	enum { N = 20 };
	struct peer p[N];
	u64 n[N];

	for (int i = 0; i < N; i++) {
		p[i] = peer_new(1 << 16);
		n[i] = node_new(&p[i], (u64)i);
	}
	for (int i = 0; i < N; i++) {
		u64 next = grant(&p[(i + 1) % N], n[(i + 1) % N], &p[i]);

		OK(send_id(&p[i], next, n[i]));
		OK(release(&p[i], next));
	}
	/* Every second one, then the rest: each end meets one that lives. */
	for (int i = 0; i < N; i += 2)
		peer_close(&p[i]);
	for (int i = 1; i < N; i += 2)
		peer_close(&p[i]);
}

TEST("OBJ-1 a process that is killed takes its peer with it")
{
	struct peer a = peer_new(1 << 16), watcher = peer_new(0);
	u64 na = node_new(&a, 1), to_a, h;
	struct peer b = peer_new(1 << 16);
	u64 nb = node_new(&b, 7), held = node_new(&watcher, 3);
	struct in in;
	pid_t pid;

	to_a = grant(&a, na, &b);
	h = grant(&b, nb, &watcher);
	grant(&watcher, held, &b);
	pid = test_fork();
	if (!pid) {
		OK(send_str(&b, to_a, "ready"));
		recv_wait(&b, &in);
		FAIL("nothing should have come");
	}
	OK(SYS(munmap((void *)b.pool, b.pool_size)));
	close(b.fd);
	OK(recv_wait(&a, &in));
	EQ(in.m.type, BUS1_MSG_DATA);
	NOTHING(&watcher);
	test_kill(pid);
	GOT_DEAD_AND_UNUSED(&watcher, h, held, 1);
	NOTHING(&watcher);
	GOT_UNUSED(&a, na, 1);
	NOTHING(&a);
}

TEST("OBJ-1 PEER_INFO says what the peer has")
{
	struct peer a = peer_new(1 << 20), b = peer_new(0);
	u64 n = node_new(&a, 1), to_a = grant(&a, n, &b), nb, h;
	struct bus1_cmd_info info;
	u8 data[5000] = {};
	struct in in;

	node_new(&a, 2);
	info = peer_info(&a);
	EQ(info.pool_size, 1 << 20);
	EQ(info.n_nodes, 2);
	EQ(info.n_handles, 0);
	EQ(info.pool_used, 0);

	OK(send_data(&b, to_a, data, sizeof(data)));
	info = peer_info(&a);
	EQ(info.n_queued, 1);
	EQ(info.n_slices, 1);
	GE(info.pool_used, sizeof(data));
	LE(info.pool_used, 3 * page_size());
	GE(info.pool_pages, 2);

	OK(recv_now(&a, &in));
	info = peer_info(&a);
	EQ(info.n_queued, 0);
	EQ(info.n_slices, 1);
	OK(slice_release(&a, in.m.slice));
	info = peer_info(&a);
	EQ(info.n_slices, 0);
	EQ(info.pool_used, 0);

	/* A handle counts from when it is in the queue; once, whatever its count. */
	nb = node_new(&b, 3);
	OK(send_id(&b, to_a, nb));
	EQ(peer_info(&a).n_handles, 1);
	OK(send_id(&b, to_a, nb));
	EQ(peer_info(&a).n_handles, 1);
	h = GOT_ID(&a, n);
	EQ(GOT_ID(&a, n), h);
	EQ(peer_info(&a).n_handles, 1);
	OK(release(&a, h));
	EQ(peer_info(&a).n_handles, 1);
	OK(release(&a, h));
	EQ(peer_info(&a).n_handles, 0);
	GOT_UNUSED(&b, nb, 1);
}

TEST("ABI-1 PEER_INFO takes zeros only, and memory that can be written")
{
	struct peer a = peer_new(0);
	u8 bytes[sizeof(struct bus1_cmd_info)], zero[sizeof(bytes)] = {};

	for (size_t i = 0; i < sizeof(bytes); i++) {
		memset(bytes, 0, sizeof(bytes));
		bytes[i] = 1;
		ERR(raw(&a, BUS1_CMD_PEER_INFO, bytes), EINVAL);
	}
	ERR(raw(&a, BUS1_CMD_PEER_INFO, read_only(zero, sizeof(zero))), EFAULT);
	ERR(raw(&a, BUS1_CMD_PEER_INFO, NULL), EFAULT);
}

TEST("OBJ-1 what the module counts")
{
	struct test_counts zero, c;
	struct peer a, b;
	u64 n, h;
	u8 data[5000] = {};
	struct in in;

	if (!test_counts(&zero))
		SKIP("the module's counts can not be read");
	a = peer_new(1 << 20);
	b = peer_new(0);
	n = node_new(&a, 1);
	h = grant(&a, n, &b);
	CHECK(test_counts(&c));
	EQ(c.n[TEST_PEERS], zero.n[TEST_PEERS] + 2);
	EQ(c.n[TEST_NODES], zero.n[TEST_NODES] + 1);
	EQ(c.n[TEST_HANDLES], zero.n[TEST_HANDLES] + 1);
	EQ(c.n[TEST_MESSAGES], zero.n[TEST_MESSAGES]);
	OK(send_data(&b, h, data, sizeof(data)));
	CHECK(test_counts(&c));
	EQ(c.n[TEST_MESSAGES], zero.n[TEST_MESSAGES] + 1);
	EQ(c.n[TEST_SLICES], zero.n[TEST_SLICES] + 1);
	GE(c.n[TEST_POOL_PAGES], zero.n[TEST_POOL_PAGES] + 2);
	OK(recv_now(&a, &in));
	CHECK(test_counts(&c));
	EQ(c.n[TEST_MESSAGES], zero.n[TEST_MESSAGES]);
	EQ(c.n[TEST_SLICES], zero.n[TEST_SLICES] + 1);
	/* That all of it goes is checked after this test, as after each. */
}

static void close_under_use(void *arg)
{
	struct peer *p = arg;
	u64 n[4];

	for (int i = 0; i < 4; i++) {
		struct bus1_cmd_node cmd = { .cookie = 1 };

		/* The descriptor may be gone, or be another's, at any time. */
		if (node_create(p, &cmd))
			return;
		n[i] = cmd.id;
		send_str(p, n[i], "x");
		ids_cmd(p, BUS1_CMD_NODE_DESTROY, 0, &n[i], 1);
		recv_now(p, &(struct in){});
	}
}

TEST("OBJ-1 descriptors closed while other threads use them")
{
	for (unsigned int i = 0; i < test_rounds(60); i++) {
		struct peer p = peer_new(1 << 16);
		struct peer q = { .fd = (int)OK(SYS(dup(p.fd))) };
		struct test_thread t[3];

		test_start(&t[0], close_under_use, &p);
		test_start(&t[1], close_under_use, &p);
		test_start(&t[2], close_under_use, &q);
		OK(SYS(munmap((void *)p.pool, p.pool_size)));
		close(p.fd);
		close(q.fd);
		for (int j = 0; j < 3; j++)
			test_join(&t[j]);
	}
}
