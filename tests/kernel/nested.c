// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-5: calls that are made to serve others, and threads that serve while they wait. */
#include "call.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

/* A thread that answers, if there is a token, and waits for a call. */
struct waiting {
	struct test_thread thread;
	const struct peer *p;
	struct bus1_cmd_reply cmd;
	struct in in;
	int r;
};

static void reply_and_wait(void *arg)
{
	struct waiting *t = arg;

	t->r = reply_cmd(t->p, &t->cmd);
	if (!t->r)
		recv_found(t->p, &t->in, &t->cmd.recv);
}

static void waiting_init(struct waiting *t, const struct peer *p, u64 token, const char *text,
			 u64 id)
{
	t->p = p;
	t->cmd = (struct bus1_cmd_reply){
		.send = { .dest = token, .data = token ? PTR(text) : 0,
			  .len = token ? strlen(text) : 0 },
		.recv = recv_into(&t->in, 0, 0),
		.id = id,
	};
}

static void waiting_start(struct waiting *t, const struct peer *p, u64 token, const char *text,
			  u64 id)
{
	waiting_init(t, p, token, text, id);
	test_start(&t->thread, reply_and_wait, t);
	test_asleep(getpid(), t->thread.tid);
}

static const struct in *waited(struct waiting *t, u32 type, const char *text)
{
	test_join(&t->thread);
	OK(t->r);
	EQ(t->in.m.type, type);
	EQ(t->in.m.len, strlen(text));
	MEM(t->in.data, text, strlen(text));
	return &t->in;
}

/* Peers that know a node of each other's: to[i][j] is i's handle to j's node. */
enum { A, B, C, N };

struct ring {
	struct peer p[N];
	u64 node[N], to[N][N];
};

static struct ring ring_new(void)
{
	struct ring r = {};

	for (u64 i = 0; i < N; i++) {
		r.p[i] = peer_new(1 << 18);
		r.node[i] = node_new(&r.p[i], 0xc0 + i);
	}
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++)
			r.to[i][j] = i == j ? r.node[i] : grant(&r.p[j], r.node[j], &r.p[i]);
	return r;
}

static void ring_close(struct ring *r)
{
	for (int i = 0; i < N; i++) {
		NOTHING(&r->p[i]);
		EQ(peer_info(&r->p[i]).n_calls, 0);
		EQ(peer_info(&r->p[i]).pool_used, 0);
	}
	for (int i = 0; i < N; i++)
		peer_close(&r->p[i]);
}

static void call_as(struct call *c, struct ring *r, int from, int to, const char *text,
		    u64 flags, u64 parent)
{
	call_init_str(c, &r->p[from], r->to[from][to], text);
	c->cmd.flags = flags;
	c->cmd.parent = parent;
}

static void start_as(struct call *c, struct ring *r, int from, int to, const char *text,
		     u64 flags, u64 parent)
{
	call_as(c, r, from, to, text, flags, parent);
	call_start(c);
}

/* That a thread which waits was given a request to serve. */
static u64 given(struct call *c, struct ring *r, int at, const char *text)
{
	OK(call_join(c));
	EQ(c->in.m.type, BUS1_MSG_CALL);
	EQ(c->in.m.id, r->node[at]);
	EQ(c->in.m.cookie, 0xc0 + (u64)at);
	EQ(c->in.m.len, strlen(text));
	MEM(c->in.data, text, strlen(text));
	NE(c->in.m.token, 0);
	NE(c->cmd.id, 0);
	return c->in.m.token;
}

/*
 * a calls b, which calls back to serve that: b's token, and a's, which its waiting thread
 * was given.
 */
static u64 called_back(struct ring *r, struct call *outer, struct call *back, const char *text,
		       u64 *token)
{
	start_as(outer, r, A, B, "outer", BUS1_CALL_NESTED, 0);
	*token = GOT_CALL(&r->p[B], r->node[B], "outer");
	start_as(back, r, B, A, text, 0, *token);
	return given(outer, r, A, text);
}

TEST("CALL-5 a thread that waits serves the call back, and then gets its reply")
{
	struct ring r = ring_new();
	struct call outer, inner;
	struct waiting again;
	struct in in;
	u64 token, nested;

	for (int i = 0; i < 3; i++) {
		start_as(&outer, &r, A, B, "outer", BUS1_CALL_NESTED, 0);
		token = GOT_CALL_IN(&r.p[B], r.node[B], "outer", &in);
		start_as(&inner, &r, B, A, "back", 0, token);
		nested = given(&outer, &r, A, "back");
		EQ(outer.in.m.chain, in.m.chain);
		NOTHING(&r.p[A]);
		waiting_start(&again, &r.p[A], nested, "done", outer.cmd.id);
		call_join(&inner);
		REPLIED(&inner, "done");
		CHECK(!__atomic_load_n(&again.thread.done, __ATOMIC_ACQUIRE));
		OK(answer_str(&r.p[B], token, "result"));
		waited(&again, BUS1_MSG_REPLY, "result");
		/* Now it is over. */
		call_init(&inner, &r.p[A], 0, NULL, 0);
		inner.cmd.id = outer.cmd.id;
		ERR(call_make(&inner), ENXIO);
	}
	ring_close(&r);
}

TEST("CALL-5 several calls back, one after the other, and the command repeated")
{
	struct ring r = ring_new();
	struct call outer, inner;
	struct waiting again;
	u64 token, nested;

	nested = called_back(&r, &outer, &inner, "0", &token);
	for (int i = 1; i < 6; i++) {
		char text[2] = { (char)('0' + i), 0 };

		waiting_start(&again, &r.p[A], nested, "ok", outer.cmd.id);
		call_join(&inner);
		REPLIED(&inner, "ok");
		start_as(&inner, &r, B, A, text, 0, token);
		nested = waited(&again, BUS1_MSG_CALL, text)->m.token;
		NE(nested, 0);
	}
	/* In two commands: first the answer, then waiting on. */
	OK(answer_str(&r.p[A], nested, "last"));
	call_join(&inner);
	REPLIED(&inner, "last");
	outer.cmd.recv = recv_into(&outer.in, 0, 0);
	call_start(&outer);
	NOTHING(&r.p[B]);
	OK(answer_str(&r.p[B], token, "result"));
	call_join(&outer);
	REPLIED(&outer, "result");
	ring_close(&r);
}

TEST("CALL-5 a call back through a third peer, and one chain for all of them")
{
	struct ring r = ring_new();
	struct call outer, middle, inner, apart;
	struct waiting again;
	struct in at_b, at_c, at_x;
	u64 nested;

	start_as(&outer, &r, A, B, "outer", BUS1_CALL_NESTED, 0);
	GOT_CALL_IN(&r.p[B], r.node[B], "outer", &at_b);
	start_as(&middle, &r, B, C, "middle", 0, at_b.m.token);
	GOT_CALL_IN(&r.p[C], r.node[C], "middle", &at_c);
	EQ(at_c.m.chain, at_b.m.chain);
	/* Another call between the same peers is none of this. */
	start_as(&apart, &r, B, C, "apart", 0, 0);
	GOT_CALL_IN(&r.p[C], r.node[C], "apart", &at_x);
	NE(at_x.m.chain, at_b.m.chain);
	start_as(&inner, &r, C, A, "inner", 0, at_c.m.token);
	nested = given(&outer, &r, A, "inner");
	EQ(outer.in.m.chain, at_b.m.chain);
	waiting_start(&again, &r.p[A], nested, "3", outer.cmd.id);
	call_join(&inner);
	REPLIED(&inner, "3");
	OK(answer_str(&r.p[C], at_c.m.token, "2"));
	call_join(&middle);
	REPLIED(&middle, "2");
	OK(answer_str(&r.p[B], at_b.m.token, "1"));
	waited(&again, BUS1_MSG_REPLY, "1");
	OK(answer_str(&r.p[C], at_x.m.token, "x"));
	call_join(&apart);
	REPLIED(&apart, "x");

	/* And the next one has a chain of its own. */
	start_as(&outer, &r, A, B, "next", BUS1_CALL_NESTED, 0);
	OK(answer_str(&r.p[B], GOT_CALL_IN(&r.p[B], r.node[B], "next", &at_x), "y"));
	NE(at_x.m.chain, at_b.m.chain);
	call_join(&outer);
	REPLIED(&outer, "y");
	ring_close(&r);
}

TEST("CALL-5 what is not part of the call, or not wanted, goes to the queue")
{
	struct ring r = ring_new();
	struct call outer, inner, other;
	u64 token;

	/* Without NESTED; without parent; of somebody else; a plain message. */
	for (int how = 0; how < 4; how++) {
		struct in at_b, at_a;

		start_as(&outer, &r, A, B, "outer", how ? BUS1_CALL_NESTED : 0, 0);
		token = GOT_CALL_IN(&r.p[B], r.node[B], "outer", &at_b);
		if (how == 3) {
			OK(send_str(&r.p[B], r.to[B][A], "plain"));
			GOT_TEXT(&r.p[A], r.node[A], "plain");
		} else {
			start_as(&inner, &r, how == 2 ? C : B, A, "inner", 0, how ? 0 : token);
			CHECK(readable(&r.p[A]));
			GOT_CALL_IN(&r.p[A], r.node[A], "inner", &at_a);
			if (how)
				NE(at_a.m.chain, at_b.m.chain);
			else
				EQ(at_a.m.chain, at_b.m.chain);
			OK(answer_str(&r.p[A], at_a.m.token, "served by others"));
			call_join(&inner);
			REPLIED(&inner, "served by others");
		}
		CHECK(!call_is_done(&outer));
		OK(answer_str(&r.p[B], token, "result"));
		call_join(&outer);
		REPLIED(&outer, "result");
	}
	/* An asynchronous one that is part of it is served so all the same. */
	start_as(&outer, &r, A, B, "outer", BUS1_CALL_NESTED, 0);
	token = GOT_CALL(&r.p[B], r.node[B], "outer");
	call_as(&other, &r, B, A, "async", 0, token);
	other.cmd.recv = (struct bus1_cmd_recv){};
	other.cmd.cookie = 8;
	OK(call_async_cmd(&r.p[B], &other.cmd));
	OK(answer_str(&r.p[A], given(&outer, &r, A, "async"), "yes"));
	GOT_REPLY(&r.p[B], other.cmd.id, 8, "yes");
	OK(answer_str(&r.p[B], token, "result"));
	call_init(&other, &r.p[A], 0, NULL, 0);
	other.cmd.id = outer.cmd.id;
	OK(call_make(&other));
	REPLIED(&other, "result");
	ring_close(&r);
}

TEST("CALL-5 a second call back, while the first is served, is served next")
{
	struct ring r = ring_new();
	struct call outer, one, two;
	struct waiting again;
	u64 token, nested, second;

	nested = called_back(&r, &outer, &one, "one", &token);
	start_as(&two, &r, B, A, "two", 0, token);
	waiting_init(&again, &r.p[A], nested, "1", outer.cmd.id);
	test_start(&again.thread, reply_and_wait, &again);
	second = waited(&again, BUS1_MSG_CALL, "two")->m.token;
	call_join(&one);
	REPLIED(&one, "1");
	waiting_start(&again, &r.p[A], second, "2", outer.cmd.id);
	call_join(&two);
	REPLIED(&two, "2");
	OK(answer_str(&r.p[B], token, "result"));
	waited(&again, BUS1_MSG_REPLY, "result");
	ring_close(&r);
}

/* An asynchronous call back, with copies of a handle. */
static void async_back(struct ring *r, u64 parent, const char *text, u32 n_handles)
{
	struct bus1_pass pass[BUS1_MAX_HANDLES];
	struct bus1_cmd_call cmd = {
		.send = { .dest = r->to[B][A], .data = PTR(text), .len = strlen(text),
			  .handles = n_handles ? PTR(pass) : 0, .n_handles = n_handles },
		.parent = parent };

	for (u32 i = 0; i < n_handles; i++)
		pass[i] = (struct bus1_pass){ .id = r->to[B][C] };
	OK(call_async_cmd(&r->p[B], &cmd));
}

TEST("CALL-5 who waits on with less room than before gets no more than fits into it")
{
	enum { HANDLES = 2, MORE = 10, REST = 64 };
	struct ring r = ring_new();
	struct call outer;
	struct bus1_pass pass[HANDLES];
	struct in in;
	u64 token, nested;
	u32 room = peer_info(&r.p[A]).max_inline + HANDLES * sizeof(struct bus1_handle);

	call_as(&outer, &r, A, B, "outer", BUS1_CALL_NESTED, 0);
	outer.cmd.reply_handles = HANDLES;
	call_start(&outer);
	token = GOT_CALL(&r.p[B], r.node[B], "outer");
	async_back(&r, token, "first", 0);
	nested = given(&outer, &r, A, "first");
	async_back(&r, token, "large", MORE);
	async_back(&r, token, "small", 0);
	OK(answer_str(&r.p[A], nested, ""));
	for (int exact = 0; exact < 3; exact++) {
		u64 id = outer.cmd.id;

		call_init(&outer, &r.p[A], 0, NULL, 0);
		outer.cmd.id = id;
		outer.cmd.recv.buf_size = room - !exact;
		memset((u8 *)outer.in.buf + room, 0xcc, REST);
		if (!exact) {
			/* What it says of the reply is not looked at any more. */
			ERR(call_make(&outer), EMSGSIZE);
			continue;
		}
		if (exact == 2) {
			OK(answer_str(&r.p[A], GOT_CALL_IN(&r.p[A], r.node[A], "large", &in), ""));
			EQ(in.m.n_handles, MORE);
			for (u32 i = 0; i < MORE; i++)
				OK(release(&r.p[A], in.h[i].id));
			for (int i = 0; i < HANDLES; i++)
				pass[i] = (struct bus1_pass){ .id = r.to[B][C] };
			OK(reply_cmd(&r.p[B], &(struct bus1_cmd_reply){
				.send = { .dest = token, .data = PTR("result"), .len = 6,
					  .handles = PTR(pass), .n_handles = HANDLES } }));
		}
		OK(call_make(&outer));
		for (int i = 0; i < REST; i++)
			EQ(((u8 *)outer.in.buf)[room + (u32)i], 0xcc);
		if (exact == 1) {
			MEM(outer.in.data, "small", 5);
			OK(answer_str(&r.p[A], outer.in.m.token, ""));
		} else {
			EQ(outer.in.m.type, BUS1_MSG_REPLY);
			EQ(outer.in.m.n_handles, HANDLES);
			for (int i = 0; i < HANDLES; i++)
				OK(release(&r.p[A], outer.in.h[i].id));
		}
	}
	for (int i = 0; i < 3; i++) {
		OK(recv_now(&r.p[B], &in));
		EQ(in.m.type, BUS1_MSG_REPLY);
	}
	ring_close(&r);
}

TEST("CALL-5 what is part of a call that is over is found by the thread of the one around it")
{
	struct ring r = ring_new();
	struct call outer, middle, back;
	struct bus1_cmd_call to_c;
	struct in in;
	u64 token, first, at_b, at_c;

	start_as(&outer, &r, A, B, "outer", BUS1_CALL_NESTED, 0);
	token = GOT_CALL(&r.p[B], r.node[B], "outer");
	async_back(&r, token, "first", 0);
	first = given(&outer, &r, A, "first");
	/* For that another thread of A's calls, and B has C serve a part of it. */
	start_as(&middle, &r, A, B, "middle", BUS1_CALL_NESTED, first);
	at_b = GOT_CALL(&r.p[B], r.node[B], "middle");
	to_c = (struct bus1_cmd_call){ .send = { .dest = r.to[B][C] }, .parent = at_b };
	OK(call_async_cmd(&r.p[B], &to_c));
	at_c = GOT_CALL(&r.p[C], r.node[C], "");
	OK(answer_str(&r.p[B], at_b, "enough"));
	call_join(&middle);
	REPLIED(&middle, "enough");
	/* C does not know, and calls A back. */
	start_as(&back, &r, C, A, "back", 0, at_c);
	OK(answer_str(&r.p[A], first, ""));
	outer.cmd.recv = recv_into(&outer.in, 0, 0);
	OK(call_make(&outer));
	EQ(outer.in.m.type, BUS1_MSG_CALL);
	MEM(outer.in.data, "back", 4);
	OK(answer_str(&r.p[A], outer.in.m.token, "done"));
	call_join(&back);
	REPLIED(&back, "done");
	OK(answer_str(&r.p[C], at_c, ""));
	for (int i = 0; i < 2; i++) {
		OK(recv_now(&r.p[B], &in));
		EQ(in.m.type, BUS1_MSG_REPLY);
	}
	OK(answer_str(&r.p[B], token, "result"));
	outer.cmd.recv = recv_into(&outer.in, 0, 0);
	OK(call_make(&outer));
	REPLIED(&outer, "result");
	ring_close(&r);
}

TEST("CALL-5 many calls back, while the first is served, are served in their order, among others")
{
	enum { MANY = 100 };
	struct ring r = ring_new();
	struct call outer;
	struct in in;
	u64 token;
	int n = 0;

	start_as(&outer, &r, A, B, "outer", BUS1_CALL_NESTED, 0);
	token = GOT_CALL(&r.p[B], r.node[B], "outer");
	async_back(&r, token, "first", 0);
	OK(answer_str(&r.p[A], given(&outer, &r, A, "first"), ""));
	for (int i = 0; i < MANY; i++) {
		char text[] = { (char)('0' + i), 0 };

		OK(send_str(&r.p[C], r.to[C][A], "plain"));
		call_async(&r.p[C], r.to[C][A], "other", 0);
		async_back(&r, token, text, 0);
	}
	/* Some are received by another thread. */
	for (int i = 0; i < MANY / 4; i++) {
		while (OK(recv_now(&r.p[A], &in)), in.m.type != BUS1_MSG_CALL || in.m.len != 1)
			if (in.m.type == BUS1_MSG_CALL)
				OK(answer_str(&r.p[A], in.m.token, ""));
		EQ(in.data[0], '0' + n++);
		OK(answer_str(&r.p[A], in.m.token, ""));
	}
	for (; n < MANY; n++) {
		char text[] = { (char)('0' + n), 0 };

		outer.cmd.recv = recv_into(&outer.in, 0, 0);
		OK(call_make(&outer));
		EQ(outer.in.m.type, BUS1_MSG_CALL);
		EQ(outer.in.m.len, 1);
		MEM(outer.in.data, text, 1);
		OK(answer_str(&r.p[A], outer.in.m.token, ""));
	}
	OK(answer_str(&r.p[B], token, "result"));
	outer.cmd.recv = recv_into(&outer.in, 0, 0);
	OK(call_make(&outer));
	REPLIED(&outer, "result");
	while (!recv_now(&r.p[A], &in))
		if (in.m.type == BUS1_MSG_CALL)
			OK(answer_str(&r.p[A], in.m.token, ""));
	for (int i = 0; i < 2; i++)
		while (!recv_now(&r.p[i ? B : C], &in))
			EQ(in.m.type, BUS1_MSG_REPLY);
	ring_close(&r);
}

TEST("CALL-5 what is part of the call, but no request, is left in the queue")
{
	struct ring r = ring_new();
	struct call outer, inner, second;
	struct waiting again;
	u64 token, nested, at_c, id, taken;
	struct in in;

	nested = called_back(&r, &outer, &inner, "one", &token);
	/* The reply to a call that was made to serve it. */
	call_as(&second, &r, A, C, "on", 0, nested);
	second.cmd.recv = (struct bus1_cmd_recv){};
	second.cmd.cookie = 3;
	OK(call_async_cmd(&r.p[A], &second.cmd));
	id = second.cmd.id;
	at_c = GOT_CALL(&r.p[C], r.node[C], "on");
	OK(answer_str(&r.p[C], at_c, "reply"));
	/* The notice that another call back, which another thread has taken, is cancelled. */
	call_as(&second, &r, B, A, "two", 0, token);
	second.cmd.recv = (struct bus1_cmd_recv){};
	OK(call_async_cmd(&r.p[B], &second.cmd));
	OK(recv_now(&r.p[A], &in));
	EQ(in.m.type, BUS1_MSG_REPLY);
	taken = GOT_CALL(&r.p[A], r.node[A], "two");
	OK(call_cancel(&r.p[B], second.cmd.id));
	EQ(peer_info(&r.p[A]).n_queued, 1);

	/* And a reply again, behind it. */
	call_as(&second, &r, A, C, "on", 0, nested);
	second.cmd.recv = (struct bus1_cmd_recv){};
	second.cmd.cookie = 4;
	OK(call_async_cmd(&r.p[A], &second.cmd));
	NE(second.cmd.id, id);
	id = second.cmd.id;
	OK(answer_str(&r.p[C], GOT_CALL(&r.p[C], r.node[C], "on"), "reply"));
	EQ(peer_info(&r.p[A]).n_queued, 2);
	/* A third call back, behind both, so that there is one to be found. */
	call_as(&second, &r, B, A, "three", 0, token);
	second.cmd.recv = (struct bus1_cmd_recv){};
	second.cmd.cookie = 5;
	OK(call_async_cmd(&r.p[B], &second.cmd));

	waiting_init(&again, &r.p[A], nested, "1", outer.cmd.id);
	test_start(&again.thread, reply_and_wait, &again);
	nested = waited(&again, BUS1_MSG_CALL, "three")->m.token;
	call_join(&inner);
	REPLIED(&inner, "1");
	waiting_start(&again, &r.p[A], nested, "3", outer.cmd.id);
	GOT_REPLY(&r.p[B], second.cmd.id, 5, "3");
	GOT_CANCELLED(&r.p[A], taken);
	GOT_REPLY(&r.p[A], id, 4, "reply");
	ERR(answer_str(&r.p[A], taken, "2"), ECANCELED);
	OK(answer_str(&r.p[B], token, "result"));
	waited(&again, BUS1_MSG_REPLY, "result");
	ring_close(&r);
}

TEST("CALL-5 the outer reply may come before the call back is answered")
{
	struct ring r = ring_new();
	struct call outer, inner;
	struct waiting again;
	u64 token, nested;

	nested = called_back(&r, &outer, &inner, "back", &token);
	OK(answer_str(&r.p[B], token, "result"));
	NOTHING(&r.p[A]);
	waiting_init(&again, &r.p[A], nested, "done", outer.cmd.id);
	test_start(&again.thread, reply_and_wait, &again);
	waited(&again, BUS1_MSG_REPLY, "result");
	call_join(&inner);
	REPLIED(&inner, "done");
	ring_close(&r);
}

TEST("CALL-5 who has called back has left, or dropped, or died, before it is answered")
{
	for (int how = 0; how < 3; how++) {
		struct ring r = ring_new();
		struct call outer, inner;
		struct waiting again;
		u64 token, nested;

		start_as(&outer, &r, A, B, "outer", BUS1_CALL_NESTED, 0);
		token = GOT_CALL(&r.p[B], r.node[B], "outer");
		call_as(&inner, &r, B, A, "back", 0, token);
		inner.cmd.recv = (struct bus1_cmd_recv){};
		OK(call_async_cmd(&r.p[B], &inner.cmd));
		nested = given(&outer, &r, A, "back");
		if (how == 2)
			peer_close(&r.p[B]);
		else
			OK(call_cancel(&r.p[B], inner.cmd.id));
		if (how == 1)
			OK(answer_drop(&r.p[B], token));
		waiting_init(&again, &r.p[A], nested, "too late", outer.cmd.id);
		test_start(&again.thread, reply_and_wait, &again);
		test_join(&again.thread);
		ERR(again.r, ECANCELED);
		/* Nothing was received, and the outer call is as it was. */
		call_init(&outer, &r.p[A], 0, NULL, 0);
		outer.cmd.id = again.cmd.id;
		if (how == 0) {
			call_start(&outer);
			OK(answer_str(&r.p[B], token, "result"));
			call_join(&outer);
			REPLIED(&outer, "result");
			ring_close(&r);
		} else {
			ERR(call_make(&outer), how == 1 ? ECONNABORTED : ECONNRESET);
			if (how == 1) {
				ring_close(&r);
				continue;
			}
			EQ(peer_info(&r.p[A]).n_calls, 0);
			peer_close(&r.p[A]);
			peer_close(&r.p[C]);
		}
	}
}

TEST("CALL-5 a wait that goes on after a call back ends by its deadline, and by signals")
{
	struct ring r = ring_new();

	catch_signal(SIGUSR1, 0);
	catch_signal(SIGUSR2, SA_RESTART);
	for (int how = 0; how < 3; how++) {
		struct call outer, inner;
		struct waiting again;
		u64 token, nested;

		nested = called_back(&r, &outer, &inner, "back", &token);
		waiting_init(&again, &r.p[A], nested, "done", outer.cmd.id);
		if (how == 0)
			again.cmd.recv.deadline = test_now() + 300000000ULL * test_slow();
		test_start(&again.thread, reply_and_wait, &again);
		test_asleep(getpid(), again.thread.tid);
		call_join(&inner);
		REPLIED(&inner, "done");
		if (how)
			pthread_kill(again.thread.thread, how == 1 ? SIGUSR1 : SIGUSR2);
		if (how == 2) {
			/* Restarted, it neither answers again nor forgets to serve. */
			test_sleep_ms(10);
			test_asleep(getpid(), again.thread.tid);
			start_as(&inner, &r, B, A, "again", 0, token);
			nested = waited(&again, BUS1_MSG_CALL, "again")->m.token;
			OK(answer_str(&r.p[A], nested, "twice"));
			call_join(&inner);
			REPLIED(&inner, "twice");
			OK(call_cancel(&r.p[A], outer.cmd.id));
		} else {
			test_join(&again.thread);
			ERR(again.r, how == 0 ? ETIMEDOUT : EINTR);
			ERR(call_cancel(&r.p[A], outer.cmd.id), ENXIO);
		}
		GOT_CANCELLED(&r.p[B], token);
		ERR(answer_str(&r.p[B], token, "late"), ECANCELED);
	}
	ring_close(&r);
}

TEST("CALL-5 a parent that is none")
{
	struct ring r = ring_new();
	struct call outer, inner;
	struct snapshot before;
	u64 token;

	start_as(&outer, &r, A, B, "outer", 0, 0);
	token = GOT_CALL(&r.p[B], r.node[B], "outer");
	before = SNAPSHOT(&r.p[A], &r.p[B], &r.p[C]);
	call_as(&inner, &r, B, C, "x", 0, token + 1);
	ERR(call_make(&inner), ENXIO);
	call_as(&inner, &r, B, C, "x", 0, r.node[B]);
	ERR(call_make(&inner), ENXIO);
	call_as(&inner, &r, C, A, "x", 0, token);	/* of another peer */
	ERR(call_make(&inner), ENXIO);
	SAME_SNAPSHOT(&before);
	OK(answer_str(&r.p[B], token, "y"));
	call_join(&outer);
	REPLIED(&outer, "y");
	call_as(&inner, &r, B, C, "x", 0, token);	/* that is answered */
	ERR(call_make(&inner), ENXIO);
	ring_close(&r);
}

/*
 * Two threads that call each other, deeper and deeper: each serves while it waits. The
 * payload is how deep it is; the reply how deep it went.
 */
struct diver {
	struct test_thread thread;
	const struct peer *p;
	u64 to;
	u32 limit;
	int error;		/* of the call that went too deep */
	u64 chain;
};

static u32 dive(struct diver *d, u64 parent, u32 depth);

static u32 dive_on(struct diver *d, const struct in *in)
{
	u32 depth;

	EQ(in->m.type, BUS1_MSG_CALL);
	EQ(in->m.len, 4);
	memcpy(&depth, in->data, 4);
	if (!d->chain)
		d->chain = in->m.chain;
	EQ(in->m.chain, d->chain);
	return depth < d->limit ? dive(d, in->m.token, depth + 1) : depth;
}

static u32 dive(struct diver *d, u64 parent, u32 depth)
{
	struct call c;
	u32 deepest;
	u64 id;

	call_init(&c, d->p, d->to, &depth, 4);
	c.cmd.flags = BUS1_CALL_NESTED;
	c.cmd.parent = parent;
	call_make(&c);
	if (c.r) {
		d->error = c.r;
		return depth - 1;
	}
	id = c.cmd.id;
	while (c.in.m.type == BUS1_MSG_CALL) {
		u64 token = c.in.m.token;
		struct bus1_cmd_reply cmd;

		deepest = dive_on(d, &c.in);
		cmd = (struct bus1_cmd_reply){
			.send = { .dest = token, .data = PTR(&deepest), .len = 4 },
			.recv = recv_into(&c.in, 0, 0), .id = id,
		};
		OK(reply_cmd(d->p, &cmd));
		recv_found(d->p, &c.in, &cmd.recv);
	}
	EQ(c.in.m.type, BUS1_MSG_REPLY);
	EQ(c.in.m.len, 4);
	memcpy(&deepest, c.in.data, 4);
	return deepest;
}

static void dive_first(void *arg)
{
	struct diver *d = arg;
	struct in in;
	u64 token;
	u32 deepest;

	token = await_call(d->p, &in);
	deepest = dive_on(d, &in);
	OK(answer(d->p, token, &deepest, 4));
}

TEST("CALL-5 two threads call each other as deep as they may, and no deeper")
{
	struct ring r = ring_new();

	for (u32 limit = 1; limit <= 2 * BUS1_MAX_DEPTH; limit += limit < 8 ? 1 : 7) {
		struct diver a = { .p = &r.p[A], .to = r.to[A][B], .limit = limit };
		struct diver b = { .p = &r.p[B], .to = r.to[B][A], .limit = limit };
		u32 deepest;

		test_start(&b.thread, dive_first, &b);
		deepest = dive(&a, 0, 1);
		test_join(&b.thread);
		if (limit <= BUS1_MAX_DEPTH) {
			EQ(deepest, limit);
			EQ(a.error, 0);
			EQ(b.error, 0);
		} else {
			EQ(deepest, BUS1_MAX_DEPTH);
			ERR(a.error ?: b.error, ELOOP);
		}
		if (a.chain)
			EQ(a.chain, b.chain);
	}
	ring_close(&r);
}

TEST("CALL-5 depth counts through several peers, and not across chains")
{
	struct ring r = ring_new();
	struct call c[BUS1_MAX_DEPTH + 1];
	struct snapshot before;
	u64 token[BUS1_MAX_DEPTH + 1] = {};
	u32 n;

	/* Round and round, one thread each. */
	for (n = 0; n < BUS1_MAX_DEPTH; n++) {
		start_as(&c[n], &r, (int)n % N, (int)(n + 1) % N, "x", 0, n ? token[n - 1] : 0);
		token[n] = GOT_CALL(&r.p[(n + 1) % N], r.node[(n + 1) % N], "x");
	}
	before = SNAPSHOT(&r.p[A], &r.p[B], &r.p[C]);
	call_as(&c[n], &r, (int)n % N, (int)(n + 1) % N, "x", 0, token[n - 1]);
	ERR(call_make(&c[n]), ELOOP);
	SAME_SNAPSHOT(&before);
	/* As a call of its own it may be made. */
	start_as(&c[n], &r, (int)n % N, (int)(n + 1) % N, "y", 0, 0);
	OK(answer_str(&r.p[(n + 1) % N], GOT_CALL(&r.p[(n + 1) % N], r.node[(n + 1) % N], "y"),
		      "z"));
	call_join(&c[n]);
	REPLIED(&c[n], "z");
	while (n--) {
		OK(answer_str(&r.p[(n + 1) % N], token[n], "back"));
		call_join(&c[n]);
		REPLIED(&c[n], "back");
	}
	ring_close(&r);
}

TEST_LONG("CALL-5 who calls each other without serving ends by deadline, or is killed", 60)
{
	struct ring r = ring_new();
	struct call c;
	u64 at_a, at_b, start;
	pid_t pid;

	/* Each has one thread. */
	pid = test_fork();
	if (!pid) {
		struct in in;
		u64 token = await_call(&r.p[B], &in);

		call_as(&c, &r, B, A, "and you", 0, token);
		call_make(&c);
		FAIL("who would answer that?");
	}
	call_as(&c, &r, A, B, "do it", 0, 0);
	c.cmd.recv.deadline = test_now() + 500000000ULL * test_slow();
	ERR(call_make(&c), ETIMEDOUT);
	at_a = GOT_CALL(&r.p[A], r.node[A], "and you");
	start = test_now();
	test_kill(pid);
	LT(test_now() - start, 2000000000ULL * test_slow());
	GOT_CANCELLED(&r.p[A], at_a);
	ERR(answer_str(&r.p[A], at_a, "x"), ECANCELED);
	/* The token of the child is that of its peer, which is here, too. */
	OK(recv_now(&r.p[B], &c.in));
	EQ(c.in.m.type, BUS1_MSG_CANCELLED);
	at_b = c.in.m.id;
	ERR(answer_str(&r.p[B], at_b, "x"), ECANCELED);
	ring_close(&r);
}
