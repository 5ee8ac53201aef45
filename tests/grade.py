#!/usr/bin/env python3
"""Grades a class: builds and tests each folder in a sandbox of its own (Linux).

    python3 tests/grade.py FOLDER...                    a table on the terminal
    python3 tests/grade.py --csv r.csv --html r.html FOLDER...

    --build CMD      how to build (make); '' if nothing is to be built
    --server CMD     how to start (./chatsrv, on port 3100); {port} becomes a free port
    --checks NAMES   as for test.py, in one word: 'Test1 Test2 Test3' (all)
    --points LIST    as for test.py
    --jobs N         how many at a time (one per processor)
    --limit SECONDS  for the tests of one folder (300)
    --memory MB      of address space for each process (1024; 0: no limit)
    --trust          without a sandbox: only for what you have read

Each submission is copied to a file system in memory that it cannot leave. It has its own
network (port 3100 is free for each) and process numbers, and its own user if this runs as
root. Limited are: the number of its processes, their address space, the memory that they
hold together, the size of files, and time. When its tests have ended, so has everything
that it started. test.py runs beside it, and as root out of its reach; otherwise
(unshare -Ur) the two share a user, so a submission could end test.py or forge its
results.

Not contained: its share of the processors, and memory that the kernel holds for it, which
is what waits in sockets, and files made by memfd_create. For the class as a whole, this
limits them: systemd-run --scope -p MemoryMax=4G -p CPUQuota=200% python3 grade.py ...

Exit status: 0 when all folders have been graded, 2 on wrong usage, 3 without a sandbox.
"""
import argparse
import concurrent.futures
import contextlib
import csv
import fcntl
import functools
import html
import json
import os
import pathlib
import resource
import shlex
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Dict, List, NamedTuple, NoReturn, Set

HERE = pathlib.Path(__file__).resolve().parent
BUILD_LIMIT = 60            # seconds
DISK = "256m"               # of the file system in memory
PROCESSES = 64              # for one submission
HELD_MAX = 1024 << 20       # bytes of memory that these may hold together
FILE_MAX = 64 << 20         # bytes
SAID_MAX = 1 << 16          # bytes of a build's output that are kept
USER = 60000                # the first of the users that submissions run as
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS",
               "CHATSRV_TEST_DEADLINE")             # what a submission gets of ours
SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64",    # seen, read-only
          "etc", "opt")


# ---- In the sandbox: this program as its first process ---------------------------------

def loopback_up() -> None:
    with socket.socket() as sock:
        request = struct.pack("16sH14s", b"lo", 1, b"")     # IFF_UP
        fcntl.ioctl(sock, 0x8914, request)                  # SIOCSIFFLAGS


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True)
    if done.returncode:
        sys.exit(" ".join(["mount", *arguments, ": ", *done.stdout.split()]))


def root_make(root: str) -> None:
    """A file system with the system's programs, read-only,
    and nothing else of this machine."""
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", f"size={DISK},mode=755", "tmpfs", root)
    prefixes = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix)}
    for name in [*SYSTEM, *sorted(path.strip("/") for path in prefixes)]:
        source, target = f"/{name}", f"{root}/{name}"
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
        elif os.path.isdir(source) and not os.path.exists(target):
            os.makedirs(target)
            mount("--rbind", source, target)
            mount("-o", "remount,bind,ro", target)
    for name in ("proc", "dev", "tmp", "grader", "work"):
        os.mkdir(f"{root}/{name}", 0o700 if name == "grader" else 0o755)
    os.chmod(f"{root}/tmp", 0o1777)
    mount("-t", "proc", "proc", f"{root}/proc")
    for name in ("null", "zero", "full", "random", "urandom"):
        open(f"{root}/dev/{name}", "w").close()
        mount("--bind", f"/dev/{name}", f"{root}/dev/{name}")
    shutil.copy(str(HERE / "test.py"), f"{root}/grader/test.py")


def copy(folder: str, target: str, user: int) -> None:
    """Files, folders and links, but no pipes and no devices. Links stay links:
    in the sandbox they lead nowhere."""
    for path, folders, files in os.walk(folder):
        there = os.path.join(target, os.path.relpath(path, folder))
        os.makedirs(there, exist_ok=True)
        for name in files + [name for name in folders
                             if os.path.islink(os.path.join(path, name))]:
            source = os.path.join(path, name)
            if os.path.islink(source) or stat.S_ISREG(os.stat(source).st_mode):
                shutil.copy2(source, os.path.join(there, name), follow_symlinks=False)
    if user:        # else they are this user's anyway
        for path, folders, files in os.walk(target):
            for name in [".", *folders, *files]:
                os.lchown(os.path.join(path, name), user, user)


def confined(user: int, memory: int) -> List[str]:
    """The words before a command of the submission's."""
    limits = ["prlimit", f"--nproc={PROCESSES}", f"--fsize={FILE_MAX}", "--core=0"]
    limits += [f"--as={memory << 20}"] if memory else []
    drop = ["setpriv", "--no-new-privs", "--bounding-set=-all"]
    if user:
        return limits + drop + [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return limits + drop + ["--inh-caps=-all", "--securebits=+noroot,+noroot_locked"]


class Watch(threading.Thread):
    """Ends a submission's processes when together they hold too much memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ours: Set[int] = {os.getpid()}     # to be spared
        self.has_ended_them = False

    def run(self) -> None:
        while True:
            held = {pid: resident(pid) for pid in self.theirs()}
            if sum(held.values()) > HELD_MAX:
                self.has_ended_them = True
                self.end_them()
            time.sleep(0.05)

    def theirs(self) -> Set[int]:
        return set(map(int, filter(str.isdigit, os.listdir("/proc")))) - self.ours

    def end_them(self) -> None:
        for pid in self.theirs():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; none if it has ended."""
    try:
        pages = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


def run(command: List[str], seconds: float, ours: Set[int]) -> Dict[str, Any]:
    """Exit status (None: it had to be ended) and the end of the output. The process joins
    `ours`."""
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, start_new_session=True, cwd="work",
                          env={**environment, "HOME": "/tmp"}) as process:
        ours.add(process.pid)
        try:
            said = heard(process, seconds)
            status = process.returncode
        finally:
            end_group(process)
    return {"status": status, "said": said.decode(errors="backslashreplace")}


def heard(process: subprocess.Popen, seconds: float) -> bytes:
    """The end of its output, until it has ended or the time is over."""
    os.set_blocking(process.stdout.fileno(), False)
    said, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        ended = process.poll() is not None
        data = process.stdout.read(1 << 20)
        said = (said + (data or b""))[-SAID_MAX:]
        if ended:
            break
        if not data:
            time.sleep(0.01)
    return said


def end_group(process: subprocess.Popen) -> None:
    """test.py gets a moment to end its servers."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.terminate()
        process.wait(5)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def built_and_tested(options: argparse.Namespace) -> Dict[str, Any]:
    """In the current directory, work/ is the submission's and grader/ is ours."""
    words = [] if options.trust else confined(options.user, options.memory)
    watch = Watch()
    if not options.trust:
        watch.start()
    answer = options.build and why_not_built(options, words)
    if not answer:
        if not options.trust:
            watch.end_them()    # what the build has left behind
        answer = tested(options, words, watch)
    if watch.has_ended_them:
        answer["greedy"] = f"held more than {HELD_MAX >> 20} MB of memory, and was ended"
    return answer


def why_not_built(options: argparse.Namespace, words: List[str]) -> Dict[str, Any]:
    """The answer if building fails; otherwise nothing."""
    built = run([*words, "sh", "-c", options.build], BUILD_LIMIT, set())
    if built["status"] == 0:
        why = why_not_there(options.server)
        return {"build": f"{options.build}, and then {why}",
                "said": built["said"][-4000:]} if why else {}
    why = (f"it had not ended after {BUILD_LIMIT} s" if built["status"] is None
           else f"exit status {built['status']}")
    return {"build": f"{options.build}: {why}", "said": built["said"][-4000:]}


def tested(options: argparse.Namespace, words: List[str], watch: Watch) -> Dict[str, Any]:
    results = os.path.abspath("grader/results.json")
    done = run([sys.executable, os.path.abspath("grader/test.py"), "--server",
                " ".join([*words, options.server]), "--gradescope", results,
                "--limit", str(options.limit), *options.points,
                *options.checks.split()], options.limit + 30, watch.ours)
    try:
        answer = json.loads(pathlib.Path(results).read_text())
    except (OSError, ValueError) as error:
        return {"build": f"test.py left no results: {error}",
                "said": done["said"][-4000:]}
    answer["said"] = done["said"][-20000:]
    answer["killed"] = done["status"] not in (0, 1, 3)
    return answer


def why_not_there(server: str) -> str:
    """What is wrong with a program of the submission's own, without starting it."""
    program = (shlex.split(server) or [""])[0]
    path = pathlib.Path("work", program)
    if not program.startswith("./"):
        return ""
    if path.is_symlink() and not path.exists():
        return f"{program} is a link that leads out of the folder"
    if not path.is_file():
        return f"there is no {program}"
    return "" if os.access(str(path), os.X_OK) else f"{program} may not be run (chmod +x)"


def copied(folder: str, options: argparse.Namespace) -> Dict[str, Any]:
    """The answer if that fails; otherwise nothing."""
    try:
        copy(folder, "work", options.user)
    except (OSError, RecursionError) as error:
        return {"build": f"it cannot be copied: {error}", "said": ""}
    return {}


def inside_trusted(options: argparse.Namespace) -> int:
    """In the current directory, which is empty."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in ("work", "grader"):
        os.mkdir(name)
    shutil.copy(str(HERE / "test.py"), "grader/test.py")
    print(json.dumps(copied(options.folders[0], options) or built_and_tested(options)))
    return 0


def inside(options: argparse.Namespace) -> NoReturn:
    """The first process of the sandbox: when it ends, so do all others."""
    folder, root = options.folders
    pathlib.Path("/proc/self/oom_score_adj").write_text("1000")     # before the teacher's
    loopback_up()
    root_make(root)
    os.mkdir(f"{root}/tmp/given")
    mount("--bind", folder, f"{root}/tmp/given")
    os.chroot(root)
    os.chdir("/")
    os.environ["PATH"] = os.path.dirname(sys.executable) + ":" + os.environ["PATH"]
    answer = copied("/tmp/given", options)
    subprocess.run(["umount", "/tmp/given"], check=True)
    answer = answer or built_and_tested(options)
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


# ---- Outside ---------------------------------------------------------------------------

class Graded:
    def __init__(self, folder: str, answer: Dict[str, Any], seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.said: str = answer.get("said", "")
        self.tests: List[Dict[str, Any]] = answer.get("tests", [])
        self.score = float(answer.get("score", 0))
        self.most = sum(float(test["max_score"]) for test in self.tests)
        failed = [test["name"].split(":")[0] for test in self.tests
                  if test["status"] != "passed"
                  and not test["output"].startswith("not looked at")]
        self.verdict = ("all passed" if self.tests and not failed
                        else ", ".join(failed[:3]))
        if "build" in answer:
            self.verdict = "not built: " + answer["build"]
        elif answer.get("output"):
            self.verdict = first_sentence(answer["output"])
        if answer.get("killed"):
            self.verdict = "test.py was ended before its time. " + self.verdict
        if "greedy" in answer:
            self.verdict = f"{answer['greedy']}. {self.verdict}"


def first_sentence(text: str) -> str:
    """In one line: the first cause, without its hint."""
    lines = text.split("\n")
    last = next((n for n, line in enumerate(lines) if line.endswith(".")), 0)
    return " ".join(lines[:last + 1])


running: Dict[subprocess.Popen, int] = {}        # and the signal that ends it


class Sandbox(NamedTuple):
    command: List[str]      # that makes one; [] if none can be made
    why: str                # not, in the system's words


def sandbox(options: argparse.Namespace) -> Sandbox:
    """Tries it on an empty folder, with nothing to build and a server that ends."""
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc"]
    if os.geteuid():
        command += ["--user", "--map-root-user"]
    for tool in ("unshare", "mount", "prlimit", "setpriv"):
        if not shutil.which(tool):
            return Sandbox([], f"{tool} is not installed")
    with tempfile.TemporaryDirectory(dir=options.place) as empty:
        trial = argparse.Namespace(**vars(options))
        trial.passed_on = ["--build", "true", "--server", "./none", "--limit", "1"]
        answer = run_inside(empty, 0, command, trial)
    works = answer.get("build", "").startswith("true, and then there is no ./none")
    last = (answer.get("said", "").strip().splitlines() or ["it ends without a word"])[-1]
    return Sandbox(command if works else [], last)


def run_inside(folder: str, number: int, command: List[str],
               options: argparse.Namespace) -> Dict[str, Any]:
    user = 0 if os.geteuid() else USER + number
    with tempfile.TemporaryDirectory(dir=options.place) as root, \
            tempfile.TemporaryFile() as errors:
        words = [*command, sys.executable, str(HERE / "grade.py"), "--inside", "--user",
                 str(user), *options.passed_on, folder, root]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=errors, start_new_session=True) as process:
            running[process] = signal.SIGKILL
            try:
                out, _ = process.communicate(timeout=BUILD_LIMIT + options.limit + 90)
            except subprocess.TimeoutExpired:
                process.kill()
                out = b""
            del running[process]
        errors.seek(0)
        said = errors.read(SAID_MAX).decode(errors="backslashreplace")
    try:
        return json.loads(out)
    except ValueError:
        return {"build": "the sandbox failed (no fault of the submission)", "said": said}


def grade(folder: str, number: int, command: List[str],
          options: argparse.Namespace) -> Graded:
    started = time.monotonic()
    answer = (trusted(folder, options) if options.trust
              else run_inside(folder, number, command, options))
    return Graded(folder, answer, time.monotonic() - started)


def trusted(folder: str, options: argparse.Namespace) -> Dict[str, Any]:
    script = [sys.executable, str(HERE / "grade.py"), "--inside", "--trust",
              *options.passed_on, folder]
    with tempfile.TemporaryDirectory(dir=options.place) as place, \
            subprocess.Popen(script, cwd=place, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, start_new_session=True) as process:
        running[process] = signal.SIGTERM
        out = process.communicate()[0]
        del running[process]
    return json.loads(out or b'{"build": "the run failed"}')


def write_csv(path: str, graded: List[Graded]) -> None:
    names = list(dict.fromkeys(test["name"].split(":")[0] for one in graded
                               for test in one.tests))
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["folder", "score", "of", "seconds", "verdict", *names])
        for one in graded:
            scores = {test["name"].split(":")[0]: test["score"] for test in one.tests}
            table.writerow([one.folder, one.score, one.most, round(one.seconds, 1),
                            one.verdict, *(scores.get(name, "") for name in names)])


def write_html(path: str, graded: List[Graded]) -> None:
    rows, details = [], []
    for number, one in enumerate(graded):
        name, said = html.escape(one.folder), html.escape(one.verdict)
        rows.append(f'<tr><td><a href="#s{number}">{name}</a><td>{one.score:g} of '
                    f"{one.most:g}<td>{said}")
        tests = "".join(f"<dt>{html.escape(test['name'])}"
                        f"<dd>{html.escape(test['status'])}"
                        f"<pre>{html.escape(test['output'])}</pre>"
                        for test in one.tests if test["status"] != "passed")
        details.append(f'<h2 id="s{number}">{name}</h2><p>{said}<dl>{tests}</dl>'
                       f"<details><summary>the whole output</summary>"
                       f"<pre>{html.escape(one.said)}</pre></details>")
    pathlib.Path(path).write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        "<title>Grades</title><style>"
        "body{font:16px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
        "td,th{text-align:left;padding:.2em 1em .2em 0;vertical-align:top}"
        "pre{white-space:pre-wrap}</style><h1>Grades</h1><table><tr><th>folder<th>score"
        f"<th>verdict{''.join(rows)}</table>{''.join(details)}\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--build", default="make")
    parser.add_argument("--server", default="./chatsrv")
    parser.add_argument("--checks", default="")
    parser.add_argument("--points", default="")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--memory", type=int, default=1024)
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--csv")
    parser.add_argument("--html")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--user", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    options.passed_on = [word for name in ("build", "server", "checks", "points", "limit",
                                           "memory")
                         for word in (f"--{name}", str(getattr(options, name)))]
    options.points = ["--points", options.points] if options.points else []
    return options


def main() -> int:
    options = parse()
    if options.inside:
        return inside_trusted(options) if options.trust else inside(options)
    for folder in options.folders:
        if not os.path.isdir(folder):
            print(f"grade.py: {folder} is not a folder", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory(prefix="grade-") as options.place:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, functools.partial(interrupted, options.place))
        command, why = Sandbox([], "") if options.trust else sandbox(options)
        if command or options.trust:
            grade_all(command, options)
            return 0
    print(f"grade.py: no sandbox can be made here ({why}); run this on Linux as root, or "
          "where unshare -Ur works, or, if you have read all submissions, with --trust: "
          "they then run as you, may do what you may, and only their time is limited.",
          file=sys.stderr)
    return 3


def grade_all(command: List[str], options: argparse.Namespace) -> None:
    """What has been graded is in the files, whatever comes then."""
    jobs = 1 if options.trust and "{port}" not in options.server else options.jobs
    folders = list(map(os.path.abspath, options.folders))
    graded: Dict[str, Graded] = {}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(grade, folder, number, command, options)
                   for number, folder in enumerate(folders)]
        for future in concurrent.futures.as_completed(futures):
            one = future.result()
            graded[one.folder] = one
            print(f"{len(graded):3} of {len(futures)}  {one.score:5g} of {one.most:<5g} "
                  f"{one.seconds:5.1f} s  {one.folder}: {one.verdict}", flush=True)
            done = [graded[folder] for folder in folders if folder in graded]
            if options.csv:
                write_csv(options.csv, done)
            if options.html:
                write_html(options.html, done)


def interrupted(place: str, number: int, _frame) -> NoReturn:
    """With unshare, its sandbox ends; without one, test.py ends its servers."""
    for process, how in list(running.items()):
        with contextlib.suppress(OSError):
            process.send_signal(how)
    for process in list(running):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            process.wait(10)
    shutil.rmtree(place, ignore_errors=True)
    print("grade.py: interrupted", file=sys.stderr, flush=True)
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
