#!/usr/bin/env python3
"""A room on a real Redis: three servers, each a host of its own, and everything that can
happen.

    python3 tests/system/room_test.py [--server 'CMD {options} {port}'] [--seed N]
                                      [--seconds N] [--plays N] [--lossless]

Needs redis-server (5.0 or later). As root on Linux the hosts are network namespaces,
otherwise addresses of the loopback network (hosts.py). The seed is printed; the same seed
makes the same things happen, though not to the microsecond.

Clients of all servers say numbered lines, and read everything. Meanwhile connections are
killed, cables cut, servers and Redis stopped, killed and started again, the stream is
trimmed or deleted ... In the end all is well again, and everybody says a last word. Then
the following must hold:

  - one order: if a line is followed by another one anywhere, it is followed by the same
    one everywhere. So nobody saw lines in another order, with a hole or twice. (Where the
    stream has lost its end, some have seen lines that others never will. Both are told,
    but not in the same moment: so who was sent away may have parted from the others
    before;)
  - each sender's lines come in its order, and none between two of them is missing;
  - a client that was never sent away has got back every line that it said;
  - a client that was sent away was told why; with --lossless, where nothing happens to
    the stream, nobody was.
"""
import argparse
import contextlib
import os
import pathlib
import random
import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Callable, Dict, List, Optional, Set, Tuple

import support
import test                             # tests/test.py, not Python's own
from hosts import Host, Network
from room_proxy import Proxy

SERVERS = 3
CLIENTS = 3                             # of each server; the first one never speaks
PASSWORD = "only chatsrv knows"
MISSED = b"(missed messages of the room)"
LAST = 60                               # seconds for all to be well again
MEMORY_MAX = 64 << 20                   # of a server that is built without a sanitizer


class Wrong(Exception):
    """A promise that was broken."""


# ---- Redis -----------------------------------------------------------------------------

class Redis:
    """A redis-server on a host, and what an administrator might do to it."""

    def __init__(self, host: Host, folder: str, options: str = "") -> None:
        self.host, self.folder, self.options = host, folder, options
        self.port = test.free_port()
        self.maxmemory = "0"
        self.process: Optional[subprocess.Popen] = None
        self.start()

    def start(self) -> None:
        words = shlex.split(
            f"redis-server --bind {self.host.address} --port {self.port}"
            f" --dir {self.folder}"
            " --protected-mode no --save '' --appendonly yes --appendfsync always"
            f" --user room on '>{PASSWORD}' ~chaos +xadd +xread +xrange +xtrim"
            f" {self.options}")
        self.process = subprocess.Popen(self.host.command(words),
                                        stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if self.ask("PING") == b"PONG":
                    return
            time.sleep(0.05)
        raise Wrong("redis-server does not start")

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        self.process.wait(20)

    def forget(self) -> None:
        shutil.rmtree(pathlib.Path(self.folder, "appendonlydir"), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            pathlib.Path(self.folder, "appendonly.aof").unlink()

    def ask(self, *words: str):
        """The reply, if it is one that we need: a status, a number or a string."""
        with socket.create_connection((self.host.address, self.port), 5) as sock:
            data = [word.encode() for word in words]
            sock.sendall(b"*%d\r\n" % len(data) +
                         b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in data))
            with sock.makefile("rb") as file:
                line = file.readline()[:-2]
                return file.read(int(line[1:])) if line[:1] == b"$" else line[1:]


# ---- The servers -----------------------------------------------------------------------

class Server:
    """A chatsrv on a host. It is started again when it has ended."""

    def __init__(self, template: str, host: Host, proxy: Proxy, address: str, folder: str,
                 name: str) -> None:
        self.host, self.proxy = host, proxy
        self.port = test.free_port()
        self.folder, self.name = folder, name
        self.runs = 0
        self.killed = False             # this run was ended by us
        self.memory = 0
        password = PASSWORD.replace(" ", "%20")
        url = f"redis://room:{password}@{address}:{proxy.port}/chaos"
        self.words = test.command_line(template, f"-n -l {host.address} -j {url}",
                                       self.port)
        self.log = self.stderr = pathlib.Path()
        self.process: Optional[subprocess.Popen] = None
        self.start()

    def start(self) -> None:
        self.runs += 1
        self.killed = False
        self.log = pathlib.Path(self.folder, f"{self.name}-{self.runs}.log")
        self.stderr = pathlib.Path(self.folder, f"{self.name}-{self.runs}.err")
        with self.log.open("wb") as out, self.stderr.open("wb") as errors:
            self.process = subprocess.Popen(self.host.command(self.words), stdout=out,
                                            stderr=errors, stdin=subprocess.DEVNULL,
                                            start_new_session=True)

    def has_joined(self) -> bool:
        return b"listening on" in self.log.read_bytes()

    def watch(self) -> None:
        """Starts it again if it has ended for a good reason."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError, TypeError):
                status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
                self.memory = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024
            return
        said = self.stderr.read_bytes()
        if not self.killed and (self.has_joined()
                                or not said.startswith(b"chatsrv: room ")):
            raise Wrong(f"{self.name} ended by itself,"
                        f" status {self.process.returncode}:\n"
                        + said.decode(errors="replace")[-3000:])
        self.start()

    def kill(self, number: int) -> None:
        self.killed = True
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)

    def cpu(self) -> float:
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- The clients -----------------------------------------------------------------------

class Session:
    """What one connection has said and heard."""

    def __init__(self, name: str, server: Server) -> None:
        self.name, self.server, self.run = name, server, server.runs
        self.log = server.log
        self.address = ""
        self.said = 0                   # lines
        self.heard: List[bytes] = []
        self.has_heard_itself = False
        self.last_words: Set[bytes] = set()     # those of all clients that it has heard
        self.ended = ""                 # how: "killed" with its server, or "told"


class Client:
    """Connects to its server, again and again; each time is a session."""

    def __init__(self, play: "Play", server: Server, name: str, speaks: bool) -> None:
        self.play, self.server, self.name, self.speaks = play, server, name, speaks
        self.sock: Optional[socket.socket] = None
        self.session: Optional[Session] = None
        self.sessions = 0
        self.rest = b""
        self.unsent = b""
        self.connect_at = 0.0
        self.speak_at = 0.0

    def turn(self, now: float) -> None:
        if not self.sock and now >= self.connect_at:
            self.connect(now)
        elif self.sock and self.speaks and self.session.heard and now >= self.speak_at:
            self.speak(now)

    def connect(self, now: float) -> None:
        self.connect_at = now + 0.2
        if self.server.process.poll() is not None or not self.server.has_joined():
            return
        sock = socket.socket()
        sock.settimeout(0.5)            # while a cable is cut
        try:
            sock.connect((self.server.host.address, self.server.port))
        except OSError:
            sock.close()
            return
        sock.setblocking(False)
        self.sessions += 1
        self.session = Session(f"{self.name}.{self.sessions}", self.server)
        self.session.address = "%s:%d" % sock.getsockname()
        self.play.sessions.append(self.session)
        self.sock, self.rest, self.unsent = sock, b"", b""
        self.play.selector.register(sock, selectors.EVENT_READ, self)

    def speak(self, now: float) -> None:
        """A line, or several at once; some of them long."""
        chance = self.play.noise
        self.speak_at = now + chance.expovariate(1 / self.play.pause)
        if len(self.unsent) < 1 << 16:
            for _ in range(1 if chance.random() < 0.9 else chance.randrange(1, 60)):
                self.say()
        self.flush()

    def say(self) -> None:
        size = 0 if self.play.noise.random() < 0.9 else self.play.noise.randrange(1000)
        self.session.said += 1
        self.unsent += b"%s:%d:%s\n" % (self.session.name.encode(), self.session.said,
                                        b"-" * size)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent):]

    def receive(self) -> None:
        data = support.receive(self.sock)
        if data is None:
            return
        if not data:
            self.leave()
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        lines = [line.rstrip(b"-") for line in lines]
        self.session.heard += lines
        own = self.session.name.encode() + b":"
        self.session.last_words |= self.play.last_words.intersection(lines)
        self.session.has_heard_itself |= any(line.startswith(own) for line in lines)

    def leave(self) -> None:
        killed = self.session.run != self.server.runs or self.server.killed
        self.session.ended = "killed" if killed else "told"
        self.play.selector.unregister(self.sock)
        self.sock.close()
        self.sock = None


# ---- A play ----------------------------------------------------------------------------

class Play:
    def __init__(self, args: argparse.Namespace, seed: int, network: Network,
                 folder: str) -> None:
        self.args, self.seed, self.network = args, seed, network
        self.chance = random.Random(seed)   # of what happens; the clients have their own
        self.noise = random.Random(seed)
        self.selector = selectors.DefaultSelector()
        self.sessions: List[Session] = []
        self.pause = 0.02               # seconds between two lines of a client, about
        self.later: List[Tuple[float, Callable[[], None]]] = []
        self.redis = Redis(network.hosts[0], folder)
        self.proxies = [Proxy(network.address, (self.redis.host.address, self.redis.port))
                        for _ in range(SERVERS)]
        self.servers = [
            Server(args.server, host, proxy, network.address, folder, f"server {number}")
            for number, (host, proxy) in enumerate(zip(network.hosts[1:], self.proxies),
                                                   1)]
        self.clients = [Client(self, server, f"{number}{letter}", letter != "a")
                        for number, server in enumerate(self.servers, 1)
                        for letter in "abc"[:CLIENTS]]
        self.told: List[str] = []
        self.rewound = False
        self.last_words: Set[bytes] = set()

    def close(self) -> None:
        for server in self.servers:
            server.kill(signal.SIGKILL)
        for proxy in self.proxies:
            proxy.close()
        self.redis.stop(signal.SIGKILL)
        for client in self.clients:
            if client.sock:
                client.sock.close()

    def tell(self, what: str) -> None:
        self.told.append(f"{time.monotonic() - self.started:6.2f} s  {what}")

    # -- what can happen

    def happenings(self) -> Dict[str, Callable[[], None]]:
        quiet = {name[3:]: getattr(self, name)
                 for name in dir(self) if name.startswith("do_")}
        loud = {name[5:]: getattr(self, name)
                for name in dir(self) if name.startswith("lose_")}
        return quiet if self.args.lossless or self.seed % 2 else {**quiet, **loud}

    def seconds(self) -> float:
        """How long something lasts: usually not long, sometimes longer than any
        deadline."""
        return self.chance.choice([0.1, 0.5, 1, 2, 3, 11])

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.later.append((time.monotonic() + seconds, action))

    def do_client_kill(self) -> None:
        self.redis.ask("CLIENT", "KILL", "USER", "room")

    def do_one_client_kill(self) -> None:
        ids = re.findall(rb"^id=(\d+) .* user=room", self.redis.ask("CLIENT", "LIST"),
                         re.M)
        if ids:
            self.redis.ask("CLIENT", "KILL", "ID", self.noise.choice(ids).decode())

    def do_cut_cable(self) -> None:
        server = self.chance.choice(self.servers)
        if self.network.real:
            server.host.plug(False)
            self.after(self.seconds(), lambda: server.host.plug(True))
        else:
            server.proxy.freeze(True)
            self.after(self.seconds(), lambda: server.proxy.freeze(False))

    def do_freeze_proxy(self) -> None:
        proxy = self.chance.choice(self.proxies)
        proxy.freeze(True)
        self.after(self.seconds(), lambda: proxy.freeze(False))

    def do_stop_redis(self) -> None:
        self.redis.process.send_signal(signal.SIGSTOP)
        self.wait(min(self.seconds(), 3))
        self.redis.process.send_signal(signal.SIGCONT)

    def do_restart_redis(self) -> None:
        self.redis.stop(self.chance.choice([signal.SIGTERM, signal.SIGKILL]))
        self.wait(self.chance.choice([0, 0.5, 2]))
        self.redis.start()

    def do_kill_server(self) -> None:
        self.chance.choice(self.servers).kill(signal.SIGKILL)

    def do_end_server(self) -> None:
        self.chance.choice(self.servers).kill(signal.SIGTERM)

    def do_stop_server(self) -> None:
        process = self.chance.choice(self.servers).process
        process.send_signal(signal.SIGSTOP)
        self.after(self.seconds(), lambda: process.send_signal(signal.SIGCONT))

    def do_out_of_memory(self) -> None:
        self.redis.ask("CONFIG", "SET", "maxmemory", "1")
        self.after(min(self.seconds(), 3), lambda: self.redis.ask(
            "CONFIG", "SET", "maxmemory", "0"))

    def do_change_password(self) -> None:
        self.redis.ask("ACL", "SETUSER", "room", "resetpass", ">another")
        self.redis.ask("CLIENT", "KILL", "USER", "room")
        self.after(min(self.seconds(), 3), lambda: self.redis.ask(
            "ACL", "SETUSER", "room", "resetpass", ">" + PASSWORD))

    def do_half_reply(self) -> None:
        self.chance.choice(self.proxies).half_reply(self.noise)

    def do_hold_reply(self) -> None:
        self.chance.choice(self.proxies).hold(self.noise, self.chance.choice([1, 20]))

    def do_late_bytes(self) -> None:
        self.chance.choice(self.proxies).late(self.noise, self.chance.choice([0.2, 1, 3]))

    def do_late_bytes_and_newcomer(self) -> None:
        """A server that starts between an entry and its copy."""
        one, other = self.chance.sample(self.servers, 2)
        one.proxy.late(self.noise, 2)
        other.kill(signal.SIGKILL)

    def lose_restart_empty(self) -> None:
        self.redis.stop(signal.SIGKILL)
        self.redis.forget()
        self.redis.start()

    def lose_rewind(self) -> None:
        """Back to an older copy of its files."""
        copy = pathlib.Path(self.redis.folder, "copy")
        files = pathlib.Path(self.redis.folder, "appendonlydir")
        shutil.rmtree(copy, ignore_errors=True)
        with contextlib.suppress(OSError, shutil.Error):
            shutil.copytree(files, copy)
        self.wait(1)
        self.rewound = True
        self.redis.stop(signal.SIGKILL)
        if copy.is_dir():
            self.redis.forget()
            copy.rename(files)
        self.redis.start()

    def lose_delete(self) -> None:
        self.redis.ask("DEL", "chaos")

    def lose_trim(self) -> None:
        self.redis.ask("XTRIM", "chaos", "MAXLEN",
                       self.chance.choice(["0", "1", "5", "50"]))

    # -- time passes

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Everybody goes on for that long, or until the condition is true."""
        end = time.monotonic() + seconds
        while not until():
            now = time.monotonic()
            if now >= end:
                return False
            for due in [due for due in self.later if due[0] <= now]:
                self.later.remove(due)
                try:
                    due[1]()
                except OSError:         # Redis is away
                    self.after(0.2, due[1])
            for server in self.servers:
                server.watch()
            for client in self.clients:
                client.turn(now)
            for key, _ in self.selector.select(0.005):
                key.data.receive()
        return True

    def run(self) -> None:
        self.started = time.monotonic()
        happenings = self.happenings()
        self.all_speak()
        names = []
        while time.monotonic() < self.started + self.args.seconds:
            names = names or self.chance.sample(sorted(happenings), len(happenings))
            name = names.pop()
            self.tell(name)
            with contextlib.suppress(OSError):  # Redis is away: so that could not happen
                happenings[name]()
            self.wait(self.chance.choice([0, 0.1, 0.5, 1, 2]))
        self.tell("that was all")
        self.wait(LAST, lambda: not self.later)
        self.all_speak()
        self.say_last_words()

    def all_speak(self) -> None:
        """Waits until every client hears what it says."""
        def all_hear() -> bool:
            for client in self.clients:
                if client.sock and client.session.heard and not client.session.said:
                    client.say()
                if client.sock:
                    client.flush()
            return all(client.sock and client.session.has_heard_itself
                       for client in self.clients)
        if not self.wait(LAST, all_hear):
            raise Wrong("not all hear what they say: " + ", ".join(
                client.name for client in self.clients
                if not client.sock or not client.session.has_heard_itself))

    def say_last_words(self) -> None:
        for client in self.clients:
            client.speaks = False
        def all_sent() -> bool:
            for client in self.clients:
                if client.sock:
                    client.flush()
            return all(client.sock and not client.unsent for client in self.clients)
        self.wait(LAST, all_sent)
        for client in self.clients:
            client.say()
            self.last_words.add(b"%s:%d:" % (client.session.name.encode(),
                                             client.session.said))
        def all_heard() -> bool:
            for client in self.clients:
                if client.sock:
                    client.flush()
            return all(client.sock and client.session.last_words == self.last_words
                       for client in self.clients)
        if not self.wait(LAST, all_heard):
            raise Wrong("not all have heard everybody's last word: " + ", ".join(
                f"{client.name} lacks"
                f" {sorted(self.last_words - client.session.last_words)}"
                for client in self.clients))

    # -- what must hold

    def judge(self) -> None:
        self.judge_order()
        self.judge_senders()
        self.judge_ends()
        self.judge_servers()

    def judge_order(self) -> None:
        after: Dict[bytes, Tuple[bytes, Session]] = {}
        before: Dict[bytes, Tuple[bytes, Session]] = {}
        for session in sorted(self.sessions, key=self.may_part):    # these last
            lines = session.heard[1:]               # without the greeting
            if len(set(lines)) < len(lines):
                twice = next(line for line in lines if lines.count(line) > 1)
                raise Wrong(f"{session.name} heard {twice!r} twice")
            for one, two in zip(lines, lines[1:]):
                other, who = after.setdefault(one, (two, session))
                another, whose = before.setdefault(two, (one, session))
                if (other, another) == (two, one):
                    continue
                if self.may_part(session):
                    break
                raise Wrong(f"{session.name} heard {one!r}, {two!r}; but {who.name}"
                            f" {one!r}, {other!r}, and {whose.name} {another!r}, {two!r}")

    def may_part(self, session: Session) -> bool:
        """Was it told that it missed something, or would have been by a server that was
        killed?"""
        return session.ended == "told" or bool(session.ended) and self.rewound

    def judge_senders(self) -> None:
        said = {session.name: session.said for session in self.sessions}
        for session in self.sessions:
            last: Dict[str, int] = {}
            for line in session.heard[1:]:
                match = re.fullmatch(rb"([^:]+):(\d+):", line)
                if not match or match[1].decode() not in said:
                    raise Wrong(f"{session.name} heard {line!r}, which nobody said")
                sender, number = match[1].decode(), int(match[2])
                if last.get(sender, number - 1) != number - 1:
                    raise Wrong(f"{session.name} heard {line!r}"
                                f" after number {last[sender]}")
                last[sender] = number
            if not session.ended and session.said != last.get(session.name, 0):
                raise Wrong(f"{session.name} said {session.said} lines, and heard of its"
                            f" own the last one as number {last.get(session.name, 0)}")
            own = [line for line in session.heard
                   if line.startswith(session.name.encode() + b":")]
            if own and own[0] != session.name.encode() + b":1:":
                raise Wrong(f"{session.name} heard of its own first {own[0]!r}")

    def judge_ends(self) -> None:
        told = [session for session in self.sessions if session.ended == "told"]
        for session in told:
            line = b"connection terminated: %s %s" % (session.address.encode(), MISSED)
            if line not in session.log.read_bytes():
                raise Wrong(f"{session.name} was disconnected, but not for having missed"
                            f" something: {session.log}")
        if told and (self.args.lossless or self.seed % 2):
            raise Wrong(f"{told[0].name} was told that it missed something,"
                        " but nothing was lost")

    def judge_servers(self) -> None:
        for server in self.servers:
            sanitized = b"__asan_init" in pathlib.Path(server.words[0]).read_bytes()
            if server.memory > MEMORY_MAX and not sanitized:
                raise Wrong(f"{server.name} has taken {server.memory >> 20} MiB")
            before = server.cpu()
            time.sleep(0.3)
            if server.cpu() - before > 0.15:
                raise Wrong(f"{server.name} is busy while nobody speaks")
            server.kill(signal.SIGTERM)
            if server.process.returncode != 0 or server.stderr.read_bytes():
                raise Wrong(f"{server.name} ended with status"
                            f" {server.process.returncode}:\n"
                            + server.stderr.read_text(errors="replace")[-3000:])

    def report(self) -> str:
        lines = sum(len(session.heard) for session in self.sessions)
        ends = [session.ended for session in self.sessions]
        logs = b"".join(path.read_bytes()
                        for path in pathlib.Path(self.redis.folder).glob("*.log"))
        return (f"{len(self.told) - 1} happenings,"
                f" {sum(s.said for s in self.sessions)} lines said,"
                f" {lines} heard; the room was lost {logs.count(b'lost the room')} times;"
                f" {ends.count('told')} clients sent away,"
                f" {ends.count('killed')} died with their server")


def play(args: argparse.Namespace, seed: int, network: Network) -> bool:
    folder = tempfile.mkdtemp(prefix="room-")
    kept = False
    one = Play(args, seed, network, folder)
    try:
        one.run()
        one.judge()
        print(f"seed {seed}: {one.report()}", flush=True)
    except Wrong as wrong:
        kept = True
        print(f"seed {seed}: {wrong}\nwhat happened:", *one.told, sep="\n")
        print(f"the logs are in {folder}", flush=True)
    finally:
        one.close()
        if not kept:
            shutil.rmtree(folder)
    return not kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--server", default=test.COMMAND)
    parser.add_argument("--seed", type=int, default=0,
                        help="of the first play (by chance)")
    parser.add_argument("--plays", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20,
                        help="of a play's chaos (20)")
    parser.add_argument("--lossless", action="store_true",
                        help="nothing happens to the stream;"
                        " so it is also with every odd seed")
    args = parser.parse_args()
    if not shutil.which("redis-server"):
        print("redis-server is not installed")
        return 1
    first = args.seed or random.SystemRandom().randrange(10 ** 6)
    with Network(SERVERS + 1) as network:
        print(f"on {network}", flush=True)
        passed = [play(args, seed, network) for seed in range(first, first + args.plays)]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
