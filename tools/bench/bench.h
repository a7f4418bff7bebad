/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * bus1-bench: what a message and a capability cost on bus1, and on what else
 * there is, in the same run.
 *
 *   main        options, which cases there are, and the order they run in
 *   counter     the clock: guest instructions, or cycles where it must
 *   measure     a job, its warm-up, its batches, and their median
 *   message     jobs that move bytes over any transport, in one thread or two
 *               processes, with the check that the bytes arrive
 *   bus1, socket, pipe    the transports
 *   capability  jobs that make, pass and drop a capability: a handle, or an fd
 *   report      text and JSON
 *
 * It uses the raw ABI, so that it measures the kernel and no library.
 * Functions return 0 or a negative errno unless they say otherwise.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* counter */

enum unit {
	UNIT_INSTRUCTIONS,
	UNIT_CYCLES,
	UNIT_NS,
};

/*
 * Find out what the counter counts, and let the machine settle first where
 * that is free (the counted guest sleeps in no time). `*per_round` is what the
 * loop of six instructions reads: 6.0 under instruction counting.
 */
enum unit counter_start(double *per_round);
uint64_t counter_read(void);

/*
 * No-ops that a profiler of the guest can see: only what runs between them is
 * the loop that --loop asked for. Executed in no other mode.
 */
void counter_mark_begin(void);
void counter_mark_end(void);

/* measure */

struct job {
	/* Does the work `n` times. */
	int (*run)(struct job *j, unsigned long n);
	/* Does it once and proves that it was done right: data, notices, ends. */
	int (*verify)(struct job *j);
	void (*close)(struct job *j);
	size_t chunk;		/* bytes of one system call, where sized */
};

struct plan {
	unsigned long warmup;
	unsigned long rounds;	/* of one batch */
	unsigned int batches;
};

struct figure {		/* per round */
	double median, min, max;
};

int measure(struct job *j, const struct plan *p, struct figure *f);

/* message */

struct end;

/*
 * How bytes travel. An end belongs to one connection, sends to the other end
 * and receives what that one sent; a connection goes both ways.
 */
struct transport {
	const char *name;
	/*
	 * Two connected ends for payloads of `size`. `alone`: one thread will
	 * have both, so that nobody drains what a send waits for. Sets chunk.
	 */
	int (*open)(struct end **a, struct end **b, size_t size, bool alone);
	/* In the process that will use the end, before anything is sent to it. */
	int (*attach)(struct end *e);
	int (*send)(struct end *e, const void *data, size_t len);
	/*
	 * Receive the bytes [offset, offset + len) of a payload. Afterwards
	 * e->data is where the payload lies, until the next receive.
	 */
	int (*recv)(struct end *e, size_t offset, size_t len);
	/* Gives up this process's part of the end. */
	void (*close)(struct end *e);
	bool no_empty;		/* has no empty messages: 1 byte stands in */
};

struct end {
	const struct transport *transport;
	const uint8_t *data;
	size_t chunk;		/* most that one send takes */
};

extern const struct transport transport_bus1;
extern const struct transport transport_seqpacket;
extern const struct transport transport_stream;
extern const struct transport transport_pipe;

/* Send and receive in one thread. `touch`: write and read each byte as well. */
int job_sendrecv(struct job **out, const struct transport *t, size_t size, bool touch);
/* There and back between two processes, the same payload each way. */
int job_roundtrip(struct job **out, const struct transport *t, size_t size, bool touch);

/* capability */

/* One object's whole life: made, passed on, received, dropped, gone. */
int job_life_bus1(struct job **out);
int job_life_bus1_quiet(struct job **out);	/* does not receive the notice */
int job_life_fd(struct job **out);
/* One that exists: passed on, received, dropped. */
int job_pass_bus1(struct job **out);
int job_pass_fd(struct job **out);

/* bus1, for both of the above; each returns what the ioctl gave */

int bus1_open(int *fd);
int bus1_node_create(int fd, uint64_t cookie, uint64_t *id);
int bus1_node_destroy(int fd, uint64_t id);
int bus1_handle_release(int fd, uint64_t id);
int bus1_handle_give(int from, uint64_t id, int to, uint64_t *out);

/* report */

struct result {
	const char *work, *transport;
	bool sized;
	size_t size, chunk;
	struct plan plan;
	struct figure figure;
	double ratio;		/* to the rival; 0 if there is none */
	int error;		/* negative errno: there is no figure; -ENODEV: no bus1 here */
};

struct bar {
	const char *work, *title;
	bool sized;
	size_t size;
	double limit, ratio;
	bool known, reached;
};

struct report {
	enum unit unit;
	double calibration;
	bool touch;
	struct result results[256];
	size_t n_results;
	struct bar bars[8];
	size_t n_bars;
};

void report_text(FILE *f, const struct report *r);
void report_json(FILE *f, const struct report *r);
