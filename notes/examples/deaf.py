#!/usr/bin/env python3
"""Clients of a chat server that never read.

    python3 deaf.py CLIENTS BYTES   on port 3100; the first sends so many bytes of lines

They stay until you press ^C.
"""
import socket
import sys
import time

clients, size = int(sys.argv[1]), int(sys.argv[2])
sockets = [socket.create_connection(("127.0.0.1", 3100)) for _ in range(clients)]
line = b"a line that nobody here will read\n"
sockets[0].sendall((line * (size // len(line) + 1))[:size])
print(f"{clients} connected, {size} bytes sent, nothing read", flush=True)
try:
    time.sleep(3600)
except KeyboardInterrupt:
    print()
