# SPDX-License-Identifier: GPL-2.0-or-later
"""The build root: Debian 13 with backports, in which everything is built.

It makes results independent of the host, and it has to be Debian 13: the module
must be compiled by the very rustc that compiled Debian's kernel. The root is a
plain directory tree owned by whoever runs this, entered through a mount
namespace (and a user namespace unless root), so nothing here needs privileges."""

import json
import os
import re
import shlex
import shutil
import subprocess

import cache
from steps import Failure, step

SUITE = "trixie"
SERIES = os.environ.get("BUS1_SERIES", "7.2")  # the kernel series, pinned here and nowhere else
FLAVOUR = "amd64"

PACKAGES = """
    build-essential gcc-multilib clang lld llvm libclang-rt-dev
    rustc rust-src rustfmt rust-clippy bindgen
    meson ninja-build pkgconf flex bison bc libelf-dev libssl-dev pahole
    kmod cpio xz-utils lz4 zstd rsync python3 python3-docutils mandoc
    bash coreutils util-linux procps strace bubblewrap jq busybox-static
    grep sed mawk findutils diffutils hostname ncurses-base
    liburing-dev libglib2.0-dev libsystemd-dev libuv1-dev gdb-minimal spin
    dbus-broker gnuplot-nox qemu-system-x86
""".split()

# Runs in the new root while apt's lists are there. Image and modules are only
# downloaded: installing them would drag in an initramfs builder and a boot loader.
HOOK = r"""
set -eu
export DEBIAN_FRONTEND=noninteractive
ver=$(apt-cache search --names-only "^linux-headers-$SERIES[.][0-9.]*[+]deb[0-9]*-$FLAVOUR\$" |
      sed -n "s/^linux-headers-\([^ ]*\)-$FLAVOUR .*/\1/p" | sort -V | tail -n 1)
test -n "$ver" || { echo "no kernel of series $SERIES in this distribution"; exit 1; }
apt-get install -y --no-install-recommends "linux-headers-$ver-$FLAVOUR"
deb=$(dpkg-query -W -f '${Version}' "linux-headers-$ver-$FLAVOUR")
mkdir -p /var/lib/bus1
cd /var/lib/bus1
apt-get -o APT::Sandbox::User=root download \
    "linux-binary-$ver-$FLAVOUR=$deb" "linux-modules-$ver-$FLAVOUR=$deb" "linux-source-$SERIES=$deb"
for p in binary modules; do dpkg-deb -x linux-$p-*.deb $p; rm linux-$p-*.deb; done
dpkg-deb --fsys-tarfile linux-source-*.deb | tar -x -O --wildcards '*/linux-source-*.tar.xz' >linux.tar.xz
rm linux-source-*.deb
printf '{"release": "%s-%s", "version": "%s"}\n' "$ver" "$FLAVOUR" "$deb" >kernel.json
dpkg-query -W -f '${Package} ${Version}\n' >packages
"""

# Enters the root. Arguments: root, number of binds, pairs (source, target), command.
# Targets are made after /proc and /dev are there, so a checkout may lie anywhere.
# Process ids are private, so that nothing survives an interruption; therefore
# /tmp is, too, since tools make names of them there. Where a container forbids a
# /proc of our own, the host's does for everything but leak sanitizers.
ENTER = r"""
set -eu
root=$1 n=$2
shift 2
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ "$n" -gt 0 ]; do
    mkdir -p "$root$2"
    mount --rbind "$1" "$root$2"
    shift 2
    n=$((n - 1))
done
exec chroot "$root" "$@"
"""


def mirror():
    """Address of the Debian archive, as the host's apt knows it."""
    site = os.environ.get("BUS1_MIRROR")
    if site:
        return site
    out = ""
    if shutil.which("apt-get"):
        out = subprocess.run(["apt-get", "indextargets", "--format",
                              "$(ORIGIN)|$(LABEL)|$(CREATED_BY)|$(SITE)"],
                             capture_output=True, text=True, check=False).stdout
    for line in out.splitlines():
        origin, label, kind, site = (line.split("|", 3) + [""] * 4)[:4]
        if (origin, label, kind) == ("Debian", "Debian", "Packages"):
            return site
    raise Failure("no Debian mirror in the apt configuration of this machine",
                  hint="set BUS1_MIRROR to the address of one, and try again")


def apt_options():
    """What the host's apt has to know to reach the mirror, the root's apt has to know too."""
    if not shutil.which("apt-config"):
        return []
    out = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    wanted = re.compile(r"Acquire::(https?::(?:\S+::)?Proxy\b.*|Check-Valid-Until|Check-Date|Retries)\s")
    return [f"--aptopt={line}" for line in out.splitlines()
            if wanted.match(line) and not line.endswith('"";')]


def as_root():
    return os.geteuid() == 0


def unshare(*options):
    """The beginning of a command line that is run with mounts of its own, by whoever is root there."""
    return ["unshare", "--mount", *options, *([] if as_root() else ["--user", "--map-root-user"]), "--"]


def host_tools():
    """Make sure of the host's few tools: install them (as root) or name the command."""
    wanted = {"mmdebstrap": "mmdebstrap", "unshare": "util-linux", "tar": "tar"}
    if not as_root():
        wanted["newuidmap"] = "uidmap"
    missing = [p for tool, p in wanted.items() if not shutil.which(tool)]
    if not os.path.exists("/usr/share/keyrings/debian-archive-keyring.gpg"):
        missing.append("debian-archive-keyring")
    if not missing:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends"] + sorted(missing)
    if not as_root() or not shutil.which("apt-get"):
        raise Failure("these packages are missing: " + " ".join(sorted(missing)),
                      hint="install them: sudo " + shlex.join(install))
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    with step("install " + " ".join(sorted(missing))) as s:
        s.run(["apt-get", "update"], name="apt-update", env=env, check=False)
        s.run(install, name="apt-install", env=env,
              hint="check the network and /etc/apt, or install them yourself")


class BuildRoot:
    def __init__(self, path):
        self.path = path
        with open(self.inside("/var/lib/bus1/kernel.json"), encoding="utf-8") as f:
            info = json.load(f)
        self.release = info["release"]      # as uname -r says, e.g. 7.2.12+deb13-amd64
        self.kernel_version = info["version"]
        with open(self.inside("/var/lib/bus1/packages"), encoding="utf-8") as f:
            self.packages = dict(line.split() for line in f)

    def inside(self, path):
        return self.path + path

    def toolchain(self):
        """What decides whether a kernel built in another root can serve this one."""
        names = ("rustc", "rust-src", "bindgen", "clang-19", "gcc-14", "binutils")
        return " ".join(f"{n}={self.packages.get(n, '-')}" for n in names) + \
            f" linux={self.kernel_version}"

    def command(self, argv, binds=(), cwd="/", env=None):
        """The host's command line that runs argv in the root; binds are (source, target)."""
        flat = [part for bind in binds for part in bind]
        variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8",
                     **(env or {})}
        return [*unshare("--pid", "--fork", "--kill-child"),
                "/bin/sh", "-c", ENTER, "enter", self.path, str(len(binds)), *flat,
                "/usr/bin/env", "-i", "-C", cwd, *(f"{k}={v}" for k, v in variables.items()), *argv]

    def qemu(self):
        """The emulator's command line. It is the root's, since those before QEMU 8.1, as in Debian 12, may
        go on executing what the guest's kernel has just patched, which ends in a breakpoint that is no
        more, or an event that is not seen. It runs outside of the root with the root's libraries."""
        libraries = self.inside("/usr/lib/x86_64-linux-gnu")
        return [self.inside("/usr/lib64/ld-linux-x86-64.so.2"), "--library-path", libraries,
                self.inside("/usr/bin/qemu-system-x86_64"), "-L", self.inside("/usr/share/qemu"),
                "-L", self.inside("/usr/share/seabios")]

    def output(self, argv, binds=(), cwd="/"):
        run = subprocess.run(self.command(argv, binds, cwd), capture_output=True, text=True,
                             stdin=subprocess.DEVNULL, check=False)
        if run.returncode != 0:
            raise Failure(f"{argv[0]} failed in the build root: {run.stderr.strip()}")
        return run.stdout


def make(path):
    site = mirror()
    root = os.path.join(path, "root")
    os.mkdir(root)
    hook = f"SERIES={shlex.quote(SERIES)} FLAVOUR={FLAVOUR}\n{HOOK}"
    # The work area must be open to the sub-uids that an ordinary user's
    # namespace maps, which a home directory is not; and be a disk.
    env = dict(os.environ, LC_ALL="C.UTF-8", TMPDIR="/var/tmp")
    command = ["mmdebstrap", "--mode=" + ("root" if as_root() else "unshare"),
               "--variant=minbase", "--components=main", "--include=" + ",".join(PACKAGES),
               "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
               *apt_options(), "--customize-hook=chroot \"$1\" sh -c " + shlex.quote(hook), SUITE]
    sources = [f"deb {site} {SUITE} main", f"deb {site} {SUITE}-backports main"]
    if as_root():
        # In namespaces of its own: when it is interrupted its processes end and its mounts are gone.
        command = [*unshare("--pid", "--kill-child", "--mount-proc"), *command,
                   "--format=directory", root, *sources]
    else:
        # Its files would belong to sub-uids; unpacked by us, they are ours.
        if shutil.disk_usage("/var/tmp").free < 6e9:
            raise Failure("not enough space in /var/tmp: 6 GB needed while the build root is made")
        command += ["--format=tar", "-", *sources]
        unpack = ["tar", "-x", "-C", root, "--no-same-owner", "--exclude=./dev/*", "--delay-directory-restore"]
        command = ["bash", "-c", f"set -o pipefail; {shlex.join(command)} | {shlex.join(unpack)}"]
    with step(f"build root: Debian {SUITE} with backports") as s:
        s.run(command, name="buildroot", env=env, what="the build root could not be made",
              hint="check the network, that the mirror (BUS1_MIRROR) carries "
                   f"{SUITE}-backports, and that user namespaces are allowed")
        for name in ("dev", "proc", "sys", "tmp", "b"):
            os.makedirs(os.path.join(root, name), exist_ok=True)


def get():
    """The build root, made if there is none."""
    host_tools()
    key = cache.digest(SUITE, SERIES, FLAVOUR, " ".join(PACKAGES), HOOK)
    path = cache.entry("root", key, make, "the build root", 7)
    return BuildRoot(os.path.join(path, "root"))
