// SPDX-License-Identifier: GPL-2.0-or-later
/* In place of dbus.c and varlink.c, where libsystemd is missing at build time. */
#include "bench.h"

static int no_open(struct end **a, struct end **b, size_t size, bool alone)
{
	return absent("bus1-bench was built without libsystemd");
}

const struct transport transport_dbus = {
	.name = "dbus",
	.open = no_open,
};

const struct transport transport_varlink = {
	.name = "varlink",
	.open = no_open,
};
