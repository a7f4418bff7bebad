// SPDX-License-Identifier: GPL-2.0-or-later
/* MSG-3, MSG-4: the pool: how it is mapped, and that it shows nothing else. */
#include "raw.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int map(const struct peer *p, size_t size, int prot, int flags, off_t offset)
{
	void *m = mmap(NULL, size, prot, flags, p->fd, offset);

	if (m == MAP_FAILED)
		return -errno;
	OK(SYS(munmap(m, size)));
	return 0;
}

TEST("MSG-4 the pool is made by a shared, read-only mapping, and by no other")
{
	struct peer p = peer_new(0);
	size_t page = page_size();

	ERR(map(&p, page, PROT_WRITE, MAP_SHARED, 0), EPERM);
	ERR(map(&p, page, PROT_READ | PROT_WRITE, MAP_SHARED, 0), EPERM);
	ERR(map(&p, page, PROT_EXEC, MAP_SHARED, 0), EPERM);
	ERR(map(&p, page, PROT_READ | PROT_EXEC, MAP_SHARED, 0), EPERM);
	ERR(map(&p, page, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, 0), EPERM);
	ERR(map(&p, page, PROT_READ, MAP_PRIVATE, 0), EINVAL);
	ERR(map(&p, BUS1_MAX_POOL + page, PROT_READ, MAP_SHARED, 0), EINVAL);
	ERR(map(&p, 2 * BUS1_MAX_POOL, PROT_READ, MAP_SHARED, 0), EINVAL);
	ERR(map(&p, page, PROT_READ, MAP_SHARED, (off_t)page), EINVAL);
	ERR(map(&p, 0, PROT_READ, MAP_SHARED, 0), EINVAL);
	EQ(peer_info(&p).pool_size, 0);

	p.pool = pool_map(p.fd, p.pool_size = 3 * page + 1);
	EQ(peer_info(&p).pool_size, 4 * page);
	EQ(peer_info(&p).pool_pages, 0);
	ERR(map(&p, page, PROT_READ | PROT_WRITE, MAP_SHARED, 0), EPERM);
	ERR(map(&p, page, PROT_READ | PROT_EXEC, MAP_SHARED, 0), EPERM);
	ERR(map(&p, page, PROT_READ, MAP_PRIVATE, 0), EINVAL);
}

TEST("MSG-4 the largest pool can be had")
{
	struct peer p = peer_new(0);
	u64 n = node_new(&p, 1);
	u8 data[5000];
	struct in in;

	p.pool = pool_map(p.fd, p.pool_size = BUS1_MAX_POOL);
	EQ(peer_info(&p).pool_size, BUS1_MAX_POOL);
	fill(data, sizeof(data), 1);
	OK(send_data(&p, n, data, sizeof(data)));
	OK(recv_now(&p, &in));
	MEM(in.data, data, sizeof(data));
	LE(peer_info(&p).pool_pages, 16);
}

TEST("MSG-4 further mappings cover any part of the pool, and no more")
{
	u8 data[2 * 4096 + 100];
	size_t page = page_size(), size = pool_for(sizeof(data));
	struct peer p = peer_new(size);
	u64 n = node_new(&p, 1);
	const u8 *again, *part;
	struct in in;

	again = pool_map(p.fd, size);
	part = mmap(NULL, size - page, PROT_READ, MAP_SHARED, p.fd, (off_t)page);
	CHECK(part != MAP_FAILED);
	ERR(map(&p, size + page, PROT_READ, MAP_SHARED, 0), EINVAL);
	ERR(map(&p, size, PROT_READ, MAP_SHARED, (off_t)page), EINVAL);
	ERR(map(&p, page, PROT_READ, MAP_SHARED, (off_t)size), EINVAL);
	ERR(map(&p, page, PROT_READ, MAP_SHARED, 1 << 30), EINVAL);
	if (sizeof(off_t) == 8)
		CHECK(map(&p, 2 * page, PROT_READ, MAP_SHARED,
			  (off_t)(INT64_MAX & ~(int64_t)0xfff)) < 0);
	EQ(peer_info(&p).pool_size, size);

	fill(data, sizeof(data), 1);
	OK(send_data(&p, n, data, sizeof(data)));
	OK(recv_now(&p, &in));
	MEM(in.data, data, sizeof(data));
	MEM(again + in.m.offset, data, sizeof(data));
	for (size_t i = page; i < in.m.offset + in.m.len; i += page)
		MEM(part + i - page, p.pool + i, i + page < in.m.offset + in.m.len ? page : 100);

	/* The pool is there without any. */
	OK(SYS(munmap((void *)p.pool, size)));
	OK(SYS(munmap((void *)again, size)));
	OK(SYS(munmap((void *)part, size - page)));
	EQ(peer_info(&p).pool_size, size);
	EQ(peer_info(&p).n_slices, 1);
	p.pool = pool_map(p.fd, size);
	MEM(p.pool + in.m.offset, data, sizeof(data));
}

static void check_prot(const void *addr)
{
	unsigned long start, end;
	char line[400], prot[5];
	FILE *f = fopen("/proc/self/maps", "r");

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx %4s", &start, &end, prot) != 3 ||
		    (unsigned long)addr < start || (unsigned long)addr >= end)
			continue;
		EQ(prot[1], '-');
		EQ(prot[2], '-');
		EQ(prot[3], 's');
	}
	fclose(f);
}

TEST("MSG-4 a mapping never becomes writable or executable")
{
	struct peer p = peer_new(4 * page_size());
	size_t page = page_size();
	void *pool = (void *)p.pool;
	u64 n = node_new(&p, 1);
	u8 data[5000], evil[16];
	struct in in;
	int fds[2];

	fill(data, sizeof(data), 1);
	memset(evil, 0xe1, sizeof(evil));
	OK(send_data(&p, n, data, sizeof(data)));
	OK(recv_now(&p, &in));
	ERR(SYS(mprotect(pool, page, PROT_WRITE)), EACCES);
	ERR(SYS(mprotect(pool, 4 * page, PROT_READ | PROT_WRITE)), EACCES);
	ERR(SYS(mprotect(pool, page, PROT_EXEC)), EACCES);
	ERR(SYS(mprotect(pool, 4 * page, PROT_READ | PROT_EXEC)), EACCES);
	ERR(SYS(mprotect(pool, page, PROT_READ | PROT_WRITE | PROT_EXEC)), EACCES);
	OK(SYS(mprotect(pool, 4 * page, PROT_NONE)));
	ERR(SYS(mprotect(pool, 4 * page, PROT_READ | PROT_WRITE)), EACCES);
	OK(SYS(mprotect(pool, 4 * page, PROT_READ)));
	check_prot(pool);

	/* The kernel does not write there, either, for whoever asks. */
	OK(SYS(pipe2(fds, O_CLOEXEC)));
	EQ(write(fds[1], evil, sizeof(evil)), sizeof(evil));
	ERR(SYS(read(fds[0], pool, sizeof(evil))), EFAULT);
	int mem = (int)OK(SYS(open("/proc/self/mem", O_RDWR | O_CLOEXEC)));
	CHECK(pwrite(mem, evil, sizeof(evil), (off_t)(uintptr_t)pool) < 0);
	struct iovec local = { evil, sizeof(evil) }, remote = { pool, sizeof(evil) };
	CHECK(process_vm_writev(getpid(), &local, 1, &remote, 1, 0) < 0);
	MEM(in.data, data, sizeof(data));

	/* A debugger does not, either. */
	pid_t pid = test_fork();
	if (!pid) {
		OK(SYS(ptrace(PTRACE_TRACEME, 0, 0, 0)));
		raise(SIGSTOP);
		_exit(0);
	}
	int status;
	OK(SYS(waitpid(pid, &status, 0)));
	CHECK(WIFSTOPPED(status));
	CHECK(ptrace(PTRACE_POKEDATA, pid, pool, (void *)0x41414141) < 0);
	OK(SYS(ptrace(PTRACE_CONT, pid, 0, 0)));
	test_wait(pid);
	MEM(in.data, data, sizeof(data));

	CHECK(ftruncate(p.fd, 0) < 0);
	CHECK(fallocate(p.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)page) < 0);
	madvise(pool, 4 * page, MADV_REMOVE);
	madvise(pool, 4 * page, MADV_FREE);
	madvise(pool, 4 * page, MADV_PAGEOUT);
	madvise(pool, 4 * page, MADV_DONTNEED);
	MEM(in.data, data, sizeof(data));
	check_prot(pool);
}

TEST("MSG-4 not for a personality, either, whose every mapping is executable")
{
	struct peer p = peer_new(0);
	u64 n = node_new(&p, 1);
	const u8 *pool;
	u8 data[3000] = {};

	OK(SYS(personality(READ_IMPLIES_EXEC)));
	pool = mmap(NULL, page_size(), PROT_READ, MAP_SHARED, p.fd, 0);
	if (pool == MAP_FAILED) {
		EQ(errno, EPERM);
		EQ(peer_info(&p).pool_size, 0);
		return;
	}
	OK(send_data(&p, n, data, sizeof(data)));
	check_prot(pool);
	mprotect((void *)pool, page_size(), PROT_READ);
	check_prot(pool);
}

static sigjmp_buf bus_jump;

static void on_bus(int sig)
{
	siglongjmp(bus_jump, sig);
}

TEST("MSG-4 what was never backed raises SIGBUS")
{
	struct peer p = peer_new(16 * page_size());
	struct sigaction sa = { .sa_handler = on_bus, .sa_flags = SA_NODEFER };
	u64 n = node_new(&p, 1);
	size_t readable_pages = 0;
	u8 page[4096], data[10000] = {};

	OK(SYS(sigaction(SIGBUS, &sa, NULL)));
	for (volatile int i = 0; i < 16; i++) {
		volatile int sig = sigsetjmp(bus_jump, 1);

		if (!sig) {
			(void)*(volatile const u8 *)(p.pool + (size_t)i * page_size() + 7);
			FAIL("page %d can be read", i);
		}
		EQ(sig, SIGBUS);
	}
	EQ(peer_info(&p).pool_pages, 0);

	/* As much can be read as is backed. */
	OK(send_data(&p, n, data, sizeof(data)));
	for (int i = 0; i < 16; i++)
		readable_pages += page_readable(p.pool + (size_t)i * page_size(), page);
	EQ(readable_pages, peer_info(&p).pool_pages);
	GE(readable_pages, 3);
	LT(readable_pages, 16);
	/* Mapping it all at once is no access. */
	CHECK(mmap(NULL, 16 * page_size(), PROT_READ, MAP_SHARED | MAP_POPULATE, p.fd, 0) !=
	      MAP_FAILED);
}

TEST("MSG-4 a mapping does not grow over what is no pool")
{
	struct peer p = peer_new(2 * page_size());
	size_t page = page_size();
	u8 copy[4096];
	void *m;

	m = mremap((void *)p.pool, 2 * page, 8 * page, MREMAP_MAYMOVE);
	if (m == MAP_FAILED)
		return;
	for (int i = 2; i < 8; i++)
		CHECK(!page_readable((u8 *)m + (size_t)i * page, copy));
	check_prot(m);
}

/* Every byte that can be read of the pool, in `all`; what can not is 0. */
static void snapshot(const struct peer *p, u8 *all)
{
	memset(all, 0, p->pool_size);
	for (size_t i = 0; i < p->pool_size; i += page_size())
		if (!page_readable(p->pool + i, all + i))
			memset(all + i, 0, page_size());
}

TEST("MSG-4 padding is zero, whatever was there before")
{
	struct peer p = peer_new(64 * page_size());
	u64 n = node_new(&p, 1);
	size_t inl = peer_info(&p).max_inline;
	size_t lens[] = { inl + 1, inl + 2, 511, 4095, 4097, 5001, 8191, 12289, 65535 };
	static u8 data[65536];
	u64 slices[40];
	struct in in;
	u32 n_slices;

	memset(data, 0xda, sizeof(data));
	for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
		struct bus1_cmd_info info;
		u64 padded;

		/* Every byte of the pool was something, but for the last few. */
		n_slices = fill_pool(&p, n, 0x5e, slices, ARRAY_SIZE(slices));
		OK(ids_cmd(&p, BUS1_CMD_SLICE_RELEASE, 0, slices, n_slices));

		OK(send_data(&p, n, data, lens[i]));
		info = peer_info(&p);
		padded = info.pool_used;
		GE(padded, lens[i]);
		OK(recv_now(&p, &in));
		LE(in.m.offset + padded, p.pool_size - 5 * 64);
		MEM(in.data, data, lens[i]);
		for (u64 j = lens[i]; j < padded; j++)
			EQ(in.data[j], 0);
		OK(slice_release(&p, in.m.slice));
		EQ(peer_info(&p).pool_used, 0);
	}
}

TEST("MSG-4 a new pool shows none of what an older one held")
{
	static u8 secret[32 * 4096], data[300], all[32 * 4096];

	memset(secret, 0x5e, sizeof(secret));
	memset(data, 0xda, sizeof(data));
	for (int round = 0; round < 8; round++) {
		struct peer a = peer_new(pool_for(sizeof(secret))), b;
		u64 na = node_new(&a, 1), nb;
		size_t sent = 0;

		OK(send_data(&a, na, secret, sizeof(secret)));
		peer_close(&a);
		b = peer_new(sizeof(all));
		nb = node_new(&b, 2);
		for (int i = 0; i < 40; i++)
			OK(send_data(&b, nb, data, sizeof(data)));
		snapshot(&b, all);
		for (size_t i = 0; i < sizeof(all); i++) {
			CHECK(all[i] == 0 || all[i] == 0xda);
			sent += all[i] == 0xda;
		}
		EQ(sent, 40 * sizeof(data));
		peer_close(&b);
	}
}

/* No byte 0x5e stands in the pool. */
#define no_secret(p) no_secret_at(__LINE__, p)

static void no_secret_at(int line, const struct peer *p)
{
	u8 *all = malloc(p->pool_size);

	CHECK(all);
	snapshot(p, all);
	for (size_t i = 0; i < p->pool_size; i++)
		if (all[i] == 0x5e)
			test_fail(__FILE__, line, "offset %zu shows a byte that was not sent", i);
	free(all);
}

TEST("MSG-4 a copy that was aborted leaves nothing to be read")
{
	size_t pool = pool_for(200000 + 5000);
	struct peer a = peer_new(0), b = peer_new(pool), c = peer_new(pool);
	u64 nb = node_new(&b, 1), nc = node_new(&c, 2);
	u64 to[] = { grant(&b, nb, &a), grant(&c, nc, &a), 0 };
	struct peer small = peer_new(0);
	size_t good[] = { 1, 100, 4095, 4096, 5000, 40000, 200000 };
	u8 ok[3000];
	struct in in;

	to[2] = grant(&small, node_new(&small, 3), &a);
	memset(ok, 0xda, sizeof(ok));
	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
			u8 *data = edge_alloc(good[i]);
			struct bus1_iovec iov[3];

			memset(data, 0x5e, good[i]);
			/* The source ends too early; in one part, or in three. */
			ERR(send_data(&a, to[0], data, good[i] + 5000), EFAULT);
			no_secret(&b);
			iov[0] = (struct bus1_iovec){ PTR(data), good[i] };
			iov[1] = (struct bus1_iovec){ PTR(data), good[i] < 3000 ? good[i] : 3000 };
			iov[2] = (struct bus1_iovec){ PTR(data) + good[i] - 1, 2000 };
			ERR(send_cmd(&a, &(struct bus1_cmd_send){
				.dests = PTR(to), .n_dests = 2, .iovs = PTR(iov), .n_iovs = 3 }),
			    EFAULT);
			no_secret(&b);
			no_secret(&c);
			/* A copy that was whole: but a handle is not known, or */
			ERR(send_cmd(&a, &(struct bus1_cmd_send){
				.dests = PTR(to), .n_dests = 2, .data = PTR(data),
				.len = good[i], .n_handles = 1,
				.handles = PTR((&(struct bus1_pass){ .id = 99999 })) }), ENXIO);
			no_secret(&b);
			no_secret(&c);
			/* another destination does not take it. */
			if (good[i] >= 5000)
				ERR(send_cmd(&a, &(struct bus1_cmd_send){
					.dests = PTR(to), .n_dests = 3, .data = PTR(data),
					.len = good[i] }), EMSGSIZE);
			no_secret(&b);
			no_secret(&c);
			EQ(peer_info(&b).pool_used, 0);
			/* What comes next, to the same place. */
			OK(send_many(&a, 0, to, 2, NULL, "x"));
			GOT_TEXT(&b, nb, "x");
			GOT_TEXT(&c, nc, "x");
			OK(send_data(&a, to[0], ok, sizeof(ok)));
			OK(recv_now(&b, &in));
			MEM(in.data, ok, sizeof(ok));
			no_secret(&b);
			OK(slice_release(&b, in.m.slice));
		}
	}
}

TEST("MSG-3 slices are reused, and never overlap")
{
	enum { LIVE = 12 };
	struct peer p = peer_new(1 << 20);
	u64 n = node_new(&p, 1);
	static u8 data[100000];
	struct { u64 slice, offset, len, seed; } live[LIVE] = {};
	unsigned int full = 0, sent = 0;
	struct in in;

	srandom(3);
	for (unsigned int i = 0; i < test_rounds(1500); i++) {
		unsigned int k = (unsigned int)random() % LIVE;
		size_t len = 257 + (size_t)random() % (i % 3 ? 20000 : sizeof(data) - 300);
		int r;

		if (live[k].slice) {
			fill(data, live[k].len, live[k].seed);
			MEM(p.pool + live[k].offset, data, live[k].len);
			OK(slice_release(&p, live[k].slice));
			live[k].slice = 0;
		}
		fill(data, len, i);
		r = send_data(&p, n, data, len);
		if (r) {
			ERR(r, EAGAIN);
			full++;
			continue;
		}
		sent++;
		OK(recv_now(&p, &in));
		EQ(in.m.len, len);
		for (int j = 0; j < LIVE; j++)
			if (live[j].slice)
				CHECK(in.m.offset + len <= live[j].offset ||
				      live[j].offset + live[j].len <= in.m.offset);
		live[k].slice = in.m.slice;
		live[k].offset = in.m.offset;
		live[k].len = len;
		live[k].seed = i;
	}
	GT(sent, full);
	for (int j = 0; j < LIVE; j++)
		if (live[j].slice) {
			fill(data, live[j].len, live[j].seed);
			MEM(p.pool + live[j].offset, data, live[j].len);
			OK(slice_release(&p, live[j].slice));
		}
	EQ(peer_info(&p).pool_used, 0);
	EQ(peer_info(&p).n_slices, 0);
	/* It is one piece again: of each that is left, as large a part fits. */
	u64 slices[40];
	u32 n_slices = fill_pool(&p, n, 1, slices, ARRAY_SIZE(slices));
	EQ(peer_info(&p).n_slices, n_slices);
	GE(peer_info(&p).pool_used, (1 << 20) - 5 * 64);
	OK(ids_cmd(&p, BUS1_CMD_SLICE_RELEASE, 0, slices, n_slices));
}

TEST("MSG-3 a full pool says EAGAIN, until a slice is given back")
{
	struct peer p = peer_new(1 << 18);
	u64 n = node_new(&p, 1), slices[200], n_slices = 0, n_sent;
	static u8 data[(1 << 18) / 8 * 3];
	struct bus1_cmd_info before;
	struct in in;
	int r;

	/* What is received leaves room for more, the less of it the more there is. */
	do {
		n_sent = 0;
		while (!(r = send_data(&p, n, data, 4000)))
			LT(n_slices + ++n_sent, 200);
		ERR(r, EAGAIN);
		if (!n_slices)
			EQ(n_sent, sizeof(data) / 4032);
		for (u64 i = 0; i < n_sent; i++) {
			OK(recv_now(&p, &in));
			slices[n_slices++] = in.m.slice;
		}
	} while (n_sent);
	GE(n_slices, (1 << 18) / 4096 - 3);
	before = peer_info(&p);
	ERR(send_data(&p, n, data, 4000), EAGAIN);
	SAME_INFO(&p, &before);
	OK(send_str(&p, n, "inline goes"));
	GOT_TEXT(&p, n, "inline goes");
	OK(slice_release(&p, slices[n_slices / 2]));
	OK(send_data(&p, n, data, 4000));
	ERR(send_data(&p, n, data, 4000), EAGAIN);
	OK(recv_now(&p, &in));
	slices[n_slices / 2] = in.m.slice;
	OK(ids_cmd(&p, BUS1_CMD_SLICE_RELEASE, 0, slices, (u32)n_slices));
	/* Dropping does. */
	OK(send_data(&p, n, data, sizeof(data)));
	ERR(send_data(&p, n, data, 4000), EAGAIN);
	OK(drop_now(&p, &in.m));
	OK(send_data(&p, n, data, sizeof(data)));
	/* And so does the end of the node. */
	ERR(send_data(&p, n, data, 4000), EAGAIN);
	OK(destroy(&p, n));
	n = node_new(&p, 2);
	OK(send_data(&p, n, data, sizeof(data)));
}

TEST("MSG-3 an inline payload takes nothing of the pool")
{
	struct peer p = peer_new(1 << 16);
	u64 n = node_new(&p, 1);
	u8 data[4096] = {};
	size_t inl = peer_info(&p).max_inline;

	for (int i = 0; i < 10; i++)
		OK(send_data(&p, n, data, inl));
	EQ(peer_info(&p).n_slices, 0);
	EQ(peer_info(&p).pool_used, 0);
	EQ(peer_info(&p).pool_pages, 0);
}

struct mapper {
	int fd;
	size_t size;
	int r;
	bool *go;
};

static void map_first(void *arg)
{
	struct mapper *t = arg;
	void *m;

	while (!__atomic_load_n(t->go, __ATOMIC_ACQUIRE))
		sched_yield();
	m = mmap(NULL, t->size, PROT_READ, MAP_SHARED, t->fd, 0);
	t->r = m == MAP_FAILED ? -errno : 0;
}

TEST("MSG-4 of two first mappings one makes the pool")
{
	for (unsigned int i = 0; i < test_rounds(100); i++) {
		struct peer p = peer_new(0);
		bool go = false;
		struct mapper small = { p.fd, page_size(), 0, &go };
		struct mapper large = { p.fd, 4 * page_size(), 0, &go };
		struct test_thread s, l;
		u64 size;

		test_start(&s, map_first, &small);
		test_start(&l, map_first, &large);
		__atomic_store_n(&go, true, __ATOMIC_RELEASE);
		test_join(&s);
		test_join(&l);
		size = peer_info(&p).pool_size;
		EQ(small.r, 0);
		if (large.r) {
			EQ(large.r, -EINVAL);
			EQ(size, page_size());
		} else {
			EQ(size, 4 * page_size());
		}
		close(p.fd);
	}
}

static void map_and_unmap(void *arg)
{
	struct mapper *t = arg;
	u8 page[4096];

	while (!__atomic_load_n(t->go, __ATOMIC_ACQUIRE)) {
		const u8 *pool = pool_map(t->fd, t->size);

		page_readable(pool, page);
		OK(SYS(munmap((void *)pool, t->size)));
	}
}

TEST("MSG-4 mapped and unmapped while messages come")
{
	struct peer p = peer_new(pool_for(1 << 16));
	u64 n = node_new(&p, 1);
	bool stop = false;
	struct mapper m = { p.fd, 1 << 16, 0, &stop };
	struct test_thread t;
	u8 data[9000];
	struct in in;

	/* As much of it as is mapped, so that pages are backed. */
	fill(data, sizeof(data), 0);
	for (int i = 0; i < 7; i++)
		OK(send_data(&p, n, data, sizeof(data)));
	for (int i = 0; i < 7; i++) {
		OK(recv_now(&p, &in));
		OK(slice_release(&p, in.m.slice));
	}
	test_start(&t, map_and_unmap, &m);
	for (unsigned int i = 0; i < test_rounds(1000); i++) {
		fill(data, sizeof(data), i);
		OK(send_data(&p, n, data, sizeof(data)));
		OK(recv_now(&p, &in));
		MEM(in.data, data, sizeof(data));
		OK(slice_release(&p, in.m.slice));
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	test_join(&t);
}
