// SPDX-License-Identifier: MIT
/*
 * shelf-server DIRECTORY PROGRAM [ARGUMENT...]
 *
 * Makes an object of every text in the directory, and one of the shelf, whose
 * handle the program inherits. A text is freed as soon as nobody holds it, and
 * made again when it is asked for. Leaves when nobody holds the shelf, nor any
 * text.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shelf.h"

struct text {
	char *name;
	b1_node *node;		/* NULL: freed */
	bool held;		/* as far as is known */
	char *data;
	size_t size;
	struct text *next;
};

static b1_peer *peer;
static struct text *texts;
static const char *directory;
static bool shelf_held = true;

static int load(struct text *text)
{
	char path[4096];
	struct stat st;
	int fd, r = 0;

	snprintf(path, sizeof(path), "%s/%s", directory, text->name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		r = -EINVAL;
	if (r >= 0) {
		text->size = (size_t)st.st_size;
		text->data = malloc(text->size + 1);
		if (!text->data)
			r = -ENOMEM;
		else if (read(fd, text->data, text->size) != (ssize_t)text->size)
			r = -EIO;
	}
	close(fd);
	return r;
}

static void unload(struct text *text)
{
	text->node = b1_node_unref(text->node);
	free(text->data);
	text->data = NULL;
	text->held = false;
}

static int on_text(b1_node *node, b1_message *message, void *userdata)
{
	struct text *text = userdata;
	b1_handle *reply = b1_message_get_handle(message, 0);

	/* If it can not be delivered, that is who asked's trouble. */
	if (reply)
		b1_send_bytes(reply, text->data, text->size, NULL);
	return 0;
}

static int on_text_unused(b1_node *node, void *userdata)
{
	struct text *text = userdata;

	/* It may have been handed out again since: then it stays. */
	if (b1_node_destroy(node, B1_NODE_UNUSED) < 0)
		return 0;
	unload(text);
	shelf_say("%s: unused, freed", text->name);
	return 0;
}

static int make(struct text *text)
{
	int r;

	r = load(text);
	if (r >= 0)
		r = b1_node_new(peer, &text->node, on_text, text);
	if (r >= 0)
		r = b1_node_set_unused(text->node, on_text_unused);
	if (r < 0)
		unload(text);
	return r;
}

static void list(b1_handle *reply)
{
	struct text *text;
	struct iovec iov[1024];
	size_t n = 0;

	for (text = texts; text && n < 1024; text = text->next) {
		iov[n++] = (struct iovec){ text->name, strlen(text->name) };
		iov[n++] = (struct iovec){ (void *)"\n", 1 };
	}
	b1_send(reply, &(b1_outgoing){ .iov = iov, .n_iov = n });
}

static int on_shelf(b1_node *node, b1_message *message, void *userdata)
{
	b1_handle *reply = b1_message_get_handle(message, 0);
	const char *request;
	struct text *text;
	size_t size;

	request = b1_message_get_data(message, &size);
	if (!reply)
		return 0;
	if (size == 4 && !memcmp(request, "list", 4)) {
		list(reply);
		return 0;
	}
	for (text = texts; text; text = text->next)
		if (size == 4 + strlen(text->name) && !memcmp(request, "get ", 4) &&
		    !memcmp(request + 4, text->name, size - 4))
			break;
	if (!text || (!text->node && make(text) < 0))
		b1_send_bytes(reply, NULL, 0, NULL);
	else if (b1_send_bytes(reply, text->name, strlen(text->name), b1_node_get_handle(text->node)) >= 0)
		text->held = true;
	return 0;
}

static int on_shelf_unused(b1_node *node, void *userdata)
{
	shelf_say("the shelf: unused, so nobody can ask any more");
	shelf_held = false;
	return 0;
}

static bool is_held(void)
{
	struct text *text;

	for (text = texts; text; text = text->next)
		if (text->held)
			return true;
	return shelf_held;
}

static int add_all(void)
{
	struct dirent **entries;
	struct text *text;
	int n, i, count = 0;

	n = scandir(directory, &entries, NULL, alphasort);
	shelf_try(n < 0 ? -errno : 0, directory);
	for (i = n - 1; i >= 0; i--) {
		text = calloc(1, sizeof(*text));
		shelf_try(text ? 0 : -ENOMEM, directory);
		text->name = strdup(entries[i]->d_name);
		free(entries[i]);
		if (!text->name || make(text) < 0) {
			free(text->name);
			free(text);
			continue;
		}
		text->next = texts;
		texts = text;
		count++;
	}
	free(entries);
	return count;
}

int main(int argc, char **argv)
{
	b1_node *shelf = NULL;
	struct text *text;
	int status = 0;

	shelf_who = "server";
	if (argc < 3) {
		fprintf(stderr, "usage: %s DIRECTORY PROGRAM [ARGUMENT...]\n", argv[0]);
		return 2;
	}
	directory = argv[1];
	shelf_try(b1_peer_new(&peer, B1_POOL_DEFAULT), "peer");
	shelf_try(b1_node_new(peer, &shelf, on_shelf, NULL), "shelf");
	shelf_try(b1_node_set_unused(shelf, on_shelf_unused), "shelf");
	shelf_say("%d texts of %s are objects, and a shelf that finds them", add_all(), directory);
	shelf_try(shelf_spawn(b1_node_get_handle(shelf), argv + 2), argv[2]);
	while (is_held())
		shelf_try(shelf_turn(peer), "receive");

	while ((text = texts)) {
		texts = text->next;
		unload(text);
		free(text->name);
		free(text);
	}
	b1_node_unref(shelf);
	b1_peer_unref(peer);
	wait(&status);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
