// SPDX-License-Identifier: GPL-2.0-or-later
/* Objects used by several threads at once. */
#include "lib.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#define N_THREADS 4

/* Threads that process a peer until told to stop. */
struct pool {
	b1_peer *peer;
	atomic_bool stop;
	struct test_thread threads[N_THREADS];
	unsigned int n;
};

static void pool_run(void *arg)
{
	struct pool *pool = arg;

	while (!atomic_load(&pool->stop))
		if (!OK(b1_peer_process(pool->peer)))
			OK(b1_peer_wait(pool->peer, test_now() + 20000000));
}

static void pool_start(struct pool *pool, b1_peer *peer, unsigned int n)
{
	unsigned int i;

	pool->peer = peer;
	atomic_store(&pool->stop, false);
	pool->n = n;
	for (i = 0; i < n; i++)
		test_start(&pool->threads[i], pool_run, pool);
}

static void pool_stop(struct pool *pool)
{
	unsigned int i;

	atomic_store(&pool->stop, true);
	for (i = 0; i < pool->n; i++)
		test_join(&pool->threads[i]);
}

/*
 * Each message once, whoever gets it
 */

struct tally {
	atomic_uint total;
	atomic_uint *seen;
};

static int tally_message(b1_node *node, b1_message *message, void *userdata)
{
	struct tally *tally = userdata;
	const uint32_t *data;
	size_t size;

	data = b1_message_get_data(message, &size);
	EQ(size, *data % 5 ? 8 : LARGE);
	atomic_fetch_add(&tally->seen[*data], 1);
	atomic_fetch_add(&tally->total, 1);
	return 0;
}

struct sender {
	b1_handle *to;
	uint32_t from, n;
	struct test_thread thread;
};

static void sender_run(void *arg)
{
	struct sender *s = arg;
	uint32_t data[LARGE / 4 + 1] = { 0 };
	int64_t r;

	for (data[0] = s->from; data[0] < s->from + s->n; data[0]++)
		while ((r = b1_send_bytes(s->to, data, data[0] % 5 ? 8 : LARGE, NULL)) < 0) {
			EQ(r, -EAGAIN);
			sched_yield();
		}
}

TEST("LIB-2 threads process one peer: every message is handled once")
{
	struct tally tally = { 0 };
	struct sender senders[2];
	b1_handle *handle = NULL;
	b1_node *node = NULL;
	struct pool pool;
	struct pair p;
	uint32_t i, n = test_rounds(2000);
	uint64_t end;

	pair_init(&p);
	tally.seen = calloc(2 * n, sizeof(*tally.seen));
	OK(b1_node_new(p.a, &node, tally_message, &tally));
	OK(b1_handle_transfer(b1_node_get_handle(node), p.b, &handle));
	pool_start(&pool, p.a, N_THREADS);
	for (i = 0; i < 2; i++) {
		senders[i] = (struct sender){ .to = handle, .from = i * n, .n = n };
		test_start(&senders[i].thread, sender_run, &senders[i]);
	}
	for (i = 0; i < 2; i++)
		test_join(&senders[i].thread);
	for (end = test_deadline(30); atomic_load(&tally.total) < 2 * n; test_sleep_ms(1))
		LT(test_now(), end);
	pool_stop(&pool);
	for (i = 0; i < 2 * n; i++)
		EQ(tally.seen[i], 1);
	free(tally.seen);
	EQ(info(p.a).n_slices, 0);
	b1_handle_unref(handle);
	b1_node_unref(node);
	pair_deinit(&p);
}

/*
 * A handle that arrives while its last reference goes
 */

static int drop_message(b1_node *node, b1_message *message, void *userdata)
{
	b1_handle *handle = b1_message_get_handle(message, 0);

	/* It must work whenever it is there. */
	OK(b1_send_bytes(handle, "pong", 4, NULL));
	atomic_fetch_add((atomic_uint *)userdata, 1);
	return 0;
}

TEST("OBJ-3 LIB-2 threads: a handle arrives while another thread drops it")
{
	unsigned int i, n = test_rounds(3000);
	b1_handle *handle = NULL, *to_b = NULL;
	atomic_uint got = 0;
	b1_node *node = NULL;
	struct pool pool;
	struct pair p;

	pair_init(&p);
	OK(b1_node_new(p.b, &node, drop_message, &got));
	OK(b1_handle_transfer(b1_node_get_handle(node), p.a, &to_b));
	p.to_box = b1_handle_unref(p.to_box);
	pool_start(&pool, p.b, 3);
	for (i = 0; i < n; i++) {
		while (b1_send_bytes(to_b, NULL, 0, b1_node_get_handle(p.box.node)) == -EAGAIN)
			sched_yield();
		if (i % 4 == 0) {
			OK(b1_handle_transfer(b1_node_get_handle(p.box.node), p.b, &handle));
			b1_handle_unref(handle);
		}
		if (i % 64 == 0)
			drain(p.a);
	}
	while (atomic_load(&got) < n)
		test_sleep_ms(1);
	pool_stop(&pool);
	drain(p.a);
	EQ(p.box.n_messages, n);
	GE(p.box.n_unused, 1);
	HAS(p.b, 1, 0, 0);
	OK(b1_node_destroy(p.box.node, B1_NODE_UNUSED));
	b1_handle_unref(to_b);
	b1_node_unref(node);
	pair_deinit(&p);
}

/*
 * Every death is told, or known when the watch is set
 */

struct deaths {
	atomic_uint told, known;
};

static int death_dead(b1_handle *handle, void *userdata)
{
	struct deaths *deaths = userdata;

	CHECK(b1_handle_is_dead(handle));
	atomic_fetch_add(&deaths->told, 1);
	b1_handle_unref(handle);
	return 0;
}

static int death_message(b1_node *node, b1_message *message, void *userdata)
{
	b1_handle *handle = b1_message_get_handle(message, 0);
	struct deaths *deaths = userdata;
	int64_t r;

	r = b1_handle_watch(b1_handle_ref(handle), NULL, death_dead, deaths);
	if (r == -EHOSTUNREACH) {
		atomic_fetch_add(&deaths->known, 1);
		b1_handle_unref(handle);
	} else {
		OK(r);
	}
	return 0;
}

TEST("OBJ-10 LIB-2 threads: no death is missed")
{
	unsigned int i, n = test_rounds(3000);
	b1_handle *to_b = NULL;
	b1_node *node = NULL, *victim = NULL;
	struct deaths deaths = { 0 };
	struct pool pool;
	struct pair p;
	uint64_t end;

	pair_init(&p);
	OK(b1_node_new(p.b, &node, death_message, &deaths));
	OK(b1_handle_transfer(b1_node_get_handle(node), p.a, &to_b));
	pool_start(&pool, p.b, N_THREADS);
	for (i = 0; i < n; i++) {
		OK(b1_node_new(p.a, &victim, NULL, NULL));
		while (b1_send_bytes(to_b, NULL, 0, b1_node_get_handle(victim)) == -EAGAIN)
			sched_yield();
		if (i % 2)
			sched_yield();
		victim = b1_node_unref(victim);
	}
	for (end = test_deadline(30); deaths.told + deaths.known < n; test_sleep_ms(1))
		if (test_now() > end)
			FAIL("%u told, %u known, of %u", deaths.told, deaths.known, n);
	pool_stop(&pool);
	EQ(deaths.told + deaths.known, n);
	HAS(p.b, 1, 1, 0);
	b1_handle_unref(to_b);
	b1_node_unref(node);
	pair_deinit(&p);
}

/*
 * A node dropped while threads run its handler
 */

struct mortal {
	uint32_t magic;
};

#define ALIVE 0x600df00d

static int mortal_message(b1_node *node, b1_message *message, void *userdata)
{
	struct mortal *m = userdata;

	EQ(__atomic_load_n(&m->magic, __ATOMIC_RELAXED), ALIVE);
	sched_yield();
	EQ(__atomic_load_n(&m->magic, __ATOMIC_RELAXED), ALIVE);
	return 0;
}

static void mortal_destroyed(void *userdata)
{
	struct mortal *m = userdata;

	__atomic_store_n(&m->magic, 0xdead, __ATOMIC_RELAXED);
	free(m);
}

TEST("LIB-2 threads: no handler runs once the userdata is destroyed")
{
	unsigned int i, k, n = test_rounds(500);
	struct pool pool;
	struct pair p;

	pair_init(&p);
	pool_start(&pool, p.a, N_THREADS);
	for (i = 0; i < n; i++) {
		struct mortal *m = malloc(sizeof(*m));
		b1_handle *handle = NULL;
		b1_node *node = NULL;

		m->magic = ALIVE;
		OK(b1_node_new(p.a, &node, mortal_message, m));
		OK(b1_node_set_destroy(node, mortal_destroyed));
		OK(b1_handle_transfer(b1_node_get_handle(node), p.b, &handle));
		for (k = 0; k < 8; k++)
			b1_send_bytes(handle, "x", 1, NULL);
		if (i % 2)
			sched_yield();
		b1_node_unref(node);
		b1_handle_unref(handle);
	}
	pool_stop(&pool);
	pair_deinit(&p);
}

/*
 * Watches freed while the node dies
 */

struct due {
	atomic_uint dead, destroyed;
};

static int due_dead(b1_handle *handle, void *userdata)
{
	struct due *due = userdata;

	EQ(due->destroyed, 0);
	due->dead++;
	return 0;
}

static void due_destroyed(void *userdata)
{
	struct due *due = userdata;

	EQ(due->destroyed++, 0);
}

TEST("LIB-2 threads: a watch is freed while it is due")
{
	unsigned int i, n = test_rounds(1000);
	struct due *dues = calloc(n, sizeof(*dues));
	struct pool pool;
	struct pair p;

	pair_init(&p);
	pool_start(&pool, p.b, 2);
	for (i = 0; i < n; i++) {
		b1_handle *handle = NULL;
		b1_watch *watch = NULL;
		b1_node *node = NULL;

		OK(b1_node_new(p.a, &node, NULL, NULL));
		OK(b1_handle_transfer(b1_node_get_handle(node), p.b, &handle));
		OK(b1_handle_watch(handle, &watch, due_dead, &dues[i]));
		OK(b1_watch_set_destroy(watch, due_destroyed));
		b1_node_unref(node);
		if (i % 2)
			sched_yield();
		if (i % 3)
			b1_watch_free(watch);
		b1_handle_unref(handle);
		if (i % 3 == 0)
			b1_watch_free(watch);
	}
	pool_stop(&pool);
	for (i = 0; i < n; i++) {
		EQ(dues[i].destroyed, 1);
		LE(dues[i].dead, 1);
	}
	free(dues);
	pair_deinit(&p);
}

/*
 * The end of a peer whose objects are in use
 */

struct user {
	b1_handle *handle;
	atomic_bool *stop;
	struct test_thread thread;
};

static void user_run(void *arg)
{
	struct user *user = arg;
	b1_node *node = b1_handle_get_node(user->handle);
	unsigned int dead = 0;
	b1_watch *watch;
	int64_t r = 0;

	/* Everything works, then everything fails in the same way. */
	while (r != -ESHUTDOWN || !atomic_load(user->stop)) {
		r = b1_send_bytes(user->handle, "x", 1, user->handle);
		CHECK(r == 0 || r == -ESHUTDOWN || r == -EAGAIN || (node && r == -EHOSTUNREACH));
		watch = NULL;
		if (b1_handle_watch(user->handle, &watch, count_dead, &dead) == 0)
			b1_watch_free(watch);
		b1_handle_ref(user->handle);
		b1_handle_unref(user->handle);
	}
}

TEST("LIB-2 threads: a peer ends while its objects are used")
{
	unsigned int i, k, n = test_rounds(100);

	for (i = 0; i < n; i++) {
		struct user users[3];
		atomic_bool stop = false;
		struct box b_box;
		struct pair p;

		pair_init(&p);
		box_init(&b_box, p.b);
		for (k = 0; k < 3; k++) {
			users[k].handle = b1_handle_ref(k ? p.to_box : b1_node_get_handle(b_box.node));
			users[k].stop = &stop;
			test_start(&users[k].thread, user_run, &users[k]);
		}
		b1_peer_process(p.a);
		p.b = b1_peer_unref(p.b);
		atomic_store(&stop, true);
		for (k = 0; k < 3; k++) {
			test_join(&users[k].thread);
			b1_handle_unref(users[k].handle);
		}
		box_deinit(&b_box);
		p.to_box = b1_handle_unref(p.to_box);
		drain(p.a);
		box_deinit(&p.box);
		HAS(p.a, 0, 0, 0);
		b1_peer_unref(p.a);
	}
}

/*
 * Messages handed to other threads, and dropped there
 */

struct workshop {
	pthread_mutex_t lock;
	pthread_cond_t more;
	b1_message *queue[64];
	unsigned int n, done;
	bool stop;
};

static int workshop_message(b1_node *node, b1_message *message, void *userdata)
{
	struct workshop *w = userdata;

	pthread_mutex_lock(&w->lock);
	if (w->n < 64)
		w->queue[w->n++] = b1_message_ref(message);
	else
		w->done++;
	pthread_mutex_unlock(&w->lock);
	pthread_cond_signal(&w->more);
	return 0;
}

static void worker_run(void *arg)
{
	struct workshop *w = arg;
	b1_message *message;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		while (!w->n && !w->stop)
			pthread_cond_wait(&w->more, &w->lock);
		if (!w->n)
			break;
		message = w->queue[--w->n];
		pthread_mutex_unlock(&w->lock);
		check_pattern(message, LARGE, 4);
		b1_handle_ref(b1_message_get_handle(message, 0));
		b1_handle_unref(b1_message_get_handle(message, 0));
		b1_message_unref(message);
		pthread_mutex_lock(&w->lock);
		w->done++;
	}
	pthread_mutex_unlock(&w->lock);
}

TEST("LIB-2 threads: messages are dropped by others than who processes")
{
	struct workshop w = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER };
	struct test_thread workers[2];
	unsigned int i, n = test_rounds(2000);
	b1_handle *handle = NULL;
	b1_node *node = NULL;
	char data[LARGE];
	struct pair p;

	pair_init(&p);
	OK(b1_node_new(p.a, &node, workshop_message, &w));
	OK(b1_handle_transfer(b1_node_get_handle(node), p.b, &handle));
	pattern(data, sizeof(data), 4);
	for (i = 0; i < 2; i++)
		test_start(&workers[i], worker_run, &w);
	for (i = 0; i < n; i++) {
		while (b1_send_bytes(handle, data, sizeof(data), p.to_box) == -EAGAIN)
			sched_yield();
		OK(b1_peer_process(p.a));
	}
	drain(p.a);
	pthread_mutex_lock(&w.lock);
	w.stop = true;
	pthread_mutex_unlock(&w.lock);
	pthread_cond_broadcast(&w.more);
	for (i = 0; i < 2; i++)
		test_join(&workers[i]);
	EQ(w.done, n);
	HAS(p.a, 2, 0, 0);
	b1_handle_unref(handle);
	b1_node_unref(node);
	pair_deinit(&p);
}
