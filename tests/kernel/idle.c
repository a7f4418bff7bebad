// SPDX-License-Identifier: GPL-2.0-or-later
#include "idle.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = (int)SYS(write(fd, text, strlen(text)));
	close(fd);
	return r < 0 ? r : 0;
}

void shrink(void)
{
	static bool quiet;

	/* The log need not be told each time. */
	int r = quiet ? 0 : write_file("/proc/sys/vm/drop_caches", "4");

	if (r == -EACCES || r == -EROFS || r == -EPERM)
		SKIP("only for root");
	OK(r);
	quiet = true;
	OK(write_file("/proc/sys/vm/drop_caches", "2"));
}

u64 pages_of(const struct peer *p)
{
	return peer_info(p).pool_pages;
}

void empty(const struct peer *p)
{
	struct bus1_msg m;
	int r;

	while (!(r = drop_now(p, &m)))
		;
	ERR(r, EAGAIN);
}
