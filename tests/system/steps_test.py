#!/usr/bin/env python3
"""Tests the steps: each does what it says and no more, and differs little from the last.

    STEPS=DIR python3 tests/system/steps_test.py [CLASS[.TEST]]

STEPS is the folder with the six programs, named as their sources: 1-accept and so on.
`make test` builds them and runs this for both backends.
"""
import difflib
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from typing import List, Tuple

import support
import test                             # tests/test.py, not Python's own
from test import ACCEPTED, DEADLINE, LINUX, TERMINATED, Server, processes

SOURCES = sorted((support.ROOT / "steps").glob("[1-6]-*.c"))
STEPS = pathlib.Path(os.environ.get("STEPS", "build/check/native/steps"))
VISITS = 10000
BACKLOG = 100                           # visitors at a time: musl's SOMAXCONN is 128
GROWTH_MAX = 128 << 10                  # bytes of memory, so not even 16 a visit
LITTLE_MEMORY = 16 << 20
LINE = b"%1000d\n" % 0


def program(number: int) -> str:
    return str(STEPS / SOURCES[number - 1].stem)


def run_tests(number: int, names: List[str], deadline: int) -> Tuple[int, str]:
    """Runs tests of test.py on a step; waits at most deadline seconds for any one thing.

    Returns the exit status and the output. On ^C, run() would kill test.py before it has
    ended its servers.
    """
    with subprocess.Popen(
            [sys.executable, test.__file__, "--server", program(number) + " {port}",
             *names],
            env={**os.environ, "CHATSRV_TEST_DEADLINE": str(deadline)},
            universal_newlines=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        said = process.communicate()[0]
    return process.returncode, said


class Stages(unittest.TestCase):
    """Step N has reached stage N, and no further."""

    def test_reached(self):
        for number in range(1, 7):
            with self.subTest(step=number):
                names = [f"Test{stage}" for stage in range(1, number + 1)]
                status, said = run_tests(number, names, deadline=10)
                self.assertEqual(status, 0, said)

    def test_not_reached(self):
        for number in range(1, 6):
            with self.subTest(step=number):
                status, said = run_tests(number, [f"Test{number + 1}", "-f"], deadline=1)
                self.assertEqual(status, 1, said)
                self.assertIn(f"Stage {number + 1}: ", said)    # a verdict, no error


class Sources(unittest.TestCase):
    """What a reader sees."""

    def test_differences(self):
        for old, new in zip(SOURCES, SOURCES[1:]):
            with self.subTest(step=new.name):
                diff = list(difflib.unified_diff(old.read_text().splitlines(),
                                                 new.read_text().splitlines(), n=3))[2:]
                hunks, added, removed = (sum(line[0] == mark for line in diff)
                                         for mark in "@+-")
                self.assertLessEqual(added + removed, 110 if new.name[0] == "2" else 45)
                self.assertLessEqual(hunks, 6)
                self.assertGreaterEqual(added / (added + removed), 0.8)

    def test_headers(self):
        for source in SOURCES:
            with self.subTest(step=source.name):
                number, name = source.stem.split("-")
                header = source.read_text().split("*/")[0]
                self.assertRegex(header, rf"^/\*\n \* Step {number}: {name}\. ")
                self.assertRegex(header, r"\n \* (Not yet|Left to final/): ")
                self.assertRegex(header, r"\n \* Systems: Linux \(epoll\), macOS and BSD")


class Usage(unittest.TestCase):
    """A step takes a port, and nothing else."""

    def test_wrong(self):
        for number in range(1, 7):
            for words in ([""], ["x"], ["1x"], ["-1"], ["65536"],
                          ["99999999999999999999"], ["0", "0"]):
                with self.subTest(step=number, words=words):
                    ended = subprocess.run([program(number), *words], timeout=DEADLINE,
                                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                    name = os.fsencode(os.path.basename(program(number)))
                    self.assertEqual((ended.returncode, ended.stdout, ended.stderr),
                                     (2, b"", name + b": usage: chatsrv [port]\n"))

    def test_any_port(self):
        """For port 0 it takes a free one, and names it."""
        for number in range(1, 7):
            with self.subTest(step=number), \
                    subprocess.Popen([program(number), "0"],
                                     stdout=subprocess.PIPE) as process:
                try:
                    named = re.match(rb"listening on port (\d+)\n",
                                     process.stdout.readline())
                    self.assertTrue(named)
                    socket.create_connection(("127.0.0.1", int(named[1]))).close()
                finally:
                    process.terminate()


class Senders(unittest.TestCase):
    """What the kernel has acknowledged is read, however the sender leaves."""

    def test_said_and_closed(self):
        """A client's messages and its end come in one wake-up: all are answered first."""
        for number in range(4, 7):
            with self.subTest(step=number), Server(program(number) + " {port}") as server:
                peer = server.connect()
                peer.line()
                with server.paused():
                    late = server.connect()
                    for sender in (peer, late):
                        sender.send(b"one\ntwo\n")
                        sender.half_close()
                self.assertRegex(late.expect_closed(), rb"\AWelcome")
                self.assertIn(b"one\ntwo\n" if number > 4 else b"", peer.expect_closed())

    def test_said_and_reset(self):
        """Sending to the client fails, while much of what it said has not been read."""
        for number in range(4, 7):
            with self.subTest(step=number), Server(program(number) + " {port}") as server:
                peer = server.connect()
                peer.line()
                with server.paused():
                    peer.send(b"".join(b"said %d.\n" % line for line in range(4000)))
                    wait_until_acknowledged(peer.sock)
                    peer.reset()
                server.expect_log(TERMINATED)
                said = [line.partition(b": said ")[2] for line in server.log.lines
                        if b": said " in line]
                self.assertEqual(len(said), 4000)
                self.assertEqual([text for line, text in enumerate(said)
                                  if text != b"%d." % line][:3], [])
                server.process.terminate()
                server.stderr.reader.join(DEADLINE)     # now all of it is here
                warnings = server.stderr.count(b": send: ")
                self.assertLessEqual(warnings, 1)
                if LINUX and number > 4:    # the others learn of the reset by reading
                    self.assertEqual(warnings, 1)

    def test_while_much_waits(self):
        """Who speaks while there is no room for what it is to get gets it later."""
        lines = [b"%6d" % line + b"x" * 993 + b"\n" for line in range(10000)]
        for number in (5, 6):
            with self.subTest(step=number), Server(program(number) + " {port}") as server:
                peer = server.connect(receive_buffer=4096)
                peer.line()
                for start in range(0, len(lines), 100):
                    peer.send(b"".join(lines[start:start + 100]))
                server.expect_log(b"message from", len(lines))
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                for line in lines:
                    self.assertEqual(peer.line() + b"\n", line)

    def test_reason(self):
        """The log tells an end in order from a reset."""
        for number in range(3, 7):
            with self.subTest(step=number), Server(program(number) + " {port}") as server:
                one, two = server.connect(), server.connect()
                for peer in (one, two) if number > 3 else ():
                    peer.line()
                server.expect_log(ACCEPTED, 2)
                one.half_close()
                server.expect_log(b"(end of file)")
                two.reset()
                server.expect_log(b"(Connection reset by peer)")

    def test_control_bytes(self):
        """They are in the log, but cannot forge a line of it."""
        for number in range(2, 7):
            with self.subTest(step=number), Server(program(number) + " {port}") as server:
                server.connect().send(b"a\0b\r\x1b[2J\n")
                server.expect_log(rb": a\x00b\x0d\x1b[2J")

    def test_gone_before_greeting(self):
        """Sending to a client that has left raises SIGPIPE, which would end the step."""
        for number in range(4, 7):
            with self.subTest(step=number), Server(program(number) + " {port}") as server:
                server.connect().line()
                with server.paused():
                    late = server.connect()
                    late.half_close()
                    late.reset()
                server.expect_log(TERMINATED)
                self.assertRegex(server.connect().line(), rb"\AWelcome")

    def test_accept_pause(self):
        """Nothing that other clients do ends the pause in accepting."""
        for number in (2, 6):
            with self.subTest(step=number), \
                    Server(program(number) + " {port}", nofile=16) as server:
                crowd = [server.connect() for _ in range(20)]
                end = time.monotonic() + 1.5
                said = 0
                while time.monotonic() < end:
                    crowd[0].send(b"and then?\n")
                    said += 1
                    server.expect_log(b"and then?", said)
                warnings = server.stderr.count(b": accept: ")
                self.assertTrue(1 <= warnings <= 3, f"{warnings} warnings in 1.5 s")


def wait_until_acknowledged(sock: socket.socket) -> None:
    """Waits until the other side's kernel has everything that was sent."""
    support.wait_for(lambda: not LINUX or not support.unacknowledged(sock), DEADLINE)


def wait_until_asleep(server: Server) -> None:
    support.wait_until(lambda: processes(server.process.pid)[0].state == "S",
                       "the server to have nothing to do")


@unittest.skipUnless(LINUX, "descriptors and memory are looked up in /proc")
class Resources(unittest.TestCase):
    """From step 3 on, visitors who come and go leave nothing behind."""

    def visit(self, server: Server, count: int) -> None:
        """Visitors come and go: with a message, half a one, by FIN and by reset."""
        gone = server.log.count(TERMINATED)
        for number in range(count):
            peer = server.connect()
            peer.send((b"", b"whole\n", b"half")[number % 3])
            if number % 2:
                peer.reset()
            else:
                peer.sock.close()
            if number % BACKLOG == 0:       # more at a time may find the backlog full
                server.expect_log(TERMINATED, gone + number + 1)
        server.peers.clear()
        server.expect_log(TERMINATED, gone + count)
        wait_until_asleep(server)       # the last one is logged, but closed?

    def test_visits(self):
        for number in range(3, 7):
            with self.subTest(step=number), Server(program(number) + " {port}") as server:
                self.visit(server, 200)
                descriptors, memory = server.descriptors(), server.memory("VmRSS")
                self.visit(server, VISITS)
                self.assertEqual(server.descriptors(), descriptors)
                if server.memory("VmSize") < 1 << 40:       # else a sanitizer's memory
                    self.assertLess(server.memory("VmRSS") - memory, GROWTH_MAX)
                server.expect_alive()

    def test_no_free_descriptor(self):
        """A client without a place waits, at no cost, and is served when others leave."""
        for number in range(3, 7):
            with self.subTest(step=number), \
                    Server(program(number) + " {port}", nofile=32) as server:
                crowd = [server.connect() for _ in range(40)]
                server.expect_idle("while no descriptor is free")
                accepted = server.log.count(ACCEPTED)
                self.assertLess(accepted, 32)
                for peer in crowd[:accepted]:
                    peer.reset()
                server.expect_log(ACCEPTED, 40)
                crowd[-1].send(b"served at last\n")
                server.expect_log(b"served at last")
                server.expect_alive()

    def test_no_memory(self):
        """When there is none for what a client does not read, it is given up, once."""
        for number in (5, 6):
            with self.subTest(step=number), Server(program(number) + " {port}") as server:
                deaf = server.connect(receive_buffer=4096)
                deaf.line()     # now all that it starts with is there
                if server.is_sanitized():
                    self.skipTest("a sanitizer's memory cannot be limited")
                before = server.memory("VmRSS")
                limit = server.memory("VmSize") + LITTLE_MEMORY
                resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, limit))
                said = 0
                while said < 4 * LITTLE_MEMORY and not server.stderr.lines:
                    deaf.send(LINE * 100)
                    said += len(LINE) * 100
                support.wait_until(     # what it says is still read, but nothing waits
                    lambda: server.memory("VmRSS") - before < LITTLE_MEMORY // 16,
                    "its memory to be given back")
                server.expect_log(b"message from", said // len(LINE))
                wait_until_asleep(server)       # is it no longer watched for room?
                deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                deaf.expect_closed()
                deaf.sock.close()
                server.expect_log(TERMINATED)
                server.process.terminate()
                server.stderr.reader.join(DEADLINE)
                warnings = server.stderr.lines
                self.assertEqual([b": malloc: " in line for line in warnings], [True],
                                 warnings)

    def test_leak(self):
        """Step 2 runs out of descriptors, as it never closes one, but does not spin."""
        with Server(program(2) + " {port}", nofile=16) as server:
            for _ in range(20):
                server.connect().reset()
            server.expect_idle("after all descriptors have leaked")
            self.assertEqual(server.descriptors(), 16)
            server.expect_alive()


@unittest.skipUnless(shutil.which("valgrind"), "valgrind is not installed")
class Valgrind(unittest.TestCase):
    """Every byte and every descriptor is given back."""

    def test_visits(self):
        for number in range(3, 7):
            with self.subTest(step=number), tempfile.NamedTemporaryFile("r") as report:
                valgrind = ("valgrind --leak-check=full --track-fds=yes"
                            " --error-exitcode=99 "
                            f"--log-file={report.name} ")
                with Server(valgrind + program(number) + " {port}") as server:
                    Resources.visit(self, server, 30)
                    os.kill(server.process.pid, signal.SIGTERM)
                    self.assertTrue(server.has_ended(within=10))
                found = report.read()
                self.assertRegex(found, "ERROR SUMMARY: 0 errors", found)
                self.assertNotRegex(found, r"(definitely|indirectly) lost: [1-9]", found)
                connections = re.findall(r"Open AF_INET socket .* <-> (?!unbound).*",
                                         found)
                self.assertEqual(connections, [])


if __name__ == "__main__":
    unittest.main()
