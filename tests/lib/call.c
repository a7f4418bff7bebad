// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls that block, and their replies. */
#include "server.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>

TEST("CALL-1 CALL-2 CALL-7 LIB-4 a call returns with its reply, of any size that it has room for")
{
	static char data[3 * POOL_SIZE];
	const size_t sizes[] = { 1, 2, 96, 97, 200, LARGE, POOL_SIZE / 8 * 3, POOL_SIZE / 8 * 3 + 1,
				 3 * POOL_SIZE };
	b1_message *reply = NULL;
	b1_handle *handle = NULL;
	struct server s;
	uint64_t chain;
	b1_node *node;
	unsigned int i, k;

	server_init(&s);
	OK(b1_node_new(s.client, &node, NULL, NULL));
	handle = b1_node_get_handle(node);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (k = 0; k < 4; k++) {
			b1_outgoing out = { .data = data, .size = sizes[i] };
			b1_call_options o = { .reply_size = sizes[i], .reply_handles = k / 2 };

			pattern(data, sizes[i], i);
			data[0] = k % 2 ? ECHO_LAST : ECHO;
			out.handles = &handle;
			out.n_handles = sizes[i] < POOL_SIZE / 4 ? k / 2 : 0;
			if (k == 0)
				o.deadline = test_deadline(30);
			OK(b1_call(s.to, &out, &o, &reply));
			/* What it is not. */
			CHECK(!b1_message_is_call(reply));
			CHECK(!b1_message_get_error_name(reply) && !b1_message_get_error_text(reply));
			ERR(b1_message_reply_bytes(reply, "x", 1), EINVAL);
			EQ(b1_message_get_n_handles(reply), out.n_handles);
			if (out.n_handles)
				CHECK(b1_message_get_handle(reply, 0) == handle);
			{
				size_t size;
				const void *got = b1_message_get_data(reply, &size);

				EQ(size, sizes[i]);
				MEM(got, data, size);
			}
			reply = b1_message_unref(reply);
		}
	b1_node_unref(node);
	/* Each has a number of its own. */
	NE(s.chain, 0);
	chain = s.chain;
	OK(server_call(&s, ECHO, NULL, NULL));
	NE(s.chain, chain);
	/* Plain messages come to the same handler. */
	OK(b1_send_bytes(s.to, "\1", 1, NULL));
	OK(server_call(&s, TWICE, NULL, &reply));
	MEM(b1_message_get_data(reply, NULL), "1", 1);
	b1_message_unref(reply);
	EQ(s.n_plain, 1);
	server_stop(&s);
	server_deinit(&s);
}

/* A thread that makes one call. */
struct caller {
	struct server *s;
	char what;
	b1_call_options o;
	b1_message *reply;
	int64_t result;
	struct test_thread thread;
};

static void caller_run(void *arg)
{
	struct caller *c = arg;

	c->result = server_call(c->s, c->what, &c->o, &c->reply);
}

static void caller_start(struct caller *c, struct server *s, char what)
{
	c->s = s;
	c->what = what;
	test_start(&c->thread, caller_run, c);
}

TEST("CALL-7 LIB-4 a reply that the caller has no room for is refused, and a smaller one is not")
{
	struct caller c = { .o = { .reply_size = LARGE - 1, .reply_handles = 1 } };
	static char data[LARGE];
	b1_handle *handles[2];
	b1_message *request;
	struct server s;

	server_init(&s);
	caller_start(&c, &s, KEEP);
	request = server_kept(&s);
	handles[0] = handles[1] = b1_node_get_handle(s.node);
	ERR(b1_message_reply_bytes(request, data, LARGE), EMSGSIZE);
	ERR(b1_message_reply(request, &(b1_outgoing){ .handles = handles, .n_handles = 2 }), EMSGSIZE);
	ERR(b1_message_reply(request, &(b1_outgoing){ .fds = &(int){ 1 }, .n_fds = 1 }), EMSGSIZE);
	CHECK(!is_done(&c.thread));
	pattern(data, LARGE, 3);
	OK(b1_message_reply(request, &(b1_outgoing){ .data = data, .size = LARGE - 1,
						     .handles = handles, .n_handles = 1 }));
	test_join(&c.thread);
	OK(c.result);
	check_pattern(c.reply, LARGE - 1, 3);
	CHECK(b1_message_get_handle(c.reply, 0) == s.to);
	b1_message_unref(c.reply);
	b1_message_unref(request);
	/* Where there is room for a file, that is where it goes. */
	c.o = (b1_call_options){ .reply_fds = 1 };
	OK(server_call(&s, FILL, &c.o, &c.reply));
	check_pattern(c.reply, LARGE, 7);
	b1_message_unref(c.reply);
	server_stop(&s);
	server_deinit(&s);
}

TEST("LIB-4 CALL-2 errors have a name and a text, that fits into any reply")
{
	static const char utf8[] = "\xc3\xa4\xc3\xb6\xc3\xbc\xe2\x82\xac";
	char name[B1_ERROR_NAME_MAX + 2], text[400] = "", request[80] = { FAIL_ };
	b1_message *reply = NULL, *kept;
	struct caller c = { 0 };
	unsigned int i, max;
	const char *got;
	struct server s;

	server_init(&s);
	max = info(s.peer).max_inline;
	strcpy(request + 1, "org.example.Error");
	ERR(b1_call(s.to, &(b1_outgoing){ .data = request, .size = sizeof(request) }, NULL, &reply),
	    EREMOTEIO);
	STR(b1_message_get_error_name(reply), "org.example.Error");
	STR(b1_message_get_error_text(reply), "it is so");
	reply = b1_message_unref(reply);
	ERR(b1_call(s.to, &(b1_outgoing){ .data = request, .size = sizeof(request) }, NULL, NULL),
	    EREMOTEIO);

	memset(name, 'n', sizeof(name));
	name[B1_ERROR_NAME_MAX + 1] = 0;
	for (i = 0; i < 40; i++)
		strcat(text, utf8);
	for (i = 0; i < 8; i++) {
		c.o.reply_size = i < 4 ? 0 : 1000;
		caller_start(&c, &s, KEEP);
		kept = server_kept(&s);
		ERR(b1_message_reply_error(kept, name, "too long"), EINVAL);
		ERR(b1_message_reply_error(kept, "", "none"), EINVAL);
		OK(b1_message_reply_error(kept, name + 1 + i % 4, i == 7 ? NULL : text + i));
		b1_message_unref(kept);
		test_join(&c.thread);
		ERR(c.result, EREMOTEIO);
		STR(b1_message_get_error_name(c.reply), name + 1 + i % 4);
		got = b1_message_get_error_text(c.reply);
		if (i >= 4) {
			STR(got, i == 7 ? "" : text + i);
		} else {
			/* As much as there is room for, but no half characters. */
			EQ(strncmp(got, text + i, strlen(got)), 0);
			LE(strlen(name + 1 + i) + strlen(got) + 2, max);
			GT(strlen(name + 1 + i) + strlen(got) + 2, max - 3);
			NE(text[i + strlen(got)] & 0xc0, 0x80);
		}
		b1_message_unref(c.reply);
	}
	server_stop(&s);
	server_deinit(&s);
}

#define LONG_NAME "an.error.whose.name.is.as.long.as.the.name.of.an.error.can.be.x"

TEST("LIB-4 an error that does not follow the format is one without a name")
{
	const struct {
		const char *data;
		size_t size;
		const char *name, *text;
	} cases[] = {
		{ "", 0, "", "" },	  { "n", 1, "", "" },	     { "\0", 1, "", "" },
		{ "n\0", 2, "", "" },	  { "name", 4, "", "" },     { "n\0t", 3, "", "" },
		{ "\0\0", 2, "", "" },	  { "n\0\0", 3, "n", "" },   { "n\0t\0", 4, "n", "t" },
		{ "n\0t\0u\0", 6, "n", "t" }, { "n\0t\0u", 5, "", "" },  { "\0t\0", 3, "", "" },
		{ LONG_NAME "\0t\0", 66, LONG_NAME, "t" }, { LONG_NAME "n\0t\0", 67, "", "" },
	};
	_Static_assert(sizeof(LONG_NAME) - 1 == B1_ERROR_NAME_MAX, "");
	struct bus1_cmd_node node = { 0 };
	struct bus1_cmd_transfer transfer = { .ids = (uintptr_t)&node.id, .n_ids = 1 };
	struct bus1_msg msg;
	uint64_t id, buf[100];
	struct caller c = { 0 };
	struct server s = { 0 };
	b1_peer *raw;
	unsigned int i;
	int fd;

	raw = new_peer();
	fd = b1_peer_get_fd(raw);
	s.client = new_peer();
	OK(SYS(ioctl(fd, BUS1_CMD_NODE_CREATE, &node)));
	transfer.out = (uintptr_t)&id;
	transfer.peer_fd = b1_peer_get_fd(s.client);
	OK(SYS(ioctl(fd, BUS1_CMD_HANDLE_TRANSFER, &transfer)));
	OK(b1_handle_from_id(s.client, &s.to, id));
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct bus1_cmd_reply reply = {
			.recv = { .msgs = (uintptr_t)&msg, .buf = (uintptr_t)buf, .n_msgs = 1,
				  .msg_size = sizeof(msg), .buf_size = sizeof(buf) },
			.flags = BUS1_REPLY_ERROR,
		};

		caller_start(&c, &s, 0);
		OK(SYS(ioctl(fd, BUS1_CMD_RECV, &reply.recv)));
		EQ(msg.type, BUS1_MSG_CALL);
		reply.recv = (struct bus1_cmd_recv){ 0 };
		reply.send.dest = msg.token;
		reply.send.data = cases[i].size ? (uintptr_t)cases[i].data : 0;
		reply.send.len = cases[i].size;
		OK(SYS(ioctl(fd, BUS1_CMD_REPLY, &reply)));
		test_join(&c.thread);
		ERR(c.result, EREMOTEIO);
		STR(b1_message_get_error_name(c.reply), cases[i].name);
		STR(b1_message_get_error_text(c.reply), cases[i].text);
		b1_message_unref(c.reply);
	}
	b1_handle_unref(s.to);
	b1_peer_unref(s.client);
	b1_peer_unref(raw);
}

TEST("CALL-2 LIB-4 every call ends: dropped, lost with its node, or with the server")
{
	struct caller c = { 0 }, d = { 0 };
	b1_message *kept, *reply = NULL;
	struct server s;
	struct pair p;
	uint64_t end;

	server_init(&s);
	ERR(server_call(&s, NOTHING, NULL, &reply), ECONNABORTED);
	ERR(server_call(&s, DROP, NULL, &reply), ECONNABORTED);
	caller_start(&c, &s, KEEP);
	kept = server_kept(&s);
	CHECK(!is_done(&c.thread));
	EQ(info(s.peer).n_calls, 1);
	b1_message_unref(kept);
	test_join(&c.thread);
	ERR(c.result, ECONNABORTED);
	EQ(info(s.peer).n_calls, 0);

	/* The peer ends, the program goes on, and so does what it has kept. */
	caller_start(&c, &s, KEEP);
	kept = server_kept(&s);
	server_stop(&s);
	caller_start(&d, &s, ECHO);
	wait_queued(s.peer, 1);
	b1_node_unref(s.node);
	test_join(&d.thread);
	ERR(d.result, EHOSTUNREACH);
	CHECK(!is_done(&c.thread));
	b1_peer_unref(s.peer);
	test_join(&c.thread);
	ERR(c.result, ECONNABORTED);
	ERR(b1_message_reply_bytes(kept, "x", 1), ESHUTDOWN);
	ERR(b1_message_reply_error(kept, "x", "y"), ESHUTDOWN);
	ERR(b1_message_drop(kept), ESHUTDOWN);
	ERR(b1_message_set_cancelled(kept, NULL, NULL), ESHUTDOWN);
	MEM(b1_message_get_data(kept, NULL), "\7", 1);
	b1_message_unref(kept);
	ERR(server_call(&s, ECHO, NULL, &reply), EHOSTUNREACH);
	CHECK(!reply);
	/* The handle is told of it all the same. */
	end = test_deadline(30);
	while (!b1_handle_is_dead(s.to)) {
		LE(test_now(), end);
		OK(b1_peer_process(s.client));
	}
	b1_handle_unref(s.to);
	HAS(s.client, 0, 0, 0);
	b1_peer_unref(s.client);

	/* Nobody has a handler; nobody has looked at it. */
	pair_init(&p);
	s.to = p.to_box;
	caller_start(&c, &s, ECHO);
	wait_queued(p.a, 1);
	EQ(OK(b1_peer_wait(p.a, 0)), 1);
	b1_node_unref(p.box.node);
	p.box.node = NULL;
	drain(p.a);
	test_join(&c.thread);
	ERR(c.result, ECONNABORTED);
	pair_deinit(&p);
}

struct told {
	unsigned int n;
	b1_message *request;
	int result;
};

static int on_cancelled(b1_message *request, void *userdata)
{
	struct told *told = userdata;

	CHECK(b1_message_is_cancelled(request));
	CHECK(request == told->request);
	told->n++;
	return told->result;
}

TEST("CALL-4 LIB-4 a call ends at its deadline, the server is told, and a late reply goes nowhere")
{
	struct told told = { .result = -EBADMSG };
	b1_call_options o = { 0 };
	b1_message *request, *reply = NULL;
	struct pair p;
	uint64_t begin;
	int i;

	pair_init(&p);
	/* Nobody ever sees it. */
	begin = test_now();
	o.deadline = begin + 20000000;
	ERR(b1_call(p.to_box, &(b1_outgoing){ .data = "x", .size = 1 }, &o, &reply), ETIMEDOUT);
	GE(test_now(), o.deadline);
	EQ(drain(p.a), 0);
	CHECK(!reply);
	for (i = 0; i < 4; i++) {
		struct server s = { .to = p.to_box };
		struct caller c = { 0 };

		c.o.deadline = test_now() + 200000000;
		caller_start(&c, &s, 1);
		process_until(p.a, &p.box.n_messages, (unsigned int)i + 1);
		told.n = 0;
		told.request = request = p.box.last;
		CHECK(b1_message_is_call(request));
		CHECK(!b1_message_is_cancelled(request));
		OK(b1_message_set_cancelled(request, on_cancelled, &told));
		if (i == 1)
			OK(b1_message_set_cancelled(request, NULL, NULL));
		test_join(&c.thread);
		ERR(c.result, ETIMEDOUT);
		if (i == 2) {
			/* The notice, if it comes, has nobody left to tell. */
			box_empty(&p.box);
			LE(drain(p.a), 1);
			EQ(told.n, 0);
			continue;
		}
		if (i == 3) {
			/* Who answers finds out before who reads the notice. */
			ERR(b1_message_reply_bytes(request, "x", 1), ECANCELED);
			drain(p.a);
			EQ(told.n, 0);
		} else if (i == 0) {
			ERR(b1_peer_process(p.a), EBADMSG);
			EQ(told.n, 1);
			CHECK(b1_message_is_cancelled(request));
			ERR(b1_message_set_cancelled(request, on_cancelled, &told), ECANCELED);
			ERR(b1_message_reply_bytes(request, "x", 1), ECANCELED);
		} else {
			EQ(drain(p.a), 1);
			CHECK(b1_message_is_cancelled(request));
			ERR(b1_message_reply_error(request, "x", "y"), ECANCELED);
		}
		ERR(b1_message_reply_bytes(request, "x", 1), EALREADY);
		if (i == 3)
			ERR(b1_message_set_cancelled(request, on_cancelled, &told), EALREADY);
		box_empty(&p.box);
	}
	OK(b1_send_bytes(p.to_box, "plain", 5, NULL));
	drain(p.a);
	ERR(b1_message_set_cancelled(p.box.last, on_cancelled, &told), EINVAL);
	EQ(drain(p.a), 0);
	EQ(drain(p.b), 0);
	EQ(info(p.a).n_calls, 0);
	pair_deinit(&p);
}

TEST("CALL-1 LIB-4 what a call can not be is refused, and nothing is sent")
{
	b1_outgoing out = { .data = "x", .size = 1 };
	b1_message *reply = NULL, *plain, *other;
	b1_call_options o = { 0 };
	struct {
		b1_call_options o;
		uint64_t more;
	} longer = { .more = 1 };
	b1_lease lease = { .base = &o, .size = 1 };
	struct pair p, q;

	pair_init(&p);
	pair_init(&q);
	OK(b1_send_bytes(p.to_box, "plain", 5, NULL));
	drain(p.a);
	plain = b1_message_ref(p.box.last);
	box_empty(&p.box);
#define REFUSED(err, ...)								\
	do {										\
		o = (b1_call_options){ __VA_ARGS__ };					\
		ERR(b1_call(p.to_box, &out, &o, &reply), err);				\
	} while (0)
	REFUSED(EINVAL, .flags = 2);
	REFUSED(EMSGSIZE, .reply_handles = 254);
	REFUSED(EMSGSIZE, .reply_handles = UINT64_C(1) << 32);
	REFUSED(EMSGSIZE, .reply_fds = 254);
	REFUSED(EMSGSIZE, .leases = &lease, .n_leases = 17);
	REFUSED(EINVAL, .leases = &lease, .n_leases = 1);
	lease.flags = 4;
	REFUSED(EINVAL, .leases = &lease, .n_leases = 1);
	REFUSED(EXDEV, .parent = plain);
	OK(b1_send_bytes(q.to_box, "plain", 5, NULL));
	drain(q.a);
	other = q.box.last;
	ERR(b1_call(q.to_box, &out, &(b1_call_options){ .parent = other }, &reply), EXDEV);
	ERR(b1_call(b1_node_get_handle(q.box.node), &out, &(b1_call_options){ .parent = other }, &reply),
	    EINVAL);
#undef REFUSED
	ERR(b1_call_sized(p.to_box, &out, sizeof(out), &longer.o, sizeof(longer), &reply), E2BIG);
	ERR(b1_call_sized(p.to_box, &out, sizeof(out), &o, sizeof(o) - 1, &reply), EINVAL);
	ERR(b1_call_sized(p.to_box, &out, 1, NULL, 0, &reply), EINVAL);
	out.deadline = 1;
	ERR(b1_call(p.to_box, &out, NULL, &reply), EINVAL);
	out.deadline = 0;
	out.flags = B1_SEND_PARTIAL;
	ERR(b1_call(p.to_box, &out, NULL, &reply), EINVAL);
	out.flags = B1_REPLY_LAST;
	ERR(b1_call(p.to_box, &out, NULL, &reply), EINVAL);
	ERR(b1_send(p.to_box, &out), EINVAL);
	out.flags = 0;
	out.handles = &q.to_box;
	out.n_handles = 1;
	ERR(b1_call(p.to_box, &out, NULL, &reply), EXDEV);
	CHECK(!reply);
	EQ(drain(p.a), 0);
	EQ(drain(q.a), 0);
	b1_message_unref(plain);
	pair_deinit(&p);
	pair_deinit(&q);
}

/* Threads that call, and threads that serve. */
static void many_run(void *arg)
{
	unsigned int i, n = test_rounds(500);
	struct server *s = arg;

	for (i = 0; i < n; i++) {
		char data[64] = { (char)(i % 2 ? ECHO : ECHO_LAST) };
		b1_message *reply = NULL;
		size_t size;

		pattern(data + 1, sizeof(data) - 1, (unsigned int)(uintptr_t)&i + i);
		OK(b1_call(s->to, &(b1_outgoing){ .data = data, .size = sizeof(data) }, NULL, &reply));
		MEM(b1_message_get_data(reply, &size), data, sizeof(data));
		EQ(size, sizeof(data));
		b1_message_unref(reply);
	}
}

TEST("CALL-2 LIB-4 many threads call one peer, and many threads of it answer")
{
	struct test_thread callers[4], servers[2];
	struct server s;
	unsigned int i;

	server_init(&s);
	for (i = 0; i < 2; i++)
		test_start(&servers[i], server_run, &s);
	for (i = 0; i < 4; i++)
		test_start(&callers[i], many_run, &s);
	for (i = 0; i < 4; i++)
		test_join(&callers[i]);
	EQ(s.n, 4 * test_rounds(500));
	/* Each stop ends one thread. */
	for (i = 0; i < 3; i++)
		OK(server_call(&s, STOP, NULL, NULL));
	for (i = 0; i < 2; i++)
		test_join(&servers[i]);
	test_join(&s.thread);
	server_deinit(&s);
}

TEST("LIB-3 CALL-1 b1_peer_run() ends at the deadline, or as a callback says")
{
	uint64_t end = test_now() + 20000000;
	struct pair p;

	pair_init(&p);
	EQ(OK(b1_peer_run(p.a, 0)), 0);
	EQ(OK(b1_peer_run(p.a, end)), 0);
	GE(test_now(), end);
	OK(b1_send_bytes(p.to_box, "1", 1, NULL));
	OK(b1_send_bytes(p.to_box, "2", 1, NULL));
	EQ(OK(b1_peer_run(p.a, 0)), 0);
	EQ(p.box.n_messages, 2);
	p.box.result = -EBADMSG;
	OK(b1_send_bytes(p.to_box, "1", 1, NULL));
	OK(b1_send_bytes(p.to_box, "2", 1, NULL));
	ERR(b1_peer_run(p.a, UINT64_MAX), EBADMSG);
	EQ(p.box.n_messages, 3);
	ERR(b1_peer_run(p.a, UINT64_MAX), EBADMSG);
	EQ(p.box.n_messages, 4);
	p.box.result = 0;
	pair_deinit(&p);
}

/* A server that has more to do after it has answered than to return. */
struct busy {
	atomic_bool go_on;
	unsigned int n;
};

static int busy_serve(b1_node *node, b1_message *message, void *userdata)
{
	struct busy *busy = userdata;
	uint64_t end = test_deadline(30);

	/* Another one waits behind it, so this one has to go by itself. */
	OK(b1_message_reply(message, &(b1_outgoing){ .flags = B1_REPLY_LAST, .data = "x", .size = 1 }));
	if (busy->n++ == 1)
		while (!atomic_load(&busy->go_on)) {
			LE(test_now(), end);
			test_sleep_ms(1);
		}
	return 0;
}

static void last_and_work(void *arg)
{
	b1_message *reply = NULL;

	OK(b1_call(arg, &(b1_outgoing){ .data = "x", .size = 1 },
		   &(b1_call_options){ .deadline = test_deadline(30) }, &reply));
	MEM(b1_message_get_data(reply, NULL), "x", 1);
	b1_message_unref(reply);
}

TEST("CALL-1 LIB-4 a reply that may go with the next receive does not wait for the next handler")
{
	struct test_thread callers[2], *first;
	struct busy busy = { 0 };
	b1_node *node = NULL, *stop = NULL;
	b1_handle *to = NULL;
	struct server s = { 0 };
	unsigned int i;

	s.peer = new_peer();
	s.client = new_peer();
	OK(b1_node_new(s.peer, &node, busy_serve, &busy));
	OK(b1_handle_transfer(b1_node_get_handle(node), s.client, &to));
	/* Both are received at once. */
	for (i = 0; i < 2; i++)
		test_start(&callers[i], last_and_work, to);
	wait_queued(s.peer, 2);
	test_start(&s.thread, server_run, &s);
	while (!is_done(&callers[0]) && !is_done(&callers[1]))
		test_sleep_ms(1);
	first = is_done(&callers[0]) ? &callers[0] : &callers[1];
	test_join(first);
	CHECK(!is_done(&callers[first == &callers[0]]));
	atomic_store(&busy.go_on, true);
	test_join(&callers[first == &callers[0]]);
	/* To end it. */
	OK(b1_node_new(s.peer, &stop, server_handler, &s));
	OK(b1_handle_transfer(b1_node_get_handle(stop), s.client, &s.to));
	server_stop(&s);
	b1_handle_unref(to);
	b1_handle_unref(s.to);
	b1_peer_unref(s.client);
	b1_node_unref(node);
	b1_node_unref(stop);
	b1_peer_unref(s.peer);
}
