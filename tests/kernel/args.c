// SPDX-License-Identifier: GPL-2.0-or-later
/* ABI-1, ABI-2: what commands do with arguments that nobody should pass. */
#include "call.h"

#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* A peer with something of each kind, and each command in a form that works. */
struct work {
	struct peer p;
	u64 n, ids[1], out[1];
	int fd;
	union {
		struct bus1_cmd_node node;
		struct bus1_cmd_ids ids;
		struct bus1_cmd_transfer transfer;
		struct bus1_cmd_send send;
		struct bus1_cmd_recv recv;
		struct bus1_cmd_info info;
		struct bus1_cmd_mint mint;
		struct bus1_cmd_export export;
		struct bus1_cmd_import import;
		struct bus1_cmd_setup setup;
		struct bus1_cmd_buffer buffer;
		struct bus1_cmd_open open;
		struct bus1_cmd_call call;
		struct bus1_cmd_reply reply;
		struct bus1_cmd_lease lease;
		u8 bytes[16384];
	} arg;
	struct call lender;
	struct bus1_lease lent;
	char memory[8];
	struct bus1_msg m;
	u64 buf[64];
};

static const struct {
	const char *name;
	unsigned long cmd;
	size_t ver0, size;		/* of the first version, of this one */
} commands[] = {
#define COMMAND(name, ver0) { #name, BUS1_CMD_##name, ver0, _IOC_SIZE(BUS1_CMD_##name) }
	COMMAND(NODE_CREATE, BUS1_CMD_NODE_VER0),
	COMMAND(NODE_DESTROY, BUS1_CMD_IDS_VER0),
	COMMAND(HANDLE_RELEASE, BUS1_CMD_IDS_VER0),
	COMMAND(SLICE_RELEASE, BUS1_CMD_IDS_VER0),
	COMMAND(HANDLE_TRANSFER, BUS1_CMD_TRANSFER_VER0),
	COMMAND(SEND, BUS1_CMD_SEND_VER0),
	COMMAND(RECV, BUS1_CMD_RECV_VER0),
	COMMAND(PEER_INFO, BUS1_CMD_INFO_VER0),
	COMMAND(HANDLE_MINT, BUS1_CMD_MINT_VER0),
	COMMAND(HANDLE_EXPORT, BUS1_CMD_EXPORT_VER0),
	COMMAND(HANDLE_IMPORT, BUS1_CMD_IMPORT_VER0),
	COMMAND(PEER_SETUP, BUS1_CMD_SETUP_VER0),
	COMMAND(BUFFER_CREATE, BUS1_CMD_BUFFER_VER0),
	COMMAND(BUFFER_OPEN, BUS1_CMD_OPEN_VER0),
	COMMAND(CALL, BUS1_CMD_CALL_VER0),
	COMMAND(REPLY, BUS1_CMD_REPLY_VER0),
	{ "CALL_CANCEL", BUS1_CMD_CALL_CANCEL, BUS1_CMD_IDS_VER0, sizeof(struct bus1_cmd_ids) },
	COMMAND(LEASE, BUS1_CMD_LEASE_VER0),
#undef COMMAND
};

static struct work *work_new(void)
{
	struct work *w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(w != MAP_FAILED);
	w->p = peer_new(1 << 16);
	w->n = node_new(&w->p, 1);
	return w;
}

/*
 * Puts the argument of command i into w->arg; whatever it needs is made before.
 * Each of these succeeds, with an effect.
 */
static void prepare(struct work *w, size_t i)
{
	static const u8 data[4000];
	struct peer other;
	struct in in;

	memset(&w->arg, 0, sizeof(w->arg));
	switch (i) {
	case 0:
		w->arg.node = (struct bus1_cmd_node){ .cookie = 5 };
		return;
	case 1:
		w->ids[0] = node_new(&w->p, 2);
		break;
	case 2:
		other = peer_new(0);
		w->ids[0] = grant(&other, node_new(&other, 1), &w->p);
		peer_close(&other);
		GOT_DEAD(&w->p, w->ids[0]);
		break;
	case 3:
		OK(send_data(&w->p, w->n, data, sizeof(data)));
		OK(recv_now(&w->p, &in));
		w->ids[0] = in.m.slice;
		break;
	case 4:
		w->ids[0] = w->n;
		w->arg.transfer = (struct bus1_cmd_transfer){
			.ids = PTR(w->ids), .out = PTR(w->out), .n_ids = 1, .peer_fd = w->p.fd };
		return;
	case 5:
		w->arg.send = (struct bus1_cmd_send){
			.dest = w->n, .data = PTR("abc"), .len = 3 };
		return;
	case 6:
		OK(send_str(&w->p, w->n, "xyz"));
		w->arg.recv = (struct bus1_cmd_recv){
			.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(&w->m), .n_msgs = 1,
			.msg_size = sizeof(w->m), .buf = PTR(w->buf), .buf_size = sizeof(w->buf) };
		return;
	case 8:
		w->arg.mint = (struct bus1_cmd_mint){ .node = w->n, .badge = 7 };
		return;
	case 9:
		w->arg.export = (struct bus1_cmd_export){ .id = w->n };
		return;
	case 10:
		w->fd = (int)OK(export_fd(&w->p, w->n, 0));
		w->arg.import = (struct bus1_cmd_import){ .fd = w->fd };
		return;
	case 11:
		w->arg.setup = (struct bus1_cmd_setup){ .flags = BUS1_PEER_PRIORITY };
		return;
	case 12:
		w->fd = memfd_sealed("abcdef", 6);
		w->arg.buffer = (struct bus1_cmd_buffer){ .cookie = 6, .fd = w->fd };
		return;
	case 13:
		w->fd = memfd_sealed("abcdef", 6);
		w->arg.buffer = (struct bus1_cmd_buffer){ .fd = w->fd };
		OK(raw(&w->p, BUS1_CMD_BUFFER_CREATE, &w->arg));
		close_fd(w->fd);
		w->ids[0] = w->arg.buffer.id;
		memset(&w->arg, 0, sizeof(w->arg));
		w->arg.open = (struct bus1_cmd_open){ .id = w->ids[0] };
		return;
	case 14:
		w->arg.call = (struct bus1_cmd_call){
			.send = { .dest = w->n, .data = PTR("ping"), .len = 4 },
			.flags = BUS1_CALL_ASYNC, .cookie = 8 };
		return;
	case 15:
		w->ids[0] = call_async(&w->p, w->n, "ping", 8);
		w->arg.reply = (struct bus1_cmd_reply){ .send = {
			.dest = GOT_CALL(&w->p, w->n, "ping"), .data = PTR("pong"), .len = 4 } };
		return;
	case 16:
		w->ids[0] = call_async(&w->p, w->n, "ping", 8);
		break;
	case 17:
		memcpy(w->memory, "borrowed", 8);
		w->lent = (struct bus1_lease){ PTR(w->memory), 8, BUS1_LEASE_READ, 0 };
		call_init_str(&w->lender, &w->p, w->n, "lend");
		w->lender.cmd.leases = PTR(&w->lent);
		w->lender.cmd.n_leases = 1;
		call_start(&w->lender);
		w->ids[0] = GOT_CALL(&w->p, w->n, "lend");
		w->arg.lease = (struct bus1_cmd_lease){
			.flags = BUS1_LEASE_READ, .token = w->ids[0], .data = PTR(w->buf), .len = 8 };
		return;
	default:
		return;
	}
	w->arg.ids = (struct bus1_cmd_ids){ .ids = PTR(w->ids), .n_ids = 1 };
}

/* That the command of prepare() did its work, and so does not do it again. */
static void confirm(struct work *w, size_t i)
{
	struct in in;

	switch (i) {
	case 0:
		NE(w->arg.node.id, 0);
		OK(destroy(&w->p, w->arg.node.id));
		break;
	case 1:
	case 2:
	case 3:
		ERR(raw(&w->p, commands[i].cmd, &w->arg), ENXIO);
		break;
	case 4:
		EQ(w->out[0], w->n);
		break;
	case 5:
		GOT_TEXT(&w->p, w->n, "abc");
		break;
	case 6:
		EQ(w->m.id, w->n);
		MEM((u8 *)w->buf + w->m.offset, "xyz", 3);
		NOTHING(&w->p);
		break;
	case 8:
		NE(w->arg.mint.id, 0);
		OK(destroy(&w->p, w->arg.mint.id));
		break;
	case 9:
		GT(w->arg.export.fd, 0);
		EQ(import_fd(&w->p, w->arg.export.fd), w->n);
		w->fd = w->arg.export.fd;
		/* fall through */
	case 10:
		if (i == 10)
			EQ(w->arg.import.handle.id, w->n);
		OK(SYS(close(w->fd)));
		OK(recv_now(&w->p, &in));
		EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
		break;
	case 11:
		OK(setup(&w->p, 0));
		break;
	case 12:
		EQ(w->arg.buffer.size, 6);
		OK(destroy(&w->p, w->arg.buffer.id));
		close_fd(w->fd);
		break;
	case 13:
		EQ(w->arg.open.size, 6);
		close_fd(w->arg.open.fd);
		OK(destroy(&w->p, w->ids[0]));
		break;
	case 14:
		NE(w->arg.call.id, 0);
		OK(answer_str(&w->p, GOT_CALL(&w->p, w->n, "ping"), "pong"));
		GOT_REPLY(&w->p, w->arg.call.id, 8, "pong");
		break;
	case 15:
		GOT_REPLY(&w->p, w->ids[0], 8, "pong");
		break;
	case 16:
		ERR(raw(&w->p, commands[i].cmd, &w->arg), ENXIO);
		NOTHING(&w->p);
		break;
	case 17:
		MEM(w->buf, "borrowed", 8);
		OK(answer_str(&w->p, w->ids[0], "thanks"));
		call_join(&w->lender);
		REPLIED(&w->lender, "thanks");
		break;
	default:
		EQ(w->arg.info.n_nodes, 1);
		EQ(w->arg.info.pool_size, 1 << 16);
		break;
	}
}

/* What is between the first version and this one is as good as zero. */
TEST("ABI-1 the size of a struct, shorter fails, longer with zeros works")
{
	struct work *w = work_new();

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		unsigned long cmd = commands[i].cmd;
		size_t ver0 = commands[i].ver0, size = commands[i].size;
		size_t shorter[] = { 0, 1, ver0 / 2, ver0 - 8, ver0 - 4, ver0 - 1 };
		size_t longer[] = { ver0, (ver0 + size) / 2, size > ver0 ? size - 1 : size, size,
				    size + 1, size + 4, size + 8, 2 * size, 4095, 4096, 4097,
				    16383 };

		for (size_t k = 0; k < ARRAY_SIZE(shorter); k++) {
			struct bus1_cmd_info before;

			prepare(w, i);
			before = peer_info(&w->p);
			ERR(raw_sized(&w->p, cmd, shorter[k], &w->arg), EINVAL);
			SAME_INFO(&w->p, &before);
			OK(raw(&w->p, cmd, &w->arg));
			confirm(w, i);
		}
		for (size_t k = 0; k < ARRAY_SIZE(longer); k++) {
			prepare(w, i);
			OK(raw_sized(&w->p, cmd, longer[k], &w->arg));
			for (size_t j = size; j < sizeof(w->arg); j++)
				EQ(w->arg.bytes[j], 0);
			confirm(w, i);
		}
	}
}

TEST("ABI-1 a longer struct whose tail is not zero is refused")
{
	struct work *w = work_new();

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		size_t size = commands[i].size, sizes[] = { size + 1, size + 8, 4096, 16383 };

		for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
			size_t at[] = { size, (size + sizes[k]) / 2, sizes[k] - 1 };

			for (size_t j = 0; j < ARRAY_SIZE(at); j++) {
				struct bus1_cmd_info before;

				prepare(w, i);
				before = peer_info(&w->p);
				w->arg.bytes[at[j]] = j ? 1 : 0x80;
				ERR(raw_sized(&w->p, commands[i].cmd, sizes[k], &w->arg), E2BIG);
				SAME_INFO(&w->p, &before);
				/* What is behind the struct does not matter. */
				w->arg.bytes[at[j]] = 0;
				w->arg.bytes[sizes[k]] = 1;
				OK(raw_sized(&w->p, commands[i].cmd, sizes[k], &w->arg));
				w->arg.bytes[sizes[k]] = 0;
				confirm(w, i);
			}
		}
	}
}

TEST("ABI-2 a struct that is not there, or only half, changes nothing")
{
	struct work *w = work_new();

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		unsigned long cmd = commands[i].cmd;
		size_t size = commands[i].size, halves[] = { 0, 1, 8, size / 2, size - 1 };
		struct bus1_cmd_info before;
		u8 *p;

		prepare(w, i);
		before = peer_info(&w->p);
		for (size_t k = 0; k < n_bad_addresses; k++)
			ERR(raw(&w->p, cmd, (void *)(uintptr_t)bad_addresses[k]), EFAULT);
		ERR(raw(&w->p, cmd, NULL), EFAULT);
		for (size_t k = 0; k < ARRAY_SIZE(halves); k++) {
			if (halves[k] >= size)
				continue;
			p = edge_alloc(halves[k]);
			memcpy(p, &w->arg, halves[k]);
			ERR(raw(&w->p, cmd, p), EFAULT);
			SAME_INFO(&w->p, &before);
		}
		/* All of it there, a tail that is said to be, and is not. */
		p = edge_alloc(size);
		memcpy(p, &w->arg, size);
		ERR(raw_sized(&w->p, cmd, size + 8, p), EFAULT);
		ERR(raw_sized(&w->p, cmd, 16383, p), EFAULT);
		SAME_INFO(&w->p, &before);
		/* At the very edge, it is enough. */
		OK(raw(&w->p, cmd, p));
		memcpy(&w->arg, p, size);
		confirm(w, i);
	}
}

TEST("ABI-1 a struct need not be aligned")
{
	struct work *w = work_new();

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		for (size_t off = 1; off < 8; off++) {
			size_t size = commands[i].size;
			u8 *p = (u8 *)edge_alloc(size + 8) + off;

			prepare(w, i);
			memcpy(p, &w->arg, size);
			OK(raw(&w->p, commands[i].cmd, p));
			memcpy(&w->arg, p, size);
			confirm(w, i);
		}
}

/*
 * A reply does so only if it receives, or fails to after it was sent; and a
 * receive of one thing only tells so in msgs[].
 */
static bool writes_to_struct(size_t i)
{
	return _IOC_DIR(commands[i].cmd) & _IOC_READ && commands[i].cmd != BUS1_CMD_REPLY &&
	       commands[i].cmd != BUS1_CMD_RECV;
}

TEST("ABI-2 a result that can not be written changes nothing")
{
	struct work *w = work_new();

	/* Those that write to their struct. */
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		struct bus1_cmd_info before;

		if (!writes_to_struct(i))
			continue;
		prepare(w, i);
		before = peer_info(&w->p);
		ERR(raw(&w->p, commands[i].cmd, read_only(&w->arg, commands[i].size)), EFAULT);
		SAME_INFO(&w->p, &before);
		OK(raw(&w->p, commands[i].cmd, &w->arg));
		confirm(w, i);
	}
	/* The others work from memory that is read-only. */
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (writes_to_struct(i))
			continue;
		prepare(w, i);
		OK(raw(&w->p, commands[i].cmd, read_only(&w->arg, commands[i].size)));
		confirm(w, i);
	}
}

TEST("ABI-2 no such command")
{
	struct work *w = work_new();
	struct bus1_cmd_info before = peer_info(&w->p);

	for (unsigned int nr = 0; nr < 256; nr++) {
		if (nr >= ARRAY_SIZE(commands)) {
			ERR(raw(&w->p, _IOC(_IOC_READ | _IOC_WRITE, BUS1_IOC_MAGIC, nr, 64),
				&w->arg), ENOTTY);
			ERR(raw(&w->p, _IOC(_IOC_WRITE, BUS1_IOC_MAGIC, nr, 24), &w->arg), ENOTTY);
			ERR(raw(&w->p, _IOC(_IOC_NONE, BUS1_IOC_MAGIC, nr, 0), NULL), ENOTTY);
		}
		if (nr < ARRAY_SIZE(commands))
			ERR(raw(&w->p, _IOC(_IOC_READ | _IOC_WRITE, 0xB8, nr,
					    _IOC_SIZE(commands[nr].cmd)), &w->arg), ENOTTY);
	}
	/* What any file may be asked, and this one does not know. */
	ERR(raw(&w->p, 0x5401 /* TCGETS */, &w->arg), ENOTTY);
	SAME_INFO(&w->p, &before);
}

TEST("ABI-2 commands with an array of ids, its count, and its memory")
{
	static const unsigned long cmds[] = {
		BUS1_CMD_NODE_DESTROY, BUS1_CMD_HANDLE_RELEASE, BUS1_CMD_SLICE_RELEASE,
		BUS1_CMD_CALL_CANCEL,
	};
	static const u32 counts[] = { BUS1_MAX_IDS + 1, BUS1_MAX_IDS * 2, 0x20000001, 0x7fffffff,
				      0x80000000, 0xffffffff };
	struct peer p = peer_new(1 << 16), o = peer_new(0);
	u8 data[4000] = {};
	u64 good[4];
	struct in in;

	OK(send_data(&p, good[0] = node_new(&p, 1), data, sizeof(data)));
	OK(recv_now(&p, &in));
	good[1] = grant(&o, node_new(&o, 2), &p);
	good[2] = in.m.slice;
	good[3] = call_async(&p, node_new(&p, 3), "x", 0);
	for (size_t i = 0; i < ARRAY_SIZE(cmds); i++) {
		u64 *edge = edge_alloc(sizeof(u64)), *two = edge_alloc(2 * sizeof(u64) - 1);
		struct bus1_cmd_info before = peer_info(&p);
		struct bus1_cmd_ids cmd;

		*edge = good[i];
#define BAD(err, ...)								\
		do {								\
			cmd = (struct bus1_cmd_ids){ .ids = PTR(&good[i]), .n_ids = 1 }; \
			__VA_ARGS__;						\
			ERR(raw(&p, cmds[i], &cmd), err);			\
			SAME_INFO(&p, &before);					\
		} while (0)
		BAD(EINVAL, cmd.n_ids = 0);
		BAD(EINVAL, cmd.n_ids = 0; cmd.ids = 0);
		for (size_t k = 0; k < ARRAY_SIZE(counts); k++)
			BAD(EMSGSIZE, cmd.n_ids = counts[k]; cmd.ids = 8);
		BAD(EINVAL, cmd.reserved = 1);
		BAD(EINVAL, cmd.reserved = 1u << 31);
		BAD(EFAULT, cmd.ids = 0);
		BAD(EFAULT, cmd.ids = PTR(edge); cmd.n_ids = 2);
		BAD(EFAULT, cmd.ids = PTR(edge); cmd.n_ids = BUS1_MAX_IDS);
		BAD(EFAULT, cmd.ids = PTR(two); cmd.n_ids = 2);
		BAD(EFAULT, cmd.ids = PTR(edge) + 1);
		for (size_t k = 0; k < n_bad_addresses; k++)
			BAD(EFAULT, cmd.ids = bad_addresses[k]; cmd.n_ids = 2);
#undef BAD
		OK(ids_cmd(&p, cmds[i], i == 0 ? BUS1_DESTROY_UNUSED : 0, edge, 1));
	}
	EQ(peer_info(&p).n_nodes, 1);
	EQ(peer_info(&p).n_handles, 0);
	EQ(peer_info(&p).n_slices, 0);
	EQ(peer_info(&p).n_calls, 0);
}

TEST("ABI-2 an array may overlap the struct it belongs to")
{
	struct peer p = peer_new(0);
	u64 n = node_new(&p, 1);
	union {
		struct bus1_cmd_ids cmd;
		u64 words[3];
	} u = { .cmd = { .n_ids = 1 } };

	/* words[0], the flags, is the id: none that is known. */
	u.cmd.ids = PTR(&u);
	ERR(raw(&p, BUS1_CMD_NODE_DESTROY, &u), ENXIO);
	/* words[1] and words[2]: what they hold is no id, either. */
	u.cmd.ids = PTR(&u.words[1]);
	u.cmd.n_ids = 2;
	ERR(raw(&p, BUS1_CMD_NODE_DESTROY, &u), ENXIO);
	EQ(peer_info(&p).n_nodes, 1);
	OK(destroy(&p, n));
}

static u32 random_word(void)
{
	static u64 state = 7;

	state = state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (u32)(state >> 32);
}

/* Arguments at random, near enough to sense to get past the first checks. */
TEST("ABI-2 no errno is returned that is the kernel's own, whatever it is given")
{
	struct peer p = peer_new(1 << 16);
	u64 n = node_new(&p, 1);

	for (unsigned int i = 0; i < test_rounds(20000); i++) {
		u64 words[33] = {};
		unsigned long cmd = commands[random_word() % ARRAY_SIZE(commands)].cmd;
		int r;

		for (size_t j = 0; j < 12; j++) {
			switch (random_word() % 6) {
			case 0: words[j] = 0; break;
			case 1: words[j] = random_word() % 4; break;
			case 2: words[j] = n; break;
			case 3: words[j] = PTR(words); break;
			case 4: words[j] = 1ULL << (random_word() % 64); break;
			default: words[j] = (u64)random_word() << 32 | random_word(); break;
			}
		}
		if (_IOC_NR(cmd) == _IOC_NR(BUS1_CMD_RECV))
			words[0] |= BUS1_RECV_NONBLOCK;
		/* And so that neither a call waits, nor a reply. */
		if (_IOC_NR(cmd) == _IOC_NR(BUS1_CMD_CALL))
			words[offsetof(struct bus1_cmd_call, flags) / 8] = BUS1_CALL_ASYNC;
		r = raw(&p, cmd, words);
		CHECK(r == 0 || strerrorname_np(-r));
		if (!r && _IOC_NR(cmd) == _IOC_NR(BUS1_CMD_HANDLE_EXPORT))
			close((int)(words[2] >> 32));
		if (!r && _IOC_NR(cmd) == _IOC_NR(BUS1_CMD_NODE_DESTROY))
			n = node_new(&p, 1);
		while (peer_info(&p).n_queued)
			OK(drop_now(&p, &(struct bus1_msg){}));
	}
}
