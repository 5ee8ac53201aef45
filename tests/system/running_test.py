#!/usr/bin/env python3
"""Tests what notes/running.md says beyond its commands: the unit, and the browser.

    python3 tests/system/running_test.py [--picture FILE] [CLASS[.TEST]]

The commands themselves are run by notes/transcripts.py. CHATSRV and CHATCL in the
environment name the programs. Needs haproxy, websockify, Chromium with chromedriver, and
systemd-analyze.
"""
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import unittest

import browser
import support
from support import ROOT, free_ports

RUNNING = ROOT / "notes" / "running"
UNIT = RUNNING / "chatsrv.service"
CHATSRV = os.environ.get("CHATSRV") or str(ROOT / "build" / "chatsrv")
CHATCL = os.environ.get("CHATCL") or str(ROOT / "build" / "chatcl")
PATIENCE = 30               # s, for a program to listen, and for a message
PICTURE = ""                # where to put a picture of the page

LINES = "return [...document.querySelectorAll('#log li.message')].map(l => l.textContent)"
SEND = ("document.getElementById('text').value = arguments[0];"
        "document.getElementById('form').requestSubmit()")


def analyze(*words: str) -> str:
    return subprocess.run(["systemd-analyze", *words, str(UNIT)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True).stdout


class Unit(unittest.TestCase):
    def test_security(self):
        said = analyze("security", "--offline=true", "--no-pager")
        exposure = re.search(r"Overall exposure level .*: ([\d.]+) OK", said)
        self.assertTrue(exposure, said[-200:])
        self.assertLess(float(exposure[1]), 2.5)

    def test_verify(self):
        """systemd complains of nothing, except that the program is not installed here."""
        said = analyze("verify")
        self.assertEqual([line for line in said.splitlines() if "chatsrv" in line
                          and "/usr/local/bin/chatsrv is not executable" not in line], [])

    def test_command(self):
        """The options in the unit are options of chatsrv."""
        command = re.search(r"^ExecStart=(.*)$", UNIT.read_text(), re.M)
        words = shlex.split(command[1])[1:]
        said = subprocess.run([CHATSRV, *words, "one too many"], stderr=subprocess.PIPE,
                              universal_newlines=True)
        self.assertEqual(said.returncode, 2)
        self.assertIn('"one too many" is one argument too many', said.stderr)


class Chat(unittest.TestCase):
    """websockify, haproxy and chatsrv in a row, as running.md starts them."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.chat, tls, self.inside, self.web = free_ports(4)
        self.start(CHATSRV, "-p", "-l", "127.0.0.1", str(self.chat))
        config = (RUNNING / "haproxy.cfg").read_text()
        for old, new in ((":3100", f":{self.chat}"), (":3102", f":{self.inside}"),
                         ("bind :3101 ssl crt chat.pem ssl-min-ver TLSv1.2",
                          f"bind 127.0.0.1:{tls}")):
            self.assertIn(old, config)
            config = config.replace(old, new)
        (self.folder / "haproxy.cfg").write_text(config)
        self.start("haproxy", "-q", "-f", str(self.folder / "haproxy.cfg"))
        self.start("websockify", f"--web={ROOT / 'notes' / 'examples'}",
                   f"127.0.0.1:{self.web}", f"127.0.0.1:{self.inside}")
        for port in (self.chat, self.inside, self.web):
            support.connect(port, PATIENCE).close()

    def start(self, *command: str) -> subprocess.Popen:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def page(self) -> browser.Browser:
        page = browser.Browser()
        self.addCleanup(page.close)
        page.open(f"http://127.0.0.1:{self.web}/chat.html")
        self.expect_line(page, "Welcome to the chat!")
        return page

    def expect_line(self, page: browser.Browser, text: str) -> None:
        found = page.wait_for(f"{LINES}.includes(arguments[0])", text, deadline=PATIENCE)
        self.assertTrue(found, page.run(LINES))

    def test_two_pages_and_a_terminal(self):
        one, two = self.page(), self.page()
        client = subprocess.Popen([CHATCL, "127.0.0.1", str(self.inside)], bufsize=0,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(client.stdout.close)
        self.addCleanup(client.wait)
        self.addCleanup(client.kill)
        self.addCleanup(client.stdin.close)
        self.assertEqual(client.stdout.readline(), b"Welcome to the chat!\n")
        texts = ["hello from a page", "привет, 你好 \U0001f600",
                 "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>"]
        for text in texts:
            one.run(SEND, text)
            for page in (one, two):
                self.expect_line(page, "127.0.0.1: " + text)
            self.assertEqual(client.stdout.readline(), f"127.0.0.1: {text}\n".encode())
        client.stdin.write(b"hello from a terminal\n\x1b[2J\xe2\x80\xae?\n")
        for page in (one, two):
            self.expect_line(page, "127.0.0.1: hello from a terminal")
            self.expect_line(page, "127.0.0.1: \\u{1b}[2J\\u{202e}?")
            self.assertEqual(page.run("return document.title"), "Chat")
            self.assertEqual(page.run("return document.images.length"), 0)
            self.assertEqual(page.console(), [])
        if PICTURE:
            one.resize(400, 420)
            one.screenshot(pathlib.Path(PICTURE))

    def test_split_anywhere(self):
        """A line that comes in pieces is one line, a letter in pieces one letter."""
        page = self.page()
        with socket.create_connection(("127.0.0.1", self.inside), PATIENCE) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in "привет\nдва\n".encode():
                sock.sendall(bytes([byte]))
            self.expect_line(page, "127.0.0.1: привет")
            self.expect_line(page, "127.0.0.1: два")

    def test_phone(self):
        page = self.page()
        page.resize(360, 640)
        page.run(SEND, "long " * 100)
        self.expect_line(page, "127.0.0.1: " + "long " * 100)
        size = page.run("const e = document.documentElement;"
                        "return [e.scrollWidth, e.scrollHeight]")
        self.assertTrue(size[0] <= 360 and size[1] <= 640, size)

    def test_reconnect(self):
        page = self.page()
        page.run("socket.close()")
        self.assertTrue(page.wait_for(
            f"{LINES}.filter(l => l.startsWith('Welcome')).length === 2",
            deadline=PATIENCE))
        page.run(SEND, "back again")
        self.expect_line(page, "127.0.0.1: back again")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--picture"]:
        PICTURE = sys.argv[2]
        del sys.argv[1:3]
    unittest.main()
