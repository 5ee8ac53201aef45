#!/usr/bin/env python3
"""Runs the tests.

    make test                        those that need only cc, make and python3
    make check                       all of them, as CI does
    make check ONLY=lint             those whose names contain this
    python3 tests/runner.py check -l  lists the jobs

The jobs are in the table below. First the programs that they name are built, then the
jobs run, four at a time since most of them only wait, and at the end, one by one, those
that want the machine to themselves. A job that fails shows all that it said. What cannot
run here is listed; with CI set in the environment it counts as failed. The last lines
name each job that failed, and what in it.
"""
import concurrent.futures
import contextlib
import functools
import os
import pathlib
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Set, Tuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = "build/check"       # seen from ROOT, where the jobs run: a path without spaces
MAKE = os.environ.get("MAKE") or "make"
LINUX = platform.system() == "Linux"


# ---- What is built ---------------------------------------------------------------------

SANITIZED = "CFLAGS=-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
STRICT = "CFLAGS=-O2 -Werror"
SIGNS = STRICT + " -Wsign-conversion"
KERNEL_HEADERS = "-idirafter /usr/include/x86_64-linux-gnu"     # gcc -m32 looks elsewhere

# A variant is a way to compile: what to tell make.
VARIANTS = {
    "native": [],
    "kqueue": ["BACKEND=kqueue"],
    "asan": [SANITIZED],
    "asan-kqueue": [SANITIZED, "BACKEND=kqueue"],
    "gcc": ["CC=gcc", SIGNS],
    "gcc-kqueue": ["CC=gcc", SIGNS, "BACKEND=kqueue"],
    "clang": ["CC=clang", SIGNS],
    "clang-kqueue": ["CC=clang", SIGNS, "BACKEND=kqueue"],
    "c2x": ["CC=gcc", STRICT + " -std=c2x"],
    "unsigned-char": ["CC=gcc", STRICT + " -funsigned-char"],
    "musl": ["CC=musl-gcc", STRICT],
    "32-bit": ["CC=gcc", f"{STRICT} -m32 {KERNEL_HEADERS}"],
    "s390x": ["CC=s390x-linux-gnu-gcc", STRICT],        # big-endian, chars without sign
}

FINAL = ["chatsrv", "chatcl"]                   # built by final/Makefile
FOLDERS = {"steps": "../steps/*.c",             # folders of programs, one for each source
           "examples": "../notes/examples/*.c"}
PROGRAMS = {                                    # the others; paths are seen from tests/
    "addresses_test": "unit/addresses_test.c ../final/addresses.c",
    "chatload": "load/chatload*.c",
    "edit_test": "unit/edit_test.c ../final/edit.c ../final/letter.c ../final/utf8.c",
    "evloop_test": "unit/evloop_test.c",
    "feed_test": "unit/feed_test.c ../final/feed.c",
    "floor": "load/floor.c",
    "kqueue_test": "kqueue/kqueue_test.c",
    "lines_test": "unit/lines_test.c ../final/lines.c",
    "log_test": "unit/log_test.c ../final/log.c ../final/utf8.c",
    "paste_test": "unit/paste_test.c ../final/paste.c",
    "proxy_test": "unit/proxy_test.c ../final/proxy.c",
    "rate_test": "unit/rate_test.c ../final/rate.c",
    "resp_test": "unit/resp_test.c ../final/resp.c",
    "room_test": "unit/room_test.c ../final/entry.c ../final/origins.c ../final/resp.c"
                 " ../final/url.c",
    "tty_test": "unit/tty_test.c ../final/tty.c ../final/paste.c",
    "utf8_test": "unit/utf8_test.c ../final/utf8.c",
}


# ---- The jobs --------------------------------------------------------------------------

class Job(NamedTuple):
    name: str
    command: str            # for the shell; {VARIANT/PROGRAM} in it is built before
    tests: str = ""         # which of the command's tests
    needs: str = ""         # tools besides cc, make and python3
    alone: bool = False     # it keeps both processors busy
    limit: int = 300        # seconds; many times what it needs


KQUEUE_BRIEF = "chatsrv", "step 6", "model", "evloop"     # enough for `make test`


def test_jobs() -> Iterator[Job]:
    """What `make test` runs; what takes longest comes first."""
    yield Job("make", "python3 tests/system/make_test.py make")
    yield promises_job("native")
    yield room_job("native", "Joining Chat Trouble Holes")
    yield from loop_jobs("native")
    if LINUX:
        yield from (job for job in loop_jobs("kqueue")
                    if job.name.startswith(KQUEUE_BRIEF))
        yield Job("kqueue", "{kqueue/kqueue_test}")
    yield from other_jobs("native")
    yield Job("submit", "python3 tests/system/submit_test.py")
    yield Job("chatload", "CHATLOAD={native/chatload}"
                          " CHATSRV_TEST_SERVER='{native/chatsrv} -b 1000000000 {port}'"
                          " python3 tests/system/chatload_test.py")
    yield Job("notes", "python3 notes/embed.py check")


def loop_jobs(variant: str) -> Iterator[Job]:
    """Of one variant, what the event loop has a part in."""
    yield Job(f"final {variant}", "CHATSRV_TEST_SERVER='{%s/chatsrv} {port}'"
                                  " python3 tests/test.py" % variant)
    yield Job(f"chatsrv {variant}", "CHATSRV_TEST_SERVER='{%s/chatsrv} {options} {port}'"
                                    " python3 tests/system/chatsrv_test.py" % variant)
    yield Job(f"step 6 {variant}", "CHATSRV_TEST_SERVER='{%s/steps}/6-broadcast {port}'"
                                   " python3 tests/test.py" % variant, tests="TestRules")
    yield Job(f"steps {variant}",
              "STEPS={%s/steps} python3 tests/system/steps_test.py" % variant,
              tests="Stages Sources Usage Senders Resources")
    yield Job(f"examples {variant}",
              "EXAMPLES={%s/examples} python3 tests/system/examples_test.py" % variant)
    yield Job(f"proxy header {variant}",
              "CHATSRV_TEST_SERVER='{%s/chatsrv} {options} {port}'"
              " python3 tests/system/proxy_test.py" % variant)
    yield Job(f"model {variant}", "CHATSRV_TEST_SERVER='{%s/chatsrv} {options} {port}'"
                                  " python3 tests/system/model_test.py" % variant)
    yield Job(f"evloop {variant}", "{%s/evloop_test}" % variant)


def promises_job(variant: str) -> Job:
    """Half a minute, most of it spent waiting."""
    return Job(f"promises {variant}",
               "CHATSRV_TEST_SERVER='{%s/chatsrv} {options} {port}'"
               " python3 tests/system/promises_test.py" % variant)


def unit_jobs(variant: str) -> Iterator[Job]:
    """Modules that know nothing of sockets."""
    for name in ("addresses", "edit", "feed", "lines", "log", "paste", "proxy", "rate",
                 "resp", "room", "utf8"):
        yield Job(f"{name} {variant}", "{%s/%s_test}" % (variant, name))


def other_jobs(variant: str) -> Iterator[Job]:
    """And what the event loop has no part in."""
    yield from unit_jobs(variant)
    yield Job(f"tty {variant}", "{%s/tty_test}" % variant)
    yield Job(f"chatcl {variant}", "CHATCL={%s/chatcl}"
                                   " python3 tests/system/chatcl_test.py" % variant,
              tests="PipeTest TerminalTest")
    yield Job(f"homework {variant}",
              "EXAMPLES={%s/examples} python3 tests/system/homework_test.py" % variant)


def room_job(variant: str, tests: str) -> Job:
    return Job(f"room script {variant}",
               "CHATSRV_TEST_DEADLINE=30"
               " CHATSRV_TEST_SERVER='{%s/chatsrv} {options} {port}'"
               " python3 tests/system/room_script_test.py" % variant,
               tests=tests)


def check_jobs() -> Iterator[Job]:
    """What `make check` runs."""
    yield from test_jobs()
    yield from (job for job in loop_jobs("kqueue")
                if not job.name.startswith(KQUEUE_BRIEF))
    yield Job("faults", "python3 tests/system/faults_test.py", limit=600)
    yield from right_jobs()
    yield Job("grader", "STEPS={native/steps} python3 tests/system/grader_test.py",
              tests="Files Starts Causes Recipes")
    yield Job("grader schema", "STEPS={native/steps} CHATSRV_TEST_DEADLINE=1"
                               " python3 tests/system/grader_test.py",
              tests="Schema", needs="xmllint")
    yield Job("class", "STEPS={native/steps} python3 tests/system/class_test.py",
              tests="Few Plain Refused", needs="unshare setpriv prlimit")
    yield Job("model step 6 asan", "python3 tests/system/model_test.py --drop-tail"
                                   " --server '{asan/steps}/6-broadcast {port}'")
    for variant in ("kqueue", "asan", "asan-kqueue"):
        yield promises_job(variant)
    yield from loop_jobs("asan")
    yield from loop_jobs("asan-kqueue")
    yield from other_jobs("asan")
    yield Job("chatcl rough", "CHATCL={asan/chatcl} python3 tests/system/chatcl_test.py",
              tests="RoughTest")
    yield Job("chatcl tmux", "CHATCL={native/chatcl} python3 tests/system/chatcl_test.py",
              tests="TmuxTest", needs="tmux")
    yield room_job("asan", "Joining Chat Trouble Holes")
    yield room_job("asan-kqueue", "")
    for variant in ("asan", "asan-kqueue"):
        yield Job(f"room {variant} redis",
                  "python3 tests/system/room_test.py --plays 2"
                  " --server '{%s/chatsrv} {options} {port}'" % variant,
                  needs="redis-server")
    yield Job("room flood", "python3 tests/system/room_flood_test.py"
                            " --server '{native/chatsrv} {options} {port}'",
              needs="redis-server")
    yield Job("room protocol", "python3 tests/system/room_protocol_test.py",
              needs="spin gcc")
    yield Job("kqueue asan", "{asan-kqueue/kqueue_test}")
    yield Job("fuzz", "python3 tests/fuzz/fuzz.py", needs="clang", alone=True)
    yield Job("floods asan", "CHATSRV_TEST_SERVER='{asan/chatsrv} {options} {port}'"
                             " python3 tests/system/floods_test.py",
              tests="Floods", alone=True)
    yield Job("floods native", "CHATSRV_TEST_SERVER='{native/chatsrv} {options} {port}'"
                               " python3 tests/system/floods_test.py",
              tests="Bounds", alone=True)
    for variant, protected in ("native", ""), ("asan-kqueue", " --protected"):
        yield Job(f"soak {variant}",
                  f"python3 tests/system/soak_test.py --minutes 1{protected}"
                  " --server '{%s/chatsrv} {options} {port}'" % variant)
    yield Job("valgrind steps", "STEPS={native/steps} python3 tests/system/steps_test.py",
              tests="Valgrind", needs="valgrind")
    # In these tests the server ends by itself, and has to say 0.
    yield Job("valgrind final",
              "CHATSRV_TEST_DEADLINE=30"
              " CHATSRV_TEST_SERVER='valgrind -q --leak-check=full"
              " --error-exitcode=99 {native/chatsrv} {options} {port}'"
              " python3 tests/system/chatsrv_test.py",
              tests="Lifetime.test_sigterm Lifetime.test_sigint Limits.test_overflow"
                    " Lifetime.test_sigterm_stalled", needs="valgrind")
    for variant in ("gcc", "gcc-kqueue", "clang", "clang-kqueue", "c2x"):
        everything = [*FINAL, *FOLDERS, *PROGRAMS]
        if "kqueue" not in variant:
            everything.remove("kqueue_test")
        yield Job(f"warnings {variant}",    # to be built is all they have to do
                  "ls " + " ".join("{%s/%s}" % (variant, program)
                                   for program in everything),
                  needs="clang" if "clang" in variant else "gcc")
    if LINUX:
        yield from other_systems_jobs()
    yield from lint_jobs()
    yield Job("running", "CHATSRV={native/chatsrv} CHATCL={native/chatcl}"
                         " python3 tests/system/running_test.py",
              needs="haproxy websockify chromium chromedriver systemd-analyze")
    yield Job("site", "python3 tests/system/site_test.py",
              needs="cmark-gfm chromium chromedriver tidy")
    yield Job("mine", "python3 tests/system/mine_test.py", tests="Start Mine Mistakes",
              limit=600)
    yield Job("student", "python3 tests/system/mine_test.py", tests="Student", limit=600)
    yield Job("transcripts", "python3 notes/transcripts.py check",
              needs="nc lsof strace ss top unshare git bash", limit=900)
    yield Job("mine bmake", "python3 tests/system/mine_test.py --make bmake",
              tests="Start Mine", needs="bmake")
    yield Job("make bmake", "python3 tests/system/make_test.py bmake", needs="bmake")
    yield Job("mutants", "python3 tests/mutants/mutants.py", alone=True, limit=1800)


def right_jobs() -> Iterator[Job]:
    """The grader has nothing to say against right servers of other shapes."""
    for shape in ("selectors", "asyncio", "poll", "edges"):
        if shape != "edges" or LINUX:
            yield Job(f"right {shape}",
                      "python3 tests/test.py --server"
                      " 'python3 tests/right/with_%s.py {port}'" % shape)
    if LINUX:
        yield Job("right drain",
                  "python3 tests/test.py --server"
                  " 'python3 tests/right/with_edges.py {port} drain'",
                  tests="Test6 TestRules.test_flood TestRules.test_slow_sender"
                        " TestRules.test_slow_reader TestRules.test_many_in_one_read"
                        " TestRules.test_speakers_at_once")
    yield Job("right short queue",
              "python3 tests/test.py --server"
              " 'python3 tests/right/with_selectors.py {port} 5'",
              tests="TestRules.test_connects_at_once TestRules.test_speakers_at_once"
                    " TestRules.test_leave_by_reset TestRules.test_descriptors"
                    " TestRules.test_visits TestRules.test_descriptor_limit")
    yield Job("right script",
              "python3 tests/test.py --server 'tests/right/from_script.sh {port}'")
    yield Job("right slow", "python3 tests/test.py --server"
                            " 'python3 tests/right/with_poll.py {port} 7'",
              tests="Test1 Test4")


def other_systems_jobs() -> Iterator[Job]:
    """What differs on other systems, as far as Linux can show it."""
    for job in loop_jobs("musl"), other_jobs("musl"):
        yield from (each._replace(needs="musl-gcc") for each in job)
    if platform.machine() == "x86_64":
        for job in loop_jobs("32-bit"), other_jobs("32-bit"):
            yield from (each._replace(needs="gcc:-m32") for each in job)
    yield from other_jobs("unsigned-char")
    yield Job("warnings netbsd",
              "gcc -std=c11 -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion"
              " -Werror -fsyntax-only -D_DEFAULT_SOURCE -DEVLOOP_KQUEUE"
              " -Itests/kqueue/netbsd steps/6-broadcast.c final/chatsrv.c", needs="gcc")
    qemu = "qemu-s390x -L /usr/s390x-linux-gnu"
    needs = "qemu-s390x s390x-linux-gnu-gcc"
    for job in unit_jobs("s390x"):
        if job.name != "edit s390x":    # the locales of this machine have its byte order
            yield job._replace(command=f"{qemu} {job.command}", needs=needs)
    yield Job("evloop s390x", qemu + " {s390x/evloop_test}", needs=needs)
    rules = (r"sed -n '/^class TestRules/,/^class /s/^    def \(test_[a-z0-9_]*\).*"
             r"/TestRules.\1/p' tests/test.py"
             r" | grep -v test_threads")        # qemu has one itself
    yield Job("final s390x", "CHATSRV_TEST_DEADLINE=30 CHATSRV_TEST_SERVER="
                             f"'{qemu} {{s390x/chatsrv}} {{port}}' python3 tests/test.py",
              tests=f"Test1 Test2 Test3 Test4 Test5 Test6 $({rules})", needs=needs)
    yield Job("ps", "python3 tests/system/ps_test.py")
    yield Job("bare", "python3 tests/system/bare_test.py", needs="dpkg-query", alone=True)


def lint_jobs() -> Iterator[Job]:
    sources = "final/*.c steps/*.c tests/*/*.c notes/examples/*.c"
    headers = ("final/*.h tests/*/*.h tests/kqueue/sys/*.h tests/kqueue/*/sys/*.h"
               " notes/examples/*.h")
    python = "tests/*.py tests/*/*.py notes/*.py notes/*/*.py"
    flags = "-std=c11 -D_DEFAULT_SOURCE -D_DARWIN_C_SOURCE -Ifinal -isystem tests/kqueue"
    tidy = "xargs -P 2 -I{} clang-tidy --quiet {} -- " + flags
    yield Job("lint clang-format", f"clang-format --dry-run -Werror {sources} {headers}",
              needs="clang-format")
    yield Job("lint clang-tidy", f"ls {sources} | {tidy}", needs="clang-tidy", alone=True)
    yield Job("lint clang-tidy kqueue",
              f"ls steps/6*.c final/chatsrv.c | {tidy} -DEVLOOP_KQUEUE",
              needs="clang-tidy")
    yield Job("lint cppcheck",
              "cppcheck -q --error-exitcode=1 --inline-suppr --std=c11 -Ifinal"
              f" --enable=warning,performance,portability {sources}",
              needs="cppcheck")
    yield Job("lint pages", "python3 tests/system/pages_test.py"
                            " {native/chatsrv} {native/chatcl}", needs="mandoc")
    yield Job("lint workflows", "yamllint -s -d '{extends: default, rules: {truthy:"
                                " {check-keys: false}, document-start: disable,"
                                " line-length: {max: 110}}}' .github", needs="yamllint")
    yield Job("lint python",
              "python3 -W error -c 'import ast, sys; [compile(ast.parse(open(f)"
              '.read(), f, feature_version=(3, 8)), f, "exec") for f in'
              f" sys.argv[1:]]' {python}")
    yield Job("lint columns",
              "python3 -c 'import sys; sys.exit([f + \":\" + str(n) for f in"
              " sys.argv[1:] for n, line in enumerate(open(f, encoding=\"utf-8\"),"
              f" 1) if len(line) > 91] or 0)' {python} {sources} {headers}")


# ---- Building and running --------------------------------------------------------------

class Result(NamedTuple):
    name: str
    passed: bool
    output: str = ""
    seconds: float = 0
    late: bool = False      # it was stopped, and has not failed by itself


# Without what the make above us has told its children.
ENVIRONMENT = {name: value for name, value in os.environ.items()
               if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
ENVIRONMENT["PYTHONDONTWRITEBYTECODE"] = "1"
running: Set[subprocess.Popen] = set()


def kill(process: subprocess.Popen) -> None:
    """Ends a job and all that it started. A Python program gets a moment to end its
    servers."""
    running.remove(process)
    with contextlib.suppress(ProcessLookupError, PermissionError):      # nobody is left
        os.killpg(process.pid, signal.SIGINT)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(name: str, command: str, limit: int = 300, root: pathlib.Path = ROOT) -> Result:
    started = time.monotonic()
    python = shlex.quote(sys.executable)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["sh", "-c", re.sub(r"\bpython3\b", lambda _: python, command)], cwd=root,
            env=ENVIRONMENT, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT)
        running.add(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit)
        late = process.returncode is None
        with contextlib.suppress(KeyError):     # an interrupt may be killing it already
            kill(process)
        output.seek(0)
        text = output.read().decode(errors="backslashreplace")
    if late:
        text += f"\nstopped: it took more than {limit} s"
    return Result(name, process.returncode == 0 and not late, text,
                  time.monotonic() - started, late)


@functools.lru_cache(None)
def flags(variant: str) -> List[str]:
    """How to compile, and what follows the sources: by the Makefile, which may have been
    given other flags than its own."""
    alone = re.sub(r"(?<!\S)(-[jJ] ?[\d,]*|--jobserver-\S+)", "",
                   os.environ.get("MAKEFLAGS", ""))
    asked = subprocess.run([MAKE, "-s", "flags", *VARIANTS[variant]], cwd=ROOT,
                           check=True, env={**os.environ, "MAKEFLAGS": alone},
                           stdout=subprocess.PIPE, universal_newlines=True)
    return asked.stdout.splitlines()


def build(variant: str, programs: Iterable[str], root: pathlib.Path = ROOT) -> Result:
    """Builds anew, and goes on after an error: not all jobs need all programs."""
    compiler, link = flags(variant)
    folder = f"../{BUILD}/{variant}"
    commands = [f"mkdir -p {folder}"]
    for program in programs:
        target = f"{folder}/{program}"
        commands.append(f"rm -rf {target}")
        if program in FINAL:
            commands.append(f"(cd ../final && {MAKE} B={folder} {target}"
                            f" COMPILE={shlex.quote(compiler)} LINK={shlex.quote(link)})")
        elif program in PROGRAMS:
            commands.append(f"{compiler} -o {target} {PROGRAMS[program]} {link}")
        else:
            commands.append(f"mkdir {target} &&"
                            f" for c in {FOLDERS[program]}; do b=${{c##*/}};"
                            f" {compiler} -I../final -o {target}/${{b%.c}} $c {link}"
                            f" || exit 1; done")
    script = "cd tests; status=0;\n" + "".join(f"({c}) || status=1\n" for c in commands)
    return run(f"build {variant}", script + "exit $status", root=root)


def server_sources(root: pathlib.Path = ROOT) -> List[str]:
    """What the server of final/ is compiled from."""
    makefile = (root / "final" / "Makefile").read_text()
    return re.search(r"^SERVER = ((.*\\\n)*.*)",
                     makefile, re.M)[1].replace("\\", "").split()


def programs_of(job: Job) -> List[str]:
    return re.findall(r"\{(\w[\w-]*/\w+)\}", job.command)


def programs_by_variant(jobs: Iterable[Job]) -> Dict[str, List[str]]:
    wanted: Dict[str, Set[str]] = {}
    for variant, program in (name.split("/")
                             for job in jobs for name in programs_of(job)):
        wanted.setdefault(variant, set()).add(program)
    return {variant: sorted(programs) for variant, programs in wanted.items()}


def run_job(job: Job, root: pathlib.Path = ROOT) -> Result:
    command = f"{job.command} {job.tests}"
    for program in programs_of(job):
        if not (root / BUILD / program).exists():
            return Result(job.name, False, f"{program} could not be built")
        command = command.replace(f"{{{program}}}", f"{BUILD}/{program}")
    return run(job.name, command, job.limit, root)


def missing_tools(job: Job) -> List[str]:
    return [tool for tool in job.needs.split() if not is_there(tool)]


@functools.lru_cache(None)
def is_there(tool: str) -> bool:
    """A command, or COMPILER:FLAG, which means that it can link for that."""
    compiler, _, flag = tool.partition(":")
    if not flag or not shutil.which(compiler):
        return bool(shutil.which(compiler))
    command = f"echo 'int main(void) {{}}' | {compiler} {flag} -x c -o /dev/null -"
    return subprocess.run(command, shell=True, stderr=subprocess.DEVNULL).returncode == 0


# ---- The report ------------------------------------------------------------------------

tests_skipped: List[Tuple[str, str]] = []      # the job, and how many
failures: List[Result] = []

# How the line begins that names what failed: unittest's, mutants.py's, a sanitizer's,
# check.h's, the compiler's.
HEADLINE = re.compile(r"^(?:(?:FAIL|ERROR)\b|==\d+==ERROR: |stopped: "
                      r"|\S+\.[ch]:\d+:(?:\d+: (?:runtime )?error:)? ).*", re.MULTILINE)
HEADLINES_MAX = 5       # of one job; all that it said stands further up


def report(results: Iterable[Result]) -> Iterator[bool]:
    """Prints a line for each result as it comes in, and what a failed job said."""
    for result in results:
        skipped = re.search(r"skipped=(\d+)", result.output)
        if skipped:
            tests_skipped.append((result.name, skipped[1]))
        print(f"{'ok  ' if result.passed else 'FAIL'}  {result.name}"
              f"  ({result.seconds:.1f} s)"
              + (f"  {skipped[1]} skipped" if skipped else ""), flush=True)
        if not result.passed:
            print(textwrap.indent(result.output, "      "), flush=True)
            failures.append(result)
        yield result.passed


def headlines(output: str) -> List[str]:
    """The lines that name what failed; if there is none, the last one."""
    found = HEADLINE.findall(output) or output.strip().splitlines()[-1:]
    more = len(found) - HEADLINES_MAX
    return found[:HEADLINES_MAX] + [f"and {more} more"] * (more > 0)


def print_failures() -> None:
    """At the end, where one looks first."""
    if failures:
        print("failed:")
    for result in failures:
        print(f"      {result.name}")
        for line in headlines(result.output):
            print(f"            {line}")


def in_parallel(tasks: Iterable) -> Iterator[Result]:
    """Calls the tasks, four at a time; yields what they return, in the order they end."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for future in concurrent.futures.as_completed([pool.submit(task)
                                                       for task in tasks]):
            yield future.result()


def run_all(jobs: List[Job]) -> List[bool]:
    passed = list(report(in_parallel(
        functools.partial(build, variant, programs)
        for variant, programs in programs_by_variant(jobs).items())))
    passed += report(in_parallel(functools.partial(run_job, job)
                                 for job in jobs if not job.alone))
    passed += report(run_job(job) for job in jobs if job.alone)
    return passed


def main() -> int:
    which = {"test": test_jobs, "check": check_jobs}.get(" ".join(sys.argv[1:2]))
    if not which:
        print(__doc__)
        return 2
    names = [name for name in sys.argv[2:] if name != "-l"]
    jobs = [job for job in which()
            if not names or any(name in job.name for name in names)]
    if not jobs:
        print(f"no job's name contains {' or '.join(names)}")
        return 2
    if "-l" in sys.argv:
        print(*(f"{job.name:22} {job.command} {job.tests}" for job in jobs), sep="\n")
        return 0
    able = [job for job in jobs if not missing_tools(job)]
    passed = run_all(able)
    unable = [job for job in jobs if job not in able]
    if unable or tests_skipped:
        print("not run:")
    for name, count in tests_skipped:
        print(f"      {name}: {count} of its tests")
    for job in unable:
        missing = f"{', '.join(missing_tools(job))} is not installed"
        print(f"      {job.name}: {missing}")
        if os.environ.get("CI"):
            passed.append(False)
            failures.append(Result(job.name, False, missing))
    print_failures()
    print(f"{passed.count(True)} passed, {passed.count(False)} failed")
    return 0 if all(passed) else 1


def interrupt(*_) -> None:
    for process in list(running):
        kill(process)
    print("interrupted", flush=True)
    os._exit(130)


def until_interrupted(program: Callable[[], int]) -> int:
    """Calls the program; a signal ends all that it has started."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    return program()


if __name__ == "__main__":
    sys.exit(until_interrupted(main))
