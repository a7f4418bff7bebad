/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Handles, own nodes' among them: identity, counts, transfer, watches. */
#include <stdlib.h>

#include "internal.h"

struct b1_watch {
	/* One for the user, unless floating; one for the list, or for the call. */
	atomic_uint refs;
	b1_peer *peer;		/* its memory is held */
	b1_dead_fn dead;
	void *userdata;
	b1_destroy_fn destroy;	/* under the lock, as all below */
	b1_handle *handle;	/* whose list it is in; NULL: none */
	b1_watch *next, **link;	/* link points to what points here */
};

/*
 * Watches
 */

/* Take it out of its list, whose reference becomes the caller's. Locked. */
static void watch_unlink(b1_watch *watch)
{
	*watch->link = watch->next;
	if (watch->next)
		watch->next->link = watch->link;
	watch->handle = NULL;
	watch->next = NULL;
}

static void watch_unref(b1_watch *watch)
{
	if (!b1__unref(&watch->refs))
		return;
	if (watch->destroy)
		watch->destroy(watch->userdata);
	b1__drop(watch->peer);
	free(watch);
}

int b1_handle_watch(b1_handle *handle, b1_watch **watchp, b1_dead_fn dead, void *userdata)
{
	b1_peer *peer = handle->peer;
	b1_watch *watch;
	int r;

	if (!dead)
		return -EINVAL;
	r = b1__check(peer);
	if (r < 0)
		return r;
	watch = calloc(1, sizeof(*watch));
	if (!watch)
		return -ENOMEM;
	watch->refs = watchp ? 2 : 1;
	watch->peer = b1__hold(peer);
	watch->dead = dead;
	watch->userdata = userdata;

	b1__lock(peer);
	if (atomic_load(&peer->ended)) {
		r = -ESHUTDOWN;
	} else if (atomic_load(&handle->dead)) {
		r = -EHOSTUNREACH;
	} else {
		watch->handle = handle;
		watch->link = &handle->watches;
		watch->next = handle->watches;
		if (watch->next)
			watch->next->link = &watch->next;
		handle->watches = watch;
	}
	b1__unlock(peer);
	if (r < 0) {
		b1__drop(peer);
		free(watch);
		return r;
	}
	if (watchp)
		*watchp = watch;
	return 0;
}

int b1_watch_set_destroy(b1_watch *watch, b1_destroy_fn destroy)
{
	if (b1__forked(watch->peer))
		return -ECHILD;
	b1__lock(watch->peer);
	watch->destroy = destroy;
	b1__unlock(watch->peer);
	return 0;
}

b1_watch *b1_watch_free(b1_watch *watch)
{
	bool linked;

	if (!watch || b1__forked(watch->peer))
		return NULL;
	b1__lock(watch->peer);
	linked = watch->handle;
	if (linked)
		watch_unlink(watch);
	b1__unlock(watch->peer);
	if (linked)
		watch_unref(watch);
	watch_unref(watch);
	return NULL;
}

int b1__handle_call_watches(b1_handle *handle)
{
	b1_peer *peer = handle->peer;
	b1_watch *watch;
	int r = 0, k;

	for (;;) {
		b1__lock(peer);
		watch = handle->watches;
		if (watch)
			watch_unlink(watch);
		b1__unlock(peer);
		if (!watch)
			return r;
		k = watch->dead(handle, watch->userdata);
		watch_unref(watch);
		if (k < 0 && r >= 0)
			r = k;
	}
}

/*
 * Life
 */

b1_handle *b1__handle_alloc(b1_peer *peer)
{
	b1_handle *handle;

	handle = calloc(1, sizeof(*handle));
	if (!handle)
		return NULL;
	handle->refs = 1;
	handle->peer = b1__hold(peer);
	return handle;
}

void b1__handle_free(b1_handle *handle)
{
	if (!handle)
		return;
	b1__drop(handle->peer);
	free(handle);
}

b1_handle *b1__handle_arrived(b1_peer *peer, uint64_t id, bool own, b1_handle **spare)
{
	b1_handle *handle = b1__find(peer, id);
	uint64_t ids[COUNTS_MAX - 1];
	size_t i;

	if (!handle) {
		handle = *spare;
		*spare = NULL;
		handle->id = id;
		/* An own node that no object stands for is just something to send to. */
		handle->counts = own ? 0 : 1;
		b1__idmap_add(&peer->map, id, handle);
		return handle;
	}
	b1__ref(&handle->refs);
	if (handle->is_node || own)
		return handle;
	/* One count would do; giving each surplus one back at once would cost a call. */
	if (++handle->counts >= COUNTS_MAX) {
		for (i = 0; i < COUNTS_MAX - 1; i++)
			ids[i] = id;
		b1__give_back(peer, BUS1_CMD_HANDLE_RELEASE, ids, i);
		handle->counts -= COUNTS_MAX - 1;
	}
	return handle;
}

b1_handle *b1_handle_ref(b1_handle *handle)
{
	b1__ref(&handle->refs);
	return handle;
}

void b1__handles_unref(b1_peer *peer, b1_handle *const *handles, size_t n)
{
	b1_handle *gone = NULL, *handle;
	uint64_t ids[COUNTS_MAX];
	b1_watch *watch;
	size_t n_ids = 0, i;
	unsigned int k;
	bool locked = false;

	if (b1__forked(peer))
		return;
	for (i = 0; i < n; i++) {
		handle = handles[i];
		if (b1__unref_unless_last(&handle->refs))
			continue;
		if (!locked)
			b1__lock(peer);
		locked = true;
		if (!b1__unref(&handle->refs))
			continue;
		handle->next_gone = gone;
		gone = handle;
		if (atomic_load(&peer->ended))
			continue;
		if (handle->is_node && !atomic_load(&handle->dead))
			b1__give_back(peer, BUS1_CMD_NODE_DESTROY, &handle->id, 1);
		b1__idmap_remove(&peer->map, handle->id);
		if (n_ids + handle->counts > COUNTS_MAX) {
			b1__give_back(peer, BUS1_CMD_HANDLE_RELEASE, ids, n_ids);
			n_ids = 0;
		}
		for (k = 0; k < handle->counts; k++)
			ids[n_ids++] = handle->id;
	}
	if (!locked)
		return;
	b1__give_back(peer, BUS1_CMD_HANDLE_RELEASE, ids, n_ids);
	b1__unlock(peer);

	while (gone) {
		handle = gone;
		gone = handle->next_gone;
		/* Nobody adds watches any more; b1_watch_free() may still take one off. */
		for (;;) {
			b1__lock(peer);
			watch = handle->watches;
			if (watch)
				watch_unlink(watch);
			b1__unlock(peer);
			if (!watch)
				break;
			watch_unref(watch);
		}
		if (handle->is_node)
			b1__node_finish(b1__node(handle));
		b1__handle_free(handle);
	}
}

b1_handle *b1_handle_unref(b1_handle *handle)
{
	if (handle && !b1__unref_unless_last(&handle->refs))
		b1__handles_unref(handle->peer, &handle, 1);
	return NULL;
}

b1_node *b1_handle_get_node(b1_handle *handle)
{
	return b1__node(handle);
}

uint64_t b1_handle_get_id(b1_handle *handle)
{
	return handle->id;
}

int b1_handle_is_dead(b1_handle *handle)
{
	return atomic_load_explicit(&handle->dead, memory_order_acquire);
}

/*
 * Getting them without a message
 */

/*
 * Transfer `id` of the peer whose file is giver_fd into `peer`, and find or make
 * the object for what it became. Its object must be in the map before a notice
 * about it can be looked at, so the lock is held all the while.
 */
static int handle_import(b1_peer *peer, b1_handle **handlep, b1_peer *giver, uint64_t id,
			 uint64_t flags)
{
	uint64_t out = 0;
	struct bus1_cmd_transfer cmd = {
		.flags = flags,
		.ids = (uintptr_t)&id,
		.out = (uintptr_t)&out,
		.n_ids = 1,
		.peer_fd = peer->fd,
	};
	b1_handle *spare;
	int r;

	spare = b1__handle_alloc(peer);
	if (!spare)
		return -ENOMEM;
	b1__lock(peer);
	r = atomic_load(&peer->ended) ? -ESHUTDOWN : b1__idmap_reserve(&peer->map, 1);
	if (r >= 0)
		r = b1__command(giver, BUS1_CMD_HANDLE_TRANSFER, &cmd);
	if (r >= 0)
		*handlep = b1__handle_arrived(peer, out, false, &spare);
	b1__unlock(peer);
	b1__handle_free(spare);
	return r;
}

int b1_handle_from_id(b1_peer *peer, b1_handle **handlep, uint64_t id)
{
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	/* A move to itself changes nothing, and fails if there is no such handle. */
	return handle_import(peer, handlep, peer, id, BUS1_TRANSFER_MOVE);
}

int b1_handle_transfer(b1_handle *handle, b1_peer *peer, b1_handle **handlep)
{
	int r;

	r = b1__check(handle->peer);
	if (r >= 0)
		r = b1__check(peer);
	if (r < 0)
		return r;
	return handle_import(peer, handlep, handle->peer, handle->id, 0);
}

int b1_handle_transfer_fd(b1_handle *handle, int peer_fd, uint64_t *idp)
{
	uint64_t out = 0;
	struct bus1_cmd_transfer cmd = {
		.ids = (uintptr_t)&handle->id,
		.out = (uintptr_t)&out,
		.n_ids = 1,
		.peer_fd = peer_fd,
	};
	int r;

	/* To the kernel -1 is the peer itself. */
	if (peer_fd < 0)
		return -EBADF;
	r = b1__check(handle->peer);
	if (r >= 0)
		r = b1__command(handle->peer, BUS1_CMD_HANDLE_TRANSFER, &cmd);
	if (r < 0)
		return r;
	*idp = out;
	return 0;
}
