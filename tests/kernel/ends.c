// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * CALL-2, CALL-4: every end of a call, at every point of its life: before its request
 * was received, while it is served, and while the reply is on its way; of calls that a
 * thread waits for, and of asynchronous ones. Whatever it is, nothing stays.
 */
#include "call.h"
#include "tar.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * A server that is closed while it is REPLYING there is not: who replies is in a command, which
 * holds the peer's file. It is closed later then, and the reply arrives before that; or who replies
 * is killed, which replying.c is about.
 */
enum point { QUEUED, SERVED, REPLYING, N_POINTS };

enum { LARGE = 10000 };

/* A call at that point, through a facet; with a large reply to come, or a small one. */
struct stage {
	struct pair w;
	u64 facet, to;
	enum point at;
	bool async, large;
	struct call c;
	u64 id, token;
	struct tar tar;
	struct test_thread replier;
	int replied;			/* what the replier got */
};

static void reply_slowly(void *arg)
{
	struct stage *s = arg;

	s->replied = answer(&s->w.b, s->token, tar_edge(&s->tar, 8), s->large ? LARGE : 16);
}

/* With a deadline, or 0. */
static void stage_make(struct stage *s, enum point at, int form, u64 deadline)
{
	memset(s, 0, sizeof(*s));
	s->at = at;
	s->async = form & 1;
	s->large = form & 2;
	s->w = pair_new();
	s->facet = facet_new(&s->w.b, s->w.nb, 5);
	s->to = grant(&s->w.b, s->facet, &s->w.a);
	call_init_str(&s->c, &s->w.a, s->to, "request");
	s->c.cmd.reply_size = s->large ? LARGE : 0;
	s->c.cmd.reply_handles = 4;
	s->c.cmd.reply_fds = 4;
	s->c.cmd.cookie = 77;
	if (s->async) {
		s->c.cmd.recv = (struct bus1_cmd_recv){};
		OK(call_async_cmd(&s->w.a, &s->c.cmd));
		NE(s->id = s->c.cmd.id, 0);
	} else {
		s->c.cmd.recv.deadline = deadline;
		call_start(&s->c);
	}
	if (at >= SERVED)
		s->token = GOT_CALL(&s->w.b, s->w.nb, "request");
	if (at == REPLYING) {
		s->tar = tar_new();
		test_start(&s->replier, reply_slowly, s);
		tar_wait(&s->tar);
	}
}

/* The reply that is on its way arrives, or is told what became of it. */
static int stage_replied(struct stage *s)
{
	EQ(s->at, REPLYING);
	tar_melt(&s->tar);
	test_join(&s->replier);
	return s->replied;
}

/* How the call ends: -errno, or 0 with a reply in s->c.in. It is waited for. */
static int stage_end(struct stage *s)
{
	struct in *in = &s->c.in;

	if (!s->async)
		return call_join(&s->c);
	/* The death of a node may be told before. */
	do
		OK(recv_wait(&s->w.a, in));
	while (in->m.type == BUS1_MSG_NODE_DEAD);
	EQ(in->m.type, BUS1_MSG_REPLY);
	EQ(in->m.id, s->id);
	EQ(in->m.cookie, 77);
	if (in->m.error) {
		EQ(in->m.len, 0);
		EQ(in->m.slice, 0);
		EQ(in->m.n_handles, 0);
	}
	return -in->m.error;
}

static void stage_got_reply(struct stage *s, size_t len)
{
	OK(stage_end(s));
	EQ(s->c.in.m.type, BUS1_MSG_REPLY);
	EQ(s->c.in.m.len, len);
	if (s->c.in.m.slice)
		OK(slice_release(&s->w.a, s->c.in.m.slice));
}

static void gone(struct stage *s)
{
	if (!s->async)
		return;
	ERR(call_cancel(&s->w.a, s->id), ENXIO);
}

#define FORMS(s, at, deadline, first, step)					\
	for (int form_ = first; form_ < 4 && (stage_make(s, at, form_, deadline), true);	\
	     form_ += step)
#define EACH_FORM(s, at) FORMS(s, at, 0, 0, 1)
#define EACH_ASYNC_FORM(s, at) FORMS(s, at, 0, 1, 2)
#define EACH_WAITING_FORM(s, at, deadline) FORMS(s, at, deadline, 0, 2)

TEST("CALL-2 it ends with the reply")
{
	static struct stage s;

	EACH_FORM(&s, SERVED) {
		OK(answer_str(&s.w.b, s.token, "reply"));
		stage_got_reply(&s, 5);
		gone(&s);
		pair_close(&s.w);
	}
	EACH_FORM(&s, REPLYING) {
		OK(stage_replied(&s));
		stage_got_reply(&s, s.large ? LARGE : 16);
		gone(&s);
		pair_close(&s.w);
	}
}

TEST("CALL-2 while somebody replies nobody else does")
{
	static struct stage s;

	EACH_FORM(&s, REPLYING) {
		ERR(answer_str(&s.w.b, s.token, "too"), EBUSY);
		ERR(answer_drop(&s.w.b, s.token), EBUSY);
		OK(stage_replied(&s));
		ERR(answer_str(&s.w.b, s.token, "too"), ENXIO);
		stage_got_reply(&s, s.large ? LARGE : 16);
		pair_close(&s.w);
	}
}

TEST("CALL-2 a reply that fails after others were turned away can be made again")
{
	static struct stage s;
	struct tar t;

	EACH_FORM(&s, SERVED) {
		t = tar_new();
		s.tar = t;
		s.at = REPLYING;
		test_start(&s.replier, reply_slowly, &s);
		tar_wait(&t);
		ERR(answer_drop(&s.w.b, s.token), EBUSY);
		/* What it reads from goes away under it. */
		OK(SYS(mprotect(t.mem + page_size(), t.size - page_size(), PROT_NONE)));
		ERR(stage_replied(&s), EFAULT);
		OK(answer_str(&s.w.b, s.token, "now"));
		stage_got_reply(&s, 3);
		pair_close(&s.w);
	}
}

TEST("CALL-2 the server is closed before it has received the request, EHOSTUNREACH")
{
	static struct stage s;

	EACH_FORM(&s, QUEUED) {
		peer_close(&s.w.b);
		ERR(stage_end(&s), EHOSTUNREACH);
		gone(&s);
		drain(&s.w.a);
		EQ(peer_info(&s.w.a).n_calls, 0);
		EQ(peer_info(&s.w.a).pool_used, 0);
		peer_close(&s.w.a);
	}
}

TEST("CALL-2 the server is closed while it serves the request, ECONNRESET")
{
	static struct stage s;

	EACH_FORM(&s, SERVED) {
		peer_close(&s.w.b);
		ERR(stage_end(&s), ECONNRESET);
		gone(&s);
		drain(&s.w.a);
		EQ(peer_info(&s.w.a).n_calls, 0);
		EQ(peer_info(&s.w.a).pool_used, 0);
		peer_close(&s.w.a);
	}
}

TEST("CALL-2 the process of the server exits, or is killed")
{
	for (int how = 0; how < 4; how++) {
		struct pair w = pair_new();
		struct call c;
		pid_t pid = test_fork();

		if (!pid) {
			struct in in;

			close(w.a.fd);
			if (how & 1)
				await_call(&w.b, &in);
			else
				OK(SYS(poll(&(struct pollfd){ .fd = w.b.fd, .events = POLLIN }, 1,
					    -1)));
			if (how & 2)
				raise(SIGKILL);
			_exit(0);
		}
		peer_close(&w.b);
		call_init_str(&c, &w.a, w.to_b, "go");
		ERR(call_make(&c), how & 1 ? ECONNRESET : EHOSTUNREACH);
		if (how & 2)
			test_kill(pid);
		else
			test_wait(pid);
		GOT_DEAD(&w.a, w.to_b);
		NOTHING(&w.a);
		peer_close(&w.a);
	}
}

/* Either the node or its facet. */
static void node_ends(struct stage *s, int how)
{
	OK(destroy(&s->w.b, how ? s->facet : s->w.nb));
}

TEST("CALL-2 the node is destroyed, or the badge revoked, before the request was received")
{
	static struct stage s;

	for (int how = 0; how < 2; how++)
		EACH_FORM(&s, QUEUED) {
			node_ends(&s, how);
			ERR(stage_end(&s), EHOSTUNREACH);
			gone(&s);
			NOTHING(&s.w.b);
			drain(&s.w.a);
			pair_close(&s.w);
		}
}

TEST("CALL-2 the node ends later, and the call goes on")
{
	static struct stage s;

	for (int how = 0; how < 2; how++) {
		EACH_FORM(&s, SERVED) {
			node_ends(&s, how);
			CHECK(s.async || !call_is_done(&s.c));
			OK(answer_str(&s.w.b, s.token, "all the same"));
			stage_got_reply(&s, 12);
			drain(&s.w.a);
			pair_close(&s.w);
		}
		EACH_FORM(&s, REPLYING) {
			node_ends(&s, how);
			OK(stage_replied(&s));
			stage_got_reply(&s, s.large ? LARGE : 16);
			drain(&s.w.a);
			pair_close(&s.w);
		}
	}
}

TEST("CALL-2 a revocation ends calls at once, behind thousands of messages, too")
{
	for (int how = 0; how < 4; how++) {
		struct pair w = pair_new();
		u64 na = node_new(&w.a, 2), to_a = grant(&w.a, na, &w.b);
		u64 other = node_new(&w.b, 1), to_other = grant(&w.b, other, &w.a);
		u64 facet = facet_new(&w.b, w.nb, 9), to = grant(&w.b, facet, &w.a);
		u64 kept = facet_new(&w.b, w.nb, 10), to_kept = grant(&w.b, kept, &w.a);
		struct call c, d;
		u64 id;

		/* Replies to calls of its own stand before all that. */
		for (int i = 0; how == 3 && i < 5; i++) {
			call_async(&w.b, to_a, "own", 1);
			OK(answer_str(&w.a, GOT_CALL(&w.a, na, "own"), "reply"));
		}
		/* To that very node as well, so that all of them go. */
		for (int i = 0; i < 3000; i++)
			OK(send_data(&w.a, how == 1 ? to : to_other, NULL, 0));
		call_start_str(&c, &w.a, to, "x");
		id = call_async(&w.a, to, "y", 3);
		call_start_str(&d, &w.a, to_kept, "kept");
		OK(destroy(&w.b, how == 2 ? w.nb : facet));
		/* The server does nothing more. */
		ERR(call_join(&c), EHOSTUNREACH);
		CHECK(readable(&w.a));
		if (how == 2)
			ERR(call_join(&d), EHOSTUNREACH);
		else
			CHECK(!call_is_done(&d));
		for (bool ended = false; !ended;) {
			struct in in;

			OK(recv_now(&w.a, &in));
			if (in.m.type == BUS1_MSG_NODE_DEAD)
				continue;
			EQ(in.m.type, BUS1_MSG_REPLY);
			EQ(in.m.id, id);
			EQ(in.m.error, EHOSTUNREACH);
			ended = true;
		}
		drain(&w.a);
		EQ(peer_info(&w.a).n_calls, 0);
		if (how != 2) {
			struct in in;

			do
				OK(recv_now(&w.b, &in));
			while (in.m.type != BUS1_MSG_CALL);
			EQ(in.m.badge, 10);
			OK(answer_str(&w.b, in.m.token, "here"));
			call_join(&d);
			REPLIED(&d, "here");
		} else {
			EQ(drain(&w.b), 3000);
		}
		pair_close(&w);
	}
}

TEST("CALL-2 the request is dropped, ECONNABORTED")
{
	static struct stage s;

	EACH_FORM(&s, QUEUED) {
		struct bus1_msg m;

		OK(drop_now(&s.w.b, &m));
		EQ(m.type, BUS1_MSG_CALL);
		EQ(m.flags, BUS1_MSG_F_DROPPED);
		EQ(m.token, 0);
		ERR(stage_end(&s), ECONNABORTED);
		gone(&s);
		pair_close(&s.w);
	}
	EACH_FORM(&s, SERVED) {
		OK(answer_drop(&s.w.b, s.token));
		ERR(stage_end(&s), ECONNABORTED);
		ERR(answer_str(&s.w.b, s.token, "x"), ENXIO);
		gone(&s);
		pair_close(&s.w);
	}
}

TEST_LONG("CALL-4 the deadline of a call passes, at every point", 60)
{
	static struct stage s;
	u64 soon;

#define SOON (soon = test_now() + 200000000ULL * (1 + test_slow()))
	EACH_WAITING_FORM(&s, QUEUED, SOON) {
		ERR(stage_end(&s), ETIMEDOUT);
		GE(test_now(), soon);
		/* Nobody sees the request any more. */
		EQ(peer_info(&s.w.b).n_queued, 0);
		CHECK(!readable(&s.w.b));
		pair_close(&s.w);
	}
	EACH_WAITING_FORM(&s, SERVED, SOON) {
		ERR(stage_end(&s), ETIMEDOUT);
		GOT_CANCELLED(&s.w.b, s.token);
		ERR(answer_str(&s.w.b, s.token, "late"), ECANCELED);
		ERR(answer_str(&s.w.b, s.token, "late"), ENXIO);
		pair_close(&s.w);
	}
	EACH_WAITING_FORM(&s, REPLYING, SOON) {
		ERR(stage_end(&s), ETIMEDOUT);
		ERR(stage_replied(&s), ECANCELED);
		/* The server knows it from that. */
		ERR(answer_str(&s.w.b, s.token, "late"), ENXIO);
		pair_close(&s.w);
	}
#undef SOON
}

TEST("CALL-4 a deadline that is over, one that is far, and one that is met")
{
	const u64 far[] = { test_deadline(1000), INT64_MAX, 1ULL << 63, UINT64_MAX };
	struct pair w = pair_new();
	struct call c;

	for (u64 past = 1; past < test_now(); past = past * 1000 + 1) {
		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.recv.deadline = past;
		ERR(call_make(&c), ETIMEDOUT);
		EQ(peer_info(&w.b).n_queued, 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(far); i++) {
		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.recv.deadline = far[i];
		call_start(&c);
		test_sleep_ms(20);
		OK(answer_str(&w.b, GOT_CALL(&w.b, w.nb, "x"), "in time"));
		call_join(&c);
		REPLIED(&c, "in time");
	}
	pair_close(&w);
}

TEST("CALL-4 a call that is cancelled, at every point")
{
	static struct stage s;

	EACH_ASYNC_FORM(&s, QUEUED) {
		OK(call_cancel(&s.w.a, s.id));
		gone(&s);
		EQ(peer_info(&s.w.b).n_queued, 0);
		pair_close(&s.w);
	}
	EACH_ASYNC_FORM(&s, SERVED) {
		OK(call_cancel(&s.w.a, s.id));
		gone(&s);
		GOT_CANCELLED(&s.w.b, s.token);
		ERR(answer_str(&s.w.b, s.token, "late"), ECANCELED);
		pair_close(&s.w);
	}
	EACH_ASYNC_FORM(&s, REPLYING) {
		OK(call_cancel(&s.w.a, s.id));
		ERR(stage_replied(&s), ECANCELED);
		gone(&s);
		pair_close(&s.w);
	}
	/* A reply that nobody has received is dropped. */
	EACH_ASYNC_FORM(&s, SERVED) {
		u8 data[LARGE] = {};

		OK(answer(&s.w.b, s.token, data, s.large ? LARGE : 10));
		EQ(peer_info(&s.w.a).n_queued, 1);
		OK(call_cancel(&s.w.a, s.id));
		gone(&s);
		pair_close(&s.w);
	}
}

/* What the server is told of: how many notices of one type, and no requests. */
static u32 told_of(const struct peer *p, u32 type, u64 id)
{
	struct in in;
	u32 n = 0;
	int r;

	while (!(r = recv_now(p, &in))) {
		NE(in.m.type, BUS1_MSG_CALL);
		n += in.m.type == type && in.m.id == id;
	}
	ERR(r, EAGAIN);
	return n;
}

TEST("CALL-4 the caller's peer is closed, at every point")
{
	static struct stage s;

	for (enum point at = QUEUED; at < N_POINTS; at++)
		EACH_ASYNC_FORM(&s, at) {
			peer_close(&s.w.a);
			if (at == REPLYING)
				ERR(stage_replied(&s), ECANCELED);
			EQ(told_of(&s.w.b, BUS1_MSG_CANCELLED, s.token), at == SERVED);
			if (at == SERVED)
				ERR(answer_str(&s.w.b, s.token, "x"), ECANCELED);
			ERR(answer_str(&s.w.b, s.token ?: 1, "x"), ENXIO);
			EQ(peer_info(&s.w.b).n_calls, 0);
			EQ(peer_info(&s.w.b).pool_used, 0);
			peer_close(&s.w.b);
		}
}

TEST("CALL-4 what a late reply carries stays with the server, or is closed")
{
	static struct stage s;

	EACH_ASYNC_FORM(&s, SERVED) {
		u64 own = node_new(&s.w.a, 4), kept;
		struct bus1_pass pass[2] = {};
		struct bus1_cmd_reply cmd;
		struct bus1_cmd_info before;
		s32 fd;

		OK(call_cancel(&s.w.a, s.id));
		kept = grant(&s.w.a, own, &s.w.b);
		pass[0] = (struct bus1_pass){ .id = kept, .flags = BUS1_PASS_MOVE };
		pass[1].id = node_new(&s.w.b, 6);
		fd = memfd_sealed("x", 1);
		before = peer_info(&s.w.a);
		cmd = (struct bus1_cmd_reply){ .send = {
			.dest = s.token, .handles = PTR(pass), .n_handles = 2, .fds = PTR(&fd),
			.n_fds = 1 } };
		GOT_CANCELLED(&s.w.b, s.token);
		ERR(reply_cmd(&s.w.b, &cmd), ECANCELED);
		SAME_INFO(&s.w.a, &before);
		NOTHING(&s.w.b);
		close_fd(fd);
		OK(release(&s.w.b, kept));
		GOT_UNUSED(&s.w.a, own, 1);
		pair_close(&s.w);
	}
}

TEST("CALL-4 a cancel notice comes once, and is withdrawn if the server answers first")
{
	struct pair w = pair_new();
	u64 id, token;

	id = call_async(&w.a, w.to_b, "one", 1);
	token = GOT_CALL(&w.b, w.nb, "one");
	CHECK(!readable(&w.b));
	OK(call_cancel(&w.a, id));
	CHECK(readable(&w.b));
	EQ(peer_info(&w.b).n_queued, 1);
	EQ(peer_info(&w.b).n_calls, 1);
	GOT_CANCELLED(&w.b, token);
	NOTHING(&w.b);
	/* The token is there until it is answered or dropped. */
	EQ(peer_info(&w.b).n_calls, 1);
	OK(send_str(&w.a, w.to_b, "by the way"));
	GOT_TEXT(&w.b, w.nb, "by the way");
	ERR(answer_str(&w.b, token, "x"), ECANCELED);
	EQ(peer_info(&w.b).n_calls, 0);

	id = call_async(&w.a, w.to_b, "two", 2);
	token = GOT_CALL(&w.b, w.nb, "two");
	OK(call_cancel(&w.a, id));
	ERR(answer_str(&w.b, token, "x"), ECANCELED);
	CHECK(!readable(&w.b));
	NOTHING(&w.b);

	/* Dropping is all that one may want of it, and there is nobody to be told. */
	id = call_async(&w.a, w.to_b, "three", 3);
	token = GOT_CALL(&w.b, w.nb, "three");
	OK(call_cancel(&w.a, id));
	GOT_CANCELLED(&w.b, token);
	OK(answer_drop(&w.b, token));
	ERR(answer_drop(&w.b, token), ENXIO);
	pair_close(&w);
}

TEST("CALL-4 a reply that went nowhere receives nothing")
{
	struct pair w = pair_new();
	u64 id = call_async(&w.a, w.to_b, "one", 1), token = GOT_CALL(&w.b, w.nb, "one");
	struct in in;

	OK(call_cancel(&w.a, id));
	OK(send_str(&w.a, w.to_b, "next"));
	GOT_CANCELLED(&w.b, token);
	ERR(answer_next(&w.b, token, "x", 1, 0, &in), ECANCELED);
	GOT_TEXT(&w.b, w.nb, "next");
	pair_close(&w);
}

TEST("CALL-4 a request that was dropped from the queue is not cancelled later")
{
	struct pair w = pair_new();
	u64 id = call_async(&w.a, w.to_b, "one", 1), end;
	struct bus1_msg m;

	OK(drop_now(&w.b, &m));
	GOT_END(&w.a, id, 1, ECONNABORTED);
	ERR(call_cancel(&w.a, id), ENXIO);
	NOTHING(&w.b);
	/* Two ends of one call: the first counts. */
	end = call_async(&w.a, w.to_b, "two", 2);
	OK(drop_now(&w.b, &m));
	OK(call_cancel(&w.a, end));
	NOTHING(&w.a);
	pair_close(&w);
}
