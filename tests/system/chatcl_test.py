#!/usr/bin/env python3
"""Checks the chat client from outside: in pipes, and on a terminal.

    python3 tests/system/chatcl_test.py [ClassOrTest ...]

The client is build/chatcl, or the command in the environment's CHATCL. The server is
played by the tests. The terminal is a pseudo-terminal with a small emulator behind it
(Screen), so the tests compare what a user would see; a parent that knows job control
(JOB) stands in for the shell. Nothing depends on how fast things happen: each wait ends
with the event, or fails after DEADLINE seconds.
"""
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

from screen import Screen

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CHATCL = shlex.split(os.environ.get("CHATCL", os.path.join(ROOT, "build", "chatcl")))
DEADLINE = 20

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
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
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
    """What all children that have ended have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Peer:
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
        """Goes away as a killed server does that had not read everything."""
        at_once = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
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

    def accept(self) -> Peer:
        connection = self.listener.accept()[0]
        self.addCleanup(connection.close)
        return Peer(connection)


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
        """A socket in the place of standard input would send the server its own words."""
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
        """Gives the client as much input as it takes, and ends it; returns it. A second
        without progress is taken for a standstill; being wrong does no harm."""
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

    def fill(self, peer: Peer) -> bytes:
        """Says as much as the client takes, and what the kernel keeps; returns it."""
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
        """There is no TCP to everybody: connect(2) itself says so, in words that vary."""
        client = subprocess.run(CHATCL + ["255.255.255.255", "9"],
                                stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.assertEqual(client.returncode, 1)
        self.assertRegex(client.stderr, rb"\Achatcl: connect 255.255.255.255:9: .+\n\Z")
        self.assertNotIn(os.strerror(0).encode(), client.stderr)

    def test_localhost_may_be_two_addresses(self) -> None:
        """Whichever the client tries first, the server is at one of them only."""
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
        client.stdin.write(b"one\n")
        client.stdin.flush()
        self.assertEqual(peer.hear(4), b"one\n")
        peer.say("first\n")
        peer.socket.close()
        self.assertEqual(client.stderr.readline().decode().split("; ")[1],
                         "trying again in 1 s\n")  # after a success it begins anew
        client.stdin.write(b"two\n")
        client.stdin.close()
        client.stdin = None
        peer = self.accept()
        self.assertEqual(peer.hear_all(), b"two\n")
        peer.say("second\n")
        peer.socket.close()
        self.assertEqual(self.finish(client, 0), b"first\nsecond\n")

    def test_usage(self) -> None:
        for arguments in ("-x", "a 1 b", "a 0", "a 65536", "a 1x", "a -1"):
            client = subprocess.run(CHATCL + arguments.split(), stdin=subprocess.DEVNULL,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual((client.returncode, client.stdout), (2, b""))
            self.assertRegex(client.stderr, rb"\Achatcl: [^\n]+\n\Z")
        client = subprocess.run(CHATCL + ["-h"], stdout=subprocess.PIPE)
        self.assertEqual(client.returncode, 0)
        self.assertTrue(client.stdout.startswith(b"usage: chatcl [-hrt] [host [port]]\n"))


# ---- on a terminal ----

UP, DOWN, RIGHT, LEFT = b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D"
HOME, END = b"\x1b[H", b"\x1b[F"
PASTE, PASTED = b"\x1b[200~", b"\x1b[201~"


class TerminalTest(ClientTest):
    WIDTH, HEIGHT = 80, 24

    def setUp(self) -> None:
        super().setUp()
        self.master, self.slave = pty.openpty()
        self.addCleanup(os.close, self.slave)
        self.addCleanup(os.close, self.master)
        self.modes = termios.tcgetattr(self.slave)
        self.screen = Screen(self.WIDTH, self.HEIGHT)
        self.resize(self.WIDTH)

    def resize(self, width: int) -> None:
        self.screen.resize(width)
        size = struct.pack("HHHH", self.HEIGHT, width, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def start(self, *options: str, prompt: str = "> |", **environment: str) -> Peer:
        """Starts the client as a job; returns the connection, after the greeting."""
        reports, report = os.pipe()
        orders, order = os.pipe()
        self.addCleanup(os.close, order)
        self.reports = os.fdopen(reports)
        self.addCleanup(self.reports.close)
        self.order = order
        command = CHATCL + list(options) + ["127.0.0.1", str(self.port)]
        self.parent = subprocess.Popen(
            [sys.executable, "-c", JOB, str(report), str(orders)] + command,
            stdin=self.slave, stdout=self.slave, stderr=self.slave,
            start_new_session=True, pass_fds=(report, orders),
            env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment})
        os.close(report), os.close(orders)
        self.pid = int(self.reported().split()[1])
        self.addCleanup(self.end, self.parent, self.pid)
        peer = self.accept()
        peer.say("Welcome\n")
        self.sees("Welcome", prompt)
        return peer

    @staticmethod
    def end(parent: subprocess.Popen, pid: int) -> None:
        if parent.poll() is None:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has just ended: the connection is closed by now
            parent.kill()
        parent.wait()

    def reported(self) -> str:
        """The next word of the parent. The screen is looked at meanwhile: a terminal that
        is not read would stop the client."""
        deadline = time.monotonic() + DEADLINE
        while not select.select([self.reports], [], [], 0)[0]:
            self.assertLess(time.monotonic(), deadline, "the client does not end or stop")
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

    def ends(self, report: str) -> None:
        """Checks how the client ends or stops, and that the terminal is as before."""
        self.assertEqual(self.reported(), report)
        if report != "stopped":
            self.parent.wait()  # then the terminal is free for the next one
        while select.select([self.master], [], [], 0)[0]:
            self.look()
        self.assertEqual(termios.tcgetattr(self.slave), self.modes)
        self.assertFalse(self.screen.paste)
        self.assertEqual(self.screen.faults, [])
        self.assertEqual(self.screen.column, 0, "a shell's prompt would not fit in")

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
        for start in range(0, len(line), 500):  # a terminal's input queue is short
            self.type(line[start:start + 500])
            self.look()
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

    def test_flow_control_is_off(self) -> None:
        self.start()
        self.type("^S\x13 does not stop the screen")
        self.sees("> ^S does not stop the screen|")

    def test_server_that_does_not_read(self) -> None:
        """The line is 60 KB long, sent again and again from the history."""
        peer = self.start()
        line = b"0123456789" * 6000
        for start in range(0, len(line), 500):
            self.type(line[start:start + 500])
            self.look()
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
        self.sees("> abc|")
        self.assertEqual(self.screen.lines(), ["> abc|"])

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

    def test_colour(self) -> None:
        for environment, colour in (({}, True), ({"NO_COLOR": ""}, True),
                                    ({"NO_COLOR": "1"}, False)):
            with self.subTest(environment):
                self.screen = Screen(self.WIDTH, self.HEIGHT)
                peer = self.start(**environment)
                peer.say("::1: hi\n")
                self.sees("::1: hi", "> |")
                self.assertEqual(b"m::1: \x1b[mhi" in self.screen.raw, colour)
                self.type("\x03")
                self.ends("killed 2")

    def test_dumb_terminal(self) -> None:
        """It echoes and edits by itself; the client does as in a pipe."""
        peer = self.start(prompt="|", TERM="dumb")
        self.type("hi\n")
        self.assertEqual(peer.hear(3), b"hi\n")
        self.type("\x04")
        self.assertEqual(peer.hear_all(), b"")
        peer.socket.close()
        self.ends("exited 0")
        self.assertEqual(self.screen.raw, b"Welcome\r\nhi\r\n")

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

    def test_deadly_signals(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT,
                       signal.SIGSEGV, signal.SIGABRT):
            with self.subTest(number):
                self.screen = Screen(self.WIDTH, self.HEIGHT)
                self.start()
                self.type("typed")
                self.sees("Welcome", "> typed|")
                os.kill(self.pid, number)
                self.ends(f"killed {int(number)}")
                self.assertEqual(self.screen.lines(), ["Welcome", "> typed", "|"])

    def test_interrupt_key(self) -> None:
        self.start()
        self.type("typed\x03")
        self.ends("killed 2")

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

    def test_stopped_from_outside(self) -> None:
        """SIGSTOP cannot be caught: the shell sets the terminal right."""
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

    def test_server_comes_back(self) -> None:
        peer = self.start("-r")
        self.type("typed")
        self.sees("> typed|")
        peer.socket.close()
        self.sees(" in 1 s", "> typed|")
        self.type(" away\rmore")
        peer = self.accept()
        self.assertEqual(peer.hear(11), b"typed away\n")
        peer.say("Welcome back\n127.0.0.1: typed away\n")
        self.sees("Welcome back", "127.0.0.1: typed away", "> more|")


if __name__ == "__main__":
    unittest.main()
