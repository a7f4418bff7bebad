// SPDX-License-Identifier: GPL-2.0-or-later
#include "tar.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGES = 8 };

static struct tar tar_make(u64 mode, size_t there)
{
	struct tar t = { .size = PAGES * page_size() };
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = mode };

	t.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (t.fd < 0)
		SKIP("userfaultfd: %s", strerrorname_np(errno));
	if (mode == UFFDIO_REGISTER_MODE_WP)
		api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	OK(SYS(ioctl(t.fd, UFFDIO_API, &api)));
	t.mem = mmap(NULL, t.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(t.mem != MAP_FAILED);
	memset(t.mem, 0xaa, there);
	reg.range.start = PTR(t.mem) + page_size();
	reg.range.len = t.size - page_size();
	OK(SYS(ioctl(t.fd, UFFDIO_REGISTER, &reg)));
	return t;
}

struct tar tar_new(void)
{
	return tar_make(UFFDIO_REGISTER_MODE_MISSING, page_size());
}

struct tar tar_new_with(const void *data, size_t len)
{
	struct tar t = tar_make(UFFDIO_REGISTER_MODE_WP, PAGES * page_size());
	struct uffdio_writeprotect wp = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };

	memcpy(t.mem + page_size(), data, len);
	wp.range.start = PTR(t.mem) + page_size();
	wp.range.len = t.size - page_size();
	OK(SYS(ioctl(t.fd, UFFDIO_WRITEPROTECT, &wp)));
	return t;
}

void tar_wait(const struct tar *t)
{
	struct pollfd pfd = { .fd = t->fd, .events = POLLIN };

	EQ(poll(&pfd, 1, (int)(30000 * test_slow())), 1);
}

void tar_melt(struct tar *t)
{
	struct uffdio_range range = { PTR(t->mem) + page_size(), t->size - page_size() };

	OK(SYS(ioctl(t->fd, UFFDIO_UNREGISTER, &range)));
	close(t->fd);
}

void tar_break(struct tar *t)
{
	OK(SYS(mprotect(t->mem + page_size(), t->size - page_size(), PROT_NONE)));
	tar_melt(t);
}

u8 *tar_edge(const struct tar *t, size_t before)
{
	return t->mem + page_size() - before;
}
