// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls as fake.c does not make them: between processes, interrupted, with all there is. */
#include "lib.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <unistd.h>

/*
 * A server in a process of its own. The first byte of a request says what it does
 * with it; it says by a descriptor how far it has got.
 */
struct server {
	b1_peer *peer;		/* of the client's */
	b1_handle *to;
	int told;		/* an eventfd */
	pid_t pid;
};

static int child_told;

static int child_cancelled(b1_message *request, void *userdata)
{
	CHECK(b1_message_is_cancelled(request));
	OK(SYS(eventfd_write(child_told, 100)));
	b1_message_unref(request);
	return 0;
}

static int child_handler(b1_node *node, b1_message *message, void *userdata)
{
	const char *what = b1_message_get_data(message, NULL);
	int fd;

	OK(SYS(eventfd_write(child_told, 1)));
	switch (what[0]) {
	case 'e': /* echo */
		OK(b1_message_reply(message, &(b1_outgoing){ .flags = B1_REPLY_LAST, .data = what, .size = 1 }));
		break;
	case 's': /* slowly */
		test_sleep_ms(200);
		OK(b1_message_reply_bytes(message, what, 1));
		break;
	case 'x':
		_exit(0);
	case 'k': /* keep, until it is cancelled */
		OK(b1_message_set_cancelled(b1_message_ref(message), child_cancelled, NULL));
		break;
	case 'f':
		fd = (int)OK(b1_message_take_fd(message, 0));
		EQ(b1_message_get_badge(message), 7);
		EQ(b1_message_get_creds(message)->pid, getppid());
		OK(b1_message_reply(message, &(b1_outgoing){ .flags = B1_SEND_TAKE_FDS, .data = what,
							     .size = 1, .fds = &fd, .n_fds = 1 }));
		ERR(SYS(fcntl(fd, F_GETFD)), EBADF);
		break;
	default:
		FAIL("what is %c?", what[0]);
	}
	return 0;
}

static void server_init(struct server *s, uint64_t badge)
{
	int fds[2], fd;

	s->told = (int)OK(SYS(eventfd(0, EFD_CLOEXEC)));
	/* The client's end is made by the server, which puts the handle there. */
	fd = (int)OK(SYS(open(B1_DEVICE, O_RDWR | O_CLOEXEC)));
	OK(SYS(pipe2(fds, O_CLOEXEC)));
	s->pid = test_fork();
	if (!s->pid) {
		b1_node *node = NULL, *facet = NULL;
		b1_peer *peer = new_peer();
		uint64_t id;

		child_told = s->told;
		OK(b1_peer_set_flags(peer, B1_PEER_FDS));
		OK(b1_node_new_flags(peer, &node, B1_NODE_CREDS | B1_NODE_NO_INHERIT, child_handler, NULL));
		if (badge)
			OK(b1_node_new_facet(node, &facet, badge, badge == 9 ? B1_FACET_ONCE : 0, NULL));
		OK(b1_handle_transfer_fd(b1_node_get_handle(facet ?: node), fd, &id));
		EQ(SYS(write(fds[1], &id, sizeof(id))), sizeof(id));
		close(fd);
		OK(b1_peer_run(peer, UINT64_MAX));
		_exit(0);
	}
	{
		uint64_t id;

		EQ(SYS(read(fds[0], &id, sizeof(id))), sizeof(id));
		OK(b1_peer_new_from_fd(&s->peer, fd, POOL_SIZE));
		OK(b1_handle_from_id(s->peer, &s->to, id));
		close(fds[0]);
		close(fds[1]);
	}
}

/* How far the server has got since the last time. */
static uint64_t told(struct server *s)
{
	eventfd_t v;

	OK(SYS(eventfd_read(s->told, &v)));
	return v;
}

static void server_deinit(struct server *s)
{
	if (s->pid)
		test_kill(s->pid);
	b1_handle_unref(s->to);
	drain(s->peer);
	HAS(s->peer, 0, 0, 0);
	EQ(info(s->peer).n_calls, 0);
	b1_peer_unref(s->peer);
	close(s->told);
}

static int64_t call(struct server *s, const char *what, const b1_call_options *o)
{
	b1_message *reply = NULL;
	int64_t r = b1_call(s->to, &(b1_outgoing){ .data = what, .size = 1 }, o, &reply);

	if (r >= 0)
		MEM(b1_message_get_data(reply, NULL), what, 1);
	b1_message_unref(reply);
	return r;
}

TEST("CALL-2 LIB-4 a server that dies ends the calls that it serves, and those that it does not yet")
{
	struct server s;
	int i;

	server_init(&s, 0);
	for (i = 0; i < 10; i++)
		OK(call(&s, "e", NULL));
	EQ(told(&s), 10);
	ERR(call(&s, "x", NULL), ECONNRESET);
	test_wait(s.pid);
	s.pid = 0;
	ERR(call(&s, "e", NULL), EHOSTUNREACH);
	server_deinit(&s);
}

static void once_run(void *arg)
{
	b1_handle *to = arg;
	b1_message *reply = NULL;

	OK(b1_call(to, &(b1_outgoing){ .data = "x", .size = 1 }, NULL, &reply));
	CHECK(b1_handle_is_dead(to));
	b1_message_unref(reply);
	ERR(b1_call(to, &(b1_outgoing){ .data = "x", .size = 1 }, NULL, &reply), EHOSTUNREACH);
}

static int never(b1_message *reply, int error, void *userdata)
{
	FAIL("error %d", error);
}

/* A new one to the box of p. */
static b1_handle *new_once(struct pair *p, b1_node **facetp)
{
	b1_handle *to = NULL;

	OK(b1_node_new_facet(p->box.node, facetp, 9, B1_FACET_ONCE, NULL));
	OK(b1_handle_transfer(b1_node_get_handle(*facetp), p->b, &to));
	return to;
}

TEST("CALL-2 OBJ-9 LIB-4 a one-shot handle carries one call")
{
	struct test_thread thread;
	b1_node *facets[2] = { NULL };
	b1_handle *to;
	b1_watch *watch;
	struct pair p;

	pair_init(&p);
	to = new_once(&p, &facets[0]);
	test_start(&thread, once_run, to);
	process_until(p.a, &p.box.n_messages, 1);
	EQ(b1_message_get_badge(p.box.last), 9);
	OK(b1_message_reply_bytes(p.box.last, "x", 1));
	test_join(&thread);
	b1_handle_unref(to);
	box_empty(&p.box);

	to = new_once(&p, &facets[1]);
	OK(b1_call_async(to, &(b1_outgoing){ 0 }, NULL, &watch, never, NULL));
	CHECK(b1_handle_is_dead(to));
	/* Nobody has seen it: the handle is used up all the same. */
	b1_watch_free(watch);
	EQ(p.box.n_messages, 1);
	ERR(b1_call(to, &(b1_outgoing){ 0 }, NULL, NULL), EHOSTUNREACH);
	b1_handle_unref(to);
	drain(p.a);
	EQ(p.box.n_messages, 1);
	b1_node_unref(facets[0]);
	b1_node_unref(facets[1]);
	pair_deinit(&p);
}

TEST("CALL-2 MSG-6 MSG-7 OBJ-6 LIB-4 what messages can bring requests and replies can, too")
{
	b1_message *reply = NULL;
	struct server s;
	struct b1_outgoing out = { .flags = B1_SEND_TAKE_FDS, .data = "f", .size = 1, .n_fds = 1 };
	int fd, got, i;
	eventfd_t v;

	server_init(&s, 7);
	for (i = 0; i < 2; i++) {
		fd = (int)OK(SYS(eventfd(5, EFD_CLOEXEC)));
		out.fds = &fd;
		if (i == 1)
			OK(b1_peer_set_flags(s.peer, B1_PEER_FDS));
		OK(b1_call(s.to, &out, &(b1_call_options){ .reply_fds = 1 }, &reply));
		ERR(SYS(fcntl(fd, F_GETFD)), EBADF);
		got = (int)OK(b1_message_take_fd(reply, 0));
		OK(SYS(eventfd_read(got, &v)));
		EQ(v, 5);
		close(got);
		reply = b1_message_unref(reply);
	}
	server_deinit(&s);
}

static unsigned int n_alarms;

static void on_alarm(int signal)
{
	n_alarms++;
}

static void set_alarm(int flags, unsigned int us, unsigned int interval)
{
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = flags };
	struct itimerval timer = { .it_value = { 0, us }, .it_interval = { 0, interval } };

	n_alarms = 0;
	OK(SYS(sigaction(SIGALRM, &action, NULL)));
	OK(SYS(setitimer(ITIMER_REAL, &timer, NULL)));
}

TEST("CALL-2 CALL-4 LIB-4 a signal handler ends a call, and the server is told, but for SA_RESTART")
{
	struct server s;

	server_init(&s, 0);
	set_alarm(SA_RESTART, 20000, 20000);
	OK(call(&s, "s", NULL));
	OK(call(&s, "s", &(b1_call_options){ .deadline = test_deadline(30) }));
	GT(n_alarms, 2);
	EQ(told(&s), 2);
	set_alarm(0, 100000, 100000);
	ERR(call(&s, "k", NULL), EINTR);
	while (told(&s) < 100)
		;
	ERR(call(&s, "k", &(b1_call_options){ .flags = B1_CALL_NESTED, .deadline = test_deadline(30) }),
	    EINTR);
	while (told(&s) < 100)
		;
	set_alarm(SA_RESTART, 0, 0);
	OK(call(&s, "e", NULL));
	server_deinit(&s);
}

TEST("CALL-2 LIB-3 a call waits, whatever O_NONBLOCK says")
{
	struct server s;

	server_init(&s, 0);
	OK(SYS(fcntl(b1_peer_get_fd(s.peer), F_SETFL, O_RDWR | O_NONBLOCK)));
	OK(call(&s, "s", NULL));
	OK(call(&s, "s", &(b1_call_options){ .flags = B1_CALL_NESTED }));
	server_deinit(&s);
}

/* The peer ends while a thread of the program waits for a reply. */
static void ends_run(void *arg)
{
	struct server *s = arg;

	ERR(call(s, "s", NULL), ESHUTDOWN);
}

TEST("OBJ-1 CALL-2 LIB-1 a call whose own peer ends has no reply")
{
	struct test_thread thread;
	struct server s;

	server_init(&s, 0);
	test_start(&thread, ends_run, &s);
	EQ(told(&s), 1);
	b1_peer_unref(s.peer);
	test_join(&thread);
	ERR(call(&s, "e", NULL), ESHUTDOWN);
	b1_handle_unref(s.to);
	test_kill(s.pid);
	close(s.told);
}

TEST("LIB-1 CALL-2 what a child process inherits of calls it can not use")
{
	b1_message *request;
	struct pair p;
	b1_watch *watch;
	pid_t pid;

	pair_init(&p);
	OK(b1_call_async(p.to_box, &(b1_outgoing){ .data = "x", .size = 1 }, NULL, &watch,
			 never, NULL));
	drain(p.a);
	request = p.box.last;
	CHECK(b1_message_is_call(request));
	pid = test_fork();
	if (!pid) {
		ERR(b1_call(p.to_box, &(b1_outgoing){ 0 }, NULL, NULL), ECHILD);
		ERR(b1_call_async(p.to_box, &(b1_outgoing){ 0 }, NULL, NULL, NULL, NULL), ECHILD);
		ERR(b1_message_reply_bytes(request, "x", 1), ECHILD);
		ERR(b1_message_drop(request), ECHILD);
		ERR(b1_message_set_cancelled(request, NULL, NULL), ECHILD);
		ERR(b1_message_read_lease(request, 0, 0, NULL, 0), ECHILD);
		ERR(b1_peer_run(p.a, 0), ECHILD);
		b1_watch_free(watch);
		b1_message_unref(request);
		_exit(0);
	}
	test_wait(pid);
	EQ(info(p.b).n_calls, 1);
	CHECK(!b1_message_is_cancelled(request));
	b1_watch_free(watch);
	EQ(drain(p.a), 1);
	CHECK(b1_message_is_cancelled(request));
	pair_deinit(&p);
}
