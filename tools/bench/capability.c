// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <linux/bus1.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

/* What goes along with the handle or the fd: both carry the same bytes. */
#define PAYLOAD 8

/*
 * bus1. The giver owns the node that is made, or holds the handle that is
 * passed; the taker has a door, the node that the giver sends to.
 */
struct bus1_job {
	struct job job;
	int giver, taker, third;
	uint64_t door;		/* of the taker */
	uint64_t to;		/* the giver's handle to it */
	uint64_t held;		/* the giver's handle to a node of the third's */
	uint64_t cookie;	/* of the node made last */
	bool notice;
};

/* Pass `id`; `*got` is the handle that the taker then holds. It gives `drop` back. */
static int bus1_pass_on(struct bus1_job *b, uint64_t id, uint64_t drop, uint64_t *got)
{
	uint64_t payload = id;
	struct bus1_pass pass = { .id = id };
	struct bus1_cmd_send c = {
		.dest = b->to,
		.data = ptr(&payload),
		.len = PAYLOAD,
		.handles = ptr(&pass),
		.n_handles = 1,
	};
	uint64_t buf[16];
	const struct bus1_handle *h;
	struct bus1_msg m;
	int r;

	if (ioctl(b->giver, BUS1_CMD_SEND, &c) < 0)
		return -errno;
	r = bus1_recv(b->taker, &m, buf, sizeof(buf), drop);
	if (r < 0)
		return r;
	if (m.type != BUS1_MSG_DATA || m.id != b->door || m.len != PAYLOAD || m.slice ||
	    m.n_handles != 1 || memcmp((char *)buf + m.offset, &payload, PAYLOAD))
		return -EBADMSG;
	h = (const void *)((char *)buf + m.handles);
	if (h->flags)
		return -EBADMSG;
	*got = h->id;
	return 0;
}

static int bus1_unused(struct bus1_job *b, uint64_t node)
{
	struct bus1_msg m;
	int r;

	r = bus1_recv(b->giver, &m, NULL, 0, 0);
	if (r < 0)
		return r;
	if (m.type != BUS1_MSG_NODE_UNUSED || m.id != node || m.cookie != b->cookie)
		return -EBADMSG;
	return 0;
}

static int life_bus1_run(struct job *j, unsigned long n)
{
	struct bus1_job *b = (struct bus1_job *)j;
	uint64_t node, handle;
	int r = 0;

	while (n-- && r == 0) {
		r = bus1_node_create(b->giver, ++b->cookie, &node);
		if (r == 0)
			r = bus1_pass_on(b, node, 0, &handle);
		if (r == 0)
			r = bus1_handle_release(b->taker, handle);
		if (r == 0 && b->notice)
			r = bus1_unused(b, node);
		if (r == 0)
			r = bus1_node_destroy(b->giver, node);
	}
	return r;
}

/* The handle that arrived works, and everything is gone at the end. */
static int life_bus1_verify(struct job *j)
{
	struct bus1_job *b = (struct bus1_job *)j;
	struct bus1_cmd_send c = { .data = ptr("x"), .len = 1 };
	struct bus1_cmd_info info;
	struct bus1_msg m;
	uint64_t node, handle, buf;
	int r;

	r = bus1_node_create(b->giver, ++b->cookie, &node);
	if (r == 0)
		r = bus1_pass_on(b, node, 0, &handle);
	if (r < 0)
		return r;
	c.dest = handle;
	if (ioctl(b->taker, BUS1_CMD_SEND, &c) < 0)
		return -errno;
	r = bus1_recv(b->giver, &m, &buf, sizeof(buf), 0);
	if (r < 0)
		return r;
	if (m.type != BUS1_MSG_DATA || m.id != node || m.cookie != b->cookie || m.len != 1)
		return -EBADMSG;

	r = bus1_handle_release(b->taker, handle);
	if (r == 0)
		r = bus1_unused(b, node);
	if (r == 0)
		r = bus1_node_destroy(b->giver, node);
	if (r < 0)
		return r;
	r = bus1_info(b->giver, &info);
	if (r < 0)
		return r;
	return info.n_nodes || info.n_queued ? -EBADMSG : 0;
}

static int pass_bus1_run(struct job *j, unsigned long n)
{
	struct bus1_job *b = (struct bus1_job *)j;
	uint64_t handle = 0;
	int r = 0;

	/* Each is given back with the receipt of the next. */
	while (n-- && r == 0)
		r = bus1_pass_on(b, b->held, handle, &handle);
	return r ? r : bus1_handle_release(b->taker, handle);
}

static int pass_bus1_verify(struct job *j)
{
	return pass_bus1_run(j, 1);
}

/* Each is gone before the next comes, which is then another handle. */
static int pass_new_run(struct job *j, unsigned long n)
{
	struct bus1_job *b = (struct bus1_job *)j;
	uint64_t handle;
	int r = 0;

	while (n-- && r == 0) {
		r = bus1_pass_on(b, b->held, 0, &handle);
		if (r == 0)
			r = bus1_handle_release(b->taker, handle);
	}
	return r;
}

static int pass_new_verify(struct job *j)
{
	struct bus1_job *b = (struct bus1_job *)j;
	struct bus1_cmd_info info;
	uint64_t one, two;
	int r;

	r = bus1_pass_on(b, b->held, 0, &one);
	if (r == 0)
		r = bus1_handle_release(b->taker, one);
	if (r == 0)
		r = bus1_pass_on(b, b->held, 0, &two);
	if (r == 0)
		r = bus1_handle_release(b->taker, two);
	if (r == 0)
		r = bus1_info(b->taker, &info);
	if (r < 0)
		return r;
	return one == two || info.n_handles || info.n_queued ? -EBADMSG : 0;
}

static void bus1_close(struct job *j)
{
	struct bus1_job *b = (struct bus1_job *)j;

	if (b->giver >= 0)
		close(b->giver);
	if (b->taker >= 0)
		close(b->taker);
	if (b->third >= 0)
		close(b->third);
	free(b);
}

static int bus1_job(struct bus1_job **out)
{
	struct bus1_job *b;
	uint64_t node;
	int r;

	b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->job.close = bus1_close;
	b->giver = b->taker = b->third = -1;
	r = bus1_open(&b->giver);
	if (r == 0)
		r = bus1_open(&b->taker);
	if (r == 0)
		r = bus1_open(&b->third);
	if (r == 0)
		r = bus1_node_create(b->taker, 0, &b->door);
	if (r == 0)
		r = bus1_handle_give(b->taker, b->door, b->giver, &b->to);
	if (r == 0)
		r = bus1_node_create(b->third, 0, &node);
	if (r == 0)
		r = bus1_handle_give(b->third, node, b->giver, &b->held);
	if (r < 0) {
		bus1_close(&b->job);
		return r;
	}
	*out = b;
	return 0;
}

static int life_bus1(struct job **out, bool notice)
{
	struct bus1_job *b;
	int r;

	r = bus1_job(&b);
	if (r < 0)
		return r;
	b->notice = notice;
	b->job.run = life_bus1_run;
	b->job.verify = life_bus1_verify;
	*out = &b->job;
	return 0;
}

int job_life_bus1(struct job **out)
{
	return life_bus1(out, true);
}

/* The notice that nobody received goes with the node. */
int job_life_bus1_quiet(struct job **out)
{
	return life_bus1(out, false);
}

static int pass_bus1(struct job **out, int (*run)(struct job *, unsigned long), int (*verify)(struct job *))
{
	struct bus1_job *b;
	int r;

	r = bus1_job(&b);
	if (r < 0)
		return r;
	b->job.run = run;
	b->job.verify = verify;
	*out = &b->job;
	return 0;
}

int job_pass_bus1(struct job **out)
{
	return pass_bus1(out, pass_bus1_run, pass_bus1_verify);
}

int job_pass_bus1_new(struct job **out)
{
	return pass_bus1(out, pass_new_run, pass_new_verify);
}

/* File descriptors: one end of a pipe, over a seqpacket socket. */
struct fd_job {
	struct job job;
	int giver, taker;
	int held[2];
};

union control {
	char bytes[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

static int fd_pass_on(struct fd_job *f, int fd, int *got)
{
	uint64_t payload = (uint64_t)fd, arrived = 0;
	struct iovec out = { &payload, PAYLOAD }, in = { &arrived, PAYLOAD };
	union control control;
	struct msghdr h = {
		.msg_iov = &out,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&h);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	if (sendmsg(f->giver, &h, 0) < 0)
		return -errno;

	h.msg_iov = &in;
	h.msg_controllen = sizeof(control.bytes);
	if (recvmsg(f->taker, &h, MSG_CMSG_CLOEXEC) < 0)
		return -errno;
	c = CMSG_FIRSTHDR(&h);
	if (arrived != payload || !c || c->cmsg_type != SCM_RIGHTS ||
	    c->cmsg_len != CMSG_LEN(sizeof(int)))
		return -EBADMSG;
	memcpy(got, CMSG_DATA(c), sizeof(int));
	return 0;
}

static int life_fd_run(struct job *j, unsigned long n)
{
	struct fd_job *f = (struct fd_job *)j;
	int fd[2], got, r;

	while (n--) {
		if (pipe2(fd, O_CLOEXEC) < 0)
			return -errno;
		r = fd_pass_on(f, fd[1], &got);
		if (r < 0)
			return r;
		close(got);
		close(fd[1]);
		close(fd[0]);
	}
	return 0;
}

/* What arrived is the pipe, and its end is seen once all are closed. */
static int fd_verify(struct job *j)
{
	struct fd_job *f = (struct fd_job *)j;
	int fd[2], got, r;
	char c = 0;

	if (pipe2(fd, O_CLOEXEC) < 0)
		return -errno;
	r = fd_pass_on(f, fd[1], &got);
	if (r < 0)
		return r;
	if (write(got, "x", 1) != 1 || read(fd[0], &c, 1) != 1 || c != 'x')
		r = -EBADMSG;
	close(got);
	close(fd[1]);
	if (read(fd[0], &c, 1) != 0)
		r = -EBADMSG;
	close(fd[0]);
	return r;
}

static int pass_fd_run(struct job *j, unsigned long n)
{
	struct fd_job *f = (struct fd_job *)j;
	int got, r;

	while (n--) {
		r = fd_pass_on(f, f->held[1], &got);
		if (r < 0)
			return r;
		close(got);
	}
	return 0;
}

static void fd_close(struct job *j)
{
	struct fd_job *f = (struct fd_job *)j;

	close(f->giver);
	close(f->taker);
	close(f->held[0]);
	close(f->held[1]);
	free(f);
}

static int fd_job(struct job **out, int (*run)(struct job *, unsigned long))
{
	struct fd_job *f;
	int fd[2], r;

	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->job.close = fd_close;
	f->job.verify = fd_verify;
	f->job.run = run;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd) < 0) {
		r = -errno;
		free(f);
		return r;
	}
	f->giver = fd[0];
	f->taker = fd[1];
	if (pipe2(f->held, O_CLOEXEC) < 0) {
		r = -errno;
		close(fd[0]);
		close(fd[1]);
		free(f);
		return r;
	}
	*out = &f->job;
	return 0;
}

int job_life_fd(struct job **out)
{
	return fd_job(out, life_fd_run);
}

int job_pass_fd(struct job **out)
{
	return fd_job(out, pass_fd_run);
}
