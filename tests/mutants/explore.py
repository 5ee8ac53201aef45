#!/usr/bin/env python3
"""Looks for faults that no test notices: makes small edits at random and runs the tests
on each.

    python3 tests/mutants/explore.py [--minutes 10] [--seed N] [--thorough]
                                     [SOURCE[:FUNCTION]...]
    python3 tests/mutants/explore.py --list [SOURCE[:FUNCTION]...]

An edit negates a condition, drops a call or an operand, moves a limit by one or by a
factor of a thousand, swaps a comparison, and so on. It is made in a copy of the
repository; tests run on the copy, the quickest first, until one of them fails. An edit
that changes nothing in the compiled program is left out. An edit that all tests pass is a
survivor, and is printed.

A survivor deserves a test; if the fault is an instructive one, also a file in this
folder, so that `make mutants` keeps watch. What no test can notice is explained in
survivors.txt, beside this program, and is left out from then on. An entry there is

    SOURCE:FUNCTION: EDIT
        why no test notices it

where EDIT is what this program prints; "*" in it stands for anything.
"""
import argparse
import fnmatch
import os
import pathlib
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import mutants
import runner
from runner import ROOT, Job

COPY = ROOT / "build" / f"explore-{os.getpid()}"
SURVIVORS = pathlib.Path(__file__).with_name("survivors.txt")
SOURCES = ["final/feed.c", "final/lines.c", "final/utf8.c", "final/net.c",
           "final/options.c", "final/log.c", "final/proxy.c", "final/listeners.c",
           "final/process.c", "final/rate.c", "final/addresses.c", "final/chatsrv.c",
           "steps/6-broadcast.c"]
PURE = ["feed", "lines", "utf8", "proxy", "resp", "rate"]     # they make no system calls
TIMES = 4           # a test may take that many times as long as without a fault, and
GRACE = 10          # so many seconds more; then something hangs, which counts as noticed


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
        if token.kind == "number":
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
    """The patterns of survivors.txt, with an exact meaning for all but "*"."""
    lines = SURVIVORS.read_text().splitlines() if SURVIVORS.exists() else []
    return [re.sub(r"([\[?])", r"[\1]", line) for line in lines
            if line and line[0] not in " #"]


# ---- Tests -----------------------------------------------------------------------------

def tests_for(source: str, thorough: bool) -> List[Job]:
    """What runs on each edit, the quickest first."""
    name = pathlib.Path(source).stem
    jobs = {job.name: job for job in runner.check_jobs()}

    def pick(*names: str, tests: str = "") -> List[Job]:
        return [jobs[name]._replace(tests=tests or jobs[name].tests)
                for name in names if name in jobs]

    if source.startswith("steps/"):
        quick = [*pick("step 6 native", tests="-f Test6 TestRules"),
                 *pick("model step 6 asan"),
                 *pick("steps native", tests="-f Senders Resources")]
        return [*quick, *pick("step 6 asan-kqueue", "faults")] if thorough else quick
    quick = [*(pick(f"{name} asan") if name != "chatsrv" else []),
             *pick("final native", tests="-f Test6 TestRules.test_limit"),
             *pick("model asan"),
             *pick("promises native", tests="-f"),
             *pick("chatsrv native", tests="-f")]
    if name in PURE or not thorough:
        return quick
    return [*quick, *pick("room script native"), *pick("final native", tests="-f"),
            *pick("chatsrv asan-kqueue", "soak native", "floods native", "floods asan",
                  "faults")]


class Judge:
    """Builds a copy with an edit in it, and runs the tests there."""

    def __init__(self, sources: List[str], thorough: bool) -> None:
        for folder in ("final", "steps", "tests"):
            shutil.copytree(str(ROOT / folder), str(COPY / folder), symlinks=True)
        self.texts = {source: (COPY / source).read_text() for source in sources}
        self.tests = {source: tests_for(source, thorough) for source in sources}
        self.seconds: Dict[Job, float] = {}
        self.objects = {source: self.compiled(source) for source in sources}

    def compiled(self, source: str) -> Optional[bytes]:
        """The source's machine code; None if it cannot be compiled."""
        compiler, _ = runner.flags("native")
        command = shlex.split(compiler) + ["-g0", "-I../final", "-c", "-o", "../object.o",
                                           f"../{source}"]
        done = subprocess.run(command, cwd=COPY / "tests", stderr=subprocess.DEVNULL)
        return (COPY / "object.o").read_bytes() if done.returncode == 0 else None

    @staticmethod
    def build(job: Job) -> bool:
        return mutants.build_for([job], COPY).passed

    def prepare(self) -> List[str]:
        """Runs all tests on the sources as they are; returns what failed."""
        failed = []
        for job in dict.fromkeys(job for jobs in self.tests.values() for job in jobs):
            self.build(job)
            result = runner.run_job(job, COPY)
            self.seconds[job] = result.seconds
            print(f"without an edit: {job.name} {job.tests}: {result.seconds:.1f} s"
                  f"{'' if result.passed else ', FAILS'}", flush=True)
            if not result.passed:
                failed.append(f"{job.name} {job.tests}\n{result.output[-3000:]}")
        return failed

    def noticed_by(self, edit: Edit) -> str:
        """The name of the test that fails; "" if none does."""
        path = COPY / edit.source
        text = self.texts[edit.source]
        path.write_text(text[:edit.start] + edit.text + text[edit.end:])
        try:
            code = self.compiled(edit.source)
            if code is None:
                return "the compiler"
            if code == self.objects[edit.source]:
                return "nobody, for the program is the same"
            built: Set[str] = set()
            for job in self.tests[edit.source]:
                if job.command not in built and not self.build(job):
                    return f"{job.name}, which cannot be built"
                built.add(job.command)
                limit = int(TIMES * self.seconds[job] + GRACE)
                if not runner.run_job(job._replace(limit=limit), COPY).passed:
                    return f"{job.name} {job.tests}".strip()
            return ""
        finally:
            path.write_text(text)


# ---- The search ------------------------------------------------------------------------

def chosen(wanted: List[str]) -> List[Edit]:
    """All edits that the arguments name and nobody has explained."""
    names = [name.partition(":") for name in wanted or SOURCES]
    known = explained()
    return [edit for source, _, function in names if (ROOT / source).exists()
            for edit in edits_of(source)
            if function in ("", edit.function)
            and not any(fnmatch.fnmatchcase(edit.key(), pattern) for pattern in known)]


def explore(edits: List[Edit], minutes: float, thorough: bool) -> List[Edit]:
    judge = Judge(sorted({edit.source for edit in edits}), thorough)
    failed = judge.prepare()
    if failed:
        sys.exit("these tests fail without any edit:\n" + "\n".join(failed))
    end = time.monotonic() + 60 * minutes
    survivors = []
    noticed = 0
    for edit in edits:
        if time.monotonic() > end:
            break
        started = time.monotonic()
        by = judge.noticed_by(edit)
        if not by:
            survivors.append(edit)
        elif not by.startswith(("nobody", "the compiler")):
            noticed += 1
        if not by.startswith(("nobody", "the compiler")):
            print(f"{'ok  ' if by else 'SURVIVES'} {edit.key()} (line {edit.line}; "
                  f"{by}; {time.monotonic() - started:.1f} s)", flush=True)
    print(f"{noticed} noticed, {len(survivors)} not")
    return survivors


def main() -> int:
    parser = argparse.ArgumentParser(description="Looks for faults that no test notices.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int,
                        default=random.SystemRandom().randrange(1 << 32))
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
        return 1 if explore(edits, args.minutes, args.thorough) else 0
    finally:
        shutil.rmtree(COPY, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(runner.until_interrupted(main))
