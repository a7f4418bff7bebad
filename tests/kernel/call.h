/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Calls (BUS1_CMD_CALL, _REPLY, _CALL_CANCEL, _LEASE): who makes them, and who
 * serves them. As in raw.h, what returns int returns 0 or -errno.
 */
#ifndef BUS1_TEST_CALL_H
#define BUS1_TEST_CALL_H

#include "cast.h"

/*
 * One call, with one reply's worth of space for what comes. call_init() makes the
 * command, to be changed at will; call_make() gives it, in this thread.
 */
struct call {
	struct test_thread thread;
	const struct peer *p;
	struct bus1_cmd_call cmd;
	struct in in;
	int r;
};

void call_init(struct call *c, const struct peer *p, u64 dest, const void *data, size_t len);
void call_init_str(struct call *c, const struct peer *p, u64 dest, const char *text);
int call_make(struct call *c);

/*
 * The same in a thread of its own. call_start() returns when that sleeps in the
 * command: the request is there to be received, unless it waits for room. call_go() does
 * not look.
 */
void call_go(struct call *c);
void call_start(struct call *c);
void call_start_str(struct call *c, const struct peer *p, u64 dest, const char *text);
int call_join(struct call *c);
bool call_is_done(const struct call *c);

/* That it has ended, with a reply that has this text. A slice is given back. */
#define REPLIED(c, text) call_replied(__FILE__, __LINE__, c, text)
void call_replied(const char *file, int line, struct call *c, const char *text);

/* An asynchronous call, its id; and how it ends, by the queue. */
u64 call_async(const struct peer *p, u64 dest, const char *text, u64 cookie);
int call_async_cmd(const struct peer *p, struct bus1_cmd_call *cmd);
int call_cancel(const struct peer *p, u64 id);

#define GOT_REPLY(p, id, cookie, text) \
	got_reply(__FILE__, __LINE__, p, id, cookie, 0, text)
#define GOT_END(p, id, cookie, err) \
	got_reply(__FILE__, __LINE__, p, id, cookie, err, "")
void got_reply(const char *file, int line, const struct peer *p, u64 id, u64 cookie, int err,
	       const char *text);

/* A request that is there, and its token; the notice that one is cancelled. */
#define GOT_CALL(p, node, text) got_call(__FILE__, __LINE__, p, node, text, NULL)
#define GOT_CALL_IN(p, node, text, in) got_call(__FILE__, __LINE__, p, node, text, in)
#define GOT_CANCELLED(p, token) \
	got_notice(__FILE__, __LINE__, p, BUS1_MSG_CANCELLED, token, 0, false)
u64 got_call(const char *file, int line, const struct peer *p, u64 node, const char *text,
	     struct in *in);
/* The next request, which is waited for. */
u64 await_call(const struct peer *p, struct in *in);

/* Replies, without receiving; and with, where `in` gets the next. */
int reply_cmd(const struct peer *p, struct bus1_cmd_reply *cmd);
int answer(const struct peer *p, u64 token, const void *data, size_t len);
int answer_str(const struct peer *p, u64 token, const char *text);
int answer_drop(const struct peer *p, u64 token);
/* A thread that replies once, and what it got for that. */
struct answerer {
	struct test_thread thread;
	const struct peer *p;
	u64 token;
	const void *data;
	size_t len;
	int r;
};

void answerer_start(struct answerer *t, const struct peer *p, u64 token, const void *data,
		    size_t len);
int answer_next(const struct peer *p, u64 token, const void *data, size_t len, u64 flags,
		struct in *in);

/* BUS1_CMD_LEASE. */
int lease(const struct peer *p, u64 token, u64 flags, u32 index, u64 offset, void *data,
	  u64 len);

/*
 * Threads that serve a peer, by replying and receiving in one command: the reply is what
 * the request was. A plain message ends one of them, and so does server_stop().
 */
struct server {
	struct test_thread thread;
	const struct peer *p;
	u64 node;
	u32 served;			/* atomic */
	long slept;			/* how often it has, once it has ended */
};

void server_start(struct server *s, const struct peer *p, u64 node);
void server_stop(struct server *s, u32 n);

/* A client and a server, with pools. */
struct pair pair_new(void);
/*
 * That nothing is left of any call at a peer, and nothing is queued; at both; then closes
 * both, and checks that first.
 */
void peer_idle(const struct peer *p);
void pair_idle(const struct pair *w);
void pair_close(struct pair *w);

/* A handler that does nothing. */
void catch_signal(int sig, int flags);

/*
 * Takes a thread into a handler of SIGUSR1, under SA_RESTART, where it stays until it is let go; one at
 * a time.
 */
void linger_start(pthread_t thread);
void linger_end(void);

/* How often a thread has gone to sleep by itself. */
long times_slept(pid_t tid);

#endif /* BUS1_TEST_CALL_H */
