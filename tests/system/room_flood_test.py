#!/usr/bin/env python3
"""One flooder in a room of three servers, on a Redis that may take no more than 100 MB.

    python3 tests/system/room_flood_test.py [--server 'CMD {options} {port}']
                                            [--seconds N]

A client of the first server sends lines of 1,000 bytes as fast as the server takes them.
Redis has to stay within its memory, and each server within 64 MiB; a witness at each
server has to get every line, or be told that it has missed some. Needs redis-server.
"""
import argparse
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import support
import test                             # tests/test.py, not Python's own

MEMORY_MAX = 64 << 20                   # bytes, of a server


def memory(pid: int) -> int:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


class Witness(threading.Thread):
    """Counts the lines, which have to come in order and without a hole."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.sock = support.connect(port)
        self.lines, self.wrong, self.ended = 0, "", False
        self.start()

    def run(self) -> None:
        rest = b""
        while True:
            try:
                data = self.sock.recv(1 << 20)
            except OSError:
                data = b""
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line[:1] == b"W":
                    continue            # the greeting
                if int(line[:10]) != self.lines:
                    self.wrong = self.wrong or f"{line[:10]!r} after {self.lines} lines"
                self.lines += 1
        self.ended = True


def flood(sock: socket.socket, seconds: float) -> int:
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        sock.sendall(b"".join(b"%010d%s\n" % (n, b"x" * 990)
                              for n in range(number, number + 200)))
        number += 200
    return number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", default=test.COMMAND)
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    folder = tempfile.mkdtemp()
    port = test.free_port()
    processes = [subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
         "--dir", folder, "--maxmemory", "100mb", "--maxmemory-policy", "noeviction",
         "--loglevel", "warning"],
        stdout=subprocess.DEVNULL)]
    try:
        support.connect(port).close()
        ports = support.free_ports(3)
        for own in ports:
            processes.append(subprocess.Popen(
                test.command_line(args.server, f"-n -q -j redis://127.0.0.1:{port}/flood",
                                  own),
                stdout=subprocess.DEVNULL))
        witnesses = [Witness(own) for own in ports]
        flooder = Witness(ports[0])
        said = flood(flooder.sock, args.seconds)
        end = time.monotonic() + 60
        while time.monotonic() < end and any(witness.lines < said and not witness.ended
                                             for witness in [*witnesses, flooder]):
            time.sleep(0.05)
        most = [memory(process.pid) for process in processes]
        print(f"{said} lines in {args.seconds:g} s;"
              f" heard: {[w.lines for w in witnesses]};"
              f" memory in MiB: Redis {most[0] >> 20},"
              f" servers {[m >> 20 for m in most[1:]]}")
        failures = [w.wrong for w in witnesses if w.wrong]
        failures += [f"a witness heard {w.lines}" for w in witnesses
                     if w.lines != said and not w.ended]
        failures += [f"a server took {m >> 20} MiB" for m in most[1:] if m > MEMORY_MAX]
        failures += [f"Redis took {most[0] >> 20} MiB"] * (most[0] > 140 << 20)
        failures += ["a program has ended"] * any(p.poll() is not None for p in processes)
        print(*failures, sep="\n", end="\n" if failures else "")
        return 1 if failures else 0
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
