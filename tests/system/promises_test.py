#!/usr/bin/env python3
"""Tests that nothing is lost and nobody is held up, whatever clients, log and system do.

    python3 tests/system/promises_test.py [--server 'CMD {options} {port}'] [CLASS[.TEST]]

Like chatsrv_test.py, but about what goes wrong: senders that vanish, a terminal that
nobody reads, a full disk, a server that was stopped for a while, clients that talk too
much.
"""
import array
import contextlib
import fcntl
import os
import pathlib
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
import unittest
from typing import Iterator, List

import support
import test                             # tests/test.py, not Python's own
from chatsrv_test import F_SETPIPE_SZ, OWN, ChatsrvCase, skip_without_ipv6
from test import (CUT, DEADLINE, LINUX, RELEASE, TERMINATED, Peer, Server, numbered,
                  rule, shown)


def waiting(pipe: int) -> int:
    """How many bytes wait to be read."""
    left = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, left)
    return left[0]


def in_kernels(sock: socket.socket) -> int:
    """How many bytes wait for that socket, in its own kernel and the sender's (Linux)."""
    ports = [":%04X" % address[1] for address in (sock.getsockname(), sock.getpeername())]
    waiting = 0
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ends = [fields[1][-5:], fields[2][-5:]]
        to_send, to_read = (int(bytes_, 16) for bytes_ in fields[4].split(":"))
        if ends == ports:
            waiting += to_read
        elif ends == ports[::-1]:
            waiting += to_send
    return waiting


def flood(peer: Peer, size: int) -> bytes:
    """Sends lines, all different, of that many bytes in all; returns the last one."""
    texts = numbered(size // 1000, 999)
    peer.send(b"\n".join(texts) + b"\n")
    return texts[-1]


class Senders(ChatsrvCase):
    """What the kernel has acknowledged is delivered, however the sender leaves."""

    @rule(RELEASE, "an error of send(2) ends the sending only: "
                   "read on until recv(2) says the end")
    @unittest.skipUnless(LINUX, "only Linux says what has been acknowledged")
    def test_said_and_reset(self):
        """a sender's connection breaks while much of what it said is still unread"""
        witness, sender = self.join(2)
        last = flood(sender, 3000000)       # makes the kernel ready to take much at once
        for peer in (witness, sender):
            peer.collect(last)
            peer.inbox.clear()
        texts = numbered(20000, 11)
        with self.server.paused():
            sender.send(b"\n".join(texts) + b"\nbroken o")
            support.wait_for(lambda: not support.unacknowledged(sender.sock), 1)
            texts = texts[:len(texts) - (support.unacknowledged(sender.sock) + 11) // 12]
            sender.reset()
        for text in texts:
            witness.expect(sender, text)

    @rule(RELEASE, "EPIPE from send(2) says that the peer's end came before its reset")
    @unittest.skipUnless(LINUX, "other systems may say EPIPE of a broken line, too")
    def test_said_without_newline(self):
        """a sender half-closes after an unfinished line, then closes with input unread"""
        witness, other, sender = self.join(3)
        other.send(b"never read\n")
        witness.expect(other, b"never read")
        select.select([sender.sock], [], [], DEADLINE)
        with self.server.paused():
            other.send(b"sent to a broken connection\n")
            sender.send(b"unfinished")
            sender.half_close()
            sender.sock.close()
        witness.expect(other, b"sent to a broken connection")
        witness.expect(sender, b"unfinished")


class Judged(ChatsrvCase):
    """A deadline disconnects only those who have missed it."""

    @rule(CUT, "ask the kernel how much is unacknowledged before you give a client up; "
               "TCP_NOTSENT_LOWAT", options="-s 2")
    def test_slow_but_steady(self):
        """-s: a client that takes little, but again and again, stays"""
        # A small buffer: of a large one, its kernel would tell only now and then.
        one, = self.join(1)
        slow, faster = self.join(2, receive_buffer=4096)
        last = flood(one, 4000000)
        one.collect(last)
        end = time.monotonic() + 6
        while time.monotonic() < end:
            slow.sock.recv(3000)
            for _ in range(20):
                faster.sock.recv(3000)
            time.sleep(0.3)
        if self.server.log.count(TERMINATED):
            self.server.fail("clients that read 10,000 and 200,000 bytes a second to "
                             "stay", shown(self.server.log.tail(1)[0]))

    @rule(CUT, "TCP_NOTSENT_LOWAT on the listening socket, "
               "which accepted sockets inherit")
    @unittest.skipUnless(LINUX, "what waits is looked up in /proc")
    def test_kernel_memory(self):
        """little waits in the kernel for a client that does not read"""
        one, = self.join(1)
        slow, = self.join(1, receive_buffer=4096)
        last = flood(one, 8000000)
        one.collect(last)
        here = "0100007F:%04X" % slow.sock.getsockname()[1]
        for line in pathlib.Path("/proc/net/tcp").read_text().splitlines():
            fields = line.split()
            if fields[2] == here and int(fields[4].split(":")[0], 16) > 300000:
                self.server.fail("less than 300,000 bytes in the kernel", fields[4])

    @rule(CUT, "look for what the kernel holds before you judge by the clock",
          options="-q -t 4")
    def test_stopped_and_spoken(self):
        """-t: clients that spoke while the server was stopped are not idle"""
        crowd = self.join(1)
        crowd += [self.server.connect() for _ in range(299)]    # more than fit a batch
        for peer in crowd:
            peer.send(b"before\n")
        self.server.expect_log(b", 6 bytes", len(crowd))
        with self.server.paused():
            for peer in crowd:
                peer.send(b"meanwhile\n")
            time.sleep(4.2)
        self.server.expect_log(b", 9 bytes", len(crowd))

    @rule(CUT, "a round ends when all that was to be reported at its beginning has been",
          options="-q -t 3")
    def test_stopped_and_left(self):
        """-t: the same if more have left meanwhile than fit a batch"""
        crowd = self.join(1)
        crowd += [self.server.connect() for _ in range(299)]
        for peer in crowd:
            peer.send(b"before\n")
        self.server.expect_log(b", 6 bytes", len(crowd))
        with self.server.paused():
            for peer in crowd[:256]:
                peer.half_close()
            for peer in crowd[256:]:
                peer.send(b"meanwhile\n")
            time.sleep(3.2)
        self.server.expect_log(b", 9 bytes", len(crowd) - 256)

    @rule(CUT, "note when a message has been read, not when its batch began",
          options="-n -q -t 3")
    def test_stopped_in_a_batch(self):
        """-t: a pause in the middle of much work makes nobody idle"""
        speaker, *crowd = self.join(100)
        with self.server.paused():
            for peer in crowd:
                peer.send(b"\n" * 60000)
            speaker.send(b"before\n")
        time.sleep(0.05)
        with self.server.paused():
            speaker.send(b"meanwhile\n")
            time.sleep(3.2)
            began = time.monotonic()
        while speaker.receive(began + 2 - time.monotonic()):
            pass
        if speaker.ended and time.monotonic() < began + 2:
            self.server.fail("nobody disconnected in 2 s", "the one who had just spoken")

    @rule(CUT, "look for what the kernel holds before you judge by the clock",
          options="-s 2")
    def test_stopped_and_drained(self):
        """-s: a client that read all while the server was stopped is not stalled"""
        one, = self.join(1)
        slow, = self.join(1, receive_buffer=4096)
        last = flood(one, 4000000)
        one.collect(last)
        with self.server.paused():
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                slow.receive(end - time.monotonic())
        slow.collect(last)

    @rule(CUT, "send a laggard what it has room for, then look whether it still lags",
          options="-n -q -b 2000000")
    @unittest.skipUnless(LINUX, "what waits is looked up in /proc")
    def test_room_made(self):
        """-b: a client that has just made room is sent more before it is judged"""
        one, = self.join(1)
        slow, = self.join(1, receive_buffer=200000)
        one.collect(flood(one, 1000000))
        crowd = [self.server.connect() for _ in range(33)]
        burst = b"\n".join(numbered(32, 999)) + b"\n"
        # Such bursts are more than what is collected before all are sent something. With
        # them slow lags 100,000 bytes too far, less than its kernel has room for by then.
        lag = 2100000 - len(crowd) * len(burst)
        one.collect(flood(one, lag + in_kernels(slow.sock) - 1000000))
        with self.server.paused():
            for peer in crowd:
                peer.send(burst)
            while in_kernels(slow.sock):
                slow.receive(0.1)
        one.send(b"end\n")
        slow.collect(b"end")

    @rule(CUT, "a client that has half-closed cannot speak any more", options="-t 3")
    def test_half_closed_is_not_idle(self):
        """-t: a client that has half-closed and still reads is not idle"""
        one, = self.join(1)
        slow, = self.join(1, receive_buffer=4096)
        last = flood(one, 1000000)
        one.collect(last)
        slow.half_close()
        end = time.monotonic() + 4.5
        while time.monotonic() < end:
            one.send(b"\n")
            one.receive(0.1)
        slow.expect_closed()
        if not any(line.endswith(last) for line in slow.inbox):
            self.server.fail("all up to its end", f"{len(slow.inbox)} lines")
        self.expect_farewell(slow, b"end of file")


def to_file(path: str, append: bool = False, before: str = "") -> str:
    """The command that starts the server with its log going to that file."""
    script = f'{before}exec "$0" "$@" {">>" if append else ">"} {shlex.quote(path)}'
    return f"sh -c {shlex.quote(script)} {test.COMMAND}"


def to_background(path: str) -> str:
    """The command that starts the server in the background of a terminal with "stty
    tostop", which also gets its log."""
    script = ("import fcntl, os, sys, termios\n"
              "terminal = os.open(sys.argv[1], os.O_RDWR)\n"
              "fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)\n"
              "modes = termios.tcgetattr(terminal)\n"
              "modes[3] |= termios.TOSTOP\n"
              "termios.tcsetattr(terminal, termios.TCSANOW, modes)\n"
              "foreground = os.fork()\n"
              "if not foreground:\n"
              "    os.setpgid(0, 0)\n"
              "    os.execvp('sleep', ['sleep', '60'])     # our end is its hang-up\n"
              "try: os.setpgid(foreground, foreground)\n"
              "except PermissionError: pass    # it has done so, and become sleep\n"
              "os.tcsetpgrp(terminal, foreground)\n"
              "os.dup2(terminal, 1)\n"
              "os.execvp(sys.argv[2], sys.argv[2:])\n")
    python = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}"
    return f"{python} {shlex.quote(path)} {test.COMMAND}"


def to_socket(path: str) -> str:
    """The command that starts the server with its log going to that Unix socket."""
    script = ("import os, socket, sys\n"
              "log = socket.socket(socket.AF_UNIX)\n"
              "log.connect(sys.argv[1])\n"
              "os.dup2(log.fileno(), 1)\n"
              "os.execvp(sys.argv[2], sys.argv[2:])\n")
    return f"{sys.executable} -c {shlex.quote(script)} {path} {test.COMMAND}"


class Log(unittest.TestCase):
    """The log never holds up the server, and says what is missing."""

    @contextlib.contextmanager
    def terminal(self) -> Iterator[int]:
        ours, theirs = pty.openpty()
        try:
            termios.tcgetattr(theirs)
            self.name = os.ttyname(theirs)
            yield ours
        finally:
            os.close(ours)
            os.close(theirs)

    def chat(self, server: Server, texts: List[bytes]) -> Peer:
        """Everybody hears everything, newcomers too."""
        one, two = server.connect(), server.connect()
        for peer in (one, two):
            peer.sync()
        one.send(b"\n".join(texts) + b"\n")
        for peer in (one, two):
            peer.collect(texts[-1])
        late = server.connect()
        late.line("a greeting")
        server.expect_alive()
        return one

    def test_terminal_unread(self):
        """Standard output is a terminal that nobody reads for a while."""
        with self.terminal() as ours, Server(to_file(self.name)) as server:
            texts = numbered(3000, 100)
            one = self.chat(server, texts)
            log = b""
            while b"the end" not in log:
                log += os.read(ours, 1 << 16).replace(b"\r", b"")
                one.send(b"the end\n")
                one.collect(b"the end")
            self.expect_complete(log, len(texts))

    def test_terminal_background(self):
        """The terminal stops jobs in the background that write; but not the server."""
        with self.terminal() as ours, Server(to_background(self.name)) as server:
            self.chat(server, numbered(10, 100))
            log = b""
            while b"message from" not in log:
                log += os.read(ours, 1 << 16)

    def test_socket(self):
        """Standard output is a socket, as under systemd: its reader holds up nobody."""
        with tempfile.TemporaryDirectory() as folder, \
                socket.socket(socket.AF_UNIX) as listener:
            path = os.path.join(folder, "log")
            listener.bind(path)
            listener.listen(1)
            with Server(to_socket(path)) as server:
                texts = numbered(8000, 100)
                one = self.chat(server, texts)
                reader, _ = listener.accept()
                log = b""
                with reader:
                    while b"the end" not in log:
                        log += reader.recv(1 << 16)
                        one.send(b"the end\n")
                        one.collect(b"the end")
                self.expect_complete(log, len(texts))

    @unittest.skipUnless(LINUX, "flags are looked up in /proc")
    def test_flags(self):
        """Nobody else notices how the server writes without waiting."""
        with self.terminal(), tempfile.TemporaryDirectory() as folder:
            fifo = os.path.join(folder, "fifo")
            os.mkfifo(fifo)
            reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
            for path in (self.name, fifo):
                with self.subTest(path=path), Server(to_file(path)) as server:
                    server.connect().line("a greeting")
                    proc = f"/proc/{server.process.pid}"
                    flags = {fd: int(info.read_text().split()[3], 8) for fd, info in
                             ((info.name, info)
                              for info in pathlib.Path(f"{proc}/fdinfo").iterdir())
                             if os.readlink(f"{proc}/fd/{fd}") == path}
                    self.assertFalse(flags.pop("1") & os.O_NONBLOCK)
                    self.assertEqual([value & os.O_NONBLOCK for value in flags.values()],
                                     [os.O_NONBLOCK])
            os.close(reader)

    @unittest.skipUnless(LINUX, "how much a pipe holds is fixed elsewhere")
    def test_reader_exchanged(self):
        """A named pipe's reader goes in the middle of a line, and another one comes:
        what is missing is told in a line of its own."""
        with tempfile.TemporaryDirectory() as folder:
            fifo = os.path.join(folder, "fifo")
            os.mkfifo(fifo)
            reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
            fcntl.fcntl(reader, F_SETPIPE_SZ, 4096)
            with Server(to_file(fifo)) as server:
                one = server.connect()
                one.sync()
                log = b""
                while b"<hello" not in log:
                    select.select([reader], [], [], DEADLINE)
                    log += os.read(reader, 4096)
                texts = b"\x01" * 1024, b"unlogged", b"unlogged, too"
                for text in texts:      # the first one takes 4096 bytes of log, and more
                    one.send(text + b"\n")
                    one.collect(text)
                    if text == texts[0]:
                        support.wait_for(lambda: waiting(reader) == 4096)
                        os.close(reader)
                reader = os.open(fifo, os.O_RDONLY)
                log = b""
                while b"the end" not in log:
                    one.send(b"the end\n")
                    one.collect(b"the end")
                    log += os.read(reader, 1 << 16)
            os.close(reader)
        self.assertRegex(log[-300:], rb"[x01\\]\ndropped \d+ lines? of the log\nmessage ")

    def test_file_size(self):
        """The log's file may not grow any more: the server just waits until it may."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "log")
            with Server(to_file(str(path), append=True,
                                before="ulimit -f 16; ")) as server:
                texts = numbered(3000, 100)
                one = self.chat(server, texts)
                log = b""
                while b"the end" not in log:
                    time.sleep(0.02)
                    log += path.read_bytes()
                    os.truncate(path, 0)
                    one.send(b"the end\n")
                    one.collect(b"the end")
                self.expect_complete(log, len(texts))

    def expect_complete(self, log: bytes, sent: int) -> None:
        """The log consists of whole lines, and those that are missing are counted."""
        said = [line for line in log.split(b"\n") if b": 0" in line]
        for line in said:
            self.assertRegex(line, rb"\Amessage from 127.0.0.1:\d+: 0[0-9.~]{99}\Z")
        dropped = sum(map(int, re.findall(rb"\ndropped (\d+) lines? of the log\n", log)))
        self.assertLess(len(said), sent)
        self.assertGreaterEqual(len(said) + dropped, sent)

    @unittest.skipUnless(os.path.exists("/dev/full"), "there is no /dev/full")
    def test_full_disk(self):
        """Nothing can be written: the chat goes on, and SIGTERM ends it."""
        with Server(to_file("/dev/full")) as server:
            self.chat(server, numbered(5000, 100))
            server.expect_idle("while nothing can be written")
            server.process.terminate()
            server.end_is_due = True
            self.assertTrue(server.has_ended(within=DEADLINE))
            self.assertEqual(server.process.returncode, 0)

    def test_last_lines(self):
        """At the end, the server's own lines come before waiting lines about messages."""
        with Server(options="", read_log=False) as server:
            one = server.connect()
            last = flood(one, 1000000)
            one.collect(last)
            server.process.terminate()
            time.sleep(1.4)             # its clients' second is over, its log's is not
            server.start_reading()
            server.expect_end(0)
            self.assertEqual(server.log.count(b"server stopping"), 1)


class Stopping(ChatsrvCase):
    """The end of the server loses nothing that has been said."""

    @rule(OWN, "shutdown(2), then read and discard until the peer closes")
    def test_input_unread(self):
        """a client that was sending when SIGTERM came still gets all that it was sent"""
        self.expect_all_sent(1000000)

    @rule(OWN, "shutdown(2), then read and discard until the peer closes")
    def test_input_unread_all_sent(self):
        """the same when the kernel holds all of that already"""
        self.expect_all_sent(0)

    def expect_all_sent(self, size: int) -> None:
        one, = self.join(1)
        slow, = self.join(1, receive_buffer=4096)
        if size:
            one.collect(flood(one, size))
        unread = (b"never read " * 90 + b"\n") * 110    # more than one read takes
        with self.server.paused():
            slow.send(unread)
            self.server.process.terminate()
            began = time.monotonic()
        self.await_refusal(self.server)
        time.sleep(0.1)
        while not slow.ended:               # and it goes on sending
            slow.sock.setblocking(False)
            with contextlib.suppress(OSError):
                slow.sock.send(b"!" if size else unread)
            slow.receive(DEADLINE)
        seconds = time.monotonic() - began      # this program may have been held up
        one.expect_closed()
        said, came = (b"\n".join(peer.inbox) + peer.rest for peer in (one, slow))
        if b"never read" not in said or not came.endswith(said[-100000:]) and seconds < 1:
            self.server.fail(f"the same end of the chat for both, {shown(said[-50:])}",
                             shown(came[-50:]))
        for peer in (one, slow):
            peer.sock.close()
        self.server.expect_end(0)

    @rule(OWN, "SIGHUP is like SIGTERM, but never counts as the second signal")
    def test_sighup(self):
        """SIGHUP ends it in order; a second SIGHUP does not cut that short"""
        one, = self.join(1)
        slow, = self.join(1, receive_buffer=4096)
        last = flood(one, 4000000)
        one.collect(last)
        began = time.monotonic()
        for _ in range(2):
            self.server.process.send_signal(signal.SIGHUP)
            time.sleep(0.05)
        self.expect_drained(slow, last, began)
        self.expect_farewell(slow, b"server stopping")

    @rule(OWN, "after SIGCONT, the second for slow readers begins anew")
    def test_stopped_while_stopping(self):
        """a pause while it ends does not cut off those who read on"""
        one, = self.join(1)
        slow, = self.join(1, receive_buffer=4096)
        last = flood(one, 4000000)
        one.collect(last)
        self.server.process.terminate()
        self.await_refusal(self.server)
        with self.server.paused():
            time.sleep(1.2)
            began = time.monotonic()
        self.expect_drained(slow, last, began)

    @rule(OWN, "the second is over when all that happened in a pause has been seen",
          options="-q")
    def test_stopped_in_a_crowd(self):
        """the same if more clients speak in the pause than fit a batch"""
        one, = self.join(1)
        slow, = self.join(1, receive_buffer=4096)
        last = flood(one, 4000000)
        one.collect(last)
        crowd = [self.server.connect() for _ in range(300)]
        self.server.expect_log(b"accepted connection", 302)
        self.server.process.terminate()
        self.await_refusal(self.server)
        self.server.settle()
        with self.server.paused():
            for peer in crowd:
                peer.send(b"!")
            time.sleep(1.2)
            began = time.monotonic()
        self.expect_drained(slow, last, began)

    def expect_drained(self, slow: Peer, last: bytes, began: float) -> None:
        """A client that reads on gets all up to the last line, or has had a second."""
        while slow.receive(DEADLINE):
            pass
        seconds = time.monotonic() - began      # we may have been held up ourselves
        if not (slow.inbox and slow.inbox[-1].endswith(last)) and seconds < 1:
            self.server.fail("all that was said for a client that reads on, or "
                             "a second's wait", f"the end after {seconds:.2f} s")
        self.server.expect_end(0)

    @rule(OWN, "see what SIGHUP does at the start", command=f"nohup {test.COMMAND}")
    def test_nohup(self):
        """under nohup, SIGHUP does nothing"""
        one, = self.join(1)
        self.server.process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        self.join(1)[0].sock.close()
        self.server.process.terminate()
        one.expect_closed()
        one.sock.close()
        self.server.expect_end(0)


class Start(ChatsrvCase):
    """What the server meets when it is started."""

    @rule(OWN, "open /dev/null in their place",
          command=f"""sh -c 'exec "$0" "$@" <&- >&- 2>&-' {test.COMMAND}""")
    def test_closed_descriptors(self):
        """standard input, output and error are closed: nothing takes their place"""
        one, two = self.join(2)
        one.send(b"hi\n")
        for peer in (one, two):
            peer.expect(one, b"hi")
            peer.expect_no_more()
        for fd in range(3 if LINUX else 0):
            opened = os.readlink(f"/proc/{self.server.process.pid}/fd/{fd}")
            if opened != "/dev/null":
                self.server.fail(f"/dev/null as descriptor {fd}", opened)

    @rule(OWN, "say so on stderr", options="-c 1000", nofile=64)
    def test_too_many_clients(self):
        """a -c above what descriptors allow is reported"""
        self.join(1)
        if not self.server.stderr.count(b"-c 1000: the limit of descriptors allows "
                                        b"40 clients"):
            self.server.fail("a line on stderr", "none")

    @rule(OWN, "setrlimit() up to the hard limit", options="-c 100",
          command=f"""sh -c 'ulimit -S -n 64; exec "$0" "$@"' {test.COMMAND}""")
    def test_soft_limit(self):
        """the soft limit of descriptors does not count"""
        crowd = self.join(80)
        crowd[-1].sync()
        if self.server.stderr.lines:
            self.server.fail("nothing on stderr", shown(self.server.stderr.lines[0]))


# Takes ports at an address, and becomes the server, which keeps them.
TAKE = """\
import os, socket, sys
for port in 40001, 40003, 40005:
    taken = socket.create_server(("127.0.0.2", port))
    os.set_inheritable(taken.detach(), True)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@unittest.skipUnless(LINUX and shutil.which("unshare"),
                     "needs a machine of its own: unshare(1)")
class Hosts(unittest.TestCase):
    """Names of hosts mean what the system says, however it says it."""

    def test_listed_twice(self):
        """If a host is listed twice with one address, the server listens there once; an
        address of another machine is left out."""
        with tempfile.NamedTemporaryFile("w", suffix=".hosts") as hosts:
            hosts.write("".join(f"{address} twice\n" for address in (
                "127.0.0.1", "127.0.0.1", "127.0.0.2", "192.0.2.1")))
            hosts.flush()
            alone = (f"unshare -rm sh -c 'mount --bind {hosts.name} /etc/hosts"
                     " && \"$0\" \"$@\"'")
            if subprocess.call(shlex.split(alone) + ["true"], stderr=subprocess.DEVNULL):
                self.skipTest("unshare -rm is not allowed here")
            with Server(f"{alone} {test.COMMAND}", options="-l twice") as server:
                server.connect().line("a greeting")
                server.expect_log(b"listening on 127.0.0.1:")
                server.expect_log(b"listening on 127.0.0.2:")
                self.assertEqual(server.log.count(b"listening on"), 2)

    def test_port_taken(self):
        """Port 0 is one that is free at all addresses, even where three of four ports
        are taken at the second one."""
        with tempfile.NamedTemporaryFile("w", suffix=".hosts") as hosts:
            hosts.write("127.0.0.1 two\n127.0.0.2 two\n")
            hosts.flush()
            # Linux looks first for an odd number in the lower half of the range.
            alone = (f"unshare -rmn sh -c 'mount --bind {hosts.name} /etc/hosts"
                     " && ip link set lo up"
                     " && echo 40000 40015 >/proc/sys/net/ipv4/ip_local_port_range"
                     " && \"$0\" \"$@\"'")
            if subprocess.call(shlex.split(alone) + ["true"], stderr=subprocess.DEVNULL):
                self.skipTest("unshare -rmn and ip(8) are of no use here")
            command = (f"{alone} {shlex.quote(sys.executable)} -c '{TAKE}' "
                       + test.COMMAND.replace("{port}", "0"))
            for _ in range(8):
                with Server(command, options="-l two", port=1) as server:
                    server.expect_log(b"listening on 127.0.0.2:")
                    ports = {line.rsplit(b":", 1)[1] for line in server.log.lines[:2]}
                    self.assertEqual(len(ports), 1, server.log.lines)


class Protections(ChatsrvCase):
    """What bounds the trouble that one client or address can make."""

    @rule(OWN, "a token bucket per client; what it may not say yet stays in its socket",
          options="-r 20")
    def test_rate(self):
        """-r: a burst, then N per second; nothing is lost, nobody else waits"""
        one, = self.join(1)
        fast = self.server.connect()
        fast.line("a greeting")
        started = time.monotonic()
        fast.send(b"fast\n" * 260)
        fast.half_close()
        came: List[float] = []
        while len(came) < 260 and time.monotonic() < started + 4 * DEADLINE:
            one.sync()                  # one message of its own
            time.sleep(0.1)             # it may itself say at most 20 a second
            came += [time.monotonic() - started] * (len(one.inbox))
            one.inbox.clear()
        if len(came) != 260:
            self.server.fail("260 messages", f"{len(came)}")
        if came[-1] < 2.5 or came[199] > came[-1] - 1:
            self.server.fail("200 messages at once, and 20 a second then",
                             f"the 200th after {came[199]:.1f} s,"
                             f" the last after {came[-1]:.1f} s")

    @rule(OWN, "look with MSG_PEEK before you take", options="-r 100")
    def test_rate_one_read(self):
        """-r: many messages in one read count as many; a client that leaves loses none"""
        one, fast = self.join(2)
        started = time.monotonic()
        fast.send(b"\n" * 1250)
        support.wait_for(lambda: not LINUX or not support.unacknowledged(fast.sock))
        fast.reset()
        while len(one.inbox) < 1250 and one.receive(DEADLINE):
            most = 1000 + 100 * (time.monotonic() - started)
            if len(one.inbox) > most + 5:
                self.server.fail(f"at most {most:.0f} messages by now",
                                 f"{len(one.inbox)}")
        if len(one.inbox) != 1250:
            self.server.fail("1250 messages", f"{len(one.inbox)}")

    @rule(OWN, "who comes back finds the bucket as it was left", options="-r 20")
    def test_rate_again(self):
        """-r: who leaves and comes back may say no more than one who stays"""
        one, fast = self.join(2)
        started, said = time.monotonic(), 0
        for count in 190, 60:
            said += count
            fast.send(b"\n" * count)
            fast.half_close()
            while len(one.inbox) < said and one.receive(DEADLINE):
                most = 200 + 20 * (time.monotonic() - started)
                if len(one.inbox) > most + 2:
                    self.server.fail(f"at most {most:.0f} messages by now",
                                     f"{len(one.inbox)}")
            fast.expect_closed()
            fast = self.server.connect()
        if len(one.inbox) != said:
            self.server.fail(f"{said} messages", f"{len(one.inbox)}")

    @rule(OWN, "a pause is nobody's silence", options="-r 1 -t 2")
    def test_rate_idle(self):
        """-r: a client that waits to be read is not idle"""
        one = self.server.connect()
        one.send(b"x\n" * 14)
        for _ in range(15):
            one.line()

    @rule(OWN, "count the clients of each address", options="-i 2")
    def test_addresses(self):
        """-i: a client too many from one address is sent away; others are let in"""
        one, two = self.join(2)
        for _ in range(3):
            late = self.server.connect()
            self.assertEqual(late.expect_closed(), b"Server full\n")
            self.server.expect_log(b"refused connection: %s (too many from its address)"
                                   % late.address)
        two.leave()
        self.expect_farewell(two, b"end of file")
        self.join(1)
        skip_without_ipv6()
        self.join(2, host="::1")
        one.sync()

    @rule(OWN, "log that there was a message", options="-q")
    def test_quiet(self):
        """-q: the log does not say what has been said"""
        one, two = self.join(2)
        one.send(b"secret\n")
        two.expect(one, b"secret")
        self.server.expect_log(b"message from %s, 6 bytes" % one.address)
        if self.server.log.count(b"secret"):
            self.server.fail("no text in the log", "it is there")


if __name__ == "__main__":
    test.main()
