// SPDX-License-Identifier: GPL-2.0-or-later
/* Memory that ends somewhere, and descriptors. */
#include "raw.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

const u64 bad_addresses[] = {
	8,				/* the page that nobody maps */
	0x00007ffffffff000 - 8,		/* the last bytes of user space */
	0x00007ffffffff000,		/* the guard page after it */
	0x0000800000000000,		/* not canonical */
	0xffff800000000000,		/* the kernel's */
	0xffff888000001000,
	0xffffffff81000000,
	0xffffffffffffe000,
	0xfffffffffffffff8,		/* wraps around */
};
const size_t n_bad_addresses = ARRAY_SIZE(bad_addresses);

void close_fd(int fd)
{
	OK(SYS(close(fd)));
}

int memfd_sealed(const void *data, size_t n)
{
	int fd = (int)OK(SYS(memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING)));

	EQ(OK(SYS(write(fd, data, n))), n);
	OK(SYS(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)));
	return fd;
}

/* The highest descriptor, and how many there are. */
static int scan_fds(unsigned int *n)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *e;
	int top = -1;

	CHECK(dir);
	*n = 0;
	while ((e = readdir(dir))) {
		if (e->d_name[0] == '.' || atoi(e->d_name) == dirfd(dir))
			continue;
		++*n;
		if (atoi(e->d_name) > top)
			top = atoi(e->d_name);
	}
	closedir(dir);
	return top;
}

unsigned int open_fds(void)
{
	unsigned int n;

	scan_fds(&n);
	return n;
}

void leave_fds(unsigned int n)
{
	unsigned int have;
	int top = scan_fds(&have), fd;
	struct rlimit limit;

	/* No holes: the limit is on the number of a descriptor. */
	while ((fd = (int)OK(SYS(fcntl(0, F_DUPFD_CLOEXEC, 0)))) < top)
		;
	close(fd);
	OK(SYS(getrlimit(RLIMIT_NOFILE, &limit)));
	limit.rlim_cur = (rlim_t)(fd > top ? fd : top + 1) + n;
	OK(SYS(setrlimit(RLIMIT_NOFILE, &limit)));
}

static u8 *map_pages(size_t n, int prot)
{
	u8 *p = mmap(NULL, n * page_size(), prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		FAIL("mmap: %s", strerrorname_np(errno));
	return p;
}

void *edge_alloc(size_t n)
{
	size_t pages = (n + page_size() - 1) / page_size();
	u8 *p = map_pages(pages + 1, PROT_READ | PROT_WRITE);

	OK(SYS(mprotect(p + pages * page_size(), page_size(), PROT_NONE)));
	return p + pages * page_size() - n;
}

u8 *half_page_pair(void)
{
	return (u8 *)edge_alloc(page_size());
}

void *read_only(const void *data, size_t n)
{
	u8 *p = map_pages(1, PROT_READ | PROT_WRITE);

	LE(n, page_size());
	memcpy(p, data, n);
	OK(SYS(mprotect(p, page_size(), PROT_READ)));
	return p;
}

/*
 * A pipe takes what can be read and says EFAULT of the rest: no signals. One
 * process and thread at a time.
 */
bool page_readable(const void *addr, u8 *page)
{
	static int fds[2] = { -1, -1 };
	ssize_t r;

	if (fds[0] < 0)
		OK(SYS(pipe2(fds, O_CLOEXEC)));
	r = write(fds[1], addr, page_size());
	if (r < 0)
		EQ(errno, EFAULT);
	else
		EQ(r, page_size());
	if (r > 0)
		EQ(read(fds[0], page, page_size()), page_size());
	return r > 0;
}

void fill(void *buf, size_t n, u64 seed)
{
	u8 *p = buf;

	for (size_t i = 0; i < n; i++) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		p[i] = (u8)(seed >> 56);
	}
}
