#!/usr/bin/env python3
"""Tests what a learner does: make start, make mine, make compare, and typing in what the
chapters say.

    python3 tests/system/mine_test.py [--make bmake] [CLASS[.TEST]]

All of it happens in a copy of the repository, on a path with spaces.
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from typing import Dict, Iterator, List, NamedTuple, Tuple

import support

sys.path.insert(0, str(support.ROOT / "notes"))

import embed        # noqa: E402  (notes/embed.py, which cuts a program into blocks)

ROOT = support.ROOT
MAKE = "make"
LINUX = sys.platform.startswith("linux")
STRICT = "-std=c11 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -D_DEFAULT_SOURCE"


class MineCase(unittest.TestCase):
    """A fresh copy for one learner."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name).resolve() / "a path with spaces"
        shutil.copytree(str(ROOT), str(self.root), symlinks=True,
                        ignore=shutil.ignore_patterns(
                            ".git", "build", "mine", "__pycache__"))
        self.mine = self.root / "mine"
        # A test spends its time waiting, so two programs can be tested at a time.
        self.pool = concurrent.futures.ThreadPoolExecutor(2)
        self.addCleanup(self.pool.shutdown)

    def make(self, *goals: str, status: int = 0, answer: str = "") -> str:
        """Runs make; returns what it said."""
        environment = {name: value for name, value in os.environ.items()
                       if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        result = subprocess.run([MAKE, *goals], cwd=str(self.root), env=environment,
                                input=answer, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, universal_newlines=True)
        (self.assertNotEqual if status else self.assertEqual)(
            result.returncode, 0, result.stdout)
        return result.stdout

    def ours(self, number: int) -> pathlib.Path:
        return next((self.root / "steps").glob(f"{number}-*.c"))

    def write(self, number: int, text: str) -> pathlib.Path:
        self.mine.mkdir(exist_ok=True)
        file = self.mine / self.ours(number).name
        file.write_text(text)
        return file


class Start(MineCase):
    """make start N"""

    def test_skeleton(self):
        """step 1 begins with a skeleton that compiles without a word"""
        said = self.make("start", "1")
        self.assertIn("notes/1-accept.md", said)
        self.assertIn("make mine 1", said)
        self.assertIn("Test1.test_connections", said)
        file = self.mine / "1-accept.c"
        self.assertGreaterEqual(file.read_text().count("TODO"), 4)
        for folder in (self.mine, self.root):       # evloop.h is found from anywhere
            result = subprocess.run(f"cc {STRICT} -Werror -o /dev/null '{file}'",
                                    shell=True, cwd=str(folder), stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, universal_newlines=True)
            self.assertEqual((result.returncode, result.stdout), (0, ""))

    def test_never_overwritten(self):
        file = self.write(3, "precious")
        self.assertIn("mine/3-close.c is there already", self.make("start", "3"))
        self.assertEqual(file.read_text(), "precious")

    def test_begins_with_the_last_step(self):
        """one's own if there is one, else ours"""
        self.make("start", "N=5")
        self.assertEqual((self.mine / "5-echo.c").read_text(), self.ours(4).read_text())
        self.write(5, "mine")
        self.assertIn("has not passed", self.make("start", "6"))
        self.assertEqual((self.mine / "6-broadcast.c").read_text(), "mine")

    def test_wrong_use(self):
        for goals in (["start"], ["start", "7"], ["mine"], ["compare"], ["mine", "0"]):
            with self.subTest(goals=goals):
                said = self.make(*goals, status=2)
                if goals[-1] not in ("0",):
                    self.assertIn(f"make {goals[0]} N: N is a number from 1 to 6", said)


class Mine(MineCase):
    """make mine N, make compare N"""

    def test_not_begun(self):
        self.assertIn("make start 2", self.make("mine", "2", status=1))
        self.assertIn("make start 2", self.make("compare", "2", status=1))

    def test_builds_that_file(self):
        """and no other, whatever is in steps/ and build/"""
        self.write(2, self.ours(1).read_text())
        self.make("step", "2")
        said = self.make("mine", "2", status=1)
        self.assertRegex(said, r"Test1 +ok +1 of 1")
        self.assertRegex(said, r"Test2 +FAIL")
        self.assertIn("Test2.test_messages", said)
        self.assertIn("the assignment:", said)
        self.write(2, self.ours(2).read_text())
        self.ours(2).write_text("#error not this one\n")
        self.assertIn("Step 2 is done.", self.make("mine", "2"))

    def test_does_not_compile(self):
        self.write(1, "int main(void) { return zero; }\n")
        said = self.make("mine", "1", status=1)
        self.assertRegex(said, r"compiles +FAIL")
        self.assertIn("zero", said)
        self.assertNotIn("Test1", said)

    def test_warnings(self):
        self.write(1, self.ours(1).read_text() + "static int unused;\n")
        self.assertRegex(self.make("mine", "1"), r"compiles +ok +with warnings")

    def test_compare(self):
        """shows ours once one's own has passed; until then it asks"""
        self.write(1, self.ours(1).read_text().replace("listening on", "I listen on"))
        for answer in ("", "n\n", "\n"):
            said = self.make("compare", "1", status=1, answer=answer)
            self.assertNotIn("listen on", said)
        self.assertIn("-    printf(\"I listen on",
                      self.make("compare", "1", answer="y\n"))
        self.make("mine", "1")
        self.assertIn("+    printf(\"listening on", self.make("compare", "1"))
        self.write(1, self.ours(1).read_text())         # changed since: not passed
        self.assertIn("has not passed", self.make("compare", "1", status=1))
        self.make("mine", "1")
        self.assertIn("is the same as", self.make("compare", "1"))


# ---- The chapters, typed in ------------------------------------------------------------

class Piece(NamedTuple):
    line: int           # in the chapter
    place: str          # "In", "New, below" ... or "It compiles"
    title: str
    lines: List[str]


COMPILES = "*It compiles.*"
PLACE = re.compile(r"\*(In place of the skeleton's|The skeleton has|In|New, below)"
                   r" (?:the )?(.+):\*$")


def pieces(chapter: str) -> Iterator[Piece]:
    """What a reader is told to type, in order."""
    lines = chapter.split("\n")
    for number, line in enumerate(lines):
        place = PLACE.match(line)
        if line.strip() == COMPILES:
            yield Piece(number + 1, "It compiles", "", [])
        elif place and lines[number + 2] in ("```c", "```diff"):
            end = lines.index("```", number)
            yield Piece(number + 1, place[1], place[2], lines[number + 3:end])


def program_with(program: str, piece: Piece) -> str:
    """The program after the piece has been typed in at its place."""
    blocks = embed.blocks(program)
    titles = [embed.block_title(block.name, block.lines) for block in blocks]
    if piece.title not in titles:
        raise LookupError(f"{piece.line}: the program has no {piece.title} yet")
    at = titles.index(piece.title)
    if piece.place == "New, below":
        blocks.insert(at + 1, embed.Block("", piece.lines))
    elif piece.place == "In":
        blocks[at] = embed.Block("", block_with(blocks[at].lines, piece))
    else:
        blocks[at] = embed.Block("", piece.lines)
    return "\n\n".join("\n".join(block.lines) for block in blocks) + "\n"


def block_with(block: List[str], piece: Piece) -> List[str]:
    """The program after a difference; the old lines of each part must be there once."""
    for part in re.split(r"^@@ .* @@\n", "\n".join(piece.lines) + "\n",
                         flags=re.MULTILINE):
        old, new = ([line[1:] for line in part.splitlines() if line[:1] != sign]
                    for sign in "+-")
        if not part:
            continue
        found = [at for at in range(len(block)) if block[at:at + len(old)] == old]
        if len(found) != 1:
            raise LookupError(
                f"{piece.line}: these lines are there {len(found)} times: {old}")
        block = block[:found[0]] + new + block[found[0] + len(old):]
    return block


class Student(MineCase):
    """Types in what the chapters say, in their order."""

    def test_types_everything(self):
        """a step is tested while the next one is typed"""
        tested = {}
        for number in range(1, 7):
            with self.subTest(step=number):
                self.make("start", str(number))
                file = self.mine / self.ours(number).name
                chapter = (self.root / "notes" / f"{file.stem}.md").read_text()
                self.type(file, chapter)
                self.assertEqual(file.read_text(), self.ours(number).read_text())
                tested[number] = self.pool.submit(self.make, "mine", str(number))
        for number, said in tested.items():
            with self.subTest(step=number):
                self.assertIn(f"Step {number} is done.", said.result())

    def type(self, file: pathlib.Path, chapter: str) -> None:
        typed = compiled = 0
        for piece in pieces(chapter):
            if piece.place == "It compiles":
                self.compile(file, piece)
                compiled += 1
            else:
                file.write_text(program_with(file.read_text(), piece))
                typed += 1
        self.assertGreater(typed, 3)
        self.assertGreater(compiled, 1, "where does the chapter say that it compiles?")

    def compile(self, file: pathlib.Path, piece: Piece) -> None:
        """The only warnings allowed are about what is not used yet."""
        result = subprocess.run(
            f"cc {STRICT} -Werror -Wno-unused-function -Wno-unused-const-variable"
            f" -fsyntax-only '{file}'", shell=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, universal_newlines=True)
        self.assertEqual(result.returncode, 0,
                         f"{file.stem}.md:{piece.line} says that it compiles:\n"
                         f"{result.stdout}")


# ---- Typical mistakes ------------------------------------------------------------------

class Mistake(NamedTuple):
    step: int
    edits: List[Tuple[str, str]]
    verdict: List[str]      # what it has to say


READ_IS_MESSAGE = """\
static void on_bytes(struct client *client, const char *bytes, size_t len)
{
    on_message(client, bytes, bytes[len - 1] == '\\n' ? len - 1 : len);
}
"""

MISTAKES: Dict[str, Mistake] = {
    "one read is taken for one message": Mistake(
        2, [(r"(?s)static void on_bytes.*?\n}\n", READ_IS_MESSAGE)],
        ["Test2", "what one recv() brings is not a message"]),
    "the end is not noticed": Mistake(
        3, [(r"(?s)    else\n        client_close\(client, n == 0.*?;\n", "")],
        ["Test3", "recv() returns 0"]),
    "a short send is forgotten": Mistake(
        4, [(r"client->out_len -= \(size_t\)n;", "client->out_len = 0;")],
        ["Test4", "takes a part of the bytes", "keep what is left"]),
    "write interest is never taken back": Mistake(
        4, [(r"(?s)    if \(client->out_len == 0\)\n        client_watch.*?;\n", "")],
        ["CPU"]),
    "the newline is forgotten": Mistake(
        5, [(r'    client_send\(client, "\\n", 1\);\n', "")],
        ["Test5", "newline"]),
    "EAGAIN is taken for the end": Mistake(
        4, [(r"n < 0 && \(errno == EAGAIN \|\| errno == EINTR\)", "n < 0 && 0")],
        ["EAGAIN"]),
    "a client's socket blocks, which does no harm yet": Mistake(
        2, [(r"fcntl\(fd, F_SETFL, O_NONBLOCK\) < 0 \|\|", "0 ||")],
        ["O_NONBLOCK"]),
    "a client's socket blocks": Mistake(
        6, [(r"fcntl\(fd, F_SETFL, O_NONBLOCK\) < 0 \|\|", "0 ||")],
        ["O_NONBLOCK"]),
    "a handler frees what its caller uses": Mistake(
        6, [(r'client_fail\(client, "send"\);', 'client_close(client, "send");')],
        ["AddressSanitizer", "free", "client_close(), 6-broadcast.c:"]),
    "a NUL ends the message": Mistake(
        6, [(r"client_send\(to, text, len\);",
             "client_send(to, text, strnlen(text, len));")],
        ["NUL", "strlen()"]),
    "SIGPIPE is not ignored": Mistake(
        6, [(r"    signal\(SIGPIPE, SIG_IGN\);.*\n", "")],
        ["SIGPIPE"]),
}


@unittest.skipUnless(LINUX, "a part of the checks needs Linux")
class Mistakes(MineCase):
    """Everybody's mistakes get a verdict that says what to do."""

    def test_verdicts(self):
        said = {name: self.pool.submit(self.said_about, mistake)
                for name, mistake in MISTAKES.items()}
        for name, mistake in MISTAKES.items():
            with self.subTest(mistake=name):
                text = said[name].result()
                verdict = text[text.index("FAIL: "):] if "FAIL: " in text else text
                for words in mistake.verdict:
                    self.assertIn(words.replace(" ", ""),
                                  re.sub(r"\s+", "", verdict), text)

    def said_about(self, mistake: Mistake) -> str:
        """In a copy of the copy, since two mistakes may be about the same step."""
        with tempfile.TemporaryDirectory() as folder:
            learner = Mistakes("test_verdicts")
            learner.root = pathlib.Path(folder).resolve() / "a path with spaces"
            learner.mine = learner.root / "mine"
            shutil.copytree(str(self.root), str(learner.root), symlinks=True)
            text = learner.ours(mistake.step).read_text()
            for old, new in mistake.edits:
                text, count = re.subn(old, lambda _: new, text)
                self.assertEqual(count, 1, f"{old!r} is in the step {count} times")
            learner.write(mistake.step, text)
            return learner.make("mine", str(mistake.step), status=1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        MAKE = sys.argv[2]
        del sys.argv[1:3]
    unittest.main()
