# SPDX-License-Identifier: GPL-2.0-or-later
"""What the virtual machine finds: an initramfs of a cached base (Debian programs)
and an overlay of what was built from the checkout, made anew each time."""

import json
import os
import shlex
import shutil

import cache
import cpio
import kernels
from steps import Failure, log_path, say, step

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
RECIPE = "1"

PACKAGES = """
    base-files bash dash coreutils util-linux mount procps strace bubblewrap jq kmod grep sed mawk
    findutils diffutils hostname ncurses-base libc-bin libc6-i386 busybox-static
    libglib2.0-0t64 libsystemd0 liburing2 libuv1t64 dbus-broker
""".split()
SKIP = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info",
        "/usr/share/lintian", "/usr/share/bash-completion", "/usr/share/bug", "/usr/share/perl",
        "/usr/lib32/gconv", "/usr/lib/x86_64-linux-gnu/gconv", "/usr/share/initramfs-tools",
        "/usr/lib/systemd", "/lib/systemd", "/etc/init.d", "/usr/sbin/ldconfig", "/usr/bin/localedef",
        "/usr/bin/iconv", "/usr/share/base-files", "/usr/share/polkit-1", "/var")
MODULES = ("binder_linux",)  # of Debian's kernel; the own ones have theirs built in
USERS = ("root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
         + "".join(f"user{n}:x:{1000 + n}:{1000 + n}::/tmp:/bin/bash\n" for n in range(4)))
GROUPS = "root:x:0:\nnogroup:x:65534:\n" + "".join(f"user{n}:x:{1000 + n}:\n" for n in range(4))


def make_base(root, path):
    listing = root.output(["dpkg", "-L", *PACKAGES]).split("\n")
    wanted = set()
    for name in listing:
        if not name.startswith("/") or name == "/." or name.startswith(SKIP):
            continue
        directory, base = os.path.split(name)  # /bin, /lib and so on are links into /usr
        if directory.split("/")[1] in ("bin", "sbin", "lib", "lib64", "lib32"):
            directory = "/usr" + directory
        name = os.path.join(directory, base)
        if os.path.lexists(root.inside(name)):
            wanted.add(name)
    programs = sorted(n for n in wanted if n.startswith(("/usr/bin/", "/usr/sbin/", "/usr/lib/x86_64"))
                      and os.path.isfile(root.inside(n)) and not os.path.islink(root.inside(n)))
    libraries = root.output(["sh", "-c", "ldd \"$@\" 2>/dev/null; true", "ldd", *programs])
    for word in libraries.split():
        if word.startswith("/") and not word.endswith(":"):
            # Each link on the way to the file, under the names the loader uses.
            if not word.startswith("/usr"):
                word = "/usr" + word
            while word not in wanted:
                wanted.add(word)
                if os.path.islink(root.inside(word)):
                    word = os.path.normpath(os.path.join(os.path.dirname(word),
                                                         os.readlink(root.inside(word))))
    modules = f"/usr/lib/modules/{root.release}"
    staged = os.path.join(path, "modules")
    for top, _dirs, files in os.walk(root.inside("/var/lib/bus1/modules")):
        for f in files:
            if f.split(".")[0] in MODULES or f.startswith("modules.builtin") or f == "modules.order":
                os.makedirs(staged + modules + "/kernel", exist_ok=True)
                sub = "/kernel/" if ".ko" in f else "/"
                shutil.copyfile(os.path.join(top, f), staged + modules + sub + f)
    os.symlink("usr/lib", os.path.join(staged, "lib"))  # depmod looks below /lib only
    root.output(["depmod", "-b", "/b/guest", root.release], [(staged, "/b/guest")])
    os.unlink(os.path.join(staged, "lib"))

    with open(os.path.join(path, "base.cpio"), "wb") as out:
        archive = cpio.Archive(out)
        for name in ("bin", "sbin", "lib", "lib64", "lib32"):
            if os.path.islink(root.inside("/" + name)):
                archive.symlink(name, f"usr/{name}")
        for name in ("proc", "sys", "dev", "run", "root", "mnt", "usr/lib", "usr/bin", "usr/sbin"):
            archive.directory(name)
        archive.directory("tmp", 0o1777)
        archive.directory("var/tmp", 0o1777)
        archive.device("dev/console", 5, 1)
        archive.device("dev/null", 1, 3, 0o666)
        archive.file("etc/passwd", USERS.encode())
        archive.file("etc/group", GROUPS.encode())
        archive.file("etc/hosts", b"127.0.0.1 localhost\n")
        for name in sorted(wanted - {"/etc/passwd", "/etc/group"}):
            if name.strip("/") in archive.dirs:
                continue
            archive.copy(root.inside(name), name)
        archive.tree(staged)
        archive.end()
    cache.remove(staged)


def base(root):
    def make(path):
        with step("collect the guest's programs"):
            make_base(root, path)
    key = cache.digest(RECIPE, root.path, " ".join(PACKAGES), " ".join(SKIP), " ".join(MODULES),
                       USERS, GROUPS)
    return os.path.join(cache.entry("guest", key, make, "the guest's programs", 0.2), "base.cpio")


class Build:
    """What the checkout builds to: the installed tree, and a module for each kernel."""

    def __init__(self, root):
        self.root = root
        self.name = cache.digest(CHECKOUT, root.path)
        self.work = os.path.join(cache.top(), "work", self.name)
        self.tree = os.path.join(self.work, "installed")
        self.modules = {}
        self.floors = {}
        os.makedirs(self.work, exist_ok=True)
        with open(os.path.join(self.work, "checkout"), "w", encoding="utf-8") as f:
            f.write(CHECKOUT + "\n")

    def lock(self):
        return cache.lock("build-" + self.name, "building this checkout")

    def configure(self, name, options=()):
        """Configure the meson build NAME unless it is; ninja notices changed build files itself."""
        if os.path.exists(os.path.join(self.work, name, "build.ninja")):
            return
        cache.remove(os.path.join(self.work, name))
        with step(f"configure {name}", quiet=True) as s:
            s.run(self.root.command(
                ["meson", "setup", f"/b/work/{name}", CHECKOUT, "--prefix=/usr", "--sysconfdir=/etc",
                 "--libdir=lib/x86_64-linux-gnu", "--buildtype=debugoptimized",
                 "--wrap-mode=nodownload", *options], self.binds()),
                what="user space cannot be configured")

    def binds(self):
        return [(CHECKOUT, CHECKOUT), (self.work, "/b/work")]

    def userspace(self):
        """Build user space and install it to where the guest's copy is taken from."""
        if not os.path.exists(os.path.join(CHECKOUT, "meson.build")):
            say("  no meson.build: nothing to install in the guest")
            os.makedirs(self.tree, exist_ok=True)
            return
        self.configure("user")
        with step("build user space", quiet=True) as s:
            s.run(self.root.command(["ninja", "-C", "/b/work/user"], self.binds()), warnings=True,
                  what="user space does not build")
            cache.remove(self.tree)
            s.run(self.root.command(["meson", "install", "-C", "/b/work/user", "--no-rebuild"],
                                    self.binds(), env={"DESTDIR": "/b/work/installed"}),
                  name="install user space")
            os.makedirs(self.tree, exist_ok=True)

    def host_tests(self, name, options, filters):
        """Run the tests that need no kernel, in the build root, from the meson build NAME.

        All of them: what takes long looks at TEST_FILTERS itself, a filter a line.
        Yields (test, its output, its exit status, seconds)."""
        if not os.path.exists(os.path.join(CHECKOUT, "meson.build")):
            return
        self.configure(name, options)
        log = os.path.join(self.work, name, "meson-logs", "testlog.json")
        cache.remove(log)
        with step(f"host tests in {name}") as s:
            # Builds what these tests need and no more: not everything can be sanitized.
            s.run(self.root.command(["meson", "test", "-C", f"/b/work/{name}", "--suite", "host"],
                                    self.binds(), env={"TEST_FILTERS": "\n".join(filters)}),
                  check=False, warnings=True)
            if not os.path.exists(log):
                raise Failure(f"the tests in {name} do not build", log_path(s.name))
            with open(log, encoding="utf-8") as f:
                for line in f:
                    test = json.loads(line)
                    status = test["returncode"]
                    yield (test["name"].split("/")[-1].strip(), test.get("stdout", "") + test.get("stderr", ""),
                           124 if test["result"] == "TIMEOUT" else 128 - status if status < 0 else status,
                           test["duration"])

    def module(self, kernel):
        """Build bus1.ko for `kernel`, and see that it asks for nothing that it may not have."""
        if not os.path.exists(os.path.join(CHECKOUT, "kernel", "Kbuild")):
            say("  no kernel/Kbuild: running without the module")
            return
        self.modules[kernel.name] = self.external_module(
            kernel, os.path.join(CHECKOUT, "kernel"), "bus1", [(CHECKOUT, CHECKOUT)])

    def floor(self, kernel):
        """Build the module that bus1-bench compares calls with."""
        self.floors[kernel.name] = self.external_module(
            kernel, os.path.join(CHECKOUT, "tools/bench/floor"), "bus1_floor", [(CHECKOUT, CHECKOUT)])

    def external_module(self, kernel, directory, name, binds):
        """Build NAME.ko in `directory` for `kernel`; returns where it is, stripped."""
        flags = os.environ.get("BUS1_MODULE_FLAGS", "").split()
        key = cache.digest(kernel.path, directory, *flags)
        output = os.path.join(self.work, f"{name}-{kernel.name}-{key}")
        with step(f"build {name}.ko for {kernel.name}", quiet=True) as s:
            kernel.build_module(directory, output, s, f"module-{name}-{kernel.name}", binds, flags)
            built = os.path.join(output, name + ".ko")
            if not os.path.exists(built):
                raise Failure(f"{directory} built no {name}.ko")
            if name == "bus1":
                kernels.check_symbols(kernel, built)
            self.root.output(["strip", "-g", "-o", f"/b/module/{name}.stripped", f"/b/module/{name}.ko"],
                             [(output, "/b/module")])
        return os.path.join(output, name + ".stripped")


def initrd(out, root, build, kernel, command, settings, module=None):
    """Write the initramfs for one run: `command` (argv) with `settings` (for init).

    `module` replaces bus1.ko by another (NAME, path)."""
    with open(out, "wb") as f:
        with open(base(root), "rb") as b:
            shutil.copyfileobj(b, f, 1 << 20)
        f.write(b"\0" * (-f.tell() % 512))
        archive = cpio.Archive(f)
        archive.tree(build.tree)
        for name in os.listdir(os.path.join(HERE, "guest")):
            with open(os.path.join(HERE, "guest", name), "rb") as script:
                archive.file("init" if name == "init" else "bus1/" + name, script.read(), 0o755)
        name, path = module or ("bus1", build.modules.get(kernel.name))
        if path:
            with open(path, "rb") as ko:
                archive.file(f"bus1/{name}.ko", ko.read())
        if kernel.name in build.floors:
            with open(build.floors[kernel.name], "rb") as ko:
                archive.file("usr/libexec/bus1/bus1_floor.ko", ko.read())
        archive.file("bus1/command", ("#!/bin/bash\nexec " + shlex.join(command) + "\n").encode(), 0o755)
        archive.file("bus1/settings", "".join(f"{k}={shlex.quote(str(v))}\n"
                                              for k, v in settings.items()).encode())
        archive.end()
