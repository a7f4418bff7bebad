// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Processes that create, pass, release, destroy, send, receive and die at
 * random, killed half of the time. What they learn of each other goes through
 * the bus alone: each begins with one handle, to the hub, and the hub passes
 * the handles it gets to whoever is there.
 *
 * What each sees is checked as far as it can be known: nothing arrives that was
 * not sent (payloads are sums of themselves), nobody is told of a death twice,
 * no command fails with what it must not. At the end, nothing is left.
 */
#include "slab.h"

#include "raw.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	WORKERS = 200,
	HANDLES = 24,			/* that a worker keeps, of those it got */
	NODES = 8,
	SLICES = 8,
	POOL = 1 << 18,
};

static u32 rnd_state;

static u32 rnd(u32 n)
{
	rnd_state = rnd_state * 1664525 + 1013904223;
	return (rnd_state >> 8) % n;
}

struct worker {
	struct peer p;
	u64 hub;
	u64 handle[HANDLES];
	bool dead[HANDLES];		/* that was told */
	u64 node[NODES];
	u64 slice[SLICES];
	u8 data[32768];
};

/* A payload: its length, its seed, and what follows from them. */
static size_t payload(struct worker *w)
{
	u32 kind = rnd(10);
	size_t len = kind < 5 ? 8 + rnd(100) : kind < 9 ? 8 + rnd(4000) : 8 + rnd(30000);
	u32 head[2] = { (u32)len, rnd(1u << 24) };

	fill(w->data + 8, len - 8, head[1]);
	memcpy(w->data, head, 8);
	return len;
}

static void check_payload(struct worker *w, const u8 *data, u64 len)
{
	u32 head[2];

	GE(len, 8);
	memcpy(head, data, 8);
	EQ(head[0], len);
	fill(w->data, len - 8, head[1]);
	MEM(data + 8, w->data, len - 8);
}

static void forget_handle(struct worker *w, u32 i)
{
	if (w->handle[i])
		OK(release(&w->p, w->handle[i]));
	w->handle[i] = 0;
	w->dead[i] = false;
}

/* One count each: those of one handle may stand in several places. */
static void keep_handle(struct worker *w, u64 id)
{
	u32 i = rnd(HANDLES);
	bool told = false;

	for (u32 j = 0; j < HANDLES; j++)
		if (w->handle[j] == id)
			told = w->dead[j];
	forget_handle(w, i);
	w->handle[i] = id;
	w->dead[i] = told;
}

static void receive(struct worker *w)
{
	struct bus1_msg m[4];
	static u64 buf[2048];
	struct bus1_cmd_recv cmd = {
		.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(m), .n_msgs = 1 + rnd(4),
		.msg_size = sizeof(m[0]), .buf = PTR(buf), .buf_size = sizeof(buf),
	};
	int r;

	if (rnd(16) == 0) {
		cmd.flags |= BUS1_RECV_DROP;
		cmd.n_msgs = 1;
	} else if (rnd(8) == 0) {
		cmd.flags = 0;
		cmd.deadline = test_now() + rnd(3000000);
	}
	r = recv_cmd(&w->p, &cmd);
	if (r) {
		CHECK(r == -EAGAIN || r == -ETIMEDOUT);
		return;
	}
	for (u32 i = 0; i < cmd.n_msgs; i++) {
		if (m[i].type == BUS1_MSG_NODE_DEAD) {
			bool known = m[i].id == w->hub;

			for (u32 j = 0; j < HANDLES; j++)
				if (w->handle[j] == m[i].id) {
					CHECK(!w->dead[j]);
					w->dead[j] = known = true;
				}
			/* One of before, in m[], may have taken its place since. */
			for (u32 j = 0; j < i; j++)
				known |= m[j].n_handles > 0;
			CHECK(known);
			if (m[i].id == w->hub)
				_exit(0);
			continue;
		}
		if (m[i].type == BUS1_MSG_NODE_UNUSED) {
			for (u32 j = 0; j < NODES; j++)
				if (w->node[j] == m[i].id && rnd(2)) {
					r = destroy_unused(&w->p, m[i].id);
					if (!r)
						w->node[j] = 0;
					else
						ERR(r, EBUSY);
				}
			continue;
		}
		EQ(m[i].type, BUS1_MSG_DATA);
		if (m[i].flags & BUS1_MSG_F_DROPPED)
			continue;
		if (m[i].len)
			check_payload(w, m[i].slice ? w->p.pool + m[i].offset :
						      (u8 *)buf + m[i].offset, m[i].len);
		if (m[i].slice) {
			u32 at = rnd(SLICES);

			if (w->slice[at])
				OK(slice_release(&w->p, w->slice[at]));
			w->slice[at] = m[i].slice;
		}
		for (u32 k = 0; k < m[i].n_handles; k++) {
			struct bus1_handle h;

			memcpy(&h, (u8 *)buf + m[i].handles + k * sizeof(h), sizeof(h));
			NE(h.id, 0);
			if (h.flags & BUS1_HANDLE_OWN)
				ERR(release(&w->p, h.id),
				    h.flags & BUS1_HANDLE_DEAD ? ENXIO : EPERM);
			else if (h.id == w->hub)
				OK(release(&w->p, h.id));
			else
				keep_handle(w, h.id);
		}
	}
}

static void send_something(struct worker *w)
{
	struct bus1_pass pass[4] = {};
	u64 dests[6];
	struct bus1_cmd_send cmd = {};
	int r;

	if (rnd(4)) {
		cmd.len = payload(w);
		cmd.data = PTR(w->data);
	}
	cmd.n_handles = rnd(4);
	for (u32 i = 0; i < cmd.n_handles; i++)
		while (!(pass[i].id = rnd(2) ? w->node[rnd(NODES)] : w->handle[rnd(HANDLES)]))
			if (rnd(20) == 0) {
				cmd.n_handles = i;
				break;
			}
	cmd.handles = cmd.n_handles ? PTR(pass) : 0;
	if (rnd(5)) {
		cmd.dest = rnd(10) ? w->handle[rnd(HANDLES)] : rnd(2) ? w->hub : w->node[rnd(NODES)];
	} else {
		cmd.n_dests = 2 + rnd(5);
		cmd.dests = PTR(dests);
		cmd.flags = rnd(2) ? BUS1_SEND_PARTIAL : 0;
		for (u32 i = 0; i < cmd.n_dests; i++)
			dests[i] = rnd(8) ? w->handle[rnd(HANDLES)] : w->node[rnd(NODES)];
	}
	r = send_cmd(&w->p, &cmd);
	CHECK(!r || r == -ENXIO || r == -EHOSTUNREACH || r == -EAGAIN ||
	      r == -EMSGSIZE || r == -EDQUOT);
	if (r == -ENXIO && cmd.dest)
		FAIL("id %#llx, which is held, is not known", (unsigned long long)cmd.dest);
}

static void act(struct worker *w)
{
	u32 i;

	switch (rnd(20)) {
	case 0:
		i = rnd(NODES);
		if (!w->node[i])
			w->node[i] = node_new(&w->p, i);
		break;
	case 1:
		i = rnd(NODES);
		if (w->node[i]) {
			OK(destroy(&w->p, w->node[i]));
			w->node[i] = 0;
		}
		break;
	case 2:
	case 3:
		forget_handle(w, rnd(HANDLES));
		break;
	case 4:
		/* Several at once, all different, so that all are there. */
		{
			u64 ids[4];
			u32 n = 0, from = rnd(HANDLES - 4);

			for (i = from; i < from + 4; i++)
				if (w->handle[i]) {
					ids[n++] = w->handle[i];
					w->handle[i] = 0;
					w->dead[i] = false;
				}
			if (n)
				OK(ids_cmd(&w->p, BUS1_CMD_HANDLE_RELEASE, 0, ids, n));
		}
		break;
	case 5:
		i = rnd(SLICES);
		if (w->slice[i])
			OK(slice_release(&w->p, w->slice[i]));
		w->slice[i] = 0;
		break;
	case 6:
		i = rnd(NODES);
		if (w->node[i])
			send_cmd(&w->p, &(struct bus1_cmd_send){
				.dest = w->hub, .n_handles = 1,
				.handles = PTR((&(struct bus1_pass){ .id = w->node[i] })) });
		break;
	case 7:
		/* Through another peer of its own, that ends at once. */
		i = rnd(HANDLES);
		if (w->handle[i]) {
			struct peer q = peer_new(0);
			u64 h = grant(&w->p, w->handle[i], &q);
			int r = send_data(&q, h, NULL, 0);

			CHECK(!r || r == -EHOSTUNREACH || r == -EAGAIN);
			peer_close(&q);
		}
		break;
	case 8:
	case 9:
	case 10:
	case 11:
	case 12:
		send_something(w);
		break;
	default:
		receive(w);
		break;
	}
}

static _Noreturn void work(const struct peer *hub, u64 hub_node, u32 seed, u64 until)
{
	static struct worker w;

	rnd_state = seed;
	w.p = peer_new(rnd(4) ? POOL : 0);
	w.hub = grant(hub, hub_node, &w.p);
	OK(SYS(munmap((void *)hub->pool, hub->pool_size)));
	close(hub->fd);
	w.node[0] = node_new(&w.p, 0);
	send_id(&w.p, w.hub, w.node[0]);
	while (test_now() < until) {
		act(&w);
		if (rnd(3000) == 0)
			_exit(0);
	}
	_exit(0);
}

/* Takes handles in, and passes what it has on to each. */
static void run_hub(struct worker *hub)
{
	receive(hub);
	send_something(hub);
	send_something(hub);
	if (rnd(8) == 0)
		forget_handle(hub, rnd(HANDLES));
}

static void storm(unsigned int n_workers, unsigned int n_lives, unsigned int seconds)
{
	static struct worker hub;
	pid_t pid[WORKERS];
	u64 until = test_now() + (u64)seconds * 1000000000, hub_node;
	unsigned int lives = 0;

	hub = (struct worker){ .p = peer_new(POOL) };
	hub_node = node_new(&hub.p, 0x4b);
	hub.node[0] = hub_node;
	for (unsigned int i = 0; i < n_workers; i++)
		pid[i] = 0;
	rnd_state = 12345;
	while (test_now() < until || lives < n_workers) {
		unsigned int i = rnd(n_workers);

		if (!pid[i] && lives < n_lives) {
			u32 seed = rnd_state + lives++;

			pid[i] = test_fork();
			if (!pid[i])
				work(&hub.p, hub_node, seed, until + 1000000000);
		} else if (pid[i] && lives >= n_workers && rnd(40) == 0) {
			/* Wherever it is now. */
			test_kill(pid[i]);
			pid[i] = 0;
		} else if (pid[i]) {
			int status;

			if (waitpid(pid[i], &status, WNOHANG) == pid[i]) {
				if (!WIFEXITED(status) || WEXITSTATUS(status))
					FAIL("a process ended with status %#x", status);
				pid[i] = 0;
			}
		}
		if (lives >= n_workers || rnd(4) == 0)
			run_hub(&hub);
	}
	/* Half of those that are left are killed; the others see the hub go. */
	for (unsigned int i = 0; i < n_workers; i++)
		if (pid[i] && i % 2) {
			test_kill(pid[i]);
			pid[i] = 0;
		}
	peer_close(&hub.p);
	for (unsigned int i = 0; i < n_workers; i++)
		if (pid[i])
			test_wait(pid[i]);
}

TEST_TIMEOUT("stress, 200 processes that live and die at random leave nothing", 180)
{
	struct slab *before = malloc(sizeof(*before));
	struct test_counts zero;
	bool counted = test_counts(&zero);
	char why[200];

	CHECK(before);
	/* The first one fills what is filled once: stacks, caches, tables. */
	storm(WORKERS, 2 * WORKERS, 3);
	if (counted && !test_counts_settle(&zero, why, sizeof(why)))
		FAIL("left behind: %s", why);
	slab_read(before);
	slab_check(before, 1 << 30);
	slab_read(before);
	storm(WORKERS, 10 * WORKERS, 12);
	if (counted && !test_counts_settle(&zero, why, sizeof(why)))
		FAIL("left behind: %s", why);
	slab_check(before, 256 << 10);
}
