// SPDX-License-Identifier: GPL-2.0-or-later
/* MSG-12: poll and epoll say what a receive would do. */
#include "raw.h"

#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

#define IDLE (POLLOUT | POLLWRNORM)
#define BUSY (POLLIN | POLLRDNORM | IDLE)

TEST("MSG-12 readable when there is a message, and not after it is received")
{
	struct peer a = peer_new(1 << 16);
	u64 n = node_new(&a, 1);
	u8 data[5000] = {};
	struct bus1_msg m;
	struct in in;

	EQ(poll_now(&a), IDLE);
	for (int round = 0; round < 4; round++) {
		for (int i = 0; i < 5; i++) {
			OK(send_data(&a, n, data, i % 2 ? sizeof(data) : 3));
			EQ(poll_now(&a), BUSY);
		}
		for (int i = 0; i < 5; i++) {
			EQ(poll_now(&a), BUSY);
			if (round % 2) {
				OK(drop_now(&a, &m));
				continue;
			}
			OK(recv_now(&a, &in));
			if (in.m.slice)
				OK(slice_release(&a, in.m.slice));
		}
		EQ(poll_now(&a), IDLE);
		NOTHING(&a);
		EQ(poll_now(&a), IDLE);
	}
}

TEST("MSG-12 a notice makes readable, and withdrawn does so no more")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b);

	OK(release(&b, h));
	EQ(poll_now(&a), BUSY);
	h = grant(&a, n, &b);		/* used again */
	EQ(poll_now(&a), IDLE);
	OK(release(&b, h));
	EQ(poll_now(&a), BUSY);
	OK(destroy(&a, n));		/* gone altogether */
	EQ(poll_now(&a), IDLE);

	n = node_new(&a, 1);
	h = grant(&a, n, &b);
	OK(destroy(&a, n));
	EQ(poll_now(&b), BUSY);
	OK(release(&b, h));		/* what died is not held */
	EQ(poll_now(&b), IDLE);
	NOTHING(&a);
	NOTHING(&b);
}

TEST("MSG-12 messages that go with their node make readable no more")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), m = node_new(&a, 2), h = grant(&a, n, &b), g = grant(&a, m, &b);

	OK(send_str(&b, h, "1"));
	OK(send_str(&b, h, "2"));
	EQ(poll_now(&a), BUSY);
	OK(destroy(&a, n));
	EQ(poll_now(&a), IDLE);
	NOTHING(&a);
	OK(send_str(&b, g, "3"));
	EQ(poll_now(&a), BUSY);
	GOT_TEXT(&a, m, "3");
	EQ(poll_now(&a), IDLE);
}

TEST("MSG-12 what was not sent makes nobody readable")
{
	struct peer a = peer_new(1 << 16), b = peer_new(0);
	u64 n = node_new(&a, 1), to_a = grant(&a, n, &b), dests[] = { to_a, to_a, 12345 };
	u8 *data = edge_alloc(5000);

	ERR(send_many(&b, 0, dests, 3, NULL, "x"), ENXIO);
	EQ(poll_now(&a), IDLE);
	ERR(send_data(&b, to_a, data, 6000), EFAULT);
	EQ(poll_now(&a), IDLE);
	ERR(send_ids(&b, to_a, dests, 3), ENXIO);
	EQ(poll_now(&a), IDLE);
}

TEST("MSG-12 select says the same")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);

	for (int round = 0; round < 2; round++) {
		struct timeval zero = {};
		fd_set in, out, err;

		FD_ZERO(&in);
		FD_SET(a.fd, &in);
		out = err = in;
		EQ(OK(SYS(select(a.fd + 1, &in, &out, &err, &zero))), 1 + round);
		EQ(!!FD_ISSET(a.fd, &in), round);
		CHECK(FD_ISSET(a.fd, &out));
		CHECK(!FD_ISSET(a.fd, &err));
		OK(send_str(&a, n, "x"));
	}
}

static int epoll_new(const struct peer *p, u32 events)
{
	int fd = (int)OK(SYS(epoll_create1(EPOLL_CLOEXEC)));
	struct epoll_event ev = { .events = events, .data.u64 = 0xe0 };

	OK(SYS(epoll_ctl(fd, EPOLL_CTL_ADD, p->fd, &ev)));
	return fd;
}

/* The events that epoll has now; 0 if none. */
static u32 events(int fd)
{
	struct epoll_event ev = {};
	int n = (int)OK(SYS(epoll_wait(fd, &ev, 1, 0)));

	if (n)
		EQ(ev.data.u64, 0xe0);
	return n ? ev.events : 0;
}

TEST("MSG-12 epoll, level, as long as there is something")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	int in = epoll_new(&a, EPOLLIN), out = epoll_new(&a, EPOLLOUT);

	EQ(events(in), 0);
	EQ(events(out), EPOLLOUT);
	OK(send_str(&a, n, "1"));
	OK(send_str(&a, n, "2"));
	EQ(events(in), EPOLLIN);
	EQ(events(in), EPOLLIN);
	GOT_TEXT(&a, n, "1");
	EQ(events(in), EPOLLIN);
	GOT_TEXT(&a, n, "2");
	EQ(events(in), 0);
	EQ(events(out), EPOLLOUT);
}

TEST("MSG-12 epoll, edge, once for each that arrives")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b), other = grant(&a, node_new(&a, 2), &b);
	int fd = epoll_new(&a, EPOLLIN | EPOLLET);

	EQ(events(fd), 0);
	OK(send_str(&b, h, "1"));
	EQ(events(fd), EPOLLIN);
	EQ(events(fd), 0);
	/* More, while there is something: another event. */
	OK(send_str(&b, h, "2"));
	EQ(events(fd), EPOLLIN);
	EQ(events(fd), 0);
	GOT_TEXT(&a, n, "1");
	EQ(events(fd), 0);
	GOT_TEXT(&a, n, "2");
	EQ(events(fd), 0);
	/* From empty. */
	OK(send_str(&b, h, "3"));
	EQ(events(fd), EPOLLIN);
	GOT_TEXT(&a, n, "3");
	/* A notice is an arrival. */
	OK(release(&b, other));
	EQ(events(fd), EPOLLIN);
	EQ(events(fd), 0);
	/* What came and went gives no event. */
	OK(recv_now(&a, &(struct in){}));
	OK(send_str(&b, h, "4"));
	GOT_TEXT(&a, n, "4");
	EQ(events(fd), 0);
}

TEST("MSG-12 epoll, one shot")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	int fd = epoll_new(&a, EPOLLIN | EPOLLONESHOT);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = 0xe0 };

	OK(send_str(&a, n, "1"));
	EQ(events(fd), EPOLLIN);
	EQ(events(fd), 0);
	OK(send_str(&a, n, "2"));
	EQ(events(fd), 0);
	OK(SYS(epoll_ctl(fd, EPOLL_CTL_MOD, a.fd, &ev)));
	EQ(events(fd), EPOLLIN);
}

TEST("MSG-12 epoll tells which peer")
{
	struct peer p[5];
	u64 n[5];
	int fd = (int)OK(SYS(epoll_create1(EPOLL_CLOEXEC)));
	struct epoll_event ev;

	for (u32 i = 0; i < 5; i++) {
		p[i] = peer_new(0);
		n[i] = node_new(&p[i], i);
		ev = (struct epoll_event){ .events = EPOLLIN, .data.u32 = i };
		OK(SYS(epoll_ctl(fd, EPOLL_CTL_ADD, p[i].fd, &ev)));
	}
	for (u32 i = 0; i < 5; i++) {
		OK(send_str(&p[i], n[i], "x"));
		EQ(epoll_wait(fd, &ev, 1, 0), 1);
		EQ(ev.data.u32, i);
		EQ(ev.events, EPOLLIN);
		GOT_TEXT(&p[i], n[i], "x");
		EQ(epoll_wait(fd, &ev, 1, 0), 0);
	}
}

struct poller {
	struct test_thread thread;
	struct peer *p;
	int epoll;		/* or -1: poll() */
	int r;
	u32 got;
};

static void poll_once(void *arg)
{
	struct poller *t = arg;
	int ms = (int)(40000 * test_slow());

	if (t->epoll >= 0) {
		struct epoll_event ev = {};

		t->r = epoll_wait(t->epoll, &ev, 1, ms);
		t->got = ev.events;
	} else {
		struct pollfd pfd = { .fd = t->p->fd, .events = POLLIN };

		t->r = poll(&pfd, 1, ms);
		t->got = (u32)pfd.revents;
	}
}

/* There is no telling when a thread is in poll, only that it soon is. */
static void poll_start(struct poller *t)
{
	test_start(&t->thread, poll_once, t);
	test_sleep_ms(30 * test_slow());
	CHECK(!__atomic_load_n(&t->thread.done, __ATOMIC_ACQUIRE));
}

TEST("MSG-12 what arrives wakes poll and epoll")
{
	for (int how = 0; how < 6; how++) {
		struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
		u64 n = node_new(&a, 1), h = grant(&a, n, &b), nc = node_new(&c, 3);
		struct poller t = {
			.p = &a, .epoll = how % 2 ? epoll_new(&a, EPOLLIN | EPOLLET) : -1,
		};

		grant(&c, nc, &a);
		poll_start(&t);
		if (how / 2 == 0)
			OK(send_str(&b, h, "x"));
		else if (how / 2 == 1)
			OK(release(&b, h));
		else
			OK(destroy(&c, nc));
		test_join(&t.thread);
		EQ(t.r, 1);
		EQ(t.got, POLLIN);
		OK(recv_now(&a, &(struct in){}));
		CHECK(!readable(&a));
		peer_close(&a);
		peer_close(&b);
		peer_close(&c);
	}
}

TEST("MSG-12 EPOLLEXCLUSIVE wakes some, not all")
{
	enum { N = 6 };
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b);
	struct poller t[N];
	int woken = 0, more = 0;

	for (int i = 0; i < N; i++) {
		t[i] = (struct poller){ .p = &a, .epoll = epoll_new(&a, EPOLLIN | EPOLLEXCLUSIVE) };
		poll_start(&t[i]);
	}
	OK(send_str(&b, h, "1"));
	for (u64 end = test_deadline(20); !woken && test_now() < end;) {
		test_sleep_ms(100 * test_slow());
		for (int i = 0; i < N; i++)
			woken += __atomic_load_n(&t[i].thread.done, __ATOMIC_ACQUIRE);
	}
	GE(woken, 1);
	LT(woken, N);
	/* Another wakes another. */
	OK(send_str(&b, h, "2"));
	for (u64 end = test_deadline(20); more <= woken && test_now() < end;) {
		test_sleep_ms(20 * test_slow());
		more = 0;
		for (int i = 0; i < N; i++)
			more += __atomic_load_n(&t[i].thread.done, __ATOMIC_ACQUIRE);
	}
	GT(more, woken);
	/* Each message wakes the next: none stays. */
	for (int i = 0; i < N; i++)
		OK(send_str(&b, h, "3"));
	for (int i = 0; i < N; i++) {
		test_join(&t[i].thread);
		EQ(t[i].r, 1);
		EQ(t[i].got, EPOLLIN);
	}
}

TEST("MSG-12 a waiting receive and a poll are both woken")
{
	struct peer a = peer_new(0), b = peer_new(0);
	u64 n = node_new(&a, 1), h = grant(&a, n, &b);
	struct poller t = { .p = &a, .epoll = epoll_new(&a, EPOLLIN | EPOLLET) };
	struct poller u = { .p = &a, .epoll = -1 };
	pid_t pid = test_fork();

	if (!pid) {
		struct in in;

		OK(recv_wait(&a, &in));
		_exit(0);
	}
	test_asleep(pid, pid);
	poll_start(&t);
	OK(send_str(&b, h, "1"));
	test_wait(pid);
	/* The receiver may have been first, and emptied it: then another does. */
	OK(send_str(&b, h, "2"));
	test_join(&t.thread);
	EQ(t.r, 1);
	u.r = 0;
	test_start(&u.thread, poll_once, &u);
	test_join(&u.thread);
	EQ(u.r, 1);
}

struct crowd {
	struct peer a, b;
	u64 to[2];
	unsigned int rounds;
	bool stop;
};

static void send_crowd(void *arg)
{
	struct crowd *t = arg;

	for (unsigned int i = 0; i < t->rounds; i++) {
		int r;

		while ((r = i % 2 ? send_many(&t->b, 0, t->to, 2, NULL, "m") :
				    send_str(&t->b, t->to[0], "s")) == -EAGAIN)
			sched_yield();
		OK(r);
	}
}

TEST("MSG-12 what poll says is readable can be received, and the reverse")
{
	struct crowd t = { .a = peer_new(0), .b = peer_new(0), .rounds = test_rounds(1000) };
	struct test_thread x, y;
	u64 n = node_new(&t.a, 1), m = node_new(&t.a, 2), got = 0;
	struct in in;
	bool over;

	t.to[0] = grant(&t.a, n, &t.b);
	t.to[1] = grant(&t.a, m, &t.b);
	test_start(&x, send_crowd, &t);
	test_start(&y, send_crowd, &t);
	do {
		over = __atomic_load_n(&x.done, __ATOMIC_ACQUIRE) &&
		       __atomic_load_n(&y.done, __ATOMIC_ACQUIRE);
		/* Nobody else takes any, and none is withdrawn. */
		while (readable(&t.a)) {
			OK(recv_now(&t.a, &in));
			got++;
		}
	} while (!over);
	test_join(&x);
	test_join(&y);
	NOTHING(&t.a);
	EQ(got, 2 * (t.rounds / 2 * 3 + t.rounds % 2));
}

static void poll_much(void *arg)
{
	struct crowd *t = arg;

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		struct pollfd pfd = { .fd = t->a.fd, .events = POLLIN };

		poll(&pfd, 1, 1);
	}
}

static void epoll_much(void *arg)
{
	struct crowd *t = arg;
	int fd = (int)OK(SYS(epoll_create1(EPOLL_CLOEXEC)));

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		struct epoll_event ev = { .events = EPOLLIN | EPOLLET };

		/* The peer may be gone. If not, it is still there when it goes. */
		epoll_ctl(fd, EPOLL_CTL_ADD, t->a.fd, &ev);
		epoll_wait(fd, &ev, 1, 1);
		if (rand() % 2)
			epoll_ctl(fd, EPOLL_CTL_DEL, t->a.fd, &ev);
	}
	close(fd);
}

static void send_much(void *arg)
{
	struct crowd *t = arg;

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		int r = send_many(&t->b, 0, t->to, 2, NULL, "x");

		if (r && r != -EAGAIN)
			ERR(r, EHOSTUNREACH);
	}
}

TEST_TIMEOUT("MSG-12 a peer goes while others poll it and send to it", 120)
{
	for (unsigned int i = 0; i < test_rounds(60); i++) {
		struct crowd t = { .a = peer_new(0), .b = peer_new(0) };
		struct test_thread th[3];

		t.to[0] = grant(&t.a, node_new(&t.a, 1), &t.b);
		t.to[1] = grant(&t.a, node_new(&t.a, 2), &t.b);
		test_start(&th[0], poll_much, &t);
		test_start(&th[1], epoll_much, &t);
		test_start(&th[2], send_much, &t);
		test_sleep_ms(3);
		close(t.a.fd);
		test_sleep_ms(2);
		__atomic_store_n(&t.stop, true, __ATOMIC_RELAXED);
		for (int j = 0; j < 3; j++)
			test_join(&th[j]);
		peer_close(&t.b);
	}
}
