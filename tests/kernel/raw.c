// SPDX-License-Identifier: GPL-2.0-or-later
#include "raw.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

const u8 *pool_map(int fd, size_t size)
{
	void *pool = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	if (pool == MAP_FAILED)
		FAIL("the pool of %zu bytes: mmap: %s", size, strerrorname_np(errno));
	return pool;
}

struct peer peer_new(size_t pool_size)
{
	struct peer p = { .fd = open("/dev/" BUS1_DEVICE, O_RDWR | O_CLOEXEC) };

	if (p.fd < 0)
		FAIL("/dev/" BUS1_DEVICE ": open: %s", strerrorname_np(errno));
	if (pool_size) {
		p.pool = pool_map(p.fd, pool_size);
		p.pool_size = pool_size;
	}
	return p;
}

/* A mapping holds its file: it has to go for the peer to end. */
void peer_close(struct peer *p)
{
	if (p->pool)
		OK(SYS(munmap((void *)p->pool, p->pool_size)));
	OK(SYS(close(p->fd)));
	*p = (struct peer){ .fd = -1 };
}

int raw(const struct peer *p, unsigned long cmd, void *arg)
{
	int r = ioctl(p->fd, cmd, arg);

	if (r > 0)
		FAIL("command %lu returned %d", cmd & 0xff, r);
	return r ? -errno : 0;
}

int raw_sized(const struct peer *p, unsigned long cmd, size_t size, void *arg)
{
	return raw(p, _IOC(_IOC_DIR(cmd), _IOC_TYPE(cmd), _IOC_NR(cmd), size), arg);
}

struct bus1_cmd_info peer_info(const struct peer *p)
{
	struct bus1_cmd_info info = {};

	OK(raw(p, BUS1_CMD_PEER_INFO, &info));
	return info;
}

int node_create(const struct peer *p, struct bus1_cmd_node *cmd)
{
	return raw(p, BUS1_CMD_NODE_CREATE, cmd);
}

u64 node_new(const struct peer *p, u64 cookie)
{
	struct bus1_cmd_node cmd = { .cookie = cookie };

	OK(node_create(p, &cmd));
	NE(cmd.id, 0);
	EQ(cmd.cookie, cookie);
	return cmd.id;
}

int ids_cmd(const struct peer *p, unsigned long cmd, u64 flags, const u64 *ids, u32 n)
{
	struct bus1_cmd_ids arg = { .flags = flags, .ids = PTR(ids), .n_ids = n };

	return raw(p, cmd, &arg);
}

int destroy(const struct peer *p, u64 id)
{
	return ids_cmd(p, BUS1_CMD_NODE_DESTROY, 0, &id, 1);
}

int destroy_unused(const struct peer *p, u64 id)
{
	return ids_cmd(p, BUS1_CMD_NODE_DESTROY, BUS1_DESTROY_UNUSED, &id, 1);
}

int release(const struct peer *p, u64 id)
{
	return ids_cmd(p, BUS1_CMD_HANDLE_RELEASE, 0, &id, 1);
}

int slice_release(const struct peer *p, u64 id)
{
	return ids_cmd(p, BUS1_CMD_SLICE_RELEASE, 0, &id, 1);
}

int transfer(const struct peer *from, const struct peer *to, u64 flags,
	     const u64 *ids, u64 *out, u32 n)
{
	struct bus1_cmd_transfer cmd = {
		.flags = flags,
		.ids = PTR(ids),
		.out = PTR(out),
		.n_ids = n,
		.peer_fd = to->fd,
	};

	return raw(from, BUS1_CMD_HANDLE_TRANSFER, &cmd);
}

u64 grant(const struct peer *from, u64 id, const struct peer *to)
{
	u64 out = 0;

	OK(transfer(from, to, 0, &id, &out, 1));
	NE(out, 0);
	return out;
}

int give(const struct peer *from, u64 id, const struct peer *to, u64 flags, u32 drop_rights,
	 u64 *out)
{
	struct bus1_cmd_transfer cmd = {
		.flags = flags,
		.ids = PTR(&id),
		.out = PTR(out),
		.n_ids = 1,
		.peer_fd = to ? to->fd : -1,
		.drop_rights = drop_rights,
	};

	return raw(from, BUS1_CMD_HANDLE_TRANSFER, &cmd);
}

u64 grant_as(const struct peer *from, u64 id, const struct peer *to, u64 flags, u32 drop_rights)
{
	u64 out = 0;

	OK(give(from, id, to, flags, drop_rights, &out));
	NE(out, 0);
	return out;
}

int mint(const struct peer *p, u64 flags, u64 node, u64 badge, u64 *id)
{
	struct bus1_cmd_mint cmd = { .flags = flags, .node = node, .badge = badge };
	int r = raw(p, BUS1_CMD_HANDLE_MINT, &cmd);

	EQ(cmd.node, node);
	EQ(cmd.badge, badge);
	if (r)
		EQ(cmd.id, 0);
	else
		NE(*id = cmd.id, 0);
	return r;
}

u64 facet_new(const struct peer *p, u64 node, u64 badge)
{
	u64 id;

	OK(mint(p, 0, node, badge, &id));
	return id;
}

u64 once_new(const struct peer *p, u64 node, u64 badge)
{
	u64 id;

	OK(mint(p, BUS1_MINT_ONCE, node, badge, &id));
	return id;
}

int export_fd(const struct peer *p, u64 id, u32 drop_rights)
{
	struct bus1_cmd_export cmd = { .id = id, .drop_rights = drop_rights };
	int r = raw(p, BUS1_CMD_HANDLE_EXPORT, &cmd);

	return r ? r : cmd.fd;
}

int import_cmd(const struct peer *p, int fd, struct bus1_handle *h)
{
	struct bus1_cmd_import cmd = { .fd = fd };
	int r = raw(p, BUS1_CMD_HANDLE_IMPORT, &cmd);

	*h = cmd.handle;
	return r;
}

u64 import_fd(const struct peer *p, int fd)
{
	struct bus1_handle h;

	OK(import_cmd(p, fd, &h));
	NE(h.id, 0);
	return h.id;
}

int setup(const struct peer *p, u64 flags)
{
	struct bus1_cmd_setup cmd = { .flags = flags };

	return raw(p, BUS1_CMD_PEER_SETUP, &cmd);
}

int send_cmd(const struct peer *p, struct bus1_cmd_send *cmd)
{
	return raw(p, BUS1_CMD_SEND, cmd);
}

int send_data(const struct peer *p, u64 dest, const void *data, size_t len)
{
	struct bus1_cmd_send cmd = { .dest = dest, .data = len ? PTR(data) : 0, .len = len };

	return send_cmd(p, &cmd);
}

int send_str(const struct peer *p, u64 dest, const char *text)
{
	return send_data(p, dest, text, strlen(text));
}

int send_ids(const struct peer *p, u64 dest, const u64 *ids, u32 n)
{
	struct bus1_pass pass[BUS1_MAX_HANDLES] = {};
	struct bus1_cmd_send cmd = { .dest = dest, .handles = PTR(pass), .n_handles = n };

	LE(n, BUS1_MAX_HANDLES);
	for (u32 i = 0; i < n; i++)
		pass[i].id = ids[i];
	return send_cmd(p, &cmd);
}

int send_id(const struct peer *p, u64 dest, u64 id)
{
	return send_ids(p, dest, &id, 1);
}

int send_pass(const struct peer *p, u64 dest, u64 id, u32 flags, u32 drop_rights)
{
	struct bus1_pass pass = { .id = id, .flags = flags, .drop_rights = drop_rights };
	struct bus1_cmd_send cmd = { .dest = dest, .handles = PTR(&pass), .n_handles = 1 };

	return send_cmd(p, &cmd);
}

int send_fds(const struct peer *p, u64 dest, const s32 *fds, u32 n)
{
	struct bus1_cmd_send cmd = { .dest = dest, .fds = PTR(fds), .n_fds = n };

	return send_cmd(p, &cmd);
}

int send_many(const struct peer *p, u64 flags, const u64 *dests, u32 n_dests,
	      s32 *errors, const char *text)
{
	struct bus1_cmd_send cmd = {
		.flags = flags,
		.dests = PTR(dests),
		.n_dests = n_dests,
		.errors = PTR(errors),
		.data = text[0] ? PTR(text) : 0,
		.len = strlen(text),
	};

	return send_cmd(p, &cmd);
}

int recv_cmd(const struct peer *p, struct bus1_cmd_recv *cmd)
{
	return raw(p, BUS1_CMD_RECV, cmd);
}

struct bus1_cmd_recv recv_into(struct in *in, u64 flags, u64 deadline)
{
	return (struct bus1_cmd_recv){
		.flags = flags,
		.deadline = deadline,
		.msgs = PTR(&in->m),
		.buf = PTR(in->buf),
		.n_msgs = 1,
		.msg_size = sizeof(in->m),
		.buf_size = sizeof(in->buf),
	};
}

void recv_found(const struct peer *p, struct in *in, const struct bus1_cmd_recv *cmd)
{
	EQ(cmd->n_msgs, 1);
	/* How much of it was used is told where there may be several. */
	EQ(cmd->buf_used, 0);
	EQ(in->m.offset % 8, 0);
	in->fds = NULL;
	in->creds = NULL;
	if (in->m.flags & BUS1_MSG_F_PEEKED) {
		EQ(in->m.handles, 0);
		EQ(in->m.fds, 0);
	}
	if (in->m.slice) {
		if (p->pool)
			LE(in->m.offset + in->m.len, p->pool_size);
		in->data = p->pool ? p->pool + in->m.offset : NULL;
	} else {
		LE(in->m.offset + in->m.len, cmd->buf_size);
		in->data = (u8 *)in->buf + in->m.offset;
	}
	if (in->m.n_handles && !(in->m.flags & BUS1_MSG_F_PEEKED)) {
		EQ(in->m.handles % 8, 0);
		LE(in->m.handles + in->m.n_handles * sizeof(*in->h), cmd->buf_size);
	}
	in->h = (void *)((u8 *)in->buf + in->m.handles);
	if (in->m.n_fds && !(in->m.flags & (BUS1_MSG_F_PEEKED | BUS1_MSG_F_FDS_CLOSED))) {
		CHECK(cmd->flags &
		      (in->m.flags & BUS1_MSG_F_MEMFD ? BUS1_RECV_FDS | BUS1_RECV_MEMFD :
							BUS1_RECV_FDS));
		EQ(in->m.fds % 8, 0);
		LE(in->m.fds + in->m.n_fds * sizeof(*in->fds), cmd->buf_size);
		in->fds = (void *)((u8 *)in->buf + in->m.fds);
	}
	if (in->m.flags & BUS1_MSG_F_CREDS) {
		EQ(in->m.creds % 8, 0);
		LE(in->m.creds + sizeof(*in->creds), cmd->buf_size);
		in->creds = (void *)((u8 *)in->buf + in->m.creds);
		EQ(in->creds->reserved, 0);
		LE(in->m.creds + sizeof(*in->creds) + (in->creds->label_len + 7ULL) / 8 * 8,
		   cmd->buf_size);
	}
}

static int recv_one(const struct peer *p, struct in *in, u64 flags, u64 deadline, u32 index)
{
	struct bus1_cmd_recv cmd = recv_into(in, flags, deadline);
	int r;

	cmd.index = index;
	r = recv_cmd(p, &cmd);
	if (!r)
		recv_found(p, in, &cmd);
	return r;
}

int recv_now(const struct peer *p, struct in *in)
{
	return recv_one(p, in, BUS1_RECV_NONBLOCK, 0, 0);
}

int recv_with(const struct peer *p, struct in *in, u64 flags)
{
	return recv_one(p, in, BUS1_RECV_NONBLOCK | flags, 0, 0);
}

int recv_wait(const struct peer *p, struct in *in)
{
	return recv_one(p, in, 0, test_deadline(40), 0);
}

int peek(const struct peer *p, u32 index, struct in *in)
{
	int r = recv_one(p, in, BUS1_RECV_PEEK, 0, index);

	if (!r)
		EQ(in->m.flags & BUS1_MSG_F_PEEKED, BUS1_MSG_F_PEEKED);
	return r;
}

int drop_now(const struct peer *p, struct bus1_msg *m)
{
	struct bus1_cmd_recv cmd = {
		.flags = BUS1_RECV_NONBLOCK | BUS1_RECV_DROP,
		.msgs = PTR(m),
		.n_msgs = 1,
		.msg_size = sizeof(*m),
	};

	return recv_cmd(p, &cmd);
}

struct peer peer_of(u32 uid, size_t pool_size)
{
	struct peer p;

	if (geteuid())
		SKIP("only for root");
	OK(SYS(seteuid(uid)));
	p = peer_new(pool_size);
	OK(SYS(seteuid(0)));
	return p;
}

const char *const limit_names[N_MAX] = {
	"peers", "nodes", "handles", "messages", "files", "pages",
};

static const char users_path[] = "/sys/class/misc/bus1/users";

bool user_read(u32 uid, struct user *user)
{
	FILE *f = fopen(users_path, "re");
	bool found = false;
	char line[400];

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		char *s = line;

		if (strtoul(s, &s, 10) != uid)
			continue;
		CHECK(!found);
		found = true;
		for (int i = 0; i < N_MAX; i++) {
			user->used[i] = strtoull(s, &s, 10);
			EQ(*s++, '/');
			user->max[i] = strtoull(s, &s, 10);
		}
		EQ(*s, '\n');
	}
	fclose(f);
	return found;
}

int limit_set(u32 uid, int which, u64 max)
{
	char line[64];
	ssize_t r;
	int fd;

	if (max == LIMIT_DEFAULT)
		snprintf(line, sizeof(line), "%u %s default\n", uid, limit_names[which]);
	else
		snprintf(line, sizeof(line), "%u %s %llu\n", uid, limit_names[which],
			 (unsigned long long)max);
	fd = open(users_path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = write(fd, line, strlen(line));
	r = r < 0 ? -errno : 0;
	close(fd);
	return (int)r;
}

void nothing_charged(u32 uid)
{
	u64 end = test_deadline(10);
	struct user user;
	int i;

	for (;;) {
		if (!user_read(uid, &user))
			return;
		for (i = 0; i < N_MAX && !user.used[i]; i++)
			;
		if (i == N_MAX)
			return;
		if (test_now() > end)
			FAIL("%s: %llu", limit_names[i], (unsigned long long)user.used[i]);
		test_sleep_ms(5);
	}
}

size_t pool_for(size_t bytes)
{
	size_t granules = (bytes + 63) / 64, page = page_size();

	return ((granules * 8 + 2) / 3 * 64 + page - 1) / page * page;
}

u32 fill_pool(const struct peer *p, u64 node, u8 byte, u64 *slices, u32 max)
{
	size_t left = p->pool_size - peer_info(p).pool_used;
	size_t inl = peer_info(p).max_inline;
	u8 *data = malloc(p->pool_size);
	struct in in;
	u32 n = 0;

	CHECK(data);
	memset(data, byte, p->pool_size);
	for (;;) {
		size_t len = left / 64 * 3 / 8 * 64;

		if (len <= inl) {
			/* Any slice is larger. */
			ERR(send_data(p, node, data, inl + 1), EAGAIN);
			free(data);
			return n;
		}
		OK(send_data(p, node, data, len));
		OK(recv_now(p, &in));
		EQ(in.m.len, len);
		LT(n, max);
		slices[n++] = in.m.slice;
		left -= len;
	}
}

u32 fill_queue(const struct peer *p, u64 dest)
{
	u64 dests[BUS1_MAX_DESTS];
	u32 sent = 0;
	int r;

	for (u32 i = 0; i < BUS1_MAX_DESTS; i++)
		dests[i] = dest;
	for (u32 n = BUS1_MAX_DESTS; n; n /= 2) {
		while (!(r = send_many(p, 0, dests, n, NULL, "")))
			LT(sent += n, 10000000);
		ERR(r, EAGAIN);
	}
	return sent;
}

u32 drain(const struct peer *p)
{
	static struct bus1_msg msgs[BUS1_MAX_MSGS];
	static u64 buf[8192];
	u32 n = 0;

	for (;;) {
		struct bus1_cmd_recv cmd = {
			.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(msgs), .n_msgs = BUS1_MAX_MSGS,
			.msg_size = sizeof(msgs[0]), .buf = PTR(buf), .buf_size = sizeof(buf),
		};
		int r = recv_cmd(p, &cmd);

		if (r) {
			ERR(r, EAGAIN);
			return n;
		}
		n += cmd.n_msgs;
	}
}

u32 poll_now(const struct peer *p)
{
	struct pollfd pfd = {
		.fd = p->fd,
		.events = POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLPRI | POLLRDHUP,
	};

	OK(SYS(poll(&pfd, 1, 0)));
	return (u32)pfd.revents;
}

bool readable(const struct peer *p)
{
	return poll_now(p) & POLLIN;
}
