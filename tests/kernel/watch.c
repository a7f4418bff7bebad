// SPDX-License-Identifier: GPL-2.0-or-later
#include "watch.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRACEFS "/sys/kernel/tracing"
#define OURS TRACEFS "/instances/bus1-test"

struct event events[MAX_EVENTS];
static size_t n_events;

u64 fdinfo_of(pid_t pid, int fd, const char *key)
{
	char path[64], line[128], *tab;
	u64 value = 0;
	int found = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	f = fopen(path, "re");
	if (!f)
		FAIL("%s: %s", path, strerrorname_np(errno));
	while (fgets(line, sizeof(line), f)) {
		tab = strstr(line, ":\t");
		if (!tab)
			continue;
		*tab = 0;
		if (!strcmp(line, key)) {
			value = strtoull(tab + 2, NULL, 10);
			found++;
		}
	}
	fclose(f);
	if (found != 1)
		FAIL("%s: %d times in %s", key, found, path);
	return value;
}

u64 fdinfo(int fd, const char *key)
{
	return fdinfo_of(getpid(), fd, key);
}

u64 peer_id(const struct peer *p)
{
	u64 id = fdinfo(p->fd, "peer");

	NE(id, 0);
	return id;
}

static void put(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_TRUNC | O_CLOEXEC);

	if (fd < 0)
		FAIL("%s: open: %s", file, strerrorname_np(errno));
	if (write(fd, text, strlen(text)) < 0)
		FAIL("%s: write: %s", file, strerrorname_np(errno));
	close(fd);
}

static const char *event_file(const char *event)
{
	static char file[128];

	if (event)
		snprintf(file, sizeof(file), OURS "/events/bus1/bus1_%s/enable", event);
	else
		snprintf(file, sizeof(file), OURS "/events/bus1/enable");
	return file;
}

void trace_set(const char *event, bool on)
{
	put(event_file(event), on ? "1" : "0");
}

bool trace_is_on(const char *event)
{
	char state[4] = "";
	int fd = (int)OK(SYS(open(event_file(event), O_RDONLY | O_CLOEXEC)));

	GT(read(fd, state, sizeof(state) - 1), 0);
	close(fd);
	return *state == '1';
}

void trace_start(void)
{
	if (geteuid())
		SKIP("only for root");
	if (access(TRACEFS "/instances", F_OK) &&
	    mount("tracefs", TRACEFS, "tracefs", 0, NULL) && errno != EBUSY)
		SKIP("there is no tracefs");
	if (access(TRACEFS "/events/bus1", F_OK))
		SKIP("this kernel has no trace events");
	trace_stop();
	OK(SYS(mkdir(OURS, 0700)));
	/* One order for all processors. */
	put(OURS "/trace_clock", "counter");
	trace_set(NULL, true);
}

void trace_stop(void)
{
	if (access(OURS, F_OK))
		return;
	if (!access(event_file(NULL), F_OK))
		trace_set(NULL, false);
	OK(SYS(rmdir(OURS)));
}

void trace_clear(void)
{
	put(OURS "/trace", "");
}

size_t trace_read(void)
{
	char line[512], *at, *colon;
	FILE *f = fopen(OURS "/trace", "re");

	CHECK(f);
	n_events = 0;
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, "LOST"))
			FAIL("%s", line);
		if (*line == '#')
			continue;
		at = strstr(line, ": bus1_");
		CHECK(at);
		at += strlen(": bus1_");
		colon = strchr(at, ':');
		CHECK(colon);
		LT(n_events, MAX_EVENTS);
		snprintf(events[n_events].name, sizeof(events->name), "%.*s",
			 (int)(colon - at), at);
		/* With a space on both sides of each word. */
		colon[strcspn(colon, "\n")] = ' ';
		snprintf(events[n_events].text, sizeof(events->text), "%s", colon + 1);
		n_events++;
	}
	fclose(f);
	return n_events;
}

bool event_is(const struct event *e, const char *word)
{
	char padded[64];

	snprintf(padded, sizeof(padded), " %s ", word);
	return strstr(e->text, padded);
}

u64 event_number(const struct event *e, const char *key)
{
	char padded[32], *at;

	snprintf(padded, sizeof(padded), " %s=", key);
	at = strstr(e->text, padded);
	if (!at)
		FAIL("no %s in %s:%s", key, e->name, e->text);
	return strtoull(at + strlen(padded), NULL, 10);
}

static bool matches(const struct event *e, const char *name, const char *word)
{
	return !strcmp(e->name, name) && (!word || event_is(e, word));
}

const struct event *event_next(const struct event *from, const char *name, const char *word)
{
	for (const struct event *e = from ? from + 1 : events; e < events + n_events; e++)
		if (matches(e, name, word))
			return e;
	FAIL("no %s %s after %s%s", name, word ?: "", from ? from->name : "the start",
	     from ? from->text : "");
}

size_t event_count(const char *name, const char *word)
{
	size_t n = 0;

	for (const struct event *e = events; e < events + n_events; e++)
		n += matches(e, name, word);
	return n;
}

static bool file_has(const char *file, const char *word)
{
	char line[512];
	bool has = false;
	FILE *f = fopen(file, "re");

	if (!f)
		return false;
	while (!has && fgets(line, sizeof(line), f))
		has = strstr(line, word);
	fclose(f);
	return has;
}

bool code_is_patched(void)
{
	return file_has("/proc/cpuinfo", "TCG") &&
	       file_has("/proc/kallsyms", " arch_jump_label_transform");
}
