// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls that no thread waits for, and calls within calls. */
#include "lib.h"

#include <stdatomic.h>
#include <string.h>

/* What a callback was told. */
struct result {
	atomic_uint n;
	unsigned int n_destroyed;
	int error, returns;
	b1_message *reply;
	b1_watch *frees;	/* by the callback */
};

static int on_reply(b1_message *reply, int error, void *userdata)
{
	struct result *result = userdata;

	CHECK(!reply == (error && error != -EREMOTEIO));
	b1_message_unref(result->reply);
	result->reply = reply ? b1_message_ref(reply) : NULL;
	result->error = error;
	result->frees = b1_watch_free(result->frees);
	atomic_fetch_add(&result->n, 1);
	return result->returns;
}

static void on_destroy(void *userdata)
{
	((struct result *)userdata)->n_destroyed++;
}

static int64_t call(b1_handle *to, const char *text, uint64_t deadline, b1_watch **watchp,
		    struct result *result)
{
	return b1_call_async(to, &(b1_outgoing){ .data = text, .size = strlen(text) },
			     &(b1_call_options){ .deadline = deadline }, watchp, on_reply, result);
}

/* Receive one request; it is in the box. */
static b1_message *receive(struct pair *p)
{
	unsigned int n = p->box.n_messages;

	process_until(p->a, &p->box.n_messages, n + 1);
	EQ(p->box.n_messages, n + 1);
	CHECK(b1_message_is_call(p->box.last));
	return p->box.last;
}

static void result_empty(struct result *result)
{
	result->reply = b1_message_unref(result->reply);
}

TEST("CALL-2 LIB-4 an asynchronous call calls back once, with the reply, an error reply, or its end")
{
	struct result result[6] = { 0 };
	b1_message *requests[6];
	static char data[LARGE];
	b1_watch *watch = NULL;
	uint64_t deadline;
	struct pair p;
	int i;

	pair_init(&p);
	for (i = 0; i < 6; i++) {
		OK(b1_call_async(p.to_box, &(b1_outgoing){ .data = &i, .size = sizeof(i) },
				 &(b1_call_options){ .reply_size = LARGE, .reply_handles = 1 },
				 i == 5 ? &watch : NULL, on_reply, &result[i]));
		requests[i] = b1_message_ref(receive(&p));
	}
	OK(b1_watch_set_destroy(watch, on_destroy));
	EQ(drain(p.b), 0);
	OK(b1_peer_get_timeout(p.b, &deadline));
	EQ(deadline, UINT64_MAX);
	EQ(info(p.b).n_calls, 6);
	EQ(info(p.a).n_calls, 6);
	/* Not in order. */
	pattern(data, LARGE, 1);
	OK(b1_message_reply_bytes(requests[3], data, LARGE));
	OK(b1_message_reply_bytes(requests[0], "0", 1));
	OK(b1_message_reply_error(requests[1], "name", "text"));
	requests[2] = b1_message_unref(requests[2]);
	EQ(OK(b1_peer_process(p.b)), 4);
	EQ(result[3].n, 1);
	EQ(result[3].error, 0);
	check_pattern(result[3].reply, LARGE, 1);
	EQ(result[0].error, 0);
	MEM(b1_message_get_data(result[0].reply, NULL), "0", 1);
	EQ(result[1].error, -EREMOTEIO);
	STR(b1_message_get_error_name(result[1].reply), "name");
	EQ(result[2].error, -ECONNABORTED);
	EQ(result[4].n, 0);
	/* What the callback returns; and it may free what it is called for. */
	result[4].returns = -EBADMSG;
	result[5].frees = watch;
	OK(b1_message_reply_bytes(requests[4], "", 0));
	OK(b1_message_reply(requests[5], &(b1_outgoing){
		.handles = (b1_handle *[]){ b1_node_get_handle(p.box.node) }, .n_handles = 1 }));
	ERR(b1_peer_process(p.b), EBADMSG);
	EQ(OK(b1_peer_process(p.b)), 1);
	EQ(result[5].n_destroyed, 1);
	CHECK(b1_message_get_handle(result[5].reply, 0) == p.to_box);
	for (i = 0; i < 6; i++) {
		EQ(result[i].n, 1);
		result_empty(&result[i]);
		b1_message_unref(requests[i]);
	}
	/* The handle may go while the call is on its way. */
	OK(call(p.to_box, "x", 0, NULL, &result[0]));
	p.to_box = b1_handle_unref(p.to_box);
	OK(b1_message_reply_bytes(receive(&p), "0", 1));
	EQ(drain(p.b), 1);
	EQ(result[0].n, 2);
	result_empty(&result[0]);
	EQ(info(p.b).n_calls, 0);
	pair_deinit(&p);
}

TEST("CALL-2 OBJ-8 LIB-4 the end of the node ends an asynchronous call; what can not be sent does not begin")
{
	b1_outgoing out = { .data = "x", .size = 1, .deadline = 1 };
	struct result result = { 0 };
	b1_watch *watch = NULL;
	b1_lease lease = { .base = &out, .size = 1, .flags = B1_LEASE_READ };
	b1_message *request;
	struct pair p;

	pair_init(&p);
	ERR(b1_call_async(p.to_box, &out, NULL, &watch, on_reply, &result), EINVAL);
	out.deadline = UINT64_MAX;
	ERR(b1_call_async(p.to_box, &out, NULL, &watch, NULL, &result), EINVAL);
	ERR(b1_call_async(p.to_box, &out, &(b1_call_options){ .flags = B1_CALL_NESTED }, &watch,
			  on_reply, &result), EINVAL);
	ERR(b1_call_async(p.to_box, &out, &(b1_call_options){ .leases = &lease, .n_leases = 1 },
			  &watch, on_reply, &result), EINVAL);
	OK(b1_call_async(p.to_box, &out, NULL, NULL, on_reply, &result));
	request = b1_message_ref(receive(&p));
	OK(call(p.to_box, "y", 0, NULL, &result));
	OK(b1_node_destroy(p.box.node, 0));
	/* One was not received. And the handle is dead. */
	EQ(drain(p.b), 2);
	EQ(result.n, 1);
	EQ(result.error, -EHOSTUNREACH);
	/* The other one is served, whatever has become of the node. */
	OK(b1_message_reply_bytes(request, "x", 1));
	EQ(drain(p.b), 1);
	EQ(result.error, 0);
	result_empty(&result);
	b1_message_unref(request);
	ERR(call(p.to_box, "x", 0, &watch, &result), EHOSTUNREACH);
	CHECK(!watch);
	EQ(result.n, 2);
	pair_deinit(&p);
}

TEST("CALL-4 LIB-3 LIB-4 the deadline of an asynchronous call is the peer's to keep")
{
	struct result result[3] = { 0 };
	uint64_t now = test_now(), deadline, end;
	b1_message *request, *other;
	struct pair p;
	int i;

	pair_init(&p);
	end = now + 60000000;
	OK(call(p.to_box, "2", end + UINT64_C(100000000000), NULL, &result[2]));
	other = b1_message_ref(receive(&p));
	OK(call(p.to_box, "0", end, NULL, &result[0]));
	request = b1_message_ref(receive(&p));
	OK(call(p.to_box, "1", end + 1, NULL, &result[1]));
	OK(b1_peer_get_timeout(p.b, &deadline));
	EQ(deadline, end);
	EQ(OK(b1_peer_wait(p.b, UINT64_MAX)), 1);
	GE(test_now(), end);
	while (test_now() <= end + 1)
		;
	EQ(OK(b1_peer_process(p.b)), 2);
	for (i = 0; i < 2; i++) {
		EQ(result[i].n, 1);
		EQ(result[i].error, -ETIMEDOUT);
	}
	EQ(result[2].n, 0);
	OK(b1_peer_get_timeout(p.b, &deadline));
	EQ(deadline, end + UINT64_C(100000000000));
	/* The server is told of the one that it has received, and never sees the other. */
	EQ(drain(p.a), 1);
	CHECK(b1_message_is_cancelled(request));
	ERR(b1_message_reply_bytes(request, "x", 1), ECANCELED);
	b1_message_unref(request);
	EQ(p.box.n_messages, 2);
	EQ(drain(p.b), 0);

	/* What has come in time is told of, however late one looks. */
	end = test_now() + 20000000;
	OK(call(p.to_box, "0", end, NULL, &result[0]));
	OK(b1_message_reply_bytes(receive(&p), "x", 1));
	while (test_now() <= end)
		test_sleep_ms(1);
	EQ(OK(b1_peer_process(p.b)), 1);
	EQ(result[0].n, 2);
	EQ(result[0].error, 0);
	result_empty(&result[0]);
	/* One that has passed already. */
	OK(call(p.to_box, "0", 1, NULL, &result[0]));
	EQ(OK(b1_peer_wait(p.b, UINT64_MAX)), 1);
	EQ(OK(b1_peer_process(p.b)), 1);
	EQ(result[0].error, -ETIMEDOUT);
	EQ(drain(p.a), 0);
	b1_message_unref(other);
	EQ(drain(p.b), 1);
	EQ(result[2].error, -ECONNABORTED);
	pair_deinit(&p);
}

/* A thread that waits and processes, as it is told beforehand. */
struct loop {
	b1_peer *peer;
	atomic_bool stop;
	bool runs;
	struct test_thread thread;
};

static void loop_run(void *arg)
{
	struct loop *loop = arg;

	if (loop->runs) {
		ERR(b1_peer_run(loop->peer, UINT64_MAX), EBADMSG);
		return;
	}
	OK(b1_peer_wait(loop->peer, UINT64_MAX));
	while (!atomic_load(&loop->stop)) {
		OK(b1_peer_process(loop->peer));
		if (!atomic_load(&loop->stop))
			OK(b1_peer_wait(loop->peer, UINT64_MAX));
	}
}

static int stop_loop(b1_message *reply, int error, void *userdata)
{
	struct loop *loop = userdata;

	EQ(error, -ETIMEDOUT);
	atomic_store(&loop->stop, true);
	return loop->runs ? -EBADMSG : 0;
}

TEST("CALL-4 LIB-3 LIB-4 who waits already is told of an earlier deadline")
{
	struct loop loop = { 0 };
	struct result result = { 0 };
	struct pair p;
	int i;

	pair_init(&p);
	loop.peer = p.b;
	for (i = 0; i < 4; i++) {
		loop.runs = i % 2;
		atomic_store(&loop.stop, false);
		/* One that is due long after. */
		if (i == 2)
			OK(call(p.to_box, "x", test_deadline(1000), NULL, &result));
		test_start(&loop.thread, loop_run, &loop);
		test_sleep_ms(20);
		OK(b1_call_async(p.to_box, &(b1_outgoing){ .data = "x", .size = 1 },
				 &(b1_call_options){ .deadline = test_now() + 20000000 }, NULL,
				 stop_loop, &loop));
		test_join(&loop.thread);
	}
	EQ(result.n, 0);
	OK(b1_message_reply_bytes(receive(&p), "x", 1));
	box_empty(&p.box);
	drain(p.b);
	EQ(result.n, 1);
	result_empty(&result);
	p.to_box = b1_handle_unref(p.to_box);
	drain(p.a);
	/* What they are woken by is a node of the peer's, which goes with it. */
	LE(info(p.b).n_nodes, 1);
	b1_peer_unref(p.b);
	p.b = new_peer();
	pair_deinit(&p);
}

TEST("CALL-4 LIB-4 to free the watch cancels the call, and nothing is called")
{
	struct result result = { 0 };
	b1_watch *watch[4];
	b1_message *requests[3];
	struct pair p;
	int i;

	pair_init(&p);
	for (i = 0; i < 4; i++) {
		OK(call(p.to_box, "x", i % 2 ? test_deadline(1000) : 0, &watch[i], &result));
		OK(b1_watch_set_destroy(watch[i], on_destroy));
		if (i < 3)
			requests[i] = b1_message_ref(receive(&p));
	}
	/* Before it is received; while it is served; when the reply lies there; when it is taken in. */
	b1_watch_free(watch[3]);
	EQ(drain(p.a), 0);
	EQ(info(p.b).n_calls, 3);
	EQ(result.n_destroyed, 1);
	b1_watch_free(watch[0]);
	EQ(drain(p.a), 1);
	CHECK(b1_message_is_cancelled(requests[0]));
	ERR(b1_message_reply_bytes(requests[0], "x", 1), ECANCELED);
	OK(b1_message_reply_bytes(requests[2], "x", 1));
	EQ(OK(b1_peer_wait(p.b, UINT64_MAX)), 1);
	OK(b1_message_reply_bytes(requests[1], "x", 1));
	b1_watch_free(watch[2]);
	b1_watch_free(watch[1]);
	drain(p.b);
	for (i = 0; i < 3; i++)
		b1_message_unref(requests[i]);
	EQ(result.n, 0);
	EQ(result.n_destroyed, 4);
	EQ(info(p.b).n_calls, 0);
	box_empty(&p.box);
	drain(p.a);
	EQ(info(p.a).n_calls, 0);
	pair_deinit(&p);
}

TEST("OBJ-1 CALL-4 LIB-4 the end of the peer ends its calls, uncalled")
{
	struct result result = { 0 };
	b1_watch *watch[2] = { NULL };
	b1_message *requests[3], *kept;
	struct pair p;
	int i;

	pair_init(&p);
	for (i = 0; i < 3; i++) {
		OK(call(p.to_box, "x", i % 2 ? test_deadline(1000) : 0, i < 2 ? &watch[i] : NULL, &result));
		requests[i] = b1_message_ref(receive(&p));
		if (i < 2)
			OK(b1_watch_set_destroy(watch[i], on_destroy));
	}
	/* Something that keeps the file open. */
	OK(call(p.to_box, "x", 0, NULL, &result));
	OK(b1_message_reply_bytes(receive(&p), "x", 1));
	EQ(drain(p.b), 1);
	kept = result.reply;
	result.reply = NULL;
	/* One reply is there. */
	OK(b1_message_reply_bytes(requests[0], "x", 1));
	p.b = b1_peer_unref(p.b);
	EQ(result.n, 1);
	EQ(result.n_destroyed, 0);
	b1_watch_free(watch[0]);
	b1_watch_free(watch[1]);
	EQ(result.n_destroyed, 2);
	drain(p.a);
	for (i = 1; i < 3; i++) {
		CHECK(b1_message_is_cancelled(requests[i]));
		ERR(b1_message_reply_bytes(requests[i], "x", 1), ECANCELED);
	}
	for (i = 0; i < 3; i++)
		b1_message_unref(requests[i]);
	ERR(call(p.to_box, "x", 0, NULL, &result), ESHUTDOWN);
	ERR(b1_call(p.to_box, &(b1_outgoing){ 0 }, NULL, NULL), ESHUTDOWN);
	MEM(b1_message_get_data(kept, NULL), "x", 1);
	b1_message_unref(kept);
	p.b = new_peer();
	pair_deinit(&p);
}

/* Threads that call, and others that process the replies, cancel, and let time pass. */
struct storm {
	b1_peer *client, *server;
	b1_handle *to;
	atomic_bool stop;
	atomic_uint n_going;	/* that nobody cancels */
};

struct one {
	struct storm *storm;
	bool freed;
	atomic_uint n;
};

struct storm_caller {
	struct storm *storm;
	struct one ones[600];
	unsigned int n;
	struct test_thread thread;
};

static int one_reply(b1_message *reply, int error, void *userdata)
{
	struct one *one = userdata;

	if (error && error != -ETIMEDOUT)
		FAIL("error %d", error);
	atomic_fetch_add(&one->n, 1);
	if (!one->freed)
		atomic_fetch_sub(&one->storm->n_going, 1);
	return 0;
}

static void storm_call(void *arg)
{
	struct storm_caller *c = arg;
	struct storm *storm = c->storm;
	unsigned int i;

	for (i = 0; i < c->n; i++) {
		uint64_t deadline = i % 4 == 3 ? test_now() + 50000 : test_deadline(1000);
		b1_watch *watch = NULL;

		while (atomic_load(&storm->n_going) > 100)
			test_sleep_ms(1);
		c->ones[i] = (struct one){ .storm = storm, .freed = i % 3 == 0 };
		if (!c->ones[i].freed)
			atomic_fetch_add(&storm->n_going, 1);
		OK(b1_call_async(storm->to,
				 &(b1_outgoing){ .data = &i, .size = sizeof(i), .deadline = UINT64_MAX },
				 &(b1_call_options){ .deadline = deadline },
				 c->ones[i].freed ? &watch : NULL, one_reply, &c->ones[i]));
		b1_watch_free(watch);
	}
}

static void storm_process(void *arg)
{
	struct storm *storm = arg;

	while (!atomic_load(&storm->stop))
		if (!OK(b1_peer_process(storm->client)))
			OK(b1_peer_wait(storm->client, test_now() + 20000000));
}

static void storm_serve(void *arg)
{
	struct storm *storm = arg;

	while (!atomic_load(&storm->stop))
		OK(b1_peer_run(storm->server, test_now() + 20000000));
}

static int storm_handler(b1_node *node, b1_message *message, void *userdata)
{
	unsigned int flags = *(const unsigned int *)b1_message_get_data(message, NULL) % 2;
	int64_t r;

	CHECK(b1_message_is_call(message));
	r = b1_message_reply(message, &(b1_outgoing){ .flags = flags ? B1_REPLY_LAST : 0,
						      .data = "x", .size = 1 });
	if (r != -ECANCELED)
		OK(r);
	return 0;
}

TEST("CALL-2 CALL-4 LIB-4 many threads call, cancel and process at once, and each call ends once")
{
	static struct storm_caller callers[3];
	struct test_thread processors[2], servers[2];
	uint64_t end = test_deadline(50);
	struct storm storm = { 0 };
	b1_node *node = NULL;
	unsigned int i, k;

	storm.client = new_peer();
	storm.server = new_peer();
	OK(b1_node_new(storm.server, &node, storm_handler, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(node), storm.client, &storm.to));
	for (i = 0; i < 2; i++) {
		test_start(&processors[i], storm_process, &storm);
		test_start(&servers[i], storm_serve, &storm);
	}
	for (i = 0; i < 3; i++) {
		callers[i].storm = &storm;
		callers[i].n = test_rounds(600);
		if (callers[i].n > 600)
			callers[i].n = 600;
		test_start(&callers[i].thread, storm_call, &callers[i]);
	}
	for (i = 0; i < 3; i++)
		test_join(&callers[i].thread);
	while (atomic_load(&storm.n_going)) {
		LE(test_now(), end);
		test_sleep_ms(1);
	}
	atomic_store(&storm.stop, true);
	for (i = 0; i < 2; i++) {
		test_join(&processors[i]);
		test_join(&servers[i]);
	}
	for (i = 0; i < 3; i++)
		for (k = 0; k < callers[i].n; k++)
			if (callers[i].ones[k].freed)
				LE(callers[i].ones[k].n, 1);
			else
				EQ(callers[i].ones[k].n, 1);
	b1_handle_unref(storm.to);
	drain(storm.client);
	drain(storm.server);
	EQ(info(storm.client).n_calls, 0);
	EQ(info(storm.server).n_calls, 0);
	b1_peer_unref(storm.client);
	b1_node_unref(node);
	b1_peer_unref(storm.server);
}
