// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ORD-4: multicasts that ask for it are seen in the same order by all who see two of
 * them. Several threads send to overlapping groups; what the receivers got is compared.
 */
#include "raw.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { RECEIVERS = 4, SENDERS = 3 };

struct crowd {
	struct peer r[RECEIVERS], s[SENDERS];
	u64 to[SENDERS][RECEIVERS];
	unsigned int rounds;
	size_t len;
	bool partial, mixed;
	u32 next;
};

/* Who gets message i of a sender: two of them at least. */
static unsigned int group(u32 sender, u32 i)
{
	static const unsigned int groups[] = { 0xf, 0x3, 0x6, 0xc, 0x9, 0x7, 0xe, 0x5 };

	return groups[(i * 5 + sender * 3) % ARRAY_SIZE(groups)];
}

struct text {
	u32 sender, i;
};

static void send_all(void *arg)
{
	struct crowd *t = arg;
	u32 me = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED);
	struct text *text = calloc(1, t->len);
	int r;

	for (u32 i = 0; i < t->rounds; i++) {
		u64 dests[RECEIVERS + 1];
		u32 n = 0;
		struct bus1_cmd_send cmd = {
			.flags = BUS1_SEND_ORDERED, .dests = PTR(dests), .data = PTR(text),
			.len = t->len };

		*text = (struct text){ me, i };
		/* Not everybody goes about it in the same direction. */
		for (u32 k = 0; k < RECEIVERS; k++) {
			u32 to = me % 2 ? RECEIVERS - 1 - k : k;

			if (group(me, i) & 1u << to)
				dests[n++] = t->to[me][to];
		}
		if (t->partial) {
			dests[n++] = 0;
			cmd.flags |= BUS1_SEND_PARTIAL;
		}
		cmd.n_dests = n;
		while ((r = send_cmd(&t->s[me], &cmd)) == -EAGAIN)
			sched_yield();
		OK(r);
		if (!t->mixed)
			continue;
		/* Others are between them, that are in no order. */
		text->i = UINT32_MAX;
		cmd.flags &= ~BUS1_SEND_ORDERED;
		while ((r = send_cmd(&t->s[me], &cmd)) == -EAGAIN)
			sched_yield();
		OK(r);
	}
	free(text);
}

struct reader {
	struct crowd *t;
	u32 me, n;
	struct text *got;
};

static void read_all(void *arg)
{
	struct reader *r = arg;
	u32 want = 0;

	for (u32 s = 0; s < SENDERS; s++)
		for (u32 i = 0; i < r->t->rounds; i++)
			if (group(s, i) & 1u << r->me)
				want += r->t->mixed ? 2 : 1;
	r->got = calloc(want, sizeof(*r->got));
	for (u32 i = 0; i < want; i++) {
		struct in in;
		struct text text;

		OK(recv_wait(&r->t->r[r->me], &in));
		EQ(in.m.type, BUS1_MSG_DATA);
		memcpy(&text, in.data, sizeof(text));
		if (in.m.slice)
			OK(slice_release(&r->t->r[r->me], in.m.slice));
		if (text.i != UINT32_MAX)
			r->got[r->n++] = text;
	}
}

/* Those of x that y got too are in the same order there. */
static void compare(const struct crowd *t, const struct reader *x, const struct reader *y)
{
	u32 at = 0;

	for (u32 i = 0; i < x->n; i++) {
		if (!(group(x->got[i].sender, x->got[i].i) & 1u << y->me))
			continue;
		while (at < y->n && !(group(y->got[at].sender, y->got[at].i) & 1u << x->me))
			at++;
		if (at == y->n || memcmp(&x->got[i], &y->got[at], sizeof(x->got[i])))
			FAIL("receiver %u got message %u of sender %u where %u got %u of %u",
			     x->me, x->got[i].i, x->got[i].sender, y->me,
			     at < y->n ? y->got[at].i : 0, at < y->n ? y->got[at].sender : 0);
		at++;
	}
}

static void crowd(struct crowd *t)
{
	struct test_thread senders[SENDERS], readers[RECEIVERS];
	struct reader r[RECEIVERS] = {};

	for (int i = 0; i < RECEIVERS; i++)
		t->r[i] = peer_new(t->len > 64 ? 1 << 20 : 0);
	for (int s = 0; s < SENDERS; s++) {
		t->s[s] = peer_new(0);
		for (int i = 0; i < RECEIVERS; i++)
			t->to[s][i] = grant(&t->r[i], node_new(&t->r[i], 1), &t->s[s]);
	}
	for (u32 i = 0; i < RECEIVERS; i++) {
		r[i].t = t;
		r[i].me = i;
		test_start(&readers[i], read_all, &r[i]);
	}
	for (int i = 0; i < SENDERS; i++)
		test_start(&senders[i], send_all, t);
	for (int i = 0; i < SENDERS; i++)
		test_join(&senders[i]);
	for (int i = 0; i < RECEIVERS; i++)
		test_join(&readers[i]);
	for (int i = 0; i < RECEIVERS; i++)
		for (int j = 0; j < i; j++)
			compare(t, &r[i], &r[j]);
	for (int i = 0; i < RECEIVERS; i++)
		NOTHING(&t->r[i]);
}

TEST_TIMEOUT("ORD-4 ordered multicasts are seen in one order by all", 120)
{
	crowd(&(struct crowd){ .rounds = test_rounds(2500), .len = sizeof(struct text) });
}

TEST_TIMEOUT("ORD-4 the same through the pool", 120)
{
	crowd(&(struct crowd){ .rounds = test_rounds(1200), .len = 3000 });
}

TEST_TIMEOUT("ORD-4 the same with destinations that fail", 120)
{
	crowd(&(struct crowd){ .rounds = test_rounds(1500), .len = sizeof(struct text),
			       .partial = true });
}

TEST_TIMEOUT("ORD-4 the same among messages that ask for no order", 120)
{
	crowd(&(struct crowd){ .rounds = test_rounds(1200), .len = sizeof(struct text),
			       .mixed = true });
}

TEST("ORD-4 to ask for order takes an array of destinations, and no other flag")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 na = node_new(&a, 1), to_a = grant(&a, na, &b), dead = grant(&a, node_new(&a, 2), &b);
	u64 dests[] = { to_a, to_a, dead };
	s32 errors[3] = { 7, 7, 7 };
	struct snapshot w = SNAPSHOT(&a, &b);
	struct bus1_cmd_send cmd = { .flags = BUS1_SEND_ORDERED, .dest = to_a };

	ERR(send_cmd(&b, &cmd), EINVAL);
	cmd.flags |= BUS1_SEND_PARTIAL;
	ERR(send_cmd(&b, &cmd), EINVAL);
	SAME_SNAPSHOT(&w);
	OK(send_many(&b, BUS1_SEND_ORDERED, dests, 1, NULL, "one"));
	GOT_TEXT(&a, na, "one");
	OK(send_many(&b, BUS1_SEND_ORDERED, dests, 2, errors, "two"));
	GOT_TEXT(&a, na, "two");
	GOT_TEXT(&a, na, "two");
	/* It fails as any other does, with nothing sent. */
	dests[2] = 0;
	w = SNAPSHOT(&a, &b);
	ERR(send_many(&b, BUS1_SEND_ORDERED, dests, 3, errors, "none"), ENXIO);
	EQ(errors[2], -ENXIO);
	SAME_SNAPSHOT(&w);
	OK(send_many(&b, BUS1_SEND_ORDERED | BUS1_SEND_PARTIAL, dests, 3, errors, "some"));
	GOT_TEXT(&a, na, "some");
	GOT_TEXT(&a, na, "some");
	ERR(send_many(&b, BUS1_SEND_ORDERED | BUS1_SEND_PARTIAL, dests + 2, 1, errors, "x"), ENXIO);
	NOTHING(&a);
}

TEST("ORD-4 an ordered multicast is caused, and causes, like any other")
{
	struct peer a = peer_new(0), b = peer_new(0), s = peer_new(0);
	u64 na = node_new(&a, 1), nb = node_new(&b, 2);
	u64 dests[] = { grant(&a, na, &s), grant(&b, nb, &s) };

	for (int i = 0; i < 20; i++) {
		OK(send_str(&s, dests[0], "1"));
		OK(send_many(&s, BUS1_SEND_ORDERED, dests, 2, NULL, "2"));
		OK(send_many(&s, 0, dests, 2, NULL, "3"));
		OK(send_many(&s, BUS1_SEND_ORDERED, dests, 2, NULL, "4"));
		OK(send_str(&s, dests[1], "5"));
	}
	for (int i = 0; i < 20; i++) {
		GOT_TEXT(&a, na, "1");
		GOT_TEXT(&a, na, "2");
		GOT_TEXT(&a, na, "3");
		GOT_TEXT(&a, na, "4");
		GOT_TEXT(&b, nb, "2");
		GOT_TEXT(&b, nb, "3");
		GOT_TEXT(&b, nb, "4");
		GOT_TEXT(&b, nb, "5");
	}
}
