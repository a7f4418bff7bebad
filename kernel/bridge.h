/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What C and Rust call of each other. bindgen reads this for Rust, with the
 * UAPI headers alone, so it names kernel types only by pointer.
 */
#ifndef _BUS1_BRIDGE_H
#define _BUS1_BRIDGE_H

#include <linux/bus1.h>
#ifdef __BUS1_BINDGEN__
typedef _Bool bool;
#endif

struct address_space;
struct bus1_backing;
struct bus1_stamp;
struct file;
struct mm_struct;
struct page;
struct seq_file;
struct task_struct;
struct wait_queue_head;

/* What the module counts; the order is that of the parameters in bridge.c. */
enum bus1_stat {
	BUS1_STAT_PEERS,
	BUS1_STAT_NODES,
	BUS1_STAT_HANDLES,
	BUS1_STAT_MESSAGES,
	BUS1_STAT_SLICES,
	BUS1_STAT_POOL_PAGES,
	BUS1_STAT_CHARGED,
	BUS1_STAT_N,
};

/* Why a message or notice was dropped: see bus1_drop in trace.h. */
enum bus1_why {
	BUS1_WHY_DEAD,		/* its node died */
	BUS1_WHY_CLOSED,	/* the receiving peer was closed */
	BUS1_WHY_RECEIVER,	/* BUS1_RECV_DROP */
	BUS1_WHY_TAKEN_BACK,	/* another destination failed */
	BUS1_WHY_WITHDRAWN,	/* a notice that is void */
	BUS1_WHY_RELEASED,	/* its slice was given back before it was told */
};

/* What a limit was reached of: see bus1_refused in trace.h. */
enum bus1_resource {
	BUS1_RESOURCE_NODES,
	BUS1_RESOURCE_HANDLES,
	BUS1_RESOURCE_ROOM,	/* of the sender, at the receiver */
	BUS1_RESOURCE_SLICES,
	BUS1_RESOURCE_POOL,
	BUS1_RESOURCE_USER,	/* and an enum bus1_limit */
};

/* What fdinfo shows of a peer, as it was at one instant. */
struct bus1_fdinfo {
	__u64 peer;
	__u64 messages;
	__u64 notices;
	__u64 uncommitted;	/* of both */
	__u64 nodes;
	__u64 handles;
	__u64 slices;
	__u64 pool_size;
	__u64 pool_pages;
	__u64 pool_used;
	__u64 charged_messages;	/* in flight to it, by whomever */
	__u64 charged_bytes;
	__u64 charged_handles;
	__u64 charged_files;
	__u64 senders;		/* users who have some of that */
	__u64 waiting;		/* its handles that wait for room */
	bool by_priority;
};

/* What is limited for each user; the order is that of the names in bridge.c. */
enum bus1_limit {
	BUS1_LIMIT_PEERS,
	BUS1_LIMIT_NODES,
	BUS1_LIMIT_HANDLES,
	BUS1_LIMIT_MESSAGES,
	BUS1_LIMIT_FILES,
	BUS1_LIMIT_PAGES,
	BUS1_LIMIT_N,
};

/* C, called from Rust. */

/* The peer of an open file, or NULL if the file is no bus1 peer. */
void *bus1_file_peer(struct file *file);
/* The same of an exported handle, which is a peer of its own: export.rs. */
void *bus1_file_export(struct file *file);
/* An open file, or one of O_PATH if that is asked for; or NULL. */
struct file *bus1_fget(int fd, bool path);
void bus1_get_file(struct file *file);
void bus1_fput(struct file *file);
/*
 * Whether a file could hold a reference to what holds it: a bus1 file, an
 * AF_UNIX socket, an io_uring.
 */
bool bus1_file_holds_files(struct file *file);
/*
 * Make a descriptor of the current process for a file, close-on-exec, and tell
 * it at *place. If that fails, tell the negative errno there.
 */
void bus1_install(struct file *file, __s32 *place);
/*
 * Whether a file is a memfd whose size is sealed, and whose bytes are: 0, or 1
 * if they are so only for those who can not write yet, which has to be
 * `shared`. Tells its size. -EBADF, -EMEDIUMTYPE, -ETXTBSY.
 */
int bus1_memfd_check(struct file *file, bool shared, __u64 *size);
/*
 * Open such a file anew, read-only, and make a descriptor for it, close-on-exec,
 * which is told at *place. 0 or a negative errno.
 */
int bus1_memfd_open(struct file *file, __s32 *place);
/*
 * Make a descriptor for an exported handle; it takes the reference to the peer
 * over, unless it fails. Tells it at *place before it is there for
 * others. 0 or a negative errno.
 */
int bus1_export(void *peer, __s32 *place);

/* Who the current thread is. NULL if out of memory. */
struct bus1_stamp *bus1_stamp_new(void);
void bus1_stamp_get(struct bus1_stamp *stamp);
void bus1_stamp_put(struct bus1_stamp *stamp);
const char *bus1_stamp_label(const struct bus1_stamp *stamp, __u32 *len);
/* All of it but the label, as the current thread's namespaces see it. */
void bus1_stamp_describe(const struct bus1_stamp *stamp,
			 struct bus1_creds *creds);

/*
 * Only one at a time is between these (ORD-4). 0, or -EINTR if the caller is
 * being killed.
 */
int bus1_sequence_begin(void);
void bus1_sequence_end(void);

void bus1_wait_init(struct wait_queue_head *wait);
/*
 * Wake pollers. Call after the change that makes the peer readable, with no lock
 * held.
 */
void bus1_wake(struct wait_queue_head *wait, bool hup);
/* The same for pollers alone, who wait until they can send. */
void bus1_wake_writable(struct wait_queue_head *wait);
/* Wake one of those in bus1_wait_for(), after setting the flag. */
void bus1_wake_one(struct wait_queue_head *wait);
/*
 * Wait, exclusively, until the flag is set. deadline is absolute, in ns of
 * CLOCK_MONOTONIC; 0 is none. Returns 0, -ERESTARTSYS or -ETIMEDOUT. A wake-up
 * that is not used, since a signal came, is passed on to the next.
 */
int bus1_wait_for(struct wait_queue_head *wait, const bool *flag,
		  __u64 deadline);
/* Another reference to a thread, and to give one back. */
void bus1_task_ref(struct task_struct *task);
void bus1_task_put(struct task_struct *task);
/* Wake a thread in bus1_sleep(); gives the reference back. No lock is held. */
void bus1_task_wake(struct task_struct *task);
/*
 * Sleep as long as *word is `value`. deadline is absolute, in ns of
 * CLOCK_MONOTONIC; 0 is none, and arms no timer. First `next` is woken, if it is
 * not NULL, as by bus1_task_wake(), but so that this CPU runs it next: the
 * hand-off (CALL-3).
 * Returns 0 if the word has changed, or -ERESTARTSYS or -ETIMEDOUT: then it may
 * have, too.
 */
int bus1_sleep(const __u32 *word, __u32 value, __u64 deadline,
	       struct task_struct *next);
/*
 * Whether a system call that the pending signals interrupt would be restarted:
 * each is ignored, stops, or has a handler with SA_RESTART.
 */
bool bus1_signals_restart(void);

/* Of the threads that are raised. Sleeps. */
void bus1_raised_lock(void);
void bus1_raised_unlock(void);
/* Look at them in a while, and then until none is known any more. */
void bus1_raised_later(void);
void bus1_raised_exit(void);

/* How a thread is scheduled: see sched(7). */
struct bus1_priority {
	__u32 policy;
	__s32 nice;
	__u32 priority;
	bool reset_on_fork;
	__u64 runtime;		/* its slice, or 0: the default one */
	__u64 slack;		/* of its timers; 0 if it is real-time */
};

struct bus1_priority bus1_priority_get(struct task_struct *task);
/* Nobody is asked whether that is allowed. May spin; no lock is held. */
void bus1_priority_set(struct task_struct *task,
		       const struct bus1_priority *priority);

/* The memory of the current process, without keeping what is in it. */
struct mm_struct *bus1_mm_get(void);
void bus1_mm_put(struct mm_struct *mm);
bool bus1_mm_is_current(struct mm_struct *mm);
/*
 * Pin a page of that, to be read, or written to. -ERESTARTSYS if a signal comes
 * while it is brought in, -EFAULT if there is none (any more).
 */
int bus1_page_pin(struct mm_struct *mm, __u64 address, bool write,
		  struct page **page);
void bus1_page_unpin(struct page *page, bool dirty);
/* Copy within one page. Any context. */
void bus1_page_copy(struct page *page, unsigned long offset, void *buf,
		    unsigned long len, bool write);

/* Like copy_struct_from_user(): 0, -E2BIG or -EFAULT. */
int bus1_copy_struct(void *dst, unsigned long ksize, const void *src,
		     unsigned long usize);
/* A pair of numbers at once: 0 or -EFAULT. */
int bus1_put_pair(__u32 *place, __u32 first, __u32 second);
int bus1_get_u64(__u64 *value, const __u64 *place);
int bus1_get_pass(struct bus1_pass *pass, const struct bus1_pass *place);
int bus1_put_handle(struct bus1_handle *place, const struct bus1_handle *handle);
/* Zero user memory: 0 or -EFAULT. */
int bus1_clear_user(void *dst, unsigned long size);

__u64 bus1_random(void);

void bus1_resched(void);
/*
 * In a loop that may not end: let others run. -ERESTARTSYS if there is a signal,
 * -ETIMEDOUT if that deadline is over (0: none), or 0.
 */
int bus1_may_go_on(__u64 deadline);

/*
 * Fire a tracepoint of trace.h, whether it is on or not: trace.rs has looked.
 * Only where the kernel has tracepoints. They do not sleep.
 */
void rust_do_trace_bus1_peer_open(__u64 peer, bool is_export);
void rust_do_trace_bus1_peer_close(__u64 peer);
void rust_do_trace_bus1_send(__u64 msg, __u64 txn, bool multicast,
			     __u64 sender, __u64 receiver, __u64 node,
			     __u32 len, __u32 handles, __u32 fds,
			     __u32 priority);
void rust_do_trace_bus1_notice(__u64 msg, __u64 txn, __u64 peer, __u32 type,
			       __u64 id);
void rust_do_trace_bus1_commit(__u64 txn);
void rust_do_trace_bus1_receive(__u64 msg, __u64 peer, __u32 type, __u64 id);
void rust_do_trace_bus1_drop(__u64 msg, __u64 peer, __u32 type, __u64 id,
			     __u32 why);
void rust_do_trace_bus1_refused(__u64 peer, __u32 resource, int error);
void rust_do_trace_bus1_call(__u64 msg, __u64 chain, __u32 depth, bool async,
			     __u64 caller, __u64 server, __u64 node, __u32 len);
void rust_do_trace_bus1_reply(__u64 msg, __u64 chain, __u64 server,
			      __u64 caller, __u32 len, int error);

/*
 * The same, in backing.c: the memory behind a pool. A mapping is where the
 * mappings of one file are found, and lives as long as the file and whoever
 * unmaps.
 */
struct address_space *bus1_mapping_new(void);
void bus1_mapping_free(struct address_space *mapping);
/* Unmap pages from whoever has them mapped. May sleep. */
void bus1_mapping_unmap(struct address_space *mapping, unsigned long first,
			unsigned long pages);

/* What is charged to the current process, its cgroup that is. NULL if it fails. */
struct bus1_backing *bus1_backing_new(void *peer);
/* Not while it is listed. */
void bus1_backing_free(struct bus1_backing *backing);
/*
 * Zeroed pages of its owner's, whoever asks for them: 1 << order that lie side
 * by side, each with a reference of its own. NULL if it fails: more than one are
 * only had if they are at hand.
 */
struct page *bus1_backing_pages(struct bus1_backing *backing,
				unsigned int order);
/*
 * About how many pages of the peer's pool are idle; and that the shrinker is to
 * look at it, until it does or that is taken back. All under the peer's lock;
 * a peer that is closed is not listed.
 */
void bus1_backing_set_idle(struct bus1_backing *backing, unsigned long idle);
void bus1_backing_list(struct bus1_backing *backing);
void bus1_backing_unlist(struct bus1_backing *backing);

void bus1_page_get(struct page *page);
/* Drop a reference. */
void bus1_page_free(struct page *page);
/*
 * True if every fault that has found the page before is over, and each that
 * comes later sees what was written before this call. Does not wait: if one is
 * under way, it is false.
 */
bool bus1_page_settle(struct page *page);
/* Someone else has a reference: a mapping, or a pin. */
bool bus1_page_is_shared(struct page *page);

int bus1_backing_init(void);
void bus1_backing_exit(void);

/* Rust, called from C. A peer is the pointer that bus1_peer_open() gave. */

/*
 * A new time; and to look at the threads that were last set before it, if everybody
 * is done who began to change their priority earlier. Whether there are any
 * threads left. Sleeps.
 */
__u64 bus1_raised_tick(void);
bool bus1_raised_again(__u64 time);

/* Before anything else, and after everything else; how many users are left. */
void bus1_begin(unsigned long max_pool_pages);
unsigned long bus1_end(void);

/*
 * The limit of each user that has none of its own, and that of one: the default
 * one if it is negative. 0 or a negative errno. May sleep.
 */
long bus1_limit_get(__u32 which);
void bus1_limit_set(__u32 which, long max);
int bus1_limit_set_user(__u32 uid, __u32 which, long max);
/* A line for each user. Returns how long all is: size may be less. */
unsigned long bus1_users_show(char *to, unsigned long size);

/* A new peer of a user, owned by the file; or NULL and a negative errno. */
void *bus1_peer_open(__u32 uid, int *error);
void bus1_peer_close(void *peer);
long bus1_peer_ioctl(void *peer, bool nonblock, unsigned int cmd,
		     unsigned long arg);
struct wait_queue_head *bus1_peer_wait(void *peer);
/* Whether a receive would find something. Any context that may spin. */
bool bus1_peer_readable(void *peer);
/* Whether nothing that it has sent waits for room. Likewise. */
bool bus1_peer_writable(void *peer);
/* Drop what is at the front and void. May sleep: not while about to wait. */
void bus1_peer_clean(void *peer);
/* Make the pool if there is none; check that pgoff + pages is within it. */
int bus1_peer_map(void *peer, unsigned long pgoff, unsigned long pages);
/* Where its file is mapped, as long as the file is open. */
struct address_space *bus1_peer_mapping(void *peer);
/* The page at an index of the pool, with a reference, or NULL. */
struct page *bus1_peer_page(void *peer, unsigned long pgoff);
/* Whether that is still it. */
bool bus1_peer_has_page(void *peer, unsigned long pgoff, struct page *page);
/* References besides the one that the file has. */
void bus1_peer_get(void *peer);
void bus1_peer_put(void *peer);
/*
 * Free about `max` idle pages, and tell how many that were; adds to *seen what
 * it was worth in work. May sleep, but waits for nobody.
 */
unsigned long bus1_peer_shrink(void *peer, unsigned long max,
			       unsigned long *seen);
long bus1_stat(enum bus1_stat which);
void bus1_peer_fdinfo(void *peer, struct bus1_fdinfo *info);

/* In fdinfo.c: of a peer's file, or an exported handle's. */
void bus1_show_fdinfo(struct seq_file *m, struct file *file);

#endif /* _BUS1_BRIDGE_H */
