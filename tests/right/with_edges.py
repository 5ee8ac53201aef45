"""A right chat server, edge-triggered: test.py must find no fault with it (Linux).

    python3 with_edges.py PORT [drain]

Each event is reported once, and what is not taken then is never reported again. So it
accepts until EAGAIN, and a client with more than PIECE bytes to read goes to the end of a
queue; with "drain", it is read until EAGAIN, as textbooks do it. The greeting has two
lines, and the prefix counts the messages.
"""
import collections
import select
import socket
import sys

MESSAGE_MAX = 1024      # the assignment's limit, newline excluded
BACKLOG_MAX = 32 << 20  # bytes that may wait for one client
PIECE = 1 << 14         # bytes that a client is read at a time
DRAIN = "drain" in sys.argv[2:]
EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET

clients = {}
unread = collections.deque()    # clients that may have more to say
said = 0


class Client:
    def __init__(self, sock):
        self.sock, self.tail, self.output, self.queued = sock, b"", bytearray(), False
        sock.setblocking(False)
        clients[sock.fileno()] = self
        loop.register(sock.fileno(), EDGES)
        log(b"accepted connection")
        self.send(b"Welcome to the edge.\nSay something.\n")

    def close(self):
        if clients.pop(self.sock.fileno(), None):
            log(b"connection terminated")
            self.sock.close()

    def send(self, data):
        self.output += data
        if len(self.output) > BACKLOG_MAX:
            self.close()
        elif len(self.output) == len(data):
            self.flush()

    def flush(self):
        try:
            while self.output:
                del self.output[:self.sock.send(self.output[:1 << 18])]
        except BlockingIOError:
            pass
        except OSError:
            self.output.clear()     # what it has said is still read

    def read(self):
        """Whether there may be more."""
        try:
            data = self.sock.recv(PIECE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        *lines, self.tail = (self.tail + data).split(b"\n")
        for line in lines:
            for start in range(0, max(len(line), 1), MESSAGE_MAX):
                broadcast(line[start:start + MESSAGE_MAX])
        while len(self.tail) > MESSAGE_MAX:
            broadcast(self.tail[:MESSAGE_MAX])
            self.tail = self.tail[MESSAGE_MAX:]
        return self.sock.fileno() in clients


def log(text):
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.buffer.flush()


def broadcast(text):
    global said
    said += 1
    log(text)
    for client in list(clients.values()):
        client.send(b"[%d] %s\n" % (said, text))


def wake(client):
    if not client.queued:
        client.queued = True
        unread.append(client)


def accept_all():
    while True:
        try:
            Client(listener.accept()[0])
        except ConnectionAbortedError:
            continue
        except OSError as error:
            return isinstance(error, BlockingIOError)   # else there is no descriptor free


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", int(sys.argv[1])))
listener.listen(socket.SOMAXCONN)
listener.setblocking(False)
loop = select.epoll()
loop.register(listener.fileno(), select.EPOLLIN | select.EPOLLET)
accepted_all = True
while True:
    for fd, ready in loop.poll(0 if unread else -1 if accepted_all else 0.5):
        if fd == listener.fileno():
            accepted_all = accept_all()
        elif fd in clients:
            if ready & select.EPOLLOUT:
                clients[fd].flush()
            if ready & ~select.EPOLLOUT:
                wake(clients[fd])
    if not accepted_all:
        accepted_all = accept_all()
    for _ in range(len(unread)):
        client = unread.popleft()
        client.queued = False
        more = client.sock.fileno() in clients and client.read()
        while more and DRAIN:
            more = client.read()
        if more:
            wake(client)
