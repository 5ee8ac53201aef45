#!/usr/bin/env python3
"""Shows that `make test` needs no more than the README says. It runs it in a copy of the
repository, where PATH holds only cc, as, ld, make, Python and the commands of Debian's
essential packages, no other environment variable is set, and the home directory does not
exist. As on NetBSD, nothing there is called python3.

    python3 tests/system/bare_test.py [NAME...]     only the jobs with these names
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ("cc", "as", "ld", "make")
PYTHON = "python{}.{}".format(*sys.version_info)
COMMAND = re.compile(r"(?:/usr)?/s?bin/[^/]+")


def query(*arguments: str) -> str:
    return subprocess.run(["dpkg-query", *arguments], stdout=subprocess.PIPE,
                          universal_newlines=True, check=True).stdout


def essential_commands() -> set:
    packages = [line.split()[0]
                for line in query("-W", "-f", "${Package} ${Essential}\\n").splitlines()
                if line.endswith(" yes")]
    return {path for path in query("-L", *packages).splitlines()
            if COMMAND.fullmatch(path)}


def fill(folder: pathlib.Path) -> None:
    """Puts a link to each command into the folder."""
    links = {PYTHON: sys.executable}
    links.update((path.rsplit("/", 1)[1], path) for path in essential_commands())
    links["sh"] = shutil.which("sh")
    for tool in TOOLS:
        links[tool] = shutil.which(tool)
    for absent in ("ps", "git", "ip", "nc", "python3"):
        if absent in links:
            sys.exit(f"{absent} ought not to be there")
    for name, path in links.items():
        (folder / name).symlink_to(path)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        temporary = pathlib.Path(name).resolve()
        temporary.chmod(0o755)          # a test becomes another user
        commands = temporary / "bin"
        commands.mkdir()
        fill(commands)
        copy = temporary / "copy"
        shutil.copytree(str(ROOT), str(copy), symlinks=True,
                        ignore=shutil.ignore_patterns(".git", "build", "mine",
                                                      "__pycache__"))
        return subprocess.run(["make", "test", f"PYTHON={PYTHON}",
                               "ONLY=" + " ".join(sys.argv[1:])],
                              cwd=copy, env={"PATH": str(commands),
                                             "HOME": "/nonexistent"}).returncode


if __name__ == "__main__":
    sys.exit(main())
