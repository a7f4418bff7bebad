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
if ! bus1-bench --rounds 5 --touch --json >"$out"; then
	echo "not ok $name: exit status not 0"
	exit 1
fi
# 6 sizes of 4 works over 4 transports, 6 of capabilities, 8 of fan-out, 3 of scale, 4 of death; all
# with a figure.
if ! jq -e '[.results[] | select(.median > 0)] | length == 117' "$out" >/dev/null; then
	jq -c '.results[] | select(.median | not)' "$out"
	echo "not ok $name: figures are missing"
	exit 1
fi
echo "ok $name"
