// SPDX-License-Identifier: GPL-2.0-only
/*
 * Does on request what a kernel must complain about, so that the checker of the
 * kernel log can be tested against real reports: the name of a fault written to
 * /dev/bus1_faults is committed there and then, by the writer.
 */
#include <linux/bug.h>
#include <linux/delay.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>

static DEFINE_MUTEX(lock_a);
static DEFINE_MUTEX(lock_b);
static DEFINE_SPINLOCK(spin);

static void do_warn(void)
{
	WARN(1, "asked for\n");
}

static void do_lockdep(void)
{
	mutex_lock(&lock_a);
	mutex_lock(&lock_b);
	mutex_unlock(&lock_b);
	mutex_unlock(&lock_a);
	mutex_lock(&lock_b);
	mutex_lock(&lock_a);
	mutex_unlock(&lock_a);
	mutex_unlock(&lock_b);
}

static void do_atomic(void)
{
	spin_lock(&spin);
	might_sleep();
	spin_unlock(&spin);
}

static void do_refcount(void)
{
	refcount_t r = REFCOUNT_INIT(0);

	refcount_inc(&r);
}

static void do_list(void)
{
	LIST_HEAD(head);
	struct list_head entry;

	list_add(&entry, &head);
	entry.next = &entry;
	list_del(&entry);
}

static void do_ubsan(void)
{
	volatile int bits = 40;
	volatile int value = 1;

	value = value << bits;
}

static void do_hung(void)
{
	/* Longer than the writer has told khungtaskd to tolerate. */
	set_current_state(TASK_UNINTERRUPTIBLE);
	schedule_timeout(8 * HZ);
}

static void do_lockup(void)
{
	int i;

	/* Soft lockup and RCU stall alike: this CPU schedules nothing else. */
	preempt_disable();
	rcu_read_lock();
	for (i = 0; i < 8000; i++)
		mdelay(1);
	rcu_read_unlock();
	preempt_enable();
}

static void do_kasan(void)
{
	char *p = kmalloc(64, GFP_KERNEL);
	volatile char c;

	if (!p)
		return;
	kfree(p);
	OPTIMIZER_HIDE_VAR(p);
	c = p[8];
	(void)c;
}

static void do_leak(void)
{
	int i;

	/* Several: a stale pointer on a stack or in a register may hide one. */
	for (i = 0; i < 16; i++) {
		void *p = kmalloc(200, GFP_KERNEL);

		OPTIMIZER_HIDE_VAR(p);
	}
}

static void do_oops(void)
{
	volatile int *p = NULL;

	/* What an oops leaves behind is typically still in use. */
	__module_get(THIS_MODULE);
	OPTIMIZER_HIDE_VAR(p);
	*p = 1;
}

static void do_bug(void)
{
	BUG();
}

static const struct {
	const char *name;
	void (*commit)(void);
} faults[] = {
	{ "warn", do_warn },
	{ "lockdep", do_lockdep },
	{ "atomic", do_atomic },
	{ "refcount", do_refcount },
	{ "list", do_list },
	{ "ubsan", do_ubsan },
	{ "hung", do_hung },
	{ "lockup", do_lockup },
	{ "kasan", do_kasan },
	{ "leak", do_leak },
	{ "oops", do_oops },
	{ "bug", do_bug },
};

static ssize_t faults_write(struct file *file, const char __user *data, size_t count, loff_t *pos)
{
	char name[16] = {};
	size_t i;

	if (count >= sizeof(name))
		return -EINVAL;
	if (copy_from_user(name, data, count))
		return -EFAULT;
	for (i = 0; i < ARRAY_SIZE(faults); i++) {
		if (sysfs_streq(name, faults[i].name)) {
			faults[i].commit();
			return count;
		}
	}
	return -EINVAL;
}

static const struct file_operations faults_fops = {
	.owner = THIS_MODULE,
	.write = faults_write,
};

static struct miscdevice faults_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "bus1_faults",
	.fops = &faults_fops,
};

module_misc_device(faults_device);
MODULE_DESCRIPTION("Faults on request, to test the kernel log checker");
MODULE_LICENSE("GPL");
