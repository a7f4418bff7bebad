// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * CALL-2, CALL-4, CALL-5: two ends of a call at once, a great many times: see race.c.
 * Whoever is first, it ends once, both sides agree on how, and nothing stays.
 */
#include "call.h"
#include "race.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LARGE = 6000 };

/* a calls a node of b's; both have a pool. */
struct duel {
	struct race r;			/* the first */
	u64 facet, to_facet;
	u64 id, token;
	struct call c;
	struct in in;
	u8 data[LARGE];
};

static struct duel d;

static void pools(void)
{
	struct race *r = &d.r;

	r->a.pool = pool_map(r->a.fd, r->a.pool_size = 1 << 18);
	r->b.pool = pool_map(r->b.fd, r->b.pool_size = 1 << 18);
}

static void duel_start(void (*other)(struct race *r), unsigned int rounds)
{
	race_start(&d.r, other, rounds);
	pools();
}

/* An asynchronous call, by turns with a large reply to come. */
static int call_one(u64 to, u32 i)
{
	struct bus1_cmd_call cmd = {
		.send = { .dest = to, .data = PTR("x"), .len = 1 },
		.reply_size = i & 1 ? LARGE : 0, .cookie = i,
	};
	int r = call_async_cmd(&d.r.a, &cmd);

	d.id = cmd.id;
	return r;
}

static int reply_one(u64 token, u32 i)
{
	return answer(&d.r.b, token, d.data, i & 1 ? LARGE : 10);
}

/*
 * An id is known to who makes the call before the request is sent, and could be guessed: they
 * follow one another in the same slot of the table, mixed with a number of the peer's.
 */
static void cancel_next(struct race *r)
{
	r->result = call_cancel(&r->a, d.id);
}

TEST("CALL-4 a call is cancelled by its id while its request is sent")
{
	u64 id[2], uses;

	duel_start(cancel_next, 3000);
	for (int i = 0; i < 2; i++) {
		OK(call_one(d.r.to_b, 0));
		id[i] = d.id;
		OK(call_cancel(&d.r.a, d.id));
		NOTHING(&d.r.b);
	}
	/* 0 or 1, and one more each time. */
	uses = (id[0] ^ id[1]) >> 32 == 1 ? 0 : 1;
	for (u32 i = 2; i < d.r.rounds; i++) {
		u64 next = id[0] ^ (uses ^ (uses + i)) << 32;
		struct bus1_cmd_call cmd = {
			.send = { .dest = d.r.to_b, .data = PTR("x"), .len = 1 }, .cookie = i };
		int r;

		d.id = next;
		race_go(&d.r);
		r = call_async_cmd(&d.r.a, &cmd);
		race_meet(&d.r);
		if (r) {
			ERR(r, ECANCELED);
			OK(d.r.result);
		} else {
			EQ(cmd.id, next);
		}
		if (d.r.result) {
			ERR(d.r.result, ENXIO);
			OK(call_cancel(&d.r.a, next));
		}
		/* Whichever it was, there is no call any more. */
		NOTHING(&d.r.b);
		EQ(peer_info(&d.r.b).n_calls, 0);
		EQ(peer_info(&d.r.a).n_calls, 0);
	}
	race_end(&d.r);
}

/* One that b has received. */
static void call_taken(u32 i)
{
	OK(call_one(d.r.to_b, i));
	d.token = GOT_CALL(&d.r.b, d.r.nb, "x");
}

/* What has come to a peer, by type; slices are given back. */
struct came {
	u32 calls, replies, cancelled, others;
	int error;
	u64 token;
};

static struct came came(const struct peer *p)
{
	struct came c = {};
	int r;

	while (!(r = recv_now(p, &d.in))) {
		switch (d.in.m.type) {
		case BUS1_MSG_CALL:
			c.calls++;
			c.token = d.in.m.token;
			break;
		case BUS1_MSG_REPLY:
			c.replies++;
			c.error = d.in.m.error;
			EQ(d.in.m.id, d.id);
			break;
		case BUS1_MSG_CANCELLED:
			c.cancelled++;
			EQ(d.in.m.id, d.token);
			break;
		default:
			c.others++;
		}
		if (d.in.m.slice)
			OK(slice_release(p, d.in.m.slice));
	}
	ERR(r, EAGAIN);
	return c;
}

/* Whatever it was, it is over. */
static void both_idle(void)
{
	peer_idle(&d.r.a);
	peer_idle(&d.r.b);
}

static void other_cancel(struct race *r)
{
	r->result = call_cancel(&r->a, d.id);
}

TEST_TIMEOUT("CALL-4 a cancellation against receiving the request", 120)
{
	struct came b;

	duel_start(other_cancel, 6000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		bool got;

		OK(call_one(d.r.to_b, i));
		race_go(&d.r);
		got = !recv_now(&d.r.b, &d.in);
		d.token = got ? d.in.m.token : 0;
		race_meet(&d.r);
		OK(d.r.result);
		b = came(&d.r.b);
		EQ(b.calls, 0);
		EQ(b.cancelled, got);
		if (got)
			ERR(reply_one(d.token, i), ECANCELED);
		EQ(came(&d.r.a).replies, 0);
		both_idle();
	}
	race_end(&d.r);
}

TEST_TIMEOUT("CALL-4 a cancellation against the reply", 120)
{
	duel_start(other_cancel, 6000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		int r;

		call_taken(i);
		race_go(&d.r);
		r = reply_one(d.token, i);
		race_meet(&d.r);
		/* A reply that nobody has received is dropped. */
		OK(d.r.result);
		CHECK(!r || r == -ECANCELED);
		EQ(came(&d.r.a).replies, 0);
		ERR(reply_one(d.token, i), ENXIO);
		both_idle();
	}
	race_end(&d.r);
}

TEST_TIMEOUT("CALL-4 a cancellation against receiving the reply", 120)
{
	duel_start(other_cancel, 6000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		bool got;

		OK(call_one(d.r.to_b, i));
		OK(reply_one(GOT_CALL(&d.r.b, d.r.nb, "x"), i));
		race_go(&d.r);
		got = !recv_now(&d.r.a, &d.in);
		race_meet(&d.r);
		if (got) {
			EQ(d.in.m.type, BUS1_MSG_REPLY);
			ERR(d.r.result, ENXIO);
			if (d.in.m.slice)
				OK(slice_release(&d.r.a, d.in.m.slice));
		} else {
			OK(d.r.result);
		}
		EQ(came(&d.r.a).replies, 0);
		both_idle();
	}
	race_end(&d.r);
}

TEST_TIMEOUT("CALL-4 a cancellation against the drop of the request", 120)
{
	duel_start(other_cancel, 6000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		bool taken = i & 2;
		struct bus1_msg m;
		int r;

		OK(call_one(d.r.to_b, i));
		d.token = taken ? GOT_CALL(&d.r.b, d.r.nb, "x") : 0;
		race_go(&d.r);
		r = taken ? answer_drop(&d.r.b, d.token) : drop_now(&d.r.b, &m);
		race_meet(&d.r);
		OK(d.r.result);
		if (taken)
			OK(r);
		else
			CHECK(!r || r == -EAGAIN);
		EQ(came(&d.r.a).replies, 0);
		EQ(came(&d.r.b).calls, 0);
		both_idle();
	}
	race_end(&d.r);
}

static void other_drop(struct race *r)
{
	r->result = answer_drop(&r->b, d.token);
}

TEST_TIMEOUT("CALL-2 a reply against a drop of the same request", 120)
{
	duel_start(other_drop, 6000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		struct came a;
		int r;

		call_taken(i);
		race_go(&d.r);
		r = reply_one(d.token, i);
		race_meet(&d.r);
		EQ(!r + !d.r.result, 1);
		r = r ?: d.r.result;
		CHECK(r == -ENXIO || r == -EBUSY);
		a = came(&d.r.a);
		EQ(a.replies, 1);
		EQ(a.error, d.r.result ? 0 : ECONNABORTED);
		both_idle();
	}
	race_end(&d.r);
}

static void other_revoke(struct race *r)
{
	r->result = destroy(&r->b, d.facet);
}

static void facet_make(void)
{
	d.facet = facet_new(&d.r.b, d.r.nb, 7);
	d.to_facet = grant(&d.r.b, d.facet, &d.r.a);
}

TEST_TIMEOUT("CALL-2 a revocation against receiving the request", 120)
{
	duel_start(other_revoke, 5000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		struct came a;
		bool got;

		facet_make();
		OK(call_one(d.to_facet, i));
		race_go(&d.r);
		got = !recv_now(&d.r.b, &d.in);
		d.token = got ? d.in.m.token : 0;
		race_meet(&d.r);
		OK(d.r.result);
		if (got)
			OK(reply_one(d.token, i));
		a = came(&d.r.a);
		EQ(a.replies, 1);
		EQ(a.error, got ? 0 : EHOSTUNREACH);
		OK(release(&d.r.a, d.to_facet));
		EQ(came(&d.r.b).calls, 0);
		both_idle();
	}
	race_end(&d.r);
}

TEST_TIMEOUT("CALL-2 a revocation against the call", 120)
{
	duel_start(other_revoke, 5000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		struct came a;
		int r;

		facet_make();
		race_go(&d.r);
		r = call_one(d.to_facet, i);
		race_meet(&d.r);
		OK(d.r.result);
		a = came(&d.r.a);
		if (r) {
			ERR(r, EHOSTUNREACH);
			EQ(a.replies, 0);
		} else {
			EQ(a.replies, 1);
			EQ(a.error, EHOSTUNREACH);
		}
		OK(release(&d.r.a, d.to_facet));
		EQ(came(&d.r.b).calls, 0);
		both_idle();
	}
	race_end(&d.r);
}

static void server_new(struct race *r)
{
	r->b = peer_new(1 << 18);
	r->nb = node_new(&r->b, 2);
	r->to_b = grant(&r->b, r->nb, &r->a);
}

static void other_close(struct race *r)
{
	peer_close(&r->b);
	r->result = 0;
}

TEST_TIMEOUT("CALL-2 the server closes against the call", 120)
{
	duel_start(other_close, 3000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		struct came a;
		int r;

		race_go(&d.r);
		r = call_one(d.r.to_b, i);
		race_meet(&d.r);
		a = came(&d.r.a);
		EQ(a.others, 1);
		if (r) {
			ERR(r, EHOSTUNREACH);
			EQ(a.replies, 0);
		} else {
			EQ(a.replies, 1);
			EQ(a.error, EHOSTUNREACH);
		}
		peer_idle(&d.r.a);
		OK(release(&d.r.a, d.r.to_b));
		server_new(&d.r);
	}
	race_end(&d.r);
}

TEST_TIMEOUT("CALL-4 the server closes against a cancellation", 120)
{
	duel_start(other_close, 3000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		OK(call_one(d.r.to_b, i));
		if (i & 2)
			GOT_CALL(&d.r.b, d.r.nb, "x");
		race_go(&d.r);
		OK(call_cancel(&d.r.a, d.id));
		race_meet(&d.r);
		EQ(came(&d.r.a).replies, 0);
		peer_idle(&d.r.a);
		OK(release(&d.r.a, d.r.to_b));
		server_new(&d.r);
	}
	race_end(&d.r);
}

static void other_leave(struct race *r)
{
	peer_close(&r->a);
	r->result = 0;
}

TEST_TIMEOUT("CALL-4 the caller closes against receiving, replying and dropping", 120)
{
	duel_start(other_leave, 3000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		bool taken = i & 2;

		OK(call_one(d.r.to_b, i));
		d.token = taken ? GOT_CALL(&d.r.b, d.r.nb, "x") : 0;
		race_go(&d.r);
		if (taken) {
			int r = i & 4 ? answer_drop(&d.r.b, d.token) : reply_one(d.token, i);

			CHECK(!r || r == -ECANCELED);
			d.token = 0;
		} else if (!recv_now(&d.r.b, &d.in) && d.in.m.type == BUS1_MSG_CALL) {
			d.token = d.in.m.token;
		}
		race_meet(&d.r);
		EQ(came(&d.r.b).calls, 0);
		if (d.token)
			ERR(reply_one(d.token, i), ECANCELED);
		peer_idle(&d.r.b);
		d.r.a = peer_new(1 << 18);
		d.r.to_b = grant(&d.r.b, d.r.nb, &d.r.a);
	}
	race_end(&d.r);
}

/* Of calls that a thread waits for, that thread is the other one. */
static pthread_t caller;

static void other_call(struct race *r)
{
	__atomic_store_n(&caller, pthread_self(), __ATOMIC_RELEASE);
	r->result = call_make(&d.c);
}

static void call_ready(u32 i, u64 deadline)
{
	call_init(&d.c, &d.r.a, d.r.to_b, "x", 1);
	d.c.cmd.reply_size = i & 1 ? LARGE : 0;
	d.c.cmd.recv.deadline = deadline;
}

static void got_reply_of(u32 i)
{
	EQ(d.c.in.m.type, BUS1_MSG_REPLY);
	EQ(d.c.in.m.len, i & 1 ? LARGE : 10);
	if (d.c.in.m.slice)
		OK(slice_release(&d.r.a, d.c.in.m.slice));
}

TEST_TIMEOUT("CALL-4 the deadline against taking the request, and against the reply", 120)
{
	u64 span = 2000000;
	u32 n_replied = 0, n_late = 0, n_never = 0;

	duel_start(other_call, 4000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		bool taken = false;
		int r = -EAGAIN;

		call_ready(i, test_now() + span);
		race_go(&d.r);
		while (__atomic_load_n(&d.r.done, __ATOMIC_ACQUIRE) != d.r.round) {
			if (recv_now(&d.r.b, &d.in))
				continue;
			/* At once, or a little later. */
			EQ(d.in.m.type, BUS1_MSG_CALL);
			d.token = d.in.m.token;
			taken = true;
			for (volatile u32 k = 0; k < i % 16 * 100; k++)
				;
			r = reply_one(d.token, i);
			break;
		}
		race_meet(&d.r);
		if (!taken && !recv_now(&d.r.b, &d.in))
			FAIL("round %u: a request that comes late", i);
		if (!d.r.result) {
			OK(r);
			got_reply_of(i);
			n_replied++;
			span -= span / 64;
		} else {
			ERR(d.r.result, ETIMEDOUT);
			if (taken)
				ERR(r, ECANCELED);
			taken ? n_late++ : n_never++;
			span += span / 64 + 1000;
		}
		both_idle();
	}
	race_end(&d.r);
	/* It was a race. */
	GT(n_replied, 0);
	GT(n_late + n_never, 0);
}

static void signals(int flags)
{
	struct timespec nap = { .tv_nsec = 1000000 };

	catch_signal(SIGUSR1, flags);
	duel_start(other_call, 3000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		int r;

		call_ready(i, 0);
		race_go(&d.r);
		while (recv_now(&d.r.b, &d.in))
			;
		EQ(d.in.m.type, BUS1_MSG_CALL);
		d.token = d.in.m.token;
		/* Most of them before it sleeps. */
		if (i % 8 == 0)
			nanosleep(&nap, NULL);
		if (i & 2)
			pthread_kill(__atomic_load_n(&caller, __ATOMIC_ACQUIRE), SIGUSR1);
		r = reply_one(d.token, i);
		if (!(i & 2))
			pthread_kill(__atomic_load_n(&caller, __ATOMIC_ACQUIRE), SIGUSR1);
		race_meet(&d.r);
		if (flags & SA_RESTART || !d.r.result) {
			OK(d.r.result);
			OK(r);
			got_reply_of(i);
		} else {
			ERR(d.r.result, EINTR);
			EQ(d.c.cmd.id, 0);
			ERR(r, ECANCELED);
		}
		both_idle();
	}
	race_end(&d.r);
}

TEST_TIMEOUT("CALL-4 a signal against the reply", 120)
{
	signals(0);
}

TEST_TIMEOUT("CALL-4 a signal under SA_RESTART against the reply", 120)
{
	signals(SA_RESTART);
}

TEST_TIMEOUT("CALL-5 a call back against the outer reply", 120)
{
	u64 na, to_a;

	duel_start(other_call, 4000);
	na = node_new(&d.r.a, 9);
	to_a = grant(&d.r.a, na, &d.r.b);
	for (u32 i = 0; i < d.r.rounds; i++) {
		struct bus1_cmd_call back = { .send = { .dest = to_a }, .cookie = i };
		bool first = i & 2;

		call_ready(i, 0);
		d.c.cmd.flags = BUS1_CALL_NESTED;
		race_go(&d.r);
		while (recv_now(&d.r.b, &d.in))
			;
		d.token = d.in.m.token;
		back.parent = d.token;
		/* The call goes out before the thread sleeps, while it falls asleep, or after that. */
		for (volatile u32 k = 0; k < i % 64 * 200; k++)
			;
		OK(call_async_cmd(&d.r.b, &back));
		if (first)
			OK(reply_one(d.token, i));
		race_meet(&d.r);
		OK(d.r.result);
		EQ(d.c.in.m.type, BUS1_MSG_CALL);
		EQ(d.c.in.m.id, na);
		OK(answer_str(&d.r.a, d.c.in.m.token, "back"));
		GOT_REPLY(&d.r.b, back.id, i, "back");
		if (!first)
			OK(reply_one(d.token, i));
		d.c.cmd.recv = recv_into(&d.c.in, 0, 0);
		OK(call_make(&d.c));
		got_reply_of(i);
		both_idle();
	}
	race_end(&d.r);
}

static void other_waits(struct race *r)
{
	r->result = call_make(&d.c);
}

TEST_TIMEOUT("CALL-5 CALL-2 two threads wait for one call by its id, and one gets the result", 120)
{
	u64 na, to_a;

	race_start(&d.r, other_waits, 1000);
	pools();
	na = node_new(&d.r.a, 9);
	to_a = grant(&d.r.a, na, &d.r.b);
	for (u32 i = 0; i < d.r.rounds; i++) {
		struct bus1_cmd_call back = { .send = { .dest = to_a }, .cookie = i };
		struct call outer, mine;
		u64 token;
		int r;

		call_init_str(&outer, &d.r.a, d.r.to_b, "x");
		outer.cmd.flags = BUS1_CALL_NESTED;
		outer.cmd.reply_size = LARGE;
		call_start(&outer);
		token = GOT_CALL(&d.r.b, d.r.nb, "x");
		back.parent = token;
		OK(call_async_cmd(&d.r.b, &back));
		OK(call_join(&outer));
		EQ(outer.in.m.type, BUS1_MSG_CALL);
		OK(answer_str(&d.r.a, outer.in.m.token, "back"));
		GOT_REPLY(&d.r.b, back.id, i, "back");
		/* There is a result, or will be in a moment. */
		if (i & 1)
			OK(answer(&d.r.b, token, d.data, LARGE));
		for (int k = 0; k < 2; k++) {
			struct call *c = k ? &mine : &d.c;

			call_init(c, &d.r.a, 0, NULL, 0);
			c->cmd.id = outer.cmd.id;
			c->cmd.reply_size = LARGE;
			c->cmd.recv.deadline = test_deadline(20);
		}
		race_go(&d.r);
		if (!(i & 1))
			OK(answer(&d.r.b, token, d.data, LARGE));
		r = call_make(&mine);
		race_meet(&d.r);
		ERR(r ?: d.r.result, ENXIO);
		OK(r ? d.r.result : r);
		OK(slice_release(&d.r.a, (r ? &d.c : &mine)->in.m.slice));
		EQ(peer_info(&d.r.a).pool_used, 0);
		EQ(peer_info(&d.r.a).n_calls, 0);
	}
	race_end(&d.r);
}

TEST_TIMEOUT("CALL-4 SIGKILL of the caller against the reply", 120)
{
	struct pair w = pair_new();
	u8 data[LARGE] = {};

	for (u32 i = 0; i < test_rounds(300); i++) {
		pid_t pid = test_fork();
		u64 token;
		int r;

		if (!pid) {
			struct call c;

			call_init_str(&c, &w.a, w.to_b, "x");
			c.cmd.reply_size = i & 1 ? LARGE : 0;
			call_make(&c);
			/* A reply that it got is its peer's, which stays. */
			if (!c.r && c.in.m.slice)
				OK(slice_release(&w.a, c.in.m.slice));
			_exit(0);
		}
		OK(recv_wait(&w.b, &d.in));
		token = d.in.m.token;
		if (i & 2)
			OK(SYS(kill(pid, SIGKILL)));
		r = answer(&w.b, token, data, i & 1 ? LARGE : 10);
		if (!(i & 2))
			OK(SYS(kill(pid, SIGKILL)));
		EQ(waitpid(pid, &(int){0}, 0), pid);
		CHECK(!r || r == -ECANCELED);
		ERR(answer(&w.b, token, data, 1), ENXIO);
		NOTHING(&w.b);
		NOTHING(&w.a);
		EQ(peer_info(&w.a).n_calls, 0);
		EQ(peer_info(&w.b).n_calls, 0);
		/* Killed after it had its reply, it has left a slice behind. */
		if (i % 32 == 31) {
			peer_close(&w.a);
			peer_close(&w.b);
			w = pair_new();
		}
	}
	drain(&w.a);
	peer_close(&w.a);
	peer_close(&w.b);
}
