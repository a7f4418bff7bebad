// SPDX-License-Identifier: GPL-2.0-or-later
/* Sending, and messages. */
#include "lib.h"

#include <stdio.h>
#include <string.h>

TEST("MSG-3 LIB-2 payloads of every size arrive, and are read in place")
{
	static const size_t sizes[] = { 0, 1, 7, 8, 9, 64, 127, 128, 129, 255, 256, 257, 1000, 4096,
					5001, 65536, 300000 };
	static char data[300000];
	struct pair p;
	size_t i, n;

	pair_init(&p);
	pattern(data, sizeof(data), 2);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		OK(b1_send_bytes(p.to_box, data, sizes[i], NULL));
		EQ(drain(p.a), 1);
		check_pattern(p.box.last, sizes[i], 2);
		CHECK(b1_message_get_data(p.box.last, NULL) != NULL);
		EQ(b1_message_get_n_handles(p.box.last), 0);
		CHECK(b1_message_get_handle(p.box.last, 0) == NULL);
		/* The same bytes each time, and no copy of them. */
		CHECK(b1_message_get_data(p.box.last, &n) == b1_message_get_data(p.box.last, NULL));
		EQ(info(p.a).n_slices, sizes[i] > info(p.a).max_inline);
	}
	pair_deinit(&p);
}

/* The line of /proc/self/maps that has the address. */
static void find_map(const void *address, char *line, size_t size)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start, end;

	CHECK(f);
	do
		CHECK(fgets(line, (int)size, f));
	while (sscanf(line, "%lx-%lx", &start, &end) != 2 ||
	       (uintptr_t)address < start || (uintptr_t)address >= end);
	fclose(f);
}

TEST("MSG-3 MSG-4 LIB-2 a large payload lies in the pool, a small one in the message")
{
	char line[512], data[LARGE] = "";
	struct pair p;

	pair_init(&p);
	OK(b1_send_bytes(p.to_box, data, sizeof(data), NULL));
	drain(p.a);
	find_map(b1_message_get_data(p.box.last, NULL), line, sizeof(line));
	CHECK(strstr(line, " r--s ") && strstr(line, "bus1"));
	OK(b1_send_bytes(p.to_box, data, 10, NULL));
	drain(p.a);
	find_map(b1_message_get_data(p.box.last, NULL), line, sizeof(line));
	CHECK(!strstr(line, "bus1"));
	pair_deinit(&p);
}

TEST("MSG-3 LIB-2 unref gives back the slice: soon, late, and when kept by others")
{
	b1_message *kept[3];
	char data[LARGE];
	struct pair p;
	int i;

	pair_init(&p);
	for (i = 0; i < 3; i++) {
		pattern(data, sizeof(data), (unsigned int)i);
		OK(b1_send_bytes(p.to_box, data, sizeof(data), NULL));
		drain(p.a);
		kept[i] = p.box.last;
		p.box.last = NULL;
	}
	HAS(p.a, 1, 0, 3);
	b1_message_ref(kept[1]);
	for (i = 0; i < 3; i++)
		b1_message_unref(kept[i]);
	HAS(p.a, 1, 0, 1);
	check_pattern(kept[1], sizeof(data), 1);
	b1_message_unref(kept[1]);
	HAS(p.a, 1, 0, 0);
	pair_deinit(&p);
}

static int ignore(b1_node *node, b1_message *message, void *userdata)
{
	++*(unsigned int *)userdata;
	return 0;
}

TEST("MSG-3 LIB-2 nothing of the pool is held when process returns")
{
	b1_handle *handle = NULL;
	b1_node *node = NULL;
	char data[LARGE] = "";
	unsigned int n = 0, i, k;
	struct pair p;

	pair_init(&p);
	OK(b1_node_new(p.a, &node, ignore, &n));
	OK(b1_handle_transfer(b1_node_get_handle(node), p.b, &handle));
	for (k = 0; k < 5; k++) {
		for (i = 0; i < 60; i++)
			OK(b1_send_bytes(handle, data, sizeof(data), NULL));
		EQ(OK(b1_peer_process(p.a)), 60);
		EQ(info(p.a).n_slices, 0);
	}
	EQ(n, 300);
	b1_handle_unref(handle);
	b1_node_unref(node);
	pair_deinit(&p);
}

TEST("MSG-2 LIB-2 a full pool is EAGAIN until there is room")
{
	static char data[POOL_SIZE];
	unsigned int n = 0;
	struct pair p;
	int64_t r;

	pair_init(&p);
	while ((r = b1_send_bytes(p.to_box, data, POOL_SIZE / 4, NULL)) >= 0)
		LE(++n, 4);
	ERR(r, EAGAIN);
	GT(n, 0);
	EQ(drain(p.a), n);
	box_empty(&p.box);
	OK(b1_send_bytes(p.to_box, data, POOL_SIZE / 4, NULL));
	drain(p.a);
	pair_deinit(&p);
}

TEST("LIB-9 a payload that no pool can hold arrives all the same, and is read in place")
{
	static uint8_t data[3 * POOL_SIZE];
	struct iovec iov[3] = {
		{ data, POOL_SIZE / 2 }, { NULL, 0 },
		{ data + POOL_SIZE / 2, sizeof(data) - POOL_SIZE / 2 },
	};
	static const size_t sizes[] = { POOL_SIZE / 8, POOL_SIZE + 1, 3 * POOL_SIZE };
	b1_message *kept[3];
	struct pair p;
	const void *body;
	b1_node *node;
	size_t i, size;

	pair_init(&p);
	OK(b1_node_new(p.b, &node, NULL, NULL));
	pattern(data, sizeof(data), 3);
	for (i = 0; i < 3; i++) {
		OK(b1_send_bytes(p.to_box, data, sizes[i], b1_node_get_handle(node)));
		EQ(drain(p.a), 1);
		check_pattern(p.box.last, sizes[i], 3);
		EQ(b1_message_get_n_handles(p.box.last), 1);
		EQ(b1_message_get_n_fds(p.box.last), 0);
		CHECK(!b1_message_get_buffer(p.box.last));
		if (sizes[i] <= POOL_SIZE) {
			ERR(b1_message_get_body(p.box.last, &body, &size), ENODATA);
		} else {
			EQ(OK(b1_message_get_body(p.box.last, &body, &size)), 0);
			EQ(size, sizes[i]);
			CHECK(body == b1_message_get_data(p.box.last, NULL));
		}
		/* That of the first, which is kept. */
		EQ(info(p.a).n_slices, 1);
		kept[i] = b1_message_ref(p.box.last);
		box_empty(&p.box);
	}
	/* Each as long as it is kept. */
	for (i = 0; i < 3; i++) {
		check_pattern(kept[i], sizes[i], 3);
		b1_message_unref(kept[i]);
	}
	/* From many parts. */
	OK(b1_send(p.to_box, &(b1_outgoing){ .iov = iov, .n_iov = 3 }));
	drain(p.a);
	check_pattern(p.box.last, sizeof(data), 3);
	iov[1].iov_len = SIZE_MAX;
	/* There, but not all of it. */
	ERR(b1_send(p.to_box, &(b1_outgoing){ .iov = iov, .n_iov = 3 }),
	    sizeof(size_t) == 8 ? EMSGSIZE : EFAULT);
	EQ(drain(p.a), 0);
	b1_node_unref(node);
	pair_deinit(&p);
}

TEST("MSG-1 LIB-2 handles arrive with their message and go with it")
{
	b1_node *nodes[253];
	b1_handle *handles[254];
	b1_outgoing out = { .data = "many", .size = 4, .handles = handles, .n_handles = 253 };
	b1_handle *keep;
	struct pair p;
	size_t i;

	pair_init(&p);
	for (i = 0; i < 253; i++) {
		OK(b1_node_new(p.b, &nodes[i], NULL, NULL));
		handles[i] = b1_node_get_handle(nodes[i]);
	}
	handles[253] = handles[0];
	out.n_handles = 254;
	ERR(b1_send(p.to_box, &out), EMSGSIZE);
	out.n_handles = 253;
	OK(b1_send(p.to_box, &out));
	EQ(drain(p.a), 1);
	EQ(b1_message_get_n_handles(p.box.last), 253);
	HAS(p.a, 1, 253, 0);
	for (i = 1; i < 253; i++)
		CHECK(b1_message_get_handle(p.box.last, i) != b1_message_get_handle(p.box.last, i - 1));
	keep = b1_handle_ref(b1_message_get_handle(p.box.last, 100));
	box_empty(&p.box);
	HAS(p.a, 1, 1, 0);
	b1_node_unref(nodes[100]);
	drain(p.a);
	CHECK(b1_handle_is_dead(keep));
	b1_handle_unref(keep);
	for (i = 0; i < 253; i++)
		if (i != 100)
			b1_node_unref(nodes[i]);
	pair_deinit(&p);
}

TEST("MSG-1 LIB-2 large messages with many handles, in one batch")
{
	b1_node *nodes[200];
	b1_handle *handles[200];
	char data[LARGE];
	struct pair p;
	size_t i;

	pair_init(&p);
	for (i = 0; i < 200; i++) {
		OK(b1_node_new(p.b, &nodes[i], NULL, NULL));
		handles[i] = b1_node_get_handle(nodes[i]);
	}
	pattern(data, sizeof(data), 5);
	for (i = 0; i < 20; i++) {
		b1_outgoing out = { .data = data, .size = i % 2 ? 100 : sizeof(data),
				    .handles = handles, .n_handles = i * 10 };

		OK(b1_send(p.to_box, &out));
	}
	EQ(drain(p.a), 20);
	EQ(p.box.n_messages, 20);
	EQ(b1_message_get_n_handles(p.box.last), 190);
	check_pattern(p.box.last, 100, 5);
	box_empty(&p.box);
	HAS(p.a, 1, 0, 0);
	for (i = 0; i < 200; i++)
		b1_node_unref(nodes[i]);
	drain(p.b);
	pair_deinit(&p);
}

TEST("MSG-1 LIB-2 a payload of parts")
{
	char data[LARGE];
	struct iovec iov[] = {
		{ data, 1000 }, { data + 1000, 0 }, { NULL, 0 },
		{ data + 1000, 3001 }, { data + 4001, sizeof(data) - 4001 },
	};
	struct iovec too_many[1025] = { 0 };
	b1_outgoing out = { .iov = iov, .n_iov = 5 };
	struct pair p;

	pair_init(&p);
	pattern(data, sizeof(data), 8);
	OK(b1_send(p.to_box, &out));
	drain(p.a);
	check_pattern(p.box.last, sizeof(data), 8);

	out.data = data;
	ERR(b1_send(p.to_box, &out), EINVAL);
	out = (b1_outgoing){ .iov = iov, .n_iov = 5, .size = 1 };
	ERR(b1_send(p.to_box, &out), EINVAL);
	out = (b1_outgoing){ .iov = too_many, .n_iov = 1025 };
	ERR(b1_send(p.to_box, &out), EMSGSIZE);
	out.n_iov = 1024;
	OK(b1_send(p.to_box, &out));
	drain(p.a);
	check_pattern(p.box.last, 0, 0);
	pair_deinit(&p);
}

TEST("ABI-1 LIB-1 what to send, of another size of the struct")
{
	struct {
		b1_outgoing out;
		uint64_t more[2];
	} longer = { .out = { .data = "x", .size = 1 } };
	const size_t ver0 = offsetof(b1_outgoing, passes);
	struct pair p;

	pair_init(&p);
	ERR(b1_send_sized(&p.to_box, 1, &longer.out, ver0 - 1, NULL), EINVAL);
	/* What the first version did not have is not looked at in its struct. */
	longer.out.priority = 100;
	OK(b1_send_sized(&p.to_box, 1, &longer.out, ver0, NULL));
	ERR(b1_send_sized(&p.to_box, 1, &longer.out, sizeof(longer.out), NULL), EINVAL);
	longer.out.priority = 0;
	EQ(drain(p.a), 1);
	OK(b1_send_sized(&p.to_box, 1, &longer.out, sizeof(longer), NULL));
	longer.more[1] = 1;
	ERR(b1_send_sized(&p.to_box, 1, &longer.out, sizeof(longer), NULL), E2BIG);
	longer.more[1] = 0;
	longer.out.flags = 1U << 30;
	ERR(b1_send_sized(&p.to_box, 1, &longer.out, sizeof(longer), NULL), EINVAL);
	ERR(b1_send_sized(&p.to_box, 0, &longer.out, sizeof(longer.out), NULL), EINVAL);
	EQ(drain(p.a), 1);
	pair_deinit(&p);
}

TEST("LIB-2 handles of different peers do not mix")
{
	b1_handle *mixed[2];
	struct pair p;

	pair_init(&p);
	ERR(b1_send_bytes(p.to_box, "x", 1, b1_node_get_handle(p.box.node)), EXDEV);
	mixed[0] = p.to_box;
	mixed[1] = b1_node_get_handle(p.box.node);
	ERR(b1_multicast(mixed, 2, &(b1_outgoing){ 0 }, NULL), EXDEV);
	EQ(drain(p.a), 0);
	pair_deinit(&p);
}

TEST("LIB-2 a payload that can not be read is EFAULT")
{
	struct pair p;

	pair_init(&p);
	ERR(b1_send_bytes(p.to_box, (void *)8, LARGE, NULL), EFAULT);
	ERR(b1_send_bytes(p.to_box, (void *)8, 8, NULL), EFAULT);
	EQ(drain(p.a), 0);
	pair_deinit(&p);
}

TEST("MSG-2 LIB-2 multicast: all or none, or those that can")
{
	b1_outgoing out = { .data = "all", .size = 3 };
	struct box boxes[3];
	b1_handle *to[4], *along;
	b1_node *gone = NULL;
	int errors[4];
	struct pair p;
	int i;

	pair_init(&p);
	for (i = 0; i < 3; i++) {
		box_init(&boxes[i], p.a);
		OK(b1_handle_transfer(b1_node_get_handle(boxes[i].node), p.b, &to[i]));
	}
	to[3] = to[0];
	OK(b1_multicast(to, 4, &out, NULL));
	EQ(drain(p.a), 4);
	EQ(boxes[0].n_messages, 2);
	EQ(boxes[1].n_messages, 1);

	memset(errors, 1, sizeof(errors));
	OK(b1_multicast(to, 4, &out, errors));
	for (i = 0; i < 4; i++)
		EQ(errors[i], 0);
	EQ(drain(p.a), 4);

	box_deinit(&boxes[1]);
	ERR(b1_multicast(to, 4, &out, errors), EHOSTUNREACH);
	EQ(errors[1], -EHOSTUNREACH);
	EQ(errors[0], 0);
	EQ(drain(p.a), 0);
	ERR(b1_multicast(to, 4, &out, NULL), EHOSTUNREACH);

	out.flags = B1_SEND_PARTIAL;
	OK(b1_multicast(to, 4, &out, errors));
	EQ(errors[1], -EHOSTUNREACH);
	EQ(errors[2], 0);
	EQ(drain(p.a), 3);
	ERR(b1_multicast(to + 1, 1, &out, errors), EHOSTUNREACH);
	OK(b1_multicast(to + 2, 1, &out, NULL));
	EQ(drain(p.a), 1);

	/* What is wrong with what goes along is no destination's error. */
	OK(b1_node_new(p.b, &gone, NULL, NULL));
	OK(b1_node_destroy(gone, 0));
	along = b1_node_get_handle(gone);
	out.handles = &along;
	out.n_handles = 1;
	memset(errors, 1, sizeof(errors));
	ERR(b1_multicast(to + 2, 2, &out, errors), ENXIO);
	EQ(errors[0], 0);
	EQ(errors[1], 0);
	ERR(b1_send(to[2], &out), ENXIO);
	b1_node_unref(gone);

	for (i = 0; i < 3; i++) {
		box_deinit(&boxes[i]);
		b1_handle_unref(to[i]);
	}
	pair_deinit(&p);
}

TEST("MSG-2 LIB-2 too many destinations")
{
	static b1_handle *to[1025];
	struct pair p;
	int i;

	pair_init(&p);
	for (i = 0; i < 1025; i++)
		to[i] = p.to_box;
	ERR(b1_multicast(to, 1025, &(b1_outgoing){ 0 }, NULL), EMSGSIZE);
	OK(b1_multicast(to, 1024, &(b1_outgoing){ 0 }, NULL));
	EQ(drain(p.a), 1024);
	pair_deinit(&p);
}
