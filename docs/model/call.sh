# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC2034
#
# What run.sh has spin find of call.pml.

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
