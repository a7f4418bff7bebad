// SPDX-License-Identifier: GPL-2.0-or-later
/* The library in GLib's main loop, as a source. */
#include <glib.h>

#include "lib.h"
#include "loop.h"

struct peer_source {
	GSource source;
	b1_peer *peer;
	gpointer tag;
};

/* GLib's time is in us, and 0 means that the source is ready. */
static void set_ready_time(struct peer_source *s)
{
	uint64_t deadline;

	OK(b1_peer_get_timeout(s->peer, &deadline));
	g_source_set_ready_time(&s->source, deadline == UINT64_MAX ? -1 : (gint64)(deadline / 1000));
}

static gboolean prepare(GSource *source, gint *timeout)
{
	set_ready_time((struct peer_source *)source);
	*timeout = -1;
	return FALSE;
}

static gboolean check(GSource *source)
{
	struct peer_source *s = (struct peer_source *)source;

	return (g_source_query_unix_fd(source, s->tag) & G_IO_IN) != 0;
}

static gboolean dispatch(GSource *source, GSourceFunc callback, gpointer userdata)
{
	OK(b1_peer_process(((struct peer_source *)source)->peer));
	return G_SOURCE_CONTINUE;
}

static gboolean too_late(gpointer userdata)
{
	FAIL("no end");
}

static void run_glib(b1_peer *const peers[2], const bool *stop)
{
	GSourceFuncs funcs = { .prepare = prepare, .check = check, .dispatch = dispatch };
	GMainContext *context = g_main_context_new();
	GSource *sources[2], *timer;
	int i;

	for (i = 0; i < 2; i++) {
		struct peer_source *s;

		sources[i] = g_source_new(&funcs, sizeof(struct peer_source));
		s = (struct peer_source *)sources[i];
		s->peer = peers[i];
		/* GIOCondition has poll()'s values. */
		s->tag = g_source_add_unix_fd(sources[i], b1_peer_get_fd(peers[i]),
					      (GIOCondition)b1_peer_get_events(peers[i]));
		g_source_attach(sources[i], context);
	}
	timer = g_timeout_source_new_seconds(30 * test_slow());
	g_source_set_callback(timer, too_late, NULL, NULL);
	g_source_attach(timer, context);
	while (!*stop)
		g_main_context_iteration(context, TRUE);
	g_source_destroy(timer);
	g_source_unref(timer);
	for (i = 0; i < 2; i++) {
		g_source_destroy(sources[i]);
		g_source_unref(sources[i]);
	}
	g_main_context_unref(context);
}

TEST("LIB-3 GLib")
{
	loop_test(run_glib);
}
