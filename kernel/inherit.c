// SPDX-License-Identifier: GPL-2.0-only
/*
 * How threads are scheduled: for inherit.rs.
 */
#include <linux/sched.h>
#include <linux/sched/prio.h>
#include <uapi/linux/sched/types.h>

#include "bridge.h"

struct bus1_priority bus1_priority_get(struct task_struct *task)
{
	return (struct bus1_priority){
		.policy = READ_ONCE(task->policy),
		.nice = task_nice(task),
		.priority = READ_ONCE(task->rt_priority),
		.reset_on_fork = task->sched_reset_on_fork,
	};
}

void bus1_priority_set(struct task_struct *task,
		       const struct bus1_priority *priority)
{
	struct sched_attr attr = {
		.size = sizeof(attr),
		.sched_policy = priority->policy,
		.sched_nice = priority->nice,
		.sched_priority = priority->priority,
		.sched_flags = priority->reset_on_fork ?
			       SCHED_FLAG_RESET_ON_FORK : 0,
	};

	sched_setattr_nocheck(task, &attr);
}
