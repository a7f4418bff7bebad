#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Has spin explore order.pml and call.pml: all states of each setting, and what is
# broken on purpose until the claim that must fail does. In $TEST_FILTERS, if set,
# each line is a filter: only tests whose name contains one of them are run.
set -u
command -v spin >/dev/null || { echo "skip EVD-4 model: there is no spin"; exit 0; }
models=$(cd "$(dirname "$0")" && pwd)
model=$models/order.pml
level=-O1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failed=0

wanted() {
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
	spin -a "$@" "$model" >out 2>&1 &&
		"${CC:-cc}" "$optimise" -w -DSAFETY -DCOLLAPSE -DMEMLIM=3000 -o pan pan.c >>out 2>&1 &&
		./pan -E -m10000 >>out 2>&1
}

bad() {
	tail -n 40 out
	# shellcheck disable=SC2086
	[ ! -e "${model##*/}.trail" ] ||
		spin -k "${model##*/}.trail" -t -p $options "$model" 2>&1 | tail -n 60
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

holds "ORD-1 ORD-2 ORD-3 ORD-5 EVD-4 model: what was caused comes after its cause, and nothing is lost" -DCAUSES
holds "ORD-1 ORD-2 ORD-4 ORD-5 EVD-4 model: two sends in total order, one beside them" -DTOTAL
holds "ORD-4 EVD-4 model: one in total order is taken back" -DTOTAL -DFAILS=2
holds "ORD-4 EVD-4 model: total order goes all the way round" -DROUND
holds "ORD-2 ORD-3 EVD-4 model: two copies to one receiver" -DTWICE
holds "ORD-1 ORD-2 OBJ-10 EVD-4 model: notices are sends" -DNOTICES -DSETTLES
holds "ORD-5 MSG-11 EVD-4 model: a sender stalls, no wake-up is lost and the others end" -DWAKES -DSTALLS=1
holds "ORD-5 EVD-4 model: one in total order stalls, and delays such only" -DWAKES -DORDERED=3 -DSTALLS=1
holds "ORD-5 EVD-4 model: one stalls, one in total order is taken back" -DWAKES -DORDERED=2 -DSTALLS=1 -DFAILS=2
holds "ORD-1 ORD-4 EVD-4 model: what comes first does not hang on which flag is read first" -DTOTAL -DBROKEN_OLDEST_FIRST

# Every claim above fails for something.
fails COPIES_IN_TURN "ORD-3 EVD-4 model, broken: flags are read from the oldest" -DTWICE -DBROKEN_OLDEST_FIRST
fails SAME_ORDER "ORD-4 EVD-4 model, broken: the sequencer is released before the commit" -DTOTAL -DBROKEN_RELEASED_EARLY
fails SAME_ORDER "ORD-4 EVD-4 model, broken: total order without the sequencer" -DTOTAL -DBROKEN_NO_SEQUENCER
fails SAME_ORDER "ORD-4 EVD-4 model, broken: and all the way round" -DROUND -DBROKEN_NO_SEQUENCER
fails CAUSE_FIRST "ORD-1 ORD-2 EVD-4 model, broken: copies take effect one by one" -DCAUSES -DSETTLES -DBROKEN_NO_FLAG
fails CAUSE_FIRST "ORD-1 ORD-2 EVD-4 model, broken: committed before all is linked" -DCAUSES -DBROKEN_COMMIT_EARLY
fails AT_ONE_INSTANT "ORD-2 EVD-4 model, broken: the receiver does not ask for flags" -DCAUSES -DBROKEN_IGNORES_FLAGS
fails NOTHING_MISSED "ORD-5 EVD-4 model, broken: the receiver waits for what is not committed" -DCAUSES -DBROKEN_HEAD_OF_LINE
fails NOT_TWICE "MSG-1 EVD-4 model, broken: what is received stays in the queue" -DCAUSES -DBROKEN_KEEPS_COPY
fails AWAKE "ORD-5 EVD-4 model, broken: a wake-up before the commit only" -DWAKES -DBROKEN_WAKE_EARLY
fails AWAKE "ORD-5 EVD-4 model, broken: the receiver looks before it enters the wait queue only" -DWAKES -DBROKEN_LOOKS_BEFORE
fails NOTHING_LEFT "MSG-2 EVD-4 model, broken: what failed is not taken back" -DWAKES -DFAILS=2 -DBROKEN_LEFT_BEHIND
fails ENDED "ORD-5 EVD-4 model, broken: what failed keeps the sequencer" -DWAKES -DORDERED=3 -DFAILS=2 -DBROKEN_KEEPS_SEQUENCER
fails ENDED "ORD-5 EVD-4 model, broken: a unicast takes the sequencer, too" -DWAKES -DORDERED=3 -DSTALLS=1 -DBROKEN_GLOBAL_LOCK

# And what they speak of happens. Where the order is not asked for, it is not had.
reached() {
	name=$1
	shift
	fails REACHED_NOT "EVD-4 model, reached: $name" "$@"
}
fails SAME_ORDER "ORD-4 EVD-4 model, reached: two sends are seen in different orders if they do not ask" \
	-DCAUSES -DCOMPARED=3
reached "everybody has got everything" -DCAUSES -DREACH_ALL
reached "a copy that is not in effect is passed over" -DCAUSES -DREACH_PASSED_OVER
reached "two in total order, one way round" -DTOTAL -DREACH_ONE_WAY
reached "two in total order, the other way round" -DTOTAL -DREACH_OTHER_WAY
reached "a send fails as the node is dead" -DNOTICES -DREACH_NODE_DEAD
reached "a notice goes with the handle, others do not" -DNOTICES -DREACH_WITHDRAWN
reached "all end, and all sleep" -DWAKES -DREACH_END
reached "one stalls, and all others end" -DWAKES -DSTALLS=1 -DREACH_OTHERS_END
reached "one in total order stalls, and only the other such waits" -DWAKES -DORDERED=3 -DSTALLS=1 -DREACH_TWO_STUCK

model=$models/call.pml
# There is more to be compiled than to be explored.
level=-O0

holds "CALL-2 CALL-4 EVD-4 model: a call is served in all ways by two threads, its caller may leave" -DSERVE -DFAULTS=1 -DSIGNALS=1
holds "CALL-2 EVD-4 model: a call is interrupted, and resumed, by whomever, or cancelled" -DRESTART -DFAULTS=1 -DSIGNALS=2
holds "CALL-2 CALL-4 EVD-4 model: nobody waits for a call, and it is received, dropped or cancelled" -DASYNC -DFAULTS=2
holds "CALL-2 EVD-4 model: either peer is closed at any time, the node destroyed" -DCLOSES -DFAULTS=1 -DSIGNALS=1
holds "CALL-5 EVD-4 model: a nested call, and memory is not there" -DNEST -DFAULTS=1
holds "CALL-5 EVD-4 model: a nested call, and its parts are interrupted" -DNEST -DSIGNALS=1 -DRESTARTS
holds "CALL-5 EVD-4 model: a nested call, one thread waits, another receives or drops it, and cannot be told" -DNEST -DDISCARDS -DSIGNALS=1 -DRESTARTS -DFAULTS=1
holds "CALL-5 EVD-4 model: two calls nested in one" -DNEST_TWICE
holds "CALL-5 EVD-4 model: a call nested in one nested in one, and a part is interrupted" -DDEEP -DSIGNALS=1
holds "CALL-5 EVD-4 model: a call nested in one nested in one, and memory is not there" -DDEEP -DFAULTS=1
holds "CALL-2 EVD-4 model: two calls, two threads that serve, nobody sleeps too long" -DTWO

fails ENDS_ONCE "CALL-2 EVD-4 model, broken: a call is ended without a compare" -DSERVE -DSIGNALS=1 -DBROKEN_NO_CAS
fails ONE_WRITES "CALL-2 EVD-4 model, broken: who is about to answer is not heeded" -DSERVE -DBROKEN_NO_ANSWERING
fails NOT_CANCELLED "CALL-2 EVD-4 model, broken: what a thread has is not marked taken" -DRESTART -DSIGNALS=1 -DBROKEN_NO_TAKEN
fails AWAKE "CALL-2 EVD-4 model, broken: the caller is woken before there is a result" -DSERVE -DBROKEN_WAKE_EARLY
fails AWAKE "CALL-2 EVD-4 model, broken: who is to sleep looks first" -DSERVE -DBROKEN_LOOKS_FIRST
fails CHARGED_ONCE "CALL-4 RES-1 EVD-4 model, broken: who leaves discharges, too" -DSERVE -DSIGNALS=1 -DBROKEN_DISCHARGES_TWICE
fails NOTICE_DUE "CALL-4 EVD-4 model, broken: a notice stays when the token goes" -DSERVE -DSIGNALS=1 -DBROKEN_LEAVES_NOTICE
fails NOTICED "CALL-4 EVD-4 model, broken: who leaves says nothing" -DSERVE -DSIGNALS=1 -DBROKEN_NO_NOTICE
fails NOTICE_DUE "CALL-4 EVD-4 model, broken: who leaves looks at the place without the lock" -DSERVE -DSIGNALS=1 -DBROKEN_PLACE_UNLOCKED
fails NOTHING_LEFT "CALL-4 EVD-4 model, broken: a result is delivered to who knows the call no more" -DASYNC -DBROKEN_DELIVERS_BLINDLY
fails ONE_LIST "CALL-4 EVD-4 model, broken: a request goes back though its caller has left" -DSERVE -DSIGNALS=1 -DFAULTS=1 -DBROKEN_UNSERVES_BLINDLY
fails THERE "CALL-2 EVD-4 model, broken: a request is given without a reference" -DSERVE -DBROKEN_GIVES_NO_REFERENCE
fails AWAKE "CALL-2 EVD-4 model, broken: a server is closed and does not end what it serves" -DCLOSES -DBROKEN_CLOSES_SILENTLY
fails NOTHING_LEFT "CALL-4 RES-1 EVD-4 model, broken: a notice is linked where all is closed" -DCLOSES -DBROKEN_LINKS_CLOSED
fails AWAKE "CALL-2 EVD-4 model, broken: who comes back does not look whether there is a result" -DRESTART -DSIGNALS=1 -DBROKEN_COMES_BACK_BLINDLY
fails AWAKE "CALL-5 EVD-4 model, broken: who comes back does not look for nested requests" -DNEST_TWICE -DBROKEN_NEVER_LOOKS_BACK
fails NOT_BEHIND "CALL-5 EVD-4 model, broken: a nested request is found by who comes back to the nearest call alone" -DDEEP -DSIGNALS=1 -DBROKEN_NEAREST_ALONE
fails AWAKE "CALL-5 EVD-4 model, broken: who finds a result overlooks a nested request" -DNEST -DBROKEN_OVERLOOKS_NESTED
fails NEVER_SEEN "CALL-4 EVD-4 model, broken: a call is linked though it was cancelled before" -DASYNC -DBROKEN_LINKS_LEFT
fails NEVER_SEEN "CALL-4 EVD-4 model, broken: what was to be dropped goes back though its caller has left" -DSERVE -DSIGNALS=1 -DFAULTS=1 -DBROKEN_PUTS_BACK_LEFT
fails NOT_CANCELLED "CALL-4 EVD-4 model, broken: a reply that is about to be dropped is not taken" -DASYNC -DFAULTS=1 -DBROKEN_DROPS_UNTAKEN
fails NOT_LOST "CALL-2 EVD-4 model, broken: a reply that could not be dropped does not go back" -DASYNC -DFAULTS=1 -DBROKEN_UNTAKES_DROPPED
fails WHOLE "CALL-5 EVD-4 model, broken: a nested request is done with before its thread was told all" -DNEST -DFAULTS=1 -DBROKEN_TOLD_BEFORE_ID
fails AWAKE "CALL-5 EVD-4 model, broken: who waits for a nested request gets none that another could not be told of" -DNEST -DDISCARDS -DSIGNALS=1 -DRESTARTS -DFAULTS=1 -DBROKEN_REQUEUES_ONLY
fails SLOTS "CALL-5 EVD-4 model, broken: who comes back takes a nested request that another is to drop" -DNEST -DDISCARDS -DSIGNALS=1 -DRESTARTS -DBROKEN_TAKES_LISTED
fails RESULT_ONCE "CALL-5 EVD-4 model, broken: a result in the queue can be had by its id, too" -DNEST -DMEDDLES -DFAULTS=2 -DBROKEN_KEEPS_ID
fails OWN_TABLE "CALL-2 EVD-4 model, broken: a notice is taken for a reply when its token has gone" -DSERVE -DSIGNALS=1 -DBROKEN_FORGETS_ANY

reached "a reply is told to who waits" -DSERVE -DREACH_TOLD
reached "a reply that could not be told is received from the queue" -DRESTART -DFAULTS=1 -DREACH_KEPT
reached "a server is told that its caller has left" -DSERVE -DSIGNALS=1 -DREACH_NOTICED
reached "a reply comes too late for a notice" -DSERVE -DSIGNALS=1 -DREACH_LATE
reached "a request is served again after its receiver could not be told" -DSERVE -DFAULTS=1 -DREACH_SERVED_AGAIN
reached "who was interrupted comes back and has the reply" -DRESTART -DSIGNALS=1 -DREACH_CAME_BACK
reached "two nested requests are served by the thread that waits" -DNEST_TWICE -DREACH_NESTED_TWICE
reached "who waits gets a nested request that another could not be told of" -DNEST -DDISCARDS -DSIGNALS=1 -DRESTARTS -DFAULTS=1 -DREACH_NESTED_AGAIN
reached "who comes back passes over a nested request that another is to drop" -DNEST -DDISCARDS -DSIGNALS=1 -DRESTARTS -DFAULTS=1 -DREACH_PASSED_OVER
reached "one thread serves a request nested in one nested in its call" -DDEEP -DREACH_DEEP
exit $failed
