// SPDX-License-Identifier: GPL-2.0-or-later
/* OBJ-5: rights shrink on the way, and never grow; what is sent along can be moved. */
#include "cast.h"

#include <string.h>

/* What a holder with these rights may do with h, whose node n is a's. */
static void may(struct trio *t, u64 h, u32 rights)
{
	u64 out = 0;
	int fd;

	if (rights & BUS1_RIGHT_SEND) {
		OK(send_str(&t->b, h, "send"));
		GOT_TEXT(&t->a, t->n, "send");
	} else {
		ERR(send_str(&t->b, h, "send"), EPERM);
	}
	if (rights & BUS1_RIGHT_TRANSFER) {
		struct bus1_handle got;

		OK(send_id(&t->b, t->b_to_c, h));
		got = GOT_HANDLE(&t->c, t->nc);
		EQ(got.rights, rights);
		EQ(got.flags, 0);
		OK(release(&t->c, got.id));
		OK(give(&t->b, h, &t->c, 0, 0, &out));
		OK(release(&t->c, out));
		fd = (int)OK(export_fd(&t->b, h, 0));
		OK(import_cmd(&t->c, fd, &got));
		EQ(got.rights, rights);
		OK(release(&t->c, got.id));
		close_fd(fd);
	} else {
		struct snapshot w = SNAPSHOT(&t->a, &t->b, &t->c);

		ERR(send_id(&t->b, t->b_to_c, h), EPERM);
		ERR(send_pass(&t->b, t->b_to_c, h, BUS1_PASS_MOVE, 0), EPERM);
		ERR(send_pass(&t->b, t->b_to_c, h, BUS1_PASS_WEAK, 0), EPERM);
		ERR(send_pass(&t->b, t->b_to_c, h, 0, ALL_RIGHTS), EPERM);
		ERR(send_ids(&t->b, t->b_to_c, (u64[]){ t->b_to_c, h }, 2), EPERM);
		ERR(send_id(&t->b, t->nb, h), EPERM);
		ERR(give(&t->b, h, &t->c, 0, 0, &out), EPERM);
		ERR(give(&t->b, h, &t->c, BUS1_TRANSFER_MOVE, 0, &out), EPERM);
		ERR(give(&t->b, h, &t->a, 0, 0, &out), EPERM);
		ERR(export_fd(&t->b, h, 0), EPERM);
		SAME_SNAPSHOT(&w);
	}
}

TEST("OBJ-5 a handle has the rights that it arrived with, and no others")
{
	struct trio t = trio_new(0);

	for (u32 drop = 0; drop <= ALL_RIGHTS; drop++) {
		struct bus1_handle got;
		u64 h;

		/* in a message, directly, and by a descriptor */
		OK(send_pass(&t.a, t.a_to_b, t.n, 0, drop));
		got = GOT_HANDLE(&t.b, t.nb);
		EQ(got.rights, ALL_RIGHTS & ~drop);
		EQ(got.flags, 0);
		EQ(got.cookie, 0);
		may(&t, got.id, got.rights);
		h = got.id;
		EQ(grant_as(&t.a, t.n, &t.b, 0, drop), h);
		may(&t, h, got.rights);

		int fd = (int)OK(export_fd(&t.a, t.n, drop));

		OK(import_cmd(&t.b, fd, &got));
		close_fd(fd);
		EQ(got.id, h);
		EQ(got.rights, ALL_RIGHTS & ~drop);
		EQ(got.flags, 0);
		/* It is a user of the node, whatever its rights. */
		ERR(destroy_unused(&t.a, t.n), EBUSY);
		OK(ids_cmd(&t.b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ h, h, h }, 3));
		GOT_UNUSED(&t.a, t.n, drop + 1);
	}
	NOTHING(&t.a);
}

TEST("OBJ-4 with other rights it is another handle, with the same the same")
{
	struct trio t = trio_new(0);
	u64 h[4], again;

	for (u32 drop = 0; drop < 4; drop++) {
		h[drop] = grant_as(&t.a, t.n, &t.b, 0, drop);
		for (u32 i = 0; i < drop; i++)
			NE(h[drop], h[i]);
	}
	EQ(peer_info(&t.b).n_handles, 5);
	for (u32 drop = 0; drop < 4; drop++) {
		OK(send_pass(&t.a, t.a_to_b, t.n, 0, drop));
		EQ(GOT_HANDLE(&t.b, t.nb).id, h[drop]);
		/* Made weaker where it is, for which no right is needed. */
		for (u32 less = 0; less < 4; less++) {
			again = grant_as(&t.b, h[drop], NULL, 0, less);
			EQ(again, h[drop | less]);
			OK(release(&t.b, again));
		}
	}
	EQ(peer_info(&t.b).n_handles, 5);
	/* Each has its own counts and its own death. */
	for (u32 drop = 0; drop < 4; drop++) {
		OK(release(&t.b, h[drop]));
		NOTHING(&t.a);
	}
	OK(release(&t.b, h[2]));
	ERR(release(&t.b, h[2]), ENXIO);
	OK(send_str(&t.b, h[0], "still"));
	GOT_TEXT(&t.a, t.n, "still");
	OK(destroy(&t.a, t.n));
	GOT_NOTICES(&t.b, { BUS1_MSG_NODE_DEAD, h[0] }, { BUS1_MSG_NODE_DEAD, h[1] },
		    { BUS1_MSG_NODE_DEAD, h[3] });
	NOTHING(&t.b);
}

TEST("OBJ-5 rights that were dropped never come back, by whatever way")
{
	struct trio t = trio_new(0);
	u64 weak, h = grant_as(&t.a, t.n, &t.b, 0, BUS1_RIGHT_SEND), c_to_b, hc;
	struct bus1_handle got;
	int fd;

	c_to_b = grant(&t.b, t.nb, &t.c);
	/* Round through another, where it meets one with all rights. */
	hc = grant(&t.a, t.n, &t.c);
	OK(send_id(&t.b, t.b_to_c, h));
	got = GOT_HANDLE(&t.c, t.nc);
	NE(got.id, hc);
	EQ(got.rights, BUS1_RIGHT_TRANSFER);
	ERR(send_str(&t.c, got.id, "x"), EPERM);
	OK(send_id(&t.c, c_to_b, got.id));
	EQ(GOT_HANDLE(&t.b, t.nb).id, h);
	/* Weak and strong again, by itself and by a descriptor. */
	weak = grant_as(&t.b, h, NULL, BUS1_TRANSFER_WEAK, 0);
	EQ(grant_as(&t.b, weak, NULL, BUS1_TRANSFER_STRONG, 0), h);
	fd = (int)OK(export_fd(&t.b, h, 0));
	OK(import_cmd(&t.b, fd, &got));
	close_fd(fd);
	EQ(got.id, h);
	EQ(got.rights, BUS1_RIGHT_TRANSFER);
	/* Dropped twice is dropped. */
	got.id = grant_as(&t.b, h, NULL, 0, ALL_RIGHTS);
	NE(got.id, h);
	ERR(send_str(&t.b, got.id, "x"), EPERM);
	ERR(give(&t.b, got.id, &t.c, 0, 0, &hc), EPERM);
	EQ(grant_as(&t.b, got.id, NULL, 0, 0), got.id);
}

TEST("OBJ-5 a handle with no right at all still tells of the end of its node")
{
	struct trio t = trio_new(0);
	u64 h = grant_as(&t.a, t.n, &t.b, 0, ALL_RIGHTS);

	ERR(destroy_unused(&t.a, t.n), EBUSY);
	OK(destroy(&t.a, t.n));
	GOT_DEAD(&t.b, h);
	OK(release(&t.b, h));
	NOTHING(&t.b);
}

TEST("OBJ-5 a handle that comes home is the node, whatever rights it had")
{
	struct trio t = trio_new(0);
	u64 h = grant_as(&t.a, t.n, &t.b, 0, BUS1_RIGHT_SEND), m = node_new(&t.a, 2), to_m;
	struct bus1_handle got;

	to_m = grant(&t.a, m, &t.b);
	OK(send_id(&t.b, to_m, h));
	got = GOT_HANDLE(&t.a, m);
	EQ(got.id, t.n);
	EQ(got.cookie, 0xa);
	CHECK(got.flags & BUS1_HANDLE_OWN);
	EQ(grant(&t.b, h, &t.a), t.n);
	/* The owner passes it on with all rights, as ever. */
	OK(send_id(&t.a, t.a_to_b, got.id));
	got = GOT_HANDLE(&t.b, t.nb);
	EQ(got.rights, ALL_RIGHTS);
	NE(got.id, h);
}

TEST("OBJ-5 each handle of a message has its own flags and rights")
{
	struct trio t = trio_new(0);
	u64 m = node_new(&t.a, 2);
	struct bus1_pass pass[] = {
		{ t.n, 0, 0 },
		{ t.n, 0, BUS1_RIGHT_SEND },
		{ m, 0, BUS1_RIGHT_TRANSFER },
		{ t.n, BUS1_PASS_WEAK, 0 },
		{ t.n, BUS1_PASS_WEAK, BUS1_RIGHT_SEND },
		{ m, 0, ALL_RIGHTS },
		{ t.n, 0, 0 },
	};
	struct bus1_cmd_send cmd = {
		.dest = t.a_to_b, .handles = PTR(pass), .n_handles = ARRAY_SIZE(pass) };
	struct in in;

	OK(send_cmd(&t.a, &cmd));
	OK(recv_now(&t.b, &in));
	EQ(in.m.n_handles, ARRAY_SIZE(pass));
	for (size_t i = 0; i < ARRAY_SIZE(pass); i++) {
		EQ(in.h[i].rights, ALL_RIGHTS & ~pass[i].drop_rights);
		EQ(in.h[i].flags, pass[i].flags ? BUS1_HANDLE_WEAK : 0);
		for (size_t j = 0; j < i; j++)
			EQ(in.h[i].id == in.h[j].id, i == 6 && j == 0);
	}
	/* A multicast applies it at each receiver. */
	cmd = (struct bus1_cmd_send){
		.dests = PTR(((u64[]){ t.nb, t.b_to_c })), .n_dests = 2,
		.handles = PTR(&(struct bus1_pass){ in.h[0].id, 0, BUS1_RIGHT_SEND }),
		.n_handles = 1 };
	OK(send_cmd(&t.b, &cmd));
	EQ(GOT_HANDLE(&t.b, t.nb).id, in.h[1].id);
	EQ(GOT_HANDLE(&t.c, t.nc).rights, BUS1_RIGHT_TRANSFER);
}

TEST("OBJ-5 a handle that is moved leaves its sender as it is sent")
{
	struct trio t = trio_new(0);
	u64 h = grant(&t.a, t.n, &t.b), hc;
	struct snapshot w;

	EQ(grant(&t.a, t.n, &t.b), h);
	OK(send_pass(&t.b, t.b_to_c, h, BUS1_PASS_MOVE, 0));
	OK(send_str(&t.b, h, "one count left"));
	GOT_TEXT(&t.a, t.n, "one count left");
	OK(send_pass(&t.b, t.b_to_c, h, BUS1_PASS_MOVE, 0));
	ERR(send_str(&t.b, h, "none"), ENXIO);
	ERR(release(&t.b, h), ENXIO);
	EQ(peer_info(&t.b).n_handles, 1);
	w = SNAPSHOT(&t.a, &t.b, &t.c);
	ERR(send_pass(&t.b, t.b_to_c, h, BUS1_PASS_MOVE, 0), ENXIO);
	SAME_SNAPSHOT(&w);
	/* It was used all the while. */
	NOTHING(&t.a);
	hc = GOT_ID(&t.c, t.nc);
	EQ(GOT_ID(&t.c, t.nc), hc);
	OK(release(&t.c, hc));
	OK(release(&t.c, hc));
	GOT_UNUSED(&t.a, t.n, 1);
	NOTHING(&t.b);
}

TEST("OBJ-5 a handle moves through itself, and its notice with it")
{
	struct trio t = trio_new(0);
	u64 h = grant(&t.a, t.n, &t.b), hc;
	struct bus1_handle got;

	/* to its own node, where it arrives as that */
	OK(send_pass(&t.b, h, h, BUS1_PASS_MOVE, 0));
	got = GOT_HANDLE(&t.a, t.n);
	EQ(got.id, t.n);
	CHECK(got.flags & BUS1_HANDLE_OWN);
	ERR(release(&t.b, h), ENXIO);
	GOT_UNUSED(&t.a, t.n, 1);

	/* a death that was not read is the next holder's */
	h = grant(&t.a, t.n, &t.b);
	OK(destroy(&t.a, t.n));
	OK(send_pass(&t.b, t.b_to_c, h, BUS1_PASS_MOVE, 0));
	NOTHING(&t.b);
	got = GOT_HANDLE(&t.c, t.nc);
	hc = got.id;
	EQ(got.flags, BUS1_HANDLE_DEAD);
	GOT_DEAD(&t.c, hc);
	NOTHING(&t.c);
}

/* A move in every way that a send fails. */
TEST_LONG("OBJ-5 a send that fails moves nothing", 60)
{
	struct trio t = trio_new(0);
	u64 h = grant(&t.a, t.n, &t.b), gone = node_new(&t.c, 9), to_gone, dests[3];
	struct bus1_pass pass[3] = {
		{ h, BUS1_PASS_MOVE, 0 }, { h, BUS1_PASS_MOVE, 0 }, { t.b_to_c, 0, 0 },
	};
	struct bus1_cmd_send good = {
		.dest = t.b_to_c, .handles = PTR(pass), .n_handles = 1 }, cmd;
	struct snapshot w;

	to_gone = grant(&t.c, gone, &t.b);
	OK(destroy(&t.c, gone));
	GOT_DEAD(&t.b, to_gone);
	w = SNAPSHOT(&t.a, &t.b, &t.c);
	dests[0] = t.b_to_c;
	dests[1] = to_gone;
	dests[2] = t.b_to_c;
#define BAD(err, ...)								\
	do {									\
		cmd = good;							\
		__VA_ARGS__;							\
		ERR(send_cmd(&t.b, &cmd), err);					\
		SAME_SNAPSHOT(&w);							\
	} while (0)
	BAD(ENXIO, cmd.dest = 0);
	BAD(EHOSTUNREACH, cmd.dest = to_gone);
	BAD(EFAULT, cmd.data = 8; cmd.len = 5);
	BAD(EMSGSIZE, cmd.data = 8; cmd.len = 5000);		/* c has no pool */
	BAD(EMSGSIZE, cmd.data = PTR(&t); cmd.len = 200);
	BAD(EBADF, cmd.fds = PTR(&(s32){ 1 << 30 }); cmd.n_fds = 1);
	BAD(EHOSTUNREACH, cmd.dest = 0; cmd.dests = PTR(dests); cmd.n_dests = 3);
	BAD(EHOSTUNREACH, cmd.dest = 0; cmd.dests = PTR(dests + 1); cmd.n_dests = 1;
	    cmd.flags = BUS1_SEND_PARTIAL);
	/* Two counts are asked for, and there is one. */
	BAD(ENXIO, cmd.n_handles = 2);
	BAD(ENXIO, cmd.n_handles = 3);
	/* A node is not moved. */
	pass[1] = (struct bus1_pass){ t.nb, BUS1_PASS_MOVE, 0 };
	BAD(EPERM, cmd.n_handles = 2);
#undef BAD
	fill_queue(&t.b, t.b_to_c);
	w = SNAPSHOT(&t.a, &t.b, &t.c);
	ERR(send_cmd(&t.b, &good), EAGAIN);
	SAME_SNAPSHOT(&w);
	drain(&t.c);
	OK(send_cmd(&t.b, &good));
	ERR(release(&t.b, h), ENXIO);
}

TEST("OBJ-5 a multicast that moves takes one count for each entry, not each copy")
{
	struct trio t = trio_new(0);
	u64 h = grant(&t.a, t.n, &t.b), dests[] = { t.b_to_c, t.nb, t.b_to_c, 0 }, hc;
	struct bus1_pass pass[] = { { h, BUS1_PASS_MOVE, 0 }, { h, BUS1_PASS_MOVE, 0 } };
	struct bus1_cmd_send cmd = {
		.dests = PTR(dests), .n_dests = 3, .handles = PTR(pass), .n_handles = 2 };
	u64 got[2];

	EQ(grant(&t.a, t.n, &t.b), h);
	EQ(grant(&t.a, t.n, &t.b), h);
	OK(send_cmd(&t.b, &cmd));
	for (int i = 0; i < 2; i++) {
		GOT_IDS(&t.c, t.nc, got, 2);
		EQ(got[0], got[1]);
	}
	hc = got[0];
	GOT_IDS(&t.b, t.nb, got, 2);
	EQ(got[0], h);
	/* three, less two, and two more that came back */
	OK(ids_cmd(&t.b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ h, h, h }, 3));
	ERR(release(&t.b, h), ENXIO);
	NOTHING(&t.a);
	OK(ids_cmd(&t.c, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ hc, hc, hc, hc }, 4));
	GOT_UNUSED(&t.a, t.n, 1);

	/* PARTIAL, where one gets it. */
	pass[0].id = grant(&t.a, t.n, &t.b);
	cmd.n_dests = 4;
	cmd.n_handles = 1;
	cmd.flags = BUS1_SEND_PARTIAL;
	OK(send_cmd(&t.b, &cmd));
	GOT_ID(&t.c, t.nc);
	GOT_ID(&t.c, t.nc);
	/* The last count went: what comes back is another handle. */
	ERR(release(&t.b, pass[0].id), ENXIO);
	NE(got[0] = GOT_ID(&t.b, t.nb), pass[0].id);
	OK(release(&t.b, got[0]));
}

struct vain {
	struct trio t;
	u64 h;
	bool stop;
};

static void move_in_vain(void *arg)
{
	struct vain *v = arg;
	u64 dests[] = { v->t.b_to_c, 0 };
	struct bus1_pass pass = { v->h, BUS1_PASS_MOVE, 0 };
	struct bus1_cmd_send cmd = {
		.dests = PTR(dests), .n_dests = 2, .handles = PTR(&pass), .n_handles = 1 };

	while (!__atomic_load_n(&v->stop, __ATOMIC_RELAXED))
		ERR(send_cmd(&v->t.b, &cmd), ENXIO);
}

TEST("OBJ-5 nobody sees anything of a send that moves and fails")
{
	struct vain v = { .t = trio_new(0) };
	struct test_thread thread;

	v.h = grant(&v.t.a, v.t.n, &v.t.b);
	test_start(&thread, move_in_vain, &v);
	for (unsigned int i = 0; i < test_rounds(3000); i++) {
		OK(send_str(&v.t.b, v.h, "x"));
		GOT_TEXT(&v.t.a, v.t.n, "x");
		NOTHING(&v.t.a);
	}
	__atomic_store_n(&v.stop, true, __ATOMIC_RELAXED);
	test_join(&thread);
	NOTHING(&v.t.c);
	EQ(peer_info(&v.t.c).n_handles, 0);
}
