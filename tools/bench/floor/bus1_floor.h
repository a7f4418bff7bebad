/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
#pragma once
/*
 * /dev/bus1_floor, for bus1-bench: an open file is shared by two threads, each of
 * which joins it, and then gives bytes to the other and waits for the other's.
 */
#include <linux/ioctl.h>
#include <linux/types.h>

struct floor_turn {
	__u64 len;
	__u8 data[88];
};

#define FLOOR_JOIN _IO('f', 0)
/* Wait for the other's bytes. */
#define FLOOR_WAIT _IOR('f', 1, struct floor_turn)
/* Give it these, hand the CPU over, and wait for its own. */
#define FLOOR_TURN _IOWR('f', 2, struct floor_turn)
