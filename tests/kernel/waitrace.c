// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * CALL-2, CALL-4, CALL-5: ends of a call that a thread waits for, just as it falls asleep, wakes
 * or leaves, a great many times: see race.c. Whoever is first, it ends once, both sides agree on
 * how, and nothing stays.
 */
#include "duel.h"

#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Of calls that a thread waits for, that thread is the other one. */
static pthread_t caller;

static bool slept;

static void other_call(struct race *r)
{
	struct rusage before, after;

	__atomic_store_n(&caller, pthread_self(), __ATOMIC_RELEASE);
	OK(SYS(getrusage(RUSAGE_THREAD, &before)));
	r->result = call_make(&d.c);
	OK(SYS(getrusage(RUSAGE_THREAD, &after)));
	slept = after.ru_nvcsw != before.ru_nvcsw;
}

static void call_ready(u32 i, u64 deadline)
{
	call_init(&d.c, &d.r.a, d.r.to_b, "x", 1);
	d.c.cmd.reply_size = i & 1 ? LARGE : 0;
	d.c.cmd.recv.deadline = deadline;
}

static void got_reply_of(u32 i)
{
	EQ(d.c.in.m.type, BUS1_MSG_REPLY);
	EQ(d.c.in.m.len, i & 1 ? LARGE : 10);
	if (d.c.in.m.slice)
		OK(slice_release(&d.r.a, d.c.in.m.slice));
}

/* What a server does to end a call, which has received its request or not. */
enum end { REPLY, DROP_TOKEN, CLOSE_SERVED, DROP, REVOKE, DESTROY, CLOSE, N_ENDS };

static bool is_received(enum end end)
{
	return end <= CLOSE_SERVED;
}

static bool closes(enum end end)
{
	return end == CLOSE_SERVED || end == CLOSE;
}

/* What the caller gets then. */
static int error_of(enum end end)
{
	static const int errors[N_ENDS] = {
		[DROP_TOKEN] = ECONNABORTED, [CLOSE_SERVED] = ECONNRESET, [DROP] = ECONNABORTED,
		[REVOKE] = EHOSTUNREACH, [DESTROY] = EHOSTUNREACH, [CLOSE] = EHOSTUNREACH,
	};

	return errors[end];
}

/* A node, or facet, to be called, if it is to end. */
static void end_ready(enum end end)
{
	d.to_facet = 0;
	if (end == REVOKE) {
		facet_make();
	} else if (end == DESTROY) {
		d.facet = node_new(&d.r.b, 3);
		d.to_facet = grant(&d.r.b, d.facet, &d.r.a);
	}
}

static int end_make(enum end end, u32 i)
{
	struct bus1_msg m;

	switch (end) {
	case REPLY:
		return reply_one(d.token, i);
	case DROP_TOKEN:
		return answer_drop(&d.r.b, d.token);
	case DROP:
		return drop_now(&d.r.b, &m);
	case REVOKE:
	case DESTROY:
		return destroy(&d.r.b, d.facet);
	default:
		peer_close(&d.r.b);
		return 0;
	}
}

/* The request is there, and is received if that is to be. */
static bool end_is_due(enum end end)
{
	if (!is_received(end))
		return peer_info(&d.r.b).n_queued;
	if (recv_now(&d.r.b, &d.in))
		return false;
	EQ(d.in.m.type, BUS1_MSG_CALL);
	d.token = d.in.m.token;
	return true;
}

/* What is left after a round. `made`: the server has done what it does. */
static void end_clean(enum end end, bool made, u32 i)
{
	if (!made && (closes(end) || d.to_facet))
		end_make(end, i);
	if (!closes(end)) {
		EQ(came(&d.r.a).others, !!d.to_facet);
		if (d.to_facet)
			OK(release(&d.r.a, d.to_facet));
		EQ(came(&d.r.b).calls, 0);
		both_idle();
		return;
	}
	EQ(came(&d.r.a).others, 1);
	peer_idle(&d.r.a);
	OK(release(&d.r.a, d.r.to_b));
	server_new();
}

static void spin(u32 n)
{
	for (volatile u32 i = 0; i < n; i++)
		;
}

/* More rounds, until both have been first; there is an end to that, which is a failure. */
static u64 race_until;

static bool go_on(u32 i, u32 one, u32 other)
{
	if (!i)
		race_until = test_deadline(70);
	if (i < d.r.rounds)
		return true;
	return test_cpus() > 1 && (!one || !other) && test_now() < race_until;
}

static void both_were(u32 one, u32 other)
{
	if (test_cpus() > 1 && (!one || !other))
		FAIL("it was no race: %u and %u", one, other);
}

/*
 * The end comes before its caller sleeps, or wakes it. What is done to a request that is there is
 * nearly always late for the former, so that only of others both are asked for.
 */
static void against_sleep(enum end end)
{
	bool is_blind = end >= REVOKE;
	u32 n_slept = 0, n_awake = 0;

	duel_start(other_call, closes(end) ? 300 : 600);
	for (u32 i = 0; go_on(i, n_slept, n_awake || !is_blind); i++) {
		end_ready(end);
		call_ready(i, 0);
		if (d.to_facet)
			d.c.cmd.send.dest = d.to_facet;
		race_go(&d.r);
		/* Or whether there is a request or not. */
		if (!is_blind || i & 2) {
			while (!end_is_due(end))
				;
			spin(i % 4 ? 0 : i % 64 * 50);
		}
		OK(end_make(end, i));
		race_meet(&d.r);
		EQ(d.r.result, -error_of(end));
		if (!d.r.result)
			got_reply_of(i);
		slept ? n_slept++ : n_awake++;
		end_clean(end, true, i);
	}
	race_end(&d.r);
	both_were(n_slept, n_awake || !is_blind);
}

TEST_TIMEOUT("CALL-2 a reply against its caller that falls asleep", 120)
{
	against_sleep(REPLY);
}

TEST_TIMEOUT("CALL-2 the drop of a request against its caller that falls asleep", 120)
{
	against_sleep(DROP);
}

TEST_TIMEOUT("CALL-2 the drop of a token against its caller that falls asleep", 120)
{
	against_sleep(DROP_TOKEN);
}

TEST_TIMEOUT("CALL-2 a revocation against a caller that falls asleep", 120)
{
	against_sleep(REVOKE);
}

TEST_TIMEOUT("CALL-2 the end of a node against a caller that falls asleep", 120)
{
	against_sleep(DESTROY);
}

TEST_TIMEOUT("CALL-2 the server closes, its request not received, against a caller that falls asleep", 120)
{
	against_sleep(CLOSE);
}

TEST_TIMEOUT("CALL-2 the server closes, its request received, against a caller that falls asleep", 120)
{
	against_sleep(CLOSE_SERVED);
}

/* The deadline is moved to where the end is, from both sides. */
static void against_deadline(enum end end)
{
	u64 span = 2000000;
	u32 n_ended = 0, n_late = 0;

	duel_start(other_call, 600);
	for (u32 i = 0; go_on(i, n_ended, n_late); i++) {
		bool made = false;
		int r = 0;

		end_ready(end);
		call_ready(i, test_now() + span);
		if (d.to_facet)
			d.c.cmd.send.dest = d.to_facet;
		race_go(&d.r);
		while (__atomic_load_n(&d.r.done, __ATOMIC_ACQUIRE) != d.r.round) {
			if (!end_is_due(end))
				continue;
			/* At once, or a little later. */
			spin(i % 16 * 100);
			r = end_make(end, i);
			made = true;
			break;
		}
		race_meet(&d.r);
		if (d.r.result == -ETIMEDOUT) {
			span += span / 64 + 1000;
			/* Also if the request was never seen. */
			n_late += made;
			if (made && end == REPLY)
				ERR(r, ECANCELED);
		} else {
			CHECK(made);
			EQ(d.r.result, -error_of(end));
			OK(r);
			if (!d.r.result)
				got_reply_of(i);
			span -= span / 64;
			n_ended++;
		}
		end_clean(end, made, i);
	}
	race_end(&d.r);
	both_were(n_ended, n_late);
}

TEST_TIMEOUT("CALL-4 the deadline against the reply", 120)
{
	against_deadline(REPLY);
}

TEST_TIMEOUT("CALL-4 the deadline against the drop of the request", 120)
{
	against_deadline(DROP);
}

TEST_TIMEOUT("CALL-4 the deadline against the drop of the token", 120)
{
	against_deadline(DROP_TOKEN);
}

TEST_TIMEOUT("CALL-4 the deadline against a revocation", 120)
{
	against_deadline(REVOKE);
}

TEST_TIMEOUT("CALL-4 the deadline against the end of the node", 120)
{
	against_deadline(DESTROY);
}

TEST_TIMEOUT("CALL-4 the deadline against the close of a server that has not received", 120)
{
	against_deadline(CLOSE);
}

TEST_TIMEOUT("CALL-4 the deadline against the close of a server that has received", 120)
{
	against_deadline(CLOSE_SERVED);
}

/* A caller in a process of its own; what it tells before it ends, if it comes to that. */
struct last_words {
	u32 has_returned;
	int r;
};

static void call_and_tell(struct last_words *words)
{
	test_pin(1);
	peer_close(&d.r.b);
	call_make(&d.c);
	words->r = d.c.r;
	__atomic_store_n(&words->has_returned, 1, __ATOMIC_RELEASE);
	_exit(0);
}

static void against_sigkill(enum end end)
{
	struct last_words *words = mmap(NULL, page_size(), PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	u32 n_ended = 0, n_killed = 0, skew = 1000;

	CHECK(words != MAP_FAILED);
	d.r.rounds = test_rounds(100);
	test_pin(0);
	d.r.a = peer_new(1 << 18);
	server_new();
	for (u32 i = 0; go_on(i, n_ended, n_killed); i++) {
		bool kill_first = i & 2;
		pid_t pid;
		int r;

		end_ready(end);
		call_ready(i, 0);
		if (d.to_facet)
			d.c.cmd.send.dest = d.to_facet;
		memset(words, 0, sizeof(*words));
		pid = test_fork();
		if (!pid)
			call_and_tell(words);
		while (!end_is_due(end))
			sched_yield();
		if (kill_first)
			OK(SYS(kill(pid, SIGKILL)));
		spin(i % 8 * (i % 8) * 10);
		r = end_make(end, i);
		/* The caller has just about the time to return. */
		if (!kill_first) {
			spin(skew);
			OK(SYS(kill(pid, SIGKILL)));
		}
		EQ(waitpid(pid, &(int){0}, 0), pid);
		if (!kill_first && words->has_returned)
			skew -= skew / 8;
		else if (!kill_first)
			skew += skew / 8 + 100;
		if (__atomic_load_n(&words->has_returned, __ATOMIC_ACQUIRE)) {
			EQ(words->r, -error_of(end));
			OK(r);
			n_ended++;
		} else {
			n_killed++;
		}
		CHECK(!r || (end == REPLY && r == -ECANCELED) || (end == DROP && r == -EAGAIN));
		if (end == REPLY)
			ERR(reply_one(d.token, i), ENXIO);
		/* What it was told of and had no time to give back. */
		if (peer_info(&d.r.a).n_slices) {
			EQ(end, REPLY);
			EQ(peer_info(&d.r.a).n_calls, 0);
			OK(release(&d.r.a, d.r.to_b));
			peer_close(&d.r.a);
			d.r.a = peer_new(1 << 18);
			d.r.to_b = grant(&d.r.b, d.r.nb, &d.r.a);
			drain(&d.r.b);
			peer_idle(&d.r.b);
			continue;
		}
		end_clean(end, true, i);
	}
	peer_close(&d.r.a);
	peer_close(&d.r.b);
	both_were(n_ended, n_killed);
}

TEST_TIMEOUT("CALL-4 SIGKILL of the caller against the reply", 120)
{
	against_sigkill(REPLY);
}

TEST_TIMEOUT("CALL-4 SIGKILL of the caller against the drop of the request", 120)
{
	against_sigkill(DROP);
}

TEST_TIMEOUT("CALL-4 SIGKILL of the caller against the drop of the token", 120)
{
	against_sigkill(DROP_TOKEN);
}

TEST_TIMEOUT("CALL-4 SIGKILL of the caller against a revocation", 120)
{
	against_sigkill(REVOKE);
}

TEST_TIMEOUT("CALL-4 SIGKILL of the caller against the close of a server that has not received", 120)
{
	against_sigkill(CLOSE);
}

TEST_TIMEOUT("CALL-4 SIGKILL of the caller against the close of a server that has received", 120)
{
	against_sigkill(CLOSE_SERVED);
}

static void signals(int flags)
{
	struct timespec nap = { .tv_nsec = 1000000 };

	catch_signal(SIGUSR1, flags);
	duel_start(other_call, 3000);
	for (u32 i = 0; i < d.r.rounds; i++) {
		int r;

		call_ready(i, 0);
		race_go(&d.r);
		while (recv_now(&d.r.b, &d.in))
			;
		EQ(d.in.m.type, BUS1_MSG_CALL);
		d.token = d.in.m.token;
		/* Most of them before it sleeps. */
		if (i % 8 == 0)
			nanosleep(&nap, NULL);
		if (i & 2)
			pthread_kill(__atomic_load_n(&caller, __ATOMIC_ACQUIRE), SIGUSR1);
		r = reply_one(d.token, i);
		if (!(i & 2))
			pthread_kill(__atomic_load_n(&caller, __ATOMIC_ACQUIRE), SIGUSR1);
		race_meet(&d.r);
		if (flags & SA_RESTART || !d.r.result) {
			OK(d.r.result);
			OK(r);
			got_reply_of(i);
		} else {
			ERR(d.r.result, EINTR);
			EQ(d.c.cmd.id, 0);
			ERR(r, ECANCELED);
		}
		both_idle();
	}
	race_end(&d.r);
}

TEST_TIMEOUT("CALL-4 a signal against the reply", 120)
{
	signals(0);
}

TEST_TIMEOUT("CALL-4 a signal under SA_RESTART against the reply", 120)
{
	signals(SA_RESTART);
}

TEST_TIMEOUT("CALL-5 a call back against the outer reply", 120)
{
	u64 na, to_a;

	duel_start(other_call, 4000);
	na = node_new(&d.r.a, 9);
	to_a = grant(&d.r.a, na, &d.r.b);
	for (u32 i = 0; i < d.r.rounds; i++) {
		struct bus1_cmd_call back = { .send = { .dest = to_a }, .cookie = i };
		bool first = i & 2;

		call_ready(i, 0);
		d.c.cmd.flags = BUS1_CALL_NESTED;
		race_go(&d.r);
		while (recv_now(&d.r.b, &d.in))
			;
		d.token = d.in.m.token;
		back.parent = d.token;
		/* The call goes out before the thread sleeps, while it falls asleep, or after that. */
		for (volatile u32 k = 0; k < i % 64 * 200; k++)
			;
		OK(call_async_cmd(&d.r.b, &back));
		if (first)
			OK(reply_one(d.token, i));
		race_meet(&d.r);
		OK(d.r.result);
		EQ(d.c.in.m.type, BUS1_MSG_CALL);
		EQ(d.c.in.m.id, na);
		OK(answer_str(&d.r.a, d.c.in.m.token, "back"));
		GOT_REPLY(&d.r.b, back.id, i, "back");
		if (!first)
			OK(reply_one(d.token, i));
		d.c.cmd.recv = recv_into(&d.c.in, 0, 0);
		OK(call_make(&d.c));
		got_reply_of(i);
		both_idle();
	}
	race_end(&d.r);
}

static void other_waits(struct race *r)
{
	r->result = call_make(&d.c);
}

TEST_TIMEOUT("CALL-5 CALL-2 two threads wait for one call by its id, and one gets the result", 120)
{
	u64 na, to_a;

	duel_start(other_waits, 1000);
	na = node_new(&d.r.a, 9);
	to_a = grant(&d.r.a, na, &d.r.b);
	for (u32 i = 0; i < d.r.rounds; i++) {
		struct bus1_cmd_call back = { .send = { .dest = to_a }, .cookie = i };
		struct call outer, mine;
		u64 token;
		int r;

		call_init_str(&outer, &d.r.a, d.r.to_b, "x");
		outer.cmd.flags = BUS1_CALL_NESTED;
		outer.cmd.reply_size = LARGE;
		call_start(&outer);
		token = GOT_CALL(&d.r.b, d.r.nb, "x");
		back.parent = token;
		OK(call_async_cmd(&d.r.b, &back));
		OK(call_join(&outer));
		EQ(outer.in.m.type, BUS1_MSG_CALL);
		OK(answer_str(&d.r.a, outer.in.m.token, "back"));
		GOT_REPLY(&d.r.b, back.id, i, "back");
		/* There is a result, or will be in a moment. */
		if (i & 1)
			OK(answer(&d.r.b, token, d.data, LARGE));
		for (int k = 0; k < 2; k++) {
			struct call *c = k ? &mine : &d.c;

			call_init(c, &d.r.a, 0, NULL, 0);
			c->cmd.id = outer.cmd.id;
			c->cmd.reply_size = LARGE;
			c->cmd.recv.deadline = test_deadline(20);
		}
		race_go(&d.r);
		if (!(i & 1))
			OK(answer(&d.r.b, token, d.data, LARGE));
		r = call_make(&mine);
		race_meet(&d.r);
		ERR(r ?: d.r.result, ENXIO);
		OK(r ? d.r.result : r);
		OK(slice_release(&d.r.a, (r ? &d.c : &mine)->in.m.slice));
		EQ(peer_info(&d.r.a).pool_used, 0);
		EQ(peer_info(&d.r.a).n_calls, 0);
	}
	race_end(&d.r);
}
