// SPDX-License-Identifier: GPL-2.0-or-later
/* RES-1, RES-4: what a user may have in all, and that it is given back. */
#include "quota.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of each limit: one more than it is EDQUOT, by whatever peer, and raised it works. */
TEST("RES-4 ABI-2 each limit of a user's own, EDQUOT, and raised again it works")
{
	struct receiver r = receiver_new(1 << 16);
	struct peer a, b, c;
	struct user user;
	u64 to[3], n[16], h;
	u8 data[3 * 4096] = {};
	int fd;

	/* Peers and exported handles. */
	OK(limit_set(USER, MAX_PEERS, 3));
	a = peer_of(USER, 1 << 16);
	b = peer_of(USER, 0);
	c = peer_of(USER, 0);
	n[0] = node_new(&a, 1);
	ERR(export_fd(&a, n[0], 0), EDQUOT);
	OK(SYS(seteuid(USER)));
	ERR(SYS(open("/dev/" BUS1_DEVICE, O_RDWR | O_CLOEXEC)), EDQUOT);
	OK(SYS(seteuid(0)));
	OK(limit_set(USER, MAX_PEERS, 4));
	fd = (int)OK(export_fd(&a, n[0], 0));
	ERR(export_fd(&a, n[0], 0), EDQUOT);
	close_fd(fd);
	close_fd((int)OK(export_fd(&a, n[0], 0)));
	GOT_UNUSED(&a, n[0], 2);
	OK(limit_set(USER, MAX_PEERS, LIMIT_DEFAULT));

	/* Nodes and facets: half of them for one peer. */
	OK(limit_set(USER, MAX_NODES, 8));
	for (int i = 1; i < 4; i++)
		n[i] = node_new(&a, 1);
	ERR(node_create(&a, &(struct bus1_cmd_node){}), EDQUOT);
	ERR(mint(&a, 0, n[0], 1, &(u64){ 0 }), EDQUOT);
	for (int i = 4; i < 8; i++)
		n[i] = node_new(&b, 1);
	ERR(node_create(&b, &(struct bus1_cmd_node){}), EDQUOT);
	ERR(node_create(&c, &(struct bus1_cmd_node){}), EDQUOT);
	OK(destroy(&b, n[7]));
	n[7] = node_new(&c, 1);
	ERR(node_create(&b, &(struct bus1_cmd_node){}), EDQUOT);
	OK(limit_set(USER, MAX_NODES, 10));
	n[8] = node_new(&a, 1);
	facet_new(&b, n[4], 3);
	ERR(mint(&c, BUS1_MINT_ONCE, n[7], 0, &(u64){ 0 }), EDQUOT);
	/* Below what there is: that stays, and is used. */
	OK(limit_set(USER, MAX_NODES, 0));
	OK(send_str(&a, n[0], "x"));
	GOT_TEXT(&a, n[0], "x");
	ERR(node_create(&c, &(struct bus1_cmd_node){}), EDQUOT);
	OK(limit_set(USER, MAX_NODES, LIMIT_DEFAULT));
	node_new(&c, 1);

	/* Handles: likewise. */
	OK(limit_set(USER, MAX_HANDLES, 4));
	for (int i = 0; i < 2; i++)
		to[i] = grant(&r.p, i ? node_new(&r.p, 2) : r.node, &a);
	h = node_new(&r.p, 3);
	ERR(transfer(&r.p, &a, 0, &h, &(u64){ 0 }, 1), EDQUOT);
	to[2] = grant(&r.p, r.node, &b);
	grant(&r.p, h, &b);
	ERR(transfer(&r.p, &c, 0, &h, &(u64){ 0 }, 1), EDQUOT);
	/* One that it has once more is none more. */
	EQ(grant(&r.p, r.node, &a), to[0]);
	OK(limit_set(USER, MAX_HANDLES, 1));
	OK(send_str(&a, to[0], "x"));
	GOT_TEXT(&r.p, r.node, "x");
	/* It is announced with a message, too. */
	u64 to_c = grant(&c, n[7], &r.p);
	ERR(send_id(&r.p, to_c, h), EDQUOT);
	OK(limit_set(USER, MAX_HANDLES, LIMIT_DEFAULT));
	OK(send_id(&r.p, to_c, h));
	GOT_ID(&c, n[7]);

	/* Messages in flight, of all its peers together. */
	OK(limit_set(USER, MAX_MESSAGES, 5));
	for (int i = 0; i < 5; i++)
		OK(send_str(i % 2 ? &a : &b, i % 2 ? to[0] : to[2], "x"));
	for (int i = 0; i < 2; i++) {
		ERR(send_str(&a, to[0], "x"), EDQUOT);
		ERR(send_str(&b, to[2], "x"), EDQUOT);
		/* That is nothing to wait for. */
		ERR(send_cmd(&a, &(struct bus1_cmd_send){
			.flags = BUS1_SEND_WAIT, .dest = to[0] }), EDQUOT);
		ERR(send_cmd(&a, &(struct bus1_cmd_send){
			.flags = BUS1_SEND_NOTIFY, .dest = to[0] }), EDQUOT);
	}
	GOT_TEXT(&r.p, r.node, "x");
	OK(send_str(&a, to[0], "x"));
	ERR(send_str(&b, to[2], "x"), EDQUOT);
	OK(limit_set(USER, MAX_MESSAGES, 6));
	OK(send_str(&b, to[2], "x"));
	ERR(send_str(&b, to[2], "x"), EDQUOT);
	OK(limit_set(USER, MAX_MESSAGES, 0));
	CHECK(user_read(USER, &user));
	EQ(user.used[MAX_MESSAGES], 6);
	EQ(user.max[MAX_MESSAGES], 0);
	EQ(drain(&r.p), 6);
	ERR(send_str(&b, to[2], "x"), EDQUOT);
	OK(limit_set(USER, MAX_MESSAGES, LIMIT_DEFAULT));

	/* Handles in them count as well. */
	OK(limit_set(USER, MAX_MESSAGES, 5));
	OK(send_ids(&a, to[0], (u64[]){ to[0], to[0] }, 2));
	ERR(send_ids(&a, to[0], (u64[]){ to[0], to[0] }, 2), EDQUOT);
	OK(send_id(&a, to[0], to[0]));
	ERR(send_id(&b, to[2], to[2]), EDQUOT);
	ERR(send_str(&b, to[2], "none"), EDQUOT);
	OK(limit_set(USER, MAX_MESSAGES, LIMIT_DEFAULT));
	OK(send_str(&b, to[2], "none"));
	OK(send_id(&b, to[2], to[2]));
	EQ(drain(&r.p), 4);

	/* Files in them. */
	OK(limit_set(USER, MAX_FILES, 3));
	OK(take_files(&a, to[0], 2));
	ERR(take_files(&b, to[2], 2), EDQUOT);
	OK(take_files(&b, to[2], 1));
	ERR(take_files(&a, to[0], 1), EDQUOT);
	OK(limit_set(USER, MAX_FILES, LIMIT_DEFAULT));
	OK(take_files(&a, to[0], 1));
	EQ(drain(&r.p), 3);

	/* Pages of its pools: whoever sends finds out. */
	h = grant(&a, n[0], &r.p);
	OK(limit_set(USER, MAX_PAGES, 2));
	ERR(send_data(&r.p, h, data, sizeof(data)), EDQUOT);
	EQ(peer_info(&a).n_slices, 0);
	NOTHING(&a);
	OK(send_data(&r.p, h, data, 4000));
	CHECK(user_read(USER, &user));
	LE(user.used[MAX_PAGES], 2);
	OK(limit_set(USER, MAX_PAGES, LIMIT_DEFAULT));
	OK(send_data(&r.p, h, data, sizeof(data)));
	EQ(drain(&a), 2);
}

/* Whatever is taken at a time: nothing is refused that the limit allows, and no more is charged. */
TEST("RES-1 RES-5 pages of a pool are had to the last that the limit allows")
{
	static u8 data[15 * 4096];
	struct receiver r = receiver_new(1 << 16);
	struct user user;

	memset(data, 0x5e, sizeof(data));
	for (u32 pages = 1; pages <= 15; pages++) {
		struct peer a = peer_of(USER, 1 << 18);
		u64 h = grant(&a, node_new(&a, 1), &r.p);
		struct in in;

		OK(limit_set(USER, MAX_PAGES, pages));
		OK(send_data(&r.p, h, data, pages * page_size()));
		CHECK(user_read(USER, &user));
		EQ(user.used[MAX_PAGES], pages);
		EQ(peer_info(&a).pool_pages, pages);
		ERR(send_data(&r.p, h, data, page_size()), EDQUOT);
		CHECK(user_read(USER, &user));
		EQ(user.used[MAX_PAGES], pages);
		OK(recv_now(&a, &in));
		MEM(in.data, data, pages * page_size());
		peer_close(&a);
	}
	OK(limit_set(USER, MAX_PAGES, LIMIT_DEFAULT));
}

TEST("RES-4 limits are read, and set by root alone, and nonsense is refused")
{
	static const char *const bad[] = {
		"", " ", "\n", "7100", "7100 peers", "7100 peers x", "7100 nothing 5",
		"peers 5", "x peers 5", "7100 peers -1", "7100 peers 99999999999",
		"7100 peers 4294967296", "7100 peersandmanymoreletters 5",
		"7100 peers 5555555555555555555555555555555555555555555555555555555555555555",
		"7100 peers 0000000000000000005", "7100 peers 5 6", "7100 peers default 6",
	};
	static const char users[] = "/sys/class/misc/bus1/users";
	struct stat st;
	struct user user;
	struct peer p;
	int fd;

	/* What others have is nobody's business. */
	OK(SYS(stat(users, &st)));
	EQ(st.st_mode & 0777, 0600);
	p = peer_of(USER, 0);
	CHECK(user_read(USER, &user));
	EQ(user.used[MAX_PEERS], 1);
	for (int i = 0; i < N_MAX; i++) {
		char path[80], line[32] = "";

		snprintf(path, sizeof(path), "/sys/module/bus1/parameters/max_%s", limit_names[i]);
		fd = (int)OK(SYS(open(path, O_RDWR | O_CLOEXEC)));
		GT(read(fd, line, sizeof(line) - 1), 1);
		EQ(strtoull(line, NULL, 10), user.max[i]);
		GT(user.max[i], 100);
		/* The same once more: nobody is to notice. */
		EQ(pwrite(fd, line, strlen(line), 0), strlen(line));
		CHECK(pwrite(fd, "-1\n", 3, 0) < 0);
		CHECK(pwrite(fd, "x\n", 2, 0) < 0);
		close(fd);
	}
	fd = (int)OK(SYS(open(users, O_WRONLY | O_CLOEXEC)));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (pwrite(fd, bad[i], strlen(bad[i]), 0) > 0)
			FAIL("\"%s\" is taken", bad[i]);
	CHECK(pwrite(fd, "7100 peers 5", 12, 1) < 0);
	close(fd);
	OK(SYS(seteuid(USER)));
	CHECK(open(users, O_WRONLY | O_CLOEXEC) < 0);
	OK(SYS(seteuid(0)));
	struct user same;
	CHECK(user_read(USER, &same));
	MEM(&same, &user, sizeof(user));
	/* One who has no peer keeps a limit that was set, and is forgotten without. */
	peer_close(&p);
	OK(limit_set(USER + 1, MAX_FILES, 77));
	CHECK(user_read(USER + 1, &user));
	EQ(user.max[MAX_FILES], 77);
	OK(limit_set(USER + 1, MAX_FILES, LIMIT_DEFAULT));
	CHECK(!user_read(USER + 1, &user));
}

TEST("RES-4 a default that is set goes for all that have no limit of their own")
{
	static const char path[] = "/sys/module/bus1/parameters/max_files";
	char was[32] = "";
	int status, fd;
	pid_t pid;

	if (geteuid())
		SKIP("only for root");
	fd = (int)OK(SYS(open(path, O_RDWR | O_CLOEXEC)));
	GT(read(fd, was, sizeof(was) - 1), 1);
	/* In a process of its own: whatever becomes of it, the default is set back. */
	pid = test_fork();
	if (!pid) {
		struct receiver r = receiver_new(0);
		struct user_peers x = {}, y = {}, z = {};

		add_peer(&x, USER, &r);
		add_peer(&y, USER + 1, &r);
		OK(limit_set(USER + 1, MAX_FILES, 5));
		EQ(pwrite(fd, "2\n", 2, 0), 2);
		add_peer(&z, USER + 2, &r);
		OK(take_files(&x.p[0], x.h[0], 2));
		ERR(take_files(&x.p[0], x.h[0], 1), EDQUOT);
		OK(take_files(&y.p[0], y.h[0], 5));
		ERR(take_files(&z.p[0], z.h[0], 3), EDQUOT);
		OK(limit_set(USER + 1, MAX_FILES, LIMIT_DEFAULT));
		ERR(take_files(&y.p[0], y.h[0], 1), EDQUOT);
		EQ(drain(&r.p), 2);
		OK(take_files(&y.p[0], y.h[0], 2));
		_exit(0);
	}
	OK(SYS(waitpid(pid, &status, 0)));
	EQ(pwrite(fd, was, strlen(was), 0), strlen(was));
	limit_set(USER + 1, MAX_FILES, LIMIT_DEFAULT);
	EQ(status, 0);
}

/* Of everything something, in flight, held and waited for. */
static int have_everything(u32 uid, const struct receiver *r, struct peer *a, struct peer *b)
{
	static u8 data[20000];
	u64 h, n, own;
	int full, exported;

	*a = peer_of(uid, 1 << 18);
	*b = peer_of(uid, 1 << 16);
	n = node_new(a, 1);
	own = node_new(b, 2);
	h = grant(&r->p, r->node, a);
	OK(send_data(a, h, data, sizeof(data)));
	OK(send_ids(a, h, (u64[]){ n, facet_new(a, n, 5), h }, 3));
	OK(take_files(a, h, 7));
	exported = (int)OK(export_fd(a, n, 0));
	for (int i = 0; i < 3; i++)
		OK(send_data(b, own, data, 3000));
	OK(recv_now(b, &(struct in){}));
	ERR(recv_cmd(b, &(struct bus1_cmd_recv){ .flags = BUS1_RECV_NONBLOCK, .msgs = 8,
						 .n_msgs = 1, .msg_size = 64 }), EFAULT);
	while (!(full = send_data(a, h, data, sizeof(data))))
		;
	ERR(full, EAGAIN);
	ERR(send_cmd(a, &(struct bus1_cmd_send){
		.flags = BUS1_SEND_NOTIFY, .dest = h, .data = PTR(data), .len = sizeof(data) }),
	    EAGAIN);
	return exported;
}

TEST("RES-1 a user whose peers are closed is charged nothing, when all is received")
{
	for (int order = 0; order < 3; order++) {
		struct receiver r = receiver_new(1 << 18);
		struct peer a, b;
		struct user user;
		int exported = have_everything(USER, &r, &a, &b);

		CHECK(user_read(USER, &user));
		for (int i = 0; i < N_MAX; i++)
			GT(user.used[i], 0);
		EQ(user.used[MAX_FILES], 7);
		if (order == 0)
			peer_close(&r.p);
		if (order == 1)
			drain(&r.p);
		peer_close(&a);
		peer_close(&b);
		close_fd(exported);
		if (order == 2) {
			/* It is still there, and theirs. */
			CHECK(user_read(USER, &user));
			EQ(user.used[MAX_FILES], 7);
			EQ(user.used[MAX_PEERS] | user.used[MAX_NODES] | user.used[MAX_PAGES], 0);
			drain(&r.p);
		}
		nothing_charged(USER);
		if (order)
			peer_close(&r.p);
	}
}

TEST("RES-1 a user whose processes are killed is charged nothing, when all is received")
{
	for (int order = 0; order < 2; order++) {
		struct receiver r = receiver_new(1 << 18);
		struct user user;
		pid_t pid = test_fork();

		if (!pid) {
			struct peer a, b;
			static u8 data[20000];

			have_everything(USER, &r, &a, &b);
			send_cmd(&a, &(struct bus1_cmd_send){
				.flags = BUS1_SEND_WAIT, .dest = grant(&r.p, r.node, &a),
				.data = PTR(data), .len = sizeof(data) });
			FAIL("it went on");
		}
		test_asleep(pid, pid);
		CHECK(user_read(USER, &user));
		for (int i = 0; i < N_MAX; i++)
			GT(user.used[i], 0);
		test_kill(pid);
		if (order)
			drain(&r.p);
		else
			peer_close(&r.p);
		nothing_charged(USER);
		if (order)
			peer_close(&r.p);
	}
}
