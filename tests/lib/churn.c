// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Facets, one-shots, weak handles and descriptors, made, moved, revoked and used
 * up by several threads at once. Who loses a race gets the error that says so,
 * and in the end nothing is left.
 */
#include "lib.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define N_THREADS 4

struct churn {
	b1_peer *a, *b, *c;	/* owner; those who pass on; who gets and uses */
	b1_node *node, *sink;
	b1_handle *to_sink;	/* of b */
	atomic_uint n_seen, n_used, n_unused;
	atomic_uint seeds;
};

/* A send that may come too late. */
static bool may_fail(int r, int err)
{
	if (r != -EAGAIN && r != -err)
		OK(r);
	return r >= 0;
}

static int on_node(b1_node *node, b1_message *message, void *userdata)
{
	struct churn *c = userdata;

	LE(b1_message_get_badge(message), 8);
	atomic_fetch_add(&c->n_seen, 1);
	return 0;
}

static int on_sink(b1_node *node, b1_message *message, void *userdata)
{
	struct churn *c = userdata;
	b1_handle *h, *strong = NULL;
	size_t i;

	for (i = 0; i < b1_message_get_n_handles(message); i++) {
		h = b1_message_get_handle(message, i);
		if (OK(b1_handle_get_flags(h)) & B1_HANDLE_WEAK) {
			if (!may_fail(b1_handle_transfer_as(h, c->c, &strong, B1_PASS_STRONG, 0),
				      EHOSTUNREACH))
				continue;
			h = strong;
		}
		if (may_fail(b1_send_bytes(h, "used", 4, NULL), EHOSTUNREACH))
			atomic_fetch_add(&c->n_used, 1);
		strong = b1_handle_unref(strong);
	}
	EQ(b1_message_get_n_fds(message), 1);
	OK(b1_message_get_fd(message, 0));
	return 0;
}

static int on_unused(b1_node *facet, void *userdata)
{
	struct churn *c = userdata;

	atomic_fetch_add(&c->n_unused, 1);
	return 0;
}

static void churn_once(struct churn *c, unsigned int *seed)
{
	static const unsigned int pass_flags[] = {
		0, B1_PASS_MOVE, B1_PASS_WEAK, B1_PASS_MOVE | B1_PASS_WEAK,
	};
	unsigned int what = (unsigned int)rand_r(seed), flags = pass_flags[what / 16 % 4];
	b1_node *facet = NULL;
	b1_handle *h = NULL;
	int fd = -1, null = (int)OK(SYS(dup(1)));
	b1_pass pass;
	int r;

	OK(b1_node_new_facet(c->node, &facet, what % 8 + 1, what & 8 ? B1_FACET_ONCE : 0, c));
	OK(b1_node_set_unused(facet, on_unused));
	/* Another thread may revoke it, if it is the same. */
	if (what & 64) {
		r = b1_handle_export(b1_node_get_handle(facet), &fd, 0);
		if (may_fail(r, ENXIO)) {
			OK(b1_handle_import(c->b, &h, fd));
			close(fd);
		}
	} else {
		r = b1_handle_transfer(b1_node_get_handle(facet), c->b, &h);
		may_fail(r, ENXIO);
	}
	if (h) {
		pass = (b1_pass){ .handle = h, .flags = flags };
		r = b1_send(c->to_sink, &(b1_outgoing){ .passes = &pass, .n_passes = 1,
							.fds = &null, .n_fds = 1,
							.flags = B1_SEND_TAKE_FDS });
		if (may_fail(r, EAGAIN)) {
			null = -1;
			if (flags & B1_PASS_MOVE)
				h = NULL;
		}
	}
	if (h)
		may_fail(b1_send_bytes(h, "x", 1, NULL), EHOSTUNREACH);
	b1_handle_unref(h);
	if (what & 128) {
		r = b1_node_destroy(facet, what & 256 ? B1_NODE_UNUSED : 0);
		if (r != -EHOSTUNREACH)
			may_fail(r, what & 256 ? EBUSY : 0);
	}
	b1_node_unref(facet);
	if (null >= 0)
		close(null);
}

static void churn_run(void *arg)
{
	struct churn *c = arg;
	unsigned int seed = atomic_fetch_add(&c->seeds, 1), i, n = test_rounds(1500);

	for (i = 0; i < n; i++)
		churn_once(c, &seed);
}

struct processor {
	b1_peer *peer;
	atomic_bool *stop;
	struct test_thread thread;
};

static void processor_run(void *arg)
{
	struct processor *p = arg;

	while (!atomic_load(p->stop))
		if (!OK(b1_peer_process(p->peer)))
			OK(b1_peer_wait(p->peer, test_now() + 20000000));
}

TEST_TIMEOUT("OBJ-6 OBJ-7 OBJ-8 OBJ-9 OBJ-12 MSG-6 LIB-2 threads: what is passed on is revoked and used up", 120)
{
	struct churn c = { .a = new_peer(), .b = new_peer(), .c = new_peer() };
	struct test_thread threads[N_THREADS];
	struct processor processors[4];
	atomic_bool stop = false;
	int i;

	OK(b1_peer_set_flags(c.c, B1_PEER_FDS));
	OK(b1_node_new(c.a, &c.node, on_node, &c));
	OK(b1_node_new(c.c, &c.sink, on_sink, &c));
	OK(b1_handle_transfer(b1_node_get_handle(c.sink), c.b, &c.to_sink));
	for (i = 0; i < 4; i++) {
		processors[i] = (struct processor){ .peer = (b1_peer *[]){ c.a, c.b, c.c, c.c }[i],
						    .stop = &stop };
		test_start(&processors[i].thread, processor_run, &processors[i]);
	}
	for (i = 0; i < N_THREADS; i++)
		test_start(&threads[i], churn_run, &c);
	for (i = 0; i < N_THREADS; i++)
		test_join(&threads[i]);
	atomic_store(&stop, true);
	for (i = 0; i < 4; i++)
		test_join(&processors[i].thread);
	while (drain(c.a) + drain(c.b) + drain(c.c))
		;
	HAS(c.a, 1, 0, 0);
	HAS(c.b, 0, 1, 0);
	HAS(c.c, 1, 0, 0);
	GT(atomic_load(&c.n_seen), 0);
	GT(atomic_load(&c.n_used), 0);
	GT(atomic_load(&c.n_unused), 0);
	b1_handle_unref(c.to_sink);
	b1_node_unref(c.node);
	b1_node_unref(c.sink);
	b1_peer_unref(c.a);
	b1_peer_unref(c.b);
	b1_peer_unref(c.c);
}
