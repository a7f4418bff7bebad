// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-3: on which processor a call and its reply run. */
#include "call.h"
#include "idle.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PARAMETER "/sys/module/bus1/parameters/handoff"

enum { BOTH = 3 };

/* A bit for each processor. */
static void may_run(pid_t tid, unsigned int cpus)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (unsigned int i = 0; i < 2; i++)
		if (cpus & 1u << i)
			CPU_SET(i, &set);
	OK(SYS(sched_setaffinity(tid, sizeof(set), &set)));
}

/*
 * Whoever sleeps was kept on its processor until it slept, and may run on both from then on: the
 * server on the second, the caller on the first. So where they wake is the waker's doing.
 */
struct ground {
	struct test_thread thread;
	struct pair w;
	pid_t caller;
	u32 n, served_here;		/* requests, and those that woke on the caller's processor */
};

static void serve_from_1(void *arg)
{
	struct ground *g = arg;
	struct in in;
	u64 token;

	may_run(0, 1 << 1);
	token = await_call(&g->w.b, &in);
	while (in.m.type == BUS1_MSG_CALL) {
		g->n++;
		g->served_here += sched_getcpu() == 0;
		test_asleep(getpid(), g->caller);
		may_run(g->caller, BOTH);
		may_run(0, 1 << 1);
		token = in.m.token;
		OK(answer_next(&g->w.b, token, "pong", 4, 0, &in));
	}
}

static void ground_new(struct ground *g)
{
	if (test_cpus() < 2)
		SKIP("one processor");
	memset(g, 0, sizeof(*g));
	g->w = pair_new();
	g->caller = gettid();
	may_run(0, 1 << 0);
	test_start(&g->thread, serve_from_1, g);
}

static void ground_close(struct ground *g)
{
	OK(send_data(&g->w.a, g->w.to_b, NULL, 0));
	test_join(&g->thread);
	pair_close(&g->w);
}

/* One call. Whether its reply woke the caller on the server's processor. */
static bool ground_call(struct ground *g)
{
	struct call c;
	int cpu;

	may_run(0, 1 << 0);
	test_asleep(getpid(), g->thread.tid);
	may_run(g->thread.tid, BOTH);
	call_init_str(&c, &g->w.a, g->w.to_b, "ping");
	OK(call_make(&c));
	cpu = sched_getcpu();
	REPLIED(&c, "pong");
	return cpu == 1;
}

TEST("CALL-3 the server runs where its caller has run, and the caller where the server has")
{
	u32 rounds = test_rounds(200), back = 0;
	struct ground g;

	ground_new(&g);
	for (u32 i = 0; i < rounds; i++)
		back += ground_call(&g);
	EQ(g.n, rounds);
	ground_close(&g);
	/*
	 * Each time, but that a thread which does not run yet may be taken over by an idle
	 * processor: where the machine is virtual, and one was away, that can be seen.
	 */
	GE(g.served_here * 4, rounds * 3);
	GE(back * 4, rounds * 3);
}

static char handoff_get(void)
{
	int fd = (int)OK(SYS(open(PARAMETER, O_RDONLY | O_CLOEXEC)));
	char value;

	EQ(read(fd, &value, 1), 1);
	close(fd);
	return value;
}

/* For root: others skip the test. */
static void handoff_set(char value)
{
	int r = write_file(PARAMETER, (char[]){ value, 0 });

	if (r == -EACCES || r == -EROFS || r == -EPERM)
		SKIP("only for root");
	OK(r);
}

static void call_without(void)
{
	struct ground g;
	struct server s;
	struct pair w;
	struct call c;

	w = pair_new();
	server_start(&s, &w.b, w.nb);
	for (u32 i = 0; i < 20; i++) {
		call_init(&c, &w.a, w.to_b, &i, sizeof(i));
		OK(call_make(&c));
		EQ(c.in.m.len, sizeof(i));
		MEM(c.in.data, &i, sizeof(i));
	}
	server_stop(&s, 1);
	EQ(s.served, 20);
	pair_close(&w);
	if (test_cpus() < 2)
		return;
	ground_new(&g);
	for (u32 i = 0; i < 20; i++)
		ground_call(&g);
	EQ(g.n, 20);
	ground_close(&g);
}

TEST("CALL-3 without hand-off the scheduler places them, and a call is the same otherwise")
{
	uint64_t end = test_deadline(50);
	int r = 0, status = 1;
	char before = handoff_get();
	pid_t pid;

	handoff_set('N');
	pid = test_fork();
	if (!pid) {
		call_without();
		_exit(0);
	}
	/* Whatever becomes of that, the parameter is as it was. */
	while (!(r = waitpid(pid, &status, WNOHANG)) && test_now() < end)
		test_sleep_ms(5);
	handoff_set(before);
	if (!r)
		FAIL("calls without hand-off do not end");
	EQ(r, pid);
	EQ(status, 0);
}
