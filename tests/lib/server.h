/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A server in threads of the test, and its client. */
#ifndef BUS1_TEST_SERVER_H
#define BUS1_TEST_SERVER_H

#include "lib.h"

#include <stdatomic.h>

/* What a server does with a request is the first byte of it. */
enum {
	ECHO = 1,	/* answer with what it brings, handles too */
	ECHO_LAST,	/* the same, as the last thing */
	FILL,		/* answer with LARGE bytes */
	FAIL_,		/* answer with an error; the rest is its name */
	NOTHING,	/* leave it unanswered */
	DROP,		/* likewise, at once */
	KEEP,		/* keep it, for the test to answer */
	TWICE,		/* answer twice */
	STOP,		/* answer, and end the loop */
};

struct server {
	b1_peer *peer;
	b1_node *node;
	b1_handle *to;		/* of the client's */
	b1_message *_Atomic kept;
	atomic_uint n;		/* requests */
	atomic_uint n_plain;
	uint64_t chain;		/* of the last */
	struct test_thread thread;
	b1_peer *client;
};

void server_init(struct server *s);
/* One of its threads; server_init() starts one. */
void server_run(void *arg);
int server_handler(b1_node *node, b1_message *message, void *userdata);
/* A call with that byte and no more. */
int64_t server_call(struct server *s, char what, const b1_call_options *options, b1_message **replyp);
/* The request that it was to keep, which is waited for. */
b1_message *server_kept(struct server *s);
/* Ends the thread that server_init() has started. */
void server_stop(struct server *s);
/* Drops all, and checks that the peers were left with nothing. */
void server_deinit(struct server *s);

bool is_done(const struct test_thread *thread);
/* Wait until that much lies in the queue. */
void wait_queued(b1_peer *peer, unsigned int n);

#endif
