// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * QEMU plugin: how often each block of guest instructions runs between the two
 * marks that `bus1-bench --loop` executes (see tools/bench/counter.c).
 *
 * Argument out=PREFIX. At each second mark PREFIX.0, PREFIX.1 and so on get a
 * line for each block that ran since the first: address in hex, its length in
 * instructions, how often. What runs between two other marks, pause and resume,
 * is left out. A block that a fault leaves early counts in full,
 * which is all that makes the sum differ from a count by icount.
 *
 * The plugin interface, version 4, is declared here as far as it is used, since
 * Debian does not package its header.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*tb_cb)(uint64_t id, struct qemu_plugin_tb *tb);
typedef void (*exec_cb)(unsigned int cpu, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, tb_cb cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, exec_cb cb, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, exec_cb cb, int flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest, size_t len);

EXPORT extern int qemu_plugin_version;
EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

int qemu_plugin_version = 4;

struct block {
	struct block *next;
	uint64_t addr, runs;
	unsigned int n;
};

static const uint8_t mark[] = { 0x0f, 0x1f, 0x80, 0, 's', 'u', 'b' };
static struct block *table[1 << 16];
static const char *out;
static int looping, recording;

static int is_mark(const struct qemu_plugin_insn *insn)
{
	uint8_t code[sizeof(mark)];
	int which;

	if (qemu_plugin_insn_size(insn) != sizeof(mark))
		return 0;
	if (qemu_plugin_insn_data(insn, code, sizeof(code)) != sizeof(code))
		return 0;
	which = code[3];
	code[3] = 0;
	return memcmp(code, mark, sizeof(mark)) ? 0 : which;
}

/* Blocks are translated again and again: the same one must be found. */
static struct block *block(uint64_t addr, unsigned int n)
{
	struct block **b = &table[(addr ^ addr >> 16) & 0xffff];

	for (; *b; b = &(*b)->next)
		if ((*b)->addr == addr && (*b)->n == n)
			return *b;
	*b = calloc(1, sizeof(**b));
	if (!*b)
		abort();
	(*b)->addr = addr;
	(*b)->n = n;
	return *b;
}

static void run(unsigned int cpu, void *data)
{
	if (recording)
		((struct block *)data)->runs++;
}

static void begin(unsigned int cpu, void *data)
{
	looping = recording = 1;
}

static void pause_loop(unsigned int cpu, void *data)
{
	recording = 0;
}

static void resume_loop(unsigned int cpu, void *data)
{
	recording = looping;
}

static void end(unsigned int cpu, void *data)
{
	static unsigned int number;
	char name[4096];
	FILE *f;

	looping = recording = 0;
	snprintf(name, sizeof(name), "%s.%u", out, number++);
	f = fopen(name, "w");
	if (!f) {
		perror(name);
		return;
	}
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		for (struct block *b = table[i]; b; b = b->next) {
			if (b->runs)
				fprintf(f, "%llx %u %llu\n", (unsigned long long)b->addr, b->n,
					(unsigned long long)b->runs);
			b->runs = 0;
		}
	fclose(f);
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb);

	qemu_plugin_register_vcpu_tb_exec_cb(tb, run, 0,
					     block(qemu_plugin_tb_vaddr(tb), (unsigned int)n));
	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		int which = is_mark(insn);

		if (which == '1')
			qemu_plugin_register_vcpu_insn_exec_cb(insn, begin, 0, NULL);
		else if (which == '0')
			qemu_plugin_register_vcpu_insn_exec_cb(insn, end, 0, NULL);
		else if (which == 'p')
			qemu_plugin_register_vcpu_insn_exec_cb(insn, pause_loop, 0, NULL);
		else if (which == 'r')
			qemu_plugin_register_vcpu_insn_exec_cb(insn, resume_loop, 0, NULL);
	}
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (!strncmp(argv[i], "out=", 4))
			out = strdup(argv[i] + 4);
	if (!out) {
		fprintf(stderr, "blocks: out=PREFIX is missing\n");
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
