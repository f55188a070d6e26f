"""What is measured with: one pair of SAs between two sites, and packets between them."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network

from ipsecfast.bench.results import BenchError
from ipsecfast.model import Path, SaParams, TrafficSelector

BATCH = 64
KEY = bytes(range(16))
SALT = bytes(4)
SIZES = (64, 256, 576, 1400, 8900)
IMIX = ((64, 7), (576, 4), (1500, 1))  # bytes and how often of twelve, the usual mix of the Internet
IMIX_NAME = "imix"


def sa_params(window: int = 2048, *, spi: int = 0x1001, reqid: int = 1) -> SaParams:
    """AES-128-GCM-16, tunnel mode in UDP, from site A to site B; the sender's end."""
    path = Path(ip_address("192.0.2.1"), 4500, ip_address("192.0.2.2"), 4500)
    local, remote = (TrafficSelector.from_network(ip_network(text)) for text in ("10.1.0.0/16", "10.2.0.0/16"))
    return SaParams(spi, reqid, 20, KEY + SALT, path, (local,), (remote,), udp_encap=True, replay_window=window)


def inbound(params: SaParams) -> SaParams:
    """The same SA at the other end."""
    path = Path(params.path.remote, 4500, params.path.local, 4500)
    return SaParams(
        params.spi, params.reqid, 20, params.key, path, params.remote_ts, params.local_ts, udp_encap=True,
        replay_window=params.replay_window,
    )  # fmt: skip


def packet(size: int, *, port: int = 5000, site: int = 0) -> bytes:
    """An IPv4 UDP packet of `size` bytes to 10.2.`site`.2; no UDP checksum (RFC 768: 0 is none)."""
    addresses = ip_address("10.1.0.2").packed + ip_address(f"10.2.{site}.2").packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0x4000, 64, 17, 0) + addresses
    return head + struct.pack("!HHHH", port, 6000, size - 20, 0) + bytes(size - 28)


def answer_to(packet: bytes) -> bytes:
    """The same packet the other way round."""
    return packet[:12] + packet[16:20] + packet[12:16] + packet[22:24] + packet[20:22] + packet[24:]


def sizes_in_turn(size: str) -> list[int]:
    """The sizes of packets of `size` bytes, or of the mix in an order without long runs."""
    if size != IMIX_NAME:
        return [int(size)]
    once = [octets for octets, count in IMIX for _ in range(count)]
    return [once[index * 5 % len(once)] for index in range(len(once))]  # 5 and 12 have no common divisor


def parse_sizes(text: str) -> tuple[str, ...]:
    """ "64,1400,imix"; raises BenchError."""
    sizes = tuple(part.strip() for part in text.split(","))
    for size in sizes:
        if size != IMIX_NAME and not (size.isdecimal() and 64 <= int(size) <= 65_000):
            raise BenchError(f"size {size!r}: a number of bytes from 64 to 65000, or {IMIX_NAME}")
    return sizes


def parse_engines(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """ "openssl,ipsec-mb"; raises BenchError for one that is not here."""
    engines = tuple(part.strip() for part in text.split(","))
    if unknown := set(engines) - set(known):
        raise BenchError(f"no engine {', '.join(sorted(unknown))}; there is: {', '.join(known)}")
    return engines
