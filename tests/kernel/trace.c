// SPDX-License-Identifier: GPL-2.0-or-later
/* RES-6: what the tracepoints tell, and that it is enough to follow a message. */
#include "watch.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A word of an event. */
#define WORD(...)								\
	__extension__({								\
		static char word_[48];						\
		snprintf(word_, sizeof(word_), __VA_ARGS__);			\
		word_;								\
	})
#define ID(key, id) WORD(key "=%llu", (unsigned long long)(id))

/* That an event follows which is about the same message. Returns it. */
static const struct event *follow(const struct event *e, const char *name)
{
	return event_next(e, name, ID("msg", event_number(e, "msg")));
}

TEST("RES-6 a message is followed from send to receive by its id")
{
	struct peer a, b;
	const struct event *first, *second, *e;
	u64 n, h, hn;
	static u8 data[5000];
	struct in in;

	trace_start();
	a = peer_new(1 << 16);
	b = peer_new(0);
	n = node_new(&a, 1);
	h = grant(&a, n, &b);
	hn = node_new(&b, 2);
	OK(send_cmd(&b, &(struct bus1_cmd_send){
		.dest = h, .priority = 3,
		.iovs = PTR(&(struct bus1_iovec){ .base = PTR(data), .len = 10 }), .n_iovs = 1,
		.handles = PTR((struct bus1_pass[]){ { .id = hn }, { .id = h } }), .n_handles = 2,
		.fds = PTR(&(s32){ 0 }), .n_fds = 1,
	}));
	OK(send_data(&b, h, data, sizeof(data)));
	/* None of these is sent. */
	ERR(send_str(&b, h + 100, "x"), ENXIO);
	ERR(send_data(&b, h, (void *)8, 10), EFAULT);
	/* Nor received, until it is. */
	ERR(recv_cmd(&a, &(struct bus1_cmd_recv){
		.flags = BUS1_RECV_NONBLOCK, .msgs = 8, .n_msgs = 1, .msg_size = sizeof(in.m),
		.buf = PTR(in.buf), .buf_size = sizeof(in.buf),
	}), EFAULT);
	OK(peek(&a, 0, &in));
	OK(recv_now(&a, &in));
	EQ(in.m.n_handles, 2);
	OK(recv_now(&a, &in));
	EQ(in.m.len, sizeof(data));

	trace_read();
	e = event_next(NULL, "peer_open", ID("peer", peer_id(&a)));
	CHECK(event_is(e, "export=0"));
	event_next(e, "peer_open", ID("peer", peer_id(&b)));
	EQ(event_count("peer_open", NULL), 2);
	EQ(event_count("send", NULL), 2);
	EQ(event_count("receive", NULL), 2);
	EQ(event_count("commit", NULL), 0);
	EQ(event_count("drop", NULL), 0);
	EQ(event_count("refused", NULL), 0);

	first = event_next(NULL, "send", NULL);
	EQ(event_number(first, "sender"), peer_id(&b));
	EQ(event_number(first, "receiver"), peer_id(&a));
	EQ(event_number(first, "node"), n);
	EQ(event_number(first, "len"), 10);
	EQ(event_number(first, "handles"), 2);
	EQ(event_number(first, "fds"), 1);
	EQ(event_number(first, "priority"), 3);
	EQ(event_number(first, "multicast"), 0);
	EQ(event_number(first, "txn"), 0);
	second = event_next(first, "send", NULL);
	EQ(event_number(second, "len"), sizeof(data));
	EQ(event_number(second, "handles"), 0);
	EQ(event_number(second, "fds"), 0);
	EQ(event_number(second, "priority"), 0);
	NE(event_number(first, "msg"), 0);
	NE(event_number(second, "msg"), 0);
	NE(event_number(first, "msg"), event_number(second, "msg"));
	e = follow(first, "receive");
	EQ(event_number(e, "peer"), peer_id(&a));
	EQ(event_number(e, "id"), n);
	CHECK(event_is(e, "type=message"));
	CHECK(follow(second, "receive") > e);
	trace_stop();
}

TEST("RES-6 a handle that is known, a facet and a one-shot are sent to as to their node")
{
	struct peer a, b;
	const struct event *e = NULL;
	u64 n, h[3];

	trace_start();
	a = peer_new(0);
	b = peer_new(0);
	n = node_new(&a, 1);
	h[0] = grant(&a, n, &b);
	h[1] = grant(&a, facet_new(&a, n, 7), &b);
	h[2] = grant(&a, once_new(&a, n, 8), &b);
	for (size_t i = 0; i < ARRAY_SIZE(h); i++) {
		OK(i ? send_str(&b, h[i], "") : send_id(&b, h[0], h[0]));
		OK(recv_now(&a, &(struct in){}));
		trace_read();
		e = event_next(e, "send", NULL);
		EQ(event_number(e, "node"), n);
		EQ(event_number(e, "handles"), !i);
		EQ(event_number(follow(e, "receive"), "id"), n);
	}
	trace_stop();
}

TEST("RES-6 a multicast is followed from its copies to its instant, and to each receiver")
{
	enum { N = 5 };
	struct peer a, b[N];
	const struct event *e, *commit;
	u64 h[N], txn;

	trace_start();
	a = peer_new(0);
	for (int i = 0; i < N; i++) {
		b[i] = peer_new(0);
		h[i] = grant(&b[i], node_new(&b[i], 1), &a);
	}
	OK(send_many(&a, 0, h, N, NULL, "to all"));
	OK(send_many(&a, BUS1_SEND_ORDERED, h, 1, NULL, "to one"));
	for (int i = 0; i < N; i++)
		OK(recv_now(&b[i], &(struct in){}));
	trace_read();
	EQ(event_count("send", "multicast=1"), N + 1);
	EQ(event_count("commit", NULL), 2);
	commit = event_next(NULL, "commit", NULL);
	txn = event_number(commit, "txn");
	NE(txn, 0);
	EQ(event_count("send", ID("txn", txn)), N);
	NE(event_number(event_next(commit, "commit", NULL), "txn"), txn);
	e = NULL;
	for (int i = 0; i < N; i++) {
		e = event_next(e, "send", ID("txn", txn));
		CHECK(e < commit);
		EQ(event_number(e, "sender"), peer_id(&a));
		EQ(event_number(e, "receiver"), peer_id(&b[i]));
		EQ(event_count("send", ID("msg", event_number(e, "msg"))), 1);
		CHECK(follow(e, "receive") > commit);
		EQ(event_number(follow(e, "receive"), "peer"), peer_id(&b[i]));
	}
	trace_stop();
}

TEST("RES-6 each kind of notice is followed from where it is linked to its receipt")
{
	struct peer a, b;
	const struct event *e;
	u64 n[2], h[2], f;

	trace_start();
	a = peer_new(0);
	b = peer_new(0);
	for (int i = 0; i < 2; i++) {
		n[i] = node_new(&a, i);
		h[i] = grant(&a, n[i], &b);
	}
	f = once_new(&a, n[0], 0);
	OK(release(&b, grant(&a, f, &b)));
	GOT_ONCE_DROPPED(&a, f);
	OK(release(&b, h[0]));
	GOT_UNUSED(&a, n[0], 1);
	h[0] = grant(&a, n[0], &b);
	/* Both at one instant. */
	OK(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 0, n, 2));
	GOT_NOTICES(&b, { BUS1_MSG_NODE_DEAD, h[0] }, { BUS1_MSG_NODE_DEAD, h[1] });

	trace_read();
	EQ(event_count("notice", NULL), 4);
	EQ(event_count("receive", NULL), 4);
	e = event_next(NULL, "notice", "type=once-dropped");
	EQ(event_number(e, "id"), f);
	EQ(event_number(e, "peer"), peer_id(&a));
	EQ(event_number(e, "txn"), 0);
	e = follow(e, "receive");
	CHECK(event_is(e, "type=once-dropped"));
	EQ(event_number(e, "id"), f);
	e = event_next(NULL, "notice", "type=node-unused");
	EQ(event_number(e, "id"), n[0]);
	CHECK(event_is(follow(e, "receive"), "type=node-unused"));
	e = NULL;
	for (int i = 0; i < 2; i++) {
		e = event_next(e, "notice", "type=node-dead");
		EQ(event_number(e, "peer"), peer_id(&b));
		NE(event_number(e, "txn"), 0);
		EQ(event_number(follow(e, "receive"), "peer"), peer_id(&b));
		CHECK(follow(e, "receive") >
		      event_next(e, "commit", ID("txn", event_number(e, "txn"))));
		EQ(event_number(follow(e, "receive"), "id"), event_number(e, "id"));
	}
	trace_stop();
}

/* What became of the only message or notice that there is in the trace. */
static void dropped(const char *linked, const char *why)
{
	const struct event *e;

	trace_read();
	EQ(event_count("drop", NULL), 1);
	EQ(event_count("receive", NULL), 0);
	e = event_next(NULL, linked, NULL);
	e = follow(e, "drop");
	if (!event_is(e, WORD("why=%s", why)))
		FAIL("dropped with%s, not for %s", e->text, why);
	trace_clear();
}

TEST("RES-6 a message that is dropped says why")
{
	struct peer a, b, c;
	u64 n, h, hc, f;
	struct in in;

	trace_start();
	a = peer_new(0);
	b = peer_new(0);
	c = peer_new(0);
	n = node_new(&a, 1);
	h = grant(&a, n, &b);
	hc = grant(&c, node_new(&c, 1), &b);

	OK(send_str(&b, h, "thrown away"));
	OK(drop_now(&a, &in.m));
	dropped("send", "receiver");

	f = facet_new(&a, n, 1);
	OK(send_str(&b, grant(&a, f, &b), "to what dies"));
	OK(destroy(&a, f));
	trace_read();
	GOT_DEAD(&b, event_number(event_next(NULL, "notice", NULL), "id"));
	trace_read();
	EQ(event_count("drop", NULL), 1);
	CHECK(event_is(follow(event_next(NULL, "send", NULL), "drop"), "why=node-died"));
	trace_clear();

	/* The second receiver takes no more, so that the first gets nothing. */
	trace_set(NULL, false);
	fill_queue(&b, hc);
	trace_set(NULL, true);
	ERR(send_many(&b, 0, (u64[]){ h, hc }, 2, NULL, "to both"), EAGAIN);
	NOTHING(&a);
	dropped("send", "taken-back");

	OK(send_str(&b, h, "too late"));
	peer_close(&a);
	trace_read();
	EQ(event_count("drop", NULL), 1);
	CHECK(event_is(follow(event_next(NULL, "send", NULL), "drop"), "why=peer-closed"));
	event_next(NULL, "peer_close", NULL);
	trace_stop();
}

TEST("RES-6 a notice that is dropped says why")
{
	struct peer a, b;
	u64 n, h;
	struct in in;

	trace_start();
	a = peer_new(0);
	b = peer_new(0);
	n = node_new(&a, 1);
	/* Overtaken by another use. */
	OK(release(&b, grant(&a, n, &b)));
	h = grant(&a, n, &b);
	dropped("notice", "withdrawn");
	/* Thrown away. */
	OK(release(&b, h));
	OK(drop_now(&a, &in.m));
	dropped("notice", "receiver");
	/* Of a node that is destroyed after all. */
	OK(release(&b, grant(&a, n, &b)));
	OK(destroy(&a, n));
	dropped("notice", "node-died");
	/* Of a handle that is not held any more. */
	n = node_new(&a, 1);
	h = grant(&a, n, &b);
	OK(destroy(&a, n));
	OK(release(&b, h));
	dropped("notice", "withdrawn");
	/* Nobody is there to read it. */
	n = node_new(&a, 1);
	grant(&a, n, &b);
	OK(destroy(&a, n));
	peer_close(&b);
	dropped("notice", "peer-closed");
	trace_stop();
}

struct thief {
	struct peer *p;
	u64 slice;
};

static void steal(void *arg)
{
	struct thief *t = arg;
	int r;

	do
		r = slice_release(t->p, t->slice);
	while (r == -ENXIO);
	OK(r);
}

TEST("RES-6 a message says so when its slice was given back before it was told")
{
	enum { N = 60 };
	struct peer a;
	static u8 data[500];
	struct bus1_msg *msgs;
	struct test_thread thread;
	struct thief t = { .p = &a };
	struct in in;
	u64 n;
	int r;

	trace_start();
	trace_set(NULL, false);
	trace_set("send", true);
	trace_set("drop", true);
	a = peer_new(1 << 16);
	n = node_new(&a, 1);
	OK(send_data(&a, n, data, sizeof(data)));
	for (int i = 1; i < N; i++)
		OK(send_str(&a, n, "more"));
	OK(peek(&a, 0, &in));
	t.slice = in.m.slice;
	NE(t.slice, 0);
	/* No room to tell of the last: all go back, but for what was stolen meanwhile. */
	msgs = (struct bus1_msg *)edge_alloc((N - 1) * sizeof(*msgs));
	test_start(&thread, steal, &t);
	do {
		r = recv_cmd(&a, &(struct bus1_cmd_recv){
			.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(msgs), .n_msgs = N,
			.msg_size = sizeof(*msgs), .buf = PTR(in.buf), .buf_size = sizeof(in.buf),
		});
		if (r)
			ERR(r, EFAULT);
	} while (r);
	test_join(&thread);
	trace_read();
	EQ(event_count("drop", NULL), 1);
	CHECK(event_is(follow(event_next(NULL, "send", "len=500"), "drop"),
		       "why=slice-released"));
	trace_stop();
}

TEST("RES-6 what is refused says of whom, and for want of what")
{
	/* Users of whom one may have fewer nodes than by default, one fewer handles: it takes its time. */
	enum { OWNER = 7101, HOLDER = 7102, NODES = 4000, HANDLES = 2000 };
	static u64 ids[NODES];
	struct peer a, b, c, d;
	const struct event *e;
	static u8 data[3000];
	u64 n, h, out;
	u32 n_ids;
	int r;

	trace_start();
	trace_set(NULL, false);
	trace_set("refused", true);
	a = peer_new(1 << 14);
	b = peer_new(0);
	n = node_new(&a, 1);
	h = grant(&a, n, &b);
	while (!(r = send_data(&b, h, data, sizeof(data))))
		;
	ERR(r, EAGAIN);
	trace_read();
	EQ(event_count("refused", NULL), 1);
	e = event_next(NULL, "refused", "resource=room");
	EQ(event_number(e, "peer"), peer_id(&a));
	CHECK(event_is(e, WORD("error=%d", -EAGAIN)));
	trace_clear();

	trace_set("refused", false);
	fill_queue(&b, h);
	trace_set("refused", true);
	ERR(send_str(&b, h, "inline"), EAGAIN);
	ERR(send_data(&b, h, data, 200), EAGAIN);
	trace_read();
	EQ(event_count("refused", NULL), 2);
	EQ(event_count("refused", "resource=room"), 2);
	EQ(event_count("refused", ID("peer", peer_id(&a))), 2);
	trace_clear();

	OK(limit_set(OWNER, MAX_NODES, NODES));
	d = peer_of(OWNER, 0);
	for (n_ids = 0;; n_ids++) {
		struct bus1_cmd_node cmd = {};

		r = node_create(&d, &cmd);
		if (r)
			break;
		LT(n_ids, ARRAY_SIZE(ids));
		ids[n_ids] = cmd.id;
	}
	ERR(r, EDQUOT);
	trace_read();
	EQ(event_count("refused", NULL), 1);
	e = event_next(NULL, "refused", "resource=nodes");
	EQ(event_number(e, "peer"), peer_id(&d));
	CHECK(event_is(e, WORD("error=%d", -EDQUOT)));
	trace_clear();

	OK(limit_set(HOLDER, MAX_HANDLES, HANDLES));
	c = peer_of(HOLDER, 0);
	for (u32 i = 0; !(r = transfer(&d, &c, 0, ids + i, &out, 1)); i++)
		LT(i, n_ids - 1);
	ERR(r, EDQUOT);
	trace_read();
	EQ(event_count("refused", NULL), 1);
	e = event_next(NULL, "refused", "resource=handles");
	EQ(event_number(e, "peer"), peer_id(&c));
	trace_stop();
	OK(limit_set(OWNER, MAX_NODES, LIMIT_DEFAULT));
	OK(limit_set(HOLDER, MAX_HANDLES, LIMIT_DEFAULT));
}

TEST("RES-6 what was sent while nobody looked has no id, and no event shows an address")
{
	struct peer a;
	u64 n;

	trace_start();
	trace_set(NULL, false);
	a = peer_new(0);
	n = node_new(&a, 1);
	OK(send_str(&a, n, "unseen"));
	EQ(trace_read(), 0);
	trace_set(NULL, true);
	OK(send_str(&a, n, "seen"));
	GOT_TEXT(&a, n, "unseen");
	GOT_TEXT(&a, n, "seen");
	peer_close(&a);
	trace_read();
	EQ(event_count("receive", NULL), 2);
	EQ(event_number(event_next(NULL, "receive", NULL), "msg"), 0);
	follow(event_next(NULL, "send", NULL), "receive");
	for (size_t i = 0; i < MAX_EVENTS && *events[i].name; i++)
		CHECK(!strstr(events[i].text, "ffff") && !strstr(events[i].text, "0x"));
	trace_stop();
}

struct busy {
	bool pinned;
	atomic_bool stop;
	atomic_uint rounds;
};

static void be_busy(void *arg)
{
	struct busy *busy = arg;
	struct peer a, b;
	u64 n, h;

	if (busy->pinned)
		test_pin(0);
	while (!atomic_load(&busy->stop)) {
		a = peer_new(0);
		b = peer_new(0);
		n = node_new(&a, 1);
		h = grant(&a, n, &b);
		for (int i = 0; i < 20; i++) {
			OK(send_id(&b, h, h));
			OK(send_many(&b, 0, (u64[]){ h, h }, 2, NULL, "twice"));
			OK(recv_now(&a, &(struct in){}));
			OK(drop_now(&a, &(struct bus1_msg){}));
			GOT_TEXT(&a, n, "twice");
		}
		OK(release(&b, h));
		GOT_UNUSED(&a, n, 1);
		h = grant(&a, n, &b);
		OK(destroy(&a, n));
		GOT_DEAD(&b, h);
		peer_close(&a);
		peer_close(&b);
		atomic_fetch_add(&busy->rounds, 1);
	}
}

TEST_TIMEOUT("RES-6 events can be turned on and off while there is traffic", 120)
{
	static const char *const names[] = {
		"send", "receive", "call", "reply", "notice", "commit", "drop", "refused", "peer_open",
		"peer_close",
	};
	struct busy busy = { .pinned = code_is_patched() };
	struct test_thread t[2];
	unsigned int rounds;
	u64 end;

	trace_start();
	/* An emulator may run what is half changed: not while it is changed, if on one CPU. */
	if (busy.pinned)
		test_pin(0);
	for (int i = 0; i < 2; i++)
		test_start(&t[i], be_busy, &busy);
	for (unsigned int i = 0; i < test_rounds(busy.pinned ? 30 : 300); i++) {
		trace_set(NULL, i & 1);
		trace_set(names[i % ARRAY_SIZE(names)], !(i & 1));
		if (i % 8 == 0)
			trace_clear();
	}
	/* And it goes on. */
	rounds = atomic_load(&busy.rounds);
	end = test_deadline(30);
	while (atomic_load(&busy.rounds) < rounds + 4) {
		LT(test_now(), end);
		test_sleep_ms(1);
	}
	atomic_store(&busy.stop, true);
	for (int i = 0; i < 2; i++)
		test_join(&t[i]);
	trace_stop();
}
