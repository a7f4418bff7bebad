// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ORD-1, ORD-2: every ordered pair of a cause and an effect, over every link;
 * and that the same observer notices when the order is broken on purpose.
 */
#include "litmus.h"

#include <stdio.h>

/*
 * Per shape. A pair that bus1 only has one end of gets less. Rounds are dear
 * here, where allocating is: there it is weave.c that has most of them.
 */
enum { ROUNDS = 16 * LITMUS_BATCH, SIDE_ROUNDS = 8 * LITMUS_BATCH };

static bool reaches_several(enum kind kind)
{
	return kind == MULTICAST || kind == DEAD || kind == UNUSED;
}

static bool is_shape(enum kind cause, enum link link)
{
	return link != BY_RECEPTION || reaches_several(cause);
}

static void pair(enum kind cause, enum kind effect, struct seen *sum)
{
	unsigned int n = cause < MEMORY && effect < MEMORY ? ROUNDS : SIDE_ROUNDS;

	for (enum link link = 0; link < N_LINKS; link++) {
		struct shape shape = { cause, effect, { link }, 1, false };
		struct seen seen = {};
		char what[64];

		if (!is_shape(cause, link))
			continue;
		/* Where a multicast could come apart. */
		litmus(&shape, test_rounds(link == BY_RECEPTION ? 2 * n : n), &seen);
		snprintf(what, sizeof(what), "%s, %s, %s", kind_names[cause], link_names[link],
			 kind_names[effect]);
		seen_print(what, &seen);
		seen_add(sum, &seen);
	}
}

static void check(const struct seen *seen)
{
	EQ(seen->forbidden, 0);
	GT(seen->apart, 0);
	GT(seen->joint, 0);
	GT(seen->overlap, 0);
	litmus_total_add(seen->rounds);
}

#define PAIR(cause, effect)						\
	do {								\
		struct seen seen_ = {};					\
		pair(cause, effect, &seen_);				\
		check(&seen_);						\
	} while (0)

TEST_TIMEOUT("ORD-1 litmus, message then message", 120) { PAIR(MESSAGE, MESSAGE); }
TEST_TIMEOUT("ORD-1 litmus, message then multicast", 120) { PAIR(MESSAGE, MULTICAST); }
TEST_TIMEOUT("ORD-1 litmus, message then dead", 120) { PAIR(MESSAGE, DEAD); }
TEST_TIMEOUT("ORD-1 litmus, message then unused", 120) { PAIR(MESSAGE, UNUSED); }
TEST_TIMEOUT("ORD-1 litmus, multicast then message", 120) { PAIR(MULTICAST, MESSAGE); }
TEST_TIMEOUT("ORD-1 litmus, multicast then multicast", 120) { PAIR(MULTICAST, MULTICAST); }
TEST_TIMEOUT("ORD-1 litmus, multicast then dead", 120) { PAIR(MULTICAST, DEAD); }
TEST_TIMEOUT("ORD-1 litmus, multicast then unused", 120) { PAIR(MULTICAST, UNUSED); }
TEST_TIMEOUT("ORD-1 litmus, dead then message", 120) { PAIR(DEAD, MESSAGE); }
TEST_TIMEOUT("ORD-1 litmus, dead then multicast", 120) { PAIR(DEAD, MULTICAST); }
TEST_TIMEOUT("ORD-1 litmus, dead then dead", 120) { PAIR(DEAD, DEAD); }
TEST_TIMEOUT("ORD-1 litmus, dead then unused", 120) { PAIR(DEAD, UNUSED); }
TEST_TIMEOUT("ORD-1 litmus, unused then message", 120) { PAIR(UNUSED, MESSAGE); }
TEST_TIMEOUT("ORD-1 litmus, unused then multicast", 120) { PAIR(UNUSED, MULTICAST); }
TEST_TIMEOUT("ORD-1 litmus, unused then dead", 120) { PAIR(UNUSED, DEAD); }
TEST_TIMEOUT("ORD-1 litmus, unused then unused", 120) { PAIR(UNUSED, UNUSED); }

/* With a side channel at one end, the same for each of them. */
static void sides(enum kind other, bool first)
{
	struct seen seen = {};

	for (enum kind side = MEMORY; side < N_KINDS; side++)
		pair(first ? side : other, first ? other : side, &seen);
	check(&seen);
}

TEST_TIMEOUT("ORD-1 litmus, side channel then message", 120) { sides(MESSAGE, true); }
TEST_TIMEOUT("ORD-1 litmus, side channel then multicast", 120) { sides(MULTICAST, true); }
TEST_TIMEOUT("ORD-1 litmus, side channel then dead", 120) { sides(DEAD, true); }
TEST_TIMEOUT("ORD-1 litmus, side channel then unused", 120) { sides(UNUSED, true); }
TEST_TIMEOUT("ORD-1 litmus, message then side channel", 120) { sides(MESSAGE, false); }
TEST_TIMEOUT("ORD-1 litmus, multicast then side channel", 120) { sides(MULTICAST, false); }
TEST_TIMEOUT("ORD-1 litmus, dead then side channel", 120) { sides(DEAD, false); }
TEST_TIMEOUT("ORD-1 litmus, unused then side channel", 120) { sides(UNUSED, false); }

struct noticed {
	bool cause[N_KINDS], effect[N_KINDS], link[N_LINKS];
};

static bool is_noticed(const struct noticed *n, const struct shape *s)
{
	return n->cause[s->cause] && n->effect[s->effect] && n->link[s->link[0]];
}

static bool break_one(struct noticed *n, struct shape *shape, struct seen *sum)
{
	struct seen seen = {};

	/* One node's death can not be done in two steps. */
	if (!is_shape(shape->cause, shape->link[0]) ||
	    (shape->cause == DEAD && shape->link[0] == BY_RECEPTION))
		shape->link[0] = BY_MEMORY;
	if (is_noticed(n, shape))
		return true;
	litmus(shape, LITMUS_BATCH, &seen);
	seen_add(sum, &seen);
	if (!seen.forbidden)
		return false;
	n->cause[shape->cause] = n->effect[shape->effect] = n->link[shape->link[0]] = true;
	return true;
}

/*
 * With every kind at either end, and by every link: a batch of each that has
 * not been noticed yet, until all have. Two links for each pair, in turn.
 */
TEST_TIMEOUT("ORD-1 litmus, a broken order is noticed", 120)
{
	struct noticed noticed = {};
	struct seen sum = {};
	bool all = false;

	for (unsigned int turn = 0; !all; turn++) {
		LT(turn, 64);
		all = true;
		for (unsigned int i = 0; i < N_KINDS * N_KINDS * 2; i++) {
			struct shape shape = {
				.cause = i / 2 / N_KINDS, .effect = i / 2 % N_KINDS,
				.link = { (i / 2 + i % 2 * 3 + turn) % N_LINKS },
				.n_links = 1, .early = true,
			};

			if (shape.cause >= MEMORY && shape.effect >= MEMORY)
				continue;
			if (!break_one(&noticed, &shape, &sum))
				all = false;
		}
	}
	seen_print("broken", &sum);
}
