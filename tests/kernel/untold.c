// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * CALL-2, CALL-4, CALL-5: what of a call a thread has in its hand, and cannot be told of, or not
 * yet: it is not lost, nobody gets it twice, and what happens meanwhile counts.
 */
#include "call.h"
#include "tar.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGE = 9000 };

/* A thread that stalls as it is told of what it has received, or drops. */
struct hand {
	struct test_thread thread;
	struct tar tar;
	const struct peer *p;
	struct bus1_cmd_recv cmd;
	u64 buf[512];
	int r;
};

static void hand_run(void *arg)
{
	struct hand *h = arg;

	h->r = recv_cmd(h->p, &h->cmd);
}

static void hand_start(struct hand *h, const struct peer *p, bool drops)
{
	memset(h, 0, sizeof(*h));
	h->p = p;
	h->tar = tar_new();
	h->cmd = (struct bus1_cmd_recv){
		.flags = BUS1_RECV_NONBLOCK | (drops ? BUS1_RECV_DROP : 0),
		.msgs = PTR(tar_edge(&h->tar, 8)), .n_msgs = 1,
		.msg_size = sizeof(struct bus1_msg),
		.buf = PTR(h->buf), .buf_size = sizeof(h->buf) };
	test_start(&h->thread, hand_run, h);
	tar_wait(&h->tar);
}

/* It could not be told. */
static void hand_break(struct hand *h)
{
	tar_break(&h->tar);
	test_join(&h->thread);
	ERR(h->r, EFAULT);
}

/* It could. */
static void hand_melt(struct hand *h)
{
	tar_melt(&h->tar);
	test_join(&h->thread);
	OK(h->r);
}

/* A calls B, as a thread that serves, and B is to call back. */
struct back {
	struct pair w;
	u64 na, b_to_a, token;
	struct call outer;
};

static void back_start(struct back *s, u64 msgs)
{
	memset(s, 0, sizeof(*s));
	s->w = pair_new();
	s->na = node_new(&s->w.a, 1);
	s->b_to_a = grant(&s->w.a, s->na, &s->w.b);
	call_init_str(&s->outer, &s->w.a, s->w.to_b, "outer");
	s->outer.cmd.flags = BUS1_CALL_NESTED;
	if (msgs)
		s->outer.cmd.recv.msgs = msgs;
	call_start(&s->outer);
	s->token = GOT_CALL(&s->w.b, s->w.nb, "outer");
}

static u64 back_call(struct back *s, const void *data, size_t len)
{
	struct bus1_cmd_call cmd = {
		.send = { .dest = s->b_to_a, .data = PTR(data), .len = len },
		.parent = s->token, .cookie = len };

	OK(call_async_cmd(&s->w.b, &cmd));
	return cmd.id;
}

static void back_end(struct back *s)
{
	NOTHING(&s->w.a);
	NOTHING(&s->w.b);
	pair_idle(&s->w);
	pair_close(&s->w);
}

static void call_in_place(void *arg)
{
	struct call *c = arg;

	c->r = raw(c->p, BUS1_CMD_CALL, (void *)(uintptr_t)c->cmd.send.data);
}

TEST("CALL-5 a call back that could not be told in full keeps what it brings")
{
	/* The command itself cannot be written, where the id of the call is to be told. */
	struct pair w = pair_new();
	struct bus1_cmd_call *cmd = mmap(NULL, page_size(), PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct back s = { .w = w, .na = node_new(&w.a, 1) };
	u8 data[LARGE];
	struct in in;
	u64 id;

	CHECK(cmd != MAP_FAILED);
	fill(data, LARGE, 3);
	s.b_to_a = grant(&w.a, s.na, &w.b);
	call_init_str(&s.outer, &w.a, w.to_b, "");
	s.outer.cmd.flags = BUS1_CALL_NESTED;
	*cmd = s.outer.cmd;
	OK(SYS(mprotect(cmd, page_size(), PROT_READ)));
	s.outer.cmd.send.data = PTR(cmd);
	test_start(&s.outer.thread, call_in_place, &s.outer);
	s.token = await_call(&w.b, &in);
	id = back_call(&s, data, LARGE);
	ERR(call_join(&s.outer), EFAULT);
	GOT_CANCELLED(&w.b, s.token);
	OK(recv_now(&w.a, &in));
	EQ(in.m.type, BUS1_MSG_CALL);
	EQ(in.m.len, LARGE);
	CHECK(in.m.slice);
	MEM(in.data, data, LARGE);
	OK(slice_release(&w.a, in.m.slice));
	OK(answer_str(&w.a, in.m.token, "all of it"));
	GOT_REPLY(&w.b, id, LARGE, "all of it");
	ERR(answer_str(&w.b, s.token, "late"), ECANCELED);
	back_end(&s);
	OK(SYS(munmap(cmd, page_size())));
}

TEST("CALL-2 a result that came while a call back could not be told is had once")
{
	struct tar t = tar_new();
	struct back s;
	struct call again;
	struct in in;
	u64 id, inner;

	back_start(&s, PTR(tar_edge(&t, 8)));
	inner = back_call(&s, "inner", 5);
	tar_wait(&t);
	id = s.outer.cmd.id;
	NE(id, 0);
	OK(answer_str(&s.w.b, s.token, "result"));
	tar_break(&t);
	ERR(call_join(&s.outer), EFAULT);
	EQ(s.outer.cmd.id, 0);
	/* It is in the queue, also after a second who cannot be told of it, and there alone. */
	for (int i = 0; i < 2; i++) {
		struct bus1_cmd_recv bad = recv_into(&in, BUS1_RECV_NONBLOCK, 0);

		bad.msgs = 8;
		ERR(recv_cmd(&s.w.a, &bad), EFAULT);
		call_init(&again, &s.w.a, 0, NULL, 0);
		again.cmd.id = id;
		ERR(call_make(&again), ENXIO);
		ERR(call_cancel(&s.w.a, id), ENXIO);
	}
	OK(recv_now(&s.w.a, &in));
	EQ(in.m.type, BUS1_MSG_REPLY);
	MEM(in.data, "result", 6);
	OK(answer_str(&s.w.a, GOT_CALL(&s.w.a, s.na, "inner"), "served"));
	GOT_REPLY(&s.w.b, inner, 5, "served");
	back_end(&s);
}

TEST("CALL-4 a call that is cancelled by its id before its request is sent is not sent")
{
	struct pair w = pair_new();
	struct bus1_cmd_call cmd = {
		.send = { .dest = w.to_b, .data = PTR("x"), .len = 1 }, .flags = BUS1_CALL_ASYNC };
	u64 id[2], uses;
	struct call c = { .p = &w.a };
	struct tar t;

	/* Ids follow one another in the same slot of the table, mixed with a number of the peer's. */
	for (int i = 0; i < 2; i++) {
		id[i] = call_async(&w.a, w.to_b, "x", 1);
		OK(call_cancel(&w.a, id[i]));
	}
	uses = (id[0] ^ id[1]) >> 32 == 1 ? 0 : 1;
	/* It stalls as its id is told, which others could know by then. */
	t = tar_new_with(&cmd, sizeof(cmd));
	c.cmd.send.data = PTR(tar_edge(&t, 0));
	test_start(&c.thread, call_in_place, &c);
	tar_wait(&t);
	OK(call_cancel(&w.a, id[0] ^ (uses ^ (uses + 2)) << 32));
	NOTHING(&w.b);
	tar_melt(&t);
	ERR(call_join(&c), ECANCELED);
	NOTHING(&w.b);
	NOTHING(&w.a);
	EQ(peer_info(&w.b).n_calls, 0);
	pair_idle(&w);
	pair_close(&w);
}

TEST("CALL-4 a request is cancelled while a thread is about to drop it")
{
	for (int breaks = 0; breaks < 2; breaks++) {
		struct pair w = pair_new();
		u64 id = call_async(&w.a, w.to_b, "x", 1);
		struct hand h;

		hand_start(&h, &w.b, true);
		OK(call_cancel(&w.a, id));
		if (breaks)
			hand_break(&h);
		else
			hand_melt(&h);
		NOTHING(&w.b);
		NOTHING(&w.a);
		EQ(peer_info(&w.b).n_calls, 0);
		pair_idle(&w);
		pair_close(&w);
	}
}

TEST("CALL-4 the notice of a cancel in a hand, and its token is used up meanwhile")
{
	for (int how = 0; how < 4; how++) {
		struct pair w = pair_new();
		u64 id = call_async(&w.a, w.to_b, "x", 1), token = GOT_CALL(&w.b, w.nb, "x");
		struct hand h;

		OK(call_cancel(&w.a, id));
		hand_start(&h, &w.b, how & 1);
		ERR(answer_str(&w.b, token, "late"), ECANCELED);
		if (how & 2)
			hand_break(&h);
		else
			hand_melt(&h);
		NOTHING(&w.b);
		NOTHING(&w.a);
		pair_idle(&w);
		pair_close(&w);
	}
}

TEST("CALL-4 a result in a hand is not cancelled any more, nor lost")
{
	for (int how = 0; how < 8; how++) {
		bool drops = how & 1, breaks = how & 2, large = how & 4;
		struct pair w = pair_new();
		struct bus1_cmd_call cmd = {
			.send = { .dest = w.to_b, .data = PTR("x"), .len = 1 },
			.reply_size = large ? LARGE : 0 };
		u8 data[LARGE];
		struct hand h;
		struct in in;
		size_t len = large ? LARGE : 20;

		fill(data, LARGE, 4);
		OK(call_async_cmd(&w.a, &cmd));
		OK(answer(&w.b, GOT_CALL(&w.b, w.nb, "x"), data, len));
		hand_start(&h, &w.a, drops);
		ERR(call_cancel(&w.a, cmd.id), ENXIO);
		if (breaks) {
			hand_break(&h);
			OK(recv_now(&w.a, &in));
			EQ(in.m.type, BUS1_MSG_REPLY);
			EQ(in.m.id, cmd.id);
			EQ(in.m.len, len);
			MEM(in.data, data, len);
			if (large)
				OK(slice_release(&w.a, in.m.slice));
		} else {
			hand_melt(&h);
			if (large && !drops) {
				struct bus1_msg m;

				memcpy(&m, tar_edge(&h.tar, 8), sizeof(m));
				OK(slice_release(&w.a, m.slice));
			}
		}
		ERR(call_cancel(&w.a, cmd.id), ENXIO);
		NOTHING(&w.a);
		EQ(peer_info(&w.a).n_calls, 0);
		pair_idle(&w);
		pair_close(&w);
	}
}

TEST("CALL-5 a call back that another thread had, and could not be told of, is for who waits")
{
	/* Received or to be dropped by the other, while the first thread is away. */
	for (int drops = 0; drops < 2; drops++) {
		struct back s;
		struct call again;
		struct hand h;
		u64 id, first, second;

		back_start(&s, 0);
		first = back_call(&s, "first", 5);
		OK(call_join(&s.outer));
		id = s.outer.cmd.id;
		second = back_call(&s, "the second", 10);
		hand_start(&h, &s.w.a, drops);
		OK(answer_str(&s.w.a, s.outer.in.m.token, "1"));
		GOT_REPLY(&s.w.b, first, 5, "1");
		call_init(&again, &s.w.a, 0, NULL, 0);
		again.cmd.id = id;
		call_start(&again);
		hand_break(&h);
		OK(call_join(&again));
		EQ(again.in.m.type, BUS1_MSG_CALL);
		MEM(again.in.data, "the second", 10);
		OK(answer_str(&s.w.a, again.in.m.token, "2"));
		GOT_REPLY(&s.w.b, second, 10, "2");
		OK(answer_str(&s.w.b, s.token, "result"));
		call_init(&again, &s.w.a, 0, NULL, 0);
		again.cmd.id = id;
		OK(call_make(&again));
		REPLIED(&again, "result");
		back_end(&s);
	}
}
