#!/usr/bin/env python3
"""Tests the web pages that `make site` makes: as files, and in headless Chromium.

    python3 tests/system/site_test.py [CLASS[.TEST]]

Needs cmark-gfm, Pygments, Chromium with chromedriver, and tidy.
"""
import html.parser
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from typing import List, Set

import browser
from support import ROOT

SITE = tempfile.TemporaryDirectory()
FOLDER = pathlib.Path(SITE.name).resolve()
KINDS = ("index.html", "notes/4-welcome.html", "notes/speed.html",
         "notes/examples/README.html", "steps/1-accept.c.html", "steps/3-close.c.html",
         "final/chatsrv.c.html", "final/feed.c.html", "README.html",
         "README.ru.html")              # a page of each kind


def setUpModule() -> None:
    program = ROOT / "notes" / "site" / "site.py"
    subprocess.run([sys.executable, str(program), str(FOLDER)], check=True,
                   stdout=subprocess.DEVNULL)


def tearDownModule() -> None:
    SITE.cleanup()


def pages() -> List[pathlib.Path]:
    return sorted(FOLDER.rglob("*.html"))


class Page(html.parser.HTMLParser):
    """What a page names and where it leads."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.names: Set[str] = set()
        self.links: List[str] = []      # that a reader may follow
        self.loads: List[str] = []      # that the browser asks for by itself
        self.tags: Set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.names.add(given.get("id", ""))
        if tag == "a":
            self.links.append(given.get("href", ""))
        elif "href" in given or "src" in given:
            self.loads.append(given.get("href") or given.get("src"))


class Files(unittest.TestCase):
    def test_links(self):
        """Each link within the site leads to a page and a place in it."""
        parsed = {path: Page(path) for path in pages()}
        for path, page in parsed.items():
            for link in page.links + page.loads:
                if re.match(r"[a-z]+:", link):
                    continue
                name, _, anchor = link.partition("#")
                target = (path.parent / name).resolve() if name else path
                with self.subTest(page=path.relative_to(FOLDER), link=link):
                    self.assertTrue(target.is_file())
                    if anchor:
                        self.assertIn(anchor, parsed[target].names)

    def test_nothing_from_elsewhere(self):
        for path in pages():
            page = Page(path)
            with self.subTest(page=path.relative_to(FOLDER)):
                self.assertNotIn("script", page.tags)
                for load in page.loads:
                    self.assertRegex(load, r"^(data:,$|[^:]+$)")

    def test_every_file_is_there(self):
        """All chapters, all steps, all of final/, all examples."""
        for pattern in ("notes/*.md", "steps/*.c", "final/*.[ch]",
                        "notes/examples/*.[ch]"):
            for path in ROOT.glob(pattern):
                if path.is_symlink():
                    continue
                name = path.relative_to(ROOT)
                page = ("index.html" if str(name) == "notes/README.md" else
                        name.with_suffix(".html") if path.suffix == ".md" else
                        str(name) + ".html")
                with self.subTest(file=str(name)):
                    self.assertTrue((FOLDER / page).is_file())

    def test_steps_show_the_whole_program(self):
        """What a reader copies from the page is the program."""
        for source in (ROOT / "steps").glob("[1-6]-*.c"):
            text = (FOLDER / "steps" / (source.name + ".html")).read_text()
            rows = re.findall(r'<tr id="L\d+"><td .*?></td><td>(.*?)</td></tr>\n', text)
            plain = [html.unescape(re.sub(r"<.*?>", "", row)) for row in rows]
            self.assertEqual("\n".join(plain) + "\n", source.read_text())

    @unittest.skipUnless(shutil.which("tidy"), "tidy is not installed")
    def test_tidy(self):
        said = subprocess.run(["tidy", "-e", "-q", *map(str, pages())],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              universal_newlines=True)
        self.assertEqual((said.returncode, said.stdout), (0, ""))


@unittest.skipUnless(browser.INSTALLED, "chromium and chromedriver are not installed")
class InBrowser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = browser.Browser()
        cls.addClassCleanup(cls.browser.close)
        server = browser.served(FOLDER)
        cls.address = server.__enter__()
        cls.addClassCleanup(server.__exit__, None, None, None)

    def test_pages(self):
        """No request goes out, the console is empty, every picture is shown."""
        for name in KINDS:
            with self.subTest(page=name):
                self.browser.requests(), self.browser.console()
                self.browser.open(self.address + name)
                self.assertEqual(self.browser.console(), [])
                asked = self.browser.requests()
                self.assertIn(self.address + name, asked)
                self.assertEqual([url for url in asked
                                  if not url.startswith((self.address, "data:"))], [])
                self.assertEqual(self.browser.run(
                    "return [...document.images].filter(i => !i.naturalWidth)"
                    ".map(i => i.src)"), [])

    def test_no_sideways_scrolling(self):
        for width in 360, 1280:
            self.browser.resize(width)
            for name in KINDS:
                with self.subTest(page=name, width=width):
                    self.browser.open(self.address + name)
                    wide = self.browser.run("return document.documentElement.scrollWidth")
                    self.assertLessEqual(wide, width)

    def test_contrast(self):
        """Text is readable in both colour schemes: a contrast of at least 4.5 to 1."""
        self.browser.resize(1280)
        for scheme in "light", "dark":
            self.browser.media(scheme=scheme)
            for name in ("steps/3-close.c.html", "notes/4-welcome.html"):
                with self.subTest(page=name, scheme=scheme):
                    self.browser.open(self.address + name)
                    self.assertEqual(self.browser.run(LOW_CONTRAST), [])
        self.browser.media()

    def test_schemes_differ(self):
        backs = []
        for scheme in "light", "dark":
            self.browser.media(scheme=scheme)
            self.browser.open(self.address + KINDS[0])
            backs.append(self.browser.run(
                "return getComputedStyle(document.body).backgroundColor"))
        self.browser.media()
        self.assertNotEqual(*backs)

    SHOWN = ("return ['.sides', '.column']"
             ".map(s => !!document.querySelector(s).offsetWidth)")

    def test_choice_of_a_difference(self):
        """Side by side or in one column: with a click; on a phone without one."""
        self.browser.resize(1280)
        self.browser.open(self.address + "steps/3-close.c.html")
        self.assertEqual(self.browser.run(self.SHOWN), [True, False])
        self.browser.run("document.querySelector('label[for=column]').click()")
        self.assertEqual(self.browser.run(self.SHOWN), [False, True])
        self.browser.open(self.address + "steps/3-close.c.html")
        self.browser.resize(360)
        self.assertEqual(self.browser.run(self.SHOWN), [False, True])

    def test_print(self):
        self.browser.resize(1280)
        self.browser.media("print")
        self.browser.open(self.address + "steps/3-close.c.html")
        self.assertEqual(self.browser.run(self.SHOWN), [False, True])
        self.assertEqual(self.browser.run(
            "return getComputedStyle(document.querySelector('nav')).display"), "none")
        self.browser.media()

    def test_without_javascript(self):
        self.browser.command("Emulation.setScriptExecutionDisabled", value=True)
        try:
            self.browser.open(self.address + "steps/3-close.c.html")
        finally:
            self.browser.command("Emulation.setScriptExecutionDisabled", value=False)
        self.assertIn("Next", self.browser.run(
            "return document.querySelector('nav').innerText"))


# The texts of a page whose colour is too close to their background.
LOW_CONTRAST = """
const part = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => .2126 * part(c[0]) + .7152 * part(c[1]) + .0722 * part(c[2]);
const rgb = s => s.match(/[\\d.]+/g).map(Number);
const back = e => { for (; e; e = e.parentElement) {
  const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
const low = new Set();
for (const e of document.querySelectorAll('main *')) {
  const own = [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
  if (!own || !e.offsetWidth) continue;
  const a = light(rgb(getComputedStyle(e).color)), b = light(back(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) low.add(e.tagName + '.' + e.className + ' ' + ratio.toFixed(2));
}
return [...low];
"""


if __name__ == "__main__":
    unittest.main()
