/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Receiving, and calling back. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* One thing to call back for. What it refers to is referenced. */
struct event {
	b1_message *message;
	b1_node *node;		/* of the message, or unused */
	b1_handle *dead;
	b1_handle *writable;
	b1_watch *call;		/* that is over, with `result` */
	int result;
	b1_message *cancelled;
};

static bool have_ready(const b1_peer *peer)
{
	return peer->ready_next < peer->ready_n;
}

/* Let the buffer hold `size` bytes. Nothing in it is of use any more. */
static int grow_buf(b1_peer *peer, uint32_t size)
{
	uint8_t *buf;

	if (size <= peer->buf_size)
		return -EMSGSIZE;
	buf = malloc(size);
	if (!buf)
		return -ENOMEM;
	free(peer->buf);
	peer->buf = buf;
	peer->buf_size = size;
	return 0;
}

/*
 * Receive a batch, and give back what waits for that, in one command; and send `reply`
 * first, if there is one, in the same: then it is one message, which the kernel does
 * sooner, and a server seldom has more. It is one, too, if other threads wait for what
 * this one receives, whom nothing wakes if it lies here. There must be nothing ready. Unless
 * BUS1_RECV_NONBLOCK is in `flags`, and there is no reply, the lock is let go meanwhile.
 * Returns 1 if something is ready now, 0 if nothing was there (in time), or -errno.
 * Locked.
 */
static int receive(b1_peer *peer, uint64_t flags, uint64_t deadline, struct deferred *reply)
{
	uint64_t slices[SLICES_MAX], drops[DROPS_MAX];
	struct bus1_cmd_reply both;
	struct bus1_cmd_recv *cmd = &both.recv;
	uint32_t max;
	bool replies;
	int r;

	for (;;) {
		*cmd = (struct bus1_cmd_recv){
			.flags = flags | BUS1_RECV_MEMFD | (peer->wants_fds ? BUS1_RECV_FDS : 0),
			.deadline = deadline,
			.msgs = (uintptr_t)peer->ready,
			.buf = (uintptr_t)peer->buf,
			.n_release = peer->n_slices,
			.n_drop = peer->n_drops,
			.n_msgs = peer->n_polling || (reply && reply->token) ? 1 : BATCH,
			.msg_size = sizeof(peer->ready[0]),
			.buf_size = peer->buf_size,
		};
		max = cmd->n_msgs;
		if (peer->n_slices) {
			memcpy(slices, peer->slices, peer->n_slices * sizeof(slices[0]));
			cmd->release = (uintptr_t)slices;
			peer->n_slices = 0;
			peer->slices_len = 0;
		}
		if (peer->n_drops) {
			memcpy(drops, peer->drops, peer->n_drops * sizeof(drops[0]));
			cmd->drop = (uintptr_t)drops;
			peer->n_drops = 0;
		}
		replies = reply && reply->token;
		if (!replies && flags & BUS1_RECV_NONBLOCK) {
			r = b1__command(peer, BUS1_CMD_RECV, cmd);
		} else {
			peer->receiving = true;
			b1__unlock(peer);
			if (replies) {
				both.flags = both.id = 0;
				b1__reply_set(&both.send, reply);
				r = b1__command(peer, BUS1_CMD_REPLY, &both);
			} else {
				r = b1__command(peer, BUS1_CMD_RECV, cmd);
			}
			b1__lock(peer);
			peer->receiving = false;
		}
		if (replies && (r >= 0 || !both.send.dest || r == -ECANCELED))
			reply->token = 0;
		if (cmd->n_release || cmd->n_drop) {
			/* It failed before they were given back. */
			b1__give_back(peer, BUS1_CMD_SLICE_RELEASE, slices, cmd->n_release);
			b1__give_back(peer, BUS1_CMD_HANDLE_RELEASE, drops, cmd->n_drop);
			if (r == -ENXIO || r == -EPERM)
				continue;
		}
		if (replies && r < 0 && (r == -ECANCELED || reply->token)) {
			/* Nothing was received, as the reply could not be sent. */
			b1__unlock(peer);
			b1__reply_deferred(peer, reply);
			b1__lock(peer);
			if (have_ready(peer))
				return 1;
			if (peer->receiving)
				return 0;
			continue;
		}
		if (r != -EMSGSIZE)
			break;
		r = grow_buf(peer, cmd->buf_used);
		if (r < 0)
			break;
	}
	if (r == -EAGAIN || r == -ETIMEDOUT)
		return 0;
	if (r < 0)
		return r;
	peer->ready_n = cmd->n_msgs;
	peer->ready_all = cmd->n_msgs < max;
	peer->ready_next = 0;
	/* They wait for this thread, which had asked for many before they came. */
	if (peer->ready_n > 1 && peer->n_polling)
		b1__kick(peer);
	return cmd->n_msgs > 0;
}

/* There is a call that may bring what this is about, and be looked at after this. Locked. */
static void note(b1_peer *peer, uint64_t id, bool is_death)
{
	struct unclaimed *u = peer->unclaimed;

	if (!peer->n_calling)
		return;
	if (is_death)
		u->deaths[u->n_deaths++ % NOTED_MAX] = id;
	else
		u->cancels[u->n_cancels++ % NOTED_MAX] = id;
}

/* A reply to a call that was not cancelled, or how it ended. As parse(). */
static int parse_reply(b1_peer *peer, const struct bus1_msg *msg, struct event *event)
{
	int r = 0;

	if (!msg->error)
		r = b1__message_new(peer, &event->message, msg, peer->buf);
	if (r < 0)
		return r;
	event->call = b1__call_take(peer, msg);
	event->result = msg->flags & BUS1_MSG_F_ERROR ? -EREMOTEIO : -msg->error;
	return 0;
}

/* Find whom a message or notice is for. 0, or -ENOMEM and nothing happened. Locked. */
static int parse(b1_peer *peer, const struct bus1_msg *msg, struct event *event)
{
	b1_handle *handle = b1__find(peer, msg->id);
	b1_message *request;
	int r;

	*event = (struct event){ 0 };
	switch (msg->type) {
	case BUS1_MSG_DATA:
		if (b1__kicked(peer, msg->id))
			break;
		/* fall through */
	case BUS1_MSG_CALL:
		r = b1__message_new(peer, &event->message, msg, peer->buf);
		if (r < 0)
			return r;
		/* fall through */
	case BUS1_MSG_NODE_UNUSED:
	case BUS1_MSG_ONCE_DROPPED:
		/* Of a node that has ended meanwhile it concerns nobody. */
		if (handle && handle->is_node && !atomic_load(&handle->dead))
			event->node = b1_node_ref(b1__node(handle));
		break;
	case BUS1_MSG_NODE_DEAD:
		note(peer, msg->id, true);
		if (handle && !handle->is_node && !atomic_load(&handle->dead)) {
			atomic_store_explicit(&handle->dead, true, memory_order_release);
			event->dead = b1_handle_ref(handle);
		}
		break;
	case BUS1_MSG_WRITABLE:
		/* Who has asked for it may have lost interest, or the handle. */
		if (handle && atomic_load(&handle->n_writable))
			event->writable = b1_handle_ref(handle);
		break;
	case BUS1_MSG_REPLY:
		return parse_reply(peer, msg, event);
	case BUS1_MSG_CANCELLED:
		/* It may have been answered meanwhile. */
		request = b1__idmap_find(&peer->requests, msg->id);
		if (request) {
			atomic_store_explicit(&request->cancelled, true, memory_order_release);
			event->cancelled = b1_message_ref(request);
		} else {
			note(peer, msg->id, false);
		}
		break;
	}
	return 0;
}

/* A callback, with what this thread is in. */
static void begin(struct serving *serving, b1_message *message, struct deferred *deferred)
{
	*serving = (struct serving){ .up = b1__serving, .message = message, .deferred = deferred };
	b1__serving = serving;
}

static void end(struct serving *serving)
{
	b1__serving = serving->up;
}

/*
 * A handler has failed with a request. Whoever can call can have it fail, by asking for
 * what the reply has no room for, or leaving: that is the caller's matter, who is told,
 * and does not end the server's loop.
 */
static int request_failed(b1_message *request, int r)
{
	if (atomic_load(&request->unanswered)) {
		b1_message_reply_errno(request, r);
		return 0;
	}
	return r == -ECANCELED ? 0 : r;
}

int b1__dispatch(b1_node *node, b1_message *message, struct deferred *deferred)
{
	struct serving serving;
	int r = 0;

	if (node && node->handler) {
		begin(&serving, message, deferred);
		r = node->handler(node, message, node->userdata);
		end(&serving);
	}
	if (r < 0 && message->token)
		r = request_failed(message, r);
	b1__message_unref_soon(message);
	b1_node_unref(node);
	return r < 0 ? r : 0;
}

/* Call back for `event`, and let go of what it refers to. Not locked. */
static int dispatch(b1_peer *peer, struct event *event, struct deferred *deferred)
{
	struct serving serving;
	b1_unused_fn unused;
	int r = 0;

	if (event->message && !event->call)
		return b1__dispatch(event->node, event->message, deferred);
	begin(&serving, NULL, NULL);
	if (event->dead) {
		r = b1__handle_call_watches(event->dead);
		b1_handle_unref(event->dead);
	} else if (event->writable) {
		r = b1__handle_call_writable(event->writable);
		b1_handle_unref(event->writable);
	} else if (event->call) {
		r = event->call->reply(event->message, event->result, event->call->userdata);
		b1__watch_unref(event->call);
		if (event->message)
			b1__message_unref_soon(event->message);
	} else if (event->cancelled) {
		r = b1__request_cancelled(event->cancelled);
		b1_message_unref(event->cancelled);
	} else if (event->node) {
		b1__lock(peer);
		unused = event->node->unused;
		b1__unlock(peer);
		if (unused)
			r = unused(event->node, event->node->userdata);
		b1_node_unref(event->node);
	}
	end(&serving);
	return r < 0 ? r : 0;
}

/* Whether process(), having done `done`, should ask the kernel for more. Locked. */
static bool want_more(const b1_peer *peer, int done, const struct deferred *reply)
{
	if (peer->receiving || done >= PROCESS_MAX)
		return false;
	/* What waits has to be given back, or sent, anyway: it may as well receive. */
	if (done == 0 || peer->n_slices > 0 || peer->n_drops > 0 || reply->token)
		return true;
	/* Nothing comes together with what is behind a notice of room or a request. */
	return !peer->ready_all || peer->ready[peer->ready_n - 1].type == BUS1_MSG_WRITABLE ||
	       peer->ready[peer->ready_n - 1].type == BUS1_MSG_CALL;
}

/* Nothing is received next that a reply could go with. Locked, but lets go of the lock. */
static void send_reply(b1_peer *peer, struct deferred *reply)
{
	if (!reply->token)
		return;
	b1__unlock(peer);
	b1__reply_deferred(peer, reply);
	b1__lock(peer);
}

/*
 * Whether calls whose deadline has passed may be told so: a reply that has come in time
 * is not behind something that is still to be looked at. Nobody can put that off for ever
 * by sending: what is queued now is counted, and that many are looked at before. Locked.
 */
static bool may_expire(b1_peer *peer, bool is_empty)
{
	struct bus1_cmd_info info = { 0 };

	if (!is_empty && !peer->expire_at) {
		if (b1__command(peer, BUS1_CMD_PEER_INFO, &info) < 0)
			return true;
		peer->expire_at = peer->n_parsed + (peer->ready_n - peer->ready_next) + info.n_queued;
	}
	if (!is_empty && peer->n_parsed < peer->expire_at)
		return false;
	peer->expire_at = 0;
	return true;
}

/* Calls that are over for their deadline. As work(). */
static int expire(b1_peer *peer, struct deferred *reply, bool is_empty)
{
	struct serving serving;
	int r;

	if (!b1__calls_due(peer) || !may_expire(peer, is_empty))
		return 0;
	/* The callbacks may take their time. */
	send_reply(peer, reply);
	begin(&serving, NULL, NULL);
	r = b1__calls_expire(peer);
	end(&serving);
	return r;
}

/*
 * Call back for all that is ready, and, unless `will_wait`, for more. `reply` is what is to
 * be sent with the next receive, before and after. Returns how much was done, or what a
 * callback returned. Locked, but lets go of the lock.
 */
static int work(b1_peer *peer, struct deferred *reply, bool will_wait)
{
	struct event event;
	bool is_empty = false;
	int done = 0, r = 0;

	while (r >= 0 && done < PROCESS_MAX + BATCH) {
		if (!have_ready(peer)) {
			/* Who is in a receive takes what comes, and finds nothing either. */
			is_empty = peer->receiving;
			if ((will_wait && done) || !want_more(peer, done, reply))
				break;
			r = receive(peer, BUS1_RECV_NONBLOCK, 0, reply);
			is_empty = r == 0 && !have_ready(peer);
			if (r <= 0)
				break;
		}
		if (reply->token) {
			send_reply(peer, reply);
			continue;
		}
		r = parse(peer, &peer->ready[peer->ready_next], &event);
		if (r < 0)
			break;
		peer->ready_next++;
		peer->n_parsed++;
		done++;
		b1__unlock(peer);
		r = dispatch(peer, &event, reply);
		b1__lock(peer);
	}
	if (r >= 0) {
		r = expire(peer, reply, is_empty);
		done += r > 0 ? r : 0;
	}
	return r < 0 ? r : done;
}

/*
 * All that this call received is also called back for by it (or by others that
 * process meanwhile), unless a callback failed; so who polls the descriptor
 * alone misses nothing.
 */
int b1_peer_process(b1_peer *peer)
{
	struct deferred reply;
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	reply.token = 0;
	b1_peer_ref(peer);
	b1__lock(peer);
	/* The loop of this thread will ask again. */
	if (peer->asked && pthread_equal(peer->asked_by, pthread_self()))
		peer->asked = false;
	r = work(peer, &reply, false);
	send_reply(peer, &reply);
	b1__flush(peer);
	b1__unlock(peer);
	b1_peer_unref(peer);
	return r;
}

int b1_peer_get_timeout(b1_peer *peer, uint64_t *deadlinep)
{
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	b1__lock(peer);
	*deadlinep = have_ready(peer) ? 0 : b1__calls_deadline(peer);
	peer->asked = true;
	peer->asked_until = *deadlinep;
	peer->asked_by = pthread_self();
	b1__unlock(peer);
	return 0;
}

/* Wait as the kernel's receive does, but only wait. */
static int wait_poll(b1_peer *peer, uint64_t deadline)
{
	struct pollfd pollfd = { .fd = peer->fd, .events = POLLIN };
	struct timespec left = { 0 };
	uint64_t now;
	int r;

	if (deadline != UINT64_MAX) {
		now = b1__now();
		if (deadline > now) {
			left.tv_sec = (time_t)((deadline - now) / 1000000000);
			left.tv_nsec = (long)((deadline - now) % 1000000000);
		}
	}
	r = ppoll(&pollfd, 1, deadline == UINT64_MAX ? NULL : &left, NULL);
	return r < 0 ? -errno : r;
}

/*
 * Wait until something is ready, or the descriptor readable, or the deadline of a call
 * has passed (1); or until `deadline` (0). Locked, but lets go of the lock.
 */
static int wait_for(b1_peer *peer, uint64_t deadline, struct deferred *reply)
{
	uint64_t until = b1__calls_deadline(peer);
	bool poll_instead;
	int r = 0;

	if (have_ready(peer))
		return 1;
	if (until > deadline)
		until = deadline;
	if (!peer->n_waiting++ || peer->wait_until < until)
		peer->wait_until = until;
	poll_instead = peer->receiving;
	if (!poll_instead && deadline == 0) {
		r = receive(peer, BUS1_RECV_NONBLOCK, 0, reply);
	} else if (!poll_instead) {
		r = receive(peer, 0, until == UINT64_MAX ? 0 : until, reply);
		/* It does not wait if the file is O_NONBLOCK. */
		poll_instead = r == 0;
	}
	if (poll_instead) {
		peer->n_polling++;
		b1__flush(peer);
		b1__unlock(peer);
		b1__reply_deferred(peer, reply);
		r = wait_poll(peer, until);
		b1__lock(peer);
		peer->n_polling--;
	}
	peer->n_waiting--;
	return r == 0 && (until < deadline || b1__calls_due(peer)) ? 1 : r;
}

/* Before something that waits, for its user: locks and holds the peer, unless it fails. */
static int wait_begin(b1_peer *peer, struct deferred *reply)
{
	int r = b1__check(peer);

	if (r < 0)
		return r;
	reply->token = 0;
	b1__reply_before_wait();
	b1_peer_ref(peer);
	b1__lock(peer);
	return 0;
}

static void wait_end(b1_peer *peer)
{
	/* It was woken for an earlier deadline, which others have not been told of. */
	if (peer->n_rekick && peer->n_waiting) {
		peer->n_rekick--;
		b1__kick(peer);
	}
	b1__unlock(peer);
	b1_peer_unref(peer);
}

/* It does not just poll, it receives: one system call where there would be two. */
int b1_peer_wait(b1_peer *peer, uint64_t deadline)
{
	struct deferred none;
	int r;

	r = wait_begin(peer, &none);
	if (r < 0)
		return r;
	r = wait_for(peer, deadline, &none);
	wait_end(peer);
	return r;
}

int b1_peer_run(b1_peer *peer, uint64_t deadline)
{
	struct deferred reply;
	int r, late = 0;

	r = wait_begin(peer, &reply);
	if (r < 0)
		return r;
	do {
		r = wait_for(peer, deadline, &reply);
		if (r <= 0)
			break;
		r = work(peer, &reply, true);
		/* What is there then is processed, but not all that goes on coming. */
		if (r > 0 && deadline != UINT64_MAX && b1__now() >= deadline)
			late += r;
	} while (r >= 0 && late < PROCESS_MAX);
	if (r > 0)
		r = 0;
	send_reply(peer, &reply);
	b1__flush(peer);
	wait_end(peer);
	return r;
}
