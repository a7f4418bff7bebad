/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages that were received: one allocation each, large payloads in the pool. */
#include <stdlib.h>
#include <string.h>

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

int b1__message_new(b1_peer *peer, b1_message **messagep, const struct bus1_msg *msg,
		    const uint8_t *buf)
{
	const struct bus1_handle *handles = (const void *)(buf + msg->handles);
	size_t size, i;
	b1_message *message;
	b1_handle *spare;

	size = sizeof(*message) + msg->n_handles * sizeof(message->handles[0]);
	size = (size + 7) & ~(size_t)7;
	message = malloc(size + (msg->slice ? 0 : msg->len));
	if (!message)
		return -ENOMEM;
	message->n_handles = msg->n_handles;
	if (msg->n_handles && make_handles(peer, message, handles) < 0) {
		free(message);
		return -ENOMEM;
	}
	/* Nothing fails from here on. */
	for (i = 0; i < msg->n_handles; i++) {
		bool fresh = message->handles[i];

		spare = message->handles[i];
		message->handles[i] = b1__handle_arrived(peer, handles[i].id,
							 handles[i].flags & BUS1_HANDLE_OWN, &spare);
		/* Of one that was known its notice of death will tell. */
		if (fresh && handles[i].flags & BUS1_HANDLE_DEAD)
			atomic_store(&message->handles[i]->dead, true);
	}
	message->refs = 1;
	message->peer = b1__hold(peer);
	message->slice = msg->slice;
	message->size = msg->len;
	if (msg->slice) {
		message->data = peer->pool + msg->offset;
	} else {
		message->data = (uint8_t *)message + size;
		memcpy((uint8_t *)message + size, buf + msg->offset, msg->len);
	}
	*messagep = message;
	return 0;
}

void b1__flush_slices(b1_peer *peer)
{
	if (!peer->n_slices)
		return;
	b1__give_back(peer, BUS1_CMD_SLICE_RELEASE, peer->slices, peer->n_slices);
	peer->n_slices = 0;
	peer->slices_len = 0;
}

static void message_unref(b1_message *message, bool soon)
{
	b1_peer *peer = message->peer;

	if (b1__forked(peer) || !b1__unref(&message->refs))
		return;
	if (message->n_handles)
		b1__handles_unref(peer, message->handles, message->n_handles);
	if (message->slice) {
		b1__lock(peer);
		peer->slices[peer->n_slices++] = message->slice;
		peer->slices_len += message->size;
		/* Senders may be waiting for the room. */
		if (!soon || peer->n_slices == SLICES_MAX || peer->slices_len > peer->pool_size / 4)
			b1__flush_slices(peer);
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

const void *b1_message_get_data(b1_message *message, size_t *sizep)
{
	if (sizep)
		*sizep = message->size;
	return message->data;
}

size_t b1_message_get_n_handles(b1_message *message)
{
	return message->n_handles;
}

b1_handle *b1_message_get_handle(b1_message *message, size_t index)
{
	return index < message->n_handles ? message->handles[index] : NULL;
}
