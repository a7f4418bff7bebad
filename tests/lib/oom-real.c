// SPDX-License-Identifier: GPL-2.0-or-later
/* As oom.c, of what fake.c does not do; and how many system calls things take. */
#include "oom.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

static atomic_uint n_calls;
/* What the thread that calls does next, once, before the library has seen what came. */
static void (*after_call)(void);

int __real_ioctl(int fd, unsigned long command, ...);
int __wrap_ioctl(int fd, unsigned long command, ...);

int __wrap_ioctl(int fd, unsigned long command, ...)
{
	va_list ap;
	void *arg;
	int r;

	va_start(ap, command);
	arg = va_arg(ap, void *);
	va_end(ap);
	n_calls++;
	r = __real_ioctl(fd, command, arg);
	if (command == BUS1_CMD_CALL && after_call) {
		void (*after)(void) = after_call;

		after_call = NULL;
		after();
	}
	return r;
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
	unsigned int n_failed = 0;
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
	n_failed += process_failing(p.b);
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
	unsigned int n_failed = 0;
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
	n_failed += process_failing(p.a);
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

/*
 * Calls. The server answers with a node's handle and LARGE bytes if there is a node to
 * give, else with what it got.
 */
static b1_node *given;

static int answer(b1_node *node, b1_message *message, void *userdata)
{
	static const char data[LARGE];
	b1_outgoing out = { .flags = B1_REPLY_LAST };
	b1_handle *handle;

	out.data = b1_message_get_data(message, &out.size);
	if (given) {
		handle = b1_node_get_handle(given);
		out = (b1_outgoing){ .data = data, .size = LARGE, .handles = &handle, .n_handles = 1 };
	}
	OK(b1_message_reply(message, &out));
	return 0;
}

static int stop(b1_node *node, b1_message *message, void *userdata)
{
	return -ESHUTDOWN;
}

static void run(void *arg)
{
	ERR(b1_peer_run(arg, UINT64_MAX), ESHUTDOWN);
}

static b1_peer *client, *server;
static b1_handle *to, *to_stop;
static b1_node *nodes[2];
static struct test_thread thread;

static void begin(void)
{
	client = new_peer();
	server = new_peer();
	OK(b1_node_new(server, &nodes[0], answer, NULL));
	OK(b1_node_new(server, &nodes[1], stop, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(nodes[0]), client, &to));
	OK(b1_handle_transfer(b1_node_get_handle(nodes[1]), client, &to_stop));
	test_start(&thread, run, server);
}

static void end(void)
{
	OK(b1_send_bytes(to_stop, "", 0, NULL));
	test_join(&thread);
	b1_handle_unref(to);
	b1_handle_unref(to_stop);
	drain(client);
	HAS(client, 0, 0, 0);
	b1_peer_unref(client);
	b1_node_unref(nodes[0]);
	b1_node_unref(nodes[1]);
	b1_peer_unref(server);
}

TEST("CALL-1 LIB-4 a round trip is two system calls")
{
	unsigned int rounds = test_rounds(100), i, n;
	b1_message *reply = NULL;

	begin();
	for (i = n = 0; i <= rounds; i++) {
		/* The first one may find the server not yet waiting. */
		if (i == 1)
			n = n_calls;
		OK(b1_call(to, &(b1_outgoing){ .data = "x", .size = 1 }, NULL, &reply));
		b1_message_unref(reply);
	}
	/* The server may be about to make the last one's. */
	LE(n_calls - n, 2 * rounds + 1);
	GE(n_calls - n, 2 * rounds - 1);
	end();
}

static void kill_given(void)
{
	given = b1_node_unref(given);
	/* It is told of the death of what it does not know yet. */
	drain(client);
}

TEST("OBJ-10 CALL-2 LIB-2 the death of what a reply brings may be told before the reply is seen")
{
	b1_call_options o = { .reply_size = LARGE, .reply_handles = 1 };
	b1_message *reply = NULL;
	b1_handle *handle = NULL;
	unsigned int dead = 0;
	int i;

	begin();
	for (i = 0; i < 2; i++) {
		OK(b1_node_new(server, &given, NULL, NULL));
		after_call = kill_given;
		OK(b1_call(to, &(b1_outgoing){ .data = "x", .size = 1 }, &o, &reply));
		handle = b1_message_get_handle(reply, 0);
		CHECK(b1_handle_is_dead(handle));
		ERR(b1_handle_watch(handle, NULL, count_dead, &dead), EHOSTUNREACH);
		reply = b1_message_unref(reply);
	}
	EQ(dead, 0);
	end();
}

static void fail_next(void)
{
	fail_at = 1;
}

TEST("LIB-1 CALL-2 out of memory: a reply that cannot be told of is lost, with all that it brought")
{
	b1_call_options o = { .reply_size = LARGE, .reply_handles = 1 };
	b1_message *reply = NULL;

	begin();
	OK(b1_node_new(server, &given, NULL, NULL));
	after_call = fail_next;
	ERR(b1_call(to, &(b1_outgoing){ .data = "x", .size = 1 }, &o, &reply), ENOMEM);
	fail_at = 0;
	CHECK(!reply);
	HAS(client, 0, 2, 0);
	OK(b1_call(to, &(b1_outgoing){ .data = "x", .size = 1 }, &o, &reply));
	HAS(client, 0, 3, 1);
	reply = b1_message_unref(reply);
	HAS(client, 0, 2, 0);
	end();
	given = b1_node_unref(given);
}
