// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-6: how long a priority is lent, along chains of calls too, and to whom not. */
#include "worker.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

TEST("CALL-6 what was lent goes back when a deadline passes, a caller is killed, or cancels")
{
	const struct attr client = FIFO(20), server = OTHER(10);

	for (int how = 0; how < 3; how++) {
		struct served s = { .w = pair_new() };
		pid_t pid = 0;

		worker_start(&s.server, &s.w.b, server);
		go(&s.server, do_recv);
		test_asleep(getpid(), s.server.thread.tid);
		if (how == 0) {
			pid = test_fork();
			if (!pid) {
				become(client);
				call_init_str(&s.client.c, &s.w.a, s.w.to_b, "request");
				call_make(&s.client.c);
				_exit(1);
			}
		} else {
			worker_start(&s.client, &s.w.a, client);
			call_init_str(&s.client.c, &s.w.a, s.w.to_b, "request");
			if (how == 1)
				s.client.c.cmd.recv.deadline = test_deadline(1);
			go(&s.client, how == 1 ? do_call : do_async);
		}
		await(&s.server);
		OK(s.server.r);
		IS_AT(s.server.thread.tid, client);
		if (how == 0) {
			test_kill(pid);
		} else {
			await(&s.client);
			if (how == 1)
				ERR(s.client.c.r, ETIMEDOUT);
			else
				OK(call_cancel(&s.w.a, s.client.c.cmd.id));
			worker_end(&s.client);
		}
		GETS_TO(s.server.thread.tid, server);
		GOT_CANCELLED(&s.w.b, s.server.token);
		step(&s.server, do_reply);
		ERR(s.server.r, ECANCELED);
		IS_AT(s.server.thread.tid, server);
		worker_end(&s.server);
		pair_close(&s.w);
	}
}

/* a calls b, which calls c, which calls d: as far as they have gone. */
struct line {
	struct pair ab, bc, cd;
	struct worker a, b, c, d;
};

static const struct attr a_has = FIFO(30), b_has = OTHER(5), c_has = OTHER(15),
			 d_has = OTHER(-3);

static void line_start(struct line *l)
{
	l->ab = pair_new();
	l->bc = pair_new();
	l->cd = pair_new();
	worker_start(&l->a, &l->ab.a, a_has);
	worker_start(&l->c, &l->bc.b, c_has);
	worker_start(&l->d, &l->cd.b, d_has);
	go(&l->c, do_recv);
	go(&l->d, do_recv);
	test_asleep(getpid(), l->c.thread.tid);
	test_asleep(getpid(), l->d.thread.tid);
	call_init_str(&l->a.c, &l->ab.a, l->ab.to_b, "first");
}

static void c_calls_d(struct line *l)
{
	await(&l->c);
	OK(l->c.r);
	IS_AT(l->c.thread.tid, a_has);
	call_init_str(&l->c.c, &l->cd.a, l->cd.to_b, "third");
	go(&l->c, do_call);
	await(&l->d);
	OK(l->d.r);
	IS_AT(l->d.thread.tid, a_has);
	test_asleep(getpid(), l->c.thread.tid);
}

static void d_and_c_answer(struct line *l, struct attr meanwhile)
{
	step(&l->d, do_reply);
	OK(l->d.r);
	IS_AT(l->d.thread.tid, d_has);
	await(&l->c);
	REPLIED(&l->c.c, "reply");
	IS_AT(l->c.thread.tid, meanwhile);
	step(&l->c, do_reply);
	IS_AT(l->c.thread.tid, c_has);
}

static void line_end(struct line *l)
{
	worker_end(&l->a);
	worker_end(&l->c);
	worker_end(&l->d);
	pair_close(&l->bc);
	pair_close(&l->cd);
}

TEST("CALL-6 what is lent along a chain goes back when who made it cancels, all along it")
{
	for (int is_async = 0; is_async < 2; is_async++) {
		struct line l;

		line_start(&l);
		worker_start(&l.b, &l.ab.b, b_has);
		go(&l.b, do_recv);
		test_asleep(getpid(), l.b.thread.tid);
		step(&l.a, do_async);
		OK(l.a.r);
		await(&l.b);
		IS_AT(l.b.thread.tid, a_has);
		/* Whether b waits or not makes no difference. */
		call_init_str(&l.b.c, &l.bc.a, l.bc.to_b, "second");
		go(&l.b, is_async ? do_async : do_call);
		c_calls_d(&l);
		OK(call_cancel(&l.ab.a, l.a.c.cmd.id));
		IS_AT(l.b.thread.tid, b_has);
		/* They go on for b, at what that has by itself, if that is more than they have. */
		IS_AT(l.c.thread.tid, b_has);
		IS_AT(l.d.thread.tid, d_has);
		d_and_c_answer(&l, b_has);
		await(&l.b);
		if (is_async)
			GOT_REPLY(&l.bc.a, l.b.c.cmd.id, 0, "reply");
		else
			REPLIED(&l.b.c, "reply");
		IS_AT(l.b.thread.tid, b_has);
		GOT_CANCELLED(&l.ab.b, l.b.token);
		step(&l.b, do_reply);
		ERR(l.b.r, ECANCELED);
		worker_end(&l.b);
		line_end(&l);
		pair_close(&l.ab);
	}
}

TEST("CALL-6 what is lent along a chain goes back when one in the middle is killed")
{
	struct line l;
	struct in in;
	pid_t pid;

	line_start(&l);
	go(&l.a, do_call);
	pid = test_fork();
	if (!pid) {
		become(b_has);
		OK(recv_wait(&l.ab.b, &in));
		call_init_str(&l.b.c, &l.bc.a, l.bc.to_b, "second");
		call_make(&l.b.c);
		_exit(1);
	}
	c_calls_d(&l);
	test_kill(pid);
	GETS_TO(l.c.thread.tid, c_has);
	GETS_TO(l.d.thread.tid, (struct attr)OTHER(-3));
	GOT_CANCELLED(&l.bc.b, l.c.token);
	step(&l.d, do_reply);
	await(&l.c);
	REPLIED(&l.c.c, "reply");
	step(&l.c, do_reply);
	ERR(l.c.r, ECANCELED);
	IS_AT(l.c.thread.tid, c_has);
	/* Nobody serves it any more. */
	peer_close(&l.ab.b);
	await(&l.a);
	ERR(l.a.c.r, ECONNRESET);
	drain(&l.ab.a);
	line_end(&l);
	peer_close(&l.ab.a);
}

/* What a server got for a moment it cannot keep by having it lent on to a thread of its own. */
TEST("CALL-6 a call that a raised thread makes lends no longer than it is raised itself")
{
	for (int is_async = 0; is_async < 2; is_async++) {
		struct line l;
		u64 token;

		line_start(&l);
		worker_start(&l.b, &l.ab.b, b_has);
		go(&l.a, do_call);
		step(&l.b, do_recv);
		token = l.b.token;
		call_init_str(&l.b.c, &l.bc.a, l.bc.to_b, "second");
		go(&l.b, is_async ? do_async : do_call);
		c_calls_d(&l);
		OK(answer_str(&l.ab.b, token, "reply"));
		await(&l.a);
		REPLIED(&l.a.c, "reply");
		IS_AT(l.b.thread.tid, b_has);
		IS_AT(l.c.thread.tid, b_has);
		IS_AT(l.d.thread.tid, d_has);
		d_and_c_answer(&l, b_has);
		await(&l.b);
		if (is_async)
			GOT_REPLY(&l.bc.a, l.b.c.cmd.id, 0, "reply");
		else
			REPLIED(&l.b.c, "reply");
		worker_end(&l.b);
		line_end(&l);
		pair_close(&l.ab);
	}
}

TEST("CALL-6 nor one that is received only afterwards")
{
	struct line l;

	line_start(&l);
	worker_start(&l.b, &l.ab.b, b_has);
	go(&l.a, do_call);
	step(&l.b, do_recv);
	IS_AT(l.b.thread.tid, a_has);
	/* d serves itself here, by what comes from b. */
	call_init_str(&l.b.c, &l.cd.a, l.cd.to_b, "late");
	step(&l.b, do_async);
	OK(l.b.r);
	await(&l.d);
	IS_AT(l.d.thread.tid, a_has);
	call_init_str(&l.c.c, &l.cd.a, l.cd.to_b, "queued");
	l.b.c.cmd = l.c.c.cmd;
	step(&l.b, do_async);
	OK(l.b.r);
	OK(answer_str(&l.ab.b, l.b.token, "reply"));
	await(&l.a);
	REPLIED(&l.a.c, "reply");
	IS_AT(l.d.thread.tid, d_has);
	step(&l.d, do_reply);
	step(&l.d, do_recv);
	OK(l.d.r);
	IS_AT(l.d.thread.tid, d_has);
	step(&l.d, do_reply);
	drain(&l.cd.a);
	/* So that it ends. */
	call_init_str(&l.b.c, &l.bc.a, l.bc.to_b, "end");
	step(&l.b, do_async);
	await(&l.c);
	IS_AT(l.c.thread.tid, b_has);
	step(&l.c, do_reply);
	drain(&l.bc.a);
	worker_end(&l.b);
	line_end(&l);
	pair_close(&l.ab);
}

/* Answers a nested request, and waits for its own call again. */
static void do_reply_wait(struct worker *w)
{
	struct bus1_cmd_reply cmd = {
		.send = { .dest = w->c.in.m.token },
		.recv = recv_into(&w->in, 0, 0),
		.id = w->c.cmd.id,
	};

	w->r = reply_cmd(w->p, &cmd);
	if (!w->r)
		recv_found(w->p, &w->in, &cmd.recv);
}

TEST("CALL-6 a thread that waits, and serves a nested request, has that one's priority for it")
{
	const struct attr outer = OTHER(10), inner = FIFO(20);
	struct pair w = pair_new();
	struct worker a, b;
	u64 node = node_new(&w.a, 1), back = grant(&w.a, node, &w.b), token;

	for (int given = 0; given < 2; given++) {
		worker_start(&a, &w.a, outer);
		worker_start(&b, &w.b, inner);
		call_init_str(&a.c, &w.a, w.to_b, "outer");
		a.c.cmd.flags = BUS1_CALL_NESTED;
		go(&a, do_call);
		step(&b, do_recv);
		OK(b.r);
		token = b.token;
		test_asleep(getpid(), a.thread.tid);
		IS_AT(a.thread.tid, outer);
		call_init(&b.c, &w.b, back, NULL, 0);
		b.c.cmd.parent = token;
		go(&b, do_call);
		await(&a);
		OK(a.c.r);
		EQ(a.c.in.m.type, BUS1_MSG_CALL);
		IS_AT(a.thread.tid, inner);
		/* Here it goes back before it waits again, there when who called is gone. */
		if (given)
			OK(answer_drop(&w.a, a.c.in.m.token));
		else
			go(&a, do_reply_wait);
		await(&b);
		GETS_TO(a.thread.tid, outer);
		if (given) {
			ERR(b.c.r, ECONNABORTED);
			a.c.in.m.token = 0;
			go(&a, do_reply_wait);
		} else {
			REPLIED(&b.c, "");
		}
		b.token = token;
		step(&b, do_reply);
		OK(b.r);
		await(&a);
		OK(a.r);
		EQ(a.in.m.type, BUS1_MSG_REPLY);
		IS_AT(a.thread.tid, outer);
		IS_AT(b.thread.tid, inner);
		worker_end(&a);
		worker_end(&b);
	}
	OK(destroy(&w.a, node));
	drain(&w.b);
	OK(release(&w.b, back));
	pair_close(&w);
}

/* A child and a thread that are made now: the child's own priority. */
static struct attr child_of;
static struct attr thread_of;

static void *look_thread(void *arg)
{
	thread_of = attr_of(0);
	return NULL;
}

static void do_fork(struct worker *w)
{
	int pipes[2];
	pthread_t thread;
	pid_t pid;

	OK(SYS(pipe(pipes)));
	pid = test_fork();
	if (!pid) {
		struct attr a = attr_of(0);

		_exit(write(pipes[1], &a, sizeof(a)) != sizeof(a));
	}
	EQ(read(pipes[0], &child_of, sizeof(child_of)), sizeof(child_of));
	test_wait(pid);
	close(pipes[0]);
	close(pipes[1]);
	EQ(pthread_create(&thread, NULL, look_thread, NULL), 0);
	pthread_join(thread, NULL);
}

TEST("CALL-6 children and threads that are made meanwhile have nothing of what was lent")
{
	const struct {
		struct attr client, server, child;
	} cases[] = {
		{ FIFO(50), OTHER(5), OTHER(0) },
		{ OTHER(-20), OTHER(5), OTHER(0) },
		{ OTHER(-20), OTHER(-5), OTHER(0) },
		{ FIFO(50), FIFO(10), OTHER(0) },
		/* Not raised. */
		{ OTHER(0), OTHER(5), OTHER(0) },
		{ OTHER(5), OTHER(0), OTHER(0) },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct served s = { .w = pair_new() };

		served_make(&s, cases[i].client, cases[i].server, s.w.to_b);
		step(&s.server, do_fork);
		EQ(child_of.policy, cases[i].child.policy);
		EQ(child_of.nice, cases[i].child.nice);
		EQ(child_of.flags & 1, 0);
		EQ(thread_of.policy, cases[i].child.policy);
		EQ(thread_of.nice, cases[i].child.nice);
		EQ(thread_of.flags & 1, 0);
		step(&s.server, do_reply);
		IS_AT(s.server.thread.tid, cases[i].server);
		/* The flag was lent as well: what is made now has all of it. */
		EQ(attr_of(s.server.thread.tid).flags & 1, 0);
		step(&s.server, do_fork);
		EQ(child_of.policy, cases[i].server.policy);
		EQ(child_of.priority, cases[i].server.priority);
		EQ(child_of.nice, cases[i].server.nice);
		served_end(&s);
		pair_close(&s.w);
	}
}

TEST("CALL-6 callers of SCHED_DEADLINE, SCHED_BATCH and SCHED_IDLE, and their servers")
{
	const struct {
		struct attr client, server, meanwhile;
	} cases[] = {
		{ DEADLINE, OTHER(0), FIFO(99) },
		{ DEADLINE, FIFO(10), FIFO(99) },
		{ DEADLINE, DEADLINE, DEADLINE },
		{ FIFO(50), DEADLINE, DEADLINE },
		{ BATCH(-5), OTHER(0), OTHER(-5) },
		{ BATCH(5), OTHER(0), OTHER(0) },
		{ BATCH(5), IDLE(0), OTHER(5) },
		{ OTHER(19), IDLE(0), OTHER(19) },
		{ OTHER(-5), BATCH(0), OTHER(-5) },
		{ OTHER(5), BATCH(0), BATCH(0) },
		{ IDLE(0), OTHER(19), OTHER(19) },
		{ IDLE(-5), IDLE(5), IDLE(5) },
		{ FIFO(1), IDLE(3), FIFO(1) },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct served s = { .w = pair_new() };

		served_make(&s, cases[i].client, cases[i].server, s.w.to_b);
		IS_AT(s.server.thread.tid, cases[i].meanwhile);
		step(&s.server, do_reply);
		IS_AT(s.server.thread.tid, cases[i].server);
		served_end(&s);
		pair_close(&s.w);
	}
}

/* More threads than may have what one call lends on. */
TEST("CALL-6 what one call lends on goes to so many at a time, and back from all of them")
{
	enum { N = 35, MOST = 32 };
	struct pair ab = pair_new(), bc = pair_new();
	struct worker a, b, c[N];

	worker_start(&a, &ab.a, a_has);
	worker_start(&b, &ab.b, b_has);
	for (int i = 0; i < N; i++)
		worker_start(&c[i], &bc.b, c_has);
	call_init_str(&a.c, &ab.a, ab.to_b, "first");
	go(&a, do_call);
	step(&b, do_recv);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < N; i++) {
			go(&c[i], do_recv);
			test_asleep(getpid(), c[i].thread.tid);
			call_init_str(&b.c, &bc.a, bc.to_b, "second");
			step(&b, do_async);
			OK(b.r);
			await(&c[i]);
			IS_AT(c[i].thread.tid, i < MOST ? a_has : b_has);
		}
		if (round == 0) {
			for (int i = 0; i < N; i++) {
				step(&c[i], do_reply);
				IS_AT(c[i].thread.tid, c_has);
			}
			EQ(drain(&bc.a), N);
		}
	}
	step(&b, do_reply);
	await(&a);
	REPLIED(&a.c, "reply");
	IS_AT(b.thread.tid, b_has);
	for (int i = 0; i < N; i++) {
		IS_AT(c[i].thread.tid, b_has);
		step(&c[i], do_reply);
		IS_AT(c[i].thread.tid, c_has);
		worker_end(&c[i]);
	}
	EQ(drain(&bc.a), N);
	worker_end(&a);
	worker_end(&b);
	pair_close(&ab);
	pair_close(&bc);
}

/* Serves, calls and steps until it is told to stop; every wait is short. */
static bool stop_all;
static struct pair race_ab, race_bc;

static u64 soon(void)
{
	return test_now() + 1 + (u64)random() % 3000000;
}

static void race_call(struct worker *w, const struct peer *p, u64 to, u64 parent)
{
	int r;

	call_init_str(&w->c, p, to, "request");
	w->c.cmd.recv.deadline = soon();
	w->c.cmd.parent = parent;
	r = call_make(&w->c);
	/* Its own request may have been cancelled. */
	if (r != -ETIMEDOUT && r != -ENXIO && r != -ECANCELED)
		OK(r);
}

static void race_a(struct worker *w)
{
	while (!__atomic_load_n(&stop_all, __ATOMIC_ACQUIRE))
		race_call(w, &race_ab.a, race_ab.to_b, 0);
}

static void race_serve(struct worker *w)
{
	struct attr own = w->attr;

	while (!__atomic_load_n(&stop_all, __ATOMIC_ACQUIRE)) {
		struct bus1_cmd_recv cmd = recv_into(&w->in, 0, soon());

		if (recv_cmd(w->p, &cmd))
			continue;
		recv_found(w->p, &w->in, &cmd);
		if (w->in.m.type != BUS1_MSG_CALL)
			continue;
		if (w->p == &race_ab.b)
			race_call(w, &race_bc.a, race_bc.to_b, random() % 2 ? w->in.m.token : 0);
		if (random() % 4 == 0) {
			/* A step down from what it is lent, if it still is. */
			w->attr = attr_of(0);
			if (w->attr.policy == SCHED_FIFO)
				w->attr.priority--;
			else if (w->attr.nice < own.nice - 1)
				w->attr.nice++;
			do_become(w);
		}
		answer_str(w->p, w->in.m.token, "reply");
	}
}

TEST_TIMEOUT("CALL-6 calls that begin, lend on, and end all at once leave everybody at its own", 120)
{
	static const struct attr has[] = { FIFO(30), OTHER(-10), OTHER(5), OTHER(5), OTHER(15),
					   OTHER(15) };
	struct worker w[ARRAY_SIZE(has)];

	race_ab = pair_new();
	race_bc = pair_new();
	for (size_t i = 0; i < ARRAY_SIZE(has); i++) {
		worker_start(&w[i], i < 4 ? &race_ab.b : &race_bc.b, has[i]);
		if (i >= 2)
			step(&w[i], do_give_up_root);
		go(&w[i], i < 2 ? race_a : race_serve);
	}
	for (unsigned int i = 0; i < test_rounds(300); i++)
		test_sleep_ms(10);
	__atomic_store_n(&stop_all, true, __ATOMIC_RELEASE);
	for (size_t i = 0; i < ARRAY_SIZE(has); i++)
		await(&w[i]);
	/* At once, or a moment later: the kernel may let a step down happen that came too late. */
	for (size_t i = 0; i < ARRAY_SIZE(has); i++) {
		GETS_TO(w[i].thread.tid, has[i]);
		EQ(attr_of(w[i].thread.tid).flags & 1, 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(has); i++)
		worker_end(&w[i]);
	/* Requests that nobody received are gone with their callers. */
	drain(&race_ab.b);
	drain(&race_bc.b);
	pair_close(&race_ab);
	pair_close(&race_bc);
}
