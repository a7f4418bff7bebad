// SPDX-License-Identifier: GPL-2.0-or-later
/* Forms of HANDLE_TRANSFER, HANDLE_EXPORT and HANDLE_IMPORT. */
#include "fault.h"

#include <fcntl.h>
#include <unistd.h>

static struct bus1_cmd_transfer *transfer_of(const struct peer *to, u32 n)
{
	struct bus1_cmd_transfer *c = command(&w.s, BUS1_CMD_HANDLE_TRANSFER);

	c->ids = PTR(w.ids);
	c->out = PTR(w.out);
	c->n_ids = n;
	c->peer_fd = to ? to->fd : -1;
	return c;
}

/* Of several kinds: a node, a handle of a third peer's, one that the other has, its own node. */
static void four_ids(void)
{
	w.ids[0] = w.ns;
	w.ids[1] = w.to_t;
	w.ids[2] = w.id[0] = node_new(&w.s, 3);
	w.id[1] = grant(&w.s, w.id[0], &w.r);
	w.ids[3] = w.to_r;
	watch(&w.s, w.to_t);
	watch(&w.s, w.to_r);
	watch(&w.r, w.id[1]);
}

static void transfer_new(void)
{
	four_ids();
	transfer_of(&w.r, 1);
}

static void transferred(void)
{
	NE(w.out[0], 0);
	OK(send_str(&w.r, w.out[0], "hello"));
	GOT_TEXT(&w.s, w.ns, "hello");
	OK(release(&w.r, w.out[0]));
	ERR(release(&w.r, w.out[0]), ENXIO);
	GOT_UNUSED(&w.s, w.ns, 1);
}

FORM("transfer", .fails = SLAB | COPY, .setup = transfer_new, .check = transferred)

static void transfer_known(void)
{
	four_ids();
	w.ids[0] = w.id[0];
	transfer_of(&w.r, 1);
}

static void got_count(void)
{
	EQ(w.out[0], w.id[1]);
	OK(release(&w.r, w.id[1]));
	OK(release(&w.r, w.id[1]));
	ERR(release(&w.r, w.id[1]), ENXIO);
	GOT_UNUSED(&w.s, w.id[0], 1);
}

FORM("transfer what is there", .fails = SLAB | COPY, .setup = transfer_known, .check = got_count)

static void transfer_several(void)
{
	four_ids();
	transfer_of(&w.r, 4);
}

static void got_four(void)
{
	transferred();
	OK(send_str(&w.r, w.out[1], "there"));
	GOT_TEXT(&w.t, w.nt, "there");
	OK(release(&w.r, w.out[1]));
	w.out[0] = w.out[2];
	got_count();
	EQ(w.out[3], w.nr);
	OK(release(&w.s, w.to_t));
	ERR(release(&w.s, w.to_t), ENXIO);
	GOT_UNUSED(&w.t, w.nt, 1);
}

FORM("transfer several", .fails = SLAB | COPY, .setup = transfer_several, .check = got_four)

static void transfer_to_full_table(void)
{
	for (u32 i = 0; i < 30; i++)
		node_new(&w.r, i);
	four_ids();
	node_new(&w.r, 31);
	transfer_of(&w.r, 4);
}

FORM("transfer, as the table grows", .fails = SLAB | COPY, .setup = transfer_to_full_table,
     .check = got_four)

static void move_several(void)
{
	four_ids();
	w.ids[0] = w.to_t;
	w.ids[1] = w.to_r;
	transfer_of(&w.r, 2)->flags = BUS1_TRANSFER_MOVE;
}

static void moved(void)
{
	ERR(release(&w.s, w.to_t), ENXIO);
	ERR(release(&w.s, w.to_r), ENXIO);
	EQ(w.out[1], w.nr);
	GOT_UNUSED(&w.r, w.nr, 1);
	OK(send_str(&w.r, w.out[0], "moved"));
	GOT_TEXT(&w.t, w.nt, "moved");
	OK(release(&w.r, w.out[0]));
	GOT_UNUSED(&w.t, w.nt, 1);
}

FORM("transfer, moving several", .fails = SLAB | COPY, .setup = move_several, .check = moved)

static void move_one(void)
{
	w.ids[0] = w.to_t;
	watch(&w.s, w.to_t);
	transfer_of(&w.r, 1)->flags = BUS1_TRANSFER_MOVE;
}

static void moved_one(void)
{
	ERR(release(&w.s, w.to_t), ENXIO);
	OK(release(&w.r, w.out[0]));
	GOT_UNUSED(&w.t, w.nt, 1);
}

FORM("transfer, moving one", .fails = SLAB | COPY, .setup = move_one, .check = moved_one)

static void weaken(void)
{
	w.ids[0] = w.to_t;
	watch(&w.s, w.to_t);
	transfer_of(NULL, 1)->flags = BUS1_TRANSFER_WEAK;
}

static void weakened(void)
{
	ERR(send_str(&w.s, w.out[0], "weak"), EPERM);
	OK(release(&w.s, w.to_t));
	GOT_UNUSED(&w.t, w.nt, 1);
	OK(release(&w.s, w.out[0]));
	ERR(release(&w.s, w.out[0]), ENXIO);
}

FORM("transfer to oneself, weak", .fails = SLAB | COPY, .setup = weaken, .check = weakened)

static void strengthen(void)
{
	w.id[0] = grant_as(&w.s, w.to_t, NULL, BUS1_TRANSFER_WEAK, 0);
	OK(release(&w.s, w.to_t));
	GOT_UNUSED(&w.t, w.nt, 1);
	w.ids[0] = w.id[0];
	watch(&w.s, w.id[0]);
	transfer_of(NULL, 1)->flags = BUS1_TRANSFER_STRONG;
}

static void strengthened(void)
{
	OK(send_str(&w.s, w.out[0], "strong"));
	GOT_TEXT(&w.t, w.nt, "strong");
	OK(release(&w.s, w.out[0]));
	GOT_UNUSED(&w.t, w.nt, 2);
	OK(release(&w.s, w.id[0]));
}

FORM("transfer to oneself, strong", .fails = SLAB | COPY, .setup = strengthen,
     .check = strengthened)

/* A notice that waits is not withdrawn by a try. */
static void transfer_told(void)
{
	w.id[0] = node_new(&w.s, 3);
	OK(release(&w.r, grant(&w.s, w.id[0], &w.r)));
	w.ids[0] = w.id[0];
	transfer_of(&w.r, 1);
}

static void notice_withdrawn(void)
{
	NOTHING(&w.s);
	OK(release(&w.r, w.out[0]));
	GOT_UNUSED(&w.s, w.id[0], 2);
}

FORM("transfer of a node whose owner is being told", .fails = SLAB | COPY,
     .setup = transfer_told, .check = notice_withdrawn)

/* Export and import. */

static void export_of(u64 id)
{
	struct bus1_cmd_export *c = command(&w.s, BUS1_CMD_HANDLE_EXPORT);

	c->id = id;
	watch(&w.s, w.to_t);
}

static void export_node(void)
{
	export_of(w.id[0] = node_new(&w.s, 3));
}

static void node_exported(void)
{
	u64 id;

	GT(w.cmd.export.fd, 0);
	EQ(fcntl(w.cmd.export.fd, F_GETFD), FD_CLOEXEC);
	id = import_fd(&w.r, w.cmd.export.fd);
	OK(send_str(&w.r, id, "exported"));
	GOT_TEXT(&w.s, w.id[0], "exported");
	OK(release(&w.r, id));
	NOTHING(&w.s);
	close_fd(w.cmd.export.fd);
	GOT_UNUSED(&w.s, w.id[0], 1);
}

FORM("export a node", .fails = SLAB | COPY, .setup = export_node, .check = node_exported)

static void export_handle(void)
{
	export_of(w.to_t);
}

static void handle_exported(void)
{
	OK(release(&w.s, w.to_t));
	NOTHING(&w.t);
	close_fd(w.cmd.export.fd);
	GOT_UNUSED(&w.t, w.nt, 1);
}

FORM("export a handle", .fails = SLAB | COPY, .setup = export_handle, .check = handle_exported)

/* All descriptors but one are taken that the process has a table for. */
static void export_64(void)
{
	export_handle();
	while (OK(SYS(fcntl(0, F_DUPFD_CLOEXEC, 0))) < 62)
		;
}

static int export_as_64(void)
{
	int last = fcntl(0, F_DUPFD_CLOEXEC, 0), r = raw(w.on, w.number, &w.cmd);

	close(last);
	return r;
}

static void exported_64(void)
{
	EQ(w.cmd.export.fd, 64);
	handle_exported();
}

FORM("export, as the table of descriptors grows", .fails = SLAB | COPY, .setup = export_64,
     .run = export_as_64, .check = exported_64, .alone = true)

static void import_of(const struct peer *p, u64 id)
{
	struct bus1_cmd_import *c;

	w.fd[0] = (int)OK(export_fd(&w.t, id, 0));
	c = command(p, BUS1_CMD_HANDLE_IMPORT);
	c->fd = w.fd[0];
}

static void import_new(void)
{
	import_of(&w.r, w.nt);
}

static void imported(void)
{
	u64 id = w.cmd.import.handle.id;

	OK(send_str(&w.r, id, "imported"));
	GOT_TEXT(&w.t, w.nt, "imported");
	OK(release(&w.r, id));
	ERR(release(&w.r, id), ENXIO);
}

FORM("import", .fails = SLAB | COPY, .setup = import_new, .check = imported)

static void import_known(void)
{
	import_of(&w.s, w.nt);
	watch(&w.s, w.to_t);
}

static void imported_known(void)
{
	EQ(w.cmd.import.handle.id, w.to_t);
	OK(release(&w.s, w.to_t));
	OK(release(&w.s, w.to_t));
	ERR(release(&w.s, w.to_t), ENXIO);
}

FORM("import what is there", .fails = COPY, .setup = import_known, .check = imported_known)

static void import_home(void)
{
	import_of(&w.t, w.nt);
}

static void imported_home(void)
{
	EQ(w.cmd.import.handle.id, w.nt);
	EQ(w.cmd.import.handle.flags, BUS1_HANDLE_OWN);
}

FORM("import one's own", .fails = COPY, .setup = import_home, .check = imported_home)
