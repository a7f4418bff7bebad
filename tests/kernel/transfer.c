// SPDX-License-Identifier: GPL-2.0-or-later
/* OBJ-13: who holds the descriptors of two peers moves handles between them. */
#include "raw.h"

#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

TEST("OBJ-13 a node, or a handle, is copied into another peer")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n[3], h[3], g[3];
	struct bus1_cmd_info before;

	for (u64 i = 0; i < 3; i++)
		n[i] = node_new(&a, i);
	before = peer_info(&a);
	OK(transfer(&a, &b, 0, n, h, 3));
	SAME_INFO(&a, &before);
	EQ(peer_info(&b).n_handles, 3);
	before = peer_info(&b);
	OK(transfer(&b, &c, 0, h, g, 3));
	SAME_INFO(&b, &before);
	for (int i = 0; i < 3; i++) {
		OK(send_str(&b, h[i], "b"));
		OK(send_str(&c, g[i], "c"));
		GOT_TEXT(&a, n[i], "b");
		GOT_TEXT(&a, n[i], "c");
	}
	/* Nobody is told of a copy. */
	NOTHING(&a);
	NOTHING(&b);
	NOTHING(&c);
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, h, 3));
	NOTHING(&a);
	OK(ids_cmd(&c, BUS1_CMD_HANDLE_RELEASE, 0, g, 3));
	EQ(peer_info(&a).n_queued, 3);
}

TEST("OBJ-13 each id becomes one count")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), m = node_new(&a, 2);
	u64 ids[] = { n, m, n, n, m }, out[5];

	OK(transfer(&a, &b, 0, ids, out, 5));
	EQ(out[2], out[0]);
	EQ(out[3], out[0]);
	EQ(out[4], out[1]);
	NE(out[0], out[1]);
	EQ(peer_info(&b).n_handles, 2);
	ERR(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ out[1], out[1], out[1] }, 3), ENXIO);
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, out, 5));
	EQ(peer_info(&b).n_handles, 0);
}

TEST("OBJ-13 a moved handle leaves the one and is in the other")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), g = 0, again;

	OK(transfer(&b, &c, BUS1_TRANSFER_MOVE, &h, &g, 1));
	ERR(send_str(&b, h, "gone"), ENXIO);
	ERR(release(&b, h), ENXIO);
	EQ(peer_info(&b).n_handles, 0);
	EQ(peer_info(&c).n_handles, 1);
	/* It had a user all the while. */
	NOTHING(&a);
	OK(send_str(&c, g, "here"));
	GOT_TEXT(&a, n, "here");

	/* One count of several. */
	EQ(grant(&a, n, &c), g);
	EQ(grant(&a, n, &c), g);
	OK(transfer(&c, &b, BUS1_TRANSFER_MOVE, (u64[]){ g, g }, (u64[2]){}, 2));
	OK(transfer(&c, &b, BUS1_TRANSFER_MOVE, &g, &again, 1));
	NE(again, h);
	ERR(release(&c, g), ENXIO);
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ again, again }, 2));
	NOTHING(&a);
	OK(release(&b, again));
	GOT_UNUSED(&a, n, 1);
	NOTHING(&a);
}

TEST("OBJ-13 from a peer to itself")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), out = 0;

	OK(transfer(&b, &b, 0, &h, &out, 1));		/* two counts */
	EQ(out, h);
	OK(transfer(&b, &b, BUS1_TRANSFER_MOVE, &h, &out, 1));
	EQ(out, h);
	OK(transfer(&b, &b, BUS1_TRANSFER_MOVE, (u64[]){ h, h }, (u64[2]){}, 2));
	OK(release(&b, h));
	OK(transfer(&b, &b, BUS1_TRANSFER_MOVE, &h, &out, 1));	/* the last one */
	EQ(out, h);
	NOTHING(&a);
	OK(release(&b, h));
	ERR(release(&b, h), ENXIO);
	GOT_UNUSED(&a, n, 1);
	/* One's own node is that node. */
	OK(transfer(&a, &a, 0, &n, &out, 1));
	EQ(out, n);
	EQ(peer_info(&a).n_handles, 0);
	NOTHING(&a);
	OK(destroy_unused(&a, n));
}

TEST("OBJ-13 to the owner it is the node")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b);

	EQ(grant(&b, h, &a), n);
	EQ(peer_info(&a).n_handles, 0);
	ERR(release(&a, n), EPERM);
	NOTHING(&a);
	OK(transfer(&b, &a, BUS1_TRANSFER_MOVE, &h, (u64[1]){}, 1));
	ERR(release(&b, h), ENXIO);
	GOT_UNUSED(&a, n, 1);
	NOTHING(&a);
}

TEST("OBJ-13 the handle of a dead node arrives dead, and that is told")
{
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 h = grant(&a, node_new(&a, 1), &b), g = 0;

	peer_close(&a);
	g = grant(&b, h, &c);
	GOT_DEAD(&b, h);
	GOT_DEAD(&c, g);
	EQ(grant(&b, h, &c), g);
	NOTHING(&c);
	OK(release(&c, g));
	OK(release(&c, g));
	/* A move takes it away, and a notice that was not read. */
	OK(transfer(&b, &c, BUS1_TRANSFER_MOVE, &h, &g, 1));
	ERR(release(&b, h), ENXIO);
	EQ(peer_info(&c).n_queued, 1);
	OK(transfer(&c, &b, BUS1_TRANSFER_MOVE, &g, &h, 1));
	NOTHING(&c);
	GOT_DEAD(&b, h);
	NOTHING(&b);
}

/* Nothing has changed at either of the two. */
#define FAILS(from, to, cmd, err)						\
	do {									\
		struct bus1_cmd_info from_ = peer_info(from), to_ = peer_info(to); \
										\
		ERR(raw(from, BUS1_CMD_HANDLE_TRANSFER, cmd), err);		\
		SAME_INFO(from, &from_);					\
		SAME_INFO(to, &to_);						\
	} while (0)

TEST("OBJ-13 HANDLE_TRANSFER says why not, and transfers none")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), nb = node_new(&b, 2), h = grant(&b, nb, &a), out[3];
	u64 ids[3] = { n, h, n }, gone = grant(&b, node_new(&b, 3), &a);
	struct bus1_cmd_transfer good = {
		.ids = PTR(ids), .out = PTR(out), .n_ids = 3, .peer_fd = b.fd,
	}, cmd;
	int fds[2], path = (int)OK(SYS(open("/dev/" BUS1_DEVICE, O_PATH | O_CLOEXEC)));

	OK(release(&a, gone));
	OK(recv_now(&b, &(struct in){}));
	OK(SYS(pipe2(fds, O_CLOEXEC)));
	close(fds[1]);
#define BAD(err, ...)								\
	do {									\
		cmd = good;							\
		__VA_ARGS__;							\
		FAILS(&a, &b, &cmd, err);					\
	} while (0)
	for (int i = 3; i < 64; i++)
		BAD(EINVAL, cmd.flags = 1ULL << i);
	for (int i = 2; i < 32; i++)
		BAD(EINVAL, cmd.drop_rights = 1u << i);
	for (int i = 0; i < 32; i++)
		BAD(EINVAL, cmd.reserved = 1u << i);
	BAD(EINVAL, cmd.flags = BUS1_TRANSFER_WEAK | BUS1_TRANSFER_STRONG);
	BAD(EINVAL, cmd.n_ids = 0);
	BAD(EMSGSIZE, cmd.n_ids = BUS1_MAX_IDS + 1; cmd.ids = cmd.out = 8);
	BAD(EMSGSIZE, cmd.n_ids = 0x20000001; cmd.ids = cmd.out = 8);
	BAD(EMSGSIZE, cmd.n_ids = 0xffffffff; cmd.ids = cmd.out = 8);
	BAD(EFAULT, cmd.n_ids = BUS1_MAX_IDS; cmd.ids = 8);
	BAD(EBADF, cmd.peer_fd = -2);
	BAD(EBADF, cmd.peer_fd = fds[1]);
	BAD(EBADF, cmd.peer_fd = 1 << 30);
	BAD(EBADF, cmd.peer_fd = INT32_MIN);
	BAD(EBADF, cmd.peer_fd = path);
	BAD(EMEDIUMTYPE, cmd.peer_fd = fds[0]);
	BAD(EMEDIUMTYPE, cmd.peer_fd = (int)OK(SYS(open("/dev/null", O_RDWR | O_CLOEXEC))));
	BAD(EMEDIUMTYPE, cmd.peer_fd = eventfd(0, EFD_CLOEXEC));
	for (int at = 0; at < 3; at++) {
		u64 was = ids[at], bad[] = { 0, gone, UINT64_MAX };

		for (int i = 0; i < 3; i++) {
			ids[at] = bad[i];
			BAD(ENXIO, );
		}
		ids[at] = was;
	}
	/* To move: what is a node can not; what has one count can once. */
	BAD(EPERM, cmd.flags = BUS1_TRANSFER_MOVE);
	ids[0] = ids[2] = h;
	BAD(ENXIO, cmd.flags = BUS1_TRANSFER_MOVE);
	ids[0] = n;
	ids[2] = n;

	BAD(EFAULT, cmd.ids = 0);
	BAD(EFAULT, cmd.out = 0);
	BAD(EFAULT, cmd.ids = PTR(edge_alloc(16)));
	BAD(EFAULT, cmd.out = PTR(edge_alloc(16)));
	BAD(EFAULT, cmd.out = PTR(read_only(ids, sizeof(ids))));
	for (size_t i = 0; i < n_bad_addresses; i++) {
		BAD(EFAULT, cmd.ids = bad_addresses[i]);
		BAD(EFAULT, cmd.out = bad_addresses[i]);
	}
	ids[0] = h;
	BAD(EFAULT, cmd.flags = BUS1_TRANSFER_MOVE; cmd.n_ids = 1; cmd.out = 8);
#undef BAD
	OK(send_str(&a, h, "here"));
	GOT_TEXT(&b, nb, "here");
	NOTHING(&a);
	NOTHING(&b);
	/* No user of n was left behind by all that. */
	OK(destroy_unused(&a, n));
}

TEST("OBJ-13 the two arrays may be one")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), m = node_new(&a, 2), hn = grant(&a, n, &b), hm = grant(&a, m, &b);
	u64 ids[3] = { n, m, n };

	OK(transfer(&a, &b, 0, ids, ids, 3));
	EQ(ids[0], hn);
	EQ(ids[1], hm);
	EQ(ids[2], hn);
	/* Or overlap, shifted: what is read is what was there. */
	u64 shifted[4] = { n, m, n, 0 };
	OK(transfer(&a, &b, 0, shifted, shifted + 1, 3));
	EQ(shifted[1], hn);
	EQ(shifted[2], hm);
	EQ(shifted[3], hn);
	u64 back[4] = { 0, n, m, n };
	OK(transfer(&a, &b, 0, back + 1, back, 3));
	EQ(back[0], hn);
	EQ(back[1], hm);
	EQ(back[2], hn);
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0,
		   (u64[]){ hn, hn, hn, hn, hn, hn, hn, hm, hm, hm, hm }, 11));
	EQ(peer_info(&b).n_handles, 0);
	EQ(peer_info(&a).n_queued, 2);
}

TEST("OBJ-13 as many as one command takes")
{
	struct peer a = peer_new(0), b = peer_new(0);
	static u64 ids[BUS1_MAX_IDS], moved[BUS1_MAX_IDS];
	u64 *out = edge_alloc(sizeof(ids));

	for (int i = 0; i < BUS1_MAX_IDS; i++)
		ids[i] = node_new(&a, (u64)i);
	OK(transfer(&a, &b, 0, ids, out, BUS1_MAX_IDS));
	EQ(peer_info(&b).n_handles, BUS1_MAX_IDS);
	OK(transfer(&b, &a, BUS1_TRANSFER_MOVE, out, moved, BUS1_MAX_IDS));
	MEM(moved, ids, sizeof(ids));
	EQ(peer_info(&b).n_handles, 0);
	EQ(peer_info(&a).n_handles, 0);
	EQ(peer_info(&a).n_queued, BUS1_MAX_IDS);
}

struct swap {
	struct peer *from, *to;
	u64 id;
};

static void swap_much(void *arg)
{
	struct swap *t = arg;
	u64 node = t->id;

	for (unsigned int i = 0; i < test_rounds(2000); i++) {
		u64 h = 0, g = 0;

		OK(transfer(t->from, t->to, 0, &node, &h, 1));
		OK(transfer(t->to, t->to, BUS1_TRANSFER_MOVE, &h, &g, 1));
		OK(transfer(t->to, t->from, BUS1_TRANSFER_MOVE, &h, &g, 1));
		EQ(g, node);
	}
}

TEST("OBJ-13 two peers that give to each other at once")
{
	struct peer a = peer_new(0), b = peer_new(0);
	struct swap x = { &a, &b, node_new(&a, 1) }, y = { &b, &a, node_new(&b, 2) };
	struct test_thread tx, ty;

	test_start(&tx, swap_much, &x);
	test_start(&ty, swap_much, &y);
	test_join(&tx);
	test_join(&ty);
	EQ(peer_info(&a).n_handles, 0);
	EQ(peer_info(&b).n_handles, 0);
	OK(destroy_unused(&a, x.id));
	OK(destroy_unused(&b, y.id));
	NOTHING(&a);
	NOTHING(&b);
}

TEST("OBJ-13 into a peer that ends meanwhile")
{
	for (unsigned int i = 0; i < test_rounds(150); i++) {
		struct peer a = peer_new(0), b = peer_new(0);
		u64 n = node_new(&a, 1);
		pid_t pid = test_fork();

		if (!pid) {
			/* The child's descriptor is the last one. */
			close(b.fd);
			_exit(0);
		}
		struct bus1_cmd_transfer cmd = {
			.ids = PTR(&n), .out = PTR(&(u64){ 0 }), .n_ids = 1, .peer_fd = b.fd };

		OK(raw(&a, BUS1_CMD_HANDLE_TRANSFER, &cmd));
		close(b.fd);
		ERR(raw(&a, BUS1_CMD_HANDLE_TRANSFER, &cmd), EBADF);
		test_wait(pid);
		GOT_UNUSED(&a, n, 1);
		NOTHING(&a);
		OK(destroy_unused(&a, n));
		peer_close(&a);
	}
}

struct vain {
	struct peer a, b;
	u64 h[2];
	bool stop;
};

static void move_in_vain(void *arg)
{
	struct vain *t = arg;
	u64 ids[] = { t->h[0], t->h[1], t->h[0] }, out[3];

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		ERR(transfer(&t->a, &t->b, BUS1_TRANSFER_MOVE, ids, out, 3), ENXIO);
		ERR(transfer(&t->a, &t->b, BUS1_TRANSFER_MOVE, ids, (void *)8, 2), EFAULT);
	}
}

TEST("OBJ-13 nobody sees anything of a move that fails")
{
	struct vain t = { .a = peer_new(0), .b = peer_new(0) };
	struct peer c = peer_new(0);
	struct test_thread thread;
	u64 n[2];

	for (int i = 0; i < 2; i++) {
		n[i] = node_new(&c, 1);
		t.h[i] = grant(&c, n[i], &t.a);
	}
	test_start(&thread, move_in_vain, &t);
	for (unsigned int i = 0; i < test_rounds(3000); i++) {
		OK(send_many(&t.a, 0, t.h, 2, NULL, "x"));
		GOT_TEXT(&c, n[0], "x");
		GOT_TEXT(&c, n[1], "x");
		NOTHING(&c);
	}
	__atomic_store_n(&t.stop, true, __ATOMIC_RELAXED);
	test_join(&thread);
	EQ(peer_info(&t.b).n_handles, 0);
}
