// SPDX-License-Identifier: GPL-2.0-or-later
/* RES-2, RES-1: how users share what a receiver has. */
#include "quota.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
	POOL = 1 << 20,
	GRANULE = 64,
};

struct receiver receiver_new(size_t pool)
{
	struct receiver r = { .p = peer_new(pool) };

	r.node = node_new(&r.p, 1);
	return r;
}

/* Messages that take `n` of something at once, and nothing else but a place each. */
static int take_messages(const struct peer *p, u64 h, u32 n)
{
	u64 dests[BUS1_MAX_DESTS];

	for (u32 i = 0; i < n; i++)
		dests[i] = h;
	return send_many(p, 0, dests, n, NULL, "");
}

static int take_pool(const struct peer *p, u64 h, u32 n)
{
	static u8 bytes[POOL];

	return send_data(p, h, bytes, n * GRANULE);
}

/* The receiver's own node, so that its table does not grow. */
static int take_handles(const struct peer *p, u64 h, u32 n)
{
	u64 ids[BUS1_MAX_HANDLES];

	for (u32 i = 0; i < n; i++)
		ids[i] = h;
	return send_ids(p, h, ids, n);
}

int take_files(const struct peer *p, u64 h, u32 n)
{
	static int file = -1;
	s32 fds[BUS1_MAX_FDS];

	if (file < 0)
		file = (int)OK(SYS(open("/dev/null", O_RDONLY | O_CLOEXEC)));
	for (u32 i = 0; i < n; i++)
		fds[i] = file;
	return send_fds(p, h, fds, n);
}

static const struct kind {
	const char *name;
	int (*take)(const struct peer *p, u64 h, u32 n);
	u32 all, most, least;		/* of a receiver; in one step */
} kinds[] = {
	{ "messages", take_messages, 1 << 16, BUS1_MAX_DESTS, 1 },
	{ "pool", take_pool, POOL / GRANULE, POOL / GRANULE / 8 * 3, 2 },
	{ "handles", take_handles, 1 << 17, BUS1_MAX_HANDLES, 1 },
	{ "files", take_files, 1 << 14, BUS1_MAX_FDS, 1 },
};

/* All that a peer gets. */
static u32 take_all(const struct kind *k, const struct peer *p, u64 h)
{
	u32 got = 0;
	int r;

	for (u32 step = k->most;; step = step / 2 > k->least ? step / 2 : k->least) {
		while (!(r = k->take(p, h, step)))
			LE(got += step, k->all);
		ERR(r, EAGAIN);
		if (step == k->least)
			return got;
	}
}

u32 add_peer(struct user_peers *u, u32 uid, const struct receiver *r)
{
	LT(u->n, MAX_PEERS_OF_USER);
	u->p[u->n] = peer_of(uid, 0);
	u->h[u->n] = grant(&r->p, r->node, &u->p[u->n]);
	return u->n++;
}

static void close_peers(struct user_peers *u)
{
	while (u->n)
		peer_close(&u->p[--u->n]);
}

/* All that a user gets, by as many peers as it takes. */
static u32 user_takes_all(const struct kind *k, struct user_peers *u, u32 uid,
			  const struct receiver *r)
{
	u32 got = 0, more, i;

	do {
		i = add_peer(u, uid, r);
		more = take_all(k, &u->p[i], u->h[i]);
		got += more;
	} while (more);
	return got;
}

static void many_files(void)
{
	struct rlimit limit = { 4096, 4096 };

	if (geteuid())
		SKIP("only for root");
	OK(SYS(setrlimit(RLIMIT_NOFILE, &limit)));
}

/*
 * The rule, to the last message: the n-th user has a share of 1 / (n + 1) of what
 * the others left, and that is 1 / n(n + 1) of all when each took all it could.
 */
static void formula(const struct kind *k)
{
	enum { USERS = 32 };
	static struct user_peers u[USERS];
	struct receiver r = receiver_new(k->take == take_pool ? POOL : 0);
	u32 left = k->all, got;

	many_files();
	/* The first one gets about as many handles as its own limit would be. */
	OK(limit_set(USER + 1, MAX_MESSAGES, 2 * k->all));
	for (u32 n = 1; n <= USERS; n++) {
		got = user_takes_all(k, &u[n - 1], USER + n, &r);
		if (got > left / (n + 1))
			FAIL("%s: user %u got %u of %u", k->name, n, got, left);
		/* What a peer without any can not take is less than four thirds of a step. */
		if (got + 4 * k->least / 3 + 1 < left / (n + 1))
			FAIL("%s: user %u got only %u of %u", k->name, n, got, left);
		GE(left, k->all / n);
		left -= got;
	}
	/* They have it as long as it is not received, their peers or not. */
	for (u32 n = 1; n <= USERS; n++) {
		for (u32 i = 0; i < u[n - 1].n; i++)
			if (k->least == 1)
				ERR(k->take(&u[n - 1].p[i], u[n - 1].h[i], k->most), EAGAIN);
		close_peers(&u[n - 1]);
	}
	peer_close(&r.p);
	OK(limit_set(USER + 1, MAX_MESSAGES, LIMIT_DEFAULT));
}

TEST_TIMEOUT("RES-2 the n-th user has 1 in n(n + 1) of the queue, for 1 to 32 users", 120)
{
	if (test_slow() > 1)
		SKIP("takes too long here; it is the same rule for the others");
	formula(&kinds[0]);
}

TEST_TIMEOUT("RES-2 the n-th user has 1 in n(n + 1) of the pool, for 1 to 32 users", 120)
{
	formula(&kinds[1]);
}

TEST_TIMEOUT("RES-2 the n-th user has 1 in n(n + 1) of the handles, for 1 to 32 users", 120)
{
	formula(&kinds[2]);
}

TEST_TIMEOUT("RES-2 the n-th user has 1 in n(n + 1) of the files, for 1 to 32 users", 120)
{
	formula(&kinds[3]);
}

TEST("RES-2 one peer leaves a quarter of what its user may have to the others")
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		const struct kind *k = &kinds[i];
		struct receiver r = receiver_new(k->take == take_pool ? POOL : 0);
		struct user_peers u = {};
		u32 first, second;

		/* That many messages take too long with all checks. */
		if (i == 0 && test_slow() > 1)
			continue;
		add_peer(&u, USER, &r);
		add_peer(&u, USER, &r);
		first = take_all(k, &u.p[0], u.h[0]);
		second = take_all(k, &u.p[1], u.h[1]);
		LE(first, k->all / 8 * 3);
		GE(first + k->least, k->all / 8 * 3);
		LE(second, k->all / 32 * 3 + 1);
		GE(second + k->least, k->all / 32 * 3);
		close_peers(&u);
		peer_close(&r.p);
	}
}

static u32 rnd(u32 n)
{
	static u32 state = 7;

	state = state * 1664525 + 1013904223;
	return (state >> 8) % n;
}

/* That n messages would go, and sends none: the last destination is not known. */
static bool could_send(const struct peer *p, u64 h, u32 n)
{
	u64 dests[BUS1_MAX_DESTS];
	s32 errors[BUS1_MAX_DESTS];
	int r;

	for (u32 i = 0; i < n; i++)
		dests[i] = h;
	dests[n] = 12345;
	r = send_many(p, 0, dests, n + 1, errors, "");
	CHECK(r == -ENXIO || r == -EAGAIN);
	return r == -ENXIO;
}

TEST_TIMEOUT("RES-2 whoever comes finds its share, in whatever order others take and leave", 120)
{
	enum { USERS = 12 };
	struct receiver r = receiver_new(0);
	struct user_peers u[USERS] = {}, late = {};
	static struct bus1_msg msgs[BUS1_MAX_MSGS];
	u64 buf[64];
	u32 probes = 0, full = 0;

	many_files();
	for (u32 i = 0; i < USERS; i++)
		add_peer(&u[i], USER + i, &r);
	add_peer(&late, USER + USERS, &r);
	for (unsigned int round = 0; round < test_rounds(1500); round++) {
		u32 i = rnd(USERS), n = USERS, share;

		if (rnd(5)) {
			if (take_messages(&u[i].p[0], u[i].h[0],
					  1 + rnd(BUS1_MAX_DESTS / test_slow())))
				full++;
		} else {
			struct bus1_cmd_recv cmd = {
				.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(msgs),
				.n_msgs = 1 + rnd(BUS1_MAX_MSGS), .msg_size = sizeof(msgs[0]),
				.buf = PTR(buf), .buf_size = sizeof(buf) };

			recv_cmd(&r.p, &cmd);
		}
		/* Of what is promised to one more than there can be, a peer's part. */
		share = (1 << 16) / ((n + 1) * (n + 2)) * 3 / 4 - 1;
		LT(share, BUS1_MAX_DESTS);
		CHECK(could_send(&late.p[0], late.h[0], share));
		probes++;
	}
	if (test_slow() == 1)
		GT(full, probes / 20);
}

/* What is in flight of all users of the test, which are n. */
static u64 in_flight(u32 n, int which)
{
	struct user user;
	u64 sum = 0;

	for (u32 i = 0; i < n; i++)
		if (user_read(USER + i, &user))
			sum += user.used[which];
	return sum;
}

TEST("RES-2 a receiver that never reads costs its senders nothing elsewhere")
{
	const struct kind *k = &kinds[3];
	struct receiver deaf = receiver_new(0), other = receiver_new(0);
	struct user_peers x = {}, y = {};
	u64 h;

	/* All that one user can have there, and a second one still has its share. */
	user_takes_all(k, &x, USER, &deaf);
	add_peer(&y, USER + 1, &deaf);
	GE(take_all(k, &y.p[0], y.h[0]) + 2, k->all / 6 * 3 / 4);
	h = grant(&other.p, other.node, &x.p[0]);
	EQ(take_all(k, &x.p[0], h), k->all / 8 * 3);
	GT(drain(&other.p), 0);
	/* There is a notice of room at the one; none at the other. */
	EQ(take_all(k, &x.p[0], h), k->all / 8 * 3);
	for (int i = 0; i < 2; i++)
		ERR(send_cmd(&x.p[0], &(struct bus1_cmd_send){
			.flags = BUS1_SEND_NOTIFY, .dest = i ? h : x.h[0],
			.fds = PTR(&(s32){ 0 }), .n_fds = 1 }), EAGAIN);
	GT(drain(&other.p), 0);
	got_notice(__FILE__, __LINE__, &x.p[0], BUS1_MSG_WRITABLE, h, 0, false);
	NOTHING(&x.p[0]);
	close_peers(&x);
	close_peers(&y);
}

TEST_TIMEOUT("RES-1 RES-2 what a receive faults on is charged to the receiver", 120)
{
	struct peer b = peer_of(USER, 0);
	struct receiver r = { .p = b, .node = node_new(&b, 1) };
	struct user_peers u = {};
	static struct bus1_msg msgs[BUS1_MAX_MSGS];
	u64 buf[64];
	struct user own, sender;
	u32 queued, rounds = test_rounds(400);
	/* At the first message, at the last one, at what is written after all of them. */
	u64 bad[] = { 8, PTR((u8 *)edge_alloc(sizeof(msgs)) + sizeof(msgs[0])) };
	struct bus1_cmd_recv cmd = {
		.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(msgs), .n_msgs = BUS1_MAX_MSGS,
		.msg_size = sizeof(msgs[0]), .buf = PTR(buf), .buf_size = sizeof(buf) };
	struct bus1_cmd_recv *unwritable = read_only(&cmd, sizeof(cmd));

	bool few = test_slow() > 1;	/* filling it takes too long with all checks */

	add_peer(&u, USER + 1, &r);
	if (few)
		OK(take_messages(&u.p[0], u.h[0], 1000));
	else
		take_all(&kinds[0], &u.p[0], u.h[0]);
	EQ(in_flight(2, MAX_MESSAGES), peer_info(&b).n_queued);
	for (u32 i = 0; i < rounds; i++) {
		struct bus1_cmd_recv now = cmd;

		now.msgs = bad[i % 2];
		ERR(recv_cmd(&b, i % 3 == 2 ? unwritable : &now), EFAULT);
		if (!few)
			take_all(&kinds[0], &u.p[0], u.h[0]);
		if (i % 20)
			continue;
		queued = peer_info(&b).n_queued;
		LE(queued, 1 << 16);
		EQ(in_flight(2, MAX_MESSAGES), queued);
	}
	CHECK(user_read(USER, &own));
	CHECK(user_read(USER + 1, &sender));
	EQ(own.used[MAX_MESSAGES], BUS1_MAX_MSGS);
	LE(sender.used[MAX_MESSAGES], (1 << 16) / 8 * 3);
	GT(drain(&b), few ? 999 : (1 << 16) / 8 * 3 - 2);
	EQ(in_flight(2, MAX_MESSAGES), 0);
	close_peers(&u);
}

static void write_map(pid_t pid, const char *file, const char *text)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	fd = (int)OK(SYS(open(path, O_WRONLY | O_CLOEXEC)));
	EQ(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

/*
 * A user makes a namespace in which it has many users. (Root has mapped them:
 * more than its own number nobody can map by himself.)
 */
TEST_TIMEOUT("RES-2 in namespaces of its own a user is the one user it was", 120)
{
	struct receiver r = receiver_new(0);
	int go[2], ready[2];
	struct user user, other;
	pid_t pid;
	char c = 0;

	many_files();
	OK(SYS(pipe2(go, O_CLOEXEC)));
	OK(SYS(pipe2(ready, O_CLOEXEC)));
	pid = test_fork();
	if (!pid) {
		static struct user_peers u;
		u32 got = 0, more;

		OK(SYS(setresuid(USER, USER, USER)));
		if (unshare(CLONE_NEWUSER))
			SKIP("unshare: %s", strerrorname_np(errno));
		EQ(write(ready[1], &c, 1), 1);
		EQ(read(go[0], &c, 1), 1);
		for (u32 i = 0; i < 12; i++) {
			OK(SYS(seteuid(i)));
			u.p[i] = peer_new(0);
			OK(SYS(seteuid(0)));
			u.h[i] = grant(&r.p, r.node, &u.p[i]);
			more = take_all(&kinds[3], &u.p[i], u.h[i]);
			got += more;
		}
		EQ(more, 0);
		LE(got, 1 << 13);
		GE(got + 2, 1 << 13);
		/* And in one within that. */
		OK(SYS(unshare(CLONE_NEWUSER)));
		u.p[12] = peer_new(0);
		u.h[12] = grant(&r.p, r.node, &u.p[12]);
		EQ(take_all(&kinds[3], &u.p[12], u.h[12]), 0);
		EQ(write(ready[1], &c, 1), 1);
		EQ(read(go[0], &c, 1), 1);
		_exit(0);
	}
	close(ready[1]);
	if (read(ready[0], &c, 1) != 1)
		test_wait(pid);
	write_map(pid, "uid_map", "0 7100 1\n1 7101 20\n");
	write_map(pid, "gid_map", "0 0 1\n");
	EQ(write(go[1], &c, 1), 1);
	if (read(ready[0], &c, 1) != 1)
		test_wait(pid);
	CHECK(user_read(USER, &user));
	EQ(user.used[MAX_PEERS], 13);
	GE(user.used[MAX_FILES] + 2, 1 << 13);
	for (u32 i = 1; i < 12; i++)
		if (user_read(USER + i, &other))
			EQ(other.used[MAX_PEERS], 0);
	EQ(write(go[1], &c, 1), 1);
	test_wait(pid);
}
