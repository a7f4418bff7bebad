// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The example of bus1(7): a server and a client, two processes that share one
 * capability and nothing else. The client asks, with a handle of its own to
 * answer to; the server learns by itself when it is needed no more.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/bus1.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define POOL_SIZE (1 << 20)

static uint64_t ptr(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static int peer_open(void)
{
	int fd = open("/dev/bus1", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		err(1, "/dev/bus1");
	return fd;
}

static uint64_t node_create(int fd, uint64_t cookie)
{
	struct bus1_cmd_node c = { .cookie = cookie };

	if (ioctl(fd, BUS1_CMD_NODE_CREATE, &c) < 0)
		err(1, "BUS1_CMD_NODE_CREATE");
	return c.id;
}

/* Send a text, and a handle with it unless that is 0. */
static void send_text(int fd, uint64_t dest, const char *text, uint64_t handle)
{
	struct bus1_pass pass = { .id = handle };
	struct bus1_cmd_send c = {
		.dest = dest,
		.data = ptr(text),
		.len = strlen(text),
		.handles = handle ? ptr(&pass) : 0,
		.n_handles = handle ? 1 : 0,
	};

	if (ioctl(fd, BUS1_CMD_SEND, &c) < 0)
		err(1, "BUS1_CMD_SEND");
}

/* Wait for one message; buf takes what is inline: short payloads, and handles. */
static struct bus1_msg receive(int fd, void *buf, uint32_t size)
{
	struct bus1_msg msg = {};
	struct bus1_cmd_recv c = {
		.msgs = ptr(&msg),
		.n_msgs = 1,
		.msg_size = sizeof(msg),
		.buf = ptr(buf),
		.buf_size = size,
	};

	if (ioctl(fd, BUS1_CMD_RECV, &c) < 0)
		err(1, "BUS1_CMD_RECV");
	return msg;
}

static void command_id(int fd, unsigned long command, uint64_t id)
{
	struct bus1_cmd_ids c = { .ids = ptr(&id), .n_ids = 1 };

	if (ioctl(fd, command, &c) < 0)
		err(1, "command on id %#llx", (unsigned long long)id);
}

static void client(int fd, uint64_t server)
{
	char *pool = mmap(NULL, POOL_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	uint64_t buf[128], answers = node_create(fd, 0);
	struct bus1_msg msg;

	if (pool == MAP_FAILED)
		err(1, "mmap");
	send_text(fd, server, "what is a capability?", answers);

	msg = receive(fd, buf, sizeof(buf));
	if (msg.type != BUS1_MSG_DATA)
		errx(1, "no answer");
	/* In place: in the pool, or in buf[] if it is short. */
	printf("client: %.*s\n", (int)msg.len, (msg.slice ? pool : (char *)buf) + msg.offset);
	fflush(stdout);
	if (msg.slice)
		command_id(fd, BUS1_CMD_SLICE_RELEASE, msg.slice);

	command_id(fd, BUS1_CMD_HANDLE_RELEASE, server);
}

static void serve(int fd)
{
	uint64_t buf[128];

	for (;;) {
		struct bus1_msg msg = receive(fd, buf, sizeof(buf));
		struct bus1_handle *handles = (void *)((char *)buf + msg.handles);

		switch (msg.type) {
		case BUS1_MSG_DATA:
			/* Anyone may have sent this: nothing in it is certain but the kernel's part. */
			if (msg.n_handles != 1 || msg.slice)
				errx(1, "not understood");
			printf("server: object %llu is asked: %.*s\n", (unsigned long long)msg.cookie,
			       (int)msg.len, (char *)buf + msg.offset);
			fflush(stdout);
			send_text(fd, handles[0].id, "a reference that is also the right to use it", 0);
			command_id(fd, BUS1_CMD_HANDLE_RELEASE, handles[0].id);
			break;
		case BUS1_MSG_NODE_UNUSED:
			printf("server: object %llu is unused\n", (unsigned long long)msg.cookie);
			command_id(fd, BUS1_CMD_NODE_DESTROY, msg.id);
			return;
		}
	}
}

int main(void)
{
	int server = peer_open(), other = peer_open();
	uint64_t node = node_create(server, 42), handle = 0;
	struct bus1_cmd_transfer c = {
		.ids = ptr(&node),
		.out = ptr(&handle),
		.n_ids = 1,
		.peer_fd = other,
	};
	int status;
	pid_t pid;

	/* Who has both descriptors makes the first capability. */
	if (ioctl(server, BUS1_CMD_HANDLE_TRANSFER, &c) < 0)
		err(1, "BUS1_CMD_HANDLE_TRANSFER");

	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (pid == 0) {
		close(server);
		client(other, handle);
		return 0;
	}
	close(other);
	serve(server);
	if (waitpid(pid, &status, 0) != pid || status)
		errx(1, "the client failed");
	return 0;
}
