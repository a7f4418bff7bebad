#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The examples, above all the shelf: three processes and what they must say. Speaks the protocol of
# the test programs: --list, or substrings of the names to be run.
# shellcheck disable=SC2317 # functions are called by name
set -u
here=$(cd "$(dirname "$0")" && pwd)
export LC_ALL=C PATH="$here/../../examples:$PATH"
texts=/usr/share/common-licenses
log=$(mktemp) || exit 1
trap 'rm -rf "$log" "$log.d"' EXIT
failed=0
why=

names=(
    "OBJ-13 MSG-3 LIB-2 shelf, sums and word counts are those of sha256sum and wc"
    "OBJ-10 LIB-2 shelf, each text is reported unused when its last holder exits"
    "OBJ-1 OBJ-10 ORD-1 LIB-2 shelf, reader and counter report the death of a killed server"
    "OBJ-1 OBJ-10 LIB-2 shelf, a killed counter is as good as one that exits"
    "LIB-2 shelf, odd texts, none at all, empty, and large"
    "OBJ-10 OBJ-13 LIB-2 hello says what it should"
    "OBJ-5 OBJ-6 OBJ-8 OBJ-12 LIB-2 sandbox says what it should"
    "RES-4 LIB-2 backpressure says what it should"
    "CALL-1 LIB-4 call says what it should"
    "LIB-2 the demo finds nothing wrong"
)

# run ON_LINE ARGUMENT...: calls ON_LINE with each line, and what is said is in $log.
run() {
    local on_line=$1 fd line status
    shift
    : >"$log"
    exec {fd}< <(exec timeout -s KILL 120 "$@" 2>&1)
    pid=$!
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$log"
        $on_line "$line"
    done <&"$fd"
    exec {fd}<&-
    wait "$pid" 2>/dev/null
    status=$?
    return "$status"
}

said() { grep -c -- "$1" "$log"; }
wrong() { why="$1 ($(tail -n 3 "$log" | tr '\n' ';'))"; return 1; }

# That the counter said of each text in the directory what sha256sum and wc say.
all_right() {
    local want got
    want=$(cd "$1" && shopt -s nullglob && set -- * && [ $# != 0 ] &&
        paste -d' ' <(sha256sum -- "$@" | cut -c1-64) <(wc -w --total=never -- "$@" | sed 's/^ *\([0-9]*\) .*/\1/') \
            <(printf '%s\n' "$@") | sort)
    got=$(sed -n 's/^counter: \([0-9a-f]*\) *\([0-9]*\) words  \(.*\)$/\1 \2 \3/p' "$log" | sort)
    [ "$got" = "$want" ] && return
    diff <(echo "$want") <(echo "$got")
    wrong "not what sha256sum and wc say"
}

n_texts() { find -L "$1" -maxdepth 1 -type f | wc -l; }

test_sums() {
    run : shelf-server "$texts" shelf-reader -- shelf-counter || { wrong "exit status $?"; return 1; }
    all_right "$texts"
}

test_unused() {
    local name
    run : shelf-server "$texts" shelf-reader GPL-3 BSD GPL-3 Artistic -- shelf-counter || { wrong "exit status $?"; return 1; }
    for name in GPL-3 BSD Artistic; do
        [ "$(said "^server: $name: unused, freed\$")" = 1 ] || { wrong "$name was not reported unused once"; return 1; }
    done
    [ "$(said '^server: .*: unused')" = 4 ] || { wrong "not 3 texts and a shelf were reported unused"; return 1; }
    [ "$(said '^server: the shelf: unused')" = 1 ] || wrong "the shelf was not reported unused"
}

# The server is the child of timeout, which is $pid.
kill_server() {
    case $1 in
    "counter: stays,"*) kill -KILL "$(pgrep -P "$pid")" ;;
    esac
}

test_server_killed() {
    local n
    run kill_server shelf-server "$texts" shelf-reader -- shelf-counter --stay
    n=$(n_texts "$texts")
    all_right "$texts" || return 1
    [ "$(said '^counter: .* is dead$')" = "$n" ] || { wrong "the counter heard of other than $n deaths"; return 1; }
    [ "$(said '^reader: the shelf is dead$')" = 1 ] || { wrong "the reader heard nothing"; return 1; }
    # The counter left because of the server's death: the reader hears of that first.
    [ "$(grep '^reader: the ' "$log" | head -n 1)" = "reader: the shelf is dead" ] || wrong "the reader heard of the counter first"
}

kill_counter() {
    case $1 in
    "counter: stays,"*) pkill -KILL -x shelf-counter ;;
    esac
}

test_counter_killed() {
    run kill_counter shelf-server "$texts" shelf-reader GPL-3 BSD -- shelf-counter --stay
    [ "$(said '^server: .*: unused, freed$')" = 2 ] || { wrong "not 2 texts were reported unused"; return 1; }
    [ "$(said '^reader: the counter has left$')" = 1 ] || wrong "the reader did not hear of it"
}

test_odd() {
    mkdir "$log.d"
    run : shelf-server "$log.d" shelf-reader -- shelf-counter || { wrong "exit status $? without texts"; return 1; }
    all_right "$log.d" || return 1
    run : shelf-server "$log.d" shelf-reader none -- shelf-counter
    grep -q '^reader: none: No such file' "$log" || { wrong "a text that is not there"; return 1; }
    : >"$log.d/empty"
    printf ' \tx\n' >"$log.d/one word"
    head -c 1000000 /dev/urandom | base64 >"$log.d/large"
    run : shelf-server "$log.d" shelf-reader -- shelf-counter || { wrong "exit status $?"; return 1; }
    all_right "$log.d"
}

test_hello() {
    run : hello || { wrong "exit status $?"; return 1; }
    [ "$(<"$log")" = 'parent: got "hello"
parent: nobody holds my object any more' ] || wrong "it said something else"
}

test_sandbox() {
    run : sandbox || { wrong "exit status $?"; return 1; }
    [ "$(<"$log")" = 'child: I can not pass it on
parent: client 1 says: hello
parent: that is enough
child: it was taken from me' ] || wrong "it said something else"
}

test_backpressure() {
    run : backpressure || { wrong "exit status $?"; return 1; }
    [ "$(<"$log")" = 'producer: 500 blocks sent; I was told to go on when there was room
consumer: 500 blocks received, in a pool of 16' ] || wrong "it said something else"
}

test_call() {
    run : call || { wrong "exit status $?"; return 1; }
    [ "$(<"$log")" = 'the sum is 40
org.example.Counter.Error.NoNumber: I can only add numbers
I need not wait
later, the sum is 42
the counter has ended, as nobody has it any more' ] || wrong "it said something else"
}

test_demo() {
    BUS1_BENCH=true run : "$here/../../demo" || wrong "exit status $?"
}

tests=(test_sums test_unused test_server_killed test_counter_killed test_odd test_hello test_sandbox test_backpressure test_call test_demo)

if [ "${1-}" = --list ]; then
    printf '%s\n' "${names[@]}"
    exit
fi
for i in "${!tests[@]}"; do
    name=${names[i]} chosen=
    for filter; do
        [[ $name == *"$filter"* ]] && chosen=1
    done
    [ $# = 0 ] || [ "$chosen" ] || continue
    if [ ! -e /dev/bus1 ]; then
        echo "skip $name: no /dev/bus1"
    elif ${tests[i]}; then
        echo "ok $name"
    else
        echo "not ok $name: $why"
        failed=1
    fi
done
exit $failed
