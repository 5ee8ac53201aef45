#!/usr/bin/env python3
"""Tests chatsrv -p: a header of the PROXY protocol begins each connection.

    python3 tests/system/proxy_test.py [CLASS[.TEST]]

CHATSRV_TEST_SERVER in the environment is the command, as in the other tests of chatsrv.
The clients are plain sockets, since they play the proxy.
"""
import errno
import os
import socket
import struct
import time
import unittest

import support                          # so that test is tests/test.py
from test import DEADLINE, Server

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
WELCOME = b"Welcome to the chat!\n"
PATIENCE = DEADLINE + 10                # s; the server itself waits five for a header


def text_header(address: str, port: int = 1234) -> bytes:
    family = "TCP6" if ":" in address else "TCP4"
    here = "::1" if ":" in address else "127.0.0.1"
    return f"PROXY {family} {address} {here} {port} 3100\r\n".encode()


def binary_header(address: str, port: int = 1234, extra: bytes = b"") -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    there = socket.inet_pton(family, address)
    body = there + there + struct.pack("!HH", port, 3100) + extra
    kind = 0x21 if family == socket.AF_INET6 else 0x11
    return SIGNATURE + struct.pack("!BBH", 0x21, kind, len(body)) + body


class Client:
    """A connection as a proxy opens it."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.came = b""
        self.name = "127.0.0.1:%d" % self.sock.getsockname()[1]

    def send(self, *parts: bytes) -> None:
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            self.sock.sendall(part)

    def read(self, size: int) -> bytes:
        """The next bytes: that many, or fewer if the end comes first."""
        while len(self.came) < size:
            more = self.sock.recv(65536)
            if not more:
                break
            self.came += more
        taken, self.came = self.came[:size], self.came[size:]
        return taken

    def rest(self) -> bytes:
        """All bytes up to the end, be it a FIN or a reset."""
        try:
            while True:
                more = self.sock.recv(65536)
                if not more:
                    return self.came
                self.came += more
        except ConnectionResetError:
            return self.came

    def has_nothing(self) -> bool:
        self.sock.setblocking(False)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
            return False
        except BlockingIOError:
            return not self.came
        finally:
            self.sock.settimeout(PATIENCE)


class Proxied(unittest.TestCase):
    OPTIONS = "-p"
    NOFILE = 0                          # the limit of descriptors; 0: as it is

    def setUp(self) -> None:
        self.server = Server(options=self.OPTIONS, nofile=self.NOFILE)
        self.server.__enter__()
        self.addCleanup(self.server.__exit__, None, None, None)
        self.server.expect_log(b"listening on ")

    def client(self, *sent: bytes) -> Client:
        client = Client(self.server.port)
        self.addCleanup(client.sock.close)
        client.send(*sent)
        return client

    def member(self, address: str) -> Client:
        """A client that has been greeted."""
        client = self.client(text_header(address))
        self.assertEqual(client.read(len(WELCOME)), WELCOME)
        return client

    def expect_said(self, text: bytes, *clients: Client) -> None:
        for client in clients:
            self.assertEqual(client.read(len(text)), text)

    def expect_refused(self, client: Client, reason: str) -> None:
        self.assertEqual(client.rest(), b"")
        self.server.expect_log(f"refused connection: {client.name} ({reason})".encode())


class Headers(Proxied):
    def test_address(self):
        """The header's address is the client's, in the prefix and in the log."""
        witness = self.member("192.0.2.1")
        for address in ("192.0.2.7", "2001:db8::7"):
            for header in (text_header(address), binary_header(address),
                           binary_header(address, extra=b"\x04\0\x01x")):
                with self.subTest(header=header):
                    client = self.client(header)
                    self.assertEqual(client.read(len(WELCOME)), WELCOME)
                    client.send(b"hi\n")
                    self.expect_said(address.encode() + b": hi\n", client, witness)
                    client.sock.close()
        for name in (b"192.0.2.7:1234", b"[2001:db8::7]:1234"):
            self.server.expect_log(b"accepted connection: " + name, 3)
            self.server.expect_log(b"connection terminated: " + name, 3)

    def test_mapped_address(self):
        """One client has one address, in whatever form a proxy writes it."""
        client = self.member("::ffff:192.0.2.7")
        client.send(b"hi\n")
        self.expect_said(b"192.0.2.7: hi\n", client)

    def test_own_address(self):
        """UNKNOWN and LOCAL name nobody: the proxy speaks for itself."""
        local = SIGNATURE + struct.pack("!BBH", 0x20, 0, 0)
        for header in (b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ff:: ff:: 1 2\r\n", local):
            with self.subTest(header=header):
                client = self.client(header + b"hi\n")
                self.expect_said(WELCOME + b"127.0.0.1: hi\n", client)
                self.server.expect_log(b"accepted connection: " + client.name.encode())

    def test_in_one_segment(self):
        """What follows the header is the client's, to the byte."""
        for header in (text_header("192.0.2.7"), binary_header("192.0.2.7")):
            client = self.client(header + b"one\nPROXY UNKNOWN\r\n\ntail")
            client.sock.shutdown(socket.SHUT_WR)
            self.assertEqual(client.rest(), WELCOME + b"192.0.2.7: one\n"
                             b"192.0.2.7: PROXY UNKNOWN\r\n192.0.2.7: \n"
                             b"192.0.2.7: tail\n")

    def test_cut_anywhere(self):
        for header in (text_header("192.0.2.7"), binary_header("192.0.2.7")):
            for at in range(1, len(header)):
                client = self.client(header[:at], header[at:] + b"hi\n")
                self.expect_said(WELCOME + b"192.0.2.7: hi\n", client)
                client.sock.close()

    def test_byte_by_byte(self):
        for header in (text_header("192.0.2.7"), binary_header("2001:db8::7")):
            client = self.client(*(bytes([byte]) for byte in header))
            self.assertEqual(client.read(len(WELCOME)), WELCOME)

    def test_long_header(self):
        """A binary header may announce a length of up to 64 KiB."""
        client = self.client(binary_header("192.0.2.7", extra=b"x" * 65000) + b"hi\n")
        self.expect_said(WELCOME + b"192.0.2.7: hi\n", client)


class Before(Proxied):
    """A connection that has not sent its header yet."""

    def test_nothing_is_sent(self):
        """Nothing said before its header comes reaches it, neither then nor later."""
        member = self.member("192.0.2.1")
        late = self.client(text_header("192.0.2.7")[:-1])
        member.send(b"secret\n")
        self.expect_said(b"192.0.2.1: secret\n", member)
        self.assertTrue(late.has_nothing())
        late.send(b"\n")
        self.assertEqual(late.read(len(WELCOME)), WELCOME)
        member.send(b"open\n")
        self.expect_said(b"192.0.2.1: open\n", late)

    def test_no_header(self):
        for sent in (b"hi\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", b"\r\n\r\n\0\r\nQUIX",
                     b"PROXY " + b"x" * 200, b"\n", b"\x16\x03\x01\0\xa5\x01\0\0\xa1"):
            with self.subTest(sent=sent):
                self.expect_refused(self.client(sent), "no PROXY header")

    def test_end_of_file(self):
        for sent in (b"", b"PROXY TCP4 192.0.2.7"):
            client = self.client(*([sent] if sent else []))
            client.sock.shutdown(socket.SHUT_WR)
            self.expect_refused(client, "end of file, no PROXY header")

    def test_too_late(self):
        """It has five seconds, however it spends them; nobody else notices."""
        member = self.member("192.0.2.1")
        silent, slow = self.client(), self.client(b"PROXY ")
        for client in (silent, slow):
            self.expect_refused(client, "no PROXY header within 5 s")
        member.send(b"still here\n")
        self.expect_said(b"192.0.2.1: still here\n", member)

    def test_reset(self):
        client = self.client(b"PROXY ")
        support.reset_on_close(client.sock)
        client.sock.close()
        self.server.expect_log(f"refused connection: {client.name} "
                               f"({os.strerror(errno.ECONNRESET)})".encode())
        self.member("192.0.2.1")

    def test_stop(self):
        """When the server ends, so do they."""
        client = self.client(b"PROXY ")
        self.member("192.0.2.1")
        self.server.process.terminate()
        self.expect_refused(client, "server stopping")
        self.assertTrue(self.server.has_ended(within=DEADLINE))
        self.assertEqual(self.server.process.returncode, 0)


class Few(Proxied):
    """Descriptors are scarce."""
    NOFILE = 40

    def test_silent_crowd(self):
        """Silent connections keep nobody out: the oldest ones make room, even those that
        have just sent something."""
        old = [self.client() for _ in range(10)]
        self.member("192.0.2.1")        # so those have been accepted
        with self.server.paused():
            crowd = [self.client() for _ in range(60)]
            for client in old:
                client.send(b"P")
            late = self.client(text_header("192.0.2.7") + b"hi\n")
        self.expect_said(WELCOME + b"192.0.2.7: hi\n", late)
        for client in old + crowd[:20]:
            self.expect_refused(client, "no PROXY header, and its descriptor is needed")
        for client in old:              # its "P" was reported when it had gone
            refusal = f"refused connection: {client.name} ".encode()
            self.assertEqual(self.server.log.count(refusal), 1)
        self.assertEqual(self.server.log.count(b"trying again in a second"), 0)

    def test_crowd_with_headers(self):
        """A header that has come counts, even if there was no time yet to read it."""
        with self.server.paused():
            crowd = [self.client(text_header("192.0.2.7")) for _ in range(60)]
        full = b"Server full\n"
        answers = {client.read(len(full)) for client in crowd}
        self.assertEqual(answers, {WELCOME[:len(full)], full})
        self.assertEqual(self.server.log.count(b"descriptor is needed"), 0)


class Paused(Proxied):
    """The server is stopped for longer than a header may take."""

    def test_headers_that_came_meanwhile(self):
        """Headers that have come are read before anybody is judged by the clock."""
        crowd = [self.client() for _ in range(600)]
        self.member("192.0.2.1")        # so they have been accepted
        with self.server.paused():
            for client in crowd[:300]:
                client.send(b"P")
            for client in crowd[300:]:
                client.send(text_header("192.0.2.7"))
            time.sleep(5.2)
        for client in crowd[300:]:
            self.assertEqual(client.read(len(WELCOME)), WELCOME)


class OfOneAddress(Proxied):
    OPTIONS = "-p -i 2"

    def test_limit(self):
        """-i counts the clients' addresses, not the proxy's."""
        one, two = self.member("192.0.2.7"), self.member("192.0.2.7")
        other = self.member("192.0.2.8")
        third = self.client(text_header("192.0.2.7", 4321))
        self.assertEqual(third.rest(), b"Server full\n")
        self.server.expect_log(b"refused connection: 192.0.2.7:4321 (too many")
        one.sock.close()
        self.server.expect_log(b"connection terminated: 192.0.2.7:1234")
        self.member("192.0.2.7")
        two.send(b"hi\n")
        self.expect_said(b"192.0.2.7: hi\n", two, other)


class Without(Proxied):
    OPTIONS = ""

    def test_header_is_a_message(self):
        client = self.client(text_header("192.0.2.7"))
        self.expect_said(WELCOME + b"127.0.0.1: " + text_header("192.0.2.7"), client)


if __name__ == "__main__":
    unittest.main()
