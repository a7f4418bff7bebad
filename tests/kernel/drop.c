// SPDX-License-Identifier: GPL-2.0-or-later
/* MSG-11: handles are given back in the call that receives. */
#include "raw.h"

struct pair {
	struct peer a, b;
	u64 n[3], h[3], nb, to_b;
};

static struct pair pair_new(void)
{
	struct pair t = { .a = peer_new(0), .b = peer_new(1 << 16) };

	t.nb = node_new(&t.b, 1);
	t.to_b = grant(&t.b, t.nb, &t.a);
	for (u64 i = 0; i < 3; i++) {
		t.n[i] = node_new(&t.a, i);
		t.h[i] = grant(&t.a, t.n[i], &t.b);
	}
	return t;
}

static struct bus1_cmd_recv into(struct bus1_msg *m, u64 *buf, u32 size, u64 *drop, u32 n_drop)
{
	return (struct bus1_cmd_recv){
		.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(m), .n_msgs = m ? 1 : 0,
		.msg_size = m ? sizeof(*m) : 0, .buf = PTR(buf), .buf_size = size,
		.drop = PTR(drop), .n_drop = n_drop };
}

TEST("MSG-11 handles are given back before a message is received")
{
	struct pair t = pair_new();
	struct bus1_msg m;
	u64 buf[8];
	struct bus1_cmd_recv cmd;

	/* The handle that comes has the id of no earlier one: that was gone by then. */
	OK(send_str(&t.a, t.to_b, "x"));
	cmd = into(&m, buf, sizeof(buf), t.h, 2);
	OK(recv_cmd(&t.b, &cmd));
	EQ(cmd.n_msgs, 1);
	EQ(cmd.n_drop, 0);
	EQ(m.id, t.nb);
	GOT_NOTICES(&t.a, { BUS1_MSG_NODE_UNUSED, t.n[0] }, { BUS1_MSG_NODE_UNUSED, t.n[1] });
	ERR(release(&t.b, t.h[0]), ENXIO);
	ERR(release(&t.b, t.h[1]), ENXIO);
	EQ(peer_info(&t.b).n_handles, 1);

	/* Only giving back; and of a weak one, of as many counts as there are. */
	t.h[0] = grant_as(&t.a, t.n[0], &t.b, BUS1_TRANSFER_WEAK, 0);
	EQ(grant(&t.a, t.n[2], &t.b), t.h[2]);
	cmd = into(NULL, NULL, 0, (u64[]){ t.h[2], t.h[0], t.h[2] }, 3);
	OK(recv_cmd(&t.b, &cmd));
	EQ(cmd.n_drop, 0);
	EQ(cmd.n_msgs, 0);
	EQ(peer_info(&t.b).n_handles, 0);
	GOT_UNUSED(&t.a, t.n[2], 1);
	NOTHING(&t.a);
}

TEST("MSG-11 what was given back is not given back again, whatever comes of the receive")
{
	struct pair t = pair_new();
	struct bus1_msg m;
	u64 buf[8];
	struct bus1_cmd_recv cmd;

	/* nothing there */
	cmd = into(&m, buf, sizeof(buf), &t.h[0], 1);
	ERR(recv_cmd(&t.b, &cmd), EAGAIN);
	EQ(cmd.n_drop, 0);
	GOT_UNUSED(&t.a, t.n[0], 1);
	/* the same call again */
	OK(send_str(&t.a, t.to_b, "again"));
	OK(recv_cmd(&t.b, &cmd));
	/* a deadline that is past */
	cmd = into(&m, buf, sizeof(buf), &t.h[1], 1);
	cmd.flags = 0;
	cmd.deadline = 1;
	ERR(recv_cmd(&t.b, &cmd), ETIMEDOUT);
	EQ(cmd.n_drop, 0);
	GOT_UNUSED(&t.a, t.n[1], 1);
	/* a message that does not fit, and one that faults */
	OK(send_str(&t.a, t.to_b, "does not fit"));
	cmd = into(&m, NULL, 0, &t.h[2], 1);
	ERR(recv_cmd(&t.b, &cmd), EMSGSIZE);
	EQ(cmd.n_drop, 0);
	GOT_UNUSED(&t.a, t.n[2], 1);
	t.h[2] = grant(&t.a, t.n[2], &t.b);
	cmd = into(&m, (u64 *)8, 64, &t.h[2], 1);
	ERR(recv_cmd(&t.b, &cmd), EFAULT);
	EQ(cmd.n_drop, 0);
	GOT_UNUSED(&t.a, t.n[2], 2);
	GOT_TEXT(&t.b, t.nb, "does not fit");
	NOTHING(&t.b);
}

TEST("MSG-11 slices and handles are given back together, or neither")
{
	struct pair t = pair_new();
	static u8 data[3000];
	struct bus1_msg m;
	struct in in;
	u64 buf[8], slice, none = UINT64_MAX, gone = t.h[1], ids[3];
	struct bus1_cmd_recv good, cmd;
	struct snapshot w;

	OK(release(&t.b, gone));
	OK(recv_now(&t.a, &in));
	OK(send_data(&t.a, t.to_b, data, sizeof(data)));
	OK(recv_now(&t.b, &in));
	slice = in.m.slice;
	OK(send_str(&t.a, t.to_b, "stays"));
	good = into(&m, buf, sizeof(buf), t.h, 1);
	good.release = PTR(&slice);
	good.n_release = 1;
	w = SNAPSHOT(&t.a, &t.b);
#define BAD(err, ...)								\
	do {									\
		cmd = good;							\
		__VA_ARGS__;							\
		ERR(recv_cmd(&t.b, &cmd), err);					\
		SAME_SNAPSHOT(&w);							\
	} while (0)
	/* One that is not known, wherever it stands. */
	for (u32 at = 0; at < 3; at++) {
		u64 bad[] = { 0, gone, none };

		for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
			ids[0] = t.h[0];
			ids[1] = t.h[2];
			ids[at] = bad[i];
			BAD(ENXIO, cmd.drop = PTR(ids); cmd.n_drop = at == 2 ? 3 : 2);
		}
		ids[0] = t.h[0];
		ids[1] = t.h[2];
		ids[at < 2 ? at : 1] = t.nb;
		BAD(EPERM, cmd.drop = PTR(ids); cmd.n_drop = 2);
	}
	/* One count, twice. */
	ids[0] = ids[1] = t.h[0];
	BAD(ENXIO, cmd.drop = PTR(ids); cmd.n_drop = 2);
	/* A slice that is none, with handles that are. */
	BAD(ENXIO, cmd.release = PTR(&none));
	BAD(ENXIO, cmd.release = PTR(((u64[]){ slice, slice })); cmd.n_release = 2);
	BAD(EMSGSIZE, cmd.n_drop = BUS1_MAX_IDS + 1; cmd.drop = 8);
	BAD(EMSGSIZE, cmd.n_drop = UINT32_MAX; cmd.drop = 8);
	BAD(EFAULT, cmd.n_drop = BUS1_MAX_IDS; cmd.drop = 8);
	BAD(EFAULT, cmd.n_drop = 1; cmd.drop = 0);
	BAD(EFAULT, cmd.n_drop = 2; cmd.drop = PTR(edge_alloc(8)));
	/* It could not be said that it was done. */
	cmd = good;
	ERR(raw(&t.b, BUS1_CMD_RECV, read_only(&cmd, sizeof(cmd))), EFAULT);
	SAME_SNAPSHOT(&w);
#undef BAD
	OK(recv_cmd(&t.b, &good));
	EQ(good.n_drop, 0);
	EQ(good.n_release, 0);
	EQ(m.id, t.nb);
	EQ(peer_info(&t.b).n_slices, 0);
	GOT_UNUSED(&t.a, t.n[0], 1);
}

TEST("MSG-11 what is given back tells nothing of itself in the same call")
{
	struct pair t = pair_new();
	struct bus1_msg m;
	u64 buf[8];
	struct bus1_cmd_recv cmd;

	/* Its notice waits, and goes with it. */
	OK(destroy(&t.a, t.n[0]));
	CHECK(readable(&t.b));
	cmd = into(&m, buf, sizeof(buf), t.h, 1);
	ERR(recv_cmd(&t.b, &cmd), EAGAIN);
	EQ(cmd.n_drop, 0);
}

struct loop {
	struct pair t;
	unsigned int rounds;
};

static void give_and_take(void *arg)
{
	struct loop *l = arg;

	for (unsigned int i = 0; i < l->rounds; i++) {
		while (send_id(&l->t.a, l->t.to_b, l->t.n[i % 3]))
			test_sleep_ms(1);
	}
}

TEST("MSG-11 a loop that gives back what the last message brought, while the next come")
{
	struct loop l = { .t = pair_new(), .rounds = test_rounds(4000) };
	struct test_thread thread;
	u64 drop[8];
	u32 n = 3;

	for (u32 i = 0; i < 3; i++)
		drop[i] = l.t.h[i];
	test_start(&thread, give_and_take, &l);
	for (unsigned int got = 0; got < l.rounds; ) {
		struct bus1_msg m[8];
		u64 buf[64];
		struct bus1_cmd_recv cmd = {
			.deadline = test_deadline(40), .msgs = PTR(m), .n_msgs = 8,
			.msg_size = sizeof(m[0]), .buf = PTR(buf), .buf_size = sizeof(buf),
			.drop = PTR(drop), .n_drop = n };

		OK(recv_cmd(&l.t.b, &cmd));
		n = cmd.n_msgs;
		got += n;
		for (u32 i = 0; i < n; i++) {
			EQ(m[i].n_handles, 1);
			drop[i] = ((struct bus1_handle *)((u8 *)buf + m[i].handles))->id;
		}
	}
	test_join(&thread);
	OK(ids_cmd(&l.t.b, BUS1_CMD_HANDLE_RELEASE, 0, drop, n));
	EQ(peer_info(&l.t.b).n_handles, 0);
	for (int i = 0; i < 3; i++)
		OK(destroy_unused(&l.t.a, l.t.n[i]));
}
