// SPDX-License-Identifier: GPL-2.0-or-later
/* Buffers as objects; what a body is to who reads it; what can not be had. */
#include "lib.h"

#include <fcntl.h>
#include <linux/bus1.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define SIZE 100000

static unsigned int count_fds(void)
{
	unsigned int n = 0;
	int fd;

	for (fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int memfd_new(const void *data, size_t size, int seals)
{
	int fd = (int)OK(SYS(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING)));

	EQ(OK(SYS(write(fd, data, size))), size);
	OK(SYS(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | seals)));
	return fd;
}

static int count_unused(b1_node *node, void *userdata)
{
	++*(unsigned int *)userdata;
	return 0;
}

TEST("MSG-5 LIB-9 a buffer is sent once, and referred to by messages")
{
	unsigned int n_unused = 0, fds;
	static uint8_t data[SIZE];
	b1_outgoing out = { .data = "head", .size = 4 };
	b1_handle *kept;
	const void *first, *body;
	b1_node *buffer, *other;
	struct pair p;
	size_t i, size;

	pair_init(&p);
	fds = count_fds();
	pattern(data, SIZE, 1);
	OK(b1_buffer_new(p.b, &buffer, data, SIZE, &n_unused));
	OK(b1_node_set_unused(buffer, count_unused));
	OK(b1_node_new(p.b, &other, NULL, NULL));
	EQ(count_fds(), fds);
	out.buffer = b1_node_get_handle(buffer);
	out.handles = (b1_handle *[]){ b1_node_get_handle(other) };
	out.n_handles = 1;
	kept = NULL;
	for (i = 0; i < 20; i++) {
		out.buffer_offset = i * 4000 + 1;
		out.buffer_size = i * 1000;
		OK(b1_send(p.to_box, &out));
		EQ(drain(p.a), 1);
		/* Payload and body are not in each other's way, nor are the handles. */
		MEM(b1_message_get_data(p.box.last, &size), "head", 4);
		EQ(size, 4);
		EQ(b1_message_get_n_handles(p.box.last), 1);
		CHECK(b1_message_get_handle(p.box.last, 0) != b1_message_get_buffer(p.box.last));
		CHECK(!b1_message_get_handle(p.box.last, 1));
		EQ(OK(b1_message_get_body(p.box.last, &body, &size)), 0);
		EQ(size, i * 1000);
		MEM(body, data + i * 4000 + 1, size);
		if (!kept) {
			kept = b1_handle_ref(b1_message_get_buffer(p.box.last));
			EQ(OK(b1_buffer_map(kept, &first, &size)), 0);
			EQ(size, SIZE);
		}
		/* It is mapped once. */
		CHECK(b1_message_get_buffer(p.box.last) == kept);
		CHECK(body == (const uint8_t *)first + i * 4000 + 1);
		EQ(count_fds(), fds);
	}
	/* Without a payload the body is that. */
	out = (b1_outgoing){ .buffer = b1_node_get_handle(buffer), .buffer_size = SIZE };
	OK(b1_send(p.to_box, &out));
	drain(p.a);
	check_pattern(p.box.last, SIZE, 1);
	out.buffer_size = SIZE + 1;
	ERR(b1_send(p.to_box, &out), ERANGE);
	out.buffer_offset = UINT64_MAX;
	ERR(b1_send(p.to_box, &out), ERANGE);
	box_empty(&p.box);
	EQ(drain(p.b), 1);	/* `other` is unused */
	EQ(n_unused, 0);
	/* The owner destroys it: what is mapped stays. */
	b1_node_unref(buffer);
	b1_node_unref(other);
	drain(p.a);
	CHECK(b1_handle_is_dead(kept));
	MEM(first, data, SIZE);
	EQ(OK(b1_buffer_map(kept, &body, NULL)), 0);
	CHECK(body == first);
	b1_handle_unref(kept);
	EQ(count_fds(), fds);
	pair_deinit(&p);
}

TEST("MSG-5 LIB-9 the owner is told when a buffer is unused; who holds it passes it on")
{
	unsigned int n_unused = 0;
	b1_node *buffer;
	b1_handle *handle;
	const void *data;
	struct pair p;
	uint64_t size;
	size_t n;
	int fd;

	pair_init(&p);
	OK(b1_buffer_new(p.b, &buffer, "abc", 3, &n_unused));
	OK(b1_node_set_unused(buffer, count_unused));
	OK(b1_send(p.to_box, &(b1_outgoing){ .buffer = b1_node_get_handle(buffer), .buffer_size = 3 }));
	drain(p.a);
	handle = b1_handle_ref(b1_message_get_buffer(p.box.last));
	OK(b1_send(p.to_box, &(b1_outgoing){ .buffer = b1_node_get_handle(buffer),
					     .buffer_offset = 1, .buffer_size = 2 }));
	drain(p.a);
	MEM(b1_message_get_data(p.box.last, &n), "bc", 2);
	EQ(n, 2);
	box_empty(&p.box);
	EQ(drain(p.b), 0);
	EQ(OK(b1_buffer_open(handle, &fd, &size)), 0);
	EQ(size, 3);
	EQ(OK(SYS(fcntl(fd, F_GETFL))) & O_ACCMODE, O_RDONLY);
	close(fd);
	/* One's own is a buffer as well. */
	EQ(OK(b1_buffer_map(b1_node_get_handle(buffer), &data, &n)), 0);
	EQ(n, 3);
	MEM(data, "abc", 3);
	b1_handle_unref(handle);
	drain(p.b);
	EQ(n_unused, 1);
	OK(b1_node_destroy(buffer, B1_NODE_UNUSED));
	ERR(b1_buffer_open(b1_node_get_handle(buffer), &fd, NULL), EHOSTUNREACH);
	b1_node_unref(buffer);
	pair_deinit(&p);
}

TEST("MSG-5 LIB-9 what is no buffer, and what a buffer is not for")
{
	struct b1_outgoing out = { 0 };
	b1_node *buffer, *once, *none = NULL;
	b1_handle *weak, *mute;
	const void *data;
	struct pair p;
	size_t size;
	int fd = -1, plain;

	pair_init(&p);
	OK(b1_buffer_new(p.a, &buffer, NULL, 0, NULL));
	EQ(OK(b1_buffer_map(b1_node_get_handle(buffer), &data, &size)), 0);
	CHECK(data);
	EQ(size, 0);
	ERR(b1_buffer_map(p.to_box, &data, &size), EMEDIUMTYPE);
	ERR(b1_buffer_open(p.to_box, &fd, NULL), EMEDIUMTYPE);
	EQ(fd, -1);
	OK(b1_handle_transfer_as(b1_node_get_handle(buffer), p.b, &weak, B1_PASS_WEAK, 0));
	OK(b1_handle_transfer_as(b1_node_get_handle(buffer), p.b, &mute, 0, B1_RIGHT_SEND));
	ERR(b1_buffer_map(weak, &data, &size), EPERM);
	ERR(b1_buffer_map(mute, &data, &size), EPERM);
	out.buffer = weak;
	ERR(b1_send(p.to_box, &out), EPERM);
	out.buffer = p.to_box;
	ERR(b1_send(p.to_box, &out), EMEDIUMTYPE);
	out.buffer = b1_node_get_handle(buffer);
	ERR(b1_send(p.to_box, &out), EXDEV);
	out.buffer = NULL;
	out.buffer_size = 1;
	ERR(b1_send(p.to_box, &out), EINVAL);
	ERR(b1_send_bytes(b1_node_get_handle(buffer), "x", 1, NULL), EOPNOTSUPP);
	ERR(b1_node_new_facet(buffer, &once, 1, B1_FACET_ONCE, NULL), EINVAL);
	plain = memfd_new("x", 1, 0);
	ERR(b1_buffer_new_from_fd(p.a, &none, plain, 0, NULL), ETXTBSY);
	ERR(b1_buffer_new_from_fd(p.a, &none, plain, 2, NULL), EINVAL);
	ERR(b1_buffer_new_from_fd(p.a, &none, -1, 0, NULL), EBADF);
	ERR(b1_buffer_new_from_fd(p.a, &none, b1_peer_get_fd(p.a), 0, NULL), EMEDIUMTYPE);
	ERR(b1_buffer_new(p.a, &none, (void *)8, 1, NULL), EFAULT);
	CHECK(!none);
	close(plain);
	b1_handle_unref(weak);
	b1_handle_unref(mute);
	drain(p.a);
	b1_node_unref(buffer);
	pair_deinit(&p);
}

TEST("MSG-5 LIB-9 what may change is told apart, and is nobody's payload")
{
	static uint8_t data[SIZE];
	b1_node *buffer;
	const void *body;
	struct pair p;
	uint8_t *w;
	size_t size;
	int fd;

	pair_init(&p);
	pattern(data, SIZE, 2);
	fd = memfd_new(data, SIZE, 0);
	w = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(w != MAP_FAILED);
	OK(SYS(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)));
	ERR(b1_buffer_new_from_fd(p.b, &buffer, fd, 0, NULL), ETXTBSY);
	OK(b1_buffer_new_from_fd(p.b, &buffer, fd, B1_BUFFER_SHARED, NULL));
	close(fd);
	OK(b1_send(p.to_box, &(b1_outgoing){ .buffer = b1_node_get_handle(buffer),
					     .buffer_offset = 10, .buffer_size = SIZE - 10 }));
	drain(p.a);
	b1_message_get_data(p.box.last, &size);
	EQ(size, 0);
	EQ(b1_message_get_body(p.box.last, &body, &size), 1);
	EQ(size, SIZE - 10);
	MEM(body, data + 10, size);
	w[10]++;
	EQ(*(const uint8_t *)body, w[10]);
	box_empty(&p.box);
	b1_node_unref(buffer);
	munmap(w, SIZE);
	pair_deinit(&p);
}

/* By the kernel's own interface, as a stranger might. */
static void send_memfd(struct pair *p, int32_t fd, uint64_t flags, uint64_t offset, uint64_t len)
{
	struct bus1_cmd_send cmd = {
		.flags = BUS1_SEND_MEMFD | flags,
		.dest = b1_handle_get_id(p->to_box),
		.fds = (uintptr_t)&fd,
		.n_fds = 1,
		.body_offset = offset,
		.body_len = len,
	};

	OK(SYS(ioctl(b1_peer_get_fd(p->b), BUS1_CMD_SEND, &cmd)));
}

TEST("MSG-5 LIB-9 a memfd fills no table of descriptors, and one that is lost stops nobody")
{
	static uint8_t data[SIZE];
	struct rlimit limit, was;
	const void *body;
	unsigned int fds;
	struct pair p;
	size_t size;
	int fd, huge, i;

	pair_init(&p);
	pattern(data, SIZE, 4);
	fd = memfd_new(data, SIZE, F_SEAL_WRITE);
	fds = count_fds();
	for (i = 0; i < 3; i++) {
		/* In all ways of receiving files. */
		OK(b1_peer_set_flags(p.a, i == 1 ? B1_PEER_FDS : 0));
		send_memfd(&p, fd, 0, 0, SIZE);
		send_memfd(&p, fd, 0, 5001, 3);
		drain(p.a);
		EQ(count_fds(), fds);
		EQ(b1_message_get_n_fds(p.box.last), 0);
		MEM(b1_message_get_data(p.box.last, &size), data + 5001, 3);
		EQ(size, 3);
	}
	box_empty(&p.box);

	/* Nobody has paid for it; no room in the address space; no room for the descriptor. */
	huge = (int)OK(SYS(memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING)));
	OK(SYS(ftruncate(huge, (off_t)1 << 62)));
	OK(SYS(fcntl(huge, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)));
	send_memfd(&p, huge, 0, 0, (uint64_t)1 << 62);
	drain(p.a);
	b1_message_get_data(p.box.last, &size);
	EQ(size, 0);
	ERR(b1_message_get_body(p.box.last, &body, &size), EBADMSG);
	close(huge);
	huge = (int)OK(SYS(memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING)));
	OK(SYS(ftruncate(huge, (off_t)1 << 62)));
	OK(SYS(fcntl(huge, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)));
	send_memfd(&p, huge, BUS1_SEND_SHARED, 0, (uint64_t)1 << 62);
	drain(p.a);
	if (sizeof(size_t) == 8)
		ERR(b1_message_get_body(p.box.last, &body, &size), ENOMEM);
	else
		ERR(b1_message_get_body(p.box.last, &body, &size), EOVERFLOW);
	send_memfd(&p, fd, 0, 0, SIZE);
	OK(SYS(getrlimit(RLIMIT_NOFILE, &was)));
	limit = was;
	limit.rlim_cur = 3;
	OK(SYS(setrlimit(RLIMIT_NOFILE, &limit)));
	drain(p.a);
	OK(SYS(setrlimit(RLIMIT_NOFILE, &was)));
	ERR(b1_message_get_body(p.box.last, &body, &size), EMFILE);
	b1_message_get_data(p.box.last, &size);
	EQ(size, 0);
	/* And on it goes. */
	send_memfd(&p, fd, 0, 0, SIZE);
	drain(p.a);
	check_pattern(p.box.last, SIZE, 4);
	close(huge);
	close(fd);
	pair_deinit(&p);
}

TEST("LIB-9 a payload that no pool can hold goes by no memfd where a file or a body goes along")
{
	uint8_t *data = calloc(1, POOL_SIZE + 1);
	b1_outgoing out = { .data = data, .size = POOL_SIZE + 1, .n_fds = 1, .fds = (int[]){ 0 } };
	b1_handle *two[2];
	b1_node *buffer;
	struct pair p;
	int errors[2];

	pair_init(&p);
	OK(b1_buffer_new(p.b, &buffer, "abc", 3, NULL));
	ERR(b1_send(p.to_box, &out), EMSGSIZE);
	out.n_fds = 0;
	out.buffer = b1_node_get_handle(buffer);
	ERR(b1_send(p.to_box, &out), EMSGSIZE);
	EQ(drain(p.a), 0);
	/* What can not be read is not sent. */
	out.buffer = NULL;
	out.data = (void *)8;
	ERR(b1_send(p.to_box, &out), EFAULT);
	out.data = data;
	/* To many, it is one memfd for all. */
	two[0] = two[1] = p.to_box;
	OK(b1_multicast(two, 2, &out, errors));
	EQ(errors[0] | errors[1], 0);
	EQ(drain(p.a), 2);
	b1_node_unref(buffer);
	free(data);
	pair_deinit(&p);
}
