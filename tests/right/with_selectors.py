"""A right chat server, on selectors: test.py must find no fault with it.

    python3 with_selectors.py PORT [QUEUE]

It differs from the servers in C on purpose: another language, another shape, other texts
in the log and before the messages. It disconnects whoever lags by more than BACKLOG_MAX
bytes. QUEUE is how many may wait for accept(), as many as the system allows by default;
textbooks say 5.
"""
import errno
import selectors
import socket
import sys

MESSAGE_MAX = 1024      # the assignment's limit, newline excluded
BACKLOG_MAX = 32 << 20  # bytes that may wait for one client
PAUSE = 0.5             # seconds without accepting, at most, when out of descriptors
SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Client:
    def __init__(self, sock):
        self.sock, self.number = sock, sock.fileno()
        self.input, self.output = bytearray(), bytearray()


def log(*words):
    sys.stdout.buffer.write(b"[chat] " + b" ".join(words) + b"\n")
    sys.stdout.buffer.flush()


def accept(listener):
    try:
        sock = listener.accept()[0]
    except OSError as error:
        if error.errno in SCARCE:
            selector.unregister(listener)   # else it would be reported again at once
        return
    sock.setblocking(False)
    clients[sock] = client = Client(sock)
    selector.register(sock, selectors.EVENT_READ)
    log(b"accepted connection number %d!" % client.number)
    send(client, b"Welcome, stranger.\n")


def close(client):
    if clients.pop(client.sock, None):
        log(b"%d: connection terminated." % client.number)
        selector.unregister(client.sock)
        client.sock.close()


def send(client, data):
    client.output += data
    if len(client.output) > BACKLOG_MAX:
        return close(client)
    if len(client.output) == len(data):     # nothing was waiting, so there may be room
        flush(client)


def flush(client):
    try:
        sent = client.sock.send(client.output)
    except BlockingIOError:
        sent = 0
    except OSError:
        return close(client)
    del client.output[:sent]
    wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.output else 0)
    selector.modify(client.sock, wanted)


def read(client):
    try:
        data = client.sock.recv(65536)
    except BlockingIOError:
        return
    except OSError:
        data = b""
    if not data:
        return close(client)
    client.input += data
    for text in messages(client.input):
        log(b"message:", text, b"(from %d)" % client.number)
        for other in list(clients.values()):
            send(other, b"Message from %d: %s\n" % (client.number, text))


def messages(data):
    """Takes complete messages out of data: up to a newline, at most MESSAGE_MAX bytes."""
    while True:
        end = data.find(b"\n", 0, MESSAGE_MAX + 1)
        if end < 0 and len(data) <= MESSAGE_MAX:
            return
        text = bytes(data[:end if end >= 0 else MESSAGE_MAX])
        del data[:len(text) + (end >= 0)]
        yield text


def main():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", int(sys.argv[1])))
    listener.listen(int(sys.argv[2]) if sys.argv[2:] else socket.SOMAXCONN)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        accepting = listener in selector.get_map()
        for key, ready in selector.select(None if accepting else PAUSE):
            if key.fileobj is listener:
                accept(listener)
            if ready & selectors.EVENT_WRITE and key.fileobj in clients:
                flush(clients[key.fileobj])
            if ready & selectors.EVENT_READ and key.fileobj in clients:
                read(clients[key.fileobj])
        if not accepting:
            selector.register(listener, selectors.EVENT_READ)


selector = selectors.DefaultSelector()
clients = {}
main()
