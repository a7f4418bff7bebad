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

TEST("RES-4 LIB-2 a send that waits for room ends when a signal handler ran, without effect")
{
	static char data[POOL_SIZE / 4];
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval timer = { .it_value = { 0, 20000 }, .it_interval = { 0, 20000 } };
	b1_outgoing out = { .data = data, .size = sizeof(data), .deadline = UINT64_MAX };
	unsigned int n = 0;
	struct pair p;
	int64_t r;

	pair_init(&p);
	while ((r = b1_send_bytes(p.to_box, data, sizeof(data), NULL)) >= 0)
		LE(++n, 4);
	ERR(r, EAGAIN);
	OK(SYS(sigaction(SIGALRM, &action, NULL)));
	OK(SYS(setitimer(ITIMER_REAL, &timer, NULL)));
	ERR(b1_send(p.to_box, &out), EINTR);
	out.deadline = test_deadline(30);
	ERR(b1_send(p.to_box, &out), EINTR);
	timer = (struct itimerval){ 0 };
	OK(SYS(setitimer(ITIMER_REAL, &timer, NULL)));
	EQ(drain(p.a), n);
	pair_deinit(&p);
}
