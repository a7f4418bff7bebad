/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libbus1: objects for bus1, the capability-based IPC of Linux.
 *
 * A *peer* is this program's end of bus1: an open file of /dev/bus1 and a pool
 * of memory for what it receives. A *node* is an object that the peer owns and
 * others may talk to: a handler that is called with each message sent to it. A
 * *handle* is a reference to a node, of another peer or one's own; to hold it
 * is the right to send to the node, and the only way to get one is to be given
 * it in a message, or at the start. A *facet* is a node under another identity,
 * with handles of its own that tell by a badge whom they were given to and
 * that can be revoked. A *message* is what was received: bytes, read where the
 * kernel put them, handles, and file descriptors. A *call* is a message, a
 * *request*, that is answered by another, its *reply*. libbus1(3) has the whole
 * story and an example; bus1(7) has the semantics.
 *
 * Ownership (LIB-1): all four are opaque and counted. A function that makes an
 * object stores it by its out-parameter, with one reference that is the
 * caller's; x_ref() adds one, x_unref() takes one back, accepts NULL and
 * returns NULL. Getters return borrowed objects, good for as long as what they
 * were got from. The kernel follows the objects' lives (LIB-2): with its last
 * reference a node is destroyed, a handle released, a message's memory and
 * handles given back, and a peer ends. Handles and nodes that outlive their
 * peer stay valid, and every call on them fails with -ESHUTDOWN.
 *
 * Errors: functions that can fail return 0 (or a count, where said) or a
 * negative errno, and then changed nothing and stored nothing. Nothing here
 * aborts, prints, installs signal handlers or starts threads. Any function may
 * also fail with -ENOMEM, with -EINVAL where an argument makes no sense, with
 * -ESHUTDOWN when the peer has ended, and with -ECHILD after fork().
 *
 * Threads: all functions may be called from any thread at any time, with
 * references that the calling thread holds or borrows. Several threads may
 * process one peer: each message is handed to one of them, and messages to one
 * node may then run concurrently. Callbacks are called with no lock held, and
 * may call everything, b1_peer_process() included; they may drop the last
 * reference to the object that they are called for.
 *
 * fork(): the child shares the peer's file with its parent, and must not use
 * the library's objects: every call fails with -ECHILD, and unref does nothing.
 * What a child process should have it is given by descriptor: see
 * b1_handle_export() and b1_handle_transfer_fd().
 */
#ifndef LIBBUS1_H
#define LIBBUS1_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

typedef struct b1_peer b1_peer;
typedef struct b1_node b1_node;
typedef struct b1_handle b1_handle;
typedef struct b1_message b1_message;
typedef struct b1_watch b1_watch;

/*
 * Callbacks. What an int one returns, if negative, is returned by the
 * b1_peer_process() that called it; 0 and positive values are ignored. (Of a
 * b1_message_fn for a request see there.)
 */

/*
 * A message for `node`. It is the caller's; take a reference to keep it. If it is
 * a request (b1_message_is_call()) it is answered now or later, or else dropped. If it
 * was not answered a negative result is the answer, as by b1_message_reply_errno(), and
 * goes no further; nor does -ECANCELED: so callers that ask for the impossible, or leave,
 * do not end the server's loop, and `return b1_message_reply(...)` is right.
 */
typedef int (*b1_message_fn)(b1_node *node, b1_message *message, void *userdata);
/*
 * The last handle to `node`, or facet, is gone from all other peers; a one-shot
 * facet carried no message and will carry none.
 */
typedef int (*b1_unused_fn)(b1_node *node, void *userdata);
/* The node behind `handle` is gone. */
typedef int (*b1_dead_fn)(b1_handle *handle, void *userdata);
/* There may be room to send to `handle` again. */
typedef int (*b1_writable_fn)(b1_handle *handle, void *userdata);
/*
 * A call is over (LIB-4). `error` is 0, with the reply; -EREMOTEIO, with an error
 * reply; or else why there is none, and `reply` NULL: see b1_call_async(). The
 * reply is the caller's; take a reference to keep it.
 */
typedef int (*b1_reply_fn)(b1_message *reply, int error, void *userdata);
/* Who has made the request does not wait for its reply any more. */
typedef int (*b1_cancelled_fn)(b1_message *request, void *userdata);
/* Nothing will be called with this userdata any more. */
typedef void (*b1_destroy_fn)(void *userdata);

/*
 * Peers (OBJ-1)
 */

#define B1_DEVICE "/dev/bus1"

/* Size of a pool, in bytes, that is right for most; memory is taken as needed. */
#define B1_POOL_DEFAULT ((size_t)0)

/*
 * Make a peer. `pool_size` bounds the payloads that it can hold at a time, in
 * bytes (MSG-3, MSG-4): one message may take 3/8 of it, and what a sender may
 * have in it at a time is its share (RES-2).
 *
 * -ENOENT, -EACCES, ... as open() of B1_DEVICE; -EINVAL: pool_size is above
 * the kernel's bound (256 MiB); -EDQUOT: the user has as many peers as it may
 * have.
 */
int b1_peer_new(b1_peer **peerp, size_t pool_size);
/*
 * Make a peer of a file of B1_DEVICE that was opened or inherited (OBJ-13). If
 * it has a pool already that one is mapped and `pool_size` is ignored. `fd` is
 * the peer's on success (close-on-exec is set), the caller's on failure.
 *
 * -EBADF, -EMEDIUMTYPE: fd is not an open file, or no file of bus1.
 */
int b1_peer_new_from_fd(b1_peer **peerp, int fd, size_t pool_size);

b1_peer *b1_peer_ref(b1_peer *peer);
/*
 * The last one ends the peer: its nodes die, its handles are released. The
 * descriptor is closed, and the pool unmapped, once its objects are gone too.
 */
b1_peer *b1_peer_unref(b1_peer *peer);

/*
 * How the peer receives, from now on: what is not given is off, and so it is at
 * first.
 *
 * B1_PEER_PRIORITY: messages of a higher priority first (MSG-9).
 * B1_PEER_FDS: file descriptors that come with messages are accepted (MSG-6).
 *   Otherwise they are closed, and the messages have none.
 */
int b1_peer_set_flags(b1_peer *peer, unsigned int flags);
#define B1_PEER_PRIORITY (1U << 0)
#define B1_PEER_FDS	 (1U << 1)

/*
 * For event loops (LIB-3): poll the descriptor for the events, at most until
 * the deadline, then process. The deadline is absolute, in ns of
 * CLOCK_MONOTONIC; 0: do not wait at all; UINT64_MAX: there is none. It has
 * to be asked for before each wait. Closing the descriptor or changing its
 * flags is not allowed; using it in ioctl() is at one's own risk.
 */
int b1_peer_get_fd(b1_peer *peer);
int b1_peer_get_events(b1_peer *peer); /* a mask for poll(), as EPOLLIN */
int b1_peer_get_timeout(b1_peer *peer, uint64_t *deadlinep);

/*
 * Receive what is there, up to a bound of some hundred, and call the handlers
 * and callbacks that it is for. Never blocks (but for the callbacks).
 *
 * Returns how many messages and notices were processed: 0 if nothing was
 * there, for example because another thread took it; or what a callback
 * returned that was negative (those before it have been processed, those after
 * it will be by the next call), or an error of its own. On -ENOMEM nothing is
 * lost either: call again.
 */
int b1_peer_process(b1_peer *peer);

/*
 * Wait until there is something to process, or until `deadline` (as above).
 * Returns 1, or 0 at the deadline. -EINTR: a signal handler ran.
 */
int b1_peer_wait(b1_peer *peer, uint64_t deadline);

/*
 * Both, again and again: what a server does that has no event loop. Returns 0 at
 * `deadline` (as above), having processed what was there then, but not all that goes on
 * coming; or what a callback returned that was negative, or an
 * error as of the two above. Several threads may do so for one peer.
 *
 * A small reply with B1_REPLY_LAST goes with the wait for what is next: so a
 * round trip is two system calls, one for each side (CALL-1).
 */
int b1_peer_run(b1_peer *peer, uint64_t deadline);

/*
 * Nodes (OBJ-2)
 */

/*
 * Make a node. `handler` is called, with `userdata`, for each message to it;
 * NULL: messages are dropped.
 *
 * -EDQUOT: the peer, or its user, has as many nodes as it may have.
 */
int b1_node_new(b1_peer *peer, b1_node **nodep, b1_message_fn handler, void *userdata);
/*
 * The same. With B1_NODE_CREDS its messages say who sent them: b1_message_get_creds().
 * With B1_NODE_NO_INHERIT who serves calls to it does not do so at the priority of
 * the caller (CALL-6).
 */
int b1_node_new_flags(b1_peer *peer, b1_node **nodep, unsigned int flags, b1_message_fn handler,
		      void *userdata);
#define B1_NODE_CREDS	   (1U << 1)
#define B1_NODE_NO_INHERIT (1U << 2)
b1_node *b1_node_ref(b1_node *node);
/*
 * The last one destroys the node, as b1_node_destroy(). A handler that runs in
 * another thread at that time holds a reference while it does: `userdata` has
 * to stay until the destroy callback says that it is no longer needed.
 */
b1_node *b1_node_unref(b1_node *node);

/*
 * Set the callback for when the node has lost its last user (OBJ-10). It may
 * have users again by the time it is called: see B1_NODE_UNUSED. To be set
 * before the node is passed on; NULL: none.
 */
int b1_node_set_unused(b1_node *node, b1_unused_fn unused);
/* Set what is called once nothing else will be, when the node object goes. */
int b1_node_set_destroy(b1_node *node, b1_destroy_fn destroy);
void *b1_node_get_userdata(b1_node *node);
/*
 * The handle of this very node, to pass it on or send to it. It *is* the node:
 * a reference to one is a reference to the other.
 */
b1_handle *b1_node_get_handle(b1_node *node);

/*
 * End the node: every holder of a handle is told (OBJ-8). No handler of it is
 * called after this returns, but for those that run in other threads already.
 * The object stays until its last reference. Watches of the node's own handle
 * are called before it returns, and what they return is ignored.
 *
 * -EBUSY: with B1_NODE_UNUSED, the node has users, or is on its way to one.
 * -EHOSTUNREACH: it was destroyed before.
 */
int b1_node_destroy(b1_node *node, unsigned int flags);
#define B1_NODE_UNUSED (1U << 0) /* only if it has no users */

/*
 * Facets (OBJ-6, OBJ-8, OBJ-9)
 *
 * A facet is a node object, for which all functions above work, but messages to
 * it go to the handler of the node that it is a facet of, where
 * b1_message_get_badge() tells it. Its handles are not those of the node. Its
 * end, by the last reference or by b1_node_destroy(), is revocation: exactly
 * the handles to it die. It is told of by itself when it is unused. A facet has
 * a reference to its node, and dies with it when that is destroyed.
 */

/*
 * Make a facet of `node`. If there is one with this badge it is that one, with
 * a further reference and the userdata that it has. `userdata` is for its
 * callbacks.
 *
 * With B1_FACET_ONCE it is always a new one, and carries one message: then it
 * is gone, and all handles to it are dead. Its unused callback is called if
 * all handles to it are gone and none was sent. The reference has to be given
 * back in both cases.
 *
 * -EINVAL: `node` is a facet; the badge is 0, without B1_FACET_ONCE.
 * -EDQUOT: the peer, or its user, has as many nodes as it may have.
 * -EHOSTUNREACH: the node was destroyed.
 */
int b1_node_new_facet(b1_node *node, b1_node **facetp, uint64_t badge, unsigned int flags,
		      void *userdata);
#define B1_FACET_ONCE (1U << 0)

/* 0: it is no facet, or a one-shot without a badge. */
uint64_t b1_node_get_badge(b1_node *node);

/*
 * Handles (OBJ-3, OBJ-4)
 *
 * Within a peer a node has one handle object, however often it is received,
 * for as long as someone holds a reference to it: handles can be compared by
 * address. (With other rights, or weak, it is another handle.) A handle to a
 * node or facet of the peer's own is that node's.
 *
 * A handle has rights, that only shrink as it is passed on (OBJ-5). One that is
 * weak is told of the death of its node, but is no user of it, and sends
 * nothing (OBJ-7). One that is one-shot carries one message (OBJ-9): it is
 * dead once that was sent.
 */

/* What may be done with a handle, and what it is. */
#define B1_RIGHT_SEND	  (1U << 0) /* send to it */
#define B1_RIGHT_TRANSFER (1U << 1) /* pass it on, export it */
#define B1_HANDLE_WEAK	  (1U << 8)
#define B1_HANDLE_ONCE	  (1U << 9)

/* How a handle is to be passed on. */
#define B1_PASS_MOVE   (1U << 0) /* the caller's reference goes with it */
#define B1_PASS_WEAK   (1U << 1) /* it arrives weak */
#define B1_PASS_STRONG (1U << 2) /* it arrives strong, though it is weak here */

b1_handle *b1_handle_ref(b1_handle *handle);
/* The last one releases it. Its owner may be told that the node is unused. */
b1_handle *b1_handle_unref(b1_handle *handle);

/* The node that this is the handle of, if it is of the same peer; or NULL. */
b1_node *b1_handle_get_node(b1_handle *handle);
/* The kernel's id of it in its peer, never 0. */
uint64_t b1_handle_get_id(b1_handle *handle);
/* Nonzero once it is known that the node is gone. It never comes back. */
int b1_handle_is_dead(b1_handle *handle);
/*
 * B1_RIGHT_*, B1_HANDLE_*. The owner of a node has all rights.
 *
 * -ENODATA: not known, as it came by b1_handle_from_id(), and not since.
 */
int b1_handle_get_flags(b1_handle *handle);

/*
 * Take over a handle that the peer has, but no object of this process stands
 * for, for example one put into it by b1_handle_transfer_fd(). To be done
 * once for each, and before the peer is processed, lest a notice about it is
 * missed.
 *
 * -ENXIO: the peer has no such handle. -EPERM: it is a node.
 */
int b1_handle_from_id(b1_peer *peer, b1_handle **handlep, uint64_t id);

/*
 * Give another peer a handle to the same node (OBJ-13). The first form is for
 * two peers of this process; the handle may be the node's own again, if `peer`
 * owns it. The second is for a peer that is meant for another process: only
 * the descriptor is here, and the id goes along by argument or environment to
 * where b1_handle_from_id() takes it over.
 *
 * -ENXIO: the handle is of a node of one's own that was destroyed.
 * -EDQUOT: the peer, or its user, has as many handles as it may have.
 * -EBADF, -EMEDIUMTYPE: peer_fd is not an open file, or no file of bus1.
 */
int b1_handle_transfer(b1_handle *handle, b1_peer *peer, b1_handle **handlep);
int b1_handle_transfer_fd(b1_handle *handle, int peer_fd, uint64_t *idp);
/*
 * The first form, without the rights in drop_rights (B1_RIGHT_*), and weak or
 * strong (B1_PASS_WEAK, B1_PASS_STRONG; OBJ-7). `peer` may be the one that the
 * handle is of: this makes a weaker handle of one there is, or a strong one of
 * a weak one.
 *
 * -EHOSTUNREACH: with B1_PASS_STRONG, the node is dead.
 * -EPERM: it has no B1_RIGHT_TRANSFER, and `peer` is another.
 */
int b1_handle_transfer_as(b1_handle *handle, b1_peer *peer, b1_handle **handlep,
			  unsigned int flags, unsigned int drop_rights);

/*
 * Make a file descriptor of a handle, without the rights in drop_rights, that
 * anyone who has it can import (OBJ-12): over a socket, by inheritance, across
 * exec. It is the caller's, close-on-exec, and a user of the node until it is
 * closed in all processes. It polls POLLHUP when the node is dead.
 *
 * -EPERM: the handle is weak, or has no B1_RIGHT_TRANSFER.
 * -ENXIO: the handle is of a node of one's own that was destroyed.
 * -EMFILE, -ENFILE: too many open files.
 * -EDQUOT: the user has as many peers and exported handles as it may have.
 */
int b1_handle_export(b1_handle *handle, int *fdp, unsigned int drop_rights);
/*
 * Get the handle that such a descriptor holds. The descriptor stays the
 * caller's, and as it is.
 *
 * -EBADF, -EMEDIUMTYPE: fd is not an open file, or no exported handle.
 * -EDQUOT: the peer, or its user, has as many handles as it may have.
 */
int b1_handle_import(b1_peer *peer, b1_handle **handlep, int fd);

/*
 * Be told, once, when the node dies (OBJ-10). The watch does not keep the
 * handle: it ends with it. If watchp is NULL it ends with the handle only.
 *
 * -EHOSTUNREACH: it is dead already; the callback will not be called.
 */
int b1_handle_watch(b1_handle *handle, b1_watch **watchp, b1_dead_fn dead, void *userdata);
/*
 * Be told when it is worth to send again, after a send to the handle found no
 * room (RES-4). The watch has to be there when the send is made; it is called
 * once for any number of sends that fail with -EAGAIN meanwhile, and stays for
 * the next time, until the node dies. (It may be called as that happens;
 * b1_handle_watch() tells it for sure.) There may be no room again by then, and
 * it may be for a send of someone else: then the next -EAGAIN says so. Where
 * threads share the peer it may be called before the send has returned.
 *
 * -EINVAL: the handle is of a node of the peer's own: to make room there is a
 * matter of b1_peer_process(). -EHOSTUNREACH: the node is dead.
 */
int b1_handle_watch_writable(b1_handle *handle, b1_watch **watchp, b1_writable_fn writable,
			     void *userdata);
/* Set what is called once the watch is gone and its callback not running. */
int b1_watch_set_destroy(b1_watch *watch, b1_destroy_fn destroy);
/*
 * End a watch; if it is of a call that is not over, cancel it. The callback is not called after this returns, unless it runs
 * in another thread already. Accepts NULL, returns NULL.
 */
b1_watch *b1_watch_free(b1_watch *watch);

/*
 * Sending (MSG-1, MSG-2)
 */

/*
 * One handle to send along, with what is to become of it (OBJ-5, OBJ-7). With
 * B1_PASS_MOVE the caller's reference is taken if the call succeeds, which may
 * save the kernel's release of the handle; not for nodes of one's own.
 */
typedef struct b1_pass {
	b1_handle *handle;
	unsigned int flags;	    /* B1_PASS_MOVE, B1_PASS_WEAK */
	unsigned int drop_rights;   /* B1_RIGHT_* that it arrives without */
} b1_pass;

/*
 * What to send. Set it to zero first, by an initializer: what is not set is
 * not used, and the struct will grow at its end. All is copied before the
 * call returns; nothing in it changes hands, but by B1_PASS_MOVE and
 * B1_SEND_TAKE_FDS, if the call succeeds.
 */
typedef struct b1_outgoing {
	uint64_t flags;		    /* B1_SEND_* */
	const void *data;	    /* the payload, if n_iov is 0 */
	size_t size;		    /* bytes of it */
	const struct iovec *iov;    /* the parts of the payload otherwise */
	size_t n_iov;		    /* up to 1024 */
	b1_handle *const *handles;  /* to send along: each arrives as a handle */
	size_t n_handles;	    /* up to 253, with n_passes */
	const b1_pass *passes;	    /* further handles, behind those */
	size_t n_passes;
	const int *fds;		    /* file descriptors to send along (MSG-6) */
	size_t n_fds;		    /* up to 253 */
	uint64_t priority;	    /* 0 to 31: for peers with B1_PEER_PRIORITY */
	b1_handle *buffer;	    /* its body is a part of this (MSG-5) */
	uint64_t buffer_offset;	    /* bytes */
	uint64_t buffer_size;	    /* likewise */
	uint64_t deadline;	    /* wait for room until then; 0: not at all */
} b1_outgoing;

/* With many destinations: those get it that can; fail only if none does. */
#define B1_SEND_PARTIAL (UINT64_C(1) << 0)
/* Two multicasts with this arrive in the same order wherever both arrive (ORD-4). */
#define B1_SEND_ORDERED (UINT64_C(1) << 1)
/* The fds are closed when they were sent; none may stand there twice. */
#define B1_SEND_TAKE_FDS (UINT64_C(1) << 2)

/*
 * Send to one or many handles, at one instant; either all get it or none. All
 * of `to` and of what is sent along must be of one peer. errors[n_to], if not
 * NULL, gets 0 or a negative errno for each destination, also on failure.
 *
 * How the payload travels is chosen here and by the kernel (LIB-9): inside the
 * message if it is small; by the receiver's pool, copied once, if that can hold
 * it; in a sealed memfd if not, unless file descriptors or a buffer go along.
 *
 * If a receiver has no room for more from this sender now (RES-2) the call
 * fails with -EAGAIN, and b1_handle_watch_writable() tells when to try again; or,
 * with a `deadline` (as for b1_peer_wait()), it blocks until there is room, in
 * all of them. Nothing is processed meanwhile: two peers that wait so for each
 * other's room wait for ever, if the deadline lets them.
 *
 * -EHOSTUNREACH  the node is gone, or the one-shot handle was used
 * -EPERM	  a destination is weak or has no B1_RIGHT_SEND; a handle sent
 *		  along has no B1_RIGHT_TRANSFER, or is a node and to be moved
 * -EAGAIN	  the receiver has no room for this sender now: try again later
 * -ETIMEDOUT	  nor was there any before the deadline
 * -EINTR	  a signal handler ran while it waited
 * -EMSGSIZE	  a count or size is too high; the payload is larger than
 *		  3/8 of the receiver's pool, and file descriptors or a
 *		  buffer go along
 * -EDQUOT	  a limit that an administrator has set: of the handles that the
 *		  receiver, or its user, may have, or of the memory in pools; of
 *		  the messages, handles or files that the sending user may have
 *		  on their way, to all receivers
 * -EINVAL	  B1_SEND_PARTIAL with a deadline; and as always
 * -ENXIO	  a handle sent along is of a node of one's own that was destroyed
 * -EXDEV	  the handles are not all of one peer
 * -EBADF	  one of fds is not an open file
 * -ELOOP	  one of fds may not be sent: peers, exported handles, AF_UNIX
 *		  sockets, io_uring
 * -EFAULT	  the payload is not readable
 * -EMFILE, -ENFILE, -ENOSPC  of the memfd
 * -EMEDIUMTYPE	  the buffer is none
 * -EOPNOTSUPP	  a destination is a buffer
 * -ERANGE	  there is no such part of the buffer
 * -E2BIG	  the struct is of a newer library, and asks for what this one
 *		  does not know
 */
int b1_send_sized(b1_handle *const *to, size_t n_to, const b1_outgoing *outgoing,
		  size_t outgoing_size, int *errors);

static inline int b1_send(b1_handle *to, const b1_outgoing *outgoing)
{
	return b1_send_sized(&to, 1, outgoing, sizeof(*outgoing), NULL);
}

static inline int b1_multicast(b1_handle *const *to, size_t n_to, const b1_outgoing *outgoing,
			       int *errors)
{
	return b1_send_sized(to, n_to, outgoing, sizeof(*outgoing), errors);
}

/* The plain case: bytes, and up to one handle (which may be NULL). */
int b1_send_bytes(b1_handle *to, const void *data, size_t size, b1_handle *along);

/*
 * Calls (CALL-1 to CALL-8, LIB-4)
 */

/* Memory that a call lends: who serves it may read it, or write to it, until it is over. */
typedef struct b1_lease {
	void *base;
	size_t size;		    /* bytes */
	unsigned int flags;	    /* B1_LEASE_*, at least one */
} b1_lease;

#define B1_LEASE_READ  (1U << 0)
#define B1_LEASE_WRITE (1U << 1)

/*
 * How to call. Set it to zero first, by an initializer; it will grow at its end.
 * NULL does for a struct of zeros.
 */
typedef struct b1_call_options {
	uint64_t flags;		    /* B1_CALL_* */
	uint64_t deadline;	    /* ns, CLOCK_MONOTONIC, absolute; 0, UINT64_MAX: none */
	uint64_t reply_size;	    /* bytes that the reply may be of; see below */
	uint64_t reply_handles;	    /* that it may bring, up to 253 */
	uint64_t reply_fds;	    /* likewise; to b1_call() whatever B1_PEER_FDS says */
	const b1_lease *leases;	    /* b1_call() only (CALL-8) */
	size_t n_leases;	    /* up to 16 */
	b1_message *parent;	    /* that it is made to serve; see below */
} b1_call_options;

/*
 * While it waits the thread serves requests that are made, to nodes of this peer, as
 * part of this very call, however indirectly (CALL-5): their handlers are called
 * from within b1_call(), and what they return is ignored. Otherwise such a request
 * waits for another thread to process the peer.
 */
#define B1_CALL_NESTED (UINT64_C(1) << 0)

/*
 * Send a request and wait for the reply, which is stored by replyp and is the
 * caller's. (If replyp is NULL it is dropped.) `outgoing` is as for b1_send(), with
 * B1_SEND_TAKE_FDS and no other flag, and no deadline: it waits for room until the
 * deadline of the call. Nothing else is processed meanwhile, and the peer need not be:
 * the reply comes past its queue. What is given away goes if 0 is returned.
 *
 * The space for the reply is set aside, and paid for, by who calls (CALL-7). A reply
 * of up to a hundred bytes or so (as much as any message carries in itself) can always
 * come; `reply_size` is for larger ones. More than the peer's pool has for one message
 * comes in a memfd (LIB-9), and so may anything if reply_fds is not 0.
 *
 * A call that is made by a handler, in the thread that it was called in, is part of
 * the request it was called for, as long as that is not answered: both are of one
 * chain. Who serves a request elsewhere says so by `parent`.
 *
 * If a signal handler runs, without SA_RESTART, the call is over: the server is told
 * (CALL-4), and a reply goes nowhere. After one with SA_RESTART it goes on.
 *
 * -EREMOTEIO	  an error reply: replyp has it, b1_message_get_error_name() what it says
 * -EHOSTUNREACH  the node is gone, or was before it received the request; or the
 *		  one-shot handle was used
 * -ECONNRESET	  the server has gone while it served the request
 * -ECONNABORTED  the server has dropped the request unanswered
 * -ETIMEDOUT	  the deadline has passed, perhaps while it waited for room
 * -EINTR	  a signal handler ran, likewise
 * -EAGAIN	  there is no room for the reply in the peer's own pool
 * -EMSGSIZE	  a count or size is too high
 * -ELOOP	  calls within calls, too deep (32); or as of b1_send()
 * -EALREADY, -EXDEV  `parent` was answered, or is of another peer
 * -ENOMEM	  the request may have been served: the reply is lost
 * Others as of b1_send().
 */
int b1_call_sized(b1_handle *to, const b1_outgoing *outgoing, size_t outgoing_size,
		  const b1_call_options *options, size_t options_size, b1_message **replyp);

static inline int b1_call(b1_handle *to, const b1_outgoing *outgoing,
			  const b1_call_options *options, b1_message **replyp)
{
	return b1_call_sized(to, outgoing, sizeof(*outgoing), options, sizeof(*options), replyp);
}

/*
 * The same without waiting: `reply` is called, once, by b1_peer_process(), with the
 * reply; or with -EREMOTEIO and an error reply; or without one, with -EHOSTUNREACH,
 * -ECONNRESET, -ECONNABORTED, or -ETIMEDOUT. The deadline is kept by the peer: see
 * b1_peer_get_timeout(). No flags, no leases.
 *
 * The call is a watch. b1_watch_free() before it is over cancels it, and the
 * callback is not called; the server is told. So it is, uncalled, when the peer
 * ends. If watchp is NULL it cannot be cancelled. It does not keep the handle, and
 * does not end with it. Where threads share the peer the callback may be called before
 * this has returned, but not before the watch is stored.
 *
 * It does not wait for room either (-EAGAIN), unless outgoing->deadline is UINT64_MAX.
 * Errors, but for those that the callback gets, as of b1_call(), and then nothing was
 * sent.
 */
int b1_call_async_sized(b1_handle *to, const b1_outgoing *outgoing, size_t outgoing_size,
			const b1_call_options *options, size_t options_size, b1_watch **watchp,
			b1_reply_fn reply, void *userdata);

static inline int b1_call_async(b1_handle *to, const b1_outgoing *outgoing,
				const b1_call_options *options, b1_watch **watchp,
				b1_reply_fn reply, void *userdata)
{
	return b1_call_async_sized(to, outgoing, sizeof(*outgoing), options, sizeof(*options),
				   watchp, reply, userdata);
}

/*
 * Replies (CALL-2)
 *
 * A request is a message, for the node's handler like any other. It is answered once,
 * by the handler, or later from any thread, as long as there is a reference to it.
 * With its last reference it is dropped: the caller gets -ECONNABORTED. So does
 * it when the peer ends but the program and its messages do not.
 */

/* Nonzero if it is a request, also when it was answered. Other functions say -EINVAL if not. */
int b1_message_is_call(b1_message *message);
/* A number that all calls made as part of one another have in common; 0: it is no request. */
uint64_t b1_message_get_chain(b1_message *message);

/*
 * Answer a request. `outgoing` is as for b1_send(), with B1_SEND_TAKE_FDS and
 * B1_REPLY_LAST and no other flags, no priority and no deadline. Never waits.
 *
 * With B1_REPLY_LAST the handler that was called for the request promises to return at once: a
 * small reply without handles and the like may then be sent when it does, together with
 * the next receive. This returns 0 then, whether the caller is still there or not.
 *
 * -ECANCELED	the caller does not wait any more; the request is done with
 * -EMSGSIZE	it is more than the caller has set aside (bytes, handles, descriptors):
 *		answer with less
 * -EALREADY	it was answered, or dropped
 * -EBUSY	another thread is just about to
 * -EDQUOT	the caller or its user may have no more handles, or pages in pools:
 *		likewise
 * Others as of b1_send(), but for those of destinations.
 */
int b1_message_reply_sized(b1_message *request, const b1_outgoing *outgoing,
			   size_t outgoing_size);
#define B1_REPLY_LAST (UINT64_C(1) << 3)

static inline int b1_message_reply(b1_message *request, const b1_outgoing *outgoing)
{
	return b1_message_reply_sized(request, outgoing, sizeof(*outgoing));
}

/* The plain case: bytes. */
int b1_message_reply_bytes(b1_message *request, const void *data, size_t size);
/*
 * Answer by an error (LIB-4): a name that programs look at, of 1 to B1_ERROR_NAME_MAX
 * bytes, as "org.example.Shelf.Error.NotFound", and a text for people, which may be
 * NULL. Every caller has room for it: if need be the text is shortened. The payload
 * is both strings, each with its terminating zero.
 *
 * Errors as of b1_message_reply(); -EINVAL: the name is too long, or empty.
 */
int b1_message_reply_error(b1_message *request, const char *name, const char *text);
#define B1_ERROR_NAME_MAX 63
/*
 * The same for an errno, of either sign: "System.Error.ENOENT", with libc's text for it.
 * -EINVAL: there is no such errno.
 */
int b1_message_reply_errno(b1_message *request, int error);
/*
 * Leave it unanswered, now: the caller gets -ECONNABORTED. Errors as of b1_message_reply(),
 * but for -ECANCELED.
 */
int b1_message_drop(b1_message *request);

/*
 * Of a reply: the strings of an error, good as long as the message; NULL if it is
 * none. They are empty if the server has not followed the format.
 */
const char *b1_message_get_error_name(b1_message *reply);
const char *b1_message_get_error_text(b1_message *reply);
/* Of a reply: nonzero if the server found that the memory of a lease is not there. */
int b1_message_has_fault(b1_message *reply);

/*
 * Nonzero once it is known that nobody waits for the reply any more (CALL-4), which
 * b1_peer_process() finds out. Answering, which fails with -ECANCELED, is allowed and not
 * needed.
 */
int b1_message_is_cancelled(b1_message *request);
/*
 * Set the callback for that; NULL: none. It is called once, while there is a
 * reference to the request and it is not answered.
 *
 * -ECANCELED: it is so already, and the callback will not be called. -EALREADY: it
 * was answered.
 */
int b1_message_set_cancelled(b1_message *request, b1_cancelled_fn cancelled, void *userdata);

/*
 * Read or write memory that the caller of a request lends, until it is answered
 * (CALL-8). If it fails a part may have been copied.
 *
 * -ENXIO	there is no such lease
 * -EPERM	it does not allow that
 * -ERANGE	not all of it is within the lease
 * -ECANCELED	the caller does not wait any more
 * -EALREADY	the request was answered
 * -EFAULT	`data` is bad
 * -EREMOTEIO	the caller's memory is: b1_message_has_fault() tells it
 * -EINTR	a signal came
 */
size_t b1_message_get_n_leases(b1_message *request);
int b1_message_read_lease(b1_message *request, size_t index, uint64_t offset, void *data,
			  size_t size);
int b1_message_write_lease(b1_message *request, size_t index, uint64_t offset, const void *data,
			   size_t size);

/*
 * Buffers (MSG-5)
 *
 * A buffer is a node that stands for bytes in memory: sent once, or never, and
 * referred to by messages as often as is wanted, without a copy. Its handles
 * are handles; whoever has one reads the bytes. It is made as a node object:
 * all functions of nodes work, but no message is sent to it, and facets with
 * B1_FACET_ONCE are not made of it. The unused callback tells when nobody has
 * it any more.
 */

/*
 * Make a buffer of these bytes, which are copied, once.
 *
 * -EMFILE, -ENFILE, -ENOSPC: of its memfd. -EFAULT: data is not readable.
 * -EDQUOT: the peer has as many nodes as it may have.
 */
int b1_buffer_new(b1_peer *peer, b1_node **nodep, const void *data, size_t size, void *userdata);
/*
 * Make a buffer of a memfd with the seals F_SEAL_SHRINK, F_SEAL_GROW and
 * F_SEAL_WRITE. With B1_BUFFER_SHARED F_SEAL_FUTURE_WRITE does for the last:
 * who has mapped it for writing before goes on writing, and readers are told
 * that it changes. `fd` stays the caller's, and may be closed.
 *
 * -ETXTBSY: a seal is missing. -EMEDIUMTYPE: it is no memfd. -EBADF: it is not
 * an open file, or not for reading. -EDQUOT: as above.
 */
int b1_buffer_new_from_fd(b1_peer *peer, b1_node **nodep, int fd, unsigned int flags,
			  void *userdata);
#define B1_BUFFER_SHARED (1U << 0)

/*
 * The bytes of a buffer, mapped read-only when first asked for, and there as
 * long as the handle object, whatever becomes of the buffer. Returns 0, or 1 if
 * they may change. sizep may be NULL.
 *
 * -EMEDIUMTYPE: it is no buffer. -EHOSTUNREACH: it was destroyed. -EPERM: the
 * handle is weak, or has no B1_RIGHT_SEND. -EOVERFLOW: larger than memory.
 * -EMFILE, -ENFILE, -EACCES: of the descriptor that it takes for a moment.
 * -ETXTBSY: somebody has a lease on it. -EBADMSG: there are parts that were
 * never written, and it would be charged to who reads them (not if it is
 * shared).
 */
int b1_buffer_map(b1_handle *buffer, const void **datap, size_t *sizep);
/* The same by a descriptor, which is the caller's, read-only and close-on-exec. */
int b1_buffer_open(b1_handle *buffer, int *fdp, uint64_t *sizep);

/*
 * Messages (MSG-3)
 */

b1_message *b1_message_ref(b1_message *message);
/*
 * The last one gives back its memory and its references to handles, and closes
 * its file descriptors.
 */
b1_message *b1_message_unref(b1_message *message);
/*
 * The payload, in place: in the pool if it is large, else in the message. It
 * is read-only, aligned to 8, does not change, and is good as long as the
 * message, even if the peer has ended. Never NULL. sizep may be NULL.
 *
 * Of a message without a payload it is the body, if there is one that can be
 * read and does not change: what was sent as a payload may arrive so. That of
 * a buffer is aligned as the part of the buffer is.
 */
const void *b1_message_get_data(b1_message *message, size_t *sizep);
/*
 * The body (MSG-5): the part of a buffer that the message refers to, or what
 * came in a memfd of its own. Good as long as the message. Returns 0, or 1 if
 * it may change while it is read.
 *
 * -ENODATA: it has none. Others: as for b1_buffer_map(), it can not be had; one
 * in a memfd is then lost.
 */
int b1_message_get_body(b1_message *message, const void **datap, size_t *sizep);
/* The buffer that the body is in, to be kept or passed on; NULL: none. It is none of the handles below. */
b1_handle *b1_message_get_buffer(b1_message *message);
size_t b1_message_get_n_handles(b1_message *message);
/* The handle of that index, from 0; NULL if it is too high. */
b1_handle *b1_message_get_handle(b1_message *message, size_t index);
/* The badge of the facet that it was sent through, or 0 (OBJ-6). */
uint64_t b1_message_get_badge(b1_message *message);
unsigned int b1_message_get_priority(b1_message *message);

/*
 * Its file descriptors (MSG-6), of which there are none unless B1_PEER_FDS is
 * set. They are the message's, close-on-exec; take makes one the caller's.
 *
 * -ERANGE: the index is too high. -EBADF: it was taken. Others, as -EMFILE or
 * -EACCES: this one could not be installed.
 */
size_t b1_message_get_n_fds(b1_message *message);
int b1_message_get_fd(b1_message *message, size_t index);
int b1_message_take_fd(b1_message *message, size_t index);

/*
 * The thread that sent it, as it was then, in terms of our namespaces (MSG-7).
 * The struct may grow.
 */
typedef struct b1_creds {
	pid_t pid, tid;		/* 0: not visible from here */
	uid_t uid;		/* effective */
	gid_t gid;		/* likewise */
	const char *label;	/* of the security modules; NULL: none */
} b1_creds;

/* NULL unless it was sent to a node with B1_NODE_CREDS. Good as long as the message. */
const b1_creds *b1_message_get_creds(b1_message *message);

/*
 * For __attribute__((cleanup)): B1_CLEANUP(peer) b1_peer *peer = NULL;
 */
static inline void b1_peer_unrefp(b1_peer **p) { b1_peer_unref(*p); }
static inline void b1_node_unrefp(b1_node **p) { b1_node_unref(*p); }
static inline void b1_handle_unrefp(b1_handle **p) { b1_handle_unref(*p); }
static inline void b1_message_unrefp(b1_message **p) { b1_message_unref(*p); }
static inline void b1_watch_freep(b1_watch **p) { b1_watch_free(*p); }

#define B1_CLEANUP(kind) __attribute__((__cleanup__(b1_##kind##_unrefp)))
#define B1_CLEANUP_WATCH __attribute__((__cleanup__(b1_watch_freep)))

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* LIBBUS1_H */
