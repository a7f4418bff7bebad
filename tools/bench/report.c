// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench.h"

static const char *const columns[] = {
	"floor", "bus1-call", "bus1-plain", "bus1", "libbus1", "bus1-memfd", "bus1-buffer", "seqpacket", "stream",
	"dgram", "pipe", "eventfd", "futex", "mqueue", "binder", "varlink", "dbus",
};

#define WIDE 5		/* a table with more columns is turned */

/* Whether it has such a work. */
static bool has_column(const struct report *r, const char *work, const char *column)
{
	for (size_t i = 0; i < r->n_results; i++)
		if (!strcmp(r->results[i].work, work) && !strcmp(r->results[i].transport, column))
			return true;
	return false;
}

static const char *unit_name(enum unit u)
{
	switch (u) {
	case UNIT_INSTRUCTIONS:
		return "instructions";
	case UNIT_CYCLES:
		return "cycles";
	case UNIT_NS:
		break;
	}
	return "ns";
}

static const char *size_name(size_t size, char *buf, size_t n)
{
	if (size >= 1 << 20 && size % (1 << 20) == 0)
		snprintf(buf, n, "%zu MiB", size >> 20);
	else if (size >= 1 << 10 && size % (1 << 10) == 0)
		snprintf(buf, n, "%zu KiB", size >> 10);
	else
		snprintf(buf, n, "%zu B", size);
	return buf;
}

/* With a comma after each three digits. */
static const char *grouped(double value, char *buf, size_t n)
{
	char plain[32];
	size_t len, out = 0;

	snprintf(plain, sizeof(plain), "%.0f", value);
	len = strlen(plain);
	for (size_t i = 0; i < len && out + 2 < n; i++) {
		if (i && (len - i) % 3 == 0)
			buf[out++] = ',';
		buf[out++] = plain[i];
	}
	buf[out] = 0;
	return buf;
}

static void print_head(FILE *f, const struct report *r)
{
	struct utsname u;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	uname(&u);
	fprintf(f, "bus1-bench on Linux %s, %ld CPU%s\n", u.release, cpus, cpus == 1 ? "" : "s");
	if (r->unit == UNIT_INSTRUCTIONS)
		fprintf(f, "Counted: instructions of the whole machine (six read %.2f).\n", r->calibration);
	else if (r->unit == UNIT_CYCLES)
		fprintf(f, "Not under instruction counting: figures are cycles, and noisy.\n");
	else
		fprintf(f, "Nanoseconds of wall-clock: they depend on all else that the machine does.\n");
	fprintf(f, "Each figure is one operation, the median of %s. Beside it is its ratio to\n"
		   "seqpacket in this run: below 1.00 is cheaper.\n",
		r->results[0].plan.batches ? "batches" : "all");
}

static void print_cell(FILE *f, const struct result *r)
{
	char n[32];

	if (!r || r->absent[0])
		fprintf(f, "%18s", "-");
	else if (r->error)
		fprintf(f, "%18s", "failed");
	else if (r->ratio > 0 || r->growth > 0)
		fprintf(f, "  %10s %5.2f", grouped(r->figure.median, n, sizeof(n)),
			r->base ? r->growth : r->ratio);
	else
		fprintf(f, "%18s", grouped(r->figure.median, n, sizeof(n)));
}

const struct result *report_find(const struct report *r, const char *work, const char *transport, size_t size,
				 size_t count)
{
	for (size_t i = 0; i < r->n_results; i++) {
		const struct result *x = &r->results[i];

		if (!strcmp(x->work, work) && !strcmp(x->transport, transport) && x->size == size &&
		    x->count == count)
			return x;
	}
	return NULL;
}

/* Whether no result before this has such a work, size and count. */
static bool is_first(const struct report *r, size_t at)
{
	const struct result *x = &r->results[at];

	for (size_t k = 0; k < at; k++)
		if (!strcmp(r->results[k].work, x->work) && r->results[k].size == x->size &&
		    r->results[k].count == x->count)
			return false;
	return true;
}

static const char *row_name(const struct result *x, char *buf, size_t n)
{
	return x->sized ? size_name(x->size, buf, n) : grouped((double)x->count, buf, n);
}

/* A row a transport, a column a size or count. */
static void print_turned(FILE *f, const struct report *r, const char *work)
{
	char n[32];

	fprintf(f, "%12s", "");
	for (size_t i = 0; i < r->n_results; i++)
		if (!strcmp(r->results[i].work, work) && is_first(r, i))
			fprintf(f, "%18s", row_name(&r->results[i], n, sizeof(n)));
	fputc('\n', f);
	for (size_t c = 0; c < ARRAY_SIZE(columns); c++) {
		if (!has_column(r, work, columns[c]))
			continue;
		fprintf(f, "%12s", columns[c]);
		for (size_t i = 0; i < r->n_results; i++)
			if (!strcmp(r->results[i].work, work) && is_first(r, i))
				print_cell(f, report_find(r, work, columns[c], r->results[i].size,
							  r->results[i].count));
		fputc('\n', f);
	}
}

/*
 * One table of what has sizes or counts, if there is any: a row each, and a column a
 * transport, or the other way round.
 */
static void print_table(FILE *f, const struct report *r, const char *work, const char *title, const char *what)
{
	size_t n_columns = 0;
	char n[32];

	for (size_t c = 0; c < ARRAY_SIZE(columns); c++)
		n_columns += has_column(r, work, columns[c]);
	if (!n_columns)
		return;
	fprintf(f, "\n%s\n", title);
	if (n_columns >= WIDE) {
		print_turned(f, r, work);
		return;
	}
	fprintf(f, "%9s", what);
	for (size_t c = 0; c < ARRAY_SIZE(columns); c++)
		if (has_column(r, work, columns[c]))
			fprintf(f, "%18s", columns[c]);
	fputc('\n', f);
	for (size_t i = 0; i < r->n_results; i++) {
		const struct result *x = &r->results[i];

		if (strcmp(x->work, work) || !is_first(r, i))
			continue;
		fprintf(f, "%9s", row_name(x, n, sizeof(n)));
		for (size_t c = 0; c < ARRAY_SIZE(columns); c++)
			if (has_column(r, work, columns[c]))
				print_cell(f, report_find(r, work, columns[c], x->size, x->count));
		fputc('\n', f);
	}
}

static void print_chunks(FILE *f, const struct report *r, const char *work)
{
	char n[32], c[32];

	for (size_t i = 0; i < r->n_results; i++) {
		const struct result *x = &r->results[i];

		if (!x->sized || strcmp(x->work, work) || x->error)
			continue;
		if (x->chunk > x->size)
			fprintf(f, "  %s has no empty messages: 1 B instead\n", x->transport);
		else if (x->chunk < x->size)
			fprintf(f, "  %s takes %s in parts of %s\n", x->transport,
				size_name(x->size, n, sizeof(n)), size_name(x->chunk, c, sizeof(c)));
	}
}

static void print_line(FILE *f, const struct report *r, const char *work, const char *transport,
		       const char *title)
{
	const struct result *x = report_find(r, work, transport, 0, 0);

	if (!x)
		return;
	fprintf(f, "  %-59s", title);
	print_cell(f, x);
	fputc('\n', f);
}

/* Of what was measured one by one: how far the slowest are from the median. */
static void print_spread(FILE *f, const struct report *r)
{
	char n[32], a[32], b[32], c[32];
	bool head = false;

	for (size_t i = 0; i < r->n_results; i++) {
		const struct result *x = &r->results[i];

		if (x->error || !x->figure.p99)
			continue;
		if (!head)
			fprintf(f, "\nWhat the median, the slowest of 100 and the slowest of 1,000 take\n"
				   "%44s%14s%14s%14s\n", "", "p50", "p99", "p99.9");
		head = true;
		fprintf(f, "  %-18s%-12s%12s%14s%14s%14s\n", x->work, x->transport,
			x->sized || x->count ? row_name(x, n, sizeof(n)) : "",
			grouped(x->figure.median, a, sizeof(a)), grouped(x->figure.p99, b, sizeof(b)),
			x->figure.p999 > 0 ? grouped(x->figure.p999, c, sizeof(c)) : "-");
	}
}

/* Each that is absent somewhere, once for each reason. */
static void print_absent(FILE *f, const struct report *r)
{
	bool head = false;

	for (size_t i = 0; i < r->n_results; i++) {
		const struct result *x = &r->results[i];
		bool first = x->absent[0];

		for (size_t k = 0; k < i && first; k++)
			first = strcmp(r->results[k].transport, x->transport) ||
				strcmp(r->results[k].absent, x->absent);
		if (!first)
			continue;
		if (!head)
			fprintf(f, "\nAbsent\n");
		head = true;
		fprintf(f, "  %-12s %s: %s\n", x->transport, x->work, x->absent);
	}
}

/* A text in JSON. */
static void print_string(FILE *f, const char *text)
{
	fputc('"', f);
	for (; text && *text; text++) {
		if (*text == '"' || *text == '\\')
			fputc('\\', f);
		if ((unsigned char)*text >= ' ')
			fputc(*text, f);
	}
	fputc('"', f);
}

static void print_bars(FILE *f, const struct report *r)
{
	if (!r->n_bars)
		return;
	fprintf(f, "\nBars%s\n",
		r->unit == UNIT_INSTRUCTIONS ? "" : " (which are about instructions: here they say little)");
	for (size_t i = 0; i < r->n_bars; i++) {
		const struct bar *b = &r->bars[i];

		fprintf(f, "  %-46s at most %.2f", b->title, b->limit);
		if (b->known)
			fprintf(f, "   %.2f   %s\n", b->ratio, b->reached ? "reached" : "missed");
		else
			fprintf(f, "      -   not measured\n");
	}
}

void report_text(FILE *f, const struct report *r)
{
	static const struct {
		const char *work, *title;
	} tables[] = {
		{ "sendrecv", "Send and receive, in one thread" },
		{ "sendrecv-touch", "The same, each byte written before and read after" },
		{ "roundtrip", "Round trip between two processes, the payload there and back, on one CPU" },
		{ "roundtrip-2cpu", "The same on two CPUs" },
		{ "roundtrip-apart", "The same on two CPUs, each process kept on its own" },
		{ "roundtrip-hog", "The same on one CPU, with a process beside them that spins" },
		{ "oneway", "One way between two processes on one CPU, with a word back after each 64" },
		{ "roundtrip-touch", "Round trip on one CPU, each byte written before and read after" },
		{ "large", "Large payloads, in one thread: by the pool, in a memfd for each, in a buffer" },
		{ "large-touch", "The same, each byte written before and read after" },
	};

	print_head(f, r);
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
		print_table(f, r, tables[i].work, tables[i].title, "");
		print_chunks(f, r, tables[i].work);
	}

	if (report_find(r, "life", "seqpacket", 0, 0)) {
		fprintf(f, "\nThe life of one capability, in one thread\n");
		print_line(f, r, "life", "seqpacket", "open a pipe, pass an end (SCM_RIGHTS), receive, close all");
		print_line(f, r, "life-quiet", "bus1", "create a node, pass its handle, receive, release, destroy");
		print_line(f, r, "life", "bus1", "the same, and receive the notice that it is unused");
	}
	if (report_find(r, "pass", "seqpacket", 0, 0)) {
		fprintf(f, "\nPassing one that exists, in one thread\n");
		print_line(f, r, "pass", "seqpacket", "pass an fd (SCM_RIGHTS), receive, close");
		print_line(f, r, "pass", "bus1", "pass a handle, receive, release with the next receive");
		print_line(f, r, "pass-new", "bus1", "the same, new to the receiver each time");
	}
	print_table(f, r, "fanout", "One message of 64 B to many: sending it, once, or once for each", "peers");
	print_table(f, r, "fanin", "Messages of 64 B from many: sending each, and receiving them all", "senders");
	print_table(f, r, "scale",
		   "Send, look up and release, in a peer with many handles; beside it the ratio to 10", "handles");
	print_table(f, r, "death", "Destroy a node, per holder; beside it the ratio to 1,000", "holders");
	print_table(f, r, "flooded",
		   "Round trip in one thread, as all users but one flood the server; beside it the ratio to 1",
		   "users");
	print_table(f, r, "inflight",
		   "A call of 64 B, to a server with many in flight; beside it the ratio to 1", "calls");
	print_spread(f, r);
	print_absent(f, r);
	print_bars(f, r);
}

void report_json(FILE *f, const struct report *r)
{
	struct utsname u;

	uname(&u);
	fprintf(f, "{\n  \"schema\": \"bus1-bench/1\",\n");
	fprintf(f, "  \"kernel\": \"%s\",\n  \"machine\": \"%s\",\n  \"cpus\": %ld,\n", u.release, u.machine,
		sysconf(_SC_NPROCESSORS_ONLN));
	fprintf(f, "  \"command\": ");
	print_string(f, r->command);
	fprintf(f, ",\n  \"unit\": \"%s\",\n  \"instruction_counting\": %s,\n  \"calibration\": %.3f,\n",
		unit_name(r->unit), r->unit == UNIT_INSTRUCTIONS ? "true" : "false", r->calibration);
	fprintf(f, "  \"results\": [");
	for (size_t i = 0; i < r->n_results; i++) {
		const struct result *x = &r->results[i];

		fprintf(f, "%s\n    {\"work\": \"%s\", \"transport\": \"%s\"", i ? "," : "", x->work, x->transport);
		if (x->sized)
			fprintf(f, ", \"size\": %zu, \"chunk\": %zu", x->size, x->chunk);
		if (x->count)
			fprintf(f, ", \"count\": %zu", x->count);
		if (x->base)
			fprintf(f, ", \"base\": %zu", x->base);
		if (x->error) {
			fprintf(f, ", \"error\": ");
			print_string(f, x->absent[0] ? x->absent : strerror(-x->error));
			fprintf(f, ", \"absent\": %s}", x->absent[0] ? "true" : "false");
			continue;
		}
		fprintf(f, ", \"median\": %.1f, \"min\": %.1f, \"max\": %.1f, \"batches\": %u, \"rounds\": %lu",
			x->figure.median, x->figure.min, x->figure.max, x->plan.batches, x->plan.rounds);
		if (x->figure.p99 > 0)
			fprintf(f, ", \"p99\": %.1f", x->figure.p99);
		if (x->figure.p999 > 0)
			fprintf(f, ", \"p999\": %.1f", x->figure.p999);
		if (x->ratio > 0)
			fprintf(f, ", \"ratio\": %.4f", x->ratio);
		if (x->growth > 0)
			fprintf(f, ", \"growth\": %.4f", x->growth);
		fputc('}', f);
	}
	fprintf(f, "\n  ],\n  \"bars\": [");
	for (size_t i = 0; i < r->n_bars; i++) {
		const struct bar *b = &r->bars[i];

		fprintf(f, "%s\n    {\"work\": \"%s\", \"transport\": \"%s\", \"title\": \"%s\"",
			i ? "," : "", b->work, b->transport ?: "bus1", b->title);
		if (b->to)
			fprintf(f, ", \"to\": \"%s\"", b->to);
		if (b->to_work)
			fprintf(f, ", \"to_work\": \"%s\"", b->to_work);
		if (b->sized)
			fprintf(f, ", \"size\": %zu", b->size);
		if (b->count)
			fprintf(f, ", \"count\": %zu", b->count);
		fprintf(f, ", \"limit\": %.2f", b->limit);
		if (b->known)
			fprintf(f, ", \"ratio\": %.4f, \"reached\": %s}", b->ratio, b->reached ? "true" : "false");
		else
			fprintf(f, ", \"ratio\": null, \"reached\": null}");
	}
	fprintf(f, "\n  ]\n}\n");
}
