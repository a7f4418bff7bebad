// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Threads that share peers, and know all their ids, do whatever they like with
 * them at once: any command may find that another was faster, and says so with
 * an errno of its own; nothing else may happen.
 */
#include "raw.h"

#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PEERS = 4, IDS = 16, THREADS = 6 };

static struct peer peers[PEERS];
static u64 ids[PEERS][IDS];		/* nodes and handles of each, some gone */
static bool stop;

struct actor {
	struct test_thread thread;
	u32 state;
};

static u32 rnd(struct actor *t, u32 n)
{
	t->state = t->state * 1664525 + 1013904223;
	return (t->state >> 8) % n;
}

static u64 *slot(struct actor *t, u32 peer)
{
	return &ids[peer][rnd(t, IDS)];
}

static u64 load(const u64 *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static void store(u64 *p, u64 id)
{
	__atomic_store_n(p, id, __ATOMIC_RELAXED);
}

/* A descriptor may be another peer's by now, or nobody's for a moment. */
#define ONE_OF(r, ...)								\
	do {									\
		static const int allowed_[] = { 0, __VA_ARGS__ };		\
		bool found_ = false;						\
										\
		for (size_t k_ = 0; k_ < ARRAY_SIZE(allowed_); k_++)		\
			found_ |= (r) == -allowed_[k_];				\
		if (!found_)							\
			FAIL(#r ": -%s", strerrorname_np(-(r)));		\
	} while (0)

static void act(struct actor *t)
{
	u32 i = rnd(t, PEERS), j = rnd(t, PEERS);
	u64 many[4], out[4], *s = slot(t, i);
	struct bus1_cmd_node node = { .cookie = 1 };
	struct bus1_pass pass[3] = {};
	struct bus1_cmd_send send = {};
	static u8 data[20000];
	struct in in;
	int r;

	for (int k = 0; k < 4; k++)
		many[k] = load(slot(t, i));
	switch (rnd(t, 12)) {
	case 0:
		r = node_create(&peers[i], &node);
		ONE_OF(r, EBADF);
		if (!r)
			store(s, node.id);
		break;
	case 1:
		r = ids_cmd(&peers[i], BUS1_CMD_NODE_DESTROY, rnd(t, 2), many, 1 + rnd(t, 2));
		ONE_OF(r, EBADF, ENXIO, EPERM, EINVAL, EBUSY);
		break;
	case 2:
		r = ids_cmd(&peers[i], BUS1_CMD_HANDLE_RELEASE, 0, many, 1 + rnd(t, 4));
		ONE_OF(r, EBADF, ENXIO, EPERM);
		break;
	case 3:
		r = transfer(&peers[i], &peers[j], rnd(t, 2), many, out, 1 + rnd(t, 3));
		ONE_OF(r, EBADF, ENXIO, EPERM, EDQUOT);
		if (!r)
			store(slot(t, j), out[0]);
		break;
	case 4:
		poll_now(&peers[i]);
		break;
	case 5:
		if (rnd(t, 10))
			break;
		r = peers[i].fd;
		if (rnd(t, 2)) {
			/* Another peer under the same number, at one instant. */
			struct peer p = peer_new(1 << 18);

			OK(SYS(munmap((void *)p.pool, p.pool_size)));
			OK(SYS(dup2(p.fd, r)));
			close(p.fd);
		}
		break;
	case 6:
	case 7:
	case 8:
		send.n_handles = rnd(t, 4);
		send.handles = send.n_handles ? PTR(pass) : 0;
		for (u32 k = 0; k < send.n_handles; k++)
			pass[k].id = load(slot(t, i));
		send.len = rnd(t, 3) ? rnd(t, 200) : rnd(t, sizeof(data));
		send.data = PTR(data);
		if (rnd(t, 2)) {
			send.dest = many[0];
		} else {
			send.dests = PTR(many);
			send.n_dests = 1 + rnd(t, 4);
			send.flags = rnd(t, 2) ? BUS1_SEND_PARTIAL : 0;
		}
		r = send_cmd(&peers[i], &send);
		ONE_OF(r, EBADF, ENXIO, EHOSTUNREACH, EAGAIN, EMSGSIZE, EDQUOT);
		break;
	default:
		if (rnd(t, 8) == 0) {
			r = drop_now(&peers[i], &in.m);
			ONE_OF(r, EBADF, EAGAIN);
			break;
		}
		{
			/* The pool may be another's: its mapping is none of ours. */
			struct peer p = { .fd = peers[i].fd };

			r = recv_now(&p, &in);
			ONE_OF(r, EBADF, EAGAIN);
			if (r)
				break;
			for (u32 k = 0; k < in.m.n_handles; k++)
				store(slot(t, i), in.h[k].id);
			if (in.m.slice) {
				r = slice_release(&p, in.m.slice);
				ONE_OF(r, EBADF, ENXIO);
			}
		}
		break;
	}
}

static void run(void *arg)
{
	struct actor *t = arg;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		for (int i = 0; i < 50; i++)
			act(t);
}

TEST_TIMEOUT("stress, threads that share peers and all their ids", 90)
{
	struct actor actors[THREADS] = {};
	struct test_counts zero;
	bool counted = test_counts(&zero);
	char why[200];

	for (int i = 0; i < PEERS; i++) {
		peers[i] = peer_new(1 << 18);
		OK(SYS(munmap((void *)peers[i].pool, peers[i].pool_size)));
		peers[i].pool = NULL;
	}
	for (u32 i = 0; i < THREADS; i++) {
		actors[i].state = i * 7919;
		test_start(&actors[i].thread, run, &actors[i]);
	}
	test_sleep_ms(6000);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (u32 i = 0; i < THREADS; i++)
		test_join(&actors[i].thread);
	for (int i = 0; i < PEERS; i++)
		close(peers[i].fd);
	if (counted && !test_counts_settle(&zero, why, sizeof(why)))
		FAIL("left behind: %s", why);
}
