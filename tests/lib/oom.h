/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Making the library's allocations fail: see oom.c. */
#ifndef BUS1_TEST_OOM_H
#define BUS1_TEST_OOM_H

#include "lib.h"

extern unsigned int fail_at;	/* which allocation from now on; 0: none */
extern bool failed;		/* it has */

/*
 * Process with the first, second, ... allocation failing, until none does; what was
 * received is not lost by that. Returns how often one has failed.
 */
unsigned int process_failing(b1_peer *peer);

/* Repeat `call` with its first, second, ... allocation failing, until none does. */
#define EACH(call)								\
	do {									\
		unsigned int each_n_ = 0;					\
		int64_t each_r_;						\
		do {								\
			failed = false;						\
			fail_at = ++each_n_;					\
			each_r_ = (call);					\
			fail_at = 0;						\
			if (failed)						\
				ERR(each_r_, ENOMEM);				\
		} while (failed);						\
		OK(each_r_);							\
		n_failed += each_n_ - 1;					\
	} while (0)

#endif
