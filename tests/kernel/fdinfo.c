// SPDX-License-Identifier: GPL-2.0-or-later
/* RES-6: what /proc shows of a peer, and of an exported handle. */
#include "watch.h"

#include <string.h>
#include <unistd.h>

static const char *const keys[] = {
	"peer", "by-priority", "messages", "notices", "uncommitted", "nodes", "handles",
	"slices", "pool-size", "pool-pages", "pool-used",
};

/* It says of a peer what that is told itself, and how the queue is made up. */
static void shows(const struct peer *p, u64 messages, u64 notices)
{
	struct bus1_cmd_info info = peer_info(p);

	EQ(fdinfo(p->fd, "messages"), messages);
	EQ(fdinfo(p->fd, "notices"), notices);
	EQ(fdinfo(p->fd, "uncommitted"), 0);
	EQ(messages + notices, info.n_queued);
	EQ(fdinfo(p->fd, "nodes"), info.n_nodes);
	EQ(fdinfo(p->fd, "handles"), info.n_handles);
	EQ(fdinfo(p->fd, "slices"), info.n_slices);
	EQ(fdinfo(p->fd, "pool-size"), info.pool_size);
	EQ(fdinfo(p->fd, "pool-pages"), info.pool_pages);
	EQ(fdinfo(p->fd, "pool-used"), info.pool_used);
}

TEST("RES-6 fdinfo shows queue, pool and counts as they change")
{
	struct peer a = peer_new(1 << 20), b = peer_new(0);
	u64 n = node_new(&a, 1), h, m;
	static u8 data[5000];
	struct in in;

	NE(peer_id(&a), peer_id(&b));
	shows(&a, 0, 0);
	EQ(fdinfo(a.fd, "pool-size"), 1 << 20);
	EQ(fdinfo(a.fd, "nodes"), 1);
	EQ(fdinfo(b.fd, "pool-size"), 0);
	h = grant(&a, n, &b);
	EQ(fdinfo(b.fd, "handles"), 1);
	shows(&b, 0, 0);

	OK(send_str(&b, h, "inline"));
	shows(&a, 1, 0);
	EQ(fdinfo(a.fd, "slices"), 0);
	OK(send_data(&b, h, data, sizeof(data)));
	shows(&a, 2, 0);
	EQ(fdinfo(a.fd, "slices"), 1);
	EQ(fdinfo(a.fd, "pool-pages"), 2);
	GE(fdinfo(a.fd, "pool-used"), sizeof(data));
	m = node_new(&b, 2);
	OK(send_id(&b, h, m));
	shows(&a, 3, 0);
	EQ(fdinfo(a.fd, "handles"), 1);
	/* Its notice stands behind the message. */
	OK(destroy(&b, m));
	shows(&a, 3, 1);

	GOT_TEXT(&a, n, "inline");
	shows(&a, 2, 1);
	OK(recv_now(&a, &in));
	shows(&a, 1, 1);
	EQ(fdinfo(a.fd, "slices"), 1);
	OK(slice_release(&a, in.m.slice));
	shows(&a, 1, 1);
	EQ(fdinfo(a.fd, "slices"), 0);
	EQ(fdinfo(a.fd, "pool-used"), 0);
	m = GOT_ID(&a, n);
	shows(&a, 0, 1);
	/* A notice that is withdrawn. */
	OK(release(&a, m));
	shows(&a, 0, 0);
	EQ(fdinfo(a.fd, "handles"), 0);

	/* One that is received, and one that is thrown away. */
	OK(release(&b, h));
	shows(&a, 0, 1);
	GOT_UNUSED(&a, n, 1);
	shows(&a, 0, 0);
	h = grant(&a, n, &b);
	peer_close(&b);
	shows(&a, 0, 1);
	OK(drop_now(&a, &in.m));
	shows(&a, 0, 0);
}

TEST("RES-6 fdinfo shows each key once, and what receives by priority")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		fdinfo(a.fd, keys[i]);
	EQ(fdinfo(a.fd, "by-priority"), 0);
	OK(setup(&a, BUS1_PEER_PRIORITY));
	EQ(fdinfo(a.fd, "by-priority"), 1);
	/* Of all priorities together. */
	for (u32 i = 0; i <= BUS1_MAX_PRIORITY; i++)
		OK(send_cmd(&a, &(struct bus1_cmd_send){ .dest = n, .priority = i }));
	shows(&a, BUS1_MAX_PRIORITY + 1, 0);
	EQ(drain(&a), BUS1_MAX_PRIORITY + 1);
	shows(&a, 0, 0);
	OK(setup(&a, 0));
	EQ(fdinfo(a.fd, "by-priority"), 0);
}

TEST("RES-6 fdinfo of an exported handle is that of a peer with one handle")
{
	struct peer a = peer_new(0);
	u64 n = node_new(&a, 1);
	int fd = (int)OK(export_fd(&a, n, 0));

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		u64 v = fdinfo(fd, keys[i]);

		if (strcmp(keys[i], "peer"))
			EQ(v, !strcmp(keys[i], "handles"));
	}
	NE(fdinfo(fd, "peer"), peer_id(&a));
	OK(destroy(&a, n));
	EQ(fdinfo(fd, "notices"), 1);
	EQ(fdinfo(fd, "handles"), 1);
	EQ(fdinfo(fd, "messages"), 0);
	close_fd(fd);
}

TEST("RES-6 ids of peers are not reused")
{
	struct peer p;
	u64 last = 0;

	for (int i = 0; i < 50; i++) {
		p = peer_new(0);
		GT(peer_id(&p), last);
		last = peer_id(&p);
		peer_close(&p);
	}
}

/* Messages, handles and notices to itself, as fast as it can. */
static void traffic(void *arg)
{
	const struct peer *p = arg;
	static const u8 data[3000];
	static _Thread_local struct in in;

	for (unsigned int i = 0;; i++) {
		u64 n = node_new(p, 1);
		int r = send_data(p, n, data, i & 1 ? 10 : sizeof(data));

		if (r)
			ERR(r, EAGAIN);
		r = send_many(p, 0, (u64[]){ n, n, n }, 3, NULL, "many");
		if (r)
			ERR(r, EAGAIN);
		while (!(r = recv_now(p, &in)))
			if (in.m.slice)
				OK(slice_release(p, in.m.slice));
		ERR(r, EAGAIN);
		OK(destroy(p, n));
	}
}

TEST("RES-6 fdinfo of another process can be read while two threads are at it")
{
	struct peer a = peer_new(1 << 20);
	int fd = (int)OK(export_fd(&a, node_new(&a, 2), 0)), ready[2];
	u64 id = peer_id(&a), busy = 0;
	pid_t pid;

	OK(SYS(pipe(ready)));
	pid = test_fork();
	if (!pid) {
		struct test_thread t;

		OK(SYS(write(ready[1], "", 1)));
		test_start(&t, traffic, &a);
		traffic(&a);
	}
	EQ(read(ready[0], &(char){ 0 }, 1), 1);
	for (unsigned int i = 0; i < test_rounds(3000); i++) {
		EQ(fdinfo_of(pid, a.fd, "peer"), id);
		EQ(fdinfo_of(pid, a.fd, "pool-size"), 1 << 20);
		LE(fdinfo_of(pid, a.fd, "uncommitted"), 6);
		LE(fdinfo_of(pid, a.fd, "nodes"), 3);
		EQ(fdinfo_of(pid, a.fd, "notices"), 0);
		busy += fdinfo_of(pid, a.fd, "messages") != 0;
		EQ(fdinfo_of(pid, fd, "handles"), 1);
	}
	test_kill(pid);
	GT(busy, 0);
	drain(&a);
	close_fd(fd);
}
