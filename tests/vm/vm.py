# SPDX-License-Identifier: GPL-2.0-or-later
"""The virtual machine: boots a kernel with an initramfs, passes output through,
and tells how it ended. A run is good only if everything about it is."""

import dataclasses
import os
import select
import shutil
import subprocess
import tempfile
import time

import cache
import logcheck
from steps import duration, log_path, say, step, stop

# Emulation is slow and machines are shared: what only says "slow" gets time.
APPEND = ("console=ttyS0 panic=-1 nokaslr watchdog_thresh=30 rcupdate.rcu_cpu_stall_timeout=60 "
          "random.trust_cpu=on tsc=reliable")
APPEND_FOR = {"debug": "slab_debug=F"}
MEMORY = 2048  # megabytes; looking for leaks takes time in proportion
# Without la57: KASAN reports nonsense when an interrupt comes while the kernel
# reads its CPU's features, as its shadow's place depends on that one.
# Where instructions are counted without string instructions that are fast for any length: each
# byte that these copy (fsrm, erms) or clear (fsrs) counts as one, and hides all else.
# With caches that are described, so that two processors share one, as they mostly do.
ICOUNT = ["-accel", "tcg", "-icount", "shift=0,sleep=off",
          "-cpu", "max,-la57,-fsrm,-erms,-fsrs,+topoext,xlevel=0x8000001e"]
TCG = ["-accel", "tcg,thread=multi", "-cpu", "max,-la57"]
KVM = ["-accel", "kvm", "-cpu", "host,-la57"]
PROBE = 8.0  # seconds in which a kernel must have come to the end of its boot under KVM
GRACE = 60.0  # seconds left to a guest whose kernel has oopsed: often it hangs


@dataclasses.dataclass
class Result:
    kernel: str
    status: int | None = None        # of the command; None if it never ended
    problems: list = dataclasses.field(default_factory=list)  # what went wrong, but for the status
    findings: list = dataclasses.field(default_factory=list)  # in the kernel log
    log: str = ""
    seconds: float = 0.0
    timed_out: bool = False
    panicked: bool = False

    def ok(self):
        return self.status == 0 and not self.problems and not self.findings


def boot_id():
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return "unknown"


def qemu(kernel):
    """What every machine begins with."""
    return [*kernel.root.qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "q35"]


def kvm_works(kernel):
    """Whether KVM really boots a kernel here; found out once per boot of this host.

    A device that is there says nothing: nested or filtered ones may hang. The
    kernel gets no root, so it proves itself by reaching its panic."""
    choice = os.environ.get("BUS1_ACCEL")
    if choice in ("tcg", "kvm"):
        return choice == "kvm"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    key = cache.digest(boot_id(), kernel.path)
    note = os.path.join(cache.top(), "kvm-probe")
    try:
        with open(note, encoding="ascii") as f:
            known, answer = f.read().split()
        if known == key:
            return answer == "yes"
    except (OSError, ValueError):
        pass
    with step("see whether KVM works here", quiet=True) as s:
        log = log_path("kvm-probe")
        with open(log, "wb") as out:
            proc = subprocess.Popen([*qemu(kernel), *KVM, "-m", "512", "-kernel", kernel.image,
                                     "-append", "console=ttyS0 panic=-1", "-serial", "stdio"],
                                    stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        end = time.monotonic() + PROBE
        while proc.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
            s.tick()
        stop(proc)
        with open(log, errors="replace") as f:
            answer = "yes" if "Kernel panic - not syncing" in f.read() else "no"
        s.note = "yes" if answer == "yes" else "no, so instructions are emulated"
    tmp = f"{note}.{os.getpid()}"
    with open(tmp, "w", encoding="ascii") as f:
        f.write(f"{key} {answer}\n")
    os.replace(tmp, note)
    return answer == "yes"


def read(path):
    try:
        with open(path, errors="replace", newline="") as f:
            return f.read().replace("\r\n", "\n")
    except OSError:
        return ""


class Machine:
    """One boot. `output(bytes)` gets what the command writes, as it comes."""

    def __init__(self, kernel, initrd, *, name, icount=False, smp=2, memory=None, deadline=600.0,
                 output=None, interactive=False, tick=None):
        self.kernel, self.initrd, self.name = kernel, initrd, name
        self.deadline, self.output, self.interactive, self.tick = deadline, output, interactive, tick
        self.console = log_path(f"console-{name}")
        accel = ICOUNT if icount else KVM if kvm_works(kernel) else TCG
        self.accel = "counting instructions" if icount else accel[1].split(",")[0].upper()
        self.argv = [
            *qemu(kernel), *accel, "-smp", str(smp), "-m", str(memory or MEMORY),
            "-kernel", kernel.image, "-initrd", initrd,
            "-append", f"{APPEND} {APPEND_FOR.get(kernel.name, '')}",
            "-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console",
            "-chardev", "stdio,id=command,signal=off", "-serial", "chardev:command",
        ]
        if icount and os.environ.get("BUS1_PLUGIN"):
            self.argv += ["-plugin", os.environ["BUS1_PLUGIN"]]

    def run(self):
        result = Result(self.kernel.name, log=self.console)
        with tempfile.TemporaryDirectory(prefix="bus1-") as directory:
            status = os.path.join(directory, "status")
            errors = os.path.join(directory, "errors")
            open(self.console, "wb").close()
            self.argv += ["-chardev", f"file,id=status,path={status}", "-serial", "chardev:status"]
            start = time.monotonic()
            with open(errors, "wb") as err:
                proc = subprocess.Popen(self.argv, stderr=err,
                                        stdin=None if self.interactive else subprocess.DEVNULL,
                                        stdout=None if self.interactive else subprocess.PIPE)
            try:
                if self.interactive:
                    proc.wait()
                else:
                    self._pump(proc, result, start)
            finally:
                stop(proc)
            result.seconds = time.monotonic() - start
            self._judge(result, proc, read(status), read(errors))
        return result

    def _pump(self, proc, result, start):
        """Pass output on until the machine is off or its time is up."""
        out = proc.stdout.fileno()
        end = start + self.deadline
        checked = start
        oopsed = False
        while True:
            now = time.monotonic()
            if now > end:
                result.timed_out = True
                stop(proc)
                return
            if self.tick:
                self.tick()
            if not oopsed and now - checked > 2:
                checked = now
                if any(logcheck.classify(logcheck.strip(line)) == "oops"
                       for line in read(self.console).split("\n")):
                    oopsed = True
                    end = min(end, now + GRACE)
            if select.select([out], [], [], 0.2)[0]:
                data = os.read(out, 65536)
                if not data:
                    proc.wait()
                    return
                if self.output:
                    self.output(data)

    def _judge(self, result, proc, status, errors):
        log = read(self.console)
        result.findings = logcheck.find(log)
        result.panicked = "panic" in logcheck.kinds(result.findings)
        told = {}
        for line in status.split("\n"):
            words = line.split(None, 2)
            if words:
                told[words[0]] = words[1:]
        if "status" in told:
            result.status = int(told["status"][0])
        for what, verb in (("load", "loaded"), ("unload", "unloaded")):
            if told.get(what, ["0"])[0] != "0":
                result.problems.append(f"the module could not be {verb}: {' '.join(told[what][1:])}")
        if result.timed_out:
            result.problems.append(f"the deadline of {duration(self.deadline)} passed"
                                   if result.seconds >= self.deadline
                                   else f"no end within {duration(GRACE)} after the kernel oopsed")
        elif result.panicked:
            result.problems.append("the guest's kernel panicked")
        elif "end" not in told and not self.interactive:
            if errors.strip():
                result.problems.append(f"QEMU: {errors.strip()}")
            elif "booted" in told:
                result.problems.append("the machine stopped before its end")
            else:
                result.problems.append(f"the {self.kernel.name} kernel did not boot")
        if result.timed_out and "booted" not in told:
            result.problems.append(f"the {self.kernel.name} kernel did not come as far as user space")


def run_directory():
    """A directory for the initramfs of one run; the caller removes it."""
    os.makedirs(os.path.join(cache.top(), "run"), exist_ok=True)
    return tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=os.path.join(cache.top(), "run"))


def sweep():
    """Drop run directories of processes that are gone."""
    top = os.path.join(cache.top(), "run")
    if not os.path.isdir(top):
        return
    for name in os.listdir(top):
        pid = name.split("-")[0]
        if not (pid.isdigit() and os.path.exists(f"/proc/{pid}")):
            shutil.rmtree(os.path.join(top, name), ignore_errors=True)


def report(result):
    """Say what went wrong in a run, if anything did."""
    for problem in result.problems:
        say(f"  {result.kernel}: {problem}")
    if result.findings:
        say(f"  {result.kernel}: the kernel complained:")
        say(logcheck.describe(result.findings))
    if result.problems or result.findings:
        say(f"  console log: {result.log}")
