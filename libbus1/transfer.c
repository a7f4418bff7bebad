/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Getting handles without a message: between peers, and by file descriptors. */
#include "internal.h"

/* What a command that gives `peer` one handle is to do. Returns 0 or -errno. */
struct giver {
	int (*give)(struct giver *giver, b1_peer *peer, uint64_t *idp);
	b1_peer *from;		/* of transfers */
	uint64_t id;
	uint64_t transfer_flags;
	unsigned int drop_rights;
	int fd;			/* of imports */
	unsigned int flags;	/* of the handle that arrives, as far as they are known */
	bool is_dead;
};

/*
 * Get a handle, and find or make the object for what it became. Its object must
 * be in the map before a notice about it can be looked at, so the lock is held
 * all the while. What waits to be given back goes first: a handle that lives
 * on only in that may have had its notice.
 */
static int get(b1_peer *peer, b1_handle **handlep, struct giver *giver)
{
	b1_handle *spare;
	uint64_t id = 0;
	bool fresh;
	int r;

	spare = b1__handle_alloc(peer);
	if (!spare)
		return -ENOMEM;
	b1__lock(peer);
	if (peer->n_drops)
		b1__flush(peer);
	r = atomic_load(&peer->ended) ? -ESHUTDOWN : b1__idmap_reserve(&peer->map, 1);
	if (r >= 0)
		r = giver->give(giver, peer, &id);
	if (r >= 0) {
		*handlep = b1__handle_arrived(peer, id, giver->flags, &spare);
		fresh = !spare;
		if (fresh && giver->is_dead)
			atomic_store(&(*handlep)->dead, true);
	}
	b1__unlock(peer);
	b1__handle_free(spare);
	return r;
}

static int give_transfer(struct giver *giver, b1_peer *peer, uint64_t *idp)
{
	struct bus1_cmd_transfer cmd = {
		.flags = giver->transfer_flags,
		.ids = (uintptr_t)&giver->id,
		.out = (uintptr_t)idp,
		.n_ids = 1,
		.peer_fd = peer->fd,
		.drop_rights = giver->drop_rights,
	};

	return b1__command(giver->from, BUS1_CMD_HANDLE_TRANSFER, &cmd);
}

int b1_handle_from_id(b1_peer *peer, b1_handle **handlep, uint64_t id)
{
	/* A move to itself changes nothing, and fails if there is no such handle. */
	struct giver giver = {
		.give = give_transfer,
		.from = peer,
		.id = id,
		.transfer_flags = BUS1_TRANSFER_MOVE,
		.flags = FLAGS_UNKNOWN,
	};
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	return get(peer, handlep, &giver);
}

static unsigned int rights(unsigned int b1_rights)
{
	return (b1_rights & B1_RIGHT_SEND ? BUS1_RIGHT_SEND : 0) |
	       (b1_rights & B1_RIGHT_TRANSFER ? BUS1_RIGHT_TRANSFER : 0);
}

int b1_handle_transfer_as(b1_handle *handle, b1_peer *peer, b1_handle **handlep,
			  unsigned int flags, unsigned int drop_rights)
{
	struct giver giver = {
		.give = give_transfer,
		.from = handle->peer,
		.id = handle->id,
		.transfer_flags = (flags & B1_PASS_WEAK ? BUS1_TRANSFER_WEAK : 0) |
				  (flags & B1_PASS_STRONG ? BUS1_TRANSFER_STRONG : 0),
		.drop_rights = rights(drop_rights),
		.flags = atomic_load(&handle->flags),
	};
	int r;

	if (flags & ~(B1_PASS_WEAK | B1_PASS_STRONG) || drop_rights & ~FLAGS_ALL)
		return -EINVAL;
	r = b1__check(handle->peer);
	if (r >= 0)
		r = b1__check(peer);
	if (r < 0)
		return r;
	if (giver.flags & FLAGS_UNKNOWN)
		giver.flags = FLAGS_UNKNOWN;
	else
		giver.flags &= ~(FLAGS_OWN | drop_rights);
	if (flags & B1_PASS_WEAK)
		giver.flags |= B1_HANDLE_WEAK;
	if (flags & B1_PASS_STRONG)
		giver.flags &= ~B1_HANDLE_WEAK;
	return get(peer, handlep, &giver);
}

int b1_handle_transfer(b1_handle *handle, b1_peer *peer, b1_handle **handlep)
{
	return b1_handle_transfer_as(handle, peer, handlep, 0, 0);
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

int b1_handle_export(b1_handle *handle, int *fdp, unsigned int drop_rights)
{
	struct bus1_cmd_export cmd = { .id = handle->id, .drop_rights = rights(drop_rights) };
	int r;

	if (drop_rights & ~FLAGS_ALL)
		return -EINVAL;
	r = b1__check(handle->peer);
	if (r >= 0)
		r = b1__command(handle->peer, BUS1_CMD_HANDLE_EXPORT, &cmd);
	if (r < 0)
		return r;
	*fdp = cmd.fd;
	return 0;
}

static int give_import(struct giver *giver, b1_peer *peer, uint64_t *idp)
{
	struct bus1_cmd_import cmd = { .fd = giver->fd };
	int r;

	r = b1__command(peer, BUS1_CMD_HANDLE_IMPORT, &cmd);
	if (r < 0)
		return r;
	giver->flags = b1__handle_flags(&cmd.handle);
	giver->is_dead = cmd.handle.flags & BUS1_HANDLE_DEAD;
	*idp = cmd.handle.id;
	return 0;
}

int b1_handle_import(b1_peer *peer, b1_handle **handlep, int fd)
{
	struct giver giver = { .give = give_import, .fd = fd };
	int r;

	r = b1__check(peer);
	if (r < 0)
		return r;
	return get(peer, handlep, &giver);
}
