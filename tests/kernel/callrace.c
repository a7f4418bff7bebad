// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * CALL-2, CALL-4: two ends of an asynchronous call at once, a great many times: see race.c.
 * Whoever is first, it ends once, both sides agree on how, and nothing stays.
 */
#include "duel.h"

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
		server_new();
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
		server_new();
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
