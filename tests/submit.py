#!/usr/bin/env python3
"""Copies final/ to a folder of yours, builds the copy there and runs every test on it.

    make submit P2=~/repo/p2            FORCE=1 overwrites files that differ

In the environment, SUBMIT_TESTS names the tests of test.py to run instead of all;
SUBMIT_CLIENT_TESTS those of chatcl_test.py, SUBMIT_CHATSRV_TESTS those of
chatsrv_test.py.
"""
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from typing import List

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAKE = os.environ.get("MAKE") or "make"


def copy(files: List[pathlib.Path], target: pathlib.Path) -> None:
    """Copies the files, or none of them if a different file would be lost."""
    lost = [file.name for file in files if (target / file.name).exists()
            and (target / file.name).read_bytes() != file.read_bytes()]
    if lost and not os.environ.get("FORCE"):
        sys.exit(f"nothing is copied: in {target} there are already, and differ: "
                 f"{' '.join(lost)}\nmake submit P2=... FORCE=1 overwrites them")
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(str(file), str(target))


def run(*command: str, **environment: str) -> None:
    """Runs a command; if it fails, so does this program."""
    print("+", *map(shlex.quote, command), flush=True)
    if subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode:
        sys.exit("not ready to be submitted: see above")


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("usage: make submit P2=DIR")
    target = pathlib.Path(sys.argv[1]).expanduser().resolve()
    files = sorted(file for file in (ROOT / "final").iterdir()
                   if file.name in ("Makefile", ".gitignore")
                   or file.suffix in (".c", ".h", ".1"))
    files.append(ROOT / "LICENSE")
    copy(files, target)
    run("sh", "-c", f'cd "$1" && {MAKE}', "sh", str(target))
    server, client = target / "chatsrv", target / "chatcl"
    command = f"{shlex.quote(str(server))} {{options}} {{port}}"
    run(sys.executable, "tests/test.py", *os.environ.get("SUBMIT_TESTS", "").split(),
        CHATSRV_TEST_SERVER=command)
    run(sys.executable, "tests/system/chatsrv_test.py",
        *os.environ.get("SUBMIT_CHATSRV_TESTS", "").split(), CHATSRV_TEST_SERVER=command)
    run(sys.executable, "tests/system/chatcl_test.py",
        *os.environ.get("SUBMIT_CLIENT_TESTS", "").split(),
        CHATCL=shlex.quote(str(client)))
    print(f"all tests passed; to commit in {target}:"
          f" {' '.join(file.name for file in files)}")


if __name__ == "__main__":
    main()
