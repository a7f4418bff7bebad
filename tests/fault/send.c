// SPDX-License-Identifier: GPL-2.0-or-later
/* Forms of BUS1_CMD_SEND. */
#include "send.h"

#include <string.h>
#include <unistd.h>

struct bus1_cmd_send *send_of(u64 dest, size_t len)
{
	struct bus1_cmd_send *c = command(&w.s, BUS1_CMD_SEND);

	c->dest = dest;
	c->data = len ? PTR(w.data) : 0;
	c->len = len;
	watch(&w.s, w.to_r);
	watch(&w.s, w.to_t);
	return c;
}

/* Payload. */

static void empty(void)
{
	send_of(w.to_r, 0);
}

static void by_inline(void)
{
	send_of(w.to_r, INLINE);
}

static void by_pool(void)
{
	send_of(w.to_r, SMALL);
}

static void by_pages(void)
{
	send_of(w.to_r, PAGES);
}

/* The space that it takes was used before, and shows what was sent then. */
static void by_used_pages(void)
{
	u8 other[PAGES];

	memset(other, 'x', sizeof(other));
	OK(send_data(&w.s, w.to_r, other, sizeof(other)));
	OK(recv_now(&w.r, &w.in));
	OK(slice_release(&w.r, w.in.m.slice));
	send_of(w.to_r, PAGES);
}

/* All of those bytes may be gone afterwards; others must not have come. */
static void zeroed(void)
{
	if (!sum_of_pool(&w.r))
		w.before.of[1].pool_sum = 0;
}

static void in_parts(size_t len)
{
	struct bus1_cmd_send *c = send_of(w.to_r, 0);
	size_t at = 0;

	for (u32 i = 0; i < 5; i++) {
		size_t n = i < 4 ? len / 7 * i : len - at;

		w.iovs[i] = (struct bus1_iovec){ .base = PTR(w.data + at), .len = n };
		at += n;
	}
	c->iovs = PTR(w.iovs);
	c->n_iovs = 5;
}

static void inline_in_parts(void)
{
	in_parts(INLINE);
}

static void pages_in_parts(void)
{
	in_parts(PAGES);
}

static void as_of_old(void)
{
	send_of(w.to_r, SMALL);
	w.size = BUS1_CMD_SEND_VER0;
}

static void from_the_future(void)
{
	send_of(w.to_r, INLINE);
	_Static_assert(sizeof(w.cmd) >= sizeof(struct bus1_cmd_send), "its tail is zero");
	w.size = sizeof(w.cmd);
}

static void with_priority(void)
{
	OK(setup(&w.r, BUS1_PEER_PRIORITY));
	OK(send_str(&w.s, w.to_r, "later"));
	send_of(w.to_r, INLINE)->priority = 3;
}

static void got(size_t len)
{
	GOT(&w.r, w.nr, len);
	EQ(w.in.m.n_handles, 0);
	NOTHING(&w.r);
}

static void got_empty(void)
{
	got(0);
}

static void got_inline(void)
{
	got(INLINE);
}

static void got_small(void)
{
	got(SMALL);
}

static void got_pages(void)
{
	got(PAGES);
}

static void got_first(void)
{
	GOT(&w.r, w.nr, INLINE);
	GOT_TEXT(&w.r, w.nr, "later");
}

FORM("send of nothing", .fails = SLAB | COPY, .setup = empty, .check = got_empty)
FORM("send inline", .fails = SLAB | COPY, .setup = by_inline, .check = got_inline)
FORM("send by pool", .fails = SLAB | PAGE | COPY, .setup = by_pool, .check = got_small)
FORM("send by pool, several pages", .fails = SLAB | PAGE | COPY, .setup = by_pages,
     .check = got_pages)
FORM("send by pool, pages that were used", .fails = SLAB | COPY, .setup = by_used_pages,
     .check = got_pages, .partly = zeroed)
FORM("send inline, in parts", .fails = SLAB | COPY, .setup = inline_in_parts,
     .check = got_inline)
FORM("send by pool, in parts", .fails = SLAB | PAGE | COPY, .setup = pages_in_parts,
     .check = got_pages)
FORM("send by an older program", .fails = SLAB | PAGE | COPY, .setup = as_of_old,
     .check = got_small)
FORM("send by a newer program", .fails = SLAB | COPY, .setup = from_the_future,
     .check = got_inline)
FORM("send with a priority", .fails = SLAB | COPY, .setup = with_priority, .check = got_first)

/* Handles. */

static struct bus1_cmd_send *send_handles(u64 dest, u32 n)
{
	struct bus1_cmd_send *c = send_of(dest, INLINE);

	c->handles = PTR(w.pass);
	c->n_handles = n;
	return c;
}

/* A node that the receiver has a handle of, if it `knows`. */
static void one_handle(bool knows)
{
	w.id[0] = node_new(&w.s, 3);
	if (knows) {
		w.id[1] = grant(&w.s, w.id[0], &w.r);
		watch(&w.r, w.id[1]);
	}
	w.pass[0].id = w.id[0];
	send_handles(w.to_r, 1);
}

static void known_handle(void)
{
	one_handle(true);
}

static void new_handle(void)
{
	one_handle(false);
}

static void weak_handle(void)
{
	one_handle(false);
	w.pass[0].flags = BUS1_PASS_WEAK;
}

/* A peer that could be told of its node before is told again. */
static void told_handle(void)
{
	one_handle(true);
	OK(release(&w.r, w.id[1]));
	w.n_watched = 0;
}

static void handle_31(void)
{
	for (u32 i = 0; i < 30; i++)
		node_new(&w.r, i);
	one_handle(false);
}

static void handle_and_pages(void)
{
	one_handle(false);
	w.cmd.send.len = PAGES;
}

static void handle_home(void)
{
	w.pass[0].id = w.to_r;
	send_handles(w.to_r, 1);
}

static void moved_handle(void)
{
	w.pass[0] = (struct bus1_pass){ .id = w.to_t, .flags = BUS1_PASS_MOVE };
	send_handles(w.to_r, 1);
}

/* One of each kind, and one twice; two of them go for good. */
static void many_handles(void)
{
	one_handle(true);
	w.id[2] = node_new(&w.s, 4);
	w.pass[1].id = w.id[2];
	w.pass[2] = (struct bus1_pass){ .id = w.to_t, .flags = BUS1_PASS_MOVE };
	w.pass[3] = (struct bus1_pass){ .id = w.to_r, .flags = BUS1_PASS_MOVE };
	w.pass[4] = (struct bus1_pass){ .id = w.id[2], .flags = BUS1_PASS_WEAK };
	w.pass[5].id = w.id[0];
	send_handles(w.to_r, 6);
}

static const struct in *got_with_handles(size_t len, u32 n)
{
	GOT(&w.r, w.nr, len);
	EQ(w.in.m.n_handles, n);
	return &w.in;
}

static void got_known(void)
{
	EQ(got_with_handles(INLINE, 1)->h[0].id, w.id[1]);
	OK(release(&w.r, w.id[1]));
	OK(release(&w.r, w.id[1]));
	GOT_UNUSED(&w.s, w.id[0], 1);
}

static void works_and_goes(u64 id, u64 node, u64 seq)
{
	OK(send_str(&w.r, id, "hello"));
	GOT_TEXT(&w.s, node, "hello");
	OK(release(&w.r, id));
	ERR(release(&w.r, id), ENXIO);
	GOT_UNUSED(&w.s, node, seq);
}

static void got_new(void)
{
	works_and_goes(got_with_handles(INLINE, 1)->h[0].id, w.id[0], 1);
}

static void got_new_and_pages(void)
{
	works_and_goes(got_with_handles(PAGES, 1)->h[0].id, w.id[0], 1);
}

static void got_again(void)
{
	NOTHING(&w.s);
	works_and_goes(got_with_handles(INLINE, 1)->h[0].id, w.id[0], 2);
}

static void got_weak(void)
{
	u64 id = got_with_handles(INLINE, 1)->h[0].id;

	EQ(w.in.h[0].flags, BUS1_HANDLE_WEAK);
	NOTHING(&w.s);
	OK(destroy(&w.s, w.id[0]));
	GOT_DEAD(&w.r, id);
}

static void got_home(void)
{
	EQ(got_with_handles(INLINE, 1)->h[0].id, w.nr);
	EQ(w.in.h[0].flags, BUS1_HANDLE_OWN);
	OK(release(&w.s, w.to_r));
	GOT_UNUSED(&w.r, w.nr, 1);
}

static void got_moved(void)
{
	u64 id = got_with_handles(INLINE, 1)->h[0].id;

	ERR(release(&w.s, w.to_t), ENXIO);
	OK(send_str(&w.r, id, "moved"));
	GOT_TEXT(&w.t, w.nt, "moved");
	OK(release(&w.r, id));
	GOT_UNUSED(&w.t, w.nt, 1);
}

static void got_many(void)
{
	const struct bus1_handle *h = got_with_handles(INLINE, 6)->h;

	ERR(release(&w.s, w.to_t), ENXIO);
	ERR(release(&w.s, w.to_r), ENXIO);
	EQ(h[0].id, w.id[1]);
	EQ(h[3].id, w.nr);
	EQ(h[4].flags, BUS1_HANDLE_WEAK);
	EQ(h[5].id, w.id[1]);
	GOT_UNUSED(&w.r, w.nr, 1);
	OK(send_str(&w.r, h[2].id, "moved"));
	GOT_TEXT(&w.t, w.nt, "moved");
	works_and_goes(h[1].id, w.id[2], 1);
	OK(destroy(&w.s, w.id[2]));
	GOT_DEAD(&w.r, w.in.h[4].id);
	for (u32 i = 0; i < 3; i++)
		OK(release(&w.r, w.id[1]));
	GOT_UNUSED(&w.s, w.id[0], 1);
}

FORM("send of a handle that is there", .fails = SLAB | COPY, .setup = known_handle,
     .check = got_known)
FORM("send of a handle that is new", .fails = SLAB | COPY, .setup = new_handle,
     .check = got_new)
FORM("send of a handle, as the table grows", .fails = SLAB | COPY, .setup = handle_31,
     .check = got_new)
FORM("send of a handle, by pool", .fails = SLAB | PAGE | COPY, .setup = handle_and_pages,
     .check = got_new_and_pages)
FORM("send of a handle whose owner is being told", .fails = SLAB | COPY,
     .setup = told_handle, .check = got_again)
FORM("send of a weak handle", .fails = SLAB | COPY, .setup = weak_handle, .check = got_weak)
FORM("send of a handle to its owner", .fails = SLAB | COPY, .setup = handle_home,
     .check = got_home)
FORM("send that moves a handle", .fails = SLAB | COPY, .setup = moved_handle,
     .check = got_moved)
FORM("send of handles of all kinds", .fails = SLAB | COPY, .setup = many_handles,
     .check = got_many)

/* Files and stamps. */

void with_fds(struct bus1_cmd_send *c, u32 n)
{
	for (u32 i = 0; i < n; i++)
		w.fds[i] = w.fd[1];
	c->fds = PTR(w.fds);
	c->n_fds = n;
}

static void one_fd(void)
{
	w.fd[1] = pipe_new(&w.fd[0]);
	with_fds(send_of(w.to_r, INLINE), 1);
}

static void three_fds(void)
{
	w.fd[1] = pipe_new(&w.fd[0]);
	with_fds(send_of(w.to_r, INLINE), 3);
}

static void got_fds(void)
{
	char c;

	GOT(&w.r, w.nr, w.cmd.send.len);
	EQ(w.in.m.n_fds, w.cmd.send.n_fds);
	for (u32 i = 0; i < w.in.m.n_fds; i++) {
		EQ(write(w.in.fds[i], "x", 1), 1);
		EQ(read(w.fd[0], &c, 1), 1);
		close_fd(w.in.fds[i]);
	}
	close_fd(w.fd[1]);
	w.fd[1] = 0;
	CHECK(is_hung_up(w.fd[0]));
}

FORM("send of a file", .fails = SLAB | COPY, .setup = one_fd, .check = got_fds)
FORM("send of several files", .fails = SLAB | COPY, .setup = three_fds, .check = got_fds)

struct bus1_cmd_send *stamped(size_t len)
{
	struct bus1_cmd_node node = { .flags = BUS1_NODE_CREDS };

	OK(node_create(&w.r, &node));
	w.id[3] = node.id;
	w.id[4] = grant(&w.r, node.id, &w.s);
	return send_of(w.id[4], len);
}

static void with_stamp(void)
{
	stamped(INLINE);
}

static void with_everything(void)
{
	struct bus1_cmd_send *c;

	w.fd[1] = pipe_new(&w.fd[0]);
	w.id[0] = node_new(&w.s, 3);
	w.pass[0].id = w.id[0];
	w.pass[1] = (struct bus1_pass){ .id = w.to_t, .flags = BUS1_PASS_MOVE };
	c = stamped(PAGES);
	c->handles = PTR(w.pass);
	c->n_handles = 2;
	with_fds(c, 2);
}

static void got_stamp(void)
{
	GOT(&w.r, w.id[3], w.cmd.send.len);
	CHECK(w.in.creds);
	EQ(w.in.creds->pid, getpid());
	EQ(w.in.creds->uid, geteuid());
}

static void got_everything(void)
{
	got_stamp();
	EQ(w.in.m.n_handles, 2);
	EQ(w.in.m.n_fds, 2);
	close_fd(w.in.fds[0]);
	close_fd(w.in.fds[1]);
	close_fd(w.fd[1]);
	w.fd[1] = 0;
	CHECK(is_hung_up(w.fd[0]));
	ERR(release(&w.s, w.to_t), ENXIO);
	OK(release(&w.r, w.in.h[1].id));
	GOT_UNUSED(&w.t, w.nt, 1);
	works_and_goes(w.in.h[0].id, w.id[0], 1);
}

FORM("send with a stamp", .fails = SLAB | COPY, .setup = with_stamp, .check = got_stamp)
FORM("send with everything", .fails = SLAB | PAGE | COPY, .setup = with_everything,
     .check = got_everything)

/* One-shots. */

static void through_once(void)
{
	w.id[0] = once_new(&w.r, w.nr, 0x0ce);
	w.id[1] = grant(&w.r, w.id[0], &w.s);
	w.id[2] = grant(&w.r, w.id[0], &w.t);
	send_of(w.id[1], SMALL);
	watch(&w.s, w.id[1]);
	watch(&w.t, w.id[2]);
}

static void once_spent(void)
{
	GOT(&w.r, w.nr, SMALL);
	EQ(w.in.m.badge, 0x0ce);
	ERR(release(&w.s, w.id[1]), ENXIO);
	ERR(send_str(&w.t, w.id[2], "late"), EHOSTUNREACH);
	GOT_DEAD(&w.t, w.id[2]);
	ERR(destroy(&w.r, w.id[0]), ENXIO);
	NOTHING(&w.r);
}

FORM("send through a one-shot", .fails = SLAB | PAGE | COPY, .setup = through_once,
     .check = once_spent)

static void moving_through_once(void)
{
	through_once();
	w.pass[0] = (struct bus1_pass){ .id = w.to_t, .flags = BUS1_PASS_MOVE };
	w.cmd.send.handles = PTR(w.pass);
	w.cmd.send.n_handles = 1;
}

static void moved_once(void)
{
	once_spent();
	ERR(release(&w.s, w.to_t), ENXIO);
	OK(release(&w.r, w.in.h[0].id));
	GOT_UNUSED(&w.t, w.nt, 1);
}

FORM("send through a one-shot, moving a handle", .fails = SLAB | PAGE | COPY,
     .setup = moving_through_once, .check = moved_once)

/* Where there is no room. */

static void no_room(void)
{
	int r;

	while (!(r = send_data(&w.s, w.to_r, w.data, 3000)))
		w.id[0]++;
	ERR(r, EAGAIN);
	send_of(w.to_r, 3000);
}

static void no_room_notice(void)
{
	no_room();
	w.cmd.send.flags = BUS1_SEND_NOTIFY;
}

/* Until a moment that is past. */
static void no_room_wait(void)
{
	no_room();
	w.cmd.send.flags = BUS1_SEND_WAIT;
	w.cmd.send.deadline = 1;
}

static int finds_no_room(void)
{
	int r = raw(w.on, w.number, &w.cmd);

	if (w.cmd.send.flags & BUS1_SEND_NOTIFY)
		return r == -EAGAIN ? 0 : r ? r : -EEXIST;
	return r == -ETIMEDOUT ? 0 : r ? r : -EEXIST;
}

static void room_came(void)
{
	for (u64 i = 0; i < w.id[0]; i++)
		GOT(&w.r, w.nr, 3000);
	NOTHING(&w.r);
}

static void told_of_room(void)
{
	NOTHING(&w.s);
	room_came();
	OK(recv_now(&w.s, &w.in));
	EQ(w.in.m.type, BUS1_MSG_WRITABLE);
	EQ(w.in.m.id, w.to_r);
	NOTHING(&w.s);
}

static void not_told(void)
{
	room_came();
	NOTHING(&w.s);
}

FORM("send that finds no room, with a notice", .fails = SLAB | COPY, .setup = no_room_notice,
     .run = finds_no_room, .check = told_of_room)
FORM("send that waits for room", .fails = SLAB | COPY, .setup = no_room_wait,
     .run = finds_no_room, .check = not_told)
