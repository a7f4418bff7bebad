// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Runs a shape: a thread for each actor that does not go on directly after
 * another, and for the observer. In each batch the dice decide who sits on
 * which processor, how long everybody dawdles, and where the observer looks
 * from: from a thread of its own, spinning or sleeping, or from that of an
 * actor between two steps, which no scheduler can delay.
 */
#include "stage.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAX_ACTORS = MAX_LINKS + 1, ALONE = MAX_ACTORS };

struct run {
	struct stage *w;
	const struct shape *shape;
	unsigned int n_actors, batches, threads;
	pthread_barrier_t barrier;
	struct channel links[MAX_LINKS];
	struct seen seen;

	/* Of this batch. */
	unsigned int flip, host;
	bool sleepy[MAX_ACTORS + 1];	/* waits in the kernel, not by looking */
	u64 dawdle[MAX_ACTORS + 1];	/* masks */
	u64 look;			/* mask: how often a host looks */
	bool census;			/* compare with what is queued */

	/* The observer's. */
	u32 causes, effects;
	u64 cause_call[LITMUS_BATCH], calls;
};

struct thread {
	struct run *r;
	unsigned int i;
	u64 rng;
};

static bool is_side(enum kind kind)
{
	return kind >= MEMORY;
}

/* The side channel that a link is, or MESSAGE. */
static enum kind link_kind(enum link link)
{
	static const enum kind kinds[N_LINKS] = {
		[BY_MEMORY] = MEMORY, [BY_PIPE] = PIPE, [BY_FUTEX] = FUTEX,
	};

	return kinds[link];
}

static void describe(const struct run *r, char *buf, size_t n)
{
	const struct shape *s = r->shape;

	snprintf(buf, n, "%s, %s, %s%s%s (%u of %u bytes, by %d, host %u, flip %u, %u copies; "
		 "%u of %u; seed %llu)",
		 kind_names[s->cause], link_names[s->link[0]],
		 s->n_links > 1 ? link_names[s->link[1]] : "", s->n_links > 1 ? ", " : "",
		 kind_names[s->effect], (unsigned int)r->w->cause.len,
		 (unsigned int)r->w->effect.len, r->w->effect.by, r->host, r->flip,
		 r->w->cause.copies, r->effects, r->causes, (unsigned long long)litmus_seed());
}

static void forbidden(struct run *r, const char *why, u32 k)
{
	char what[300];

	r->seen.forbidden++;
	if (r->shape->early)
		return;
	describe(r, what, sizeof(what));
	FAIL("forbidden: round %u, %s: %s", k, why, what);
}

static void see_effect(struct run *r, u32 k)
{
	r->seen.rounds++;
	if (k >= r->causes)
		forbidden(r, "the effect is here and the cause is not", k);
	else if (r->cause_call[k] == r->calls)
		r->seen.joint++;
	else
		r->seen.apart++;
	r->effects = k + 1;
}

static void see_cause(struct run *r, u32 k)
{
	if (k < LITMUS_BATCH)
		r->cause_call[k] = r->calls;
	r->causes = k + 1;
}

static void see_item(struct run *r, const struct bus1_msg *m)
{
	struct stage *w = r->w;
	u32 k;

	if (stream_has(&w->cause, w, OBSERVER, m, r->causes, &k)) {
		if (k != r->causes)
			forbidden(r, "a cause is out of order", k);
		see_cause(r, k);
	} else if (stream_has(&w->effect, w, OBSERVER, m, r->effects, &k)) {
		if (k != r->effects)
			forbidden(r, "an effect is out of order", k);
		see_effect(r, k);
	} else {
		FAIL("an item of type %u with id %llu that nobody sent", m->type,
		     (unsigned long long)m->id);
	}
}

static u64 progress_of(const struct stage *w)
{
	return __atomic_load_n(&w->cause.progress, __ATOMIC_SEQ_CST) << 32 |
	       __atomic_load_n(&w->effect.progress, __ATOMIC_SEQ_CST);
}

/*
 * One look. What is no business of bus1 is looked at in the order that has to
 * hold: as an effect before the receive, as a cause after it.
 */
static void observe(struct run *r, bool wait)
{
	struct stage *w = r->w;
	struct inbox *in = &w->in[OBSERVER];
	bool side = is_side(r->shape->effect);
	/* Causes in a side channel may be all that is missing, where the order is broken. */
	bool comes = !is_side(r->shape->cause) || r->effects < LITMUS_BATCH;
	u32 n, n_queued = 0, told = 0;
	u64 before, after;

	if (side)
		told = channel_hear(&w->effect.channel, r->shape->effect,
				    wait && r->effects < LITMUS_BATCH, true);
	if (r->census)
		n_queued = peer_info(&in->peer).n_queued;
	r->calls++;
	before = progress_of(w);
	n = inbox_recv(in, wait && !side && comes);
	after = progress_of(w);
	if (before != after || before & (1ULL << 32 | 1))
		r->seen.overlap++;
	if (n < n_queued && n < BUS1_MAX_MSGS) {
		r->seen.hidden++;
		r->seen.skipped += n > 0;
	}
	if (is_side(r->shape->cause)) {
		u32 causes = channel_hear(&w->cause.channel, r->shape->cause, false, false);

		while (r->causes < causes)
			see_cause(r, r->causes);
	}
	for (u32 i = 0; i < n; i++)
		see_item(r, &in->msgs[i]);
	/* Told of several at once: that is one verdict. */
	if (told > r->effects)
		see_effect(r, told - 1);
}

static bool complete(const struct run *r)
{
	return r->causes >= LITMUS_BATCH && r->effects >= LITMUS_BATCH;
}

static void dawdle(struct thread *t)
{
	u64 mask = t->r->dawdle[t->i];

	if (mask)
		spin(rnd(&t->rng) & mask);
}

static void look(struct thread *t)
{
	if (t->r->host == t->i && !(rnd(&t->rng) & t->r->look))
		observe(t->r, false);
}

static void act(struct thread *t, unsigned int i, u32 k);

static void pass_on(struct thread *t, unsigned int i, u32 k)
{
	struct run *r = t->r;
	u64 number = k;

	switch (r->shape->link[i]) {
	case DIRECT:
		act(t, i + 1, k);
		break;
	case BY_MESSAGE:
		OK(send_data(&r->w->in[i].peer, r->w->to[i][i + 1], &number, sizeof(number)));
		break;
	case BY_RECEPTION:
		break;
	default:
		channel_tell(&r->links[i], link_kind(r->shape->link[i]), k + 1);
		break;
	}
}

static void act_early(struct thread *t, u32 k)
{
	struct run *r = t->r;
	u64 delay = rnd(&t->rng) & 4095;

	if (r->shape->link[0] == BY_RECEPTION) {
		stream_do_by_hand(r->w, &r->w->cause, k, delay);
	} else {
		pass_on(t, 0, k);
		look(t);
		spin(delay);
		stream_do(r->w, &r->w->cause, k, &t->rng);
	}
}

static void act(struct thread *t, unsigned int i, u32 k)
{
	struct run *r = t->r;

	if (!i && r->shape->early) {
		act_early(t, k);
	} else if (!i) {
		stream_do(r->w, &r->w->cause, k, &t->rng);
		pass_on(t, 0, k);
	} else if (i < r->n_actors - 1) {
		pass_on(t, i, k);
	} else {
		stream_do(r->w, &r->w->effect, k, &t->rng);
	}
}

/* How many times the link before an actor was heard of. */
static u32 hear(struct run *r, unsigned int i)
{
	enum link link = r->shape->link[i - 1];
	struct channel *c = &r->links[i - 1];

	if (link == BY_MESSAGE || link == BY_RECEPTION)
		return c->heard += inbox_recv(&r->w->in[i], r->sleepy[i]);
	return channel_hear(c, link_kind(link), r->sleepy[i], false);
}

static void be_actor(struct thread *t)
{
	struct run *r = t->r;
	u32 k = 0, n;

	for (unsigned int idle = 1; k < LITMUS_BATCH; idle++) {
		n = t->i ? hear(r, t->i) : LITMUS_BATCH;
		for (; k < n; k++, idle = 0) {
			dawdle(t);
			act(t, t->i, k);
			look(t);
		}
		if (idle % 16 == 15) {
			look(t);
			sched_yield();
		}
		nap(idle);
	}
}

static void be_observer(struct thread *t)
{
	struct run *r = t->r;

	for (unsigned int i = 1; !complete(r); i++) {
		observe(r, r->host == ALONE && r->sleepy[ALONE]);
		if (r->host == ALONE)
			dawdle(t);
		if (i % 16 == 0)
			sched_yield();
		nap(i);
	}
}

/*
 * Neighbours in the chain are on different processors, and so are a lone actor
 * and the observer.
 */
static void take_part(struct thread *t)
{
	struct run *r = t->r;

	test_pin(r->flip + (t->i == ALONE ? r->threads - 1 : t->i));
	if (t->i != ALONE)
		be_actor(t);
	if (r->host == t->i)
		be_observer(t);
}

/* A mask for dawdling: mostly little, sometimes much. */
static u64 some_mask(u64 *rng)
{
	static const u64 masks[] = { 0, 0, 15, 63, 255, 1023 };

	return masks[rnd(rng) % ARRAY_SIZE(masks)];
}

static void prepare(struct run *r, u64 *rng)
{
	const struct shape *s = r->shape;
	struct stage *w = r->w;
	unsigned int last = r->n_actors - 1;
	bool others = rnd(rng) & 1;

	r->flip = rnd(rng) & 1;
	/* With one actor only a thread of its own sees anything in between. */
	r->host = r->threads == 2 ? ALONE : (unsigned int)(rnd(rng) % (r->n_actors + 1));
	if (r->host == r->n_actors || (r->host && s->link[r->host - 1] == DIRECT))
		r->host = ALONE;
	for (int i = 0; i <= MAX_ACTORS; i++) {
		r->sleepy[i] = rnd(rng) % 4 == 0;
		r->dawdle[i] = some_mask(rng);
	}
	/* Spinning beside two others would be for nothing. */
	r->sleepy[ALONE] |= r->threads > 2;
	r->look = rnd(rng) & 3;

	w->cause.kind = s->cause;
	w->effect.kind = s->effect;
	w->cause.by = ACTOR;
	w->effect.by = ACTOR + (int)last;
	if (s->link[0] == DIRECT && s->n_links == 1 && rnd(rng) & 1)
		w->effect.by = ACTOR;
	for (int e = 0; e < 2; e++) {
		struct stream *x = e ? &w->effect : &w->cause;

		memset(x->told, 0, sizeof(x->told));
		x->n = LITMUS_BATCH;
		x->told[OBSERVER] = true;
		x->told[ACTOR + 1] = !e && s->link[0] == BY_RECEPTION;
		x->told[IDLE] = x->kind != MESSAGE && others && !s->early;
		x->copies = rnd(rng) % 4 ? 1 : 1 + rnd(rng) % 12;
		x->len = rnd(rng) % 4 ? 8 : 200;
		stream_prepare(w, x, rnd(rng) & 1);
	}
	r->census = rnd(rng) % 4 == 0;
	for (unsigned int i = 0; i < MAX_LINKS; i++)
		r->links[i].word = r->links[i].heard = 0;
	r->causes = r->effects = 0;
}

static void finish(struct run *r)
{
	stream_finish(r->w, &r->w->cause);
	stream_finish(r->w, &r->w->effect);
	EQ(peer_info(&r->w->in[OBSERVER].peer).n_queued, 0);
}

static void thread_main(void *arg)
{
	struct thread *t = arg;
	struct run *r = t->r;

	for (unsigned int b = 0; b < r->batches; b++) {
		pthread_barrier_wait(&r->barrier);
		take_part(t);
		pthread_barrier_wait(&r->barrier);
	}
}

/* Whether an actor has a thread of its own; the first one's is the caller. */
static bool has_thread(const struct run *r, unsigned int i)
{
	return i == ALONE || (i && i < r->n_actors && r->shape->link[i - 1] != DIRECT);
}

void litmus(const struct shape *shape, unsigned int rounds, struct seen *sum)
{
	struct run r = {
		.w = stage_get(), .shape = shape, .n_actors = shape->n_links + 1, .threads = 1,
		.batches = (rounds + LITMUS_BATCH - 1) / LITMUS_BATCH,
	};
	static u64 turn;
	u64 rng = litmus_seed() + (u64)(shape->cause * N_KINDS + shape->effect) * 1000 + turn++;
	struct test_thread threads[MAX_ACTORS + 1];
	struct thread t[MAX_ACTORS + 1];

	for (unsigned int i = 0; i < MAX_LINKS; i++)
		OK(SYS(pipe2(r.links[i].pipe, O_NONBLOCK | O_CLOEXEC)));
	for (unsigned int i = 0; i <= ALONE; i++) {
		t[i] = (struct thread){ &r, i, rnd(&rng) };
		r.threads += has_thread(&r, i);
	}
	EQ(pthread_barrier_init(&r.barrier, NULL, r.threads), 0);
	for (unsigned int i = 0; i <= ALONE; i++)
		if (has_thread(&r, i))
			test_start(&threads[i], thread_main, &t[i]);
	for (unsigned int b = 0; b < r.batches; b++) {
		prepare(&r, &rng);
		pthread_barrier_wait(&r.barrier);
		take_part(&t[0]);
		pthread_barrier_wait(&r.barrier);
		finish(&r);
	}
	for (unsigned int i = 0; i <= ALONE; i++)
		if (has_thread(&r, i))
			test_join(&threads[i]);
	pthread_barrier_destroy(&r.barrier);
	for (unsigned int i = 0; i < MAX_LINKS; i++)
		for (int end = 0; end < 2; end++)
			OK(SYS(close(r.links[i].pipe[end])));
	seen_add(sum, &r.seen);
}
