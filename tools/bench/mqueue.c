// SPDX-License-Identifier: GPL-2.0-or-later
/* POSIX message queues, a queue for each direction, as large as an ordinary user may have them. */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

struct mqueue_end {
	struct end end;
	mqd_t in, out;
	uint8_t *buf;
	size_t alloc;
};

static void mqueue_close(struct end *e)
{
	struct mqueue_end *m = (struct mqueue_end *)e;

	if (m->in >= 0)
		mq_close(m->in);
	if (m->out >= 0)
		mq_close(m->out);
	if (m->buf)
		munmap(m->buf, m->alloc);
	free(m);
}

static int mqueue_new(struct mqueue_end **out, size_t size, size_t chunk)
{
	struct mqueue_end *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->end.transport = &transport_mqueue;
	m->end.chunk = chunk < size ? chunk : size;
	m->in = m->out = -1;
	/* What is received needs room for the largest message at any offset. */
	m->alloc = size + chunk;
	m->buf = mmap(NULL, m->alloc, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m->buf == MAP_FAILED) {
		m->buf = NULL;
		mqueue_close(&m->end);
		return -ENOMEM;
	}
	*out = m;
	return 0;
}

/* One of the limits for those without privileges. */
static unsigned long limit(const char *path, unsigned long otherwise)
{
	FILE *f = fopen(path, "re");
	unsigned long n;

	if (!f)
		return otherwise;
	if (fscanf(f, "%lu", &n) != 1)
		n = otherwise;
	fclose(f);
	return n;
}

/* One direction. Each end has a descriptor of its own; the name is gone at once. */
static int mqueue_connect(struct mqueue_end *from, struct mqueue_end *to, size_t chunk)
{
	struct mq_attr attr = {
		.mq_maxmsg = (long)limit("/proc/sys/fs/mqueue/msg_max", 10),
		.mq_msgsize = (long)chunk,
	};
	char name[48];
	int r = 0;

	snprintf(name, sizeof(name), "/bus1-bench-%d", (int)getpid());
	from->out = mq_open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600, &attr);
	if (from->out < 0)
		return errno == ENOSYS ? absent("this kernel has no POSIX message queues") :
		       absent("mq_open: %s", strerror(errno));
	to->in = mq_open(name, O_RDONLY | O_CLOEXEC);
	if (to->in < 0)
		r = -errno;
	mq_unlink(name);
	return r;
}

static int mqueue_open(struct end **a, struct end **b, size_t size, bool alone)
{
	struct mqueue_end *x = NULL, *y = NULL;
	size_t chunk = limit("/proc/sys/fs/mqueue/msgsize_max", 8192);
	int r;

	if (chunk > size)
		chunk = size ? size : 1;
	r = mqueue_new(&x, size, chunk);
	if (r == 0)
		r = mqueue_new(&y, size, chunk);
	if (r == 0)
		r = mqueue_connect(x, y, chunk);
	if (r == 0)
		r = mqueue_connect(y, x, chunk);
	if (r < 0) {
		if (x)
			mqueue_close(&x->end);
		if (y)
			mqueue_close(&y->end);
		return r;
	}
	*a = &x->end;
	*b = &y->end;
	return 0;
}

static int mqueue_attach(struct end *e)
{
	e->data = ((struct mqueue_end *)e)->buf;
	return 0;
}

static int mqueue_send(struct end *e, const void *data, size_t len)
{
	return mq_send(((struct mqueue_end *)e)->out, data, len, 0) < 0 ? -errno : 0;
}

static int mqueue_recv(struct end *e, size_t offset, size_t len)
{
	struct mqueue_end *m = (struct mqueue_end *)e;
	ssize_t n = mq_receive(m->in, (char *)m->buf + offset, m->alloc - offset, NULL);

	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EBADMSG;
}

const struct transport transport_mqueue = {
	.name = "mqueue",
	.open = mqueue_open,
	.attach = mqueue_attach,
	.send = mqueue_send,
	.recv = mqueue_recv,
	.close = mqueue_close,
};
