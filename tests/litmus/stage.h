/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The peers of a litmus test, what they have ready for a batch of rounds, and
 * the operations that are causes and effects.
 */
#ifndef BUS1_LITMUS_WORLD_H
#define BUS1_LITMUS_WORLD_H

#include "litmus.h"

/*
 * Actors, in the order of a chain; one who gets copies, in between, so that it
 * takes time to get from those who react to those who observe; observers.
 */
enum { ACTOR, N_ACTORS = 4, IDLE = ACTOR + N_ACTORS, OBSERVER, OBSERVER2, N_PEERS };

/* A peer, and what its last receive gave. */
struct inbox {
	struct peer peer;
	u64 node;
	struct bus1_msg msgs[BUS1_MAX_MSGS];
	u64 buf[BUS1_MAX_MSGS];
	u64 slices[BUS1_MAX_MSGS];	/* to be given back by the next */
	u32 n_slices;
};

/* Takes what is there, in one call; how many that was. */
u32 inbox_recv(struct inbox *in, bool wait);
/* The number that a message carries. */
u64 inbox_number(const struct inbox *in, const struct bus1_msg *m);

/* A side channel. Its word or bytes say how many rounds it told of. */
struct channel {
	u32 word;
	u32 heard;			/* the hearer's own */
	int pipe[2];
};

void channel_tell(struct channel *c, enum kind how, u32 count);
/* How many so far; waits for one more, or looks. One by one if `single`. */
u32 channel_hear(struct channel *c, enum kind how, bool wait, bool single);

/*
 * The causes or the effects of a batch. told[] says who is told of each; of a
 * message, the first of them is. In which order a command names them is random.
 */
struct stream {
	enum kind kind;
	u64 tag;			/* in the upper half of its numbers; none has another's */
	u32 n;				/* how many there will be in this batch */
	int by;
	bool told[N_PEERS];
	unsigned int copies;		/* of a multicast, to IDLE */
	size_t len;			/* of messages */
	u64 progress;			/* odd while an operation is under way */
	struct channel channel;
	u64 nodes[N_PEERS][LITMUS_BATCH];	/* UNUSED: of those who are told */
	u64 ids[N_PEERS][LITMUS_BATCH];	/* handles: DEAD: theirs; UNUSED: ours */
	u64 dying[LITMUS_BATCH];
};

struct stage {
	struct inbox in[N_PEERS];
	u64 to[N_PEERS][N_PEERS];	/* to[x][y]: x's handle of y's node */
	struct stream cause, effect;
};

/* The one stage of this process. */
struct stage *stage_get(void);

/* Before and after a batch; nobody else may be at work. */
void stream_prepare(struct stage *w, struct stream *s, bool backwards);
void stream_finish(struct stage *w, struct stream *s);

/* Number k of the stream, to everybody or (in two steps) to some. */
void stream_do(struct stage *w, struct stream *s, u32 k, u64 *rng);
void stream_do_by_hand(struct stage *w, struct stream *s, u32 k, u64 delay);

/*
 * Which of the stream it is that came to peer p last, if it is of the stream at
 * all; `next` is the one to be expected.
 */
bool stream_has(const struct stream *s, const struct stage *w, int p, const struct bus1_msg *m,
		u32 next, u32 *k);

#endif /* BUS1_LITMUS_WORLD_H */
