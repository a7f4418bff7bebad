/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Nodes: objects of one's own. What they share with handles is in handle.c. */
#include <stdlib.h>

#include "internal.h"

int b1_node_new(b1_peer *peer, b1_node **nodep, b1_message_fn handler, void *userdata)
{
	/*
	 * The cookie is not used: a message is matched to its node by id, under
	 * the lock, since a pointer in the cookie could be stale when another
	 * thread drops the node, and is wild when the peer was inherited.
	 */
	struct bus1_cmd_node cmd = { 0 };
	b1_node *node;
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	node = calloc(1, sizeof(*node));
	if (!node)
		return -ENOMEM;
	node->handle.refs = 1;
	node->handle.is_node = true;
	node->handle.peer = peer;
	node->handler = handler;
	node->userdata = userdata;

	b1__lock(peer);
	r = b1__idmap_reserve(&peer->map, 1);
	if (r >= 0)
		r = b1__command(peer, BUS1_CMD_NODE_CREATE, &cmd);
	if (r >= 0) {
		node->handle.id = cmd.id;
		b1__idmap_add(&peer->map, cmd.id, &node->handle);
		b1__hold(peer);
	}
	b1__unlock(peer);
	if (r < 0) {
		free(node);
		return r;
	}
	*nodep = node;
	return 0;
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

void b1__node_finish(b1_node *node)
{
	if (node->destroy)
		node->destroy(node->userdata);
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

int b1_node_destroy(b1_node *node, unsigned int flags)
{
	b1_peer *peer = node->handle.peer;
	struct bus1_cmd_ids cmd = {
		.flags = flags & B1_NODE_UNUSED ? BUS1_DESTROY_UNUSED : 0,
		.ids = (uintptr_t)&node->handle.id,
		.n_ids = 1,
	};
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
	/* It stays in the map: what refers to it may still arrive, and arrives as it. */
	if (r >= 0)
		atomic_store(&node->handle.dead, true);
	b1__unlock(peer);
	if (r < 0)
		return r;
	b1__handle_call_watches(&node->handle);
	return 0;
}
