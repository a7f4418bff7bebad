// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Varlink, by sd-varlink, over a socket pair: a call with one field, which is the
 * payload in base64, as JSON has no bytes, and a reply like it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-json.h>
#include <systemd/sd-varlink.h>
#include <unistd.h>

#include "bench.h"

#define METHOD "org.bus1.Bench.Call"
#define FIELD "data"

struct varlink_end {
	struct end end;
	bool server;
	int fd;
	sd_varlink_server *listener;
	sd_varlink *link;
	sd_json_variant *request;	/* of a server: the one to answer */
	void *buf;			/* what was decoded last */
	const void *data;		/* of a client: what is sent next */
	size_t len;
};

static void varlink_close(struct end *e)
{
	struct varlink_end *v = (struct varlink_end *)e;

	sd_json_variant_unref(v->request);
	sd_varlink_close_unref(v->link);
	sd_varlink_server_unref(v->listener);
	if (v->fd >= 0)
		close(v->fd);
	free(v->buf);
	free(v);
}

static int varlink_open(struct end **a, struct end **b, size_t size, bool alone)
{
	struct varlink_end *v[2] = {};
	int fd[2], r = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		v[i] = calloc(1, sizeof(*v[i]));
		if (!v[i]) {
			close(fd[i]);
			r = -ENOMEM;
			continue;
		}
		v[i]->end.transport = &transport_varlink;
		v[i]->end.chunk = size;
		v[i]->server = i == 1;
		v[i]->fd = fd[i];
	}
	for (int i = 0; i < 2 && r < 0; i++)
		if (v[i])
			varlink_close(&v[i]->end);
	if (r < 0)
		return r;
	*a = &v[0]->end;
	*b = &v[1]->end;
	return 0;
}

/* Called as a request is processed, which is answered later. */
static int on_call(sd_varlink *link, sd_json_variant *parameters, sd_varlink_method_flags_t flags, void *userdata)
{
	struct varlink_end *v = userdata;

	v->request = sd_json_variant_ref(parameters);
	return 1;
}

static int varlink_attach(struct end *e)
{
	struct varlink_end *v = (struct varlink_end *)e;
	int r;

	if (v->server) {
		r = sd_varlink_server_new(&v->listener, SD_VARLINK_SERVER_INHERIT_USERDATA);
		if (r < 0)
			return r;
		sd_varlink_server_set_userdata(v->listener, v);
		r = sd_varlink_server_bind_method(v->listener, METHOD, on_call);
		if (r >= 0)
			r = sd_varlink_server_add_connection(v->listener, v->fd, &v->link);
		if (r >= 0)
			sd_varlink_ref(v->link);
	} else {
		r = sd_varlink_connect_fd(&v->link, v->fd);
	}
	if (r < 0)
		return r;
	v->fd = -1;	/* it is the link's */
	return 0;
}

static int encode(sd_json_variant **out, const void *data, size_t len)
{
	return sd_json_buildo(out, SD_JSON_BUILD_PAIR_BASE64(FIELD, data, len));
}

static int varlink_send(struct end *e, const void *data, size_t len)
{
	struct varlink_end *v = (struct varlink_end *)e;
	sd_json_variant *reply = NULL;
	int r;

	if (!v->server) {
		v->data = data;
		v->len = len;
		return 0;
	}
	r = encode(&reply, data, len);
	if (r >= 0)
		r = sd_varlink_reply(v->link, reply);
	sd_json_variant_unref(reply);
	/* It is written by the next process(). */
	v->request = sd_json_variant_unref(v->request);
	return r < 0 ? r : 0;
}

/* No reply is expected. */
static int varlink_push(struct end *e, const void *data, size_t len)
{
	struct varlink_end *v = (struct varlink_end *)e;
	sd_json_variant *p = NULL;
	int r;

	r = encode(&p, data, len);
	if (r >= 0)
		r = sd_varlink_send(v->link, METHOD, p);
	sd_json_variant_unref(p);
	if (r >= 0)
		r = sd_varlink_flush(v->link);
	return r < 0 ? r : 0;
}

static int server_wait(struct varlink_end *v)
{
	int r;

	while (!v->request) {
		r = sd_varlink_process(v->link);
		if (r == 0)
			r = sd_varlink_wait(v->link, UINT64_MAX);
		if (r < 0)
			return r;
	}
	return 0;
}

static int varlink_recv(struct end *e, size_t offset, size_t len)
{
	struct varlink_end *v = (struct varlink_end *)e;
	sd_json_variant *p = NULL, *request = NULL;
	const char *error = NULL;
	size_t n;
	int r;

	if (v->server) {
		v->request = sd_json_variant_unref(v->request);	/* one that was not answered */
		r = server_wait(v);
		p = v->request;
	} else {
		r = encode(&request, v->data, v->len);
		if (r >= 0)
			r = sd_varlink_call(v->link, METHOD, request, &p, &error);
		sd_json_variant_unref(request);
		if (r >= 0 && error)
			r = -EBADMSG;
	}
	if (r < 0)
		return r;
	free(v->buf);
	v->buf = NULL;
	r = sd_json_variant_unbase64(sd_json_variant_by_key(p, FIELD), &v->buf, &n);
	if (r < 0)
		return r;
	e->data = v->buf;
	return n == len ? 0 : -EBADMSG;
}

const struct transport transport_varlink = {
	.name = "varlink",
	.open = varlink_open,
	.attach = varlink_attach,
	.send = varlink_send,
	.recv = varlink_recv,
	.close = varlink_close,
	.push = varlink_push,
	.slow = true,
};
