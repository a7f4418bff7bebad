// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory of the calling process: for user.rs, which has the rest of it
 * from the kernel crate.
 */
#include <linux/uaccess.h>

#include "bridge.h"

int bus1_copy_struct(void *dst, unsigned long ksize, const void *src,
		     unsigned long usize)
{
	return copy_struct_from_user(dst, ksize, (const void __user *)src, usize);
}

int bus1_put_pair(__u32 *place, __u32 first, __u32 second)
{
	u32 both[2] = { first, second };
	u64 pair;

	memcpy(&pair, both, sizeof(pair));
	return put_user(pair, (u64 __user *)place);
}

int bus1_get_u64(__u64 *value, const __u64 *place)
{
	return get_user(*value, (const __u64 __user *)place);
}

int bus1_clear_user(void *dst, unsigned long size)
{
	return clear_user((void __user *)dst, size) ? -EFAULT : 0;
}

/* What is this small costs less field by field than as a block. */
int bus1_get_pass(struct bus1_pass *pass, const struct bus1_pass *place)
{
	const struct bus1_pass __user *from = (const struct bus1_pass __user *)place;

	if (!user_read_access_begin(from, sizeof(*from)))
		return -EFAULT;
	unsafe_get_user(pass->id, &from->id, fault);
	unsafe_get_user(pass->flags, &from->flags, fault);
	unsafe_get_user(pass->drop_rights, &from->drop_rights, fault);
	user_read_access_end();
	return 0;
fault:
	user_read_access_end();
	return -EFAULT;
}

int bus1_put_handle(struct bus1_handle *place, const struct bus1_handle *handle)
{
	struct bus1_handle __user *to = (struct bus1_handle __user *)place;

	if (!user_write_access_begin(to, sizeof(*to)))
		return -EFAULT;
	unsafe_put_user(handle->id, &to->id, fault);
	unsafe_put_user(handle->cookie, &to->cookie, fault);
	unsafe_put_user(handle->flags, &to->flags, fault);
	unsafe_put_user(handle->rights, &to->rights, fault);
	user_write_access_end();
	return 0;
fault:
	user_write_access_end();
	return -EFAULT;
}
