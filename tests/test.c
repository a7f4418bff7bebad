// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/*
 * What the processes of a test tell the runner, in memory that they share. The
 * first to raise `state` from 0 writes `why`, then sets `written`.
 */
enum { REPORT_NONE, REPORT_FAILED, REPORT_SKIPPED };

struct report {
	int state;
	int written;
	char why[1000];
};

#ifndef TEST_ROUNDS
#define TEST_ROUNDS 100
#endif

#ifndef TEST_AGAIN
#define TEST_AGAIN false
#endif

static struct test *tests, **tests_tail = &tests;
static struct report *report;

void test_register(struct test *test)
{
	*tests_tail = test;
	tests_tail = &test->next;
}

static _Noreturn __attribute__((format(printf, 4, 0))) void
report_and_exit(int state, const char *file, int line, const char *fmt, va_list ap)
{
	char why[sizeof(report->why)];
	int none = REPORT_NONE, n = 0;

	if (file)
		n = snprintf(why, sizeof(why), "%s:%d: ",
			     strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line);
	vsnprintf(why + n, sizeof(why) - (size_t)n, fmt, ap);
	for (char *c = why; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';

	if (__atomic_compare_exchange_n(&report->state, &none, state, false,
					__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
		memcpy(report->why, why, sizeof(why));
		__atomic_store_n(&report->written, 1, __ATOMIC_SEQ_CST);
	}
	_exit(1);
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report_and_exit(REPORT_FAILED, file, line, fmt, ap);
}

void test_skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report_and_exit(REPORT_SKIPPED, NULL, 0, fmt, ap);
}

static const char *describe(char *buf, size_t n, int64_t v)
{
	const char *name = v < 0 && v > -4096 ? strerrorname_np((int)-v) : NULL;

	if (name)
		snprintf(buf, n, "-%s", name);
	else if (v < -4096 || v > 9999)
		snprintf(buf, n, "%llu (0x%llx)", (unsigned long long)v, (unsigned long long)v);
	else
		snprintf(buf, n, "%lld", (long long)v);
	return buf;
}

void test_fail_err(const char *file, int line, const char *expr, int64_t got, int want)
{
	char a[64], b[64];

	test_fail(file, line, "%s: is %s, should be %s", expr, describe(a, sizeof(a), got),
		  want ? describe(b, sizeof(b), -want) : "no error");
}

void test_fail_cmp(const char *file, int line, const char *a, const char *op,
		   const char *b, uint64_t va, uint64_t vb)
{
	char sa[64], sb[64];

	test_fail(file, line, "%s %s %s: %s and %s", a, op, b,
		  describe(sa, sizeof(sa), (int64_t)va), describe(sb, sizeof(sb), (int64_t)vb));
}

void test_mem(const char *file, int line, const char *a, const char *b,
	      const void *pa, const void *pb, size_t n)
{
	const unsigned char *ca = pa, *cb = pb;

	for (size_t i = 0; i < n; i++)
		if (ca[i] != cb[i])
			test_fail(file, line, "%s and %s: byte %zu of %zu is 0x%02x and 0x%02x",
				  a, b, i, n, ca[i], cb[i]);
}

void test_str(const char *file, int line, const char *a, const char *b,
	      const char *sa, const char *sb)
{
	if (!sa || !sb || strcmp(sa, sb))
		test_fail(file, line, "%s and %s: \"%s\" and \"%s\"", a, b,
			  sa ? sa : "(null)", sb ? sb : "(null)");
}

static unsigned int env_number(const char *name, unsigned int otherwise)
{
	const char *s = getenv(name);
	int v = s ? atoi(s) : 0;

	return v > 0 ? (unsigned int)v : otherwise;
}

unsigned int test_slow(void)
{
	static unsigned int slow;

	if (!slow)
		slow = env_number("BUS1_TEST_SLOW",
				  access("/sys/kernel/debug/kmemleak", F_OK) ? 1 : 8);
	return slow;
}

unsigned int test_rounds(unsigned int n)
{
	uint64_t percent = env_number("BUS1_TEST_ROUNDS", TEST_ROUNDS);
	uint64_t rounds = n * percent / 100 / test_slow();

	return rounds < 3 ? 3 : (unsigned int)rounds;
}

unsigned int test_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : (unsigned int)n;
}

uint64_t test_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

uint64_t test_deadline(unsigned int seconds)
{
	return test_now() + (uint64_t)seconds * test_slow() * 1000000000;
}

void test_sleep_ms(unsigned int ms)
{
	struct timespec ts = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 };

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

void test_pin(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % test_cpus(), &set);
	OK(SYS(sched_setaffinity(0, sizeof(set), &set)));
}

pid_t test_fork(void)
{
	pid_t pid = fork();

	OK(SYS(pid));
	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

void test_wait_at(const char *file, int line, pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		EQ(errno, EINTR);
	if (WIFSIGNALED(status))
		test_fail(file, line, "a child was killed by SIG%s",
			  sigabbrev_np(WTERMSIG(status)) ?: "?");
	if (WEXITSTATUS(status))
		test_fail(file, line, "a child left with status %d", WEXITSTATUS(status));
}

void test_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0)
		EQ(errno, EINTR);
}

static ssize_t read_file(const char *path, char *buf, size_t n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t r = -1;

	if (fd >= 0) {
		r = read(fd, buf, n - 1);
		close(fd);
	}
	buf[r > 0 ? r : 0] = 0;
	return r;
}

bool test_is_asleep(pid_t pid, pid_t tid)
{
	char path[64], buf[512], *p;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", (int)pid, (int)tid);
	if (read_file(path, buf, sizeof(buf)) <= 0)
		return false;
	p = strrchr(buf, ')');
	if (!p || (p[2] != 'S' && p[2] != 'D'))
		return false;

	/* "running", or the number of the system call it sleeps in. */
	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", (int)pid, (int)tid);
	if (read_file(path, buf, sizeof(buf)) <= 0)
		return true;
	return strtol(buf, &p, 10) == SYS_ioctl && p != buf;
}

void test_asleep_at(const char *file, int line, pid_t pid, pid_t tid)
{
	uint64_t end = test_deadline(30);

	while (!test_is_asleep(pid, tid)) {
		if (test_now() > end)
			test_fail(file, line, "thread %d does not sleep in an ioctl", (int)tid);
		test_sleep_ms(1);
	}
}

static void *thread_main(void *arg)
{
	struct test_thread *t = arg;

	__atomic_store_n(&t->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	t->run(t->arg);
	__atomic_store_n(&t->done, true, __ATOMIC_RELEASE);
	return NULL;
}

void test_start(struct test_thread *t, void (*run)(void *arg), void *arg)
{
	*t = (struct test_thread){ .run = run, .arg = arg };
	EQ(pthread_create(&t->thread, NULL, thread_main, t), 0);
	while (!__atomic_load_n(&t->tid, __ATOMIC_ACQUIRE))
		sched_yield();
}

void test_join(struct test_thread *t)
{
	EQ(pthread_join(t->thread, NULL), 0);
}

static const char *const count_names[TEST_N_COUNTS] = {
	[TEST_PEERS] = "peers",
	[TEST_NODES] = "nodes",
	[TEST_HANDLES] = "handles",
	[TEST_MESSAGES] = "messages",
	[TEST_SLICES] = "slices",
	[TEST_POOL_PAGES] = "pool_pages",
	[TEST_CHARGED] = "charged",
};

bool test_counts(struct test_counts *counts)
{
	char path[64], buf[64], *end;

	for (int i = 0; i < TEST_N_COUNTS; i++) {
		snprintf(path, sizeof(path), "/sys/module/bus1/parameters/%s", count_names[i]);
		if (read_file(path, buf, sizeof(buf)) <= 0)
			return false;
		counts->n[i] = strtoll(buf, &end, 10);
		if (end == buf)
			return false;
	}
	return true;
}

bool test_counts_settle(const struct test_counts *want, char *why, size_t n_why)
{
	uint64_t end = test_deadline(5);
	struct test_counts now;
	size_t n;

	for (;;) {
		why[0] = 0;
		if (!test_counts(&now)) {
			snprintf(why, n_why, "the module's counts can not be read");
			return false;
		}
		n = 0;
		for (int i = 0; i < TEST_N_COUNTS; i++)
			if (now.n[i] != want->n[i] && n < n_why)
				n += (size_t)snprintf(why + n, n_why - n, "%s%s %lld -> %lld",
						      n ? ", " : "", count_names[i],
						      (long long)want->n[i], (long long)now.n[i]);
		if (!n)
			return true;
		if (test_now() > end)
			return false;
		test_sleep_ms(5);
	}
}

/* For a test that hangs: where each of its threads is. */
static void print_whereabouts(pid_t pid)
{
	char cmd[256];

	snprintf(cmd, sizeof(cmd),
		 "for t in /proc/%d/task/*; do echo \"# $t: $(cat $t/wchan) $(cat $t/syscall)\"; "
		 "sed 's/^/#   /' $t/stack; done 1>&2 2>/dev/null", (int)pid);
	if (system(cmd) < 0)
		fprintf(stderr, "# no shell\n");
}

/* Waits for a child (SIGCHLD is blocked). */
static bool wait_until(idtype_t type, pid_t id, int flags, uint64_t end, siginfo_t *si)
{
	struct timespec ts = { 0, 20 * 1000000 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	for (;;) {
		memset(si, 0, sizeof(*si));
		if (waitid(type, (id_t)id, si, flags | WEXITED | WNOHANG) < 0)
			return errno == ECHILD;
		if (si->si_pid)
			return true;
		if (test_now() > end)
			return false;
		sigtimedwait(&set, NULL, &ts);
	}
}

/* Kills what is left of the group and reaps it; false if something stays. */
static bool end_group(pid_t pgid)
{
	uint64_t end = test_deadline(20);
	siginfo_t si;

	kill(-pgid, SIGKILL);
	do {
		if (!wait_until(P_PGID, pgid, 0, end, &si))
			return false;
	} while (si.si_pid);
	return true;
}

static void run_child(const struct test *test)
{
	struct rlimit no_core = { 0, 0 };
	sigset_t none;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_CORE, &no_core);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	test->run();
	_exit(0);
}

static bool run_one(const struct test *test)
{
	const char *s = getenv("BUS1_TEST_COUNTS");
	struct test_counts before;
	char left[200], why[1300] = "";
	bool counted, passed = true;
	uint64_t start = test_now();
	siginfo_t si;
	pid_t pid;

	counted = (!s || strcmp(s, "0")) && test_counts(&before);
	memset(report, 0, sizeof(*report));

	pid = fork();
	if (pid < 0) {
		printf("not ok %s: fork: %s\n", test->name, strerrorname_np(errno));
		return false;
	}
	if (!pid)
		run_child(test);
	setpgid(pid, pid);

	if (!wait_until(P_PID, pid, WNOWAIT, test_deadline(test->timeout), &si)) {
		snprintf(why, sizeof(why), "no end after %u s", test->timeout * test_slow());
		print_whereabouts(pid);
		passed = false;
	} else if (si.si_code != CLD_EXITED) {
		snprintf(why, sizeof(why), "killed by SIG%s", sigabbrev_np(si.si_status) ?: "?");
		passed = false;
	} else if (si.si_status) {
		snprintf(why, sizeof(why), "left with status %d", si.si_status);
		passed = false;
	}
	if (!end_group(pid)) {
		snprintf(why, sizeof(why), "a process of it can not be killed");
		passed = false;
	}
	if (__atomic_load_n(&report->written, __ATOMIC_SEQ_CST)) {
		size_t n = strlen(why);

		/* A reason given says more than the status, but not than a hang. */
		if (passed || !strncmp(why, "left with", 9))
			n = 0;
		snprintf(why + n, sizeof(why) - n, "%s%s", n ? "; " : "", report->why);
		passed = false;
	}
	if (counted && !test_counts_settle(&before, left, sizeof(left))) {
		size_t n = strlen(why);

		snprintf(why + n, sizeof(why) - n, "%sleft behind: %s", n ? "; " : "", left);
		passed = false;
		report->state = REPORT_FAILED;
	}

	if (passed)
		printf("ok %s\n", test->name);
	else if (report->state == REPORT_SKIPPED) {
		printf("skip %s: %s\n", test->name, why);
		passed = true;
	} else
		printf("not ok %s: %s\n", test->name, why);
	fflush(stdout);
	if (getenv("BUS1_TEST_TIMES"))
		fprintf(stderr, "# %6.2f s  %s\n", (double)(test_now() - start) / 1e9, test->name);
	return passed;
}

static bool chosen(const struct test *test, int n, char **filters)
{
	if (test->is_long && TEST_AGAIN && test_slow() > 1)
		return false;
	for (int i = 0; i < n; i++)
		if (strstr(test->name, filters[i]))
			return true;
	return !n;
}

int main(int argc, char **argv)
{
	bool failed = false;
	sigset_t set;

	if (argc == 2 && !strcmp(argv[1], "--list")) {
		for (struct test *t = tests; t; t = t->next)
			puts(t->name);
		return 0;
	}

	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (report == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	/* Orphans of a test come to the runner, which waits for them. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);

	for (struct test *t = tests; t; t = t->next)
		if (chosen(t, argc - 1, argv + 1) && !run_one(t))
			failed = true;
	return failed;
}
