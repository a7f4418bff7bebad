// SPDX-License-Identifier: GPL-2.0-or-later
/* The objects' common rules, and peers. */
#include "lib.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

TEST("LIB-1 unref takes NULL and returns NULL")
{
	struct pair p;

	CHECK(b1_peer_unref(NULL) == NULL);
	CHECK(b1_node_unref(NULL) == NULL);
	CHECK(b1_handle_unref(NULL) == NULL);
	CHECK(b1_message_unref(NULL) == NULL);
	CHECK(b1_watch_free(NULL) == NULL);

	pair_init(&p);
	CHECK(b1_peer_ref(p.a) == p.a);
	CHECK(b1_peer_unref(p.a) == NULL);
	CHECK(b1_node_ref(p.box.node) == p.box.node);
	CHECK(b1_node_unref(p.box.node) == NULL);
	CHECK(b1_handle_ref(p.to_box) == p.to_box);
	CHECK(b1_handle_unref(p.to_box) == NULL);
	pair_deinit(&p);
}

TEST("LIB-1 the descriptor is close-on-exec, and of a peer")
{
	b1_peer *peer = new_peer();

	EQ(fcntl(b1_peer_get_fd(peer), F_GETFD), FD_CLOEXEC);
	EQ(b1_peer_get_events(peer), POLLIN);
	EQ(info(peer).pool_size, POOL_SIZE);
	b1_peer_unref(peer);
}

TEST("LIB-1 the default pool takes a large message")
{
	static char data[1 << 20];
	b1_peer *peer = NULL;
	struct box box;

	OK(b1_peer_new(&peer, B1_POOL_DEFAULT));
	box_init(&box, peer);
	pattern(data, sizeof(data), 1);
	OK(b1_send_bytes(b1_node_get_handle(box.node), data, sizeof(data), NULL));
	EQ(drain(peer), 1);
	check_pattern(box.last, sizeof(data), 1);
	box_deinit(&box);
	b1_peer_unref(peer);
}

TEST("LIB-1 a peer that can not be made stores nothing")
{
	b1_peer *peer = (b1_peer *)&peer;
	int fd;

	ERR(b1_peer_new_from_fd(&peer, -1, POOL_SIZE), EBADF);
	fd = (int)OK(SYS(open("/dev/null", O_RDWR | O_CLOEXEC)));
	ERR(b1_peer_new_from_fd(&peer, fd, POOL_SIZE), EMEDIUMTYPE);
	OK(SYS(fcntl(fd, F_GETFD)));
	close(fd);
	fd = (int)OK(SYS(open(B1_DEVICE, O_RDWR | O_CLOEXEC)));
	ERR(b1_peer_new_from_fd(&peer, fd, (size_t)BUS1_MAX_POOL + 1), EINVAL);
	OK(SYS(fcntl(fd, F_GETFD)));
	close(fd);
	ERR(b1_peer_new(&peer, (size_t)BUS1_MAX_POOL + 1), EINVAL);
	CHECK(peer == (b1_peer *)&peer);
}

TEST("LIB-1 cleanup helpers")
{
	unsigned int dead = 0;
	struct pair p;

	pair_init(&p);
	{
		B1_CLEANUP(peer) b1_peer *peer = b1_peer_ref(p.a);
		B1_CLEANUP(node) b1_node *node = NULL;
		B1_CLEANUP(handle) b1_handle *handle = NULL;
		B1_CLEANUP(message) b1_message *message = NULL;
		B1_CLEANUP_WATCH b1_watch *watch = NULL;

		OK(b1_node_new(peer, &node, NULL, NULL));
		OK(b1_handle_transfer(b1_node_get_handle(node), p.b, &handle));
		OK(b1_handle_watch(handle, &watch, count_dead, &dead));
		OK(b1_send_bytes(p.to_box, "x", 1, NULL));
		drain(p.a);
		message = b1_message_ref(p.box.last);
		HAS(p.a, 2, 0, 0);
		HAS(p.b, 0, 2, 0);
	}
	HAS(p.a, 1, 0, 0);
	HAS(p.b, 0, 1, 0);
	pair_deinit(&p);
	EQ(dead, 0);
}

TEST("LIB-1 objects outlive their peer, and fail with ESHUTDOWN")
{
	b1_handle *to_b, *other = NULL;
	b1_watch *watch = NULL;
	unsigned int dead = 0;
	char data[LARGE];
	struct box b_box;
	uint64_t id = 0;
	struct pair p;

	pair_init(&p);
	box_init(&b_box, p.b);
	OK(b1_handle_transfer(b1_node_get_handle(b_box.node), p.a, &to_b));
	OK(b1_handle_watch(to_b, NULL, count_dead, &dead));
	pattern(data, sizeof(data), 3);
	OK(b1_send_bytes(to_b, data, sizeof(data), NULL));
	drain(p.b);

	/* What was not received, with a handle in it, goes too. */
	OK(b1_send_bytes(to_b, data, sizeof(data), b1_node_get_handle(p.box.node)));
	b1_peer_unref(p.b);

	drain(p.a);
	EQ(dead, 1);
	EQ(p.box.n_unused, 1);
	ERR(b1_send_bytes(to_b, "x", 1, NULL), EHOSTUNREACH);

	ERR(b1_send_bytes(p.to_box, "x", 1, NULL), ESHUTDOWN);
	ERR(b1_send_bytes(b1_node_get_handle(b_box.node), "x", 1, NULL), ESHUTDOWN);
	ERR(b1_handle_watch(p.to_box, &watch, count_dead, &dead), ESHUTDOWN);
	ERR(b1_handle_transfer(p.to_box, p.a, &other), ESHUTDOWN);
	ERR(b1_handle_transfer(to_b, p.b, &other), ESHUTDOWN);
	ERR(b1_handle_transfer_fd(p.to_box, b1_peer_get_fd(p.a), &id), ESHUTDOWN);
	ERR(b1_node_destroy(b_box.node, 0), ESHUTDOWN);
	ERR(b1_node_set_unused(b_box.node, NULL), ESHUTDOWN);
	CHECK(!watch && !other && !id);

	/* The data is where it was. */
	check_pattern(b_box.last, sizeof(data), 3);
	box_deinit(&b_box);
	p.to_box = b1_handle_unref(p.to_box);
	b1_handle_unref(to_b);
	box_deinit(&p.box);
	HAS(p.a, 0, 0, 0);
	b1_peer_unref(p.a);
	EQ(dead, 1);
}

TEST("LIB-1 a peer that ends has its received messages dropped")
{
	unsigned int i;
	struct pair p;
	struct box b_box;
	b1_handle *to_b;
	char data[LARGE] = "";

	pair_init(&p);
	box_init(&b_box, p.b);
	OK(b1_handle_transfer(b1_node_get_handle(b_box.node), p.a, &to_b));
	for (i = 0; i < 10; i++)
		OK(b1_send_bytes(to_b, data, i % 2 ? 10 : sizeof(data), b1_node_get_handle(p.box.node)));
	/* The first stops the rest, which is received and not looked at. */
	b_box.result = -EBADMSG;
	ERR(b1_peer_process(p.b), EBADMSG);
	EQ(b_box.n_messages, 1);
	b1_peer_unref(p.b);
	EQ(b_box.n_messages, 1);
	drain(p.a);
	EQ(p.box.n_unused, 1);
	CHECK(b1_handle_is_dead(to_b));
	box_deinit(&b_box);
	b1_handle_unref(p.to_box);
	b1_handle_unref(to_b);
	box_deinit(&p.box);
	b1_peer_unref(p.a);
}

TEST("LIB-1 a forked child can do nothing, and undoes nothing")
{
	b1_node *node = NULL;
	b1_handle *handle = NULL;
	b1_watch *watch = NULL;
	uint64_t deadline = 1;
	unsigned int dead = 0;
	struct pair p;
	pid_t pid;

	pair_init(&p);
	OK(b1_send_bytes(p.to_box, "x", 1, NULL));
	pid = test_fork();
	if (!pid) {
		ERR(b1_peer_process(p.a), ECHILD);
		ERR(b1_peer_wait(p.a, 0), ECHILD);
		ERR(b1_peer_get_timeout(p.a, &deadline), ECHILD);
		ERR(b1_node_new(p.a, &node, NULL, NULL), ECHILD);
		ERR(b1_node_destroy(p.box.node, 0), ECHILD);
		ERR(b1_node_set_destroy(p.box.node, NULL), ECHILD);
		ERR(b1_send_bytes(p.to_box, "x", 1, NULL), ECHILD);
		ERR(b1_handle_from_id(p.a, &handle, 1), ECHILD);
		ERR(b1_handle_transfer(p.to_box, p.a, &handle), ECHILD);
		ERR(b1_handle_watch(p.to_box, &watch, count_dead, &dead), ECHILD);
		b1_node_unref(p.box.node);
		b1_handle_unref(p.to_box);
		b1_peer_unref(p.a);
		b1_peer_unref(p.b);
		_exit(0);
	}
	test_wait(pid);
	EQ(drain(p.a), 1);
	EQ(p.box.n_messages, 1);
	EQ(p.box.n_unused, 0);
	pair_deinit(&p);
}

TEST("OBJ-13 LIB-2 a peer made of a descriptor, with a handle in it")
{
	b1_handle *handle = NULL, *again = NULL;
	struct pair p;
	b1_peer *c = NULL;
	uint64_t id = 0;
	int fd;

	pair_init(&p);
	fd = (int)OK(SYS(open(B1_DEVICE, O_RDWR)));
	OK(b1_handle_transfer_fd(b1_node_get_handle(p.box.node), fd, &id));
	NE(id, 0);

	OK(b1_peer_new_from_fd(&c, fd, POOL_SIZE));
	EQ(b1_peer_get_fd(c), fd);
	EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	ERR(b1_handle_from_id(c, &handle, id + 1000), ENXIO);
	ERR(b1_handle_from_id(c, &handle, 0), ENXIO);
	CHECK(!handle);
	OK(b1_handle_from_id(c, &handle, id));
	EQ(b1_handle_get_id(handle), id);

	/* It is the same that comes later by other ways. */
	OK(b1_handle_transfer(p.to_box, c, &again));
	CHECK(again == handle);
	again = b1_handle_unref(again);

	OK(b1_send_bytes(handle, "x", 1, NULL));
	EQ(drain(p.a), 1);
	p.to_box = b1_handle_unref(p.to_box);
	EQ(drain(p.a), 0);
	handle = b1_handle_unref(handle);
	EQ(drain(p.a), 1);
	EQ(p.box.n_unused, 1);
	HAS(c, 0, 0, 0);
	b1_peer_unref(c);
	pair_deinit(&p);
}

TEST("OBJ-13 LIB-2 an id taken over must be a handle")
{
	b1_handle *handle = NULL;
	struct pair p;

	pair_init(&p);
	ERR(b1_handle_from_id(p.a, &handle, b1_handle_get_id(b1_node_get_handle(p.box.node))), EPERM);
	CHECK(!handle);
	pair_deinit(&p);
}

TEST("OBJ-13 LIB-2 transfer to a file that is no peer")
{
	struct pair p;
	uint64_t id = 0;
	int fd;

	pair_init(&p);
	ERR(b1_handle_transfer_fd(p.to_box, -1, &id), EBADF);
	fd = (int)OK(SYS(open("/dev/null", O_RDWR | O_CLOEXEC)));
	ERR(b1_handle_transfer_fd(p.to_box, fd, &id), EMEDIUMTYPE);
	EQ(id, 0);
	close(fd);
	pair_deinit(&p);
}

TEST("LIB-3 wait: at once, at the deadline, and when something came")
{
	uint64_t start;
	struct pair p;

	pair_init(&p);
	EQ(OK(b1_peer_wait(p.a, 0)), 0);
	EQ(OK(b1_peer_wait(p.a, 1)), 0);
	start = test_now();
	EQ(OK(b1_peer_wait(p.a, start + 20000000)), 0);
	GE(test_now(), start + 20000000);

	OK(b1_send_bytes(p.to_box, "x", 1, NULL));
	EQ(OK(b1_peer_wait(p.a, 0)), 1);
	EQ(OK(b1_peer_wait(p.a, 1)), 1);
	EQ(OK(b1_peer_wait(p.a, UINT64_MAX)), 1);
	EQ(p.box.n_messages, 0);
	EQ(OK(b1_peer_process(p.a)), 1);
	EQ(p.box.n_messages, 1);
	EQ(OK(b1_peer_wait(p.a, 0)), 0);

	OK(SYS(fcntl(b1_peer_get_fd(p.a), F_SETFL, O_RDWR | O_NONBLOCK)));
	start = test_now();
	EQ(OK(b1_peer_wait(p.a, start + 20000000)), 0);
	GE(test_now(), start + 20000000);
	pair_deinit(&p);
}

TEST("LIB-3 the deadline is now while something received is left")
{
	uint64_t deadline = 1;
	struct pair p;
	int i;

	pair_init(&p);
	OK(b1_peer_get_timeout(p.a, &deadline));
	EQ(deadline, UINT64_MAX);
	for (i = 0; i < 3; i++)
		OK(b1_send_bytes(p.to_box, "x", 1, NULL));
	p.box.result = -EBADMSG;
	ERR(b1_peer_process(p.a), EBADMSG);
	EQ(p.box.n_messages, 1);
	OK(b1_peer_get_timeout(p.a, &deadline));
	EQ(deadline, 0);
	EQ(OK(b1_peer_wait(p.a, UINT64_MAX)), 1);
	p.box.result = 0;
	EQ(OK(b1_peer_process(p.a)), 2);
	EQ(p.box.n_messages, 3);
	OK(b1_peer_get_timeout(p.a, &deadline));
	EQ(deadline, UINT64_MAX);
	pair_deinit(&p);
}

TEST("LIB-3 what was received is all processed by one call, and calls are bounded")
{
	struct pollfd fd;
	unsigned int i;
	struct pair p;

	pair_init(&p);
	fd = (struct pollfd){ .fd = b1_peer_get_fd(p.a), .events = (short)b1_peer_get_events(p.a) };
	for (i = 0; i < 400; i++)
		OK(b1_send_bytes(p.to_box, "x", 1, NULL));
	for (i = 0; i < 400; i = p.box.n_messages) {
		EQ(OK(SYS(poll(&fd, 1, 0))), 1);
		GT(OK(b1_peer_process(p.a)), 0);
		LE(p.box.n_messages - i, 300);
	}
	EQ(p.box.n_messages, 400);
	EQ(OK(SYS(poll(&fd, 1, 0))), 0);
	EQ(OK(b1_peer_process(p.a)), 0);
	pair_deinit(&p);
}
