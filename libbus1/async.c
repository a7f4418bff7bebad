/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls that no thread waits for: each is a watch, found by its serial when the reply
 * comes, and in a list by deadline, if it has one. Most have the same time to go, so
 * that the last one made is the last one due: the list is searched from its end.
 */
#include <stdlib.h>
#include <time.h>

#include "internal.h"

uint64_t b1__now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void list_add(b1_peer *peer, b1_watch *call)
{
	b1_watch *before = peer->last;

	while (before && before->deadline > call->deadline)
		before = before->earlier;
	call->earlier = before;
	call->later = before ? before->later : peer->first;
	*(before ? &before->later : &peer->first) = call;
	*(call->later ? &call->later->earlier : &peer->last) = call;
}

static void list_remove(b1_peer *peer, b1_watch *call)
{
	*(call->earlier ? &call->earlier->later : &peer->first) = call->later;
	*(call->later ? &call->later->earlier : &peer->last) = call->earlier;
	call->earlier = call->later = NULL;
}

void b1__call_unlink(b1_watch *call)
{
	b1_peer *peer = call->peer;

	call->linked = false;
	b1__idmap_remove(&peer->calls, call->serial);
	/* One that is being made is not in the list yet. */
	if (call->id && call->deadline != UINT64_MAX)
		list_remove(peer, call);
}

b1_watch *b1__call_take(b1_peer *peer, const struct bus1_msg *msg)
{
	b1_watch *call = b1__idmap_find(&peer->calls, msg->cookie);

	if (call)
		b1__call_unlink(call);
	return call;
}

uint64_t b1__calls_deadline(const b1_peer *peer)
{
	return peer->first ? peer->first->deadline : UINT64_MAX;
}

bool b1__calls_due(const b1_peer *peer)
{
	return peer->first && peer->first->deadline <= b1__now();
}

int b1__calls_expire(b1_peer *peer)
{
	uint64_t now = peer->first ? b1__now() : 0, last = peer->serial;
	b1_watch *call;
	int n = 0, r = 0;

	/* A callback may make another, which is due as it is made: that waits for the next time. */
	while (r >= 0 && (call = peer->first) && call->deadline <= now && call->serial <= last) {
		b1__call_unlink(call);
		b1__give_back(peer, BUS1_CMD_CALL_CANCEL, &call->id, 1);
		b1__unlock(peer);
		r = call->reply(NULL, -ETIMEDOUT, call->userdata);
		b1__watch_unref(call);
		b1__lock(peer);
		n++;
	}
	return r < 0 ? r : n;
}

b1_watch *b1__calls_end(b1_peer *peer)
{
	b1_watch *call, *all = NULL;
	uint64_t ids[256];
	size_t i, n = 0;

	for (i = 0; i < b1__idmap_size(&peer->calls); i++) {
		call = peer->calls.entries[i].object;
		if (!call)
			continue;
		call->linked = false;
		/* Of one that is being made the thread that makes it takes care. */
		call->orphaned = !call->id;
		if (call->orphaned)
			continue;
		if (n == 256) {
			b1__give_back(peer, BUS1_CMD_CALL_CANCEL, ids, n);
			n = 0;
		}
		ids[n++] = call->id;
		call->later = all;
		all = call;
	}
	b1__give_back(peer, BUS1_CMD_CALL_CANCEL, ids, n);
	b1__idmap_clear(&peer->calls);
	peer->first = peer->last = NULL;
	return all;
}

/* A node that nobody else knows of: a message to it wakes who waits, wherever. Locked. */
static int make_kick(b1_peer *peer)
{
	struct bus1_cmd_node node = { 0 };
	int r;

	if (peer->kick)
		return 0;
	r = b1__command(peer, BUS1_CMD_NODE_CREATE, &node);
	if (r >= 0)
		peer->kick = node.id;
	return r;
}

/* It goes with the last of its messages. */
static void end_kick(b1_peer *peer)
{
	if (peer->n_kicks || !peer->kick)
		return;
	b1__give_back(peer, BUS1_CMD_NODE_DESTROY, &peer->kick, 1);
	peer->kick = 0;
}

void b1__kick(b1_peer *peer)
{
	struct bus1_cmd_send send = { 0 };

	if (make_kick(peer) < 0)
		return;
	send.dest = peer->kick;
	/* Without room there is enough to be woken by. */
	if (b1__command(peer, BUS1_CMD_SEND, &send) >= 0)
		peer->n_kicks++;
	end_kick(peer);
}

bool b1__kicked(b1_peer *peer, uint64_t id)
{
	if (!peer->kick || id != peer->kick)
		return false;
	peer->n_kicks--;
	end_kick(peer);
	return true;
}

/* A thread may be waiting that was told of a later deadline than this. */
static bool has_waiter(const b1_peer *peer, uint64_t deadline)
{
	if (peer->n_waiting && deadline < peer->wait_until)
		return true;
	return peer->asked && deadline < peer->asked_until && !pthread_equal(peer->asked_by, pthread_self());
}

static void wake_up(b1_peer *peer, uint64_t deadline)
{
	if (!has_waiter(peer, deadline))
		return;
	b1__kick(peer);
	if (peer->n_waiting) {
		peer->wait_until = deadline;
		/* One of them wakes, and passes it on if it does not wait again. */
		peer->n_rekick = peer->n_waiting - 1;
	}
	peer->asked = false;
}

/* It has got its id, unless it has had its reply, or the peer has ended, and the call with it. */
static void call_made(b1_watch *call, uint64_t id)
{
	b1_peer *peer = call->peer;
	bool orphaned;

	b1__lock(peer);
	orphaned = call->orphaned;
	if (call->linked) {
		call->id = id;
		if (call->deadline != UINT64_MAX) {
			list_add(peer, call);
			wake_up(peer, call->deadline);
		}
	} else if (orphaned) {
		b1__give_back(peer, BUS1_CMD_CALL_CANCEL, &id, 1);
	}
	end_kick(peer);
	b1__unlock(peer);
	/* The reference that it had while it was linked. */
	if (orphaned)
		b1__watch_unref(call);
}

static int make(b1_watch *call, b1_handle *to, const b1_outgoing *outgoing, size_t outgoing_size,
		const b1_call_options *o)
{
	struct bus1_cmd_call cmd = { .cookie = call->serial };
	b1_peer *peer = call->peer;
	struct load load;
	int r;

	r = b1__load(&load, peer, &cmd.send, outgoing, outgoing_size, B1_SEND_TAKE_FDS);
	if (r < 0)
		return r;
	/* There is one deadline, and the kernel keeps none for who does not wait. */
	r = load.out.deadline && load.out.deadline != UINT64_MAX ? -EINVAL : b1__call_set(&cmd, to, o);
	if (r < 0) {
		free(load.allocated);
		return r;
	}
	cmd.flags = BUS1_CALL_ASYNC;
	if (load.out.deadline)
		cmd.send.flags |= BUS1_SEND_WAIT;
	else
		b1__send_notify(&cmd.send, to);
	b1__load_move(&load, peer);
	r = b1__load_command(&load, peer, &cmd.send, BUS1_CMD_CALL, &cmd);
	if (r == -ENXIO && cmd.parent && !o->parent) {
		/* What it is made to serve may have been answered meanwhile. */
		cmd.parent = 0;
		r = b1__load_command(&load, peer, &cmd.send, BUS1_CMD_CALL, &cmd);
	}
	if (r >= 0 && atomic_load(&to->flags) & B1_HANDLE_ONCE)
		b1__send_spend(&to, 1, &(int){ 0 });
	b1__load_end(&load, peer, r);
	if (r < 0)
		return b1__call_explain(r, to, &load, o);
	call_made(call, cmd.id);
	return 0;
}

int b1_call_async_sized(b1_handle *to, const b1_outgoing *outgoing, size_t outgoing_size,
			const b1_call_options *options, size_t options_size, b1_watch **watchp,
			b1_reply_fn reply, void *userdata)
{
	b1_peer *peer = to->peer;
	b1_watch *call, *before = NULL;
	b1_call_options o;
	int r;

	r = b1__check(peer);
	if (r >= 0)
		r = b1__call_options(&o, options, options_size);
	if (r >= 0 && (!reply || o.flags || o.n_leases))
		r = -EINVAL;
	if (r < 0)
		return r;
	call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	call->refs = watchp ? 2 : 1;
	call->peer = b1__hold(peer);
	call->kind = WATCH_CALL;
	call->reply = reply;
	call->userdata = userdata;
	call->deadline = o.deadline ?: UINT64_MAX;

	b1__lock(peer);
	r = atomic_load(&peer->ended) ? -ESHUTDOWN : b1__idmap_reserve(&peer->calls, 1);
	/* Here it can still fail. */
	if (r >= 0 && has_waiter(peer, call->deadline))
		r = make_kick(peer);
	if (r >= 0) {
		call->serial = ++peer->serial;
		b1__idmap_add(&peer->calls, call->serial, call);
		call->linked = true;
	}
	b1__unlock(peer);
	if (r >= 0) {
		/* So that it stays while it is made, whatever a reply does to it. */
		b1__ref(&call->refs);
		/* Another thread may call back at once, and free it. */
		if (watchp) {
			before = *watchp;
			*watchp = call;
		}
		r = make(call, to, outgoing, outgoing_size, &o);
		if (r >= 0) {
			b1__watch_unref(call);
			return 0;
		}
		if (watchp)
			*watchp = before;
		b1__lock(peer);
		if (call->linked)
			b1__call_unlink(call);
		end_kick(peer);
		b1__unlock(peer);
	}
	b1__drop(peer);
	free(call);
	return r;
}
