// SPDX-License-Identifier: GPL-2.0-or-later
#include <time.h>

#include "bench.h"

/*
 * A virtual machine under instruction counting (QEMU: -icount shift=0) advances
 * the time stamp counter by one for each guest instruction. Two loops of six
 * instructions, one of them slow on real hardware, tell it from a clock: they
 * read 6.0 per round both only if instructions are what is counted.
 */
#define LOOP_ROUNDS 20000
#define LOOP_TRIES 8
#define SETTLE_SECONDS 4

static enum unit unit = UNIT_NS;

enum unit counter_unit(void)
{
	return unit;
}

static uint64_t nanoseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

#if defined(__x86_64__) || defined(__i386__)

static uint64_t stamp(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

uint64_t counter_read(void)
{
	return unit == UNIT_NS ? nanoseconds() : stamp();
}

static void loop_fast(unsigned int n)
{
	__asm__ volatile("1: nop; nop; nop; nop; dec %0; jnz 1b" : "+r"(n) : : "cc");
}

static void loop_slow(unsigned int n)
{
	unsigned int x = 3;

	__asm__ volatile("1: imul %1, %1; imul %1, %1; imul %1, %1; imul %1, %1; dec %0; jnz 1b"
			 : "+r"(n), "+r"(x) : : "cc");
}

void counter_mark_begin(void)
{
	__asm__ volatile(".byte 0x0f, 0x1f, 0x80; .ascii \"1sub\"" : : : "memory");
}

void counter_mark_end(void)
{
	__asm__ volatile(".byte 0x0f, 0x1f, 0x80; .ascii \"0sub\"" : : : "memory");
}

void counter_mark_pause(void)
{
	__asm__ volatile(".byte 0x0f, 0x1f, 0x80; .ascii \"psub\"" : : : "memory");
}

void counter_mark_resume(void)
{
	__asm__ volatile(".byte 0x0f, 0x1f, 0x80; .ascii \"rsub\"" : : : "memory");
}

/* The least of several tries: an interrupt can only add. */
static double per_round(void (*loop)(unsigned int))
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < LOOP_TRIES; i++) {
		uint64_t start = stamp();

		loop(LOOP_ROUNDS);
		start = stamp() - start;
		if (start < best)
			best = start;
	}
	return (double)best / LOOP_ROUNDS;
}

static bool is_six(double x)
{
	return x > 5.97 && x < 6.03;
}

static enum unit find_unit(double *out)
{
	*out = per_round(loop_slow);
	if (!is_six(*out))
		return UNIT_CYCLES;
	*out = per_round(loop_fast);
	if (!is_six(*out))
		return UNIT_CYCLES;

	/* What a kernel still does after boot multiplies every figure. */
	nanosleep(&(struct timespec){ .tv_sec = SETTLE_SECONDS }, NULL);
	*out = per_round(loop_fast);
	return is_six(*out) ? UNIT_INSTRUCTIONS : UNIT_CYCLES;
}

enum unit counter_start(bool wall, double *out)
{
	enum unit found = find_unit(out);

	return unit = wall ? UNIT_NS : found;
}

#else

uint64_t counter_read(void)
{
	return nanoseconds();
}

void counter_mark_begin(void)
{
}

void counter_mark_end(void)
{
}

void counter_mark_pause(void)
{
}

void counter_mark_resume(void)
{
}

enum unit counter_start(bool wall, double *out)
{
	*out = 0;
	return UNIT_NS;
}

#endif
