/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The public header must compile by itself, in old C and C++, without a warning. */
#include <libbus1.h>

int use_header(b1_peer *peer, b1_handle *handle);

int use_header(b1_peer *peer, b1_handle *handle)
{
	B1_CLEANUP(message) b1_message *message = NULL;
	B1_CLEANUP_WATCH b1_watch *watch = NULL;
	b1_outgoing outgoing = { 0 };
	B1_CLEANUP(node) b1_node *node = NULL;

	outgoing.data = "hello";
	outgoing.size = 5;
	if (b1_node_new(peer, &node, NULL, NULL) < 0)
		return 1;
	if (b1_call(handle, &outgoing, NULL, &message) < 0 ||
	    b1_call_async(handle, &outgoing, NULL, &watch, NULL, NULL) < 0 ||
	    b1_message_reply(message, &outgoing) < 0)
		return 1;
	return b1_send(handle, &outgoing) < 0 || b1_multicast(&handle, 1, &outgoing, NULL) < 0;
}
