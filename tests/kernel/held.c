// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * RES-5, RES-3: pages that somebody else holds when idle ones go back: a copy
 * that is under way, a fault, a pin.
 */
#include "idle.h"
#include "tar.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

/* A sender whose memory is there only at its beginning. */
struct stalled {
	struct test_thread thread;
	const struct peer *p;
	u64 dest;
	struct tar tar;
	int r;
};

static void stalled_send(void *arg)
{
	struct stalled *s = arg;

	s->r = send_data(s->p, s->dest, s->tar.mem, s->tar.size);
}

static void stall(struct stalled *s, const struct peer *p, u64 dest)
{
	*s = (struct stalled){ .p = p, .dest = dest, .tar = tar_new() };
	test_start(&s->thread, stalled_send, s);
	tar_wait(&s->tar);
}

static void let_go(struct stalled *s)
{
	tar_melt(&s->tar);
	test_join(&s->thread);
}

TEST("RES-5 the pages of a copy that is under way stay; others go meanwhile")
{
	struct peer p = peer_new(128 * page_size()), a = peer_new(0);
	u64 n = node_new(&p, 1), h = grant(&p, n, &a);
	static u8 data[40 * 4096];
	struct stalled s;
	struct in in;

	for (int round = 0; round < 3; round++) {
		/* Every page was there once, or went back before. */
		memset(data, 0x5e, sizeof(data));
		OK(send_data(&p, n, data, sizeof(data)));
		OK(recv_now(&p, &in));
		if (round)
			OK(slice_release(&p, in.m.slice));
		if (round == 2)
			shrink();
		stall(&s, &a, h);
		shrink();
		if (!round)
			OK(slice_release(&p, in.m.slice));
		shrink();
		GE(pages_of(&p), 1);
		LE(pages_of(&p), 8);
		let_go(&s);
		OK(s.r);
		OK(recv_now(&p, &in));
		EQ(in.m.len, s.tar.size);
		MEM(in.data, s.tar.mem, s.tar.size);
		EQ(pages_of(&p), 8);
		OK(slice_release(&p, in.m.slice));
		shrink();
		EQ(pages_of(&p), 0);
	}
}

TEST("RES-5 a page that somebody has pinned stays")
{
	struct peer p = peer_new(64 * page_size());
	u64 n = node_new(&p, 1);
	static u8 data[4 * 4096], copy[4096];
	struct iovec iov;
	struct in in;
	int fds[2];

	fill(data, sizeof(data), 1);
	OK(send_data(&p, n, data, sizeof(data)));
	OK(recv_now(&p, &in));
	EQ(in.m.offset, 0);
	OK(SYS(pipe2(fds, O_CLOEXEC)));
	iov = (struct iovec){ (void *)(p.pool + page_size()), page_size() };
	if (vmsplice(fds[1], &iov, 1, 0) < 0)
		SKIP("vmsplice: %s", strerrorname_np(errno));
	OK(slice_release(&p, in.m.slice));
	shrink();
	EQ(pages_of(&p), 1);
	shrink();
	EQ(pages_of(&p), 1);
	EQ(read(fds[0], copy, sizeof(copy)), sizeof(copy));
	MEM(copy, data + page_size(), page_size());
	/* It was only passed over. */
	shrink();
	EQ(pages_of(&p), 0);
	OK(send_data(&p, n, data, 5000));
	OK(recv_now(&p, &in));
	MEM(in.data, data, 5000);
}

TEST("RES-5 pages that stay pinned keep no others, however many they are")
{
	enum { PAGES = 512 };
	struct peer p = peer_new(4 * PAGES * page_size()), q = peer_new(4 * PAGES * page_size());
	u64 n = node_new(&p, 1), m = node_new(&q, 1);
	u8 *data = calloc(PAGES, page_size());
	struct iovec iov;
	struct in in;
	int fds[2];

	CHECK(data);
	OK(send_data(&p, n, data, PAGES * page_size()));
	OK(recv_now(&p, &in));
	OK(SYS(pipe2(fds, O_CLOEXEC)));
	/* More than are looked at in one go, and before those that are not pinned. */
	GE(SYS(fcntl(fds[1], F_SETPIPE_SZ, PAGES / 2 * page_size())), PAGES / 2 * page_size());
	iov = (struct iovec){ (void *)p.pool, PAGES / 2 * page_size() };
	EQ(SYS(vmsplice(fds[1], &iov, 1, 0)), PAGES / 2 * page_size());
	OK(slice_release(&p, in.m.slice));
	OK(send_data(&q, m, data, PAGES / 2 * page_size()));
	OK(drop_now(&q, &in.m));
	for (int i = 0; i < 3; i++) {
		shrink();
		EQ(pages_of(&p), PAGES / 2);
		EQ(pages_of(&q), 0);
	}
	close(fds[0]);
	close(fds[1]);
	shrink();
	EQ(pages_of(&p), 0);
	free(data);
}

/* Has a page mapped anew again and again, as long as it is there. */
struct toucher {
	struct test_thread thread;
	const u8 *page;
	bool stop;
	u32 n;
};

static void touch_anew(void *arg)
{
	struct toucher *t = arg;
	void *page = (void *)t->page;

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		OK(SYS(madvise(page, page_size(), MADV_DONTNEED)));
		if (madvise(page, page_size(), MADV_POPULATE_READ))
			EQ(errno, EFAULT);
		__atomic_add_fetch(&t->n, 1, __ATOMIC_RELAXED);
	}
}

TEST("RES-5 a page that a fault holds is passed over, and goes back with the next ones")
{
	enum { WANTED = 5 };
	struct peer p = peer_new(page_size());
	u64 n = node_new(&p, 1), end = test_deadline(20);
	u8 data[100] = {};
	u32 passed = 0, rounds = 0;
	struct in in;

	for (; passed < WANTED && test_now() < end; rounds++) {
		struct toucher t = { .page = pool_map(p.fd, page_size()) };

		OK(send_data(&p, n, data, sizeof(data)));
		OK(recv_now(&p, &in));
		OK(slice_release(&p, in.m.slice));
		test_start(&t.thread, touch_anew, &t);
		while (!__atomic_load_n(&t.n, __ATOMIC_RELAXED))
			sched_yield();
		shrink();
		__atomic_store_n(&t.stop, true, __ATOMIC_RELAXED);
		test_join(&t.thread);
		OK(SYS(munmap((void *)t.page, page_size())));
		/* Nothing that was sent meanwhile touches it. */
		passed += pages_of(&p) != 0;
		shrink();
		EQ(pages_of(&p), 0);
	}
	printf("# passed over in %u of %u rounds\n", passed, rounds);
	GT(passed, 0);
}

TEST("RES-3 the pages of a peer that is closed go at once, though its handles stay")
{
	struct test_counts before, now;
	struct peer a = peer_new(0), p;
	static u8 data[200000];
	u64 n, h;
	struct in in;

	if (!test_counts(&before))
		SKIP("the module's counts can not be read");
	p = peer_new(4 << 20);
	n = node_new(&p, 1);
	h = grant(&p, n, &a);
	/* Held, given back, and queued. */
	for (int i = 0; i < 3; i++)
		OK(send_data(&a, h, data, sizeof(data)));
	OK(recv_now(&p, &in));
	OK(recv_now(&p, &in));
	OK(slice_release(&p, in.m.slice));
	CHECK(test_counts(&now));
	GE(now.n[TEST_POOL_PAGES], before.n[TEST_POOL_PAGES] + 100);
	peer_close(&p);
	CHECK(test_counts(&now));
	EQ(now.n[TEST_POOL_PAGES], before.n[TEST_POOL_PAGES]);
	EQ(now.n[TEST_SLICES], before.n[TEST_SLICES]);
	/* The handle is still there. */
	ERR(send_data(&a, h, data, 1), EHOSTUNREACH);
	OK(release(&a, h));
	empty(&a);
}

TEST("RES-3 the same if a copy is under way when it is closed")
{
	struct peer p = peer_new(1 << 20), a = peer_new(0);
	struct test_counts before, now;
	u64 n = node_new(&p, 1), h = grant(&p, n, &a);
	struct stalled s;

	shrink();
	if (!test_counts(&before))
		SKIP("the module's counts can not be read");
	stall(&s, &a, h);
	peer_close(&p);
	let_go(&s);
	ERR(s.r, EHOSTUNREACH);
	CHECK(test_counts(&now));
	EQ(now.n[TEST_POOL_PAGES], before.n[TEST_POOL_PAGES]);
	EQ(now.n[TEST_SLICES], 0);
}

TEST("RES-3 the same if a page of it is pinned, which only who has pinned it sees from then on")
{
	struct peer p = peer_new(1 << 20), a = peer_new(0);
	struct test_counts before, now;
	u64 n = node_new(&p, 1), h = grant(&p, n, &a);
	static u8 data[4096], copy[4096];
	struct iovec iov;
	struct in in;
	int fds[2];

	shrink();
	if (!test_counts(&before))
		SKIP("the module's counts can not be read");
	fill(data, sizeof(data), 1);
	OK(send_data(&p, n, data, sizeof(data)));
	OK(recv_now(&p, &in));
	OK(SYS(pipe2(fds, O_CLOEXEC)));
	iov = (struct iovec){ (void *)in.data, sizeof(data) };
	EQ(SYS(vmsplice(fds[1], &iov, 1, 0)), sizeof(data));
	peer_close(&p);
	CHECK(test_counts(&now));
	EQ(now.n[TEST_POOL_PAGES], before.n[TEST_POOL_PAGES]);
	EQ(read(fds[0], copy, sizeof(copy)), sizeof(copy));
	MEM(copy, data, sizeof(data));
	ERR(send_data(&a, h, data, 1), EHOSTUNREACH);
}
