// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * RES-5, RES-3, MSG-4: idle pages of pools go back when memory is short, whom
 * the pages are charged to, and that none is ever missed or mistaken.
 */
#include "raw.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GRANULE = 64 };

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = (int)SYS(write(fd, text, strlen(text)));
	close(fd);
	return r < 0 ? r : 0;
}

/* Everything that shrinkers can free goes. */
static void shrink(void)
{
	static bool quiet;

	/* The log need not be told each time. */
	int r = quiet ? 0 : write_file("/proc/sys/vm/drop_caches", "4");

	if (r == -EACCES || r == -EROFS || r == -EPERM)
		SKIP("only for root");
	OK(r);
	quiet = true;
	OK(write_file("/proc/sys/vm/drop_caches", "2"));
}

static u64 pages_of(const struct peer *p)
{
	return peer_info(p).pool_pages;
}

/* Pages that slices touch: marked in `used`, one byte a page. */
static void touch(u8 *used, u64 offset, u64 len)
{
	u64 end = (offset + len + GRANULE - 1) / GRANULE * GRANULE;

	for (u64 at = offset / page_size(); at * page_size() < end; at++)
		used[at] = 1;
}

/* Everything that is queued is dropped, with its slices. */
static void empty(const struct peer *p)
{
	struct bus1_msg m;
	int r;

	while (!(r = drop_now(p, &m)))
		;
	ERR(r, EAGAIN);
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

/* Memory whose first page is there; who reads further stalls until it is let go. */
struct stalled {
	struct test_thread thread;
	const struct peer *p;
	u64 dest;
	u8 *mem;
	size_t size;
	int uffd;
	int r;
};

static void stalled_send(void *arg)
{
	struct stalled *s = arg;

	s->r = send_data(s->p, s->dest, s->mem, s->size);
}

static void stall(struct stalled *s, const struct peer *p, u64 dest, size_t size)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct pollfd pfd = { .events = POLLIN };

	*s = (struct stalled){ .p = p, .dest = dest, .size = size };
	pfd.fd = s->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (s->uffd < 0)
		SKIP("userfaultfd: %s", strerrorname_np(errno));
	OK(SYS(ioctl(s->uffd, UFFDIO_API, &api)));
	s->mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(s->mem != MAP_FAILED);
	memset(s->mem, 0xda, page_size());
	reg.range.start = PTR(s->mem) + page_size();
	reg.range.len = size - page_size();
	OK(SYS(ioctl(s->uffd, UFFDIO_REGISTER, &reg)));
	test_start(&s->thread, stalled_send, s);
	EQ(poll(&pfd, 1, (int)(30000 * test_slow())), 1);
}

/* The rest of it is zero. */
static void let_go(struct stalled *s)
{
	struct uffdio_range range = { PTR(s->mem) + page_size(), s->size - page_size() };

	OK(SYS(ioctl(s->uffd, UFFDIO_UNREGISTER, &range)));
	close(s->uffd);
	test_join(&s->thread);
}

TEST("RES-5 the pages of a copy that is under way stay; others go meanwhile")
{
	struct peer p = peer_new(128 * page_size()), a = peer_new(0);
	u64 n = node_new(&p, 1), h = grant(&p, n, &a);
	size_t size = 8 * page_size();
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
		stall(&s, &a, h, size);
		shrink();
		if (!round)
			OK(slice_release(&p, in.m.slice));
		shrink();
		GE(pages_of(&p), 1);
		LE(pages_of(&p), 8);
		let_go(&s);
		OK(s.r);
		OK(recv_now(&p, &in));
		EQ(in.m.len, size);
		memset(data, 0xda, page_size());
		memset(data + page_size(), 0, size - page_size());
		MEM(in.data, data, size);
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
	stall(&s, &a, h, 16 * page_size());
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

/*
 * Cgroups of version 2, with the memory controller. A test has its own, a and
 * b, which are removed by the next one that wants them, if not by itself.
 */
#define CGROUPS "/sys/fs/cgroup/bus1-test"

static const char *cg_path(const char *group, const char *file)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), CGROUPS "-%s%s%s", group, *file ? "/" : "", file);
	return path;
}

static void cg_remove(const char *group)
{
	u64 end = test_deadline(20);

	while (rmdir(cg_path(group, "")) && errno != ENOENT) {
		if (test_now() > end)
			FAIL("%s: %s", cg_path(group, ""), strerrorname_np(errno));
		test_sleep_ms(10);
	}
}

static void cg_new(const char *group)
{
	if (geteuid())
		SKIP("only for root");
	if (write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory"))
		SKIP("there is no memory controller");
	cg_remove(group);
	OK(SYS(mkdir(cg_path(group, ""), 0755)));
}

static void cg_enter(const char *group)
{
	OK(write_file(cg_path(group, "cgroup.procs"), "0"));
}

static int cg_write(const char *group, const char *file, u64 value)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return write_file(cg_path(group, file), text);
}

/* A number in a file of a cgroup, after a key. */
static u64 cg_read(const char *group, const char *file, const char *key)
{
	char line[200], name[100];
	unsigned long long value;
	FILE *f = fopen(cg_path(group, file), "r");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%99s %llu", name, &value) == 2 && !strcmp(name, key)) {
			fclose(f);
			return value;
		}
	FAIL("no %s in %s", key, cg_path(group, file));
}

static u64 cg_kernel(const char *group)
{
	return cg_read(group, "memory.stat", "kernel");
}

/*
 * A child in a cgroup, which does one thing and stays until it is told to end.
 * Those that were made later keep it, too: they end first.
 */
struct child {
	pid_t pid;
	int in, out;
};

static struct child child_new(const char *group, void (*run)(void *), void *arg)
{
	struct child c;
	int in[2], out[2];
	char byte = 0;

	OK(SYS(pipe2(in, O_CLOEXEC)));
	OK(SYS(pipe2(out, O_CLOEXEC)));
	c.pid = test_fork();
	if (!c.pid) {
		close(in[1]);
		close(out[0]);
		cg_enter(group);
		run(arg);
		EQ(write(out[1], &byte, 1), 1);
		if (read(in[0], &byte, 1) < 0)
			_exit(1);
		_exit(0);
	}
	close(in[0]);
	close(out[1]);
	EQ(read(out[0], &byte, 1), 1);
	c.in = in[1];
	c.out = out[0];
	return c;
}

static void child_end(struct child *c)
{
	close(c->in);
	test_wait(c->pid);
	close(c->out);
}

#define MIB (1ULL << 20)

struct scene {
	struct peer owner, sender;
	u64 node, handle, size;
	size_t len;
	u32 n;
	int r;
};

static struct scene scene_new(u64 size)
{
	struct scene s = { .owner = peer_new(0), .sender = peer_new(0), .size = size };

	s.node = node_new(&s.owner, 1);
	s.handle = grant(&s.owner, s.node, &s.sender);
	return s;
}

static void scene_map(void *arg)
{
	struct scene *s = arg;

	pool_map(s->owner.fd, s->size);
}

static void scene_send(void *arg)
{
	static u8 data[1 << 16];
	struct scene *s = arg;

	for (u32 i = 0; i < s->n; i++)
		OK(send_data(&s->sender, s->handle, data, s->len));
}

TEST("RES-3 a pool is charged to the cgroup of who mapped it, messages to their senders'")
{
	struct scene s;
	struct child a, b, c;
	u64 kernel_a, kernel_b;

	cg_new("a");
	cg_new("b");
	s = scene_new(16 * MIB);
	a = child_new("a", scene_map, &s);
	kernel_a = cg_kernel("a");
	s.n = 64;
	s.len = 1 << 16;
	b = child_new("b", scene_send, &s);
	EQ(pages_of(&s.owner), 4 * MIB / page_size());
	GE(cg_kernel("a"), kernel_a + 4 * MIB - MIB / 4);
	LT(cg_kernel("b"), MIB);
	GE(cg_read("a", "memory.stat", "kernel"), 4 * MIB - MIB / 4);

	/* Messages that do not touch the pool. */
	kernel_a = cg_kernel("a");
	kernel_b = cg_kernel("b");
	s.n = 5000;
	s.len = 64;
	c = child_new("b", scene_send, &s);
	GE(cg_kernel("b"), kernel_b + 5000 * 200);
	LT(cg_kernel("a"), kernel_a + MIB / 2);

	/* And all of it comes back. */
	empty(&s.owner);
	shrink();
	EQ(pages_of(&s.owner), 0);
	LT(cg_kernel("a"), MIB);
	child_end(&c);
	child_end(&b);
	child_end(&a);
	peer_close(&s.owner);
	peer_close(&s.sender);
	cg_remove("a");
	cg_remove("b");
}

TEST("RES-5 a cgroup that is short of memory gets its own idle pages back, and no others'")
{
	struct scene s, t;
	struct child a, b;

	cg_new("a");
	cg_new("b");
	s = scene_new(8 * MIB);
	t = scene_new(8 * MIB);
	a = child_new("a", scene_map, &s);
	b = child_new("b", scene_map, &t);
	s.n = t.n = 32;
	s.len = t.len = 1 << 16;
	scene_send(&s);
	scene_send(&t);
	empty(&s.owner);
	empty(&t.owner);
	EQ(pages_of(&s.owner), 2 * MIB / page_size());
	EQ(pages_of(&t.owner), 2 * MIB / page_size());
	/* It fails when it has not got as much as that, whatever it got. */
	cg_write("a", "memory.reclaim", 8 * MIB);
	EQ(pages_of(&s.owner), 0);
	EQ(pages_of(&t.owner), 2 * MIB / page_size());
	child_end(&b);
	child_end(&a);
	peer_close(&s.owner);
	peer_close(&s.sender);
	peer_close(&t.owner);
	peer_close(&t.sender);
	cg_remove("a");
	cg_remove("b");
}

static void scene_flood(void *arg)
{
	static u8 data[1 << 16];
	struct scene *s = arg;

	for (s->n = 0; s->n < 1000; s->n++) {
		s->r = send_data(&s->sender, s->handle, data, sizeof(data));
		if (s->r)
			return;
	}
}

static void use_memory(void *arg)
{
	u8 *mem = mmap(NULL, *(u64 *)arg, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(mem != MAP_FAILED);
	for (u64 i = 0; i < *(u64 *)arg; i += page_size())
		mem[i] = 1;
}

TEST("RES-3 a sender that meets the limit of its receiver's cgroup fails, and nothing is killed")
{
	struct scene *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct child a, b, c;
	u64 limit = 12 * MIB, pages, want = 9 * MIB;

	CHECK(s != MAP_FAILED);
	cg_new("a");
	cg_new("b");
	*s = scene_new(64 * MIB);
	a = child_new("a", scene_map, s);
	OK(cg_write("a", "memory.max", limit));
	b = child_new("b", scene_flood, s);
	ERR(s->r, ENOMEM);
	pages = pages_of(&s->owner);
	GE(pages, limit / page_size() / 2);
	LE(pages, limit / page_size());
	EQ(peer_info(&s->owner).n_queued, s->n);
	EQ(cg_read("a", "memory.events", "oom_kill"), 0);
	EQ(cg_read("b", "memory.events", "max"), 0);

	/* When they are idle they make room for others of the cgroup, by themselves. */
	empty(&s->owner);
	EQ(pages_of(&s->owner), pages);
	c = child_new("a", use_memory, &want);
	LT(pages_of(&s->owner), pages / 2);
	EQ(cg_read("a", "memory.events", "oom_kill"), 0);
	child_end(&c);
	child_end(&b);
	child_end(&a);
	peer_close(&s->owner);
	peer_close(&s->sender);
	cg_remove("a");
	cg_remove("b");
}

/* Makes nodes until there is no memory for more; never returns. */
static void hog(u64 *handle, const struct peer *to)
{
	struct peer p = peer_new(0);

	*handle = grant(&p, node_new(&p, 1), to);
	cg_enter("b");
	while (!node_create(&p, &(struct bus1_cmd_node){}))
		;
	_exit(3);
}

TEST("RES-3 who is killed for want of memory in its cgroup leaves others whole")
{
	struct peer a = peer_new(1 << 16), b = peer_new(0);
	u64 n = node_new(&a, 1), to_a = grant(&a, n, &b), *handle;
	struct test_counts before, after;
	bool counted = test_counts(&before);
	int status;
	pid_t pid;

	handle = mmap(NULL, sizeof(*handle), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	CHECK(handle != MAP_FAILED);
	cg_new("b");
	OK(cg_write("b", "memory.max", 6 * MIB));
	/* What the kernel is about to report is meant to be: see logcheck.py. */
	OK(write_file("/dev/kmsg", "bus1 test: out of memory on purpose"));
	pid = test_fork();
	if (!pid)
		hog(handle, &a);
	EQ(OK(SYS(waitpid(pid, &status, 0))), pid);
	CHECK(WIFSIGNALED(status));
	EQ(WTERMSIG(status), SIGKILL);
	GE(cg_read("b", "memory.events", "oom_kill"), 1);

	GOT_DEAD(&a, *handle);
	OK(send_data(&b, to_a, "whole", 5));
	GOT_TEXT(&a, n, "whole");
	OK(release(&a, *handle));
	NOTHING(&a);
	if (counted) {
		CHECK(test_counts(&after));
		EQ(after.n[TEST_NODES], before.n[TEST_NODES]);
		EQ(after.n[TEST_PEERS], before.n[TEST_PEERS]);
	}
	cg_remove("b");
	OK(SYS(munmap(handle, sizeof(*handle))));
}

TEST("RES-3 a cgroup that is removed leaves its pool to the one above")
{
	struct scene s;
	struct child a;
	u8 data[5000];
	struct in in;

	cg_new("a");
	s = scene_new(MIB);
	a = child_new("a", scene_map, &s);
	s.n = 4;
	s.len = 1 << 15;
	scene_send(&s);
	child_end(&a);
	cg_remove("a");
	/* The file is still open here. */
	EQ(pages_of(&s.owner), (4 << 15) / page_size());
	empty(&s.owner);
	shrink();
	EQ(pages_of(&s.owner), 0);
	s.owner.pool = pool_map(s.owner.fd, s.owner.pool_size = MIB);
	fill(data, sizeof(data), 3);
	OK(send_data(&s.sender, s.handle, data, sizeof(data)));
	OK(recv_now(&s.owner, &in));
	MEM(in.data, data, sizeof(data));
	OK(slice_release(&s.owner, in.m.slice));
	shrink();
	EQ(pages_of(&s.owner), 0);
	peer_close(&s.owner);
	peer_close(&s.sender);
}

/*
 * Messages with a seed and what follows from it, read in place when they come,
 * and once more before they are given back; all while pages are dropped, and
 * while somebody reads wherever it is possible.
 */
enum { SENDERS = 2, RECEIVERS = 2, HELD = 6 };

struct mess {
	struct peer p, senders[SENDERS];
	u64 handles[SENDERS];
	u32 next, received, dropped;
	u64 pages_gone;
	bool stop;
};

struct actor {
	struct mess *m;
	struct test_thread thread;
	u32 index;
};

static bool stopped(const struct mess *m)
{
	return __atomic_load_n(&m->stop, __ATOMIC_RELAXED);
}

static void pattern(u32 *to, size_t n, u32 seed)
{
	u32 x = seed * 2654435761U | 1;

	to[0] = seed;
	for (size_t i = 1; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		to[i] = x;
	}
}

static void check_pattern(const u32 *from, size_t n)
{
	u32 x = from[0] * 2654435761U | 1;

	for (size_t i = 1; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		if (from[i] != x)
			FAIL("word %zu of %zu is %08x and not %08x", i, n, from[i], x);
	}
}

static void mess_send(void *arg)
{
	struct actor *t = arg;
	struct mess *m = t->m;
	u32 seed = t->index + 1, *data = malloc(40000), *edge = edge_alloc(8192);

	CHECK(data);
	memset(edge, 0x5e, 8192);
	while (!stopped(m)) {
		u32 number = __atomic_add_fetch(&m->next, 1, __ATOMIC_RELAXED);
		size_t n;
		int r;

		seed = seed * 1103515245 + 12345;
		n = 30 + (seed >> 8) % (seed & 0x700000 ? 1500 : 9000);
		pattern(data, n, number);
		r = send_data(&m->senders[t->index], m->handles[t->index], data, n * 4);
		if (r)
			ERR(r, EAGAIN);
		if (r || !(number % 16))
			sched_yield();
		if (!(number % 8)) {
			r = send_data(&m->senders[t->index], m->handles[t->index], edge, 9000);
			if (r != -EAGAIN)
				ERR(r, EFAULT);
		}
	}
	free(data);
}

static void mess_recv(void *arg)
{
	struct actor *t = arg;
	struct mess *m = t->m;
	struct { u64 slice; const u32 *data; size_t n; } held[HELD] = {};
	u32 k = 0;
	struct in in;

	while (!stopped(m)) {
		int r = recv_now(&m->p, &in);

		if (r) {
			ERR(r, EAGAIN);
			sched_yield();
			continue;
		}
		check_pattern((const u32 *)in.data, in.m.len / 4);
		k = (k * 5 + (u32)in.m.len / 4) % HELD;
		if (held[k].slice) {
			check_pattern(held[k].data, held[k].n);
			OK(slice_release(&m->p, held[k].slice));
		}
		held[k].slice = in.m.slice;
		held[k].data = (const u32 *)in.data;
		held[k].n = in.m.len / 4;
		if (!in.m.slice)
			held[k].slice = 0;
		__atomic_add_fetch(&m->received, 1, __ATOMIC_RELAXED);
	}
	for (k = 0; k < HELD; k++)
		if (held[k].slice) {
			check_pattern(held[k].data, held[k].n);
			OK(slice_release(&m->p, held[k].slice));
		}
}

static void mess_drop(void *arg)
{
	struct actor *t = arg;

	while (!stopped(t->m)) {
		u64 before = pages_of(&t->m->p);

		shrink();
		if (pages_of(&t->m->p) < before)
			t->m->pages_gone += before - pages_of(&t->m->p);
		t->m->dropped++;
	}
}

static void mess_probe(void *arg)
{
	struct actor *t = arg;
	struct mess *m = t->m;
	static u8 copy[1 << 16];
	u32 at = 1;

	while (!stopped(m)) {
		at = at * 1103515245 + 12345;
		page_readable(m->p.pool + (at >> 8) % (m->p.pool_size / page_size()) * page_size(),
			      copy);
		if (!(at >> 28)) {
			const u8 *again = pool_map(m->p.fd, m->p.pool_size);

			page_readable(again, copy);
			OK(SYS(munmap((void *)again, m->p.pool_size)));
		}
	}
}

TEST_TIMEOUT("RES-5 stress, pages dropped while messages are sent, read in place and given back", 120)
{
	struct mess m = { .p = peer_new(1 << 20) };
	u64 n = node_new(&m.p, 1), end;
	struct actor actors[SENDERS + RECEIVERS + 2];
	u32 k = 0;

	shrink();
	for (u32 i = 0; i < SENDERS; i++) {
		m.senders[i] = peer_new(0);
		m.handles[i] = grant(&m.p, n, &m.senders[i]);
	}
	for (u32 i = 0; i < ARRAY_SIZE(actors); i++)
		actors[i] = (struct actor){ .m = &m };
	for (u32 i = 0; i < SENDERS; i++, k++) {
		actors[k].index = i;
		test_start(&actors[k].thread, mess_send, &actors[k]);
	}
	for (u32 i = 0; i < RECEIVERS; i++, k++)
		test_start(&actors[k].thread, mess_recv, &actors[k]);
	test_start(&actors[k].thread, mess_drop, &actors[k]);
	k++;
	test_start(&actors[k].thread, mess_probe, &actors[k]);
	k++;
	/* That long by the clock, which a slow machine makes the most of. */
	end = test_now() + 12000000000ULL;
	while (test_now() < end)
		test_sleep_ms(50);
	__atomic_store_n(&m.stop, true, __ATOMIC_RELAXED);
	while (k)
		test_join(&actors[--k].thread);
	printf("# %u received, %u times dropped, at least %llu pages went back\n", m.received,
	       m.dropped, (unsigned long long)m.pages_gone);
	GT(m.received, 50);
	GT(m.dropped, 3);
	GT(m.pages_gone, 10);
	empty(&m.p);
	shrink();
	EQ(peer_info(&m.p).n_slices, 0);
	EQ(pages_of(&m.p), 0);
}
