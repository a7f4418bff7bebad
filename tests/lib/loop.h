/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every event loop is put through (LIB-3). Each loop-*.c has a loop_run()
 * that drives two peers by their descriptors, events and timeouts alone, and a
 * test that gives it to loop_test().
 */
#ifndef BUS1_TEST_LOOP_H
#define BUS1_TEST_LOOP_H

#include <libbus1.h>
#include <stdbool.h>

/* Run until *stop; fail if that takes longer than 30 (slow) seconds. */
typedef void (*loop_run)(b1_peer *const peers[2], const bool *stop);

/*
 * Two peers play a message to and fro, large and small ones, in bursts now and
 * then; at the end the nodes die, and the deaths are what stops the loop.
 */
void loop_test(loop_run run);

#endif
