// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * OBJ-6, OBJ-8: facets of a node carry a badge, are handles of their own, are told
 * of by themselves, and can be revoked.
 */
#include "cast.h"

#include <string.h>

TEST("OBJ-6 a message carries the badge of the facet that it was sent through")
{
	static const u64 badges[] = { 1, 2, 0x8000000000000000, UINT64_MAX, 0x123456789abcdef0 };
	struct trio t = trio_new(1 << 16);
	u64 f[ARRAY_SIZE(badges)], h[ARRAY_SIZE(badges)], plain = grant(&t.a, t.n, &t.b);
	u8 data[5000];
	struct in in;

	fill(data, sizeof(data), 1);
	for (size_t i = 0; i < ARRAY_SIZE(badges); i++) {
		f[i] = facet_new(&t.a, t.n, badges[i]);
		NE(f[i], t.n);
		if (i % 2) {
			h[i] = grant(&t.a, f[i], &t.b);
		} else {
			OK(send_id(&t.a, t.a_to_b, f[i]));
			h[i] = GOT_ID(&t.b, t.nb);
		}
		NE(h[i], plain);
	}
	for (size_t i = 0; i < ARRAY_SIZE(badges); i++) {
		OK(send_str(&t.b, h[i], "through"));
		OK(send_data(&t.b, h[i], data, sizeof(data)));
		OK(send_str(&t.b, plain, "plain"));
		OK(recv_now(&t.a, &in));
		EQ(in.m.type, BUS1_MSG_DATA);
		EQ(in.m.id, t.n);
		EQ(in.m.cookie, 0xa);
		EQ(in.m.badge, badges[i]);
		MEM(in.data, "through", 7);
		OK(recv_now(&t.a, &in));
		EQ(in.m.badge, badges[i]);
		EQ(in.m.id, t.n);
		MEM(in.data, data, sizeof(data));
		OK(slice_release(&t.a, in.m.slice));
		GOT_BADGE(&t.a, t.n, 0, "plain");
	}
	/* All at once, to one receiver. */
	OK(send_many(&t.b, 0, h, ARRAY_SIZE(h), NULL, "all"));
	for (size_t i = 0; i < ARRAY_SIZE(badges); i++)
		GOT_BADGE(&t.a, t.n, badges[i], "all");
	/* The owner may send through it itself. */
	OK(send_str(&t.a, f[1], "own"));
	GOT_BADGE(&t.a, t.n, badges[1], "own");
	/* Each of these is a handle that b pays for. */
	EQ(peer_info(&t.b).n_handles, ARRAY_SIZE(badges) + 2);
}

TEST("OBJ-6 a badge goes on with the handle, and holders see nothing of it")
{
	struct trio t = trio_new(1 << 16);
	u64 f = facet_new(&t.a, t.n, 0xbad6e), h = grant(&t.a, f, &t.b);
	struct bus1_handle got;

	OK(send_id(&t.b, t.b_to_c, h));
	got = GOT_HANDLE(&t.c, t.nc);
	EQ(got.cookie, 0);
	EQ(got.flags, 0);
	EQ(got.rights, ALL_RIGHTS);
	OK(send_str(&t.c, got.id, "from c"));
	GOT_BADGE(&t.a, t.n, 0xbad6e, "from c");
	/* And through a descriptor, and with fewer rights. */
	OK(send_pass(&t.b, t.b_to_c, h, 0, BUS1_RIGHT_TRANSFER));
	got = GOT_HANDLE(&t.c, t.nc);
	EQ(got.rights, BUS1_RIGHT_SEND);
	OK(send_str(&t.c, got.id, "only send"));
	GOT_BADGE(&t.a, t.n, 0xbad6e, "only send");
	EQ(import_fd(&t.c, (int)OK(export_fd(&t.b, h, BUS1_RIGHT_TRANSFER))), got.id);
	got.id = import_fd(&t.c, (int)OK(export_fd(&t.b, h, 0)));
	OK(send_str(&t.c, got.id, "imported"));
	GOT_BADGE(&t.a, t.n, 0xbad6e, "imported");
}

TEST("OBJ-4 a facet is a handle of its own, and the same one however it came")
{
	struct trio t = trio_new(1 << 16);
	u64 f = facet_new(&t.a, t.n, 1), g = facet_new(&t.a, t.n, 2), m = node_new(&t.a, 3);
	u64 other = facet_new(&t.a, m, 1), hf = grant(&t.a, f, &t.b), hg, hn, ho;
	struct bus1_handle got;

	hg = grant(&t.a, g, &t.b);
	hn = grant(&t.a, t.n, &t.b);
	ho = grant(&t.a, other, &t.b);
	NE(hf, hg);
	NE(hf, hn);
	NE(hf, ho);
	NE(hg, hn);
	/* from the owner, through a third, from oneself, through a descriptor */
	OK(send_id(&t.a, t.a_to_b, f));
	EQ(GOT_ID(&t.b, t.nb), hf);
	OK(send_id(&t.b, t.b_to_c, hf));
	OK(send_id(&t.c, grant(&t.b, t.nb, &t.c), GOT_ID(&t.c, t.nc)));
	EQ(GOT_ID(&t.b, t.nb), hf);
	OK(send_id(&t.b, t.nb, hf));
	EQ(GOT_ID(&t.b, t.nb), hf);
	EQ(import_fd(&t.b, (int)OK(export_fd(&t.b, hf, 0))), hf);

	/* At home it is the facet, of the owner's. */
	OK(send_id(&t.b, hn, hf));
	got = GOT_HANDLE(&t.a, t.n);
	EQ(got.id, f);
	EQ(got.cookie, 0xa);
	CHECK(got.flags & BUS1_HANDLE_OWN);
	EQ(grant(&t.b, hg, &t.a), g);
	EQ(grant(&t.b, ho, &t.a), other);
	EQ(grant(&t.b, hn, &t.a), t.n);
	ERR(release(&t.a, f), EPERM);
	EQ(import_fd(&t.a, (int)OK(export_fd(&t.b, hf, 0))), f);
}

TEST("OBJ-6 minting a badge again gives the facet there is")
{
	struct trio t = trio_new(1 << 16);
	u64 f = facet_new(&t.a, t.n, 5), m = node_new(&t.a, 1), fm, h, again;
	struct snapshot w = SNAPSHOT(&t.a, &t.b);

	EQ(facet_new(&t.a, t.n, 5), f);
	SAME_SNAPSHOT(&w);
	fm = facet_new(&t.a, m, 5);
	NE(fm, f);
	NE(facet_new(&t.a, t.n, 6), f);
	h = grant(&t.a, f, &t.b);
	EQ(facet_new(&t.a, t.n, 5), f);

	/* Revoked, it is made anew; the old handles stay dead. */
	OK(destroy(&t.a, f));
	GOT_DEAD(&t.b, h);
	NE(again = facet_new(&t.a, t.n, 5), f);
	ERR(send_str(&t.b, h, "dead"), EHOSTUNREACH);
	ERR(send_str(&t.a, f, "gone"), ENXIO);
	NE(h, grant(&t.a, again, &t.b));
	OK(send_str(&t.b, grant(&t.a, again, &t.b), "new"));
	GOT_BADGE(&t.a, t.n, 5, "new");
	ERR(send_str(&t.b, h, "dead"), EHOSTUNREACH);
	/* The other node's is not concerned. */
	OK(send_str(&t.a, fm, "m"));
	GOT_BADGE(&t.a, m, 5, "m");
}

TEST("OBJ-6 HANDLE_MINT says why not, and makes nothing")
{
	struct trio t = trio_new(1 << 16);
	u64 f = facet_new(&t.a, t.n, 1), gone = node_new(&t.a, 2), h = grant(&t.a, t.n, &t.b), id;
	u64 spare = facet_new(&t.a, t.n, 9), once = once_new(&t.a, t.n, 0);
	struct snapshot w;
	struct bus1_cmd_mint cmd;

	OK(destroy(&t.a, gone));
	OK(destroy(&t.a, spare));
	w = SNAPSHOT(&t.a, &t.b);
	ERR(mint(&t.b, 0, h, 1, &id), EPERM);
	ERR(mint(&t.a, 0, t.a_to_b, 1, &id), EPERM);
	ERR(mint(&t.a, BUS1_MINT_ONCE, t.a_to_b, 1, &id), EPERM);
	ERR(mint(&t.a, 0, 0, 1, &id), ENXIO);
	ERR(mint(&t.a, 0, gone, 1, &id), ENXIO);
	ERR(mint(&t.a, 0, spare, 1, &id), ENXIO);
	ERR(mint(&t.a, 0, UINT64_MAX, 1, &id), ENXIO);
	ERR(mint(&t.a, 0, f, 2, &id), EINVAL);
	ERR(mint(&t.a, 0, once, 2, &id), EINVAL);
	ERR(mint(&t.a, BUS1_MINT_ONCE, f, 2, &id), EINVAL);
	ERR(mint(&t.a, 0, t.n, 0, &id), EINVAL);
	for (int i = 1; i < 64; i++)
		ERR(mint(&t.a, 1ULL << i, t.n, 1, &id), EINVAL);
	cmd = (struct bus1_cmd_mint){ .node = t.n, .badge = 7, .id = 1 };
	ERR(raw(&t.a, BUS1_CMD_HANDLE_MINT, &cmd), EINVAL);
	cmd.id = 0;
	ERR(raw(&t.a, BUS1_CMD_HANDLE_MINT, read_only(&cmd, sizeof(cmd))), EFAULT);
	SAME_SNAPSHOT(&w);
	/* That of a facet which there is does not take it away, either. */
	cmd.badge = 1;
	ERR(raw(&t.a, BUS1_CMD_HANDLE_MINT, read_only(&cmd, sizeof(cmd))), EFAULT);
	SAME_SNAPSHOT(&w);
	EQ(facet_new(&t.a, t.n, 1), f);
}

TEST("OBJ-6 a used facet makes its node used, and each is told of by itself")
{
	struct trio t = trio_new(1 << 16);
	u64 f = facet_new(&t.a, t.n, 1), g = facet_new(&t.a, t.n, 2), hf, hg, hn;
	struct in in;

	/* Minting uses nothing. */
	OK(destroy_unused(&t.a, facet_new(&t.a, t.n, 3)));
	NOTHING(&t.a);
	hf = grant(&t.a, f, &t.b);
	hg = grant(&t.a, g, &t.b);
	hn = grant(&t.a, t.n, &t.b);
	ERR(destroy_unused(&t.a, t.n), EBUSY);
	ERR(destroy_unused(&t.a, f), EBUSY);
	OK(release(&t.b, hn));
	NOTHING(&t.a);		/* f and g use it */
	ERR(destroy_unused(&t.a, t.n), EBUSY);
	OK(release(&t.b, hf));
	OK(recv_now(&t.a, &in));
	EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
	EQ(in.m.id, f);
	EQ(in.m.badge, 1);
	EQ(in.m.seq, 1);
	NOTHING(&t.a);
	OK(release(&t.b, hg));
	GOT_NOTICES(&t.a, { BUS1_MSG_NODE_UNUSED, g }, { BUS1_MSG_NODE_UNUSED, t.n });
	NOTHING(&t.a);

	/* Used again, told again, with another seq; the other is not concerned. */
	hf = grant(&t.a, f, &t.b);
	OK(release(&t.b, hf));
	for (int i = 0; i < 2; i++) {
		OK(recv_now(&t.a, &in));
		EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
		EQ(in.m.seq, 2);
		EQ(in.m.badge, in.m.id == f ? 1 : 0);
	}
	NOTHING(&t.a);
	/* A message on its way uses it, too. */
	OK(send_id(&t.a, t.a_to_b, f));
	ERR(destroy_unused(&t.a, f), EBUSY);
	ERR(destroy_unused(&t.a, t.n), EBUSY);
	OK(drop_now(&t.b, &(struct bus1_msg){}));
	GOT_NOTICES(&t.a, { BUS1_MSG_NODE_UNUSED, f }, { BUS1_MSG_NODE_UNUSED, t.n });
	OK(destroy_unused(&t.a, f));
	OK(destroy_unused(&t.a, t.n));
	NOTHING(&t.a);
}

TEST("OBJ-6 the notice of an unused facet is withdrawn when it is used again")
{
	struct trio t = trio_new(1 << 16);
	u64 f = facet_new(&t.a, t.n, 1), hf = grant(&t.a, f, &t.b), hn = grant(&t.a, t.n, &t.c);
	struct in in;

	OK(release(&t.b, hf));
	EQ(peer_info(&t.a).n_queued, 1);
	hf = grant(&t.a, f, &t.b);
	EQ(peer_info(&t.a).n_queued, 0);
	NOTHING(&t.a);
	/* That the node is passed on does not use the facet. */
	OK(release(&t.b, hf));
	EQ(grant(&t.a, t.n, &t.c), hn);
	OK(recv_now(&t.a, &in));
	EQ(in.m.id, f);
	EQ(in.m.seq, 2);
	/* The node's is withdrawn when a facet is used. */
	OK(ids_cmd(&t.c, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ hn, hn }, 2));
	EQ(peer_info(&t.a).n_queued, 1);
	hf = grant(&t.a, f, &t.b);
	EQ(peer_info(&t.a).n_queued, 0);
	NOTHING(&t.a);
}

TEST("OBJ-8 revoking a badge kills exactly its handles")
{
	struct trio t = trio_new(1 << 16);
	u64 f = facet_new(&t.a, t.n, 1), g = facet_new(&t.a, t.n, 2);
	u64 bf = grant(&t.a, f, &t.b), bg = grant(&t.a, g, &t.b), bn = grant(&t.a, t.n, &t.b);
	u64 cf = grant(&t.a, f, &t.c), less = grant_as(&t.a, f, &t.c, 0, BUS1_RIGHT_TRANSFER);
	u64 weak = grant_as(&t.a, f, &t.c, BUS1_TRANSFER_WEAK, 0);

	OK(destroy(&t.a, f));
	GOT_DEAD(&t.b, bf);
	NOTHING(&t.b);
	GOT_NOTICES(&t.c, { BUS1_MSG_NODE_DEAD, cf }, { BUS1_MSG_NODE_DEAD, less },
		    { BUS1_MSG_NODE_DEAD, weak });
	NOTHING(&t.c);
	NOTHING(&t.a);
	ERR(send_str(&t.b, bf, "x"), EHOSTUNREACH);
	ERR(send_str(&t.c, cf, "x"), EHOSTUNREACH);
	ERR(send_str(&t.c, less, "x"), EHOSTUNREACH);
	OK(send_str(&t.b, bg, "g"));
	OK(send_str(&t.b, bn, "n"));
	GOT_BADGE(&t.a, t.n, 2, "g");
	GOT_BADGE(&t.a, t.n, 0, "n");
	/* The facet is gone for its owner. */
	ERR(destroy(&t.a, f), ENXIO);
	ERR(send_str(&t.a, f, "x"), ENXIO);
	ERR(send_id(&t.a, t.a_to_b, f), ENXIO);
	ERR(release(&t.a, f), ENXIO);
	/* No unused of it follows. */
	OK(release(&t.b, bf));
	OK(ids_cmd(&t.c, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ cf, less, weak }, 3));
	NOTHING(&t.a);
}

TEST("OBJ-8 dead is sticky, what arrives after a revocation arrives dead")
{
	struct trio t = trio_new(1 << 16);
	u64 f = facet_new(&t.a, t.n, 1), h = grant(&t.a, f, &t.b);
	struct bus1_handle got;

	/* On its way when it is revoked; and passed on afterwards. */
	OK(send_id(&t.b, t.b_to_c, h));
	OK(destroy(&t.a, f));
	got = GOT_HANDLE(&t.c, t.nc);
	EQ(got.flags & ~BUS1_HANDLE_DEAD, 0);
	GOT_DEAD(&t.c, got.id);
	ERR(send_str(&t.c, got.id, "x"), EHOSTUNREACH);
	OK(release(&t.c, got.id));
	OK(send_id(&t.b, t.b_to_c, h));
	got = GOT_HANDLE(&t.c, t.nc);
	EQ(got.flags, BUS1_HANDLE_DEAD);
	GOT_DEAD(&t.c, got.id);
	NOTHING(&t.c);
	GOT_DEAD(&t.b, h);
	/* Minted anew, it is another handle. */
	NE(grant(&t.a, facet_new(&t.a, t.n, 1), &t.c), got.id);
	ERR(send_str(&t.c, got.id, "x"), EHOSTUNREACH);
}

TEST("OBJ-8 what was sent through a revoked facet and waits is never received")
{
	struct trio t = trio_new(1 << 16);
	u64 f = facet_new(&t.a, t.n, 1), g = facet_new(&t.a, t.n, 2);
	u64 hf = grant(&t.a, f, &t.b), hg = grant(&t.a, g, &t.b), hn = grant(&t.a, t.n, &t.b);
	u8 data[5000] = {};

	OK(send_str(&t.b, hf, "1"));
	OK(send_str(&t.b, hg, "2"));
	OK(send_data(&t.b, hf, data, sizeof(data)));
	OK(send_id(&t.b, hf, t.nb));
	OK(send_str(&t.b, hn, "3"));
	EQ(peer_info(&t.a).n_queued, 5);
	OK(destroy(&t.a, f));
	EQ(peer_info(&t.a).n_queued, 2);
	EQ(peer_info(&t.a).n_slices, 0);
	GOT_BADGE(&t.a, t.n, 2, "2");
	GOT_BADGE(&t.a, t.n, 0, "3");
	NOTHING(&t.a);
	/* It had a handle to nb, which a holds by itself, too. */
	GOT_DEAD(&t.b, hf);
	NOTHING(&t.b);
	ERR(destroy_unused(&t.b, t.nb), EBUSY);
}

TEST("OBJ-8 the end of a node is that of all its facets")
{
	struct trio t = trio_new(1 << 16);
	u64 f[5], h[6], weak, id;

	for (u64 i = 0; i < 5; i++) {
		f[i] = facet_new(&t.a, t.n, i + 1);
		h[i] = grant(&t.a, f[i], &t.b);
		OK(send_str(&t.b, h[i], "waits"));
	}
	weak = grant_as(&t.a, f[0], &t.c, BUS1_TRANSFER_WEAK, 0);
	h[5] = grant(&t.a, t.n, &t.b);
	OK(destroy(&t.a, t.n));
	NOTHING(&t.a);
	GOT_NOTICES(&t.b, { BUS1_MSG_NODE_DEAD, h[0] }, { BUS1_MSG_NODE_DEAD, h[1] },
		    { BUS1_MSG_NODE_DEAD, h[2] }, { BUS1_MSG_NODE_DEAD, h[3] },
		    { BUS1_MSG_NODE_DEAD, h[4] }, { BUS1_MSG_NODE_DEAD, h[5] });
	NOTHING(&t.b);
	GOT_DEAD(&t.c, weak);
	for (int i = 0; i < 5; i++) {
		ERR(destroy(&t.a, f[i]), ENXIO);
		ERR(send_str(&t.a, f[i], "x"), ENXIO);
		ERR(mint(&t.a, 0, f[i], 1, &id), ENXIO);
		ERR(send_str(&t.b, h[i], "x"), EHOSTUNREACH);
	}
	ERR(mint(&t.a, 0, t.n, 1, &id), ENXIO);
	EQ(peer_info(&t.a).n_nodes, 0);
}

TEST("OBJ-8 the end of the owner is that of its facets")
{
	struct trio t = trio_new(1 << 16);
	u64 f = facet_new(&t.a, t.n, 1), h = grant(&t.a, f, &t.b), hn = grant(&t.a, t.n, &t.b);

	peer_close(&t.a);
	GOT_NOTICES(&t.b, { BUS1_MSG_NODE_DEAD, h }, { BUS1_MSG_NODE_DEAD, hn },
		    { BUS1_MSG_NODE_UNUSED, t.nb });
	NOTHING(&t.b);
	ERR(send_str(&t.b, h, "x"), EHOSTUNREACH);
}

TEST("OBJ-11 facets and nodes are destroyed together, all or none")
{
	struct trio t = trio_new(1 << 16);
	u64 m = node_new(&t.a, 2), f = facet_new(&t.a, t.n, 1), g = facet_new(&t.a, m, 1);
	u64 hf = grant(&t.a, f, &t.b), hg = grant(&t.a, g, &t.b), hm = grant(&t.a, m, &t.b);
	u64 ids[3] = { f, m, 0 };
	struct snapshot w = SNAPSHOT(&t.a, &t.b, &t.c);

	ERR(ids_cmd(&t.a, BUS1_CMD_NODE_DESTROY, 0, ids, 3), ENXIO);
	ids[2] = t.a_to_b;
	ERR(ids_cmd(&t.a, BUS1_CMD_NODE_DESTROY, 0, ids, 3), EPERM);
	ids[2] = f;
	ERR(ids_cmd(&t.a, BUS1_CMD_NODE_DESTROY, 0, ids, 3), EINVAL);
	ERR(ids_cmd(&t.a, BUS1_CMD_NODE_DESTROY, BUS1_DESTROY_UNUSED, ids, 2), EBUSY);
	SAME_SNAPSHOT(&w);
	OK(send_many(&t.b, 0, (u64[]){ hf, hg, hm }, 3, NULL, "all live"));
	EQ(drain(&t.a), 3);
	OK(ids_cmd(&t.a, BUS1_CMD_NODE_DESTROY, 0, ids, 2));
	GOT_NOTICES(&t.b, { BUS1_MSG_NODE_DEAD, hf }, { BUS1_MSG_NODE_DEAD, hg },
		    { BUS1_MSG_NODE_DEAD, hm });
	NOTHING(&t.b);
	/* Node n lives, without the facet. */
	OK(send_str(&t.a, t.n, "n"));
	GE(drain(&t.a), 1);
}

/* Whether that is one id too many is not said; what comes of it has to be right. */
TEST("OBJ-11 a node and its own facet in one array")
{
	for (int order = 0; order < 2; order++) {
		struct trio t = trio_new(1 << 16);
		u64 f = facet_new(&t.a, t.n, 1), hf = grant(&t.a, f, &t.b);
		u64 hn = grant(&t.a, t.n, &t.b);
		u64 ids[2] = { order ? f : t.n, order ? t.n : f };
		struct snapshot w = SNAPSHOT(&t.a, &t.b, &t.c);

		if (ids_cmd(&t.a, BUS1_CMD_NODE_DESTROY, 0, ids, 2)) {
			SAME_SNAPSHOT(&w);
			OK(send_many(&t.b, 0, (u64[]){ hf, hn }, 2, NULL, "both live"));
			continue;
		}
		EQ(peer_info(&t.a).n_nodes, 0);
		GOT_NOTICES(&t.b, { BUS1_MSG_NODE_DEAD, hf }, { BUS1_MSG_NODE_DEAD, hn });
		NOTHING(&t.b);
		NOTHING(&t.a);
	}
}

TEST("OBJ-6 many facets of one node, and of many nodes")
{
	struct peer a = peer_new(0), b = peer_new(0);
	unsigned int rounds = test_rounds(3000);
	u64 n[3], f[3], h[3];
	struct in in;

	for (u64 i = 0; i < 3; i++)
		n[i] = node_new(&a, i);
	for (u64 badge = 1; badge <= rounds; badge++) {
		for (int i = 0; i < 3; i++)
			f[i] = facet_new(&a, n[i], badge);
		OK(transfer(&a, &b, 0, f, h, 3));
		OK(send_data(&b, h[badge % 3], &badge, sizeof(badge)));
		OK(recv_now(&a, &in));
		EQ(in.m.badge, badge);
		EQ(in.m.cookie, badge % 3);
	}
	/* Each is found again; then they go in one stroke each. */
	for (u64 badge = 1; badge <= rounds; badge += 1 + rounds / 50)
		OK(destroy(&a, facet_new(&a, n[0], badge)));
	OK(ids_cmd(&a, BUS1_CMD_NODE_DESTROY, 0, n, 3));
	EQ(peer_info(&a).n_nodes, 0);
	EQ(drain(&b), 3 * rounds);
	NOTHING(&a);
}
