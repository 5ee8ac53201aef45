#!/usr/bin/env python3
"""Checks the chat client from outside: in pipes, and on a terminal.

    python3 tests/system/chatcl_test.py [ClassOrTest ...]

The client is build/chatcl, or the command in the environment variable CHATCL. The tests
play the server. The terminal is a pseudo-terminal with a small emulator behind it
(screen.py), so the tests compare what a user would see; a parent that knows job control
(JOB) stands in for the shell. TmuxTest uses tmux as the terminal. Nothing depends on how
fast things happen: each wait ends with its event, or fails after DEADLINE seconds.
"""
import contextlib
import fcntl
import hashlib
import os
import pty
import random
import re
import resource
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest
from typing import List

from screen import Screen
from support import reset_on_close, wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CHATCL = shlex.split(os.environ.get("CHATCL", os.path.join(ROOT, "build", "chatcl")))
DEADLINE = float(os.environ.get("CHATSRV_TEST_DEADLINE") or 20)

# Runs a command as a shell runs a job in the foreground of its terminal. It reports
# "pid N", "stopped", "exited N" or "killed N"; any order continues what has stopped.
JOB = r"""
import fcntl, os, signal, sys, termios
report, orders, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    for number in range(1, signal.NSIG):  # whoever runs the tests may ignore some
        try: signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError): pass
    os.close(report), os.close(orders)
    os.execvp(command[0], command)
say = lambda text: os.write(report, text.encode() + b"\n")
say("pid %d" % pid)
while True:
    status = os.waitpid(pid, os.WUNTRACED)[1]
    os.tcsetpgrp(0, os.getpgrp())
    if not os.WIFSTOPPED(status):
        break
    say("stopped")
    os.read(orders, 1)
    os.tcsetpgrp(0, pid)
    os.killpg(pid, signal.SIGCONT)
say("killed %d" % os.WTERMSIG(status) if os.WIFSIGNALED(status)
    else "exited %d" % os.WEXITSTATUS(status))
"""


def cpu_seconds() -> float:
    """The processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class ServerEnd:
    """The server's end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(DEADLINE)

    def say(self, data) -> None:
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def hear(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(min(size - len(data), 65536))
            if not piece:
                break
            data += piece
        return data

    def hear_all(self) -> bytes:
        return self.hear(1 << 40)

    def reset(self) -> None:
        """Goes away like a killed server that has not read everything."""
        reset_on_close(self.socket)
        self.socket.close()


class ClientTest(unittest.TestCase):
    def setUp(self) -> None:
        self.listener = self.listen(0)
        self.port = self.listener.getsockname()[1]

    def listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        self.addCleanup(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        listener.settimeout(DEADLINE)
        return listener

    def accept(self) -> ServerEnd:
        connection = self.listener.accept()[0]
        self.addCleanup(connection.close)
        return ServerEnd(connection)


# ---- in pipes ----


class PipeTest(ClientTest):
    def start(self, *options: str, port=None, stdin=subprocess.PIPE,
              stdout=subprocess.PIPE) -> subprocess.Popen:
        command = CHATCL + list(options) + ["127.0.0.1", str(port or self.port)]
        client = subprocess.Popen(command, stdin=stdin, stdout=stdout,
                                  stderr=subprocess.PIPE)
        self.addCleanup(self.end, client)
        return client

    @staticmethod
    def end(client: subprocess.Popen) -> None:
        client.kill()
        client.wait()
        for pipe in (client.stdin, client.stdout, client.stderr):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass

    def finish(self, client: subprocess.Popen, status: int, stderr: str = "") -> bytes:
        """Ends the input, checks how the client ends, returns the rest of its output."""
        out, err = client.communicate(timeout=DEADLINE)
        self.assertEqual(err.decode(), stderr)
        self.assertEqual(client.returncode, status)
        return out

    def test_lines_in_and_out(self) -> None:
        client = self.start()
        peer = self.accept()
        peer.say("Welcome\n")
        client.stdin.write(b"a\nb\n")
        client.stdin.close()
        client.stdin = None
        self.assertEqual(peer.hear_all(), b"a\nb\n")  # up to the end: it has hung up
        peer.say("you: a\nyou: b\n")
        peer.socket.close()
        self.assertEqual(self.finish(client, 0), b"Welcome\nyou: a\nyou: b\n")

    def test_nothing_to_say(self) -> None:
        client = self.start(stdin=subprocess.DEVNULL)
        peer = self.accept()
        self.assertEqual(peer.hear_all(), b"")
        peer.say("unfinished")
        peer.socket.close()
        self.assertEqual(self.finish(client, 0), b"unfinished")

    def test_closed_input(self) -> None:
        """If standard input were the socket, the server would be sent its own words."""
        command = " ".join(map(shlex.quote, CHATCL + ["127.0.0.1", str(self.port)]))
        client = subprocess.Popen(["sh", "-c", "exec " + command + " <&-"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.end, client)
        peer = self.accept()
        peer.say("Welcome\n")
        self.assertEqual(peer.hear_all(), b"")

    def test_ten_megabytes_unchanged(self) -> None:
        data = random.Random(1).getrandbits(8 * 10_000_000).to_bytes(10_000_000, "big")
        heard = hashlib.sha256()

        def echo() -> None:
            peer = self.accept()
            for piece in iter(lambda: peer.socket.recv(65536), b""):
                heard.update(piece)
                peer.say(piece)
            peer.socket.close()

        server = threading.Thread(target=echo)
        server.start()
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            client = self.start(stdin=file)
            out = self.finish(client, 0)
        server.join()
        self.assertEqual(heard.digest(), hashlib.sha256(data).digest())
        self.assertTrue(out == data, "the output is not what the server has sent")

    def feed(self, client: subprocess.Popen) -> bytes:
        """Gives the client as much input as it takes, then ends the input; returns it.
        A second without progress counts as a standstill; a wrong guess does no harm."""
        block = bytes(range(256)) * 256
        written = 0
        os.set_blocking(client.stdin.fileno(), False)
        while select.select([], [client.stdin], [], 1)[1]:
            written += os.write(client.stdin.fileno(), block[written % len(block):])
            self.assertLess(written, 64 << 20, "the client takes input for ever")
        client.stdin.close()
        client.stdin = None
        return (block * (written // len(block) + 1))[:written]

    def test_server_that_does_not_read(self) -> None:
        client = self.start()
        peer = self.accept()
        written = self.feed(client)
        self.assertTrue(peer.hear_all() == written)
        peer.socket.close()
        self.assertEqual(self.finish(client, 0), b"")

    def fill(self, peer: ServerEnd) -> bytes:
        """Says as much as the client takes and the kernel holds; returns it."""
        block = bytes(range(250)) * 200  # not in pages: the last one fits in half
        sent = 0
        peer.socket.setblocking(False)
        while select.select([], [peer.socket], [], 1)[1]:
            sent += peer.socket.send(block[sent % len(block):])
            self.assertLess(sent, 64 << 20, "the client takes what it cannot write")
        peer.socket.settimeout(DEADLINE)
        return (block * (sent // len(block) + 1))[:sent]

    def test_output_that_is_not_read(self) -> None:
        before = cpu_seconds()
        client = self.start()
        peer = self.accept()
        sent = self.fill(peer)
        client.stdin.write(b"still alive\n")
        client.stdin.flush()
        self.assertEqual(peer.hear(12), b"still alive\n")
        peer.socket.close()
        self.assertTrue(self.finish(client, 0) == sent)
        self.assertLess(cpu_seconds() - before, 0.3, "the client does not sleep")

    def test_server_vanishes_while_nobody_reads(self) -> None:
        before = cpu_seconds()
        client = self.start()
        peer = self.accept()
        self.feed(client)
        sent = self.fill(peer)
        peer.reset()
        time.sleep(1)  # would cost a second of CPU, if the client tried again and again
        out, err = client.communicate(timeout=DEADLINE)
        self.assertEqual(client.returncode, 1)
        self.assertRegex(err, rb"\Achatcl: read 127.0.0.1:\d+: .+\n\Z")
        self.assertTrue(sent.startswith(out))
        self.assertLess(cpu_seconds() - before, 0.3, "the client does not sleep")

    def test_output_that_is_closed(self) -> None:
        client = self.start()
        peer = self.accept()
        client.stdout.close()
        client.stdout = None
        peer.say("is anybody there?\n")
        self.finish(client, 1, "chatcl: write standard output: Broken pipe\n")

    def test_server_hangs_up_first(self) -> None:
        client = self.start()
        peer = self.accept()
        peer.say("Goodbye\n")
        peer.socket.close()
        client.wait(DEADLINE)  # with the input still open
        self.assertEqual(self.finish(client, 0), b"Goodbye\n")

    def test_server_vanishes(self) -> None:
        client = self.start()
        peer = self.accept()
        peer.say("Welcome\n")
        self.assertEqual(client.stdout.readline(), b"Welcome\n")
        peer.reset()
        client.wait(DEADLINE)  # with the input still open
        self.finish(client, 1, f"chatcl: read 127.0.0.1:{self.port}: "
                               "Connection reset by peer\n")

    def test_refused(self) -> None:
        self.listener.close()
        self.finish(self.start(), 1, f"chatcl: connect 127.0.0.1:{self.port}: "
                                     "Connection refused\n")

    def test_refused_at_once(self) -> None:
        """TCP cannot broadcast: connect(2) itself says so, in words that vary."""
        client = subprocess.run(CHATCL + ["255.255.255.255", "9"],
                                stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.assertEqual(client.returncode, 1)
        self.assertRegex(client.stderr, rb"\Achatcl: connect 255.255.255.255:9: .+\n\Z")
        self.assertNotIn(os.strerror(0).encode(), client.stderr)

    def test_localhost_may_be_two_addresses(self) -> None:
        """Whichever address the client tries first, the server is at only one of them."""
        client = subprocess.Popen(CHATCL + ["localhost", str(self.port)],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
        self.addCleanup(self.end, client)
        peer = self.accept()
        peer.say("found\n")
        peer.socket.close()
        self.assertEqual(self.finish(client, 0), b"found\n")

    def test_again_and_again(self) -> None:
        self.listener.close()
        client = self.start("-r")
        refused = f"chatcl: connect 127.0.0.1:{self.port}: Connection refused; "
        for seconds in (1, 2):
            self.assertEqual(client.stderr.readline().decode(),
                             f"{refused}trying again in {seconds} s\n")
        self.listener = self.listen(self.port)
        peer = self.accept()
        peer.say("first\n")
        client.stdin.write(b"one\n")
        client.stdin.flush()
        self.assertEqual(peer.hear(4), b"one\n")
        peer.socket.close()
        self.assertEqual(client.stderr.readline().decode().split("; ")[1:],
                         ["what was sent last may be lost",
                          "trying again in 1 s\n"])  # after a success it begins anew
        client.stdin.write(b"two\n")
        client.stdin.close()
        client.stdin = None
        peer = self.accept()
        peer.say("second\n")
        self.assertEqual(peer.hear_all(), b"two\n")
        peer.socket.close()
        self.assertEqual(self.finish(client, 0), b"first\nsecond\n")

    def test_full_server(self) -> None:
        client = self.start()
        client.stdin.write(b"hi\n")
        client.stdin.flush()
        peer = self.accept()
        self.assertEqual(peer.hear(3), b"hi\n")
        for piece in ("Serv", "er full\n"):
            peer.say(piece)
            time.sleep(0.05)  # the client may see two pieces, or one
        peer.socket.close()
        said = f"chatcl: connect 127.0.0.1:{self.port}: Server full\n"
        self.assertEqual(self.finish(client, 1, said), b"Server full\n")

    def test_full_server_again_and_again(self) -> None:
        client = self.start("-r", stdin=subprocess.DEVNULL)
        for seconds in (1, 2):
            peer = self.accept()
            peer.say("Server full\n")
            peer.socket.close()
            self.assertEqual(client.stderr.readline().decode(),
                             f"chatcl: connect 127.0.0.1:{self.port}: Server full;"
                             f" trying again in {seconds} s\n")
        peer = self.accept()
        peer.say("Welcome\n")
        peer.socket.close()
        self.finish(client, 0)

    def test_full_server_is_sent_nothing(self) -> None:
        """A turn in which this test was slower than the client's patience (2 s with a
        server that does not greet) says nothing: then it is done once more."""
        slow = True
        while slow:
            began = time.monotonic()
            client = self.start("-r")
            client.stdin.write(b"hi\n")
            client.stdin.close()
            client.stdin = None
            peer = self.accept()
            for piece in ("Server", " full\n"):
                time.sleep(0.05)  # the client could say something meanwhile
                peer.say(piece)
            slow = time.monotonic() - began > 1
            peer.socket.shutdown(socket.SHUT_WR)
            heard = peer.hear_all()
            peer = self.accept()
            peer.say("Welcome\n")
            heard_then = peer.hear_all()
            peer.socket.close()
            self.finish(client, 0, f"chatcl: connect 127.0.0.1:{self.port}: Server full;"
                                   f" trying again in 1 s\n")
        self.assertEqual((heard, heard_then), (b"", b"hi\n"))

    def test_half_sent_line(self) -> None:
        """The rest of a line must not become a message of the next connection."""
        client = self.start("-r")
        peer = self.accept()
        peer.say("Welcome\n")
        client.stdin.write(b"whole\nhalf")
        client.stdin.flush()
        self.assertEqual(peer.hear(10), b"whole\nhalf")
        peer.reset()
        self.assertEqual(client.stderr.readline(),
                         b"chatcl: half a line was sent; the rest is dropped\n")
        for rest in (b" a line,", b" its end\nnext\n"):
            client.stdin.write(rest)
            client.stdin.flush()
            time.sleep(0.05)  # the client may see two pieces, or one
        peer = self.accept()
        peer.say("Welcome\n")
        self.assertEqual(peer.hear(5), b"next\n")
        client.stdin.close()
        client.stdin = None
        self.assertEqual(peer.hear_all(), b"")
        peer.socket.close()
        client.communicate(timeout=DEADLINE)
        self.assertEqual(client.returncode, 0)

    def test_last_line_without_a_newline(self) -> None:
        """It has no other half: nothing is dropped."""
        client = self.start("-r")
        client.stdin.write(b"the end")
        client.stdin.close()
        client.stdin = None
        peer = self.accept()
        peer.say("Welcome\n")
        self.assertEqual(peer.hear_all(), b"the end")
        peer.reset()
        self.assertRegex(client.stderr.readline(), b"chatcl: read .* again in 1 s\n")
        peer = self.accept()
        peer.say("Welcome\n")
        self.assertEqual(peer.hear_all(), b"")
        peer.socket.close()
        self.finish(client, 0)

    def test_half_received_line(self) -> None:
        client = self.start("-r")
        peer = self.accept()
        peer.say("Welcome\n::1: whole\n::1: ha")
        peer.socket.close()
        self.assertEqual(client.stderr.readline(),
                         b"chatcl: half a line has come; it is dropped\n")
        self.assertEqual(client.stderr.readline().decode().split("; ")[1:],
                         ["trying again in 1 s\n"])  # nothing was sent that may be lost
        client.stdin.close()
        client.stdin = None
        peer = self.accept()
        peer.say("Welcome\nand the end")
        peer.socket.close()
        out, _ = client.communicate(timeout=DEADLINE)
        self.assertEqual(out, b"Welcome\n::1: whole\nWelcome\nand the end")

    def test_half_written_line(self) -> None:
        """The rest of it has come as well, and waits only for the output."""
        client = self.start("-r")
        peer = self.accept()
        line = b"x" * 100_000 + b"\n"  # more than a pipe holds
        peer.say(line)
        peer.socket.close()
        self.assertRegex(client.stderr.readline(), b"chatcl: read .* again in 1 s\n")
        client.stdin.close()
        client.stdin = None
        peer = self.accept()
        peer.say("Welcome\n")
        self.assertEqual(peer.hear_all(), b"")
        peer.socket.close()
        self.assertTrue(self.finish(client, 0) == line + b"Welcome\n")

    def test_usage(self) -> None:
        for arguments in ("-x", "a 1 b", "a 0", "a 65536", "a 1x", "a -1"):
            client = subprocess.run(CHATCL + arguments.split(), stdin=subprocess.DEVNULL,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual((client.returncode, client.stdout), (2, b""))
            self.assertRegex(client.stderr, rb"\Achatcl: [^\n]+\n\Z")
        client = subprocess.run(CHATCL + ["-h"], stdout=subprocess.PIPE)
        self.assertEqual(client.returncode, 0)
        self.assertTrue(client.stdout.startswith(b"usage: chatcl [-hrt] [host [port]]\n"))

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_usage_that_cannot_be_written(self) -> None:
        with open("/dev/full", "w") as full:
            client = subprocess.run(CHATCL + ["-h"], stdout=full, stderr=subprocess.PIPE)
        self.assertEqual(client.returncode, 1)
        self.assertRegex(client.stderr, rb"\Achatcl: write standard output: [^\n]+\n\Z")


# ---- on a terminal ----

UP, DOWN, RIGHT, LEFT = b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D"
HOME, END = b"\x1b[H", b"\x1b[F"
PASTE, PASTED = b"\x1b[200~", b"\x1b[201~"


class TerminalCase(ClientTest):
    WIDTH, HEIGHT = 80, 24

    def setUp(self) -> None:
        super().setUp()
        self.master, self.slave = pty.openpty()
        self.addCleanup(os.close, self.slave)
        self.addCleanup(os.close, self.master)
        self.modes = termios.tcgetattr(self.slave)
        self.screen = Screen(self.WIDTH, self.HEIGHT)
        self.resize(self.WIDTH)

    def resize(self, width: int, height: int = HEIGHT) -> None:
        self.screen.resize(width, height)
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def start(self, *options: str, prompt: str = "> |", **environment: str) -> ServerEnd:
        """Starts the client; returns the connection, after the greeting."""
        self.start_job(*options, "127.0.0.1", str(self.port), **environment)
        peer = self.accept()
        peer.say("Welcome\n")
        self.sees("Welcome", prompt)
        return peer

    def start_job(self, *arguments: str, **environment: str) -> None:
        self.start_command(CHATCL + list(arguments), **environment)

    def start_command(self, command: List[str], **environment: str) -> None:
        reports, report = os.pipe()
        orders, order = os.pipe()
        self.addCleanup(os.close, order)
        self.reports = os.fdopen(reports)
        self.addCleanup(self.reports.close)
        self.order = order
        self.parent = subprocess.Popen(
            [sys.executable, "-c", JOB, str(report), str(orders)] + command,
            stdin=self.slave, stdout=self.slave, stderr=self.slave,
            start_new_session=True, pass_fds=(report, orders),
            env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment})
        os.close(report), os.close(orders)
        self.pid = int(self.reported().split()[1])
        self.addCleanup(self.end, self.parent, self.pid)

    @staticmethod
    def end(parent: subprocess.Popen, pid: int) -> None:
        if parent.poll() is None:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has just ended: the connection is closed by now
            parent.kill()
        parent.wait()

    def reported(self, looking: bool = True) -> str:
        """The parent's next word. Usually the screen is read meanwhile."""
        deadline = time.monotonic() + DEADLINE
        while not select.select([self.reports], [], [], 0 if looking else 0.05)[0]:
            self.assertLess(time.monotonic(), deadline, "the client does not end or stop")
            if looking:
                self.look()
        return self.reports.readline().strip()

    def look(self) -> None:
        if select.select([self.master], [], [], 0.05)[0]:
            self.screen.feed(os.read(self.master, 65536))

    def type(self, keys) -> None:
        os.write(self.master, keys.encode() if isinstance(keys, str) else keys)

    def sees(self, *lines: str) -> None:
        """Waits until these are the screen's last lines."""
        deadline = time.monotonic() + DEADLINE
        while self.screen.lines()[-len(lines):] != list(lines):
            if time.monotonic() > deadline:
                self.assertEqual(self.screen.lines(), list(lines))
            self.look()
        self.assertEqual(self.screen.faults, [])

    def ends(self, *reports: str, looking: bool = True) -> None:
        """Checks how the client ends or stops, and that the terminal is as before."""
        report = self.reported(looking)
        self.assertIn(report, reports)
        if report != "stopped":
            self.parent.wait()  # then the terminal is free for the next one
        while select.select([self.master], [], [], 0)[0]:
            self.look()
        self.assertEqual(termios.tcgetattr(self.slave), self.modes)
        self.assertFalse(self.screen.paste)
        self.assertEqual(self.screen.faults, [])
        if looking:
            self.assertEqual(self.screen.column, 0, "a shell's prompt would not fit in")

    def type_long(self, line: bytes) -> None:
        """Types more than fits into a terminal's input queue."""
        for start in range(0, len(line), 500):
            self.type(line[start:start + 500])
            self.look()

    def seen_at_all(self, text: str) -> None:
        """Waits until this has been written, wherever it is now."""
        deadline = time.monotonic() + DEADLINE
        while text.encode() not in self.screen.raw:
            self.assertLess(time.monotonic(), deadline, f"{text} is not shown")
            self.look()


class TerminalTest(TerminalCase):
    # ---- typing and reading ----

    def test_own_line_is_shown_once(self) -> None:
        peer = self.start()
        self.type("hello\r")
        self.assertEqual(peer.hear(6), b"hello\n")
        self.sees("Welcome", "> |")
        peer.say("127.0.0.1: hello\n")
        self.sees("Welcome", "127.0.0.1: hello", "> |")

    def test_messages_arrive_while_typing(self) -> None:
        peer = self.start()
        self.type(b"half a lne" + 2 * LEFT)
        self.sees("> half a l|ne")
        peer.say("::1: one\n::1: two\n::1: thr")
        self.sees("Welcome", "::1: one", "::1: two", "> half a l|ne")
        self.type("i")
        self.sees("Welcome", "::1: one", "::1: two", "> half a li|ne")
        peer.say("ee\n")
        self.sees("::1: two", "::1: three", "> half a li|ne")
        self.type("\r")
        self.assertEqual(peer.hear(12), b"half a line\n")

    def test_editing_cyrillic_and_wide(self) -> None:
        peer = self.start()
        self.type("превет, 世界 😀!".encode() + HOME + 3 * RIGHT + b"\x7f")
        self.sees("> пр|вет, 世界 😀!")
        self.type("и".encode() + END + LEFT + LEFT)
        self.sees("> привет, 世界 |😀!")
        self.type("\x7f\x7f国")
        self.sees("> привет, 世国|😀!")
        self.assertEqual(self.screen.column, 14)
        self.type("\r")
        line = "привет, 世国😀!\n".encode()
        self.assertEqual(peer.hear(len(line)), line)

    def test_editing_without_a_locale(self) -> None:
        peer = self.start(LC_ALL="C")
        self.type("世дае".encode() + LEFT)
        self.sees("> 世да|е")
        self.type(b"\x04\x01\x04\r")
        self.assertEqual(peer.hear(5), "да\n".encode())

    def test_history(self) -> None:
        peer = self.start()
        self.type("first\rsecond\runsent")
        self.assertEqual(peer.hear(13), b"first\nsecond\n")
        self.type(UP + UP)
        self.sees("> first|")
        self.type(DOWN + DOWN)
        self.sees("> unsent|")
        self.type(UP + b"!\r")
        self.assertEqual(peer.hear(8), b"second!\n")

    def test_empty_lines_are_not_sent(self) -> None:
        peer = self.start()
        self.type("\r\r\na\r")
        self.assertEqual(peer.hear(2), b"a\n")

    def test_paste(self) -> None:
        peer = self.start()
        self.type(PASTE + b"one\rtwo\rthree\r" + PASTED)
        self.sees("> one↵two↵three↵|")
        self.type(HOME + b"No ")
        self.sees("> No |one↵two↵three↵")
        self.type("\rnext\r")
        self.assertEqual(peer.hear(22), b"No one\ntwo\nthree\nnext\n")

    def test_long_line(self) -> None:
        peer = self.start()
        line = " ".join(map(str, range(20_000, 20_500))).encode()
        self.type_long(line)
        self.sees("> <" + line.decode()[-76:] + "|")
        self.type("\r")
        pieces = line[:1024] + b"\n" + line[1024:2048] + b"\n" + line[2048:] + b"\n"
        self.assertEqual(peer.hear(len(pieces)), pieces)

    def test_control_bytes_are_made_visible(self) -> None:
        peer = self.start()
        peer.say(b"::1: \x1b]0;title\x07 \xc2\x9b\xff\xd0\n::1: a\tb\r\n")
        self.sees(r"::1: \x1b]0;title\x07 \xc2\x9b\xff\xd0", "::1: a  b", "> |")

    def test_endless_line_is_shown_in_pieces(self) -> None:
        peer = self.start()
        self.type("typed")
        self.sees("> typed|")
        peer.say(3000 * "x")
        self.sees("x" * (1088 % self.WIDTH), "> typed|")
        peer.say("\n")
        self.sees("x" * ((3000 - 2 * 1088) % self.WIDTH), "> typed|")

    def test_carriage_return_where_a_line_is_cut(self) -> None:
        """Only at the end of a line it belongs to the newline."""
        peer = self.start()
        peer.say(1087 * "x" + "\ry\r\n")
        self.sees("x" * (1087 % self.WIDTH) + "\\x0d", "y", "> |")

    def test_flow_control_is_off(self) -> None:
        self.start()
        self.type("^S\x13 does not stop the screen")
        self.sees("> ^S does not stop the screen|")

    def test_server_that_does_not_read(self) -> None:
        """The line is 60 KB long, and is sent again and again from the history."""
        peer = self.start()
        line = b"0123456789" * 6000
        self.type_long(line)
        for _ in range(200):
            self.type(b"\r" + UP)
        self.type("\x15\x04")
        heard = []
        server = threading.Thread(target=lambda: heard.append(peer.hear_all()))
        server.start()
        while server.is_alive():
            self.look()
        pieces = b"".join(line[at:at + 1024] + b"\n" for at in range(0, len(line), 1024))
        self.assertTrue(heard == [pieces * 200])

    def test_redraw(self) -> None:
        self.start()
        self.type("abc\x0c")
        self.sees("", "> abc|")
        self.assertEqual("".join(self.screen.lines()), "> abc|")

    def test_resize(self) -> None:
        peer = self.start()
        self.type("0123456789 0123456789 0123456789")
        self.sees("> 0123456789 0123456789 0123456789|")
        self.resize(40)  # there is still room
        peer.say("x\n")
        self.sees("Welcome", "x", "> 0123456789 0123456789 0123456789|")
        self.type("\x15" + "0123456789" * 5)
        self.sees("> <" + ("0123456789" * 5)[-36:] + "|")
        self.resize(45)
        self.sees("Welcome", "x", "> <" + ("0123456789" * 5)[-41:] + "|")

    def test_redraw_loses_nothing(self) -> None:
        peer = self.start()
        for number in range(30):
            peer.say(f"::1: message {number}\n")
            self.sees(f"::1: message {number}", "> |")
            if number % 7 == 0:
                self.type("\x0c")
                while "".join(self.screen.lines()) != "> |":
                    self.look()
        for number in range(30):
            self.assertIn(f"::1: message {number}", self.screen.all_lines())

    def test_narrowing_leaves_one_piece_at_most(self) -> None:
        """And none, if nothing is typed."""
        peer = self.start()
        peer.say("::1: hi\n")
        self.sees("Welcome", "::1: hi", "> |")
        self.resize(20)
        peer.say("::1: narrow\n")
        self.sees("Welcome", "::1: hi", "::1: narrow", "> |")
        self.resize(80)
        self.type("x" * 51)
        self.sees("::1: narrow", "> " + "x" * 51 + "|")
        for width in range(78, 28, -2):     # quickly, as when one pulls at the edge
            self.resize(width)
        peer.say("::1: end\n")
        self.sees("::1: narrow", "> " + "x" * 28, "::1: end", "> <" + "x" * 26 + "|")

    def test_emoji_of_several_parts(self) -> None:
        for joins in (True, False):
            self.screen = Screen(self.WIDTH, self.HEIGHT, joins=joins)
            peer = self.start()
            family = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
            self.type((family + "\U0001f44d\U0001f3fd" + "ab").encode() + LEFT)
            self.sees("> " + family + "\U0001f44d\U0001f3fda|b")
            self.type(LEFT + b"\x7f")
            self.sees("> " + family + "|ab")
            self.type(b"\x7f\r")
            self.assertEqual(peer.hear(3), b"ab\n")
            self.type("\x03")
            self.ends("killed 2")

    def test_long_messages_are_cut_between_letters(self) -> None:
        peer = self.start()
        line = "a" + "й" * 600
        for start in range(0, 601, 100):
            self.type(line[start:start + 100])
            self.look()
        self.type("\r")
        pieces = line[:512] + "\n" + line[512:] + "\n"
        self.assertEqual(peer.hear(len(pieces.encode())).decode(), pieces)
        half_a_letter_at_the_end = ("::1: " + "é" * 800).encode()[:1502]
        peer.say(half_a_letter_at_the_end + b"\n")
        self.sees("> |")
        self.seen_at_all("\\xc3")
        self.assertEqual(b"\\xa9" in self.screen.raw, False)
        marks = "e" + "\u0301" * 700      # one letter, too long for one message
        for start in range(0, 701, 100):
            self.type(marks[start:start + 100])
            self.look()
        self.type("\r")
        pieces = marks[:512] + "\n" + marks[512:] + "\n"
        self.assertEqual(peer.hear(len(pieces.encode())).decode(), pieces)

    def test_terminal_that_does_not_block(self) -> None:
        """An earlier program has left it so."""
        os.set_blocking(self.slave, False)
        peer = self.start()
        lines = [f"::1: line {number}" for number in range(5000)]
        text = "\n".join(lines) + "\n"
        teller = threading.Thread(target=lambda: peer.say(text))
        teller.start()
        self.seen_at_all("line 4999\r\n")
        teller.join()
        seen = [line for line in self.screen.all_lines() if line.startswith("::1")]
        self.assertEqual(seen, lines)

    def test_locale_that_is_not_utf_8(self) -> None:
        self.start(LC_ALL="C")
        self.assertRegex(self.screen.lines()[0],
                         r"^chatcl: the locale says \S+; this is UTF-8")
        self.assertEqual(len(self.screen.lines()), 3)

    def test_times(self) -> None:
        self.start_job("-t", "127.0.0.1", str(self.port))
        peer = self.accept()
        peer.say("::1: hi\n")
        self.seen_at_all("hi\r\n")
        self.assertRegex(self.screen.lines()[0], r"^\d\d:\d\d:\d\d ::1: hi$")

    def test_colour(self) -> None:
        for environment, colour in (({}, True), ({"NO_COLOR": ""}, True),
                                    ({"NO_COLOR": "1"}, False)):
            with self.subTest(environment):
                self.screen = Screen(self.WIDTH, self.HEIGHT)
                peer = self.start(**environment)
                peer.say("::1: hi\n")
                self.sees("::1: hi", "> |")
                self.assertEqual(b"m::1: \x1b[mhi" in self.screen.raw, colour)
                peer.say("::1: again\n10.0.0.1: I, too\n")
                self.sees("10.0.0.1: I, too", "> |")
                said = re.findall(rb"\x1b\[38;5;(\d+)m([0-9.:]+): \x1b", self.screen.raw)
                self.assertEqual(len(said), 3 if colour else 0)
                self.assertEqual(len(set(said)), 2 if colour else 0)
                self.type("\x03")
                self.ends("killed 2")

    def test_dumb_terminal(self) -> None:
        """The terminal echoes and edits by itself; the client behaves as in a pipe."""
        peer = self.start(prompt="|", TERM="dumb")
        self.type("hi\n")
        self.assertEqual(peer.hear(3), b"hi\n")
        self.type("\x04")
        self.assertEqual(peer.hear_all(), b"")
        peer.say("\x1b]2;a title\a\n")
        peer.socket.close()
        self.ends("exited 0")
        self.assertEqual(self.screen.raw,
                         b"Welcome\r\nhi\r\n\\x1b]2;a title\\x07\r\n")

    def start_with_pipe(self) -> subprocess.Popen:
        """Input comes from a pipe, and output goes to the terminal."""
        client = subprocess.Popen(
            CHATCL + ["127.0.0.1", str(self.port)],
            env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.PIPE, stdout=self.slave, stderr=self.slave)
        self.addCleanup(self.end, client, client.pid)
        self.addCleanup(client.stdin.close)
        return client

    def test_input_from_a_pipe(self) -> None:
        """What others say is not obeyed there, either."""
        client = self.start_with_pipe()
        peer = self.accept()
        client.stdin.write(b"make\x1b has ended\n")
        client.stdin.close()
        self.assertEqual(peer.hear_all(), b"make\x1b has ended\n")
        peer.say(b"::1: \x1b]2;a title\x07\xc2\x9b\xe2\x80\xae\xff\n")
        peer.say("::1: é\ttab\r\nhalf a line")
        peer.socket.close()
        self.seen_at_all("half a line\r\n")
        self.assertEqual(client.wait(DEADLINE), 0)
        self.assertEqual(self.screen.raw.decode(),
                         "::1: \\x1b]2;a title\\x07\\xc2\\x9b\\xe2\\x80\\xae\\xff\r\n"
                         "::1: é\ttab\r\nhalf a line\r\n")

    def test_much_output_with_input_from_a_pipe(self) -> None:
        """The terminal is slow: the server has to wait, and nothing is lost."""
        client = self.start_with_pipe()
        peer = self.accept()
        lines = "".join(f"::1: line {number}\n" for number in range(20_000))

        def tell() -> None:
            peer.say(lines)
            peer.socket.close()

        teller = threading.Thread(target=tell)
        teller.start()
        self.seen_at_all("line 19999\r\n")
        teller.join()
        self.assertEqual(client.wait(DEADLINE), 0)
        self.assertTrue(self.screen.raw.decode() == lines.replace("\n", "\r\n"))

    # ---- stopping and leaving ----

    def test_end_of_input(self) -> None:
        peer = self.start()
        self.type("last words\r\x04")
        self.assertEqual(peer.hear_all(), b"last words\n")
        peer.say("127.0.0.1: last words\n")
        self.sees("Welcome", "127.0.0.1: last words", "|")
        peer.socket.close()
        self.ends("exited 0")
        self.assertEqual(self.screen.lines(), ["Welcome", "127.0.0.1: last words", "|"])

    def test_last_words_without_a_newline(self) -> None:
        for options in ((), ("-r",)):
            self.screen = Screen(self.WIDTH, self.HEIGHT)
            peer = self.start(*options)
            self.type("\x04")
            self.assertEqual(peer.hear_all(), b"")
            peer.say("Good")
            peer.say("bye")
            peer.socket.close()
            self.ends("exited 0")
            self.assertEqual(self.screen.lines(), ["Welcome", "Goodbye", "|"])

    def test_end_of_input_without_a_connection(self) -> None:
        self.listener.close()
        self.start_job("-r", "127.0.0.1", str(self.port))
        self.seen_at_all("trying again in")
        self.type("\x04")
        self.ends("exited 1")

    def test_end_of_input_at_a_full_server(self) -> None:
        """Another connection would be good for nothing."""
        self.start_job("-r", "127.0.0.1", str(self.port))
        peer = self.accept()
        self.sees("> |")
        self.type("\x04")
        self.sees("|")
        peer.say("Server full\n")
        peer.socket.close()
        self.ends("exited 1")

    def test_interrupt_key(self) -> None:
        for key, number in (("\x03", 2), ("\x1c", 3)):
            self.screen = Screen(self.WIDTH, self.HEIGHT)
            self.start()
            self.type("typed" + key)
            self.ends(f"killed {number}")
            self.assertEqual(self.screen.lines()[0], "Welcome")

    def test_terminal_that_no_shell_has(self) -> None:
        """The keys' signals reach the client alone, and the modes are restored."""
        for key, status in (("\x03", -2), ("\x04", 0)):
            self.screen = Screen(self.WIDTH, self.HEIGHT)
            client = subprocess.Popen(
                CHATCL + ["127.0.0.1", str(self.port)],
                env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"},
                stdin=self.slave, stdout=self.slave, stderr=self.slave)
            self.addCleanup(self.end, client, client.pid)
            peer = self.accept()
            peer.say("Welcome\n")
            self.sees("Welcome", "> |")
            self.type(key)
            self.assertEqual(peer.hear_all(), b"")
            peer.socket.close()
            self.assertEqual(client.wait(DEADLINE), status)
            self.assertEqual(termios.tcgetattr(self.slave), self.modes)

    def test_interrupt_key_of_the_users_choice(self) -> None:
        modes = termios.tcgetattr(self.slave)
        modes[6][termios.VINTR] = b"\x18"
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)
        self.modes = termios.tcgetattr(self.slave)
        self.start()
        self.type("typed\x03")
        self.sees("Welcome", "> typed|")
        self.type("\x18")
        self.ends("killed 2")

    def test_keys_in_a_paste(self) -> None:
        """If one of these were obeyed, the shell would get what follows."""
        peer = self.start()
        self.type(PASTE + b"a\x03b\x1ac\x1cd\x04e\nrm -rf" + PASTED)
        self.sees("Welcome", "> a^Cb^Zc^\\d^De↵rm -rf|")
        self.type("\x7f\x7f\x7f\x7f\r")
        self.assertEqual(peer.hear(13), b"a\x03b\x1ac\x1cd\x04e\nrm\n")
        self.type(PASTE + b"\x1b[201\x03\x1b[20")
        self.sees("Welcome", "> ^[[201^C|")  # the rest may become the end of the paste
        self.type(PASTED + b"\x03")
        self.ends("killed 2")

    def test_end_in_a_paste(self) -> None:
        """The shell must not get the rest. A turn in which this test was slower than the
        client's patience (a second) says nothing: then it is done once more."""
        while True:
            peer = self.start()
            self.type(PASTE + b"one\r")
            self.sees("Welcome", "> one↵|")
            began = time.monotonic()
            peer.socket.close()
            self.seen_at_all("\x1b[?7h\r\r\n")  # it leaves the line
            self.type(b"rm -rf\rtwo" + PASTED)
            if time.monotonic() - began < 0.9:
                break
            self.setUp()  # with another terminal
        self.ends("exited 1")
        self.type("next\n")
        self.assertEqual(os.read(self.slave, 4096), b"next\n")

    def test_stop_key(self) -> None:
        peer = self.start()
        self.type("typed")
        self.sees("> typed|")
        self.type("\x1a")
        self.ends("stopped")
        os.write(self.slave, b"another program\n")
        os.write(self.order, b"g")
        self.sees("Welcome", "> typed", "another program", "> typed|")
        self.assertTrue(self.screen.paste)
        self.type("!\r")
        self.assertEqual(peer.hear(7), b"typed!\n")
        peer.say("::1: typed!\n")
        self.sees("another program", "::1: typed!", "> |")
        self.type("\x04")
        self.assertEqual(peer.hear_all(), b"")
        peer.socket.close()
        self.ends("exited 0")

    def test_stop_signal_ignored(self) -> None:
        """Whoever started the client does not want it to stop."""
        self.start_command(["sh", "-c", 'trap "" TSTP; exec "$@"', "sh"] + CHATCL +
                           ["127.0.0.1", str(self.port)])
        peer = self.accept()
        self.sees("> |")
        self.type("ty\x1aped")
        self.sees("> typed|")
        os.kill(self.pid, signal.SIGTSTP)
        self.type("!\r")
        self.assertEqual(peer.hear(7), b"typed!\n")
        self.type("\x03")
        self.ends("killed 2")

    def test_keys_set_while_stopped(self) -> None:
        self.start()
        self.type("typed")
        self.sees("> typed|")
        self.type("\x1a")
        self.ends("stopped")
        self.modes[6][termios.VINTR] = b"\x18"
        termios.tcsetattr(self.slave, termios.TCSANOW, self.modes)
        os.write(self.order, b"g")
        self.sees("Welcome", "> typed", "> typed|")
        self.type("\x03!")
        self.sees("> typed!|")
        self.type("\x18")
        self.ends("killed 2")

    def test_stopped_from_outside(self) -> None:
        """SIGSTOP cannot be caught: it is the shell that restores the terminal."""
        peer = self.start()
        self.type("typed")
        self.sees("> typed|")
        os.kill(self.pid, signal.SIGSTOP)
        self.assertEqual(self.reported(), "stopped")
        termios.tcsetattr(self.slave, termios.TCSANOW, self.modes)
        peer.say("::1: hi\n")
        os.write(self.order, b"g")
        self.sees("Welcome", "::1: hi", "> typed|")
        self.type("!\x7f?\r")
        self.assertEqual(peer.hear(7), b"typed?\n")
        self.type("\x03")
        self.ends("killed 2")

    def test_server_hangs_up(self) -> None:
        peer = self.start()
        self.type("typed")
        self.sees("> typed|")
        peer.say("::1: half a mess")
        peer.socket.close()
        self.ends("exited 1")
        self.assertEqual(self.screen.lines(), [
            "Welcome", "::1: half a mess", "> typed",
            f"chatcl: read 127.0.0.1:{self.port}: The server has closed the connection",
            "|"])

    def test_server_is_killed(self) -> None:
        self.start().reset()
        self.ends("exited 1")
        self.assertEqual(self.screen.lines(), [
            "Welcome", f"chatcl: read 127.0.0.1:{self.port}: Connection reset by peer",
            "|"])

    def test_half_line_of_a_lost_connection(self) -> None:
        peer = self.start("-r")
        peer.say("::1: whole\n::1: ha")
        peer.socket.close()
        peer = self.accept()
        peer.say("Welcome back\n")
        self.sees("Welcome back", "> |")
        seen = self.screen.all_lines()
        self.assertEqual(seen[:3], ["Welcome", "::1: whole",
                                    "chatcl: half a line has come; it is dropped"])
        self.assertRegex(seen[3], "^chatcl: read .*: The server has closed the connec")
        self.assertRegex(seen[4], "^chatcl: connected to ")
        self.assertEqual(seen[5:7], ["Welcome back", ">"])

    # ---- what it is doing ----

    def test_words_for_a_silent_server(self) -> None:
        self.start_job("127.0.0.1", str(self.port))
        self.sees("> |")
        peer = self.accept()
        name = f"127.0.0.1:{self.port}"
        self.sees(f"chatcl: connected to {name}, which has said nothing yet", "> |")
        peer.say("Welcome\n")
        self.sees("Welcome", "> |")
        self.type("hello\r")
        self.sees(f"chatcl: {name} has not answered yet", "> |")
        peer.say("::1: hello\n")
        self.sees("::1: hello", "> |")
        self.type("\x04")
        words = f"chatcl: waiting for {name} to close the connection (^C leaves)"
        self.sees(words, "|")
        self.assertEqual(peer.hear_all(), b"hello\n")
        peer.socket.close()
        self.ends("exited 0")

    def test_words_for_a_server_that_stops_reading(self) -> None:
        peer = self.start()
        line = b"0123456789" * 6000
        self.type_long(line)
        for _ in range(150):
            self.type(b"\r" + UP)
            self.look()
        self.seen_at_all(f"chatcl: 127.0.0.1:{self.port} is not reading; what you")
        self.assertEqual(peer.hear(10), b"0123456789")

    def test_words_for_a_slow_connection(self) -> None:
        """A listener whose queue is full does not answer."""
        self.listener.listen(0)
        guests = []
        for _ in range(4):
            guests.append(socket.socket())
            self.addCleanup(guests[-1].close)
            guests[-1].setblocking(False)
            guests[-1].connect_ex(("127.0.0.1", self.port))
        self.start_job("127.0.0.1", str(self.port))
        self.sees("> |")
        self.sees(f"chatcl: connecting to 127.0.0.1:{self.port}", "> |")
        self.type("hello\r")
        self.seen_at_all(f"chatcl: not connected to 127.0.0.1:{self.port} yet; what you")
        self.type("\x03")
        self.ends("killed 2")

    def test_slow_name(self) -> None:
        """Keys work while the name is being looked up."""
        with tempfile.TemporaryDirectory() as folder:
            slow = os.path.join(folder, "slow.so")
            source = "#include <unistd.h>\nint getaddrinfo(void) { sleep(60); return 1; }"
            with open(CHATCL[0], "rb") as program:
                bits = ["-m32"] if program.read(5) == b"\x7fELF\x01" else []
            compiler = ["cc", *bits, "-shared", "-fPIC", "-xc", "-", "-o", slow]
            made = subprocess.run(compiler, input=source.encode(),
                                  stderr=subprocess.DEVNULL)
            if made.returncode != 0 or sys.platform == "darwin":
                self.skipTest("no function can be put in the place of getaddrinfo here")
            for keys, report in (("\x03", "killed 2"), ("\x15\x04", "exited 1")):
                self.screen = Screen(self.WIDTH, self.HEIGHT)
                self.start_job("nowhere.example", "7", LD_PRELOAD=slow,
                               ASAN_OPTIONS="verify_asan_link_order=0:detect_leaks=0")
                self.sees("> |")
                self.sees("chatcl: connecting to nowhere.example:7", "> |")
                self.type("typed")
                self.sees("> typed|")
                self.type(keys)
                self.ends(report)
                self.assertTrue(wait_for(self.has_left_nobody), "it left a process")

    def has_left_nobody(self) -> bool:
        """Whether the client's process group is empty."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, 0)
            return False
        return True

    def test_server_comes_back(self) -> None:
        peer = self.start("-r")
        self.type("typed")
        self.sees("> typed|")
        peer.socket.close()
        self.sees(" in 1 s", "> typed|")
        self.type(" away\rmore")
        peer = self.accept()    # it does not greet
        self.assertEqual(peer.hear(11), b"typed away\n")
        peer.say("Welcome back\n127.0.0.1: typed away\n")
        self.sees("Welcome back", "127.0.0.1: typed away", "> more|")


class RoughTest(TerminalCase):
    """The same many times, and under bad conditions."""

    def change_the_window(self, peer: ServerEnd, chance: random.Random,
                          widest: int) -> list:
        """Messages, keys and changes of the window in any order; returns the messages."""
        said = []
        for step in range(40):
            what = chance.randrange(4)
            if what == 0:
                width = chance.choice([12, self.screen.width - 1, self.screen.width, 100])
                said.append("::1: m%02d-" % step + "x" * (min(width, widest) - 9))
                peer.say(said[-1] + "\n")
            elif what == 1:
                keys = ["\x15", "\x01", "\x05", "k" * chance.randrange(90)]
                self.type(chance.choice(keys))
            elif what == 2:
                self.resize(chance.randint(15, 100), chance.randint(2, 24))
                self.type(chance.choice(["", "\x0c"]))
            for _ in range(chance.randrange(3)):
                self.look()
        return said

    def test_changes_of_the_window_lose_nothing(self) -> None:
        """Where rows are cut, the terminal itself loses what is beyond the edge, so
        messages are short there."""
        for reflow in (True, False):
            for seed in range(6):
                with self.subTest(reflow=reflow, seed=seed):
                    self.screen = Screen(self.WIDTH, self.HEIGHT, reflow)
                    self.resize(self.WIDTH)
                    peer = self.start()
                    widest = 100 if reflow else 15
                    said = self.change_the_window(peer, random.Random(seed), widest)
                    self.resize(120)
                    said.append("::1: the last one")
                    peer.say(said[-1] + "\n")
                    self.seen_at_all("the last one")
                    seen = "\n".join(self.screen.all_lines())
                    self.assertEqual([line for line in said if line not in seen], [])
                    self.assertEqual(self.screen.faults, [])
                    self.type("\x03")
                    self.ends("killed 2")

    def test_deadly_signals(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
        names = ("INT TERM HUP QUIT SEGV ABRT USR1 USR2 ALRM TRAP VTALRM PROF XCPU XFSZ"
                 " SYS")
        numbers = [getattr(signal, "SIG" + name) for name in names.split()]
        if hasattr(signal, "SIGRTMAX"):
            numbers += [signal.SIGIO, signal.SIGRTMIN, signal.SIGRTMAX]
        for number in numbers:
            with self.subTest(number):
                self.screen = Screen(self.WIDTH, self.HEIGHT)
                self.start()
                self.type("typed")
                self.sees("Welcome", "> typed|")
                os.kill(self.pid, number)
                self.ends(f"killed {int(number)}")
                self.assertEqual(self.screen.lines(), ["Welcome", "> typed", "|"])

    def test_two_signals_at_once(self) -> None:
        """The second one must not end the program while the first one is handled."""
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
        for turn in range(30):
            self.screen = Screen(self.WIDTH, self.HEIGHT)
            self.start()
            os.kill(self.pid, signal.SIGINT)
            for _ in range(turn * 50):      # about that many microseconds
                pass
            try:
                os.kill(self.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
            self.ends("killed 2", "killed 15")

    def test_interrupt_key_while_nobody_looks(self) -> None:
        self.fill(self.start())
        self.type(b"typed\x03")
        self.ends("killed 2", looking=False)

    @unittest.skipUnless(os.path.exists("/proc/self/schedstat"), "needs /proc")
    def test_sleep_while_nobody_looks(self) -> None:
        """The client is to say that the server does not read, but has no place for it."""
        def awake() -> float:
            """Seconds for which it has run, or waited for a processor."""
            with open(f"/proc/{self.pid}/schedstat") as file:
                return sum(map(int, file.read().split()[:2])) / 1e9

        peer = self.start()
        line = b"0123456789" * 6000
        self.type_long(line)
        for _ in range(150):
            self.type(b"\r" + UP)
            self.look()
        self.fill(peer)
        before = awake()
        time.sleep(2)  # a client that tries again and again is awake as long
        self.assertLess(awake() - before, 0.2)

    @unittest.skipUnless(os.path.exists("/proc/self/status"), "needs /proc")
    def test_redraw_while_nobody_looks(self) -> None:
        """^L is a wish, not a page full of newlines that has to be kept each time"""
        def memory() -> int:
            """In kilobytes."""
            with open(f"/proc/{self.pid}/status") as file:
                return int(re.search(r"VmRSS:\s*(\d+)", file.read()).group(1))

        self.fill(self.start())
        before = memory()
        for _ in range(100):
            self.type(b"\x0c" * 4000)
        self.assertLess(memory() - before, 4000)
        self.type(b"\x03")
        self.ends("killed 2", looking=False)

    def test_deadly_signal_while_nobody_looks(self) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self.screen = Screen(self.WIDTH, self.HEIGHT)
            self.fill(self.start())
            os.kill(self.pid, number)
            self.ends(f"killed {int(number)}", looking=False)

    def test_stop_key_while_nobody_looks(self) -> None:
        peer = self.start()
        self.fill(peer)
        self.type(b"typed\x1a")
        self.assertEqual(self.reported(looking=False), "stopped")
        self.assertEqual(termios.tcgetattr(self.slave), self.modes)
        os.write(self.order, b"g")
        while termios.tcgetattr(self.slave) == self.modes:
            self.look()
        self.seen_at_all("> typed")
        self.type(b"\x03")
        self.assertEqual(self.reported(), "killed 2")

    def test_interrupt_key_while_the_server_does_not_read(self) -> None:
        self.start()
        line = b"0123456789" * 6000
        self.type_long(line)
        for _ in range(400):
            self.type(b"\r" + UP)
            self.look()
        self.type(b"\x03")
        self.ends("killed 2")

    def fill(self, peer: ServerEnd) -> None:
        """Says more than the client can show while nobody reads the screen."""
        peer.socket.setblocking(False)
        while select.select([], [peer.socket], [], 2)[1]:
            peer.socket.send(b"::1: nobody looks\n" * 1000)
        peer.socket.settimeout(DEADLINE)
        self.fill_terminal()

    def fill_terminal(self) -> None:
        """To its last byte. Linux may make room once more without telling the client."""
        terminal = os.open(os.ttyname(self.slave),
                           os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        full = 0
        while full < 10:
            try:
                os.write(terminal, b"x")
                full = 0
            except BlockingIOError:
                full += 1
                time.sleep(0.01)
        os.close(terminal)

    def bells(self) -> int:
        return self.screen.raw.count(b"\a")

    def overfill(self) -> None:
        """Types lines until not even a short one finds room."""
        while self.bells() == 0:
            self.type(3 * (b"t" * 1000 + b"\r"))
            self.look()
        for _ in range(3):      # the kernel, too, may find more room, at first
            time.sleep(0.3)
            before = self.bells()
            while self.bells() == before:
                self.type(b"t" * 100 + b"\r")
                self.look()

    def type_and_lose(self, keys: bytes) -> None:
        before, deadline = self.bells(), time.monotonic() + DEADLINE
        self.type(keys)
        while self.bells() == before:
            self.assertLess(time.monotonic(), deadline, "nothing is lost")
            self.look()

    def hear_waiting(self, peer: ServerEnd) -> bytes:
        """Reads until the client has nothing more to send."""
        peer.socket.settimeout(1)
        heard = b""
        with contextlib.suppress(socket.timeout):
            while True:
                heard += peer.socket.recv(1 << 20)
                self.look()
        return heard

    def test_lost_beginning_of_a_paste(self) -> None:
        """What is pasted after it is not typed: nothing is sent without Enter."""
        peer = self.start()
        self.overfill()
        self.type_and_lose(PASTE + 1000 * b"p" + b"\r")
        deadline = time.monotonic() + DEADLINE
        while self.screen.lines()[-1] != "> not\u21b5sent|":
            self.assertLess(time.monotonic(), deadline, "\n".join(self.screen.lines()))
            bells = self.bells()
            self.hear_waiting(peer)
            if self.screen.lines()[-1] == "> |":
                self.type(b"not\rsent")         # lost, too, if a bell rings
            while self.screen.lines()[-1] == "> |" and self.bells() == bells:
                self.look()
        self.assertEqual(select.select([peer.socket], [], [], 0)[0], [])


class TmuxTest(ClientTest):
    """In a terminal that we have not written."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.client = shlex.join([*CHATCL, "127.0.0.1", str(self.port)])

    def tmux(self, *words: str) -> str:
        socket_name = os.path.join(self.folder, "tmux")
        run = subprocess.run(["tmux", "-S", socket_name, "-f", "/dev/null", *words],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env={**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm"})
        return run.stdout.decode()

    def start(self, command: str) -> None:
        self.addCleanup(self.tmux, "kill-server")
        self.tmux("new-session", "-d", "-x", "80", "-y", "24", command)
        self.tmux("set-option", "-g", "window-size", "manual")

    def seen(self) -> str:
        """All that is on the screen or above it, with broken rows joined again."""
        return self.tmux("capture-pane", "-p", "-J", "-S", "-")

    def sees(self, text: str) -> str:
        deadline = time.monotonic() + DEADLINE
        while text not in self.seen():
            self.assertLess(time.monotonic(), deadline, self.seen())
            time.sleep(0.05)
        return self.seen()

    def test_changes_of_the_window_lose_nothing(self) -> None:
        chance = random.Random(1)
        self.start(self.client)
        peer = self.accept()
        said = ["Welcome"]
        for width in [80, 79, 40, 39, 41, 20, 30, 60, 160, 100] * 3:
            said.append(f"::1: m{len(said):02}-" + "x" * (width - 9))
        for number, line in enumerate(said):
            peer.say(line + "\n")
            if number % 3 == 0:
                self.tmux("resize-window", "-x", str(chance.randint(10, 120)),
                          "-y", str(chance.randint(2, 30)))
            if number % 4 == 0:
                self.tmux("send-keys", "-l", "k" * chance.randint(1, 30))
        self.sees(said[-1])
        self.tmux("resize-window", "-x", "200", "-y", "30")
        peer.say("::1: the end\n")
        seen = self.sees("::1: the end")
        self.assertEqual([line for line in said if line not in seen], [])

    def test_keys_in_a_paste(self) -> None:
        """What follows ^C in a paste must not reach the shell that waits below."""
        trap = os.path.join(self.folder, "trap")
        self.start("sh")
        self.tmux("send-keys", "-l", self.client + "\n")
        peer = self.accept()
        peer.say("Welcome\n")
        self.sees("Welcome\n> ")
        self.tmux("set-buffer", f"one\x03\ntouch {trap}\ntwo\x1a three")
        self.tmux("paste-buffer", "-p")
        self.sees("three")
        self.tmux("send-keys", "Enter")
        said = f"one\x03\ntouch {trap}\ntwo\x1a three\n".encode()
        self.assertEqual(peer.hear(len(said)), said)
        self.tmux("send-keys", "C-c")
        self.assertEqual(peer.hear_all(), b"")
        self.assertFalse(os.path.exists(trap))


if __name__ == "__main__":
    unittest.main()
