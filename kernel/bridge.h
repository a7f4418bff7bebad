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

struct file;
struct page;
struct wait_queue_head;

/* What the module counts; the order is that of the parameters in bridge.c. */
enum bus1_stat {
	BUS1_STAT_PEERS,
	BUS1_STAT_NODES,
	BUS1_STAT_HANDLES,
	BUS1_STAT_MESSAGES,
	BUS1_STAT_SLICES,
	BUS1_STAT_POOL_PAGES,
	BUS1_STAT_N,
};

/* C, called from Rust. */

/* The peer of an open file, or NULL if the file is no bus1 peer. */
void *bus1_file_peer(struct file *file);
struct file *bus1_fget(int fd);
void bus1_fput(struct file *file);

void bus1_wait_init(struct wait_queue_head *wait);
/*
 * Wake one receiver and all pollers. Call after the change that makes the
 * peer readable, with no lock held.
 */
void bus1_wake(struct wait_queue_head *wait);
/*
 * Wait, exclusively, until bus1_peer_readable(peer). deadline is absolute, in
 * ns of CLOCK_MONOTONIC; 0 is none, and arms no timer.
 * Returns 0, -ERESTARTSYS or -ETIMEDOUT. A wake-up that is not used, since a
 * signal came, is passed on to the next.
 */
int bus1_wait(struct wait_queue_head *wait, void *peer, __u64 deadline);

/* Like copy_struct_from_user(): 0, -E2BIG or -EFAULT. */
int bus1_copy_struct(void *dst, unsigned long ksize, const void *src,
		     unsigned long usize);
/* Zero user memory: 0 or -EFAULT. */
int bus1_clear_user(void *dst, unsigned long size);

void bus1_resched(void);
/* How many pages all pools together may have. */
unsigned long bus1_max_pool_pages(void);

/* Rust, called from C. A peer is the pointer that bus1_peer_open() gave. */

/* A new peer, or NULL when out of memory or peers; owned by the file. */
void *bus1_peer_open(void);
void bus1_peer_close(void *peer);
long bus1_peer_ioctl(void *peer, bool nonblock, unsigned int cmd,
		     unsigned long arg);
struct wait_queue_head *bus1_peer_wait(void *peer);
/* Whether a receive would find something. Any context that may spin. */
bool bus1_peer_readable(void *peer);
/* Drop what is at the front and void. May sleep: not while about to wait. */
void bus1_peer_clean(void *peer);
/* Make the pool if there is none; check that pgoff + pages is within it. */
int bus1_peer_map(void *peer, unsigned long pgoff, unsigned long pages);
/* The page at an index of the pool, without a reference, or NULL. */
struct page *bus1_peer_page(void *peer, unsigned long pgoff);
long bus1_stat(enum bus1_stat which);

#endif /* _BUS1_BRIDGE_H */
