# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a kernel's log and finds everything that must not be there.

A finding is a report of the kernel's, of one or more kinds, with its text. What
a report says in its own lines (a call trace after a warning) belongs to it."""

import dataclasses
import re

# The first that matches a line gives its kind.
PATTERNS = [(kind, re.compile(pattern)) for kind, pattern in (
    ("panic", r"Kernel panic - not syncing"),
    ("kasan", r"BUG: KASAN:"),
    ("kasan", r"BUG: KFENCE:|BUG: KMSAN:"),
    ("kcsan", r"BUG: KCSAN:"),
    ("atomic", r"BUG: sleeping function called|BUG: scheduling while atomic|sleeping in atomic"
               r"|BUG: using \w+\(\) in preemptible|BUG: workqueue leaked (lock|atomic)"
               r"|preempt_count \w+, expected|Voluntary context switch within RCU"),
    ("lockdep", r"possible (circular|recursive) locking|possible irq lock inversion"
                r"|possible unsafe locking|inconsistent .*lock.* (state|usage)|lock order detected"
                r"|suspicious RCU usage|bad unlock balance|bad contention detected|Invalid wait context"
                r"|lock(s)? (still )?held (when returning|at|freed)|held lock freed"
                r"|BUG: MAX_LOCK|turning off the locking correctness validator|possible deadlock"
                r"|DEBUG_LOCKS_WARN_ON|BUG: (spinlock|rwlock|rt_mutex|mutex) |nested lock was not taken"
                r"|lockdep is turned off|lock recursion"),
    ("lockup", r"soft lockup|hard LOCKUP|workqueue lockup"),
    ("hung", r"INFO: task .* blocked for more than|blocked .* likely owned by"),
    ("rcu", r"rcu:? INFO: .*(stall|detected)|rcu_\w+ (self-)?detected|rcu_\w+ kthread (timer wakeup|starved)"
            r"|INFO: rcu_\w+ .*stall"),
    ("list", r"list_(add|del)\b.* corruption|corruption.*list_(add|del)|prev->next should be|next->prev should be"),
    ("refcount", r"refcount_t: |percpu ref .* <= 0"),
    ("ubsan", r"UBSAN: "),
    ("odebug", r"ODEBUG: "),
    ("leak", r"kmemleak: \d+ new suspected memory leak|unreferenced object (\(percpu\) )?0x"),
    ("checker", r"kmemleak: .*(disabled|[Pp]ool empty)|KASAN.*disabled|UBSAN.*disabled"
                r"|DEBUG_LOCKS.*off|ODEBUG: Out of memory"),
    ("slab", r"objects remaining (on|in)|[Ss]lab cache still has objects|(Poison|Redzone|redzone|Padding) overwritten"
             r"|Object already free|BUG [\w-]+ \((Not tainted|Tainted)|Wrong object count|Invalid free"),
    ("usercopy", r"usercopy: Kernel memory"),
    ("oops", r"Oops: |general protection|unable to handle (kernel |page )|NULL pointer dereference"
             r"|kernel stack overflow|stack guard page|corrupted stack end|double fault|Bad RIP value"
             r"|invalid opcode: .*SMP|stack-protector"),
    ("bug", r"kernel BUG at|BUG: Bad |BUG: non-zero|Bad rss-counter|page dumped because|BUG: "),
    ("rust", r"rust_kernel: .*panick|panicked at"),
    ("oom", r"page allocation failure|Out of memory: |invoked oom-killer"),
    ("warn", r"WARNING: |cut here"),
    ("trace", r"Call Trace:"),
)]

PREFIX = re.compile(r"^(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?")
# Reports end here at the latest, should none of their ends be found.
LONGEST = 120
END = re.compile(r"---\[ end trace|^={20,}$|</TASK>|^-{20,}$")
# A report goes on while lines look like parts of one.
QUIET = 12
# Failures injected on request print where they struck.
INJECTED = re.compile(r"FAULT_INJECTION: forcing a failure")
# Asked for by the test runner when a program hangs; nothing is wrong with the kernel.
ASKED = re.compile(r"sysrq: Show Blocked State")
# A test says so before it has a process killed in a cgroup of its own.
MEANT = re.compile(r"bus1 test: out of memory on purpose")


@dataclasses.dataclass
class Finding:
    kinds: set
    line: int          # of the log, from 1
    text: list

    def title(self):
        return self.text[0]


def strip(line):
    return PREFIX.sub("", line.rstrip("\r\n"))


def classify(line):
    """The kind of one line without its time stamp, or None."""
    for kind, pattern in PATTERNS:
        if pattern.search(line):
            return kind
    return None


def find(log):
    """All findings in the text of a log, in order."""
    findings = []
    current, last = None, 0
    excused = -100  # line of the last thing that explains a bare call trace
    meant = -100  # of the last thing that explains a process killed for want of memory
    for number, raw in enumerate(log.split("\n"), 1):
        line = strip(raw)
        if INJECTED.search(line) or ASKED.search(line):
            excused = number
        if MEANT.search(line):
            meant = number
        kind = classify(line)
        if kind == "oom" and number - meant < 20:
            kind, excused = None, number
        if kind == "trace" and number - excused < (200 if current is None else 12):
            kind = None
        if current is not None:
            over = number - current.line > LONGEST or number - last > QUIET
            if kind is not None and not over:
                current.kinds.add(kind)
                last = number
            elif over:
                current = None
            if current is not None:
                current.text.append(line)
                if line.startswith("---[ end") or "</TASK>" in line:
                    last = number - QUIET + 2  # what follows is somebody else's, but for a line or two
                elif line.startswith((" ", "RIP:", "RSP:", "RAX:", "Call ", "CPU:", "Modules", "Code:",
                                      "Hardware", "Tainted", "R1", "RB", "RD", "FS:", "CS:", "CR2:",
                                      "Workqueue", "Memory state", "The buggy", "Allocated", "Freed",
                                      "backtrace", "hex dump", "comm ")):
                    last = max(last, number)
                continue
        if kind is not None:
            current = Finding({kind}, number, [line])
            last = number
            findings.append(current)
    for finding in findings:
        while len(finding.text) > 1 and not finding.text[-1].strip():
            finding.text.pop()
        if len(finding.kinds) > 1:
            finding.kinds.discard("trace")
    return findings


def kinds(findings):
    return set().union(*(f.kinds for f in findings)) if findings else set()


def describe(findings, limit=5, lines=45):
    """The text of findings for a person: the first few, each shortened."""
    out = []
    for f in findings[:limit]:
        out.append(f"  kernel log line {f.line} ({', '.join(sorted(f.kinds))}):")
        out += ["    | " + line for line in f.text[:lines]]
        if len(f.text) > lines:
            out.append(f"    | … {len(f.text) - lines} more lines")
    if len(findings) > limit:
        out.append(f"  … and {len(findings) - limit} more findings")
    return "\n".join(out)
