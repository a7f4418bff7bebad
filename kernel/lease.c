// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of other processes: for lease.rs.
 */
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include "bridge.h"

struct mm_struct *bus1_mm_get(void)
{
	mmgrab(current->mm);
	return current->mm;
}

void bus1_mm_put(struct mm_struct *mm)
{
	mmdrop(mm);
}

bool bus1_mm_is_current(struct mm_struct *mm)
{
	return current->mm == mm;
}

int bus1_page_pin(struct mm_struct *mm, __u64 address, bool write,
		  struct page **page)
{
	unsigned int flags = FOLL_INTERRUPTIBLE | (write ? FOLL_WRITE : 0);
	int locked = 1;
	long n;

	if (!mmget_not_zero(mm))
		return -EFAULT;
	if (mmap_read_lock_killable(mm)) {
		mmput_async(mm);
		return -ERESTARTSYS;
	}
	n = pin_user_pages_remote(mm, untagged_addr_remote(mm, address), 1,
				  flags, page, &locked);
	if (locked)
		mmap_read_unlock(mm);
	/* Never here, if it is the last: that may take its time. */
	mmput_async(mm);
	if (n == 1)
		return 0;
	return signal_pending(current) ? -ERESTARTSYS : -EFAULT;
}

void bus1_page_unpin(struct page *page, bool dirty)
{
	unpin_user_pages_dirty_lock(&page, 1, dirty);
}

void bus1_page_copy(struct page *page, unsigned long offset, void *buf,
		    unsigned long len, bool write)
{
	if (write)
		memcpy_to_page(page, offset, buf, len);
	else
		memcpy_from_page(buf, page, offset, len);
}
