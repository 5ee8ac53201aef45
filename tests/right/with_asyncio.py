"""A right chat server, on asyncio: test.py must find no fault with it.

    python3 with_asyncio.py PORT

It differs from with_selectors.py on purpose: asyncio keeps the output buffers, pauses
accepting when descriptors run out, and ends clients whose connection fails. The prefix is
the sender's address.
"""
import asyncio
import sys

MESSAGE_MAX = 1024      # the assignment's limit, newline excluded
BACKLOG_MAX = 32 << 20  # bytes that may wait for one client


def log(text):
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.buffer.flush()


class Client(asyncio.Protocol):
    everybody = set()

    def connection_made(self, transport):
        self.transport = transport
        self.tail = b""
        self.address = (transport.get_extra_info("peername") or ["?"])[0].encode()
        self.everybody.add(self)
        log(b"accepted connection")
        transport.write(b"Welcome\n")

    def connection_lost(self, error):
        self.everybody.remove(self)
        log(b"connection terminated: %a" % error)

    def data_received(self, data):
        *lines, self.tail = (self.tail + data).split(b"\n")
        for line in lines:
            self.relay(line)
        while len(self.tail) > MESSAGE_MAX:
            self.broadcast(self.tail[:MESSAGE_MAX])
            self.tail = self.tail[MESSAGE_MAX:]

    def relay(self, line):
        for start in range(0, max(len(line), 1), MESSAGE_MAX):
            self.broadcast(line[start:start + MESSAGE_MAX])

    def broadcast(self, text):
        log(text)
        for client in self.everybody:
            client.send(b"{%s} > %s\n" % (self.address, text))

    def send(self, data):
        if self.transport.is_closing():
            return
        self.transport.write(data)
        if self.transport.get_write_buffer_size() > BACKLOG_MAX:
            self.transport.abort()


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        Client, "0.0.0.0", int(sys.argv[1]), reuse_address=True, backlog=1024)
    await server.serve_forever()


asyncio.run(main())
