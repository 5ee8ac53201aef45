#!/usr/bin/env python3
"""Tests for a chat server, and a grader for anybody's, in any language.

    python3 test.py                               everything
    python3 test.py Test3                         one stage of the assignment
    python3 test.py TestRules.test_limit          one test
    python3 test.py --server './chatsrv {port}'   another server, on a free port
    python3 test.py --server ./chatsrv            one that listens on PORT, see below

Test1 to Test6 are the stages: a server that has reached stage N passes Test1 to TestN.
TestRules holds the assignment's other sentences and wants a complete server.

A failing test says what was expected, what came, what the assignment says, and where to
look. unittest's options (-v, -f, -k) work; --traceback (or -v -v) shows Python's view.

A server may put a prefix before each message, and anything before and behind the texts in
its log.

Environment: CHATSRV_TEST_SERVER, as --server; CHATSRV_TEST_DEADLINE, how many seconds to
wait for anything.
"""
import argparse
import atexit
import collections
import contextlib
import itertools
import os
import pathlib
import random
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import unittest
from typing import (Callable, Deque, Dict, Iterable, Iterator, List, NamedTuple, NoReturn,
                    Optional, Sequence, Set, Tuple)

# ---- Edit here -------------------------------------------------------------------------
#
# COMMAND starts the server. {port} in it becomes a free port. A server that takes no port is
# started as it is, and has to listen on PORT:    COMMAND = "./chatsrv"

BUILT = pathlib.Path(__file__).resolve().parent.parent / "build" / "chatsrv"
COMMAND = shlex.quote(str(BUILT)) + " {options} {port}" if BUILT.exists() else "./chatsrv"
HOST = "127.0.0.1"
PORT = 3100

# ----------------------------------------------------------------------------------------

COMMAND = os.environ.get("CHATSRV_TEST_SERVER") or COMMAND
DEADLINE = float(os.environ.get("CHATSRV_TEST_DEADLINE") or 5)  # s; waits end earlier
SETTLE = 0.2        # s, for what must not happen where no event would come after it
IDLE_SHARE = 0.2    # of a processor's time: a server that uses more is not idle
MESSAGE_MAX = 1024  # bytes, newline excluded
LINUX = os.path.isdir("/proc/self/fd")

ACCEPTED = b"accepted connection"
TERMINATED = b"connection terminated"


# ---- Verdicts --------------------------------------------------------------------------

class Verdict(AssertionError):
    """What a failing check says; shown without a traceback."""


def verdict(**parts: str) -> Verdict:
    """One paragraph for each part that has a text, its name in front."""
    names = {"expected": "expected:", "came": "came:", "stderr": "stderr:",
             "says": "the assignment:", "look": "where to look:"}
    paragraphs = []
    for key, name in names.items():
        for line in parts.get(key, "").splitlines():
            paragraphs.append(textwrap.fill(
                line, 90, initial_indent=f"  {name:16}", subsequent_indent=" " * 18,
                break_on_hyphens=False))
            name = ""
    return Verdict("\n".join(paragraphs))


def shown(data: bytes, most: int = 60) -> str:
    """Bytes as text, the middle of long ones left out."""
    if len(data) <= most:
        return repr(bytes(data))
    head, tail = bytes(data[:most * 2 // 3]), bytes(data[-most // 3:])
    return f"{head!r} ... {tail!r} ({len(data)} bytes)"


# ---- The server under test -------------------------------------------------------------

class Output:
    """What the server writes to a pipe. A thread drains it, so the server never waits."""

    def __init__(self, pipe) -> None:
        self.lines: List[bytes] = []
        self.rest = b""         # what came behind the last newline
        self.ended = False
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self.reader.start()

    def _read(self, pipe) -> None:
        with pipe:
            while True:
                data = os.read(pipe.fileno(), 1 << 16)
                with self.changed:
                    *lines, self.rest = (self.rest + data).split(b"\n")
                    self.lines += lines
                    self.ended = not data
                    self.changed.notify_all()
                if not data:
                    return

    def count(self, text: bytes) -> int:
        return sum(text in line for line in self.lines)

    def wait(self, text: bytes, count: int, seconds: float) -> bool:
        """Waits until `count` lines hold the text; False when that did not come."""
        end = time.monotonic() + seconds
        seen = found = 0
        with self.changed:
            while True:
                new = self.lines[seen:]
                seen += len(new)
                found += sum(text in line for line in new)
                left = end - time.monotonic()
                if found >= count or self.ended or left <= 0:
                    return found >= count
                self.changed.wait(left)

    def tail(self, lines: int) -> List[bytes]:
        return (self.lines + [self.rest] * bool(self.rest))[-lines:]


class Process(NamedTuple):
    pid: int
    state: str      # as ps shows it: R, S, T, Z ...
    cpu: float      # seconds of processor time used


def processes(group: int) -> List[Process]:
    """The processes of a process group."""
    return _processes_proc(group) if LINUX else _processes_ps(group)


def _processes_proc(group: int) -> List[Process]:
    tick = os.sysconf("SC_CLK_TCK")
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):      # it has just ended
            stat = pathlib.Path("/proc", name, "stat").read_bytes()
            field = stat[stat.rindex(b")") + 2:].split()    # proc(5), from the third on
            if int(field[2]) == group:
                cpu = int(field[11]) + int(field[12])
                found.append(Process(int(name), field[0].decode(), cpu / tick))
    return found


def _processes_ps(group: int) -> List[Process]:
    listing = subprocess.run(["ps", "-A", "-o", "pgid=", "-o", "pid=", "-o", "state=",
                              "-o", "time="],
                             stdout=subprocess.PIPE, check=True).stdout.decode()
    found = []
    for pgid, pid, state, used in map(str.split, listing.splitlines()):
        if int(pgid) == group:
            cpu = 0.0
            for part in used.replace("-", ":").split(":"):   # [[dd-]hh:]mm:ss.cc
                cpu = cpu * 60 + float(part)
            found.append(Process(int(pid), state[0], cpu))
    return found


class Server:
    """A server's process, from its start to its end, and the clients connected to it.

    Used as a context manager, it ends the process, whatever happens. `options` go into
    the command, `says` and `look` into the verdicts. nofile limits the server's
    descriptors. With read_log=False nobody reads stdout until start_reading().
    """
    alive: "List[Server]" = []          # to be ended however this program ends
    ever_reached = False
    ever_logged = False
    late_ends = 0                       # in a row: SIGTERM did not end the server in time
    log_is_mute = False                 # waited for a log line, and nothing at all came

    def __init__(self, command: Optional[str] = None, options: str = "", port: int = 0,
                 nofile: int = 0, read_log: bool = True, says: str = "",
                 look: str = "") -> None:
        self.template, self.options, self.port = command or COMMAND, options, port
        self.nofile, self.read_log = nofile, read_log
        self.says, self.look = says, look
        self.peers: List[Peer] = []
        self.judged = False             # a verdict has been given
        self.end_is_due = False         # its end is part of the test
        self.reached = False            # somebody has connected
        self.tries = 1 if port else 4   # ports to try: another program may be faster
        self._launch()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    # -- starting and ending

    def _launch(self) -> None:
        fixed = "{port}" not in self.template and not self.port
        if fixed and self._port_is_taken():
            raise verdict(expected=f"port {PORT} of {HOST} free for the server",
                          came="another program listens there",
                          look="end that program: perhaps your own server in another "
                               f"terminal (lsof -i :{PORT})")
        self.port = PORT if fixed else self.port or free_port()
        command = command_line(self.template, self.options, self.port)
        if self.nofile:
            command = ["sh", "-c", f'ulimit -n {self.nofile}; exec "$@"', "sh"] + command
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            self._cannot_start(f"{command[0]}: {error.strerror}",
                               "is it built? COMMAND at the top of test.py, or --server, "
                               "says what is started")
        Server.alive.append(self)
        self.log = Output(self.process.stdout) if self.read_log else None
        self.stderr = Output(self.process.stderr)

    @staticmethod
    def _port_is_taken() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, PORT)) == 0

    def start_reading(self) -> None:
        self.log = Output(self.process.stdout)

    def has_ended(self, within: float = 0) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(within)
        return self.process.returncode is not None

    def stop(self) -> None:
        """Resets the clients, which leaves the port free at once, and ends the server."""
        for peer in self.peers:
            peer.reset()
        if self in Server.alive:
            Server.alive.remove(self)
            if not self.has_ended():
                self.process.terminate()    # gives a leak checker the chance to speak
                seconds = DEADLINE if Server.late_ends < 2 else 0.1    # some never heed it
                Server.late_ends = 0 if self.has_ended(seconds) else Server.late_ends + 1
            self._kill()
            for output in filter(None, (self.log, self.stderr)):
                output.reader.join(1)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @classmethod
    def stop_all(cls) -> None:
        while cls.alive:
            cls.alive.pop()._kill()

    # -- verdicts

    def fail(self, expected: str, came: str, look: str = "") -> NoReturn:
        """Raises the verdict. A server that has died is blamed for that first of all."""
        self.judged = True
        if self.has_ended(within=0.3) and not self.end_is_due:
            came, look = f"the server {self.epitaph()}", self._why_it_died()
        raise verdict(expected=expected, came=came, stderr=self._last_words(),
                      says=self.says, look=look or self.look)

    def epitaph(self) -> str:
        code = self.process.returncode
        return (f"was killed by {signal.Signals(-code).name}" if code < 0 else
                f"ended, exit status {code}")

    def _last_words(self) -> str:
        self.stderr.reader.join(0.3 if self.process.returncode is not None else 0)
        return "\n".join(line.decode(errors="backslashreplace")[:200]
                         for line in self.stderr.tail(4))

    def _why_it_died(self) -> str:
        words = b"\n".join(self.stderr.tail(20))
        if self.process.returncode == -signal.SIGPIPE:
            return ("send() to a client that has gone raises SIGPIPE, which ends the "
                    "process: ignore it, and take EPIPE as the end of that client")
        if self.process.returncode in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS):
            return f"{self.look}\nBuild it with -fsanitize=address,undefined."
        if b"Interrupted" in words or b"EINTR" in words:
            return "a wait that a signal interrupts (EINTR) is no error: wait again"
        return self.look

    def _cannot_start(self, came: str, look: str) -> NoReturn:
        self.judged = True
        raise verdict(expected=f"a server that listens on {HOST}, port {self.port}",
                      came=came, look=look,
                      stderr=self._last_words() if hasattr(self, "stderr") else "")

    def expect_alive(self) -> None:
        """The last check of every test: the server runs, and no sanitizer has spoken."""
        if self.judged:
            return
        if self.has_ended() and not self.end_is_due:
            self.fail("a server that is still running at the end of the test", "")
        self.expect_clean_stderr()

    def expect_end(self, status: int) -> None:
        """Waits for the process to end by itself."""
        self.end_is_due = True
        if not self.has_ended(within=DEADLINE):
            self.fail(f"the server to end with exit status {status}",
                      f"it still runs after {DEADLINE:g} s")
        if self.process.returncode != status:
            self.fail(f"the server to end with exit status {status}", self.epitaph())
        self.log.reader.join(1)

    def expect_clean_stderr(self) -> None:
        for line in self.stderr.lines:
            if re.search(rb"(ERROR|WARNING): \w+Sanitizer|runtime error: ", line):
                self.fail("no report of a sanitizer", line.decode(errors="replace"),
                          "the whole report is on the server's stderr")

    # -- clients

    def connect(self, host: str = "", receive_buffer: int = 0) -> "Peer":
        """Connects a client; the first one waits until the server listens."""
        end = time.monotonic() + DEADLINE
        while True:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(DEADLINE)
            try:
                sock.connect((host or HOST, self.port))
                break
            except OSError as error:
                sock.close()
                self._not_connected(error, time.monotonic() >= end)
                time.sleep(0.01)
        self.reached = Server.ever_reached = True
        return self._new_peer(sock)

    def start_connecting(self) -> "Peer":
        """Connects a client without waiting for it; the server must be listening."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((HOST, self.port))
        return self._new_peer(sock)

    def _new_peer(self, sock: socket.socket) -> "Peer":
        self.peers.append(Peer(self, sock))
        return self.peers[-1]

    def _not_connected(self, error: OSError, too_late: bool) -> None:
        """Decides what a failed connect means; returns if it is worth another try."""
        if self.reached:
            self.fail("to be connected", f"connect: {error}",
                      "is accept() called for each client, and the listener kept open?")
        if self.has_ended():
            in_use = any(b"in use" in line for line in self.stderr.tail(9))
            self.tries -= 1
            if in_use and self.tries and "{port}" in self.template:
                Server.alive.remove(self)
                self.port = 0
                return self._launch()
            self._cannot_start(
                f"the server {self.epitaph()}",
                "is SO_REUSEADDR set, and before bind()? Sockets of an earlier run may "
                "still use the port" if in_use else "start it by hand: "
                + " ".join(command_line(self.template, "", self.port)))
        if too_late or not isinstance(error, ConnectionRefusedError):
            self._cannot_start(
                f"it runs, but connect says: {error}",
                "does it listen on that port (htons?), at that address? See PORT and "
                "HOST at the top of test.py")

    # -- the log

    def expect_log(self, text: bytes, count: int = 1) -> None:
        """Waits until `count` lines of the log hold the text."""
        seconds = SETTLE if Server.log_is_mute else DEADLINE
        if self.log.wait(text, count, seconds):
            Server.ever_logged = True
            return
        Server.log_is_mute |= not (Server.ever_logged or self.log.lines or self.log.rest
                                   or self.has_ended())
        expected = f"{shown(text)} in {plural(count, 'line')} of the log on stdout"
        if text in self.log.rest:
            self.fail(expected, f"{shown(self.log.rest)}, and then no newline",
                      "end each line of the log with a newline, and flush it")
        if any(text in line for line in self.stderr.lines):
            self.fail(expected, "the line came on stderr", "log to stdout")
        came = f"the log line did not come within {seconds:g} s"
        if not self.log.lines:
            self.fail(expected, f"{came}, nor did any other; did you flush stdout?",
                      f"into a pipe, stdout is fully buffered: flush it\n{self.look}")
        tail = "\n".join(shown(line) for line in self.log.tail(3))
        self.fail(expected,
                  f"{came} ({self.log.count(text)} of {count}); the log's end:\n{tail}")

    def expect_log_exactly(self, text: bytes, count: int) -> None:
        """Nothing need follow a line that is one too many, so this one waits a moment."""
        self.expect_log(text, count)
        time.sleep(SETTLE)
        if self.log.count(text) != count:
            self.fail(f"{shown(text)} in {plural(count, 'line')} of the log",
                      f"{self.log.count(text)} lines")

    # -- the process

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the process meanwhile: what happens here, it finds in one wake-up."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            end = time.monotonic() + DEADLINE
            while any(p.state not in "TZ" for p in processes(self.process.pid)):
                if time.monotonic() > end:
                    self.fail("a process that SIGSTOP stops", "it runs on")
                time.sleep(0.002)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGCONT)

    def pause_while_waiting(self) -> None:
        """Stops and continues an idle process, which interrupts its wait for events."""
        for _ in range(3):
            time.sleep(0.02)
            with self.paused():
                pass

    def cpu(self) -> float:
        return sum(process.cpu for process in processes(self.process.pid))

    def expect_idle(self, when: str, seconds: float = 1) -> None:
        started, before = time.monotonic(), self.cpu()
        time.sleep(seconds)
        share = (self.cpu() - before) / (time.monotonic() - started)
        if share > IDLE_SHARE:
            self.fail(f"hardly any CPU time used {when}", f"{share:.0%} of a processor")

    def descriptors(self) -> int:
        """Open descriptors (Linux)."""
        return sum(len(os.listdir(f"/proc/{p.pid}/fd"))
                   for p in processes(self.process.pid))

    def threads(self) -> Dict[int, int]:
        """How many threads each process has (Linux)."""
        return {p.pid: len(os.listdir(f"/proc/{p.pid}/task"))
                for p in processes(self.process.pid)}

    def memory(self, field: str) -> int:
        """A line of /proc/PID/status: VmRSS, VmHWM (its maximum) ... in bytes (Linux)."""
        total = 0
        for process in processes(self.process.pid):
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            total += int(re.search(rf"{field}:\s+(\d+)", status)[1]) * 1024
        return total

    def is_sanitized(self) -> bool:
        """Whether it has the huge address space that sanitizers reserve (Linux)."""
        return self.memory("VmSize") > 1 << 40


def command_line(template: str, options: str, port: int) -> List[str]:
    """The words of the command, with options and port filled in."""
    if "{options}" not in template:
        where = " {options} {port}" if "{port}" in template else " {options}"
        template = template.replace(" {port}", "") + where
    command = template.replace("{options}", options).replace("{port}", str(port))
    return shlex.split(command)


def free_port() -> int:
    """A port that nobody uses, below those that systems give to clients."""
    while True:
        port = random.SystemRandom().randrange(10000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


atexit.register(Server.stop_all)


# ---- A client --------------------------------------------------------------------------

HELLO = re.compile(rb"<hello (\d+)\.(\d+)>$")   # sync() sends it: client and number


class Peer:
    """A client of the server. Its waits end with a verdict when the deadline has passed.

    It learns the prefix of each sender's messages from the hellos that sync() sends;
    these are never among the messages that it returns.
    """
    ids = itertools.count(1)

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server, self.sock = server, sock
        self.id = next(Peer.ids)
        self.inbox: Deque[bytes] = collections.deque()
        self.rest = b""         # what came behind the last newline
        self.ended = False      # the server has closed the connection
        self.hellos = 0
        self.heard: Dict[int, int] = {}
        self.prefixes: Dict[int, bytes] = {}
        host, port = sock.getsockname()[:2]
        self.address = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def is_connected(self) -> bool:
        """No, if a small backlog in listen() makes this client try again later."""
        try:
            return bool(self.sock.getpeername())
        except OSError:
            return False

    # -- sending and leaving

    def send(self, data: bytes) -> None:
        self.sock.settimeout(DEADLINE)
        try:
            self.sock.sendall(data)
        except socket.timeout:
            self.server.fail(f"{len(data)} bytes to be taken by the server",
                             f"it did not read them within {DEADLINE:g} s")
        except OSError as error:
            self.server.fail("an open connection",
                             f"the server closed it ({error.strerror})")

    def half_close(self) -> None:
        """Sends nothing any more (FIN), but still reads."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def leave(self) -> None:
        """Says good-bye in order: FIN, and everything read that still comes."""
        self.half_close()
        end = time.monotonic() + 0.5
        while self.receive(end - time.monotonic()):
            pass
        self.sock.close()

    def reset(self) -> None:
        """Leaves with a reset (RST), as a program killed with bytes unread does."""
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()

    # -- receiving

    def receive(self, seconds: float) -> bool:
        """Waits for bytes and sorts them in; False if none came or it is over."""
        if self.ended or seconds <= 0:
            return False
        self.sock.settimeout(seconds)
        try:
            data = self.sock.recv(1 << 18)
        except socket.timeout:
            return False
        except OSError:
            data = b""      # a reset ends a connection too
        with contextlib.suppress(AttributeError, OSError):
            # A server without TCP_NODELAY would wait for each delayed acknowledgement.
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.ended = not data
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            hello = HELLO.search(line)
            if hello:
                sender, number = map(int, hello.groups())
                self.heard[sender] = number
                self.prefixes[sender] = line[:hello.start()]
            else:
                self.inbox.append(line)
        return bool(data)

    def _await(self, expected: str, arrived: Callable[[], object]) -> None:
        """Receives until arrived() is true; whatever comes starts the deadline anew."""
        end = time.monotonic() + 4 * DEADLINE
        while not arrived():
            if self.receive(min(DEADLINE, end - time.monotonic())) or arrived():
                continue
            rest = f", but an unfinished line: {shown(self.rest)}" if self.rest else ""
            self.server.fail(expected, "the server closed the connection" + rest
                             if self.ended else f"nothing within {DEADLINE:g} s{rest}")

    def read(self, size: int, expected: str) -> bytes:
        """The first `size` bytes of what has come and was not returned by line()."""
        self._await(expected, lambda: len(self.unread()) >= size)
        return self.unread()[:size]

    def unread(self) -> bytes:
        return b"\n".join([*self.inbox, self.rest])

    def line(self, expected: str = "another line") -> bytes:
        """The next line, without its newline."""
        self._await(expected, lambda: self.inbox)
        return self.inbox.popleft()

    def collect(self, last: bytes, may_end: bool = False) -> None:
        """Receives until a line ends with `last`, or until the connection does."""
        self._await(f"a line that ends with {shown(last)}",
                    lambda: self.inbox and self.inbox[-1].endswith(last)
                    or may_end and self.ended)

    def sync(self) -> None:
        """Sends a message and waits for it: what was sent before has been read, then."""
        self.hellos += 1
        hello = b"<hello %d.%d>" % (self.id, self.hellos)
        self.send(hello + b"\n")
        self._await(f"the client's own message {shown(hello)} to come back",
                    lambda: self.heard.get(self.id) == self.hellos)

    def expect(self, sender: "Peer", text: bytes) -> None:
        """The next line is the sender's prefix and the text."""
        line = self.line(f"the message {shown(text)}")
        prefix = line[:len(line) - len(text)]
        if not line.endswith(text) or not self.is_prefix(prefix, sender):
            self.server.fail(f"the message {shown(text)}", f"the line {shown(line)}")

    def is_prefix(self, prefix: bytes, sender: "Peer") -> bool:
        """Whether it stands before the sender's messages; numbers in it may change."""
        known = self.prefixes.get(sender.id, sender.prefixes.get(sender.id, b""))
        return prefix == known or bare(prefix) == bare(known)

    def expect_no_more(self) -> None:
        """Nothing but what has been read came before the answer to a new message."""
        self.sync()
        if self.inbox:
            self.server.fail("no further message", f"the line {shown(self.inbox[0])}")

    def expect_closed(self) -> bytes:
        """Reads until the server closes the connection; returns what came before."""
        self._await("the server to close the connection", lambda: self.ended)
        return self.unread()


def bare(prefix: bytes) -> bytes:
    return re.sub(rb"\d+", b"0", prefix)


# ---- What the assignment says ----------------------------------------------------------

STAGE1 = ("Stage 1: the program accepts incoming connections and logs 'accepted "
          "connection'.")
STAGE2 = ("Stage 2: the program reads messages, one by one, from a client's socket and "
          "logs each one's text. Messages are separated by newlines.")
STAGE3 = ("Stage 3: the program handles the end of a connection, releases its resources "
          "and logs 'connection terminated'.")
STAGE4 = ("Stage 4: when a client connects, a greeting that begins with 'Welcome' is "
          "written to it.")
STAGE5 = "Stage 5: a client's message is sent back to this client."
STAGE6 = "Stage 6: messages are delivered to the other clients as well."
RELAY = "The server sends a client's message to all of its clients, the sender included."
LINES = "Messages are separated by a newline ('\\n')."
ATOMIC = ("Messages are sent atomically: 'AB' and 'CD' from two clients must never come "
          "out as 'ACD\\nB\\n'.")
LIMIT = ("A message has at most 1024 bytes. Longer ones are cut into pieces of 1024 "
         "bytes, which are sent one by one.")
HISTORY = "A client gets only what was sent after it connected; no history is kept."
GREETING = "When a client connects, it gets a greeting that begins with 'Welcome'."
SLOW = "The server never blocks on sending: one slow client does not slow down the chat."
THREADS = "The server creates neither threads nor child processes."
LOG = ("The log on stdout has 'accepted connection' for each connection accepted, "
       "'connection terminated' for each client gone, and each message's text.")
REUSE = "The server sets SO_REUSEADDR on its listening socket."
CPU = "An inactive server does not use 100 % CPU."
RELEASE = ("The end of a connection is handled correctly: its resources are released, "
           "and it is logged.")
REAL = "The optional part: the server bears real conditions."
ADDRESS = "The optional part: the sender's address before each message: '127.0.0.1: '."
CUT = "The optional part: clients are disconnected by timeout or when a buffer overflows."


def rule(says: str, look: str, **server):
    """Marks a test with the sentence behind it, a hint, and how to start its server."""
    def mark(test):
        test.server = dict(server, says=says, look=look)
        return test
    return mark


class ServerCase(unittest.TestCase):
    """A test with a server of its own, which has to be alive at the end."""
    survives_pause = False      # found out once
    failed: Set[str] = set()    # classes with a failure

    def setUp(self) -> None:
        how = getattr(self, self.id().rsplit(".", 1)[-1]).server
        self.server = Server(**how)
        self.addCleanup(self.stop)

    def tearDown(self) -> None:
        self.server.expect_alive()

    def stop(self) -> None:
        self.server.stop()
        if self.server.judged:
            ServerCase.failed.add(type(self).__name__)
        else:
            self.server.expect_clean_stderr()       # leaks are reported at the very end

    def join(self, count: int, **options) -> List[Peer]:
        """Connects clients that have been greeted and have introduced themselves."""
        peers = []
        for _ in range(count):
            peers.append(self.server.connect(**options))
            peers[-1].sync()
            peers[-1].inbox.clear()     # the greeting
        for peer in peers:
            peer.sync()     # all know its prefix, with no unfinished greeting before it
            peer.inbox.clear()
        return peers

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """As the server's own, once it is known to survive that at all."""
        if not ServerCase.survives_pause:
            self.server.pause_while_waiting()
            if self.server.has_ended(within=0.1):
                self.server.look = "see TestRules.test_signals first"
                self.server.fail("a server that survives SIGSTOP and SIGCONT", "")
            ServerCase.survives_pause = True
        with self.server.paused():
            yield

    def exchange(self, sender: Peer, texts: Sequence[bytes],
                 readers: Sequence[Peer]) -> None:
        """Sends the texts, some at a time; each reader must get all of them, in order."""
        step = max(1, (1 << 15) // (len(texts[0]) + 1))
        for start in range(0, len(texts), step):
            batch = texts[start:start + step]
            sender.send(b"".join(text + b"\n" for text in batch))
            for reader in readers:
                for text in batch:
                    reader.expect(sender, text)

    def expect_service(self) -> None:
        """A newcomer is greeted and answered."""
        self.join(1)


def numbered(count: int, size: int) -> List[bytes]:
    """Different texts of `size` bytes in which any loss can be seen."""
    return [(b"%07d." % n) * (size // 8) + b"~" * (size % 8) for n in range(count)]


def ruler(size: int) -> bytes:
    """Bytes that tell where they stand: 0000. 0005. 0010. and so on."""
    return b"".join(b"%04d." % place for place in range(0, size, 5))[:size]


# ---- The stages ------------------------------------------------------------------------

class Test1(ServerCase):
    """Connections are accepted and logged."""

    @rule(STAGE1, "socket(), bind(), listen(); then accept() for each client, and a log "
                  "line")
    def test_connections(self):
        """two clients connect, and each is logged once"""
        self.server.connect()
        self.server.expect_log(ACCEPTED, 1)
        self.server.connect()
        self.server.expect_log_exactly(ACCEPTED, 2)


class Test2(ServerCase):
    """Messages are read and logged."""

    @rule(STAGE2, "recv() from the clients that have sent something; log what ends with "
                  "a newline")
    def test_messages(self):
        """whole messages of two clients are logged"""
        peers = [self.server.connect(), self.server.connect()]
        for number in range(4):
            peers[number % 2].send(b"whole message %d\n" % number)
            self.server.expect_log(b"whole message %d" % number)

    @rule(STAGE2, "what one recv() brings is not a message: it may be a part, or "
                  "several. Keep each client's bytes until their newline comes")
    def test_parts(self):
        """a message that comes in parts is logged once it is whole, not before"""
        peers = [self.server.connect(), self.server.connect()]
        for turn in range(4):
            one, two = peers[turn % 2], peers[1 - turn % 2]
            head, tail = b"turn %d, the first part" % turn, b" and the rest"
            one.send(head)
            for number in (1, 2):   # the second one is surely read after the part
                two.send(b"turn %d, meanwhile %d\n" % (turn, number))
                self.server.expect_log(b"turn %d, meanwhile %d" % (turn, number))
            if self.server.log.count(head):
                self.server.fail("no log line before the message's newline has come",
                                 f"{shown(head)} is in the log")
            one.send(tail + b"\n")
            self.server.expect_log(head + tail)

    @rule(STAGE2, "after one message, look for the next newline in the bytes you have "
                  "already")
    def test_together(self):
        """two messages and a half in one segment are logged one by one"""
        peer = self.server.connect()
        peer.send(b"message one\nmessage two\nmessage ")
        self.server.expect_log(b"message two")
        peer.send(b"three\n")
        self.server.expect_log(b"message three")
        for line in self.server.log.lines:
            if line.count(b"message one") and line.count(b"message two"):
                self.server.fail("a log line for each message", shown(line))


class Test3(ServerCase):
    """Ends of connections are noticed and logged."""

    @rule(STAGE3, "recv() returns 0 when the client has closed: log it, close the "
                  "descriptor")
    def test_ends(self):
        """each client that leaves is logged once"""
        peers = [self.server.connect() for _ in range(3)]
        self.server.expect_log(ACCEPTED, 3)
        peers[0].leave()
        self.server.expect_log_exactly(TERMINATED, 1)
        peers[1].leave()
        peers[2].leave()
        self.server.expect_log_exactly(TERMINATED, 3)

    @rule(STAGE3, "the end may come with half a message still in your buffer")
    def test_unfinished(self):
        """a client leaves in the middle of a message; another one is still read"""
        one, two = self.server.connect(), self.server.connect()
        one.send(b"unfinished")
        two.send(b"something else\n")
        self.server.expect_log(b"something else")
        one.leave()
        self.server.expect_log_exactly(TERMINATED, 1)
        two.send(b"still there\n")
        self.server.expect_log(b"still there")


class Test4(ServerCase):
    """Clients are greeted."""

    @rule(STAGE4, "send() the greeting as soon as accept() has returned the client")
    def test_greeting(self):
        """two clients each get a greeting that begins with Welcome"""
        for _ in range(2):
            expected = "a greeting that begins with b'Welcome'"
            peer = self.server.connect()
            greeting = peer.read(7, expected)
            if greeting != b"Welcome":
                self.server.fail(expected, shown(greeting))


class Test5(ServerCase):
    """Messages come back."""

    @rule(STAGE5, "collect a client's bytes until the newline, then send the whole line "
                  "back")
    def test_echo(self):
        """three messages, sent in two uneven parts each, come back in order"""
        peer, other = self.join(2)
        for head, tail in ((b"a", b" short head"), (b"a long head and ", b"."),
                           (b"the newline comes alone", b"")):
            peer.send(head)
            other.sync()
            peer.send(tail + b"\n")
            peer.expect(peer, head + tail)
        peer.expect_no_more()


class Test6(ServerCase):
    """Messages are delivered to everybody."""

    @rule(STAGE6, "keep a list of the clients, and send each message to all of them")
    def test_broadcast(self):
        """two clients both get all four messages of both, in order"""
        peers = self.join(2)
        for number in range(4):
            text = b"message %d" % number
            peers[number % 2].send(text + b"\n")
            for reader in peers:
                reader.expect(peers[number % 2], text)
        for peer in peers:
            peer.expect_no_more()


# ---- The assignment's other sentences --------------------------------------------------

class TestRules(ServerCase):
    """What a complete server has to do besides; unlike the stages, in no order."""

    @classmethod
    def setUpClass(cls) -> None:
        """Without a chat, all of these would fail, slowly."""
        first = "TestRules wants a complete server; its tests have not been run. First "
        if ServerCase.failed & {"Test5", "Test6"}:
            raise verdict(came="Test5 or Test6 has failed", look=first + "pass these")
        probe = cls()
        with Server(says=STAGE6, look=first + "pass Test1 to Test6") as server:
            probe.server = server
            one, two = probe.join(2)
            one.send(b"anybody there?\n")
            for reader in (one, two):
                reader.expect(one, b"anybody there?")

    # -- who gets what

    @rule(GREETING, "one line that ends with a newline, for the newcomer alone; no NUL "
                    "behind it (strlen(), not sizeof)")
    def test_greeting(self):
        """the greeting is one line, ended by a newline, for the newcomer alone"""
        one = self.server.connect()
        greeting = one.line("a greeting that ends with a newline")
        if not greeting.startswith(b"Welcome") or b"\0" in greeting:
            self.server.fail("a line of text that begins with b'Welcome'",
                             shown(greeting))
        for text in (b"first", b"second"):
            one.send(text + b"\n")
        first, second = one.line()[:-len(b"first")], one.line()[:-len(b"second")]
        if b"\0" in first or b"\0" in second or bare(first) != bare(second):
            self.server.fail("the same text, or none, before each message of a client, "
                             "and nothing between greeting and first message",
                             f"{shown(first)} before one, then {shown(second)}")
        self.server.connect().line()
        one.expect_no_more()

    @rule(RELAY, "send to each client in the list, the sender is one of them; and once "
                 "only")
    def test_everybody(self):
        """each of five clients gets each message once, the sender included"""
        peers = self.join(5)
        for sender in peers:
            sender.send(b"from client %d\n" % sender.id)
            for reader in peers:
                reader.expect(sender, b"from client %d" % sender.id)
        for peer in peers:
            peer.expect_no_more()

    @rule(HISTORY, "a newcomer gets the greeting, and what comes from then on")
    def test_no_history(self):
        """a newcomer gets nothing from before its time"""
        one, = self.join(1)
        self.exchange(one, numbered(10, 50), [one])
        two = self.server.connect()
        two.sync()
        if len(two.inbox) > 1:
            self.server.fail("a greeting of one line, and nothing from before",
                             shown(two.inbox[1]))

    @rule(RELAY, "a table of clients with a fixed size, indexed by descriptor, has an "
                 "end", nofile=2048)
    def test_hundreds(self):
        """1,100 clients at once: a message gets to all who were let in"""
        with many_descriptors(1300):
            one, = self.join(1)
            crowd: List[Peer] = []
            while len(crowd) < 1100:
                peer = self.server.connect()
                if not (peer.receive(DEADLINE) and peer.unread().startswith(b"Welcome")):
                    break       # no place for more, which is another matter
                crowd.append(peer)
            one.send(b"hello to all\n")
            for peer in crowd:
                peer.collect(b"hello to all")

    # -- messages and their limits

    @rule(ATOMIC, "each client needs a buffer of its own for the message it has begun")
    def test_parts_do_not_mix(self):
        """parts of two clients' messages arrive in turn and come out as two messages"""
        one, two, watcher = self.join(3)
        for sender, part in ((one, b"A"), (two, b"C"), (one, b"B\n"), (two, b"D\n")):
            sender.send(part)
            watcher.sync()
        for reader in (one, two, watcher):
            reader.expect(one, b"AB")
            reader.expect(two, b"CD")

    @rule(ATOMIC, "queue a message for each client as a whole, behind what already "
                  "waits for it")
    def test_atomic(self):
        """four clients send parts at once; all get the same lines in the same order"""
        peers = self.join(4)
        sent = {peer: [b"client %d line %d %s" % (peer.id, number, b"=" * number * 7)
                       for number in range(25)] for peer in peers}
        for number in range(25):
            for third in range(3):
                for peer in peers:
                    text = sent[peer][number] + b"\n"
                    cut = [0, len(text) // 3, len(text) * 2 // 3, len(text)]
                    peer.send(text[cut[third]:cut[third + 1]])
        views = [self.view(reader, sent) for reader in peers]
        for texts in sent.values():
            if [text for text in views[0] if text in texts] != texts:
                self.server.fail("each client's lines in their order", "another order")
        if any(view != views[0] for view in views):
            self.server.fail("the same order of messages for all", "different ones")

    def view(self, reader: Peer, sent: Dict[Peer, List[bytes]]) -> List[bytes]:
        """What a client gets of that, without the prefixes."""
        lines = [reader.line(f"line {number} of 100") for number in range(100)]
        view = [re.sub(rb"^.*?(?=client \d+ line)", b"", line) for line in lines]
        for line in view:
            if not any(line in texts for texts in sent.values()):
                self.server.fail("whole lines, as they were sent", shown(line, 99))
        return view

    @rule(LIMIT, "cut off a message as soon as you hold more than 1024 bytes without a "
                 "newline; the newline is not counted")
    def test_limit(self):
        """lines of 1023 to 3000 bytes come out in pieces of 1024"""
        one, two = self.join(2)
        for size in (1023, 1024, 1025, 2047, 2048, 2049, 3000):
            one.send(ruler(size) + b"\n")
            self.expect_pieces([one, two], one, ruler(size))

    @rule(LIMIT, "with 1024 bytes and no newline yet, wait for the next byte: a newline "
                 "there ends this message and is no message of its own")
    def test_limit_in_parts(self):
        """so do they when the newline comes later, and the bytes in two halves"""
        one, two = self.join(2)
        for size in (1023, 1024, 1025, 2048, 2049, 3000):
            for part in (ruler(size)[:1000], ruler(size)[1000:], b"\n"):
                one.send(part)
                two.sync()
            self.expect_pieces([one, two], one, ruler(size))

    def expect_pieces(self, readers: List[Peer], sender: Peer, text: bytes) -> None:
        """The text in pieces; those behind the first one may lack the prefix."""
        pieces = [text[i:i + MESSAGE_MAX] for i in range(0, len(text), MESSAGE_MAX)]
        expected = f"a line of {len(text)} bytes in pieces of {lengths(pieces)}"
        sender.sync()
        for reader in readers:
            reader.sync()
            came = f"pieces of {lengths(reader.inbox)}, prefix included"
            for number, piece in enumerate(pieces, 1):
                line = reader.inbox.popleft() if reader.inbox else b""
                prefix = line[:len(line) - len(piece)]
                right = reader.is_prefix(prefix, sender) or number > 1 and not prefix
                if not line.endswith(piece) or not right:
                    self.server.fail(expected,
                                     f"{came}; number {number} is {shown(line)}")
            if reader.inbox:
                self.server.fail(f"{expected}, and nothing behind",
                                 f"one more: {shown(reader.inbox[0])}")

    @rule(LINES, "bytes from the network are no C string: memchr() and lengths, not "
                 "strchr(), strlen() or %s")
    def test_any_bytes(self):
        """NUL, control bytes, invalid UTF-8: all but newline is relayed as it is"""
        one, two = self.join(2)
        every = bytes(set(range(256)) - {10})
        for text in (b"before\0after", b"\0\0", every, every[::-1], b"  blanks  ",
                     "привет €".encode(), b"\xff\xfe cut off: \xe2\x82", b"%s%n%x 100%d"):
            one.send(text + b"\n")
            for reader in (one, two):
                reader.expect(one, text)

    @rule(LINES, "an empty message may be sent on or left out, but what comes next must "
                 "be right")
    def test_empty(self):
        """empty lines, of which the assignment does not speak, do no harm"""
        one, two = self.join(2)
        one.send(b"\n\n\nnext\n")
        for reader in (one, two):
            for _ in range(4):
                line = reader.line(f"the message {b'next'}")
                if not reader.is_prefix(line, one):     # an empty message
                    break
            if not line.endswith(b"next"):
                self.server.fail(f"the message {b'next'}", f"the line {shown(line)}")
        two.expect_no_more()

    @rule(LINES, "keep what has come of a message, however little, until its newline")
    def test_byte_by_byte(self):
        """a message that comes byte by byte is one message"""
        one, two = self.join(2)
        for byte in b"byte by byte\n":
            one.send(bytes([byte]))
            two.sync()
        for reader in (one, two):
            reader.expect(one, b"byte by byte")

    @rule(LINES, "the newline may be the first byte of a read, or the last one, or in "
                 "between")
    def test_every_split(self):
        """two messages, cut in two at every place"""
        one, two = self.join(2)
        data = "ab\nдве\nc\n".encode()
        for cut in range(1, len(data)):
            one.send(data[:cut])
            two.sync()
            one.send(data[cut:])
            for reader in (one, two):
                for text in data.splitlines():
                    reader.expect(one, text)

    @rule(LINES, "one wake-up may bring more than one read takes. Level-triggered, you "
                 "are woken again; edge-triggered, read until EAGAIN")
    def test_many_in_one_read(self):
        """500 lines that come at once all come out"""
        one, two = self.join(2)
        texts = numbered(500, 119)
        with self.paused():
            one.send(b"".join(text + b"\n" for text in texts))
        for reader in (one, two):
            for text in texts:
                reader.expect(one, text)

    # -- many at once, slow and fast

    @rule(STAGE1, "one wake-up may announce several clients. Level-triggered, you are "
                  "woken again; edge-triggered, accept until EAGAIN")
    def test_connects_at_once(self):
        """ten clients, and then fifty, connect at once; all are greeted"""
        one, = self.join(1)
        for count, pause in ((10, self.paused), (50, contextlib.nullcontext)):
            with pause():
                crowd = [self.server.start_connecting() for _ in range(count)]
                crowd = [peer for peer in crowd if peer.is_connected() or peer.reset()]
            for number, peer in enumerate(crowd, 1):
                peer.read(7, f"a greeting for each of {len(crowd)} clients that connect "
                             f"at once; this is number {number}")
            one.send(b"all here?\n")
            for peer in crowd:
                peer.collect(b"all here?")

    @rule(SLOW, "O_NONBLOCK on each client, and an output buffer for each: when send() "
                "takes less than you gave it, keep the rest, and send it once the "
                "socket is writable")
    def test_slow_reader(self):
        """somebody does not read: others get all at once, it gets whole lines later"""
        one, two = self.join(2)
        slow, = self.join(1, receive_buffer=4096)
        texts = numbered(10500, 1000)
        self.exchange(one, texts, [one, two])
        slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        while slow.receive(SETTLE):
            pass
        one.send(b"the end\n")
        two.expect(one, b"the end")
        slow.collect(b"the end", may_end=True)
        self.check_slow(slow, one, texts + [b"the end"])

    def check_slow(self, slow: Peer, sender: Peer, texts: List[bytes]) -> None:
        """Whole lines in order. Some may be missing, and so may the end of the last one
        if the client was disconnected: servers may do that when a buffer overflows."""
        rest = iter(texts)
        for line in slow.inbox:
            text = next((t for t in rest if line.endswith(t)
                         and slow.is_prefix(line[:len(line) - len(t)], sender)), None)
            if text is None:
                self.server.fail("whole lines, in order, for a client that reads late",
                                 f"a line that nobody sent: {shown(line, 99)}")

    @rule(SLOW, "a client with bytes waiting is watched for writability; do not retry "
                "in a loop")
    def test_slow_reader_idle(self):
        """while bytes wait for a slow reader, the server sleeps"""
        one, two = self.join(2)
        self.join(1, receive_buffer=4096)
        self.exchange(one, numbered(6000, 1000), [one, two])
        self.server.expect_idle("while bytes wait for a client that does not read")

    @rule(SLOW, "read a bounded piece of a client, then let the others have their turn: "
                "a loop until EAGAIN does not end while its client goes on sending")
    def test_flood(self):
        """a client that sends without end does not hold up the others"""
        flooder, quiet = self.join(2)
        texts = numbered(20000, 199)
        flood = b"".join(text + b"\n" for text in texts)
        with self.paused():
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

    # -- leaving at the wrong moment

    def expect_terminations(self, living: int) -> None:
        """Each client accepted has been logged as gone, once, but for the living ones."""
        newcomer, = self.join(1)        # accepted after all the others
        self.server.expect_log(b"<hello %d.%d>" % (newcomer.id, newcomer.hellos))
        accepted = self.server.log.count(ACCEPTED)
        self.server.expect_log_exactly(TERMINATED, accepted - living - 1)

    @rule(RELEASE, "recv() gives -1 and ECONNRESET: the end of this client, not of the "
                   "server")
    def test_leave_by_reset(self):
        """a client is gone with a reset, its greeting unread"""
        watcher, = self.join(1)
        for _ in range(5):
            peer = self.server.connect()
            select.select([peer.sock], [], [], DEADLINE)
            peer.sock.close()       # bytes unread: the kernel sends a reset
        for _ in range(5):
            self.server.connect().reset()
        self.expect_terminations(living=1)
        watcher.sync()

    @rule(RELEASE, "send() to a client that is gone: SIGPIPE ends the process unless it "
                   "is ignored; EPIPE and ECONNRESET end this client only")
    def test_leave_before_accept(self):
        """a client comes and goes, FIN or reset or both, before the server looks"""
        watcher, = self.join(1)
        for manner in 3 * ("FIN", "RST", "FIN+RST", "line+FIN", "line+FIN+RST"):
            with self.paused():
                self.depart(self.server.connect(), manner)
            watcher.sync()
        self.expect_terminations(living=1)
        watcher.sync()

    def depart(self, peer: Peer, manner: str) -> None:
        if "line" in manner:
            peer.send(b"a last word\n")
        if "FIN" in manner:
            peer.half_close()
        if "RST" in manner:
            peer.reset()

    @rule(RELEASE, "answering a message can fail, as its sender may have gone: SIGPIPE, "
                   "EPIPE and ECONNRESET are ordinary")
    def test_leave_with_line(self):
        """a line, FIN and reset in one wake-up"""
        watcher, = self.join(1)
        for manner in ("line+FIN+RST", "line+RST", "FIN+RST", "FIN", "RST"):
            peer, = self.join(1)
            with self.paused():
                self.depart(peer, manner)
            watcher.sync()
        self.expect_terminations(living=1)
        watcher.sync()

    @rule(RELEASE, "while you send to one client you may find another one gone. Do not "
                   "free it while events or a loop may still use it, and log its end "
                   "once")
    def test_leave_all_at_once(self):
        """a dozen clients speak and vanish in one wake-up"""
        watcher, = self.join(1)
        for manner in ("line+RST", "line+FIN+RST"):
            crowd = self.join(12)
            with self.paused():
                for peer in crowd:
                    peer.send(b"a last word\n" * 20)
                for peer in crowd:
                    self.depart(peer, manner)
            watcher.sync()
        self.expect_terminations(living=1)
        watcher.sync()
        for line in watcher.inbox:
            if not line.endswith(b"a last word"):
                self.server.fail(f"the messages {shown(b'a last word')}", shown(line))

    @rule(RELAY, "data first, then the end: read until recv() returns 0, whatever "
                 "EPOLLRDHUP says")
    def test_last_words(self):
        """what a client says just before it leaves is delivered"""
        watcher, = self.join(1)
        crowd = self.join(10)
        with self.paused():
            for peer in crowd:
                peer.send(b"good-bye of %d\n" % peer.id)
                peer.half_close()
        missing = [b"good-bye of %d" % peer.id for peer in crowd]
        while missing:
            line = watcher.line(f"the message {missing[0]}")
            missing = [text for text in missing if not line.endswith(text)]

    @rule(RELEASE, "a client may go while your output buffer still holds bytes for it: "
                   "drop them")
    def test_leave_with_backlog(self):
        """a slow reader is gone with a reset while megabytes wait for it"""
        one, two = self.join(2)
        slow, = self.join(1, receive_buffer=4096)
        self.exchange(one, numbered(6000, 1000), [one, two])
        slow.reset()
        two.sync()
        self.expect_terminations(living=2)
        for peer in (one, two):
            peer.sync()

    @rule(ATOMIC, "forget a client's unfinished message with the client: the next one "
                  "may get the same descriptor and the same buffer")
    def test_unfinished_is_forgotten(self):
        """half a message of somebody who left is not put before another one's"""
        watcher, = self.join(1)
        for manner in ("leave", "reset"):
            peer, = self.join(1)
            peer.send(b"half a secret")
            watcher.sync()
            gone = self.server.log.count(TERMINATED) + 1
            getattr(peer, manner)()
            self.server.expect_log(TERMINATED, gone)
            self.server.connect().send(b"clean\n")
            line = b""
            while not line.endswith(b"clean"):      # the half one may be a message, too
                line = watcher.line("the message b'clean'")
            if b"secret" in line:
                self.server.fail("the message b'clean'", f"the line {shown(line)}")

    # -- resources

    @rule(CPU, "wait without a timeout of 0; ask for writability only while bytes are "
               "waiting")
    def test_idle(self):
        """nothing happens, with clients connected: no CPU time is used"""
        self.join(3)
        self.server.connect()
        self.server.expect_idle("while three clients are silent")

    @rule(CPU, "an event that nobody handles is reported for ever: close() the "
               "descriptor on end of file and on errors; EPOLLHUP comes even unasked")
    def test_idle_after_leaving(self):
        """nor after clients have left, by FIN, by reset, in the middle of a line"""
        watcher, *crowd = self.join(7)
        for peer in crowd[:4]:
            peer.send(b"unfin")
        for peer in crowd[::2]:
            peer.leave()
        for peer in crowd[1::2]:
            peer.reset()
        watcher.sync()
        self.server.expect_idle("after clients have left")

    @rule(CPU, "end of file stays readable: close the connection, or stop watching for "
               "input")
    def test_idle_half_closed(self):
        """nor with a client that has closed its sending half"""
        watcher, peer = self.join(2)
        peer.half_close()
        watcher.sync()
        self.server.expect_idle("with a half-closed client")

    @rule(CPU, "a full buffer without a newline: recv() of 0 bytes returns 0 or takes "
               "nothing, and you are woken again at once. Cut the message off there")
    def test_idle_unfinished_line(self):
        """nor with 1024 bytes, or more, of a line that has no end yet"""
        watcher, *peers = self.join(4)
        for peer, size in zip(peers, (1024, 1025, 5000)):
            peer.send(b"x" * size)
        watcher.sync()
        self.server.expect_idle("with unfinished lines of 1024 bytes and more")
        for peer in peers:
            peer.send(b"\n")
            peer.sync()

    @rule(THREADS, "one loop on epoll or kqueue serves all clients")
    @unittest.skipUnless(LINUX, "threads are counted in /proc")
    def test_threads(self):
        """no threads or child processes, whoever connects"""
        self.join(1)
        before = self.server.threads()
        if any(map(has_own_threads, before)):
            self.skipTest("the language's runtime has threads of its own")
        self.join(8)
        after = self.server.threads()
        if sum(after.values()) > len(before):
            self.server.fail("one thread, and no child processes, with 9 clients",
                             f"{sum(after.values())} threads in {len(after)} processes")

    @rule(RELEASE, "close() the descriptor on every way on which a client goes")
    @unittest.skipUnless(LINUX, "descriptors are counted in /proc")
    def test_descriptors(self):
        """300 visits, ended by FIN or reset, leave no descriptor behind"""
        watcher, = self.join(1)
        before = self.server.descriptors()
        for number in range(300):
            peer = self.server.connect()
            if number % 2:
                peer.send(b"in the middle")
            if number % 3:
                peer.sock.close()
            else:
                peer.reset()
            watcher.sync()
        end = time.monotonic() + DEADLINE
        while self.server.descriptors() > before and time.monotonic() < end:
            time.sleep(0.02)
        if self.server.descriptors() > before:
            self.server.fail(f"{before} open descriptors, as before 300 visits",
                             f"{self.server.descriptors()}")

    @rule(LIMIT, "a message never gets longer than 1024 bytes, so a client's buffer "
                 "need not either: cut and send, instead of collecting until the "
                 "newline")
    @unittest.skipUnless(LINUX, "memory is looked up in /proc")
    def test_endless_line(self):
        """8 MB without a newline do not pile up in memory"""
        one, two = self.join(2)
        if self.server.is_sanitized():
            self.skipTest("built with a sanitizer, whose memory grows anyway")
        before = self.server.memory("VmRSS")
        block, patience = ruler(1000) * 64, SETTLE
        for sent in range(len(block), 1 + (8 << 20), len(block)):
            one.send(block)
            for reader in (one, two):   # never far behind, so that no output piles up
                while len(reader.inbox) * MESSAGE_MAX < sent - (1 << 17) and patience:
                    if not reader.receive(patience):
                        patience = 0    # it waits for the newline, do not wait for it
        one.send(b"\n")
        one.sync()
        growth = self.server.memory("VmHWM") - before
        if growth > 4 << 20:
            self.server.fail("less than 4 MB of memory for a line of 8 MB",
                             f"{growth >> 20} MB")

    @rule(REUSE, "setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, ...) after socket() "
                 "and before bind()")
    def test_restart(self):
        """killed with clients connected, the server can be started again on its port"""
        self.join(3)
        old = self.server
        os.killpg(old.process.pid, signal.SIGKILL)
        old.process.wait()
        for peer in old.peers:
            peer.expect_closed()
        self.server = Server(port=old.port, says=old.says, look=old.look)
        self.addCleanup(old.stop)
        try:
            self.server.connect()
        except Verdict:
            self.server.fail(f"a server that starts again on port {old.port} at once",
                             "nobody listens there")
        self.expect_service()

    @rule(LOG, "a line for each event, on stdout, flushed at once: setvbuf(stdout, "
               "NULL, _IOLBF, 0), std::endl, flush=True")
    def test_log(self):
        """connections, messages and ends are in the log, each in a line of its own"""
        one, two = self.join(2)
        texts = [b"the first message", b"100%s %d %n percent", b"the third message"]
        self.exchange(one, texts, [one, two])
        for text in texts:
            self.server.expect_log(text)
        two.leave()
        self.server.expect_log_exactly(TERMINATED, 1)
        self.server.expect_log_exactly(ACCEPTED, 2)
        for line in self.server.log.lines:
            if sum(text in line for text in [ACCEPTED, TERMINATED, *texts]) > 1:
                self.server.fail("a log line for each event", shown(line, 99))

    @rule(REAL, "epoll_wait() and kevent() return -1 with EINTR when a signal comes, "
                "SIGCONT for one: that is no error, wait again")
    def test_signals(self):
        """stopped and continued (^Z, fg), or its window resized, the server goes on"""
        one, = self.join(1)
        for number in (signal.SIGWINCH, signal.SIGCHLD, signal.SIGCONT):
            os.kill(self.server.process.pid, number)
            one.sync()
        self.server.pause_while_waiting()
        one.sync()
        self.expect_service()

    @rule(REAL, "accept() fails with EMFILE while the client stays in the queue and "
                "wakes you again at once: look away from the listening socket for a "
                "while, do not exit", nofile=32)
    def test_descriptor_limit(self):
        """without a free descriptor it serves on, does not spin, and recovers"""
        one, = self.join(1)
        crowd = [self.server.start_connecting() for _ in range(60)]
        one.sync()
        self.server.expect_idle("while no descriptor is free for those who wait")
        one.sync()
        for peer in crowd:
            peer.reset()
        self.expect_service()
        one.sync()


def lengths(lines: Iterable[bytes]) -> str:
    return ", ".join(str(len(line)) for line in lines) or "0"


@contextlib.contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Lets this program open that many, or skips the test."""
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        raise unittest.SkipTest(f"this system allows {hard} descriptors only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def has_own_threads(pid: int) -> bool:
    """Whether the process runs in a language whose runtime starts threads anyway."""
    program = os.readlink(f"/proc/{pid}/exe")
    if os.path.basename(program) in ("node", "java", "dotnet", "bun", "deno", "beam.smp"):
        return True
    return b"\xff Go buildinf:" in pathlib.Path(program).read_bytes()


# ---- Running them ----------------------------------------------------------------------

class Result(unittest.TextTestResult):
    """Verdicts without tracebacks, each test by the name that runs it, a line a class."""
    traceback = False

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.tally: Dict[str, List[int]] = collections.defaultdict(lambda: [0, 0])

    def getDescription(self, test) -> str:
        name = test.id().replace("__main__.", "").replace("setUpClass ", "").strip("()")
        says = test.shortDescription()
        return f"{name} ({says})" if says else name

    def startTest(self, test) -> None:
        super().startTest(test)
        self.tally[type(test).__name__][1] += 1

    def addSuccess(self, test) -> None:
        super().addSuccess(test)
        self.tally[type(test).__name__][0] += 1

    def addFailure(self, test, err) -> None:
        super().addFailure(test, err)
        if isinstance(err[1], Verdict) and not Result.traceback:
            self.failures[-1] = (test, f"{err[1]}\n")
        if not Server.ever_reached:
            self.stream.writeln("No server can be reached. The other tests are not run.")
            self.stop()

    def addSkip(self, test, reason) -> None:
        super().addSkip(test, reason)
        if type(test).__name__ in self.tally:
            self.tally[type(test).__name__][1] -= 1

    def addError(self, test, err) -> None:
        """A verdict on a whole class, from its setUpClass, is a failure too."""
        (self.addFailure if isinstance(err[1], Verdict) else super().addError)(test, err)

    def printErrors(self) -> None:
        super().printErrors()
        self.stream.writeln()
        for test, reason in self.skipped:
            self.stream.writeln(f"skipped {self.getDescription(test)}: {reason}")
        for name, (passed, started) in self.tally.items():
            self.stream.writeln(f"{name:10} {passed} of {started} passed")


class Runner(unittest.TextTestRunner):
    resultclass = Result


def load_tests(loader, _tests, _pattern) -> unittest.TestSuite:
    """All classes, in this order."""
    classes = (Test1, Test2, Test3, Test4, Test5, Test6, TestRules)
    return unittest.TestSuite(map(loader.loadTestsFromTestCase, classes))


def main() -> None:
    """Runs the tests of the program that was started: this one, or one that imports it."""
    global COMMAND
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--server", default=COMMAND)
    parser.add_argument("--traceback", action="store_true")
    options, rest = parser.parse_known_args()
    if {"-h", "--help"} & set(rest):
        print(sys.modules["__main__"].__doc__)
    COMMAND = options.server
    Result.traceback = options.traceback or rest.count("-v") > 1
    for number in (signal.SIGTERM, signal.SIGHUP):      # as for ^C: end the server, too
        signal.signal(number, signal.default_int_handler)
    try:
        unittest.main(argv=sys.argv[:1] + rest, testRunner=Runner)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        Server.stop_all()


if __name__ == "__main__":
    main()
