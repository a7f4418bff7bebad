# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes initramfs archives ("newc" cpio, uncompressed), all files owned by root.

Archives can be concatenated, later entries replacing earlier ones; that is how
a cached base gets what was built just now on top."""

import os
import stat


class Archive:
    def __init__(self, out):
        self.out, self.ino, self.dirs = out, 0, set()

    def _entry(self, name, mode, data=b"", rdev=(0, 0)):
        self.ino += 1
        name = name.encode() + b"\0"
        length = len(data)
        fields = (self.ino, mode, 0, 0, 1, 0, length, 0, 0, *rdev, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % f for f in fields) + name
        self.out.write(header + b"\0" * (-len(header) % 4))
        self.out.write(data + b"\0" * (-length % 4))

    def directory(self, name, mode=0o755):
        """A directory and those above it, each once."""
        name = name.strip("/")
        if not name or name in self.dirs:
            return
        self.directory(os.path.dirname(name))
        self.dirs.add(name)
        self._entry(name, stat.S_IFDIR | mode)

    def file(self, name, data, mode=0o644):
        name = name.strip("/")
        self.directory(os.path.dirname(name))
        self._entry(name, stat.S_IFREG | mode, data)

    def symlink(self, name, target):
        name = name.strip("/")
        self.directory(os.path.dirname(name))
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name, major, minor, mode=0o600):
        name = name.strip("/")
        self.directory(os.path.dirname(name))
        self._entry(name, stat.S_IFCHR | mode, rdev=(major, minor))

    def copy(self, source, name):
        """Whatever `source` is, but for devices and sockets, with its mode."""
        info = os.lstat(source)
        if stat.S_ISLNK(info.st_mode):
            self.symlink(name, os.readlink(source))
        elif stat.S_ISDIR(info.st_mode):
            self.directory(name, stat.S_IMODE(info.st_mode))
        elif stat.S_ISREG(info.st_mode):
            with open(source, "rb") as f:
                self.file(name, f.read(), stat.S_IMODE(info.st_mode))

    def tree(self, source, name=""):
        """Everything below the directory `source`, placed below `name`."""
        for top, dirs, files in os.walk(source):
            dirs.sort()
            below = os.path.normpath(os.path.join(name, os.path.relpath(top, source)))
            for entry in sorted(files) + [d for d in dirs]:
                self.copy(os.path.join(top, entry), os.path.join(below, entry))

    def end(self):
        self._entry("TRAILER!!!", 0)
        self.out.write(b"\0" * (-self.out.tell() % 512))
