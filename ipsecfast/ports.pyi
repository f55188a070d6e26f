"""Where packets come from and go to: the ports of a data plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from typing_extensions import disjoint_base

from ipsecfast.library import PacketBatch
from ipsecfast.model import IPNetwork, Path

@disjoint_base
class Port:
    """Where packets come from and go to. close() takes effect when no data plane uses the port any more."""
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    @property
    def name(self) -> str: ...
    def close(self) -> None: ...

@final
class TunPort(Port):
    """A TUN device, made here with TUNSETIFF (IFF_NO_PI) and gone when closed."""
    def __init__(self, name: str) -> None: ...
    @staticmethod
    def group(name: str, n: int) -> list[TunPort]: ...
    @property
    def steered(self) -> bool: ...

@final
class UdpPort(Port):
    """A UDP socket that carries ESP (RFC 3948) and IKE behind the non-ESP marker; wildcard-bound, packet info on."""
    def __init__(self, version: int, port: int = 4500, *, mark: int = 0) -> None: ...
    @staticmethod
    def group(version: int, n: int, port: int = 4500, *, mark: int = 0) -> list[UdpPort]: ...
    def fileno(self) -> int: ...

@final
class RawEspPort(Port):
    """A raw socket for bare ESP, protocol 50."""
    def __init__(self, version: int, *, mark: int = 0) -> None: ...
    @staticmethod
    def group(version: int, n: int, *, mark: int = 0) -> list[RawEspPort]: ...

class RingPort(Port):
    """Whole Ethernet frames of one interface, past the kernel's stack."""
    def set_address(self, address: bytes) -> None: ...
    def take(self, network: IPNetwork, longest: int = 0) -> None: ...
    def leave(self, network: IPNetwork) -> None: ...

@final
class PacketPort(RingPort):
    """An AF_PACKET port."""
    @staticmethod
    def group(
        interface: str, n: int, *, outer: bool, bypass: bool = False, udp_port: int = 4500
    ) -> list[PacketPort]: ...

@final
class XdpPort(RingPort):
    """An AF_XDP port: `mode` is "native, zero-copy", "native" or "generic"."""
    @staticmethod
    def group(
        interface: str, n: int, *, outer: bool, beside: Sequence[Port] | None = None, ring: bool = False
    ) -> list[XdpPort]: ...
    @property
    def mode(self) -> str: ...
    @property
    def shares(self) -> bool: ...

@final
class MemoryPort(Port):
    """A port over memory, for tests and benchmarks: what one end of a pair sends the other receives, or `get` takes."""
    @staticmethod
    def pair(capacity: int = 1024) -> tuple[MemoryPort, MemoryPort]: ...
    def put(self, packet: bytes, path: Path | None = None, tos: int = 0) -> bool: ...
    def get(self) -> tuple[bytes, Path | None, int] | None: ...

@final
class GeneratorPort(Port):
    """A source and a sink for benchmarks: delivers copies of packets, as many as are granted; counts what is sent."""
    def __init__(self, packets: PacketBatch | None = None, path: Path | None = None) -> None: ...
    def grant(self, n: int) -> None: ...
    @property
    def counts(self) -> dict[str, int]: ...
    def drive(self) -> None: ...
