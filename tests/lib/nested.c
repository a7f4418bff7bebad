// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls within calls; what calls lend, bring and take away. */
#include "lib.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Both sides serve each other: a request is how many calls are still to be made
 * within it, to and fro. The reply is how many were.
 */
struct side {
	b1_peer *peer;
	b1_node *node;
	b1_handle *to;		/* the other one */
	unsigned int n;		/* requests */
	pid_t tid;		/* who has served the last one */
	uint64_t chain;		/* of that */
	uint64_t flags;		/* of its calls */
	bool last;		/* how it replies */
	b1_message *parent;	/* of its calls, or NULL */
};

static int64_t call(b1_handle *to, unsigned int depth, const b1_call_options *o, unsigned int *np)
{
	b1_message *reply = NULL;
	int64_t r;

	r = b1_call(to, &(b1_outgoing){ .data = &depth, .size = sizeof(depth) }, o, &reply);
	if (r >= 0)
		memcpy(np, b1_message_get_data(reply, NULL), sizeof(*np));
	b1_message_unref(reply);
	return r;
}

static int side_handler(b1_node *node, b1_message *message, void *userdata)
{
	struct side *side = userdata;
	unsigned int depth, n = 0;
	int64_t r;

	side->n++;
	side->tid = (pid_t)syscall(SYS_gettid);
	side->chain = b1_message_get_chain(message);
	memcpy(&depth, b1_message_get_data(message, NULL), sizeof(depth));
	if (depth) {
		r = call(side->to, depth - 1, &(b1_call_options){ .flags = side->flags }, &n);
		if (r < 0) {
			OK(b1_message_reply_error(message, "failed", strerror((int)-r)));
			return -EBADMSG;
		}
	}
	n++;
	r = b1_message_reply(message, &(b1_outgoing){ .flags = side->last ? B1_REPLY_LAST : 0,
						      .data = &n, .size = sizeof(n) });
	if (r != -ECANCELED)
		OK(r);
	/* To those that called within a call this is of no interest. */
	return -EBADMSG;
}

struct sides {
	struct side a, b;
	struct test_thread thread;
	atomic_bool stop;
};

static void sides_run(void *arg)
{
	struct sides *s = arg;
	int64_t r;

	while (!atomic_load(&s->stop)) {
		r = b1_peer_run(s->b.peer, test_now() + 20000000);
		if (r != -EBADMSG)
			OK(r);
	}
}

static void sides_init(struct sides *s)
{
	memset(s, 0, sizeof(*s));
	s->a.peer = new_peer();
	s->b.peer = new_peer();
	OK(b1_node_new(s->a.peer, &s->a.node, side_handler, &s->a));
	OK(b1_node_new(s->b.peer, &s->b.node, side_handler, &s->b));
	OK(b1_handle_transfer(b1_node_get_handle(s->b.node), s->a.peer, &s->a.to));
	OK(b1_handle_transfer(b1_node_get_handle(s->a.node), s->b.peer, &s->b.to));
	test_start(&s->thread, sides_run, s);
}

static void sides_deinit(struct sides *s)
{
	atomic_store(&s->stop, true);
	test_join(&s->thread);
	b1_handle_unref(s->a.to);
	b1_handle_unref(s->b.to);
	drain(s->a.peer);
	drain(s->b.peer);
	EQ(info(s->a.peer).n_calls, 0);
	EQ(info(s->b.peer).n_calls, 0);
	HAS(s->a.peer, 1, 0, 0);
	HAS(s->b.peer, 1, 0, 0);
	b1_node_unref(s->a.node);
	b1_node_unref(s->b.node);
	b1_peer_unref(s->a.peer);
	b1_peer_unref(s->b.peer);
}

TEST("CALL-5 LIB-4 the thread that waits serves the calls within its call, as deep as they go")
{
	const unsigned int depths[] = { 1, 2, 5, BUS1_MAX_DEPTH - 1 };
	b1_call_options o = { .flags = B1_CALL_NESTED };
	unsigned int i, k, n;
	struct sides s;
	uint64_t chain;

	sides_init(&s);
	s.a.flags = s.b.flags = B1_CALL_NESTED;
	for (i = 0; i < 4; i++)
		for (k = 0; k < 4; k++) {
			s.a.n = s.b.n = 0;
			s.a.last = k % 2;
			s.b.last = k / 2;
			o.deadline = test_deadline(30);
			OK(call(s.a.to, depths[i], &o, &n));
			EQ(n, depths[i] + 1);
			EQ(s.b.n, depths[i] / 2 + 1);
			EQ(s.a.n, (depths[i] + 1) / 2);
			/* All on two threads, and of one chain. */
			EQ(s.a.tid, syscall(SYS_gettid));
			EQ(s.b.tid, s.thread.tid);
			EQ(s.a.chain, s.b.chain);
		}
	/* One more is too many: the one that would make it is told. */
	s.a.last = s.b.last = false;
	ERR(call(s.a.to, BUS1_MAX_DEPTH, &o, &n), EREMOTEIO);
	/* Another call is another chain, and nobody within anything. */
	chain = s.b.chain;
	OK(call(s.a.to, 0, NULL, &n));
	NE(s.b.chain, chain);
	EQ(drain(s.a.peer), 0);
	sides_deinit(&s);
}

TEST("CALL-5 LIB-4 without it a call within a call is for whoever processes the peer")
{
	b1_call_options o = {};
	uint64_t wait = 100000000;
	struct sides s;
	unsigned int n;

	sides_init(&s);
	/* On a busy machine nobody may have got to serve the outer one. */
	do {
		o.deadline = test_now() + wait;
		ERR(call(s.a.to, 1, &o, &n), ETIMEDOUT);
		EQ(s.a.n, 0);
		LT(wait *= 2, 100000000000);
	} while (b1_peer_wait(s.a.peer, test_now() + wait) != 1);
	/* The call within it is what is served now. */
	ERR(b1_peer_process(s.a.peer), EBADMSG);
	EQ(s.a.n, 1);
	EQ(s.a.chain, s.b.chain);
	sides_deinit(&s);
}

/* A request that is served by another thread than it was received by. */
static int keep(b1_node *node, b1_message *message, void *userdata)
{
	b1_message *_Atomic *kept = userdata;

	CHECK(!atomic_load(kept));
	atomic_store(kept, b1_message_ref(message));
	return 0;
}

struct outer {
	b1_handle *to;
	struct test_thread thread;
	unsigned int n_served;
};

static void outer_run(void *arg)
{
	struct outer *outer = arg;

	OK(b1_call(outer->to, &(b1_outgoing){ 0 },
		   &(b1_call_options){ .flags = B1_CALL_NESTED, .deadline = test_deadline(30) }, NULL));
}

static int outer_serve(b1_node *node, b1_message *message, void *userdata)
{
	struct outer *outer = userdata;

	outer->n_served++;
	EQ(syscall(SYS_gettid), outer->thread.tid);
	return b1_message_reply(message, &(b1_outgoing){ .flags = B1_REPLY_LAST, .data = "in", .size = 2 });
}

TEST("CALL-5 LIB-4 who serves a request elsewhere says so, and what was answered is no parent")
{
	b1_message *_Atomic kept = NULL;
	b1_message *request, *reply = NULL;
	b1_handle *back = NULL;
	struct outer outer = { 0 };
	b1_node *node = NULL, *back_node = NULL;
	b1_peer *client = new_peer(), *server = new_peer();
	b1_call_options o = { 0 };

	OK(b1_node_new(server, &node, keep, &kept));
	OK(b1_node_new(client, &back_node, outer_serve, &outer));
	OK(b1_handle_transfer(b1_node_get_handle(node), client, &outer.to));
	OK(b1_handle_transfer(b1_node_get_handle(back_node), server, &back));
	test_start(&outer.thread, outer_run, &outer);
	OK(b1_peer_wait(server, test_deadline(30)));
	OK(b1_peer_process(server));
	o.parent = request = atomic_load(&kept);
	o.deadline = test_deadline(30);
	OK(b1_call(back, &(b1_outgoing){ .data = "x", .size = 1 }, &o, &reply));
	MEM(b1_message_get_data(reply, NULL), "in", 2);
	reply = b1_message_unref(reply);
	EQ(outer.n_served, 1);
	/* Without, it is a call like any other. */
	o.parent = NULL;
	o.deadline = test_now() + 20000000;
	ERR(b1_call(back, &(b1_outgoing){ .data = "x", .size = 1 }, &o, &reply), ETIMEDOUT);
	OK(b1_message_reply_bytes(request, "", 0));
	test_join(&outer.thread);
	EQ(outer.n_served, 1);
	o.parent = request;
	ERR(b1_call(back, &(b1_outgoing){ .data = "x", .size = 1 }, &o, &reply), EALREADY);
	b1_message_unref(request);
	EQ(drain(client), 0);
	b1_handle_unref(back);
	b1_handle_unref(outer.to);
	b1_peer_unref(client);
	b1_peer_unref(server);
	b1_node_unref(node);
	b1_node_unref(back_node);
}

/* One that says that it is done, and then waits for the one who waits for that. */
static int not_last(b1_node *node, b1_message *message, void *userdata)
{
	b1_handle *back = b1_message_get_handle(message, 0);
	b1_message *reply = NULL;

	back = b1_handle_ref(back);
	OK(b1_message_reply(message, &(b1_outgoing){ .flags = B1_REPLY_LAST }));
	OK(b1_call(back, &(b1_outgoing){ 0 }, &(b1_call_options){ .deadline = test_deadline(30) }, &reply));
	b1_message_unref(reply);
	b1_handle_unref(back);
	return -ESHUTDOWN;
}

static int say_yes(b1_node *node, b1_message *message, void *userdata)
{
	++*(unsigned int *)userdata;
	return b1_message_reply_bytes(message, "yes", 3);
}

static void run_until_told(void *arg)
{
	ERR(b1_peer_run(arg, UINT64_MAX), ESHUTDOWN);
}

TEST("CALL-1 LIB-4 a reply that may go with the next receive is not held back by a call")
{
	b1_peer *client = new_peer(), *server = new_peer();
	b1_node *node = NULL, *back = NULL;
	b1_handle *to = NULL, *to_back;
	struct test_thread thread;
	unsigned int n = 0;

	OK(b1_node_new(server, &node, not_last, NULL));
	OK(b1_node_new(client, &back, say_yes, &n));
	OK(b1_handle_transfer(b1_node_get_handle(node), client, &to));
	to_back = b1_node_get_handle(back);
	test_start(&thread, run_until_told, server);
	OK(b1_call(to, &(b1_outgoing){ .handles = &to_back, .n_handles = 1 },
		   &(b1_call_options){ .deadline = test_deadline(30) }, NULL));
	process_until(client, &n, 1);
	test_join(&thread);
	drain(server);
	b1_handle_unref(to);
	b1_peer_unref(client);
	b1_peer_unref(server);
	b1_node_unref(node);
	b1_node_unref(back);
}

/*
 * What is brought, and taken away
 */

static int give_back(b1_node *node, b1_message *message, void *userdata)
{
	b1_handle *handle = b1_message_get_handle(message, 0);

	/* If it is too much it is left unanswered. */
	b1_message_reply(message, &(b1_outgoing){ .handles = &handle, .n_handles = handle ? 1 : 0 });
	return 0;
}

static int say_stop(b1_node *node, b1_message *message, void *userdata)
{
	return -ESHUTDOWN;
}

/* A server with a node for that handler, in a thread. */
struct service {
	b1_peer *peer, *client;
	b1_node *node, *stop;
	b1_handle *to, *to_stop;
	struct test_thread thread;
};

static void service_init(struct service *s, b1_message_fn handler, void *userdata)
{
	*s = (struct service){ .peer = new_peer(), .client = new_peer() };
	OK(b1_node_new(s->peer, &s->node, handler, userdata));
	OK(b1_node_new(s->peer, &s->stop, say_stop, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(s->node), s->client, &s->to));
	OK(b1_handle_transfer(b1_node_get_handle(s->stop), s->client, &s->to_stop));
	test_start(&s->thread, run_until_told, s->peer);
}

static void service_deinit(struct service *s)
{
	OK(b1_send_bytes(s->to_stop, "", 0, NULL));
	test_join(&s->thread);
	b1_handle_unref(s->to);
	b1_handle_unref(s->to_stop);
	drain(s->client);
	drain(s->peer);
	HAS(s->client, 0, 0, 0);
	HAS(s->peer, 2, 0, 0);
	EQ(info(s->client).n_calls, 0);
	EQ(info(s->peer).n_calls, 0);
	b1_node_unref(s->node);
	b1_node_unref(s->stop);
	b1_peer_unref(s->peer);
	b1_peer_unref(s->client);
}

TEST("CALL-2 OBJ-5 LIB-4 what a call gives away goes if it succeeds, and is the caller's if not")
{
	b1_call_options o = { .reply_handles = 1 };
	b1_message *reply = NULL;
	struct service s;
	b1_pass pass = { .flags = B1_PASS_MOVE };
	b1_outgoing out = { .passes = &pass, .n_passes = 1 };
	b1_handle *handle = NULL;
	struct pair p;

	service_init(&s, give_back, NULL);
	pair_init(&p);
	OK(b1_handle_transfer(p.to_box, s.client, &handle));
	pass.handle = handle;
	OK(b1_call(s.to, &out, &o, &reply));
	/* The reference has gone with it and come with the reply. */
	CHECK(b1_message_get_handle(reply, 0));
	handle = b1_handle_ref(b1_message_get_handle(reply, 0));
	reply = b1_message_unref(reply);
	OK(b1_send_bytes(handle, "still", 5, NULL));
	pass.handle = handle;
	o.reply_handles = 0;
	/* Its reply is too much, so there is none. */
	ERR(b1_call(s.to, &out, &o, &reply), ECONNABORTED);
	OK(b1_send_bytes(handle, "there", 5, NULL));
	drain(p.a);
	EQ(p.box.n_messages, 2);
	EQ(p.box.n_unused, 0);
	b1_handle_unref(handle);
	service_deinit(&s);
	pair_deinit(&p);
}

/* A server whose nodes die as soon as they were given away. */
static int give_dying(b1_node *node, b1_message *message, void *userdata)
{
	b1_handle *handle;
	b1_node *dying;

	OK(b1_node_new(b1_node_get_userdata(node), &dying, NULL, NULL));
	handle = b1_node_get_handle(dying);
	OK(b1_message_reply(message, &(b1_outgoing){ .handles = &handle, .n_handles = 1 }));
	b1_node_unref(dying);
	return 0;
}

static void process_run(void *arg)
{
	struct service *s = arg;

	while (!b1_handle_is_dead(s->to_stop))
		if (!OK(b1_peer_process(s->client)))
			OK(b1_peer_wait(s->client, test_now() + 20000000));
}

TEST("OBJ-10 CALL-2 LIB-2 no death is missed of what comes with replies, whoever processes meanwhile")
{
	unsigned int i, n = test_rounds(1000), dead = 0, early = 0;
	b1_call_options o = { .reply_handles = 1 };
	uint64_t end = test_deadline(50);
	struct test_thread processors[2];
	b1_message *reply = NULL;
	b1_handle *handle;
	struct service s;

	service_init(&s, give_dying, NULL);
	b1_node_unref(s.node);
	b1_handle_unref(s.to);
	OK(b1_node_new(s.peer, &s.node, give_dying, s.peer));
	OK(b1_handle_transfer(b1_node_get_handle(s.node), s.client, &s.to));
	for (i = 0; i < 2; i++)
		test_start(&processors[i], process_run, &s);
	for (i = 0; i < n; i++) {
		int64_t r;

		OK(b1_call(s.to, &(b1_outgoing){ 0 }, &o, &reply));
		handle = b1_handle_ref(b1_message_get_handle(reply, 0));
		reply = b1_message_unref(reply);
		r = b1_handle_watch(handle, NULL, count_dead, &dead);
		if (r == -EHOSTUNREACH)
			early++;
		else
			OK(r);
		while (!b1_handle_is_dead(handle)) {
			LE(test_now(), end);
			sched_yield();
		}
		while (__atomic_load_n(&dead, __ATOMIC_SEQ_CST) + early <= i) {
			LE(test_now(), end);
			sched_yield();
		}
		b1_handle_unref(handle);
	}
	EQ(dead + early, n);
	/* The end of this node ends the threads. */
	OK(b1_send_bytes(s.to_stop, "", 0, NULL));
	test_join(&s.thread);
	b1_node_unref(s.stop);
	for (i = 0; i < 2; i++)
		test_join(&processors[i]);
	b1_handle_unref(s.to);
	b1_handle_unref(s.to_stop);
	drain(s.client);
	HAS(s.client, 0, 0, 0);
	b1_peer_unref(s.client);
	b1_node_unref(s.node);
	b1_peer_unref(s.peer);
}

/*
 * Leases
 */

#define LEASED 10000

static int use_leases(b1_node *node, b1_message *message, void *userdata)
{
	static uint8_t data[LEASED], other[LEASED];

	EQ(b1_message_get_n_leases(message), 3);
	/* What is read from the first goes to the second, back to front. */
	OK(b1_message_read_lease(message, 0, 0, data, LEASED / 2));
	OK(b1_message_read_lease(message, 0, LEASED / 2, data + LEASED / 2, LEASED / 2));
	OK(b1_message_write_lease(message, 1, LEASED / 2, data, LEASED / 2));
	OK(b1_message_write_lease(message, 1, 0, data + LEASED / 2, LEASED / 2));
	OK(b1_message_read_lease(message, 0, LEASED, data, 0));
	ERR(b1_message_write_lease(message, 0, 0, data, 1), EPERM);
	ERR(b1_message_read_lease(message, 1, 0, data, 1), EPERM);
	ERR(b1_message_read_lease(message, 3, 0, data, 1), ENXIO);
	ERR(b1_message_read_lease(message, SIZE_MAX, 0, data, 1), ENXIO);
	ERR(b1_message_read_lease(message, 0, 1, data, LEASED), ERANGE);
	ERR(b1_message_read_lease(message, 0, UINT64_MAX, data, 2), ERANGE);
	if (userdata)
		ERR(b1_message_read_lease(message, 2, 0, other, 1), EREMOTEIO);
	OK(b1_message_reply_bytes(message, "done", 4));
	ERR(b1_message_read_lease(message, 0, 0, data, 1), EALREADY);
	return 0;
}

TEST("CALL-8 LIB-4 a call lends memory, to be read and written as it says, until it is over")
{
	static uint8_t from[LEASED], to[LEASED];
	b1_lease leases[3] = {
		{ .base = from, .size = LEASED, .flags = B1_LEASE_READ },
		{ .base = to, .size = LEASED, .flags = B1_LEASE_WRITE },
		{ .base = (void *)16, .size = 16, .flags = B1_LEASE_READ | B1_LEASE_WRITE },
	};
	b1_message *reply = NULL, *plain;
	b1_call_options o = { .leases = leases, .n_leases = 3 };
	struct service s;
	struct pair p;
	int faulty;

	for (faulty = 0; faulty < 2; faulty++) {
		memset(to, 0, LEASED);
		pattern(from, LEASED, (unsigned int)faulty);
		service_init(&s, use_leases, faulty ? from : NULL);
		OK(b1_call(s.to, &(b1_outgoing){ 0 }, &o, &reply));
		MEM(b1_message_get_data(reply, NULL), "done", 4);
		MEM(to, from + LEASED / 2, LEASED / 2);
		MEM(to + LEASED / 2, from, LEASED / 2);
		EQ(!b1_message_has_fault(reply), !faulty);
		reply = b1_message_unref(reply);
		service_deinit(&s);
	}
	pair_init(&p);
	OK(b1_send_bytes(p.to_box, "x", 1, NULL));
	drain(p.a);
	plain = p.box.last;
	EQ(b1_message_get_n_leases(plain), 0);
	ERR(b1_message_read_lease(plain, 0, 0, to, 1), EINVAL);
	pair_deinit(&p);
}
