// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>

#include "bench.h"

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
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

int measure(struct job *j, const struct plan *p, struct figure *f)
{
	double batch[64];
	int r;

	if (p->batches < 1 || p->batches > ARRAY_SIZE(batch) || p->rounds < 1)
		return -EINVAL;

	r = j->verify(j);
	if (r < 0)
		return r;
	r = j->run(j, p->warmup);
	if (r < 0)
		return r;

	for (unsigned int i = 0; i < p->batches; i++) {
		r = measure_batch(j, p->rounds, &batch[i]);
		if (r < 0)
			return r;
	}

	qsort(batch, p->batches, sizeof(batch[0]), compare);
	f->min = batch[0];
	f->max = batch[p->batches - 1];
	f->median = (batch[(p->batches - 1) / 2] + batch[p->batches / 2]) / 2;
	return 0;
}
