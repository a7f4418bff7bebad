/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pages of pools that no slice touches, and what makes them go back. */
#ifndef BUS1_TEST_IDLE_H
#define BUS1_TEST_IDLE_H

#include "raw.h"

/* Into a file that is there; 0 or -errno. */
int write_file(const char *path, const char *text);
/* Everything that shrinkers can free goes. For root: others skip the test. */
void shrink(void);
u64 pages_of(const struct peer *p);
/* Everything that is queued is dropped, with its slices. */
void empty(const struct peer *p);

#endif /* BUS1_TEST_IDLE_H */
