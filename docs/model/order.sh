# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh
#
# What run.sh has spin find of order.pml.

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

# Where the order is not asked for, it is not had.
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
