// SPDX-License-Identifier: MIT
/*
 * Calls. A child serves a counter; its parent asks it to count, gets an error by
 * name where it asks for nonsense, and goes on with its own work meanwhile where it
 * calls without waiting. When the parent has gone so has the counter's last user.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libbus1.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void try(int r, const char *what)
{
	if (r < 0)
		errno = -r, err(1, "%s", what);
}

/*
 * The child: adds what it is told to, and answers with the sum.
 */

static int on_request(b1_node *node, b1_message *request, void *userdata)
{
	int *sum = userdata, n;
	size_t size;
	const void *data = b1_message_get_data(request, &size);

	if (size != sizeof(n))
		return b1_message_reply_error(request, "org.example.Counter.Error.NoNumber",
					      "I can only add numbers");
	memcpy(&n, data, sizeof(n));
	*sum += n;
	/* This handler is done: the reply may go together with the next receive. */
	return b1_message_reply(request, &(b1_outgoing){ .flags = B1_REPLY_LAST, .data = sum,
							 .size = sizeof(*sum) });
}

/* What a callback returns that is negative ends b1_peer_run(). */
static int on_unused(b1_node *node, void *userdata)
{
	return -ESHUTDOWN;
}

static int server(int client_fd, int id_fd)
{
	B1_CLEANUP(peer) b1_peer *peer = NULL;
	B1_CLEANUP(node) b1_node *node = NULL;
	int sum = 0, r;
	uint64_t id;

	try(b1_peer_new(&peer, B1_POOL_DEFAULT), "peer");
	try(b1_node_new(peer, &node, on_request, &sum), "node");
	try(b1_node_set_unused(node, on_unused), "node");
	try(b1_handle_transfer_fd(b1_node_get_handle(node), client_fd, &id), "transfer");
	close(client_fd);
	if (write(id_fd, &id, sizeof(id)) != sizeof(id))
		err(1, "pipe");
	r = b1_peer_run(peer, UINT64_MAX);
	if (r != -ESHUTDOWN)
		try(r, "run");
	return 0;
}

/*
 * The parent
 */

static int number(b1_message *reply)
{
	size_t size;
	const void *data = b1_message_get_data(reply, &size);
	int n;

	if (size != sizeof(n))
		errx(1, "a strange reply");
	memcpy(&n, data, sizeof(n));
	return n;
}

static int on_reply(b1_message *reply, int error, void *userdata)
{
	try(error, "call");
	printf("later, the sum is %d\n", number(reply));
	*(int *)userdata = 1;
	return 0;
}

static void client(b1_peer *peer, b1_handle *counter)
{
	B1_CLEANUP(message) b1_message *sum = NULL, *error = NULL;
	int n = 40, done = 0;

	try(b1_call(counter, &(b1_outgoing){ .data = &n, .size = sizeof(n) }, NULL, &sum), "call");
	printf("the sum is %d\n", number(sum));

	if (b1_call(counter, &(b1_outgoing){ .data = "x", .size = 1 }, NULL, &error) == -EREMOTEIO)
		printf("%s: %s\n", b1_message_get_error_name(error), b1_message_get_error_text(error));

	n = 2;
	try(b1_call_async(counter, &(b1_outgoing){ .data = &n, .size = sizeof(n) }, NULL, NULL,
			  on_reply, &done), "call");
	printf("I need not wait\n");
	while (!done) {
		try(b1_peer_wait(peer, UINT64_MAX), "wait");
		try(b1_peer_process(peer), "process");
	}
}

int main(void)
{
	B1_CLEANUP(peer) b1_peer *peer = NULL;
	B1_CLEANUP(handle) b1_handle *counter = NULL;
	int fd, ids[2];
	uint64_t id;

	/* The parent's end of bus1: the child puts a handle in it. */
	fd = open(B1_DEVICE, O_RDWR | O_CLOEXEC);
	try(fd < 0 ? -errno : 0, B1_DEVICE);
	try(pipe(ids) < 0 ? -errno : 0, "pipe");
	if (fork() == 0)
		_exit(server(fd, ids[1]));
	if (read(ids[0], &id, sizeof(id)) != sizeof(id))
		errx(1, "the server did not start");
	try(b1_peer_new_from_fd(&peer, fd, B1_POOL_DEFAULT), "peer");
	try(b1_handle_from_id(peer, &counter, id), "handle");
	client(peer, counter);
	counter = b1_handle_unref(counter);
	wait(NULL);
	printf("the counter has ended, as nobody has it any more\n");
	return 0;
}
