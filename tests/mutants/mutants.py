#!/usr/bin/env python3
"""Do the tests notice? Each file in tests/mutants/ is a fault that a program might
well have.

    python3 tests/mutants/mutants.py [NAME...]      those whose names contain NAME
    python3 tests/mutants/mutants.py --times 10 [NAME...]
                                                    each ten times, and what noticed it
    python3 tests/mutants/mutants.py --list

Such a file says in one sentence what is wrong, then which test has to notice it:

    Caught by: JOB: TESTS   a job of runner.py ("native" may be left out), and its tests

and ends with a unified diff of one source. The diff's line numbers do not count: its old
lines must be in the source exactly once. It is applied to a copy of the repository, where
the test then has to fail by itself: a test that has to be stopped has noticed nothing.
Before that, all these tests have to pass without any fault.
"""
import argparse
import collections
import contextlib
import functools
import pathlib
import re
import shutil
import sys
import textwrap
from typing import Dict, Iterator, List, NamedTuple, Set

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import runner
from runner import BUILD, Job, Result, ROOT

MUTANTS = ROOT / "tests" / "mutants"
JOBS = {job.name: job for job in runner.check_jobs()}


class Mutant(NamedTuple):
    name: str
    fault: str          # in a sentence
    job: Job            # with the tests that notice it
    source: str         # the file that has the fault
    hunks: List[str]


def load(path: pathlib.Path) -> Mutant:
    parts = re.fullmatch(
        r"(?P<fault>.+)\nCaught by: (?P<job>[^:\n]+)(: (?P<tests>.+))?\n+"
        r"--- (?P<source>\S+).*\n\+\+\+ .*\n@@.*\n(?P<hunks>(.*\n)+)", path.read_text())
    if not parts:
        sys.exit(f"{path.name}: not as the head of mutants.py says")
    job = (JOBS.get(parts["job"]) or JOBS.get(parts["job"] + " native")
           or sys.exit(f"{path.name}: no job {parts['job']}"))
    return Mutant(path.stem, parts["fault"],
                  job._replace(tests=parts["tests"] or "", limit=60),
                  parts["source"], re.split(r"^@@.*\n", parts["hunks"], flags=re.M))


def apply(text: str, hunk: str) -> str:
    lines = [line or " " for line in hunk.splitlines()]
    old, new = ("".join(line[1:] + "\n" for line in lines if line[0] in marks)
                for marks in (" -", " +"))
    if text.count(old) != 1:
        raise ValueError(f"this is in the source {text.count(old)} times:\n{old}")
    return text.replace(old, new)


@contextlib.contextmanager
def copy(name: str, origin: pathlib.Path = ROOT) -> Iterator[pathlib.Path]:
    """A copy of what is needed of the repository,
    and what has been compiled there."""
    root = ROOT / "build" / "mutants" / name
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("final", "steps", "tests"):
        shutil.copytree(str(origin / folder), str(root / folder), symlinks=True)
    if origin != ROOT:
        for objects in (origin / BUILD).glob("*/objects"):
            shutil.copytree(str(objects), str(root / objects.relative_to(origin)))
    yield root
    shutil.rmtree(root)


def build_for(jobs: List[Job], root: pathlib.Path) -> Result:
    results = []
    for variant, programs in runner.programs_by_variant(jobs).items():
        if "chatsrv" in programs:
            results.append(build_server(variant, root))
        results.append(runner.build(variant, set(programs) - {"chatsrv"}, root))
    return Result("build", all(result.passed for result in results),
                  "".join(result.output for result in results),
                  sum(result.seconds for result in results))


def build_server(variant: str, root: pathlib.Path) -> Result:
    """Compiles what has changed since the last time, and links it."""
    compiler, link = runner.flags(variant)
    names = runner.server_sources(root)
    headers = max(path.stat().st_mtime for path in (root / "final").glob("*.h"))
    objects = root / BUILD / variant / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    commands = []
    for name in names:
        source, compiled = root / "final" / name, objects / (name + ".o")
        if not compiled.exists() \
                or compiled.stat().st_mtime <= max(headers, source.stat().st_mtime):
            commands.append(
                f"{compiler} -c -o ../{compiled.relative_to(root)} ../final/{name}")
    folder = f"../{BUILD}/{variant}"
    commands.append(f"rm -f {folder}/chatsrv && {compiler} -o {folder}/chatsrv "
                    + " ".join(f"{folder}/objects/{name}.o" for name in names)
                    + f" {link}")
    return runner.run(f"build {variant}", "cd tests && " + " && ".join(commands),
                      root=root)


def judge(mutant: Mutant, times: int, origin: pathlib.Path) -> Result:
    """The result has passed if the fault was caught, and each time."""
    with copy(mutant.name, origin) as root:
        text = (root / mutant.source).read_text()
        try:
            (root / mutant.source).write_text(functools.reduce(apply, mutant.hunks, text))
        except ValueError as error:
            return Result(mutant.name, False, f"does not apply: {error}")
        built = build_for([mutant.job], root)
        if not built.passed:
            return Result(mutant.name, False, f"does not build:\n{built.output}",
                          built.seconds)
        runs = [runner.run_job(hurry(mutant.job), root) for _ in range(times)]
    caught = [run for run in runs if not run.passed and not run.late]
    by = f"{mutant.job.name} {mutant.job.tests}".strip()
    return Result(mutant.name, len(caught) == times,
                  f"{mutant.fault}\n"
                  f"caught {len(caught)} times of {times} by {by}\n{reasons(runs)}",
                  built.seconds + sum(run.seconds for run in runs))


def reasons(runs: List[Result]) -> str:
    """What the runs said, and how many said so."""
    said = ["passed" if run.passed else "\n".join(runner.headlines(run.output))
            for run in runs]
    return "\n".join(f"{count} times: {text}"
                     for text, count in collections.Counter(said).most_common())


def hurry(job: Job) -> Job:
    """Tests that are meant to fail need not wait long for what will not come."""
    command = re.sub(r"CHATSRV_TEST_DEADLINE=\d+ ", "", job.command)
    return job._replace(command="CHATSRV_TEST_DEADLINE=2 " + command)


def without_faults(jobs: List[Job], root: pathlib.Path) -> bool:
    """Whether the tests that are to fail later pass now; one run per command."""
    tests: Dict[Job, Set[str]] = {}
    for job in jobs:
        tests.setdefault(job._replace(tests="", limit=600),
                         set()).update(job.tests.split())
    merged = [job._replace(tests=" ".join(sorted(tests[job]))) for job in sorted(tests)]
    built = build_for(jobs, root)
    results = [built] if not built.passed else runner.in_parallel(
        functools.partial(runner.run_job, job, root) for job in merged)
    return all(list(runner.report(result._replace(name=f"without a fault: {result.name}")
                                  for result in results if not result.passed)))


def main() -> int:
    parser = argparse.ArgumentParser(description="Do the tests notice?")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    mutants = [load(path) for path in sorted(MUTANTS.glob("*.diff"))
               if not args.names or any(name in path.stem for name in args.names)]
    if args.list:
        print(*(f"{mutant.name:24} {mutant.fault}" for mutant in mutants), sep="\n")
        return 0
    caught: List[bool] = []
    with copy("none") as root:
        if not without_faults([mutant.job for mutant in mutants], root):
            return 1
        for result in runner.in_parallel(
                functools.partial(judge, mutant, args.times, root) for mutant in mutants):
            caught += runner.report([result])
            if result.passed and args.times > 1:
                print(textwrap.indent(result.output, "      "), flush=True)
    print(f"{caught.count(True)} of {len(caught)} caught")
    return 0 if caught and all(caught) else 1


if __name__ == "__main__":
    sys.exit(runner.until_interrupted(main))
