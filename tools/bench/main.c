// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

#define MAX_SIZES 6
#define MAX_TRANSPORTS 14

#define ALL_ROUNDTRIPS \
	&transport_floor, &transport_bus1_call, &transport_bus1_plain, &transport_bus1, &transport_libbus1, \
	&transport_seqpacket, &transport_stream, &transport_pipe, &transport_eventfd, &transport_futex, \
	&transport_mqueue, &transport_binder, &transport_varlink, &transport_dbus

/* What sized works go over, in which sizes. */
static const struct range {
	const struct transport *transports[MAX_TRANSPORTS];	/* up to the first NULL */
	size_t sizes[MAX_SIZES], sizes_short[MAX_SIZES];	/* up to the first 0 behind the first */
} small = {
	.transports = { &transport_bus1, &transport_seqpacket, &transport_stream, &transport_pipe,
			&transport_eventfd, &transport_futex, &transport_mqueue },
	.sizes = { 0, 64, 1 << 10, 4 << 10, 64 << 10, 1 << 20 },
	.sizes_short = { 64, 4 << 10, 64 << 10 },
}, calls = {
	.transports = { ALL_ROUNDTRIPS },
	.sizes = { 0, 64, 4 << 10, 64 << 10, 1 << 20 },
	.sizes_short = { 64, 4 << 10, 64 << 10 },
}, calls_touch = {
	.transports = { &transport_bus1_call, &transport_bus1, &transport_seqpacket, &transport_stream,
			&transport_pipe, &transport_eventfd, &transport_futex, &transport_mqueue,
			&transport_binder },
	.sizes = { 0, 64, 1 << 10, 4 << 10, 64 << 10, 1 << 20 },
	.sizes_short = { 64, 4 << 10, 64 << 10 },
}, calls_two = {
	.transports = { ALL_ROUNDTRIPS },
	.sizes = { 0, 64, 4 << 10, 64 << 10 },
	.sizes_short = { 64 },
}, calls_small = {
	.transports = { ALL_ROUNDTRIPS },
	.sizes = { 64 },
	.sizes_short = { 64 },
}, oneway = {
	.transports = { &transport_bus1, &transport_libbus1, &transport_seqpacket, &transport_stream,
			&transport_pipe, &transport_mqueue, &transport_binder, &transport_varlink,
			&transport_dbus },
	.sizes = { 64 },
	.sizes_short = { 64 },
}, large = {
	.transports = { &transport_bus1, &transport_bus1_memfd, &transport_bus1_buffer, &transport_seqpacket },
	.sizes = { 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20 },
	.sizes_short = { 64 << 10, 1 << 20 },
};

static const struct sized_work {
	const char *name;
	int (*open)(struct job **, const struct transport *, size_t, unsigned int);
	unsigned int how;	/* MESSAGE_* */
	bool asked;		/* only with --touch or --filter */
	const struct range *range;
} sized_works[] = {
	{ "sendrecv", job_sendrecv, 0, false, &small },
	{ "roundtrip", job_roundtrip, 0, false, &calls },
	{ "roundtrip-2cpu", job_roundtrip, MESSAGE_TWO, false, &calls_two },
	{ "roundtrip-apart", job_roundtrip, MESSAGE_APART, false, &calls_small },
	{ "roundtrip-hog", job_roundtrip, MESSAGE_HOG, false, &calls_small },
	{ "oneway", job_oneway, 0, false, &oneway },
	{ "sendrecv-touch", job_sendrecv, MESSAGE_TOUCH, true, &small },
	{ "roundtrip-touch", job_roundtrip, MESSAGE_TOUCH, true, &calls_touch },
	{ "large", job_sendrecv, 0, false, &large },
	{ "large-touch", job_sendrecv, MESSAGE_TOUCH, false, &large },
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
	{ "fanin", "bus1", job_fanin_bus1, { 1, 4, 16, 64 }, 64, 0, true },
	{ "fanin", "seqpacket", job_fanin_socket, { 1, 4, 16, 64 }, 64, 0, true },
	{ "fanin", "dgram", job_fanin_dgram, { 1, 4, 16, 64 }, 64, 0, true },
	{ "fanin", "pipe", job_fanin_pipe, { 1, 4, 16, 64 }, 64, 0, true },
	{ "scale", "bus1", job_scale, { 10, 1000, 100000 }, 1000, 10, false },
	{ "death", "bus1", job_death, { 10, 100, 1000, 10000 }, 1000, 1000, true },
	{ "flooded", "bus1", job_flood, { 1, 9 }, 9, 1, false },
	{ "inflight", "bus1-call", job_inflight, { 1, 101, 1001 }, 1001, 1, false },
};

static const struct bar bars[] = {
	{ .work = "sendrecv", .sized = true, .size = 64, .limit = 1.0, .title = "send and receive, 64 B" },
	{ .work = "sendrecv", .sized = true, .size = 4 << 10, .limit = 0.8, .title = "send and receive, 4 KiB" },
	{ .work = "sendrecv", .sized = true, .size = 64 << 10, .limit = 0.6, .title = "send and receive, 64 KiB" },
	{ .work = "roundtrip", .sized = true, .size = 64, .limit = 0.7, .transport = "bus1-call",
	  .title = "call, 64 B, to seqpacket" },
	{ .work = "roundtrip-2cpu", .sized = true, .size = 64, .limit = 0.63, .transport = "bus1-call",
	  .to_work = "roundtrip-apart", .title = "call on two CPUs, to seqpacket on two" },
	{ .work = "roundtrip", .sized = true, .size = 64, .limit = 0.9, .transport = "bus1-call", .to = "pipe",
	  .title = "call, 64 B, to pipe" },
	{ .work = "roundtrip", .sized = true, .size = 64, .limit = 0.47, .transport = "bus1-call", .to = "binder",
	  .title = "call, 64 B, to Binder" },
	{ .work = "roundtrip", .sized = true, .size = 64, .limit = 0.1, .transport = "bus1-call", .to = "dbus",
	  .title = "call, 64 B, to D-Bus through a broker" },
	{ .work = "roundtrip", .sized = true, .size = 64 << 10, .limit = 0.6, .transport = "bus1-call",
	  .title = "call, 64 KiB there and back, to seqpacket" },
	{ .work = "roundtrip-2cpu", .sized = true, .size = 64, .limit = 0.9, .transport = "bus1-call",
	  .to = "bus1-plain", .to_work = "roundtrip-apart", .title = "call on two CPUs, to plain wake-ups" },
	{ .work = "inflight", .count = 1001, .limit = 1.2, .transport = "bus1-call",
	  .title = "call, 1,000 others in flight, to alone" },
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

static int bus1_missing;		/* errno, if there is none */
static struct report report;

/* Fewer rounds where each does more, but enough to warm up all of a pool. */
static struct plan plan_for(size_t size, bool slow)
{
	unsigned long rounds = opt.rounds / (1 + size / 16384);
	unsigned long warmup = size > 65536 ? 20 : 200;

	if (slow) {
		rounds /= 8;
		warmup /= 8;
	}
	if (rounds < 8)
		rounds = opt.rounds < 8 ? opt.rounds : 8;
	if (size > 1 << 20) {
		rounds = rounds < 2 ? rounds : 2;
		warmup = 4;
	}
	if (slow && size >= 65536) {
		rounds = 1;
		warmup = size > 65536 ? 1 : 4;
	}
	return (struct plan){
		.warmup = warmup < 2 * opt.rounds ? warmup : 2 * opt.rounds,
		.rounds = rounds,
		.batches = opt.wall ? 0 : opt.brief || (slow && size > 65536) ? 5 : 9,
	};
}

/* About as many operations in a batch whatever the count is, and one round at least. */
static struct plan plan_for_many(const struct many_work *w, size_t count)
{
	struct plan p = plan_for(0, false);

	if (w->rounds_of_many) {
		p.rounds /= 1 + count / 8;
		if (p.rounds < 1)
			p.rounds = 1;
		p.warmup = p.rounds;
	}
	return p;
}

/* About as many operations in a batch as where a round is one. */
static struct plan plan_for_burst(bool slow)
{
	struct plan p = plan_for(0, slow);

	p.rounds = (p.rounds + ONEWAY_BURST - 1) / ONEWAY_BURST;
	p.warmup = slow ? 1 : 4;
	return p;
}

/* Whether a job over it can be opened; if not it is absent. */
static int have(const char *transport)
{
	absent("%s", "");
	return !bus1_missing || !strstr(transport, "bus1") ? 0 : absent("/dev/bus1: %s", strerror(bus1_missing));
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
	if (error == -ENODEV)
		snprintf(x->absent, sizeof(x->absent), "%s", absent_reason());
	if (error && !x->absent[0])
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
	*x = (struct result){ .work = work, .transport = transport, .rival = rival, .plan = plan_for(0, false) };
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
		int r;

		if (left_out(w, w->counts[c]))
			continue;
		x = add(w->name, w->transport, w->base ? NULL : w->name);
		x->count = w->counts[c];
		x->base = w->base;
		x->plan = plan_for_many(w, x->count);
		r = have(w->transport);
		if (r == 0)
			r = w->open(&j, x->count);
		run(x, j, r);
	}
}

/* Those of large counts only where these are run. */
static bool has_bar(const struct bar *b)
{
	if (!wanted(b->work) || (b->to_work && !wanted(b->to_work)))
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
	int r;

	x->sized = true;
	x->size = size;
	x->plan = work->open == job_oneway ? plan_for_burst(t->slow) : plan_for(size, t->slow);
	r = have(t->name);
	if (r == 0)
		r = work->open(&j, t, size, work->how);
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
			for (size_t t = 0; t < MAX_TRANSPORTS && range->transports[t]; t++)
				run_sized(work, range->transports[t], sizes[s]);
	}

	for (size_t w = 0; w < ARRAY_SIZE(plain_works); w++) {
		const struct plain_work *work = &plain_works[w];
		int r;

		if (!wanted(work->rival))
			continue;
		r = have(work->transport);
		if (r == 0)
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
		if (x && (bar->to || bar->to_work))
			bar->ratio = ratio(x, report_find(&report, bar->to_work ?: x->work, bar->to ?: "seqpacket",
							  x->size, x->count));
		else
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

	plan = plan_for(size, false);
	for (size_t w = 0; w < ARRAY_SIZE(sized_works); w++)
		for (size_t t = 0; t < MAX_TRANSPORTS; t++) {
			const struct transport *transport = sized_works[w].range->transports[t];

			if (transport && !strcmp(sized_works[w].name, field[0]) &&
			    !strcmp(transport->name, field[2]))
				r = sized_works[w].open(&j, transport, size, sized_works[w].how);
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
		fprintf(stderr, "bus1-bench: %s\n",
			r == -ENODEV && *absent_reason() ? absent_reason() : strerror(-r));
		return 1;
	}
	printf("%s,%zu,%s,%lu: %.1f each\n", field[0], size, field[2], n, each);
	return 0;

usage:
	fprintf(stderr, "bus1-bench: --loop needs WORK,SIZE,TRANSPORT,N; see --help\n");
	return 2;
}

/* Whether --filter names any work that there is. */
static bool any_wanted(void)
{
	bool known = false;

	for (size_t i = 0; i < ARRAY_SIZE(sized_works); i++)
		known |= wanted(sized_works[i].name);
	for (size_t i = 0; i < ARRAY_SIZE(plain_works); i++)
		known |= wanted(plain_works[i].rival);
	for (size_t i = 0; i < ARRAY_SIZE(many_works); i++)
		known |= wanted(many_works[i].name);
	if (!known)
		fprintf(stderr, "bus1-bench: --filter %s: no such work; see --help\n", opt.filter);
	return known;
}

/* The command line, for whoever finds a report. */
static char *join(int argc, char **argv)
{
	size_t n = sizeof("bus1-bench");
	char *text, *end;

	for (int i = 1; i < argc; i++)
		n += strlen(argv[i]) + 1;
	text = malloc(n);
	if (!text)
		return NULL;
	end = stpcpy(text, "bus1-bench");
	for (int i = 1; i < argc; i++)
		end = stpcpy(stpcpy(end, " "), argv[i]);
	return text;
}

int main(int argc, char **argv)
{
	bool failed = false;
	FILE *save = NULL;
	int fd, r;

	report.command = join(argc, argv);	/* which are sorted next */
	if (options_parse(argc, argv) < 0 || !any_wanted())
		return 2;
	if (opt.save) {
		save = fopen(opt.save, "we");
		if (!save) {
			fprintf(stderr, "bus1-bench: %s: %s\n", opt.save, strerror(errno));
			return 1;
		}
	}

	cpu_start();
	report.touch = opt.touch;
	report.unit = counter_start(opt.wall, &report.calibration);
	if (opt.loop)
		return run_loop(opt.loop);

	r = bus1_open(&fd);
	if (r < 0) {
		bus1_missing = -r;
		fprintf(stderr, "bus1-bench: /dev/bus1: %s: without bus1, then\n", strerror(-r));
	} else {
		close(fd);
	}

	run_all();
	if (opt.json)
		report_json(stdout, &report);
	else
		report_text(stdout, &report);

	if (save) {
		report_json(save, &report);
		if (fclose(save)) {
			fprintf(stderr, "bus1-bench: %s: %s\n", opt.save, strerror(errno));
			failed = true;
		}
	}

	for (size_t i = 0; i < report.n_results; i++)
		failed |= report.results[i].error && !report.results[i].absent[0];
	for (size_t i = 0; opt.check && i < report.n_bars; i++)
		failed |= !report.bars[i].reached;
	return failed ? 1 : 0;
}
