# SPDX-License-Identifier: GPL-2.0-or-later
"""What the person at the terminal sees: named steps with their elapsed time,
live progress of long commands, and failures that say what to do.

All of it goes to standard error; standard output belongs to what runs in the
virtual machine."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time

HEARTBEAT = 30.0  # seconds between signs of life where there is no terminal

LOGS_KEPT = 30  # runs whose logs are kept

log_dir = None  # of this run, set once by main; every command's output is kept there


class Failure(Exception):
    """An error that is the user's to act on: what happened, the log, the remedy."""

    def __init__(self, what, log=None, hint=None):
        super().__init__(what)
        self.what, self.log, self.hint = what, log, hint


def is_tty():
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def say(text):
    if is_tty():
        sys.stderr.write("\r\033[K")
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def duration(seconds):
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def last_line(path):
    """The end of a growing log, cheaply: only its last block is read."""
    try:
        with open(path, "rb") as f:
            f.seek(0, os.SEEK_END)
            f.seek(max(0, f.tell() - 8192))
            lines = f.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("$ ")]
    return lines[-1] if lines else ""


class Step:
    """One named piece of work. `quiet` steps are told only when they are slow."""

    def __init__(self, name, quiet=False):
        self.name, self.quiet = name, quiet
        self.start = time.monotonic()
        self.beat = self.start
        self.told = False
        self.note = ""

    def elapsed(self):
        return time.monotonic() - self.start

    def begin(self):
        if is_tty():
            sys.stderr.write(f"\r\033[K  {self.name} …")
            sys.stderr.flush()
        elif not self.quiet:
            say(f"  {self.name} …")

    def tick(self, detail=""):
        """Called often while work goes on; decides by itself whether to print."""
        now = time.monotonic()
        if is_tty():
            if now - self.beat < 0.2:
                return
            self.beat = now
            width = shutil.get_terminal_size().columns
            text = f"  {self.name} … {duration(now - self.start)}  {detail}"
            sys.stderr.write("\r\033[K" + text[: width - 1])
            sys.stderr.flush()
        elif now - self.beat >= HEARTBEAT:
            self.beat = now
            say(f"  {self.name} … {duration(now - self.start)}  {detail[:100]}")

    def end(self):
        if self.quiet and self.elapsed() < 2:
            if is_tty():
                sys.stderr.write("\r\033[K")
                sys.stderr.flush()
            return
        note = f"  ({self.note})" if self.note else ""
        say(f"  {self.name}: {duration(self.elapsed())}{note}")

    def run(self, argv, *, name=None, cwd=None, env=None, check=True, warnings=False,
            input=None, what=None, hint=None):
        """Run a command with its output kept in a log; returns the log's path.

        With `warnings`, what a compiler complained about is shown even when it
        succeeded: nobody reads the log of a build that worked."""
        name = name or self.name
        log = log_path(name)
        with open(log, "wb") as out:
            out.write(("$ " + shlex.join(str(a) for a in argv).replace("\n", " ") + "\n").encode())
            out.flush()
            try:
                proc = subprocess.Popen([str(a) for a in argv], stdout=out,
                                        stderr=subprocess.STDOUT, cwd=cwd, env=env,
                                        stdin=subprocess.PIPE if input is not None
                                        else subprocess.DEVNULL)
            except OSError as error:
                raise Failure(f"{name}: cannot run {argv[0]}: {error.strerror}", log) from None
            try:
                if input is not None:
                    proc.stdin.write(input)
                    proc.stdin.close()
                while True:
                    try:
                        proc.wait(0.2)
                        break
                    except subprocess.TimeoutExpired:
                        self.tick(last_line(log))
            except BaseException:
                stop(proc)
                raise
        self.rc = proc.returncode
        if check and proc.returncode != 0:
            raise Failure(what or f"{name} failed (exit status {proc.returncode})", log, hint)
        if warnings:
            with open(log, errors="replace") as f:
                lines = f.readlines()[1:]
            if any("warning" in line.lower() for line in lines):
                say("".join(lines).rstrip("\n"))
        return log


def stop(proc):
    """End a child of ours and wait for it; it had its chance to clean up."""
    if proc.poll() is None:
        proc.terminate()
        try:
            proc.wait(2)
        except subprocess.TimeoutExpired:
            proc.kill()
            proc.wait()


def open_logs(top, command):
    """A log directory for this run alone, as several may go on at once; old ones go."""
    global log_dir
    os.makedirs(top, exist_ok=True)
    runs = sorted(n for n in os.listdir(top) if os.path.isdir(os.path.join(top, n)) and n != "latest")
    for name in runs[:-LOGS_KEPT]:
        if not os.path.exists(f"/proc/{name.rsplit('-', 1)[-1]}"):
            shutil.rmtree(os.path.join(top, name), ignore_errors=True)
    name = time.strftime("%Y%m%d-%H%M%S-") + f"{command}-{os.getpid()}"
    log_dir = os.path.join(top, name)
    os.makedirs(log_dir)
    link = os.path.join(top, f".latest-{os.getpid()}")
    os.symlink(name, link)
    os.replace(link, os.path.join(top, "latest"))


def log_path(name):
    safe = "".join(c if c.isalnum() or c in "-." else "-" for c in name).strip("-")
    os.makedirs(log_dir, exist_ok=True)
    return os.path.join(log_dir, safe + ".log")


@contextlib.contextmanager
def step(name, quiet=False):
    s = Step(name, quiet)
    s.begin()
    try:
        yield s
    except BaseException:
        say(f"  {name}: FAILED after {duration(s.elapsed())}")
        raise
    s.end()


def excerpt(path, count=120):
    """The part of a log that says why: from the first error on, or else its end."""
    try:
        with open(path, errors="replace") as f:
            lines = f.read().split("\n")[1:]
    except OSError:
        return ""
    first = next((i for i, line in enumerate(lines) if re.search(r"\b(error|FAILED)\b", line)), None)
    part = lines[max(0, first - 5):][:count] if first is not None else lines[-40:]
    return "\n".join(part).rstrip("\n")


def report(failure):
    """Print a Failure the way every failure is printed."""
    if failure.log:
        text = excerpt(failure.log)
        if text:
            say(text)
    say(f"dev: {failure.what}")
    if failure.log:
        say(f"     log: {failure.log}")
    if failure.hint:
        say(f"     {failure.hint}")
