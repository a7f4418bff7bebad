// SPDX-License-Identifier: MIT
#include "shelf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VARIABLE "SHELF_PEER" /* DESCRIPTOR:ID */

int shelf_spawn(b1_handle *first, char **argv)
{
	char value[64];
	uint64_t id;
	int fd, r;

	fd = open(B1_DEVICE, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = b1_handle_transfer_fd(first, fd, &id);
	if (r >= 0) {
		snprintf(value, sizeof(value), "%d:%" PRIu64, fd, id);
		r = fork();
		if (r < 0)
			r = -errno;
	}
	if (r == 0) {
		/* All else that is open is close-on-exec. */
		fcntl(fd, F_SETFD, 0);
		setenv(VARIABLE, value, 1);
		execvp(argv[0], argv);
		perror(argv[0]);
		_exit(127);
	}
	close(fd);
	return r < 0 ? r : 0;
}

int shelf_inherit(b1_peer **peerp, b1_handle **firstp)
{
	const char *value = getenv(VARIABLE);
	uint64_t id;
	int fd, r;

	if (!value || sscanf(value, "%d:%" SCNu64, &fd, &id) != 2)
		return -EINVAL;
	unsetenv(VARIABLE);
	r = b1_peer_new_from_fd(peerp, fd, B1_POOL_DEFAULT);
	if (r < 0)
		return r;
	r = b1_handle_from_id(*peerp, firstp, id);
	if (r < 0)
		*peerp = b1_peer_unref(*peerp);
	return r;
}

int shelf_turn(b1_peer *peer)
{
	int r;

	r = b1_peer_wait(peer, UINT64_MAX);
	return r < 0 ? r : b1_peer_process(peer);
}

struct question {
	b1_message *reply;
	int dead;
};

static int on_reply(b1_node *node, b1_message *message, void *userdata)
{
	struct question *q = userdata;

	b1_message_unref(q->reply);
	q->reply = b1_message_ref(message);
	return 0;
}

static int on_dead(b1_handle *handle, void *userdata)
{
	struct question *q = userdata;

	q->dead = 1;
	return 0;
}

/* The reply has a node of its own: what arrives there is the reply, and nothing else can be. */
int shelf_ask(b1_peer *peer, b1_handle *to, const char *request, b1_message **replyp)
{
	struct question q = { 0 };
	B1_CLEANUP(node) b1_node *node = NULL;
	B1_CLEANUP_WATCH b1_watch *watch = NULL;
	int r;

	r = b1_node_new(peer, &node, on_reply, &q);
	if (r >= 0)
		r = b1_handle_watch(to, &watch, on_dead, &q);
	if (r >= 0)
		r = b1_send_bytes(to, request, strlen(request), b1_node_get_handle(node));
	while (r >= 0 && !q.reply && !q.dead)
		r = shelf_turn(peer);
	if (!q.reply)
		return r < 0 ? r : -EHOSTUNREACH;
	*replyp = q.reply;
	return 0;
}

const char *shelf_who;

void shelf_say(const char *format, ...)
{
	char line[512];
	va_list ap;
	size_t n;

	/* One write, so that lines of several processes do not mix. */
	n = (size_t)snprintf(line, sizeof(line), "%s: ", shelf_who);
	va_start(ap, format);
	vsnprintf(line + n, sizeof(line) - n - 1, format, ap);
	va_end(ap);
	n = strlen(line);
	line[n++] = '\n';
	if (write(STDOUT_FILENO, line, n) < 0)
		exit(1);
}

void shelf_try(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "%s: %s: %s\n", shelf_who, what, strerror(-r));
	exit(1);
}
