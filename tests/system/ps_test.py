#!/usr/bin/env python3
"""Where there is no /proc, tests ask ps(1). This one reads its options as FreeBSD's does.

    python3 tests/system/ps_test.py [CLASS[.TEST]]

There, all that follows the first `=` of an -o is a header: `-o pgid=,pid=` asks for one
column, headed `,pid=`.
"""
import os
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

import support      # noqa: F401  (it lets test.py be imported)
import examples_test
import test as grader

PS = '''
import os, sys
fields = []
arguments = sys.argv[1:]
while arguments:
    option = arguments.pop(0)
    if option == "-o":
        name, _, header = arguments.pop(0).partition("=")
        fields.append((name, header))
    elif option != "-A":
        sys.exit("ps: unknown option " + option)
if any(header for _, header in fields):
    print(*(header for _, header in fields))
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        stat = open("/proc/%s/stat" % pid).read().rpartition(")")[2].split()
    except OSError:
        continue
    column = {"pid": pid, "state": stat[0] + "+", "ppid": stat[1], "pgid": stat[2],
              "time": "0:%02d.%02d" % divmod(int(stat[11]) + int(stat[12]), 100)}
    print(*(column[name] for name, _ in fields))
'''


@unittest.skipUnless(os.path.exists("/proc/self/stat"), "the stand-in for ps reads /proc")
class Ps(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        program = pathlib.Path(folder.name) / "ps"
        program.write_text(f"#!{sys.executable}{PS}")
        program.chmod(0o755)
        changed = mock.patch.dict(os.environ, PATH=f"{folder.name}:{os.environ['PATH']}")
        changed.start()
        self.addCleanup(changed.stop)

    def test_grader(self):
        with mock.patch.object(grader, "LINUX", False):
            ours = {process.pid: process for process in grader.processes(os.getpgrp())}
        self.assertIn(ours[os.getpid()].state, "RSD")
        self.assertGreaterEqual(ours[os.getpid()].cpu, 0)

    def test_examples(self):
        with mock.patch.object(examples_test.os.path, "exists", lambda path: False):
            table = {pid: (parent, state)
                     for pid, parent, state in examples_test.process_table()}
        self.assertEqual(table[os.getpid()][0], os.getppid())
        self.assertIn(table[os.getpid()][1], "RSD")

    def test_the_stand_in(self):
        """The stand-in is as strict as FreeBSD's ps."""
        with os.popen("ps -A -o pgid=,pid=") as listing:
            said = listing.read().splitlines()
        self.assertEqual(said[0], ",pid=")
        self.assertNotIn(" ", said[1])


if __name__ == "__main__":
    unittest.main()
