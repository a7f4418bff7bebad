/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel's allocators hold, so that what is lost can be seen that the
 * module does not count itself.
 */
#ifndef BUS1_TEST_SLAB_H
#define BUS1_TEST_SLAB_H

#include <stdint.h>

enum { SLAB_CACHES = 400 };

struct slab_cache {
	char name[40];
	int64_t objects;
	int64_t size;
};

struct slab {
	int n;
	struct slab_cache cache[SLAB_CACHES];
	int64_t vmalloc;		/* bytes */
};

/* Skips the test where /proc/slabinfo can not be read. */
void slab_read(struct slab *s);

/*
 * Fails unless, once things settle, the kmalloc caches, those of the module
 * and vmalloc hold no more than `bytes` above what they did.
 */
void slab_check(const struct slab *before, int64_t bytes);

#endif /* BUS1_TEST_SLAB_H */
