// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * CALL-2, CALL-4, CALL-5: callers and servers that are frozen by their cgroup, held by a debugger,
 * or stopped. It is as if time had stood still for them: they find what has come meanwhile, go on
 * waiting for what has not, and no command fails.
 */
#include "call.h"
#include "idle.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CGROUP "/sys/fs/cgroup/bus1-freeze"

enum { LARGE = 10000 };

enum way { FROZEN, TRACED, STOPPED };

static enum way way;

/* Whether the cgroup's events have this line. */
static bool has_event(const char *line)
{
	char text[200], *end;
	int fd = (int)OK(SYS(open(CGROUP "/cgroup.events", O_RDONLY | O_CLOEXEC)));
	ssize_t n = OK(SYS(read(fd, text, sizeof(text) - 1)));

	close(fd);
	text[n] = 0;
	end = strstr(text, line);
	return end && end[strlen(line)] == '\n';
}

static void await_event(const char *line)
{
	uint64_t end = test_deadline(30);

	while (!has_event(line)) {
		if (test_now() > end)
			FAIL("the cgroup is not \"%s\"", line);
		test_sleep_ms(1);
	}
}

/* A debugger leaves each second time, and lets it run the others. */
static struct {
	bool is_there;
	u32 n;
} tracer;

static void stopped(pid_t pid)
{
	int status;

	EQ(waitpid(pid, &status, WUNTRACED), pid);
	CHECK(WIFSTOPPED(status));
}

static void stop(pid_t pid)
{
	switch (way) {
	case FROZEN:
		OK(write_file(CGROUP "/cgroup.freeze", "1"));
		await_event("frozen 1");
		break;
	case TRACED:
		if (tracer.is_there)
			OK(SYS(kill(pid, SIGSTOP)));
		else
			OK(SYS(ptrace(PTRACE_ATTACH, pid, NULL, NULL)));
		tracer.is_there = true;
		stopped(pid);
		break;
	default:
		OK(SYS(kill(pid, SIGSTOP)));
		stopped(pid);
	}
}

static void go_on(pid_t pid)
{
	switch (way) {
	case FROZEN:
		OK(write_file(CGROUP "/cgroup.freeze", "0"));
		await_event("frozen 0");
		break;
	case TRACED:
		tracer.is_there = tracer.n++ & 1;
		OK(SYS(ptrace(tracer.is_there ? PTRACE_CONT : PTRACE_DETACH, pid, NULL, NULL)));
		break;
	default:
		OK(SYS(kill(pid, SIGCONT)));
	}
}

static void cgroup_end(void)
{
	uint64_t end = test_deadline(20);

	while (rmdir(CGROUP) && errno != ENOENT) {
		if (test_now() > end)
			FAIL(CGROUP ": %s", strerrorname_np(errno));
		test_sleep_ms(5);
	}
}

static void way_begin(enum way w)
{
	way = w;
	if (way != FROZEN)
		return;
	if (geteuid())
		SKIP("only for root");
	/* Of a test that failed; what was in it was killed. */
	cgroup_end();
	if (mkdir(CGROUP, 0755))
		SKIP("cgroups: %s", strerrorname_np(errno));
	if (access(CGROUP "/cgroup.freeze", W_OK))
		SKIP("there is no freezer");
}

static void way_end(void)
{
	if (way == FROZEN)
		cgroup_end();
}

/* A child, which sleeps in its first command when this returns. */
static pid_t child_new(void (*run)(struct pair *w, int how), struct pair *w, int how)
{
	pid_t pid = test_fork();

	if (!pid) {
		if (way == FROZEN)
			OK(write_file(CGROUP "/cgroup.procs", "0"));
		run(w, how);
		_exit(0);
	}
	if (way == FROZEN)
		await_event("populated 1");
	tracer.is_there = false;
	test_asleep(pid, pid);
	return pid;
}

static void do_call(struct pair *w, int how)
{
	struct call c;

	call_init_str(&c, &w->a, w->to_b, "from the cold");
	c.cmd.reply_size = how & 1 ? LARGE : 0;
	OK(call_make(&c));
	EQ(c.in.m.type, BUS1_MSG_REPLY);
	EQ(c.in.m.len, how & 1 ? LARGE : 5);
	EQ(c.cmd.id, 0);
	if (c.in.m.slice)
		OK(slice_release(&w->a, c.in.m.slice));
}

static void reply_to(struct pair *w, u64 token, int how)
{
	static const u8 data[LARGE];

	OK(answer(&w->b, token, data, how & 1 ? LARGE : 5));
}

static void stop_callers(enum way how_to)
{
	struct pair w = pair_new();

	way_begin(how_to);
	/* While the request is queued, while it is served, and as the reply comes. */
	for (int how = 0; how < 6; how++) {
		int point = how / 2;
		pid_t pid = child_new(do_call, &w, how);
		u64 token = 0;

		if (point)
			token = GOT_CALL(&w.b, w.nb, "from the cold");
		for (int i = 0; i < 2; i++) {
			stop(pid);
			/* It is there all the same, and once. */
			EQ(peer_info(&w.b).n_queued, !point);
			EQ(peer_info(&w.b).n_calls, !!point);
			go_on(pid);
			test_asleep(pid, pid);
		}
		if (!token)
			token = GOT_CALL(&w.b, w.nb, "from the cold");
		NOTHING(&w.b);
		if (point == 2) {
			stop(pid);
			reply_to(&w, token, how);
			EQ(waitpid(pid, &(int){0}, WNOHANG), 0);
			CHECK(way != FROZEN || has_event("frozen 1"));
			go_on(pid);
		} else {
			reply_to(&w, token, how);
		}
		test_wait(pid);
		pair_idle(&w);
	}
	pair_close(&w);
	way_end();
}

static u64 soon;

static void call_until(struct pair *w, int how)
{
	struct call c;

	call_init_str(&c, &w->a, w->to_b, "in time");
	c.cmd.recv.deadline = soon;
	ERR(call_make(&c), ETIMEDOUT);
}

static void stop_past_deadline(enum way how_to)
{
	struct pair w = pair_new();

	way_begin(how_to);
	/* In memory of the child's by the time it begins. */
	soon = test_now() + 600000000ULL * (1 + test_slow());
	pid_t pid = child_new(call_until, &w, 0);
	u64 token = GOT_CALL(&w.b, w.nb, "in time");

	stop(pid);
	while (test_now() < soon)
		test_sleep_ms(5);
	NOTHING(&w.b);
	go_on(pid);
	test_wait(pid);
	GOT_CANCELLED(&w.b, token);
	ERR(answer_str(&w.b, token, "late"), ECANCELED);
	pair_close(&w);
	way_end();
}

/* What the server is told when the caller's peer has ended. */
static void told_of_end(struct pair *w, u64 token)
{
	struct in in;
	u32 cancelled = 0;

	/* The handle to the node is gone as well, in whichever order. */
	OK(recv_wait(&w->b, &in));
	do {
		NE(in.m.type, BUS1_MSG_CALL);
		cancelled += in.m.type == BUS1_MSG_CANCELLED && in.m.id == token;
	} while (!recv_now(&w->b, &in));
	EQ(cancelled, !!token);
	if (token)
		ERR(answer_str(&w->b, token, "late"), ECANCELED);
	peer_idle(&w->b);
}

static void stop_and_kill(enum way how_to)
{
	way_begin(how_to);
	for (int how = 0; how < 4; how++) {
		bool taken = how & 1, shared = how & 2;
		struct pair w = pair_new();
		pid_t pid = child_new(do_call, &w, 0);
		u64 token = taken ? GOT_CALL(&w.b, w.nb, "from the cold") : 0;

		if (!shared)
			peer_close(&w.a);
		stop(pid);
		test_kill(pid);
		if (way == FROZEN)
			go_on(pid);
		if (shared) {
			/* Nobody waited for it, and somebody may yet: it is the peer's. */
			EQ(peer_info(&w.b).n_queued, !taken);
			EQ(peer_info(&w.b).n_calls, taken);
			EQ(peer_info(&w.a).n_calls, 1);
			peer_close(&w.a);
		}
		told_of_end(&w, token);
		peer_close(&w.b);
	}
	way_end();
}

/* How a server waits: in a receive, in a reply with nothing to answer, in one that has answered. */
enum { IN_RECV, IN_REPLY, AFTER_REPLY, N_WAITS };

static void do_serve(struct pair *w, int how)
{
	struct in in;
	u64 token;

	if (how == IN_RECV) {
		token = await_call(&w->b, &in);
	} else {
		if (how == AFTER_REPLY)
			token = await_call(&w->b, &in);
		else
			token = 0;
		OK(answer_next(&w->b, token, token ? "first" : NULL, token ? 5 : 0, 0, &in));
		EQ(in.m.type, BUS1_MSG_CALL);
		token = in.m.token;
	}
	OK(answer_str(&w->b, token, "served"));
}

static void stop_servers(enum way how_to)
{
	struct pair w = pair_new();

	way_begin(how_to);
	for (int how = 0; how < 2 * N_WAITS; how++) {
		bool comes_then = how & 1;
		pid_t pid = child_new(do_serve, &w, how / 2);
		struct call c;

		if (how / 2 == AFTER_REPLY) {
			call_init_str(&c, &w.a, w.to_b, "one");
			OK(call_make(&c));
			REPLIED(&c, "first");
			test_asleep(pid, pid);
		}
		for (int i = 0; i < 2; i++) {
			stop(pid);
			go_on(pid);
		}
		if (comes_then) {
			stop(pid);
			call_start_str(&c, &w.a, w.to_b, "two");
			/* Nobody waits for it now. */
			EQ(peer_info(&w.b).n_queued, 1);
			CHECK(way != FROZEN || has_event("frozen 1"));
			CHECK(!call_is_done(&c));
			go_on(pid);
			call_join(&c);
		} else {
			call_init_str(&c, &w.a, w.to_b, "two");
			call_make(&c);
		}
		REPLIED(&c, "served");
		test_wait(pid);
		pair_idle(&w);
	}
	pair_close(&w);
	way_end();
}

/* A caller that serves calls back, two of them. */
static void do_nest(struct pair *w, int how)
{
	struct bus1_cmd_reply cmd;
	struct call c;

	call_init_str(&c, &w->a, w->to_b, "outer");
	c.cmd.flags = BUS1_CALL_NESTED;
	OK(call_make(&c));
	for (int i = 0; i < 2; i++) {
		EQ(c.in.m.type, BUS1_MSG_CALL);
		MEM(c.in.data, "back", 4);
		cmd = (struct bus1_cmd_reply){
			.send = { .dest = c.in.m.token, .data = PTR("done"), .len = 4 },
			.id = c.cmd.id, .recv = recv_into(&c.in, 0, 0) };
		OK(reply_cmd(&w->a, &cmd));
		recv_found(&w->a, &c.in, &cmd.recv);
	}
	EQ(c.in.m.type, BUS1_MSG_REPLY);
	MEM(c.in.data, "outer", 5);
	EQ(cmd.id, 0);
}

static void stop_nested(enum way how_to)
{
	struct pair w = pair_new();
	u64 na = node_new(&w.a, 1), to_a = grant(&w.a, na, &w.b);

	way_begin(how_to);
	for (int how = 0; how < 2; how++) {
		pid_t pid = child_new(do_nest, &w, 0);
		u64 token = GOT_CALL(&w.b, w.nb, "outer");

		for (int i = 0; i < 2; i++) {
			struct call back;

			call_init_str(&back, &w.b, to_a, "back");
			back.cmd.parent = token;
			test_asleep(pid, pid);
			stop(pid);
			if (how) {
				call_start(&back);
				EQ(peer_info(&w.a).n_queued, 1);
				go_on(pid);
				call_join(&back);
			} else {
				go_on(pid);
				call_make(&back);
			}
			REPLIED(&back, "done");
		}
		/* The outer reply, too. */
		test_asleep(pid, pid);
		stop(pid);
		if (!how)
			go_on(pid);
		OK(answer_str(&w.b, token, "outer"));
		if (how)
			go_on(pid);
		test_wait(pid);
		pair_idle(&w);
	}
	pair_close(&w);
	way_end();
}

static void call_with_room(struct pair *w, int how)
{
	struct call c;

	call_init_str(&c, &w->a, w->to_b, "there is room");
	c.cmd.send.flags = BUS1_SEND_WAIT;
	OK(call_make(&c));
	REPLIED(&c, "good");
}

static void stop_without_room(enum way how_to)
{
	struct pair w = pair_new();

	way_begin(how_to);
	for (int how = 0; how < 2; how++) {
		u32 n = fill_queue(&w.a, w.to_b);
		pid_t pid = child_new(call_with_room, &w, 0);
		struct in in;

		for (int i = 0; i < 2; i++) {
			stop(pid);
			EQ(peer_info(&w.b).n_queued, n);
			/* Or there is room while it is stopped. */
			if (how && i)
				EQ(drain(&w.b), n);
			go_on(pid);
		}
		do
			OK(recv_wait(&w.b, &in));
		while (in.m.type != BUS1_MSG_CALL);
		MEM(in.data, "there is room", 13);
		OK(answer_str(&w.b, in.m.token, "good"));
		test_wait(pid);
		pair_idle(&w);
	}
	pair_close(&w);
	way_end();
}

static void serve_one(void *arg)
{
	struct server *s = arg;
	struct in in;

	OK(answer_str(s->p, await_call(s->p, &in), "awake"));
}

TEST("CALL-4 the system is put to sleep and wakes, and who waits goes on")
{
	struct pair w, v;
	struct call served, room;
	struct server s = {};
	long slept[2];
	u64 token;
	u32 n;

	/* As if: threads are frozen for some seconds, and nothing else is done. */
	if (geteuid() || write_file("/sys/power/pm_test", "freezer"))
		SKIP("no test of the freezer");
	w = pair_new();
	v = pair_new();
	call_start_str(&served, &w.a, w.to_b, "served");
	token = GOT_CALL(&w.b, w.nb, "served");
	s.p = &w.b;
	test_start(&s.thread, serve_one, &s);
	test_asleep(getpid(), s.thread.tid);
	n = fill_queue(&v.a, v.to_b);
	call_init_str(&room, &v.a, v.to_b, "there is room");
	room.cmd.send.flags = BUS1_SEND_WAIT;
	call_start(&room);
	slept[0] = times_slept(served.thread.tid);
	slept[1] = times_slept(s.thread.tid);
	int r = write_file("/sys/power/state", "freeze");
	OK(write_file("/sys/power/pm_test", "none"));
	if (r == -EBUSY)
		SKIP("the system does not sleep now");
	OK(r);
	/* These are not even woken for that. */
	EQ(times_slept(served.thread.tid), slept[0]);
	EQ(times_slept(s.thread.tid), slept[1]);
	OK(answer_str(&w.b, token, "in the morning"));
	call_join(&served);
	REPLIED(&served, "in the morning");
	call_init_str(&served, &w.a, w.to_b, "another");
	OK(call_make(&served));
	REPLIED(&served, "awake");
	test_join(&s.thread);
	for (struct in in;;) {
		OK(recv_wait(&v.b, &in));
		if (in.m.type == BUS1_MSG_CALL) {
			OK(answer_str(&v.b, in.m.token, "good"));
			break;
		}
		GT(n--, 0);
	}
	call_join(&room);
	REPLIED(&room, "good");
	EQ(n, 0);
	pair_close(&w);
	pair_close(&v);
}

TEST("CALL-4 a caller that is frozen and thawed gets its reply, at every point")
{
	stop_callers(FROZEN);
}

TEST("CALL-4 the deadline of a caller that is frozen and thawed passes, and it leaves as it goes on")
{
	stop_past_deadline(FROZEN);
}

TEST("CALL-4 a caller that is frozen and thawed can be killed, and its server is told")
{
	stop_and_kill(FROZEN);
}

TEST("CALL-2 a server that is frozen and thawed while it waits serves what has come")
{
	stop_servers(FROZEN);
}

TEST("CALL-5 a caller that is frozen and thawed while it serves and waits serves on")
{
	stop_nested(FROZEN);
}

TEST("CALL-4 a caller that is frozen and thawed while it waits for room calls when there is some")
{
	stop_without_room(FROZEN);
}

TEST("CALL-4 a caller that is held by a debugger gets its reply, at every point")
{
	stop_callers(TRACED);
}

TEST("CALL-4 the deadline of a caller that is held by a debugger passes, and it leaves as it goes on")
{
	stop_past_deadline(TRACED);
}

TEST("CALL-4 a caller that is held by a debugger can be killed, and its server is told")
{
	stop_and_kill(TRACED);
}

TEST("CALL-2 a server that is held by a debugger while it waits serves what has come")
{
	stop_servers(TRACED);
}

TEST("CALL-5 a caller that is held by a debugger while it serves and waits serves on")
{
	stop_nested(TRACED);
}

TEST("CALL-4 a caller that is held by a debugger while it waits for room calls when there is some")
{
	stop_without_room(TRACED);
}

TEST("CALL-4 a caller that is stopped gets its reply, at every point")
{
	stop_callers(STOPPED);
}

TEST("CALL-4 the deadline of a caller that is stopped passes, and it leaves as it goes on")
{
	stop_past_deadline(STOPPED);
}

TEST("CALL-4 a caller that is stopped can be killed, and its server is told")
{
	stop_and_kill(STOPPED);
}

TEST("CALL-2 a server that is stopped while it waits serves what has come")
{
	stop_servers(STOPPED);
}

TEST("CALL-5 a caller that is stopped while it serves and waits serves on")
{
	stop_nested(STOPPED);
}

TEST("CALL-4 a caller that is stopped while it waits for room calls when there is some")
{
	stop_without_room(STOPPED);
}
