/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls that block. What else comes out of them are requests within the call, served right here. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* Enough for a reply that brings little; else BUF_SIZE, from the heap. */
#define SMALL_BUF (INLINE_MAX + 8 * sizeof(struct bus1_handle))

/* One call, from the thread that waits for its end. */
struct calling {
	b1_peer *peer;
	uint64_t id;		/* in the kernel, once it is known */
	uint64_t flags;		/* of the call, in the kernel's terms */
	struct bus1_cmd_recv recv; /* where and until when it waits */
	struct bus1_msg msg;	/* what it got */
	uint8_t *buf;
	bool counts;		/* among peer->n_calling */
	bool gives;		/* away what is in `out`, the request, if it succeeds */
	b1_outgoing out;
};

int b1__call_options(b1_call_options *o, const b1_call_options *options, size_t size)
{
	size_t i;

	*o = (b1_call_options){ 0 };
	if (!options)
		return 0;
	if (size < sizeof(*o))
		return -EINVAL;
	for (i = sizeof(*o); i < size; i++)
		if (((const uint8_t *)options)[i])
			return -E2BIG;
	*o = *options;
	if (o->flags & ~B1_CALL_NESTED)
		return -EINVAL;
	if (o->reply_handles > BUS1_MAX_HANDLES || o->reply_fds > BUS1_MAX_FDS ||
	    o->n_leases > BUS1_MAX_LEASES)
		return -EMSGSIZE;
	return 0;
}

/* The request that a call from this thread is made to serve: its token, or 0. */
static int get_parent(uint64_t *tokenp, b1_peer *peer, b1_message *request)
{
	*tokenp = 0;
	if (request) {
		if (request->peer != peer)
			return -EXDEV;
		if (!request->token)
			return -EINVAL;
		if (!atomic_load(&request->unanswered))
			return -EALREADY;
	} else {
		request = b1__serving ? b1__serving->message : NULL;
		if (!request || request->peer != peer || !atomic_load(&request->unanswered))
			return 0;
	}
	*tokenp = request->token;
	return 0;
}

/*
 * A reply that is too large for the pool comes in a memfd, as other messages do, so there
 * has to be room for a file. (What a message with a file brings has to be counted, too.)
 */
static void set_reply(struct bus1_cmd_call *cmd, const b1_peer *peer, const b1_call_options *o)
{
	cmd->reply_size = o->reply_size;
	cmd->reply_handles = (uint32_t)o->reply_handles;
	cmd->reply_fds = (uint32_t)o->reply_fds;
	if (cmd->reply_size > peer->pool_size / 8 * 3 || cmd->reply_size > BUS1_MAX_PAYLOAD) {
		cmd->reply_size = 0;
		if (!cmd->reply_fds)
			cmd->reply_fds = 1;
	}
}

int b1__call_set(struct bus1_cmd_call *cmd, b1_handle *to, const b1_call_options *o)
{
	uint64_t parent;
	int r;

	r = get_parent(&parent, to->peer, o->parent);
	if (r < 0)
		return r;
	cmd->parent = parent;
	cmd->send.dest = to->id;
	set_reply(cmd, to->peer, o);
	return 0;
}

int b1__call_explain(int r, b1_handle *to, const struct load *load, const b1_call_options *o)
{
	if (r == -ENXIO && o->parent && !atomic_load(&o->parent->unanswered))
		return -EALREADY;
	return b1__send_explain(r, to, !b1__load_any_dead(load));
}

static int get_leases(struct bus1_lease *leases, const b1_call_options *o)
{
	size_t i;

	for (i = 0; i < o->n_leases; i++) {
		const b1_lease *lease = &o->leases[i];

		if (!lease->flags || lease->flags & ~(B1_LEASE_READ | B1_LEASE_WRITE))
			return -EINVAL;
		leases[i] = (struct bus1_lease){
			.base = (uintptr_t)lease->base,
			.len = lease->size,
			.flags = (lease->flags & B1_LEASE_READ ? BUS1_LEASE_READ : 0) |
				 (lease->flags & B1_LEASE_WRITE ? BUS1_LEASE_WRITE : 0),
		};
	}
	return 0;
}

/*
 * A message was sent for sure if these come back: see BUS1_CMD_CALL. After -ETIMEDOUT and
 * -EINTR nobody knows, as it may have waited for room. Then a one-shot handle keeps its count,
 * which is given back with it, and is refused by the kernel if it was spent.
 */
static bool was_sent(int r)
{
	return r >= 0 || r == -ECONNRESET || r == -ECONNABORTED;
}

/*
 * Send the request, and wait. Apart from the rest, so that its arrays are off the stack
 * while requests within the call are served. Handles that are to be moved are copied,
 * and dropped if the call succeeds: when it fails nobody knows whether they have gone.
 */
static __attribute__((noinline)) int start(struct calling *calling, b1_handle *to,
					   const b1_outgoing *outgoing, size_t outgoing_size,
					   const b1_call_options *o)
{
	struct bus1_cmd_call cmd = { .recv = calling->recv, .flags = calling->flags };
	struct bus1_lease leases[BUS1_MAX_LEASES];
	b1_peer *peer = calling->peer;
	struct load load;
	int r;

	r = get_leases(leases, o);
	if (r >= 0)
		r = b1__load(&load, peer, &cmd.send, outgoing, outgoing_size, B1_SEND_TAKE_FDS);
	if (r < 0)
		return r;
	r = load.out.deadline ? -EINVAL : b1__call_set(&cmd, to, o);
	if (r < 0) {
		free(load.allocated);
		return r;
	}
	cmd.send.flags |= BUS1_SEND_WAIT;
	cmd.leases = o->n_leases ? (uintptr_t)leases : 0;
	cmd.n_leases = (uint32_t)o->n_leases;
	r = b1__load_command(&load, peer, &cmd.send, BUS1_CMD_CALL, &cmd);
	if (r == -ENXIO && cmd.parent && !o->parent) {
		/* What it is made to serve may have been answered meanwhile. */
		cmd.parent = 0;
		r = b1__load_command(&load, peer, &cmd.send, BUS1_CMD_CALL, &cmd);
	}
	if (was_sent(r) && atomic_load(&to->flags) & B1_HANDLE_ONCE)
		b1__send_spend(&to, 1, &(int){ 0 });
	free(load.allocated);
	calling->gives = load.out.n_passes || load.out.flags;
	if (calling->gives)
		calling->out = load.out;
	calling->id = cmd.id;
	return r < 0 ? b1__call_explain(r, to, &load, o) : r;
}

/* Answer what was served by a small reply, if there is one, and wait again. */
static int go_on(struct calling *calling, struct deferred *deferred)
{
	struct bus1_cmd_call call = {
		.recv = calling->recv,
		.flags = calling->flags,
		.id = calling->id,
	};
	struct bus1_cmd_reply reply = { .recv = calling->recv, .id = calling->id };
	int r;

	if (deferred->token) {
		b1__reply_set(&reply.send, deferred);
		r = b1__command(calling->peer, BUS1_CMD_REPLY, &reply);
		if (r >= 0 || (!reply.send.dest && r != -ECANCELED)) {
			deferred->token = 0;
			return r;
		}
		if (r != -ECANCELED)
			b1__reply_drop(calling->peer, deferred->token);
		deferred->token = 0;
	}
	return b1__command(calling->peer, BUS1_CMD_CALL, &call);
}

/*
 * Its thread may come after those that process the peer: what they could not find is what
 * it brings. Locked.
 */
static void look_unclaimed(b1_peer *peer, b1_message *message)
{
	const struct unclaimed *u = peer->unclaimed;
	size_t i, k;

	for (i = 0; u && i < u->n_deaths && i < NOTED_MAX; i++)
		for (k = 0; k < message->n_handles; k++)
			if (message->handles[k]->id == u->deaths[i])
				atomic_store(&message->handles[k]->dead, true);
	for (i = 0; u && message->token && i < u->n_cancels && i < NOTED_MAX; i++)
		if (message->token == u->cancels[i])
			atomic_store(&message->cancelled, true);
}

/*
 * Make a message of what came. Returns its type, or -ENOMEM or -ESHUTDOWN, and then
 * it is lost: there is nobody to keep it for.
 */
static int take(struct calling *calling, b1_message **messagep, b1_node **nodep)
{
	b1_peer *peer = calling->peer;
	b1_handle *handle;
	int r;

	*nodep = NULL;
	b1__lock(peer);
	r = atomic_load(&peer->ended) ? -ESHUTDOWN
				      : b1__message_new(peer, messagep, &calling->msg, calling->buf);
	if (r >= 0)
		look_unclaimed(peer, *messagep);
	handle = r < 0 || calling->msg.type != BUS1_MSG_CALL ? NULL : b1__find(peer, calling->msg.id);
	if (handle && handle->is_node && !atomic_load(&handle->dead))
		*nodep = b1_node_ref(b1__node(handle));
	b1__unlock(peer);
	if (r >= 0)
		return (int)calling->msg.type;
	b1__message_discard(peer, &calling->msg, calling->buf);
	return r;
}

/* This thread is about to wait: it may last, and senders may be waiting for the room. Locked. */
static void flush(b1_peer *peer)
{
	if (peer->n_slices || peer->n_drops)
		b1__flush(peer);
}

/* Serve the request that came, and wait again. */
static int serve(struct calling *calling)
{
	struct deferred deferred;
	b1_message *message;
	b1_node *node;
	int r;

	deferred.token = 0;
	r = take(calling, &message, &node);
	if (r >= 0)
		b1__dispatch(node, message, &deferred);
	b1__lock(calling->peer);
	flush(calling->peer);
	b1__unlock(calling->peer);
	return go_on(calling, &deferred);
}

static int enter(struct calling *calling, bool wants_fds)
{
	b1_peer *peer = calling->peer;
	int r = 0;

	b1__lock(peer);
	flush(peer);
	if (calling->counts && !peer->unclaimed) {
		peer->unclaimed = calloc(1, sizeof(*peer->unclaimed));
		r = peer->unclaimed ? 0 : -ENOMEM;
	}
	if (atomic_load(&peer->ended))
		r = -ESHUTDOWN;
	if (wants_fds || peer->wants_fds)
		calling->recv.flags |= BUS1_RECV_FDS;
	if (r >= 0)
		peer->n_calling += calling->counts;
	b1__unlock(peer);
	return r;
}

static void leave(struct calling *calling)
{
	b1_peer *peer = calling->peer;

	if (!calling->counts)
		return;
	b1__lock(peer);
	if (--peer->n_calling == 0)
		peer->unclaimed->n_deaths = peer->unclaimed->n_cancels = 0;
	b1__unlock(peer);
}

static int finish(struct calling *calling, b1_message **replyp)
{
	b1_message *reply;
	b1_node *node;
	int r;

	if (calling->msg.type == BUS1_MSG_REPLY && calling->msg.error)
		return -calling->msg.error;
	r = take(calling, &reply, &node);
	if (r < 0)
		return r;
	r = reply->is_error ? -EREMOTEIO : 0;
	if (replyp)
		*replyp = reply;
	else
		b1_message_unref(reply);
	return r;
}

int b1_call_sized(b1_handle *to, const b1_outgoing *outgoing, size_t outgoing_size,
		  const b1_call_options *options, size_t options_size, b1_message **replyp)
{
	struct calling calling;
	uint64_t small[SMALL_BUF / 8];
	b1_peer *peer = to->peer;
	b1_call_options o;
	bool nested, is_large;
	int r;

	r = b1__check(peer);
	if (r >= 0)
		r = b1__call_options(&o, options, options_size);
	if (r < 0)
		return r;
	nested = o.flags & B1_CALL_NESTED;
	is_large = nested || o.reply_handles > 4 || o.reply_fds > 4;
	calling.buf = is_large ? malloc(BUF_SIZE) : (uint8_t *)small;
	if (!calling.buf)
		return -ENOMEM;
	calling.peer = peer;
	calling.id = 0;
	calling.gives = false;
	calling.flags = nested ? BUS1_CALL_NESTED : 0;
	calling.counts = nested || o.reply_handles;
	calling.recv = (struct bus1_cmd_recv){
		.flags = BUS1_RECV_MEMFD,
		.deadline = o.deadline == UINT64_MAX ? 0 : o.deadline,
		.msgs = (uintptr_t)&calling.msg,
		.buf = (uintptr_t)calling.buf,
		.n_msgs = 1,
		.msg_size = sizeof(calling.msg),
		.buf_size = is_large ? BUF_SIZE : sizeof(small),
	};

	b1__reply_before_wait();
	b1__hold(peer);
	r = enter(&calling, o.reply_fds);
	if (r >= 0) {
		r = start(&calling, to, outgoing, outgoing_size, &o);
		while (r >= 0 && calling.msg.type == BUS1_MSG_CALL)
			r = serve(&calling);
		/* A handler was changed as the signal came: to the program it is over now. */
		if (r == -EINTR && calling.id)
			b1__give_back(peer, BUS1_CMD_CALL_CANCEL, &calling.id, 1);
		if (r >= 0)
			r = finish(&calling, replyp);
		leave(&calling);
	}
	if (r >= 0 && calling.gives)
		b1__outgoing_take(&calling.out);
	b1__drop(peer);
	if (is_large)
		free(calling.buf);
	return r;
}
