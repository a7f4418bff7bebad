// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

struct pipe_end {
	struct end end;
	int in, out;
	uint8_t *buf;
	size_t alloc;
};

static void pipe_close(struct end *e)
{
	struct pipe_end *p = (struct pipe_end *)e;

	if (p->in >= 0)
		close(p->in);
	if (p->out >= 0)
		close(p->out);
	if (p->buf)
		munmap(p->buf, p->alloc);
	free(p);
}

static int pipe_new(struct pipe_end **out, size_t size)
{
	struct pipe_end *p;

	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->end.transport = &transport_pipe;
	p->in = p->out = -1;
	p->alloc = size;
	p->buf = mmap(NULL, p->alloc, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->buf == MAP_FAILED) {
		p->buf = NULL;
		pipe_close(&p->end);
		return -ENOMEM;
	}
	*out = p;
	return 0;
}

/* One direction; `*room` becomes what it holds while nobody reads. */
static int pipe_connect(struct pipe_end *from, struct pipe_end *to, size_t size, size_t *room)
{
	int fd[2], n;

	if (pipe2(fd, O_CLOEXEC) < 0)
		return -errno;
	from->out = fd[1];
	to->in = fd[0];
	n = fcntl(fd[1], F_GETPIPE_SZ);
	/* As much as an ordinary user may have, which is 1 MiB by default. */
	for (size_t want = size; n > 0 && (size_t)n < want; want /= 2)
		if (fcntl(fd[1], F_SETPIPE_SZ, (int)want) >= 0)
			n = fcntl(fd[1], F_GETPIPE_SZ);
	if (n <= 0)
		return -errno;
	*room = (size_t)n;
	return 0;
}

static int pipe_open(struct end **a, struct end **b, size_t size, bool alone)
{
	struct pipe_end *x, *y;
	size_t room;
	int r;

	r = pipe_new(&x, size);
	if (r < 0)
		return r;
	r = pipe_new(&y, size);
	if (r < 0) {
		pipe_close(&x->end);
		return r;
	}
	r = pipe_connect(x, y, size, &room);
	if (r == 0)
		r = pipe_connect(y, x, size, &room);
	if (r < 0) {
		pipe_close(&x->end);
		pipe_close(&y->end);
		return r;
	}
	/* A pipe that waits for its reader takes any size. */
	x->end.chunk = y->end.chunk = alone && room < size ? room : size;
	*a = &x->end;
	*b = &y->end;
	return 0;
}

static int pipe_attach(struct end *e)
{
	e->data = ((struct pipe_end *)e)->buf;
	return 0;
}

static int pipe_send(struct end *e, const void *data, size_t len)
{
	struct pipe_end *p = (struct pipe_end *)e;
	const uint8_t *d = data;
	ssize_t n;

	do {
		n = write(p->out, d, len);
		if (n < 0)
			return -errno;
		d += n;
		len -= (size_t)n;
	} while (len);
	return 0;
}

static int pipe_recv(struct end *e, size_t offset, size_t len)
{
	struct pipe_end *p = (struct pipe_end *)e;
	uint8_t *d = p->buf + offset;
	ssize_t n;

	do {
		n = read(p->in, d, len);
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		d += n;
		len -= (size_t)n;
	} while (len);
	return 0;
}

const struct transport transport_pipe = {
	.name = "pipe",
	.open = pipe_open,
	.attach = pipe_attach,
	.send = pipe_send,
	.recv = pipe_recv,
	.close = pipe_close,
	.no_empty = true,
};
