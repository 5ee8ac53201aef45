#!/usr/bin/env python3
"""Plays a random chat and checks every byte against a model of the protocol.

    python3 tests/system/model_test.py [--server 'CMD {port}'] [--seed N] [--rounds N]
                                       [--drop-tail]

The seed is printed; the same seed plays the same script again. --drop-tail is for servers
that drop an unterminated last line and close at end of file, as the steps do.

The model. One client, the witness, is there from the first message to the last and reads
everything: what it gets is the chat. A script of rounds makes the others connect, send
lines in pieces of any size, stop reading, read again, half-close, reset and leave, all at
the same time. Each round ends with a last word of the witness, up to which everybody
reads. Then:

  - the chat of this round is an interleaving of what its senders sent: each one's
    messages are whole, in order, none missing, none invented, cut at 1024 bytes. A client
    that resets may lose its last messages; one that leaves in order, when all it sent has
    been acknowledged, may lose only an unterminated line;
  - what another client got is one piece of the chat, byte for byte. It begins where the
    client connected and goes on to the end; if the client half-closed, it goes at least
    to its own last message.
"""
import argparse
import collections
import pathlib
import random
import selectors
import shlex
import signal
import socket
import sys
import tempfile
import time
from typing import Deque, Dict, List, Optional, Set, Tuple

import support
import test                             # tests/test.py, not Python's own
from support import receive, reset_on_close, unacknowledged
from test import DEADLINE, LINUX, MESSAGE_MAX, TERMINATED, Peer, Server, Verdict, shown

CLIENTS_MAX = 12
ALL = 1 << 30
STALL_MAX = 12 << 20            # bytes: less than a server may hold back for a client
SIZES = [0, 0, 1, 2, 10, 60, 300, 1022, 1023, 1024, 1025, 2047, 2048, 2049, 5000]
ALPHABETS = [b"abcdefgh ", bytes(set(range(256)) - {10}), b"\0", b"\r\x1b[2J",
             "щ😀e\u0301".encode()]

Line = bytes                            # of the chat: prefix, message, newline


class Splitter:
    """The protocol's rule for messages in its simplest form, with all bytes at hand."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> List[bytes]:
        *lines, rest = (self.rest + data).split(b"\n")
        *full, self.rest = self.pieces(rest)
        return [piece for line in lines for piece in self.pieces(line)] + full

    def tail(self) -> List[bytes]:
        return [self.rest] if self.rest else []

    @staticmethod
    def pieces(line: bytes) -> List[bytes]:
        return [line[at:at + MESSAGE_MAX]
                for at in range(0, max(1, len(line)), MESSAGE_MAX)]


class Client:
    """One connection, and what the model knows about it."""

    def __init__(self, peer: Peer) -> None:
        self.sock = peer.sock
        self.sock.setblocking(False)
        self.got = bytearray()          # what it received and nobody has checked
        self.greeted = False
        self.ended = False              # the server has closed the connection
        self.stalled = False            # does not read
        self.half_closed = False
        self.place: Optional[int] = None    # in the chat: where got begins
        self.splitter = Splitter()
        self.prefix: Optional[bytes] = None
        self.due: List[Line] = []       # what the chat of this round must have of it
        self.may_lose = 0               # ... except for this many of the last ones

    def receive(self) -> None:
        data = receive(self.sock)
        if data is None:
            return
        self.ended = not data
        self.got += data

    def will_send(self, data: bytes) -> None:
        self.due += [self.prefix + text + b"\n" for text in self.splitter.feed(data)]

    def will_end(self, by: str) -> None:
        tail = self.splitter.tail()
        if by == "leave":   # unread bytes make it a reset, not an end of file
            self.may_lose = max(self.may_lose, len(tail))
        self.due += [self.prefix + text + b"\n" for text in tail]


Action = Tuple[str, Client, bytes]      # connect, send, half-close, reset, leave


class Log:
    """The server's log in a file, since a server drops lines
    that nobody reads in time."""

    def __init__(self, folder: str) -> None:
        self.path = pathlib.Path(folder, "log")
        self.path.touch()
        self.seen: Dict[bytes, Tuple[int, int]] = {}  # by text: lines, how many bytes

    def command(self, server: str) -> str:
        """The server's command, its log redirected."""
        script = f'exec "$@" >{shlex.quote(str(self.path))}'
        return f"sh -c {shlex.quote(script)} sh {server}"

    def count(self, text: bytes) -> int:
        count, place = self.seen.get(text, (0, 0))
        with self.path.open("rb") as file:
            file.seek(place)
            data = file.read()
        whole = data[:data.rfind(b"\n") + 1]
        count += sum(text in line for line in whole.split(b"\n"))
        self.seen[text] = count, place + len(whole)
        return count

    def expect(self, server: Server, text: bytes, count: int) -> None:
        """Waits until that many lines hold the text."""
        end = time.monotonic() + 4 * DEADLINE
        while self.count(text) < count:
            if time.monotonic() > end:
                server.fail(f"{count} lines with {shown(text)} in the log",
                            f"{self.count(text)} of them within {4 * DEADLINE:g} s")
            time.sleep(0.001)


class Play:
    def __init__(self, server: Server, log: Log, seed: int, drop_tail: bool) -> None:
        self.server, self.log, self.drop_tail = server, log, drop_tail
        self.random = random.Random(seed)
        self.chat = bytearray()
        self.clients: List[Client] = []
        self.ends = 0                   # connections the log must report as terminated
        self.messages = 0
        self.witness = self.connect()
        self.await_greeting(self.witness)
        self.introduce(self.witness)

    # -- what comes in

    def pump(self, wanted: str, arrived, writing: Optional[Client] = None) -> None:
        """Everybody but the stalled clients reads until arrived() is true."""
        end = time.monotonic() + 4 * DEADLINE
        with selectors.DefaultSelector() as selector:
            for client in self.clients:
                events = (
                    (0 if client.stalled or client.ended else selectors.EVENT_READ)
                    | (selectors.EVENT_WRITE if client is writing else 0))
                if events:
                    selector.register(client.sock, events, client)
            while not arrived():
                ready = selector.select(end - time.monotonic())
                if not ready:
                    self.server.fail(wanted, f"not within {4 * DEADLINE:g} s")
                for key, events in ready:
                    if events & selectors.EVENT_READ:
                        key.data.receive()
                        if key.data.ended:
                            selector.unregister(key.data.sock)
                    if events & selectors.EVENT_WRITE:
                        return

    def connect(self, receive_buffer: int = 0) -> Client:
        client = Client(self.server.connect(receive_buffer=receive_buffer))
        self.clients.append(client)
        return client

    def await_greeting(self, client: Client) -> None:
        self.pump("a greeting", lambda: b"\n" in client.got or client.ended)
        greeting, newline, rest = bytes(client.got).partition(b"\n")
        if not greeting.startswith(b"Welcome") or not newline:
            self.server.fail("a line that begins with Welcome", shown(bytes(client.got)))
        client.got = bytearray(rest)
        client.greeted = True

    def introduce(self, client: Client) -> None:
        """Learns the client's place in the chat, and its prefix.
        Nobody else may be speaking."""
        word = self.word()
        begin = len(self.chat)
        if client.place is None:
            client.place = begin
        self.send(client, word + b"\n")
        self.pump("the client's hello", lambda: self.witness.got.endswith(word + b"\n"))
        client.prefix = bytes(self.witness.got[:-len(word) - 1])
        if b"\n" in client.prefix:
            self.server.fail(f"nothing but {shown(word)}", shown(bytes(self.witness.got)))
        self.chat += self.witness.got
        self.witness.got.clear()
        self.witness.place = len(self.chat)

    # -- what goes out

    def send(self, client: Client, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[client.sock.send(view):]
            except BlockingIOError:
                self.pump("the server to read", lambda: False, writing=client)
            except OSError as error:
                self.server.fail("an open connection", f"{error.strerror}")

    def await_acknowledged(self, client: Client) -> None:
        """Waits until the server's kernel has everything that the client has sent."""
        end = time.monotonic() + 4 * DEADLINE
        while unacknowledged(client.sock):
            if time.monotonic() > end:
                self.server.fail("all to be read that a client has sent", "it is not")
            time.sleep(0.001)

    def word(self) -> bytes:
        return b"<%016x>" % self.random.getrandbits(64)

    def act(self, action: Action) -> None:
        what, client, data = action
        if what == "connect":
            self.connect()
        elif what == "send":
            self.send(client, data)
        elif what == "half-close":
            client.half_closed = True
            client.sock.shutdown(socket.SHUT_WR)
        else:
            if what == "reset":
                reset_on_close(client.sock)
            elif LINUX:
                self.await_acknowledged(client)
            client.sock.close()
            self.clients.remove(client)
            self.ends += 1

    # -- the script of a round

    def text(self, bulk: bool) -> bytes:
        if bulk:
            return b"".join(b"%0999d\n" % n for n in range(3000))
        line = b""
        for _ in range(self.random.randrange(1, 20)):
            alphabet = self.random.choice(ALPHABETS)
            size = self.random.choice(SIZES)
            line += bytes(self.random.choices(alphabet, k=size)) + b"\n"
        return line

    def pieces(self, data: bytes) -> List[bytes]:
        """The data in a few pieces of any size."""
        cuts = sorted(self.random.randrange(len(data) + 1)
                      for _ in range(self.random.choice([0, 0, 1, 3, 30])))
        places = [0, *cuts, len(data)]
        return [data[a:b] for a, b in zip(places, places[1:]) if b > a]

    def part(self, client: Client, bulk: bool) -> Tuple[Deque[Action], bytes]:
        """What one client does in a round, and its last whole message."""
        end = self.random.choice(["", "", "", "half-close", "reset", "leave"])
        word = self.word()
        rest = b"" if self.random.random() < 0.6 else bytes(
            self.random.choices(ALPHABETS[0], k=self.random.choice(SIZES[1:-1])))
        rest = rest[:MESSAGE_MAX]       # so that it stays incomplete
        data = self.text(bulk) + word + b"\n" + rest
        client.will_send(data)
        actions = collections.deque(
            ("send", client, piece) for piece in self.pieces(data))
        if end:
            client.may_lose = (0 if end == "half-close" or end == "leave" and LINUX
                               else ALL)
            if not self.drop_tail:
                client.will_end(end)
            actions.append((end, client, b""))
        return actions, b"" if client.may_lose == ALL else word

    def script(self, actors: List[Client],
               newcomers: int) -> Tuple[List[Action], Set[bytes]]:
        bulk = self.random.random() < 0.1
        parts, words = [], set()
        for actor in actors:
            actions, word = self.part(actor, bulk and actor is actors[0])
            parts.append(actions)
            words.add(word)
        parts += [collections.deque([("connect", self.witness, b"")])
                  for _ in range(newcomers)]
        actions = []
        while parts:
            part = self.random.choice(parts)
            actions.append(part.popleft())
            if not part:
                parts.remove(part)
        return actions, words - {b""}

    # -- a round

    def cast(self) -> List[Client]:
        """Quiet newcomers come, some stop reading or read again;
        returns who is to act."""
        for _ in range(self.random.choice([0, 0, 1, 2])):
            if len(self.clients) < CLIENTS_MAX:
                client = self.connect(self.random.choice([0, 4096]))
                self.await_greeting(client)
                self.introduce(client)
        for client in self.clients[1:]:
            if self.random.random() < 0.2:
                client.stalled = not client.stalled
            if client.stalled and len(self.chat) - client.place > STALL_MAX:
                client.stalled = False
        others = self.clients[1:]
        return self.random.sample(others, self.random.randrange(min(4, len(others)) + 1))

    def round(self) -> None:
        actors = self.cast()
        room = CLIENTS_MAX - len(self.clients)
        newcomers = min(room, self.random.choice([0, 0, 0, 1, 3]))
        actions, words = self.script(actors, newcomers)
        for action in actions:
            self.act(action)
        self.settle(words)
        self.check(actors)
        for client in self.clients:
            if client.prefix is None:
                self.introduce(client)

    def settle(self, words: Set[bytes]) -> None:
        """Waits until all that was done so far has taken effect,
        and everybody has heard it."""
        self.pump("the last message of each sender, at the witness",
                  lambda: all(word in self.witness.got for word in words))
        for client in self.clients:
            if not client.greeted:
                self.await_greeting(client)
        leaving = [client for client in self.clients if client.half_closed]
        for client in leaving:
            client.stalled = False
        self.pump("the end of each connection that was half-closed",
                  lambda: all(client.ended for client in leaving))
        self.ends += len(leaving)
        # What the server has logged as terminated sends no more messages.
        self.log.expect(self.server, TERMINATED, self.ends)
        word = self.word()
        self.witness.will_send(word + b"\n")
        self.send(self.witness, word + b"\n")
        end = word + b"\n"
        self.pump("the witness's last word, at all clients that read", lambda: all(
            client.got.endswith(end)
            or client.stalled or client.half_closed or client.ended
            for client in self.clients))

    # -- the verdict on a round

    def check(self, actors: List[Client]) -> None:
        section = bytes(self.witness.got)
        begin = len(self.chat)
        self.chat += section
        self.check_order(section, [*actors, self.witness])
        for client in list(self.clients):
            if client.place is None:    # it came in this round
                client.place = self.find(client, section, begin)
            self.check_stream(client)
        for client in [self.witness, *actors]:
            client.due = []

    def check_order(self, section: bytes, senders: List[Client]) -> None:
        """Can the lines be dealt out to the senders?

        Equal lines leave several ways open.
        """
        states = {(0,) * len(senders)}  # how many lines of each sender
        lines = [line + b"\n" for line in section.split(b"\n")[:-1]]
        self.messages += len(lines)
        for line in lines:
            following = {state[:i] + (state[i] + 1,) + state[i + 1:]
                         for state in states for i, sender in enumerate(senders)
                         if state[i] < len(sender.due) and sender.due[state[i]] == line}
            if not following:
                state = max(states)
                nexts = [shown(sender.due[state[i]]) for i, sender in enumerate(senders)
                         if state[i] < len(sender.due)]
                self.server.fail("one of " + ", ".join(nexts), shown(line))
            states = following
        if not any(all(state[i] >= len(sender.due) - sender.may_lose
                       for i, sender in enumerate(senders)) for state in states):
            self.server.fail("all messages of each sender", "some are missing")

    def find(self, client: Client, section: bytes, begin: int) -> int:
        """Where the stream of a client that came while others spoke begins."""
        at = len(section) - len(client.got)
        whole = at == 0 or at > 0 and section[at - 1:at] == b"\n"
        if not whole:
            self.server.fail("a newcomer's stream to begin with a message of this round",
                             f"{shown(bytes(client.got))}")
        return begin + at

    def check_stream(self, client: Client) -> None:
        want = self.chat[client.place:client.place + len(client.got)]
        if client.got != want:
            at = next(i for i, (a, b) in enumerate(zip(client.got, want)) if a != b)
            self.server.fail(f"{shown(bytes(want[at:]))} at {at}, as the witness got it",
                             shown(bytes(client.got[at:])))
        client.place += len(client.got)
        if client.half_closed:
            self.check_end(client)
            self.server.peers = [peer for peer in self.server.peers
                                 if peer.sock != client.sock]
            client.sock.close()
            self.clients.remove(client)
        elif client.ended:
            self.server.fail("an open connection", "the server closed it")
        elif not client.stalled and client.place != len(self.chat):
            self.server.fail(f"{len(self.chat)} bytes of the chat", f"{client.place}")
        client.got.clear()

    def check_end(self, client: Client) -> None:
        """A client that half-closed got everything up to its own last message, whole."""
        if self.drop_tail:
            return
        last = client.due[-1]
        got = bytes(self.chat[:client.place])
        missed = self.chat[client.place:]
        if last in missed and last not in got or not got.endswith(b"\n"):
            self.server.fail(
                f"all up to its own {shown(last)} for a client that half-closed",
                f"an end after {shown(got[-60:])}")

    def finish(self) -> None:
        """Everybody reads to the end, and leaves."""
        for client in self.clients:
            client.stalled = False
        self.settle(set())
        self.check([])
        self.server.expect_alive()


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Plays a random chat and checks all of it.")
    parser.add_argument("--server", default=test.COMMAND, help="its command, with {port}")
    parser.add_argument("--seed", type=int,
                        default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--drop-tail", action="store_true")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    number = 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            log = Log(folder)
            with Server(log.command(args.server)) as server:
                play = Play(server, log, args.seed, args.drop_tail)
                for number in range(1, args.rounds + 1):
                    play.round()
                play.finish()
        server.expect_clean_stderr()    # leaks are reported at the very end
    except Verdict as wrong:
        print(f"round {number} of seed {args.seed}:\n{wrong}")
        return 1
    print(f"ok: {args.rounds} rounds, {play.messages} messages, {len(play.chat)} bytes, "
          f"{play.ends} ends")
    return 0


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):      # as for ^C: end the server, too
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
