// SPDX-License-Identifier: GPL-2.0-or-later
#include "loop.h"

#include <stdlib.h>

#include "lib.h"

#define ROUNDS 300

struct player {
	b1_peer *peer;
	b1_node *node;
	b1_handle *other;	/* the other player's node */
	unsigned int round, n;
	struct game *game;
};

struct game {
	struct player players[2];
	unsigned int deaths;
	bool stop;
};

static const char zeros[LARGE];

static int player_dead(b1_handle *handle, void *userdata)
{
	struct player *player = userdata;

	player->game->stop = ++player->game->deaths == 2;
	return 0;
}

static int player_message(b1_node *node, b1_message *message, void *userdata)
{
	struct player *player = userdata;
	b1_handle *ball = b1_message_get_handle(message, 0);
	unsigned int i;
	size_t size;

	b1_message_get_data(message, &size);
	player->n++;
	if (!ball)
		return 0; /* one of a burst */
	CHECK(b1_handle_get_node(ball) == node || ball == player->other);
	if (++player->round == ROUNDS) {
		b1_node_unref(player->game->players[0].node);
		b1_node_unref(player->game->players[1].node);
		return 0;
	}
	for (i = 0; player->round % 50 == 0 && i < 40; i++)
		OK(b1_send_bytes(player->other, zeros, i % 2 ? LARGE : 10, NULL));
	OK(b1_send_bytes(player->other, zeros, size == LARGE ? 5 : LARGE, ball));
	return 0;
}

void loop_test(loop_run run)
{
	struct game game = { 0 };
	b1_peer *peers[2];
	int i;

	for (i = 0; i < 2; i++) {
		struct player *player = &game.players[i];

		player->game = &game;
		player->peer = peers[i] = new_peer();
		OK(b1_node_new(player->peer, &player->node, player_message, player));
	}
	for (i = 0; i < 2; i++) {
		struct player *player = &game.players[i], *other = &game.players[!i];

		OK(b1_handle_transfer(b1_node_get_handle(other->node), player->peer, &player->other));
		OK(b1_handle_watch(player->other, NULL, player_dead, player));
	}
	OK(b1_send_bytes(game.players[0].other, NULL, 0, game.players[0].other));

	run(peers, &game.stop);

	EQ(game.deaths, 2);
	EQ(game.players[0].round + game.players[1].round, 2 * ROUNDS - 1);
	EQ(game.players[0].n + game.players[1].n, 2 * ROUNDS - 1 + 10 * 40);
	for (i = 0; i < 2; i++) {
		b1_handle_unref(game.players[i].other);
		HAS(peers[i], 0, 0, 0);
		b1_peer_unref(peers[i]);
	}
}
