// SPDX-License-Identifier: GPL-2.0-or-later
/* Forms of BUS1_CMD_CALL, _REPLY, _CALL_CANCEL and _LEASE, and of what receives their like. */
#include "fault.h"

#include "call.h"

#include <string.h>
#include <unistd.h>

/* How much of w.data goes there, and comes back. */
enum { INLINE = 64, SMALL = 300, PAGES = 9000, COOKIE = 0xca11 };

/* Calls of the sender to the receiver. */

static struct bus1_cmd_call *async_of(size_t len, size_t reply_size)
{
	struct bus1_cmd_call *c = command(&w.s, BUS1_CMD_CALL);

	c->send.dest = w.to_r;
	c->send.data = len ? PTR(w.data) : 0;
	c->send.len = len;
	c->flags = BUS1_CALL_ASYNC;
	c->cookie = COOKIE;
	c->reply_size = reply_size;
	watch(&w.s, w.to_r);
	watch(&w.s, w.to_t);
	return c;
}

/* The sender with a pool, for replies that are large. */
static void with_pool(void)
{
	w.s.pool = pool_map(w.s.fd, POOL);
	w.s.pool_size = POOL;
}

/* What is there for the receiver: the request, which is in w.in from then on. */
static u64 got_request(size_t len)
{
	OK(recv_with(&w.r, &w.in, BUS1_RECV_FDS));
	EQ(w.in.m.type, BUS1_MSG_CALL);
	EQ(w.in.m.id, w.nr);
	EQ(w.in.m.len, len);
	MEM(w.in.data, w.data, len);
	if (w.in.m.slice)
		OK(slice_release(&w.r, w.in.m.slice));
	NE(w.in.m.token, 0);
	return w.in.m.token;
}

/* And for the sender: the reply, which the queue brings. */
static void got_reply_of(u64 id, size_t len)
{
	OK(recv_with(&w.s, &w.in, BUS1_RECV_FDS));
	EQ(w.in.m.type, BUS1_MSG_REPLY);
	EQ(w.in.m.error, 0);
	EQ(w.in.m.id, id);
	EQ(w.in.m.cookie, COOKIE);
	EQ(w.in.m.len, len);
	MEM(w.in.data, w.data, len);
	if (w.in.m.slice)
		OK(slice_release(&w.s, w.in.m.slice));
}

static void goes_round(size_t len, size_t reply_len)
{
	u64 id = w.cmd.call.id, token = got_request(len);

	NE(id, 0);
	NOTHING(&w.r);
	OK(answer(&w.r, token, w.data, reply_len));
	got_reply_of(id, reply_len);
	NOTHING(&w.s);
	EQ(peer_info(&w.s).n_calls, 0);
	EQ(peer_info(&w.r).n_calls, 0);
}

static void async_empty(void)
{
	async_of(0, 0);
}

static void async_inline(void)
{
	async_of(INLINE, INLINE);
}

static void async_small(void)
{
	async_of(SMALL, 0);
}

static void async_pages(void)
{
	with_pool();
	async_of(PAGES, PAGES);
}

static void went_empty(void)
{
	goes_round(0, 0);
}

static void went_inline(void)
{
	goes_round(INLINE, INLINE);
}

static void went_small(void)
{
	goes_round(SMALL, 10);
}

static void went_pages(void)
{
	goes_round(PAGES, PAGES);
}

/* Bytes that were copied for nothing may be gone afterwards. */
static void zeroed(void)
{
	if (!sum_of_pool(&w.r))
		w.before.of[1].pool_sum = 0;
}

FORM("call of nothing", .fails = SLAB | COPY, .setup = async_empty, .check = went_empty)
FORM("call inline", .fails = SLAB | COPY, .setup = async_inline, .check = went_inline)
FORM("call by pool", .fails = SLAB | PAGE | COPY, .setup = async_small, .check = went_small,
     .partly = zeroed)
FORM("call by pool, with a large reply", .fails = SLAB | PAGE | COPY, .setup = async_pages,
     .check = went_pages, .partly = zeroed)

/* A new node, w.id[0], of the sender's, a handle that is moved, and a file. */
static void brings_all(struct bus1_cmd_send *c, const struct peer *sender, u64 moved)
{
	w.id[0] = node_new(sender, 3);
	w.pass[0].id = w.id[0];
	w.pass[1] = (struct bus1_pass){ .id = moved, .flags = BUS1_PASS_MOVE };
	w.fds[0] = pipe_new(&w.fd[0]);
	w.fd[1] = w.fds[0];
	c->handles = PTR(w.pass);
	c->n_handles = 2;
	c->fds = PTR(w.fds);
	c->n_fds = 1;
}

/* Handles and files, both ways. */
static void async_with_all(void)
{
	struct bus1_cmd_call *c = async_of(INLINE, 0);

	brings_all(&c->send, &w.s, w.to_t);
	c->reply_handles = 2;
	c->reply_fds = 1;
}

static void went_with_all(void)
{
	u64 id = w.cmd.call.id, token = got_request(INLINE), one, two;

	EQ(w.in.m.n_handles, 2);
	EQ(w.in.m.n_fds, 1);
	close_fd(w.in.fds[0]);
	one = w.in.h[0].id;
	two = w.in.h[1].id;
	OK(send_str(&w.r, one, "hello"));
	GOT_TEXT(&w.s, w.id[0], "hello");
	OK(answer(&w.r, token, w.data, 10));
	got_reply_of(id, 10);
	OK(release(&w.r, one));
	GOT_UNUSED(&w.s, w.id[0], 1);
	OK(release(&w.r, two));
	GOT_UNUSED(&w.t, w.nt, 1);
}

static void async_once(void)
{
	struct bus1_cmd_call *c = async_of(INLINE, 0);

	w.id[0] = once_new(&w.r, w.nr, 5);
	w.id[1] = grant(&w.r, w.id[0], &w.s);
	watch(&w.s, w.id[1]);
	c->send.dest = w.id[1];
}

static void went_once(void)
{
	goes_round(INLINE, INLINE);
	ERR(release(&w.s, w.id[1]), ENXIO);
}

static void async_stamped(void)
{
	struct bus1_cmd_node node = { .flags = BUS1_NODE_CREDS };

	OK(node_create(&w.r, &node));
	w.id[0] = grant(&w.r, node.id, &w.s);
	async_of(INLINE, 0)->send.dest = w.id[0];
}

static void went_stamped(void)
{
	OK(recv_now(&w.r, &w.in));
	EQ(w.in.m.flags, BUS1_MSG_F_CREDS);
	EQ(w.in.creds->pid, getpid());
	OK(answer(&w.r, w.in.m.token, w.data, 10));
	got_reply_of(w.cmd.call.id, 10);
}

FORM("call with handles and a file", .fails = SLAB | COPY, .setup = async_with_all,
     .check = went_with_all)
FORM("call through a one-shot", .fails = SLAB | COPY, .setup = async_once, .check = went_once)
FORM("call that is stamped", .fails = SLAB | COPY, .setup = async_stamped, .check = went_stamped)

/* As a part of another: the sender serves a call of the third's. */
static void async_nested(void)
{
	u64 to_s = grant(&w.s, w.ns, &w.t);

	w.id[0] = call_async(&w.t, to_s, "outer", 7);
	w.id[1] = GOT_CALL(&w.s, w.ns, "outer");
	async_of(INLINE, 0)->parent = w.id[1];
}


static void went_nested_on(void)
{
	u64 id = w.cmd.call.id, token = got_request(INLINE);

	OK(answer(&w.r, token, w.data, 20));
	got_reply_of(id, 20);
	OK(answer_str(&w.s, w.id[1], "done"));
	GOT_REPLY(&w.t, w.id[0], 7, "done");
}

FORM("call within a call", .fails = SLAB | COPY, .setup = async_nested, .check = went_nested_on)

/* Calls that wait: a thread of the receiver's answers each with what it was. */

static struct server server;
static struct bus1_lease leases[2];

static struct bus1_cmd_call *waiting_of(size_t len)
{
	struct bus1_cmd_call *c = async_of(len, len);

	server_start(&server, &w.r, w.nr);
	c->flags = 0;
	c->recv = recv_into(&w.in, 0, test_deadline(30));
	return c;
}

static void waits_inline(void)
{
	waiting_of(INLINE);
}

static void waits_pages(void)
{
	with_pool();
	waiting_of(2000);
}

static void waits_with_lease(void)
{
	struct bus1_cmd_call *c = waiting_of(INLINE);

	leases[0] = (struct bus1_lease){ PTR(w.data), 100, BUS1_LEASE_READ, 0 };
	leases[1] = (struct bus1_lease){ PTR(w.data), 200, BUS1_LEASE_WRITE, 0 };
	c->leases = PTR(leases);
	c->n_leases = 2;
}

/* What could not be written is received from the queue. Then it is as if it had not been. */
static void lost_nothing(void)
{
	int r = recv_now(&w.s, &w.in);

	zeroed();
	if (r == -EAGAIN)
		return;
	OK(r);
	EQ(w.in.m.type, BUS1_MSG_REPLY);
	EQ(w.in.m.cookie, COOKIE);
	EQ(w.in.m.error, 0);
	EQ(w.in.m.len, w.cmd.call.send.len);
	MEM(w.in.data, w.data, w.in.m.len);
	if (w.in.m.slice)
		OK(slice_release(&w.s, w.in.m.slice));
	w.before.of[0].pool_sum = sum_of_pool(&w.s);
	w.before.of[1].pool_sum = sum_of_pool(&w.r);
	/* The server sleeps again. */
	test_asleep(getpid(), server.thread.tid);
}

static void answered(void)
{
	recv_found(&w.s, &w.in, &w.cmd.call.recv);
	EQ(w.in.m.type, BUS1_MSG_REPLY);
	EQ(w.in.m.cookie, COOKIE);
	EQ(w.in.m.len, w.cmd.call.send.len);
	MEM(w.in.data, w.data, w.in.m.len);
	if (w.in.m.slice)
		OK(slice_release(&w.s, w.in.m.slice));
	NOTHING(&w.s);
	server_stop(&server, 1);
	NOTHING(&w.r);
	EQ(peer_info(&w.s).n_calls, 0);
}

FORM("call and wait", .fails = SLAB | COPY, .setup = waits_inline, .check = answered,
     .partly = lost_nothing)
FORM("call and wait, by pool", .fails = SLAB | PAGE | COPY, .setup = waits_pages,
     .check = answered, .partly = lost_nothing)
FORM("call and wait, with leases", .fails = SLAB | COPY, .setup = waits_with_lease,
     .check = answered, .partly = lost_nothing)

/* Replies of the receiver's. */

/* With a call of the sender's that is served; a large reply may come. */
static struct bus1_cmd_reply *reply_of(size_t len)
{
	struct bus1_cmd_call call = {
		.send = { .dest = w.to_r, .data = PTR(w.data), .len = INLINE },
		.cookie = COOKIE, .reply_size = PAGES, .reply_handles = 3, .reply_fds = 2,
	};
	struct bus1_cmd_reply *c;

	with_pool();
	OK(call_async_cmd(&w.s, &call));
	w.id[7] = call.id;
	c = command(&w.r, BUS1_CMD_REPLY);
	c->send.dest = got_request(INLINE);
	c->send.data = len ? PTR(w.data) : 0;
	c->send.len = len;
	return c;
}

static void reply_inline(void)
{
	reply_of(INLINE);
}

static void reply_pages(void)
{
	reply_of(PAGES);
}

static void reply_no_more(void)
{
	reply_of(0)->flags = BUS1_REPLY_DROP;
}

/* What was copied into a place that is kept for another try is seen by nobody. */
static void replied_inline(void)
{
	got_reply_of(w.id[7], INLINE);
	ERR(answer(&w.r, w.as_given.reply.send.dest, NULL, 0), ENXIO);
}

static void replied_pages(void)
{
	got_reply_of(w.id[7], PAGES);
}

static void dropped(void)
{
	GOT_END(&w.s, w.id[7], COOKIE, ECONNABORTED);
}

FORM("reply inline", .fails = COPY, .setup = reply_inline, .check = replied_inline)
FORM("reply by pool", .fails = PAGE | COPY, .setup = reply_pages, .check = replied_pages)
FORM("reply that there is none", .fails = COPY, .setup = reply_no_more, .check = dropped)

static void reply_with_all(void)
{
	struct bus1_cmd_reply *c = reply_of(SMALL);
	u64 to_t = grant(&w.t, w.nt, &w.r);

	brings_all(&c->send, &w.r, to_t);
	watch(&w.r, to_t);
}

static void replied_with_all(void)
{
	got_reply_of(w.id[7], SMALL);
	EQ(w.in.m.n_handles, 2);
	EQ(w.in.m.n_fds, 1);
	close_fd(w.in.fds[0]);
	EQ(w.in.h[1].id, w.to_t);
	OK(send_str(&w.s, w.in.h[0].id, "hello"));
	GOT_TEXT(&w.r, w.id[0], "hello");
	OK(release(&w.s, w.in.h[0].id));
	GOT_UNUSED(&w.r, w.id[0], 1);
}

FORM("reply with handles and a file", .fails = SLAB | COPY, .setup = reply_with_all,
     .check = replied_with_all)

/*
 * And receives the next. If it has replied and not received, that is what it says: and the
 * command, as it is then, only receives.
 */
static void replied_already(void)
{
	if (w.cmd.reply.send.dest)
		return;
	got_reply_of(w.id[7], INLINE);
	w.id[6] = 1;
	w.as_given = w.cmd;
	w.done_in_part = true;
}

static void reply_and_next(size_t next)
{
	struct bus1_cmd_reply *c = reply_of(INLINE);

	c->recv = recv_into(&w.in, 0, test_deadline(30));
	OK(send_data(&w.s, w.to_r, w.data, next));
}

static void reply_and_message(void)
{
	reply_and_next(INLINE);
}

static void reply_and_slice(void)
{
	reply_and_next(PAGES);
}

static void reply_and_request(void)
{
	struct bus1_cmd_call next = {
		.send = { .dest = w.to_r, .data = PTR(w.data), .len = SMALL }, .cookie = COOKIE };
	struct bus1_cmd_reply *c = reply_of(INLINE);

	c->recv = recv_into(&w.in, 0, test_deadline(30));
	OK(call_async_cmd(&w.s, &next));
	w.id[5] = next.id;
}

static void came_next(u32 type, size_t len)
{
	recv_found(&w.r, &w.in, &w.cmd.reply.recv);
	EQ(w.in.m.type, type);
	EQ(w.in.m.len, len);
	MEM(w.in.data, w.data, len);
	if (w.in.m.slice)
		OK(slice_release(&w.r, w.in.m.slice));
	NOTHING(&w.r);
}

static void first_reply(void)
{
	if (!w.id[6])
		got_reply_of(w.id[7], INLINE);
	NOTHING(&w.s);
}

static void replied_and_message(void)
{
	came_next(BUS1_MSG_DATA, INLINE);
	first_reply();
}

static void replied_and_slice(void)
{
	came_next(BUS1_MSG_DATA, PAGES);
	first_reply();
}

static void replied_and_request(void)
{
	came_next(BUS1_MSG_CALL, SMALL);
	u64 token = w.in.m.token;

	first_reply();
	OK(answer(&w.r, token, w.data, 5));
	got_reply_of(w.id[5], 5);
}

FORM("reply and receive", .fails = COPY, .setup = reply_and_message,
     .check = replied_and_message, .partly = replied_already)
FORM("reply and receive from the pool", .fails = COPY, .setup = reply_and_slice,
     .check = replied_and_slice, .partly = replied_already)
FORM("reply and receive a request", .fails = COPY, .setup = reply_and_request,
     .check = replied_and_request, .partly = replied_already)

/* Calls are given up. */

static void cancelling(void)
{
	struct bus1_cmd_ids *c;

	for (u32 i = 0; i < 4; i++)
		w.ids[i] = call_async(&w.s, w.to_r, "x", i);
	/* In the queue, served, answered. */
	w.id[0] = GOT_CALL(&w.r, w.nr, "x");
	w.id[1] = GOT_CALL(&w.r, w.nr, "x");
	OK(answer_str(&w.r, w.id[1], "y"));
	c = command(&w.s, BUS1_CMD_CALL_CANCEL);
	c->ids = PTR(w.ids);
	c->n_ids = 4;
}

static void cancelled(void)
{
	EQ(peer_info(&w.s).n_calls, 0);
	NOTHING(&w.s);
	GOT_CANCELLED(&w.r, w.id[0]);
	ERR(answer_str(&w.r, w.id[0], "y"), ECANCELED);
	NOTHING(&w.r);
}

FORM("cancel calls", .fails = SLAB | COPY, .setup = cancelling, .check = cancelled)

/* Requests, replies and notices of calls are received. */

static struct bus1_cmd_recv *recv_of(const struct peer *p)
{
	struct bus1_cmd_recv *c = command(p, BUS1_CMD_RECV);

	*c = recv_into(&w.in, 0, test_deadline(30));
	return c;
}

static void recv_request(void)
{
	struct bus1_cmd_call call = {
		.send = { .dest = w.to_r, .data = PTR(w.data), .len = PAGES }, .cookie = COOKIE };

	OK(call_async_cmd(&w.s, &call));
	w.id[0] = call.id;
	recv_of(&w.r);
}

static void request_received(void)
{
	recv_found(&w.r, &w.in, &w.cmd.recv);
	EQ(w.in.m.type, BUS1_MSG_CALL);
	EQ(w.in.m.len, PAGES);
	MEM(w.in.data, w.data, PAGES);
	OK(slice_release(&w.r, w.in.m.slice));
	OK(answer(&w.r, w.in.m.token, w.data, 5));
	got_reply_of(w.id[0], 5);
}

static void recv_reply(size_t len)
{
	reply_of(len);
	OK(raw(&w.r, BUS1_CMD_REPLY, &w.cmd));
	recv_of(&w.s);
}

static void recv_reply_inline(void)
{
	recv_reply(INLINE);
}

static void recv_reply_pages(void)
{
	recv_reply(PAGES);
}

static void reply_received(void)
{
	recv_found(&w.s, &w.in, &w.cmd.recv);
	EQ(w.in.m.type, BUS1_MSG_REPLY);
	EQ(w.in.m.id, w.id[7]);
	MEM(w.in.data, w.data, w.in.m.len);
	if (w.in.m.slice)
		OK(slice_release(&w.s, w.in.m.slice));
	EQ(peer_info(&w.s).n_calls, 0);
}

static void recv_cancelled(void)
{
	w.id[1] = call_async(&w.s, w.to_r, "x", 1);
	w.id[0] = GOT_CALL(&w.r, w.nr, "x");
	OK(call_cancel(&w.s, w.id[1]));
	recv_of(&w.r);
}

static void cancelled_received(void)
{
	EQ(w.in.m.type, BUS1_MSG_CANCELLED);
	EQ(w.in.m.id, w.id[0]);
	ERR(answer_str(&w.r, w.id[0], "y"), ECANCELED);
}

FORM("receive a request", .fails = COPY, .setup = recv_request, .check = request_received)
FORM("receive a reply", .fails = COPY, .setup = recv_reply_inline, .check = reply_received)
FORM("receive a reply from the pool", .fails = COPY, .setup = recv_reply_pages,
     .check = reply_received)
FORM("receive that a call is cancelled", .fails = COPY, .setup = recv_cancelled,
     .check = cancelled_received)

/* Copies of what is lent: a thread of the sender's waits meanwhile. */

static struct call lender;
static u8 lent[8192] __attribute__((aligned(4096)));
static u8 copied[8192];

static struct bus1_cmd_lease *lease_of(u64 flags)
{
	struct bus1_cmd_lease *c;

	fill(lent, sizeof(lent), 6);
	fill(copied, sizeof(copied), 7);
	leases[0] = (struct bus1_lease){ PTR(lent), sizeof(lent), BUS1_LEASE_READ | BUS1_LEASE_WRITE,
					 0 };
	call_init_str(&lender, &w.s, w.to_r, "lend");
	lender.cmd.leases = PTR(leases);
	lender.cmd.n_leases = 1;
	call_start(&lender);
	w.id[0] = GOT_CALL(&w.r, w.nr, "lend");
	c = command(&w.r, BUS1_CMD_LEASE);
	c->flags = flags;
	c->token = w.id[0];
	c->data = PTR(copied);
	c->len = sizeof(copied);
	return c;
}

static void lease_read(void)
{
	lease_of(BUS1_LEASE_READ);
}

static void lease_write(void)
{
	lease_of(BUS1_LEASE_WRITE);
}

static void lease_done(void)
{
	MEM(lent, copied, sizeof(lent));
	OK(answer_str(&w.r, w.id[0], "thanks"));
	OK(call_join(&lender));
	EQ(lender.in.m.len, 6);
	EQ(lender.in.m.flags, 0);
	NOTHING(&w.r);
}

FORM("read what is lent", .fails = SLAB | COPY, .setup = lease_read, .check = lease_done)
FORM("write what is lent", .fails = SLAB | COPY, .setup = lease_write, .check = lease_done)
