// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The call of bus1 by its library, as programs make it: b1_call() of the client, and
 * b1_peer_run() of the server, whose handler answers with B1_REPLY_LAST.
 */
#include <errno.h>
#include <fcntl.h>
#include <libbus1.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench.h"

struct library_end {
	struct end end;
	bool server;
	size_t size, pool_size;
	int fd;			/* of the peer, until that is made */
	int client;		/* of a server: to give the handle to */
	int id[2];		/* through which the client is told the handle's id */
	b1_peer *peer;
	b1_node *node;		/* of a server */
	b1_handle *to;		/* of a client */
	b1_message *last;	/* of a client: the reply that e->data is in */
	const void *data;	/* what is sent next */
	size_t len;
	/* Of a server: what is to be done with each payload. */
	int (*got)(void *job);
	void *job;
};

static void library_close(struct end *e)
{
	struct library_end *l = (struct library_end *)e;

	b1_message_unref(l->last);
	b1_handle_unref(l->to);
	b1_node_unref(l->node);
	b1_peer_unref(l->peer);
	if (l->fd >= 0)
		close(l->fd);
	if (l->client >= 0)
		close(l->client);
	for (int i = 0; i < 2; i++)
		if (l->id[i] >= 0)
			close(l->id[i]);
	free(l);
}

static int library_new(struct library_end **out, size_t size, bool server)
{
	struct library_end *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->end.transport = &transport_libbus1;
	l->end.chunk = l->size = size;
	l->server = server;
	l->client = l->id[0] = l->id[1] = -1;
	l->pool_size = (4 * size + 0x10000) & ~(size_t)0xfff;
	r = bus1_open(&l->fd);
	if (r < 0)
		library_close(&l->end);
	else
		*out = l;
	return r;
}

static int library_open(struct end **a, struct end **b, size_t size, bool alone)
{
	struct library_end *x = NULL, *y = NULL;
	int r;

	r = library_new(&x, size, false);
	if (r == 0)
		r = library_new(&y, size, true);
	if (r == 0 && pipe2(x->id, O_CLOEXEC) < 0)
		r = -errno;
	if (r == 0) {
		y->client = dup(x->fd);
		y->id[1] = dup(x->id[1]);
		r = y->client < 0 || y->id[1] < 0 ? -errno : 0;
	}
	if (r < 0) {
		if (x)
			library_close(&x->end);
		if (y)
			library_close(&y->end);
		return r;
	}
	*a = &x->end;
	*b = &y->end;
	return 0;
}

static int on_message(b1_node *node, b1_message *message, void *userdata)
{
	struct library_end *l = userdata;
	size_t size;
	int r;

	l->end.data = b1_message_get_data(message, &size);
	if (size != l->len)
		return -EBADMSG;
	r = l->got(l->job);
	if (r <= 0)
		return r;
	return b1_message_reply(message, &(b1_outgoing){ .flags = B1_REPLY_LAST, .data = l->data,
							 .size = l->len });
}

static int server_attach(struct library_end *l)
{
	uint64_t id;
	int r;

	r = b1_node_new(l->peer, &l->node, on_message, l);
	if (r >= 0)
		r = b1_handle_transfer_fd(b1_node_get_handle(l->node), l->client, &id);
	if (r >= 0 && write(l->id[1], &id, sizeof(id)) != sizeof(id))
		r = -errno;
	return r < 0 ? r : 0;
}

/* Waits until the server has attached, or gone. */
static int client_attach(struct library_end *l)
{
	uint64_t id;

	close(l->id[1]);
	l->id[1] = -1;
	if (read(l->id[0], &id, sizeof(id)) != sizeof(id))
		return -ECHILD;
	return b1_handle_from_id(l->peer, &l->to, id);
}

/* Peers are of the process that has made them. */
static int library_attach(struct end *e)
{
	struct library_end *l = (struct library_end *)e;
	int r = b1_peer_new_from_fd(&l->peer, l->fd, l->pool_size);

	if (r < 0)
		return r;
	l->fd = -1;
	return l->server ? server_attach(l) : client_attach(l);
}

static int library_send(struct end *e, const void *data, size_t len)
{
	struct library_end *l = (struct library_end *)e;

	l->data = data;
	l->len = len;
	return 0;
}

static int library_recv(struct end *e, size_t offset, size_t len)
{
	struct library_end *l = (struct library_end *)e;
	b1_outgoing out = { .data = l->data, .size = l->len };
	b1_call_options options = { .reply_size = l->size };
	size_t n;
	int r;

	l->last = b1_message_unref(l->last);
	r = b1_call(l->to, &out, &options, &l->last);
	if (r < 0)
		return r;
	e->data = b1_message_get_data(l->last, &n);
	return n == len ? 0 : -EBADMSG;
}

static int library_push(struct end *e, const void *data, size_t len)
{
	return b1_send_bytes(((struct library_end *)e)->to, data, len, NULL);
}

static int library_serve(struct end *e, size_t len, int (*got)(void *job), void *job, const void *data)
{
	struct library_end *l = (struct library_end *)e;

	l->len = len;
	l->got = got;
	l->job = job;
	l->data = data;
	return b1_peer_run(l->peer, UINT64_MAX);
}

const struct transport transport_libbus1 = {
	.name = "libbus1",
	.open = library_open,
	.attach = library_attach,
	.send = library_send,
	.recv = library_recv,
	.close = library_close,
	.serve = library_serve,
	.push = library_push,
};
