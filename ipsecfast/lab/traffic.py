"""Traffic that counts itself: numbered UDP, TCP and ping, for the demo, the tests and the benchmarks.

A program (`python -m ipsecfast.lab.traffic VERB ...`), so that sender and receiver have a process each and can stand in
different namespaces. Every verb prints lines of JSON: one each half second, and a last one with `"done": true`; SIGTERM
makes it stop early and still print that line. Rates are packets a second, sizes bytes of UDP payload.

A numbered datagram begins with its number, 64 bits, big-endian; numbers count from 0 without gaps. So the receiver
knows what was lost and what came twice, whatever the path did. The sender hands the kernel up to 64 datagrams a call
(UDP_SEGMENT) and the receiver takes many a call (recvmmsg): 50,000 packets a second cost a few percent of a core.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import signal
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

import numpy as np
from numpy.typing import NDArray

SOL_UDP = 17
UDP_SEGMENT = 103
SO_RCVBUFFORCE = 33
SO_MAX_PACING_RATE = 47
MSG_WAITFORONE = 0x10000
MAX_SEGMENTS = 64
MAX_UDP_PAYLOAD = 65000
REPORT_SECONDS = 0.5
LATE = 5.0  # seconds after which an answer counts as lost: on a busy machine it may be late
SOCKET_BUFFER = 16 << 20
BATCH = 256
SLOT = 2048

_ECHO = {4: (8, 0), 6: (128, 129)}  # ICMP types of echo request and reply


class Stop:
    """Becomes true when SIGTERM or SIGINT arrived or the time is over."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._signalled = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signal)

    def _signal(self, number: int, frame: object) -> None:
        self._signalled = True

    def __bool__(self) -> bool:
        return self._signalled or (self._end is not None and time.monotonic() >= self._end)


class Report:
    """Prints the figures each half second, and the last ones."""

    def __init__(self) -> None:
        self._start = self._next = time.monotonic()
        self._next += REPORT_SECONDS

    def tick(self, **figures: int) -> None:
        if time.monotonic() >= self._next:
            self._next += REPORT_SECONDS
            self._print(figures, done=False)

    def last(self, **figures: int) -> None:
        self._print(figures, done=True)

    def _print(self, figures: dict[str, int], *, done: bool) -> None:
        seconds = round(time.monotonic() - self._start, 3)
        print(json.dumps({"done": done, "seconds": seconds, **figures}), flush=True)


# ---- numbered UDP ----


def send_numbered(address: str, port: int, rate: int, size: int, stop: Stop) -> None:
    """Sends `rate` numbered datagrams a second; what a pause of the machine took is not made up for in one burst."""
    sock = socket.socket(_family(address), socket.SOCK_DGRAM)
    sock.connect((address, port))
    sock.setsockopt(SOL_UDP, UDP_SEGMENT, size)
    burst = min(MAX_SEGMENTS, MAX_UDP_PAYLOAD // size)
    buffer = np.zeros((burst, size), dtype=np.uint8)
    numbers = buffer[:, :8].view(">u8")
    tick = burst / rate if rate < burst * 1000 else 0.001
    report, sent, due = Report(), 0, time.monotonic()
    while not stop:
        count = min(burst, max(1, round(rate * tick)))
        numbers[:count, 0] = np.arange(sent, sent + count)
        try:
            sock.send(buffer[:count].data)
            sent += count
        except OSError as error:
            if error.errno not in (errno.ENOBUFS, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH):
                raise
        report.tick(sent=sent)
        due += count / rate
        now = time.monotonic()
        if due > now:
            time.sleep(due - now)
        elif now - due > 0.01:  # behind by more than ten milliseconds: let that time go
            due = now
    report.last(sent=sent)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_IoVec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("length", ctypes.c_uint32))


class BatchReceiver:
    """recvmmsg(2) into one array of BATCH slots."""

    def __init__(self, sock: socket.socket) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = sock.fileno()
        self.slots: NDArray[np.uint8] = np.zeros((BATCH, SLOT), dtype=np.uint8)
        self._vectors = (_IoVec * BATCH)()
        self._headers = (_MMsgHdr * BATCH)()
        for index in range(BATCH):
            self._vectors[index] = _IoVec(self.slots.ctypes.data + index * SLOT, SLOT)
            self._headers[index].header.iov = ctypes.pointer(self._vectors[index])
            self._headers[index].header.iov_length = 1

    def receive(self) -> int:
        """Waits for one datagram at least (as long as the socket's timeout); the number of slots that were filled."""
        count = self._libc.recvmmsg(self._fd, self._headers, BATCH, MSG_WAITFORONE, None)
        if count >= 0:
            return int(count)
        code = ctypes.get_errno()
        if code in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(code, os.strerror(code))


@dataclass(slots=True)
class Tally:
    """How often each number came."""

    counts: NDArray[np.uint8]
    received: int = 0
    reordered: int = 0
    highest: int = -1

    def add(self, numbers: NDArray[np.int64]) -> None:
        top = int(numbers.max())
        while top >= len(self.counts):
            self.counts = np.concatenate([self.counts, np.zeros_like(self.counts)])
        np.add.at(self.counts, numbers, 1)
        self.received += len(numbers)
        before = np.maximum.accumulate(np.concatenate([[self.highest], numbers[:-1]]))
        self.reordered += int((numbers < before).sum())
        self.highest = max(self.highest, top)

    def figures(self) -> dict[str, int]:
        return {"received": self.received, "highest": self.highest, "reordered": self.reordered}

    def result(self) -> dict[str, int]:
        distinct = int((self.counts > 0).sum())
        missing = np.flatnonzero(self.counts[: self.highest + 1] == 0)
        longest = 0
        if len(missing):
            longest = int(max(len(run) for run in np.split(missing, np.flatnonzero(np.diff(missing) != 1) + 1)))
        return {
            **self.figures(),
            "distinct": distinct,
            "duplicates": self.received - distinct,
            "gaps": len(missing),
            "longest_gap": longest,
        }


def receive_numbered(address: str, port: int, stop: Stop) -> None:
    """Counts numbered datagrams until it is told to stop."""
    sock = socket.socket(_family(address), socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    sock.bind((address, port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 200_000))
    receiver, tally, report = BatchReceiver(sock), Tally(np.zeros(1 << 20, dtype=np.uint8)), Report()
    numbers = receiver.slots[:, :8].view(">u8")
    while not stop:
        count = receiver.receive()
        if count:
            tally.add(numbers[:count, 0].astype(np.int64))
        if count < BATCH // 4:
            time.sleep(0.001)  # let a batch gather
        report.tick(**tally.figures())
    report.last(**tally.result())


# ---- TCP ----


def send_stream(address: str, port: int, pace: int | None, stop: Stop) -> None:
    """As fast as TCP lets it, or at most `pace` bytes a second."""
    sock = socket.create_connection((address, port), timeout=10)
    if pace is not None:
        sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, pace)
    block, report, sent = bytes(1 << 18), Report(), 0
    sock.settimeout(1.0)
    while not stop:
        with suppress(TimeoutError):  # a stall: the report shows it
            sent += sock.send(block)
        report.tick(bytes=sent)
    report.last(bytes=sent)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # nothing is sent after the end
    sock.close()


def _receive_some(connection: socket.socket, buffer: bytearray) -> int:
    """0: the sender is done; ours throws away what it could not send."""
    try:
        return connection.recv_into(buffer)
    except ConnectionResetError:
        return 0


def receive_stream(address: str, port: int, stop: Stop) -> None:
    """Takes one connection after the other; the bytes of all of them count."""
    server = socket.create_server((address, port), family=_family(address))
    server.settimeout(0.2)
    buffer, report, received = bytearray(1 << 18), Report(), 0
    connection: socket.socket | None = None
    while not stop:
        with suppress(TimeoutError):
            if connection is None:
                connection, _ = server.accept()
                connection.settimeout(0.2)
            elif count := _receive_some(connection, buffer):
                received += count
            else:
                connection.close()
                connection = None
        report.tick(bytes=received)
    report.last(bytes=received)


# ---- ping ----


def ping(
    address: str, count: int = 1, interval: float = 0.2, timeout: float = 1.0, size: int = 56
) -> list[float | None]:
    """Sends ICMP echo requests with `size` bytes of data; the round-trip time of each in seconds, None: no answer."""
    version = ip_address(address).version
    request, reply = _ECHO[version]
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    times: list[float | None] = []
    with socket.socket(_family(address), socket.SOCK_RAW, protocol) as sock:
        sock.connect((address, 0))
        for sequence in range(count):
            body = struct.pack("!HH", os.getpid() & 0xFFFF, sequence) + bytes(size)
            sent = time.monotonic()
            sock.send(icmp_message(version, request, body))
            times.append(_await_reply(sock, version, reply, body, sent, timeout))
            if sequence + 1 < count:
                time.sleep(max(0.0, interval - (time.monotonic() - sent)))
    return times


def ping_steadily(address: str, rate: int, stop: Stop) -> None:
    """Pings `rate` times a second until it is told to stop; counts the answers."""
    report, sent, answered = Report(), 0, 0
    while not stop:
        begin = time.monotonic()
        answered += ping(address, timeout=LATE)[0] is not None
        sent += 1
        report.tick(sent=sent, answered=answered)
        time.sleep(max(0.0, begin + 1 / rate - time.monotonic()))
    report.last(sent=sent, answered=answered)


def _await_reply(
    sock: socket.socket, version: int, reply: int, body: bytes, sent: float, timeout: float
) -> float | None:
    while (left := sent + timeout - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            message = sock.recv(65535)
        except TimeoutError:
            break
        if version == 4:
            message = message[(message[0] & 15) * 4 :]
        if message[0] == reply and message[4:] == body:
            return time.monotonic() - sent
    return None


def icmp_message(version: int, kind: int, body: bytes) -> bytes:
    """An ICMP message; the kernel fills the checksum of ICMPv6, ours is that of RFC 792."""
    message = struct.pack("!BBH", kind, 0, 0) + body
    if version == 6:
        return message
    padded = message + bytes(len(message) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return struct.pack("!BBH", kind, 0, checksum) + body


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ipsecfast.lab.traffic", description="numbered UDP and TCP")
    parser.add_argument("verb", choices=["udp-send", "udp-receive", "tcp-send", "tcp-receive", "ping"])
    parser.add_argument("address", help="where to send to, or to listen on")
    parser.add_argument("port", type=int, help="0 for ping")
    parser.add_argument("--rate", type=int, default=50_000, help="packets a second (udp-send, ping)")
    parser.add_argument("--size", type=int, default=200, help="bytes of UDP payload, 8 to 1472 (udp-send)")
    parser.add_argument("--pace", type=int, help="bytes a second at most (tcp-send)")
    parser.add_argument("--seconds", type=float, help="default: until SIGTERM")
    given = parser.parse_args(arguments)
    if not 8 <= given.size <= 1472 or given.rate <= 0:
        parser.error("--size is 8 to 1472, --rate above 0")
    stop = Stop(given.seconds)
    if given.verb == "udp-send":
        send_numbered(given.address, given.port, given.rate, given.size, stop)
    elif given.verb == "udp-receive":
        receive_numbered(given.address, given.port, stop)
    elif given.verb == "tcp-send":
        send_stream(given.address, given.port, given.pace, stop)
    elif given.verb == "ping":
        ping_steadily(given.address, given.rate, stop)
    else:
        receive_stream(given.address, given.port, stop)


if __name__ == "__main__":
    main()
