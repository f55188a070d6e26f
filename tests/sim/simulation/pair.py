"""Two gateways, a and b, and the link between them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from ipsecfast.configured import ConnectionConfig
from ipsecfast.ike.context import Settings
from simulation.configuration import ADDRESS, connection
from simulation.link import Link, Nat
from simulation.network import Network
from simulation.node import Gateway


class Pair(Network):
    """Gateway a is behind `nat`, if there is one."""

    def __init__(
        self,
        a: ConnectionConfig | Iterable[ConnectionConfig] | None = None,
        b: ConnectionConfig | Iterable[ConnectionConfig] | None = None,
        *,
        seed: int = 1,
        link: Link | None = None,
        nat: Nat | None = None,
        settings: Settings | None = None,
        settings_b: Settings | None = None,
    ) -> None:
        super().__init__(seed, link)
        if nat is not None:
            self.nats["a"] = nat
        a = connection("a") if a is None else a
        b = connection("b") if b is None else b
        a, b = ((x,) if isinstance(x, ConnectionConfig) else tuple(x) for x in (a, b))
        self.a = self.add(Gateway(self, "a", ADDRESS["a"], a, settings))
        self.b = self.add(Gateway(self, "b", ADDRESS["b"], b, settings_b or settings))

    @property
    def nat(self) -> Nat | None:
        return self.nats.get("a")

    def up(self) -> Self:
        """a initiates; both ends are established."""
        self.a.initiate()
        self.run(1.0)
        assert self.a.established, self.text()
        assert self.b.established, self.text()
        return self


def run_quiet(pair: Network, seconds: float = 400.0) -> None:
    """Let everything that is under way end: retransmissions, retries, lingering SAs."""
    pair.run(seconds)
