// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-8: what is lent while its caller is elsewhere, and a server that is interrupted in a copy. */
#include "call.h"
#include "tar.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define READ BUS1_LEASE_READ
#define WRITE BUS1_LEASE_WRITE

enum { LEN = 100 };

/* A call that lends `mem`, both ways, and is being served. */
struct loan {
	struct pair w;
	struct bus1_lease lease;
	struct call c;
	u64 token;
	u8 mem[LEN];
};

static void loan_init(struct loan *l, void *mem, size_t len)
{
	memset(l, 0, sizeof(*l));
	l->w = pair_new();
	fill(l->mem, LEN, 1);
	l->lease = (struct bus1_lease){ PTR(mem), len, READ | WRITE, 0 };
	call_init_str(&l->c, &l->w.a, l->w.to_b, "lend");
	l->c.cmd.leases = PTR(&l->lease);
	l->c.cmd.n_leases = 1;
}

static void loan_start(struct loan *l)
{
	call_start(&l->c);
	l->token = GOT_CALL(&l->w.b, l->w.nb, "lend");
}

/* Both ways it is as the caller has it. */
static void lends(struct loan *l, u8 value)
{
	u8 got[LEN];

	OK(lease(&l->w.b, l->token, READ, 0, 0, got, LEN));
	MEM(got, l->mem, LEN);
	memset(got, value, LEN);
	OK(lease(&l->w.b, l->token, WRITE, 0, 0, got, LEN));
	MEM(l->mem, got, LEN);
}

static void lends_nothing(struct loan *l)
{
	u8 was[LEN], got[LEN] = {}, zero[LEN] = {};

	memcpy(was, l->mem, LEN);
	ERR(lease(&l->w.b, l->token, READ, 0, 0, got, LEN), ECANCELED);
	MEM(got, zero, LEN);
	ERR(lease(&l->w.b, l->token, WRITE, 0, 0, got, LEN), ECANCELED);
	MEM(l->mem, was, LEN);
}

TEST("CALL-8 nothing is lent while the caller is in a signal handler, and then again")
{
	struct loan l;

	loan_init(&l, l.mem, LEN);
	loan_start(&l);
	for (u8 i = 0; i < 3; i++) {
		lends(&l, i);
		linger_start(l.c.thread.thread);
		lends_nothing(&l);
		linger_end();
		test_asleep(getpid(), l.c.thread.tid);
	}
	lends(&l, 9);
	OK(answer_str(&l.w.b, l.token, "done"));
	call_join(&l.c);
	REPLIED(&l.c, "done");
	pair_close(&l.w);
}

TEST("CALL-8 nothing is lent while the caller serves a nested request, and then again")
{
	struct loan l;
	u64 na, to_a;

	loan_init(&l, l.mem, LEN);
	na = node_new(&l.w.a, 1);
	to_a = grant(&l.w.a, na, &l.w.b);
	l.c.cmd.flags = BUS1_CALL_NESTED;
	loan_start(&l);
	for (u8 i = 0; i < 3; i++) {
		struct bus1_cmd_call back = { .send = { .dest = to_a }, .parent = l.token,
					      .cookie = i };

		lends(&l, i);
		OK(call_async_cmd(&l.w.b, &back));
		OK(call_join(&l.c));
		EQ(l.c.in.m.type, BUS1_MSG_CALL);
		lends_nothing(&l);
		OK(answer_str(&l.w.a, l.c.in.m.token, "served"));
		GOT_REPLY(&l.w.b, back.id, i, "served");
		lends_nothing(&l);
		l.c.cmd.recv = recv_into(&l.c.in, 0, 0);
		call_start(&l.c);
	}
	lends(&l, 9);
	OK(answer_str(&l.w.b, l.token, "done"));
	call_join(&l.c);
	REPLIED(&l.c, "done");
	pair_close(&l.w);
}

/* The caller is a child, whose memory is shared with its parent. */
static struct loan *loan_in_child(pid_t *pid)
{
	struct loan *l = mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(l != MAP_FAILED);
	loan_init(l, l->mem, LEN);
	*pid = test_fork();
	if (!*pid) {
		OK(call_make(&l->c));
		REPLIED(&l->c, "done");
		_exit(0);
	}
	test_asleep(*pid, *pid);
	l->token = GOT_CALL(&l->w.b, l->w.nb, "lend");
	return l;
}

static void await_stop(pid_t pid)
{
	int status;

	EQ(waitpid(pid, &status, WUNTRACED), pid);
	CHECK(WIFSTOPPED(status));
}

TEST("CALL-8 nothing is lent by who is stopped, or held by a debugger, and then again")
{
	for (int traced = 0; traced < 2; traced++) {
		pid_t pid;
		struct loan *l = loan_in_child(&pid);

		for (u8 i = 0; i < 3; i++) {
			lends(l, i);
			if (traced)
				OK(SYS(ptrace(PTRACE_ATTACH, pid, NULL, NULL)));
			else
				OK(SYS(kill(pid, SIGSTOP)));
			await_stop(pid);
			lends_nothing(l);
			if (traced)
				OK(SYS(ptrace(PTRACE_DETACH, pid, NULL, NULL)));
			else
				OK(SYS(kill(pid, SIGCONT)));
			test_asleep(pid, pid);
		}
		lends(l, 9);
		OK(answer_str(&l->w.b, l->token, "done"));
		test_wait(pid);
		pair_close(&l->w);
	}
}

struct copier {
	struct test_thread thread;
	struct loan *l;
	u64 flags;
	u8 *data;
	size_t len;
	int r;
};

static void copy_slowly(void *arg)
{
	struct copier *t = arg;

	t->r = lease(&t->l->w.b, t->l->token, t->flags, 0, 0, t->data, t->len);
}

static void copier_start(struct copier *t, struct loan *l, u64 flags, u8 *data, size_t len)
{
	*t = (struct copier){ .l = l, .flags = flags, .data = data, .len = len };
	test_start(&t->thread, copy_slowly, t);
}

TEST("CALL-8 a copy that is under way as its caller is stopped ends")
{
	for (int write = 0; write < 2; write++) {
		struct tar t = tar_new();
		struct copier copier;
		pid_t pid;
		struct loan *l = loan_in_child(&pid);

		/* All of it is in the first page, which is there; what is read goes to one that is not. */
		copier_start(&copier, l, write ? WRITE : READ, tar_edge(&t, 0), LEN);
		tar_wait(&t);
		OK(SYS(kill(pid, SIGSTOP)));
		await_stop(pid);
		tar_melt(&t);
		test_join(&copier.thread);
		/* It was read before that, or is not written any more. */
		EQ(copier.r, write ? -ECANCELED : 0);
		OK(SYS(kill(pid, SIGCONT)));
		test_asleep(pid, pid);
		lends(l, 7);
		OK(answer_str(&l->w.b, l->token, "done"));
		test_wait(pid);
		pair_close(&l->w);
	}
}

TEST("CALL-8 a signal ends a copy from memory that does not come, EINTR")
{
	size_t page = page_size();

	for (int how = 0; how < 4; how++) {
		bool write = how & 1, restarts = how & 2;
		struct tar t = tar_new();
		u8 *mem = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		struct copier copier;
		struct loan l;

		CHECK(mem != MAP_FAILED);
		memset(mem, 'm', 2 * page);
		catch_signal(SIGUSR1, restarts ? SA_RESTART : 0);
		loan_init(&l, t.mem, 2 * page);
		loan_start(&l);
		copier_start(&copier, &l, write ? WRITE : READ, mem, 2 * page);
		tar_wait(&t);
		EQ(pthread_kill(copier.thread.thread, SIGUSR1), 0);
		if (restarts) {
			/* It starts again, and gets stuck there again. */
			test_sleep_ms(20);
			CHECK(!__atomic_load_n(&copier.thread.done, __ATOMIC_ACQUIRE));
		} else {
			test_join(&copier.thread);
			ERR(copier.r, EINTR);
		}
		tar_melt(&t);
		if (restarts) {
			test_join(&copier.thread);
			OK(copier.r);
			/* What does not come reads as zero, once it is there. */
			EQ(write ? t.mem[2 * page - 1] : mem[2 * page - 1], write ? 'm' : 0);
		}
		/* The request is there to be answered, and its memory to be used. */
		OK(lease(&l.w.b, l.token, write ? WRITE : READ, 0, 0, mem, 2 * page));
		OK(answer_str(&l.w.b, l.token, "done"));
		call_join(&l.c);
		REPLIED(&l.c, "done");
		pair_close(&l.w);
	}
}
