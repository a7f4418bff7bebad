// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Many senders and one receiver, who waits for nothing until all have sent: on bus1
 * it receives all at once; of sockets it asks epoll which, and then each; a datagram
 * socket and a pipe are shared by all senders, and a pipe read at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bus1.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench.h"

#define PAYLOAD 64
#define WORDS (PAYLOAD / 8)

struct fanin_job {
	struct job job;
	int (*send)(struct fanin_job *f, size_t i);
	int (*recv)(struct fanin_job *f);	/* all of them, into got[] in any order */
	/* From peers or sockets, to sockets if the one (peer, epoll, socket, pipe) has many. */
	struct fan fan;
	uint64_t door;			/* the receiver's node */
	uint64_t dest[FANOUT_MAX];	/* the senders' handles to it */
	uint64_t data[FANOUT_MAX][WORDS];
	uint64_t got[FANOUT_MAX][WORDS];
};

static int bus1_one(struct fanin_job *f, size_t i)
{
	struct bus1_cmd_send c = { .dest = f->dest[i], .data = ptr(f->data[i]), .len = PAYLOAD };

	return ioctl(f->fan.from[i], BUS1_CMD_SEND, &c) < 0 ? -errno : 0;
}

/* Inline payloads of one size lie one behind the other. */
static int bus1_all(struct fanin_job *f)
{
	struct bus1_msg m[FANOUT_MAX];

	for (size_t have = 0; have < f->fan.n;) {
		struct bus1_cmd_recv c = {
			.msgs = ptr(m),
			.n_msgs = (uint32_t)(f->fan.n - have),
			.msg_size = sizeof(m[0]),
			.buf = ptr(f->got[have]),
			.buf_size = (uint32_t)((f->fan.n - have) * PAYLOAD),
		};

		if (ioctl(f->fan.one, BUS1_CMD_RECV, &c) < 0)
			return -errno;
		for (size_t i = 0; i < c.n_msgs; i++)
			if (m[i].type != BUS1_MSG_DATA || m[i].id != f->door || m[i].len != PAYLOAD ||
			    m[i].slice || m[i].offset != i * PAYLOAD)
				return -EBADMSG;
		have += c.n_msgs;
	}
	return 0;
}

static int write_one(struct fanin_job *f, size_t i)
{
	return write(f->fan.from[i], f->data[i], PAYLOAD) == PAYLOAD ? 0 : -errno;
}

static int epoll_all(struct fanin_job *f)
{
	struct epoll_event events[FANOUT_MAX];

	for (size_t have = 0; have < f->fan.n;) {
		int n = epoll_wait(f->fan.one, events, FANOUT_MAX, -1);

		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++, have++)
			if (recv(f->fan.to[events[i].data.u32], f->got[have], PAYLOAD, 0) != PAYLOAD)
				return -EBADMSG;
	}
	return 0;
}

static int dgram_all(struct fanin_job *f)
{
	for (size_t i = 0; i < f->fan.n; i++)
		if (recv(f->fan.one, f->got[i], PAYLOAD, 0) != PAYLOAD)
			return -EBADMSG;
	return 0;
}

static int pipe_all(struct fanin_job *f)
{
	return read(f->fan.one, f->got, f->fan.n * PAYLOAD) == (ssize_t)(f->fan.n * PAYLOAD) ? 0 : -EBADMSG;
}

static int fanin_run(struct job *j, unsigned long n)
{
	struct fanin_job *f = (struct fanin_job *)j;
	int r = 0;

	while (n-- && r == 0) {
		for (size_t i = 0; i < f->fan.n && r == 0; i++)
			r = f->send(f, i);
		if (r == 0)
			r = f->recv(f);
	}
	return r;
}

/* Each sender's message arrives, once and whole. */
static int fanin_verify(struct job *j)
{
	struct fanin_job *f = (struct fanin_job *)j;
	bool seen[FANOUT_MAX] = {};
	int r;

	for (size_t i = 0; i < f->fan.n; i++)
		for (size_t w = 0; w < WORDS; w++)
			f->data[i][w] = (i + 1) * 0x9e3779b97f4a7c15u + w;
	r = fanin_run(j, 1);
	for (size_t i = 0; i < f->fan.n && r == 0; i++) {
		size_t k = 0;

		while (k < f->fan.n && (seen[k] || memcmp(f->got[i], f->data[k], PAYLOAD)))
			k++;
		if (k == f->fan.n)
			r = -EBADMSG;
		else
			seen[k] = true;
	}
	return r;
}

static void fanin_close(struct job *j)
{
	struct fanin_job *f = (struct fanin_job *)j;

	fan_close(&f->fan);
	free(f);
}

static int fanin_new(struct fanin_job **out, size_t n)
{
	struct fanin_job *f;

	if (n < 1 || n > FANOUT_MAX)
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->job.run = fanin_run;
	f->job.verify = fanin_verify;
	f->job.close = fanin_close;
	fan_init(&f->fan, n);
	*out = f;
	return 0;
}

int job_fanin_bus1(struct job **out, size_t count)
{
	struct fanin_job *f;
	int r = fanin_new(&f, count);

	if (r < 0)
		return r;
	f->send = bus1_one;
	f->recv = bus1_all;
	r = bus1_open(&f->fan.one);
	if (r == 0)
		r = bus1_node_create(f->fan.one, 0, &f->door);
	for (size_t i = 0; i < count && r == 0; i++) {
		r = bus1_open(&f->fan.from[i]);
		if (r == 0)
			r = bus1_handle_give(f->fan.one, f->door, f->fan.from[i], &f->dest[i]);
	}
	return job_made(out, &f->job, r);
}

int job_fanin_socket(struct job **out, size_t count)
{
	struct fanin_job *f;
	int r = fanin_new(&f, count);

	if (r < 0)
		return r;
	f->send = write_one;
	f->recv = epoll_all;
	f->fan.one = epoll_create1(EPOLL_CLOEXEC);
	r = f->fan.one < 0 ? -errno : fan_seqpacket(&f->fan);
	for (size_t i = 0; i < count && r == 0; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = (uint32_t)i };

		if (epoll_ctl(f->fan.one, EPOLL_CTL_ADD, f->fan.to[i], &event) < 0)
			r = -errno;
	}
	return job_made(out, &f->job, r);
}

/* How many datagrams may wait; nobody may be made to: the one thread would be stuck. */
static unsigned int dgram_queue(void)
{
	FILE *f = fopen("/proc/sys/net/unix/max_dgram_qlen", "re");
	unsigned int n;

	if (!f)
		return 10;
	if (fscanf(f, "%u", &n) != 1)
		n = 10;
	fclose(f);
	return n;
}

int job_fanin_dgram(struct job **out, size_t count)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(address);
	struct fanin_job *f;
	int r;

	if (count > dgram_queue())
		return absent("%zu datagrams are more than may wait (net.unix.max_dgram_qlen)", count);
	r = fanin_new(&f, count);
	if (r < 0)
		return r;
	f->send = write_one;
	f->recv = dgram_all;
	f->fan.one = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (f->fan.one < 0 || bind(f->fan.one, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 ||
	    getsockname(f->fan.one, (struct sockaddr *)&address, &len) < 0)
		r = -errno;
	for (size_t i = 0; i < count && r == 0; i++) {
		f->fan.from[i] = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (f->fan.from[i] < 0 || connect(f->fan.from[i], (struct sockaddr *)&address, len) < 0)
			r = -errno;
	}
	return job_made(out, &f->job, r);
}

int job_fanin_pipe(struct job **out, size_t count)
{
	struct fanin_job *f;
	int fd[2], r = fanin_new(&f, count);

	if (r < 0)
		return r;
	f->send = write_one;
	f->recv = pipe_all;
	if (pipe2(fd, O_CLOEXEC) < 0)
		return job_made(out, &f->job, -errno);
	f->fan.one = fd[0];
	f->fan.from[0] = fd[1];
	for (size_t i = 1; i < count && r == 0; i++) {
		f->fan.from[i] = fcntl(fd[1], F_DUPFD_CLOEXEC, 0);
		if (f->fan.from[i] < 0)
			r = -errno;
	}
	return job_made(out, &f->job, r);
}
