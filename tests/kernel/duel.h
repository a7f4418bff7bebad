/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two ends of a call at once: a calls a node of b's, and both have a pool. */
#ifndef BUS1_TEST_DUEL_H
#define BUS1_TEST_DUEL_H

#include "call.h"
#include "race.h"

enum { LARGE = 6000 };

struct duel {
	struct race r;			/* the first */
	u64 facet, to_facet;
	u64 id, token;
	struct call c;
	struct in in;
	u8 data[LARGE];
};

extern struct duel d;

void duel_start(void (*other)(struct race *r), unsigned int rounds);

/*
 * An asynchronous call, by turns with a large reply to come; the reply to the n-th. A facet of b's
 * that a has; another b.
 */
int call_one(u64 to, u32 n);
int reply_one(u64 token, u32 n);
void facet_make(void);
void server_new(void);

/* What has come to a peer, by type; slices are given back. */
struct came {
	u32 calls, replies, cancelled, others;
	int error;
	u64 token;
};

struct came came(const struct peer *p);
/* Whatever it was, it is over. */
void both_idle(void);

#endif /* BUS1_TEST_DUEL_H */
