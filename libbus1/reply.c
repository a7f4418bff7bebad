/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests: answering them, and what the caller has lent. Errors by name and text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

_Thread_local struct serving *b1__serving __attribute__((tls_model("initial-exec")));

void b1__request_done(b1_message *request)
{
	b1__idmap_remove(&request->peer->requests, request->token);
	atomic_store_explicit(&request->unanswered, false, memory_order_release);
}

void b1__reply_drop(b1_peer *peer, uint64_t token)
{
	struct bus1_cmd_reply cmd = { .send.dest = token, .flags = BUS1_REPLY_DROP };

	b1__command(peer, BUS1_CMD_REPLY, &cmd);
}

void b1__reply_set(struct bus1_cmd_send *cmd, const struct deferred *deferred)
{
	*cmd = (struct bus1_cmd_send){
		.dest = deferred->token,
		.data = deferred->size ? (uintptr_t)deferred->data : 0,
		.len = deferred->size,
	};
}

/* Nobody is there to be told of an error: rather than to wait for ever the caller gets one. */
void b1__reply_deferred(b1_peer *peer, struct deferred *deferred)
{
	struct bus1_cmd_reply cmd = { 0 };

	if (!deferred->token)
		return;
	b1__reply_set(&cmd.send, deferred);
	if (b1__command(peer, BUS1_CMD_REPLY, &cmd) < 0)
		b1__reply_drop(peer, deferred->token);
	deferred->token = 0;
}

/* Handlers that defer promise to return at once; who waits for the reply did not. */
void b1__reply_before_wait(void)
{
	struct serving *serving;

	for (serving = b1__serving; serving; serving = serving->up)
		if (serving->deferred)
			b1__reply_deferred(serving->message->peer, serving->deferred);
}

/*
 * To answer a request is first to claim it. 0; -EINVAL: it is none; -EALREADY: it was
 * answered; -EBUSY: it is just being. Locked.
 */
static int claim(b1_message *request)
{
	if (!request->token)
		return -EINVAL;
	if (atomic_load(&request->peer->ended))
		return -ESHUTDOWN;
	if (!atomic_load(&request->unanswered))
		return -EALREADY;
	if (request->replying)
		return -EBUSY;
	request->replying = true;
	return 0;
}

/* It was answered, or has lost its token, or is still to be answered. */
static int unclaim(b1_message *request, int r)
{
	b1__lock(request->peer);
	request->replying = false;
	if (r == -ENXIO || r == -ESHUTDOWN)
		r = atomic_load(&request->peer->ended) ? -ESHUTDOWN : r;
	if ((r >= 0 || r == -ECANCELED) && atomic_load(&request->unanswered))
		b1__request_done(request);
	b1__unlock(request->peer);
	return r;
}

/*
 * Whether it can go with the next receive: it is small and plain, and this thread is
 * in the handler that it was received for, and has nothing else to send so.
 */
static bool may_defer(b1_message *request, const b1_outgoing *out, size_t size)
{
	const struct serving *serving = b1__serving;

	return serving && serving->message == request && serving->deferred &&
	       !serving->deferred->token && size == sizeof(*out) && out->flags == B1_REPLY_LAST &&
	       !(out->n_iov | out->n_handles | out->n_passes | out->n_fds | out->priority |
		 out->buffer_offset | out->buffer_size | out->deadline) &&
	       !out->buffer && out->size <= request->peer->max_inline;
}

static int defer(b1_message *request, const b1_outgoing *out)
{
	struct deferred *deferred = b1__serving->deferred;
	int r;

	b1__lock(request->peer);
	r = claim(request);
	if (r >= 0) {
		request->replying = false;
		b1__request_done(request);
	}
	b1__unlock(request->peer);
	if (r < 0)
		return r;
	deferred->token = request->token;
	deferred->size = out->size;
	if (out->size)
		memcpy(deferred->data, out->data, out->size);
	return 0;
}

/*
 * A handle that is passed along may be what is not known; else it is the token, which
 * nobody but the peer's end can have taken.
 */
static int reply(b1_message *request, const b1_outgoing *outgoing, size_t size, uint64_t flags)
{
	b1_peer *peer = request->peer;
	struct bus1_cmd_reply cmd;
	struct load load;
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	if (!flags && may_defer(request, outgoing, size))
		return defer(request, outgoing);
	cmd = (struct bus1_cmd_reply){ .flags = flags };
	r = b1__load(&load, peer, &cmd.send, outgoing, size, B1_SEND_TAKE_FDS | B1_REPLY_LAST);
	if (r < 0)
		return r;
	b1__lock(peer);
	if (load.out.deadline || load.out.priority)
		r = -EINVAL;
	else
		r = claim(request);
	b1__unlock(peer);
	if (r < 0) {
		free(load.allocated);
		return r;
	}
	cmd.send.dest = request->token;
	b1__load_move(&load, peer);
	r = b1__load_command(&load, peer, &cmd.send, BUS1_CMD_REPLY, &cmd);
	b1__load_end(&load, peer, r);
	return unclaim(request, r);
}

int b1_message_reply_sized(b1_message *request, const b1_outgoing *outgoing, size_t outgoing_size)
{
	return reply(request, outgoing, outgoing_size, 0);
}

int b1_message_reply_bytes(b1_message *request, const void *data, size_t size)
{
	const b1_outgoing outgoing = { .data = data, .size = size };

	return b1_message_reply(request, &outgoing);
}

int b1_message_drop(b1_message *request)
{
	b1_peer *peer = request->peer;
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	b1__lock(peer);
	r = claim(request);
	b1__unlock(peer);
	if (r < 0)
		return r;
	b1__reply_drop(peer, request->token);
	unclaim(request, 0);
	return 0;
}

/*
 * Errors. On the wire: the name, a zero, the text, a zero.
 */

/* How much of a text fits into that many bytes: whole characters of UTF-8. */
static size_t cut(const char *text, size_t size, size_t max)
{
	if (size <= max)
		return size;
	for (size = max; size > 0 && ((uint8_t)text[size] & 0xc0) == 0x80; size--)
		;
	return size;
}

int b1_message_reply_error(b1_message *request, const char *name, const char *text)
{
	size_t name_size = strlen(name) + 1, text_size = text ? strlen(text) : 0;
	struct iovec iov[3] = {
		{ .iov_base = (void *)(uintptr_t)name, .iov_len = name_size },
		{ .iov_base = (void *)(uintptr_t)text, .iov_len = text_size },
		{ .iov_base = (void *)(uintptr_t)"", .iov_len = 1 },
	};
	const b1_outgoing outgoing = { .iov = iov, .n_iov = 3 };
	int r;

	if (name_size == 1 || name_size - 1 > B1_ERROR_NAME_MAX)
		return -EINVAL;
	r = reply(request, &outgoing, sizeof(outgoing), BUS1_REPLY_ERROR);
	if (r != -EMSGSIZE || name_size + 1 + text_size <= request->peer->max_inline)
		return r;
	/* What is small enough every caller has room for. */
	iov[1].iov_len = cut(text, text_size, request->peer->max_inline - name_size - 1);
	return reply(request, &outgoing, sizeof(outgoing), BUS1_REPLY_ERROR);
}

int b1_message_reply_errno(b1_message *request, int error)
{
	int number = error < 0 ? -error : error;
	const char *name = strerrorname_np(number), *text = strerrordesc_np(number);
	char full[sizeof("System.Error.") + 16];

	if (!number || !name)
		return -EINVAL;
	snprintf(full, sizeof(full), "System.Error.%s", name);
	return b1_message_reply_error(request, full, text);
}

/* Anyone can write anything: what is no such pair of strings is an error without a name. */
static const char *get_error(b1_message *reply, const char **textp)
{
	const char *data, *end;
	size_t size;

	*textp = "";
	data = b1_message_get_data(reply, &size);
	end = size ? memchr(data, 0, size - 1) : NULL;
	if (!end || data[size - 1] || end == data || end - data > B1_ERROR_NAME_MAX)
		return "";
	*textp = end + 1;
	return data;
}

const char *b1_message_get_error_name(b1_message *reply)
{
	const char *text;

	return reply->is_error ? get_error(reply, &text) : NULL;
}

const char *b1_message_get_error_text(b1_message *reply)
{
	const char *text;

	if (!reply->is_error)
		return NULL;
	get_error(reply, &text);
	return text;
}

/*
 * What a request is
 */

int b1_message_is_call(b1_message *message)
{
	return message->token != 0;
}

uint64_t b1_message_get_chain(b1_message *message)
{
	return message->chain;
}

int b1_message_is_cancelled(b1_message *message)
{
	return atomic_load_explicit(&message->cancelled, memory_order_acquire);
}

int b1_message_has_fault(b1_message *reply)
{
	return reply->has_fault;
}

int b1_message_set_cancelled(b1_message *request, b1_cancelled_fn cancelled, void *userdata)
{
	b1_peer *peer = request->peer;
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	b1__lock(peer);
	if (!request->token)
		r = -EINVAL;
	else if (cancelled && atomic_load(&request->cancelled))
		r = -ECANCELED;
	else if (cancelled && !atomic_load(&request->unanswered))
		r = -EALREADY;
	if (r >= 0) {
		request->on_cancelled = cancelled;
		request->userdata = userdata;
	}
	b1__unlock(peer);
	return r;
}

int b1__request_cancelled(b1_message *request)
{
	b1_cancelled_fn cancelled;
	void *userdata;

	b1__lock(request->peer);
	cancelled = request->on_cancelled;
	userdata = request->userdata;
	b1__unlock(request->peer);
	return cancelled ? cancelled(request, userdata) : 0;
}

/*
 * Leases
 */

size_t b1_message_get_n_leases(b1_message *request)
{
	return request->n_leases;
}

static int lease(b1_message *request, uint64_t flags, size_t index, uint64_t offset, void *data,
		 size_t size)
{
	struct bus1_cmd_lease cmd = {
		.flags = flags,
		.token = request->token,
		.offset = offset,
		.data = (uintptr_t)data,
		.len = size,
		.index = (uint32_t)index,
	};
	int r;

	r = b1__check(request->peer);
	if (r < 0)
		return r;
	if (!request->token)
		return -EINVAL;
	if (!atomic_load(&request->unanswered))
		return -EALREADY;
	if (index >= request->n_leases)
		return -ENXIO;
	r = b1__command(request->peer, BUS1_CMD_LEASE, &cmd);
	/* There is such a lease, so it is the request that another thread has answered. */
	return r == -ENXIO ? -EALREADY : r;
}

int b1_message_read_lease(b1_message *request, size_t index, uint64_t offset, void *data,
			  size_t size)
{
	return lease(request, BUS1_LEASE_READ, index, offset, data, size);
}

int b1_message_write_lease(b1_message *request, size_t index, uint64_t offset, const void *data,
			   size_t size)
{
	return lease(request, BUS1_LEASE_WRITE, index, offset, (void *)(uintptr_t)data, size);
}
