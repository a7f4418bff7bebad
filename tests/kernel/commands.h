/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Each command in a form that works, and what its fields are (ABI-2). */
#ifndef BUS1_TEST_COMMANDS_H
#define BUS1_TEST_COMMANDS_H

#include "call.h"

/* Two peers; the first has something of every kind, and is who commands. */
struct scene {
	struct peer a, b;
	u64 node, facet, once;		/* a's */
	u64 buffer;			/* likewise */
	u64 nodes[2];			/* more of a's, that are there to be destroyed */
	u64 handle, twice;		/* of one count, and of two */
	u64 weak, mute, bound;		/* without the right to send, to transfer */
	u64 dead, weak_dead;
	u64 gone, gone_slice, foreign;	/* ids that are none of a's */
	u64 slices[2];
	u64 nb;
	int fds[2], exported, memfd;
	u64 made[2];			/* calls of a's, asynchronous */
	u64 token;			/* a request that a serves */
	u64 answered, foreign_token;	/* that are none of a's any more, or never were */
	struct call lender;		/* of b's, which waits for `token` */
	struct snapshot before;

	/* What the commands point at. */
	u64 ids[3], out[3], more[2];
	s32 errors[3], files[2];
	struct bus1_iovec iovs[2];
	struct bus1_pass pass[2];
	struct bus1_msg m;
	u64 buf[32];
	char text[16];
	struct bus1_lease leases[2], lent[2];
	char memory[64];
};

void scene_make(struct scene *s);
void scene_end(struct scene *s);

/* Each command as it works: in `arg`, pointing into the scene. */
typedef void good_fn(struct scene *s, union any_cmd *arg);
good_fn good_create, good_mint, good_destroy, good_release, good_slice, good_transfer,
	good_move, good_export, good_import, good_send, good_multicast, good_recv, good_peek,
	good_give_back, good_buffer, good_open, good_body, good_memfd, good_setup, good_info,
	good_call, good_wait, good_reply, good_next, good_cancel, good_lease;

enum kind {
	BITS,		/* any bit but those of `known` is EINVAL */
	COUNT,		/* of what `at` points to, up to `known`; above is EMSGSIZE */
	READ,		/* pointer to `known` bytes that are read */
	WRITTEN,	/* that are written; none of it may be read-only */
	FREE,		/* end of the table */
};

struct field {
	const char *name;
	enum kind kind;
	size_t off, size;
	u64 known;
	size_t at;
};

struct command {
	const char *name;
	unsigned long cmd;
	good_fn *good;
	struct field fields[40];
};

extern const struct command commands[];
extern const size_t n_commands;

#endif /* BUS1_TEST_COMMANDS_H */
