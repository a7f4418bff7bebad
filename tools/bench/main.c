// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

#define MAX_SIZES 6

/* What sized works go over, in which sizes. */
static const struct range {
	const struct transport *transports[4];
	size_t sizes[MAX_SIZES], sizes_short[MAX_SIZES];	/* up to the first 0 behind the first */
} small = {
	.transports = { &transport_bus1, &transport_seqpacket, &transport_stream, &transport_pipe },
	.sizes = { 0, 64, 1 << 10, 4 << 10, 64 << 10, 1 << 20 },
	.sizes_short = { 64, 4 << 10, 64 << 10 },
}, large = {
	.transports = { &transport_bus1, &transport_bus1_memfd, &transport_bus1_buffer, &transport_seqpacket },
	.sizes = { 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20 },
	.sizes_short = { 64 << 10, 1 << 20 },
};

static const struct sized_work {
	const char *name;
	int (*open)(struct job **, const struct transport *, size_t, bool);
	bool touch;
	bool asked;		/* only with --touch or --filter */
	const struct range *range;
} sized_works[] = {
	{ "sendrecv", job_sendrecv, false, false, &small },
	{ "roundtrip", job_roundtrip, false, false, &small },
	{ "sendrecv-touch", job_sendrecv, true, true, &small },
	{ "roundtrip-touch", job_roundtrip, true, true, &small },
	{ "large", job_sendrecv, false, false, &large },
	{ "large-touch", job_sendrecv, true, false, &large },
};

static const struct plain_work {
	const char *name, *transport, *rival;
	int (*open)(struct job **);
} plain_works[] = {
	{ "life", "bus1", "life", job_life_bus1 },
	{ "life-quiet", "bus1", "life", job_life_bus1_quiet },
	{ "life", "seqpacket", "life", job_life_fd },
	{ "pass", "bus1", "pass", job_pass_bus1 },
	{ "pass-new", "bus1", "pass", job_pass_bus1_new },
	{ "pass", "seqpacket", "pass", job_pass_fd },
};

/* Works that do with many what is asked. */
static const struct many_work {
	const char *name, *transport;
	int (*open)(struct job **, size_t);
	size_t counts[4];
	size_t brief_most;	/* --short leaves out larger counts */
	size_t base;		/* count to compare the others with; 0: with the rival */
	bool rounds_of_many;	/* a round takes `count` operations or more */
} many_works[] = {
	{ "fanout", "bus1", job_fanout_bus1, { 1, 4, 16, 64 }, 64, 0, true },
	{ "fanout", "seqpacket", job_fanout_socket, { 1, 4, 16, 64 }, 64, 0, true },
	{ "scale", "bus1", job_scale, { 10, 1000, 100000 }, 1000, 10, false },
	{ "death", "bus1", job_death, { 10, 100, 1000, 10000 }, 1000, 1000, true },
	{ "flooded", "bus1", job_flood, { 1, 9 }, 9, 1, false },
};

static const struct bar bars[] = {
	{ .work = "sendrecv", .sized = true, .size = 64, .limit = 1.0, .title = "send and receive, 64 B" },
	{ .work = "sendrecv", .sized = true, .size = 4 << 10, .limit = 0.8, .title = "send and receive, 4 KiB" },
	{ .work = "sendrecv", .sized = true, .size = 64 << 10, .limit = 0.6, .title = "send and receive, 64 KiB" },
	{ .work = "large-touch", .sized = true, .size = 1 << 20, .limit = 0.6, .title = "1 MiB by the pool, touched" },
	{ .work = "large-touch", .sized = true, .size = 16 << 20, .limit = 0.35, .transport = "bus1-buffer",
	  .title = "16 MiB in a buffer, touched" },
	{ .work = "large", .sized = true, .size = 16 << 20, .limit = 0.02, .transport = "bus1-buffer",
	  .title = "16 MiB in a buffer, not touched" },
	{ .work = "life-quiet", .limit = 0.8, .title = "life of a node and its handle, to a pipe's" },
	{ .work = "life", .limit = 0.8, .title = "the same, with its notice received" },
	{ .work = "pass", .limit = 0.6, .title = "pass a handle, to passing an fd" },
	{ .work = "fanout", .count = 64, .limit = 0.6, .title = "64 B to 64 peers, to 64 sends" },
	{ .work = "scale", .count = 100000, .limit = 1.3, .title = "with 100,000 handles, to with 10" },
	{ .work = "death", .count = 10000, .limit = 1.2, .title = "death, per holder: of 10,000, to of 1,000" },
	{ .work = "flooded", .count = 9, .limit = 1.3, .title = "round trip, 8 users flood, to none" },
};

static struct options {
	bool json, brief, touch, check;
	const char *filter;
	unsigned long rounds;
	char *loop;
} opt;

static bool bus1_missing;
static struct report report;

/* Whether `name` stands in the comma-separated list of --filter. */
static bool wanted(const char *name)
{
	size_t n = strlen(name);

	if (!opt.filter)
		return true;
	for (const char *p = opt.filter; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (!strncmp(p, name, n) && (!p[n] || p[n] == ','))
			return true;
	}
	return false;
}

/*
 * All on one CPU: who waits is woken where it was, as is best for every
 * transport alike.
 */
static void pin(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET((unsigned int)cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* Fewer rounds where each does more, but enough to warm up all of a pool. */
static struct plan plan_for(size_t size)
{
	unsigned long rounds = opt.rounds / (1 + size / 16384);
	unsigned long warmup = size > 65536 ? 20 : 200;

	if (rounds < 8)
		rounds = opt.rounds < 8 ? opt.rounds : 8;
	if (size > 1 << 20) {
		rounds = rounds < 2 ? rounds : 2;
		warmup = 4;
	}
	return (struct plan){
		.warmup = warmup < 2 * opt.rounds ? warmup : 2 * opt.rounds,
		.rounds = rounds,
		.batches = opt.brief ? 5 : 9,
	};
}

/* About as many operations in a batch whatever the count is, and one round at least. */
static struct plan plan_for_many(const struct many_work *w, size_t count)
{
	struct plan p = plan_for(0);

	if (w->rounds_of_many) {
		p.rounds /= 1 + count / 8;
		if (p.rounds < 1)
			p.rounds = 1;
		p.warmup = p.rounds;
	}
	return p;
}

/* Measures the job and closes it, unless it could not be made: `error`. */
static void run(struct result *x, struct job *j, int error)
{
	if (error == 0) {
		x->chunk = j->chunk;
		error = measure(j, &x->plan, &x->figure);
		j->close(j);
	}
	x->error = error;
	if (error && error != -ENODEV)
		fprintf(stderr, "bus1-bench: %s of %zu%s over %s: %s\n", x->work,
			x->count ? x->count : x->size, x->count ? "" : " bytes", x->transport,
			strerror(-error));
}

/* With `rival`'s ratio still to be set: it may not have run yet. */
static struct result *add(const char *work, const char *transport, const char *rival)
{
	struct result *x = &report.results[report.n_results++];

	if (report.n_results > ARRAY_SIZE(report.results))
		abort();
	*x = (struct result){ .work = work, .transport = transport, .rival = rival, .plan = plan_for(0) };
	return x;
}

static double ratio(const struct result *x, const struct result *to)
{
	return !x->error && to && !to->error ? x->figure.median / to->figure.median : 0;
}

static void set_ratios(void)
{
	for (size_t i = 0; i < report.n_results; i++) {
		struct result *x = &report.results[i];

		if (x->rival)
			x->ratio = ratio(x, report_find(&report, x->rival, "seqpacket", x->size, x->count));
		if (x->base)
			x->growth = ratio(x, report_find(&report, x->work, x->transport, 0, x->base));
	}
}

static bool left_out(const struct many_work *w, size_t count)
{
	return opt.brief && count > w->brief_most;
}

static void run_many(const struct many_work *w)
{
	for (size_t c = 0; c < ARRAY_SIZE(w->counts) && w->counts[c]; c++) {
		struct job *j = NULL;
		struct result *x;
		int r = -ENODEV;

		if (left_out(w, w->counts[c]))
			continue;
		x = add(w->name, w->transport, w->base ? NULL : w->name);
		x->count = w->counts[c];
		x->base = w->base;
		x->plan = plan_for_many(w, x->count);
		if (!bus1_missing || strcmp(w->transport, "bus1"))
			r = w->open(&j, x->count);
		run(x, j, r);
	}
}

/* Those of large counts only where these are run. */
static bool has_bar(const struct bar *b)
{
	if (!wanted(b->work))
		return false;
	for (size_t w = 0; w < ARRAY_SIZE(many_works); w++)
		if (!strcmp(many_works[w].name, b->work))
			return !left_out(&many_works[w], b->count);
	return !opt.brief || b->size <= 1 << 20;
}

static void run_sized(const struct sized_work *work, const struct transport *t, size_t size)
{
	struct result *x = add(work->name, t->name, work->name);
	struct job *j = NULL;
	int r = -ENODEV;

	x->sized = true;
	x->size = size;
	x->plan = plan_for(size);
	if (!bus1_missing || strncmp(t->name, "bus1", 4))
		r = work->open(&j, t, size, work->touch);
	run(x, j, r);
}

static void run_all(void)
{
	struct job *j = NULL;

	for (size_t w = 0; w < ARRAY_SIZE(sized_works); w++) {
		const struct sized_work *work = &sized_works[w];
		const struct range *range = work->range;
		const size_t *sizes = opt.brief ? range->sizes_short : range->sizes;

		if (!wanted(work->name) || (work->asked && !opt.touch && !opt.filter))
			continue;
		for (size_t s = 0; s < MAX_SIZES && (!s || sizes[s]); s++)
			for (size_t t = 0; t < ARRAY_SIZE(range->transports); t++)
				run_sized(work, range->transports[t], sizes[s]);
	}

	for (size_t w = 0; w < ARRAY_SIZE(plain_works); w++) {
		const struct plain_work *work = &plain_works[w];
		int r = -ENODEV;

		if (!wanted(work->rival))
			continue;
		if (!bus1_missing || strcmp(work->transport, "bus1"))
			r = work->open(&j);
		run(add(work->name, work->transport, work->rival), j, r);
	}
	for (size_t w = 0; w < ARRAY_SIZE(many_works); w++)
		if (wanted(many_works[w].name))
			run_many(&many_works[w]);
	set_ratios();

	for (size_t b = 0; b < ARRAY_SIZE(bars); b++) {
		const struct result *x = report_find(&report, bars[b].work, bars[b].transport ?: "bus1",
						     bars[b].size, bars[b].count);
		struct bar *bar;

		if (!has_bar(&bars[b]))
			continue;
		bar = &report.bars[report.n_bars++];
		*bar = bars[b];
		bar->ratio = !x ? 0 : x->base ? x->growth : x->ratio;
		bar->known = bar->ratio > 0;
		bar->reached = bar->known && bar->ratio <= bar->limit;
	}
}

/* WORK,SIZE,TRANSPORT,N: nothing but that, after its warm-up. */
static int run_loop(char *spec)
{
	char *field[4], *end;
	struct job *j = NULL;
	struct plan plan;
	size_t size;
	unsigned long n;
	double each = 0;
	int r = -EINVAL;

	for (size_t i = 0; i < ARRAY_SIZE(field); i++)
		field[i] = strsep(&spec, ",");
	if (!field[3] || spec)
		goto usage;
	size = strtoul(field[1], &end, 10);
	if (*end || !*field[1])
		goto usage;
	n = strtoul(field[3], &end, 10);
	if (*end || !n)
		goto usage;

	plan = plan_for(size);
	for (size_t w = 0; w < ARRAY_SIZE(sized_works); w++)
		for (size_t t = 0; t < ARRAY_SIZE(sized_works[w].range->transports); t++) {
			const struct transport *transport = sized_works[w].range->transports[t];

			if (!strcmp(sized_works[w].name, field[0]) && !strcmp(transport->name, field[2]))
				r = sized_works[w].open(&j, transport, size, sized_works[w].touch);
		}
	for (size_t w = 0; w < ARRAY_SIZE(plain_works); w++)
		if (!strcmp(plain_works[w].name, field[0]) && !strcmp(plain_works[w].transport, field[2]))
			r = plain_works[w].open(&j);
	for (size_t w = 0; w < ARRAY_SIZE(many_works); w++)
		if (!strcmp(many_works[w].name, field[0]) && !strcmp(many_works[w].transport, field[2])) {
			plan = plan_for_many(&many_works[w], size);
			r = many_works[w].open(&j, size);
		}
	if (r == -EINVAL && !j)
		goto usage;
	if (r == 0)
		r = j->verify(j);
	if (r == 0)
		r = j->run(j, plan.warmup);
	if (r == 0) {
		counter_mark_begin();
		r = measure_batch(j, n, &each);
		counter_mark_end();
	}
	if (j)
		j->close(j);
	if (r < 0) {
		fprintf(stderr, "bus1-bench: %s\n", strerror(-r));
		return 1;
	}
	printf("%s,%zu,%s,%lu: %.1f each\n", field[0], size, field[2], n, each);
	return 0;

usage:
	fprintf(stderr, "bus1-bench: --loop needs WORK,SIZE,TRANSPORT,N; see --help\n");
	return 2;
}

static void usage(FILE *f)
{
	fprintf(f,
		"Usage: bus1-bench [OPTION...]\n"
		"Measure what messages and capabilities cost on bus1, and on Unix sockets and pipes.\n"
		"\n"
		"  --short         only 64 B, 4 KiB and 64 KiB, of large 64 KiB and 1 MiB, no more\n"
		"                  than 1,000 handles and holders, and fewer rounds\n"
		"  --touch         also with both sides going through every byte\n"
		"  --filter WORK   only these, separated by commas: sendrecv, roundtrip,\n"
		"                  sendrecv-touch, roundtrip-touch, large, large-touch, life,\n"
		"                  pass, fanout, scale, death, flooded\n"
		"  --rounds N      operations in a batch (400; fewer for large payloads)\n"
		"  --json          write JSON\n"
		"  --check         exit with 1 if a bar is missed\n"
		"  --loop WORK,SIZE,TRANSPORT,N\n"
		"                  only do that N times, for a profiler; TRANSPORT is bus1,\n"
		"                  seqpacket, stream or pipe, for large also bus1-memfd or\n"
		"                  bus1-buffer; WORK may also be life-quiet or\n"
		"                  pass-new; SIZE of fanout, scale and death is how many\n"
		"                  receivers, handles and holders there are, of flooded how\n"
		"                  many users\n"
		"  --help          this text\n"
		"\n"
		"Of fanout only the sending is counted, of death only the destroying.\n"
		"\n"
		"Exit status: 0; 1 if something failed, brought the wrong data, or missed a bar\n"
		"under --check; 2 for a mistake on the command line.\n");
}

static int parse(int argc, char **argv)
{
	enum { SHORT = 1, TOUCH, FILTER, ROUNDS, JSON, CHECK, LOOP, HELP };
	static const struct option longs[] = {
		{ "short", no_argument, NULL, SHORT },
		{ "touch", no_argument, NULL, TOUCH },
		{ "filter", required_argument, NULL, FILTER },
		{ "rounds", required_argument, NULL, ROUNDS },
		{ "json", no_argument, NULL, JSON },
		{ "check", no_argument, NULL, CHECK },
		{ "loop", required_argument, NULL, LOOP },
		{ "help", no_argument, NULL, HELP },
		{ }
	};
	bool known = false;
	char *end;
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) >= 0) {
		switch (c) {
		case SHORT:
			opt.brief = true;
			break;
		case TOUCH:
			opt.touch = true;
			break;
		case FILTER:
			opt.filter = optarg;
			break;
		case ROUNDS:
			opt.rounds = strtoul(optarg, &end, 10);
			if (*end || !opt.rounds) {
				fprintf(stderr, "bus1-bench: --rounds needs a number above 0\n");
				return -EINVAL;
			}
			break;
		case JSON:
			opt.json = true;
			break;
		case CHECK:
			opt.check = true;
			break;
		case LOOP:
			opt.loop = optarg;
			break;
		case HELP:
		case 'h':
			usage(stdout);
			exit(0);
		default:
			return -EINVAL;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "bus1-bench: %s: no arguments are taken; see --help\n", argv[optind]);
		return -EINVAL;
	}
	if (!opt.rounds)
		opt.rounds = opt.brief ? 100 : 400;

	for (size_t i = 0; i < ARRAY_SIZE(sized_works); i++)
		known |= wanted(sized_works[i].name);
	for (size_t i = 0; i < ARRAY_SIZE(plain_works); i++)
		known |= wanted(plain_works[i].rival);
	for (size_t i = 0; i < ARRAY_SIZE(many_works); i++)
		known |= wanted(many_works[i].name);
	if (!known) {
		fprintf(stderr, "bus1-bench: --filter %s: no such work; see --help\n", opt.filter);
		return -EINVAL;
	}
	return 0;
}

int main(int argc, char **argv)
{
	bool failed = false;
	int fd, r;

	if (parse(argc, argv) < 0)
		return 2;

	pin();
	report.touch = opt.touch;
	report.unit = counter_start(&report.calibration);
	if (opt.loop)
		return run_loop(opt.loop);

	r = bus1_open(&fd);
	if (r < 0) {
		bus1_missing = true;
		fprintf(stderr, "bus1-bench: /dev/bus1: %s: without bus1, then\n", strerror(-r));
	} else {
		close(fd);
	}

	run_all();
	if (opt.json)
		report_json(stdout, &report);
	else
		report_text(stdout, &report);

	for (size_t i = 0; i < report.n_results; i++)
		failed |= report.results[i].error && report.results[i].error != -ENODEV;
	for (size_t i = 0; opt.check && i < report.n_bars; i++)
		failed |= !report.bars[i].reached;
	return failed ? 1 : 0;
}
