// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * RES-3, RES-5: whose memory cgroup the pages of a pool are charged to, and
 * what happens at its limit.
 */
#include "idle.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * Cgroups of version 2, with the memory controller. A test has its own, a and
 * b, which are removed by the next one that wants them, if not by itself.
 */
#define CGROUPS "/sys/fs/cgroup/bus1-test"

static const char *cg_path(const char *group, const char *file)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), CGROUPS "-%s%s%s", group, *file ? "/" : "", file);
	return path;
}

static void cg_remove(const char *group)
{
	u64 end = test_deadline(20);

	while (rmdir(cg_path(group, "")) && errno != ENOENT) {
		if (test_now() > end)
			FAIL("%s: %s", cg_path(group, ""), strerrorname_np(errno));
		test_sleep_ms(10);
	}
}

static void cg_new(const char *group)
{
	if (geteuid())
		SKIP("only for root");
	if (write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory"))
		SKIP("there is no memory controller");
	cg_remove(group);
	OK(SYS(mkdir(cg_path(group, ""), 0755)));
}

static void cg_enter(const char *group)
{
	OK(write_file(cg_path(group, "cgroup.procs"), "0"));
}

static int cg_write(const char *group, const char *file, u64 value)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return write_file(cg_path(group, file), text);
}

/* A number in a file of a cgroup, after a key. */
static u64 cg_read(const char *group, const char *file, const char *key)
{
	char line[200], name[100];
	unsigned long long value;
	FILE *f = fopen(cg_path(group, file), "r");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%99s %llu", name, &value) == 2 && !strcmp(name, key)) {
			fclose(f);
			return value;
		}
	FAIL("no %s in %s", key, cg_path(group, file));
}

static u64 cg_kernel(const char *group)
{
	return cg_read(group, "memory.stat", "kernel");
}

/*
 * A child in a cgroup, which does one thing and stays until it is told to end.
 * Those that were made later keep it, too: they end first.
 */
struct child {
	pid_t pid;
	int in, out;
};

static struct child child_new(const char *group, void (*run)(void *), void *arg)
{
	struct child c;
	int in[2], out[2];
	char byte = 0;

	OK(SYS(pipe2(in, O_CLOEXEC)));
	OK(SYS(pipe2(out, O_CLOEXEC)));
	c.pid = test_fork();
	if (!c.pid) {
		close(in[1]);
		close(out[0]);
		cg_enter(group);
		run(arg);
		EQ(write(out[1], &byte, 1), 1);
		if (read(in[0], &byte, 1) < 0)
			_exit(1);
		_exit(0);
	}
	close(in[0]);
	close(out[1]);
	EQ(read(out[0], &byte, 1), 1);
	c.in = in[1];
	c.out = out[0];
	return c;
}

static void child_end(struct child *c)
{
	close(c->in);
	test_wait(c->pid);
	close(c->out);
}

#define MIB (1ULL << 20)

struct scene {
	struct peer owner, sender;
	u64 node, handle, size;
	size_t len;
	u32 n;
	int r;
};

static struct scene scene_new(u64 size)
{
	struct scene s = { .owner = peer_new(0), .sender = peer_new(0), .size = size };

	s.node = node_new(&s.owner, 1);
	s.handle = grant(&s.owner, s.node, &s.sender);
	return s;
}

static void scene_map(void *arg)
{
	struct scene *s = arg;

	pool_map(s->owner.fd, s->size);
}

static void scene_send(void *arg)
{
	static u8 data[1 << 16];
	struct scene *s = arg;

	for (u32 i = 0; i < s->n; i++)
		OK(send_data(&s->sender, s->handle, data, s->len));
}

TEST("RES-3 a pool is charged to the cgroup of who mapped it, messages to their senders'")
{
	struct scene s;
	struct child a, b, c;
	u64 kernel_a, kernel_b;

	cg_new("a");
	cg_new("b");
	s = scene_new(16 * MIB);
	a = child_new("a", scene_map, &s);
	kernel_a = cg_kernel("a");
	s.n = 64;
	s.len = 1 << 16;
	b = child_new("b", scene_send, &s);
	EQ(pages_of(&s.owner), 4 * MIB / page_size());
	GE(cg_kernel("a"), kernel_a + 4 * MIB - MIB / 4);
	LT(cg_kernel("b"), MIB);
	GE(cg_read("a", "memory.stat", "kernel"), 4 * MIB - MIB / 4);

	/* Messages that do not touch the pool. */
	kernel_a = cg_kernel("a");
	kernel_b = cg_kernel("b");
	s.n = 5000;
	s.len = 64;
	c = child_new("b", scene_send, &s);
	GE(cg_kernel("b"), kernel_b + 5000 * 200);
	LT(cg_kernel("a"), kernel_a + MIB / 2);

	/* And all of it comes back. */
	empty(&s.owner);
	shrink();
	EQ(pages_of(&s.owner), 0);
	LT(cg_kernel("a"), MIB);
	child_end(&c);
	child_end(&b);
	child_end(&a);
	peer_close(&s.owner);
	peer_close(&s.sender);
	cg_remove("a");
	cg_remove("b");
}

TEST("RES-5 a cgroup that is short of memory gets its own idle pages back, and no others'")
{
	struct scene s, t;
	struct child a, b;

	cg_new("a");
	cg_new("b");
	s = scene_new(8 * MIB);
	t = scene_new(8 * MIB);
	a = child_new("a", scene_map, &s);
	b = child_new("b", scene_map, &t);
	s.n = t.n = 32;
	s.len = t.len = 1 << 16;
	scene_send(&s);
	scene_send(&t);
	empty(&s.owner);
	empty(&t.owner);
	EQ(pages_of(&s.owner), 2 * MIB / page_size());
	EQ(pages_of(&t.owner), 2 * MIB / page_size());
	/* It fails when it has not got as much as that, whatever it got. */
	cg_write("a", "memory.reclaim", 8 * MIB);
	EQ(pages_of(&s.owner), 0);
	EQ(pages_of(&t.owner), 2 * MIB / page_size());
	child_end(&b);
	child_end(&a);
	peer_close(&s.owner);
	peer_close(&s.sender);
	peer_close(&t.owner);
	peer_close(&t.sender);
	cg_remove("a");
	cg_remove("b");
}

static void scene_flood(void *arg)
{
	static u8 data[1 << 16];
	struct scene *s = arg;

	for (s->n = 0; s->n < 1000; s->n++) {
		s->r = send_data(&s->sender, s->handle, data, sizeof(data));
		if (s->r)
			return;
	}
}

static void use_memory(void *arg)
{
	u8 *mem = mmap(NULL, *(u64 *)arg, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(mem != MAP_FAILED);
	for (u64 i = 0; i < *(u64 *)arg; i += page_size())
		mem[i] = 1;
}

TEST("RES-3 a sender that meets the limit of its receiver's cgroup fails, and nothing is killed")
{
	struct scene *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct child a, b, c;
	u64 limit = 12 * MIB, pages, want = 9 * MIB;

	CHECK(s != MAP_FAILED);
	cg_new("a");
	cg_new("b");
	*s = scene_new(64 * MIB);
	a = child_new("a", scene_map, s);
	OK(cg_write("a", "memory.max", limit));
	b = child_new("b", scene_flood, s);
	ERR(s->r, ENOMEM);
	pages = pages_of(&s->owner);
	GE(pages, limit / page_size() / 2);
	LE(pages, limit / page_size());
	EQ(peer_info(&s->owner).n_queued, s->n);
	EQ(cg_read("a", "memory.events", "oom_kill"), 0);
	EQ(cg_read("b", "memory.events", "max"), 0);

	/* When they are idle they make room for others of the cgroup, by themselves. */
	empty(&s->owner);
	EQ(pages_of(&s->owner), pages);
	c = child_new("a", use_memory, &want);
	LT(pages_of(&s->owner), pages / 2);
	EQ(cg_read("a", "memory.events", "oom_kill"), 0);
	child_end(&c);
	child_end(&b);
	child_end(&a);
	peer_close(&s->owner);
	peer_close(&s->sender);
	cg_remove("a");
	cg_remove("b");
}

/* Makes nodes until there is no memory for more; never returns. */
static void hog(u64 *handle, const struct peer *to)
{
	struct peer p = peer_new(0);

	*handle = grant(&p, node_new(&p, 1), to);
	cg_enter("b");
	while (!node_create(&p, &(struct bus1_cmd_node){}))
		;
	_exit(3);
}

TEST("RES-3 who is killed for want of memory in its cgroup leaves others whole")
{
	struct peer a = peer_new(1 << 16), b = peer_new(0);
	u64 n = node_new(&a, 1), to_a = grant(&a, n, &b), *handle;
	struct test_counts before, after;
	bool counted = test_counts(&before);
	int status;
	pid_t pid;

	handle = mmap(NULL, sizeof(*handle), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	CHECK(handle != MAP_FAILED);
	cg_new("b");
	OK(cg_write("b", "memory.max", 6 * MIB));
	/* What the kernel is about to report is meant to be: see logcheck.py. */
	OK(write_file("/dev/kmsg", "bus1 test: out of memory on purpose"));
	pid = test_fork();
	if (!pid)
		hog(handle, &a);
	EQ(OK(SYS(waitpid(pid, &status, 0))), pid);
	CHECK(WIFSIGNALED(status));
	EQ(WTERMSIG(status), SIGKILL);
	GE(cg_read("b", "memory.events", "oom_kill"), 1);

	GOT_DEAD(&a, *handle);
	OK(send_data(&b, to_a, "whole", 5));
	GOT_TEXT(&a, n, "whole");
	OK(release(&a, *handle));
	NOTHING(&a);
	if (counted) {
		CHECK(test_counts(&after));
		EQ(after.n[TEST_NODES], before.n[TEST_NODES]);
		EQ(after.n[TEST_PEERS], before.n[TEST_PEERS]);
	}
	cg_remove("b");
	OK(SYS(munmap(handle, sizeof(*handle))));
}

TEST("RES-3 a cgroup that is removed leaves its pool to the one above")
{
	struct scene s;
	struct child a;
	u8 data[5000];
	struct in in;

	cg_new("a");
	s = scene_new(MIB);
	a = child_new("a", scene_map, &s);
	s.n = 4;
	s.len = 1 << 15;
	scene_send(&s);
	child_end(&a);
	cg_remove("a");
	/* The file is still open here. */
	EQ(pages_of(&s.owner), (4 << 15) / page_size());
	empty(&s.owner);
	shrink();
	EQ(pages_of(&s.owner), 0);
	s.owner.pool = pool_map(s.owner.fd, s.owner.pool_size = MIB);
	fill(data, sizeof(data), 3);
	OK(send_data(&s.sender, s.handle, data, sizeof(data)));
	OK(recv_now(&s.owner, &in));
	MEM(in.data, data, sizeof(data));
	OK(slice_release(&s.owner, in.m.slice));
	shrink();
	EQ(pages_of(&s.owner), 0);
	peer_close(&s.owner);
	peer_close(&s.sender);
}
