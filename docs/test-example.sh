#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# In the guest: the example of bus1(7) prints what the page says. Arguments are
# filters, as for all test programs.

name="OBJ-13 MSG-1 OBJ-10 the example of bus1(7)"
wanted=$#
for filter; do
	case $name in *"$filter"*) wanted=0 ;; esac
done
[ "$wanted" = 0 ] || exit 0

want="server: object 42 is asked: what is a capability?
client: a reference that is also the right to use it
server: object 42 is unused"
got=$(timeout 30 "$(dirname "$0")/../../bus1-example" 2>&1)
if [ "$got" = "$want" ]; then
	echo "ok $name"
else
	echo "$got"
	echo "not ok $name: other output"
	exit 1
fi
