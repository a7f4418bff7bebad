# SPDX-License-Identifier: GPL-2.0-or-later
"""Test results: reads the protocol that test programs speak, counts, and tells.

A program prints `ok NAME`, `not ok NAME: why` and `skip NAME: why`; anything
else it prints is shown if the next result is a failure. A program that dies, or
fails without saying which test failed, is one failed test by itself."""

import re
import signal
import sys

import logcheck
import steps
from steps import say

RESULT = re.compile(r"^(ok|not ok|skip) (.+)$")
TIME = re.compile(r"^# +[0-9.]+ s  .+$")
KTAP = re.compile(r"^(\s*)(ok|not ok) \d+ (?:- )?(.*?)(?:\s+# (SKIP|skip)\b.*)?$")
SUBTEST = re.compile(r"^\s+# Subtest: (.*)$")
KEEP = 200  # lines of a program's output that are kept for a failure


class Tally:
    """The counts of a whole run, and the printing of each failure when it happens."""

    def __init__(self):
        self.passed, self.skipped, self.failures = 0, 0, []
        self.skips = []

    def ok(self, name):
        self.passed += 1
        self.record("ok " + name)

    def skip(self, name, why=""):
        self.skipped += 1
        self.skips.append(f"{name}: {why}" if why else name)
        self.record("skip " + self.skips[-1])

    def fail(self, name, why="", output=()):
        self.failures.append(f"{name}: {why}" if why else name)
        self.note(f"  FAILED {self.failures[-1]}")
        for line in output:
            self.note("    | " + line)

    def record(self, line):
        """Kept beside the run's other logs, for who comes when it is over."""
        with open(steps.log_path("results"), "a", encoding="utf-8") as f:
            f.write(line + "\n")

    def check(self, name, good, why="", output=()):
        if good:
            self.ok(name)
        else:
            self.fail(name, why, output)

    def note(self, text):
        say(text)
        self.record(text)

    def counts(self):
        return self.passed, len(self.failures), self.skipped

    def close(self):
        """The summary, whose last line is the one that machines read. Returns the exit status."""
        if self.failures:
            say("")
            say("failed:")
            for failure in self.failures:
                say("  " + failure)
        if self.skips:
            say(f"skipped, {self.skipped}:")
            for skip in self.skips:
                say("  " + skip)
        sys.stderr.flush()
        print(f"{self.passed} passed, {len(self.failures)} failed", flush=True)
        return 1 if self.failures or not self.passed else 0


def ending(status, limit):
    """What the exit status of a program under timeout(1) means."""
    if status in (124, 137):
        return f"did not end within {limit} s"
    if status > 128:
        try:
            return f"killed by {signal.Signals(status - 128).name}"
        except ValueError:
            pass
    return f"exit status {status}"


class Reader:
    """Takes the output of the guest's runner as it comes."""

    def __init__(self, tally, kernel, limit, filters=(), verbose=False):
        self.tally, self.kernel, self.limit, self.verbose = tally, kernel, limit, verbose
        self.filters = filters  # programs may print more than these select: it does not count
        self.rest = b""
        self.program = None
        self.output, self.before, self.failed_here = [], (0, 0, 0), False
        self.programs = 0

    def feed(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.line(line.decode(errors="replace").rstrip("\r"))

    def line(self, line):
        if self.verbose:
            print(line.replace("\x1e", "# "), flush=True)
        if line.startswith("\x1ebegin "):
            self.program = line[7:]
            self.output, self.failed_here = [], False
            self.before = self.tally.counts()
            self.programs += 1
            return
        if line.startswith("\x1eend "):
            name, status, milliseconds = line[5:].rsplit(" ", 2)
            self.end(name, int(status), int(milliseconds))
            return
        if TIME.match(line):  # BUS1_TEST_TIMES, for who asks where a run's time goes
            self.tally.record(line)
            return
        match = RESULT.match(line)
        if not match or self.program is None:
            if line:
                self.output = (self.output + [line])[-KEEP:]
            return
        verdict, rest = match.groups()
        name, _, why = rest.partition(": ")
        if self.filters and not any(f in name for f in self.filters):
            self.output = []
            return
        where = f"{self.kernel} {name}"
        if verdict == "ok":
            self.tally.ok(where)
        elif verdict == "skip":
            self.tally.skip(where, why)
        else:
            self.failed_here = True
            self.tally.fail(where, why, self.output)
        self.output = []

    def end(self, name, status, milliseconds):
        passed, failed, skipped = (a - b for a, b in zip(self.tally.counts(), self.before))
        if status != 0 and not self.failed_here and not (self.filters and passed + failed + skipped == 0
                                                         and status < 128 and status != 124):
            self.tally.fail(f"{self.kernel} {name}", ending(status, self.limit), self.output)
        elif status == 0 and not self.filters and passed + failed + skipped == 0:
            self.tally.fail(f"{self.kernel} {name}", "ran no test", self.output)
        if not self.filters or passed + failed + skipped:
            self.tally.note(f"    {self.kernel} {name}: {passed} passed"
                            + (f", {failed} failed" if failed else "")
                            + (f", {skipped} skipped" if skipped else "") + f"  {milliseconds / 1000:.1f} s")
        self.program, self.output = None, []

    def whole(self, name, output, status, seconds):
        """All of a program's output at once. One that tells no results is a test by its status."""
        if status == 0 and not any(RESULT.match(line) for line in output.split("\n")):
            output += f"\nok {name}"
        self.line(f"\x1ebegin {name}")
        self.feed(output.encode() + b"\n")
        self.line(f"\x1eend {name} {status} {int(seconds * 1000)}")

    def close(self):
        """No more will come. A program still open is one the machine died under."""
        if self.rest:
            self.line(self.rest.decode(errors="replace"))
            self.rest = b""
        if self.program is not None:
            self.tally.fail(f"{self.kernel} {self.program}", "the machine ended while it ran", self.output)
            self.program = None


def kunit(log):
    """Results of the KUnit tests in a kernel log: (verdict, name), leaves only."""
    results = []
    suites = {}
    for raw in log.split("\n"):
        line = logcheck.strip(raw)
        match = SUBTEST.match(line)
        if match:
            suites[len(line) - len(line.lstrip())] = match.group(1).strip()
            continue
        match = KTAP.match(line)
        if not match or not match.group(1):
            continue
        indent, verdict, name, skipped = match.groups()
        suite = suites.get(len(indent), "")
        results.append(("skip" if skipped else verdict, f"{suite}.{name}" if suite else name))
    return results


def progress(tally, step_):
    """For a step's tick: how far the tests are."""
    passed, failed, _ = tally.counts()
    step_.tick(f"{passed} passed, {failed} failed")
