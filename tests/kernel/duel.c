// SPDX-License-Identifier: GPL-2.0-or-later
#include "duel.h"

struct duel d;

void duel_start(void (*other)(struct race *r), unsigned int rounds)
{
	struct race *r = &d.r;

	race_start(r, other, rounds);
	r->a.pool = pool_map(r->a.fd, r->a.pool_size = 1 << 18);
	r->b.pool = pool_map(r->b.fd, r->b.pool_size = 1 << 18);
}

int call_one(u64 to, u32 n)
{
	struct bus1_cmd_call cmd = {
		.send = { .dest = to, .data = PTR("x"), .len = 1 },
		.reply_size = n & 1 ? LARGE : 0, .cookie = n,
	};
	int r = call_async_cmd(&d.r.a, &cmd);

	d.id = cmd.id;
	return r;
}

int reply_one(u64 token, u32 n)
{
	return answer(&d.r.b, token, d.data, n & 1 ? LARGE : 10);
}

void facet_make(void)
{
	d.facet = facet_new(&d.r.b, d.r.nb, 7);
	d.to_facet = grant(&d.r.b, d.facet, &d.r.a);
}

void server_new(void)
{
	d.r.b = peer_new(1 << 18);
	d.r.nb = node_new(&d.r.b, 2);
	d.r.to_b = grant(&d.r.b, d.r.nb, &d.r.a);
}

struct came came(const struct peer *p)
{
	struct came c = {};
	int r;

	while (!(r = recv_now(p, &d.in))) {
		switch (d.in.m.type) {
		case BUS1_MSG_CALL:
			c.calls++;
			c.token = d.in.m.token;
			break;
		case BUS1_MSG_REPLY:
			c.replies++;
			c.error = d.in.m.error;
			EQ(d.in.m.id, d.id);
			break;
		case BUS1_MSG_CANCELLED:
			c.cancelled++;
			EQ(d.in.m.id, d.token);
			break;
		default:
			c.others++;
		}
		if (d.in.m.slice)
			OK(slice_release(p, d.in.m.slice));
	}
	ERR(r, EAGAIN);
	return c;
}

void both_idle(void)
{
	peer_idle(&d.r.a);
	peer_idle(&d.r.b);
}
