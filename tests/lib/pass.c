// SPDX-License-Identifier: GPL-2.0-or-later
/* How handles are passed on: with fewer rights, moved, weak, and by descriptor. */
#include "lib.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#define ALL (B1_RIGHT_SEND | B1_RIGHT_TRANSFER)

/* A third peer with a node that b can send to. */
struct third {
	b1_peer *c;
	struct box box;
	b1_handle *to;		/* of b */
};

static void third_init(struct third *t, struct pair *p)
{
	t->c = new_peer();
	box_init(&t->box, t->c);
	OK(b1_handle_transfer(b1_node_get_handle(t->box.node), p->b, &t->to));
}

static void third_deinit(struct third *t)
{
	b1_handle_unref(t->to);
	drain(t->c);
	box_deinit(&t->box);
	HAS(t->c, 0, 0, 0);
	b1_peer_unref(t->c);
}

/* Send one handle so, and return what it arrives as; NULL if r is not 0. */
static b1_handle *pass(struct third *t, b1_handle *handle, unsigned int flags, unsigned int drop)
{
	b1_pass passes = { .handle = handle, .flags = flags, .drop_rights = drop };

	OK(b1_send(t->to, &(b1_outgoing){ .passes = &passes, .n_passes = 1 }));
	drain(t->c);
	EQ(b1_message_get_n_handles(t->box.last), 1);
	return b1_message_get_handle(t->box.last, 0);
}

TEST("OBJ-5 LIB-2 a handle arrives without the rights that are dropped")
{
	b1_handle *all, *send, *none, *h = NULL;
	struct third t;
	struct pair p;
	int fd;

	pair_init(&p);
	third_init(&t, &p);
	EQ(b1_handle_get_flags(b1_node_get_handle(p.box.node)), ALL);
	EQ(b1_handle_get_flags(p.to_box), ALL);
	all = b1_handle_ref(pass(&t, p.to_box, 0, 0));
	send = b1_handle_ref(pass(&t, p.to_box, 0, B1_RIGHT_TRANSFER));
	none = b1_handle_ref(pass(&t, p.to_box, 0, ALL));
	CHECK(all != send && send != none);
	EQ(b1_handle_get_flags(all), ALL);
	EQ(b1_handle_get_flags(send), B1_RIGHT_SEND);
	EQ(b1_handle_get_flags(none), 0);
	CHECK(pass(&t, p.to_box, 0, B1_RIGHT_TRANSFER) == send);
	OK(b1_send_bytes(send, "x", 1, NULL));
	ERR(b1_send_bytes(none, "x", 1, NULL), EPERM);
	ERR(b1_send_bytes(send, "x", 1, send), EPERM);
	ERR(b1_handle_transfer(send, p.b, &h), EPERM);
	ERR(b1_handle_export(send, &fd, 0), EPERM);
	ERR(b1_handle_export(all, &fd, 4), EINVAL);
	/* Within a peer it may be less still. */
	OK(b1_handle_transfer_as(send, t.c, &h, 0, B1_RIGHT_SEND));
	CHECK(h == none);
	b1_handle_unref(h);
	OK(b1_handle_transfer_as(all, t.c, &h, 0, 0));
	CHECK(h == all);
	b1_handle_unref(h);
	ERR(b1_handle_transfer_as(all, t.c, &h, B1_PASS_MOVE, 0), EINVAL);
	ERR(b1_handle_transfer_as(all, t.c, &h, B1_PASS_WEAK | B1_PASS_STRONG, 0), EINVAL);
	ERR(b1_handle_transfer_as(all, t.c, &h, 0, 4), EINVAL);
	b1_handle_unref(all);
	b1_handle_unref(send);
	b1_handle_unref(none);
	box_empty(&t.box);
	EQ(drain(p.a), 1);	/* "x" */
	third_deinit(&t);
	pair_deinit(&p);
}

TEST("OBJ-5 LIB-2 a handle that is moved takes the reference with it")
{
	b1_handle *keep, *h;
	struct third t;
	struct pair p;

	pair_init(&p);
	third_init(&t, &p);
	/* With another reference, and without. */
	keep = b1_handle_ref(p.to_box);
	pass(&t, p.to_box, B1_PASS_MOVE, 0);
	HAS(p.b, 0, 2, 0);
	OK(b1_send_bytes(keep, "x", 1, NULL));
	EQ(drain(p.a), 1);
	p.to_box = NULL;
	h = b1_handle_ref(pass(&t, keep, B1_PASS_MOVE, 0));
	HAS(p.b, 0, 1, 0);
	box_empty(&t.box);
	EQ(drain(p.a), 0);
	OK(b1_send_bytes(h, "x", 1, NULL));
	EQ(drain(p.a), 1);
	b1_handle_unref(h);
	EQ(drain(p.a), 1);
	EQ(p.box.n_unused, 1);
	third_deinit(&t);
	pair_deinit(&p);
}

TEST("OBJ-5 ABI-2 LIB-2 a move that fails leaves the reference, whatever there are of counts")
{
	b1_pass passes[2], own;
	b1_outgoing out = { .passes = passes, .n_passes = 2 };
	struct third t;
	struct pair p;
	b1_handle *h = NULL;
	int i;

	pair_init(&p);
	third_init(&t, &p);
	/* counts and references: 1 and 1, 2 and 2, 2 and 1 */
	for (i = 0; i < 3; i++) {
		if (i)
			OK(b1_handle_transfer(b1_node_get_handle(p.box.node), p.b, &h));
		CHECK(!h || h == p.to_box);
		if (i == 2)
			b1_handle_unref(h);
		passes[0] = (b1_pass){ .handle = p.to_box, .flags = B1_PASS_MOVE };
		passes[1] = (b1_pass){ .handle = p.to_box };
		ERR(b1_send(t.to, &(b1_outgoing){ .passes = passes, .n_passes = 2, .priority = 32 }),
		    EINVAL);
		ERR(b1_send(t.to, &(b1_outgoing){ .passes = passes, .n_passes = 254 }), EMSGSIZE);
		out.data = (void *)8;
		out.size = 8;
		ERR(b1_send(t.to, &out), EFAULT);
		passes[1].flags = 1U << 20;
		ERR(b1_send(t.to, &out), EINVAL);
		OK(b1_send_bytes(p.to_box, "still there", 11, NULL));
		EQ(drain(p.a), 1);
	}
	b1_handle_unref(h);
	own = (b1_pass){ .handle = b1_node_get_handle(t.box.node), .flags = B1_PASS_MOVE };
	ERR(b1_send(b1_node_get_handle(t.box.node), &(b1_outgoing){ .passes = &own, .n_passes = 1 }),
	    EPERM);

	/* Twice in one message, the last two references. */
	b1_handle_ref(p.to_box);
	passes[1] = passes[0];
	out = (b1_outgoing){ .passes = passes, .n_passes = 2 };
	OK(b1_send(t.to, &out));
	p.to_box = NULL;
	HAS(p.b, 0, 1, 0);
	drain(t.c);
	EQ(b1_message_get_n_handles(t.box.last), 2);
	EQ(drain(p.a), 0);
	box_empty(&t.box);
	EQ(drain(p.a), 1);
	EQ(p.box.n_unused, 1);
	third_deinit(&t);
	pair_deinit(&p);
}

TEST("MSG-1 LIB-2 handles of both arrays arrive in order")
{
	b1_pass passes[2];
	b1_handle *plain[1];
	struct third t;
	struct pair p;

	pair_init(&p);
	third_init(&t, &p);
	plain[0] = t.to;
	passes[0] = (b1_pass){ .handle = p.to_box, .drop_rights = B1_RIGHT_TRANSFER };
	passes[1] = (b1_pass){ .handle = p.to_box, .flags = B1_PASS_WEAK };
	OK(b1_send(t.to, &(b1_outgoing){ .handles = plain, .n_handles = 1,
					 .passes = passes, .n_passes = 2 }));
	drain(t.c);
	EQ(b1_message_get_n_handles(t.box.last), 3);
	CHECK(b1_handle_get_node(b1_message_get_handle(t.box.last, 0)) == t.box.node);
	EQ(b1_handle_get_flags(b1_message_get_handle(t.box.last, 1)), B1_RIGHT_SEND);
	EQ(b1_handle_get_flags(b1_message_get_handle(t.box.last, 2)), ALL | B1_HANDLE_WEAK);
	ERR(b1_send(t.to, &(b1_outgoing){ .handles = plain, .n_handles = 253,
					  .passes = passes, .n_passes = 1 }), EMSGSIZE);
	box_empty(&t.box);
	third_deinit(&t);
	pair_deinit(&p);
}

TEST("OBJ-7 LIB-2 a weak handle watches, and can be made strong while the node lives")
{
	b1_handle *weak = NULL, *strong = NULL;
	unsigned int dead = 0;
	struct pair p;

	pair_init(&p);
	OK(b1_handle_transfer_as(p.to_box, p.b, &weak, B1_PASS_WEAK, 0));
	CHECK(weak != p.to_box);
	EQ(b1_handle_get_flags(weak), ALL | B1_HANDLE_WEAK);
	ERR(b1_send_bytes(weak, "x", 1, NULL), EPERM);
	OK(b1_handle_watch(weak, NULL, count_dead, &dead));
	p.to_box = b1_handle_unref(p.to_box);
	EQ(drain(p.a), 1);
	EQ(p.box.n_unused, 1);

	OK(b1_handle_transfer_as(weak, p.b, &strong, B1_PASS_STRONG, 0));
	EQ(b1_handle_get_flags(strong), ALL);
	OK(b1_send_bytes(strong, "x", 1, NULL));
	EQ(drain(p.a), 1);
	ERR(b1_node_destroy(p.box.node, B1_NODE_UNUSED), EBUSY);
	b1_handle_unref(strong);
	EQ(drain(p.a), 1);
	EQ(p.box.n_unused, 2);

	OK(b1_node_destroy(p.box.node, B1_NODE_UNUSED));
	drain(p.b);
	EQ(dead, 1);
	ERR(b1_handle_transfer_as(weak, p.b, &strong, B1_PASS_STRONG, 0), EHOSTUNREACH);
	b1_handle_unref(weak);
	pair_deinit(&p);
}

TEST("OBJ-12 LIB-2 a handle is exported, and imported with the rights that are left")
{
	b1_handle *h = NULL, *again = NULL;
	struct pollfd pollfd;
	struct pair p;
	b1_peer *c = new_peer();
	int fd = -1;

	pair_init(&p);
	OK(b1_handle_export(b1_node_get_handle(p.box.node), &fd, B1_RIGHT_TRANSFER));
	CHECK(OK(SYS(fcntl(fd, F_GETFD))) & FD_CLOEXEC);
	OK(b1_handle_import(c, &h, fd));
	EQ(b1_handle_get_flags(h), B1_RIGHT_SEND);
	OK(b1_handle_import(c, &again, fd));
	CHECK(again == h);
	b1_handle_unref(again);
	OK(b1_send_bytes(h, "x", 1, NULL));
	EQ(drain(p.a), 1);
	/* At home it is the node. */
	OK(b1_handle_import(p.a, &again, fd));
	CHECK(again == b1_node_get_handle(p.box.node));
	b1_handle_unref(again);

	/* The descriptor is a user, and says when the node is dead. */
	b1_handle_unref(h);
	p.to_box = b1_handle_unref(p.to_box);
	EQ(drain(p.a), 0);
	pollfd = (struct pollfd){ .fd = fd };
	EQ(poll(&pollfd, 1, 0), 0);
	OK(b1_node_destroy(p.box.node, 0));
	EQ(poll(&pollfd, 1, 0), 1);
	EQ(pollfd.revents, POLLHUP);
	OK(b1_handle_import(c, &h, fd));
	CHECK(b1_handle_is_dead(h));
	drain(c);
	b1_handle_unref(h);
	HAS(c, 0, 0, 0);
	ERR(b1_handle_export(b1_node_get_handle(p.box.node), &fd, 0), ENXIO);
	ERR(b1_handle_import(c, &h, -1), EBADF);
	ERR(b1_handle_import(c, &h, b1_peer_get_fd(p.a)), EMEDIUMTYPE);
	close(fd);
	b1_peer_unref(c);
	pair_deinit(&p);
}

TEST("OBJ-12 OBJ-10 LIB-2 closing the descriptor makes the node unused; a weak handle has none")
{
	b1_handle *weak = NULL;
	struct pair p;
	int fd = -1;

	pair_init(&p);
	OK(b1_handle_transfer_as(p.to_box, p.b, &weak, B1_PASS_WEAK, 0));
	ERR(b1_handle_export(weak, &fd, 0), EPERM);
	OK(b1_handle_export(p.to_box, &fd, 0));
	p.to_box = b1_handle_unref(p.to_box);
	EQ(drain(p.a), 0);
	close(fd);
	EQ(drain(p.a), 1);
	EQ(p.box.n_unused, 1);
	b1_handle_unref(weak);
	pair_deinit(&p);
}
