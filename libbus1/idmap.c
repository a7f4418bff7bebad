/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "idmap.h"

#include <errno.h>
#include <stdlib.h>

/* Ids count up: multiplying by 2^64/phi spreads them evenly over the high bits. */
static size_t b1__idmap_place(const struct idmap *map, uint64_t id)
{
	return (id * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - map->bits);
}

static size_t b1__idmap_search(const struct idmap *map, uint64_t id)
{
	size_t mask = b1__idmap_size(map) - 1, i = b1__idmap_place(map, id);

	while (map->entries[i].id && map->entries[i].id != id)
		i = (i + 1) & mask;
	return i;
}

int b1__idmap_reserve(struct idmap *map, size_t n)
{
	struct idmap bigger = { .n = map->n, .bits = map->bits ?: 3 };
	size_t i;

	if (n > SIZE_MAX / 64 - map->n)
		return -ENOMEM;
	while (map->n + n > b1__idmap_size(&bigger) / 4 * 3)
		bigger.bits++;
	if (bigger.bits == map->bits)
		return 0;
	bigger.entries = calloc(b1__idmap_size(&bigger), sizeof(*bigger.entries));
	if (!bigger.entries)
		return -ENOMEM;
	for (i = 0; i < b1__idmap_size(map); i++)
		if (map->entries[i].id)
			bigger.entries[b1__idmap_search(&bigger, map->entries[i].id)] = map->entries[i];
	free(map->entries);
	*map = bigger;
	return 0;
}

void b1__idmap_add(struct idmap *map, uint64_t id, void *object)
{
	map->entries[b1__idmap_search(map, id)] = (struct idmap_entry){ .id = id, .object = object };
	map->n++;
}

void *b1__idmap_find(const struct idmap *map, uint64_t id)
{
	return map->n ? map->entries[b1__idmap_search(map, id)].object : NULL;
}

void b1__idmap_remove(struct idmap *map, uint64_t id)
{
	size_t mask = b1__idmap_size(map) - 1, hole, i;

	if (!map->n)
		return;
	hole = b1__idmap_search(map, id);
	if (!map->entries[hole].id)
		return;
	/* Close the hole: move up whatever was pushed past it when it was added. */
	for (i = (hole + 1) & mask; map->entries[i].id; i = (i + 1) & mask) {
		size_t home = b1__idmap_place(map, map->entries[i].id);

		if (((i - home) & mask) >= ((i - hole) & mask)) {
			map->entries[hole] = map->entries[i];
			hole = i;
		}
	}
	map->entries[hole] = (struct idmap_entry){ 0 };
	map->n--;
}

void b1__idmap_clear(struct idmap *map)
{
	free(map->entries);
	*map = (struct idmap){ 0 };
}
