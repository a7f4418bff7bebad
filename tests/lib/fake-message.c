// SPDX-License-Identifier: GPL-2.0-or-later
/* Messages of fake.c: sent, queued and received. */
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

int fake_copy(uint64_t to, uint64_t from, uint64_t len)
{
	struct iovec l = { PTR(to), len }, r = { PTR(from), len };

	if (!len)
		return 0;
	return process_vm_readv(getpid(), &l, 1, &r, 1, 0) == (ssize_t)len ? 0 : EFAULT;
}

static int gather(const struct bus1_cmd_send *cmd, uint8_t *to)
{
	const struct bus1_iovec *iov = PTR(cmd->iovs);
	uint32_t i;
	int r;

	if (!cmd->n_iovs)
		return fake_copy((uintptr_t)to, cmd->data, cmd->len);
	for (i = r = 0; i < cmd->n_iovs && !r; i++) {
		r = fake_copy((uintptr_t)to, iov[i].base, iov[i].len);
		to += iov[i].len;
	}
	return r;
}

int fake_load(struct fake_peer *peer, const struct bus1_cmd_send *cmd, struct fake_peer *to,
	      struct fake_msg **msgp)
{
	const struct bus1_pass *passes = PTR(cmd->handles);
	const struct bus1_iovec *iov = PTR(cmd->iovs);
	uint64_t len = cmd->len;
	struct fake_msg *msg;
	uint32_t i;
	int r;

	for (i = 0; i < cmd->n_iovs; i++)
		len += iov[i].len;
	/* A sender that is alone may have as much; here it is all of the rule. */
	if (len > BUS1_MAX_PAYLOAD || (len > MAX_INLINE && len > to->pool_size / 8 * 3))
		return EMSGSIZE;
	for (i = 0; i < cmd->n_handles; i++)
		if (!fake_node_of(peer, passes[i].id))
			return ENXIO;
	msg = fake_zalloc(sizeof(*msg));
	if (len > MAX_INLINE) {
		msg->slice = fake_slice_new(to, len);
		if (!msg->slice) {
			free(msg);
			return EAGAIN;
		}
		r = gather(cmd, to->pool + msg->slice->offset);
	} else {
		r = gather(cmd, msg->data);
	}
	if (r) {
		if (msg->slice)
			fake_slice_free(to, msg->slice->id);
		free(msg);
		return r;
	}
	msg->type = BUS1_MSG_DATA;
	msg->len = len;
	msg->n_handles = cmd->n_handles;
	msg->handles = fake_zalloc((cmd->n_handles + 1) * sizeof(msg->handles[0]));
	for (i = 0; i < cmd->n_handles; i++) {
		msg->handles[i] = fake_node_of(peer, passes[i].id);
		fake_node_use(msg->handles[i]);
	}
	if (cmd->flags & BUS1_SEND_MEMFD) {
		msg->has_memfd = true;
		msg->memfd = fcntl(*(int32_t *)PTR(cmd->fds), F_DUPFD_CLOEXEC, 0);
		if (msg->memfd < 0)
			abort();
		msg->body_offset = cmd->body_offset;
		msg->body_len = cmd->body_len;
	}
	*msgp = msg;
	return 0;
}

int fake_send_one(struct fake_peer *peer, const struct bus1_cmd_send *cmd, uint64_t dest,
		  struct fake_msg **msgp)
{
	struct fake_node *node = fake_node_of(peer, dest);
	int r;

	if (!node)
		return ENXIO;
	if (!node->owner)
		return EHOSTUNREACH;
	r = fake_load(peer, cmd, node->owner, msgp);
	if (r == EAGAIN && cmd->flags & BUS1_SEND_NOTIFY && fake_held(peer, dest))
		fake_held(peer, dest)->waiting = true;
	if (r)
		return r;
	(*msgp)->node = node;
	node->refs++;
	return 0;
}

static int try_send(struct fake_peer *peer, const struct bus1_cmd_send *cmd)
{
	const uint64_t *dests = cmd->n_dests ? PTR(cmd->dests) : &cmd->dest;
	const struct bus1_pass *passes = PTR(cmd->handles);
	uint32_t i, n = cmd->n_dests ?: 1, failed = 0;
	struct fake_msg *msgs[BUS1_MAX_DESTS];
	bool partial = cmd->flags & BUS1_SEND_PARTIAL;
	int32_t *errors = PTR(cmd->errors);
	int r, first = 0;

	for (i = 0; i < cmd->n_handles; i++)
		if (!fake_node_of(peer, passes[i].id))
			return ENXIO;
	for (i = 0; i < n; i++) {
		msgs[i] = NULL;
		r = fake_send_one(peer, cmd, dests[i], &msgs[i]);
		if (errors)
			errors[i] = -r;
		first = first ?: r;
		failed += r != 0;
	}
	r = failed == n || !partial ? first : 0;
	for (i = 0; i < n; i++) {
		if (msgs[i] && r)
			fake_drop_msg(msgs[i]->node->owner, msgs[i]);
		else if (msgs[i])
			fake_enqueue(msgs[i]->node->owner, msgs[i]);
	}
	return r;
}

int fake_wait(uint64_t deadline)
{
	struct timespec until = { (time_t)(deadline / 1000000000), (long)(deadline % 1000000000) };

	return deadline ? pthread_cond_timedwait(&fake_wake, &fake_lock, &until)
			: pthread_cond_wait(&fake_wake, &fake_lock);
}

int fake_send(struct fake_peer *peer, const struct bus1_cmd_send *cmd)
{
	int r;

	if (cmd->flags & BUS1_SEND_WAIT ? cmd->flags & (BUS1_SEND_NOTIFY | BUS1_SEND_PARTIAL) : cmd->deadline)
		return EINVAL;
	while ((r = try_send(peer, cmd)) == EAGAIN && cmd->flags & BUS1_SEND_WAIT) {
		r = fake_wait(cmd->deadline);
		if (r)
			return r;
	}
	return r;
}

void fake_deliver(struct fake_peer *peer, struct fake_msg *msg, struct bus1_msg *out,
		  uint8_t *buf, uint32_t *usedp)
{
	struct bus1_handle *handles;
	struct fake_handle *h;
	uint32_t i;

	memset(out, 0, sizeof(*out));
	out->type = msg->type;
	if (msg->type == BUS1_MSG_NODE_DEAD || msg->type == BUS1_MSG_WRITABLE) {
		for (h = peer->handles; h->node != msg->node; h = h->next)
			;
		out->id = h->id;
		return;
	}
	if (msg->node) {
		out->id = msg->node->id;
		out->cookie = msg->node->cookie;
	}
	fake_call_deliver(peer, msg, out);
	out->seq = msg->type == BUS1_MSG_NODE_UNUSED ? msg->node->seq : 0;
	out->len = msg->len;
	if (msg->slice) {
		out->slice = msg->slice->id;
		out->offset = msg->slice->offset;
		msg->slice = NULL;
	} else {
		out->offset = *usedp;
		memcpy(buf + *usedp, msg->data, msg->len);
		*usedp += (msg->len + 7) & ~7U;
	}
	out->handles = *usedp;
	out->n_handles = msg->n_handles;
	handles = (void *)(buf + *usedp);
	*usedp += msg->n_handles * (uint32_t)sizeof(*handles);
	for (i = 0; i < msg->n_handles; i++) {
		struct fake_node *node = msg->handles[i];

		handles[i] = (struct bus1_handle){
			.id = fake_arrive(peer, node),
			.flags = (node->home == peer->serial ? BUS1_HANDLE_OWN : 0) |
				 (node->owner ? 0 : BUS1_HANDLE_DEAD),
			.rights = BUS1_RIGHT_SEND | BUS1_RIGHT_TRANSFER,
		};
	}
	if (msg->has_memfd) {
		out->flags |= BUS1_MSG_F_MEMFD;
		out->body_offset = msg->body_offset;
		out->body_len = msg->body_len;
		out->fds = *usedp;
		out->n_fds = 1;
		*(int32_t *)(void *)(buf + *usedp) = fcntl(msg->memfd, F_DUPFD_CLOEXEC, 0);
		*usedp += 8;
	}
}

int fake_recv(struct fake_peer *peer, struct bus1_cmd_recv *cmd)
{
	struct bus1_msg *msgs = PTR(cmd->msgs);
	uint32_t n = cmd->n_msgs, used = 0;
	struct fake_msg *msg;
	int r;

	if (cmd->n_drop) {
		struct bus1_cmd_ids ids = { .ids = cmd->drop, .n_ids = cmd->n_drop };

		r = fake_release(peer, &ids);
		if (r)
			return r;
		cmd->n_drop = 0;
	}
	if (cmd->n_release) {
		r = fake_free_slices(peer, PTR(cmd->release), cmd->n_release);
		if (r)
			return r;
		cmd->n_release = 0;
	}
	while (n && !peer->queue) {
		if (cmd->flags & BUS1_RECV_NONBLOCK)
			return EAGAIN;
		r = fake_wait(cmd->deadline);
		if (r)
			return r;
	}
	for (cmd->n_msgs = 0; cmd->n_msgs < n && peer->queue; cmd->n_msgs++) {
		uint32_t need;

		msg = peer->queue;
		need = (msg->slice ? 0 : (uint32_t)(msg->len + 7) & ~7U) +
		       msg->n_handles * (uint32_t)sizeof(struct bus1_handle) +
		       (msg->has_memfd ? 8 : 0);
		if (used + need > cmd->buf_size) {
			cmd->buf_used = cmd->n_msgs ? used : need;
			return cmd->n_msgs ? 0 : EMSGSIZE;
		}
		fake_unqueue(peer, msg);
		fake_deliver(peer, msg, &msgs[cmd->n_msgs], PTR(cmd->buf), &used);
		fake_drop_msg(peer, msg);
		if (msgs[cmd->n_msgs].type == BUS1_MSG_WRITABLE || msgs[cmd->n_msgs].type == BUS1_MSG_CALL) {
			cmd->n_msgs++;
			break;
		}
	}
	cmd->buf_used = used;
	return 0;
}
