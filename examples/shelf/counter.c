// SPDX-License-Identifier: MIT
/*
 * shelf-counter [--stay]
 *
 * Opens no file and knows nobody. Tells who started it where it is, drops even
 * that handle, and prints the SHA-256 and the number of words of each text
 * that it is given. With --stay it keeps them until they die.
 */
#define OPENSSL_SUPPRESS_DEPRECATED /* the plain functions need no 6 MB of providers */
#include <openssl/sha.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shelf.h"

struct text {
	char name[256];
	b1_handle *handle;
	struct text *next;
};

static struct text *texts, **tail = &texts;
static int n_texts, n_dead, complete;

static int on_text(b1_node *node, b1_message *message, void *userdata)
{
	b1_handle *handle = b1_message_get_handle(message, 0);
	struct text *text;
	const char *name;
	size_t size;

	name = b1_message_get_data(message, &size);
	if (!handle) {
		complete = 1;
		return 0;
	}
	text = calloc(1, sizeof(*text));
	if (!text)
		return -ENOMEM;
	snprintf(text->name, sizeof(text->name), "%.*s", (int)(size < 255 ? size : 255), name);
	text->handle = b1_handle_ref(handle);
	*tail = text;
	tail = &text->next;
	n_texts++;
	return 0;
}

/* As wc -w counts, in the C locale. */
static size_t count_words(const char *data, size_t size)
{
	size_t words = 0, i;
	int in_word = 0;

	for (i = 0; i < size; i++) {
		int space = isspace((unsigned char)data[i]);

		words += !space && !in_word;
		in_word = !space;
	}
	return words;
}

/* `data` is where the kernel put it: in this process's pool. Nothing is copied here. */
static void count(struct text *text, const void *data, size_t size)
{
	unsigned char digest[SHA256_DIGEST_LENGTH];
	char hex[2 * SHA256_DIGEST_LENGTH + 1];
	SHA256_CTX context;
	size_t i;

	SHA256_Init(&context);
	SHA256_Update(&context, data, size);
	SHA256_Final(digest, &context);
	for (i = 0; i < sizeof(digest); i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	shelf_say("%s %6zu words  %s", hex, count_words(data, size), text->name);
}

static int on_text_dead(b1_handle *handle, void *userdata)
{
	struct text *text = userdata;

	shelf_say("%s is dead", text->name);
	n_dead++;
	return 0;
}

int main(int argc, char **argv)
{
	int stay = argc > 1 && !strcmp(argv[1], "--stay");
	b1_handle *tray = NULL;
	b1_peer *peer = NULL;
	b1_node *node = NULL;
	struct text *text;
	int r;

	shelf_who = "counter";
	shelf_try(shelf_inherit(&peer, &tray), "no handle was inherited");
	shelf_try(b1_node_new(peer, &node, on_text, NULL), "node");
	shelf_try(b1_send_bytes(tray, NULL, 0, b1_node_get_handle(node)), "tray");
	tray = b1_handle_unref(tray);
	while (!complete)
		shelf_try(shelf_turn(peer), "receive");

	for (text = texts; text; text = text->next) {
		B1_CLEANUP(message) b1_message *reply = NULL;
		const void *data;
		size_t size;

		shelf_try(shelf_ask(peer, text->handle, "read", &reply), text->name);
		data = b1_message_get_data(reply, &size);
		count(text, data, size);
	}

	if (stay) {
		for (text = texts; text; text = text->next) {
			r = b1_handle_watch(text->handle, NULL, on_text_dead, text);
			if (r == -EHOSTUNREACH)
				on_text_dead(text->handle, text);
			else
				shelf_try(r, text->name);
		}
		shelf_say("stays, and holds %d texts", n_texts);
		while (n_dead < n_texts)
			shelf_try(shelf_turn(peer), "receive");
	}
	while ((text = texts)) {
		texts = text->next;
		b1_handle_unref(text->handle);
		free(text);
	}
	b1_node_unref(node);
	b1_peer_unref(peer);
	return 0;
}
