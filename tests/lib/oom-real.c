// SPDX-License-Identifier: GPL-2.0-or-later
/* As oom.c, of what fake.c does not do; and how many system calls things take. */
#include "oom.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <unistd.h>

static unsigned int n_calls;

int __real_ioctl(int fd, unsigned long command, ...);
int __wrap_ioctl(int fd, unsigned long command, ...);

int __wrap_ioctl(int fd, unsigned long command, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, command);
	arg = va_arg(ap, void *);
	va_end(ap);
	n_calls++;
	return __real_ioctl(fd, command, arg);
}

#define CALLS(n, call)								\
	do {									\
		n_calls = 0;							\
		call;								\
		EQ(n_calls, n);							\
	} while (0)

/* The lowest number that a descriptor can have: what is open below it counts. */
static int first_free(void)
{
	int fd = (int)OK(SYS(eventfd(0, 0)));

	close(fd);
	return fd;
}

TEST("LIB-1 ABI-2 OBJ-6 OBJ-12 MSG-6 out of memory: facets, descriptors, and messages with all there is")
{
	b1_node *node = NULL, *facet = NULL, *again = NULL, *once = NULL;
	b1_handle *h = NULL, *weak = NULL, *along[3];
	unsigned int n_failed = 0, i;
	int fds[2], fd = -1, before;
	struct box box = { 0 };
	b1_outgoing out = { .data = "x", .size = 1, .handles = along, .n_handles = 3,
			    .fds = fds, .n_fds = 2 };
	b1_pass pass;
	struct pair p;

	pair_init(&p);
	OK(b1_peer_set_flags(p.b, B1_PEER_FDS));
	EACH(b1_node_new_flags(p.b, &box.node, B1_NODE_CREDS, box_handler, &box));
	EACH(b1_node_new(p.a, &node, NULL, NULL));
	EACH(b1_node_new_facet(node, &facet, 1, 0, NULL));
	EACH(b1_node_new_facet(node, &again, 1, 0, NULL));
	CHECK(again == facet);
	EACH(b1_node_new_facet(node, &once, 1, B1_FACET_ONCE, NULL));
	HAS(p.a, 4, 0, 0);
	OK(b1_handle_export(b1_node_get_handle(box.node), &fd, 0));
	EACH(b1_handle_import(p.a, &h, fd));
	close(fd);
	EACH(b1_handle_transfer_as(p.to_box, p.b, &weak, B1_PASS_WEAK, 0));
	HAS(p.a, 4, 1, 0);
	HAS(p.b, 1, 2, 0);

	fds[0] = fds[1] = 1;
	along[0] = b1_node_get_handle(facet);
	along[1] = b1_node_get_handle(once);
	along[2] = b1_node_get_handle(node);
	OK(b1_send(h, &out));
	before = first_free();
	failed = true;
	for (i = 1; failed; i++) {
		int64_t r;

		failed = false;
		fail_at = i;
		r = b1_peer_process(p.b);
		fail_at = 0;
		if (r != -ENOMEM)
			OK(r);
		n_failed += failed;
	}
	drain(p.b);
	EQ(box.n_messages, 1);
	EQ(b1_message_get_n_handles(box.last), 3);
	EQ(b1_message_get_n_fds(box.last), 2);
	CHECK(b1_message_get_creds(box.last));
	GT(first_free(), before);
	box_empty(&box);
	EQ(first_free(), before);
	HAS(p.b, 1, 2, 0);
	GT(n_failed, 8);

	/* A peer that ends without the memory to look at what it has received. */
	OK(b1_send(h, &out));
	EQ(OK(b1_peer_wait(p.b, 0)), 1);
	GT(first_free(), before);
	pass = (b1_pass){ .handle = p.to_box, .flags = B1_PASS_MOVE };
	OK(b1_send(p.to_box, &(b1_outgoing){ .passes = &pass, .n_passes = 1 }));
	b1_handle_unref(weak);
	b1_node_unref(box.node);
	fail_at = 1;
	b1_peer_unref(p.b);
	fail_at = 0;
	ERR(SYS(fcntl(before, F_GETFD)), EBADF);
	b1_handle_unref(h);
	b1_node_unref(once);
	b1_node_unref(again);
	b1_node_unref(facet);
	b1_node_unref(node);
	drain(p.a);
	box_deinit(&p.box);
	b1_peer_unref(p.a);
}

TEST("LIB-1 ABI-2 MSG-5 LIB-9 out of memory: buffers, and payloads in a memfd")
{
	static char data[POOL_SIZE + 1];
	unsigned int n_failed = 0, i;
	b1_node *buffer = NULL;
	const void *body;
	struct pair p;
	size_t size;
	int before;

	pair_init(&p);
	pattern(data, sizeof(data), 5);
	EACH(b1_buffer_new(p.b, &buffer, data, sizeof(data), NULL));
	EACH(b1_send(p.to_box, &(b1_outgoing){ .buffer = b1_node_get_handle(buffer),
					       .buffer_size = sizeof(data) }));
	EACH(b1_send_bytes(p.to_box, data, sizeof(data), NULL));
	before = first_free();
	failed = true;
	for (i = 1; failed; i++) {
		int64_t r;

		failed = false;
		fail_at = i;
		r = b1_peer_process(p.a);
		fail_at = 0;
		if (r != -ENOMEM)
			OK(r);
		n_failed += failed;
	}
	drain(p.a);
	EQ(p.box.n_messages, 2);
	check_pattern(p.box.last, sizeof(data), 5);
	EQ(first_free(), before);
	OK(b1_send(p.to_box, &(b1_outgoing){ .buffer = b1_node_get_handle(buffer),
					     .buffer_size = sizeof(data) }));
	drain(p.a);
	EACH(b1_message_get_body(p.box.last, &body, &size));
	check_pattern(p.box.last, sizeof(data), 5);
	box_empty(&p.box);
	GT(n_failed, 4);

	/* A peer that ends without the memory to look at what it has received. */
	OK(b1_send_bytes(p.to_box, data, sizeof(data), NULL));
	EQ(OK(b1_peer_wait(p.a, 0)), 1);
	GT(first_free(), before);
	b1_handle_unref(p.to_box);
	b1_node_unref(buffer);
	box_deinit(&p.box);
	fail_at = 1;
	b1_peer_unref(p.a);
	fail_at = 0;
	ERR(SYS(fcntl(before, F_GETFD)), EBADF);
	b1_peer_unref(p.b);
}

TEST("MSG-11 OBJ-5 LIB-2 how many system calls it takes to give things back")
{
	b1_handle *to_sink = NULL, *along[2], *h;
	b1_node *nodes[2], *sink = NULL;
	b1_pass pass;
	b1_outgoing out = { .handles = along, .n_handles = 2 };
	char data[LARGE] = "";
	struct box box;
	struct pair p;
	int i;

	pair_init(&p);
	OK(b1_node_new(p.b, &sink, NULL, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(sink), p.a, &to_sink));
	for (i = 0; i < 2; i++) {
		OK(b1_node_new(p.a, &nodes[i], NULL, NULL));
		along[i] = b1_node_get_handle(nodes[i]);
	}
	/* Nothing was kept: the next receive gives it back, and finds nothing more. */
	for (i = 0; i < 5; i++) {
		out.data = data;
		out.size = i % 2 ? 8 : LARGE;
		OK(b1_send(to_sink, &out));
	}
	CALLS(2, EQ(OK(b1_peer_process(p.b)), 5));
	HAS(p.b, 1, 1, 0);
	/* Of a message that was kept, memory and handles at once. */
	box_init(&box, p.b);
	OK(b1_handle_transfer(b1_node_get_handle(box.node), p.a, &h));
	out.size = LARGE;
	OK(b1_send(h, &out));
	CALLS(1, EQ(OK(b1_peer_process(p.b)), 1));
	HAS(p.b, 2, 3, 1);
	CALLS(1, box_empty(&box));
	HAS(p.b, 2, 1, 0);
	b1_handle_unref(h);
	drain(p.b);
	box_deinit(&box);
	/* A move of the last reference needs no release. */
	pass = (b1_pass){ .handle = p.to_box, .flags = B1_PASS_MOVE };
	CALLS(1, OK(b1_send(p.to_box, &(b1_outgoing){ .passes = &pass, .n_passes = 1 })));
	p.to_box = NULL;
	drain(p.a);
	for (i = 0; i < 2; i++)
		b1_node_unref(nodes[i]);
	b1_handle_unref(to_sink);
	drain(p.b);
	b1_node_unref(sink);
	pair_deinit(&p);
}
