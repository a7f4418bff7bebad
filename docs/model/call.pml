// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A model of the life and the end of a call, for the model checker spin. run.sh
 * has it explored, in full, in several settings; what it shows and why is in the
 * section "Calls" of ../design.md.
 *
 * Each step of the model is one of the kernel's, and has its name; where it is:
 *
 *	call.rs		enter_queue, leave_queue, next_nested, come_back, decide, serve,
 *			take and untake (in look and put_back), leave_server
 *	calling.rs	link, push, enter, put_back (requeue), nest
 *	request.rs	make, cancel
 *	waiting.rs	wait, disturbed, leave, serve_nested, tell_nested, take_result,
 *			keep_result, resume
 *	reply.rs	Answer (answer_small), drop_token, answer (answer_large)
 *	ending.rs	forget, finish, deliver, push_reply, fail, take_token,
 *			take_answered, withdraw, unserve, discard, drop_request, close
 *	recv.rs		receive, Taken (look), tell_request
 *	hand.rs		finish_dropped, put_back
 *	park.rs		push, pop, give, remove; peer.rs: close, wake
 *	handoff.c	bus1_sleep
 *
 * A section under a peer's lock is one step, and touches what is under that lock
 * alone, so that no step takes two. A compare-and-swap is one step. In
 * a section others may still do theirs on `outcome`, which needs no lock; but no
 * section looks at that word twice with a different effect, so that
 * theirs could as well have been before the section, or after it.
 * What is in nobody else's reach is one step with what comes before.
 *
 * What is left out: what a message brings and what it takes, but for its
 * presence; priorities, of threads and in queues; leases; the order in a queue,
 * which is order.pml's: what is taken next is what has the lowest number; pollers;
 * several things received by one command; growth of the table. A token and an id are never used
 * again, so that each call has one of either.
 *
 * There is one list of nested requests for a call and all that is part of it, at
 * the outermost: it is modelled by a mark, and by who finds what has that.
 *
 * Threads 0 and 1 are of peer 0, 2 and 3 of peer 1. A peer is closed when
 * its threads are gone: who is `killed` ends its command as a fatal signal makes it.
 */

/* Settings. */
#define START(thread, peer)	threads[peer]++; run thread

#if defined(SERVE)	/* a thread waits; two others serve it in all ways there are */
#define ALL_ANSWERS
#define DROPS(p)	((p) == 1)
#define SERVERS		START(Server(2), 1); START(Server(3), 1)
#define CALLERS		START(Caller(0, 0), 0)
#elif defined(RESTART)	/* a thread waits, is interrupted, and comes back, or another does; or cancels */
#define RESTARTS
#define CALLERS		START(Caller(0, 0), 0); START(Second(1, 0), 0)
#elif defined(ASYNC)	/* nobody waits: the reply is received from the queue, or the call is cancelled */
#define ASYNCHRONOUS
#define DROPS(p)	((p) == 0)
#define CALLERS		START(Caller(0, 0), 0); START(Second(1, 0), 0)
#elif defined(CLOSES)	/* either peer is closed at any time, the node destroyed */
#define DESTROYS
#define KILLS
#define CALLERS		START(Caller(0, 0), 0)
#elif defined(NEST)	/* the server calls back, as part of the call; MEDDLES: two wait for that in turn; DISCARDS: one drops requests */
#define N		2
#ifdef DISCARDS
#define DROPS(p)	((p) == 0)
#endif
#define CALLERS		START(Caller(0, 0), 0); START(Second(1, 0), 0)
#elif defined(NEST_TWICE)	/* and so do two threads of it */
#define N		3
#define SERVERS		START(Server(2), 1); START(Server(3), 1)
#define CALLERS		START(Caller(0, 0), 0)
#elif defined(DEEP)	/* it calls back; in that is called again, and calls back; the thread that waits serves all of it */
#define N		4
#define SERVERS		START(Server(2), 1); START(Server(3), 1)
#define CALLERS		START(Caller(0, 0), 0)
#elif defined(TWO)	/* two calls, two that serve */
#define N		2
#define SERVERS		START(Server(2), 1); START(Server(3), 1)
#define CALLERS		START(Caller(0, 0), 0); START(Caller(1, 1), 0)
#endif

#ifndef N
#define N	1		/* calls */
#endif
#ifndef SERVERS
#define SERVERS	START(Server(2), 1)
#endif
#ifndef DROPS
#define DROPS(p) false		/* who asks for BUS1_RECV_DROP */
#endif
#ifndef FAULTS
#define FAULTS	0		/* how often memory may not be there */
#endif
#ifndef SIGNALS
#define SIGNALS	0		/* how often a thread is interrupted, or its deadline passes */
#endif

#ifdef ASYNCHRONOUS
#define IS_ASYNC	true
#else
#define IS_ASYNC	false
#endif

#if defined(NEST) || defined(NEST_TWICE)
#define NESTS(c)	((c) == 0)		/* its thread serves what is part of it */
#define PARENT(c)	((c) == 0 -> NONE : 0)
#define CALLER(c)	((c) == 0 -> 0 : 1)
#define ANCESTOR(a, c)	((a) == 0 && (c) != 0)
#define MAKES		(me - 1)		/* the call that a thread of the server makes */
#elif defined(DEEP)
#define NESTS(c)	((c) % 2 == 0)
#define PARENT(c)	((c) == 0 -> NONE : (c) - 1)
#define CALLER(c)	((c) % 2)
#define ANCESTOR(a, c)	((a) < (c))
#define MAKES		(2 * me - 3)
#else
#define NESTS(c)	false
#define PARENT(c)	NONE
#define CALLER(c)	0
#define ANCESTOR(a, c)	false
#endif
#define SERVER(c)	(1 - CALLER(c))

/* Whether a thread that waits for call a, which is not the server's of c, may serve c: see nest. */
#define SERVES(a, c)	(NESTS(a) && CALLER(a) == SERVER(c))
/* outermost: whether c, in the queue, is in the list of a call as well. Its parent serves, or no other, in all settings. */
#define HAS_LIST(c)	(PARENT(c) != NONE && SERVES(PARENT(c), c))
/* is_part_of: whether who comes back to a finds c in that list. */
#ifdef BROKEN_NEAREST_ALONE
#define FINDS(a, c)	(PARENT(c) == (a))
#else
#define FINDS(a, c)	(SERVES(a, c) && ANCESTOR(a, c))
#endif

#ifdef DEEP
#define INTERRUPTED(me)	((me) == 0)
#else
#define INTERRUPTED(me)	true
#endif

#ifdef RESTARTS
#define HAS_RESTART	true
#else
#define HAS_RESTART	false
#endif

/* What can happen, looked at where a command is over and at the end. */
#if defined(REACH_TOLD)
#define REACHED		call[0].told == 1 && call[0].place == OVER
#elif defined(REACH_KEPT)
#define REACHED		call[0].told == 1 && call[0].place == REPLY
#elif defined(REACH_NOTICED)
#define REACHED		call[0].noticed == 1 && call[0].served
#elif defined(REACH_LATE)
#define REACHED		call[0].used == 1 && call[0].outcome == LEFT && call[0].noticed == 0
#elif defined(REACH_NESTED)
#define REACHED		nested_told == 1 && call[0].told == 1 && call[1].told == 1
#elif defined(REACH_NESTED_TWICE)
#define REACHED		nested_told == 2 && call[0].told == 1 && call[1].told == 1 && call[2].told == 1
#elif defined(REACH_CAME_BACK)
#define REACHED		came_back && call[0].told == 1
#elif defined(REACH_SERVED_AGAIN)
#define REACHED		unserved && call[0].told == 1
#elif defined(REACH_NESTED_AGAIN)
#define REACHED		renested && nested_told == 1 && call[0].told == 1 && call[1].told == 1
#elif defined(REACH_PASSED_OVER)
#define REACHED		passed_over && nested_told == 1 && call[0].told == 1
#elif defined(REACH_DEEP)
#define REACHED		nested_told == 2 && call[0].told == 1 && call[1].told == 1 && call[2].told == 1 && call[3].told == 1
#else
#define REACHED		false
#endif

#define NONE	7		/* no call, no thread */
#define MY	(me / 2)	/* the peer of a thread */

/* outcome */
#define WAITING	0
#define AWAY	1
#define DONE	2
#define LEFT	3

/* place */
#define NEW	0
#define QUEUED	1
#define SERVED	2
#define NOTICE	3
#define TOLD	4
#define OVER	5
#define REPLY	6

/* Who has the one ListArc: a queue, or a thread; if nobody has, it can be had of any reference. */
#define NOWHERE		0
#define AT_SERVER	1
#define AT_CALLER	2
#define IN_HAND		3

/* Of a thread that waits to receive. */
#define LOOK	0
#define PARKED	1
#define GIVEN	2

/* What a decision comes to; what was taken off a queue; how a sleep ends; what a thread goes on with. */
#define CAME_WAITING	1
#define CAME_AWAY	2
#define LATE		3

#define NOTHING		0
#define REQUEST		1
#define GARBAGE		2
#define DROPPED		3
#define OTHER		4

#define OK		0
#define SLEEPING	1
#define SIGNAL		2
#define RESTARTABLE	3

#define FINISHED	0
#define GOING		1
#define AGAIN		2

typedef Call {
	byte outcome;
	byte place;		/* under the lock of its queue's peer */
	byte links;		/* likewise */
	bool answering;		/* under the server's */
	bool served;		/* the token is in the server's table */
	bool taken;		/* under the caller's */
	bool made;		/* the id is in the caller's table */
	bool id;		/* it has one */
	byte task = NONE;	/* who is to be woken by who ends WAITING */
	byte nested = NONE;	/* under the caller's */
	bool listed;		/* in a nested_queue, under the server's */
	byte refs;
	bool payload;		/* of the request */
	byte charge;		/* at the server */
	/* For the claims only. */
	bool begun;
	byte ends;		/* how often it was DONE or LEFT */
	byte right;		/* who may answer */
	byte writers;		/* of the reply */
	byte used;		/* how often the token was, for good */
	byte told;		/* how often the result was */
	byte noticed;		/* and that the caller has left */
	bool withdrawn;		/* the caller has left, and all that it does is done */
	bool cancelled
};
Call call[N];

bool closed[2];
bool killed[2];
bool gone[2];			/* closed, and all of it done */
byte threads[2];
byte n_requests[2];
byte top[2] = NONE;		/* parked threads: last in, first out */
byte below[2] = NONE;
byte state[4];			/* of a parked thread: the word that it sleeps on */
byte given[4] = NONE;
bool only_drops[4];		/* it takes nothing that is given */
bool asleep[4];
bool dead;			/* the node of call 0 */
byte faults = FAULTS;
byte signals = SIGNALS;

/* For the claims only. */
byte waits_for[4] = NONE;
byte nested_told;
bool came_back, unserved, renested, passed_over;

/* The claims. Variables, so that spin names the one that does not hold. */
hidden byte ENDS_ONCE;		/* one of reply, error, leaving */
hidden byte RIGHT_ONCE;		/* who answers has the right to, alone */
hidden byte ONE_WRITES;		/* nobody writes a result beside another, or when there is one */
hidden byte TOKEN_ONCE;		/* a token is used up once */
hidden byte MARK_KEPT;		/* the token is there as long as someone is about to answer */
hidden byte RESULT_ONCE;	/* one thread is told of the result */
hidden byte NOT_LOST;		/* and it can be had until then */
hidden byte NOT_CANCELLED;	/* but not if the caller has cancelled it */
hidden byte NEVER_SEEN;		/* what was left before it was received */
hidden byte WHOLE;		/* who receives a request gets its payload */
hidden byte NOTICE_ONCE;	/* the server is told once that the caller has left, */
hidden byte NOTICE_DUE;		/* if that is so, and the token is still its own, */
hidden byte NOTICED;		/* and always then */
hidden byte CHARGED_ONCE;	/* and discharged once */
hidden byte ONE_LIST;		/* who links it finds it in no list */
hidden byte SLOTS;		/* n_requests are in the queue, or taken off to be dropped */
hidden byte LISTED;		/* of those, the nested ones in the queue are in a list, which has no others */
hidden byte OWN_TABLE;		/* an id is looked for where it was given */
hidden byte THERE;		/* what is used was not dropped */
hidden byte WAKER;		/* who ends WAITING finds who waits */
hidden byte AWAKE;		/* nobody sleeps over a result, or over something to receive */
hidden byte NOT_BEHIND;		/* nor who waits for a call over what is part of another that is part of it */
hidden byte ENDED;		/* all threads end, if they are made to, and all closes */
hidden byte NOTHING_LEFT;	/* then nothing is: reference, charge, link, entry */
hidden byte REACHED_NOT;	/* what a run asks for does not happen: to see that it can */
hidden byte x, y, z;

#define IS_AT(c, p)	(call[c].links == AT_SERVER && SERVER(c) == (p) || call[c].links == AT_CALLER && CALLER(c) == (p))

#ifdef BROKEN_NO_TAKEN
#define MAY_LEAVE(c)	(call[c].outcome == AWAY || call[c].outcome == DONE)
#else
#define MAY_LEAVE(c)	((call[c].outcome == AWAY || call[c].outcome == DONE) && !call[c].taken)
#endif

inline get(c)
{
	call[c].refs++
}

inline put(c)
{
	THERE = call[c].refs > 0;
	assert(THERE);
	call[c].refs--;
	z = c;
	do
	:: call[z].refs == 0 && PARENT(z) != NONE -> z = PARENT(z); call[z].refs--
	:: else -> break
	od;
	z = NONE	/* a section may end here, but not with a loop */
}

inline uses(c)
{
	THERE = call[c].refs > 0;
	assert(THERE)
}

inline end(c, how)
{
	call[c].outcome = how;
	call[c].ends++;
	ENDS_ONCE = call[c].ends == 1;
	assert(ENDS_ONCE)
}

/* Someone has the right to answer from now on. */
inline has_right(c)
{
	call[c].right++;
	RIGHT_ONCE = call[c].right == 1;
	assert(RIGHT_ONCE)
}

inline writes(c)
{
	uses(c);
	ONE_WRITES = call[c].writers == 0 && call[c].outcome != DONE;
	assert(ONE_WRITES)
}

inline slots(p)
{
	x = 0;
	y = 0;
	do
	:: x < N ->
		if
		:: SERVER(x) == p && call[x].place == QUEUED -> y++
		:: else
		fi;
		LISTED = (call[x].listed -> HAS_LIST(x) && call[x].place == QUEUED
			: !(HAS_LIST(x) && call[x].place == QUEUED && call[x].links == AT_SERVER));
		assert(LISTED);
		x++
	:: else -> break
	od;
	SLOTS = n_requests[p] == y;
	assert(SLOTS)
}

/* Parked::pop: to look into the queue. */
inline pop(p, who)
{
	who = top[p];
	if
	:: who != NONE ->
		state[who] = LOOK;
		top[p] = below[p];
		below[p] = NONE
	:: else
	fi
}

inline wake(who)
{
	d_step {
		if
		:: who != NONE -> asleep[who] = false
		:: else
		fi;
		who = NONE
	}
}

/* Peer::wake. */
inline wake_one(p)
{
	d_step { pop(p, woken) };
	wake(woken)
}

/* bus1_sleep: entry, hand-over and the look at the word, which is changed before a wake-up. */
inline sleep(changed)
{
	wake(next);
	slept = SLEEPING;
	do
#ifdef BROKEN_LOOKS_FIRST
	:: !asleep[me] ->
		if
		:: d_step { changed -> slept = OK }; break
		:: d_step { else -> skip };
			asleep[me] = true
		fi
#else
	:: d_step {
		!asleep[me] ->
		if
		:: changed -> slept = OK
		:: else -> asleep[me] = true
		fi
	   };
		if
		:: slept == OK -> break
		:: else
		fi
#endif
	:: d_step { asleep[me] && signals > 0 && INTERRUPTED(me) -> signals--; asleep[me] = false; slept = SIGNAL }; break
	:: d_step { asleep[me] && signals > 0 && HAS_RESTART && INTERRUPTED(me) -> signals--; asleep[me] = false; slept = RESTARTABLE }; break
	:: d_step { asleep[me] && killed[MY] -> asleep[me] = false; slept = SIGNAL }; break
	od;
	skip	/* nothing jumps into a section */
}

/* Call::leave_server. */
inline leave_server(c)
{
	uses(c);
	call[c].place = OVER;
	CHARGED_ONCE = call[c].charge == 1;
	assert(CHARGED_ONCE);
	call[c].charge--
}

/* Call::serve: the entry's reference becomes the thread's, and the table has one. */
inline serve(c)
{
	NEVER_SEEN = !call[c].withdrawn;
	assert(NEVER_SEEN);
	call[c].links = NOWHERE;
	call[c].served = true;
	call[c].place = SERVED;
	get(c)
}

inline enter_queue(c)
{
	call[c].place = QUEUED;
	call[c].links = AT_SERVER;
	n_requests[SERVER(c)]++;
	ONE_LIST = !call[c].listed;
	assert(ONE_LIST);
	call[c].listed = HAS_LIST(c)
}

inline leave_queue(c)
{
	n_requests[SERVER(c)]--;
	call[c].listed = false
}

/* What was linked without a ListArc at hand: of a reference. */
inline relink(c, where)
{
	ONE_LIST = call[c].links == NOWHERE;
	assert(ONE_LIST);
	call[c].links = where;
	get(c)
}

/* The end of a ListArc. */
inline drop_entry(c)
{
	call[c].links = NOWHERE;
	put(c)
}

/* call::take: the token is used up. The table's reference becomes the thread's. */
inline take(c)
{
	call[c].served = false;
	call[c].used++;
	TOKEN_ONCE = call[c].used == 1;
	assert(TOKEN_ONCE);
#ifndef BROKEN_LEAVES_NOTICE
	if
	:: call[c].place == NOTICE && call[c].links == AT_SERVER -> drop_entry(c)
	:: else
	fi;
#endif
	leave_server(c);
	has_right(c)
}

/* Call::decide. */
inline decide(c)
{
	uses(c);
	RIGHT_ONCE = call[c].right == 1;
	assert(RIGHT_ONCE);
	call[c].right = 0;
	if
	:: call[c].outcome == WAITING -> end(c, DONE); came = CAME_WAITING
	:: call[c].outcome == AWAY -> end(c, DONE); came = CAME_AWAY
	:: else -> came = LATE
	fi
}

inline take_task(c, who)
{
	WAKER = call[c].task != NONE;
	assert(WAKER);
	who = call[c].task;
	call[c].task = NONE
}

/* nest: the thread that serves c, or NONE; the reference is given to that. */
inline nest(c, who)
{
	who = NONE;
	z = PARENT(c);
	do
	:: z != NONE && !(SERVES(z, c) && call[z].outcome == WAITING) -> z = PARENT(z)
	:: else -> break
	od;
	if
	:: z != NONE ->
		call[z].outcome = AWAY;
		ONE_LIST = call[z].nested == NONE;
		assert(ONE_LIST);
		call[z].nested = c;
		take_task(z, who)
	:: else
	fi
}

/* calling::put_back, of what is in no list. The reference goes on with it. Who is to be woken is `woken`. */
inline requeue(c)
{
#ifdef BROKEN_REQUEUES_ONLY
	woken = NONE;
#else
	nest(c, woken);
#endif
	if
	:: woken != NONE -> renested = true; serve(c)
	:: else -> enter_queue(c)
	fi
}

/* By itself, without a lock. Who is to be woken is `next`. */
inline decide_alone(c)
{
#ifdef BROKEN_WAKE_EARLY
	d_step { next = (call[c].outcome == WAITING -> call[c].task : NONE) };
	wake(next);
#endif
#ifdef BROKEN_NO_CAS
	d_step {
		came = (call[c].outcome == WAITING -> CAME_WAITING : (call[c].outcome == AWAY -> CAME_AWAY : LATE));
		call[c].right = 0
	};
	if
	:: came != LATE -> d_step { end(c, DONE) }
	:: else
	fi;
#else
	d_step { decide(c) };
#endif
	if
	:: d_step { came == CAME_WAITING -> take_task(c, next) }
	:: else
	fi
#ifdef BROKEN_WAKE_EARLY
	;
	next = NONE
#endif
}

/* push_reply. */
inline push_reply(c)
{
	relink(c, AT_CALLER);
	call[c].place = REPLY;
	pop(CALLER(c), woken)
}

inline deliver(c)
{
	if
	:: IS_ASYNC ->
		d_step {
			uses(c);
			if
#ifdef BROKEN_DELIVERS_BLINDLY
			:: true -> push_reply(c)
#else
			:: call[c].made -> push_reply(c)
			:: else
#endif
			fi
		};
		wake(woken)
	:: else
	fi
}

/* fail, and finish. */
inline fail(c)
{
	d_step { writes(c) };
	decide_alone(c);
	if
	:: came == CAME_WAITING -> wake(next)
	:: came == CAME_AWAY -> deliver(c)
	:: else
	fi;
	came = 0
}

/* drop_request: what was taken off the queue, and is no entry any more. Its reference is dropped here. */
inline drop_request(c)
{
	d_step {
		leave_queue(c);
		leave_server(c);
		slots(SERVER(c))
	};
	fail(c);
	d_step { put(c) }
}

/* withdraw: the caller has left. `entry`: its request was taken off the queue. */
inline withdraw(c)
{
#ifdef BROKEN_PLACE_UNLOCKED
	seen = call[c].place;
#endif
	d_step {
		uses(c);
#ifdef BROKEN_PLACE_UNLOCKED
#define PLACE	seen
#else
#define PLACE	call[c].place
#endif
		if
		:: PLACE == QUEUED ->
			if
			:: call[c].links == AT_SERVER && !closed[SERVER(c)] ->
				leave_queue(c);
				leave_server(c);
				drop_entry(c)
			:: else
			fi
#ifdef BROKEN_LINKS_CLOSED
		:: PLACE == SERVED ->
#else
		:: PLACE == SERVED && !closed[SERVER(c)] ->
#endif
			if
			:: !call[c].answering ->
				/* The reply's draft is taken. */
				ONE_WRITES = call[c].writers == 0;
				assert(ONE_WRITES)
			:: else
			fi;
#ifndef BROKEN_NO_NOTICE
			call[c].place = NOTICE;
			relink(c, AT_SERVER);
			pop(SERVER(c), woken)
#endif
#ifdef BROKEN_DISCHARGES_TWICE
			;
			call[c].charge--
#endif
		:: else
		fi;
#undef PLACE
		call[c].withdrawn = true;
		slots(SERVER(c))
#ifdef BROKEN_PLACE_UNLOCKED
		;
		seen = 0
#endif
	};
	wake(woken)
}

/* The call is known by its id no more. */
inline forget(c)
{
	d_step {
		if
		:: call[c].made -> call[c].made = false; put(c)
		:: else
		fi
	}
}

/* waiting::leave, after the step to LEFT. */
inline leave(c)
{
	if
	:: call[c].id -> forget(c)
	:: else
	fi;
	withdraw(c)
}

inline enter(c)
{
	d_step { call[c].made = true; call[c].id = true; get(c) }
}

/* keep_result. */
inline keep_result(c)
{
	d_step { push_reply(c) };
	wake(woken)
}

/* unserve: the receiver could not be told. Its own reference is dropped by who calls this. */
inline unserve(c)
{
	d_step {
		uses(c);
		what = NOTHING;
		if
		:: call[c].answering || !call[c].served
		:: else ->
			call[c].served = false;
#ifdef BROKEN_UNSERVES_BLINDLY
			if
			:: false
#else
			if
			:: call[c].place != SERVED ->
				if
				:: call[c].links == AT_SERVER -> drop_entry(c)
				:: else
				fi;
				leave_server(c);
				has_right(c);
				what = GARBAGE
#endif
			:: else ->
				relink(c, IN_HAND);
				requeue(c);
				unserved = true;
				what = REQUEST
			fi;
			slots(SERVER(c));
			put(c)
		fi
	};
	if
	:: what == GARBAGE -> fail(c)
	:: what == REQUEST && woken != NONE -> wake(woken)
	:: what == REQUEST && woken == NONE -> wake_one(SERVER(c))
	:: else
	fi;
	what = NOTHING
}

/* Answer: in the section that then receives. `ok` says whether the command goes on with that. */
inline answer_small(c)
{
	if
	:: !call[c].served -> ok = false			/* ENXIO */
#ifndef BROKEN_NO_ANSWERING
	:: call[c].served && call[c].answering -> ok = false	/* EBUSY */
#endif
	:: else ->
		take(c);
		writes(c);
		decide(c);
		if
		:: came == CAME_WAITING -> take_task(c, next)
		:: else
		fi;
		if
		:: came == LATE -> ok = false; came = 0; put(c)	/* ECANCELED */
		:: else -> answered = c
		fi
	fi;
	token = NONE
}

/* drop_token. */
inline drop_token(c)
{
	d_step {
		ok = call[c].served && !call[c].answering;
		if
		:: ok -> take(c)
		:: else
		fi
	};
	if
	:: ok ->
		fail(c);
		d_step { put(c) }
	:: else
	fi;
	ok = false
}

/* reply::answer: who is to be woken stays in `next`. */
inline answer_large(c)
{
	d_step {
		slept = OK;
		if
		:: !call[c].served || call[c].answering -> ok = false
		:: else ->
			ok = true;
			if
			:: call[c].outcome == LEFT -> slept = SIGNAL
			:: else -> call[c].answering = true; get(c)
			fi
		fi
	};
	if
	:: ok && slept == SIGNAL -> drop_token(c)
	:: ok && slept == OK ->
		/* fill */
		d_step { writes(c); call[c].writers++ };
		if
		:: d_step { faults > 0 -> faults-- };
			d_step { call[c].writers--; call[c].answering = false; put(c) }
		:: d_step {
				call[c].writers--;
				call[c].answering = false;
				MARK_KEPT = call[c].served;
				assert(MARK_KEPT);
				/* take_answered, and the reference that the mark had. */
				take(c);
				put(c)
		   };
			d_step { writes(c) };
			decide_alone(c);
			if
			:: came == CAME_AWAY -> deliver(c)
			:: else
			fi;
			came = 0;
			d_step { put(c) }
		fi
	:: else
	fi;
	slept = OK;
	ok = false
}

/* Queue::next and Taken::new; if there is nothing Parked::push. The entry's reference is the thread's. */
inline look()
{
	got = NONE;
	y = 0;
	do
	:: y < N ->
		if
		:: got == NONE && IS_AT(y, MY) -> got = y
		:: else
		fi;
		y++
	:: else -> break
	od;
	if
	:: got == NONE ->
		what = NOTHING;
		if
		:: waits ->
			state[me] = PARKED;
			only_drops[me] = drops;
			below[MY] = top[MY];
			top[MY] = me
		:: else
		fi
	:: else ->
		if
		:: call[got].place == QUEUED && dead ->
			what = GARBAGE;
			call[got].links = IN_HAND;
			has_right(got)
		:: drops && !(call[got].place == QUEUED && dead) ->
			what = DROPPED;
			call[got].links = IN_HAND;
			if
			:: call[got].place == QUEUED -> has_right(got)
			:: call[got].place == NOTICE -> call[got].place = TOLD
#ifndef BROKEN_DROPS_UNTAKEN
			:: call[got].place == REPLY -> call[got].taken = true
#endif
			:: else
			fi
		:: !drops && call[got].place == QUEUED && !dead ->
			what = REQUEST;
			leave_queue(got);
			serve(got)
		:: else ->
			what = OTHER;
			call[got].links = IN_HAND;
			if
			:: call[got].place == NOTICE -> call[got].place = TOLD
			:: call[got].place == REPLY -> call[got].taken = true
			:: else
			fi
		fi;
		if
		:: call[got].links == IN_HAND && (call[got].place == TOLD || call[got].place == OVER) ->
			NOTICE_DUE = call[got].outcome == LEFT && call[got].served;
			assert(NOTICE_DUE)
		:: else
		fi
	fi;
	slots(MY)
}

inline tell_result(c)
{
	uses(c);
	ONE_WRITES = call[c].writers == 0 && call[c].right == 0;
	assert(ONE_WRITES);
	call[c].told++;
	RESULT_ONCE = call[c].told == 1;
	assert(RESULT_ONCE);
	NOT_CANCELLED = !call[c].cancelled;
	assert(NOT_CANCELLED)
}

inline tell_notice(c)
{
	call[c].noticed++;
	NOTICE_ONCE = call[c].noticed == 1;
	assert(NOTICE_ONCE)
}

/* tell_request. */
inline tell_request(c)
{
	d_step {
		uses(c);
		WHOLE = call[c].payload;
		assert(WHOLE)
	};
	if
	:: d_step { faults > 0 -> faults-- };
		unserve(c)
	:: d_step { call[c].payload = false }
	fi
}

/* hand::put_back: from the hand to the front of the queue, or to who serves it. */
inline put_back(c)
{
	d_step {
		uses(c);
		what = NOTHING;
		if
		:: call[c].place == TOLD -> call[c].place = NOTICE; call[c].links = AT_SERVER
		:: call[c].place == REPLY ->
			call[c].taken = false;
#ifdef BROKEN_UNTAKES_DROPPED
			if
			:: drops -> drop_entry(c)
			:: else -> call[c].links = AT_CALLER
			fi
#else
			call[c].links = AT_CALLER
#endif
		:: call[c].place == QUEUED ->
#ifdef BROKEN_PUTS_BACK_LEFT
			if
			:: false
#else
			if
			:: call[c].outcome == LEFT -> what = GARBAGE
#endif
			:: else ->
				call[c].right--;
				leave_queue(c);
				requeue(c)
			fi
		:: else -> drop_entry(c)
		fi;
		slots(MY)
	};
	if
	:: what == GARBAGE ->
		d_step { call[c].links = NOWHERE };
		drop_request(c)
	:: else -> wake(woken)
	fi;
	what = NOTHING;
	wake_one(MY)
}

/* finish_dropped: looks at the place without the lock. */
inline finish_dropped(c)
{
	seen = call[c].place;
	if
	:: seen == QUEUED ->
		d_step { call[c].links = NOWHERE };
		drop_request(c)
#ifdef BROKEN_FORGETS_ANY
	:: else ->
#else
	:: seen == TOLD || seen == OVER -> d_step { tell_notice(c); drop_entry(c) }
	:: seen == REPLY ->
#endif
		d_step { OWN_TABLE = MY == CALLER(c); assert(OWN_TABLE); tell_result(c) };
		forget(c);
		d_step { drop_entry(c) }
	fi;
	seen = 0
}

/* A command that receives, after a small reply if there is a `token`. */
inline receive()
{
	waits = true;
	ok = true;
	do
	:: d_step {
		if
		:: token != NONE -> answer_small(token)
		:: else
		fi;
		what = NOTHING;
		if
		:: ok -> look()
		:: else
		fi
	   };
		/* done */
		if
		:: answered != NONE ->
			if
			:: next == NONE -> deliver(answered)
			:: else
			fi;
			d_step { put(answered); answered = NONE; came = 0 };
			if
			:: what != NOTHING -> wake(next)
			:: else
			fi
		:: else
		fi;
		if
		:: what == GARBAGE ->
			/* discard */
			d_step { what = NOTHING; call[got].links = NOWHERE };
			drop_request(got);
			got = NONE
		:: what == NOTHING && ok && waits ->
			sleep(state[me] != PARKED);
			d_step {
				if
				:: state[me] == PARKED && top[MY] == me -> top[MY] = below[MY]; below[MY] = NONE
				:: state[me] == PARKED && top[MY] != me -> below[MY] = NONE
				:: else
				fi;
				if
				:: state[me] == GIVEN -> what = REQUEST; got = given[me]; given[me] = NONE
				:: else
				fi;
				state[me] = LOOK;
				only_drops[me] = false;
				if
				:: slept != OK -> waits = false
				:: else
				fi;
				slept = OK
			};
			if
			:: what == REQUEST -> break
			:: else
			fi
		:: else -> break
		fi
	od;
	if
	:: what == REQUEST ->
		what = NOTHING;
		tell_request(got);
		d_step { put(got) }
	:: what == OTHER || what == DROPPED ->
		if
		:: d_step { faults > 0 -> faults-- };
			put_back(got)
		:: what == DROPPED -> what = NOTHING; finish_dropped(got)
		:: what == OTHER && call[got].place == REPLY ->
			d_step { what = NOTHING; tell_result(got) };
			forget(got);
			d_step { drop_entry(got) }
		:: d_step { what == OTHER && call[got].place != REPLY -> what = NOTHING; tell_notice(got); drop_entry(got) }
		fi
	:: else
	fi;
	d_step { got = NONE; what = NOTHING; waits = false; ok = false; drops = false };
	reach()
}

inline reach()
{
	d_step { REACHED_NOT = !(REACHED); assert(REACHED_NOT) }
}

/* call::link, with nest, Parked::give, and push. The entry's reference goes on with it. */
inline link(c)
{
	d_step {
		y = 0;
		ok = true;
		do
		:: y < N ->
			if
			:: IS_AT(y, SERVER(c)) -> ok = false
			:: else
			fi;
			y++
		:: else -> break
		od;
		if
		:: closed[SERVER(c)] || dead -> ok = false; drop_entry(c)
#ifndef BROKEN_LINKS_LEFT
		:: !closed[SERVER(c)] && !dead && IS_ASYNC && call[c].outcome == LEFT -> ok = false; drop_entry(c)
#endif
		:: else ->
			call[c].charge = 1;
			nest(c, next);
			if
			:: next != NONE -> serve(c)
			:: else ->
				next = top[SERVER(c)];
				if
				:: ok && next != NONE && !only_drops[next] ->
					pop(SERVER(c), next);
					state[next] = GIVEN;
					given[next] = c;
					serve(c)
#ifdef BROKEN_GIVES_NO_REFERENCE
					;
					call[c].refs--
#endif
				:: else ->
					enter_queue(c);
					pop(SERVER(c), next)
				fi
			fi;
			ok = true
		fi;
		slots(SERVER(c))
	}
}

/* make: NewCall::new, share, enter, link. */
inline make(c)
{
	d_step {
		call[c].begun = true;
		call[c].outcome = (IS_ASYNC -> AWAY : WAITING);
		call[c].taken = !IS_ASYNC;
		call[c].task = (IS_ASYNC -> NONE : me);
		call[c].links = IN_HAND;
		call[c].payload = true;
		call[c].refs = 2
	};
	if
	:: IS_ASYNC || NESTS(c) -> enter(c)
	:: else
	fi;
	link(c);
	if
	:: !ok ->
		if
		:: call[c].id -> forget(c)
		:: else
		fi;
		d_step { call[c].task = NONE; put(c) };
		r = FINISHED
	:: ok && IS_ASYNC ->
		wake(next);
		d_step { put(c) };
		r = FINISHED
	:: else -> r = GOING
	fi;
	ok = false
}

/* tell_nested. */
inline tell_nested(c)
{
	d_step {
		uses(nested);
		WHOLE = call[nested].payload;
		assert(WHOLE)
	};
	if
	:: d_step { faults > 0 -> faults-- };
#ifdef BROKEN_TOLD_BEFORE_ID
		d_step { call[nested].payload = false };
#endif
		unserve(nested);
		if
		:: d_step { call[c].outcome == AWAY -> end(c, LEFT) };
			leave(c)
		:: else ->
#ifndef BROKEN_KEEPS_ID
			forget(c);
#endif
			keep_result(c)
		fi;
		d_step { r = FINISHED; put(nested); put(c); nested = NONE }
	:: d_step { call[nested].payload = false };
		d_step { call[c].taken = false };
		d_step { r = AGAIN; nested_told++; put(nested); put(c); nested = NONE }
	fi
}

/* wait, until the command returns. The thread's reference is dropped then. */
inline wait(c)
{
	waits_for[me] = c;
	do
	:: r == GOING ->
		if
		:: nested == NONE -> sleep(call[c].outcome != WAITING)
		:: else
		fi;
		if
		:: nested != NONE -> tell_nested(c)		/* resume has found it */
		:: nested == NONE && call[c].outcome == DONE ->
			/* take_result */
			if
			:: NESTS(c) ->
#ifndef BROKEN_OVERLOOKS_NESTED
				d_step { nested = call[c].nested; call[c].nested = NONE }
#else
				skip
#endif
			:: else
			fi;
			if
			:: nested != NONE -> tell_nested(c)
			:: else ->
				if
				:: call[c].id -> forget(c)
				:: else
				fi;
				if
				:: d_step { faults > 0 -> faults-- };
					keep_result(c)
				:: d_step { tell_result(c) }
				fi;
				d_step { r = FINISHED; put(c) }
			fi
		:: nested == NONE && call[c].outcome == AWAY ->
			/* serve_nested */
			d_step { nested = call[c].nested; call[c].nested = NONE };
			tell_nested(c)
		:: nested == NONE && call[c].outcome == WAITING && slept != OK ->
			/* disturbed */
			if
			:: slept == RESTARTABLE && !killed[MY] ->
				if
				:: !call[c].id -> enter(c)
				:: else
				fi;
				if
				:: d_step { call[c].outcome == WAITING -> call[c].outcome = AWAY; call[c].task = NONE };
					d_step { call[c].taken = false; r = AGAIN };
					d_step { put(c) }
				:: else
				fi
			:: else ->
				if
				:: d_step { call[c].outcome == WAITING -> end(c, LEFT); call[c].task = NONE };
					leave(c);
					d_step { r = FINISHED; put(c) }
				:: else
				fi
			fi
		:: nested == NONE && call[c].outcome == WAITING && slept == OK
		fi;
		slept = OK
	:: else -> break
	od;
	waits_for[me] = NONE;
	reach()
}

/* resume, until it waits. */
inline resume(c)
{
	d_step {
		if
		:: call[c].made && !IS_ASYNC && MAY_LEAVE(c) ->
			get(c);
			call[c].taken = true;
			came_back = true;
			r = GOING;
			y = 0;
			do
#ifndef BROKEN_NEVER_LOOKS_BACK
			/* next_nested */
			:: y < N && call[y].listed && FINDS(c, y) ->
				call[y].listed = false;
				if
#ifdef BROKEN_TAKES_LISTED
				:: true ->
#else
				:: call[y].links == AT_SERVER ->
#endif
					nested = y;
					n_requests[MY]--;
					serve(y);
					break
				:: else -> passed_over = true	/* another thread is to drop it */
				fi
			:: y < N && !(call[y].listed && FINDS(c, y)) -> y++
#endif
			:: else ->
				call[c].task = me;
#ifdef BROKEN_COMES_BACK_BLINDLY
				call[c].outcome = WAITING;
#else
				if
				:: call[c].outcome == AWAY -> call[c].outcome = WAITING
				:: else -> call[c].task = NONE
				fi;
#endif
				break
			od;
			slots(MY)
		:: else -> r = FINISHED
		fi
	};
	if
	:: nested != NONE || r == FINISHED -> wake(next)
	:: else
	fi
}

/* cancel. */
inline cancel(c)
{
	d_step {
		if
		:: call[c].made && MAY_LEAVE(c) ->
			ok = true;
			call[c].made = false;
			call[c].cancelled = true;
			/* The table's reference is as good as the one that was got. */
			if
			:: call[c].outcome == DONE && call[c].place == REPLY && call[c].links == AT_CALLER ->
				call[c].links = IN_HAND;
				got = c
			:: else
			fi
		:: else
		fi
	};
	if
	:: ok ->
		if
		:: d_step { call[c].outcome == AWAY -> end(c, LEFT) };
			withdraw(c)
		:: else
		fi;
		if
		:: d_step { got != NONE -> drop_entry(c); got = NONE }
		:: else
		fi;
		d_step { put(c) };
		ok = false
	:: else
	fi
}

#define LOCALS \
	byte came, next = NONE, woken = NONE, seen, slept, what, got = NONE, token = NONE, \
		answered = NONE, nested = NONE, r; \
	bool ok, waits, drops;

/* One command of a thread that receives and answers. */
#ifdef ALL_ANSWERS
#define ANSWER_LARGE(c) \
	:: !killed[MY] && call[c].served && SERVER(c) == MY -> answer_large(c); wake(next)
#else
#define ANSWER_LARGE(c)
#endif
#define ANSWER(c) \
	:: d_step { !killed[MY] && call[c].served && SERVER(c) == MY -> token = c }; receive() \
	:: !killed[MY] && call[c].served && SERVER(c) == MY -> drop_token(c); reach()

/* BUS1_CMD_REPLY with an id, or without. */
#ifdef DEEP
#define ANSWER_AND_RESUME(c) \
	:: r == AGAIN && !killed[MY] && next == NONE && call[c].served && SERVER(c) == MY -> answer_large(c); wake(next)
#else
#define ANSWER_AND_RESUME(c) \
	:: r == AGAIN && !killed[MY] && next == NONE && call[c].served && SERVER(c) == MY -> \
		answer_large(c); \
		if \
		:: wake(next) \
		:: true \
		fi \
	:: r == AGAIN && !killed[MY] && next == NONE && call[c].served && SERVER(c) == MY -> drop_token(c)
#endif

proctype Caller(byte me; byte c)
{
	LOCALS

	make(c);
	do
	:: r == GOING -> wait(c)
	:: r == AGAIN && !killed[MY] -> resume(c)
#if N > 1
	ANSWER_AND_RESUME(1)
#endif
#ifdef NEST_TWICE
	ANSWER_AND_RESUME(2)
#endif
#ifdef DEEP
	ANSWER_AND_RESUME(3)
	/* find_parent; the call that is part of what is served, and what happens while it is waited for. */
	:: d_step { r == AGAIN && !killed[MY] && next == NONE && c == 0 && call[1].served && !call[2].begun -> get(1); c = 2 };
		make(c)
	:: d_step { c == 2 && next == NONE && (r == FINISHED || r == AGAIN && call[2].outcome != WAITING) -> c = 0; r = AGAIN }
#endif
#if !defined(NEST) && !defined(NEST_TWICE) && !defined(DEEP)
	:: r == AGAIN -> r = FINISHED
#else
	:: r == AGAIN && killed[MY] -> wake(next); r = FINISHED
#endif
	:: r == FINISHED && (c == 0 || !NESTS(c)) -> break
	od;
#ifdef ASYNCHRONOUS
	run Second(me, c)
#else
	threads[MY]--
#endif
}

/* Another thread of the caller's. */
proctype Second(byte me; byte c)
{
	LOCALS

	do
	:: killed[MY] -> break
#ifdef DISCARDS
	:: !killed[MY] -> break		/* then the thread that waits has to do all */
#endif
	:: !killed[MY] -> receive()
	:: d_step { !killed[MY] && DROPS(MY) -> drops = true }; receive()
#if N == 1
	:: !killed[MY] && call[c].made -> cancel(c)
#else
	ANSWER(1)
#endif
#if N == 1 || defined(MEDDLES)
	:: !killed[MY] && call[c].made && !IS_ASYNC ->
		resume(c);
		wait(c);
		r = FINISHED
#endif
	od;
	threads[MY]--
}

proctype Server(byte me)
{
	LOCALS

	do
	:: killed[MY] -> break
	:: !killed[MY] -> receive()
	:: d_step { !killed[MY] && DROPS(MY) -> drops = true }; receive()
#ifdef DEEP
	:: d_step { !killed[MY] && call[PARENT(MAKES)].served -> token = PARENT(MAKES) }; receive()
#else
	ANSWER(0)
	ANSWER_LARGE(0)
#endif
#ifdef TWO
	ANSWER(1)
#endif
#ifdef MAKES
	/* find_parent, and a call that is part of that one. */
	:: d_step { !killed[MY] && call[PARENT(MAKES)].served && !call[MAKES].begun -> get(PARENT(MAKES)) };
		make(MAKES);
		wait(MAKES)
#endif
	od;
	threads[MY]--
}

/* destroy_one, and drop_items. */
proctype Destroyer()
{
	byte came, next = NONE, woken = NONE, got = NONE;

	d_step {
		dead = !killed[1];	/* or it comes too late */
		if
		:: !dead
		:: dead && call[0].links == AT_SERVER && call[0].place == QUEUED ->
			call[0].links = IN_HAND;
			has_right(0);
			got = 0
		:: else
		fi
	};
	if
	:: got != NONE ->
		d_step { call[0].links = NOWHERE };
		drop_request(0)
	:: else
	fi;
	threads[1]--
}

proctype Killer(byte p)
{
	if
	:: killed[p] = true
	:: true
	fi
}

/* Peer::close, when no thread of the peer is in a command. */
proctype Closer(byte p)
{
	byte came, next = NONE, woken = NONE, seen, c;
	byte was_served, was_made, items;	/* masks of calls */

	d_step {
		killed[p] && threads[p] == 0 ->
		closed[p] = true;
		c = 0;
		do
		:: c < N ->
			if
			:: IS_AT(c, p) ->
				call[c].links = IN_HAND;
				items = items | (1 << c);
				if
				:: call[c].place == QUEUED -> has_right(c)
				:: else
				fi
			:: else
			fi;
			if
			:: SERVER(c) == p && call[c].served ->
				call[c].served = false;
				was_served = was_served | (1 << c);
				has_right(c)
			:: else
			fi;
			if
			:: CALLER(c) == p && call[c].made ->
				call[c].made = false;
				was_made = was_made | (1 << c)
			:: else
			fi;
			c++
		:: else -> break
		od;
		c = 0
	};
	do
	:: c < N && (was_served & (1 << c)) ->
		d_step { was_served = was_served & ~(1 << c); leave_server(c) };
#ifndef BROKEN_CLOSES_SILENTLY
		fail(c);
#else
		d_step { call[c].right = 0 };
#endif
		d_step { put(c) }
	:: c < N && !(was_served & (1 << c)) && (was_made & (1 << c)) ->
		was_made = was_made & ~(1 << c);
		if
		:: d_step { call[c].outcome == AWAY -> end(c, LEFT) };
			withdraw(c)
		:: else
		fi;
		d_step { put(c) }
	:: c < N && !(was_served & (1 << c)) && !(was_made & (1 << c)) -> c++
	:: else -> break
	od;
	c = 0;
	do
	:: c < N && (items & (1 << c)) ->
		items = items & ~(1 << c);
		/* discard */
		if
		:: d_step { call[c].place == QUEUED -> call[c].links = NOWHERE };
			drop_request(c)
		:: d_step { else -> drop_entry(c) }
		fi
	:: c < N && !(items & (1 << c)) -> c++
	:: else -> break
	od;
	gone[p] = true
}

init {
	atomic {
		CALLERS;
		SERVERS;
#ifdef DESTROYS
		START(Destroyer(), 1);
#endif
#ifdef KILLS
		run Killer(0);
		run Killer(1);
#endif
		run Closer(0);
		run Closer(1)
	};
	timeout;
	d_step {
		x = 0;
		do
		:: x < 4 ->
			/* Who waits has a call that somebody can answer, who is parked nothing to receive. */
			AWAKE = (waits_for[x] == NONE || call[waits_for[x]].outcome == WAITING
				&& (call[waits_for[x]].served || call[waits_for[x]].links == AT_SERVER));
			assert(AWAKE);
			x++
		:: else -> break
		od;
		x = 0;
		do
		:: x < N ->
			AWAKE = (!(call[x].links == AT_SERVER && top[SERVER(x)] != NONE)
				&& !(call[x].links == AT_CALLER && top[CALLER(x)] != NONE)
				&& call[x].nested == NONE);
			assert(AWAKE);
			z = PARENT(x);
			do
			:: z != NONE ->
				NOT_BEHIND = !(call[x].links == AT_SERVER && call[x].place == QUEUED && SERVES(z, x)
					&& call[z].outcome == WAITING);
				if
				:: z == PARENT(x) -> AWAKE = NOT_BEHIND; assert(AWAKE)
				:: else -> assert(NOT_BEHIND)
				fi;
				z = PARENT(z)
			:: else -> break
			od;
			NOT_LOST = (call[x].outcome != DONE || call[x].told == 1 || call[x].cancelled || closed[CALLER(x)]
				|| call[x].links == AT_CALLER || call[x].made && !IS_ASYNC && !call[x].taken);
			assert(NOT_LOST);
			NOTICED = (!(call[x].outcome == LEFT && call[x].served) || call[x].noticed == 1 || closed[SERVER(x)]
				|| call[x].links == AT_SERVER);
			assert(NOTICED);
			x++
		:: else -> break
		od;
		REACHED_NOT = !(REACHED);
		assert(REACHED_NOT);
		killed[0] = true;
		killed[1] = true
	};
	timeout;
	d_step {
		ENDED = gone[0] && gone[1];
		assert(ENDED);
		x = 0;
		do
		:: x < N ->
			NOTHING_LEFT = (call[x].refs == 0 && call[x].charge == 0 && call[x].links == NOWHERE && !call[x].listed
				&& !call[x].made && !call[x].served && call[x].nested == NONE && call[x].task == NONE
				&& n_requests[SERVER(x)] == 0 && call[x].right == 0);
			assert(NOTHING_LEFT);
			/* What was made has ended. */
			ENDED = call[x].ends == 1 || !call[x].begun || call[x].place == NEW;
			assert(ENDED);
			x++
		:: else -> break
		od
	}
}
