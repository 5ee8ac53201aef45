#!/usr/bin/env python3
"""Makes web pages of the notes, the steps and their differences: build/site.

    make site       (python3 notes/site/site.py [FOLDER])

Needs cmark-gfm and Pygments (Debian: cmark-gfm, python3-pygments). The pages need no
server, no JavaScript and nothing from elsewhere: open build/site/index.html.

Every Markdown page of notes/ becomes a page, and so does every file that one of them
links to; a step's page shows what the step changes, side by side and in one column, and
the whole program.
"""
import difflib
import html
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

try:
    import pygments.lexers
    import pygments.token as token
    import pygments.util
except ImportError:
    if sys.executable != "/usr/bin/python3" and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["python3", *sys.argv])  # the system's own
    sys.exit("make site needs Pygments (Debian: python3-pygments)")
if not shutil.which("cmark-gfm"):
    sys.exit("make site needs cmark-gfm (Debian: cmark-gfm)")

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONTEXT = 6                     # unchanged lines shown before and after a change
EXTERNAL = re.compile(r"[a-z]+:")
PICTURES = {".svg", ".png"}


Around = Tuple[Optional[pathlib.Path], Optional[pathlib.Path]]     # previous and next


class Step(NamedTuple):
    number: int
    source: pathlib.Path
    chapter: pathlib.Path


def steps() -> List[Step]:
    """The six steps, and the final server as the seventh."""
    found = [(int(path.name[0]), path)
             for path in sorted((ROOT / "steps").glob("[1-9]-*.c"))]
    found.append((len(found) + 1, ROOT / "final" / "chatsrv.c"))
    return [Step(number, path, next((ROOT / "notes").glob(f"{number}-*.md")))
            for number, path in found]


# ---- Where a page lies ---------------------------------------------------------------

def page_of(path: pathlib.Path) -> pathlib.PurePath:
    """The page of a file of the repository, seen from the site's folder."""
    inside = path.relative_to(ROOT)
    if path.suffix in PICTURES:
        return inside
    if inside == pathlib.Path("notes/README.md"):
        return pathlib.PurePath("index.html")
    if path.is_dir():
        return inside / "index.html"
    if inside.name == "README.md":
        return inside.with_name("README.html")
    if path.suffix == ".md":
        return inside.with_suffix(".html")
    return inside.with_name(inside.name + ".html")


def relative(target: pathlib.PurePath, page: pathlib.PurePath) -> str:
    return os.path.relpath(str(target), str(page.parent)).replace(os.sep, "/")


# ---- Colours -------------------------------------------------------------------------

CLASSES = [(token.Comment.Preproc, "p"), (token.Comment.PreprocFile, "s"),
           (token.Comment, "c"), (token.Keyword, "k"), (token.String, "s"),
           (token.Number, "m"), (token.Name.Function, "f")]


def lexer_of(name: str):
    try:
        return pygments.lexers.get_lexer_for_filename(name, stripnl=False, ensurenl=False)
    except pygments.util.ClassNotFound:
        return pygments.lexers.TextLexer(stripnl=False, ensurenl=False)


def coloured(text: str, lexer) -> List[str]:
    """The lines of a program as HTML; each stands alone: it may go into a table."""
    made = []
    for kind, value in lexer.get_tokens(text):
        name = next((name for some, name in CLASSES if kind in some), "")
        made.append("\n".join(
            f'<span class="{name}">{part}</span>' if name and part.strip() else part
            for part in html.escape(value, quote=False).split("\n")))
    return "".join(made).split("\n")[:text.count("\n")]


def coloured_block(language: str, escaped: str) -> str:
    """A block of a page of Markdown."""
    text = html.unescape(escaped)
    if language == "console":
        shown = r'<span class="prompt">\1</span><span class="typed">\2</span>'
        return re.sub(r"^((?:\(\w+\) )?[$#] )(.+)$", shown,
                      html.escape(text, quote=False), flags=re.M)
    try:
        lexer = pygments.lexers.get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except pygments.util.ClassNotFound:
        return escaped
    return "\n".join(coloured(text, lexer)) + "\n"


# ---- Pages ---------------------------------------------------------------------------

class Site:
    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.waiting: List[pathlib.Path] = []       # files that need a page
        self.seen: Dict[pathlib.Path, bool] = {}

    def want(self, path: pathlib.Path) -> pathlib.PurePath:
        """Sees to it that the file has a page, and says where."""
        if path not in self.seen:
            self.seen[path] = True
            self.waiting.append(path)
        return page_of(path)

    def make(self) -> int:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        shutil.copy(str(HERE / "site.css"), str(self.folder))
        for path in [ROOT / "README.md", *sorted((ROOT / "notes").rglob("*.md")),
                     *sorted((ROOT / "final").glob("*.[ch]")),
                     *(step.source for step in steps())]:
            self.want(path)
        while self.waiting:
            self.write(self.waiting.pop())
        return len(self.seen)

    def write(self, path: pathlib.Path) -> None:
        step = next((step for step in steps() if step.source == path), None)
        if path.suffix in PICTURES:
            target = self.folder / page_of(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(path), str(target))
        elif path.is_dir():
            self.write_page(path, path.name + "/", self.listing(path))
        elif path.suffix == ".md":
            self.write_markdown(path)
        elif step:
            self.write_step(step)
        else:
            self.write_page(path, str(path.relative_to(ROOT)), whole(path), wide=True)

    def write_page(self, path: pathlib.Path, title: str, body: str, wide: bool = False,
                   around: Around = (None, None)) -> None:
        page = page_of(path)
        contents = self.want(ROOT / "notes" / "README.md")
        links = [f'<a href="{relative(contents, page)}">Contents</a>']
        for other, word in zip(around, ("Previous", "Next")):
            if other:
                links.append(f'<a class="{word.lower()}" '
                             f'href="{relative(self.want(other), page)}">{word}: '
                             f"{html.escape(name_of(other))}</a>")
        target = self.folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        kind = "wide" if wide else "prose"
        target.write_text(f"""<!DOCTYPE html>
<html lang="{'ru' if '.ru.' in path.name else 'en'}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)} - chatsrv</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{relative(pathlib.PurePath('site.css'), page)}">
</head>
<body>
<nav class="{kind}">{' '.join(links)}</nav>
<main class="{kind}">
{body}
</main>
<footer>{html.escape(str(path.relative_to(ROOT)))}</footer>
</body>
</html>
""")

    # ---- Markdown ---------------------------------------------------------------------

    def write_markdown(self, path: pathlib.Path) -> None:
        made = subprocess.run(["cmark-gfm", "--unsafe", "-e", "table", "-e", "autolink",
                               "-e", "strikethrough", str(path)], check=True,
                              stdout=subprocess.PIPE, universal_newlines=True).stdout
        made = re.sub(r"<!--.*?-->\n?", "", made, flags=re.S)
        made = re.sub(r'<pre lang="([\w-]+)"><code>(.*?)</code></pre>',
                      lambda m: f"<pre><code>{coloured_block(m[1], m[2])}</code></pre>",
                      made, flags=re.S)
        made = re.sub(r"<pre>", '<pre tabindex="0">', made)
        made = re.sub(r' align="(\w+)"', r' class="\1"', made)
        made = made.replace("<table>", '<div class="scroll"><table>')
        made = made.replace("</table>", "</table></div>")
        made = with_anchors(made)
        made = re.sub(r'(href|src)="([^"]*)"',
                      lambda m: f'{m[1]}="{self.linked(path, m[2])}"', made)
        title = re.search(r"<h1[^>]*>(.*?)</h1>", made, re.S)
        text = re.sub(r"<.*?>", "", title[1]) if title else path.stem
        self.write_page(path, html.unescape(text), made, around=neighbours(path))

    def linked(self, path: pathlib.Path, link: str) -> str:
        """Where a page's link leads to within the site."""
        if EXTERNAL.match(link) or link.startswith("#"):
            return link
        name, mark, anchor = html.unescape(link).partition("#")
        target = pathlib.Path(os.path.normpath(str(path.parent / name)))
        if not target.exists() or ROOT not in (target, *target.parents):
            sys.exit(f"{path.relative_to(ROOT)}: there is no {link}")
        return html.escape(relative(self.want(target), page_of(path)) + mark + anchor)

    def listing(self, folder: pathlib.Path) -> str:
        names = sorted(path for path in folder.iterdir()
                       if path.name[0] not in "._" and path.name != "mine")
        items = "".join(
            f'<li><a href="{relative(self.want(path), page_of(folder))}">'
            f"{html.escape(path.name)}{'/' if path.is_dir() else ''}</a></li>\n"
            for path in names)
        return f"<h1>{html.escape(folder.name)}/</h1>\n<ul>\n{items}</ul>"

    # ---- Steps ------------------------------------------------------------------------

    def write_step(self, step: Step) -> None:
        every = steps()
        place = every.index(step)
        before = every[place - 1] if place else None
        after = every[place + 1] if place + 1 < len(every) else None
        body = f"<h1>{html.escape(title_of(step))}</h1>\n"
        chapter = relative(self.want(step.chapter), page_of(step.source))
        body += f'<p><a href="{chapter}">The chapter</a></p>\n'
        if before:
            body += f"<h2>What it changes in {html.escape(before.source.name)}</h2>\n"
            body += difference(before.source, step.source)
            body += "<h2>The whole program</h2>\n"
        body += program(step.source)
        self.write_page(step.source, title_of(step), body, wide=True,
                        around=(before.source if before else None,
                                after.source if after else None))


def name_of(path: pathlib.Path) -> str:
    if path.suffix != ".md":
        return path.name
    return path.read_text().split("\n", 1)[0].lstrip("# ")


def title_of(step: Step) -> str:
    if step.source.parent.name == "final":
        return "7: final/chatsrv.c"
    return f"Step {step.source.stem.replace('-', ': ')}"


def neighbours(path: pathlib.Path) -> Around:
    """The chapters before and after, in the order of the contents."""
    contents = ROOT / "notes" / "README.md"
    names = re.findall(r"^\| .*?\]\(([\w/.-]+\.md)\)", contents.read_text(), re.M)
    order = [contents.parent / name for name in names]
    if path not in order:
        return None, None
    at = order.index(path)
    return order[at - 1] if at else None, order[at + 1] if at + 1 < len(order) else None


def with_anchors(text: str) -> str:
    """Gives each heading the name that GitHub gives it."""
    used: Dict[str, int] = {}

    def named(match) -> str:
        plain = html.unescape(re.sub(r"<.*?>", "", match[2])).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        used[name] = used.get(name, -1) + 1
        name += f"-{used[name]}" if used[name] else ""
        return f'<h{match[1]} id="{name}">{match[2]}</h{match[1]}>'

    return re.sub(r"<h([1-6])>(.*?)</h\1>", named, text, flags=re.S)


# ---- Programs ------------------------------------------------------------------------

def cell(number: int, shown: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f'<td class="n" data-n="{number}"></td><td{mark}>{shown}</td>'


EMPTY = '<td class="n"></td><td></td>'


def lines_of(path: pathlib.Path) -> List[str]:
    return coloured(path.read_text(errors="backslashreplace"), lexer_of(path.name))


def program(path: pathlib.Path) -> str:
    rows = "".join(f'<tr id="L{number}">{cell(number, line)}</tr>\n'
                   for number, line in enumerate(lines_of(path), 1))
    return (f'<div class="scroll" tabindex="0"><table class="code">\n{rows}'
            "</table></div>\n")


def whole(path: pathlib.Path) -> str:
    return f"<h1>{html.escape(str(path.relative_to(ROOT)))}</h1>\n{program(path)}"


class Change(NamedTuple):
    kind: str           # equal, replace, insert, delete; or skip
    old: range
    new: range


def changes(old: pathlib.Path, new: pathlib.Path) -> Iterator[Change]:
    matcher = difflib.SequenceMatcher(None, old.read_text().splitlines(),
                                      new.read_text().splitlines(), autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        yield Change(kind, range(a, b), range(c, d))


def difference(old: pathlib.Path, new: pathlib.Path) -> str:
    """Both ways to look at it, and the buttons that choose."""
    lines = lines_of(old), lines_of(new)
    every = list(changes(old, new))
    sides, column = "".join(side_rows(every, *lines)), "".join(column_rows(every, *lines))
    return f"""<div>
<input class="choice" type="radio" name="view" id="sides" checked>
<input class="choice" type="radio" name="view" id="column">
<p class="choices"><label for="sides">side by side</label>
<label for="column">one column</label></p>
<div class="sides-box"><table class="code sides">
<colgroup><col style="width:2.9rem"><col><col style="width:2.9rem"><col></colgroup>
{sides}</table></div>
<div class="scroll column" tabindex="0"><table class="code">
{column}</table></div>
</div>
"""


def shown_parts(change: Change, first: bool, last: bool) -> Iterator[Change]:
    """Of lines that are equal, those next to a change; the others are to be skipped."""
    count = len(change.old)
    head, tail = 0 if first else CONTEXT, 0 if last else CONTEXT
    if count <= head + tail + 3:
        yield change
        return
    yield Change("equal", change.old[:head], change.new[:head])
    yield Change("skip", change.old[head:count - tail], change.new[head:count - tail])
    yield Change("equal", change.old[count - tail:], change.new[count - tail:])


def parts(every: List[Change]) -> Iterator[Change]:
    for place, change in enumerate(every):
        if change.kind == "equal":
            yield from shown_parts(change, place == 0, place == len(every) - 1)
        else:
            yield change


def skipped(count: int, columns: int) -> str:
    return f'<tr class="skip"><td colspan="{columns}">{count} unchanged lines</td></tr>\n'


def side_rows(every: List[Change], old: List[str], new: List[str]) -> Iterator[str]:
    for kind, before, after in parts(every):
        if kind == "skip":
            yield skipped(len(before), 4)
            continue
        for i in range(max(len(before), len(after))):
            left = EMPTY if i >= len(before) else cell(
                before[i] + 1, old[before[i]], "" if kind == "equal" else "del")
            right = EMPTY if i >= len(after) else cell(
                after[i] + 1, new[after[i]], "" if kind == "equal" else "add")
            yield f"<tr>{left}{right}</tr>\n"


def column_rows(every: List[Change], old: List[str], new: List[str]) -> Iterator[str]:
    for kind, before, after in parts(every):
        if kind == "skip":
            yield skipped(len(before), 2)
        elif kind == "equal":
            yield from (f"<tr>{cell(i + 1, ' ' + new[i])}</tr>\n" for i in after)
        else:
            yield from (f"<tr>{cell(i + 1, '-' + old[i], 'del')}</tr>\n" for i in before)
            yield from (f"<tr>{cell(i + 1, '+' + new[i], 'add')}</tr>\n" for i in after)


def main() -> None:
    folder = pathlib.Path(*sys.argv[1:2] or [ROOT / "build" / "site"]).resolve()
    count = Site(folder).make()
    print(f"{count} pages: {folder / 'index.html'}")


if __name__ == "__main__":
    main()
