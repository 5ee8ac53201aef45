#!/usr/bin/env python3
"""A long chat under bad conditions; every byte of it is checked (Linux).

    python3 tests/system/soak_test.py [--server 'CMD {options} {port}'] [--minutes 10]
                                      [--seed N] [--protected]

Three hundred clients come, talk, stall, trickle, half-close, reset and leave at random.
The server's limits are small, its log is read slowly at times, and now and then it is
stopped for a while (SIGSTOP, SIGCONT). Four witnesses are there from the first message to
the last. Then:

  - all witnesses have the same stream. It holds each client's lines in order; none is
    torn, invented or doubled. None is missing if the client left in order: half-closed
    first, or closed when its kernel had nothing left to send;
  - what any other client got is one piece of that stream; a client that half-closes gets
    all up to its own last line;
  - no client that has just spoken is called idle, and none that reads is called stalled,
    whether or not the server was stopped meanwhile;
  - the log has one end for each connection accepted, and says how many lines it lacks;
  - memory and descriptors are back where they were, and the server ends with status 0.

With --protected the server limits each client to 200 messages a second and each
address to one client. Then some connect a second time; by the log, no address ever has
two clients, and nobody is refused as the second without a first.

Each client has an address of its own (127.x.y.z), which marks its lines. The seed, which
is printed, repeats the clients' choices, but not the order of events.
"""
import argparse
import collections
import contextlib
import errno
import itertools
import os
import random
import re
import resource
import selectors
import signal
import socket
import sys
import time
from typing import Counter, Deque, Dict, List, Optional

import support
import test                             # tests/test.py, not Python's own
from model_test import Splitter
from support import receive, reset_on_close, unacknowledged
from test import DEADLINE, Server, Verdict, shown

CLIENTS = 300
WITNESSES = 4
IDLE, STALL, LAG, PLACES = 6, 3, 500_000, 290   # the server's -t, -s, -b and -c
OPTIONS = f"-t {IDLE} -s {STALL} -b {LAG} -c {PLACES}"
PROTECTED = "-r 200 -i 1"
SECONDS = 5             # how many second connections at a time
IN_FLIGHT = 100_000     # bytes said and not yet seen by the witness; more than fit a
                        # socket's buffer might get a client cut off that reads
EACH = 40_000           # ... and how many of them may be one client's
PATIENCE = 5            # seconds: how much later than it wants to
                        # a client ends at the latest
CHAT_KEPT = 32 << 20    # bytes of the chat that are kept, for the slowest reader
GROWTH = 3 << 20        # bytes by which the server's memory may have grown at the end
GREETING = b"Welcome to the chat!\n"
FULL = b"Server full\n"
SIZES = [0, 1, 2, 10, 60, 60, 60, 300, 1023, 1024, 1025, 3000]
ORDERLY = re.compile(rb"end of file|Connection reset by peer|Broken pipe")
LOGGED = re.compile(rb"(accepted connection|connection terminated|refused connection|"
                    rb"message from|dropped|listening on) ?:?(.*)")


class Wrong(Exception):
    pass


class Client:
    """A connection, and what it has said and received."""

    def __init__(self, number: int, port: int, chance: random.Random) -> None:
        number += 1 << 16
        self.address = f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        self.chance = chance
        self.sock = socket.socket()
        self.reads = chance.choice(["all", "all", "all", "sips", "nothing"])
        self.keeps_up = self.reads == "all"
        if not self.keeps_up:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.setblocking(False)
        self.sock.bind((self.address, 0))
        self.sock.connect_ex((test.HOST, port))
        self.name = b"%s:%d" % (self.address.encode(), self.sock.getsockname()[1])
        self.talks = chance.choice([0, 0.1, 0.5, 1, 1])     # how probable it is in a turn
        self.piece = chance.choice([1, 100, 1 << 16])       # how much of it at a time
        self.end_by = chance.choice(["half-close", "leave", "leave", "reset"])
        self.end_at = (time.monotonic()
                       + chance.choice([0, 0.5, 2, 5, 12]) * chance.random())
        self.splitter = Splitter()
        self.to_send = b""              # not yet given to the kernel
        self.hello = b"<%s>\n" % self.name
        self.due: Deque[bytes] = collections.deque()    # lines that the witness must see
        self.due_len = 0                # bytes of these
        self.sent_in_pause = False      # while the server was stopped, the last time
        self.half_closed = self.closed = self.ended = self.over = self.refused = False
        self.tail: List[bytes] = []     # what may follow these: no newline came after it
        self.reason = b""               # of its end, in the log
        self.promised = False           # nothing of what it said may be lost
        self.last = 0                   # the end of its last line in the chat
        self.hello_at = 0               # the end of its hello in the chat
        self.got = bytearray()          # received, not yet checked
        self.greeted = False
        self.unknown = False            # nobody can know its place
        self.place: Optional[int] = None    # in the chat: where `got` begins

    # -- speaking

    def say(self) -> None:
        """Makes up something to send."""
        if not self.to_send and not self.due and not self.hello_at:
            self.queue(self.hello)
        text = b"".join(self.line() for _ in range(self.chance.choice([1, 1, 3, 20])))
        self.queue(text)

    def line(self) -> bytes:
        size = self.chance.choice(SIZES)
        line = bytes(self.chance.choices(b"abcdef \0\xff\x1b", k=size))
        return line + b"\n" * (self.chance.random() < 0.95)     # else glued to the next

    def queue(self, data: bytes) -> None:
        self.to_send += data
        for text in self.splitter.feed(data):
            self.expect(text)

    def expect(self, text: bytes) -> None:
        self.due.append(text)
        self.due_len += len(self.address) + len(text) + 3

    def send(self, stopped: bool) -> None:
        """Gives the kernel a piece of what is to be sent."""
        with contextlib.suppress(BlockingIOError):
            try:
                sent = self.sock.send(self.to_send[:self.piece])
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ENOTCONN):
                    self.cut_off()
                return
            self.to_send = self.to_send[sent:]
            self.sent_in_pause |= stopped

    def in_flight(self) -> int:
        """Bytes that the witness may yet get if nobody does anything more."""
        return max(0, self.due_len - len(self.to_send))

    # -- ends

    def finish(self) -> bool:
        """Ends in its manner, once it has sent all that it has begun.

        Returns whether it is over.
        """
        if time.monotonic() > self.end_at + PATIENCE:
            return True             # it has been cut off, perhaps, and has not noticed
        if self.end_by == "reset":
            reset_on_close(self.sock)
        elif self.to_send or not self.is_connected():
            return False
        elif self.end_by == "half-close":
            if not self.half_closed:
                self.sock.shutdown(socket.SHUT_WR)
                self.half_closed = self.promised = True
                for text in self.splitter.tail():
                    self.expect(text)
            return False                # until the server closes
        elif unacknowledged(self.sock):
            return False
        else:
            self.promised = True
        return True

    def may_tear(self) -> bool:
        """Whether its last line may have lost its end, since it left in a hurry."""
        return (self.closed or self.ended) and not self.promised

    def is_connected(self) -> bool:
        """Not if the server's kernel has not heard of it, or has said that it is gone."""
        with contextlib.suppress(OSError):
            self.sock.getpeername()
            return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        return False

    def cut_off(self) -> None:
        self.ended = True

    # -- listening

    def receive(self, most: int) -> int:
        data = receive(self.sock, most)
        if data is None:
            return 0
        self.ended = not data
        self.got += data
        return len(data)


class Witness(Client):
    def __init__(self, number: int, port: int) -> None:
        super().__init__(number, port, random.Random(number))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.reads, self.piece, self.place = "all", 1 << 16, 0


class Soak:
    def __init__(self, server: Server, seed: int, protected: bool) -> None:
        self.server, self.random = server, random.Random(seed)
        self.protected = protected
        self.port = server.port
        self.log_fd = server.process.stdout.fileno()
        os.set_blocking(self.log_fd, False)
        self.selector = selectors.DefaultSelector()
        self.numbers = 0
        self.chat = bytearray()         # as the first witness got it
        self.chat_base = 0              # how much of its beginning has been forgotten
        self.unsplit = 0                # where the chat's unfinished line begins
        self.by_address: Dict[bytes, Client] = {}   # who may still be heard of
        self.by_name: Dict[bytes, Client] = {}      # who may still be in the log
        self.log_rest = b""
        self.logged: Counter[bytes] = collections.Counter()
        self.reasons: Counter[bytes] = collections.Counter()
        self.messages = self.visits = 0
        self.accepted: Dict[bytes, bool] = {}   # connections logged that have not ended
        self.orphans = 0                # ends in the log without a beginning
        self.present: Dict[bytes, int] = {}     # clients of an address, by the log
        self.seconds: Deque[socket.socket] = collections.deque()
        self.log_again = 0.0            # when the log is read again
        self.stop_at = self.continue_at = 0.0       # the server's next pause, and its end
        self.paused_until = 0.0
        self.slow_until = 0.0           # this program was slow: clients may be cut off
        self.turned = self.spoke = time.monotonic()
        self.witnesses = [self.add(Witness(self.next_number(), self.port))
                          for _ in range(WITNESSES)]
        self.clients: List[Client] = []
        self.ahead: List[Client] = []   # ended, and got more than the witness has yet
        self.await_("greetings", lambda: all(w.greeted for w in self.witnesses))

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    def add(self, client: Client) -> Client:
        self.by_address[client.address.encode()] = self.by_name[client.name] = client
        if client.reads != "nothing":
            self.selector.register(client.sock, selectors.EVENT_READ, client)
        return client

    # -- one turn of the loop: hear, read the log, check

    def turn(self, seconds: float) -> None:
        now = time.monotonic()
        if now - self.turned > STALL / 3:
            self.slow_until = now + IDLE
        self.turned = now
        for key, _ in self.selector.select(seconds):
            self.hear(key.data)
        if now >= self.log_again:
            self.read_log()
        if now > self.spoke + 1:
            self.witnesses_speak()
        self.follow_chat()
        for client in self.ahead:
            self.check_stream(client)
        self.ahead = [client for client in self.ahead if client.got]
        if self.server.process.poll() is not None:
            raise Wrong(f"the server {self.server.epitaph()}")

    def hear(self, client: Client) -> None:
        most = 1 << 18
        if client.reads == "sips":
            if self.random.random() < 0.5:
                return
            most = self.random.choice([1, 100, 2000])
        client.receive(most)
        if not client.greeted:
            self.check_greeting(client)
        if client.ended:
            self.selector.unregister(client.sock)
        if isinstance(client, Witness):
            self.check_witness(client)
        elif client.unknown:
            client.got.clear()
        elif client.greeted:
            self.check_piece(client)

    @staticmethod
    def check_greeting(client: Client) -> None:
        for greeting in (GREETING, FULL):
            if client.got.startswith(greeting):
                client.greeted, client.refused = True, greeting == FULL
                del client.got[:len(greeting)]
                return
            if greeting.startswith(client.got):
                return
        raise Wrong(f"not a greeting: {shown(client.got)}")

    def check_witness(self, witness: Client) -> None:
        if witness.ended:
            self.witnesses.remove(witness)
            self.await_log(lambda: witness.name not in self.by_name)
            raise Wrong(f"a witness lost its connection: {witness.reason}")
        if witness is self.witnesses[0]:
            self.chat += witness.got
            witness.place += len(witness.got)
            witness.got.clear()
        self.check_stream(witness)

    def check_piece(self, client: Client) -> None:
        """What a client got is compared from where its place is known:
        after its hello."""
        if client.refused:
            if client.got:
                raise Wrong(f"{shown(client.got)} after {FULL!r}")
            return
        if client.place is None and client.hello_at:
            at = client.got.find(b": " + client.hello)
            if at >= 0:
                client.place = client.hello_at - (at + 2 + len(client.hello))
                if self.chat_at(client.place - 1, 1) not in (b"\n", b""):
                    began = self.chat.find(client.got[:at]) + self.chat_base
                    raise Wrong(f"{client.address} began in the middle of a line, at "
                                f"{client.place}: {shown(client.got)}; the chat has "
                                f"that at {began}")
        if client.place is not None:
            self.check_stream(client)
        elif len(client.got) > LAG:
            client.unknown = True       # it does not speak, so its place cannot be known
            client.got.clear()

    def chat_at(self, place: int, size: int) -> bytes:
        begin = place - self.chat_base
        return bytes(self.chat[max(0, begin):max(0, begin + size)])

    def check_stream(self, client: Client) -> None:
        size = min(len(client.got), self.chat_base + len(self.chat) - client.place)
        if size <= 0:
            return
        want = self.chat_at(client.place, size)
        if client.got[:size] != want:
            at = next(i for i, (a, b) in enumerate(zip(client.got, want)) if a != b)
            raise Wrong(f"{client.address} got {shown(client.got[at:])} "
                        f"at {client.place + at}, where the first witness got "
                        f"{shown(want[at:])}")
        client.place += size
        del client.got[:size]

    def follow_chat(self) -> None:
        """Assigns the lines that the first witness got to those who said them."""
        begin = self.unsplit - self.chat_base
        end = self.chat.rfind(b"\n", begin) + 1
        for line in bytes(self.chat[begin:end]).split(b"\n")[:-1] if end else ():
            self.unsplit += len(line) + 1
            self.follow_line(line)
        if len(self.chat) > 2 * CHAT_KEPT:
            del self.chat[:len(self.chat) - CHAT_KEPT]
            self.chat_base = self.witnesses[0].place - len(self.chat)

    def follow_line(self, line: bytes) -> None:
        address, _, text = line.partition(b": ")
        client = self.by_address.get(address)
        if client is None:
            raise Wrong(f"a line of nobody: {shown(line)}")
        due = [*itertools.islice(client.due, 1), *client.tail][:1]
        if due != [text] and not (due and client.may_tear() and due[0].startswith(text)):
            raise Wrong(f"{shown(line)} came where "
                        f"{shown(due[0]) if due else 'nothing'} was due; closed by "
                        f"{client.end_by if client.closed else 'nobody'}")
        if not client.due or due != [text]:     # a last line without a newline
            client.due.clear()
            client.tail = []
            client.due_len = 0
            self.messages += 1
            return
        client.due.popleft()
        client.due_len -= len(line) + 1
        client.last = self.unsplit
        client.hello_at = client.hello_at or self.unsplit
        self.messages += 1

    # -- the log

    def read_log(self) -> bool:
        """Returns whether there was anything."""
        try:
            data = os.read(self.log_fd, 1 << 18)
        except BlockingIOError:
            return False
        *lines, self.log_rest = (self.log_rest + data).split(b"\n")
        for line in lines:
            match = LOGGED.match(line)
            kind, rest = match.groups() if match else (b"other", line)
            self.logged[kind] += int(rest.split()[0]) if kind == b"dropped" else 1
            name, _, reason = rest.strip().partition(b" ")
            if kind == b"accepted connection":
                self.accepted[name] = True
                self.count_present(name, 1)
            elif kind == b"connection terminated":
                self.count_present(name, -1)
                self.on_terminated(name, reason.strip(b"()"))
            elif kind == b"refused connection" and b"too many" in reason:
                self.count_present(name, 0)
            elif kind == b"dropped":
                self.present.clear()
        return bool(data)

    def count_present(self, name: bytes, change: int) -> None:
        """With -i 1: no address has two clients, and a refusal means that it has one."""
        address = name.rpartition(b":")[0]
        due = 0 if change > 0 else 1
        before = self.present.get(address, due)     # after a gap in the log nobody knows
        if self.protected and before != due:
            what = {1: "came", -1: "left", 0: "was refused"}[change]
            raise Wrong(f"{name.decode()} {what} when {before} of its address were there")
        self.present[address] = before + change

    def on_terminated(self, name: bytes, reason: bytes) -> None:
        if not self.accepted.pop(name, False):
            self.orphans += 1
        self.reasons[re.sub(rb"\d+", b"N", reason)] += 1
        client = self.by_name.pop(name, None)
        if client is None:
            return                      # it came before the soak
        client.reason = reason
        client.over = client.reads == "nothing"     # it would not notice itself
        if self.turned < self.slow_until:
            return
        if reason.startswith(b"took no byte") and client.keeps_up and not client.closed:
            raise Wrong(f"{client.address}, which reads all that comes: {shown(reason)}")
        if reason.startswith(b"idle") and client.sent_in_pause \
                and self.turned < self.paused_until + IDLE:
            raise Wrong(f"{client.address}, which spoke while the server was stopped: "
                        f"{shown(reason)}")

    # -- what the clients do

    def act(self) -> None:
        """Some of the clients do something."""
        stopped = bool(self.continue_at)
        room = IN_FLIGHT - sum(client.in_flight() for client in self.clients)
        while len(self.clients) < CLIENTS and self.random.random() < 0.9:
            self.visits += 1
            self.clients.append(
                self.add(Client(self.next_number(), self.port, self.random)))
        for client in self.random.sample(self.clients, min(80, len(self.clients))):
            if client.ended or client.over \
                    or self.turned >= client.end_at and client.finish():
                self.remove(client)
                continue
            if self.protected and client.greeted and self.random.random() < 0.01:
                self.connect_again(client)
            if client.half_closed or client.refused:
                continue
            if not client.to_send and client.in_flight() < EACH \
                    and self.turned < client.end_at \
                    and self.random.random() < client.talks:
                client.say()
            if client.to_send and room > 0:
                before = client.in_flight()
                client.send(stopped)
                room -= client.in_flight() - before

    def connect_again(self, client: Client) -> None:
        """One too many, unless the first one has left, which the log says."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((client.address, 0))
        sock.connect_ex((test.HOST, self.port))
        self.seconds.append(sock)
        if len(self.seconds) > SECONDS:
            self.seconds.popleft().close()

    def remove(self, client: Client) -> None:
        """The connection is over, but what it said may still come."""
        with contextlib.suppress(KeyError):     # it did not read, or was told the end
            self.selector.unregister(client.sock)
        client.sock.close()
        client.closed = True
        client.tail = [] if client.half_closed else client.splitter.tail()
        if client.place is None:
            client.got.clear()
        elif client.got:
            self.ahead.append(client)
        self.clients.remove(client)

    def witnesses_speak(self) -> None:
        self.spoke = self.turned
        for witness in self.witnesses:
            if not witness.to_send:
                witness.queue(b"witness %d\n" % self.numbers)
            witness.send(False)

    def disturb(self) -> None:
        """The server is stopped and continued; its log is left unread for a while."""
        now = self.turned
        if self.continue_at and now >= self.continue_at:
            self.server.process.send_signal(signal.SIGCONT)
            self.paused_until, self.continue_at = now, 0
            self.stop_at = now + self.random.uniform(3, 15)
        elif not self.continue_at and now >= self.stop_at > 0:
            for client in self.clients:
                client.sent_in_pause = False
            self.server.process.send_signal(signal.SIGSTOP)
            self.continue_at = now + self.random.choice(
                [0.05, 0.3, 1, STALL + 1, IDLE + 1])
        if now >= self.log_again and self.random.random() < 0.001:
            self.log_again = now + self.random.choice([0.3, 1, 3])

    # -- the whole

    def await_(self, what: str, arrived) -> None:
        end = time.monotonic() + 8 * DEADLINE
        while not arrived():
            if time.monotonic() > end:
                raise Wrong(f"{what}: not within {8 * DEADLINE:g} s")
            self.turn(0.01)

    def await_log(self, arrived) -> bool:
        """Reads nothing but the log until arrived(), or until it says no more."""
        end = time.monotonic() + DEADLINE
        while not arrived() and time.monotonic() < end:
            if not self.read_log():
                time.sleep(0.01)
        return arrived()

    def barrier(self) -> None:
        """Waits until everybody has what the witnesses say now."""
        self.witnesses_speak()
        self.await_("what the witnesses say", lambda: not any(
            witness.due or witness.to_send for witness in self.witnesses) and all(
            witness.place == self.witnesses[0].place for witness in self.witnesses))

    def run(self, minutes: float) -> None:
        self.barrier()
        descriptors, memory = self.server.descriptors(), self.server.memory("VmRSS")
        end = time.monotonic() + 60 * minutes
        self.stop_at = time.monotonic() + 2
        while self.turned < end:
            self.turn(0.002)
            self.disturb()
            self.act()
        self.leave(descriptors)
        self.check_back(descriptors, memory)
        self.stop()
        self.check_log()

    def leave(self, descriptors: int) -> None:
        """All clients leave; the witnesses see what they have said."""
        self.server.process.send_signal(signal.SIGCONT)
        self.log_again = self.stop_at = self.continue_at = 0
        while self.seconds:
            self.seconds.popleft().close()
        for client in self.clients:
            client.end_at, client.piece, client.reads = self.turned, 1 << 16, "all"
            with contextlib.suppress(KeyError, ValueError):
                self.selector.register(client.sock, selectors.EVENT_READ, client)
        end = time.monotonic() + 8 * DEADLINE
        while self.clients:
            self.turn(0.002)
            self.act_last()
            if time.monotonic() > end:
                raise Wrong(f"{len(self.clients)} connections do not end")
        self.barrier()
        self.await_("the ends in the log", lambda: len(self.accepted) <= WITNESSES
                    or self.logged[b"dropped"] > 0)
        self.await_("the end of all connections",
                    lambda: self.server.descriptors() <= descriptors)
        while self.read_log():
            pass
        self.barrier()
        for client in self.by_address.values():
            self.check_ended(client)

    def check_ended(self, client: Client) -> None:
        """Did all that it said come through? And did it get all that was due to it?"""
        heard_out = ORDERLY.fullmatch(client.reason)    # not cut off, as far as is known
        if client.promised and client.due and heard_out:
            raise Wrong(f"{client.address} left in order ({client.end_by}), but of what "
                        f"it said {len(client.due)} lines are missing: "
                        f"{shown(client.due[0])} ...")
        read_to_the_end = client.ended and client.place is not None
        if client.reason == b"end of file" and client.half_closed and read_to_the_end:
            if client.place < client.last or client.got:
                raise Wrong(f"{client.address} half-closed and got only "
                            f"{client.place} bytes of the chat; its own last line ends "
                            f"at {client.last}")

    def act_last(self) -> None:
        for client in list(self.clients):
            if client.ended or client.over or client.finish():
                self.remove(client)
            elif client.to_send and not client.half_closed:
                client.send(False)

    def check_back(self, descriptors: int, memory: int) -> None:
        self.await_(f"{descriptors} descriptors, as at the beginning",
                    lambda: self.server.descriptors() == descriptors)
        grown = self.server.memory("VmRSS") - memory
        print(f"memory: {memory >> 10} KiB at the beginning, {grown >> 10:+} at the end")
        if not self.server.is_sanitized() and grown > GROWTH:
            raise Wrong(f"{grown >> 10} KiB more memory than at the beginning")

    def stop(self) -> None:
        for witness in self.witnesses:
            self.selector.unregister(witness.sock)
        self.server.process.terminate()
        end = time.monotonic() + 4 * DEADLINE
        while self.server.process.poll() is None or self.read_log():
            self.read_log()
            if time.monotonic() > end:
                raise Wrong("SIGTERM does not end it")
            time.sleep(0.01)
        if self.server.process.returncode:
            raise Wrong(f"the server {self.server.epitaph()}")

    def check_log(self) -> None:
        """Each connection ends once. What the log lacks, it says."""
        dropped = self.logged[b"dropped"]
        unlogged = self.messages - self.logged[b"message from"]
        amiss = len(self.accepted) + self.orphans
        if unlogged < 0 or unlogged + amiss > dropped or dropped == 0 and amiss:
            raise Wrong(f"{self.messages} messages, {self.logged[b'message from']} in "
                        f"the log; {len(self.accepted)} connections without an end, "
                        f"{self.orphans} ends without a beginning; "
                        f"{dropped} lines dropped")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="A long chat; every byte of it is checked.")
    parser.add_argument("--server", default=test.COMMAND,
                        help="with {options} and {port}")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int,
                        default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--protected", action="store_true")
    args = parser.parse_args()
    options = f"{OPTIONS} {PROTECTED}" if args.protected else OPTIONS
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"seed {args.seed}", flush=True)
    try:
        with Server(args.server, options, read_log=False) as server:
            server.connect().reset()    # waits until it listens
            soak = Soak(server, args.seed, args.protected)
            soak.run(args.minutes)
        server.expect_clean_stderr()    # leaks are reported at the very end
    except (Verdict, Wrong) as wrong:
        print(f"seed {args.seed}: {wrong}")
        for line in server.stderr.tail(30):
            print(line.decode(errors="backslashreplace"))
        return 1
    print(f"ok: {soak.visits} visits, {soak.messages} messages, "
          f"{soak.witnesses[0].place >> 10} KiB, "
          f"{soak.logged[b'refused connection']} refused; "
          f"the log dropped {soak.logged[b'dropped']} lines")
    for reason, count in soak.reasons.most_common():
        print(f"    {count:6} {reason.decode(errors='backslashreplace')}")
    return 0


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):      # as for ^C: end the server, too
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
