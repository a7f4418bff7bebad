// SPDX-License-Identifier: GPL-2.0-only
/* The memory of buffers: what only C can ask of a memfd (MSG-5). */
#include <linux/cred.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/shmem_fs.h>

#include "bridge.h"

int bus1_memfd_check(struct file *file, bool shared, __u64 *size)
{
	const unsigned int fixed = F_SEAL_SHRINK | F_SEAL_GROW;
	struct inode *inode;
	unsigned int seals;

	if (!(file->f_mode & FMODE_READ))
		return -EBADF;
	if (!shmem_file(file))
		return -EMEDIUMTYPE;
	/* Some files borrow the mapping of another: the seals are those of its own. */
	inode = file->f_mapping->host;
	if (inode != file_inode(file))
		return -EMEDIUMTYPE;
	/*
	 * Seals are only ever added, under the inode's lock, under which the size
	 * is changed, too: who sees them, and looks later, sees the last size.
	 */
	seals = smp_load_acquire(&SHMEM_I(inode)->seals);
	if ((seals & fixed) != fixed)
		return -ETXTBSY;
	*size = i_size_read(inode);
	if (seals & F_SEAL_WRITE)
		return 0;
	if (shared && (seals & F_SEAL_FUTURE_WRITE))
		return 1;
	return -ETXTBSY;
}

int bus1_memfd_open(struct file *file, __s32 *place)
{
	struct file *own;
	int fd;

	/*
	 * Position and flags are those of who opens it. Its maker may have a lease on
	 * the file, which opening it would wait for: it must not stall others so.
	 */
	own = dentry_open(&file->f_path, O_RDONLY | O_LARGEFILE | O_NONBLOCK,
			  current_cred());
	if (IS_ERR(own))
		return PTR_ERR(own) == -EWOULDBLOCK ? -ETXTBSY : PTR_ERR(own);
	own->f_flags &= ~O_NONBLOCK;
	/* Tells the descriptor before it is there for others. */
	fd = receive_fd(own, (int __user *)place, O_CLOEXEC);
	fput(own);
	return fd < 0 ? fd : 0;
}
