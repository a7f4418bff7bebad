// SPDX-License-Identifier: GPL-2.0-or-later
#include "worker.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

struct attr attr_of(pid_t tid)
{
	struct attr a = { .size = sizeof(a) };

	OK(SYS(syscall(SYS_sched_getattr, tid, &a, sizeof(a), 0)));
	return a;
}

void attr_set(pid_t tid, struct attr a)
{
	a.size = sizeof(a);
	if (syscall(SYS_sched_setattr, tid, &a, 0) < 0) {
		if (errno == EPERM)
			SKIP("only for root");
		FAIL("sched_setattr: %s", strerrorname_np(errno));
	}
	/* The call leaves it as it is. */
	if (a.policy == SCHED_IDLE)
		OK(SYS(setpriority(PRIO_PROCESS, (id_t)tid, a.nice)));
}

void become(struct attr a)
{
	attr_set(0, a);
}

static bool is_real_time(const struct attr *a)
{
	return a->policy == SCHED_FIFO || a->policy == SCHED_RR;
}

static bool same(const struct attr *a, const struct attr *b)
{
	return a->policy == b->policy && a->priority == b->priority &&
	       (is_real_time(a) || a->nice == b->nice);
}

void is_at(const char *file, int line, pid_t tid, struct attr want)
{
	struct attr a = attr_of(tid);

	if (!same(&a, &want))
		test_fail(file, line, "policy %u, priority %u, nice %d, should be %u, %u, %d",
			  a.policy, a.priority, a.nice, want.policy, want.priority, want.nice);
}

void gets_to(const char *file, int line, pid_t tid, struct attr want)
{
	u64 end = test_deadline(10);
	struct attr a = attr_of(tid);

	while (!same(&a, &want) && test_now() < end) {
		test_sleep_ms(1);
		a = attr_of(tid);
	}
	is_at(file, line, tid, want);
}

static void work(void *arg)
{
	struct worker *w = arg;
	char byte;

	become(w->attr);
	while (read(w->pipe[0], &byte, 1) == 1) {
		w->next(w);
		__atomic_store_n(&w->next, NULL, __ATOMIC_RELEASE);
	}
}

void worker_start(struct worker *w, const struct peer *p, struct attr attr)
{
	memset(w, 0, sizeof(*w));
	w->p = p;
	w->attr = attr;
	OK(SYS(pipe(w->pipe)));
	test_start(&w->thread, work, w);
}

void go(struct worker *w, void (*what)(struct worker *w))
{
	__atomic_store_n(&w->next, what, __ATOMIC_RELEASE);
	EQ(write(w->pipe[1], "", 1), 1);
}

void await(struct worker *w)
{
	u64 end = test_deadline(30);

	while (__atomic_load_n(&w->next, __ATOMIC_ACQUIRE)) {
		LT(test_now(), end);
		test_sleep_ms(1);
	}
}

void step(struct worker *w, void (*what)(struct worker *w))
{
	go(w, what);
	await(w);
}

void worker_end(struct worker *w)
{
	await(w);
	close(w->pipe[1]);
	test_join(&w->thread);
	close(w->pipe[0]);
}

void do_recv(struct worker *w)
{
	w->r = recv_wait(w->p, &w->in);
	w->token = w->r ? 0 : w->in.m.token;
}

void do_call(struct worker *w)
{
	call_make(&w->c);
}

void do_async(struct worker *w)
{
	w->c.cmd.recv = (struct bus1_cmd_recv){};
	w->r = call_async_cmd(w->c.p, &w->c.cmd);
}

void do_reply(struct worker *w)
{
	w->r = answer_str(w->p, w->token, "reply");
}

void do_drop(struct worker *w)
{
	w->r = answer_drop(w->p, w->token);
}

void do_reply_recv(struct worker *w)
{
	w->r = answer_next(w->p, w->token, "reply", 5, 0, &w->in);
	w->token = w->r ? 0 : w->in.m.token;
}

void do_become(struct worker *w)
{
	struct attr a = w->attr;

	a.size = sizeof(a);
	w->r = (int)SYS(syscall(SYS_sched_setattr, 0, &a, 0));
}

void do_give_up_root(struct worker *w)
{
	const struct rlimit none = { 0, 0 };

	OK(SYS(setrlimit(RLIMIT_NICE, &none)));
	OK(SYS(setrlimit(RLIMIT_RTPRIO, &none)));
	/* Of this thread alone. */
	OK(SYS(syscall(SYS_setresuid, 1001, 1001, 1001)));
}

void served_make(struct served *s, struct attr client, struct attr server, u64 to)
{
	worker_start(&s->client, &s->w.a, client);
	worker_start(&s->server, &s->w.b, server);
	go(&s->server, do_recv);
	test_asleep(getpid(), s->server.thread.tid);
	IS_AT(s->server.thread.tid, server);
	call_init_str(&s->client.c, &s->w.a, to, "request");
	go(&s->client, do_call);
	await(&s->server);
	OK(s->server.r);
	EQ(s->server.in.m.type, BUS1_MSG_CALL);
	test_asleep(getpid(), s->client.thread.tid);
}

void served_end(struct served *s)
{
	await(&s->client);
	worker_end(&s->client);
	worker_end(&s->server);
}
