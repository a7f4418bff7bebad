/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Receiving, and calling back. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

/* One thing to call back for. What it refers to is referenced. */
struct event {
	b1_message *message;
	b1_node *node;		/* of the message, or unused */
	b1_handle *dead;
	b1_handle *writable;
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
 * Receive a batch, and give back what waits for that, in one command. There
 * must be nothing ready. Unless BUS1_RECV_NONBLOCK is in `flags` the lock is let
 * go meanwhile. Returns 1 if something is ready now, 0 if nothing was there (in
 * time), or -errno. Locked.
 */
static int receive(b1_peer *peer, uint64_t flags, uint64_t deadline)
{
	uint64_t slices[SLICES_MAX], drops[DROPS_MAX];
	struct bus1_cmd_recv cmd;
	int r;

	do {
		cmd = (struct bus1_cmd_recv){
			.flags = flags | BUS1_RECV_MEMFD | (peer->wants_fds ? BUS1_RECV_FDS : 0),
			.deadline = deadline,
			.msgs = (uintptr_t)peer->ready,
			.buf = (uintptr_t)peer->buf,
			.n_release = peer->n_slices,
			.n_drop = peer->n_drops,
			.n_msgs = BATCH,
			.msg_size = sizeof(peer->ready[0]),
			.buf_size = peer->buf_size,
		};
		if (peer->n_slices) {
			memcpy(slices, peer->slices, peer->n_slices * sizeof(slices[0]));
			cmd.release = (uintptr_t)slices;
			peer->n_slices = 0;
			peer->slices_len = 0;
		}
		if (peer->n_drops) {
			memcpy(drops, peer->drops, peer->n_drops * sizeof(drops[0]));
			cmd.drop = (uintptr_t)drops;
			peer->n_drops = 0;
		}
		if (flags & BUS1_RECV_NONBLOCK) {
			r = b1__command(peer, BUS1_CMD_RECV, &cmd);
		} else {
			peer->receiving = true;
			b1__unlock(peer);
			r = b1__command(peer, BUS1_CMD_RECV, &cmd);
			b1__lock(peer);
			peer->receiving = false;
		}
		if (cmd.n_release || cmd.n_drop) {
			/* It failed before they were given back. */
			b1__give_back(peer, BUS1_CMD_SLICE_RELEASE, slices, cmd.n_release);
			b1__give_back(peer, BUS1_CMD_HANDLE_RELEASE, drops, cmd.n_drop);
			if (r == -ENXIO || r == -EPERM)
				continue;
		}
		if (r == -EMSGSIZE)
			r = grow_buf(peer, cmd.buf_used) ?: 1;
		else
			break;
	} while (r > 0 || r == -ENXIO || r == -EPERM);
	if (r == -EAGAIN || r == -ETIMEDOUT)
		return 0;
	if (r < 0)
		return r;
	peer->ready_n = cmd.n_msgs;
	peer->ready_next = 0;
	return cmd.n_msgs > 0;
}

/* Find whom a message or notice is for. 0, or -ENOMEM and nothing happened. Locked. */
static int parse(b1_peer *peer, const struct bus1_msg *msg, struct event *event)
{
	b1_handle *handle = b1__find(peer, msg->id);
	int r;

	*event = (struct event){ 0 };
	switch (msg->type) {
	case BUS1_MSG_DATA:
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
	}
	return 0;
}

/* Call back for `event`, and let go of what it refers to. Not locked. */
static int dispatch(b1_peer *peer, struct event *event)
{
	b1_unused_fn unused;
	int r = 0;

	if (event->dead) {
		r = b1__handle_call_watches(event->dead);
		b1_handle_unref(event->dead);
	} else if (event->writable) {
		r = b1__handle_call_writable(event->writable);
		b1_handle_unref(event->writable);
	} else if (event->message) {
		if (event->node && event->node->handler)
			r = event->node->handler(event->node, event->message, event->node->userdata);
		b1__message_unref_soon(event->message);
	} else if (event->node) {
		b1__lock(peer);
		unused = event->node->unused;
		b1__unlock(peer);
		if (unused)
			r = unused(event->node, event->node->userdata);
	}
	b1_node_unref(event->node);
	return r < 0 ? r : 0;
}

/* Whether process(), having done `done`, should ask the kernel for more. Locked. */
static bool want_more(const b1_peer *peer, int done)
{
	if (peer->receiving || done >= PROCESS_MAX)
		return false;
	/* What waits has to be given back anyway: it may as well receive. */
	if (done == 0 || peer->n_slices > 0 || peer->n_drops > 0)
		return true;
	/* A notice of room comes alone, whatever is behind it. */
	return peer->ready_n == BATCH ||
	       (peer->ready_n == 1 && peer->ready[0].type == BUS1_MSG_WRITABLE);
}

/*
 * All that this call received is also called back for by it (or by others that
 * process meanwhile), unless a callback failed; so who polls the descriptor
 * alone misses nothing.
 */
int b1_peer_process(b1_peer *peer)
{
	struct event event;
	int done = 0, r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	b1_peer_ref(peer);
	b1__lock(peer);
	while (r >= 0 && done < PROCESS_MAX + BATCH) {
		if (!have_ready(peer)) {
			if (!want_more(peer, done))
				break;
			r = receive(peer, BUS1_RECV_NONBLOCK, 0);
			if (r <= 0)
				break;
		}
		r = parse(peer, &peer->ready[peer->ready_next], &event);
		if (r < 0)
			break;
		peer->ready_next++;
		done++;
		b1__unlock(peer);
		r = dispatch(peer, &event);
		b1__lock(peer);
	}
	b1__flush(peer);
	b1__unlock(peer);
	b1_peer_unref(peer);
	return r < 0 ? r : done;
}

int b1_peer_get_timeout(b1_peer *peer, uint64_t *deadlinep)
{
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	b1__lock(peer);
	*deadlinep = have_ready(peer) ? 0 : UINT64_MAX;
	b1__unlock(peer);
	return 0;
}

/* Wait as the kernel's receive does, but only wait. */
static int wait_poll(b1_peer *peer, uint64_t deadline)
{
	struct pollfd pollfd = { .fd = peer->fd, .events = POLLIN };
	struct timespec now, left = { 0 };
	uint64_t now_ns;
	int r;

	if (deadline != UINT64_MAX) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		now_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
		if (deadline > now_ns) {
			left.tv_sec = (time_t)((deadline - now_ns) / 1000000000);
			left.tv_nsec = (long)((deadline - now_ns) % 1000000000);
		}
	}
	r = ppoll(&pollfd, 1, deadline == UINT64_MAX ? NULL : &left, NULL);
	return r < 0 ? -errno : r;
}

/* It does not just poll, it receives: one system call where there would be two. */
int b1_peer_wait(b1_peer *peer, uint64_t deadline)
{
	bool poll_instead = false;
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	b1_peer_ref(peer);
	b1__lock(peer);
	if (have_ready(peer))
		r = 1;
	else if (peer->receiving)
		poll_instead = true;
	else if (deadline == 0)
		r = receive(peer, BUS1_RECV_NONBLOCK, 0);
	else {
		r = receive(peer, 0, deadline == UINT64_MAX ? 0 : deadline);
		/* It does not wait if the file is O_NONBLOCK. */
		poll_instead = r == 0;
	}
	b1__unlock(peer);
	if (poll_instead)
		r = wait_poll(peer, deadline);
	b1_peer_unref(peer);
	return r;
}
