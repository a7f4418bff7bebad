// SPDX-License-Identifier: MIT
/*
 * A producer that is faster than its consumer. The kernel lets it have so much on
 * the way and no more: then sending fails with -EAGAIN, and a watch tells when it
 * is worth to go on. So neither side blocks, spins or keeps a queue of its own.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libbus1.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define N_BLOCKS 500
#define POOL	 (1 << 20)

struct block {
	unsigned int number;
	char bytes[65532];
};

static void try(int r, const char *what)
{
	if (r < 0)
		errno = -r, err(1, "%s", what);
}

/*
 * The child
 */

static struct block next;
static int n_waits;

/* Sends what it can. Called at first, and whenever there is room again. */
static int produce(b1_handle *to, void *userdata)
{
	int r;

	for (; next.number < N_BLOCKS; next.number++) {
		r = b1_send_bytes(to, &next, sizeof(next), NULL);
		if (r < 0) {
			n_waits += r == -EAGAIN;
			return r == -EAGAIN ? 0 : r;
		}
	}
	return 0;
}

static void producer(int fd, uint64_t id)
{
	B1_CLEANUP(peer) b1_peer *peer = NULL;
	B1_CLEANUP(handle) b1_handle *to = NULL;

	try(b1_peer_new_from_fd(&peer, fd, B1_POOL_DEFAULT), "peer");
	try(b1_handle_from_id(peer, &to, id), "handle");
	try(b1_handle_watch_writable(to, NULL, produce, NULL), "watch");
	try(produce(to, NULL), "send");
	while (next.number < N_BLOCKS) {
		try(b1_peer_wait(peer, UINT64_MAX), "wait");
		try(b1_peer_process(peer), "process");
	}
	printf("producer: %u blocks sent; %s\n", next.number,
	       n_waits ? "I was told to go on when there was room" : "there was always room");
	fflush(stdout);
}

/*
 * The parent
 */

static int consume(b1_node *node, b1_message *message, void *userdata)
{
	unsigned int number, *n_blocks = userdata;

	memcpy(&number, b1_message_get_data(message, NULL), sizeof(number));
	if (number != *n_blocks)
		errx(1, "block %u came in place of %u", number, *n_blocks);
	++*n_blocks;
	usleep(100);
	return 0;
}

static int n_gone;

static int on_unused(b1_node *node, void *userdata)
{
	n_gone++;
	return 0;
}

int main(void)
{
	B1_CLEANUP(peer) b1_peer *peer = NULL;
	B1_CLEANUP(node) b1_node *node = NULL;
	unsigned int n_blocks = 0;
	uint64_t id;
	int fd;

	try(b1_peer_new(&peer, POOL), "peer");
	try(b1_node_new(peer, &node, consume, &n_blocks), "node");
	try(b1_node_set_unused(node, on_unused), "node");
	fd = open(B1_DEVICE, O_RDWR | O_CLOEXEC);
	try(fd < 0 ? -errno : 0, B1_DEVICE);
	try(b1_handle_transfer_fd(b1_node_get_handle(node), fd, &id), "transfer");
	if (fork() == 0) {
		producer(fd, id);
		_exit(0);
	}
	close(fd);
	/* What was sent comes before the notice that nobody sends any more. */
	while (!n_gone) {
		try(b1_peer_wait(peer, UINT64_MAX), "wait");
		try(b1_peer_process(peer), "process");
	}
	printf("consumer: %u blocks received, in a pool of %d\n", n_blocks,
	       POOL / (int)sizeof(struct block));
	return 0;
}
