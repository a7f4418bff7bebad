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
 *  - EAGAIN is for now, and there is a way to wait; EDQUOT is a limit of a
 *    user, which an administrator sets (RES-4): see the end of this file. A
 *    peer is of the user who opened it.
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
	BUS1_MAX_FDS		= 253,	/* file descriptors in one message */
	BUS1_MAX_IDS		= 1024,	/* ids in one destroy, release, transfer */
	BUS1_MAX_MSGS		= 256,	/* messages of one receive */
	BUS1_MAX_PRIORITY	= 31,	/* of a message; 0 is the lowest */
	BUS1_MAX_DEPTH		= 32,	/* of calls within calls */
	BUS1_MAX_LEASES		= 16,	/* leases of one call */
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
 * With BUS1_NODE_CREDS the kernel stamps every message to the node with who
 * sent it: see struct bus1_creds (MSG-7). With BUS1_NODE_NO_INHERIT who serves
 * calls to it does so at its own priority (CALL-6).
 *
 * EDQUOT  the user of this peer has as many nodes as it may have, or this peer
 *         half of those
 */
struct bus1_cmd_node {
	__u64 flags;		/* BUS1_NODE_* */
	__u64 cookie;		/* in: any value, chosen by the owner */
	__u64 id;		/* out: id of the new node; in: must be 0 */
};
#define BUS1_CMD_NODE_VER0	24

#define BUS1_NODE_CREDS		(1ULL << 0)
#define BUS1_NODE_NO_INHERIT	(1ULL << 1)	/* see BUS1_CMD_CALL */

/*
 * BUS1_CMD_HANDLE_MINT (OBJ-6, OBJ-9): make a facet of a node of this peer's.
 *
 * A facet is the node under another id, with a badge: handles to it are
 * handles to the node, but what is sent through them carries the badge, they
 * are not the same handles as those without it, or with another, and they can
 * be revoked by themselves: BUS1_CMD_NODE_DESTROY takes facets, too. The owner
 * passes the facet's id along as it does a node's. Holders do not see badges.
 *
 * Minting a badge that the node has a facet for gives the id of that facet. One
 * that was revoked may be minted anew: the old handles stay dead.
 *
 * With BUS1_MINT_ONCE the facet is always a new one, of any badge, and
 * carries exactly one message. Sending it takes the count that it was sent
 * through; the facet is gone, and all other handles to it are dead. If all
 * handles to it are gone before that the owner gets BUS1_MSG_ONCE_DROPPED in
 * place of BUS1_MSG_NODE_UNUSED; the facet is there until it is destroyed.
 *
 * A facet that is used makes its node used. It is told of by itself when it
 * has become unused.
 *
 * ENXIO   the node is not known
 * EPERM   `node` is a handle: only the owner mints
 * EINVAL  `node` is itself a facet; the badge is 0, without BUS1_MINT_ONCE
 * EDQUOT  as of BUS1_CMD_NODE_CREATE: facets are nodes
 */
struct bus1_cmd_mint {
	__u64 flags;		/* BUS1_MINT_* */
	__u64 node;		/* id of the node */
	__u64 badge;		/* any value but 0, chosen by the owner */
	__u64 id;		/* out: id of the facet; in: must be 0 */
};
#define BUS1_CMD_MINT_VER0	32

#define BUS1_MINT_ONCE		(1ULL << 0)

/*
 * BUS1_CMD_NODE_DESTROY (OBJ-8, OBJ-11): end nodes of this peer with all their
 * facets, or facets alone, that is, revoke a badge: all of them or none, at
 * one instant. Nothing more is delivered to them: messages to
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
 * A one-shot handle is released like any other: see BUS1_CMD_HANDLE_MINT.
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
 * The handles arrive without the rights in drop_rights. With
 * BUS1_TRANSFER_WEAK they all arrive weak; with BUS1_TRANSFER_STRONG weak ones
 * arrive strong, if their node lives (OBJ-7).
 *
 * The other peer may be this one, which peer_fd -1 says, too: this makes
 * weaker handles of those one has, or strong ones of weak ones.
 *
 * EBADF   peer_fd is not an open file
 * EMEDIUMTYPE  peer_fd is no bus1 peer
 * ENXIO   an id is not known (with MOVE: or has fewer counts than asked for)
 * EPERM   with BUS1_TRANSFER_MOVE: an id is a node; a handle has no
 *         BUS1_RIGHT_TRANSFER (which it needs not within one peer)
 * EHOSTUNREACH  with BUS1_TRANSFER_STRONG: the node of a weak handle is dead
 * EDQUOT  the user of the other peer has as many handles as it may have, or
 *         that peer half of those; more counts of what it has are free
 */
struct bus1_cmd_transfer {
	__u64 flags;		/* BUS1_TRANSFER_* */
	__u64 ids;		/* in: pointer to __u64[n_ids] */
	__u64 out;		/* out: pointer to __u64[n_ids] */
	__u32 n_ids;		/* 1 to BUS1_MAX_IDS */
	__s32 peer_fd;		/* the peer that receives; -1: this one */
	__u32 drop_rights;	/* BUS1_RIGHT_* */
	__u32 reserved;		/* must be 0 */
};
#define BUS1_CMD_TRANSFER_VER0	32

#define BUS1_TRANSFER_MOVE	(1ULL << 0)
#define BUS1_TRANSFER_WEAK	(1ULL << 1)
#define BUS1_TRANSFER_STRONG	(1ULL << 2)

/* What the holder of a handle may do with it (OBJ-5). Rights only shrink. */
#define BUS1_RIGHT_SEND		(1U << 0)	/* send to it; open it, if it is
						   a buffer */
#define BUS1_RIGHT_TRANSFER	(1U << 1)	/* pass it on, export it */

/* One handle that arrived. */
struct bus1_handle {
	__u64 id;		/* id of a handle, or of a node of one's own */
	__u64 cookie;		/* of the node, if it is one's own; else 0 */
	__u32 flags;		/* BUS1_HANDLE_* */
	__u32 rights;		/* BUS1_RIGHT_* */
};

#define BUS1_HANDLE_OWN		(1U << 0)	/* a node or facet of the
						   receiver's own: no count,
						   not to be released */
#define BUS1_HANDLE_DEAD	(1U << 1)	/* its node was dead already */
#define BUS1_HANDLE_WEAK	(1U << 2)	/* watches its node, is no user
						   of it, and sends nothing */
#define BUS1_HANDLE_ONCE	(1U << 3)	/* carries one message */

/*
 * BUS1_CMD_HANDLE_EXPORT (OBJ-12): make a file descriptor that holds a
 * handle, which anyone who gets the descriptor can import.
 *
 * The descriptor is a strong user of the node until its file is closed. It is
 * close-on-exec at first. It can be polled: EPOLLHUP when the node is dead.
 * It can be passed over AF_UNIX sockets, but not in bus1 messages, so
 * that no cycle of files can form.
 *
 * ENXIO   the id is not known
 * EPERM   the handle is weak, or has no BUS1_RIGHT_TRANSFER
 * EMFILE, ENFILE  too many open files
 * EDQUOT  the user has as many peers, exported handles among them, or as many
 *         handles as it may have
 */
struct bus1_cmd_export {
	__u64 flags;		/* must be 0 */
	__u64 id;		/* a handle or a node of this peer */
	__u32 drop_rights;	/* BUS1_RIGHT_* */
	__s32 fd;		/* out; in: must be 0 */
};
#define BUS1_CMD_EXPORT_VER0	24

/*
 * BUS1_CMD_HANDLE_IMPORT (OBJ-12): get a count of the handle that a file
 * descriptor holds. It can be imported any number of times, by any peer.
 *
 * EBADF   fd is not an open file
 * EMEDIUMTYPE  fd is no exported handle
 * EDQUOT  the user has as many handles as it may have, or this peer half of
 *         those
 */
struct bus1_cmd_import {
	__u64 flags;		/* must be 0 */
	struct bus1_handle handle;	/* out; in: must be 0 */
	__s32 fd;
	__u32 reserved;		/* must be 0 */
};
#define BUS1_CMD_IMPORT_VER0	40

/*
 * BUS1_CMD_BUFFER_CREATE (MSG-5): make a buffer, a node that stands for the
 * memory of a sealed memfd.
 *
 * Handles to it are handles to a node: they are passed, released, watched and
 * revoked like any, also by facets, and BUS1_MSG_NODE_UNUSED tells when nobody
 * has one any more. But it takes no messages. Who holds it opens it, and
 * messages refer to parts of it: BUS1_SEND_BODY. It has the file until it is
 * destroyed; who has opened it has the memory for longer, of course.
 *
 * The memfd needs F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_WRITE: then neither its
 * size nor its bytes can change any more. With BUS1_BUFFER_SHARED
 * F_SEAL_FUTURE_WRITE does for F_SEAL_WRITE: who has a writable mapping from
 * before can still write, and nobody can make another. Receivers are told so.
 * Memory that was never written is made when it is first read, and charged to
 * who reads it, as with any memfd.
 *
 * EBADF   fd is not an open file, or not open for reading
 * EMEDIUMTYPE  fd is no memfd (one of huge pages neither)
 * ETXTBSY  a seal is missing: it could still change
 * EDQUOT  this peer has as many nodes as it may have, or its user as many files
 *         in messages and buffers
 */
struct bus1_cmd_buffer {
	__u64 flags;		/* BUS1_BUFFER_* */
	__u64 cookie;		/* in: any value, chosen by the owner */
	__u64 id;		/* out: id of the new node; in: must be 0 */
	__u64 size;		/* out: bytes; in: must be 0 */
	__s32 fd;		/* the memfd */
	__u32 reserved;		/* must be 0 */
};
#define BUS1_CMD_BUFFER_VER0	40

#define BUS1_BUFFER_SHARED	(1ULL << 0)

/*
 * BUS1_CMD_BUFFER_OPEN (MSG-5): get a file descriptor of a buffer, to be mapped.
 *
 * It is close-on-exec, of an open file of its own, and read-only: a mapping of
 * it is never writable. (What keeps the memory as it is are the seals, not
 * that: it can be opened anew by /proc/self/fd.)
 *
 * ENXIO   the id is not known
 * EPERM   the handle is weak, or has no BUS1_RIGHT_SEND
 * EMEDIUMTYPE  the node is no buffer
 * EHOSTUNREACH  the buffer is destroyed or its owner gone
 * EMFILE, ENFILE  too many open files
 * EACCES  a security module does not let this program have it
 * ETXTBSY  somebody has a write lease (F_SETLEASE) on the memfd
 */
struct bus1_cmd_open {
	__u64 flags;		/* out: BUS1_BUFFER_*; in: must be 0 */
	__u64 id;		/* a handle or a node of this peer */
	__u64 size;		/* out: bytes; in: must be 0 */
	__s32 fd;		/* out; in: must be 0 */
	__u32 reserved;		/* must be 0 */
};
#define BUS1_CMD_OPEN_VER0	32

/* One part of a payload. */
struct bus1_iovec {
	__u64 base;		/* pointer */
	__u64 len;		/* bytes; 0 is allowed */
};

/* One handle to send along: a handle or a node of the sender. */
struct bus1_pass {
	__u64 id;
	__u32 flags;		/* BUS1_PASS_* */
	__u32 drop_rights;	/* BUS1_RIGHT_* that it arrives without */
};

#define BUS1_PASS_MOVE		(1U << 0)	/* the sender's handle loses a
						   count as it is sent */
#define BUS1_PASS_WEAK		(1U << 1)	/* it arrives weak */

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
 * The receiver gets a count of its own for each of handles[], with the rights
 * of the sender's handle less drop_rights; all rights, if the sender owns the
 * node. The sender keeps its handles, but for those with BUS1_PASS_MOVE. A weak
 * handle arrives weak. An id may stand in handles[] several times, and the
 * handle of a dead node may be passed on: it arrives dead.
 *
 * The files of fds[] arrive as descriptors of the receiver's (MSG-6). What
 * could hold bus1 messages in turn is refused: peers, exported handles,
 * AF_UNIX sockets, io_uring.
 *
 * If the receiver asked for it (BUS1_PEER_PRIORITY) messages of a higher
 * priority are received first (MSG-9).
 *
 * With BUS1_SEND_BODY handles[0] is a buffer, and [body_offset, body_offset +
 * body_len) of it the body of the message: large bytes that are not copied
 * (MSG-5). It is passed on like any handle, but has to be strong and to have
 * BUS1_RIGHT_SEND, so that the receiver can open it. With BUS1_SEND_MEMFD
 * the only one of fds[] is a memfd, and that part of it the body. It needs the
 * seals that a buffer needs; with BUS1_SEND_SHARED those that one with
 * BUS1_BUFFER_SHARED needs. A message may have a payload and a body.
 *
 * Many destinations with BUS1_SEND_ORDERED: all receivers that get two messages
 * sent so get them in the same order (ORD-4).
 *
 * What is in flight to a receiver is charged there to the peer that sent it,
 * and to its user, from when it is sent until it is received or dropped:
 * messages, bytes of the pool, handles and files. Each user has a share that
 * depends on how many have anything in flight, and each peer a part of that
 * (RES-2): see bus1(7). A send that goes beyond is EAGAIN. Then
 *  - with BUS1_SEND_WAIT the call sleeps until there is room, in all receivers
 *    at once, or until `deadline`. Not together with BUS1_SEND_PARTIAL;
 *  - with BUS1_SEND_NOTIFY it fails, and the sender gets BUS1_MSG_WRITABLE once
 *    for each handle among the destinations that had no room, when it is worth
 *    to try again. A destination that is an own node gives none. (ENOMEM in
 *    place of EAGAIN: the kernel could not take note of it.)
 *
 * Per destination:
 * ENXIO         the destination is not known to the sender
 * EPERM         the handle is weak, or has no BUS1_RIGHT_SEND
 * EHOSTUNREACH  the node is destroyed or its owner gone; a one-shot handle has
 *               carried its message
 * EAGAIN        the receiver has no room now that this sender may take
 * EMSGSIZE      the payload is larger than 3/8 of the receiver's pool, which is
 *               what one sender may ever have of it (a peer that has mapped
 *               none takes inline payloads only)
 * EDQUOT        the receiving peer or its user has as many handles as it may
 *               have; its user as many pages in pools; or the sending user as
 *               many messages with handles, or files in messages, on their
 *               way, to all receivers together
 * EOPNOTSUPP    the destination is a buffer
 * For the command:
 * ETIMEDOUT     with BUS1_SEND_WAIT: no room before the deadline. One that has
 *               passed already is not waited for, and the message is sent if
 *               there is room
 * EINTR         a signal came first, and nothing was sent (the call restarts
 *               under SA_RESTART)
 * EINVAL        BUS1_SEND_WAIT with _PARTIAL or _NOTIFY; a deadline without it
 * EMSGSIZE      the payload is larger than BUS1_MAX_PAYLOAD; a count too high
 * ENXIO         one of handles[] is not known to the sender, or has fewer
 *               counts than are to be moved
 * EPERM         one of handles[] has no BUS1_RIGHT_TRANSFER; one that is to be
 *               moved is a node
 * EBADF         one of fds[] is not an open file; a memfd is not open for
 *               reading
 * ELOOP         one of fds[] is a file that is refused
 * EMEDIUMTYPE   handles[0] is no buffer; the memfd is none (one of huge pages
 *               neither)
 * ETXTBSY       the memfd lacks a seal
 * ERANGE        the body is not within the buffer or memfd
 * EPERM         the buffer is weak, or has no BUS1_RIGHT_SEND
 * EHOSTUNREACH  the buffer is destroyed or its owner gone
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
	__u32 n_fds;		/* 0 to BUS1_MAX_FDS */
	__u64 fds;		/* pointer to __s32[n_fds] */
	__u32 priority;		/* 0 to BUS1_MAX_PRIORITY */
	__u32 reserved;		/* must be 0 */
	__u64 deadline;		/* with BUS1_SEND_WAIT: ns, CLOCK_MONOTONIC,
				   absolute; 0: none */
	__u64 body_offset;	/* bytes, with _BODY or _MEMFD; else must be 0 */
	__u64 body_len;		/* likewise */
};
#define BUS1_CMD_SEND_VER0	80

#define BUS1_SEND_PARTIAL	(1ULL << 0)	/* needs n_dests */
#define BUS1_SEND_ORDERED	(1ULL << 1)	/* likewise */
#define BUS1_SEND_WAIT		(1ULL << 2)	/* sleep until there is room */
#define BUS1_SEND_NOTIFY	(1ULL << 3)	/* tell when there is room */
#define BUS1_SEND_BODY		(1ULL << 4)	/* needs n_handles */
#define BUS1_SEND_MEMFD		(1ULL << 5)	/* needs n_fds 1; not with _BODY */
#define BUS1_SEND_SHARED	(1ULL << 6)	/* needs _MEMFD */

/* Types of what is received. */
enum {
	BUS1_MSG_DATA		= 1,	/* sent by BUS1_CMD_SEND */
	BUS1_MSG_NODE_DEAD	= 2,	/* notice: the node behind a handle died */
	BUS1_MSG_NODE_UNUSED	= 3,	/* notice: a node lost its last user */
	BUS1_MSG_ONCE_DROPPED	= 4,	/* notice: a one-shot facet did, unspent */
	BUS1_MSG_WRITABLE	= 5,	/* notice: a handle may be sent through */
	BUS1_MSG_CALL		= 6,	/* a request that wants a reply */
	BUS1_MSG_REPLY		= 7,	/* the reply to a call, or how it ended */
	BUS1_MSG_CANCELLED	= 8,	/* notice: a request wants none any more */
};

/*
 * What BUS1_CMD_RECV tells of one message or notice.
 *
 * BUS1_MSG_DATA: `id` and `cookie` are those of the node it was sent to, and
 * `badge` that of the facet, or 0. The payload is at `offset` in the pool if
 * `slice` is not 0; the slice is the receiver's until it gives it back.
 * Otherwise it is inline, at `offset` in buf[]. The handles are at `handles`
 * in buf[], aligned to 8, as struct bus1_handle[n_handles]; each gives the
 * receiver one count (OBJ-3). The file descriptors are at `fds` in buf[],
 * as __s32[n_fds], padded to 8 bytes: see BUS1_RECV_FDS. With
 * BUS1_MSG_F_CREDS a struct bus1_creds is at `creds` in buf[]. With
 * BUS1_MSG_F_BODY the first of the handles is a buffer, with BUS1_MSG_F_MEMFD
 * the one file descriptor a memfd, of which the body_len bytes at
 * body_offset are the body of the message. They are within it, and do not
 * change, unless BUS1_MSG_F_SHARED says that its sender may still write.
 *
 * BUS1_MSG_NODE_DEAD: `id` is the handle; it stays until it is released. Sent
 * once for each handle, as long as it is held, and never before the handle
 * itself arrived (OBJ-10).
 *
 * BUS1_MSG_NODE_UNUSED: `id` and `cookie` are those of the node; or `id` that
 * of a facet, and `badge` its badge. `seq` is how
 * many times the node has become used so far; a notice that is overtaken by a
 * new user before it is received is withdrawn, and one that was received
 * already is told from a later one by its `seq`. Destroy with
 * BUS1_DESTROY_UNUSED to be safe against other threads that pass the node on.
 *
 * BUS1_MSG_ONCE_DROPPED: the same, of a facet that was made with
 * BUS1_MINT_ONCE and has carried no message.
 *
 * BUS1_MSG_WRITABLE: `id` is a handle that a send with BUS1_SEND_NOTIFY found
 * no room through, and it is worth to try again (RES-4). Once, however many
 * sends found none meanwhile; another try may find none again, and asks anew.
 * It is no promise, and comes in no order: before everything else, and by
 * itself, also where several are received; a peek does not show it. It may
 * also come as the node dies, which the next send tells. There is none for a
 * handle that was released meanwhile.
 *
 * BUS1_MSG_CALL: as BUS1_MSG_DATA; and `token` is what it is answered by, with
 * BUS1_CMD_REPLY, by any thread of this peer (0 in a peek, and if it was
 * dropped). `chain` is a number that all calls made as part of one another
 * have in common, and no others.
 *
 * BUS1_MSG_REPLY: `id` is the call's, `cookie` as it was given; payload, handles
 * and files as of BUS1_MSG_DATA. If `error` is not 0 there are none of those:
 * it is the errno with which BUS1_CMD_CALL would have failed.
 *
 * BUS1_MSG_CANCELLED: `id` is the token of a request that was received and not
 * answered: who made the call has left. What it brought is the receiver's all
 * the same, and so is the token, until it is answered (ECANCELED) or dropped.
 */
struct bus1_msg {
	__u32 type;		/* BUS1_MSG_* */
	__u32 flags;		/* BUS1_MSG_F_* */
	__u64 id;
	__u64 cookie;
	__u64 slice;		/* 0: payload is inline */
	__u64 offset;		/* bytes, aligned to 8 */
	__u64 len;		/* bytes of payload */
	__u32 handles;		/* bytes into buf[] */
	__u32 n_handles;
	__u64 seq;
	__u64 badge;
	__u32 fds;		/* bytes into buf[] */
	__u32 n_fds;
	__u32 creds;		/* bytes into buf[], with BUS1_MSG_F_CREDS */
	__u32 priority;
	__u64 body_offset;	/* bytes, with BUS1_MSG_F_BODY or _MEMFD */
	__u64 body_len;		/* likewise */
	__u64 token;		/* of BUS1_MSG_CALL */
	__u64 chain;		/* of what belongs to a call */
	__s32 error;		/* errno, positive, of BUS1_MSG_REPLY; 0: none */
	__u32 n_leases;		/* of BUS1_MSG_CALL */
};
#define BUS1_MSG_VER0		64

#define BUS1_MSG_F_DROPPED	(1U << 0)	/* BUS1_RECV_DROP took it */
#define BUS1_MSG_F_PEEKED	(1U << 1)	/* BUS1_RECV_PEEK left it */
#define BUS1_MSG_F_CREDS	(1U << 2)	/* there is a stamp */
#define BUS1_MSG_F_FDS_CLOSED	(1U << 3)	/* its n_fds were not asked for */
#define BUS1_MSG_F_BODY		(1U << 4)	/* its body is in a buffer */
#define BUS1_MSG_F_MEMFD	(1U << 5)	/* its body is in a memfd */
#define BUS1_MSG_F_SHARED	(1U << 6)	/* its body may still change */
#define BUS1_MSG_F_ERROR	(1U << 7)	/* a reply with BUS1_REPLY_ERROR */
#define BUS1_MSG_F_FAULT	(1U << 8)	/* a reply; a lease of the call was
						   of memory that is not there */

/*
 * Who sent a message, as the kernel saw it when it was sent, in terms of the
 * namespaces of the thread that receives it (MSG-7).
 */
struct bus1_creds {
	__s32 pid;		/* process; 0: not visible from here */
	__s32 tid;		/* thread; likewise */
	__u32 uid;		/* effective; the overflow uid if not mapped here */
	__u32 gid;		/* effective; likewise */
	__u32 label_len;	/* bytes of LSM label that follow; may be 0 */
	__u32 reserved;
	/* label, without a zero at the end, padded to 8 bytes */
};

/*
 * BUS1_CMD_RECV (MSG-3, MSG-8, MSG-10, MSG-11): give back slices and handles,
 * then receive. A request (BUS1_MSG_CALL) is the last of what one command receives.
 *
 * First the slices of release[], if any, are given back as by
 * BUS1_CMD_SLICE_RELEASE, and one count of each of the handles of drop[] as by
 * BUS1_CMD_HANDLE_RELEASE; if that fails, so does the command, and nothing is
 * given back. Once it is done n_release and n_drop are set to 0 in the
 * caller's struct, whatever happens later, so that a repeated call does not do
 * it again.
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
 * With BUS1_RECV_PEEK the message with that index in the order in which they
 * would be received, from 0, is described and its inline payload written;
 * it stays where it is, and so does all that it brings: `handles` and `fds` are
 * 0, and the slice is not the receiver's yet. Never waits; needs n_msgs 1.
 *
 * With BUS1_RECV_FDS file descriptors are installed, close-on-exec, each after
 * the security modules have agreed. One that could not be is the negative
 * errno in its place, and its file is closed. With BUS1_RECV_MEMFD the same is
 * done for messages with BUS1_MSG_F_MEMFD, which have one, and no others. Without,
 * files that come with a message are closed, and it has BUS1_MSG_F_FDS_CLOSED.
 *
 * n_msgs 0 with n_release or n_drop only gives back.
 *
 * A message is off the queue only when everything was written to the
 * caller's memory: on EFAULT nothing is lost.
 *
 * EAGAIN     nothing is there, and the call may not wait
 * ETIMEDOUT  nothing came before the deadline
 * EINTR      a signal came first (the call restarts under SA_RESTART)
 * EMSGSIZE   the first message does not fit: buf_used is the size of buf[]
 *            that it needs. It stays in the queue.
 * ENXIO      of release[]: an id is not known, or stands there twice; of
 *            drop[]: as of BUS1_CMD_HANDLE_RELEASE
 * EPERM      of drop[]: likewise
 */
struct bus1_cmd_recv {
	__u64 flags;		/* BUS1_RECV_* */
	__u64 deadline;		/* ns, CLOCK_MONOTONIC, absolute; 0: none */
	__u64 release;		/* pointer to __u64[n_release], slices */
	__u64 drop;		/* pointer to __u64[n_drop], handles */
	__u64 msgs;		/* out: pointer to struct bus1_msg[n_msgs] */
	__u64 buf;		/* out: pointer, aligned to 8 */
	__u32 n_release;	/* in: 0 to BUS1_MAX_IDS; out: 0 */
	__u32 n_drop;		/* in: 0 to BUS1_MAX_IDS; out: 0 */
	__u32 n_msgs;		/* in: 0 to BUS1_MAX_MSGS; out: received */
	__u32 buf_used;		/* out: bytes needed, with EMSGSIZE; or written,
				   where n_msgs was not 1; in: 0 */
	__u32 msg_size;		/* in: sizeof(struct bus1_msg), 64 to 256 */
	__u32 buf_size;		/* in: bytes at buf */
	__u32 index;		/* with BUS1_RECV_PEEK; else must be 0 */
	__u32 reserved;		/* must be 0 */
};
#define BUS1_CMD_RECV_VER0	72

#define BUS1_RECV_NONBLOCK	(1ULL << 0)
#define BUS1_RECV_DROP		(1ULL << 1)
#define BUS1_RECV_PEEK		(1ULL << 2)
#define BUS1_RECV_FDS		(1ULL << 3)
#define BUS1_RECV_MEMFD		(1ULL << 4)

/* Memory of the caller's that a call lends (CALL-8). */
struct bus1_lease {
	__u64 base;		/* address */
	__u64 len;		/* bytes */
	__u32 flags;		/* BUS1_LEASE_READ and _WRITE, at least one */
	__u32 reserved;		/* must be 0 */
};

#define BUS1_LEASE_READ		(1U << 0)	/* the server may read it */
#define BUS1_LEASE_WRITE	(1U << 1)	/* the server may write to it */

/*
 * BUS1_CMD_CALL (CALL-1 to CALL-8): send a request to one node, and wait for the
 * reply.
 *
 * `send` is the request, with one destination: dests, n_dests, errors and
 * deadline are 0, and so are BUS1_SEND_PARTIAL and _ORDERED. With BUS1_SEND_WAIT
 * it waits for room there, too; with BUS1_SEND_NOTIFY the caller is told of it. It
 * arrives as BUS1_MSG_CALL.
 *
 * `recv` is where the reply goes: as of BUS1_CMD_RECV, with n_msgs 1, of the flags
 * BUS1_RECV_FDS and _MEMFD alone, and index 0. Slices and handles that it names
 * are given back first. `deadline` is that of the call, 0 for none. msgs[0] is a
 * BUS1_MSG_REPLY. The reply comes past the queue, and calls wait even if
 * the file is O_NONBLOCK.
 *
 * reply_size, reply_handles and reply_fds say how much a reply may be at most,
 * and that much is set aside now, at the expense of the caller: in its pool, if
 * reply_size is above what travels inline (see struct bus1_cmd_info). A
 * reply up to that comes inline, and costs nothing to reserve, so that
 * reply_size may always be given as at least that (0 is taken for it). recv.buf_size
 * has to be large enough for the most that may come in buf[]: that is checked
 * before anything is sent.
 *
 * Every call ends, with the first of: the reply; the server gone, or the request
 * dropped; the deadline; a signal. A signal whose handler has SA_RESTART, or
 * that has none, does not end it: the call is repeated, finds its `id` where the
 * kernel has noted it, and goes on. If other signals come it is over and the
 * error EINTR. (If EINTR and `id` is not 0, which takes a handler that was changed in
 * that very moment, it goes on, too: repeat it, or cancel it.) If the caller
 * leaves before the request was received, nobody ever sees it; later the
 * server gets BUS1_MSG_CANCELLED.
 *
 * `parent` is the token of a request that this call is made to serve, or 0: then
 * both are of one chain. With BUS1_CALL_NESTED this thread, while it waits,
 * serves requests to nodes of this peer that are made as part of this call,
 * however indirectly (CALL-5): the command succeeds with msgs[0] a BUS1_MSG_CALL,
 * and `id` that of the call, which goes on. Answer with BUS1_CMD_REPLY with this
 * `id`, which then waits for the call again; or repeat the command. Calls may be
 * nested up to BUS1_MAX_DEPTH deep.
 *
 * A command that has an `id` does not send: it waits for the call with that id,
 * which this peer has made, and what it says of the request, and of how much a reply
 * may be, is not read. There has to be room in buf[] for what was set aside.
 *
 * With BUS1_CALL_ASYNC the command does not wait: `id` is the call's, all of `recv`
 * but release[] and drop[] must be 0 (n_msgs, too), and the reply is received from
 * the queue as a BUS1_MSG_REPLY with the `cookie`. So is every other end of it but
 * BUS1_CMD_CALL_CANCEL. Its deadline is the caller's own business.
 *
 * Who serves the request does so at the priority of the thread that has called, if
 * that is higher, from when it receives it until it is answered, dropped or
 * cancelled; unless the node has BUS1_NODE_NO_INHERIT (CALL-6).
 *
 * leases[] are ranges of the caller's memory that the server can read or write with
 * BUS1_CMD_LEASE as long as the caller waits (CALL-8). Not with BUS1_CALL_ASYNC.
 *
 * The request counts against the caller's share at the receiver, as a message, until
 * it is answered or dropped, and is one of its user's messages as long as the
 * call is known here.
 *
 * Where the command fails nothing was sent; with the exception of these, after
 * which there is no reply, and nothing left of the call:
 * EHOSTUNREACH  the node was destroyed, its badge revoked, or its owner gone,
 *            before the request was received
 * ECONNRESET  the server was closed while it served the request
 * ECONNABORTED  the server has dropped the request unanswered
 * ETIMEDOUT  the deadline has passed
 * EINTR      a signal came
 * EFAULT     once it waited: what was received could not be written. A reply is
 *            not lost: it is received from the queue, as with BUS1_CALL_ASYNC.
 * And as of BUS1_CMD_SEND and of BUS1_CMD_RECV, and:
 * EAGAIN     no room at the receiver for another request; or none in the
 *            caller's pool for the reply
 * EMSGSIZE   reply_size is above 3/8 of the caller's own pool; a count is too
 *            high; recv.buf_size is too small for a reply; n_leases too high
 * ENXIO      `parent` is no request that is to be answered; `id` no call of this
 *            peer's that nobody waits for, or asynchronous
 * ECANCELED  with BUS1_CALL_ASYNC: another thread has cancelled it by its id before
 *            it was sent
 * ELOOP      calls nested more than BUS1_MAX_DEPTH deep
 */
struct bus1_cmd_call {
	struct bus1_cmd_send send;
	struct bus1_cmd_recv recv;
	__u64 flags;		/* BUS1_CALL_* */
	__u64 id;		/* in: 0, or a call to wait for; out: see above */
	__u64 parent;		/* token, or 0 */
	__u64 cookie;		/* comes back with a reply from the queue */
	__u64 reply_size;	/* bytes */
	__u32 reply_handles;	/* 0 to BUS1_MAX_HANDLES */
	__u32 reply_fds;	/* 0 to BUS1_MAX_FDS */
	__u64 leases;		/* pointer to struct bus1_lease[n_leases] */
	__u32 n_leases;		/* 0 to BUS1_MAX_LEASES */
	__u32 reserved;		/* must be 0 */
};
#define BUS1_CMD_CALL_VER0	264

#define BUS1_CALL_ASYNC		(1ULL << 0)
#define BUS1_CALL_NESTED	(1ULL << 1)

/*
 * BUS1_CMD_REPLY (CALL-1, CALL-2): answer a request, and receive the next.
 *
 * `send` is the reply, and send.dest the token of the request. As of
 * BUS1_CMD_SEND, but for: no flags other than BUS1_SEND_BODY, _MEMFD and _SHARED,
 * no dests, errors, deadline, priority. If send.dest is 0 there is nothing to
 * answer, and the rest of it is not looked at. The token is used up as the reply is sent.
 * BUS1_REPLY_ERROR marks the reply as an error, which is up to caller and server.
 * With BUS1_REPLY_DROP there is no reply but the end of the call
 * (ECONNABORTED): all of `send` but dest is 0.
 *
 * Then `recv` is done, as BUS1_CMD_RECV does it, if its n_msgs is not 0; what
 * it gives back is given back first of all. O_NONBLOCK and BUS1_RECV_NONBLOCK
 * mean this part alone. If the reply was sent and nothing received the command
 * fails as BUS1_CMD_RECV does, and send.dest is set to 0 in the caller's
 * struct, so that a repeated command does not answer again.
 *
 * With `id` not 0 it waits for that call instead: see BUS1_CMD_CALL with `id`.
 * recv is then as it says there.
 *
 * ENXIO      send.dest is no token, or was answered; `id` as of BUS1_CMD_CALL
 * EBUSY      another thread is just about to answer that
 * ECANCELED  the caller has left: the reply went nowhere, the token is gone (and
 *            send.dest set to 0), and nothing was received (what was to be given back is, if n_release and
 *            n_drop are 0)
 * EMSGSIZE   the reply is more than the caller has set aside for it (bytes,
 *            handles or files): answer with less
 * EDQUOT     the caller or its user has as many handles as it may have, or its user
 *            as many pages in pools: likewise
 * And as of BUS1_CMD_SEND, where they are of the message and not of the
 * destination, and of BUS1_CMD_RECV.
 */
struct bus1_cmd_reply {
	struct bus1_cmd_send send;
	struct bus1_cmd_recv recv;
	__u64 flags;		/* BUS1_REPLY_* */
	__u64 id;		/* a call to wait for, or 0 */
};
#define BUS1_CMD_REPLY_VER0	216

#define BUS1_REPLY_ERROR	(1ULL << 0)
#define BUS1_REPLY_DROP		(1ULL << 1)

/*
 * BUS1_CMD_CALL_CANCEL (CALL-4): leave calls that were made with BUS1_CALL_ASYNC,
 * or that nobody waits for, all or none. A struct bus1_cmd_ids, flags 0.
 * There is no reply to them any more: one that was not received is dropped.
 *
 * ENXIO   an id is no call that this peer has made and nobody waits for, or
 *         stands in the array twice
 */

/*
 * BUS1_CMD_LEASE (CALL-8): copy from or to memory that a call lends.
 *
 * Copies len bytes between `data`, in the memory of whoever calls this, and the
 * lease with that index, from `offset` on: to the caller of the call with
 * BUS1_LEASE_WRITE, from it with BUS1_LEASE_READ. The token stays. If the command
 * fails a part may have been copied, whole pages from the start.
 *
 * ENXIO      `token` is no request that is to be answered; it has no such lease
 * EPERM      the lease does not allow that
 * ERANGE     not all of it is within the lease
 * ECANCELED  the caller does not wait any more
 * EFAULT     `data` is bad
 * EREMOTEIO  the caller's memory is; it is told: BUS1_MSG_F_FAULT
 * EINTR      a signal came while memory was brought in (the command restarts
 *            under SA_RESTART)
 * EINVAL     flags is not just one of both
 */
struct bus1_cmd_lease {
	__u64 flags;		/* BUS1_LEASE_READ or _WRITE */
	__u64 token;
	__u64 offset;		/* bytes */
	__u64 data;		/* pointer */
	__u64 len;		/* bytes */
	__u32 index;		/* in leases[] */
	__u32 reserved;		/* must be 0 */
};
#define BUS1_CMD_LEASE_VER0	48

/*
 * BUS1_CMD_PEER_SETUP: how this peer works, from now on.
 *
 * With BUS1_PEER_PRIORITY messages are received by priority, and in the order
 * of ORD-1 to ORD-4 among those of the same. Notices have priority 0, and so
 * has what was sent while this was off.
 */
struct bus1_cmd_setup {
	__u64 flags;		/* BUS1_PEER_*: what is not given is off */
};
#define BUS1_CMD_SETUP_VER0	8

#define BUS1_PEER_PRIORITY	(1ULL << 0)

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
	__u32 n_calls;		/* requests to be answered, and calls of its own
				   that have an id */
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
#define BUS1_CMD_HANDLE_MINT	 _IOWR(BUS1_IOC_MAGIC, 8, struct bus1_cmd_mint)
#define BUS1_CMD_HANDLE_EXPORT	 _IOWR(BUS1_IOC_MAGIC, 9, struct bus1_cmd_export)
#define BUS1_CMD_HANDLE_IMPORT	 _IOWR(BUS1_IOC_MAGIC, 10, struct bus1_cmd_import)
#define BUS1_CMD_PEER_SETUP	 _IOW(BUS1_IOC_MAGIC, 11, struct bus1_cmd_setup)
#define BUS1_CMD_BUFFER_CREATE	 _IOWR(BUS1_IOC_MAGIC, 12, struct bus1_cmd_buffer)
#define BUS1_CMD_BUFFER_OPEN	 _IOWR(BUS1_IOC_MAGIC, 13, struct bus1_cmd_open)
#define BUS1_CMD_CALL		 _IOWR(BUS1_IOC_MAGIC, 14, struct bus1_cmd_call)
#define BUS1_CMD_REPLY		 _IOWR(BUS1_IOC_MAGIC, 15, struct bus1_cmd_reply)
#define BUS1_CMD_CALL_CANCEL	 _IOW(BUS1_IOC_MAGIC, 16, struct bus1_cmd_ids)
#define BUS1_CMD_LEASE		 _IOW(BUS1_IOC_MAGIC, 17, struct bus1_cmd_lease)

/*
 * mmap (MSG-4): the first mapping of a peer makes its pool, of that length
 * (offset 0, rounded up to pages, up to BUS1_MAX_POOL). Further mappings may
 * cover any part of it. PROT_READ and MAP_SHARED only; a mapping never
 * becomes writable or executable. Memory is added as messages arrive, and
 * charged to the memory cgroup of who made the pool. What no slice touches may
 * go back at any time (RES-5). Reading where there is none raises SIGBUS.
 *
 * EPERM   PROT_WRITE or PROT_EXEC
 * EINVAL  MAP_PRIVATE, too large, beyond the pool
 * ENOMEM  out of kernel memory: 8 bytes for each page of a new pool
 * Its pages are charged to the user of the peer as they are added, which is
 * when someone sends: that send is EDQUOT if there may be no more of them.
 *
 * open: EDQUOT if the user has as many peers as it may have.
 *
 * poll (MSG-12): EPOLLIN | EPOLLRDNORM when BUS1_CMD_RECV would not block;
 * EPOLLOUT | EPOLLWRNORM as long as none of its handles waits for room: from a
 * send with BUS1_SEND_NOTIFY that was EAGAIN until the notice is there to be
 * received. EPOLLHUP and EPOLLERR are not raised: a peer has no other end.
 *
 * What the module counts, in all peers together, is in
 * /sys/module/bus1/parameters/: peers, nodes, handles, messages, slices,
 * pool_pages; and charged, all that is charged to users, added up.
 *
 * There are also, to be read and written, the limits of each user (RES-4):
 * max_peers (with exported handles), max_nodes (with facets), max_handles
 * (that its peers hold), max_messages (on their way that it has sent, and the
 * handles in them, each as one more), max_files (in those, and of its buffers)
 * and max_pages (of its peers' pools). One peer may have half of the nodes and
 * handles.
 *
 * /sys/class/misc/bus1/users, for root, has a line for each user, its number and
 * then USED/LIMIT of each, in this order. To write "UID NAME LIMIT", as in
 * "1000 messages 5000", gives a user a limit of its own, and "default" for
 * LIMIT takes it back. A limit below what is there takes nothing away.
 */

#endif /* _UAPI_LINUX_BUS1_H */
