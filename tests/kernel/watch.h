/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What others see of a peer (RES-6): fdinfo, and the tracepoints. Everything
 * fails the test if it fails.
 */
#ifndef BUS1_TEST_WATCH_H
#define BUS1_TEST_WATCH_H

#include "raw.h"

/* The value of a key in fdinfo; of another process's descriptor. */
u64 fdinfo(int fd, const char *key);
u64 fdinfo_of(pid_t pid, int fd, const char *key);
/* The id that a peer has in the trace. */
u64 peer_id(const struct peer *p);

struct event {
	char name[24];			/* without "bus1_" */
	char text[232];
};

/*
 * A trace of our own, with all events of bus1 on; skips the test where there
 * can be none. What an earlier test has left of it is removed.
 */
void trace_start(void);
void trace_stop(void);
/* One event, or all if that is NULL. */
void trace_set(const char *event, bool on);
bool trace_is_on(const char *event);
void trace_clear(void);

/* All events since the start or the last trace_clear(), in order. */
enum { MAX_EVENTS = 4096 };
extern struct event events[MAX_EVENTS];
size_t trace_read(void);

/* A number, or whether there is a word KEY=VALUE. */
u64 event_number(const struct event *e, const char *key);
bool event_is(const struct event *e, const char *word);

/*
 * The event that comes next after `from` (none: NULL) with that name and, if
 * given, those words; it has to be there. How many there are.
 */
const struct event *event_next(const struct event *from, const char *name, const char *word);
size_t event_count(const char *name, const char *word);

/* Whether events are turned on by changing code that an emulator may run. */
bool code_is_patched(void);

#endif /* BUS1_TEST_WATCH_H */
