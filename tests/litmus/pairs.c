// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ORD-1, ORD-2: every ordered pair of a cause and an effect, over every link;
 * and that the same observer notices when the order is broken on purpose.
 */
#include "litmus.h"

#include <stdio.h>

/* Per shape. A pair that bus1 only has one end of gets less. */
enum { ROUNDS = 32 * LITMUS_BATCH, SIDE_ROUNDS = 8 * LITMUS_BATCH };

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
		u64 start = test_now();

		if (!is_shape(cause, link))
			continue;
		litmus(&shape, litmus_rounds(n), &seen);
		snprintf(what, sizeof(what), "%s, %s, %s %.3f s", kind_names[cause], link_names[link],
			 kind_names[effect], (double)(test_now() - start) / 1e9);
		seen_print(what, &seen);
		seen_add(sum, &seen);
		litmus_total_add(seen.rounds);
	}
}

static void check(const struct seen *seen)
{
	EQ(seen->forbidden, 0);
	GT(seen->apart, 0);
	GT(seen->joint, 0);
	GT(seen->overlap, 0);
}

#define PAIR(cause, effect)						\
	do {								\
		struct seen seen_ = {};					\
		pair(cause, effect, &seen_);				\
		check(&seen_);						\
	} while (0)

TEST("ORD-1 litmus, message then message") { PAIR(MESSAGE, MESSAGE); }
TEST("ORD-1 litmus, message then multicast") { PAIR(MESSAGE, MULTICAST); }
TEST("ORD-1 litmus, message then dead") { PAIR(MESSAGE, DEAD); }
TEST("ORD-1 litmus, message then unused") { PAIR(MESSAGE, UNUSED); }
TEST("ORD-1 litmus, multicast then message") { PAIR(MULTICAST, MESSAGE); }
TEST("ORD-1 litmus, multicast then multicast") { PAIR(MULTICAST, MULTICAST); }
TEST("ORD-1 litmus, multicast then dead") { PAIR(MULTICAST, DEAD); }
TEST("ORD-1 litmus, multicast then unused") { PAIR(MULTICAST, UNUSED); }
TEST("ORD-1 litmus, dead then message") { PAIR(DEAD, MESSAGE); }
TEST("ORD-1 litmus, dead then multicast") { PAIR(DEAD, MULTICAST); }
TEST("ORD-1 litmus, dead then dead") { PAIR(DEAD, DEAD); }
TEST("ORD-1 litmus, dead then unused") { PAIR(DEAD, UNUSED); }
TEST("ORD-1 litmus, unused then message") { PAIR(UNUSED, MESSAGE); }
TEST("ORD-1 litmus, unused then multicast") { PAIR(UNUSED, MULTICAST); }
TEST("ORD-1 litmus, unused then dead") { PAIR(UNUSED, DEAD); }
TEST("ORD-1 litmus, unused then unused") { PAIR(UNUSED, UNUSED); }

/* With a side channel at one end, the same for each of them. */
static void sides(enum kind other, bool first)
{
	struct seen seen = {};

	for (enum kind side = MEMORY; side < N_KINDS; side++)
		pair(first ? side : other, first ? other : side, &seen);
	check(&seen);
}

TEST("ORD-1 litmus, side channel then message") { sides(MESSAGE, true); }
TEST("ORD-1 litmus, side channel then multicast") { sides(MULTICAST, true); }
TEST("ORD-1 litmus, side channel then dead") { sides(DEAD, true); }
TEST("ORD-1 litmus, side channel then unused") { sides(UNUSED, true); }
TEST("ORD-1 litmus, message then side channel") { sides(MESSAGE, false); }
TEST("ORD-1 litmus, multicast then side channel") { sides(MULTICAST, false); }
TEST("ORD-1 litmus, dead then side channel") { sides(DEAD, false); }
TEST("ORD-1 litmus, unused then side channel") { sides(UNUSED, false); }

TEST("ORD-1 litmus, a broken order is noticed")
{
	for (enum kind cause = 0; cause < N_KINDS; cause++)
		for (enum kind effect = 0; effect < N_KINDS; effect++)
			for (enum link link = 0; link < N_LINKS; link++) {
				struct shape shape = { cause, effect, { link }, 1, true };
				struct seen seen = {};
				char what[64];

				if (!is_shape(cause, link) || (cause >= MEMORY && effect >= MEMORY))
					continue;
				if (cause == DEAD && link == BY_RECEPTION)
					continue;
				litmus(&shape, 2 * LITMUS_BATCH, &seen);
				snprintf(what, sizeof(what), "%s, %s, %s", kind_names[cause],
					 link_names[link], kind_names[effect]);
				seen_print(what, &seen);
			}
}
