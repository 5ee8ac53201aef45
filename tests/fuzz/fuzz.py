#!/usr/bin/env python3
"""Gives final/ input that nobody thought of: runs the libFuzzer targets *_fuzz.c.

    python3 tests/fuzz/fuzz.py [--seconds N] [--seed N] [NAME...]

By default it runs each target for 20 seconds, always with the same seed. Needs clang with
libFuzzer (on Debian: clang and libclang-rt-dev); CLANG in the environment names another
compiler. Inputs worth keeping stay in build/fuzz/NAME/, where the next run begins; delete
the folder to begin anew. An input that breaks something is in build/fuzz/NAME-*, and the
last line says how to run it again.
"""
import argparse
import os
import pathlib
import re
import shlex
import subprocess
import sys
from typing import List

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "fuzz"
CLANG = shlex.split(os.environ.get("CLANG") or "clang")
FLAGS = ["-std=c11", "-D_DEFAULT_SOURCE", "-O2", "-g",
         "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]

# The files of final/ that each target is linked with, and the longest input in bytes.
TARGETS = {
    "lines": (["lines"], 5000),
    "proxy": (["proxy"], 300),
    "resp": (["resp"], 2000),
    "edit": (["edit", "letter", "show", "utf8"], 500),
    "server": (["addresses", "arrivals", "entry", "feed", "lines", "listeners", "log",
                "net", "options", "origins", "process", "proxy", "rate", "redis", "resp",
                "room", "url", "utf8"], 300),
}


def build(name: str) -> pathlib.Path:
    modules, _ = TARGETS[name]
    target = BUILD / f"{name}_fuzz"
    corpus = BUILD / name
    corpus.mkdir(parents=True, exist_ok=True)
    subprocess.run([*CLANG, *FLAGS, str(HERE / f"{name}_fuzz.c"),
                    *(str(ROOT / "final" / f"{module}.c") for module in modules),
                    "-o", str(target)], check=True)
    return target


def fuzz(name: str, seconds: int, seed: int) -> bool:
    target = build(name)
    _, longest = TARGETS[name]
    run = subprocess.run(
        [str(target), f"-max_total_time={seconds}", f"-seed={seed}",
         f"-max_len={longest}",
         "-len_control=0", "-timeout=20", "-rss_limit_mb=1000", "-print_final_stats=1",
         f"-artifact_prefix={BUILD / name}-", str(BUILD / name),
         str(HERE / "seeds" / name)],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE)
    said = run.stderr.decode(errors="backslashreplace")
    if run.returncode == 0:
        inputs = re.search(r"number_of_executed_units: (\d+)", said)
        print(f"{name}: {inputs[1]} inputs in {seconds} s, seed {seed}", flush=True)
        return True
    print(said[-8000:])
    broken = re.search(r"Test unit written to (\S+)", said)
    print(f"{name}: run it again with: {target} {broken[1] if broken else ''}",
          flush=True)
    return False


def main(names: List[str], seconds: int, seed: int) -> int:
    passed = [fuzz(name, seconds, seed) for name in names]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Runs the fuzzing targets.")
    parser.add_argument("--seconds", type=int, default=20, help="for each (20)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("names", nargs="*", metavar="|".join(TARGETS))
    args = parser.parse_args()
    if not set(args.names) <= set(TARGETS):
        parser.error(f"there are {', '.join(TARGETS)}")
    sys.exit(main(args.names or list(TARGETS), args.seconds, args.seed))
