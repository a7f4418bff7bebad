/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What forms of BUS1_CMD_SEND share. */
#ifndef BUS1_TEST_FAULT_SEND_H
#define BUS1_TEST_FAULT_SEND_H

#include "fault.h"

/* How much of w.data is sent. */
enum { INLINE = 64, SMALL = 300, PAGES = 9000 };

struct bus1_cmd_send *send_of(u64 dest, size_t len);
/* To a node, w.id[3], that wants to know who sends. */
struct bus1_cmd_send *stamped(size_t len);
/* The file w.fd[1], that often. */
void with_fds(struct bus1_cmd_send *c, u32 n);

#endif /* BUS1_TEST_FAULT_SEND_H */
