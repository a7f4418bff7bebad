// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-6: who serves a call does so at the priority of who made it. */
#include "worker.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

static const struct inherited {
	struct attr client, server, meanwhile;
} inherited[] = {
	{ OTHER(0), OTHER(10), OTHER(0) },
	{ OTHER(-5), OTHER(0), OTHER(-5) },
	{ OTHER(-20), OTHER(19), OTHER(-20) },
	{ FIFO(1), OTHER(-20), FIFO(1) },
	{ FIFO(10), OTHER(5), FIFO(10) },
	{ RR(7), OTHER(5), RR(7) },
	{ FIFO(50), FIFO(10), FIFO(50) },
	{ FIFO(12), RR(11), FIFO(12) },
	/* Never lower than it is. */
	{ OTHER(5), OTHER(5), OTHER(5) },
	{ OTHER(10), OTHER(0), OTHER(0) },
	{ OTHER(-20), FIFO(1), FIFO(1) },
	{ FIFO(10), FIFO(20), FIFO(20) },
	{ RR(10), FIFO(10), FIFO(10) },
};

TEST_TIMEOUT("CALL-6 the server is raised to the priority of its caller, and returns to its own", 120)
{
	for (size_t i = 0; i < ARRAY_SIZE(inherited); i++) {
		const struct inherited *t = &inherited[i];

		for (int how = 0; how < 2; how++) {
			struct served s = { .w = pair_new() };

			served_make(&s, t->client, t->server, s.w.to_b);
			IS_AT(s.server.thread.tid, t->meanwhile);
			IS_AT(s.client.thread.tid, t->client);
			go(&s.server, how ? do_drop : do_reply);
			await(&s.server);
			OK(s.server.r);
			IS_AT(s.server.thread.tid, t->server);
			await(&s.client);
			ERR(s.client.c.r, how ? ECONNABORTED : 0);
			served_end(&s);
			pair_close(&s.w);
		}
	}
}

TEST("CALL-6 replying and receiving next, it is the next one's priority")
{
	struct served s = { .w = pair_new() };
	const struct attr high = FIFO(20), low = OTHER(5), own = OTHER(10);

	served_make(&s, low, own, s.w.to_b);
	IS_AT(s.server.thread.tid, low);
	go(&s.server, do_reply_recv);
	await(&s.client);
	REPLIED(&s.client.c, "reply");
	test_asleep(getpid(), s.server.thread.tid);
	IS_AT(s.server.thread.tid, own);
	worker_end(&s.client);
	worker_start(&s.client, &s.w.a, high);
	call_init_str(&s.client.c, &s.w.a, s.w.to_b, "second");
	go(&s.client, do_call);
	await(&s.server);
	IS_AT(s.server.thread.tid, high);
	go(&s.server, do_reply);
	await(&s.server);
	IS_AT(s.server.thread.tid, own);
	served_end(&s);
	pair_close(&s.w);
}

TEST("CALL-6 a node that opts out, and plain messages, raise nobody")
{
	struct served s = { .w = pair_new() };
	struct bus1_cmd_node node = { .flags = BUS1_NODE_NO_INHERIT };
	const struct attr client = FIFO(20), server = OTHER(10);
	u64 facet, to;

	OK(node_create(&s.w.b, &node));
	facet = facet_new(&s.w.b, node.id, 3);
	for (int i = 0; i < 2; i++) {
		to = grant(&s.w.b, i ? facet : node.id, &s.w.a);
		served_make(&s, client, server, to);
		IS_AT(s.server.thread.tid, server);
		go(&s.server, do_reply);
		served_end(&s);
		OK(release(&s.w.a, to));
		drain(&s.w.b);
	}
	worker_start(&s.server, &s.w.b, server);
	go(&s.server, do_recv);
	test_asleep(getpid(), s.server.thread.tid);
	become(client);
	OK(send_str(&s.w.a, s.w.to_b, "plain"));
	become((struct attr)OTHER(0));
	await(&s.server);
	OK(s.server.r);
	IS_AT(s.server.thread.tid, server);
	worker_end(&s.server);
	pair_close(&s.w);
}

TEST("CALL-6 a request that waited in the queue raises who receives it")
{
	struct served s = { .w = pair_new() };
	const struct attr client = FIFO(20), server = OTHER(10);

	worker_start(&s.client, &s.w.a, client);
	worker_start(&s.server, &s.w.b, server);
	call_init_str(&s.client.c, &s.w.a, s.w.to_b, "request");
	go(&s.client, do_call);
	test_asleep(getpid(), s.client.thread.tid);
	IS_AT(s.server.thread.tid, server);
	/* Peeking is not serving. */
	OK(peek(&s.w.b, 0, &s.server.in));
	go(&s.server, do_recv);
	await(&s.server);
	IS_AT(s.server.thread.tid, client);
	IS_AT(getpid(), (struct attr)OTHER(0));
	go(&s.server, do_reply);
	await(&s.server);
	IS_AT(s.server.thread.tid, server);
	served_end(&s);
	pair_close(&s.w);
}

TEST("CALL-6 the server returns to its priority however the call ends")
{
	const struct attr client = FIFO(20), server = OTHER(10);

	catch_signal(SIGUSR1, 0);
	for (int how = 0; how < 4; how++) {
		struct served s = { .w = pair_new() };
		u64 end;

		served_make(&s, client, server, s.w.to_b);
		IS_AT(s.server.thread.tid, client);
		switch (how) {
		case 0:
			/* Another thread answers. */
			OK(answer_str(&s.w.b, s.server.token, "reply"));
			await(&s.client);
			REPLIED(&s.client.c, "reply");
			break;
		case 1:
			OK(answer_drop(&s.w.b, s.server.token));
			await(&s.client);
			ERR(s.client.c.r, ECONNABORTED);
			break;
		case 2:
			pthread_kill(s.client.thread.thread, SIGUSR1);
			await(&s.client);
			ERR(s.client.c.r, EINTR);
			break;
		default:
			peer_close(&s.w.b);
			await(&s.client);
			ERR(s.client.c.r, ECONNRESET);
		}
		end = test_deadline(10);
		while (attr_of(s.server.thread.tid).policy != server.policy && test_now() < end)
			test_sleep_ms(1);
		IS_AT(s.server.thread.tid, server);
		if (how == 2) {
			GOT_CANCELLED(&s.w.b, s.server.token);
			go(&s.server, do_reply);
			await(&s.server);
			ERR(s.server.r, ECANCELED);
			IS_AT(s.server.thread.tid, server);
		}
		served_end(&s);
		if (how == 3) {
			drain(&s.w.a);
			peer_close(&s.w.a);
		} else {
			pair_close(&s.w);
		}
	}
}

TEST("CALL-6 priority goes on along a chain of calls, and comes back")
{
	struct pair ab = pair_new(), bc = pair_new();
	const struct attr high = FIFO(30), b = OTHER(5), c = OTHER(15);
	struct worker wa, wb, wc;

	/* b calls c, as bc.a; and serves as ab.b. */
	worker_start(&wa, &ab.a, high);
	worker_start(&wb, &ab.b, b);
	worker_start(&wc, &bc.b, c);
	go(&wb, do_recv);
	go(&wc, do_recv);
	test_asleep(getpid(), wb.thread.tid);
	test_asleep(getpid(), wc.thread.tid);
	call_init_str(&wa.c, &ab.a, ab.to_b, "outer");
	go(&wa, do_call);
	await(&wb);
	IS_AT(wb.thread.tid, high);
	call_init_str(&wb.c, &bc.a, bc.to_b, "inner");
	go(&wb, do_call);
	await(&wc);
	IS_AT(wc.thread.tid, high);
	go(&wc, do_reply);
	await(&wc);
	IS_AT(wc.thread.tid, c);
	await(&wb);
	REPLIED(&wb.c, "reply");
	IS_AT(wb.thread.tid, high);
	go(&wb, do_reply);
	await(&wb);
	IS_AT(wb.thread.tid, b);
	await(&wa);
	REPLIED(&wa.c, "reply");
	worker_end(&wa);
	worker_end(&wb);
	worker_end(&wc);
	pair_close(&ab);
	pair_close(&bc);
}

TEST("CALL-6 who serves several has the highest of them, and in the end its own")
{
	struct served s = { .w = pair_new() };
	const struct attr low = OTHER(-3), high = FIFO(9), server = OTHER(10);

	for (int order = 0; order < 2; order++) {
		struct worker second;
		u64 first;

		served_make(&s, low, server, s.w.to_b);
		IS_AT(s.server.thread.tid, low);
		first = s.server.token;
		worker_start(&second, &s.w.a, high);
		call_init_str(&second.c, &s.w.a, s.w.to_b, "second");
		go(&second, do_call);
		go(&s.server, do_recv);
		await(&s.server);
		OK(s.server.r);
		IS_AT(s.server.thread.tid, high);
		if (order) {
			u64 token = s.server.token;

			s.server.token = first;
			first = token;
		}
		go(&s.server, do_reply);
		await(&s.server);
		OK(s.server.r);
		IS_AT(s.server.thread.tid, order ? high : low);
		s.server.token = first;
		go(&s.server, do_reply);
		await(&s.server);
		OK(s.server.r);
		IS_AT(s.server.thread.tid, server);
		worker_end(&second);
		served_end(&s);
	}
	pair_close(&s.w);
}

TEST("CALL-6 a thread that ends while it serves takes nothing along")
{
	struct served s = { .w = pair_new() };
	const struct attr client = FIFO(20), server = OTHER(10);

	served_make(&s, client, server, s.w.to_b);
	worker_end(&s.server);
	/* The token is the peer's: this thread answers, and keeps its priority. */
	OK(answer_str(&s.w.b, s.server.token, "reply"));
	IS_AT(getpid(), (struct attr)OTHER(0));
	await(&s.client);
	REPLIED(&s.client.c, "reply");
	worker_end(&s.client);
	pair_close(&s.w);
}

/* An inversion: someone between the two, on the same processor, who never stops by itself. */
static bool stop_hog;

static void hog(struct worker *w)
{
	u64 end = test_deadline(20);

	test_pin(0);
	while (!__atomic_load_n(&stop_hog, __ATOMIC_ACQUIRE) && test_now() < end)
		;
}

static void pin(struct worker *w)
{
	test_pin(0);
}

/* So much of a processor's time that who gets little of it does not come to an end. */
static void work_recv(struct worker *w)
{
	struct timespec ts;
	u64 start, now;

	do_recv(w);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	start = (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
	do {
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
		now = (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
	} while (now - start < 100000000);
	do_reply(w);
}

static void inversion(struct attr client, struct attr between, struct attr server)
{
	if (test_cpus() < 2)
		SKIP("needs two processors");
	for (int inherits = 0; inherits < 2; inherits++) {
		struct pair w = pair_new();
		struct bus1_cmd_node node = { .flags = inherits ? 0 : BUS1_NODE_NO_INHERIT };
		struct worker c, b, s;
		u64 end;

		test_pin(1);
		OK(node_create(&w.b, &node));
		worker_start(&s, &w.b, server);
		worker_start(&c, &w.a, client);
		worker_start(&b, NULL, between);
		go(&s, pin);
		await(&s);
		go(&c, pin);
		await(&c);
		go(&s, work_recv);
		test_asleep(getpid(), s.thread.tid);
		stop_hog = false;
		go(&b, hog);
		test_sleep_ms(20);
		call_init_str(&c.c, &w.a, grant(&w.b, node.id, &w.a), "quick");
		go(&c, do_call);
		end = test_now() + (inherits ? 10000000000ULL * test_slow() : 1000000000);
		while (__atomic_load_n(&c.next, __ATOMIC_ACQUIRE) && test_now() < end)
			test_sleep_ms(5);
		/* The hog hogs still. */
		CHECK(__atomic_load_n(&b.next, __ATOMIC_ACQUIRE));
		EQ(!__atomic_load_n(&c.next, __ATOMIC_ACQUIRE), inherits);
		__atomic_store_n(&stop_hog, true, __ATOMIC_RELEASE);
		await(&c);
		REPLIED(&c.c, "reply");
		worker_end(&c);
		worker_end(&b);
		worker_end(&s);
		pair_close(&w);
	}
}

TEST_TIMEOUT("CALL-6 an inversion among real-time threads ends with inheritance, not without", 120)
{
	inversion((struct attr)FIFO(30), (struct attr)FIFO(20), (struct attr)FIFO(10));
}

TEST_TIMEOUT("CALL-6 an inversion by nice ends with inheritance, not without", 120)
{
	inversion((struct attr)OTHER(-20), (struct attr)OTHER(0), (struct attr)OTHER(19));
}
