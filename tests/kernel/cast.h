/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Peers that know of each other, as many tests begin. */
#ifndef BUS1_TEST_CAST_H
#define BUS1_TEST_CAST_H

#include "raw.h"

/* a, which knows a node of b's; each with a pool of that size, if it is not 0. */
struct pair {
	struct peer a, b;
	u64 nb, to_b;
};

struct pair pair_of(size_t pool_a, size_t pool_b);

/* Node n of a, which may have a pool; b, which a tells with a_to_b; c, which b tells with b_to_c. */
struct trio {
	struct peer a, b, c;
	u64 n, nb, nc, a_to_b, b_to_c;
};

struct trio trio_new(size_t pool_a);

#endif /* BUS1_TEST_CAST_H */
