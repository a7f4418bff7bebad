// SPDX-License-Identifier: GPL-2.0-or-later
/* The command line. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

struct options opt;

bool wanted(const char *name)
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

static void usage(FILE *f)
{
	fprintf(f,
		"Usage: bus1-bench [OPTION...]\n"
		"Measure what calls, messages and capabilities cost on bus1 and on its rivals.\n"
		"\n"
		"  --short         only 64 B, 4 KiB and 64 KiB, of large 64 KiB and 1 MiB, no more\n"
		"                  than 1,000 handles and holders, and fewer rounds\n"
		"  --touch         also with both sides going through every byte\n"
		"  --filter WORK   only these, separated by commas: sendrecv, roundtrip,\n"
		"                  roundtrip-2cpu, roundtrip-apart, roundtrip-hog, oneway,\n"
		"                  sendrecv-touch, roundtrip-touch, large, large-touch, life,\n"
		"                  pass, fanout, fanin, scale, death, flooded, inflight\n"
		"  --clock WHAT    count: instructions, where they are counted, or else cycles;\n"
		"                  wall: nanoseconds, of each operation by itself, and what the\n"
		"                  slowest of a hundred and of a thousand take\n"
		"  --rounds N      operations in a batch (400; fewer for large payloads), or in\n"
		"                  all with --clock wall (10000)\n"
		"  --json          write JSON\n"
		"  --save FILE     also write JSON there\n"
		"  --check         exit with 1 if a bar is missed\n"
		"  --loop WORK,SIZE,TRANSPORT,N\n"
		"                  only do that N times, for a profiler; TRANSPORT is as it stands\n"
		"                  in the tables; WORK may also be life-quiet or pass-new; SIZE of\n"
		"                  fanout, fanin, scale, death and inflight is how many receivers,\n"
		"                  senders, handles, holders and calls there are, of flooded how\n"
		"                  many users\n"
		"  --help          this text\n"
		"\n"
		"Of fanout only the sending is counted, of death only the destroying.\n"
		"\n"
		"Exit status: 0; 1 if something failed, brought the wrong data, or missed a bar\n"
		"under --check; 2 for a mistake on the command line. What cannot be had on this\n"
		"machine is said to be absent, and is no failure.\n");
}

int options_parse(int argc, char **argv)
{
	enum { SHORT = 1, TOUCH, FILTER, CLOCK, ROUNDS, JSON, SAVE, CHECK, LOOP, HELP };
	static const struct option longs[] = {
		{ "short", no_argument, NULL, SHORT },
		{ "touch", no_argument, NULL, TOUCH },
		{ "filter", required_argument, NULL, FILTER },
		{ "clock", required_argument, NULL, CLOCK },
		{ "rounds", required_argument, NULL, ROUNDS },
		{ "json", no_argument, NULL, JSON },
		{ "save", required_argument, NULL, SAVE },
		{ "check", no_argument, NULL, CHECK },
		{ "loop", required_argument, NULL, LOOP },
		{ "help", no_argument, NULL, HELP },
		{ }
	};
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
		case CLOCK:
			opt.wall = !strcmp(optarg, "wall");
			if (!opt.wall && strcmp(optarg, "count")) {
				fprintf(stderr, "bus1-bench: --clock %s: neither count nor wall\n", optarg);
				return -EINVAL;
			}
			break;
		case JSON:
			opt.json = true;
			break;
		case SAVE:
			opt.save = optarg;
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
		opt.rounds = opt.wall ? (opt.brief ? 2000 : 10000) : opt.brief ? 100 : 400;
	return 0;
}
