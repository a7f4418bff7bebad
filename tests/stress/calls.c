// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * CALL-2, CALL-4, CALL-5: processes of several threads that call each other at random: with
 * deadlines and without, as part of other calls, asynchronously, with leases; and that are
 * interrupted, killed and closed in the middle of it. Each reply is the one to its request,
 * each call ends with what it may end with, nothing hangs, and at the end nothing is left.
 */
#include "call.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PROCESSES = 10,
	SERVERS = 2,
	CALLERS = 3,
	HELD = 8,			/* requests that a server answers later */
	MOST = 12000,
	POOL = 1 << 19,
};

/* A request: how much its reply is to be, and what follows in both. */
struct ask {
	u32 reply_len, seed, depth, n_leases;
};

struct self {
	struct peer p;
	u64 node, to[PROCESSES];
	u64 until;
	struct worker {
		struct test_thread thread;
		struct self *self;
		u32 rnd;
		u8 data[MOST], check[MOST], lent[3000];
		u64 asyncs[HELD], held[HELD];
		struct ask held_ask[HELD];
		u32 depth;		/* of dealing with what came while it waited */
		struct in in[4];	/* one for each such depth */
	} worker[SERVERS + CALLERS];
};

static u32 rnd(struct worker *w, u32 n)
{
	w->rnd = w->rnd * 1664525 + 1013904223;
	return (w->rnd >> 8) % n;
}

static void doze(struct worker *w)
{
	struct timespec ts = { .tv_nsec = (long)rnd(w, 3000000) };

	nanosleep(&ts, NULL);
}

static u64 soon(struct worker *w)
{
	return test_now() + (u64)rnd(w, 60) * 1000000 * test_slow();
}

/* What comes of a call, and what may not. */
static bool is_end(int r)
{
	switch (-r) {
	case EHOSTUNREACH: case ECONNRESET: case ECONNABORTED: case ETIMEDOUT: case EINTR:
	case EAGAIN: case EDQUOT:
		return true;
	default:
		return false;
	}
}

static void check_reply(struct worker *w, const struct bus1_msg *m, const u8 *data, u32 seed)
{
	EQ(m->type, BUS1_MSG_REPLY);
	fill(w->check, m->len, seed);
	MEM(data, w->check, m->len);
	if (m->slice)
		OK(slice_release(&w->self->p, m->slice));
}

static bool answer_ask(struct worker *w, u64 token, const struct ask *ask)
{
	int r;

	if (rnd(w, 12) == 0) {
		r = answer_drop(&w->self->p, token);
	} else {
		fill(w->data, ask->reply_len, ask->seed);
		r = answer(&w->self->p, token, w->data, ask->reply_len);
	}
	if (r && r != -ECANCELED)
		FAIL("a reply: %s", strerrorname_np(-r));
	return !r;
}

static void call_someone(struct worker *w, u64 parent, u32 depth);

static void use_leases(struct worker *w, u64 token, const struct ask *ask)
{
	u32 at = rnd(w, 2900);
	int r;

	if (!ask->n_leases)
		return;
	/* Its caller knows what it may find there: its seed. */
	r = lease(&w->self->p, token, BUS1_LEASE_READ, 0, at, w->check, 100);
	if (r && r != -ECANCELED && r != -EINTR)
		FAIL("a lease: %s", strerrorname_np(-r));
	if (!r) {
		fill(w->data, 3000, ask->seed + 1);
		MEM(w->check, w->data + at, 100);
	}
	r = lease(&w->self->p, token, BUS1_LEASE_WRITE, 0, at, w->data + at, 100);
	CHECK(!r || r == -ECANCELED || r == -EINTR);
}

/* A request, which this thread deals with at once or later. */
static void serve(struct worker *w, const struct in *in)
{
	u64 token = in->m.token;
	struct ask ask;
	u32 i;

	NE(token, 0);
	GE(in->m.len, sizeof(ask));
	memcpy(&ask, in->data, sizeof(ask));
	fill(w->check, in->m.len - sizeof(ask), ask.seed);
	MEM(in->data + sizeof(ask), w->check, in->m.len - sizeof(ask));
	if (in->m.slice)
		OK(slice_release(&w->self->p, in->m.slice));
	switch (rnd(w, 10)) {
	case 0:
		/* Later, in another order. */
		i = rnd(w, HELD);
		if (w->held[i])
			answer_ask(w, w->held[i], &w->held_ask[i]);
		w->held[i] = token;
		w->held_ask[i] = ask;
		return;
	case 1:
		doze(w);
		break;
	case 2:
	case 3:
	case 4:
		if (ask.depth < 6 && w->depth < 2)
			call_someone(w, token, ask.depth + 1);
		break;
	case 5:
		use_leases(w, token, &ask);
		break;
	default:
		break;
	}
	answer_ask(w, token, &ask);
}

/* What else comes by the queue. */
static void take(struct worker *w, const struct in *in)
{
	switch (in->m.type) {
	case BUS1_MSG_CALL:
		serve(w, in);
		break;
	case BUS1_MSG_REPLY:
		if (!in->m.error)
			check_reply(w, &in->m, in->data, (u32)in->m.cookie);
		break;
	case BUS1_MSG_CANCELLED:
	case BUS1_MSG_NODE_DEAD:
	case BUS1_MSG_NODE_UNUSED:
		break;
	default:
		FAIL("type %u", in->m.type);
	}
}

static size_t request(struct worker *w, u32 seed, u32 reply_len, u32 depth, u32 n_leases)
{
	size_t len = rnd(w, 3) ? rnd(w, 60) : rnd(w, 5000);
	struct ask ask = { reply_len, seed, depth, n_leases };

	memcpy(w->data, &ask, sizeof(ask));
	fill(w->data + sizeof(ask), len, seed);
	return sizeof(ask) + len;
}

static void call_and_leave(struct worker *w, u64 dest, u64 parent, u32 depth)
{
	u32 seed = rnd(w, 1u << 24), reply_len = rnd(w, 3) ? rnd(w, 60) : rnd(w, MOST), i;
	struct bus1_cmd_call cmd = {
		.send = { .dest = dest, .data = PTR(w->data) }, .cookie = seed, .parent = parent,
		.reply_size = reply_len,
	};
	int r;

	cmd.send.len = request(w, seed, reply_len, depth, 0);
	r = call_async_cmd(&w->self->p, &cmd);
	if (r) {
		CHECK(is_end(r) || r == -ENXIO);
		return;
	}
	i = rnd(w, HELD);
	if (w->asyncs[i]) {
		r = call_cancel(&w->self->p, w->asyncs[i]);
		CHECK(!r || r == -ENXIO);
	}
	w->asyncs[i] = cmd.id;
}

static void call_someone(struct worker *w, u64 parent, u32 depth)
{
	u64 dest = w->self->to[rnd(w, PROCESSES)], id;
	u32 seed = rnd(w, 1u << 24), reply_len = rnd(w, 3) ? rnd(w, 60) : rnd(w, MOST);
	struct in *in = &w->in[++w->depth];
	struct bus1_lease lent = { PTR(w->lent), sizeof(w->lent),
				   BUS1_LEASE_READ | BUS1_LEASE_WRITE, 0 };
	struct bus1_cmd_call cmd;
	bool lends = w->depth == 1 && rnd(w, 4) == 0;
	int r;

	LT(w->depth, ARRAY_SIZE(w->in));
	if (rnd(w, 5) == 0) {
		call_and_leave(w, dest, parent, depth);
		w->depth--;
		return;
	}
	cmd = (struct bus1_cmd_call){
		.send = { .dest = dest, .data = PTR(w->data) },
		.recv = recv_into(in, 0, soon(w)), .parent = parent, .cookie = seed,
		.reply_size = reply_len, .flags = rnd(w, 2) ? BUS1_CALL_NESTED : 0,
	};
	cmd.send.len = request(w, seed, reply_len, depth, lends);
	if (lends) {
		fill(w->lent, sizeof(w->lent), seed + 1);
		cmd.leases = PTR(&lent);
		cmd.n_leases = 1;
	}
	r = raw(&w->self->p, BUS1_CMD_CALL, &cmd);
	id = cmd.id;
	while (!r && in->m.type == BUS1_MSG_CALL) {
		/* Serves what was made for this. */
		recv_found(&w->self->p, in, &cmd.recv);
		serve(w, in);
		cmd.recv = recv_into(in, 0, soon(w));
		cmd.id = id;
		r = raw(&w->self->p, BUS1_CMD_CALL, &cmd);
	}
	w->depth--;
	if (!r) {
		recv_found(&w->self->p, in, &cmd.recv);
		check_reply(w, &in->m, in->data, seed);
		EQ(in->m.cookie, seed);
		return;
	}
	/* A parent that another thread has answered, a depth that is too much. */
	CHECK(is_end(r) || (parent && (r == -ENXIO || r == -ELOOP)));
	if (r == -EINTR && cmd.id && cmd.id == id)
		call_cancel(&w->self->p, cmd.id);
}

static void be_server(void *arg)
{
	struct worker *w = arg;
	struct in *in = &w->in[0];

	while (test_now() < w->self->until) {
		struct bus1_cmd_recv cmd = recv_into(in, 0, soon(w));
		u32 i = rnd(w, HELD);
		int r = recv_cmd(&w->self->p, &cmd);

		if (!r) {
			recv_found(&w->self->p, in, &cmd);
			take(w, in);
		} else {
			CHECK(r == -ETIMEDOUT || r == -EINTR);
		}
		if (w->held[i] && rnd(w, 2)) {
			answer_ask(w, w->held[i], &w->held_ask[i]);
			w->held[i] = 0;
		}
	}
}

static void be_caller(void *arg)
{
	struct worker *w = arg;

	while (test_now() < w->self->until) {
		call_someone(w, 0, 0);
		if (rnd(w, 8) == 0)
			doze(w);
	}
}

/* A process: its peer, its threads, and signals at random until the end or a death by accident. */
static _Noreturn void live(struct self *self, u32 seed)
{
	struct worker *me = calloc(1, sizeof(*me));

	CHECK(me);
	me->rnd = seed;
	catch_signal(SIGUSR1, SA_RESTART);
	catch_signal(SIGUSR2, 0);
	for (u32 i = 0; i < SERVERS + CALLERS; i++) {
		self->worker[i].self = self;
		self->worker[i].rnd = seed * 31 + i;
		test_start(&self->worker[i].thread, i < SERVERS ? be_server : be_caller,
			   &self->worker[i]);
	}
	while (test_now() < self->until) {
		struct worker *w = &self->worker[rnd(me, SERVERS + CALLERS)];

		doze(me);
		if (!__atomic_load_n(&w->thread.done, __ATOMIC_ACQUIRE))
			pthread_kill(w->thread.thread, rnd(me, 3) ? SIGUSR1 : SIGUSR2);
		if (rnd(me, 2000) == 0)
			_exit(0);
	}
	for (u32 i = 0; i < SERVERS + CALLERS; i++)
		test_join(&self->worker[i].thread);
	_exit(0);
}

static void storm(u32 seed, unsigned int ms)
{
	struct peer p[PROCESSES];
	u64 node[PROCESSES], until;
	pid_t pid[PROCESSES];
	struct worker w = { .rnd = seed };
	struct self *self = calloc(1, sizeof(*self));

	CHECK(self);
	for (int i = 0; i < PROCESSES; i++) {
		p[i] = peer_new(POOL);
		node[i] = node_new(&p[i], 1);
	}
	until = test_now() + (u64)ms * 1000000;
	for (int i = 0; i < PROCESSES; i++) {
		self->p = p[i];
		self->node = node[i];
		self->until = until;
		for (int k = 0; k < PROCESSES; k++)
			self->to[k] = i == k ? node[i] : grant(&p[k], node[k], &p[i]);
		pid[i] = test_fork();
		if (pid[i])
			continue;
		for (int k = 0; k < PROCESSES; k++)
			if (k != i)
				peer_close(&p[k]);
		live(self, seed + (u32)i);
	}
	for (int i = 0; i < PROCESSES; i++)
		peer_close(&p[i]);
	/* Some are killed on the way, wherever they are. */
	while (test_now() < until) {
		int i = (int)rnd(&w, PROCESSES);

		test_sleep_ms(ms / PROCESSES);
		if (pid[i] && rnd(&w, 2)) {
			test_kill(pid[i]);
			pid[i] = 0;
		}
	}
	for (int i = 0; i < PROCESSES; i++)
		if (pid[i])
			test_wait(pid[i]);
	free(self);
}

TEST_TIMEOUT("CALL-2 processes that call each other at random, and die, leave nothing", 180)
{
	struct test_counts zero;
	bool counted = test_counts(&zero);
	char why[200];

	for (u32 i = 0; i < test_rounds(5); i++) {
		storm(1000 * (i + 1), 2500);
		if (counted && !test_counts_settle(&zero, why, sizeof(why)))
			FAIL("storm %u left behind: %s", i, why);
	}
}
