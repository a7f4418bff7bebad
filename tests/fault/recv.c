// SPDX-License-Identifier: GPL-2.0-or-later
/* Forms of BUS1_CMD_RECV: by the receiver, of what the sender has sent. */
#include "fault.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static struct bus1_cmd_recv *recv_of(u32 n, u64 flags)
{
	struct bus1_cmd_recv *c = command(&w.r, BUS1_CMD_RECV);

	c->flags = flags;
	c->deadline = flags & BUS1_RECV_NONBLOCK ? 0 : test_deadline(10);
	c->n_msgs = n;
	c->msgs = PTR(w.msgs);
	c->msg_size = sizeof(w.msgs[0]);
	c->buf = PTR(w.buf);
	c->buf_size = sizeof(w.buf);
	return c;
}

static void send_n(size_t len)
{
	OK(send_data(&w.s, w.to_r, w.data, len));
}

/* The i-th message that was received. */
static void is(u32 i, size_t len)
{
	const struct bus1_msg *m = &w.msgs[i];

	EQ(m->type, BUS1_MSG_DATA);
	EQ(m->id, w.nr);
	EQ(m->len, len);
	MEM(m->slice ? w.r.pool + m->offset : (u8 *)w.buf + m->offset, w.data, len);
}

static void one_inline(void)
{
	send_n(50);
	recv_of(1, 0);
}

static void one_slice(void)
{
	send_n(5000);
	recv_of(1, BUS1_RECV_NONBLOCK);
}

static void got_inline(void)
{
	EQ(w.cmd.recv.n_msgs, 1);
	EQ(w.cmd.recv.buf_used, 0);
	is(0, 50);
	NOTHING(&w.r);
}

static void got_slice(void)
{
	EQ(w.cmd.recv.n_msgs, 1);
	is(0, 5000);
	OK(slice_release(&w.r, w.msgs[0].slice));
	NOTHING(&w.r);
}

FORM("receive", .fails = COPY, .setup = one_inline, .check = got_inline)
FORM("receive from the pool", .fails = COPY, .setup = one_slice, .check = got_slice)

static void older(void)
{
	send_n(5000);
	recv_of(1, 0)->msg_size = BUS1_MSG_VER0;
	w.size = BUS1_CMD_RECV_VER0;
}

FORM("receive by an older program", .fails = COPY, .setup = older, .check = got_slice)

static void several(void)
{
	send_n(50);
	send_n(5000);
	send_n(0);
	send_n(300);
	recv_of(8, 0);
}

static void got_several(void)
{
	EQ(w.cmd.recv.n_msgs, 4);
	is(0, 50);
	is(1, 5000);
	is(2, 0);
	is(3, 300);
	OK(slice_release(&w.r, w.msgs[1].slice));
	OK(slice_release(&w.r, w.msgs[3].slice));
	NOTHING(&w.r);
}

FORM("receive several", .fails = COPY, .setup = several, .check = got_several)

/* Handles: one that is new, one that is there, one that is dead, one's own. */
static void handles(void)
{
	u64 ids[4];

	ids[0] = w.id[0] = node_new(&w.s, 3);
	ids[1] = w.id[1] = node_new(&w.s, 4);
	w.id[2] = grant(&w.s, w.id[1], &w.r);
	ids[2] = grant(&w.t, w.id[3] = node_new(&w.t, 5), &w.s);
	ids[3] = w.to_r;
	OK(send_ids(&w.s, w.to_r, ids, 4));
	OK(destroy(&w.t, w.id[3]));
	GOT_DEAD(&w.s, ids[2]);
	watch(&w.r, w.id[2]);
	recv_of(1, 0);
}

static const struct bus1_handle *handles_of(u32 i)
{
	return (const void *)((u8 *)w.buf + w.msgs[i].handles);
}

static void got_handles(void)
{
	const struct bus1_handle *h = handles_of(0);

	EQ(w.cmd.recv.n_msgs, 1);
	EQ(w.msgs[0].n_handles, 4);
	EQ(h[1].id, w.id[2]);
	EQ(h[2].flags, BUS1_HANDLE_DEAD);
	GOT_DEAD(&w.r, h[2].id);
	EQ(h[3].id, w.nr);
	OK(send_str(&w.r, h[0].id, "hello"));
	GOT_TEXT(&w.s, w.id[0], "hello");
	OK(release(&w.r, h[0].id));
	GOT_UNUSED(&w.s, w.id[0], 1);
	OK(release(&w.r, h[1].id));
	OK(release(&w.r, h[1].id));
	GOT_UNUSED(&w.s, w.id[1], 1);
}

FORM("receive handles", .fails = COPY, .setup = handles, .check = got_handles)

static void one_handle(void)
{
	w.id[0] = node_new(&w.s, 3);
	OK(send_id(&w.s, w.to_r, w.id[0]));
	recv_of(1, 0);
}

static void got_one_handle(void)
{
	EQ(w.msgs[0].n_handles, 1);
	OK(release(&w.r, handles_of(0)->id));
	GOT_UNUSED(&w.s, w.id[0], 1);
}

FORM("receive a handle", .fails = COPY, .setup = one_handle, .check = got_one_handle)

/* Files. */
static void files(u64 flags)
{
	s32 fds[2];

	fds[0] = fds[1] = pipe_new(&w.fd[0]);
	OK(send_fds(&w.s, w.to_r, fds, 2));
	close_fd(fds[0]);
	recv_of(1, flags);
}

static void two_files(void)
{
	files(BUS1_RECV_FDS);
}

static void two_files_unasked(void)
{
	files(0);
}

static void got_files(void)
{
	const s32 *fds = (const void *)((u8 *)w.buf + w.msgs[0].fds);
	char c;

	EQ(w.msgs[0].n_fds, 2);
	for (u32 i = 0; i < 2; i++) {
		EQ(write(fds[i], "x", 1), 1);
		EQ(read(w.fd[0], &c, 1), 1);
		close_fd(fds[i]);
	}
	CHECK(is_hung_up(w.fd[0]));
}

static void files_closed(void)
{
	EQ(w.msgs[0].flags, BUS1_MSG_F_FDS_CLOSED);
	CHECK(is_hung_up(w.fd[0]));
}

FORM("receive files", .fails = COPY, .setup = two_files, .check = got_files)
FORM("receive without the files", .fails = COPY, .setup = two_files_unasked,
     .check = files_closed)

/* For the second one the process needs a larger table of descriptors. */
static void files_at_63(void)
{
	two_files();
	while (OK(SYS(fcntl(0, F_DUPFD_CLOEXEC, 0))) < 62)
		;
}

static void got_those_that_could_be(void)
{
	s32 *fds = (void *)((u8 *)w.buf + w.msgs[0].fds);

	EQ(w.cmd.recv.n_msgs, 1);
	EQ(w.msgs[0].n_fds, 2);
	EQ(fds[0], 63);
	close_fd(63);
	/* Each stands for itself: the message has come all the same. */
	if (fds[1] > 0)
		close_fd(fds[1]);
	else
		EQ(fds[1], -ENOMEM);
	CHECK(is_hung_up(w.fd[0]));
	NOTHING(&w.r);
}

FORM("receive files, as the table of descriptors grows", .fails = COPY, .setup = files_at_63,
     .check = got_those_that_could_be, .alone = true)

static void stamp(void)
{
	struct bus1_cmd_node node = { .flags = BUS1_NODE_CREDS };
	s32 fd = pipe_new(&w.fd[0]);
	u64 to;

	OK(node_create(&w.r, &node));
	to = grant(&w.r, node.id, &w.s);
	OK(send_fds(&w.s, to, &fd, 1));
	close_fd(fd);
	recv_of(1, 0);
}

static void got_stamp(void)
{
	const struct bus1_creds *creds = (const void *)((u8 *)w.buf + w.msgs[0].creds);

	EQ(w.msgs[0].flags, BUS1_MSG_F_FDS_CLOSED | BUS1_MSG_F_CREDS);
	EQ(creds->pid, getpid());
	EQ(creds->gid, getegid());
}

FORM("receive a stamp", .fails = COPY, .setup = stamp, .check = got_stamp)

/* Notices. */
static void told_of_death(void)
{
	w.id[0] = grant(&w.s, w.id[1] = node_new(&w.s, 3), &w.r);
	OK(destroy(&w.s, w.id[1]));
	watch(&w.r, w.id[0]);
	recv_of(1, 0);
}

static void knows_of_death(void)
{
	EQ(w.msgs[0].type, BUS1_MSG_NODE_DEAD);
	EQ(w.msgs[0].id, w.id[0]);
	OK(release(&w.r, w.id[0]));
}

static void told_unused(void)
{
	OK(release(&w.s, w.to_r));
	recv_of(1, 0);
}

static void knows_unused(void)
{
	EQ(w.msgs[0].type, BUS1_MSG_NODE_UNUSED);
	EQ(w.msgs[0].id, w.nr);
	EQ(w.msgs[0].seq, 1);
	NOTHING(&w.r);
}

FORM("receive that a node is dead", .fails = COPY, .setup = told_of_death,
     .check = knows_of_death)
FORM("receive that a node is unused", .fails = COPY, .setup = told_unused,
     .check = knows_unused)

static void mixed(void)
{
	told_of_death();
	send_n(50);
	OK(send_id(&w.s, w.to_r, w.to_t));
	send_n(300);
	OK(release(&w.s, w.to_r));
	recv_of(8, 0);
}

static void got_mixed(void)
{
	EQ(w.cmd.recv.n_msgs, 5);
	knows_of_death();
	is(1, 50);
	OK(release(&w.s, w.to_t));
	OK(send_str(&w.r, handles_of(2)->id, "kept"));
	GOT_TEXT(&w.t, w.nt, "kept");
	is(3, 300);
	EQ(w.msgs[4].type, BUS1_MSG_NODE_UNUSED);
	NOTHING(&w.r);
}

FORM("receive messages and notices", .fails = COPY, .setup = mixed, .check = got_mixed)

/* Dropping and peeking. */
static void dropping(void)
{
	s32 fd = pipe_new(&w.fd[0]);
	struct bus1_pass pass = { .id = w.to_t, .flags = BUS1_PASS_MOVE };
	struct bus1_cmd_send c = {
		.dest = w.to_r, .data = PTR(w.data), .len = 5000, .fds = PTR(&fd), .n_fds = 1,
		.handles = PTR(&pass), .n_handles = 1,
	};

	OK(send_cmd(&w.s, &c));
	close_fd(fd);
	send_n(10);
	recv_of(1, BUS1_RECV_DROP);
}

static void dropped(void)
{
	EQ(w.msgs[0].flags, BUS1_MSG_F_DROPPED);
	EQ(w.msgs[0].len, 5000);
	CHECK(is_hung_up(w.fd[0]));
	GOT_UNUSED(&w.t, w.nt, 1);
	EQ(peer_info(&w.r).n_slices, 0);
	GOT(&w.r, w.nr, 10);
	NOTHING(&w.r);
}

FORM("receive and drop", .fails = COPY, .setup = dropping, .check = dropped)

static void peeking(void)
{
	send_n(50);
	dropping();
	send_n(20);
	recv_of(1, BUS1_RECV_PEEK)->index = 1;
}

static void peeked(void)
{
	EQ(w.msgs[0].flags, BUS1_MSG_F_PEEKED);
	EQ(w.msgs[0].len, 5000);
	GOT(&w.r, w.nr, 50);
	OK(recv_now(&w.r, &w.in));
	GOT(&w.r, w.nr, 10);
	GOT(&w.r, w.nr, 20);
}

FORM("receive, peeking", .fails = COPY, .setup = peeking, .check = peeked)

/*
 * Giving back. If it happened the counts in the command are 0, and it stays
 * so, whatever fails afterwards.
 */

static void given_back(void)
{
	struct bus1_cmd_recv *given = &w.as_given.recv, *now = &w.cmd.recv;
	struct state *before = &w.before;

	if (now->n_release | now->n_drop)
		return;
	before->of[1].info.n_slices -= given->n_release;
	before->of[1].info.pool_used -= given->n_release * 1024ULL;
	before->slices_gone = given->n_release;
	before->counts[0] -= given->n_drop;
	given->n_release = 0;
	given->n_drop = 0;
}

static void give_back(u32 n_slices, u32 n_handles, u32 n_msgs)
{
	struct bus1_cmd_recv *c;

	for (u32 i = 0; i < n_slices; i++) {
		send_n(1000);
		OK(recv_now(&w.r, &w.in));
		w.ids[i] = w.in.m.slice;
	}
	w.id[0] = node_new(&w.s, 3);
	w.id[1] = grant(&w.s, w.id[0], &w.r);
	for (u32 i = 0; i < n_handles; i++)
		w.out[i] = grant(&w.s, w.id[0], &w.r);
	watch(&w.r, w.id[1]);
	if (n_msgs) {
		send_n(50);
		c = recv_of(n_msgs, 0);
	} else {
		c = command(&w.r, BUS1_CMD_RECV);
	}
	c->release = PTR(w.ids);
	c->n_release = n_slices;
	c->drop = PTR(w.out);
	c->n_drop = n_handles;
}

static void is_given_back(void)
{
	EQ(w.cmd.recv.n_release, 0);
	EQ(w.cmd.recv.n_drop, 0);
	EQ(peer_info(&w.r).n_slices, 0);
	OK(release(&w.r, w.id[1]));
	ERR(release(&w.r, w.id[1]), ENXIO);
	GOT_UNUSED(&w.s, w.id[0], 1);
	if (w.as_given.recv.n_msgs) {
		EQ(w.cmd.recv.n_msgs, 1);
		is(0, 50);
	}
	NOTHING(&w.r);
}

static void give_one(void)
{
	give_back(1, 0, 1);
}

static void give_one_each(void)
{
	give_back(1, 1, 1);
}

static void give_several(void)
{
	give_back(3, 2, 8);
}

static void give_one_drop(void)
{
	give_back(1, 1, 1);
	w.cmd.recv.n_msgs = 4;
}

static void only_give(void)
{
	give_back(2, 2, 0);
}

FORM("receive, giving back a slice", .fails = COPY, .setup = give_one,
     .check = is_given_back, .partly = given_back)
FORM("receive, giving back a slice and a handle", .fails = COPY, .setup = give_one_each,
     .check = is_given_back, .partly = given_back)
FORM("receive several, giving back a slice and a handle", .fails = COPY,
     .setup = give_one_drop, .check = is_given_back, .partly = given_back)
FORM("receive, giving back several", .fails = SLAB | COPY, .setup = give_several,
     .check = is_given_back, .partly = given_back)
FORM("receive nothing, giving back several", .fails = SLAB | COPY, .setup = only_give,
     .check = is_given_back, .partly = given_back)
