// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Every allocation of the library fails in turn (by -Wl,--wrap): the call says
 * -ENOMEM, nothing is lost, and it works when repeated. The harness sees that
 * nothing is left in the kernel.
 */
#include "oom.h"

#include <stdlib.h>
#include <string.h>

unsigned int fail_at;
bool failed;

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);

static bool fail_now(void)
{
	if (!fail_at || --fail_at)
		return false;
	failed = true;
	return true;
}

void *__wrap_malloc(size_t size)
{
	return fail_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fail_now() ? NULL : __real_calloc(n, size);
}

unsigned int process_failing(b1_peer *peer)
{
	unsigned int n_failed = 0, i;

	failed = true;
	for (i = 1; failed; i++) {
		int64_t r;

		failed = false;
		fail_at = i;
		r = b1_peer_process(peer);
		fail_at = 0;
		if (r != -ENOMEM)
			OK(r);
		n_failed += failed;
	}
	return n_failed;
}

TEST("LIB-1 ABI-2 out of memory: an error, no effect, and no loss")
{
	b1_handle *handles[100], *handle = NULL, *to_b = NULL;
	unsigned int dead = 0, n_failed = 0, i;
	b1_node *nodes[100], *node = NULL;
	b1_outgoing out = { .handles = handles, .n_handles = 100 };
	struct box b_box;
	b1_peer *c = NULL;
	char data[LARGE];
	struct pair p;

	EACH(b1_peer_new(&c, POOL_SIZE));
	pair_init(&p);
	box_init(&b_box, p.b);
	EACH(b1_node_new(p.a, &node, NULL, NULL));
	HAS(p.a, 2, 0, 0);
	EACH(b1_handle_transfer(b1_node_get_handle(node), p.b, &handle));
	EACH(b1_handle_watch(handle, NULL, count_dead, &dead));
	EACH(b1_handle_watch_writable(handle, NULL, count_dead, &dead));
	EACH(b1_handle_transfer(b1_node_get_handle(b_box.node), p.a, &to_b));

	/* A message large in every way, among others; one handle twice, one known, one own. */
	for (i = 0; i < 100; i++) {
		OK(b1_node_new(p.a, &nodes[i], NULL, NULL));
		handles[i] = b1_node_get_handle(nodes[i]);
	}
	handles[10] = handles[20];
	handles[30] = b1_node_get_handle(node);
	handles[40] = to_b;
	pattern(data, sizeof(data), 6);
	OK(b1_send_bytes(to_b, "first", 5, NULL));
	out.data = data;
	out.size = sizeof(data);
	OK(b1_send(to_b, &out));
	out.size = 64;
	OK(b1_send(to_b, &out));
	n_failed += process_failing(p.b);
	drain(p.b);
	EQ(b_box.n_messages, 3);
	check_pattern(b_box.last, 64, 6);
	CHECK(b1_message_get_handle(b_box.last, 10) == b1_message_get_handle(b_box.last, 20));
	CHECK(b1_message_get_handle(b_box.last, 30) == handle);
	CHECK(b1_handle_get_node(b1_message_get_handle(b_box.last, 40)) == b_box.node);
	box_empty(&b_box);
	HAS(p.b, 1, 2, 0);
	GT(n_failed, 100);

	node = b1_node_unref(node);
	drain(p.b);
	EQ(dead, 1);
	handle = b1_handle_unref(handle);
	for (i = 0; i < 100; i++)
		b1_node_unref(nodes[i]);
	b1_handle_unref(to_b);
	drain(p.b);
	box_deinit(&b_box);
	pair_deinit(&p);
	b1_peer_unref(c);
}

static unsigned int n_over;

static int on_reply(b1_message *reply, int error, void *userdata)
{
	CHECK(reply || error == -ECONNABORTED);
	n_over++;
	return 0;
}

TEST("LIB-1 ABI-2 CALL-2 out of memory: calls, requests and replies")
{
	b1_call_options o = { .reply_size = LARGE, .reply_handles = 1 };
	unsigned int n_failed = 0, i, k;
	b1_handle *handle;
	char data[LARGE];
	struct pair p;

	pair_init(&p);
	handle = b1_node_get_handle(p.box.node);
	pattern(data, sizeof(data), 6);
	for (k = 0; k < 3; k++)
		EACH(b1_call_async(p.to_box, &(b1_outgoing){ .data = data, .size = sizeof(data) }, &o,
				   NULL, on_reply, NULL));
	failed = true;
	for (i = 1; failed; i++) {
		failed = false;
		fail_at = i;
		if (b1_peer_process(p.a) != -ENOMEM)
			CHECK(!failed);
		fail_at = 0;
		n_failed += failed;
	}
	/* The last one is answered, the others were dropped. */
	EQ(p.box.n_messages, 3);
	check_pattern(p.box.last, LARGE, 6);
	OK(b1_message_reply(p.box.last, &(b1_outgoing){ .data = data, .size = sizeof(data),
							.handles = &handle, .n_handles = 1 }));
	box_empty(&p.box);
	n_failed += process_failing(p.b);
	drain(p.b);
	EQ(n_over, 3);
	GT(n_failed, 6);
	pair_deinit(&p);
}
