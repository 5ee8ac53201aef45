#!/usr/bin/env python3
"""Tests the Makefiles, in a copy whose path has spaces, with the make that is named.

    python3 tests/system/make_test.py make|bmake [CLASS[.TEST]]
"""
import os
import pathlib
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAKE = sys.argv.pop(1) if len(sys.argv) > 1 else "make"
LINUX = sys.platform == "linux"


class MakeCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name).resolve() / "a path with spaces"
        self.fill()
        self.chatsrv = self.root / "build" / "chatsrv"

    def fill(self) -> None:
        shutil.copytree(str(ROOT), str(self.root), symlinks=True,
                        ignore=shutil.ignore_patterns(".git", "build", "__pycache__"))

    def make(self, *arguments: str, status: int = 0, folder: str = "") -> str:
        """Runs make; returns what it said."""
        environment = {name: value for name, value in os.environ.items()
                       if name not in ("MAKEFLAGS", "MAKELEVEL")}
        result = subprocess.run([MAKE, *arguments], cwd=self.root / folder, env=environment,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, universal_newlines=True)
        (self.assertNotEqual if status else self.assertEqual)(result.returncode, 0, result.stdout)
        return result.stdout

    def expect_chatsrv(self, says: str) -> None:
        """What it says of wrong usage tells whose it is."""
        result = subprocess.run([str(self.chatsrv), "-z"], stderr=subprocess.PIPE,
                                universal_newlines=True)
        self.assertEqual(result.returncode, 2)
        self.assertIn(says, result.stderr)


STEP, FINAL = "usage: chatsrv [port]", "chatsrv -h explains"


class Verbs(MakeCase):
    def test_all(self):
        self.make()
        self.expect_chatsrv(FINAL)
        self.assertTrue((self.root / "build" / "chatcl").exists())
        self.make("clean")
        self.assertFalse((self.root / "build").exists())

    def test_step(self):
        """One build/chatsrv, and always what was asked for last."""
        for arguments in (["step", "3"], ["step", "N=4"], ["N=5", "step"]):
            self.make("build/chatsrv")
            self.expect_chatsrv(FINAL)
            self.assertIn(f"{re.search('[345]', ' '.join(arguments))[0]}-", self.make(*arguments))
            self.expect_chatsrv(STEP)

    def test_test(self):
        self.assertRegex(self.make("Test2"), r"Test2 +3 of 3 passed")
        self.expect_chatsrv(STEP)

    def test_failed_build(self):
        """leaves no older program behind"""
        self.make("step", "1")
        self.make("step", "2", "CC=false", status=2)
        self.assertFalse(self.chatsrv.exists())

    def test_diff(self):
        self.assertIn("+#include <signal.h>\n", self.make("diff", "4"))
        self.assertIn("\n+int main(", self.make("diff", "N=1"))
        self.assertIn("+++ final/chatsrv.c", self.make("diff", "7"))
        self.assertNotIn("\x1b", self.make("diff", "2"))

    def test_diff_in_colour(self):
        ours, theirs = pty.openpty()
        with subprocess.Popen([MAKE, "diff", "3"], cwd=self.root, stdout=theirs) as process:
            os.close(theirs)
            shown = b""
            try:
                while b"@@" not in shown:
                    shown += os.read(ours, 1 << 16)
            except OSError:     # the end
                pass
            os.close(ours)
            process.kill()
        self.assertIn(b"\x1b[31m---", shown)

    def test_wrong_use(self):
        for goals, says in ((["step", "9"], "make step N: N is a number from 1 to 6\n"),
                            (["step"], "make step N: N is a number from 1 to 6\n"),
                            (["diff", "8"], "make diff N: N is a number from 1 to 7\n"),
                            (["3"], "make step 3, or make diff 3?\n"),
                            (["submit"], "usage: make submit P2=DIR\n")):
            with self.subTest(goals=goals):
                said = self.make(*goals, status=2)
                self.assertTrue(said.startswith(says), said)

    def test_help(self):
        """names each verb"""
        text = (self.root / "Makefile").read_text()
        phony = text[text.index(".PHONY:"):].replace("\\\n", " ").split()[1:]
        inner = {"all", "flags", "build/chatsrv", "build/chatcl"}
        for verb in set(phony) - inner - set("124567") - {f"Test{n}" for n in (1, 2, 4, 5, 6)}:
            self.assertRegex(self.make("help"), rf"(?m)^make .*\b{verb}\b")

    @unittest.skipUnless(LINUX, "elsewhere, kqueue is the only backend")
    def test_backend(self):
        library = ["CPPFLAGS=-DEVLOOP_KQUEUE -isystem ../tests/kqueue",
                   "LDLIBS=../tests/kqueue/kqueue.c"]
        for flags, has_kqueue in (([], False), (["BACKEND=kqueue"], True), (library, True)):
            for goals in (["step", "6"], ["build/chatsrv"]):
                self.make(*goals, *flags)
                self.assertEqual(b"kevent" in self.chatsrv.read_bytes(), has_kqueue)


class Alone(MakeCase):
    """final/, without the rest of the repository."""

    def fill(self) -> None:
        shutil.copytree(str(ROOT / "final"), str(self.root),
                        ignore=shutil.ignore_patterns("chatsrv", "chatcl"))

    def test_build(self):
        before = set(self.root.iterdir())
        self.make()
        self.assertEqual({file.name for file in set(self.root.iterdir()) - before},
                         {"chatsrv", "chatcl"})
        self.assertNotIn(" -o ", self.make("-n"))
        self.make("clean")
        self.assertEqual(set(self.root.iterdir()), before)

    def test_dependencies(self):
        """Whatever changes, make sees it."""
        self.make()
        for file in self.root.glob("*.[ch]"):
            was = file.stat().st_mtime
            os.utime(str(file), (time.time() + 60,) * 2)
            self.assertIn(" -o ", self.make("-n"))
            os.utime(str(file), (was, was))

    def test_flags(self):
        """The two Makefiles compile alike."""
        flags = [re.search(r"\n(STRICT = .*\nSYSTEM = .*\n)", (ROOT / file).read_text())[1]
                 for file in ("Makefile", "final/Makefile")]
        self.assertEqual(flags[0], flags[1])


class Archive(MakeCase):
    """What git hands out is complete."""

    def fill(self) -> None:
        has_git = shutil.which("git") and (ROOT / ".git").exists()
        if not has_git:
            self.skipTest("this is no git checkout")
        self.root.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE,
                                 check=True).stdout
        subprocess.run(["tar", "-x"], cwd=self.root, input=archive, check=True)

    def test_build(self):
        self.make()
        self.assertRegex(self.make("Test6"), r"Test6 +1 of 1 passed")


if __name__ == "__main__":
    unittest.main()
