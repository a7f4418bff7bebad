// SPDX-License-Identifier: GPL-2.0-or-later
/* Forms of the commands on buffers, and of sending what is in sealed memfds (MSG-5). */
#include "fault.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIZE = 6000, AT = 100, LEN = 5000 };

/* Sealed, with what w.data begins with, as w.fd[0]. */
static void make_memfd(void)
{
	w.fd[0] = (int)OK(SYS(memfd_create("buffer", MFD_CLOEXEC | MFD_ALLOW_SEALING)));
	EQ(OK(SYS(write(w.fd[0], w.data, SIZE))), SIZE);
	OK(SYS(fcntl(w.fd[0], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)));
}

static void shows(int fd)
{
	void *m = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);

	CHECK(m != MAP_FAILED);
	MEM(m, w.data, SIZE);
	OK(SYS(munmap(m, SIZE)));
}

static void create(void)
{
	struct bus1_cmd_buffer *c;

	make_memfd();
	c = command(&w.s, BUS1_CMD_BUFFER_CREATE);
	c->fd = w.fd[0];
	c->cookie = 5;
}

static void opens(const struct peer *p, u64 id)
{
	struct bus1_cmd_open c = { .id = id };

	OK(raw(p, BUS1_CMD_BUFFER_OPEN, &c));
	EQ(c.size, SIZE);
	shows(c.fd);
	close_fd(c.fd);
}

static void created(void)
{
	NE(w.cmd.buffer.id, 0);
	EQ(w.cmd.buffer.size, SIZE);
	opens(&w.s, w.cmd.buffer.id);
	OK(destroy(&w.s, w.cmd.buffer.id));
}

FORM("make a buffer", .fails = SLAB | COPY, .setup = create, .check = created)

static void make_buffer(void)
{
	struct bus1_cmd_buffer c = { .cookie = 5 };

	make_memfd();
	c.fd = w.fd[0];
	OK(raw(&w.s, BUS1_CMD_BUFFER_CREATE, &c));
	w.id[0] = c.id;
}

static void open_held(void)
{
	struct bus1_cmd_open *c;

	make_buffer();
	w.id[1] = grant(&w.s, w.id[0], &w.r);
	c = command(&w.r, BUS1_CMD_BUFFER_OPEN);
	c->id = w.id[1];
}

static void is_open(void)
{
	EQ(w.cmd.open.size, SIZE);
	shows(w.cmd.open.fd);
	close_fd(w.cmd.open.fd);
}

FORM("open a buffer", .fails = SLAB | COPY, .setup = open_held, .check = is_open)

static struct bus1_cmd_send *send_part(void)
{
	struct bus1_cmd_send *c = command(&w.s, BUS1_CMD_SEND);

	c->dest = w.to_r;
	c->data = PTR(w.data);
	c->len = 8;
	c->body_offset = AT;
	c->body_len = LEN;
	watch(&w.s, w.to_r);
	return c;
}

static void by_buffer(void)
{
	struct bus1_cmd_send *c;

	make_buffer();
	w.pass[0].id = w.id[0];
	c = send_part();
	c->flags = BUS1_SEND_BODY;
	c->handles = PTR(w.pass);
	c->n_handles = 1;
}

static void got_part(u32 flag)
{
	OK(recv_now(&w.r, &w.in));
	EQ(w.in.m.flags & flag, flag);
	EQ(w.in.m.body_offset, AT);
	EQ(w.in.m.body_len, LEN);
}

static void got_buffer(void)
{
	got_part(BUS1_MSG_F_BODY);
	EQ(w.in.m.n_handles, 1);
	opens(&w.r, w.in.h[0].id);
}

FORM("send a part of a buffer", .fails = SLAB | COPY, .setup = by_buffer, .check = got_buffer)

static void by_memfd(void)
{
	struct bus1_cmd_send *c;

	make_memfd();
	w.fds[0] = w.fd[0];
	c = send_part();
	c->flags = BUS1_SEND_MEMFD;
	c->fds = PTR(w.fds);
	c->n_fds = 1;
}

static void got_memfd(void)
{
	got_part(BUS1_MSG_F_MEMFD);
	EQ(w.in.m.n_fds, 1);
}

FORM("send a part of a memfd", .fails = SLAB | COPY, .setup = by_memfd, .check = got_memfd)
