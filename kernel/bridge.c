// SPDX-License-Identifier: GPL-2.0-only
/*
 * The part of bus1 that only C can hold: the device and its file_operations,
 * the wait queue, the memory mapping. It looks at no command: that is Rust.
 */
#include <linux/anon_inodes.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/init.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/pagemap.h>
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/random.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <net/sock.h>

#include "bridge.h"

/*
 * The number of the user that a peer is of (RES-2): that of the credentials it
 * is opened with. What runs in a user namespace that someone other than root has
 * made counts as that one's: nobody gets a second share by making namespaces.
 */
static u32 bus1_user_of(const struct cred *cred)
{
	const struct user_namespace *ns;
	kuid_t uid = cred->euid;

	for (ns = cred->user_ns; ns->parent; ns = ns->parent)
		if (!uid_eq(ns->owner, GLOBAL_ROOT_UID))
			uid = ns->owner;
	return __kuid_val(uid);
}

/*
 * A peer keeps its wait queue in its own memory, which lives as long as
 * anyone has a reference: every waker has one. Pollers are gone before
 * release() is called, since the file holds them.
 */
static int bus1_open(struct inode *inode, struct file *file)
{
	int r = -ENOMEM;
	void *peer = bus1_peer_open(bus1_user_of(file->f_cred), &r);

	if (!peer)
		return r;
	file->private_data = peer;
	file->f_mapping = bus1_peer_mapping(peer);
	file->f_mapping->host = inode;
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
	__poll_t mask = 0;

	poll_wait(file, bus1_peer_wait(file->private_data), table);
	bus1_peer_clean(file->private_data);
	if (bus1_peer_readable(file->private_data))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (bus1_peer_writable(file->private_data))
		mask |= EPOLLOUT | EPOLLWRNORM;
	return mask;
}

static vm_fault_t bus1_fault(struct vm_fault *vmf)
{
	void *peer = vmf->vma->vm_file->private_data;
	struct page *page = bus1_peer_page(peer, vmf->pgoff);

	if (!page)
		return VM_FAULT_SIGBUS;
	/*
	 * A page that goes back is first taken from its place, then looked at
	 * whether it is locked, which spares it, and then unmapped. So what is
	 * seen in its place while it is locked, until it is mapped, is good.
	 */
	lock_page(page);
	if (!bus1_peer_has_page(peer, vmf->pgoff, page)) {
		unlock_page(page);
		put_page(page);
		return VM_FAULT_NOPAGE;
	}
	vmf->page = page;
	return VM_FAULT_LOCKED;
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
	.show_fdinfo = bus1_show_fdinfo,
};

void *bus1_file_peer(struct file *file)
{
	return file->f_op == &bus1_fops ? file->private_data : NULL;
}

/* An exported handle: a peer with one handle and no commands (OBJ-12). */
static __poll_t bus1_export_poll(struct file *file, poll_table *table)
{
	poll_wait(file, bus1_peer_wait(file->private_data), table);
	return bus1_peer_readable(file->private_data) ? EPOLLHUP : 0;
}

static const struct file_operations bus1_export_fops = {
	.owner = THIS_MODULE,
	.release = bus1_release,
	.poll = bus1_export_poll,
	.show_fdinfo = bus1_show_fdinfo,
	.llseek = noop_llseek,
};

void *bus1_file_export(struct file *file)
{
	return file->f_op == &bus1_export_fops ? file->private_data : NULL;
}

int bus1_export(void *peer, __s32 *place)
{
	struct file *file;
	int fd;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	if (put_user(fd, (__s32 __user *)place)) {
		put_unused_fd(fd);
		return -EFAULT;
	}
	file = anon_inode_getfile("[bus1-handle]", &bus1_export_fops, peer,
				  O_RDONLY);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		/* As it was. */
		put_user(0, (__s32 __user *)place);
		return PTR_ERR(file);
	}
	fd_install(fd, file);
	return 0;
}

struct file *bus1_fget(int fd, bool path)
{
	return path ? fget_raw(fd) : fget(fd);
}

void bus1_get_file(struct file *file)
{
	get_file(file);
}

bool bus1_file_holds_files(struct file *file)
{
	struct socket *sock;

	if (file->f_mode & FMODE_PATH)
		return false;
	if (bus1_file_peer(file) || bus1_file_export(file))
		return true;
	sock = sock_from_file(file);
	if (sock)
		return !sock->sk || sock->sk->sk_family == AF_UNIX;
	/* io_uring does not tell modules its file_operations, but its name. */
	return file_inode(file)->i_sb->s_magic == ANON_INODE_FS_MAGIC &&
	       !strcmp(file->f_path.dentry->d_name.name, "[io_uring]");
}

void bus1_install(struct file *file, __s32 *place)
{
	int fd = receive_fd(file, (int __user *)place, O_CLOEXEC);

	if (fd < 0)
		put_user(fd, (__s32 __user *)place);
}

void bus1_fput(struct file *file)
{
	fput(file);
}

struct bus1_stamp {
	refcount_t refs;
	struct pid *pid;
	struct pid *tid;
	kuid_t uid;
	kgid_t gid;
	u32 label_len;
	char label[];
};

struct bus1_stamp *bus1_stamp_new(void)
{
	struct lsm_context context = {};
	struct bus1_stamp *stamp;
	struct lsm_prop prop;
	u32 len = 0;
	int r;

	security_current_getlsmprop_subj(&prop);
	r = security_lsmprop_to_secctx(&prop, &context, LSM_ID_UNDEF);
	/* A label that there is is not left out: receivers may rely on it. */
	if (r == -ENOMEM)
		return NULL;
	if (r >= 0 && context.context)
		len = strnlen(context.context, context.len);
	stamp = kmalloc(struct_size(stamp, label, len), GFP_KERNEL_ACCOUNT);
	if (stamp) {
		refcount_set(&stamp->refs, 1);
		stamp->pid = get_pid(task_tgid(current));
		stamp->tid = get_pid(task_pid(current));
		current_euid_egid(&stamp->uid, &stamp->gid);
		stamp->label_len = len;
		if (len)
			memcpy(stamp->label, context.context, len);
	}
	if (context.context)
		security_release_secctx(&context);
	return stamp;
}

void bus1_stamp_get(struct bus1_stamp *stamp)
{
	refcount_inc(&stamp->refs);
}

void bus1_stamp_put(struct bus1_stamp *stamp)
{
	if (!refcount_dec_and_test(&stamp->refs))
		return;
	put_pid(stamp->pid);
	put_pid(stamp->tid);
	kfree(stamp);
}

const char *bus1_stamp_label(const struct bus1_stamp *stamp, __u32 *len)
{
	*len = stamp->label_len;
	return stamp->label;
}

void bus1_stamp_describe(const struct bus1_stamp *stamp,
			 struct bus1_creds *creds)
{
	struct pid_namespace *pids = task_active_pid_ns(current);
	struct user_namespace *users = current_user_ns();

	creds->pid = pid_nr_ns(stamp->pid, pids);
	creds->tid = pid_nr_ns(stamp->tid, pids);
	creds->uid = from_kuid_munged(users, stamp->uid);
	creds->gid = from_kgid_munged(users, stamp->gid);
}

static DEFINE_MUTEX(bus1_sequencer);

int bus1_sequence_begin(void)
{
	return mutex_lock_killable(&bus1_sequencer);
}

void bus1_sequence_end(void)
{
	mutex_unlock(&bus1_sequencer);
}

void bus1_wait_init(struct wait_queue_head *wait)
{
	init_waitqueue_head(wait);
}

void bus1_wake(struct wait_queue_head *wait, bool hup)
{
	/* Pairs with the barrier in prepare_to_wait_event() and poll_wait(). */
	if (wq_has_sleeper(wait))
		wake_up_interruptible_sync_poll(wait, hup ? EPOLLHUP :
						EPOLLIN | EPOLLRDNORM);
}

void bus1_wake_writable(struct wait_queue_head *wait)
{
	/* Who waits for either: notices of room come with it. */
	wake_up_interruptible_poll(wait, EPOLLIN | EPOLLRDNORM | EPOLLOUT |
				   EPOLLWRNORM);
}

void bus1_wake_one(struct wait_queue_head *wait)
{
	wake_up_interruptible(wait);
}

static bool bus1_is_set(const bool *flag)
{
	return smp_load_acquire(flag);
}

int bus1_wait_for(struct wait_queue_head *wait, const bool *flag,
		  __u64 deadline)
{
	ktime_t expires = ns_to_ktime(min_t(u64, deadline, KTIME_MAX));
	struct wait_queue_entry entry;
	long r;

	init_wait_entry(&entry, WQ_FLAG_EXCLUSIVE);
	/*
	 * Not TASK_FREEZABLE: who is frozen leaves the queue, as for a signal,
	 * and begins anew later. In it, it could be the one that is woken, and
	 * others would wait for it.
	 */
	for (;;) {
		r = prepare_to_wait_event(wait, &entry, TASK_INTERRUPTIBLE);
		if (bus1_is_set(flag))
			break;
		if (r)	/* the entry is off the queue already */
			return r;
		if (!schedule_hrtimeout_range(deadline ? &expires : NULL,
					      current->timer_slack_ns,
					      HRTIMER_MODE_ABS) && deadline) {
			/*
			 * Off the queue before the last look: a wake-up that
			 * was for us came before, and so did its reason.
			 */
			finish_wait(wait, &entry);
			return bus1_is_set(flag) ? 0 : -ETIMEDOUT;
		}
	}
	finish_wait(wait, &entry);
	return 0;
}

__u64 bus1_random(void)
{
	return get_random_u64();
}

void bus1_resched(void)
{
	cond_resched();
}

int bus1_may_go_on(__u64 deadline)
{
	cond_resched();
	if (signal_pending(current))
		return -ERESTARTSYS;
	return deadline && ktime_get_ns() >= deadline ? -ETIMEDOUT : 0;
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
BUS1_STAT_PARAM(messages, BUS1_STAT_MESSAGES, "messages and handles in them, queued or being sent");
BUS1_STAT_PARAM(slices, BUS1_STAT_SLICES, "slices of pools in use");
BUS1_STAT_PARAM(pool_pages, BUS1_STAT_POOL_PAGES, "pages of pools");
BUS1_STAT_PARAM(charged, BUS1_STAT_CHARGED,
		"what is charged to users, everything added up");

/*
 * How much a user may have of each thing, readable and writable there, too
 * (RES-4).
 */
static const char * const bus1_limit_names[BUS1_LIMIT_N] = {
	[BUS1_LIMIT_PEERS] = "peers",
	[BUS1_LIMIT_NODES] = "nodes",
	[BUS1_LIMIT_HANDLES] = "handles",
	[BUS1_LIMIT_MESSAGES] = "messages",
	[BUS1_LIMIT_FILES] = "files",
	[BUS1_LIMIT_PAGES] = "pages",
};

static int bus1_max_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%ld\n", bus1_limit_get((unsigned long)kp->arg));
}

static int bus1_max_set(const char *value, const struct kernel_param *kp)
{
	u32 max;
	int r = kstrtou32(value, 0, &max);

	if (!r)
		bus1_limit_set((unsigned long)kp->arg, max);
	return r;
}

static const struct kernel_param_ops bus1_max_ops = {
	.get = bus1_max_get,
	.set = bus1_max_set,
};

#define BUS1_MAX_PARAM(name, which, desc)				\
	module_param_cb(name, &bus1_max_ops, (void *)(which), 0644);	\
	MODULE_PARM_DESC(name, "how many " desc " a user may have")

BUS1_MAX_PARAM(max_peers, BUS1_LIMIT_PEERS, "peers and exported handles");
BUS1_MAX_PARAM(max_nodes, BUS1_LIMIT_NODES, "nodes");
BUS1_MAX_PARAM(max_handles, BUS1_LIMIT_HANDLES, "handles");
BUS1_MAX_PARAM(max_messages, BUS1_LIMIT_MESSAGES, "messages and handles in flight");
BUS1_MAX_PARAM(max_files, BUS1_LIMIT_FILES, "files in flight");
BUS1_MAX_PARAM(max_pages, BUS1_LIMIT_PAGES, "pages of pools");

/* /sys/class/misc/bus1/users: what each user has, and may have. For root. */
static ssize_t users_read(struct file *file, struct kobject *kobj,
			  const struct bin_attribute *attr, char *to,
			  loff_t offset, size_t count)
{
	unsigned long size = SZ_4K, len;
	ssize_t r;
	char *all;

	for (;;) {
		all = kvmalloc(size, GFP_KERNEL);
		if (!all)
			return -ENOMEM;
		len = bus1_users_show(all, size);
		if (len <= size)
			break;
		kvfree(all);
		size = len + SZ_4K;
	}
	r = memory_read_from_buffer(to, count, &offset, all, len);
	kvfree(all);
	return r;
}

/* "UID NAME MAX" gives a user a limit of its own, "UID NAME default" none. */
static ssize_t users_write(struct file *file, struct kobject *kobj,
			   const struct bin_attribute *attr, char *from,
			   loff_t offset, size_t count)
{
	char text[64], name[16], value[16], more;
	long max = -1;
	u32 uid, n;
	int i, r;

	if (offset || count >= sizeof(text))
		return -EINVAL;
	memcpy(text, from, count);
	text[count] = 0;
	if (sscanf(text, "%u %15s %15s %c", &uid, name, value, &more) != 3)
		return -EINVAL;
	i = match_string(bus1_limit_names, BUS1_LIMIT_N, name);
	if (i < 0)
		return -EINVAL;
	if (strcmp(value, "default")) {
		r = kstrtou32(value, 0, &n);
		if (r)
			return r;
		max = n;
	}
	r = bus1_limit_set_user(uid, i, max);
	return r ? r : count;
}

static const BIN_ATTR_ADMIN_RW(users, 0);

static const struct bin_attribute * const bus1_bin_attrs[] = {
	&bin_attr_users,
	NULL,
};

static const struct attribute_group bus1_group = {
	.bin_attrs = bus1_bin_attrs,
};

static const struct attribute_group *bus1_groups[] = {
	&bus1_group,
	NULL,
};

static struct miscdevice bus1_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = BUS1_DEVICE,
	.mode = 0666,
	.fops = &bus1_fops,
	.groups = bus1_groups,
};

static int __init bus1_init(void)
{
	int r = bus1_backing_init();

	if (r)
		return r;
	bus1_begin(totalram_pages() / 8);
	r = misc_register(&bus1_misc);
	if (r)
		bus1_backing_exit();
	return r;
}

static void __exit bus1_exit(void)
{
	unsigned long left;
	int i;

	misc_deregister(&bus1_misc);
	bus1_backing_exit();
	bus1_raised_exit();
	/* All peers are closed: what is left now is a leak. */
	for (i = 0; i < BUS1_STAT_N; i++)
		WARN(bus1_stat(i), "bus1: stat %d is %ld at unload\n", i,
		     bus1_stat(i));
	left = bus1_end();
	WARN(left, "bus1: something is charged to %lu users at unload\n", left);
}

module_init(bus1_init);
module_exit(bus1_exit);
MODULE_DESCRIPTION("Capability-based IPC");
MODULE_LICENSE("GPL");
