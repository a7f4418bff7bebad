// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <linux/bus1.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench.h"

/* Of file descriptors, beside those of the holders. */
#define SPARE_FDS 64

/*
 * Each holder is a peer of its own. Only the command that destroys the node is
 * counted: that the node is made and passed to all before, and that they take
 * the notice and release the handle after, is not.
 */
struct death_job {
	struct job job;
	int owner;
	size_t n;
	int *holder;
	uint64_t *handle;
};

static int death_round(struct death_job *d)
{
	struct bus1_msg m;
	uint64_t node;
	int r;

	job_pause(&d->job);
	r = bus1_node_create(d->owner, 0, &node);
	for (size_t i = 0; i < d->n && r == 0; i++)
		r = bus1_handle_give(d->owner, node, d->holder[i], &d->handle[i]);
	job_resume(&d->job);
	if (r < 0)
		return r;

	r = bus1_node_destroy(d->owner, node);

	job_pause(&d->job);
	for (size_t i = 0; i < d->n && r == 0; i++) {
		r = bus1_recv(d->holder[i], &m, NULL, 0, 0);
		if (r == 0 && (m.type != BUS1_MSG_NODE_DEAD || m.id != d->handle[i]))
			r = -EBADMSG;
		if (r == 0)
			r = bus1_handle_release(d->holder[i], d->handle[i]);
	}
	job_resume(&d->job);
	return r;
}

static int death_run(struct job *j, unsigned long n)
{
	int r = 0;

	while (n-- && r == 0)
		r = death_round((struct death_job *)j);
	return r;
}

/* Each holder is told once, and nothing is left. */
static int death_verify(struct job *j)
{
	struct death_job *d = (struct death_job *)j;
	struct bus1_cmd_info info;
	int r;

	r = death_round(d);
	for (size_t i = 0; i < d->n && r == 0; i++) {
		r = bus1_info(d->holder[i], &info);
		if (r == 0 && (info.n_handles || info.n_queued))
			r = -EBADMSG;
	}
	if (r == 0)
		r = bus1_info(d->owner, &info);
	if (r < 0)
		return r;
	return info.n_nodes || info.n_queued ? -EBADMSG : 0;
}

static void death_close(struct job *j)
{
	struct death_job *d = (struct death_job *)j;

	for (size_t i = 0; d->holder && i < d->n; i++)
		if (d->holder[i] >= 0)
			close(d->holder[i]);
	if (d->owner >= 0)
		close(d->owner);
	free(d->holder);
	free(d->handle);
	free(d);
}

/* Where the hard limit is too low it takes a privilege. */
static int allow_fds(size_t n)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return -errno;
	if (l.rlim_cur >= n)
		return 0;
	l.rlim_cur = n;
	if (l.rlim_max < n)
		l.rlim_max = n;
	return setrlimit(RLIMIT_NOFILE, &l) < 0 ? -EMFILE : 0;
}

int job_death(struct job **out, size_t count)
{
	struct death_job *d;
	int r;

	if (count < 1)
		return -EINVAL;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->job.run = death_run;
	d->job.verify = death_verify;
	d->job.close = death_close;
	d->job.parts = count;
	d->owner = -1;
	d->n = count;
	d->holder = calloc(count, sizeof(*d->holder));
	d->handle = calloc(count, sizeof(*d->handle));
	r = d->holder && d->handle ? 0 : -ENOMEM;
	for (size_t i = 0; d->holder && i < count; i++)
		d->holder[i] = -1;
	if (r == 0)
		r = allow_fds(count + SPARE_FDS);
	if (r == 0)
		r = bus1_open(&d->owner);
	for (size_t i = 0; i < count && r == 0; i++)
		r = bus1_open(&d->holder[i]);
	return job_made(out, &d->job, r);
}
