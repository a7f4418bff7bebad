// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ORD-1 by the classic shapes of two threads that start at the same time, here
 * with what bus1 has in place of writes (something is told to somebody) and of
 * reads (a look at one's own queue). Both results of each look are allowed;
 * some pairs of results are not:
 *
 *	SB	A: tell B, look		B: tell A, look		nobody saw anything
 *	R	A: tell B, tell C	B: tell C, look		B saw nothing, and C
 *								A's before B's
 *	S	A: tell C, tell B	B: look, tell C		B saw it, and C B's
 *								before A's
 *
 * In ISA2 word goes on over two links of different kinds. (MP and WRC are the
 * pairs of pairs.c.)
 */
#include "stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum duel_kind { SB, R, S, N_DUELS };

static const char *const duel_names[N_DUELS] = { "SB", "R", "S" };

/* A's first, A's second, B's. */
enum { A1, A2, B1, N_STREAMS };
enum { EAR_A = ACTOR, EAR_B = ACTOR + 1, BY_A = ACTOR + 2, BY_B = ACTOR + 3 };

struct duel {
	struct stage *w;
	enum duel_kind kind;
	bool broken;
	unsigned int batches, flip;
	pthread_barrier_t barrier;
	struct stream *streams;
	u32 ready[2];
	u64 dawdle[2];
	bool saw[2][LITMUS_BATCH];
	u32 at_c[N_STREAMS][LITMUS_BATCH];
	u64 outcomes[2][2];
};

struct duellist {
	struct duel *d;
	unsigned int i;
	u64 rng;
	u32 last;			/* that was seen, and 1 */
};

static void begin_together(struct duellist *x, u32 k)
{
	struct duel *d = x->d;

	__atomic_store_n(&d->ready[x->i], k + 1, __ATOMIC_SEQ_CST);
	for (unsigned int i = 1; __atomic_load_n(&d->ready[!x->i], __ATOMIC_SEQ_CST) <= k; i++)
		if (i % 64 == 0)
			nap(i / 64);
	if (d->dawdle[x->i])
		spin(rnd(&x->rng) & d->dawdle[x->i]);
}

/* Whether round k's has come: what came earlier is forgotten, and nothing may be lost. */
static void look(struct duellist *x, u32 k)
{
	struct duel *d = x->d;
	int ear = x->i ? EAR_B : EAR_A;
	struct stream *s = &d->streams[x->i ? (d->kind == S ? A2 : A1) : B1];
	u32 n = inbox_recv(&d->w->in[ear], false), got;

	for (u32 i = 0; i < n; i++) {
		CHECK(stream_has(s, d->w, ear, &d->w->in[ear].msgs[i], x->last, &got));
		EQ(got, x->last);
		x->last++;
	}
	d->saw[x->i][k] = x->last > k;
}

static void tell(struct duellist *x, int stream, u32 k)
{
	stream_do(x->d->w, &x->d->streams[stream], k, &x->rng);
}

/* The steps of one in a round; in a broken duel two of them are swapped. */
static void duel_round(struct duellist *x, u32 k)
{
	struct duel *d = x->d;
	bool first = !d->broken;

	if (d->kind == S && !x->i) {
		tell(x, first ? A1 : A2, k);
		tell(x, first ? A2 : A1, k);
	} else if (d->kind == S) {
		look(x, k);
		tell(x, B1, k);
	} else if (d->kind == R && !x->i) {
		tell(x, A1, k);
		tell(x, A2, k);
	} else {
		if (d->broken)
			look(x, k);
		tell(x, x->i ? B1 : A1, k);
		if (!d->broken)
			look(x, k);
	}
}

static void take_part(struct duellist *x)
{
	test_pin(x->i + x->d->flip);
	x->last = 0;
	for (u32 k = 0; k < LITMUS_BATCH; k++) {
		begin_together(x, k);
		duel_round(x, k);
	}
}

static void other_duellist(void *arg)
{
	struct duellist *x = arg;

	for (unsigned int b = 0; b < x->d->batches; b++) {
		pthread_barrier_wait(&x->d->barrier);
		take_part(x);
		pthread_barrier_wait(&x->d->barrier);
	}
}

static void add_stream(struct duel *d, int which, int by, int told, u64 *rng)
{
	struct stream *s = &d->streams[which];

	s->kind = rnd(rng) % MEMORY;
	s->tag = (u64)which;
	s->n = LITMUS_BATCH;
	s->by = by;
	s->len = 8;
	s->copies = 1 + rnd(rng) % 4;
	memset(s->told, 0, sizeof(s->told));
	s->told[told] = true;
	s->told[IDLE] = s->kind != MESSAGE && rnd(rng) & 1;
	/* Those of the last batch are of another peer, perhaps. */
	memset(s->nodes, 0, sizeof(s->nodes));
	stream_prepare(d->w, s, rnd(rng) & 1);
}

static void prepare(struct duel *d, u64 *rng)
{
	d->flip = rnd(rng) & 1;
	for (int i = 0; i < 2; i++) {
		d->ready[i] = 0;
		d->dawdle[i] = rnd(rng) & 1 ? 0 : 1023 >> rnd(rng) % 6;
	}
	for (int i = 0; i < N_STREAMS; i++)
		d->streams[i].n = 0;
	add_stream(d, A1, BY_A, d->kind == S ? OBSERVER : EAR_B, rng);
	if (d->kind != SB)
		add_stream(d, A2, BY_A, d->kind == S ? EAR_B : OBSERVER, rng);
	add_stream(d, B1, BY_B, d->kind == SB ? EAR_A : OBSERVER, rng);
}

/* In which order C has got it all. */
static void receive_c(struct duel *d)
{
	struct inbox *in = &d->w->in[OBSERVER];
	u32 next[N_STREAMS] = {}, at = 0, n;

	while ((n = inbox_recv(in, false)))
		for (u32 i = 0; i < n; i++)
			for (int s = 0; s < N_STREAMS; s++) {
				u32 k;

				if (!d->streams[s].n ||
				    !stream_has(&d->streams[s], d->w, OBSERVER, &in->msgs[i],
						next[s], &k))
					continue;
				EQ(k, next[s]);
				next[s]++;
				d->at_c[s][k] = at++;
				break;
			}
	if (d->kind != SB)
		EQ(at, 2 * LITMUS_BATCH);
}

/* The two results of a round. The forbidden one is the first of each. */
static void judge(struct duel *d)
{
	for (u32 k = 0; k < LITMUS_BATCH; k++) {
		bool a, b;

		switch (d->kind) {
		case SB:
			a = d->saw[0][k];
			b = d->saw[1][k];
			break;
		case R:
			a = d->saw[1][k];
			b = d->at_c[B1][k] < d->at_c[A2][k];
			break;
		default:
			a = !d->saw[1][k];
			b = d->at_c[A1][k] < d->at_c[B1][k];
			break;
		}
		d->outcomes[a][b]++;
		if (!a && !b && !d->broken)
			FAIL("forbidden: %s, round %u: %s, %s, %s (seed %llu)", duel_names[d->kind],
			     k, kind_names[d->streams[A1].kind], kind_names[d->streams[A2].kind],
			     kind_names[d->streams[B1].kind], (unsigned long long)litmus_seed());
	}
}

/* What was told and not looked at any more; and what is left of the streams. */
static void finish(struct duel *d)
{
	for (int i = 0; i < N_STREAMS; i++)
		stream_finish(d->w, &d->streams[i]);
	for (int p = 0; p < N_PEERS; p++) {
		while (inbox_recv(&d->w->in[p], false))
			;
		for (int i = 0; i < N_STREAMS; i++)
			if (d->streams[i].n && d->streams[i].kind == UNUSED && d->streams[i].told[p])
				OK(ids_cmd(&d->w->in[p].peer, BUS1_CMD_NODE_DESTROY, 0,
					   d->streams[i].nodes[p], LITMUS_BATCH));
	}
}

/* How many were forbidden. */
static u64 duel(enum duel_kind kind, bool broken, unsigned int rounds)
{
	struct duel d = {
		.w = stage_get(), .kind = kind, .broken = broken,
		.batches = (rounds + LITMUS_BATCH - 1) / LITMUS_BATCH,
		.streams = calloc(N_STREAMS, sizeof(*d.streams)),
	};
	static u64 turn;
	u64 rng = litmus_seed() + kind + 8 * turn++;
	struct duellist x[2] = { { &d, 0, rnd(&rng), 0 }, { &d, 1, rnd(&rng), 0 } };
	struct test_thread thread;

	EQ(pthread_barrier_init(&d.barrier, NULL, 2), 0);
	test_start(&thread, other_duellist, &x[1]);
	for (unsigned int b = 0; b < d.batches; b++) {
		prepare(&d, &rng);
		pthread_barrier_wait(&d.barrier);
		take_part(&x[0]);
		pthread_barrier_wait(&d.barrier);
		receive_c(&d);
		judge(&d);
		finish(&d);
	}
	test_join(&thread);
	printf("# %s%s: %u rounds, %llu forbidden, allowed %llu %llu %llu (seed %llu)\n",
	       broken ? "broken " : "", duel_names[kind], d.batches * LITMUS_BATCH,
	       (unsigned long long)d.outcomes[0][0], (unsigned long long)d.outcomes[0][1],
	       (unsigned long long)d.outcomes[1][0], (unsigned long long)d.outcomes[1][1],
	       (unsigned long long)litmus_seed());
	fflush(stdout);
	free(d.streams);
	if (broken)
		return d.outcomes[0][0];
	EQ(d.outcomes[0][0], 0);
	GT(d.outcomes[0][1], 0);
	GT(d.outcomes[1][0], 0);
	GT(d.outcomes[1][1], 0);
	litmus_total_add(d.batches * LITMUS_BATCH);
	return 0;
}

enum { ROUNDS = 32 * 1024, TRIES = 64 };

TEST_TIMEOUT("ORD-1 litmus, SB, both tell and look", 120) { duel(SB, false, test_rounds(ROUNDS)); }
TEST_TIMEOUT("ORD-1 litmus, R, both tell, one looks", 120) { duel(R, false, test_rounds(ROUNDS)); }
TEST_TIMEOUT("ORD-1 litmus, S, one looks and tells", 120) { duel(S, false, test_rounds(ROUNDS)); }

TEST_TIMEOUT("ORD-1 litmus, broken SB, R and S are noticed", 120)
{
	for (enum duel_kind kind = 0; kind < N_DUELS; kind++) {
		unsigned int tries = 0;

		while (!duel(kind, true, LITMUS_BATCH))
			LT(++tries, TRIES);
	}
}

TEST("ORD-1 litmus, ISA2, word going on over two links")
{
	int turns = test_slow() > 1 ? 1 : 2;
	struct seen seen = {};
	unsigned int i = 0;

	for (enum link first = BY_MEMORY; first < N_LINKS; first++)
		for (enum link second = BY_MEMORY; second < BY_RECEPTION; second++)
			for (int turn = 0; turn < turns; turn++, i++) {
				struct shape shape = {
					.cause = first == BY_RECEPTION ? MULTICAST + i % 3 : i % 4,
					.effect = i / 3 % 4, .link = { first, second }, .n_links = 2,
				};

				litmus(&shape, test_rounds(1024), &seen);
			}
	seen_print("ISA2", &seen);
	EQ(seen.forbidden, 0);
	GT(seen.apart, 0);
	GT(seen.joint, 0);
	GT(seen.overlap, 0);
	litmus_total_add(seen.rounds);
}
