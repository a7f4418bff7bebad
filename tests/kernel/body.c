// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * MSG-5: messages that refer to a part of a buffer, or of a memfd that they bring: only to
 * what is there, and only where it is asked for.
 */
#include "buffer.h"

#include <string.h>
#include <sys/mman.h>

TEST("MSG-5 a message refers to a part of a buffer, and only to what is there")
{
	static const struct { u64 offset, len; bool good; } parts[] = {
		{ 0, SIZE, true }, { 0, 0, true }, { SIZE, 0, true }, { SIZE - 1, 1, true },
		{ 1234, 4567, true }, { 4096, SIZE - 4096, true },
		{ 0, SIZE + 1, false }, { 1, SIZE, false }, { SIZE, 1, false },
		{ SIZE + 1, 0, false }, { UINT64_MAX, 1, false }, { 1, UINT64_MAX, false },
		{ UINT64_MAX, UINT64_MAX, false }, { UINT64_MAX, 0, false },
		{ 1ULL << 63, 1ULL << 63, false }, { 0, 1ULL << 63, false },
		{ UINT64_MAX - SIZE + 1, SIZE, false },
	};
	struct buffered *t = buffered_new();
	struct snapshot before = SNAPSHOT(&t->a, &t->b);
	struct in in;

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		u64 offset = parts[i].offset, len = parts[i].len;

		if (!parts[i].good) {
			ERR(send_body(&t->a, t->to_b, t->buffer, 0, offset, len), ERANGE);
			ERR(send_memfd(&t->a, t->to_b, 0, t->fd, offset, len), ERANGE);
			NOTHING(&t->b);
			continue;
		}
		OK(send_body(&t->a, t->to_b, t->buffer, 0, offset, len));
		got_body(&t->b, &in, t->handle, offset, len);
		EQ(in.m.len, 0);
		OK(release(&t->b, t->handle));
		OK(send_memfd(&t->a, t->to_b, 0, t->fd, offset, len));
		OK(recv_with(&t->b, &in, BUS1_RECV_MEMFD));
		EQ(in.m.flags, BUS1_MSG_F_MEMFD);
		EQ(in.m.body_offset, offset);
		EQ(in.m.body_len, len);
		EQ(in.m.n_fds, 1);
		close_fd(in.fds[0]);
	}
	SAME_SNAPSHOT(&before);
	opens(&t->b, t->handle, t->data, SIZE);
}

TEST("MSG-5 a message has a payload, handles, files and a body, together")
{
	struct buffered *t = buffered_new();
	u64 node = node_new(&t->a, 1), handle;
	struct bus1_pass pass[2] = { { .id = t->buffer }, { .id = node } };
	char text[1000] = "in the pool";
	s32 fd = t->fd;
	struct in in;

	for (size_t len = 11; len <= sizeof(text); len += sizeof(text) - 11) {
		OK(send_cmd(&t->a, &(struct bus1_cmd_send){
			.flags = BUS1_SEND_BODY, .dest = t->to_b, .data = PTR(text), .len = len,
			.handles = PTR(pass), .n_handles = 2, .fds = PTR(&fd), .n_fds = 1,
			.body_offset = 10, .body_len = 20 }));
		/* A look at it shows the body, and gives nothing. */
		OK(peek(&t->b, 0, &in));
		EQ(in.m.flags, BUS1_MSG_F_BODY | BUS1_MSG_F_PEEKED);
		EQ(in.m.body_offset, 10);
		EQ(in.m.body_len, 20);
		EQ(in.m.handles, 0);
		OK(recv_with(&t->b, &in, BUS1_RECV_FDS));
		EQ(in.m.flags, BUS1_MSG_F_BODY);
		EQ(in.m.len, len);
		MEM(in.data, text, len);
		EQ(in.m.n_handles, 2);
		EQ(in.h[0].id, t->handle);
		handle = in.h[1].id;
		NE(handle, t->handle);
		EQ(in.m.body_offset, 10);
		EQ(in.m.body_len, 20);
		EQ(in.m.n_fds, 1);
		close_fd(in.fds[0]);
		if (in.m.slice)
			OK(slice_release(&t->b, in.m.slice));
		OK(release(&t->b, t->handle));
		OK(release(&t->b, handle));
	}
	/* Those that come after have none. */
	OK(send_str(&t->a, t->to_b, "plain"));
	OK(recv_now(&t->b, &in));
	EQ(in.m.flags, 0);
	EQ(in.m.body_offset | in.m.body_len, 0);
}

TEST("MSG-5 to refer to a buffer takes the rights to use it and to pass it on")
{
	struct buffered *t = buffered_new();
	struct peer c = peer_new(0);
	u64 nc = node_new(&c, 1), to_c = grant(&c, nc, &t->b);
	u64 weak = grant_as(&t->a, t->buffer, &t->b, BUS1_TRANSFER_WEAK, 0);
	u64 mute = grant_as(&t->a, t->buffer, &t->b, 0, BUS1_RIGHT_SEND);
	u64 bound = grant_as(&t->a, t->buffer, &t->b, 0, BUS1_RIGHT_TRANSFER);
	struct snapshot before = SNAPSHOT(&t->a, &t->b, &c);
	struct bus1_pass pass = { .id = t->handle, .drop_rights = BUS1_RIGHT_SEND };
	struct in in;

	ERR(send_body(&t->b, to_c, weak, 0, 0, 1), EPERM);
	ERR(send_body(&t->b, to_c, mute, 0, 0, 1), EPERM);
	ERR(send_body(&t->b, to_c, bound, 0, 0, 1), EPERM);
	ERR(send_body(&t->b, to_c, t->handle, BUS1_PASS_WEAK, 0, 1), EPERM);
	ERR(send_cmd(&t->b, &(struct bus1_cmd_send){
		.flags = BUS1_SEND_BODY, .dest = to_c, .handles = PTR(&pass), .n_handles = 1 }), EPERM);
	ERR(send_body(&t->b, to_c, 12345, 0, 0, 1), ENXIO);
	ERR(send_body(&t->b, to_c, to_c, 0, 0, 1), EMEDIUMTYPE);
	ERR(send_body(&t->b, to_c, t->nb, 0, 0, 1), EMEDIUMTYPE);
	ERR(open_buffer(&t->b, weak, 0, 0), EPERM);
	ERR(open_buffer(&t->b, mute, 0, 0), EPERM);
	ERR(open_buffer(&t->b, 12345, 0, 0), ENXIO);
	ERR(open_buffer(&t->b, 0, 0, 0), ENXIO);
	ERR(open_buffer(&t->b, to_c, 0, 0), EMEDIUMTYPE);
	ERR(open_buffer(&t->b, t->nb, 0, 0), EMEDIUMTYPE);
	SAME_SNAPSHOT(&before);
	NOTHING(&c);
	/* To look into it takes no right to pass it on. */
	opens(&t->b, bound, t->data, SIZE);

	/* By move it leaves the sender; a weak one that was made strong is as good as any. */
	OK(send_body(&t->b, to_c, t->handle, BUS1_PASS_MOVE, 0, 1));
	ERR(open_buffer(&t->b, t->handle, 0, 0), ENXIO);
	OK(recv_now(&c, &in));
	EQ(in.h[0].rights, ALL_RIGHTS);
	opens(&c, in.h[0].id, t->data, SIZE);
	OK(send_body(&t->b, to_c, grant_as(&t->b, weak, &t->b, BUS1_TRANSFER_STRONG, 0), 0, 5, 6));
	got_body(&c, &in, in.h[0].id, 5, 6);
	/* Back home it is one's own. */
	OK(send_body(&t->a, t->to_b, t->buffer, 0, 0, 2));
	OK(recv_now(&t->b, &in));
	OK(send_body(&t->b, grant(&t->a, node_new(&t->a, 2), &t->b), in.h[0].id, 0, 3, 4));
	OK(recv_now(&t->a, &in));
	EQ(in.m.flags, BUS1_MSG_F_BODY);
	EQ(in.h[0].id, t->buffer);
	EQ(in.h[0].cookie, 77);
	EQ(in.h[0].flags, BUS1_HANDLE_OWN);
	EQ(in.m.body_len, 4);
	opens(&t->a, in.h[0].id, t->data, SIZE);
}

TEST("MSG-5 one body to many, at one instant")
{
	struct buffered *t = buffered_new();
	struct peer c = peer_new(0);
	u64 nc = node_new(&c, 1), dests[3] = { t->to_b, grant(&c, nc, &t->a), t->to_b };
	struct bus1_pass pass = { .id = t->buffer };
	struct bus1_cmd_send cmd = {
		.flags = BUS1_SEND_BODY | BUS1_SEND_ORDERED, .dests = PTR(dests), .n_dests = 3,
		.handles = PTR(&pass), .n_handles = 1, .body_offset = 7, .body_len = 8 };
	s32 fd = t->fd;
	struct in in;

	OK(send_cmd(&t->a, &cmd));
	got_body(&t->b, &in, t->handle, 7, 8);
	got_body(&t->b, &in, t->handle, 7, 8);
	OK(recv_now(&c, &in));
	EQ(in.m.body_len, 8);
	opens(&c, in.h[0].id, t->data, SIZE);
	cmd.flags = BUS1_SEND_MEMFD;
	cmd.handles = cmd.n_handles = 0;
	cmd.fds = PTR(&fd);
	cmd.n_fds = 1;
	OK(send_cmd(&t->a, &cmd));
	for (int i = 0; i < 3; i++) {
		OK(recv_with(i == 1 ? &c : &t->b, &in, BUS1_RECV_MEMFD));
		EQ(in.m.flags, BUS1_MSG_F_MEMFD);
		EQ(in.m.body_offset, 7);
		EQ(in.m.body_len, 8);
		close_fd(in.fds[0]);
	}
}

TEST("MSG-5 a memfd arrives when it is asked for, and no other file does")
{
	struct buffered *t = buffered_new();
	u32 fds;
	s32 fd = t->fd;
	struct in in;
	u8 *m;

	/* Not asked for: it is closed, and what it was is told. */
	fds = open_fds();
	OK(send_memfd(&t->a, t->to_b, 0, fd, 1, 2));
	OK(recv_now(&t->b, &in));
	EQ(in.m.flags, BUS1_MSG_F_MEMFD | BUS1_MSG_F_FDS_CLOSED);
	EQ(in.m.n_fds, 1);
	EQ(in.m.body_offset, 1);
	EQ(in.m.body_len, 2);
	CHECK(!in.fds);
	/* Files, but for memfds. */
	OK(send_fds(&t->a, t->to_b, &fd, 1));
	OK(recv_with(&t->b, &in, BUS1_RECV_MEMFD));
	EQ(in.m.flags, BUS1_MSG_F_FDS_CLOSED);
	EQ(open_fds(), fds);
	/* Either flag will do. */
	for (int i = 0; i < 2; i++) {
		OK(send_memfd(&t->a, t->to_b, 0, fd, 4096, SIZE - 4096));
		OK(recv_with(&t->b, &in, i ? BUS1_RECV_FDS : BUS1_RECV_MEMFD));
		EQ(in.m.flags, BUS1_MSG_F_MEMFD);
		EQ(in.m.n_fds, 1);
		EQ(OK(SYS(fcntl(in.fds[0], F_GETFD))), FD_CLOEXEC);
		m = mmap(NULL, SIZE - 4096, PROT_READ, MAP_SHARED, in.fds[0], 4096);
		CHECK(m != MAP_FAILED);
		MEM(m, t->data + 4096, SIZE - 4096);
		OK(SYS(munmap(m, SIZE - 4096)));
		close_fd(in.fds[0]);
	}
	/* The one that can not be had is told of. */
	OK(send_memfd(&t->a, t->to_b, 0, fd, 0, SIZE));
	leave_fds(0);
	OK(recv_with(&t->b, &in, BUS1_RECV_MEMFD));
	EQ(in.fds[0], -EMFILE);
	ERR(open_buffer(&t->b, t->handle, 0, SIZE), EMFILE);
	close_fd(t->fd);
	OK(open_buffer(&t->b, t->handle, 0, SIZE));
}

TEST("MSG-5 ABI-1 programs that do not know of bodies")
{
	struct buffered *t = buffered_new();
	struct bus1_pass pass = { .id = t->buffer };
	struct bus1_cmd_send cmd = { .dest = t->to_b, .handles = PTR(&pass), .n_handles = 1 };
	u64 msg[32], none = 0x5555555555555555;
	struct bus1_handle h;

	/* Such a sender sends a handle, which is a buffer. */
	OK(raw_sized(&t->a, BUS1_CMD_SEND, BUS1_CMD_SEND_VER0, &cmd));
	EQ(GOT_HANDLE(&t->b, t->nb).id, t->handle);
	/* Such a receiver gets one. */
	for (u32 size = BUS1_MSG_VER0; size < sizeof(struct bus1_msg); size += 8) {
		struct bus1_cmd_recv recv = {
			.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(msg), .n_msgs = 1, .msg_size = size,
			.buf = PTR(&h), .buf_size = sizeof(h) };
		struct bus1_msg m;

		memset(msg, 0x55, sizeof(msg));
		OK(send_body(&t->a, t->to_b, t->buffer, 0, 3, 4));
		OK(recv_cmd(&t->b, &recv));
		memcpy(&m, msg, sizeof(m));
		EQ(m.flags, BUS1_MSG_F_BODY);
		EQ(m.n_handles, 1);
		EQ(h.id, t->handle);
		EQ(msg[size / 8], none);
		OK(release(&t->b, t->handle));
	}
	OK(release(&t->b, t->handle));
	OK(release(&t->b, t->handle));
	GOT_UNUSED(&t->a, t->buffer, 1);
}

TEST("MSG-5 ABI-2 flags and fields of a body that do not fit each other")
{
	struct buffered *t = buffered_new();
	struct bus1_pass pass = { .id = t->buffer };
	s32 fds[2] = { t->fd, t->fd };
	const u64 h = PTR(&pass), f = PTR(fds), d = t->to_b;
	const struct bus1_cmd_send bad[] = {
		{ .dest = d, .body_offset = 1 },
		{ .dest = d, .body_len = 1 },
		{ .dest = d, .handles = h, .n_handles = 1, .body_len = 1 },
		{ .dest = d, .fds = f, .n_fds = 1, .body_len = 1 },
		{ .dest = d, .flags = BUS1_SEND_BODY },
		{ .dest = d, .flags = BUS1_SEND_BODY, .fds = f, .n_fds = 1 },
		{ .dest = d, .flags = BUS1_SEND_MEMFD },
		{ .dest = d, .flags = BUS1_SEND_MEMFD, .handles = h, .n_handles = 1 },
		{ .dest = d, .flags = BUS1_SEND_MEMFD, .fds = f, .n_fds = 2 },
		{ .dest = d, .flags = BUS1_SEND_SHARED },
		{ .dest = d, .flags = BUS1_SEND_SHARED, .fds = f, .n_fds = 1 },
		{ .dest = d, .flags = BUS1_SEND_SHARED | BUS1_SEND_BODY, .handles = h, .n_handles = 1 },
		{ .dest = d, .flags = BUS1_SEND_MEMFD | BUS1_SEND_BODY, .handles = h, .n_handles = 1,
		  .fds = f, .n_fds = 1 },
		{ .dest = d, .flags = BUS1_SEND_BODY | BUS1_SEND_PARTIAL, .handles = h, .n_handles = 1 },
		{ .dest = d, .flags = BUS1_SEND_MEMFD | BUS1_SEND_ORDERED, .fds = f, .n_fds = 1 },
		{ .dest = d, .flags = 1ULL << 7 },
		{ .dest = d, .deadline = 1 },
	};
	struct snapshot before = SNAPSHOT(&t->a, &t->b);

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct bus1_cmd_send cmd = bad[i];
		int r = send_cmd(&t->a, &cmd);

		if (r != -EINVAL)
			FAIL("form %zu: %s", i, r ? strerrorname_np(-r) : "no error");
	}
	SAME_SNAPSHOT(&before);
	NOTHING(&t->b);
}
