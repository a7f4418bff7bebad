/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A map from kernel ids to objects: open addressing, linear probing, load at
 * most 3/4. An id is never 0, which marks a free place. Not locked.
 */
#ifndef B1_IDMAP_H
#define B1_IDMAP_H

#include <stddef.h>
#include <stdint.h>

struct idmap_entry {
	uint64_t id;
	void *object;
};

struct idmap {
	struct idmap_entry *entries;
	size_t n;
	unsigned int bits; /* 2^bits places; 0: none yet */
};

/* Make room for n more, so that as many b1__idmap_add() cannot fail. 0 or -ENOMEM. */
int b1__idmap_reserve(struct idmap *map, size_t n);
/* Needs room reserved; the id must not be there. */
void b1__idmap_add(struct idmap *map, uint64_t id, void *object);
void *b1__idmap_find(const struct idmap *map, uint64_t id);
void b1__idmap_remove(struct idmap *map, uint64_t id);
/* Free its memory; what it refers to is the caller's business. */
void b1__idmap_clear(struct idmap *map);

static inline size_t b1__idmap_size(const struct idmap *map)
{
	return map->bits ? (size_t)1 << map->bits : 0;
}

#endif /* B1_IDMAP_H */
