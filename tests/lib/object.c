// SPDX-License-Identifier: GPL-2.0-or-later
/* Nodes, handles and watches: identity, and what their lives do. */
#include "lib.h"

/* b drops its handle to the box, which had no other user. */
static void last_user_goes(struct pair *p)
{
	EQ(drain(p->a), 0);
	p->to_box = b1_handle_unref(p->to_box);
	EQ(drain(p->a), 1);
	EQ(p->box.n_unused, 1);
	HAS(p->b, 1, 0, 0);
}

TEST("OBJ-4 LIB-2 the same handle is the same object, however it comes")
{
	b1_handle *by_message, *by_transfer = NULL;
	struct pair p;
	struct box b_box;
	b1_handle *to_b;
	unsigned int i;

	pair_init(&p);
	box_init(&b_box, p.b);
	OK(b1_handle_transfer(b1_node_get_handle(b_box.node), p.a, &to_b));
	OK(b1_handle_transfer(b1_node_get_handle(p.box.node), p.b, &by_transfer));
	CHECK(by_transfer == p.to_box);
	for (i = 0; i < 3; i++) {
		b1_handle *twice[] = { b1_node_get_handle(p.box.node), b1_node_get_handle(p.box.node) };

		OK(b1_send(to_b, &(b1_outgoing){ .handles = twice, .n_handles = 2 }));
		drain(p.b);
		EQ(b1_message_get_n_handles(b_box.last), 2);
		by_message = b1_message_get_handle(b_box.last, 0);
		CHECK(by_message == p.to_box);
		CHECK(b1_message_get_handle(b_box.last, 1) == p.to_box);
		CHECK(b1_message_get_handle(b_box.last, 2) == NULL);
		box_empty(&b_box);
	}
	HAS(p.b, 1, 1, 0);

	/* One user for each reference; the last one is what counts. */
	b1_handle_unref(by_transfer);
	last_user_goes(&p);
	b1_handle_unref(to_b);
	drain(p.b);
	box_deinit(&b_box);
	pair_deinit(&p);
}

TEST("OBJ-3 LIB-2 a handle delivered a thousand times is released as a whole")
{
	struct pair p;
	struct box b_box;
	b1_handle *to_b;
	unsigned int i;

	pair_init(&p);
	box_init(&b_box, p.b);
	OK(b1_handle_transfer(b1_node_get_handle(b_box.node), p.a, &to_b));
	for (i = 0; i < 1000; i++) {
		OK(b1_send_bytes(to_b, NULL, 0, b1_node_get_handle(p.box.node)));
		EQ(drain(p.b), 1);
	}
	box_empty(&b_box);
	last_user_goes(&p);
	b1_handle_unref(to_b);
	drain(p.b);
	box_deinit(&b_box);
	pair_deinit(&p);
}

TEST("OBJ-4 LIB-2 a handle to one's own node arrives as the node")
{
	b1_handle *own = NULL;
	struct pair p;

	pair_init(&p);
	OK(b1_send_bytes(p.to_box, "x", 1, p.to_box));
	drain(p.a);
	own = b1_message_get_handle(p.box.last, 0);
	CHECK(own == b1_node_get_handle(p.box.node));
	CHECK(b1_handle_get_node(own) == p.box.node);
	CHECK(b1_handle_get_node(p.to_box) == NULL);
	box_empty(&p.box);

	OK(b1_handle_transfer(p.to_box, p.a, &own));
	CHECK(own == b1_node_get_handle(p.box.node));
	b1_handle_unref(own);
	HAS(p.a, 1, 0, 0);
	pair_deinit(&p);
}

TEST("LIB-2 a node can be sent to by its owner, and along")
{
	b1_peer *peer = new_peer();
	struct box box;

	box_init(&box, peer);
	OK(b1_send_bytes(b1_node_get_handle(box.node), "self", 4, b1_node_get_handle(box.node)));
	drain(peer);
	EQ(box.n_messages, 1);
	CHECK(b1_handle_get_node(b1_message_get_handle(box.last, 0)) == box.node);
	box_deinit(&box);
	HAS(peer, 0, 0, 0);
	b1_peer_unref(peer);
}

TEST("LIB-2 OBJ-8 the last reference to a node destroys it")
{
	unsigned int dead = 0;
	struct pair p;

	pair_init(&p);
	OK(b1_handle_watch(p.to_box, NULL, count_dead, &dead));
	b1_node_ref(p.box.node);
	b1_node_unref(p.box.node);
	EQ(drain(p.b), 0);
	CHECK(!b1_handle_is_dead(p.to_box));
	OK(b1_send_bytes(p.to_box, "never seen", 10, NULL));
	box_deinit(&p.box);
	HAS(p.a, 0, 0, 0);
	EQ(drain(p.a), 0);
	EQ(p.box.n_messages, 0);

	ERR(b1_send_bytes(p.to_box, "x", 1, NULL), EHOSTUNREACH);
	EQ(drain(p.b), 1);
	CHECK(b1_handle_is_dead(p.to_box));
	EQ(dead, 1);
	pair_deinit(&p);
	EQ(dead, 1);
}

TEST("LIB-2 OBJ-8 a node is destroyed by command, and its object stays")
{
	unsigned int dead = 0, own_dead = 0;
	b1_handle *handle = NULL;
	struct pair p;

	pair_init(&p);
	OK(b1_handle_watch(p.to_box, NULL, count_dead, &dead));
	OK(b1_handle_watch(b1_node_get_handle(p.box.node), NULL, count_dead, &own_dead));
	ERR(b1_node_destroy(p.box.node, B1_NODE_UNUSED), EBUSY);
	ERR(b1_node_destroy(p.box.node, 2), EINVAL);
	EQ(own_dead, 0);
	OK(b1_node_destroy(p.box.node, 0));
	EQ(own_dead, 1);
	CHECK(b1_handle_is_dead(b1_node_get_handle(p.box.node)));
	ERR(b1_node_destroy(p.box.node, 0), EHOSTUNREACH);
	ERR(b1_send_bytes(b1_node_get_handle(p.box.node), "x", 1, NULL), EHOSTUNREACH);
	ERR(b1_handle_transfer(b1_node_get_handle(p.box.node), p.b, &handle), ENXIO);
	ERR(b1_handle_watch(b1_node_get_handle(p.box.node), NULL, count_dead, &own_dead), EHOSTUNREACH);
	EQ(p.box.n_destroyed, 0);
	drain(p.b);
	EQ(dead, 1);
	pair_deinit(&p);
}

TEST("LIB-2 OBJ-4 OBJ-8 a handle to one's own node arrives as the node when that is dead, too")
{
	b1_handle *to_second = NULL, *own = NULL;
	struct box second;
	struct pair p;

	pair_init(&p);
	box_init(&second, p.a);
	OK(b1_handle_transfer(b1_node_get_handle(second.node), p.b, &to_second));
	OK(b1_node_destroy(p.box.node, 0));
	OK(b1_send_bytes(to_second, NULL, 0, p.to_box));
	drain(p.a);
	own = b1_message_get_handle(second.last, 0);
	CHECK(b1_handle_get_node(own) == p.box.node);
	CHECK(b1_handle_is_dead(own));
	box_empty(&second);
	OK(b1_handle_transfer(p.to_box, p.a, &own));
	CHECK(b1_handle_get_node(own) == p.box.node);
	b1_handle_unref(own);

	/* Without its object it is a dead handle like any other. */
	p.box.node = b1_node_unref(p.box.node);
	OK(b1_send_bytes(to_second, NULL, 0, p.to_box));
	drain(p.a);
	own = b1_message_get_handle(second.last, 0);
	CHECK(b1_handle_get_node(own) == NULL);
	CHECK(b1_handle_is_dead(own));
	box_deinit(&second);
	b1_handle_unref(to_second);
	pair_deinit(&p);
}

TEST("LIB-2 OBJ-10 unused, used again, and destroyed when unused")
{
	struct pair p;

	pair_init(&p);
	p.to_box = b1_handle_unref(p.to_box);
	EQ(drain(p.a), 1);
	EQ(p.box.n_unused, 1);
	OK(b1_handle_transfer(b1_node_get_handle(p.box.node), p.b, &p.to_box));
	ERR(b1_node_destroy(p.box.node, B1_NODE_UNUSED), EBUSY);
	CHECK(!b1_handle_is_dead(b1_node_get_handle(p.box.node)));
	p.to_box = b1_handle_unref(p.to_box);
	EQ(drain(p.a), 1);
	EQ(p.box.n_unused, 2);
	OK(b1_node_destroy(p.box.node, B1_NODE_UNUSED));
	pair_deinit(&p);
}

TEST("LIB-2 OBJ-8 a handle that arrives dead")
{
	b1_handle *to_b, *late;
	unsigned int dead = 0;
	b1_node *node = NULL;
	struct box b_box;
	struct pair p;

	pair_init(&p);
	box_init(&b_box, p.b);
	OK(b1_handle_transfer(b1_node_get_handle(b_box.node), p.a, &to_b));
	OK(b1_node_new(p.a, &node, NULL, NULL));
	OK(b1_send_bytes(to_b, NULL, 0, b1_node_get_handle(node)));
	b1_node_unref(node);
	drain(p.b);
	late = b1_message_get_handle(b_box.last, 0);
	CHECK(b1_handle_is_dead(late));
	ERR(b1_handle_watch(late, NULL, count_dead, &dead), EHOSTUNREACH);
	ERR(b1_send_bytes(late, NULL, 0, NULL), EHOSTUNREACH);

	/* And is passed on, dead. */
	OK(b1_send_bytes(p.to_box, NULL, 0, late));
	drain(p.a);
	CHECK(b1_handle_is_dead(b1_message_get_handle(p.box.last, 0)));
	OK(b1_handle_transfer(late, p.a, &late));
	CHECK(late == b1_message_get_handle(p.box.last, 0));
	b1_handle_unref(late);
	b1_handle_unref(to_b);
	box_empty(&p.box);
	drain(p.b);
	box_deinit(&b_box);
	drain(p.b);
	pair_deinit(&p);
	EQ(dead, 0);
}

TEST("LIB-2 OBJ-8 a dead handle that is transferred becomes known as dead")
{
	b1_handle *dead_handle = NULL, *copy = NULL;
	b1_peer *c = new_peer();
	b1_node *node = NULL;
	struct pair p;

	pair_init(&p);
	OK(b1_node_new(p.a, &node, NULL, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(node), p.b, &dead_handle));
	b1_node_unref(node);
	OK(b1_handle_transfer(dead_handle, c, &copy));
	drain(c);
	CHECK(b1_handle_is_dead(copy));
	b1_handle_unref(copy);
	b1_handle_unref(dead_handle);
	HAS(c, 0, 0, 0);
	b1_peer_unref(c);
	pair_deinit(&p);
}

TEST("LIB-2 watches: several, one freed, one floating")
{
	unsigned int freed = 0, kept = 0, floating = 0;
	b1_watch *one = NULL, *two = NULL;
	struct pair p;

	pair_init(&p);
	OK(b1_handle_watch(p.to_box, &one, count_dead, &freed));
	OK(b1_handle_watch(p.to_box, &two, count_dead, &kept));
	OK(b1_handle_watch(p.to_box, NULL, count_dead, &floating));
	ERR(b1_handle_watch(p.to_box, NULL, NULL, NULL), EINVAL);
	CHECK(b1_watch_free(one) == NULL);
	box_deinit(&p.box);
	drain(p.b);
	EQ(freed, 0);
	EQ(kept, 1);
	EQ(floating, 1);
	b1_watch_free(two);
	pair_deinit(&p);
}

struct watcher {
	b1_watch *watch;
	unsigned int dead, destroyed;
	b1_handle *drop;
};

static void watcher_destroyed(void *userdata)
{
	struct watcher *w = userdata;

	w->destroyed++;
}

static int watcher_dead(b1_handle *handle, void *userdata)
{
	struct watcher *w = userdata;

	w->dead++;
	w->watch = b1_watch_free(w->watch);
	EQ(w->destroyed, 0);
	w->drop = b1_handle_unref(w->drop);
	return 0;
}

TEST("LIB-2 a watch freed, and its handle dropped, in the callback")
{
	struct watcher w = { 0 };
	struct pair p;

	pair_init(&p);
	OK(b1_handle_watch(p.to_box, &w.watch, watcher_dead, &w));
	OK(b1_watch_set_destroy(w.watch, watcher_destroyed));
	w.drop = p.to_box;
	p.to_box = NULL;
	box_deinit(&p.box);
	EQ(drain(p.b), 1);
	EQ(w.dead, 1);
	EQ(w.destroyed, 1);
	CHECK(!w.watch);
	pair_deinit(&p);
}

TEST("LIB-2 a watch ends with its handle")
{
	struct watcher kept = { 0 }, floating = { 0 };
	struct pair p;

	pair_init(&p);
	OK(b1_handle_watch(p.to_box, &kept.watch, watcher_dead, &kept));
	OK(b1_watch_set_destroy(kept.watch, watcher_destroyed));
	OK(b1_handle_watch(p.to_box, NULL, watcher_dead, &floating));
	p.to_box = b1_handle_unref(p.to_box);
	box_deinit(&p.box);
	drain(p.b);
	EQ(kept.dead + floating.dead, 0);
	EQ(kept.destroyed, 0);
	b1_watch_free(kept.watch);
	EQ(kept.destroyed, 1);
	pair_deinit(&p);
}

static int forward(b1_handle *handle, void *userdata)
{
	return *(int *)userdata;
}

TEST("LIB-2 what callbacks return comes out of process")
{
	int no_error = 5, error = -ENOTUNIQ;
	b1_node *node = NULL;
	struct pair p;

	pair_init(&p);
	p.box.result = -EBADMSG;
	OK(b1_send_bytes(p.to_box, "x", 1, NULL));
	ERR(b1_peer_process(p.a), EBADMSG);
	p.box.result = 7;
	OK(b1_send_bytes(p.to_box, "x", 1, NULL));
	EQ(OK(b1_peer_process(p.a)), 1);

	p.box.result = -EBADMSG;
	p.to_box = b1_handle_unref(p.to_box);
	ERR(b1_peer_process(p.a), EBADMSG);
	EQ(p.box.n_unused, 1);

	OK(b1_node_new(p.a, &node, NULL, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(node), p.b, &p.to_box));
	OK(b1_handle_watch(p.to_box, NULL, forward, &no_error));
	OK(b1_handle_watch(p.to_box, NULL, forward, &error));
	OK(b1_handle_watch(p.to_box, NULL, forward, &no_error));
	b1_node_unref(node);
	ERR(b1_peer_process(p.b), ENOTUNIQ);
	EQ(OK(b1_peer_process(p.b)), 0);
	pair_deinit(&p);
}

/* A node whose callbacks drop what they are called for. */
struct suicide {
	b1_peer *peer;
	b1_node *node;
	unsigned int messages, unused, destroyed;
};

static int suicide_message(b1_node *node, b1_message *message, void *userdata)
{
	struct suicide *s = userdata;

	s->messages++;
	s->node = b1_node_unref(s->node);
	s->peer = b1_peer_unref(s->peer);
	EQ(s->destroyed, 0);
	/* Still there, as is the message. */
	CHECK(b1_node_get_userdata(node) == s);
	check_pattern(message, LARGE, 9);
	return 0;
}

static int suicide_unused(b1_node *node, void *userdata)
{
	struct suicide *s = userdata;

	s->unused++;
	OK(b1_node_destroy(node, B1_NODE_UNUSED));
	s->node = b1_node_unref(s->node);
	EQ(s->destroyed, 0);
	return 0;
}

static void suicide_destroyed(void *userdata)
{
	struct suicide *s = userdata;

	s->destroyed++;
}

TEST("LIB-2 a node, and the peer, dropped in the handler")
{
	struct suicide s = { 0 };
	b1_handle *handle = NULL;
	char data[LARGE];
	struct pair p;
	b1_peer *c;

	pair_init(&p);
	s.peer = c = new_peer();
	OK(b1_node_new(c, &s.node, suicide_message, &s));
	OK(b1_node_set_destroy(s.node, suicide_destroyed));
	OK(b1_handle_transfer(b1_node_get_handle(s.node), p.b, &handle));
	pattern(data, sizeof(data), 9);
	OK(b1_send_bytes(handle, data, sizeof(data), p.to_box));
	OK(b1_send_bytes(handle, data, sizeof(data), p.to_box));
	EQ(OK(b1_peer_process(c)), 2);
	EQ(s.messages, 1);
	EQ(s.destroyed, 1);
	EQ(drain(p.b), 1);
	CHECK(b1_handle_is_dead(handle));
	b1_handle_unref(handle);
	pair_deinit(&p);
}

TEST("LIB-2 a node dropped in its unused callback")
{
	struct suicide s = { 0 };
	b1_handle *handle = NULL;
	struct pair p;

	pair_init(&p);
	OK(b1_node_new(p.a, &s.node, suicide_message, &s));
	OK(b1_node_set_destroy(s.node, suicide_destroyed));
	OK(b1_node_set_unused(s.node, suicide_unused));
	OK(b1_handle_transfer(b1_node_get_handle(s.node), p.b, &handle));
	b1_handle_unref(handle);
	EQ(drain(p.a), 1);
	EQ(s.unused, 1);
	EQ(s.destroyed, 1);
	pair_deinit(&p);
}

struct nester {
	b1_peer *peer;
	unsigned int depth, deepest, n;
};

static int nester_message(b1_node *node, b1_message *message, void *userdata)
{
	struct nester *nester = userdata;

	nester->n++;
	if (++nester->depth > nester->deepest)
		nester->deepest = nester->depth;
	while (nester->depth < 5 && OK(b1_peer_process(nester->peer)) > 0)
		;
	nester->depth--;
	return 0;
}

TEST("LIB-2 process within a handler")
{
	struct nester nester = { 0 };
	b1_handle *handle = NULL;
	b1_node *node = NULL;
	char data[LARGE] = "";
	unsigned int i;
	struct pair p;

	pair_init(&p);
	nester.peer = p.a;
	OK(b1_node_new(p.a, &node, nester_message, &nester));
	OK(b1_handle_transfer(b1_node_get_handle(node), p.b, &handle));
	for (i = 0; i < 40; i++)
		OK(b1_send_bytes(handle, data, i % 3 ? 8 : sizeof(data), NULL));
	drain(p.a);
	EQ(nester.n, 40);
	EQ(nester.deepest, 5);
	EQ(info(p.a).n_slices, 0);
	b1_handle_unref(handle);
	b1_node_unref(node);
	pair_deinit(&p);
}

TEST("LIB-2 a node without a handler drops what it gets")
{
	b1_handle *handle = NULL;
	b1_node *node = NULL;
	char data[LARGE] = "";
	struct pair p;

	pair_init(&p);
	OK(b1_node_new(p.a, &node, NULL, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(node), p.b, &handle));
	OK(b1_send_bytes(handle, data, sizeof(data), p.to_box));
	EQ(OK(b1_peer_process(p.a)), 1);
	HAS(p.a, 2, 0, 0);
	b1_handle_unref(handle);
	b1_node_unref(node);
	pair_deinit(&p);
}
