/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Litmus tests of the order (ORD-1, 2, 3): what they are made of.
 *
 * A *shape* is a cause, one or two links, and an effect. The cause completes;
 * word of it goes over the links, each to another actor; the last actor begins
 * the effect. One observer gets both, and must see the cause first. A *round*
 * is one execution of a shape: one cause, its link, its effect, and a verdict
 * of its own.
 *
 * What makes rounds cheap: LITMUS_BATCH of them are in flight at once, nobody
 * waits for anybody but by the links, and one receive takes what is there. So
 * the order of each stream in itself (ORD-3) is checked on the way.
 */
#ifndef BUS1_LITMUS_H
#define BUS1_LITMUS_H

#include "../kernel/raw.h"

enum { LITMUS_BATCH = BUS1_MAX_MSGS };

/* What a cause or an effect is. Those from MEMORY on are no business of bus1. */
enum kind {
	MESSAGE,
	MULTICAST,
	DEAD,			/* the death of a node, told to who holds it */
	UNUSED,			/* the release of the last handle, told to the owner */
	MEMORY,
	PIPE,
	FUTEX,
	N_KINDS,
};

/*
 * How an actor knows that it may go on. BY_RECEPTION: the cause reached it, too,
 * by the same operation, of which the observer gets its part; this is for what
 * may have several receivers, and as the first link.
 */
enum link {
	DIRECT,			/* the same thread goes on */
	BY_MEMORY,
	BY_PIPE,
	BY_FUTEX,
	BY_MESSAGE,		/* a message of its own */
	BY_RECEPTION,
	N_LINKS,
};

enum { MAX_LINKS = 2 };

struct shape {
	enum kind cause, effect;
	enum link link[MAX_LINKS];
	unsigned int n_links;
	/*
	 * Broken on purpose: word goes out before the cause began, or, with
	 * BY_RECEPTION, the cause is done in two steps.
	 */
	bool early;
};

/* What was seen, over all rounds. */
struct seen {
	u64 rounds;		/* verdicts */
	u64 forbidden;		/* effect before cause (or a stream out of order) */
	u64 apart;		/* a receive gave the cause, a later one the effect */
	u64 joint;		/* one receive gave both */
	u64 overlap;		/* receives during which a cause or effect was being made */
	u64 hidden;		/* receives that left something in the queue,
				   linked but not committed */
	u64 skipped;		/* of these: those that gave something else */
};

void seen_add(struct seen *sum, const struct seen *more);
void seen_print(const char *what, const struct seen *s);

/* Runs about so many rounds. Fails at the first forbidden one, unless early. */
void litmus(const struct shape *shape, unsigned int rounds, struct seen *sum);

/* n rounds, on a slow machine, too. */
unsigned int litmus_rounds(unsigned int n);

/* By one that had no time for all of its rounds. */
void litmus_cut_short(void);

/* Once by each test that passed: they are added up. */
void litmus_total_add(u64 rounds);

extern const char *const kind_names[N_KINDS];
extern const char *const link_names[N_LINKS];

/*
 * Pseudo-random numbers; every thread has a state of its own. The seed is
 * BUS1_LITMUS_SEED or the time, and is told with each failure.
 */
u64 litmus_seed(void);
u64 rnd(u64 *state);
void spin(u64 n);

/*
 * For who has looked `i` times in vain: goes to sleep now and then, for an
 * instant. Who is waited for may have lost its processor, if that is a virtual
 * one, to who waits.
 */
void nap(unsigned int i);

#endif /* BUS1_LITMUS_H */
