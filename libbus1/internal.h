/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the parts of libbus1 share. The layers, each knowing those above it in
 * this list: idmap; peer (file, pool, ids, kernel commands); handle and node;
 * transfer; large (buffers, memfds); message; send; reply; async (calls without a
 * thread that waits); dispatch (receiving and calling back); call.
 *
 * Counting. A node or handle is alive as long as its `refs` is above 0. The step
 * from 1 to 0 is only ever taken with the peer's lock held, and the object
 * leaves the peer's map, and the kernel's thing is given back or noted in
 * `drops` to be so, before the lock is let go. So whoever finds an object in the
 * map under the lock may take a reference, and an id that is not in the map has
 * no counts that are ours, but in `drops`: what comes in with that id later is
 * new. Every object also keeps the memory of its
 * peer (`holds`), so that it can outlive it.
 *
 * Order. What the kernel hands out is looked at in the order in which it was
 * handed out, under the lock: messages lie in `ready` as the kernel wrote them
 * and are parsed one by one. A notice of death thus never overtakes the message
 * that brought the handle, though several threads process. Commands that give
 * or take counts are made under the lock too, and none of them can block. The
 * only one that blocks is a receive in b1_peer_wait() and the like; it is made
 * without the lock, by the one thread that set `receiving`. The other exception
 * is a call that blocks: its thread gets the reply, and requests within the call,
 * past the queue, and what it got may be overtaken by notices before it has the
 * lock. So notices that nobody is found for are noted while there are such calls
 * (`unclaimed`), the last of them: they are looked for as soon as the thread has the lock.
 *
 * Requests. The token of one is used up by the reply, or with the message's last
 * reference. Until then it is in `requests`, where the notice that its caller has
 * left finds it, and its last reference goes under the lock, as a handle's does.
 *
 * Callbacks, and everything that may free user data, run without the lock.
 */
#ifndef B1_INTERNAL_H
#define B1_INTERNAL_H

#include <errno.h>
#include <linux/bus1.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "idmap.h"
#include "libbus1.h"

#define BATCH		16	/* messages of one receive */
#define PROCESS_MAX	256	/* no more are received in one process call */
#define BUF_SIZE	8192	/* holds the largest message of today; grows if need be */
#define SLICES_MAX	64	/* that wait to be given back with the next receive */
#define COUNTS_MAX	256	/* that a handle collects before some are given back */
#define DROPS_MAX	256	/* that wait to be given back with the next receive */
#define INLINE_MAX	256	/* bytes of payload that may wait for the next receive */

/* What notices told that nobody was found for: see above. The last ones, each at n % NOTED_MAX. */
#define NOTED_MAX	512
struct unclaimed {
	uint64_t deaths[NOTED_MAX], cancels[NOTED_MAX];	/* of handles; of requests, by token */
	size_t n_deaths, n_cancels;
};

struct b1_peer {
	atomic_uint refs;	/* of the users; at 0 the peer has ended */
	atomic_uint holds;	/* of the memory: one for `refs`, one per object */
	unsigned int generation; /* of the process: see b1__check() */
	int fd;
	const uint8_t *pool;
	size_t pool_size;

	pthread_mutex_t lock;	/* all below */
	atomic_bool ended;	/* written under the lock */
	bool receiving;		/* a thread is in a receive that blocks */
	bool wants_fds;
	struct idmap map;	/* id to b1_handle (of nodes too): all that live */
	struct idmap requests;	/* token to b1_message: those to be answered */
	uint32_t max_inline;	/* bytes; set once */

	struct idmap calls;	/* serial to b1_watch: those that wait for a reply */
	uint64_t serial;	/* of the last one */
	b1_watch *first, *last;	/* those with a deadline, by that */
	uint64_t kick;		/* a node to wake up who waits by; 0: there is none */
	unsigned int n_kicks;	/* messages to it */
	unsigned int n_rekick;	/* threads that wait for longer, and that nobody has woken */

	unsigned int n_waiting;	/* threads in b1_peer_wait(), b1_peer_run() */
	unsigned int n_polling;	/* of those: that wait for what another receives */
	uint64_t wait_until;	/* none of those waits for longer, if there are any */
	bool asked;		/* that thread was told asked_until, and may be waiting */
	uint64_t asked_until;
	pthread_t asked_by;

	uint64_t n_parsed;	/* of what was received */
	uint64_t expire_at;	/* n_parsed from which on calls may expire; 0: to be found out */

	unsigned int n_calling;	/* blocking calls that handles or requests may come by */
	struct unclaimed *unclaimed; /* since there was one; NULL: never */

	unsigned int n_slices;	/* to give back */
	uint64_t slices_len;	/* sum of their payloads, in bytes */
	uint64_t slices[SLICES_MAX];
	unsigned int n_drops;	/* counts of handles to give back */
	uint64_t drops[DROPS_MAX];

	size_t ready_n, ready_next; /* received, and to be parsed next */
	bool ready_all;		/* there were no more */
	struct bus1_msg ready[BATCH];
	uint8_t *buf;
	uint32_t buf_size;
};

/* Among the flags of a handle: what it is not to be told. */
#define FLAGS_UNKNOWN	(1U << 31)
#define FLAGS_OWN	(1U << 30) /* of a node that is the peer's own */
#define FLAGS_ALL	(B1_RIGHT_SEND | B1_RIGHT_TRANSFER)

/* Memory of a file that was mapped to be read, whole pages of it. */
struct mapping {
	void *base;		/* NULL: nothing is mapped */
	size_t length;
	const void *data;	/* what was asked for, in there; never NULL */
	size_t size;
	bool is_shared;		/* its bytes may change */
};

struct b1_handle {
	atomic_uint refs;
	/* In the kernel, ours, less those that are about to be moved; of a node: 0. */
	unsigned int counts;
	bool is_node;
	atomic_uint flags;	/* B1_RIGHT_*, B1_HANDLE_*, FLAGS_*; written under the lock */
	atomic_bool dead;	/* written under the lock */
	uint64_t id;
	b1_peer *peer;		/* its memory is held */
	b1_watch *watches;	/* under the lock */
	atomic_uint n_writable;	/* of those, how many are for room; written under the lock */
	b1_handle *next_gone;	/* in a list of those whose refs reached 0 */
	_Atomic(struct mapping *) mapping; /* of a buffer; set once */
};

struct b1_node {
	b1_handle handle;	/* must be first: is_node tells */
	b1_message_fn handler;
	void *userdata;
	b1_unused_fn unused;	/* under the lock, as all below but base and badge */
	b1_destroy_fn destroy;
	b1_node *facets;	/* those that live */
	b1_node *base;		/* of a facet: has a reference */
	uint64_t badge;
	b1_node *next, **link;	/* among the facets of base; link points to what points here */
};

/* What calls back: for a handle, or for the reply to a call. */
struct b1_watch {
	/* One for the user, unless floating; one for the list, or for the call. */
	atomic_uint refs;
	b1_peer *peer;		/* its memory is held */
	enum { WATCH_DEAD, WATCH_WRITABLE, WATCH_CALL } kind;
	b1_dead_fn call;	/* or a b1_writable_fn, which is the same type */
	b1_reply_fn reply;	/* of WATCH_CALL */
	void *userdata;
	b1_destroy_fn destroy;	/* under the lock, as all below */
	bool due;		/* is to be called for room */
	b1_handle *handle;	/* whose list it is in; NULL: none */
	b1_watch *next, **link;	/* link points to what points here */

	/* Of WATCH_CALL. It is linked as long as it is in peer->calls. */
	bool linked;
	bool orphaned;		/* the peer has ended while it was being made */
	uint64_t serial;
	uint64_t id;		/* in the kernel; 0: it is being made */
	uint64_t deadline;	/* UINT64_MAX: none, and it is not in the list */
	b1_watch *earlier, *later;
};

struct b1_message {
	atomic_uint refs;
	b1_peer *peer;		/* its memory, and so the pool, is held */
	uint64_t slice;		/* 0: the payload is in this object */
	const void *data;
	size_t size;
	enum { BODY_NONE, BODY_BUFFER, BODY_MEMFD } body; /* of a buffer: it is handles[0] */
	uint64_t body_offset, body_size;	/* in the buffer */
	int body_result;	/* of a memfd: 0, 1 (shared), or why it is not mapped */
	struct mapping memfd;
	uint64_t badge;
	unsigned int priority;
	bool is_error, has_fault; /* of a reply */
	uint64_t token;		/* of a request; 0: it is none */
	uint64_t chain;
	unsigned int n_leases;
	atomic_bool unanswered;	/* is in peer->requests; written under the lock */
	atomic_bool cancelled;	/* likewise */
	bool replying;		/* a thread is about to answer; under the lock, as all below */
	b1_cancelled_fn on_cancelled;
	void *userdata;		/* of that */
	const b1_creds *creds;	/* in this object, or NULL */
	atomic_int *fds;	/* n_fds, likewise */
	size_t n_fds;
	size_t n_handles;
	b1_handle *handles[];	/* n_handles, then the rest of what is in this object */
};

/* A small reply that goes with the next receive of the thread. */
struct deferred {
	uint64_t token;		/* 0: there is none */
	uint64_t size;
	uint8_t data[INLINE_MAX];
};

/* What a thread is in: a callback within a callback is on top of it. */
struct serving {
	struct serving *up;
	b1_message *message;	/* NULL: it is not for a message */
	struct deferred *deferred;
};

/* A thread's innermost. (The model needs no call of libc's to find it.) */
extern _Thread_local struct serving *b1__serving __attribute__((tls_model("initial-exec")));

/*
 * peer.c
 */

/* 0, -ECHILD in a forked child, or -ESHUTDOWN. */
int b1__check(const b1_peer *peer);
bool b1__forked(const b1_peer *peer);
b1_peer *b1__hold(b1_peer *peer);
void b1__drop(b1_peer *peer);
/* ioctl() with its errno as the result. */
int b1__command(b1_peer *peer, unsigned long command, void *argument);

/*
 * Give back counts of handles, nodes or slices, by the command. Where it is
 * refused for all it is done one by one: nobody is there to be told of an
 * error, and what is right should not suffer for what is wrong. Locked.
 */
void b1__give_back(b1_peer *peer, unsigned long command, const uint64_t *ids, size_t n);
/* Give back the slices and the counts of handles that wait. Locked. */
void b1__flush(b1_peer *peer);

static inline void b1__lock(b1_peer *peer)
{
	pthread_mutex_lock(&peer->lock);
}

static inline void b1__unlock(b1_peer *peer)
{
	pthread_mutex_unlock(&peer->lock);
}

static inline void b1__ref(atomic_uint *refs)
{
	atomic_fetch_add_explicit(refs, 1, memory_order_relaxed);
}

/* Take one off and return true, unless it is the last. */
static inline bool b1__unref_unless_last(atomic_uint *refs)
{
	unsigned int n = atomic_load_explicit(refs, memory_order_relaxed);

	while (n > 1)
		if (atomic_compare_exchange_weak_explicit(refs, &n, n - 1, memory_order_release,
							  memory_order_relaxed))
			return true;
	return false;
}

/* Take one off; true if it was the last, and then all that was done before is seen. */
static inline bool b1__unref(atomic_uint *refs)
{
	/* Who has the only one need not be atomic about it. */
	if (atomic_load_explicit(refs, memory_order_acquire) == 1) {
		atomic_store_explicit(refs, 0, memory_order_relaxed);
		return true;
	}
	return atomic_fetch_sub_explicit(refs, 1, memory_order_acq_rel) == 1;
}

/*
 * handle.c
 */

/* A handle object with one reference and no id, known to nobody; or NULL. */
b1_handle *b1__handle_alloc(b1_peer *peer);
/* Undo b1__handle_alloc(). Accepts NULL. */
void b1__handle_free(b1_handle *handle);
/* The flags that the kernel told of a handle. */
unsigned int b1__handle_flags(const struct bus1_handle *handle);
/*
 * Account for a count of `id` that the kernel has just given (none, if `flags`
 * have FLAGS_OWN). Returns the object of that id with a reference: one that
 * exists, or *spare (made by b1__handle_alloc() and then set to NULL), for which
 * there must be room in the map. Locked.
 */
b1_handle *b1__handle_arrived(b1_peer *peer, uint64_t id, unsigned int flags, b1_handle **spare);
/*
 * Take off a reference from each, all of one peer. With `soon` the counts of
 * handles that are gone wait for the next b1__flush() or receive.
 */
void b1__handles_unref(b1_peer *peer, b1_handle *const *handles, size_t n, bool soon);
/*
 * The node is dead, or there is room to send: call the watches for that. Returns
 * the first negative result. Not locked.
 */
int b1__handle_call_watches(b1_handle *handle);
int b1__handle_call_writable(b1_handle *handle);

static inline b1_handle *b1__find(b1_peer *peer, uint64_t id)
{
	return b1__idmap_find(&peer->map, id);
}

static inline b1_node *b1__node(b1_handle *handle)
{
	return handle->is_node ? (b1_node *)handle : NULL;
}

/*
 * node.c
 */

/*
 * Make a node by a command that gives it an id, to be found at *idp, which is in
 * `cmd`.
 */
int b1__node_new(b1_peer *peer, b1_node **nodep, unsigned long command, void *cmd,
		 const __u64 *idp, b1_message_fn handler, void *userdata);
/* Its last reference is gone: it leaves its base. Locked. */
void b1__node_unlink(b1_node *node);
/* Nothing refers to it any more; call destroy. Not locked. */
void b1__node_finish(b1_node *node);

/*
 * large.c
 */

/* A memfd with these bytes, sealed. */
int b1__memfd_new(const struct iovec *iov, size_t n);
/* Map a part of a memfd. On failure the mapping is one of nothing. */
int b1__map(struct mapping *mapping, int fd, uint64_t offset, uint64_t size, bool is_shared);
void b1__unmap(struct mapping *mapping);
/* Accepts NULL. */
void b1__mapping_free(struct mapping *mapping);

/*
 * message.c
 */

/* Make a message of what was received. 0, or -ENOMEM without effect. Locked. */
int b1__message_new(b1_peer *peer, b1_message **messagep, const struct bus1_msg *msg,
		    const uint8_t *buf);
/*
 * As b1_message_unref(), but what it has may wait for the next receive: for who
 * will receive, or flush, soon.
 */
void b1__message_unref_soon(b1_message *message);
/* Give back all that came with what will be no message. */
void b1__message_discard(b1_peer *peer, const struct bus1_msg *msg, const uint8_t *buf);

/*
 * send.c
 */

/* An outgoing message, in the kernel's form. */
struct load {
	b1_outgoing out;
	struct bus1_pass *moves; /* of passes[], those of out.passes */
	void *allocated;
	struct bus1_pass passes[BUS1_MAX_HANDLES];
};

/*
 * Read an outgoing message that may have those flags, and set `cmd` to it, but for
 * destinations and waiting. `cmd` is 0 before. What succeeds has to be ended.
 */
int b1__load(struct load *load, b1_peer *peer, struct bus1_cmd_send *cmd,
	     const b1_outgoing *outgoing, size_t outgoing_size, uint64_t flags);
/* Let the kernel move what is to be moved. Otherwise it is copied, and dropped at the end. */
void b1__load_move(struct load *load, b1_peer *peer);
/* Do `command`, with the struct `whole` that has `cmd` in it; by a memfd if it must be. */
int b1__load_command(struct load *load, b1_peer *peer, struct bus1_cmd_send *cmd,
		     unsigned long command, void *whole);
/* It has come to pass, or, if r is negative, it has not. */
void b1__load_end(struct load *load, b1_peer *peer, int r);
/* Take what the caller has given away: references and descriptors. */
void b1__outgoing_take(const b1_outgoing *out);
bool b1__load_any_dead(const struct load *load);
/*
 * An own node that was destroyed has no id any more, nor has a one-shot that was
 * used, and a peer that has just ended has none at all: say so in the words of
 * the header. `sure`: it is `to` that is not known.
 */
int b1__send_explain(int r, b1_handle *to, bool sure);
/* One-shot handles that a message was sent through: the kernel has taken a count. */
/* A notice is wanted if there is no room, if anyone watches for that. */
void b1__send_notify(struct bus1_cmd_send *cmd, const b1_handle *to);
void b1__send_spend(b1_handle *const *to, size_t n, const int *errors);

/*
 * reply.c
 */

/* Send a reply that was to go with a receive, if there is one. Not locked. */
void b1__reply_deferred(b1_peer *peer, struct deferred *deferred);
/* This thread is about to wait, within callbacks: send those that they have deferred. */
void b1__reply_before_wait(void);
/* The fields of a reply that was to go with a receive. */
void b1__reply_set(struct bus1_cmd_send *cmd, const struct deferred *deferred);
/* End the call of a token without a reply. */
void b1__reply_drop(b1_peer *peer, uint64_t token);
/* It is answered: nobody finds it any more. Locked. */
void b1__request_done(b1_message *request);
/* Its caller has left: call back. Not locked. */
int b1__request_cancelled(b1_message *request);

/*
 * async.c
 */

/* Take the call that this is a reply to off the others, with a reference, or NULL. Locked. */
b1_watch *b1__call_take(b1_peer *peer, const struct bus1_msg *msg);
/* Take it off, as it is freed. Locked; the reference that it had is the caller's. */
void b1__call_unlink(b1_watch *watch);
/* When the first of them is over; UINT64_MAX: there is none. Locked. */
uint64_t b1__calls_deadline(const b1_peer *peer);
/* There are such, if the clock is looked at. Locked. */
bool b1__calls_due(const b1_peer *peer);
/* Let a thread look that waits for something to receive. Locked. */
void b1__kick(b1_peer *peer);
/* Whether a message to that node was only to wake. Locked. */
bool b1__kicked(b1_peer *peer, uint64_t id);
/*
 * Take off those whose deadline has passed and call back. Returns how many, or what
 * a callback returned. Locked, but lets go of the lock.
 */
int b1__calls_expire(b1_peer *peer);
/* Take off all, as the peer ends; they stand in a list by `later`. Locked. */
b1_watch *b1__calls_end(b1_peer *peer);
uint64_t b1__now(void);

/*
 * handle.c
 */

/* Call destroy with the last one. Not locked. */
void b1__watch_unref(b1_watch *watch);

/*
 * dispatch.c
 */

/* Call the node's handler, and let go of both. Not locked. */
int b1__dispatch(b1_node *node, b1_message *message, struct deferred *deferred);

/*
 * call.c
 */

/* Read the options of a call, of an older program or a newer. */
int b1__call_options(b1_call_options *o, const b1_call_options *options, size_t size);
/*
 * The fields of a call but for what is sent and where it is received. The leases
 * are to be freed.
 */
int b1__call_set(struct bus1_cmd_call *cmd, b1_handle *to, const b1_call_options *o);
/* The result of a command that made a call: see b1__send_explain(). */
int b1__call_explain(int r, b1_handle *to, const struct load *load, const b1_call_options *o);

#endif /* B1_INTERNAL_H */
