#!/usr/bin/env python3
"""Tests what the server does when its system calls fail (Linux).

    python3 tests/system/faults_test.py [CLASS[.TEST]]

The servers, final/ and step 6, are built with AddressSanitizer and
UndefinedBehaviorSanitizer, and with tests/system/faults.c between them and the C library.

Environment: CC and CFLAGS, to build with something else; FAULTS_SEED, to repeat a run.
"""
import array
import contextlib
import itertools
import os
import pathlib
import random
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import support
import broker
import runner                           # tests/runner.py
import chatsrv_test
from test import DEADLINE, TERMINATED, Server       # tests/test.py, not Python's own

ROOT = support.ROOT
CC = shlex.split(os.environ.get("CC") or "cc")
CFLAGS = shlex.split(os.environ.get("CFLAGS")
                     or "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all")
SEED = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(1 << 32))

# Nobody may notice these: all they cost is some time.
HARMLESS = ("recv:short:300 recv:EINTR:100 recv:EAGAIN:200 peek:short:300 peek:EINTR:100 "
            "peek:EAGAIN:200 send:short:300 send:EINTR:100 send:EAGAIN:200 "
            "accept:EINTR:200 accept:EAGAIN:200 epoll_wait:EINTR:100 "
            "epoll_wait:short:300 read:EINTR:200 write:short:300 write:EINTR:100 "
            "write:EAGAIN:50 write:ENOSPC:20 write:EDQUOT:20 write:EFBIG:20 "
            "write:ENOBUFS:20 write:ENOMEM:20")

# These end a connection, or prevent one.
HARMFUL = ("recv:ECONNRESET:4 send:ECONNRESET:2 send:ENOBUFS:2 recv:ENOMEM:2 "
           "recv:short:300 send:short:300 accept:ECONNABORTED:100 accept:ENFILE:2 "
           "accept:EMFILE:2 epoll_ctl:ENOMEM:4 epoll_ctl:ENOSPC:4 fcntl:EINVAL:20 "
           "calloc:ENOMEM:50")

# In chatsrv_test.py: somebody is refused; and the one who is has spoken already.
REFUSALS = ["Limits.test_client_limit", "Limits.test_descriptor_limit"]
REFUSED_SPEAKER = "Limits.test_refused_in_order"

IP_BIND_ADDRESS_NO_PORT = 24            # in <linux/in.h>: connect(2) chooses the port
LAST = 999999                           # number of a visitor who comes after all others
SPARED = "127.0.0.2"                    # the witness's address, which has no faults
TOTALS = {"faults": 0, "runs": 0}       # for the last line


def setUpModule() -> None:
    print(f"FAULTS_SEED={SEED}", flush=True)


def tearDownModule() -> None:
    BUILT.cleanup()
    print(f"{TOTALS['faults']} faults in {TOTALS['runs']} runs of a server", flush=True)


# ---- The servers -----------------------------------------------------------------------

BUILT = tempfile.TemporaryDirectory()


def build(name: str, folder: str, sources: List[str]) -> str:
    """Compiles a server with the faults, once; returns its path."""
    program = pathlib.Path(BUILT.name, name)
    if not program.exists():
        faults = ROOT / "tests" / "system" / "faults.c"
        wraps = sorted(set(re.findall(r"__wrap_(\w+)\(", faults.read_text())))
        subprocess.run([*CC, "-std=c11", "-D_DEFAULT_SOURCE", *CFLAGS, "-o", str(program),
                        str(faults), *sources,
                        "-Wl," + ",".join("--wrap=" + w for w in wraps)],
                       cwd=ROOT / folder, check=True)
    return str(program)


def final() -> str:
    return build("final", "final", runner.server_sources())


def step6() -> str:
    return build("step6", "steps", ["6-broadcast.c"])


class Counts(NamedTuple):
    calls: int      # that could have failed
    faults: int


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[pathlib.Path]:
    """Sets variables for the servers that are started inside;
    yields the file of counts."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "counts")
        variables.update(FAULTS_COUNTS=str(path))
        os.environ.update(variables)
        try:
            yield path
        finally:
            for name in variables:
                del os.environ[name]
            TOTALS["runs"] += 1
            if path.exists():
                TOTALS["faults"] += counts(path).faults


def counts(path: pathlib.Path) -> Counts:
    return Counts(*array.array("Q", path.read_bytes()))


# ---- Clients that may be cut off at any moment -----------------------------------------

class Client:
    """A connection and the whole lines that came on it."""

    def __init__(self, port: int, source: str = "127.0.0.1",
                 receive_buffer: int = 0) -> None:
        self.data = b""
        self.ended = False
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(DEADLINE)
        # No port yet: one that is free for any peer may be hard to find among many
        # connections.
        self.sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        self.sock.bind((source, 0))
        self.sock.connect(("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        if not self.ended:
            with contextlib.suppress(ConnectionError):
                self.sock.sendall(data)

    def receive(self, seconds: float) -> bool:
        """Waits for bytes, or the end. False: nothing came."""
        if self.ended:
            return False
        self.sock.settimeout(max(seconds, 0.000001))
        try:
            data = self.sock.recv(1 << 18)
        except socket.timeout:
            return False
        except ConnectionError:
            data = b""
        self.data += data
        self.ended = not data
        return True

    def expect(self, text: bytes) -> bool:
        """Receives until the text has come. False: the connection ended first."""
        end = time.monotonic() + 4 * DEADLINE
        while text not in self.data and not self.ended:
            if not self.receive(end - time.monotonic()):
                raise AssertionError(f"{text!r} did not come, but {self.data[-200:]!r}")
        return text in self.data

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def leave(self, reset: bool = False) -> None:
        if reset:
            support.reset_on_close(self.sock)
        self.sock.close()

    def lines(self) -> List[bytes]:
        """What came after the greeting, without an unfinished line."""
        return self.data.split(b"\n")[1:-1]


def greeted(port: int, source: str = "127.0.0.1") -> Client:
    """Connects again and again until the server lets the client in."""
    end = time.monotonic() + 4 * DEADLINE
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionError):
            client = Client(port, source)
            if client.expect(b"\n") and client.data.startswith(b"Welcome"):
                return client
            client.leave()
    raise AssertionError("nobody is let in")


def is_piece(lines: List[bytes], whole: List[bytes]) -> bool:
    """Are the lines, all of which differ, a piece of the whole?"""
    if not lines:
        return True
    begin = whole.index(lines[0]) if lines[0] in whole else 0
    return whole[begin:begin + len(lines)] == lines


# ---- The tests -------------------------------------------------------------------------

class Harmless(unittest.TestCase):
    """Short reads and writes, interruptions, false alarms:
    all the other tests still pass."""

    def run_tests(self, *command: str, **faults: str) -> None:
        faults = faults or {"FAULTS": HARMLESS, "FAULTS_SEED": str(SEED)}
        with environment(**faults), subprocess.Popen(
                [sys.executable, *command], cwd=ROOT / "tests", stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, universal_newlines=True) as process:
            try:
                output, _ = process.communicate()
            finally:
                process.terminate()     # that program ends its servers
        self.assertEqual(process.returncode, 0, output)

    def test_final(self):
        self.run_tests("test.py", "--server", final() + " {port}")

    def test_final_promises(self):
        names = [test.id().split(".", 1)[1]
                 for case in unittest.defaultTestLoader.loadTestsFromModule(chatsrv_test)
                 for test in case]
        self.run_tests("system/chatsrv_test.py",
                       "--server", final() + " {options} {port}",
                       *(name for name in names
                         if name not in (*REFUSALS, REFUSED_SPEAKER)))

    def test_final_refusals(self):
        """A refusal is a single send, for which there is always room in real life."""
        self.run_tests("system/chatsrv_test.py",
                       "--server", final() + " {options} {port}",
                       *REFUSALS, FAULTS=re.sub(r"send:\S+", "", HARMLESS),
                       FAULTS_SEED=str(SEED))

    def test_final_refused_speaker(self):
        """And a single recv, for which there is always something."""
        self.run_tests("system/chatsrv_test.py",
                       "--server", final() + " {options} {port}", REFUSED_SPEAKER,
                       FAULTS=re.sub(r"(send|recv):\S+", "", HARMLESS),
                       FAULTS_SEED=str(SEED))

    def test_final_proxied(self):
        """What has been seen of a header with MSG_PEEK is there to be taken."""
        self.run_tests("system/proxy_test.py", "Headers", "Before.test_nothing_is_sent",
                       "Before.test_no_header", "Before.test_end_of_file",
                       "Before.test_reset", "Before.test_stop",
                       FAULTS=re.sub(r"recv:\S+", "", HARMLESS), FAULTS_SEED=str(SEED),
                       CHATSRV_TEST_SERVER=final() + " {options} {port}")

    def test_accept_in_vain(self):
        """Nobody waits, or the one who did has left: that is worth no word."""
        for command in final(), step6():
            with self.subTest(command), environment(
                    FAULTS="accept:EAGAIN:200 accept:EINTR:200 accept:ECONNABORTED:200",
                    FAULTS_SEED=str(SEED)), Server(command + " {port}") as server:
                server.expect_log(b"listening on ")
                for _ in range(50):
                    greeted(server.port).leave()
                said = server.log.count(b"accept: ") + server.stderr.count(b"accept: ")
                self.assertEqual(said, 0)

    def test_step6(self):
        self.run_tests("test.py", "--server", step6() + " {port}")

    def test_final_model(self):
        self.run_tests("system/model_test.py", "--server", final() + " {port}",
                       "--seed", str(SEED))

    def test_step6_model(self):
        self.run_tests("system/model_test.py", "--server", step6() + " {port}",
                       "--seed", str(SEED), "--drop-tail")

    def test_final_unnamed_pipe(self):
        """The log cannot be opened by its name, as a pipe on macOS and the BSDs."""
        self.run_tests("system/chatsrv_test.py",
                       "--server", final() + " {options} {port}", "Log",
                       "Lifetime.test_sigterm_unread_log",
                       "Lifetime.test_sigterm_closed_log", FAULTS_UNNAMED="pipes")

    def test_final_unnamed_terminal(self):
        """A terminal that is opened by another name, and one that has none."""
        for what in ("pipes", "all"):
            self.run_tests("system/promises_test.py",
                           "--server", final() + " {options} {port}",
                           "Log.test_terminal_unread", FAULTS_UNNAMED=what)


class Harmful(unittest.TestCase):
    """Connections break at any call: only they suffer."""
    VISITS = 1500
    CROWD = 12

    def visits(self, server: Server) -> Tuple[Client, List[Client]]:
        """Clients come, talk and leave; a silent witness hears all of it."""
        chance = random.Random(SEED)
        witness = greeted(server.port, SPARED)
        crowd: List[Client] = []
        gone: List[Client] = []
        end = time.monotonic() + 12 * DEADLINE
        for visit in itertools.count():     # more where accepting had to pause often
            if visit >= self.VISITS and witness.data.count(b"\n") > self.VISITS + 1:
                break
            self.assertLess(time.monotonic(), end, "the chat does not go on")
            if len(crowd) < self.CROWD:
                with contextlib.suppress(ConnectionError):
                    crowd.append(Client(server.port))
                    crowd[-1].name, crowd[-1].sent = b"visitor %d" % visit, 0
            for client in chance.sample(crowd, min(3, len(crowd))):
                client.sent += 1
                client.send(b"%s, message %d, %s\n" % (client.name, client.sent,
                                                       b"." * chance.randrange(900)))
                client.receive(0)
            witness.receive(0)
            if chance.random() < 0.3 and crowd:
                client = crowd.pop(chance.randrange(len(crowd)))
                gone.append(client)
                client.leave(reset=chance.random() < 0.5)
        for client in crowd:
            client.half_close()
            while not client.ended:
                self.assertTrue(client.receive(4 * DEADLINE),
                                "the server keeps a connection")
            client.leave()
        return witness, gone + crowd

    def check(self, witness: Client, visitors: List[Client]) -> None:
        whole = witness.lines()
        spoken: Dict[bytes, int] = {}
        # Each one's messages in order, none missing before the last:
        for line in whole:
            name, number = re.search(rb"(visitor \d+), message (\d+), \.*$",
                                     line).groups()
            self.assertEqual(int(number), spoken.get(name, 0) + 1, line)
            spoken[name] = int(number)
        self.assertEqual(len(set(whole)), len(whole))
        for client in visitors:
            self.assertLessEqual(spoken.get(client.name, 0), client.sent)
            self.assertTrue(is_piece(client.lines(), whole), client.data)
        self.assertGreater(len(whole), self.VISITS)     # the chat went on

    def bear(self, server: Server) -> None:
        server.expect_log(b"listening on")
        before = server.descriptors()
        for _ in range(2):
            witness, visitors = self.visits(server)
            speaker = greeted(server.port, SPARED)
            last = b"visitor %d, message 1, \n" % LAST
            speaker.name, speaker.sent = last[:-14], 1
            speaker.send(last)
            self.assertTrue(witness.expect(last) and speaker.expect(last))
            self.check(witness, [*visitors, speaker])
            speaker.leave()
            witness.leave()
            support.wait_until(lambda: server.descriptors() <= before,
                               "descriptors to be closed")
            support.wait_until(lambda: self.all_ends_logged(server), "ends to be logged")
        server.expect_idle("after the faults")

    @staticmethod
    def all_ends_logged(server: Server) -> bool:
        """As far as the log says: on a busy machine it drops lines, and says so."""
        return (server.log.count(b"accepted connection") == server.log.count(TERMINATED)
                or server.log.count(b"dropped") > 0)

    def test_final(self):
        with environment(FAULTS=HARMFUL + " malloc:ENOMEM:30", FAULTS_SEED=str(SEED),
                         FAULTS_SPARE=SPARED), Server(final() + " {port}") as server:
            self.bear(server)
            server.process.send_signal(signal.SIGTERM)
            server.expect_end(0)
            server.expect_clean_stderr()

    def test_step6(self):
        """Without malloc: a step has a buffer for each client,
        so the witness's may fail."""
        with environment(FAULTS=HARMFUL, FAULTS_SEED=str(SEED),
                         FAULTS_SPARE=SPARED), Server(step6() + " {port}") as server:
            self.bear(server)
            server.expect_alive()


class Start(unittest.TestCase):
    """What the system says to a server that starts."""

    def test_descriptors_of_macos(self):
        """It names infinity for a limit and refuses it, but grants 10,240."""
        with environment(FAULTS_LIMIT="10240"), \
                Server(final() + " -c 20000 {port}") as server:
            server.expect_log(b"listening on ")
            greeted(server.port).leave()
            server.process.terminate()
            self.expect_end(server, 0, b"final: -c 20000: the limit of descriptors "
                                       b"allows 10216 clients")
        with environment(FAULTS_LIMIT="10239"), Server(final() + " {port}") as server:
            self.expect_end(server, 1, b"final: setrlimit: Invalid argument")

    def expect_end(self, server: Server, status: int, line: bytes) -> None:
        server.expect_end(status)
        server.stderr.reader.join(DEADLINE)
        self.assertEqual(server.stderr.lines, [line])

    def test_step6(self):
        """A call that fails ends step 6, and is named."""
        for call, name in enumerate(("evloop_open", "socket", "setsockopt SO_REUSEADDR",
                                     "setsockopt TCP_NODELAY", "bind port 0", "listen",
                                     "fcntl", "getsockname"), 1):
            with self.subTest(name):
                said = self.failing_step(call, "0")
                self.assertRegex(said, rf"\Astep6: {name}: .*\n\Z")

    def test_step6_port(self):
        """Step 6 listens on port 3100, unless it is given another one."""
        for words, port in ([], 3100), (["65535"], 65535):
            self.assertEqual(self.failing_step(5, *words),
                             f"step6: bind port {port}: Address already in use\n")

    def failing_step(self, call: int, *words: str) -> str:
        """What step 6 says about this call."""
        with environment(FAULTS_FAIL=str(call)):
            ended = subprocess.run([step6(), *words], timeout=DEADLINE,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   universal_newlines=True)
        self.assertEqual(ended.returncode, 1)
        return ended.stderr


class Torture(unittest.TestCase):
    """The short life of a server, again and again: each of its calls fails once."""
    PARTS = b"a line in " + b"two parts" * 100, b" that goes on" * 10 + b" to its end"
    TAIL = b"the end has no newline"
    BULK = [b"%03d " % number + b"=" * 1000     # more than a feed's chunk
            for number in range(70)]
    MESSAGES = {*(b"%s %d" % (name, number)
                  for name in (b"one", b"two") for number in range(3)),
                b"meanwhile", b"".join(PARTS)[:1024], b"".join(PARTS)[1024:], TAIL,
                b"alone", *BULK}

    def scene(self, port: int, bulk: List[bytes]) -> List[Client]:
        """Greetings, messages, all kinds of ends. Any one connection may break."""
        one, two, last = clients = [Client(port), Client(port), Client(port)]
        for client in clients:
            client.expect(b"\n")
        for number in range(3):
            for client in (one, two):
                text = b"%s %d" % (b"one" if client is one else b"two", number)
                client.send(text + b"\n")
                client.expect(text)
        if bulk:
            one.send(b"\n".join(bulk) + b"\n")
            one.expect(bulk[-1])
        two.send(self.PARTS[0])
        one.send(b"meanwhile\n")
        one.expect(b"meanwhile")
        two.send(self.PARTS[1] + b"\n")
        two.expect(b"end\n")
        last.send(self.TAIL)
        last.half_close()
        while not last.ended:
            self.assertTrue(last.receive(4 * DEADLINE),
                            "a half-closed connection stays open")
        one.leave(reset=True)
        two.send(b"alone\n")
        two.expect(b"alone\n")
        refused = Client(port), Client(port), Client(port)  # the limit is 3
        for client in refused:
            client.expect(b"\n")
        return [*clients, *refused]

    def check_scene(self, clients: List[Client], tail: bytes) -> None:
        """At most one connection broke, and each one got a piece of the chat."""
        one, two, last = clients[:3]
        whole = max((client.lines() for client in clients[:3]), key=len)
        for client in clients[:3]:
            self.assertTrue(is_piece(client.lines(), whole), client.data)
        said = {re.sub(rb"^127\.0\.0\.1: ", b"", line) for line in whole}
        self.assertLessEqual(said, self.MESSAGES)
        broken = [one.ended, two.ended, tail not in last.data]
        self.assertLessEqual(sum(broken), 1, [client.data for client in clients])

    def is_served(self, port: int) -> bool:
        clients = [greeted(port) for _ in range(2)]
        served = True
        for number, client in enumerate(clients):
            text = b"at your service %d\n" % number
            client.send(text)           # if it is cut off, nobody may get this
            served = served and client.expect(text) and clients[1 - number].expect(text)
        for client in clients:
            client.leave()
        return served

    def check_start(self, server: Server) -> bool:
        """Does it serve? If not, it has said why, in one line."""
        support.wait_until(
            lambda: server.has_ended() or server.log.count(b"listening on"), "a start")
        if not server.has_ended(within=0 if server.log.count(b"listening on") else 1):
            return True
        server.expect_end(1)
        server.stderr.reader.join(DEADLINE)
        self.assertEqual(len(server.stderr.lines), 1, server.stderr.lines)
        self.assertRegex(server.stderr.lines[0], rb"^(final|step6): [\w/]+")
        return False

    def life(self, command: str, tail: bytes, call: int) -> Tuple[bool, Counts]:
        """Starts the server, lets one call fail, and ends it.

        Returns whether it served.
        """
        with environment(FAULTS="send:short:700", FAULTS_SEED="1",
                         FAULTS_FAIL=str(call)) as path:
            with Server(command) as server:
                served = self.check_start(server)
                if served:
                    port, descriptors = server.port, server.descriptors()
                    clients = self.scene(port, self.BULK if tail else [])
                    self.check_scene(clients, tail)
                    for client in clients:
                        client.leave()
                    # The fault may come here, but there is only one.
                    self.assertTrue(self.is_served(port) or self.is_served(port))
                    support.wait_until(lambda: server.descriptors() <= descriptors,
                                       "descriptors to be closed")
                    self.check_stop(server)
            self.assertEqual(server.log.count(b"too many"), 0, "of 9 that may come")
            server.expect_clean_stderr()
            return served, counts(path)

    def check_stop(self, server: Server) -> None:
        """The steps end as any program does; final's last word is a clean exit."""
        self.assertFalse(server.has_ended())
        if server.template.startswith(step6()):
            return
        server.process.send_signal(signal.SIGTERM)
        server.expect_end(0)
        self.assertEqual(server.stderr.lines, [])

    def torture(self, command: str, tail: bytes) -> None:
        """tail: what a client that half-closes must have got in the end."""
        unserved = 0
        call = 0
        total: Optional[int] = None
        while total is None or call < total:
            call += 1
            with self.subTest(call=call):
                served, done = self.life(command, tail, call)
                unserved += not served
                self.assertGreater(done.calls, 0)
                total = done.calls if served and done.calls < call else None
        print(f"{pathlib.Path(command.split()[0]).name}: "
              f"{call - 1} calls failed in turn, {unserved} of them at the start",
              flush=True)
        self.assertGreater(call, 100)
        self.assertGreater(unserved, 3)

    def test_final(self):
        self.torture(final() + " -c 3 -i 9 {port}", self.TAIL + b"\n")

    def test_step6(self):
        self.torture(step6() + " {port}", b"")

    def test_room_start(self):
        """Until it listens: it joins the room all the same, or says why not."""
        call = unserved = 0
        total: Optional[int] = None
        while total is None or call < total:
            call += 1
            with self.subTest(call=call), broker.Broker() as redis, \
                    environment(FAULTS_FAIL=str(call)) as path, \
                    Server(f"{final()} -j redis://127.0.0.1:{redis.port}/lobby {{port}}"
                           ) as server:
                served = self.check_start(server)
                unserved += not served
                total = counts(path).calls if served else None
                if served:
                    server.process.terminate()
                    server.expect_end(0)
                server.expect_clean_stderr()
        self.assertGreater(call, 30)
        self.assertGreater(unserved, 20)

    def test_proxied(self):
        """A connection whose header is awaited: no other one notices that it fails."""
        call = refused = 0              # at first no call fails
        last: Optional[int] = None
        while last is None or call < last:
            with self.subTest(call=call), \
                    environment(FAULTS_FAIL=str(call)) as path, \
                    Server(final() + " -p {port}") as server:
                server.expect_log(b"listening on")
                first, descriptors = counts(path).calls, server.descriptors()
                client = self.come_proxied(server)
                last = last or counts(path).calls
                client.leave()
                support.wait_until(lambda: server.log.count(b"refused connection: ")
                                   + server.log.count(TERMINATED), "its end to be logged")
                refused += not client.data
                late = self.come_proxied(server), self.come_proxied(server)
                # The fault may come here, but there is only one.
                self.assertTrue(late[0].data or late[1].data)
                for client in late:
                    client.leave()
                support.wait_until(lambda: server.descriptors() <= descriptors,
                                   "descriptors to be closed")
                self.check_stop(server)
                server.expect_clean_stderr()
            call = call + 1 if call else first
        self.assertGreater(refused, 3)

    @staticmethod
    def come_proxied(server: Server) -> Client:
        """A client whose header comes in two pieces; it may be refused."""
        client = Client(server.port)
        client.send(b"PROXY TCP4 192.0.2.7 ")
        support.wait_until(lambda: not support.unacknowledged(client.sock)
                           or select.select([client.sock], [], [], 0)[0],
                           "the first piece to arrive, or to be refused")
        client.send(b"127.0.0.1 1234 3100\r\n")
        client.expect(b"\n")
        return client


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):      # as for ^C: end the server, too
        signal.signal(number, signal.default_int_handler)
    unittest.main()
