// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "bench.h"

static char reason[96];

int absent(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(reason, sizeof(reason), format, args);
	va_end(args);
	return -ENODEV;
}

const char *absent_reason(void)
{
	return reason;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int job_made(struct job **out, struct job *j, int r)
{
	if (r < 0)
		j->close(j);
	else
		*out = j;
	return r;
}

void job_pause(struct job *j)
{
	j->uncounted -= counter_read();
	counter_mark_pause();
}

void job_resume(struct job *j)
{
	counter_mark_resume();
	j->uncounted += counter_read();
}

int measure_batch(struct job *j, unsigned long rounds, double *each)
{
	uint64_t before = j->uncounted, start = counter_read();
	int r;

	r = j->run(j, rounds);
	start = counter_read() - start - (j->uncounted - before);
	*each = (double)start / (double)rounds / (double)(j->parts ? j->parts : 1);
	return r;
}

/* The value below which `part` of all are, the nearest that there was. */
static double quantile(const double *sorted, size_t n, double part)
{
	size_t i = (size_t)((double)n * part);

	return sorted[i < n ? i : n - 1];
}

int measure(struct job *j, const struct plan *p, struct figure *f)
{
	size_t n = p->batches ? p->batches : p->rounds;
	double *each;
	int r;

	if (p->rounds < 1)
		return -EINVAL;

	r = j->verify(j);
	if (r < 0)
		return r;
	r = j->run(j, p->warmup);
	if (r < 0)
		return r;

	each = calloc(n, sizeof(*each));
	if (!each)
		return -ENOMEM;
	for (size_t i = 0; i < n && r == 0; i++)
		r = measure_batch(j, p->batches ? p->rounds : 1, &each[i]);
	if (r == 0) {
		qsort(each, n, sizeof(*each), compare);
		f->min = each[0];
		f->max = each[n - 1];
		f->median = (each[(n - 1) / 2] + each[n / 2]) / 2;
		if (!p->batches && n >= 100)
			f->p99 = quantile(each, n, 0.99);
		if (!p->batches && n >= 1000)
			f->p999 = quantile(each, n, 0.999);
	}
	free(each);
	return r;
}
