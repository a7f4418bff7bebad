// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The floor: a module that copies and hands over, and does nothing else. It is no
 * transport, as it knows neither errors nor ends; it says what is left to save.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"
#include "floor/bus1_floor.h"

#define DEVICE "/dev/bus1_floor"
#define MODULE "/usr/libexec/bus1/bus1_floor.ko"	/* where ./dev leaves it */

struct floor_end {
	struct end end;
	int fd;			/* the same file for both */
	bool pending;		/* there is something to give */
	struct floor_turn turn;
};

static void floor_close(struct end *e)
{
	struct floor_end *f = (struct floor_end *)e;

	if (f->fd >= 0)
		close(f->fd);
	free(f);
}

static int load_module(void)
{
	int r, fd = open(MODULE, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	r = syscall(SYS_finit_module, fd, "", 0) < 0 ? -errno : 0;
	close(fd);
	return r;
}

static int device(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (fd >= 0 || errno != ENOENT)
		return fd < 0 ? -errno : fd;
	if (load_module() < 0)
		return -ENOENT;
	fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int floor_open(struct end **a, struct end **b, size_t size, bool alone)
{
	struct floor_end *x, *y;
	int fd;

	if (size > sizeof(x->turn.data))
		return absent("it carries %zu bytes at most", sizeof(x->turn.data));
	fd = device();
	if (fd < 0)
		return absent("%s: %s", DEVICE, strerror(-fd));
	x = calloc(1, sizeof(*x));
	y = calloc(1, sizeof(*y));
	if (!x || !y) {
		close(fd);
		free(x);
		free(y);
		return -ENOMEM;
	}
	x->end.transport = y->end.transport = &transport_floor;
	x->end.chunk = y->end.chunk = size;
	x->fd = fd;
	y->fd = dup(fd);
	*a = &x->end;
	*b = &y->end;
	return 0;
}

static int floor_attach(struct end *e)
{
	struct floor_end *f = (struct floor_end *)e;

	return ioctl(f->fd, FLOOR_JOIN) < 0 ? -errno : 0;
}

/* It leaves with the wait for the other's. */
static int floor_send(struct end *e, const void *data, size_t len)
{
	struct floor_end *f = (struct floor_end *)e;

	memcpy(f->turn.data, data, len);
	f->turn.len = len;
	f->pending = true;
	return 0;
}

static int floor_recv(struct end *e, size_t offset, size_t len)
{
	struct floor_end *f = (struct floor_end *)e;

	if (ioctl(f->fd, f->pending ? FLOOR_TURN : FLOOR_WAIT, &f->turn) < 0)
		return -errno;
	e->data = f->turn.data;
	return f->turn.len == len ? 0 : -EBADMSG;
}

const struct transport transport_floor = {
	.name = "floor",
	.open = floor_open,
	.attach = floor_attach,
	.send = floor_send,
	.recv = floor_recv,
	.close = floor_close,
};
