// SPDX-License-Identifier: GPL-2.0-or-later
/* Loops under load, and by others' misbehaviour: deadlines are kept, and loops go on. */
#include "server.h"

#include <stdatomic.h>
#include <string.h>

static int ended(b1_message *reply, int error, void *userdata)
{
	int *result = userdata;

	*result = error;
	return 0;
}

static void call_until(b1_handle *to, uint64_t deadline, int *result)
{
	*result = 1;
	OK(b1_call_async(to, &(b1_outgoing){ .data = "x", .size = 1 },
			 &(b1_call_options){ .deadline = deadline }, NULL, ended, result));
}

static void wait_past(uint64_t deadline)
{
	while (test_now() <= deadline)
		test_sleep_ms(1);
}

/* A handler that is not done before some time. */
static int dawdle(b1_node *node, b1_message *message, void *userdata)
{
	wait_past(*(const uint64_t *)userdata);
	return b1_message_reply_bytes(message, "", 0);
}

TEST("CALL-4 LIB-3 LIB-4 a reply that came in time is told of by the loop, too, whatever stands before it")
{
	int result, own[3];
	b1_handle *to;
	b1_node *node;
	uint64_t end;
	struct pair p;
	int i;

	pair_init(&p);
	OK(b1_node_new(p.b, &node, dawdle, &end));
	OK(b1_handle_transfer(b1_node_get_handle(node), p.a, &to));
	end = test_now() + 30000000;
	call_until(p.to_box, end, &result);
	process_until(p.a, &p.box.n_messages, 1);
	/* Requests are received one by one. */
	for (i = 0; i < 3; i++)
		call_until(to, UINT64_MAX, &own[i]);
	OK(b1_message_reply_bytes(p.box.last, "x", 1));
	EQ(b1_peer_run(p.b, 0), 0);
	GT(test_now(), end);
	EQ(result, 0);
	EQ(drain(p.a), 3);
	for (i = 0; i < 3; i++)
		EQ(own[i], 0);
	b1_handle_unref(to);
	drain(p.b);
	b1_node_unref(node);
	pair_deinit(&p);
}

/* A node that sends itself another message for each that it gets. */
struct endless {
	b1_node *node;
	unsigned int n;
	bool stop;
};

static int endless_handler(b1_node *node, b1_message *message, void *userdata)
{
	struct endless *endless = userdata;

	endless->n++;
	if (!endless->stop)
		OK(b1_send_bytes(b1_node_get_handle(endless->node), "x", 1, NULL));
	return 0;
}

TEST("CALL-4 LIB-3 LIB-4 deadlines are kept, the loop's and those of calls, while messages never end")
{
	struct endless endless = { 0 };
	int result, i;
	uint64_t end;
	struct pair p;

	pair_init(&p);
	OK(b1_node_new(p.b, &endless.node, endless_handler, &endless));
	for (i = 0; i < 20; i++)
		OK(b1_send_bytes(b1_node_get_handle(endless.node), "x", 1, NULL));
	call_until(p.to_box, 1, &result);
	EQ(b1_peer_run(p.b, test_now()), 0);
	EQ(result, -ETIMEDOUT);
	end = test_now() + 20000000;
	call_until(p.to_box, end, &result);
	EQ(b1_peer_run(p.b, end), 0);
	GE(test_now(), end);
	EQ(result, -ETIMEDOUT);
	call_until(p.to_box, 1, &result);
	/* What was queued at the end of the first comes before it. */
	for (i = 0; i < 2; i++)
		GT(OK(b1_peer_process(p.b)), 0);
	EQ(result, -ETIMEDOUT);
	GT(endless.n, 20);
	/* Without waiting, too, if nothing comes at all. */
	endless.stop = true;
	drain(p.b);
	call_until(p.to_box, 1, &result);
	EQ(b1_peer_run(p.b, 0), 0);
	EQ(result, -ETIMEDOUT);
	b1_node_unref(endless.node);
	drain(p.a);
	pair_deinit(&p);
}

/* Calls again when it is over, each time. */
struct again {
	b1_handle *to;
	unsigned int n;
	bool stop;
};

static int call_again(b1_message *reply, int error, void *userdata)
{
	struct again *again = userdata;

	again->n++;
	LT(again->n, 10000);
	if (!again->stop)
		OK(b1_call_async(again->to, &(b1_outgoing){ .data = "x", .size = 1 },
				 &(b1_call_options){ .deadline = 1 }, NULL, call_again, again));
	return 0;
}

TEST("CALL-4 LIB-4 who calls again when its call is over, with the same deadline, does so once at a time")
{
	struct again again = { 0 };
	struct pair p;

	pair_init(&p);
	again.to = p.to_box;
	call_again(NULL, 0, &again);
	EQ(OK(b1_peer_process(p.b)), 1);
	EQ(OK(b1_peer_process(p.b)), 1);
	EQ(again.n, 3);
	again.stop = true;
	EQ(OK(b1_peer_process(p.b)), 1);
	EQ(drain(p.b), 0);
	EQ(drain(p.a), 0);
	pair_deinit(&p);
}

/*
 * Replies that go with the next receive
 */

static int reply_last(b1_node *node, b1_message *message, void *userdata)
{
	return b1_message_reply(message, &(b1_outgoing){ .flags = B1_REPLY_LAST });
}

struct client {
	b1_handle *to;
	int64_t result;
	struct test_thread thread;
};

static void client_run(void *arg)
{
	struct client *client = arg;

	client->result = b1_call(client->to, &(b1_outgoing){ 0 },
				 &(b1_call_options){ .deadline = test_deadline(40) }, NULL);
}

/* The callback of a call that is over waits for a client that waits for a reply. */
static int wait_for_client(b1_message *reply, int error, void *userdata)
{
	struct client *client = userdata;
	uint64_t end = test_deadline(30);

	while (!is_done(&client->thread)) {
		LE(test_now(), end);
		test_sleep_ms(1);
	}
	return -EBADMSG;
}

TEST("CALL-1 LIB-4 a reply that may go with the next receive is not held back by the end of a call")
{
	b1_peer *peer = new_peer();
	struct client client = { 0 };
	b1_node *node;
	struct pair p;

	pair_init(&p);
	OK(b1_node_new(p.b, &node, reply_last, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(node), peer, &client.to));
	test_start(&client.thread, client_run, &client);
	wait_queued(p.b, 1);
	OK(b1_call_async(p.to_box, &(b1_outgoing){ .data = "x", .size = 1 },
			 &(b1_call_options){ .deadline = 1 }, NULL, wait_for_client, &client));
	ERR(b1_peer_run(p.b, test_deadline(30)), EBADMSG);
	test_join(&client.thread);
	EQ(client.result, 0);
	b1_handle_unref(client.to);
	b1_peer_unref(peer);
	b1_node_unref(node);
	drain(p.a);
	pair_deinit(&p);
}

/*
 * Handlers that fail
 */

/* What the handler does. */
struct failing {
	size_t size;	/* of the reply; 0: none */
	int result;	/* what it returns, if not 0, or else what the reply does */
	unsigned int n;
};

static int fail(b1_node *node, b1_message *message, void *userdata)
{
	static char data[LARGE];
	struct failing *f = userdata;
	/* When it has its reply the test goes on, and changes this. */
	int result = f->result;
	int64_t r = 0;

	f->n++;
	if (f->size)
		r = b1_message_reply_bytes(message, data, f->size);
	return result ?: (int)r;
}

static void run_failing(void *arg)
{
	ERR(b1_peer_run(arg, UINT64_MAX), ESHUTDOWN);
}

static void check_error(b1_handle *to, const char *name)
{
	b1_message *reply = NULL;

	ERR(b1_call(to, &(b1_outgoing){ 0 }, NULL, &reply), EREMOTEIO);
	STR(b1_message_get_error_name(reply), name);
	GT(strlen(b1_message_get_error_text(reply)), 0);
	b1_message_unref(reply);
}

TEST("LIB-4 RES-2 a handler that fails with a request answers it so, and its loop goes on")
{
	struct failing f = { 0 };
	struct test_thread thread;
	b1_peer *client = new_peer(), *server = new_peer();
	b1_handle *to;
	b1_node *node;

	OK(b1_node_new(server, &node, fail, &f));
	OK(b1_handle_transfer(b1_node_get_handle(node), client, &to));
	test_start(&thread, run_failing, server);
	f.result = -ENOENT;
	check_error(to, "System.Error.ENOENT");
	/* The caller has no room for it. */
	f = (struct failing){ .size = LARGE };
	check_error(to, "System.Error.EMSGSIZE");
	/* There is no such errno: it is dropped. */
	f = (struct failing){ .result = -100000 };
	ERR(b1_call(to, &(b1_outgoing){ 0 }, NULL, NULL), ECONNABORTED);
	f = (struct failing){ .size = 1, .result = -ECANCELED };
	OK(b1_call(to, &(b1_outgoing){ 0 }, NULL, NULL));
	EQ(f.n, 1);
	/* One that has answered ends the loop, if it wants. */
	f = (struct failing){ .size = 1, .result = -ESHUTDOWN };
	OK(b1_call(to, &(b1_outgoing){ 0 }, NULL, NULL));
	test_join(&thread);
	b1_handle_unref(to);
	b1_node_unref(node);
	b1_peer_unref(client);
	b1_peer_unref(server);
}

TEST("LIB-4 an errno is an error with a name and a text, of either sign")
{
	const int r[] = { EPERM, -ERANGE, 0, 100000 };
	struct client client = { 0 };
	struct pair p;
	unsigned int i;

	pair_init(&p);
	client.to = p.to_box;
	test_start(&client.thread, client_run, &client);
	process_until(p.a, &p.box.n_messages, 1);
	for (i = 2; i < 4; i++)
		ERR(b1_message_reply_errno(p.box.last, r[i]), EINVAL);
	OK(b1_message_reply_errno(p.box.last, r[0]));
	ERR(b1_message_reply_errno(p.box.last, r[1]), EALREADY);
	test_join(&client.thread);
	ERR(client.result, EREMOTEIO);
	box_empty(&p.box);
	pair_deinit(&p);
}

/*
 * Threads that share what comes
 */

static atomic_uint handled;

/* The first waits for the second, which another thread has to handle. */
static int wait_for_other(b1_node *node, b1_message *message, void *userdata)
{
	uint64_t end = test_deadline(30);

	if (atomic_fetch_add(&handled, 1) % 2)
		return 0;
	while (atomic_load(&handled) % 2) {
		LE(test_now(), end);
		test_sleep_ms(1);
	}
	return 0;
}

static int stop_thread(b1_node *node, b1_message *message, void *userdata)
{
	return -ESHUTDOWN;
}

TEST("LIB-2 LIB-3 what comes at once is not one thread's while another waits")
{
	struct test_thread threads[2];
	b1_handle *to[2], *to_stop;
	b1_node *nodes[2], *stop;
	b1_peer *client = new_peer(), *server = new_peer();
	unsigned int i, round;
	uint64_t end;

	for (i = 0; i < 2; i++) {
		OK(b1_node_new(server, &nodes[i], wait_for_other, NULL));
		OK(b1_handle_transfer(b1_node_get_handle(nodes[i]), client, &to[i]));
	}
	OK(b1_node_new(server, &stop, stop_thread, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(stop), client, &to_stop));
	for (round = 0; round < 5; round++) {
		for (i = 0; i < 2; i++) {
			test_start(&threads[i], run_failing, server);
			/* The first one receives before there is another: so it asks for many. */
			test_sleep_ms(10);
		}
		OK(b1_multicast(to, 2, &(b1_outgoing){ 0 }, NULL));
		end = test_deadline(30);
		while (atomic_load(&handled) < 2 * round + 2) {
			LE(test_now(), end);
			test_sleep_ms(1);
		}
		for (i = 0; i < 2; i++)
			OK(b1_send_bytes(to_stop, "", 0, NULL));
		for (i = 0; i < 2; i++)
			test_join(&threads[i]);
		drain(server);
		EQ(atomic_load(&handled), 2 * round + 2);
	}
	for (i = 0; i < 2; i++) {
		b1_handle_unref(to[i]);
		b1_node_unref(nodes[i]);
	}
	b1_handle_unref(to_stop);
	b1_node_unref(stop);
	b1_peer_unref(client);
	b1_peer_unref(server);
}
