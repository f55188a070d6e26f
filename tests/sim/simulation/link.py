"""What happens to datagrams between two gateways, and the NAT before one of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

from ipsecfast.ike.wire.message import Message

NAT_ADDRESS = ip_address("198.51.100.7")


@dataclass
class Link:
    """What happens to IKE datagrams; probabilities from 0 to 1, times in seconds. ESP keeps its order and is not lost,
    so that every packet that does not arrive is the fault of the SAs. A `late` one takes up to `lateness` longer."""

    delay: float = 0.02
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    late: float = 0.0
    lateness: float = 30.0
    mtu: int = 65535
    down: bool = False
    drop: Callable[[str, Message | None], bool] | None = None

    def fates(self, rng: random.Random, data: bytes) -> list[tuple[float, bytes]]:
        """(delay, octets) of each copy that arrives."""
        if self.down or len(data) > self.mtu or rng.random() < self.loss:
            return []
        copies = 2 if rng.random() < self.duplicate else 1
        return [(self._delay(rng), self._corrupted(rng, data)) for _ in range(copies)]

    def _delay(self, rng: random.Random) -> float:
        late = self.lateness * rng.random() if self.late and rng.random() < self.late else 0.0
        return self.delay + self.jitter * rng.random() + late

    def _corrupted(self, rng: random.Random, data: bytes) -> bytes:
        if rng.random() >= self.corrupt:
            return data
        position = rng.randrange(len(data))
        return data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :]


@dataclass
class Nat:
    """A gateway is behind this; `rebind` gives it other ports, as a NAT that restarted."""

    address: object = NAT_ADDRESS
    ports: dict[int, int] = field(default_factory=dict)
    base: int = 20000

    def outside(self, port: int) -> int:
        return self.ports.setdefault(port, self.base + port)

    def inside(self, port: int) -> int | None:
        return next((i for i, o in self.ports.items() if o == port), None)

    def rebind(self) -> None:
        self.base = 20000 + (self.base - 20000 + 5000) % 30000
        self.ports = {}
