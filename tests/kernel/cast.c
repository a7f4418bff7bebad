// SPDX-License-Identifier: GPL-2.0-or-later
#include "cast.h"

struct pair pair_of(size_t pool_a, size_t pool_b)
{
	struct pair w = { .a = peer_new(pool_a), .b = peer_new(pool_b) };

	w.nb = node_new(&w.b, 0xb0b);
	w.to_b = grant(&w.b, w.nb, &w.a);
	return w;
}

struct trio trio_new(size_t pool_a)
{
	struct trio t = { .a = peer_new(pool_a), .b = peer_new(0), .c = peer_new(0) };

	t.n = node_new(&t.a, 0xa);
	t.nb = node_new(&t.b, 0xb);
	t.nc = node_new(&t.c, 0xc);
	t.a_to_b = grant(&t.b, t.nb, &t.a);
	t.b_to_c = grant(&t.c, t.nc, &t.b);
	return t;
}
