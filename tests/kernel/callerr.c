// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-1, CALL-4, CALL-5: what a command of a call fails with, and what has happened by then. */
#include "call.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

/* One BUS1_CMD_REPLY in a thread. */
struct replier {
	struct test_thread thread;
	const struct peer *p;
	struct bus1_cmd_reply cmd;
	struct in in;
	int r;
};

static void reply_once(void *arg)
{
	struct replier *t = arg;

	t->r = reply_cmd(t->p, &t->cmd);
}

static void replier_start(struct replier *t)
{
	test_start(&t->thread, reply_once, t);
	test_asleep(getpid(), t->thread.tid);
}

TEST("CALL-1 a signal after the reply was sent, and before the next request, is EINTR")
{
	struct pair w = pair_new();
	static struct replier t;
	static u8 data[5000];
	struct call c;

	catch_signal(SIGUSR1, 0);
	/* With nothing to answer; a small reply, a large one, one of parts; a drop. */
	for (int how = 0; how < 5; how++) {
		struct bus1_iovec iov = { PTR(data), 10 };
		u64 token = 0;

		if (how) {
			call_init_str(&c, &w.a, w.to_b, "x");
			c.cmd.reply_size = sizeof(data);
			call_start(&c);
			token = GOT_CALL(&w.b, w.nb, "x");
		}
		t.p = &w.b;
		t.cmd = (struct bus1_cmd_reply){ .send = { .dest = token },
						 .recv = recv_into(&t.in, 0, 0) };
		if (how == 1 || how == 2) {
			t.cmd.send.data = PTR(data);
			t.cmd.send.len = how == 1 ? 10 : sizeof(data);
		} else if (how == 3) {
			t.cmd.send.iovs = PTR(&iov);
			t.cmd.send.n_iovs = 1;
		} else if (how == 4) {
			t.cmd.flags = BUS1_REPLY_DROP;
		}
		replier_start(&t);
		if (how == 4) {
			ERR(call_join(&c), ECONNABORTED);
		} else if (how) {
			OK(call_join(&c));
			EQ(c.in.m.len, how == 2 ? sizeof(data) : 10);
			if (c.in.m.slice)
				OK(slice_release(&w.a, c.in.m.slice));
		}
		EQ(pthread_kill(t.thread.thread, SIGUSR1), 0);
		test_join(&t.thread);
		ERR(t.r, EINTR);
		EQ(t.cmd.send.dest, 0);
		if (how)
			ERR(answer_str(&w.b, token, "again"), ENXIO);
		/* The same command is a receive from now on. */
		if (how == 4)
			t.cmd.flags = 0;
		replier_start(&t);
		OK(send_str(&w.a, w.to_b, "next"));
		test_join(&t.thread);
		OK(t.r);
		recv_found(&w.b, &t.in, &t.cmd.recv);
		EQ(t.in.m.type, BUS1_MSG_DATA);
		MEM(t.in.data, "next", 4);
		pair_idle(&w);
	}
	pair_close(&w);
}

TEST("CALL-1 a reply command that has nothing to do is EINVAL")
{
	struct pair w = pair_new();
	u64 own = node_new(&w.a, 1), drop = grant(&w.a, own, &w.b);
	struct snapshot before = SNAPSHOT(&w.a, &w.b);
	struct bus1_cmd_reply cmd = {};

	ERR(reply_cmd(&w.b, &cmd), EINVAL);
	/* What is in a reply to nobody is not looked at. */
	cmd.send = (struct bus1_cmd_send){ .data = 8, .len = 5, .n_fds = 3 };
	ERR(reply_cmd(&w.b, &cmd), EINVAL);
	cmd.flags = BUS1_REPLY_ERROR;
	ERR(reply_cmd(&w.b, &cmd), EINVAL);
	cmd.flags = BUS1_REPLY_DROP;
	ERR(reply_cmd(&w.b, &cmd), EINVAL);
	SAME_SNAPSHOT(&before);
	/* To give something back is something. */
	cmd = (struct bus1_cmd_reply){ .recv = { .drop = PTR(&drop), .n_drop = 1 } };
	OK(reply_cmd(&w.b, &cmd));
	EQ(cmd.recv.n_drop, 0);
	GOT_UNUSED(&w.a, own, 1);
	ERR(reply_cmd(&w.b, &cmd), EINVAL);
	pair_close(&w);
}

TEST("CALL-5 a place that is too small for the outer reply is EMSGSIZE, after the nested one is sent")
{
	struct pair w = pair_new();
	size_t inl = peer_info(&w.a).max_inline;
	u64 na = node_new(&w.a, 1), to_a = grant(&w.a, na, &w.b), token, id;
	static u8 data[3000];
	struct bus1_cmd_reply cmd;
	struct call outer, back;
	struct in in;

	call_init_str(&outer, &w.a, w.to_b, "outer");
	outer.cmd.flags = BUS1_CALL_NESTED;
	outer.cmd.reply_handles = 3;
	outer.cmd.reply_size = sizeof(data);
	call_start(&outer);
	token = GOT_CALL(&w.b, w.nb, "outer");
	call_init_str(&back, &w.b, to_a, "back");
	back.cmd.parent = token;
	call_start(&back);
	OK(call_join(&outer));
	EQ(outer.in.m.type, BUS1_MSG_CALL);
	id = outer.cmd.id;

	cmd = (struct bus1_cmd_reply){
		.send = { .dest = outer.in.m.token, .data = PTR("done"), .len = 4 },
		.id = id, .recv = recv_into(&in, 0, 0) };
	cmd.recv.buf_size = (u32)(inl + 3 * sizeof(struct bus1_handle)) - 8;
	ERR(reply_cmd(&w.a, &cmd), EMSGSIZE);
	EQ(cmd.send.dest, 0);
	EQ(cmd.id, id);
	call_join(&back);
	REPLIED(&back, "done");
	/* The same in a command that only waits; and the outer call goes on. */
	ERR(reply_cmd(&w.a, &cmd), EMSGSIZE);
	outer.cmd.recv = cmd.recv;
	ERR(call_make(&outer), EMSGSIZE);
	EQ(peer_info(&w.b).n_calls, 1);
	OK(answer(&w.b, token, data, sizeof(data)));
	ERR(reply_cmd(&w.a, &cmd), EMSGSIZE);
	cmd.recv.buf_size += 8;
	OK(reply_cmd(&w.a, &cmd));
	EQ(cmd.id, 0);
	recv_found(&w.a, &in, &cmd.recv);
	EQ(in.m.type, BUS1_MSG_REPLY);
	EQ(in.m.len, sizeof(data));
	OK(slice_release(&w.a, in.m.slice));
	pair_close(&w);
}

TEST_LONG("CALL-4 a signal ends a call that waits for room, EINTR, and nothing was sent", 60)
{
	struct pair w = pair_new();
	u32 n = fill_queue(&w.a, w.to_b);
	u64 own = node_new(&w.b, 1), moved = grant(&w.b, own, &w.a);
	struct bus1_pass pass = { .id = moved, .flags = BUS1_PASS_MOVE };
	struct snapshot before = SNAPSHOT(&w.a, &w.b);
	struct call c;
	struct in in;

	catch_signal(SIGUSR1, 0);
	for (int i = 0; i < 4; i++) {
		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.send.flags = BUS1_SEND_WAIT;
		c.cmd.send.handles = PTR(&pass);
		c.cmd.send.n_handles = 1;
		c.cmd.reply_size = i & 1 ? 10000 : 0;
		c.cmd.flags = i & 2 ? BUS1_CALL_NESTED : 0;
		call_start(&c);
		EQ(pthread_kill(c.thread.thread, SIGUSR1), 0);
		ERR(call_join(&c), EINTR);
		EQ(c.cmd.id, 0);
		SAME_SNAPSHOT(&before);
	}
	/* Under SA_RESTART it waits on, and is sent once there is room. */
	catch_signal(SIGUSR1, SA_RESTART);
	call_start(&c);
	for (int i = 0; i < 3; i++) {
		EQ(pthread_kill(c.thread.thread, SIGUSR1), 0);
		test_sleep_ms(5);
		test_asleep(getpid(), c.thread.tid);
	}
	EQ(peer_info(&w.b).n_queued, n);
	do
		OK(recv_wait(&w.b, &in));
	while (in.m.type != BUS1_MSG_CALL);
	EQ(in.m.n_handles, 1);
	EQ(in.h[0].id, own);
	OK(answer_str(&w.b, in.m.token, "at last"));
	call_join(&c);
	REPLIED(&c, "at last");
	ERR(release(&w.a, moved), ENXIO);
	drain(&w.b);
	pair_close(&w);
}
