/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The file, the pool, and the end of a peer. */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

#define POOL_DEFAULT_SIZE ((size_t)16 << 20)

/* How often this process is a forked child of one that had peers. */
static atomic_uint generation;

static void in_child(void)
{
	atomic_fetch_add_explicit(&generation, 1, memory_order_relaxed);
}

static int atfork_result;

static void atfork_once(void)
{
	atfork_result = -pthread_atfork(NULL, NULL, in_child);
}

bool b1__forked(const b1_peer *peer)
{
	return peer->generation != atomic_load_explicit(&generation, memory_order_relaxed);
}

int b1__check(const b1_peer *peer)
{
	if (b1__forked(peer))
		return -ECHILD;
	return atomic_load_explicit(&peer->ended, memory_order_acquire) ? -ESHUTDOWN : 0;
}

int b1__command(b1_peer *peer, unsigned long command, void *argument)
{
	return ioctl(peer->fd, command, argument) < 0 ? -errno : 0;
}

void b1__give_back(b1_peer *peer, unsigned long command, const uint64_t *ids, size_t n)
{
	struct bus1_cmd_ids cmd = { .ids = (uintptr_t)ids, .n_ids = (uint32_t)n };
	size_t i;

	if (!n || b1__command(peer, command, &cmd) >= 0 || n == 1)
		return;
	for (i = 0; i < n; i++) {
		cmd = (struct bus1_cmd_ids){ .ids = (uintptr_t)(ids + i), .n_ids = 1 };
		b1__command(peer, command, &cmd);
	}
}

void b1__flush(b1_peer *peer)
{
	struct bus1_cmd_recv cmd = {
		.release = (uintptr_t)peer->slices,
		.drop = (uintptr_t)peer->drops,
		.n_release = peer->n_slices,
		.n_drop = peer->n_drops,
	};

	/* A receive of nothing gives back both at once. */
	if (!peer->n_slices || !peer->n_drops || b1__command(peer, BUS1_CMD_RECV, &cmd) < 0) {
		b1__give_back(peer, BUS1_CMD_SLICE_RELEASE, peer->slices, peer->n_slices);
		b1__give_back(peer, BUS1_CMD_HANDLE_RELEASE, peer->drops, peer->n_drops);
	}
	peer->n_slices = 0;
	peer->slices_len = 0;
	peer->n_drops = 0;
}

b1_peer *b1__hold(b1_peer *peer)
{
	b1__ref(&peer->holds);
	return peer;
}

void b1__drop(b1_peer *peer)
{
	if (!b1__unref(&peer->holds))
		return;
	pthread_mutex_destroy(&peer->lock);
	if (peer->pool)
		munmap((void *)peer->pool, peer->pool_size);
	if (peer->fd >= 0)
		close(peer->fd);
	b1__idmap_clear(&peer->map);
	b1__idmap_clear(&peer->requests);
	b1__idmap_clear(&peer->calls);
	free(peer->unclaimed);
	free(peer->buf);
	free(peer);
}

static int peer_map(b1_peer *peer, size_t size)
{
	void *pool;

	pool = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_NORESERVE, peer->fd, 0);
	if (pool == MAP_FAILED)
		return -errno;
	/* A child that does not exec would keep the peer from ending. */
	madvise(pool, size, MADV_DONTFORK);
	peer->pool = pool;
	peer->pool_size = size;
	return 0;
}

int b1_peer_new_from_fd(b1_peer **peerp, int fd, size_t pool_size)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct bus1_cmd_info info = { 0 };
	b1_peer *peer;
	int r;

	pthread_once(&once, atfork_once);
	if (atfork_result < 0)
		return atfork_result;
	peer = calloc(1, sizeof(*peer));
	if (!peer)
		return -ENOMEM;
	peer->refs = 1;
	peer->holds = 1;
	peer->generation = atomic_load_explicit(&generation, memory_order_relaxed);
	peer->fd = fd;
	/* Above those of any program that had the file before. */
	peer->serial = b1__now();
	pthread_mutex_init(&peer->lock, NULL);

	r = b1__command(peer, BUS1_CMD_PEER_INFO, &info);
	if (r < 0) {
		r = r == -ENOTTY ? -EMEDIUMTYPE : r;
		goto error;
	}
	peer->max_inline = info.max_inline < INLINE_MAX ? info.max_inline : INLINE_MAX;
	peer->buf_size = BUF_SIZE;
	peer->buf = malloc(peer->buf_size);
	if (!peer->buf) {
		r = -ENOMEM;
		goto error;
	}
	r = peer_map(peer, info.pool_size ?: pool_size ?: POOL_DEFAULT_SIZE);
	if (r < 0)
		goto error;
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
		r = -errno;
		goto error;
	}
	*peerp = peer;
	return 0;

error:
	peer->fd = -1; /* still the caller's */
	b1__drop(peer);
	return r;
}

int b1_peer_new(b1_peer **peerp, size_t pool_size)
{
	int fd, r;

	fd = open(B1_DEVICE, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = b1_peer_new_from_fd(peerp, fd, pool_size);
	if (r < 0)
		close(fd);
	return r;
}

b1_peer *b1_peer_ref(b1_peer *peer)
{
	b1__ref(&peer->refs);
	return peer;
}

/* Give back all counts and nodes that objects stand for, a batch at a time. */
static void peer_give_back_all(b1_peer *peer)
{
	uint64_t nodes[256], ids[256];
	size_t n_nodes = 0, n_ids = 0, i;
	unsigned int k;

	for (i = 0; i < b1__idmap_size(&peer->map); i++) {
		b1_handle *h = peer->map.entries[i].object;

		if (!h)
			continue;
		if (h->is_node && !atomic_exchange(&h->dead, true))
			nodes[n_nodes++] = h->id;
		for (k = 0; k < h->counts; k++) {
			ids[n_ids++] = h->id;
			if (n_ids == 256) {
				b1__give_back(peer, BUS1_CMD_HANDLE_RELEASE, ids, n_ids);
				n_ids = 0;
			}
		}
		h->counts = 0;
		if (n_nodes == 256) {
			b1__give_back(peer, BUS1_CMD_NODE_DESTROY, nodes, n_nodes);
			n_nodes = 0;
		}
	}
	b1__give_back(peer, BUS1_CMD_NODE_DESTROY, nodes, n_nodes);
	b1__give_back(peer, BUS1_CMD_NODE_DESTROY, &peer->kick, peer->kick ? 1 : 0);
	b1__give_back(peer, BUS1_CMD_HANDLE_RELEASE, ids, n_ids);
	b1__idmap_clear(&peer->map);
}

/* Requests that are kept will not be answered. */
static void peer_drop_requests(b1_peer *peer)
{
	b1_message *request;
	size_t i;

	for (i = 0; i < b1__idmap_size(&peer->requests); i++) {
		request = peer->requests.entries[i].object;
		if (!request)
			continue;
		atomic_store_explicit(&request->unanswered, false, memory_order_release);
		b1__reply_drop(peer, request->token);
	}
	b1__idmap_clear(&peer->requests);
}

/*
 * End the peer. Closing the file would do, if it could be closed: but messages
 * that are still in use lie in the pool, and another thread may be about to
 * use the descriptor by a handle. So what the peer has is given back by
 * command, and the file stays until the last object goes. Without nodes
 * nothing can arrive meanwhile.
 */
static void peer_end(b1_peer *peer)
{
	b1_watch *calls, *call;
	b1_message *message;

	b1__lock(peer);
	/* What was received and not looked at: parse it, to drop it. */
	while (peer->ready_next < peer->ready_n) {
		const struct bus1_msg *msg = &peer->ready[peer->ready_next++];

		if (msg->type != BUS1_MSG_DATA && msg->type != BUS1_MSG_CALL &&
		    (msg->type != BUS1_MSG_REPLY || msg->error))
			continue;
		if (b1__message_new(peer, &message, msg, peer->buf) < 0) {
			b1__message_discard(peer, msg, peer->buf);
			continue;
		}
		b1__unlock(peer);
		b1__message_unref_soon(message);
		b1__lock(peer);
	}
	b1__flush(peer);
	atomic_store_explicit(&peer->ended, true, memory_order_release);
	peer_give_back_all(peer);
	peer_drop_requests(peer);
	calls = b1__calls_end(peer);
	b1__unlock(peer);
	while ((call = calls)) {
		calls = call->later;
		b1__watch_unref(call);
	}
}

b1_peer *b1_peer_unref(b1_peer *peer)
{
	if (!peer || b1__forked(peer))
		return NULL;
	if (b1__unref(&peer->refs)) {
		peer_end(peer);
		b1__drop(peer);
	}
	return NULL;
}

int b1_peer_set_flags(b1_peer *peer, unsigned int flags)
{
	struct bus1_cmd_setup cmd = {
		.flags = flags & B1_PEER_PRIORITY ? BUS1_PEER_PRIORITY : 0,
	};
	int r;

	if (flags & ~(B1_PEER_PRIORITY | B1_PEER_FDS))
		return -EINVAL;
	r = b1__check(peer);
	if (r < 0)
		return r;
	b1__lock(peer);
	r = b1__command(peer, BUS1_CMD_PEER_SETUP, &cmd);
	if (r >= 0)
		peer->wants_fds = flags & B1_PEER_FDS;
	b1__unlock(peer);
	return r;
}

int b1_peer_get_fd(b1_peer *peer)
{
	return peer->fd;
}

int b1_peer_get_events(b1_peer *peer)
{
	return POLLIN;
}
