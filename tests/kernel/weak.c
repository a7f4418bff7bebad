// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * OBJ-7: a weak handle watches its node, is no user of it, sends nothing, and can be
 * made strong while the node lives.
 */
#include "cast.h"

static u64 weaken(const struct peer *p, u64 h)
{
	return grant_as(p, h, NULL, BUS1_TRANSFER_WEAK, 0);
}

static u64 strengthen(const struct peer *p, u64 h)
{
	return grant_as(p, h, NULL, BUS1_TRANSFER_STRONG, 0);
}

TEST("OBJ-7 a weak handle does not use its node")
{
	struct trio t = trio_new(0);
	u64 w;

	/* From the owner, in a message and directly: the node was never used. */
	OK(send_pass(&t.a, t.a_to_b, t.n, BUS1_PASS_WEAK, 0));
	EQ(peer_info(&t.a).n_queued, 0);
	w = GOT_HANDLE(&t.b, t.nb).id;
	EQ(grant_as(&t.a, t.n, &t.b, BUS1_TRANSFER_WEAK, 0), w);
	EQ(grant_as(&t.b, w, NULL, 0, 0), w);
	OK(ids_cmd(&t.b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ w, w, w }, 3));
	ERR(release(&t.b, w), ENXIO);
	NOTHING(&t.a);
	w = grant_as(&t.a, t.n, &t.b, BUS1_TRANSFER_WEAK, 0);
	OK(send_pass(&t.a, t.a_to_b, t.n, BUS1_PASS_WEAK, 0));
	OK(destroy_unused(&t.a, t.n));
	EQ(GOT_HANDLE(&t.b, t.nb).id, w);
	GOT_DEAD(&t.b, w);
	NOTHING(&t.b);
}

TEST("OBJ-7 the last strong handle goes, and weak ones do not keep the notice")
{
	struct trio t = trio_new(0);
	u64 h = grant(&t.a, t.n, &t.b), w = weaken(&t.b, h), wc;

	NE(w, h);
	OK(send_id(&t.b, t.b_to_c, w));
	OK(release(&t.b, h));
	GOT_UNUSED(&t.a, t.n, 1);
	wc = GOT_HANDLE(&t.c, t.nc).id;
	OK(release(&t.b, w));
	OK(release(&t.c, wc));
	NOTHING(&t.a);
	OK(destroy_unused(&t.a, t.n));
}

TEST("OBJ-7 nothing is sent through a weak handle")
{
	struct trio t = trio_new(0);
	u64 h = grant(&t.a, t.n, &t.b), w = weaken(&t.b, h);
	s32 errors[2];
	struct snapshot before = SNAPSHOT(&t.a, &t.b, &t.c);

	ERR(send_str(&t.b, w, "x"), EPERM);
	ERR(send_many(&t.b, 0, (u64[]){ h, w }, 2, errors, "x"), EPERM);
	EQ(errors[0], 0);
	EQ(errors[1], -EPERM);
	ERR(export_fd(&t.b, w, 0), EPERM);
	SAME_SNAPSHOT(&before);
	OK(send_many(&t.b, BUS1_SEND_PARTIAL, (u64[]){ w, h }, 2, errors, "x"));
	EQ(errors[0], -EPERM);
	EQ(errors[1], 0);
	GOT_TEXT(&t.a, t.n, "x");
	NOTHING(&t.a);
}

TEST("OBJ-7 a weak handle tells of the death, of node, facet and owner")
{
	for (int how = 0; how < 3; how++) {
		struct trio t = trio_new(0);
		u64 f = facet_new(&t.a, t.n, 1), w, wf;

		w = grant_as(&t.a, t.n, &t.b, BUS1_TRANSFER_WEAK, 0);
		wf = grant_as(&t.a, f, &t.b, BUS1_TRANSFER_WEAK, 0);
		NE(w, wf);
		EQ(peer_info(&t.b).n_handles, 3);
		NOTHING(&t.a);
		if (how == 0) {
			OK(destroy(&t.a, f));
			GOT_DEAD(&t.b, wf);
			NOTHING(&t.b);
			OK(destroy(&t.a, t.n));
			GOT_DEAD(&t.b, w);
		} else if (how == 1) {
			OK(destroy(&t.a, t.n));
			GOT_NOTICES(&t.b, { BUS1_MSG_NODE_DEAD, w }, { BUS1_MSG_NODE_DEAD, wf });
		} else {
			peer_close(&t.a);
			GOT_NOTICES(&t.b, { BUS1_MSG_NODE_DEAD, w }, { BUS1_MSG_NODE_DEAD, wf },
				    { BUS1_MSG_NODE_UNUSED, t.nb });
		}
		NOTHING(&t.b);
		/* Dead it stays, and it is released like any other. */
		ERR(give(&t.b, w, NULL, BUS1_TRANSFER_STRONG, 0, &(u64){ 0 }), EHOSTUNREACH);
		ERR(give(&t.b, wf, &t.c, BUS1_TRANSFER_STRONG, 0, &(u64){ 0 }), EHOSTUNREACH);
		OK(ids_cmd(&t.b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ w, wf }, 2));
		ERR(release(&t.b, w), ENXIO);
	}
}

TEST("OBJ-7 a weak handle is passed on, and arrives weak")
{
	struct trio t = trio_new(0);
	u64 h = grant(&t.a, t.n, &t.b), w = weaken(&t.b, h), c_to_b = grant(&t.b, t.nb, &t.c);
	u64 bound = grant_as(&t.b, h, NULL, BUS1_TRANSFER_WEAK, BUS1_RIGHT_TRANSFER);
	struct bus1_handle got, again;

	OK(send_id(&t.b, t.b_to_c, w));
	got = GOT_HANDLE(&t.c, t.nc);
	EQ(got.flags, BUS1_HANDLE_WEAK);
	EQ(got.rights, ALL_RIGHTS);
	EQ(got.cookie, 0);
	ERR(send_str(&t.c, got.id, "x"), EPERM);
	/* The same by a pass that says so, and directly. */
	OK(send_pass(&t.b, t.b_to_c, h, BUS1_PASS_WEAK, 0));
	EQ(GOT_HANDLE(&t.c, t.nc).id, got.id);
	EQ(grant(&t.b, w, &t.c), got.id);
	EQ(grant_as(&t.b, h, &t.c, BUS1_TRANSFER_WEAK, 0), got.id);
	/* The strong one is another. */
	OK(send_id(&t.b, t.b_to_c, h));
	again = GOT_HANDLE(&t.c, t.nc);
	NE(again.id, got.id);
	EQ(again.flags, 0);
	/* Back where it came from it is the one that is there. */
	OK(send_id(&t.c, c_to_b, got.id));
	EQ(GOT_HANDLE(&t.b, t.nb).id, w);
	/* To pass it on takes the right to. */
	NE(bound, w);
	ERR(send_id(&t.b, t.b_to_c, bound), EPERM);
	ERR(give(&t.b, bound, &t.c, 0, 0, &(u64){ 0 }), EPERM);
	ERR(give(&t.b, bound, &t.c, BUS1_TRANSFER_STRONG, 0, &(u64){ 0 }), EPERM);
	/* At home it is the node. */
	OK(send_id(&t.b, h, w));
	got = GOT_HANDLE(&t.a, t.n);
	EQ(got.id, t.n);
	CHECK(got.flags & BUS1_HANDLE_OWN);
	EQ(grant(&t.b, w, &t.a), t.n);
}

TEST("OBJ-7 a weak handle is made strong, with the rights it has")
{
	struct trio t = trio_new(0);
	u64 h = grant(&t.a, t.n, &t.b), w = weaken(&t.b, h), rest, strong;

	/* Back to the handle that is there. */
	EQ(strengthen(&t.b, w), h);
	OK(ids_cmd(&t.b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ h, h }, 2));
	GOT_UNUSED(&t.a, t.n, 1);
	/* And by a move: the weak one leaves. */
	strong = grant_as(&t.b, w, NULL, BUS1_TRANSFER_STRONG | BUS1_TRANSFER_MOVE, 0);
	NE(strong, w);
	ERR(release(&t.b, w), ENXIO);
	OK(send_str(&t.b, strong, "strong"));
	GOT_TEXT(&t.a, t.n, "strong");
	/* Made strong it does not get back what it had not. */
	rest = grant_as(&t.b, strong, NULL, BUS1_TRANSFER_WEAK, BUS1_RIGHT_TRANSFER);
	rest = strengthen(&t.b, rest);
	NE(rest, strong);
	OK(send_str(&t.b, rest, "rest"));
	GOT_TEXT(&t.a, t.n, "rest");
	ERR(send_id(&t.b, t.b_to_c, rest), EPERM);
	/* What is strong is copied. */
	EQ(strengthen(&t.b, strong), strong);
	/* In another peer. */
	w = weaken(&t.b, strong);
	rest = grant_as(&t.b, w, &t.c, BUS1_TRANSFER_STRONG, 0);
	OK(send_str(&t.c, rest, "from c"));
	GOT_TEXT(&t.a, t.n, "from c");
	NOTHING(&t.a);
}

TEST("OBJ-7 made strong, the node is used again, and what was said of it is void")
{
	struct trio t = trio_new(0);
	u64 w = grant_as(&t.a, t.n, &t.b, BUS1_TRANSFER_WEAK, 0), h = strengthen(&t.b, w);

	ERR(destroy_unused(&t.a, t.n), EBUSY);
	OK(release(&t.b, h));
	/* Not received yet: withdrawn. */
	EQ(peer_info(&t.a).n_queued, 1);
	h = strengthen(&t.b, w);
	EQ(peer_info(&t.a).n_queued, 0);
	NOTHING(&t.a);
	ERR(destroy_unused(&t.a, t.n), EBUSY);
	OK(release(&t.b, h));
	GOT_UNUSED(&t.a, t.n, 2);
	/* Received: the next one has another seq, and DESTROY_UNUSED tells. */
	h = strengthen(&t.b, w);
	ERR(destroy_unused(&t.a, t.n), EBUSY);
	NOTHING(&t.a);
	OK(release(&t.b, h));
	GOT_UNUSED(&t.a, t.n, 3);
	OK(destroy_unused(&t.a, t.n));
	GOT_DEAD(&t.b, w);
	NOTHING(&t.b);
}

TEST("OBJ-7 a weak handle to a facet")
{
	struct trio t = trio_new(0);
	u64 f = facet_new(&t.a, t.n, 0xf), w = grant_as(&t.a, f, &t.b, BUS1_TRANSFER_WEAK, 0), h;

	NOTHING(&t.a);
	h = strengthen(&t.b, w);
	OK(send_str(&t.b, h, "badge"));
	GOT_BADGE(&t.a, t.n, 0xf, "badge");
	ERR(destroy_unused(&t.a, f), EBUSY);
	OK(release(&t.b, h));
	GOT_NOTICES(&t.a, { BUS1_MSG_NODE_UNUSED, f }, { BUS1_MSG_NODE_UNUSED, t.n });
	NOTHING(&t.a);
	OK(destroy_unused(&t.a, f));
	GOT_DEAD(&t.b, w);
	ERR(give(&t.b, w, NULL, BUS1_TRANSFER_STRONG, 0, &h), EHOSTUNREACH);
	OK(send_str(&t.a, t.n, "n lives"));
	GOT_TEXT(&t.a, t.n, "n lives");
}

TEST("OBJ-7 of many made strong one is dead, and none is")
{
	struct trio t = trio_new(0);
	u64 m = node_new(&t.a, 2), ids[3], out[3] = { 7, 7, 7 };
	struct bus1_cmd_transfer cmd = {
		.flags = BUS1_TRANSFER_STRONG, .ids = PTR(ids), .out = PTR(out), .n_ids = 3,
		.peer_fd = -1 };
	struct snapshot before;

	ids[0] = ids[2] = grant_as(&t.a, t.n, &t.b, BUS1_TRANSFER_WEAK, 0);
	EQ(grant_as(&t.a, t.n, &t.b, BUS1_TRANSFER_WEAK, 0), ids[0]);
	ids[1] = grant_as(&t.a, m, &t.b, BUS1_TRANSFER_WEAK, 0);
	OK(destroy(&t.a, m));
	before = SNAPSHOT(&t.a, &t.b, &t.c);
	ERR(raw(&t.b, BUS1_CMD_HANDLE_TRANSFER, &cmd), EHOSTUNREACH);
	cmd.flags |= BUS1_TRANSFER_MOVE;
	ERR(raw(&t.b, BUS1_CMD_HANDLE_TRANSFER, &cmd), EHOSTUNREACH);
	cmd.peer_fd = t.c.fd;
	ERR(raw(&t.b, BUS1_CMD_HANDLE_TRANSFER, &cmd), EHOSTUNREACH);
	SAME_SNAPSHOT(&before);
	OK(destroy_unused(&t.a, t.n));
	/* Without STRONG dead ones are passed on as ever. */
	cmd.flags = 0;
	OK(raw(&t.b, BUS1_CMD_HANDLE_TRANSFER, &cmd));
}

TEST("OBJ-13 a transfer to -1 is one within the peer")
{
	struct trio t = trio_new(0);
	u64 h = grant(&t.a, t.n, &t.b), bound, out = 0, both[2], ids[2];
	struct bus1_cmd_transfer cmd = {
		.ids = PTR(ids), .out = PTR(both), .n_ids = 2, .peer_fd = -1 };

	EQ(grant_as(&t.b, h, NULL, 0, 0), h);
	OK(give(&t.b, h, NULL, BUS1_TRANSFER_MOVE, 0, &out));
	EQ(out, h);
	/* Two counts; a right that it does without in its own peer. */
	bound = grant_as(&t.b, h, NULL, BUS1_TRANSFER_MOVE, BUS1_RIGHT_TRANSFER);
	NE(bound, h);
	EQ(grant_as(&t.b, bound, NULL, 0, 0), bound);
	EQ(grant_as(&t.b, bound, &t.b, BUS1_TRANSFER_MOVE, 0), bound);
	OK(send_str(&t.b, bound, "bound"));
	GOT_TEXT(&t.a, t.n, "bound");
	OK(release(&t.b, h));
	ERR(release(&t.b, h), ENXIO);
	OK(ids_cmd(&t.b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ bound, bound }, 2));
	GOT_UNUSED(&t.a, t.n, 1);
	/* A node of one's own is that node, with whatever flags. */
	EQ(grant_as(&t.a, t.n, NULL, 0, 0), t.n);
	EQ(peer_info(&t.a).n_handles, 1);
	/* Arrays as ever. */
	ids[0] = grant(&t.a, t.n, &t.b);
	ids[1] = t.nb;
	OK(raw(&t.b, BUS1_CMD_HANDLE_TRANSFER, &cmd));
	EQ(both[0], ids[0]);
	EQ(both[1], ids[1]);
	NOTHING(&t.a);
	NOTHING(&t.b);
}
