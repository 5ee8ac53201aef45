#!/usr/bin/env python3
"""Tests the Makefiles with the make that is named, on a path with spaces and quotes.

    python3 tests/system/make_test.py make|bmake [CLASS[.TEST]]
"""
import os
import pathlib
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from typing import Dict, List

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAKE = sys.argv.pop(1) if len(sys.argv) > 1 else "make"
LINUX = sys.platform == "linux"
PYTHON = "PYTHON=" + shlex.quote(sys.executable)     # it may not be called python3


class MakeCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = (pathlib.Path(folder.name).resolve()
                     / "a path with spaces and a ' and a \"")
        self.fill()
        self.chatsrv = self.root / "build" / "chatsrv"

    def fill(self) -> None:
        shutil.copytree(str(ROOT), str(self.root), symlinks=True,
                        ignore=shutil.ignore_patterns(".git", "build", "__pycache__"))

    def make(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Runs make, with a compiler that is in a hurry; returns what it said."""
        inherited = {name: value for name, value in os.environ.items()
                     if name not in ("MAKEFLAGS", "MAKELEVEL", "BACKEND", "N")}
        result = subprocess.run([MAKE, *arguments, "CFLAGS=-O0", PYTHON], cwd=self.root,
                                env={**inherited, **environment},
                                stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                universal_newlines=True)
        (self.assertNotEqual if status else self.assertEqual)(result.returncode, 0,
                                                              result.stdout)
        return result.stdout

    def files(self) -> Dict[str, bytes]:
        """All files, with their contents and the times when they changed."""
        return {str(path): path.read_bytes() + str(path.stat().st_mtime_ns).encode()
                for path in self.root.rglob("*") if path.is_file()}

    def expect_chatsrv(self, says: str) -> None:
        """Which program it is, by its message about wrong usage."""
        result = subprocess.run([str(self.chatsrv), "-z"], stderr=subprocess.PIPE,
                                universal_newlines=True)
        self.assertEqual(result.returncode, 2)
        self.assertIn(says, result.stderr)


NUMBERED = ("step", "run", "Test", "diff", "start", "mine", "compare")
STEP, FINAL = "usage: chatsrv [port]", "chatsrv -h explains"


class Verbs(MakeCase):
    def test_all(self):
        self.make()
        self.expect_chatsrv(FINAL)
        chatcl = self.root / "build" / "chatcl"
        self.assertLess(chatcl.stat().st_size, 500_000)     # its buffers are not in it
        self.make("clean")
        self.assertFalse((self.root / "build").exists())

    def test_step(self):
        """One build/chatsrv, and always what was asked for last."""
        for arguments in (["step", "3"], ["step", "N=4"], ["N=5", "step"]):
            self.make("build/chatsrv")
            self.expect_chatsrv(FINAL)
            self.assertIn(f"{re.search('[345]', ' '.join(arguments))[0]}-",
                          self.make(*arguments))
            self.expect_chatsrv(STEP)

    def test_test(self):
        for arguments in (["Test2"], ["Test", "2"]):
            self.assertRegex(self.make(*arguments), r"Test2 +3 of 3 passed")
            self.expect_chatsrv(STEP)

    def test_run(self):
        """Wrong usage ends the server at once."""
        for arguments, says in ((["run"], FINAL), (["run", "3"], STEP),
                                (["run", "N=2"], STEP), (["run"], FINAL)):
            self.assertIn(says, self.make(*arguments, "ARGS=-z", status=2))

    def test_again(self):
        """What has been built is not built again."""
        for goals in ([], ["step", "3"], ["examples"], ["step", "4"], []):
            self.make(*goals)
            before = self.files()
            self.assertEqual(self.make(*goals), "")
            self.assertEqual(self.files(), before)

    def test_changes(self):
        """What has changed is built again, whatever its time says."""
        step = self.root / "steps" / "3-close.c"
        self.make("step", "3")
        step.write_text(step.read_text().replace("usage: chatsrv", "usage: other"))
        os.utime(str(step), (0, 0))
        self.make("step", "3")
        self.expect_chatsrv("usage: other")
        self.make("step", "4")
        self.make("step", "3")
        self.expect_chatsrv("usage: other")

    def test_flags_matter(self):
        """Other flags, or another compiler, mean another program."""
        for goals in ([], ["step", "3"]):
            self.make(*goals)
            self.assertIn("-DOTHER", self.make(*goals, "CPPFLAGS=-DOTHER"))
            self.assertEqual(self.make(*goals, "CPPFLAGS=-DOTHER"), "")
            self.assertNotIn("-DOTHER", self.make(*goals))
            self.assertEqual(self.make(*goals), "")
            self.make(*goals, "CC=false", status=2)
            self.assertFalse(self.chatsrv.exists())

    def test_a_source_of_final(self):
        self.make()
        feed = self.root / "final" / "feed.c"
        os.utime(str(feed), (time.time() + 60,) * 2)
        self.assertIn("feed.c", self.make())

    def test_parallel(self):
        self.make("-j4")
        self.expect_chatsrv(FINAL)
        said = self.make("-j4", "step", "3")
        self.expect_chatsrv(STEP)
        self.assertNotIn("warning", said)
        said = self.make("-j4", "test", "ONLY=utf8")
        self.assertIn("2 passed, 0 failed", said)
        self.assertNotIn("warning", said)

    def test_dry_run(self):
        """-n runs nothing, whatever the verb."""
        self.make("step", "2")
        before = self.files()
        for verb in self.phony():
            with self.subTest(verb=verb):
                number = ["3"] if verb in NUMBERED else []
                self.make("-n", verb, *number, f"P2={self.root}/p2",
                          f"DESTDIR={self.root}/d")
        self.assertEqual(self.files(), before)

    def test_read_only(self):
        """make says why nothing can be built."""
        for folder in (self.root.parent, self.root):
            folder.chmod(0o555)
        self.addCleanup(self.root.chmod, 0o755)
        self.addCleanup(self.root.parent.chmod, 0o755)
        nobody = (lambda: os.setuid(65534)) if os.getuid() == 0 else None
        for verb in (["all"], ["step", "1"], ["test"], ["submit", "P2=x"]):
            result = subprocess.run([MAKE, *verb], cwd=self.root, preexec_fn=nobody,
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                    universal_newlines=True)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("make: nothing can be built here: build/ cannot be written\n",
                          result.stdout)
            self.assertLess(len(result.stdout.splitlines()), 8, result.stdout)

    def test_submit(self):
        """The path is taken as it is."""
        target = self.root / "it's \"here\""
        said = self.make("submit", f"P2={target}", "CC=false", status=2)
        self.assertTrue((target / "chatsrv.c").exists(), said)

    def test_install(self):
        destination = self.root / "it's there"
        where = [f"DESTDIR={destination}", "PREFIX=/opt/chat"]
        self.make("install", *where)
        self.assertEqual({str(path.relative_to(destination)): path.stat().st_mode & 0o777
                          for path in destination.rglob("*") if path.is_file()},
                         {"opt/chat/bin/chatsrv": 0o755, "opt/chat/bin/chatcl": 0o755,
                          "opt/chat/share/man/man1/chatsrv.1": 0o644,
                          "opt/chat/share/man/man1/chatcl.1": 0o644})
        self.make("uninstall", *where)
        self.assertEqual([path for path in destination.rglob("*") if path.is_file()], [])

    def test_failed_build(self):
        """leaves no older program behind"""
        self.make("step", "1")
        self.make("step", "2", "CC=false", status=2)
        self.assertFalse(self.chatsrv.exists())

    def test_failures_named(self):
        """The last lines name what failed, for one who sees no others."""
        utf8 = self.root / "final" / "utf8.c"
        utf8.write_text(utf8.read_text().replace("0x7f", "0x7e"))
        (self.root / "tests" / "system" / "submit_test.py").write_text(
            "import unittest\n"
            "class Case(unittest.TestCase):\n"
            "    def test_wrong(self): self.fail()\n"
            "    def test_worse(self): print(undefined)\n"
            "unittest.main()\n")
        said = self.make("test", "ONLY=utf8 submit", status=2)
        named = re.search(r"\nfailed:\n((?: .*\n)+)1 passed, 2 failed\n", said)
        self.assertTrue(named, said)
        jobs = re.split(r"^ {6}(?! )", named[1], flags=re.MULTILINE)[1:]
        for job, says in (("submit", r" +ERROR: test_worse .*\n +FAIL: test_wrong .*"),
                          ("utf8 native", r" +unit/utf8_test\.c:\d+: .*")):
            self.assertEqual(sum(bool(re.fullmatch(f"{job}\n{says}\n", found))
                                 for found in jobs), 1, said)

    def test_diff(self):
        self.assertIn("+#include <signal.h>\n", self.make("diff", "4"))
        self.assertIn("\n+int main(", self.make("diff", "N=1"))
        self.assertIn("+++ final/chatsrv.c", self.make("diff", "7"))
        self.assertNotIn("\x1b", self.make("diff", "2"))

    def test_diff_in_colour(self):
        ours, theirs = pty.openpty()
        with subprocess.Popen([MAKE, "diff", "3"], cwd=self.root,
                              stdout=theirs) as process:
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
        """is an error, and nothing is done before it is said"""
        for goals, says in ((["step", "9"], "make step N: N is a number from 1 to 6\n"),
                            (["step"], "make step N: N is a number from 1 to 6\n"),
                            (["Test"], "make Test N: N is a number from 1 to 6\n"),
                            (["run", "7"], "make run N: N is a number from 1 to 6\n"),
                            (["diff", "8"], "make diff N: N is a number from 1 to 7\n"),
                            (["diff"], "make diff N: N is a number from 1 to 7\n"),
                            (["step", "3", "4"],
                             "make: one number at a time, not 3 and 4\n"),
                            (["step", "3", "N=4"],
                             "make: one number at a time, not 4 and 3\n"),
                            (["3"], "make: 3 goes with one of these: "),
                            (["Test3", "4"], "make: 4 goes with one of these: "),
                            (["chat", "3"], "make: 3 goes with one of these: "),
                            (["BACKEND=other"],
                             "make: BACKEND is native or kqueue, not other"),
                            (["submit"], "usage: make submit P2=DIR\n")):
            with self.subTest(goals=goals):
                said = self.make(*goals, status=2)
                self.assertTrue(said.startswith(says), said)
        self.assertFalse(self.chatsrv.exists())

    def phony(self) -> List[str]:
        text = (self.root / "Makefile").read_text()
        return text[text.index(".PHONY:"):].replace("\\\n", " ").split()[1:]

    def test_help(self):
        """names each verb"""
        inner = {"all", "flags", "build/chatsrv", "build/chatcl", "programs", "numbers",
                 "ready"}
        for verb in (set(self.phony()) - inner - set("124567")
                     - {f"Test{n}" for n in (1, 2, 4, 5, 6)}):
            self.assertRegex(self.make("help"), rf"(?m)^make .*\b{verb}\b")

    @unittest.skipUnless(LINUX, "elsewhere, kqueue is the only backend")
    def test_backend(self):
        library = ["CPPFLAGS=-DEVLOOP_KQUEUE -isystem ../tests/kqueue",
                   "LDLIBS=../tests/kqueue/kqueue.c"]
        step, final = ["step", "6"], ["build/chatsrv"]
        kqueue = {"BACKEND": "kqueue"}
        for goals, flags, environment, has_kqueue in (
                (step, [], {}, False), (step, ["BACKEND=kqueue"], {}, True),
                (step, library, {}, True), (step, [], {}, False),
                (step, [], kqueue, True),
                (final, [], {}, False), (final, [], kqueue, True)):
            self.make(*goals, *flags, **environment)
            self.assertEqual(b"kevent" in self.chatsrv.read_bytes(), has_kqueue)

    @unittest.skipUnless(LINUX, "elsewhere, kqueue is the only backend")
    def test_backend_of_the_tests(self):
        """The tests run on the backend that the environment names."""
        self.make("test", "ONLY=evloop", BACKEND="kqueue")
        program = self.root / "build" / "check" / "native" / "evloop_test"
        self.assertIn(b"kevent", program.read_bytes())


class Alone(MakeCase):
    """final/ without the rest of the repository."""

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
        """Whatever changes, make notices."""
        self.make()
        makefile = (self.root / "Makefile").read_text()
        for file in self.root.glob("*.[ch]"):
            if file.suffix == ".c" and file.name not in makefile:
                continue        # nobody uses it yet
            was = file.stat().st_mtime
            os.utime(str(file), (time.time() + 60,) * 2)
            self.assertIn(" -o ", self.make("-n"))
            os.utime(str(file), (was, was))

    def test_flags(self):
        """The two Makefiles compile alike."""
        flags = [re.search(r"\n(STRICT = .*\nSYSTEM = .*\n)",
                           (ROOT / file).read_text())[1]
                 for file in ("Makefile", "final/Makefile")]
        self.assertEqual(flags[0], flags[1])


class Archive(MakeCase):
    """What git hands out is complete."""

    def fill(self) -> None:
        has_git = shutil.which("git") and (ROOT / ".git").exists()
        if not has_git:
            self.skipTest("this is no git checkout")
        self.root.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT,
                                 stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x"], cwd=self.root, input=archive, check=True)

    def test_build(self):
        self.make()
        self.assertRegex(self.make("Test6"), r"Test6 +1 of 1 passed")


if __name__ == "__main__":
    unittest.main()
