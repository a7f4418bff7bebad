// SPDX-License-Identifier: GPL-2.0-or-later
/* The library's map, against an array. */
#include "../test.h"

#include <stdlib.h>

#include "idmap.h"

#define N 500

TEST("LIB-2 the map of ids agrees with an array")
{
	static void *model[N];
	struct idmap map = { 0 };
	unsigned int i, k, rounds = test_rounds(20000);
	size_t n = 0;

	srandom(1);
	CHECK(b1__idmap_find(&map, 1) == NULL);
	b1__idmap_remove(&map, 1);
	for (i = 0; i < rounds; i++) {
		/* Ids near one another, as the kernel's, and some that are far. */
		unsigned int place = (unsigned int)random() % N;
		uint64_t id = place % 7 ? place + 1 : (place + 1) * UINT64_C(0x100000001);

		if (model[place]) {
			CHECK(b1__idmap_find(&map, id) == model[place]);
			if (random() % 2) {
				b1__idmap_remove(&map, id);
				model[place] = NULL;
				n--;
			}
		} else {
			CHECK(b1__idmap_find(&map, id) == NULL);
			b1__idmap_remove(&map, id);
			OK(b1__idmap_reserve(&map, 1));
			b1__idmap_add(&map, id, &model[random() % N]);
			model[place] = b1__idmap_find(&map, id);
			CHECK(model[place]);
			n++;
		}
		EQ(map.n, n);
		if (i % 512)
			continue;
		for (k = 0; k < N; k++)
			CHECK(b1__idmap_find(&map, k % 7 ? k + 1 : (k + 1) * UINT64_C(0x100000001)) == model[k]);
	}
	ERR(b1__idmap_reserve(&map, SIZE_MAX / 2), ENOMEM);
	b1__idmap_clear(&map);
	EQ(map.n, 0);
}
