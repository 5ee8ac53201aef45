"""A proxy between a room's servers and Redis: it does to connections what networks do.

Each server has a port of its own here. freeze() holds everything back, as a cut cable
does. The others pick a connection at random: half_reply() passes half a reply on and
resets it; hold() holds replies back; late() resets it towards the server, but lets what
the server sent last arrive at Redis some time later.
"""
import contextlib
import os
import random
import socket
import threading
import time
from typing import List

from support import reset_on_close

PIECE = 1 << 16


class Link:
    def __init__(self, proxy: "Proxy", near: socket.socket) -> None:
        self.proxy, self.near = proxy, near
        self.far = socket.create_connection(proxy.redis, timeout=5)
        self.far.settimeout(None)
        self.hold_until = 0.0
        self.halve = False
        self.late_by = 0.0
        for sock in (self.near, self.far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pumps = [threading.Thread(target=pump, daemon=True)
                      for pump in (self.up, self.down)]
        for pump in self.pumps:
            pump.start()

    def end(self, reset: bool = False) -> None:
        if reset:
            with contextlib.suppress(OSError):
                reset_on_close(self.near)
                os.close(self.near.detach())
        for sock in (self.near, self.far):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def up(self) -> None:
        """From the server to Redis."""
        with contextlib.suppress(OSError):
            while True:
                data = self.near.recv(PIECE)
                if not data:
                    break
                self.proxy.thaw()
                if self.late_by:
                    delay, self.late_by = self.late_by, 0.0
                    with contextlib.suppress(OSError):
                        reset_on_close(self.near)
                        os.close(self.near.detach())
                    time.sleep(delay)
                    self.far.sendall(data)
                    time.sleep(0.2)     # for Redis to read it
                    break
                self.far.sendall(data)
        self.end()

    def down(self) -> None:
        """From Redis to the server."""
        with contextlib.suppress(OSError):
            while True:
                data = self.far.recv(PIECE)
                if not data:
                    break
                self.proxy.thaw()
                while time.monotonic() < self.hold_until and not self.proxy.closed:
                    time.sleep(0.02)
                if self.halve:
                    self.near.sendall(data[:len(data) // 2])
                    time.sleep(0.05)    # else the reset overtakes it
                    self.end(reset=True)
                    return
                self.near.sendall(data)
        if not self.late_by:
            self.end()


class Proxy:
    def __init__(self, address: str, redis) -> None:
        self.redis = redis
        self.links: List[Link] = []
        self.thawed = threading.Event()
        self.thawed.set()
        self.closed = False
        self.listener = socket.create_server((address, 0))
        self.port = self.listener.getsockname()[1]
        self.acceptor = threading.Thread(target=self.accept, daemon=True)
        self.acceptor.start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                try:
                    self.links = [link for link in self.links if link.pumps[1].is_alive()]
                    self.links.append(Link(self, near))
                except OSError:         # Redis is away
                    near.close()

    def close(self) -> None:
        self.closed = True
        self.thawed.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for link in self.links:
            link.end()

    def thaw(self) -> None:
        self.thawed.wait()

    def freeze(self, frozen: bool) -> None:
        if frozen:
            self.thawed.clear()
        else:
            self.thawed.set()

    def any(self, chance: random.Random) -> List[Link]:
        links = [link for link in self.links if link.pumps[1].is_alive()]
        return [chance.choice(links)] if links else []

    def half_reply(self, chance: random.Random) -> None:
        for link in self.any(chance):
            link.halve = True

    def hold(self, chance: random.Random, seconds: float) -> None:
        for link in self.any(chance):
            link.hold_until = time.monotonic() + seconds

    def late(self, chance: random.Random, seconds: float) -> None:
        for link in self.any(chance):
            link.late_by = seconds
