// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Independent multicasts, of several senders at once to three receivers. Those
 * that ask for it are seen in the same order by all (ORD-4); those that do not
 * may be seen in different orders, and are: or else the first says nothing.
 */
#include "stage.h"

#include <stdio.h>
#include <string.h>

enum { MAX_SENDERS = 3, RECEIVERS = 3, BURST = 128 };

struct total {
	struct peer senders[MAX_SENDERS];
	u64 to[MAX_SENDERS][RECEIVERS];
	unsigned int n_senders, bursts;
	u64 flags[MAX_SENDERS];
	u64 begun[MAX_SENDERS];		/* multicasts of each */
	pthread_barrier_t barrier;
};

struct total_arg {
	struct total *t;
	unsigned int i;
	u64 rng;
};

/* Side by side with the next one, if that is to be had: it may not be running. */
static void keep_abreast(struct total_arg *x)
{
	struct total *t = x->t;
	u64 mine = __atomic_add_fetch(&t->begun[x->i], 1, __ATOMIC_SEQ_CST);
	const u64 *other = &t->begun[(x->i + 1) % t->n_senders];

	for (unsigned int i = 0; i < 2000 && __atomic_load_n(other, __ATOMIC_SEQ_CST) < mine; i++)
		;
}

static void send_burst(struct total_arg *x)
{
	struct total *t = x->t;
	u64 dawdle = rnd(&x->rng) & 1 ? 255 : 0;

	for (u64 k = 0; k < BURST; k++) {
		u64 number = (u64)x->i << 32 | k, dests[RECEIVERS];
		unsigned int at = rnd(&x->rng) % RECEIVERS;
		struct bus1_cmd_send cmd = {
			.flags = t->flags[x->i], .dests = PTR(dests), .n_dests = RECEIVERS,
			.data = PTR(&number), .len = sizeof(number),
		};

		/* Each its own way round, from anywhere. */
		for (unsigned int r = 0; r < RECEIVERS; r++)
			dests[r] = t->to[x->i][(at + (x->i & 1 ? RECEIVERS - r : r)) % RECEIVERS];
		keep_abreast(x);
		spin(rnd(&x->rng) & dawdle);
		OK(send_cmd(&t->senders[x->i], &cmd));
	}
}

static void send_bursts(void *arg)
{
	struct total_arg *x = arg;

	test_pin(x->i);
	for (unsigned int b = 0; b < x->t->bursts; b++) {
		pthread_barrier_wait(&x->t->barrier);
		send_burst(x);
		pthread_barrier_wait(&x->t->barrier);
	}
}

/* Received while they are sent: what is not committed is skipped then. */
static void receive_burst(struct inbox *in, u64 *log, u32 *n, u32 want)
{
	while (*n < want) {
		u32 got = inbox_recv(in, false);

		LE(*n + got, want);
		for (u32 i = 0; i < got; i++)
			log[(*n)++] = inbox_number(in, &in->msgs[i]);
		if (!got)
			break;
	}
}

/* Pairs of neighbours, in the order of receiver 0, that another has reversed. */
static u64 count_differences(u64 log[RECEIVERS][MAX_SENDERS * BURST], u32 n)
{
	static u32 at[RECEIVERS][MAX_SENDERS][BURST];
	u64 differences = 0;

	for (unsigned int r = 0; r < RECEIVERS; r++)
		for (u32 i = 0; i < n; i++)
			at[r][log[r][i] >> 32][log[r][i] & 0xffffffff] = i;
	for (u32 i = 0; i + 1 < n; i++) {
		u64 a = log[0][i], b = log[0][i + 1];

		for (unsigned int r = 1; r < RECEIVERS; r++)
			if (at[r][a >> 32][a & 0xffffffff] > at[r][b >> 32][b & 0xffffffff]) {
				differences++;
				break;
			}
	}
	return differences;
}

/* Neighbours by different senders: those that raced. */
static u64 count_changes(const u64 *log, u32 n)
{
	u64 changes = 0;

	for (u32 i = 0; i + 1 < n; i++)
		changes += log[i] >> 32 != log[i + 1] >> 32;
	return changes;
}

/* Leaves those that ask, if any do. */
static u32 keep_asking(const struct total *t, u64 *log, u32 n, bool any)
{
	u32 kept = 0;

	for (u32 i = 0; i < n; i++)
		if (!any || t->flags[log[i] >> 32])
			log[kept++] = log[i];
	return kept;
}

struct outcome {
	u64 rounds, changes, differences;
};

/* The receivers are looked at while the burst goes on, or after it. */
static struct outcome total(unsigned int n_senders, unsigned int n_ask, u64 flag,
			    unsigned int multicasts)
{
	static u64 log[RECEIVERS][MAX_SENDERS * BURST];
	static struct inbox in[RECEIVERS];
	struct total t = {
		.n_senders = n_senders, .bursts = multicasts / (BURST * n_senders) + 1,
	};
	struct total_arg arg[MAX_SENDERS];
	struct test_thread thread[MAX_SENDERS];
	struct outcome out = {};
	u64 rng = litmus_seed() + n_senders;
	u32 want = n_senders * BURST;

	memset(in, 0, sizeof(in));
	for (unsigned int i = 0; i < n_senders; i++) {
		t.senders[i] = peer_new(0);
		t.flags[i] = i < n_ask ? flag : 0;
	}
	for (unsigned int r = 0; r < RECEIVERS; r++) {
		in[r].peer = peer_new(0);
		in[r].node = node_new(&in[r].peer, 0);
		for (unsigned int i = 0; i < n_senders; i++)
			t.to[i][r] = grant(&in[r].peer, in[r].node, &t.senders[i]);
	}
	EQ(pthread_barrier_init(&t.barrier, NULL, n_senders + 1), 0);
	for (unsigned int i = 0; i < n_senders; i++) {
		arg[i] = (struct total_arg){ &t, i, rnd(&rng) };
		test_start(&thread[i], send_bursts, &arg[i]);
	}
	for (unsigned int b = 0; b < t.bursts; b++) {
		u32 n[RECEIVERS] = {}, kept = 0;
		bool busy = rnd(&rng) & 1;

		pthread_barrier_wait(&t.barrier);
		for (unsigned int i = 0; busy && n[RECEIVERS - 1] < want; i++) {
			for (unsigned int r = 0; r < RECEIVERS; r++)
				receive_burst(&in[r], log[r], &n[r], want);
			nap(i | 511);
		}
		pthread_barrier_wait(&t.barrier);
		for (unsigned int r = 0; r < RECEIVERS; r++) {
			receive_burst(&in[r], log[r], &n[r], want);
			EQ(n[r], want);
			kept = keep_asking(&t, log[r], want, n_ask > 0);
		}
		out.rounds += kept;
		out.changes += count_changes(log[0], kept);
		out.differences += count_differences(log, kept);
	}
	for (unsigned int i = 0; i < n_senders; i++) {
		test_join(&thread[i]);
		peer_close(&t.senders[i]);
	}
	for (unsigned int r = 0; r < RECEIVERS; r++)
		peer_close(&in[r].peer);
	pthread_barrier_destroy(&t.barrier);
	return out;
}

/* `except`: how many senders do not ask. */
static struct outcome totals(const char *what, u64 flag, unsigned int except,
			     unsigned int multicasts)
{
	struct outcome sum = {};

	for (unsigned int n = 2 + except; n <= MAX_SENDERS; n++) {
		struct outcome out = total(n, flag ? n - except : 0, flag,
					   test_rounds(multicasts));

		printf("# %s, %u senders: %llu multicasts, %llu beside another's, %llu seen in "
		       "different orders (seed %llu)\n", what, n, (unsigned long long)out.rounds,
		       (unsigned long long)out.changes, (unsigned long long)out.differences,
		       (unsigned long long)litmus_seed());
		sum.rounds += out.rounds;
		sum.changes += out.changes;
		sum.differences += out.differences;
	}
	fflush(stdout);
	GT(sum.changes, 0);
	return sum;
}

enum { MULTICASTS = 48 * 1024 };

TEST("ORD-4 litmus, multicasts that do not ask come in different orders")
{
	GT(totals("unordered", 0, 0, MULTICASTS).differences, 0);
}

#ifdef BUS1_SEND_ORDERED
TEST("ORD-4 litmus, multicasts that ask come in one order")
{
	EQ(totals("ordered", BUS1_SEND_ORDERED, 0, MULTICASTS).differences, 0);
}

TEST("ORD-4 litmus, and so they do beside one that does not ask")
{
	EQ(totals("ordered, but one", BUS1_SEND_ORDERED, 1, MULTICASTS).differences, 0);
}
#endif
