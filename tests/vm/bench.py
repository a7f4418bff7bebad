# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of bus1-bench: taken out of what the guest writes, kept, and drawn."""

import os

import guest
from steps import say

# In the guest: the bench, and behind a mark the report that it has saved.
MARK = b"\n= report =\n"
SCRIPT = """\
bus1-bench "$@" --save /tmp/report
status=$?
if [ -s /tmp/report ]; then
    printf '\\n= report =\\n'
    cat /tmp/report
fi
exit $status
"""


def command(arguments):
    return ["/bin/bash", "-c", SCRIPT, "bench", *arguments]


class Report:
    """Passes output on up to the mark, and keeps what is behind it."""

    def __init__(self, output):
        self.output = output
        self.held = b""
        self.data = None

    def feed(self, data):
        if self.data is not None:
            self.data += data
            return
        self.held += data
        at = self.held.find(MARK)
        if at >= 0:
            self.output(self.held[:at])
            self.data = self.held[at + len(MARK):]
            self.held = b""
            return
        # The end may be the beginning of the mark.
        keep = max(n for n in range(len(MARK)) if self.held.endswith(MARK[:n]))
        self.output(self.held[:len(self.held) - keep])
        self.held = self.held[len(self.held) - keep:]

    def close(self):
        self.output(self.held)
        self.held = b""

    def save(self, session, name):
        """Leave the report and its plots where they can be found, and say where."""
        self.close()
        if not self.data:
            return
        directory = os.path.join(session.build.work, "bench")
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, name + ".json"), "wb") as f:
            f.write(self.data)
        say(f"  report: {directory}/{name}.json")
        plots = session.root.output([os.path.join(guest.CHECKOUT, "tools/bench/plot"), f"/b/work/bench/{name}.json"],
                                    session.build.binds())
        for path in plots.split():
            say(f"  plot:   {os.path.join(directory, os.path.basename(path))}")
