#!/usr/bin/env python3
"""Runs the homeworks of notes/examples/: http_files, http_programs and udp_numbers.

As examples_test.py: no test depends on timing, and nothing may be left after one.

    python3 tests/system/homework_test.py [ClassName[.test_name]]
"""
import contextlib
import functools
import os
import re
import shutil
import select
import signal
import socket
import struct
import subprocess
import time
import unittest

from examples_test import DEADLINE, LOCALHOST, ExampleTest, process_table, source
from support import wait_until

SECRET = b"nobody may read this\n"
PATIENCE = 2        # seconds, for the tests that wait for its end


class HttpTest(ExampleTest):
    """A folder and a server for it; the classes below say which."""

    name = ""

    def setUp(self):
        super().setUp()
        self.served = os.path.join(self.outputs, "served")
        os.mkdir(self.served)
        self.file("../secret", SECRET)

    def file(self, name, content, mode=0o644):
        path = os.path.join(self.served, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)

    def server(self, *args, **options):
        server = self.start(self.name, self.served, "0", *args, **options)
        self.port = int(server.line("^listening on port ([0-9]+)$").group(1))
        return server

    def ask(self, request, receive_buffer=None):
        """Sends a request; a path stands for a GET of it."""
        client = self.connect(self.port, receive_buffer)
        if request.startswith(b"/"):
            request = b"GET " + request + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        client.send(request)
        return client

    def rest(self, client):
        """Returns all until the connection's end, which a reset is not."""
        data = b""
        while True:
            piece = client.socket.recv(1 << 20)
            if not piece:       # and no reset has come behind the end
                self.assertEqual(client.socket.getsockopt(socket.SOL_SOCKET,
                                                          socket.SO_ERROR), 0)
                client.close()
                return data
            data += piece

    def get(self, request):
        """Returns status, fields and body of the answer."""
        head, end, body = self.rest(self.ask(request)).partition(b"\r\n\r\n")
        self.assertTrue(end, head)
        lines = head.decode().split("\r\n")
        match = re.match(r"^HTTP/1\.1 ([0-9]{3}) [A-Z][A-Za-z ]+$", lines[0])
        self.assertTrue(match, head)
        fields = dict(line.split(": ", 1) for line in lines[1:])
        self.assertEqual(fields["Connection"], "close")
        return int(match.group(1)), fields, body

    def children(self, server):
        """The states of the server's children, zombies among them."""
        return [state for _, parent, state in process_table()
                if parent == server.process.pid]

    def assert_childless(self, server):
        wait_until(lambda: not self.children(server),
                   lambda: "the end of the children: " + " ".join(self.children(server)))

    def finish(self, server, number=signal.SIGTERM):
        self.assert_childless(server)
        self.assertEqual(server.stop(number), 0, server.said())
        self.assertEqual(server.errors(), "")
        self.assert_nothing_left()

    def refused(self):
        """Whether the server lets nobody in any more."""
        with socket.socket() as probe:
            return probe.connect_ex((LOCALHOST, self.port)) != 0


class TestFiles(HttpTest):
    """http_files, and what http_programs has from it."""
    name = "http_files"

    def test_files_exactly(self):
        names = {"empty": b"", "one": b"x", "lines.txt": b"a\r\n\r\nb\n\0\n",
                 "a b%41+\xfc&?#.bin": bytes(range(256)) * 300,
                 "deep/er/file": os.urandom(5 << 20)}
        for name, content in names.items():
            self.file(name, content)
        server = self.server()
        for name, content in names.items():
            path = b"/" + b"".join(b"%%%02x" % byte if byte != 0x2f else b"/"
                                   for byte in os.fsencode(name))
            status, fields, body = self.get(path)
            self.assertEqual((status, fields["Content-Length"]), (200, str(len(content))))
            self.assertTrue(body == content, name)
        self.assertEqual(self.get(b"//deep///er/./file?x=/../y")[0], 200)
        self.finish(server)
        self.assertIn("\nGET //deep///er/./file?x=/../y HTTP/1.1: 200\n", server.output())

    def test_head_and_index(self):
        self.file("index.html", b"<p>here</p>\n")
        self.file("sub/index.html", b"<p>there</p>\n")
        server = self.server()
        self.assertEqual(self.get(b"/")[2], b"<p>here</p>\n")
        self.assertEqual(self.get(b"/sub/")[2], b"<p>there</p>\n")
        for path in b"/", b"/nothing":
            get = self.rest(self.ask(path))
            head = self.rest(self.ask(b"HEAD " + path + b" HTTP/1.0\r\n\r\n"))
            self.assertEqual(head, get[:get.index(b"\r\n\r\n") + 4])
        self.finish(server)

    def test_what_is_no_file(self):
        self.file("file", b"x")
        os.mkdir(os.path.join(self.served, "folder"))
        os.mkfifo(os.path.join(self.served, "fifo"))
        server = self.server()
        for path in (b"/nothing", b"/folder", b"/folder/", b"/file/", b"/file/x",
                     b"/fifo", b"/x/file", b"/", b"/folder/../file", b"/" + b"x" * 5000):
            self.assertEqual(self.get(path)[::2], (404, b"404 Not Found\n"), path)
        self.finish(server)

    def test_nothing_outside_of_the_folder(self):
        self.file("sub/file", b"x")
        for name, target in (("out", "../secret"), ("up", ".."), ("sub/up", "../.."),
                             ("in", "sub/file"), ("within", "sub"), ("abs", "/")):
            os.symlink(target, os.path.join(self.served, name))
        secret = os.fsencode(os.path.join(self.outputs, "secret"))
        server = self.server()
        for path in (b"/../secret", b"/%2e%2e/secret", b"/.%2E/secret", b"/..%2fsecret",
                     b"/%2e%2e%2fsecret", b"/sub/../../secret", b"//../secret",
                     b"/sub/%2e%2e%2f%2e%2e%2fsecret", b"/./../secret",
                     b"/sub//../../secret", b"/out", b"/up/secret",
                     b"/sub/up/secret", b"/abs" + secret, secret, b"/" + secret, b"/..",
                     b"/../", b"/sub/..", b"/in", b"/within/file"):
            status, _, body = self.get(path)
            self.assertEqual((status, body), (404, b"404 Not Found\n"), path)
        self.assertEqual(self.get(b"/sub/file")[::2], (200, b"x"))
        self.finish(server)

    @unittest.skipIf(os.geteuid() == 0, "root may read everything")
    def test_forbidden(self):
        self.file("file", b"x", 0)
        server = self.server()
        self.assertEqual(self.get(b"/file")[0], 403)
        self.finish(server)

    def test_wrong_requests(self):
        self.file("x", b"yes")
        server = self.server()
        for line in (b"GET", b"GET /x", b"GET  HTTP/1.1", b"GET x HTTP/1.1", b"x", b"",
                     b"GET /x HTTP/2", b"GET /%zz HTTP/1.1", b"GET /% HTTP/1.1",
                     b"GET /x%4 HTTP/1.1", b"GET /x%00 HTTP/1.1", b"GET /x\0 HTTP/1.1",
                     b"GET http://x/x HTTP/1.1", b" GET /x HTTP/1.1"):
            self.assertEqual(self.get(line + b"\r\n\r\n")[0], 400, line)
        for method in b"POST", b"get", b"DELETE", b"G":
            status, fields, _ = self.get(method + b" /x HTTP/1.1\r\n\r\n")
            self.assertEqual((status, fields["Allow"]), (405, "GET, HEAD"))
        self.assertEqual(self.get(b"GET /x\x1b[2J\rx HTTP/1.1\n\n")[0], 404)
        self.assertIn("\nGET /x\\x1b[2J\\x0dx HTTP/1.1: 404\n", server.output())
        self.finish(server)

    def test_nobody_forges_a_log_line(self):
        """by a first line so long that a part of it is written before the rest"""
        self.file("large", bytes(8 << 20))
        self.file("small", b"yes")
        server = self.server()
        request = b"GET /large HTTP/1.1"
        clients = [self.ask(request.ljust(len_before, b".") + b"GET /x HTTP/1.1\r\n\r\n")
                   for len_before in (512, 1024, 4096)]     # what libc may write at once
        clients.append(self.ask(b"GET /large HTTP/1.1" + 8000 * b"\x1b" + b"\r\n\r\n"))
        for client in clients:
            client.socket.recv(1)
        self.assertEqual(self.get(b"/small")[0], 200)
        server.line("GET /small HTTP/1.1: 200$")
        for client in clients:
            self.rest(client)
        self.finish(server)
        lines = server.output().splitlines()[1:]
        self.assertEqual(lines[0], "GET /small HTTP/1.1: 200")
        for line in lines[1:5]:
            self.assertRegex(line, r"^GET /large HTTP/1\.1(\.+|(\\x1b)+): 200$")
            self.assertLess(len(line), 512)
        self.assertEqual(lines[5:], ["stopping: Terminated"])

    def test_long_requests(self):
        """are refused, beyond 8192 bytes; and what else comes does not lose the answer"""
        self.file("x", b"yes")
        server = self.server()
        line = b"GET /x HTTP/1.1\r\nX: "
        longest = line + b"x" * (8192 - 4 - len(line)) + b"\r\n\r\n"
        self.assertEqual(self.get(longest)[0], 200)
        for request in (longest.replace(b"x\r", b"xx\r"), b"x" * (1 << 20),
                        b"\n" + b"x\n" * (1 << 19)):
            self.assertEqual(self.get(request)[0], 431)
        self.assertEqual(self.get(b"GET /x HTTP/1.1\r\n\r\n" + b"x" * (1 << 20))[0], 200)
        self.finish(server)

    def test_requests_in_pieces(self):
        self.file("x", b"yes")
        server = self.server()
        client = self.connect(self.port)
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n":
            client.send(bytes([byte]))
        self.assertTrue(self.rest(client).endswith(b"\r\n\r\nyes"))
        self.assertEqual(self.get(b"GET /x HTTP/1.0\n\n")[2], b"yes")
        half = self.connect(self.port)
        half.send(b"GET /x HTTP/1.1\r\n")
        half.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(self.rest(half), b"")
        whole = self.ask(b"/x")
        whole.socket.shutdown(socket.SHUT_WR)
        self.assertTrue(self.rest(whole).endswith(b"\r\n\r\nyes"))
        self.ask(b"/x").reset()
        self.finish(server)

    def test_more_clients_than_children(self):
        self.file("x", b"yes")
        server = self.server()
        idle = [self.connect(self.port) for _ in range(64)]
        wait_until(lambda: len(self.children(server)) == 64, "64 children")
        late = self.ask(b"/x")
        self.assert_idle(server)
        self.assertEqual(select.select([late.socket], [], [], 0)[0], [])
        idle.pop().close()
        self.assertTrue(self.rest(late).endswith(b"\r\n\r\nyes"))
        for client in idle:
            client.close()
        self.finish(server)

    def test_no_zombies(self):
        self.file("x", b"yes")
        server = self.server()
        for _ in range(20):
            self.get(b"/x")
        self.assert_childless(server)
        self.finish(server, signal.SIGINT)
        self.assertTrue(server.output().endswith(": 200\nstopping: Interrupt\n"))

    def test_stop_in_the_middle(self):
        """what runs is finished, also after ^C, which all get; nobody new is let in"""
        large = os.urandom(8 << 20)
        self.file("large", large)
        for send in os.kill, os.killpg:
            server = self.server()
            clients = [self.ask(b"/large") for _ in range(3)]
            data = [client.socket.recv(1000) for client in clients]
            send(server.process.pid, signal.SIGINT)
            wait_until(self.refused, "the listener's end")
            self.assertIsNone(server.process.poll(), "three transfers run")
            for i, client in enumerate(clients):
                data[i] += self.rest(client)
                self.assertTrue(data[i].endswith(b"\r\n\r\n" + large))
            self.assertEqual(server.end(), 0)
            self.assertEqual(server.errors(), "")
            self.assert_nothing_left()

    def test_stop_before_those_who_wait(self):
        """a signal that came first is obeyed first, whoever waits at the door"""
        self.file("x", b"yes")
        server = self.server()
        server.process.send_signal(signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        clients = [self.ask(b"/x") for _ in range(20)]
        server.process.send_signal(signal.SIGCONT)
        self.assertEqual(server.end(), 0)
        for client in clients:
            self.assertTrue(client.at_end())
        self.assertNotIn("GET", server.output())

    def test_stop_in_a_crowd(self):
        """whenever the signal comes, it is not missed"""
        self.file("x", b"yes")
        for _ in range(10):
            server = self.server()
            clients = [self.ask(b"/x") for _ in range(5)]
            server.process.send_signal(signal.SIGTERM)
            for client in clients:
                client.close()
            self.assertEqual(server.end(), 0)
            self.assertEqual(server.errors(), "")

    def test_second_signal(self):
        """ends the server at once, also if it is the other one; its transfer goes on"""
        large = os.urandom(8 << 20)
        self.file("large", large)
        for first in signal.SIGTERM, signal.SIGINT:
            for second in signal.SIGTERM, signal.SIGINT:
                server = self.server()
                client = self.ask(b"/large")
                client.socket.recv(1)
                server.process.send_signal(first)
                wait_until(self.refused, "the listener's end")
                self.assertEqual(server.stop(second), -second)
                self.assertTrue(self.rest(client).endswith(b"\r\n\r\n" + large))

    def test_wrong_usage(self):
        for args in ([], [".", "x"], [".", "70000"], [".", "0", "0"], [".", ""],
                     [".", "0", "1", "2"], [".", "-1"]):
            self.run_example(self.name, *args, code=2)
        self.run_example(self.name, os.path.join(self.outputs, "nothing"), code=1)

    def test_file_that_becomes_shorter(self):
        """the client is not left in the belief that it has all"""
        self.file("large", bytes(16 << 20))
        server = self.server()
        client = self.ask(b"/large")
        client.socket.recv(1)
        os.truncate(os.path.join(self.served, "large"), 1)
        self.assertLess(len(self.rest(client)), 16 << 20)
        self.finish(server)

    def test_difference_is_only_how_programs_are_run(self):
        """The header says so."""
        files, programs = source("http_files.c"), source("http_programs.c")
        functions = re.findall(r"(?:^[^\n]+\n)+^{.*?^}\n", files, re.M | re.S)
        self.assertGreater(len(functions), 10)
        for function in functions:
            if "request_answer(struct" not in function:
                function = function.replace("http_files", "http_programs")
                self.assertTrue(function in programs, function)


class TestPrograms(HttpTest):
    """http_programs."""
    name = "http_programs"

    def script(self, name, text, mode=0o755):
        self.file(name, b"#!/bin/sh\n" + text.encode(), mode)

    def alive(self, pid):
        return any(number == pid and state != "Z"
                   for number, _, state in process_table())

    def test_environment(self):
        self.script("sub/a b", "env\n")
        environment = dict(os.environ, SECRET="x", HTTP_PROXY="x")
        server = self.server(env=environment)
        status, fields, body = self.get(b"/sub//a%20b?x=%20&y?z")
        self.assertEqual(status, 200)
        self.assertNotIn("Content-Length", fields)
        found = dict(line.split("=", 1) for line in body.decode().splitlines())
        for name in "PWD", "OLDPWD", "SHLVL", "_":      # the shell's own
            found.pop(name, None)
        self.assertEqual(found, {
            "PATH": environment["PATH"], "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "/sub//a b", "QUERY_STRING": "x=%20&y?z",
            "REMOTE_ADDR": LOCALHOST})
        self.finish(server)

    def test_folder_arguments_and_input(self):
        self.script("sub/-x", 'pwd -P; echo "$0, $#"; cat; echo end\n')
        server = self.server()
        folder = os.path.realpath(os.path.join(self.served, "sub"))
        self.assertEqual(self.get(b"/sub/-x?a+b")[2].decode(),
                         "%s\n./-x, 0\nend\n" % folder)
        self.finish(server)

    @unittest.skipUnless(os.path.exists("/proc/self/fd"), "needs Linux's /proc")
    def test_descriptors_and_signals(self):
        """nothing is open but the three; the server's own signals have their default
        action, all else about signals is as it was before the server"""
        self.script("open", "ls /proc/$$/fd\n")
        # No shell, which would unblock the signals.
        cat = os.fsencode(shutil.which("cat"))
        self.file("signals", b"#!" + cat + b" /proc/self/status\n", 0o755)
        server = self.server(preexec_fn=self.signals_strange)
        found = set(self.get(b"/open")[2].split())
        found -= {b"10", b"255"}        # where shells keep the script
        self.assertEqual(found, {b"0", b"1", b"2"})
        blocked, ignored = (int(mask, 16) for mask in re.findall(
            b"^Sig(?:Blk|Ign):\t([0-9a-f]+)$", self.get(b"/signals")[2], re.M))
        for number in self.ITS_OWN:
            self.assertFalse((blocked | ignored) & 1 << number - 1, number)
        self.assertTrue(blocked & 1 << signal.SIGUSR1 - 1)
        self.assertTrue(ignored & 1 << signal.SIGHUP - 1)
        self.finish(server)

    ITS_OWN = signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD

    def signals_strange(self):
        """How a server may find them that somebody starts from a script."""
        for number in self.ITS_OWN + (signal.SIGHUP,):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

    def test_output_exactly(self):
        large = bytes(range(256)) * 4096
        self.file("large", large)
        self.script("print", "cat large large\n")
        self.script("quiet", "exit 0\n")
        self.script("both", "echo said; exit 3\n")
        server = self.server()
        self.assertTrue(self.get(b"/print")[2] == 2 * large)
        self.assertTrue(self.get(b"/large")[2] == large)
        status, fields, body = self.get(b"/quiet")
        self.assertEqual((status, fields["Content-Length"], body), (200, "0", b""))
        self.assertEqual(self.get(b"/both")[::2], (200, b"said\n"))
        self.finish(server)

    def test_failures(self):
        self.script("fails", "exit 3\n")
        self.script("dies", "kill -9 $$\n")
        self.file("none", b"#!/nowhere/nothing\n", 0o755)
        self.file("junk", b"\x7fELF and no more", 0o755)
        server = self.server()
        for path in b"/fails", b"/dies", b"/none", b"/junk":
            self.assertEqual(self.get(path)[::2], (500, b"500 Internal Server Error\n"))
        self.assert_childless(server)
        self.assertEqual(server.stop(), 0)
        self.assertRegex(server.errors(), "(?s)^http_programs: /none: .*\n"
                                          "http_programs: /junk: .*\n$")
        self.assert_nothing_left()

    def test_what_is_not_run(self):
        run = "echo run >run; echo yes\n"
        self.script("program", run)
        self.script("text", run, 0o644)
        self.script("../outside", run)
        os.symlink("program", os.path.join(self.served, "link"))
        os.symlink("..", os.path.join(self.served, "up"))
        server = self.server()
        self.assertEqual(self.get(b"/text")[::2], (200, b"#!/bin/sh\n" + run.encode()))
        for path in (b"/link", b"/up/outside", b"/../outside", b"/%2e%2e/outside",
                     b"/program/", b"/program/x", b"/.."):
            self.assertEqual(self.get(path)[0], 404, path)
        self.assertEqual(self.get(b"POST /program HTTP/1.1\r\n\r\n")[0], 405)
        head = self.rest(self.ask(b"HEAD /program HTTP/1.1\r\n\r\n"))
        self.assertEqual(head, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        self.assertNotIn("run", os.listdir(self.served) + os.listdir(self.outputs))
        self.finish(server)

    def test_hostile_clients(self):
        """and programs without end: they hold up nobody, and are ended with all they have
        started; who is only slow is served"""
        large = os.urandom(1 << 20)
        self.file("large", 8 * large)
        self.file("slow", 2 * large)
        self.file("small", b"yes")
        self.script("silent", "echo $$ >silent.pid; sleep 1000 & echo $! >sleep.pid\n"
                              "wait\n")
        self.script("flood", "echo $$ >flood.pid; yes\n")
        self.script("left", "echo $$ >left.pid; yes\n")
        server = self.server(str(PATIENCE))
        slow, talker, *deaf, silent, left = map(self.ask, (
            b"/slow", b"/small", b"/large", b"/flood", b"/silent", b"/left"))
        half = [self.connect(self.port), self.ask(b"GET /small HTTP/1.1\r\nHost: x\r\n")]
        trickle = self.ask(b"GET /small HTTP/1.1\r\nX: ")
        left.socket.recv(1)
        left.close()
        talker.send(b"and another thing\r\n")      # and it does not go
        self.assertEqual(self.get(b"/small")[2], b"yes")
        self.assertTrue(self.slow_rest(slow, trickle).endswith(b"\r\n\r\n" + 2 * large))
        with self.assertRaises((BrokenPipeError, ConnectionResetError)):
            for _ in range(20 * DEADLINE):
                trickle.send(b"x")
                time.sleep(0.05)
        for client in half:
            self.assertEqual(self.rest(client), b"")
        self.assertEqual(self.rest(silent)[9:12], b"500")
        self.assert_childless(server)
        for client in deaf:
            self.assertLess(len(self.rest(client)), 8 << 20, "what the kernel had taken")
        self.assert_gone("silent", "sleep", "flood", "left")
        self.assertEqual(self.get(b"/small")[2], b"yes")
        self.finish(server)

    def slow_rest(self, client, trickle):
        """Returns all that comes, which lasts longer than the server's patience; the
        other client meanwhile sends its request byte by byte."""
        end, data = time.monotonic() + PATIENCE + 0.1, b""
        while time.monotonic() < end:
            data += client.socket.recv(32 << 10)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                trickle.send(b"x")
            time.sleep(0.05)
        self.assertLess(len(data), 2 << 20, "it was to last longer than that")
        return data + self.rest(client)

    def assert_gone(self, *programs):
        """That the processes do not live on that have told their numbers."""
        for name in programs:
            with open(os.path.join(self.served, name + ".pid")) as file:
                pid = int(file.read())
            wait_until(lambda: not self.alive(pid), "the end of " + name)

    def test_stop_while_a_program_runs(self):
        """^C in a terminal goes to all processes of the foreground, so not to this one"""
        self.script("slow", "echo begun; while [ ! -e go ]; do sleep 0.02; done\n"
                            "echo end\n")
        server = self.server()
        client = self.ask(b"/slow")
        peek = functools.partial(client.socket.recv, 1 << 16, socket.MSG_PEEK)
        wait_until(lambda: peek().endswith(b"begun\n"), "the program's first line")
        os.killpg(server.process.pid, signal.SIGINT)
        wait_until(self.refused, "the listener's end")
        self.file("go", b"")
        self.assertTrue(self.rest(client).endswith(b"\r\n\r\nbegun\nend\n"))
        self.assertEqual(server.end(), 0)
        self.assert_nothing_left()


class TestUdpNumbers(ExampleTest):
    """udp_numbers; the test is the server, and what loses datagrams."""

    def setUp(self):
        super().setUp()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind((LOCALHOST, 0))
        self.socket.settimeout(DEADLINE)
        self.port = str(self.socket.getsockname()[1])

    def client(self, typed, *args, host=LOCALHOST):
        program = self.start("udp_numbers", host, self.port, *args, stdin=subprocess.PIPE)
        program.type(typed)
        program.process.stdin.close()
        return program

    def question(self, number, besides=()):
        """Waits for a question that is not from one of those; returns who asks."""
        while True:
            data, peer = self.socket.recvfrom(100)
            if peer not in besides:
                self.assertEqual(data, struct.pack("<i", number))
                return peer

    def answer(self, peer, number):
        self.socket.sendto(struct.pack("<i", number), peer)

    def finish(self, program, output):
        self.assertEqual(program.end(), 0, program.said())
        self.assertEqual((program.output(), program.errors()), (output, ""))

    def test_numbers(self):
        program = self.client("1 -2\n305419896")
        peers = []
        for number in 1, -2, 0x12345678:
            peers.append(self.question(number, peers))
            self.answer(peers[-1], -number)
        self.finish(program, "-1\n2\n-305419896\n")

    def test_loss(self):
        """of a question, or of an answer: it is asked again, from the same port"""
        program = self.client("7 8", "100")
        first = self.question(7)
        self.assertEqual(self.question(7), first)
        self.answer(first, 70)
        second = self.question(8, [first])
        self.assertEqual(self.question(8, [first]), second)
        self.answer(second, 80)
        self.finish(program, "70\n80\n")

    def test_late_and_double_answers(self):
        """are not taken for the next question's"""
        program = self.client("1 2 3")
        peers = [self.question(1)]
        for _ in range(3):
            self.answer(peers[0], 10)
        for number in 2, 3:
            peers.append(self.question(number, peers))
            for peer in peers[:-1]:
                self.answer(peer, 666)
            self.answer(peers[-1], 10 * number)
        self.finish(program, "10\n20\n30\n")

    def test_what_is_no_answer(self):
        """a datagram of another len, and what a stranger sends"""
        program = self.client("1")
        peer = self.question(1)
        for data in 3 * [b"", b"123", b"12345", b"x" * 1000]:   # it waits only five times
            self.socket.sendto(data, peer)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(struct.pack("<i", 666), peer)
        self.answer(peer, -1)
        self.finish(program, "-1\n")

    def test_no_answer(self):
        """five questions, each pause twice as long as the one before, and the end"""
        program = self.client("1 2", "5")
        self.assertEqual(program.end(), 1)
        self.assertEqual(program.errors(), "udp_numbers: no answer\n")
        self.socket.setblocking(False)
        for _ in range(5):
            self.question(1)
        self.assertRaises(BlockingIOError, self.socket.recv, 100)

    def test_nobody_there(self):
        self.socket.close()
        program = self.client("1 2")
        self.assertEqual(program.end(), 1)
        self.assertEqual(program.errors(), "udp_numbers: nobody there\n")

    def test_each_address_is_tried(self):
        """the server has the last of localhost's"""
        self.socket.close()
        found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_DGRAM)
        family, *_, address = found[-1]
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind(address)
        self.socket.settimeout(DEADLINE)
        self.port = str(self.socket.getsockname()[1])
        program = self.client("1 2", host="localhost")
        for number in 1, 2:
            self.answer(self.question(number), -number)
        self.finish(program, "-1\n-2\n")

    def test_wrong_usage(self):
        for args in ([], ["x"], [LOCALHOST, "1", "0"], [LOCALHOST, "1", "2", "3"],
                     [LOCALHOST, "1", "x"]):
            self.run_example("udp_numbers", *args, code=2)


if __name__ == "__main__":
    unittest.main()
