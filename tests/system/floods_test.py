#!/usr/bin/env python3
"""Floods and churn, beside two honest clients, who must lose nothing (Linux).

    CHATSRV_TEST_SERVER='CMD {options} {port}' python3 tests/system/floods_test.py
                                                       [CLASS[.TEST]]

Floods is best run on a server built with AddressSanitizer. Bounds measures memory and
processor time, so it needs a server built without.

Environment: FLOOD_VISITS, FLOOD_MB and FLOOD_STALLED set how many clients come and go
(5000), how long the endless line is (200 MB), and how many clients never read (200; each
one's socket fills 4 MB of the kernel's memory).
"""
import contextlib
import os
import random
import re
import resource
import selectors
import signal
import socket
import tempfile
import threading
import time
import unittest
from typing import Iterator

import support
import test                             # tests/test.py, not Python's own
from model_test import Log
from test import DEADLINE, TERMINATED, Peer, Server

VISITS = int(os.environ.get("FLOOD_VISITS") or 5000)
ENDLESS = int(os.environ.get("FLOOD_MB") or 200) << 20
STALLED = int(os.environ.get("FLOOD_STALLED") or 200)
LAG_MAX = 16 << 20                      # final's default for -b
WAVE = 250                              # visitors at once, far below the descriptor limit
SEED = 1


class Pair(threading.Thread):
    """Two clients who talk all the time: each gets all that both say, in order."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.socks = [self.enter(server) for _ in range(2)]
        self.rests = [b"", b""]
        self.heard = [[0, 0], [0, 0]]   # the number of whose message each one got last
        self.said = 0
        self.wrong = ""
        self.over = threading.Event()

    @staticmethod
    def enter(server: Server) -> socket.socket:
        sock = server.connect().sock
        sock.settimeout(4 * DEADLINE)
        greeting = b""
        while not greeting.endswith(b"\n"):
            greeting += sock.recv(1)
        return sock

    def run(self) -> None:
        try:
            while not self.over.is_set() or self.said % 2:
                self.exchange()
        except (OSError, AssertionError) as error:
            self.wrong = f"message {self.said}: {error!r}"

    def exchange(self) -> None:
        """One of them says something, and both listen until they have heard it."""
        who, number = self.said % 2, self.said // 2 + 1
        self.socks[who].sendall(b"[pair %d says %d]\n" % (who, number))
        for listener in range(2):
            while self.heard[listener][who] < number:
                self.listen(listener)
        self.said += 1

    def listen(self, listener: int) -> None:
        data = self.socks[listener].recv(1 << 20)
        assert data, "the server closed the connection"
        data = self.rests[listener] + data
        for who, number in re.findall(rb"\[pair ([01]) says (\d+)\]\n", data):
            last = self.heard[listener]
            assert int(number) == last[int(who)] + 1, \
                f"{number} came after {last[int(who)]}"
            last[int(who)] += 1
        self.rests[listener] = data[max(data.rfind(b"\n") + 1, len(data) - 64):]


class FloodCase(unittest.TestCase):
    @contextlib.contextmanager
    def serve(self, options: str = "", nofile: int = 0) -> Iterator[Server]:
        """A server that must still run at the end, and then end cleanly.

        Its log is in self.log.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.log = Log(folder)
            with Server(self.log.command(test.COMMAND), options, nofile=nofile) as server:
                yield server
                server.expect_alive()
            server.expect_clean_stderr()    # leaks are reported at the very end

    @contextlib.contextmanager
    def pair(self, server: Server) -> Iterator[Pair]:
        """The pair talks meanwhile, and a little longer."""
        pair = Pair(server)
        pair.start()
        try:
            yield pair
            before = pair.said
            self.await_(lambda: pair.said > before + 2 or pair.wrong, "an answer")
        finally:
            pair.over.set()
            pair.join(8 * DEADLINE)
        self.assertEqual(pair.wrong, "")

    def await_(self, condition, what: str) -> None:
        end = time.monotonic() + 8 * DEADLINE
        while not condition():
            self.assertLess(time.monotonic(), end, f"{what}: too late")
            time.sleep(0.005)


class SlowReader:
    """Takes a little at a time, and checks that no numbered line is missing or torn."""
    LINES = 6000                        # 6 MB: the kernel holds 4 MB at most
    REST = b"-" * 990                   # after the number
    LINE = re.compile(rb"(\d{7})-{990}\n")

    def __init__(self, server: Server, size: int) -> None:
        self.server, self.size = server, size
        self.sock = server.connect().sock
        self.data = self.sock.recv(1)   # of the greeting: it is a client by now
        self.lines = 0

    def read(self, seconds: float = 0) -> bool:
        """Has it read the last line?"""
        self.sock.settimeout(seconds)
        try:
            data = self.sock.recv(self.size)
        except (BlockingIOError, socket.timeout):
            return False
        except OSError as error:
            self.server.fail("an open connection", str(error))
        if not data:
            self.server.fail("an open connection", "a slow reader has been disconnected")
        self.data += data
        for number in self.LINE.findall(self.data):
            if int(number) != self.lines:
                self.server.fail(f"line {self.lines}", f"line {int(number)}")
            self.lines += 1
        self.data = self.data[self.data.rfind(b"\n") + 1:]
        return self.lines == self.LINES


class Floods(FloodCase):
    def test_churn(self):
        """thousands connect, send garbage and vanish in every way there is"""
        chance = random.Random(SEED)
        with self.serve() as server, self.pair(server) as pair:
            before = server.descriptors()
            for _ in range(VISITS // WAVE):
                wave = [server.connect() for _ in range(WAVE)]
                for peer in wave:
                    self.misbehave(peer, chance)
                chance.shuffle(wave)
                for peer in wave:
                    self.vanish(peer, chance)
                server.peers = server.peers[:2]
            self.await_(lambda: server.descriptors() <= before, "descriptors released")
            self.assertGreater(pair.said, 10)

    @staticmethod
    def misbehave(peer: Peer, chance: random.Random) -> None:
        garbage = bytes(chance.choices(b"\n\n\0\x1b\xff\xc3a b",
                                       k=chance.randrange(3000)))
        with contextlib.suppress(OSError):
            peer.sock.setblocking(False)
            peer.sock.send(garbage)
            if chance.random() < 0.2:
                peer.sock.send(b"!", socket.MSG_OOB)
            if chance.random() < 0.2:
                peer.sock.shutdown(chance.choice([socket.SHUT_RD, socket.SHUT_WR]))

    @staticmethod
    def vanish(peer: Peer, chance: random.Random) -> None:
        if chance.random() < 0.5:
            support.reset_on_close(peer.sock)
        peer.sock.close()

    def test_endless_line(self):
        """an endless line is cut and goes through, or its sender is disconnected"""
        for reads in (True, False):
            with self.subTest(reads=reads), self.serve() as server, \
                    self.pair(server) as pair:
                self.pour(server.connect().sock, ENDLESS if reads else ENDLESS // 4,
                          reads)
                self.assertGreater(pair.said, 2)

    def pour(self, sock: socket.socket, amount: int, reads: bool) -> None:
        piece = b"endless " * (1 << 13)
        sock.setblocking(False)
        end = time.monotonic() + 12 * DEADLINE
        events = selectors.EVENT_WRITE | (selectors.EVENT_READ if reads else 0)
        with selectors.DefaultSelector() as selector:
            selector.register(sock, events)
            while amount > 0:
                self.assertLess(time.monotonic(), end, f"{amount} bytes too many")
                for _, ready in selector.select(DEADLINE):
                    try:
                        if ready & selectors.EVENT_READ:
                            self.assertTrue(sock.recv(1 << 20))
                        if ready & selectors.EVENT_WRITE:
                            amount -= sock.send(piece)
                    except ConnectionError:
                        self.assertFalse(reads, "a client that reads is disconnected")
                        return

    def test_one_byte_packets(self):
        """one byte per segment: the messages come out whole"""
        text = b"".join(b"byte by byte, number %d\n" % number for number in range(800))
        with self.serve() as server, self.pair(server):
            peer = server.connect()
            peer.sync()
            for at in range(len(text)):
                peer.send(text[at:at + 1])
            for number in range(800):
                while not peer.line().endswith(b"byte by byte, number %d" % number):
                    pass

    def test_slow_readers(self):
        """200 readers, each with a speed of its own, get everything in the end"""
        batch, most = 50, SlowReader.LINES
        with self.serve() as server, self.pair(server):
            left = [SlowReader(server, 8192 + 1024 * number) for number in range(200)]
            sender = server.connect()
            sender.sync()
            for start in range(0, most, batch):
                sender.send(b"".join(b"%07d%s\n" % (number, SlowReader.REST)
                                     for number in range(start, start + batch)))
                while sender.receive(0.000001):
                    sender.inbox.clear()
                for reader in left:
                    reader.read()
            while left:                     # the slowest of them is waited for
                left[0].read(4 * DEADLINE)
                left = [reader for reader in left if not reader.read()]

    def test_beyond_the_limit(self):
        """hundreds too many are told so, each of them; free places are filled again"""
        with self.serve("-c 20") as server, self.pair(server):
            inside = [server.connect() for _ in range(18)]
            for peer in inside:
                peer.sync()
            for _ in range(300):
                outside = server.connect()
                self.assertEqual(outside.expect_closed(), b"Server full\n")
                outside.sock.close()
                server.peers.remove(outside)
            for peer in inside[:9]:
                peer.leave()
            self.log.expect(server, TERMINATED, 9)
            for _ in range(9):
                server.connect().sync()


class Bounds(FloodCase):
    def test_memory(self):
        """many never read, one reads 64 MB: together they cost a single backlog"""
        with self.serve() as server:
            stalled = [server.connect(receive_buffer=2048) for _ in range(STALLED)]
            if server.is_sanitized():
                self.skipTest("built with a sanitizer, whose memory grows anyway")
            healthy = server.connect()
            healthy.sync()
            healthy.inbox.clear()       # the greeting
            for _ in range(64):
                self.through(healthy, 1 << 20)
            self.log.expect(server, b"(lagged more than %d bytes)" % LAG_MAX,
                            len(stalled))
            most = server.memory("VmHWM")
            print(f"\n{STALLED} stalled clients: at most {most >> 10} KiB resident",
                  flush=True)
            self.assertLess(most, LAG_MAX + (8 << 20))

    def through(self, peer: Peer, size: int) -> None:
        """Sends that many bytes in lines, and waits until they have come back."""
        line = b"to and fro " * 90 + b"\n"
        count = size // len(line)
        peer.send(line * count)
        for _ in range(count):
            self.assertTrue(peer.line().endswith(line[:-1]))

    def test_endless_line(self):
        """a line without an end does not collect in memory"""
        with self.serve() as server:
            sock = server.connect().sock
            Floods.pour(self, sock, 64 << 20, reads=True)
            if server.is_sanitized():
                self.skipTest("built with a sanitizer, whose memory grows anyway")
            self.assertLess(server.memory("VmHWM"), LAG_MAX + (8 << 20))

    def test_crowd(self):
        """250 floods in one wake-up: what they bring goes out before all is read"""
        with self.serve("-b 1000000") as server:
            if server.connect() and server.is_sanitized():
                self.skipTest("built with a sanitizer, whose memory grows anyway")
            crowd = [server.connect() for _ in range(250)]
            for peer in crowd:
                peer.sync()
            with server.paused():
                for peer in crowd:
                    peer.send(b"\n" * (1 << 14))    # twelve times that, with the prefix
            self.log.expect(server, b"(lagged more than", 200)
            most = server.memory("VmHWM")
            print(f"\n250 floods: at most {most >> 10} KiB resident", flush=True)
            self.assertLess(most, 16 << 20)

    def test_few_descriptors(self):
        """few descriptors: each of 200 newcomers is served or refused; nothing spins"""
        with self.serve(nofile=64) as server:
            crowd = [server.connect() for _ in range(200)]
            told = [peer.read(1, "a first byte") + peer.rest for peer in crowd]
            served = [peer for peer, first in zip(crowd, told) if first.startswith(b"W")]
            refused = [peer for peer, first in zip(crowd, told) if first.startswith(b"S")]
            self.assertEqual(len(served) + len(refused), 200)
            self.assertGreater(len(served), 30)
            for peer in refused:
                self.assertEqual(peer.expect_closed(), b"Server full\n")
            server.expect_idle("with all places taken")
            for peer in served[:10]:
                peer.leave()
            self.log.expect(server, TERMINATED, 10)
            newcomers = [server.connect() for _ in range(10)]
            for peer in newcomers:
                peer.sync()
            self.assertEqual(server.connect().expect_closed(), b"Server full\n")


def setUpModule() -> None:
    """Two descriptors per connection: one here, one in the server,
    which inherits the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):      # as for ^C: end the server, too
        signal.signal(number, signal.default_int_handler)
    unittest.main(verbosity=2)
