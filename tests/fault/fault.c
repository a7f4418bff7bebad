// SPDX-License-Identifier: GPL-2.0-or-later
#include "fault.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define FAIL_NTH "/proc/thread-self/fail-nth"
#define MAKE_IT_FAIL "/proc/thread-self/make-it-fail"
#define DEBUG "/sys/kernel/debug/"

struct world w;

/* What the kernel makes to fail, and the file that counts down how often it did. */
static const struct {
	unsigned int kind;
	int error;
	const char *name, *times;
} faults[] = {
	{ COPY, EFAULT, "copy", DEBUG "fail_usercopy/times" },
	{ SLAB, ENOMEM, "object", DEBUG "failslab/times" },
	{ PAGE, ENOMEM, "page", DEBUG "fail_page_alloc/times" },
};

enum { N_FAULTS = ARRAY_SIZE(faults) };

/*
 * A form is run twice: with one failure at a time, and with one after which there
 * is no memory to be had at all. Many allocations have others to fall back on.
 */
enum { ONE, ALL };

static int fail_nth, make_it_fail;
static int64_t times[N_FAULTS];

/*
 * The module's totals: what test_counts() reads, and whatever else it tells. The files
 * are kept open, since opening them takes longer than all else.
 */
#define TOTALS "/sys/module/bus1/parameters"
#define USERS "/sys/class/misc/bus1/users"
enum { MAX_TOTALS = 40 };
static struct {
	char name[32];
	int fd;
} totals[MAX_TOTALS];
static unsigned int n_totals;
static const char *const charges[] = {
	"charged peers", "charged nodes", "charged handles", "charged messages",
	"charged files", "charged pages",
};
static int users;

struct totals {
	int64_t v[MAX_TOTALS];
};

/* Before the form, and when it is set up. */
static struct totals none, start;

static void set(const char *name, const char *value)
{
	char path[100];
	int fd;

	snprintf(path, sizeof(path), DEBUG "%s", name);
	fd = (int)OK(SYS(open(path, O_WRONLY | O_CLOEXEC)));
	OK(SYS(write(fd, value, strlen(value))));
	close_fd(fd);
}

static int64_t times_left(size_t i)
{
	char buf[32] = "";
	int fd = (int)OK(SYS(open(faults[i].times, O_RDONLY | O_CLOEXEC)));

	OK(SYS(read(fd, buf, sizeof(buf) - 1)));
	close_fd(fd);
	return strtoll(buf, NULL, 10);
}

/*
 * Allocations that may wait fail, too, and all pages. Nobody else is concerned: of
 * itself it fails only for who has asked for that. While fail-nth counts down
 * nothing else fails; when it has come to 0 everything does that has a
 * probability.
 */
static void prepare(void)
{
	static const char *const dirs[N_FAULTS] = { "fail_usercopy", "failslab",
						    "fail_page_alloc" };
	char name[100];

	for (size_t i = 0; i < N_FAULTS; i++) {
		snprintf(name, sizeof(name), "%s/task-filter", dirs[i]);
		set(name, "Y");
		/* A note, for those who look for traces in the log and find why. */
		snprintf(name, sizeof(name), "%s/verbose", dirs[i]);
		set(name, faults[i].kind == COPY ? "0" : "1");
		snprintf(name, sizeof(name), "%s/times", dirs[i]);
		set(name, "1000000000");
		/* Copies do not run out. */
		snprintf(name, sizeof(name), "%s/probability", dirs[i]);
		set(name, faults[i].kind == COPY ? "0" : "100");
	}
	set("failslab/ignore-gfp-wait", "N");
	set("fail_page_alloc/ignore-gfp-wait", "N");
	set("fail_page_alloc/min-order", "0");
}

/*
 * Memory of this process that is not there yet would take allocations of its own. The
 * descriptors that the tests keep are made first.
 */
static void prepare_thread(void)
{
	u8 page[4096];

	page_readable(&w, page);
	OK(SYS(mlockall(MCL_CURRENT)));
	fail_nth = (int)OK(SYS(open(FAIL_NTH, O_RDWR | O_CLOEXEC)));
	make_it_fail = (int)OK(SYS(open(MAKE_IT_FAIL, O_RDWR | O_CLOEXEC)));
	for (size_t i = 0; i < N_FAULTS; i++)
		times[i] = times_left(i);
}

static void totals_open(void)
{
	DIR *dir = opendir(TOTALS);
	struct dirent *e;

	CHECK(dir);
	while ((e = readdir(dir))) {
		if (e->d_name[0] == '.')
			continue;
		LT(n_totals, MAX_TOTALS);
		snprintf(totals[n_totals].name, sizeof(totals[0].name), "%.31s", e->d_name);
		totals[n_totals++].fd = (int)OK(SYS(openat(dirfd(dir), e->d_name,
							   O_RDONLY | O_CLOEXEC)));
	}
	closedir(dir);
	GE(n_totals, TEST_N_COUNTS);
	/* What all users are charged, of each thing. */
	users = open(USERS, O_RDONLY | O_CLOEXEC);
	if (users < 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(charges); i++) {
		LT(n_totals, MAX_TOTALS);
		strcpy(totals[n_totals].name, charges[i]);
		totals[n_totals++].fd = -1;
	}
}

/* A line each: the user's number, then for each thing what it has, "/", what it may. */
static void add_charges(int64_t *to)
{
	static char text[1 << 16];
	ssize_t n = OK(SYS(pread(users, text, sizeof(text) - 1, 0)));
	char *at = text;
	size_t column = 0;

	text[n] = 0;
	while ((at = strpbrk(at, " \n"))) {
		if (*at++ == '\n') {
			column = 0;
			continue;
		}
		LT(column, ARRAY_SIZE(charges));
		to[column++] += strtoll(at, NULL, 10);
	}
}

static struct totals totals_read(void)
{
	struct totals t = {};

	for (unsigned int i = 0; i < n_totals; i++) {
		char buf[32] = "";

		if (totals[i].fd < 0) {
			add_charges(&t.v[i]);
			break;
		}
		OK(SYS(pread(totals[i].fd, buf, sizeof(buf) - 1, 0)));
		t.v[i] = strtoll(buf, NULL, 10);
	}
	return t;
}

static bool is_total(unsigned int i, const char *name)
{
	return !strcmp(totals[i].name, name);
}

/*
 * Waits until they are `want`: what is freed after a grace period takes its time. Tells
 * one that does not get there, or -1. Pages of the pools are left out if asked for.
 */
static int totals_settle(const struct totals *want, bool but_pages)
{
	uint64_t end = 0;

	for (;;) {
		struct totals now = totals_read();
		int other = -1;

		for (unsigned int i = 0; i < n_totals; i++)
			if (now.v[i] != want->v[i] &&
			    !(but_pages && (is_total(i, "pool_pages") || is_total(i, "charged") ||
					   is_total(i, "charged pages"))))
				other = (int)i;
		if (other < 0)
			return -1;
		if (!end)
			end = test_deadline(2);
		if (test_now() > end)
			return other;
		test_sleep_ms(5);
	}
}

static int run_it(const struct form *form)
{
	return form->run ? form->run() : raw_sized(w.on, w.number, w.size, &w.cmd);
}

/*
 * Runs the form with its n-th failure, and tells what failed in *struck, as bits for
 * faults[]: 0 if it does not have so many.
 */
static int give_nth(const struct form *form, int mode, unsigned int n, unsigned int *struck)
{
	char buf[32];
	int r, digits = snprintf(buf, sizeof(buf), "%u", n);
	ssize_t left;

	if (mode == ALL)
		EQ(write(make_it_fail, "1", 1), 1);
	EQ(write(fail_nth, buf, (size_t)digits), digits);
	r = run_it(form);

	/* What is left may strike this very reading, or the writing. */
	memset(buf, 0, sizeof(buf));
	left = pread(fail_nth, buf, sizeof(buf) - 1, 0);
	if (left < 0)
		EQ(errno, EFAULT);
	while (write(fail_nth, "0", 1) != 1)
		EQ(errno, EFAULT);
	if (mode == ALL)
		EQ(write(make_it_fail, "0", 1), 1);

	*struck = 0;
	if (left < 0 || atoi(buf))
		return r;
	/* With one failure at a time that is it. */
	for (unsigned int i = 0; i < N_FAULTS && (mode == ALL || !*struck); i++) {
		int64_t now = times_left(i);

		if (now != times[i])
			*struck |= 1U << i;
		times[i] = now;
	}
	NE(*struck, 0);
	return r;
}

/* The world. */

static void begin(void)
{
	memset(&w, 0, sizeof(w));
	for (int i = 0; i < 4; i++)
		w.p[i].fd = -1;
	w.s = peer_new(0);
	w.r = peer_new(POOL);
	w.t = peer_new(POOL);
	for (u64 i = 0; i < 3; i++)
		w.nodes[i] = node_new(&w.p[i], 0xc0 + i);
	w.to_r = grant(&w.r, w.nr, &w.s);
	w.to_t = grant(&w.t, w.nt, &w.s);
	fill(w.data, sizeof(w.data), 1);
}

/*
 * Everyone but one of them goes. Whatever was on its way or failed: nobody uses that
 * one's node any more.
 */
static void end(unsigned int survivor)
{
	for (size_t i = 0; i < ARRAY_SIZE(w.fd); i++)
		if (w.fd[i] > 0)
			close_fd(w.fd[i]);
	if (w.map)
		OK(SYS(munmap(w.map, w.map_size)));
	for (unsigned int i = 0; i < 4; i++)
		if (i != survivor && w.p[i].fd >= 0)
			peer_close(&w.p[i]);
	drain(&w.p[survivor]);
	OK(destroy_unused(&w.p[survivor], w.nodes[survivor]));
	peer_close(&w.p[survivor]);
}

void *command(const struct peer *on, unsigned long number)
{
	w.on = on;
	w.number = number;
	w.size = _IOC_SIZE(number);
	memset(&w.cmd, 0, sizeof(w.cmd));
	return &w.cmd;
}

void watch(const struct peer *p, u64 id)
{
	LT(w.n_watched, MAX_WATCHED);
	w.watched[w.n_watched].peer = (u32)(p - w.p);
	w.watched[w.n_watched++].id = id;
}

int pipe_new(int *end)
{
	int fds[2];

	OK(SYS(pipe2(fds, O_CLOEXEC | O_NONBLOCK)));
	*end = fds[0];
	return fds[1];
}

bool is_hung_up(int end)
{
	struct pollfd pfd = { .fd = end };

	return poll(&pfd, 1, (int)(5000 * test_slow())) == 1 && pfd.revents & POLLHUP;
}

const struct in *got_message(const char *file, int line, const struct peer *p, u64 node,
			     size_t len)
{
	struct in *in = &w.in;
	int r = recv_with(p, in, BUS1_RECV_FDS);

	if (r)
		test_fail(file, line, "a message expected, receiving: %s", strerrorname_np(-r));
	if (in->m.type != BUS1_MSG_DATA || in->m.id != node || in->m.len != len)
		test_fail(file, line, "%zu bytes for %#llx expected, got type %u, %llu for %#llx",
			  len, (unsigned long long)node, in->m.type,
			  (unsigned long long)in->m.len, (unsigned long long)in->m.id);
	if (memcmp(in->data, w.data, len))
		test_fail(file, line, "other bytes than were sent");
	if (in->m.slice)
		OK(slice_release(p, in->m.slice));
	return in;
}

/* The state. */

static u64 sum_of(const void *data, size_t n)
{
	const u8 *p = data;
	u64 sum = 0;

	for (size_t i = 0; i < n; i++)
		sum = (sum + p[i]) * 0x100000001b3;
	return sum;
}

/* Nothing that is zero is in the sum, and so no page that is not there. */
u64 sum_of_pool(const struct peer *p)
{
	static u64 page[4096 / sizeof(u64)];
	u64 sum = 0;

	if (!peer_info(p).pool_pages)
		return 0;
	for (size_t at = 0; at < p->pool_size; at += sizeof(page)) {
		if (!page_readable(p->pool + at, (u8 *)page))
			continue;
		for (size_t i = 0; i < ARRAY_SIZE(page); i++)
			sum += page[i] * (2 * (at + i) + 1);
	}
	return sum;
}

/*
 * How many counts a peer has, without taking one: a release of so many and of a
 * node fails because of the node, and else because of the handle.
 */
static u32 count_of(const struct peer *p, u64 own, u64 id)
{
	u64 ids[64];

	for (u32 n = 0; n + 1 < ARRAY_SIZE(ids); n++) {
		int r;

		ids[n] = id;
		ids[n + 1] = own;
		r = ids_cmd(p, BUS1_CMD_HANDLE_RELEASE, 0, ids, n + 2);
		if (r == -ENXIO)
			return n;
		ERR(r, EPERM);
	}
	FAIL("too many counts");
}

static void state_take(struct state *s)
{
	static struct in in;

	memset(s, 0, sizeof(*s));
	for (size_t i = 0; i < 4; i++) {
		const struct peer *p = &w.p[i];
		u32 n;

		if (p->fd < 0)
			continue;
		s->of[i].events = poll_now(p);
		for (n = 0; n < MAX_SEEN && !peek(p, n, &in); n++) {
			s->of[i].seen[n].m = in.m;
			s->of[i].seen[n].sum = in.data ? sum_of(in.data, in.m.len) : 0;
		}
		LT(n, MAX_SEEN);
		s->of[i].n_seen = n;
		if (p->pool)
			s->of[i].pool_sum = sum_of_pool(p);
		s->of[i].info = peer_info(p);
		/* Memory may have been added. */
		s->of[i].info.pool_pages = 0;
	}
	for (u32 i = 0; i < w.n_watched; i++) {
		u32 p = w.watched[i].peer;

		s->counts[i] = count_of(&w.p[p], w.nodes[p], w.watched[i].id);
	}
	s->next_fd = (int)OK(SYS(fcntl(fail_nth, F_DUPFD_CLOEXEC, 0)));
	close_fd(s->next_fd);
}

static const char *name_of(unsigned int struck)
{
	for (size_t i = 0; i < N_FAULTS; i++)
		if (struck & 1U << i)
			return faults[i].name;
	return "nothing";
}

#define FAILED(fmt, ...)							\
	FAIL("failure %u%s, of %s: " fmt, nth, mode == ALL ? " and all others" : "",	\
	     name_of(struck), __VA_ARGS__)

static void state_same(const struct form *form, int mode, unsigned int nth, unsigned int struck)
{
	static const char *const names[] = { "the sender", "the receiver", "the third",
					     "the fourth" };
	static struct state now;
	struct totals want = start;
	int other;

	state_take(&now);
#define SAME(field, what)							\
	do {									\
		if (memcmp(&now.field, &w.before.field, sizeof(now.field)))	\
			FAILED(#field " is not what it was: %s", what);		\
	} while (0)
	for (size_t i = 0; i < 4; i++) {
		if (w.p[i].fd >= 0)
			same_info(__FILE__, __LINE__, names[i], &w.p[i], &w.before.of[i].info);
		SAME(of[i].info, names[i]);
		SAME(of[i].events, names[i]);
		SAME(of[i].n_seen, names[i]);
		SAME(of[i].seen, names[i]);
		SAME(of[i].pool_sum, names[i]);
	}
	SAME(counts, "of handles");
	SAME(next_fd, "descriptors");
#undef SAME
	for (unsigned int i = 0; i < n_totals; i++)
		if (is_total(i, "slices"))
			want.v[i] -= w.before.slices_gone;
	/* Pages may have been added, see same_info(). */
	other = totals_settle(&want, true);
	if (other >= 0)
		FAILED("the total of %s is not what it was", totals[other].name);
	if (!form->run && memcmp(&w.cmd, &w.as_given, sizeof(w.cmd)))
		FAILED("%s", "the command's struct was written to");
}

/* One round. Returns what was made to fail, and in *error how the form did, or 0. */
static unsigned int round_of(const struct form *form, int mode, unsigned int nth, int *error)
{
	unsigned int struck;
	int r, other;

	begin();
	form->setup();
	state_take(&w.before);
	if ((mode == ONE && nth == 1) || form->alone)
		start = totals_read();
	w.as_given = w.cmd;
	r = give_nth(form, mode, nth, &struck);
	*error = -r;
	if (r) {
		bool is_due = false;

		for (size_t i = 0; i < N_FAULTS; i++)
			is_due |= struck & 1U << i && r == -faults[i].error;
		if (!is_due)
			FAILED("it fails with %s", strerrorname_np(-r));
		if (form->partly)
			form->partly();
		if (w.done_in_part) {
			state_take(&w.before);
			w.done_in_part = false;
		} else {
			state_same(form, mode, nth, struck);
		}
		r = run_it(form);
		if (r)
			FAILED("given again it fails with %s", strerrorname_np(-r));
	}
	form->check();
	end(nth % 3);
	other = totals_settle(&none, false);
	if (other >= 0)
		FAILED("%s are left behind", totals[other].name);
	return struck;
}

/* The same in a process of its own, which tells by its exit status. */
static unsigned int round_alone(const struct form *form, int mode, unsigned int nth, int *error)
{
	pid_t pid = test_fork();
	int status;

	if (!pid) {
		unsigned int struck;

		prepare_thread();
		struck = round_of(form, mode, nth, error);
		_exit((int)(0x80 | (*error == ENOMEM ? 0x40 : 0) | (*error == EFAULT ? 0x20 : 0) |
			    struck));
	}
	EQ(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || !(WEXITSTATUS(status) & 0x80))
		FAIL("failure %u: the process ended with status %#x", nth, status);
	*error = WEXITSTATUS(status) & 0x40 ? ENOMEM : WEXITSTATUS(status) & 0x20 ? EFAULT : 0;
	return WEXITSTATUS(status) & 0x1f;
}

void form_run(const struct form *form)
{
	unsigned int struck[2][N_FAULTS] = {}, failures[2][N_FAULTS] = {};
	unsigned int may = form->fails | (form->fails & SLAB ? PAGE : 0), seen = 0;

	if (geteuid())
		SKIP("only for root");
	totals_open();
	none = totals_read();
	prepare();
	if (!form->alone)
		prepare_thread();
	/*
	 * The allocators fetch memory for themselves now and then, which counts, and what
	 * comes after that may be passed over: then once more.
	 */
	for (int pass = 0; pass < 2 || (form->fails & ~seen && pass < 6); pass++) {
		int mode = pass == 1 ? ALL : ONE;

		if (mode == ALL && form->is_long)
			continue;
		for (unsigned int nth = 1;; nth++) {
			unsigned int kinds = 0;
			int error;
			unsigned int s = form->alone ? round_alone(form, mode, nth, &error) :
						       round_of(form, mode, nth, &error);

			if (!s)
				break;
			for (size_t i = 0; i < N_FAULTS; i++) {
				if (!(s & 1U << i))
					continue;
				struck[mode][i]++;
				if (error != faults[i].error)
					continue;
				failures[mode][i]++;
				kinds |= faults[i].kind;
			}
			if (kinds && !(may & kinds))
				FAIL("failure %u, of %s: this form does not fail for that", nth,
				     name_of(s));
			/* Where objects fail, too, pages need not be the reason. */
			seen |= kinds & SLAB ? kinds & ~(unsigned int)PAGE : kinds;
			LT(nth, 1000);
		}
	}
	if (getenv("BUS1_TEST_TIMES"))
		fprintf(stderr, "# %-52s %3u/%u objects, %u/%u pages, %u/%u copies; all: %u/%u\n",
			form->name, failures[ONE][1], struck[ONE][1], failures[ONE][2],
			struck[ONE][2], failures[ONE][0], struck[ONE][0], failures[ALL][1],
			struck[ALL][1]);
	for (size_t i = 0; i < N_FAULTS; i++)
		if (form->fails & faults[i].kind & ~seen)
			FAIL("no failure of %s was injected and noticed", faults[i].name);
}

static void skip(void)
{
	SKIP("this kernel makes nothing fail");
}

/* Where nothing can be made to fail there is one test, which says so. */
void form_register(struct test *test)
{
	static struct test skipped = { "EVD-3 every failure in turn", skip, 60, NULL };
	static bool is_there;

	if (!access(FAIL_NTH, F_OK) && !access(faults[0].times, F_OK))
		test_register(test);
	else if (!is_there)
		test_register(&skipped);
	is_there = true;
}
