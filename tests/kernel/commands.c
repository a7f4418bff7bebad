// SPDX-License-Identifier: GPL-2.0-or-later
#include "commands.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static u64 buffer_new(const struct scene *s)
{
	struct bus1_cmd_buffer cmd = { .fd = s->memfd };

	OK(raw(&s->a, BUS1_CMD_BUFFER_CREATE, &cmd));
	return cmd.id;
}

/* Calls both ways. One of b's threads waits, and lends its memory. */
static void calls_make(struct scene *s)
{
	u64 to_a = grant(&s->a, s->node, &s->b);
	struct in in;

	call_async(&s->b, to_a, "answered", 1);
	OK(answer_str(&s->a, s->answered = GOT_CALL(&s->a, s->node, "answered"), ""));
	call_init_str(&s->lender, &s->b, to_a, "lends");
	s->lent[0] = (struct bus1_lease){ PTR(s->memory), 64, BUS1_LEASE_READ, 0 };
	s->lent[1] = (struct bus1_lease){ PTR(s->memory), 64, BUS1_LEASE_WRITE, 0 };
	s->lender.cmd.leases = PTR(s->lent);
	s->lender.cmd.n_leases = 2;
	s->lender.cmd.reply_size = 100;
	s->lender.cmd.reply_handles = 2;
	s->lender.cmd.reply_fds = 2;
	call_start(&s->lender);
	s->token = GOT_CALL(&s->a, s->node, "lends");
	for (int i = 0; i < 2; i++)
		s->made[i] = call_async(&s->a, s->handle, "made", 1);
	do
		OK(recv_now(&s->b, &in));
	while (in.m.type != BUS1_MSG_CALL);
	s->foreign_token = in.m.token;
}

void scene_make(struct scene *s)
{
	u64 other;
	struct in in;
	u8 data[1000] = {};

	memset(s, 0, sizeof(*s));
	s->a = peer_new(1 << 16);
	s->b = peer_new(1 << 16);
	s->node = node_new(&s->a, 1);
	s->facet = facet_new(&s->a, s->node, 1);
	s->once = once_new(&s->a, s->node, 2);
	s->nodes[0] = node_new(&s->a, 2);
	s->nodes[1] = facet_new(&s->a, s->node, 3);
	s->memfd = memfd_sealed("0123456789", 10);
	s->buffer = buffer_new(s);
	s->nb = node_new(&s->b, 3);
	s->handle = grant(&s->b, s->nb, &s->a);
	other = node_new(&s->b, 4);
	s->twice = grant(&s->b, other, &s->a);
	EQ(grant(&s->b, other, &s->a), s->twice);
	s->weak = grant_as(&s->b, s->nb, &s->a, BUS1_TRANSFER_WEAK, 0);
	s->mute = grant_as(&s->b, s->nb, &s->a, 0, BUS1_RIGHT_SEND);
	s->bound = grant_as(&s->b, s->nb, &s->a, 0, BUS1_RIGHT_TRANSFER);
	other = node_new(&s->b, 5);
	s->dead = grant(&s->b, other, &s->a);
	s->weak_dead = grant_as(&s->b, other, &s->a, BUS1_TRANSFER_WEAK, 0);
	OK(destroy(&s->b, other));
	EQ(drain(&s->a), 2);
	other = node_new(&s->b, 6);
	OK(release(&s->a, s->gone = grant(&s->b, other, &s->a)));
	OK(destroy(&s->b, other));
	for (int i = 0; i < 3; i++) {
		OK(send_data(&s->a, s->node, data, sizeof(data)));
		OK(recv_now(&s->a, &in));
		if (i < 2)
			s->slices[i] = in.m.slice;
	}
	OK(slice_release(&s->a, s->gone_slice = in.m.slice));
	/* An id that b has and a has not: a made fewer things. */
	for (int i = 0; i < 100; i++)
		s->foreign = node_new(&s->b, 7);
	OK(SYS(pipe2(s->fds, O_CLOEXEC)));
	s->exported = (int)OK(export_fd(&s->a, s->node, 0));
	calls_make(s);
	/* Messages wait: the first has everything. */
	s->pass[0].id = s->handle;
	OK(send_cmd(&s->a, &(struct bus1_cmd_send){
		.dest = s->node, .data = PTR("waits"), .len = 5, .handles = PTR(s->pass),
		.n_handles = 1, .fds = PTR(s->fds), .n_fds = 1 }));
	OK(send_str(&s->a, s->node, "second"));
	drain(&s->b);
	strcpy(s->text, "0123456789abcde");
	s->before = SNAPSHOT(&s->a, &s->b);
}

void scene_end(struct scene *s)
{
	answer_drop(&s->a, s->token);
	call_join(&s->lender);
	close_fd(s->fds[0]);
	close_fd(s->fds[1]);
	close_fd(s->exported);
	close_fd(s->memfd);
	peer_close(&s->a);
	peer_close(&s->b);
}

void good_create(struct scene *s, union any_cmd *arg)
{
	arg->node = (struct bus1_cmd_node){ .cookie = 1 };
}

void good_mint(struct scene *s, union any_cmd *arg)
{
	arg->mint = (struct bus1_cmd_mint){ .node = s->node, .badge = 99 };
}

void good_destroy(struct scene *s, union any_cmd *arg)
{
	memcpy(s->ids, s->nodes, sizeof(s->nodes));
	arg->ids = (struct bus1_cmd_ids){ .ids = PTR(s->ids), .n_ids = 2 };
}

void good_release(struct scene *s, union any_cmd *arg)
{
	s->ids[0] = s->ids[2] = s->twice;
	s->ids[1] = s->weak;
	arg->ids = (struct bus1_cmd_ids){ .ids = PTR(s->ids), .n_ids = 3 };
}

void good_slice(struct scene *s, union any_cmd *arg)
{
	memcpy(s->ids, s->slices, sizeof(s->slices));
	arg->ids = (struct bus1_cmd_ids){ .ids = PTR(s->ids), .n_ids = 2 };
}

void good_transfer(struct scene *s, union any_cmd *arg)
{
	s->ids[0] = s->handle;
	s->ids[1] = s->weak;
	s->ids[2] = s->facet;
	arg->transfer = (struct bus1_cmd_transfer){
		.ids = PTR(s->ids), .out = PTR(s->out), .n_ids = 3, .peer_fd = s->b.fd,
		.drop_rights = BUS1_RIGHT_SEND };
}

void good_move(struct scene *s, union any_cmd *arg)
{
	good_transfer(s, arg);
	s->ids[2] = s->twice;
	arg->transfer.flags = BUS1_TRANSFER_MOVE | BUS1_TRANSFER_STRONG;
}

void good_export(struct scene *s, union any_cmd *arg)
{
	arg->export = (struct bus1_cmd_export){ .id = s->handle, .drop_rights = BUS1_RIGHT_SEND };
}

void good_import(struct scene *s, union any_cmd *arg)
{
	arg->import = (struct bus1_cmd_import){ .fd = s->exported };
}

void good_send(struct scene *s, union any_cmd *arg)
{
	arg->send = (struct bus1_cmd_send){
		.dest = s->handle, .data = PTR(s->text), .len = 15, .priority = 3 };
}

void good_multicast(struct scene *s, union any_cmd *arg)
{
	s->ids[0] = s->handle;
	s->ids[1] = s->facet;
	s->iovs[0] = (struct bus1_iovec){ PTR(s->text), 7 };
	s->iovs[1] = (struct bus1_iovec){ PTR(s->text + 7), 8 };
	s->pass[0] = (struct bus1_pass){ s->handle, 0, BUS1_RIGHT_SEND };
	s->pass[1] = (struct bus1_pass){ s->twice, BUS1_PASS_MOVE | BUS1_PASS_WEAK, 0 };
	s->files[0] = s->files[1] = s->fds[0];
	arg->send = (struct bus1_cmd_send){
		.flags = BUS1_SEND_ORDERED, .dests = PTR(s->ids), .n_dests = 2,
		.errors = PTR(s->errors), .iovs = PTR(s->iovs), .n_iovs = 2,
		.handles = PTR(s->pass), .n_handles = 2, .fds = PTR(s->files), .n_fds = 2 };
}

void good_recv(struct scene *s, union any_cmd *arg)
{
	arg->recv = (struct bus1_cmd_recv){
		.flags = BUS1_RECV_NONBLOCK | BUS1_RECV_FDS, .msgs = PTR(&s->m), .n_msgs = 1,
		.msg_size = sizeof(s->m), .buf = PTR(s->buf), .buf_size = 8 + 24 + 8 };
}

void good_peek(struct scene *s, union any_cmd *arg)
{
	arg->recv = (struct bus1_cmd_recv){
		.flags = BUS1_RECV_PEEK, .msgs = PTR(&s->m), .n_msgs = 1, .index = 1,
		.msg_size = sizeof(s->m), .buf = PTR(s->buf), .buf_size = 8 };
}

/* Only giving back: then no later error follows what was done. */
void good_give_back(struct scene *s, union any_cmd *arg)
{
	memcpy(s->more, s->slices, sizeof(s->slices));
	s->ids[0] = s->handle;
	s->ids[1] = s->weak;
	arg->recv = (struct bus1_cmd_recv){
		.release = PTR(s->more), .n_release = 2, .drop = PTR(s->ids), .n_drop = 2 };
}

void good_buffer(struct scene *s, union any_cmd *arg)
{
	arg->buffer = (struct bus1_cmd_buffer){ .cookie = 5, .fd = s->memfd };
}

void good_open(struct scene *s, union any_cmd *arg)
{
	arg->open = (struct bus1_cmd_open){ .id = s->buffer };
}

void good_body(struct scene *s, union any_cmd *arg)
{
	s->pass[0] = (struct bus1_pass){ s->buffer, 0, 0 };
	arg->send = (struct bus1_cmd_send){
		.flags = BUS1_SEND_BODY, .dest = s->handle, .handles = PTR(s->pass), .n_handles = 1,
		.body_offset = 3, .body_len = 7 };
}

void good_memfd(struct scene *s, union any_cmd *arg)
{
	s->files[0] = s->memfd;
	arg->send = (struct bus1_cmd_send){
		.flags = BUS1_SEND_MEMFD, .dest = s->handle, .fds = PTR(s->files), .n_fds = 1,
		.body_offset = 3, .body_len = 7 };
}

void good_setup(struct scene *s, union any_cmd *arg)
{
	arg->setup = (struct bus1_cmd_setup){ .flags = BUS1_PEER_PRIORITY };
}

void good_info(struct scene *s, union any_cmd *arg)
{
	arg->info = (struct bus1_cmd_info){};
}

void good_call(struct scene *s, union any_cmd *arg)
{
	s->pass[0] = (struct bus1_pass){ s->handle, 0, BUS1_RIGHT_SEND };
	s->files[0] = s->fds[0];
	s->more[0] = s->slices[0];
	arg->call = (struct bus1_cmd_call){
		.send = { .dest = s->handle, .data = PTR(s->text), .len = 15,
			  .handles = PTR(s->pass), .n_handles = 1, .fds = PTR(s->files), .n_fds = 1 },
		.flags = BUS1_CALL_ASYNC, .parent = s->token, .cookie = 5, .reply_size = 1000,
		.reply_handles = 3, .reply_fds = 3 };
}

/* It waits; so it is given to see what fails, and then to come to its deadline. */
void good_wait(struct scene *s, union any_cmd *arg)
{
	for (int i = 0; i < 2; i++)
		s->leases[i] = (struct bus1_lease){ PTR(s->text), 16, BUS1_LEASE_READ, 0 };
	arg->call = (struct bus1_cmd_call){
		.send = { .dest = s->handle, .data = PTR(s->text), .len = 15 },
		.recv = { .deadline = 1, .msgs = PTR(&s->m), .n_msgs = 1, .msg_size = sizeof(s->m),
			  .buf = PTR(s->buf), .buf_size = sizeof(s->buf) },
		.leases = PTR(s->leases), .n_leases = 2 };
}

void good_reply(struct scene *s, union any_cmd *arg)
{
	s->pass[0] = (struct bus1_pass){ s->handle, 0, BUS1_RIGHT_SEND };
	s->files[0] = s->fds[0];
	arg->reply = (struct bus1_cmd_reply){
		.send = { .dest = s->token, .data = PTR(s->text), .len = 15,
			  .handles = PTR(s->pass), .n_handles = 1, .fds = PTR(s->files), .n_fds = 1 } };
}

void good_next(struct scene *s, union any_cmd *arg)
{
	arg->reply = (struct bus1_cmd_reply){
		.send = { .dest = s->token, .data = PTR(s->text), .len = 15 } };
	good_recv(s, (union any_cmd *)&arg->reply.recv);
}

void good_cancel(struct scene *s, union any_cmd *arg)
{
	memcpy(s->ids, s->made, sizeof(s->made));
	arg->ids = (struct bus1_cmd_ids){ .ids = PTR(s->ids), .n_ids = 2 };
}

void good_lease(struct scene *s, union any_cmd *arg)
{
	arg->lease = (struct bus1_cmd_lease){
		.flags = BUS1_LEASE_READ, .token = s->token, .offset = 3, .data = PTR(s->text),
		.len = 15 };
}

#define F(s, f) #f, .off = offsetof(struct bus1_cmd_##s, f), \
	.size = sizeof(((struct bus1_cmd_##s *)0)->f)
#define FLAGS(s, f, mask) { F(s, f), .kind = BITS, .known = mask }
#define ZERO(s, f) FLAGS(s, f, 0)
#define COUNTED(s, f, max, p) { F(s, f), .kind = COUNT, .known = max, \
	.at = offsetof(struct bus1_cmd_##s, p) }
#define IN(s, f, bytes) { F(s, f), .kind = READ, .known = bytes }
#define OUT(s, f, bytes) { F(s, f), .kind = WRITTEN, .known = bytes }
#define END { .kind = FREE }

/* The parts of calls and replies that are commands of their own. */
#define BODIES (BUS1_SEND_BODY | BUS1_SEND_MEMFD)
#define CALL_ZERO(f) ZERO(call, send.f)
#define REPLY_ZERO(f) ZERO(reply, send.f)
#define RECV_ZERO(s) \
	ZERO(s, recv.flags), ZERO(s, recv.deadline), ZERO(s, recv.msgs), ZERO(s, recv.buf), \
	ZERO(s, recv.buf_used), ZERO(s, recv.msg_size), ZERO(s, recv.buf_size), \
	ZERO(s, recv.index), ZERO(s, recv.reserved)

#define WAITING (BUS1_SEND_WAIT | BUS1_SEND_NOTIFY)
#define RIGHTS(s) FLAGS(s, drop_rights, ALL_RIGHTS)
#define IDS(flags_, n) {							\
	FLAGS(ids, flags, flags_), ZERO(ids, reserved),				\
	COUNTED(ids, n_ids, BUS1_MAX_IDS, ids), IN(ids, ids, (n) * 8), END }

const struct command commands[] = {
	{ "NODE_CREATE", BUS1_CMD_NODE_CREATE, good_create, {
		FLAGS(node, flags, BUS1_NODE_CREDS | BUS1_NODE_NO_INHERIT), ZERO(node, id), END } },
	{ "HANDLE_MINT", BUS1_CMD_HANDLE_MINT, good_mint, {
		FLAGS(mint, flags, BUS1_MINT_ONCE), ZERO(mint, id), END } },
	{ "NODE_DESTROY", BUS1_CMD_NODE_DESTROY, good_destroy, IDS(BUS1_DESTROY_UNUSED, 2) },
	{ "HANDLE_RELEASE", BUS1_CMD_HANDLE_RELEASE, good_release, IDS(0, 3) },
	{ "SLICE_RELEASE", BUS1_CMD_SLICE_RELEASE, good_slice, IDS(0, 2) },
	{ "HANDLE_TRANSFER", BUS1_CMD_HANDLE_TRANSFER, good_transfer, {
		FLAGS(transfer, flags, 7), RIGHTS(transfer), ZERO(transfer, reserved),
		COUNTED(transfer, n_ids, BUS1_MAX_IDS, ids),
		IN(transfer, ids, 3 * 8), OUT(transfer, out, 3 * 8), END } },
	{ "HANDLE_TRANSFER that moves", BUS1_CMD_HANDLE_TRANSFER, good_move, {
		FLAGS(transfer, flags, 7), RIGHTS(transfer), ZERO(transfer, reserved),
		COUNTED(transfer, n_ids, BUS1_MAX_IDS, ids),
		IN(transfer, ids, 3 * 8), OUT(transfer, out, 3 * 8), END } },
	{ "HANDLE_EXPORT", BUS1_CMD_HANDLE_EXPORT, good_export, {
		ZERO(export, flags), RIGHTS(export), ZERO(export, fd), END } },
	{ "HANDLE_IMPORT", BUS1_CMD_HANDLE_IMPORT, good_import, {
		ZERO(import, flags), ZERO(import, handle.id), ZERO(import, handle.cookie),
		ZERO(import, handle.flags), ZERO(import, handle.rights),
		ZERO(import, reserved), END } },
	{ "SEND", BUS1_CMD_SEND, good_send, {
		FLAGS(send, flags, WAITING), ZERO(send, dests), ZERO(send, errors), ZERO(send, iovs),
		ZERO(send, handles), ZERO(send, fds), ZERO(send, reserved),
		ZERO(send, deadline), ZERO(send, body_offset), ZERO(send, body_len),
		FLAGS(send, priority, BUS1_MAX_PRIORITY),
		COUNTED(send, n_iovs, BUS1_MAX_IOVS, iovs),
		COUNTED(send, n_handles, BUS1_MAX_HANDLES, handles),
		COUNTED(send, n_fds, BUS1_MAX_FDS, fds),
		IN(send, data, 15), END } },
	{ "SEND to many", BUS1_CMD_SEND, good_multicast, {
		FLAGS(send, flags, BUS1_SEND_PARTIAL | BUS1_SEND_ORDERED | BUS1_SEND_BODY | WAITING),
		ZERO(send, dest),
		ZERO(send, data), ZERO(send, len), ZERO(send, reserved),
		FLAGS(send, priority, BUS1_MAX_PRIORITY),
		COUNTED(send, n_dests, BUS1_MAX_DESTS, dests),
		COUNTED(send, n_iovs, BUS1_MAX_IOVS, iovs),
		COUNTED(send, n_handles, BUS1_MAX_HANDLES, handles),
		COUNTED(send, n_fds, BUS1_MAX_FDS, fds),
		IN(send, dests, 2 * 8), OUT(send, errors, 2 * 4), IN(send, iovs, 2 * 16),
		IN(send, handles, 2 * 16), IN(send, fds, 2 * 4), END } },
	{ "SEND of a buffer", BUS1_CMD_SEND, good_body, {
		FLAGS(send, flags, BUS1_SEND_BODY | WAITING), ZERO(send, reserved),
		ZERO(send, deadline),
		IN(send, handles, 16), END } },
	{ "SEND of a memfd", BUS1_CMD_SEND, good_memfd, {
		FLAGS(send, flags, BUS1_SEND_MEMFD | BUS1_SEND_SHARED | WAITING), ZERO(send, reserved),
		ZERO(send, deadline), IN(send, fds, 4), END } },
	{ "RECV", BUS1_CMD_RECV, good_recv, {
		FLAGS(recv, flags, 0x1f), ZERO(recv, index), ZERO(recv, buf_used),
		ZERO(recv, reserved),
		COUNTED(recv, n_msgs, BUS1_MAX_MSGS, msgs),
		COUNTED(recv, n_release, BUS1_MAX_IDS, release),
		COUNTED(recv, n_drop, BUS1_MAX_IDS, drop),
		OUT(recv, msgs, sizeof(struct bus1_msg)), OUT(recv, buf, 8 + 24 + 8), END } },
	{ "RECV that peeks", BUS1_CMD_RECV, good_peek, {
		FLAGS(recv, flags, 0x1f), ZERO(recv, buf_used), ZERO(recv, reserved),
		OUT(recv, msgs, sizeof(struct bus1_msg)), OUT(recv, buf, 8), END } },
	{ "RECV that gives back", BUS1_CMD_RECV, good_give_back, {
		FLAGS(recv, flags, 0x1f), ZERO(recv, index), ZERO(recv, buf_used),
		ZERO(recv, reserved), ZERO(recv, msgs),
		COUNTED(recv, n_release, BUS1_MAX_IDS, release),
		COUNTED(recv, n_drop, BUS1_MAX_IDS, drop),
		IN(recv, release, 2 * 8), IN(recv, drop, 2 * 8), END } },
	{ "CALL", BUS1_CMD_CALL, good_call, {
		FLAGS(call, flags, BUS1_CALL_ASYNC | BUS1_CALL_NESTED), ZERO(call, reserved),
		ZERO(call, leases), CALL_ZERO(dests), CALL_ZERO(errors), CALL_ZERO(iovs),
		CALL_ZERO(n_dests), CALL_ZERO(reserved), CALL_ZERO(deadline),
		CALL_ZERO(body_offset), CALL_ZERO(body_len),
		FLAGS(call, send.flags, WAITING | BODIES), RECV_ZERO(call),
		FLAGS(call, send.priority, BUS1_MAX_PRIORITY),
		COUNTED(call, send.n_handles, BUS1_MAX_HANDLES, send.handles),
		COUNTED(call, send.n_fds, BUS1_MAX_FDS, send.fds),
		COUNTED(call, recv.n_release, BUS1_MAX_IDS, recv.release),
		COUNTED(call, recv.n_drop, BUS1_MAX_IDS, recv.drop),
		IN(call, send.data, 15), IN(call, send.handles, 16), IN(call, send.fds, 4), END } },
	{ "CALL that waits", BUS1_CMD_CALL, good_wait, {
		FLAGS(call, flags, BUS1_CALL_NESTED), ZERO(call, reserved),
		CALL_ZERO(dests), CALL_ZERO(errors), CALL_ZERO(handles), CALL_ZERO(fds),
		CALL_ZERO(deadline), FLAGS(call, send.flags, WAITING),
		FLAGS(call, recv.flags, BUS1_RECV_FDS | BUS1_RECV_MEMFD), ZERO(call, recv.buf_used),
		ZERO(call, recv.index), ZERO(call, recv.reserved),
		COUNTED(call, n_leases, BUS1_MAX_LEASES, leases),
		IN(call, leases, 2 * sizeof(struct bus1_lease)), IN(call, send.data, 15), END } },
	{ "REPLY", BUS1_CMD_REPLY, good_reply, {
		FLAGS(reply, flags, BUS1_REPLY_ERROR), REPLY_ZERO(dests), REPLY_ZERO(errors),
		REPLY_ZERO(iovs), REPLY_ZERO(n_dests), REPLY_ZERO(reserved), REPLY_ZERO(deadline),
		REPLY_ZERO(priority), REPLY_ZERO(body_offset), REPLY_ZERO(body_len),
		FLAGS(reply, send.flags, BODIES), RECV_ZERO(reply),
		COUNTED(reply, send.n_handles, BUS1_MAX_HANDLES, send.handles),
		COUNTED(reply, send.n_fds, BUS1_MAX_FDS, send.fds),
		COUNTED(reply, recv.n_release, BUS1_MAX_IDS, recv.release),
		COUNTED(reply, recv.n_drop, BUS1_MAX_IDS, recv.drop),
		IN(reply, send.data, 15), IN(reply, send.handles, 16), IN(reply, send.fds, 4), END } },
	{ "REPLY that receives", BUS1_CMD_REPLY, good_next, {
		FLAGS(reply, flags, BUS1_REPLY_ERROR), REPLY_ZERO(dests), REPLY_ZERO(errors),
		REPLY_ZERO(handles), REPLY_ZERO(fds), REPLY_ZERO(reserved), REPLY_ZERO(deadline),
		FLAGS(reply, recv.flags, 0x1f), ZERO(reply, recv.index), ZERO(reply, recv.buf_used),
		ZERO(reply, recv.reserved),
		IN(reply, send.data, 15), END } },
	{ "CALL_CANCEL", BUS1_CMD_CALL_CANCEL, good_cancel, IDS(0, 2) },
	{ "LEASE", BUS1_CMD_LEASE, good_lease, {
		FLAGS(lease, flags, BUS1_LEASE_READ | BUS1_LEASE_WRITE), ZERO(lease, reserved),
		OUT(lease, data, 15), END } },
	{ "PEER_SETUP", BUS1_CMD_PEER_SETUP, good_setup, {
		FLAGS(setup, flags, BUS1_PEER_PRIORITY), END } },
	{ "BUFFER_CREATE", BUS1_CMD_BUFFER_CREATE, good_buffer, {
		FLAGS(buffer, flags, BUS1_BUFFER_SHARED), ZERO(buffer, id), ZERO(buffer, size),
		ZERO(buffer, reserved), END } },
	{ "BUFFER_OPEN", BUS1_CMD_BUFFER_OPEN, good_open, {
		ZERO(open, flags), ZERO(open, size), ZERO(open, fd), ZERO(open, reserved), END } },
	{ "PEER_INFO", BUS1_CMD_PEER_INFO, good_info, {
		ZERO(info, flags), ZERO(info, pool_size), ZERO(info, pool_pages),
		ZERO(info, pool_used), ZERO(info, n_nodes), ZERO(info, n_handles),
		ZERO(info, n_queued), ZERO(info, n_slices), ZERO(info, max_inline),
		ZERO(info, n_calls), END } },
};
const size_t n_commands = ARRAY_SIZE(commands);
