# SPDX-License-Identifier: GPL-2.0-or-later
"""Command line of ./dev."""

import argparse
import os
import shutil
import signal
import sys
import time

sys.dont_write_bytecode = True

import bench
import buildroot
import cache
import checks
import guest
import kernels
import steps
import suite
import vm
from steps import Failure, duration, say, step

USAGE = """\
usage: ./dev COMMAND [OPTION…] [ARGUMENT…]

  demo              build, boot Debian's own kernel in a virtual machine, show what bus1 does
  test [FILTER…]    the whole test suite, on the stock and debug kernels; with filters, only
                    the tests whose name contains one of them
  bench [ARG…]      bus1-bench by instruction counts, in full on perf and in short on stock;
                    arguments go to bus1-bench; leaves its report as JSON, and plots
  build             build the module and user space, and check the module's symbols
  run [--] CMD…     run a command in a machine with everything installed and the module loaded;
                    its output and exit status come out
  shell             a shell there
  clean             drop what was built from this checkout; with --all everything cached

  --kernel=NAME     stock (Debian's own), perf (small, no checks) or debug (KASAN, lockdep, …);
                    may be repeated, or several separated by commas
  --deadline=SEC    end the machine after so long
  --cpus=N          processors of the machine (default 2; 1 where run and shell count)
  --memory=MB       its memory (default {memory})
  --icount          run, shell: count instructions, as bench does
  --leaks           look for leaked memory afterwards (on debug; test without filters always does)
  --verbose         test: show all output of the test programs

environment:
  BUS1_MIRROR       address of the Debian archive, if not the one apt uses here
  BUS1_SERIES       kernel series (default {series})
  BUS1_ACCEL        kvm or tcg, instead of finding out
  BUS1_PLUGIN       a plugin for QEMU where instructions are counted, as its -plugin takes it
  BUS1_MODULE_FLAGS further arguments of the make that builds modules
  XDG_CACHE_HOME    where the cache is (now {cache})
"""

DEFAULT_KERNELS = {"demo": ["stock"], "test": ["stock", "debug"], "bench": ["perf", "stock"],
                   "build": ["stock"], "run": ["stock"], "shell": ["stock"]}
SPACE = {"test": 12, "bench": 10}  # gigabytes, with nothing cached
TEST_LIMIT = {"stock": 600, "perf": 600, "debug": 1500}  # seconds for one test program
TEST_DEADLINE = {"stock": 1800, "perf": 1800, "debug": 4200}
# Builds in which the tests that need no kernel run; "user" is also what the guest gets.
HOST_BUILDS = {"user": (), "sanitized": ("-Db_sanitize=address,undefined", "-Db_lundef=false")}
SETTLE = 4  # guest seconds before instructions are counted


def parse(argv):
    command = None
    options = argparse.Namespace(kernels=[], deadline=None, cpus=None, memory=None, icount=False, leaks=False,
                                 verbose=False, all=False)
    rest = []
    i = 0
    while i < len(argv):
        arg = argv[i]
        i += 1
        name, has_value, value = arg.partition("=")
        if name in ("--kernel", "--deadline", "--cpus", "--memory"):
            if not has_value:
                if i == len(argv):
                    raise Failure(f"{name} needs a value", hint="see ./dev --help")
                value = argv[i]
                i += 1
            if name == "--kernel":
                options.kernels += [v for v in value.split(",") if v]
            elif value.isdigit() and int(value) > 0:
                setattr(options, name[2:], int(value))
            else:
                raise Failure(f"{name} needs a number, not {value!r}")
        elif arg in ("--icount", "--leaks", "--verbose", "--all"):
            setattr(options, arg[2:], True)
        elif arg in ("-h", "--help", "help"):
            command = "help"
            break
        elif arg == "--":
            rest += argv[i:]
            break
        elif command is None and not arg.startswith("-"):
            command = arg
        elif command in ("run", "bench") and (command == "bench" or not arg.startswith("-") or rest):
            rest.append(arg)
            if command == "run":  # the rest is the command's own
                rest += argv[i:]
                break
        elif arg.startswith("-"):
            raise Failure(f"unknown option {arg}", hint="see ./dev --help")
        else:
            rest.append(arg)
    bad = [k for k in options.kernels if k not in kernels.NAMES]
    if bad:
        raise Failure(f"no such kernel: {bad[0]}", hint="there are " + ", ".join(kernels.NAMES))
    return command, options, rest


def write(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


class Session:
    """One ./dev: the root, what was built, and how to boot it."""

    def __init__(self, command, options):
        self.options = options
        names = list(dict.fromkeys(options.kernels or DEFAULT_KERNELS[command]))
        if command in SPACE and not any(n.startswith("kernel-") for n in os.listdir(cache.top())):
            cache.need_space(SPACE[command], f"./dev {command}")
        self.root = buildroot.get()
        self.build = guest.Build(self.root)
        self.kernels = {}
        for name in names:
            self.kernels[name] = kernels.get(self.root, name)
        guest.base(self.root)
        with self.build.lock():
            self.build.userspace()
            for kernel in self.kernels.values():
                self.build.module(kernel)
                self.build.floor(kernel)

    def boot(self, kernel, command, name, *, deadline, icount=False, settle=0, leaks=False, module=None,
             output=None, interactive=False, tick=None):
        size = shutil.get_terminal_size()
        settings = {"MODULE": module[0] if module else "bus1", "PARAMETERS": "", "SETTLE": settle,
                    "LEAKS": int(leaks), "INTERACTIVE": int(interactive), "ROWS": size.lines,
                    "COLUMNS_": size.columns, "TERM_": os.environ.get("TERM", "dumb")}
        directory = vm.run_directory()
        try:
            initrd = os.path.join(directory, "initrd")
            with self.build.lock():
                guest.initrd(initrd, self.root, self.build, kernel, command, settings, module)
            return vm.Machine(kernel, initrd, name=name, icount=icount,
                              smp=self.options.cpus or (1 if icount else 2),
                              memory=self.options.memory, deadline=deadline,
                              output=output, interactive=interactive, tick=tick).run()
        finally:
            cache.remove(directory)

    def show(self, kernel, command, name, output=None, **how):
        """Run a command with its output on ours; returns the exit status for the shell."""
        how["deadline"] = self.options.deadline or how.get("deadline", 600)
        result = self.boot(kernel, command, f"{name}-{kernel.name}", output=output or write, **how)
        vm.report(result)
        if result.ok():
            return 0
        return result.status or 1


def do_build(session, _rest):
    say(f"  built: {session.build.tree}")
    for name, path in session.build.modules.items():
        say(f"  {name}: {path}")
    return 0


def do_demo(session, _rest):
    kernel = next(iter(session.kernels.values()))
    say(f"  boot the {kernel.name} kernel and run the demo in it")
    return session.show(kernel, ["/usr/libexec/bus1/demo"], "demo", icount=True, settle=SETTLE)


def do_bench(session, rest):
    status = 0
    session.options.cpus = session.options.cpus or 2
    for name, kernel in session.kernels.items():
        say(f"  boot the {name} kernel and count instructions")
        extra = ["--short"] if name == "stock" and not rest and len(session.kernels) > 1 else []
        report = bench.Report(write)
        status = session.show(kernel, bench.command([*extra, *rest]), "bench", icount=True, settle=SETTLE,
                              deadline=1800, output=report.feed) or status
        report.save(session, name)
    return status


def do_run(session, rest):
    if not rest:
        raise Failure("run: no command given")
    status = 0
    for kernel in session.kernels.values():
        icount = session.options.icount
        status = session.show(kernel, rest, "run", icount=icount, settle=SETTLE if icount else 0,
                              leaks=session.options.leaks) or status
    return status


def do_shell(session, _rest):
    if not sys.stdin.isatty():
        raise Failure("shell: standard input is no terminal", hint="use ./dev run -- COMMAND")
    kernel = next(iter(session.kernels.values()))
    say(f"  a shell in the {kernel.name} kernel; leave with exit")
    result = session.boot(kernel, ["bash", "-l"], f"shell-{kernel.name}", deadline=86400, interactive=True,
                          icount=session.options.icount)
    vm.report(result)
    return 0 if not result.findings and not result.problems else 1


def do_test(session, rest):
    tally = suite.Tally()

    def match(name):
        return not rest or any(f in name for f in rest)

    checks.samples(tally, match)
    for build, options in HOST_BUILDS.items():
        reader = suite.Reader(tally, "host", 0, rest, session.options.verbose)
        with session.build.lock():
            for test in session.build.host_tests(build, options, rest):
                reader.whole(*test)
    ran = sum(tally.counts())
    for name, kernel in session.kernels.items():
        limit = TEST_LIMIT[name]
        before = sum(tally.counts())
        with step(f"tests on {name}") as s:
            reader = suite.Reader(tally, name, limit, rest, session.options.verbose)
            result = session.boot(kernel, ["/bus1/runtests", str(limit), *rest], f"test-{name}",
                                  deadline=session.options.deadline or TEST_DEADLINE[name],
                                  leaks=name == "debug" and (not rest or session.options.leaks),
                                  output=reader.feed, tick=lambda: suite.progress(tally, s))
            reader.close()
        for verdict, test in suite.kunit(vm.read(result.log)):
            if not match(test):
                continue
            if verdict == "skip":
                tally.skip(f"{name} {test}")
            else:
                tally.check(f"{name} {test}", verdict == "ok", f"see {result.log}")
        ran += sum(tally.counts()) - before
        # These hold for every selection of tests: what was run must have run cleanly.
        tally.check(f"{name} kernel log is clean", not result.findings, f"see {result.log}")
        tally.check(f"{name} machine ran to its end", not result.problems and result.status is not None,
                    "; ".join(result.problems))
        vm.report(result)
        if not reader.programs and os.path.isdir(os.path.join(session.build.tree, "usr/libexec/bus1/tests")):
            tally.fail(f"{name} test programs", "none ran")
    before = sum(tally.counts())
    checks.real(tally, match, session.root, session.build, session.kernels, session.boot)
    if not ran + sum(tally.counts()) - before:
        tally.fail("selection", "no test's name contains " + " or ".join(rest))
    return tally.close()


def do_clean(options):
    top = cache.top()
    if not os.path.isdir(top):
        return 0
    with step("clean", quiet=True):
        if options.all:
            cache.remove(top)
            return 0
        work = os.path.join(top, "work")
        for name in os.listdir(work) if os.path.isdir(work) else ():
            note = os.path.join(work, name, "checkout")
            try:
                with open(note, encoding="utf-8") as f:
                    checkout = f.read().strip()
            except OSError:
                checkout = ""
            # Those of checkouts that are gone serve nobody either.
            if checkout == guest.CHECKOUT or not os.path.isdir(checkout):
                with cache.lock("build-" + name, "building this checkout"):
                    cache.remove(os.path.join(work, name))
    return 0


COMMANDS = {"demo": do_demo, "test": do_test, "bench": do_bench, "build": do_build, "run": do_run,
            "shell": do_shell}


def ended(number, _frame):
    raise SystemExit(128 + number)


def main(argv):
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
    # chroot and others are there, which an ordinary user's path may lack.
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    start = time.monotonic()
    command = None
    try:
        command, options, rest = parse(argv)
        if command in (None, "help"):
            text = USAGE.format(series=buildroot.SERIES, cache=cache.top(), memory=vm.MEMORY)
            (sys.stdout if command else sys.stderr).write(text)
            return 0 if command else 2
        if command == "clean":
            return do_clean(options)
        if command not in COMMANDS:
            raise Failure(f"unknown command {command}", hint="see ./dev --help")
        steps.open_logs(os.path.join(cache.top(), "logs"), command)
        vm.sweep()
        status = COMMANDS[command](Session(command, options), rest)
        if command != "test":  # whose last line is the count
            say(f"  {command}: {duration(time.monotonic() - start)}")
        return status
    except Failure as failure:
        steps.report(failure)
        if command == "test":
            print("0 passed, 1 failed", flush=True)
        return 1
    except KeyboardInterrupt:
        say("dev: interrupted")
        return 130
    except OSError as error:
        if error.errno == 28:
            say(f"dev: no space left: {error}")
            return 1
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
