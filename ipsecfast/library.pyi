"""The data plane as a library over numpy: seal and open batches of packets, ask an SPD, drive a replay window."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from ipsecfast.model import Policy, SaParams

U8: TypeAlias = NDArray[np.uint8]
U16: TypeAlias = NDArray[np.uint16]
U32: TypeAlias = NDArray[np.uint32]
U64: TypeAlias = NDArray[np.uint64]
# uint8[n, 4], uint8[n, 16], uint32[n] (IPv4 in host order), or a sequence of addresses
Addresses: TypeAlias = U8 | U32 | Sequence[IPv4Address] | Sequence[IPv6Address] | Sequence[str]

@final
class PacketBatch:
    """Packets in one piece of memory: `data` uint8[size], `offsets` uint64[n], `lengths` uint32[n]."""
    def __init__(self, data: U8, offsets: U64, lengths: U32) -> None: ...
    @classmethod
    def from_packets(cls, packets: Sequence[bytes]) -> PacketBatch: ...
    @classmethod
    def empty(cls, count: int, size: int) -> PacketBatch: ...
    @property
    def data(self) -> U8: ...
    @property
    def offsets(self) -> U64: ...
    @property
    def lengths(self) -> U32: ...
    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> U8: ...

@final
class OutboundSa:
    """Seals packets with one SA (RFC 4303 s3.3)."""
    def __init__(self, params: SaParams, *, engine: str = "auto") -> None: ...
    def seal(
        self, packets: PacketBatch, out: PacketBatch | None = None, *, reasons: U8 | None = None
    ) -> tuple[PacketBatch, U8]: ...
    @property
    def sequence(self) -> int: ...

@final
class InboundSa:
    """Opens packets of one SA (RFC 4303 s3.4)."""
    def __init__(self, params: SaParams, *, engine: str = "auto") -> None: ...
    def open(
        self, packets: PacketBatch, out: PacketBatch | None = None, *, reasons: U8 | None = None
    ) -> tuple[PacketBatch, U8]: ...

def raw_seal(engine: str, key: bytes, data: U8, length: int, stride: int, rounds: int = 1) -> None: ...
def raw_open(engine: str, key: bytes, data: U8, length: int, stride: int, rounds: int = 1) -> None: ...

@final
class ReplayWindow:
    """RFC 4303 s3.4.3 and app. A."""
    def __init__(self, size: int = 2048, *, esn: bool = False) -> None: ...
    def check(self, sequence: int) -> bool: ...
    def update(self, sequence: int) -> bool: ...
    def accept(self, sequences: U64) -> U8: ...
    def reconstruct(self, low: int) -> int: ...
    @property
    def top(self) -> int: ...

@final
class Spd:
    """A compiled, immutable SPD: ordered policies, the first that matches decides (RFC 4301 s4.4.1)."""
    def __init__(self, policies: Sequence[Policy]) -> None: ...
    def lookup(
        self,
        source: Addresses,
        destination: Addresses,
        protocol: U8 | Sequence[int],
        source_port: U16 | Sequence[int],
        destination_port: U16 | Sequence[int],
    ) -> NDArray[np.int32]: ...
    def __len__(self) -> int: ...
