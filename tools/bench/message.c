// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

struct message_job {
	struct job job;
	struct end *mine, *other;	/* other: only if both are in one thread */
	uint8_t *data;			/* what is sent */
	size_t size, alloc;
	bool touch;
	pid_t child;
	struct hog *hog;
	unsigned long received;		/* by the other process */
	int ack[2];			/* of oneway: how that tells this; -1: closed */
};

static volatile uint64_t sink;

static uint64_t step(uint64_t x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ x << 17;
}

/* Bytes that no other seed and no shift within the payload give. */
static void pattern_fill(uint8_t *p, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++) {
		seed = step(seed);
		p[i] = (uint8_t)(seed >> 32);
	}
}

static bool pattern_matches(const uint8_t *p, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++) {
		seed = step(seed);
		if (p[i] != (uint8_t)(seed >> 32))
			return false;
	}
	return true;
}

/*
 * Every byte is written and read in the widest steps there are, as by a program that
 * has much to go through, and so many of them in a row that counting them hardly
 * counts: the work is the bytes, by whatever way they travel.
 */
typedef uint64_t wide __attribute__((vector_size(32), aligned(1), may_alias));

static inline __attribute__((always_inline)) void fill_wide(uint8_t *p, size_t n, uint8_t byte)
{
	uint64_t word = byte * 0x0101010101010101u;
	wide value = { word, word, word, word }, *w = (wide *)p;

#pragma GCC unroll 16
	for (; n >= 4 * sizeof(wide); w += 4, n -= 4 * sizeof(wide)) {
		w[0] = value;
		w[1] = value;
		w[2] = value;
		w[3] = value;
	}
	memset(w, byte, n);
}

static inline __attribute__((always_inline)) uint64_t sum_wide(const uint8_t *p, size_t n)
{
	wide a = {}, b = {}, c = {}, d = {};
	const wide *w = (const wide *)p;
	uint64_t sum = 0;

#pragma GCC unroll 16
	for (; n >= 4 * sizeof(wide); w += 4, n -= 4 * sizeof(wide)) {
		a += w[0];
		b += w[1];
		c += w[2];
		d += w[3];
	}
	for (p = (const uint8_t *)w; n; p++, n--)
		sum += *p;
	a += b + c + d;
	return sum + a[0] + a[1] + a[2] + a[3];
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static void fill_avx2(uint8_t *p, size_t n, uint8_t byte)
{
	fill_wide(p, n, byte);
}

__attribute__((target("avx2"))) static uint64_t sum_avx2(const uint8_t *p, size_t n)
{
	return sum_wide(p, n);
}
#endif

static void touch_write(struct message_job *m)
{
	uint8_t byte = m->data[0] + 1;

#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2")) {
		fill_avx2(m->data, m->size, byte);
		return;
	}
#endif
	fill_wide(m->data, m->size, byte);
}

static void touch_read(const uint8_t *p, size_t n)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2")) {
		sink += sum_avx2(p, n);
		return;
	}
#endif
	sink += sum_wide(p, n);
}

static size_t part(size_t size, size_t offset, size_t chunk)
{
	return size - offset < chunk ? size - offset : chunk;
}

static int send_all(struct end *e, const uint8_t *data, size_t size)
{
	size_t offset = 0, n;
	int r;

	do {
		n = part(size, offset, e->chunk);
		r = e->transport->send(e, data + offset, n);
		if (r < 0)
			return r;
		offset += n;
	} while (offset < size);
	return 0;
}

static int recv_all(struct end *e, size_t size)
{
	size_t offset = 0, n;
	int r;

	do {
		n = part(size, offset, e->chunk);
		r = e->transport->recv(e, offset, n);
		if (r < 0)
			return r;
		offset += n;
	} while (offset < size);
	return 0;
}

static void message_close(struct job *j)
{
	struct message_job *m = (struct message_job *)j;

	if (m->child > 0) {
		kill(m->child, SIGKILL);
		waitpid(m->child, NULL, 0);
	}
	if (m->hog)
		hog_stop(m->hog);
	if (m->mine)
		m->mine->transport->close(m->mine);
	if (m->other)
		m->other->transport->close(m->other);
	if (m->data && m->alloc)
		munmap(m->data, m->alloc);
	for (int i = 0; i < 2; i++)
		if (m->ack[i] >= 0)
			close(m->ack[i]);
	free(m);
}

static int message_new(struct message_job **out, const struct transport *t, size_t size,
		       bool touch, bool alone)
{
	struct message_job *m;
	int r;

	if (!size && t->no_empty)
		size = 1;

	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->job.close = message_close;
	m->size = size;
	m->touch = touch;
	m->alloc = size ? size : 1;
	m->ack[0] = m->ack[1] = -1;
	r = t->open(&m->mine, &m->other, size, alone);
	if (r < 0)
		goto fail;
	if (t->memory)
		m->alloc = 0;	/* it is the end's */
	m->data = t->memory ? t->memory(m->mine) :
		  mmap(NULL, m->alloc, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m->data == MAP_FAILED) {
		m->data = NULL;
		r = -errno;
		goto fail;
	}
	m->job.chunk = part(size, 0, m->mine->chunk);
	*out = m;
	return 0;

fail:
	message_close(&m->job);
	return r;
}

/* send and receive in one thread */

static int sendrecv_round(struct message_job *m)
{
	size_t offset = 0, n;
	int r;

	if (m->touch)
		touch_write(m);
	do {
		n = part(m->size, offset, m->mine->chunk);
		r = m->mine->transport->send(m->mine, m->data + offset, n);
		if (r < 0)
			return r;
		r = m->other->transport->recv(m->other, offset, n);
		if (r < 0)
			return r;
		offset += n;
	} while (offset < m->size);
	if (m->touch)
		touch_read(m->other->data, m->size);
	return 0;
}

static int sendrecv_run(struct job *j, unsigned long n)
{
	struct message_job *m = (struct message_job *)j;
	int r = 0;

	while (n-- && r == 0)
		r = sendrecv_round(m);
	return r;
}

static int sendrecv_verify(struct job *j)
{
	struct message_job *m = (struct message_job *)j;
	bool touch = m->touch;

	/* Twice: the second must not show the bytes of the first. */
	m->touch = false;
	for (uint64_t seed = 0xb1; seed < 0xb3; seed++) {
		int r;

		pattern_fill(m->data, m->size, seed);
		r = sendrecv_round(m);
		if (r < 0)
			return r;
		if (!pattern_matches(m->other->data, m->size, seed))
			return -EBADMSG;
	}
	m->touch = touch;
	return 0;
}

int job_sendrecv(struct job **out, const struct transport *t, size_t size, unsigned int how)
{
	struct message_job *m;
	int r;

	r = message_new(&m, t, size, how & MESSAGE_TOUCH, true);
	if (r < 0)
		return r;
	m->job.run = sendrecv_run;
	m->job.verify = sendrecv_verify;
	r = t->attach(m->mine);
	if (r == 0)
		r = t->attach(m->other);
	if (r < 0) {
		m->job.close(&m->job);
		return r;
	}
	*out = &m->job;
	return 0;
}

/* round trip between two processes */

#define SEED_THERE 0xb1
#define SEED_BACK 0xb4

static int there_and_back(struct message_job *m)
{
	int r = send_all(m->mine, m->data, m->size);

	return r < 0 ? r : recv_all(m->mine, m->size);
}

static int roundtrip_run(struct job *j, unsigned long n)
{
	struct message_job *m = (struct message_job *)j;
	int r;

	while (n--) {
		if (m->touch)
			touch_write(m);
		r = there_and_back(m);
		if (r < 0)
			return r;
		if (m->touch)
			touch_read(m->mine->data, m->size);
	}
	return 0;
}

/* A payload has come to the other process, and is answered. The first must be the pattern. */
static int roundtrip_got(void *job)
{
	struct message_job *m = job;

	if (m->received++ == 0)
		return pattern_matches(m->mine->data, m->size, SEED_THERE) ? 1 : -EBADMSG;
	if (m->touch) {
		touch_read(m->mine->data, m->size);
		touch_write(m);
	}
	return 1;
}

/* Forever. */
static int answer(struct message_job *m, int (*got)(void *job))
{
	int r;

	pattern_fill(m->data, m->size, SEED_BACK);
	if (m->mine->transport->serve)
		return m->mine->transport->serve(m->mine, m->size, got, m, m->data);
	do {
		r = recv_all(m->mine, m->size);
		if (r == 0)
			r = got(m);
		if (r > 0)
			r = send_all(m->mine, m->data, m->size);
	} while (r == 0);
	return r;
}

static int roundtrip_verify(struct job *j)
{
	struct message_job *m = (struct message_job *)j;
	int r;

	pattern_fill(m->data, m->size, SEED_THERE);
	r = there_and_back(m);
	if (r < 0)
		return r;
	return pattern_matches(m->mine->data, m->size, SEED_BACK) ? 0 : -EBADMSG;
}

/* What the hog executes meanwhile is no part of a round trip, where that is known. */
static int roundtrip_run_hogged(struct job *j, unsigned long n)
{
	struct message_job *m = (struct message_job *)j;
	uint64_t before = hog_instructions(m->hog);
	int r = roundtrip_run(j, n);

	j->uncounted += hog_instructions(m->hog) - before;
	return r;
}

/* one way between two processes */

/* The other process has received it, and says so after each ONEWAY_BURST. The first of all are the pattern. */
static int oneway_got(void *job)
{
	struct message_job *m = job;

	if (m->received < ONEWAY_BURST && !pattern_matches(m->mine->data, m->size, SEED_THERE))
		return -EBADMSG;
	if (++m->received % ONEWAY_BURST == 0 && write(m->ack[1], "", 1) != 1)
		return -errno;
	return 0;
}

static int oneway_run(struct job *j, unsigned long n)
{
	struct message_job *m = (struct message_job *)j;
	const struct transport *t = m->mine->transport;
	int (*push)(struct end *e, const void *data, size_t len) = t->push ?: t->send;
	char c;
	int r;

	while (n--) {
		for (int i = 0; i < ONEWAY_BURST; i++) {
			r = push(m->mine, m->data, m->size);
			if (r < 0)
				return r;
		}
		if (read(m->ack[0], &c, 1) != 1)
			return -ECHILD;
	}
	return 0;
}

static int oneway_verify(struct job *j)
{
	struct message_job *m = (struct message_job *)j;

	pattern_fill(m->data, m->size, SEED_THERE);
	return oneway_run(j, 1);
}

/* Where each of the two runs: 0 is whoever asks, 1 who answers. */
static int place(unsigned int how, int which)
{
	if (how & MESSAGE_APART)
		return cpu_pin(which);
	if (how & MESSAGE_TWO)
		return cpu_begin(which);
	return 0;
}

static void child_main(struct message_job *m, pid_t parent, int ready, unsigned int how, int (*got)(void *job))
{
	struct end *end = m->other;
	int r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	m->mine->transport->close(m->mine);
	m->mine = end;
	r = place(how, 1);
	if (r == 0)
		r = end->transport->attach(end);
	if (r == 0 && write(ready, "", 1) != 1)
		r = -errno;
	close(ready);
	if (r == 0)
		r = answer(m, got);
	fprintf(stderr, "bus1-bench: %s, the other process: %s\n", end->transport->name,
		strerror(-r));
	_exit(1);
}

static void two_close(struct job *j)
{
	message_close(j);
	cpu_pin(0);
}

/* A job of two processes, of which the other does got() with each payload; run() and verify() are to be set. */
static int two_new(struct message_job **out, const struct transport *t, size_t size, unsigned int how,
		   int (*got)(void *job))
{
	bool acks = got == oneway_got;
	struct message_job *m;
	pid_t parent = getpid();
	int ready[2], r;
	char c;

	if (how & (MESSAGE_TWO | MESSAGE_APART)) {
		if (!cpu_two())
			return absent("it may run on one CPU only");
		/* What the transport starts may run on both. */
		cpu_begin(0);
	}
	r = message_new(&m, t, size, how & MESSAGE_TOUCH, false);
	if (r < 0) {
		cpu_pin(0);
		return r;
	}
	m->job.close = two_close;

	if ((acks && pipe(m->ack) < 0) || pipe(ready) < 0) {
		r = -errno;
		goto fail;
	}
	fflush(NULL);
	m->child = fork();
	if (m->child == 0)
		child_main(m, parent, ready[1], how, got);
	r = m->child < 0 ? -errno : 0;
	close(ready[1]);
	if (acks) {
		close(m->ack[1]);
		m->ack[1] = -1;
	}
	if (r == 0) {
		m->other->transport->close(m->other);
		m->other = NULL;
		r = t->attach(m->mine);
	}
	if (r == 0 && read(ready[0], &c, 1) != 1)
		r = -ECHILD;
	close(ready[0]);
	if (r == 0)
		r = place(how, 0);
	if (r == 0 && how & MESSAGE_HOG)
		r = hog_start(&m->hog);
	if (r < 0)
		goto fail;
	*out = m;
	return 0;

fail:
	m->job.close(&m->job);
	return r;
}

int job_roundtrip(struct job **out, const struct transport *t, size_t size, unsigned int how)
{
	struct message_job *m;
	int r = two_new(&m, t, size, how, roundtrip_got);

	if (r < 0)
		return r;
	m->job.run = m->hog ? roundtrip_run_hogged : roundtrip_run;
	m->job.verify = roundtrip_verify;
	*out = &m->job;
	return 0;
}

int job_oneway(struct job **out, const struct transport *t, size_t size, unsigned int how)
{
	struct message_job *m;
	int r = two_new(&m, t, size, how, oneway_got);

	if (r < 0)
		return r;
	m->job.run = oneway_run;
	m->job.verify = oneway_verify;
	m->job.parts = ONEWAY_BURST;
	*out = &m->job;
	return 0;
}
