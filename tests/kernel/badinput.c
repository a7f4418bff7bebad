// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ABI-2, systematically: each command in a form that works, and from there each of
 * its fields spoilt in every way by itself. The errno is the documented one, and
 * nothing has changed, neither in the peers nor in what the module counts.
 * (Sizes of structs, and structs that cannot be read, are in args.c.)
 */
#include "commands.h"

#include <string.h>

static void set(union any_cmd *arg, const struct field *f, u64 value)
{
	memcpy((u8 *)arg + f->off, &value, f->size);
}

static void set_at(union any_cmd *arg, size_t off, u64 value)
{
	memcpy((u8 *)arg + off, &value, sizeof(value));
}

/* It fails with err, and changes nothing. */
static void bad(struct scene *s, const struct command *c, const union any_cmd *arg, int err,
		const char *field, u64 value)
{
	union any_cmd copy = *arg;
	struct snapshot now;
	int r = raw(&s->a, c->cmd, &copy);

	if (r != -err)
		FAIL("%s, %s %#llx: %s, should be %s", c->name, field, (unsigned long long)value,
		     r ? strerrorname_np(-r) : "no error", strerrorname_np(err));
	/* What the module counts is read less often: that takes longer. */
	now = s->before;
	now.counted = false;
	SAME_SNAPSHOT(&now);
}

static void spoil_field(struct scene *s, const struct command *c, const union any_cmd *good,
			const struct field *f)
{
	union any_cmd arg = *good;
	u64 was = 0;

	memcpy(&was, (const u8 *)good + f->off, f->size);
	switch (f->kind) {
	case BITS:
		for (size_t bit = 0; bit < f->size * 8; bit++) {
			u64 value = was | 1ULL << bit;

			if (f->known >> bit & 1)
				continue;
			set(&arg, f, value);
			bad(s, c, &arg, EINVAL, f->name, value);
		}
		break;
	case COUNT: {
		u64 counts[] = { f->known + 1, f->known * 2, 0x20000001, 0x7fffffff, 0x80000000,
				 0xffffffff };

		/* A payload in two forms would be another mistake. */
		if (c->good == good_send && !strcmp(f->name, "n_iovs"))
			arg.send.data = arg.send.len = 0;
		/* Nothing is read before: there is nothing at 8. */
		set_at(&arg, f->at, 8);
		for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
			set(&arg, f, counts[i]);
			bad(s, c, &arg, EMSGSIZE, f->name, counts[i]);
		}
		/* And what is said to be there has to be. */
		set(&arg, f, f->known);
		bad(s, c, &arg, EFAULT, f->name, f->known);
		set_at(&arg, f->at, 0);
		bad(s, c, &arg, EFAULT, f->name, 0);
		break;
	}
	case READ:
	case WRITTEN: {
		u8 *mem = (u8 *)(uintptr_t)was;

		for (size_t i = 0; i < n_bad_addresses; i++) {
			/* buf[] has to be aligned, others need not. */
			set(&arg, f, bad_addresses[i]);
			bad(s, c, &arg, EFAULT, f->name, bad_addresses[i]);
		}
		set(&arg, f, 0);
		if (strcmp(f->name, "errors"))		/* which may be left out */
			bad(s, c, &arg, EFAULT, f->name, 0);
		/* It ends too early, by all of it, by half, by a word. */
		for (size_t there = 0; there < f->known; there += 4) {
			u8 *edge = edge_alloc((there + 7) / 8 * 8);

			if (there % 8 && strcmp(f->name, "buf"))
				edge += 8 - there % 8;
			else if (there % 8)
				continue;
			memcpy(edge, mem, there);
			set(&arg, f, PTR(edge));
			bad(s, c, &arg, EFAULT, f->name, there);
		}
		if (f->kind == WRITTEN) {
			set(&arg, f, PTR(read_only(mem, f->known)));
			bad(s, c, &arg, EFAULT, "read-only", was);
		}
		break;
	}
	default:
		break;
	}
}

static void spoil(const struct command *c)
{
	static struct scene s;
	union any_cmd good = {};
	int r;

	scene_make(&s);
	c->good(&s, &good);
	for (const struct field *f = c->fields; f->kind != FREE; f++)
		spoil_field(&s, c, &good, f);
	SAME_SNAPSHOT(&s.before);
	/* All the while there was nothing wrong with the rest. */
	r = raw(&s.a, c->cmd, &good);
	if (r != (c->good == good_wait ? -ETIMEDOUT : 0))
		FAIL("%s: %s, should work", c->name, strerrorname_np(-r));
	if (c->good == good_export)
		close_fd(good.export.fd);
	if (c->good == good_open)
		close_fd(good.open.fd);
	scene_end(&s);
}

static bool is_of_calls(const struct command *c)
{
	return c->cmd == BUS1_CMD_CALL || c->cmd == BUS1_CMD_REPLY ||
	       c->cmd == BUS1_CMD_CALL_CANCEL || c->cmd == BUS1_CMD_LEASE;
}

TEST("ABI-2 each field of CALL, REPLY, CALL_CANCEL and LEASE, spoilt by itself")
{
	for (size_t i = 0; i < n_commands; i++)
		if (is_of_calls(&commands[i]))
			spoil(&commands[i]);
}

TEST("ABI-2 each field of the commands on nodes and handles, spoilt by itself")
{
	for (size_t i = 0; i < n_commands; i++)
		if (commands[i].cmd != BUS1_CMD_SEND && commands[i].cmd != BUS1_CMD_RECV &&
		    !is_of_calls(&commands[i]))
			spoil(&commands[i]);
}

TEST("ABI-2 each field of SEND, spoilt by itself")
{
	for (size_t i = 0; i < n_commands; i++)
		if (commands[i].cmd == BUS1_CMD_SEND)
			spoil(&commands[i]);
}

TEST("ABI-2 each field of RECV, spoilt by itself")
{
	for (size_t i = 0; i < n_commands; i++)
		if (commands[i].cmd == BUS1_CMD_RECV)
			spoil(&commands[i]);
}

/* Which ids are wrong in which place, and what is said to it. */
#define ID(name) #name, offsetof(struct scene, name)
static const struct wrong {
	good_fn *good;
	const char *place;
	size_t array, stride;		/* in the scene; or of a field of the command */
	u32 n;				/* 0: such a field */
	int err;
	const char *name;
	size_t id;
} wrong[] = {
#define ARRAY(good, f, n, err, id) \
	{ good, #f, offsetof(struct scene, f), sizeof(((struct scene *)0)->f[0]), n, err, ID(id) }
#define FIELD(good, s, f, err, id) \
	{ good, #f, offsetof(struct bus1_cmd_##s, f), 0, 0, err, ID(id) }
	ARRAY(good_destroy, ids, 2, ENXIO, gone),
	ARRAY(good_destroy, ids, 2, ENXIO, foreign),
	ARRAY(good_destroy, ids, 2, EPERM, handle),
	ARRAY(good_destroy, ids, 2, EPERM, weak),
	ARRAY(good_destroy, ids, 2, EPERM, dead),
	ARRAY(good_release, ids, 3, ENXIO, gone),
	ARRAY(good_release, ids, 3, ENXIO, foreign),
	ARRAY(good_release, ids, 3, EPERM, node),
	ARRAY(good_release, ids, 3, EPERM, facet),
	ARRAY(good_release, ids, 3, EPERM, once),
	ARRAY(good_slice, ids, 2, ENXIO, gone_slice),
	ARRAY(good_transfer, ids, 3, ENXIO, gone),
	ARRAY(good_transfer, ids, 3, ENXIO, foreign),
	ARRAY(good_transfer, ids, 3, EPERM, bound),
	ARRAY(good_move, ids, 3, ENXIO, gone),
	ARRAY(good_move, ids, 3, ENXIO, foreign),
	ARRAY(good_move, ids, 3, EPERM, bound),
	ARRAY(good_move, ids, 3, EPERM, node),
	ARRAY(good_move, ids, 3, EPERM, facet),
	ARRAY(good_move, ids, 3, EHOSTUNREACH, weak_dead),
	ARRAY(good_multicast, ids, 2, ENXIO, gone),
	ARRAY(good_multicast, ids, 2, ENXIO, foreign),
	ARRAY(good_multicast, ids, 2, EPERM, weak),
	ARRAY(good_multicast, ids, 2, EPERM, mute),
	ARRAY(good_multicast, ids, 2, EHOSTUNREACH, dead),
	ARRAY(good_multicast, pass, 2, ENXIO, gone),
	ARRAY(good_multicast, pass, 2, ENXIO, foreign),
	ARRAY(good_multicast, pass, 2, EPERM, bound),
	ARRAY(good_give_back, more, 2, ENXIO, gone_slice),
	ARRAY(good_give_back, ids, 2, ENXIO, gone),
	ARRAY(good_give_back, ids, 2, ENXIO, foreign),
	ARRAY(good_give_back, ids, 2, EPERM, node),
	ARRAY(good_give_back, ids, 2, EPERM, facet),
	FIELD(good_mint, mint, node, ENXIO, gone),
	FIELD(good_mint, mint, node, ENXIO, foreign),
	FIELD(good_mint, mint, node, EPERM, handle),
	FIELD(good_mint, mint, node, EPERM, weak),
	FIELD(good_mint, mint, node, EPERM, dead),
	FIELD(good_mint, mint, node, EINVAL, facet),
	FIELD(good_mint, mint, node, EINVAL, once),
	FIELD(good_export, export, id, ENXIO, gone),
	FIELD(good_export, export, id, ENXIO, foreign),
	FIELD(good_export, export, id, EPERM, weak),
	FIELD(good_export, export, id, EPERM, bound),
	FIELD(good_send, send, dest, ENXIO, gone),
	FIELD(good_send, send, dest, ENXIO, foreign),
	FIELD(good_send, send, dest, EPERM, weak),
	FIELD(good_send, send, dest, EPERM, mute),
	FIELD(good_send, send, dest, EHOSTUNREACH, dead),
	FIELD(good_send, send, dest, EOPNOTSUPP, buffer),
	ARRAY(good_multicast, ids, 2, EOPNOTSUPP, buffer),
	ARRAY(good_body, pass, 1, EMEDIUMTYPE, handle),
	ARRAY(good_body, pass, 1, EMEDIUMTYPE, facet),
	ARRAY(good_body, pass, 1, EPERM, bound),
	ARRAY(good_body, pass, 1, ENXIO, gone),
	FIELD(good_open, open, id, EMEDIUMTYPE, handle),
	FIELD(good_open, open, id, EMEDIUMTYPE, node),
	FIELD(good_open, open, id, EPERM, weak),
	FIELD(good_open, open, id, EPERM, mute),
	FIELD(good_open, open, id, ENXIO, gone),
	FIELD(good_open, open, id, ENXIO, foreign),
	FIELD(good_call, call, send.dest, ENXIO, gone),
	FIELD(good_call, call, send.dest, ENXIO, foreign),
	FIELD(good_call, call, send.dest, EPERM, weak),
	FIELD(good_call, call, send.dest, EPERM, mute),
	FIELD(good_call, call, send.dest, EHOSTUNREACH, dead),
	FIELD(good_call, call, send.dest, EOPNOTSUPP, buffer),
	FIELD(good_wait, call, send.dest, EHOSTUNREACH, dead),
	FIELD(good_wait, call, send.dest, ENXIO, foreign),
	FIELD(good_call, call, parent, ENXIO, answered),
	FIELD(good_call, call, parent, ENXIO, foreign_token),
	ARRAY(good_call, pass, 1, ENXIO, gone),
	ARRAY(good_call, pass, 1, EPERM, bound),
	FIELD(good_reply, reply, send.dest, ENXIO, answered),
	FIELD(good_reply, reply, send.dest, ENXIO, foreign_token),
	ARRAY(good_reply, pass, 1, ENXIO, gone),
	ARRAY(good_reply, pass, 1, EPERM, bound),
	ARRAY(good_cancel, ids, 2, ENXIO, token),
	ARRAY(good_cancel, ids, 2, ENXIO, handle),
	FIELD(good_lease, lease, token, ENXIO, answered),
	FIELD(good_lease, lease, token, ENXIO, foreign_token),
};

static const struct command *command_of(good_fn *good)
{
	for (size_t i = 0; i < n_commands; i++)
		if (commands[i].good == good)
			return &commands[i];
	FAIL("no such command");
}

TEST("ABI-2 each id, wrong in each place where it stands")
{
	static struct scene s;

	scene_make(&s);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		const struct wrong *w = &wrong[i];
		const struct command *c = command_of(w->good);
		u64 ids[] = { *(u64 *)((u8 *)&s + w->id), 0, UINT64_MAX, 1ULL << 63 };

		for (size_t k = 0; k < ARRAY_SIZE(ids); k++) {
			int err = k ? ENXIO : w->err;
			union any_cmd arg = {};

			/* No token means that there is none. */
			if (!ids[k] && (!strcmp(w->place, "parent") || w->good == good_reply))
				continue;

			if (w->n == 0) {
				c->good(&s, &arg);
				memcpy((u8 *)&arg + w->array, &ids[k], 8);
				bad(&s, c, &arg, err, w->name, ids[k]);
			}
			for (u32 at = 0; at < w->n; at++) {
				c->good(&s, &arg);
				memcpy((u8 *)&s + w->array + at * w->stride, &ids[k], 8);
				memset(s.errors, 0, sizeof(s.errors));
				bad(&s, c, &arg, err, w->name, ids[k]);
				if (!strcmp(w->place, "ids") && w->good == good_multicast)
					for (u32 j = 0; j < w->n; j++)
						EQ(s.errors[j], j == at ? -err : 0);
			}
		}
	}
	SAME_SNAPSHOT(&s.before);
}

TEST("ABI-2 one id twice, where it may stand once")
{
	static struct scene s;
	static const struct {
		good_fn *good;
		int err;
	} twice[] = {
		{ good_destroy, EINVAL }, { good_slice, ENXIO }, { good_move, ENXIO },
		{ good_give_back, ENXIO }, { good_cancel, ENXIO },
	};
	union any_cmd arg = {};

	scene_make(&s);
	for (size_t i = 0; i < ARRAY_SIZE(twice); i++) {
		const struct command *c = command_of(twice[i].good);

		c->good(&s, &arg);
		s.ids[1] = s.ids[0];
		bad(&s, c, &arg, twice[i].err, "twice", s.ids[0]);
	}
	good_give_back(&s, &arg);
	s.more[1] = s.more[0];
	bad(&s, command_of(good_give_back), &arg, ENXIO, "twice", s.more[0]);
	good_release(&s, &arg);
	s.ids[1] = s.ids[0];
	bad(&s, command_of(good_release), &arg, ENXIO, "thrice", s.ids[0]);
	/* A handle that is moved needs a count for each. */
	good_multicast(&s, &arg);
	s.pass[0] = s.pass[1];
	s.pass[0].id = s.pass[1].id = s.handle;
	bad(&s, command_of(good_multicast), &arg, ENXIO, "moved twice", s.handle);
	s.pass[0].id = s.node;
	bad(&s, command_of(good_multicast), &arg, EPERM, "a node is moved", s.node);
	SAME_SNAPSHOT(&s.before);
}

/* The pointers of a command, each to the command itself, and to each other's memory. */
TEST_LONG("ABI-2 arrays that overlap each other, or the command", 120)
{
	static struct scene s;

	for (size_t i = 0; i < n_commands; i++) {
		const struct command *c = &commands[i];

		for (const struct field *f = c->fields; f->kind != FREE; f++) {
			const struct field *g = c->fields;

			if (f->kind != READ && f->kind != WRITTEN)
				continue;
			for (bool self = true; self || g->kind != FREE; g += !self, self = false) {
				union any_cmd *arg = edge_alloc(sizeof(*arg));
				u64 to = PTR(arg);
				int r;

				if (!self && g->kind != READ && g->kind != WRITTEN)
					continue;
				scene_make(&s);
				memset(arg, 0, sizeof(*arg));
				c->good(&s, arg);
				if (!self)
					memcpy(&to, (u8 *)arg + g->off, sizeof(to));
				set(arg, f, to);
				r = raw(&s.a, c->cmd, arg);
				/*
				 * What it says is what the memory held. It is one of its
				 * errors, and then nothing is done; but what a receive has
				 * given back, and a reply that was sent, stays.
				 */
				if (r && c->cmd != BUS1_CMD_RECV && c->cmd != BUS1_CMD_REPLY)
					SAME_SNAPSHOT(&s.before);
				CHECK(!r || strerrorname_np(-r));
				drain(&s.a);
				drain(&s.b);
				scene_end(&s);
			}
		}
	}
}
