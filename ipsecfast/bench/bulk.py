"""A fixed number of bytes over one TCP connection, with as little work around send and recv as Python allows.

`python -m ipsecfast.bench.bulk ADDRESS PORT COUNT...` listens, prints `ready`, takes one connection and answers one
byte after each COUNT bytes. Imports nothing that is slow to import: it is started in a guest that is emulated.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

BLOCK = 128 << 10  # what iperf3 hands the kernel at once
ANSWER = b"!"


def send_bulk(sock: socket.socket, count: int) -> None:
    """Sends `count` bytes and waits until the receiver has them. Raises ConnectionError if it ended before."""
    block = memoryview(bytes(BLOCK))
    while count > 0:
        count -= sock.send(block[:count])
    if sock.recv(1) != ANSWER:
        raise ConnectionError("the receiver ended before it had everything")


def receive_bulk(sock: socket.socket, count: int) -> None:
    """Takes `count` bytes and says so. Raises ConnectionError if the sender ended before."""
    block = bytearray(BLOCK)
    view = memoryview(block)
    while count > 0:
        got = sock.recv_into(view[: min(count, BLOCK)])
        if not got:
            raise ConnectionError(f"the sender ended {count} bytes early")
        count -= got
    sock.sendall(ANSWER)


def serve(address: str, port: int, counts: Sequence[int]) -> None:
    with socket.create_server((address, port)) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
    with connection:
        for count in counts:
            receive_bulk(connection, count)
        connection.recv(1)  # its end: what this process does to end is not counted


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), [int(text) for text in sys.argv[3:]])
