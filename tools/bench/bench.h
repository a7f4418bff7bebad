/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * bus1-bench: what a message and a capability cost on bus1, and on what else
 * there is, in the same run.
 *
 *   main        which cases there are, and the order they run in
 *   options     the command line
 *   counter     the clock: guest instructions, cycles where it must, or wall-clock
 *   cpu         which CPUs it runs on
 *   measure     a job, its warm-up, its batches or samples, and what these say
 *   message     jobs that move bytes over any transport, in one thread or two
 *               processes, with the check that the bytes arrive
 *   bus1, call, large            the transports of bus1
 *   library     and its library's
 *   socket, pipe, shm, mqueue, binder, dbus, varlink    and of others
 *   floor       what a call is measured against: no transport
 *   hog         a process that takes the CPU away
 *   capability  jobs that make, pass and drop a capability: a handle, or an fd
 *   fanout      jobs that send one message to many
 *   fanin       jobs in which many send to one
 *   scale       a job in a peer that holds many handles
 *   death       a job that destroys a node with many holders
 *   flood       a job that does round trips while other users flood the server
 *   report      text and JSON
 *
 * But for library it uses the raw ABI, so that it measures the kernel and no library.
 * Functions return 0 or a negative errno unless they say otherwise.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* options */

extern struct options {
	bool json, brief, touch, check, wall;
	const char *filter, *save;
	unsigned long rounds;
	char *loop;
} opt;

/* 0, or -EINVAL, which is said. */
int options_parse(int argc, char **argv);
/* Whether `name` stands in the comma-separated list of --filter, if there is one. */
bool wanted(const char *name);

/* counter */

enum unit {
	UNIT_INSTRUCTIONS,
	UNIT_CYCLES,
	UNIT_NS,
};

/*
 * Find out what the counter counts, and let the machine settle first where
 * that is free (the counted guest sleeps in no time). `*per_round` is what the
 * loop of six instructions reads: 6.0 under instruction counting. With `wall` it
 * is the clock on the wall, whatever else there is.
 */
enum unit counter_start(bool wall, double *per_round);
enum unit counter_unit(void);
uint64_t counter_read(void);

/*
 * No-ops that a profiler of the guest can see: only what runs between the first
 * two is the loop that --loop asked for, which executes them in no other mode.
 * Within it, what runs from a pause to the next resume is not counted.
 */
void counter_mark_begin(void);
void counter_mark_end(void);
void counter_mark_pause(void);
void counter_mark_resume(void);

/* cpu: the first two that it may run on, 0 and 1 */

void cpu_start(void);		/* on 0 from now on */
bool cpu_two(void);		/* whether there is a 1 */
int cpu_pin(int i);		/* on that alone */
int cpu_begin(int i);		/* on that now, and later on either */

/* measure */

struct job {
	/* Does the work `n` times. */
	int (*run)(struct job *j, unsigned long n);
	/* Does it once and proves that it was done right: data, notices, ends. */
	int (*verify)(struct job *j);
	void (*close)(struct job *j);
	size_t chunk;		/* bytes of one system call, where sized */
	unsigned long parts;	/* a round is as many operations; 0: one */
	uint64_t uncounted;	/* by the counter, in all rounds so far */
};

/* The end of what makes a job: `*out` is it, or it is closed if `r` is an error; returns that. */
int job_made(struct job **out, struct job *j, int r);

/* For run(): what it does between the two is not counted. It returns resumed. */
void job_pause(struct job *j);
void job_resume(struct job *j);

struct plan {
	unsigned long warmup;
	unsigned long rounds;	/* of one batch */
	unsigned int batches;	/* 0: each round is measured by itself */
};

struct figure {		/* per operation */
	double median, min, max;
	double p99, p999;	/* of single rounds; 0: not known, or too few of them */
};

/* Do `rounds`; `*each` is what one operation took. */
int measure_batch(struct job *j, unsigned long rounds, double *each);
int measure(struct job *j, const struct plan *p, struct figure *f);

/*
 * For whatever opens a job: something that is needed is not to be had here, which is
 * no failure. Returns -ENODEV; absent_reason() is the text, until the next.
 */
int absent(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *absent_reason(void);

/* message */

struct end;

/*
 * How bytes travel. An end belongs to one connection, sends to the other end
 * and receives what that one sent; a connection goes both ways. Where there are
 * calls the first end is the client's, which sends first, and the other the
 * server's; what is sent may then leave only with the receive that follows.
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
	/*
	 * If set, of an end that is called by others (a library's loop): instead of all
	 * the above that a server does it receives for ever, and lets got(), which may
	 * look at e->data, say for each payload whether `data` is the answer (1), or
	 * there is none (0), or it is to return that (negative).
	 */
	int (*serve)(struct end *e, size_t len, int (*got)(void *job), void *job, const void *data);
	/*
	 * One way, from the first end to the second: instead of send, and the other
	 * receives as ever.
	 */
	int (*push)(struct end *e, const void *data, size_t len);
	/* If set: where the payload lies that is sent, in place of memory of the job's. */
	uint8_t *(*memory)(struct end *e);
	bool no_empty;		/* has no empty messages: 1 byte stands in */
	bool slow;		/* each takes so much that fewer do */
};

struct end {
	const struct transport *transport;
	const uint8_t *data;
	size_t chunk;		/* most that one send takes */
};

extern const struct transport transport_bus1;
extern const struct transport transport_bus1_call;
extern const struct transport transport_bus1_plain;	/* calls without hand-off */
extern const struct transport transport_libbus1;
extern const struct transport transport_bus1_memfd;
extern const struct transport transport_bus1_buffer;
extern const struct transport transport_seqpacket;
extern const struct transport transport_stream;
extern const struct transport transport_pipe;
extern const struct transport transport_eventfd;
extern const struct transport transport_futex;
extern const struct transport transport_mqueue;
extern const struct transport transport_binder;
extern const struct transport transport_varlink;
extern const struct transport transport_dbus;
extern const struct transport transport_floor;

#define MESSAGE_TOUCH	(1u << 0)	/* write and read each byte as well */
#define MESSAGE_TWO	(1u << 1)	/* two CPUs: each begins on its own, and may run on either */
#define MESSAGE_APART	(1u << 2)	/* two CPUs, and each stays on its own */
#define MESSAGE_HOG	(1u << 3)	/* one CPU, with a process that spins on it */

/* Send and receive in one thread. */
int job_sendrecv(struct job **out, const struct transport *t, size_t size, unsigned int how);
/* There and back between two processes, the same payload each way. */
int job_roundtrip(struct job **out, const struct transport *t, size_t size, unsigned int how);
/* One way between two processes, with a word back after each ONEWAY_BURST: one operation each. */
#define ONEWAY_BURST 64
int job_oneway(struct job **out, const struct transport *t, size_t size, unsigned int how);

/* call */

/* A call to a server that has received `count` - 1 others and not answered them. */
int job_inflight(struct job **out, size_t count);

/* hog */

struct hog;

int hog_start(struct hog **out);
uint64_t hog_instructions(const struct hog *h);
void hog_stop(struct hog *h);

/* capability */

/* One object's whole life: made, passed on, received, dropped, gone. */
int job_life_bus1(struct job **out);
int job_life_bus1_quiet(struct job **out);	/* does not receive the notice */
int job_life_fd(struct job **out);
/* One that exists: passed on, received, dropped. */
int job_pass_bus1(struct job **out);
int job_pass_bus1_new(struct job **out);	/* the receiver has no other count of it */
int job_pass_fd(struct job **out);

/* fanout */

/* One message to `count` receivers, who take it uncounted. At most FANOUT_MAX. */
#define FANOUT_MAX 64

/* One and many, for fanin, too: descriptors, or -1. */
struct fan {
	size_t n;
	int one;
	int from[FANOUT_MAX];		/* of those who send */
	int to[FANOUT_MAX];		/* of those who receive */
};

void fan_init(struct fan *fan, size_t n);
void fan_close(struct fan *fan);
/* A connection from each to each. */
int fan_seqpacket(struct fan *fan);

int job_fanout_bus1(struct job **out, size_t count);
int job_fanout_socket(struct job **out, size_t count);

/* fanin */

/* `count` senders, one message of each, and their receiver. At most FANOUT_MAX. */
int job_fanin_bus1(struct job **out, size_t count);
int job_fanin_socket(struct job **out, size_t count);
int job_fanin_dgram(struct job **out, size_t count);
int job_fanin_pipe(struct job **out, size_t count);

/* scale */

/* Send, find and release, by a peer that holds `count` handles. */
int job_scale(struct job **out, size_t count);

/* death */

/* Destroy a node that `count` peers hold: one operation for each of them. */
int job_death(struct job **out, size_t count);

/* flood */

/* Round trips of one user, of `count` in all: the others flood the server. For root. */
int job_flood(struct job **out, size_t count);

/* bus1, for all of the above; each returns what the ioctl gave */

struct bus1_cmd_info;
struct bus1_msg;

static inline uint64_t ptr(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

int bus1_open(int *fd);
int bus1_node_create(int fd, uint64_t cookie, uint64_t *id);
int bus1_node_destroy(int fd, uint64_t id);
int bus1_handle_release(int fd, uint64_t id);
int bus1_handle_give(int from, uint64_t id, int to, uint64_t *out);
int bus1_info(int fd, struct bus1_cmd_info *info);
/* Receive one message, and first release the handle `drop`, if it is not 0. Does not wait. */
int bus1_recv(int fd, struct bus1_msg *m, void *buf, uint32_t size, uint64_t drop);

/* report */

struct result {
	const char *work, *transport;
	const char *rival;	/* work to compare with, over seqpacket */
	bool sized;
	size_t size, chunk;
	size_t count;		/* of what there are many of; 0: no such work */
	size_t base;		/* count to compare with; 0: none */
	struct plan plan;
	struct figure figure;
	double ratio;		/* to the rival; 0 if there is none */
	double growth;		/* to the same with `base`; likewise */
	int error;		/* negative errno: there is no figure; -ENODEV: absent */
	char absent[96];	/* why */
};

struct bar {
	const char *work, *title;
	const char *transport;	/* NULL: bus1 */
	const char *to;		/* transport to compare with; NULL: seqpacket */
	const char *to_work;	/* and its work; NULL: the same */
	bool sized;
	size_t size, count;
	double limit, ratio;
	bool known, reached;
};

struct report {
	enum unit unit;
	double calibration;
	bool touch;
	const char *command;
	struct result results[512];
	size_t n_results;
	struct bar bars[32];
	size_t n_bars;
};

/* NULL if it was not asked for. */
const struct result *report_find(const struct report *r, const char *work, const char *transport, size_t size,
				 size_t count);
void report_text(FILE *f, const struct report *r);
void report_json(FILE *f, const struct report *r);
