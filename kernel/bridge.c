// SPDX-License-Identifier: GPL-2.0-only
/*
 * The part of bus1 that only C can hold: the device and its file_operations,
 * the wait queue, the memory mapping. It looks at no command: that is Rust.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/init.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "bridge.h"

static const struct file_operations bus1_fops;

/*
 * A peer keeps its wait queue in its own memory, which lives as long as
 * anyone has a reference: every waker has one. Pollers are gone before
 * release() is called, since the file holds them.
 */
static int bus1_open(struct inode *inode, struct file *file)
{
	void *peer = bus1_peer_open();

	if (!peer)
		return -ENOMEM;
	file->private_data = peer;
	return nonseekable_open(inode, file);
}

static int bus1_release(struct inode *inode, struct file *file)
{
	bus1_peer_close(file->private_data);
	return 0;
}

static long bus1_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	return bus1_peer_ioctl(file->private_data, file->f_flags & O_NONBLOCK,
			       cmd, arg);
}


static __poll_t bus1_poll(struct file *file, poll_table *table)
{
	__poll_t mask = EPOLLOUT | EPOLLWRNORM;

	poll_wait(file, bus1_peer_wait(file->private_data), table);
	bus1_peer_clean(file->private_data);
	if (bus1_peer_readable(file->private_data))
		mask |= EPOLLIN | EPOLLRDNORM;
	return mask;
}

static vm_fault_t bus1_fault(struct vm_fault *vmf)
{
	/* Pages stay until the peer ends, and it outlives its mappings. */
	struct page *page = bus1_peer_page(vmf->vma->vm_file->private_data,
					   vmf->pgoff);

	if (!page)
		return VM_FAULT_SIGBUS;
	get_page(page);
	vmf->page = page;
	return 0;
}

static const struct vm_operations_struct bus1_vm_ops = {
	.fault = bus1_fault,
};

static int bus1_mmap(struct file *file, struct vm_area_struct *vma)
{
	int r;

	if (vma->vm_flags & (VM_WRITE | VM_EXEC))
		return -EPERM;
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	r = bus1_peer_map(file->private_data, vma->vm_pgoff, vma_pages(vma));
	if (r)
		return r;
	vm_flags_mod(vma, VM_DONTEXPAND, VM_MAYWRITE | VM_MAYEXEC);
	vma->vm_ops = &bus1_vm_ops;
	return 0;
}

static const struct file_operations bus1_fops = {
	.owner = THIS_MODULE,
	.open = bus1_open,
	.release = bus1_release,
	.unlocked_ioctl = bus1_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.poll = bus1_poll,
	.mmap = bus1_mmap,
};

void *bus1_file_peer(struct file *file)
{
	return file->f_op == &bus1_fops ? file->private_data : NULL;
}

struct file *bus1_fget(int fd)
{
	return fget(fd);
}

void bus1_fput(struct file *file)
{
	fput(file);
}

void bus1_wait_init(struct wait_queue_head *wait)
{
	init_waitqueue_head(wait);
}

void bus1_wake(struct wait_queue_head *wait)
{
	/* Pairs with the barrier in prepare_to_wait_event() and poll_wait(). */
	if (wq_has_sleeper(wait))
		wake_up_interruptible_sync_poll(wait, EPOLLIN | EPOLLRDNORM);
}

int bus1_wait(struct wait_queue_head *wait, void *peer, __u64 deadline)
{
	ktime_t expires = ns_to_ktime(min_t(u64, deadline, KTIME_MAX));
	struct wait_queue_entry entry;
	long r;

	init_wait_entry(&entry, WQ_FLAG_EXCLUSIVE);
	for (;;) {
		r = prepare_to_wait_event(wait, &entry, TASK_INTERRUPTIBLE);
		if (bus1_peer_readable(peer))
			break;
		if (r)	/* the entry is off the queue already */
			return r;
		if (!schedule_hrtimeout_range(deadline ? &expires : NULL,
					      current->timer_slack_ns,
					      HRTIMER_MODE_ABS) && deadline) {
			/*
			 * Off the queue before the last look: a wake-up that
			 * was for us came before, and so did its message.
			 */
			finish_wait(wait, &entry);
			return bus1_peer_readable(peer) ? 0 : -ETIMEDOUT;
		}
	}
	finish_wait(wait, &entry);
	return 0;
}

int bus1_copy_struct(void *dst, unsigned long ksize, const void *src,
		     unsigned long usize)
{
	return copy_struct_from_user(dst, ksize, (const void __user *)src, usize);
}

int bus1_clear_user(void *dst, unsigned long size)
{
	return clear_user((void __user *)dst, size) ? -EFAULT : 0;
}

void bus1_resched(void)
{
	cond_resched();
}

unsigned long bus1_max_pool_pages(void)
{
	return totalram_pages() / 4;
}

/* The totals, readable in /sys/module/bus1/parameters/. */
static int bus1_stat_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%ld\n", bus1_stat((unsigned long)kp->arg));
}

static const struct kernel_param_ops bus1_stat_ops = {
	.get = bus1_stat_get,
};

#define BUS1_STAT_PARAM(name, which, desc)				\
	module_param_cb(name, &bus1_stat_ops, (void *)(which), 0444);	\
	MODULE_PARM_DESC(name, desc " (read only)")

BUS1_STAT_PARAM(peers, BUS1_STAT_PEERS, "open peers");
BUS1_STAT_PARAM(nodes, BUS1_STAT_NODES, "nodes");
BUS1_STAT_PARAM(handles, BUS1_STAT_HANDLES, "handles");
BUS1_STAT_PARAM(messages, BUS1_STAT_MESSAGES, "messages, queued or being sent");
BUS1_STAT_PARAM(slices, BUS1_STAT_SLICES, "slices of pools in use");
BUS1_STAT_PARAM(pool_pages, BUS1_STAT_POOL_PAGES, "pages of pools");

static struct miscdevice bus1_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = BUS1_DEVICE,
	.mode = 0666,
	.fops = &bus1_fops,
};

static int __init bus1_init(void)
{
	return misc_register(&bus1_misc);
}

static void __exit bus1_exit(void)
{
	int i;

	misc_deregister(&bus1_misc);
	/* All peers are closed: what is left now is a leak. */
	for (i = 0; i < BUS1_STAT_N; i++)
		WARN(bus1_stat(i), "bus1: stat %d is %ld at unload\n", i,
		     bus1_stat(i));
}

module_init(bus1_init);
module_exit(bus1_exit);
MODULE_DESCRIPTION("Capability-based IPC");
MODULE_LICENSE("GPL");
