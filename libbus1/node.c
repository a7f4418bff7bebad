/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Nodes: objects of one's own, and their facets. What they share with handles is in handle.c. */
#include <stdlib.h>

#include "internal.h"

/*
 * The cookie is not used: a message is matched to its node by id, under the
 * lock, since a pointer in the cookie could be stale when another thread drops
 * the node, and is wild when the peer was inherited.
 */
static b1_node *node_alloc(b1_peer *peer, unsigned int flags, void *userdata)
{
	b1_node *node;

	node = calloc(1, sizeof(*node));
	if (!node)
		return NULL;
	node->handle.refs = 1;
	node->handle.is_node = true;
	node->handle.flags = FLAGS_ALL | FLAGS_OWN | flags;
	node->handle.peer = peer;
	node->userdata = userdata;
	return node;
}

/* It has got its id, and is found by that from now on. There is room in the map. Locked. */
static void node_add(b1_node *node, uint64_t id)
{
	b1_peer *peer = b1__hold(node->handle.peer);

	node->handle.id = id;
	b1__idmap_add(&peer->map, id, &node->handle);
}

int b1__node_new(b1_peer *peer, b1_node **nodep, unsigned long command, void *cmd,
		 const __u64 *idp, b1_message_fn handler, void *userdata)
{
	b1_node *node;
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	node = node_alloc(peer, 0, userdata);
	if (!node)
		return -ENOMEM;
	node->handler = handler;

	b1__lock(peer);
	r = b1__idmap_reserve(&peer->map, 1);
	if (r >= 0)
		r = b1__command(peer, command, cmd);
	if (r >= 0)
		node_add(node, *idp);
	b1__unlock(peer);
	if (r < 0) {
		free(node);
		return r;
	}
	*nodep = node;
	return 0;
}

int b1_node_new_flags(b1_peer *peer, b1_node **nodep, unsigned int flags, b1_message_fn handler,
		      void *userdata)
{
	struct bus1_cmd_node cmd = {
		.flags = (flags & B1_NODE_CREDS ? BUS1_NODE_CREDS : 0) |
			 (flags & B1_NODE_NO_INHERIT ? BUS1_NODE_NO_INHERIT : 0),
	};

	if (flags & ~(B1_NODE_CREDS | B1_NODE_NO_INHERIT))
		return -EINVAL;
	return b1__node_new(peer, nodep, BUS1_CMD_NODE_CREATE, &cmd, &cmd.id, handler, userdata);
}

int b1_node_new(b1_peer *peer, b1_node **nodep, b1_message_fn handler, void *userdata)
{
	return b1_node_new_flags(peer, nodep, 0, handler, userdata);
}

int b1_node_new_facet(b1_node *node, b1_node **facetp, uint64_t badge, unsigned int flags,
		      void *userdata)
{
	b1_peer *peer = node->handle.peer;
	struct bus1_cmd_mint cmd = {
		.flags = flags & B1_FACET_ONCE ? BUS1_MINT_ONCE : 0,
		.node = node->handle.id,
		.badge = badge,
	};
	b1_handle *known;
	b1_node *facet;
	int r;

	if (flags & ~B1_FACET_ONCE)
		return -EINVAL;
	r = b1__check(peer);
	if (r < 0)
		return r;
	facet = node_alloc(peer, flags & B1_FACET_ONCE ? B1_HANDLE_ONCE : 0, userdata);
	if (!facet)
		return -ENOMEM;
	facet->badge = badge;

	b1__lock(peer);
	if (atomic_load(&peer->ended))
		r = -ESHUTDOWN;
	else if (atomic_load(&node->handle.dead))
		r = -EHOSTUNREACH;
	else
		r = b1__idmap_reserve(&peer->map, 1);
	if (r >= 0)
		r = b1__command(peer, BUS1_CMD_HANDLE_MINT, &cmd);
	known = r < 0 ? NULL : b1__find(peer, cmd.id);
	if (known && known->is_node) {
		*facetp = b1_node_ref(b1__node(known));
	} else if (r >= 0) {
		facet->base = b1_node_ref(node);
		facet->next = node->facets;
		facet->link = &node->facets;
		if (facet->next)
			facet->next->link = &facet->next;
		node->facets = facet;
		node_add(facet, cmd.id);
		*facetp = facet;
		facet = NULL;
	}
	b1__unlock(peer);
	free(facet);
	return r;
}

uint64_t b1_node_get_badge(b1_node *node)
{
	return node->badge;
}

b1_node *b1_node_ref(b1_node *node)
{
	b1_handle_ref(&node->handle);
	return node;
}

b1_node *b1_node_unref(b1_node *node)
{
	if (node)
		b1_handle_unref(&node->handle);
	return NULL;
}

void b1__node_unlink(b1_node *node)
{
	if (!node->base)
		return;
	*node->link = node->next;
	if (node->next)
		node->next->link = node->link;
}

void b1__node_finish(b1_node *node)
{
	if (node->destroy)
		node->destroy(node->userdata);
	b1_node_unref(node->base);
}

int b1_node_set_unused(b1_node *node, b1_unused_fn unused)
{
	b1_peer *peer = node->handle.peer;
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	b1__lock(peer);
	node->unused = unused;
	b1__unlock(peer);
	return 0;
}

int b1_node_set_destroy(b1_node *node, b1_destroy_fn destroy)
{
	b1_peer *peer = node->handle.peer;

	/* Of use even when the peer has ended: the object has not. */
	if (b1__forked(peer))
		return -ECHILD;
	b1__lock(peer);
	node->destroy = destroy;
	b1__unlock(peer);
	return 0;
}

void *b1_node_get_userdata(b1_node *node)
{
	return node->userdata;
}

b1_handle *b1_node_get_handle(b1_node *node)
{
	return &node->handle;
}

/* Its facets died with it. */
static void call_facets_watches(b1_node *node)
{
	b1_node *facet;

	do {
		b1__lock(node->handle.peer);
		for (facet = node->facets; facet && !facet->handle.watches; facet = facet->next)
			;
		if (facet)
			b1_node_ref(facet);
		b1__unlock(node->handle.peer);
		if (facet)
			b1__handle_call_watches(&facet->handle);
		b1_node_unref(facet);
	} while (facet);
}

int b1_node_destroy(b1_node *node, unsigned int flags)
{
	b1_peer *peer = node->handle.peer;
	struct bus1_cmd_ids cmd = {
		.flags = flags & B1_NODE_UNUSED ? BUS1_DESTROY_UNUSED : 0,
		.ids = (uintptr_t)&node->handle.id,
		.n_ids = 1,
	};
	b1_node *facet;
	int r;

	if (flags & ~B1_NODE_UNUSED)
		return -EINVAL;
	r = b1__check(peer);
	if (r < 0)
		return r;
	b1__lock(peer);
	if (atomic_load(&peer->ended))
		r = -ESHUTDOWN;
	else if (atomic_load(&node->handle.dead))
		r = -EHOSTUNREACH;
	else
		r = b1__command(peer, BUS1_CMD_NODE_DESTROY, &cmd);
	/* A one-shot facet that has carried its message. */
	if (r == -ENXIO)
		r = -EHOSTUNREACH;
	/* It stays in the map: what refers to it may still arrive, and arrives as it. */
	if (r >= 0 || r == -EHOSTUNREACH)
		atomic_store(&node->handle.dead, true);
	for (facet = r < 0 ? NULL : node->facets; facet; facet = facet->next)
		atomic_store(&facet->handle.dead, true);
	b1__unlock(peer);
	if (r < 0)
		return r;
	b1__handle_call_watches(&node->handle);
	call_facets_watches(node);
	return 0;
}
