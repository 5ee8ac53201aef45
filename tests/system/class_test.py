#!/usr/bin/env python3
"""Tests grade.py: it is right about each folder of a class, and outlives all of them.

    STEPS=DIR python3 tests/system/class_test.py Few Plain Refused
    STEPS=DIR CHATSRV=PROGRAM JOBS=4 python3 tests/system/class_test.py Sixty

Sixty takes right servers, mutants of step 6, and submissions that do harm: these and what
is said of them are the tables below. It takes ten minutes. STEPS is the folder with the
steps' programs.
"""
import csv
import functools
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from typing import Dict, List, NamedTuple, Tuple

import support
import test                             # tests/test.py, not Python's own

sys.path.insert(0, str(support.ROOT / "tests" / "mutants"))
import mutants          # noqa: E402  (tests/mutants/mutants.py)

STEPS = pathlib.Path(os.environ.get("STEPS", "build/check/native/steps")).resolve()
CHATSRV = pathlib.Path(os.environ.get("CHATSRV", "build/check/native/chatsrv")).resolve()
RIGHT = support.ROOT / "tests" / "right"
NOBODY = 65534
STAGES = "Test1 Test2 Test3 Test4 Test5 Test6"      # all checks but those that take long


class Folder(NamedTuple):
    """A submission, and what its verdict has to say."""
    verdict: str            # a regular expression
    build: str = "true"     # the command in its Makefile
    server: str = ""        # chatsrv, a script
    files: Tuple[pathlib.Path, ...] = ()


def shell(verdict: str, *lines: str) -> Folder:
    return Folder(verdict, server="\n".join(["#!/bin/sh", *lines, ""]))


def python(verdict: str, text: str) -> Folder:
    return Folder(verdict, server="#!/usr/bin/env python3\n" + text)


def right(name: str, *arguments: str) -> Folder:
    """A server of tests/right/."""
    start = f"./{name}" if name.endswith(".sh") else f"python3 {name}"
    return Folder("^all passed$", server=f"#!/bin/sh\nexec {start} 3100 "
                  f"{' '.join(arguments)}\n",
                  files=tuple(filter(pathlib.Path.is_file, RIGHT.iterdir())))


ACCEPTS = """import os, socket, sys, threading, time
listener = socket.create_server(("", 3100), backlog=1024)
clients = []
def work(*_):
    pass
"""

LOOP = """while True:
    clients.append(listener.accept()[0])
    print("accepted connection", flush=True)
    work(clients[-1])
"""

# What does harm while it is built.
BUILDS = {
    "asks": Folder("^not built: make: exit status 2", "read answer </dev/tty"),
    "reads": Folder("^not built: make: exit status 2", "read answer"),
    "broken": Folder("^not built: make: exit status 2", "cc none.c"),
    "nothing": Folder(r"^not built: make, and then there is no \./chatsrv"),
    "hangs": Folder("^not built: make: it had not ended", "sleep 1000"),
    "babbles": Folder("^not built: make: it had not ended", "yes"),
    "multiplies": Folder("^not built", "while :; do sh -c ': & :' & done"),
    "hoards": Folder("^held more than 1024 MB.*not built",
                     "for n in 1 2 3 4 5 6 7 8; do python3 -c 'import time;"
                     " hoard = b\"x\" * (900 << 20); time.sleep(50)' & done; wait"),
    "fills": Folder("^not built: make: exit status 2",
                    "for n in 1 2 3 4 5 6 7 8; do head -c 60000000 /dev/zero >$$n ||"
                    " exit 1; done"),
    "folder": Folder(r"^not built: make, and then there is no \./chatsrv",
                     "mkdir chatsrv"),
    "no-run-bit": Folder("^not built: make, and then .*chmod", "chmod 644 chatsrv",
                         "#!/bin/sh\n"),
    "link": Folder("^not built: make, and then .*leads out of the folder",
                   f"ln -s {shlex.quote(str(CHATSRV))} chatsrv"),
}

# What does harm when it runs.
RUNS = {
    "ends": shell("^At its start the server ended, exit status 3", "exit 3"),
    "foreign": Folder("^At its start the server ended, exit status 12",
                      server="\x7fELF of another kind"),
    "kills": shell("^At its start the server", "kill -9 -1"),
    "deaf": shell("does not listen", "sleep 1000"),
    "talks": shell("does not listen", "yes"),
    "spins": shell("does not listen", "while :; do :; done"),
    "bomb": shell("does not listen|^At its start", "f() { f | f & f; }", "f"),
    "greedy": python("^At its start the server ended", "hoard = bytearray(20 << 30)\n"),
    "grabs": python("^held more than 1024 MB", ACCEPTS
                    + "for _ in range(30):\n"
                      "    if os.fork() == 0:\n"
                      "        hoard = b'x' * (700 << 20)\n"
                      "        time.sleep(1000)\n" + LOOP),
    "mute": python("Test1", ACCEPTS + LOOP.replace("    print", "    0 and print")),
    "noisy": python("Test1|log is endless", ACCEPTS
                    + "def talk():\n"
                      "    while True:\n"
                      "        print('accepted connection', flush=True)\n"
                      "threading.Thread(target=talk, daemon=True).start()\n" + LOOP),
    "garbage": python("^The server (sends without end|ended)", ACCEPTS
                      + "def pour(sock):\n"
                        "    try:\n"
                        "        while True:\n"
                        "            sock.sendall(os.urandom(4096))\n"
                        "    except OSError:\n"
                        "        pass\n"
                        "def work(sock):\n"
                        "    threading.Thread(target=pour, args=(sock,),"
                        " daemon=True).start()\n" + LOOP),
    "forger": python("Test2", ACCEPTS
                     + "for path in '/grader/results.json', '/work/../grader/x':\n"
                       "    try:\n"
                       "        open(path, 'w').write('all passed')\n"
                       "    except OSError:\n"
                       "        pass\n" + LOOP),
    "stops": python("Test2", ACCEPTS
                    + "import signal\n"
                      "for pid in range(1, 300):\n"
                      "    try:\n"
                      "        pid != os.getpid() and os.kill(pid, signal.SIGSTOP)\n"
                      "    except OSError:\n"
                      "        pass\n" + LOOP),
}


def final() -> Folder:
    return Folder("^all passed$", server="#!/bin/sh\nexec ./final 3100\n",
                  files=(CHATSRV,))


def step(number: int, verdict: str) -> Folder:
    program, = (path for path in STEPS.glob(f"{number}-*") if not path.suffix)
    return Folder(verdict, server=f"#!/bin/sh\nexec ./{program.name} 3100\n",
                  files=(program,))


def mutated() -> Dict[str, Folder]:
    """The mutants that the grader catches: what names them comes first."""
    found = {}
    for path in sorted(mutants.MUTANTS.glob("*.diff")):
        mutant = mutants.load(path)
        if mutant.job.name not in ("step 6 native", "right edges", "right selectors"):
            continue
        first = mutant.job.tests.split()
        source = support.ROOT / mutant.source
        text = functools.reduce(mutants.apply, mutant.hunks, source.read_text())
        is_c = source.suffix == ".c"
        found[mutant.name] = Folder(
            r"(^|\()(" + "|".join(map(re.escape, first)) + ")",
            "cc -O2 -pthread -D_DEFAULT_SOURCE -o chatsrv server.c" if is_c else "true",
            "" if is_c else ("#!/usr/bin/env python3\nimport sys\n"
                             "sys.argv.append('3100')\n" + text),
            (support.ROOT / "final" / "evloop.h",) if is_c else ())
        if is_c:
            SOURCES[mutant.name] = text
    return found


SOURCES: Dict[str, str] = {}        # server.c of those that have one


def make(place: pathlib.Path, folders: Dict[str, Folder]) -> None:
    for name, folder in folders.items():
        here = place / name
        here.mkdir()
        (here / "Makefile").write_text(f"all:\n\t{folder.build}\n")
        (here / "out").symlink_to("/")      # leads nowhere in the sandbox
        for path in folder.files:
            target = "final" if path == CHATSRV else path.name
            shutil.copy(str(path), str(here / target))
        if folder.server:
            (here / "chatsrv").write_text(folder.server)
            (here / "chatsrv").chmod(0o755)
        if name in SOURCES:
            (here / "server.c").write_text(SOURCES[name])
        here.chmod(0o755)


def unprivileged() -> List[str]:
    """The words that run a command as nobody, with a Python that nobody may run."""
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env"]
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        path = f"PATH={os.path.dirname(python)}:/usr/bin:/bin:/usr/sbin:/sbin"
        if subprocess.run([*words, path, "python3", "-c", ""],
                          stderr=subprocess.DEVNULL).returncode == 0:
            return [*words, path]
    raise unittest.SkipTest("here, nobody may not run Python")


class GradeCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.place = pathlib.Path(folder.name)
        self.place.chmod(0o777)
        self.temporary = self.place / "tmp"
        self.temporary.mkdir()
        self.temporary.chmod(0o777)

    def command(self, *arguments: str) -> List[str]:
        """grade.py on everything; a copy that everybody may read."""
        for name in ("grade.py", "test.py"):
            shutil.copy(str(support.ROOT / "tests" / name), str(self.place))
        return ["python3", str(self.place / "grade.py"), *arguments,
                *(str(path.parent) for path in self.place.glob("*/Makefile"))]

    def run_as(self, words: List[str], *arguments: str) -> subprocess.CompletedProcess:
        """Nothing is left over in the folder for temporary files."""
        done = subprocess.run([*words, *self.command(*arguments)], env=self.environment(),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              universal_newlines=True)
        self.assertEqual(list(self.temporary.iterdir()), [])
        return done

    def environment(self) -> Dict[str, str]:
        path = os.path.dirname(sys.executable) + ":" + os.environ["PATH"]
        return {**os.environ, "PATH": path, "TMPDIR": str(self.temporary)}

    def grade(self, folders: Dict[str, Folder], *options: str,
              words: Tuple[str, ...] = ()) -> str:
        """What grade.py says of them; each verdict is as it has to be."""
        make(self.place, folders)
        table, page = self.place / "r.csv", self.place / "r.html"
        done = self.run_as(list(words), "--csv", str(table), "--html", str(page),
                           *options)
        self.assertEqual(done.returncode, 0, done.stdout)
        with open(str(table), newline="") as file:
            rows = {pathlib.Path(row["folder"]).name: row["verdict"]
                    for row in csv.DictReader(file)}
        self.assertEqual(set(rows), set(folders))
        self.assertEqual(page.read_text().count("<h2"), len(folders))
        self.assertNotIn("<script", page.read_text())
        for name, folder in folders.items():
            with self.subTest(name=name):
                self.assertRegex(rows[name], folder.verdict)
        return done.stdout


@unittest.skipUnless(os.geteuid() == 0, "it takes root to be several users")
class Few(GradeCase):
    """Some of each kind."""

    def test_class(self):
        """each verdict is right"""
        some = ("asks", "nothing", "multiplies", "hoards", "link")
        folders = {name: BUILDS[name] for name in some}
        folders.update((name, RUNS[name]) for name in ("kills", "foreign", "greedy"))
        folders["right"] = step(6, "^all passed$")
        self.grade(folders, "--jobs", "4", "--checks", STAGES)

    def test_interrupted(self):
        """with grade.py, all that it has started ends"""
        make(self.place, {"deaf": RUNS["deaf"]})
        with subprocess.Popen(self.command(), env=self.environment(),
                              stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as process:
            def sleepers() -> List[int]:
                return [pid for pid in test.descendants(process.pid)
                        if b"sleep\x001000" in test.identity(pid)[1]]
            found = support.wait_until(sleepers, "the submission to run")
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(20), 128 + signal.SIGTERM)
        self.assertEqual(list(self.temporary.iterdir()), [])
        support.wait_until(lambda: not any(map(os.path.exists,
                                               (f"/proc/{pid}" for pid in found))),
                           "the submission to end")


class Plain(GradeCase):
    """As an ordinary user, in user namespaces."""

    def test_class(self):
        words = [] if os.geteuid() else unprivileged()
        if subprocess.run([*words, "unshare", "-Urn", "true"]).returncode:
            self.skipTest("user namespaces are forbidden here")
        self.grade({
            "right": step(6, "^all passed$"), "multiplies": BUILDS["multiplies"],
            "link": BUILDS["link"], "hoards": BUILDS["hoards"],
            "kills": shell("^test.py was ended before its time", "kill -9 -1")},
            "--jobs", "4", "--checks", STAGES, words=tuple(words))


class Refused(GradeCase):
    """Without a sandbox it does nothing, unless it is told to."""

    def setUp(self):
        super().setUp()
        (self.place / "empty").mkdir()
        (self.place / "empty" / "Makefile").write_text("all:\n\ttrue\n")

    def expect_refusal(self, words: List[str], why: str) -> None:
        done = self.run_as(words)
        self.assertEqual(done.returncode, 3, done.stdout)
        self.assertRegex(done.stdout, rf"\Agrade.py: no sandbox .*\(.*{why}.*\).*\n\Z")
        done = self.run_as(words, "--trust")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("not built: make, and then there is no ./chatsrv", done.stdout)

    def test_tool_missing(self):
        (self.place / "bin").mkdir()
        for tool in ("make", "sh", "true", "mount", "setpriv", "prlimit"):
            (self.place / "bin" / tool).symlink_to(shutil.which(tool))
        (self.place / "bin" / "python3").symlink_to(sys.executable)
        self.expect_refusal(["env", f"PATH={self.place}/bin"],
                            "unshare is not installed")

    @unittest.skipUnless(os.geteuid() == 0, "it takes root to forbid it")
    def test_user_namespaces_forbidden(self):
        """as they are within chroot(2)"""
        root = self.place / "root"
        root.mkdir()
        script = f'mount --rbind / {root} && exec chroot {root} "$@"'
        self.expect_refusal(["unshare", "--mount", "sh", "-c", script, "sh",
                             *unprivileged()], "unshare.*not permitted")


@unittest.skipUnless(os.environ.get("CHATSRV"), "it takes ten minutes")
class Sixty(GradeCase):
    def test_class(self):
        folders = {"selectors": right("with_selectors.py"),
                   "asyncio": right("with_asyncio.py"),
                   "poll": right("with_poll.py"), "slow": right("with_poll.py", "1"),
                   "edges": right("with_edges.py"), "final": final(),
                   "drain": right("with_edges.py", "drain"),
                   "script": right("from_script.sh"), "step6": step(6, "^all passed$"),
                   "step3": step(3, "^Test4"), "step5": step(5, "^Test6")}
        folders.update(BUILDS)
        folders.update(RUNS)
        room = 60 - len(folders)
        folders.update(list(mutated().items())[-room:])
        started = time.monotonic()
        print(self.grade(folders, "--jobs", os.environ.get("JOBS", "2")))
        print(f"{len(folders)} folders, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    unittest.main()
