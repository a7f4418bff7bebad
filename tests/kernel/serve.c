// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-2: many calls, many threads that serve them, and what a token is good for. */
#include "call.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SERVERS = 6, CALLS = 12, MANY = 5000 };

TEST("CALL-2 of several threads that receive each request goes to one")
{
	struct pair w = pair_new();
	struct server s[SERVERS];
	struct call c[CALLS];
	unsigned int rounds = test_rounds(100), served = 0;

	for (int i = 0; i < SERVERS; i++)
		server_start(&s[i], &w.b, w.nb);
	for (unsigned int k = 0; k < rounds; k++) {
		u32 text[CALLS];

		for (u32 i = 0; i < CALLS; i++) {
			text[i] = k * CALLS + i;
			call_init(&c[i], &w.a, w.to_b, &text[i], 4);
			call_go(&c[i]);
		}
		for (u32 i = 0; i < CALLS; i++) {
			OK(call_join(&c[i]));
			EQ(c[i].in.m.len, 4);
			MEM(c[i].in.data, &text[i], 4);
		}
	}
	server_stop(s, SERVERS);
	for (int i = 0; i < SERVERS; i++)
		served += s[i].served;
	EQ(served, rounds * CALLS);
	pair_close(&w);
}

TEST("CALL-2 one thread is woken for one request, the others sleep on")
{
	struct pair w = pair_new();
	struct server s[SERVERS];
	long before[SERVERS], woken = 0;
	unsigned int rounds = test_rounds(200), served = 0;
	struct call c;

	for (int i = 0; i < SERVERS; i++)
		server_start(&s[i], &w.b, w.nb);
	for (int i = 0; i < SERVERS; i++)
		before[i] = times_slept(s[i].thread.tid);
	for (unsigned int i = 0; i < rounds; i++) {
		call_init_str(&c, &w.a, w.to_b, "one at a time");
		OK(call_make(&c));
		REPLIED(&c, "one at a time");
	}
	for (int i = 0; i < SERVERS; i++) {
		long n;

		test_asleep(getpid(), s[i].thread.tid);
		n = times_slept(s[i].thread.tid) - before[i];
		woken += n;
		served += s[i].served;
		/* A thread that received nothing did not wake; others as often as they served. */
		LE(n, s[i].served);
	}
	EQ(served, rounds);
	LE(woken, rounds);
	server_stop(s, SERVERS);
	pair_close(&w);
}

TEST("CALL-2 one thread is woken for one reply, other callers sleep on")
{
	struct pair w = pair_new();
	struct call c[CALLS];
	u64 token[CALLS];
	long before[CALLS];

	for (int i = 0; i < CALLS; i++) {
		call_start_str(&c[i], &w.a, w.to_b, "x");
		token[i] = GOT_CALL(&w.b, w.nb, "x");
	}
	for (int i = 0; i < CALLS; i++)
		before[i] = times_slept(c[i].thread.tid);
	for (int i = 0; i < CALLS; i += 2) {
		OK(answer_str(&w.b, token[i], "y"));
		call_join(&c[i]);
		REPLIED(&c[i], "y");
	}
	for (int i = 1; i < CALLS; i += 2) {
		CHECK(!call_is_done(&c[i]));
		EQ(times_slept(c[i].thread.tid), before[i]);
	}
	for (int i = 1; i < CALLS; i += 2) {
		OK(answer_str(&w.b, token[i], "z"));
		call_join(&c[i]);
		REPLIED(&c[i], "z");
	}
	pair_close(&w);
}

TEST("CALL-2 a reply bypasses what the caller has queued")
{
	struct pair w = pair_new();
	u64 na = node_new(&w.a, 1), to_a = grant(&w.a, na, &w.b);
	struct call c;

	OK(send_str(&w.b, to_a, "before"));
	call_start_str(&c, &w.a, w.to_b, "x");
	OK(send_str(&w.b, to_a, "after"));
	OK(answer_str(&w.b, GOT_CALL(&w.b, w.nb, "x"), "reply"));
	call_join(&c);
	REPLIED(&c, "reply");
	EQ(peer_info(&w.a).n_queued, 2);
	GOT_TEXT(&w.a, na, "before");
	GOT_TEXT(&w.a, na, "after");
	pair_close(&w);
}

TEST("CALL-2 replies late, out of order, and by other threads than received")
{
	struct pair w = pair_new();
	struct answerer t[CALLS] = {};
	struct call c[CALLS];
	char text[CALLS][8];
	u64 token[CALLS];

	for (int i = 0; i < CALLS; i++) {
		memcpy(text[i], "reply A", 8);
		text[i][6] = (char)('A' + i);
		call_start_str(&c[i], &w.a, w.to_b, "x");
		token[i] = GOT_CALL(&w.b, w.nb, "x");
		for (int j = 0; j < i; j++)
			NE(token[i], token[j]);
	}
	EQ(peer_info(&w.b).n_calls, CALLS);
	test_sleep_ms(50);
	for (int i = 0; i < CALLS; i++) {
		int who = i * 5 % CALLS;

		answerer_start(&t[who], &w.b, token[who], text[who], strlen(text[who]));
		test_join(&t[who].thread);
		OK(t[who].r);
		call_join(&c[who]);
		REPLIED(&c[who], text[who]);
		for (int j = i + 1; j < CALLS; j++)
			CHECK(!call_is_done(&c[j * 5 % CALLS]));
		EQ(peer_info(&w.b).n_calls, CALLS - 1 - i);
	}
	pair_close(&w);
}

TEST("CALL-2 a process that inherits the peer answers what its parent received")
{
	struct pair w = pair_new();
	struct call c;
	u64 token;
	pid_t pid;

	call_start_str(&c, &w.a, w.to_b, "x");
	token = GOT_CALL(&w.b, w.nb, "x");
	pid = test_fork();
	if (!pid) {
		OK(answer_str(&w.b, token, "child"));
		_exit(0);
	}
	test_wait(pid);
	call_join(&c);
	REPLIED(&c, "child");
	pair_close(&w);
}

TEST_TIMEOUT("CALL-2 five thousand calls in flight on one peer", 120)
{
	struct pair w = pair_new();
	u64 *ids = calloc(MANY, 8), *tokens = calloc(MANY, 8);
	u8 *seen = calloc(MANY, 1);
	struct in in;

	CHECK(ids && tokens && seen);
	for (u64 i = 0; i < MANY; i++) {
		struct bus1_cmd_call cmd = {
			.send = { .dest = w.to_b, .data = PTR(&i), .len = 8 }, .cookie = i,
		};

		OK(call_async_cmd(&w.a, &cmd));
		NE(ids[i] = cmd.id, 0);
		if (i)
			NE(ids[i], ids[i - 1]);
	}
	EQ(peer_info(&w.a).n_calls, MANY);
	EQ(peer_info(&w.b).n_queued, MANY);
	for (u64 i = 0; i < MANY; i++) {
		tokens[i] = await_call(&w.b, &in);
		EQ(in.m.len, 8);
		MEM(in.data, &i, 8);
	}
	EQ(peer_info(&w.b).n_calls, MANY);
	/* In another order, and each reply says to what. */
	for (u64 i = 0; i < MANY; i++) {
		u64 who = i * 3001 % MANY;

		OK(answer(&w.b, tokens[who], &who, 8));
	}
	EQ(peer_info(&w.b).n_calls, 0);
	for (u64 i = 0; i < MANY; i++) {
		u64 who;

		OK(recv_now(&w.a, &in));
		EQ(in.m.type, BUS1_MSG_REPLY);
		EQ(in.m.len, 8);
		memcpy(&who, in.data, 8);
		LT(who, MANY);
		EQ(seen[who]++, 0);
		EQ(in.m.cookie, who);
		EQ(in.m.id, ids[who]);
		EQ(who, i * 3001 % MANY);
	}
	pair_close(&w);
}

TEST("CALL-2 a token is good for one answer, of its own peer")
{
	struct pair w = pair_new();
	struct peer other = peer_new(1 << 16);
	struct snapshot before;
	struct call c, d;
	u64 token, later;

	call_start_str(&c, &w.a, w.to_b, "x");
	token = GOT_CALL(&w.b, w.nb, "x");
	before = SNAPSHOT(&w.a, &w.b, &other);
	/* Guessed, of others, and what is something else. */
	ERR(answer_str(&other, token, "y"), ENXIO);
	ERR(answer_str(&w.a, token, "y"), ENXIO);
	ERR(answer_drop(&other, token), ENXIO);
	for (u64 bit = 0; bit < 64; bit++)
		if (token ^ 1ULL << bit)
			ERR(answer_str(&w.b, token ^ 1ULL << bit, "y"), ENXIO);
	for (u64 i = 1; i < 100; i++) {
		ERR(answer_str(&w.b, token + i, "y"), ENXIO);
		if (token - i)
			ERR(answer_drop(&w.b, token - i), ENXIO);
	}
	NE(token, w.nb);
	ERR(answer_str(&w.b, w.nb, "y"), ENXIO);
	ERR(answer_str(&w.b, UINT64_MAX, "y"), ENXIO);
	SAME_SNAPSHOT(&before);
	/* A token is no destination, and no handle. */
	ERR(send_str(&w.b, token, "y"), ENXIO);
	ERR(release(&w.b, token), ENXIO);
	ERR(slice_release(&w.b, token), ENXIO);
	CHECK(!call_is_done(&c));
	OK(answer_str(&w.b, token, "y"));
	ERR(answer_str(&w.b, token, "y"), ENXIO);
	ERR(answer_drop(&w.b, token), ENXIO);
	call_join(&c);
	REPLIED(&c, "y");

	/* The next request does not get it anew. */
	call_start_str(&d, &w.a, w.to_b, "z");
	later = GOT_CALL(&w.b, w.nb, "z");
	NE(later, token);
	ERR(answer_str(&w.b, token, "old"), ENXIO);
	CHECK(!call_is_done(&d));
	OK(answer_drop(&w.b, later));
	ERR(answer_drop(&w.b, later), ENXIO);
	ERR(answer_str(&w.b, later, "y"), ENXIO);
	ERR(call_join(&d), ECONNABORTED);
	peer_close(&other);
	pair_close(&w);
}

TEST("CALL-2 tokens of two peers have nothing to do with each other, whatever is the same")
{
	enum { TOKENS = 40 };
	struct pair w[2] = { pair_new(), pair_new() };
	u64 token[2][TOKENS], id[2];

	/* The same is done to both. */
	for (int i = 0; i < TOKENS; i++)
		for (int k = 0; k < 2; k++) {
			id[k] = call_async(&w[k].a, w[k].to_b, "x", 1);
			token[k][i] = GOT_CALL(&w[k].b, w[k].nb, "x");
			NE(token[k][i], id[k]);
			if (i & 1)
				OK(answer_drop(&w[k].b, token[k][i]));
			if (i & 1)
				GOT_END(&w[k].a, id[k], 1, ECONNABORTED);
		}
	for (int i = 0; i < TOKENS; i++)
		for (int k = 0; k < TOKENS; k++) {
			NE(token[0][i], token[1][k]);
			/* Neither half of them alone. */
			NE(token[0][i] >> 32, token[1][k] >> 32);
			NE((u32)token[0][i], (u32)token[1][k]);
		}
	/* What one peer is to answer is nothing to the other. */
	for (int i = 0; i < TOKENS; i += 2) {
		ERR(answer_str(&w[1].b, token[0][i], "guessed"), ENXIO);
		ERR(answer_str(&w[0].b, token[1][i], "guessed"), ENXIO);
	}
	for (int i = 0; i < TOKENS; i += 2)
		for (int k = 0; k < 2; k++)
			OK(answer_str(&w[k].b, token[k][i], "y"));
	for (int k = 0; k < 2; k++) {
		EQ(drain(&w[k].a), TOKENS / 2);
		pair_close(&w[k]);
	}
}

TEST("CALL-2 of those who answer at once one succeeds")
{
	struct pair w = pair_new();

	for (unsigned int i = 0; i < test_rounds(400); i++) {
		struct answerer t[4] = {};
		unsigned int good = 0;
		struct call c;
		char won[2] = "?";
		u64 token;

		call_start_str(&c, &w.a, w.to_b, "x");
		token = GOT_CALL(&w.b, w.nb, "x");
		for (int k = 0; k < 4; k++) {
			static const char *const texts[] = { "0", "1", "2", "3" };

			answerer_start(&t[k], &w.b, token, texts[k], strlen(texts[k]));
		}
		for (int k = 0; k < 4; k++) {
			test_join(&t[k].thread);
			if (!t[k].r) {
				good++;
				won[0] = (char)('0' + k);
			} else {
				CHECK(t[k].r == -ENXIO || t[k].r == -EBUSY);
			}
		}
		EQ(good, 1);
		call_join(&c);
		REPLIED(&c, won);
	}
	pair_close(&w);
}

TEST("CALL-2 an answer that fails leaves the token, and the caller waiting")
{
	struct pair w = pair_new();
	struct bus1_cmd_reply cmd;
	struct bus1_pass pass = { .id = 0x7777 };
	s32 fd = -1;
	struct call c;
	u64 token;

	call_init_str(&c, &w.a, w.to_b, "x");
	c.cmd.reply_size = 5000;
	c.cmd.reply_handles = 1;
	c.cmd.reply_fds = 1;
	call_start(&c);
	token = GOT_CALL(&w.b, w.nb, "x");
	ERR(answer(&w.b, token, (void *)8, 100), EFAULT);
	ERR(answer(&w.b, token, (void *)8, 5000), EFAULT);
	cmd = (struct bus1_cmd_reply){
		.send = { .dest = token, .handles = PTR(&pass), .n_handles = 1 } };
	ERR(reply_cmd(&w.b, &cmd), ENXIO);
	EQ(cmd.send.dest, token);
	cmd = (struct bus1_cmd_reply){ .send = { .dest = token, .fds = PTR(&fd), .n_fds = 1 } };
	ERR(reply_cmd(&w.b, &cmd), EBADF);
	fd = w.a.fd;
	ERR(reply_cmd(&w.b, &cmd), ELOOP);
	cmd = (struct bus1_cmd_reply){ .send = { .dest = token, .priority = 1 } };
	ERR(reply_cmd(&w.b, &cmd), EINVAL);
	CHECK(!call_is_done(&c));
	EQ(peer_info(&w.b).n_calls, 1);
	OK(answer_str(&w.b, token, "at last"));
	call_join(&c);
	REPLIED(&c, "at last");
	pair_close(&w);
}

static void call_on(void *arg)
{
	struct call *c = arg;
	u64 dest = c->cmd.send.dest;

	for (u32 i = 0; i < test_rounds(600); i++) {
		u64 text = (u64)(uintptr_t)c * 1000 + i;

		call_init(c, c->p, dest, &text, 8);
		OK(call_make(c));
		EQ(c->in.m.len, 8);
		MEM(c->in.data, &text, 8);
	}
}

TEST("CALL-2 many threads call, many serve, each gets its own reply")
{
	struct pair w = pair_new();
	struct server s[3];
	struct call c[5];
	u32 served = 0;

	for (int i = 0; i < 3; i++)
		server_start(&s[i], &w.b, w.nb);
	for (int i = 0; i < 5; i++) {
		call_init(&c[i], &w.a, w.to_b, NULL, 0);
		test_start(&c[i].thread, call_on, &c[i]);
	}
	for (int i = 0; i < 5; i++)
		test_join(&c[i].thread);
	server_stop(s, 3);
	for (int i = 0; i < 3; i++)
		served += s[i].served;
	EQ(served, 5 * test_rounds(600));
	pair_close(&w);
}

TEST("CALL-2 requests count as messages of the queue, and as calls once received")
{
	struct pair w = pair_new();
	struct call c[3];
	u64 token[3];

	for (u32 i = 0; i < 3; i++) {
		EQ(peer_info(&w.b).n_queued, i);
		call_start_str(&c[i], &w.a, w.to_b, "x");
	}
	EQ(peer_info(&w.b).n_queued, 3);
	EQ(peer_info(&w.b).n_calls, 0);
	/* Calls that a thread waits for are not counted at the caller. */
	EQ(peer_info(&w.a).n_calls, 0);
	for (u32 i = 0; i < 3; i++) {
		token[i] = GOT_CALL(&w.b, w.nb, "x");
		EQ(peer_info(&w.b).n_queued, 2 - i);
		EQ(peer_info(&w.b).n_calls, i + 1);
	}
	for (u32 i = 0; i < 3; i++) {
		OK(answer_str(&w.b, token[i], ""));
		EQ(peer_info(&w.b).n_calls, 2 - i);
		call_join(&c[i]);
		REPLIED(&c[i], "");
	}
	pair_close(&w);
}
