#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# In the guest: every transport brings every byte, handle and notice that the
# bench sends. Arguments are filters, as for all test programs.

name="EVD-1 bus1-bench runs its work over all transports"
wanted=$#
for filter; do
	case $name in *"$filter"*) wanted=0 ;; esac
done
[ "$wanted" = 0 ] || exit 0

out=$(mktemp) || exit 1
trap 'rm -f "$out" "$out.saved"' EXIT

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

# All of it takes minutes on a kernel with checks; what follows is there for the figures, not for the module.
if [ -e /sys/kernel/debug/kmemleak ]; then
	check 76 --short --rounds 2 --filter roundtrip,oneway,pass,life,sendrecv
	echo "ok $name"
	exit 0
fi

# 6 sizes of 2 works over 7 transports, and of 1 over 9; and 6 more.
check 144 --rounds 5 --filter sendrecv,sendrecv-touch,roundtrip-touch,life,pass
# 3 sizes over 13 transports and 1 over the floor, 14 of another work, and 9 one way; and 2 works of
# 14 that need two processors.
if [ "$(nproc)" -gt 1 ]; then
	check 91 --short --rounds 5 --filter roundtrip,roundtrip-hog,oneway,roundtrip-2cpu,roundtrip-apart
else
	check 63 --short --rounds 5 --filter roundtrip,roundtrip-hog,oneway
fi
# 2 sizes of 2 works over 4 transports.
check 16 --short --rounds 2 --filter large,large-touch
# 4 counts over 2 transports; over 3, and 2 over 1, as datagrams wait 10 at a time; 2, 3, 2 and 3
# counts: what is left out takes minutes on a kernel with checks.
check 32 --short --rounds 2 --filter fanout,fanin,scale,death,flooded,inflight
# Each operation by itself: 3 counts and 3 ways to pass, with what the slowest take. And round
# trips, of which 2 transports do fewer: they have no slowest of a thousand.
percentiles()
{
	if ! jq -e "[.results[] | select(.p99 >= .median and .median > 0)] | length == $1" "$out" >/dev/null ||
		! jq -e "[.results[] | select(.p999 >= .p99)] | length == $2" "$out" >/dev/null ||
		! jq -e '.unit == "ns" and ([.results[] | select(.max >= (.p999 // .p99))] | length) > 0' "$out" >/dev/null
	then
		echo "not ok $name: percentiles"
		exit 1
	fi
}
check 6 --short --rounds 1000 --clock wall --filter inflight,pass
percentiles 6 6
if [ "$(nproc)" -gt 1 ]; then
	check 14 --rounds 1000 --clock wall --filter roundtrip-apart
	percentiles 14 12
fi
# What is missing has a reason, and is no failure; what is saved is what is printed.
if ! bus1-bench --short --rounds 2 --filter fanin --json --save "$out.saved" >"$out" ||
	! cmp -s "$out" "$out.saved" ||
	! jq -e '[.results[] | select(.absent and (.error | contains("max_dgram_qlen")))] | length == 2' "$out" >/dev/null
then
	echo "not ok $name: what is absent, or what is saved"
	exit 1
fi
echo "ok $name"
