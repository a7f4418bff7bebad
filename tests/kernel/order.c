// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ORD: in which order messages and notices come. Each test runs the shortest
 * race for which the order could be wrong, very often, on two processors.
 */
#include "raw.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Spins until *word is `value`: the shortest side channel there is. */
static void await(const u64 *word, u64 value)
{
	for (unsigned int i = 0; __atomic_load_n(word, __ATOMIC_ACQUIRE) != value; i++)
		if (i % 64 == 63)
			sched_yield();
}

static void signal_to(u64 *word, u64 value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Sends, for as long as the receiver is behind. */
static void send_number(const struct peer *p, u64 to, u64 number, size_t len)
{
	u64 data[600] = { number };
	int r;

	while ((r = send_data(p, to, data, len)) == -EAGAIN)
		sched_yield();
	OK(r);
}

static void multicast_number(const struct peer *p, const u64 *to, u32 n, u64 number, size_t len)
{
	u64 data[600] = { number };
	int r;

	while ((r = send_cmd(p, &(struct bus1_cmd_send){
			.dests = PTR(to), .n_dests = n, .data = PTR(data), .len = len,
		})) == -EAGAIN)
		sched_yield();
	OK(r);
}

static u64 number_of(const struct peer *p, const struct in *in)
{
	u64 number;

	EQ(in->m.type, BUS1_MSG_DATA);
	GE(in->m.len, sizeof(number));
	memcpy(&number, in->data, sizeof(number));
	if (in->m.slice)
		OK(slice_release(p, in->m.slice));
	return number;
}

/* The number of the next message; waits. */
static u64 recv_number(const struct peer *p)
{
	struct in in;

	OK(recv_wait(p, &in));
	return number_of(p, &in);
}

/* Likewise, and sees it as soon as it is there: nobody has to wake us. */
static u64 spin_number(const struct peer *p)
{
	struct in in;
	int r;

	for (unsigned int i = 1; (r = recv_now(p, &in)); i++) {
		ERR(r, EAGAIN);
		if (i % 64 == 0)
			sched_yield();
	}
	return number_of(p, &in);
}

struct relay {
	struct peer a[3], c[2];
	u64 to[3][2];			/* of each sender, to each receiver */
	u64 turn;
	unsigned int rounds, n_receivers;
	size_t len;
	bool multicast;
};

struct relay_arg {
	struct relay *t;
	unsigned int i;
};

static void relay_send(void *arg)
{
	struct relay_arg *x = arg;
	struct relay *t = x->t;

	test_pin(x->i);
	for (u64 k = x->i; k < t->rounds; k += 3) {
		await(&t->turn, k);
		if (t->multicast && x->i == 0)
			multicast_number(&t->a[x->i], t->to[x->i], t->n_receivers, k, t->len);
		else
			for (unsigned int j = 0; j < t->n_receivers; j++)
				send_number(&t->a[x->i], t->to[x->i][j], k, t->len);
		signal_to(&t->turn, k + 1);
	}
}

static void relay_recv(void *arg)
{
	struct relay_arg *x = arg;

	test_pin(x->i + 1);
	for (u64 k = 0; k < x->t->rounds; k++)
		EQ(recv_number(&x->t->c[x->i]), k);
}

/* Three senders in turn, told by memory that they share that they may. */
static void relay(unsigned int n_receivers, bool multicast, size_t len, unsigned int rounds)
{
	struct relay t = {
		.rounds = rounds, .n_receivers = n_receivers, .len = len, .multicast = multicast,
	};
	struct test_thread send[3], recv[2];
	struct relay_arg arg[3] = { { &t, 0 }, { &t, 1 }, { &t, 2 } };

	for (unsigned int j = 0; j < n_receivers; j++) {
		u64 n;

		t.c[j] = peer_new(1 << 20);
		n = node_new(&t.c[j], j);
		for (int i = 0; i < 3; i++) {
			if (!j)
				t.a[i] = peer_new(0);
			t.to[i][j] = grant(&t.c[j], n, &t.a[i]);
		}
	}
	for (unsigned int j = 0; j < n_receivers; j++)
		test_start(&recv[j], relay_recv, &arg[j]);
	for (int i = 0; i < 3; i++)
		test_start(&send[i], relay_send, &arg[i]);
	for (int i = 0; i < 3; i++)
		test_join(&send[i]);
	for (unsigned int j = 0; j < n_receivers; j++)
		test_join(&recv[j]);
}

TEST("ORD-1 one send after another, by whatever they knew of each other")
{
	relay(1, false, 8, test_rounds(1500));
}

TEST("ORD-1 the same, with payloads that go through the pool")
{
	relay(1, false, 4000, test_rounds(900));
}

TEST("ORD-1 the same, at two receivers, one sender multicasting")
{
	relay(2, true, 8, test_rounds(900));
}

TEST("ORD-1 the same, between processes that tell each other through a pipe")
{
	unsigned int rounds = test_rounds(600);
	struct peer a = peer_new(0), b = peer_new(0), c = peer_new(0);
	u64 n = node_new(&c, 1), a_to = grant(&c, n, &a), b_to = grant(&c, n, &b);
	int forth[2], back[2];
	pid_t pa, pb;
	char ch = 0;

	OK(SYS(pipe(forth)));
	OK(SYS(pipe(back)));
	pa = test_fork();
	if (!pa) {
		test_pin(0);
		for (u64 i = 0; i < rounds; i++) {
			send_number(&a, a_to, 2 * i, 8);
			EQ(write(forth[1], &ch, 1), 1);
			EQ(read(back[0], &ch, 1), 1);
		}
		_exit(0);
	}
	pb = test_fork();
	if (!pb) {
		test_pin(1);
		for (u64 i = 0; i < rounds; i++) {
			EQ(read(forth[0], &ch, 1), 1);
			send_number(&b, b_to, 2 * i + 1, 8);
			EQ(write(back[1], &ch, 1), 1);
		}
		_exit(0);
	}
	for (u64 i = 0; i < 2 * rounds; i++)
		EQ(recv_number(&c), i);
	test_wait(pa);
	test_wait(pb);
}

struct notices {
	struct peer a, b, c;
	u64 nodes[32], h[32];		/* a's nodes; c's handles of them */
	u64 b_to_c, nc, turn;
	unsigned int rounds;
};

static void tell_after(void *arg)
{
	struct notices *t = arg;

	test_pin(1);
	for (u64 i = 0; i < t->rounds; i++) {
		await(&t->turn, 2 * i + 1);
		send_number(&t->b, t->b_to_c, i, 8);
		signal_to(&t->turn, 2 * i + 2);
	}
}

/* c is told of a node of a's or, if that is no death, of its own; and then b sends to it. */
static void notice_comes_first(bool death)
{
	struct notices t = {
		.a = peer_new(0), .b = peer_new(0), .c = peer_new(0), .rounds = test_rounds(700),
	};
	struct test_thread thread;
	struct in in;

	t.nc = node_new(&t.c, 1);
	t.b_to_c = grant(&t.c, t.nc, &t.b);
	test_pin(0);
	test_start(&thread, tell_after, &t);
	for (u64 i = 0; i < t.rounds; i++) {
		const struct peer *owner = death ? &t.a : &t.c, *holder = death ? &t.c : &t.a;
		u64 n = node_new(owner, i), h = grant(owner, n, holder);

		OK(death ? destroy(owner, n) : release(holder, h));
		signal_to(&t.turn, 2 * i + 1);
		OK(recv_wait(&t.c, &in));
		EQ(in.m.type, death ? BUS1_MSG_NODE_DEAD : BUS1_MSG_NODE_UNUSED);
		EQ(in.m.id, death ? h : n);
		EQ(recv_number(&t.c), i);
		OK(death ? release(holder, h) : destroy_unused(owner, n));
		await(&t.turn, 2 * i + 2);
	}
	test_join(&thread);
}

TEST("ORD-1 a death comes before what was sent after it")
{
	notice_comes_first(true);
}

TEST("ORD-1 unused comes before what was sent after it")
{
	notice_comes_first(false);
}

/*
 * a multicasts to many; b, which gets a copy, reacts at once, by a message to
 * c, which gets one, too. `hops` peers react in turn; and the last one of them
 * looks at once at what c has, while a may still be busy with the others.
 */
struct react {
	struct peer a, b[3], c, idle;
	u64 to[200], next[3], done;
	unsigned int rounds, hops, n_to;
	size_t len;
};

struct react_arg {
	struct react *t;
	unsigned int i;
};

static void react(void *arg)
{
	struct react_arg *x = arg;
	struct react *t = x->t;

	test_pin(x->i + 1);
	for (u64 k = 0; k < t->rounds; k++) {
		/* Its copy of the multicast, and what the one before says. */
		for (int i = x->i ? 2 : 1; i; i--) {
			u64 got = spin_number(&t->b[x->i]);

			EQ(got & 0xffffffff, k);
			EQ(got >> 32, i == (x->i ? 2 : 1) ? 0 : x->i);
		}
		send_number(&t->b[x->i], t->next[x->i], (u64)(x->i + 1) << 32 | k, 8);
		if (x->i == t->hops - 1) {
			EQ(spin_number(&t->c), k);
			EQ(spin_number(&t->c), (u64)t->hops << 32 | k);
			signal_to(&t->done, k + 1);
		}
	}
}

static void race_of_reactions(unsigned int hops, unsigned int n_to, size_t len,
			      unsigned int rounds)
{
	struct react t = { .rounds = rounds, .hops = hops, .len = len };
	struct react_arg arg[3] = { { &t, 0 }, { &t, 1 }, { &t, 2 } };
	struct test_thread thread[3];
	u64 nc, idle;

	t.a = peer_new(0);
	t.c = peer_new(1 << 18);
	nc = node_new(&t.c, 1);
	for (unsigned int i = 0; i < hops; i++) {
		u64 n;

		t.b[i] = peer_new(1 << 18);
		n = node_new(&t.b[i], 1);
		t.to[t.n_to++] = grant(&t.b[i], n, &t.a);
		if (i)
			t.next[i - 1] = grant(&t.b[i], n, &t.b[i - 1]);
	}
	t.next[hops - 1] = grant(&t.c, nc, &t.b[hops - 1]);
	/* Others in between make the time long that it takes. */
	t.idle = peer_new(1 << 22);
	idle = grant(&t.idle, node_new(&t.idle, 1), &t.a);
	while (t.n_to < n_to - 1)
		t.to[t.n_to++] = idle;
	t.to[t.n_to++] = grant(&t.c, nc, &t.a);
	for (unsigned int i = 0; i < hops; i++)
		test_start(&thread[i], react, &arg[i]);
	test_pin(0);
	for (u64 k = 0; k < rounds; k++) {
		multicast_number(&t.a, t.to, t.n_to, k, len);
		for (unsigned int i = hops; i < n_to - 1; i++)
			EQ(recv_number(&t.idle), k);
		await(&t.done, k + 1);
	}
	for (unsigned int i = 0; i < hops; i++)
		test_join(&thread[i]);
}

TEST("ORD-2 no reaction to a multicast overtakes a copy of it")
{
	race_of_reactions(1, 120, 8, test_rounds(300));
}

TEST("ORD-2 nor does one that went through several hands")
{
	race_of_reactions(3, 120, 8, test_rounds(120));
}

TEST("ORD-2 nor with payloads that go through the pool")
{
	race_of_reactions(2, 40, 3000, test_rounds(120));
}

struct blind {
	struct peer a, b, c;
	u64 to[2], b_to_c, seen;
	unsigned int rounds;
};

static void react_blindly(void *arg)
{
	struct blind *t = arg;
	u64 cause = 0, effect = 0, sent = 0;
	struct in in;

	test_pin(1);
	while (effect < t->rounds) {
		/* Both are looked at in turns, and neither is waited for. */
		while (!recv_now(&t->b, &in)) {
			EQ(number_of(&t->b, &in), sent);
			send_number(&t->b, t->b_to_c, 1ULL << 32 | sent, 8);
			sent++;
		}
		while (!recv_now(&t->c, &in)) {
			u64 number = number_of(&t->c, &in);

			if (number >> 32) {
				EQ(number & 0xffffffff, effect);
				effect++;
				LE(effect, cause);
			} else {
				EQ(number, cause);
				cause++;
			}
		}
		signal_to(&t->seen, effect);
	}
}

TEST("ORD-2 reactions while the next multicasts are on their way")
{
	struct blind t = {
		.a = peer_new(0), .b = peer_new(0), .c = peer_new(0), .rounds = test_rounds(1000),
	};
	struct test_thread thread;
	u64 n = node_new(&t.c, 1), sent;

	for (int order = 0; order < 2; order++) {
		t.b_to_c = grant(&t.c, n, &t.b);
		t.to[order] = grant(&t.c, n, &t.a);
		t.to[!order] = grant(&t.b, node_new(&t.b, 1), &t.a);
		t.seen = 0;
		test_start(&thread, react_blindly, &t);
		test_pin(0);
		for (sent = 0; sent < t.rounds; sent++) {
			/* A few ahead of those who react. */
			while (sent > __atomic_load_n(&t.seen, __ATOMIC_ACQUIRE) + 8)
				sched_yield();
			multicast_number(&t.a, t.to, 2, sent, 8);
		}
		test_join(&thread);
	}
}

enum { GROUP = 32 };

/*
 * b gets a notice, says so to c, and looks at once whether c has the notices of
 * the same operation that are for it, before that.
 */
static void react_to_notice(void *arg)
{
	struct notices *t = arg;
	struct in in;

	test_pin(1);
	for (u64 k = 0; k < t->rounds; k++) {
		u32 type = k & 2 ? BUS1_MSG_NODE_DEAD : BUS1_MSG_NODE_UNUSED;

		while (recv_now(&t->b, &in))
			sched_yield();
		EQ(in.m.type, type);
		send_number(&t->b, t->b_to_c, k, 8);
		for (int i = 0; i < GROUP - 1; i++) {
			OK(recv_now(&t->c, &in));
			EQ(in.m.type, type);
		}
		EQ(recv_number(&t->c), k);
		signal_to(&t->turn, k + 1);
	}
}

TEST("ORD-2 no reaction to a notice overtakes another of the same operation")
{
	struct notices t = {
		.a = peer_new(0), .b = peer_new(0), .c = peer_new(0), .rounds = test_rounds(400),
	};
	struct test_thread thread;

	t.nc = node_new(&t.c, 1);
	t.b_to_c = grant(&t.c, t.nc, &t.b);
	test_start(&thread, react_to_notice, &t);
	test_pin(0);
	for (u64 k = 0; k < t.rounds; k++) {
		u64 at = k & 1 ? GROUP - 1 : 0;

		for (u64 i = 0; i < GROUP; i++) {
			const struct peer *p = i == at ? &t.b : &t.c;

			/* Nodes of a that die, or nodes that a lets go of. */
			if (k & 2) {
				t.nodes[i] = node_new(&t.a, i);
				t.h[i] = grant(&t.a, t.nodes[i], p);
			} else {
				t.nodes[i] = node_new(p, i);
				t.h[i] = grant(p, t.nodes[i], &t.a);
			}
		}
		if (k & 2)
			OK(ids_cmd(&t.a, BUS1_CMD_NODE_DESTROY, 0, t.nodes, GROUP));
		else
			OK(ids_cmd(&t.a, BUS1_CMD_HANDLE_RELEASE, 0, t.h, GROUP));
		await(&t.turn, k + 1);
		for (u64 i = 0; i < GROUP; i++) {
			const struct peer *p = i == at ? &t.b : &t.c;

			if (k & 2)
				OK(release(p, t.h[i]));
			else
				OK(destroy_unused(p, t.nodes[i]));
		}
	}
	test_join(&thread);
}

struct fifo {
	struct peer a, c[2];
	u64 to[2];
	unsigned int rounds;
};

struct fifo_arg {
	struct fifo *t;
	u64 i;
};

static void fifo_send(void *arg)
{
	struct fifo_arg *x = arg;
	struct fifo *t = x->t;

	for (u64 k = 0; k < t->rounds; k++) {
		u64 number = x->i << 32 | k;
		size_t len = k % 5 ? 8 : 4000;

		/* To one, and to both at once, in turns. */
		if (k % 3)
			multicast_number(&t->a, t->to, 2, number, len);
		else
			for (int j = 0; j < 2; j++)
				send_number(&t->a, t->to[j], number, len);
	}
}

TEST("ORD-3 the messages of one sender stay in order, in each of its threads")
{
	enum { THREADS = 3 };
	struct fifo t = {
		.a = peer_new(0), .c = { peer_new(1 << 20), peer_new(1 << 20) },
		.rounds = test_rounds(800),
	};
	struct test_thread thread[THREADS];
	struct fifo_arg arg[THREADS];
	u64 next[2][THREADS] = {};

	for (int j = 0; j < 2; j++)
		t.to[j] = grant(&t.c[j], node_new(&t.c[j], 1), &t.a);
	for (u64 i = 0; i < THREADS; i++) {
		arg[i] = (struct fifo_arg){ &t, i };
		test_start(&thread[i], fifo_send, &arg[i]);
	}
	for (u64 k = 0; k < THREADS * t.rounds; k++)
		for (int j = 0; j < 2; j++) {
			u64 number = recv_number(&t.c[j]), i = number >> 32;

			LT(i, THREADS);
			EQ(number & 0xffffffff, next[j][i]);
			next[j][i]++;
		}
	for (int i = 0; i < THREADS; i++)
		test_join(&thread[i]);
	NOTHING(&t.c[0]);
	NOTHING(&t.c[1]);
}

TEST("ORD-3 and so they do across kinds and sizes")
{
	struct peer a = peer_new(0), b = peer_new(1 << 20);
	u64 n = node_new(&b, 1), m = node_new(&b, 2), to_n = grant(&b, n, &a);
	u64 to_m = grant(&b, m, &a), na = node_new(&a, 3), pair[] = { to_m, to_n };
	u64 h = grant(&a, na, &b);
	static u8 data[30000];
	struct in in;

	OK(send_str(&a, to_n, "1"));
	OK(send_data(&a, to_m, data, sizeof(data)));
	OK(send_str(&a, to_m, "3"));
	OK(send_many(&a, 0, pair, 2, NULL, "4"));
	OK(send_data(&a, to_n, data, 300));
	OK(destroy(&a, na));
	OK(send_str(&a, to_n, "6"));
	GOT_TEXT(&b, n, "1");
	OK(recv_now(&b, &in));
	EQ(in.m.len, sizeof(data));
	GOT_TEXT(&b, m, "3");
	for (int i = 0; i < 2; i++) {
		OK(recv_now(&b, &in));
		EQ(in.m.len, 1);
		EQ(in.data[0], '4');
	}
	OK(recv_now(&b, &in));
	EQ(in.m.len, 300);
	GOT_DEAD(&b, h);
	GOT_TEXT(&b, n, "6");
	NOTHING(&b);
}
