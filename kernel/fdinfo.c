// SPDX-License-Identifier: GPL-2.0-only
/* /proc/PID/fdinfo: see FDINFO in bus1(7) (RES-6). */
#include <linux/fs.h>
#include <linux/seq_file.h>

#include "bridge.h"

void bus1_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct bus1_fdinfo info = {};

	/* Read at one instant, under the peer's lock; shown without it. */
	bus1_peer_fdinfo(file->private_data, &info);
	seq_printf(m, "peer:\t%llu\n", info.peer);
	seq_printf(m, "by-priority:\t%d\n", info.by_priority);
	seq_printf(m, "messages:\t%llu\n", info.messages);
	seq_printf(m, "notices:\t%llu\n", info.notices);
	seq_printf(m, "uncommitted:\t%llu\n", info.uncommitted);
	seq_printf(m, "nodes:\t%llu\n", info.nodes);
	seq_printf(m, "handles:\t%llu\n", info.handles);
	seq_printf(m, "slices:\t%llu\n", info.slices);
	seq_printf(m, "pool-size:\t%llu\n", info.pool_size);
	seq_printf(m, "pool-pages:\t%llu\n", info.pool_pages);
	seq_printf(m, "pool-used:\t%llu\n", info.pool_used);
	seq_printf(m, "charged-messages:\t%llu\n", info.charged_messages);
	seq_printf(m, "charged-bytes:\t%llu\n", info.charged_bytes);
	seq_printf(m, "charged-handles:\t%llu\n", info.charged_handles);
	seq_printf(m, "charged-files:\t%llu\n", info.charged_files);
	seq_printf(m, "charged-users:\t%llu\n", info.senders);
	seq_printf(m, "waiting:\t%llu\n", info.waiting);
}
