// SPDX-License-Identifier: GPL-2.0-or-later
#include "raw.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* ABI-3: one layout, whatever this is compiled for. */
#define AT(type, field, offset) \
	_Static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#define SIZE(type, size) _Static_assert(sizeof(struct type) == (size), #type)

SIZE(bus1_cmd_node, BUS1_CMD_NODE_VER0);
AT(bus1_cmd_node, cookie, 8);
AT(bus1_cmd_node, id, 16);
SIZE(bus1_cmd_ids, BUS1_CMD_IDS_VER0);
AT(bus1_cmd_ids, ids, 8);
AT(bus1_cmd_ids, n_ids, 16);
AT(bus1_cmd_ids, reserved, 20);
SIZE(bus1_cmd_transfer, 40);
AT(bus1_cmd_transfer, out, 16);
AT(bus1_cmd_transfer, n_ids, 24);
AT(bus1_cmd_transfer, peer_fd, 28);
AT(bus1_cmd_transfer, drop_rights, BUS1_CMD_TRANSFER_VER0);
SIZE(bus1_cmd_mint, BUS1_CMD_MINT_VER0);
AT(bus1_cmd_mint, node, 8);
AT(bus1_cmd_mint, badge, 16);
AT(bus1_cmd_mint, id, 24);
SIZE(bus1_cmd_export, BUS1_CMD_EXPORT_VER0);
AT(bus1_cmd_export, id, 8);
AT(bus1_cmd_export, drop_rights, 16);
AT(bus1_cmd_export, fd, 20);
SIZE(bus1_cmd_import, BUS1_CMD_IMPORT_VER0);
AT(bus1_cmd_import, handle, 8);
AT(bus1_cmd_import, fd, 32);
SIZE(bus1_cmd_setup, BUS1_CMD_SETUP_VER0);
SIZE(bus1_creds, 24);
AT(bus1_creds, uid, 8);
AT(bus1_creds, label_len, 16);
SIZE(bus1_iovec, 16);
AT(bus1_iovec, len, 8);
SIZE(bus1_pass, 16);
AT(bus1_pass, flags, 8);
AT(bus1_pass, drop_rights, 12);
SIZE(bus1_cmd_buffer, BUS1_CMD_BUFFER_VER0);
AT(bus1_cmd_buffer, size, 24);
AT(bus1_cmd_buffer, fd, 32);
SIZE(bus1_cmd_open, BUS1_CMD_OPEN_VER0);
AT(bus1_cmd_open, size, 16);
AT(bus1_cmd_open, fd, 24);
SIZE(bus1_cmd_send, 120);
AT(bus1_cmd_send, dest, 8);
AT(bus1_cmd_send, errors, 24);
AT(bus1_cmd_send, iovs, 48);
AT(bus1_cmd_send, handles, 56);
AT(bus1_cmd_send, n_dests, 64);
AT(bus1_cmd_send, n_fds, 76);
AT(bus1_cmd_send, fds, BUS1_CMD_SEND_VER0);
AT(bus1_cmd_send, priority, 88);
AT(bus1_cmd_send, deadline, 96);
AT(bus1_cmd_send, body_offset, 104);
AT(bus1_cmd_send, body_len, 112);
SIZE(bus1_msg, 128);
AT(bus1_msg, id, 8);
AT(bus1_msg, slice, 24);
AT(bus1_msg, len, 40);
AT(bus1_msg, n_handles, 52);
AT(bus1_msg, seq, 56);
AT(bus1_msg, badge, BUS1_MSG_VER0);
AT(bus1_msg, fds, 72);
AT(bus1_msg, creds, 80);
AT(bus1_msg, priority, 84);
AT(bus1_msg, body_offset, 88);
AT(bus1_msg, body_len, 96);
AT(bus1_msg, token, 104);
AT(bus1_msg, chain, 112);
AT(bus1_msg, error, 120);
AT(bus1_msg, n_leases, 124);
SIZE(bus1_handle, 24);
AT(bus1_handle, flags, 16);
AT(bus1_handle, rights, 20);
SIZE(bus1_cmd_recv, 80);
AT(bus1_cmd_recv, deadline, 8);
AT(bus1_cmd_recv, drop, 24);
AT(bus1_cmd_recv, buf, 40);
AT(bus1_cmd_recv, n_release, 48);
AT(bus1_cmd_recv, n_msgs, 56);
AT(bus1_cmd_recv, msg_size, 64);
AT(bus1_cmd_recv, index, BUS1_CMD_RECV_VER0);
SIZE(bus1_cmd_info, BUS1_CMD_INFO_VER0);
AT(bus1_cmd_info, pool_used, 24);
AT(bus1_cmd_info, n_nodes, 32);
AT(bus1_cmd_info, max_inline, 48);
AT(bus1_cmd_info, n_calls, 52);
SIZE(bus1_lease, 24);
AT(bus1_lease, len, 8);
AT(bus1_lease, flags, 16);
AT(bus1_lease, reserved, 20);
SIZE(bus1_cmd_call, BUS1_CMD_CALL_VER0);
AT(bus1_cmd_call, recv, 120);
AT(bus1_cmd_call, flags, 200);
AT(bus1_cmd_call, id, 208);
AT(bus1_cmd_call, parent, 216);
AT(bus1_cmd_call, cookie, 224);
AT(bus1_cmd_call, reply_size, 232);
AT(bus1_cmd_call, reply_handles, 240);
AT(bus1_cmd_call, reply_fds, 244);
AT(bus1_cmd_call, leases, 248);
AT(bus1_cmd_call, n_leases, 256);
AT(bus1_cmd_call, reserved, 260);
SIZE(bus1_cmd_reply, BUS1_CMD_REPLY_VER0);
AT(bus1_cmd_reply, recv, 120);
AT(bus1_cmd_reply, flags, 200);
AT(bus1_cmd_reply, id, 208);
SIZE(bus1_cmd_lease, BUS1_CMD_LEASE_VER0);
AT(bus1_cmd_lease, token, 8);
AT(bus1_cmd_lease, offset, 16);
AT(bus1_cmd_lease, data, 24);
AT(bus1_cmd_lease, len, 32);
AT(bus1_cmd_lease, index, 40);
AT(bus1_cmd_lease, reserved, 44);

_Static_assert(BUS1_CMD_NODE_CREATE == 0xc018b900, "the number of a command");
_Static_assert(BUS1_CMD_NODE_DESTROY == 0x4018b901, "the number of a command");
_Static_assert(BUS1_CMD_HANDLE_RELEASE == 0x4018b902, "the number of a command");
_Static_assert(BUS1_CMD_SLICE_RELEASE == 0x4018b903, "the number of a command");
_Static_assert(BUS1_CMD_HANDLE_TRANSFER == 0x4028b904, "the number of a command");
_Static_assert(BUS1_CMD_SEND == 0x4078b905, "the number of a command");
_Static_assert(BUS1_CMD_RECV == 0xc050b906, "the number of a command");
_Static_assert(BUS1_CMD_PEER_INFO == 0xc038b907, "the number of a command");
_Static_assert(BUS1_CMD_HANDLE_MINT == 0xc020b908, "the number of a command");
_Static_assert(BUS1_CMD_HANDLE_EXPORT == 0xc018b909, "the number of a command");
_Static_assert(BUS1_CMD_HANDLE_IMPORT == 0xc028b90a, "the number of a command");
_Static_assert(BUS1_CMD_PEER_SETUP == 0x4008b90b, "the number of a command");
_Static_assert(BUS1_CMD_BUFFER_CREATE == 0xc028b90c, "the number of a command");
_Static_assert(BUS1_CMD_BUFFER_OPEN == 0xc020b90d, "the number of a command");
_Static_assert(BUS1_CMD_CALL == 0xc108b90e, "the number of a command");
_Static_assert(BUS1_CMD_REPLY == 0xc0d8b90f, "the number of a command");
_Static_assert(BUS1_CMD_CALL_CANCEL == 0x4018b910, "the number of a command");
_Static_assert(BUS1_CMD_LEASE == 0x4030b911, "the number of a command");

const u64 bad_addresses[] = {
	8,				/* the page that nobody maps */
	0x00007ffffffff000 - 8,		/* the last bytes of user space */
	0x00007ffffffff000,		/* the guard page after it */
	0x0000800000000000,		/* not canonical */
	0xffff800000000000,		/* the kernel's */
	0xffff888000001000,
	0xffffffff81000000,
	0xffffffffffffe000,
	0xfffffffffffffff8,		/* wraps around */
};
const size_t n_bad_addresses = ARRAY_SIZE(bad_addresses);

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

#define FAILED(...) test_fail(file, line, __VA_ARGS__)

const char *type_name(u32 type)
{
	switch (type) {
	case BUS1_MSG_DATA: return "DATA";
	case BUS1_MSG_NODE_DEAD: return "NODE_DEAD";
	case BUS1_MSG_NODE_UNUSED: return "NODE_UNUSED";
	case BUS1_MSG_ONCE_DROPPED: return "ONCE_DROPPED";
	case BUS1_MSG_WRITABLE: return "WRITABLE";
	case BUS1_MSG_CALL: return "CALL";
	case BUS1_MSG_REPLY: return "REPLY";
	case BUS1_MSG_CANCELLED: return "CANCELLED";
	default: return "a type unknown";
	}
}

static void got(const char *file, int line, const struct peer *p, struct in *in,
		u32 type, u64 id)
{
	int r = recv_now(p, in);

	if (r)
		FAILED("%s of %#llx expected, receiving failed: %s", type_name(type),
		       (unsigned long long)id, strerrorname_np(-r));
	if (in->m.type != type || in->m.id != id)
		FAILED("%s of %#llx expected, got %s of %#llx", type_name(type),
		       (unsigned long long)id, type_name(in->m.type),
		       (unsigned long long)in->m.id);
	if (in->m.flags)
		FAILED("%s has flags %#x", type_name(type), in->m.flags);
}

void got_text(const char *file, int line, const struct peer *p, u64 node, const char *text)
{
	size_t n = strlen(text);
	struct in in;

	got(file, line, p, &in, BUS1_MSG_DATA, node);
	if (in.m.len != n || memcmp(in.data, text, n))
		FAILED("\"%s\" expected, got \"%.*s\"", text, (int)in.m.len,
		       (const char *)in.data);
	if (in.m.n_handles)
		FAILED("%u handles with \"%s\"", in.m.n_handles, text);
	if (in.m.slice && slice_release(p, in.m.slice))
		FAILED("the slice of \"%s\" can not be given back", text);
}

void got_notice(const char *file, int line, const struct peer *p, u32 type, u64 id,
		u64 seq, bool has_seq)
{
	struct in in;

	got(file, line, p, &in, type, id);
	if (in.m.len || in.m.slice || in.m.n_handles)
		FAILED("a notice with %llu bytes, slice %llu, %u handles",
		       (unsigned long long)in.m.len, (unsigned long long)in.m.slice,
		       in.m.n_handles);
	if (has_seq && in.m.seq != seq)
		FAILED("seq %llu expected, got %llu", (unsigned long long)seq,
		       (unsigned long long)in.m.seq);
}

void got_both(const char *file, int line, const struct peer *p, u64 handle, u64 node, u64 seq)
{
	int dead = 0, unused = 0;
	struct in in;

	for (int i = 0; i < 2; i++) {
		int r = recv_now(p, &in);

		if (r)
			FAILED("two notices expected, got %d and %s", i, strerrorname_np(-r));
		dead += in.m.type == BUS1_MSG_NODE_DEAD && in.m.id == handle;
		unused += in.m.type == BUS1_MSG_NODE_UNUSED && in.m.id == node &&
			  in.m.seq == seq;
	}
	if (!dead || !unused)
		FAILED("NODE_DEAD and NODE_UNUSED expected, got %d and %d", dead, unused);
}

void got_notices(const char *file, int line, const struct peer *p, const struct notice *all,
		 size_t n)
{
	bool seen[16] = {};

	LE(n, ARRAY_SIZE(seen));
	for (size_t i = 0; i < n; i++) {
		struct in in;
		size_t at = 0;
		int r = recv_now(p, &in);

		if (r)
			FAILED("%zu notices expected, got %zu, then %s", n, i, strerrorname_np(-r));
		while (at < n && (seen[at] || in.m.type != all[at].type || in.m.id != all[at].id))
			at++;
		if (at == n)
			FAILED("%s of %#llx is none of those expected", type_name(in.m.type),
			       (unsigned long long)in.m.id);
		seen[at] = true;
	}
}

void got_badge(const char *file, int line, const struct peer *p, u64 node, u64 badge,
	       const char *text)
{
	size_t n = strlen(text);
	struct in in;

	got(file, line, p, &in, BUS1_MSG_DATA, node);
	if (in.m.badge != badge)
		FAILED("badge %#llx expected, got %#llx", (unsigned long long)badge,
		       (unsigned long long)in.m.badge);
	if (in.m.len != n || memcmp(in.data, text, n))
		FAILED("\"%s\" expected, got \"%.*s\"", text, (int)in.m.len,
		       (const char *)in.data);
}

struct bus1_handle got_handle(const char *file, int line, const struct peer *p, u64 node)
{
	struct in in;

	got(file, line, p, &in, BUS1_MSG_DATA, node);
	if (in.m.len || in.m.n_handles != 1)
		FAILED("0 bytes and 1 handle expected, got %llu and %u",
		       (unsigned long long)in.m.len, in.m.n_handles);
	if (!in.h[0].id)
		FAILED("the handle has the id 0");
	return in.h[0];
}

void got_ids(const char *file, int line, const struct peer *p, u64 node, u64 *ids, u32 n)
{
	struct in in;

	got(file, line, p, &in, BUS1_MSG_DATA, node);
	if (in.m.len || in.m.n_handles != n)
		FAILED("0 bytes and %u handles expected, got %llu and %u", n,
		       (unsigned long long)in.m.len, in.m.n_handles);
	for (u32 i = 0; i < n; i++) {
		if (!in.h[i].id)
			FAILED("handle %u of %u has the id 0", i, n);
		ids[i] = in.h[i].id;
	}
}

u64 got_id(const char *file, int line, const struct peer *p, u64 node)
{
	u64 id;

	got_ids(file, line, p, node, &id, 1);
	return id;
}

void same_info(const char *file, int line, const char *what, const struct peer *p,
	       const struct bus1_cmd_info *before)
{
	struct bus1_cmd_info now = peer_info(p);

#define SAME(field)								\
	do {									\
		if (now.field != before->field)					\
			FAILED("%s: " #field " was %llu, is %llu", what,	\
			       (unsigned long long)before->field,		\
			       (unsigned long long)now.field);			\
	} while (0)
	SAME(flags);
	SAME(pool_size);
	SAME(pool_used);
	SAME(n_nodes);
	SAME(n_handles);
	SAME(n_queued);
	SAME(n_slices);
	SAME(max_inline);
	SAME(n_calls);
#undef SAME
}

struct snapshot snapshot_take(const struct peer **peers, unsigned int n)
{
	struct snapshot w = { .n = n };

	LE(n, ARRAY_SIZE(w.peers));
	for (unsigned int i = 0; i < n; i++) {
		w.peers[i] = peers[i];
		w.info[i] = peer_info(peers[i]);
	}
	w.counted = test_counts(&w.counts);
	return w;
}

void same_snapshot(const char *file, int line, const struct snapshot *w)
{
	struct test_counts now, want = w->counts;
	char name[] = "peer 0", why[200];

	for (unsigned int i = 0; i < w->n; i++) {
		name[5] = (char)('0' + i);
		same_info(file, line, name, w->peers[i], &w->info[i]);
	}
	if (!w->counted || !test_counts(&now))
		return;
	/* Pages may have been added, see same_info(). They are charged, each as one. */
	want.n[TEST_CHARGED] += now.n[TEST_POOL_PAGES] - want.n[TEST_POOL_PAGES];
	want.n[TEST_POOL_PAGES] = now.n[TEST_POOL_PAGES];
	if (memcmp(&now, &want, sizeof(now)) && !test_counts_settle(&want, why, sizeof(why)))
		FAILED("the module: %s", why);
}

void close_fd(int fd)
{
	OK(SYS(close(fd)));
}

int memfd_sealed(const void *data, size_t n)
{
	int fd = (int)OK(SYS(memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING)));

	EQ(OK(SYS(write(fd, data, n))), n);
	OK(SYS(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)));
	return fd;
}

/* The highest descriptor, and how many there are. */
static int scan_fds(unsigned int *n)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *e;
	int top = -1;

	CHECK(dir);
	*n = 0;
	while ((e = readdir(dir))) {
		if (e->d_name[0] == '.' || atoi(e->d_name) == dirfd(dir))
			continue;
		++*n;
		if (atoi(e->d_name) > top)
			top = atoi(e->d_name);
	}
	closedir(dir);
	return top;
}

unsigned int open_fds(void)
{
	unsigned int n;

	scan_fds(&n);
	return n;
}

void leave_fds(unsigned int n)
{
	unsigned int have;
	int top = scan_fds(&have), fd;
	struct rlimit limit;

	/* No holes: the limit is on the number of a descriptor. */
	while ((fd = (int)OK(SYS(fcntl(0, F_DUPFD_CLOEXEC, 0)))) < top)
		;
	close(fd);
	OK(SYS(getrlimit(RLIMIT_NOFILE, &limit)));
	limit.rlim_cur = (rlim_t)(fd > top ? fd : top + 1) + n;
	OK(SYS(setrlimit(RLIMIT_NOFILE, &limit)));
}

static u8 *map_pages(size_t n, int prot)
{
	u8 *p = mmap(NULL, n * page_size(), prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		FAIL("mmap: %s", strerrorname_np(errno));
	return p;
}

void *edge_alloc(size_t n)
{
	size_t pages = (n + page_size() - 1) / page_size();
	u8 *p = map_pages(pages + 1, PROT_READ | PROT_WRITE);

	OK(SYS(mprotect(p + pages * page_size(), page_size(), PROT_NONE)));
	return p + pages * page_size() - n;
}

u8 *half_page_pair(void)
{
	return (u8 *)edge_alloc(page_size());
}

void *read_only(const void *data, size_t n)
{
	u8 *p = map_pages(1, PROT_READ | PROT_WRITE);

	LE(n, page_size());
	memcpy(p, data, n);
	OK(SYS(mprotect(p, page_size(), PROT_READ)));
	return p;
}

/*
 * A pipe takes what can be read and says EFAULT of the rest: no signals. One
 * process and thread at a time.
 */
bool page_readable(const void *addr, u8 *page)
{
	static int fds[2] = { -1, -1 };
	ssize_t r;

	if (fds[0] < 0)
		OK(SYS(pipe2(fds, O_CLOEXEC)));
	r = write(fds[1], addr, page_size());
	if (r < 0)
		EQ(errno, EFAULT);
	else
		EQ(r, page_size());
	if (r > 0)
		EQ(read(fds[0], page, page_size()), page_size());
	return r > 0;
}

void fill(void *buf, size_t n, u64 seed)
{
	u8 *p = buf;

	for (size_t i = 0; i < n; i++) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		p[i] = (u8)(seed >> 56);
	}
}
