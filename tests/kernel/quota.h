/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Users, who share a receiver and have limits: RES-1, RES-2, RES-4. */
#ifndef BUS1_TEST_QUOTA_H
#define BUS1_TEST_QUOTA_H

#include "raw.h"

enum {
	USER = 7100,			/* and those above it, whom nobody else has */
	MAX_PEERS_OF_USER = 24,
};

/* A receiver, of root's, that does not read by itself. */
struct receiver {
	struct peer p;
	u64 node;
};

struct receiver receiver_new(size_t pool);

struct user_peers {
	struct peer p[MAX_PEERS_OF_USER];
	u64 h[MAX_PEERS_OF_USER];
	u32 n;
};

/* A new peer of the user's, which can send to the receiver. */
u32 add_peer(struct user_peers *u, u32 uid, const struct receiver *r);

/* A message with `n` files, and nothing else. */
int take_files(const struct peer *p, u64 h, u32 n);

#endif /* BUS1_TEST_QUOTA_H */
