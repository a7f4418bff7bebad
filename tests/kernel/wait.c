// SPDX-License-Identifier: GPL-2.0-or-later
/* MSG-11: receiving that waits: deadlines, signals, several threads. */
#include "raw.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { WAITERS = 6 };

/* A thread that receives one message from `p`. */
struct waiter {
	struct test_thread thread;
	const struct peer *p;
	u64 flags, deadline;
	struct bus1_cmd_recv cmd;
	struct bus1_msg m;
	u64 buf[32];
	u64 release;
	int r;
};

static void wait_one(void *arg)
{
	struct waiter *w = arg;

	w->cmd = (struct bus1_cmd_recv){
		.flags = w->flags,
		.deadline = w->deadline,
		.release = w->release ? PTR(&w->release) : 0,
		.n_release = w->release ? 1 : 0,
		.msgs = PTR(&w->m),
		.n_msgs = 1,
		.msg_size = sizeof(w->m),
		.buf = PTR(w->buf),
		.buf_size = sizeof(w->buf),
	};
	w->r = recv_cmd(w->p, &w->cmd);
}

static void wait_start(struct waiter *w, const struct peer *p)
{
	w->p = p;
	test_start(&w->thread, wait_one, w);
	test_asleep(getpid(), w->thread.tid);
}

static void nothing(int sig)
{
}

static void catch(int sig, int flags)
{
	struct sigaction sa = { .sa_handler = nothing, .sa_flags = flags };

	OK(SYS(sigaction(sig, &sa, NULL)));
}

TEST("MSG-11 a receive waits for a message")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b);
	struct waiter w = {};

	wait_start(&w, &a);
	test_sleep_ms(30);
	CHECK(!w.thread.done);
	OK(send_str(&b, h, "hello"));
	test_join(&w.thread);
	OK(w.r);
	EQ(w.cmd.n_msgs, 1);
	EQ(w.m.id, n);
	MEM((u8 *)w.buf + w.m.offset, "hello", 5);
}

TEST("MSG-11 a receive waits for a notice")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b);
	u64 dies = node_new(&a, 2), hd = grant(&a, dies, &b);
	struct waiter w = {}, v = {};

	wait_start(&w, &b);
	wait_start(&v, &a);
	OK(destroy(&a, dies));
	test_join(&w.thread);
	OK(w.r);
	EQ(w.m.type, BUS1_MSG_NODE_DEAD);
	EQ(w.m.id, hd);
	CHECK(!v.thread.done);
	OK(release(&b, h));
	test_join(&v.thread);
	OK(v.r);
	EQ(v.m.type, BUS1_MSG_NODE_UNUSED);
	EQ(v.m.id, n);
}

TEST("MSG-11 NONBLOCK of the call, and of the file, does not wait")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	struct bus1_msg m;
	u64 buf[8];
	struct bus1_cmd_recv cmd = {
		.msgs = PTR(&m), .n_msgs = 1, .msg_size = sizeof(m),
		.buf = PTR(buf), .buf_size = sizeof(buf),
	}, again;
	int flags = (int)OK(SYS(fcntl(a.fd, F_GETFL)));

	NOTHING(&a);
	OK(SYS(fcntl(a.fd, F_SETFL, flags | O_NONBLOCK)));
	again = cmd;
	ERR(recv_cmd(&a, &again), EAGAIN);
	EQ(again.n_msgs, 1);
	EQ(again.buf_used, 0);
	again = cmd;
	again.flags = BUS1_RECV_DROP;
	ERR(recv_cmd(&a, &again), EAGAIN);
	OK(send_str(&a, n, "x"));
	again = cmd;
	OK(recv_cmd(&a, &again));
	OK(SYS(fcntl(a.fd, F_SETFL, flags)));
	again = cmd;
	again.deadline = 1;
	ERR(recv_cmd(&a, &again), ETIMEDOUT);
}

TEST("MSG-11 a deadline in the past does not wait, but takes what is there")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	struct waiter w = { .p = &a };
	u64 past[] = { 1, test_now() - 1, test_now() };

	for (size_t i = 0; i < ARRAY_SIZE(past); i++) {
		u64 start = test_now();

		w.deadline = past[i];
		wait_one(&w);
		ERR(w.r, ETIMEDOUT);
		EQ(w.cmd.n_msgs, 1);
		LT(test_now() - start, 2000000000ULL * test_slow());
		OK(send_str(&a, n, "there"));
		wait_one(&w);
		OK(w.r);
		EQ(w.m.len, 5);
	}
}

TEST("MSG-11 a deadline is a moment, not before which it ends")
{
	struct peer a = peer_new(0);
	struct waiter w = { .p = &a };

	for (int i = 0; i < 3; i++) {
		w.deadline = test_now() + 60000000;
		wait_one(&w);
		ERR(w.r, ETIMEDOUT);
		GE(test_now(), w.deadline);
		LT(test_now(), w.deadline + 5000000000ULL * test_slow());
	}
	w.flags = BUS1_RECV_DROP;
	w.deadline = test_now() + 30000000;
	wait_one(&w);
	ERR(w.r, ETIMEDOUT);
	GE(test_now(), w.deadline);
}

TEST("MSG-11 a message comes before the deadline, however far that is")
{
	const u64 far[] = { test_deadline(100), INT64_MAX - 1, INT64_MAX, 1ULL << 63,
			    UINT64_MAX - 1, UINT64_MAX };
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);

	for (size_t i = 0; i < ARRAY_SIZE(far); i++) {
		struct waiter w = { .deadline = far[i] };

		wait_start(&w, &a);
		test_sleep_ms(20);
		OK(send_str(&a, n, "in time"));
		test_join(&w.thread);
		OK(w.r);
		EQ(w.m.len, 7);
	}
}

TEST("MSG-11 a signal ends a wait")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);

	catch(SIGUSR1, 0);
	for (int i = 0; i < 4; i++) {
		struct waiter w = {
			.deadline = i & 1 ? test_deadline(100) : 0,
			.flags = i & 2 ? BUS1_RECV_DROP : 0,
		};

		wait_start(&w, &a);
		pthread_kill(w.thread.thread, SIGUSR1);
		test_join(&w.thread);
		ERR(w.r, EINTR);
		EQ(w.cmd.n_msgs, 1);
		EQ(w.cmd.buf_used, 0);
	}
	OK(send_str(&a, n, "x"));
	GOT_TEXT(&a, n, "x");
}

TEST("MSG-11 under SA_RESTART a wait goes on, to its deadline")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	struct waiter w = {}, v = { .deadline = test_now() + 700000000ULL };

	catch(SIGUSR1, SA_RESTART);
	wait_start(&w, &a);
	for (int i = 0; i < 5; i++) {
		pthread_kill(w.thread.thread, SIGUSR1);
		test_sleep_ms(10);
		test_asleep(getpid(), w.thread.tid);
	}
	OK(send_str(&a, n, "still"));
	test_join(&w.thread);
	OK(w.r);
	EQ(w.m.len, 5);

	v.p = &a;
	test_start(&v.thread, wait_one, &v);
	while (!__atomic_load_n(&v.thread.done, __ATOMIC_ACQUIRE)) {
		pthread_kill(v.thread.thread, SIGUSR1);
		test_sleep_ms(20);
		LT(test_now(), v.deadline + 10000000000ULL * test_slow());
	}
	test_join(&v.thread);
	ERR(v.r, ETIMEDOUT);
	GE(test_now(), v.deadline);
}

TEST("MSG-11 slices given back before a wait are not given back again")
{
	struct peer a = peer_new(1 << 20);
	u64 n = node_new(&a, 1);
	u8 data[5000] = {};
	struct in in;

	for (int restart = 0; restart < 2; restart++) {
		struct waiter w = {};

		catch(SIGUSR1, restart ? SA_RESTART : 0);
		OK(send_data(&a, n, data, sizeof(data)));
		OK(recv_now(&a, &in));
		w.release = in.m.slice;
		wait_start(&w, &a);
		EQ(peer_info(&a).n_slices, 0);
		EQ(w.cmd.n_release, 0);		/* known before it waits */
		pthread_kill(w.thread.thread, SIGUSR1);
		if (restart) {
			test_sleep_ms(20);
			test_asleep(getpid(), w.thread.tid);
			OK(send_str(&a, n, "x"));
		}
		test_join(&w.thread);
		if (restart)
			OK(w.r);
		else
			ERR(w.r, EINTR);
		EQ(w.cmd.n_release, 0);
		if (!restart) {
			/* The same call again, as a loop around EINTR makes it. */
			OK(send_str(&a, n, "y"));
			OK(recv_cmd(&a, &w.cmd));
		}
	}
}

TEST("MSG-11 a process that is stopped and goes on still waits")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b);
	pid_t pid = test_fork();

	if (!pid) {
		struct in in;

		OK(recv_wait(&a, &in));
		EQ(in.m.len, 4);
		_exit(0);
	}
	test_asleep(pid, pid);
	for (int i = 0; i < 3; i++) {
		OK(SYS(kill(pid, SIGSTOP)));
		test_sleep_ms(20);
		OK(SYS(kill(pid, SIGCONT)));
		test_asleep(pid, pid);
	}
	OK(send_str(&b, h, "late"));
	test_wait(pid);
}

TEST("MSG-11 as many messages wake as many waiters, one each")
{
	for (int how = 0; how < 3; how++) {
		struct peer a = peer_new(0), b = peer_new(0);
		struct waiter w[WAITERS] = {};
		u64 dests[WAITERS], n = node_new(&a, 1), h = grant(&a, n, &b);
		unsigned int seen = 0;

		for (int i = 0; i < WAITERS; i++) {
			wait_start(&w[i], &a);
			dests[i] = h;
		}
		if (how == 0) {
			for (u8 i = 0; i < WAITERS; i++)
				OK(send_data(&b, h, &i, 1));
		} else if (how == 1) {
			OK(send_many(&b, 0, dests, WAITERS, NULL, "\1"));
		} else {
			for (u8 i = 0; i < WAITERS; i++) {
				OK(send_data(&b, h, &i, 1));
				/* One by one: each next one still waits. */
				for (int done = 0; done <= i;) {
					done = 0;
					for (int j = 0; j < WAITERS; j++)
						done += __atomic_load_n(&w[j].thread.done,
									__ATOMIC_ACQUIRE);
					LE(done, i + 1);
					sched_yield();
				}
			}
		}
		for (int i = 0; i < WAITERS; i++) {
			test_join(&w[i].thread);
			OK(w[i].r);
			EQ(w[i].cmd.n_msgs, 1);
			seen |= 1u << *((u8 *)w[i].buf + w[i].m.offset);
		}
		EQ(seen, how == 1 ? 2 : (1u << WAITERS) - 1);
		NOTHING(&a);
		peer_close(&a);
		peer_close(&b);
	}
}

TEST("MSG-11 as many notices wake as many waiters")
{
	struct peer a = peer_new(0), b = peer_new(0);
	struct waiter w[2 * WAITERS] = {};
	u64 n[WAITERS], h[WAITERS];

	for (int i = 0; i < WAITERS; i++) {
		n[i] = node_new(&a, 1);
		h[i] = grant(&a, n[i], &b);
		wait_start(&w[i], &b);
	}
	/* All in one transaction, then one by one the other way. */
	OK(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 0, n, WAITERS));
	for (int i = 0; i < WAITERS; i++) {
		test_join(&w[i].thread);
		OK(w[i].r);
		EQ(w[i].m.type, BUS1_MSG_NODE_DEAD);
	}
	for (int i = 0; i < WAITERS; i++) {
		n[i] = node_new(&a, 1);
		h[i] = grant(&a, n[i], &b);
		wait_start(&w[WAITERS + i], &a);
	}
	OK(ids_cmd(&b, BUS1_CMD_HANDLE_RELEASE, 0, h, WAITERS));
	for (int i = 0; i < WAITERS; i++) {
		test_join(&w[WAITERS + i].thread);
		OK(w[WAITERS + i].r);
		EQ(w[WAITERS + i].m.type, BUS1_MSG_NODE_UNUSED);
	}
}

TEST("MSG-11 a death that is told once the handle is taken wakes another waiter")
{
	for (unsigned int i = 0; i < test_rounds(40); i++) {
		struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
		u64 h = grant(&a, node_new(&a, 1), &b), nc = node_new(&c, 2);
		u64 to_c = grant(&c, nc, &b);
		struct waiter w[2] = {};
		int data, other;

		peer_close(&a);
		GOT_DEAD(&b, h);
		wait_start(&w[0], &c);
		wait_start(&w[1], &c);
		/* One message, and a notice that may not come before it. */
		OK(send_id(&b, to_c, h));
		for (int j = 0; j < 2; j++) {
			test_join(&w[j].thread);
			OK(w[j].r);
		}
		data = w[0].m.type == BUS1_MSG_DATA ? 0 : 1;
		other = !data;
		EQ(w[data].m.type, BUS1_MSG_DATA);
		EQ(w[data].m.n_handles, 1);
		EQ(w[other].m.type, BUS1_MSG_NODE_DEAD);
		NOTHING(&c);
		peer_close(&b);
		peer_close(&c);
	}
}

TEST("MSG-11 a wake-up is not lost with a waiter that a signal takes away")
{
	catch(SIGUSR1, 0);
	for (unsigned int i = 0; i < test_rounds(90); i++) {
		struct peer a = peer_new(0);
		u64 n = node_new(&a, 1);
		struct waiter w = {}, v = {};

		wait_start(&w, &a);
		wait_start(&v, &a);
		if (i & 1)
			pthread_kill(w.thread.thread, SIGUSR1);
		OK(send_str(&a, n, "1"));
		if (!(i & 1))
			pthread_kill(w.thread.thread, SIGUSR1);
		test_join(&w.thread);
		if (!w.r)	/* it got the message, so the other has none */
			OK(send_str(&a, n, "2"));
		else
			ERR(w.r, EINTR);
		test_join(&v.thread);
		OK(v.r);
		NOTHING(&a);
		peer_close(&a);
	}
}

/* Two that wait; the first one, for whom a wake-up is, only until a deadline. */
struct overdue {
	struct peer a;
	u64 start, deadline;		/* of this round */
	u32 round, done[2];
	bool got, stop;			/* the first one got the message */
};

static void await(const u32 *word, u32 value)
{
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value)
		sched_yield();
}

static void wait_shortly(void *arg)
{
	struct overdue *t = arg;

	for (u32 round = 1;; round++) {
		struct waiter w = { .p = &t->a };

		await(&t->round, round);
		if (t->stop)
			return;
		w.deadline = t->deadline;
		wait_one(&w);
		if (w.r)
			ERR(w.r, ETIMEDOUT);
		t->got = !w.r;
		__atomic_store_n(&t->done[0], round, __ATOMIC_RELEASE);
	}
}

static void wait_for_ever(void *arg)
{
	struct overdue *t = arg;

	for (u32 round = 1;; round++) {
		struct waiter w = { .p = &t->a };

		await(&t->round, round);
		if (t->stop)
			return;
		/* Behind the other one. */
		while (test_now() < t->start)
			;
		wait_one(&w);
		OK(w.r);
		__atomic_store_n(&t->done[1], round, __ATOMIC_RELEASE);
	}
}

TEST("MSG-11 a wake-up is not lost with a waiter whose deadline passes")
{
	struct overdue t = { .a = peer_new(0) };
	u64 n = node_new(&t.a, 1), unit = 1000 * test_slow();
	struct test_thread shortly, for_ever;
	u32 rounds = test_rounds(1500);

	test_start(&for_ever, wait_for_ever, &t);
	test_start(&shortly, wait_shortly, &t);
	for (u32 i = 1; i <= rounds; i++) {
		u64 end = test_deadline(20), at;

		t.start = test_now() + 100 * unit;
		t.deadline = t.start + 100 * unit;
		/* From somewhat before the deadline to somewhat after it. */
		at = t.deadline - 50 * unit + i % 100 * 3 * unit;
		__atomic_store_n(&t.round, i, __ATOMIC_RELEASE);
		while (test_now() < at)
			sched_yield();
		OK(send_str(&t.a, n, "for one of them"));
		await(&t.done[0], i);
		if (t.got)
			OK(send_str(&t.a, n, "for the other"));
		while (__atomic_load_n(&t.done[1], __ATOMIC_ACQUIRE) != i) {
			if (test_now() > end)
				FAIL("round %u, a message is there, and a thread waits for it", i);
			sched_yield();
		}
	}
	t.stop = true;
	__atomic_store_n(&t.round, rounds + 1, __ATOMIC_RELEASE);
	test_join(&shortly);
	test_join(&for_ever);
	NOTHING(&t.a);
}

TEST("MSG-11 a waiter whose message is withdrawn goes on waiting")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	struct waiter w = {};

	/* Woken, it may find that the node, and the message with it, is gone. */
	wait_start(&w, &a);
	for (unsigned int i = 0; i < test_rounds(300); i++) {
		u64 m = node_new(&a, 2);

		OK(send_str(&a, m, "short-lived"));
		OK(destroy(&a, m));
		if (__atomic_load_n(&w.thread.done, __ATOMIC_ACQUIRE)) {
			test_join(&w.thread);
			OK(w.r);
			/* This one, or one before that was taken just in time. */
			NE(w.m.id, n);
			EQ(w.m.cookie, 2);
			w = (struct waiter){};
			wait_start(&w, &a);
		}
	}
	test_sleep_ms(20);
	if (!w.thread.done)
		OK(send_str(&a, n, "for good"));
	test_join(&w.thread);
	OK(w.r);
	recv_now(&a, &(struct in){});
	NOTHING(&a);
}

struct other {
	struct peer *p;
	u64 to;
};

static void answer(void *arg)
{
	struct other *t = arg;
	struct in in;

	for (;;) {
		OK(recv_wait(t->p, &in));
		if (!in.m.len)
			return;
		OK(send_data(t->p, t->to, in.data, in.m.len));
	}
}

TEST("MSG-11 no wake-up is lost in a long exchange")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 na = node_new(&a, 1), nb = node_new(&b, 2);
	u64 to_a = grant(&a, na, &b), to_b = grant(&b, nb, &a);
	struct other t = { &b, to_a };
	struct test_thread thread;
	struct in in;

	test_start(&thread, answer, &t);
	for (u64 i = 0; i < test_rounds(1000); i++) {
		OK(send_data(&a, to_b, &i, sizeof(i)));
		OK(recv_wait(&a, &in));
		EQ(in.m.len, sizeof(i));
		MEM(in.data, &i, sizeof(i));
	}
	OK(send_data(&a, to_b, NULL, 0));
	test_join(&thread);
}

static void take_some(void *arg)
{
	struct waiter *w = arg;

	/* Waits, and takes without waiting, in turns: the message "" ends it. */
	for (unsigned int i = 0;; i++) {
		struct in in;
		int r = i % 3 ? recv_wait(w->p, &in) : recv_now(w->p, &in);

		if (r == -EAGAIN)
			continue;
		OK(r);
		if (!in.m.len)
			return;
		__atomic_add_fetch(&w->release, 1, __ATOMIC_RELAXED);
	}
}

TEST("MSG-11 several threads share the messages of one peer, each once")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), total = 0;
	struct waiter w[4] = {};
	unsigned int rounds = test_rounds(3000);

	for (int i = 0; i < 4; i++) {
		w[i].p = &a;
		test_start(&w[i].thread, take_some, &w[i]);
	}
	for (unsigned int i = 0; i < rounds; i++) {
		int r;

		while ((r = send_str(&b, h, "x")) == -EAGAIN)
			sched_yield();
		OK(r);
	}
	for (int i = 0; i < 4; i++) {
		int r;

		while ((r = send_data(&b, h, NULL, 0)) == -EAGAIN)
			sched_yield();
		OK(r);
	}
	for (int i = 0; i < 4; i++) {
		test_join(&w[i].thread);
		total += w[i].release;
	}
	EQ(total, rounds);
	NOTHING(&a);
}

TEST("MSG-11 a process dies with its threads in a wait")
{
	struct peer a = peer_new(0), b;
	u64 n;
	pid_t pid;

	b = peer_new(1 << 16);
	n = node_new(&b, 1);
	u64 h = grant(&b, n, &a), own = node_new(&a, 2), to_a = grant(&a, own, &b);
	pid = test_fork();
	if (!pid) {
		struct waiter w[WAITERS] = {};

		for (int i = 0; i < WAITERS; i++)
			wait_start(&w[i], &b);
		OK(send_str(&b, to_a, "all of them wait"));
		test_join(&w[0].thread);
		FAIL("nothing should have come");
	}
	peer_close(&b);
	OK(recv_wait(&a, &(struct in){}));
	NOTHING(&a);
	test_kill(pid);
	GOT_DEAD_AND_UNUSED(&a, h, own, 1);
	NOTHING(&a);
}
