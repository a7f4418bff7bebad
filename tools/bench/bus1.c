// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <linux/bus1.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

struct bus1_end {
	struct end end;
	int fd;
	uint64_t door;		/* node of this end's */
	uint64_t to;		/* handle to the door of the other */
	uint8_t *pool;
	size_t pool_size;
	uint8_t *buf;		/* inline payloads */
	uint32_t buf_size;
	uint64_t slice;		/* of the last message: goes back with the next receive */
};

int bus1_open(int *fd)
{
	*fd = open("/dev/" BUS1_DEVICE, O_RDWR | O_CLOEXEC);
	return *fd < 0 ? -errno : 0;
}

int bus1_node_create(int fd, uint64_t cookie, uint64_t *id)
{
	struct bus1_cmd_node c = { .cookie = cookie };

	if (ioctl(fd, BUS1_CMD_NODE_CREATE, &c) < 0)
		return -errno;
	*id = c.id;
	return 0;
}

int bus1_node_destroy(int fd, uint64_t id)
{
	struct bus1_cmd_ids c = { .ids = ptr(&id), .n_ids = 1 };

	return ioctl(fd, BUS1_CMD_NODE_DESTROY, &c) < 0 ? -errno : 0;
}

int bus1_handle_release(int fd, uint64_t id)
{
	struct bus1_cmd_ids c = { .ids = ptr(&id), .n_ids = 1 };

	return ioctl(fd, BUS1_CMD_HANDLE_RELEASE, &c) < 0 ? -errno : 0;
}

int bus1_handle_give(int from, uint64_t id, int to, uint64_t *out)
{
	struct bus1_cmd_transfer c = { .ids = ptr(&id), .out = ptr(out), .n_ids = 1, .peer_fd = to };

	return ioctl(from, BUS1_CMD_HANDLE_TRANSFER, &c) < 0 ? -errno : 0;
}

int bus1_info(int fd, struct bus1_cmd_info *info)
{
	*info = (struct bus1_cmd_info){};
	return ioctl(fd, BUS1_CMD_PEER_INFO, info) < 0 ? -errno : 0;
}

int bus1_recv(int fd, struct bus1_msg *m, void *buf, uint32_t size, uint64_t drop)
{
	struct bus1_cmd_recv c = {
		.flags = BUS1_RECV_NONBLOCK,
		.msgs = ptr(m),
		.n_msgs = 1,
		.msg_size = sizeof(*m),
		.buf = ptr(buf),
		.buf_size = size,
		.drop = drop ? ptr(&drop) : 0,
		.n_drop = drop != 0,
	};

	return ioctl(fd, BUS1_CMD_RECV, &c) < 0 ? -errno : 0;
}

static void end_close(struct end *e)
{
	struct bus1_end *b = (struct bus1_end *)e;

	if (b->pool)
		munmap(b->pool, b->pool_size);
	if (b->fd >= 0)
		close(b->fd);
	free(b->buf);
	free(b);
}

static int end_new(struct bus1_end **out, size_t size)
{
	struct bus1_cmd_info info;
	struct bus1_end *b;
	int r;

	b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->end.transport = &transport_bus1;
	b->end.chunk = size;
	/* Two messages at once: one in use, one that arrives; and as much to spare. */
	b->pool_size = (4 * size + 0x10000) & ~(size_t)0xfff;
	r = bus1_open(&b->fd);
	if (r == 0)
		r = bus1_info(b->fd, &info);
	if (r == 0)
		r = bus1_node_create(b->fd, 0, &b->door);
	if (r < 0)
		goto fail;
	b->buf_size = (info.max_inline + 7) & ~7u;
	b->buf = aligned_alloc(8, b->buf_size ? b->buf_size : 8);
	if (!b->buf) {
		r = -ENOMEM;
		goto fail;
	}
	*out = b;
	return 0;

fail:
	end_close(&b->end);
	return r;
}

static int end_open(struct end **a, struct end **b, size_t size, bool alone)
{
	struct bus1_end *x = NULL, *y = NULL;
	int r;

	r = end_new(&x, size);
	if (r == 0)
		r = end_new(&y, size);
	if (r == 0)
		r = bus1_handle_give(x->fd, x->door, y->fd, &y->to);
	if (r == 0)
		r = bus1_handle_give(y->fd, y->door, x->fd, &x->to);
	if (r < 0) {
		if (x)
			end_close(&x->end);
		if (y)
			end_close(&y->end);
		return r;
	}
	*a = &x->end;
	*b = &y->end;
	return 0;
}

/* The pool is mapped by nobody but who receives into it. */
static int end_attach(struct end *e)
{
	struct bus1_end *b = (struct bus1_end *)e;

	b->pool = mmap(NULL, b->pool_size, PROT_READ, MAP_SHARED, b->fd, 0);
	if (b->pool == MAP_FAILED) {
		b->pool = NULL;
		return -errno;
	}
	return 0;
}

static int end_send(struct end *e, const void *data, size_t len)
{
	struct bus1_end *b = (struct bus1_end *)e;
	struct bus1_cmd_send c = { .dest = b->to, .data = len ? ptr(data) : 0, .len = len };

	return ioctl(b->fd, BUS1_CMD_SEND, &c) < 0 ? -errno : 0;
}

static int end_recv(struct end *e, size_t offset, size_t len)
{
	struct bus1_end *b = (struct bus1_end *)e;
	struct bus1_msg m;
	struct bus1_cmd_recv c = {
		.release = b->slice ? ptr(&b->slice) : 0,
		.n_release = b->slice != 0,
		.msgs = ptr(&m),
		.n_msgs = 1,
		.msg_size = sizeof(m),
		.buf = ptr(b->buf),
		.buf_size = b->buf_size,
	};

	if (ioctl(b->fd, BUS1_CMD_RECV, &c) < 0)
		return -errno;
	if (m.type == BUS1_MSG_NODE_DEAD)
		return -ECONNRESET;
	if (c.n_msgs != 1 || m.type != BUS1_MSG_DATA || m.len != len || m.id != b->door)
		return -EBADMSG;
	b->slice = m.slice;
	e->data = (m.slice ? b->pool : b->buf) + m.offset;
	return 0;
}

const struct transport transport_bus1 = {
	.name = "bus1",
	.open = end_open,
	.attach = end_attach,
	.send = end_send,
	.recv = end_recv,
	.close = end_close,
};
