/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sending: arguments are turned into the kernel's, and nothing is kept. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

/* Ends of the versions of struct b1_outgoing; what is shorter was never released. */
#define OUTGOING_SIZE_VER0 offsetof(struct b1_outgoing, passes)

#define SEND_FLAGS (B1_SEND_PARTIAL | B1_SEND_ORDERED | B1_SEND_TAKE_FDS)

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

/* The buffer and the handles of both arrays, in the kernel's form but for moves. */
static int get_passes(b1_peer *peer, const b1_outgoing *out, struct bus1_pass *passes)
{
	const b1_pass *pass;
	size_t i;

	if (out->buffer && out->buffer->peer != peer)
		return -EXDEV;
	if (out->buffer)
		*passes++ = (struct bus1_pass){ .id = out->buffer->id };
	for (i = 0; i < out->n_handles; i++) {
		if (out->handles[i]->peer != peer)
			return -EXDEV;
		*passes++ = (struct bus1_pass){ .id = out->handles[i]->id };
	}
	for (pass = out->passes; pass < out->passes + out->n_passes; pass++) {
		if (pass->handle->peer != peer)
			return -EXDEV;
		if (pass->flags & ~(B1_PASS_MOVE | B1_PASS_WEAK) || pass->drop_rights & ~FLAGS_ALL)
			return -EINVAL;
		if (pass->flags & B1_PASS_MOVE && pass->handle->is_node)
			return -EPERM;
		*passes++ = (struct bus1_pass){
			.id = pass->handle->id,
			.flags = pass->flags & B1_PASS_WEAK ? BUS1_PASS_WEAK : 0,
			.drop_rights =
				(pass->drop_rights & B1_RIGHT_SEND ? BUS1_RIGHT_SEND : 0) |
				(pass->drop_rights & B1_RIGHT_TRANSFER ? BUS1_RIGHT_TRANSFER : 0),
		};
	}
	return 0;
}

/*
 * Moves. The caller's reference to the object always goes; a count in the
 * kernel goes if it can be spared, that is, if there are more, or nobody else
 * has a reference. It is taken off the object's before the send, so that
 * meanwhile nobody gives it back. `passes` are those of out->passes.
 */
static void start_moves(b1_peer *peer, const b1_outgoing *out, struct bus1_pass *passes)
{
	b1_handle *handle;
	size_t i;

	b1__lock(peer);
	for (i = 0; i < out->n_passes; i++) {
		handle = out->passes[i].handle;
		if (!(out->passes[i].flags & B1_PASS_MOVE) || !handle->counts)
			continue;
		if (handle->counts == 1 && atomic_load(&handle->refs) > 1)
			continue;
		handle->counts--;
		passes[i].flags |= BUS1_PASS_MOVE;
	}
	b1__unlock(peer);
}

static void undo_moves(b1_peer *peer, const b1_outgoing *out, const struct bus1_pass *passes)
{
	b1_handle *handle;
	size_t i;

	b1__lock(peer);
	for (i = 0; i < out->n_passes; i++) {
		handle = out->passes[i].handle;
		if (!(passes[i].flags & BUS1_PASS_MOVE))
			continue;
		if (atomic_load(&peer->ended))
			b1__give_back(peer, BUS1_CMD_HANDLE_RELEASE, &handle->id, 1);
		else
			handle->counts++;
	}
	b1__unlock(peer);
}

void b1__outgoing_take(const b1_outgoing *out)
{
	size_t i;

	for (i = 0; i < out->n_passes; i++)
		if (out->passes[i].flags & B1_PASS_MOVE)
			b1_handle_unref(out->passes[i].handle);
	if (out->flags & B1_SEND_TAKE_FDS)
		for (i = 0; i < out->n_fds; i++)
			close(out->fds[i]);
}

void b1__send_spend(b1_handle *const *to, size_t n, const int *errors)
{
	b1_peer *peer = to[0]->peer;
	size_t i;

	for (i = 0; i < n; i++) {
		if (!(atomic_load(&to[i]->flags) & B1_HANDLE_ONCE) || errors[i])
			continue;
		b1__lock(peer);
		if (to[i]->counts)
			to[i]->counts--;
		atomic_store_explicit(&to[i]->dead, true, memory_order_release);
		b1__unlock(peer);
	}
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

/*
 * Copies what an older program's struct has. What a newer one set in a longer
 * struct must not be ignored.
 */
static int read_outgoing(b1_outgoing *out, const b1_outgoing *outgoing, size_t size, uint64_t flags)
{
	size_t i;

	if (size < OUTGOING_SIZE_VER0)
		return -EINVAL;
	for (i = sizeof(*outgoing); i < size; i++)
		if (((const uint8_t *)outgoing)[i])
			return -E2BIG;
	memcpy(out, outgoing, size < sizeof(*out) ? size : sizeof(*out));
	if (out->flags & ~flags || (out->n_iov && (out->data || out->size)) ||
	    out->priority > BUS1_MAX_PRIORITY ||
	    (!out->buffer && (out->buffer_offset || out->buffer_size)))
		return -EINVAL;
	/* Who wants some to get it does not wait for all. */
	if (out->deadline && out->flags & B1_SEND_PARTIAL)
		return -EINVAL;
	if (out->n_iov > BUS1_MAX_IOVS || out->n_fds > BUS1_MAX_FDS)
		return -EMSGSIZE;
	if (out->n_handles > BUS1_MAX_HANDLES || out->n_passes > BUS1_MAX_HANDLES ||
	    out->n_handles + out->n_passes + !!out->buffer > BUS1_MAX_HANDLES)
		return -EMSGSIZE;
	return 0;
}

int b1__send_explain(int r, b1_handle *to, bool sure)
{
	if (r != -ENXIO)
		return r;
	if (atomic_load(&to->peer->ended))
		return -ESHUTDOWN;
	return sure || atomic_load(&to->dead) ? -EHOSTUNREACH : r;
}

/* All but the destinations, and the parts of the payload. */
static void set_load(struct bus1_cmd_send *cmd, const b1_outgoing *out,
		     const struct bus1_pass *passes)
{
	cmd->flags = (out->flags & B1_SEND_PARTIAL ? BUS1_SEND_PARTIAL : 0) |
		     (out->flags & B1_SEND_ORDERED ? BUS1_SEND_ORDERED : 0);
	if (out->size) {
		cmd->data = (uintptr_t)out->data;
		cmd->len = out->size;
	}
	if (out->buffer) {
		cmd->flags |= BUS1_SEND_BODY;
		cmd->body_offset = out->buffer_offset;
		cmd->body_len = out->buffer_size;
	}
	cmd->n_handles = (uint32_t)(!!out->buffer + out->n_handles + out->n_passes);
	if (cmd->n_handles)
		cmd->handles = (uintptr_t)passes;
	cmd->n_fds = (uint32_t)out->n_fds;
	if (cmd->n_fds)
		cmd->fds = (uintptr_t)out->fds;
	cmd->priority = (uint32_t)out->priority;
}

void b1__send_notify(struct bus1_cmd_send *cmd, const b1_handle *to)
{
	if (atomic_load_explicit(&to->n_writable, memory_order_relaxed))
		cmd->flags |= BUS1_SEND_NOTIFY;
}

/* If there is no room: wait, or have a notice, if anyone watches for that. */
static void set_wait(struct bus1_cmd_send *cmd, const b1_outgoing *out, b1_handle *const *to,
		     size_t n)
{
	if (out->deadline) {
		cmd->flags |= BUS1_SEND_WAIT;
		cmd->deadline = out->deadline == UINT64_MAX ? 0 : out->deadline;
		return;
	}
	while (n > 0)
		b1__send_notify(cmd, to[--n]);
}

/* One of the handles that go along may be what is not known. */
bool b1__load_any_dead(const struct load *load)
{
	const b1_outgoing *out = &load->out;
	size_t i;

	if (out->buffer && atomic_load(&out->buffer->dead))
		return true;
	for (i = 0; i < out->n_handles; i++)
		if (atomic_load(&out->handles[i]->dead))
			return true;
	for (i = 0; i < out->n_passes; i++)
		if (atomic_load(&out->passes[i].handle->dead))
			return true;
	return false;
}

static bool any_once(b1_handle *const *to, size_t n)
{
	while (n > 0)
		if (atomic_load(&to[--n]->flags) & B1_HANDLE_ONCE)
			return true;
	return false;
}

int b1__load(struct load *load, b1_peer *peer, struct bus1_cmd_send *cmd, const b1_outgoing *outgoing,
	     size_t outgoing_size, uint64_t flags)
{
	int r;

	load->out = (b1_outgoing){ 0 };
	r = read_outgoing(&load->out, outgoing, outgoing_size, flags);
	if (r >= 0)
		r = get_passes(peer, &load->out, load->passes);
	if (r >= 0)
		r = set_iovs(cmd, load->out.iov, load->out.n_iov, &load->allocated);
	if (r < 0)
		return r;
	load->moves = load->passes + !!load->out.buffer + load->out.n_handles;
	set_load(cmd, &load->out, load->passes);
	return 0;
}

void b1__load_move(struct load *load, b1_peer *peer)
{
	if (load->out.n_passes)
		start_moves(peer, &load->out, load->moves);
}

/*
 * Inline or by the pool is the kernel's choice, and what is best wherever the pool can
 * hold it: a memfd costs several times the copy, in memory that is made, sealed, mapped and
 * freed (docs/performance.md). So a memfd is for what is larger than a receiver's pool
 * has room for when it is empty, or than any payload may be.
 */
int b1__load_command(struct load *load, b1_peer *peer, struct bus1_cmd_send *cmd,
		     unsigned long command, void *whole)
{
	const b1_outgoing *out = &load->out;
	const struct iovec one = { .iov_base = (void *)(uintptr_t)out->data, .iov_len = out->size };
	const struct iovec *iov = out->n_iov ? out->iov : &one;
	size_t i, n = out->n_iov ? out->n_iov : 1;
	struct bus1_cmd_send before;
	uint64_t size = 0;
	int fd, r;

	r = b1__command(peer, command, whole);
	/* It has one body at most, and a memfd comes alone. */
	if (r != -EMSGSIZE || out->n_fds || out->buffer)
		return r;
	for (i = 0; i < n; i++)
		if (__builtin_add_overflow(size, iov[i].iov_len, &size))
			return r;
	if (!size)
		return r;
	fd = b1__memfd_new(iov, n);
	if (fd < 0)
		return command == BUS1_CMD_REPLY ? r : fd;
	before = *cmd;
	cmd->flags |= BUS1_SEND_MEMFD;
	cmd->data = cmd->len = cmd->iovs = cmd->n_iovs = 0;
	cmd->fds = (uintptr_t)&fd;
	cmd->n_fds = 1;
	cmd->body_len = size;
	r = b1__command(peer, command, whole);
	close(fd);
	/* It may be repeated. */
	before.dest = cmd->dest;
	*cmd = before;
	return r;
}

void b1__load_end(struct load *load, b1_peer *peer, int r)
{
	if (r >= 0)
		b1__outgoing_take(&load->out);
	else if (load->out.n_passes)
		undo_moves(peer, &load->out, load->moves);
	free(load->allocated);
}

int b1_send_sized(b1_handle *const *to, size_t n_to, const b1_outgoing *outgoing,
		  size_t outgoing_size, int *errors)
{
	uint64_t dests[BUS1_MAX_DESTS];
	int own_errors[BUS1_MAX_DESTS];
	struct bus1_cmd_send cmd = { 0 };
	struct load load;
	b1_peer *peer;
	bool once;
	size_t i;
	int r;

	if (!n_to)
		return -EINVAL;
	if (n_to > BUS1_MAX_DESTS)
		return -EMSGSIZE;
	peer = to[0]->peer;
	r = b1__check(peer);
	if (r >= 0)
		r = get_ids(peer, to, n_to, dests);
	if (r >= 0)
		r = b1__load(&load, peer, &cmd, outgoing, outgoing_size, SEND_FLAGS);
	if (r < 0)
		return r;

	once = any_once(to, n_to);
	if (once && !errors)
		errors = own_errors;
	if (errors)
		memset(errors, 0, n_to * sizeof(errors[0]));
	if (n_to == 1 && !(load.out.flags & ~B1_SEND_TAKE_FDS) && (!errors || errors == own_errors)) {
		cmd.dest = dests[0];
	} else {
		cmd.dests = (uintptr_t)dests;
		cmd.n_dests = (uint32_t)n_to;
		cmd.errors = (uintptr_t)errors;
	}
	set_wait(&cmd, &load.out, to, n_to);

	b1__load_move(&load, peer);
	r = b1__load_command(&load, peer, &cmd, BUS1_CMD_SEND, &cmd);
	if (r >= 0 && once)
		b1__send_spend(to, n_to, errors);
	b1__load_end(&load, peer, r);
	for (i = 0; errors && i < n_to; i++) {
		errors[i] = b1__send_explain(errors[i], to[i], true);
		if (r == -ENXIO && errors[i])
			r = errors[i];
	}
	for (i = 0; r == -ENXIO && i < n_to; i++)
		r = b1__send_explain(r, to[i], n_to == 1 && !b1__load_any_dead(&load));
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
