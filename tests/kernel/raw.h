/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands of <linux/bus1.h> with as little around them as a test can
 * bear. What returns int returns 0 or -errno; what returns anything else fails
 * the test if it fails.
 */
#ifndef BUS1_TEST_RAW_H
#define BUS1_TEST_RAW_H

#include "../test.h"

#include <linux/bus1.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef int32_t s32;
/* For 32 bit, too, as buffers have to be. */
typedef uint64_t u64 __attribute__((aligned(8)));

/* A pointer as the ABI wants it. */
#define PTR(...) ((u64)(uintptr_t)(__VA_ARGS__))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/*
 * A peer. `pool` is the first mapping, or NULL; nothing is mapped if peer_new()
 * was given 0.
 */
struct peer {
	int fd;
	const u8 *pool;
	size_t pool_size;
};

struct peer peer_new(size_t pool_size);
void peer_close(struct peer *p);
const u8 *pool_map(int fd, size_t size);
struct bus1_cmd_info peer_info(const struct peer *p);

/*
 * For tests that run as root. A peer of another user's; what a user has, and may
 * have at most, as /sys/class/misc/bus1/users tells, in the order of its
 * columns (false: it is not there); a limit of a user's own, or LIMIT_DEFAULT.
 */
enum { MAX_PEERS, MAX_NODES, MAX_HANDLES, MAX_MESSAGES, MAX_FILES, MAX_PAGES, N_MAX };

struct user {
	u64 used[N_MAX], max[N_MAX];
};

#define LIMIT_DEFAULT UINT64_MAX
struct peer peer_of(u32 uid, size_t pool_size);
bool user_read(u32 uid, struct user *user);
int limit_set(u32 uid, int which, u64 max);
extern const char *const limit_names[N_MAX];
/* Fails unless nothing is charged to a user. What is freed a moment later is waited for. */
void nothing_charged(u32 uid);

/*
 * The size of a pool that one peer may have so many bytes in, if nobody else has
 * any: three eighths of it, in granules of 64 (RES-2).
 */
size_t pool_for(size_t bytes);

/* Whichever command. */
union any_cmd {
	struct bus1_cmd_node node;
	struct bus1_cmd_mint mint;
	struct bus1_cmd_ids ids;
	struct bus1_cmd_transfer transfer;
	struct bus1_cmd_export export;
	struct bus1_cmd_import import;
	struct bus1_cmd_send send;
	struct bus1_cmd_recv recv;
	struct bus1_cmd_setup setup;
	struct bus1_cmd_info info;
	struct bus1_cmd_buffer buffer;
	struct bus1_cmd_open open;
	struct bus1_cmd_call call;
	struct bus1_cmd_reply reply;
	struct bus1_cmd_lease lease;
};

/* One command. With another size of its struct: raw_sized(). */
int raw(const struct peer *p, unsigned long cmd, void *arg);
int raw_sized(const struct peer *p, unsigned long cmd, size_t size, void *arg);

u64 node_new(const struct peer *p, u64 cookie);
int node_create(const struct peer *p, struct bus1_cmd_node *cmd);

/* The commands that take an array of ids, with many or one. */
int ids_cmd(const struct peer *p, unsigned long cmd, u64 flags, const u64 *ids, u32 n);
int destroy(const struct peer *p, u64 id);
int destroy_unused(const struct peer *p, u64 id);
int release(const struct peer *p, u64 id);
int slice_release(const struct peer *p, u64 id);

/* HANDLE_TRANSFER. grant() copies one, and returns the id it has in `to`. */
int transfer(const struct peer *from, const struct peer *to, u64 flags,
	     const u64 *ids, u64 *out, u32 n);
u64 grant(const struct peer *from, u64 id, const struct peer *to);

/*
 * HANDLE_TRANSFER of one in any form; `to` may be NULL, which is the peer itself,
 * by a peer_fd of -1. grant_as() has the id it got.
 */
int give(const struct peer *from, u64 id, const struct peer *to, u64 flags, u32 drop_rights,
	 u64 *out);
u64 grant_as(const struct peer *from, u64 id, const struct peer *to, u64 flags, u32 drop_rights);

#define ALL_RIGHTS (BUS1_RIGHT_SEND | BUS1_RIGHT_TRANSFER)

/* HANDLE_MINT: a facet with a badge, and a new one-shot facet. */
int mint(const struct peer *p, u64 flags, u64 node, u64 badge, u64 *id);
u64 facet_new(const struct peer *p, u64 node, u64 badge);
u64 once_new(const struct peer *p, u64 node, u64 badge);

/* HANDLE_EXPORT and HANDLE_IMPORT: a descriptor, or -errno; the handle it holds. */
int export_fd(const struct peer *p, u64 id, u32 drop_rights);
int import_cmd(const struct peer *p, int fd, struct bus1_handle *h);
u64 import_fd(const struct peer *p, int fd);

int setup(const struct peer *p, u64 flags);

/* SEND in its usual forms. */
int send_cmd(const struct peer *p, struct bus1_cmd_send *cmd);
int send_data(const struct peer *p, u64 dest, const void *data, size_t len);
int send_str(const struct peer *p, u64 dest, const char *text);
int send_ids(const struct peer *p, u64 dest, const u64 *ids, u32 n);
int send_id(const struct peer *p, u64 dest, u64 id);
int send_pass(const struct peer *p, u64 dest, u64 id, u32 flags, u32 drop_rights);
int send_fds(const struct peer *p, u64 dest, const s32 *fds, u32 n);
int send_many(const struct peer *p, u64 flags, const u64 *dests, u32 n_dests,
	      s32 *errors, const char *text);

/*
 * What one RECV gave: data and the others point into the pool or into buf; fds
 * and creds are NULL if there are none.
 */
struct in {
	struct bus1_msg m;
	const u8 *data;
	const struct bus1_handle *h;
	const s32 *fds;
	const struct bus1_creds *creds;
	u64 buf[1024];
};

int recv_cmd(const struct peer *p, struct bus1_cmd_recv *cmd);
/* What receives one message into `in`; what a command with that has put there. */
struct bus1_cmd_recv recv_into(struct in *in, u64 flags, u64 deadline);
void recv_found(const struct peer *p, struct in *in, const struct bus1_cmd_recv *cmd);
/*
 * One message: without waiting, with more flags than that; waiting up to a
 * deadline of many seconds.
 */
int recv_now(const struct peer *p, struct in *in);
int recv_with(const struct peer *p, struct in *in, u64 flags);
int peek(const struct peer *p, u32 index, struct in *in);
int recv_wait(const struct peer *p, struct in *in);
int drop_now(const struct peer *p, struct bus1_msg *m);

/*
 * Empty messages to a node until its owner's queue takes no more, and how many
 * that were. Everything that is queued, thrown away; how much it was.
 */
u32 fill_queue(const struct peer *p, u64 dest);
u32 drain(const struct peer *p);

/*
 * Slices that p sends to a node of its own and receives, each the largest that
 * there is room for, until there is no room for any, and how many these
 * are. They are given back by their ids. All of it is `byte`.
 */
u32 fill_pool(const struct peer *p, u64 node, u8 byte, u64 *slices, u32 max);

/* EPOLL* bits that poll says now. */
u32 poll_now(const struct peer *p);
bool readable(const struct peer *p);

/*
 * What comes next, without waiting. Each takes it off the queue; got_text()
 * gives back a slice, too.
 */
#define NOTHING(p) ERR(recv_now(p, &(struct in){}), EAGAIN)
#define GOT_TEXT(p, node, text) got_text(__FILE__, __LINE__, p, node, text)
#define GOT_DEAD(p, handle)						\
	got_notice(__FILE__, __LINE__, p, BUS1_MSG_NODE_DEAD, handle, 0, false)
#define GOT_UNUSED(p, node, seq)					\
	got_notice(__FILE__, __LINE__, p, BUS1_MSG_NODE_UNUSED, node, seq, true)
/* Both, of one operation: in whichever order. */
#define GOT_DEAD_AND_UNUSED(p, handle, node, seq)			\
	got_both(__FILE__, __LINE__, p, handle, node, seq)
/* The same of a one-shot facet; and several notices, in whichever order. */
#define GOT_ONCE_DROPPED(p, facet)						\
	got_notice(__FILE__, __LINE__, p, BUS1_MSG_ONCE_DROPPED, facet, 0, false)
#define GOT_NOTICES(p, ...)						\
	got_notices(__FILE__, __LINE__, p, (struct notice[]){ __VA_ARGS__ },	\
		    ARRAY_SIZE(((struct notice[]){ __VA_ARGS__ })))
/* Text through a facet. */
#define GOT_BADGE(p, node, badge, text)					\
	got_badge(__FILE__, __LINE__, p, node, badge, text)
/* A message without text and with one handle. */
#define GOT_HANDLE(p, node) got_handle(__FILE__, __LINE__, p, node)
/* A message without text; the ids of its handles are stored. */
#define GOT_IDS(p, node, ids, n) got_ids(__FILE__, __LINE__, p, node, ids, n)
#define GOT_ID(p, node) got_id(__FILE__, __LINE__, p, node)

/* The name of a BUS1_MSG_*. */
const char *type_name(u32 type);

void got_text(const char *file, int line, const struct peer *p, u64 node, const char *text);
void got_notice(const char *file, int line, const struct peer *p, u32 type, u64 id,
		u64 seq, bool has_seq);
void got_both(const char *file, int line, const struct peer *p, u64 handle, u64 node, u64 seq);
struct notice {
	u32 type;
	u64 id;
};

void got_notices(const char *file, int line, const struct peer *p, const struct notice *all,
		 size_t n);
void got_badge(const char *file, int line, const struct peer *p, u64 node, u64 badge,
	       const char *text);
struct bus1_handle got_handle(const char *file, int line, const struct peer *p, u64 node);
void got_ids(const char *file, int line, const struct peer *p, u64 node, u64 *ids, u32 n);
u64 got_id(const char *file, int line, const struct peer *p, u64 node);

/*
 * That a peer is as it was: `before` is from peer_info(). Pages that back the
 * pool may have been added.
 */
#define SAME_INFO(p, before) same_info(__FILE__, __LINE__, #p, p, before)
void same_info(const char *file, int line, const char *what, const struct peer *p,
	       const struct bus1_cmd_info *before);

/*
 * The same of several peers, and of all that the module counts, if it can be
 * read. Counts that go down a moment later are waited for.
 */
struct snapshot {
	unsigned int n;
	const struct peer *peers[4];
	struct bus1_cmd_info info[4];
	struct test_counts counts;
	bool counted;
};

#define SNAPSHOT(...)								\
	snapshot_take((const struct peer *[]){ __VA_ARGS__ },			\
		  ARRAY_SIZE(((const struct peer *[]){ __VA_ARGS__ })))
#define SAME_SNAPSHOT(w) same_snapshot(__FILE__, __LINE__, w)
struct snapshot snapshot_take(const struct peer **peers, unsigned int n);
void same_snapshot(const char *file, int line, const struct snapshot *w);

void close_fd(int fd);

/* A memfd with these bytes, sealed so that it can be a buffer. */
int memfd_sealed(const void *data, size_t n);

/* Descriptors that this process has; so that it may have n more, and no others. */
unsigned int open_fds(void);
void leave_fds(unsigned int n);

/*
 * Memory with an edge: `n` bytes (rounded up to pages, 8-aligned sizes give
 * aligned addresses) that end where unmapped memory begins.
 */
void *edge_alloc(size_t n);
/* Two pages; the second has no access. */
u8 *half_page_pair(void);
/* A page that can be read and not written, with a copy of what is given. */
void *read_only(const void *data, size_t n);

/* Pages of the mapping that can be read; each, if so, is copied to `page`. */
bool page_readable(const void *addr, u8 *page);

size_t page_size(void);
void fill(void *buf, size_t n, u64 seed);

/* Addresses that no user may pass, with the names they have in messages. */
extern const u64 bad_addresses[];
extern const size_t n_bad_addresses;

#endif /* BUS1_TEST_RAW_H */
