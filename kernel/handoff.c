// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sleeping and waking, one thread for another (CALL-3).
 */
#include <linux/freezer.h>
#include <linux/hrtimer.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/wait.h>

#include "bridge.h"

/*
 * What default_wake_function() makes of its flags: those of try_to_wake_up(),
 * which are private to kernel/sched/sched.h. The build checks them against it,
 * where it is there: see Kbuild.
 */
#define BUS1_WF_SYNC		0x10	/* the waker is about to sleep */
#define BUS1_WF_CURRENT_CPU	0x40	/* run it here */

static bool handoff = true;
module_param(handoff, bool, 0644);
MODULE_PARM_DESC(handoff, "hand the CPU over with a call and with its reply");

void bus1_task_ref(struct task_struct *task)
{
	get_task_struct(task);
}

void bus1_task_put(struct task_struct *task)
{
	put_task_struct(task);
}

static __always_inline void bus1_wake_flags(struct task_struct *task, int flags)
{
	struct wait_queue_entry entry;

	/* All that is looked at. */
	entry.private = task;
	default_wake_function(&entry, TASK_INTERRUPTIBLE, flags, NULL);
	put_task_struct(task);
}

void bus1_task_wake(struct task_struct *task)
{
	bus1_wake_flags(task, BUS1_WF_SYNC);
}

/*
 * The other runs here, as soon as this thread sleeps, which it is about to do.
 * Said beforehand that saves the scheduler to find out whether the other should
 * preempt it, and to look at the clock once more: a fifth of the instructions
 * of a small call.
 */
static __always_inline void bus1_hand_over(struct task_struct *next)
{
	set_tsk_need_resched(current);
	bus1_wake_flags(next, BUS1_WF_SYNC | BUS1_WF_CURRENT_CPU);
}

/* In line: the common sleep has no timer. */
static __always_inline int bus1_sleep_until(const u32 *word, u32 value,
					    u64 deadline)
{
	ktime_t expires = ns_to_ktime(min_t(u64, deadline, KTIME_MAX));

	for (;;) {
		/* Acquire: what led to the change is there. */
		if (smp_load_acquire(word) != value)
			return 0;
		if (signal_pending(current))
			return -ERESTARTSYS;
		if (!deadline)
			schedule();
		else if (!schedule_hrtimeout_range(&expires,
						   current->timer_slack_ns,
						   HRTIMER_MODE_ABS))
			return -ETIMEDOUT;
		/* Pairs with the barrier in try_to_wake_up(). */
		set_current_state(TASK_INTERRUPTIBLE | TASK_FREEZABLE);
	}
}

int bus1_sleep(const __u32 *word, __u32 value, __u64 deadline,
	       struct task_struct *next)
{
	int r;

	/* Before the other is woken: then it finds this CPU free. */
	set_current_state(TASK_INTERRUPTIBLE | TASK_FREEZABLE);
	if (next && handoff)
		bus1_hand_over(next);
	else if (next)
		bus1_wake_flags(next, 0);
	r = bus1_sleep_until(word, value, deadline);
	__set_current_state(TASK_RUNNING);
	return r;
}

bool bus1_signals_restart(void)
{
	struct task_struct *task = current;
	bool restart = true;
	sigset_t pending;
	int sig;

	if (fatal_signal_pending(task))
		return false;
	spin_lock_irq(&task->sighand->siglock);
	sigorsets(&pending, &task->pending.signal,
		  &task->signal->shared_pending.signal);
	sigandnsets(&pending, &pending, &task->blocked);
	for (sig = 1; restart && sig <= _NSIG; sig++) {
		const struct sigaction *sa = &task->sighand->action[sig - 1].sa;

		if (!sigismember(&pending, sig) || sa->sa_handler == SIG_IGN)
			continue;
		if (sa->sa_handler == SIG_DFL)
			restart = sig_kernel_ignore(sig) || sig_kernel_stop(sig);
		else
			restart = sa->sa_flags & SA_RESTART;
	}
	spin_unlock_irq(&task->sighand->siglock);
	return restart;
}
