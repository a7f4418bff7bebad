/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * bus1: capability-based IPC. The ABI of /dev/bus1, and nothing else.
 *
 * The semantics are in bus1(7). In short: a *peer* is an open file of the
 * device. It owns *nodes* (objects) and holds *handles* (counted references
 * to nodes of other peers). A message is sent to a node, through a handle;
 * it carries bytes and handles. Large payloads are copied once, into the
 * *pool* that the receiver maps read-only, where each takes a *slice*.
 *
 * Conventions (ABI-1, ABI-2, ABI-3):
 *  - Each command is an ioctl with one struct. The size of the struct is part
 *    of the ioctl number: a struct that is shorter than the kernel's is taken
 *    as if its tail were zero (but not shorter than the first version, *_VER0);
 *    a longer one fails with E2BIG unless its unknown tail is zero.
 *  - Every struct has one layout on 32 and 64 bit. Pointers are in a __u64.
 *    Unused pointers must be 0, and so must reserved fields and unknown flags:
 *    EINVAL otherwise.
 *  - 0 is success, -1 with errno is failure, and a failed command changed
 *    nothing, except where its description says so.
 *  - Ids (of nodes, handles, slices) are never 0, never reused while the peer
 *    lives, and mean something only within their own peer.
 *
 * Errors that any command may return:
 *  EFAULT  an address of the caller's could not be read or written
 *  EINVAL  an unknown flag, a non-zero reserved field, a bad combination
 *  E2BIG   the struct is longer than known here, and its tail is not zero
 *  EMSGSIZE  a count is above its BUS1_MAX_* (nothing was read or changed)
 *  ENOMEM  out of kernel memory
 *  ENOTTY  no such command
 */
#ifndef _UAPI_LINUX_BUS1_H
#define _UAPI_LINUX_BUS1_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define BUS1_DEVICE		"bus1"	/* name under /dev */
#define BUS1_IOC_MAGIC		0xB9

/* Bounds of one command. A count above them is EMSGSIZE. */
enum {
	BUS1_MAX_DESTS		= 1024,	/* destinations of one send */
	BUS1_MAX_IOVS		= 1024,	/* parts of one payload */
	BUS1_MAX_HANDLES	= 253,	/* handles in one message */
	BUS1_MAX_IDS		= 1024,	/* ids in one destroy, release, transfer */
	BUS1_MAX_MSGS		= 256,	/* messages of one receive */
};

/* Payload of one message, and size of one pool, in bytes. */
#define BUS1_MAX_PAYLOAD	(64ULL << 20)
#define BUS1_MAX_POOL		(256ULL << 20)

/*
 * BUS1_CMD_NODE_CREATE (OBJ-2): make a node that this peer owns.
 *
 * Its id is used as a destination or passed along in messages; whoever gets
 * it holds a handle. The cookie comes back with every message to the node.
 *
 * EDQUOT  this peer has as many nodes as it may have
 */
struct bus1_cmd_node {
	__u64 flags;		/* must be 0 */
	__u64 cookie;		/* in: any value, chosen by the owner */
	__u64 id;		/* out: id of the new node; in: must be 0 */
};
#define BUS1_CMD_NODE_VER0	24

/*
 * BUS1_CMD_NODE_DESTROY (OBJ-8, OBJ-11): end nodes of this peer, all of them
 * or none, at one instant. Nothing more is delivered to them: messages to
 * them that wait in the queue are never received. What these hold is given up
 * at once for the oldest 1024 in the queue, and for those behind them when the
 * owner receives or polls and they are next. Every holder gets
 * BUS1_MSG_NODE_DEAD. No BUS1_MSG_NODE_UNUSED follows.
 *
 * ENXIO   an id is not known
 * EPERM   an id is a handle: only the owner may destroy
 * EINVAL  an id stands in the array twice
 * EBUSY   with BUS1_DESTROY_UNUSED: a node has users, in other peers or in
 *         messages on their way
 *
 * BUS1_CMD_HANDLE_RELEASE (OBJ-3, OBJ-11): give back one count per id, all or
 * none, at one instant. An id may stand in the array as often as it has
 * counts. A handle without counts is gone, and its id with it; a notice for
 * it that was not yet received is withdrawn. The owners whose nodes lost
 * their last user get BUS1_MSG_NODE_UNUSED.
 *
 * ENXIO   an id is not known, or stands in the array more often than it has
 *         counts
 * EPERM   an id is a node of this peer: nodes are destroyed, not released
 *
 * BUS1_CMD_SLICE_RELEASE (MSG-3): give back slices of the pool, all or none.
 *
 * ENXIO   an id is not known, or stands in the array twice
 */
struct bus1_cmd_ids {
	__u64 flags;		/* BUS1_DESTROY_*; otherwise must be 0 */
	__u64 ids;		/* in: pointer to __u64[n_ids] */
	__u32 n_ids;		/* 1 to BUS1_MAX_IDS */
	__u32 reserved;		/* must be 0 */
};
#define BUS1_CMD_IDS_VER0	24

#define BUS1_DESTROY_UNUSED	(1ULL << 0)	/* only if no node has a user */

/*
 * BUS1_CMD_HANDLE_TRANSFER (OBJ-13): put handles into another peer directly,
 * for who holds the descriptors of both. The peer that the command is called
 * on gives; each of ids[] (its handles or its nodes) becomes one count of a
 * handle in the other peer. With BUS1_TRANSFER_MOVE each handle loses one
 * count here, as by BUS1_CMD_HANDLE_RELEASE. out[] is filled before the
 * transfer happens: if it cannot be written, nothing is transferred.
 * Where the other peer owns the node, out[] gets the id of that node.
 *
 * EBADF   peer_fd is not an open file
 * EMEDIUMTYPE  peer_fd is no bus1 peer
 * ENXIO   an id is not known (with MOVE: or has fewer counts than asked for)
 * EPERM   with BUS1_TRANSFER_MOVE: an id is a node
 * EDQUOT  the other peer has as many handles as it may have
 */
struct bus1_cmd_transfer {
	__u64 flags;		/* BUS1_TRANSFER_* */
	__u64 ids;		/* in: pointer to __u64[n_ids] */
	__u64 out;		/* out: pointer to __u64[n_ids] */
	__u32 n_ids;		/* 1 to BUS1_MAX_IDS */
	__s32 peer_fd;		/* the peer that receives; may be this one */
};
#define BUS1_CMD_TRANSFER_VER0	32

#define BUS1_TRANSFER_MOVE	(1ULL << 0)

/* One part of a payload. */
struct bus1_iovec {
	__u64 base;		/* pointer */
	__u64 len;		/* bytes; 0 is allowed */
};

/* One handle to send along: a handle or a node of the sender. */
struct bus1_pass {
	__u64 id;
	__u32 flags;		/* must be 0 */
	__u32 drop_rights;	/* must be 0 */
};

/*
 * BUS1_CMD_SEND (MSG-1, MSG-2): send one message to one or many nodes.
 *
 * The destination is `dest`, or, if n_dests is not 0, each of dests[]. The
 * payload is [data, data + len), or, if n_iovs is not 0, the concatenation of
 * iovs[]; the fields of the form not used must be 0. Many destinations are
 * one transaction: it takes effect at one instant, and the copies have the
 * same place in the order of things. Either all destinations get it or, as
 * one of them fails, none, and the command fails with that one's error;
 * with BUS1_SEND_PARTIAL those get it that can, and the command fails, with
 * the error of the first, only if all do. A destination that stands in
 * dests[] twice gets two copies. Sending to a node of one's own is allowed.
 *
 * errors[], if given, is set to zero first (EFAULT without effect if it can
 * not be), and then the negative errno of each destination that failed.
 *
 * The sender keeps its handles; the receiver gets a count of its own for each
 * of handles[]. An id may stand in handles[] several times, and the handle
 * of a dead node may be passed on: it arrives dead.
 *
 * Per destination:
 * ENXIO         the destination is not known to the sender
 * EHOSTUNREACH  the node is destroyed or its owner gone
 * EAGAIN        the receiver's queue or pool is full: try again later
 * EMSGSIZE      the payload is larger than the receiver's pool (a peer that
 *               has mapped none takes inline payloads only)
 * EDQUOT        the receiver holds as many handles as it may hold
 * For the command:
 * EMSGSIZE      the payload is larger than BUS1_MAX_PAYLOAD; a count too high
 * ENXIO         one of handles[] is not known to the sender
 */
struct bus1_cmd_send {
	__u64 flags;		/* BUS1_SEND_* */
	__u64 dest;		/* id of the destination, if n_dests is 0 */
	__u64 dests;		/* pointer to __u64[n_dests] */
	__u64 errors;		/* out: pointer to __s32[n_dests], or 0 */
	__u64 data;		/* pointer, if n_iovs is 0 */
	__u64 len;		/* bytes, if n_iovs is 0 */
	__u64 iovs;		/* pointer to struct bus1_iovec[n_iovs] */
	__u64 handles;		/* pointer to struct bus1_pass[n_handles] */
	__u32 n_dests;		/* 0 to BUS1_MAX_DESTS */
	__u32 n_iovs;		/* 0 to BUS1_MAX_IOVS */
	__u32 n_handles;	/* 0 to BUS1_MAX_HANDLES */
	__u32 reserved;		/* must be 0 */
};
#define BUS1_CMD_SEND_VER0	80

#define BUS1_SEND_PARTIAL	(1ULL << 0)	/* needs n_dests */

/* Types of what is received. */
enum {
	BUS1_MSG_DATA		= 1,	/* sent by BUS1_CMD_SEND */
	BUS1_MSG_NODE_DEAD	= 2,	/* notice: the node behind a handle died */
	BUS1_MSG_NODE_UNUSED	= 3,	/* notice: a node lost its last user */
};

/*
 * What BUS1_CMD_RECV tells of one message or notice.
 *
 * BUS1_MSG_DATA: `id` and `cookie` are those of the node it was sent to. The
 * payload is at `offset` in the pool if `slice` is not 0; the slice is the
 * receiver's until it gives it back. Otherwise it is inline, at `offset` in
 * buf[]. The handles are at `handles` in buf[], aligned to 8, as struct
 * bus1_handle[n_handles]; each gives the receiver one count (OBJ-3).
 *
 * BUS1_MSG_NODE_DEAD: `id` is the handle; it stays until it is released. Sent
 * once for each handle, as long as it is held, and never before the handle
 * itself arrived (OBJ-10).
 *
 * BUS1_MSG_NODE_UNUSED: `id` and `cookie` are those of the node. `seq` is how
 * many times the node has become used so far; a notice that is overtaken by a
 * new user before it is received is withdrawn, and one that was received
 * already is told from a later one by its `seq`. Destroy with
 * BUS1_DESTROY_UNUSED to be safe against other threads that pass the node on.
 */
struct bus1_msg {
	__u32 type;		/* BUS1_MSG_* */
	__u32 flags;		/* 0 for now; BUS1_MSG_F_* */
	__u64 id;
	__u64 cookie;
	__u64 slice;		/* 0: payload is inline */
	__u64 offset;		/* bytes, aligned to 8 */
	__u64 len;		/* bytes of payload */
	__u32 handles;		/* bytes into buf[] */
	__u32 n_handles;
	__u64 seq;
};
#define BUS1_MSG_VER0		64

#define BUS1_MSG_F_DROPPED	(1U << 0)	/* BUS1_RECV_DROP took it */

/* One handle that arrived with a message. */
struct bus1_handle {
	__u64 id;		/* id of a handle, or of a node of one's own */
	__u64 cookie;		/* of the node, if it is one's own; else 0 */
	__u32 flags;		/* BUS1_HANDLE_* */
	__u32 rights;		/* BUS1_RIGHT_* */
};

#define BUS1_HANDLE_OWN		(1U << 0)	/* a node of the receiver's own:
						   no count, not to be released */
#define BUS1_HANDLE_DEAD	(1U << 1)	/* its node was dead already */

#define BUS1_RIGHT_SEND		(1U << 0)	/* messages may be sent to it */
#define BUS1_RIGHT_TRANSFER	(1U << 1)	/* may be passed on */

/*
 * BUS1_CMD_RECV (MSG-3, MSG-10, MSG-11): give back slices, then receive.
 *
 * First the slices of release[], if any, are given back as by
 * BUS1_CMD_SLICE_RELEASE; if that fails, so does the command. Once it is
 * done n_release is set to 0 in the caller's struct, whatever happens
 * later, so that a repeated call does not do it again.
 *
 * Then up to n_msgs messages are received, as many as are there and fit. If
 * none is there the call waits until `deadline`, unless BUS1_RECV_NONBLOCK is
 * set or the file is O_NONBLOCK. msgs[] is an array with a stride of msg_size
 * bytes, so that old programs and new kernels agree; what a longer entry has
 * beyond the kernel's is set to 0. Inline payloads and handles are written to
 * buf[].
 *
 * With BUS1_RECV_DROP the first message is taken off and dropped, slice,
 * handles and all; msgs[0] tells what it was, with BUS1_MSG_F_DROPPED.
 * Needs n_msgs 1.
 *
 * n_msgs 0 with n_release only gives back.
 *
 * A message is off the queue only when everything was written to the
 * caller's memory: on EFAULT nothing is lost.
 *
 * EAGAIN     nothing is there, and the call may not wait
 * ETIMEDOUT  nothing came before the deadline
 * EINTR      a signal came first (the call restarts under SA_RESTART)
 * EMSGSIZE   the first message does not fit: buf_used is the size of buf[]
 *            that it needs. It stays in the queue.
 * ENXIO      of release[]: an id is not known, or stands there twice
 */
struct bus1_cmd_recv {
	__u64 flags;		/* BUS1_RECV_* */
	__u64 deadline;		/* ns, CLOCK_MONOTONIC, absolute; 0: none */
	__u64 release;		/* pointer to __u64[n_release], slices */
	__u64 msgs;		/* out: pointer to struct bus1_msg[n_msgs] */
	__u64 buf;		/* out: pointer, aligned to 8 */
	__u32 n_release;	/* in: 0 to BUS1_MAX_IDS; out: 0 */
	__u32 n_msgs;		/* in: 0 to BUS1_MAX_MSGS; out: received */
	__u32 msg_size;		/* in: sizeof(struct bus1_msg), 64 to 256 */
	__u32 buf_size;		/* in: bytes at buf */
	__u32 buf_used;		/* out: bytes written, or needed; in: 0 */
	__u32 reserved;		/* must be 0 */
};
#define BUS1_CMD_RECV_VER0	64

#define BUS1_RECV_NONBLOCK	(1ULL << 0)
#define BUS1_RECV_DROP		(1ULL << 1)

/*
 * BUS1_CMD_PEER_INFO: what this peer has, now. All fields are out and must be
 * 0 in.
 */
struct bus1_cmd_info {
	__u64 flags;
	__u64 pool_size;	/* bytes; 0: not mapped */
	__u64 pool_pages;	/* pages that are backed by memory */
	__u64 pool_used;	/* bytes in slices, padding included */
	__u32 n_nodes;
	__u32 n_handles;	/* those with counts, or in queued messages */
	__u32 n_queued;		/* messages and notices */
	__u32 n_slices;		/* queued and received */
	__u32 max_inline;	/* bytes: payloads up to it travel inline */
	__u32 reserved;
};
#define BUS1_CMD_INFO_VER0	56

#define BUS1_CMD_NODE_CREATE	 _IOWR(BUS1_IOC_MAGIC, 0, struct bus1_cmd_node)
#define BUS1_CMD_NODE_DESTROY	 _IOW(BUS1_IOC_MAGIC, 1, struct bus1_cmd_ids)
#define BUS1_CMD_HANDLE_RELEASE	 _IOW(BUS1_IOC_MAGIC, 2, struct bus1_cmd_ids)
#define BUS1_CMD_SLICE_RELEASE	 _IOW(BUS1_IOC_MAGIC, 3, struct bus1_cmd_ids)
#define BUS1_CMD_HANDLE_TRANSFER _IOW(BUS1_IOC_MAGIC, 4, struct bus1_cmd_transfer)
#define BUS1_CMD_SEND		 _IOW(BUS1_IOC_MAGIC, 5, struct bus1_cmd_send)
#define BUS1_CMD_RECV		 _IOWR(BUS1_IOC_MAGIC, 6, struct bus1_cmd_recv)
#define BUS1_CMD_PEER_INFO	 _IOWR(BUS1_IOC_MAGIC, 7, struct bus1_cmd_info)

/*
 * mmap (MSG-4): the first mapping of a peer makes its pool, of that length
 * (offset 0, rounded up to pages, up to BUS1_MAX_POOL). Further mappings may
 * cover any part of it. PROT_READ and MAP_SHARED only; a mapping never
 * becomes writable or executable. Memory is added as messages arrive; reading
 * where none ever was raises SIGBUS.
 *
 * EPERM   PROT_WRITE or PROT_EXEC
 * EINVAL  MAP_PRIVATE, too large, beyond the pool
 *
 * poll (MSG-12): EPOLLIN | EPOLLRDNORM when BUS1_CMD_RECV would not block;
 * EPOLLOUT | EPOLLWRNORM always: whether a send would succeed is a matter of
 * its receiver. EPOLLHUP and EPOLLERR are not raised: a peer has no other end.
 *
 * What the module counts, in all peers together, is in
 * /sys/module/bus1/parameters/: peers, nodes, handles, messages, slices,
 * pool_pages.
 */

#endif /* _UAPI_LINUX_BUS1_H */
