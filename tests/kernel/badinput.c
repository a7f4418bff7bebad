// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ABI-2, systematically: each command in a form that works, and from there each of
 * its fields spoilt in every way by itself. The errno is the documented one, and
 * nothing has changed, neither in the peers nor in what the module counts.
 * (Sizes of structs, and structs that cannot be read, are in args.c.)
 */
#include "call.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Two peers; the first has something of every kind, and is who commands. */
struct scene {
	struct peer a, b;
	u64 node, facet, once;		/* a's */
	u64 buffer;			/* likewise */
	u64 nodes[2];			/* more of a's, that are there to be destroyed */
	u64 handle, twice;		/* of one count, and of two */
	u64 weak, mute, bound;		/* without the right to send, to transfer */
	u64 dead, weak_dead;
	u64 gone, gone_slice, foreign;	/* ids that are none of a's */
	u64 slices[2];
	u64 nb;
	int fds[2], exported, memfd;
	u64 made[2];			/* calls of a's, asynchronous */
	u64 token;			/* a request that a serves */
	u64 answered, foreign_token;	/* that are none of a's any more, or never were */
	struct call lender;		/* of b's, which waits for `token` */
	struct snapshot before;

	/* What the commands point at. */
	u64 ids[3], out[3], more[2];
	s32 errors[3], files[2];
	struct bus1_iovec iovs[2];
	struct bus1_pass pass[2];
	struct bus1_msg m;
	u64 buf[32];
	char text[16];
	struct bus1_lease leases[2], lent[2];
	char memory[64];
};

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

static void scene_make(struct scene *s)
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

static void scene_end(struct scene *s)
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

union arg {
	struct bus1_cmd_node node;
	struct bus1_cmd_mint mint;
	struct bus1_cmd_ids ids;
	struct bus1_cmd_transfer transfer;
	struct bus1_cmd_export export;
	struct bus1_cmd_import import;
	struct bus1_cmd_send send;
	struct bus1_cmd_recv recv;
	struct bus1_cmd_setup setup;
	struct bus1_cmd_info info;
	struct bus1_cmd_buffer buffer;
	struct bus1_cmd_open open;
	struct bus1_cmd_call call;
	struct bus1_cmd_reply reply;
	struct bus1_cmd_lease lease;
	u8 bytes[512];
};

/* Each command as it works: in `arg`, pointing into the scene. */
static void good_create(struct scene *s, union arg *arg)
{
	arg->node = (struct bus1_cmd_node){ .cookie = 1 };
}

static void good_mint(struct scene *s, union arg *arg)
{
	arg->mint = (struct bus1_cmd_mint){ .node = s->node, .badge = 99 };
}

static void good_destroy(struct scene *s, union arg *arg)
{
	memcpy(s->ids, s->nodes, sizeof(s->nodes));
	arg->ids = (struct bus1_cmd_ids){ .ids = PTR(s->ids), .n_ids = 2 };
}

static void good_release(struct scene *s, union arg *arg)
{
	s->ids[0] = s->ids[2] = s->twice;
	s->ids[1] = s->weak;
	arg->ids = (struct bus1_cmd_ids){ .ids = PTR(s->ids), .n_ids = 3 };
}

static void good_slice(struct scene *s, union arg *arg)
{
	memcpy(s->ids, s->slices, sizeof(s->slices));
	arg->ids = (struct bus1_cmd_ids){ .ids = PTR(s->ids), .n_ids = 2 };
}

static void good_transfer(struct scene *s, union arg *arg)
{
	s->ids[0] = s->handle;
	s->ids[1] = s->weak;
	s->ids[2] = s->facet;
	arg->transfer = (struct bus1_cmd_transfer){
		.ids = PTR(s->ids), .out = PTR(s->out), .n_ids = 3, .peer_fd = s->b.fd,
		.drop_rights = BUS1_RIGHT_SEND };
}

static void good_move(struct scene *s, union arg *arg)
{
	good_transfer(s, arg);
	s->ids[2] = s->twice;
	arg->transfer.flags = BUS1_TRANSFER_MOVE | BUS1_TRANSFER_STRONG;
}

static void good_export(struct scene *s, union arg *arg)
{
	arg->export = (struct bus1_cmd_export){ .id = s->handle, .drop_rights = BUS1_RIGHT_SEND };
}

static void good_import(struct scene *s, union arg *arg)
{
	arg->import = (struct bus1_cmd_import){ .fd = s->exported };
}

static void good_send(struct scene *s, union arg *arg)
{
	arg->send = (struct bus1_cmd_send){
		.dest = s->handle, .data = PTR(s->text), .len = 15, .priority = 3 };
}

static void good_multicast(struct scene *s, union arg *arg)
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

static void good_recv(struct scene *s, union arg *arg)
{
	arg->recv = (struct bus1_cmd_recv){
		.flags = BUS1_RECV_NONBLOCK | BUS1_RECV_FDS, .msgs = PTR(&s->m), .n_msgs = 1,
		.msg_size = sizeof(s->m), .buf = PTR(s->buf), .buf_size = 8 + 24 + 8 };
}

static void good_peek(struct scene *s, union arg *arg)
{
	arg->recv = (struct bus1_cmd_recv){
		.flags = BUS1_RECV_PEEK, .msgs = PTR(&s->m), .n_msgs = 1, .index = 1,
		.msg_size = sizeof(s->m), .buf = PTR(s->buf), .buf_size = 8 };
}

/* Only giving back: then no later error follows what was done. */
static void good_give_back(struct scene *s, union arg *arg)
{
	memcpy(s->more, s->slices, sizeof(s->slices));
	s->ids[0] = s->handle;
	s->ids[1] = s->weak;
	arg->recv = (struct bus1_cmd_recv){
		.release = PTR(s->more), .n_release = 2, .drop = PTR(s->ids), .n_drop = 2 };
}

static void good_buffer(struct scene *s, union arg *arg)
{
	arg->buffer = (struct bus1_cmd_buffer){ .cookie = 5, .fd = s->memfd };
}

static void good_open(struct scene *s, union arg *arg)
{
	arg->open = (struct bus1_cmd_open){ .id = s->buffer };
}

static void good_body(struct scene *s, union arg *arg)
{
	s->pass[0] = (struct bus1_pass){ s->buffer, 0, 0 };
	arg->send = (struct bus1_cmd_send){
		.flags = BUS1_SEND_BODY, .dest = s->handle, .handles = PTR(s->pass), .n_handles = 1,
		.body_offset = 3, .body_len = 7 };
}

static void good_memfd(struct scene *s, union arg *arg)
{
	s->files[0] = s->memfd;
	arg->send = (struct bus1_cmd_send){
		.flags = BUS1_SEND_MEMFD, .dest = s->handle, .fds = PTR(s->files), .n_fds = 1,
		.body_offset = 3, .body_len = 7 };
}

static void good_setup(struct scene *s, union arg *arg)
{
	arg->setup = (struct bus1_cmd_setup){ .flags = BUS1_PEER_PRIORITY };
}

static void good_info(struct scene *s, union arg *arg)
{
	arg->info = (struct bus1_cmd_info){};
}

static void good_call(struct scene *s, union arg *arg)
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
static void good_wait(struct scene *s, union arg *arg)
{
	for (int i = 0; i < 2; i++)
		s->leases[i] = (struct bus1_lease){ PTR(s->text), 16, BUS1_LEASE_READ, 0 };
	arg->call = (struct bus1_cmd_call){
		.send = { .dest = s->handle, .data = PTR(s->text), .len = 15 },
		.recv = { .deadline = 1, .msgs = PTR(&s->m), .n_msgs = 1, .msg_size = sizeof(s->m),
			  .buf = PTR(s->buf), .buf_size = sizeof(s->buf) },
		.leases = PTR(s->leases), .n_leases = 2 };
}

static void good_reply(struct scene *s, union arg *arg)
{
	s->pass[0] = (struct bus1_pass){ s->handle, 0, BUS1_RIGHT_SEND };
	s->files[0] = s->fds[0];
	arg->reply = (struct bus1_cmd_reply){
		.send = { .dest = s->token, .data = PTR(s->text), .len = 15,
			  .handles = PTR(s->pass), .n_handles = 1, .fds = PTR(s->files), .n_fds = 1 } };
}

static void good_next(struct scene *s, union arg *arg)
{
	arg->reply = (struct bus1_cmd_reply){
		.send = { .dest = s->token, .data = PTR(s->text), .len = 15 } };
	good_recv(s, (union arg *)&arg->reply.recv);
}

static void good_cancel(struct scene *s, union arg *arg)
{
	memcpy(s->ids, s->made, sizeof(s->made));
	arg->ids = (struct bus1_cmd_ids){ .ids = PTR(s->ids), .n_ids = 2 };
}

static void good_lease(struct scene *s, union arg *arg)
{
	arg->lease = (struct bus1_cmd_lease){
		.flags = BUS1_LEASE_READ, .token = s->token, .offset = 3, .data = PTR(s->text),
		.len = 15 };
}

enum kind {
	BITS,		/* any bit but those of `known` is EINVAL */
	COUNT,		/* of what `at` points to, up to `known`; above is EMSGSIZE */
	READ,		/* pointer to `known` bytes that are read */
	WRITTEN,	/* that are written; none of it may be read-only */
	FREE,		/* end of the table */
};

struct field {
	const char *name;
	enum kind kind;
	size_t off, size;
	u64 known;
	size_t at;
};

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

static const struct command {
	const char *name;
	unsigned long cmd;
	void (*good)(struct scene *s, union arg *arg);
	struct field fields[40];
} commands[] = {
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
		FLAGS(call, send.flags, BUS1_SEND_WAIT | BODIES), RECV_ZERO(call),
		FLAGS(call, send.priority, BUS1_MAX_PRIORITY),
		COUNTED(call, send.n_handles, BUS1_MAX_HANDLES, send.handles),
		COUNTED(call, send.n_fds, BUS1_MAX_FDS, send.fds),
		COUNTED(call, recv.n_release, BUS1_MAX_IDS, recv.release),
		COUNTED(call, recv.n_drop, BUS1_MAX_IDS, recv.drop),
		IN(call, send.data, 15), IN(call, send.handles, 16), IN(call, send.fds, 4), END } },
	{ "CALL that waits", BUS1_CMD_CALL, good_wait, {
		FLAGS(call, flags, BUS1_CALL_NESTED), ZERO(call, reserved),
		CALL_ZERO(dests), CALL_ZERO(errors), CALL_ZERO(handles), CALL_ZERO(fds),
		CALL_ZERO(deadline), FLAGS(call, send.flags, BUS1_SEND_WAIT),
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

static void set(union arg *arg, const struct field *f, u64 value)
{
	memcpy(&arg->bytes[f->off], &value, f->size);
}

static void set_at(union arg *arg, size_t off, u64 value)
{
	memcpy(&arg->bytes[off], &value, sizeof(value));
}

/* It fails with err, and changes nothing. */
static void bad(struct scene *s, const struct command *c, const union arg *arg, int err,
		const char *field, u64 value)
{
	union arg copy = *arg;
	struct snapshot now;
	int r = raw(&s->a, c->cmd, &copy);

	if (r != -err)
		FAIL("%s, %s %#llx: %s, should be %s", c->name, field, (unsigned long long)value,
		     r ? strerrorname_np(-r) : "no error", strerrorname_np(err));
	/* What the module counts is read less often: that takes longer. */
	now = s->before;
	now.counted = false;
	SAME_SNAPSHOT(&now);
}

static void spoil_field(struct scene *s, const struct command *c, const union arg *good,
			const struct field *f)
{
	union arg arg = *good;
	u64 was = 0;

	memcpy(&was, &good->bytes[f->off], f->size);
	switch (f->kind) {
	case BITS:
		for (size_t bit = 0; bit < f->size * 8; bit++) {
			u64 value = was | 1ULL << bit;

			if (f->known >> bit & 1)
				continue;
			set(&arg, f, value);
			bad(s, c, &arg, EINVAL, f->name, value);
		}
		break;
	case COUNT: {
		u64 counts[] = { f->known + 1, f->known * 2, 0x20000001, 0x7fffffff, 0x80000000,
				 0xffffffff };

		/* A payload in two forms would be another mistake. */
		if (c->good == good_send && !strcmp(f->name, "n_iovs"))
			arg.send.data = arg.send.len = 0;
		/* Nothing is read before: there is nothing at 8. */
		set_at(&arg, f->at, 8);
		for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
			set(&arg, f, counts[i]);
			bad(s, c, &arg, EMSGSIZE, f->name, counts[i]);
		}
		/* And what is said to be there has to be. */
		set(&arg, f, f->known);
		bad(s, c, &arg, EFAULT, f->name, f->known);
		set_at(&arg, f->at, 0);
		bad(s, c, &arg, EFAULT, f->name, 0);
		break;
	}
	case READ:
	case WRITTEN: {
		u8 *mem = (u8 *)(uintptr_t)was;

		for (size_t i = 0; i < n_bad_addresses; i++) {
			/* buf[] has to be aligned, others need not. */
			set(&arg, f, bad_addresses[i]);
			bad(s, c, &arg, EFAULT, f->name, bad_addresses[i]);
		}
		set(&arg, f, 0);
		if (strcmp(f->name, "errors"))		/* which may be left out */
			bad(s, c, &arg, EFAULT, f->name, 0);
		/* It ends too early, by all of it, by half, by a word. */
		for (size_t there = 0; there < f->known; there += 4) {
			u8 *edge = edge_alloc((there + 7) / 8 * 8);

			if (there % 8 && strcmp(f->name, "buf"))
				edge += 8 - there % 8;
			else if (there % 8)
				continue;
			memcpy(edge, mem, there);
			set(&arg, f, PTR(edge));
			bad(s, c, &arg, EFAULT, f->name, there);
		}
		if (f->kind == WRITTEN) {
			set(&arg, f, PTR(read_only(mem, f->known)));
			bad(s, c, &arg, EFAULT, "read-only", was);
		}
		break;
	}
	default:
		break;
	}
}

static void spoil(const struct command *c)
{
	static struct scene s;
	union arg good = {};
	int r;

	scene_make(&s);
	c->good(&s, &good);
	for (const struct field *f = c->fields; f->kind != FREE; f++)
		spoil_field(&s, c, &good, f);
	SAME_SNAPSHOT(&s.before);
	/* All the while there was nothing wrong with the rest. */
	r = raw(&s.a, c->cmd, &good);
	if (r != (c->good == good_wait ? -ETIMEDOUT : 0))
		FAIL("%s: %s, should work", c->name, strerrorname_np(-r));
	if (c->good == good_export)
		close_fd(good.export.fd);
	if (c->good == good_open)
		close_fd(good.open.fd);
	scene_end(&s);
}

static bool is_of_calls(const struct command *c)
{
	return c->cmd == BUS1_CMD_CALL || c->cmd == BUS1_CMD_REPLY ||
	       c->cmd == BUS1_CMD_CALL_CANCEL || c->cmd == BUS1_CMD_LEASE;
}

TEST("ABI-2 each field of CALL, REPLY, CALL_CANCEL and LEASE, spoilt by itself")
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (is_of_calls(&commands[i]))
			spoil(&commands[i]);
}

TEST("ABI-2 each field of the commands on nodes and handles, spoilt by itself")
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i].cmd != BUS1_CMD_SEND && commands[i].cmd != BUS1_CMD_RECV &&
		    !is_of_calls(&commands[i]))
			spoil(&commands[i]);
}

TEST("ABI-2 each field of SEND, spoilt by itself")
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i].cmd == BUS1_CMD_SEND)
			spoil(&commands[i]);
}

TEST("ABI-2 each field of RECV, spoilt by itself")
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i].cmd == BUS1_CMD_RECV)
			spoil(&commands[i]);
}

/* Which ids are wrong in which place, and what is said to it. */
#define ID(name) #name, offsetof(struct scene, name)
static const struct wrong {
	void (*good)(struct scene *s, union arg *arg);
	const char *place;
	size_t array, stride;		/* in the scene; or of a field of the command */
	u32 n;				/* 0: such a field */
	int err;
	const char *name;
	size_t id;
} wrong[] = {
#define ARRAY(good, f, n, err, id) \
	{ good, #f, offsetof(struct scene, f), sizeof(((struct scene *)0)->f[0]), n, err, ID(id) }
#define FIELD(good, s, f, err, id) \
	{ good, #f, offsetof(struct bus1_cmd_##s, f), 0, 0, err, ID(id) }
	ARRAY(good_destroy, ids, 2, ENXIO, gone),
	ARRAY(good_destroy, ids, 2, ENXIO, foreign),
	ARRAY(good_destroy, ids, 2, EPERM, handle),
	ARRAY(good_destroy, ids, 2, EPERM, weak),
	ARRAY(good_destroy, ids, 2, EPERM, dead),
	ARRAY(good_release, ids, 3, ENXIO, gone),
	ARRAY(good_release, ids, 3, ENXIO, foreign),
	ARRAY(good_release, ids, 3, EPERM, node),
	ARRAY(good_release, ids, 3, EPERM, facet),
	ARRAY(good_release, ids, 3, EPERM, once),
	ARRAY(good_slice, ids, 2, ENXIO, gone_slice),
	ARRAY(good_transfer, ids, 3, ENXIO, gone),
	ARRAY(good_transfer, ids, 3, ENXIO, foreign),
	ARRAY(good_transfer, ids, 3, EPERM, bound),
	ARRAY(good_move, ids, 3, ENXIO, gone),
	ARRAY(good_move, ids, 3, ENXIO, foreign),
	ARRAY(good_move, ids, 3, EPERM, bound),
	ARRAY(good_move, ids, 3, EPERM, node),
	ARRAY(good_move, ids, 3, EPERM, facet),
	ARRAY(good_move, ids, 3, EHOSTUNREACH, weak_dead),
	ARRAY(good_multicast, ids, 2, ENXIO, gone),
	ARRAY(good_multicast, ids, 2, ENXIO, foreign),
	ARRAY(good_multicast, ids, 2, EPERM, weak),
	ARRAY(good_multicast, ids, 2, EPERM, mute),
	ARRAY(good_multicast, ids, 2, EHOSTUNREACH, dead),
	ARRAY(good_multicast, pass, 2, ENXIO, gone),
	ARRAY(good_multicast, pass, 2, ENXIO, foreign),
	ARRAY(good_multicast, pass, 2, EPERM, bound),
	ARRAY(good_give_back, more, 2, ENXIO, gone_slice),
	ARRAY(good_give_back, ids, 2, ENXIO, gone),
	ARRAY(good_give_back, ids, 2, ENXIO, foreign),
	ARRAY(good_give_back, ids, 2, EPERM, node),
	ARRAY(good_give_back, ids, 2, EPERM, facet),
	FIELD(good_mint, mint, node, ENXIO, gone),
	FIELD(good_mint, mint, node, ENXIO, foreign),
	FIELD(good_mint, mint, node, EPERM, handle),
	FIELD(good_mint, mint, node, EPERM, weak),
	FIELD(good_mint, mint, node, EPERM, dead),
	FIELD(good_mint, mint, node, EINVAL, facet),
	FIELD(good_mint, mint, node, EINVAL, once),
	FIELD(good_export, export, id, ENXIO, gone),
	FIELD(good_export, export, id, ENXIO, foreign),
	FIELD(good_export, export, id, EPERM, weak),
	FIELD(good_export, export, id, EPERM, bound),
	FIELD(good_send, send, dest, ENXIO, gone),
	FIELD(good_send, send, dest, ENXIO, foreign),
	FIELD(good_send, send, dest, EPERM, weak),
	FIELD(good_send, send, dest, EPERM, mute),
	FIELD(good_send, send, dest, EHOSTUNREACH, dead),
	FIELD(good_send, send, dest, EOPNOTSUPP, buffer),
	ARRAY(good_multicast, ids, 2, EOPNOTSUPP, buffer),
	ARRAY(good_body, pass, 1, EMEDIUMTYPE, handle),
	ARRAY(good_body, pass, 1, EMEDIUMTYPE, facet),
	ARRAY(good_body, pass, 1, EPERM, bound),
	ARRAY(good_body, pass, 1, ENXIO, gone),
	FIELD(good_open, open, id, EMEDIUMTYPE, handle),
	FIELD(good_open, open, id, EMEDIUMTYPE, node),
	FIELD(good_open, open, id, EPERM, weak),
	FIELD(good_open, open, id, EPERM, mute),
	FIELD(good_open, open, id, ENXIO, gone),
	FIELD(good_open, open, id, ENXIO, foreign),
	FIELD(good_call, call, send.dest, ENXIO, gone),
	FIELD(good_call, call, send.dest, ENXIO, foreign),
	FIELD(good_call, call, send.dest, EPERM, weak),
	FIELD(good_call, call, send.dest, EPERM, mute),
	FIELD(good_call, call, send.dest, EHOSTUNREACH, dead),
	FIELD(good_call, call, send.dest, EOPNOTSUPP, buffer),
	FIELD(good_wait, call, send.dest, EHOSTUNREACH, dead),
	FIELD(good_wait, call, send.dest, ENXIO, foreign),
	FIELD(good_call, call, parent, ENXIO, answered),
	FIELD(good_call, call, parent, ENXIO, foreign_token),
	ARRAY(good_call, pass, 1, ENXIO, gone),
	ARRAY(good_call, pass, 1, EPERM, bound),
	FIELD(good_reply, reply, send.dest, ENXIO, answered),
	FIELD(good_reply, reply, send.dest, ENXIO, foreign_token),
	ARRAY(good_reply, pass, 1, ENXIO, gone),
	ARRAY(good_reply, pass, 1, EPERM, bound),
	ARRAY(good_cancel, ids, 2, ENXIO, token),
	ARRAY(good_cancel, ids, 2, ENXIO, handle),
	FIELD(good_lease, lease, token, ENXIO, answered),
	FIELD(good_lease, lease, token, ENXIO, foreign_token),
};

static const struct command *command_of(void (*good)(struct scene *s, union arg *arg))
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i].good == good)
			return &commands[i];
	FAIL("no such command");
}

TEST("ABI-2 each id, wrong in each place where it stands")
{
	static struct scene s;

	scene_make(&s);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		const struct wrong *w = &wrong[i];
		const struct command *c = command_of(w->good);
		u64 ids[] = { *(u64 *)((u8 *)&s + w->id), 0, UINT64_MAX, 1ULL << 63 };

		for (size_t k = 0; k < ARRAY_SIZE(ids); k++) {
			int err = k ? ENXIO : w->err;
			union arg arg = {};

			/* No token means that there is none. */
			if (!ids[k] && (!strcmp(w->place, "parent") || w->good == good_reply))
				continue;

			if (w->n == 0) {
				c->good(&s, &arg);
				memcpy(&arg.bytes[w->array], &ids[k], 8);
				bad(&s, c, &arg, err, w->name, ids[k]);
			}
			for (u32 at = 0; at < w->n; at++) {
				c->good(&s, &arg);
				memcpy((u8 *)&s + w->array + at * w->stride, &ids[k], 8);
				memset(s.errors, 0, sizeof(s.errors));
				bad(&s, c, &arg, err, w->name, ids[k]);
				if (!strcmp(w->place, "ids") && w->good == good_multicast)
					for (u32 j = 0; j < w->n; j++)
						EQ(s.errors[j], j == at ? -err : 0);
			}
		}
	}
	SAME_SNAPSHOT(&s.before);
}

TEST("ABI-2 one id twice, where it may stand once")
{
	static struct scene s;
	static const struct {
		void (*good)(struct scene *s, union arg *arg);
		int err;
	} twice[] = {
		{ good_destroy, EINVAL }, { good_slice, ENXIO }, { good_move, ENXIO },
		{ good_give_back, ENXIO }, { good_cancel, ENXIO },
	};
	union arg arg = {};

	scene_make(&s);
	for (size_t i = 0; i < ARRAY_SIZE(twice); i++) {
		const struct command *c = command_of(twice[i].good);

		c->good(&s, &arg);
		s.ids[1] = s.ids[0];
		bad(&s, c, &arg, twice[i].err, "twice", s.ids[0]);
	}
	good_give_back(&s, &arg);
	s.more[1] = s.more[0];
	bad(&s, command_of(good_give_back), &arg, ENXIO, "twice", s.more[0]);
	good_release(&s, &arg);
	s.ids[1] = s.ids[0];
	bad(&s, command_of(good_release), &arg, ENXIO, "thrice", s.ids[0]);
	/* A handle that is moved needs a count for each. */
	good_multicast(&s, &arg);
	s.pass[0] = s.pass[1];
	s.pass[0].id = s.pass[1].id = s.handle;
	bad(&s, command_of(good_multicast), &arg, ENXIO, "moved twice", s.handle);
	s.pass[0].id = s.node;
	bad(&s, command_of(good_multicast), &arg, EPERM, "a node is moved", s.node);
	SAME_SNAPSHOT(&s.before);
}

/* The pointers of a command, each to the command itself, and to each other's memory. */
TEST_TIMEOUT("ABI-2 arrays that overlap each other, or the command", 120)
{
	static struct scene s;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];

		for (const struct field *f = c->fields; f->kind != FREE; f++) {
			const struct field *g = c->fields;

			if (f->kind != READ && f->kind != WRITTEN)
				continue;
			for (bool self = true; self || g->kind != FREE; g += !self, self = false) {
				union arg *arg = edge_alloc(sizeof(*arg));
				u64 to = PTR(arg);
				int r;

				if (!self && g->kind != READ && g->kind != WRITTEN)
					continue;
				scene_make(&s);
				memset(arg, 0, sizeof(*arg));
				c->good(&s, arg);
				if (!self)
					memcpy(&to, &arg->bytes[g->off], sizeof(to));
				set(arg, f, to);
				r = raw(&s.a, c->cmd, arg);
				/*
				 * What it says is what the memory held. It is one of its
				 * errors, and then nothing is done; but what a receive has
				 * given back, and a reply that was sent, stays.
				 */
				if (r && c->cmd != BUS1_CMD_RECV && c->cmd != BUS1_CMD_REPLY)
					SAME_SNAPSHOT(&s.before);
				CHECK(!r || strerrorname_np(-r));
				drain(&s.a);
				drain(&s.b);
				scene_end(&s);
			}
		}
	}
}
