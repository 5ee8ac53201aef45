#!/usr/bin/env python3
"""Do the tests notice? Each file in tests/mutants/ is a fault that a program might well have.

    python3 tests/mutants/mutants.py [NAME...]      (those whose names contain NAME)
    python3 tests/mutants/mutants.py --list

Such a file says in one sentence what is wrong, then which test has to notice:

    Caught by: JOB: TESTS       a job of runner.py ("native" may be left out), and tests of it

and ends with a unified diff of one source. Line numbers in it do not count: what stands in the
diff has to be in the source once. It is applied to a copy of the repository; there, the test has
to fail. Before, all these tests have to pass without any fault.
"""
import contextlib
import functools
import pathlib
import re
import shutil
import sys
from typing import Iterator, List, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import runner
from runner import Job, Result, ROOT

MUTANTS = ROOT / "tests" / "mutants"
JOBS = {job.name: job for job in runner.check_jobs()}


class Mutant(NamedTuple):
    name: str
    fault: str          # in a sentence
    job: Job            # with the tests that notice it
    source: str         # the file that has the fault
    hunks: List[str]


def load(path: pathlib.Path) -> Mutant:
    parts = re.fullmatch(r"(?P<fault>.+)\nCaught by: (?P<job>[^:\n]+)(: (?P<tests>.+))?\n+"
                         r"--- (?P<source>\S+).*\n\+\+\+ .*\n@@.*\n(?P<hunks>(.*\n)+)",
                         path.read_text())
    if not parts:
        sys.exit(f"{path.name}: not as the head of mutants.py says")
    job = (JOBS.get(parts["job"]) or JOBS.get(parts["job"] + " native")
           or sys.exit(f"{path.name}: no job {parts['job']}"))
    return Mutant(path.stem, parts["fault"], job._replace(tests=parts["tests"] or "", limit=60),
                  parts["source"], re.split(r"^@@.*\n", parts["hunks"], flags=re.M))


def apply(text: str, hunk: str) -> str:
    lines = [line or " " for line in hunk.splitlines()]
    old, new = ("".join(line[1:] + "\n" for line in lines if line[0] in marks)
                for marks in (" -", " +"))
    if text.count(old) != 1:
        raise ValueError(f"this is in the source {text.count(old)} times:\n{old}")
    return text.replace(old, new)


@contextlib.contextmanager
def copy(name: str) -> Iterator[pathlib.Path]:
    """A copy of the repository, as far as it is needed."""
    root = ROOT / "build" / "mutants" / name
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("final", "steps", "tests"):
        shutil.copytree(str(ROOT / folder), str(root / folder), symlinks=True)
    yield root
    shutil.rmtree(root)


def build_for(jobs: List[Job], root: pathlib.Path) -> Result:
    results = [runner.build(variant, programs, root)
               for variant, programs in runner.programs_by_variant(jobs).items()]
    return Result("build", all(result.passed for result in results),
                  "".join(result.output for result in results),
                  sum(result.seconds for result in results))


def judge(mutant: Mutant) -> Result:
    """A result that has passed means: caught."""
    with copy(mutant.name) as root:
        text = (root / mutant.source).read_text()
        try:
            (root / mutant.source).write_text(functools.reduce(apply, mutant.hunks, text))
        except ValueError as error:
            return Result(mutant.name, False, f"does not apply: {error}")
        built = build_for([mutant.job], root)
        if not built.passed:
            return Result(mutant.name, False, f"does not build:\n{built.output}", built.seconds)
        tested = runner.run_job(hurry(mutant.job), root)
    output = f"not caught: {mutant.fault}\n{mutant.job.name} {mutant.job.tests} passes"
    return Result(mutant.name, not tested.passed, output, built.seconds + tested.seconds)


def hurry(job: Job) -> Job:
    """Tests that shall fail need not wait long for what will not come."""
    return job._replace(command="CHATSRV_TEST_DEADLINE=2 " + job.command)


def without_faults(jobs: List[Job]) -> bool:
    """Whether the tests pass that are to fail later."""
    with copy("none") as root:
        built = build_for(jobs, root)
        results = [built] if not built.passed else runner.in_parallel(
            functools.partial(runner.run_job, job, root) for job in sorted(set(jobs)))
        return all(runner.report(result._replace(name=f"without a fault: {result.name}")
                                for result in results if not result.passed))


def main() -> int:
    names = [name for name in sys.argv[1:] if name != "--list"]
    mutants = [load(path) for path in sorted(MUTANTS.glob("*.diff"))
               if not names or any(name in path.stem for name in names)]
    if "--list" in sys.argv:
        print(*(f"{mutant.name:24} {mutant.fault}" for mutant in mutants), sep="\n")
        return 0
    if not without_faults([mutant.job for mutant in mutants]):
        return 1
    caught = list(runner.report(runner.in_parallel(functools.partial(judge, mutant)
                                                 for mutant in mutants)))
    print(f"{caught.count(True)} of {len(caught)} caught")
    return 0 if caught and all(caught) else 1


if __name__ == "__main__":
    sys.exit(runner.until_interrupted(main))
