// SPDX-License-Identifier: GPL-2.0-or-later
/* MSG-1, MSG-3: one message to one node: payload and handles, all or nothing. */
#include "raw.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* a sends to b, which has a pool; `to_b` is a's handle. */
struct pair {
	struct peer a, b;
	u64 nb, to_b;
};

static struct pair pair_new(size_t pool_size)
{
	struct pair t = { .a = peer_new(0), .b = peer_new(pool_size) };

	t.nb = node_new(&t.b, 0xb0b);
	t.to_b = grant(&t.b, t.nb, &t.a);
	return t;
}

/* That what fails has no effect: nothing arrived, nothing changed at either. */
#define FAILS(t, cmd, err)							\
	do {									\
		struct bus1_cmd_info at_a_ = peer_info(&(t)->a);		\
		struct bus1_cmd_info at_b_ = peer_info(&(t)->b);		\
										\
		ERR(send_cmd(&(t)->a, cmd), err);				\
		SAME_INFO(&(t)->a, &at_a_);					\
		SAME_INFO(&(t)->b, &at_b_);					\
	} while (0)

TEST("MSG-1 payloads of every kind of size arrive as they were sent")
{
	struct pair t = pair_new(4 << 20);
	size_t inl = peer_info(&t.b).max_inline, page = page_size();
	size_t sizes[] = {
		0, 1, 7, 8, 9, 63, 64, 65, inl - 1, inl, inl + 1, inl + 8, page - 1, page,
		page + 1, 2 * page, 3 * page + 17, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1,
	};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		size_t n = sizes[i];
		/* Nothing beyond it is read: there is no memory. */
		u8 *data = edge_alloc(n);
		struct in in;

		fill(data, n, i);
		OK(send_data(&t.a, t.to_b, data, n));
		OK(recv_now(&t.b, &in));
		EQ(in.m.type, BUS1_MSG_DATA);
		EQ(in.m.flags, 0);
		EQ(in.m.id, t.nb);
		EQ(in.m.cookie, 0xb0b);
		EQ(in.m.len, n);
		EQ(in.m.n_handles, 0);
		MEM(in.data, data, n);
		if (n <= inl) {
			EQ(in.m.slice, 0);
			EQ(peer_info(&t.b).n_slices, 0);
		} else {
			NE(in.m.slice, 0);
			OK(slice_release(&t.b, in.m.slice));
		}
		EQ(peer_info(&t.b).pool_used, 0);
	}
	NOTHING(&t.b);
}

TEST("MSG-1 messages keep their boundaries and their handles")
{
	struct pair t = pair_new(1 << 20);
	size_t inl = peer_info(&t.b).max_inline;
	struct { size_t len; u32 n_handles; } kinds[] = {
		{ 0, 0 }, { 1, 1 }, { 0, 3 }, { inl, 2 }, { inl + 1, 1 }, { 3, 0 },
		{ 5000, 17 }, { inl, BUS1_MAX_HANDLES }, { 20000, 0 }, { 8, 8 }, { 0, 1 },
	};
	u64 nodes[BUS1_MAX_HANDLES], known[BUS1_MAX_HANDLES];
	u8 data[20000];
	struct in in;

	for (int i = 0; i < BUS1_MAX_HANDLES; i++) {
		nodes[i] = node_new(&t.a, (u64)i);
		known[i] = grant(&t.a, nodes[i], &t.b);
	}
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct bus1_pass pass[BUS1_MAX_HANDLES] = {};
		struct bus1_cmd_send cmd = {
			.dest = t.to_b,
			.data = kinds[i].len ? PTR(data) : 0,
			.len = kinds[i].len,
			.handles = kinds[i].n_handles ? PTR(pass) : 0,
			.n_handles = kinds[i].n_handles,
		};

		fill(data, kinds[i].len, i);
		for (u32 j = 0; j < kinds[i].n_handles; j++)
			pass[j].id = nodes[(j + i) % BUS1_MAX_HANDLES];
		OK(send_cmd(&t.a, &cmd));
	}
	EQ(peer_info(&t.b).n_queued, ARRAY_SIZE(kinds));
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		OK(recv_now(&t.b, &in));
		EQ(in.m.len, kinds[i].len);
		EQ(in.m.n_handles, kinds[i].n_handles);
		fill(data, kinds[i].len, i);
		MEM(in.data, data, kinds[i].len);
		for (u32 j = 0; j < kinds[i].n_handles; j++)
			EQ(in.h[j].id, known[(j + i) % BUS1_MAX_HANDLES]);
		if (in.m.slice)
			OK(slice_release(&t.b, in.m.slice));
	}
	NOTHING(&t.b);
}

TEST("MSG-1 a payload of many parts is their concatenation")
{
	struct pair t = pair_new(4 << 20);
	static u8 data[300000];
	static struct bus1_iovec iov[BUS1_MAX_IOVS];
	struct in in;

	srandom(1);
	for (unsigned int round = 0; round < 40; round++) {
		u32 n_iovs = round < 3 ? BUS1_MAX_IOVS : 1 + (u32)random() % 20;
		size_t total = 0, most = round % 2 ? 32 : 13000;

		fill(data, sizeof(data), round);
		for (u32 i = 0; i < n_iovs; i++) {
			size_t len = (size_t)random() % most;

			if (random() % 4 == 0 || total + len > sizeof(data))
				len = 0;
			iov[i] = (struct bus1_iovec){ len ? PTR(data + total) : 0, len };
			total += len;
		}
		OK(send_cmd(&t.a, &(struct bus1_cmd_send){
			.dest = t.to_b, .iovs = PTR(iov), .n_iovs = n_iovs }));
		OK(recv_now(&t.b, &in));
		EQ(in.m.len, total);
		MEM(in.data, data, total);
		if (in.m.slice)
			OK(slice_release(&t.b, in.m.slice));
	}
	/* The parts, and the array of them, may lie anywhere and overlap. */
	memset(data, 'x', 100);
	iov[0] = (struct bus1_iovec){ PTR(data), 100 };
	iov[1] = (struct bus1_iovec){ PTR(data + 50), 50 };
	iov[2] = (struct bus1_iovec){ PTR(iov), sizeof(iov[0]) * 3 };
	iov[3] = (struct bus1_iovec){ PTR(data), 1 };
	OK(send_cmd(&t.a, &(struct bus1_cmd_send){
		.dest = t.to_b, .iovs = PTR(iov), .n_iovs = 4 }));
	OK(recv_now(&t.b, &in));
	EQ(in.m.len, 100 + 50 + 48 + 1);
	MEM(in.data, data, 100);
	MEM(in.data + 150, iov, 48);
	/* All of them empty. */
	memset(iov, 0, sizeof(iov));
	if (in.m.slice)
		OK(slice_release(&t.b, in.m.slice));
	OK(send_cmd(&t.a, &(struct bus1_cmd_send){
		.dest = t.to_b, .iovs = PTR(iov), .n_iovs = BUS1_MAX_IOVS }));
	GOT_TEXT(&t.b, t.nb, "");
}

TEST_TIMEOUT("MSG-1 the largest payload fits, and no larger one is taken", 120)
{
	enum { PART = 65536 };
	struct pair t = pair_new(pool_for(BUS1_MAX_PAYLOAD));
	static u8 part[PART + 1];
	static struct bus1_iovec iov[BUS1_MAX_IOVS];
	struct bus1_cmd_send cmd = {
		.dest = t.to_b, .iovs = PTR(iov), .n_iovs = BUS1_MAX_IOVS,
	};
	struct in in;

	_Static_assert((u64)PART * BUS1_MAX_IOVS == BUS1_MAX_PAYLOAD, "the parts make it up");
	fill(part, sizeof(part), 3);
	for (int i = 0; i < BUS1_MAX_IOVS; i++)
		iov[i] = (struct bus1_iovec){ PTR(part), PART };
	iov[BUS1_MAX_IOVS - 1].len++;
	FAILS(&t, &cmd, EMSGSIZE);
	iov[BUS1_MAX_IOVS - 1].len--;

	OK(send_cmd(&t.a, &cmd));
	/* One peer may have no more. */
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = t.to_b, .data = PTR(part), .len = PART }),
	      EAGAIN);
	OK(recv_now(&t.b, &in));
	EQ(in.m.len, BUS1_MAX_PAYLOAD);
	for (int i = 0; i < BUS1_MAX_IOVS; i++)
		CHECK(!memcmp(in.data + (size_t)i * PART, part, PART));
	OK(slice_release(&t.b, in.m.slice));
	OK(send_data(&t.a, t.to_b, part, PART));
	OK(recv_now(&t.b, &in));
}

TEST("MSG-1 lengths that are too large, or overflow, are refused")
{
	static const u64 huge[] = {
		BUS1_MAX_PAYLOAD + 1, 1ULL << 31, (1ULL << 32) - 1, 1ULL << 32, (1ULL << 32) + 8,
		(1ULL << 63) - 1, 1ULL << 63, UINT64_MAX - 7, UINT64_MAX,
	};
	struct pair t = pair_new(1 << 20);
	static u8 data[64];
	struct bus1_iovec iov[3] = { { PTR(data), 8 }, { PTR(data), 8 }, { PTR(data), 8 } };
	struct bus1_cmd_send cmd;

	for (size_t i = 0; i < ARRAY_SIZE(huge); i++) {
		cmd = (struct bus1_cmd_send){
			.dest = t.to_b, .data = PTR(data), .len = huge[i] };
		FAILS(&t, &cmd, EMSGSIZE);
		cmd = (struct bus1_cmd_send){ .dest = t.to_b, .iovs = PTR(iov), .n_iovs = 3 };
		for (int j = 0; j < 3; j++) {
			iov[j].len = huge[i];
			FAILS(&t, &cmd, EMSGSIZE);
			iov[j].len = 8;
		}
	}
	/* Sums that come out small: of 64 bits, of 32, of 63. */
	for (int i = 0; i < 4; i++) {
		static const u64 sums[4][3] = {
			{ 16, UINT64_MAX - 7, 8 },
			{ 1ULL << 63, 1ULL << 63, 8 },
			{ (1ULL << 32) - 4, 12, 0 },
			{ (1ULL << 63) - 1, (1ULL << 63) - 1, 10 },
		};

		for (int j = 0; j < 3; j++)
			iov[j].len = sums[i][j];
		cmd = (struct bus1_cmd_send){ .dest = t.to_b, .iovs = PTR(iov), .n_iovs = 3 };
		FAILS(&t, &cmd, EMSGSIZE);
	}
	NOTHING(&t.b);
}

TEST("MSG-1 every count is bounded before anything is read")
{
	struct pair t = pair_new(1 << 20);
	/* No array of these would be read: there is nothing at 8. */
	const u32 counts[] = { 1, 2, 0x7fffffff, 0x80000000, 0xffffffff };
	struct bus1_cmd_send cmd;

	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		u32 n = counts[i];
		u32 dests = n < 3 ? BUS1_MAX_DESTS + n : n;
		u32 iovs = n < 3 ? BUS1_MAX_IOVS + n : n;
		u32 handles = n < 3 ? BUS1_MAX_HANDLES + n : n;
		u32 fds = n < 3 ? BUS1_MAX_FDS + n : n;

		cmd = (struct bus1_cmd_send){ .dests = 8, .n_dests = dests };
		FAILS(&t, &cmd, EMSGSIZE);
		cmd = (struct bus1_cmd_send){ .dest = t.to_b, .iovs = 8, .n_iovs = iovs };
		FAILS(&t, &cmd, EMSGSIZE);
		cmd = (struct bus1_cmd_send){ .dest = t.to_b, .handles = 8, .n_handles = handles };
		FAILS(&t, &cmd, EMSGSIZE);
		cmd = (struct bus1_cmd_send){ .dest = t.to_b, .fds = 8, .n_fds = fds };
		FAILS(&t, &cmd, EMSGSIZE);
		/* And at the bound, it is the address that is wrong. */
		cmd = (struct bus1_cmd_send){ .dests = 8, .n_dests = BUS1_MAX_DESTS };
		FAILS(&t, &cmd, EFAULT);
		cmd = (struct bus1_cmd_send){ .dest = t.to_b, .iovs = 8, .n_iovs = BUS1_MAX_IOVS };
		FAILS(&t, &cmd, EFAULT);
		cmd = (struct bus1_cmd_send){
			.dest = t.to_b, .handles = 8, .n_handles = BUS1_MAX_HANDLES };
		FAILS(&t, &cmd, EFAULT);
		cmd = (struct bus1_cmd_send){ .dest = t.to_b, .fds = 8, .n_fds = BUS1_MAX_FDS };
		FAILS(&t, &cmd, EFAULT);
	}
	NOTHING(&t.b);
}

/* Payloads that end in memory that is not there, by one byte or by much. */
TEST("MSG-1 a payload that can not be read is not sent, nor any of it")
{
	struct pair t = pair_new(1 << 20);
	size_t inl = peer_info(&t.b).max_inline, page = page_size();
	size_t good[] = { 0, 1, 8, inl - 1, inl, inl + 1, page, page + 100, 10 * page };
	u64 n = node_new(&t.a, 1);
	struct bus1_pass pass = { .id = n };

	OK(send_str(&t.a, t.to_b, "before"));
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		u8 *data = edge_alloc(good[i]);
		size_t more[] = { 1, inl, page, 5 * page };

		for (size_t j = 0; j < ARRAY_SIZE(more); j++) {
			struct bus1_iovec iov[] = {
				{ PTR("abcdefgh"), 8 },
				{ PTR(data), good[i] + more[j] },
				{ PTR("abcdefgh"), 8 },
			};
			struct bus1_cmd_send cmd = {
				.dest = t.to_b, .data = PTR(data), .len = good[i] + more[j],
				.handles = PTR(&pass), .n_handles = 1,
			};

			FAILS(&t, &cmd, EFAULT);
			cmd = (struct bus1_cmd_send){
				.dest = t.to_b, .iovs = PTR(iov), .n_iovs = 3,
				.handles = PTR(&pass), .n_handles = 1,
			};
			FAILS(&t, &cmd, EFAULT);
		}
	}
	for (size_t i = 0; i < n_bad_addresses; i++) {
		size_t lens[] = { 16, inl + 1, 3 * page };

		for (size_t j = 0; j < ARRAY_SIZE(lens); j++) {
			struct bus1_iovec iov[] = { { PTR("x"), 1 }, { bad_addresses[i], lens[j] } };
			struct bus1_cmd_send cmd = {
				.dest = t.to_b, .data = bad_addresses[i], .len = lens[j] };

			FAILS(&t, &cmd, EFAULT);
			cmd = (struct bus1_cmd_send){
				.dest = t.to_b, .iovs = PTR(iov), .n_iovs = 2 };
			FAILS(&t, &cmd, EFAULT);
		}
	}
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = t.to_b, .len = 1 }), EFAULT);
	OK(send_str(&t.a, t.to_b, "after"));
	GOT_TEXT(&t.b, t.nb, "before");
	GOT_TEXT(&t.b, t.nb, "after");
	NOTHING(&t.b);
	NOTHING(&t.a);
	OK(destroy_unused(&t.a, n));
}

TEST("MSG-1 arrays that can not be read, or only in part, send nothing")
{
	struct pair t = pair_new(1 << 20);
	u64 *dests = edge_alloc(3 * sizeof(*dests));
	struct bus1_iovec *iov = edge_alloc(3 * sizeof(*iov));
	struct bus1_pass *pass = edge_alloc(3 * sizeof(*pass));
	struct bus1_cmd_send cmd;

	for (int i = 0; i < 3; i++) {
		dests[i] = t.to_b;
		iov[i] = (struct bus1_iovec){ PTR("abc"), 3 };
		pass[i] = (struct bus1_pass){ .id = t.to_b };
	}
	cmd = (struct bus1_cmd_send){ .dests = PTR(dests), .n_dests = 4 };
	FAILS(&t, &cmd, EFAULT);
	cmd = (struct bus1_cmd_send){
		.flags = BUS1_SEND_PARTIAL, .dests = PTR(dests), .n_dests = 4 };
	FAILS(&t, &cmd, EFAULT);
	cmd = (struct bus1_cmd_send){ .dest = t.to_b, .iovs = PTR(iov), .n_iovs = 4 };
	FAILS(&t, &cmd, EFAULT);
	cmd = (struct bus1_cmd_send){ .dest = t.to_b, .handles = PTR(pass), .n_handles = 4 };
	FAILS(&t, &cmd, EFAULT);
	for (size_t i = 0; i < n_bad_addresses; i++) {
		u64 bad = bad_addresses[i];

		cmd = (struct bus1_cmd_send){ .dests = bad, .n_dests = 2 };
		FAILS(&t, &cmd, EFAULT);
		cmd = (struct bus1_cmd_send){ .dest = t.to_b, .iovs = bad, .n_iovs = 2 };
		FAILS(&t, &cmd, EFAULT);
		cmd = (struct bus1_cmd_send){ .dest = t.to_b, .handles = bad, .n_handles = 2 };
		FAILS(&t, &cmd, EFAULT);
	}
	/* They end where memory does, and that is enough. */
	cmd = (struct bus1_cmd_send){
		.dests = PTR(dests), .n_dests = 3, .iovs = PTR(iov), .n_iovs = 3,
		.handles = PTR(pass), .n_handles = 3,
	};
	OK(send_cmd(&t.a, &cmd));
	EQ(peer_info(&t.b).n_queued, 3);
	for (int i = 0; i < 3; i++) {
		struct in in;

		OK(recv_now(&t.b, &in));
		EQ(in.m.len, 9);
		MEM(in.data, "abcabcabc", 9);
		EQ(in.m.n_handles, 3);
		for (int j = 0; j < 3; j++) {
			EQ(in.h[j].id, t.nb);
			EQ(in.h[j].flags, BUS1_HANDLE_OWN);
		}
	}
}

TEST("MSG-1 one handle that is not known, and nothing is sent")
{
	struct pair t = pair_new(1 << 20);
	u64 n = node_new(&t.a, 1), gone = node_new(&t.a, 2), ids[BUS1_MAX_HANDLES];
	u32 counts[] = { 1, 2, 33, BUS1_MAX_HANDLES };
	u64 bad[3];

	OK(destroy(&t.a, gone));
	bad[0] = 0;
	bad[1] = gone;
	bad[2] = UINT64_MAX;
	for (size_t k = 0; k < ARRAY_SIZE(bad); k++)
		for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
			for (u32 at = 0; at < counts[i]; at += 1 + counts[i] / 3) {
				struct bus1_cmd_info at_b = peer_info(&t.b);

				for (u32 j = 0; j < counts[i]; j++)
					ids[j] = j == at ? bad[k] : n;
				ERR(send_ids(&t.a, t.to_b, ids, counts[i]), ENXIO);
				SAME_INFO(&t.b, &at_b);
			}
	NOTHING(&t.b);
	NOTHING(&t.a);
	OK(destroy_unused(&t.a, n));
}

TEST("MSG-1 handles are passed with no flags and rights that are unknown")
{
	struct pair t = pair_new(0);
	struct bus1_pass pass[2] = { { .id = t.to_b }, { .id = t.to_b } };
	struct bus1_cmd_send cmd = { .dest = t.to_b, .handles = PTR(pass), .n_handles = 2 };

	for (int i = 0; i < 64; i++) {
		struct bus1_pass *p = &pass[i & 1];

		if (i % 32 < 2)
			continue;

		p->flags = i < 32 ? 1u << i : 0;
		p->drop_rights = i < 32 ? 0 : 1u << (i - 32);
		FAILS(&t, &cmd, EINVAL);
		p->flags = p->drop_rights = 0;
	}
	OK(send_cmd(&t.a, &cmd));
}

TEST("MSG-1 a send says exactly one destination and one payload")
{
	struct pair t = pair_new(1 << 16);
	u64 dests[1] = { t.to_b };
	s32 errors[1] = { 77 };
	struct bus1_iovec iov = { PTR("ab"), 2 };
	struct bus1_pass pass = { .id = t.to_b };
	struct bus1_cmd_send bad[] = {
		{ .dest = t.to_b, .dests = PTR(dests) },
		{ .dest = t.to_b, .dests = PTR(dests), .n_dests = 1 },
		{ .dest = t.to_b, .errors = PTR(errors) },
		{ .dest = t.to_b, .iovs = PTR(&iov) },
		{ .dest = t.to_b, .iovs = PTR(&iov), .n_iovs = 1, .data = PTR("x") },
		{ .dest = t.to_b, .iovs = PTR(&iov), .n_iovs = 1, .len = 1 },
		{ .dest = t.to_b, .iovs = PTR(&iov), .n_iovs = 1, .data = PTR("x"), .len = 1 },
		{ .dest = t.to_b, .handles = PTR(&pass) },
		{ .dest = t.to_b, .reserved = 1 },
		{ .dest = t.to_b, .reserved = 1u << 31 },
		{ .dest = t.to_b, .flags = BUS1_SEND_PARTIAL },
		{ .dest = t.to_b, .flags = BUS1_SEND_ORDERED },
		{ .dest = t.to_b, .fds = PTR(errors) },
		{ .dest = t.to_b, .deadline = 1 },
		{ .dest = t.to_b, .flags = BUS1_SEND_NOTIFY, .deadline = UINT64_MAX },
		{ .dest = t.to_b, .flags = BUS1_SEND_WAIT | BUS1_SEND_NOTIFY },
		{ .dests = PTR(dests), .n_dests = 1,
		  .flags = BUS1_SEND_WAIT | BUS1_SEND_NOTIFY },
		{ .dests = PTR(dests), .n_dests = 1,
		  .flags = BUS1_SEND_WAIT | BUS1_SEND_PARTIAL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		FAILS(&t, &bad[i], EINVAL);
	for (int i = 4; i < 64; i++) {
		FAILS(&t, (&(struct bus1_cmd_send){ .dest = t.to_b, .flags = 1ULL << i }), EINVAL);
		FAILS(&t, (&(struct bus1_cmd_send){ .dests = PTR(dests), .n_dests = 1,
						    .flags = 1ULL << i }), EINVAL);
	}
	FAILS(&t, &(struct bus1_cmd_send){}, ENXIO);	/* 0 is no id */
	EQ(errors[0], 77);
	NOTHING(&t.b);
	OK(send_cmd(&t.a, &(struct bus1_cmd_send){ .dest = t.to_b }));
	GOT_TEXT(&t.b, t.nb, "");
}

TEST("MSG-1 a destination that is no more, or never was")
{
	struct pair t = pair_new(0);
	u64 dead = node_new(&t.b, 1), own_dead = node_new(&t.a, 2), h = grant(&t.b, dead, &t.a);
	struct peer gone = peer_new(0);
	u64 to_gone = grant(&gone, node_new(&gone, 1), &t.a);

	OK(destroy(&t.b, dead));
	OK(destroy(&t.a, own_dead));
	peer_close(&gone);
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = h }), EHOSTUNREACH);
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = to_gone }), EHOSTUNREACH);
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = own_dead }), ENXIO);
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = 0x5555555555555555 }), ENXIO);
	GOT_DEAD(&t.a, h);
	GOT_DEAD(&t.a, to_gone);
	OK(release(&t.a, h));
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = h }), ENXIO);
}

TEST("MSG-1 a peer may send to its own nodes")
{
	struct peer a = peer_new(1 << 16);
	u64 n = node_new(&a, 5), m = node_new(&a, 6);
	u8 data[3000];
	struct in in;

	fill(data, sizeof(data), 1);
	OK(send_str(&a, n, "self"));
	OK(send_data(&a, m, data, sizeof(data)));
	GOT_TEXT(&a, n, "self");
	OK(recv_now(&a, &in));
	EQ(in.m.id, m);
	EQ(in.m.cookie, 6);
	MEM(in.data, data, sizeof(data));
	OK(slice_release(&a, in.m.slice));
	/* It is no user of its node, whatever it sends to itself. */
	NOTHING(&a);
}

TEST("MSG-3 what is small travels inline, to a peer that has no pool")
{
	struct pair t = pair_new(0);
	size_t inl = peer_info(&t.b).max_inline;
	u8 data[8192];
	struct in in;

	GE(inl, 64);
	LE(inl, 4096);
	fill(data, sizeof(data), 9);
	for (size_t n = 0; n <= inl; n += n + 9 < inl ? 9 : 1) {
		OK(send_data(&t.a, t.to_b, data, n));
		OK(recv_now(&t.b, &in));
		EQ(in.m.slice, 0);
		EQ(in.m.len, n);
		MEM(in.data, data, n);
	}
	/* What is larger never fits it: that is no reason to try again later. */
	for (size_t n = inl + 1; n < sizeof(data); n += n)
		FAILS(&t, (&(struct bus1_cmd_send){
			.dest = t.to_b, .data = PTR(data), .len = n }), EMSGSIZE);
	/* Once it has one, it does. */
	t.b.pool = pool_map(t.b.fd, t.b.pool_size = 1 << 16);
	OK(send_data(&t.a, t.to_b, data, inl + 1));
	OK(recv_now(&t.b, &in));
	NE(in.m.slice, 0);
	MEM(in.data, data, inl + 1);
}

TEST("MSG-1 a message that no pool of the receiver holds is refused at once")
{
	/* Not queued, where it would block what comes after it forever. */
	struct pair t = pair_new(8 * page_size());
	size_t most = 3 * page_size();
	static u8 data[1 << 16];

	EQ(pool_for(most), 8 * page_size());
	for (size_t n = most + 1; n <= sizeof(data); n += 7919)
		FAILS(&t, (&(struct bus1_cmd_send){
			.dest = t.to_b, .data = PTR(data), .len = n }), EMSGSIZE);
	/* While some of the pool is in use, too. */
	OK(send_data(&t.a, t.to_b, data, page_size()));
	FAILS(&t, (&(struct bus1_cmd_send){
		.dest = t.to_b, .data = PTR(data), .len = most + 1 }), EMSGSIZE);
	FAILS(&t, (&(struct bus1_cmd_send){
		.dest = t.to_b, .data = PTR(data), .len = most }), EAGAIN);
	OK(send_str(&t.a, t.to_b, "small"));
	{
		struct in in;

		OK(recv_now(&t.b, &in));
		OK(slice_release(&t.b, in.m.slice));
	}
	GOT_TEXT(&t.b, t.nb, "small");
	/* As much as one peer may have: that fits, when nobody has any. */
	OK(send_data(&t.a, t.to_b, data, most));
}

TEST("MSG-1 a full queue says EAGAIN, and takes more when something left it")
{
	struct pair t = pair_new(0);
	struct bus1_msg msg;
	u32 sent;

	OK(send_str(&t.a, t.to_b, "first"));
	OK(send_str(&t.a, t.to_b, "second"));
	sent = fill_queue(&t.a, t.to_b);
	GT(sent, 15);
	EQ(peer_info(&t.b).n_queued, sent + 2);
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = t.to_b }), EAGAIN);
	GOT_TEXT(&t.b, t.nb, "first");
	OK(send_str(&t.a, t.to_b, "last but one"));
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = t.to_b }), EAGAIN);
	OK(drop_now(&t.b, &msg));
	OK(send_str(&t.a, t.to_b, "last"));
	FAILS(&t, (&(struct bus1_cmd_send){ .dest = t.to_b }), EAGAIN);
	EQ(drain(&t.b), sent + 2);
	OK(send_str(&t.a, t.to_b, "room"));
	GOT_TEXT(&t.b, t.nb, "room");
	/* It goes with the node, too. */
	EQ(fill_queue(&t.a, t.to_b), sent + 2);
	OK(destroy(&t.b, t.nb));
	t.nb = node_new(&t.b, 1);
	t.to_b = grant(&t.b, t.nb, &t.a);
	OK(send_str(&t.a, t.to_b, "another"));
	GOT_TEXT(&t.b, t.nb, "another");
}

struct shifty {
	struct pair t;
	struct bus1_iovec iov[4];
	struct bus1_pass pass[4];
	u64 dests[4];
	u64 n;
	bool stop;
};

static void shift(void *arg)
{
	struct shifty *s = arg;

	u32 state = 1;

	for (unsigned int i = 0; !__atomic_load_n(&s->stop, __ATOMIC_RELAXED); i++) {
		volatile struct bus1_iovec *v = &s->iov[i % 4];
		u32 bad;

		state = state * 1664525 + 1013904223;
		bad = state >> 16;
		v->len = bad & 7 ? 100 : UINT64_MAX - 300;
		((volatile struct bus1_pass *)&s->pass[i % 4])->id = bad & 0x78 ? s->n : 12345678;
		((volatile u64 *)s->dests)[i % 4] = bad & 0x780 ? s->t.to_b : 0;
		v->len = 100 + i % 1000;
	}
}

TEST("MSG-1 arrays that change while they are read do no harm")
{
	static u8 data[4096];
	struct shifty s = { .t = pair_new(1 << 20) };
	struct test_thread thread;
	unsigned int ok = 0;
	struct in in;

	s.n = node_new(&s.t.a, 1);
	for (int i = 0; i < 4; i++) {
		s.iov[i] = (struct bus1_iovec){ PTR(data), 100 };
		s.pass[i] = (struct bus1_pass){ .id = s.n };
		s.dests[i] = s.t.to_b;
	}
	test_start(&thread, shift, &s);
	/* A few rounds may all fall into a moment when the other thread does not run. */
	for (unsigned int i = 0; i < test_rounds(3000) || (!ok && i < 100000); i++) {
		int r = send_cmd(&s.t.a, &(struct bus1_cmd_send){
			.flags = i % 2 ? BUS1_SEND_PARTIAL : 0,
			.dests = PTR(s.dests), .n_dests = 4, .iovs = PTR(s.iov), .n_iovs = 4,
			.handles = PTR(s.pass), .n_handles = 4,
		});
		int n = 0;

		while (!recv_now(&s.t.b, &in)) {
			n++;
			GE(in.m.len, 400);
			LE(in.m.len, 4400);
			EQ(in.m.n_handles, 4);
			if (in.m.slice)
				OK(slice_release(&s.t.b, in.m.slice));
			for (int j = 0; j < 4; j++)
				OK(release(&s.t.b, in.h[j].id));
		}
		if (r) {
			CHECK(r == -EMSGSIZE || r == -ENXIO);
			EQ(n, 0);
		} else {
			CHECK(i % 2 ? n > 0 : n == 4);
			ok++;
		}
		while (!recv_now(&s.t.a, &in))
			EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
	}
	__atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
	test_join(&thread);
	GT(ok, 0);
	EQ(peer_info(&s.t.b).n_slices, 0);
	EQ(peer_info(&s.t.b).n_handles, 0);
}

TEST("MSG-1 arrays and payload may be the same memory")
{
	struct pair t = pair_new(1 << 16);
	union {
		struct bus1_pass pass[4];
		u64 dests[8];
		u8 bytes[64];
	} u = {};
	u8 copy[64];
	struct in in;

	/* A node's id, zeros: the destination, the handle and the payload. */
	u.pass[0].id = t.to_b;
	u.pass[1].id = t.to_b;
	memcpy(copy, &u, sizeof(copy));
	OK(send_cmd(&t.a, &(struct bus1_cmd_send){
		.dests = PTR(&u), .n_dests = 1, .handles = PTR(&u), .n_handles = 2,
		.data = PTR(&u), .len = sizeof(u) }));
	OK(recv_now(&t.b, &in));
	EQ(in.m.len, sizeof(u));
	MEM(in.data, copy, sizeof(u));
	EQ(in.m.n_handles, 2);
	/* The errors, too: they are set when the rest was read, or before. */
	int r = send_cmd(&t.a, &(struct bus1_cmd_send){
		.dests = PTR(&u), .n_dests = 1, .errors = PTR(&u) });
	CHECK(r == 0 || r == -ENXIO);
	EQ(peer_info(&t.b).n_queued, r ? 0 : 1);
}
