// SPDX-License-Identifier: MIT
/*
 * Hello, capability. A parent has an object and gives its child a handle to it.
 * To hold it is all that it takes to talk to the object, and the parent is told
 * when nobody holds one any more.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libbus1.h>
#include <stdio.h>
#include <unistd.h>

static void try(int r, const char *what)
{
	if (r < 0)
		errno = -r, err(1, "%s", what);
}

static int on_message(b1_node *node, b1_message *message, void *userdata)
{
	size_t size;
	const char *text = b1_message_get_data(message, &size);

	printf("parent: got \"%.*s\"\n", (int)size, text);
	return 0;
}

static int on_unused(b1_node *node, void *done)
{
	printf("parent: nobody holds my object any more\n");
	*(int *)done = 1;
	return 0;
}

static void child(int fd, uint64_t id)
{
	B1_CLEANUP(peer) b1_peer *peer = NULL;
	B1_CLEANUP(handle) b1_handle *handle = NULL;

	try(b1_peer_new_from_fd(&peer, fd, B1_POOL_DEFAULT), "peer");
	try(b1_handle_from_id(peer, &handle, id), "handle");
	try(b1_send_bytes(handle, "hello", 5, NULL), "send");
}

int main(void)
{
	B1_CLEANUP(peer) b1_peer *peer = NULL;
	B1_CLEANUP(node) b1_node *node = NULL;
	int done = 0, fd;
	uint64_t id;

	try(b1_peer_new(&peer, B1_POOL_DEFAULT), "peer");
	try(b1_node_new(peer, &node, on_message, &done), "node");
	try(b1_node_set_unused(node, on_unused), "node");

	/* The child's end of bus1, with a handle in it. */
	fd = open(B1_DEVICE, O_RDWR | O_CLOEXEC);
	try(fd < 0 ? -errno : 0, B1_DEVICE);
	try(b1_handle_transfer_fd(b1_node_get_handle(node), fd, &id), "transfer");
	if (fork() == 0) {
		child(fd, id);
		_exit(0);
	}
	close(fd);

	while (!done) {
		try(b1_peer_wait(peer, UINT64_MAX), "wait");
		try(b1_peer_process(peer), "process");
	}
	return 0;
}
