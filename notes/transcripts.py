#!/usr/bin/env python3
r"""Runs every ```console block of the chapters and compares what comes with what stands
there.

    python3 notes/transcripts.py check [CHAPTER ...]    says what differs, with exit
                                                        status 1
    python3 notes/transcripts.py write [CHAPTER ...]    puts what comes into the chapters

The blocks of a chapter run in order, as a plain user, in a copy of the repository, on a
network of their own (unshare(1)), with 1024 descriptors, each in a terminal: in the one
that a comment on the line before the block names, else in the one called "shell". Some
chapters run at the same time, since most of them mostly wait. In a block

    $ words                     is a command; the lines that follow it are its output
    ...                         stands for any lines, and inside a line for any text

    <!-- terminal server -->            the block belongs to the terminal "server".
                                        Without a command, it shows what the last one
                                        there has said since
    <!-- types "hello", "^C" -->        what is typed into the program that the block
                                        starts, or, before all else, into the one that
                                        has been running
                                        (Enter follows, unless it ends with \c; \e is
                                        the Escape byte, \r the Enter key)
    <!-- screen -->                     the block is what a user sees at the bottom of the
                                        screen, and not the bytes that have come
    <!-- about -->                      a number of four digits that is a line may be
                                        four times as large, or a quarter
    <!-- unseen -->                     the terminal does not show what is typed: of the
                                        block's commands only the prompts come
    <!-- terminal a; types "^D" -->     both
    <!-- not run: reason -->            the block is not run; the reason is listed
    <!-- file race.c -->                no block of commands: the text that follows is put
                                        into a file of this name

A command that is the last one of its block runs on if the next block of its terminal does
not begin with a command. At the end of a chapter nothing may be left running.

What differs from run to run is made equal by MASKS before two lines are compared. A
chapter whose blocks need a tool that is missing is left from there on, and listed.
"""
import argparse
import codecs
import concurrent.futures
import contextlib
import doctest
import fcntl
import os
import pathlib
import pty
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "system"))

import screen       # noqa: E402  (tests/system/screen.py, a terminal's screen)

DEADLINE = float(os.environ.get("TRANSCRIPTS_DEADLINE") or 120)    # s, for any one thing
QUIET = 1.0             # s without output: only `write` takes that for the end
USER = 65534            # nobody: who runs the commands if we are root
DESCRIPTORS = 1024
COLUMNS, ROWS = 100, 24
WORLDS = 3              # how many chapters run at a time
TOOLS = ("nc", "lsof", "strace", "ss", "top", "ps", "git", "gdb", "redis-server",
         "redis-cli", "valgrind", "tmux", "socat", "pgrep", "bmake", "curl",
         "haproxy", "stunnel", "openssl", "websockify", "svlogd", "systemd-analyze",
         "nats-server", "clang")
READY = "\x1b]777;ready\x07"        # comes before each prompt

# What the kernel, the clock or the machine decides, and what it becomes.
MASKS = [(re.compile(pattern), mask) for pattern, mask in (
    (r"\b0x[0-9a-f]{5,}\b", "ADDRESS"),
    (r"\bepoll_pwait\(", "epoll_wait("),            # arm64 has no other
    (r"(, \d+, -?\d+), NULL, 8\)", r"\1)"),
    (r"\bsi_(pid|uid)=\d+", r"si_\1=N"),
    (r"\bu32=\d+, u64=\d+", "DATA"),
    (r"((?:\d+\.){3}\d+[:.]|\]:|\bport )(?!3100\b)\d{4,5}\b", r"\1PORT"),
    (r"^(\[\d\])([ +-]+)?(\d+)$", r"\1 PID"),
    (r"^(\[\d\])[ +-]+ (Done|Terminated|Exit|Killed|Stopped)", r"\1 \2"),
    (r"(Process|process|PID|pid) \d+", r"\1 PID"),
    (r"^(chatsrv|nc|python3|chatcl) +\d+ \S+ +(\d+[urw]\S*) +(IPv[46]) +\d+ ",
     r"\1 PID USER \2 \3 DEVICE "),
    (r"^ *\d+ \S+ +\d+ +\d+ .* ([SR]) +[\d.]+ .* (\S+)$", r"PID USER \1 \2"),
    (r"\bin \d+ reads\b", "in N reads"),
    (r"^dropped \d+ lines\b", "dropped N lines"),
    (r"^ok \d+ checks$", "ok N checks"),
    (r"^seed \d+$", "seed N"),
    (r"\b\d+ of \d+ passed", "N of N passed"),
    (r"^(ok: \d+ rounds), .*", r"\1, N"),
    (r"^ESTAB +\d+ +\d+ ", "ESTAB N N "),
    (r"^LISTEN +\d+ ", "LISTEN N "),
    (r"\b\d+ calls$", "N calls"),
    (r"^(anon_)?pipe_(write|wait)$", "anon_pipe_write"),
    (r"\b\d\d:\d\d:\d\d(\.\d+)?\b", "TIME"),
    (r"\b\d+(\.\d+)? (s|ms|us|seconds?|MB|kB|KiB|MiB)\b", r"N \2"),
    (r"\bin \d+\.\d+s\b", "in Ns"),
    (r"Address:Port ?Process", "Address:Port Process"),
    (r"[ \t]+", " "),
    (r" $", ""),
)]


NUMBER = re.compile(r" *\d{4,}$")


def masked(line: str) -> str:
    for pattern, mask in MASKS:
        line = pattern.sub(mask, line)
    return line


def line_matches(expected: str, came: str) -> bool:
    expected, came = masked(expected), masked(came)
    if expected == came:
        return True
    parts = [re.escape(part) for part in expected.split("...")]
    return len(parts) > 1 and re.fullmatch(".*".join(parts), came) is not None


def matches(expected: List[str], came: List[str]) -> bool:
    """
    >>> matches(["a", "...", "c"], ["a", "b", "b", "c"])
    True
    >>> matches(["a", "c"], ["a", "b", "c"])
    False
    >>> matches(["x ... z"], ["x y z"]), matches(["0x12345"], ["0x6789a"])
    (True, True)
    >>> matches(["..."], [])
    True
    >>> matches(["epoll_wait(3, ", "[{...}], 1, -1) = 1"],
    ...         ["epoll_pwait(3, ", "[{events=EPOLLIN}], 1, -1, NULL, 8) = 1"])
    True
    """
    here = {0}                  # how many of the lines that came may have been matched
    for line in expected:
        if line.strip() == "...":
            here = set(range(min(here), len(came) + 1)) if here else here
        else:
            here = {at + 1 for at in here
                    if at < len(came) and line_matches(line, came[at])}
    return len(came) in here


def like(expected: List[str], came: List[str]) -> List[str]:
    """What came, with the expected numbers in place of those that are about the same.

    >>> like(["a", "4096", "5"], ["a", "1024", "6"]), like(["4096"], ["1023"])
    (['a', '4096', '6'], ['1023'])
    >>> like(["4096", "1024"], ["1024", "4096"])
    ['4096', '1024']
    """
    numbers = [line for line in expected if NUMBER.match(line)]
    result = []
    for line in came:
        wanted = numbers.pop(0) if numbers and NUMBER.match(line) else line
        about = wanted != line and int(wanted) <= 4 * int(line) <= 16 * int(wanted)
        result.append(wanted if about else line)
    return result


# ---- Chapters --------------------------------------------------------------------------

NOTE = re.compile(r"<!-- (terminal|types|screen|about|unseen|file|not run)\b.* -->$")


class Block(NamedTuple):
    chapter: pathlib.Path
    number: int             # of its first line
    lines: List[str]
    terminal: str
    types: List[str]
    not_run: str            # the reason
    screen: bool
    about: bool
    unseen: bool
    file: str               # the name of the one that the lines are put into

    def name(self) -> str:
        return f"{self.chapter.relative_to(ROOT)}:{self.number}"

    def is_said_later(self) -> bool:
        return not self.lines or not self.lines[0].startswith("$ ")


def chapters() -> List[pathlib.Path]:
    return [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "notes").glob("**/*.md"))]


def blocks(chapter: pathlib.Path) -> Iterator[Block]:
    lines = chapter.read_text(encoding="utf-8").split("\n")
    for first, line in enumerate(lines):
        above, note = first - 1, ""
        while line.startswith("```") and above >= 0 and NOTE.match(lines[above]):
            note, above = lines[above] + note, above - 1
        file = re.search(r"<!-- file (\S+) -->", note)
        if line != "```console" and not file:
            continue
        last = lines.index("```", first + 1)
        terminal = re.search(r"terminal (\w+)", note)
        types = re.search(r"types (\".*?\")(?:;| -->)", note)
        reason = re.search(r"not run: (.*?) -->", note)
        yield Block(chapter, first + 2, lines[first + 1:last],
                    terminal[1] if terminal else "shell",
                    re.findall(r'"(.*?)"', types[1]) if types else [],
                    reason[1] if reason else "",
                    re.search(r"[-;] screen\b", note) is not None,
                    re.search(r"[-;] about\b", note) is not None,
                    re.search(r"[-;] unseen\b", note) is not None,
                    file[1] if file else "")


def commands(lines: List[str]) -> List[str]:
    """The commands of a block; one may have several lines."""
    found: List[str] = []
    open_ended = False
    for line in lines:
        if line.startswith("$ "):
            found.append(line[2:])
        elif found and open_ended:
            found[-1] += "\n" + line
        else:
            continue
        check = subprocess.run(["bash", "-n", "-c", found[-1]], stderr=subprocess.PIPE)
        open_ended = (re.search(rb"EOF|end.of.file", check.stderr) is not None
                      or found[-1].rstrip().endswith(("|", "\\")))
    return found


def tools_of(block: Block) -> List[str]:
    words = set(re.findall(r"[\w-]+", " ".join(commands(block.lines))))
    return [tool for tool in TOOLS if tool in words]


# ---- Terminals -------------------------------------------------------------------------

class Late(Exception):
    """What was awaited did not come."""


class Terminal:
    """A shell in a pseudo-terminal. What has been shown is text from `seen` on."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.text, self.seen, self.changed_at = "", 0, time.monotonic()
        self.cut = False        # what was shown last is a line whose end has not come
        self.changed = threading.Condition()
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ,
                    struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        if becomes_user():
            os.fchown(theirs, USER, -1)
        path = os.environ.get("PATH", "/usr/bin:/bin")
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "--noediting", "-i"], cwd=str(folder),
            stdin=theirs, stdout=theirs, stderr=theirs,
            preexec_fn=lambda: as_user(theirs),
            env={"PATH": path, "HOME": str(folder.parent), "LANG": "C.UTF-8",
                 "TERM": "xterm", "PS1": "$ ", "PS2": "", "HISTFILE": "/dev/null",
                 "USER": "student", "PROMPT_COMMAND": f"printf '{READY}'",
                 "GIT_PAGER": "cat"})
        os.close(theirs)
        self.master = ours
        threading.Thread(target=self._read, daemon=True).start()
        self.commands = 0       # how many it was given; a prompt comes before each
        self.wait(self.at_prompt, "the shell's first prompt")
        self.show()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
        with contextlib.suppress(OSError):
            while True:
                data = decoder.decode(os.read(self.master, 1 << 16))
                with self.changed:
                    self.text += data
                    self.changed_at = time.monotonic()
                    self.changed.notify_all()

    def at_prompt(self) -> bool:
        return self.text.endswith(READY + "$ ")

    def lines(self) -> List[str]:
        """What has come and has not been shown."""
        text = (self.text[self.seen:].replace(READY, "")
                .replace("\r\n", "\n").replace("\r", ""))
        if self.cut and text.startswith("\n"):
            text = text[1:]
        if text.endswith("\n"):
            text = text[:-1]
        return text.split("\n") if text else []

    def rows(self) -> List[str]:
        """What one sees, and would see by scrolling back."""
        page = screen.Screen(COLUMNS, ROWS)
        page.feed(self.text.replace(READY, "").encode())
        lines = page.all_lines()
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def said(self, block: "Block") -> List[str]:
        """What has come; on a screen, its last rows. Without the prompt that waits at the
        end."""
        lines = self.lines()
        if block.screen:
            lines = self.rows()
            if self.at_prompt():
                lines.pop()
            while lines and not lines[-1]:
                lines.pop()
            return lines
        if lines and self.at_prompt() and lines[-1].endswith("$ "):
            last = lines.pop()[:-2]     # a program may have ended without a newline
            lines += [last] if last else []
        return lines

    def wait(self, condition, what: str) -> None:
        end = time.monotonic() + DEADLINE
        with self.changed:
            while not condition():
                left = end - time.monotonic()
                if left <= 0:
                    raise Late(what)
                self.changed.wait(min(left, 0.5))

    def wait_quiet(self) -> None:
        while time.monotonic() < self.changed_at + QUIET:
            time.sleep(0.05)

    def wait_asleep(self) -> None:
        """Until the programs that run here wait for something: they have begun."""
        end, asleep = time.monotonic() + DEADLINE, 0
        while asleep < 3 and time.monotonic() < end:
            states = [state for session, pid, state, _ in processes()
                      if session == self.shell.pid and pid != session]
            asleep = asleep + 1 if states and set(states) <= set("ST") else 0
            time.sleep(0.03)

    def show(self) -> None:
        """What has come so far is dealt with; the prompt stays for the next block."""
        self.seen = len(self.text) - (2 if self.at_prompt() else 0)
        self.cut = self.seen == len(self.text) and not self.text.endswith("\n")

    def wait_ready(self) -> None:
        """Until each command that was given has ended. What runs in the background may
        have written behind the prompt."""
        self.wait(lambda: self.text.count(READY + "$ ") > self.commands, "the prompt")

    def type(self, command: str) -> None:
        self.cut = False
        self.commands += 1
        os.write(self.master, (command + "\n").encode())

    def press(self, keys: str) -> None:
        """What `types` names."""
        self.cut = False
        key = re.fullmatch(r"\^([A-Z\\])", keys)
        text = keys.replace("\\e", "\x1b").replace("\\r", "\r")
        data = chr(ord(key[1]) & 31) if key else \
            text[:-2] if text.endswith("\\c") else text + "\n"
        os.write(self.master, data.encode())

    @staticmethod
    def lasting(group: int) -> List[Tuple[int, str]]:
        """The processes behind a shell that do not end by themselves in a moment."""
        end = time.monotonic() + 3
        while True:
            found = [(pid, arguments) for session, pid, state, arguments in processes()
                     if session == group and pid != group and state != "Z"]
            if not found or time.monotonic() > end:
                return found
            time.sleep(0.05)

    def close(self) -> List[str]:
        """Ends all that runs in it. Returns what did."""
        left = []
        if not self.at_prompt():
            left.append(f"the program in the foreground, behind {self.text[-80:]!r}")
        group = self.shell.pid
        for pid, arguments in self.lasting(group):
            left.append(arguments)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(group, signal.SIGKILL)
        self.shell.wait()
        os.close(self.master)
        return left


def processes() -> List[Tuple[int, int, str, str]]:
    """Of each process its session, number, state and command."""
    listing = subprocess.run(["ps", "-A", "-o", "sess=,pid=,stat=,args="],
                             stdout=subprocess.PIPE, universal_newlines=True).stdout
    fields = (line.split(None, 3) for line in listing.splitlines())
    return [(int(f[0]), int(f[1]), f[2][0], f[3]) for f in fields if f[0].isdigit()]


def as_user(terminal: int) -> None:
    """In the child: a session with this terminal, as a plain user."""
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
    if becomes_user():
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def becomes_user() -> bool:
    return os.getuid() == 0 and not os.environ.get("TRANSCRIPTS_MAPPED")


# ---- Running a chapter -----------------------------------------------------------------

class Run:
    """A chapter's blocks, one after the other."""

    def __init__(self, folder: pathlib.Path, writing: bool) -> None:
        self.folder, self.writing = folder, writing
        self.terminals: Dict[str, Terminal] = {}

    def run(self, all_blocks: List[Block]) -> Iterator[Tuple[Block, Optional[List[str]]]]:
        """Yields each block with what came in its place, None if that is as it was."""
        for at, block in enumerate(all_blocks):
            if block.file:
                self.file_write(block)
                continue
            later = next((other for other in all_blocks[at + 1:] if not other.file
                          and other.terminal == block.terminal), None)
            runs_on = later is not None and later.is_said_later()
            if block.terminal not in self.terminals:
                self.terminals[block.terminal] = Terminal(self.folder)
            terminal = self.terminals[block.terminal]
            late = ""
            try:
                self.block_run(terminal, block, runs_on)
            except Late as what:
                late = f"[waited in vain for {what}]"
            if late:
                print(f"{block.name()}: {late}", flush=True)
            with terminal.changed:      # all three see the same text
                came = terminal.said(block)
                right = self.same(block, terminal, came) and not late
                terminal.show()
            yield block, None if right else came

    def file_write(self, block: Block) -> None:
        path = self.folder / block.file
        path.write_text("\n".join(block.lines) + "\n", encoding="utf-8")
        if becomes_user():
            os.chown(str(path), USER, USER)

    def same(self, block: Block, terminal: Terminal, came: List[str]) -> bool:
        shown = ["...", *block.lines] if block.screen else block.lines
        if block.unseen:        # nor does it show the end of such a line
            shown = re.sub(r"(?m)^\$ .*\n?", "$ ", "\n".join(shown)).split("\n")
        if shown and shown[-1] == "$" and terminal.at_prompt():
            shown = shown[:-1]
        return matches(shown, like(shown, came) if block.about else came)

    def block_run(self, terminal: Terminal, block: Block, runs_on: bool) -> None:
        words, types = commands(block.lines), block.types
        typed = 0
        ready = terminal.text[terminal.seen:].count(READY)
        if block.is_said_later():
            for text in types:      # to what has been running there since before
                typed = self.wait_before(terminal, block, text, typed)
                terminal.press(text)
            types = []
        if words:
            terminal.wait_ready()
            ready = terminal.text[terminal.seen:].count(READY)
        for number, command in enumerate(words, 1):
            terminal.type(command)
            if number < len(words):
                self.wait_prompt(terminal, ready + number)
        for text in types:
            typed = self.wait_before(terminal, block, text, typed)
            terminal.press(text)
        if self.writing and (runs_on or not words):
            time.sleep(QUIET)
            terminal.wait_quiet()
        elif not words and not runs_on and block.types:
            self.wait_prompt(terminal, ready + 1)
        elif runs_on or not words:
            terminal.wait(lambda: self.same(block, terminal, terminal.said(block)),
                          "the output")
            if words and block.lines[-1].endswith(words[-1].split("\n")[-1]):
                terminal.wait_asleep()      # it says nothing, so that is all one can see
        else:
            self.wait_prompt(terminal, ready + len(words))
            # What jobs in the background have to say may come later.
            if not self.writing:
                with contextlib.suppress(Late):
                    terminal.wait(lambda: self.same(block, terminal, terminal.said(block))
                                  or "&" not in "".join(words), "")

    def wait_prompt(self, terminal: Terminal, number: int) -> None:
        """Until as many commands have ended; the first prompt is the one before them."""
        terminal.wait(lambda: terminal.at_prompt()
                      and terminal.text[terminal.seen:].count(READY) >= number,
                      "the prompt")

    def wait_before(self, terminal: Terminal, block: Block, text: str, start: int) -> int:
        """Until all has come that stands before the text that is typed.

        Returns its place.
        """
        if self.writing:
            time.sleep(QUIET)
            terminal.wait_quiet()
        keys = text.endswith("\\c")
        text = text[:-2] if keys else text
        place = next((at for at, line in enumerate(block.lines) if at >= start
                      and (line == text or line.endswith(" " + text))), None)
        if place is None and keys:
            terminal.wait_asleep()      # until it looks at the keyboard
        if self.writing or place is None:
            return start
        prompt = block.lines[place][:-len(text)]
        before = block.lines[:place] + ([prompt] if prompt else [])
        before = ["...", *before] if block.screen else before
        terminal.wait(lambda: matches(before, terminal.said(block)), f"{text!r}")
        return place + 1

    def close(self) -> List[str]:
        return [f"terminal {name}: {what}" for name, terminal in self.terminals.items()
                for what in terminal.close()]


def copy_make(folder: pathlib.Path) -> pathlib.Path:
    """A copy of the repository, as one has it after cloning, that belongs to the user."""
    copy = folder / "chatsrv"
    shutil.copytree(str(ROOT), str(copy), symlinks=True, ignore=shutil.ignore_patterns(
        ".git", "build", "mine", "__pycache__", "chatsrv", "chatcl"))
    built = os.environ.get("TRANSCRIPTS_BUILT")
    if built:
        shutil.copytree(built, str(copy / "build"))
    if shutil.which("git"):
        for words in (["init", "-q"], ["add", "-A"],
                      ["-c", "user.name=a", "-c", "user.email=a@b",
                       "commit", "-qm", "."]):
            subprocess.run(["git", *words], cwd=str(copy), check=True)
    if os.getuid() == 0:
        for path in (folder, copy, *copy.rglob("*")):
            os.chown(str(path), USER, USER, follow_symlinks=False)
    return copy


def chapter_run(chapter: pathlib.Path, copy: pathlib.Path,
                writing: bool) -> Tuple[int, int]:
    """Returns how many blocks were run and how many were not as they stand."""
    wanted, wrong = [], 0
    for block in blocks(chapter):
        missing = [tool for tool in tools_of(block) if not shutil.which(tool)]
        if block.not_run:
            print(f"not run: {block.name()}: {block.not_run}", flush=True)
        elif block.file:
            wanted.append(block)
        elif missing:
            print(f"not run: {block.name()} and what follows: "
                  f"{', '.join(missing)} is missing", flush=True)
            wrong += bool(os.environ.get("CI"))     # which has them all
            break
        else:
            wanted.append(block)
    run = Run(copy, writing)
    new: List[Tuple[Block, List[str]]] = []
    try:
        for block, came in run.run(wanted):
            if came is not None:
                wrong += 1
                new.append((block, came))
                differs(block, came)
    finally:
        for what in run.close():
            print(f"{chapter.relative_to(ROOT)}: left running: {what}", flush=True)
            wrong += 1
    if writing:
        chapter_write(chapter, new)
    return sum(not block.file for block in wanted), wrong


def differs(block: Block, came: List[str]) -> None:
    print(f"{block.name()}: other output", flush=True)
    came = came[-len(block.lines) - 10:] if block.screen else came
    for mark, lines in ((" stands", block.lines), ("   came", came)):
        for line in lines[-60:] or [""]:
            print(f"  {mark}: {line[:200]}", flush=True)


def chapter_write(chapter: pathlib.Path, new: List[Tuple[Block, List[str]]]) -> None:
    lines = chapter.read_text(encoding="utf-8").split("\n")
    for block, came in reversed(new):
        came = came[-len(block.lines):] if block.screen else came
        lines[block.number - 1:block.number - 1 + len(block.lines)] = [
            l.rstrip() for l in came]
    chapter.write_text("\n".join(lines), encoding="utf-8")


# ---- A world of its own ----------------------------------------------------------------

def world() -> List[str]:
    """How to start a program where nobody else has a port or a process; [] if that cannot
    be had."""
    for mapped, options in (("", "-npf"), ("1", "-rnpf")):
        words = ["unshare", options, "--mount-proc", "--kill-child"]
        with contextlib.suppress(FileNotFoundError):        # elsewhere there is none
            if subprocess.run([*words, "true"],
                              stderr=subprocess.DEVNULL).returncode == 0:
                # The shell waits for that world's orphans, as a first process has to.
                return ["env", "TRANSCRIPTS_INSIDE=1", f"TRANSCRIPTS_MAPPED={mapped}",
                        *words, "sh", "-c", '"$@"; exit $?', "sh"]
    return []


def loopback_up() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, request)             # SIOCSIFFLAGS, netdevice(7)


def build(folder: str) -> str:
    """Builds what most chapters begin with, once for all of them: `make` then finds it
    as it should be, and a chapter that edits a program builds that one again."""
    copy = copy_make(pathlib.Path(folder))
    for goals in ["all"], *(["step", str(n)] for n in range(1, 7)):
        subprocess.run(["make", "-s", *goals], cwd=str(copy), stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=True)
    for program in "chatsrv", "chatcl":     # which step it is, each chapter says
        (copy / "build" / program).unlink()
    return str(copy / "build")


def chapter_here(chapter: pathlib.Path, verb: str) -> bool:
    """Returns whether all of its blocks are as they stand."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        copy = copy_make(pathlib.Path(folder))
        started = time.monotonic()
        count, wrong = chapter_run(chapter, copy, verb == "write")
    print(f"{chapter.relative_to(ROOT)}: {count} blocks, {wrong} wrong"
          f" ({time.monotonic() - started:.0f} s)", flush=True)
    return not wrong


def chapters_in_worlds(words: List[str], wanted: List[pathlib.Path],
                       verb: str) -> Iterator[bool]:
    """Each chapter in a world of its own, a few at a time; the longest begin."""
    started: List[subprocess.Popen] = []

    def run(chapter: pathlib.Path) -> Tuple[str, bool]:
        process = subprocess.Popen(
            [*words, sys.executable, __file__, verb, str(chapter.relative_to(ROOT))],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
            errors="backslashreplace")
        started.append(process)
        return process.communicate()[0], process.returncode == 0

    with concurrent.futures.ThreadPoolExecutor(WORLDS) as pool:
        wanted = sorted(wanted, key=lambda chapter: -len(list(blocks(chapter))))
        futures = [pool.submit(run, chapter) for chapter in wanted]
        try:
            for future in concurrent.futures.as_completed(futures):
                said, right = future.result()
                print(said, end="", flush=True)
                yield right
        finally:            # an interrupt: whoever waits does not begin, the others end
            for future in futures:
                future.cancel()
            for process in started:
                process.kill()


def is_meant(chapter: pathlib.Path, parts: List[str]) -> bool:
    """By its path, or by a part of it."""
    path, paths = str(chapter.relative_to(ROOT)), [str(c.relative_to(ROOT))
                                                   for c in chapters()]
    return any(path == part if part in paths else part in path for part in parts)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("check", "write"))
    parser.add_argument("chapter", nargs="*", help="a part of its name")
    options = parser.parse_args()
    wanted = [chapter for chapter in chapters()
              if not options.chapter or is_meant(chapter, options.chapter)]
    inside = bool(os.environ.get("TRANSCRIPTS_INSIDE"))
    words = [] if inside else world()
    if words:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TRANSCRIPTS_BUILT"] = build(folder)
            right = list(chapters_in_worlds(words, wanted, options.verb))
    else:
        if inside:
            loopback_up()
        else:
            print("without a network of its own: port 3100 has to be free", flush=True)
        right = [chapter_here(chapter, options.verb) for chapter in wanted]
    if not inside:
        print(f"{len(right)} chapters, {right.count(False)} with other output")
        right.append(not doctest.testmod().failed)
    return 1 if not all(right) and options.verb == "check" else 0


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
