// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <sched.h>

#include "bench.h"

static int cpus[2];
static int n_cpus;

static int run_on(int first, int last)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (int i = first; i <= last; i++)
		CPU_SET((unsigned int)cpus[i], &set);
	return sched_setaffinity(0, sizeof(set), &set) < 0 ? -errno : 0;
}

void cpu_start(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return;
	for (unsigned int i = 0; i < CPU_SETSIZE && n_cpus < 2; i++)
		if (CPU_ISSET(i, &set))
			cpus[n_cpus++] = (int)i;
	cpu_pin(0);
}

bool cpu_two(void)
{
	return n_cpus == 2;
}

int cpu_pin(int i)
{
	/* Not known: it runs where it likes, which is no error for the first. */
	if (i >= n_cpus)
		return i ? -ENODEV : 0;
	return run_on(i, i);
}

int cpu_begin(int i)
{
	int r = cpu_pin(i);

	return r < 0 ? r : run_on(0, n_cpus - 1);
}
