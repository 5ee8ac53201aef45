#!/usr/bin/env python3
"""Tests the load tester: what it passes, and above all what it must reject. Also what
bench.py says of its figures.

Usage: python3 tests/system/chatload_test.py

Environment: CHATLOAD, the tester (build/bench/chatload, which `make bench QUICK=1`
builds; `make test ONLY=chatload` builds one and runs this); CHATSRV_TEST_SERVER, a right
server, with {port} where the port goes (build/chatsrv {port}). The wrong servers are
threads of this program: a relay that lies to one of its clients about one message. Every
test waits for chatload to end, which it does early if all is well.
"""

import os
import selectors
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import support
import test

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "load"))
import bench
CHATLOAD = os.environ.get("CHATLOAD", os.path.join(ROOT, "build", "bench", "chatload"))
SERVER = os.environ.get("CHATSRV_TEST_SERVER",
                        os.path.join(ROOT, "build", "chatsrv") + " -b 1000000000 {port}")
PATIENCE = 60  # seconds, for what should take a fraction of one
ATTEMPTS = 5   # to start a server: another program may take the free port first


def chatload(*arguments):
    """Runs the tester; returns its exit code, what it measured, and its complaint."""
    run = subprocess.run([CHATLOAD, *map(str, arguments)], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, universal_newlines=True,
                         timeout=PATIENCE)
    lines = run.stdout.splitlines()
    pairs = lines[-1].split()[1:] if lines and lines[-1].startswith("chatload ") else []
    return run.returncode, dict(pair.split("=") for pair in pairs), run.stderr


def learn_prefix(port):
    """Returns what the server puts before a message."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        lines = client.makefile("rb")
        lines.readline()
        client.sendall(b"probe\n")
        return lines.readline()[:-len(b"probe\n")].decode()


class Running:
    """A server in a process of its own, ready when it accepts connections."""

    def __init__(self, command):
        for _ in range(ATTEMPTS):
            if self.start(command):
                return
            self.close()
        raise AssertionError("%r does not accept connections" % command)

    def start(self, command):
        self.port = test.free_port()
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            shlex.split(command.format(port=self.port)), stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            if not self.alive() or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return self.alive()

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
            return True
        except OSError:
            return False

    def alive(self):
        return self.process.poll() is None

    def has_clients(self):
        """Whether the server has a connection that it has not closed (Linux)."""
        try:
            with open("/proc/net/tcp") as table:
                rows = [row.split() for row in table]
        except OSError:
            return False
        here = ":%04X" % self.port
        return any(row[1].endswith(here) and row[3] in ("01", "08") for row in rows)

    def close(self):
        if self.alive():
            self.process.kill()
        self.process.wait()
        self.log.close()


class Relay:
    """A chat server in a thread.

    lie(who, number, line) returns the bytes that client number `who` gets in place of
    `line`, which is message `number`; both count from 0. None ends the connection.
    """

    def __init__(self, lie=lambda who, number, line: line, greeting=b"Welcome\n"):
        self.lie, self.greeting = lie, greeting
        self.number = 0
        self.clients = []  # in order of arrival; None: gone
        self.unfinished = {}
        self.addresses = set()
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1000)
        self.port = self.listener.getsockname()[1]
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.stop, self.stopped = socket.socketpair()
        self.selector.register(self.stopped, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def close(self):
        self.stop.close()
        self.thread.join(PATIENCE)

    def run(self):
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.stopped:
                    return self.end()
                if key.fileobj is self.listener:
                    self.on_connectable()
                else:
                    self.on_readable(key.fileobj)

    def end(self):
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()

    def on_connectable(self):
        client, address = self.listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.addresses.add(address[0])
        self.clients.append(client)
        self.unfinished[client] = b""
        self.selector.register(client, selectors.EVENT_READ)
        self.send(client, self.greeting)

    def on_readable(self, client):
        try:
            data = client.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            return self.hang_up(client)
        *lines, self.unfinished[client] = (self.unfinished[client] + data).split(b"\n")
        for line in lines:
            self.broadcast(line + b"\n")
        return None

    def broadcast(self, line):
        for who, client in enumerate(self.clients):
            answer = self.lie(who, self.number, line) if client else b""
            if answer is None:
                self.hang_up(client)
            elif answer:
                self.send(client, answer)
        self.number += 1

    @staticmethod
    def send(client, data):
        try:
            client.sendall(data)
        except OSError:
            pass  # gone; its next recv says so

    def hang_up(self, client):
        self.selector.unregister(client)
        self.clients[self.clients.index(client)] = None
        client.close()


class TestRight(unittest.TestCase):
    """A right server passes every mode, and the figures add up."""

    @classmethod
    def setUpClass(cls):
        cls.server = Running(SERVER)
        cls.addClassCleanup(cls.server.close)
        cls.prefix = learn_prefix(cls.server.port)

    def setUp(self):
        """What flooders have said last is still being read when they have left."""
        support.wait_until(lambda: not self.server.has_clients(),
                           "connections to be closed", PATIENCE)

    def passes(self, *arguments):
        code, result, complaint = chatload("-x", self.prefix, *arguments,
                                           self.server.port)
        self.assertEqual((code, complaint), (0, ""))
        self.assertTrue(self.server.alive())
        return result

    def test_hold(self):
        result = self.passes("-m", "hold", "-c", 300, "-i", 0.1)
        self.assertEqual(result["connections"], "300")
        self.assertGreaterEqual(float(result["idle_seconds"]), 0.1)

    def test_churn(self):
        result = self.passes("-m", "churn", "-n", 500, "-w", 10)
        self.assertEqual(result["connections"], "500")

    def test_broadcast(self):
        result = self.passes("-c", 20, "-n", 200, "-w", 1)
        self.assertEqual(result["deliveries"], "4000")
        self.assertGreaterEqual(1.0, float(result["deliveries_per_read"]))

    def test_broadcast_of_many_senders(self):
        result = self.passes("-c", 20, "-s", 20, "-n", 500, "-w", 50, "-u", 77)
        self.assertEqual(result["deliveries"], "10000")

    def test_smallest_and_largest_message(self):
        for size in 16, 1024:
            self.passes("-c", 3, "-n", 100, "-b", size)

    def test_latency(self):
        result = self.passes("-m", "latency", "-c", 5, "-r", 2000, "-n", 200)
        times = [float(result["latency_us_" + key]) for key in ("p50", "p99", "max")]
        self.assertEqual(times, sorted(times))
        self.assertGreater(times[0], 0)
        self.assertGreater(float(result["seconds"]), 199 / 2000)

    def test_slow(self):
        result = self.passes("-m", "slow", "-c", 5, "-k", 3, "-b", 1000, "-n", 300)
        self.assertEqual(result["deliveries"], "1500")

    def test_flood(self):
        """Flooders slow the others down; nothing of theirs is lost or changed."""
        result = self.passes("-m", "latency", "-c", 5, "-s", 5, "-k", 3, "-f", 2,
                             "-n", 200, "-t", 30)
        self.assertEqual(result["deliveries"], "1000")

    @unittest.skipUnless(sys.platform.startswith("linux"), "only Linux says")
    def test_cpu_time_of_the_server(self):
        result = self.passes("-p", self.server.process.pid, "-c", 50, "-n", 500)
        self.assertGreater(float(result["server_cpu_ns_per_delivery"]), 0)
        result = self.passes("-p", self.server.process.pid, "-m", "hold", "-i", 0.2)
        self.assertLess(float(result["server_cpu_us_idle"]), 100e3)


class TestWrong(unittest.TestCase):
    """One lie about one message, and the tester finds it."""

    def run_against(self, lie, *arguments, **relay_options):
        relay = Relay(lie, **relay_options)
        self.addCleanup(relay.close)
        return chatload("-c", 4, "-n", 50, "-t", 30, *arguments, relay.port)

    def assert_caught(self, words, lie, *arguments, **relay_options):
        code, result, complaint = self.run_against(lie, *arguments, **relay_options)
        self.assertEqual((code, result), (1, {}), complaint)
        self.assertRegex(complaint, "^chatload: " + words)
        self.assertEqual(complaint.count("\n"), 1, complaint)

    def test_truth(self):
        code, result, complaint = self.run_against(lambda who, number, line: line)
        self.assertEqual((code, complaint), (0, ""))
        self.assertEqual(result["deliveries"], "200")

    def test_lost(self):
        self.assert_caught("lost or out of order: client 2 got message 8 of sender 0, 7 ",
                           lambda who, number, line: b"" if (who, number) == (2, 7)
                           else line)

    def test_lost_and_nothing_follows(self):
        self.assert_caught("late or lost: message 7 of sender 0 did not reach 1 of 4 "
                           "clients within 1.000 s; the first of them is client 2",
                           lambda who, number, line: b"" if (who, number) == (2, 7)
                           else line, "-w", 1, "-t", 1)

    def test_stalled(self):
        self.assert_caught("late or lost: message [0-9]+ of sender 0 did not reach 4 of",
                           lambda who, number, line: b"" if number >= 20 else line,
                           "-t", 0.5)

    def test_late(self):
        def lie(who, number, line):
            if (who, number) == (3, 30):
                time.sleep(0.4)
            return line
        self.assert_caught("late or lost: ", lie, "-t", 0.2)

    def test_late_at_a_fixed_rate(self):
        def lie(who, number, line):
            if (who, number) == (3, 30):
                time.sleep(0.4)
            return line
        self.assert_caught("late or lost: ", lie, "-t", 0.2, "-m", "latency")

    def test_window(self):
        """The relay answers ten messages at a time: ten pass, and fewer do not."""
        def relay():
            held = [[] for _ in range(4)]

            def lie(who, number, line):
                held[who].append(line)
                return b"".join(held[who][-10:]) if number % 10 == 9 else b""
            return lie
        code, _, complaint = self.run_against(relay(), "-w", 10)
        self.assertEqual((code, complaint), (0, ""))
        self.assert_caught("late or lost: message 0 of sender 0", relay(),
                           "-w", 9, "-t", 0.2)

    def test_open_loop(self):
        """A stall counts against every message that was due meanwhile, not just one."""
        def lie(who, number, line):
            if (who, number) == (0, 1):
                time.sleep(0.4)
            return line
        code, result, complaint = self.run_against(lie, "-m", "latency", "-n", 200)
        self.assertEqual((code, complaint), (0, ""))
        self.assertGreater(float(result["latency_us_p50"]), 200e3)

    def test_twice(self):
        self.assert_caught("twice: client 1 got message 5 of sender 0 again, 6 was due",
                           lambda who, number, line: 2 * line if (who, number) == (1, 5)
                           else line)

    def swap(self):
        """Client 2 gets messages 10 and 11 in the wrong order."""
        held = []

        def lie(who, number, line):
            if who == 2 and number == 10:
                held.append(line)
                return b""
            return line + held.pop() if who == 2 and held else line
        return lie

    def test_out_of_order(self):
        self.assert_caught("lost or out of order: client 2 got message 11 of sender 0,",
                           self.swap())

    def test_other_order_than_for_others(self):
        """Client 2 gets two adjacent messages, of two senders, in the wrong order."""
        held, came = None, set()

        def lie(who, number, line):
            nonlocal held
            if who != 2:
                return line
            message = 2 * int(line[6:15]) + int(line[:5])
            came.add(message)
            # Only if the next one is still to come: with this window, it will.
            if message >= 10 and held is None and message + 1 not in came:
                held = line
                return b""
            both, held = line + (held or b""), held and b""
            return both
        self.assert_caught("out of order: the message that came as number [0-9]+ to",
                           lie, "-s", 2, "-w", 2)

    def test_one_byte_changed(self):
        self.assert_caught('corrupt: client 0, message 9 of sender 0, byte 41: got "X',
                           lambda who, number, line: line[:40] + b"X" + line[41:]
                           if (who, number) == (0, 9) else line)

    def test_byte_of_a_flooder_changed(self):
        self.assert_caught("corrupt: client 1 got a flooder's message with a byte",
                           lambda who, number, line: line.replace(b"ffff\n", b"fffX\n")
                           if who == 1 and number > 300 else line,
                           "-f", 1, "-m", "latency", "-n", 10000, "-r", 1000)

    def test_number_changed(self):
        self.assert_caught("corrupt: client 0, message 8 of sender 0, byte ",
                           lambda who, number, line: line.replace(b"09:", b"08:", 1)
                           if (who, number) == (0, 9) else line)

    def test_message_nobody_sent(self):
        self.assert_caught('corrupt: client 3 got "hello',
                           lambda who, number, line: b"hello\n" + line
                           if (who, number) == (3, 9) else line)

    def test_cut_and_glued(self):
        self.assert_caught("corrupt: client 1, message 5 of sender 0, byte 31",
                           lambda who, number, line: line[:30] if (who, number) == (1, 5)
                           else line)

    def test_pieces_mixed(self):
        def lie(who, number, line):
            return line[:30] + line[30:] if who != 1 or number % 2 else line[:30] + b"AB"
        self.assert_caught("corrupt: client 1, message 0 of sender 0", lie, "-w", 2)

    def test_prefix_that_is_not_announced(self):
        self.assert_caught("corrupt: client [0-9] got ",
                           lambda who, number, line: b"127.0.0.1: " + line)

    def test_prefix_that_is_missing(self):
        self.assert_caught("corrupt: client [0-9] got ", lambda who, number, line: line,
                           "-x", "127.0.0.1: ")

    def test_bytes_behind_the_last_message(self):
        self.assert_caught("client 3 got 5 bytes after the last message",
                           lambda who, number, line: line + b"extra"
                           if (who, number) == (3, 49) else line)

    def test_hang_up(self):
        self.assert_caught("connection 2: the server closed it",
                           lambda who, number, line: None if (who, number) == (2, 7)
                           else line)

    def test_no_greeting(self):
        for mode in "hold", "churn", "broadcast":
            self.assert_caught("late: connection [0-9]+ was not greeted within 0.200 s",
                               None, "-m", mode, "-t", 0.2, greeting=b"")

    def test_half_a_greeting(self):
        self.assert_caught("late: connection [0-9]+ was not greeted", None, "-t", 0.2,
                           greeting=b"Welcome to no end")

    def test_other_greeting(self):
        self.assert_caught('connection [0-9]+: line 1 .* should begin with .Welcome., '
                           'but byte 1 is the first of "Server full', None,
                           greeting=b"Server full\n")

    def test_bytes_behind_the_greeting(self):
        self.assert_caught("connection [0-9]+: 9 bytes after the greeting", None,
                           greeting=b"Welcome\nold talk\n")

    def test_bytes_that_nobody_sent(self):
        class Talker(Relay):
            """Tells the first client something when the third one comes."""

            def on_connectable(self):
                super().on_connectable()
                if len(self.clients) == 3:
                    self.send(self.clients[0], b"hi\n")

        relay = Talker()
        self.addCleanup(relay.close)
        code, _, complaint = chatload("-m", "hold", "-c", 3, "-i", 30, "-w", 1,
                                      relay.port)
        self.assertEqual(code, 1)
        self.assertRegex(complaint, "connection 0: 3 bytes that nobody sent")


class TestItself(unittest.TestCase):
    """Usage, limits, and the dialects of servers that are installed."""

    def test_help(self):
        self.assertEqual(chatload("-h")[0], 0)

    def test_wrong_usage(self):
        for arguments in ([], ["-m", "dance", 1], ["-c", 0, 1], ["-c", "x", 1],
                          ["-b", 15, 1], ["-b", 1025, 1], ["-t", "soon", 1],
                          ["-s", 101, 1], ["-d", "irc", 1], ["-x", 65 * "x", 1],
                          ["-f", 1, "-d", "nats", 1],
                          ["-?", 1], ["-c"], [1, 2, 3]):
            code, result, complaint = chatload(*arguments)
            self.assertEqual((code, result), (2, {}), arguments)
            self.assertIn("usage: chatload", complaint)

    def test_nobody_listens(self):
        code, _, complaint = chatload(test.free_port())
        self.assertEqual(code, 1)
        self.assertIn("Connection refused", complaint)

    def test_no_such_process(self):
        relay = Relay()
        self.addCleanup(relay.close)
        code, _, complaint = chatload("-p", 2 ** 22, relay.port)
        self.assertEqual(code, 1)
        self.assertIn("process 4194304", complaint)

    def test_more_connections_than_descriptors(self):
        code, _, complaint = chatload("-m", "hold", "-c", 5000000, 1)
        self.assertEqual(code, 1)
        self.assertRegex(complaint, "50000.. connections need 50000.. descriptors, but")

    @unittest.skipUnless(sys.platform.startswith("linux"), "127.0.0.2 may be missing")
    def test_further_source_addresses(self):
        visits, addresses = 14100, set()
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(1000)
        listener.settimeout(PATIENCE)

        def greet_and_close():
            with listener:
                for _ in range(visits):
                    visitor, address = listener.accept()
                    addresses.add(address[0])
                    visitor.sendall(b"Welcome\n")
                    visitor.close()
        thread = threading.Thread(target=greet_and_close, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        code, result, complaint = chatload("-m", "churn", "-n", visits,
                                           listener.getsockname()[1])
        self.assertEqual((code, complaint), (0, ""))
        self.assertEqual(result["connections"], str(visits))
        self.assertEqual(addresses, {"127.0.0.1", "127.0.0.2"})

    def test_events(self):
        code, result, complaint = chatload("-m", "events", "-c", 101, "-n", 50)
        self.assertEqual((code, complaint), (0, ""))
        self.assertGreater(float(result["poll_ns_per_event"]), 0)

    def speaks(self, command, dialect):
        server = Running(command)
        self.addCleanup(server.close)
        code, result, complaint = chatload("-d", dialect, "-c", 10, "-s", 3, "-n", 300,
                                           server.port)
        self.assertEqual((code, complaint), (0, ""))
        self.assertEqual(result["deliveries"], "3000")

    @unittest.skipUnless(shutil.which("redis-server"), "redis-server is not installed")
    def test_redis(self):
        self.speaks("redis-server --port {port} --bind 127.0.0.1 --save ''"
                    " --appendonly no", "redis")

    @unittest.skipUnless(shutil.which("nats-server"), "nats-server is not installed")
    def test_nats(self):
        self.speaks("nats-server -a 127.0.0.1 -p {port}", "nats")


class Verdicts(unittest.TestCase):
    """What bench.py says of the figures."""

    CASE = bench.Case("", bench.Load("-c 1"), "ns")

    def said(self, final, floor, limit):
        """Returns how far a goal is reached, given what each turn measured."""
        runs = [{"server": server, "load": list(self.CASE.load), "turn": turn, "ns": ns}
                for server, values in (("final", final), ("floor", floor))
                for turn, ns in enumerate(values)]
        goal = bench.Goal(limit, "final", "floor")
        return bench.Figures(runs).reached(self.CASE, goal)

    def test_sure(self):
        """of 28 turns, the tenth lowest and highest: tables of the sign test say so"""
        self.assertEqual(bench.between(list(range(28))), (9, 18))
        self.assertEqual(bench.between([5, 3, 4, 1, 2]), (1, 5))
        self.assertIsNone(bench.between([1, 2, 3, 4]))

    def test_reached(self):
        final = [98, 99, 100, 101, 102, 103, 104]
        for limit, verdict in (1.02, ""), (1.0, ", **open**"), (0.97, ", **missed**"):
            self.assertEqual(
                self.said(final, 7 * [100], limit),
                f"final : floor = 1.01 (0.98 to 1.04; at most {limit:.3g}{verdict})")

    def test_few(self):
        """two turns decide by themselves; one that failed on one side does not count"""
        self.assertEqual(self.said([110, 130, 120], [100, 100], 1.1),
                         "final : floor = 1.2 (at most 1.1, **missed**)")
        self.assertEqual(self.said([], [100], 1.1), "")

    def test_medians(self):
        self.assertEqual(self.said([100, 110, 30], [100, 100, 200], 1.1),
                         "final : floor = 1 (at most 1.1)")
        self.assertEqual(self.said([100, 220, 300], [100, 200, 100], 1.1),
                         "final : floor = 1.1 (of the medians 2.2; at most 1.1)")


if __name__ == "__main__":
    unittest.main()
