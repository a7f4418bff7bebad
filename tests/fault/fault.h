/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * EVD-3: everything that can fail in a command fails in turn.
 *
 * A *form* is one way of giving a command. It is run in a world of its own again
 * and again: with the first allocation, or copy from or to user memory, made to
 * fail, then the second, until it runs through untouched. Each time that it
 * fails the errno must be that of what failed, all that can be seen must be as
 * it was before, and the same command must succeed when given again. Each time
 * that it succeeds, whatever was made to fail on the way, it must have done
 * all of its work. When the world has ended nothing may be left.
 *
 *	FORM("send by pool", .fails = SLAB | PAGE | COPY, .setup = by_pool, .check = got_it)
 *
 * setup() makes what the form needs and, by command(), the command. check() finds
 * out whether it has done what it should, and takes it away.
 */
#ifndef BUS1_TEST_FAULT_H
#define BUS1_TEST_FAULT_H

#include "raw.h"

/* What can be made to fail: objects of the kernel's, pages, copies of user memory. */
enum {
	SLAB	= 1,
	PAGE	= 2,
	COPY	= 4,
};

struct form {
	const char *name;
	void (*setup)(void);
	/* 0 or -errno. If NULL, the command that was prepared is given. */
	int (*run)(void);
	void (*check)(void);
	/*
	 * After it failed, if it may have done a part of its work: `before` and
	 * `as_given` are to be made what the form promises for that case.
	 */
	void (*partly)(void);
	/*
	 * Each of these must make it fail at least once. PAGE may, too, with SLAB: that
	 * is where objects come from. Whatever else fails must not be noticed.
	 */
	unsigned int fails;
	/* In a process of its own each time: it changes the process. */
	bool alone;
	/* It takes so long that one failure at a time is enough. */
	bool is_long;
};

enum { MAX_SEEN = 16, MAX_WATCHED = 8, POOL = 1 << 15 };

/* All that user space can see. */
struct state {
	struct {
		struct bus1_cmd_info info;
		u32 events;
		u32 n_seen;
		struct {
			struct bus1_msg m;
			u64 sum;
		} seen[MAX_SEEN];
		u64 pool_sum;
	} of[4];
	u32 counts[MAX_WATCHED];
	int next_fd;
	/* For partly(): how many slices there are less in all peers. */
	u32 slices_gone;
};

/* The one that a form is run in. It starts as described, the rest is zero. */
struct world {
	/* A sender; two receivers that have pools; one more if the form makes it. */
	union {
		struct peer p[4];
		struct {
			struct peer s, r, t, x;
		};
	};
	/* A node of each; handles of the sender's to the receivers' nodes. */
	union {
		u64 nodes[3];
		struct {
			u64 ns, nr, nt;
		};
	};
	u64 to_r, to_t;

	/* The command, and what it looked like when it was given. */
	const struct peer *on;
	unsigned long number;
	size_t size;
	union any_cmd cmd, as_given;
	struct state before;

	/* For the form to use. Descriptors are closed if they are not 0. */
	u64 id[MAX_WATCHED];
	int fd[4];
	void *map;
	size_t map_size;
	u8 data[3 * 4096];
	u64 ids[128], out[128];
	s32 errors[64];
	struct bus1_pass pass[8];
	struct bus1_iovec iovs[8];
	s32 fds[8];
	struct bus1_msg msgs[64];
	u64 buf[512];
	struct in in;

	/* Handles whose counts are part of the state: see watch(). */
	struct {
		u32 peer;
		u64 id;
	} watched[MAX_WATCHED];
	u32 n_watched;
	/* Set by partly(), once it has seen what was done: from there it is as it is now. */
	bool done_in_part;
};

extern struct world w;

/* Makes the command of this form: all zero, to be filled in. */
void *command(const struct peer *on, unsigned long number);
/* The counts that a peer has of a handle are part of the state. */
void watch(const struct peer *p, u64 id);
/* Of all that a pool shows; 0 if that is nothing. */
u64 sum_of_pool(const struct peer *p);
/* A pipe: the writing end. The reading one, in *end, tells when all of it is closed. */
int pipe_new(int *end);
bool is_hung_up(int end);

/*
 * Takes the next message, with all that it brings, into w.in: it must be for
 * `node`, with the first `len` bytes of w.data. Its slice is given back.
 */
#define GOT(p, node, len) got_message(__FILE__, __LINE__, p, node, len)
const struct in *got_message(const char *file, int line, const struct peer *p, u64 node,
			     size_t len);

void form_register(struct test *test);
void form_run(const struct form *form);

#define FORM(name_, ...) FORM__DEFINE(name_, __LINE__, __VA_ARGS__)
#define FORM__DEFINE(name_, n_, ...)						\
	static void TEST__CAT(form_run_, n_)(void)				\
	{									\
		static const struct form form = { .name = name_, __VA_ARGS__ };	\
										\
		form_run(&form);						\
	}									\
	static struct test TEST__CAT(form_, n_) = {				\
		"EVD-3 " name_, TEST__CAT(form_run_, n_), 60, NULL		\
	};									\
	__attribute__((constructor)) static void TEST__CAT(form_reg_, n_)(void)	\
	{									\
		form_register(&TEST__CAT(form_, n_));				\
	}

#endif /* BUS1_TEST_FAULT_H */
