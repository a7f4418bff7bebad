/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of libbus1 share: two peers, and a node that keeps what it gets. */
#ifndef BUS1_TEST_LIB_H
#define BUS1_TEST_LIB_H

#include "../test.h"

#include <libbus1.h>
#include <linux/bus1.h>

#define POOL_SIZE ((size_t)1 << 20)

/* More than ever travels inline. */
#define LARGE 5000

/* A node that counts, and keeps a reference to the last message. */
struct box {
	b1_node *node;
	unsigned int n_messages, n_unused, n_destroyed;
	b1_message *last;
	int result;	/* what its handler returns */
};

void box_init(struct box *box, b1_peer *peer);
/* What its node has for a handler; userdata is the box. */
int box_handler(b1_node *node, b1_message *message, void *userdata);
/* Drop the last message. */
void box_empty(struct box *box);
/* Drop the message and the node. */
void box_deinit(struct box *box);
/* A watch's callback that counts in an unsigned int. */
int count_dead(b1_handle *handle, void *userdata);

/* Two peers; b holds a handle to a node of a. */
struct pair {
	b1_peer *a, *b;
	struct box box;		/* of a */
	b1_handle *to_box;	/* of b */
};

void pair_init(struct pair *p);
/* Drops all, and checks that the peers were left with nothing. */
void pair_deinit(struct pair *p);

b1_peer *new_peer(void);
/* Process until nothing is there; returns how much there was. */
int drain(b1_peer *peer);
/* Process, waiting, until *n is `want` at least; only for atomics or one thread. */
void process_until(b1_peer *peer, const unsigned int *n, unsigned int want);

struct bus1_cmd_info info(b1_peer *peer);
/* Fails unless that is all that the peer has. */
void check_has(const char *file, int line, b1_peer *peer, unsigned int n_nodes,
	       unsigned int n_handles, unsigned int n_slices);
#define HAS(peer, nodes, handles, slices) check_has(__FILE__, __LINE__, peer, nodes, handles, slices)

/* Bytes that differ from place to place, by a seed. */
void pattern(void *data, size_t size, unsigned int seed);
/* Fails unless the message has that pattern. */
void check_pattern(b1_message *message, size_t size, unsigned int seed);

#endif
