// SPDX-License-Identifier: GPL-2.0-or-later
/* Waiting that a signal interrupts. */
#include "lib.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>

static void on_alarm(int signal)
{
}

TEST("LIB-3 MSG-11 wait ends when a signal handler ran")
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval timer = { .it_value = { 0, 20000 }, .it_interval = { 0, 20000 } };
	b1_peer *peer = new_peer();

	OK(SYS(sigaction(SIGALRM, &action, NULL)));
	OK(SYS(setitimer(ITIMER_REAL, &timer, NULL)));
	ERR(b1_peer_wait(peer, UINT64_MAX), EINTR);
	ERR(b1_peer_wait(peer, test_deadline(30)), EINTR);
	OK(SYS(fcntl(b1_peer_get_fd(peer), F_SETFL, O_RDWR | O_NONBLOCK)));
	ERR(b1_peer_wait(peer, UINT64_MAX), EINTR);
	b1_peer_unref(peer);
}
