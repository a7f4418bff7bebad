// SPDX-License-Identifier: GPL-2.0-or-later
/* The library in a loop of epoll's, level- and edge-triggered, and of its own. */
#include <sys/epoll.h>

#include "lib.h"
#include "loop.h"

static int timeout_ms(b1_peer *const peers[2], uint64_t end)
{
	uint64_t deadline, now = test_now();
	int i;

	for (i = 0; i < 2; i++) {
		OK(b1_peer_get_timeout(peers[i], &deadline));
		if (deadline < end)
			end = deadline;
	}
	return end > now ? (int)((end - now + 999999) / 1000000) : 0;
}

static void run_epoll(b1_peer *const peers[2], const bool *stop, uint32_t flags)
{
	int fd = (int)OK(SYS(epoll_create1(EPOLL_CLOEXEC))), i, n;
	uint64_t end = test_deadline(30);

	for (i = 0; i < 2; i++) {
		struct epoll_event event = { .events = (uint32_t)b1_peer_get_events(peers[i]) | flags,
					     .data = { .ptr = peers[i] } };

		OK(SYS(epoll_ctl(fd, EPOLL_CTL_ADD, b1_peer_get_fd(peers[i]), &event)));
	}
	while (!*stop) {
		struct epoll_event events[2];

		LT(test_now(), end);
		n = (int)OK(SYS(epoll_wait(fd, events, 2, timeout_ms(peers, end))));
		for (i = 0; i < n; i++)
			if (flags & EPOLLET)
				drain(events[i].data.ptr);
			else
				OK(b1_peer_process(events[i].data.ptr));
	}
}

static void run_level(b1_peer *const peers[2], const bool *stop)
{
	run_epoll(peers, stop, 0);
}

static void run_edge(b1_peer *const peers[2], const bool *stop)
{
	run_epoll(peers, stop, EPOLLET);
}

static void run_wait(b1_peer *const peers[2], const bool *stop)
{
	uint64_t end = test_deadline(30);

	while (!*stop) {
		LT(test_now(), end);
		if (!OK(b1_peer_process(peers[0])) && !OK(b1_peer_process(peers[1])))
			OK(b1_peer_wait(peers[0], test_now() + 1000000));
	}
}

TEST("LIB-3 MSG-12 epoll, level-triggered")
{
	loop_test(run_level);
}

TEST("LIB-3 MSG-12 epoll, edge-triggered")
{
	loop_test(run_edge);
}

TEST("LIB-3 MSG-11 the library's own wait")
{
	loop_test(run_wait);
}
