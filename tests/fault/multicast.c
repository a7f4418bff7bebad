// SPDX-License-Identifier: GPL-2.0-or-later
/* Forms of BUS1_CMD_SEND to several destinations. */
#include "send.h"

static struct bus1_cmd_send *send_to_many(u32 n, size_t len)
{
	struct bus1_cmd_send *c = send_of(0, len);

	for (u32 i = 0; i < n; i++) {
		w.ids[i] = i % 2 ? w.to_t : w.to_r;
		w.errors[i] = 77;
	}
	c->dests = PTR(w.ids);
	c->n_dests = n;
	return c;
}

static void two(void)
{
	send_to_many(2, SMALL);
}

static void forty(void)
{
	send_to_many(40, INLINE);
}

static void six_in_order(void)
{
	send_to_many(6, INLINE)->flags = BUS1_SEND_ORDERED;
}

static void two_with_errors(void)
{
	send_to_many(2, SMALL)->errors = PTR(w.errors);
}

static void those_that_can(void)
{
	struct bus1_cmd_send *c = send_to_many(3, SMALL);

	w.ids[2] = 0x7777;
	c->errors = PTR(w.errors);
	c->flags = BUS1_SEND_PARTIAL | BUS1_SEND_ORDERED;
}

static void two_with_handles(void)
{
	struct bus1_cmd_send *c = send_to_many(2, INLINE);

	w.id[0] = node_new(&w.s, 3);
	w.id[1] = grant(&w.s, w.id[0], &w.r);
	w.pass[0].id = w.id[0];
	w.pass[1] = (struct bus1_pass){ .id = w.to_t, .flags = BUS1_PASS_MOVE };
	c->handles = PTR(w.pass);
	c->n_handles = 2;
}

static void two_with_files(void)
{
	struct bus1_cmd_send *c;

	w.fd[1] = pipe_new(&w.fd[0]);
	c = stamped(INLINE);
	c->dest = 0;
	w.ids[0] = w.id[4];
	w.ids[1] = w.to_t;
	c->dests = PTR(w.ids);
	c->n_dests = 2;
	with_fds(c, 2);
}

static void two_onces(void)
{
	struct bus1_cmd_send *c = send_to_many(2, INLINE);

	w.id[0] = w.ids[0] = grant(&w.r, once_new(&w.r, w.nr, 1), &w.s);
	w.id[1] = w.ids[1] = grant(&w.t, once_new(&w.t, w.nt, 2), &w.s);
	c->flags = BUS1_SEND_PARTIAL;
	watch(&w.s, w.id[0]);
	watch(&w.s, w.id[1]);
}

/* Half of them each. */
static void got_n(const struct peer *p, u64 node, u32 n, size_t len)
{
	struct bus1_cmd_recv c = {
		.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(w.msgs), .n_msgs = ARRAY_SIZE(w.msgs),
		.msg_size = sizeof(w.msgs[0]), .buf = PTR(w.buf), .buf_size = sizeof(w.buf),
	};

	OK(recv_cmd(p, &c));
	EQ(c.n_msgs, n);
	for (u32 i = 0; i < n; i++) {
		const struct bus1_msg *m = &w.msgs[i];

		EQ(m->type, BUS1_MSG_DATA);
		EQ(m->id, node);
		EQ(m->len, len);
		MEM((m->slice ? p->pool : (u8 *)w.buf) + m->offset, w.data, len);
		if (m->slice)
			OK(slice_release(p, m->slice));
	}
	NOTHING(p);
}

static void all_got(void)
{
	const struct bus1_cmd_send *c = &w.cmd.send;

	got_n(&w.r, w.nr, c->n_dests / 2, c->len);
	got_n(&w.t, w.nt, c->n_dests / 2, c->len);
	if (c->errors)
		for (u32 i = 0; i < c->n_dests; i++)
			EQ(w.errors[i], w.ids[i] == 0x7777 ? -ENXIO : 0);
}

static void both_got_handles(void)
{
	u64 home, known;

	GOT(&w.t, w.nt, INLINE);
	EQ(w.in.m.n_handles, 2);
	home = w.in.h[1].id;
	EQ(home, w.nt);
	OK(release(&w.t, w.in.h[0].id));
	GOT(&w.r, w.nr, INLINE);
	EQ(w.in.m.n_handles, 2);
	known = w.in.h[0].id;
	EQ(known, w.id[1]);
	OK(release(&w.r, known));
	NOTHING(&w.s);
	OK(release(&w.r, known));
	GOT_UNUSED(&w.s, w.id[0], 1);
	ERR(release(&w.s, w.to_t), ENXIO);
	NOTHING(&w.t);
	OK(release(&w.r, w.in.h[1].id));
	GOT_UNUSED(&w.t, w.nt, 1);
}

static void both_got_files(void)
{
	for (int i = 0; i < 2; i++) {
		const struct in *in = i ? GOT(&w.t, w.nt, INLINE) : GOT(&w.r, w.id[3], INLINE);

		EQ(!!in->creds, !i);
		EQ(in->m.n_fds, 2);
		close_fd(in->fds[0]);
		close_fd(in->fds[1]);
	}
	close_fd(w.fd[1]);
	w.fd[1] = 0;
	CHECK(is_hung_up(w.fd[0]));
}

static void both_spent(void)
{
	all_got();
	ERR(release(&w.s, w.id[0]), ENXIO);
	ERR(release(&w.s, w.id[1]), ENXIO);
	EQ(peer_info(&w.r).n_nodes, 1);
	EQ(peer_info(&w.t).n_nodes, 1);
}

FORM("send to two", .fails = SLAB | PAGE | COPY, .setup = two, .check = all_got)
FORM("send to two, with errors", .fails = SLAB | PAGE | COPY, .setup = two_with_errors,
     .check = all_got)
FORM("send to forty", .fails = SLAB | COPY, .setup = forty, .check = all_got, .is_long = true)
FORM("send to six, ordered", .fails = SLAB | COPY, .setup = six_in_order, .check = all_got)
FORM("send to those that can", .fails = SLAB | PAGE | COPY, .setup = those_that_can,
     .check = all_got)
FORM("send to two, with handles", .fails = SLAB | COPY, .setup = two_with_handles,
     .check = both_got_handles)
FORM("send to two, with files and a stamp", .fails = SLAB | COPY, .setup = two_with_files,
     .check = both_got_files)
FORM("send to several one-shots", .fails = SLAB | COPY, .setup = two_onces, .check = both_spent)
