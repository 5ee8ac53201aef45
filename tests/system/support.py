"""What several tests share. Importing it lets a test import the grader, tests/test.py."""
import array
import fcntl
import pathlib
import socket
import sys
import termios
import time
from typing import Callable, List, Union

ROOT = pathlib.Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT / "tests"))     # before Python's own package `test`


def unacknowledged(sock: socket.socket) -> int:
    """How many bytes that were sent the other side's kernel has not confirmed (Linux)."""
    left = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, left)       # SIOCOUTQ: tcp(7)
    return left[0]


def free_ports(count: int = 1) -> List[int]:
    """Ports of 127.0.0.1 that nobody listened on just now, all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_until(condition: Callable[[], object], what: Union[str, Callable[[], str]],
               seconds: float = 20) -> object:
    """Returns what the condition yields once it is true. `what` is for the error."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s in vain for "
                                 f"{what() if callable(what) else what}")
        time.sleep(0.005)
