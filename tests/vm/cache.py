# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of expensive things: build root, kernel source, kernels.

An entry is a directory named KIND-KEY, where KEY is a digest of everything that
went into it. It is made under another name and renamed when whole, so an entry
that exists is complete. Whoever makes one holds a lock of that entry; others
wait for it and say so."""

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import time

from steps import Failure, say

STALE = 14 * 24 * 3600  # an entry unused for so long is dropped when its kind is made anew


def top():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        raise Failure(f"XDG_CACHE_HOME is not an absolute path: {base}")
    return os.path.join(base, "bus1")


def digest(*parts):
    """Key of what depends on all of `parts` (strings); unambiguous, short."""
    h = hashlib.sha256()
    for part in parts:
        data = part.encode()
        h.update(b"%d:" % len(data) + data)
    return h.hexdigest()[:12]


@contextlib.contextmanager
def lock(name, what):
    """Hold the lock `name` among all runs of this user; tell when that means waiting."""
    os.makedirs(os.path.join(top(), "locks"), exist_ok=True)
    fd = os.open(os.path.join(top(), "locks", name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                holder = os.pread(fd, 20, 0).decode().strip()
            except OSError:
                holder = ""
            say(f"  waiting for another ./dev (process {holder or 'unknown'}) to finish: {what}")
            fcntl.flock(fd, fcntl.LOCK_EX)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def need_space(gigabytes, what):
    os.makedirs(top(), exist_ok=True)
    free = shutil.disk_usage(top()).free / 1e9
    if free < gigabytes:
        raise Failure(f"not enough space for {what}: {free:.1f} GB free in {top()}, "
                      f"{gigabytes} GB needed",
                      hint="free some, or set XDG_CACHE_HOME to a directory with more room")


def mounts(path):
    """Where something is mounted in a tree, or as it, the deepest first."""
    prefix = os.path.realpath(path) + "/"
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as f:
        where = [re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[1]) for line in f]
    return sorted((m for m in where if (m + "/").startswith(prefix)), reverse=True)


def remove(path):
    """Remove a tree of ours, directories without write permission included.

    Never what is mounted in it, which may be a view of what is not ours."""
    mounted = mounts(path) if os.path.isdir(path) and not os.path.islink(path) else ()
    if mounted:
        raise Failure(f"something is mounted in {path}, which is to be removed",
                      hint="unmount it: sudo umount " + shlex.join(mounted))

    def again(function, name, _error):
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(name), 0o700)
            os.chmod(name, 0o700)
            function(name)
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.isdir(path):
        shutil.rmtree(path, onerror=again)
        if os.path.exists(path):
            subprocess.run(["rm", "-rf", "--", path], check=False)


def entry(kind, key, make, what, gigabytes):
    """The directory of kind and key; `make(directory)` fills it if there is none yet."""
    path = os.path.join(top(), f"{kind}-{key}")
    if os.path.isdir(path):
        os.utime(path)
        return path
    with lock(f"{kind}-{key}", what):
        if os.path.isdir(path):
            return path
        need_space(gigabytes, what)
        drop_stale(kind)
        work = path + ".part"
        remove(work)
        os.makedirs(work)
        try:
            make(work)
            os.rename(work, path)
        except BaseException:
            remove(work)
            raise
    return path


def drop_stale(kind):
    now = time.time()
    for name in os.listdir(top()):
        path = os.path.join(top(), name)
        if name.startswith(kind + "-") and os.path.isdir(path) and \
                now - os.stat(path).st_mtime > STALE:
            say(f"  dropping {name}, unused for two weeks")
            remove(path)
