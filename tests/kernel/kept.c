// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What is over is over, though others keep it: a call that others are part of, a request in
 * the hand of a thread that is stuck, a reply that could not be made. Its caller pays no more,
 * and has its space again; and nobody touches what is not his any more.
 */
#include "call.h"
#include "tar.h"

#include <stddef.h>
#include <string.h>
#include <unistd.h>

enum { POOL = 1 << 16, LARGE = 9000, VICTIM = 2101 };

/* A victim calls a server, which has made an accomplice part of that, who never answers. */
struct trap {
	struct peer server, victim, accomplice;
	u64 node, far, to, to_far, child;
};

static void trap_init(struct trap *t)
{
	t->server = peer_new(POOL);
	t->victim = peer_of(VICTIM, POOL);
	t->accomplice = peer_new(POOL);
	t->node = node_new(&t->server, 1);
	t->far = node_new(&t->accomplice, 2);
	t->to = grant(&t->server, t->node, &t->victim);
	t->to_far = grant(&t->accomplice, t->far, &t->server);
}

static void trap_spring(struct trap *t, u64 token)
{
	struct bus1_cmd_call cmd = { .send = { .dest = t->to_far }, .flags = BUS1_CALL_ASYNC,
				     .parent = token };

	OK(call_async_cmd(&t->server, &cmd));
	t->child = cmd.id;
}

static void trap_end(struct trap *t)
{
	OK(call_cancel(&t->server, t->child));
	drain(&t->accomplice);
	drain(&t->server);
}

static void trap_deinit(struct trap *t)
{
	drain(&t->victim);
	peer_close(&t->accomplice);
	peer_close(&t->server);
	peer_close(&t->victim);
	nothing_charged(VICTIM);
}

static void charged(u64 messages, u64 files)
{
	struct user user;

	CHECK(user_read(VICTIM, &user));
	EQ(user.used[MAX_MESSAGES], messages);
	EQ(user.used[MAX_FILES], files);
}

TEST("RES-1 RES-2 CALL-7 a call that is over is paid for no more, though others are part of it")
{
	enum { SMALL, BIG, ERROR, DROPPED, LEFT, N_ENDS };
	struct trap t;

	trap_init(&t);
	for (int how = 0; how < 2 * N_ENDS; how++) {
		int end = how / 2;
		bool is_async = how & 1;
		struct bus1_cmd_call cmd = {
			.send = { .dest = t.to, .data = PTR("x"), .len = 1 },
			.reply_size = LARGE, .reply_handles = 250, .reply_fds = 200,
			.cookie = 5 };
		u8 data[LARGE];
		struct call c;
		struct in in;
		u64 token;

		fill(data, LARGE, 1);
		if (is_async) {
			OK(call_async_cmd(&t.victim, &cmd));
		} else {
			call_init_str(&c, &t.victim, t.to, "x");
			c.cmd.reply_size = LARGE;
			c.cmd.reply_handles = 250;
			c.cmd.reply_fds = 200;
			if (end == LEFT)
				c.cmd.recv.deadline = test_now() + 300000000;
			call_start(&c);
		}
		token = GOT_CALL(&t.server, t.node, "x");
		trap_spring(&t, token);
		if (end != LEFT)
			charged(251, 200);
		switch (end) {
		case SMALL:
			OK(answer_str(&t.server, token, "y"));
			break;
		case BIG:
			OK(answer(&t.server, token, data, LARGE));
			break;
		case ERROR:
		case DROPPED:
			OK(answer_drop(&t.server, token));
			break;
		case LEFT:
			if (is_async)
				OK(call_cancel(&t.victim, cmd.id));
			else
				ERR(call_join(&c), ETIMEDOUT);
			/* The request is still there, but no reply will be. */
			charged(1, 0);
			EQ(peer_info(&t.victim).n_slices, 0);
			ERR(answer(&t.server, token, data, LARGE), ECANCELED);
			break;
		}
		if (end != LEFT && is_async) {
			if (end == DROPPED) {
				OK(drop_now(&t.victim, &in.m));
			} else {
				OK(recv_now(&t.victim, &in));
				EQ(in.m.error, end == ERROR ? ECONNABORTED : 0);
			}
			if (end == BIG)
				OK(slice_release(&t.victim, in.m.slice));
		} else if (end != LEFT) {
			call_join(&c);
			if (end == BIG)
				OK(slice_release(&t.victim, c.in.m.slice));
		}
		charged(0, 0);
		EQ(peer_info(&t.victim).n_slices, 0);
		EQ(peer_info(&t.victim).pool_used, 0);
		trap_end(&t);
	}
	trap_deinit(&t);
}

TEST("RES-1 CALL-7 what a caller has set aside is its own again when it leaves, also while a reply fails")
{
	for (int how = 0; how < 2; how++) {
		struct pair w = pair_new();
		struct tar tar = tar_new();
		struct bus1_cmd_call cmd = {
			.send = { .dest = w.to_b, .data = PTR("x"), .len = 1 },
			.reply_size = LARGE, .cookie = 1 };
		struct answerer a;
		u64 token;

		OK(call_async_cmd(&w.a, &cmd));
		token = GOT_CALL(&w.b, w.nb, "x");
		answerer_start(&a, &w.b, token, tar_edge(&tar, 100), LARGE);
		tar_wait(&tar);
		OK(call_cancel(&w.a, cmd.id));
		if (how) {
			tar_break(&tar);
			test_join(&a.thread);
			ERR(a.r, EFAULT);
		} else {
			tar_melt(&tar);
			test_join(&a.thread);
			ERR(a.r, ECANCELED);
		}
		EQ(peer_info(&w.a).n_slices, 0);
		EQ(peer_info(&w.a).pool_used, 0);
		if (how)
			ERR(answer_str(&w.b, token, "late"), ECANCELED);
		NOTHING(&w.b);
		pair_idle(&w);
		pair_close(&w);
	}
}

/* A receive that gets stuck as it tells of one thing, somewhere in that. */
struct stuck {
	struct test_thread thread;
	struct tar tar;
	const struct peer *p;
	struct bus1_cmd_recv cmd;
	struct bus1_msg *msg;
	u64 buf[512];
	int r;
};

static void stuck_run(void *arg)
{
	struct stuck *s = arg;

	s->r = recv_cmd(s->p, &s->cmd);
}

static void stuck_start(struct stuck *s, const struct peer *p, u64 flags, size_t before, u32 n)
{
	memset(s, 0, sizeof(*s));
	s->p = p;
	s->tar = tar_new();
	s->msg = (void *)tar_edge(&s->tar, before);
	s->cmd = (struct bus1_cmd_recv){
		.flags = BUS1_RECV_NONBLOCK | flags,
		.msgs = PTR(s->msg), .n_msgs = n, .msg_size = sizeof(struct bus1_msg),
		.buf = PTR(s->buf), .buf_size = sizeof(s->buf) };
	test_start(&s->thread, stuck_run, s);
	tar_wait(&s->tar);
}

static int stuck_end(struct stuck *s, bool breaks)
{
	if (breaks)
		tar_break(&s->tar);
	else
		tar_melt(&s->tar);
	test_join(&s->thread);
	return s->r;
}

/*
 * The token can be seen while its request is not told of in full. So another thread uses it
 * up, while a third is about to drop the notice that the caller has left.
 */
TEST("CALL-2 CALL-4 MSG-10 a request in a hand is its alone, whatever becomes of its token and its notice")
{
	for (int how = 0; how < 8; how++) {
		bool large = how & 1, breaks = how & 2, first = how & 4;
		struct pair w = pair_new();
		u64 h = node_new(&w.a, 9), id;
		struct bus1_pass pass = { .id = h };
		u8 data[LARGE];
		struct bus1_cmd_call cmd = {
			.send = { .dest = w.to_b, .data = PTR(data), .len = large ? LARGE : 1,
				  .handles = PTR(&pass), .n_handles = 1 } };
		struct stuck request, notice;

		fill(data, LARGE, 2);
		OK(call_async_cmd(&w.a, &cmd));
		id = cmd.id;
		stuck_start(&request, &w.b, 0, offsetof(struct bus1_msg, token) + 8, 1);
		NE(request.msg->token, 0);
		OK(call_cancel(&w.a, id));
		stuck_start(&notice, &w.b, BUS1_RECV_DROP, 8, 1);
		ERR(answer_str(&w.b, request.msg->token, "late"), ECANCELED);
		if (first)
			OK(stuck_end(&notice, false));
		ERR(stuck_end(&request, breaks), breaks ? EFAULT : 0);
		if (!first)
			OK(stuck_end(&notice, false));
		/* Told of, or not at all. */
		if (!breaks) {
			struct bus1_handle *got = (void *)((u8 *)request.buf + request.msg->handles);

			EQ(request.msg->n_handles, 1);
			OK(release(&w.b, got->id));
			ERR(release(&w.b, got->id), ENXIO);
			if (large)
				OK(slice_release(&w.b, request.msg->slice));
		}
		EQ(peer_info(&w.b).n_slices, 0);
		EQ(peer_info(&w.b).n_handles, 0);
		NOTHING(&w.b);
		GOT_UNUSED(&w.a, h, 1);
		OK(destroy(&w.a, h));
		pair_idle(&w);
		pair_close(&w);
	}
}

TEST("CALL-4 RES-1 a request that could not be told of after its caller has left leaves nothing")
{
	struct pair w = pair_new();
	u8 data[LARGE] = {};
	struct bus1_cmd_call cmd = { .send = { .dest = w.to_b, .data = PTR(data), .len = LARGE } };
	struct stuck request;

	OK(call_async_cmd(&w.a, &cmd));
	stuck_start(&request, &w.b, 0, 8, 1);
	OK(call_cancel(&w.a, cmd.id));
	ERR(stuck_end(&request, true), EFAULT);
	EQ(peer_info(&w.b).n_slices, 0);
	EQ(peer_info(&w.b).pool_used, 0);
	NOTHING(&w.b);
	pair_idle(&w);
	pair_close(&w);
}

/* A thread that waits for one message. */
struct waiter {
	struct test_thread thread;
	const struct peer *p;
	struct in in;
	int r;
};

static void waiter_run(void *arg)
{
	struct waiter *w = arg;

	w->r = recv_wait(w->p, &w->in);
}

TEST("MSG-10 MSG-11 what a receive could not tell wakes as many as it is")
{
	struct waiter waiters[3];
	struct pair w = pair_new();
	struct stuck s;

	for (int i = 0; i < 3; i++)
		OK(send_str(&w.a, w.to_b, "x"));
	/* It takes all of them, and gets stuck at the last. */
	stuck_start(&s, &w.b, 0, 2 * sizeof(struct bus1_msg) + 8, 3);
	for (int i = 0; i < 3; i++) {
		waiters[i] = (struct waiter){ .p = &w.b };
		test_start(&waiters[i].thread, waiter_run, &waiters[i]);
		test_asleep(getpid(), waiters[i].thread.tid);
	}
	ERR(stuck_end(&s, true), EFAULT);
	for (int i = 0; i < 3; i++) {
		test_join(&waiters[i].thread);
		OK(waiters[i].r);
	}
	NOTHING(&w.b);
	pair_close(&w);
}

TEST("ABI-2 OBJ-3 what a call gave back is given back, though what it waits for is not known")
{
	struct pair w = pair_new();
	u64 na = node_new(&w.a, 3), ids[2];
	struct call c;

	ids[0] = grant(&w.a, na, &w.b);
	ids[1] = grant(&w.a, na, &w.b);
	EQ(ids[0], ids[1]);
	grant(&w.a, na, &w.b);
	call_init_str(&c, &w.b, 0, "");
	c.cmd.send = (struct bus1_cmd_send){ 0 };
	c.cmd.id = 12345;
	c.cmd.recv.drop = PTR(ids);
	c.cmd.recv.n_drop = 2;
	ERR(call_make(&c), ENXIO);
	/* It says so, and the same again takes no other. */
	EQ(c.cmd.recv.n_drop, 0);
	OK(release(&w.b, ids[0]));
	ERR(release(&w.b, ids[0]), ENXIO);
	GOT_UNUSED(&w.a, na, 1);
	OK(destroy(&w.a, na));
	pair_close(&w);
}

TEST("RES-4 CALL-1 a call that waited for room and cannot be made lets the next one try")
{
	struct peer server = peer_new(POOL), client = peer_new(POOL);
	u64 node = node_new(&server, 1), to = grant(&server, node, &client), slices[64];
	u64 own = node_new(&client, 2);
	struct call c[2];
	struct in in;
	u32 n = 0, full;

	/* Both wait for the queue; then there is no room for the reply of the first one to go on. */
	full = fill_queue(&client, to);
	for (int i = 0; i < 2; i++) {
		call_init_str(&c[i], &client, to, "x");
		c[i].cmd.send.flags = BUS1_SEND_WAIT;
		c[i].cmd.reply_size = i ? 0 : LARGE;
		c[i].cmd.recv.deadline = test_deadline(60);
		call_start(&c[i]);
	}
	n = fill_pool(&client, own, 1, slices, ARRAY_SIZE(slices));
	GT(n, 0);
	for (u32 i = 0; i < full; i++) {
		OK(recv_now(&server, &in));
		EQ(in.m.type, BUS1_MSG_DATA);
	}
	/* In whatever order they are let through: one fails, the other is there. */
	ERR(call_join(&c[0]), EAGAIN);
	OK(answer_str(&server, await_call(&server, &in), "y"));
	OK(call_join(&c[1]));
	REPLIED(&c[1], "y");
	for (u32 i = 0; i < n; i++)
		OK(slice_release(&client, slices[i]));
	peer_close(&client);
	peer_close(&server);
}
