// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-2, CALL-4: signals, debuggers and death of who has called. */
#include "call.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LARGE = 10000 };

static void shoot(struct call *c, int sig)
{
	EQ(pthread_kill(c->thread.thread, sig), 0);
}

TEST("CALL-4 a signal ends a call, and the server is told if it has the request")
{
	struct pair w = pair_new();
	struct call c;
	u64 token;

	catch_signal(SIGUSR1, 0);
	for (int i = 0; i < 4; i++) {
		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.reply_size = i & 1 ? LARGE : 0;
		c.cmd.recv.deadline = i & 2 ? test_deadline(100) : 0;
		call_start(&c);
		shoot(&c, SIGUSR1);
		ERR(call_join(&c), EINTR);
		EQ(c.cmd.id, 0);
		EQ(peer_info(&w.b).n_queued, 0);
		pair_idle(&w);

		call_start(&c);
		token = GOT_CALL(&w.b, w.nb, "x");
		shoot(&c, SIGUSR1);
		ERR(call_join(&c), EINTR);
		EQ(c.cmd.id, 0);
		GOT_CANCELLED(&w.b, token);
		ERR(answer_str(&w.b, token, "late"), ECANCELED);
		pair_idle(&w);

		/* The same command, given again, is another call. */
		call_start(&c);
		OK(answer_str(&w.b, GOT_CALL(&w.b, w.nb, "x"), "y"));
		call_join(&c);
		REPLIED(&c, "y");
	}
	pair_close(&w);
}

TEST("CALL-2 under SA_RESTART a call goes on, and its request was sent once")
{
	struct pair w = pair_new();
	struct call c;
	u64 token;

	catch_signal(SIGUSR1, SA_RESTART);
	for (int large = 0; large < 2; large++) {
		u8 data[LARGE] = {};

		call_init_str(&c, &w.a, w.to_b, "once");
		c.cmd.reply_size = large ? LARGE : 0;
		call_start(&c);
		for (int i = 0; i < 5; i++) {
			shoot(&c, SIGUSR1);
			test_sleep_ms(5);
			test_asleep(getpid(), c.thread.tid);
		}
		EQ(peer_info(&w.b).n_queued, 1);
		token = GOT_CALL(&w.b, w.nb, "once");
		for (int i = 0; i < 5; i++) {
			shoot(&c, SIGUSR1);
			test_sleep_ms(5);
			test_asleep(getpid(), c.thread.tid);
		}
		NOTHING(&w.b);
		CHECK(!call_is_done(&c));
		/* It is known by an id, and its thread's, since that waits. */
		NE(c.cmd.id, 0);
		EQ(peer_info(&w.a).n_calls, 1);
		ERR(call_cancel(&w.a, c.cmd.id), ENXIO);
		OK(answer(&w.b, token, data, large ? LARGE : 3));
		OK(call_join(&c));
		EQ(c.in.m.type, BUS1_MSG_REPLY);
		EQ(c.in.m.len, large ? LARGE : 3);
		if (large)
			OK(slice_release(&w.a, c.in.m.slice));
		pair_idle(&w);
	}
	pair_close(&w);
}

TEST_LONG("CALL-4 a call that was repeated ends by its deadline, and by another signal", 60)
{
	struct pair w = pair_new();
	struct call c;
	u64 token, soon = test_now() + 600000000ULL * test_slow();

	catch_signal(SIGUSR1, SA_RESTART);
	catch_signal(SIGUSR2, 0);
	call_init_str(&c, &w.a, w.to_b, "x");
	c.cmd.recv.deadline = soon;
	call_start(&c);
	token = GOT_CALL(&w.b, w.nb, "x");
	for (int i = 0; i < 10 && !call_is_done(&c); i++) {
		shoot(&c, SIGUSR1);
		test_sleep_ms(3);
	}
	ERR(call_join(&c), ETIMEDOUT);
	GE(test_now(), soon);
	GOT_CANCELLED(&w.b, token);
	ERR(answer_str(&w.b, token, "x"), ECANCELED);

	call_start_str(&c, &w.a, w.to_b, "y");
	token = GOT_CALL(&w.b, w.nb, "y");
	for (int i = 0; i < 3; i++) {
		shoot(&c, SIGUSR1);
		test_sleep_ms(3);
		test_asleep(getpid(), c.thread.tid);
	}
	shoot(&c, SIGUSR2);
	ERR(call_join(&c), EINTR);
	EQ(c.cmd.id, 0);
	GOT_CANCELLED(&w.b, token);
	ERR(answer_str(&w.b, token, "x"), ECANCELED);
	pair_close(&w);
}

TEST_LONG("CALL-2 a call ends in all its ways while its thread is in a handler", 60)
{
	u8 data[LARGE] = {};

	for (int how = 0; how < 12; how++) {
		struct pair w = pair_new();
		bool large = how & 1;
		struct call c;
		u64 token;

		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.reply_size = large ? LARGE : 0;
		if (how / 2 == 3)
			c.cmd.recv.deadline = test_now() + 400000000ULL * test_slow();
		call_start(&c);
		token = GOT_CALL(&w.b, w.nb, "x");
		linger_start(c.thread.thread);
		EQ(peer_info(&w.a).n_calls, 1);
		NE(c.cmd.id, 0);
		switch (how / 2) {
		case 0:
			OK(answer(&w.b, token, data, large ? LARGE : 10));
			NOTHING(&w.a);
			linger_end();
			OK(call_join(&c));
			EQ(c.in.m.type, BUS1_MSG_REPLY);
			EQ(c.in.m.len, large ? LARGE : 10);
			if (large)
				OK(slice_release(&w.a, c.in.m.slice));
			break;
		case 1:
			OK(answer_drop(&w.b, token));
			NOTHING(&w.a);
			linger_end();
			ERR(call_join(&c), ECONNABORTED);
			break;
		case 2:
			peer_close(&w.b);
			GOT_DEAD(&w.a, w.to_b);
			linger_end();
			ERR(call_join(&c), ECONNRESET);
			break;
		case 3:
			while (test_now() < c.cmd.recv.deadline)
				test_sleep_ms(1);
			linger_end();
			ERR(call_join(&c), ETIMEDOUT);
			GOT_CANCELLED(&w.b, token);
			ERR(answer_str(&w.b, token, "x"), ECANCELED);
			break;
		case 4:
			/* Nobody waits for it: another thread may cancel it. */
			OK(call_cancel(&w.a, c.cmd.id));
			GOT_CANCELLED(&w.b, token);
			linger_end();
			ERR(call_join(&c), ENXIO);
			ERR(answer_str(&w.b, token, "x"), ECANCELED);
			break;
		default: {
			/* Or wait for it: then it is that one's. */
			struct call d = { .p = &w.a };

			call_init(&d, &w.a, 0, NULL, 0);
			d.cmd.id = c.cmd.id;
			call_start(&d);
			linger_end();
			ERR(call_join(&c), ENXIO);
			OK(answer_str(&w.b, token, "to the other"));
			call_join(&d);
			REPLIED(&d, "to the other");
			break;
		}
		}
		EQ(peer_info(&w.a).n_calls, 0);
		EQ(peer_info(&w.a).pool_used, 0);
		if (how / 2 != 2)
			pair_idle(&w);
		if (how / 2 != 2)
			peer_close(&w.b);
		peer_close(&w.a);
	}
}

static sigjmp_buf out;

static void jump(int sig)
{
	siglongjmp(out, 1);
}

struct jumper {
	struct call c;
	int step;			/* atomic */
};

static void call_and_jump(void *arg)
{
	struct jumper *j = arg;

	if (!sigsetjmp(out, 1)) {
		call_make(&j->c);
		FAIL("the call has returned");
	}
	__atomic_store_n(&j->step, 1, __ATOMIC_RELEASE);
	while (__atomic_load_n(&j->step, __ATOMIC_ACQUIRE) != 2)
		sched_yield();
	/* What is left of it is its id. */
	NE(j->c.cmd.id, 0);
	call_make(&j->c);
}

TEST("CALL-2 a call that a handler jumped out of is still there")
{
	struct sigaction sa = { .sa_handler = jump, .sa_flags = SA_RESTART };
	struct pair w = pair_new();
	static struct jumper j;
	u64 token;

	OK(SYS(sigaction(SIGUSR1, &sa, NULL)));
	call_init_str(&j.c, &w.a, w.to_b, "x");
	test_start(&j.c.thread, call_and_jump, &j);
	test_asleep(getpid(), j.c.thread.tid);
	token = GOT_CALL(&w.b, w.nb, "x");
	shoot(&j.c, SIGUSR1);
	while (__atomic_load_n(&j.step, __ATOMIC_ACQUIRE) != 1)
		sched_yield();
	EQ(peer_info(&w.a).n_calls, 1);
	__atomic_store_n(&j.step, 2, __ATOMIC_RELEASE);
	test_asleep(getpid(), j.c.thread.tid);
	NOTHING(&w.b);
	OK(answer_str(&w.b, token, "y"));
	call_join(&j.c);
	REPLIED(&j.c, "y");
	pair_close(&w);
}

/* A process that calls; its parent keeps the peer, so that what is left there is seen. */
static pid_t call_in_child(struct pair *w, size_t reply_size)
{
	pid_t pid = test_fork();

	if (!pid) {
		struct call c;

		call_init_str(&c, &w->a, w->to_b, "from a child");
		c.cmd.reply_size = reply_size;
		OK(call_make(&c));
		REPLIED(&c, "reply");
		_exit(0);
	}
	test_asleep(pid, pid);
	return pid;
}

TEST("CALL-4 SIGKILL frees the caller at once, whoever serves it")
{
	struct pair w = pair_new();

	for (int i = 0; i < 6; i++) {
		bool taken = i & 1;
		size_t size = i / 2 == 0 ? 0 : i / 2 == 1 ? LARGE : 300000;
		u8 data[LARGE] = {};
		u64 token = 0, start;
		pid_t pid = call_in_child(&w, size);

		if (taken)
			token = GOT_CALL(&w.b, w.nb, "from a child");
		start = test_now();
		test_kill(pid);
		LT(test_now() - start, 2000000000ULL * test_slow());
		if (taken) {
			struct in in;

			OK(recv_wait(&w.b, &in));
			EQ(in.m.type, BUS1_MSG_CANCELLED);
			EQ(in.m.id, token);
			ERR(answer(&w.b, token, data, size ? LARGE : 10), ECANCELED);
		}
		pair_idle(&w);
	}
	pair_close(&w);
}

TEST("CALL-4 a caller that is killed with its peer, and what the server has of it")
{
	struct peer b = peer_new(1 << 20);
	u64 nb = node_new(&b, 1);

	for (int taken = 0; taken < 2; taken++) {
		struct peer a = peer_new(1 << 20);
		u64 to_b = grant(&b, nb, &a), token = 0;
		struct pair w = { .a = a, .b = b, .nb = nb, .to_b = to_b };
		pid_t pid = call_in_child(&w, LARGE);
		struct in in;
		u32 cancelled = 0;

		peer_close(&a);
		if (taken)
			token = GOT_CALL(&b, nb, "from a child");
		test_kill(pid);
		/* Its handle is gone as well. */
		OK(recv_wait(&b, &in));
		do {
			NE(in.m.type, BUS1_MSG_CALL);
			cancelled += in.m.type == BUS1_MSG_CANCELLED && in.m.id == token;
		} while (!recv_now(&b, &in));
		EQ(cancelled, taken);
		if (taken)
			ERR(answer_str(&b, token, "x"), ECANCELED);
		EQ(peer_info(&b).n_calls, 0);
	}
	peer_close(&b);
}

TEST("CALL-4 a caller that is stopped and goes on still waits")
{
	struct pair w = pair_new();

	for (int when = 0; when < 2; when++) {
		pid_t pid = call_in_child(&w, 0);
		u64 token = GOT_CALL(&w.b, w.nb, "from a child");

		for (int i = 0; i < 3; i++) {
			OK(SYS(kill(pid, SIGSTOP)));
			EQ(waitpid(pid, &(int){0}, WUNTRACED), pid);
			OK(SYS(kill(pid, SIGCONT)));
			test_asleep(pid, pid);
		}
		NOTHING(&w.b);
		if (when) {
			/* The reply comes while it is stopped. */
			OK(SYS(kill(pid, SIGSTOP)));
			EQ(waitpid(pid, &(int){0}, WUNTRACED), pid);
			OK(answer_str(&w.b, token, "reply"));
			OK(SYS(kill(pid, SIGCONT)));
		} else {
			OK(answer_str(&w.b, token, "reply"));
		}
		test_wait(pid);
		pair_idle(&w);
	}
	pair_close(&w);
}

TEST("CALL-4 a debugger comes and goes, and the call goes on")
{
	struct pair w = pair_new();

	for (int when = 0; when < 3; when++) {
		pid_t pid = call_in_child(&w, 0);
		u64 token = GOT_CALL(&w.b, w.nb, "from a child");
		int status;

		for (int i = 0; i < 3; i++) {
			OK(SYS(ptrace(PTRACE_ATTACH, pid, NULL, NULL)));
			EQ(waitpid(pid, &status, 0), pid);
			CHECK(WIFSTOPPED(status));
			if (when == 1 && i == 2)
				OK(answer_str(&w.b, token, "reply"));
			OK(SYS(ptrace(PTRACE_DETACH, pid, NULL, NULL)));
			if (when != 1 || i != 2)
				test_asleep(pid, pid);
		}
		if (when == 2) {
			/* One that looks without stopping, and interrupts. */
			OK(SYS(ptrace(PTRACE_SEIZE, pid, NULL, NULL)));
			OK(SYS(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL)));
			EQ(waitpid(pid, &status, 0), pid);
			OK(SYS(ptrace(PTRACE_CONT, pid, NULL, NULL)));
			test_asleep(pid, pid);
			OK(SYS(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL)));
			EQ(waitpid(pid, &status, 0), pid);
			OK(SYS(ptrace(PTRACE_DETACH, pid, NULL, NULL)));
		}
		NOTHING(&w.b);
		if (when != 1)
			OK(answer_str(&w.b, token, "reply"));
		test_wait(pid);
		pair_idle(&w);
	}
	pair_close(&w);
}

/* Threads that wait in calls, in a process that ends in some way. */
enum { CALLERS = 4 };

static void wait_for_ever(void *arg)
{
	call_make(arg);
	FAIL("a call that nobody answers has returned");
}

static _Noreturn void end_with_callers(struct pair *w, int how)
{
	static struct call c[CALLERS];

	for (int i = 0; i < CALLERS; i++) {
		call_init_str(&c[i], &w->a, w->to_b, "waiting");
		c[i].cmd.reply_size = i & 1 ? LARGE : 0;
		test_start(&c[i].thread, wait_for_ever, &c[i]);
		test_asleep(getpid(), c[i].thread.tid);
	}
	/* The server takes half of them. */
	while (peer_info(&w->b).n_queued != CALLERS / 2)
		test_sleep_ms(1);
	switch (how) {
	case 0:
		_exit(0);
	case 1:
		/* This very program, which does nothing but to write what nobody reads. */
		close(STDOUT_FILENO);
		execl("/proc/self/exe", "calls", "--list", NULL);
		FAIL("exec: %s", strerrorname_np(errno));
	case 2:
		abort();
	default:
		raise(SIGKILL);
		_exit(1);
	}
}

/*
 * Dumps are written to a directory of their own. False where the kernel has none, or gives them to
 * a program: then the processes end the same way, without one.
 */
static char dump_dir[] = "/tmp/bus1-core-XXXXXX";

static bool dumps_begin(void)
{
	struct rlimit core = { 1 << 20, 1 << 20 };
	int fd = open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC);
	char first = '|';

	CHECK(mkdtemp(dump_dir));
	OK(SYS(chdir(dump_dir)));
	if (fd < 0)
		return false;
	EQ(read(fd, &first, 1), 1);
	close(fd);
	return !setrlimit(RLIMIT_CORE, &core) && first != '|';
}

static void dumps_end(void)
{
	char cmd[100];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dump_dir);
	OK(SYS(chdir("/")));
	EQ(system(cmd), 0);
}

static void await_abort(pid_t pid, bool dumps)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		EQ(errno, EINTR);
	CHECK(WIFSIGNALED(status));
	EQ(WTERMSIG(status), SIGABRT);
	EQ(!!WCOREDUMP(status), dumps);
}

TEST("CALL-4 a process ends, executes another program, or dumps core, with threads in calls")
{
	struct pair w = pair_new();
	bool dumps = dumps_begin();

	for (int how = 0; how < 4; how++) {
		u64 token[CALLERS] = {};
		pid_t pid = test_fork();
		bool told[CALLERS] = {};
		struct in in;

		if (!pid)
			end_with_callers(&w, how);
		while (peer_info(&w.b).n_queued != CALLERS)
			test_sleep_ms(1);
		for (int i = 0; i < CALLERS / 2; i++)
			token[i] = GOT_CALL(&w.b, w.nb, "waiting");
		if (how == 2)
			await_abort(pid, dumps);
		else
			while (waitpid(pid, &(int){0}, 0) < 0)
				EQ(errno, EINTR);
		/* Those that were taken, and are not answered. */
		for (int i = 0; i < CALLERS / 2; i++) {
			OK(recv_wait(&w.b, &in));
			EQ(in.m.type, BUS1_MSG_CANCELLED);
			for (int k = 0; k < CALLERS / 2; k++)
				if (token[k] == in.m.id && !told[k]) {
					told[k] = true;
					ERR(answer_str(&w.b, token[k], "x"), ECANCELED);
				}
		}
		for (int k = 0; k < CALLERS / 2; k++)
			CHECK(told[k]);
		pair_idle(&w);
	}
	pair_close(&w);
	dumps_end();
}

/* Takes half of the calls, and waits in the other threads. */
static void serve_for_ever(void *arg)
{
	struct in in;

	while (!recv_wait(arg, &in))
		if (in.m.type != BUS1_MSG_CALL)
			FAIL("%s", type_name(in.m.type));
}

TEST("CALL-2 a server dumps core: calls that it has are ECONNRESET, others EHOSTUNREACH")
{
	bool dumps = dumps_begin();

	for (int threads = 0; threads < 2; threads++) {
		struct pair w = pair_new();
		struct call c[CALLERS];
		struct test_thread t[2];
		pid_t pid;

		for (int i = 0; i < CALLERS; i++) {
			call_init_str(&c[i], &w.a, w.to_b, "waiting");
			c[i].cmd.reply_size = i & 1 ? LARGE : 0;
			call_start(&c[i]);
		}
		pid = test_fork();
		if (!pid) {
			close(w.a.fd);
			/* All of them, in threads that wait for more; or half. */
			for (int i = 0; threads && i < 2; i++) {
				test_start(&t[i], serve_for_ever, &w.b);
				test_asleep(getpid(), t[i].tid);
			}
			for (int i = 0; !threads && i < CALLERS / 2; i++)
				GOT_CALL(&w.b, w.nb, "waiting");
			abort();
		}
		peer_close(&w.b);
		for (int i = 0; i < CALLERS; i++)
			ERR(call_join(&c[i]), threads || i < CALLERS / 2 ? ECONNRESET :
				EHOSTUNREACH);
		await_abort(pid, dumps);
		GOT_DEAD(&w.a, w.to_b);
		peer_idle(&w.a);
		peer_close(&w.a);
	}
	dumps_end();
}
