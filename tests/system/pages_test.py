#!/usr/bin/env python3
"""Tests the manual pages of final/ against the programs.

    python3 tests/system/pages_test.py CHATSRV CHATCL
"""
import pathlib
import re
import subprocess
import sys
import unittest
from typing import List

from support import ROOT

PROGRAMS = [pathlib.Path(sys.argv.pop(1)).resolve() for _ in sys.argv[1:3]]


def page_of(program: pathlib.Path) -> pathlib.Path:
    return ROOT / "final" / f"{program.name}.1"


def said_by(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True).stdout


def options_of_page(text: str) -> List[str]:
    return re.findall(r"^\.It Fl (\w)", text, re.M)


class Pages(unittest.TestCase):
    def test_lint(self):
        """mandoc complains of nothing, except that the other page is not installed."""
        said = said_by("mandoc", "-Tlint",
                       *(str(page_of(program)) for program in PROGRAMS))
        self.assertEqual([line for line in said.splitlines()
                          if "referenced manual not found" not in line
                          and "outdated mandoc.db" not in line], [])

    def test_options(self):
        """The page describes each option of -h, in order; its synopsis has them all."""
        for program in PROGRAMS:
            with self.subTest(program=program.name):
                text = page_of(program).read_text()
                named = re.findall(r"^  -(\w)\b", said_by(str(program), "-h"), re.M)
                described = options_of_page(text)
                self.assertEqual(sorted(described), sorted(named))
                self.assertEqual(described, sorted(described, key=str.lower))
                synopsis = text[text.index(".Sh SYNOPSIS"):text.index(".Sh DESCRIPTION")]
                bare = re.search(r"^\.Op Fl (\w+)$", synopsis, re.M)[1]
                self.assertEqual(sorted([*bare,
                                         *re.findall(r"^\.Op Fl (\w) ", synopsis, re.M)]),
                                 sorted(named))


if __name__ == "__main__":
    if len(PROGRAMS) != 2:
        sys.exit(__doc__)
    unittest.main()
