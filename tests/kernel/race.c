// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Lifetimes: two threads, on two processors if there are, do what ends something and
 * what uses it, at once, a great many times. Whoever is first, what comes of it is one
 * of the two orders, both sides agree on which, and nothing stays behind.
 */
#include "race.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* All that waits, by type. */
struct seen {
	u32 data, dead, unused, dropped;
	u64 id;				/* of the last handle that came */
	u32 handle_flags;
};

static struct seen see(const struct peer *p)
{
	struct seen s = {};
	struct in in;
	int r;

	while (!(r = recv_now(p, &in))) {
		switch (in.m.type) {
		case BUS1_MSG_DATA:
			s.data++;
			if (in.m.n_handles) {
				s.id = in.h[0].id;
				s.handle_flags = in.h[0].flags;
			}
			break;
		case BUS1_MSG_NODE_DEAD: s.dead++; break;
		case BUS1_MSG_NODE_UNUSED: s.unused++; break;
		case BUS1_MSG_ONCE_DROPPED: s.dropped++; break;
		default: FAIL("type %u", in.m.type);
		}
	}
	ERR(r, EAGAIN);
	return s;
}

static void other_release(struct race *r)
{
	r->result = release(&r->b, r->h);
}

TEST_TIMEOUT("OBJ-3 a release against a delivery of the same handle", 120)
{
	struct race r;

	race_start(&r, other_release, 6000);
	for (u32 i = 0; i < r.rounds; i++) {
		struct seen b;

		r.h = grant(&r.a, r.n, &r.b);
		race_go(&r);
		OK(send_id(&r.a, r.to_b, r.n));
		b = see(&r.b);
		race_meet(&r);
		OK(r.result);
		/* The release took the first count, never that of the delivery. */
		EQ(b.data, 1);
		EQ(b.dead, 0);
		OK(release(&r.b, b.id));
		ERR(release(&r.b, b.id), ENXIO);
		EQ(peer_info(&r.b).n_handles, 0);
		GE(see(&r.a).unused, 1);
	}
	race_end(&r);
	OK(destroy_unused(&r.a, r.n));
}

static void other_destroy(struct race *r)
{
	r->result = destroy(&r->a, r->n);
}

TEST_TIMEOUT("OBJ-11 the end of a node against what is sent to it", 120)
{
	struct race r;

	race_start(&r, other_destroy, 6000);
	for (u32 i = 0; i < r.rounds; i++) {
		u64 nc = node_new(&r.c, 3), hc = grant(&r.c, nc, &r.b);
		struct seen a, b;
		int sent;

		r.n = node_new(&r.a, 1);
		r.h = grant(&r.a, r.n, &r.b);
		race_go(&r);
		sent = i % 2 ? send_id(&r.b, r.h, hc) : send_str(&r.b, r.h, "x");
		race_meet(&r);
		OK(r.result);
		if (sent)
			ERR(sent, EHOSTUNREACH);
		/* Whether it was sent or not, it is not received. */
		a = see(&r.a);
		EQ(a.data, 0);
		EQ(a.unused, 0);
		b = see(&r.b);
		EQ(b.dead, 1);
		EQ(b.data, 0);
		OK(release(&r.b, r.h));
		/* And the handle in it is held no more. */
		OK(release(&r.b, hc));
		EQ(see(&r.c).unused, 1);
		OK(destroy_unused(&r.c, nc));
	}
	race_end(&r);
	EQ(peer_info(&r.a).n_handles, 1);
}

static void other_revoke(struct race *r)
{
	r->result = destroy(&r->a, r->f);
}

TEST_TIMEOUT("OBJ-8 a revocation against passing the handle on", 120)
{
	struct race r;
	u64 nc, b_to_c;

	race_start(&r, other_revoke, 6000);
	nc = node_new(&r.c, 3);
	b_to_c = grant(&r.c, nc, &r.b);
	for (u32 i = 0; i < r.rounds; i++) {
		struct seen b, c;
		bool move = i & 1, message = i & 2;
		u64 out = 0;

		r.f = facet_new(&r.a, r.n, 1 + i % 3);
		r.h = grant(&r.a, r.f, &r.b);
		race_go(&r);
		if (message)
			OK(send_pass(&r.b, b_to_c, r.h, move ? BUS1_PASS_MOVE : 0, 0));
		else
			OK(give(&r.b, r.h, &r.c, move ? BUS1_TRANSFER_MOVE : 0, 0, &out));
		race_meet(&r);
		OK(r.result);
		c = see(&r.c);
		b = see(&r.b);
		/* Each who has it is told, once. */
		EQ(c.data, message);
		if (message)
			out = c.id;
		EQ(c.dead, 1);
		LE(b.dead, 1);
		ERR(send_str(&r.c, out, "x"), EHOSTUNREACH);
		OK(release(&r.c, out));
		ERR(release(&r.c, out), ENXIO);
		if (move) {
			ERR(release(&r.b, r.h), ENXIO);
		} else {
			EQ(b.dead, 1);
			OK(release(&r.b, r.h));
		}
		/* The node may be told to be unused, the facet that died may not. */
		LE(see(&r.a).unused, 1);
	}
	race_end(&r);
	EQ(peer_info(&r.b).n_handles, 1);
	EQ(peer_info(&r.c).n_handles, 0);
	OK(destroy_unused(&r.a, r.n));
}

static void other_close(struct race *r)
{
	peer_close(&r->c);
	r->result = 0;
}

TEST_TIMEOUT("OBJ-1 a receiver closes against a multicast to it", 120)
{
	struct race r;

	race_start(&r, other_close, 3000);
	for (u32 i = 0; i < r.rounds; i++) {
		struct seen b;
		s32 errors[2];
		struct bus1_pass pass = { .id = r.n };
		struct bus1_cmd_send cmd = {
			.flags = i % 2 ? BUS1_SEND_PARTIAL : 0, .dests = PTR(r.dests), .n_dests = 2,
			.errors = PTR(errors), .handles = PTR(&pass), .n_handles = 1 };
		u64 to_c;
		int sent;

		if (i)
			r.c = peer_new(0);
		to_c = grant(&r.c, node_new(&r.c, 3), &r.a);
		r.dests[i % 4 < 2] = r.to_b;
		r.dests[i % 4 >= 2] = to_c;
		race_go(&r);
		sent = send_cmd(&r.a, &cmd);
		race_meet(&r);
		b = see(&r.b);
		if (sent) {
			ERR(sent, EHOSTUNREACH);
			EQ(i % 2, 0);
			EQ(b.data, 0);
		} else {
			EQ(b.data, 1);
			OK(release(&r.b, b.id));
		}
		/* Death of the node in c, and that n is unused, if it was used. */
		OK(release(&r.a, to_c));
		drain(&r.a);
		OK(destroy_unused(&r.a, r.n));
		r.n = node_new(&r.a, 1);
	}
	race_end(&r);
}

static void other_release_all(struct race *r)
{
	r->result = ids_cmd(&r->b, BUS1_CMD_HANDLE_RELEASE, 0, &r->h, 1);
}

TEST_TIMEOUT("OBJ-7 a weak handle is made strong against the last release", 120)
{
	struct race r;
	u64 seq = 0;

	race_start(&r, other_release_all, 6000);
	r.weak = grant_as(&r.a, r.n, &r.b, BUS1_TRANSFER_WEAK, 0);
	for (u32 i = 0; i < r.rounds; i++) {
		struct in in;
		u64 strong;

		r.h = grant(&r.a, r.n, &r.b);
		race_go(&r);
		strong = grant_as(&r.b, r.weak, NULL, BUS1_TRANSFER_STRONG, 0);
		/* From here it is used: no destruction of what is unused. */
		ERR(destroy_unused(&r.a, r.n), EBUSY);
		race_meet(&r);
		OK(r.result);
		OK(send_str(&r.b, strong, "x"));
		OK(release(&r.b, strong));
		/* The last word is that it is unused, with a seq that grew. */
		bool unused = false, data = false;

		while (!recv_now(&r.a, &in)) {
			if (in.m.type == BUS1_MSG_DATA) {
				data = true;
				continue;
			}
			EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
			GT(in.m.seq, seq);
			seq = in.m.seq;
			unused = true;
		}
		CHECK(unused);
		CHECK(data);
	}
	race_end(&r);
	OK(destroy_unused(&r.a, r.n));
	GOT_DEAD(&r.b, r.weak);
}

static void other_destroy_unused(struct race *r)
{
	r->result = destroy_unused(&r->a, r->n);
}

TEST_TIMEOUT("OBJ-7 a weak handle is made strong against the end of what is unused", 120)
{
	struct race r;

	race_start(&r, other_destroy_unused, 6000);
	for (u32 i = 0; i < r.rounds; i++) {
		u64 strong = 0;
		int made;

		r.n = node_new(&r.a, 1);
		r.weak = grant_as(&r.a, r.n, &r.b, BUS1_TRANSFER_WEAK, 0);
		race_go(&r);
		made = give(&r.b, r.weak, NULL, BUS1_TRANSFER_STRONG, 0, &strong);
		race_meet(&r);
		/* One of the two. */
		if (made) {
			ERR(made, EHOSTUNREACH);
			OK(r.result);
			GOT_DEAD(&r.b, r.weak);
		} else {
			ERR(r.result, EBUSY);
			OK(release(&r.b, strong));
			GOT_UNUSED(&r.a, r.n, 1);
			OK(destroy(&r.a, r.n));
			GOT_DEAD(&r.b, r.weak);
		}
		OK(release(&r.b, r.weak));
		NOTHING(&r.a);
		NOTHING(&r.b);
	}
	race_end(&r);
}

static void other_import(struct race *r)
{
	struct bus1_handle h = {};

	r->result = import_cmd(&r->c, r->fd, &h);
	r->out = h.id;
}

TEST_TIMEOUT("OBJ-12 a descriptor is closed against its import", 120)
{
	struct race r;

	race_start(&r, other_import, 3000);
	for (u32 i = 0; i < r.rounds; i++) {
		struct seen a;

		r.fd = (int)OK(export_fd(&r.a, r.n, 0));
		race_go(&r);
		OK(SYS(close(r.fd)));
		race_meet(&r);
		if (r.result) {
			ERR(r.result, EBADF);
		} else {
			ERR(destroy_unused(&r.a, r.n), EBUSY);
			OK(send_str(&r.c, r.out, "x"));
			OK(release(&r.c, r.out));
		}
		/* The other may have held the file a moment longer. */
		for (u64 end = test_deadline(20); !readable(&r.a); sched_yield())
			LT(test_now(), end);
		a = see(&r.a);
		EQ(a.data, !r.result);
		EQ(a.unused, 1);
	}
	race_end(&r);
	OK(destroy_unused(&r.a, r.n));
}

static void other_export(struct race *r)
{
	r->result = export_fd(&r->c, r->h, 0);
}

TEST_TIMEOUT("OBJ-12 an export against the end of the handle, of the node, of the owner", 120)
{
	struct race r;

	race_start(&r, other_export, 3000);
	for (u32 i = 0; i < r.rounds; i++) {
		struct peer d = {};
		u64 n = r.n;

		if (i % 3 == 2) {
			d = peer_new(0);
			n = node_new(&d, 1);
			r.h = grant(&d, n, &r.c);
		} else {
			n = node_new(&r.a, 1);
			r.h = grant(&r.a, n, &r.c);
		}
		race_go(&r);
		if (i % 3 == 0)
			OK(release(&r.c, r.h));
		else if (i % 3 == 1)
			OK(destroy(&r.a, n));
		else
			peer_close(&d);
		race_meet(&r);
		if (r.result >= 0) {
			struct pollfd pfd = { .fd = r.result };

			OK(SYS(poll(&pfd, 1, 0)));
			EQ(pfd.revents, i % 3 ? POLLHUP : 0);
			if (i % 3 == 0)
				ERR(destroy_unused(&r.a, n), EBUSY);
			close_fd(r.result);
		} else {
			/* What is dead can be exported, what is not held can not. */
			ERR(r.result, ENXIO);
			EQ(i % 3, 0);
		}
		if (i % 3 == 0) {
			EQ(see(&r.a).unused, 1);
			OK(destroy(&r.a, n));
		} else {
			EQ(see(&r.c).dead, 1);
			OK(release(&r.c, r.h));
		}
		EQ(peer_info(&r.c).n_handles, 0);
	}
	race_end(&r);
}

static void other_send_once(struct race *r)
{
	r->result = r->g ? send_str(&r->c, r->g, "other") : send_str(&r->b, r->h, "other");
}

TEST_TIMEOUT("OBJ-9 a one-shot is sent by two at once, and carries one message", 120)
{
	struct race r;

	race_start(&r, other_send_once, 6000);
	for (u32 i = 0; i < r.rounds; i++) {
		struct seen a, b, c;
		int mine;

		/* Of one peer's one count, or its two, or of two peers. */
		r.f = once_new(&r.a, r.n, 0);
		r.h = grant(&r.a, r.f, &r.b);
		r.g = 0;
		if (i % 3 == 1)
			EQ(grant(&r.a, r.f, &r.b), r.h);
		if (i % 3 == 2)
			r.g = grant(&r.a, r.f, &r.c);
		race_go(&r);
		mine = send_str(&r.b, r.h, "mine");
		race_meet(&r);
		EQ(!mine + !r.result, 1);
		if (mine)
			CHECK(mine == -EHOSTUNREACH || (mine == -ENXIO && i % 3 == 0));
		else
			CHECK(r.result == -EHOSTUNREACH || (r.result == -ENXIO && i % 3 == 0));
		a = see(&r.a);
		EQ(a.data, 1);
		EQ(a.dropped, 0);
		b = see(&r.b);
		c = see(&r.c);
		ERR(destroy(&r.a, r.f), ENXIO);
		/* Whoever has a count left has been told that it is dead. */
		EQ(b.dead, i % 3 == 1 || (i % 3 == 2 && mine));
		EQ(c.dead, i % 3 == 2 && !mine);
		if (b.dead)
			OK(release(&r.b, r.h));
		ERR(release(&r.b, r.h), ENXIO);
		if (c.dead)
			OK(release(&r.c, r.g));
		EQ(peer_info(&r.b).n_handles + peer_info(&r.c).n_handles, 0);
	}
	race_end(&r);
	EQ(peer_info(&r.a).n_nodes, 1);
}

static void other_drop_once(struct race *r)
{
	r->result = release(&r->b, r->h);
}

TEST_TIMEOUT("OBJ-9 a one-shot is sent by one and released by another", 120)
{
	struct race r;

	race_start(&r, other_drop_once, 6000);
	for (u32 i = 0; i < r.rounds; i++) {
		struct seen a;
		int mine;

		r.f = once_new(&r.a, r.n, 0);
		r.h = grant(&r.a, r.f, &r.b);
		race_go(&r);
		mine = send_str(&r.b, r.h, "mine");
		race_meet(&r);
		a = see(&r.a);
		if (mine) {
			/* It was dropped, and that is told. */
			ERR(mine, ENXIO);
			OK(r.result);
			EQ(a.data, 0);
			EQ(a.dropped, 1);
			OK(destroy_unused(&r.a, r.f));
		} else {
			/* It was sent, and there was nothing to be released. */
			ERR(r.result, ENXIO);
			EQ(a.data, 1);
			EQ(a.dropped, 0);
			ERR(destroy(&r.a, r.f), ENXIO);
		}
		ERR(release(&r.b, r.h), ENXIO);
		NOTHING(&r.b);
		EQ(peer_info(&r.b).n_handles, 0);
	}
	race_end(&r);
}

static void other_move(struct race *r)
{
	if (r->round & 1)
		r->result = send_pass(&r->b, r->g, r->h, BUS1_PASS_MOVE, 0);
	else
		r->result = give(&r->b, r->h, &r->c, BUS1_TRANSFER_MOVE, 0, &r->out);
}

TEST_TIMEOUT("OBJ-5 one count is moved by two at once, and one moves it", 120)
{
	struct race r;
	u64 nc;

	race_start(&r, other_move, 6000);
	nc = node_new(&r.c, 3);
	r.g = grant(&r.c, nc, &r.b);
	for (u32 i = 0; i < r.rounds; i++) {
		struct seen c;
		u64 out = 0;
		int mine;

		r.h = grant(&r.a, r.n, &r.b);
		r.out = 0;
		race_go(&r);
		if (i & 2)
			mine = send_pass(&r.b, r.g, r.h, BUS1_PASS_MOVE, 0);
		else
			mine = give(&r.b, r.h, &r.c, BUS1_TRANSFER_MOVE, 0, &out);
		race_meet(&r);
		EQ(!mine + !r.result, 1);
		ERR(mine ? mine : r.result, ENXIO);
		ERR(release(&r.b, r.h), ENXIO);
		c = see(&r.c);
		if (c.data) {
			EQ(c.data, 1);
			out = c.id;
		} else if (mine) {
			out = r.out;
		}
		EQ(peer_info(&r.c).n_handles, 1);
		OK(release(&r.c, out));
		EQ(peer_info(&r.c).n_handles, 0);
		EQ(see(&r.a).unused, 1);
	}
	race_end(&r);
}

/* Everything at once, with no order to be had: only that all of it ends. */
struct storm {
	struct peer p[3];
	u64 node[3], to[3][3];
	u32 next;
	unsigned int rounds;
};

static void storm(void *arg)
{
	struct storm *t = arg;
	u32 me = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED);
	u64 state = me + 1;

	test_pin(me);
	for (unsigned int i = 0; i < t->rounds; i++) {
		struct peer *p = &t->p[me % 3], *q;
		u64 id, other;
		struct in in;
		int fd;

		state = state * 6364136223846793005ULL + 1442695040888963407ULL;
		q = &t->p[(state >> 40) % 3];
		id = (state >> 45) % 40 + i / 8 % 64;
		other = (state >> 51) % 40 + i / 8 % 64;
		switch (state >> 59) {
		case 0: case 1: node_create(p, &(struct bus1_cmd_node){ .flags = id & 1 }); break;
		case 2: mint(p, 0, id, other + 1, &id); break;
		case 3: mint(p, BUS1_MINT_ONCE, id, other, &id); break;
		case 4: destroy(p, id); break;
		case 5: destroy_unused(p, id); break;
		case 6: case 7: release(p, id); break;
		case 8: case 9: give(p, id, q, 0, 0, &other); break;
		case 10: give(p, id, q, BUS1_TRANSFER_WEAK, 0, &other); break;
		case 11: give(p, id, NULL, BUS1_TRANSFER_STRONG, 0, &other); break;
		case 12: give(p, id, q, BUS1_TRANSFER_MOVE, BUS1_RIGHT_SEND, &other); break;
		case 13: case 14: case 15: send_str(p, id, "x"); break;
		case 16: case 17: send_id(p, id, other); break;
		case 18: send_pass(p, id, other, BUS1_PASS_MOVE, 0); break;
		case 19: send_pass(p, id, other, BUS1_PASS_WEAK, BUS1_RIGHT_TRANSFER); break;
		case 20:
			send_many(p, BUS1_SEND_PARTIAL, (u64[]){ id, other, id }, 3, NULL, "y");
			break;
		case 21: send_many(p, BUS1_SEND_ORDERED, (u64[]){ id, other }, 2, NULL, "z"); break;
		case 22: send_fds(p, id, &(s32){ 0 }, 1); break;
		case 23: peek(p, (u32)other % 4, &in); break;
		case 24: setup(p, id & 1); break;
		case 25: drop_now(p, &in.m); break;
		case 26:
			fd = export_fd(p, id, 0);
			if (fd >= 0) {
				import_cmd(q, fd, &(struct bus1_handle){});
				close(fd);
			}
			break;
		default:
			recv_now(p, &in);
			break;
		}
	}
}

TEST_TIMEOUT("OBJ-1 everything at once, in three peers and six threads", 120)
{
	for (int round = 0; round < 3; round++) {
		struct storm t = { .rounds = test_rounds(8000) };
		struct test_thread threads[6];

		for (int i = 0; i < 3; i++) {
			t.p[i] = peer_new(0);
			t.node[i] = node_new(&t.p[i], 1);
		}
		for (int i = 0; i < 3; i++)
			for (int j = 0; j < 3; j++)
				t.to[i][j] = grant(&t.p[j], t.node[j], &t.p[i]);
		for (int i = 0; i < 6; i++)
			test_start(&threads[i], storm, &t);
		for (int i = 0; i < 6; i++)
			test_join(&threads[i]);
		for (int i = 0; i < 3; i++)
			peer_close(&t.p[(i + round) % 3]);
	}
}
