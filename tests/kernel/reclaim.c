// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * RES-5, MSG-4: idle pages of pools go back when memory is short, and none is
 * ever missed or mistaken.
 */
#include "idle.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GRANULE = 64 };

/* Pages that slices touch: marked in `used`, one byte a page. */
static void touch(u8 *used, u64 offset, u64 len)
{
	u64 end = (offset + len + GRANULE - 1) / GRANULE * GRANULE;

	for (u64 at = offset / page_size(); at * page_size() < end; at++)
		used[at] = 1;
}

static bool can_read(const struct peer *p, size_t page)
{
	static u8 copy[1 << 16];

	return page_readable(p->pool + page * page_size(), copy);
}

TEST("RES-5 idle pages go back, and come again with the next message")
{
	struct peer p = peer_new(4 << 20);
	struct test_counts before, now;
	static u8 data[100000];
	u64 n = node_new(&p, 1), slices[8];
	struct in in;

	shrink();
	if (!test_counts(&before))
		SKIP("the module's counts can not be read");
	EQ(pages_of(&p), 0);
	for (int round = 0; round < 3; round++) {
		for (u32 i = 0; i < ARRAY_SIZE(slices); i++) {
			fill(data, sizeof(data), i);
			OK(send_data(&p, n, data, sizeof(data)));
		}
		GE(pages_of(&p), ARRAY_SIZE(slices) * sizeof(data) / page_size());
		for (u32 i = 0; i < ARRAY_SIZE(slices); i++) {
			OK(recv_now(&p, &in));
			fill(data, sizeof(data), i);
			MEM(in.data, data, sizeof(data));
			slices[i] = in.m.slice;
		}
		/* Nothing is idle while it is held. */
		u64 held = pages_of(&p);
		shrink();
		EQ(pages_of(&p), held);
		OK(ids_cmd(&p, BUS1_CMD_SLICE_RELEASE, 0, slices, ARRAY_SIZE(slices)));
		EQ(pages_of(&p), held);
		shrink();
		EQ(pages_of(&p), 0);
		CHECK(test_counts(&now));
		EQ(now.n[TEST_POOL_PAGES], before.n[TEST_POOL_PAGES]);
		for (size_t i = 0; i < p.pool_size / page_size(); i++)
			CHECK(!can_read(&p, i));
		EQ(peer_info(&p).pool_size, 4 << 20);
	}
}

TEST("RES-5 a page goes back after one slice as after many, however they were freed")
{
	struct peer p = peer_new(1 << 20), q = peer_new(0);
	u64 n = node_new(&p, 1), h = grant(&p, n, &q);
	u8 data[5000] = { 1 }, *edge = edge_alloc(300);
	struct in in;

	/* Given back by an id, with the next receive, dropped; and one of a node that is destroyed. */
	OK(send_data(&p, n, data, 100));
	OK(recv_now(&p, &in));
	EQ(pages_of(&p), 1);
	OK(slice_release(&p, in.m.slice));
	shrink();
	EQ(pages_of(&p), 0);

	OK(send_data(&p, n, data, sizeof(data)));
	OK(recv_now(&p, &in));
	OK(recv_cmd(&p, &(struct bus1_cmd_recv){
		.release = PTR(&in.m.slice), .n_release = 1 }));
	shrink();
	EQ(pages_of(&p), 0);

	OK(send_data(&p, n, data, sizeof(data)));
	OK(drop_now(&p, &in.m));
	shrink();
	EQ(pages_of(&p), 0);

	/* A copy that failed half way. */
	memset(edge, 0x5e, 300);
	ERR(send_data(&q, h, edge, 5000), EFAULT);
	GE(pages_of(&p), 1);
	shrink();
	EQ(pages_of(&p), 0);

	OK(send_data(&q, h, data, sizeof(data)));
	OK(destroy(&p, n));
	empty(&p);
	shrink();
	EQ(pages_of(&p), 0);
	EQ(peer_info(&p).n_slices, 0);
}

TEST("RES-5 what is held or queued is never touched")
{
	enum { N = 60 };
	struct peer p = peer_new(1 << 20);
	u64 n = node_new(&p, 1);
	static u8 data[20000], used[256];
	struct { u64 slice, offset; size_t len; } held[N];
	struct in in;

	srandom(5);
	for (unsigned int round = 0; round < test_rounds(30); round++) {
		u64 want = 0;

		memset(used, 0, sizeof(used));
		for (u32 i = 0; i < N; i++) {
			held[i].len = 100 + (size_t)random() % (i % 4 ? 3000 : sizeof(data) - 100);
			fill(data, held[i].len, i);
			OK(send_data(&p, n, data, held[i].len));
		}
		/* A part is received, every other one of them given back. */
		for (u32 i = 0; i < N / 2; i++) {
			OK(recv_now(&p, &in));
			held[i].slice = in.m.slice;
			held[i].offset = in.m.offset;
		}
		for (u32 i = 0; i < N / 2; i += 2)
			OK(slice_release(&p, held[i].slice));
		shrink();
		for (u32 i = 1; i < N / 2; i += 2) {
			fill(data, held[i].len, i);
			MEM(p.pool + held[i].offset, data, held[i].len);
			touch(used, held[i].offset, held[i].len);
		}
		u64 pages = pages_of(&p);
		for (u32 i = N / 2; i < N; i++) {
			OK(recv_now(&p, &in));
			EQ(in.m.len, held[i].len);
			fill(data, held[i].len, i);
			MEM(in.data, data, held[i].len);
			touch(used, in.m.offset, held[i].len);
			held[i].slice = in.m.slice;
		}
		/* And nothing else was left. */
		for (size_t i = 0; i < sizeof(used); i++) {
			want += used[i];
			EQ(can_read(&p, i), used[i]);
		}
		EQ(pages, want);
		for (u32 i = 0; i < N; i++)
			if (i % 2 || i >= N / 2)
				OK(slice_release(&p, held[i].slice));
		EQ(peer_info(&p).n_slices, 0);
	}
	shrink();
	EQ(pages_of(&p), 0);
}

TEST("RES-5 a page that goes back is gone from all mappings of it")
{
	struct peer p = peer_new(16 * page_size());
	size_t page = page_size();
	u64 n = node_new(&p, 1);
	static u8 data[4 * 4096], copy[1 << 16];
	const u8 *again = pool_map(p.fd, 16 * page);
	const u8 *part = mmap(NULL, 2 * page, PROT_READ, MAP_SHARED, p.fd, (off_t)page);
	int go[2], done[2];
	struct in in;
	char byte = 0;

	CHECK(part != MAP_FAILED);
	memset(data, 0x5e, sizeof(data));
	OK(send_data(&p, n, data, sizeof(data)));
	OK(recv_now(&p, &in));
	EQ(in.m.offset, 0);
	MEM(in.data, data, sizeof(data));
	MEM(again, data, sizeof(data));
	MEM(part, data, 2 * page);
	OK(SYS(pipe2(go, O_CLOEXEC)));
	OK(SYS(pipe2(done, O_CLOEXEC)));
	pid_t pid = test_fork();
	if (!pid) {
		MEM(p.pool, data, sizeof(data));
		EQ(write(done[1], &byte, 1), 1);
		EQ(read(go[0], &byte, 1), 1);
		CHECK(!page_readable(p.pool, copy));
		CHECK(!page_readable(part, copy));
		EQ(write(done[1], &byte, 1), 1);
		EQ(read(go[0], &byte, 1), 1);
		/* The new one, not the old. */
		memset(data, 0xda, page);
		MEM(p.pool, data, page);
		CHECK(!page_readable(p.pool + page, copy));
		_exit(0);
	}
	EQ(read(done[0], &byte, 1), 1);
	OK(slice_release(&p, in.m.slice));
	MEM(p.pool, data, sizeof(data));
	shrink();
	EQ(pages_of(&p), 0);
	CHECK(!page_readable(p.pool, copy));
	CHECK(!page_readable(again + page, copy));
	CHECK(!page_readable(part + page, copy));
	EQ(write(go[1], &byte, 1), 1);
	EQ(read(done[0], &byte, 1), 1);
	memset(data, 0xda, page);
	OK(send_data(&p, n, data, page));
	OK(recv_now(&p, &in));
	EQ(in.m.offset, 0);
	MEM(p.pool, data, page);
	MEM(again, data, page);
	CHECK(!page_readable(part, copy));
	EQ(write(go[1], &byte, 1), 1);
	test_wait(pid);
}

/* Every byte of the pool that can be read is 0 or `good`. */
static void only(const struct peer *p, u8 good)
{
	static u8 copy[1 << 16];

	for (size_t i = 0; i < p->pool_size; i += page_size())
		if (page_readable(p->pool + i, copy))
			for (size_t j = 0; j < page_size(); j++)
				CHECK(!copy[j] || copy[j] == good);
}

TEST("MSG-4 pages that come again show nothing of what was there, nor of copies that failed")
{
	struct peer p = peer_new(192 * page_size()), other = peer_new(192 * page_size());
	struct peer a = peer_new(0);
	u64 n = node_new(&p, 1), h = grant(&p, n, &a), m = node_new(&other, 2);
	static u8 secret[64 * 4096], data[3000];
	u8 *edge = edge_alloc(sizeof(secret) / 2);
	struct in in;

	memset(secret, 0x5e, sizeof(secret));
	memset(data, 0xda, sizeof(data));
	memset(edge, 0x5e, sizeof(secret) / 2);
	for (unsigned int i = 0; i < test_rounds(20); i++) {
		/* Whoever has the memory between leaves something in it. */
		OK(send_data(&other, m, secret, sizeof(secret)));
		OK(drop_now(&other, &in.m));
		OK(send_data(&p, n, secret, sizeof(secret)));
		OK(recv_now(&p, &in));
		OK(slice_release(&p, in.m.slice));
		shrink();
		EQ(pages_of(&p), 0);
		for (u32 k = 0; k < 1 + i % 12; k++)
			OK(send_data(&p, n, data, 97 + (i * 131 + k * 977) % (sizeof(data) - 97)));
		ERR(send_data(&a, h, edge, sizeof(secret) / 2 + 100), EFAULT);
		only(&p, 0xda);
		if (i % 2)
			shrink();
		only(&p, 0xda);
		ERR(send_data(&a, h, edge + sizeof(secret) / 2 - 5000, 6000), EFAULT);
		only(&p, 0xda);
		empty(&p);
		only(&p, 0xda);
		shrink();
	}
}

TEST("RES-5 a steady load of mixed sizes keeps about what it has in use at a time")
{
	enum { LIVE = 12 };
	struct peer p = peer_new(64 << 20);
	u64 n = node_new(&p, 1), slices[LIVE] = {};
	static u8 data[20000];
	u64 used = 0;
	struct in in;

	srandom(7);
	for (unsigned int i = 0; i < test_rounds(4000); i++) {
		u32 k = (u32)random() % LIVE;

		if (slices[k])
			OK(slice_release(&p, slices[k]));
		OK(send_data(&p, n, data, 100 + (size_t)random() % (sizeof(data) - 100)));
		OK(recv_now(&p, &in));
		slices[k] = in.m.slice;
		if (peer_info(&p).pool_used > used)
			used = peer_info(&p).pool_used;
	}
	/* Of 64 MiB, and without any help. */
	LE(pages_of(&p), used / page_size() * 2);
	/* One size at a time stays in one place. */
	OK(ids_cmd(&p, BUS1_CMD_SLICE_RELEASE, 0, slices, LIVE));
	shrink();
	EQ(pages_of(&p), 0);
	for (int i = 0; i < 100; i++) {
		OK(send_data(&p, n, data, 4096));
		OK(recv_now(&p, &in));
		OK(slice_release(&p, in.m.slice));
	}
	EQ(pages_of(&p), 1);
}
