#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# In the guest: every transport brings every byte, handle and notice that the
# bench sends. Arguments are filters, as for all test programs.

name="EVD-1 bus1-bench runs all its work over all transports"
wanted=$#
for filter; do
	case $name in *"$filter"*) wanted=0 ;; esac
done
[ "$wanted" = 0 ] || exit 0

out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT

# COUNT ARG...: bus1-bench with these arguments measures so much; all with a figure.
check()
{
	local count=$1

	shift
	if ! bus1-bench "$@" --json >"$out"; then
		echo "not ok $name: exit status not 0"
		exit 1
	fi
	if ! jq -e "[.results[] | select(.median > 0)] | length == $count" "$out" >/dev/null; then
		jq -c '.results[] | select(.median | not)' "$out"
		echo "not ok $name: figures are missing"
		exit 1
	fi
}

# 6 sizes of 4 works over 4 transports, and 6 more.
check 102 --rounds 5 --filter sendrecv,sendrecv-touch,roundtrip,roundtrip-touch,life,pass
# 2 sizes of 2 works over 4 transports.
check 16 --short --rounds 2 --filter large,large-touch
# 4 counts over 2 transports, 2, 3 and 2 counts: what is left out takes minutes on a kernel with checks.
check 15 --short --rounds 2 --filter fanout,scale,death,flooded
echo "ok $name"
