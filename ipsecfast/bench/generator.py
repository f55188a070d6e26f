"""Packets at a rate, straight from an AF_PACKET socket: a sender that is not the bottleneck of what it measures.

A program (`python -m ipsecfast.bench.generator ...`) that stands in a host's namespace and hands the kernel batches of
ready IPv4 UDP packets by sendmmsg(2), past its routing and its queue (PACKET_QDISC_BYPASS). They belong to FLOWS flows,
in turn. It prints one line of JSON: what it sent, and in how many seconds. Nobody receives them but the counter of the
other host's link: a socket there keeps the kernel from answering, and its filter drops them at once.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import socket
import struct
import time
from ipaddress import IPv4Address

BATCH = 64
FLOWS = 16
PORT = 9  # discard
FIRST_SOURCE_PORT = 20_000
TICK_SECONDS = 0.0005  # a slow flow comes in bursts of what is due after this time
SOL_PACKET = 263
PACKET_QDISC_BYPASS = 20
SO_ATTACH_FILTER = 26
BPF_RET_K = 0x06
ETH_P_IP = 0x0800


def udp_packet(source: str, destination: str, port: int, size: int) -> bytes:
    """IPv4 and UDP around `size` bytes of zeros; the IP checksum is right, the UDP checksum none (RFC 768)."""
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + size, 0, 0x4000, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return (
        head[:10]
        + struct.pack("!H", checksum)
        + head[12:]
        + struct.pack("!HHHH", port, PORT, 8 + size, 0)
        + bytes(size)
    )


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_IoVec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("length", ctypes.c_uint32))


class Sender:
    """BATCH packets, ready to be sent over `link` to the station `mac`."""

    def __init__(self, link: str, mac: bytes, packets: list[bytes]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)  # protocol 0: it receives nothing
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        address = struct.pack(
            "=HHiHBB8s", socket.AF_PACKET, socket.htons(ETH_P_IP), socket.if_nametoindex(link), 0, 0, 6, mac
        )
        self._vectors = (_IoVec * BATCH)()
        self._headers = (_MMsgHdr * BATCH)()
        for index in range(BATCH):
            one = packets[index % len(packets)]
            self._vectors[index] = _IoVec(one, len(one))
            header = self._headers[index].header
            header.name, header.name_length = address, len(address)
            header.iov, header.iov_length = ctypes.pointer(self._vectors[index]), 1

    def send(self, count: int) -> int:
        """Sends so many of the batch; how many the kernel took."""
        taken = self._libc.sendmmsg(self._socket.fileno(), self._headers, count, 0)
        if taken >= 0:
            return int(taken)
        code = ctypes.get_errno()
        if code in (errno.ENOBUFS, errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(code, os.strerror(code))


def send_at(sender: Sender, rate: float, seconds: float) -> tuple[int, float]:
    """Sends for so long at `rate` packets a second (0: as fast as it goes); packets taken, and seconds.

    What a pause of the machine took is not made up for: that burst would be another measurement.
    """
    sent, begin = 0, time.monotonic()
    due, end = begin, begin + seconds
    burst = BATCH if not rate else max(1, min(BATCH, round(rate * TICK_SECONDS)))
    while (now := time.monotonic()) < end:
        if rate and due > now:
            time.sleep(due - now)
            continue
        sent += sender.send(burst)
        if rate:
            due = max(due, now - 2 * TICK_SECONDS) + burst / rate
    return sent, time.monotonic() - begin


def open_sink() -> socket.socket:
    """A UDP socket that drops all it gets before it is queued; the link's counter is who counts."""
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    drop = ctypes.create_string_buffer(struct.pack("=HBBI", BPF_RET_K, 0, 0, 0))
    sink.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(drop)))
    sink.bind(("0.0.0.0", PORT))  # noqa: S104 (of a namespace that ends with the benchmark)
    return sink


def received_packets(link: str) -> int:
    """What the link of this thread's namespace has received so far."""
    with open("/proc/thread-self/net/dev") as file:
        for line in file:
            name, _, counts = line.partition(":")
            if name.strip() == link:
                return int(counts.split()[1])
    raise OSError(f"there is no link {link}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ipsecfast.bench.generator", description="UDP packets at a rate")
    parser.add_argument("source", help="IPv4 address that they come from")
    parser.add_argument("destination", help="IPv4 address that they go to")
    parser.add_argument("mac", help="of the next hop, hexadecimal digits and colons")
    parser.add_argument("--link", default="eth0")
    parser.add_argument("--size", type=int, default=64, help="bytes of UDP payload")
    parser.add_argument("--rate", type=float, default=0.0, help="packets a second; 0: as fast as it goes")
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    packets = [
        udp_packet(given.source, given.destination, FIRST_SOURCE_PORT + flow, given.size) for flow in range(FLOWS)
    ]
    sender = Sender(given.link, bytes.fromhex(given.mac.replace(":", "")), packets)
    sent, seconds = send_at(sender, given.rate, given.seconds)
    print(json.dumps({"sent": sent, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
