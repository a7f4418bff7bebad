// SPDX-License-Identifier: GPL-2.0-or-later
/* Receivers without room: to be told when there is some, and to wait for it. */
#include "lib.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

/* A few of these fill what one sender may have in a pool. */
#define PART (POOL_SIZE / 8)

static char data[PART];

/* Send until there is no room; how many that were. */
static unsigned int fill(b1_handle *to)
{
	unsigned int n = 0;
	int64_t r;

	while ((r = b1_send_bytes(to, data, sizeof(data), NULL)) >= 0)
		LE(++n, 8);
	ERR(r, EAGAIN);
	GT(n, 0);
	return n;
}

/* Receive and drop all that the box has. */
static unsigned int empty(struct pair *p)
{
	unsigned int n = (unsigned int)drain(p->a);

	box_empty(&p->box);
	return n;
}

static bool is_readable(b1_peer *peer)
{
	struct pollfd fd = { .fd = b1_peer_get_fd(peer), .events = (short)b1_peer_get_events(peer) };

	return OK(SYS(poll(&fd, 1, 0))) == 1;
}

/* What is called for room. */
struct seen {
	b1_handle *handle;	/* that it must be for, if not NULL */
	atomic_uint n;
	unsigned int n_destroyed;
	b1_watch *frees, *frees_too;	/* by the callback */
	b1_handle *unrefs;		/* likewise */
	int result;
};

static int on_writable(b1_handle *handle, void *userdata)
{
	struct seen *seen = userdata;

	CHECK(!seen->handle || handle == seen->handle);
	atomic_fetch_add(&seen->n, 1);
	seen->frees = b1_watch_free(seen->frees);
	seen->frees_too = b1_watch_free(seen->frees_too);
	seen->unrefs = b1_handle_unref(seen->unrefs);
	return seen->result;
}

static void on_destroy(void *userdata)
{
	((struct seen *)userdata)->n_destroyed++;
}

static int no_reply(b1_message *reply, int error, void *userdata)
{
	(void)reply;
	(void)error;
	(void)userdata;
	CHECK(!"there is no call");
	return 0;
}

TEST("RES-4 LIB-2 who watches is told once that there is room, each time that there was none")
{
	struct seen seen = { 0 };
	unsigned int round, n;
	b1_watch *watch = NULL;
	struct pair p;

	pair_init(&p);
	seen.handle = p.to_box;
	OK(b1_handle_watch_writable(p.to_box, &watch, on_writable, &seen));
	for (round = 1; round <= 3; round++) {
		/* As long as there is room nobody is told. */
		OK(b1_send_bytes(p.to_box, data, sizeof(data), NULL));
		EQ(empty(&p), 1);
		EQ(drain(p.b), 0);
		n = fill(p.to_box);
		if (round == 2)
			ERR(b1_call_async(p.to_box, &(b1_outgoing){ .data = data, .size = sizeof(data) },
					  NULL, NULL, no_reply, NULL), EAGAIN);
		else
			ERR(b1_send_bytes(p.to_box, data, sizeof(data), NULL), EAGAIN);
		CHECK(!is_readable(p.b));
		EQ(drain(p.b), 0);
		EQ(empty(&p), n);
		CHECK(is_readable(p.b));
		EQ(drain(p.b), 1);
		EQ(seen.n, round);
		CHECK(!is_readable(p.b));
	}
	/* Nobody watches, and nobody is told. */
	watch = b1_watch_free(watch);
	n = fill(p.to_box);
	EQ(empty(&p), n);
	EQ(drain(p.b), 0);
	EQ(seen.n, 3);
	pair_deinit(&p);
}

TEST("RES-4 LIB-2 all who watch are told, in whatever way they end their watches")
{
	struct seen seen[5] = { 0 };
	unsigned int dead = 0, i, n;
	b1_watch *watch[5];
	struct pair p;

	pair_init(&p);
	OK(b1_handle_watch(p.to_box, NULL, count_dead, &dead));
	for (i = 0; i < 5; i++) {
		OK(b1_handle_watch_writable(p.to_box, &watch[i], on_writable, &seen[i]));
		OK(b1_watch_set_destroy(watch[i], on_destroy));
	}
	/* Of a pair one frees both, before or after the other was called; the last stays. */
	for (i = 0; i < 4; i += 2) {
		n = fill(p.to_box);
		seen[i].frees = watch[i];
		seen[i].frees_too = watch[i + 1];
		EQ(empty(&p), n);
		EQ(OK(b1_peer_process(p.b)), 1);
		EQ(seen[i].n, i / 2 + 1);
		EQ(seen[i].n_destroyed, 1);
		EQ(seen[i + 1].n_destroyed, 1);
		LE(seen[i + 1].n, i / 2 + 1);
		EQ(seen[4].n, i / 2 + 1);
	}
	/* What a callback returns comes out, and the others are called all the same. */
	OK(b1_handle_watch_writable(p.to_box, &watch[0], on_writable, &seen[0]));
	OK(b1_handle_watch_writable(p.to_box, NULL, on_writable, &seen[1]));
	seen[4].result = -EBADMSG;
	seen[0].n = seen[1].n = 0;
	n = fill(p.to_box);
	EQ(empty(&p), n);
	ERR(b1_peer_process(p.b), EBADMSG);
	EQ(seen[0].n, 1);
	EQ(seen[1].n, 1);
	EQ(seen[4].n, 3);
	EQ(drain(p.b), 0);
	EQ(dead, 0);
	b1_watch_free(watch[0]);
	b1_watch_free(watch[4]);
	EQ(seen[4].n_destroyed, 1);
	pair_deinit(&p);
}

TEST("RES-4 LIB-2 a handle that waits may be dropped, and its notice with it")
{
	struct seen seen = { 0 };
	b1_watch *watch = NULL;
	unsigned int n;
	struct pair p;

	pair_init(&p);
	/* While it waits; when the notice is there; in the callback. */
	OK(b1_handle_watch_writable(p.to_box, NULL, on_writable, &seen));
	n = fill(p.to_box);
	p.to_box = b1_handle_unref(p.to_box);
	EQ(empty(&p), n + 1);	/* unused, too */
	EQ(drain(p.b), 0);

	OK(b1_handle_transfer(b1_node_get_handle(p.box.node), p.b, &p.to_box));
	OK(b1_handle_watch_writable(p.to_box, &watch, on_writable, &seen));
	n = fill(p.to_box);
	EQ(empty(&p), n);
	CHECK(is_readable(p.b));
	p.to_box = b1_handle_unref(p.to_box);
	CHECK(!is_readable(p.b));
	EQ(drain(p.b), 0);
	EQ(seen.n, 0);
	watch = b1_watch_free(watch);
	EQ(empty(&p), 1);

	OK(b1_handle_transfer(b1_node_get_handle(p.box.node), p.b, &p.to_box));
	OK(b1_handle_watch_writable(p.to_box, NULL, on_writable, &seen));
	n = fill(p.to_box);
	EQ(empty(&p), n);
	seen.unrefs = p.to_box;
	EQ(drain(p.b), 1);
	EQ(seen.n, 1);
	p.to_box = NULL;
	EQ(p.box.n_unused, 2);
	pair_deinit(&p);
	EQ(p.box.n_unused, 3);
}

TEST("RES-4 LIB-2 the death of the node ends the waiting, and the watch")
{
	struct seen seen = { 0 };
	unsigned int dead = 0;
	b1_watch *watch = NULL;
	struct pair p;

	pair_init(&p);
	ERR(b1_handle_watch_writable(p.to_box, &watch, NULL, &seen), EINVAL);
	ERR(b1_handle_watch_writable(b1_node_get_handle(p.box.node), &watch, on_writable, &seen), EINVAL);
	OK(b1_handle_watch(p.to_box, NULL, count_dead, &dead));
	OK(b1_handle_watch_writable(p.to_box, NULL, on_writable, &seen));
	fill(p.to_box);
	OK(b1_node_destroy(p.box.node, 0));
	/* It may be told that there is nothing to wait for any more; never after the death. */
	EQ(drain(p.b), 1 + seen.n);
	EQ(dead, 1);
	LE(seen.n, 1);
	ERR(b1_send_bytes(p.to_box, data, sizeof(data), NULL), EHOSTUNREACH);
	ERR(b1_handle_watch_writable(p.to_box, &watch, on_writable, &seen), EHOSTUNREACH);
	CHECK(!watch);
	pair_deinit(&p);
}

TEST("RES-4 MSG-2 LIB-2 of many destinations each one that is full is told of")
{
	struct seen seen[2] = { 0 };
	struct box other;
	b1_handle *to[2];
	int errors[2];
	b1_outgoing out = { .flags = B1_SEND_PARTIAL, .data = data, .size = sizeof(data) };
	unsigned int n;
	struct pair p;
	b1_peer *c = new_peer();

	pair_init(&p);
	box_init(&other, c);
	to[0] = p.to_box;
	OK(b1_handle_transfer(b1_node_get_handle(other.node), p.b, &to[1]));
	OK(b1_handle_watch_writable(to[0], NULL, on_writable, &seen[0]));
	OK(b1_handle_watch_writable(to[1], NULL, on_writable, &seen[1]));
	n = fill(to[0]);
	EQ(empty(&p), n);
	EQ(drain(p.b), 1);
	EQ(seen[0].n, 1);
	fill(to[0]);
	OK(b1_multicast(to, 2, &out, errors));
	EQ(errors[0], -EAGAIN);
	EQ(errors[1], 0);
	out.flags = 0;
	ERR(b1_multicast(to, 2, &out, NULL), EAGAIN);
	EQ(empty(&p), n);
	EQ(drain(p.b), 1);
	EQ(seen[0].n, 2);
	EQ(seen[1].n, 0);
	/* Both, by notices that come one by one. */
	EQ(fill(to[0]), n);
	fill(to[1]);
	ERR(b1_multicast(to, 2, &out, errors), EAGAIN);
	EQ(errors[0], -EAGAIN);
	EQ(errors[1], -EAGAIN);
	EQ(empty(&p), n);
	drain(c);
	box_empty(&other);
	EQ(OK(b1_peer_process(p.b)), 2);
	EQ(seen[0].n, 3);
	EQ(seen[1].n, 1);
	b1_handle_unref(to[1]);
	drain(c);
	box_deinit(&other);
	b1_peer_unref(c);
	pair_deinit(&p);
}

/*
 * Waiting
 */

/* A thread that sends, waiting for room. */
struct sender {
	b1_handle *to;
	b1_outgoing out;
	unsigned int n;		/* how often */
	int result;
	struct test_thread thread;
};

static void sender_run(void *arg)
{
	struct sender *s = arg;
	unsigned int i;

	for (i = 0; i < s->n && s->result >= 0; i++)
		s->result = b1_send(s->to, &s->out);
}

static void sender_start(struct sender *s, b1_handle *to, unsigned int n)
{
	*s = (struct sender){ .to = to, .n = n };
	s->out = (b1_outgoing){ .data = data, .size = sizeof(data), .deadline = UINT64_MAX };
	test_start(&s->thread, sender_run, s);
}

TEST("RES-4 LIB-2 a send with a deadline waits for room, and fails at the deadline without effect")
{
	b1_outgoing out = { .data = data, .size = sizeof(data) };
	unsigned int n, i;
	uint64_t begin;
	struct pair p;
	b1_pass pass;

	pair_init(&p);
	pass = (b1_pass){ .handle = p.to_box, .flags = B1_PASS_MOVE };
	/* There is room, whatever the deadline. */
	for (i = 0; i < 3; i++) {
		out.deadline = (uint64_t[]){ 1, test_now() + 1000000, UINT64_MAX }[i];
		OK(b1_send(p.to_box, &out));
		EQ(empty(&p), 1);
	}
	n = fill(p.to_box);
	out.passes = &pass;
	out.n_passes = 1;
	out.deadline = 1;
	ERR(b1_send(p.to_box, &out), ETIMEDOUT);
	begin = test_now();
	out.deadline = begin + 50000000;
	ERR(b1_send(p.to_box, &out), ETIMEDOUT);
	GE(test_now(), out.deadline);
	out.deadline = test_now() + 10000000;
	ERR(b1_multicast(&p.to_box, 1, &out, &(int){ 0 }), ETIMEDOUT);
	out.flags = B1_SEND_PARTIAL;
	ERR(b1_multicast(&p.to_box, 1, &out, NULL), EINVAL);
	/* An older program has no deadline. */
	out.flags = 0;
	out.n_passes = 0;
	ERR(b1_send_sized(&p.to_box, 1, &out, offsetof(b1_outgoing, deadline), NULL), EAGAIN);
	EQ(empty(&p), n);
	HAS(p.b, 0, 1, 0);
	OK(b1_send_bytes(p.to_box, "still there", 11, NULL));
	EQ(empty(&p), 1);
	pair_deinit(&p);
}

TEST("RES-4 ORD-3 LIB-2 what waited for room arrives, all of it")
{
	unsigned int n = test_rounds(200), i;
	uint64_t end = test_deadline(30);
	struct sender senders[3];
	struct seen seen = { 0 };
	struct pair p;

	pair_init(&p);
	/* Who waits needs no notice; and who wants one gets it, besides. */
	OK(b1_handle_watch_writable(p.to_box, NULL, on_writable, &seen));
	for (i = 0; i < 3; i++)
		sender_start(&senders[i], p.to_box, n);
	while (p.box.n_messages < 3 * n) {
		LE(test_now(), end);
		if (!OK(b1_peer_process(p.a)))
			OK(b1_peer_wait(p.a, end));
		box_empty(&p.box);
	}
	for (i = 0; i < 3; i++) {
		test_join(&senders[i].thread);
		EQ(senders[i].result, 0);
	}
	EQ(p.box.n_messages, 3 * n);
	EQ(drain(p.b), 0);
	EQ(seen.n, 0);
	pair_deinit(&p);
}

TEST("RES-4 OBJ-8 LIB-2 a send that waits fails when the node dies")
{
	struct sender senders[2];
	unsigned int i;
	struct pair p;

	pair_init(&p);
	fill(p.to_box);
	for (i = 0; i < 2; i++)
		sender_start(&senders[i], p.to_box, 1);
	test_sleep_ms(50);
	CHECK(!senders[0].thread.done && !senders[1].thread.done);
	OK(b1_node_destroy(p.box.node, 0));
	for (i = 0; i < 2; i++) {
		test_join(&senders[i].thread);
		EQ(senders[i].result, -EHOSTUNREACH);
	}
	pair_deinit(&p);
}

TEST("RES-4 OBJ-1 LIB-1 a send that waits fails when its own peer ends")
{
	struct sender sender;
	struct pair p;

	pair_init(&p);
	fill(p.to_box);
	sender_start(&sender, p.to_box, 1);
	test_sleep_ms(50);
	CHECK(!sender.thread.done);
	b1_peer_unref(p.b);
	test_join(&sender.thread);
	EQ(sender.result, -ESHUTDOWN);
	b1_handle_unref(p.to_box);
	drain(p.a);
	box_deinit(&p.box);
	HAS(p.a, 0, 0, 0);
	b1_peer_unref(p.a);
}

/* Threads that send through one handle, and wait for the watch when there is no room. */
struct herd {
	b1_handle *to;
	unsigned int n;		/* how often each sends */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned int n_told;	/* under the lock */
	b1_peer *peer;		/* whose notices are processed */
	atomic_bool stop;
};

static int herd_writable(b1_handle *handle, void *userdata)
{
	struct herd *herd = userdata;

	pthread_mutex_lock(&herd->lock);
	herd->n_told++;
	pthread_cond_broadcast(&herd->cond);
	pthread_mutex_unlock(&herd->lock);
	return 0;
}

static void herd_send(void *arg)
{
	struct herd *herd = arg;
	unsigned int i, told;
	struct timespec end;
	int64_t r;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += 30 * test_slow();
	for (i = 0; i < herd->n; i++) {
		for (;;) {
			/* Before the send: the callback may be faster than its return. */
			pthread_mutex_lock(&herd->lock);
			told = herd->n_told;
			pthread_mutex_unlock(&herd->lock);
			r = b1_send_bytes(herd->to, data, sizeof(data), NULL);
			if (r >= 0)
				break;
			ERR(r, EAGAIN);
			pthread_mutex_lock(&herd->lock);
			while (herd->n_told == told)
				if (pthread_cond_timedwait(&herd->cond, &herd->lock, &end))
					FAIL("nobody tells that there is room");
			pthread_mutex_unlock(&herd->lock);
		}
	}
}

static void herd_process(void *arg)
{
	struct herd *herd = arg;

	while (!atomic_load(&herd->stop))
		if (!OK(b1_peer_process(herd->peer)))
			OK(b1_peer_wait(herd->peer, test_now() + 20000000));
}

TEST("RES-4 LIB-2 several threads that wait to be told are told, all of them")
{
	struct herd herd = { .n = test_rounds(200), .lock = PTHREAD_MUTEX_INITIALIZER,
			     .cond = PTHREAD_COND_INITIALIZER };
	struct test_thread senders[3], processors[2];
	uint64_t end = test_deadline(40);
	unsigned int i;
	struct pair p;

	pair_init(&p);
	herd.to = p.to_box;
	herd.peer = p.b;
	OK(b1_handle_watch_writable(p.to_box, NULL, herd_writable, &herd));
	for (i = 0; i < 2; i++)
		test_start(&processors[i], herd_process, &herd);
	for (i = 0; i < 3; i++)
		test_start(&senders[i], herd_send, &herd);
	while (p.box.n_messages < 3 * herd.n) {
		LE(test_now(), end);
		if (!OK(b1_peer_process(p.a)))
			OK(b1_peer_wait(p.a, end));
		box_empty(&p.box);
	}
	for (i = 0; i < 3; i++)
		test_join(&senders[i]);
	atomic_store(&herd.stop, true);
	for (i = 0; i < 2; i++)
		test_join(&processors[i]);
	EQ(p.box.n_messages, 3 * herd.n);
	pair_deinit(&p);
}

/* A producer as an event loop has it: it sends what it can, and goes on when it is told. */
struct producer {
	b1_peer *peer;
	b1_handle *to;
	uint32_t next, n;
	unsigned int n_full;
	struct test_thread thread;
};

static int produce(b1_handle *to, void *userdata)
{
	struct producer *producer = userdata;
	int r;

	while (producer->next < producer->n) {
		struct iovec iov[2] = { { &producer->next, sizeof(producer->next) },
					{ data, sizeof(data) - sizeof(producer->next) } };

		r = b1_send(to, &(b1_outgoing){ .iov = iov, .n_iov = 2 });
		if (r == -EAGAIN) {
			__atomic_add_fetch(&producer->n_full, 1, __ATOMIC_SEQ_CST);
			return 0;
		}
		if (r < 0)
			return r;
		producer->next++;
	}
	return 0;
}

static void producer_run(void *arg)
{
	struct producer *producer = arg;
	uint64_t end = test_deadline(30);

	OK(produce(producer->to, producer));
	while (producer->next < producer->n) {
		EQ(OK(b1_peer_wait(producer->peer, end)), 1);
		OK(b1_peer_process(producer->peer));
	}
}

static int consume(b1_node *node, b1_message *message, void *userdata)
{
	uint32_t *n = userdata, number;

	memcpy(&number, b1_message_get_data(message, NULL), sizeof(number));
	EQ(number, (*n)++);
	return 0;
}

TEST("RES-4 LIB-3 a producer that is faster than its consumer loses nothing, and does not spin")
{
	uint32_t n = 0, want = test_rounds(300);
	struct producer producer = { .n = want };
	uint64_t end = test_deadline(30);
	b1_node *node = NULL;
	b1_peer *peer = new_peer();

	OK(b1_node_new(peer, &node, consume, &n));
	producer.peer = new_peer();
	OK(b1_handle_transfer(b1_node_get_handle(node), producer.peer, &producer.to));
	OK(b1_handle_watch_writable(producer.to, NULL, produce, &producer));
	test_start(&producer.thread, producer_run, &producer);
	/* The first ones fill what there is, before anything is received. */
	while (__atomic_load_n(&producer.n_full, __ATOMIC_SEQ_CST) == 0) {
		LE(test_now(), end);
		test_sleep_ms(1);
	}
	while (n < want) {
		LE(test_now(), end);
		if (!OK(b1_peer_process(peer)))
			EQ(OK(b1_peer_wait(peer, end)), 1);
	}
	test_join(&producer.thread);
	GT(producer.n_full, 0);
	/* Each time that it was full something was received since the last. */
	LE(producer.n_full, want);
	b1_handle_unref(producer.to);
	b1_peer_unref(producer.peer);
	b1_node_unref(node);
	b1_peer_unref(peer);
}
