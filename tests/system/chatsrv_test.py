#!/usr/bin/env python3
"""Tests what our own chatsrv promises beyond the assignment:
its options, its log, how it ends.

    python3 tests/system/chatsrv_test.py [--server 'CMD {options} {port}'] [CLASS[.TEST]]

{options} becomes what a test needs; without --server, CHATSRV_TEST_SERVER in the
environment is the command, or build/chatsrv. The tests use the grader's Server and Peer,
and give verdicts as it does.
"""
import itertools
import contextlib
import fcntl
import os
import pathlib
import re
import resource
import select
import shlex
import signal
import socket
import subprocess
import time
import unittest
from typing import Optional, Tuple

import support
import test                             # tests/test.py, not Python's own
from test import (ADDRESS, CUT, DEADLINE, GREETING, LINUX, SETTLE, TERMINATED, Peer,
                  Server, ServerCase, numbered, rule, shown)

OWN = "(chatsrv's own rule, not the assignment's)"
F_SETPIPE_SZ = 1031                     # in <linux/fcntl.h>


class ChatsrvCase(ServerCase):
    """A test with a server of its own, and what several tests share.

    Where much is said and the test looks at the log, the server logs no texts (-q): then
    its log fits into its buffer and the pipe, whether or not it is read in time.
    """

    def expect_service(self, *living: Peer) -> None:
        """A newcomer gets the greeting, not a refusal, and what it says itself."""
        newcomer, = self.join(1)
        newcomer.sync()
        newcomer.leave()
        for peer in living:
            peer.sync()

    def wake_ups(self) -> int:
        """How often the server has gone to sleep so far (Linux)."""
        status = pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)[1])

    def expect_farewell(self, peer: Peer, reason: bytes) -> None:
        self.server.expect_log(b"connection terminated: %s (%s)" % (peer.address, reason))

    @staticmethod
    def await_refusal(server: Server) -> None:
        """Waits until nobody can connect: at the latest, when the server has ended."""
        while not server.has_ended():
            with socket.socket() as probe:
                if probe.connect_ex((test.HOST, server.port)):
                    return
            time.sleep(0.002)


class Messages(ChatsrvCase):
    """What a message looks like to its receivers."""

    @rule(ADDRESS, "getnameinfo() with NI_NUMERICHOST, when the client is accepted")
    def test_prefix(self):
        """messages are preceded by the sender's address"""
        self.expect_prefix(b"127.0.0.1: ", *self.join(2))

    @rule(ADDRESS, "-n leaves the prefix out", options="-n")
    def test_no_prefix(self):
        """with -n messages have no prefix"""
        self.expect_prefix(b"", *self.join(2))

    @rule(ADDRESS, "one listener for each family, IPV6_V6ONLY on the second one")
    def test_ipv6(self):
        """IPv6 clients are served too, and chat with the others"""
        skip_without_ipv6()
        one, six = self.join(1) + self.join(1, host="::1")
        self.exchange(one, [b"from four to six"], [one, six])
        self.expect_prefix(b"::1: ", six, one)
        self.server.expect_log(b"accepted connection: " + six.address)

    def expect_prefix(self, expected: bytes, sender: Peer, reader: Peer) -> None:
        came = reader.prefixes.get(sender.id, b"(no message)")
        if came != expected:
            self.server.fail(f"{expected!r} before each message", shown(came))

    @rule(OWN, "end of file on a client's input is not the end of its output")
    def test_half_close(self):
        """a client that half-closes gets all up to its own last line, newline or not"""
        watcher, = self.join(1)
        peer = self.server.connect()
        peer.send(b"one\ntwo\ntail")
        peer.half_close()
        answer = peer.expect_closed()
        expected = b"\n127.0.0.1: one\n127.0.0.1: two\n127.0.0.1: tail\n"
        if not answer.startswith(b"Welcome") or not answer.endswith(expected):
            self.server.fail(f"a greeting, and {shown(expected, 99)}", shown(answer, 99))
        for text in (b"one", b"two", b"tail"):
            watcher.expect(watcher, text)
        self.expect_farewell(peer, b"end of file")

    @rule(ADDRESS, "each piece is a message of its own")
    def test_pieces(self):
        """so is each piece of a line that is too long"""
        one, two = self.join(2)
        line = b"".join(b"%04d." % number for number in range(600))
        one.send(line + b"\n")
        for reader in (one, two):
            for at in (0, 1024, 2048):
                expected = b"127.0.0.1: " + line[at:at + 1024]
                came = reader.line()
                if came != expected:
                    self.server.fail(shown(expected), shown(came))

    @rule(GREETING,
          "greet a client when it is accepted, before anything else is sent to it")
    def test_greeting_first(self):
        """a client that comes while others talk is greeted before it gets any of it"""
        talkers = self.join(8)
        for _ in range(5):
            with self.server.paused():
                crowd = []
                for talker in talkers:
                    crowd.append(self.server.start_connecting())
                    talker.send(b"small talk\n" * 100)
                    crowd.append(self.server.start_connecting())
            for newcomer in crowd:
                first = newcomer.line("a greeting")
                if first != b"Welcome to the chat!":
                    self.server.fail("a greeting before anything else", shown(first))
            for talker in talkers:
                talker.sync()
                talker.inbox.clear()


    @rule(OWN, "SO_OOBINLINE on the listening socket: those that it accepts inherit it")
    def test_urgent(self):
        """urgent bytes stay in their place"""
        self.expect_urgent()

    @rule(OWN, "MSG_PEEK, too, stops before an urgent byte", options="-r 100")
    def test_urgent_with_rate(self):
        """with -r as well"""
        self.expect_urgent()

    def expect_urgent(self) -> None:
        one, two = self.join(2)
        for parts in ([b"!a", b"b\n"], [b"a", b"!b", b"!\n"], [b"a\nb", b"!c", b"d\n"],
                      [b"!a", b"!b", b"!c", b"d\ne", b"!\n"]):
            for part in parts:
                one.sock.send(part.lstrip(b"!"),
                              socket.MSG_OOB if part.startswith(b"!") else 0)
            for text in b"".join(part.lstrip(b"!") for part in parts).split(b"\n")[:-1]:
                for reader in (one, two):
                    reader.expect(one, text)


class Limits(ChatsrvCase):
    """Who is sent away, when, and what the log says about it."""

    @rule(CUT, "keep the clients in the order of their last input", options="-t 2")
    def test_idle_timeout(self):
        """-t: a client silent for that long is disconnected, one that talks is not"""
        talker, sleeper = self.join(2)
        end = time.monotonic() + DEADLINE
        while not sleeper.ended and time.monotonic() < end:
            talker.sync()
            sleeper.receive(0.1)
        sleeper.expect_closed()
        self.expect_farewell(sleeper, b"idle for 2 s")
        talker.sync()

    @rule(CUT, "a client that takes none of the bytes waiting for it is stalled; one "
               "for which nothing waits is not", options="-q -s 1")
    def test_stalled(self):
        """-s: a client that takes no byte for that long goes, one that says none stays"""
        one, two = self.join(2)
        slow, = self.join(1, receive_buffer=4096)
        self.exchange(one, numbered(6000, 1000), [one, two])
        self.expect_farewell(slow, b"took no byte for 1 s")
        self.server.expect_log_exactly(TERMINATED, 1)
        two.expect_no_more()

    @rule(CUT, "a client's lag is how far it is behind the end of the feed",
          options="-q -b 1000000")
    def test_overflow(self):
        """-b: a client that lags by that many bytes is disconnected, after whole lines"""
        one, two = self.join(2)
        slow, = self.join(1, receive_buffer=4096)
        self.exchange(one, numbered(6000, 1000), [one, two])
        self.expect_farewell(slow, b"lagged more than 1000000 bytes")
        self.server.expect_log_exactly(TERMINATED, 1)
        two.expect_no_more()

    @rule(OWN, "tell the newcomer, close, log it; and count down when a client leaves",
          options="-c 2")
    def test_client_limit(self):
        """-c: the client beyond the limit is told so and sent away, until one leaves"""
        one, two = self.join(2)
        self.expect_refusal(self.server.connect())
        two.leave()
        self.expect_farewell(two, b"end of file")
        self.expect_service()
        one.sync()

    @rule(OWN, "read what has come before you close: otherwise it is a reset",
          options="-c 1")
    @unittest.skipUnless(LINUX, "there, what was sent is sure to have come")
    def test_refused_in_order(self):
        """a client that spoke at once is not reset when it is refused"""
        self.join(1)
        with self.server.paused():
            late = self.server.connect()
            late.send(b"hello\n")
        self.expect_refusal(late)
        time.sleep(SETTLE)              # a reset would follow at once
        error = late.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.server.fail("no error on its socket", os.strerror(error))

    @rule(OWN, "decrease the count, however the client has ended", options="-c 2 -t 2")
    def test_idle_places(self):
        """a place that an idle client had is free for the next one"""
        for _ in range(2):
            for peer in self.join(2):
                peer.expect_closed()

    @rule(CUT, "half-closed or not, a client that takes no byte is stalled",
          options="-q -s 2")
    def test_half_closed_stalled(self):
        """a half-closed client that takes no byte is disconnected like any other"""
        one, = self.join(1)
        slow, = self.join(1, receive_buffer=4096)
        self.exchange(one, numbered(6000, 1000), [one])
        slow.half_close()
        # What its kernel acknowledges first counts as progress: it may take twice 2 s.
        self.server.log.wait(b"took no byte", 1, 3 * DEADLINE)
        self.expect_farewell(slow, b"took no byte for 2 s")

    @rule(CUT, "look for laggards whenever the feed has grown by a chunk",
          options="-q -b 200000")
    def test_overflow_at_once(self):
        """a client that lags by more than -b is found soon: this bounds memory"""
        one, = self.join(1)
        slow, = self.join(1, receive_buffer=4096)
        texts = numbered(64, 1000)
        said = rounds = 0
        while not self.server.log.count(b"lagged more than 200000 bytes"):
            self.exchange(one, texts, [one])
            one.sync()
            rounds += 1
            said += len(texts) * 1012
            self.server.expect_log(b", 1000 bytes", rounds * len(texts))    # read so far
            if said > 20 << 20:
                self.server.fail("a client that does not read to be disconnected",
                                 "it is not")
        got = len(slow.expect_closed())
        if said - got > 200000 + (256 << 10):
            self.server.fail("a client disconnected when it lags by 200,000 bytes, and a "
                             "chunk or two", f"it was {said - got} bytes behind")

    @rule(OWN, "the client limit follows from RLIMIT_NOFILE", nofile=32)
    def test_descriptor_limit(self):
        """where descriptors are scarce, newcomers are refused even without -c"""
        crowd = [self.server.connect() for _ in range(60)]
        self.expect_refusal(crowd[-1])
        crowd[0].sync()

    def expect_refusal(self, peer: Peer) -> None:
        answer = peer.expect_closed()
        if answer != b"Server full\n":
            self.server.fail(r"b'Server full\n', and the end of the connection",
                             shown(answer))
        self.server.expect_log(b"refused connection: %s (server full)" % peer.address)


@unittest.skipUnless(LINUX, "limits of another process are set by prlimit(2)")
class Descriptors(ChatsrvCase):
    """No descriptor is free."""

    def descriptors_left(self, count: int) -> None:
        """From now on the server can open this many more."""
        pid = self.server.process.pid
        used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        free = (number for number in itertools.count() if number not in used)
        first_denied = next(itertools.islice(free, count, None))
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_denied, most))

    @rule(OWN, "pause accepting for a second, and then try again")
    def test_accept_pause(self):
        """accepting pauses meanwhile, at no cost, whatever others do, then goes on"""
        one, = self.join(1)
        self.descriptors_left(0)
        crowd = [self.server.start_connecting() for _ in range(3)]
        self.server.expect_log(b"; trying again in a second")
        self.server.expect_idle("while no descriptor is free")
        began, before = time.monotonic(), self.server.log.count(b"accept: ")
        while time.monotonic() < began + 1.5:
            one.sync()
        tries = self.server.log.count(b"accept: ") - before
        if tries > time.monotonic() - began + 2:
            self.server.fail("a try a second", f"{tries} of them")
        self.descriptors_left(100)
        for peer in crowd:
            peer.line("a greeting, when descriptors are free again")
        self.expect_service()


class Fairness(ChatsrvCase):
    """Nobody's talk holds up another's."""

    @rule(OWN, "read a bounded piece from a client, then let the others have their turn")
    def test_flood(self):
        """a client with megabytes waiting is not read to the end while others wait"""
        flooder, quiet = self.join(2)
        texts = numbered(20000, 199)
        flood = b"".join(text + b"\n" for text in texts)
        with self.server.paused():
            flooder.sock.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < len(flood):
                    sent += flooder.sock.send(flood[sent:sent + (1 << 16)])
            quiet.send(b"may I?\n")
        if sent < 1 << 20:
            self.skipTest(f"only {sent} bytes of flood fit into this system's buffers")
        last = texts[sent // 200 - 1]
        for count in itertools.count(1):
            line = quiet.line("the quiet client's message among those of the flood")
            if line.endswith(b"may I?"):
                return
            if line.endswith(last):
                self.server.fail("a message served before another client's flood is over",
                                 f"all {count} lines of the flood came first")


class Log(ChatsrvCase):
    """What the log holds, and what it never does."""

    @rule(OWN, "the log names each client by its address and port")
    def test_log_lines(self):
        """the log says where the server listens, and who came, spoke and left, and why"""
        one, two = self.join(2)
        two.send(b"hi\n")
        one.expect(two, b"hi")
        two.reset()
        for line in (b"listening on 0.0.0.0:%d" % self.server.port,
                     b"accepted connection: " + one.address,
                     b"message from %s: hi" % two.address):
            self.server.expect_log(line)
        self.expect_farewell(two, b"Connection reset by peer")

    @rule(OWN, "what cannot be printed is shown as \\xNN, so that nobody forges a line "
               "or commands the terminal")
    def test_log_escapes(self):
        """printable text and UTF-8 are logged as they are, other bytes as \\xNN"""
        one, two = self.join(2)
        cases = {b"\x1b[2J\x07\0\x7f\t": rb"\x1b[2J\x07\x00\x7f\x09",
                 b"ok\rconnection terminated: 1.2.3.4:5":
                     rb"ok\x0dconnection terminated: 1.2.3.4:5",
                 "привет, €, 🙂".encode(): "привет, €, 🙂".encode(),
                 b"\xff\xc3( \xed\xa0\x80 \xe2\x82": rb"\xff\xc3( \xed\xa0\x80 \xe2\x82"}
        for text, logged in cases.items():
            one.send(text + b"\n")
            two.expect(one, text)
            self.server.expect_log(b"message from %s: %s" % (one.address, logged))
        forged = [line for line in self.server.log.lines if line.startswith(TERMINATED)]
        if forged:
            self.server.fail("no log line written by a client", shown(forged[0]))

    @rule(OWN, "an empty message is a message")
    def test_log_empty(self):
        """an empty message is logged as others are"""
        one, = self.join(1)
        one.send(b"\n\n")
        self.server.expect_log(b"message from %s: " % one.address, 2 + one.hellos)

    @rule(OWN, "after the first line that is dropped, drop all others, until the log is "
               "read again: so the log has one gap, and says where", read_log=False)
    def test_full_log_gap(self):
        """what the log lacks is one run of lines, in the place where the log says so"""
        one, = self.join(1)
        texts = [b"%d." % number + b"x" * (1000 if number % 7 else 0)
                 for number in range(2000)]
        one.send(b"\n".join(texts) + b"\n")
        one.collect(texts[-1])
        self.join(1)                    # a client that comes now is not logged, either
        self.server.start_reading()
        end = time.monotonic() + DEADLINE
        while not self.server.log.count(b"dropped ") and time.monotonic() < end:
            one.sync()
        self.server.expect_log(b"dropped ")
        lines = list(self.server.log.lines)
        before = lines[:next(i for i, line in enumerate(lines) if b"dropped " in line)]
        logged = [text for line in before for text in re.findall(rb": (\d+)\.x*$", line)]
        if logged != [b"%d" % number for number in range(len(logged))]:
            gap = next(i for i, number in enumerate(logged) if int(number) != i)
            self.server.fail(f"message {gap} in the log, or word of its being dropped",
                             f"message {logged[gap].decode()} without a word")

    @rule(OWN, "when the buffer is full to its end, move what waits to its beginning",
          read_log=False)
    def test_log_behind(self):
        """a log whose reader is always a little behind has no gap"""
        one, = self.join(1)
        texts = numbered(1500, 1000)
        log = b""
        for start in range(0, len(texts), 50):
            self.exchange(one, texts[start:start + 50], [one])
            if start >= 150:            # from here on as much is read as is written
                log += self.read_log(50 * 1040)
        self.server.start_reading()
        self.server.expect_log(texts[-1])
        log += b"\n".join(self.server.log.lines)
        missing = [text for text in texts if text not in log]
        if missing:
            self.server.fail("all messages in the log", f"{len(missing)} are missing")

    def read_log(self, size: int) -> bytes:
        log = b""
        while len(log) < size:
            log += os.read(self.server.process.stdout.fileno(), size - len(log))
        return log

    @rule(OWN, "look again after a millisecond; only a log that stays full may wait",
          read_log=False)
    @unittest.skipUnless(LINUX, "how much a pipe holds is fixed elsewhere")
    def test_log_pace(self):
        """a log that holds little, but is read, does not wait to be written"""
        one, = self.join(1)
        log_fd = self.server.process.stdout.fileno()
        fcntl.fcntl(log_fd, F_SETPIPE_SZ, 4096)
        texts = numbered(230, 1000)     # just less than the server's buffer holds
        for _ in range(2):              # we may be held up ourselves
            self.exchange(one, texts, [one])
            log, waits = b"", []
            while not log.endswith(texts[-1] + b"\n"):
                began = time.monotonic()
                select.select([log_fd], [], [])
                waits.append(time.monotonic() - began)
                time.sleep(0.001)       # until the server has found it full
                log += os.read(log_fd, 1 << 16)
            if sum(wait < 0.05 for wait in waits) > len(waits) / 3:
                return
        self.server.fail("something new in the log as soon as it has been read",
                         f"{sum(waits) / len(waits):.3f} s without, on average")

    @rule(OWN, "after each attempt wait twice as long, but at most 100 ms",
          read_log=False)
    @unittest.skipUnless(LINUX, "wake-ups are counted in /proc")
    def test_log_patience(self):
        """a log that stays full is tried again some ten times a second"""
        one, = self.join(1)
        self.exchange(one, numbered(400, 1000), [one])
        before = self.wake_ups()
        time.sleep(1.2)
        after = self.wake_ups()
        if after - before > 150:
            self.server.fail("a few attempts a second", f"{after - before} in 1.2 s")
        end = time.monotonic() + DEADLINE
        while self.wake_ups() < after + 5:
            if time.monotonic() > end:
                self.server.fail("five more attempts, in half a second", "they are late")
            time.sleep(0.02)

    @rule(OWN, "poll() stdout before writing to it; count what had to be dropped",
          read_log=False)
    def test_full_log(self):
        """nobody reads the log: the chat goes on, and the log says what is missing"""
        one, two = self.join(2)
        self.exchange(one, numbered(6000, 100), [one, two])
        self.server.start_reading()
        end = time.monotonic() + DEADLINE
        while not self.server.log.count(b"dropped") and time.monotonic() < end:
            one.sync()
        self.server.expect_log(b"dropped")
        one.send(b"the end\n")
        self.server.expect_log(b"the end")
        missing = sum(int(re.search(rb"\d+", line)[0])
                      for line in self.server.log.lines if b"dropped" in line)
        here = self.server.log.count(b"message from ")
        sent = 6001 + one.hellos + two.hellos
        if b"" in self.server.log.lines:
            self.server.fail("no empty line in the log", "there is one")
        if here + missing != sent:
            self.server.fail(f"{sent} messages logged or counted as dropped",
                             f"{here} logged, {missing} dropped")


class Lifetime(ChatsrvCase):
    """Options, exit status, and an orderly end."""

    @rule(OWN, "stop accepting, send what waits, close, exit 0", options="-q")
    def test_sigterm(self):
        """SIGTERM: everybody gets what was said, and the server ends with 0"""
        self.expect_orderly_end(signal.SIGTERM)

    @rule(OWN, "stop accepting, send what waits, close, exit 0", options="-q")
    def test_sigint(self):
        """so it does on SIGINT (^C)"""
        self.expect_orderly_end(signal.SIGINT)

    def expect_orderly_end(self, number: int) -> None:
        one, two = self.join(2)
        texts = numbered(500, 1000)
        self.exchange(one, texts, [one])
        self.server.process.send_signal(number)
        for text in texts:
            two.expect(one, text)
        for peer in (one, two):
            peer.expect_closed()
        self.server.expect_end(0)
        for peer in (one, two):
            self.expect_farewell(peer, b"server stopping")

    @rule(OWN, "shutdown(2) tells them; do not wait for a client that has left")
    def test_sigterm_soon(self):
        """clients that leave when they see the end do not keep the server from ending"""
        for _ in range(8):
            with Server(options="", says=OWN) as server:
                one = server.connect()
                one.sync()
                began = time.monotonic()
                server.process.terminate()
                one.expect_closed()
                one.sock.close()
                server.expect_end(0)
                if time.monotonic() < began + 0.9:
                    return
        self.server.fail("an end as soon as the last client has left",
                         "it came no sooner than a second after the signal")

    @rule(OWN, "wait a second for slow readers, not for ever")
    def test_sigterm_stalled(self):
        """a client that does not read does not keep the server from ending"""
        one, = self.join(1)
        self.join(1, receive_buffer=4096)
        self.exchange(one, numbered(8000, 1000), [one])
        self.server.process.terminate()
        self.server.expect_end(0)

    @rule(OWN, "wait up to a second for slow readers", options="-q -b 30000000")
    def test_sigterm_pending(self):
        """a client reading on after SIGTERM gets all, even more than the kernel holds"""
        one, = self.join(1)
        late, = self.join(1, receive_buffer=4096)
        texts = numbered(12000, 1000)
        self.exchange(one, texts, [one])
        late.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        began = time.monotonic()
        self.server.process.terminate()
        self.await_refusal(self.server)     # it is stopping
        while late.receive(DEADLINE):
            pass
        seconds = time.monotonic() - began
        self.server.expect_end(0)
        if len(late.inbox) < len(texts) and seconds < 1:
            self.server.fail(
                f"{len(texts)} lines for a client that reads on, or a second's wait",
                f"{len(late.inbox)} lines, and the end after {seconds:.2f} s")

    @rule(OWN, "the second signal moves the deadline to now")
    def test_second_signal(self):
        """a second signal ends the wait for a slow reader"""
        # This program may be held up; the server waits a second each time.
        for _ in range(8):
            with Server(options="", says=OWN) as server:
                self.stall(server)
                began = time.monotonic()
                server.process.terminate()
                self.await_refusal(server)
                server.process.terminate()
                server.expect_end(0)
                if time.monotonic() < began + 0.9:
                    return
        self.server.fail("an end at once",
                         "it came no sooner than a second after the first signal")

    @rule(OWN, "close the listening sockets before anything else")
    def test_stop_accepting(self):
        """after SIGTERM nobody is let in, while slow readers still have their time"""
        for _ in range(8):
            with Server(options="", says=OWN) as server:
                self.stall(server)
                server.process.terminate()
                self.await_refusal(server)
                if not server.has_ended(within=0.5):
                    return
        self.server.fail("connections refused while the server is stopping",
                         "they are accepted until it has ended")

    def stall(self, server: Server) -> None:
        """Gives the server a client that does not read,
        and megabytes to send to it."""
        one = server.connect()
        slow = server.connect(receive_buffer=4096)
        slow.sync()
        self.exchange(one, numbered(6000, 1000), [])
        one.sync()

    @rule(OWN, "the log's reader gets no more time than slow clients do", read_log=False)
    def test_sigterm_unread_log(self):
        """a log that nobody reads does not keep it from ending, either"""
        one, = self.join(1)
        self.exchange(one, numbered(1000, 1000), [one])
        self.server.process.terminate()
        self.server.end_is_due = True
        if not self.server.has_ended(within=3 * DEADLINE):      # it waits for 2 s
            self.server.fail("an end, though nobody reads the log", "it still runs")
        self.server.process.stdout.close()

    @rule(OWN, "look for signals while the log waits, too")
    def test_second_signal_unread_log(self):
        """a second signal ends the wait for the log's reader"""
        for _ in range(8):
            with Server(options="", says=OWN, read_log=False) as server:
                one = server.connect()
                self.exchange(one, numbered(500, 1000), [])
                one.sync()
                one.reset()             # only the log is left
                began = time.monotonic()
                server.process.terminate()
                self.await_refusal(server)
                server.process.terminate()
                server.end_is_due = True
                ended = server.has_ended(within=DEADLINE)
                server.process.stdout.close()
                if ended and time.monotonic() < began + 0.9:
                    return
        self.server.fail("an end at once",
                         "it came no sooner than a second after the first signal")

    @rule(OWN, "what nobody can ever read need not be written")
    def test_sigterm_closed_log(self):
        """a log whose reader has gone for good does not keep it from ending, either"""
        for _ in range(8):
            with Server(options="", says=OWN, read_log=False) as server:
                one = server.connect()
                one.sync()
                server.process.stdout.close()
                one.sync()
                one.reset()             # nobody but the log is left
                began = time.monotonic()
                server.process.terminate()
                if server.has_ended(within=DEADLINE) and time.monotonic() < began + 0.9:
                    return
        self.server.fail("an end at once",
                         "it came no sooner than a second after the signal")

    @rule(OWN, "getaddrinfo() with AI_PASSIVE and AI_NUMERICHOST", options="-l 127.0.0.1")
    def test_listen_address(self):
        """-l: it listens at that address"""
        self.join(1)
        self.server.expect_log(b"listening on 127.0.0.1:%d" % self.server.port)
        if self.server.log.count(b"listening on ") != 1:
            self.server.fail("one listening socket", "more")

    @rule(OWN, "getsockname() returns the port that bind() has chosen; both families use "
               "it")
    def test_port_0(self):
        """port 0 means any free port, and the log says which"""
        with Server(test.COMMAND.replace("{port}", "0"), port=1, says=OWN) as server:
            server.expect_log(b"listening on 0.0.0.0:")
            server.port = int(server.log.lines[0].rsplit(b":", 1)[1])
            server.connect().line("a greeting")
            ports = {line.rsplit(b":", 1)[1] for line in server.log.lines
                     if line.startswith(b"listening on ")}
            if len(ports) > 1:
                server.fail("the same port for both families", str(sorted(ports)))

    @rule(OWN, "exit status 0 for -h, 2 for wrong usage, 1 for a failure at start-up")
    def test_usage(self):
        """-h, wrong usage and a port in use: exit status, and where it says what"""
        self.join(1)
        port = str(self.server.port)    # in use
        cases = {"-h": 0, "-z": 2, "-t": 2, "-t x": 2, "-c 5x": 2, "abc": 2, "0x": 2,
                 "-1": 2, f"{port} {port}": 2, port: 1, "-l 300.1.1.1 0": 1,
                 "-l 192.0.2.1 0": 1, "-b 99999999999999999999": 2, "65536": 2}
        bounds = {"t": (0, 1000000), "s": (0, 1000000), "b": (1, 0), "c": (1, 2**31 - 1),
                  "i": (1, 2**31 - 1), "r": (1, 1000000)}
        for letter, (least, most) in bounds.items():
            cases[f"-{letter} {least - 1}"] = 2
            cases[f"-{letter} {least} -h"] = 0
            if most:
                cases[f"-{letter} {most + 1}"] = 2
                cases[f"-{letter} {most} -h"] = 0
        for arguments, status in cases.items():
            ended, stdout, stderr = run(f"{test.COMMAND.split('{')[0]} {arguments}")
            said = stderr if status else stdout
            if ended != status or not said or status == 1 and stderr.count(b"\n") != 1:
                self.server.fail(
                    f"chatsrv {arguments}: exit status {status}, and a line on "
                    f"{'stderr' if status else 'stdout'}",
                    f"exit status {ended}, {shown(stdout)} on stdout, {shown(stderr)} on "
                    "stderr")

    @rule(OWN, "what fflush() says is the exit status of -h")
    @unittest.skipUnless(os.path.exists("/dev/full"), "there is no /dev/full")
    def test_usage_unwritten(self):
        """-h fails if nobody can have read it"""
        self.join(1)
        ended, _, said = run(f"sh -c 'exec {test.COMMAND.split('{')[0]} -h >/dev/full'")
        if ended != 1 or not said:
            self.server.fail("exit status 1, and a line on stderr",
                             f"exit status {ended}, {shown(said)} on stderr")


@unittest.skipUnless(LINUX, "wake-ups are counted in /proc")
class Sleep(ChatsrvCase):
    """Who has nothing to do sleeps."""

    @rule(OWN, "wait without end unless there is a deadline", options="-t 1000 -r 1000")
    def test_no_wake_ups(self):
        """while nobody speaks, the server does not wake up at all"""
        one, = self.join(1)
        one.sync()
        for _ in range(3):              # what was said may still be in its log
            before = self.wake_ups()
            time.sleep(1.2)
            if self.wake_ups() == before:
                return
        self.server.fail("no wake-up in 1.2 s", f"{self.wake_ups() - before}")


class Sockets(ChatsrvCase):
    """What is set on the connections."""

    @rule(OWN, "SO_KEEPALIVE on the listening socket: those that it accepts inherit it")
    @unittest.skipUnless(LINUX, "its timer is looked up in /proc")
    def test_keepalive(self):
        """a client that vanishes without a word will be noticed"""
        one, = self.join(1)
        one.sync()
        here = "0100007F:%04X" % one.sock.getsockname()[1]
        there = "0100007F:%04X" % self.server.port
        for line in pathlib.Path("/proc/net/tcp").read_text().splitlines():
            fields = line.split()
            if fields[1:3] == [there, here]:
                timer, when = fields[5].split(":")      # which one runs: proc(5)
                if timer != "02" or int(when, 16) > 60 * os.sysconf("SC_CLK_TCK"):
                    self.server.fail("a timer for keep-alive probes, of a minute",
                                     f"timer {fields[5]}")
                return
        self.skipTest("the connection is not in /proc/net/tcp")

    @rule(OWN, "TCP_NODELAY on the listening socket: those that it accepts inherit it")
    def test_no_delay(self):
        """a short message does not wait until the one before has been acknowledged"""
        one, two = self.join(2)
        for _ in range(50):
            times = [time.monotonic()]
            for text in (b"first", b"second"):
                if LINUX:               # it answers nothing, and acknowledges late
                    two.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
                one.send(text + b"\n")
                two.sock.recv(1000)
                times.append(time.monotonic())
            first, second = (later - earlier for earlier, later in zip(times, times[1:]))
            if first < 0.01 and second < 0.02:      # an acknowledgement waits 40 ms
                return
        self.server.fail("a second message as fast as the first, if only once",
                         f"the last one took {second:.3f} s")


def skip_without_ipv6() -> None:
    if not support.has_ipv6():
        raise unittest.SkipTest("this machine has no IPv6")


def run(command: str, seconds: float = 2) -> Tuple[Optional[int], bytes, bytes]:
    """Exit status (None: it had to be killed), stdout and stderr of a command."""
    with subprocess.Popen(shlex.split(command), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          start_new_session=True) as process:
        try:
            return (process.wait(seconds), *process.communicate())
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return (None, *process.communicate())


if __name__ == "__main__":
    test.main()
