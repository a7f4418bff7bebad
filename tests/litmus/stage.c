// SPDX-License-Identifier: GPL-2.0-or-later
#include "stage.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

u32 inbox_recv(struct inbox *in, bool wait)
{
	struct bus1_cmd_recv cmd = {
		.flags = wait ? 0 : BUS1_RECV_NONBLOCK,
		.deadline = wait ? test_deadline(40) : 0,
		.release = in->n_slices ? PTR(in->slices) : 0,
		.msgs = PTR(in->msgs),
		.buf = PTR(in->buf),
		.n_release = in->n_slices,
		.n_msgs = BUS1_MAX_MSGS,
		.msg_size = sizeof(in->msgs[0]),
		.buf_size = sizeof(in->buf),
	};
	int r = recv_cmd(&in->peer, &cmd);

	in->n_slices = cmd.n_release;
	if (r == -EAGAIN && !wait)
		return 0;
	OK(r);
	EQ(in->n_slices, 0);
	for (u32 i = 0; i < cmd.n_msgs; i++)
		if (in->msgs[i].slice)
			in->slices[in->n_slices++] = in->msgs[i].slice;
	return cmd.n_msgs;
}

u64 inbox_number(const struct inbox *in, const struct bus1_msg *m)
{
	const u8 *data = m->slice ? in->peer.pool : (const u8 *)in->buf;
	u64 number;

	GE(m->len, sizeof(number));
	memcpy(&number, data + m->offset, sizeof(number));
	return number;
}

static long futex(u32 *word, int op, u32 value)
{
	return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

void channel_tell(struct channel *c, enum kind how, u32 count)
{
	if (how == PIPE) {
		EQ(write(c->pipe[1], "", 1), 1);
		return;
	}
	__atomic_store_n(&c->word, count, __ATOMIC_RELEASE);
	if (how == FUTEX)
		OK(SYS(futex(&c->word, FUTEX_WAKE, 1)));
}

u32 channel_hear(struct channel *c, enum kind how, bool wait, bool single)
{
	char bytes[LITMUS_BATCH];
	ssize_t n;

	if (how != PIPE) {
		if (how == FUTEX && wait)
			futex(&c->word, FUTEX_WAIT, c->heard);
		return c->heard = __atomic_load_n(&c->word, __ATOMIC_ACQUIRE);
	}
	if (wait)
		EQ(poll(&(struct pollfd){ .fd = c->pipe[0], .events = POLLIN }, 1, -1), 1);
	n = read(c->pipe[0], bytes, single ? 1 : sizeof(bytes));
	if (n < 0)
		EQ(errno, EAGAIN);
	else
		c->heard += (u32)n;
	return c->heard;
}

struct stage *stage_get(void)
{
	static struct stage w;

	if (w.in[0].node)
		return &w;
	for (int x = 0; x < N_PEERS; x++) {
		w.in[x].peer = peer_new(4 << 20);
		w.in[x].node = node_new(&w.in[x].peer, 0);
	}
	for (int x = 0; x < N_PEERS; x++)
		for (int y = 0; y < N_PEERS; y++)
			if (x != y)
				w.to[x][y] = grant(&w.in[y].peer, w.in[y].node, &w.in[x].peer);
	OK(SYS(pipe2(w.cause.channel.pipe, O_NONBLOCK | O_CLOEXEC)));
	OK(SYS(pipe2(w.effect.channel.pipe, O_NONBLOCK | O_CLOEXEC)));
	w.effect.tag = 1;
	return &w;
}

static void prepare_dead(struct stage *w, struct stream *s, int p)
{
	OK(transfer(&w->in[s->by].peer, &w->in[p].peer, 0, s->dying, s->ids[p], s->n));
}

/* The nodes are used again and again, the handles come and go. */
static void prepare_unused(struct stage *w, struct stream *s, int p)
{
	const struct peer *owner = &w->in[p].peer;

	if (!s->nodes[p][0])
		for (u32 k = 0; k < LITMUS_BATCH; k++)
			s->nodes[p][k] = node_new(owner, s->tag << 32 | k);
	OK(transfer(owner, &w->in[s->by].peer, 0, s->nodes[p], s->ids[p], s->n));
}

void stream_prepare(struct stage *w, struct stream *s, bool backwards)
{
	s->channel.word = s->channel.heard = 0;
	if (!s->n)
		return;
	if (s->kind == DEAD)
		for (u32 k = 0; k < s->n; k++)
			s->dying[k] = node_new(&w->in[s->by].peer, 0);
	for (int i = 0; i < N_PEERS; i++) {
		int p = backwards ? N_PEERS - 1 - i : i;

		if (s->told[p] && s->kind == DEAD)
			prepare_dead(w, s, p);
		else if (s->told[p] && s->kind == UNUSED)
			prepare_unused(w, s, p);
	}
}

/* Notices that IDLE has not received go with their handles or new users. */
void stream_finish(struct stage *w, struct stream *s)
{
	if (s->kind == MULTICAST && s->told[IDLE])
		while (inbox_recv(&w->in[IDLE], false))
			;
	for (int p = 0; s->n && s->kind == DEAD && p < N_PEERS; p++)
		if (s->told[p])
			OK(ids_cmd(&w->in[p].peer, BUS1_CMD_HANDLE_RELEASE, 0, s->ids[p],
				   s->n));
}

static void send_to(struct stage *w, struct stream *s, const u64 *dests, u32 n, u32 k)
{
	u64 data[32] = { s->tag << 32 | k };
	struct bus1_cmd_send cmd = { .data = PTR(data), .len = s->len };

	if (s->kind == MULTICAST) {
		cmd.dests = PTR(dests);
		cmd.n_dests = n;
	} else {
		cmd.dest = dests[0];
	}
	OK(send_cmd(&w->in[s->by].peer, &cmd));
}

/* What the commands name to tell those who are told, in some order. */
static u32 targets(struct stage *w, struct stream *s, u32 k, bool reverse, u64 *ids)
{
	u32 n = 0;

	for (int i = 0; i < N_PEERS; i++) {
		int p = reverse ? N_PEERS - 1 - i : i;

		if (!s->told[p])
			continue;
		if (s->kind == UNUSED)
			ids[n++] = s->ids[p][k];
		else
			for (unsigned int c = p == IDLE ? s->copies : 1; c; c--)
				ids[n++] = w->to[s->by][p];
	}
	return n;
}

void stream_do(struct stage *w, struct stream *s, u32 k, u64 *rng)
{
	const struct peer *by = &w->in[s->by].peer;
	u64 ids[N_PEERS + 64];
	u32 n;

	__atomic_store_n(&s->progress, s->progress + 1, __ATOMIC_SEQ_CST);
	switch (s->kind) {
	case MESSAGE:
		targets(w, s, k, false, ids);
		send_to(w, s, ids, 1, k);
		break;
	case MULTICAST:
		n = targets(w, s, k, rnd(rng) & 1, ids);
		send_to(w, s, ids, n, k);
		break;
	case DEAD:
		OK(destroy(by, s->dying[k]));
		break;
	case UNUSED:
		n = targets(w, s, k, rnd(rng) & 1, ids);
		OK(ids_cmd(by, BUS1_CMD_HANDLE_RELEASE, 0, ids, n));
		break;
	default:
		channel_tell(&s->channel, s->kind, k + 1);
		break;
	}
	__atomic_store_n(&s->progress, s->progress + 1, __ATOMIC_SEQ_CST);
}

/* The observer comes last. */
void stream_do_by_hand(struct stage *w, struct stream *s, u32 k, u64 delay)
{
	u64 ids[N_PEERS + 64];
	u32 n = targets(w, s, k, false, ids);

	for (u32 i = 0; i < n; i++) {
		if (i)
			spin(delay);
		if (s->kind == UNUSED)
			OK(release(&w->in[s->by].peer, ids[i]));
		else
			send_to(w, s, &ids[i], 1, k);
	}
}

bool stream_has(const struct stream *s, const struct stage *w, int p, const struct bus1_msg *m,
		u32 next, u32 *k)
{
	u64 number;

	switch (m->type) {
	case BUS1_MSG_NODE_DEAD:
		if (s->kind != DEAD)
			return false;
		*k = next;
		if (next < s->n && s->ids[p][next] == m->id)
			return true;
		for (*k = 0; *k < s->n; (*k)++)
			if (s->ids[p][*k] == m->id)
				return true;
		return false;
	case BUS1_MSG_NODE_UNUSED:
		number = m->cookie;
		if (s->kind != UNUSED || number >> 32 != s->tag)
			return false;
		break;
	default:
		number = inbox_number(&w->in[p], m);
		if (s->kind > MULTICAST || number >> 32 != s->tag)
			return false;
		break;
	}
	*k = (u32)number;
	return true;
}
