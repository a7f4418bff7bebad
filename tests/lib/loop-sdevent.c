// SPDX-License-Identifier: GPL-2.0-or-later
/* The library in sd-event. */
#include <systemd/sd-event.h>

#include "lib.h"
#include "loop.h"

struct watched {
	b1_peer *peer;
	sd_event_source *io, *prepare, *timer;
};

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct watched *w = userdata;

	OK(b1_peer_process(w->peer));
	return 0;
}

static int on_time(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct watched *w = userdata;

	OK(b1_peer_process(w->peer));
	return 0;
}

/* Called before each wait: the time it may take. */
static int on_prepare(sd_event_source *source, void *userdata)
{
	struct watched *w = userdata;
	uint64_t deadline;

	OK(b1_peer_get_timeout(w->peer, &deadline));
	if (deadline == UINT64_MAX)
		return sd_event_source_set_enabled(w->timer, SD_EVENT_OFF);
	OK(sd_event_source_set_time(w->timer, deadline / 1000));
	return sd_event_source_set_enabled(w->timer, SD_EVENT_ONESHOT);
}

static int too_late(sd_event_source *source, uint64_t usec, void *userdata)
{
	FAIL("no end");
}

static void run_sdevent(b1_peer *const peers[2], const bool *stop)
{
	struct watched watched[2] = { 0 };
	sd_event_source *limit = NULL;
	sd_event *event = NULL;
	int i;

	OK(sd_event_new(&event));
	for (i = 0; i < 2; i++) {
		struct watched *w = &watched[i];

		w->peer = peers[i];
		OK(sd_event_add_time(event, &w->timer, CLOCK_MONOTONIC, 0, 1, on_time, w));
		OK(sd_event_source_set_enabled(w->timer, SD_EVENT_OFF));
		OK(sd_event_add_io(event, &w->io, b1_peer_get_fd(peers[i]),
				   (uint32_t)b1_peer_get_events(peers[i]), on_io, w));
		OK(sd_event_source_set_prepare(w->io, on_prepare));
	}
	OK(sd_event_add_time_relative(event, &limit, CLOCK_MONOTONIC, 30000000ULL * test_slow(), 0,
				      too_late, NULL));
	while (!*stop)
		OK(sd_event_run(event, UINT64_MAX));
	for (i = 0; i < 2; i++) {
		sd_event_source_unref(watched[i].io);
		sd_event_source_unref(watched[i].timer);
	}
	sd_event_source_unref(limit);
	sd_event_unref(event);
}

TEST("LIB-3 sd-event")
{
	loop_test(run_sdevent);
}
