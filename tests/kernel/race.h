/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BUS1_TEST_RACE_H
#define BUS1_TEST_RACE_H

#include "raw.h"

/*
 * Two threads that meet before each round. The first is the test itself; what the
 * second does in a round is `other`. They start a few steps apart, by turns, and who was
 * done first starts a little later from then on: so each is ahead of the other at times.
 */
struct race {
	struct test_thread thread;
	void (*other)(struct race *r);
	u32 round, done;		/* atomic */
	u32 rounds;
	s32 bias;			/* by which the first starts later */
	bool over;

	struct peer a, b, c;
	u64 n, f, h, g, weak;
	u64 nb, to_b;
	u64 dests[2];
	int fd;
	int result;			/* of `other` */
	u64 out;
};

/* A race, with a and b of which b has a node that a knows. */
void race_start(struct race *r, void (*other)(struct race *r), unsigned int rounds);
/* The other one goes from here on, and so does who called. */
void race_go(struct race *r);
void race_meet(struct race *r);
void race_end(struct race *r);

#endif /* BUS1_TEST_RACE_H */
