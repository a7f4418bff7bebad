// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * RES-2: eight users do all the harm they can, each in its own way, to a server
 * that treats all alike, while another user does round trips with it: each of
 * those comes to its end, and what all of it takes of the machine stays within the
 * limits.
 */
#include "raw.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	USER = 7500,
	POOL = 1 << 20,
	BATCH = 64,			/* messages of one receive of the server's */
};

/* What a hostile user may have: less than by default, for the sake of slow machines. */
static const u64 limits[N_MAX] = {
	[MAX_PEERS] = 60, [MAX_NODES] = 3000, [MAX_HANDLES] = 3000, [MAX_MESSAGES] = 2500,
	[MAX_FILES] = 600, [MAX_PAGES] = 600,
};

static u8 bytes[POOL];

/* Here nothing is checked, but that the kernel comes back. */

static u64 enter(struct peer *p, int door)
{
	struct bus1_handle h;

	*p = peer_new(POOL / 4);
	while (import_cmd(p, door, &h))
		sched_yield();
	return h.id;
}

/* Empty messages, as many as go. */
static void flood_queue(int door)
{
	struct peer p[4];
	u64 h[4], dests[256];

	for (int i = 0; i < 4; i++)
		h[i] = enter(&p[i], door);
	for (;;)
		for (int i = 0; i < 4; i++) {
			for (size_t k = 0; k < ARRAY_SIZE(dests); k++)
				dests[k] = h[i];
			if (send_many(&p[i], 0, dests, ARRAY_SIZE(dests), NULL, "") &&
			    send_str(&p[i], h[i], ""))
				sched_yield();
		}
}

/* Payloads of the largest size, and of the smallest that take a slice. */
static void flood_pool(int door)
{
	struct peer p[3];
	u64 h[3];

	for (int i = 0; i < 3; i++)
		h[i] = enter(&p[i], door);
	for (u32 n = 0;; n++)
		if (send_data(&p[n % 3], h[n % 3], bytes, n % 5 ? POOL >> (1 + n % 9) : 100))
			sched_yield();
}

/* Handles, each of another node, weak ones and dead ones among them. */
static void flood_handles(int door)
{
	struct bus1_pass pass[200];
	struct peer p;
	u64 h = enter(&p, door);

	for (;;) {
		for (size_t i = 0; i < ARRAY_SIZE(pass); i++) {
			struct bus1_cmd_node node = {};

			if (node_create(&p, &node))
				node.id = h;
			pass[i] = (struct bus1_pass){ .id = node.id,
						      .flags = i % 7 ? 0 : BUS1_PASS_WEAK };
		}
		if (send_cmd(&p, &(struct bus1_cmd_send){
				.dest = h, .handles = PTR(pass), .n_handles = ARRAY_SIZE(pass) }))
			sched_yield();
		for (size_t i = 0; i < ARRAY_SIZE(pass); i++)
			if (pass[i].id != h)
				destroy(&p, pass[i].id);
	}
}

static void flood_files(int door)
{
	s32 fds[BUS1_MAX_FDS];
	struct peer p;
	u64 h = enter(&p, door);
	int pipes[2];

	for (;;) {
		OK(SYS(pipe2(pipes, O_CLOEXEC)));
		for (int i = 0; i < BUS1_MAX_FDS; i++)
			fds[i] = pipes[i % 2];
		if (send_fds(&p, h, fds, BUS1_MAX_FDS) && send_fds(&p, h, fds, 3))
			sched_yield();
		close(pipes[0]);
		close(pipes[1]);
	}
}

/* Requests whose replies nobody reads, by peers without room for them. */
static void read_nothing(int door)
{
	struct peer p[4];
	u64 h[4], n[4];

	for (int i = 0; i < 4; i++) {
		h[i] = enter(&p[i], door);
		n[i] = node_new(&p[i], 1);
	}
	for (u32 i = 0;; i++)
		if (send_id(&p[i % 4], h[i % 4], n[i % 4]))
			sched_yield();
}

/* Peers that come, leave something on its way, and go. */
static void come_and_go(int door)
{
	for (;;) {
		struct peer p = { .fd = open("/dev/" BUS1_DEVICE, O_RDWR | O_CLOEXEC) };
		struct bus1_handle h;

		if (p.fd < 0) {
			sched_yield();
			continue;
		}
		if (!import_cmd(&p, door, &h)) {
			struct bus1_cmd_node node = {};
			int fd;

			send_str(&p, h.id, "I was here");
			if (!node_create(&p, &node)) {
				send_id(&p, h.id, node.id);
				fd = export_fd(&p, node.id, 0);
				if (fd >= 0)
					close(fd);
			}
		}
		close(p.fd);
	}
}

/* Badges without end; messages to itself, whose slices it keeps, and faults on. */
static void hoard(int door)
{
	struct peer p;
	u64 h = enter(&p, door), n = node_new(&p, 1), id;

	for (u64 badge = 1;; badge++) {
		struct in in;

		if (mint(&p, badge % 2 ? BUS1_MINT_ONCE : 0, n, badge, &id))
			sched_yield();
		else
			send_id(&p, h, id);
		send_data(&p, n, bytes, 500 + badge % 3000);
		recv_cmd(&p, &(struct bus1_cmd_recv){ .flags = BUS1_RECV_NONBLOCK, .msgs = 8,
						      .n_msgs = 1, .msg_size = 64 });
		if (badge % 4 == 0)
			recv_now(&p, &in);
	}
}

/* Whoever can wait waits, for notices and in the call, and gives up again. */
static void wait_for_room(int door)
{
	enum { N = 16 };
	struct peer p[N];
	u64 h[N];

	for (int i = 0; i < N; i++)
		h[i] = enter(&p[i], door);
	for (u32 n = 0;; n++) {
		const struct peer *q = &p[n % N];
		struct in in;
		int r;

		r = send_cmd(q, &(struct bus1_cmd_send){
			.flags = BUS1_SEND_NOTIFY, .dest = h[n % N], .data = PTR(bytes),
			.len = 200 << n % 9 });
		if (r && n % 64 == 0)
			send_cmd(q, &(struct bus1_cmd_send){
				.flags = BUS1_SEND_WAIT, .dest = h[n % N], .data = PTR(bytes),
				.len = 5000, .deadline = test_now() + 1000000 });
		recv_now(q, &in);
		if (n % 1000 == 999) {
			peer_close(&p[n % N]);
			h[n % N] = enter(&p[n % N], door);
		}
	}
}

static void (*const ways[])(int door) = {
	flood_queue, flood_pool, flood_handles, flood_files,
	read_nothing, come_and_go, hoard, wait_for_room,
};

enum { HOSTILE = ARRAY_SIZE(ways), GOOD = USER + HOSTILE };

/* A request brings a handle to reply to. Its payload comes back. */
static _Noreturn void do_round_trips(int door, u32 rounds)
{
	struct peer p;
	u64 h, node;
	u8 data[3000];
	struct in in;

	OK(SYS(setresuid(GOOD, GOOD, GOOD)));
	h = enter(&p, door);
	node = node_new(&p, 1);
	for (u32 i = 0; i < rounds; i++) {
		size_t len = i % 2 ? 40 : sizeof(data);
		struct bus1_pass pass = { .id = node };

		fill(data, len, i);
		OK(send_cmd(&p, &(struct bus1_cmd_send){
			.flags = BUS1_SEND_WAIT, .dest = h, .data = PTR(data), .len = len,
			.handles = PTR(&pass), .n_handles = 1 }));
		do {
			OK(recv_wait(&p, &in));
		} while (in.m.type != BUS1_MSG_DATA);
		EQ(in.m.len, len);
		MEM(in.data, data, len);
		if (in.m.slice)
			OK(slice_release(&p, in.m.slice));
	}
	_exit(0);
}

struct server {
	struct peer p;
	struct bus1_msg m[BATCH];
	u64 buf[BATCH * 1024];
	u64 slices[BATCH];
	u64 handles[BUS1_MAX_IDS];
	u32 n_slices, n_handles;
};

/*
 * Receives what is there, sends each one who wants it its payload, does not wait
 * for who has no room for it, and gives all back.
 */
static void serve(struct server *s)
{
	struct bus1_cmd_recv cmd = {
		.deadline = test_deadline(1),
		.msgs = PTR(s->m), .n_msgs = BATCH, .msg_size = sizeof(s->m[0]),
		.buf = PTR(s->buf), .buf_size = sizeof(s->buf),
	};
	int r = recv_cmd(&s->p, &cmd);

	if (r) {
		ERR(r, ETIMEDOUT);
		return;
	}
	s->n_slices = s->n_handles = 0;
	for (u32 i = 0; i < cmd.n_msgs; i++) {
		const struct bus1_msg *m = &s->m[i];
		const struct bus1_handle *h = (const void *)((u8 *)s->buf + m->handles);
		bool spent = false;

		if (m->type != BUS1_MSG_DATA)
			continue;
		if (m->n_handles == 1 && !(h->flags & BUS1_HANDLE_OWN)) {
			r = send_data(&s->p, h->id, m->slice ? s->p.pool + m->offset :
				      (u8 *)s->buf + m->offset, m->len);
			CHECK(!r || r == -EAGAIN || r == -EHOSTUNREACH || r == -EMSGSIZE ||
			      r == -EDQUOT);
			/* A one-shot handle goes with what is sent through it. */
			spent = !r && h->flags & BUS1_HANDLE_ONCE;
		}
		if (m->slice)
			s->slices[s->n_slices++] = m->slice;
		for (u32 k = 0; k < m->n_handles; k++)
			if (!(h[k].flags & BUS1_HANDLE_OWN) && !spent)
				OK(release(&s->p, h[k].id));
	}
	if (s->n_slices)
		OK(ids_cmd(&s->p, BUS1_CMD_SLICE_RELEASE, 0, s->slices, s->n_slices));
}

/* What the module has in all is no more than the users of the test may have. */
static void check_bounds(const struct test_counts *before)
{
	/*
	 * A peer that was closed stays as long as a handle to a node of it is on
	 * its way; what is in flight to the server it holds as well.
	 */
	u64 all = 0;

	for (int i = 0; i < N_MAX; i++)
		all += limits[i];

	const u64 bound[TEST_N_COUNTS] = {
		[TEST_PEERS] = HOSTILE * (limits[MAX_PEERS] + limits[MAX_MESSAGES]) + 8,
		[TEST_NODES] = HOSTILE * (limits[MAX_NODES] + limits[MAX_MESSAGES]) + 8,
		[TEST_HANDLES] = HOSTILE * (limits[MAX_HANDLES] + limits[MAX_MESSAGES]) +
				 BATCH * BUS1_MAX_HANDLES + 100,
		/* And the replies that nobody reads, at four peers. */
		[TEST_MESSAGES] = HOSTILE * limits[MAX_MESSAGES] + 4 * 3 * (1 << 16) / 8 + 100,
		[TEST_SLICES] = HOSTILE * (limits[MAX_MESSAGES] + POOL / 4 / 64) + POOL / 64,
		[TEST_POOL_PAGES] = HOSTILE * limits[MAX_PAGES] + 2 * POOL / 4096,
		[TEST_CHARGED] = HOSTILE * all + BATCH * BUS1_MAX_HANDLES + 4 * 3 * (1 << 16) / 8 +
				 2 * POOL / 4096 + 1000,
	};
	struct test_counts now;

	if (!test_counts(&now))
		return;
	for (int i = 0; i < TEST_N_COUNTS; i++)
		if (now.n[i] - before->n[i] > (int64_t)bound[i])
			FAIL("count %d is %lld, which should be at most %llu", i,
			     (long long)(now.n[i] - before->n[i]), (unsigned long long)bound[i]);
	for (u32 i = 0; i < HOSTILE; i++) {
		struct user user;

		if (!user_read(USER + i, &user))
			continue;
		for (int k = 0; k < N_MAX; k++)
			/*
			 * What it has faulted on is charged anyway, and what is over
			 * the limit for a moment, until that is found out.
			 */
			if (user.used[k] > limits[k] + BUS1_MAX_HANDLES + 2)
				FAIL("user %u has %llu %s", i, (unsigned long long)user.used[k],
				     limit_names[k]);
	}
}

TEST_TIMEOUT("RES-2 EVD-6 eight hostile users flood a server, and a good one gets through", 150)
{
	struct rlimit files = { 4096, 4096 };
	static struct server s;
	struct test_counts before;
	pid_t hostile[HOSTILE], good;
	int door, status, got;
	u32 rounds = test_slow() > 1 ? 3 : test_rounds(40);
	u64 node;

	if (geteuid())
		SKIP("only for root");
	OK(SYS(setrlimit(RLIMIT_NOFILE, &files)));
	for (u32 i = 0; i < HOSTILE; i++)
		for (int k = 0; k < N_MAX; k++)
			OK(limit_set(USER + i, k, limits[k]));
	CHECK(test_counts(&before));
	s.p = peer_new(POOL);
	node = node_new(&s.p, 1);
	door = (int)OK(export_fd(&s.p, node, 0));

	for (u32 i = 0; i < HOSTILE; i++) {
		hostile[i] = test_fork();
		if (!hostile[i]) {
			close(s.p.fd);
			OK(SYS(setresuid(USER + i, USER + i, USER + i)));
			ways[i](door);
			_exit(1);
		}
	}
	/* Let them fill it first. */
	for (int i = 0; i < 20 && peer_info(&s.p).n_queued < 4000; i++)
		test_sleep_ms(20 * test_slow());
	good = test_fork();
	if (!good) {
		close(s.p.fd);
		do_round_trips(door, rounds);
	}
	for (u32 i = 0; !(got = waitpid(good, &status, WNOHANG)); i++) {
		serve(&s);
		if (i % 200 == 0)
			check_bounds(&before);
	}
	EQ(got, good);
	EQ(status, 0);
	check_bounds(&before);
	/* None of them has come to an end; killed wherever they are, they leave nothing. */
	for (u32 i = 0; i < HOSTILE; i++) {
		if (waitpid(hostile[i], &status, WNOHANG))
			FAIL("hostile process %u ended with status %#x", i, status);
		test_kill(hostile[i]);
	}
	close_fd(door);
	peer_close(&s.p);
	nothing_charged(GOOD);
	for (u32 i = 0; i < HOSTILE; i++) {
		nothing_charged(USER + i);
		for (int k = 0; k < N_MAX; k++)
			OK(limit_set(USER + i, k, LIMIT_DEFAULT));
	}
}
