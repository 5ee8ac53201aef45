#!/usr/bin/env python3
"""Runs every program of notes/examples/ as a user would and looks at what it says.

The programs are in build/examples (`make examples`), or where EXAMPLES says. No test
depends on timing: each waits for an event, for at most DEADLINE seconds. A test may leave
nothing behind: no process, no file in its folder, no unexpected line on stderr.

    python3 tests/system/examples_test.py [ClassName[.test_name]]
"""
import atexit
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

from support import free_ports, has_ipv6, reset_on_close, unacknowledged, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCES = os.path.join(ROOT, "notes", "examples")
BINARIES = os.path.abspath(
    os.environ.get("EXAMPLES") or os.path.join(ROOT, "build", "examples"))
DEADLINE = 20  # seconds for anything that is waited for; a slow machine under load
FD_SETSIZE = 1024
LOCALHOST = "127.0.0.1"
DEADLY = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP]


def process_table():
    """Yields (number, parent's number, state) of each process. Not every Linux has ps."""
    if os.path.exists("/proc/self/stat"):
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/stat" % name) as file:
                    field = file.read().rpartition(")")[2].split()
            except OSError:     # it has just ended
                continue
            yield int(name), int(field[1]), field[0]
    else:
        listing = subprocess.run(["ps", "-A", "-o", "pid=", "-o", "ppid=", "-o",
                                  "state="],
                                 stdout=subprocess.PIPE, text=True, check=True).stdout
        for pid, parent, state in map(str.split, listing.splitlines()):
            yield int(pid), int(parent), state[0]


def signals_default():
    """For a program that a signal shall end, whatever this one was started with."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in DEADLY:
        signal.signal(number, signal.SIG_DFL)


def source(name):
    with open(os.path.join(SOURCES, name)) as file:
        return file.read()


class Program:
    """A running example. It prints into files, so it never blocks on its output."""

    def __init__(self, folder, name, *args, stdin=subprocess.DEVNULL, **options):
        self.name = name
        self.folder = folder
        self.paths = [os.path.join(folder, "%s-%d" % (kind, time.monotonic_ns()))
                      for kind in ("out", "err")]
        with open(self.paths[0], "wb") as out, open(self.paths[1], "wb") as error:
            self.process = subprocess.Popen(
                [os.path.join(BINARIES, name)] + list(args), stdin=stdin,
                stdout=out, stderr=error, **options)

    def output(self, stream=0):
        with open(self.paths[stream], "rb") as file:
            return file.read().decode("utf-8", "backslashreplace")

    def errors(self):
        return self.output(1)

    def said(self):
        return "%s, which said:\n%s%s" % (self.name, self.output(), self.errors())

    def line(self, pattern):
        """Waits for a line of output that matches; returns the match."""
        return wait_until(lambda: re.search(pattern, self.output(), re.M),
                          lambda: "%r from %s" % (pattern, self.said()))

    def type(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def end(self):
        """Waits until it ends by itself; returns the exit code."""
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError("no end of " + self.said())

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.end()

    def release(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdin:
            try:
                self.process.stdin.close()
            except OSError:
                pass


class Client:
    """A TCP client that reads lines."""

    def __init__(self, port, receive_buffer=None):
        self.pending = b""
        self.socket = socket.socket()
        self.socket.settimeout(DEADLINE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.socket.connect((LOCALHOST, port))
        except OSError:
            self.socket.close()
            raise

    def hurry(self):
        """Undoes receive_buffer: a small one makes a long read slow."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def send(self, data):
        self.socket.sendall(data)

    def read(self, size):
        data = self.pending
        while len(data) < size:
            piece = self.socket.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise AssertionError("the connection ended after %r" % data[-200:])
            data += piece
        self.pending = data[size:]
        return data[:size]

    def line(self):
        while b"\n" not in self.pending:
            piece = self.socket.recv(65536)
            if not piece:
                raise AssertionError("the connection ended after %r" % self.pending)
            self.pending += piece
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode() + "\n"

    def at_end(self):
        """Waits for the end; whether nothing else came."""
        try:
            return self.pending == b"" and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.socket.close()

    def reset(self):
        """Ends the connection with RST in place of FIN."""
        reset_on_close(self.socket)
        self.socket.close()


class ExampleTest(unittest.TestCase):
    """A folder and a process group for each test; both have to be empty at its end."""

    def setUp(self):
        atexit.register(self.doCleanups)    # an interrupted test has not done them
        self.folder = tempfile.mkdtemp(prefix="ex-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.outputs = tempfile.mkdtemp(prefix="ex-out-")
        self.addCleanup(shutil.rmtree, self.outputs)
        self.programs = []
        self.clients = []
        self.addCleanup(self.release)

    def release(self):
        for client in self.clients:
            client.close()
        for program in self.programs:
            program.release()
            self.group_end(program.process.pid)

    def group_end(self, group):
        """Kills what a failed test has left of a program's children."""
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def start(self, name, *args, **options):
        """Starts an example in a process group of its own, which its children share."""
        program = Program(self.outputs, name, *args, start_new_session=True, **options)
        self.programs.append(program)
        return program

    def run_example(self, name, *args, code=0, **options):
        """Runs an example to its end; returns the output."""
        program = self.start(name, *args, **options)
        self.assertEqual(program.end(), code, program.output() + program.errors())
        if code == 0:
            self.assertEqual(program.errors(), "")
        return program.output()

    def connect(self, port, receive_buffer=None):
        client = Client(port, receive_buffer)
        self.clients.append(client)
        return client

    def assert_nothing_left(self):
        """No process of any program, no file in the folder."""
        for program in self.programs:
            self.assertIsNotNone(program.process.poll(), program.name + " still runs")
            group = program.process.pid
            wait_until(lambda: not self.group_alive(group),
                       "the end of the children of " + program.name)
        self.assertEqual(os.listdir(self.folder), [])

    def assert_idle(self, program):
        """Looks for half a second at how much processor time it gets, and how often: a
        busy machine gives little time to a program that never sleeps, but many times."""
        folder = "/proc/%d/" % program.process.pid
        if not os.path.exists(folder + "schedstat"):
            return

        def usage():
            with open(folder + "schedstat") as file:
                ran, _, times = map(int, file.read().split())
            return ran / 1e9, times
        before = usage()
        time.sleep(0.5)
        ran, times = (now - then for now, then in zip(usage(), before))
        self.assertLess(ran, 0.2)
        self.assertLess(times, 6)

    def group_alive(self, group):
        try:
            os.killpg(group, 0)
            return True
        except (ProcessLookupError, PermissionError):
            return False


class TestStreams(ExampleTest):
    """socketpair, unix_stream, tcp_ipv4, tcp_ipv6."""

    READ = r"^server: read 1000 bytes in ([0-9]+) reads$"
    WROTE = r"^client: wrote 1000 bytes in 1000 writes$"

    def assert_thousand_bytes(self, output, times=1):
        reads = re.findall(self.READ, output, re.M)
        self.assertEqual(len(reads), times, output)
        self.assertTrue(all(1 <= int(n) <= 1000 for n in reads), output)
        self.assertEqual(len(re.findall(self.WROTE, output, re.M)), times, output)

    def test_socketpair_carries_both_ways(self):
        output = self.run_example("socketpair")
        self.assertEqual(output, 'child: the question is "how long am I?"\n'
                                 'parent: the answer is "14 bytes"\n')
        self.assert_nothing_left()

    def test_unix_stream(self):
        self.assert_thousand_bytes(self.run_example("unix_stream", self.folder))
        self.assert_nothing_left()

    def test_unix_stream_in_tmpdir(self):
        self.run_example("unix_stream", env=dict(os.environ, TMPDIR=self.folder))
        self.assert_nothing_left()
        program = self.start("unix_stream", env=dict(os.environ, TMPDIR="/" + "x" * 200))
        self.assertEqual(program.end(), 1)
        self.assertRegex(program.errors(), "^unix_stream: /x{200}: .*10[37] bytes")

    def test_tcp_ipv4(self):
        output = self.run_example("tcp_ipv4")
        self.assertRegex(output, r"(?m)^server: listening on 127\.0\.0\.1 port [0-9]+$")
        self.assert_thousand_bytes(output)
        self.assert_nothing_left()

    def test_tcp_ipv6_finds_the_server_at_each_address(self):
        output = self.run_example("tcp_ipv6")
        hosts = re.findall("^server: (.*) port [0-9]+: listening$", output, re.M)
        expected = ["127.0.0.1"] + (["::1"] if has_ipv6() else [])
        self.assertEqual(sorted(hosts), sorted(expected), output)
        self.assert_thousand_bytes(output, len(hosts))
        self.assert_nothing_left()

    def test_tcp_ipv6_tries_every_address(self):
        if not has_ipv6():
            self.skipTest("this machine has no ::1")
        output = self.run_example("tcp_ipv6")
        found = re.findall("^client: (.*) port [0-9]+: connected$", output, re.M)
        refused = re.findall("^client: (.*) port [0-9]+: Connection refused$", output,
                             re.M)
        self.assertEqual(sorted(found), ["127.0.0.1", "::1"], output)
        # Whichever is first in the system's order has refused when the other one served.
        self.assertEqual(refused, found[:1], output)

    def test_tcp_ipv6_as_a_client(self):
        with socket.socket() as listener:
            listener.bind((LOCALHOST, 0))
            port = str(listener.getsockname()[1])
            output = self.run_example("tcp_ipv6", LOCALHOST, port, code=1)
            line = "client: 127.0.0.1 port %s: " % port
            self.assertEqual(output, line + "Connection refused\n")
            listener.listen()
            output = self.run_example("tcp_ipv6", LOCALHOST, port)
            self.assertEqual(output, line + "connected\n")

    def test_wrong_usage(self):
        self.run_example("tcp_ipv6", "localhost", code=2)

    def test_streams_differ_only_in_the_address(self):
        """The headers say so: server_run() and client_run() are the same."""
        texts = [source(name) for name in ("unix_stream.c", "tcp_ipv4.c", "tcp_ipv6.c")]
        for function in ("client_run", "server_run"):
            bodies = {re.search(r"^static void %s\(.*?^}$" % function, text, re.M | re.S)
                      .group() for text in texts}
            self.assertEqual(len(bodies), 1, function)


class TestNumbers(ExampleTest):
    """tcp_numbers."""

    def talk(self, typed, answers, code=0):
        """Types numbers; the server reads one and answers, part by part. Returns both."""
        with socket.socket() as listener:
            listener.bind((LOCALHOST, 0))
            listener.listen()
            program = self.start("tcp_numbers", LOCALHOST, str(listener.getsockname()[1]),
                                 stdin=subprocess.PIPE)
            program.type(typed)
            program.process.stdin.close()
            listener.settimeout(DEADLINE)
            peer, _ = listener.accept()
            heard = b""
            with peer:
                peer.settimeout(DEADLINE)
                for answer in answers:
                    heard += peer.recv(4, socket.MSG_WAITALL)
                    for part in answer:
                        peer.sendall(part)
                        time.sleep(0.01)    # so that it may come alone; if not, no harm
            self.assertEqual(program.end(), code, program.said())
        return heard, program.output()

    def test_numbers_in_parts(self):
        """the least significant byte first, negative ones too, however they are cut"""
        heard, said = self.talk("1 -2 305419896\n", [
            [b"\x02", b"\0\0\0"], [b"\xfe\xff\xff", b"\xff"], [b"\0\0\0\x80"]])
        self.assertEqual(heard, struct.pack("<iii", 1, -2, 0x12345678))
        self.assertEqual(said, "2\n-2\n-2147483648\n")

    def test_the_server_closes(self):
        """between two numbers that is an end, in the middle of one it is a fault"""
        self.assertEqual(self.talk("1 2 3", [[b"\x07\0\0\0"]])[1], "7\n")
        self.assertEqual(self.talk("1 2 3", [[b"\x07\0"]], code=1)[1], "")

    def test_nobody_there(self):
        with socket.socket() as unused:
            unused.bind((LOCALHOST, 0))
            port = str(unused.getsockname()[1])
            self.assertEqual(self.start("tcp_numbers", LOCALHOST, port).end(), 1)
        self.assertEqual(self.start("tcp_numbers").end(), 2)


class TestUdp(ExampleTest):
    """udp."""

    def test_all_ways_of_sending(self):
        lines = self.run_example("udp").splitlines()
        server = [line for line in lines if line.startswith("server: ")]
        ports = {re.match("server: [0-9]+ bytes from port ([0-9]+): ", line).group(1)
                 for line in server}
        self.assertEqual(len(ports), 1, "all came from one socket")
        got = [re.sub(" from port [0-9]+", "", line) for line in server]
        self.assertEqual(got, [
            "server: 7 bytes: hello 1", "server: 7 bytes: hello 2",
            "server: 7 bytes: hello 3", "server: 16 bytes: abcdefghijklmnop",
            "server: 0 bytes: ", "server: 3 bytes: bye"])
        self.assertEqual([line for line in lines if line.startswith("client: ")], [
            "client: sendto() took 7 bytes", "client: send() took 7 bytes",
            "client: write() took 7 bytes", "client: send() took 26 bytes",
            "client: send() took 0 bytes", "client: send() took 3 bytes",
            "client: the server says: bye yourself",
            "client: from a closed port: Connection refused"])
        self.assert_nothing_left()


class StopTests:
    """A server that stops on a signal; the classes below say which."""

    name = ""

    def server(self):
        server = self.start(self.name)
        return server, int(server.line("^listening on port ([0-9]+)$").group(1))

    def visit(self, port, number):
        client = self.connect(port)
        self.assertEqual(client.line(), "you are visitor %d\n" % number)
        self.assertTrue(client.at_end())

    def assert_stops(self, server, number, output_end):
        self.assertEqual(server.stop(number), 0, server.errors())
        self.assertTrue(server.output().endswith(output_end), server.output())
        self.assertEqual(server.errors(), "")
        self.assert_nothing_left()

    def test_stops_on_sigterm_while_idle(self):
        server, port = self.server()
        self.visit(port, 1)
        self.visit(port, 2)
        self.assert_stops(server, signal.SIGTERM,
                          "\nvisitor 1\nvisitor 2\nstopping: Terminated\n")

    def test_stops_on_sigint(self):
        server, _ = self.server()
        self.assert_stops(server, signal.SIGINT, "stopping: Interrupt\n")

    def test_signals_that_come_together_stop_it_once(self):
        server, port = self.server()
        self.visit(port, 1)
        server.process.send_signal(signal.SIGSTOP)  # so that it cannot stop in between
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGCONT)
        self.assertEqual(server.end(), 0, server.errors())
        self.assertEqual(server.output().count("stopping"), 1)

    def test_the_port_is_free_at_once(self):
        server, port = self.server()
        self.visit(port, 1)
        server.stop()
        again = self.start(self.name, str(port))
        again.line("^listening on port %d$" % port)
        self.visit(port, 1)
        self.assertEqual(again.stop(), 0)

    def test_other_signals_are_as_ever(self):
        server, _ = self.server()
        self.assertEqual(server.stop(signal.SIGHUP), -signal.SIGHUP)

    def test_wrong_usage(self):
        for args in (["x"], ["70000"], ["-1"], ["1", "2"], [""]):
            self.run_example(self.name, *args, code=2)


class TestStopSelfpipe(StopTests, ExampleTest):
    """stop_selfpipe."""
    name = "stop_selfpipe"


@unittest.skipUnless(sys.platform.startswith("linux"), "signalfd is Linux's")
class TestStopSignalfd(StopTests, ExampleTest):
    """stop_signalfd, on Linux."""
    name = "stop_signalfd"


@unittest.skipIf(sys.platform.startswith("linux"), "here signalfd works")
class TestStopSignalfdElsewhere(ExampleTest):
    """stop_signalfd, on other systems."""

    def test_says_so(self):
        output = self.run_example("stop_signalfd")
        self.assertEqual(output.count("\n"), 1)


class TestPing(ExampleTest):
    """ping_dgram."""

    PROMPT = "type the string: "

    def server(self, **options):
        server = self.start("ping_dgram", "server", self.folder, **options)
        wait_until(lambda: os.path.exists(os.path.join(self.folder, "ping-server")),
                   "the server's name")
        return server

    def client(self, **options):
        return self.start("ping_dgram", "client", self.folder, stdin=subprocess.PIPE,
                          **options)

    def ask(self, client, text, answer):
        """Types a text; its answer has to be the last thing that the client shows."""
        count = client.output().count("answered")
        client.type(text + "\n")
        wait_until(lambda: client.output().count("answered") > count, "an answer")
        last = client.output().splitlines()[count]
        self.assertEqual(last, "%sclient: server answered: %s" % (self.PROMPT, answer))

    def test_ping_and_quit(self):
        server, client = self.server(), self.client()
        self.ask(client, "Hello", "wrong string!")
        self.ask(client, "ping", "pong!")
        self.ask(client, "ping ", "wrong string!")
        self.ask(client, "", "wrong string!")
        self.ask(client, "quit", "quit_flag now!")
        self.assertEqual((client.end(), server.end()), (0, 0))
        name = os.path.join(self.folder, "ping-client-%d" % client.process.pid)
        self.assertEqual(server.output(), "".join(
            "server: received from %s: %s\n" % (name, text)
            for text in ("Hello", "ping", "ping ", "", "quit")))
        self.assertEqual(server.errors() + client.errors(), "")
        self.assert_nothing_left()

    def test_two_clients_each_get_their_own_answers(self):
        server, one, two = self.server(), self.client(), self.client()
        self.ask(one, "ping", "pong!")
        self.ask(two, "Hello", "wrong string!")
        self.ask(one, "ping", "pong!")
        self.ask(two, "pong", "wrong string!")
        one.process.stdin.close()  # end of file: only this client ends
        self.assertEqual(one.end(), 0)
        self.ask(two, "ping", "pong!")
        self.ask(two, "quit", "quit_flag now!")
        self.assertEqual((two.end(), server.end()), (0, 0))
        self.assert_nothing_left()

    def test_client_without_a_server(self):
        client = self.client()
        self.assertEqual(client.end(), 1)
        self.assertIn("connect", client.errors())
        self.assert_nothing_left()

    def test_client_whose_server_has_gone(self):
        server, one, two = self.server(), self.client(), self.client()
        self.ask(one, "ping", "pong!")
        self.ask(two, "quit", "quit_flag now!")
        server.end()
        one.type("ping\n")
        self.assertEqual(one.end(), 1)
        self.assertIn("the server is gone", one.errors())
        two.end()
        self.assert_nothing_left()

    def test_second_server_does_not_take_the_name_away(self):
        server, client = self.server(), self.client()
        second = self.start("ping_dgram", "server", self.folder)
        self.assertEqual(second.end(), 1)
        self.assertRegex(second.errors(), "bind .*: Address (already )?in use")
        self.ask(client, "ping", "pong!")
        self.ask(client, "quit", "quit_flag now!")
        server.end()
        client.end()
        self.assert_nothing_left()

    def test_killed_ones_leave_no_name(self):
        for number in DEADLY + [signal.SIGPIPE]:
            server = self.server(preexec_fn=signals_default)
            client = self.client(preexec_fn=signals_default)
            self.ask(client, "ping", "pong!")
            self.assertEqual(client.stop(number), -number)
            self.assertEqual(server.stop(number), -number)
            self.assert_nothing_left()

    def test_long_lines_and_bytes_that_are_no_text(self):
        server, client = self.server(), self.client()
        said = ["x" * 38, "x" * 39, "", "y" * 39, "y", "z" * 39, "z" * 39, ".[2J", "quit"]
        client.type("\n".join(["x" * 38, "x" * 39, "", "y" * 40, "z" * 78, "\x1b[2J\0",
                               "quit\n"]))
        self.assertEqual((client.end(), server.end()), (0, 0))
        self.assertEqual(re.findall(": ([^:]*)\n", server.output()), said)

    def test_deaf_client_does_not_hold_up_the_server(self):
        server, client = self.server(), self.client()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
            deaf.settimeout(DEADLINE)
            deaf.bind(os.path.join(self.folder, "deaf"))
            for _ in range(1000):  # far more answers than wait in any system's queue
                deaf.sendto(b"ping", os.path.join(self.folder, "ping-server"))
            self.ask(client, "ping", "pong!")
            os.unlink(os.path.join(self.folder, "deaf"))
        self.ask(client, "quit", "quit_flag now!")
        self.assertEqual((client.end(), server.end()), (0, 0))
        self.assertIn("no answer sent", server.errors())
        self.assert_nothing_left()

    def test_wrong_usage(self):
        for args in ([], ["nobody"]):
            self.run_example("ping_dgram", *args, code=2)


class TurtleTest(ExampleTest):
    """What the two turtle servers have in common."""

    def setUp(self):
        super().setUp()
        self.name = os.path.join(self.folder, "turtle-server")

    def client(self, name):
        return self.start("turtle_fork", "client", name, self.folder,
                          stdin=subprocess.PIPE)

    def ask(self, client, command, answer):
        count = client.output().count("<< ")
        client.type(command + "\n")
        wait_until(lambda: client.output().count("<< ") > count, "an answer")
        self.assertEqual(client.output().splitlines()[count], ">>: << " + answer)

    def leave(self, client, command="quit"):
        client.type(command + "\n")
        self.assertEqual(client.end(), 0, client.errors())

    def stream(self):
        """A connection without a program around it."""
        stream = socket.socket(socket.AF_UNIX)
        self.addCleanup(stream.close)
        stream.settimeout(DEADLINE)
        stream.connect(self.name)
        return stream

    def check_commands(self):
        client = self.client("A")
        self.ask(client, "hello", "Turtle does not know this command")
        self.ask(client, "say hello", 'Turtle said "hello"')
        self.ask(client, "say  two words", 'Turtle said "two words"')
        self.ask(client, "say", "Turtle says nothing")
        self.ask(client, "run 13 10", "Turtle travel to <13:10>")
        self.ask(client, "run -7 6", "Turtle travel to <6:16>")
        self.ask(client, "run 1", "not enough args: need two")
        self.ask(client, "run", "not enough args: need two")
        self.ask(client, "running 1 1", "Turtle does not know this command")
        self.ask(client, "run 99999999999999999999 -99999999999999999999",
                 "Turtle travel to <1000006:-999984>")
        self.ask(client, "", "Turtle does not know this command")
        for len_too_much in 0, 1, 2, 5000:
            self.ask(client, "say " + "x" * (96 + len_too_much),
                     'Turtle said "%s"' % ("x" * 96))
        self.leave(client)

    def check_pieces(self):
        """A command is a line, whatever pieces it comes in."""
        stream = self.stream()
        for byte in b"run 1 2\n":
            stream.sendall(bytes([byte]))
        stream.sendall(b"run 1 2\nrun 1 2\nqu")
        stream.sendall(b"it\n")
        self.assertEqual(stream.makefile().read(), "Turtle travel to <1:2>\n"
                         "Turtle travel to <2:4>\nTurtle travel to <3:6>\n")

    def check_long_lines(self):
        """One answer each; the end of a line that is too long is no command."""
        stream = self.stream()
        for len_too_much in 0, 1, 2, 901, 924, 925, 9999:
            stream.sendall(b"say " + b"x" * 96 + b"y" * len_too_much + b"\n")
        stream.sendall(b"say" + b" " * 97 + b"quit\nquit\n")
        self.assertEqual(stream.makefile().read(), 'Turtle said "%s"\n' % ("x" * 96) * 7
                         + "Turtle says nothing\n")


class TestTurtleFork(TurtleTest):
    """turtle_fork: a process and a turtle for each client."""

    def server(self, **options):
        server = self.start("turtle_fork", "server", self.folder, **options)
        server.line("^server: listening at %s$" % re.escape(self.name))
        return server

    def end_server(self, server):
        self.leave(self.client("Z"), "_exit")
        self.end_stopped(server)

    def end_stopped(self, server):
        """After _exit: clients come until one makes it look at the exit codes."""
        wait_until(lambda: self.one_more() or server.process.poll() is not None,
                   server.said)
        self.assertEqual(server.end(), 0, server.errors())

    def one_more(self):
        """A client that comes and goes, unless the server has just closed the door or is
        behind: where a socket has a timeout, connect() does not wait for a full queue."""
        try:
            self.stream().close()
        except OSError:
            pass

    def test_commands(self):
        server = self.server()
        self.check_commands()
        self.check_pieces()
        self.check_long_lines()
        self.end_server(server)
        self.assertIn("server: stopping\n", server.output())
        server.line("^server_fork [0-9]+: received from client: run 13 10$")
        self.assertEqual(server.errors(), "")
        self.assert_nothing_left()

    def test_each_client_has_its_own_turtle(self):
        server, one = self.server(), self.client("A")
        self.ask(one, "run 1 1", "Turtle travel to <1:1>")
        two = self.client("B")
        self.ask(two, "run 5 5", "Turtle travel to <5:5>")
        self.ask(one, "run 1 1", "Turtle travel to <2:2>")
        processes = re.findall("^server: process ([0-9]+) serves (.*)$", server.output(),
                               re.M)
        self.assertEqual([os.path.basename(name) for _, name in processes], ["A", "B"])
        self.assertEqual(len({number for number, _ in processes}), 2)
        self.leave(one)
        self.leave(two)
        self.end_server(server)
        self.assert_nothing_left()

    @staticmethod
    def sleeps(server):
        """Between fork() and accept() it does not sleep, but it may see a child's end."""
        state = next(state for pid, _, state in process_table()
                     if pid == server.process.pid)
        return "serves" in server.output() and state in ("S", "I")

    def test_exit_lets_one_more_client_in(self):
        """The question that the example is about: why does connect() still succeed?"""
        server, first = self.server(), self.client("A")
        self.ask(first, "say hi", 'Turtle said "hi"')
        wait_until(lambda: self.sleeps(server), "the server in accept()")
        self.leave(first, "_exit")
        late = self.client("B")
        self.ask(late, "???", "Turtle does not know this command")
        self.leave(late)
        self.end_stopped(server)
        self.assert_nothing_left()

    def test_who_is_connected_stays_after_exit(self):
        server, stays = self.server(), self.client("A")
        self.ask(stays, "run 1 1", "Turtle travel to <1:1>")
        self.leave(self.client("B"), "_exit")
        wait_until(lambda: self.one_more() or "stopping" in server.output(), server.said)
        self.ask(stays, "run 1 1", "Turtle travel to <2:2>")
        self.assertIsNone(server.process.poll())
        self.leave(stays)
        self.assertEqual(server.end(), 0, server.errors())
        self.assert_nothing_left()

    def test_two_clients_of_one_name(self):
        server, one = self.server(), self.client("A")
        self.ask(one, "run 1 1", "Turtle travel to <1:1>")
        two = self.client("A")
        self.assertEqual(two.end(), 1)
        self.assertRegex(two.errors(), "bind .*: Address (already )?in use")
        self.leave(one)
        self.end_server(server)
        self.assert_nothing_left()

    def test_client_that_leaves_without_a_word(self):
        server = self.server()
        client = self.client("A")
        client.process.stdin.close()
        self.assertEqual(client.end(), 0)
        self.end_server(server)
        self.assertEqual(server.errors(), "")
        self.assert_nothing_left()

    def test_no_zombies(self):
        server = self.server()
        for _ in range(5):
            self.stream().close()
        wait_until(lambda: server.output().count("serves") == 5, "five clients")

        def children():
            return sum(parent == server.process.pid for _, parent, _ in process_table())

        # Each newcomer makes it reap all who have ended: never more than the last two.
        wait_until(lambda: self.one_more() or children() <= 2, "reaped children")
        self.end_server(server)

    def test_killed_server_leaves_no_name(self):
        for number in DEADLY:
            server = self.server(preexec_fn=signals_default)
            self.assertEqual(server.stop(number), -number)
            self.assert_nothing_left()

    def test_wrong_usage(self):
        for args in ([], ["client"], ["server", "a", "b"], ["nobody"]):
            self.run_example("turtle_fork", *args, code=2)


class TestTurtleLoop(TurtleTest):
    """turtle_loop: one process, one turtle, numbered clients, a log file."""

    def server(self, **options):
        self.log_path = os.path.join(self.outputs, "turtle.log")
        server = self.start("turtle_loop", self.log_path, self.folder, **options)
        line = "started, process %d\n" % server.process.pid
        wait_until(lambda: line in self.log(), server.said)
        return server

    def log(self):
        """What the log file contains; nothing as long as there is none."""
        if not os.path.exists(self.log_path):
            return ""
        with open(self.log_path) as file:
            return file.read()

    def assert_ended(self, server):
        self.assertEqual(server.end(), 0, server.errors())
        self.assertEqual(server.output() + server.errors(), "")
        self.assertTrue(self.log().endswith("stopped\n"), self.log())
        self.assert_nothing_left()

    def test_commands(self):
        server = self.server()
        self.check_commands()
        self.leave(self.client("A"), "_exit")
        self.assert_ended(server)

    def test_pieces(self):
        server = self.server()
        self.check_pieces()
        self.check_long_lines()
        self.leave(self.client("A"), "_exit")
        self.assert_ended(server)

    def test_one_turtle_for_all(self):
        server, one, two = self.server(), self.client("A"), self.client("B")
        self.ask(one, "run 1 1", "Turtle travel to <1:1>")
        self.ask(two, "run 5 5", "Turtle travel to <6:6>")
        self.ask(one, "run -1 -1", "Turtle travel to <5:5>")
        self.leave(one)
        self.leave(two, "_exit")
        self.assert_ended(server)

    def test_numbers_are_unique_and_given_again(self):
        server, one = self.server(), self.client("A")
        self.ask(one, "getcid", "0")
        two = self.client("B")
        self.ask(two, "getcid", "1")
        self.leave(one)
        wait_until(lambda: "client 0: left" in self.log(), "its leaving")
        three = self.client("C")
        self.ask(three, "getcid", "0")
        self.ask(two, "getcid", "1")
        self.leave(two)
        self.leave(three, "_exit")
        self.assert_ended(server)

    def test_exit_stops_newcomers_at_once_but_nobody_else(self):
        server, stays = self.server(), self.client("A")
        self.ask(stays, "run 1 1", "Turtle travel to <1:1>")
        leaves = self.stream()
        leaves.sendall(b"_exit\n")
        self.assertEqual(leaves.recv(1), b"")  # it has been heard
        late = self.client("B")
        self.assertEqual(late.end(), 1)
        self.assertIn("connect", late.errors())
        self.assertFalse(os.path.exists(self.name))
        self.ask(stays, "run 1 1", "Turtle travel to <2:2>")
        self.assertIsNone(server.process.poll())
        self.leave(stays)
        self.assert_ended(server)

    def test_log_is_appended(self):
        for _ in range(2):
            server = self.server()
            client = self.client("A")
            self.ask(client, "say hi", 'Turtle said "hi"')
            self.leave(client, "_exit")
            self.assert_ended(server)
        self.assertEqual(re.sub("process [0-9]+", "process N", self.log()), 2 * (
            "started, process N\nclient 0: came\nclient 0: say hi\nclient 0: _exit\n"
            "stopping\nclient 0: left (as it wished)\nstopped\n"))

    def test_nobody_forges_a_log_line(self):
        server, stream = self.server(), self.stream()
        stream.sendall(b"say a\rclient 9: came\x1b\x00b\nquit\n")
        self.assertEqual(stream.makefile().read(), 'Turtle said "a.client 9: came..b"\n')
        self.assertIn("client 0: say a.client 9: came..b\n", self.log())
        self.leave(self.client("A"), "_exit")
        self.assert_ended(server)

    def test_client_that_reads_nothing(self):
        """Nor is it read from: the others go on, and later it gets all its answers."""
        server, deaf, other = self.server(), self.stream(), self.client("A")
        deaf.setblocking(False)
        sent = 0
        line = b"say " + b"x" * 15 + b"\n"
        try:
            while sent < 64 << 20:
                sent += deaf.send(line * 1000)
        except BlockingIOError:
            pass
        self.assertLess(sent, 64 << 20, "what nobody reads is taken without end")
        self.ask(other, "run 1 1", "Turtle travel to <1:1>")
        deaf.settimeout(DEADLINE)
        expected = sent // len(line) * len(b'Turtle said ""\n' + b"x" * 15)
        deaf.shutdown(socket.SHUT_WR)
        got = 0
        while True:
            piece = deaf.recv(1 << 16)
            if not piece:
                break
            got += len(piece)
        self.assertEqual(got, expected)
        self.leave(other, "_exit")
        self.assert_ended(server)

    def test_client_that_is_gone_before_its_answer(self):
        server = self.server()
        for _ in range(20):
            stream = self.stream()
            stream.sendall(b"say hello\n" * 5)
            stream.close()
        client = self.client("A")
        self.ask(client, "run 1 1", "Turtle travel to <1:1>")
        wait_until(lambda: self.log().count("left") == 20, "twenty leaves")
        self.leave(client, "_exit")
        self.assert_ended(server)

    def test_full_house(self):
        server = self.server()
        streams = [self.stream() for _ in range(64)]
        self.assertEqual(self.stream().recv(1), b"", "the 65th is turned away")
        for stream in streams:
            stream.sendall(b"getcid\n")
        numbers = [int(stream.recv(10)) for stream in streams]
        self.assertEqual(sorted(numbers), list(range(64)))
        for stream in streams[1:]:
            stream.close()
        streams[0].sendall(b"_exit\n")
        self.assert_ended(server)

    def test_killed_server_leaves_no_name(self):
        for number in DEADLY:
            server = self.server(preexec_fn=signals_default)
            self.assertEqual(server.stop(number), -number)
            self.assert_nothing_left()

    def test_under_nohup(self):
        """a terminal that is closed ends it no more than any other program"""
        server = self.server(preexec_fn=lambda: signal.signal(signal.SIGHUP,
                                                              signal.SIG_IGN))
        server.process.send_signal(signal.SIGHUP)
        client = self.client("A")
        self.ask(client, "run 1 1", "Turtle travel to <1:1>")
        self.leave(client, "_exit")
        self.assert_ended(server)

    def test_wrong_usage(self):
        for args in ([], ["a", "b", "c"]):
            self.run_example("turtle_loop", *args, code=2)


class TestMiniServ(ExampleTest):
    """mini_serv: each sentence of the assignment that can be seen from outside."""

    ALLOWED = set("write close select socket accept listen send recv bind strstr malloc "
                  "realloc free calloc bzero atoi sprintf strlen exit strcpy strcat "
                  "memset".split())

    def server(self, **options):
        """Returns the running server and client 0, who had to find out that it runs."""
        for _ in range(20):  # the subject has no way to ask for any free port
            with socket.socket() as free:
                free.bind((LOCALHOST, 0))
                self.port = free.getsockname()[1]
            server = self.start("mini_serv", str(self.port), **options)
            if wait_until(lambda: self.is_up(server), server.said) == "up":
                return server, self.clients[-1]
        raise AssertionError("no free port in 20 attempts: " + server.errors())

    def is_up(self, server):
        if server.process.poll() is not None:
            return "ended"
        try:
            self.connect(self.port)
            return "up"
        except ConnectionRefusedError:
            return None

    def finish(self, server):
        """It never ends by itself: it must still run, and have printed nothing."""
        self.assertIsNone(server.process.poll(), server.errors())
        self.assertEqual(server.stop(), -signal.SIGTERM)
        self.assertEqual(server.output() + server.errors(), "")
        self.assert_nothing_left()

    def join(self, number, others):
        """A new client, after the others have been told."""
        client = self.connect(self.port)
        for other in others:
            self.assertEqual(other.line(), "server: client %d just arrived\n" % number)
        return client

    def test_wrong_number_of_arguments(self):
        for args in ([], ["1", "2"]):
            program = self.start("mini_serv", *args)
            self.assertEqual(program.end(), 1)
            self.assertEqual(program.errors(), "Wrong number of arguments\n")
            self.assertEqual(program.output(), "")

    def test_fatal_error(self):
        with socket.socket() as taken:
            taken.bind((LOCALHOST, 0))
            taken.listen()
            beyond_int = str((1 << 32) + free_ports(1)[0])
            for port in (str(taken.getsockname()[1]), "0", "-1", "65536", "x", "",
                         beyond_int):
                program = self.start("mini_serv", port)
                self.assertEqual(program.end(), 1, port)
                self.assertEqual(program.errors(), "Fatal error\n")

    @unittest.skipUnless(sys.platform.startswith("linux"), "127.0.0.2 is Linux's")
    def test_listens_to_127_0_0_1_only(self):
        server, _ = self.server()
        with socket.socket() as other:
            other.settimeout(DEADLINE)
            with self.assertRaises(ConnectionRefusedError):
                other.connect(("127.0.0.2", self.port))
        self.finish(server)

    def test_who_arrives_and_leaves(self):
        server, c0 = self.server()
        c1 = self.join(1, [c0])
        c2 = self.join(2, [c0, c1])
        c1.close()
        for client in (c0, c2):
            self.assertEqual(client.line(), "server: client 1 just left\n")
        c3 = self.join(3, [c0, c2])  # a number is never given again
        c0.reset()
        for client in (c2, c3):
            self.assertEqual(client.line(), "server: client 0 just left\n")
        self.finish(server)

    def test_each_line_goes_to_all_others(self):
        server, c0 = self.server()
        c1 = self.join(1, [c0])
        c2 = self.join(2, [c0, c1])
        c0.send(b"hello\n")
        c1.send(b"one\ntwo\n\nfour\n")
        for line in ("one", "two", "", "four"):
            self.assertEqual(c0.line(), "client 1: %s\n" % line)  # and not its own line
        lines = [c2.line() for _ in range(5)]
        self.assertIn("client 0: hello\n", lines)
        lines.remove("client 0: hello\n")
        self.assertEqual("".join(lines),
                         "client 1: one\nclient 1: two\nclient 1: \nclient 1: four\n")
        self.assertEqual(c1.line(), "client 0: hello\n")
        self.finish(server)

    def test_lines_in_pieces_are_not_mixed(self):
        server, c0 = self.server()
        c1 = self.join(1, [c0])
        c2 = self.join(2, [c0, c1])
        c0.send(b"a")
        c1.send(b"1")
        c1.send(b"2\n3")
        self.assertEqual(c0.line(), "client 1: 12\n")  # so "a" has long been read
        c0.send(b"b\nc")
        self.assertEqual(c2.line(), "client 1: 12\n")
        self.assertEqual(c2.line(), "client 0: ab\n")
        c1.send(b"\n")
        self.assertEqual(c2.line(), "client 1: 3\n")
        self.finish(server)

    def test_unfinished_line_is_dropped_and_leaks_to_nobody(self):
        server, c0 = self.server()
        c1 = self.join(1, [c0])
        c1.send(b"whole\nsecret")
        self.assertEqual(c0.line(), "client 1: whole\n")
        c1.close()
        self.assertEqual(c0.line(), "server: client 1 just left\n")
        c2 = self.join(2, [c0])  # has the descriptor that client 1 had
        c2.send(b"mine\n")
        self.assertEqual(c0.line(), "client 2: mine\n")
        self.finish(server)

    def test_nul_does_not_hide_a_line(self):
        server, c0 = self.server()
        c1 = self.join(1, [c0])
        c1.send(b"a\0b\nc\n\0")
        c1.send(b"d\n")
        self.assertEqual([c0.line() for _ in range(3)],
                         ["client 1: ab\n", "client 1: c\n", "client 1: d\n"])
        self.finish(server)

    def test_line_of_any_length(self):
        server, c0 = self.server()
        c1 = self.join(1, [c0])
        line = bytes(33 + i % 94 for i in range(1 << 20)) * 3
        c1.send(line)
        c1.send(b"\n")
        self.assertTrue(c0.read(len(line) + 11) == b"client 1: " + line + b"\n")
        self.finish(server)

    def test_lazy_client_is_kept_and_holds_up_nobody(self):
        server, talker = self.server()
        lazy = self.connect(self.port, receive_buffer=4096)
        self.assertEqual(talker.line(), "server: client 1 just arrived\n")
        reader = self.join(2, [talker])
        self.assertEqual(lazy.line(), "server: client 2 just arrived\n")
        said = b"".join(b"%07d " % i + b"x" * 991 + b"\n" for i in range(1000))
        heard = said.replace(b"\n", b"\nclient 0: ")[:-len("client 0: ")]
        for _ in range(12):  # 12 MB: more than any system's buffers take
            talker.send(said)
            self.assertTrue(reader.read(len(heard) + 10) == b"client 0: " + heard)
        lazy.hurry()
        heard = 12 * (b"client 0: " + heard)
        self.assertTrue(lazy.read(len(heard)) == heard)
        lazy.send(b"I am still here\n")
        self.assertEqual(talker.line(), "client 1: I am still here\n")
        self.finish(server)

    def test_clients_that_go_while_bytes_wait_for_them(self):
        server, talker = self.server()
        reader = self.join(1, [talker])
        for number in range(2, 12):
            lazy = self.connect(self.port, receive_buffer=4096)
            self.assertEqual(reader.line(), "server: client %d just arrived\n" % number)
            talker.send(b"y" * 1000000 + b"\n")
            self.assertEqual(len(reader.read(1000011)), 1000011)
            lazy.reset() if number % 2 else lazy.close()
            self.assertEqual(reader.line(), "server: client %d just left\n" % number)
        self.finish(server)

    def test_long_line_does_not_block_on_a_lazy_client(self):
        """send() of more than the buffer takes: where a blocking socket would sleep."""
        server, talker = self.server()
        lazy = self.connect(self.port, receive_buffer=4096)
        self.assertEqual(talker.line(), "server: client 1 just arrived\n")
        reader = self.join(2, [talker])
        self.assertEqual(lazy.line(), "server: client 2 just arrived\n")
        line = b"x" * (12 << 20) + b"\n"
        talker.send(line)
        self.assertTrue(reader.read(len(line) + 10) == b"client 0: " + line)
        talker.send(b"more\n")
        self.assertEqual(reader.line(), "client 0: more\n")
        lazy.hurry()
        self.assertTrue(lazy.read(len(line) + 10) == b"client 0: " + line)
        self.finish(server)

    def test_end_and_reset_together_while_bytes_wait(self):
        """Where send() finds a connection that both sides have ended: SIGPIPE."""
        server, talker = self.server()
        lazy = self.connect(self.port, receive_buffer=4096)
        self.assertEqual(talker.line(), "server: client 1 just arrived\n")
        reader = self.join(2, [talker])
        line = b"x" * (12 << 20) + b"\n"
        talker.send(line)
        self.assertTrue(reader.read(len(line) + 10) == b"client 0: " + line)
        server.process.send_signal(signal.SIGSTOP)  # so that it sees both at once
        lazy.socket.shutdown(socket.SHUT_WR)
        lazy.reset()
        server.process.send_signal(signal.SIGCONT)
        for client in (talker, reader):
            self.assertEqual(client.line(), "server: client 1 just left\n")
        self.finish(server)

    def test_line_and_reset_together(self):
        server, c0 = self.server()
        for number in range(1, 11):
            client = self.connect(self.port)
            client.send(b"bye\n")
            client.reset()
        lines = []
        while "server: client 10 just left\n" not in lines:
            lines.append(c0.line())
        self.assertEqual(len([line for line in lines if "arrived" in line]), 10)
        self.finish(server)

    @unittest.skipUnless(os.path.isdir("/proc/self/fd"), "needs /proc")
    def test_no_descriptor_leaks(self):
        server, c0 = self.server()

        def descriptors():
            return len(os.listdir("/proc/%d/fd" % server.process.pid))
        self.join(1, [c0]).close()  # so that client 0 has been accepted, too
        self.assertEqual(c0.line(), "server: client 1 just left\n")
        before = descriptors()
        for number in range(2, 51):
            self.join(number, [c0]).close()
            self.assertEqual(c0.line(), "server: client %d just left\n" % number)
        wait_until(lambda: descriptors() == before, "closed descriptors")
        self.finish(server)

    def test_descriptors_beyond_fd_set(self):
        """Only a few clients fit below FD_SETSIZE; nothing may be written beyond it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= hard < FD_SETSIZE + 100:
            self.skipTest("the limit of descriptors is below FD_SETSIZE")
        resource.setrlimit(resource.RLIMIT_NOFILE, (FD_SETSIZE + 100, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        ballast = [os.open(os.devnull, os.O_RDONLY) for _ in range(FD_SETSIZE - 10)]
        try:
            server, c0 = self.server(pass_fds=ballast)
        finally:
            for fd in ballast:
                os.close(fd)
        inside, refused = [c0], 0
        for _ in range(30):
            client = self.connect(self.port)
            if self.first_readable(c0, client) is client:
                self.assertTrue(client.at_end())
                refused += 1
            else:
                arrived = "server: client %d just arrived\n" % len(inside)
                self.assertEqual(c0.line(), arrived)
                inside.append(client)
        self.assertTrue(2 <= len(inside) <= 10 and refused >= 20, (len(inside), refused))
        inside[1].send(b"hello\n")
        self.assertEqual(c0.line(), "client 1: hello\n")
        inside[1].close()
        self.assertEqual(c0.line(), "server: client 1 just left\n")
        self.join(len(inside), [c0])
        self.finish(server)

    def first_readable(self, *clients):
        """poll() has no trouble with descriptors beyond FD_SETSIZE; select() would."""
        poll = select.poll()
        for client in clients:
            poll.register(client.socket, select.POLLIN)
        ready = dict(poll.poll(DEADLINE * 1000))
        return next(client for client in clients if client.socket.fileno() in ready)

    def test_out_of_descriptors(self):
        """The newcomer waits, at no processor time, until somebody leaves."""
        limit = 8
        server, c0 = self.server(
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
        clients = [self.join(number, [c0]) for number in range(1, limit - 4)]
        late = self.connect(self.port)
        self.assert_idle(server)
        clients[0].send(b"hello\n")
        self.assertEqual(c0.line(), "client 1: hello\n")
        clients[0].close()
        self.assertEqual(c0.line(), "server: client 1 just left\n")
        self.assertEqual(c0.line(), "server: client %d just arrived\n" % (limit - 4))
        late.send(b"here\n")
        self.assertEqual(c0.line(), "client %d: here\n" % (limit - 4))
        self.finish(server)

    @unittest.skipUnless(sys.platform.startswith("linux"), "needs RLIMIT_AS")
    def test_out_of_memory(self):
        with open(os.path.join(BINARIES, "mini_serv"), "rb") as binary:
            if b"__asan_" in binary.read():
                self.skipTest("AddressSanitizer needs more memory than this leaves")
        limit = 64 << 20
        server, c0 = self.server(
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
        with self.assertRaises((ConnectionResetError, BrokenPipeError)):
            for _ in range(limit >> 20):
                c0.send(b"x" * (1 << 20))  # a line without end
        self.assertEqual(server.end(), 1)
        self.assertEqual(server.errors(), "Fatal error\n")

    def test_source_has_no_define(self):
        self.assertNotRegex(source("mini_serv.c"), r"#\s*define")

    def test_only_allowed_functions(self):
        compiler, nm = shutil.which(os.environ.get("CC", "cc")), shutil.which("nm")
        if not compiler or not nm:
            self.skipTest("needs cc and nm")
        module = os.path.join(self.outputs, "mini_serv.o")
        flags = ("-std=c11 -D_DEFAULT_SOURCE -D_DARWIN_C_SOURCE -O0 -fno-builtin "
                 "-fno-stack-protector -U_FORTIFY_SOURCE -c").split()
        subprocess.run([compiler] + flags + ["-o", module,
                       os.path.join(SOURCES, "mini_serv.c")], check=True)
        listing = subprocess.run([nm, "-u", module], stdout=subprocess.PIPE, check=True)
        used = {line.split()[-1] for line in listing.stdout.decode().splitlines() if line}
        if sys.platform == "darwin":  # _select$1050, and the headers' own helpers
            used = {name[1:].split("$")[0] for name in used}
            used = {name for name in used if not name.startswith("_")}
        self.assertIn("select", used)
        self.assertEqual(used - self.ALLOWED, set())


class TestSechat(ExampleTest):
    """sechat."""

    def server(self, **options):
        """Returns the running server; self.port is where."""
        server = self.start("sechat", **options)
        self.port = int(server.line("^listening on port ([0-9]+)$").group(1))
        return server

    def finish(self, server):
        self.assertIsNone(server.process.poll(), server.errors())
        self.assertEqual(server.stop(), -signal.SIGTERM)
        self.assertEqual(server.errors(), "")
        self.assert_nothing_left()

    def join(self, receive_buffer=None):
        """Returns a client that has read its greeting, and its number."""
        client = self.connect(self.port, receive_buffer)
        greeting = client.line()
        match = re.match(r"^Welcome to seChat! You are Client #([0-9]+)\n$", greeting)
        self.assertTrue(match, greeting)
        return client, int(match.group(1))

    def test_all_but_the_sender_hear_who_speaks(self):
        server = self.server()
        clients = [self.join() for _ in range(3)]
        self.assertEqual([number for _, number in clients], [1, 2, 3])
        for client, number in clients:
            client.send(b"hello from %d\n" % number)
            for other, its_number in clients:
                if its_number != number:
                    text = "Client #%d>> hello from %d\n" % (number, number)
                    self.assertEqual(other.line(), text)
        self.finish(server)

    def test_messages_in_pieces_and_in_heaps(self):
        server = self.server()
        (one, _), (two, _) = self.join(), self.join()
        for byte in b"by bytes\n":
            one.send(bytes([byte]))
        one.send(b"a\n\nb\0c\nd")
        one.send(b"\n")
        for text in ("by bytes", "a", "", "b\0c", "d"):
            self.assertEqual(two.line(), "Client #1>> %s\n" % text)
        self.finish(server)

    def test_long_messages_are_cut(self):
        server = self.server()
        (one, _), (two, _) = self.join(), self.join()
        one.send(b"x" * 1024 + b"\n" + b"y" * 1025 + b"\n" + b"z" * 2048 + b"\nend\n")
        for text in ("x" * 1024, "y" * 1024, "y", "z" * 1024, "z" * 1024, "end"):
            self.assertEqual(two.line(), "Client #1>> %s\n" % text)
        self.finish(server)

    def test_some_hundred_clients(self):
        server = self.server()
        clients = [self.join() for _ in range(300)]
        self.assertEqual([number for _, number in clients], list(range(1, 301)))
        for index in (0, 150, 299):
            speaker, number = clients[index]
            speaker.send(b"hello\n")
            for client, _ in clients:
                if client is not speaker:
                    self.assertEqual(client.line(), "Client #%d>> hello\n" % number)
        self.assertIn("Client #300 connected, 300 present\n", server.output())
        for client, _ in clients:
            client.close()
        server.line("^Client #[0-9]+ left .*, 0 present$")
        self.assertEqual(self.join()[1], 301, "a number is never given again")
        self.finish(server)

    def test_slow_reader_holds_up_nobody(self):
        server = self.server()
        slow, _ = self.join(receive_buffer=4096)
        (one, _), (two, _) = self.join(), self.join()
        said = b"".join(b"%07d " % i + b"x" * 991 + b"\n" for i in range(1000))
        heard = said.replace(b"\n", b"\nClient #2>> ")[:-len("Client #2>> ")]
        for _ in range(12):  # 12 MB: more than any system's buffers take
            one.send(said)
            self.assertTrue(two.read(len(heard) + 12) == b"Client #2>> " + heard)
        slow.hurry()
        heard = 12 * (b"Client #2>> " + heard)
        self.assertTrue(slow.read(len(heard)) == heard)
        self.finish(server)

    def test_clients_that_go_in_any_way(self):
        server = self.server()
        watcher, _ = self.join()
        for number in range(2, 22):
            client = self.connect(self.port)
            client.send(b"bye\n")
            client.reset() if number % 2 else client.close()
        wait_until(lambda: server.output().count(" left (") == 20, "twenty leaves")
        self.assertEqual(server.output().count(" connected, "), 21)
        self.join()[0].send(b"hello\n")
        while watcher.line() != "Client #22>> hello\n":
            pass
        for line in server.errors().splitlines():
            self.assertRegex(line, "^sechat: Client #[0-9]+: send: ")
        self.assertEqual(server.stop(), -signal.SIGTERM)

    def test_out_of_descriptors(self):
        """it tries once a second, whatever the others say meanwhile"""
        limit = 12
        server = self.server(
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
        (one, _), (two, _) = self.join(), self.join()
        began, clients = time.monotonic(), []
        while "accept: " not in server.errors():
            clients.append(self.connect(self.port))
            wait_until(lambda: len(clients) + 2 == server.output().count(" connected, ")
                       or "accept: " in server.errors(), "the client or the limit")
        for _ in range(100):
            one.send(b"hello\n")
            self.assertEqual(two.line(), "Client #1>> hello\n")
        tries = server.errors().count("accept: ")
        self.assertLessEqual(tries, 1 + time.monotonic() - began)
        self.assert_idle(server)
        clients[0].close()
        server.line("^Client #%d connected, " % (len(clients) + 2))
        self.assertEqual(server.stop(), -signal.SIGTERM)

    def test_idle(self):
        server = self.server()
        self.join()
        self.assert_idle(server)
        self.finish(server)

    def test_wrong_usage(self):
        for args in (["x"], ["70000"], ["1", "2"], [""]):
            self.run_example("sechat", *args, code=2)


@unittest.skipUnless(sys.platform.startswith("linux"), "EPOLLET is Linux's")
class TestEdgeChat(ExampleTest):
    """edge_chat, on Linux."""

    GREETING = "Welcome to the chat!\n"

    def server(self, **options):
        server = self.start("edge_chat", "0", **options)
        self.port = int(server.line("^listening on port ([0-9]+)$").group(1))
        return server

    def join(self, receive_buffer=None):
        client = self.connect(self.port, receive_buffer)
        self.assertEqual(client.line(), self.GREETING)
        return client

    def pause(self, server, number=signal.SIGSTOP):
        """Stops the server or lets it go on: what happens in between is one edge."""
        server.process.send_signal(number)
        if number == signal.SIGSTOP:
            wait_until(lambda: "T" in [state for pid, _, state in process_table()
                                       if pid == server.process.pid], "the stop")

    def finish(self, server):
        self.assertIsNone(server.process.poll(), server.errors())
        self.assertEqual(server.stop(), -signal.SIGTERM)
        self.assert_nothing_left()

    def test_messages_go_to_all(self):
        server = self.server()
        clients = [self.join() for _ in range(3)]
        for text in b"hello\n", b"\n", b"a\0b\n", b"x" * 1024 + b"\n":
            for client in clients:
                client.send(text)
                for other in clients:
                    self.assertEqual(other.line(), text.decode())
        clients[1].close()
        server.line(r"^connection terminated: [0-9]+ \(end of file\)$")
        self.assert_idle(server)
        self.finish(server)

    def test_one_edge_for_many_connections(self):
        server = self.server()
        self.pause(server)
        clients = [self.connect(self.port) for _ in range(100)]
        self.pause(server, signal.SIGCONT)
        for client in clients:
            self.assertEqual(client.line(), self.GREETING)
        self.finish(server)

    def test_one_edge_for_many_bytes(self):
        """and for the end behind them"""
        server = self.server()
        reader, writer = self.join(), self.join()
        lines = b"".join(b"%06d\n" % i for i in range(6000))
        self.pause(server)
        writer.send(lines)
        wait_until(lambda: unacknowledged(writer.socket) == 0, "all to be there")
        writer.close()
        self.pause(server, signal.SIGCONT)
        self.assertTrue(reader.read(len(lines)) == lines)
        server.line("^connection terminated: ")
        self.finish(server)

    def test_flooder_starves_nobody(self):
        """the other's line comes after a few kilobytes of the flooder's, not after all"""
        server = self.server()
        flooder, other, reader = self.join(), self.join(), self.join()
        self.pause(server)
        line = b"x" * 999 + b"\n"
        flooder.socket.setblocking(False)
        flooded = 0
        try:
            while flooded < 1 << 20:
                flooded += flooder.socket.send(line[flooded % 1000:])
        except BlockingIOError:
            pass
        self.assertGreater(flooded, 100000)
        other.send(b"hello\n")
        self.pause(server, signal.SIGCONT)
        before = 0
        while reader.line() != "hello\n":
            before += 1
        self.assertLess(before, 50)
        self.finish(server)

    def test_slow_reader_holds_up_nobody(self):
        server = self.server()
        slow, one, two = self.join(4096), self.join(), self.join()
        said = b"".join(b"%07d " % i + b"x" * 991 + b"\n" for i in range(1000))
        for _ in range(12):  # 12 MB: more than any system's buffers take
            one.send(said)
            self.assertTrue(two.read(len(said)) == said)
        slow.hurry()
        self.assertTrue(slow.read(12 * len(said)) == 12 * said)
        self.finish(server)

    def test_clients_that_go_in_any_way(self):
        server = self.server()
        watcher = self.join()
        for number in range(20):
            client = self.connect(self.port)
            client.send(b"bye %d\n" % number)
            client.reset() if number % 2 else client.close()
        wait_until(lambda: server.output().count("connection terminated: ") == 20,
                   "twenty leaves")
        watcher.send(b"hello\n")
        while watcher.line() != "hello\n":
            pass
        self.finish(server)

    def test_out_of_descriptors(self):
        """no edge comes for those who wait already: the pause is the server's own"""
        limit = 8
        server = self.server(
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
        clients = [self.join() for _ in range(limit - 5)]
        wait_until(lambda: "accept: " in server.errors(), "the limit")
        late = self.connect(self.port)      # one: a second one would be a second edge
        self.assert_idle(server)
        wait_until(lambda: server.errors().count("accept: ") > 1, "a try in vain")
        clients[0].close()
        self.assertEqual(late.line(), self.GREETING)
        self.finish(server)

    def test_wrong_usage(self):
        for args in (["x"], ["70000"], ["1", "2"], [""]):
            self.run_example("edge_chat", *args, code=2)


@unittest.skipIf(sys.platform.startswith("linux"), "here EPOLLET works")
class TestEdgeChatElsewhere(ExampleTest):
    """edge_chat, on other systems."""

    def test_says_so(self):
        self.assertEqual(self.run_example("edge_chat").count("\n"), 1)


class TestReadme(unittest.TestCase):
    """notes/examples/README.md."""

    def test_names_every_example_and_nothing_else(self):
        files = {name for name in os.listdir(SOURCES) if name.endswith((".c", ".h"))
                 and not os.path.islink(os.path.join(SOURCES, name))}     # final/evloop.h
        linked = set(re.findall(r"\]\(([a-z0-9_]+\.[ch])\)", source("README.md")))
        self.assertEqual(linked, files)

    def test_every_example_is_run(self):
        text = ""
        for test in "examples_test.py", "homework_test.py":
            with open(os.path.join(ROOT, "tests", "system", test)) as file:
                text += file.read()
        for name in os.listdir(SOURCES):
            if name.endswith(".c"):
                self.assertIn('"%s"' % name[:-2], text)


if __name__ == "__main__":
    unittest.main()
