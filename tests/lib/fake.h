/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What fake.c, fake-message.c and fake-call.c share. All of it is under one lock. */
#ifndef BUS1_TEST_FAKE_H
#define BUS1_TEST_FAKE_H

#include <linux/bus1.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_INLINE	128
#define MAX_FDS		1024

int __real_close(int fd);

struct fake_node {
	struct fake_peer *owner;	/* NULL: dead */
	uint64_t home;			/* serial of who made it */
	uint64_t id, cookie, seq;
	unsigned int users;		/* counts, and handles in queued messages */
	unsigned int refs;
	struct fake_node *next;		/* of its owner */
};

struct fake_handle {
	struct fake_node *node;
	uint64_t id;
	unsigned int counts;
	bool waiting;			/* for room, to be told of */
	struct fake_handle *next;
};

struct fake_slice {
	uint64_t id, offset, len;
	struct fake_slice *next;	/* by offset */
};

struct fake_msg {
	uint32_t type;
	struct fake_node *node;		/* held; NULL: it is for the peer */
	struct fake_call *call;		/* of a request, or a reply */
	uint64_t token;			/* of the notice of a request that was cancelled */
	bool is_error;
	struct fake_slice *slice;
	uint8_t data[MAX_INLINE];
	uint64_t len;
	uint32_t n_handles;
	struct fake_node **handles;	/* each is a user */
	bool has_memfd;
	int memfd;			/* its body */
	uint64_t body_offset, body_len;
	struct fake_msg *next;
};

struct fake_peer {
	int fd;
	uint64_t serial;
	uint64_t ids;
	struct fake_node *nodes;
	struct fake_handle *handles;
	struct fake_slice *slices;
	struct fake_msg *queue;
	uint8_t *pool;
	size_t pool_size;
};

#define PTR(u) ((void *)(uintptr_t)(u))

extern pthread_mutex_t fake_lock;
extern pthread_cond_t fake_wake;
extern struct fake_peer *fake_peers[MAX_FDS];

void *fake_zalloc(size_t n);
struct fake_node *fake_node_of(struct fake_peer *peer, uint64_t id);
struct fake_handle *fake_held(struct fake_peer *peer, uint64_t id);
void fake_node_use(struct fake_node *node);
/* A count of `node` for `peer`; returns the id. A user, unless it is its own. */
uint64_t fake_arrive(struct fake_peer *peer, struct fake_node *node);
/* NULL: there is no room. */
struct fake_slice *fake_slice_new(struct fake_peer *peer, uint64_t len);
int fake_slice_free(struct fake_peer *peer, uint64_t id);
/* Commands, or parts of such: 0 or an errno. */
int fake_release(struct fake_peer *peer, const struct bus1_cmd_ids *cmd);
int fake_free_slices(struct fake_peer *peer, const uint64_t *ids, uint32_t n);
void fake_enqueue(struct fake_peer *peer, struct fake_msg *msg);
/* Take it off the queue, whose it is then no more. */
void fake_unqueue(struct fake_peer *peer, struct fake_msg *msg);
void fake_drop_msg(struct fake_peer *peer, struct fake_msg *msg);
/*
 * fake-message.c
 */

int fake_send(struct fake_peer *peer, const struct bus1_cmd_send *cmd);
/* A message with what is sent, for that peer. Returns an errno. */
int fake_load(struct fake_peer *peer, const struct bus1_cmd_send *cmd, struct fake_peer *to,
	      struct fake_msg **msgp);
/* The same, for a node; on failure the destination may wait for room. */
int fake_send_one(struct fake_peer *peer, const struct bus1_cmd_send *cmd, uint64_t dest,
		  struct fake_msg **msgp);
void fake_deliver(struct fake_peer *peer, struct fake_msg *msg, struct bus1_msg *out,
		  uint8_t *buf, uint32_t *usedp);
int fake_recv(struct fake_peer *peer, struct bus1_cmd_recv *cmd);
/* The sender's memory is read as the kernel reads it: it may not be there. */
int fake_copy(uint64_t to, uint64_t from, uint64_t len);
/* Wait for a change; ETIMEDOUT at the deadline, if it is not 0. */
int fake_wait(uint64_t deadline);

/*
 * fake-call.c. Commands return 0 or an errno.
 */

int fake_call(struct fake_peer *peer, struct bus1_cmd_call *cmd);
int fake_reply(struct fake_peer *peer, struct bus1_cmd_reply *cmd);
int fake_cancel(struct fake_peer *peer, const struct bus1_cmd_ids *cmd);
int fake_lease(struct fake_peer *peer, const struct bus1_cmd_lease *cmd);
/* What a message tells of its call, as it is received; and a request is the server's then. */
void fake_call_deliver(struct fake_peer *peer, struct fake_msg *msg, struct bus1_msg *out);
/* The message is dropped. */
void fake_call_drop(struct fake_msg *msg);
/* The peer is closed. */
void fake_call_close(struct fake_peer *peer);
uint32_t fake_n_calls(struct fake_peer *peer);

#endif
