/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One message to one node (MSG-1). */
#ifndef BUS1_TEST_MESSAGE_H
#define BUS1_TEST_MESSAGE_H

#include "cast.h"

/* That what fails has no effect: nothing arrived, nothing changed at either. */
#define FAILS(t, cmd, err)							\
	do {									\
		struct bus1_cmd_info at_a_ = peer_info(&(t)->a);		\
		struct bus1_cmd_info at_b_ = peer_info(&(t)->b);		\
										\
		ERR(send_cmd(&(t)->a, cmd), err);				\
		SAME_INFO(&(t)->a, &at_a_);					\
		SAME_INFO(&(t)->b, &at_b_);					\
	} while (0)

#endif /* BUS1_TEST_MESSAGE_H */
