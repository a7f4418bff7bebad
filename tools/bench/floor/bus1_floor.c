// SPDX-License-Identifier: GPL-2.0-only
/*
 * The least that a call takes: an ioctl on each side copies 96 bytes in, wakes the
 * other as handoff.c of bus1 does, sleeps until that has done the same, and copies
 * 96 bytes out. Nothing is checked that need not be, nothing is made or found, and
 * nobody is told when the other goes. What bus1-bench compares a call with.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "bus1_floor.h"

/* As in handoff.c, where the build checks them. */
#define FLOOR_WF_SYNC		0x10
#define FLOOR_WF_CURRENT_CPU	0x40

struct floor {
	spinlock_t lock;		/* joining */
	struct task_struct *task[2];	/* until the file is closed */
	bool full[2];			/* turn[i] is for task[i] */
	struct floor_turn turn[2];
};

static int floor_open(struct inode *inode, struct file *file)
{
	struct floor *f = kzalloc(sizeof(*f), GFP_KERNEL);

	if (!f)
		return -ENOMEM;
	spin_lock_init(&f->lock);
	file->private_data = f;
	return 0;
}

static int floor_release(struct inode *inode, struct file *file)
{
	struct floor *f = file->private_data;

	for (int i = 0; i < 2; i++)
		if (f->task[i])
			put_task_struct(f->task[i]);
	kfree(f);
	return 0;
}

static int floor_join(struct floor *f)
{
	int r = -EBUSY;

	spin_lock(&f->lock);
	for (int i = 0; i < 2 && r; i++)
		if (!f->task[i]) {
			/* Release: floor_wake() in the other thread. */
			smp_store_release(&f->task[i], get_task_struct(current));
			r = 0;
		}
	spin_unlock(&f->lock);
	return r;
}

static __always_inline void floor_wake(struct task_struct *task)
{
	struct wait_queue_entry entry;

	entry.private = task;
	set_tsk_need_resched(current);
	default_wake_function(&entry, TASK_INTERRUPTIBLE,
			      FLOOR_WF_SYNC | FLOOR_WF_CURRENT_CPU, NULL);
}

static __always_inline int floor_sleep(const bool *full)
{
	for (;;) {
		/* Acquire: the bytes. */
		if (smp_load_acquire(full))
			return 0;
		if (signal_pending(current))
			return -EINTR;
		schedule();
		set_current_state(TASK_INTERRUPTIBLE);
	}
}

static long floor_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct floor *f = file->private_data;
	void __user *user = (void __user *)arg;
	struct task_struct *other;
	int r, me;

	if (cmd == FLOOR_JOIN)
		return floor_join(f);
	me = current == f->task[1];
	if (current != f->task[me])
		return -EPERM;
	if (cmd == FLOOR_TURN) {
		if (copy_from_user(&f->turn[!me], user, sizeof(f->turn[0])))
			return -EFAULT;
		set_current_state(TASK_INTERRUPTIBLE);
		smp_store_release(&f->full[!me], true);
		other = smp_load_acquire(&f->task[!me]);
		if (other)
			floor_wake(other);
	} else if (cmd == FLOOR_WAIT) {
		set_current_state(TASK_INTERRUPTIBLE);
	} else {
		return -ENOTTY;
	}
	r = floor_sleep(&f->full[me]);
	__set_current_state(TASK_RUNNING);
	if (r)
		return r;
	f->full[me] = false;
	return copy_to_user(user, &f->turn[me], sizeof(f->turn[0])) ? -EFAULT : 0;
}

static const struct file_operations floor_fops = {
	.owner = THIS_MODULE,
	.open = floor_open,
	.release = floor_release,
	.unlocked_ioctl = floor_ioctl,
};

static struct miscdevice floor_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "bus1_floor",
	.fops = &floor_fops,
};

module_misc_device(floor_device);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("The least that a call between two threads takes");
