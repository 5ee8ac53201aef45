#!/usr/bin/env python3
"""What a room costs: servers with -j on one Redis, all on this machine.

    python3 tests/load/room_bench.py [--seconds N]

Needs redis-server, and a chatsrv that has been built (make). Receivers only read; each
sender keeps a window of messages of 64 bytes in flight, and measures how long each takes
to come back. CPU time is the process's own, from the kernel. The curve goes to
build/room_bench.json, for notes/plots/draw.py.
"""
import argparse
import contextlib
import json
import os
import pathlib
import selectors
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Iterator, List, NamedTuple, Tuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import support
import test                             # tests/test.py, not Python's own

LENGTH = 64                             # bytes of a message
RESULTS = pathlib.Path(__file__).resolve().parents[2] / "build" / "room_bench.json"
CURVE = "messages through a room by servers"


class Figures(NamedTuple):
    messages: float                     # per second
    server: float                       # ns of CPU per delivery, or per message
    redis: float                        # us of CPU per message
    p50: float                          # ms
    p99: float
    batch: float                        # messages per entry


def cpu(pid: int) -> float:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(*words: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def receivers(port: int, count: int) -> subprocess.Popen:
    """A process whose clients read and forget."""
    script = ("import socket, selectors, sys\n"
              "s = selectors.DefaultSelector()\n"
              f"for _ in range({count}):\n"
              f"    c = socket.create_connection(('127.0.0.1', {port}))\n"
              "    c.setblocking(False); s.register(c, 1)\n"
              "print('ready', flush=True)\n"
              "b = bytearray(1 << 20)\n"
              "while True:\n"
              "    for k, _ in s.select():\n"
              "        k.fileobj.recv_into(b)\n")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def entries(port: int) -> int:
    """How many entries have been added to the stream; 0 without a room."""
    if not port:
        return 0
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"INFO commandstats\r\n")
        time.sleep(0.1)
        text = sock.recv(1 << 16).decode()
    return (int(text.split("cmdstat_xadd:calls=")[1].split(",")[0]) if "xadd" in text
            else 0)


def talk(socks: List[socket.socket], window: int,
         seconds: float) -> Tuple[int, List[float]]:
    """Each sender keeps its window full. Returns how many messages came back, and how
    long each took."""
    selector = selectors.DefaultSelector()
    state = {}
    for index, sock in enumerate(socks):
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
        state[sock] = [b"", {}, 0, b"s%03d-" % index]
    times: List[float] = []
    count = 0

    def say(sock: socket.socket, many: int) -> None:
        now = time.monotonic()
        _, sent, number, name = state[sock]
        lines = []
        for _ in range(many):
            number += 1
            line = (name + b"%09d" % number).ljust(LENGTH, b".")
            sent[line] = now
            lines.append(line)
        state[sock][2] = number
        sock.setblocking(True)
        sock.sendall(b"\n".join(lines) + b"\n")
        sock.setblocking(False)

    end = time.monotonic() + seconds
    for sock in socks:
        say(sock, window)
    while time.monotonic() < end:
        for key, _ in selector.select(1):
            sock = key.fileobj
            data = sock.recv(1 << 20)
            now = time.monotonic()
            *lines, state[sock][0] = (state[sock][0] + data).split(b"\n")
            own = 0
            for line in lines:
                said = state[sock][1].pop(line, None)
                if said is not None:
                    times.append(now - said)
                    own += 1
            count += own
            if own:
                say(sock, own)
    return count, times


def measure(servers: int, clients: int, window: int, room: bool,
            seconds: float) -> Figures:
    """One sender at each server; the receivers are spread over the servers."""
    chatsrv = shlex.split(test.COMMAND.replace("{options}", "").replace("{port}", ""))
    with contextlib.ExitStack() as stack:
        folder = tempfile.mkdtemp()
        stack.callback(shutil.rmtree, folder)
        redis, port = None, 0
        if room:
            port = test.free_port()
            redis = stack.enter_context(running(
                "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                "--dir", folder, "--loglevel", "warning"))
            support.connect(port).close()
        processes, socks = [], []
        for _ in range(servers):
            own = test.free_port()
            options = ["-n", "-q",
                       *(["-j", f"redis://127.0.0.1:{port}/bench"] if room else [])]
            processes.append(stack.enter_context(running(*chatsrv, *options, str(own))))
            support.connect(own).close()
            if clients:
                readers = receivers(own, clients // servers)
                stack.callback(readers.wait)
                stack.callback(readers.kill)
            socks.append(stack.enter_context(
                socket.create_connection(("127.0.0.1", own))))
            socks[-1].recv(100)
        talk(socks, window, 0.5)
        for sock in socks:              # what is still in flight
            sock.settimeout(0.5)
            with contextlib.suppress(socket.timeout):
                while sock.recv(1 << 20):
                    pass
        before = ([cpu(p.pid) for p in processes], cpu(redis.pid) if redis else 0,
                  entries(port))
        count, times = talk(socks, window, seconds)
        used = sum(cpu(p.pid) - was for p, was in zip(processes, before[0]))
        deliveries = count * (clients + servers) if clients else count
        times.sort()
        return Figures(count / seconds, used / deliveries * 1e9,
                       (cpu(redis.pid) - before[1]) / count * 1e6 if redis else 0,
                       statistics.median(times) * 1000,
                       times[int(len(times) * 0.99)] * 1000,
                       count / max(1, entries(port) - before[2]) if room else 0)


def row(what: str, servers: int, clients: int, window: int, room: bool,
        seconds: float) -> Figures:
    f = measure(servers, clients, window, room, seconds)
    redis = f"{f.redis:,.2f} | {f.batch:,.1f}" if room else "- | -"
    print(f"| {what} | {f.messages:,.0f} | {f.server:,.0f} | {redis} | {f.p50:.2f}"
          f" | {f.p99:.2f} |",
          flush=True)
    return f


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=4,
                        help="of each measurement (4)")
    args = parser.parse_args()
    if not shutil.which("redis-server"):
        print("redis-server is not installed")
        return 1
    print("| | messages/s | server, ns/delivery | Redis, us/message"
          " | messages/entry |"
          " p50, ms | p99, ms |\n|---|---:|---:|---:|---:|---:|---:|")
    for clients, window in ((1, 1), (100, 32), (1000, 200)):
        for room in (False, True):
            row(f"1 server, {clients} receivers, window {window},"
                f" {'a' if room else 'no'} room",
                1, clients, window, room, args.seconds)
    points = []
    for servers in (1, 2, 4, 8):
        figures = row(f"{servers} server{'s' * (servers > 1)}, 1 receiver each,"
                      " window 200, a room", servers, servers, 200, True, args.seconds)
        points.append([servers, figures.messages])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"curves": {CURVE: {"room": points}}}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
