// SPDX-License-Identifier: GPL-2.0-only
/*
 * How threads are scheduled: for inherit.rs.
 */
#include <linux/rcupdate.h>
#include <linux/rtmutex.h>
#include <linux/sched.h>
#include <linux/sched/prio.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <uapi/linux/sched/types.h>

#include "bridge.h"

/*
 * Real-time threads take it before they wake who serves them, and others hold it:
 * so one that lends its holder the priority of who waits. Not a spinlock, since
 * sched_setattr_nocheck() may sleep.
 */
static DEFINE_RT_MUTEX(bus1_raised);

void bus1_raised_lock(void)
{
	rt_mutex_lock(&bus1_raised);
}

void bus1_raised_unlock(void)
{
	rt_mutex_unlock(&bus1_raised);
}

/*
 * sched_setattr(2) and setpriority(2) look whether they may, and then do it. In
 * between they may be preempted, but do not sleep: so after that grace period all
 * are done that looked at a priority which was lent, and is no more.
 */
static bool bus1_raised_look(void)
{
	u64 time = bus1_raised_tick();

	synchronize_rcu_tasks();
	return bus1_raised_again(time);
}

static void bus1_raised_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(bus1_raised_looks, bus1_raised_work);

void bus1_raised_later(void)
{
	/* Not at once: a thread that is raised is soon raised again. */
	queue_delayed_work(system_dfl_long_wq, &bus1_raised_looks, HZ);
}

static void bus1_raised_work(struct work_struct *work)
{
	if (bus1_raised_look())
		bus1_raised_later();
}

void bus1_raised_exit(void)
{
	int i;

	cancel_delayed_work_sync(&bus1_raised_looks);
	/* Once more for each that was changed meanwhile, which soon ends. */
	for (i = 0; i < 100; i++)
		if (!bus1_raised_look())
			return;
	WARN(1, "bus1: threads are raised at unload\n");
}

static bool bus1_is_real_time(u32 policy)
{
	return policy == SCHED_FIFO || policy == SCHED_RR ||
	       policy == SCHED_DEADLINE;
}

struct bus1_priority bus1_priority_get(struct task_struct *task)
{
	struct bus1_priority is;
	unsigned long flags;

	/* Who changes one of them holds it: so they belong together. */
	raw_spin_lock_irqsave(&task->pi_lock, flags);
	is = (struct bus1_priority){
		.policy = task->policy,
		.nice = task_nice(task),
		.priority = task->rt_priority,
		.reset_on_fork = task->sched_reset_on_fork,
		.runtime = task->se.custom_slice ? task->se.slice : 0,
		.slack = task->timer_slack_ns,
	};
	raw_spin_unlock_irqrestore(&task->pi_lock, flags);
	return is;
}

void bus1_priority_set(struct task_struct *task,
		       const struct bus1_priority *priority)
{
	struct sched_attr attr = {
		.size = sizeof(attr),
		.sched_policy = priority->policy,
		.sched_nice = priority->nice,
		.sched_priority = priority->priority,
		.sched_runtime = priority->runtime,
		.sched_flags = priority->reset_on_fork ?
			       SCHED_FLAG_RESET_ON_FORK : 0,
	};

	/* Nothing makes that of a thread here: it is, then. */
	if (priority->policy != SCHED_DEADLINE)
		sched_setattr_nocheck(task, &attr);
	/* Only SCHED_OTHER and SCHED_BATCH bring it along. */
	set_user_nice(task, priority->nice);
	/* Gone while a thread is real-time: then it gets the default one. */
	if (priority->slack && !bus1_is_real_time(priority->policy))
		WRITE_ONCE(task->timer_slack_ns, priority->slack);
}
