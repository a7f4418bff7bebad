// SPDX-License-Identifier: GPL-2.0-or-later
/* The library in libuv. */
#include <uv.h>

#include "lib.h"
#include "loop.h"

struct watched {
	b1_peer *peer;
	uv_poll_t poll;
	uv_prepare_t prepare;
	uv_timer_t timer;
};

static void on_poll(uv_poll_t *handle, int status, int events)
{
	EQ(status, 0);
	OK(b1_peer_process(((struct watched *)handle->data)->peer));
}

static void on_timer(uv_timer_t *handle)
{
	OK(b1_peer_process(((struct watched *)handle->data)->peer));
}

static void on_prepare(uv_prepare_t *handle)
{
	struct watched *w = handle->data;
	uint64_t deadline, now = test_now();

	OK(b1_peer_get_timeout(w->peer, &deadline));
	if (deadline == UINT64_MAX)
		uv_timer_stop(&w->timer);
	else
		uv_timer_start(&w->timer, on_timer, deadline > now ? (deadline - now + 999999) / 1000000 : 0, 0);
}

static void too_late(uv_timer_t *handle)
{
	FAIL("no end");
}

static void run_libuv(b1_peer *const peers[2], const bool *stop)
{
	struct watched watched[2] = { 0 };
	uv_timer_t limit;
	uv_loop_t loop;
	int i;

	EQ(uv_loop_init(&loop), 0);
	uv_timer_init(&loop, &limit);
	uv_timer_start(&limit, too_late, 30000ULL * test_slow(), 0);
	for (i = 0; i < 2; i++) {
		struct watched *w = &watched[i];

		w->peer = peers[i];
		w->poll.data = w->prepare.data = w->timer.data = w;
		EQ(uv_poll_init(&loop, &w->poll, b1_peer_get_fd(peers[i])), 0);
		EQ(uv_poll_start(&w->poll, UV_READABLE, on_poll), 0);
		EQ(uv_timer_init(&loop, &w->timer), 0);
		EQ(uv_prepare_init(&loop, &w->prepare), 0);
		EQ(uv_prepare_start(&w->prepare, on_prepare), 0);
	}
	while (!*stop)
		uv_run(&loop, UV_RUN_ONCE);
	for (i = 0; i < 2; i++) {
		uv_close((uv_handle_t *)&watched[i].poll, NULL);
		uv_close((uv_handle_t *)&watched[i].timer, NULL);
		uv_close((uv_handle_t *)&watched[i].prepare, NULL);
	}
	uv_close((uv_handle_t *)&limit, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	EQ(uv_loop_close(&loop), 0);
}

TEST("LIB-3 libuv")
{
	loop_test(run_libuv);
}
