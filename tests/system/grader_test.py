#!/usr/bin/env python3
"""Tests the grader as a program: its files, its exit status, its words on a bad start.

    STEPS=DIR python3 tests/system/grader_test.py [CLASS[.TEST]]

STEPS is the folder with the steps' programs.
"""
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree
from typing import Any, Dict, List, Tuple

import support
import test                             # tests/test.py, not Python's own

STEPS = pathlib.Path(os.environ.get("STEPS", "build/check/native/steps")).resolve()
STEP6 = shlex.quote(f"{STEPS}/6-broadcast") + " {port}"
TALKER = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
print("accepted connection", flush=True)
sys.stderr.write("a bell \\x07 and an escape \\x1b[2J\\n")
sys.exit(3)
"""


def grade(*arguments: str, server: str = STEP6) -> Tuple[int, str]:
    done = subprocess.run([sys.executable, test.__file__, "--server", server, *arguments],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
                          universal_newlines=True)
    return done.returncode, done.stdout


class GraderCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.junit, self.gradescope = self.folder / "r.xml", self.folder / "r.json"
        self.files = ["--junit", str(self.junit), "--gradescope", str(self.gradescope)]

    def program(self, name: str, text: str, mode: int = 0o755) -> str:
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return str(path)


class Files(GraderCase):
    """Both formats, by their rules."""

    def suite(self) -> xml.etree.ElementTree.Element:
        """The file's only suite, after a check that JUnit readers will take the file."""
        root = xml.etree.ElementTree.parse(str(self.junit)).getroot()
        self.assertEqual(root.tag, "testsuites")
        suite, = root
        self.assertEqual(suite.tag, "testsuite")
        cases = list(suite)
        count = {name: sum(case.find(name) is not None for case in cases)
                 for name in ("failure", "skipped")}
        self.assertEqual((int(suite.get("tests")), int(suite.get("failures")),
                          int(suite.get("skipped")), suite.get("errors")),
                         (len(cases), count["failure"], count["skipped"], "0"))
        for case in cases:
            self.assertEqual(case.tag, "testcase")
            self.assertTrue(case.get("name") and case.get("classname"))
            self.assertGreaterEqual(float(case.get("time")), 0)
            self.assertLessEqual(len(case), 1)
            for found in case:
                self.assertTrue(found.get("message"))
        return suite

    def results(self) -> Dict[str, Any]:
        """Checks the file by Gradescope's documentation of results.json."""
        results = json.loads(self.gradescope.read_text())
        self.assertIsInstance(results["output"], str)
        self.assertIn(results["stdout_visibility"], ("hidden", "visible"))
        for one in results["tests"]:
            self.assertIn(one["status"], ("passed", "failed"))
            self.assertLessEqual(0, one["score"])
            self.assertLessEqual(one["score"], one["max_score"])
            self.assertIsInstance(one["output"], str)
        self.assertAlmostEqual(results["score"],
                               sum(one["score"] for one in results["tests"]))
        return results

    def test_passed_failed_and_not_looked_at(self):
        status, said = grade("Test1", "Test6", "TestRules.test_limit", *self.files,
                             "--points", "Test1=3,TestRules=4,TestRules.test_limit=2",
                             server=shlex.quote(f"{STEPS}/4-welcome") + " {port}")
        self.assertEqual(status, 1, said)
        one, six, limit = self.suite()
        self.assertEqual(len(one), 0)
        self.assertIsNotNone(six.find("failure"))
        self.assertIn("needs the echo", limit.find("skipped").get("message"))
        results = self.results()
        self.assertEqual([test["score"] for test in results["tests"]], [3, 0, 0])
        self.assertEqual([test["max_score"] for test in results["tests"]], [3, 1, 2])

    def test_control_bytes(self):
        talker = self.program("talker.py", TALKER)
        status, said = grade("Test1", *self.files,
                             server=f"{sys.executable} {talker} {{port}}")
        self.assertEqual(status, 1, said)
        self.assertIn(r"\x07", self.suite()[0].find("failure").text)
        self.results()

    def test_killed(self):
        """What has passed by then counts; nothing else does."""
        with subprocess.Popen([sys.executable, test.__file__, "--server", STEP6,
                               *self.files,
                               "Test1", "TestRules.test_idle", "TestRules.test_visits"],
                              stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as process:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                if self.gradescope.exists() and self.results()["score"] >= 1:
                    break
                time.sleep(0.01)
            process.kill()
        results = self.results()
        self.assertEqual(len(results["tests"]), 3)
        self.assertTrue(1 <= results["score"] < 3, results)
        self.assertEqual(len(self.suite()), 3)

    def test_terminated(self):
        """SIGTERM and ^C: the verdicts so far."""
        for number in (signal.SIGTERM, signal.SIGINT):
            with subprocess.Popen([sys.executable, test.__file__, "--server", STEP6,
                                   *self.files, "Test1", "TestRules.test_visits"],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  universal_newlines=True) as process:
                end = time.monotonic() + 30
                while time.monotonic() < end:
                    if self.gradescope.exists() and self.results()["score"] >= 1:
                        break
                    time.sleep(0.01)
                process.send_signal(number)
                said = process.communicate()[0]
            self.assertEqual(process.returncode, 1, said)
            self.assertRegex(said, r"Test1 +1 of 1 passed")
            self.assertIn(f"interrupted by {number.name}: 1 check not run", said)
            self.gradescope.unlink()

    def test_limit(self):
        status, said = grade("TestRules.test_visits", "--limit", "0.5", *self.files)
        self.assertEqual(status, 1, said)
        self.assertEqual(self.results()["score"], 0)


class Starts(GraderCase):
    """Each way not to start has its sentence, and its exit status."""

    def expect(self, server: str, status: int, words: str) -> str:
        got, said = grade("Test1", server=server)
        self.assertEqual(got, status, said)
        self.assertRegex(re.sub(r"\s+", " ", said), words)
        return said

    def test_nothing(self):
        self.expect("", 3, "an empty command")
        self.expect("./none-such {port}", 3, "is it built")

    def test_no_run_bit(self):
        self.expect(self.program("server", "#!/bin/sh\n", 0o644), 3, r"chmod \+x")

    def test_foreign_binary(self):
        self.expect(self.program("server", "\x7fELF of another kind"), 3,
                    "no program for this system")

    def test_port_taken(self):
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("127.0.0.1", test.PORT))
            except OSError:
                self.skipTest(f"port {test.PORT} is taken indeed")
            taken.listen()
            self.expect("sleep 9", 3, f"port {test.PORT} .*another program listens there")

    def test_ends_at_once(self):
        self.expect("false {port}", 1, "ended, exit status 1")

    @unittest.skipUnless(test.LINUX, "orphans are adopted on Linux")
    def test_daemon(self):
        """A server in the background is named, and ended."""
        daemon = self.program("daemon", f"#!/bin/sh\nsetsid '{STEPS}/6-broadcast' $1 &\n")
        said = self.expect(daemon + " {port}", 1, "it went into the background")
        pid = re.search(r"process (\d+) goes on", re.sub(r"\s+", " ", said))[1]
        self.assertFalse(os.path.exists(f"/proc/{pid}"), said)


@unittest.skipUnless(shutil.which("unshare") and shutil.which("setpriv"),
                     "no sandbox here")
class Class(GraderCase):
    """grade.py is right about each, and outlives all of them."""
    FOLDERS = {         # what builds it, and the verdict
        "asks": ("read answer </dev/tty", "not built: make: exit status"),
        "broken": ("cc none.c", "not built: make: exit status"),
        "nothing": ("true", r"there is no \./chatsrv"),
        "forks": ("while :; do sh -c ': & :' & done", "not built"),
        "kills": ("printf '#!/bin/sh\\nkill -9 -1\\n' >chatsrv; chmod +x chatsrv",
                  "At its start the server ended"),
        "talks": ("printf '#!/bin/sh\\nyes\\n' >chatsrv; chmod +x chatsrv",
                  "does not listen"),
        "right": ("printf '#!/bin/sh\\nexec /bin/sh -c ./step6\\n' >chatsrv;"
                  " chmod +x chatsrv", "all passed"),
    }

    def test_class(self):
        for name, (command, _) in self.FOLDERS.items():
            (self.folder / name).mkdir()
            (self.folder / name / "Makefile").write_text(f"all:\n\t{command}\n")
        shutil.copy(f"{STEPS}/6-broadcast", str(self.folder / "right" / "step6"))
        (self.folder / "right" / "out").symlink_to("/")
        table = self.folder / "r.csv"
        done = subprocess.run(
            [sys.executable, str(support.ROOT / "tests/grade.py"), "--csv", str(table),
             "--html", str(self.folder / "r.html"),
             *(str(self.folder / name) for name in self.FOLDERS)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        if done.returncode == 3:
            self.skipTest(done.stdout)
        self.assertEqual(done.returncode, 0, done.stdout)
        for name, (_, words) in self.FOLDERS.items():
            self.assertRegex(done.stdout, rf"/{name}: .*({words})")
        self.assertEqual(len(table.read_text().splitlines()), 1 + len(self.FOLDERS))
        page = (self.folder / "r.html").read_text()
        self.assertNotIn("<script", page)
        self.assertEqual(page.count("<h2"), len(self.FOLDERS))


if __name__ == "__main__":
    unittest.main()
