// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

struct socket_end {
	struct end end;
	int fd;
	uint8_t *buf;
	size_t alloc;
};

static void socket_close(struct end *e)
{
	struct socket_end *s = (struct socket_end *)e;

	if (s->fd >= 0)
		close(s->fd);
	if (s->buf)
		munmap(s->buf, s->alloc);
	free(s);
}

static int socket_new(struct socket_end **out, const struct transport *t, int fd, size_t size)
{
	struct socket_end *s;
	int max = 1 << 30;

	s = calloc(1, sizeof(*s));
	if (!s) {
		close(fd);
		return -ENOMEM;
	}
	s->end.transport = t;
	s->fd = fd;
	s->alloc = size ? size : 1;
	s->buf = mmap(NULL, s->alloc, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->buf == MAP_FAILED) {
		s->buf = NULL;
		socket_close(&s->end);
		return -ENOMEM;
	}
	/* As much as an ordinary user may have; the kernel cuts it to that. */
	if (size > 65536)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &max, sizeof(max));
	*out = s;
	return 0;
}

static int socket_send(struct end *e, const void *data, size_t len)
{
	struct socket_end *s = (struct socket_end *)e;
	const uint8_t *p = data;
	ssize_t n;

	do {
		n = send(s->fd, p, len, 0);
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	} while (len);
	return 0;
}

static int stream_recv(struct end *e, size_t offset, size_t len)
{
	struct socket_end *s = (struct socket_end *)e;
	uint8_t *p = s->buf + offset;
	ssize_t n;

	do {
		n = recv(s->fd, p, len, 0);
		if (n <= 0)
			return n < 0 ? -errno : -ECONNRESET;
		p += n;
		len -= (size_t)n;
	} while (len);
	return 0;
}

static int seqpacket_recv(struct end *e, size_t offset, size_t len)
{
	struct socket_end *s = (struct socket_end *)e;
	ssize_t n = recv(s->fd, s->buf + offset, len, 0);

	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EBADMSG;
}

static int socket_attach(struct end *e)
{
	e->data = ((struct socket_end *)e)->buf;
	return 0;
}

/* How much of `size` bytes one send takes while nobody receives. */
static ssize_t socket_try(struct socket_end *from, struct socket_end *to, size_t size)
{
	ssize_t sent = send(from->fd, from->buf, size, MSG_DONTWAIT);
	ssize_t got;

	if (sent < 0)
		return -errno;
	for (size_t left = (size_t)sent; left; left -= (size_t)got) {
		got = recv(to->fd, to->buf, left, MSG_DONTWAIT);
		if (got <= 0)
			return -EBADMSG;
	}
	return sent;
}

static int socket_open(struct end **a, struct end **b, size_t size, const struct transport *t, int type,
		       bool probe)
{
	struct socket_end *x = NULL, *y = NULL;
	size_t chunk = size;
	int fd[2], r;

	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fd) < 0)
		return -errno;
	r = socket_new(&x, t, fd[0], size);
	if (r < 0) {
		close(fd[1]);
		return r;
	}
	r = socket_new(&y, t, fd[1], size);
	if (r < 0)
		goto fail;

	/* Halve it until one send takes it whole. */
	while (probe && chunk) {
		ssize_t n = socket_try(x, y, chunk);

		if (n == (ssize_t)chunk)
			break;
		if (n < 0 && n != -EMSGSIZE && n != -EAGAIN && n != -ENOBUFS) {
			r = (int)n;
			goto fail;
		}
		chunk /= 2;
	}
	if (size && !chunk) {
		r = -EMSGSIZE;
		goto fail;
	}
	x->end.chunk = y->end.chunk = chunk;
	*a = &x->end;
	*b = &y->end;
	return 0;

fail:
	socket_close(&x->end);
	if (y)
		socket_close(&y->end);
	return r;
}

static int seqpacket_open(struct end **a, struct end **b, size_t size, bool alone)
{
	return socket_open(a, b, size, &transport_seqpacket, SOCK_SEQPACKET, true);
}

/* A stream that waits for its reader takes any size. */
static int stream_open(struct end **a, struct end **b, size_t size, bool alone)
{
	return socket_open(a, b, size, &transport_stream, SOCK_STREAM, alone);
}

const struct transport transport_seqpacket = {
	.name = "seqpacket",
	.open = seqpacket_open,
	.attach = socket_attach,
	.send = socket_send,
	.recv = seqpacket_recv,
	.close = socket_close,
};

const struct transport transport_stream = {
	.name = "stream",
	.open = stream_open,
	.attach = socket_attach,
	.send = socket_send,
	.recv = stream_recv,
	.close = socket_close,
	.no_empty = true,
};
