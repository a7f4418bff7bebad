/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The harness that every test program is built with. It holds main().
 *
 *	TEST("OBJ-4 the same node gives the same id")
 *	{
 *		OK(something());
 *	}
 *
 * Each test runs in a process of its own, which leads a process group. The
 * group is killed when the test returns, fails, or runs out of time, and the
 * next test starts only when all of it is gone.
 *
 * A check that fails ends the process it fails in and, from whatever thread
 * or child of the test it comes, fails the test; the first one is reported.
 * Children that fail do not wake a parent that waits for something else:
 * their parents wait with test_wait().
 *
 * If the bus1 module is loaded, what it counts must be the same before and
 * after each test: a test that leaves something behind has failed. (This
 * wants the module for itself. BUS1_TEST_COUNTS=0 turns it off.)
 *
 * Output, one line a test: "ok NAME", "not ok NAME: why", "skip NAME: why", so
 * that no name may have a colon and a space in it.
 * Arguments: --list, or substrings of the names to be run. The exit status is
 * 1 if a test failed. Environment:
 *	BUS1_TEST_SLOW	 by how much the machine is slower than an emulated one
 *			 without debugging (default 1; found out by itself on a
 *			 kernel with kmemleak). Multiplies timeouts, divides
 *			 rounds.
 *	BUS1_TEST_ROUNDS per cent of the normal number of rounds (default 100, or
 *			 what the program was built with as TEST_ROUNDS)
 *	BUS1_TEST_TIMES	 print to stderr how long each test took
 */
#ifndef BUS1_TEST_H
#define BUS1_TEST_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct test {
	const char *name;
	void (*run)(void);
	unsigned int timeout;		/* seconds, before BUS1_TEST_SLOW */
	bool is_long;
	struct test *next;
};

void test_register(struct test *test);

#define TEST__CAT2(a, b) a##b
#define TEST__CAT(a, b) TEST__CAT2(a, b)
#define TEST__DEFINE(name_, timeout_, is_long_, n_)				\
	static void TEST__CAT(test_run_, n_)(void);				\
	static struct test TEST__CAT(test_, n_) = {				\
		name_, TEST__CAT(test_run_, n_), timeout_, is_long_, NULL	\
	};									\
	__attribute__((constructor)) static void TEST__CAT(test_reg_, n_)(void)	\
	{									\
		test_register(&TEST__CAT(test_, n_));				\
	}									\
	static void TEST__CAT(test_run_, n_)(void)

#define TEST(name) TEST__DEFINE(name, 60, false, __LINE__)
#define TEST_TIMEOUT(name, seconds) TEST__DEFINE(name, seconds, false, __LINE__)
/*
 * Takes long on a slow machine. There a program that runs the tests of another
 * again, which is built with TEST_AGAIN, leaves it to that.
 */
#define TEST_LONG(name, seconds) TEST__DEFINE(name, seconds, true, __LINE__)

/* End this process, and the test, with a reason. */
#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)
#define SKIP(...) test_skip(__VA_ARGS__)

/* What a system call returned: its result, or -errno. */
#define SYS(call)								\
	__extension__({								\
		int64_t sys_ = (int64_t)(call);					\
		sys_ == -1 ? -(int64_t)errno : sys_;				\
	})

/* Checks of what returns -errno on failure. OK() has the value of expr. */
#define OK(expr)								\
	__extension__({								\
		int64_t ok_ = (int64_t)(expr);					\
		if (ok_ < 0)							\
			test_fail_err(__FILE__, __LINE__, #expr, ok_, 0);	\
		ok_;								\
	})

#define ERR(expr, err)								\
	__extension__({								\
		int64_t err_ = (int64_t)(expr);					\
		if (err_ != -(int64_t)(err))					\
			test_fail_err(__FILE__, __LINE__, #expr, err_, err);	\
	})

#define CHECK(cond)								\
	__extension__({								\
		if (!(cond))							\
			test_fail(__FILE__, __LINE__, "%s", #cond);		\
	})

/* Two integers. Negative ones of different width compare as one expects. */
#define EQ(a, b) TEST__CMP(a, ==, b)
#define NE(a, b) TEST__CMP(a, !=, b)
#define GE(a, b) TEST__CMP(a, >=, b)
#define LE(a, b) TEST__CMP(a, <=, b)
#define GT(a, b) TEST__CMP(a, >, b)
#define LT(a, b) TEST__CMP(a, <, b)

#define TEST__CMP(a, op, b)							\
	__extension__({								\
		uint64_t a_ = (uint64_t)(a), b_ = (uint64_t)(b);		\
		if (!(a_ op b_))						\
			test_fail_cmp(__FILE__, __LINE__, #a, #op, #b, a_, b_);	\
	})

#define MEM(a, b, n) test_mem(__FILE__, __LINE__, #a, #b, a, b, n)
#define STR(a, b) test_str(__FILE__, __LINE__, #a, #b, a, b)

_Noreturn void test_fail(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
_Noreturn void test_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void test_fail_err(const char *file, int line, const char *expr,
			     int64_t got, int want);
_Noreturn void test_fail_cmp(const char *file, int line, const char *a,
			     const char *op, const char *b, uint64_t va, uint64_t vb);
void test_mem(const char *file, int line, const char *a, const char *b,
	      const void *pa, const void *pb, size_t n);
void test_str(const char *file, int line, const char *a, const char *b,
	      const char *sa, const char *sb);

/* BUS1_TEST_SLOW; n rounds on this machine (at least 3); its processors. */
unsigned int test_slow(void);
unsigned int test_rounds(unsigned int n);
unsigned int test_cpus(void);

/* CLOCK_MONOTONIC in ns; the moment that many (slow) seconds from now. */
uint64_t test_now(void);
uint64_t test_deadline(unsigned int seconds);
void test_sleep_ms(unsigned int ms);

/* Keeps the calling thread on a processor, counted modulo those there are. */
void test_pin(unsigned int cpu);

/*
 * A child of the test. test_wait() waits for it and fails unless it left by
 * returning 0; test_kill() kills and reaps it.
 */
#define test_wait(pid) test_wait_at(__FILE__, __LINE__, pid)

pid_t test_fork(void);
void test_wait_at(const char *file, int line, pid_t pid);
void test_kill(pid_t pid);

/*
 * Wait until a thread of this process or of a child sleeps in the kernel, in
 * an ioctl. A thread that is seen so has entered its wait for good, or is
 * stalled on a lock or page, which is what the caller finds out next.
 */
#define test_asleep(pid, tid) test_asleep_at(__FILE__, __LINE__, pid, tid)

void test_asleep_at(const char *file, int line, pid_t pid, pid_t tid);
bool test_is_asleep(pid_t pid, pid_t tid);

struct test_thread {
	pthread_t thread;
	void (*run)(void *arg);
	void *arg;
	pid_t tid;			/* set before test_start() returns */
	bool done;			/* run() returned; atomic */
};

void test_start(struct test_thread *t, void (*run)(void *arg), void *arg);
void test_join(struct test_thread *t);

/* What the module counts. Reading gives false if it is not loaded. */
enum {
	TEST_PEERS,
	TEST_NODES,
	TEST_HANDLES,
	TEST_MESSAGES,
	TEST_SLICES,
	TEST_POOL_PAGES,
	TEST_CHARGED,
	TEST_N_COUNTS,
};

struct test_counts {
	int64_t n[TEST_N_COUNTS];
};

bool test_counts(struct test_counts *counts);

/*
 * Wait until the counts are `want`: what is freed after a grace period takes
 * its time. If they do not get there, false, and the difference in `why`.
 */
bool test_counts_settle(const struct test_counts *want, char *why, size_t n_why);

#ifdef __cplusplus
}
#endif

#endif /* BUS1_TEST_H */
