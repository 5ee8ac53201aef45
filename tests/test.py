#!/usr/bin/env python3
"""Tests for a chat server, and a grader for anybody's, in any language.

    python3 test.py                               everything
    python3 test.py Test3                         one stage of the assignment
    python3 test.py TestRules.test_limit          one check
    python3 test.py --server './chatsrv {port}'   another server, on a free port
    python3 test.py --server ./chatsrv            one that listens on PORT, see below

Test1 to Test6 are the stages: a server that has reached stage N passes Test1 to TestN.
TestRules holds the assignment's other sentences. Each of its checks names the stage from
which it binds; what cannot be seen yet is not looked at.

A failing check says what was expected, what came, what the assignment says, and where to
look. unittest's options (-v, -f, -k) work; --traceback (or -v -v) shows Python's view.

A server may put a prefix before each message; from one message of a client to the next,
only decimal digits may change in it. In the log, anything may stand before and behind the
texts. The server has ten seconds until it listens, and serves from then on.

For a course:
    --junit FILE         the results as JUnit XML
    --gradescope FILE    the results as Gradescope's results.json
    --points Test1=1,TestRules=10,TestRules.test_limit=2
                         of a class: shared by its checks; without --points each has 1
    --limit SECONDS      for the whole run; what is left then counts as not passed
Both files are there from the start, with nothing passed, and grow with each check.

Exit status: 0 all passed, 1 some failed, 2 wrong usage, 3 nothing could be tested (port
taken, nothing to start).

Environment: CHATSRV_TEST_SERVER, as --server; CHATSRV_TEST_DEADLINE, how many seconds to
wait for anything.
"""
import argparse
import atexit
import collections
import contextlib
import ctypes
import errno
import itertools
import json
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
import xml.sax.saxutils
from typing import (Any, Callable, Deque, Dict, Iterable, Iterator, List, NamedTuple,
                    NoReturn, Optional, Sequence, Set, Tuple)

# ---- Edit here -------------------------------------------------------------------------
#
# COMMAND starts the server. {port} in it becomes a free port. A server that takes no port
# is started as it is, and has to listen on PORT:    COMMAND = "./chatsrv"

BUILT = pathlib.Path(__file__).resolve().parent.parent / "build" / "chatsrv"
COMMAND = shlex.quote(str(BUILT)) + " {options} {port}" if BUILT.exists() else "./chatsrv"
HOST = "127.0.0.1"
PORT = 3100

# ----------------------------------------------------------------------------------------

COMMAND = os.environ.get("CHATSRV_TEST_SERVER") or COMMAND
DEADLINE = float(os.environ.get("CHATSRV_TEST_DEADLINE") or 5)  # s; waits end earlier
START = max(10.0, 2 * DEADLINE)         # s, for the server to listen
CHECK_LIMIT = 12 * DEADLINE             # s, for one check
PATIENCE = 6 * DEADLINE     # s of waiting in vain, after which the waits become shorter
IN_VAIN = 12 * DEADLINE     # s for all checks that fail; then the others have to be quick
SETTLE = 0.2        # s, for what must not happen where no event would come after it
LATE = 0.6          # s of its own for ten answers: a server that takes more is late
IDLE_SHARE = 0.2    # of a processor's time: a server that uses more is not idle
BABBLE = 30000      # lines a second: who reads them may be what slows the server down
MESSAGE_MAX = 1024  # bytes, newline excluded
LOG_MAX = 64 << 20  # bytes of a server's output that are kept
HELD_MAX = 64 << 20 # bytes that a client keeps of what it was sent and did not ask for
LINUX = os.path.isdir("/proc/self/fd")

ACCEPTED = b"accepted connection"
TERMINATED = b"connection terminated"


# ---- Verdicts --------------------------------------------------------------------------

class Verdict(AssertionError):
    """What a failing check says; shown without a traceback.

    `cause` is what several checks may have in common, in a few words: it is said once.
    """
    def __init__(self, text: str = "", cause: str = "", look: str = "") -> None:
        super().__init__(text)
        self.cause, self.look = cause, look
        self.clients = 0        # that had connected when the server died


class NothingToTest(Verdict):
    """The server cannot be started for a reason that is not in its source."""


def verdict(kind: type = Verdict, cause: str = "", **parts: str) -> Verdict:
    """One paragraph for each part that has a text, its name in front."""
    names = {"expected": "expected:", "came": "came:", "stderr": "stderr:",
             "note": "note:",
             "says": "the assignment:", "look": "where to look:"}
    if "<hello " in parts.get("expected", "") + parts.get("came", ""):
        parts["note"] = ("lines such as <hello 3.1> are the grader's: it sends one to "
                         "see what the server makes of it (client 3, first time)")
    paragraphs = []
    for key, name in names.items():
        for line in parts.get(key, "").splitlines():
            paragraphs.append(textwrap.fill(
                line, 90, initial_indent=f"  {name:16}", subsequent_indent=" " * 18,
                break_on_hyphens=False))
            name = ""
    return kind("\n".join(paragraphs), cause, parts.get("look", ""))


def shown(data: bytes, most: int = 60) -> str:
    """Bytes as text, the middle of long ones left out."""
    if len(data) <= most:
        return repr(bytes(data))
    head, tail = bytes(data[:most * 2 // 3]), bytes(data[-most // 3:])
    return f"{head!r} ... {tail!r} ({len(data)} bytes)"


def difference(expected: bytes, came: bytes) -> str:
    """Where two texts begin to differ, in words."""
    pairs = zip(expected, came)
    place = next((n for n, (a, b) in enumerate(pairs) if a != b),
                 min(len(expected), len(came)))
    if place == len(expected):
        return f"{plural(len(came) - place, 'byte')} too many: {shown(came[place:], 24)}"
    if place == len(came):
        return (f"it ends after {plural(place, 'byte')}; "
                f"{shown(expected[place:], 24)} is missing")
    one = expected[place:place + 1]
    if expected[place + 1:place + 9] == came[place:place + 8]:
        return f"byte {place} is missing: {one!r}"
    return f"byte {place} should be {one!r} and is {came[place:place + 1]!r}"


class Patience:
    """How long to wait. After much waiting in vain the waits become shorter, so that
    a hopeless server is graded soon; a right one keeps nobody waiting."""
    wasted = 0.0
    in_vain = 0.0       # seconds that checks took which did not pass

    @classmethod
    def seconds(cls) -> float:
        return DEADLINE if cls.wasted < PATIENCE else max(DEADLINE / 5, 1)


# ---- The server under test -------------------------------------------------------------

class Output:
    """What the server writes to a pipe. A thread drains it, so the server never waits."""

    def __init__(self, pipe) -> None:
        self.lines: List[bytes] = []
        self.rest = b""         # what came behind the last newline
        self.ended = False
        self.count_lines = 0    # also of those that are not kept
        self.flooded = False    # there was more than is kept
        self.dropped = False    # nothing is kept from now on
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self.reader.start()

    def _read(self, pipe) -> None:
        size = 0
        with pipe:
            while True:
                data = os.read(pipe.fileno(), 1 << 16)
                self.count_lines += data.count(b"\n")
                if data and self.dropped:
                    continue
                size += len(data)
                if data and (size > LOG_MAX or len(self.lines) > LOG_MAX >> 6):
                    self.flooded = True
                    time.sleep(0.01)
                    continue
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
    parent: int = 0
    group: int = 0


def processes(group: int) -> List[Process]:
    """The processes of a process group."""
    if not LINUX:
        return _processes_ps(group)
    every = map(process, map(int, filter(str.isdigit, os.listdir("/proc"))))
    return [found for found in every if found and found.group == group]


def process(pid: int) -> Optional[Process]:
    """A process, or None if it has ended (Linux)."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    field = stat[stat.rindex(b")") + 2:].split()    # proc(5), from the third on
    cpu = (int(field[11]) + int(field[12])) / os.sysconf("SC_CLK_TCK")
    return Process(pid, field[0].decode(), cpu, int(field[1]), int(field[2]))


def thread_states(pid: int) -> str:
    """A letter for each thread, as ps shows it (Linux)."""
    states = ""
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                stat = pathlib.Path(f"/proc/{pid}/task/{task}/stat").read_bytes()
                states += chr(stat[stat.rindex(b")") + 2])
    return states


def sleep_mark(pid: int) -> str:
    """Changes whenever the process has run; empty if it does not sleep (Linux).

    Two equal marks say that it has slept in between, however busy the machine is.
    """
    marks = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            status = pathlib.Path(f"/proc/{pid}/task/{task}/status").read_text()
            found = re.findall(r"State:\t(\w)|^(?:non)?voluntary_ctxt_switches:\t(\d+)",
                               status, re.M)
            if ("S", "") not in found or len(found) != 3:
                return ""
            marks += found
    return str(marks)


def schedule(pid: int) -> Dict[str, Tuple[float, float]]:
    """For each thread, the seconds for which it has run, and for which it could have run,
    but had no processor (Linux)."""
    found = {}
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, ValueError):
                times = pathlib.Path(f"/proc/{pid}/task/{task}/schedstat").read_text()
                ran, waited, _ = map(int, times.split())
                found[task] = ran / 1e9, waited / 1e9
    return found


def descendants(pid: int) -> List[int]:
    """The children of a process, their children, and so on (Linux)."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                children = pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text()
                for child in map(int, children.split()):
                    found += [child, *descendants(child)]
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


def identity(pid: int) -> Tuple[str, bytes]:
    """A process's program and arguments: fork() keeps both, execve() does not."""
    try:
        return (os.readlink(f"/proc/{pid}/exe"),
                pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return "", b""


# How languages and sanitizers begin the line that names what went wrong.
COMPLAINT = re.compile(r"(ERROR|WARNING): \w+Sanitizer: [\w-]+|runtime error: .*"
                       r"|what\(\): .*|^panic: .*|^fatal error: .*"
                       r"|^[\w.]*(Error|Exception)\b.*")


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
    restless = 0                        # in a row: it did not fall asleep in time
    log_is_mute = False                 # waited for a log line, and nothing at all came
    slowest_start = 0.0
    tokens = itertools.count(1)

    def __init__(self, command: Optional[str] = None, options: str = "", port: int = 0,
                 nofile: int = 0, read_log: bool = True, says: str = "",
                 look: str = "") -> None:
        self.template = COMMAND if command is None else command
        self.options, self.port = options, port
        self.nofile, self.read_log = nofile, read_log
        self.says, self.look = says, look
        self.peers: List[Peer] = []
        self.judged = False             # a verdict has been given
        self.cut_short = False          # there was no time to give one
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
        if fixed:
            self._expect_free_port()
        self.port = PORT if fixed else self.port or free_port()
        command = command_line(self.template, self.options, self.port)
        if not command:
            self._nothing("an empty command",
                          "COMMAND at the top of test.py, or --server, says what is "
                          "started")
        limited = command
        if self.nofile:
            limited = ["sh", "-c", f'ulimit -n {self.nofile}; exec "$@"', "sh"] + command
        self.token = f"{os.getpid()}.{next(Server.tokens)}"
        self.started = time.monotonic()
        try:
            with Uninterrupted():
                self.process = subprocess.Popen(
                    limited, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, start_new_session=True,
                    env={**os.environ, "CHATSRV_TEST_TOKEN": self.token})
                Server.alive.append(self)
        except OSError as error:
            self._nothing(f"{command[0]}: {error.strerror}",
                          why_not_started(error, command))
        self.log = Output(self.process.stdout) if self.read_log else None
        self.stderr = Output(self.process.stderr)

    def _expect_free_port(self) -> None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, PORT)):
                return
        raise verdict(NothingToTest, f"port {PORT} is taken",
                      expected=f"port {PORT} of {HOST} free for the server",
                      came=f"another program listens there{who_listens(PORT)}",
                      look="end that program: perhaps your own server in another "
                           f"terminal (lsof -i :{PORT})")

    def _nothing(self, came: str, look: str) -> NoReturn:
        self.judged = True
        raise verdict(NothingToTest, "there is nothing to start",
                      expected="a program to start", came=came, look=look)

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
            try:
                Server.alive.remove(self)
                self._terminate()
            finally:
                self._kill()
            for output in filter(None, (self.log, self.stderr)):
                output.reader.join(1)

    def _terminate(self) -> None:
        """Lets it end by itself; some never do."""
        if not self.has_ended(DEADLINE if self.is_reporting() else 0):
            self._signal(signal.SIGTERM)    # gives a leak checker the chance to speak
            seconds = DEADLINE if Server.late_ends < 2 else 0.1
            Server.late_ends = 0 if self.has_ended(seconds) else Server.late_ends + 1

    def is_reporting(self) -> bool:
        """Whether a sanitizer is at work on its report, which may take a moment; then it
        ends the program."""
        path = re.search(r"log_path=([^:]+)", os.environ.get("ASAN_OPTIONS", ""))
        return bool(path) and os.path.exists(f"{path[1]}.{self.process.pid}")

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _kill(self) -> None:
        """Ends all processes of the server, daemons too; waits until they are gone."""
        with Uninterrupted():
            family = [p.pid for p in self.processes()]
            self._signal(signal.SIGKILL)
            self.process.wait()
            end = time.monotonic() + 2
            while time.monotonic() < end:
                left = [p for p in map(process, {*family, *self.daemons()})
                        if p and p.state not in "ZX"] if LINUX else []
                if not left:
                    break
                for one in left:
                    with contextlib.suppress(OSError):
                        os.kill(one.pid, signal.SIGKILL)
                time.sleep(0.002)
            Orphans.reap()

    def daemons(self) -> List[int]:
        """This server's processes whose parents have ended (Linux): they are ours."""
        found = []
        known = {server.process.pid for server in Server.alive} | {self.process.pid}
        for pid in set(our_children()) - known if Orphans.ours else ():
            with contextlib.suppress(OSError):
                if self._has_our_token(pid):
                    found.append(pid)
        return found

    def _has_our_token(self, pid: int) -> bool:
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return b"CHATSRV_TEST_TOKEN=" + self.token.encode() in environment

    @classmethod
    def stop_all(cls) -> None:
        while cls.alive:
            with Uninterrupted():
                cls.alive.pop()._kill()

    # -- verdicts

    def fail(self, expected: str, came: str, look: str = "", cause: str = "") -> NoReturn:
        """Raises the verdict. A server that has died is blamed for that first of all."""
        self.judged = True
        look, clients = look or self.look, 0
        if self.has_ended(within=0.3) and not self.end_is_due:
            came, look = f"the server {self.epitaph()}", self._why_it_died()
            said = self._complaint()
            cause = came + f" ({said})" * bool(said)
            clients = self.log.count(ACCEPTED) if self.log else 0
        elif self.log and self.log.flooded:
            came += (f"\nThe log is endless: more than {LOG_MAX >> 20} MB, or a million "
                     "lines")
            cause, look = "the log is endless", ("log an event once, and do not log in a "
                                                 "loop that never waits")
        found = verdict(expected=expected, came=came, stderr=self._last_words(),
                        says=self.says, look=look, cause=cause)
        found.clients = clients
        raise found

    def epitaph(self) -> str:
        code = self.process.returncode
        if code > 128 and code - 128 in set(signal.Signals):    # as a shell tells it
            code = 128 - code
        return (f"was killed by {signal.Signals(-code).name}" if code < 0 else
                f"ended, exit status {code}")

    def _last_words(self) -> str:
        self.stderr.reader.join(0.3 if self.process.returncode is not None else 0)
        return "\n".join(line.decode(errors="backslashreplace")[:200]
                         for line in self.stderr.tail(4))

    def _complaint(self) -> str:
        """The line of stderr that tells best why it died; without what may change."""
        self.stderr.reader.join(0.3)
        lines = [line.decode(errors="backslashreplace").strip()
                 for line in self.stderr.tail(20) if line.strip()]
        telling = [found for found in map(COMPLAINT.search, lines) if found]
        said = telling[-1][0] if telling else lines[-1] if lines else ""
        said = re.sub(r"0x[0-9a-f]+|(?<!Errno )(?<![-.\w])\d+", "...", said)
        return textwrap.shorten(said, 80, placeholder=" ...")

    def _why_it_died(self) -> str:
        words = b"\n".join(self.stderr.tail(20))
        end = self.epitaph().rsplit(" ", 1)[-1]
        if end == "SIGPIPE":
            return ("send() to a client that has gone raises SIGPIPE, which ends the "
                    "process: ignore it, and take EPIPE as the end of that client")
        if end == "SIGABRT" and b"terminat" in words:
            return ("an exception that nobody catches ends the process: catch it where a "
                    f"client is served, and end this client\n{self.look}")
        if end in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE"):
            return ("build it with -g -fsanitize=address,undefined: it then says on "
                    "stderr in which line it happened")
        if b"Interrupted" in words or b"EINTR" in words:
            return "a wait that a signal interrupts (EINTR) has not failed: wait again"
        return self.look

    def _cannot_start(self, came: str, look: str, cause: str) -> NoReturn:
        self.judged = True
        raise verdict(expected=f"a server that listens on {HOST}, port {self.port}",
                      came=came, look=look, cause=cause, stderr=self._last_words())

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
                      f"it is still running after {DEADLINE:g} s")
        if self.process.returncode != status:
            self.fail(f"the server to end with exit status {status}", self.epitaph())
        self.log.reader.join(1)

    def expect_clean_stderr(self) -> None:
        for line in self.stderr.lines:
            if re.search(rb"(ERROR|WARNING): \w+Sanitizer|runtime error: ", line):
                self.fail("no report from a sanitizer", line.decode(errors="replace"),
                          "the whole report is on the server's stderr")

    # -- clients

    def connect(self, host: str = "", receive_buffer: int = 0) -> "Peer":
        """Connects a client; the first one waits until the server listens."""
        end = time.monotonic() + (DEADLINE if self.reached else START)
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
        if not self.reached:
            self._first_connection()
        return self._new_peer(sock)

    def _first_connection(self) -> None:
        self.reached = Server.ever_reached = True
        took = time.monotonic() - self.started
        Server.slowest_start = max(Server.slowest_start, took)
        if self.has_ended() and self.daemons():
            self._cannot_start(
                f"it went into the background: process {self.process.pid} "
                f"{self.epitaph()}, process {self.daemons()[0]} goes on (the grader ends "
                "it)",
                "no daemon(), no fork(): stay in the foreground, and log to stdout",
                "the server goes into the background")

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
        if self.has_ended() and not self.daemons():
            in_use = any(b"in use" in line for line in self.stderr.tail(9))
            self.tries -= 1
            if in_use and self.tries > 0 and "{port}" in self.template:
                Server.alive.remove(self)
                self.port = 0
                return self._launch()
            self._cannot_start(
                f"the server {self.epitaph()}",
                "is SO_REUSEADDR set, and before bind()? Sockets of an earlier run may "
                "still use the port" if in_use else "start it by hand: "
                + " ".join(command_line(self.template, "", self.port)),
                f"at its start the server {self.epitaph()}")
        if too_late or not isinstance(error, ConnectionRefusedError):
            others = [port for port in self.ports() if port != self.port]
            self._cannot_start(
                f"it is running, but after {time.monotonic() - self.started:.0f} s "
                f"connect says: {error}"
                + (f"; it listens on port {others[0]}" if others else ""),
                ("does it call listen(), on the port that is its argument (htons), at "
                 "that address?" if "{port}" in self.template else
                 "does it call listen(), on that port (htons), at that address? See PORT "
                 "and HOST at the top of test.py"),
                "the server does not listen where it should")

    # -- the log

    def expect_log(self, text: bytes, count: int = 1) -> None:
        """Waits until `count` lines of the log hold the text."""
        seconds = SETTLE if Server.log_is_mute else Patience.seconds()
        if self.log.wait(text, count, seconds):
            Server.ever_logged = True
            return
        Patience.wasted += seconds
        silent = not (self.log.lines or self.log.rest or self.has_ended())
        Server.log_is_mute |= silent and not Server.ever_logged
        expected = f"{shown(text)} in {plural(count, 'line')} of the log on stdout"
        if text in self.log.rest:
            self.fail(expected, f"{shown(self.log.rest)}, and then no newline",
                      "end each line of the log with a newline, and flush it")
        if any(text in line for line in self.stderr.lines):
            self.fail(expected, "the line came on stderr", "log to stdout",
                      cause="the log is on stderr")
        came = f"the log line did not come within {seconds:g} s"
        if not self.log.lines:
            self.fail(expected, f"{came}, nor did any other; did you flush stdout?",
                      f"into a pipe, stdout is fully buffered: flush it\n{self.look}",
                      cause="nothing is logged")
        tail = "\n".join(shown(line) for line in self.log.tail(3))
        came += f" ({self.log.count(text)} of {count}); the log's end:\n{tail}"
        if self.log.count(TERMINATED) and any(p.was_sent_away() for p in self.peers):
            self.fail(expected, f"{came}\nThe server has closed the connection of a "
                                "client that has not left.",
                      "recv() that gives -1 and EAGAIN says that nothing has come yet: "
                      f"this is not the end\n{self.look}")
        self.fail(expected, came)

    def expect_log_exactly(self, text: bytes, count: int) -> None:
        """Nothing need follow a line that is one too many, so this one waits a moment."""
        self.expect_log(text, count)
        time.sleep(SETTLE)
        if self.log.count(text) != count:
            self.fail(f"{shown(text)} in {plural(count, 'line')} of the log",
                      f"{self.log.count(text)} lines")

    # -- the process

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What happens here, the server finds in one wake-up, or in a few.

        It shares this program's processor meanwhile. As a batch process it does not
        interrupt who is at work there just because something has come for it; it gets a
        turn only after some milliseconds (Linux). Elsewhere, this program is just quick.
        """
        undo = []
        if hasattr(os, "sched_setaffinity"):
            cpus = os.sched_getaffinity(0)
            for pid in [0, *(process.pid for process in self.processes())]:
                with contextlib.suppress(OSError):
                    if pid:
                        os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
                    undo.append((pid, os.sched_getaffinity(pid)))
                    os.sched_setaffinity(pid, {min(cpus)})
            time.sleep(0.001)       # it may have been at work elsewhere
        try:
            yield
        finally:
            for pid, cpus in undo:
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(pid, cpus)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the process meanwhile. It interrupts a wait: not for checks of anything
        else."""
        self._signal(signal.SIGSTOP)
        try:
            end = time.monotonic() + DEADLINE
            while any(p.state not in "TZ" for p in processes(self.process.pid)):
                if time.monotonic() > end:
                    self.fail("a process that SIGSTOP stops", "it keeps running")
                time.sleep(0.002)
            yield
        finally:
            self._signal(signal.SIGCONT)

    def processes(self) -> List[Process]:
        """All that it has started, daemons too; elsewhere than on Linux, its group."""
        if not LINUX:
            return processes(self.process.pid)
        pids = [self.process.pid, *descendants(self.process.pid)]
        for pid in self.daemons():
            pids += [pid, *descendants(pid)]
        return [found for found in map(process, pids) if found]

    def cpu(self) -> float:
        return sum(process.cpu for process in self.processes())

    def schedule(self) -> Dict[str, Tuple[float, float]]:
        found: Dict[str, Tuple[float, float]] = {}
        for process in self.processes() if LINUX else ():
            found.update(schedule(process.pid))
        return found or {"": (self.cpu(), 0.0)}

    def busy_share(self, seconds: float) -> float:
        """How much of the time, between running and sleeping, it spends on running. When
        it has to wait for a processor, it does neither: then this takes longer."""
        started, before = time.monotonic(), self.schedule()
        while True:
            time.sleep(seconds)
            took = time.monotonic() - started
            share, least = 0.0, took
            for thread, now in self.schedule().items():
                then = before.get(thread, (0.0, 0.0))
                ran, free = now[0] - then[0], took - (now[1] - then[1])
                share += ran / max(free, ran, 0.02)
                least = min(least, free)
            if least >= 0.9 * seconds or took > 5 * seconds:
                return share

    def expect_idle(self, when: str, seconds: float = 1, most: float = IDLE_SHARE,
                    look: str = "") -> None:
        """At first it may have something left to do, and on a busy machine for long."""
        for _ in range(3):
            started, before = time.monotonic(), self.count_lines()
            share = self.busy_share(seconds)
            lines = (self.count_lines() - before) / (time.monotonic() - started)
            if share <= most and lines < BABBLE:
                return
        self.fail(f"hardly any CPU time used {when}", f"{share:.0%} of a processor"
                  + f", for {lines:.0f} lines of output a second" * (lines >= BABBLE),
                  look)

    def count_lines(self) -> int:
        """Of all its output so far."""
        return sum(output.count_lines for output in (self.log, self.stderr) if output)

    def is_awake(self) -> bool:
        """Whether a thread of it runs, or would if there were a processor for it."""
        return any(p.state == "R" or LINUX and "R" in thread_states(p.pid)
                   for p in self.processes())

    def settle(self) -> None:
        """Waits until the server sleeps: what it was sent, it has looked at."""
        seconds = Patience.seconds() if Server.restless < 2 else SETTLE
        end, quiet = time.monotonic() + seconds, 0
        while quiet < 4 and time.monotonic() < end:
            quiet = 0 if self.is_awake() else quiet + 1
            time.sleep(0.003 if LINUX else SETTLE / 4)
        Server.restless = Server.restless + 1 if quiet < 4 else 0

    def descriptors(self) -> int:
        """Open descriptors (Linux)."""
        return sum(self.descriptors_each())

    def descriptors_each(self) -> Iterator[int]:
        for process in self.processes():
            with contextlib.suppress(OSError):
                yield len(os.listdir(f"/proc/{process.pid}/fd"))

    def has_used(self, count: int) -> bool:
        """Whether one of its processes has so many descriptors open (Linux)."""
        return max(self.descriptors_each(), default=0) >= count

    def await_descriptors(self, most: int) -> int:
        """Waits until no more than that are open; returns how many are."""
        seconds = Patience.seconds()
        end = time.monotonic() + seconds
        while self.descriptors() > most:
            if time.monotonic() > end:
                Patience.wasted += seconds
                break
            time.sleep(0.02)
        return self.descriptors()

    def listeners(self) -> Dict[int, List[int]]:
        """Its processes that hold a listening socket, and the ports of these (Linux)."""
        table = {}
        for name in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                for row in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]:
                    field = row.split()
                    if field[3] == "0A":        # LISTEN
                        table[f"socket:[{field[9]}]"] = int(field[1].split(":")[1], 16)
        found: Dict[int, List[int]] = {}
        for process in self.processes():
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{process.pid}/fd"):
                    with contextlib.suppress(OSError):
                        port = table.get(os.readlink(f"/proc/{process.pid}/fd/{fd}"))
                        if port:
                            found.setdefault(process.pid, []).append(port)
        return found

    def ports(self) -> List[int]:
        return sorted({port for ports in self.listeners().values() for port in ports})

    def threads(self) -> Dict[int, int]:
        """How many threads each process has (Linux)."""
        found = {}
        for process in self.processes():
            with contextlib.suppress(OSError):
                found[process.pid] = len(os.listdir(f"/proc/{process.pid}/task"))
        return found

    def memory(self, field: str) -> int:
        """A line of /proc/PID/status: VmRSS, VmHWM (its maximum) ... in bytes (Linux)."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(OSError):
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                line = re.search(rf"{field}:\s+(\d+)", status)
                total += int(line[1]) * 1024 if line else 0
        return total

    def is_sanitized(self) -> bool:
        """Whether it has the huge address space that sanitizers reserve (Linux)."""
        return self.memory("VmSize") > 1 << 40


class Uninterrupted:
    """While a server is started or killed, signals wait: none may get lost meanwhile."""
    depth = 0
    delayed: List[Callable[[], None]] = []

    def __enter__(self) -> None:
        Uninterrupted.depth += 1

    def __exit__(self, *_) -> None:
        Uninterrupted.depth -= 1
        if not Uninterrupted.depth and Uninterrupted.delayed:
            Uninterrupted.delayed.pop(0)()

    @classmethod
    def delays(cls, handler: Callable, *args) -> bool:
        """Called by a handler: whether it is to return, and will be called again."""
        if cls.depth:
            cls.delayed.append(lambda: handler(*args))
        return cls.depth > 0


class Orphans:
    """Processes whose parents have ended become this program's own (Linux): so it can
    name and end a server that survives as a daemon."""
    ours = False

    @classmethod
    def adopt(cls) -> None:
        with contextlib.suppress(OSError, AttributeError):
            adopt = 36          # PR_SET_CHILD_SUBREAPER
            cls.ours = LINUX and not ctypes.CDLL(None).prctl(adopt, 1, 0, 0, 0)

    @classmethod
    def reap(cls) -> None:
        """Lets go of those that have ended."""
        known = {server.process.pid for server in Server.alive}
        for pid in set(our_children()) - known if cls.ours else ():
            found = process(pid)
            with contextlib.suppress(OSError):
                if found and found.state == "Z":
                    os.waitpid(pid, os.WNOHANG)


def our_children() -> List[int]:
    return [pid for pid in descendants(os.getpid())
            if (process(pid) or Process(0, "", 0)).parent == os.getpid()]


def why_not_started(error: OSError, command: List[str]) -> str:
    program = command[0]
    if error.errno == errno.EACCES and os.path.isfile(program):
        return f"it may not be run: chmod +x {shlex.quote(program)}"
    if error.errno == errno.EACCES:
        return "a folder is no program: name the program in it"
    if error.errno == errno.ENOEXEC:
        return ("it is no program for this system: build it here (a binary from another "
                "kind of machine?), or, for a script, begin it with a line such as "
                "#!/bin/sh")
    if error.errno == errno.ENOENT and os.path.exists(program):
        return "what its first line (#!) names, or its loader, is not on this machine"
    return "is it built? COMMAND at the top of test.py, or --server, says what is started"


def who_listens(port: int) -> str:
    """The program that listens there, in words, where the system tells (Linux)."""
    with contextlib.suppress(OSError):
        inodes = set()
        for name in ("tcp", "tcp6"):
            for row in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]:
                field = row.split()
                if field[3] == "0A" and int(field[1].split(":")[1], 16) == port:
                    inodes.add(f"socket:[{field[9]}]")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                        words = identity(int(pid))[1].split(b"\0")
                        command = b" ".join(words).decode(errors="replace").strip()
                        return f": process {pid}, {command[:60]}"
    return ""


def command_line(template: str, options: str, port: int) -> List[str]:
    """The words of the command, with options and port filled in."""
    if "{options}" not in template and options:
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
        self.received = 0       # bytes
        self.held = 0           # bytes, of inbox and rest
        self.flooded = False    # there were more than it keeps; it reads no further
        self.ended = False      # the server has closed the connection
        self.has_left = False   # or this client has, or its sending half
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
        self.sock.settimeout(Patience.seconds())
        try:
            self.sock.sendall(data)
        except socket.timeout:
            Patience.wasted += Patience.seconds()
            self.server.fail(f"{len(data)} bytes to be read by the server",
                             f"it did not read them within {Patience.seconds():g} s")
        except OSError as error:
            self.server.fail("an open connection",
                             f"the server closed it ({error.strerror})")

    def half_close(self) -> None:
        """Sends nothing more (FIN), but still reads."""
        self.has_left = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def leave(self) -> None:
        """Says good-bye in order: FIN, then reads what still comes."""
        self.half_close()
        end = time.monotonic() + 0.5
        while self.receive(end - time.monotonic()):
            pass
        self.sock.close()

    def was_sent_away(self) -> bool:
        """Whether the server has closed the connection first."""
        if self.has_left or self.sock.fileno() < 0:
            return False
        while self.receive(0.01):
            pass
        return self.ended

    def reset(self) -> None:
        """Leaves with a reset (RST), as a program killed with bytes unread does."""
        self.has_left = True
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()

    # -- receiving

    def receive(self, seconds: float) -> bool:
        """Waits for bytes and sorts them in; False if none came or it is over."""
        if self.is_over() or seconds <= 0:
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
        self.received += len(data)
        self.held = len(data) + (self.held if self.inbox else len(self.rest))
        self.flooded = self.held > HELD_MAX
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

    def is_over(self) -> bool:
        """Whether nothing more will be received."""
        return self.ended or self.flooded

    def _await(self, expected: str, arrived: Callable[[], object]) -> None:
        """Receives until arrived() is true; whatever comes starts the deadline anew."""
        end = time.monotonic() + 4 * DEADLINE
        while not arrived():
            if self.receive(min(Patience.seconds(), end - time.monotonic())) or arrived():
                continue
            rest = f", but an unfinished line: {shown(self.rest)}" if self.rest else ""
            if self.ended:
                self.server.fail(expected, "the server closed the connection" + rest)
            if self.flooded:
                self.server.fail(
                    expected, f"{HELD_MAX >> 20} MB of something else, and still more",
                    "a client gets the greeting and what the clients say, and no other "
                    "bytes", cause="the server sends without end")
            Patience.wasted += Patience.seconds()
            self._blame_one_at_a_time(expected)
            self.server.fail(expected, f"nothing within {Patience.seconds():g} s{rest}")

    def _blame_one_at_a_time(self, expected: str) -> None:
        """If nothing at all has come: does it come when the others have left?"""
        others = [peer for peer in self.server.peers
                  if peer is not self and peer.sock.fileno() >= 0]
        if self.received or not others or self.server.has_ended():
            return
        served = sum(bool(peer.received) for peer in others)
        for peer in others:
            peer.half_close()
        if not self.receive(1):
            return
        if served > 1:
            self.server.fail(
                expected, "nothing, until other clients had left: it serves "
                          f"{served} at a time",
                "there need not be a place for everybody; then close the connection of "
                "who finds none")
        else:
            self.server.fail(
                expected, "nothing, until the other clients had left: the server serves "
                          "one client at a time",
                "one wait for all: watch the listening socket and all clients in one "
                "epoll or kqueue, and never read() from a client that has nothing to say",
                cause="the server serves one client at a time")

    def await_any(self, arrived: Callable[[], object]) -> bool:
        """Receives until arrived() is true; False when that does not come."""
        end = time.monotonic() + Patience.seconds()
        while not arrived() and time.monotonic() < end and not self.is_over():
            self.receive(end - time.monotonic())
        return bool(arrived())

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

    def collect(self, last: bytes, where: str = "", may_end: bool = False) -> None:
        """Receives until a line ends with `last`, or until the connection does."""
        self._await(f"a line that ends with {shown(last)} {where}".rstrip(),
                    lambda: self.inbox and self.inbox[-1].endswith(last)
                    or may_end and self.ended)

    def sync(self) -> None:
        """Sends a message and waits for it: what was sent before has been read, then."""
        self.send_hello()
        self.await_hello()

    def send_hello(self) -> None:
        self.hellos += 1
        self.send(b"<hello %d.%d>\n" % (self.id, self.hellos))

    def is_answered(self) -> bool:
        return self.heard.get(self.id) == self.hellos

    def await_hello(self) -> None:
        self._await(f"the message b'<hello {self.id}.{self.hellos}>' back at its sender",
                    self.is_answered)

    def expect(self, sender: "Peer", text: bytes) -> None:
        """The next line is the sender's prefix and the text."""
        self.expect_one_of(sender, [text])

    def expect_one_of(self, sender: "Peer", texts: Sequence[bytes]) -> bytes:
        line = self.line(f"the message {shown(texts[0])}")
        for text in texts:
            prefix = line[:len(line) - len(text)]
            if line.endswith(text) and self.is_prefix(prefix, sender):
                return text
        known = self.prefix_of(sender)
        prefix = re.match(re.sub(rb"\d+", rb"\\d+", re.escape(known)), line)
        if prefix:
            self.server.fail(f"the message {shown(texts[0])}", f"the line {shown(line)}; "
                             + difference(texts[0], line[prefix.end():]))
        self.server.fail(f"the message {shown(texts[0])}, and before it {known!r} as in "
                         "this sender's other messages", f"the line {shown(line)}")

    def prefix_of(self, sender: "Peer") -> bytes:
        return self.prefixes.get(sender.id, sender.prefixes.get(sender.id, b""))

    def is_prefix(self, prefix: bytes, sender: "Peer") -> bool:
        """Whether it stands before the sender's messages; numbers in it may change."""
        known = self.prefix_of(sender)
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
WAIT = "The server uses epoll or kqueue to serve all of its clients at once."
THREADS = "The server creates neither threads nor child processes."
LOG = ("The log on stdout has 'accepted connection' for each connection accepted, "
       "'connection terminated' for each client gone, and each message's text.")
REUSE = "The server sets SO_REUSEADDR on its listening socket."
CPU = "An inactive server does not use 100 % CPU."
RELEASE = ("The end of a connection is handled correctly: its resources are released, "
           "and it is logged.")
REAL = "The optional part: the server bears real conditions."
ADDRESS = "The optional part: the sender's address before each message: '127.0.0.1: '."
STARVED = ("remark: while one client sends without end, the others wait. The assignment "
           "does not forbid that; if you want to mend it, read a bounded piece from a "
           "client, then let the others have their turn (epoll(7): starvation)")
CUT = "The optional part: clients are disconnected by timeout or when a buffer overflows."


def rule(says: str, look: str, stage: int = 0, after: str = "", **server):
    """Marks a check with the sentence behind it, a hint, and how to start its server.

    It binds from a stage on. It is left out where a check named in `after` has failed,
    of which it would tell the consequences.
    """
    def mark(check):
        check.server = dict(server, says=says, look=look)
        check.stage, check.after = stage, after.split()
        return check
    return mark


class NotLookedAt(unittest.SkipTest):
    """The server does not yet do what would have to be looked at."""


NO_TIME = "needs time, which the checks that failed have used up"


class Abilities(NamedTuple):
    """What the server does already, however badly, seen from its clients in one visit."""
    hangs_up: bool      # as step 1 does
    ends: bool          # it notices that a client leaves, or should: it does more already
    greets: bool
    echoes: bool
    relays: bool

    @classmethod
    def look(cls) -> "Abilities":
        with Server(says=STAGE1) as server:
            one = server.connect()
            text = b"anybody there?"
            greets = one.await_any(lambda: one.received)
            two = server.connect()
            if greets:
                two.await_any(lambda: two.received)
            for data in (text, b"\n"):
                with contextlib.suppress(OSError):
                    one.sock.sendall(data)
            end = time.monotonic() + Patience.seconds()
            while time.monotonic() < end and not (one.is_over() or server.has_ended()):
                if text in one.unread() and text in two.unread():
                    break
                for peer in (one, two):
                    peer.receive(0.02)
            hangs_up = one.ended and not one.received
            one.half_close()
            ends = (hangs_up or greets or text in one.unread() + two.unread()
                    or server.log.count(TERMINATED) or one.await_any(lambda: one.ended)
                    or server.log.count(TERMINATED))
            server.judged = True
            return cls(hangs_up, bool(ends), greets and b"Welcome" in one.unread()[:400],
                       text in one.unread(), text in two.unread())

    def missing(self, stage: int) -> str:
        """What a check of this stage lacks."""
        lacks = {2: self.hangs_up and "connections that stay open (stage 2)",
                 3: not self.ends and "ends of connections that are noticed (stage 3)",
                 4: not self.greets and "the greeting (stage 4)",
                 5: not self.echoes and "the echo (stage 5)",
                 6: not self.echoes and "the echo (stage 5)"
                    or not self.relays and "delivery to the others (stage 6)"}
        if self.hangs_up and stage > 1:
            return str(lacks[2])
        return str(lacks.get(stage) or "")


class ServerCase(unittest.TestCase):
    """A test with a server of its own, which has to be alive at the end."""
    abilities: Optional[Abilities] = None       # found out once
    failed: Set[str] = set()                      # checks that have failed

    def setUp(self) -> None:
        if Patience.in_vain > IN_VAIN + 3 * DEADLINE:
            raise NotLookedAt(NO_TIME)
        check = getattr(self, self.name())
        self.expect_stage(check.stage)
        late = ["test_answers"] if check.stage > 1 else []   # the rest would take long
        for name in late + check.after:
            if name in ServerCase.failed:
                raise NotLookedAt(f"first mend {name}")
        self.server = Server(**check.server)
        self.addCleanup(self.stop)

    def name(self) -> str:
        return self.id().rsplit(".", 1)[-1]

    def expect_stage(self, stage: int) -> None:
        if stage:
            if not ServerCase.abilities:
                ServerCase.abilities = Abilities.look()
            missing = ServerCase.abilities.missing(stage)
            if missing:
                raise NotLookedAt(f"needs {missing}")

    def tearDown(self) -> None:
        self.server.expect_alive()

    def stop(self) -> None:
        self.server.stop()
        for peer in self.server.peers:      # unittest keeps this case if it has failed
            peer.inbox.clear()
            peer.rest = b""
        if self.server.judged:
            if not self.server.cut_short:
                ServerCase.failed.add(self.name())
        else:
            self.server.expect_clean_stderr()       # leaks are reported at the very end

    def relays(self) -> bool:
        return not ServerCase.abilities or ServerCase.abilities.relays

    def readers(self, sender: Peer, *others: Peer) -> List[Peer]:
        """Who gets the sender's messages: before stage 6, only the sender."""
        return [sender, *others] if self.relays() else [sender]

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

    def connect_in_turn(self, count: int) -> List[Peer]:
        """One after another: many at once are another matter."""
        peers = []
        for number in range(1, count + 1):
            peers.append(self.server.connect())
            self.server.log.wait(ACCEPTED, number, SETTLE)
        return peers

    def visit(self) -> Peer:
        """Connects a client that has been accepted, as far as one can see that."""
        peer = self.server.connect()
        if ServerCase.abilities and ServerCase.abilities.echoes:
            peer.sync()
        elif ServerCase.abilities and ServerCase.abilities.greets:
            peer.read(7, "a greeting")
        else:
            self.server.settle()
        peer.inbox.clear()
        return peer

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

    def expect_service(self, *living: Peer) -> Peer:
        """A newcomer, who is returned, is served, and so are those who were there."""
        newcomer = self.visit()
        for peer in living:
            if ServerCase.abilities and ServerCase.abilities.echoes:
                peer.sync()
            elif peer.ended or not peer.receive(0.05) and peer.ended:
                self.server.fail("a client that has done nothing to stay connected",
                                 "the server closed its connection")
        return newcomer


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
        one = self.server.connect()
        self.server.expect_log(ACCEPTED, 1)
        self.server.connect()
        if not self.server.log.wait(ACCEPTED, 2, Patience.seconds()):
            one.half_close()
            if self.server.log.wait(ACCEPTED, 2, 1):
                self.server.fail(
                    "a second client to be accepted while the first one is connected",
                    "it was accepted when the first one had left: the server serves one "
                    "client at a time",
                    "one wait for all: watch the listening socket and all clients in one "
                    "epoll or kqueue, and never read() from a client that has nothing to "
                    "say",
                    cause="the server serves one client at a time")
        self.server.expect_log_exactly(ACCEPTED, 2)


class Test2(ServerCase):
    """Messages are read and logged."""

    @rule(STAGE2, "recv() from the clients that have sent something; log what ends with "
                  "a newline")
    def test_messages(self):
        """whole messages from two clients are logged"""
        peers = self.connect_in_turn(2)
        for number in range(4):
            peers[number % 2].send(b"whole message %d\n" % number)
            self.server.expect_log(b"whole message %d" % number)

    @rule(STAGE2, "what one recv() brings is not a message: it may be a part, or "
                  "several. Keep each client's bytes until their newline comes",
          after="test_messages")
    def test_parts(self):
        """a message that comes in parts is logged once it is whole, not before"""
        peers = self.connect_in_turn(2)
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
                  "already, and do not wait for the end of what follows",
          after="test_messages")
    def test_together(self):
        """two messages and a half in one segment are logged one by one"""
        peer, = self.connect_in_turn(1)
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
        peers = self.connect_in_turn(3)
        self.server.expect_log(ACCEPTED, 3)
        peers[0].leave()
        self.server.expect_log_exactly(TERMINATED, 1)
        peers[1].leave()
        peers[2].leave()
        self.server.expect_log_exactly(TERMINATED, 3)

    @rule(STAGE3, "the end may come with half a message still in your buffer",
          after="test_ends test_messages")
    def test_unfinished(self):
        """a client leaves in the middle of a message; another one is still read"""
        one, two = self.connect_in_turn(2)
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

    @rule(STAGE6, "keep a list of the clients, and send each message to all of them",
          after="test_echo")
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

NOFILE = 32         # descriptors of a server that has to do with few

# How a client may leave.
MANNERS = ("FIN", "RST", "FIN+RST", "line+FIN", "line+RST", "line+FIN+RST")


class TestRules(ServerCase):
    """What a server has to do besides. A cause is checked before its consequences."""

    # -- one process, one thread

    @rule(THREADS, "one loop on epoll or kqueue serves all clients", stage=1)
    @unittest.skipUnless(LINUX, "threads are counted in /proc")
    def test_threads(self):
        """no threads or child processes: at the start, for a client, for a message"""
        one = self.visit()
        if self.has_own_memory():
            self.skipTest("the language's runtime has threads of its own")
        server = self.count_threads("with one client")
        crowd = [self.visit() for _ in range(8)]
        self.count_threads("with 9 clients")
        if ServerCase.abilities.hangs_up or not server:
            return
        for _ in range(5):
            for peer in crowd:
                with contextlib.suppress(OSError):
                    peer.sock.sendall(b"who serves this message?\n" * 50)
            for _ in range(200):
                self.expect_alone(server, "while 400 messages come in")
            while any([peer.receive(0.005) for peer in [one, *crowd]]):
                pass

    def count_threads(self, when: str) -> int:
        """Returns the process that serves; 0 if that cannot be seen."""
        listening = self.server.listeners()
        server = next(iter(listening), 0)
        relatives = [p for p in self.server.processes() if p.state != "Z"
                     and p.pid != server and identity(p.pid) == identity(server)]
        if len(listening) > 1 or server and relatives:
            self.server.fail(f"one process {when}",
                             f"{max(len(listening), len(relatives) + 1)} processes run "
                             "the server's program",
                             "fork() is not needed: " + self.server.look)
        if server:
            self.expect_alone(server, when)
        return server

    def expect_alone(self, server: int, when: str) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            threads = len(os.listdir(f"/proc/{server}/task"))
            if threads > 1:
                self.server.fail(f"one thread {when}", f"{threads} threads")
        children = [p for p in map(process, descendants(server)) if p and p.state != "Z"]
        if children:
            self.server.fail(f"one process {when}", f"{len(children) + 1} processes",
                             "fork() is not needed: " + self.server.look)

    def has_own_memory(self) -> bool:
        return any(map(has_runtime, self.server.threads()))

    # -- when it answers

    @rule(WAIT, "no sleep() and no long work, neither in the loop nor for a message: "
                "everybody waits meanwhile. epoll_wait() and kevent() sleep by "
                "themselves, until there is something to do; and what can be sent is "
                "sent at once, not after a timeout", stage=5)
    @unittest.skipUnless(LINUX, "whether it sleeps is looked up in /proc")
    def test_answers(self):
        """ten messages, one after the other, are answered at once"""
        one, = self.join(1)
        server = next(iter(self.server.listeners()), 0)
        took = 0.0
        for number in range(1, 11):
            took += self.own_time(one, server)
            if took > LATE:
                self.server.fail("a server that answers when a message has come",
                                 f"before its first {plural(number, 'answer')} it slept "
                                 f"or computed for {took:.1f} s")

    def own_time(self, peer: Peer, server: int) -> float:
        """Sends a message; seconds for which the server sleeps or computes before it
        answers. For how long the machine lets it wait does not count."""
        end = time.monotonic() + SETTLE / 4
        while not sleep_mark(server) and time.monotonic() < end:
            time.sleep(0.001)       # it is still at work on what was before
        before = self.server.cpu()
        peer.send_hello()
        slept, mark, since = 0.0, sleep_mark(server), time.monotonic()
        end = since + Patience.seconds()
        while not (peer.receive(0.01) and peer.is_answered()
                   or peer.is_over() or since > end):
            now = time.monotonic()
            last, mark = mark, sleep_mark(server)
            if mark and mark == last:
                slept += now - since
            since = time.monotonic()
        peer.await_hello()
        return slept + (0 if self.has_own_memory() else self.server.cpu() - before)

    # -- connecting, and the greeting

    @rule(GREETING, "one or more whole lines; no NUL behind them (strlen(), not sizeof)",
          stage=4)
    def test_greeting(self):
        """the greeting is text that ends with a newline, and has no NUL"""
        one = self.server.connect()
        one.line("a greeting that ends with a newline")
        self.expect_silence(one)
        if b"\0" in one.unread():
            self.server.fail("a greeting of text, and nothing behind it",
                             shown(one.unread()))
        if one.rest:
            self.server.fail("a greeting that ends with a newline",
                             f"behind its last newline {shown(one.rest)}")

    def expect_silence(self, peer: Peer) -> None:
        """Reads the rest of the greeting, after which nothing comes by itself."""
        end = time.monotonic() + DEADLINE
        while peer.receive(SETTLE):
            if peer.received > 1 << 20 or time.monotonic() > end:
                self.server.fail("a greeting, and nothing more until somebody speaks",
                                 f"{peer.received} bytes, and still more: "
                                 + shown(peer.unread()[:1000]))

    @rule(GREETING, "the greeting is for the newcomer alone", stage=6)
    def test_greeting_for_one(self):
        """who is connected already does not get the newcomer's greeting"""
        self.expect_stage(4)
        one, = self.join(1)
        self.server.connect().line("a greeting")
        one.expect_no_more()

    @rule(STAGE1, "one wake-up may announce several clients: accept() until it says "
                  "EAGAIN, or be level-triggered, so that you are woken again", stage=4)
    def test_connects_at_once(self):
        """ten clients, and then fifty, connect at once; all are greeted"""
        self.visit()
        for count, how in ((10, self.server.held), (50, contextlib.nullcontext)):
            with how():
                crowd = [self.server.start_connecting() for _ in range(count)]
                crowd = [peer for peer in crowd if peer.is_connected() or peer.reset()]
            for number, peer in enumerate(crowd, 1):
                peer.read(7, f"a greeting for each of {len(crowd)} clients that connect "
                             f"at once; this is number {number}")

    @rule(GREETING, "put the newcomer into the list of clients and the greeting into its "
                    "output together; in parts, the greeting lets others in between",
          stage=6,
          after="test_threads")
    def test_greeting_first(self):
        """somebody speaks just as a newcomer connects: the greeting comes first, whole"""
        self.expect_stage(4)
        one, = self.join(1)
        usual = self.server.connect()
        usual.read(7, "a greeting")
        self.expect_silence(usual)
        twice = 2 * [bare(line) for line in usual.inbox]
        for turn in range(12):
            with self.server.held():
                if turn % 2:
                    one.send(b"said meanwhile\n")
                newcomer = self.server.connect()
                if not turn % 2:
                    one.send(b"said meanwhile\n")
            one.sync()
            newcomer.sync()
            self.check_greeted(newcomer, twice)
            if turn % 4 > 1:
                newcomer.reset()        # how one goes must not matter to the next one
                self.server.settle()

    def check_greeted(self, newcomer: Peer, twice: List[bytes]) -> None:
        """The greeting, which may be another one for each client, and only behind it what
        was said meanwhile."""
        said = b"said meanwhile"
        came = list(newcomer.inbox)
        greeting = came[:-1] if came and came[-1].endswith(said) else came
        if (not greeting or not greeting[0].startswith(b"Welcome")
                or any(line.endswith(said) for line in greeting)):
            self.server.fail("the greeting first, whole, then what was said meanwhile",
                             shown(b"\n".join(came)))
        if [bare(line) for line in greeting] == twice:
            self.server.fail("the greeting once", shown(b"\n".join(came)))

    @rule(RELAY, "a table of clients may be full: let nobody in for whom it has no "
                 "place. Indexed by descriptor, it overflows", stage=4, nofile=2048)
    def test_hundreds(self):
        """1,100 clients at once: a message gets to all who were let in"""
        with many_descriptors(1300):
            one = self.visit()
            crowd = self.admitted(1100)
            if self.server.has_ended(within=SETTLE):
                self.server.fail("1,100 clients served, or those refused for whom there "
                                 "is no place", "")
            if len(crowd) < 1100:
                self.server.expect_idle(
                    "while it has no place for another client", most=0.6,
                    look="who waits for accept() is reported for ever: accept and close, "
                         "or look away from the listening socket")
            if ServerCase.abilities.relays:
                one.send(b"hello to all\n")
                for number, peer in enumerate(crowd, 1):
                    peer.collect(b"hello to all", f"at each of {len(crowd)} clients "
                                                  "that were greeted; this is "
                                                  f"number {number}")

    def admitted(self, count: int) -> List[Peer]:
        """Connects clients that are greeted, until there is no place for more. That a
        server has few places is no fault."""
        crowd: List[Peer] = []
        while len(crowd) < count:
            peer = self.server.connect()
            if not peer.receive(Patience.seconds()):
                self.server.settle()        # it may still be at work on others
            peer.receive(SETTLE * (not peer.received))
            if not peer.unread().startswith(b"Welcome"):
                break
            crowd.append(peer)
        return crowd

    # -- who gets what

    @rule(RELAY, "send to each client in the list; the sender is one of them; once only",
          stage=6)
    def test_everybody(self):
        """each of five clients gets each message once, the sender included"""
        peers = self.join(5)
        for sender in peers:
            sender.send(b"from client %d\n" % sender.id)
            for reader in peers:
                reader.expect(sender, b"from client %d" % sender.id)
        for peer in peers:
            peer.expect_no_more()

    @rule(HISTORY, "a newcomer gets the greeting, and what comes from then on", stage=6)
    def test_no_history(self):
        """a newcomer gets nothing from before its time"""
        one, = self.join(1)
        self.exchange(one, numbered(10, 50), [one])
        two = self.server.connect()
        two.sync()
        for line in two.inbox:
            if line.endswith(tuple(numbered(10, 50))):
                self.server.fail("a greeting, and nothing from before", shown(line))

    @rule(ATOMIC, "send a message when it is whole, to those who are there then", stage=6)
    def test_half_line(self):
        """who joins while a message is half sent gets all of it, or none"""
        one, = self.join(1)
        one.send(b"the first half, ")
        two, = self.join(1)
        one.send(b"the second half\n")
        one.expect(one, b"the first half, the second half")
        two.sync()
        for line in two.inbox:
            if b"half" in line and b"the first half, the second half" not in line:
                self.server.fail("a whole message, or none", f"the line {shown(line)}")

    @rule(RELAY, "an array for the events of one wake-up is no limit for the clients; "
                 "what it has no room for comes with the next wait, unless it is "
                 "edge-triggered and was dropped", stage=6,
          after="test_threads")
    def test_speakers_at_once(self):
        """a hundred clients speak at once; nobody's message is lost"""
        watcher, = self.join(1)
        greets = ServerCase.abilities and ServerCase.abilities.greets
        crowd = self.admitted(100) if greets else [self.visit() for _ in range(100)]
        watcher.sync()
        watcher.inbox.clear()
        with self.server.held():
            for peer in crowd:
                peer.send(b"said by number %d.\n" % peer.id)
        missing = {b"said by number %d." % peer.id for peer in crowd}
        while missing:
            line = watcher.line(f"{len(crowd)} messages that were sent at once; "
                                f"{len(missing)} are missing")
            missing -= {text for text in missing if line.endswith(text)}

    # -- messages and their limits

    @rule(LINES, "look for newlines in all that you hold, after each read; what stands "
                 "behind the last newline waits, what stands before does not", stage=5)
    def test_line_before_part(self):
        """a whole message does not wait for the end of the part that follows it"""
        one, = self.join(1)
        one.send(b"whole\npart")
        one.expect(one, b"whole")
        one.send(b" and end\n")
        one.expect(one, b"part and end")

    @rule(ATOMIC, "each client needs a buffer of its own for the message it has begun",
          stage=5)
    def test_parts_do_not_mix(self):
        """parts of two clients' messages arrive in turn and come out as two messages"""
        one, two, watcher = self.join(3)
        for sender, part in ((one, b"A"), (two, b"C"), (one, b"B\n"), (two, b"D\n")):
            sender.send(part)
            watcher.sync()
        if not self.relays():
            one.expect(one, b"AB")
            two.expect(two, b"CD")
            return
        for reader in (one, two, watcher):
            lines = [reader.line("the messages b'AB' and b'CD'") for _ in range(2)]
            for sender, text in ((one, b"AB"), (two, b"CD")):
                if not any(line.endswith(text) for line in lines):
                    self.server.fail("the messages b'AB' and b'CD', in any order",
                                     " and ".join(map(shown, lines)))

    @rule(LINES, "keep what has come of a message, however little, until its newline",
          stage=5)
    def test_byte_by_byte(self):
        """a message that comes byte by byte is one message"""
        one, two = self.join(2)
        for byte in b"byte by byte\n":
            one.send(bytes([byte]))
            two.sync()
        for reader in self.readers(one, two):
            reader.expect(one, b"byte by byte")

    @rule(LINES, "the newline may be the first byte of a read, or the last one, or in "
                 "between", stage=5, after="test_line_before_part test_byte_by_byte")
    def test_every_split(self):
        """two messages, cut in two at every place"""
        one, two = self.join(2)
        data = "ab\nдве\nc\n".encode()
        for cut in range(1, len(data)):
            one.send(data[:cut])
            two.sync()
            one.send(data[cut:])
            for reader in self.readers(one, two):
                for text in data.split(b"\n")[:-1]:
                    reader.expect(one, text)

    @rule(LINES, "there may be more to read than one recv() takes: read until it says "
                 "EAGAIN, or be level-triggered, so that you are woken again", stage=5)
    def test_many_in_one_read(self):
        """500 lines that come at once all come out"""
        one, two = self.join(2)
        texts = numbered(500, 119)
        with self.server.held():
            one.send(b"".join(text + b"\n" for text in texts))
        for reader in self.readers(one, two):
            for text in texts:
                reader.expect(one, text)

    @rule(LINES, "bytes from the network are no C string: lengths and memchr(), not "
                 "strlen(), strchr() or %s. They need not be UTF-8 either: do not decode "
                 "them. And only the newline separates", stage=5)
    def test_any_bytes(self):
        """NUL, control bytes, invalid UTF-8: all but newline is relayed as it is"""
        one, two = self.join(2)
        every = bytes(byte for byte in range(256) if byte != 10)
        for text in (b"before\0after", b"\0\0", every, every[::-1], b"  blanks  ",
                     "привет €".encode(), b"\xff\xfe cut off: \xe2\x82",
                     b"%s%n%x 100%d", b"ends with CR\r", b"\r"):
            self.expect_relayed(one, two, text)

    def expect_relayed(self, one: Peer, two: Peer, text: bytes) -> None:
        """What one says comes out as it is."""
        one.send(text + b"\n")
        for reader in self.readers(one, two):
            reader.expect(one, text)

    @rule(RELAY, "the assignment knows no commands: what stands before a newline is a "
                 "message, and who wants to leave closes the connection", stage=5)
    def test_no_commands(self):
        """quit, /help and the like are messages as any other"""
        one, two = self.join(2)
        for text in (b"exit", b"quit", b"bye", b"q", b"/exit", b"/quit", b"/q", b"/help",
                     b"/nick x", b"/list", b"/who", b"/me waves", b"@all hello", b":q",
                     b"QUIT", b"NICK x", b"HELP", b"PING", b"stop", b"shutdown", b"."):
            self.expect_relayed(one, two, text)

    @rule(LINES, "an empty message may be sent on or left out, but what comes next must "
                 "be right", stage=5)
    def test_empty(self):
        """empty lines, of which the assignment does not speak, do no harm"""
        one, two = self.join(2)
        one.send(b"\n\n\nnext\n")
        for reader in self.readers(one, two):
            for _ in range(3):
                if reader.expect_one_of(one, [b"next", b""]):
                    break
            else:
                reader.expect(one, b"next")
        one.expect_no_more()

    @rule(LIMIT, "cut off a message as soon as you hold more than 1024 bytes without a "
                 "newline; each piece is a message, with its prefix and its newline",
          stage=5)
    def test_limit(self):
        """lines of 1023 to 10,000 bytes come out in pieces of 1024"""
        one, two = self.join(2)
        for size in (1023, 1024, 1025, 2047, 2048, 2049, 3000, 10000):
            one.send(ruler(size) + b"\n")
            self.expect_pieces(self.readers(one, two), one, ruler(size))

    @rule(LIMIT, "with 1024 bytes and no newline yet, wait for the next byte: a newline "
                 "there ends this message and is no message of its own", stage=5,
          after="test_limit")
    def test_limit_in_parts(self):
        """so do they when the newline comes later, and the bytes in two halves"""
        one, two = self.join(2)
        for size in (1022, 1023, 1024, 1025, 2048, 2049, 3000):
            for part in (ruler(size)[:1000], ruler(size)[1000:], b"\n"):
                one.send(part)
                two.sync()
            self.expect_pieces(self.readers(one, two), one, ruler(size))

    piece_max = 0       # the limit, newline excluded or included, once that is known

    def expect_pieces(self, readers: List[Peer], sender: Peer, text: bytes) -> None:
        """The text in pieces of one size: 1024 bytes, or 1023 and a newline."""
        sender.sync()
        wrong = []
        limits = (MESSAGE_MAX, MESSAGE_MAX - 1)
        for limit in [self.piece_max] if self.piece_max else limits:
            pieces = [text[i:i + limit] for i in range(0, len(text), limit)]
            for reader in readers:
                if reader is not sender:
                    reader.sync()
            faults = [self.fault_in_pieces(reader, sender, pieces) for reader in readers]
            if not any(faults):
                if len(text) >= MESSAGE_MAX:
                    self.piece_max = limit
                for reader in readers:
                    reader.inbox.clear()
                return
            wrong.append((pieces, next(filter(None, faults))))
        self.server.fail(f"a line of {len(text)} bytes in pieces of "
                         f"{lengths(wrong[0][0])}",
                         wrong[0][1])

    @staticmethod
    def fault_in_pieces(reader: Peer, sender: Peer, pieces: List[bytes]) -> str:
        known = len(reader.prefix_of(sender))
        came = (f"pieces of {', '.join(str(len(line) - known) for line in reader.inbox)} "
                f"bytes" if reader.inbox else "nothing")
        if known:
            came += f" behind prefixes of {known}"
        for number, (piece, line) in enumerate(zip(pieces, reader.inbox), 1):
            if line == piece and known:
                return f"{came}; number {number} has no prefix: {shown(line)}"
            prefix = line[:len(line) - len(piece)]
            if not line.endswith(piece) or not reader.is_prefix(prefix, sender):
                return f"{came}; number {number} is {shown(line)}"
        if len(reader.inbox) != len(pieces):
            last = reader.inbox[-1] if reader.inbox else b""
            return f"{came}; the last one is {shown(last)}"
        return ""

    @rule(ATOMIC, "queue a message for each client as a whole, behind what already "
                  "waits for it", stage=6, after="test_threads test_parts_do_not_mix "
                                                 "test_byte_by_byte "
                                                 "test_line_before_part")
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

    # -- slow and fast clients

    @rule(SLOW, "O_NONBLOCK on each client, and an output buffer for each: when send() "
                "takes less than you gave it, keep the rest, and send it once the "
                "socket is writable", stage=5)
    def test_slow_sender(self):
        """somebody sends and does not read what comes back: others are served at once"""
        one = self.visit()
        deaf = self.server.connect(receive_buffer=4096)
        deaf.sync()
        deaf.sock.setblocking(False)
        block = b"".join(text + b"\n" for text in numbered(600, 999))
        left = 30 * block
        quiet, end = 0, time.monotonic() + 2 * DEADLINE
        while left and quiet < 5 and time.monotonic() < end:
            try:                        # it need not read more than it can send
                left = left[deaf.sock.send(left[:len(block)]):]
                quiet = 0
            except BlockingIOError:
                select.select([], [deaf.sock], [], 0.1)
                quiet += not self.server.is_awake()
            except OSError:
                break                   # disconnected, which is allowed
            while self.relays() and one.receive(0.001):
                one.inbox.clear()
        try:
            for _ in range(20):     # the kernel may yet have room for a few short lines
                one.send(block[:100 * 1000])
                one.sync()
                one.inbox.clear()
        except Verdict:
            if not self.server.has_ended():
                self.server.fail("others served while one client does not read",
                                 "nobody is", cause="")
            raise

    @rule(SLOW, "O_NONBLOCK on each client, and an output buffer for each: when send() "
                "takes less than you gave it, keep the rest, and send it once the "
                "socket is writable. What has been left out of a stream of messages is "
                "missed for ever: keep all of it, or disconnect", stage=6,
          after="test_slow_sender")
    def test_slow_reader(self):
        """somebody does not read: others get all at once, it gets whole lines later"""
        one, two = self.join(2)
        slow, = self.join(1, receive_buffer=4096)
        texts = numbered(10000, 1000)
        costs: List[float] = []
        said: List[Tuple[Peer, bytes]] = []
        for start in range(0, len(texts), 2000):
            before = self.server.cpu()
            self.exchange(one, texts[start:start + 2000], [one, two])
            costs.append(self.server.cpu() - before)
            self.expect_steady(costs)
            self.exchange(two, [b"meanwhile"], [one, two])
            said += [*((one, text) for text in texts[start:start + 2000]),
                     (two, b"meanwhile")]
        slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        while slow.receive(SETTLE):
            pass
        one.send(b"the end\n")
        two.expect(one, b"the end")
        slow.collect(b"the end", may_end=True)
        self.check_slow(slow, [*said, (one, b"the end")])

    def expect_steady(self, costs: List[float]) -> None:
        """The last 2 MB may not cost much more than the first."""
        if costs[-1] > 4 * costs[0] + 1:
            self.server.fail(
                "as much work for the last 2 MB as for the first, while they wait for "
                "somebody who does not read",
                f"{costs[0]:.1f} s of CPU time for the first, {costs[-1]:.1f} s for the "
                "last",
                "a buffer that grows by constant steps is copied at each step: double "
                "it, or keep a list of pieces")

    def check_slow(self, slow: Peer, said: List[Tuple[Peer, bytes]]) -> None:
        """Whole lines in order, none missing, up to the end or to a disconnection, which
        may cut the last one: servers may do that when a buffer overflows."""
        number = -1
        for number, (line, (sender, text)) in enumerate(zip(slow.inbox, said)):
            prefix = line[:len(line) - len(text)]
            if line.endswith(text) and slow.is_prefix(prefix, sender):
                continue
            later = next((n for n, (_, t) in enumerate(said[number:], number)
                          if line.endswith(t)), None)
            self.server.fail(
                "every line, in order and whole, for a client that reads late; or the "
                "end of its connection", f"after {plural(number, 'line')} "
                + (f"{later - number} are missing, and it is still connected"
                   if later is not None and later > number
                   else f"a line that nobody sent: {shown(line, 99)}"))
        if not slow.ended and number + 1 < len(said):
            self.server.fail("every line, or the end of the connection",
                             f"{number + 1} of {len(said)} lines")

    @rule(SLOW, "a client with bytes waiting is watched for writability; do not retry "
                "in a loop", stage=6, after="test_slow_sender test_slow_reader test_idle")
    def test_slow_reader_idle(self):
        """while bytes wait for slow readers, one half-closed, the server sleeps"""
        one, two = self.join(2)
        _, half_closed = self.join(2, receive_buffer=4096)
        self.exchange(one, numbered(6000, 1000), [one, two])
        half_closed.half_close()
        self.server.expect_idle("while bytes wait for two clients that do not read, one "
                                "of which has closed its sending half")

    @rule(REAL, "wait for nobody but in the loop: neither to read what one client still "
                "sends, nor to write what it does not take", stage=6,
          after="test_slow_sender test_slow_reader")
    def test_flood(self):
        """a client that sends without end does not hold up the others"""
        flooder, quiet = self.join(2)
        self.server.log.dropped = True      # else it would be too long to be kept
        over = threading.Event()
        sender = threading.Thread(target=self.pour, args=(flooder, over), daemon=True)
        sender.start()
        try:
            time.sleep(SETTLE)
            quiet.send(b"may I?\n")
            if self.is_served(quiet, flooder, DEADLINE):
                return
            over.set()
            if self.is_served(quiet, flooder, 4 * DEADLINE):
                self.skipTest(STARVED)
        finally:
            over.set()
            sender.join()
        self.server.fail("a message served, at the latest when another client's flood of "
                         "messages has ended",
                         f"nothing of it, {4 * DEADLINE:g} s after the flood")

    @staticmethod
    def pour(peer: Peer, over: threading.Event) -> None:
        """Sends lines until it is over."""
        block = (b"f" * 31 + b"\n") * 2048
        sent = 0
        sock = peer.sock.dup()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        sock.settimeout(SETTLE)
        while not over.is_set():
            try:
                sent += sock.send(block[sent % len(block):])
            except socket.timeout:
                continue
            except OSError:
                break
        sock.close()

    @staticmethod
    def is_served(quiet: Peer, flooder: Peer, seconds: float) -> bool:
        """Reads both until the quiet one's message has come, or it is cut off, as its
        backlog overflowed: that is allowed."""
        end, rest = time.monotonic() + seconds, b""
        while time.monotonic() < end:
            readable = select.select([flooder.sock, quiet.sock], [], [], 0.1)[0]
            for peer in (peer for peer in (quiet, flooder) if peer.sock in readable):
                try:
                    data = peer.sock.recv(1 << 18)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data or peer is quiet and b"may I?" in rest + data:
                    return True
                if peer is quiet:
                    rest = data[-6:]
        return False

    # -- leaving at the wrong moment

    @rule(RELEASE, "recv() or send() gives -1 and ECONNRESET or EPIPE: the end of this "
                   "client, neither of the server nor of whose message it was", stage=3,
          after="test_connects_at_once")
    def test_leave_by_reset(self):
        """a client is gone with a reset, its greeting unread"""
        watcher = self.visit()
        for _ in range(5):
            peer = self.server.connect()
            select.select([peer.sock], [], [], SETTLE)
            peer.sock.close()       # bytes unread: the kernel sends a reset
        for _ in range(5):
            self.server.connect().reset()
        self.expect_service(watcher)

    @rule(RELEASE, "send() to a client that is gone: SIGPIPE ends the process unless it "
                   "is ignored; EPIPE and ECONNRESET end this client only", stage=3)
    def test_leave_before_accept(self):
        """a client comes and goes, FIN or reset or both, before the server looks"""
        watcher = self.visit()
        for manner in 4 * MANNERS:
            with self.server.held():
                self.depart(self.server.connect(), manner)
            self.server.settle()
            if self.server.has_ended(within=0.02):
                self.server.fail("a server that goes on", "")
        self.expect_service(watcher)

    def depart(self, peer: Peer, manner: str) -> None:
        if "line" in manner:
            peer.send(b"a last word\n")
        if "FIN" in manner:
            peer.half_close()
        if "RST" in manner:
            peer.reset()

    @rule(RELEASE, "answering a message can fail, as its sender may have gone: SIGPIPE, "
                   "EPIPE and ECONNRESET are ordinary", stage=3)
    def test_leave_with_line(self):
        """a line, FIN and reset in one wake-up"""
        watcher = self.visit()
        for manner in 4 * ("line+FIN+RST", "line+RST", "FIN+RST", "FIN", "RST"):
            peer = self.visit()
            with self.server.held():
                self.depart(peer, manner)
            self.expect_service(watcher).leave()    # there may be few places

    @rule(RELEASE, "while you send one client's message to another, you may find this "
                   "one gone: end it, and not the sender. Do not free it while events or "
                   "a loop may still use it", stage=6)
    def test_leave_all_at_once(self):
        """a dozen clients speak and vanish in one wake-up"""
        watcher, = self.join(1)
        for manner in 2 * ("line+RST", "line+FIN+RST"):
            crowd = self.join(12)
            watcher.inbox.clear()
            with self.server.held():
                for peer in crowd:
                    peer.send(b"a last word\n" * 20)
                for peer in crowd:
                    self.depart(peer, manner)
            watcher.sync()
        self.expect_service(watcher)
        for line in watcher.inbox:
            if not line.endswith(b"a last word"):
                self.server.fail(f"the messages {shown(b'a last word')}", shown(line))

    @rule(RELAY, "who leaves takes nobody along: take this one client off the list, be "
                 "it the first, the last or the only one there. And in a loop through "
                 "the list, the next one may move to the place of the one taken out",
          stage=6, after="test_everybody test_leave_by_reset test_leave_all_at_once")
    def test_those_who_stay(self):
        """whoever leaves, those who stay get what each of them says"""
        peers = self.join(6)
        peers.pop(0).leave()
        self.expect_all_reached(peers, b"after the first one has left")
        for number in range(2):
            speaker, middle = peers[0], peers.pop(2 - number)
            with self.server.held():
                speaker.send(b"just before\n")
                middle.reset()
                speaker.send(b"just after\n")
            for reader in peers:
                reader.expect(speaker, b"just before")
                reader.expect(speaker, b"just after")
            self.expect_all_reached(peers, b"after a reset")
        peers.pop().leave()
        self.expect_all_reached(peers, b"after the last one has left")
        for peer in peers:
            peer.leave()
        self.server.settle()
        newcomers = [self.server.connect() for _ in range(2)]
        for peer in newcomers:
            peer.read(7, "a greeting for a newcomer, when all others have left")
        for number, peer in enumerate(newcomers):
            peer.send(b"newcomer %d, after all had left\n" % number)
            for reader in newcomers:
                reader.collect(b"newcomer %d, after all had left" % number)

    def expect_all_reached(self, peers: List[Peer], when: bytes) -> None:
        """Each of them says something, and all of them get it."""
        self.server.settle()
        for sender in peers:
            self.exchange(sender, [b"client %d, %s" % (sender.id, when)], peers)

    @rule(RELAY, "data first, then the end: read until recv() returns 0, whatever "
                 "EPOLLRDHUP says", stage=6)
    def test_last_words(self):
        """what a client says just before it leaves is delivered"""
        watcher, = self.join(1)
        crowd = self.join(10)
        with self.server.held():
            for peer in crowd:
                peer.send(b"good-bye of %d\n" % peer.id)
                peer.half_close()
        missing = [b"good-bye of %d" % peer.id for peer in crowd]
        while missing:
            line = watcher.line(f"the message {missing[0]!r}")
            missing = [text for text in missing if not line.endswith(text)]

    @rule(RELEASE, "a client may go while your output buffer still holds bytes for it: "
                   "drop them, and give them to nobody else", stage=6,
          after="test_slow_sender test_slow_reader")
    def test_leave_with_backlog(self):
        """a slow reader is gone with a reset while megabytes wait for it"""
        one, two = self.join(2)
        slow, = self.join(1, receive_buffer=4096)
        self.exchange(one, numbered(6000, 1000), [one, two])
        slow.reset()
        self.server.settle()
        newcomer = self.server.connect()    # who may get the same place, or memory
        newcomer.sync()
        for line in newcomer.inbox:
            if re.search(rb"(\d{7}\.)\1", line):
                self.server.fail("a greeting, and nothing of what waited for another one",
                                 shown(line))
        self.expect_service(one, two)

    @rule(ATOMIC, "forget a client's unfinished message with the client: the next one "
                  "may get the same descriptor and the same buffer", stage=5)
    def test_unfinished_is_forgotten(self):
        """half a message from somebody who left is not put before another one's"""
        watcher, = self.join(1)
        for manner in ("leave", "reset"):
            peer = self.visit()
            peer.send(b"half a secret")
            watcher.sync()
            watcher.sync()
            getattr(peer, manner)()
            self.server.settle()
            watcher.sync()
            newcomer = self.server.connect()
            newcomer.send(b"clean\n")
            line = b""
            while not line.endswith(b"clean"):      # before it: the greeting
                line = newcomer.line("the message b'clean'")
            if b"secret" in line:
                self.server.fail("the message b'clean'", f"the line {shown(line)}")

    # -- resources

    @rule(CPU, "wait without a timeout of 0; ask for writability only while bytes are "
               "waiting", stage=1)
    def test_idle(self):
        """nothing happens, with clients connected: no CPU time is used"""
        for _ in range(3):
            self.visit()
        self.server.expect_idle("while three clients are silent")

    @rule(CPU, "an event that nobody handles is reported for ever: close() the "
               "descriptor on end of file and on errors; EPOLLHUP comes even unasked",
          stage=3, after="test_idle")
    def test_idle_after_leaving(self):
        """nor after clients have left, by FIN, by reset, in the middle of a line"""
        watcher, *crowd = [self.visit() for _ in range(7)]
        for peer in crowd[:4]:
            peer.send(b"unfin")
        for peer in crowd[::2]:
            peer.leave()
        for peer in crowd[1::2]:
            peer.reset()
        time.sleep(SETTLE)
        self.server.expect_idle("after clients have left")
        self.expect_service(watcher)

    @rule(CPU, "end of file stays readable: close the connection, or stop watching for "
               "input", stage=3, after="test_idle")
    def test_idle_half_closed(self):
        """nor with a client that has closed its sending half"""
        peer = self.visit()
        peer.half_close()
        time.sleep(SETTLE)
        self.server.expect_idle("with a half-closed client")

    @rule(CPU, "unread bytes are reported for ever: take what has come, even without a "
               "newline (MSG_PEEK leaves it); and with a full buffer, recv() of 0 bytes "
               "takes nothing: cut the message off there", stage=2, after="test_idle")
    def test_idle_unfinished_line(self):
        """nor with 4 bytes, 1024 bytes, or more, of a line that has no end yet"""
        for size in (4, 1024, 1025, 5000):
            self.visit().send(b"x" * size)
        time.sleep(SETTLE)
        self.server.expect_idle("with unfinished lines of 4, 1024 and more bytes")
        self.expect_service()

    @rule(RELEASE, "close() the descriptor on every way on which a client goes; recv() "
                   "of 0 tells of the end, even if nobody ever sends anything", stage=3,
          after="test_connects_at_once")
    @unittest.skipUnless(LINUX, "descriptors are counted in /proc")
    def test_descriptors(self):
        """clients come and go, silent or not, and leave no descriptor behind"""
        self.visit()
        before = self.server.descriptors()
        for number in range(60):
            peer = self.server.connect()
            if number % 5 % 2 == 0:     # the queue for accept() may be short
                self.await_accepted(peer)
            if number % 3 == 1:
                peer.send(b"in the middle")
            elif number % 3 == 2:
                peer.send(b"a whole line\n")
            if number % 4 == 3:
                peer.reset()
            else:
                peer.half_close()
        self.server.settle()
        for peer in self.server.peers[1:]:
            peer.sock.close()
        left = self.server.await_descriptors(before)
        if left > before:
            self.server.fail(f"{before} open descriptors, as before 60 visits", str(left))

    @rule(RELEASE, "free() what a client had when it goes; and nothing should count what "
                   "was", stage=3, after="test_connects_at_once test_descriptors")
    @unittest.skipUnless(LINUX, "memory is looked up in /proc")
    def test_visits(self):
        """5,000 visits cost no memory, and are not too many"""
        self.visit()
        self.expect_no_growth(self.visits, 1000, 5000, "visits")

    def visits(self, count: int) -> None:
        for number in range(count):
            peer = self.server.connect()
            if number % 3:
                with contextlib.suppress(OSError):
                    peer.sock.sendall(b"hi\n" if number % 3 == 1 else b"h")
            self.server.peers.pop()
            if number % 5 % 2 == 0:     # the queue for accept() may be short
                self.await_accepted(peer)
            if number % 2:
                peer.sock.close()
            else:
                peer.reset()

    def await_accepted(self, peer: Peer) -> None:
        """Waits until neither this client nor an earlier one is in the queue; a moment,
        if that cannot be seen."""
        end = time.monotonic() + SETTLE
        if ServerCase.abilities.greets:
            select.select([peer.sock], [], [], SETTLE)
        while self.server.is_awake() and time.monotonic() < end:
            time.sleep(0.001)

    @rule(RELEASE, "free() a message when it has been sent to all; a buffer that is "
                   "empty begins at its start again", stage=5)
    @unittest.skipUnless(LINUX, "memory is looked up in /proc")
    def test_messages(self):
        """20,000 messages cost no memory"""
        self.sender, = self.join(1)
        self.expect_no_growth(self.messages, 4000, 20000, "messages")

    def messages(self, count: int) -> None:
        for start in range(0, count, 200):
            texts = [b"%07d" % number * 40 for number in range(start, start + 200)]
            self.exchange(self.sender, texts, [self.sender])

    def expect_no_growth(self, work: Callable[[int], None], first: int, count: int,
                         what: str) -> None:
        if self.server.is_sanitized():
            first = count = first // 4      # it is watched by others
        work(first)
        self.server.settle()
        before = self.server.memory("VmRSS")
        work(count)
        self.server.settle()
        growth = self.server.memory("VmRSS") - before
        if self.server.is_sanitized() or self.has_own_memory():
            return
        if growth > 5 << 19:
            self.server.fail(f"no more memory after {count} {what}",
                             f"{growth / (1 << 20):.1f} MB more")

    @rule(LIMIT, "a message never gets longer than 1024 bytes, so a client's buffer "
                 "need not either: cut and send, instead of collecting until the "
                 "newline", stage=2, after="test_messages")
    @unittest.skipUnless(LINUX, "memory is looked up in /proc")
    def test_endless_line(self):
        """8 MB without a newline do not pile up in memory"""
        one = self.visit()
        two = self.visit()
        if self.server.is_sanitized():
            self.skipTest("built with a sanitizer, whose memory grows anyway")
        if self.has_own_memory():
            self.skipTest("the language's runtime collects garbage when it likes")
        before = self.server.memory("VmRSS")
        block = ruler(1000) * 64
        for _ in range(0, 8 << 20, len(block)):
            one.send(block)
            # Nobody is ever far behind, so that no output piles up.
            while one.receive(0.002) | two.receive(0.002):
                one.inbox.clear()
                two.inbox.clear()
        one.send(b"\n")
        self.server.settle()
        growth = self.server.memory("VmHWM") - before
        if growth > 6 << 20:
            self.server.fail("less than 6 MB of memory for a line of 8 MB",
                             f"{growth >> 20} MB")

    @rule(REUSE, "setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, ...) after socket() "
                 "and before bind()", stage=2, after="test_connects_at_once")
    def test_restart(self):
        """killed with clients connected, the server can be started again on its port"""
        for _ in range(3):
            self.visit()
        old = self.server
        old._kill()
        for peer in old.peers:
            peer._await("the end of the connection", lambda: peer.ended)
        old.judged = True
        self.addCleanup(old.stop)
        self.server = Server(port=old.port, says=old.says, look=old.look)
        try:
            self.server.connect()
        except Verdict:
            self.server.fail(f"a server that starts again on port {old.port} at once",
                             f"it {self.server.epitaph()}" if self.server.has_ended()
                             else "nobody listens there")
        self.expect_service()

    # -- the log

    @rule(LOG, "a line for each event, on stdout, flushed at once: setvbuf(stdout, "
               "NULL, _IOLBF, 0), std::endl, flush=True", stage=5)
    def test_log(self):
        """connections, messages and ends are in the log, each in a line of its own"""
        one, two = self.join(2)
        texts = [b"the first message", b"100%s %d %n percent", b"the third message",
                 ruler(1023)]
        self.exchange(one, texts, self.readers(one, two))
        for text in texts:
            self.server.expect_log(text)
        two.leave()
        self.server.expect_log_exactly(TERMINATED, 1)
        self.server.expect_log_exactly(ACCEPTED, 2)
        for line in self.server.log.lines:
            if sum(text in line for text in [ACCEPTED, TERMINATED, *texts]) > 1:
                self.server.fail("a log line for each event", shown(line, 99))
            again = self.server.log.lines.count(line) > 1
            if again and any(text in line for text in texts):
                self.server.fail("one log line for a message, however many get it",
                                 f"several times {shown(line)}")

    @rule(LOG, "fwrite() with the message's length, not printf(\"%s\")", stage=2,
          after="test_log")
    def test_log_nul(self):
        """what stands behind a NUL is in the log as well"""
        self.visit().send(b"before\0behind the NUL\n")
        self.server.expect_log(b"behind the NUL")

    @rule(LOG, "one place where a client ends, whatever the reason: it logs, and closes",
          stage=3, after="test_threads test_log test_ends test_connects_at_once "
                         "test_descriptors test_leave_by_reset test_leave_before_accept "
                         "test_leave_with_line")
    def test_log_ends(self):
        """each end is logged once: by FIN, by reset, with a line, before accept"""
        watcher = self.visit()
        for manner in MANNERS:
            self.depart(self.visit(), manner)
            with self.server.held():
                self.depart(self.server.connect(), manner)
        crowd = [self.visit() for _ in range(12)]
        with self.server.held():
            for peer in crowd:
                self.depart(peer, "line+FIN+RST")
        self.expect_service(watcher)
        self.server.settle()
        living = 2      # the watcher, and the newcomer
        end = time.monotonic() + DEADLINE
        log = self.server.log
        while (log.count(ACCEPTED) - log.count(TERMINATED) != living
               and time.monotonic() < end):
            time.sleep(0.02)
        time.sleep(SETTLE)
        accepted, gone = map(self.server.log.count, (ACCEPTED, TERMINATED))
        if accepted - gone != living:
            self.server.fail(
                f"as many ends as connections in the log, but for {living} clients",
                f"{plural(accepted, 'connection')}, {plural(gone, 'end')}")

    # -- the optional part

    @rule(REAL, "epoll_wait() and kevent() return -1 with EINTR when a signal comes, "
                "SIGCONT for one: that is no error, wait again", stage=1)
    def test_signals(self):
        """stopped and continued (^Z, fg), the server goes on"""
        self.visit()
        for _ in range(3):
            time.sleep(0.02)
            with self.server.paused():
                pass
        self.expect_service()

    @rule(REAL, "accept() fails with EMFILE while the client stays in the queue and "
                "wakes you again at once: look away from the listening socket for a "
                "while, do not exit", stage=3,
          after="test_connects_at_once test_leave_by_reset", nofile=NOFILE)
    @unittest.skipUnless(LINUX, "descriptors are counted in /proc")
    def test_descriptor_limit(self):
        """without a free descriptor it serves on, does not spin, and recovers"""
        one = self.visit()
        crowd = []
        for number in range(60):
            crowd.append(self.server.start_connecting())
            if number % 4 == 3 and not self.server.has_used(NOFILE):
                self.server.settle()    # the queue for accept() may be short
        self.await_all_used()
        self.server.expect_idle("while no descriptor is free for those who wait",
                                most=0.6)       # to try again now and then is allowed
        if ServerCase.abilities.echoes:
            one.sync()
        for peer in crowd:
            peer.reset()
        self.expect_service(one)

    def await_all_used(self) -> None:
        """Waits until all descriptors are used, or the server wants no more of them."""
        end = time.monotonic() + DEADLINE
        seen, since = 0, time.monotonic()
        while (time.monotonic() < min(end, since + 1.3)
               and not self.server.has_used(NOFILE)):
            now = self.server.descriptors()
            if now != seen:
                seen, since = now, time.monotonic()
            time.sleep(0.02)
        if self.server.has_ended(within=SETTLE):
            self.server.fail("a server that bears it when no descriptor is free", "")


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


def has_runtime(pid: int) -> bool:
    """Whether the process runs in a language whose runtime starts threads anyway."""
    program = identity(pid)[0]
    if os.path.basename(program) in ("node", "java", "dotnet", "bun", "deno", "beam.smp"):
        return True
    with contextlib.suppress(OSError):
        return b"\xff Go buildinf:" in pathlib.Path(program).read_bytes()
    return False


# ---- The results -----------------------------------------------------------------------

class Record:
    """What has become of one check."""

    def __init__(self, test: unittest.TestCase) -> None:
        self.name = test_name(test)
        self.title = test.shortDescription() or ""
        self.status = "not run"         # passed, failed, not looked at, skipped
        self.text = "the run ended before this check"
        self.cause = self.look = ""
        self.clients = 0                # that had connected when the server died
        self.seconds = 0.0
        self.points = 1.0

    @property
    def group(self) -> str:
        return self.name.split(".")[0]

    @property
    def worth(self) -> float:
        """The most that can be had: nothing for what cannot be seen on this machine."""
        return 0.0 if self.status == "skipped" else self.points

    @property
    def score(self) -> float:
        return self.points if self.status == "passed" else 0.0


def test_name(test: unittest.TestCase) -> str:
    return re.sub(r"^(__main__|test)\.", "", test.id())


class Records:
    """The checks of this run, in order, and the files that tell of them."""

    def __init__(self, tests: Iterable[unittest.TestCase]) -> None:
        self.all = [Record(test) for test in tests]
        self.by_name = {record.name: record for record in self.all}
        self.files: List[Tuple[str, Callable[[], str]]] = []
        self.fatal = ""                 # why nothing could be tested
        self.interrupted = ""

    def weigh(self, points: Dict[str, float]) -> None:
        """A class's points are shared by its checks; those of a check come first."""
        for name, value in points.items():
            group = [r for r in self.all if r.group == name]
            for record in group:
                record.points = value / len(group)
        for name, value in points.items():
            if name in self.by_name:
                self.by_name[name].points = value

    def write(self) -> None:
        for path, text in self.files:
            with open(path + ".part", "w", encoding="utf-8") as file:
                file.write(text())
            os.replace(path + ".part", path)

    def junit(self) -> str:
        failed = sum(r.status in ("failed", "not run") for r in self.all)
        skipped = sum(r.status in ("skipped", "not looked at") for r in self.all)
        out = ['<?xml version="1.0" encoding="UTF-8"?>',
               f'<testsuites><testsuite name="chatsrv" tests="{len(self.all)}" '
               f'failures="{failed}" errors="0" skipped="{skipped}" '
               f'time="{sum(r.seconds for r in self.all):.3f}">']
        for record in self.all:
            group, name = record.name.split(".", 1)
            out.append(f"<testcase classname={quoted(group)} name={quoted(name)} "
                       f'time="{record.seconds:.3f}">')
            if record.status in ("failed", "not run"):
                first = record.text.strip().split("\n")[0]
                out.append(f"<failure message={quoted(record.cause or first)}>"
                           f"{xml.sax.saxutils.escape(clean(record.text))}</failure>")
            elif record.status != "passed":
                out.append(f"<skipped message={quoted(record.text)}/>")
            out.append("</testcase>")
        return "\n".join([*out, "</testsuite></testsuites>\n"])

    def gradescope(self) -> str:
        tests = [{"name": f"{r.name}: {r.title}", "score": round(r.score, 4),
                  "max_score": round(r.worth, 4),
                  "status": "passed" if r.status == "passed" else "failed",
                  "output": clean(r.text)}
                 for r in self.all if r.status != "skipped"]
        return json.dumps({"score": round(sum(r.score for r in self.all), 4),
                           "output": clean("\n".join(self.summary())),
                           "stdout_visibility": "hidden", "tests": tests},
                          indent=1) + "\n"

    # -- in words

    def causes(self) -> "Dict[str, List[Record]]":
        """What several checks failed of, the most frequent first."""
        found: Dict[str, List[Record]] = {}
        for record in self.all:
            if record.cause:
                found.setdefault(record.cause, []).append(record)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def summary(self) -> Iterator[str]:
        """What stands on top: the causes that explain more than one failure."""
        run = [r for r in self.all if r.status in ("passed", "failed")]
        if self.fatal:
            yield f"Nothing could be tested: {self.fatal}."
            return
        for cause, records in self.causes().items():
            others = f" and {plural(len(records) - 1, 'other')}" if records[1:] else ""
            text = (f"{cause[0].upper()}{cause[1:]}: in {len(records)} of "
                    f"{plural(len(run), 'check')} ({records[0].name}{others})"
                    + self.when(records) + ".")
            yield from textwrap.wrap(text, 90, break_on_hyphens=False)
            for line in records[0].look.splitlines():
                yield from textwrap.wrap(line, 90, initial_indent="  ",
                                         subsequent_indent="  ", break_on_hyphens=False)

    @staticmethod
    def when(records: List[Record]) -> str:
        """What all the deaths have in common: how many clients had come."""
        clients = {record.clients for record in records}
        if len(records) < 2 or len(clients) > 1 or 0 in clients:
            return ""
        return f", each time after client number {clients.pop()} had been accepted"

    def steps(self) -> List[str]:
        """At most three things to do next: causes, and the first failures besides."""
        found = []
        for record in self.all:
            step = record.cause or f"{record.name}: {record.title}"
            if record.status == "failed" and step not in found:
                found.append(step)
        causes = [cause for cause, records in self.causes().items()
                  if cause in found and records[1:]]
        return (causes + [step for step in found if step not in causes])[:3]


def quoted(text: str) -> str:
    return xml.sax.saxutils.quoteattr(clean(text))


def clean(text: str) -> str:
    """Without what XML 1.0 cannot hold: control characters and the like become \\xNN."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]",
                  lambda match: f"\\x{ord(match[0]):02x}", text)


class Result(unittest.TextTestResult):
    """Verdicts without tracebacks; each check by the name that runs it."""
    traceback = False
    records = Records([])
    deadline = 0.0          # when the whole run ends, or 0
    allowed = CHECK_LIMIT   # seconds, for the check that is running
    extended = 0            # how often that was given once more
    delayed = 0.0           # run_delay() when it began

    def getDescription(self, test) -> str:
        says = test.shortDescription()
        return f"{test_name(test)} ({says})" if says else test_name(test)

    def record(self, test) -> Record:
        return Result.records.by_name.get(test_name(test)) or Record(test)

    def startTest(self, test) -> None:
        super().startTest(test)
        self.started = time.monotonic()
        self.expect_time_left()
        Result.allowed = min(CHECK_LIMIT, max(IN_VAIN - Patience.in_vain, DEADLINE))
        Result.extended, Result.delayed = 0, run_delay()
        if hasattr(signal, "setitimer"):
            left = Result.deadline - self.started if Result.deadline else CHECK_LIMIT
            signal.setitimer(signal.ITIMER_REAL, min(left, Result.allowed))

    @staticmethod
    def was_starved() -> bool:
        """Whether others have kept the processors so busy that a check may be slow; that
        counts three times."""
        delay, Result.delayed = run_delay() - Result.delayed, run_delay()
        Result.extended += 1
        return delay > Result.allowed / 20 and Result.extended <= 3

    @staticmethod
    def expect_time_left() -> None:
        if Result.deadline and time.monotonic() >= Result.deadline:
            Result.records.interrupted = "the limit for the whole run was reached"
            raise KeyboardInterrupt

    def stopTest(self, test) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        record = self.record(test)
        record.seconds = time.monotonic() - self.started
        if record.status not in ("passed", "skipped"):
            Patience.in_vain += record.seconds
        Result.records.write()
        super().stopTest(test)

    def note(self, test, status: str, text: str = "") -> Record:
        record = self.record(test)
        record.status, record.text = status, text
        return record

    def addSuccess(self, test) -> None:
        super().addSuccess(test)
        if self.record(test).status == "not run":
            self.note(test, "passed")

    def addFailure(self, test, err) -> None:
        super().addFailure(test, err)
        text = self.failures[-1][1]
        if isinstance(err[1], Verdict):
            text = str(err[1])
            if not Result.traceback:
                self.failures[-1] = (test, f"{err[1]}\n")
        record = self.note(test, "failed", text)
        record.cause = getattr(err[1], "cause", "")
        record.look = getattr(err[1], "look", "")
        record.clients = getattr(err[1], "clients", 0)
        if isinstance(err[1], NothingToTest):
            Result.records.fatal = record.cause
            self.stop()
        elif not Server.ever_reached:
            self.stream.writeln("No server can be reached. The other tests are not run.")
            self.stop()

    def addError(self, test, err) -> None:
        """A verdict while a test is being set up is a failure too."""
        if isinstance(err[1], Verdict):
            return self.addFailure(test, err)
        super().addError(test, err)
        self.note(test, "failed", self.errors[-1][1])

    def addSkip(self, test, reason) -> None:
        super().addSkip(test, reason)
        not_yet = reason.startswith(("needs ", "first mend "))
        self.note(test, "not looked at" if not_yet else "skipped",
                  f"not looked at: {reason}" if not_yet else reason)

    def printErrors(self) -> None:
        self.stream.writeln()
        for line in Result.records.summary():
            self.stream.writeln(line)
        super().printErrors()
        self.stream.writeln()
        self.print_skipped()
        for name in dict.fromkeys(record.group for record in Result.records.all):
            group = [r for r in Result.records.all if r.group == name
                     and r.status in ("passed", "failed", "not looked at")]
            passed = sum(r.status == "passed" for r in group)
            unseen = sum(r.status == "not looked at" for r in group)
            if group:
                self.stream.writeln(f"{name:10} {passed} of {len(group)} passed"
                                    + f", {unseen} not looked at" * bool(unseen))
        if Server.slowest_start > 2:
            self.stream.writeln(f"The server took up to {Server.slowest_start:.1f} s to "
                                f"start; {START:g} s are allowed.")
        for number, step in enumerate(Result.records.steps(), 1):
            self.stream.writeln(f"{'next:' if number == 1 else '':6}{number}. {step}")

    def print_skipped(self) -> None:
        reasons: Dict[str, List[str]] = {}
        for test, reason in self.skipped:
            reasons.setdefault(reason, []).append(test_name(test))
        for reason, names in reasons.items():
            not_yet = reason.startswith(("needs ", "first mend "))
            text = f"{'not looked at' if not_yet else 'skipped'}: {reason}: "
            text = text.replace("skipped: remark: ", "remark: ")
            self.stream.writeln(textwrap.fill(text + ", ".join(names), 90,
                                              subsequent_indent="  "))


class Runner(unittest.TextTestRunner):
    """Keeps the records of the run, prints the verdicts so far if it is interrupted."""
    resultclass = Result
    options = argparse.Namespace(junit=None, gradescope=None, points={}, limit=0.0)

    def run(self, test):
        Result.records = records = Records(flat(test))
        records.weigh(Runner.options.points)
        if Runner.options.junit:
            records.files.append((Runner.options.junit, records.junit))
        if Runner.options.gradescope:
            records.files.append((Runner.options.gradescope, records.gradescope))
        records.write()
        if Runner.options.limit:
            Result.deadline = time.monotonic() + Runner.options.limit
        result = self._makeResult()
        result.failfast, result.buffer = self.failfast, self.buffer
        started = time.monotonic()
        try:
            test(result)
        except KeyboardInterrupt:
            records.interrupted = records.interrupted or "interrupted"
        finally:
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0)
            Server.stop_all()
        result.printErrors()
        self.conclude(result, records, time.monotonic() - started)
        return result

    def conclude(self, result: Result, records: Records, took: float) -> None:
        records.write()
        self.stream.writeln()
        run = plural(result.testsRun, "test")
        self.stream.writeln(f"Ran {run} in {took:.3f}s\n")
        failed = sum(record.status == "failed" for record in records.all)
        counts = {"failures": failed, "skipped": len(result.skipped)}
        said = ", ".join(f"{name}={count}" for name, count in counts.items() if count)
        left = sum(record.status == "not run" for record in records.all)
        if records.interrupted:
            self.stream.writeln(f"{records.interrupted}: {plural(left, 'check')} not run")
        verdict_ = "FAILED" if failed or left or not result.wasSuccessful() else "OK"
        self.stream.writeln(f"{verdict_} ({said})" if said else verdict_)


def flat(suite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


# ---- Running them ----------------------------------------------------------------------

def load_tests(loader, _tests, _pattern) -> unittest.TestSuite:
    """All classes, in this order."""
    classes = (Test1, Test2, Test3, Test4, Test5, Test6, TestRules)
    return unittest.TestSuite(map(loader.loadTestsFromTestCase, classes))


class Loader(unittest.TestLoader):
    """The checks in the order in which they are written: a cause before what follows."""

    def getTestCaseNames(self, testCaseClass):
        order = [name for case in testCaseClass.__mro__ for name in case.__dict__]
        return sorted(super().getTestCaseNames(testCaseClass), key=order.index)


def run_delay() -> float:
    """Seconds for which this program could have run, but had no processor."""
    try:
        return int(pathlib.Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def parse_points(text: str) -> Dict[str, float]:
    points = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            points[name.strip()] = float(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is not like Test1=2")
    return points


def too_long(*_) -> None:
    """A check has used up its time. The server is blamed for that, not the check; unless
    other checks, or the whole run, have left it too little."""
    if Uninterrupted.delays(too_long):
        return
    Result.expect_time_left()
    if Result.was_starved():
        signal.setitimer(signal.ITIMER_REAL, CHECK_LIMIT)
        return
    for server in Server.alive[-1:]:
        server.judged = True
        if Result.allowed < CHECK_LIMIT:
            server.cut_short = True
            raise NotLookedAt(NO_TIME)
        raise verdict(expected=f"a check that is over within {CHECK_LIMIT:g} s",
                      came="the server answers, but too slowly", says=server.says,
                      look=server.look)


def interrupted(number: int, frame) -> None:
    Result.records.interrupted = f"interrupted by {signal.Signals(number).name}"
    if not Uninterrupted.delays(interrupted, number, frame):
        raise KeyboardInterrupt


def main() -> NoReturn:
    """Runs the tests of the program that was started: this one, or who imports it."""
    global COMMAND
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--server", default=COMMAND)
    parser.add_argument("--traceback", action="store_true")
    parser.add_argument("--junit")
    parser.add_argument("--gradescope")
    parser.add_argument("--points", type=parse_points, default={})
    parser.add_argument("--limit", type=float, default=0)
    options, rest = parser.parse_known_args()
    if {"-h", "--help"} & set(rest):
        print(sys.modules["__main__"].__doc__)
        sys.exit(0)
    COMMAND = options.server
    Runner.options = options
    Result.traceback = options.traceback or rest.count("-v") > 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, too_long)
    Orphans.adopt()
    try:
        program = unittest.main(argv=sys.argv[:1] + rest, testRunner=Runner, exit=False,
                                testLoader=Loader())
    finally:
        Server.stop_all()
    records = Result.records
    passed = (program.result.wasSuccessful() and not records.interrupted and
              all(r.status not in ("failed", "not run") for r in records.all))
    sys.exit(3 if records.fatal else 0 if passed else 1)


if __name__ == "__main__":
    main()
