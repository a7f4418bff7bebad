// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-1: a call and its reply, and what both bring. */
#include "call.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TEST("CALL-1 a round trip is two commands, from one process to another")
{
	struct pair w = pair_new();
	pid_t pid = test_fork();

	if (!pid) {
		struct in in;
		u64 token = await_call(&w.b, &in);

		for (u32 i = 0;; i++) {
			EQ(in.m.id, w.nb);
			EQ(in.m.cookie, 0xb0b);
			EQ(in.m.badge, 0);
			EQ(in.m.flags, 0);
			EQ(in.m.len, 4);
			MEM(in.data, &i, 4);
			if (i == 99) {
				OK(answer(&w.b, token, &i, 4));
				_exit(0);
			}
			OK(answer_next(&w.b, token, &i, 4, 0, &in));
			EQ(in.m.type, BUS1_MSG_CALL);
			/* Never the same again. */
			NE(in.m.token, token);
			token = in.m.token;
		}
	}
	for (u32 i = 0; i < 100; i++) {
		struct call c;

		call_init(&c, &w.a, w.to_b, &i, 4);
		c.cmd.cookie = i;
		OK(call_make(&c));
		EQ(c.in.m.type, BUS1_MSG_REPLY);
		EQ(c.in.m.cookie, i);
		EQ(c.in.m.error, 0);
		EQ(c.in.m.flags, 0);
		EQ(c.in.m.n_handles, 0);
		EQ(c.in.m.len, 4);
		EQ(c.cmd.recv.n_msgs, 1);
		MEM(c.in.data, &i, 4);
	}
	test_wait(pid);
	pair_close(&w);
}

TEST("CALL-1 payloads of every size, there and back")
{
	struct pair w = pair_new();
	size_t inl = peer_info(&w.a).max_inline;
	const size_t sizes[] = { 0, 1, inl - 1, inl, inl + 1, 4095, 4096, 4097, 65536, 200000 };
	u8 *there = malloc(200000), *back = malloc(200000);

	CHECK(there && back);
	fill(there, 200000, 1);
	fill(back, 200000, 2);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
			struct call c;
			struct in in;

			call_init(&c, &w.a, w.to_b, there, sizes[i]);
			c.cmd.reply_size = sizes[k];
			call_start(&c);
			OK(recv_now(&w.b, &in));
			EQ(in.m.type, BUS1_MSG_CALL);
			EQ(in.m.len, sizes[i]);
			EQ(!!in.m.slice, sizes[i] > inl);
			MEM(in.data, there, sizes[i]);
			if (in.m.slice)
				OK(slice_release(&w.b, in.m.slice));
			OK(answer(&w.b, in.m.token, back, sizes[k]));
			OK(call_join(&c));
			EQ(c.in.m.type, BUS1_MSG_REPLY);
			EQ(c.in.m.len, sizes[k]);
			EQ(!!c.in.m.slice, sizes[k] > inl);
			MEM(c.in.data, back, sizes[k]);
			if (c.in.m.slice)
				OK(slice_release(&w.a, c.in.m.slice));
			pair_idle(&w);
		}
	pair_close(&w);
}

TEST("CALL-1 a payload in parts, there and back, and one of nothing")
{
	struct pair w = pair_new();
	u8 data[3000];
	struct bus1_iovec iovs[] = {
		{ PTR(data), 1 }, { PTR(data + 1), 0 }, { PTR(data + 1), 1999 },
		{ PTR(data + 2000), 1000 },
	};
	struct bus1_cmd_reply cmd;
	struct call c;
	struct in in;

	fill(data, sizeof(data), 3);
	call_init(&c, &w.a, w.to_b, NULL, 0);
	c.cmd.send.iovs = PTR(iovs);
	c.cmd.send.n_iovs = 4;
	c.cmd.reply_size = sizeof(data);
	call_start(&c);
	OK(recv_now(&w.b, &in));
	EQ(in.m.len, sizeof(data));
	MEM(in.data, data, sizeof(data));
	OK(slice_release(&w.b, in.m.slice));
	cmd = (struct bus1_cmd_reply){
		.send = { .dest = in.m.token, .iovs = PTR(iovs), .n_iovs = 4 } };
	OK(reply_cmd(&w.b, &cmd));
	OK(call_join(&c));
	EQ(c.in.m.len, sizeof(data));
	MEM(c.in.data, data, sizeof(data));
	OK(slice_release(&w.a, c.in.m.slice));
	pair_close(&w);
}

TEST("CALL-1 handles go there and back, copied and moved")
{
	struct pair w = pair_new();
	u64 na = node_new(&w.a, 7), na2 = node_new(&w.a, 8), given = node_new(&w.b, 9);
	u64 back = grant(&w.b, given, &w.a), got;
	struct bus1_pass there[3] = {
		{ .id = na, .drop_rights = BUS1_RIGHT_TRANSFER },
		{ .id = na2, .flags = BUS1_PASS_WEAK },
		{ .id = back, .flags = BUS1_PASS_MOVE },
	};
	struct bus1_pass home[2] = {};
	struct bus1_cmd_reply cmd;
	struct call c;
	struct in in;

	call_init(&c, &w.a, w.to_b, "x", 1);
	c.cmd.send.handles = PTR(there);
	c.cmd.send.n_handles = 3;
	c.cmd.reply_handles = 2;
	call_start(&c);
	OK(recv_now(&w.b, &in));
	EQ(in.m.n_handles, 3);
	EQ(in.h[0].rights, BUS1_RIGHT_SEND);
	EQ(in.h[1].flags, BUS1_HANDLE_WEAK);
	EQ(in.h[2].id, given);
	EQ(in.h[2].flags, BUS1_HANDLE_OWN);
	EQ(in.h[2].cookie, 9);
	GOT_UNUSED(&w.b, given, 1);
	ERR(release(&w.a, back), ENXIO);
	got = in.h[0].id;
	OK(send_str(&w.b, got, "by the way"));
	GOT_TEXT(&w.a, na, "by the way");

	/* One of the client's own comes home, one of the server's goes along. */
	home[0] = (struct bus1_pass){ .id = in.h[1].id, .flags = BUS1_PASS_MOVE };
	home[1].id = given;
	cmd = (struct bus1_cmd_reply){
		.send = { .dest = in.m.token, .handles = PTR(home), .n_handles = 2 } };
	OK(reply_cmd(&w.b, &cmd));
	OK(call_join(&c));
	EQ(c.in.m.n_handles, 2);
	EQ(c.in.h[0].id, na2);
	EQ(c.in.h[0].flags, BUS1_HANDLE_OWN);
	OK(send_str(&w.a, c.in.h[1].id, "again"));
	GOT_TEXT(&w.b, given, "again");
	OK(release(&w.a, c.in.h[1].id));
	GOT_UNUSED(&w.b, given, 2);
	OK(release(&w.b, got));
	GOT_UNUSED(&w.a, na, 1);
	pair_close(&w);
}

TEST("CALL-1 files go there and back")
{
	struct pair w = pair_new();
	unsigned int before = open_fds();
	int fds[2], one, two;
	s32 pass[2];
	struct bus1_cmd_reply cmd;
	struct call c;
	struct in in;
	char byte;

	OK(SYS(pipe2(fds, O_CLOEXEC)));
	pass[0] = pass[1] = fds[1];
	call_init(&c, &w.a, w.to_b, NULL, 0);
	c.cmd.send.fds = PTR(pass);
	c.cmd.send.n_fds = 2;
	c.cmd.reply_fds = 1;
	c.cmd.recv.flags = BUS1_RECV_FDS;
	call_start(&c);
	OK(recv_with(&w.b, &in, BUS1_RECV_FDS));
	EQ(in.m.n_fds, 2);
	one = in.fds[0];
	two = in.fds[1];
	EQ(OK(SYS(fcntl(one, F_GETFD))), FD_CLOEXEC);
	EQ(write(one, "a", 1), 1);
	EQ(read(fds[0], &byte, 1), 1);
	pass[0] = fds[0];
	cmd = (struct bus1_cmd_reply){
		.send = { .dest = in.m.token, .fds = PTR(pass), .n_fds = 1 } };
	OK(reply_cmd(&w.b, &cmd));
	OK(call_join(&c));
	EQ(c.in.m.n_fds, 1);
	EQ(write(two, "b", 1), 1);
	EQ(read(c.in.fds[0], &byte, 1), 1);
	EQ(byte, 'b');
	close_fd(c.in.fds[0]);
	close_fd(one);
	close_fd(two);

	/* Where nobody asks for them they are closed, on both sides. */
	pass[0] = fds[1];
	call_init(&c, &w.a, w.to_b, NULL, 0);
	c.cmd.send.fds = PTR(pass);
	c.cmd.send.n_fds = 1;
	c.cmd.reply_fds = 1;
	call_start(&c);
	OK(recv_now(&w.b, &in));
	EQ(in.m.flags, BUS1_MSG_F_FDS_CLOSED);
	cmd.send.dest = in.m.token;
	OK(reply_cmd(&w.b, &cmd));
	OK(call_join(&c));
	EQ(c.in.m.flags, BUS1_MSG_F_FDS_CLOSED);
	close_fd(fds[0]);
	close_fd(fds[1]);
	EQ(open_fds(), before);
	pair_close(&w);
}

TEST("CALL-1 a body in a memfd, there, and in a buffer, back")
{
	struct pair w = pair_new();
	int fd = memfd_sealed("0123456789", 10), got;
	struct bus1_cmd_buffer buffer = { .fd = fd };
	struct bus1_pass pass = {};
	struct bus1_cmd_reply cmd;
	struct call c;
	struct in in;
	s32 fds[] = { fd };
	char text[4];

	OK(raw(&w.b, BUS1_CMD_BUFFER_CREATE, &buffer));
	call_init(&c, &w.a, w.to_b, NULL, 0);
	c.cmd.send.flags = BUS1_SEND_MEMFD;
	c.cmd.send.fds = PTR(fds);
	c.cmd.send.n_fds = 1;
	c.cmd.send.body_offset = 2;
	c.cmd.send.body_len = 4;
	c.cmd.reply_handles = 1;
	call_start(&c);
	OK(recv_with(&w.b, &in, BUS1_RECV_MEMFD));
	EQ(in.m.type, BUS1_MSG_CALL);
	EQ(in.m.flags, BUS1_MSG_F_MEMFD);
	EQ(in.m.body_offset, 2);
	EQ(in.m.body_len, 4);
	got = in.fds[0];
	EQ(pread(got, text, 4, 2), 4);
	MEM(text, "2345", 4);
	close_fd(got);
	pass.id = buffer.id;
	cmd = (struct bus1_cmd_reply){ .send = {
		.flags = BUS1_SEND_BODY, .dest = in.m.token, .handles = PTR(&pass),
		.n_handles = 1, .body_offset = 5, .body_len = 5 } };
	OK(reply_cmd(&w.b, &cmd));
	OK(call_join(&c));
	EQ(c.in.m.type, BUS1_MSG_REPLY);
	EQ(c.in.m.flags, BUS1_MSG_F_BODY);
	EQ(c.in.m.body_offset, 5);
	EQ(c.in.m.body_len, 5);
	struct bus1_cmd_open open = { .id = c.in.h[0].id };
	OK(raw(&w.a, BUS1_CMD_BUFFER_OPEN, &open));
	EQ(open.size, 10);
	close_fd(open.fd);
	OK(release(&w.a, open.id));
	GOT_UNUSED(&w.b, buffer.id, 1);
	close_fd(fd);
	pair_close(&w);
}

TEST("CALL-1 a request is stamped with who calls, brings its badge, and spends a one-shot")
{
	struct pair w = pair_new();
	struct bus1_cmd_node node = { .flags = BUS1_NODE_CREDS, .cookie = 5 };
	u64 facet, once, to_facet, to_once;
	struct call c;
	struct in in;

	OK(node_create(&w.b, &node));
	facet = facet_new(&w.b, node.id, 0xbad9e);
	once = once_new(&w.b, node.id, 0x0ce);
	to_facet = grant(&w.b, facet, &w.a);
	to_once = grant(&w.b, once, &w.a);

	call_start_str(&c, &w.a, to_facet, "who?");
	OK(recv_now(&w.b, &in));
	EQ(in.m.type, BUS1_MSG_CALL);
	EQ(in.m.flags, BUS1_MSG_F_CREDS);
	EQ(in.m.id, node.id);
	EQ(in.m.cookie, 5);
	EQ(in.m.badge, 0xbad9e);
	EQ(in.creds->pid, getpid());
	EQ(in.creds->tid, c.thread.tid);
	EQ(in.creds->uid, geteuid());
	EQ(in.creds->gid, getegid());
	OK(answer_str(&w.b, in.m.token, "you"));
	call_join(&c);
	REPLIED(&c, "you");

	call_start_str(&c, &w.a, to_once, "once");
	OK(recv_now(&w.b, &in));
	EQ(in.m.badge, 0x0ce);
	EQ(in.m.type, BUS1_MSG_CALL);
	OK(answer_str(&w.b, in.m.token, "done"));
	call_join(&c);
	REPLIED(&c, "done");
	call_init_str(&c, &w.a, to_once, "twice");
	ERR(call_make(&c), ENXIO);
	OK(release(&w.a, to_facet));
	drain(&w.b);
	pair_close(&w);
}

TEST("CALL-1 requests of a higher priority are received first")
{
	struct pair w = pair_new();
	const u32 priorities[] = { 0, 5, 31, 5, 0 };
	const u8 order[] = { 2, 1, 3, 0, 4 };
	struct call c[5];
	u8 data[5];

	OK(setup(&w.b, BUS1_PEER_PRIORITY));
	for (u8 i = 0; i < 5; i++) {
		data[i] = i;
		call_init(&c[i], &w.a, w.to_b, &data[i], 1);
		c[i].cmd.send.priority = priorities[i];
		call_start(&c[i]);
	}
	for (int i = 0; i < 5; i++) {
		u8 who = order[i];
		struct in in;

		OK(recv_now(&w.b, &in));
		EQ(in.m.len, 1);
		EQ(in.data[0], who);
		EQ(in.m.priority, priorities[who]);
		OK(answer_str(&w.b, in.m.token, "ok"));
		call_join(&c[who]);
		REPLIED(&c[who], "ok");
	}
	pair_close(&w);
}

TEST("CALL-1 a request that is peeked at stays, and has no token yet")
{
	struct pair w = pair_new();
	struct call c;
	struct in in;

	OK(send_str(&w.a, w.to_b, "first"));
	call_start_str(&c, &w.a, w.to_b, "request");
	for (int i = 0; i < 2; i++) {
		OK(peek(&w.b, 1, &in));
		EQ(in.m.type, BUS1_MSG_CALL);
		EQ(in.m.token, 0);
		EQ(in.m.len, 7);
		MEM(in.data, "request", 7);
		EQ(peer_info(&w.b).n_queued, 2);
		CHECK(!call_is_done(&c));
	}
	CHECK(readable(&w.b));
	GOT_TEXT(&w.b, w.nb, "first");
	OK(answer_str(&w.b, GOT_CALL(&w.b, w.nb, "request"), "reply"));
	call_join(&c);
	REPLIED(&c, "reply");
	pair_close(&w);
}

TEST("CALL-1 replying receives messages and notices, receiving receives requests")
{
	struct pair w = pair_new();
	u64 dies = node_new(&w.a, 2), at_b = grant(&w.a, dies, &w.b), token;
	struct call c, d;
	struct in in;

	call_start_str(&c, &w.a, w.to_b, "one");
	token = GOT_CALL(&w.b, w.nb, "one");
	OK(send_str(&w.a, w.to_b, "plain"));
	OK(answer_next(&w.b, token, "1", 1, 0, &in));
	EQ(in.m.type, BUS1_MSG_DATA);
	EQ(in.m.token, 0);
	MEM(in.data, "plain", 5);
	call_join(&c);
	REPLIED(&c, "1");

	call_start_str(&c, &w.a, w.to_b, "two");
	call_start_str(&d, &w.a, w.to_b, "three");
	token = GOT_CALL(&w.b, w.nb, "two");
	OK(answer_next(&w.b, token, "2", 1, BUS1_RECV_NONBLOCK, &in));
	EQ(in.m.type, BUS1_MSG_CALL);
	token = in.m.token;
	OK(destroy(&w.a, dies));
	OK(answer_next(&w.b, token, "3", 1, 0, &in));
	EQ(in.m.type, BUS1_MSG_NODE_DEAD);
	EQ(in.m.id, at_b);
	call_join(&c);
	REPLIED(&c, "2");
	call_join(&d);
	REPLIED(&d, "3");
	pair_close(&w);
}

TEST("CALL-1 replying receives several, gives back, and without a token it is a receive")
{
	struct pair w = pair_new();
	u8 data[5000];
	struct bus1_msg m[8];
	u64 buf[512], slice, own = node_new(&w.a, 1), at_b = grant(&w.a, own, &w.b);
	struct bus1_cmd_reply cmd;
	struct call c;
	struct in in;

	fill(data, sizeof(data), 4);
	call_init(&c, &w.a, w.to_b, data, sizeof(data));
	call_start(&c);
	OK(recv_now(&w.b, &in));
	slice = in.m.slice;
	for (int i = 0; i < 5; i++)
		OK(send_str(&w.a, w.to_b, "text"));
	cmd = (struct bus1_cmd_reply){
		.send = { .dest = in.m.token },
		.recv = {
			.msgs = PTR(m), .n_msgs = 8, .msg_size = sizeof(m[0]), .buf = PTR(buf),
			.buf_size = sizeof(buf), .release = PTR(&slice), .n_release = 1,
			.drop = PTR(&at_b), .n_drop = 1,
		},
	};
	OK(reply_cmd(&w.b, &cmd));
	EQ(cmd.recv.n_msgs, 5);
	EQ(cmd.recv.n_release, 0);
	EQ(cmd.recv.n_drop, 0);
	EQ(peer_info(&w.b).n_slices, 0);
	GOT_UNUSED(&w.a, own, 1);
	for (int i = 0; i < 5; i++)
		MEM((u8 *)buf + m[i].offset, "text", 4);
	call_join(&c);
	REPLIED(&c, "");

	OK(send_str(&w.a, w.to_b, "more"));
	cmd = (struct bus1_cmd_reply){ .recv = recv_into(&in, 0, 0) };
	OK(reply_cmd(&w.b, &cmd));
	recv_found(&w.b, &in, &cmd.recv);
	MEM(in.data, "more", 4);
	cmd = (struct bus1_cmd_reply){ .recv = recv_into(&in, BUS1_RECV_NONBLOCK, 0) };
	ERR(reply_cmd(&w.b, &cmd), EAGAIN);
	cmd = (struct bus1_cmd_reply){ .recv = recv_into(&in, 0, test_now() + 20000000) };
	ERR(reply_cmd(&w.b, &cmd), ETIMEDOUT);
	pair_close(&w);
}

TEST("CALL-1 a reply that is sent where nothing is received is not sent again")
{
	struct pair w = pair_new();
	struct bus1_cmd_reply cmd;
	struct call c;
	struct in in;

	/* It may not wait, its deadline passes, what comes does not fit. */
	for (int how = 0; how < 3; how++) {
		u64 token;

		call_start_str(&c, &w.a, w.to_b, "request");
		token = GOT_CALL(&w.b, w.nb, "request");
		cmd = (struct bus1_cmd_reply){
			.send = { .dest = token, .data = PTR("reply"), .len = 5 },
			.recv = recv_into(&in, how == 0 ? BUS1_RECV_NONBLOCK : 0,
					  how == 1 ? test_now() + 20000000 : 0),
		};
		if (how == 2) {
			OK(send_str(&w.a, w.to_b, "does not fit into 8 bytes"));
			cmd.recv.buf_size = 8;
		}
		ERR(reply_cmd(&w.b, &cmd), how == 0 ? EAGAIN : how == 1 ? ETIMEDOUT : EMSGSIZE);
		EQ(cmd.send.dest, 0);
		call_join(&c);
		REPLIED(&c, "reply");
		ERR(answer_str(&w.b, token, "again"), ENXIO);
		if (how == 2)
			GOT_TEXT(&w.b, w.nb, "does not fit into 8 bytes");
	}
	pair_close(&w);
}

TEST("CALL-1 the same command again after a signal receives what comes then")
{
	struct pair w = pair_new();
	struct server s;
	struct call c;
	struct in in;
	u64 token;

	/* Under SA_RESTART the kernel gives it again by itself. */
	catch_signal(SIGUSR1, SA_RESTART);
	server_start(&s, &w.b, w.nb);
	call_init_str(&c, &w.a, w.to_b, "one");
	OK(call_make(&c));
	REPLIED(&c, "one");
	for (int i = 0; i < 5; i++) {
		test_asleep(getpid(), s.thread.tid);
		pthread_kill(s.thread.thread, SIGUSR1);
		test_sleep_ms(5);
	}
	call_init_str(&c, &w.a, w.to_b, "two");
	OK(call_make(&c));
	REPLIED(&c, "two");
	server_stop(&s, 1);
	EQ(s.served, 2);

	call_start_str(&c, &w.a, w.to_b, "three");
	token = GOT_CALL(&w.b, w.nb, "three");
	OK(send_str(&w.a, w.to_b, "next"));
	OK(answer_next(&w.b, token, "3", 1, 0, &in));
	MEM(in.data, "next", 4);
	call_join(&c);
	REPLIED(&c, "3");
	pair_close(&w);
}

TEST("CALL-1 a reply marked as an error brings all that a reply does")
{
	struct pair w = pair_new();
	struct bus1_cmd_reply cmd;
	struct call c;

	call_start_str(&c, &w.a, w.to_b, "do it");
	cmd = (struct bus1_cmd_reply){
		.send = { .dest = GOT_CALL(&w.b, w.nb, "do it"), .data = PTR("why not"), .len = 7 },
		.flags = BUS1_REPLY_ERROR,
	};
	OK(reply_cmd(&w.b, &cmd));
	OK(call_join(&c));
	EQ(c.in.m.type, BUS1_MSG_REPLY);
	EQ(c.in.m.flags, BUS1_MSG_F_ERROR);
	EQ(c.in.m.error, 0);
	EQ(c.in.m.len, 7);
	MEM(c.in.data, "why not", 7);
	pair_close(&w);
}

TEST("CALL-1 a call to a node of one's own is served by another thread")
{
	struct peer p = peer_new(1 << 16);
	u64 n = node_new(&p, 1);
	struct server s;
	struct call c;

	server_start(&s, &p, n);
	for (int i = 0; i < 20; i++) {
		call_init_str(&c, &p, n, "to myself");
		OK(call_make(&c));
		REPLIED(&c, "to myself");
	}
	server_stop(&s, 1);
	EQ(s.served, 20);
	EQ(peer_info(&p).n_calls, 0);
	NOTHING(&p);
}

TEST("CALL-1 calls wait where the file is O_NONBLOCK")
{
	struct pair w = pair_new();
	struct call c;
	struct in in;

	OK(SYS(fcntl(w.a.fd, F_SETFL, O_RDWR | O_NONBLOCK)));
	OK(SYS(fcntl(w.b.fd, F_SETFL, O_RDWR | O_NONBLOCK)));
	call_start_str(&c, &w.a, w.to_b, "x");
	/* The receiving part of a reply does not. */
	ERR(answer_next(&w.b, GOT_CALL(&w.b, w.nb, "x"), "y", 1, 0, &in), EAGAIN);
	call_join(&c);
	REPLIED(&c, "y");
	pair_close(&w);
}

TEST("CALL-1 a call gives back slices and handles first")
{
	struct pair w = pair_new();
	u64 own = node_new(&w.b, 1), drop = grant(&w.b, own, &w.a), slice;
	struct call c;
	u8 data[5000] = {};

	call_init_str(&c, &w.a, w.to_b, "x");
	c.cmd.reply_size = sizeof(data);
	call_start(&c);
	OK(answer(&w.b, GOT_CALL(&w.b, w.nb, "x"), data, sizeof(data)));
	OK(call_join(&c));
	NE(slice = c.in.m.slice, 0);

	call_init_str(&c, &w.a, w.to_b, "y");
	c.cmd.recv.release = PTR(&slice);
	c.cmd.recv.n_release = 1;
	c.cmd.recv.drop = PTR(&drop);
	c.cmd.recv.n_drop = 1;
	call_start(&c);
	EQ(peer_info(&w.a).n_slices, 0);
	GOT_UNUSED(&w.b, own, 1);
	OK(answer_str(&w.b, GOT_CALL(&w.b, w.nb, "y"), "z"));
	call_join(&c);
	REPLIED(&c, "z");
	EQ(c.cmd.recv.n_release, 0);
	EQ(c.cmd.recv.n_drop, 0);
	ERR(slice_release(&w.a, slice), ENXIO);
	pair_close(&w);
}
