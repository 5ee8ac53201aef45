#!/usr/bin/env python3
"""chatsrv -j with a broker that does what a script says (broker.py): it needs no Redis.

    CHATSRV_TEST_SERVER='CMD {options} {port}'
        python3 tests/system/room_script_test.py [CLASS]

Slow has the tests that wait for one of the room's own clocks, of 5 and 10 seconds.
"""
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import unittest
from typing import Iterator, List
from urllib.parse import quote

import support
import broker
import test                             # tests/test.py, not Python's own
from broker import Broker
from test import DEADLINE, Peer, Server

ROOM = b"lobby"
ORIGIN = b"0123456789abcdef0123456789abcdef"    # of a server that the test plays itself
MISSED = b"missed messages of the room: "


def fields(n: int, messages: bytes = b"", origin: bytes = ORIGIN) -> List[bytes]:
    return [b"o", origin, b"n", b"%d" % n, b"d", messages]


class RoomCase(unittest.TestCase):
    def setUp(self) -> None:
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.broker = self.enter(Broker())

    def enter(self, context):
        return self.stack.enter_context(context)

    @contextlib.contextmanager
    def afresh(self) -> Iterator[None]:
        """Another broker; its servers end before it does: otherwise they would go on
        dialling, and a broker of another test may get the port."""
        before = self.stack, self.broker
        try:
            with contextlib.ExitStack() as self.stack:
                self.broker = self.enter(Broker())
                yield
        finally:
            self.stack, self.broker = before

    def url(self, room: str = "lobby", login: str = "") -> str:
        return f"redis://{login}127.0.0.1:{self.broker.port}/{room}"

    def serve(self, options: str = "") -> Server:
        """A server that has joined the room, and must still run at the end."""
        server = Server(options=f"-n -j {self.url()} {options}")
        self.enter(server)
        self.stack.callback(server.expect_alive)
        server.expect_log(b"listening on")
        return server

    def join(self, server: Server) -> Peer:
        """A client that gets what is said from now on."""
        peer = server.connect()
        peer.read(len(b"Welcome"), "a greeting")
        peer.line()
        return peer

    def expect(self, peer: Peer, *texts: bytes) -> None:
        for text in texts:
            self.assertEqual(peer.line(), text)

    def wait(self, condition, what: str) -> None:
        self.assertTrue(self.broker.wait(condition), f"{what}: it did not come")

    def entries(self, with_text: bool = True) -> List[List[bytes]]:
        """What has been added: the entries that hold messages, or all entries."""
        return [words[6:] for words in self.broker.of(b"XADD")
                if words[11] or not with_text]

    def add_and_lose(self, link: broker.Link, words: List[bytes]) -> None:
        with self.broker.changed:
            reply = self.broker.reply(link, words)
            del self.broker.streams[ROOM][-1]
        link.send(reply)

    def refused(self, url: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = test.command_line(test.COMMAND, f"-j {url}", 0)
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=60, universal_newlines=True,
                              env={**os.environ, **environment})

    def expect_refused(self, result: "subprocess.CompletedProcess[str]", status: int,
                       *words: str) -> None:
        self.assertEqual(result.returncode, status, result)
        self.assertRegex(result.stderr, r"\Achatsrv: [^\n]*\n\Z")
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertNotIn("listening", result.stdout)
        self.assertNotIn("secret", result.stderr)


class Joining(RoomCase):
    def test_join(self):
        """an empty entry of its own, and the stream from its beginning"""
        server = self.serve()
        server.expect_log(b"joined room lobby at 127.0.0.1:%d" % self.broker.port)
        server.expect_log(b"listening on ")
        words = self.broker.of(b"XADD")[0]
        self.assertEqual(words[:7],
                         [b"XADD", ROOM, b"MAXLEN", b"~", b"100000", b"*", b"o"])
        self.assertRegex(words[7], rb"\A[0-9a-f]{32}\Z")
        self.assertEqual(words[8:], [b"n", b"0", b"d", b""])
        self.assertEqual(self.broker.of(b"XREAD")[0],
                         b"XREAD COUNT 1000 BLOCK 5000 STREAMS lobby 0-0".split())
        self.assertEqual(len(self.broker.links), 2)
        server.expect_idle("in a room where nothing is said")

    def test_listens_late(self):
        """nobody is let in before the room is joined; a signal ends the wait"""
        held = broker.Held()
        self.broker.next(b"XADD", held)
        server = self.enter(Server(options=f"-j {self.url()}"))
        self.wait(lambda: self.broker.count(b"XADD"), "an entry")
        time.sleep(test.SETTLE)
        self.assertEqual(server.log.lines[:], [])
        server.process.send_signal(signal.SIGTERM)
        server.expect_end(0)
        held.event.set()

    def test_history(self):
        """nothing from before is delivered, not even a late copy of it"""
        for n in range(250):
            self.broker.add(ROOM, fields(n, b"old %d\n" % n))
        peer = self.join(self.serve())
        self.broker.add(ROOM, fields(249, b"old once more\n"))
        self.broker.add(ROOM, fields(250, b"new\n"))
        self.expect(peer, b"new")

    def test_password(self):
        """in the URL, with a user or without, or in the environment; for both links"""
        for user, login, words in ((b"default", ":se%63ret@", 2),
                                   (b"a:b", "a%3Ab:secret@", 3),
                                   (b"default", "", 2), (b"u", "u@", 3)):
            with self.subTest(login), Broker(b"secret", user) as self.broker:
                command = test.COMMAND
                if ":" not in login:
                    command = "env REDISCLI_AUTH=secret " + command
                with Server(command, f"-j {self.url(login=login)}") as server:
                    server.expect_log(b"joined room")
                    server.expect_log(b"listening")
                self.assertEqual(self.broker.count(b"AUTH"), 2)
                self.assertEqual(len(self.broker.of(b"AUTH")[0]), words)

    def test_wrong_password(self):
        with Broker(b"secret2") as self.broker:
            self.expect_refused(self.refused(self.url(login=":secret@")), 1, "WRONGPASS")
            self.expect_refused(self.refused(self.url()), 1, "NOAUTH")

    def test_long_password(self):
        """1023 bytes in the environment arrive; 1024 are wrong usage, not cut"""
        with Broker(b"secret") as self.broker:
            result = self.refused(self.url(), REDISCLI_AUTH=1023 * "x")
            self.expect_refused(result, 1, "WRONGPASS")
            self.assertEqual(self.broker.of(b"AUTH")[0][-1], 1023 * b"x")
            result = self.refused(self.url(), REDISCLI_AUTH=1024 * "x")
            self.expect_refused(result, 2, "REDISCLI_AUTH")

    def test_refused(self):
        """an error that will not pass ends the server at the start, with one line"""
        for command in (b"XADD", b"XREAD", b"XRANGE"):
            for error in ("NOPERM this user has no permissions",
                          "WRONGTYPE Operation against", "ERR unknown command"):
                with self.subTest(error), Broker() as self.broker:
                    self.broker.always[command] = broker.refuse(error)
                    self.expect_refused(self.refused(self.url()), 1, error,
                                        "room lobby at 127.0.0.1:")
        self.broker.shut()
        self.expect_refused(self.refused(self.url()), 1, "Connection refused")
        self.expect_refused(self.refused("redis://no-such-host.invalid/lobby"), 1,
                            "no-such-host")

    def test_url(self):
        """wrong usage, with the form that is right"""
        form = "redis://[user:password@]host[:port]/room"
        for url in ("lobby", "http://x/lobby", "redis://", "redis://x", "redis://x/",
                    "redis:///lobby", "redis://x:0/a", "redis://x:65536/a",
                    "redis://x:/a", "redis://x:1x/a",
                    "redis://[::1/a", "redis://[::1]x/a", "redis://u:%zz@x/a",
                    "redis://x/%00", "redis://x/a%2", "redis://:secret@/a",
                    "redis://x/" + 1100 * "a"):
            with self.subTest(url):
                self.expect_refused(self.refused(url), 2, form)
        self.expect_refused(self.refused("rediss://:secret@x/lobby"), 2, "TLS", "proxy")

    def test_passing_errors(self):
        """an error that may pass is waited for"""
        for error in ("LOADING Redis is loading", "MISCONF x", "CLUSTERDOWN x",
                      "NOREPLICAS x", "BUSY x", "READONLY x", "UNBLOCKED x", "OOM x"):
            for command in (b"XADD", b"XREAD", b"XRANGE"):
                with self.subTest(error), Broker() as self.broker:
                    self.broker.next(command, broker.refuse(error))
                    with Server(options=f"-j {self.url()}") as server:
                        server.expect_log(b"joined room")
                        server.expect_log(b"listening")

    def test_names(self):
        """the room's name is bytes; in the log it forges no line"""
        with Server(options=f"-j {self.url('a%0a%20b')}") as server:
            server.expect_log(b"joined room a\\x0a b at")
        self.assertEqual(self.broker.of(b"XADD")[0][1], b"a\n b")
        for one in range(4):            # a long one is cut, but not within a letter
            name = one * "x" + 20 * "\u0436" + 20 * "\U0001f600"
            with self.subTest(name), \
                    Server(options=f"-j {self.url(quote(name))}") as server:
                server.expect_log(b"joined room")
                line = server.log.lines[0]
                shown = line.decode().split()[2]
                self.assertTrue(name.startswith(shown))
                self.assertIn(len(shown.encode()), range(77, 81))


class Chat(RoomCase):
    def test_across(self):
        """what is said at one server is heard at all of them, in one order"""
        servers = [self.serve() for _ in range(3)]
        peers = [self.join(server) for server in servers for _ in range(2)]
        for number in range(120):
            peers[number % 6].send(b"number %d of %d\n" % (number, number % 6))
        views = [[peer.line() for _ in range(120)] for peer in peers]
        self.assertTrue(all(view == views[0] for view in views))
        self.assertEqual(len(set(views[0])), 120)
        for sender in range(6):
            own = [line for line in views[0] if line.endswith(b"of %d" % sender)]
            self.assertEqual(own, sorted(own, key=lambda line: int(line.split()[1])))

    def test_comes_back_first(self):
        """the sender, too, sees its message only when it comes from the stream"""
        peer = self.join(self.serve())
        held = broker.Held()
        self.broker.next(b"XREAD", held)
        self.broker.add(ROOM, fields(0))        # for the XREAD that waits now
        self.wait(lambda: not self.broker.script[b"XREAD"], "another XREAD")
        peer.send(b"mine\n")
        self.wait(lambda: self.entries(), "the message")
        self.assertFalse(peer.receive(test.SETTLE))
        held.event.set()
        self.expect(peer, b"mine")

    def test_one_in_flight(self):
        """what is said while an entry is in flight becomes the next entry"""
        server = self.serve()
        peer = self.join(server)
        held = broker.Held()
        self.broker.next(b"XADD", held)
        peer.send(b"first\n")
        self.wait(lambda: self.entries(), "the message")
        for number in range(30):
            peer.send(b"then %d\n" % number)
        server.expect_log(b"then 29")
        time.sleep(test.SETTLE)         # for an entry too many to come
        self.assertEqual(len(self.entries()), 1)
        held.event.set()
        self.expect(peer, b"first", *(b"then %d" % number for number in range(30)))
        self.assertEqual([entry[5] for entry in self.entries()][1:],
                         [b"".join(b"then %d\n" % number for number in range(30))])

    def test_any_bytes(self):
        """any bytes, any sizes; replies cut into pieces of 7 bytes"""
        texts = [b"", b"\0", b"\r", b"$3\r", b"x" * 1024, bytes(set(range(256)) - {10}),
                 b"-ERR"]
        self.broker.cut = 7
        a, b = (self.join(self.serve()) for _ in range(2))
        a.send(b"".join(text + b"\n" for text in texts))
        self.expect(a, *texts)
        self.expect(b, *texts)

    def test_every_cut(self):
        """a reply that comes in two pieces, cut anywhere"""
        peer = self.join(self.serve())
        entry = broker.Entry((10 ** 12, 0), fields(0, b"number 000\n"))
        for number in range(len(broker.entry_reply(entry)) + 30):
            self.broker.cut = number + 1
            self.broker.add(ROOM, fields(number, b"number %d\n" % number))
            self.expect(peer, b"number %d" % number)

    def test_large_batches(self):
        """a megabyte at once: entries of at most 256 KiB, whole messages"""
        server = self.serve()
        peer, witness = self.join(server), self.join(self.serve())
        texts = [b"%06d" % number + b"-" * (number % 1000)
                 for number in range(3000)]
        held = broker.Held()
        self.broker.next(b"XADD", held)
        peer.send(b"".join(text + b"\n" for text in texts))
        held.event.set()
        self.expect(witness, *texts)
        self.expect(peer, *texts)
        sizes = [len(entry[5]) for entry in self.entries()]
        self.assertLessEqual(max(sizes), 256 * 1024)
        self.assertTrue(all(entry[5].endswith(b"\n") for entry in self.entries()))

    def test_half_close(self):
        """a client that half-closes gets all up to its own last message, then the end"""
        server = self.serve()
        peer = self.join(server)
        held = broker.Late()
        self.broker.next(b"XADD", held)
        peer.send(b"one\ntwo")
        peer.half_close()
        self.wait(lambda: self.entries(), "the message")
        self.broker.add(ROOM, fields(0, b"other\n"))
        time.sleep(test.SETTLE)
        self.assertEqual(server.log.count(b"(end of file)"), 0)
        held.event.set()
        server.expect_log(b"(end of file)")
        self.assertEqual(sorted(peer.expect_closed().split()), [b"one", b"other", b"two"])

    def test_terminate(self):
        """what was said comes back before the server ends, if that is within a second"""
        server = self.serve()
        peer = self.join(server)
        held = broker.Late()
        self.broker.next(b"XADD", held)
        peer.send(b"last words\n")
        self.wait(lambda: self.entries(), "the message")
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        held.event.set()
        self.expect(peer, b"last words")
        server.expect_end(0)

    def test_terminate_in_vain(self):
        server = self.serve()
        peer = self.join(server)
        self.broker.always[b"XADD"] = broker.ignore
        peer.send(b"last words\n")
        self.wait(lambda: self.entries(), "the message")
        server.process.send_signal(signal.SIGTERM)
        server.expect_end(0)

    def test_full(self):
        """3 MB wait for a broker that is away: 1 MB in the server, the rest in sockets"""
        witness = self.join(self.serve())
        server = self.serve("-t 1")
        self.broker.always[b"XADD"] = broker.refuse("LOADING just a moment")
        data = b"".join(b"%07d%s\n" % (number, b"x" * 1000) for number in range(20000))
        before = server.memory("VmRSS") if test.LINUX else 0
        server.process.send_signal(signal.SIGSTOP)      # nobody is idle meanwhile
        peer = server.connect()
        sent = self.pour(peer, data)
        server.process.send_signal(signal.SIGCONT)
        sent += self.pour(peer, data[sent:])
        self.assertGreater(sent, 2 << 20)
        server.expect_idle("while it is full", seconds=1.5)     # longer than -t
        if test.LINUX and not server.is_sanitized():    # most of it is in the sockets
            self.assertLess(server.memory("VmRSS") - before, 8 << 20)
        del self.broker.always[b"XADD"]
        for number in range(sent // 1008):
            self.assertEqual(witness.line(), b"%07d%s" % (number, b"x" * 1000))
        if not server.is_sanitized():
            self.assertLess(server.memory("VmHWM"), 40 << 20)


    def pour(self, peer: Peer, data: bytes) -> int:
        """Sends until nothing more is taken; returns how many bytes were taken."""
        sent = 0
        peer.sock.settimeout(test.SETTLE)
        with contextlib.suppress(socket.timeout):
            while sent < len(data):
                sent += peer.sock.send(data[sent:sent + (1 << 16)])
        return sent


class Trouble(RoomCase):
    def test_reply_lost(self):
        """an entry whose reply is lost is added again, and delivered once"""
        for action in (broker.obey_and_close, broker.obey_by_half, broker.close):
            with self.subTest(action), self.afresh():
                server = self.serve()
                peer, witness = self.join(server), self.join(self.serve())
                self.broker.next(b"XADD", action)
                peer.send(b"first\n")
                self.expect(witness, b"first")
                server.expect_log(b"lost the room (")
                if action is broker.close:      # else the entry may have come by B
                    server.expect_log(b"; 1 message waits")
                server.expect_log(b"rejoined")
                peer.send(b"second\n")
                self.expect(witness, b"second")
                self.expect(peer, b"first", b"second")
                self.assertIn(len(self.entries()), (2, 3))

    def test_acknowledged_by_return(self):
        """while A is down, what comes back on B is not added again"""
        server = self.serve()
        peer = self.join(server)
        self.broker.shut()
        self.broker.next(b"XADD", broker.obey_and_close)
        peer.send(b"first\n")
        self.expect(peer, b"first")
        self.broker.open()
        server.expect_log(b"rejoined")
        self.assertEqual(len(self.entries()), 1)

    def test_late_copy(self):
        """what a cut connection delivers much later is dropped, even by new servers"""
        servers = [self.serve()]
        peers = [self.join(servers[0])]
        peers[0].send(b"first\n")
        self.expect(peers[0], b"first")
        first = self.entries()[0]
        peers[0].send(b"second\n")
        self.expect(peers[0], b"second")
        peers.append(self.join(self.serve()))
        for entry in (first, first, self.entries()[1]):
            self.broker.add(ROOM, entry)
        peers[1].send(b"third\n")
        for peer in peers:
            self.expect(peer, b"third")

    def test_refused_entry(self):
        """a refused entry is neither lost nor overtaken"""
        for error, links in (("LOADING x", 0), ("MISCONF x", 0), ("BUSY x", 0),
                             ("OOM x", 0), ("READONLY x", 1), ("NOPERM x", 1),
                             ("ERR x", 1), ("WRONGTYPE x", 1), ("\x1b]forged\x07", 1)):
            with self.subTest(error), self.afresh():
                server = self.serve()
                peer = self.join(server)
                self.broker.next(b"XADD", *3 * [broker.refuse(error)])
                peer.send(b"first\n")
                server.expect_log(b"lost the room (" + error.encode("unicode_escape"))
                peer.send(b"second\n")
                self.expect(peer, b"first", b"second")
                server.expect_log(b"rejoined")
                self.assertEqual(len(self.broker.links), 2 + 3 * links)
                self.assertEqual(self.broker.count(b"XTRIM"),
                                 3 if error == "OOM x" else 0)
                self.assertEqual(server.log.count(b"lost the room"), 1)

    def test_moved(self):
        """dials where MOVED says; when that fails, goes back to the URL's address"""
        with Broker() as there:
            server = self.serve()
            there.streams = self.broker.streams
            there.changed = self.broker.changed
            peer = self.join(server)
            moved = broker.refuse(f"MOVED 3999 127.0.0.1:{there.port}")
            self.broker.always = {b"XADD": moved, b"XREAD": moved, b"XRANGE": moved}
            peer.send(b"first\n")
            self.expect(peer, b"first")
            self.assertEqual(len(there.links), 2)
            self.broker.always = {}
            there.shut()
            there.cut_off()
            peer.send(b"second\n")
            self.expect(peer, b"second")
            self.assertEqual(server.log.count(MISSED), 0)

    def test_away(self):
        """while the broker is away: clients are let in, wait, and lose nothing"""
        server = self.serve()
        peers = [self.join(server), self.join(self.serve())]
        self.broker.shut()
        self.broker.cut_off()
        server.expect_log(b"lost the room (")
        server.expect_log(b"; 0 messages wait")
        peers.append(self.join(server))
        for number in range(10):
            peers[2].send(b"number %d\n" % number)
        server.expect_log(b"number 9")
        visitor = server.connect()      # who says nothing has nothing to wait for
        visitor.half_close()
        visitor.expect_closed()
        server.expect_idle("while the broker is away")
        self.assertEqual(server.log.count(b"lost the room"), 1)
        self.broker.open()
        for peer in peers:
            self.expect(peer, *(b"number %d" % number for number in range(10)))
        server.expect_log_exactly(b"rejoined", 1)
        self.assertEqual(server.log.count(MISSED), 0)

    def test_reading_is_cut(self):
        """B alone is lost, again and again: nothing is missed, nothing comes twice"""
        server = self.serve()
        peer = self.join(server)
        for number in range(20):
            if number % 2:
                self.broker.cut_off(b"XREAD")
            else:
                self.broker.next(b"XREAD", broker.obey_by_half)
            for part in range(3):
                self.broker.add(ROOM,
                                fields(3 * number + part, b"%d.%d\n" % (number, part)))
            self.expect(peer, *(b"%d.%d" % (number, part) for part in range(3)))
        self.assertEqual(server.log.count(MISSED), 0)
        server.expect_log(b"rejoined")

    def test_nonsense(self):
        """an answer that is not RESP, or answers nothing, costs only the connection"""
        for reply in (b"HTTP/1.1 400 Bad Request\r\n", b"$5\r\nabcdefg\r\n", b"+OK\r\n",
                      b"*1\r\n:1\r\n", b":1\r\n:2\r\n", b"*99999999999\r\n",
                      b"*2\r\n*2\r\n+x\r\n*1\r\n$1\r\nx\r\n"):
            for command in (b"XADD", b"XRANGE", b"XREAD"):
                with self.subTest((reply, command)), self.afresh():
                    server = self.serve()
                    peer = self.join(server)
                    self.broker.next(command, broker.answer(reply))
                    self.broker.add(ROOM, fields(0, b"hers\n"))
                    self.expect(peer, b"hers")
                    self.broker.cut_off(b"XREAD")
                    server.expect_log(b"lost the room")
                    peer.send(b"mine\n")
                    self.assertEqual(peer.line(), b"mine")
                    server.expect_alive()

    def test_foreign_entries(self):
        """an entry that is not of our form is skipped; the log says it once"""
        server = self.serve()
        peer = self.join(server)
        wrong = [[b"text", b"hello\n"], [], fields(0, b"half a message"),
                 fields(0, b"a\n", b"short"), [*fields(0, b"x\n"), b"more", b""],
                 [b"o", ORIGIN, b"n", b"-1", b"d", b"x\n"],
                 [b"o", ORIGIN, b"n", b"", b"d", b"x\n"],
                 [b"n", b"0", b"o", ORIGIN, b"d", b"x\n"],
                 fields(10 ** 18, b"x\n"), fields(0, b"x" * 300000 + b"\n"),
                 [b"x", b""] * 5000]
        for entry in wrong:
            self.broker.add(ROOM, entry)
        self.broker.add(ROOM, fields(0, b"right\n"))
        self.expect(peer, b"right")
        server.expect_log_exactly(b"it is not of our form", 1)


class Holes(RoomCase):
    def expect_missed(self, server: Server, *peers: Peer) -> None:
        server.expect_log(MISSED + b"%d client%s disconnected" %
                          (len(peers), b"s" if len(peers) != 1 else b""))
        for peer in peers:
            peer.expect_closed()
        server.expect_log(b"rejoined")
        newcomer = self.join(server)
        newcomer.send(b"after it\n")
        self.expect(newcomer, b"after it")

    def test_jump(self):
        """another server's numbers jump"""
        server = self.serve()
        peers = [self.join(server), self.join(server)]
        self.broker.add(ROOM, fields(0))
        self.broker.add(ROOM, fields(1, b"one\n"))
        for peer in peers:
            self.expect(peer, b"one")
        self.broker.add(ROOM, fields(3, b"three\n"))
        self.expect_missed(server, *peers)
        self.assertNotIn(b"three", b"".join(peer.unread() for peer in peers))

    def test_nobody_is_spared(self):
        """nor one who has to wait before it may speak on, or has said its last word"""
        server = self.serve("-r 1")
        silent, waiting, leaving = [self.join(server) for _ in range(3)]
        waiting.send(b"\n" * 40)        # ten, and then one a second
        self.expect(silent, *[b""] * 10)
        held = broker.Late()
        self.broker.next(b"XADD", held)
        leaving.send(b"bye\n")
        leaving.half_close()
        server.expect_log(b"bye")
        self.broker.add(ROOM, fields(0))
        self.broker.add(ROOM, fields(2, b"a jump\n"))
        server.expect_log(MISSED + b"3 clients disconnected")
        for peer in (silent, waiting, leaving):
            peer.expect_closed()
        held.event.set()

    def test_unknown(self):
        """a server not heard of before begins in the middle of its numbers"""
        server = self.serve()
        peer = self.join(server)
        self.broker.add(ROOM, fields(7))                        # joins again, that is all
        self.broker.add(ROOM, fields(8, b"eight\n"))
        self.expect(peer, b"eight")
        self.broker.add(ROOM, fields(7, b"seven\n", ORIGIN[::-1]))
        self.expect_missed(server, peer)

    def test_deleted(self):
        """the stream is deleted between two XREADs"""
        server = self.serve()
        peer = self.join(server)
        cursor = b"%d-%d" % self.broker.add(ROOM, fields(0, b"one\n"))
        self.expect(peer, b"one")
        self.wait(lambda: self.broker.of(b"XREAD")[-1][-1] == cursor, "the next XREAD")
        self.broker.next(b"XRANGE", self.delete_first)
        self.broker.add(ROOM, fields(1, b"two\n"))
        self.expect(peer, b"two")
        self.expect_missed(server, peer)

    def delete_first(self, link: broker.Link, words: List[bytes]) -> None:
        del self.broker.streams[ROOM][:]
        time.sleep(0.002)               # or it may get the same ID again
        self.broker.add(ROOM, fields(2, b"three\n"))    # fits, but what else has gone?
        link.send(self.broker.reply(link, words))

    def test_empty_reply(self):
        """XREAD says that there is nothing: so what had been added before has gone"""
        server = self.serve()
        peer = self.join(server)
        nothing = broker.answer(b"*-1\r\n")
        released = threading.Event()

        def late(link: broker.Link, words: List[bytes]) -> None:
            released.wait(DEADLINE)
            nothing(link, words)

        self.broker.next(b"XREAD", late)
        self.broker.add(ROOM, fields(0))        # for the XREAD that waits now
        self.wait(lambda: not self.broker.script[b"XREAD"], "another XREAD")
        peer.send(b"first\n")
        self.wait(lambda: len(self.entries()) == 1, "a message")
        peer.send(b"second\n")
        self.wait(lambda: len(self.entries()) == 2, "the other one, so one is there")
        released.set()                  # that reply was older, and shows nothing
        self.expect(peer, b"first", b"second")
        self.assertEqual(server.log.count(MISSED), 0)
        self.broker.next(b"XADD", self.add_and_lose, self.add_and_lose)
        peer.send(b"third\n")
        self.wait(lambda: len(self.entries()) == 3, "a message")
        peer.send(b"fourth\n")
        self.wait(lambda: len(self.entries()) == 4, "the other one, so one has gone")
        self.broker.next(b"XREAD", nothing)
        self.broker.add(ROOM, fields(1))        # ends the XREAD that waits now
        self.expect_missed(server, peer)

    def test_lost_and_trimmed(self):
        """what came while B was down has been trimmed"""
        server = self.serve()
        peer = self.join(server)
        self.broker.shut()
        self.broker.cut_off()
        server.expect_log(b"lost the room")
        peer.send(b"said meanwhile\n")
        self.broker.add(ROOM, fields(0, b"missed\n"))
        del self.broker.streams[ROOM][:]
        self.broker.open()
        self.expect_missed(server, peer)
        self.assertEqual(len(self.entries()), 2)        # "said meanwhile" has been kept

    def test_lost_and_kept(self):
        """what came while B was down is still there"""
        server = self.serve()
        peer = self.join(server)
        self.broker.shut()
        self.broker.cut_off()
        server.expect_log(b"lost the room")
        self.broker.add(ROOM, fields(0, b"one\n"))
        self.broker.open()
        self.expect(peer, b"one")
        self.assertEqual(server.log.count(MISSED), 0)

    def test_in_flight(self):
        """what was in flight and what waited is kept, and follows the new beginning"""
        server = self.serve()
        other = self.serve()
        peer, witness = self.join(server), self.join(other)
        self.broker.add(ROOM, fields(0))
        held = broker.Held()
        self.broker.next(b"XADD", held)
        peer.send(b"in flight\n")
        self.expect(witness, b"in flight")
        peer.send(b"waits\n")
        server.expect_log(b"waits")
        self.broker.add(ROOM, fields(2, b"a jump\n"))
        server.expect_log(MISSED)
        newcomer = self.join(server)
        held.event.set()
        self.expect(newcomer, b"waits")
        witness.expect_closed()
        self.wait(lambda: self.entries()[-1][5] == b"waits\n", "what waited")
        newcomer.send(b"after it\n")
        line = newcomer.line()
        self.assertEqual(newcomer.line() if line == b"waits" else line, b"after it")
        origin = self.origin_of(b"waits")
        numbers = [int(entry[3]) for entry in self.entries(False) if entry[1] == origin]
        self.assertEqual(numbers, sorted(set(numbers)))

    def origin_of(self, text: bytes) -> bytes:
        return next(entry[1] for entry in self.entries() if entry[5].startswith(text))

    def test_all_begin_anew(self):
        """after a DEL all servers begin anew, and then agree again"""
        servers = [self.serve() for _ in range(4)]
        for peer in [self.join(server) for server in servers]:
            peer.send(b"x\n")
        self.broker.shut()
        self.broker.cut_off()
        del self.broker.streams[ROOM][:]
        self.broker.open()
        for server in servers:
            server.expect_log(b"rejoined")
        time.sleep(test.SETTLE)
        before = [server.log.count(MISSED) for server in servers]
        self.assertLessEqual(max(before), 2)
        peers = [self.join(server) for server in servers]
        for peer in peers:
            peer.send(b"hello from %d\n" % peer.id)
        views = [[peer.line() for _ in range(4)] for peer in peers]
        self.assertTrue(all(view == views[0] for view in views))


class Slow(RoomCase):
    def test_not_answered(self):
        """at the start, a broker has ten seconds to answer"""
        started = time.monotonic()
        self.broker.always = {b"XADD": broker.ignore}
        self.expect_refused(self.refused(self.url()), 1, "no answer for 10 s")
        self.assertGreater(time.monotonic() - started, 9)
        self.broker.always = {b"XADD": broker.refuse("LOADING for ever")}
        self.expect_refused(self.refused(self.url()), 1, "LOADING")

    def test_sign_of_life(self):
        """a server that has added nothing for 5 s adds an empty entry"""
        self.serve()
        self.wait(lambda: len(self.entries(False)) == 3, "a sign of life")
        self.assertEqual([entry[3] for entry in self.entries(False)], [b"0", b"1", b"2"])

    def test_silent(self):
        """a connection silent for 10 s is given up, though everybody goes on talking;
        held-back replies come too late"""
        for command in (b"XADD", b"XREAD"):
            with self.subTest(command), self.afresh():
                server = self.serve()
                peer = self.join(server)
                held = broker.Held()
                self.broker.next(b"XRANGE", broker.slow(0.3))
                self.broker.next(command, held)
                self.broker.add(ROOM, fields(0))
                texts = [b"number %d" % number for number in range(600)]
                for said, text in enumerate(texts, 1):
                    if server.log.count(b"lost the room (no answer for 10 s)"):
                        break
                    peer.send(text + b"\n")
                    time.sleep(0.05)
                server.expect_log(b"lost the room (no answer for 10 s)")
                server.expect_log(b"rejoined")
                witness = self.join(self.serve())
                held.event.set()
                peer.send(b"last\n")
                self.expect(peer, *texts[:said - 1], b"last")
                self.expect(witness, b"last")
                self.assertEqual(server.log.count(MISSED), 0)

    def test_rewound(self):
        """the stream's IDs have fallen behind the cursor: XREAD would wait for ever"""
        server = self.serve()
        peer = self.join(server)
        with self.broker.changed:       # an entry from the future; it will be deleted
            entry = broker.Entry((1 << 50, 0), fields(0, b"x" * 5000 + b"\n"))
            self.broker.streams[ROOM].append(entry)
            self.broker.changed.notify_all()
        self.expect(peer, b"x" * 5000)
        self.wait(lambda: self.broker.of(b"XREAD")[-1][-1] == b"%d-0" % (1 << 50),
                  "the cursor")
        del self.broker.streams[ROOM][-1:]
        self.assertTrue(server.log.wait(MISSED + b"1 client ", 1, 30))
        peer.expect_closed()
        server.expect_log(b"rejoined")

    def test_marker_lost(self):
        """the marker is acknowledged but gone before it is read; others go on talking"""
        server = self.serve()
        peer = self.join(server)
        self.broker.add(ROOM, fields(0))
        self.broker.next(b"XADD", self.add_and_lose)
        self.broker.add(ROOM, fields(2, b"a jump\n"))
        server.expect_log(MISSED)
        peer.expect_closed()
        for number in range(3, 15):
            self.broker.add(ROOM, fields(number, b"on and on\n"))
            time.sleep(1)
        server.expect_log(b"rejoined")
        self.assertEqual(server.log.count(MISSED), 2)

    def test_paused(self):
        """a server that was stopped for long misses nothing that is still there"""
        server = self.serve()
        peer = self.join(server)
        with server.paused():
            time.sleep(12)
            self.broker.add(ROOM, fields(0, b"meanwhile\n"))
            time.sleep(2)
        self.expect(peer, b"meanwhile")
        peer.send(b"mine\n")
        self.expect(peer, b"mine")
        self.assertEqual(server.log.count(MISSED), 0)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):      # as for ^C: end the server, too
        signal.signal(number, signal.default_int_handler)
    unittest.main(verbosity=2)
