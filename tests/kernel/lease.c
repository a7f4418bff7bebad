// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-8: memory of the caller's that the server reads and writes during a call. */
#include "call.h"
#include "tar.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define READ BUS1_LEASE_READ
#define WRITE BUS1_LEASE_WRITE

/* A call with leases that is being served. */
struct scene {
	struct pair w;
	struct bus1_lease lease[BUS1_MAX_LEASES];
	u32 n;
	struct call c;
	u64 token;
};

static void add(struct scene *s, const void *base, size_t len, u32 flags)
{
	s->lease[s->n++] = (struct bus1_lease){ .base = PTR(base), .len = len, .flags = flags };
}

static void serve_with(struct scene *s, u64 deadline)
{
	struct in in;

	call_init_str(&s->c, &s->w.a, s->w.to_b, "lend");
	s->c.cmd.leases = s->n ? PTR(s->lease) : 0;
	s->c.cmd.n_leases = s->n;
	s->c.cmd.recv.deadline = deadline;
	call_start(&s->c);
	s->token = GOT_CALL_IN(&s->w.b, s->w.nb, "lend", &in);
	EQ(in.m.n_leases, s->n);
}

static void answered(struct scene *s, u32 flags)
{
	OK(answer_str(&s->w.b, s->token, "done"));
	OK(call_join(&s->c));
	EQ(s->c.in.m.type, BUS1_MSG_REPLY);
	EQ(s->c.in.m.flags, flags);
	EQ(s->c.in.m.len, 4);
	s->n = 0;
}

static int copy(struct scene *s, u32 flags, u32 index, u64 offset, void *data, u64 len)
{
	return lease(&s->w.b, s->token, flags, index, offset, data, len);
}

static u8 *pages_new(size_t n)
{
	u8 *p = mmap(NULL, n * page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		     -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

TEST("CALL-8 the server reads and writes what the call lends")
{
	struct scene s = { .w = pair_new() };
	u8 in[300], out[300] = {}, both[100], got[300], was[100];

	fill(in, sizeof(in), 1);
	fill(both, sizeof(both), 2);
	memcpy(was, both, sizeof(both));
	add(&s, in, sizeof(in), READ);
	add(&s, out, sizeof(out), WRITE);
	add(&s, both, sizeof(both), READ | WRITE);
	serve_with(&s, 0);
	OK(copy(&s, READ, 0, 0, got, 300));
	MEM(got, in, 300);
	OK(copy(&s, READ, 0, 299, got, 1));
	EQ(got[0], in[299]);
	OK(copy(&s, READ, 0, 100, got, 17));
	MEM(got, in + 100, 17);
	OK(copy(&s, WRITE, 1, 100, in, 50));
	MEM(out + 100, in, 50);
	for (int i = 0; i < 300; i++)
		if (i < 100 || i >= 150)
			EQ(out[i], 0);
	OK(copy(&s, READ, 2, 0, got, 100));
	MEM(got, was, 100);
	memset(got, 'z', 100);
	OK(copy(&s, WRITE, 2, 50, got, 50));
	MEM(both, was, 50);
	MEM(both + 50, got, 50);
	/* Nothing at all, at the very end. */
	OK(copy(&s, READ, 0, 300, NULL, 0));
	answered(&s, 0);
	pair_close(&s.w);
}

TEST("CALL-8 between two processes, with ranges across pages, of every alignment")
{
	enum { BIG = 700000 };
	struct pair w = pair_new();
	u8 *mem = malloc(BIG + 5000), *got = malloc(BIG + 5000);
	struct bus1_lease l[2];
	pid_t pid;

	CHECK(mem && got);
	pid = test_fork();
	if (!pid) {
		struct call c;

		fill(mem, BIG + 5000, 3);
		l[0] = (struct bus1_lease){ PTR(mem), BIG + 5000, READ | WRITE, 0 };
		call_init_str(&c, &w.a, w.to_b, "lend");
		c.cmd.leases = PTR(l);
		c.cmd.n_leases = 1;
		OK(call_make(&c));
		REPLIED(&c, "");
		/* Each byte was written, inverted. */
		fill(got, BIG + 5000, 3);
		for (size_t i = 0; i < BIG; i++)
			EQ(mem[i], (u8)~got[i]);
		for (size_t i = BIG; i < BIG + 5000; i++)
			EQ(mem[i], got[i]);
		_exit(0);
	}
	fill(mem, BIG + 5000, 3);
	test_asleep(pid, pid);
	u64 token = GOT_CALL(&w.b, w.nb, "lend");

	for (size_t at = 0, n = 1, k = 0; at < BIG; at += n, k++) {
		n = k % 3 == 0 ? 1 + k : k % 3 == 1 ? 4096 : 9000 + k * 7;
		if (n > BIG - at)
			n = BIG - at;
		OK(lease(&w.b, token, READ, 0, at, got + at + k % 8, n));
		MEM(got + at + k % 8, mem + at, n);
		for (size_t i = 0; i < n; i++)
			got[at + k % 8 + i] = (u8)~mem[at + i];
		OK(lease(&w.b, token, WRITE, 0, at, got + at + k % 8, n));
	}
	OK(answer(&w.b, token, NULL, 0));
	test_wait(pid);
	pair_close(&w);
}

TEST("CALL-8 what is not lent, in that direction, to that length")
{
	struct scene s = { .w = pair_new() };
	struct peer other = peer_new(0);
	u8 r[100], wr[100], got[200], before[100];

	fill(r, 100, 4);
	fill(wr, 100, 5);
	memcpy(before, wr, 100);
	add(&s, r, 100, READ);
	add(&s, wr, 100, WRITE);
	serve_with(&s, 0);
	memset(got, 7, sizeof(got));
	ERR(copy(&s, WRITE, 0, 0, got, 10), EPERM);
	ERR(copy(&s, READ, 1, 0, got, 10), EPERM);
	ERR(copy(&s, READ, 0, 0, got, 101), ERANGE);
	ERR(copy(&s, READ, 0, 1, got, 100), ERANGE);
	ERR(copy(&s, READ, 0, 100, got, 1), ERANGE);
	ERR(copy(&s, READ, 0, 101, got, 0), ERANGE);
	ERR(copy(&s, READ, 0, UINT64_MAX, got, 2), ERANGE);
	ERR(copy(&s, READ, 0, 2, got, UINT64_MAX), ERANGE);
	ERR(copy(&s, READ, 0, UINT64_MAX - 5, got, 20), ERANGE);
	ERR(copy(&s, READ, 0, 1ULL << 32, got, 10), ERANGE);
	ERR(copy(&s, WRITE, 1, 50, got, 51), ERANGE);
	ERR(copy(&s, READ, 2, 0, got, 1), ENXIO);
	ERR(copy(&s, READ, UINT32_MAX, 0, got, 1), ENXIO);
	ERR(copy(&s, 0, 0, 0, got, 1), EINVAL);
	ERR(copy(&s, READ | WRITE, 0, 0, got, 1), EINVAL);
	ERR(copy(&s, 4, 0, 0, got, 1), EINVAL);
	/* Another's token, and none. */
	ERR(lease(&other, s.token, READ, 0, 0, got, 1), ENXIO);
	ERR(lease(&s.w.a, s.token, READ, 0, 0, got, 1), ENXIO);
	ERR(lease(&s.w.b, s.token + 1, READ, 0, 0, got, 1), ENXIO);
	ERR(lease(&s.w.b, 0, READ, 0, 0, got, 1), ENXIO);
	for (int i = 0; i < 200; i++)
		EQ(got[i], 7);
	MEM(wr, before, 100);
	answered(&s, 0);
	/* A call without any. */
	serve_with(&s, 0);
	ERR(copy(&s, READ, 0, 0, got, 1), ENXIO);
	answered(&s, 0);
	peer_close(&other);
	pair_close(&s.w);
}

TEST("CALL-8 nothing is lent any more once the call is over, however it ended")
{
	u8 mem[5000], got[5000], was[5000];

	fill(mem, sizeof(mem), 6);
	memcpy(was, mem, sizeof(mem));
	memset(got, 1, sizeof(got));
	catch_signal(SIGUSR1, 0);
	for (int how = 0; how < 4; how++) {
		struct scene s = { .w = pair_new() };
		int gone = how == 2 || how == 3 ? ECANCELED : ENXIO;

		add(&s, mem, sizeof(mem), READ | WRITE);
		serve_with(&s, how == 2 ? test_now() + 300000000ULL * test_slow() : 0);
		switch (how) {
		case 0:
			answered(&s, 0);
			break;
		case 1:
			OK(answer_drop(&s.w.b, s.token));
			ERR(call_join(&s.c), ECONNABORTED);
			break;
		case 2:
			ERR(call_join(&s.c), ETIMEDOUT);
			break;
		default:
			pthread_kill(s.c.thread.thread, SIGUSR1);
			ERR(call_join(&s.c), EINTR);
		}
		ERR(copy(&s, READ, 0, 0, got, 5000), gone);
		ERR(copy(&s, WRITE, 0, 0, got, 5000), gone);
		MEM(mem, was, 5000);
		for (size_t i = 0; i < sizeof(got); i++)
			EQ(got[i], 1);
		if (gone == ECANCELED) {
			GOT_CANCELLED(&s.w.b, s.token);
			ERR(answer_str(&s.w.b, s.token, "x"), ECANCELED);
		}
		pair_close(&s.w);
	}
}

TEST("CALL-8 a process that is killed lends nothing any more")
{
	struct pair w = pair_new();
	u8 mem[100] = {}, got[100];
	struct bus1_lease l = { PTR(mem), sizeof(mem), READ | WRITE, 0 };
	struct call c;
	u64 token;
	pid_t pid;

	pid = test_fork();
	if (!pid) {
		call_init_str(&c, &w.a, w.to_b, "lend");
		c.cmd.leases = PTR(&l);
		c.cmd.n_leases = 1;
		call_make(&c);
		FAIL("it has returned");
	}
	test_asleep(pid, pid);
	token = GOT_CALL(&w.b, w.nb, "lend");
	OK(lease(&w.b, token, READ, 0, 0, got, 100));
	test_kill(pid);
	ERR(lease(&w.b, token, READ, 0, 0, got, 100), ECANCELED);
	ERR(lease(&w.b, token, WRITE, 0, 0, got, 100), ECANCELED);
	GOT_CANCELLED(&w.b, token);
	ERR(answer_str(&w.b, token, "x"), ECANCELED);
	pair_close(&w);
}

TEST("CALL-8 a fault of the server's is EFAULT, and nobody else's business")
{
	struct scene s = { .w = pair_new() };
	size_t page = page_size();
	u8 *mem = pages_new(3), *edge;

	fill(mem, 3 * page, 8);
	add(&s, mem, 3 * page, READ | WRITE);
	serve_with(&s, 0);
	for (size_t i = 0; i < n_bad_addresses; i++) {
		ERR(copy(&s, READ, 0, 0, (void *)(uintptr_t)bad_addresses[i], 100), EFAULT);
		ERR(copy(&s, WRITE, 0, 0, (void *)(uintptr_t)bad_addresses[i], 100), EFAULT);
	}
	ERR(copy(&s, READ, 0, 0, read_only("x", 1), 10), EFAULT);
	/* What is there is copied, by whole pages. */
	edge = edge_alloc(page);
	memset(edge, 0, page);
	ERR(copy(&s, READ, 0, 0, edge, 2 * page), EFAULT);
	MEM(edge, mem, page);
	/* The token is as good as before. */
	OK(copy(&s, READ, 0, 0, edge, page));
	MEM(edge, mem, page);
	answered(&s, 0);
	pair_close(&s.w);
}

TEST("CALL-8 a fault of the caller's is EREMOTEIO, and the caller is told")
{
	size_t page = page_size();

	for (int how = 0; how < 6; how++) {
		struct scene s = { .w = pair_new() };
		u8 *mem = pages_new(4), *got = pages_new(4);
		bool writes = how == 1 || how == 5;
		u64 base = PTR(mem);

		fill(mem, 4 * page, 9);
		fill(got, 4 * page, 10);
		if (how == 2)
			base = 8;
		/* Not even an address: that is not looked at before it is used. */
		if (how == 3)
			base = 0xffff888000001000;
		s.lease[s.n++] = (struct bus1_lease){ base, 4 * page, READ | WRITE, 0 };
		call_init_str(&s.c, &s.w.a, s.w.to_b, "lend");
		s.c.cmd.leases = PTR(s.lease);
		s.c.cmd.n_leases = 1;
		call_start(&s.c);
		s.token = GOT_CALL(&s.w.b, s.w.nb, "lend");
		/* Taken away while it is lent. */
		if (how == 0)
			OK(SYS(munmap(mem, 4 * page)));
		if (how == 1)
			OK(SYS(mprotect(mem, 4 * page, PROT_READ)));
		if (how == 4)
			OK(SYS(munmap(mem + 2 * page, 2 * page)));
		if (how == 5)
			OK(SYS(mprotect(mem + page, page, PROT_NONE)));
		if (how == 1) {
			OK(copy(&s, READ, 0, 0, got, page));
			MEM(got, mem, page);
		}
		ERR(copy(&s, writes ? WRITE : READ, 0, 0, got, 4 * page), EREMOTEIO);
		if (how == 4)
			MEM(got, mem, 2 * page);
		if (how == 5) {
			MEM(mem, got, page);
			OK(SYS(mprotect(mem, 4 * page, PROT_READ | PROT_WRITE)));
			/* It is there again, and the token is good. */
			OK(copy(&s, WRITE, 0, 0, got, 4 * page));
			MEM(mem, got, 4 * page);
		}
		answered(&s, BUS1_MSG_F_FAULT);
		/* Of that call alone. */
		serve_with(&s, 0);
		answered(&s, 0);
		pair_close(&s.w);
	}
}

TEST("CALL-8 sixteen leases, and what is wrong with one")
{
	struct pair w = pair_new();
	struct bus1_lease l[BUS1_MAX_LEASES + 1];
	struct snapshot before = SNAPSHOT(&w.a, &w.b);
	u8 mem[BUS1_MAX_LEASES + 1];
	struct call c;
	u64 token;

#define BAD(err, ...)								\
	do {									\
		for (u32 i_ = 0; i_ < ARRAY_SIZE(l); i_++) {			\
			mem[i_] = (u8)i_;					\
			l[i_] = (struct bus1_lease){ PTR(&mem[i_]), 1, READ, 0 };	\
		}								\
		call_init_str(&c, &w.a, w.to_b, "x");				\
		c.cmd.leases = PTR(l);						\
		c.cmd.n_leases = BUS1_MAX_LEASES;				\
		__VA_ARGS__;							\
		if (err) {							\
			ERR(call_make(&c), err);				\
			SAME_SNAPSHOT(&before);					\
		}								\
	} while (0)
	BAD(EMSGSIZE, c.cmd.n_leases = BUS1_MAX_LEASES + 1);
	BAD(EMSGSIZE, c.cmd.n_leases = UINT32_MAX; c.cmd.leases = 8);
	BAD(EINVAL, c.cmd.n_leases = 0);
	BAD(EINVAL, l[15].flags = 0);
	BAD(EINVAL, l[7].flags = 4 | READ);
	BAD(EINVAL, l[0].flags = 1u << 31);
	BAD(EINVAL, l[15].reserved = 1);
	BAD(EINVAL, l[3].base = UINT64_MAX; l[3].len = 1);
	BAD(EFAULT, c.cmd.leases = 0);
	BAD(EFAULT, c.cmd.leases = 8);
	BAD(EFAULT, c.cmd.leases = PTR(edge_alloc(8)));
	BAD(EINVAL, c.cmd.flags = BUS1_CALL_ASYNC; c.cmd.recv = (struct bus1_cmd_recv){});
	BAD(0);
#undef BAD
	call_start(&c);
	token = GOT_CALL(&w.b, w.nb, "x");
	for (u32 i = 0; i < BUS1_MAX_LEASES; i++) {
		u8 got = 99;

		OK(lease(&w.b, token, READ, i, 0, &got, 1));
		EQ(got, i);
	}
	OK(answer_str(&w.b, token, "y"));
	call_join(&c);
	REPLIED(&c, "y");
	pair_close(&w);
}

/* A copy that gets stuck in the middle. */
struct copier {
	struct test_thread thread;
	struct scene *s;
	u32 flags;
	u8 *data;
	u64 len;
	int r;
};

static void copy_slowly(void *arg)
{
	struct copier *t = arg;

	t->r = copy(t->s, t->flags, 0, 0, t->data, t->len);
}

TEST_LONG("CALL-8 the caller leaves during a copy: what it has is its own from then on", 60)
{
	size_t page = page_size();

	catch_signal(SIGUSR1, 0);
	for (int how = 0; how < 4; how++) {
		struct scene s = { .w = pair_new() };
		u8 *mem = pages_new(4), *was = pages_new(4);
		struct tar t = tar_new();
		struct copier copier = { .s = &s, .flags = how & 1 ? WRITE : READ,
					 .data = t.mem, .len = 4 * page };

		fill(mem, 4 * page, 11);
		add(&s, mem, 4 * page, READ | WRITE);
		serve_with(&s, how & 2 ? test_now() + 500000000ULL * test_slow() : 0);
		/* The server's own memory is what it gets stuck in. */
		test_start(&copier.thread, copy_slowly, &copier);
		tar_wait(&t);
		if (!(how & 2))
			pthread_kill(s.c.thread.thread, SIGUSR1);
		ERR(call_join(&s.c), how & 2 ? ETIMEDOUT : EINTR);
		memcpy(was, mem, 4 * page);
		memset(mem + 2 * page, 'k', page);
		memset(was + 2 * page, 'k', page);
		tar_melt(&t);
		test_join(&copier.thread);
		ERR(copier.r, ECANCELED);
		MEM(mem, was, 4 * page);
		/* And the server has nothing of what came into it since. */
		if (!(how & 1))
			for (size_t i = 2 * page; i < 3 * page; i++)
				NE(t.mem[i], 'k');
		GOT_CANCELLED(&s.w.b, s.token);
		ERR(answer_str(&s.w.b, s.token, "x"), ECANCELED);
		pair_close(&s.w);
	}
}

TEST("CALL-8 a reply by another thread during a copy ends what is lent")
{
	size_t page = page_size();
	struct scene s = { .w = pair_new() };
	u8 *mem = pages_new(4), *was = pages_new(4);
	struct tar t = tar_new();
	struct copier copier = { .s = &s, .flags = WRITE, .data = t.mem, .len = 4 * page };

	add(&s, mem, 4 * page, READ | WRITE);
	serve_with(&s, 0);
	test_start(&copier.thread, copy_slowly, &copier);
	tar_wait(&t);
	OK(answer_str(&s.w.b, s.token, "done"));
	OK(call_join(&s.c));
	memcpy(was, mem, 4 * page);
	tar_melt(&t);
	test_join(&copier.thread);
	CHECK(copier.r == -ENXIO || copier.r == -ECANCELED);
	MEM(mem, was, 4 * page);
	pair_close(&s.w);
}

TEST_LONG("CALL-8 a server that is stuck in its caller's memory can be killed, and the caller leaves", 60)
{
	struct scene s = { .w = pair_new() };
	struct tar t = tar_new();
	pid_t pid;

	add(&s, t.mem, 2 * page_size(), READ | WRITE);
	serve_with(&s, test_now() + 1000000000ULL * test_slow());
	pid = test_fork();
	if (!pid) {
		u8 *got = pages_new(2);

		copy(&s, READ, 0, 0, got, 2 * page_size());
		_exit(0);
	}
	tar_wait(&t);
	ERR(call_join(&s.c), ETIMEDOUT);
	test_kill(pid);
	tar_melt(&t);
	GOT_CANCELLED(&s.w.b, s.token);
	ERR(answer_str(&s.w.b, s.token, "x"), ECANCELED);
	pair_close(&s.w);
}

TEST("CALL-8 leases of a call that goes on after a signal")
{
	struct scene s = { .w = pair_new() };
	u8 mem[50], got[50];

	fill(mem, 50, 12);
	catch_signal(SIGUSR1, SA_RESTART);
	add(&s, mem, 50, READ);
	serve_with(&s, 0);
	for (int i = 0; i < 3; i++) {
		pthread_kill(s.c.thread.thread, SIGUSR1);
		test_sleep_ms(5);
		test_asleep(getpid(), s.c.thread.tid);
		memset(got, 0, 50);
		OK(copy(&s, READ, 0, 0, got, 50));
		MEM(got, mem, 50);
	}
	answered(&s, 0);
	pair_close(&s.w);
}
