// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A model of the order of messages, for the model checker spin. run.sh has it
 * explored, in full, in several settings; what it shows and why is in the
 * section "Order" of ../design.md.
 *
 * Each step of the model is one of the kernel's:
 *
 *	link, unicast	Peer::link (kernel/peer.rs), Queue::push (queue.rs)
 *	commit		Commit::set (queue.rs)
 *	settle, wake	Queue::settle, as in settle_told (node.rs), settle_oldest;
 *			bus1_wake (bridge.c), as there and in send_many (send.rs)
 *	take_back	Queue::remove, where send_many fails
 *	sequencer	the mutex that a send takes for BUS1_SEND_ORDERED
 *	look		Queue::next: read_flags, a step for each flag that is
 *			read, then the oldest copy that is settled
 *	Receiver	recv (recv.rs) and bus1_wait (bridge.c): looks, puts itself
 *			on the wait queue, looks again, sleeps
 *	Death		destroy_ids, tell_holders, Handle::tell (object.rs, node.rs)
 *	Holder		a send to the node that dies, a release (Inner::retire,
 *			tell_unused): its notice goes as a unicast does
 *
 * A section under a peer's lock is one step, as nobody else sees what is in
 * between; but for a receiver's, which reads flags that are set without the
 * lock: it holds the lock over its steps, and others wait for it. What comes
 * before the first link (copying, reserving) concerns nobody and is left out.
 * So are priorities, peeking, putting back, a peer with several receivers, the
 * end of a peer, and that a notice of death waits for the message that brings
 * the handle.
 *
 * The side channel is as quick as can be: from the instant that a send takes
 * effect, all that begin know of it (`done`), and a send begins when it links
 * its first copy. So "one completed before another began" holds for more
 * sends here than in the kernel. Some also wait to be `told` of a send: by
 * who has received it, or whose it is and has returned.
 *
 * spin knows sequential consistency only. What that hides:
 *
 *  - Whether who sees the flag sees what was linked before. Set is a release
 *    and read an acquire.
 *  - Whether a flag that was set before a copy was linked is seen by who finds
 *    the copy. The flag's store is before the link's unlock and so before the
 *    receiver's lock, which is before its read: by the locks, since no flag
 *    is kept from an earlier section.
 *  - Whether the sequencer orders one sender's links and commit before the
 *    next one's links. It does as any mutex: unlock is a release, lock an
 *    acquire, and what hands order from one sender to the next is nothing else.
 *  - Store buffering between "link, commit or settle, then look at the wait
 *    queue" and "enter the wait queue, then look at the queue": a full barrier on
 *    either side, in send_many and wq_has_sleeper(), and in
 *    prepare_to_wait_event().
 *
 * Each of these is a pair, and all shared data but the flag and the wait queue's
 * head is under a lock, so that an execution which has the pairs is
 * equivalent to a sequentially consistent one.
 */

/*
 * Settings: which sends there are (a mask, as all of these), which ask for
 * total order, which may stall for good before they commit, which fail. With
 * SLEEPS receivers sleep, and the end is looked at; without, they look whenever
 * they like, which is more than any wake-up makes them do.
 */
#define M	5	/* sends */
#define LEN	4	/* of a queue */
#define NONE	7

#if defined(CAUSES)	/* what is caused by a multicast is a multicast, and a unicast after that */
#define SENDERS	run Multicast(0, 0, 1, 2); run Multicast(1, 2, 1, 0); run Reaction(0, 1, 0, 2)
#elif defined(TOTAL)	/* two in total order, beside one that does not ask for it */
#define SENDERS	run Multicast(0, 0, 1, 2); run Multicast(1, 2, 1, 0); run Reaction(0, 2, 0, 1)
#define ORDERED	3
#elif defined(ROUND)	/* three in total order, of which each two have one receiver in common */
#define SENDERS	run Multicast(0, 0, 1, NONE); run Multicast(1, 1, 2, NONE); run Multicast(2, 2, 0, NONE)
#define ORDERED	7
#elif defined(TWICE)	/* a receiver gets two copies of one */
#define SENDERS	run Multicast(0, 0, 1, 0); run Multicast(1, 1, 0, 2); run Unicasts(0, 1, 0)
#elif defined(NOTICES)	/* a node of peer 2 dies, which 0 and 1 hold, and 1 releases */
#define SENDERS	run Death(); run Holder(); run Unicasts(0, 1, 0)
#elif defined(WAKES)	/* all sleep, and all must end */
#define SENDERS	run Multicast(0, 0, 1, NONE); run Multicast(1, 1, 0, NONE); run Unicasts(NONE, 0, 1)
#define SENDS	15
#define SLEEPS
#define R	2
#endif

#ifndef R
#define R	3		/* receivers */
#endif
#ifndef STALLS
#define STALLS	0
#endif
#ifndef FAILS
#define FAILS	0
#endif
#ifndef ORDERED
#define ORDERED	0
#endif
#ifndef COMPARED
#define COMPARED ORDERED	/* whose order must be the same */
#endif

#ifdef BROKEN_NO_SEQUENCER
#define SEQUENCED 0
#else
#define SEQUENCED ORDERED
#endif

/* What can happen, when a copy is received or at the end. */
#if defined(REACH_ALL)
#define REACHED	p[0].got == 7 && p[1].got == 15 && p[2].got == 7
#elif defined(REACH_ONE_WAY)
#define REACHED	HAS(order, 1) && p[1].got == 7
#elif defined(REACH_OTHER_WAY)
#define REACHED	HAS(order, 4) && p[1].got == 7
#elif defined(REACH_PASSED_OVER)
#define REACHED	at > 0
#elif defined(REACH_NODE_DEAD)
#define REACHED	SEND(copy) == 4 && !HAS(p[2].linked, 1)
#elif defined(REACH_WITHDRAWN)
#define REACHED	released && !HAS(p[1].linked, 0) && HAS(p[0].got, 0)
#elif defined(REACH_END)
#define REACHED_AT_END	ended == SENDS && p[0].waits && p[1].waits
#elif defined(REACH_OTHERS_END)
#define REACHED_AT_END	stalled == 1 && ended == (SENDS & ~1)
#elif defined(REACH_TWO_STUCK)
#define REACHED_AT_END	stalled == 1 && ended == (SENDS & ~3)
#endif
#ifndef REACHED
#define REACHED		false
#endif
#ifndef REACHED_AT_END
#define REACHED_AT_END	false
#endif

#define BIT(n)		(1 << (n))
#define HAS(mask, n)	((mask) & BIT(n))
#define COPY(m, k)	((m) + (k) * M)		/* the k-th copy that a receiver gets of send m */
#define SEND(copy)	((copy) % M)
#define COPIES(sends)	((sends) | (sends) << M)

typedef Peer {
	byte item[LEN];		/* the queue: copies, oldest first */
	byte n;
	short pending;		/* copies that are not settled */
	bool locked;		/* a receiver holds the lock, between two steps */
	bool waits;		/* in the wait queue */
	/* For the claims only. */
	short linked;		/* copies that were, and were not taken back */
	short got
};
Peer p[R];
byte flags;			/* sends whose flag is set */
bool sequencer;
bool dead;			/* the node of NOTICES */
bool released;			/* peer 1 has released its handle of it */
byte told;			/* what can be known outside of bus1: see the head */

/* For the claims only. Masks of sends, but for `order`: BIT(4 * a + b) says that a came before b. */
byte done, ended, stalled;
byte before[M];			/* what was done when a send began */
short order;

/* The claims. Variables, so that spin names the one that does not hold. */
hidden byte NOT_TWICE;		/* a copy is received once */
hidden byte AT_ONE_INSTANT;	/* ORD-2: nothing is received that is not committed */
hidden byte CAUSE_FIRST;	/* ORD-1, 2, 3: what was in effect when a send began comes before it */
hidden byte COPIES_IN_TURN;	/* two copies to one receiver come as they were linked */
hidden byte SAME_ORDER;		/* ORD-4 */
hidden byte NOTHING_MISSED;	/* ORD-5: who finds nothing has got all that was in effect */
hidden byte AWAKE;		/* nobody sleeps over something that is in effect */
hidden byte ENDED;		/* ORD-5: who is not stalled ends */
hidden byte NOTHING_LEFT;	/* what is left in a queue is of who is stalled */
hidden byte REACHED_NOT;	/* what a run asks for does not happen: to see that it can */
hidden byte x, y;

inline push(r, copy)
{
	p[r].item[p[r].n] = copy;
	p[r].n++;
	p[r].linked = p[r].linked | BIT(copy)
}

inline unlink(r, place)
{
	x = place;
	do
	:: x + 1 < p[r].n -> p[r].item[x] = p[r].item[x + 1]; x++
	:: else -> break
	od;
	p[r].n--;
	p[r].item[p[r].n] = 0
}

inline remove(r, copy)
{
	y = 0;
	do
	:: y < p[r].n && p[r].item[y] != copy -> y++
	:: else -> break
	od;
	if
	:: y < p[r].n ->
		unlink(r, y);
		p[r].pending = p[r].pending & ~BIT(copy);
		p[r].linked = p[r].linked & ~BIT(copy)
	:: else
	fi
}

inline wake(r)
{
#ifdef SLEEPS
	p[r].waits = false
#else
	skip
#endif
}

inline end(m)
{
	told = told | BIT(m);
	ended = ended | BIT(m)
}

inline unicast(m, r)
{
#ifdef BROKEN_GLOBAL_LOCK
	!sequencer;
#endif
	d_step {
		!p[r].locked ->
		before[m] = done;
		push(r, COPY(m, 0));
		done = done | BIT(m)
	};
	atomic {
		wake(r);
		end(m)
	}
}

inline stall(m)
{
	d_step { HAS(STALLS, m) -> stalled = stalled | BIT(m) };
	false
}

/* Who links looks at the flag of the oldest copy. */
inline settle_oldest(r)
{
	x = 0;
	do
	:: x < p[r].n && !HAS(p[r].pending, p[r].item[x]) -> x++
	:: else -> break
	od;
	if
	:: x < p[r].n && HAS(flags, SEND(p[r].item[x])) ->
		p[r].pending = p[r].pending & ~BIT(p[r].item[x])
	:: else
	fi
}

inline link(m, k, r, first)
{
	if
	:: d_step {
		!p[r].locked ->
		if
		:: first -> before[m] = done
		:: else
		fi;
		if
		:: r == 1 && released	/* tell: the handle is idle */
		:: else ->
			settle_oldest(r);
			push(r, COPY(m, k));
			p[r].pending = p[r].pending | BIT(COPY(m, k))
		fi
	   }
	:: stall(m)
	fi
}

/* What settle_told does; copies of a message are left to whoever comes next. */
inline settle(m, k, r)
{
	if
	:: d_step {
		!p[r].locked ->
		p[r].pending = p[r].pending & ~BIT(COPY(m, k))
	   }
	:: true
	fi
}

inline take_back(m, k, r)
{
#ifdef BROKEN_LEFT_BEHIND
	skip
#else
	d_step { !p[r].locked -> remove(r, COPY(m, k)); skip }
#endif
}

inline commit(m)
{
	if
	:: d_step {
#ifndef BROKEN_NO_FLAG
		flags = flags | BIT(m);
#endif
		done = done | BIT(m)
	   }
	:: stall(m)
	fi
}

inline lock_sequencer(m)
{
	if
	:: HAS(SEQUENCED, m) -> d_step { !sequencer -> sequencer = true }
	:: else
	fi
}

inline unlock_sequencer(m)
{
	if
	:: HAS(SEQUENCED, m) -> sequencer = false
	:: else
	fi
}

/* To a, b and c, where c may be none or a again. What fails does so at the last. */
inline multicast(m, a, b, c)
{
	lock_sequencer(m);
	link(m, 0, a, true);
#ifdef BROKEN_COMMIT_EARLY
	commit(m);
#endif
	link(m, 0, b, false);
	if
	:: HAS(FAILS, m) ->
		take_back(m, 0, a);
		take_back(m, 0, b);
#ifndef BROKEN_KEEPS_SEQUENCER
		unlock_sequencer(m);
#endif
		goto out
	:: else
	fi;
	if
	:: c != NONE -> link(m, (c == a), c, false)
	:: else
	fi;
#ifdef BROKEN_WAKE_EARLY
	wake(a);
	wake(b);
#endif
#ifdef BROKEN_RELEASED_EARLY
	unlock_sequencer(m);
#endif
#ifndef BROKEN_COMMIT_EARLY
	commit(m);
#endif
#ifndef BROKEN_RELEASED_EARLY
	unlock_sequencer(m);
#endif
	settle(m, 0, a);
#ifndef BROKEN_WAKE_EARLY
	wake(a);
#endif
	settle(m, 0, b);
#ifndef BROKEN_WAKE_EARLY
	wake(b);
#endif
	if
	:: c != NONE ->
		settle(m, (c == a), c);
		wake(c)
	:: else
	fi;
out:
	atomic { end(m) }
}

proctype Multicast(byte m, a, b, c)
{
	multicast(m, a, b, c)
}

/* The side channel's other end: sends because it was told of `why`. */
proctype Reaction(byte why, a, b, c)
{
	HAS(told, why);
	multicast(2, a, b, c);
	unicast(3, a)
}

proctype Unicasts(byte why, a, b)
{
	if
	:: why != NONE -> HAS(told, why)
	:: else
	fi;
	unicast(2, a);
	unicast(3, b)
}

proctype Death()
{
	d_step { !p[2].locked -> dead = true };
	multicast(0, 0, 1, NONE)
}

/* In a thread of peer 1. Its second unicast is the notice that another node is unused. */
proctype Holder()
{
	d_step {
		!p[2].locked ->
		if
		:: dead		/* EHOSTUNREACH */
		:: else ->
			before[1] = done;
			push(2, COPY(1, 0));
			done = done | BIT(1)
		fi
	};
	wake(2);
	d_step {
		!p[1].locked ->
		released = true;
		if
		:: HAS(p[1].got, COPY(0, 0))
		:: else -> remove(1, COPY(0, 0))
		fi
	};
	unicast(4, 2)
}

/* Peer r has received a copy. */
inline receive(r, copy)
{
	NOT_TWICE = !HAS(p[r].got, copy);
	AT_ONE_INSTANT = HAS(done, SEND(copy));
	COPIES_IN_TURN = copy < M || HAS(p[r].got, copy - M);
	CAUSE_FIRST = true;
	x = 0;
	do
	:: x < M && HAS(p[r].got, x) ->
		if
		:: HAS(before[x], SEND(copy)) && x != SEND(copy) -> CAUSE_FIRST = false
		:: else
		fi;
		if
		:: HAS(COMPARED, x) && HAS(COMPARED, SEND(copy)) ->
			order = order | BIT(4 * x + SEND(copy))
		:: else
		fi;
		x++
	:: x < M && !HAS(p[r].got, x) -> x++
	:: else -> break
	od;
	/* 1 is 0 before 1, 4 is 1 before 0, and so on: no two and no three contradict each other. */
	SAME_ORDER = !(HAS(order, 1) && HAS(order, 4) || HAS(order, 2) && HAS(order, 8)
		|| HAS(order, 6) && HAS(order, 9)
		|| HAS(order, 1) && HAS(order, 6) && HAS(order, 8)
		|| HAS(order, 2) && HAS(order, 9) && HAS(order, 4));
	p[r].got = p[r].got | BIT(copy);
	told = told | BIT(SEND(copy));
	assert(NOT_TWICE);
	assert(AT_ONE_INSTANT);
	assert(COPIES_IN_TURN);
	assert(CAUSE_FIRST);
	assert(SAME_ORDER);
	REACHED_NOT = !(REACHED);
	assert(REACHED_NOT)
}

/* What a receiver does next. */
#define LOOK		0
#define WAIT		1	/* enter the wait queue */
#define LOOK_AGAIN	2
#define SLEEP		3

#define me	_pid

#ifdef BROKEN_OLDEST_FIRST
#define PLACE	(p[me].n - at)
#else
#define PLACE	(at - 1)
#endif

/* To the next copy whose flag is to be read. `at` copies are still to be looked at. */
inline skip_settled()
{
	do
	:: at > 0 && !HAS(p[me].pending, p[me].item[PLACE]) -> at--
	:: else -> break
	od;
	skip
}

inline read_flag()
{
	if
	:: HAS(flags, SEND(p[me].item[PLACE])) ->
		p[me].pending = p[me].pending & ~BIT(p[me].item[PLACE])
	:: else
	fi;
	at--;
	skip_settled()
}

/* The oldest that is settled, if all flags are read; then the lock is free again. */
inline take()
{
	if
	:: at > 0 -> p[me].locked = true
	:: else ->
#ifndef BROKEN_IGNORES_FLAGS
#ifndef BROKEN_HEAD_OF_LINE
		do
		:: at < p[me].n && HAS(p[me].pending, p[me].item[at]) -> at++
		:: else -> break
		od;
#else
		if
		:: p[me].n > 0 && HAS(p[me].pending, p[me].item[0]) -> at = p[me].n
		:: else
		fi;
#endif
#endif
		if
		:: at < p[me].n ->
			y = p[me].item[at];
#ifndef BROKEN_KEEPS_COPY
			unlink(me, at);
#endif
			receive(me, y);
			p[me].waits = false;
			next = LOOK
		:: else ->
			NOTHING_MISSED = !(p[me].linked & ~p[me].got & COPIES(seen));
#ifndef BROKEN_NO_FLAG		/* whose sends take effect one copy after the other */
			assert(NOTHING_MISSED);
#endif
#ifdef SLEEPS
			next++
#endif
		fi;
		at = 0;
		seen = 0;
		p[me].locked = false
	fi
}

active [R] proctype Receiver()
{
	byte at, next, seen;

	do
	:: d_step {
		at == 0 && (next == LOOK || next == LOOK_AGAIN) && !p[me].locked ->
		seen = done;
		at = p[me].n;
		skip_settled();
		if
		:: at > 0 -> read_flag()
		:: else
		fi;
		take()
	   }
	:: d_step { at > 0 -> read_flag(); take() }
#ifdef SLEEPS
#ifdef BROKEN_LOOKS_BEFORE
	:: d_step { next == WAIT -> p[me].waits = true; next = SLEEP }
#else
	:: d_step { next == WAIT -> p[me].waits = true; next = LOOK_AGAIN }
#endif
	:: d_step { next == SLEEP && !p[me].waits -> next = WAIT }
#endif
	od
}

init {
	atomic { SENDERS }
#ifdef SLEEPS
	timeout;
	d_step {
		x = 0;
		do
		:: x < R ->
			AWAKE = !(p[x].linked & ~p[x].got & COPIES(done));
			NOTHING_LEFT = !(p[x].linked & ~p[x].got & ~COPIES(stalled));
			assert(AWAKE);
			assert(NOTHING_LEFT);
			x++
		:: else -> break
		od;
		/* Who asks for total order may wait for who is stalled; nobody else may. */
		REACHED_NOT = !(REACHED_AT_END);
		assert(REACHED_NOT);
		ENDED = !(SENDS & ~ended & ~stalled & ~(sequencer && (ORDERED & stalled) -> ORDERED : 0));
		assert(ENDED)
	}
#endif
}
