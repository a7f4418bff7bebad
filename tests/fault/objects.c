// SPDX-License-Identifier: GPL-2.0-or-later
/* Forms of open, mmap, poll and close; of the commands on nodes, and of releasing. */
#include "fault.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

static void nothing(void)
{
}

/* Open, map, poll, close. */

static int open_device(void)
{
	int fd = (int)SYS(open("/dev/" BUS1_DEVICE, O_RDWR | O_CLOEXEC));

	w.x.fd = fd < 0 ? -1 : fd;
	return fd < 0 ? fd : 0;
}

static void works(void)
{
	u64 n = node_new(&w.x, 1);

	OK(send_str(&w.x, n, "to itself"));
	GOT_TEXT(&w.x, n, "to itself");
}

FORM("open", .fails = SLAB | COPY, .setup = nothing, .run = open_device, .check = works)

static int map(size_t size)
{
	void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, w.x.fd, 0);

	if (map == MAP_FAILED)
		return -errno;
	w.map = map;
	w.map_size = size;
	return 0;
}

static void new_peer(void)
{
	w.x = peer_new(0);
}

static int map_small(void)
{
	return map(POOL);
}

static int map_largest(void)
{
	return map(BUS1_MAX_POOL);
}

static void pool_works(void)
{
	u64 n = node_new(&w.x, 1);

	EQ(peer_info(&w.x).pool_size, w.map_size);
	OK(send_data(&w.x, n, w.data, 5000));
	OK(recv_now(&w.x, &w.in));
	NE(w.in.m.slice, 0);
	MEM((u8 *)w.map + w.in.m.offset, w.data, 5000);
}

FORM("the first mapping", .fails = SLAB, .setup = new_peer, .run = map_small,
     .check = pool_works)
FORM("the first mapping, of the largest pool", .fails = SLAB, .setup = new_peer,
     .run = map_largest, .check = pool_works)

static void mapped_peer(void)
{
	w.x = peer_new(POOL);
}

FORM("another mapping", .fails = SLAB, .setup = mapped_peer, .run = map_small,
     .check = pool_works)

static struct pollfd pfd;

static void readable_one(void)
{
	OK(send_str(&w.s, w.to_r, "one"));
	pfd = (struct pollfd){ .fd = w.r.fd, .events = POLLIN };
}

static int poll_one(void)
{
	return (int)SYS(poll(&pfd, 1, 0)) < 0 ? -errno : 0;
}

static void polled(void)
{
	EQ(pfd.revents, POLLIN);
	GOT_TEXT(&w.r, w.nr, "one");
}

FORM("poll", .fails = COPY, .setup = readable_one, .run = poll_one, .check = polled)

static struct epoll_event event;

static void watcher(void)
{
	w.fd[0] = (int)OK(SYS(epoll_create1(EPOLL_CLOEXEC)));
	event = (struct epoll_event){ .events = EPOLLIN };
	OK(send_str(&w.s, w.to_r, "one"));
}

static int watch_peer(void)
{
	return (int)SYS(epoll_ctl(w.fd[0], EPOLL_CTL_ADD, w.r.fd, &event));
}

static void watched(void)
{
	struct epoll_event got;

	EQ(epoll_wait(w.fd[0], &got, 1, 0), 1);
	GOT_TEXT(&w.r, w.nr, "one");
	EQ(epoll_wait(w.fd[0], &got, 1, 0), 0);
	OK(send_str(&w.s, w.to_r, "two"));
	EQ(epoll_wait(w.fd[0], &got, 1, 0), 1);
	GOT_TEXT(&w.r, w.nr, "two");
}

FORM("epoll of a peer", .fails = SLAB | COPY, .setup = watcher, .run = watch_peer,
     .check = watched)

static void exported_watcher(void)
{
	watcher();
	GOT_TEXT(&w.r, w.nr, "one");
	w.id[0] = node_new(&w.r, 7);
	w.fd[1] = (int)OK(export_fd(&w.r, w.id[0], 0));
}

static int watch_exported(void)
{
	return (int)SYS(epoll_ctl(w.fd[0], EPOLL_CTL_ADD, w.fd[1], &event));
}

static void exported_watched(void)
{
	struct epoll_event got;

	EQ(epoll_wait(w.fd[0], &got, 1, 0), 0);
	OK(destroy(&w.r, w.id[0]));
	EQ(epoll_wait(w.fd[0], &got, 1, 0), 1);
	EQ(got.events, EPOLLHUP);
}

FORM("epoll of an exported handle", .fails = SLAB | COPY, .setup = exported_watcher,
     .run = watch_exported, .check = exported_watched)

/*
 * A peer with everything: nodes that others hold, facets, handles, a queue with
 * payload, handles and files, and a slice of its own.
 */
static void rich_peer(void)
{
	u64 n, to_x;
	s32 fd;

	w.x = peer_new(POOL);
	n = node_new(&w.x, 1);
	to_x = grant(&w.x, n, &w.s);
	w.id[0] = grant(&w.x, n, &w.r);
	w.id[1] = grant(&w.x, facet_new(&w.x, n, 9), &w.t);
	w.id[2] = node_new(&w.s, 5);
	grant(&w.s, w.id[2], &w.x);
	w.id[3] = node_new(&w.s, 6);
	fd = pipe_new(&w.fd[0]);
	OK(send_data(&w.s, to_x, w.data, 3000));
	OK(recv_now(&w.x, &w.in));
	OK(send_data(&w.s, to_x, w.data, 200));
	OK(send_id(&w.s, to_x, w.id[3]));
	OK(send_fds(&w.s, to_x, &fd, 1));
	close_fd(fd);
	OK(release(&w.s, to_x));
	/* It holds the file, too. */
	OK(SYS(munmap((void *)w.x.pool, w.x.pool_size)));
	w.x.pool = NULL;
}

static int close_x(void)
{
	int r = (int)SYS(close(w.x.fd));

	w.x.fd = -1;
	return r;
}

static void everyone_told(void)
{
	GOT_NOTICES(&w.s, { BUS1_MSG_NODE_UNUSED, w.id[2] }, { BUS1_MSG_NODE_UNUSED, w.id[3] });
	GOT_DEAD(&w.r, w.id[0]);
	GOT_DEAD(&w.t, w.id[1]);
	CHECK(is_hung_up(w.fd[0]));
}

FORM("close", .fails = 0, .setup = rich_peer, .run = close_x, .check = everyone_told)

static void exported(void)
{
	w.id[0] = node_new(&w.s, 5);
	w.id[1] = (u64)OK(export_fd(&w.s, w.id[0], 0));
}

static int close_exported(void)
{
	return (int)SYS(close((int)w.id[1]));
}

static void exporter_told(void)
{
	GOT_UNUSED(&w.s, w.id[0], 1);
}

FORM("close of an exported handle", .fails = 0, .setup = exported, .run = close_exported,
     .check = exporter_told)

/* Nodes and facets. */

static void fill_table(u32 n, u64 flags)
{
	struct bus1_cmd_node *c;

	w.x = peer_new(0);
	while (n--)
		w.id[0] = node_new(&w.x, 1);
	c = command(&w.x, BUS1_CMD_NODE_CREATE);
	c->cookie = 0xdeed;
	c->flags = flags;
}

static void first_node(void)
{
	fill_table(0, 0);
}

/* A table grows before its last slot is used, and its directory every so often. */
static void node_31(void)
{
	fill_table(31, 0);
}

static void node_127(void)
{
	fill_table(127, BUS1_NODE_CREDS);
}

static void got_node(void)
{
	u64 id = w.cmd.node.id;

	NE(id, 0);
	EQ(peer_info(&w.x).n_nodes, w.before.of[3].info.n_nodes + 1);
	OK(send_str(&w.x, id, "new"));
	OK(recv_now(&w.x, &w.in));
	EQ(w.in.m.id, id);
	EQ(w.in.m.cookie, 0xdeed);
}

FORM("node, the first", .fails = SLAB | COPY, .setup = first_node, .check = got_node)
FORM("node, as its table grows", .fails = SLAB | COPY, .setup = node_31, .check = got_node)
FORM("node, as the directory of its table grows", .fails = SLAB | COPY, .setup = node_127,
     .check = got_node)

static void mint_of(u64 flags, u64 badge)
{
	struct bus1_cmd_mint *c = command(&w.x, BUS1_CMD_HANDLE_MINT);

	c->flags = flags;
	c->node = w.id[0];
	c->badge = badge;
}

static void mint_badge(void)
{
	fill_table(1, 0);
	mint_of(0, 5);
}

static void mint_31(void)
{
	fill_table(31, 0);
	mint_of(0, 5);
}

static void mint_again(void)
{
	fill_table(1, 0);
	w.id[1] = facet_new(&w.x, w.id[0], 5);
	mint_of(0, 5);
}

static void mint_once(void)
{
	fill_table(1, 0);
	once_new(&w.x, w.id[0], 5);
	mint_of(BUS1_MINT_ONCE, 5);
}

static void got_facet(void)
{
	NE(w.cmd.mint.id, 0);
	EQ(peer_info(&w.x).n_nodes, w.before.of[3].info.n_nodes + 1);
	OK(send_str(&w.x, w.cmd.mint.id, "badge"));
	GOT_BADGE(&w.x, w.id[0], 5, "badge");
}

static void got_that_facet(void)
{
	EQ(w.cmd.mint.id, w.id[1]);
	EQ(peer_info(&w.x).n_nodes, w.before.of[3].info.n_nodes);
}

FORM("mint", .fails = SLAB | COPY, .setup = mint_badge, .check = got_facet)
FORM("mint, as the table grows", .fails = SLAB | COPY, .setup = mint_31, .check = got_facet)
FORM("mint what is there", .fails = COPY, .setup = mint_again, .check = got_that_facet)
FORM("mint a one-shot", .fails = SLAB | COPY, .setup = mint_once, .check = got_facet)

/* Destroying. */

static void ids_of(const struct peer *p, unsigned long number, u32 n)
{
	struct bus1_cmd_ids *c = command(p, number);

	c->ids = PTR(w.ids);
	c->n_ids = n;
}

static void destroyed(const struct peer *p, u64 id)
{
	ERR(send_str(p, id, "dead"), ENXIO);
}

static void destroy_lonely(void)
{
	w.ids[0] = node_new(&w.r, 1);
	ids_of(&w.r, BUS1_CMD_NODE_DESTROY, 1);
	w.cmd.ids.flags = BUS1_DESTROY_UNUSED;
}

static void is_destroyed(void)
{
	for (u32 i = 0; i < w.cmd.ids.n_ids; i++)
		destroyed(&w.r, w.ids[i]);
}

FORM("destroy a node", .fails = COPY, .setup = destroy_lonely, .check = is_destroyed)

static void destroy_held(void)
{
	w.ids[0] = node_new(&w.r, 1);
	w.id[0] = grant(&w.r, w.ids[0], &w.s);
	ids_of(&w.r, BUS1_CMD_NODE_DESTROY, 1);
}

static void holder_told(void)
{
	is_destroyed();
	GOT_DEAD(&w.s, w.id[0]);
}

FORM("destroy a node that has a holder", .fails = COPY, .setup = destroy_held,
     .check = holder_told)

static void destroy_shared(void)
{
	destroy_held();
	w.id[1] = grant(&w.r, w.ids[0], &w.t);
}

static void holders_told(void)
{
	holder_told();
	GOT_DEAD(&w.t, w.id[1]);
}

FORM("destroy a node that has holders", .fails = SLAB | COPY, .setup = destroy_shared,
     .check = holders_told)

static void destroy_several(void)
{
	destroy_shared();
	w.ids[1] = node_new(&w.r, 2);
	w.ids[2] = node_new(&w.r, 3);
	w.id[2] = grant(&w.r, w.ids[2], &w.s);
	w.cmd.ids.n_ids = 3;
}

static void all_told(void)
{
	is_destroyed();
	GOT_NOTICES(&w.s, { BUS1_MSG_NODE_DEAD, w.id[0] }, { BUS1_MSG_NODE_DEAD, w.id[2] });
	GOT_DEAD(&w.t, w.id[1]);
}

FORM("destroy several", .fails = SLAB | COPY, .setup = destroy_several, .check = all_told)

static void destroy_with_facets(void)
{
	destroy_held();
	w.id[1] = grant(&w.r, facet_new(&w.r, w.ids[0], 1), &w.t);
	w.id[2] = grant(&w.r, once_new(&w.r, w.ids[0], 2), &w.s);
}

FORM("destroy a node that has facets", .fails = SLAB | COPY, .setup = destroy_with_facets,
     .check = all_told)

static void revoke_two(void)
{
	w.id[3] = node_new(&w.r, 1);
	w.id[4] = grant(&w.r, w.id[3], &w.t);
	w.ids[0] = facet_new(&w.r, w.id[3], 1);
	w.id[0] = grant(&w.r, w.ids[0], &w.s);
	w.ids[1] = once_new(&w.r, w.id[3], 2);
	w.id[2] = grant(&w.r, w.ids[1], &w.s);
	w.id[1] = grant(&w.r, w.ids[1], &w.t);
	ids_of(&w.r, BUS1_CMD_NODE_DESTROY, 2);
}

static void revoked(void)
{
	all_told();
	OK(send_str(&w.t, w.id[4], "alive"));
	GOT_TEXT(&w.r, w.id[3], "alive");
}

FORM("destroy facets", .fails = SLAB | COPY, .setup = revoke_two, .check = revoked)

static void destroy_awaited(void)
{
	s32 fd = pipe_new(&w.fd[0]);

	destroy_shared();
	w.id[2] = node_new(&w.s, 3);
	OK(send_data(&w.s, w.id[0], w.data, 3000));
	OK(send_id(&w.s, w.id[0], w.id[2]));
	OK(send_fds(&w.s, w.id[0], &fd, 1));
	close_fd(fd);
	ids_of(&w.r, BUS1_CMD_NODE_DESTROY, 1);
}

static void messages_dropped(void)
{
	is_destroyed();
	GOT_NOTICES(&w.s, { BUS1_MSG_NODE_DEAD, w.id[0] }, { BUS1_MSG_NODE_UNUSED, w.id[2] });
	GOT_DEAD(&w.t, w.id[1]);
	EQ(peer_info(&w.r).n_slices, 0);
	CHECK(is_hung_up(w.fd[0]));
	NOTHING(&w.r);
}

FORM("destroy a node that messages wait for", .fails = SLAB | COPY, .setup = destroy_awaited,
     .check = messages_dropped)

/* Releasing. */

static void release_last(void)
{
	w.id[0] = node_new(&w.r, 1);
	w.ids[0] = grant(&w.r, w.id[0], &w.s);
	watch(&w.s, w.ids[0]);
	ids_of(&w.s, BUS1_CMD_HANDLE_RELEASE, 1);
}

static void owner_told(void)
{
	GOT_UNUSED(&w.r, w.id[0], 1);
	ERR(release(&w.s, w.ids[0]), ENXIO);
}

FORM("release a handle", .fails = COPY, .setup = release_last, .check = owner_told)

static void release_several(void)
{
	release_last();
	w.id[1] = node_new(&w.t, 1);
	w.ids[1] = w.ids[2] = grant(&w.t, w.id[1], &w.s);
	grant(&w.t, w.id[1], &w.s);
	w.ids[3] = w.to_t;
	grant(&w.t, w.nt, &w.s);
	watch(&w.s, w.ids[1]);
	watch(&w.s, w.to_t);
	w.cmd.ids.n_ids = 4;
}

static void owners_told(void)
{
	owner_told();
	GOT_UNUSED(&w.t, w.id[1], 2 - 1);
	ERR(release(&w.s, w.ids[1]), ENXIO);
	OK(release(&w.s, w.to_t));
	GOT_UNUSED(&w.t, w.nt, 1);
}

FORM("release several", .fails = SLAB | COPY, .setup = release_several, .check = owners_told)

static void take_slices(u32 n)
{
	for (u32 i = 0; i < n; i++) {
		OK(send_data(&w.s, w.to_r, w.data, 1000));
		OK(recv_now(&w.r, &w.in));
		w.ids[i] = w.in.m.slice;
	}
	ids_of(&w.r, BUS1_CMD_SLICE_RELEASE, n);
}

static void one_slice(void)
{
	take_slices(1);
}

static void three_slices(void)
{
	take_slices(3);
}

static void no_slices(void)
{
	EQ(peer_info(&w.r).n_slices, 0);
	EQ(peer_info(&w.r).pool_used, 0);
}

FORM("release a slice", .fails = COPY, .setup = one_slice, .check = no_slices)
FORM("release several slices", .fails = SLAB | COPY, .setup = three_slices, .check = no_slices)

/* The rest. */

static void ask(void)
{
	OK(send_data(&w.s, w.to_r, w.data, 100));
	command(&w.r, BUS1_CMD_PEER_INFO);
}

static void asked(void)
{
	EQ(w.cmd.info.pool_size, POOL);
	EQ(w.cmd.info.n_nodes, 1);
	EQ(w.cmd.info.n_queued, 1);
	EQ(w.cmd.info.n_slices, 1);
}

FORM("info", .fails = COPY, .setup = ask, .check = asked)

static void set_up(void)
{
	struct bus1_cmd_setup *c = command(&w.r, BUS1_CMD_PEER_SETUP);

	c->flags = BUS1_PEER_PRIORITY;
}

static void is_set_up(void)
{
	struct bus1_cmd_send c = { .dest = w.to_r, .data = PTR(w.data), .len = 1, .priority = 1 };

	OK(send_str(&w.s, w.to_r, "later"));
	OK(send_cmd(&w.s, &c));
	GOT(&w.r, w.nr, 1);
	GOT_TEXT(&w.r, w.nr, "later");
}

FORM("setup", .fails = COPY, .setup = set_up, .check = is_set_up)
