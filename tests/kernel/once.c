// SPDX-License-Identifier: GPL-2.0-or-later
/* OBJ-9: a one-shot handle carries one message; if it carries none, the owner is told. */
#include "cast.h"

#include <string.h>

/* All that a is told is that nobody uses its node. */
static void nothing_but_unused(const struct trio *t)
{
	while (peer_info(&t->a).n_queued) {
		struct in in;

		OK(recv_now(&t->a, &in));
		EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
		EQ(in.m.id, t->n);
	}
}

TEST("OBJ-9 a one-shot handle carries one message and is gone")
{
	struct trio t = trio_new(1 << 16);
	u64 keep = grant(&t.a, t.n, &t.c), f, h;
	struct bus1_handle got;

	for (u64 badge = 0; badge < 3; badge++) {
		f = once_new(&t.a, t.n, badge);
		OK(send_id(&t.a, t.a_to_b, f));
		got = GOT_HANDLE(&t.b, t.nb);
		h = got.id;
		EQ(got.flags, BUS1_HANDLE_ONCE);
		EQ(got.rights, ALL_RIGHTS);
		OK(send_str(&t.b, h, "the one"));
		/* The sender has nothing left of it, and is told nothing. */
		ERR(send_str(&t.b, h, "again"), ENXIO);
		ERR(release(&t.b, h), ENXIO);
		NOTHING(&t.b);
		EQ(peer_info(&t.b).n_handles, 1);
		/* Nor has the owner. */
		ERR(send_str(&t.a, f, "again"), ENXIO);
		ERR(destroy(&t.a, f), ENXIO);
		EQ(peer_info(&t.a).n_nodes, 1);
		GOT_BADGE(&t.a, t.n, badge, "the one");
		NOTHING(&t.a);
	}
	OK(release(&t.c, keep));
	GOT_UNUSED(&t.a, t.n, 1);
	NOTHING(&t.a);
}

TEST("OBJ-9 each is a new one, of the same badge or none")
{
	struct trio t = trio_new(1 << 16);
	u64 plain = facet_new(&t.a, t.n, 5), x = once_new(&t.a, t.n, 5), y = once_new(&t.a, t.n, 5);
	u64 z = once_new(&t.a, t.n, 0), hx = grant(&t.a, x, &t.b), hy = grant(&t.a, y, &t.b);
	u64 hz = grant(&t.a, z, &t.b), hp = grant(&t.a, plain, &t.b);

	NE(x, y);
	NE(x, plain);
	NE(y, plain);
	NE(hx, hy);
	NE(hx, hp);
	EQ(facet_new(&t.a, t.n, 5), plain);
	OK(send_str(&t.b, hx, "x"));
	OK(send_str(&t.b, hz, "z"));
	OK(send_str(&t.b, hp, "plain"));
	OK(send_str(&t.b, hy, "y"));
	GOT_BADGE(&t.a, t.n, 5, "x");
	GOT_BADGE(&t.a, t.n, 0, "z");
	GOT_BADGE(&t.a, t.n, 5, "plain");
	GOT_BADGE(&t.a, t.n, 5, "y");
	EQ(facet_new(&t.a, t.n, 5), plain);
}

TEST("OBJ-9 a one-shot that is spent is dead for all others, and for one's own counts")
{
	struct trio t = trio_new(1 << 16);
	u64 f = once_new(&t.a, t.n, 1), h = grant(&t.a, f, &t.b), hc = grant(&t.a, f, &t.c);
	u64 weak = grant_as(&t.a, f, &t.c, BUS1_TRANSFER_WEAK, 0);
	int fd;

	EQ(grant(&t.a, f, &t.b), h);
	fd = (int)OK(export_fd(&t.b, h, 0));
	OK(send_str(&t.b, h, "spent"));
	GOT_BADGE(&t.a, t.n, 1, "spent");
	GOT_NOTICES(&t.c, { BUS1_MSG_NODE_DEAD, hc }, { BUS1_MSG_NODE_DEAD, weak });
	NOTHING(&t.c);
	ERR(send_str(&t.c, hc, "late"), EHOSTUNREACH);
	ERR(give(&t.c, weak, NULL, BUS1_TRANSFER_STRONG, 0, &(u64){ 0 }), EHOSTUNREACH);
	/* b had two counts: one is left, of a dead handle. */
	GOT_DEAD(&t.b, h);
	NOTHING(&t.b);
	ERR(send_str(&t.b, h, "late"), EHOSTUNREACH);
	OK(release(&t.b, h));
	ERR(release(&t.b, h), ENXIO);
	/* What arrives later arrives dead. */
	OK(send_id(&t.c, grant(&t.b, t.nb, &t.c), hc));
	CHECK(GOT_HANDLE(&t.b, t.nb).flags & BUS1_HANDLE_DEAD);
	close_fd(fd);
	/* It was spent, so that nothing is dropped. */
	OK(ids_cmd(&t.c, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ hc, weak }, 2));
	nothing_but_unused(&t);
}

TEST("OBJ-9 the owner is told when it is dropped unspent")
{
	struct trio t = trio_new(1 << 16);
	u64 keep = grant(&t.a, t.n, &t.c), f = once_new(&t.a, t.n, 0xd), h = grant(&t.a, f, &t.b);
	struct in in;
	struct peer d;

	/* released */
	EQ(grant(&t.a, f, &t.b), h);
	OK(release(&t.b, h));
	NOTHING(&t.a);
	OK(release(&t.b, h));
	OK(recv_now(&t.a, &in));
	EQ(in.m.type, BUS1_MSG_ONCE_DROPPED);
	EQ(in.m.id, f);
	EQ(in.m.badge, 0xd);
	NOTHING(&t.a);
	/* It is there until it is destroyed, and can be passed on again. */
	h = grant(&t.a, f, &t.b);
	ERR(destroy_unused(&t.a, f), EBUSY);
	OK(release(&t.b, h));
	GOT_ONCE_DROPPED(&t.a, f);
	OK(destroy_unused(&t.a, f));
	NOTHING(&t.a);
	/* dropped with the message that brings it */
	f = once_new(&t.a, t.n, 0);
	OK(send_id(&t.a, t.a_to_b, f));
	OK(drop_now(&t.b, &(struct bus1_msg){}));
	GOT_ONCE_DROPPED(&t.a, f);
	/* with its holder */
	d = peer_new(0);
	grant(&t.a, f, &d);
	peer_close(&d);
	GOT_ONCE_DROPPED(&t.a, f);
	/* with a descriptor */
	close_fd((int)OK(export_fd(&t.a, f, 0)));
	GOT_ONCE_DROPPED(&t.a, f);
	/* Weak ones do not hold it. */
	h = grant(&t.a, f, &t.b);
	grant_as(&t.a, f, &t.b, BUS1_TRANSFER_WEAK, 0);
	OK(release(&t.b, h));
	GOT_ONCE_DROPPED(&t.a, f);
	NOTHING(&t.a);
	OK(release(&t.c, keep));
	GOT_UNUSED(&t.a, t.n, 1);
	NOTHING(&t.a);
}

TEST("OBJ-9 what was dropped and passed on again before that was read")
{
	struct trio t = trio_new(1 << 16);
	u64 keep = grant(&t.a, t.n, &t.c), f = once_new(&t.a, t.n, 0), h = grant(&t.a, f, &t.b);

	OK(release(&t.b, h));
	EQ(peer_info(&t.a).n_queued, 1);
	h = grant(&t.a, f, &t.b);
	EQ(peer_info(&t.a).n_queued, 0);
	OK(send_str(&t.b, h, "after all"));
	GOT_TEXT(&t.a, t.n, "after all");
	NOTHING(&t.a);
	OK(release(&t.c, keep));
}

TEST("OBJ-9 a one-shot is moved and copied like any other, the first message wins")
{
	struct trio t = trio_new(1 << 16);
	u64 f = once_new(&t.a, t.n, 9), h = grant(&t.a, f, &t.b), hc;
	struct bus1_handle got;

	OK(send_pass(&t.b, t.b_to_c, h, BUS1_PASS_MOVE, 0));
	ERR(send_str(&t.b, h, "x"), ENXIO);
	got = GOT_HANDLE(&t.c, t.nc);
	EQ(got.flags, BUS1_HANDLE_ONCE);
	hc = got.id;
	h = grant(&t.c, hc, &t.b);
	OK(send_str(&t.c, hc, "c was first"));
	GOT_DEAD(&t.b, h);
	ERR(send_str(&t.b, h, "late"), EHOSTUNREACH);
	GOT_BADGE(&t.a, t.n, 9, "c was first");

	/* Home it is the facet. */
	f = once_new(&t.a, t.n, 9);
	h = grant(&t.a, f, &t.b);
	OK(send_id(&t.b, grant(&t.a, t.n, &t.b), h));
	got = GOT_HANDLE(&t.a, t.n);
	EQ(got.id, f);
	CHECK(got.flags & BUS1_HANDLE_OWN);
	/* The owner spends it itself, too. */
	OK(send_str(&t.a, f, "from home"));
	GOT_BADGE(&t.a, t.n, 9, "from home");
	ERR(send_str(&t.a, f, "again"), ENXIO);
	GOT_DEAD(&t.b, h);
	/* Sent along with its own message. */
	f = once_new(&t.a, t.n, 9);
	h = grant(&t.a, f, &t.b);
	if (!send_id(&t.b, h, h)) {
		struct in in;

		OK(recv_now(&t.a, &in));
		EQ(in.m.id, t.n);
		ERR(send_str(&t.a, f, "again"), ENXIO);
		ERR(send_str(&t.b, h, "again"), ENXIO);
	}
}

TEST("OBJ-9 a one-shot without the right to send, or weak, is not spent by trying")
{
	struct trio t = trio_new(1 << 16);
	u64 f = once_new(&t.a, t.n, 1), h = grant(&t.a, f, &t.b);
	u64 mute = grant_as(&t.a, f, &t.c, 0, BUS1_RIGHT_SEND);
	u64 weak = grant_as(&t.a, f, &t.c, BUS1_TRANSFER_WEAK, 0);

	ERR(send_str(&t.c, mute, "x"), EPERM);
	ERR(send_str(&t.c, weak, "x"), EPERM);
	OK(send_str(&t.b, h, "still"));
	GOT_BADGE(&t.a, t.n, 1, "still");
	GOT_NOTICES(&t.c, { BUS1_MSG_NODE_DEAD, mute }, { BUS1_MSG_NODE_DEAD, weak });
	NOTHING(&t.c);
}

TEST_LONG("OBJ-9 a send that fails spends nothing", 60)
{
	struct trio t = trio_new(1 << 16);
	u64 f = once_new(&t.a, t.n, 1), h = grant(&t.a, f, &t.b), gone = node_new(&t.c, 9);
	u64 to_gone = grant(&t.c, gone, &t.b), plain = grant(&t.a, t.n, &t.b), dests[3];
	static u8 big[1 << 17];
	s32 errors[3];
	struct bus1_cmd_send good = { .dest = h }, cmd;
	struct snapshot w;

	OK(destroy(&t.c, gone));
	GOT_DEAD(&t.b, to_gone);
	w = SNAPSHOT(&t.a, &t.b, &t.c);
#define BAD(err, ...)								\
	do {									\
		cmd = good;							\
		__VA_ARGS__;							\
		ERR(send_cmd(&t.b, &cmd), err);					\
		SAME_SNAPSHOT(&w);							\
	} while (0)
	BAD(EFAULT, cmd.data = 8; cmd.len = 5);
	BAD(EFAULT, cmd.data = 8; cmd.len = 5000);
	BAD(EMSGSIZE, cmd.data = PTR(big); cmd.len = sizeof(big));
	BAD(ENXIO, cmd.handles = PTR(&(struct bus1_pass){}); cmd.n_handles = 1);
	BAD(EBADF, cmd.fds = PTR(&(s32){ 1 << 30 }); cmd.n_fds = 1);
	dests[0] = h;
	dests[1] = to_gone;
	BAD(EHOSTUNREACH, cmd.dest = 0; cmd.dests = PTR(dests); cmd.n_dests = 2);
	dests[0] = 0;
	dests[1] = h;
	BAD(ENXIO, cmd.dest = 0; cmd.dests = PTR(dests); cmd.n_dests = 2);
	/* Twice in one command, of which the second can not be. */
	dests[0] = h;
	memset(errors, 0, sizeof(errors));
	BAD(EHOSTUNREACH, cmd.dest = 0; cmd.dests = PTR(dests); cmd.n_dests = 2;
	    cmd.errors = PTR(errors));
	EQ(errors[0], 0);
	EQ(errors[1], -EHOSTUNREACH);
#undef BAD
	fill_queue(&t.b, plain);
	w = SNAPSHOT(&t.a, &t.b, &t.c);
	ERR(send_str(&t.b, h, "full"), EAGAIN);
	SAME_SNAPSHOT(&w);
	drain(&t.a);
	OK(send_str(&t.b, h, "not yet spent"));
	GOT_BADGE(&t.a, t.n, 1, "not yet spent");
	NOTHING(&t.b);
}

TEST("OBJ-9 among many destinations, each once")
{
	struct trio t = trio_new(1 << 16);
	u64 f = once_new(&t.a, t.n, 1), g = once_new(&t.a, t.n, 2), dests[4];
	s32 errors[4];

	dests[0] = grant(&t.a, f, &t.b);
	dests[1] = t.b_to_c;
	dests[2] = grant(&t.a, g, &t.b);
	OK(send_many(&t.b, 0, dests, 3, errors, "all"));
	GOT_BADGE(&t.a, t.n, 1, "all");
	GOT_BADGE(&t.a, t.n, 2, "all");
	GOT_TEXT(&t.c, t.nc, "all");
	ERR(send_str(&t.b, dests[0], "x"), ENXIO);
	ERR(send_str(&t.b, dests[2], "x"), ENXIO);
	NOTHING(&t.b);

	/* The second of the same fails by itself. */
	f = once_new(&t.a, t.n, 3);
	dests[0] = dests[2] = dests[3] = grant(&t.a, f, &t.b);
	OK(send_many(&t.b, BUS1_SEND_PARTIAL, dests, 4, errors, "first"));
	EQ(errors[0], 0);
	EQ(errors[1], 0);
	EQ(errors[2], -EHOSTUNREACH);
	EQ(errors[3], -EHOSTUNREACH);
	GOT_BADGE(&t.a, t.n, 3, "first");
	GOT_TEXT(&t.c, t.nc, "first");
	ERR(send_str(&t.b, dests[0], "x"), ENXIO);
	NOTHING(&t.b);
	nothing_but_unused(&t);
}

TEST("OBJ-9 one that is revoked is dead, and not dropped")
{
	struct trio t = trio_new(1 << 16);
	u64 keep = grant(&t.a, t.n, &t.c), f = once_new(&t.a, t.n, 1), h = grant(&t.a, f, &t.b);

	OK(destroy(&t.a, f));
	GOT_DEAD(&t.b, h);
	ERR(send_str(&t.b, h, "x"), EHOSTUNREACH);
	OK(release(&t.b, h));
	NOTHING(&t.a);
	/* The message that it carried stays, though the facet is gone. */
	f = once_new(&t.a, t.n, 1);
	h = grant(&t.a, f, &t.b);
	OK(send_str(&t.b, h, "stays"));
	ERR(destroy(&t.a, f), ENXIO);
	GOT_BADGE(&t.a, t.n, 1, "stays");
	/* The end of the node is that of its one-shots and of what they carried. */
	f = once_new(&t.a, t.n, 1);
	h = grant(&t.a, f, &t.b);
	OK(send_str(&t.b, grant(&t.a, once_new(&t.a, t.n, 2), &t.b), "goes"));
	OK(destroy(&t.a, t.n));
	GOT_DEAD(&t.b, h);
	GOT_DEAD(&t.c, keep);
	NOTHING(&t.a);
	EQ(peer_info(&t.a).n_nodes, 0);
}

TEST("OBJ-9 many, as answers are given")
{
	struct trio t = trio_new(1 << 16);
	u64 serve = grant(&t.b, t.nb, &t.a);

	for (u64 i = 0; i < test_rounds(2000); i++) {
		u64 f = once_new(&t.a, t.n, i);
		struct in in;

		OK(send_id(&t.a, serve, f));
		OK(send_data(&t.b, GOT_HANDLE(&t.b, t.nb).id, &i, sizeof(i)));
		OK(recv_now(&t.a, &in));
		EQ(in.m.type, BUS1_MSG_DATA);
		EQ(in.m.badge, i);
		/* What is left is that nobody has n any more. */
		while (peer_info(&t.a).n_queued) {
			OK(recv_now(&t.a, &in));
			EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
			EQ(in.m.id, t.n);
		}
	}
	EQ(peer_info(&t.a).n_nodes, 1);
	EQ(peer_info(&t.b).n_handles, 1);
	NOTHING(&t.b);
}
