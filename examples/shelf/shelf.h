/* SPDX-License-Identifier: MIT */
/*
 * What the three programs of the shelf share.
 *
 * To the shelf:  "list", or "get NAME", with a handle for the reply.
 *                The reply is the names, a line each; or NAME with the handle
 *                of the text; or nothing, if there is none of that name.
 * To a text:     "read", with a handle for the reply, which is the text.
 */
#ifndef SHELF_H
#define SHELF_H

#include <libbus1.h>

/*
 * Run a program that holds `first`, in a peer of its own, and no other handle.
 * argv is as for execvp(). 0 or -errno.
 */
int shelf_spawn(b1_handle *first, char **argv);
/* In the program that was run so. */
int shelf_inherit(b1_peer **peerp, b1_handle **firstp);

/*
 * Send a request and wait for the reply. Meanwhile other messages are handled.
 * -EHOSTUNREACH: whoever was asked died.
 */
int shelf_ask(b1_peer *peer, b1_handle *to, const char *request, b1_message **replyp);

/* Wait for something, and process it. */
int shelf_turn(b1_peer *peer);

/* Print "WHO: ..." as a line of its own; `who` is set once. */
extern const char *shelf_who;
void shelf_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* End the program with a reason, if r is an error. */
void shelf_try(int r, const char *what);

#endif
