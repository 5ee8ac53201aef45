"""A right chat server, on poll(2): test.py must find no fault with it.

    python3 with_poll.py PORT [SECONDS]

Before it listens, a helper process has come and gone, and SECONDS have passed. Its limit
of 1024 bytes includes the newline. There is no prefix. Not everybody gets the same
greeting.
"""
import select
import socket
import subprocess
import sys
import time

LINE_MAX = 1024         # the assignment's limit, newline included
BACKLOG_MAX = 32 << 20  # bytes that may wait for one client
PAUSE = 500             # ms without accepting, at most, when descriptors have run out

clients = {}


class Client:
    def __init__(self, sock):
        self.sock, self.input, self.output = sock, b"", bytearray()
        sock.setblocking(False)
        clients[sock.fileno()] = self
        loop.register(sock.fileno(), select.POLLIN)
        log(b"accepted connection")
        alone = len(clients) == 1
        self.send(greeting + (b"You are alone.\n" if alone else b"Others\nare here.\n"))

    def close(self):
        fd = self.sock.fileno()
        if clients.pop(fd, None):
            log(b"connection terminated")
            loop.unregister(fd)
            self.sock.close()

    def send(self, data):
        self.output += data
        if len(self.output) > BACKLOG_MAX:
            self.close()
        elif len(self.output) == len(data):
            self.flush()

    def flush(self):
        try:
            del self.output[:self.sock.send(self.output[:1 << 18])]
        except BlockingIOError:
            pass
        except OSError:
            self.output.clear()     # what it has said is still read
        loop.modify(self.sock.fileno(),
                    select.POLLIN | (select.POLLOUT if self.output else 0))

    def read(self):
        try:
            data = self.sock.recv(1 << 14)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            return self.close()
        self.input += data
        while b"\n" in self.input or len(self.input) >= LINE_MAX:
            end = self.input.find(b"\n", 0, LINE_MAX)
            text = self.input[:LINE_MAX - 1 if end < 0 else end]
            self.input = self.input[len(text) + (end >= 0):]
            log(text)
            for client in list(clients.values()):
                client.send(text + b"\n")


def log(text):
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.buffer.flush()


greeting = subprocess.check_output(["echo", "Welcome, says a helper."])
time.sleep(float((sys.argv[2:] or ["0"])[0]))
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", int(sys.argv[1])))
listener.listen(200)
listener.setblocking(False)
loop = select.poll()
accepting = False
while True:
    if not accepting:
        loop.register(listener.fileno(), select.POLLIN)
        accepting = True
    for fd, ready in loop.poll():
        if fd != listener.fileno():
            if fd in clients and ready & select.POLLOUT:
                clients[fd].flush()
            if fd in clients and ready & ~select.POLLOUT:
                clients[fd].read()
            continue
        try:
            Client(listener.accept()[0])
        except (BlockingIOError, ConnectionAbortedError):
            pass
        except OSError:             # no descriptor is free
            loop.unregister(listener.fileno())
            accepting = False
    if not accepting:
        for fd, _ in loop.poll(PAUSE):
            clients[fd].read()
