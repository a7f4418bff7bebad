// SPDX-License-Identifier: GPL-2.0-or-later
/* What is lost of an operation shows when it is done often enough. */
#include "slab.h"

#include "raw.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (write(fd, text, strlen(text)) < 0)
			errno = 0;	/* there may be no such thing here */
		close(fd);
	}
}

static bool is_ours(const char *name)
{
	return !strncmp(name, "kmalloc-", 8) || !strncmp(name, "bus1", 4);
}

void slab_read(struct slab *s)
{
	char line[512], path[128];
	FILE *f = fopen("/proc/slabinfo", "r");

	if (!f)
		SKIP("/proc/slabinfo: %s", strerrorname_np(errno));
	/*
	 * What is free but kept by a processor counts as in use until it is
	 * flushed, which shrinking does; so it does the objects that KASAN
	 * keeps in quarantine.
	 */
	*s = (struct slab){};
	while (fgets(line, sizeof(line), f) && s->n < SLAB_CACHES) {
		struct slab_cache *c = &s->cache[s->n];

		if (sscanf(line, "%39s", c->name) != 1 || !is_ours(c->name))
			continue;
		snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink", c->name);
		write_file(path, "1\n");
		s->n++;
	}
	fclose(f);
	s->n = 0;
	f = fopen("/proc/slabinfo", "r");
	CHECK(f);
	while (fgets(line, sizeof(line), f) && s->n < SLAB_CACHES) {
		struct slab_cache *c = &s->cache[s->n];
		long long active, total, size;

		if (sscanf(line, "%39s %lld %lld %lld", c->name, &active, &total, &size) != 4 ||
		    !is_ours(c->name))
			continue;
		c->objects = active;
		c->size = size;
		s->n++;
	}
	fclose(f);
	GT(s->n, 5);

	f = fopen("/proc/meminfo", "r");
	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		long long kb;

		if (sscanf(line, "VmallocUsed: %lld kB", &kb) == 1)
			s->vmalloc = kb * 1024;
	}
	fclose(f);
}

static int64_t grown(const struct slab *a, const struct slab *b, char *why, size_t n_why)
{
	int64_t sum = b->vmalloc > a->vmalloc ? b->vmalloc - a->vmalloc : 0;
	size_t n = 0;

	n += (size_t)snprintf(why, n_why, "vmalloc %+lld", (long long)(b->vmalloc - a->vmalloc));
	for (int i = 0; i < b->n; i++) {
		int64_t was = 0;

		for (int j = 0; j < a->n; j++)
			if (!strcmp(a->cache[j].name, b->cache[i].name))
				was = a->cache[j].objects;
		sum += (b->cache[i].objects - was) * b->cache[i].size;
		if (b->cache[i].objects > was + 20 && n < n_why)
			n += (size_t)snprintf(why + n, n_why - n, ", %s %+lld", b->cache[i].name,
					      (long long)(b->cache[i].objects - was));
	}
	return sum;
}

void slab_check(const struct slab *before, int64_t bytes)
{
	uint64_t end = test_deadline(10);
	struct slab *now = malloc(sizeof(*now));
	char why[400];
	int64_t sum;

	CHECK(now);
	for (;;) {
		write_file("/proc/sys/vm/drop_caches", "2\n");
		slab_read(now);
		sum = grown(before, now, why, sizeof(why));
		if (sum <= bytes)
			break;
		if (test_now() > end)
			FAIL("%lld bytes more than before: %s", (long long)sum, why);
		test_sleep_ms(100);
	}
	free(now);
}

/*
 * Runs `op` often, twice: what the first time allocates and keeps is not lost.
 * More than 8 bytes for each time of the second run are.
 */
static void no_loss(void (*op)(void), unsigned int times)
{
	struct slab *before = malloc(sizeof(*before));

	CHECK(before);
	times = test_rounds(times);
	for (unsigned int i = 0; i < times / 4; i++)
		op();
	slab_read(before);
	test_sleep_ms(50);
	slab_check(before, 1 << 30);	/* settled, for the first time */
	slab_read(before);
	for (unsigned int i = 0; i < times; i++)
		op();
	slab_check(before, 16384 + 8 * (int64_t)times);
}

static void open_and_close(void)
{
	struct peer p = peer_new(0);

	peer_close(&p);
}

TEST_TIMEOUT("slab, peers that come and go leave nothing", 120)
{
	no_loss(open_and_close, 8000);
}

static void peer_with_everything(void)
{
	struct peer a = peer_new(1 << 16), b = peer_new(1 << 16);
	u64 na = node_new(&a, 1), nb = node_new(&b, 2);
	u64 to_a = grant(&a, na, &b), to_b = grant(&b, nb, &a);
	u8 data[3000] = {};

	/* Queues full of each other, in reference cycles, half of it unread. */
	for (int i = 0; i < 3; i++) {
		OK(send_id(&a, to_b, na));
		OK(send_id(&b, to_a, nb));
		OK(send_id(&b, to_a, to_a));
		OK(send_data(&a, to_b, data, sizeof(data)));
	}
	OK(recv_now(&a, &(struct in){}));
	OK(recv_now(&b, &(struct in){}));
	peer_close(&a);
	peer_close(&b);
}

TEST_TIMEOUT("slab, what peers held goes with them", 120)
{
	no_loss(peer_with_everything, 2000);
}

static struct peer sender, receiver;
static u64 node, to_node, own;

static void set_up(void)
{
	sender = peer_new(0);
	receiver = peer_new(1 << 20);
	node = node_new(&receiver, 1);
	to_node = grant(&receiver, node, &sender);
	own = node_new(&sender, 2);
}

static void messages(void)
{
	static u8 data[4000];
	struct in in;

	OK(send_str(&sender, to_node, "small"));
	OK(recv_now(&receiver, &in));
	OK(send_data(&sender, to_node, data, sizeof(data)));
	OK(recv_now(&receiver, &in));
	OK(slice_release(&receiver, in.m.slice));
	OK(send_id(&sender, to_node, own));
	OK(recv_now(&receiver, &in));
	OK(release(&receiver, in.h[0].id));
	OK(recv_now(&sender, &in));		/* unused */
	OK(send_data(&sender, to_node, data, sizeof(data)));
	OK(drop_now(&receiver, &in.m));
}

TEST_TIMEOUT("slab, messages that are received leave nothing", 120)
{
	set_up();
	no_loss(messages, 5000);
}

static void failures(void)
{
	static u8 *edge;
	u64 dests[] = { to_node, to_node, 12345 }, ids[] = { own, own, 12345 }, out[3];
	struct bus1_msg m;
	u64 dead = node_new(&receiver, 3), h = grant(&receiver, dead, &sender);

	if (!edge)
		edge = edge_alloc(3000);
	ERR(send_many(&sender, 0, dests, 3, NULL, "x"), ENXIO);
	ERR(send_data(&sender, to_node, edge, 5000), EFAULT);
	ERR(send_data(&sender, to_node, edge + 2990, 20), EFAULT);
	ERR(send_ids(&sender, to_node, ids, 3), ENXIO);
	ERR(transfer(&sender, &receiver, 0, ids, out, 3), ENXIO);
	ERR(transfer(&sender, &receiver, 0, ids, (void *)8, 2), EFAULT);
	ERR(ids_cmd(&sender, BUS1_CMD_HANDLE_RELEASE, 0, (u64[]){ to_node, 12345 }, 2), ENXIO);
	ERR(ids_cmd(&sender, BUS1_CMD_NODE_DESTROY, 0, (u64[]){ own, own }, 2), EINVAL);
	OK(destroy(&receiver, dead));
	dests[2] = h;
	ERR(send_many(&sender, 0, dests, 3, NULL, "x"), EHOSTUNREACH);
	ERR(send_id(&sender, h, own), EHOSTUNREACH);
	OK(release(&sender, h));
	ERR(drop_now(&receiver, &m), EAGAIN);
}

TEST_TIMEOUT("slab, commands that fail leave nothing", 120)
{
	set_up();
	no_loss(failures, 3000);
}
