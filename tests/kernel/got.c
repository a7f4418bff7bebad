// SPDX-License-Identifier: GPL-2.0-or-later
/* What comes next, and what has changed. */
#include "raw.h"

#include <string.h>

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
