// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <linux/bus1.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "bench.h"

#define PAYLOAD 64

/*
 * The owner has `n` nodes, and the holder a handle to each. One operation goes
 * through the holder's handles as a program with many objects does: a message
 * is sent through one of them, and a handle arrives that is there already, and
 * its count is released. Which ones is pseudo-random, so that no table profits
 * from what it did last.
 */
struct scale_job {
	struct job job;
	int owner, holder;
	uint64_t door;		/* of the holder */
	uint64_t to;		/* the owner's handle to it */
	uint32_t n;
	uint32_t seed;
	uint64_t *node;		/* their cookies are the indices */
	uint64_t *handle;
	uint64_t data[PAYLOAD / 8];
	/* Of a message with as many handles as there may be. */
	uint64_t buf[PAYLOAD / 8 + BUS1_MAX_HANDLES * sizeof(struct bus1_handle) / 8];
};

static uint32_t pick(struct scale_job *s)
{
	s->seed = s->seed * 1664525 + 1013904223;
	/* The upper bits: the lower ones repeat early. */
	return (uint32_t)((uint64_t)s->seed * s->n >> 32);
}

static int message_to(struct scale_job *s, uint32_t i)
{
	struct bus1_cmd_send c = { .dest = s->handle[i], .data = ptr(s->data), .len = PAYLOAD };
	struct bus1_msg m;
	int r;

	if (ioctl(s->holder, BUS1_CMD_SEND, &c) < 0)
		return -errno;
	r = bus1_recv(s->owner, &m, s->buf, sizeof(s->buf), 0);
	if (r < 0)
		return r;
	if (m.type != BUS1_MSG_DATA || m.id != s->node[i] || m.cookie != i || m.len != PAYLOAD)
		return -EBADMSG;
	return 0;
}

/* Pass the nodes [first, first + count) to the holder; `got` are its handles. */
static int pass(struct scale_job *s, uint32_t first, uint32_t count, const struct bus1_handle **got)
{
	struct bus1_pass passes[BUS1_MAX_HANDLES];
	struct bus1_cmd_send c = { .dest = s->to, .handles = ptr(passes), .n_handles = count };
	struct bus1_msg m;
	int r;

	for (uint32_t i = 0; i < count; i++)
		passes[i] = (struct bus1_pass){ .id = s->node[first + i] };
	if (ioctl(s->owner, BUS1_CMD_SEND, &c) < 0)
		return -errno;
	r = bus1_recv(s->holder, &m, s->buf, sizeof(s->buf), 0);
	if (r < 0)
		return r;
	if (m.type != BUS1_MSG_DATA || m.id != s->door || m.n_handles != count)
		return -EBADMSG;
	*got = (const void *)((char *)s->buf + m.handles);
	return 0;
}

static int pass_again(struct scale_job *s, uint32_t i)
{
	const struct bus1_handle *got;
	int r;

	r = pass(s, i, 1, &got);
	if (r < 0)
		return r;
	if (got->id != s->handle[i] || got->flags)
		return -EBADMSG;
	return bus1_handle_release(s->holder, got->id);
}

static int scale_run(struct job *j, unsigned long n)
{
	struct scale_job *s = (struct scale_job *)j;
	int r = 0;

	while (n-- && r == 0) {
		r = message_to(s, pick(s));
		if (r == 0)
			r = pass_again(s, pick(s));
	}
	return r;
}

/* All are held, all work, and it leaves as many as there were. */
static int scale_verify(struct job *j)
{
	struct scale_job *s = (struct scale_job *)j;
	struct bus1_cmd_info info;
	/* As many as there are, but not all of very many. */
	uint32_t step = s->n / 1000 + 1;
	int r = 0;

	for (uint32_t i = 0; i < s->n && r == 0; i += step) {
		r = message_to(s, i);
		if (r == 0)
			r = pass_again(s, i);
	}
	if (r == 0)
		r = bus1_info(s->holder, &info);
	if (r < 0)
		return r;
	if (info.n_handles != s->n || info.n_queued)
		return -EBADMSG;
	r = bus1_info(s->owner, &info);
	if (r < 0)
		return r;
	return info.n_nodes != s->n || info.n_queued ? -EBADMSG : 0;
}

static void scale_close(struct job *j)
{
	struct scale_job *s = (struct scale_job *)j;

	if (s->owner >= 0)
		close(s->owner);
	if (s->holder >= 0)
		close(s->holder);
	free(s->node);
	free(s->handle);
	free(s);
}

static int fill(struct scale_job *s)
{
	const struct bus1_handle *got;
	uint32_t part;
	int r;

	for (uint32_t i = 0; i < s->n; i++) {
		r = bus1_node_create(s->owner, i, &s->node[i]);
		if (r < 0)
			return r;
	}
	for (uint32_t i = 0; i < s->n; i += part) {
		part = s->n - i < BUS1_MAX_HANDLES ? s->n - i : BUS1_MAX_HANDLES;
		r = pass(s, i, part, &got);
		if (r < 0)
			return r;
		for (uint32_t k = 0; k < part; k++)
			s->handle[i + k] = got[k].id;
	}
	return 0;
}

int job_scale(struct job **out, size_t count)
{
	struct scale_job *s;
	int r;

	if (count < 1 || count > UINT32_MAX)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->job.run = scale_run;
	s->job.verify = scale_verify;
	s->job.close = scale_close;
	s->owner = s->holder = -1;
	s->n = (uint32_t)count;
	s->node = calloc(count, sizeof(*s->node));
	s->handle = calloc(count, sizeof(*s->handle));
	r = s->node && s->handle ? 0 : -ENOMEM;
	if (r == 0)
		r = bus1_open(&s->owner);
	if (r == 0)
		r = bus1_open(&s->holder);
	if (r == 0)
		r = bus1_node_create(s->holder, 0, &s->door);
	if (r == 0)
		r = bus1_handle_give(s->holder, s->door, s->owner, &s->to);
	if (r == 0)
		r = fill(s);
	return job_made(out, &s->job, r);
}
