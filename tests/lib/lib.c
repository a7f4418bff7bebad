// SPDX-License-Identifier: GPL-2.0-or-later
#include "lib.h"

#include <sys/ioctl.h>

int box_handler(b1_node *node, b1_message *message, void *userdata)
{
	struct box *box = userdata;

	CHECK(node == box->node);
	b1_message_unref(box->last);
	box->last = b1_message_ref(message);
	box->n_messages++;
	return box->result;
}

static int box_unused(b1_node *node, void *userdata)
{
	struct box *box = userdata;

	CHECK(node == box->node);
	box->n_unused++;
	return box->result;
}

static void box_destroyed(void *userdata)
{
	struct box *box = userdata;

	box->n_destroyed++;
}

void box_init(struct box *box, b1_peer *peer)
{
	*box = (struct box){ 0 };
	OK(b1_node_new(peer, &box->node, box_handler, box));
	OK(b1_node_set_unused(box->node, box_unused));
	OK(b1_node_set_destroy(box->node, box_destroyed));
	CHECK(b1_node_get_userdata(box->node) == box);
}

void box_empty(struct box *box)
{
	box->last = b1_message_unref(box->last);
}

void box_deinit(struct box *box)
{
	box_empty(box);
	if (box->node) {
		EQ(box->n_destroyed, 0);
		box->node = b1_node_unref(box->node);
		EQ(box->n_destroyed, 1);
	}
}

int count_dead(b1_handle *handle, void *userdata)
{
	unsigned int *n = userdata;

	CHECK(b1_handle_is_dead(handle));
	__atomic_add_fetch(n, 1, __ATOMIC_SEQ_CST);
	return 0;
}

b1_peer *new_peer(void)
{
	b1_peer *peer = NULL;

	OK(b1_peer_new(&peer, POOL_SIZE));
	return peer;
}

void pair_init(struct pair *p)
{
	p->a = new_peer();
	p->b = new_peer();
	box_init(&p->box, p->a);
	OK(b1_handle_transfer(b1_node_get_handle(p->box.node), p->b, &p->to_box));
	CHECK(b1_handle_get_node(p->to_box) == NULL);
}

/* Of the address sanitizer, if the test is built with it. */
int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

void pair_deinit(struct pair *p)
{
	p->to_box = b1_handle_unref(p->to_box);
	drain(p->a);
	drain(p->b);
	box_deinit(&p->box);
	drain(p->b);
	HAS(p->a, 0, 0, 0);
	HAS(p->b, 0, 0, 0);
	p->a = b1_peer_unref(p->a);
	p->b = b1_peer_unref(p->b);
	if (__lsan_do_recoverable_leak_check)
		CHECK(!__lsan_do_recoverable_leak_check());
}

int drain(b1_peer *peer)
{
	int n = 0, r;

	while ((r = (int)OK(b1_peer_process(peer))) > 0)
		n += r;
	return n;
}

void process_until(b1_peer *peer, const unsigned int *n, unsigned int want)
{
	uint64_t end = test_deadline(30);

	while (__atomic_load_n(n, __ATOMIC_SEQ_CST) < want) {
		if (test_now() > end)
			FAIL("only %u of %u came", *n, want);
		if (!OK(b1_peer_process(peer)))
			OK(b1_peer_wait(peer, end));
	}
}

struct bus1_cmd_info info(b1_peer *peer)
{
	struct bus1_cmd_info i = { 0 };

	OK(SYS(ioctl(b1_peer_get_fd(peer), BUS1_CMD_PEER_INFO, &i)));
	return i;
}

void check_has(const char *file, int line, b1_peer *peer, unsigned int n_nodes,
	       unsigned int n_handles, unsigned int n_slices)
{
	struct bus1_cmd_info i = info(peer);

	if (i.n_nodes != n_nodes || i.n_handles != n_handles || i.n_slices != n_slices)
		test_fail(file, line, "%u nodes, %u handles, %u slices; should be %u, %u, %u",
			  i.n_nodes, i.n_handles, i.n_slices, n_nodes, n_handles, n_slices);
}

void pattern(void *data, size_t size, unsigned int seed)
{
	uint8_t *p = data;
	size_t i;

	for (i = 0; i < size; i++)
		p[i] = (uint8_t)(seed + i * 7 + i / 251);
}

void check_pattern(b1_message *message, size_t size, unsigned int seed)
{
	const uint8_t *data;
	uint8_t want[256];
	size_t n, i, k;

	data = b1_message_get_data(message, &n);
	EQ(n, size);
	EQ((uintptr_t)data % 8, 0);
	for (i = 0; i < size; i += sizeof(want)) {
		for (k = 0; k < sizeof(want); k++)
			want[k] = (uint8_t)(seed + (i + k) * 7 + (i + k) / 251);
		MEM(data + i, want, size - i < sizeof(want) ? size - i : sizeof(want));
	}
}
