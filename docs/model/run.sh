#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# run.sh MODEL [K N]: has spin explore MODEL.pml as MODEL.sh says, all states of each setting, and
# what is broken on purpose until the claim that must fail does. Of all that the K-th in each N,
# from 0, so that several can work side by side. In $TEST_FILTERS, if set, each line is a
# filter: only tests whose name contains one of them are run.
set -u
command -v spin >/dev/null || { echo "skip EVD-4 model: there is no spin"; exit 0; }
model=$(cd "$(dirname "$0")" && pwd)/$1
part=${2:-0}
parts=${3:-1}
turn=0
level=-O1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failed=0

wanted() {
	turn=$((turn + 1))
	[ $((turn % parts)) = "$part" ] || return 1
	[ -n "${TEST_FILTERS:-}" ] || return 0
	printf '%s\n' "$TEST_FILTERS" | while read -r filter; do
		case $1 in *"$filter"*) return 1 ;; esac
	done && return 1
	return 0
}

# explore LEVEL OPTIONS: the output of the checker goes to `out`.
explore() {
	optimise=$1
	shift
	options=$*
	rm -f pan* ./*.trail out
	spin -a "$@" "$model.pml" >out 2>&1 &&
		"${CC:-cc}" "$optimise" -w -DSAFETY -DCOLLAPSE -DMEMLIM=3000 -o pan pan.c >>out 2>&1 &&
		./pan -E -m10000 >>out 2>&1
}

bad() {
	tail -n 40 out
	# shellcheck disable=SC2086
	[ ! -e "${model##*/}.pml.trail" ] ||
		spin -k "${model##*/}.pml.trail" -t -p $options "$model.pml" 2>&1 | tail -n 60
	echo "not ok $1: $2"
	failed=1
}

# holds NAME OPTIONS: no claim fails in any state.
holds() {
	name=$1
	shift
	wanted "$name" || return
	explore "$level" "$@"
	grep -E 'states, stored|total actual memory|elapsed time' out
	if grep -q 'errors: 0$' out &&
	   ! grep -qE 'not completed|too small|memory limit|out of memory' out; then
		echo "ok $name"
	else
		bad "$name" "not all states were explored and found good"
	fi
}

# fails CLAIM NAME OPTIONS: that claim fails, and none before it.
fails() {
	claim=$1
	name=$2
	shift 2
	wanted "$name" || return
	explore -O0 "$@"
	if grep -q "^pan:1: assertion violated $claim " out; then
		echo "ok $name"
	else
		bad "$name" "$claim was not found to fail"
	fi
}

# And what they speak of happens.
reached() {
	name=$1
	shift
	fails REACHED_NOT "EVD-4 model, reached: $name" "$@"
}

# shellcheck source=/dev/null
. "$model.sh"
exit $failed
