// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * RES-5: messages with a seed and what follows from it, read in place when they come,
 * and once more before they are given back; all while pages are dropped, and
 * while somebody reads wherever it is possible.
 */
#include "idle.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SENDERS = 2, RECEIVERS = 2, HELD = 6 };

struct mess {
	struct peer p, senders[SENDERS];
	u64 handles[SENDERS];
	u32 next, received, dropped;
	u64 pages_gone;
	bool stop;
};

struct actor {
	struct mess *m;
	struct test_thread thread;
	u32 index;
};

static bool stopped(const struct mess *m)
{
	return __atomic_load_n(&m->stop, __ATOMIC_RELAXED);
}

static void pattern(u32 *to, size_t n, u32 seed)
{
	u32 x = seed * 2654435761U | 1;

	to[0] = seed;
	for (size_t i = 1; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		to[i] = x;
	}
}

static void check_pattern(const u32 *from, size_t n)
{
	u32 x = from[0] * 2654435761U | 1;

	for (size_t i = 1; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		if (from[i] != x)
			FAIL("word %zu of %zu is %08x and not %08x", i, n, from[i], x);
	}
}

static void mess_send(void *arg)
{
	struct actor *t = arg;
	struct mess *m = t->m;
	u32 seed = t->index + 1, *data = malloc(40000), *edge = edge_alloc(8192);

	CHECK(data);
	memset(edge, 0x5e, 8192);
	while (!stopped(m)) {
		u32 number = __atomic_add_fetch(&m->next, 1, __ATOMIC_RELAXED);
		size_t n;
		int r;

		seed = seed * 1103515245 + 12345;
		n = 30 + (seed >> 8) % (seed & 0x700000 ? 1500 : 9000);
		pattern(data, n, number);
		r = send_data(&m->senders[t->index], m->handles[t->index], data, n * 4);
		if (r)
			ERR(r, EAGAIN);
		if (r || !(number % 16))
			sched_yield();
		if (!(number % 8)) {
			r = send_data(&m->senders[t->index], m->handles[t->index], edge, 9000);
			if (r != -EAGAIN)
				ERR(r, EFAULT);
		}
	}
	free(data);
}

static void mess_recv(void *arg)
{
	struct actor *t = arg;
	struct mess *m = t->m;
	struct { u64 slice; const u32 *data; size_t n; } held[HELD] = {};
	u32 k = 0;
	struct in in;

	while (!stopped(m)) {
		int r = recv_now(&m->p, &in);

		if (r) {
			ERR(r, EAGAIN);
			sched_yield();
			continue;
		}
		check_pattern((const u32 *)in.data, in.m.len / 4);
		k = (k * 5 + (u32)in.m.len / 4) % HELD;
		if (held[k].slice) {
			check_pattern(held[k].data, held[k].n);
			OK(slice_release(&m->p, held[k].slice));
		}
		held[k].slice = in.m.slice;
		held[k].data = (const u32 *)in.data;
		held[k].n = in.m.len / 4;
		if (!in.m.slice)
			held[k].slice = 0;
		__atomic_add_fetch(&m->received, 1, __ATOMIC_RELAXED);
	}
	for (k = 0; k < HELD; k++)
		if (held[k].slice) {
			check_pattern(held[k].data, held[k].n);
			OK(slice_release(&m->p, held[k].slice));
		}
}

static void mess_drop(void *arg)
{
	struct actor *t = arg;

	while (!stopped(t->m)) {
		u64 before = pages_of(&t->m->p);

		shrink();
		if (pages_of(&t->m->p) < before)
			t->m->pages_gone += before - pages_of(&t->m->p);
		t->m->dropped++;
	}
}

static void mess_probe(void *arg)
{
	struct actor *t = arg;
	struct mess *m = t->m;
	static u8 copy[1 << 16];
	u32 at = 1;

	while (!stopped(m)) {
		at = at * 1103515245 + 12345;
		page_readable(m->p.pool + (at >> 8) % (m->p.pool_size / page_size()) * page_size(),
			      copy);
		if (!(at >> 28)) {
			const u8 *again = pool_map(m->p.fd, m->p.pool_size);

			page_readable(again, copy);
			OK(SYS(munmap((void *)again, m->p.pool_size)));
		}
	}
}

TEST_TIMEOUT("RES-5 stress, pages dropped while messages are sent, read in place and given back", 120)
{
	struct mess m = { .p = peer_new(1 << 20) };
	u64 n = node_new(&m.p, 1), end;
	struct actor actors[SENDERS + RECEIVERS + 2];
	u32 k = 0;

	shrink();
	for (u32 i = 0; i < SENDERS; i++) {
		m.senders[i] = peer_new(0);
		m.handles[i] = grant(&m.p, n, &m.senders[i]);
	}
	for (u32 i = 0; i < ARRAY_SIZE(actors); i++)
		actors[i] = (struct actor){ .m = &m };
	for (u32 i = 0; i < SENDERS; i++, k++) {
		actors[k].index = i;
		test_start(&actors[k].thread, mess_send, &actors[k]);
	}
	for (u32 i = 0; i < RECEIVERS; i++, k++)
		test_start(&actors[k].thread, mess_recv, &actors[k]);
	test_start(&actors[k].thread, mess_drop, &actors[k]);
	k++;
	test_start(&actors[k].thread, mess_probe, &actors[k]);
	k++;
	/* That long by the clock, which a slow machine makes the most of. */
	end = test_now() + 12000000000ULL;
	while (test_now() < end)
		test_sleep_ms(50);
	__atomic_store_n(&m.stop, true, __ATOMIC_RELAXED);
	while (k)
		test_join(&actors[--k].thread);
	printf("# %u received, %u times dropped, at least %llu pages went back\n", m.received,
	       m.dropped, (unsigned long long)m.pages_gone);
	GT(m.received, 50);
	GT(m.dropped, 3);
	GT(m.pages_gone, 10);
	empty(&m.p);
	shrink();
	EQ(peer_info(&m.p).n_slices, 0);
	EQ(pages_of(&m.p), 0);
}
