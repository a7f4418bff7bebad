/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages that were received: one allocation each, large payloads in the pool. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

/* Is `id` among the first n of handles[]? */
static bool is_among(const struct bus1_handle *handles, size_t n, uint64_t id)
{
	while (n > 0)
		if (handles[--n].id == id)
			return true;
	return false;
}

/* Make an object for each handle that has none. What is made stands in message->handles. */
static int make_handles(b1_peer *peer, b1_message *message, const struct bus1_handle *handles)
{
	size_t i, n = 0;

	for (i = 0; i < message->n_handles; i++) {
		message->handles[i] = NULL;
		if (b1__find(peer, handles[i].id) || is_among(handles, i, handles[i].id))
			continue;
		message->handles[i] = b1__handle_alloc(peer);
		if (!message->handles[i])
			goto error;
		n++;
	}
	if (b1__idmap_reserve(&peer->map, n) >= 0)
		return 0;
error:
	while (i > 0)
		b1__handle_free(message->handles[--i]);
	return -ENOMEM;
}

/* Where the parts of a message lie in its object. */
struct layout {
	size_t creds, label, fds, data, size;
	size_t label_len, n_fds;
};

static size_t align8(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

static const struct bus1_creds *stamp_of(const struct bus1_msg *msg, const uint8_t *buf)
{
	return msg->flags & BUS1_MSG_F_CREDS ? (const void *)(buf + msg->creds) : NULL;
}

static struct layout lay_out(const struct bus1_msg *msg, const uint8_t *buf)
{
	const struct bus1_creds *stamp = stamp_of(msg, buf);
	/* A memfd is not kept: it is mapped. */
	struct layout l = {
		.n_fds = msg->flags & (BUS1_MSG_F_FDS_CLOSED | BUS1_MSG_F_MEMFD) ? 0 : msg->n_fds,
	};
	size_t end;

	end = align8(sizeof(b1_message) + msg->n_handles * sizeof(b1_handle *));
	l.creds = end;
	if (stamp) {
		l.label = end + sizeof(b1_creds);
		l.label_len = stamp->label_len;
		end = align8(l.label + l.label_len + 1);
	}
	l.fds = end;
	l.data = align8(end + l.n_fds * sizeof(atomic_int));
	l.size = l.data + (msg->slice ? 0 : msg->len);
	return l;
}

static void set_creds(b1_message *message, const struct layout *l, const struct bus1_creds *stamp)
{
	b1_creds *creds = (void *)((uint8_t *)message + l->creds);
	char *label = (char *)message + l->label;

	memcpy(label, stamp + 1, l->label_len);
	label[l->label_len] = 0;
	*creds = (b1_creds){
		.pid = stamp->pid,
		.tid = stamp->tid,
		.uid = stamp->uid,
		.gid = stamp->gid,
		.label = l->label_len ? label : NULL,
	};
	message->creds = creds;
}

static void set_fds(b1_message *message, const struct layout *l, const int32_t *fds)
{
	size_t i;

	message->n_fds = l->n_fds;
	message->fds = (void *)((uint8_t *)message + l->fds);
	for (i = 0; i < l->n_fds; i++)
		atomic_init(&message->fds[i], fds[i]);
}

/*
 * Of a memfd the body is mapped at once, and its descriptor closed: who sends many
 * fills no table of ours. What can not be had is lost, and the message says
 * why: to try again would hold up all others.
 */
static void set_body(b1_message *message, const struct bus1_msg *msg, const int32_t *fds)
{
	message->body = BODY_NONE;
	message->memfd = (struct mapping){ .data = "" };
	message->body_offset = msg->body_offset;
	message->body_size = msg->body_len;
	message->body_result = msg->flags & BUS1_MSG_F_SHARED ? 1 : 0;
	if (msg->flags & BUS1_MSG_F_BODY)
		message->body = BODY_BUFFER;
	if (!(msg->flags & BUS1_MSG_F_MEMFD))
		return;
	message->body = BODY_MEMFD;
	if (msg->flags & BUS1_MSG_F_FDS_CLOSED) {
		message->body_result = -EBADF;
	} else if (fds[0] < 0) {
		message->body_result = fds[0];
	} else {
		int r = b1__map(&message->memfd, fds[0], msg->body_offset, msg->body_len,
				message->body_result);

		if (r < 0)
			message->body_result = r;
		close(fds[0]);
	}
}

static void set_call(b1_peer *peer, b1_message *message, const struct bus1_msg *msg)
{
	bool is_call = msg->type == BUS1_MSG_CALL && msg->token;

	message->is_error = msg->flags & BUS1_MSG_F_ERROR;
	message->has_fault = msg->flags & BUS1_MSG_F_FAULT;
	message->token = is_call ? msg->token : 0;
	message->chain = is_call ? msg->chain : 0;
	message->n_leases = msg->n_leases;
	atomic_init(&message->unanswered, is_call);
	atomic_init(&message->cancelled, false);
	message->replying = false;
	message->on_cancelled = NULL;
	if (is_call)
		b1__idmap_add(&peer->requests, msg->token, message);
}

int b1__message_new(b1_peer *peer, b1_message **messagep, const struct bus1_msg *msg,
		    const uint8_t *buf)
{
	const struct bus1_handle *handles = (const void *)(buf + msg->handles);
	const struct bus1_creds *stamp = stamp_of(msg, buf);
	const struct layout l = lay_out(msg, buf);
	b1_message *message;
	b1_handle *spare;
	size_t i;

	message = malloc(l.size);
	if (!message)
		return -ENOMEM;
	message->n_handles = msg->n_handles;
	if ((msg->type == BUS1_MSG_CALL && b1__idmap_reserve(&peer->requests, 1) < 0) ||
	    (msg->n_handles && make_handles(peer, message, handles) < 0)) {
		free(message);
		return -ENOMEM;
	}
	/* Nothing fails from here on. */
	for (i = 0; i < msg->n_handles; i++) {
		bool fresh = message->handles[i];

		spare = message->handles[i];
		message->handles[i] = b1__handle_arrived(peer, handles[i].id,
							 b1__handle_flags(&handles[i]), &spare);
		/* Of one that was known its notice of death will tell. */
		if (fresh && handles[i].flags & BUS1_HANDLE_DEAD)
			atomic_store(&message->handles[i]->dead, true);
	}
	message->refs = 1;
	message->peer = b1__hold(peer);
	message->slice = msg->slice;
	message->size = msg->len;
	message->badge = msg->badge;
	message->priority = msg->priority;
	message->creds = NULL;
	if (stamp)
		set_creds(message, &l, stamp);
	set_call(peer, message, msg);
	set_fds(message, &l, (const void *)(buf + msg->fds));
	set_body(message, msg, (const void *)(buf + msg->fds));
	if (msg->slice) {
		message->data = peer->pool + msg->offset;
	} else {
		message->data = (uint8_t *)message + l.data;
		memcpy((uint8_t *)message + l.data, buf + msg->offset, msg->len);
	}
	*messagep = message;
	return 0;
}

static void close_fds(const struct bus1_msg *msg, const uint8_t *buf)
{
	const int32_t *fds = (const void *)(buf + msg->fds);
	size_t i;

	for (i = 0; !(msg->flags & BUS1_MSG_F_FDS_CLOSED) && i < msg->n_fds; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

void b1__message_discard(b1_peer *peer, const struct bus1_msg *msg, const uint8_t *buf)
{
	const struct bus1_handle *handles = (const void *)(buf + msg->handles);
	uint64_t ids[BUS1_MAX_HANDLES], slice = msg->slice;
	size_t i, n = 0;

	close_fds(msg, buf);
	for (i = 0; i < msg->n_handles; i++)
		if (!(handles[i].flags & BUS1_HANDLE_OWN))
			ids[n++] = handles[i].id;
	b1__give_back(peer, BUS1_CMD_HANDLE_RELEASE, ids, n);
	b1__give_back(peer, BUS1_CMD_SLICE_RELEASE, &slice, slice ? 1 : 0);
	if (msg->type == BUS1_MSG_CALL && msg->token)
		b1__reply_drop(peer, msg->token);
}

/*
 * Take a reference off what may be a request that is to be answered; true if it was the
 * last. Others may find such a one, under the lock. Its call ends with it.
 */
static bool request_unref(b1_message *message)
{
	b1_peer *peer = message->peer;
	bool unanswered;

	if (!atomic_load_explicit(&message->unanswered, memory_order_acquire))
		return b1__unref(&message->refs);
	if (b1__unref_unless_last(&message->refs))
		return false;
	b1__lock(peer);
	if (!b1__unref(&message->refs)) {
		b1__unlock(peer);
		return false;
	}
	unanswered = atomic_load(&message->unanswered);
	if (unanswered)
		b1__request_done(message);
	b1__unlock(peer);
	if (unanswered)
		b1__reply_drop(peer, message->token);
	return true;
}

static void message_unref(b1_message *message, bool soon)
{
	b1_peer *peer = message->peer;
	size_t i;
	int fd;

	if (b1__forked(peer) || !request_unref(message))
		return;
	for (i = 0; i < message->n_fds; i++) {
		fd = atomic_load(&message->fds[i]);
		if (fd >= 0)
			close(fd);
	}
	b1__unmap(&message->memfd);
	if (message->n_handles)
		b1__handles_unref(peer, message->handles, message->n_handles, soon || message->slice);
	if (message->slice) {
		b1__lock(peer);
		peer->slices[peer->n_slices++] = message->slice;
		peer->slices_len += message->size;
		/* Senders may be waiting for the room. */
		if (!soon || peer->n_slices == SLICES_MAX || peer->slices_len > peer->pool_size / 4)
			b1__flush(peer);
		b1__unlock(peer);
	}
	free(message);
	b1__drop(peer);
}

void b1__message_unref_soon(b1_message *message)
{
	message_unref(message, true);
}

b1_message *b1_message_ref(b1_message *message)
{
	b1__ref(&message->refs);
	return message;
}

b1_message *b1_message_unref(b1_message *message)
{
	if (message)
		message_unref(message, false);
	return NULL;
}

/* The part of the buffer is within what was mapped: the kernel has checked it, and seals fix it. */
static int buffer_body(b1_message *message, const void **datap, size_t *sizep)
{
	const void *data;
	size_t size;
	int r;

	r = b1_buffer_map(message->handles[0], &data, &size);
	if (r < 0)
		return r;
	if (message->body_offset > size || message->body_size > size - message->body_offset)
		return -EOVERFLOW;
	*datap = (const uint8_t *)data + message->body_offset;
	*sizep = (size_t)message->body_size;
	return r;
}

int b1_message_get_body(b1_message *message, const void **datap, size_t *sizep)
{
	if (message->body == BODY_NONE)
		return -ENODATA;
	if (message->body == BODY_BUFFER)
		return buffer_body(message, datap, sizep);
	if (message->body_result >= 0) {
		*datap = message->memfd.data;
		*sizep = message->memfd.size;
	}
	return message->body_result;
}

const void *b1_message_get_data(b1_message *message, size_t *sizep)
{
	const void *data = message->data;
	size_t size = message->size;

	if (!size && message->body != BODY_NONE && b1_message_get_body(message, &data, &size) != 0) {
		data = message->data;
		size = 0;
	}
	if (sizep)
		*sizep = size;
	return data;
}

b1_handle *b1_message_get_buffer(b1_message *message)
{
	return message->body == BODY_BUFFER ? message->handles[0] : NULL;
}

size_t b1_message_get_n_handles(b1_message *message)
{
	return message->n_handles - (message->body == BODY_BUFFER);
}

b1_handle *b1_message_get_handle(b1_message *message, size_t index)
{
	if (index >= b1_message_get_n_handles(message))
		return NULL;
	return message->handles[index + (message->body == BODY_BUFFER)];
}

uint64_t b1_message_get_badge(b1_message *message)
{
	return message->badge;
}

unsigned int b1_message_get_priority(b1_message *message)
{
	return message->priority;
}

const b1_creds *b1_message_get_creds(b1_message *message)
{
	return message->creds;
}

size_t b1_message_get_n_fds(b1_message *message)
{
	return message->n_fds;
}

int b1_message_get_fd(b1_message *message, size_t index)
{
	return index < message->n_fds ? atomic_load(&message->fds[index]) : -ERANGE;
}

int b1_message_take_fd(b1_message *message, size_t index)
{
	int fd;

	if (b1__forked(message->peer))
		return -ECHILD;
	if (index >= message->n_fds)
		return -ERANGE;
	fd = atomic_load(&message->fds[index]);
	/* Of several that take it one gets it. What is an error stays that. */
	while (fd >= 0 && !atomic_compare_exchange_weak(&message->fds[index], &fd, -EBADF))
		;
	return fd;
}
