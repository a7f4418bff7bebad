// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Memory that both ends map, and what wakes the other: an eventfd, or a futex. The
 * sender copies the payload in, as it has it elsewhere; the receiver reads it in
 * place. Nothing keeps the sender from changing it meanwhile.
 */
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"

enum { EMPTY, FULL, WAITING };	/* of the futex */

#define DATA 64			/* the payload begins behind the futex's cache line */

struct shm_end {
	struct end end;
	uint8_t *in, *out;	/* mapped; the futex, and then the payload */
	size_t alloc;
	int in_event, out_event;
};

static uint32_t *word(uint8_t *area)
{
	return (uint32_t *)(void *)area;
}

static void shm_close(struct end *e)
{
	struct shm_end *s = (struct shm_end *)e;

	if (s->in)
		munmap(s->in, s->alloc);
	if (s->out)
		munmap(s->out, s->alloc);
	if (s->in_event >= 0)
		close(s->in_event);
	if (s->out_event >= 0)
		close(s->out_event);
	free(s);
}

static struct shm_end *shm_new(const struct transport *t, size_t size)
{
	struct shm_end *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->end.transport = t;
	s->end.chunk = size;
	s->alloc = DATA + size;
	s->in_event = s->out_event = -1;
	return s;
}

/* One direction. Each end has a mapping and a descriptor of its own to give up. */
static int shm_connect(struct shm_end *from, struct shm_end *to)
{
	int r = -1, fd = memfd_create("bus1-bench", MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)from->alloc) == 0) {
		from->out = mmap(NULL, from->alloc, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		to->in = mmap(NULL, to->alloc, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (from->out == MAP_FAILED)
			from->out = NULL;
		if (to->in == MAP_FAILED)
			to->in = NULL;
		r = from->out && to->in ? 0 : -1;
	}
	if (r == 0) {
		from->out_event = eventfd(0, EFD_CLOEXEC);
		to->in_event = from->out_event < 0 ? -1 : dup(from->out_event);
		r = to->in_event < 0 ? -1 : 0;
	}
	r = r < 0 ? -errno : 0;
	close(fd);
	return r;
}

static int shm_open_pair(struct end **a, struct end **b, size_t size, const struct transport *t)
{
	struct shm_end *x = shm_new(t, size), *y = shm_new(t, size);
	int r = x && y ? 0 : -ENOMEM;

	if (r == 0)
		r = shm_connect(x, y);
	if (r == 0)
		r = shm_connect(y, x);
	if (r < 0) {
		if (x)
			shm_close(&x->end);
		if (y)
			shm_close(&y->end);
		return r;
	}
	*a = &x->end;
	*b = &y->end;
	return 0;
}

static int shm_attach(struct end *e)
{
	e->data = ((struct shm_end *)e)->in + DATA;
	return 0;
}

static int eventfd_open(struct end **a, struct end **b, size_t size, bool alone)
{
	return shm_open_pair(a, b, size, &transport_eventfd);
}

static int eventfd_send(struct end *e, const void *data, size_t len)
{
	struct shm_end *s = (struct shm_end *)e;
	uint64_t one = 1;

	memcpy(s->out + DATA, data, len);
	return write(s->out_event, &one, sizeof(one)) == sizeof(one) ? 0 : -errno;
}

static int eventfd_recv(struct end *e, size_t offset, size_t len)
{
	uint64_t n;

	if (read(((struct shm_end *)e)->in_event, &n, sizeof(n)) != sizeof(n))
		return -errno;
	return n == 1 ? 0 : -EBADMSG;
}

static int futex_open(struct end **a, struct end **b, size_t size, bool alone)
{
	return shm_open_pair(a, b, size, &transport_futex);
}

static int futex_send(struct end *e, const void *data, size_t len)
{
	struct shm_end *s = (struct shm_end *)e;

	memcpy(s->out + DATA, data, len);
	if (__atomic_exchange_n(word(s->out), FULL, __ATOMIC_SEQ_CST) != WAITING)
		return 0;
	return syscall(SYS_futex, word(s->out), FUTEX_WAKE, 1, NULL, NULL, 0) < 0 ? -errno : 0;
}

/* It does not spin: on one CPU nothing would come of that. */
static int futex_recv(struct end *e, size_t offset, size_t len)
{
	uint32_t *w = word(((struct shm_end *)e)->in), old = EMPTY;

	__atomic_compare_exchange_n(w, &old, WAITING, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(w, __ATOMIC_ACQUIRE) != FULL)
		if (syscall(SYS_futex, w, FUTEX_WAIT, WAITING, NULL, NULL, 0) < 0 && errno != EAGAIN &&
		    errno != EINTR)
			return -errno;
	__atomic_store_n(w, EMPTY, __ATOMIC_SEQ_CST);
	return 0;
}

const struct transport transport_eventfd = {
	.name = "eventfd",
	.open = eventfd_open,
	.attach = shm_attach,
	.send = eventfd_send,
	.recv = eventfd_recv,
	.close = shm_close,
};

const struct transport transport_futex = {
	.name = "futex",
	.open = futex_open,
	.attach = shm_attach,
	.send = futex_send,
	.recv = futex_recv,
	.close = shm_close,
};
