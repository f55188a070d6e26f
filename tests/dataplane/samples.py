"""What the tests of the data plane build on: SAs of one pair of gateways, IP packets byte by byte, reasons by name.

10.1.0.0/16, fd01::/64 -- A 192.0.2.1, 2001:db8::1 == B 192.0.2.2, 2001:db8::2 -- 10.2.0.0/16, fd02::/64
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from ipsecfast.dataplane import DROP_REASONS, InboundSa, OutboundSa, PacketBatch
from ipsecfast.dataplane import ENGINES as ENGINES
from ipsecfast.model import NAT_T_PORT, Mode, Path, SaParams, TrafficSelector

AES_GCM_16 = 20
REASON = {text: number for number, text in enumerate(DROP_REASONS)}
KEY_BITS = (128, 192, 256)
GATEWAYS = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
HOSTS = {4: ("10.1.0.2", "10.2.0.2"), 6: ("fd01::2", "fd02::2")}
SITE_A = tuple(TrafficSelector.from_network(ip_network(text)) for text in ("10.1.0.0/16", "fd01::/64"))
SITE_B = tuple(TrafficSelector.from_network(ip_network(text)) for text in ("10.2.0.0/16", "fd02::/64"))
ICV = 16


def key_of(bits: int, seed: int = 1) -> bytes:
    """An AES key of `bits` and its 4 bytes of salt (RFC 4106 s8.1)."""
    return bytes((seed * 37 + i * 11) & 0xFF for i in range(bits // 8 + 4))


def path_of(version: int = 4, udp: bool = True) -> Path:
    """From gateway A to gateway B."""
    local, remote = (ip_address(text) for text in GATEWAYS[version])
    port = NAT_T_PORT if udp else 0
    return Path(local, port, remote, port)


def reverse(path: Path) -> Path:
    return Path(path.remote, path.remote_port, path.local, path.local_port)


def sa_params(spi: int = 0x1001, bits: int = 128, *, outer: int = 4, **changes: Any) -> SaParams:
    """The SA from A to B as gateway A has it: outbound."""
    udp = changes.get("udp_encap", True)
    base = SaParams(spi, 1, AES_GCM_16, key_of(bits, spi), path_of(outer, udp), SITE_A, SITE_B, udp_encap=udp)
    return replace(base, **changes)


def host_params(spi: int = 0x1001, bits: int = 128, *, outer: int = 4, **changes: Any) -> SaParams:
    """The same in transport mode between the gateways themselves."""
    local, remote = (TrafficSelector(end, end) for end in map(ip_address, GATEWAYS[outer]))
    return sa_params(spi, bits, outer=outer, mode=Mode.TRANSPORT, local_ts=(local,), remote_ts=(remote,), **changes)


def as_inbound(params: SaParams) -> SaParams:
    """The same SA as gateway B has it: inbound."""
    return replace(params, path=reverse(params.path), local_ts=params.remote_ts, remote_ts=params.local_ts)


def sa_pair(params: SaParams, engine: str = "auto") -> tuple[OutboundSa, InboundSa]:
    return OutboundSa(params, engine=engine), InboundSa(as_inbound(params), engine=engine)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def ipv4(
    source: str, destination: str, protocol: int, payload: bytes, *, tos: int = 0, ttl: int = 64, flags: int = 0
) -> bytes:
    """`flags` is the 16-bit word of flags and fragment offset; DF is 0x4000."""
    ends = ip_address(source).packed + ip_address(destination).packed
    head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(payload), 7, flags, ttl, protocol, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(source: str, destination: str, protocol: int, payload: bytes, *, tos: int = 0, ttl: int = 64) -> bytes:
    ends = ip_address(source).packed + ip_address(destination).packed
    return struct.pack("!IHBB", 6 << 28 | tos << 20, len(payload), protocol, ttl) + ends + payload


def udp(sport: int, dport: int, data: bytes) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data


def datagram(number: int = 0, size: int = 100, version: int = 4, *, back: bool = False, **changes: Any) -> bytes:
    """A UDP packet of `size` bytes from the host behind A to that behind B (or `back`), known by its number."""
    source, destination = reversed(HOSTS[version]) if back else HOSTS[version]
    build, head = (ipv4, 20) if version == 4 else (ipv6, 40)
    text = struct.pack("!Q", number) + bytes((number + i) & 0xFF for i in range(size - head - 16))
    return build(source, destination, 17, udp(5000, 6000, text), **changes)


def packets_of(batch: PacketBatch) -> list[bytes]:
    return [batch[i].tobytes() for i in range(len(batch))]


def names_of(reasons: Iterable[int]) -> list[str]:
    return [DROP_REASONS[reason] for reason in reasons]


def counted(reasons: Iterable[int]) -> dict[str, int]:
    return dict(Counter(names_of(reasons)))


def seal_all(sa: OutboundSa, packets: Sequence[bytes]) -> list[bytes]:
    sealed, reasons = sa.seal(PacketBatch.from_packets(packets))
    assert counted(reasons) == {"none": len(packets)}
    return packets_of(sealed)


def open_all(sa: InboundSa, packets: Sequence[bytes]) -> tuple[list[bytes], list[str]]:
    opened, reasons = sa.open(PacketBatch.from_packets(packets))
    return packets_of(opened), names_of(reasons)
