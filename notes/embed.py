#!/usr/bin/env python3
"""Puts code into the chapters of notes/, and checks the chapters against the code.

    python3 notes/embed.py [write]  fills in the code; says which files changed
    python3 notes/embed.py check    changes no file; says what is wrong, and exits with 1

A chapter embeds code by a pair of comments. What stands between them is generated:

    <!-- diff 3 on_readable -->                 what step 3 changes in a block, and where
    <!-- code final/evloop.h evloop_mod 2 -->   a whole block; 2: the second so named
    <!-- tests 3 -->                            what the tests of stage 3 look at
    <!-- lines 3 -->                            how many lines step 3 adds
    <!-- rule LIMIT -->                         which tests check that sentence
    <!-- systems en -->                         what testing.md's table of systems says
    <!-- end -->

A block is a piece of a C file between two blank lines that are not inside braces: a
function with the comment above it, a struct, a group of constants. It is named after what
it defines first; the file's first block is `header`, #include lines are `includes`. Names
stay where line numbers do not, so a chapter's text stays beside its code.

Step 1 is held against notes/skeleton.c, with which a learner begins. Typed in the order
in which they stand, the pieces of a chapter lead from one step to the next:
tests/system/mine_test.py does that.

Checked: all embedded code is up to date; each block that a step changes is in that step's
chapter, once; relative links lead to a file and a heading that exist; `make VERB` is in
the Makefile; each `function()` that the text names is somewhere in the code, or the
chapter names its manual page, as in accept(2).
"""
import difflib
import doctest
import pathlib
import re
import sys
import textwrap
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import mine                             # noqa: E402  (it knows the checks of each stage)

MARKER = re.compile(r"<!-- (diff|code|tests|lines|rule|systems) (\S+)"
                    r"(?: (\w+))?(?: (\d+))? -->$")
END = "<!-- end -->"
LEVELS = ("run", "compiled", "written for")
SYSTEMS = {     # the conjunction, and a sentence for each of them
    "en": ("and", "It has been run on {}.", "It has been compiled, but not run, for {}.",
           "It is written for {} as well, but nobody has tried it there yet."),
    "ru": ("и", "Проверено в работе на {}.",
           "Для {} собрано, но не запускалось.",
           "Рассчитано и на {}, но там пока не проверено."),
}


# ---- Blocks of C -----------------------------------------------------------------------

class Block(NamedTuple):
    name: str
    lines: List[str]


def block_name(lines: List[str]) -> str:
    """What a block defines first.

    >>> block_name(["/* Ends it. */",
    ...             "static void client_close(struct client *client)", "{"])
    'client_close'
    >>> block_name(["struct client {", "    int fd;", "};"])
    'client'
    >>> block_name(["static struct {", "    int loop;", "} server;"])
    'server'
    >>> block_name(["enum { PORT = 3100 };", "enum { READ_MAX = 4096 };"])
    'PORT'
    >>> block_name(['static const char GREETING[] = "Welcome";'])
    'GREETING'
    >>> block_name(["#include <errno.h>"])
    'includes'
    """
    code = re.sub(r"^/\*.*?\*/\n", "", "\n".join(lines), flags=re.DOTALL)
    if code.startswith("#include"):
        return "includes"
    for pattern in (r"(?:static )?(?:struct|union|enum) (\w+) \{",      # with a tag
                    r"(?:static )?(?:struct|union) \{.*\n\} (\w+)",     # of one variable
                    r"enum \{\s*(\w+)"):
        named = re.match(pattern, code, flags=re.DOTALL)
        if named:
            return named.group(1)
    named = re.search(r"(\w+)\s*[(\[;=]", code)
    return named.group(1) if named else "comment"


def blocks(source: str) -> List[Block]:
    """Cuts a file at the blank lines that nothing indented follows.

    >>> [block.name for block in blocks("/* All. */\\n\\nint f(int a)\\n{\\n    a++;\\n"
    ...                                 "\\n    return a;\\n}\\n\\nint b;\\n")]
    ['header', 'f', 'b']
    """
    pieces = [piece.splitlines()
              for piece in re.split(r"\n\n(?=[^\s}])", source.rstrip())]
    return [Block("header", pieces[0])] + [Block(block_name(p), p) for p in pieces[1:]]


def blocks_by_name(all_blocks: List[Block]) -> Dict[str, List[str]]:
    """Their lines; blocks of one name count as one."""
    lines: Dict[str, List[str]] = {}
    for block in all_blocks:
        lines.setdefault(block.name, []).extend(block.lines)
    return lines


def block_find(all_blocks: List[Block], name: str, number: int) -> Block:
    found = [block for block in all_blocks if block.name == name]
    if number == 0 and len(found) > 1:
        raise LookupError(f"{name} is there {len(found)} times;"
                          " say which, 1 for the first")
    if not found or number > len(found):
        raise LookupError(f"there is no {name}" + (f" {number}" if number else ""))
    return found[max(number, 1) - 1]


def block_diff(old: List[str], new: List[str], name: str) -> List[str]:
    """The changes with three lines around; says where they are if that is not to be seen.

    >>> block_diff(["void f()", "1", "2", "3"], ["void f()", "1", "2", "4"], "f")
    [' void f()', ' 1', ' 2', '-3', '+4']
    >>> block_diff(list("abcdef"), list("abcdeg"), "f")
    ['@@ f @@', ' c', ' d', ' e', '-f', '+g']
    >>> block_diff([], ["int a;", ""], "a")
    ['+int a;', '+']
    """
    lines = []
    for line in list(difflib.unified_diff(old, new, n=3, lineterm=""))[2:]:
        if line.startswith("@@"):
            if not re.match(r"@@ -[01](,\d+)? ", line):
                lines.append(f"@@ {name} @@")
        else:
            lines.append(line.rstrip())
    return lines


TITLES = {"header": "comment at the top", "includes": "`#include` lines",
          "PORT": "constants"}


def block_title(name: str, lines: List[str]) -> str:
    """How the text calls a block.

    >>> block_title("client_open",
    ...             ["/* Makes f(). */", "static void client_open(int fd)"])
    '`client_open()`'
    >>> (block_title("client", ["struct client {"]),
    ...  block_title("server", ["static struct {"]))
    ('`struct client`', '`server`')
    """
    code = re.sub(r"^/\*.*?\*/\n", "", "\n".join(lines), flags=re.DOTALL)
    if name in TITLES:
        return TITLES[name]
    if re.search(rf"\b{name}\(", code):
        return f"`{name}()`"
    return f"`struct {name}`" if code.startswith("struct") else f"`{name}`"


# ---- The repository --------------------------------------------------------------------

class Repository:
    """What the chapters are about."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.steps = [root / "notes" / "skeleton.c",
                      *sorted(root.glob("steps/[1-6]-*.c"))]
        self.cache: Dict[pathlib.Path, List[Block]] = {}

    def chapters(self) -> List[pathlib.Path]:
        return [*sorted(self.root.glob("README*.md")),
                *sorted(self.root.glob("notes/**/*.md"))]

    def blocks(self, path: pathlib.Path) -> List[Block]:
        if path not in self.cache:
            self.cache[path] = blocks(path.read_text(encoding="utf-8"))
        return self.cache[path]

    def changes(self, step: int) -> Dict[str, List[str]]:
        """The diff of each block that the step changes, by the block's name."""
        old, new = (blocks_by_name(self.blocks(path))
                    for path in self.steps[step - 1:step + 1])
        return {name: block_diff(old.get(name, []), new.get(name, []), name)
                for name in [*new, *(old.keys() - new.keys())]
                if old.get(name) != new.get(name)}

    def piece(self, step: int, name: str) -> List[str]:
        """What a step does to a block: where, and what."""
        old = blocks_by_name(self.blocks(self.steps[step - 1]))
        new = blocks_by_name(self.blocks(self.steps[step]))
        if name not in new:
            raise LookupError(f"step {step} has no {name}")
        title = block_title(name, new[name])
        the = "the " if name in TITLES else ""
        whole = ["```c", *new[name], "```"]
        if name not in old:
            above = list(new)[list(new).index(name) - 1]
            return [f"*New, below {block_title(above, new[above])}:*", "", *whole]
        if step == 1:
            place = ("The skeleton has" if old[name] == new[name] else
                     "In place of the skeleton's")
            return [f"*{place} {the if old[name] == new[name] else ''}{title}:*", "",
                    *whole]
        if old[name] == new[name]:
            raise LookupError(f"step {step} does not change {name}")
        return [f"*In {the}{title}:*", "",
                "```diff", *block_diff(old[name], new[name], name), "```"]

    def checks(self, stage: int) -> List[str]:
        """What the tests of a stage look at, as tests/test.py says."""
        return [f"- `{check.name}`: {check.says}" for check in mine.checks()
                if check.stage == stage]

    def rule(self, name: str) -> List[str]:
        """Which tests check a sentence of the assignment, as tests/test.py names it."""
        tests = [f"`{check.name}`" for check in mine.checks() if check.rule == name]
        if not tests:
            raise LookupError(f"no test has the rule {name}")
        return ["Checked by " + ", ".join(tests) + "."]

    def lines(self, step: int) -> List[str]:
        """How much a step adds."""
        old, new = (path.read_text(encoding="utf-8").splitlines()
                    for path in self.steps[step - 1:step + 1])
        diff = list(difflib.unified_diff(old, new, n=0))[2:]
        added, gone = (sum(line[0] == sign for line in diff) for sign in "+-")
        return [f"*To write: {added} lines. To take out: {gone}.*"]

    def systems(self, language: str) -> List[str]:
        """A sentence on where the programs have been run, in the words of the table."""
        if language not in SYSTEMS:
            raise LookupError("the languages are " + " and ".join(SYSTEMS))
        text = (self.root / "notes" / "testing.md").read_text(encoding="utf-8")
        table = text[text.index("| system |"):].split("\n\n")[0].splitlines()[2:]
        rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
        parts = []
        for level, sentence in zip(LEVELS, SYSTEMS[language][1:]):
            names = [row[0] for row in rows if row[1] == level]
            *others, last = names or [""]
            conjunction = f" {SYSTEMS[language][0]} " if others else ""
            if names:
                parts.append(sentence.format(", ".join(others) + conjunction + last))
        if {row[1] for row in rows} - set(LEVELS):
            raise LookupError("a system's level is run, compiled or written for")
        return textwrap.wrap(" ".join(parts), 96)

    def embedded(self, kind: str, which: str, name: str, number: str) -> List[str]:
        """What belongs after a marker."""
        if kind == "rule":
            return self.rule(which)
        if kind == "systems":
            return self.systems(which)
        if kind != "code" and which not in list("123456"):
            raise LookupError("the steps are 1 to 6")
        if kind == "tests":
            return self.checks(int(which))
        if kind == "lines":
            return self.lines(int(which))
        if kind == "code":
            path = self.root / which
            if not path.is_file():
                raise LookupError(f"there is no {which}")
            return ["```c", *block_find(self.blocks(path), name, int(number or 0)).lines,
                    "```"]
        return self.piece(int(which), name)

    def to_be_shown(self, step: int) -> Set[Tuple[str, str, str]]:
        """The markers that this step's chapter must have."""
        names = self.changes(step)
        if step == 1:       # of a program that one has not written one wants to see all
            names = blocks_by_name(self.blocks(self.steps[1]))
        return {("diff", str(step), name) for name in names}

    def functions(self) -> Set[str]:
        """Whatever is called or defined anywhere."""
        names: Set[str] = set()
        for folder in ("steps", "final", "tests", "notes/examples"):
            for path in (self.root / folder).glob("**/*.[chp]*"):
                if path.suffix in (".c", ".h", ".py"):
                    names.update(re.findall(r"(\w+)\(", path.read_text(encoding="utf-8")))
        return names

    def verbs(self) -> Set[str]:
        makefile = (self.root / "Makefile").read_text(encoding="utf-8")
        return {verb
                for targets in re.findall(r"^([\w/ ]+):(?!=)", makefile, re.MULTILINE)
                for verb in targets.split()}


# ---- Chapters --------------------------------------------------------------------------

class Line(NamedTuple):
    number: int
    text: str
    fenced: bool    # in a block of code, or its first or last line


def chapter_lines(text: str) -> Iterator[Line]:
    """
    >>> [line.fenced for line in chapter_lines("a\\n```\\nb\\n```\\nc")]
    [False, True, True, True, False]
    """
    fenced = False
    for number, line in enumerate(text.split("\n"), 1):
        fence = line.startswith("```")
        yield Line(number, line, fenced or fence)
        fenced ^= fence


def chapter_fill(text: str, repository: Repository) -> Tuple[str, List[str]]:
    """The text with the right code in it, and what is wrong with its markers."""
    result: List[str] = []
    wrong: List[str] = []
    inside = None       # the number of the line with the marker whose end is awaited
    fenced = False
    for number, line in enumerate(text.split("\n"), 1):
        marker = None if fenced else MARKER.match(line)
        if inside and marker:
            break
        if inside and line != END:
            continue
        result.append(line)
        if marker:
            inside = number
            try:
                result += repository.embedded(*marker.groups())
            except LookupError as error:
                wrong.append(f"{number}: {line}: {error.args[0]}")
        elif line == END and not fenced:
            if not inside:
                wrong.append(f"{number}: {END} without a beginning")
            inside = None
        elif line.startswith("```"):
            fenced = not fenced
    if inside:
        return text, [f"{inside}: the marker has no {END}"]
    return "\n".join(result), wrong


def headings(text: str) -> Set[str]:
    """The anchors of a chapter's headings, as GitHub makes them.

    >>> sorted(headings("# The `a_b()` call\\n## Why?\\n## Why?\\n```\\n# no\\n```"))
    ['the-a_b-call', 'why', 'why-1']
    """
    anchors: List[str] = []
    for line in chapter_lines(text):
        heading = None if line.fenced else re.match(r"#{1,6} (.*)", line.text)
        if heading:
            words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading.group(1)).strip().lower()
            slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            again = sum(re.fullmatch(re.escape(slug) + r"(-\d+)?", a) is not None
                        for a in anchors)
            anchors.append(f"{slug}-{again}" if again else slug)
    return {*anchors, *re.findall(r'<a (?:id|name)="(.*?)"', text)}


def check_links(path: pathlib.Path, text: str) -> Iterator[str]:
    for line in chapter_lines(text):
        if line.fenced:
            continue
        plain = re.sub(r"`[^`]*`", "", line.text)
        for link in re.findall(r'\]\(<?([^)\s>]+)>?[^)]*\)|(?:src|href)="([^"]+)"',
                               plain):
            target, _, anchor = "".join(link).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = path.parent / target if target else path
            if not file.exists():
                yield f"{line.number}: {target} does not exist"
            elif anchor and anchor not in headings(file.read_text(encoding="utf-8")):
                yield f"{line.number}: {target or 'this file'} has no heading #{anchor}"


def check_words(text: str, functions: Set[str], verbs: Set[str]) -> Iterator[str]:
    """
    >>> list(check_words("`f()` and `g()`, see g(2)\\n`make x`\\n```\\n$ make y\\n```",
    ...                  set(), {"x"}))
    ['1: no code has a function f()', '4: the Makefile has no y']
    """
    pages = set(re.findall(r"(\w+)\([1-9]\)", text))
    for line in chapter_lines(text):
        if not line.fenced:
            for name in re.findall(r"`(\w+)\(\)`", line.text):
                if name not in functions and name not in pages:
                    yield f"{line.number}: no code has a function {name}()"
        command = r"^\$ make +(.*)" if line.fenced else r"`make +([^`]*)`"
        for words in re.findall(command, line.text):
            verb = re.match(r"(?:[A-Z]\w*=\S* +)*([A-Za-z]\w*)(?![\w=])", words)
            if verb and verb.group(1) not in verbs:
                yield f"{line.number}: the Makefile has no {verb.group(1)}"


def check_complete(text: str, step: int, repository: Repository) -> Iterator[str]:
    """Is every change of the step in its chapter?"""
    shown = [MARKER.match(line.text) for line in chapter_lines(text) if not line.fenced]
    markers = [marker.groups()[:3] for marker in shown if marker]
    for wanted in sorted(repository.to_be_shown(step)):
        if markers.count(wanted) != 1:
            yield (f"1: <!-- {' '.join(wanted)} --> is here"
                   f" {markers.count(wanted)} times, not once")


def check_chapter(path: pathlib.Path, repository: Repository, functions: Set[str],
                  verbs: Set[str]) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    filled, wrong = chapter_fill(text, repository)
    yield from wrong
    if filled != text and not wrong:
        old, new = text.split("\n"), filled.split("\n")
        first = next(i for i, line in enumerate([*old, None], 1)
                     if i > len(new) or line != new[i - 1])
        yield f"{first}: the code is not up to date: make notes"
    yield from check_links(path, text)
    yield from check_words(text, functions, verbs)
    if path.parent.name == "notes" and re.match("[1-6]-", path.name):
        yield from check_complete(text, int(path.name[0]), repository)


# ---- The two verbs ---------------------------------------------------------------------

def write(repository: Repository) -> int:
    status = 0
    for path in repository.chapters():
        text = path.read_text(encoding="utf-8")
        filled, wrong = chapter_fill(text, repository)
        for fault in wrong:
            print(f"{path.relative_to(repository.root)}:{fault}")
            status = 1
        if filled != text and not wrong:
            path.write_text(filled, encoding="utf-8")
            print(f"wrote {path.relative_to(repository.root)}")
    return status


def check(repository: Repository) -> int:
    functions, verbs = repository.functions(), repository.verbs()
    faults = [f"{path.relative_to(repository.root)}:{fault}"
              for path in repository.chapters()
              for fault in check_chapter(path, repository, functions, verbs)]
    chapters = {path.name[0] for path in repository.root.glob("notes/[1-6]-*.md")}
    faults += [f"notes/: there is no chapter {step}"
               for step in "123456" if step not in chapters]
    for fault in faults:
        print(fault)
    return 1 if faults or doctest.testmod().failed else 0


def main() -> int:
    verbs = {"write": write, "check": check}
    verb = sys.argv[1] if len(sys.argv) > 1 else "write"
    if verb not in verbs or len(sys.argv) > 2:
        print("usage: embed.py [write | check]", file=sys.stderr)
        return 2
    return verbs[verb](Repository(ROOT))


if __name__ == "__main__":
    sys.exit(main())
