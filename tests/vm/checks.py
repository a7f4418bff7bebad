# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the machine that runs the tests: that whatever goes wrong in a
virtual machine is noticed. First on samples of kernel logs, then for real."""

import os
import subprocess
import sys
import tempfile

import bench
import buildroot
import cache
import guest
import kernels
import logcheck
import suite
import vm
from steps import Failure, step

HERE = os.path.dirname(os.path.abspath(__file__))

# Lines as kernels print them, and what kind each is; None for what is harmless.
SAMPLES = (
    ("[    1.000000] WARNING: CPU: 0 PID: 1 at kernel/x.c:7 f+0x1/0x2", "warn"),
    ("[    1.000000][   T55] WARNING: kernel/x.c:7 at f+0x1/0x2, CPU#1: cat/55", "warn"),
    ("[    1.000000] ------------[ cut here ]------------", "warn"),
    ("[    1.000000] kernel BUG at mm/slub.c:1!", "bug"),
    ("[    1.000000] BUG: Bad page state in process x  pfn:1", "bug"),
    ("[    1.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000", "oops"),
    ("[    1.000000] BUG: unable to handle page fault for address: ffff", "oops"),
    ("[    1.000000] Oops: general protection fault, probably for non-canonical address", "oops"),
    ("[    1.000000] Oops: invalid opcode: 0000 [#1] SMP", "oops"),
    ("[    1.000000] BUG: KASAN: slab-use-after-free in f+0x1/0x2 [bus1]", "kasan"),
    ("[    1.000000] BUG: KCSAN: data-race in a / b", "kcsan"),
    ("[    1.000000] WARNING: possible circular locking dependency detected", "lockdep"),
    ("[    1.000000] WARNING: possible recursive locking detected", "lockdep"),
    ("[    1.000000] WARNING: inconsistent lock state", "lockdep"),
    ("[    1.000000] WARNING: suspicious RCU usage", "lockdep"),
    ("[    1.000000] WARNING: bad unlock balance detected!", "lockdep"),
    ("[    1.000000] WARNING: lock held when returning to user space!", "lockdep"),
    ("[    1.000000] [ BUG: Invalid wait context ]", "lockdep"),
    ("[    1.000000] BUG: MAX_LOCK_DEPTH too low!", "lockdep"),
    ("[    1.000000] BUG: sleeping function called from invalid context at mm/x.c:1", "atomic"),
    ("[    1.000000] BUG: scheduling while atomic: cat/55/0x00000002", "atomic"),
    ("[    1.000000] BUG: using smp_processor_id() in preemptible [00000000] code: cat/55", "atomic"),
    ("[    1.000000] refcount_t: underflow; use-after-free.", "refcount"),
    ("[    1.000000] list_del corruption. prev->next should be ffff, but was 0", "list"),
    ("[    1.000000] UBSAN: shift-out-of-bounds in x.c:1:2", "ubsan"),
    ("[    1.000000] ODEBUG: free active (active state 0) object: ffff", "odebug"),
    ("[    1.000000] INFO: task cat:55 blocked for more than 120 seconds.", "hung"),
    ("[    1.000000] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [cat:55]", "lockup"),
    ("[    1.000000] rcu: INFO: rcu_preempt self-detected stall on CPU", "rcu"),
    ("[    1.000000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "rcu"),
    ("[    1.000000] kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", "leak"),
    ("unreferenced object 0xffff888012345678 (size 192):", "leak"),
    ("[    1.000000] kmemleak: Memory pool empty, consider increasing it", "checker"),
    ("[    1.000000] BUG bus1_node (Not tainted): Objects remaining on __kmem_cache_shutdown()", "slab"),
    ("[    1.000000] usercopy: Kernel memory exposure attempt detected from SLUB object", "usercopy"),
    ("[    1.000000] rust_kernel: panicked at kernel/pool.rs:1:2:", "rust"),
    ("[    1.000000] Kernel panic - not syncing: Fatal exception", "panic"),
    ("[    1.000000] cat: page allocation failure: order:4", "oom"),
    ("[    1.000000] Linux version 7.2.12 (root@host) (clang version 19.1.7)", None),
    ("[    1.000000] bus1: loading out-of-tree module taints kernel.", None),
    ("[    1.000000] bus1: module verification failed: signature and/or required key missing - tainting kernel",
     None),
    ("[    1.000000] Lock dependency validator: Copyright (c) 2006 Red Hat, Inc.", None),
    ("[    1.000000] kmemleak: Kernel memory leak detector initialized (mem pool available: 40000)", None),
    ("[    1.000000] kasan: KernelAddressSanitizer initialized (generic)", None),
    ("[    1.000000] rcu: Preemptible hierarchical RCU implementation.", None),
    ("[    1.000000] rcu: \tRCU debug extended QS entry/exit.", None),
    ("[    1.000000] watchdog: NMI not fully supported", None),
    ("[    1.000000] NMI watchdog: Perf NMI watchdog permanently disabled", None),
    ("[    1.000000]     ok 3 bug_in_pool", None),
)

REPORT = """[    5.0] harmless
[    5.1] ------------[ cut here ]------------
[    5.1] refcount_t: addition on 0; use-after-free.
[    5.1] WARNING: lib/refcount.c:25 at refcount_warn_saturate+0x1/0x2, CPU#0: cat/55
[    5.1] Call Trace:
[    5.1]  <TASK>
[    5.1]  f+0x1/0x2
[    5.1]  </TASK>
[    5.1] ---[ end trace 0000000000000000 ]---
[    5.2] harmless again
""" + "".join(f"[    6.{i}] quiet\n" for i in range(20)) + """[    7.0] BUG: KASAN: slab-out-of-bounds in g
[    7.0] Call Trace:
[    7.0]  g+0x1/0x2
"""

KTAP = """[    1.0]     KTAP version 1
[    1.0]     # Subtest: bus1_pool
[    1.0]     # module: bus1
[    1.0]     1..3
[    1.0]     ok 1 alloc
[    1.0]     not ok 2 free
[    1.0]     ok 3 big # SKIP no memory
[    1.0] # bus1_pool: pass:1 fail:1 skip:1 total:3
[    1.0] not ok 1 bus1_pool
"""


def samples(tally, match):
    """The checker and the readers on known text; no machine needed."""
    if match("VM log checker knows sample lines"):
        wrong = [f"{line!r}: {logcheck.classify(logcheck.strip(line))}, not {kind}"
                 for line, kind in SAMPLES if logcheck.classify(logcheck.strip(line)) != kind]
        tally.check("VM log checker knows sample lines", not wrong, f"{len(wrong)} wrong", wrong)
    if match("VM log checker tells reports apart"):
        found = logcheck.find(REPORT)
        good = ([f.kinds for f in found] == [{"warn", "refcount"}, {"kasan"}]
                and found[0].line == 2 and not logcheck.find("[    1.0] nothing\n"))
        tally.check("VM log checker tells reports apart", good, "", [str(f) for f in found])
    if match("VM log checker allows injected failures"):
        text = "[    1.0] FAULT_INJECTION: forcing a failure.\n[    1.0] Call Trace:\n[    1.0]  f+0x1/0x2\n"
        tally.check("VM log checker allows injected failures",
                    not logcheck.find(text) and logcheck.find(text + "[    1.1] Oops: 0000 [#1]\n"))
    if match("VM log checker allows a kill that was meant, no other"):
        kill = "[    1.0] hog invoked oom-killer: gfp_mask=0x400cc0\n[    1.0] Call Trace:\n"
        meant = "[    1.0] bus1 test: out of memory on purpose\n"
        tally.check("VM log checker allows a kill that was meant, no other",
                    not logcheck.find(meant + kill) and logcheck.find(kill)
                    and logcheck.find(meant + "[    1.0] x\n" * 30 + kill))
    if match("VM KUnit results are read"):
        want = [("ok", "bus1_pool.alloc"), ("not ok", "bus1_pool.free"), ("skip", "bus1_pool.big")]
        tally.check("VM KUnit results are read", suite.kunit(KTAP) == want, "", [str(suite.kunit(KTAP))])
    if match("VM test protocol is read"):
        inner = _Silent()
        reader = suite.Reader(inner, "k", 10)
        reader.feed(b"\x1ebegin a\nok A-1 x\nnoise\nnot ok A-2 y: why\n\n\x1eend a 1 5\n"
                    b"\x1ebegin b\nok B-1\n\n\x1eend b 139 5\n\x1ebegin c\n\n\x1eend c 0 5\n\x1ebegin d\nskip D: no")
        reader.close()
        want = (2, ["k A-2 y: why", "k b: killed by SIGSEGV", "k c: ran no test",
                    "k d: the machine ended while it ran"], 1)
        got = (inner.passed, inner.failures, inner.skipped)
        tally.check("VM test protocol is read", got == want, "", [str(got)])
    if match("VM bench report is told from the output"):
        whole = b"table\n= not it =\nbars\n" + bench.MARK + b'{\n= report =\n}\n'
        good = True
        for size in range(1, len(whole) + 1):  # however it is cut to pieces
            shown = []
            report = bench.Report(shown.append)
            for at in range(0, len(whole), size):
                report.feed(whole[at:at + size])
            report.close()
            good = good and b"".join(shown) == b"table\n= not it =\nbars\n" and report.data == b"{\n= report =\n}\n"
        shown = []
        report = bench.Report(shown.append)
        report.feed(b"usage\n\n= rep")
        report.close()
        tally.check("VM bench report is told from the output",
                    good and b"".join(shown) == b"usage\n\n= rep" and report.data is None)
    if match("VM configuration that is not met is named"):
        with tempfile.NamedTemporaryFile("w", suffix=".config") as f:
            f.write("CONFIG_A=y\n# CONFIG_B is not set\n")
            f.flush()
            try:
                kernels.verify({"CONFIG_A": "y", "CONFIG_B": "n", "CONFIG_C": "n"}, f.name, "sample")
                kernels.verify({"CONFIG_B": "y"}, f.name, "sample")
                good = False
            except Failure as failure:
                good = "CONFIG_B=y" in failure.what and "CONFIG_A" not in failure.what
        tally.check("VM configuration that is not met is named", good)
    if match("VM cache takes nothing unfinished for whole"):
        tally.check("VM cache takes nothing unfinished for whole", *cache_is_atomic())
    if match("VM cache removes nothing that is mounted in it"):
        tally.check("VM cache removes nothing that is mounted in it", *cache_spares_mounts())


def cache_is_atomic():
    """Whether an entry whose making failed or was cut off is made anew, once."""
    made = []

    def make(path):
        with open(os.path.join(path, "half"), "x", encoding="ascii"):
            made.append(path)
        if len(made) == 1:
            raise Failure("on purpose")

    saved = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_CACHE_HOME"] = directory
        try:
            try:
                cache.entry("kind", "key", make, "a test", 0)
                return False, "a failure was swallowed"
            except Failure:
                pass
            if os.path.exists(os.path.join(cache.top(), "kind-key")):
                return False, "a failed entry stayed"
            os.makedirs(os.path.join(cache.top(), "kind-key.part", "half"))  # as a power cut leaves it
            path = cache.entry("kind", "key", make, "a test", 0)
            again = cache.entry("kind", "key", make, "a test", 0)
            good = path == again and len(made) == 2 and os.path.isfile(os.path.join(path, "half"))
            return good, f"made {len(made)} times"
        finally:
            if saved is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = saved


def cache_spares_mounts():
    """Whether remove() leaves a mount alone, and takes the tree once it is gone."""
    script = """
        remove() { "$2" -B -c "import sys, cache; cache.remove(sys.argv[1])" "$1"; }
        mkdir "$1/tree" "$1/tree/a b" && mount -t tmpfs none "$1/tree/a b" && touch "$1/tree/a b/file" || exit
        if remove "$1/tree" "$2"; then echo "removed a tree with a mount in it"; exit 1; fi
        test -e "$1/tree/a b/file" || { echo "the mounted file is gone"; exit 1; }
        umount "$1/tree/a b" && remove "$1/tree" "$2" && ! test -e "$1/tree"
    """
    with tempfile.TemporaryDirectory() as directory:
        run = subprocess.run([*buildroot.unshare(), "sh", "-c", script, "sh", directory, sys.executable],
                             cwd=HERE, capture_output=True, text=True, check=False)
    return run.returncode == 0, run.stdout + run.stderr


class _Silent(suite.Tally):
    def note(self, text):
        pass

    def fail(self, name, why="", output=()):
        self.failures.append(f"{name}: {why}" if why else name)


# What the faults module can do, in an order in which no report turns off the
# checker that a later one needs, and the kind that each must be found as.
FAULTS = (("warn", "warn"), ("lockdep", "lockdep"), ("atomic", "atomic"), ("refcount", "refcount"),
          ("list", "list"), ("ubsan", "ubsan"), ("hung", "hung"), ("lockup", "lockup"), ("lockup", "rcu"),
          ("leak", "leak"), ("kasan", "kasan"), ("bug", "bug"), ("oops", "oops"))


def real(tally, match, root, build, selected, boot):
    """Real reports from real kernels. `boot` runs a machine (see main.boot)."""
    wanted = [f for f in FAULTS if match(f"VM {f[1]} in the kernel log is found")]
    if "debug" in selected and wanted:
        kernel = selected["debug"]
        module = build.external_module(kernel, os.path.join(HERE, "faults"), "faults",
                                       [(guest.CHECKOUT, guest.CHECKOUT)])
        asked = list(dict.fromkeys(fault for fault, _ in wanted))
        with step("faults on purpose on debug") as s:
            result = boot(kernel, ["/bus1/faults", *asked], "checker-faults", deadline=300, tick=s.tick,
                          module=("faults", module), leaks=True)
        sections, section = {}, ""
        for line in vm.read(result.log).split("\n"):
            if "bus1-fault: " in line:
                section = line.split("bus1-fault: ")[1].strip()
            sections.setdefault(section, []).append(line)
        for fault, kind in wanted:
            where = "end" if fault == "leak" else fault
            found = logcheck.kinds(logcheck.find("\n".join(sections.get(where, []))))
            tally.check(f"VM {kind} in the kernel log is found", kind in found and not result.ok(),
                        f"found only {sorted(found)}; log: {result.log}")
        if match("VM kernel log before any fault is clean"):
            before = logcheck.find("\n".join(sections.get("", [])))
            tally.check("VM kernel log before any fault is clean", not before, "",
                        logcheck.describe(before).split("\n"))
        if any(f in ("bug", "oops") for f in asked) and match("VM module that cannot be unloaded is reported"):
            tally.check("VM module that cannot be unloaded is reported",
                        any("unloaded" in p for p in result.problems), str(result.problems))
    kernel = selected.get("stock") or next(iter(selected.values()))
    if match("VM exit status and output come out unchanged"):
        got = bytearray()
        script = r"for i in $(seq 0 255); do printf \\x$(printf %02x $i); done; seq 20000; exit 7"
        result = boot(kernel, ["bash", "-c", script], "checker-status", deadline=120, output=got.extend)
        want = bytes(range(256)) + "".join(f"{i}\n" for i in range(1, 20001)).encode()
        tally.check("VM exit status and output come out unchanged", result.status == 7 and bytes(got) == want
                    and not result.ok(), f"status {result.status}, {len(got)} bytes of {len(want)}, "
                    f"{result.problems}")
    if match("VM panic ends the run and is reported"):
        result = boot(kernel, ["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 1000"], "checker-panic",
                      deadline=120)
        tally.check("VM panic ends the run and is reported", result.panicked and not result.ok()
                    and not result.timed_out and "panic" in logcheck.kinds(result.findings),
                    f"{result.problems}; log: {result.log}")
    if match("VM deadline ends the run and is reported"):
        result = boot(kernel, ["sleep", "1000"], "checker-deadline", deadline=20)
        tally.check("VM deadline ends the run and is reported", result.timed_out and not result.ok()
                    and any("deadline" in p for p in result.problems), str(result.problems))
