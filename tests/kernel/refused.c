// SPDX-License-Identifier: GPL-2.0-or-later
/* MSG-1: what can not be sent, or not all of it, is refused and has no effect. */
#include "message.h"

#include <string.h>

TEST("MSG-1 lengths that are too large, or overflow, are refused")
{
	static const u64 huge[] = {
		BUS1_MAX_PAYLOAD + 1, 1ULL << 31, (1ULL << 32) - 1, 1ULL << 32, (1ULL << 32) + 8,
		(1ULL << 63) - 1, 1ULL << 63, UINT64_MAX - 7, UINT64_MAX,
	};
	struct pair t = pair_of(0, 1 << 20);
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
	struct pair t = pair_of(0, 1 << 20);
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
	struct pair t = pair_of(0, 1 << 20);
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
	struct pair t = pair_of(0, 1 << 20);
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
	struct pair t = pair_of(0, 1 << 20);
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
	struct pair t = pair_of(0, 0);
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
	struct pair t = pair_of(0, 1 << 16);
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
	struct pair t = pair_of(0, 0);
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
		/* It may be read byte by byte, half old and half new: any such is from 100 to 1023, too. */
		v->len = (100 + i % 156) | i / 4 % 4 << 8;
	}
}

TEST("MSG-1 arrays that change while they are read do no harm")
{
	static u8 data[4096];
	/* Two bytes of the length that is refused, above 0, are too much for this pool as well. */
	struct shifty s = { .t = pair_of(0, 1 << 17) };
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
	struct pair t = pair_of(0, 1 << 16);
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
