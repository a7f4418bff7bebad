// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-2, CALL-4: asynchronous calls, and others that nobody waits for. */
#include "call.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LARGE = 10000 };

TEST("CALL-2 the reply to an asynchronous call comes by the queue, in its order")
{
	struct pair w = pair_new();
	u64 na = node_new(&w.a, 1), to_a = grant(&w.a, na, &w.b), id[3], token[3];

	for (u64 i = 0; i < 3; i++) {
		id[i] = call_async(&w.a, w.to_b, "x", 100 + i);
		for (u64 k = 0; k < i; k++)
			NE(id[i], id[k]);
	}
	CHECK(!readable(&w.a));
	EQ(peer_info(&w.a).n_calls, 3);
	for (int i = 0; i < 3; i++)
		token[i] = GOT_CALL(&w.b, w.nb, "x");
	OK(answer_str(&w.b, token[1], "one"));
	CHECK(readable(&w.a));
	EQ(peer_info(&w.a).n_queued, 1);
	OK(send_str(&w.b, to_a, "between"));
	OK(answer_str(&w.b, token[2], "two"));
	OK(answer_drop(&w.b, token[0]));
	GOT_REPLY(&w.a, id[1], 101, "one");
	GOT_TEXT(&w.a, na, "between");
	GOT_REPLY(&w.a, id[2], 102, "two");
	GOT_END(&w.a, id[0], 100, ECONNABORTED);
	EQ(peer_info(&w.a).n_calls, 0);
	/* Ids are not used again. */
	for (int i = 0; i < 3; i++)
		ERR(call_cancel(&w.a, id[i]), ENXIO);
	for (int i = 0; i < 3; i++)
		NE(call_async(&w.a, w.to_b, "y", 0), id[i]);
	drain(&w.b);
	peer_close(&w.b);
	/* And the death of b's node, and that a's has no user. */
	EQ(drain(&w.a), 5);
	peer_close(&w.a);
}

TEST("CALL-2 a reply in the queue is peeked at, dropped, received by a reply, waited for")
{
	struct pair w = pair_new();
	struct bus1_cmd_call cmd;
	u8 data[LARGE];
	struct bus1_msg m;
	struct in in;
	u64 id, to_a, token;

	fill(data, sizeof(data), 1);
	for (int how = 0; how < 4; how++) {
		cmd = (struct bus1_cmd_call){
			.send = { .dest = w.to_b, .data = PTR("x"), .len = 1 },
			.cookie = 9, .reply_size = LARGE };
		OK(call_async_cmd(&w.a, &cmd));
		id = cmd.id;
		token = GOT_CALL(&w.b, w.nb, "x");
		OK(answer(&w.b, token, data, LARGE));
		if (how == 0) {
			OK(peek(&w.a, 0, &in));
			EQ(in.m.type, BUS1_MSG_REPLY);
			EQ(in.m.id, id);
			EQ(in.m.cookie, 9);
			EQ(in.m.len, LARGE);
			EQ(peer_info(&w.a).n_queued, 1);
		}
		if (how == 1) {
			OK(drop_now(&w.a, &m));
			EQ(m.type, BUS1_MSG_REPLY);
			EQ(m.flags, BUS1_MSG_F_DROPPED);
			EQ(m.id, id);
			pair_idle(&w);
			continue;
		}
		if (how == 2) {
			/* A server that calls meanwhile: its next message is a reply. */
			u64 na = node_new(&w.a, 1);

			to_a = grant(&w.a, na, &w.b);
			call_async(&w.b, to_a, "request", 7);
			token = 0;
			while (!token) {
				OK(recv_now(&w.a, &in));
				if (in.m.type == BUS1_MSG_CALL)
					token = in.m.token;
				else
					OK(slice_release(&w.a, in.m.slice));
			}
			OK(answer_str(&w.a, token, "done"));
			struct bus1_cmd_reply reply = { .recv = recv_into(&in, 0, 0) };

			OK(reply_cmd(&w.b, &reply));
			EQ(in.m.type, BUS1_MSG_REPLY);
			EQ(in.m.cookie, 7);
			pair_idle(&w);
			continue;
		}
		OK(recv_wait(&w.a, &in));
		EQ(in.m.id, id);
		EQ(in.m.len, LARGE);
		MEM(in.data, data, LARGE);
		OK(slice_release(&w.a, in.m.slice));
		pair_idle(&w);
	}
	pair_close(&w);
}

TEST("CALL-2 a reply to an asynchronous call brings handles and files")
{
	struct pair w = pair_new();
	u64 given = node_new(&w.b, 3);
	struct bus1_cmd_call cmd = {
		.send = { .dest = w.to_b }, .reply_handles = 1, .reply_fds = 1 };
	struct bus1_pass pass = { .id = given };
	s32 fd = memfd_sealed("abc", 3);
	struct bus1_cmd_reply reply;
	struct in in;
	char text[3];

	OK(call_async_cmd(&w.a, &cmd));
	reply = (struct bus1_cmd_reply){ .send = {
		.dest = GOT_CALL(&w.b, w.nb, ""), .handles = PTR(&pass), .n_handles = 1,
		.fds = PTR(&fd), .n_fds = 1 } };
	OK(reply_cmd(&w.b, &reply));
	OK(recv_with(&w.a, &in, BUS1_RECV_FDS));
	EQ(in.m.type, BUS1_MSG_REPLY);
	EQ(in.m.n_handles, 1);
	EQ(in.m.n_fds, 1);
	EQ(pread(in.fds[0], text, 3, 0), 3);
	MEM(text, "abc", 3);
	close_fd(in.fds[0]);
	OK(send_str(&w.a, in.h[0].id, "thanks"));
	GOT_TEXT(&w.b, given, "thanks");
	OK(release(&w.a, in.h[0].id));
	GOT_UNUSED(&w.b, given, 1);
	close_fd(fd);
	pair_close(&w);
}

TEST("CALL-4 calls are cancelled all or none")
{
	struct pair w = pair_new();
	struct peer other = peer_new(0);
	u64 id[4], ids[5], token[2];

	for (u64 i = 0; i < 4; i++)
		id[i] = call_async(&w.a, w.to_b, "x", i);
	token[0] = GOT_CALL(&w.b, w.nb, "x");
	token[1] = GOT_CALL(&w.b, w.nb, "x");
	memcpy(ids, id, sizeof(id));
	ids[4] = id[2];
	ERR(ids_cmd(&w.a, BUS1_CMD_CALL_CANCEL, 0, ids, 5), ENXIO);	/* twice */
	ids[4] = id[3] + 1;
	ERR(ids_cmd(&w.a, BUS1_CMD_CALL_CANCEL, 0, ids, 5), ENXIO);	/* unknown */
	ids[4] = w.to_b;
	ERR(ids_cmd(&w.a, BUS1_CMD_CALL_CANCEL, 0, ids, 5), ENXIO);
	ids[4] = 0;
	ERR(ids_cmd(&w.a, BUS1_CMD_CALL_CANCEL, 0, ids, 5), ENXIO);
	ERR(ids_cmd(&other, BUS1_CMD_CALL_CANCEL, 0, ids, 1), ENXIO);
	ERR(ids_cmd(&w.b, BUS1_CMD_CALL_CANCEL, 0, ids, 1), ENXIO);
	ERR(ids_cmd(&w.b, BUS1_CMD_CALL_CANCEL, 0, token, 1), ENXIO);
	/* Nothing has happened. */
	EQ(peer_info(&w.a).n_calls, 4);
	EQ(peer_info(&w.b).n_queued, 2);
	NOTHING(&w.a);

	OK(ids_cmd(&w.a, BUS1_CMD_CALL_CANCEL, 0, ids, 4));
	EQ(peer_info(&w.a).n_calls, 0);
	GOT_NOTICES(&w.b, { BUS1_MSG_CANCELLED, token[0] }, { BUS1_MSG_CANCELLED, token[1] });
	NOTHING(&w.b);
	for (int i = 0; i < 2; i++)
		ERR(answer_str(&w.b, token[i], "late"), ECANCELED);
	ERR(ids_cmd(&w.a, BUS1_CMD_CALL_CANCEL, 0, ids, 4), ENXIO);
	pair_idle(&w);

	peer_close(&other);
	pair_close(&w);
}

TEST("CALL-4 a thousand calls are cancelled at one instant")
{
	struct pair w = pair_new();
	u64 ids[BUS1_MAX_IDS];

	for (u64 i = 0; i < BUS1_MAX_IDS; i++)
		ids[i] = call_async(&w.a, w.to_b, "x", i);
	EQ(peer_info(&w.b).n_queued, BUS1_MAX_IDS);
	OK(ids_cmd(&w.a, BUS1_CMD_CALL_CANCEL, 0, ids, BUS1_MAX_IDS));
	EQ(peer_info(&w.b).n_queued, 0);
	CHECK(!readable(&w.b));
	for (u64 i = 0; i < BUS1_MAX_IDS; i++) {
		ids[i] = call_async(&w.a, w.to_b, "x", i);
		GOT_CALL(&w.b, w.nb, "x");
	}
	OK(ids_cmd(&w.a, BUS1_CMD_CALL_CANCEL, 0, ids, BUS1_MAX_IDS));
	EQ(peer_info(&w.a).n_calls, 0);
	for (u64 i = 0; i < BUS1_MAX_IDS; i++) {
		struct in in;

		OK(recv_now(&w.b, &in));
		EQ(in.m.type, BUS1_MSG_CANCELLED);
		OK(answer_drop(&w.b, in.m.id));
	}
	pair_close(&w);
}

TEST("CALL-2 an asynchronous call, or what is none, is not waited for")
{
	struct pair w = pair_new();
	struct bus1_cmd_reply cmd;
	struct snapshot before;
	struct call c;
	struct in in;
	u64 id = call_async(&w.a, w.to_b, "x", 55);
	const u64 wrong[] = { id, id + 1, w.to_b, UINT64_MAX };

	before = SNAPSHOT(&w.a, &w.b);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		call_init(&c, &w.a, 0, NULL, 0);
		c.cmd.id = wrong[i];
		ERR(call_make(&c), ENXIO);
		cmd = (struct bus1_cmd_reply){ .recv = recv_into(&in, 0, 0), .id = wrong[i] };
		ERR(reply_cmd(&w.a, &cmd), ENXIO);
		call_init(&c, &w.b, 0, NULL, 0);
		c.cmd.id = wrong[i];
		ERR(call_make(&c), ENXIO);
	}
	SAME_SNAPSHOT(&before);
	OK(answer_str(&w.b, GOT_CALL(&w.b, w.nb, "x"), "by the queue"));
	GOT_REPLY(&w.a, id, 55, "by the queue");
	pair_close(&w);
}

TEST("CALL-2 a reply that could not be written comes by the queue")
{
	struct pair w = pair_new();
	size_t inl = peer_info(&w.a).max_inline;
	u8 data[LARGE];

	fill(data, sizeof(data), 5);
	for (int how = 0; how < 6; how++) {
		size_t len = how & 1 ? LARGE : inl;
		struct call c;
		struct in in;

		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.cookie = 70 + (u64)how;
		c.cmd.reply_size = LARGE;
		switch (how / 2) {
		case 0: c.cmd.recv.msgs = 8; break;
		case 1: c.cmd.recv.msgs = PTR(read_only(&c.in.m, sizeof(c.in.m))); break;
		default:
			/* Only what comes inline is written there. */
			c.cmd.recv.buf = PTR(read_only("x", 1));
			c.cmd.recv.buf_size = 4096;
		}
		call_start(&c);
		OK(answer(&w.b, GOT_CALL(&w.b, w.nb, "x"), data, len));
		if (how == 5) {
			OK(call_join(&c));
			EQ(c.in.m.len, LARGE);
			OK(slice_release(&w.a, c.in.m.slice));
			continue;
		}
		ERR(call_join(&c), EFAULT);
		OK(recv_now(&w.a, &in));
		EQ(in.m.type, BUS1_MSG_REPLY);
		EQ(in.m.cookie, 70 + (u64)how);
		EQ(in.m.error, 0);
		EQ(in.m.len, len);
		MEM(in.data, data, len);
		if (in.m.slice)
			OK(slice_release(&w.a, in.m.slice));
		pair_idle(&w);
	}
	pair_close(&w);
}

TEST("CALL-2 replies come to those who have asked, with asynchronous ones among them")
{
	struct pair w = pair_new();
	struct server s;
	u64 ids[50];

	server_start(&s, &w.b, w.nb);
	for (u64 i = 0; i < 50; i++) {
		struct call c;
		char text[] = "call A";

		ids[i] = call_async(&w.a, w.to_b, "async", i);
		text[5] = (char)('A' + i % 26);
		call_init_str(&c, &w.a, w.to_b, text);
		OK(call_make(&c));
		REPLIED(&c, text);
	}
	for (u64 i = 0; i < 50; i++)
		GOT_REPLY(&w.a, ids[i], i, "async");
	server_stop(&s, 1);
	EQ(s.served, 100);
	pair_close(&w);
}
