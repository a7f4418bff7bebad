// SPDX-License-Identifier: GPL-2.0-or-later
/* Facets: badges, revocation, and handles that carry one message. */
#include "lib.h"

struct facet {
	b1_node *node;
	unsigned int n_unused, n_destroyed;
};

static int facet_unused(b1_node *node, void *userdata)
{
	struct facet *f = userdata;

	CHECK(node == f->node);
	f->n_unused++;
	return 0;
}

static void facet_destroyed(void *userdata)
{
	struct facet *f = userdata;

	f->n_destroyed++;
}

static void facet_init(struct facet *f, b1_node *node, uint64_t badge, unsigned int flags)
{
	*f = (struct facet){ 0 };
	OK(b1_node_new_facet(node, &f->node, badge, flags, f));
	OK(b1_node_set_unused(f->node, facet_unused));
	OK(b1_node_set_destroy(f->node, facet_destroyed));
	EQ(b1_node_get_badge(f->node), badge);
	CHECK(b1_node_get_userdata(f->node) == f);
}

static void facet_deinit(struct facet *f)
{
	EQ(f->n_destroyed, 0);
	f->node = b1_node_unref(f->node);
	EQ(f->n_destroyed, 1);
}

/* Give b a handle to the facet. */
static b1_handle *facet_give(struct facet *f, struct pair *p)
{
	b1_handle *handle = NULL;

	OK(b1_handle_transfer(b1_node_get_handle(f->node), p->b, &handle));
	return handle;
}

TEST("OBJ-6 LIB-2 a facet's messages go to the node's handler, with its badge")
{
	static const uint64_t badges[] = { 1, UINT64_MAX };
	struct facet f[2];
	b1_handle *h[2];
	struct pair p;
	int i;

	pair_init(&p);
	EQ(b1_node_get_badge(p.box.node), 0);
	for (i = 0; i < 2; i++) {
		facet_init(&f[i], p.box.node, badges[i], 0);
		h[i] = facet_give(&f[i], &p);
		CHECK(h[i] != p.to_box);
	}
	CHECK(h[0] != h[1]);
	for (i = 0; i < 2; i++) {
		OK(b1_send_bytes(h[i], "x", 1, NULL));
		EQ(drain(p.a), 1);
		EQ(b1_message_get_badge(p.box.last), badges[i]);
	}
	OK(b1_send_bytes(p.to_box, "x", 1, NULL));
	EQ(drain(p.a), 1);
	EQ(b1_message_get_badge(p.box.last), 0);
	/* By the owner itself, too. */
	OK(b1_send_bytes(b1_node_get_handle(f[1].node), "x", 1, NULL));
	EQ(drain(p.a), 1);
	EQ(b1_message_get_badge(p.box.last), UINT64_MAX);

	/* At home it is the facet. */
	OK(b1_send_bytes(p.to_box, NULL, 0, h[0]));
	drain(p.a);
	CHECK(b1_message_get_handle(p.box.last, 0) == b1_node_get_handle(f[0].node));
	CHECK(b1_handle_get_node(b1_message_get_handle(p.box.last, 0)) == f[0].node);
	box_empty(&p.box);

	for (i = 0; i < 2; i++) {
		b1_handle_unref(h[i]);
		EQ(drain(p.a), 1);
		EQ(f[i].n_unused, 1);
		facet_deinit(&f[i]);
	}
	EQ(p.box.n_unused, 0);
	HAS(p.a, 1, 0, 0);
	pair_deinit(&p);
}

TEST("OBJ-6 LIB-2 a facet of a badge that there is is that one")
{
	b1_node *again = NULL, *other = NULL;
	struct facet f;
	struct pair p;

	pair_init(&p);
	facet_init(&f, p.box.node, 5, 0);
	OK(b1_node_new_facet(p.box.node, &again, 5, 0, NULL));
	CHECK(again == f.node);
	CHECK(b1_node_get_userdata(again) == &f);
	OK(b1_node_new_facet(p.box.node, &other, 6, 0, NULL));
	CHECK(other != f.node);
	b1_node_unref(other);
	b1_node_unref(again);
	HAS(p.a, 2, 0, 0);
	facet_deinit(&f);
	HAS(p.a, 1, 0, 0);

	ERR(b1_node_new_facet(p.box.node, &again, 0, 0, NULL), EINVAL);
	ERR(b1_node_new_facet(p.box.node, &again, 1, 2, NULL), EINVAL);
	facet_init(&f, p.box.node, 5, 0);
	ERR(b1_node_new_facet(f.node, &again, 1, 0, NULL), EINVAL);
	facet_deinit(&f);
	OK(b1_node_destroy(p.box.node, 0));
	ERR(b1_node_new_facet(p.box.node, &again, 1, 0, NULL), EHOSTUNREACH);
	pair_deinit(&p);
}

TEST("OBJ-8 LIB-2 the end of a facet kills its handles, and no others")
{
	unsigned int dead[2] = { 0 }, own = 0;
	struct facet f[2];
	b1_handle *h[2];
	struct pair p;
	int i;

	pair_init(&p);
	for (i = 0; i < 2; i++) {
		facet_init(&f[i], p.box.node, (uint64_t)i + 1, 0);
		h[i] = facet_give(&f[i], &p);
		OK(b1_handle_watch(h[i], NULL, count_dead, &dead[i]));
	}
	OK(b1_handle_watch(b1_node_get_handle(f[0].node), NULL, count_dead, &own));
	OK(b1_send_bytes(h[0], "never received", 14, NULL));
	ERR(b1_node_destroy(f[0].node, B1_NODE_UNUSED), EBUSY);
	OK(b1_node_destroy(f[0].node, 0));
	EQ(own, 1);
	ERR(b1_node_destroy(f[0].node, 0), EHOSTUNREACH);
	EQ(drain(p.a), 0);
	drain(p.b);
	EQ(dead[0], 1);
	EQ(dead[1], 0);
	CHECK(b1_handle_is_dead(h[0]));
	ERR(b1_send_bytes(h[0], "x", 1, NULL), EHOSTUNREACH);
	OK(b1_send_bytes(h[1], "x", 1, NULL));
	OK(b1_send_bytes(p.to_box, "x", 1, NULL));
	EQ(drain(p.a), 2);

	/* Minted anew it is another; the old handle stays dead. */
	facet_deinit(&f[0]);
	facet_init(&f[0], p.box.node, 1, 0);
	ERR(b1_send_bytes(h[0], "x", 1, NULL), EHOSTUNREACH);
	b1_handle_unref(h[0]);
	h[0] = facet_give(&f[0], &p);
	OK(b1_send_bytes(h[0], "x", 1, NULL));
	EQ(drain(p.a), 1);
	EQ(b1_message_get_badge(p.box.last), 1);

	/* By the last reference. */
	facet_deinit(&f[0]);
	drain(p.b);
	CHECK(b1_handle_is_dead(h[0]));
	b1_handle_unref(h[0]);
	b1_handle_unref(h[1]);
	drain(p.a);
	facet_deinit(&f[1]);
	pair_deinit(&p);
}

TEST("OBJ-8 LIB-2 facets die with their node, and keep its object")
{
	unsigned int dead = 0, own = 0;
	struct facet f;
	struct pair p;
	b1_handle *h;

	pair_init(&p);
	facet_init(&f, p.box.node, 1, 0);
	h = facet_give(&f, &p);
	OK(b1_handle_watch(h, NULL, count_dead, &dead));
	OK(b1_handle_watch(b1_node_get_handle(f.node), NULL, count_dead, &own));
	/* The program drops the node; the facet has it still. */
	p.box.node = b1_node_ref(p.box.node);
	b1_node_unref(p.box.node);
	OK(b1_send_bytes(h, "x", 1, NULL));
	EQ(drain(p.a), 1);
	OK(b1_node_destroy(p.box.node, 0));
	EQ(own, 1);
	CHECK(b1_handle_is_dead(b1_node_get_handle(f.node)));
	ERR(b1_send_bytes(b1_node_get_handle(f.node), "x", 1, NULL), EHOSTUNREACH);
	ERR(b1_node_destroy(f.node, 0), EHOSTUNREACH);
	drain(p.b);
	EQ(dead, 1);
	b1_handle_unref(h);
	HAS(p.a, 0, 0, 0);
	facet_deinit(&f);
	pair_deinit(&p);
}

TEST("OBJ-6 LIB-2 a node lives as long as it has a facet")
{
	struct facet f;
	struct pair p;
	b1_handle *h;

	pair_init(&p);
	facet_init(&f, p.box.node, 1, 0);
	h = facet_give(&f, &p);
	box_empty(&p.box);
	b1_node_unref(p.box.node);
	EQ(p.box.n_destroyed, 0);
	OK(b1_send_bytes(h, "x", 1, NULL));
	EQ(drain(p.a), 1);
	box_empty(&p.box);
	facet_deinit(&f);
	EQ(p.box.n_destroyed, 1);
	p.box.node = NULL;
	HAS(p.a, 0, 0, 0);
	drain(p.b);
	CHECK(b1_handle_is_dead(h));
	CHECK(b1_handle_is_dead(p.to_box));
	b1_handle_unref(h);
	pair_deinit(&p);
}

TEST("OBJ-9 LIB-2 a one-shot carries one message")
{
	unsigned int dead = 0;
	b1_handle *h, *copy = NULL;
	struct facet f;
	struct pair p;
	b1_peer *c = new_peer();

	pair_init(&p);
	facet_init(&f, p.box.node, 7, B1_FACET_ONCE);
	h = facet_give(&f, &p);
	EQ(b1_handle_get_flags(h), B1_RIGHT_SEND | B1_RIGHT_TRANSFER | B1_HANDLE_ONCE);
	OK(b1_handle_transfer(h, c, &copy));
	OK(b1_handle_watch(copy, NULL, count_dead, &dead));
	OK(b1_send_bytes(h, "the one", 7, NULL));
	CHECK(b1_handle_is_dead(h));
	ERR(b1_send_bytes(h, "x", 1, NULL), EHOSTUNREACH);
	drain(c);
	EQ(dead, 1);
	ERR(b1_send_bytes(copy, "x", 1, NULL), EHOSTUNREACH);
	HAS(p.b, 0, 1, 0);
	b1_handle_unref(h);
	EQ(drain(p.a), 1);
	EQ(b1_message_get_badge(p.box.last), 7);
	EQ(f.n_unused, 0);
	HAS(p.a, 1, 0, 0);
	ERR(b1_node_destroy(f.node, 0), EHOSTUNREACH);
	facet_deinit(&f);

	/* With a count that came twice, one is left, of a dead handle. */
	facet_init(&f, p.box.node, 0, B1_FACET_ONCE);
	h = facet_give(&f, &p);
	CHECK(facet_give(&f, &p) == h);
	b1_handle_unref(h);
	OK(b1_send_bytes(h, "x", 1, NULL));
	CHECK(b1_handle_is_dead(h));
	drain(p.b);
	ERR(b1_send_bytes(h, "x", 1, NULL), EHOSTUNREACH);
	b1_handle_unref(h);
	HAS(p.b, 0, 1, 0);
	facet_deinit(&f);
	/* The owner's own. */
	facet_init(&f, p.box.node, 3, B1_FACET_ONCE);
	OK(b1_send_bytes(b1_node_get_handle(f.node), "x", 1, NULL));
	ERR(b1_send_bytes(b1_node_get_handle(f.node), "x", 1, NULL), EHOSTUNREACH);
	facet_deinit(&f);
	b1_handle_unref(copy);
	b1_peer_unref(c);
	drain(p.a);
	box_empty(&p.box);
	pair_deinit(&p);
}

TEST("OBJ-9 LIB-2 a one-shot that was not known as such, and one of many destinations")
{
	b1_handle *h = NULL, *to[3];
	struct facet f, g;
	int errors[3];
	struct pair p;
	uint64_t id;

	pair_init(&p);
	facet_init(&f, p.box.node, 1, B1_FACET_ONCE);
	OK(b1_handle_transfer_fd(b1_node_get_handle(f.node), b1_peer_get_fd(p.b), &id));
	OK(b1_handle_from_id(p.b, &h, id));
	ERR(b1_handle_get_flags(h), ENODATA);
	OK(b1_send_bytes(h, "x", 1, NULL));
	ERR(b1_send_bytes(h, "x", 1, NULL), EHOSTUNREACH);
	b1_handle_unref(h);
	drain(p.b);
	HAS(p.b, 0, 1, 0);

	facet_init(&g, p.box.node, 2, B1_FACET_ONCE);
	to[0] = to[2] = facet_give(&g, &p);
	to[1] = p.to_box;
	ERR(b1_multicast(to, 3, &(b1_outgoing){ 0 }, errors), EHOSTUNREACH);
	CHECK(!b1_handle_is_dead(to[0]));
	OK(b1_multicast(to, 3, &(b1_outgoing){ .flags = B1_SEND_PARTIAL }, NULL));
	CHECK(b1_handle_is_dead(to[0]));
	CHECK(!b1_handle_is_dead(to[1]));
	OK(b1_multicast(to, 3, &(b1_outgoing){ .flags = B1_SEND_PARTIAL }, errors));
	EQ(errors[0], -EHOSTUNREACH);
	EQ(errors[1], 0);
	EQ(errors[2], -EHOSTUNREACH);
	b1_handle_unref(to[0]);
	EQ(drain(p.a), 4);
	EQ(f.n_unused + g.n_unused, 0);
	facet_deinit(&f);
	facet_deinit(&g);
	pair_deinit(&p);
}

TEST("OBJ-9 LIB-2 a one-shot that is dropped is told of")
{
	struct facet f;
	struct pair p;

	pair_init(&p);
	facet_init(&f, p.box.node, 7, B1_FACET_ONCE);
	b1_handle_unref(facet_give(&f, &p));
	EQ(drain(p.a), 1);
	EQ(f.n_unused, 1);
	/* It may be passed on again, or be over. */
	b1_handle_unref(facet_give(&f, &p));
	EQ(drain(p.a), 1);
	EQ(f.n_unused, 2);
	OK(b1_node_destroy(f.node, B1_NODE_UNUSED));
	facet_deinit(&f);
	pair_deinit(&p);
}

TEST("OBJ-1 LIB-2 a peer ends with facets, in any order of the objects")
{
	struct facet f[300];
	b1_node *node = NULL;
	b1_peer *peer;
	int i;

	peer = new_peer();
	OK(b1_node_new(peer, &node, NULL, NULL));
	for (i = 0; i < 300; i++)
		facet_init(&f[i], node, (uint64_t)i + 1, i % 3 ? 0 : B1_FACET_ONCE);
	HAS(peer, 301, 0, 0);
	b1_peer_unref(peer);
	b1_node_unref(node);
	for (i = 0; i < 300; i++) {
		ERR(b1_node_destroy(f[i].node, 0), ESHUTDOWN);
		facet_deinit(&f[i]);
	}
}
