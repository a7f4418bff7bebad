/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Handles, own nodes' among them: identity, counts, watches. */
#include <stdlib.h>

#include "internal.h"

/*
 * Watches
 */

/* Take it out of its list, whose reference becomes the caller's. Locked. */
static void watch_unlink(b1_watch *watch)
{
	*watch->link = watch->next;
	if (watch->next)
		watch->next->link = watch->link;
	if (watch->kind == WATCH_WRITABLE)
		watch->handle->n_writable--;
	watch->handle = NULL;
	watch->next = NULL;
}

void b1__watch_unref(b1_watch *watch)
{
	if (!b1__unref(&watch->refs))
		return;
	if (watch->destroy)
		watch->destroy(watch->userdata);
	b1__drop(watch->peer);
	free(watch);
}

static int watch_new(b1_handle *handle, b1_watch **watchp, bool is_writable, b1_dead_fn call,
		     void *userdata)
{
	b1_peer *peer = handle->peer;
	b1_watch *watch;
	int r;

	if (!call)
		return -EINVAL;
	r = b1__check(peer);
	if (r < 0)
		return r;
	watch = calloc(1, sizeof(*watch));
	if (!watch)
		return -ENOMEM;
	watch->refs = watchp ? 2 : 1;
	watch->peer = b1__hold(peer);
	watch->call = call;
	watch->userdata = userdata;
	watch->kind = is_writable ? WATCH_WRITABLE : WATCH_DEAD;

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
		if (is_writable)
			handle->n_writable++;
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

int b1_handle_watch(b1_handle *handle, b1_watch **watchp, b1_dead_fn dead, void *userdata)
{
	return watch_new(handle, watchp, false, dead, userdata);
}

int b1_handle_watch_writable(b1_handle *handle, b1_watch **watchp, b1_writable_fn writable,
			     void *userdata)
{
	/* The kernel has no notice of this: room comes by what this very peer does. */
	if (handle->is_node || atomic_load(&handle->flags) & FLAGS_OWN)
		return -EINVAL;
	return watch_new(handle, watchp, true, writable, userdata);
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
	linked = watch->handle || watch->linked;
	if (watch->handle)
		watch_unlink(watch);
	else if (watch->linked)
		b1__call_unlink(watch);
	b1__unlock(watch->peer);
	if (linked && watch->kind == WATCH_CALL)
		b1__give_back(watch->peer, BUS1_CMD_CALL_CANCEL, &watch->id, 1);
	if (linked)
		b1__watch_unref(watch);
	b1__watch_unref(watch);
	return NULL;
}

/* Takes the next one off; NULL if there is none. */
static b1_watch *watch_pop(b1_handle *handle)
{
	b1_watch *watch;

	b1__lock(handle->peer);
	watch = handle->watches;
	if (watch)
		watch_unlink(watch);
	b1__unlock(handle->peer);
	return watch;
}

int b1__handle_call_watches(b1_handle *handle)
{
	b1_watch *watch;
	int r = 0, k;

	for (;;) {
		watch = watch_pop(handle);
		if (!watch)
			return r;
		/* Those for room end uncalled. */
		k = watch->kind == WATCH_WRITABLE ? 0 : watch->call(handle, watch->userdata);
		b1__watch_unref(watch);
		if (k < 0 && r >= 0)
			r = k;
	}
}

int b1__handle_call_writable(b1_handle *handle)
{
	b1_peer *peer = handle->peer;
	b1_watch *watch;
	int r = 0, k;

	/* Those there are now, each once, whatever their callbacks do to the list. */
	b1__lock(peer);
	for (watch = handle->watches; watch; watch = watch->next)
		watch->due = watch->kind == WATCH_WRITABLE;
	b1__unlock(peer);
	for (;;) {
		b1__lock(peer);
		for (watch = handle->watches; watch && !watch->due; watch = watch->next)
			;
		if (watch) {
			watch->due = false;
			b1__ref(&watch->refs);
		}
		b1__unlock(peer);
		if (!watch)
			return r;
		k = watch->call(handle, watch->userdata);
		b1__watch_unref(watch);
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
	b1__mapping_free(atomic_load(&handle->mapping));
	b1__drop(handle->peer);
	free(handle);
}

unsigned int b1__handle_flags(const struct bus1_handle *handle)
{
	return (handle->rights & BUS1_RIGHT_SEND ? B1_RIGHT_SEND : 0) |
	       (handle->rights & BUS1_RIGHT_TRANSFER ? B1_RIGHT_TRANSFER : 0) |
	       (handle->flags & BUS1_HANDLE_WEAK ? B1_HANDLE_WEAK : 0) |
	       (handle->flags & BUS1_HANDLE_ONCE ? B1_HANDLE_ONCE : 0) |
	       (handle->flags & BUS1_HANDLE_OWN ? FLAGS_OWN : 0);
}

b1_handle *b1__handle_arrived(b1_peer *peer, uint64_t id, unsigned int flags, b1_handle **spare)
{
	b1_handle *handle = b1__find(peer, id);
	uint64_t ids[COUNTS_MAX - 1];
	size_t i;

	if (!handle) {
		handle = *spare;
		*spare = NULL;
		handle->id = id;
		handle->flags = flags;
		/* An own node that no object stands for is just something to send to. */
		handle->counts = flags & FLAGS_OWN ? 0 : 1;
		b1__idmap_add(&peer->map, id, handle);
		return handle;
	}
	b1__ref(&handle->refs);
	if (handle->is_node || flags & FLAGS_OWN)
		return handle;
	if (handle->flags & FLAGS_UNKNOWN)
		handle->flags = flags;
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

void b1__handles_unref(b1_peer *peer, b1_handle *const *handles, size_t n, bool soon)
{
	b1_handle *gone = NULL, *handle;
	b1_watch *watch;
	unsigned int k;
	size_t i;
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
		if (handle->is_node)
			b1__node_unlink(b1__node(handle));
		if (atomic_load(&peer->ended))
			continue;
		if (handle->is_node && !atomic_load(&handle->dead))
			b1__give_back(peer, BUS1_CMD_NODE_DESTROY, &handle->id, 1);
		b1__idmap_remove(&peer->map, handle->id);
		for (k = 0; k < handle->counts; k++) {
			if (peer->n_drops == DROPS_MAX)
				b1__flush(peer);
			peer->drops[peer->n_drops++] = handle->id;
		}
	}
	if (!locked)
		return;
	if (!soon && peer->n_drops)
		b1__flush(peer);
	b1__unlock(peer);

	while (gone) {
		handle = gone;
		gone = handle->next_gone;
		/* Nobody adds watches any more; b1_watch_free() may still take one off. */
		for (;;) {
			watch = watch_pop(handle);
			if (!watch)
				break;
			b1__watch_unref(watch);
		}
		if (handle->is_node)
			b1__node_finish(b1__node(handle));
		b1__handle_free(handle);
	}
}

b1_handle *b1_handle_unref(b1_handle *handle)
{
	if (handle && !b1__unref_unless_last(&handle->refs))
		b1__handles_unref(handle->peer, &handle, 1, false);
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

int b1_handle_get_flags(b1_handle *handle)
{
	unsigned int flags = atomic_load_explicit(&handle->flags, memory_order_relaxed);

	return flags & FLAGS_UNKNOWN ? -ENODATA : (int)(flags & ~FLAGS_OWN);
}
