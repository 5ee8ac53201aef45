"""A small Redis for tests: one stream per key, and a script of what goes wrong.

It speaks as much of RESP2 as a room needs: AUTH, XADD, XTRIM, XRANGE, XREAD. Unlike the
real Redis it does at once what a test tells it to: refuse a command, hold its reply back,
close after half a reply. `asked` lists the commands that it got.
"""
import collections
import contextlib
import os
import re
import socket
import threading
import time
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

import support
import test                             # tests/test.py, not Python's own

Id = Tuple[int, int]
Words = List[bytes]


class Entry(NamedTuple):
    id: Id
    fields: Words


class Asked(NamedTuple):
    link: "Link"
    words: Words


Action = Callable[["Link", Words], None]


# ---- What can happen instead of an answer ----------------------------------------------

def refuse(text: str) -> Action:
    return lambda link, words: link.send(b"-%s\r\n" % text.encode())


def answer(reply: bytes) -> Action:
    return lambda link, words: link.send(reply)


def close(link: "Link", words: Words) -> None:
    """A reset before anything has been done."""
    link.close()


def obey_and_close(link: "Link", words: Words) -> None:
    link.broker.reply(link, words)
    link.close()


def obey_by_half(link: "Link", words: Words) -> None:
    """Half of the reply, then a reset."""
    reply = link.broker.reply(link, words)
    link.send(reply[:len(reply) // 2])
    time.sleep(0.05)                    # else the reset overtakes it
    link.close(reset=True)


def obey_silently(link: "Link", words: Words) -> None:
    link.broker.reply(link, words)


def ignore(link: "Link", words: Words) -> None:
    """As if the command had never come."""


def slow(seconds: float) -> Action:
    def act(link: "Link", words: Words) -> None:
        time.sleep(seconds)
        link.send(link.broker.reply(link, words))
    return act


class Held:
    """Obeys, and holds the reply back until it is released; goes on reading the link."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, link: "Link", words: Words) -> None:
        reply = link.broker.reply(link, words)
        threading.Thread(target=self.answer, args=(link, reply), daemon=True).start()

    def answer(self, link: "Link", reply: bytes) -> None:
        self.event.wait(60)
        link.send(reply)


class Late(Held):
    """Obeys when it is released."""

    def __call__(self, link: "Link", words: Words) -> None:
        self.event.wait(60)
        link.send(link.broker.reply(link, words))


# ---- The broker ------------------------------------------------------------------------

class Link:
    """A connection."""

    def __init__(self, broker: "Broker", sock: socket.socket) -> None:
        self.broker, self.sock = broker, sock
        self.authenticated = not broker.password
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, reply: bytes) -> None:
        cut = self.broker.cut or max(1, len(reply))  # the test may change it meanwhile
        with contextlib.suppress(OSError):
            for at in range(0, len(reply), cut):
                if at > 0:
                    time.sleep(0.0003)          # for the other side to read it
                self.sock.sendall(reply[at:at + cut])

    def close(self, reset: bool = False) -> None:
        with contextlib.suppress(OSError):
            if reset:
                support.reset_on_close(self.sock)
                os.close(self.sock.detach())    # close() would wait for the file on it
            else:
                self.sock.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        with contextlib.suppress(OSError, EOFError), self.sock, \
                self.sock.makefile("rb") as file:
            while True:
                self.broker.obey(self, self.read_command(file))

    @staticmethod
    def read_command(file) -> Words:
        def number(kind: bytes) -> int:
            line = file.readline()
            if not line:
                raise EOFError
            assert re.fullmatch(rb"[*$]\d+\r\n", line) and line[:1] == kind, line
            return int(line[1:])

        words = []
        for _ in range(number(b"*")):
            size = number(b"$")
            words.append(file.read(size))
            assert file.read(2) == b"\r\n"
        return words


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


def array(items: List[bytes]) -> bytes:
    return b"*%d\r\n%s" % (len(items), b"".join(items))


def entry_reply(entry: Entry) -> bytes:
    return array([bulk(b"%d-%d" % entry.id),
                  array([bulk(field) for field in entry.fields])])


def id_of(text: bytes) -> Id:
    first, _, second = text.partition(b"-")
    return int(first), int(second or 0)


class Broker:
    def __init__(self, password: bytes = b"", user: bytes = b"default") -> None:
        self.password, self.user = password, user
        self.cut = 0                    # bytes a piece of a reply; 0: whole
        self.changed = threading.Condition()
        self.streams: Dict[bytes, List[Entry]] = collections.defaultdict(list)
        self.asked: List[Asked] = []
        self.links: List[Link] = []
        self.script: Dict[bytes, Deque[Action]] = collections.defaultdict(
            collections.deque)
        self.always: Dict[bytes, Action] = {}
        self.port = test.free_port()    # a server may still dial the last one's
        self.listener: Optional[socket.socket] = None
        self.open()

    def __enter__(self) -> "Broker":
        return self

    def __exit__(self, *_) -> None:
        self.shut()
        self.cut_off()

    # -- the network

    def open(self) -> None:
        """Listens, on the port that it had before if it had one."""
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.listener.listen(64)
        threading.Thread(target=self.accept, args=[self.listener], daemon=True).start()

    def accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                link = Link(self, listener.accept()[0])
                self.links.append(link)
                threading.Thread(target=link.run, daemon=True).start()

    def shut(self) -> None:
        """Stops listening."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def cut_off(self, *commands: bytes) -> None:
        """Resets all connections, or those on which one of these commands came."""
        for link in list(self.links):
            if not commands or any(asked.link is link and asked.words[0] in commands
                                   for asked in self.asked):
                self.links.remove(link)
                link.close()
        with self.changed:
            self.changed.notify_all()

    # -- the script

    def next(self, command: bytes, *actions: Action) -> None:
        """What happens to the next commands of this name."""
        self.script[command].extend(actions)

    def obey(self, link: Link, words: Words) -> None:
        with self.changed:
            self.asked.append(Asked(link, words))
            self.changed.notify_all()
            script = self.script[words[0]]
            action = script.popleft() if script else self.always.get(words[0])
        if action:
            action(link, words)
        else:
            link.send(self.reply(link, words))

    def count(self, command: bytes) -> int:
        return sum(asked.words[0] == command for asked in self.asked)

    def of(self, command: bytes) -> List[Words]:
        return [asked.words for asked in self.asked if asked.words[0] == command]

    def wait(self, condition: Callable[[], object], seconds: float = 20) -> bool:
        with self.changed:
            return bool(self.changed.wait_for(condition, seconds))

    # -- commands

    def reply(self, link: Link, words: Words) -> bytes:
        name, *rest = words
        if name == b"AUTH":
            *user, password = rest
            if password != self.password or user not in ([], [self.user]):
                return (b"-WRONGPASS invalid username-password pair"
                        b" or user is disabled.\r\n")
            link.authenticated = True
            return b"+OK\r\n"
        if not link.authenticated:
            return b"-NOAUTH Authentication required.\r\n"
        return {b"XADD": self.xadd, b"XTRIM": self.xtrim, b"XRANGE": self.xrange,
                b"XREAD": self.xread}[name](*rest)

    def add(self, key: bytes, fields: Words) -> Id:
        """Adds an entry, as if from somebody else."""
        with self.changed:
            stream = self.streams[key]
            last = stream[-1].id if stream else (0, 0)
            new = (int(time.time() * 1000), 0)
            if new <= last:
                new = (last[0], last[1] + 1)
            stream.append(Entry(new, fields))
            self.changed.notify_all()
            return new

    def xadd(self, key: bytes, maxlen: bytes, about: bytes, count: bytes, star: bytes,
             *fields: bytes) -> bytes:
        assert (maxlen, about, star) == (b"MAXLEN", b"~", b"*") and count.isdigit()
        return bulk(b"%d-%d" % self.add(key, list(fields)))

    def xtrim(self, key: bytes, maxlen: bytes, about: bytes, count: bytes) -> bytes:
        assert (maxlen, about) == (b"MAXLEN", b"~") and count.isdigit()
        with self.changed:
            del self.streams[key][:-int(count) or None]
        return b":0\r\n"

    def xrange(self, key: bytes, first: bytes, last: bytes) -> bytes:
        with self.changed:
            return array([entry_reply(entry) for entry in self.streams[key]
                          if id_of(first) <= entry.id <= id_of(last)])

    def xread(self, *words: bytes) -> bytes:
        count, most, block, ms, streams, key, after = words
        assert (count, block, streams) == (b"COUNT", b"BLOCK", b"STREAMS")
        def new() -> List[Entry]:
            return [entry for entry in self.streams[key] if entry.id > begin][:int(most)]
        with self.changed:
            last = [entry.id for entry in self.streams[key][-1:]]
            begin = max(last, default=(0, 0)) if after == b"$" else id_of(after)
            self.changed.wait_for(new, int(ms) / 1000)
            entries = new()
        if not entries:
            return b"*-1\r\n"
        return array([array([bulk(key),
                             array([entry_reply(entry) for entry in entries])])])
