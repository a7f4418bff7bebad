#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# BENCH PLOT: of a report that the bench saves, plots are drawn, and all that has
# a figure is in them. On any machine: its rivals will do.

name="EVD-1 a saved report is drawn"
if ! command -v gnuplot >/dev/null; then
	echo "skip $name: no gnuplot"
	exit 0
fi
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT

fail()
{
	echo "not ok $name: $*"
	exit 1
}

"$1" --short --rounds 2 --filter roundtrip,fanout,fanin --save "$out/report" >/dev/null || fail "the bench failed"
python3 -B "$2" "$out/report" "$out/plot" >"$out/said" || fail "the plot script failed"
for what in "roundtrip seqpacket pipe eventfd futex" "fanout seqpacket datagram receivers"; do
	set -- $what
	grep -qx "$out/plot-$1.svg" "$out/said" || fail "it does not say where plot-$1.svg is"
	python3 -c 'import sys, xml.dom.minidom as x; x.parse(sys.argv[1])' "$out/plot-$1.svg" || fail "$1: no XML"
	for word in "${@:2}"; do
		grep -q "$word" "$out/plot-$1.svg" || fail "$1: no $word"
	done
done
echo "ok $name"
