# SPDX-License-Identifier: GPL-2.0-or-later
"""The three kernels, each a directory against which modules are built and an
image that boots:

stock  Debian's own image, unmodified. Its headers lack what Rust needs, so the
       metadata is made again from the same source with the same compilers.
perf   small, nothing that checks: for counting instructions.
debug  small, with every check that is affordable: for the tests.

Their keys hold only what changes the result, since a rebuild takes ten minutes:
raise RECIPE when the way they are built changes."""

import glob
import os
import shutil

import cache
from steps import Failure, step

NAMES = ("stock", "perf", "debug")
RECIPE = "1"
HERE = os.path.dirname(os.path.abspath(__file__))
GCC = "CC=x86_64-linux-gnu-gcc-14"  # the compiler Debian builds its kernel with

# Where things appear inside the build root; fixed, so that what is built does
# not depend on who builds it where.
SOURCE = "/b/linux"
OUTPUT = "/b/kernel"

# Debian exports these to modules and mainline does not; bus1.ko must not need them.
DEBIAN_ONLY = {
    "lock_vma_under_rcu", "zap_vma_range", "task_work_add", "can_nice", "list_lru_add",
    "list_lru_del", "file_close_fd", "__wake_up_pollfree", "put_ipc_ns",
}
DEBIAN_ONLY_PREFIXES = ("security_binder_",)


class Kernel:
    def __init__(self, root, name, path, source):
        self.root, self.name, self.path, self.source = root, name, path, source
        self.output = os.path.join(path, "build")
        self.image = os.path.join(path, "bzImage")
        self.make_flags = [GCC] if name == "stock" else ["LLVM=1"]

    def binds(self):
        return [(self.source, SOURCE), (self.output, OUTPUT)]

    def build_module(self, directory, output, step_, name, extra=(), flags=()):
        """Build the external module in `directory` into `output`; both are host paths.

        `extra` are (source, target) binds that it includes from."""
        os.makedirs(output, exist_ok=True)
        argv = ["make", "--no-print-directory", "-C", OUTPUT, f"M={directory}", "MO=/b/module", *self.make_flags,
                f"-j{os.cpu_count()}", *flags, "modules"]
        binds = self.binds() + [(directory, directory), (output, "/b/module"), *extra]
        step_.run(self.root.command(argv, binds), name=name, warnings=True,
                  what=f"the module in {directory} does not build for the {self.name} kernel")


def jobs():
    return f"-j{os.cpu_count() or 1}"


def source(root):
    """The kernel source all three share: Debian's, so with Debian's patches."""
    def make(path):
        with step(f"unpack the source of Linux {root.kernel_version}") as s:
            s.run(root.command(["tar", "-x", "-J", "-f", "/var/lib/bus1/linux.tar.xz", "-C", "/b/linux",
                                "--strip-components=1", "--no-same-owner"], [(path, SOURCE)]))
    return cache.entry("linux", cache.digest(root.kernel_version), make, "the kernel source", 3)


def parse(text):
    """Kconfig lines as a dictionary; what is not set is 'n'."""
    values = {}
    for line in text.splitlines():
        if line.startswith("# CONFIG_") and line.endswith(" is not set"):
            values[line[2:-11]] = "n"
        elif line.startswith("CONFIG_") and "=" in line:
            name, value = line.split("=", 1)
            values[name] = value
    return values


def fragment(name):
    """What the named kernel asks for: the common base, then its own, which wins."""
    values = {}
    for part in ("base", name):
        with open(os.path.join(HERE, "config", part + ".config"), encoding="utf-8") as f:
            values.update(parse(f.read()))
    return values


def verify(wanted, config, name):
    """Kconfig drops what it cannot satisfy without a word; say which."""
    with open(config, encoding="utf-8") as f:
        got = parse(f.read())
    bad = [f"{k}={v} (is {got.get(k, 'n')})" for k, v in wanted.items() if got.get(k, "n") != v]
    if bad:
        raise Failure(f"the {name} kernel's configuration did not come out as asked: " + ", ".join(bad),
                      log=None, hint=f"see {HERE}/config/{name}.config and base.config")


def own(root, name):
    """A small kernel of our own from allnoconfig and the fragments."""
    wanted = fragment(name)
    text = "".join(f"{k}={v}\n" for k, v in wanted.items())

    def make(path):
        src = source(root)
        out = os.path.join(path, "build")
        os.mkdir(out)
        with open(os.path.join(out, "bus1.config"), "w", encoding="utf-8") as f:
            f.write(text)
        base = ["make", "-C", SOURCE, f"O={OUTPUT}", "LLVM=1"]
        binds = [(src, SOURCE), (out, OUTPUT)]
        with step(f"configure the {name} kernel", quiet=True) as s:
            s.run(root.command(base + ["allnoconfig"], binds,
                               env={"KCONFIG_ALLCONFIG": OUTPUT + "/bus1.config"}),
                  name=f"kernel-{name}-config")
            verify(wanted, os.path.join(out, ".config"), name)
        with step(f"build the {name} kernel (about 10 minutes on two CPUs)") as s:
            s.run(["nice", "-n", "5"] + root.command(base + [jobs(), "bzImage", "modules"], binds),
                  name=f"kernel-{name}")
            shutil.copyfile(os.path.join(out, "arch/x86/boot/bzImage"), os.path.join(path, "bzImage"))
            # Objects of the kernel itself serve nobody any more, and take a gigabyte.
            for top, dirs, files in os.walk(out):
                if top == out:
                    dirs[:] = [d for d in dirs if d not in ("scripts", "tools", "include")]
                for f in files:
                    if f.endswith((".o", ".a", ".cmd")) and not top.startswith(os.path.join(out, "rust")):
                        os.unlink(os.path.join(top, f))

    key = cache.digest(RECIPE, root.toolchain(), text)
    path = cache.entry(f"kernel-{name}", key, make, f"the {name} kernel", 5)
    return Kernel(root, name, path, source(root))


def stock(root):
    """Debian's kernel, with a directory against which modules can be built for it."""
    release = root.release
    headers = f"/usr/src/linux-headers-{release}"

    def make(path):
        src = source(root)
        out = os.path.join(path, "build")
        os.mkdir(out)
        shutil.copyfile(root.inside(f"{headers}/.config"), os.path.join(out, ".config"))
        base = ["make", "-C", SOURCE, f"O={OUTPUT}", GCC]
        binds = [(src, SOURCE), (out, OUTPUT)]
        with step(f"prepare module building for Debian's {release}") as s:
            s.run(root.command([f"{SOURCE}/scripts/config", "--file", OUTPUT + "/.config",
                                "--set-str", "MODULE_SIG_KEY", "", "--set-str", "SYSTEM_TRUSTED_KEYS", ""],
                               binds), name="kernel-stock-config")
            s.run(["nice", "-n", "5"] + root.command(base + [jobs(), "olddefconfig", "modules_prepare"], binds),
                  name="kernel-stock")
            for name in ("Module.symvers", "include/generated/utsrelease.h", "include/config/kernel.release"):
                shutil.copyfile(root.inside(f"{headers}/{name}"), os.path.join(out, name))
            with open(os.path.join(out, ".config"), encoding="utf-8") as f:
                if parse(f.read()).get("CONFIG_RUST") != "y":
                    raise Failure("Debian's kernel configuration lost CONFIG_RUST in this build root: "
                                  "its Rust compiler is not the one the kernel was built with",
                                  log=s.run(["true"], name="kernel-stock-config"))
        image = glob.glob(root.inside("/var/lib/bus1/binary/") + "**/vmlinuz*", recursive=True)
        if len(image) != 1:
            raise Failure(f"no kernel image for {release} in the build root")
        shutil.copyfile(image[0], os.path.join(path, "bzImage"))

    key = cache.digest(RECIPE, root.toolchain(), release)
    path = cache.entry("kernel-stock", key, make, "the stock kernel", 2)
    return Kernel(root, "stock", path, source(root))


def get(root, name):
    return stock(root) if name == "stock" else own(root, name)


def check_symbols(kernel, module):
    """Fail if `module` needs a symbol that only Debian's kernel exports."""
    out = kernel.root.output(["nm", "-u", "/b/module/" + os.path.basename(module)],
                             [(os.path.dirname(module), "/b/module")])
    names = {line.split()[-1] for line in out.splitlines() if line.strip()}
    bad = sorted(n for n in names if n in DEBIAN_ONLY or n.startswith(DEBIAN_ONLY_PREFIXES))
    if bad:
        raise Failure(f"{os.path.basename(module)} needs symbols that only Debian's kernel exports: "
                      + ", ".join(bad), hint="the module must load on any kernel of the series")
