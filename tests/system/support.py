"""What several tests share. Importing it lets a test import the grader, tests/test.py."""
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT / "tests"))     # before Python's own package `test`
