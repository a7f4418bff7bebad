// SPDX-License-Identifier: GPL-2.0-or-later
/* RES-6: what the tracepoints tell of calls. */
#include "call.h"
#include "watch.h"

#include <stdio.h>

/* The word that says which message an event is about. */
static const char *message(const struct event *e)
{
	static char word[48];

	snprintf(word, sizeof(word), "msg=%llu", (unsigned long long)event_number(e, "msg"));
	return word;
}

TEST("RES-6 CALL-2 CALL-5 a call is followed by its id to its server and to its end, and its chain by that")
{
	struct pair w;
	const struct event *outer, *inner, *e;
	u64 n, own, token, id;
	struct bus1_cmd_call cmd;

	trace_start();
	w = pair_new();
	n = node_new(&w.a, 7);
	own = grant(&w.a, n, &w.b);
	id = call_async(&w.a, w.to_b, "outer", 1);
	token = GOT_CALL(&w.b, w.nb, "outer");
	/* Part of it, and dropped. */
	cmd = (struct bus1_cmd_call){ .send = { .dest = own, .data = PTR("in"), .len = 2 },
				      .flags = BUS1_CALL_ASYNC, .parent = token, .cookie = 2 };
	OK(call_async_cmd(&w.b, &cmd));
	OK(answer_drop(&w.a, GOT_CALL(&w.a, n, "in")));
	GOT_END(&w.b, cmd.id, 2, ECONNABORTED);
	OK(answer_str(&w.b, token, "well"));
	GOT_REPLY(&w.a, id, 1, "well");

	trace_read();
	EQ(event_count("call", NULL), 2);
	EQ(event_count("reply", NULL), 2);
	outer = event_next(NULL, "call", NULL);
	EQ(event_number(outer, "caller"), peer_id(&w.a));
	EQ(event_number(outer, "server"), peer_id(&w.b));
	EQ(event_number(outer, "node"), w.nb);
	EQ(event_number(outer, "len"), 5);
	EQ(event_number(outer, "depth"), 0);
	EQ(event_number(outer, "async"), 1);
	NE(event_number(outer, "msg"), 0);
	e = event_next(outer, "receive", message(outer));
	EQ(event_number(e, "peer"), peer_id(&w.b));
	e = event_next(e, "reply", message(outer));
	EQ(event_number(e, "server"), peer_id(&w.b));
	EQ(event_number(e, "caller"), peer_id(&w.a));
	EQ(event_number(e, "len"), 4);
	CHECK(event_is(e, "error=0"));

	inner = event_next(outer, "call", NULL);
	NE(event_number(inner, "msg"), event_number(outer, "msg"));
	EQ(event_number(inner, "chain"), event_number(outer, "chain"));
	EQ(event_number(inner, "depth"), 1);
	EQ(event_number(inner, "caller"), peer_id(&w.b));
	e = event_next(inner, "reply", message(inner));
	EQ(event_number(e, "server"), peer_id(&w.a));
	CHECK(!event_is(e, "error=0"));
	trace_stop();
	OK(release(&w.b, own));
	GOT_UNUSED(&w.a, n, 1);
	OK(destroy(&w.a, n));
	pair_close(&w);
}
