#!/usr/bin/env python3
"""spin tries room_protocol.pml in every order of events, or as many as time allows.

    python3 tests/system/room_protocol_test.py [SECONDS]

Needs spin and gcc. With the protocol's rules, nothing may go wrong. To show that the
model would notice, each of the rules in TEETH is then left out in turn, and something
has to go wrong.
"""
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from typing import List, Tuple

MODEL = pathlib.Path(__file__).resolve().with_name("room_protocol.pml")
TEETH = [["NO_CHECK", "NO_JUMPS"]]
SEARCH = ["-DSAFETY", "-DBITSTATE", "-DVECTORSZ=2048", "-DMEMLIM=1000"]


def run(folder: str, *words: str) -> str:
    return subprocess.run(words, cwd=folder, check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True).stdout


def search(without: List[str], seconds: float) -> Tuple[int, int, bool]:
    """How many errors were found, how many states seen, and whether those were all."""
    with tempfile.TemporaryDirectory() as folder:
        run(folder, "spin", "-a", *(f"-D{rule}" for rule in without), str(MODEL))
        run(folder, "gcc", "-w", "-O2", *SEARCH, "-o", "pan", "pan.c")
        with open(pathlib.Path(folder, "said"), "w+") as said:
            pan = subprocess.Popen(["./pan", "-m100000", "-n", "-w28"], cwd=folder,
                                   stdout=said)
            try:
                pan.wait(seconds)
            except subprocess.TimeoutExpired:
                pan.send_signal(signal.SIGINT)      # it then says how far it has come
                pan.wait()
            said.seek(0)
            text = said.read()
    errors = re.search(r"errors: (\d+)", text)
    states = re.search(r"([\d.e+]+) states, stored", text)
    if not errors or not states:
        sys.exit(f"spin says:\n{text}")
    return int(errors[1]), int(float(states[1])), "Search not completed" not in text


def main(seconds: float) -> int:
    errors, states, complete = search([], seconds)
    print(f"{errors} errors in {states} states"
          + ("" if complete else ", not all that there are"))
    passed = errors == 0
    for without in TEETH:
        errors, states, _ = search(without, seconds)
        print(f"{' '.join(without)}: {'found' if errors else 'NOT FOUND'}"
              f" in {states} states")
        passed = passed and errors > 0
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 20))
