// SPDX-License-Identifier: GPL-2.0-or-later
#include "race.h"

#include <sched.h>
#include <string.h>
#include <time.h>

static void skew(u32 steps)
{
	for (volatile u32 i = 0; i < steps; i++)
		;
}

/* Mostly narrow; wide at times, as what decides is often not at the end of what is done. */
static u32 jitter(u32 n)
{
	return n % 400 * (n % 3 ? 1 : 12);
}

/*
 * By looking, so that both start at once; but a processor that is not really there (the
 * machine may be virtual) is let go at last. No descriptor is opened here: it could be the one
 * that the other has just closed.
 */
static void await(const u32 *word, u32 value)
{
	struct timespec nap = { .tv_nsec = 20000 };

	for (u32 spins = 0; __atomic_load_n(word, __ATOMIC_ACQUIRE) != value; spins++) {
		if (spins > 3000)
			nanosleep(&nap, NULL);
		else if (spins > 2000)
			sched_yield();
	}
}

static void run_other(void *arg)
{
	struct race *r = arg;

	test_pin(1);
	for (u32 round = 1; ; round++) {
		await(&r->round, round);
		if (r->over)
			return;
		skew(jitter(round * 37) + (r->bias < 0 ? (u32)-r->bias : 0));
		r->other(r);
		__atomic_store_n(&r->done, round, __ATOMIC_RELEASE);
	}
}

void race_start(struct race *r, void (*other)(struct race *r), unsigned int rounds)
{
	memset(r, 0, sizeof(*r));
	r->other = other;
	r->rounds = test_rounds(rounds);
	r->a = peer_new(0);
	r->b = peer_new(0);
	r->c = peer_new(0);
	r->n = node_new(&r->a, 1);
	r->nb = node_new(&r->b, 2);
	r->to_b = grant(&r->b, r->nb, &r->a);
	test_pin(0);
	test_start(&r->thread, run_other, r);
}

void race_go(struct race *r)
{
	u32 round = r->round + 1;

	__atomic_store_n(&r->round, round, __ATOMIC_RELEASE);
	skew(jitter(round * 53) + (r->bias > 0 ? (u32)r->bias : 0));
}

void race_meet(struct race *r)
{
	bool was_first = __atomic_load_n(&r->done, __ATOMIC_ACQUIRE) != r->round;

	await(&r->done, r->round);
	r->bias += was_first ? 20 : -20;
	if (r->bias > 20000 || r->bias < -20000)
		r->bias = 0;
}

void race_end(struct race *r)
{
	r->over = true;
	__atomic_store_n(&r->round, r->round + 1, __ATOMIC_RELEASE);
	test_join(&r->thread);
}
