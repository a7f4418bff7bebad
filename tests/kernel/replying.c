// SPDX-License-Identifier: GPL-2.0-or-later
/* CALL-2, CALL-4: signals to either side, and the death of either, while a reply is being made. */
#include "call.h"
#include "tar.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LARGE = 10000 };

/* A small reply, and a large one: what they are of has 8 bytes that are there. */
static size_t reply_len(int large)
{
	return large ? LARGE : 16;
}

TEST("CALL-4 a signal while the reply is on its way")
{
	struct pair w = pair_new();

	catch_signal(SIGUSR1, 0);
	for (int large = 0; large < 2; large++) {
		struct tar t = tar_new();
		struct answerer s;
		struct call c;

		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.reply_size = large ? LARGE : 0;
		call_start(&c);
		answerer_start(&s, &w.b, GOT_CALL(&w.b, w.nb, "x"), tar_edge(&t, 8),
			       reply_len(large));
		tar_wait(&t);
		/* It does not wait for who may never be done. */
		EQ(pthread_kill(c.thread.thread, SIGUSR1), 0);
		ERR(call_join(&c), EINTR);
		tar_melt(&t);
		test_join(&s.thread);
		ERR(s.r, ECANCELED);
		pair_idle(&w);
	}
	pair_close(&w);
}

TEST("CALL-2 a signal under SA_RESTART while the reply is on its way, which arrives")
{
	struct pair w = pair_new();

	catch_signal(SIGUSR1, SA_RESTART);
	for (int how = 0; how < 4; how++) {
		bool large = how & 1, in_handler = how & 2;
		struct tar t = tar_new();
		struct answerer s;
		struct call c;

		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.reply_size = large ? LARGE : 0;
		call_start(&c);
		answerer_start(&s, &w.b, GOT_CALL(&w.b, w.nb, "x"), tar_edge(&t, 8),
			       reply_len(large));
		tar_wait(&t);
		if (in_handler) {
			linger_start(c.thread.thread);
		} else {
			for (int i = 0; i < 3; i++) {
				EQ(pthread_kill(c.thread.thread, SIGUSR1), 0);
				test_sleep_ms(5);
				test_asleep(getpid(), c.thread.tid);
			}
		}
		CHECK(!call_is_done(&c));
		tar_melt(&t);
		test_join(&s.thread);
		OK(s.r);
		if (in_handler)
			linger_end();
		OK(call_join(&c));
		EQ(c.in.m.type, BUS1_MSG_REPLY);
		EQ(c.in.m.len, reply_len(large));
		if (c.in.m.slice)
			OK(slice_release(&w.a, c.in.m.slice));
		pair_idle(&w);
	}
	pair_close(&w);
}

TEST("CALL-4 the caller is killed while the reply is on its way, and does not wait for it")
{
	struct pair w = pair_new();

	for (int large = 0; large < 2; large++) {
		struct answerer s;
		pid_t pid = test_fork();
		struct tar t;
		u64 token;

		if (!pid) {
			struct call c;

			call_init_str(&c, &w.a, w.to_b, "x");
			c.cmd.reply_size = large ? LARGE : 0;
			call_make(&c);
			FAIL("the call has returned");
		}
		test_asleep(pid, pid);
		token = GOT_CALL(&w.b, w.nb, "x");
		t = tar_new();
		answerer_start(&s, &w.b, token, tar_edge(&t, 8), reply_len(large));
		tar_wait(&t);
		/* It is gone while the server is still at it. */
		test_kill(pid);
		CHECK(!__atomic_load_n(&s.thread.done, __ATOMIC_ACQUIRE));
		EQ(peer_info(&w.a).n_slices, large);
		tar_melt(&t);
		test_join(&s.thread);
		ERR(s.r, ECANCELED);
		ERR(answer_str(&w.b, token, "again"), ENXIO);
		pair_idle(&w);
	}
	pair_close(&w);
}

/* Stalls in memory that does not come, and tells before that it is about to. */
static pid_t reply_in_child(const struct pair *w, u64 token, size_t len)
{
	u32 *about_to = mmap(NULL, page_size(), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	CHECK(about_to != MAP_FAILED);
	pid = test_fork();
	if (!pid) {
		struct tar t = tar_new();

		__atomic_store_n(about_to, 1, __ATOMIC_RELEASE);
		answer(&w->b, token, tar_edge(&t, 8), len);
		FAIL("the reply has returned");
	}
	while (!__atomic_load_n(about_to, __ATOMIC_ACQUIRE)) {
		if (waitpid(pid, &(int){0}, WNOHANG) == pid)
			SKIP("userfaultfd");
		test_sleep_ms(1);
	}
	test_asleep(pid, pid);
	OK(SYS(munmap(about_to, page_size())));
	return pid;
}

TEST("CALL-2 the server is killed while it replies: another answers, or the call ends with its peer")
{
	for (int how = 0; how < 4; how++) {
		bool large = how & 1, others = how & 2;
		struct pair w = pair_new();
		struct call c;
		pid_t pid;
		u64 token;

		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.reply_size = large ? LARGE : 0;
		call_start(&c);
		token = GOT_CALL(&w.b, w.nb, "x");
		pid = reply_in_child(&w, token, reply_len(large));
		ERR(answer_str(&w.b, token, "too"), EBUSY);
		CHECK(!call_is_done(&c));
		if (!others)
			peer_close(&w.b);
		test_kill(pid);
		if (!others) {
			ERR(call_join(&c), ECONNRESET);
			GOT_DEAD(&w.a, w.to_b);
			peer_idle(&w.a);
			peer_close(&w.a);
			continue;
		}
		/* The token is as good as before. */
		CHECK(!call_is_done(&c));
		OK(answer_str(&w.b, token, "by another"));
		call_join(&c);
		REPLIED(&c, "by another");
		pair_close(&w);
	}
}

TEST("CALL-2 a signal to the server while it replies does not end that")
{
	struct pair w = pair_new();

	for (int how = 0; how < 4; how++) {
		bool large = how & 1;
		struct tar t = tar_new();
		struct answerer s;
		struct call c;
		u64 token;

		catch_signal(SIGUSR1, how & 2 ? SA_RESTART : 0);
		call_init_str(&c, &w.a, w.to_b, "x");
		c.cmd.reply_size = large ? LARGE : 0;
		call_start(&c);
		token = GOT_CALL(&w.b, w.nb, "x");
		answerer_start(&s, &w.b, token, tar_edge(&t, 8), reply_len(large));
		tar_wait(&t);
		EQ(pthread_kill(s.thread.thread, SIGUSR1), 0);
		ERR(answer_str(&w.b, token, "too"), EBUSY);
		CHECK(!call_is_done(&c));
		tar_melt(&t);
		test_join(&s.thread);
		OK(s.r);
		OK(call_join(&c));
		EQ(c.in.m.len, reply_len(large));
		if (c.in.m.slice)
			OK(slice_release(&w.a, c.in.m.slice));
		pair_idle(&w);
	}
	pair_close(&w);
}
