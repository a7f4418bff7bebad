// SPDX-License-Identifier: GPL-2.0-or-later
/* A process that spins on the CPU of whoever starts it, and counts how often. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define LOOP_INSTRUCTIONS 2

struct hog {
	pid_t pid;
	volatile uint64_t *loops;	/* shared with it */
};

static void spin(volatile uint64_t *loops)
{
#ifdef __x86_64__
	__asm__ volatile("1: incq (%0); jmp 1b" : : "r"(loops) : "memory");
#endif
	for (;;)
		++*loops;
}

int hog_start(struct hog **out)
{
	struct hog *h = calloc(1, sizeof(*h));
	pid_t parent = getpid();
	void *p;

	if (!h)
		return -ENOMEM;
	p = mmap(NULL, sizeof(*h->loops), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		free(h);
		return -ENOMEM;
	}
	h->loops = p;
	fflush(NULL);
	h->pid = fork();
	if (h->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent)
			spin(h->loops);
		_exit(1);
	}
	if (h->pid < 0) {
		int r = -errno;

		hog_stop(h);
		return r;
	}
	*out = h;
	return 0;
}

/* Under instruction counting what it has executed; else it is not known, and 0. */
uint64_t hog_instructions(const struct hog *h)
{
	return counter_unit() == UNIT_INSTRUCTIONS ? *h->loops * LOOP_INSTRUCTIONS : 0;
}

void hog_stop(struct hog *h)
{
	if (h->pid > 0) {
		kill(h->pid, SIGKILL);
		waitpid(h->pid, NULL, 0);
	}
	munmap((void *)h->loops, sizeof(*h->loops));
	free(h);
}
