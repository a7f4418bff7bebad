// SPDX-License-Identifier: GPL-2.0-or-later
#include "call.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define FAILED(...) test_fail(file, line, __VA_ARGS__)

void call_init(struct call *c, const struct peer *p, u64 dest, const void *data, size_t len)
{
	c->p = p;
	c->thread.done = false;
	c->cmd = (struct bus1_cmd_call){
		.send = { .dest = dest, .data = len ? PTR(data) : 0, .len = len },
		.recv = recv_into(&c->in, 0, 0),
	};
}

void call_init_str(struct call *c, const struct peer *p, u64 dest, const char *text)
{
	call_init(c, p, dest, text, strlen(text));
}

int call_make(struct call *c)
{
	c->r = raw(c->p, BUS1_CMD_CALL, &c->cmd);
	if (!c->r)
		recv_found(c->p, &c->in, &c->cmd.recv);
	return c->r;
}

static void call_run(void *arg)
{
	call_make(arg);
}

void call_go(struct call *c)
{
	test_start(&c->thread, call_run, c);
}

void call_start(struct call *c)
{
	call_go(c);
	test_asleep(getpid(), c->thread.tid);
}

void call_start_str(struct call *c, const struct peer *p, u64 dest, const char *text)
{
	call_init_str(c, p, dest, text);
	call_start(c);
}

int call_join(struct call *c)
{
	test_join(&c->thread);
	return c->r;
}

bool call_is_done(const struct call *c)
{
	return __atomic_load_n(&c->thread.done, __ATOMIC_ACQUIRE);
}

static void check_text(const char *file, int line, const struct peer *p, const struct in *in,
		       const char *text)
{
	size_t n = strlen(text);

	if (in->m.len != n || memcmp(in->data, text, n))
		FAILED("\"%s\" expected, got \"%.*s\"", text, (int)in->m.len,
		       (const char *)in->data);
	if (in->m.slice && slice_release(p, in->m.slice))
		FAILED("the slice of \"%s\" can not be given back", text);
}

void call_replied(const char *file, int line, struct call *c, const char *text)
{
	const struct bus1_msg *m = &c->in.m;

	if (c->r)
		FAILED("a reply expected, the call failed: %s", strerrorname_np(-c->r));
	if (m->type != BUS1_MSG_REPLY)
		FAILED("a reply expected, got %s", type_name(m->type));
	if (m->error || m->flags || m->cookie != c->cmd.cookie)
		FAILED("a reply with error %d, flags %#x, cookie %#llx", m->error, m->flags,
		       (unsigned long long)m->cookie);
	check_text(file, line, c->p, &c->in, text);
}

int call_async_cmd(const struct peer *p, struct bus1_cmd_call *cmd)
{
	cmd->flags |= BUS1_CALL_ASYNC;
	return raw(p, BUS1_CMD_CALL, cmd);
}

u64 call_async(const struct peer *p, u64 dest, const char *text, u64 cookie)
{
	struct bus1_cmd_call cmd = {
		.send = { .dest = dest, .data = text[0] ? PTR(text) : 0, .len = strlen(text) },
		.cookie = cookie,
	};

	OK(call_async_cmd(p, &cmd));
	NE(cmd.id, 0);
	return cmd.id;
}

int call_cancel(const struct peer *p, u64 id)
{
	return ids_cmd(p, BUS1_CMD_CALL_CANCEL, 0, &id, 1);
}

void got_reply(const char *file, int line, const struct peer *p, u64 id, u64 cookie, int err,
	       const char *text)
{
	struct in in;
	int r = recv_now(p, &in);

	if (r)
		FAILED("the reply to %#llx expected, receiving failed: %s",
		       (unsigned long long)id, strerrorname_np(-r));
	if (in.m.type != BUS1_MSG_REPLY || in.m.id != id || in.m.cookie != cookie)
		FAILED("the reply to %#llx (%#llx) expected, got %s of %#llx (%#llx)",
		       (unsigned long long)id, (unsigned long long)cookie, type_name(in.m.type),
		       (unsigned long long)in.m.id, (unsigned long long)in.m.cookie);
	if (in.m.error != err || in.m.flags)
		FAILED("a reply with error %s expected, got %s, flags %#x",
		       err ? strerrorname_np(err) : "0",
		       in.m.error ? strerrorname_np(in.m.error) : "0", in.m.flags);
	if (err && (in.m.len || in.m.slice || in.m.n_handles || in.m.n_fds))
		FAILED("an end without a reply that brings something");
	check_text(file, line, p, &in, text);
}

u64 got_call(const char *file, int line, const struct peer *p, u64 node, const char *text,
	     struct in *in)
{
	struct in own;
	int r;

	in = in ?: &own;
	r = recv_now(p, in);
	if (r)
		FAILED("the request \"%s\" expected, receiving failed: %s", text,
		       strerrorname_np(-r));
	if (in->m.type != BUS1_MSG_CALL || in->m.id != node)
		FAILED("a request to %#llx expected, got %s of %#llx", (unsigned long long)node,
		       type_name(in->m.type), (unsigned long long)in->m.id);
	if (!in->m.token || !in->m.chain)
		FAILED("a request with token %llu, chain %llu", (unsigned long long)in->m.token,
		       (unsigned long long)in->m.chain);
	check_text(file, line, p, in, text);
	return in->m.token;
}

u64 await_call(const struct peer *p, struct in *in)
{
	OK(recv_wait(p, in));
	EQ(in->m.type, BUS1_MSG_CALL);
	NE(in->m.token, 0);
	return in->m.token;
}

int reply_cmd(const struct peer *p, struct bus1_cmd_reply *cmd)
{
	return raw(p, BUS1_CMD_REPLY, cmd);
}

int answer(const struct peer *p, u64 token, const void *data, size_t len)
{
	struct bus1_cmd_reply cmd = {
		.send = { .dest = token, .data = len ? PTR(data) : 0, .len = len },
	};

	return reply_cmd(p, &cmd);
}

int answer_str(const struct peer *p, u64 token, const char *text)
{
	return answer(p, token, text, strlen(text));
}

int answer_drop(const struct peer *p, u64 token)
{
	struct bus1_cmd_reply cmd = { .send = { .dest = token }, .flags = BUS1_REPLY_DROP };

	return reply_cmd(p, &cmd);
}

static void answer_once(void *arg)
{
	struct answerer *t = arg;

	t->r = answer(t->p, t->token, t->data, t->len);
}

void answerer_start(struct answerer *t, const struct peer *p, u64 token, const void *data,
		    size_t len)
{
	*t = (struct answerer){ .p = p, .token = token, .data = data, .len = len };
	test_start(&t->thread, answer_once, t);
}

int answer_next(const struct peer *p, u64 token, const void *data, size_t len, u64 flags,
		struct in *in)
{
	struct bus1_cmd_reply cmd = {
		.send = { .dest = token, .data = len ? PTR(data) : 0, .len = len },
		.recv = recv_into(in, flags,
				  flags & BUS1_RECV_NONBLOCK ? 0 : test_deadline(40)),
	};
	int r = reply_cmd(p, &cmd);

	if (!r)
		recv_found(p, in, &cmd.recv);
	return r;
}

int lease(const struct peer *p, u64 token, u64 flags, u32 index, u64 offset, void *data,
	  u64 len)
{
	struct bus1_cmd_lease cmd = {
		.flags = flags, .token = token, .offset = offset, .data = PTR(data), .len = len,
		.index = index,
	};

	return raw(p, BUS1_CMD_LEASE, &cmd);
}

static void serve(void *arg)
{
	struct server *s = arg;
	struct rusage usage;
	struct in in;

	OK(recv_wait(s->p, &in));
	while (in.m.type == BUS1_MSG_CALL) {
		u8 data[sizeof(in.buf)];
		u64 slice = in.m.slice, len = in.m.len;
		struct bus1_cmd_reply cmd = {
			.send = { .dest = in.m.token, .data = len ? PTR(data) : 0, .len = len },
			.recv = recv_into(&in, 0, test_deadline(40)),
		};
		int r;

		LE(len, sizeof(data));
		memcpy(data, in.data, len);
		cmd.recv.release = slice ? PTR(&slice) : 0;
		cmd.recv.n_release = !!slice;
		__atomic_add_fetch(&s->served, 1, __ATOMIC_RELAXED);
		r = reply_cmd(s->p, &cmd);
		/* Who has asked may have left. */
		if (r == -ECANCELED) {
			EQ(cmd.recv.n_release, 0);
			r = recv_wait(s->p, &in);
			OK(r);
			continue;
		}
		OK(r);
		recv_found(s->p, &in, &cmd.recv);
		while (in.m.type == BUS1_MSG_CANCELLED)
			OK(recv_wait(s->p, &in));
	}
	EQ(in.m.type, BUS1_MSG_DATA);
	OK(SYS(getrusage(RUSAGE_THREAD, &usage)));
	s->slept = usage.ru_nvcsw;
}

void server_start(struct server *s, const struct peer *p, u64 node)
{
	*s = (struct server){ .p = p, .node = node };
	test_start(&s->thread, serve, s);
	test_asleep(getpid(), s->thread.tid);
}

void server_stop(struct server *s, u32 n)
{
	for (u32 i = 0; i < n; i++)
		OK(send_data(s[i].p, s[i].node, NULL, 0));
	for (u32 i = 0; i < n; i++)
		test_join(&s[i].thread);
}

struct pair pair_new(void)
{
	return pair_of(1 << 20, 1 << 20);
}

void peer_idle(const struct peer *p)
{
	struct bus1_cmd_info info = peer_info(p);

	EQ(info.n_calls, 0);
	EQ(info.n_slices, 0);
	EQ(info.pool_used, 0);
	NOTHING(p);
}

void pair_idle(const struct pair *w)
{
	peer_idle(&w->a);
	peer_idle(&w->b);
}

void pair_close(struct pair *w)
{
	pair_idle(w);
	peer_close(&w->a);
	peer_close(&w->b);
}

static void nothing(int sig)
{
}

void catch_signal(int sig, int flags)
{
	struct sigaction sa = { .sa_handler = nothing, .sa_flags = flags };

	OK(SYS(sigaction(sig, &sa, NULL)));
}

static int in_handler, leave_handler;

static void linger(int sig)
{
	__atomic_store_n(&in_handler, 1, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&leave_handler, __ATOMIC_ACQUIRE))
		sched_yield();
}

void linger_start(pthread_t thread)
{
	struct sigaction sa = { .sa_handler = linger, .sa_flags = SA_RESTART };

	OK(SYS(sigaction(SIGUSR1, &sa, NULL)));
	in_handler = leave_handler = 0;
	EQ(pthread_kill(thread, SIGUSR1), 0);
	while (!__atomic_load_n(&in_handler, __ATOMIC_ACQUIRE))
		sched_yield();
}

void linger_end(void)
{
	__atomic_store_n(&leave_handler, 1, __ATOMIC_RELEASE);
}

long times_slept(pid_t tid)
{
	char path[64], line[200];
	long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", (int)tid);
	f = fopen(path, "re");
	CHECK(f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "voluntary_ctxt_switches: %ld", &n);
	fclose(f);
	GE(n, 0);
	return n;
}
