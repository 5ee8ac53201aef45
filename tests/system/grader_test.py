#!/usr/bin/env python3
"""Tests the grader as a program: its files, its exit status, its words on a bad start.

    STEPS=DIR python3 tests/system/grader_test.py [CLASS[.TEST]]

STEPS is the folder with the steps' programs.
"""
import contextlib
import json
import os
import pathlib
import re
import resource
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

FLOODER = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
client = listener.accept()[0]
while True:
    client.sendall(b"x" * 31 + b"\\n")
"""

STUBBORN = """
import pathlib, signal, socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[2]).touch())
clients = []
while True:
    clients.append(listener.accept()[0])
    print("accepted connection", flush=True)
"""

NAIVE = """
import select, socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
socks, tails = [listener], {}
while True:
    for sock in select.select(socks, [], [])[0]:
        if sock is listener:
            socks.append(listener.accept()[0])
            tails[socks[-1]] = ""
            print("accepted connection", flush=True)
            socks[-1].send(b"Welcome\\n")
            continue
        data = sock.recv(4096)
        if not data:
            socks.remove(sock)
            continue
        *lines, tails[sock] = (tails[sock] + data.decode()).split("\\n")
        for line in lines:
            for other in socks[1:]:
                other.send(line.encode() + b"\\n")
"""


def grade(*arguments: str, server: str = STEP6) -> Tuple[int, str]:
    done = subprocess.run([sys.executable, test.__file__, "--server", server, *arguments],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
                          universal_newlines=True)
    return done.returncode, done.stdout


def servers_of(grader: int) -> List[int]:
    """Those that a grader has started, and that still run (Linux)."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if b"CHATSRV_TEST_TOKEN=%d." % grader in path.read_bytes():
                found.append(int(path.parent.name))
    return found


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
            os.kill(process.pid, signal.SIGSTOP)        # it starts no further server,
            os.waitpid(process.pid, os.WUNTRACED)       # as soon as it has stopped
            family = test.descendants(process.pid)
            process.kill()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        results = self.results()
        self.assertEqual(len(results["tests"]), 3)
        self.assertTrue(1 <= results["score"] < 3, results)
        self.assertEqual(len(self.suite()), 3)

    def test_terminated_beside_a_stubborn_server(self):
        """A server that is slow to end does not outlive a grader that is interrupted."""
        told = self.folder / "told"
        server = self.folder / "server.py"
        server.write_text(STUBBORN)
        with subprocess.Popen([sys.executable, test.__file__, "--server",
                               f"{sys.executable} {server} {{port}} {told}", "Test1"],
                              stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as process:
            end = time.monotonic() + 30
            while not told.exists() and time.monotonic() < end:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
        self.assertEqual(process.returncode, 1)
        self.assertEqual(servers_of(process.pid), [])

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
            self.assertEqual(servers_of(process.pid), [])
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


class Causes(GraderCase):
    """What is said on top."""

    def test_last_words(self):
        """two causes of one kind of end are two"""
        naive = self.program("naive.py", NAIVE)
        status, said = grade("TestRules.test_any_bytes", "TestRules.test_leave_with_line",
                             server=f"{sys.executable} {naive} {{port}}")
        self.assertEqual(status, 1, said)
        said = re.sub(r"\s+", " ", said)
        for last in "UnicodeDecodeError", "(BrokenPipe|ConnectionReset)Error":
            self.assertRegex(said, rf"The server ended, exit status 1 \({last}: "
                                   r".{,80}\): in 1 of 2 checks")

    def test_flood(self):
        """that a server sends without end; which does not fill the memory"""
        flooder = self.program("flooder.py", FLOODER)
        status, said = grade("Test5", server=f"{sys.executable} {flooder} {{port}}")
        self.assertEqual(status, 1, said)
        self.assertIn("The server sends without end", said)
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        self.assertLess(most, 400 << 10 if test.LINUX else 400 << 20)


class Recipes(GraderCase):
    """The scripts in notes/teaching.md, on Test1 alone."""

    def recipe(self, head: str) -> str:
        text = (support.ROOT / "notes" / "teaching.md").read_text()
        script = re.search(re.escape(head) + r".*?```sh\n(.*?)```", text, re.S)[1]
        self.assertIn("--limit 300", script)
        return script.replace("--limit 300", "--limit 300 Test1")

    def run_script(self, script: str) -> str:
        done = subprocess.run(
            ["sh", "-c", script], cwd=str(self.folder), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, universal_newlines=True,
            env={**os.environ, "CHATSRV_TEST_SERVER": "./chatsrv {port}"})
        return done.stdout

    def submission(self, folder: pathlib.Path, source: pathlib.Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "Makefile").write_text(
            f"all:\n\tcp {shlex.quote(str(STEPS))}/1-accept chatsrv\n")
        source.mkdir(parents=True, exist_ok=True)
        shutil.copy(test.__file__, str(source))

    def test_gradescope(self):
        self.submission(self.folder / "submission", self.folder / "source")
        (self.folder / "results").mkdir()
        script = self.recipe("**Gradescope**").replace("/autograder", str(self.folder))
        said = self.run_script(script)
        results = json.loads((self.folder / "results" / "results.json").read_text())
        self.assertEqual(results["score"], 1, said)

    def test_vpl(self):
        self.submission(self.folder, self.folder)
        said = self.run_script(self.recipe("**VPL**") + "./vpl_execution")
        self.assertIn("\nGrade :=>> 100\n", said)


class Schema(GraderCase):
    """A JUnit file is as junit.xsd wants it."""
    XSD = pathlib.Path(__file__).with_name("junit.xsd")

    def is_valid(self) -> bool:
        done = subprocess.run(["xmllint", "--noout", "--schema", str(self.XSD),
                               str(self.junit)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, universal_newlines=True)
        self.said = done.stdout
        return done.returncode == 0

    def test_verdicts(self):
        """all kinds of them"""
        talker = self.program("talker.py", TALKER)
        for server in (shlex.quote(f"{STEPS}/4-welcome"), f"{sys.executable} {talker}",
                       "false", "./none-such"):
            grade("Test1", "Test5", "TestRules.test_limit", *self.files,
                  server=server + " {port}")
            self.assertTrue(self.is_valid(), self.said)

    def test_wrong_files(self):
        """the schema can find fault"""
        grade("Test1", *self.files)
        right = self.junit.read_text()
        for old, new in (('tests="1"', 'tests="one"'), (' time="', ' thyme="'),
                         ("<testcase", "<test"), ("</testcase>", "<error/></testcase>"),
                         ('name="test_', 'name="a test '), ("</testsuites>", "")):
            self.assertIn(old, right)
            self.junit.write_text(right.replace(old, new))
            self.assertFalse(self.is_valid(), self.said)


if __name__ == "__main__":
    unittest.main()
