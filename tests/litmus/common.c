// SPDX-License-Identifier: GPL-2.0-or-later
#include "litmus.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

const char *const kind_names[N_KINDS] = {
	"message", "multicast", "dead", "unused", "memory", "pipe", "futex",
};

const char *const link_names[N_LINKS] = {
	"directly", "by memory", "by pipe", "by futex", "by message", "by reception",
};

/* What outlives the processes of the tests. */
static struct shared {
	u64 seed, rounds, tests;
	bool cut_short;
} *shared;

__attribute__((constructor)) static void share(void)
{
	const char *seed = getenv("BUS1_LITMUS_SEED");

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		abort();
	shared->seed = seed ? strtoull(seed, NULL, 0) : test_now() & 0xffffffff;
}

u64 litmus_seed(void)
{
	return shared->seed;
}

void litmus_total_add(u64 rounds)
{
	shared->rounds += rounds;
	shared->tests++;
}

void litmus_cut_short(void)
{
	shared->cut_short = true;
}

unsigned int litmus_rounds(unsigned int n)
{
	return test_rounds(n * test_slow());
}

/* splitmix64 */
u64 rnd(u64 *state)
{
	u64 x = *state += 0x9e3779b97f4a7c15;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

void spin(u64 n)
{
	for (u64 i = 0; i < n; i++)
		__asm__ volatile("" ::: "memory");
}

void nap(unsigned int i)
{
	struct timespec instant = { 0, 20000 };

	if (i % 128 == 127)
		nanosleep(&instant, NULL);
}

void seen_add(struct seen *sum, const struct seen *more)
{
	sum->rounds += more->rounds;
	sum->forbidden += more->forbidden;
	sum->apart += more->apart;
	sum->joint += more->joint;
	sum->overlap += more->overlap;
	sum->hidden += more->hidden;
	sum->skipped += more->skipped;
}

/* Tests leave without flushing what they printed. */
void seen_print(const char *what, const struct seen *s)
{
	printf("# %s: %llu rounds, %llu forbidden, %llu apart, %llu joint, %llu overlaps, "
	       "%llu hidden, %llu skipped (seed %llu)\n", what,
	       (unsigned long long)s->rounds, (unsigned long long)s->forbidden,
	       (unsigned long long)s->apart, (unsigned long long)s->joint,
	       (unsigned long long)s->overlap, (unsigned long long)s->hidden,
	       (unsigned long long)s->skipped, (unsigned long long)litmus_seed());
	fflush(stdout);
}

/* Tests that add to it: 16 pairs, 8 with side channels, 4 weaves, 3 duels, ISA2. */
enum { TESTS = 32, MILLION = 1000000 };

/* The last of the program. */
TEST("ORD-1 litmus, a million rounds in all")
{
	printf("# %llu rounds in %llu tests (seed %llu)\n", (unsigned long long)shared->rounds,
	       (unsigned long long)shared->tests, (unsigned long long)shared->seed);
	fflush(stdout);
	if (shared->tests < TESTS)
		SKIP("not all tests ran, or passed");
	if (shared->cut_short && shared->rounds < litmus_rounds(MILLION))
		SKIP("%llu, as this machine is busy, or slow", (unsigned long long)shared->rounds);
	GE(shared->rounds, litmus_rounds(MILLION));
}
