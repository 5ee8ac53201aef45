#!/usr/bin/env python3
"""The learner's own steps, in mine/: begins them, tests them, compares them with ours.

    make start 3      begins mine/3-close.c, from one's own step 2 if there is one, else
                      from ours
    make mine 3       builds that file and no other, and tests it up to stage 3
    make compare 3    shows what differs from ours; asks first if it has not passed yet

The Makefile calls `python3 tests/mine.py start|mine|compare N`. Environment: COMPILE and
LINK: how to compile in a folder of the repository, and what follows the sources.
"""
import ast
import concurrent.futures
import difflib
import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
from typing import Callable, Iterator, List, NamedTuple, Optional, Set, Tuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
MINE = ROOT / "mine"
BUILD = ROOT / "build" / "mine"
SKELETON = ROOT / "notes" / "skeleton.c"
MAKE = os.environ.get("MAKE") or "make"
COMPILE = os.environ.get("COMPILE") or "cc -std=c11 -Wall -Wextra -D_DEFAULT_SOURCE"
LINK = os.environ.get("LINK") or ""
SANITIZED = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"

# What may happen to any program on any day is made to happen all the time. Each has the
# step from which on it happens, what faults.c is to do, and what the learner is told.
FAULTS = ((2, "recv:EINTR:100 recv:EAGAIN:200 recv:short:500 read:EINTR:100",
           "recv() brings less than was sent, or says EAGAIN or EINTR"),
          (4, "send:EINTR:100 send:EAGAIN:400 send:short:1000",
           "send() takes a part of the bytes, or says EAGAIN or EINTR"))
FAULTS_TOLD = ("This was with calls that do less than they were asked for, as all of them"
               " may:")


def tell(text: str = "", end: str = "\n") -> None:
    print(text, end=end, flush=True)


# ---- The files -------------------------------------------------------------------------

def ours(number: int) -> pathlib.Path:
    return next((ROOT / "steps").glob(f"{number}-*.c"))


def mine(number: int) -> pathlib.Path:
    return MINE / ours(number).name


def shown(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def passed_mark(number: int) -> pathlib.Path:
    """The file with the hash of the program that has passed."""
    return BUILD / f"{mine(number).stem}.passed"


def has_passed(number: int) -> bool:
    mark = passed_mark(number)
    return mark.exists() and mark.read_text() == file_hash(mine(number))


def file_hash(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- What the tests look at ------------------------------------------------------------

class Check(NamedTuple):
    name: str       # Test3.test_ends
    says: str
    stage: int
    rule: str       # the name that tests/test.py gives to the assignment's sentence


def checks() -> Iterator[Check]:
    """All checks of tests/test.py that bind in some stage."""
    tree = ast.parse((ROOT / "tests" / "test.py").read_text(encoding="utf-8"))
    for group in tree.body:
        if isinstance(group, ast.ClassDef) \
                and re.fullmatch(r"Test([1-6]|Rules)", group.name):
            for test in group.body:
                if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                    yield Check(f"{group.name}.{test.name}",
                                ast.get_docstring(test) or "",
                                check_stage(group.name, test), check_rule(test))


def check_rule(test: ast.FunctionDef) -> str:
    arguments = [getattr(decorator, "args", []) for decorator in test.decorator_list]
    return next((args[0].id for args in arguments
                 if args and isinstance(args[0], ast.Name)), "")


def check_stage(group: str, test: ast.FunctionDef) -> int:
    """From which stage on a check binds: its class says so,
    or its decorator's `stage`."""
    for decorator in test.decorator_list:
        for keyword in getattr(decorator, "keywords", []):
            if keyword.arg == "stage":
                return ast.literal_eval(keyword.value)
    return 6 if group == "TestRules" else int(group[4:])


# ---- start -----------------------------------------------------------------------------

def start(number: int) -> int:
    file = mine(number)
    MINE.mkdir(exist_ok=True)
    header = MINE / "evloop.h"
    if not header.exists():
        header.symlink_to("../final/evloop.h")
    if file.exists():
        tell(f"{shown(file)} is there already; it stays as it is.")
    else:
        source = SKELETON if number == 1 else mine(number - 1)
        if not source.exists():
            source = ours(number - 1)
        shutil.copyfile(str(source), str(file))
        tell(f"{shown(file)} begins as a copy of {shown(source)}.")
        if source.parent == MINE and not has_passed(number - 1):
            tell(f"(Which has not passed yet, as it is now: make mine {number - 1}.)")
    tell(f"\n  read    notes/{file.stem}.md\n  edit    {shown(file)}")
    tell(f"  then    make mine {number}")
    besides = ", besides all that the steps before had to do" if number > 1 else ""
    tell(f"\nIts tests look at this{besides}:\n")
    for check in checks():
        if check.stage == number:
            tell(f"  {check.name}\n      {check.says}")
    return 0


# ---- mine ------------------------------------------------------------------------------

def compile_step(number: int, program: pathlib.Path, extra: str = "",
                 flags: str = SANITIZED) -> Tuple[bool, str]:
    """Builds the file into the program. Returns whether that worked and what was said."""
    BUILD.mkdir(parents=True, exist_ok=True)
    command = (f"{COMPILE} {flags} -I../final -o ../{shown(program)} {mine(number).name}"
               f" {extra} {LINK}")
    for attempt in (command, command.replace(flags, "-O1 -g")):
        result = subprocess.run(["sh", "-c", attempt], cwd=str(MINE),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                universal_newlines=True, errors="replace")
        if result.returncode == 0 \
                or not re.search(r"sanitize|lib[alu]san", result.stdout):
            break           # else this compiler has no sanitizers
        if not extra:       # said once
            tell("without sanitizers, for this compiler has none")
    return result.returncode == 0, result.stdout


def sanitizer_said(program: pathlib.Path, reports: str) -> str:
    """What AddressSanitizer and its kin had to say of a program:
    what, where, freed where."""
    lines: List[str] = []
    for report in sorted(BUILD.glob(f"{reports}.*")):
        for line in report.read_text(errors="replace").splitlines():
            head = re.search(r"ERROR: (\w+: [\w -]+?)(?: on | \(| in |$)"
                             r"|runtime error: (.*)", line)
            if head:
                lines.append("  " + (head[1] or f"{line.strip()}"))
            elif re.match(r"(READ|WRITE|freed by|previously allocated)", line):
                lines.append("    " + re.sub(r" (at|by) .*| thread.*", "", line).lower())
            elif re.search(rf" in \w+ .*{re.escape(mine_file(program).name)}:\d+", line):
                where = re.sub(r".* in (\w+) .*/([^/]+:\d+).*", r"\1(), \2", line)
                lines.append("      " + where)
    return "\n".join(lines[:24])


def mine_file(program: pathlib.Path) -> pathlib.Path:
    return MINE / (re.sub("-(faults|plain)$", "", program.name) + ".c")


running: Set[subprocess.Popen] = set()      # test.py, in one lane or both
stopped = threading.Event()                 # there is a verdict, or somebody pressed ^C


def stop() -> None:
    """Ends what runs, and lets nothing more begin."""
    stopped.set()
    for process in list(running):
        process.send_signal(signal.SIGINT)      # test.py then ends its servers


def run_tests(names: List[str], program: pathlib.Path,
              **environment: str) -> Tuple[bool, str]:
    """Runs tests of test.py on a program.

    Returns whether all passed and what was said.
    """
    if stopped.is_set():
        return False, ""
    reports = f"{program.name}.{names[0]}.report"
    for report in BUILD.glob(f"{reports}.*"):
        report.unlink()
    options = f"log_path={shown(BUILD)}/{reports}"
    environment = {"ASAN_OPTIONS": options, "UBSAN_OPTIONS": options, **environment}
    command = [sys.executable, "tests/test.py", "--server",
               f"{shown(program)} {{port}}", "-f", *names]
    with subprocess.Popen(command, cwd=str(ROOT), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True,
                          errors="replace", env={**os.environ, **environment}) as process:
        running.add(process)
        if stopped.is_set():
            process.send_signal(signal.SIGINT)
        said = process.communicate()[0]
        running.remove(process)
    report = sanitizer_said(program, reports)
    if report:
        return False, (f"{said if process.returncode else ''}\n"
                       f"A sanitizer has found this in {shown(mine_file(program))}:\n"
                       f"{report}\n")
    return process.returncode == 0, said


def first_verdict(said: str) -> str:
    """The first failure in the output of test.py."""
    end = r"^={20}|^-{20,}\nRan |^Ran |^skipped|^next:|\Z"
    found = re.search(rf"^(?:FAIL|ERROR): .*?(?={end})", said, re.MULTILINE | re.DOTALL)
    text = found.group() if found else said
    text = re.sub(r"^Test\w+ +\d+ of \d+ passed\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^-{20,}\n", "", text, flags=re.MULTILINE).rstrip()
    sanitizer = re.search(r"^A sanitizer has found .*", said, re.MULTILINE | re.DOTALL)
    if sanitizer or "runtime error: " in text:      # that is where to look
        text = re.sub(r"^  where to look: .*\n(?:   .*\n)*", "", text + "\n",
                      flags=re.MULTILINE).rstrip()
    if sanitizer and sanitizer.group().rstrip() not in text:
        text += "\n\n" + sanitizer.group().rstrip()
    return text


def counted(said: str) -> str:
    found = re.findall(r"(\d+) of (\d+) passed", said)
    if not found:
        return ""
    passed, started = (sum(int(pair[i]) for pair in found) for i in (0, 1))
    return f"{passed} of {started}"


class Outcome(NamedTuple):
    passed: Optional[bool]      # None: not looked at
    note: str
    said: str = ""              # by test.py, or the verdict


def line_of(outcome: Outcome) -> None:
    word = {True: "ok", False: "FAIL", None: "-"}[outcome.passed]
    tell(f"{word:5}{outcome.note}")


def tests_outcome(names: List[str], program: pathlib.Path) -> Outcome:
    passed, said = run_tests(names, program)
    return Outcome(passed, counted(said), said if passed else first_verdict(said))


def rules_until(number: int) -> List[str]:
    """An idle server first: who spins is slow at everything else."""
    names = [c.name for c in checks()
             if c.name.startswith("TestRules") and c.stage <= number]
    return sorted(names, key=lambda name: "test_idle" not in name)


def memory_names(said: str) -> List[str]:
    """What the rules could not look at, with sanitizers."""
    skipped = re.search(r"^skipped: built with a sanitizer.*?:((?: Test\w+\.\w+,?)+)",
                        said, re.MULTILINE)
    return skipped[1].replace(",", "").split() if skipped else []


def memory_outcome(number: int, names: List[str]) -> Outcome:
    program = BUILD / f"{mine(number).stem}-plain"
    built, said = compile_step(number, program, flags="-O1 -g")
    return tests_outcome(names, program) if built else Outcome(False, "", said)


def faults_build(number: int, program: pathlib.Path) -> bool:
    faults = ROOT / "tests" / "system" / "faults.c"
    wraps = sorted(set(re.findall(r"__wrap_(\w+)\(", faults.read_text(encoding="utf-8"))))
    link = " ".join(["-x c ../tests/system/faults.c",
                     *(f"-Wl,--wrap={name}" for name in wraps)])
    return compile_step(number, program, link)[0]


def faults_outcome(number: int) -> Outcome:
    """The stages again, on a program whose calls fail in ways that they may."""
    kinds = [kind for kind in FAULTS if number >= kind[0]]
    program = BUILD / f"{mine(number).stem}-faults"
    if not sys.platform.startswith("linux") or "EVLOOP_KQUEUE" in COMPILE:
        return Outcome(None, "not looked at: this part needs Linux and epoll")
    if not faults_build(number, program):
        return Outcome(None, "not looked at: it could not be built")
    counts = BUILD / f"{program.name}.counts"
    counts.unlink() if counts.exists() else None
    for seed in ("1", "2", "3"):
        passed, said = run_tests(
            [f"Test{n}" for n in range(1, number + 1)], program, FAULTS_SEED=seed,
            FAULTS=" ".join(kind[1] for kind in kinds), FAULTS_COUNTS=str(counts))
        if not passed:
            return Outcome(False, counted(said), "\n".join([
                first_verdict(said), "", FAULTS_TOLD, *(f"  {kind[2]}" for kind in kinds),
                "Take every outcome of a call into account; keep what is left."]))
    if int.from_bytes(counts.read_bytes()[8:16], sys.byteorder) == 0:
        return Outcome(None, "not looked at: the program calls neither recv() nor send()")
    return Outcome(True, "the stages again")


Lane = concurrent.futures.Executor


def outcomes(number: int, program: pathlib.Path,
             lanes: List[Lane]) -> Iterator[Tuple[str, Callable[[], Outcome]]]:
    """What is looked at, in order, and what waits for its outcome.

    Most of it is waiting, so stages, rules and faults each have a lane of their own.
    """
    stages = [lanes[0].submit(tests_outcome, [f"Test{n}"], program)
              for n in range(1, number + 1)]
    rules = lanes[1].submit(tests_outcome, rules_until(number), program)
    faults = lanes[2].submit(faults_outcome, number) if number >= FAULTS[0][0] else None
    for n, stage in enumerate(stages, 1):
        yield f"Test{n}", stage.result
    yield "the rules so far" if number < 6 else "all rules", rules.result
    names = memory_names(rules.result().said)
    if names:
        memory = lanes[1].submit(memory_outcome, number, names)
        yield "memory, without sanitizers", memory.result
    if faults:
        yield ("recv and send that do less" if number >= FAULTS[1][0]
               else "recv that does less"), faults.result


def mine_tests(number: int, program: pathlib.Path) -> str:
    """Tells what comes out, up to the first that fails. Returns the verdict."""
    lanes: List[Lane] = [concurrent.futures.ThreadPoolExecutor(1) for _ in range(3)]
    try:
        for what, wait in outcomes(number, program, lanes):
            tell(f"  {what:28}", end="")
            outcome = wait()
            line_of(outcome)
            if outcome.passed is False:
                stop()
                return outcome.said
        return ""
    finally:            # an interrupt has come to test.py too, which ends its servers
        stopped.set()
        for lane in lanes:
            lane.shutdown()


def mine_verb(number: int) -> int:
    file = mine(number)
    if not file.exists():
        tell(f"{shown(file)} is not there: make start {number}")
        return 1
    program = BUILD / file.stem
    tell(f"{shown(file)}:")
    tell(f"  {'compiles':28}", end="")
    built, said = compile_step(number, program)
    line_of(Outcome(built, "with warnings" if built and said else ""))
    if said:
        tell("\n" + said.rstrip() + "\n")
    if not built:
        return 1
    verdict = mine_tests(number, program)
    if verdict:
        tell("\n" + verdict)
        return 1
    passed_mark(number).write_text(file_hash(file))
    then = f"make start {number + 1}" if number < 6 else "notes/7-final.md"
    tell(f"\nStep {number} is done. Ours beside yours: make compare {number}. "
         f"Then: {then}")
    return 0


# ---- compare ---------------------------------------------------------------------------

COLOURS = {"-": "\x1b[31m", "+": "\x1b[32m", "@": "\x1b[36m"}


def compare(number: int) -> int:
    file, reference = mine(number), ours(number)
    if not file.exists():
        tell(f"{shown(file)} is not there: make start {number}")
        return 1
    if not has_passed(number):
        tell(f"{shown(file)}, as it is now, has not passed yet (make mine {number}).")
        tell("Look at ours all the same? [y/N] ", end="")
        if not sys.stdin.readline().strip().lower().startswith("y"):
            tell("Not shown.")
            return 1
    texts = [path.read_text(encoding="utf-8", errors="replace").splitlines()
             for path in (file, reference)]
    lines = list(difflib.unified_diff(*texts, shown(file), shown(reference), lineterm=""))
    if not lines:
        tell(f"{shown(file)} is the same as {shown(reference)}.")
    for line in lines:
        colour = COLOURS.get(line[:1], "") if sys.stdout.isatty() else ""
        tell(colour + line + ("\x1b[m" if colour else ""))
    return 0


def main() -> int:
    verbs = {"start": start, "mine": mine_verb, "compare": compare}
    verb, number = (sys.argv[1:] + ["", ""])[:2]
    if verb not in verbs or len(sys.argv) != 3 or number not in list("123456"):
        name = verb if verb in verbs else "start"
        print(f"make {name} N: N is a number from 1 to 6", file=sys.stderr)
        return 2
    return verbs[verb](int(number))


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
