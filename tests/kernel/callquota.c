// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * RES-2: a request is its caller's until it is answered. CALL-7: what its reply may bring is, too,
 * and what the limits of the caller's user say of that.
 */
#include "call.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { USER = 7800, LARGE = 50000, POOL = 1 << 20 };

/* A client of another user's. */
static u64 client(struct peer *p, u32 uid, const struct peer *server, u64 node)
{
	*p = peer_of(uid, 1 << 16);
	return grant(server, node, p);
}

TEST_TIMEOUT("RES-2 a flood of calls takes its share, also of what is received and not answered", 120)
{
	struct peer server = peer_new(1 << 20), bad, good;
	u64 node = node_new(&server, 1), from_bad, from_good, *tokens;
	u32 n = 0, taken = 0, more = 0;
	struct call c;
	struct in in;
	int r;

	from_bad = client(&bad, USER + 1, &server, node);
	from_good = client(&good, USER + 2, &server, node);
	OK(limit_set(USER + 1, MAX_MESSAGES, 200000));
	tokens = calloc(1 << 17, sizeof(*tokens));
	CHECK(tokens);
	for (;; n++) {
		struct bus1_cmd_call cmd = { .send = { .dest = from_bad } };

		r = call_async_cmd(&bad, &cmd);
		if (r)
			break;
		LT(n, 1 << 16);
	}
	ERR(r, EAGAIN);
	/* A lone sender's. */
	LE(n, (1 << 16) / 2);
	GE(n, 1000);
	/* The server takes them all and answers none: they are still that user's. */
	while (!recv_now(&server, &in)) {
		EQ(in.m.type, BUS1_MSG_CALL);
		tokens[taken++] = in.m.token;
	}
	EQ(taken, n);
	struct bus1_cmd_call again = { .send = { .dest = from_bad } };
	ERR(call_async_cmd(&bad, &again), EAGAIN);
	ERR(send_str(&bad, from_bad, "x"), EAGAIN);
	/* Others do not feel it. */
	for (int i = 0; i < 100; i++) {
		call_start_str(&c, &good, from_good, "good");
		OK(answer_str(&server, GOT_CALL(&server, node, "good"), "fine"));
		call_join(&c);
		REPLIED(&c, "fine");
	}
	/* Each that is answered or dropped makes room. */
	for (u32 i = 0; i < 10; i++)
		OK(i & 1 ? answer_drop(&server, tokens[i]) : answer_str(&server, tokens[i], ""));
	for (; !call_async_cmd(&bad, &again); more++)
		again.id = 0;
	GE(more, 5);
	LE(more, 10);
	peer_close(&bad);
	peer_close(&good);
	peer_close(&server);
	OK(limit_set(USER + 1, MAX_MESSAGES, LIMIT_DEFAULT));
	nothing_charged(USER + 1);
	nothing_charged(USER + 2);
}

TEST("RES-2 a call is one of its user's messages until it is known no more")
{
	struct peer server = peer_new(1 << 20), p;
	u64 node = node_new(&server, 1), to = client(&p, USER + 3, &server, node), id[10], token;
	struct bus1_cmd_call cmd;
	struct user user;

	OK(limit_set(USER + 3, MAX_MESSAGES, 10));
	for (int i = 0; i < 10; i++)
		id[i] = call_async(&p, to, "x", 1);
	cmd = (struct bus1_cmd_call){ .send = { .dest = to } };
	ERR(call_async_cmd(&p, &cmd), EDQUOT);
	CHECK(user_read(USER + 3, &user));
	EQ(user.used[MAX_MESSAGES], 10);
	/* Received, it still is; answered, it still is; and then it is not. */
	token = GOT_CALL(&server, node, "x");
	ERR(call_async_cmd(&p, &cmd), EDQUOT);
	OK(answer_str(&server, token, "y"));
	ERR(call_async_cmd(&p, &cmd), EDQUOT);
	GOT_REPLY(&p, id[0], 1, "y");
	OK(call_async_cmd(&p, &cmd));
	OK(call_cancel(&p, cmd.id));
	for (int i = 1; i < 10; i++)
		OK(call_cancel(&p, id[i]));
	CHECK(user_read(USER + 3, &user));
	EQ(user.used[MAX_MESSAGES], 0);
	OK(limit_set(USER + 3, MAX_MESSAGES, LIMIT_DEFAULT));
	NOTHING(&server);
	peer_close(&p);
	peer_close(&server);
	nothing_charged(USER + 3);
}

TEST("RES-2 a call that is large is charged its bytes at the server until it is received")
{
	struct peer server = peer_new(POOL), bad, good;
	u64 node = node_new(&server, 1), from_bad, from_good;
	u8 *data = calloc(1, POOL / 8);
	struct bus1_cmd_call cmd;
	struct call c;
	struct in in;
	u32 n = 0;
	int r;

	CHECK(data);
	from_bad = client(&bad, USER + 4, &server, node);
	from_good = client(&good, USER + 5, &server, node);
	do {
		cmd = (struct bus1_cmd_call){
			.send = { .dest = from_bad, .data = PTR(data), .len = POOL / 8 } };
		r = call_async_cmd(&bad, &cmd);
	} while (!r && n++ < 100);
	ERR(r, EAGAIN);
	LE(n, 4);
	GE(n, 1);
	call_init(&c, &good, from_good, data, 30000);
	call_start(&c);
	for (;;) {
		OK(recv_now(&server, &in));
		if (in.m.len == 30000)
			break;
	}
	OK(answer_str(&server, in.m.token, "in spite of them"));
	call_join(&c);
	REPLIED(&c, "in spite of them");
	peer_close(&bad);
	peer_close(&good);
	peer_close(&server);
	nothing_charged(USER + 4);
	nothing_charged(USER + 5);
}

TEST("RES-2 a call waits for room if it is asked to, and goes on when there is some")
{
	struct peer server = peer_new(1 << 20), p;
	u64 node = node_new(&server, 1), to, token;
	struct bus1_cmd_call cmd = {};
	struct call c;
	u32 n = 0;
	int r;

	to = client(&p, USER + 6, &server, node);
	OK(limit_set(USER + 6, MAX_MESSAGES, 200000));
	do {
		cmd = (struct bus1_cmd_call){ .send = { .dest = to } };
		r = call_async_cmd(&p, &cmd);
	} while (!r && n++ < 1 << 16);
	ERR(r, EAGAIN);
	call_init_str(&c, &p, to, "x");
	c.cmd.send.flags = BUS1_SEND_WAIT;
	c.cmd.recv.deadline = test_now() + 100000000ULL * test_slow();
	ERR(call_make(&c), ETIMEDOUT);
	c.cmd.recv.deadline = 0;
	call_start(&c);
	EQ(peer_info(&server).n_queued, n);
	/* Received is not enough: a call is in flight until it is answered. */
	token = GOT_CALL(&server, node, "");
	test_sleep_ms(20);
	EQ(peer_info(&server).n_queued, n - 1);
	OK(answer_str(&server, token, ""));
	for (struct in in;;) {
		OK(recv_wait(&server, &in));
		token = in.m.token;
		if (in.m.len)
			break;
		OK(answer_drop(&server, token));
	}
	OK(answer_str(&server, token, "there was room"));
	call_join(&c);
	REPLIED(&c, "there was room");
	peer_close(&p);
	peer_close(&server);
	OK(limit_set(USER + 6, MAX_MESSAGES, LIMIT_DEFAULT));
	nothing_charged(USER + 6);
}

TEST("RES-2 a reply that comes too late makes room, too, and who waits for that is told")
{
	enum { MOST = 1 << 16 };
	struct peer server = peer_new(1 << 20), p;
	u64 node = node_new(&server, 1), to, *ids = malloc(MOST * sizeof(*ids)), token, until;
	u64 *tokens = malloc(MOST * sizeof(*tokens));
	struct call c;
	struct in in;
	u32 n = 0;
	int r;

	CHECK(ids && tokens);
	to = client(&p, USER + 7, &server, node);
	OK(limit_set(USER + 7, MAX_MESSAGES, 200000));
	for (;;) {
		struct bus1_cmd_call cmd = { .send = { .dest = to } };

		r = call_async_cmd(&p, &cmd);
		if (r)
			break;
		LT(n, MOST);
		ids[n] = cmd.id;
		tokens[n++] = GOT_CALL(&server, node, "");
	}
	ERR(r, EAGAIN);
	for (u32 i = 0; i < n; i++) {
		OK(call_cancel(&p, ids[i]));
		GOT_CANCELLED(&server, tokens[i]);
	}
	call_init_str(&c, &p, to, "x");
	c.cmd.send.flags = BUS1_SEND_WAIT;
	call_start(&c);
	test_sleep_ms(20);
	EQ(peer_info(&server).n_queued, 0);
	/* In the command that would also receive, so nothing else is done at the server. */
	for (u32 i = 0; i < n && !peer_info(&server).n_queued; i++)
		ERR(answer_next(&server, tokens[i], "late", 4, BUS1_RECV_NONBLOCK, &in), ECANCELED);
	until = test_deadline(5);
	while (!peer_info(&server).n_queued && test_now() < until)
		test_sleep_ms(1);
	EQ(peer_info(&server).n_queued, 1);
	token = GOT_CALL(&server, node, "x");
	OK(answer_str(&server, token, "there was room"));
	call_join(&c);
	REPLIED(&c, "there was room");
	peer_close(&p);
	peer_close(&server);
	OK(limit_set(USER + 7, MAX_MESSAGES, LIMIT_DEFAULT));
	nothing_charged(USER + 7);
	free(ids);
	free(tokens);
}

/* Asynchronous calls that may bring so much, and no more, at a limit of ten messages and files. */
static void counted(u32 uid, int limit, u32 most, bool handles)
{
	struct peer server = peer_new(1 << 20), p;
	u64 node = node_new(&server, 1), to = client(&p, uid, &server, node);
	struct bus1_cmd_call cmd = { .send = { .dest = to } };
	struct snapshot before;
	struct user user;
	u64 id;

	OK(limit_set(uid, limit, 10));
	before = SNAPSHOT(&server, &p);
	for (u32 n = most + 1; n < most + 4; n++) {
		*(handles ? &cmd.reply_handles : &cmd.reply_fds) = n;
		ERR(call_async_cmd(&p, &cmd), EDQUOT);
		EQ(cmd.id, 0);
		SAME_SNAPSHOT(&before);
	}
	NOTHING(&server);
	*(handles ? &cmd.reply_handles : &cmd.reply_fds) = most;
	OK(call_async_cmd(&p, &cmd));
	id = cmd.id;
	CHECK(user_read(uid, &user));
	EQ(user.used[limit], 10);
	/* Now there may not be another one. */
	cmd = (struct bus1_cmd_call){ .send = { .dest = to }, .reply_fds = !handles };
	ERR(call_async_cmd(&p, &cmd), EDQUOT);
	/* An answer that brings nothing is enough to have all of it back. */
	OK(answer_str(&server, GOT_CALL(&server, node, ""), "nothing"));
	GOT_REPLY(&p, id, 0, "nothing");
	OK(call_async_cmd(&p, &cmd));
	OK(call_cancel(&p, cmd.id));
	CHECK(user_read(uid, &user));
	EQ(user.used[limit], 0);
	OK(limit_set(uid, limit, LIMIT_DEFAULT));
	NOTHING(&server);
	peer_close(&p);
	peer_close(&server);
	nothing_charged(uid);
}

TEST("CALL-7 the handles that replies may bring are counted, and beyond the limit is EDQUOT")
{
	counted(USER + 8, MAX_MESSAGES, 9, true);
}

TEST("CALL-7 the files that replies may bring are counted, and beyond the limit is EDQUOT")
{
	counted(USER + 9, MAX_FILES, 10, false);
}

TEST("CALL-7 a reply with more handles than its caller may have is EDQUOT, and with less arrives")
{
	enum { HANDLES = 8 };

	for (int by_user = 0; by_user < 2; by_user++) {
		u32 uid = USER + 10 + (u32)by_user, most = by_user ? 0 : HANDLES / 2 - 1;
		struct peer server = peer_new(1 << 20), p, other[2];
		u64 node = node_new(&server, 1), to = client(&p, uid, &server, node), token;
		struct bus1_pass pass[HANDLES] = {};
		struct bus1_cmd_reply cmd;
		struct bus1_cmd_info before;
		struct call c;

		/* A peer may have half of it, and has one to the server; others have the rest, or none. */
		OK(limit_set(uid, MAX_HANDLES, HANDLES));
		for (int i = 0; by_user && i < 2; i++) {
			other[i] = peer_of(uid, 0);
			for (int k = 0; k < HANDLES / 2 - i; k++)
				grant(&server, node_new(&server, 2), &other[i]);
		}
		for (int i = 0; i < HANDLES; i++)
			pass[i].id = node_new(&server, 3);
		call_init_str(&c, &p, to, "x");
		c.cmd.reply_handles = HANDLES;
		call_start(&c);
		token = GOT_CALL(&server, node, "x");
		before = peer_info(&p);
		for (u32 n = HANDLES; n > most; n--) {
			cmd = (struct bus1_cmd_reply){ .send = {
				.dest = token, .handles = PTR(pass), .n_handles = n } };
			ERR(reply_cmd(&server, &cmd), EDQUOT);
			EQ(cmd.send.dest, token);
			CHECK(!call_is_done(&c));
		}
		SAME_INFO(&p, &before);
		/* One that it has already is none more. */
		pass[most].id = node;
		cmd.send.n_handles = most + 1;
		OK(reply_cmd(&server, &cmd));
		OK(call_join(&c));
		EQ(c.in.m.n_handles, most + 1);
		EQ(c.in.h[most].id, to);
		drain(&server);
		OK(limit_set(uid, MAX_HANDLES, LIMIT_DEFAULT));
		peer_close(&p);
		for (int i = 0; by_user && i < 2; i++)
			peer_close(&other[i]);
		peer_close(&server);
		nothing_charged(uid);
	}
}

TEST("CALL-7 a reply with more pages than its caller's user may have is EDQUOT, and with less arrives")
{
	struct peer server = peer_new(1 << 20), p = peer_of(USER + 12, POOL);
	u64 node = node_new(&server, 1), to = grant(&server, node, &p), token;
	u8 *data = calloc(1, LARGE);
	struct call c;

	CHECK(data);
	OK(limit_set(USER + 12, MAX_PAGES, 0));
	call_init_str(&c, &p, to, "x");
	c.cmd.reply_size = LARGE;
	call_start(&c);
	token = GOT_CALL(&server, node, "x");
	ERR(answer(&server, token, data, LARGE), EDQUOT);
	ERR(answer(&server, token, data, 1000), EDQUOT);
	CHECK(!call_is_done(&c));
	EQ(peer_info(&p).pool_pages, 0);
	OK(answer_str(&server, token, "little"));
	call_join(&c);
	REPLIED(&c, "little");
	drain(&server);
	OK(limit_set(USER + 12, MAX_PAGES, LIMIT_DEFAULT));
	peer_close(&p);
	peer_close(&server);
	nothing_charged(USER + 12);
	free(data);
}
