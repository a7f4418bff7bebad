// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <linux/bus1.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

#define PAYLOAD 64
#define FIRST_UID 3001
#define PEERS 6			/* of each hostile user */
#define TURN 64			/* round trips from one turn of theirs to the next */
#define POOL (1 << 20)
#define URGENT 1

/*
 * A client and a server do round trips, while each of the other users keeps as
 * much in flight to the server as it can get: messages, pool, handles and files,
 * by several peers, each of which waits for room. They have their turns uncounted,
 * so that what is counted is what all of that costs the client and the server. The
 * server receives by priority, or else it would receive theirs, which is no part of
 * a round trip.
 */
struct flood_job {
	struct job job;
	size_t n_users;		/* the client's included */
	int server, client;
	uint64_t desk;		/* node of the server's */
	uint64_t client_node;
	uint64_t to_server, to_client;
	const uint8_t *pool;
	size_t n_hostile;
	int *hostile;
	uint64_t *handle;	/* theirs */
	int null;
	unsigned long turn;
	uint64_t data[PAYLOAD / 8];
	uint64_t buf[PAYLOAD / 8];
};

static int send_cmd(int fd, const struct bus1_cmd_send *c)
{
	return ioctl(fd, BUS1_CMD_SEND, c) < 0 ? -errno : 0;
}

/* As often as it goes: what stops it is that there is no room, or a limit of the user's. */
static int send_all(int fd, const struct bus1_cmd_send *c)
{
	int r;

	while (!(r = send_cmd(fd, c)))
		;
	return r == -EAGAIN || r == -EDQUOT ? 0 : r;
}

/* All that one peer can get of everything, and a notice for when there is more. */
static int take_all(struct flood_job *f, int fd, uint64_t h)
{
	static uint8_t bytes[POOL / 16];
	uint64_t dests[BUS1_MAX_DESTS];
	struct bus1_pass pass[BUS1_MAX_HANDLES] = {};
	int32_t fds[BUS1_MAX_FDS];
	struct bus1_msg m;
	int r = 0;

	while (!bus1_recv(fd, &m, NULL, 0, 0))
		if (m.type != BUS1_MSG_WRITABLE)
			return -EBADMSG;
	for (size_t n = sizeof(bytes); n >= 1024 && r == 0; n /= 2)
		r = send_all(fd, &(struct bus1_cmd_send){ .dest = h, .data = ptr(bytes), .len = n });
	for (uint32_t i = 0; i < BUS1_MAX_HANDLES; i++)
		pass[i].id = h;
	for (uint32_t n = BUS1_MAX_HANDLES; n && r == 0; n /= 4)
		r = send_all(fd, &(struct bus1_cmd_send){ .dest = h, .handles = ptr(pass), .n_handles = n });
	for (uint32_t i = 0; i < BUS1_MAX_FDS; i++)
		fds[i] = f->null;
	for (uint32_t n = BUS1_MAX_FDS; n && r == 0; n /= 4)
		r = send_all(fd, &(struct bus1_cmd_send){ .dest = h, .fds = ptr(fds), .n_fds = n });
	for (uint32_t i = 0; i < BUS1_MAX_DESTS; i++)
		dests[i] = h;
	for (uint32_t n = BUS1_MAX_DESTS; n && r == 0; n /= 4)
		r = send_all(fd, &(struct bus1_cmd_send){ .dests = ptr(dests), .n_dests = n });
	if (r == 0)
		r = send_all(fd, &(struct bus1_cmd_send){ .flags = BUS1_SEND_NOTIFY, .dest = h });
	return r;
}

static int turn_of_hostile(struct flood_job *f)
{
	int r = 0;

	job_pause(&f->job);
	for (size_t i = 0; i < f->n_hostile && r == 0; i++)
		r = take_all(f, f->hostile[i], f->handle[i]);
	job_resume(&f->job);
	return r;
}

static int one_way(struct flood_job *f, int from, uint64_t handle, int to, uint64_t node)
{
	struct bus1_cmd_send c = {
		.dest = handle, .data = ptr(f->data), .len = PAYLOAD, .priority = URGENT };
	struct bus1_msg m;
	int r;

	r = send_cmd(from, &c);
	if (r == 0)
		r = bus1_recv(to, &m, f->buf, sizeof(f->buf), 0);
	if (r < 0)
		return r;
	return m.type != BUS1_MSG_DATA || m.id != node || m.len != PAYLOAD ? -EBADMSG : 0;
}

static int round_trip(struct flood_job *f)
{
	int r = one_way(f, f->client, f->to_server, f->server, f->desk);

	return r < 0 ? r : one_way(f, f->server, f->to_client, f->client, f->client_node);
}

static int flood_run(struct job *j, unsigned long n)
{
	struct flood_job *f = (struct flood_job *)j;
	int r = 0;

	while (n-- && r == 0) {
		if (f->turn++ % TURN == 0)
			r = turn_of_hostile(f);
		if (r == 0)
			r = round_trip(f);
	}
	return r;
}

/* The flood is there, and nobody who floods gets any more in. */
static int flood_verify(struct job *j)
{
	struct flood_job *f = (struct flood_job *)j;
	struct bus1_cmd_info info;
	int r;

	for (int i = 0; i < 3; i++) {
		r = turn_of_hostile(f);
		if (r == 0)
			r = round_trip(f);
		if (r < 0)
			return r;
	}
	memset(f->buf, 0, sizeof(f->buf));
	f->data[0]++;
	r = round_trip(f);
	if (r == 0 && memcmp(f->buf, f->data, PAYLOAD))
		r = -EBADMSG;
	if (r == 0)
		r = bus1_info(f->server, &info);
	if (r < 0)
		return r;
	if (!f->n_hostile)
		return info.n_queued ? -EBADMSG : 0;
	/* n users have n in n + 1 of it, if they can get it. */
	return info.n_queued < 16384 || info.pool_used < POOL / 2 ? -EBADMSG : 0;
}

static void flood_close(struct job *j)
{
	struct flood_job *f = (struct flood_job *)j;

	for (size_t i = 0; i < f->n_hostile; i++)
		close(f->hostile[i]);
	if (f->pool)
		munmap((void *)f->pool, POOL);
	if (f->client >= 0)
		close(f->client);
	if (f->server >= 0)
		close(f->server);
	if (f->null >= 0)
		close(f->null);
	free(f->hostile);
	free(f->handle);
	free(f);
}

/* A user is whom a peer is opened by. */
static int open_as(uid_t uid, int *fd)
{
	uid_t self = geteuid();
	int r;

	if (seteuid(uid) < 0)
		return -errno;
	r = bus1_open(fd);
	if (seteuid(self) < 0)
		abort();
	return r;
}

static int open_all(struct flood_job *f)
{
	struct bus1_cmd_setup setup = { .flags = BUS1_PEER_PRIORITY };
	void *pool;
	int r;

	f->null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (f->null < 0)
		return -errno;
	r = bus1_open(&f->server);
	if (r == 0)
		r = open_as(FIRST_UID, &f->client);
	if (r == 0 && ioctl(f->server, BUS1_CMD_PEER_SETUP, &setup) < 0)
		r = -errno;
	if (r == 0)
		r = bus1_node_create(f->server, 0, &f->desk);
	if (r == 0)
		r = bus1_node_create(f->client, 0, &f->client_node);
	if (r == 0)
		r = bus1_handle_give(f->server, f->desk, f->client, &f->to_server);
	if (r == 0)
		r = bus1_handle_give(f->client, f->client_node, f->server, &f->to_client);
	if (r < 0)
		return r;
	pool = mmap(NULL, POOL, PROT_READ, MAP_SHARED, f->server, 0);
	if (pool == MAP_FAILED)
		return -errno;
	f->pool = pool;
	for (size_t u = 1; u < f->n_users; u++)
		for (size_t i = 0; i < PEERS; i++) {
			int *fd = &f->hostile[f->n_hostile];

			r = open_as(FIRST_UID + (uid_t)u, fd);
			if (r < 0)
				return r;
			r = bus1_handle_give(f->server, f->desk, *fd, &f->handle[f->n_hostile++]);
			if (r < 0)
				return r;
		}
	return 0;
}

int job_flood(struct job **out, size_t count)
{
	struct flood_job *f;
	int r;

	if (count < 1 || count > 64)
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->job.run = flood_run;
	f->job.verify = flood_verify;
	f->job.close = flood_close;
	f->n_users = count;
	f->server = f->client = f->null = -1;
	f->hostile = calloc(count * PEERS, sizeof(*f->hostile));
	f->handle = calloc(count * PEERS, sizeof(*f->handle));
	r = f->hostile && f->handle ? open_all(f) : -ENOMEM;
	return job_made(out, &f->job, r);
}
