/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads at priorities of their own, which make and serve calls (CALL-6). */
#ifndef BUS1_TEST_WORKER_H
#define BUS1_TEST_WORKER_H

#include "call.h"

#include <sched.h>

/* What sched_getattr() knows of a thread, as far as it matters here. */
struct attr {
	u32 size, policy;
	u64 flags;
	s32 nice;
	u32 priority;
	u64 runtime, deadline, period;
};

#define OTHER(n) { .policy = SCHED_OTHER, .nice = n }
#define BATCH(n) { .policy = SCHED_BATCH, .nice = n }
#define IDLE(n) { .policy = SCHED_IDLE, .nice = n }
#define FIFO(n) { .policy = SCHED_FIFO, .priority = n }
#define RR(n) { .policy = SCHED_RR, .priority = n }
#define DEADLINE \
	{ .policy = SCHED_DEADLINE, .runtime = 20000000, .deadline = 100000000, .period = 100000000 }

/* Of a thread; a thread, or the current one, is set so. The test is skipped if it may not. */
struct attr attr_of(pid_t tid);
void attr_set(pid_t tid, struct attr a);
void become(struct attr a);

/* At once, or in some seconds. SCHED_RESET_ON_FORK and its like are no matter of theirs. */
#define IS_AT(tid, want) is_at(__FILE__, __LINE__, tid, want)
#define GETS_TO(tid, want) gets_to(__FILE__, __LINE__, tid, want)
void is_at(const char *file, int line, pid_t tid, struct attr want);
void gets_to(const char *file, int line, pid_t tid, struct attr want);

/*
 * A thread at a priority, that does one command after the other, as it is told to, and
 * sleeps otherwise.
 */
struct worker {
	struct test_thread thread;
	struct attr attr;
	int pipe[2];			/* what it is to do */
	void (*next)(struct worker *w);	/* atomic: NULL when it has been done */

	const struct peer *p;
	struct in in;
	struct call c;
	u64 token;
	int r;
};

void worker_start(struct worker *w, const struct peer *p, struct attr attr);
void worker_end(struct worker *w);

/* Begins; ends what has begun; both. */
void go(struct worker *w, void (*what)(struct worker *w));
void await(struct worker *w);
void step(struct worker *w, void (*what)(struct worker *w));

void do_recv(struct worker *w);
void do_call(struct worker *w);
void do_async(struct worker *w);
void do_reply(struct worker *w);
void do_drop(struct worker *w);
/* Replies, and receives what comes next; it waits for that. */
void do_reply_recv(struct worker *w);
/* Makes `attr` of itself, as far as it may: `r`. */
void do_become(struct worker *w);
/* Is not root any more; the process has no limits to go by for better than nice 0. */
void do_give_up_root(struct worker *w);

/* A client and a server at priorities of their own, and a request that is served. */
struct served {
	struct pair w;
	struct worker client, server;
};

void served_make(struct served *s, struct attr client, struct attr server, u64 to);
void served_end(struct served *s);

#endif /* BUS1_TEST_WORKER_H */
