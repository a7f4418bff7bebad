// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-7: the space for a reply is the caller's, and set aside before anything is sent. */
#include "call.h"
#include "tar.h"

#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LARGE = 50000, POOL = 1 << 20, WAYS = 6 };

TEST("CALL-7 a large reply arrives, however full the caller's pool is otherwise")
{
	struct pair w = pair_new();
	u64 na = node_new(&w.a, 1), token, slices[64];
	u8 *data = malloc(LARGE);
	struct call c;
	u32 n;

	CHECK(data);
	fill(data, LARGE, 1);
	for (size_t len = LARGE;; len = len > 3 ? len / 3 : len - 1) {
		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.reply_size = LARGE;
		call_start(&c);
		token = GOT_CALL(&w.b, w.nb, "x");
		GE(peer_info(&w.a).pool_used, LARGE);
		n = fill_pool(&w.a, na, 'f', slices, ARRAY_SIZE(slices));
		ERR(answer(&w.b, token, data, LARGE + 1), EMSGSIZE);
		OK(answer(&w.b, token, data, len));
		OK(call_join(&c));
		EQ(c.in.m.len, len);
		MEM(c.in.data, data, len);
		if (c.in.m.slice)
			OK(slice_release(&w.a, c.in.m.slice));
		OK(ids_cmd(&w.a, BUS1_CMD_SLICE_RELEASE, 0, slices, n));
		pair_idle(&w);
		if (!len)
			break;
	}
	pair_close(&w);
}

TEST("CALL-7 a reply that is too large for what was set aside can be made smaller")
{
	struct pair w = pair_new();
	size_t inl = peer_info(&w.a).max_inline;
	const size_t sizes[] = { 0, 1, inl, inl + 1, 4096, 5000 };
	u64 node[3];
	u8 data[10000];

	fill(data, sizeof(data), 2);
	for (int i = 0; i < 3; i++)
		node[i] = node_new(&w.b, 3);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		/* What travels inline costs nothing, and is always there. */
		size_t most = sizes[i] > inl ? sizes[i] : inl;
		struct bus1_pass pass[3] = { { .id = node[0] }, { .id = node[1] },
					     { .id = node[2] } };
		s32 fds[3] = { 0, 0, 0 };
		struct bus1_cmd_reply cmd;
		struct call c;
		u64 token;

		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.reply_size = sizes[i];
		c.cmd.reply_handles = 2;
		c.cmd.reply_fds = 1;
		call_start(&c);
		token = GOT_CALL(&w.b, w.nb, "x");
		ERR(answer(&w.b, token, data, most + 1), EMSGSIZE);
		ERR(answer(&w.b, token, data, 10000), EMSGSIZE);
		cmd = (struct bus1_cmd_reply){ .send = {
			.dest = token, .data = PTR(data), .len = most, .handles = PTR(pass),
			.n_handles = 3 } };
		ERR(reply_cmd(&w.b, &cmd), EMSGSIZE);
		cmd.send.n_handles = 2;
		cmd.send.fds = PTR(fds);
		cmd.send.n_fds = 2;
		ERR(reply_cmd(&w.b, &cmd), EMSGSIZE);
		EQ(cmd.send.dest, token);
		cmd.send.n_fds = 1;
		CHECK(!call_is_done(&c));
		OK(reply_cmd(&w.b, &cmd));
		OK(call_join(&c));
		EQ(c.in.m.len, most);
		MEM(c.in.data, data, most);
		EQ(c.in.m.n_handles, 2);
		EQ(c.in.m.n_fds, 1);
		OK(release(&w.a, c.in.h[0].id));
		OK(release(&w.a, c.in.h[1].id));
		if (c.in.m.slice)
			OK(slice_release(&w.a, c.in.m.slice));
		EQ(drain(&w.b), 2);
		pair_idle(&w);
	}
	pair_close(&w);
}

/* Calls, each with the largest reply that there is room for, until there is for none. */
static u32 reserve_all(const struct pair *w, u64 *ids, u32 max)
{
	size_t inl = peer_info(&w->a).max_inline, len = POOL / 64 * 3 / 8 * 64;
	u32 n = 0;

	for (;;) {
		struct bus1_cmd_call cmd = {
			.send = { .dest = w->to_b, .data = PTR("x"), .len = 1 }, .reply_size = len };
		int r = call_async_cmd(&w->a, &cmd);

		if (!r) {
			LT(n, max);
			ids[n++] = cmd.id;
			continue;
		}
		ERR(r, EAGAIN);
		if (len == inl + 1)
			return n;
		len = len / 2 > inl ? len / 2 : inl + 1;
	}
}

TEST("CALL-7 where no space can be set aside nobody sees a request")
{
	struct pair w = pair_new();
	struct peer poor = peer_new(0);
	u64 from_poor = grant(&w.b, w.nb, &poor), ids[64];
	size_t inl = peer_info(&w.a).max_inline, most = POOL / 64 * 3 / 8 * 64;
	struct snapshot before = SNAPSHOT(&w.a, &w.b, &poor);
	struct call c;
	u32 n;

	call_init_str(&c, &w.a, w.to_b, "x");
	c.cmd.reply_size = most + 1;
	ERR(call_make(&c), EMSGSIZE);
	c.cmd.reply_size = BUS1_MAX_PAYLOAD + 1;
	ERR(call_make(&c), EMSGSIZE);
	c.cmd.reply_size = UINT64_MAX;
	ERR(call_make(&c), EMSGSIZE);
	call_init_str(&c, &poor, from_poor, "x");
	c.cmd.reply_size = inl + 1;
	ERR(call_make(&c), EMSGSIZE);
	SAME_SNAPSHOT(&before);
	n = reserve_all(&w, ids, ARRAY_SIZE(ids));
	GE(n, 2);
	for (u32 i = 0; i < n; i++)
		GOT_CALL(&w.b, w.nb, "x");
	before = SNAPSHOT(&w.a, &w.b, &poor);
	call_init_str(&c, &w.a, w.to_b, "x");
	c.cmd.reply_size = inl + 1;
	ERR(call_make(&c), EAGAIN);
	SAME_SNAPSHOT(&before);
	/* What costs nothing may be asked for. */
	c.cmd.reply_size = inl;
	call_start(&c);
	OK(answer_str(&w.b, GOT_CALL(&w.b, w.nb, "x"), "y"));
	call_join(&c);
	REPLIED(&c, "y");
	/* Of each that is given up something else can be made. */
	OK(ids_cmd(&w.a, BUS1_CMD_CALL_CANCEL, 0, ids, n));
	EQ(peer_info(&w.a).pool_used, 0);
	while (n--) {
		struct in in;

		OK(recv_now(&w.b, &in));
		EQ(in.m.type, BUS1_MSG_CANCELLED);
		ERR(answer_str(&w.b, in.m.id, "late"), ECANCELED);
	}
	/* The largest there is. */
	call_init_str(&c, &w.a, w.to_b, "x");
	c.cmd.reply_size = most;
	call_start(&c);
	OK(answer_str(&w.b, GOT_CALL(&w.b, w.nb, "x"), "z"));
	call_join(&c);
	REPLIED(&c, "z");
	pair_close(&w);
	peer_close(&poor);
}

TEST("CALL-7 the place for what comes is large enough, or nothing is sent")
{
	struct pair w = pair_new();
	size_t inl = peer_info(&w.a).max_inline;
	struct snapshot before = SNAPSHOT(&w.a, &w.b);
	struct call c;

	for (u32 handles = 0; handles < 40; handles += 13) {
		u32 least = (u32)(inl + handles * sizeof(struct bus1_handle));

		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.reply_handles = handles;
		for (u32 size = 0; size < least; size += 8) {
			c.cmd.recv.buf_size = size;
			ERR(call_make(&c), EMSGSIZE);
		}
		SAME_SNAPSHOT(&before);
		c.cmd.recv.buf_size = least + 64;
		call_start(&c);
		OK(answer_str(&w.b, GOT_CALL(&w.b, w.nb, "x"), "y"));
		call_join(&c);
		REPLIED(&c, "y");
	}
	pair_close(&w);
}

TEST("CALL-7 what was set aside comes back, however the call ends")
{
	struct pair w = pair_new();
	u8 *data = calloc(1, POOL / 3);
	struct bus1_msg m;

	CHECK(data);
	/* Two of them would not go together. */
	for (unsigned int i = 0; i < test_rounds(120); i++) {
		struct bus1_cmd_call cmd = {
			.send = { .dest = w.to_b, .data = PTR("x"), .len = 1 },
			.reply_size = POOL / 3 };
		u64 token = 0, facet = facet_new(&w.b, w.nb, 5);
		struct in in;

		if (i % WAYS == 4)
			cmd.send.dest = grant(&w.b, facet, &w.a);
		OK(call_async_cmd(&w.a, &cmd));
		GE(peer_info(&w.a).pool_used, POOL / 3);
		if (i % WAYS >= 2 && i % WAYS != 4)
			token = GOT_CALL(&w.b, w.nb, "x");
		switch (i % WAYS) {
		case 0:
			OK(drop_now(&w.b, &m));
			GOT_END(&w.a, cmd.id, 0, ECONNABORTED);
			break;
		case 1:
			OK(call_cancel(&w.a, cmd.id));
			break;
		case 2:
			OK(call_cancel(&w.a, cmd.id));
			GOT_CANCELLED(&w.b, token);
			ERR(answer(&w.b, token, data, POOL / 3), ECANCELED);
			break;
		case 3:
			OK(answer_drop(&w.b, token));
			GOT_END(&w.a, cmd.id, 0, ECONNABORTED);
			break;
		case 4:
			OK(destroy(&w.b, facet));
			GOT_NOTICES(&w.a, { BUS1_MSG_REPLY, cmd.id },
				    { BUS1_MSG_NODE_DEAD, cmd.send.dest });
			OK(release(&w.a, cmd.send.dest));
			facet = facet_new(&w.b, w.nb, 5);
			break;
		default:
			/* A small one takes what it needs of it. */
			OK(answer(&w.b, token, data, 5000));
			OK(recv_now(&w.a, &in));
			EQ(in.m.len, 5000);
			LT(peer_info(&w.a).pool_used, 8192);
			OK(slice_release(&w.a, in.m.slice));
		}
		OK(destroy(&w.b, facet));
		pair_idle(&w);
	}
	pair_close(&w);
}

TEST("CALL-7 what was set aside comes back as the caller leaves, whatever the server does")
{
	struct pair w = pair_new();
	struct call c;
	u64 token[4], id;

	catch_signal(SIGUSR1, 0);
	call_init_str(&c, &w.a, w.to_b, "x");
	c.cmd.reply_size = LARGE;
	call_start(&c);
	token[0] = GOT_CALL(&w.b, w.nb, "x");
	pthread_kill(c.thread.thread, SIGUSR1);
	ERR(call_join(&c), EINTR);
	EQ(peer_info(&w.a).pool_used, 0);
	GOT_CANCELLED(&w.b, token[0]);
	c.cmd.recv.deadline = test_now() + 300000000ULL * test_slow();
	call_start(&c);
	token[1] = GOT_CALL(&w.b, w.nb, "x");
	ERR(call_join(&c), ETIMEDOUT);
	EQ(peer_info(&w.a).pool_used, 0);
	GOT_CANCELLED(&w.b, token[1]);
	for (int i = 2; i < 4; i++) {
		struct bus1_cmd_call cmd = {
			.send = { .dest = w.to_b, .data = PTR("x"), .len = 1 },
			.reply_size = LARGE };

		OK(call_async_cmd(&w.a, &cmd));
		id = cmd.id;
		token[i] = GOT_CALL(&w.b, w.nb, "x");
		OK(call_cancel(&w.a, id));
		EQ(peer_info(&w.a).pool_used, 0);
		EQ(peer_info(&w.a).n_slices, 0);
		GOT_CANCELLED(&w.b, token[i]);
	}
	for (int i = 0; i < 4; i++)
		ERR(answer_str(&w.b, token[i], "late"), ECANCELED);
	pair_close(&w);
}

TEST("CALL-7 as many as were promised arrive, all at full length")
{
	struct pair w = pair_new();
	u64 tokens[64], ids[64];
	u8 *data = malloc(POOL / 24);
	u32 n = 0;
	int r;

	CHECK(data);
	for (;;) {
		struct bus1_cmd_call cmd = {
			.send = { .dest = w.to_b, .data = PTR("x"), .len = 1 },
			.reply_size = POOL / 24, .cookie = n };

		r = call_async_cmd(&w.a, &cmd);
		if (r)
			break;
		LT(n, 64);
		ids[n] = cmd.id;
		tokens[n++] = GOT_CALL(&w.b, w.nb, "x");
	}
	ERR(r, EAGAIN);
	/* All of it, or the share that one has of it. */
	GE(n, 24 * 3 / 8);
	for (u32 i = n; i--;) {
		fill(data, POOL / 24, i);
		OK(answer(&w.b, tokens[i], data, POOL / 24));
	}
	for (u32 i = n; i--;) {
		struct in in;

		OK(recv_now(&w.a, &in));
		EQ(in.m.cookie, i);
		EQ(in.m.id, ids[i]);
		fill(data, POOL / 24, i);
		MEM(in.data, data, POOL / 24);
		OK(slice_release(&w.a, in.m.slice));
	}
	pair_close(&w);
}

TEST("CALL-7 a reply shows nothing of what was in its place before")
{
	struct pair w = pair_new();
	u64 na = node_new(&w.a, 1);
	u8 *old = malloc(LARGE), *edge = edge_alloc(8192), page[4096], small[255];
	struct call c;
	struct in in;
	u64 token;

	CHECK(old);
	memset(old, 's', LARGE);
	OK(send_data(&w.a, na, old, LARGE));
	OK(recv_now(&w.a, &in));
	OK(slice_release(&w.a, in.m.slice));
	call_init_str(&c, &w.a, w.to_b, "x");
	c.cmd.reply_size = LARGE;
	call_start(&c);
	token = GOT_CALL(&w.b, w.nb, "x");
	/* Half of it fails, then a small one is made. */
	memset(edge, 't', 8192);
	ERR(answer(&w.b, token, edge, 20000), EFAULT);
	memset(small, 'u', sizeof(small));
	OK(answer(&w.b, token, small, sizeof(small)));
	OK(call_join(&c));
	EQ(c.in.m.len, 255);
	/* What is shown of the rest is what the caller has seen already, or zero. */
	for (size_t at = 0; at < POOL; at += sizeof(page)) {
		if (!page_readable(w.a.pool + at, page))
			continue;
		for (size_t i = 0; i < sizeof(page); i++)
			NE(page[i], 't');
	}
	OK(slice_release(&w.a, c.in.m.slice));
	pair_close(&w);
}

TEST("CALL-7 a reply that its caller could not be told of stays, unless its slice was given back")
{
	for (int gives = 0; gives < 2; gives++) {
		struct pair w = pair_new();
		u64 na = node_new(&w.a, 1), token, slice;
		struct tar t = tar_new();
		u8 *data = malloc(LARGE);
		struct call c;
		struct in in;

		CHECK(data);
		fill(data, LARGE, 1);
		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.reply_size = LARGE;
		/* The caller stalls when it has been told of the slice. */
		c.cmd.recv.msgs = PTR(tar_edge(&t, offsetof(struct bus1_msg, handles)));
		call_start(&c);
		token = GOT_CALL(&w.b, w.nb, "x");
		OK(answer(&w.b, token, data, LARGE));
		tar_wait(&t);
		memcpy(&slice, tar_edge(&t, offsetof(struct bus1_msg, handles)) +
		       offsetof(struct bus1_msg, slice), sizeof(slice));
		if (gives) {
			OK(slice_release(&w.a, slice));
			/* What is in its place now is not the reply. */
			OK(send_data(&w.a, na, data, LARGE / 2));
		}
		tar_break(&t);
		ERR(call_join(&c), EFAULT);
		OK(recv_now(&w.a, &in));
		EQ(in.m.type, gives ? BUS1_MSG_DATA : BUS1_MSG_REPLY);
		EQ(in.m.len, gives ? LARGE / 2 : LARGE);
		MEM(in.data, data, in.m.len);
		OK(slice_release(&w.a, in.m.slice));
		NOTHING(&w.a);
		pair_idle(&w);
		pair_close(&w);
		free(data);
	}
}

TEST("CALL-7 a server that may send nothing more to its caller can reply all the same")
{
	struct pair w = pair_new();
	u64 na = node_new(&w.a, 1), to_a = grant(&w.a, na, &w.b), token, given[10];
	struct bus1_pass pass[10] = {};
	struct bus1_cmd_reply cmd;
	u8 *data = calloc(1, LARGE);
	struct call c;

	CHECK(data);
	for (int i = 0; i < 10; i++)
		given[i] = pass[i].id = node_new(&w.b, 2);
	call_init_str(&c, &w.a, w.to_b, "x");
	c.cmd.reply_size = LARGE;
	c.cmd.reply_handles = 10;
	call_start(&c);
	token = GOT_CALL(&w.b, w.nb, "x");
	fill_queue(&w.b, to_a);
	ERR(send_str(&w.b, to_a, ""), EAGAIN);
	cmd = (struct bus1_cmd_reply){ .send = {
		.dest = token, .data = PTR(data), .len = LARGE, .handles = PTR(pass),
		.n_handles = 10 } };
	OK(reply_cmd(&w.b, &cmd));
	OK(call_join(&c));
	EQ(c.in.m.len, LARGE);
	EQ(c.in.m.n_handles, 10);
	OK(slice_release(&w.a, c.in.m.slice));
	for (int i = 0; i < 10; i++) {
		OK(release(&w.a, c.in.h[i].id));
		GOT_UNUSED(&w.b, given[i], 1);
	}
	drain(&w.a);
	pair_close(&w);
}
