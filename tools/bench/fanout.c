// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <linux/bus1.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

void fan_init(struct fan *fan, size_t n)
{
	fan->n = n;
	fan->one = -1;
	memset(fan->from, -1, sizeof(fan->from));
	memset(fan->to, -1, sizeof(fan->to));
}

void fan_close(struct fan *fan)
{
	for (size_t i = 0; i < fan->n; i++) {
		if (fan->to[i] >= 0)
			close(fan->to[i]);
		if (fan->from[i] >= 0)
			close(fan->from[i]);
	}
	if (fan->one >= 0)
		close(fan->one);
}

int fan_seqpacket(struct fan *fan)
{
	for (size_t i = 0; i < fan->n; i++) {
		int fd[2];

		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd) < 0)
			return -errno;
		fan->from[i] = fd[0];
		fan->to[i] = fd[1];
	}
	return 0;
}

#define PAYLOAD 64

/*
 * The receivers take each message before the next is sent, but that is not
 * counted: what is compared is one multicast with one send for each receiver.
 */
struct fanout_job {
	struct job job;
	int (*send)(struct fanout_job *f);
	int (*recv)(struct fanout_job *f, size_t i);	/* into buf; -EAGAIN: nothing there */
	/* The one is a peer; or from sockets; to peers or sockets. */
	struct fan fan;
	uint64_t door[FANOUT_MAX];	/* the receivers' nodes */
	uint64_t dest[FANOUT_MAX];	/* the sender's handles to them */
	uint64_t data[PAYLOAD / 8];
	uint64_t buf[PAYLOAD / 8];
};

static int bus1_multicast(struct fanout_job *f)
{
	struct bus1_cmd_send c = {
		.dests = ptr(f->dest),
		.n_dests = (uint32_t)f->fan.n,
		.data = ptr(f->data),
		.len = PAYLOAD,
	};

	return ioctl(f->fan.one, BUS1_CMD_SEND, &c) < 0 ? -errno : 0;
}

static int bus1_take(struct fanout_job *f, size_t i)
{
	struct bus1_msg m;
	int r;

	r = bus1_recv(f->fan.to[i], &m, f->buf, sizeof(f->buf), 0);
	if (r < 0)
		return r;
	if (m.type != BUS1_MSG_DATA || m.id != f->door[i] || m.len != PAYLOAD || m.slice)
		return -EBADMSG;
	return 0;
}

static int socket_send_all(struct fanout_job *f)
{
	for (size_t i = 0; i < f->fan.n; i++)
		if (send(f->fan.from[i], f->data, PAYLOAD, 0) != PAYLOAD)
			return -errno;
	return 0;
}

static int socket_take(struct fanout_job *f, size_t i)
{
	ssize_t n = recv(f->fan.to[i], f->buf, sizeof(f->buf), MSG_DONTWAIT);

	if (n < 0)
		return -errno;
	return n == PAYLOAD ? 0 : -EBADMSG;
}

static int fanout_run(struct job *j, unsigned long n)
{
	struct fanout_job *f = (struct fanout_job *)j;
	int r = 0;

	while (n-- && r == 0) {
		r = f->send(f);
		job_pause(j);
		for (size_t i = 0; i < f->fan.n && r == 0; i++) {
			r = f->recv(f, i);
			if (r == 0 && memcmp(f->buf, f->data, PAYLOAD))
				r = -EBADMSG;
		}
		for (size_t i = 0; i < ARRAY_SIZE(f->data); i++)
			f->data[i] += i + 1;
		job_resume(j);
	}
	return r;
}

/* Each receiver gets it once. */
static int fanout_verify(struct job *j)
{
	struct fanout_job *f = (struct fanout_job *)j;
	int r;

	r = fanout_run(j, 1);
	for (size_t i = 0; i < f->fan.n && r == 0; i++)
		if (f->recv(f, i) != -EAGAIN)
			r = -EBADMSG;
	return r;
}

static void fanout_close(struct job *j)
{
	struct fanout_job *f = (struct fanout_job *)j;

	fan_close(&f->fan);
	free(f);
}

static int fanout_new(struct fanout_job **out, size_t n)
{
	struct fanout_job *f;

	if (n < 1 || n > FANOUT_MAX)
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->job.run = fanout_run;
	f->job.verify = fanout_verify;
	f->job.close = fanout_close;
	fan_init(&f->fan, n);
	*out = f;
	return 0;
}

int job_fanout_bus1(struct job **out, size_t count)
{
	struct fanout_job *f;
	int r = fanout_new(&f, count);

	if (r < 0)
		return r;
	f->send = bus1_multicast;
	f->recv = bus1_take;
	r = bus1_open(&f->fan.one);
	for (size_t i = 0; i < count && r == 0; i++) {
		r = bus1_open(&f->fan.to[i]);
		if (r == 0)
			r = bus1_node_create(f->fan.to[i], 0, &f->door[i]);
		if (r == 0)
			r = bus1_handle_give(f->fan.to[i], f->door[i], f->fan.one, &f->dest[i]);
	}
	return job_made(out, &f->job, r);
}

int job_fanout_socket(struct job **out, size_t count)
{
	struct fanout_job *f;
	int r = fanout_new(&f, count);

	if (r < 0)
		return r;
	f->send = socket_send_all;
	f->recv = socket_take;
	return job_made(out, &f->job, fan_seqpacket(&f->fan));
}
