// SPDX-License-Identifier: GPL-2.0-or-later
/* What messages have beside bytes and handles: files, senders, priorities, a common order. */
#include "lib.h"

#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static int new_fd(void)
{
	return (int)OK(SYS(eventfd(0, EFD_CLOEXEC)));
}

TEST("MSG-6 LIB-2 file descriptors are the message's, and taken one by one")
{
	int fds[3], got[3], i;
	struct pair p;
	eventfd_t v;

	pair_init(&p);
	OK(b1_peer_set_flags(p.a, B1_PEER_FDS));
	for (i = 0; i < 3; i++)
		fds[i] = new_fd();
	OK(b1_send(p.to_box, &(b1_outgoing){ .data = "with", .size = 4, .fds = fds, .n_fds = 3 }));
	for (i = 0; i < 3; i++)
		CHECK(is_open(fds[i]));
	EQ(drain(p.a), 1);
	EQ(b1_message_get_n_fds(p.box.last), 3);
	MEM(b1_message_get_data(p.box.last, NULL), "with", 4);
	for (i = 0; i < 3; i++) {
		got[i] = (int)OK(b1_message_get_fd(p.box.last, (size_t)i));
		CHECK(OK(SYS(fcntl(got[i], F_GETFD))) & FD_CLOEXEC);
		OK(SYS(eventfd_write(got[i], (eventfd_t)i + 1)));
		OK(SYS(eventfd_read(fds[i], &v)));
		EQ(v, i + 1);
	}
	ERR(b1_message_get_fd(p.box.last, 3), ERANGE);
	ERR(b1_message_take_fd(p.box.last, 3), ERANGE);
	EQ(b1_message_take_fd(p.box.last, 1), got[1]);
	ERR(b1_message_take_fd(p.box.last, 1), EBADF);
	ERR(b1_message_get_fd(p.box.last, 1), EBADF);
	box_empty(&p.box);
	CHECK(!is_open(got[0]));
	CHECK(is_open(got[1]));
	CHECK(!is_open(got[2]));
	close(got[1]);
	for (i = 0; i < 3; i++)
		close(fds[i]);
	pair_deinit(&p);
}

TEST("MSG-6 LIB-2 file descriptors are closed for the sender when it says so, and they were sent")
{
	b1_outgoing out = { .flags = B1_SEND_TAKE_FDS };
	int fds[2] = { new_fd(), -1 }, pair[2];
	struct pair p;

	pair_init(&p);
	out.fds = fds;
	out.n_fds = 2;
	ERR(b1_send(p.to_box, &out), EBADF);
	CHECK(is_open(fds[0]));
	OK(SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair)));
	fds[1] = pair[0];
	ERR(b1_send(p.to_box, &out), ELOOP);
	fds[1] = b1_peer_get_fd(p.a);
	ERR(b1_send(p.to_box, &out), ELOOP);
	CHECK(is_open(fds[0]));
	out.n_fds = 254;
	ERR(b1_send(p.to_box, &out), EMSGSIZE);
	out.n_fds = 1;
	OK(b1_send(p.to_box, &out));
	CHECK(!is_open(fds[0]));
	drain(p.a);
	close(pair[0]);
	close(pair[1]);
	pair_deinit(&p);
}

TEST("MSG-6 LIB-2 a peer that does not ask for file descriptors has none")
{
	int fd = new_fd(), next;
	struct pair p;

	pair_init(&p);
	ERR(b1_peer_set_flags(p.a, 4), EINVAL);
	next = new_fd();
	close(next);
	OK(b1_send(p.to_box, &(b1_outgoing){ .fds = &fd, .n_fds = 1 }));
	EQ(drain(p.a), 1);
	EQ(b1_message_get_n_fds(p.box.last), 0);
	CHECK(!is_open(next));
	OK(b1_peer_set_flags(p.a, B1_PEER_FDS));
	OK(b1_send(p.to_box, &(b1_outgoing){ .fds = &fd, .n_fds = 1 }));
	EQ(drain(p.a), 1);
	EQ(b1_message_get_n_fds(p.box.last), 1);
	OK(b1_peer_set_flags(p.a, 0));
	OK(b1_send(p.to_box, &(b1_outgoing){ .fds = &fd, .n_fds = 1 }));
	EQ(drain(p.a), 1);
	EQ(b1_message_get_n_fds(p.box.last), 0);
	close(fd);
	pair_deinit(&p);
}

TEST("MSG-6 OBJ-1 LIB-2 file descriptors that nobody looked at are closed with the peer")
{
	int fd = new_fd(), next, i;
	struct pair p;

	pair_init(&p);
	OK(b1_peer_set_flags(p.a, B1_PEER_FDS));
	for (i = 0; i < 3; i++)
		OK(b1_send(p.to_box, &(b1_outgoing){ .fds = &fd, .n_fds = 1 }));
	next = new_fd();
	close(next);
	/* Received, and not processed. */
	EQ(OK(b1_peer_wait(p.a, 0)), 1);
	CHECK(is_open(next));
	b1_node_unref(p.box.node);
	p.a = b1_peer_unref(p.a);
	CHECK(!is_open(next));
	close(fd);
	b1_handle_unref(p.to_box);
	b1_peer_unref(p.b);
}

TEST("MSG-1 MSG-6 MSG-7 OBJ-6 LIB-2 everything that a message can have, of all sizes")
{
	b1_node *node = NULL, *facet = NULL;
	struct box box = { 0 };
	b1_handle *handle = NULL, *along[3];
	const b1_creds *creds;
	char data[LARGE];
	size_t size;
	struct pair p;
	int fd = new_fd();

	pair_init(&p);
	OK(b1_peer_set_flags(p.a, B1_PEER_FDS | B1_PEER_PRIORITY));
	box_init(&box, p.b);
	ERR(b1_node_new_flags(p.a, &node, B1_NODE_UNUSED, NULL, NULL), EINVAL);
	OK(b1_node_new_flags(p.a, &node, B1_NODE_CREDS, NULL, NULL));
	b1_node_unref(node);
	box_deinit(&p.box);
	OK(b1_node_new_flags(p.a, &p.box.node, B1_NODE_CREDS, box_handler, &p.box));
	OK(b1_node_new_facet(p.box.node, &facet, 99, 0, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(facet), p.b, &handle));
	along[0] = along[1] = along[2] = b1_node_get_handle(box.node);
	pattern(data, sizeof(data), 3);
	for (size = 0; size <= sizeof(data); size = size < 100 ? size + 1 : size * 3) {
		OK(b1_send(handle, &(b1_outgoing){ .data = data, .size = size,
						   .handles = along, .n_handles = size % 4,
						   .fds = &fd, .n_fds = size % 2,
						   .priority = size % 32 }));
		EQ(drain(p.a), 1);
		check_pattern(p.box.last, size, 3);
		EQ(b1_message_get_badge(p.box.last), 99);
		EQ(b1_message_get_priority(p.box.last), size % 32);
		EQ(b1_message_get_n_handles(p.box.last), size % 4);
		EQ(b1_message_get_n_fds(p.box.last), size % 2);
		if (size % 2)
			CHECK(is_open(b1_message_get_fd(p.box.last, 0)));
		creds = b1_message_get_creds(p.box.last);
		CHECK(creds);
		EQ(creds->pid, getpid());
		EQ(creds->tid, syscall(SYS_gettid));
		EQ(creds->uid, geteuid());
		EQ(creds->gid, getegid());
		CHECK(!creds->label || strlen(creds->label) > 0);
	}
	b1_handle_unref(handle);
	drain(p.a);
	b1_node_unref(facet);
	box_empty(&p.box);
	box_deinit(&box);
	p.box.node = b1_node_unref(p.box.node);
	close(fd);
	pair_deinit(&p);
}

TEST("MSG-7 LIB-2 only nodes that ask for it are told who sends")
{
	struct pair p;

	pair_init(&p);
	OK(b1_send_bytes(p.to_box, "x", 1, NULL));
	drain(p.a);
	CHECK(b1_message_get_creds(p.box.last) == NULL);
	pair_deinit(&p);
}

/* Notes the first byte of each message. */
static int note(b1_node *node, b1_message *message, void *userdata)
{
	char *s = userdata;

	s[strlen(s)] = *(const char *)b1_message_get_data(message, NULL);
	return 0;
}

TEST("MSG-9 LIB-2 a peer that asks for it has messages by priority")
{
	static const unsigned int priority[] = { 0, 3, 31, 3, 0, 31 };
	b1_handle *handle = NULL;
	b1_node *node = NULL;
	struct pair p;
	char got[20] = "";
	size_t i, k;

	pair_init(&p);
	OK(b1_node_new(p.a, &node, note, got));
	OK(b1_handle_transfer(b1_node_get_handle(node), p.b, &handle));
	for (k = 0; k < 2; k++) {
		for (i = 0; i < 6; i++) {
			char c = (char)('a' + i);

			OK(b1_send(handle, &(b1_outgoing){ .data = &c, .size = 1,
							   .priority = priority[i] }));
		}
		drain(p.a);
		STR(got, k ? "abcdefcfbdae" : "abcdef");
		OK(b1_peer_set_flags(p.a, B1_PEER_PRIORITY));
	}
	ERR(b1_send(handle, &(b1_outgoing){ .priority = 32 }), EINVAL);
	b1_handle_unref(handle);
	b1_node_unref(node);
	pair_deinit(&p);
}

struct orderly {
	b1_handle *to[2];
	char c;
};

static void send_orderly(void *arg)
{
	struct orderly *o = arg;
	b1_outgoing out = { .flags = B1_SEND_ORDERED, .data = &o->c, .size = 1 };
	int i;

	for (i = 0; i < 100; i++)
		OK(b1_multicast(o->to, 2, &out, NULL));
}

TEST("ORD-4 LIB-2 ordered multicasts arrive in the same order everywhere")
{
	static char got[2][401];
	b1_node *nodes[2] = { NULL };
	struct test_thread threads[2];
	struct orderly o[2];
	b1_peer *to[2], *from[2];
	int i, k;

	for (i = 0; i < 2; i++) {
		to[i] = new_peer();
		OK(b1_node_new(to[i], &nodes[i], note, got[i]));
	}
	for (i = 0; i < 2; i++) {
		from[i] = new_peer();
		o[i].c = (char)('a' + i);
		for (k = 0; k < 2; k++)
			OK(b1_handle_transfer(b1_node_get_handle(nodes[k]), from[i], &o[i].to[k]));
	}
	for (i = 0; i < 2; i++)
		test_start(&threads[i], send_orderly, &o[i]);
	for (i = 0; i < 2; i++)
		test_join(&threads[i]);
	for (i = 0; i < 2; i++)
		drain(to[i]);
	EQ(strlen(got[0]), 200);
	STR(got[0], got[1]);
	for (i = 0; i < 2; i++) {
		for (k = 0; k < 2; k++)
			b1_handle_unref(o[i].to[k]);
		b1_peer_unref(from[i]);
		b1_node_unref(nodes[i]);
		b1_peer_unref(to[i]);
	}
}

TEST("MSG-11 OBJ-10 LIB-2 handles and slices that were not kept are given back, whatever comes with them")
{
	b1_node *nodes[20], *sink = NULL;
	b1_handle *to_sink = NULL;
	char data[LARGE] = "";
	unsigned int i, k, dead = 0;
	b1_handle *keep = NULL;
	struct pair p;

	pair_init(&p);
	OK(b1_node_new(p.b, &sink, NULL, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(sink), p.a, &to_sink));
	for (i = 0; i < 20; i++)
		OK(b1_node_new(p.a, &nodes[i], NULL, NULL));
	/* The same handles again and again, while some of them die. */
	for (k = 0; k < 300; k++) {
		/* Of a node that is destroyed nothing is passed on. */
		b1_handle *along[] = { b1_node_get_handle(nodes[k % 20 == 8 ? 9 : k % 20]),
				       b1_node_get_handle(nodes[k % 7]) };

		OK(b1_send(to_sink, &(b1_outgoing){ .data = data, .size = k % 3 ? 10 : sizeof(data),
						    .handles = along, .n_handles = k % 3 }));
		if (k == 100) {
			OK(b1_handle_transfer(b1_node_get_handle(nodes[8]), p.b, &keep));
			OK(b1_handle_watch(keep, NULL, count_dead, &dead));
			OK(b1_send_bytes(to_sink, NULL, 0, b1_node_get_handle(nodes[8])));
		}
		if (k == 105)
			OK(b1_node_destroy(nodes[8], 0));
		if (k % 10 == 9) {
			drain(p.b);
			EQ(info(p.b).n_slices, 0);
			EQ(info(p.b).n_handles, k > 100 ? 2 : 1);
		}
	}
	drain(p.b);
	EQ(dead, 1);
	HAS(p.b, 1, 2, 0);
	b1_handle_unref(keep);
	HAS(p.b, 1, 1, 0);
	for (i = 0; i < 20; i++)
		b1_node_unref(nodes[i]);
	b1_handle_unref(to_sink);
	b1_node_unref(sink);
	pair_deinit(&p);
}
