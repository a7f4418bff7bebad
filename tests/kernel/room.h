/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * No room at a receiver (RES-4): what has none here is a payload for a small pool,
 * of which one peer may have a few messages.
 */
#ifndef BUS1_TEST_ROOM_H
#define BUS1_TEST_ROOM_H

#include "raw.h"

enum {
	LEN = 250,		/* four granules of 64 */
	MOST = 6,		/* of them, for one peer: 24 of 64 granules */
};

static const u8 data[LEN];

/* `a` sends to `b`, whose pool is one page. */
struct scene {
	struct peer a, b;
	u64 node, to_b;
};

/* With all the messages that `a` may have there. */
struct scene scene_full(void);

int send_flags(const struct peer *p, u64 dest, u64 flags, u64 deadline);
/* One message is received, and its slice given back. False if there is none. */
bool take(const struct peer *p);
bool writable(const struct peer *p);

#endif /* BUS1_TEST_ROOM_H */
