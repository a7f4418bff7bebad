// SPDX-License-Identifier: MIT
/*
 * A capability for a program that is to have nothing else. The parent makes a
 * facet of its object for the child: by that it knows whom a message comes
 * from, and can take back what it gave. The child inherits a file descriptor
 * of the facet, with the right to send to it and no other.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libbus1.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void try(int r, const char *what)
{
	if (r < 0)
		errno = -r, err(1, "%s", what);
}

static int on_message(b1_node *node, b1_message *message, void *userdata)
{
	b1_node **facet = userdata;
	size_t size;
	const char *text = b1_message_get_data(message, &size);

	printf("parent: client %d says: %.*s\n", (int)b1_message_get_badge(message), (int)size, text);
	printf("parent: that is enough\n");
	fflush(stdout);
	/* With its last reference it is revoked. The object itself stays. */
	*facet = b1_node_unref(*facet);
	return 0;
}

/* The child has left without a word, and nobody has what it had. */
static int on_unused(b1_node *facet, void *userdata)
{
	errx(1, "nobody has my object");
}

static int on_dead(b1_handle *handle, void *userdata)
{
	*(int *)userdata = 1;
	return 0;
}

/* All that it has is a descriptor, and from here on it can open no file. */
static int child(int fd)
{
	B1_CLEANUP(peer) b1_peer *peer = NULL;
	B1_CLEANUP(handle) b1_handle *handle = NULL;
	int dead = 0;

	try(b1_peer_new(&peer, B1_POOL_DEFAULT), "peer");
	try(b1_handle_import(peer, &handle, fd), "import");
	try(b1_handle_watch(handle, NULL, on_dead, &dead), "watch");
	close(fd);
	if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 0, 0 }) < 0)
		err(1, "setrlimit");

	if (b1_send_bytes(handle, NULL, 0, handle) == -EPERM)
		printf("child: I can not pass it on\n");
	fflush(stdout);
	try(b1_send_bytes(handle, "hello", 5, NULL), "send");
	while (!dead) {
		try(b1_peer_wait(peer, UINT64_MAX), "wait");
		try(b1_peer_process(peer), "process");
	}
	if (b1_send_bytes(handle, "hello?", 6, NULL) == -EHOSTUNREACH)
		printf("child: it was taken from me\n");
	return 0;
}

int main(int argc, char **argv)
{
	B1_CLEANUP(peer) b1_peer *peer = NULL;
	B1_CLEANUP(node) b1_node *node = NULL, *facet = NULL;
	int fd, status;
	char arg[16];
	pid_t pid;

	if (argc > 1)
		return child(atoi(argv[1]));

	try(b1_peer_new(&peer, B1_POOL_DEFAULT), "peer");
	try(b1_node_new(peer, &node, on_message, &facet), "node");
	try(b1_node_new_facet(node, &facet, 1, 0, NULL), "facet");
	try(b1_node_set_unused(facet, on_unused), "facet");
	try(b1_handle_export(b1_node_get_handle(facet), &fd, B1_RIGHT_TRANSFER), "export");

	pid = fork();
	if (pid == 0) {
		fcntl(fd, F_SETFD, 0);
		snprintf(arg, sizeof(arg), "%d", fd);
		execl("/proc/self/exe", argv[0], arg, NULL);
		err(1, "exec");
	}
	close(fd);
	while (facet) {
		try(b1_peer_wait(peer, UINT64_MAX), "wait");
		try(b1_peer_process(peer), "process");
	}
	if (waitpid(pid, &status, 0) != pid || status)
		errx(1, "the child failed");
	return 0;
}
