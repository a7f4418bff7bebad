// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * MSG-5: sealed memfds as buffers. What lacks a seal is refused; what is opened is
 * read-only; and the memory is there as long as the buffer is, or somebody has opened it.
 */
#include "buffer.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif
#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4U
#endif

int memfd_new(const void *data, size_t n, int seals)
{
	int fd = (int)OK(SYS(memfd_create("buffer", MFD_CLOEXEC | MFD_ALLOW_SEALING)));

	EQ(OK(SYS(write(fd, data, n))), n);
	OK(SYS(fcntl(fd, F_ADD_SEALS, seals)));
	return fd;
}

static int buffer_cmd(const struct peer *p, u64 flags, int fd, struct bus1_cmd_buffer *cmd)
{
	*cmd = (struct bus1_cmd_buffer){ .flags = flags, .cookie = 77, .fd = fd };
	return raw(p, BUS1_CMD_BUFFER_CREATE, cmd);
}

static int create(const struct peer *p, u64 flags, int fd)
{
	struct bus1_cmd_buffer cmd;
	int r = buffer_cmd(p, flags, fd, &cmd);

	if (r == 0)
		OK(destroy(p, cmd.id));
	else
		EQ(cmd.id | cmd.size, 0);
	return r;
}

u64 buffer_new(const struct peer *p, u64 flags, int fd, u64 size)
{
	struct bus1_cmd_buffer cmd;

	OK(buffer_cmd(p, flags, fd, &cmd));
	NE(cmd.id, 0);
	EQ(cmd.size, size);
	return cmd.id;
}

int open_buffer(const struct peer *p, u64 id, u64 flags, u64 size)
{
	struct bus1_cmd_open cmd = { .id = id };
	int r = raw(p, BUS1_CMD_BUFFER_OPEN, &cmd);

	if (r) {
		EQ(cmd.flags | cmd.size, 0);
		EQ(cmd.fd, 0);
		return r;
	}
	EQ(cmd.flags, flags);
	EQ(cmd.size, size);
	EQ(OK(SYS(fcntl(cmd.fd, F_GETFD))), FD_CLOEXEC);
	return cmd.fd;
}

void opens(const struct peer *p, u64 id, const void *data, size_t n)
{
	int fd = (int)OK(open_buffer(p, id, 0, n));
	void *m = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);

	CHECK(m != MAP_FAILED);
	MEM(m, data, n);
	OK(SYS(munmap(m, n)));
	close_fd(fd);
}

struct buffered *buffered_new(void)
{
	struct buffered *t = calloc(1, sizeof(*t));

	t->a = peer_new(0);
	t->b = peer_new(1 << 16);
	t->nb = node_new(&t->b, 0xb);
	t->to_b = grant(&t->b, t->nb, &t->a);
	fill(t->data, SIZE, 5);
	t->fd = memfd_new(t->data, SIZE, SEALED);
	t->buffer = buffer_new(&t->a, 0, t->fd, SIZE);
	t->handle = grant(&t->a, t->buffer, &t->b);
	return t;
}

int send_body(const struct peer *p, u64 dest, u64 id, u32 pass, u64 offset, u64 len)
{
	struct bus1_pass h = { .id = id, .flags = pass };

	return send_cmd(p, &(struct bus1_cmd_send){
		.flags = BUS1_SEND_BODY, .dest = dest, .handles = PTR(&h), .n_handles = 1,
		.body_offset = offset, .body_len = len });
}

int send_memfd(const struct peer *p, u64 dest, u64 flags, s32 fd, u64 offset, u64 len)
{
	return send_cmd(p, &(struct bus1_cmd_send){
		.flags = BUS1_SEND_MEMFD | flags, .dest = dest, .fds = PTR(&fd), .n_fds = 1,
		.body_offset = offset, .body_len = len });
}

void got_body(const struct peer *p, struct in *in, u64 id, u64 offset, u64 len)
{
	OK(recv_now(p, in));
	EQ(in->m.type, BUS1_MSG_DATA);
	EQ(in->m.flags, BUS1_MSG_F_BODY);
	EQ(in->m.body_offset, offset);
	EQ(in->m.body_len, len);
	EQ(in->m.n_handles, 1);
	EQ(in->h[0].id, id);
}

TEST("MSG-5 who holds a buffer opens it, read-only, and has its bytes")
{
	struct buffered *t = buffered_new();
	u64 facet = facet_new(&t->a, t->buffer, 9);
	u64 revocable = grant(&t->a, facet, &t->b);
	int one, two;

	/* It has the file, whoever else has. */
	close_fd(t->fd);
	opens(&t->b, t->handle, t->data, SIZE);
	opens(&t->b, revocable, t->data, SIZE);
	opens(&t->a, t->buffer, t->data, SIZE);
	opens(&t->a, facet, t->data, SIZE);

	one = open_buffer(&t->b, t->handle, 0, SIZE);
	two = open_buffer(&t->b, t->handle, 0, SIZE);
	EQ(OK(SYS(fcntl(one, F_GETFL))) & O_ACCMODE, O_RDONLY);
	ERR(SYS(write(one, "x", 1)), EBADF);
	ERR(SYS(ftruncate(one, 1)), EINVAL);
	ERR(SYS(fallocate(one, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)), EBADF);
	ERR(SYS(fcntl(one, F_ADD_SEALS, F_SEAL_SEAL)), EPERM);
	CHECK(mmap(NULL, SIZE, PROT_WRITE, MAP_SHARED, one, 0) == MAP_FAILED);
	EQ(errno, EACCES);
	/* No two have a position in common. */
	EQ(OK(SYS(lseek(one, 100, SEEK_SET))), 100);
	EQ(OK(SYS(lseek(two, 0, SEEK_CUR))), 0);
	close_fd(one);
	close_fd(two);
}

TEST("MSG-5 a file that could still change is refused, whichever seal it lacks")
{
	static const int all[] = { F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE,
				   F_SEAL_SEAL };
	struct buffered *t = buffered_new();
	struct bus1_cmd_info before = peer_info(&t->a);

	for (u32 set = 0; set < 1u << ARRAY_SIZE(all); set++) {
		bool fixed, written;
		int seals = 0, fd;

		for (u32 i = 0; i < ARRAY_SIZE(all); i++)
			if (set >> i & 1)
				seals |= all[i];
		fd = memfd_new(t->data, SIZE, seals);
		fixed = (seals & SIZED) == SIZED;
		written = seals & F_SEAL_WRITE;
		for (int shared = 0; shared < 2; shared++) {
			bool good = fixed && (written || (shared && seals & F_SEAL_FUTURE_WRITE));
			int r = create(&t->a, shared ? BUS1_BUFFER_SHARED : 0, fd);
			int s = send_memfd(&t->a, t->to_b, shared ? BUS1_SEND_SHARED : 0, fd, 0, SIZE);

			EQ(r, good ? 0 : -ETXTBSY);
			EQ(s, good ? 0 : -ETXTBSY);
			if (good) {
				struct in in;

				OK(recv_now(&t->b, &in));
				EQ(in.m.flags, BUS1_MSG_F_MEMFD | BUS1_MSG_F_FDS_CLOSED |
					       (written ? 0 : BUS1_MSG_F_SHARED));
			}
		}
		close_fd(fd);
	}
	SAME_INFO(&t->a, &before);
	NOTHING(&t->b);
}

TEST("MSG-5 what is no memfd is refused")
{
	struct buffered *t = buffered_new();
	struct { int fd, err; const char *what; } bad[16];
	char path[64];
	int fds[2], n = 0, fd;

#define BAD(fd_, err_) (bad[n].fd = (fd_), bad[n].err = (err_), bad[n++].what = #fd_)
	snprintf(path, sizeof(path), "/proc/self/fd/%d", t->fd);
	OK(SYS(pipe2(fds, O_CLOEXEC)));
	BAD(fds[0], EMEDIUMTYPE);
	BAD(open("/dev/null", O_RDWR | O_CLOEXEC), EMEDIUMTYPE);
	BAD(open("/proc/self/status", O_RDONLY | O_CLOEXEC), EMEDIUMTYPE);
	BAD(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), EMEDIUMTYPE);
	BAD(open(path, O_PATH | O_CLOEXEC), EBADF);
	BAD(fds[1], EBADF);		/* not for reading */
	BAD(-1, EBADF);
	BAD(-100, EBADF);
	BAD(9999, EBADF);
	/* Of what is not sealed it can be had for writing alone. */
	fd = memfd_new("x", 1, SIZED);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	BAD(open(path, O_WRONLY | O_CLOEXEC), EBADF);
	/* A file of a file system of the same kind has no seals, and can have none. */
	fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		BAD(fd, ETXTBSY);
	fd = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
	if (fd >= 0) {
		OK(SYS(fcntl(fd, F_ADD_SEALS, SEALED)));
		BAD(fd, EMEDIUMTYPE);
	}
#undef BAD
	for (int i = 0; i < n; i++) {
		int r = create(&t->a, 0, bad[i].fd);
		int s = send_memfd(&t->a, t->to_b, 0, bad[i].fd, 0, 0);

		if (r != -bad[i].err || s != -bad[i].err)
			FAIL("%s: %s and %s, should be %s", bad[i].what, strerrorname_np(-r),
			     strerrorname_np(-s), strerrorname_np(bad[i].err));
	}
	/* A peer is no memfd as a buffer, and no file to send at all. */
	ERR(create(&t->a, 0, t->a.fd), EMEDIUMTYPE);
	ERR(send_memfd(&t->a, t->to_b, 0, t->a.fd, 0, 0), ELOOP);
	NOTHING(&t->b);
	/* What can be read and is sealed will do, however it was opened. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", t->fd);
	fd = (int)OK(SYS(open(path, O_RDONLY | O_CLOEXEC)));
	OK(create(&t->a, 0, fd));
	/* It may be empty. */
	OK(create(&t->a, 0, memfd_new("", 0, SEALED)));
}

TEST("MSG-5 a buffer takes no messages")
{
	struct buffered *t = buffered_new();
	u64 facet = facet_new(&t->a, t->buffer, 1), dests[3] = { t->to_b, t->buffer, facet };
	struct bus1_cmd_info before = peer_info(&t->a);
	s32 errors[3];
	u64 id;

	ERR(send_str(&t->b, t->handle, "x"), EOPNOTSUPP);
	ERR(send_data(&t->b, t->handle, NULL, 0), EOPNOTSUPP);
	ERR(send_id(&t->b, t->handle, t->nb), EOPNOTSUPP);
	ERR(send_str(&t->b, grant(&t->a, facet, &t->b), "x"), EOPNOTSUPP);
	ERR(send_str(&t->a, t->buffer, "x"), EOPNOTSUPP);
	ERR(send_str(&t->a, facet, "x"), EOPNOTSUPP);
	ERR(send_body(&t->b, t->handle, t->handle, 0, 0, 1), EOPNOTSUPP);
	ERR(send_many(&t->a, 0, dests, 3, errors, "x"), EOPNOTSUPP);
	EQ(errors[0], 0);
	EQ(errors[1], -EOPNOTSUPP);
	EQ(errors[2], -EOPNOTSUPP);
	NOTHING(&t->b);
	OK(send_many(&t->a, BUS1_SEND_PARTIAL, dests, 3, errors, "x"));
	GOT_TEXT(&t->b, t->nb, "x");
	EQ(errors[1], -EOPNOTSUPP);
	/* So a facet for one message would carry none. */
	ERR(mint(&t->a, BUS1_MINT_ONCE, t->buffer, 1, &id), EINVAL);
	SAME_INFO(&t->a, &before);
	NOTHING(&t->a);
}

TEST("MSG-5 a buffer that is destroyed opens no more; who has opened it keeps it")
{
	struct buffered *t = buffered_new();
	u64 facet = facet_new(&t->a, t->buffer, 1), revocable = grant(&t->a, facet, &t->b);
	int fd = (int)OK(open_buffer(&t->b, t->handle, 0, SIZE));
	u64 other, exported = 0;
	u8 *m = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);

	CHECK(m != MAP_FAILED);
	/* Revoked by its badge: the others are as they were. */
	OK(destroy(&t->a, facet));
	GOT_DEAD(&t->b, revocable);
	ERR(open_buffer(&t->b, revocable, 0, 0), EHOSTUNREACH);
	ERR(send_body(&t->b, t->nb, revocable, 0, 0, 1), EHOSTUNREACH);
	opens(&t->b, t->handle, t->data, SIZE);

	facet = facet_new(&t->a, t->buffer, 1);
	revocable = grant(&t->a, facet, &t->b);
	OK(destroy(&t->a, t->buffer));
	GOT_NOTICES(&t->b, { BUS1_MSG_NODE_DEAD, t->handle }, { BUS1_MSG_NODE_DEAD, revocable });
	ERR(open_buffer(&t->b, t->handle, 0, 0), EHOSTUNREACH);
	ERR(open_buffer(&t->b, revocable, 0, 0), EHOSTUNREACH);
	ERR(send_body(&t->b, t->nb, t->handle, 0, 0, 1), EHOSTUNREACH);
	ERR(open_buffer(&t->a, t->buffer, 0, 0), ENXIO);
	ERR(send_body(&t->a, t->to_b, t->buffer, 0, 0, 1), ENXIO);
	NOTHING(&t->b);
	/* It can still be passed on as a handle that is dead. */
	OK(send_id(&t->b, t->nb, t->handle));
	EQ(GOT_HANDLE(&t->b, t->nb).flags, BUS1_HANDLE_DEAD);
	MEM(m, t->data, SIZE);
	close_fd(fd);

	/* The same as the owner goes; in a message it comes, and is dead. */
	other = buffer_new(&t->a, 0, t->fd, SIZE);
	OK(send_body(&t->a, t->to_b, other, 0, 0, 9));
	exported = (u64)OK(export_fd(&t->a, other, 0));
	peer_close(&t->a);
	for (u32 seen = 0; seen != (1u << BUS1_MSG_DATA | 1u << BUS1_MSG_NODE_DEAD |
				     1u << BUS1_MSG_NODE_UNUSED);) {
		struct in in;

		OK(recv_now(&t->b, &in));
		seen |= 1u << in.m.type;
		if (in.m.type != BUS1_MSG_DATA)
			continue;
		EQ(in.m.flags, BUS1_MSG_F_BODY);
		EQ(in.h[0].flags, BUS1_HANDLE_DEAD);
		ERR(open_buffer(&t->b, in.h[0].id, 0, 0), EHOSTUNREACH);
	}
	ERR(open_buffer(&t->b, import_fd(&t->b, (int)exported), 0, 0), EHOSTUNREACH);
	close_fd((int)exported);
	MEM(m, t->data, SIZE);
}

TEST("MSG-5 the owner is told when nobody uses a buffer any more")
{
	struct buffered *t = buffered_new();
	struct in in;

	OK(release(&t->b, t->handle));
	GOT_UNUSED(&t->a, t->buffer, 1);
	/* On its way it is used, and comes with a count. */
	OK(send_body(&t->a, t->to_b, t->buffer, 0, 0, 1));
	ERR(destroy_unused(&t->a, t->buffer), EBUSY);
	NOTHING(&t->a);
	OK(recv_now(&t->b, &in));
	opens(&t->b, in.h[0].id, t->data, SIZE);
	ERR(destroy_unused(&t->a, t->buffer), EBUSY);
	OK(release(&t->b, in.h[0].id));
	GOT_UNUSED(&t->a, t->buffer, 2);
	/* Dropped, it is unused as well; and an open descriptor is no user. */
	OK(send_body(&t->a, t->to_b, t->buffer, 0, 0, 1));
	OK(drop_now(&t->b, &in.m));
	EQ(in.m.flags, BUS1_MSG_F_DROPPED);
	GOT_UNUSED(&t->a, t->buffer, 3);
	OK(destroy_unused(&t->a, t->buffer));
}

TEST("MSG-5 what is shared says so, and only who could write still can")
{
	struct buffered *t = buffered_new();
	int fd = memfd_new(t->data, SIZE, SIZED), mine;
	u8 *w = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *m;
	u64 shared, handle;
	char path[64];
	struct in in;

	CHECK(w != MAP_FAILED);
	ERR(SYS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE)), EBUSY);
	OK(SYS(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)));
	ERR(create(&t->a, 0, fd), ETXTBSY);
	shared = buffer_new(&t->a, BUS1_BUFFER_SHARED, fd, SIZE);
	OK(send_body(&t->a, t->to_b, shared, 0, 0, SIZE));
	OK(recv_now(&t->b, &in));
	EQ(in.m.flags, BUS1_MSG_F_BODY | BUS1_MSG_F_SHARED);
	handle = in.h[0].id;
	mine = (int)OK(open_buffer(&t->b, handle, BUS1_BUFFER_SHARED, SIZE));
	m = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, mine, 0);
	CHECK(m != MAP_FAILED);
	MEM(m, t->data, SIZE);
	w[17] ^= 0xff;
	EQ(m[17], w[17]);
	ERR(SYS(mprotect(m, SIZE, PROT_READ | PROT_WRITE)), EACCES);
	/* Opened anew for writing it can be, but not written; nor can holes be made, nor it cut. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", mine);
	close_fd(fd);
	fd = (int)OK(SYS(open(path, O_RDWR | O_CLOEXEC)));
	ERR(SYS(write(fd, "x", 1)), EPERM);
	ERR(SYS(ftruncate(fd, 1)), EPERM);
	ERR(SYS(ftruncate(fd, SIZE * 2)), EPERM);
	ERR(SYS(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)), EPERM);
	CHECK(mmap(NULL, SIZE, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	EQ(errno, EPERM);
	/* A seal that is more than was asked for is not called shared. */
	shared = buffer_new(&t->a, BUS1_BUFFER_SHARED, t->fd, SIZE);
	close_fd((int)OK(open_buffer(&t->a, shared, 0, SIZE)));
}

TEST("MSG-5 ABI-2 a buffer that can not be told of is not there")
{
	struct buffered *t = buffered_new();
	struct bus1_cmd_info before = peer_info(&t->a);
	struct bus1_cmd_buffer buffer = { .fd = t->fd };
	struct bus1_cmd_open cmd = { .id = t->handle }, *p;
	u32 fds = open_fds();

	ERR(raw(&t->a, BUS1_CMD_BUFFER_CREATE, read_only(&buffer, sizeof(buffer))), EFAULT);
	SAME_INFO(&t->a, &before);
	ERR(raw(&t->b, BUS1_CMD_BUFFER_OPEN, read_only(&cmd, sizeof(cmd))), EFAULT);
	EQ(open_fds(), fds);
	/* Right up to the edge it works. */
	p = edge_alloc(sizeof(cmd));
	*p = cmd;
	OK(raw(&t->b, BUS1_CMD_BUFFER_OPEN, p));
	EQ(p->size, SIZE);
	close_fd(p->fd);
	EQ(open_fds(), fds);
}

TEST("MSG-5 a lease that the maker has on a memfd stalls nobody")
{
	struct buffered *t = buffered_new();
	u64 start = test_now(), handle;
	char path[64];
	int maker, fd;

	/* For that it has to be the one who has opened it, by its name. */
	fd = memfd_new(t->data, SIZE, SEALED);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	maker = (int)OK(SYS(open(path, O_RDWR | O_CLOEXEC)));
	close_fd(fd);
	handle = grant(&t->a, buffer_new(&t->a, 0, maker, SIZE), &t->b);
	signal(SIGIO, SIG_IGN);
	OK(SYS(fcntl(maker, F_SETLEASE, F_WRLCK)));
	ERR(open_buffer(&t->b, handle, 0, 0), ETXTBSY);
	LT(test_now() - start, 10000000000 * test_slow());
	OK(SYS(fcntl(maker, F_SETLEASE, F_UNLCK)));
	fd = (int)OK(open_buffer(&t->b, handle, 0, SIZE));
	EQ(OK(SYS(fcntl(fd, F_GETFL))) & O_NONBLOCK, 0);
}

/* KiB of shared memory in the machine. */
static long shmem(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	long kib = -1;

	CHECK(f);
	while (kib < 0 && fgets(line, sizeof(line), f))
		sscanf(line, "Shmem: %ld", &kib);
	fclose(f);
	GE(kib, 0);
	return kib;
}

/* What ends a buffer lets its memory go, though there are handles: soon, as files do. */
TEST("MSG-5 the memory of a buffer goes with the buffer")
{
	enum { MIB = 16 };
	struct buffered *t = buffered_new();
	u8 *data = malloc(MIB << 20);

	memset(data, 1, MIB << 20);
	for (int way = 0; way < 4; way++) {
		long before = shmem();
		struct peer owner = peer_new(0);
		int fd = memfd_new(data, MIB << 20, SEALED);
		u64 deadline, buffer = buffer_new(&owner, 0, fd, MIB << 20);
		u64 handle = grant(&owner, buffer, &t->b);

		close_fd(fd);
		GE(shmem(), before + (MIB - 4) * 1024);
		if (way == 0) {
			OK(destroy(&owner, buffer));
		} else if (way == 1) {
			peer_close(&owner);
		} else if (way == 2) {
			OK(release(&t->b, handle));
			GOT_UNUSED(&owner, buffer, 1);
			OK(destroy_unused(&owner, buffer));
		} else {
			/* A message that waits has a handle, and dies with it. */
			OK(send_body(&owner, grant(&t->b, t->nb, &owner), buffer, 0, 0, 1));
			OK(destroy(&owner, buffer));
		}
		deadline = test_deadline(10);
		while (shmem() > before + 4 * 1024) {
			if (test_now() > deadline)
				FAIL("way %d: %ld KiB more than before", way, shmem() - before);
			test_sleep_ms(10);
		}
		if (way != 1)
			peer_close(&owner);
		drain(&t->b);
	}
}

struct duel {
	struct buffered *t;
	u64 buffer, handle;
	int result;
};

static void open_once(void *arg)
{
	struct duel *d = arg;
	struct bus1_cmd_open cmd = { .id = d->handle };

	d->result = raw(&d->t->b, BUS1_CMD_BUFFER_OPEN, &cmd);
	if (d->result == 0)
		d->result = cmd.fd;
}

/* Whoever is first: it was opened, and has its bytes; or it is gone. */
TEST("MSG-5 a buffer is opened while it is destroyed")
{
	struct buffered *t = buffered_new();
	u32 rounds = test_rounds(300);

	for (u32 i = 0; i < rounds; i++) {
		struct duel d = { .t = t };
		struct test_thread thread;
		u8 byte;

		d.buffer = buffer_new(&t->a, 0, t->fd, SIZE);
		d.handle = grant(&t->a, d.buffer, &t->b);
		test_start(&thread, open_once, &d);
		for (volatile u32 k = 0; k < i % 64 * 50; k++)
			;
		OK(destroy(&t->a, d.buffer));
		test_join(&thread);
		if (d.result >= 0) {
			EQ(OK(SYS(pread(d.result, &byte, 1, SIZE - 1))), 1);
			EQ(byte, t->data[SIZE - 1]);
			close_fd(d.result);
		} else {
			EQ(d.result, -EHOSTUNREACH);
		}
		GOT_DEAD(&t->b, d.handle);
		OK(release(&t->b, d.handle));
	}
}

/* A buffer keeps a file that no descriptor has, so it counts as one in a message does. */
TEST_LONG("MSG-5 RES-1 the files that buffers keep are counted, and given back", 120)
{
	struct buffered *t = buffered_new();
	struct bus1_cmd_buffer cmd;
	struct peer other;
	u32 n = 0;
	int r;

	while ((r = buffer_cmd(&t->a, 0, t->fd, &cmd)) == 0)
		LT(++n, 1u << 17);
	EQ(r, -EDQUOT);
	GT(n, 1000);
	/* Whatever ends one lets there be another, in any peer of the user's. */
	other = peer_new(0);
	ERR(create(&other, 0, t->fd), EDQUOT);
	OK(destroy(&t->a, t->buffer));
	OK(buffer_cmd(&other, 0, t->fd, &cmd));
	ERR(create(&t->a, 0, t->fd), EDQUOT);
	peer_close(&other);
	OK(create(&t->a, 0, t->fd));
}
