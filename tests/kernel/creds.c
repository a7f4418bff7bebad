// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * MSG-7: the kernel stamps messages with who sent them, for nodes that ask for it,
 * as the namespaces of the receiver have it.
 */
#include "raw.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* A node that asks for stamps, and a sender's handle to it. */
struct pair {
	struct peer a, b;
	u64 n, to_n;
};

static u64 stamped_node(const struct peer *p, u64 cookie)
{
	struct bus1_cmd_node cmd = { .flags = BUS1_NODE_CREDS, .cookie = cookie };

	OK(node_create(p, &cmd));
	return cmd.id;
}

static struct pair pair_new(void)
{
	struct pair t = { .a = peer_new(1 << 16), .b = peer_new(0) };

	t.n = stamped_node(&t.a, 1);
	t.to_n = grant(&t.a, t.n, &t.b);
	return t;
}

/* The stamp of the message that comes next. */
static struct bus1_creds stamp(const struct peer *p)
{
	struct in in;
	const char *label;

	OK(recv_now(p, &in));
	EQ(in.m.type, BUS1_MSG_DATA);
	EQ(in.m.flags, BUS1_MSG_F_CREDS);
	/* The label is text, and what pads it is zero. */
	label = (const char *)(in.creds + 1);
	for (u32 i = 0; i < in.creds->label_len; i++)
		CHECK(label[i]);
	for (u32 i = in.creds->label_len; i % 8; i++)
		EQ(label[i], 0);
	return *in.creds;
}

#define STAMP(p, pid_, tid_, uid_, gid_)					\
	do {									\
		struct bus1_creds c_ = stamp(p);				\
										\
		EQ(c_.pid, pid_);						\
		EQ(c_.tid, tid_);						\
		EQ(c_.uid, uid_);						\
		EQ(c_.gid, gid_);						\
	} while (0)

static pid_t tid(void)
{
	return (pid_t)syscall(SYS_gettid);
}

static void need_root(void)
{
	if (geteuid())
		SKIP("only for root");
}

static u32 overflow_id(const char *which)
{
	char path[64], text[16] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/kernel/overflow%s", which);
	fd = (int)OK(SYS(open(path, O_RDONLY | O_CLOEXEC)));
	GT(OK(SYS(read(fd, text, sizeof(text) - 1))), 0);
	close_fd(fd);
	return (u32)atol(text);
}

static void send_from_thread(void *arg)
{
	struct pair *t = arg;

	OK(send_str(&t->b, t->to_n, "thread"));
}

TEST("MSG-7 a stamp says which thread of which process sent it, and as whom")
{
	struct pair t = pair_new();
	struct test_thread thread;
	pid_t pid;

	OK(send_str(&t.b, t.to_n, "main"));
	STAMP(&t.a, getpid(), tid(), geteuid(), getegid());
	test_start(&thread, send_from_thread, &t);
	test_join(&thread);
	NE(thread.tid, tid());
	STAMP(&t.a, getpid(), thread.tid, geteuid(), getegid());
	/* The peer is inherited: it is who sends that counts, not who opened it. */
	pid = test_fork();
	if (!pid) {
		OK(send_str(&t.b, t.to_n, "child"));
		_exit(0);
	}
	test_wait(pid);
	STAMP(&t.a, pid, pid, geteuid(), getegid());
	/* To oneself, through a facet, through the pool, and with many. */
	OK(send_str(&t.a, t.n, "self"));
	STAMP(&t.a, getpid(), tid(), geteuid(), getegid());
	OK(send_str(&t.b, grant(&t.a, facet_new(&t.a, t.n, 3), &t.b), "facet"));
	STAMP(&t.a, getpid(), tid(), geteuid(), getegid());
	OK(send_str(&t.b, grant(&t.a, once_new(&t.a, t.n, 3), &t.b), "once"));
	STAMP(&t.a, getpid(), tid(), geteuid(), getegid());
	OK(send_data(&t.b, t.to_n, (u8[5000]){}, 5000));
	STAMP(&t.a, getpid(), tid(), geteuid(), getegid());
}

TEST("MSG-7 only who asks for it gets stamps, of each message by itself")
{
	struct pair t = pair_new();
	u64 plain = node_new(&t.a, 2), dests[] = { t.to_n, grant(&t.a, plain, &t.b), t.to_n };
	struct in in;

	OK(send_many(&t.b, 0, dests, 3, NULL, "x"));
	STAMP(&t.a, getpid(), tid(), geteuid(), getegid());
	OK(recv_now(&t.a, &in));
	EQ(in.m.id, plain);
	EQ(in.m.flags, 0);
	EQ(in.m.creds, 0);
	STAMP(&t.a, getpid(), tid(), geteuid(), getegid());
	/* Notices have none. */
	OK(release(&t.b, t.to_n));
	OK(recv_now(&t.a, &in));
	EQ(in.m.type, BUS1_MSG_NODE_UNUSED);
	EQ(in.m.flags, 0);
}

TEST("MSG-7 a stamp takes room in the buffer, and is told when there is none")
{
	struct pair t = pair_new();
	struct bus1_msg m;
	struct bus1_cmd_recv cmd = {
		.flags = BUS1_RECV_NONBLOCK, .msgs = PTR(&m), .n_msgs = 1, .msg_size = sizeof(m) };
	u64 *buf;
	u32 need;

	OK(send_cmd(&t.b, &(struct bus1_cmd_send){ .dest = t.to_n }));
	ERR(recv_cmd(&t.a, &cmd), EMSGSIZE);
	need = cmd.buf_used;
	GE(need, sizeof(struct bus1_creds));
	EQ(need % 8, 0);
	buf = edge_alloc(need);
	for (u32 size = need - 8; ; size += 8) {
		cmd.n_msgs = 1;
		cmd.buf_used = 0;
		cmd.buf = PTR(buf);
		cmd.buf_size = size;
		if (size == need)
			break;
		ERR(recv_cmd(&t.a, &cmd), EMSGSIZE);
	}
	OK(recv_cmd(&t.a, &cmd));
	EQ(m.flags, BUS1_MSG_F_CREDS);
	EQ(((struct bus1_creds *)((u8 *)buf + m.creds))->pid, getpid());
}

TEST("MSG-7 effective ids, as they were when it was sent")
{
	struct pair t = pair_new();
	pid_t pid;

	need_root();
	pid = test_fork();
	if (!pid) {
		OK(send_str(&t.b, t.to_n, "as root"));
		OK(SYS(setresgid(2001, 2002, 2003)));
		OK(SYS(setresuid(1001, 1002, 0)));
		OK(send_str(&t.b, t.to_n, "as another"));
		OK(SYS(setresuid(0, 0, 0)));
		_exit(0);
	}
	/* It is gone when they are received, and its pid is still that. */
	test_wait(pid);
	STAMP(&t.a, pid, pid, 0, getegid());
	STAMP(&t.a, pid, pid, 1002, 2002);
}

/*
 * What the processes of a test of namespaces share. Each step is taken by one of
 * them, when it is its turn.
 */
struct shared {
	int step;
	pid_t outer;			/* what the test calls the inner process */
};

static struct shared *shared_new(void)
{
	struct shared *s = mmap(NULL, page_size(), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(s != MAP_FAILED);
	return s;
}

static void turn(struct shared *s, int step)
{
	u64 end = test_deadline(30);

	while (__atomic_load_n(&s->step, __ATOMIC_ACQUIRE) != step) {
		if (test_now() > end)
			FAIL("step %d does not come", step);
		test_sleep_ms(1);
	}
}

static void next(struct shared *s)
{
	__atomic_add_fetch(&s->step, 1, __ATOMIC_RELEASE);
}

TEST("MSG-7 pids are those of the receiver's namespace, or 0")
{
	struct pair t = pair_new();
	struct shared *s = shared_new();
	struct peer q = peer_new(0);
	u64 nq = stamped_node(&q, 2), to_q = grant(&q, nq, &t.b);
	pid_t middle;

	need_root();
	middle = test_fork();
	if (!middle) {
		pid_t pid;

		if (unshare(CLONE_NEWPID))
			SKIP("no pid namespace: %s", strerrorname_np(errno));
		pid = test_fork();
		if (!pid) {
			EQ(getpid(), 1);
			OK(send_str(&t.b, t.to_n, "from inside"));
			next(s);
			turn(s, 2);
			/* What a process outside sent, received in here. */
			STAMP(&q, 0, 0, 0, getegid());
			OK(send_str(&t.b, to_q, "from inside to inside"));
			STAMP(&q, 1, 1, 0, getegid());
			next(s);
			/* A thread and a child of it. */
			pid = test_fork();
			if (!pid) {
				OK(send_str(&t.b, to_q, "grandchild"));
				_exit(0);
			}
			test_wait(pid);
			GT(pid, 1);
			STAMP(&q, pid, pid, 0, getegid());
			_exit(0);
		}
		__atomic_store_n(&s->outer, pid, __ATOMIC_RELEASE);
		test_wait(pid);
		_exit(0);
	}
	while (!__atomic_load_n(&s->step, __ATOMIC_ACQUIRE) ||
	       !__atomic_load_n(&s->outer, __ATOMIC_ACQUIRE)) {
		if (waitpid(middle, NULL, WNOHANG) == middle)
			FAIL("the child is gone");
		test_sleep_ms(1);
	}
	GT(s->outer, 1);
	STAMP(&t.a, s->outer, s->outer, 0, getegid());
	OK(send_str(&t.b, to_q, "from outside"));
	next(s);
	test_wait(middle);
	/* From a process that was in a namespace which is no more. */
	NOTHING(&t.a);
}

static void write_map(pid_t pid, const char *which, u32 inside, u32 outside)
{
	char path[64], text[64];
	int fd, n;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, which);
	n = snprintf(text, sizeof(text), "%u %u 1\n", inside, outside);
	fd = (int)OK(SYS(open(path, O_WRONLY | O_CLOEXEC)));
	EQ(OK(SYS(write(fd, text, (size_t)n))), n);
	close_fd(fd);
}

TEST("MSG-7 ids are those of the receiver's namespace, or the overflow ids")
{
	struct pair t = pair_new();
	struct shared *s = shared_new();
	struct peer q = peer_new(0);
	u64 nq = stamped_node(&q, 2), to_q = grant(&q, nq, &t.b);
	u32 no_uid = overflow_id("uid"), no_gid = overflow_id("gid");
	pid_t pid;

	need_root();
	pid = test_fork();
	if (!pid) {
		if (unshare(CLONE_NEWUSER))
			SKIP("no user namespace: %s", strerrorname_np(errno));
		/* Nothing is mapped in here, not even oneself. */
		OK(send_str(&t.b, t.to_n, "unmapped"));
		OK(send_str(&t.b, to_q, "unmapped"));
		STAMP(&q, getpid(), getpid(), no_uid, no_gid);
		next(s);
		turn(s, 2);
		OK(SYS(setresgid(7, 7, 7)));
		OK(SYS(setresuid(8, 8, 8)));
		OK(send_str(&t.b, t.to_n, "mapped"));
		OK(send_str(&t.b, to_q, "mapped"));
		STAMP(&q, getpid(), getpid(), 8, 7);
		next(s);
		turn(s, 4);
		/* By root outside, who is nobody in here; pids are what they are. */
		STAMP(&q, getppid(), getppid(), no_uid, no_gid);
		_exit(0);
	}
	while (__atomic_load_n(&s->step, __ATOMIC_ACQUIRE) != 1) {
		if (waitpid(pid, NULL, WNOHANG) == pid)
			FAIL("the child is gone");
		test_sleep_ms(1);
	}
	STAMP(&t.a, pid, pid, 0, getegid());
	write_map(pid, "uid_map", 8, 5008);
	write_map(pid, "gid_map", 7, 6007);
	next(s);
	turn(s, 3);
	STAMP(&t.a, pid, pid, 5008, 6007);
	OK(send_str(&t.b, to_q, "from outside"));
	next(s);
	test_wait(pid);
}

TEST("MSG-7 a sender that ended long ago, and others that have its pid meanwhile")
{
	struct pair t = pair_new();
	pid_t pids[20];

	for (int i = 0; i < 20; i++) {
		pids[i] = test_fork();
		if (!pids[i]) {
			OK(send_str(&t.b, t.to_n, "x"));
			_exit(0);
		}
		test_wait(pids[i]);
	}
	for (int i = 0; i < 20; i++)
		STAMP(&t.a, pids[i], pids[i], geteuid(), getegid());
	/* And some that nobody reads. */
	for (int i = 0; i < 20; i++) {
		pid_t pid = test_fork();

		if (!pid) {
			OK(send_str(&t.b, t.to_n, "x"));
			_exit(0);
		}
		test_wait(pid);
		if (i % 2)
			OK(drop_now(&t.a, &(struct bus1_msg){}));
	}
}

TEST("MSG-7 a stamp is not the receiver's doing, nor the peer's that it came from")
{
	struct pair t = pair_new();
	u32 gid = getegid();
	pid_t pid;

	need_root();
	/* Received by another than who made the node, with other ids. */
	OK(send_str(&t.b, t.to_n, "x"));
	pid = test_fork();
	if (!pid) {
		OK(SYS(setresgid(2001, 2001, 2001)));
		OK(SYS(setresuid(1001, 1001, 1001)));
		STAMP(&t.a, getppid(), getppid(), 0, gid);
		_exit(0);
	}
	test_wait(pid);
}
