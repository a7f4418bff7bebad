// SPDX-License-Identifier: MIT
/*
 * shelf-reader [NAME...] -- PROGRAM [ARGUMENT...]
 *
 * Inherits a handle to the shelf, asks it for the texts (all, if none is
 * named), and passes their handles on to the program, which it runs with
 * nothing but a handle to say where it is. Leaves when that program has left.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "shelf.h"

static b1_peer *peer;
static b1_handle *shelf, *counter;
static int counter_gone;

static int on_shelf_dead(b1_handle *handle, void *userdata)
{
	shelf_say("the shelf is dead");
	return 0;
}

static int on_counter_dead(b1_handle *handle, void *userdata)
{
	shelf_say("the counter has left");
	counter_gone = 1;
	return 0;
}

/* What the program sends first: the handle of a node of its own. */
static int on_tray(b1_node *node, b1_message *message, void *userdata)
{
	b1_handle *handle = b1_message_get_handle(message, 0);

	if (handle && !counter)
		counter = b1_handle_ref(handle);
	return 0;
}

static int on_tray_unused(b1_node *node, void *userdata)
{
	/* It let go of the tray. It may have left before it said a word. */
	if (!counter)
		counter_gone = 1;
	return 0;
}

/* Ask the shelf for a text; its handle comes with the reply. */
static b1_handle *get(const char *name)
{
	B1_CLEANUP(message) b1_message *reply = NULL;
	b1_handle *text;
	char request[300];

	snprintf(request, sizeof(request), "get %s", name);
	shelf_try(shelf_ask(peer, shelf, request, &reply), name);
	text = b1_message_get_handle(reply, 0);
	shelf_try(text ? 0 : -ENOENT, name);
	return b1_handle_ref(text);
}

/* The names of all texts, as a NULL-terminated array. */
static char **get_names(void)
{
	B1_CLEANUP(message) b1_message *reply = NULL;
	char *copy, **names, *name;
	const char *data;
	size_t size, n = 0;

	shelf_try(shelf_ask(peer, shelf, "list", &reply), "list");
	data = b1_message_get_data(reply, &size);
	copy = strndup(data, size);
	names = calloc(size + 1, sizeof(*names));
	shelf_try(copy && names ? 0 : -ENOMEM, "list");
	for (name = strtok(copy, "\n"); name; name = strtok(NULL, "\n"))
		names[n++] = name;
	return names;
}

int main(int argc, char **argv)
{
	b1_handle **texts;
	b1_node *tray = NULL;
	char **names, **program;
	int n, i, status = 0;

	shelf_who = "reader";
	for (program = argv + 1; *program && strcmp(*program, "--"); program++)
		;
	if (!program[0] || !program[1]) {
		fprintf(stderr, "usage: %s [NAME...] -- PROGRAM [ARGUMENT...]\n", argv[0]);
		return 2;
	}
	*program++ = NULL;
	shelf_try(shelf_inherit(&peer, &shelf), "no shelf was inherited");
	shelf_try(b1_handle_watch(shelf, NULL, on_shelf_dead, NULL), "shelf");

	names = argv[1] ? argv + 1 : get_names();
	for (n = 0; names[n]; n++)
		;
	texts = calloc((size_t)n + 1, sizeof(*texts));
	shelf_try(texts ? 0 : -ENOMEM, "texts");
	for (i = 0; i < n; i++)
		texts[i] = get(names[i]);
	shelf_say("got a handle for each of %d texts", n);

	shelf_try(b1_node_new(peer, &tray, on_tray, NULL), "tray");
	shelf_try(b1_node_set_unused(tray, on_tray_unused), "tray");
	shelf_try(shelf_spawn(b1_node_get_handle(tray), program), program[0]);
	while (!counter && !counter_gone)
		shelf_try(shelf_turn(peer), "receive");
	if (counter) {
		shelf_try(b1_handle_watch(counter, NULL, on_counter_dead, NULL), "counter");
		for (i = 0; i < n; i++)
			shelf_try(b1_send_bytes(counter, names[i], strlen(names[i]), texts[i]), "pass on");
		shelf_try(b1_send_bytes(counter, NULL, 0, NULL), "pass on");
	}
	for (i = 0; i < n; i++)
		b1_handle_unref(texts[i]);
	free(texts);
	if (counter)
		shelf_say("passed them on to the counter, and dropped its own");

	while (!counter_gone)
		shelf_try(shelf_turn(peer), "receive");
	b1_handle_unref(counter);
	b1_handle_unref(shelf);
	b1_node_unref(tray);
	b1_peer_unref(peer);
	wait(&status);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
