// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ORD-1, 2, 3 by a weave: two threads, one on each processor, go in steps. In
 * each both do something at the same time, tell each other that it is done, and
 * go on when they heard. So what is done in a step is caused by both things of
 * the step before, the own one directly and the other's by a link, and is
 * independent of what the other does in the same step.
 *
 * A round here is: one thing done, one of its two causes, one of two observers
 * that get both. Things cost, on a kernel with checks, and each is in several
 * rounds; none of these follows from the others.
 */
#include "stage.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = LITMUS_BATCH, THREADS = 2 };

/* Those of bus1. */
#define KINDS MEMORY

struct weave {
	struct stage *w;
	bool early;			/* broken: tell, then do */
	u64 sleep;			/* one in so many waits is asleep; 0: none */
	unsigned int batches;		/* that are done */
	bool over;			/* written before the first barrier of a batch */
	pthread_barrier_t barrier;
	struct stream *streams;		/* [THREADS][KINDS] */

	/* The plan of a batch. */
	enum kind kind[THREADS][STEPS];
	enum link link[THREADS][STEPS];
	u32 at[THREADS][STEPS];		/* which of its stream */
	u32 step_of[THREADS][KINDS][STEPS];
	struct channel channel[THREADS][N_KINDS];	/* to the other thread */
	unsigned int flip;
	u64 dawdle[THREADS];

	/* What the observers saw. Who has `looking` of one may look from it. */
	bool looking[THREADS];
	u32 seen[THREADS][THREADS][STEPS];	/* when, from 1; 0: not yet */
	u32 next[THREADS][THREADS][KINDS];
	u32 n_seen[THREADS], n_to_see[THREADS];
	struct seen sum[THREADS];
	u64 cells[THREADS][KINDS][KINDS][N_LINKS];
	u64 first[THREADS], differ;
};

struct weaver {
	struct weave *v;
	unsigned int t;
	u64 rng;
	u32 ear;			/* items too many: the other may be a step ahead */
};

static struct stream *stream_of(struct weave *v, unsigned int t, enum kind kind)
{
	return &v->streams[t * KINDS + kind];
}

static bool is_told(struct weave *v, unsigned int t, u32 step, unsigned int o)
{
	return stream_of(v, t, v->kind[t][step])->told[OBSERVER + (int)o];
}

static void verdict(struct weave *v, unsigned int o, unsigned int t, u32 step, unsigned int by,
		    u32 cause_step)
{
	struct seen *sum = &v->sum[o];
	enum link link = by == t ? DIRECT : v->link[by][cause_step];

	sum->rounds++;
	v->cells[o][v->kind[by][cause_step]][v->kind[t][step]][link]++;
	if (v->seen[o][by][cause_step])
		return;
	sum->forbidden++;
	if (!v->early)
		FAIL("forbidden: step %u, observer %u: %s by %u is here and %s of step %u by %u, "
		     "its cause %s, is not (seed %llu)", step, o, kind_names[v->kind[t][step]], t,
		     kind_names[v->kind[by][cause_step]], cause_step, by, link_names[link],
		     (unsigned long long)litmus_seed());
}

/* Where the last step told this observer nothing, the one before it is the cause. */
static void see(struct weave *v, unsigned int o, unsigned int t, u32 step)
{
	CHECK(!v->seen[o][t][step]);
	for (unsigned int by = 0; by < THREADS; by++) {
		if (step >= 1 && is_told(v, by, step - 1, o))
			verdict(v, o, t, step, by, step - 1);
		else if (step >= 2 && is_told(v, by, step - 2, o))
			verdict(v, o, t, step, by, step - 2);
	}
	v->seen[o][t][step] = v->n_seen[o] + 1;
	__atomic_store_n(&v->n_seen[o], v->n_seen[o] + 1, __ATOMIC_RELEASE);
}

static void see_item(struct weave *v, unsigned int o, const struct bus1_msg *m)
{
	u32 k;

	for (unsigned int t = 0; t < THREADS; t++)
		for (enum kind kind = 0; kind < KINDS; kind++) {
			struct stream *s = stream_of(v, t, kind);

			if (!s->n || !stream_has(s, v->w, OBSERVER + (int)o, m,
						 v->next[o][t][kind], &k))
				continue;
			v->next[o][t][kind] = k + 1;
			see(v, o, t, v->step_of[t][kind][k]);
			return;
		}
	FAIL("an item of type %u that nobody sent", m->type);
}

static u64 progress_of(struct weave *v, unsigned int t)
{
	u64 sum = 0;

	for (enum kind kind = 0; kind < KINDS; kind++)
		sum += __atomic_load_n(&stream_of(v, t, kind)->progress, __ATOMIC_SEQ_CST);
	return sum;
}

static void observe_from(struct weaver *x, unsigned int o)
{
	struct weave *v = x->v;
	struct seen *sum = &v->sum[o];
	struct inbox *in = &v->w->in[OBSERVER + (int)o];
	bool census = rnd(&x->rng) % 8 == 0;
	u32 n_queued = census ? peer_info(&in->peer).n_queued : 0, n;
	u64 before = progress_of(v, !x->t);

	n = inbox_recv(in, false);
	if (progress_of(v, !x->t) != before || before & 1)
		sum->overlap++;
	if (n < n_queued && n < BUS1_MAX_MSGS) {
		sum->hidden++;
		sum->skipped += n > 0;
	}
	for (u32 i = 0; i < n; i++)
		see_item(v, o, &in->msgs[i]);
}

/* From both, unless the other thread does: who has time receives, which costs most. */
static void observe(struct weaver *x)
{
	for (unsigned int i = 0; i < THREADS; i++) {
		unsigned int o = x->t ^ i;

		if (__atomic_test_and_set(&x->v->looking[o], __ATOMIC_ACQUIRE))
			continue;
		observe_from(x, o);
		__atomic_clear(&x->v->looking[o], __ATOMIC_RELEASE);
	}
}

static bool all_seen(struct weave *v)
{
	for (unsigned int o = 0; o < THREADS; o++)
		if (__atomic_load_n(&v->n_seen[o], __ATOMIC_ACQUIRE) < v->n_to_see[o])
			return false;
	return true;
}

static enum kind channel_of(enum link link)
{
	return link == BY_PIPE ? PIPE : link == BY_FUTEX ? FUTEX : MEMORY;
}

static void tell(struct weave *v, unsigned int t, u32 step)
{
	int me = ACTOR + 2 * (int)t, other = ACTOR + 2 * (int)!t;
	enum link link = v->link[t][step];

	if (link == BY_MESSAGE)
		OK(send_data(&v->w->in[me].peer, v->w->to[me][other], NULL, 0));
	else if (link != BY_RECEPTION)
		channel_tell(&v->channel[t][channel_of(link)], channel_of(link), step + 1);
}

/* Looks at the own observer meanwhile: at what the other is about to do. */
static void hear(struct weaver *x, u32 step)
{
	struct weave *v = x->v;
	unsigned int other = !x->t;
	enum link link = v->link[other][step];
	enum kind how = channel_of(link);
	struct channel *c = &v->channel[other][how];
	bool wait = v->sleep && rnd(&x->rng) % v->sleep == 0;

	for (unsigned int i = 0;; i++) {
		if (link == BY_MESSAGE || link == BY_RECEPTION) {
			if (!x->ear)
				x->ear = inbox_recv(&v->w->in[ACTOR + 2 * (int)x->t], wait);
			LE(x->ear, 2);
			if (x->ear && x->ear--)
				return;
		} else if (how == PIPE) {
			u32 heard = c->heard;

			if (channel_hear(c, how, wait, true) > heard)
				return;
		} else if (c->heard > step || channel_hear(c, how, wait, true) > step) {
			return;
		}
		if (i % 4 == 0)
			observe(x);
		nap(i);
	}
}

static void weave_steps(struct weaver *x)
{
	struct weave *v = x->v;
	unsigned int t = x->t;

	for (u32 step = 0; step < STEPS; step++) {
		struct stream *s = stream_of(v, t, v->kind[t][step]);

		if (v->dawdle[t])
			spin(rnd(&x->rng) & v->dawdle[t]);
		if (v->early) {
			tell(v, t, step);
			spin(rnd(&x->rng) & 2047);
		}
		stream_do(v->w, s, v->at[t][step], &x->rng);
		if (!v->early)
			tell(v, t, step);
		if (rnd(&x->rng) & 1)
			observe(x);
		hear(x, step);
		if (rnd(&x->rng) & 1)
			observe(x);
	}
	for (unsigned int i = 0; !all_seen(v); i++) {
		observe(x);
		nap(i);
	}
}

/* Mostly what is cheap: allocating costs most by far where that is checked. */
static void plan(struct weave *v, u64 *rng)
{
	static const enum kind often[] = {
		MESSAGE, MESSAGE, MESSAGE, MESSAGE, MESSAGE, MESSAGE, MESSAGE, MESSAGE,
		MESSAGE, MESSAGE, MESSAGE, MESSAGE, MULTICAST, MULTICAST, DEAD, UNUSED,
	};
	static const enum link links[] = {
		BY_MEMORY, BY_MEMORY, BY_MEMORY, BY_PIPE, BY_PIPE, BY_FUTEX, BY_FUTEX, BY_MESSAGE,
	};

	memset(v->seen, 0, sizeof(v->seen));
	memset(v->next, 0, sizeof(v->next));
	memset(v->n_seen, 0, sizeof(v->n_seen));
	memset(v->n_to_see, 0, sizeof(v->n_to_see));
	v->flip = rnd(rng) & 1;
	for (unsigned int t = 0; t < THREADS; t++) {
		v->dawdle[t] = rnd(rng) & 1 ? 0 : 255 >> rnd(rng) % 5;
		for (enum kind how = MEMORY; how < N_KINDS; how++)
			v->channel[t][how].word = v->channel[t][how].heard = 0;
		for (enum kind kind = 0; kind < KINDS; kind++) {
			struct stream *s = stream_of(v, t, kind);

			s->n = 0;
			s->by = ACTOR + 2 * (int)t + (int)(rnd(rng) & 1);
			s->len = rnd(rng) % 8 ? 8 : 200;
			s->told[OBSERVER + 1] = kind == MULTICAST || (kind && rnd(rng) % 4 == 0);
			s->told[IDLE] = kind == MULTICAST && rnd(rng) % 4 == 0;
			s->copies = 1 + rnd(rng) % 4;
			/* By reception: to the one that the other thread has its ear at. */
			s->told[ACTOR + 2 * (int)!t] = kind && !v->early && rnd(rng) % 6 == 0;
		}
		for (u32 step = 0; step < STEPS; step++) {
			enum kind kind = often[rnd(rng) % ARRAY_SIZE(often)];
			struct stream *s = stream_of(v, t, kind);

			v->kind[t][step] = kind;
			v->link[t][step] = s->told[ACTOR + 2 * (int)!t] ?
				BY_RECEPTION : links[rnd(rng) % ARRAY_SIZE(links)];
			v->step_of[t][kind][s->n] = step;
			v->at[t][step] = s->n++;
			for (unsigned int o = 0; o < THREADS; o++)
				v->n_to_see[o] += is_told(v, t, step, o);
		}
	}
}

/* In which order what was done at the same time was seen. Ends the multicasts, too. */
static void compare(struct weave *v)
{
	for (unsigned int t = 0; t < THREADS; t++)
		stream_finish(v->w, stream_of(v, t, MULTICAST));
	for (u32 step = 0; step < STEPS; step++) {
		bool first[THREADS] = {}, both = true;

		for (unsigned int o = 0; o < THREADS; o++) {
			if (!is_told(v, 0, step, o) || !is_told(v, 1, step, o)) {
				both = false;
				continue;
			}
			first[o] = v->seen[o][1][step] < v->seen[o][0][step];
			v->first[first[o]]++;
		}
		v->differ += both && first[0] != first[1];
	}
}

/* Each thread makes and ends what it needs itself, as that takes as long as the rest. False: there is none. */
static bool weave_batch(struct weaver *x)
{
	struct weave *v = x->v;

	pthread_barrier_wait(&v->barrier);
	if (v->over)
		return false;
	test_pin(x->t + v->flip);
	for (enum kind kind = 0; kind < KINDS; kind++)
		stream_prepare(v->w, stream_of(v, x->t, kind), rnd(&x->rng) & 1);
	pthread_barrier_wait(&v->barrier);
	weave_steps(x);
	pthread_barrier_wait(&v->barrier);
	for (enum kind kind = 0; kind < KINDS; kind++)
		if (kind != MULTICAST)
			stream_finish(v->w, stream_of(v, x->t, kind));
	pthread_barrier_wait(&v->barrier);
	return true;
}

static void other_thread(void *arg)
{
	while (weave_batch(arg))
		;
}

/*
 * Who goes in step waits for whichever processor the host has taken away: on a busy one a step
 * takes ten times as long. So there is an end to it.
 */
static u64 latest_end(void)
{
	u64 seconds = test_slow() > 1 ? 150 : 60;

	return test_now() + seconds * 1000000000;
}

static struct weave *weave(unsigned int n, u64 sleep, bool early, u64 turn)
{
	struct weave *v = calloc(1, sizeof(*v));
	unsigned int batches = (n + STEPS - 1) / STEPS;
	u64 rng = litmus_seed() + turn, end = latest_end();
	struct weaver x[THREADS];
	struct test_thread thread;

	v->w = stage_get();
	v->sleep = sleep;
	v->early = early;
	v->streams = calloc(THREADS * KINDS, sizeof(*v->streams));
	for (unsigned int t = 0; t < THREADS; t++) {
		OK(SYS(pipe2(v->channel[t][PIPE].pipe, O_NONBLOCK | O_CLOEXEC)));
		for (enum kind kind = 0; kind < KINDS; kind++) {
			struct stream *s = stream_of(v, t, kind);

			s->kind = kind;
			s->tag = t * KINDS + kind;
			s->told[OBSERVER] = true;
		}
		x[t] = (struct weaver){ v, t, rnd(&rng), 0 };
	}
	EQ(pthread_barrier_init(&v->barrier, NULL, THREADS), 0);
	test_start(&thread, other_thread, &x[1]);
	for (;; v->batches++) {
		v->over = v->batches == batches || test_now() > end;
		if (!v->over)
			plan(v, &rng);
		if (!weave_batch(&x[0]))
			break;
		compare(v);
	}
	test_join(&thread);
	if (v->batches < batches)
		litmus_cut_short();
	seen_add(&v->sum[0], &v->sum[1]);
	return v;
}

static u64 cell(const struct weave *v, enum kind cause, enum kind effect, enum link link)
{
	return v->cells[0][cause][effect][link] + v->cells[1][cause][effect][link];
}

/*
 * Most rounds of a slow machine are had here. Where nothing is slow, more are
 * had from the pairs, as those who go in step suffer when the host is busy.
 */
enum { AWAKE = 24 * 1024, NAPPING = 6 * 1024, ASLEEP = 4 * 1024 };

/* Every pair by every link; and that what is independent came in both orders. */
static void weave_check(const char *name, unsigned int n, u64 sleep, u64 turn)
{
	struct weave *v = weave(n, sleep, false, turn);
	bool long_enough = v->batches * STEPS >= AWAKE;	/* for what is rare to be sure */

	for (enum kind c = 0; c < KINDS; c++)
		for (enum kind e = 0; e < KINDS; e++) {
			printf("# %s: %s then %s:", name, kind_names[c], kind_names[e]);
			for (enum link link = 0; link < N_LINKS; link++)
				printf(" %llu %s", (unsigned long long)cell(v, c, e, link),
				       link_names[link]);
			printf("\n");
			for (enum link link = 0; link < N_LINKS; link++)
				if (long_enough && (link != BY_RECEPTION || c != MESSAGE))
					GT(cell(v, c, e, link), 0);
		}
	seen_print(name, &v->sum[0]);
	printf("# %s: of independent ones %llu and %llu were first, %llu differently for two\n",
	       name, (unsigned long long)v->first[0], (unsigned long long)v->first[1],
	       (unsigned long long)v->differ);
	fflush(stdout);
	GT(v->first[0], 0);
	GT(v->first[1], 0);
	GT(v->sum[0].overlap, 0);
	if (long_enough)
		GT(v->sum[0].hidden, 0);
	litmus_total_add(v->sum[0].rounds);
}

static unsigned int steps(unsigned int n)
{
	return litmus_rounds(test_slow() > 1 ? 4 * n : n);
}

TEST_TIMEOUT("ORD-1 litmus, weave of all kinds, awake", 120)
{
	weave_check("weave, awake", steps(AWAKE), 0, 0);
}

TEST_TIMEOUT("ORD-1 litmus, weave of all kinds, awake again", 120)
{
	weave_check("weave, awake again", steps(AWAKE), 0, 1);
}

TEST_TIMEOUT("ORD-1 litmus, weave of all kinds, napping", 120)
{
	weave_check("weave, napping", steps(NAPPING), 8, 2);
}

TEST_TIMEOUT("ORD-1 litmus, weave of all kinds, asleep", 120)
{
	weave_check("weave, asleep", steps(ASLEEP), 1, 3);
}

TEST("ORD-1 litmus, a broken weave is noticed")
{
	struct weave *v = weave(8 * STEPS, 0, true, 4);

	seen_print("broken weave", &v->sum[0]);
	GT(v->sum[0].forbidden, 0);
}
