// SPDX-License-Identifier: GPL-2.0-or-later
/* MSG-1, MSG-3: one message to one node: payload and handles, all or nothing. */
#include "message.h"

#include <stdlib.h>
#include <string.h>

TEST("MSG-1 payloads of every kind of size arrive as they were sent")
{
	struct pair t = pair_of(0, 4 << 20);
	size_t inl = peer_info(&t.b).max_inline, page = page_size();
	size_t sizes[] = {
		0, 1, 7, 8, 9, 63, 64, 65, inl - 1, inl, inl + 1, inl + 8, page - 1, page,
		page + 1, 2 * page, 3 * page + 17, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1,
	};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		size_t n = sizes[i];
		/* Nothing beyond it is read: there is no memory. */
		u8 *data = edge_alloc(n);
		struct in in;

		fill(data, n, i);
		OK(send_data(&t.a, t.to_b, data, n));
		OK(recv_now(&t.b, &in));
		EQ(in.m.type, BUS1_MSG_DATA);
		EQ(in.m.flags, 0);
		EQ(in.m.id, t.nb);
		EQ(in.m.cookie, 0xb0b);
		EQ(in.m.len, n);
		EQ(in.m.n_handles, 0);
		MEM(in.data, data, n);
		if (n <= inl) {
			EQ(in.m.slice, 0);
			EQ(peer_info(&t.b).n_slices, 0);
		} else {
			NE(in.m.slice, 0);
			OK(slice_release(&t.b, in.m.slice));
		}
		EQ(peer_info(&t.b).pool_used, 0);
	}
	NOTHING(&t.b);
}

TEST("MSG-1 messages keep their boundaries and their handles")
{
	struct pair t = pair_of(0, 1 << 20);
	size_t inl = peer_info(&t.b).max_inline;
	struct { size_t len; u32 n_handles; } kinds[] = {
		{ 0, 0 }, { 1, 1 }, { 0, 3 }, { inl, 2 }, { inl + 1, 1 }, { 3, 0 },
		{ 5000, 17 }, { inl, BUS1_MAX_HANDLES }, { 20000, 0 }, { 8, 8 }, { 0, 1 },
	};
	u64 nodes[BUS1_MAX_HANDLES], known[BUS1_MAX_HANDLES];
	u8 data[20000];
	struct in in;

	for (int i = 0; i < BUS1_MAX_HANDLES; i++) {
		nodes[i] = node_new(&t.a, (u64)i);
		known[i] = grant(&t.a, nodes[i], &t.b);
	}
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct bus1_pass pass[BUS1_MAX_HANDLES] = {};
		struct bus1_cmd_send cmd = {
			.dest = t.to_b,
			.data = kinds[i].len ? PTR(data) : 0,
			.len = kinds[i].len,
			.handles = kinds[i].n_handles ? PTR(pass) : 0,
			.n_handles = kinds[i].n_handles,
		};

		fill(data, kinds[i].len, i);
		for (u32 j = 0; j < kinds[i].n_handles; j++)
			pass[j].id = nodes[(j + i) % BUS1_MAX_HANDLES];
		OK(send_cmd(&t.a, &cmd));
	}
	EQ(peer_info(&t.b).n_queued, ARRAY_SIZE(kinds));
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		OK(recv_now(&t.b, &in));
		EQ(in.m.len, kinds[i].len);
		EQ(in.m.n_handles, kinds[i].n_handles);
		fill(data, kinds[i].len, i);
		MEM(in.data, data, kinds[i].len);
		for (u32 j = 0; j < kinds[i].n_handles; j++)
			EQ(in.h[j].id, known[(j + i) % BUS1_MAX_HANDLES]);
		if (in.m.slice)
			OK(slice_release(&t.b, in.m.slice));
	}
	NOTHING(&t.b);
}

TEST("MSG-1 a payload of many parts is their concatenation")
{
	struct pair t = pair_of(0, 4 << 20);
	static u8 data[300000];
	static struct bus1_iovec iov[BUS1_MAX_IOVS];
	struct in in;

	srandom(1);
	for (unsigned int round = 0; round < 40; round++) {
		u32 n_iovs = round < 3 ? BUS1_MAX_IOVS : 1 + (u32)random() % 20;
		size_t total = 0, most = round % 2 ? 32 : 13000;

		fill(data, sizeof(data), round);
		for (u32 i = 0; i < n_iovs; i++) {
			size_t len = (size_t)random() % most;

			if (random() % 4 == 0 || total + len > sizeof(data))
				len = 0;
			iov[i] = (struct bus1_iovec){ len ? PTR(data + total) : 0, len };
			total += len;
		}
		OK(send_cmd(&t.a, &(struct bus1_cmd_send){
			.dest = t.to_b, .iovs = PTR(iov), .n_iovs = n_iovs }));
		OK(recv_now(&t.b, &in));
		EQ(in.m.len, total);
		MEM(in.data, data, total);
		if (in.m.slice)
			OK(slice_release(&t.b, in.m.slice));
	}
	/* The parts, and the array of them, may lie anywhere and overlap. */
	memset(data, 'x', 100);
	iov[0] = (struct bus1_iovec){ PTR(data), 100 };
	iov[1] = (struct bus1_iovec){ PTR(data + 50), 50 };
	iov[2] = (struct bus1_iovec){ PTR(iov), sizeof(iov[0]) * 3 };
	iov[3] = (struct bus1_iovec){ PTR(data), 1 };
	OK(send_cmd(&t.a, &(struct bus1_cmd_send){
		.dest = t.to_b, .iovs = PTR(iov), .n_iovs = 4 }));
	OK(recv_now(&t.b, &in));
	EQ(in.m.len, 100 + 50 + 48 + 1);
	MEM(in.data, data, 100);
	MEM(in.data + 150, iov, 48);
	/* All of them empty. */
	memset(iov, 0, sizeof(iov));
	if (in.m.slice)
		OK(slice_release(&t.b, in.m.slice));
	OK(send_cmd(&t.a, &(struct bus1_cmd_send){
		.dest = t.to_b, .iovs = PTR(iov), .n_iovs = BUS1_MAX_IOVS }));
	GOT_TEXT(&t.b, t.nb, "");
}

TEST_TIMEOUT("MSG-1 the largest payload fits, and no larger one is taken", 120)
{
	enum { PART = 65536 };
	struct pair t = pair_of(0, pool_for(BUS1_MAX_PAYLOAD));
	static u8 part[PART + 1];
	static struct bus1_iovec iov[BUS1_MAX_IOVS];
	struct bus1_cmd_send cmd = {
		.dest = t.to_b, .iovs = PTR(iov), .n_iovs = BUS1_MAX_IOVS,
	};
	struct in in;

	_Static_assert((u64)PART * BUS1_MAX_IOVS == BUS1_MAX_PAYLOAD, "the parts make it up");
	fill(part, sizeof(part), 3);
	for (int i = 0; i < BUS1_MAX_IOVS; i++)
		iov[i] = (struct bus1_iovec){ PTR(part), PART };
	iov[BUS1_MAX_IOVS - 1].len++;
	FAILS(&t, &cmd, EMSGSIZE);
	iov[BUS1_MAX_IOVS - 1].len--;

	OK(send_cmd(&t.a, &cmd));
	/* One peer may have no more. */
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = t.to_b, .data = PTR(part), .len = PART }),
	      EAGAIN);
	OK(recv_now(&t.b, &in));
	EQ(in.m.len, BUS1_MAX_PAYLOAD);
	for (int i = 0; i < BUS1_MAX_IOVS; i++)
		CHECK(!memcmp(in.data + (size_t)i * PART, part, PART));
	OK(slice_release(&t.b, in.m.slice));
	OK(send_data(&t.a, t.to_b, part, PART));
	OK(recv_now(&t.b, &in));
}

TEST("MSG-1 a peer may send to its own nodes")
{
	struct peer a = peer_new(1 << 16);
	u64 n = node_new(&a, 5), m = node_new(&a, 6);
	u8 data[3000];
	struct in in;

	fill(data, sizeof(data), 1);
	OK(send_str(&a, n, "self"));
	OK(send_data(&a, m, data, sizeof(data)));
	GOT_TEXT(&a, n, "self");
	OK(recv_now(&a, &in));
	EQ(in.m.id, m);
	EQ(in.m.cookie, 6);
	MEM(in.data, data, sizeof(data));
	OK(slice_release(&a, in.m.slice));
	/* It is no user of its node, whatever it sends to itself. */
	NOTHING(&a);
}

TEST("MSG-3 what is small travels inline, to a peer that has no pool")
{
	struct pair t = pair_of(0, 0);
	size_t inl = peer_info(&t.b).max_inline;
	u8 data[8192];
	struct in in;

	GE(inl, 64);
	LE(inl, 4096);
	fill(data, sizeof(data), 9);
	for (size_t n = 0; n <= inl; n += n + 9 < inl ? 9 : 1) {
		OK(send_data(&t.a, t.to_b, data, n));
		OK(recv_now(&t.b, &in));
		EQ(in.m.slice, 0);
		EQ(in.m.len, n);
		MEM(in.data, data, n);
	}
	/* What is larger never fits it: that is no reason to try again later. */
	for (size_t n = inl + 1; n < sizeof(data); n += n)
		FAILS(&t, (&(struct bus1_cmd_send){
			.dest = t.to_b, .data = PTR(data), .len = n }), EMSGSIZE);
	/* Once it has one, it does. */
	t.b.pool = pool_map(t.b.fd, t.b.pool_size = 1 << 16);
	OK(send_data(&t.a, t.to_b, data, inl + 1));
	OK(recv_now(&t.b, &in));
	NE(in.m.slice, 0);
	MEM(in.data, data, inl + 1);
}

TEST("MSG-1 a message that no pool of the receiver holds is refused at once")
{
	/* Not queued, where it would block what comes after it forever. */
	struct pair t = pair_of(0, 8 * page_size());
	size_t most = 3 * page_size();
	static u8 data[1 << 16];

	EQ(pool_for(most), 8 * page_size());
	for (size_t n = most + 1; n <= sizeof(data); n += 7919)
		FAILS(&t, (&(struct bus1_cmd_send){
			.dest = t.to_b, .data = PTR(data), .len = n }), EMSGSIZE);
	/* While some of the pool is in use, too. */
	OK(send_data(&t.a, t.to_b, data, page_size()));
	FAILS(&t, (&(struct bus1_cmd_send){
		.dest = t.to_b, .data = PTR(data), .len = most + 1 }), EMSGSIZE);
	FAILS(&t, (&(struct bus1_cmd_send){
		.dest = t.to_b, .data = PTR(data), .len = most }), EAGAIN);
	OK(send_str(&t.a, t.to_b, "small"));
	{
		struct in in;

		OK(recv_now(&t.b, &in));
		OK(slice_release(&t.b, in.m.slice));
	}
	GOT_TEXT(&t.b, t.nb, "small");
	/* As much as one peer may have: that fits, when nobody has any. */
	OK(send_data(&t.a, t.to_b, data, most));
}

TEST_LONG("MSG-1 a full queue says EAGAIN, and takes more when something left it", 60)
{
	struct pair t = pair_of(0, 0);
	struct bus1_msg msg;
	u32 sent;

	OK(send_str(&t.a, t.to_b, "first"));
	OK(send_str(&t.a, t.to_b, "second"));
	sent = fill_queue(&t.a, t.to_b);
	GT(sent, 15);
	EQ(peer_info(&t.b).n_queued, sent + 2);
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = t.to_b }), EAGAIN);
	GOT_TEXT(&t.b, t.nb, "first");
	OK(send_str(&t.a, t.to_b, "last but one"));
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = t.to_b }), EAGAIN);
	OK(drop_now(&t.b, &msg));
	OK(send_str(&t.a, t.to_b, "last"));
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = t.to_b }), EAGAIN);
	EQ(drain(&t.b), sent + 2);
	OK(send_str(&t.a, t.to_b, "room"));
	GOT_TEXT(&t.b, t.nb, "room");
	/* It goes with the node, too. */
	EQ(fill_queue(&t.a, t.to_b), sent + 2);
	OK(destroy(&t.b, t.nb));
	t.nb = node_new(&t.b, 1);
	t.to_b = grant(&t.b, t.nb, &t.a);
	OK(send_str(&t.a, t.to_b, "another"));
	GOT_TEXT(&t.b, t.nb, "another");
}
