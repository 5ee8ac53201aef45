"""What several tests share. Importing it lets a test import the grader, tests/test.py."""
import array
import fcntl
import pathlib
import socket
import struct
import sys
import termios
import time
from typing import Callable, List, Optional, Union

ROOT = pathlib.Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT / "tests"))     # before Python's own package `test`
import test                                 # tests/test.py


def unacknowledged(sock: socket.socket) -> int:
    """How many bytes sent the other side's kernel has not acknowledged yet (Linux)."""
    left = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, left)       # SIOCOUTQ: tcp(7)
    return left[0]


def free_ports(count: int) -> List[int]:
    """Ports that nobody uses, all different."""
    ports: List[int] = []
    while len(ports) < count:
        port = test.free_port()
        if port not in ports:
            ports.append(port)
    return ports


def has_ipv6() -> bool:
    """Whether this machine has ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


def connect(port: int, seconds: float = 20) -> socket.socket:
    """Connects to 127.0.0.1 as soon as somebody listens there."""
    end = time.monotonic() + seconds
    while True:
        try:
            sock = socket.create_connection(("127.0.0.1", port), seconds)
            sock.settimeout(None)
            return sock
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def reset_on_close(sock: socket.socket) -> None:
    """The close() of the socket will be a reset: RST in place of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def receive(sock: socket.socket, most: int = 1 << 18) -> Optional[bytes]:
    """What has come to a nonblocking socket: None if nothing has, b"" at its end or after
    an error."""
    try:
        return sock.recv(most)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def wait_for(condition: Callable[[], object], seconds: float = 20) -> object:
    """Waits until the condition is true, but no longer than that; returns its value."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result or time.monotonic() > end:
            return result
        time.sleep(0.005)


def wait_until(condition: Callable[[], object], what: Union[str, Callable[[], str]],
               seconds: float = 20) -> object:
    """Waits until the condition is true; returns its value. `what` is for the error."""
    result = wait_for(condition, seconds)
    if not result:
        raise AssertionError(f"waited {seconds:g} s in vain for "
                             f"{what() if callable(what) else what}")
    return result
