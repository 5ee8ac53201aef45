#!/usr/bin/env python3
"""Tests `make submit`."""
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAKE = os.environ.get("MAKE") or "make"
PYTHON = "PYTHON=" + shlex.quote(sys.executable)     # it may not be called python3


class Submit(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.target = pathlib.Path(folder.name).resolve() / "my repo" / "p2"

    def submit(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([MAKE, "submit", PYTHON, *arguments], cwd=ROOT,
                              env={**os.environ, "SUBMIT_TESTS": "Test6",
                                   "SUBMIT_CHATSRV_TESTS": "Messages.test_prefix",
                                   "SUBMIT_CLIENT_TESTS":
                                       "PipeTest.test_lines_in_and_out"},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              universal_newlines=True)

    def test_copies_builds_and_tests(self):
        result = self.submit(f"P2={self.target}")
        self.assertEqual(result.returncode, 0, result.stdout)
        for file in [*(ROOT / "final").glob("*.[ch1]"), ROOT / "LICENSE"]:
            self.assertEqual((self.target / file.name).read_bytes(), file.read_bytes())
        self.assertTrue(os.access(str(self.target / "chatsrv"), os.X_OK))
        self.assertTrue(os.access(str(self.target / "chatcl"), os.X_OK))
        self.assertRegex(result.stdout, r"Test6 +1 of 1 passed")
        self.assertEqual(result.stdout.count("\nRan 1 test in "), 3)

    def test_overwrites_nothing_unless_told(self):
        self.target.mkdir(parents=True)
        (self.target / "chatsrv.c").write_text("int main(void) { return 0; }\n")
        (self.target / "notes.txt").write_text("mine\n")
        result = self.submit(f"P2={self.target}")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("differ: chatsrv.c\n", result.stdout)
        self.assertEqual(len(list(self.target.iterdir())), 2)
        result = self.submit(f"P2={self.target}", "FORCE=1")
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertEqual((self.target / "notes.txt").read_text(), "mine\n")

    def test_wants_a_folder(self):
        result = self.submit()
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("usage: make submit P2=DIR\n", result.stdout)


if __name__ == "__main__":
    unittest.main()
