// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Large payloads that are not copied into a pool: in a sealed memfd that is made for
 * each message, and in a buffer that both sides have mapped since before.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bus1.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

struct large_end {
	struct end end;
	int fd;
	uint64_t door;		/* node of this end's */
	uint64_t to;		/* handle to the door of the other */
	size_t size;
	uint8_t *own;		/* of buffers: what is written and sent */
	uint64_t buffer;	/* likewise: its node */
	uint64_t theirs;	/* likewise: the handle of the other's, which is mapped */
	uint64_t again;		/* a count of that, which goes back with the next receive */
	uint8_t *map;		/* what was received */
};

static void large_close(struct end *e)
{
	struct large_end *l = (struct large_end *)e;

	if (l->map)
		munmap(l->map, l->size);
	if (l->own)
		munmap(l->own, l->size);
	if (l->fd >= 0)
		close(l->fd);
	free(l);
}

/* Seals are what makes it fit to be sent. */
static int memfd_new(void)
{
	int fd = memfd_create("bus1-bench", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	return fd < 0 ? -errno : fd;
}

static int seal(int fd, int how)
{
	return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | how) < 0 ? -errno : 0;
}

static int large_new(struct large_end **out, const struct transport *t, size_t size)
{
	struct large_end *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->end.transport = t;
	l->end.chunk = l->size = size;
	r = bus1_open(&l->fd);
	if (r == 0)
		r = bus1_node_create(l->fd, 0, &l->door);
	if (r < 0) {
		large_close(&l->end);
		return r;
	}
	*out = l;
	return 0;
}

static int large_open(struct end **a, struct end **b, size_t size, const struct transport *t)
{
	struct large_end *x = NULL, *y = NULL;
	int r;

	r = large_new(&x, t, size);
	if (r == 0)
		r = large_new(&y, t, size);
	if (r == 0)
		r = bus1_handle_give(x->fd, x->door, y->fd, &y->to);
	if (r == 0)
		r = bus1_handle_give(y->fd, y->door, x->fd, &x->to);
	if (r < 0) {
		if (x)
			large_close(&x->end);
		if (y)
			large_close(&y->end);
		return r;
	}
	*a = &x->end;
	*b = &y->end;
	return 0;
}

static int no_attach(struct end *e)
{
	return 0;
}

static int large_recv(struct large_end *l, struct bus1_msg *m, void *buf, uint32_t size, uint64_t flags)
{
	struct bus1_cmd_recv c = {
		.flags = flags,
		.drop = l->again ? ptr(&l->again) : 0,
		.n_drop = l->again != 0,
		.msgs = ptr(m),
		.n_msgs = 1,
		.msg_size = sizeof(*m),
		.buf = ptr(buf),
		.buf_size = size,
	};

	if (ioctl(l->fd, BUS1_CMD_RECV, &c) < 0)
		return -errno;
	l->again = 0;
	if (m->type == BUS1_MSG_NODE_DEAD)
		return -ECONNRESET;
	return m->type == BUS1_MSG_DATA && m->id == l->door ? 0 : -EBADMSG;
}

/* A memfd for each message. */

static int memfd_open(struct end **a, struct end **b, size_t size, bool alone)
{
	return large_open(a, b, size, &transport_bus1_memfd);
}

static int memfd_write(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static int memfd_send(struct end *e, const void *data, size_t len)
{
	struct large_end *l = (struct large_end *)e;
	int32_t fd = memfd_new();
	struct bus1_cmd_send c = {
		.flags = BUS1_SEND_MEMFD,
		.dest = l->to,
		.fds = ptr(&fd),
		.n_fds = 1,
		.body_len = len,
	};
	int r;

	if (fd < 0)
		return fd;
	r = memfd_write(fd, data, len);
	if (r == 0)
		r = seal(fd, F_SEAL_WRITE);
	if (r == 0 && ioctl(l->fd, BUS1_CMD_SEND, &c) < 0)
		r = -errno;
	close(fd);
	return r;
}

static int memfd_recv(struct end *e, size_t offset, size_t len)
{
	struct large_end *l = (struct large_end *)e;
	struct bus1_msg m;
	int32_t fds[2];
	int r;

	if (l->map)
		munmap(l->map, l->size);
	l->map = NULL;
	r = large_recv(l, &m, fds, sizeof(fds), BUS1_RECV_MEMFD);
	if (r < 0)
		return r;
	if (m.flags != BUS1_MSG_F_MEMFD || m.body_len != len)
		return -EBADMSG;
	if (fds[0] < 0)
		return fds[0];
	l->map = mmap(NULL, len, PROT_READ, MAP_SHARED, fds[0], 0);
	r = l->map == MAP_FAILED ? -errno : 0;
	if (r < 0)
		l->map = NULL;
	close(fds[0]);
	e->data = l->map;
	return r;
}

const struct transport transport_bus1_memfd = {
	.name = "bus1-memfd",
	.open = memfd_open,
	.attach = no_attach,
	.send = memfd_send,
	.recv = memfd_recv,
	.close = large_close,
};

/* A buffer that the sender writes into, and the receiver has mapped. */

static int buffer_make(struct large_end *l)
{
	struct bus1_cmd_buffer c = { .flags = BUS1_BUFFER_SHARED };
	int r;

	c.fd = memfd_new();
	if (c.fd < 0)
		return c.fd;
	r = ftruncate(c.fd, (off_t)l->size) < 0 ? -errno : 0;
	if (r == 0) {
		l->own = mmap(NULL, l->size, PROT_READ | PROT_WRITE, MAP_SHARED, c.fd, 0);
		if (l->own == MAP_FAILED) {
			l->own = NULL;
			r = -errno;
		}
	}
	if (r == 0)
		r = seal(c.fd, F_SEAL_FUTURE_WRITE);
	if (r == 0 && ioctl(l->fd, BUS1_CMD_BUFFER_CREATE, &c) < 0)
		r = -errno;
	close(c.fd);
	l->buffer = c.id;
	return r;
}

static int buffer_open(struct end **a, struct end **b, size_t size, bool alone)
{
	int r = large_open(a, b, size, &transport_bus1_buffer);

	if (r < 0)
		return r;
	r = buffer_make((struct large_end *)*a);
	if (r == 0)
		r = buffer_make((struct large_end *)*b);
	if (r < 0) {
		large_close(*a);
		large_close(*b);
		*a = *b = NULL;
	}
	return r;
}

static uint8_t *buffer_memory(struct end *e)
{
	return ((struct large_end *)e)->own;
}

static int buffer_send(struct end *e, const void *data, size_t len)
{
	struct large_end *l = (struct large_end *)e;
	struct bus1_pass pass = { .id = l->buffer };
	struct bus1_cmd_send c = {
		.flags = BUS1_SEND_BODY,
		.dest = l->to,
		.handles = ptr(&pass),
		.n_handles = 1,
		.body_offset = (uint64_t)((const uint8_t *)data - l->own),
		.body_len = len,
	};

	return ioctl(l->fd, BUS1_CMD_SEND, &c) < 0 ? -errno : 0;
}

static int buffer_map(struct large_end *l, uint64_t id)
{
	struct bus1_cmd_open c = { .id = id };

	if (ioctl(l->fd, BUS1_CMD_BUFFER_OPEN, &c) < 0)
		return -errno;
	l->map = mmap(NULL, l->size, PROT_READ, MAP_SHARED, c.fd, 0);
	close(c.fd);
	if (l->map == MAP_FAILED) {
		l->map = NULL;
		return -errno;
	}
	l->theirs = id;
	return 0;
}

/* The first count stays: it is what the mapping is known by. */
static int buffer_recv(struct end *e, size_t offset, size_t len)
{
	struct large_end *l = (struct large_end *)e;
	struct bus1_handle h;
	struct bus1_msg m;
	int r = large_recv(l, &m, &h, sizeof(h), 0);

	if (r < 0)
		return r;
	if (m.flags != (BUS1_MSG_F_BODY | BUS1_MSG_F_SHARED) || m.body_len != len)
		return -EBADMSG;
	if (l->theirs)
		l->again = h.id;
	else
		r = buffer_map(l, h.id);
	if (h.id != l->theirs)
		return r < 0 ? r : -EBADMSG;
	e->data = l->map + m.body_offset;
	return 0;
}

const struct transport transport_bus1_buffer = {
	.name = "bus1-buffer",
	.open = buffer_open,
	.attach = no_attach,
	.send = buffer_send,
	.recv = buffer_recv,
	.close = large_close,
	.memory = buffer_memory,
};
