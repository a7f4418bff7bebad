// SPDX-License-Identifier: GPL-2.0-or-later
/* MSG-10, MSG-11: receiving: what fits, what does not, and what is never lost. */
#include "raw.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

/* A peer that sends to itself: `n` is a node of its own. */
struct self {
	struct peer p;
	u64 n;
};

static struct self self_new(size_t pool_size)
{
	struct self s = { .p = peer_new(pool_size) };

	s.n = node_new(&s.p, 0xc00);
	return s;
}

/* A receive of n messages into msgs and buf, that does not wait. */
static struct bus1_cmd_recv into(struct bus1_msg *msgs, u32 n, void *buf, u32 buf_size)
{
	return (struct bus1_cmd_recv){
		.flags = BUS1_RECV_NONBLOCK,
		.msgs = PTR(msgs),
		.n_msgs = n,
		.msg_size = sizeof(*msgs),
		.buf = PTR(buf),
		.buf_size = buf_size,
	};
}

TEST("MSG-11 several messages come in one call, in order")
{
	struct self s = self_new(1 << 20);
	size_t inl = peer_info(&s.p).max_inline;
	struct bus1_msg m[8];
	u64 buf[1024];
	struct bus1_cmd_recv cmd;
	u8 data[20000];
	size_t sizes[] = { 3, 0, inl, inl + 1, 20000, 8, 9 };
	u64 slices[2];
	u32 n_slices = 0;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		fill(data, sizes[i], i);
		OK(send_data(&s.p, s.n, data, sizes[i]));
	}
	memset(m, 0xee, sizeof(m));
	cmd = into(m, 3, buf, sizeof(buf));
	OK(recv_cmd(&s.p, &cmd));
	EQ(cmd.n_msgs, 3);
	EQ(peer_info(&s.p).n_queued, 4);
	EQ(m[3].type, 0xeeeeeeee);
	for (int i = 0; i < 3; i++) {
		EQ(m[i].type, BUS1_MSG_DATA);
		EQ(m[i].len, sizes[i]);
		EQ(m[i].slice, 0);
		LE(m[i].offset + m[i].len, cmd.buf_used);
		fill(data, sizes[i], (u64)i);
		MEM((u8 *)buf + m[i].offset, data, sizes[i]);
	}
	/* More than there are: as many as there are. */
	cmd = into(m, 8, buf, sizeof(buf));
	OK(recv_cmd(&s.p, &cmd));
	EQ(cmd.n_msgs, 4);
	for (u64 i = 3; i < 7; i++) {
		const struct bus1_msg *msg = &m[i - 3];

		EQ(msg->len, sizes[i]);
		fill(data, sizes[i], i);
		if (msg->slice) {
			MEM(s.p.pool + msg->offset, data, sizes[i]);
			slices[n_slices++] = msg->slice;
		} else {
			MEM((u8 *)buf + msg->offset, data, sizes[i]);
		}
	}
	EQ(n_slices, 2);
	NE(slices[0], slices[1]);
	OK(ids_cmd(&s.p, BUS1_CMD_SLICE_RELEASE, 0, slices, 2));
	EQ(peer_info(&s.p).pool_used, 0);
	NOTHING(&s.p);
}

TEST("MSG-11 as many messages as one call takes")
{
	struct self s = self_new(0);
	static struct bus1_msg m[BUS1_MAX_MSGS + 1];
	static u64 buf[8192];
	struct bus1_cmd_recv cmd;
	u32 sent = 0;

	while (sent < BUS1_MAX_MSGS + 2 && !send_data(&s.p, s.n, &sent, sizeof(sent)))
		sent++;
	GE(sent, 16);
	cmd = into(m, BUS1_MAX_MSGS + 1, buf, sizeof(buf));
	ERR(recv_cmd(&s.p, &cmd), EMSGSIZE);
	cmd = into((void *)8, 0xffffffff, buf, sizeof(buf));
	ERR(recv_cmd(&s.p, &cmd), EMSGSIZE);
	EQ(peer_info(&s.p).n_queued, sent);
	cmd = into(m, BUS1_MAX_MSGS, buf, sizeof(buf));
	OK(recv_cmd(&s.p, &cmd));
	EQ(cmd.n_msgs, sent < BUS1_MAX_MSGS ? sent : BUS1_MAX_MSGS);
	for (u32 i = 0; i < cmd.n_msgs; i++) {
		EQ(m[i].len, sizeof(i));
		MEM((u8 *)buf + m[i].offset, &i, sizeof(i));
	}
	for (u32 i = cmd.n_msgs; i < sent; i++)
		OK(recv_now(&s.p, &(struct in){}));
	NOTHING(&s.p);
}

TEST("ABI-1 msgs[] has the stride that the caller says")
{
	struct self s = self_new(0);
	static const u32 strides[] = {
		BUS1_MSG_VER0, 72, sizeof(struct bus1_msg), 96, 128, 200, 256 };

	for (size_t k = 0; k < ARRAY_SIZE(strides); k++) {
		u32 size = strides[k];
		/* The last entry ends where the memory does. */
		u8 *msgs = edge_alloc(4 * size);
		u64 buf[64];
		struct bus1_cmd_recv cmd = into((void *)msgs, 4, buf, sizeof(buf));

		memset(msgs, 0xee, 4 * size);
		for (u64 i = 0; i < 4; i++)
			OK(send_data(&s.p, s.n, &i, sizeof(i)));
		cmd.msg_size = size;
		OK(recv_cmd(&s.p, &cmd));
		EQ(cmd.n_msgs, 4);
		for (u64 i = 0; i < 4; i++) {
			struct bus1_msg m = {};

			memcpy(&m, msgs + i * size, size < sizeof(m) ? size : sizeof(m));
			EQ(m.type, BUS1_MSG_DATA);
			EQ(m.id, s.n);
			EQ(m.cookie, 0xc00);
			EQ(m.len, sizeof(i));
			MEM((u8 *)buf + m.offset, &i, sizeof(i));
			/* What the kernel does not know of is zero. */
			for (u32 j = sizeof(m); j < size; j++)
				EQ(msgs[i * size + j], 0);
		}
	}
	NOTHING(&s.p);
}

TEST("MSG-10 what does not fit is told, and stays")
{
	struct self s = self_new(0);
	struct peer other = peer_new(0);
	size_t inl = peer_info(&s.p).max_inline;
	u64 ids[20];
	u8 data[4096];
	struct bus1_msg m;
	struct bus1_cmd_recv cmd;
	u32 need;
	u8 *buf;

	/* Nodes that have a user all the while. */
	for (int i = 0; i < 20; i++) {
		ids[i] = node_new(&s.p, (u64)i);
		grant(&s.p, ids[i], &other);
	}
	fill(data, inl, 1);
	{
		struct bus1_pass pass[20] = {};

		for (int i = 0; i < 20; i++)
			pass[i].id = ids[i];
		OK(send_cmd(&s.p, &(struct bus1_cmd_send){
			.dest = s.n, .data = PTR(data), .len = inl,
			.handles = PTR(pass), .n_handles = 20 }));
	}
	OK(send_str(&s.p, s.n, "next"));

	memset(&m, 0xee, sizeof(m));
	cmd = into(&m, 1, NULL, 0);
	ERR(recv_cmd(&s.p, &cmd), EMSGSIZE);
	need = cmd.buf_used;
	GE(need, inl + 20 * sizeof(struct bus1_handle));
	LE(need, inl + 20 * sizeof(struct bus1_handle) + 16);
	EQ(cmd.buf_size, 0);
	EQ(peer_info(&s.p).n_queued, 2);

	/* Too small by one, or by much: nothing is written beyond it, or lost. */
	for (u32 size = 8; size < need; size += size + 64 < need ? 61 : 1) {
		buf = edge_alloc(size & ~7u);
		cmd = into(&m, 1, buf, size & ~7u);
		ERR(recv_cmd(&s.p, &cmd), EMSGSIZE);
		EQ(cmd.buf_used, need);
		EQ(peer_info(&s.p).n_queued, 2);
	}
	buf = edge_alloc((need + 7) & ~7u);
	cmd = into(&m, 1, buf, need - 1);
	ERR(recv_cmd(&s.p, &cmd), EMSGSIZE);
	EQ(cmd.buf_used, need);

	/* What it said is what it needs; there is no byte more. */
	cmd = into(&m, 1, buf, need);
	OK(recv_cmd(&s.p, &cmd));
	EQ(cmd.n_msgs, 1);
	EQ(cmd.buf_used, 0);
	EQ(m.len, inl);
	EQ(m.n_handles, 20);
	LE(m.offset + m.len, need);
	LE(m.handles + m.n_handles * sizeof(struct bus1_handle), need);
	CHECK(m.offset + m.len <= m.handles ||
	      m.handles + m.n_handles * sizeof(struct bus1_handle) <= m.offset);
	MEM(buf + m.offset, data, inl);
	for (int i = 0; i < 20; i++) {
		struct bus1_handle h;

		memcpy(&h, buf + m.handles + (size_t)i * sizeof(h), sizeof(h));
		EQ(h.id, ids[i]);
	}
	GOT_TEXT(&s.p, s.n, "next");
	NOTHING(&s.p);
}

TEST("MSG-10 a call takes as many messages as fit, and leaves the others")
{
	struct self s = self_new(0);
	struct bus1_msg m[3];
	u64 buf[3];
	struct bus1_cmd_recv cmd = into(m, 3, buf, sizeof(buf));

	/* 8 bytes each, of 24; the second is too long for what is left. */
	OK(send_str(&s.p, s.n, "12345678"));
	OK(send_str(&s.p, s.n, "twenty-four bytes in all"));
	OK(send_str(&s.p, s.n, "last"));
	OK(recv_cmd(&s.p, &cmd));
	EQ(cmd.n_msgs, 1);
	EQ(m[0].len, 8);
	LE(cmd.buf_used, sizeof(buf));
	EQ(peer_info(&s.p).n_queued, 2);
	cmd = into(m, 3, buf, sizeof(buf));
	OK(recv_cmd(&s.p, &cmd));
	EQ(cmd.n_msgs, 1);
	EQ(m[0].len, 24);
	MEM((u8 *)buf + m[0].offset, "twenty-four bytes in all", 24);
	GOT_TEXT(&s.p, s.n, "last");
}

TEST("MSG-10 what needs no buffer comes without one")
{
	struct self s = self_new(1 << 16);
	struct peer b = peer_new(0);
	u64 h = grant(&b, node_new(&b, 1), &s.p);
	u8 data[5000];
	struct bus1_msg m[4];
	struct bus1_cmd_recv cmd = into(m, 4, NULL, 0);

	fill(data, sizeof(data), 1);
	OK(send_data(&s.p, s.n, NULL, 0));
	OK(send_data(&s.p, s.n, data, sizeof(data)));
	peer_close(&b);
	OK(recv_cmd(&s.p, &cmd));
	EQ(cmd.n_msgs, 3);
	EQ(cmd.buf_used, 0);
	EQ(m[0].len, 0);
	NE(m[1].slice, 0);
	MEM(s.p.pool + m[1].offset, data, sizeof(data));
	EQ(m[2].type, BUS1_MSG_NODE_DEAD);
	EQ(m[2].id, h);
}

TEST("MSG-10 BUS1_RECV_DROP takes the first message off, with all it had")
{
	struct peer a = peer_new(1 << 16), b = peer_new(0);
	u64 n = node_new(&a, 0xcafe), to_a = grant(&a, n, &b), nb = node_new(&b, 2), h;
	u64 dies = grant(&b, node_new(&b, 3), &a);
	struct bus1_pass pass = { .id = nb };
	u8 data[5000] = {};
	struct bus1_msg m;

	OK(send_cmd(&b, &(struct bus1_cmd_send){
		.dest = to_a, .data = PTR(data), .len = sizeof(data),
		.handles = PTR(&pass), .n_handles = 1 }));
	OK(send_str(&b, to_a, "small"));
	memset(&m, 0xee, sizeof(m));
	OK(drop_now(&a, &m));
	EQ(m.type, BUS1_MSG_DATA);
	EQ(m.flags, BUS1_MSG_F_DROPPED);
	EQ(m.id, n);
	EQ(m.cookie, 0xcafe);
	EQ(m.len, sizeof(data));
	EQ(m.slice, 0);		/* it is not there to be given back */
	EQ(peer_info(&a).n_slices, 0);
	EQ(peer_info(&a).pool_used, 0);
	EQ(peer_info(&a).n_handles, 1);
	GOT_UNUSED(&b, nb, 1);

	/* The next is next; notices go as messages do. */
	OK(drop_now(&a, &m));
	EQ(m.len, 5);
	ERR(drop_now(&a, &m), EAGAIN);
	OK(release(&b, to_a));
	GOT_UNUSED(&a, n, 1);
	peer_close(&b);
	OK(drop_now(&a, &m));
	EQ(m.type, BUS1_MSG_NODE_DEAD);
	EQ(m.flags, BUS1_MSG_F_DROPPED);
	EQ(m.id, dies);
	NOTHING(&a);
	/* The handle of a notice stays; it is not the notice's. */
	OK(release(&a, dies));
	b = peer_new(0);
	h = grant(&a, n, &b);
	OK(release(&b, h));
	OK(drop_now(&a, &m));
	EQ(m.type, BUS1_MSG_NODE_UNUSED);
	EQ(m.id, n);
	EQ(m.seq, 2);
	NOTHING(&a);
}

/*
 * Each place that a receive writes to, made unwritable in turn: the messages
 * stay, in order, with slices and handles and counts.
 */
TEST("MSG-10 a receive that faults loses nothing")
{
	struct peer a = peer_new(1 << 16), b = peer_new(0);
	u64 n = node_new(&a, 1), to_a = grant(&a, n, &b), nb = node_new(&b, 2);
	struct bus1_msg *half_msgs = edge_alloc(sizeof(struct bus1_msg) - 8), m[3];
	u8 *half_buf = edge_alloc(16), page[256] = {};
	u64 buf[64];
	struct bus1_cmd_recv cmd, good = into(m, 1, buf, sizeof(buf));
	struct bus1_pass pass = { .id = nb };
	struct bus1_cmd_info before;
	struct in in;

	OK(send_cmd(&b, &(struct bus1_cmd_send){
		.dest = to_a, .data = PTR("inline payload, 24 bytes"), .len = 24,
		.handles = PTR(&pass), .n_handles = 1 }));
	OK(send_data(&b, to_a, page, sizeof(page)));
	OK(send_str(&b, to_a, "last"));
	before = peer_info(&a);

	for (int round = 0; round < 3; round++) {
		u64 bad[] = { 8, PTR(read_only(page, sizeof(page))), 0xffff800000000000,
			      0x800000000000, 0xfffffffffffffff8 };

		for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
			cmd = good;
			cmd.msgs = bad[i];
			ERR(recv_cmd(&a, &cmd), EFAULT);
			SAME_INFO(&a, &before);
			cmd = good;
			cmd.buf = bad[i];
			ERR(recv_cmd(&a, &cmd), EFAULT);
			SAME_INFO(&a, &before);
		}
		cmd = good;
		cmd.msgs = PTR(half_msgs);
		ERR(recv_cmd(&a, &cmd), EFAULT);
		SAME_INFO(&a, &before);
		cmd = good;
		cmd.buf = PTR(half_buf);
		ERR(recv_cmd(&a, &cmd), EFAULT);
		SAME_INFO(&a, &before);
		cmd = good;
		cmd.msgs = 0;
		ERR(recv_cmd(&a, &cmd), EFAULT);
		cmd = good;
		cmd.buf = 0;
		ERR(recv_cmd(&a, &cmd), EFAULT);
		cmd = good;
		cmd.n_msgs = 3;
		ERR(recv_cmd(&a, read_only(&cmd, sizeof(cmd))), EFAULT);
		/* A drop, too, takes nothing off that it can not tell of. */
		cmd = (struct bus1_cmd_recv){
			.flags = BUS1_RECV_NONBLOCK | BUS1_RECV_DROP, .msgs = PTR(half_msgs),
			.n_msgs = 1, .msg_size = sizeof(m[0]) };
		ERR(recv_cmd(&a, &cmd), EFAULT);
		SAME_INFO(&a, &before);
		NOTHING(&b);		/* the queue still holds its node */
	}

	OK(recv_now(&a, &in));
	EQ(in.m.len, 24);
	MEM(in.data, "inline payload, 24 bytes", 24);
	EQ(in.m.n_handles, 1);
	OK(release(&a, in.h[0].id));
	ERR(release(&a, in.h[0].id), ENXIO);	/* one count, not one a try */
	GOT_UNUSED(&b, nb, 1);
	OK(recv_now(&a, &in));
	MEM(in.data, page, sizeof(page));
	if (in.m.slice)
		OK(slice_release(&a, in.m.slice));
	GOT_TEXT(&a, n, "last");
	NOTHING(&a);
}

TEST("MSG-10 a fault at a later message loses none, either")
{
	struct self s = self_new(1 << 16);

	for (int where = 0; where < 2; where++) {
		u64 next = 0;

		for (u64 i = 0; i < 5; i++)
			OK(send_data(&s.p, s.n, &i, sizeof(i)));
		/* Room for two in what is mapped; the command says five. */
		while (next < 5) {
			struct bus1_msg *msgs = edge_alloc(2 * sizeof(*msgs)), all[5];
			u64 *buf = edge_alloc(2 * sizeof(*buf)), big[5];
			struct bus1_cmd_recv cmd;
			int r;

			cmd = into(where ? all : msgs, 5, where ? buf : big, sizeof(big));
			r = recv_cmd(&s.p, &cmd);
			if (r) {
				ERR(r, EFAULT);
				EQ(peer_info(&s.p).n_queued, 5 - next);
				/* One that fits makes progress. */
				cmd = into(all, 1, big, sizeof(big));
				OK(recv_cmd(&s.p, &cmd));
				EQ(cmd.n_msgs, 1);
				MEM((u8 *)big + all[0].offset, &next, sizeof(next));
				next++;
			} else {
				GE(cmd.n_msgs, 1);
				LE(cmd.n_msgs, 5 - next);
				for (u32 i = 0; i < cmd.n_msgs; i++, next++)
					MEM((u8 *)(where ? buf : big) +
					    (where ? all : msgs)[i].offset, &next, sizeof(next));
				EQ(peer_info(&s.p).n_queued, 5 - next);
			}
		}
		NOTHING(&s.p);
	}
}

TEST("MSG-10 no more is written than what came")
{
	struct self s = self_new(0);
	struct bus1_msg m[2];
	u8 buf[256] __attribute__((aligned(8)));
	struct bus1_cmd_recv cmd = into(m, 2, buf, sizeof(buf));

	OK(send_str(&s.p, s.n, "five!"));
	memset(buf, 0xee, sizeof(buf));
	memset(m, 0xee, sizeof(m));
	OK(recv_cmd(&s.p, &cmd));
	for (size_t i = cmd.buf_used; i < sizeof(buf); i++)
		EQ(buf[i], 0xee);
	LE(cmd.buf_used, 8);
	for (size_t i = 0; i < sizeof(m[1]); i++)
		EQ(((u8 *)&m[1])[i], 0xee);
	/* What lies between length and alignment is not the kernel's memory. */
	for (size_t i = m[0].offset + m[0].len; i < cmd.buf_used; i++)
		CHECK(buf[i] == 0 || buf[i] == 0xee);
}

TEST("MSG-11 slices are given back in the call that receives")
{
	struct self s = self_new(1 << 20);
	u8 data[5000];
	struct bus1_msg m[4];
	u64 slices[4], buf[8];
	struct bus1_cmd_recv cmd;

	fill(data, sizeof(data), 1);
	for (int i = 0; i < 4; i++)
		OK(send_data(&s.p, s.n, data, sizeof(data)));
	cmd = into(m, 2, NULL, 0);
	OK(recv_cmd(&s.p, &cmd));
	EQ(cmd.n_msgs, 2);
	slices[0] = m[0].slice;
	slices[1] = m[1].slice;
	cmd = into(m, 4, NULL, 0);
	cmd.release = PTR(slices);
	cmd.n_release = 2;
	OK(recv_cmd(&s.p, &cmd));
	EQ(cmd.n_msgs, 2);
	EQ(cmd.n_release, 0);
	EQ(peer_info(&s.p).n_slices, 2);
	slices[0] = m[0].slice;
	slices[1] = m[1].slice;
	/* Those of before are gone. */
	for (int i = 0; i < 2; i++)
		NE(m[i].slice, 0);

	/* Only giving back. */
	cmd = (struct bus1_cmd_recv){ .release = PTR(slices), .n_release = 1 };
	OK(recv_cmd(&s.p, &cmd));
	EQ(cmd.n_release, 0);
	EQ(cmd.n_msgs, 0);
	EQ(peer_info(&s.p).n_slices, 1);
	ERR(slice_release(&s.p, slices[0]), ENXIO);

	/* It is done, and told so, where the receive then fails. */
	cmd = into(m, 1, NULL, 0);
	cmd.release = PTR(&slices[1]);
	cmd.n_release = 1;
	ERR(recv_cmd(&s.p, &cmd), EAGAIN);
	EQ(cmd.n_release, 0);
	EQ(cmd.n_msgs, 1);
	EQ(peer_info(&s.p).n_slices, 0);
	/* So that the same call again does not do it again. */
	OK(send_data(&s.p, s.n, data, sizeof(data)));
	OK(recv_cmd(&s.p, &cmd));
	EQ(cmd.n_msgs, 1);

	slices[0] = m[0].slice;
	cmd = into(m, 1, NULL, 0);
	cmd.release = PTR(slices);
	cmd.n_release = 1;
	cmd.flags = 0;
	cmd.deadline = 1;
	ERR(recv_cmd(&s.p, &cmd), ETIMEDOUT);
	EQ(cmd.n_release, 0);

	OK(send_data(&s.p, s.n, data, sizeof(data)));
	cmd = into(m, 1, NULL, 0);
	OK(recv_cmd(&s.p, &cmd));
	slices[0] = m[0].slice;
	OK(send_str(&s.p, s.n, "does not fit"));
	cmd = into(m, 1, NULL, 0);
	cmd.release = PTR(slices);
	cmd.n_release = 1;
	ERR(recv_cmd(&s.p, &cmd), EMSGSIZE);
	EQ(cmd.n_release, 0);
	EQ(peer_info(&s.p).n_slices, 0);

	OK(send_data(&s.p, s.n, data, sizeof(data)));
	GOT_TEXT(&s.p, s.n, "does not fit");
	cmd = into(m, 1, NULL, 0);
	OK(recv_cmd(&s.p, &cmd));
	slices[0] = m[0].slice;
	OK(send_data(&s.p, s.n, NULL, 0));
	cmd = into((void *)8, 1, buf, sizeof(buf));
	cmd.release = PTR(slices);
	cmd.n_release = 1;
	ERR(recv_cmd(&s.p, &cmd), EFAULT);
	EQ(cmd.n_release, 0);
	EQ(peer_info(&s.p).n_slices, 0);
	EQ(peer_info(&s.p).n_queued, 1);
}

TEST("MSG-3 slices are given back all or none, each once")
{
	struct self s = self_new(1 << 20);
	struct peer other = peer_new(1 << 16);
	u64 on = node_new(&other, 1), slices[3], foreign;
	u8 data[5000] = {};
	struct bus1_msg m;
	struct bus1_cmd_recv cmd;
	struct bus1_cmd_info before;
	struct in in;

	for (int i = 0; i < 3; i++) {
		OK(send_data(&s.p, s.n, data, sizeof(data)));
		OK(recv_now(&s.p, &in));
		slices[i] = in.m.slice;
		for (int j = 0; j < i; j++)
			NE(slices[i], slices[j]);
	}
	/* More of them there, so that one has an id that is none here. */
	for (int i = 0; i < 5; i++) {
		OK(send_data(&other, on, data, sizeof(data)));
		OK(recv_now(&other, &in));
		foreign = in.m.slice;
	}
	/* One that is queued is not the receiver's yet. */
	OK(send_data(&s.p, s.n, data, sizeof(data)));
	before = peer_info(&s.p);
	u64 bad[][4] = {
		{ slices[0], slices[0] },
		{ slices[0], slices[1], slices[2], slices[0] },
		{ slices[0], slices[1], 0, slices[2] },
		{ 0, slices[0] },
		{ slices[0], UINT64_MAX },
		{ s.n },
		{ slices[0], slices[2] + 1 },
	};
	u32 n[] = { 2, 4, 4, 2, 2, 1, 2 };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		if (i == 5 && (s.n == slices[0] || s.n == slices[1] || s.n == slices[2]))
			continue;
		ERR(ids_cmd(&s.p, BUS1_CMD_SLICE_RELEASE, 0, bad[i], n[i]), ENXIO);
		SAME_INFO(&s.p, &before);
		cmd = into(&m, 1, NULL, 0);
		cmd.release = PTR(bad[i]);
		cmd.n_release = n[i];
		ERR(recv_cmd(&s.p, &cmd), ENXIO);
		EQ(cmd.n_release, n[i]);
		SAME_INFO(&s.p, &before);
	}
	for (int i = 0; i < 64; i++)
		ERR(ids_cmd(&s.p, BUS1_CMD_SLICE_RELEASE, 1ULL << i, slices, 1), EINVAL);
	SAME_INFO(&s.p, &before);
	OK(ids_cmd(&s.p, BUS1_CMD_SLICE_RELEASE, 0, slices, 3));
	for (int i = 0; i < 3; i++)
		ERR(slice_release(&s.p, slices[i]), ENXIO);
	ERR(slice_release(&s.p, foreign), ENXIO);
	OK(recv_now(&s.p, &in));
	/* A slice's id is not used again, either. */
	for (int i = 0; i < 3; i++)
		NE(in.m.slice, slices[i]);
}

TEST("MSG-11 what RECV does not take")
{
	struct self s = self_new(1 << 16);
	u64 buf[8], one = 1;
	struct bus1_msg m[2];
	struct bus1_cmd_recv good = into(m, 1, buf, sizeof(buf)), cmd;
	struct bus1_cmd_info before;

	OK(send_str(&s.p, s.n, "stays"));
	before = peer_info(&s.p);
#define BAD(err, ...)								\
	do {									\
		cmd = good;							\
		__VA_ARGS__;							\
		ERR(recv_cmd(&s.p, &cmd), err);					\
		SAME_INFO(&s.p, &before);					\
	} while (0)
	for (int i = 5; i < 64; i++)
		BAD(EINVAL, cmd.flags |= 1ULL << i);
	BAD(EINVAL, cmd.reserved = 1);
	BAD(EINVAL, cmd.reserved = 1u << 31);
	BAD(EINVAL, cmd.index = 1);
	BAD(EINVAL, cmd.buf_used = 1);
	BAD(EINVAL, cmd.msg_size = 0);
	BAD(EINVAL, cmd.msg_size = BUS1_MSG_VER0 - 1);
	BAD(EINVAL, cmd.msg_size = BUS1_MSG_VER0 - 8);
	BAD(EINVAL, cmd.msg_size = 257);
	BAD(EINVAL, cmd.msg_size = 264);
	BAD(EINVAL, cmd.msg_size = 0xffffffff);
	for (int i = 1; i < 8; i++)
		BAD(EINVAL, cmd.buf += (u64)i; cmd.buf_size -= 8);
	BAD(EINVAL, cmd.flags |= BUS1_RECV_DROP; cmd.n_msgs = 2);
	BAD(EINVAL, cmd.flags |= BUS1_RECV_DROP; cmd.n_msgs = 0; cmd.msgs = 0; cmd.msg_size = 0);
	BAD(EINVAL, cmd.n_msgs = 0);		/* with msgs */
	BAD(EMSGSIZE, cmd.n_msgs = BUS1_MAX_MSGS + 1; cmd.msgs = 8);
	BAD(EMSGSIZE, cmd.n_msgs = 0x80000000; cmd.msgs = 8);
	BAD(EMSGSIZE, cmd.n_release = BUS1_MAX_IDS + 1; cmd.release = 8);
	BAD(EMSGSIZE, cmd.n_release = 0xffffffff; cmd.release = 8);
	BAD(EFAULT, cmd.n_release = 1; cmd.release = 0);
	BAD(EFAULT, cmd.n_release = 1; cmd.release = 8);
	BAD(EFAULT, cmd.n_release = 2; cmd.release = PTR(edge_alloc(8)));
	BAD(EFAULT, cmd.n_release = BUS1_MAX_IDS; cmd.release = 0xffff800000000000);
	BAD(ENXIO, cmd.n_release = 1; cmd.release = PTR(&one));
#undef BAD
	GOT_TEXT(&s.p, s.n, "stays");
}

TEST("MSG-11 the outputs may overlap each other and the command")
{
	struct self s = self_new(1 << 16);
	union {
		struct bus1_cmd_recv cmd;
		struct bus1_msg m[4];
		u64 ids[32];
	} u;

	/* What the caller then finds is its own affair; the queue is right. */
	for (int i = 0; i < 3; i++) {
		OK(send_str(&s.p, s.n, "0123456789abcdef"));
		OK(send_str(&s.p, s.n, "after"));
		memset(&u, 0, sizeof(u));
		u.cmd = into(i == 0 ? u.m : &u.m[1], 1, i == 1 ? (void *)&u.m[1] : u.m, 128);
		OK(recv_cmd(&s.p, &u.cmd));
		EQ(peer_info(&s.p).n_queued, 1);
		GOT_TEXT(&s.p, s.n, "after");
	}
	NOTHING(&s.p);
}
