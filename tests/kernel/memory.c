// SPDX-License-Identifier: GPL-2.0-or-later
/* What things take of the kernel's memory: the table of bus1(7), which limits are to be set by. */
#include "call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

/* Bytes of all slabs in use. */
static int64_t slab_bytes(void)
{
	FILE *file = fopen("/proc/slabinfo", "re");
	unsigned long active, size;
	int64_t sum = 0;
	char line[512];

	if (!file)
		SKIP("no /proc/slabinfo");
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%*s %lu %*u %lu", &active, &size) == 2)
			sum += (int64_t)active * (int64_t)size;
	fclose(file);
	GT(sum, 0);
	return sum;
}

/* What was given back before may be freed only now: until hardly anything goes any more. */
static void settle(void)
{
	int64_t before, now = slab_bytes();
	u64 end = test_deadline(10);

	do {
		before = now;
		test_sleep_ms(200);
		now = slab_bytes();
	} while (now < before - 65536 && test_now() < end);
}

struct made {
	const char *what;
	unsigned int n;
	unsigned int bytes;	/* of each at most, by the table */
	int64_t took;		/* in all */
};

/*
 * Bytes of each. What else the machine does meanwhile is in it, and memory that was
 * used before and is kept at hand counts as in use: hence the tenth, and no less
 * than a half.
 */
static void check(const struct made *made)
{
	int64_t each = made->took / made->n;

	fprintf(stderr, "%s: %d of %u\n", made->what, (int)each, made->bytes);
	if (each > made->bytes + made->bytes / 10 || each < made->bytes / 2)
		FAIL("%s take %d bytes each, and not %u", made->what, (int)each, made->bytes);
}

#define MADE(what_, n_, bytes_, code)						\
	do {									\
		struct made made_ = { .what = (what_), .n = (n_), .bytes = (bytes_) }; \
		int64_t before_ = slab_bytes();					\
		code								\
		made_.took = slab_bytes() - before_;				\
		check(&made_);							\
	} while (0)

enum { MANY = 20000, FILES = 6000, PEERS = 2000 };

TEST("RES-3 things take as much of the kernel's memory as bus1(7) says")
{
	static struct peer peers[PEERS], whole[PEERS];
	static u64 nodes[MANY], out[MANY];
	struct rlimit limit = { 3 * PEERS + 100, 3 * PEERS + 100 };
	struct bus1_cmd_node stamp_node = { .flags = BUS1_NODE_CREDS };
	struct bus1_pass passes[100];
	struct peer a, b, c;
	u64 n, dest, to[PEERS];
	static u8 data[128];
	s32 fds[1];
	u64 to_stamped;
	u32 i;

	if (test_slow() > 1)
		SKIP("memory is used to find mistakes here");
	OK(SYS(setrlimit(RLIMIT_NOFILE, &limit)));
	a = peer_new(16 << 20);
	b = peer_new(0);
	c = peer_new(0);
	n = node_new(&a, 0);
	dest = grant(&a, n, &b);
	settle();

	MADE("peers", PEERS, 2700,
		for (i = 0; i < PEERS; i++)
			peers[i] = peer_new(0);
	);
	MADE("nodes", MANY, 232,
		for (i = 0; i < MANY; i++)
			nodes[i] = node_new(&b, i);
	);
	MADE("facets", MANY, 296,
		for (i = 0; i < MANY; i++)
			facet_new(&b, nodes[0], i + 1);
	);
	MADE("handles", MANY, 232,
		for (i = 0; i < MANY; i += 1000)
			OK(transfer(&b, &c, 0, nodes + i, out + i, 1000));
	);
	MADE("messages", MANY, 264,
		for (i = 0; i < MANY; i++)
			OK(send_data(&b, dest, "x", 1));
	);
	EQ(drain(&a), MANY);
	MADE("messages with a slice", MANY, 328,
		for (i = 0; i < MANY; i++)
			OK(send_data(&b, dest, data, sizeof(data)));
	);
	EQ(drain(&a), MANY);
	/* The receiver has the handles already: it is the message that takes more. */
	for (i = 0; i < 100; i++)
		passes[i] = (struct bus1_pass){ .id = nodes[i] };
	OK(transfer(&b, &a, 0, nodes, out, 100));
	MADE("messages with 100 handles", 100, 264 + 100 * 24,
		for (i = 0; i < 100; i++)
			OK(send_cmd(&b, &(struct bus1_cmd_send){
				.dest = dest, .handles = PTR(passes), .n_handles = 100 }));
	);
	EQ(drain(&a), 100);
	fds[0] = (s32)OK(SYS(eventfd(0, EFD_CLOEXEC)));
	MADE("messages with a file", FILES, 264 + 8 + 80,
		for (i = 0; i < FILES; i++)
			OK(send_fds(&b, dest, fds, 1));
	);
	EQ(drain(&a), FILES);
	OK(node_create(&a, &stamp_node));
	to_stamped = grant(&a, stamp_node.id, &b);
	MADE("messages with a stamp", MANY, 264 + 136,
		for (i = 0; i < MANY; i++)
			OK(send_data(&b, to_stamped, NULL, 0));
	);
	EQ(drain(&a), MANY);
	/* The slot of its token is there before it is received. */
	MADE("calls", MANY, 512 + 2 * 32,
		for (i = 0; i < MANY; i++)
			call_async(&b, dest, "x", i);
	);
	EQ(drain(&a), MANY);
	for (i = 0; i < PEERS; i++)
		to[i] = grant(&a, n, &peers[i]);
	MADE("accounts", PEERS, 208,
		for (i = 0; i < PEERS; i++) {
			OK(send_data(&peers[i], to[i], NULL, 0));
			EQ(drain(&a), 1);
		}
	);
	MADE("peers with a node and a pool", PEERS, 6500,
		for (i = 0; i < PEERS; i++) {
			whole[i] = peer_new(16 * 4096);
			node_new(&whole[i], 0);
		}
	);
	MADE("exported handles", PEERS, 4200,
		for (i = 0; i < PEERS; i++)
			OK(export_fd(&a, n, 0));
	);
}
