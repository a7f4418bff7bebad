/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that who touches it gets stuck in, for as long as a test wants: it belongs to a
 * userfaultfd. The first page is there, the others are not.
 */
#ifndef BUS1_TEST_TAR_H
#define BUS1_TEST_TAR_H

#include "raw.h"

struct tar {
	int fd;
	u8 *mem;
	size_t size;
};

struct tar tar_new(void);
/* The others are there to be read, the second with these bytes; who writes gets stuck. */
struct tar tar_new_with(const void *data, size_t len);
/* Until somebody has run into it. */
void tar_wait(const struct tar *t);
/* It is memory like any other from now on. */
void tar_melt(struct tar *t);
/* Who is stuck there, or comes there, gets EFAULT. */
void tar_break(struct tar *t);
/* An address so many bytes before those that are not there. */
u8 *tar_edge(const struct tar *t, size_t before);

#endif /* BUS1_TEST_TAR_H */
