// SPDX-License-Identifier: GPL-2.0-or-later
/* RES-4: a send that finds no room waits for it, if it is to, and what ends that. */
#include "room.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

/* A thread that sends `n` times, and waits each time there is no room. */
struct sender {
	struct test_thread thread;
	const struct peer *p;
	u64 dest, deadline;
	const u64 *dests;
	u32 n_dests, n;
	bool polls;
	int r;
};

static void send_waiting(void *arg)
{
	struct sender *s = arg;

	for (u32 i = 0; i < s->n; i++) {
		struct bus1_cmd_send cmd = {
			.flags = s->polls ? BUS1_SEND_NOTIFY : BUS1_SEND_WAIT,
			.dest = s->n_dests ? 0 : s->dest, .dests = PTR(s->dests),
			.n_dests = s->n_dests, .data = PTR(data), .len = LEN,
			.deadline = s->deadline };

		while ((s->r = send_cmd(s->p, &cmd)) == -EAGAIN) {
			struct pollfd pfd = { .fd = s->p->fd, .events = POLLOUT };

			CHECK(s->polls);
			GT(poll(&pfd, 1, (int)(40000 * test_slow())), 0);
		}
		if (s->r)
			return;
	}
}

static void sender_start(struct sender *s)
{
	s->n = s->n ?: 1;
	test_start(&s->thread, send_waiting, s);
	test_asleep(getpid(), s->thread.tid);
}

static void catch_signal(int sig)
{
}

static void catch(int flags)
{
	struct sigaction sa = { .sa_handler = catch_signal, .sa_flags = flags };

	OK(SYS(sigaction(SIGUSR1, &sa, NULL)));
}

TEST("RES-4 a send that waits goes on when there is room")
{
	struct scene s = scene_full();
	struct sender t = { .p = &s.a, .dest = s.to_b };

	sender_start(&t);
	test_sleep_ms(30);
	CHECK(!__atomic_load_n(&t.thread.done, __ATOMIC_ACQUIRE));
	CHECK(writable(&s.a));
	CHECK(take(&s.b));
	test_join(&t.thread);
	OK(t.r);
	EQ(peer_info(&s.b).n_queued, MOST);
	NOTHING(&s.a);
	/* With room it does not wait, nor for what will never fit. */
	CHECK(take(&s.b));
	OK(send_flags(&s.a, s.to_b, BUS1_SEND_WAIT, 1));
	ERR(send_cmd(&s.a, &(struct bus1_cmd_send){
		.flags = BUS1_SEND_WAIT, .dest = s.to_b, .data = PTR(data), .len = 1 << 20 }),
	    EMSGSIZE);
}

TEST("RES-4 a send waits until its deadline, and not before it gives up")
{
	struct scene s = scene_full();
	struct snapshot w = SNAPSHOT(&s.a, &s.b);
	u64 past[] = { 1, test_now() - 1 }, end;

	for (size_t i = 0; i < ARRAY_SIZE(past); i++)
		ERR(send_flags(&s.a, s.to_b, BUS1_SEND_WAIT, past[i]), ETIMEDOUT);
	end = test_now() + 60000000;
	ERR(send_flags(&s.a, s.to_b, BUS1_SEND_WAIT, end), ETIMEDOUT);
	GE(test_now(), end);
	LT(test_now(), end + 5000000000ULL * test_slow());
	SAME_SNAPSHOT(&w);
	/* A deadline that is far does no harm. */
	for (u64 far = INT64_MAX; far; far = far == INT64_MAX ? UINT64_MAX : 0) {
		struct sender t = { .p = &s.a, .dest = s.to_b, .deadline = far };

		sender_start(&t);
		CHECK(take(&s.b));
		test_join(&t.thread);
		OK(t.r);
	}
}

TEST("RES-4 a signal ends a send that waits, or it goes on under SA_RESTART")
{
	struct scene s = scene_full();
	struct sender t = { .p = &s.a, .dest = s.to_b }, u = t;
	struct snapshot w = SNAPSHOT(&s.a, &s.b);
	pid_t pid;

	catch(0);
	sender_start(&t);
	pthread_kill(t.thread.thread, SIGUSR1);
	test_join(&t.thread);
	ERR(t.r, EINTR);
	SAME_SNAPSHOT(&w);

	catch(SA_RESTART);
	sender_start(&u);
	for (int i = 0; i < 5; i++) {
		pthread_kill(u.thread.thread, SIGUSR1);
		test_sleep_ms(10);
		test_asleep(getpid(), u.thread.tid);
	}
	CHECK(take(&s.b));
	test_join(&u.thread);
	OK(u.r);

	w = SNAPSHOT(&s.a, &s.b);
	pid = test_fork();
	if (!pid) {
		send_flags(&s.a, s.to_b, BUS1_SEND_WAIT, 0);
		FAIL("it went on");
	}
	test_asleep(pid, pid);
	test_kill(pid);
	SAME_SNAPSHOT(&w);
	CHECK(take(&s.b));
	OK(send_data(&s.a, s.to_b, data, LEN));
}

static void release_it(struct scene *s)
{
	OK(release(&s->a, s->to_b));
}

static void destroy_it(struct scene *s)
{
	OK(destroy(&s->b, s->node));
}

static void close_it(struct scene *s)
{
	peer_close(&s->b);
}

TEST("RES-4 the end of the node, of its owner and of the handle ends a send that waits")
{
	enum { THREADS = 4 };
	static const struct {
		void (*end)(struct scene *s);
		int err;
	} ways[] = { { destroy_it, EHOSTUNREACH }, { close_it, EHOSTUNREACH },
		     { release_it, ENXIO } };

	for (size_t how = 0; how < ARRAY_SIZE(ways); how++) {
		struct scene s = scene_full();
		struct sender t[THREADS];

		for (int i = 0; i < THREADS; i++) {
			t[i] = (struct sender){ .p = &s.a, .dest = s.to_b,
						.deadline = i % 2 ? test_deadline(100) : 0 };
			sender_start(&t[i]);
		}
		ways[how].end(&s);
		for (int i = 0; i < THREADS; i++) {
			test_join(&t[i].thread);
			ERR(t[i].r, ways[how].err);
		}
		peer_close(&s.a);
		if (ways[how].end != close_it)
			peer_close(&s.b);
	}
}

/*
 * Threads that send more than there is room for, over handles of one peer and
 * of several, in each of the ways to wait: all of it comes, and nobody stays.
 */
static void crowd(bool polls, bool multicast)
{
	enum { THREADS = 6 };
	struct peer a[3] = { peer_new(0), peer_new(0), peer_new(0) };
	struct peer b[2] = { peer_new(page_size()), peer_new(page_size()) };
	struct sender t[THREADS] = {};
	u32 rounds = test_rounds(120), want = 0, got = 0;
	u64 nodes[2], to[3][2];
	bool over = false;

	for (int j = 0; j < 2; j++) {
		nodes[j] = node_new(&b[j], 1);
		for (int i = 0; i < 3; i++)
			to[i][j] = grant(&b[j], nodes[j], &a[i]);
	}
	for (int i = 0; i < THREADS; i++) {
		t[i] = (struct sender){ .p = &a[i % 3], .n = rounds, .polls = polls,
					.dest = to[i % 3][i / 3] };
		if (multicast) {
			t[i].dests = to[i % 3];
			t[i].n_dests = 2;
		}
		want += rounds * (multicast ? 2 : 1);
		test_start(&t[i].thread, send_waiting, &t[i]);
	}
	while (got < want) {
		over = true;
		for (int i = 0; i < THREADS; i++)
			over &= __atomic_load_n(&t[i].thread.done, __ATOMIC_ACQUIRE);
		for (int j = 0; j < 2; j++)
			for (u32 n = got % 7; n < 8 && take(&b[j]); n++)
				got++;
		for (int i = 0; i < 3; i++) {
			struct in in;

			if (!recv_now(&a[i], &in))
				EQ(in.m.type, BUS1_MSG_WRITABLE);
		}
		if (over && got < want && !readable(&b[0]) && !readable(&b[1]))
			break;
	}
	for (int i = 0; i < THREADS; i++) {
		test_join(&t[i].thread);
		OK(t[i].r);
	}
	EQ(got, want);
	for (int i = 0; i < 3; i++) {
		struct in in;

		while (!recv_now(&a[i], &in))
			EQ(in.m.type, BUS1_MSG_WRITABLE);
		CHECK(writable(&a[i]));
		peer_close(&a[i]);
	}
	for (int j = 0; j < 2; j++)
		peer_close(&b[j]);
}

TEST_TIMEOUT("RES-4 many threads wait in a send, and all get through", 120)
{
	crowd(false, false);
	crowd(false, true);
}

TEST_TIMEOUT("RES-4 many threads wait in poll, and all get through", 120)
{
	crowd(true, false);
	crowd(true, true);
}
