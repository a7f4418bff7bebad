// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * CALL-6: what a thread's own priority is, as long as it has that of its caller, and
 * who may say so.
 */
#include "worker.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RESET_ON_FORK 1

/* What a server without privileges makes of itself while it is raised, and is at in the end. */
static const struct stepped {
	struct attr client, server, step, own;
} stepped[] = {
	/* Between what it is lent and its own: it is still lent that. */
	{ FIFO(50), OTHER(0), FIFO(49), OTHER(0) },
	{ RR(50), OTHER(0), RR(1), OTHER(0) },
	{ FIFO(50), FIFO(10), FIFO(30), FIFO(10) },
	{ FIFO(50), RR(10), FIFO(20), RR(10) },
	{ FIFO(50), IDLE(5), OTHER(5), IDLE(5) },
	{ OTHER(-20), OTHER(0), OTHER(-19), OTHER(0) },
	{ OTHER(-20), OTHER(0), BATCH(-20), OTHER(0) },
	{ OTHER(-20), BATCH(3), OTHER(-1), BATCH(3) },
	{ OTHER(-20), IDLE(5), OTHER(0), IDLE(5) },
	/* As it may at any time. */
	{ FIFO(50), OTHER(0), OTHER(0), OTHER(0) },
	{ FIFO(50), OTHER(0), OTHER(5), OTHER(5) },
	{ FIFO(50), OTHER(0), BATCH(0), BATCH(0) },
	{ FIFO(50), OTHER(0), IDLE(0), IDLE(0) },
	{ FIFO(50), FIFO(10), FIFO(5), FIFO(5) },
	{ FIFO(50), FIFO(10), OTHER(0), OTHER(0) },
	{ OTHER(-20), OTHER(0), OTHER(7), OTHER(7) },
	{ OTHER(-20), OTHER(0), BATCH(7), BATCH(7) },
	{ OTHER(-20), OTHER(0), IDLE(-20), IDLE(0) },
};

static void served_steps(struct served *s, const struct stepped *t)
{
	s->server.attr = t->step;
	s->server.attr.flags = RESET_ON_FORK;
	step(&s->server, do_give_up_root);
	step(&s->server, do_become);
	OK(s->server.r);
	IS_AT(s->server.thread.tid, t->step);
}

TEST_TIMEOUT("CALL-6 a step down while it serves does not keep what a server was lent", 120)
{
	for (size_t i = 0; i < ARRAY_SIZE(stepped); i++) {
		const struct stepped *t = &stepped[i];
		struct served s = { .w = pair_new() };

		served_make(&s, t->client, t->server, s.w.to_b);
		served_steps(&s, t);
		step(&s.server, do_reply);
		OK(s.server.r);
		IS_AT(s.server.thread.tid, t->own);
		/* Its nice value, where that does not count. */
		EQ(getpriority(PRIO_PROCESS, (id_t)s.server.thread.tid), t->own.nice);
		served_end(&s);
		pair_close(&s.w);
	}
}

TEST_TIMEOUT("CALL-6 nor does it when the caller is killed, cancels, or goes at its deadline", 120)
{
	const struct stepped steps[] = {
		{ FIFO(50), OTHER(0), FIFO(49), OTHER(0) },
		{ OTHER(-20), OTHER(0), OTHER(-19), OTHER(0) },
	};

	for (size_t i = 0; i < 3 * ARRAY_SIZE(steps); i++) {
		const struct stepped *t = &steps[i / 3];
		struct served s = { .w = pair_new() };
		pid_t pid = 0;

		if (i % 3 == 0) {
			pid = test_fork();
			if (!pid) {
				become(t->client);
				call_init_str(&s.client.c, &s.w.a, s.w.to_b, "request");
				call_make(&s.client.c);
				_exit(1);
			}
		} else {
			worker_start(&s.client, &s.w.a, t->client);
			call_init_str(&s.client.c, &s.w.a, s.w.to_b, "request");
			if (i % 3 == 2)
				s.client.c.cmd.recv.deadline = test_deadline(1);
			go(&s.client, i % 3 == 1 ? do_async : do_call);
		}
		worker_start(&s.server, &s.w.b, t->server);
		step(&s.server, do_recv);
		OK(s.server.r);
		served_steps(&s, t);
		switch (i % 3) {
		case 0:
			test_kill(pid);
			break;
		case 1:
			await(&s.client);
			OK(s.client.r);
			OK(call_cancel(&s.w.a, s.client.c.cmd.id));
			break;
		default:
			await(&s.client);
			ERR(s.client.c.r, ETIMEDOUT);
		}
		GETS_TO(s.server.thread.tid, t->own);
		GOT_CANCELLED(&s.w.b, s.server.token);
		step(&s.server, do_reply);
		ERR(s.server.r, ECANCELED);
		IS_AT(s.server.thread.tid, t->own);
		if (!pid)
			worker_end(&s.client);
		worker_end(&s.server);
		pair_close(&s.w);
	}
}

/* A second client, whose request the server serves as well. */
static u64 second_make(struct served *s, struct worker *second, struct attr attr)
{
	worker_start(second, &s->w.a, attr);
	call_init_str(&second->c, &s->w.a, s->w.to_b, "second");
	go(second, do_call);
	step(&s->server, do_recv);
	OK(s->server.r);
	return s->server.token;
}

TEST("CALL-6 nor does it when another request comes after the step")
{
	const struct stepped t = { OTHER(-20), OTHER(0), OTHER(-19), OTHER(0) };
	const struct attr high = FIFO(50);

	for (int order = 0; order < 2; order++) {
		struct served s = { .w = pair_new() };
		struct worker second;
		u64 tokens[2];

		served_make(&s, t.client, t.server, s.w.to_b);
		tokens[0] = s.server.token;
		served_steps(&s, &t);
		tokens[1] = second_make(&s, &second, high);
		IS_AT(s.server.thread.tid, high);
		s.server.token = tokens[order];
		step(&s.server, do_reply);
		IS_AT(s.server.thread.tid, order ? t.client : high);
		s.server.token = tokens[!order];
		step(&s.server, do_reply);
		IS_AT(s.server.thread.tid, t.own);
		worker_end(&second);
		served_end(&s);
		pair_close(&s.w);
	}
}

TEST("CALL-6 what a thread makes of itself is its own, also if it serves others still")
{
	const struct stepped t = { FIFO(50), OTHER(0), OTHER(10), OTHER(10) };
	const struct attr low = OTHER(5);
	struct served s = { .w = pair_new() };
	struct worker second;
	u64 first, second_token;

	served_make(&s, t.client, t.server, s.w.to_b);
	first = s.server.token;
	served_steps(&s, &t);
	second_make(&s, &second, low);
	IS_AT(s.server.thread.tid, t.client);
	second_token = s.server.token;
	s.server.token = first;
	step(&s.server, do_reply);
	IS_AT(s.server.thread.tid, low);
	s.server.token = second_token;
	step(&s.server, do_reply);
	IS_AT(s.server.thread.tid, t.own);
	worker_end(&second);
	served_end(&s);
	pair_close(&s.w);
}

/* Another thread of the server's makes the step, over and over. */
static pid_t stepped_on;
static bool stop_steps;
static u32 steps;

static void do_steps(struct worker *w)
{
	struct attr a = FIFO(49);

	a.size = sizeof(a);
	a.flags = RESET_ON_FORK;
	while (!__atomic_load_n(&stop_steps, __ATOMIC_ACQUIRE))
		if (!syscall(SYS_sched_setattr, stepped_on, &a, 0))
			steps++;
}

static void do_serve(struct worker *w)
{
	do_recv(w);
	do_reply(w);
}

TEST_TIMEOUT("CALL-6 nor does a step that is made while the call ends, for more than a moment", 120)
{
	const struct attr client = FIFO(50), server = OTHER(3);
	struct pair w = pair_new();
	struct worker a, b, other;

	worker_start(&a, &w.a, client);
	worker_start(&b, &w.b, server);
	worker_start(&other, NULL, server);
	step(&b, do_give_up_root);
	step(&other, do_give_up_root);
	stepped_on = b.thread.tid;
	go(&other, do_steps);
	for (unsigned int i = 0; i < test_rounds(500); i++) {
		call_init_str(&a.c, &w.a, w.to_b, "request");
		go(&b, do_serve);
		go(&a, do_call);
		await(&b);
		OK(b.r);
		await(&a);
		REPLIED(&a.c, "reply");
	}
	__atomic_store_n(&stop_steps, true, __ATOMIC_RELEASE);
	await(&other);
	GT(steps, 0);
	GETS_TO(b.thread.tid, server);
	EQ(attr_of(b.thread.tid).flags & RESET_ON_FORK, 0);
	worker_end(&a);
	worker_end(&b);
	worker_end(&other);
	pair_close(&w);
}

static const struct given {
	struct attr client, server, given, own;
} given[] = {
	{ FIFO(50), OTHER(0), FIFO(60), FIFO(60) },
	{ FIFO(50), OTHER(0), RR(51), RR(51) },
	{ FIFO(50), OTHER(0), DEADLINE, DEADLINE },
	{ OTHER(-10), OTHER(0), OTHER(-20), OTHER(-20) },
	{ OTHER(-10), OTHER(0), FIFO(1), FIFO(1) },
	/* Less than it has by itself. */
	{ OTHER(-10), OTHER(0), OTHER(10), OTHER(10) },
	{ FIFO(50), FIFO(20), IDLE(0), IDLE(0) },
};

TEST("CALL-6 a server keeps what somebody privileged gives it, above what it is lent or below its own")
{
	for (size_t i = 0; i < 2 * ARRAY_SIZE(given); i++) {
		const struct given *t = &given[i / 2];
		const struct attr low = OTHER(-5);
		struct served s = { .w = pair_new() };
		struct worker second;
		bool two = i % 2;
		u64 first = 0;

		served_make(&s, t->client, t->server, s.w.to_b);
		if (two) {
			first = s.server.token;
			second_make(&s, &second, low);
		}
		attr_set(s.server.thread.tid, t->given);
		IS_AT(s.server.thread.tid, t->given);
		step(&s.server, do_reply);
		OK(s.server.r);
		if (two) {
			/* Whatever it is at in between. */
			s.server.token = first;
			step(&s.server, do_reply);
			OK(s.server.r);
			worker_end(&second);
		}
		IS_AT(s.server.thread.tid, t->own);
		served_end(&s);
		pair_close(&s.w);
	}
}

TEST("CALL-6 a nice value that is set while real-time priority is lent is the thread's own")
{
	static const int values[] = { 7, -7 };
	const struct attr client = FIFO(20), server = OTHER(3);

	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		struct served s = { .w = pair_new() };
		const struct attr own = OTHER(values[i]);

		served_make(&s, client, server, s.w.to_b);
		OK(SYS(setpriority(PRIO_PROCESS, (id_t)s.server.thread.tid, values[i])));
		IS_AT(s.server.thread.tid, client);
		step(&s.server, do_reply);
		IS_AT(s.server.thread.tid, own);
		served_end(&s);
		pair_close(&s.w);
	}
}

static void do_slack_set(struct worker *w)
{
	w->r = prctl(PR_SET_TIMERSLACK, 123456UL);
}

static void do_slack_get(struct worker *w)
{
	w->r = prctl(PR_GET_TIMERSLACK);
}

TEST("CALL-6 its own slice and timer slack come back as well")
{
	const struct attr clients[] = { OTHER(-3), FIFO(20) };
	const u64 slice = 7000000;

	for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
		struct served s = { .w = pair_new() };
		struct attr server = OTHER(0);

		server.runtime = slice;
		served_make(&s, (struct attr)OTHER(10), server, s.w.to_b);
		EQ(attr_of(s.server.thread.tid).runtime, slice);
		step(&s.server, do_slack_set);
		OK(s.server.r);
		go(&s.server, do_reply_recv);
		await(&s.client);
		worker_end(&s.client);
		worker_start(&s.client, &s.w.a, clients[i]);
		call_init_str(&s.client.c, &s.w.a, s.w.to_b, "second");
		go(&s.client, do_call);
		await(&s.server);
		IS_AT(s.server.thread.tid, clients[i]);
		step(&s.server, do_reply);
		IS_AT(s.server.thread.tid, server);
		EQ(attr_of(s.server.thread.tid).runtime, slice);
		step(&s.server, do_slack_get);
		EQ(s.server.r, 123456);
		served_end(&s);
		pair_close(&s.w);
	}
}

TEST("CALL-6 who serves a less urgent request beside a more urgent one has its priority afterwards")
{
	const struct attr low = OTHER(-3), high = FIFO(9), server = OTHER(10);
	struct served s = { .w = pair_new() };
	struct worker second;
	u64 first, second_token;

	served_make(&s, high, server, s.w.to_b);
	first = s.server.token;
	second_make(&s, &second, low);
	IS_AT(s.server.thread.tid, high);
	second_token = s.server.token;
	s.server.token = first;
	step(&s.server, do_reply);
	IS_AT(s.server.thread.tid, low);
	s.server.token = second_token;
	step(&s.server, do_reply);
	IS_AT(s.server.thread.tid, server);
	worker_end(&second);
	served_end(&s);
	pair_close(&s.w);
}
