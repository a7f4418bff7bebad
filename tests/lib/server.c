// SPDX-License-Identifier: GPL-2.0-or-later
#include "server.h"

static int echo(b1_message *message, uint64_t flags)
{
	b1_handle *handles[4];
	b1_outgoing out = { .flags = flags, .handles = handles };
	size_t i;

	out.data = b1_message_get_data(message, &out.size);
	out.n_handles = b1_message_get_n_handles(message);
	for (i = 0; i < out.n_handles; i++)
		handles[i] = b1_message_get_handle(message, i);
	return b1_message_reply(message, &out);
}

int server_handler(b1_node *node, b1_message *message, void *userdata)
{
	static char filling[LARGE];
	struct server *s = userdata;
	const char *data;
	size_t size;

	if (!b1_message_is_call(message)) {
		s->n_plain++;
		ERR(b1_message_reply_bytes(message, "x", 1), EINVAL);
		ERR(b1_message_drop(message), EINVAL);
		EQ(b1_message_get_chain(message), 0);
		return 0;
	}
	s->chain = b1_message_get_chain(message);
	s->n++;
	data = b1_message_get_data(message, &size);
	GT(size, 0);
	switch (data[0]) {
	case ECHO:
		OK(echo(message, 0));
		break;
	case ECHO_LAST:
		OK(echo(message, B1_REPLY_LAST));
		break;
	case FILL:
		pattern(filling, sizeof(filling), 7);
		OK(b1_message_reply_bytes(message, filling, sizeof(filling)));
		break;
	case FAIL_:
		OK(b1_message_reply_error(message, data + 1, "it is so"));
		break;
	case NOTHING:
		break;
	case DROP:
		OK(b1_message_drop(message));
		ERR(b1_message_drop(message), EALREADY);
		break;
	case KEEP:
		CHECK(!atomic_load(&s->kept));
		atomic_store(&s->kept, b1_message_ref(message));
		break;
	case TWICE:
		ERR(b1_message_reply(message, &(b1_outgoing){ .deadline = 1 }), EINVAL);
		ERR(b1_message_reply(message, &(b1_outgoing){ .priority = 1 }), EINVAL);
		ERR(b1_message_reply(message, &(b1_outgoing){ .flags = B1_SEND_ORDERED }), EINVAL);
		OK(b1_message_reply_bytes(message, "1", 1));
		ERR(b1_message_reply_bytes(message, "2", 1), EALREADY);
		ERR(b1_message_reply_error(message, "x", NULL), EALREADY);
		ERR(b1_message_drop(message), EALREADY);
		CHECK(b1_message_is_call(message));
		break;
	case STOP:
		OK(b1_message_reply_bytes(message, "", 0));
		return -ESHUTDOWN;
	default:
		FAIL("what is %d?", data[0]);
	}
	return 0;
}

void server_run(void *arg)
{
	struct server *s = arg;

	ERR(b1_peer_run(s->peer, UINT64_MAX), ESHUTDOWN);
}

void server_init(struct server *s)
{
	*s = (struct server){ 0 };
	s->peer = new_peer();
	s->client = new_peer();
	OK(b1_node_new(s->peer, &s->node, server_handler, s));
	OK(b1_handle_transfer(b1_node_get_handle(s->node), s->client, &s->to));
	test_start(&s->thread, server_run, s);
}

bool is_done(const struct test_thread *thread)
{
	return __atomic_load_n(&thread->done, __ATOMIC_ACQUIRE);
}

void wait_queued(b1_peer *peer, unsigned int n)
{
	uint64_t end = test_deadline(30);

	while (info(peer).n_queued < n) {
		LE(test_now(), end);
		test_sleep_ms(1);
	}
}

int64_t server_call(struct server *s, char what, const b1_call_options *options, b1_message **replyp)
{
	return b1_call(s->to, &(b1_outgoing){ .data = &what, .size = 1 }, options, replyp);
}

void server_stop(struct server *s)
{
	OK(server_call(s, STOP, NULL, NULL));
	test_join(&s->thread);
}

void server_deinit(struct server *s)
{
	b1_handle_unref(s->to);
	drain(s->client);
	EQ(info(s->client).n_calls, 0);
	HAS(s->client, 0, 0, 0);
	b1_peer_unref(s->client);
	drain(s->peer);
	EQ(info(s->peer).n_calls, 0);
	HAS(s->peer, 1, 0, 0);
	b1_node_unref(s->node);
	b1_peer_unref(s->peer);
}

b1_message *server_kept(struct server *s)
{
	uint64_t end = test_deadline(30);
	b1_message *m;

	while (!(m = atomic_exchange(&s->kept, NULL))) {
		LE(test_now(), end);
		test_sleep_ms(1);
	}
	return m;
}
