// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls of the bus1 that fake.c makes: see there. */
#include "fake.h"

#include <errno.h>
#include <stdlib.h>

struct fake_call {
	uint64_t id;			/* of the caller's */
	uint64_t cookie, chain;
	struct fake_peer *caller;	/* NULL: it has left, or the call is over */
	struct fake_peer *server;	/* NULL: it is not received, or was answered */
	uint64_t token;			/* of the server's */
	struct fake_msg *request;	/* that was not received */
	struct fake_msg *nested;	/* requests within this, that its thread is to serve */
	struct fake_call *parent;
	unsigned int depth;
	bool async, nests, waiting;
	bool done;			/* with an error or a reply */
	int error;
	struct fake_msg *reply;
	uint64_t reply_size;
	uint32_t reply_handles, reply_fds;
	bool fault;
	uint32_t n_leases;
	struct bus1_lease leases[BUS1_MAX_LEASES];
	struct fake_call *next;
};

static struct fake_call *calls;
static uint64_t chains;

static struct fake_call *served(struct fake_peer *peer, uint64_t token)
{
	struct fake_call *c;

	for (c = calls; c && !(c->server == peer && c->token == token); c = c->next)
		;
	return token ? c : NULL;
}

static struct fake_call *made(struct fake_peer *peer, uint64_t id)
{
	struct fake_call *c;

	for (c = calls; c && !(c->caller == peer && c->id == id && !c->waiting); c = c->next)
		;
	return c;
}

/* Free it if neither side has it any more. */
static void call_put(struct fake_call *call)
{
	struct fake_call **p, *c;

	if (call->caller || call->server || call->request)
		return;
	for (p = &calls; *p != call; p = &(*p)->next)
		;
	*p = call->next;
	for (c = calls; c; c = c->next)
		if (c->parent == call)
			c->parent = NULL;
	free(call);
}

/* It is over, with a reply, or with an error. */
static void call_end(struct fake_call *call, int error, struct fake_msg *reply)
{
	call->server = NULL;
	call->token = 0;
	if (!call->caller) {
		call_put(call);
		return;
	}
	call->done = true;
	call->error = error;
	if (!reply && call->async) {
		reply = fake_zalloc(sizeof(*reply));
		reply->handles = fake_zalloc(1);
	}
	call->reply = reply;
	if (reply) {
		reply->type = BUS1_MSG_REPLY;
		reply->call = call;
	}
	if (call->async)
		fake_enqueue(call->caller, reply);
	pthread_cond_broadcast(&fake_wake);
}

/* The caller has no more interest in it. */
static void call_leave(struct fake_call *call)
{
	struct fake_peer *caller = call->caller;
	struct fake_msg *msg;

	call->caller = NULL;
	call->waiting = false;
	while ((msg = call->nested)) {
		call->nested = msg->next;
		msg->next = NULL;
		fake_enqueue(caller, msg);
	}
	if (call->reply) {
		msg = call->reply;
		if (call->async)
			fake_unqueue(caller, msg);
		msg->call = NULL;
		fake_drop_msg(caller, msg);
		call->reply = NULL;
	}
	if (call->server) {
		msg = fake_zalloc(sizeof(*msg));
		msg->type = BUS1_MSG_CANCELLED;
		msg->token = call->token;
		msg->handles = fake_zalloc(1);
		fake_enqueue(call->server, msg);
	} else if (call->request) {
		msg = call->request;
		call->request = NULL;
		msg->call = NULL;
		if (msg->node->owner)
			fake_unqueue(msg->node->owner, msg);
		fake_drop_msg(msg->node->owner, msg);
	}
	call_put(call);
}

void fake_call_deliver(struct fake_peer *peer, struct fake_msg *msg, struct bus1_msg *out)
{
	struct fake_call *call = msg->call;

	if (msg->type == BUS1_MSG_CANCELLED)
		out->id = msg->token;
	if (!call)
		return;
	msg->call = NULL;
	if (msg->type == BUS1_MSG_CALL) {
		call->request = NULL;
		call->server = peer;
		out->token = call->token = ++peer->ids;
		out->chain = call->chain;
		out->n_leases = call->n_leases;
		return;
	}
	out->id = call->id;
	out->cookie = call->cookie;
	out->error = call->error;
	out->flags |= (msg->is_error ? BUS1_MSG_F_ERROR : 0) | (call->fault ? BUS1_MSG_F_FAULT : 0);
	call->caller = NULL;
	call->reply = NULL;
	call_put(call);
}

void fake_call_drop(struct fake_msg *msg)
{
	struct fake_call *call = msg->call;

	if (!call || msg->type != BUS1_MSG_CALL)
		return;
	call->request = NULL;
	call_end(call, EHOSTUNREACH, NULL);
}

void fake_call_close(struct fake_peer *peer)
{
	struct fake_call *c;

	do {
		for (c = calls; c && c->server != peer; c = c->next)
			;
		if (c)
			call_end(c, ECONNRESET, NULL);
	} while (c);
	do {
		for (c = calls; c && c->caller != peer; c = c->next)
			;
		if (c)
			call_leave(c);
	} while (c);
}

uint32_t fake_n_calls(struct fake_peer *peer)
{
	struct fake_call *c;
	uint32_t n = 0;

	for (c = calls; c; c = c->next)
		n += (c->server == peer) + (c->caller == peer && !c->waiting);
	return n;
}

/* Wait for the end of the call, or for a request within it. */
static int wait_call(struct fake_peer *peer, uint64_t id, struct bus1_cmd_recv *recv)
{
	struct bus1_msg *out = PTR(recv->msgs);
	struct fake_call *call = made(peer, id);
	struct fake_msg *msg;
	uint32_t used = 0;
	int r;

	if (!call || call->async)
		return ENXIO;
	call->waiting = true;
	while (!call->done && !call->nested) {
		r = fake_wait(recv->deadline);
		if (r) {
			call_leave(call);
			return r;
		}
	}
	call->waiting = false;
	msg = call->nested;
	if (msg) {
		call->nested = msg->next;
		msg->next = NULL;
	} else {
		msg = call->reply;
		if (!msg) {
			r = call->error;
			call->caller = NULL;
			call_put(call);
			return r;
		}
	}
	fake_deliver(peer, msg, out, PTR(recv->buf), &used);
	fake_drop_msg(peer, msg);
	recv->n_msgs = 1;
	recv->buf_used = used;
	return 0;
}

/* Which of the calls that this is made for has a thread that is to serve it. */
static struct fake_call *nest_of(const struct fake_call *call, struct fake_peer *server)
{
	struct fake_call *c;

	for (c = call->parent; c; c = c->parent)
		if (c->caller == server && c->nests && c->waiting && !c->done)
			return c;
	return NULL;
}

int fake_call(struct fake_peer *peer, struct bus1_cmd_call *cmd)
{
	struct fake_call *parent = served(peer, cmd->parent), *call, *nest;
	bool async = cmd->flags & BUS1_CALL_ASYNC;
	struct fake_msg *msg, **p;
	uint32_t i;
	int r;

	if (cmd->id)
		return wait_call(peer, cmd->id, &cmd->recv);
	if (cmd->send.flags & (BUS1_SEND_PARTIAL | BUS1_SEND_ORDERED) ||
	    cmd->send.n_dests || cmd->send.deadline || cmd->recv.n_msgs != !async)
		return EINVAL;
	if (cmd->parent && !parent)
		return ENXIO;
	if (parent && parent->depth == BUS1_MAX_DEPTH - 1)
		return ELOOP;
	if (!async && cmd->recv.buf_size < MAX_INLINE + cmd->reply_handles * sizeof(struct bus1_handle) +
					    (cmd->reply_fds + 1) / 2 * 8)
		return EMSGSIZE;
	if (cmd->reply_size > peer->pool_size / 8 * 3)
		return EMSGSIZE;
	while ((r = fake_send_one(peer, &cmd->send, cmd->send.dest, &msg)) == EAGAIN &&
	       cmd->send.flags & BUS1_SEND_WAIT) {
		r = fake_wait(cmd->recv.deadline);
		if (r)
			return r;
	}
	if (r)
		return r;
	call = fake_zalloc(sizeof(*call));
	call->id = ++peer->ids;
	call->cookie = cmd->cookie;
	call->caller = peer;
	call->request = msg;
	call->parent = parent;
	call->depth = parent ? parent->depth + 1 : 0;
	call->chain = parent ? parent->chain : ++chains;
	call->async = async;
	call->nests = cmd->flags & BUS1_CALL_NESTED;
	call->reply_size = cmd->reply_size > MAX_INLINE ? cmd->reply_size : MAX_INLINE;
	call->reply_handles = cmd->reply_handles;
	call->reply_fds = cmd->reply_fds;
	call->n_leases = cmd->n_leases;
	for (i = 0; i < cmd->n_leases; i++)
		call->leases[i] = ((struct bus1_lease *)PTR(cmd->leases))[i];
	call->next = calls;
	calls = call;
	msg->type = BUS1_MSG_CALL;
	msg->call = call;
	nest = nest_of(call, msg->node->owner);
	if (nest) {
		for (p = &nest->nested; *p; p = &(*p)->next)
			;
		*p = msg;
		pthread_cond_broadcast(&fake_wake);
	} else {
		fake_enqueue(msg->node->owner, msg);
	}
	cmd->id = call->id;
	if (async)
		return 0;
	r = wait_call(peer, call->id, &cmd->recv);
	if (r)
		cmd->id = 0;
	return r;
}

static int reply(struct fake_peer *peer, struct bus1_cmd_reply *cmd)
{
	struct fake_call *call = served(peer, cmd->send.dest);
	const struct bus1_iovec *iov = PTR(cmd->send.iovs);
	uint64_t len = cmd->send.len;
	struct fake_msg *msg;
	uint32_t i;
	int r;

	if (!call)
		return ENXIO;
	if (cmd->flags & BUS1_REPLY_DROP) {
		call_end(call, ECONNABORTED, NULL);
		cmd->send.dest = 0;
		return 0;
	}
	if (!call->caller) {
		call_end(call, 0, NULL);
		return ECANCELED;
	}
	for (i = 0; i < cmd->send.n_iovs; i++)
		len += iov[i].len;
	if (len > call->reply_size || cmd->send.n_handles > call->reply_handles ||
	    cmd->send.n_fds > call->reply_fds)
		return EMSGSIZE;
	r = fake_load(peer, &cmd->send, call->caller, &msg);
	if (r)
		return r;
	msg->is_error = cmd->flags & BUS1_REPLY_ERROR;
	cmd->send.dest = 0;
	call_end(call, 0, msg);
	return 0;
}

int fake_reply(struct fake_peer *peer, struct bus1_cmd_reply *cmd)
{
	uint32_t n_msgs = cmd->recv.n_msgs;
	int r;

	cmd->recv.n_msgs = 0;
	r = fake_recv(peer, &cmd->recv);
	cmd->recv.n_msgs = n_msgs;
	if (!r && cmd->send.dest)
		r = reply(peer, cmd);
	if (!r && cmd->id)
		r = wait_call(peer, cmd->id, &cmd->recv);
	else if (!r && n_msgs)
		r = fake_recv(peer, &cmd->recv);
	return r;
}

int fake_cancel(struct fake_peer *peer, const struct bus1_cmd_ids *cmd)
{
	const uint64_t *ids = PTR(cmd->ids);
	uint32_t i;

	for (i = 0; i < cmd->n_ids; i++)
		if (!made(peer, ids[i]))
			return ENXIO;
	for (i = 0; i < cmd->n_ids; i++)
		call_leave(made(peer, ids[i]));
	return 0;
}

int fake_lease(struct fake_peer *peer, const struct bus1_cmd_lease *cmd)
{
	struct fake_call *call = served(peer, cmd->token);
	const struct bus1_lease *lease;
	bool write = cmd->flags == BUS1_LEASE_WRITE;
	uint64_t theirs;

	if (!call || cmd->index >= call->n_leases)
		return ENXIO;
	lease = &call->leases[cmd->index];
	if (!(lease->flags & cmd->flags))
		return EPERM;
	if (cmd->offset > lease->len || cmd->len > lease->len - cmd->offset)
		return ERANGE;
	if (!call->caller)
		return ECANCELED;
	theirs = lease->base + cmd->offset;
	if (fake_copy(write ? theirs : cmd->data, write ? cmd->data : theirs, cmd->len)) {
		call->fault = true;
		return EREMOTEIO;
	}
	return 0;
}
