#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Shows what bus1 does, with three programs that share nothing (examples/shelf),
# checks what they computed, and prints what bus1 costs beside its rivals.
# Exits with 1 if anything is not as it should be.
set -u
texts=${1:-/usr/share/common-licenses}
here=$(cd "$(dirname "$0")" && pwd)
export LC_ALL=C PATH="$here/examples:$PATH"
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
some=(GPL-3 LGPL-2.1 Apache-2.0 MPL-2.0 Artistic)

say() { printf '%s\n' "$@"; }
bad() { say "" "THIS IS WRONG: $1"; exit 1; }

# Show what the programs say, indented, and keep it. Stops the server once the
# counter says that it stays.
follow() {
    while IFS= read -r line; do
        printf '    %s\n' "$line"
        printf '%s\n' "$line" >>"$log"
        case $line in
        "counter: stays,"*)
            say "" "  The server is killed, without warning:" ""
            kill -KILL "$1"
            ;;
        esac
    done
}

# run ARGUMENT...: the three programs; $log is what they said.
run() {
    local fd server
    : >"$log"
    exec {fd}< <(exec shelf-server "$texts" "$@" 2>&1)
    server=$!
    follow $server <&"$fd"
    exec {fd}<&-
    wait $server 2>/dev/null
}

said() { grep -c "$1" "$log"; }

say "" \
    "bus1: capabilities between processes" \
    "====================================" \
    "" \
    "Three programs that share no memory, no file and no name run side by side." \
    "" \
    "  server   makes every text in $texts an object, and a shelf" \
    "           that finds them by name" \
    "  reader   was started with one thing: a handle to the shelf. It asks for ${#some[@]} texts" \
    "           and gets a handle for each." \
    "  counter  was started with nothing but a handle to say where it is. The reader passes" \
    "           the texts' handles on to it: that lets it ask the texts themselves. The" \
    "           kernel copies each text once, into the counter's memory, where it is read" \
    "           in place." \
    "" \
    "A handle cannot be guessed or forged, and there is no address to reach an object by: who" \
    "holds a handle may talk to the object, nobody else. The server is never told who does." \
    "When the counter leaves, the kernel tells the server that each text is unused." \
    ""
run shelf-reader "${some[@]}" -- shelf-counter
[ "$(said '^counter: .* words ')" = ${#some[@]} ] || bad "not every text was counted"
[ "$(said '^server: .*: unused, freed$')" = ${#some[@]} ] || bad "not every text was reported unused"
for name in "${some[@]}"; do
    read -r sum _ < <(sha256sum "$texts/$name")
    words=$(wc -w <"$texts/$name")
    grep -q "^counter: $sum  *$words words  $name\$" "$log" || bad "$name: sha256sum and wc say $sum, $words"
done
say "" \
    "  All ${#some[@]} sums and word counts are what sha256sum and wc -w say. The unused notices" \
    "  are how the server could free the texts: nobody can ask for them any more, and that is" \
    "  known at once, not guessed by a timeout." \
    "" \
    "Now the same again, but the counter stays, and the server dies. Everyone who holds one of" \
    "its objects is told, by the kernel, whatever the server did." \
    ""
run shelf-reader "${some[@]}" -- shelf-counter --stay
[ "$(said '^reader: the shelf is dead$')" = 1 ] || bad "the reader was not told that the server is dead"
[ "$(said '^counter: .* is dead$')" = ${#some[@]} ] || bad "the counter was not told of every text"
say "" \
    "  The reader lost its shelf and the counter its texts: both were told." \
    ""

bench=${BUS1_BENCH:-$(command -v bus1-bench)}
[ -n "$bench" ] || bad "bus1-bench is not installed"
say "What it costs, in one run with the system's other means" \
    "-------------------------------------------------------" \
    ""
"$bench" --short --filter sendrecv,roundtrip,life,pass,fanout || bad "bus1-bench failed"
