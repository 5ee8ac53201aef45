#!/usr/bin/env python3
"""Runs every ```console block of the chapters and compares what comes with what stands
there.

    python3 notes/transcripts.py check [CHAPTER ...]    says what differs, with exit
                                                        status 1
    python3 notes/transcripts.py write [CHAPTER ...]    puts what comes into the chapters

The blocks of a chapter run in order, as a plain user, in a copy of the repository, on a
network of their own (unshare(1)), with 1024 descriptors, each in a terminal: in the one
that a comment on the line before the block names, else in the one called "shell".
In a block

    $ words                     is a command; the lines that follow it are its output
    ...                         stands for any lines, and inside a line for any text

    <!-- terminal server -->            the block belongs to the terminal "server".
                                        Without a command, it shows what the last one
                                        there has said since
    <!-- types "hello", "^C" -->        what is typed into the program that the block
                                        starts, or, before all else, into the one that
                                        has been running
    <!-- terminal a; types "^D" -->     both
    <!-- not run: reason -->            the block is not run; the reason is listed
    <!-- no block is run: reason -->    the same for a whole chapter

A command that is the last one of its block runs on if the next block of its terminal does
not begin with a command. At the end of a chapter nothing may be left running.

What differs from run to run is made equal by MASKS before two lines are compared. A
chapter whose blocks need a tool that is missing is left from there on, and listed.
"""
import argparse
import contextlib
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
DEADLINE = float(os.environ.get("TRANSCRIPTS_DEADLINE") or 120)    # s, for any one thing
QUIET = 1.0             # s without output: only `write` takes that for the end
USER = 65534            # nobody: who runs the commands if we are root
DESCRIPTORS = 1024
TOOLS = ("nc", "lsof", "strace", "ss", "top", "ps", "git", "gdb", "redis-server",
         "redis-cli", "valgrind", "tmux", "socat", "pgrep", "bmake", "curl",
         "haproxy", "stunnel", "openssl", "websockify", "svlogd", "systemd-analyze")
READY = "\x1b]777;ready\x07"        # comes before each prompt

# What the kernel, the clock or the machine decides, and what it becomes.
MASKS = [(re.compile(pattern), mask) for pattern, mask in (
    (r"\b0x[0-9a-f]{5,}\b", "ADDRESS"),
    (r"\bu32=\d+, u64=\d+", "DATA"),
    (r"((?:\d+\.){3}\d+[:.]|\]:|\bport )(?!3100\b)\d{4,5}\b", r"\1PORT"),
    (r"^(\[\d\])([ +-]+)?(\d+)$", r"\1 PID"),
    (r"^(\[\d\])[ +-]+ (Done|Terminated|Exit|Killed|Stopped)", r"\1 \2"),
    (r"(Process|process|PID|pid) \d+", r"\1 PID"),
    (r"^(chatsrv|nc|python3|chatcl) +\d+ \S+ +(\d+[urw]\S*) +(IPv[46]) +\d+ ",
     r"\1 PID USER \2 \3 DEVICE "),
    (r"^ *\d+ \S+ +\d+ +\d+ .* ([SR]) +[\d.]+ .* (\S+)$", r"PID USER \1 \2"),
    (r"\bin \d+ reads\b", "in N reads"),
    (r"^ESTAB +\d+ +\d+ ", "ESTAB N N "),
    (r"^ *\d{4,}$", "NUMBER"),
    (r"\b\d\d:\d\d:\d\d(\.\d+)?\b", "TIME"),
    (r"\b\d+(\.\d+)? (s|ms|us|seconds?|MB|kB|KiB|MiB)\b", r"N \2"),
    (r"\bin \d+\.\d+s\b", "in Ns"),
    (r"Address:Port ?Process", "Address:Port Process"),
    (r"[ \t]+", " "),
    (r" $", ""),
)]


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
    >>> matches(["x ... z"], ["x y z"]), matches(["12345"], ["6789"])
    (True, True)
    >>> matches(["..."], [])
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


# ---- Chapters --------------------------------------------------------------------------

class Block(NamedTuple):
    chapter: pathlib.Path
    number: int             # of its first line
    lines: List[str]
    terminal: str
    types: List[str]
    not_run: str            # the reason

    def name(self) -> str:
        return f"{self.chapter.relative_to(ROOT)}:{self.number}"

    def is_said_later(self) -> bool:
        return not self.lines or not self.lines[0].startswith("$ ")


def chapters() -> List[pathlib.Path]:
    return [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "notes").glob("**/*.md"))]


def blocks(chapter: pathlib.Path) -> Iterator[Block]:
    text = chapter.read_text(encoding="utf-8")
    lines, whole = text.split("\n"), re.search(
        r"^<!-- no block is run: (.*) -->$", text, re.M)
    for first, line in enumerate(lines):
        if line != "```console":
            continue
        last = lines.index("```", first)
        above, note = first - 1, ""
        while above >= 0 and re.match(r"<!-- (terminal|types|not run)\b.* -->$",
                                      lines[above]):
            note, above = lines[above] + note, above - 1
        terminal = re.search(r"terminal (\w+)", note)
        types = re.search(r"types (\".*?\")(?:;| -->)", note)
        reason = re.search(r"not run: (.*?) -->", note)
        yield Block(chapter, first + 2, lines[first + 1:last],
                    terminal[1] if terminal else "shell",
                    re.findall(r'"(.*?)"', types[1]) if types else [],
                    reason[1] if reason else whole[1] if whole else "")


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
        self.changed = threading.Condition()
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
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
        self.wait(self.at_prompt, "the shell's first prompt")
        self.show()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = os.read(self.master, 1 << 16).decode(errors="backslashreplace")
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
        if text.endswith("\n"):
            text = text[:-1]
        return text.split("\n") if text else []

    def said(self) -> List[str]:
        """The same, without the prompt that waits at its end."""
        lines = self.lines()
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

    def type(self, text: str) -> None:
        key = re.fullmatch(r"\^([A-Z\\])", text)
        data = chr(ord(key[1]) & 31) if key else text + "\n"
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
    if os.getuid() == 0 and not os.environ.get("TRANSCRIPTS_MAPPED"):
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# ---- Running a chapter -----------------------------------------------------------------

class Run:
    """A chapter's blocks, one after the other."""

    def __init__(self, folder: pathlib.Path, writing: bool) -> None:
        self.folder, self.writing = folder, writing
        self.terminals: Dict[str, Terminal] = {}

    def run(self, all_blocks: List[Block]) -> Iterator[Tuple[Block, Optional[List[str]]]]:
        """Yields each block with what came in its place, None if that is as it was."""
        for at, block in enumerate(all_blocks):
            later = next((other for other in all_blocks[at + 1:]
                          if other.terminal == block.terminal), None)
            runs_on = later is not None and later.is_said_later()
            if block.terminal not in self.terminals:
                self.terminals[block.terminal] = Terminal(self.folder)
            terminal = self.terminals[block.terminal]
            late = ""
            try:
                self.block_run(terminal, block, runs_on)
            except Late as what:
                late = f"[waited in vain for {what}]"
            came = terminal.said()
            if late:
                print(f"{block.name()}: {late}", flush=True)
            yield block, None if self.same(block, terminal, came) and not late else came
            terminal.show()

    def same(self, block: Block, terminal: Terminal, came: List[str]) -> bool:
        shown = block.lines
        if shown and shown[-1] == "$" and terminal.at_prompt():
            shown = shown[:-1]
        return matches(shown, came)

    def block_run(self, terminal: Terminal, block: Block, runs_on: bool) -> None:
        words, types = commands(block.lines), block.types
        typed = 0
        ready = terminal.text[terminal.seen:].count(READY)
        if block.is_said_later():
            for text in types:      # to what has been running there since before
                typed = self.wait_before(terminal, block, text, typed)
                terminal.type(text)
            types = []
            if words:
                terminal.wait(terminal.at_prompt, "the prompt")
                ready = terminal.text[terminal.seen:].count(READY)
        for number, command in enumerate(words, 1):
            for line in command.split("\n"):
                terminal.type(line)
            if number < len(words):
                self.wait_prompt(terminal, ready + number)
        for text in types:
            typed = self.wait_before(terminal, block, text, typed)
            terminal.type(text)
        if self.writing and (runs_on or not words):
            time.sleep(QUIET)
            terminal.wait_quiet()
        elif not words and not runs_on and block.types:
            self.wait_prompt(terminal, ready + 1)
        elif runs_on or not words:
            terminal.wait(lambda: self.same(block, terminal, terminal.said()),
                          "the output")
            if words and block.lines[-1].endswith(words[-1].split("\n")[-1]):
                terminal.wait_asleep()      # it says nothing, so that is all one can see
        else:
            self.wait_prompt(terminal, ready + len(words))
            # What jobs in the background have to say may come later.
            if not self.writing:
                with contextlib.suppress(Late):
                    terminal.wait(lambda: self.same(block, terminal, terminal.said())
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
        place = next((at for at, line in enumerate(block.lines) if at >= start
                      and (line == text or line.endswith(" " + text))), None)
        if self.writing or place is None:
            return start
        prompt = block.lines[place][:-len(text)]
        before = block.lines[:place] + ([prompt] if prompt else [])
        terminal.wait(lambda: matches(before, terminal.said()), f"{text!r}")
        return place + 1

    def close(self) -> List[str]:
        return [f"terminal {name}: {what}" for name, terminal in self.terminals.items()
                for what in terminal.close()]


def copy_make(folder: pathlib.Path) -> pathlib.Path:
    """A copy of the repository, as one has it after cloning, that belongs to the user."""
    copy = folder / "chatsrv"
    shutil.copytree(str(ROOT), str(copy), symlinks=True, ignore=shutil.ignore_patterns(
        ".git", "build", "mine", "__pycache__", "chatsrv", "chatcl"))
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
        elif missing:
            print(f"not run: {block.name()} and what follows: "
                  f"{', '.join(missing)} is missing", flush=True)
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
    return len(wanted), wrong


def differs(block: Block, came: List[str]) -> None:
    print(f"{block.name()}: other output", flush=True)
    for mark, lines in ((" stands", block.lines), ("   came", came)):
        for line in lines[-60:] or [""]:
            print(f"  {mark}: {line}", flush=True)


def chapter_write(chapter: pathlib.Path, new: List[Tuple[Block, List[str]]]) -> None:
    lines = chapter.read_text(encoding="utf-8").split("\n")
    for block, came in reversed(new):
        lines[block.number - 1:block.number - 1 + len(block.lines)] = [
            l.rstrip() for l in came]
    chapter.write_text("\n".join(lines), encoding="utf-8")


# ---- A world of its own ----------------------------------------------------------------

def own_world(arguments: List[str]) -> None:
    """Starts this program again where nobody else has a port or a process; returns there,
    or where that cannot be had."""
    if os.environ.get("TRANSCRIPTS_INSIDE"):
        loopback_up()
        return
    for mapped, options in (("", "-npf"), ("1", "-rnpf")):
        words = ["unshare", options, "--mount-proc", "--kill-child"]
        if subprocess.run([*words, "true"], stderr=subprocess.DEVNULL).returncode == 0:
            # The shell waits for the orphans of that world, as its first process has to.
            words += ["sh", "-c", '"$@"; exit $?', "sh"]
            os.execvpe("unshare", [*words, sys.executable, __file__, *arguments],
                       {**os.environ, "TRANSCRIPTS_INSIDE": "1",
                        "TRANSCRIPTS_MAPPED": mapped})
    print("without a network of its own: port 3100 has to be free", flush=True)


def loopback_up() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, request)             # SIOCSIFFLAGS, netdevice(7)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("check", "write"))
    parser.add_argument("chapter", nargs="*", help="a part of its name")
    options = parser.parse_args()
    with contextlib.suppress(FileNotFoundError):        # elsewhere there is no unshare
        own_world(sys.argv[1:])
    wanted = [chapter for chapter in chapters() if not options.chapter
              or any(part in str(chapter.relative_to(ROOT)) for part in options.chapter)]
    total = wrong = 0
    for chapter in wanted:
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            copy = copy_make(pathlib.Path(folder))
            started = time.monotonic()
            count, bad = chapter_run(chapter, copy, options.verb == "write")
            total, wrong = total + count, wrong + bad
            print(f"{chapter.relative_to(ROOT)}: {count} blocks, {bad} wrong"
                  f" ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{total} blocks run, {wrong} wrong")
    return 1 if wrong and options.verb == "check" else 0


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
