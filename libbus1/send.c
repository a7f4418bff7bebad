/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sending: arguments are turned into the kernel's, and nothing is kept. */
#include <stdlib.h>

#include "internal.h"

/* Ends of the versions of struct b1_outgoing; what is shorter was never released. */
#define OUTGOING_SIZE_VER0 sizeof(struct b1_outgoing)

/*
 * Handles' ids may be read without the lock: they never change, and the caller's
 * references keep them valid.
 */
static int get_ids(b1_peer *peer, b1_handle *const *to, size_t n, uint64_t *ids)
{
	size_t i;

	for (i = 0; i < n; i++) {
		if (to[i]->peer != peer)
			return -EXDEV;
		ids[i] = to[i]->id;
	}
	return 0;
}

static int get_passes(b1_peer *peer, b1_handle *const *handles, size_t n, struct bus1_pass *passes)
{
	size_t i;

	for (i = 0; i < n; i++) {
		if (handles[i]->peer != peer)
			return -EXDEV;
		passes[i] = (struct bus1_pass){ .id = handles[i]->id };
	}
	return 0;
}

/* iov[] in the kernel's form, which on 64 bit it has already. *allocatedp is to be freed. */
static int set_iovs(struct bus1_cmd_send *cmd, const struct iovec *iov, size_t n, void **allocatedp)
{
	struct bus1_iovec *iovs = NULL;
	size_t i;

	if (n && sizeof(*iov) != sizeof(*iovs)) {
		iovs = calloc(n, sizeof(*iovs));
		if (!iovs)
			return -ENOMEM;
		for (i = 0; i < n; i++)
			iovs[i] = (struct bus1_iovec){ .base = (uintptr_t)iov[i].iov_base,
						       .len = iov[i].iov_len };
	}
	if (n)
		cmd->iovs = iovs ? (uintptr_t)iovs : (uintptr_t)iov;
	cmd->n_iovs = (uint32_t)n;
	*allocatedp = iovs;
	return 0;
}

/* What a newer program set in a longer struct must not be ignored. */
static int check_outgoing(const b1_outgoing *outgoing, size_t size)
{
	size_t i;

	if (size < OUTGOING_SIZE_VER0)
		return -EINVAL;
	for (i = sizeof(*outgoing); i < size; i++)
		if (((const uint8_t *)outgoing)[i])
			return -E2BIG;
	if (outgoing->flags & ~B1_SEND_PARTIAL || (outgoing->n_iov && (outgoing->data || outgoing->size)))
		return -EINVAL;
	if (outgoing->n_iov > BUS1_MAX_IOVS || outgoing->n_handles > BUS1_MAX_HANDLES)
		return -EMSGSIZE;
	return 0;
}

/*
 * An own node that was destroyed has no id any more, and a peer that has just
 * ended none at all: say so in the words of the header.
 */
static int explain(int r, b1_handle *to)
{
	if (r != -ENXIO)
		return r;
	if (atomic_load(&to->peer->ended))
		return -ESHUTDOWN;
	return atomic_load(&to->dead) ? -EHOSTUNREACH : r;
}

int b1_send_sized(b1_handle *const *to, size_t n_to, const b1_outgoing *outgoing,
		  size_t outgoing_size, int *errors)
{
	struct bus1_pass passes[BUS1_MAX_HANDLES];
	uint64_t dests[BUS1_MAX_DESTS];
	struct bus1_cmd_send cmd = { 0 };
	void *allocated;
	b1_peer *peer;
	size_t i;
	int r;

	if (!n_to)
		return -EINVAL;
	if (n_to > BUS1_MAX_DESTS)
		return -EMSGSIZE;
	peer = to[0]->peer;
	r = b1__check(peer);
	if (r >= 0)
		r = check_outgoing(outgoing, outgoing_size);
	if (r >= 0)
		r = get_ids(peer, to, n_to, dests);
	if (r >= 0)
		r = get_passes(peer, outgoing->handles, outgoing->n_handles, passes);
	if (r >= 0)
		r = set_iovs(&cmd, outgoing->iov, outgoing->n_iov, &allocated);
	if (r < 0)
		return r;

	if (n_to == 1 && !errors && !outgoing->flags) {
		cmd.dest = dests[0];
	} else {
		cmd.flags = outgoing->flags & B1_SEND_PARTIAL ? BUS1_SEND_PARTIAL : 0;
		cmd.dests = (uintptr_t)dests;
		cmd.n_dests = (uint32_t)n_to;
		cmd.errors = (uintptr_t)errors;
	}
	if (outgoing->size) {
		cmd.data = (uintptr_t)outgoing->data;
		cmd.len = outgoing->size;
	}
	if (outgoing->n_handles) {
		cmd.handles = (uintptr_t)passes;
		cmd.n_handles = (uint32_t)outgoing->n_handles;
	}
	r = b1__command(peer, BUS1_CMD_SEND, &cmd);
	free(allocated);
	for (i = 0; errors && i < n_to; i++)
		errors[i] = explain(errors[i], to[i]);
	for (i = 0; r == -ENXIO && i < n_to; i++)
		r = explain(r, to[i]);
	return r;
}

int b1_send_bytes(b1_handle *to, const void *data, size_t size, b1_handle *along)
{
	const b1_outgoing outgoing = {
		.data = data,
		.size = size,
		.handles = &along,
		.n_handles = along ? 1 : 0,
	};

	return b1_send(to, &outgoing);
}
