#!/usr/bin/env python3
"""Looks for faults that no test notices: makes small edits at random and runs the tests
on each.

    python3 tests/mutants/explore.py [--minutes 10] [--seed N] [--jobs 2] [--thorough]
                                     [SOURCE[:FUNCTION[: EDIT]]...]
    python3 tests/mutants/explore.py --list [SOURCE[:FUNCTION[: EDIT]]...]

An edit negates a condition, drops a call or an operand, moves a limit by one or by a
factor of a thousand, swaps a comparison, and so on. It is made in a copy of the
repository; tests run on the copy until one of them fails: first the single tests that
have noticed most edits of this source in the least time, then all. An edit that changes
nothing in the compiled program is left out. An edit that all tests pass is a survivor,
and is printed.

A survivor deserves a test; if the fault is an instructive one, also a file in this
folder, so that `make mutants` keeps watch. What no test can notice is explained in
survivors.txt, beside this program, and is left out from then on. An entry there is

    SOURCE:FUNCTION: EDIT
        why no test notices it

where EDIT is what this program prints; "*" in it stands for anything.
"""
import argparse
import collections
import concurrent.futures
import fnmatch
import os
import pathlib
import random
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from typing import Counter, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import mutants
import runner
from runner import ROOT, Job, Result

COPY = ROOT / "build" / f"explore-{os.getpid()}"
SURVIVORS = pathlib.Path(__file__).with_name("survivors.txt")
STEP = "steps/6-broadcast.c"
SOURCES = [*(f"final/{name}" for name in runner.server_sources()), STEP]
TIMES = 4           # a test may take that many times as long as without a fault, and
GRACE = 10          # seconds more; then something hangs, which counts as noticed
VARIANT = "native"
FIRST = 6           # how many single tests come first

# A fault must not fill this machine's disk (blocks of 512 bytes) or memory (kB).
LIMITS = "ulimit -f 1000000; ulimit -v 4000000; "


# ---- Edits -----------------------------------------------------------------------------

class Edit(NamedTuple):
    source: str
    function: str
    line: int
    start: int          # in the source's text
    end: int
    text: str           # what comes there instead
    what: str           # the edit, in a line

    def key(self) -> str:
        return f"{self.source}:{self.function}: {self.what}"


TOKEN = re.compile(r"""
    (?P<skip>\s+|/\*.*?\*/|//[^\n]*|^[ ]*\#(?:\\\n|[^\n])*)
  | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
  | (?P<number>0[xX][0-9a-fA-F]+\w*|[0-9]+\w*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<mark>->|\+\+|--|<<=|>>=|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|\.\.\.|.)
    """, re.X | re.S | re.M)


def plain(line: str) -> str:
    """A line of a source without its comment."""
    return " ".join(re.sub(r"/\*.*", "", line).split())


class Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


class Source:
    """The tokens of a C source, laid out as clang-format does it."""
    OPEN, CLOSE = "([{", ")]}"

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self.tokens = [Token(match.lastgroup, match.group(), match.start(), match.end())
                       for match in TOKEN.finditer(text) if match.lastgroup != "skip"]
        self.partner: Dict[int, int] = {}
        self.functions: List[Tuple[int, str]] = []      # where each of them begins
        self.match_brackets()
        self.find_functions()

    def match_brackets(self) -> None:
        stack = []
        for i, token in enumerate(self.tokens):
            if token.kind == "mark" and token.text in self.OPEN:
                stack.append(i)
            elif token.kind == "mark" and token.text in self.CLOSE:
                begin = stack.pop()
                self.partner[begin], self.partner[i] = i, begin

    def find_functions(self) -> None:
        """Top-level `name(...) {`; what stands between functions belongs to none."""
        i, depth_end = 0, -1
        while i < len(self.tokens):
            token = self.tokens[i]
            if token.text == "{" and i > depth_end:
                before = self.tokens[i - 1]
                name = "-"
                if before.text == ")":
                    name = self.tokens[self.partner[i - 1] - 1].text
                self.functions += [(token.start, name),
                                   (self.tokens[self.partner[i]].end, "-")]
                depth_end = self.partner[i]
                i = depth_end
            i += 1

    def function_at(self, place: int) -> str:
        return ([name for start, name in self.functions if start <= place] or ["-"])[-1]

    def edit(self, start: int, end: int, text: str) -> Edit:
        line = self.text.count("\n", 0, start) + 1
        begin = self.text.rfind("\n", 0, start) + 1
        stop = self.text.find("\n", end)
        old = self.text[begin:stop]
        new = self.text[begin:start] + text + self.text[end:stop]
        what = f"{plain(old)} => {plain(new)}"
        return Edit(self.name, self.function_at(start), line, start, end, text, what)

    # -- the operators

    def edits(self) -> Iterator[Edit]:
        seen = set()
        for i, token in enumerate(self.tokens):
            inside = self.function_at(token.start) != "-"
            for edit in self.edits_at(i, token, inside):
                if edit.what not in seen:   # equal lines of a function: the first will do
                    seen.add(edit.what)
                    yield edit

    def edits_at(self, i: int, token: Token, inside: bool) -> Iterator[Edit]:
        if not inside:
            if token.text == "=" and self.in_enum(i):
                yield from self.constant(i)
            return
        if token.kind == "number" and not self.is_all_zeros(i):
            yield from self.number(token)
        if token.kind == "name" and token.text in ("if", "while"):
            yield from self.condition(i)
        if token.text in COMPARISONS and self.is_binary(i):
            for other in COMPARISONS[token.text]:
                yield self.edit(token.start, token.end, other)
        if token.text in ("&&", "||"):
            yield from self.operands(i, token)
        if token.text in ("+", "-", "*") and self.is_binary(i):
            yield self.edit(token.start, token.end, "-" if token.text == "+" else "+")
            yield from self.without_second(i)
        if token.text in ("|", "&") and self.is_binary(i):
            yield from self.without_second(i)
        if token.text in ("+=", "-="):
            yield self.edit(token.start, token.end, "-=" if token.text == "+=" else "+=")
        if token.text == "!" and self.tokens[i + 1].text != "=":
            yield self.edit(token.start, token.end, "")
        if token.text == "?":
            yield self.edit(token.start, token.end, "&& 0 ?")
            yield self.edit(token.start, token.end, "|| 1 ?")
        if token.text in (";", "{", "}", ")", "else", ":"):
            yield from self.statement(i + 1)

    def is_all_zeros(self, i: int) -> bool:
        """{0}, which is as good as any other number for what is overwritten."""
        return [token.text for token in self.tokens[i - 1:i + 2]] == ["{", "0", "}"]

    def in_enum(self, i: int) -> bool:
        return any(token.text == "enum" for token in self.tokens[max(0, i - 4):i])

    def constant(self, i: int) -> Iterator[Edit]:
        """enum { LIMIT = 1024 };"""
        end = i + 1
        while self.tokens[end].text not in (",", "}"):
            end = self.partner.get(end, end) + 1
        start, stop = self.tokens[i + 1].start, self.tokens[end - 1].end
        value = self.text[start:stop]
        for change in ("* 1000", "/ 1000", "+ 1", "- 1"):
            yield self.edit(start, stop, f"({value}) {change}")

    def number(self, token: Token) -> Iterator[Edit]:
        if token.text in ("0", "1"):
            yield self.edit(token.start, token.end, "1" if token.text == "0" else "0")
        if token.text != "0":
            yield self.edit(token.start, token.end, f"({token.text} + 1)")
            yield self.edit(token.start, token.end, f"({token.text} * 1000)")
        if token.text not in ("0", "1"):
            yield self.edit(token.start, token.end, f"({token.text} - 1)")

    def condition(self, i: int) -> Iterator[Edit]:
        if i + 1 not in self.partner:
            return
        start, end = self.tokens[i + 1].end, self.tokens[self.partner[i + 1]].start
        yield self.edit(start, end, f"!({self.text[start:end]})")
        yield self.edit(start, end, f"({self.text[start:end]}) && 0")
        if self.tokens[i].text == "if":
            yield self.edit(start, end, f"({self.text[start:end]}) || 1")

    def is_binary(self, i: int) -> bool:
        """Binary operators have a space on either side."""
        token = self.tokens[i]
        around = self.text[token.start - 1] + self.text[token.end]
        before = self.tokens[i - 1]
        return around.isspace() and (
            before.kind in ("name", "number", "string") and before.text != "return"
            or before.text in (")", "]"))

    STOPS = {"&&", "||", "?", ":", ";", ",", "=", "+=", "-=", "return", "(", "[", "{"}

    def span_before(self, i: int) -> int:
        """Where the operand before token i begins."""
        at = i
        while self.tokens[at - 1].text not in self.STOPS or at - 1 in self.partner \
                and self.tokens[at - 1].text in ")]}":
            at -= 1
            at = self.partner.get(at, at) if self.tokens[at].text in ")]}" else at
        return self.tokens[at].start

    def span_after(self, i: int, stops: Set[str]) -> int:
        """Where the operand behind token i ends."""
        at = i + 1
        while self.tokens[at].text not in stops:
            at = (self.partner[at] if self.tokens[at].text in self.OPEN else at) + 1
        return self.tokens[at - 1].end

    AFTER = {"&&", "||", "?", ":", ";", ",", ")", "]", "}"}

    def operands(self, i: int, token: Token) -> Iterator[Edit]:
        start, end = self.span_before(i), self.span_after(i, self.AFTER)
        yield self.edit(token.start, token.end, "||" if token.text == "&&" else "&&")
        yield self.edit(start, self.tokens[i + 1].start, "")        # without the first
        yield self.edit(self.tokens[i - 1].end, end, "")            # without the second

    def without_second(self, i: int) -> Iterator[Edit]:
        stops = self.AFTER | set(COMPARISONS) | {"+", "-", "|", "&", "<<", ">>"}
        yield self.edit(self.tokens[i - 1].end, self.span_after(i, stops), "")

    def statement(self, i: int) -> Iterator[Edit]:
        """Drops the statement that begins here, if it is a simple one."""
        if i + 1 >= len(self.tokens):
            return
        first, second = self.tokens[i], self.tokens[i + 1]
        if first.kind == "mark" and first.text not in ("*", "("):
            return
        end = i
        while self.tokens[end].text not in (";", "{", "}"):
            end = (self.partner[end] if self.tokens[end].text in "([" else end) + 1
        words = [token.text for token in self.tokens[i:end]]
        if self.tokens[end].text != ";" or not words or self.tokens[i - 1].text == ")" \
                and first.text == ";":
            return
        if first.text in ("if", "while", "for", "do", "switch", "case", "default", "else",
                          "goto", "const", "struct", "static", "enum", "unsigned"):
            return
        is_declaration = first.kind == second.kind == "name" and first.text != "return" \
            or first.kind == "name" and second.text == "*"
        if is_declaration:
            return
        if first.text == "return" and len(words) > 1:
            return
        yield self.edit(first.start, self.tokens[end - 1].end, "")


COMPARISONS = {"<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"],
               "==": ["!="], "!=": ["=="]}


def edits_of(source: str) -> List[Edit]:
    return list(Source(source, (ROOT / source).read_text()).edits())


# ---- What has been explained -----------------------------------------------------------

def explained() -> List[str]:
    """The patterns of survivors.txt."""
    return [pattern(line) for line in SURVIVORS.read_text().splitlines()
            if line and line[0] not in " #"]


def pattern(line: str) -> str:
    """For fnmatch, where all but "*" is to have its exact meaning."""
    return re.sub(r"([\[?])", r"[\1]", line)


# ---- Tests -----------------------------------------------------------------------------

ROOM = {"entry", "origins", "redis", "resp", "room", "url"}
ROOM_WORDS = re.compile(r"room|leaving")
PROXY = {"arrivals", "proxy"}
PROXY_WORDS = re.compile(r"arrivals|proxied|on_newcomer|address_key")


def tests_for(source: str, function: str, thorough: bool) -> List[Job]:
    """What runs on each edit of a function with this text, the quickest first."""
    name = pathlib.Path(source).stem
    jobs = {job.name: job for job in runner.check_jobs()}

    def pick(*names: str, tests: str = "") -> List[Job]:
        return [jobs[name]._replace(command=LIMITS + jobs[name].command,
                                    tests=tests or jobs[name].tests)
                for name in names]

    if source == STEP:
        model, = pick("model step 6 asan")
        return [*pick("step 6 native", tests="-f Test6 TestRules"),
                model._replace(command=model.command.replace("asan/", "native/")),
                *pick("steps native", tests="-f Usage Senders Resources")]
    units = pick(*(f"{test[:-len('_test')]} native"
                   for test, sources in runner.PROGRAMS.items()
                   if f"../{source}" in sources.split()))
    server = [*pick("final native", tests="-f Test6 TestRules.test_limit"),
              *pick("model native"),
              *pick("chatsrv native", "promises native", tests="-f")]
    proxy = pick("proxy header native", tests="-f")
    room = pick("room script native", tests="-f Joining Chat Trouble Holes")
    slow = [*pick("final native", "floods native", tests="-f"),
            *pick("soak native")] if thorough else []
    if name in ROOM:
        return [*units, *room, *slow]
    if name in PROXY:
        return [*units, *proxy, *slow]
    return [*units, *server, *(proxy if PROXY_WORDS.search(function) else []),
            *(room if ROOM_WORDS.search(function) else []), *slow]


class Record:
    """How well single tests have done so far: how many edits of each source they noticed,
    and in what time."""

    def __init__(self) -> None:
        self.noticed: Counter[Tuple[str, Job]] = collections.Counter()
        self.seconds: Counter[Tuple[str, Job]] = collections.Counter()

    def best(self, source: str) -> List[Job]:
        def rate(job: Job) -> float:
            return self.noticed[source, job] / (self.seconds[source, job] + 1)
        jobs = [job for name, job in self.noticed if name == source]
        return sorted(jobs, key=rate, reverse=True)[:FIRST]

    def note(self, source: str, job: Job, result: Result) -> str:
        """Counts a test that failed, or passed; returns its name."""
        failed = re.search(r"^(?:FAIL|ERROR): (?:(\w+) \(__main__\.(\w+)|(\w+)\.(\w+))",
                           result.output, re.M)
        name = job.tests
        if not result.passed and failed:
            method, case, *grader = failed.groups()
            name = f"{case}.{method}" if method else ".".join(grader)
            self.noticed[source, job._replace(tests=name)] += 1
        if not job.tests.startswith("-f"):
            self.seconds[source, job] += result.seconds
        return name


class Judge:
    """Builds a copy with an edit in it, and runs the tests there."""

    def __init__(self, number: int, sources: List[str], record: Record) -> None:
        self.copy = COPY / str(number)
        for folder in ("final", "steps", "tests"):
            shutil.copytree(str(ROOT / folder), str(self.copy / folder), symlinks=True)
        self.texts = {source: (self.copy / source).read_text() for source in sources}
        self.objects = {source: self.compiled(source) for source in sources}
        self.record = record

    def compiled(self, source: str) -> Optional[bytes]:
        """The source's machine code; None if it cannot be compiled."""
        compiler, _ = runner.flags(VARIANT)
        command = shlex.split(compiler) + ["-g0", "-I../final", "-c", "-o", "../object.o",
                                           f"../{source}"]
        done = subprocess.run(command, cwd=self.copy / "tests", stderr=subprocess.DEVNULL)
        return (self.copy / "object.o").read_bytes() if done.returncode == 0 else None

    def build(self, jobs: List[Job]) -> Result:
        """Builds all that these jobs need."""
        return mutants.build_for(jobs, self.copy)

    def build_again(self, source: str, code: bytes, job: Job) -> Result:
        """Builds for a job what depends on the source, of which this is the code."""
        program, = runner.programs_of(job)
        folder = self.copy / runner.BUILD / VARIANT
        compiler, link = runner.flags(VARIANT)
        if source == STEP:
            (self.copy / "object.o").write_bytes(code)
            output = folder / "steps" / pathlib.Path(source).stem
            return runner.run("link", f"{compiler} object.o {link} -o "
                              + shlex.quote(str(output)), root=self.copy)
        if program.endswith("/chatsrv"):
            (folder / "objects" / f"{pathlib.Path(source).name}.o").write_bytes(code)
        return self.build([job])

    def measure(self, job: Job) -> Result:
        """Runs a test on the sources as they are; on a busy machine more than once."""
        for _ in range(3):
            result = runner.run_job(job, self.copy)
            if result.passed:
                break
        print(f"without an edit: {job.name} {job.tests}: {result.seconds:.1f} s"
              f"{'' if result.passed else ', FAILS'}", flush=True)
        return result

    def noticed_by(self, edit: Edit, jobs: List[Job], limits: Dict[Job, int]) -> str:
        """The name of the test that fails; "" if none does."""
        path = self.copy / edit.source
        text = self.texts[edit.source]
        path.write_text(text[:edit.start] + edit.text + text[edit.end:])
        try:
            code = self.compiled(edit.source)
            if code is None:
                return "the compiler"
            if code == self.objects[edit.source]:
                return "nobody, for the program is the same"
            built: Set[Tuple[str, ...]] = set()
            first = [job for job in self.record.best(edit.source)
                     if any(job.name == other.name for other in jobs)]
            for job in [*first, *jobs]:
                programs = tuple(runner.programs_of(job))
                if programs not in built \
                        and not self.build_again(edit.source, code, job).passed:
                    return f"{job.name}, which cannot be built"
                built.add(programs)
                limit = limits.get(job, 4 * GRACE)
                result = runner.run_job(job._replace(limit=limit), self.copy)
                name = self.record.note(edit.source, job, result)
                if not result.passed:
                    return f"{job.name} {name}".strip()
            return ""
        finally:
            path.write_text(text)
            objects = self.copy / runner.BUILD / VARIANT / "objects"
            if objects.exists():        # so that it need not be compiled once more
                (objects / f"{path.name}.o").write_bytes(self.objects[edit.source])


# ---- The search ------------------------------------------------------------------------

def chosen(wanted: List[str]) -> List[Edit]:
    """All edits that the arguments name and nobody has explained."""
    known = explained()
    sources = list(dict.fromkeys(name.partition(":")[0] for name in wanted)) or SOURCES
    return [edit for source in sources if (ROOT / source).exists()
            for edit in edits_of(source)
            if (not wanted or any(edit.key().startswith(name + ":")
                                  or fnmatch.fnmatchcase(edit.key(), pattern(name))
                                  for name in wanted))
            and not any(fnmatch.fnmatchcase(edit.key(), other) for other in known)]


class Search:
    def __init__(self, edits: List[Edit], minutes: float, thorough: bool) -> None:
        self.edits, self.minutes = edits, minutes
        self.left = iter(edits)
        self.sources = sorted({edit.source for edit in edits})
        self.record = Record()
        self.tests = {(edit.source, edit.function):
                      tests_for(edit.source, self.function(edit), thorough)
                      for edit in edits}
        self.survivors: List[Edit] = []
        self.noticed = 0
        self.lock = threading.Lock()

    @staticmethod
    def function(edit: Edit) -> str:
        """The text of the function that the edit is in."""
        source = Source(edit.source, (ROOT / edit.source).read_text())
        begin = max((start for start, _ in source.functions if start <= edit.start),
                    default=0)
        end = min((start for start, _ in source.functions if start > edit.start),
                  default=None)
        return source.text[begin:end]

    def run(self, workers: int) -> List[Edit]:
        jobs = list(dict.fromkeys(job for jobs in self.tests.values() for job in jobs))
        judges = [Judge(number, self.sources, self.record) for number in range(workers)]
        for judge in judges:
            built = judge.build(jobs)
            if not built.passed:
                sys.exit(built.output)
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            results = dict(zip(jobs, pool.map(judges[0].measure, jobs)))
            self.limits = {job: int(TIMES * result.seconds + GRACE)
                           for job, result in results.items()}
            for result in results.values():
                if not result.passed:
                    sys.exit(f"without any edit fails {result.name}:\n{result.output}")
            self.end = time.monotonic() + 60 * self.minutes
            for future in [pool.submit(self.work, judge) for judge in judges]:
                future.result()
        print(f"{self.noticed} noticed, {len(self.survivors)} not")
        return self.survivors

    def work(self, judge: Judge) -> None:
        while time.monotonic() < self.end:
            with self.lock:
                edit = next(self.left, None)
            if edit is None:
                return
            started = time.monotonic()
            by = judge.noticed_by(edit, self.tests[edit.source, edit.function],
                                  self.limits)
            if by.startswith(("nobody", "the compiler")):
                continue
            with self.lock:
                self.noticed += bool(by)
                if not by:
                    self.survivors.append(edit)
                print(f"{'ok  ' if by else 'SURVIVES'} {edit.key()} (line {edit.line}; "
                      f"{by}; {time.monotonic() - started:.1f} s)", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Looks for faults that no test notices.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int,
                        default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--jobs", type=int, default=1, help="how many edits at a time")
    parser.add_argument("--thorough", action="store_true", help="run the slow tests, too")
    parser.add_argument("--list", action="store_true", help="only list the edits")
    parser.add_argument("sources", nargs="*")
    args = parser.parse_args()
    edits = chosen(args.sources)
    if args.list:
        print(*(edit.key() for edit in edits), sep="\n")
        return 0
    print(f"seed {args.seed}, {len(edits)} edits", flush=True)
    random.Random(args.seed).shuffle(edits)
    try:
        search = Search(edits, args.minutes, args.thorough)
        return 1 if search.run(args.jobs) else 0
    finally:
        shutil.rmtree(COPY, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(runner.until_interrupted(main))
