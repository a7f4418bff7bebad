// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The call of bus1: the client's BUS1_CMD_CALL and the server's BUS1_CMD_REPLY, one
 * ioctl each. Both read payloads in place and give slices back in their next one.
 */
#include <errno.h>
#include <linux/bus1.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

#define HANDOFF "/sys/module/bus1/parameters/handoff"

struct call_end {
	struct end end;
	bool server;
	int fd;
	uint64_t door;		/* a server's node, or */
	uint64_t to;		/* a client's handle to it */
	uint8_t *pool;
	size_t size, pool_size;
	uint8_t *buf;		/* inline payloads */
	uint32_t buf_size;
	uint64_t slice;		/* of the last message: goes back with the next command */
	uint64_t token;		/* of a server: what to answer */
	struct bus1_cmd_call call;	/* of a client */
	struct bus1_cmd_reply reply;	/* of a server */
	struct bus1_msg msg;	/* the last one */
	const void *data;	/* what is sent next */
	size_t len;
	pid_t restore;		/* the process that turns the hand-off on again */
	int crowd;		/* of a client: a peer whose requests are not answered */
	size_t unanswered;	/* of a server: how many these are */
};

/* Turns the hand-off of the CPU on or off, in all the machine. */
static int handoff_set(bool on)
{
	FILE *f = fopen(HANDOFF, "we");

	if (!f)
		return errno == ENOENT ? absent("this bus1 has no %s", HANDOFF) :
		       absent("%s: %s", HANDOFF, strerror(errno));
	fputs(on ? "Y\n" : "N\n", f);
	return fclose(f) ? -errno : 0;
}

/* Whether it is on; true if it cannot be read. */
static bool handoff_on(void)
{
	FILE *f = fopen(HANDOFF, "re");
	int c;

	if (!f)
		return true;
	c = fgetc(f);
	fclose(f);
	return c != 'N';
}

static void call_close(struct end *e)
{
	struct call_end *c = (struct call_end *)e;

	if (c->pool)
		munmap(c->pool, c->pool_size);
	if (c->fd >= 0)
		close(c->fd);
	if (c->crowd >= 0)
		close(c->crowd);
	if (c->restore == getpid())
		handoff_set(true);
	free(c->buf);
	free(c);
}

static int call_new(struct call_end **out, const struct transport *t, size_t size, bool server)
{
	struct bus1_cmd_info info;
	struct call_end *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->end.transport = t;
	c->end.chunk = c->size = size;
	c->crowd = -1;
	c->server = server;
	/* Two payloads at once: one in use, one that arrives; and as much to spare. */
	c->pool_size = (4 * size + 0x10000) & ~(size_t)0xfff;
	r = bus1_open(&c->fd);
	if (r == 0)
		r = bus1_info(c->fd, &info);
	if (r == 0 && server)
		r = bus1_node_create(c->fd, 0, &c->door);
	if (r < 0)
		goto fail;
	c->buf_size = (info.max_inline + 7) & ~7u;
	c->buf = aligned_alloc(8, c->buf_size ? c->buf_size : 8);
	if (!c->buf) {
		r = -ENOMEM;
		goto fail;
	}
	*out = c;
	return 0;

fail:
	call_close(&c->end);
	return r;
}

static int call_pair(struct end **a, struct end **b, size_t size, const struct transport *t)
{
	struct call_end *x = NULL, *y = NULL;
	struct bus1_cmd_reply none = {};
	int r;

	r = call_new(&x, t, size, false);
	if (r == 0)
		r = call_new(&y, t, size, true);
	if (r == 0)
		r = bus1_handle_give(y->fd, y->door, x->fd, &x->to);
	/* It answers nothing and receives nothing. */
	if (r == 0 && ioctl(y->fd, BUS1_CMD_REPLY, &none) < 0 && errno == ENOTTY)
		r = absent("this bus1 has no calls");
	if (r < 0) {
		if (x)
			call_close(&x->end);
		if (y)
			call_close(&y->end);
		return r;
	}
	*a = &x->end;
	*b = &y->end;
	return 0;
}

static int call_open(struct end **a, struct end **b, size_t size, bool alone)
{
	return call_pair(a, b, size, &transport_bus1_call);
}

/* The same without hand-off: plain wake-ups. */
static int plain_open(struct end **a, struct end **b, size_t size, bool alone)
{
	bool on = handoff_on();
	int r = call_pair(a, b, size, &transport_bus1_plain);

	if (r < 0)
		return r;
	r = handoff_set(false);
	if (r < 0) {
		call_close(*a);
		call_close(*b);
		*a = *b = NULL;
		return r;
	}
	((struct call_end *)*a)->restore = on ? getpid() : 0;
	return 0;
}

/* Commands are made once, and used again: the kernel leaves them as they are. */
static struct bus1_cmd_recv receive(struct call_end *c)
{
	return (struct bus1_cmd_recv){
		.release = ptr(&c->slice),
		.msgs = ptr(&c->msg),
		.n_msgs = 1,
		.msg_size = sizeof(c->msg),
		.buf = ptr(c->buf),
		.buf_size = c->buf_size,
	};
}

static void prepare(struct call_end *c)
{
	if (c->server) {
		c->reply.recv = receive(c);
		return;
	}
	c->call.recv = receive(c);
	c->call.send.dest = c->to;
	c->call.reply_size = c->size;
}

static int server_turn(struct call_end *c)
{
	struct bus1_cmd_reply *r = &c->reply;

	r->send.dest = c->token;
	r->send.data = c->len ? ptr(c->data) : 0;
	r->send.len = c->len;
	r->recv.n_release = c->slice != 0;
	if (ioctl(c->fd, BUS1_CMD_REPLY, r) < 0)
		return -errno;
	if (c->msg.type != BUS1_MSG_CALL || c->msg.id != c->door || !c->msg.token)
		return -EBADMSG;
	c->token = c->msg.token;
	c->slice = c->msg.slice;
	return 0;
}

static int client_turn(struct call_end *c)
{
	struct bus1_cmd_call *r = &c->call;

	r->send.data = c->len ? ptr(c->data) : 0;
	r->send.len = c->len;
	r->recv.n_release = c->slice != 0;
	if (ioctl(c->fd, BUS1_CMD_CALL, r) < 0)
		return -errno;
	if (c->msg.type != BUS1_MSG_REPLY || c->msg.error)
		return -EBADMSG;
	c->slice = c->msg.slice;
	return 0;
}

/* A client sends as it waits for the reply, and a server as it waits for the next. */
static int call_send(struct end *e, const void *data, size_t len)
{
	struct call_end *c = (struct call_end *)e;

	c->data = data;
	c->len = len;
	return 0;
}

static int call_recv(struct end *e, size_t offset, size_t len)
{
	struct call_end *c = (struct call_end *)e;
	int r = c->server ? server_turn(c) : client_turn(c);

	if (r < 0)
		return r;
	if (c->msg.len != len)
		return -EBADMSG;
	e->data = (c->msg.slice ? c->pool : c->buf) + c->msg.offset;
	return 0;
}

/* The pool is mapped by nobody but who receives into it. */
static int call_attach(struct end *e)
{
	struct call_end *c = (struct call_end *)e;
	struct bus1_cmd_info info;
	int r = 0;

	prepare(c);
	c->pool = mmap(NULL, c->pool_size, PROT_READ, MAP_SHARED, c->fd, 0);
	if (c->pool == MAP_FAILED) {
		c->pool = NULL;
		return -errno;
	}
	/* They were made before: each is received, and its token kept by nobody. */
	for (size_t i = 0; i < c->unanswered && r == 0; i++) {
		r = server_turn(c);
		c->token = 0;
	}
	if (r == 0 && c->unanswered)
		r = bus1_info(c->fd, &info);
	if (r == 0 && c->unanswered && info.n_calls != c->unanswered)
		r = -EBADMSG;
	return r;
}

/* Requests of a peer that waits for no reply, to be received by `server` and not answered. */
static int call_crowd(struct call_end *client, struct call_end *server, size_t n)
{
	uint64_t data[8] = {};
	struct bus1_cmd_call c = {
		.send = { .data = ptr(data), .len = sizeof(data) },
		.flags = BUS1_CALL_ASYNC,
	};
	uint64_t to;
	int r;

	r = bus1_open(&client->crowd);
	if (r == 0)
		r = bus1_handle_give(server->fd, server->door, client->crowd, &to);
	for (; server->unanswered < n && r == 0; server->unanswered++) {
		c.send.dest = to;
		c.id = 0;
		if (ioctl(client->crowd, BUS1_CMD_CALL, &c) < 0)
			r = -errno;
	}
	return r;
}

/* job_inflight() says how many; transports are opened with a size alone. */
static size_t crowd;

static int crowd_open(struct end **a, struct end **b, size_t size, bool alone)
{
	int r = call_open(a, b, size, alone);

	if (r < 0)
		return r;
	r = call_crowd((struct call_end *)*a, (struct call_end *)*b, crowd);
	if (r < 0) {
		call_close(*a);
		call_close(*b);
		*a = *b = NULL;
	}
	return r;
}

int job_inflight(struct job **out, size_t count)
{
	static const struct transport transport = {
		.name = "bus1-call",
		.open = crowd_open,
		.attach = call_attach,
		.send = call_send,
		.recv = call_recv,
		.close = call_close,
	};

	crowd = count - 1;
	return job_roundtrip(out, &transport, 64, 0);
}

const struct transport transport_bus1_call = {
	.name = "bus1-call",
	.open = call_open,
	.attach = call_attach,
	.send = call_send,
	.recv = call_recv,
	.close = call_close,
};

const struct transport transport_bus1_plain = {
	.name = "bus1-plain",
	.open = plain_open,
	.attach = call_attach,
	.send = call_send,
	.recv = call_recv,
	.close = call_close,
};
