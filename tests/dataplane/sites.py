"""Two data planes back to back over memory ports, stepped by hand: nothing here waits or reads a clock.

test -- a.inner | site A | a.outer == b.outer | site B | b.inner -- test
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from samples import SITE_A, SITE_B, as_inbound, sa_params

from ipsecfast.dataplane import DataPlane, MemoryPort, Worker
from ipsecfast.model import DataPlaneEvent, Mode, Policy, PolicyAction, SaParams, TrafficSelector

A_TO_B, B_TO_A = 0x1001, 0x2001


@dataclass(slots=True)
class Site:
    plane: DataPlane
    worker: Worker
    inner: MemoryPort  # the gateway's own end: put() is what its hosts send, get() what they receive
    outer: MemoryPort

    @classmethod
    def make(cls, name: str, outer: MemoryPort, *, engine: str = "auto", capacity: int = 4096) -> Site:
        plane = DataPlane(engine=engine)
        inner, _ = MemoryPort.pair(capacity)
        return cls(plane, plane.add_worker(name, inner, [outer]), inner, outer)

    def put(self, packets: Iterable[bytes]) -> None:
        for packet in packets:
            assert self.inner.put(packet)

    def step(self) -> int:
        """Until nothing is left to do."""
        total = 0
        while handled := self.worker.step():
            total += handled
        return total

    def received(self) -> list[bytes]:
        return [packet for packet, _, _ in iter(self.inner.get, None)]

    def events(self) -> list[DataPlaneEvent]:
        return self.plane.events()

    @property
    def drops(self) -> dict[str, int]:
        return dict(self.plane.worker_stats()[0]["drops"])

    def sa(self, spi: int) -> dict[str, Any]:
        return next(sa for sa in self.plane.sa_stats() if sa["spi"] == spi)

    def check_conservation(self) -> None:
        """All that came in went out, was dropped for a reason, was consumed, or is held."""
        stats = self.plane.worker_stats()[0]
        came = stats["outbound"]["rx_packets"] + stats["inbound"]["rx_packets"] + stats["taken_over"]
        went = stats["outbound"]["tx_packets"] + stats["inbound"]["tx_packets"] + stats["handed_over"]
        assert came == went + sum(stats["drops"].values()) + stats["consumed"] + stats["held"], stats


def protect(
    reqid: int,
    local: Iterable[TrafficSelector] = SITE_A,
    remote: Iterable[TrafficSelector] = SITE_B,
    *,
    hold: bool = False,
) -> list[Policy]:
    remotes = tuple(remote)
    return [
        Policy(source, destination, PolicyAction.PROTECT, reqid, hold)
        for source in local
        for destination in remotes
        if source.version == destination.version
    ]


@dataclass(slots=True)
class Pair:
    """Both sites, as after IKE_AUTH: one SA pair of reqid 1, both sides' selectors in the SPD."""

    a: Site
    b: Site
    forward: SaParams  # from A to B, as A has it
    back: SaParams  # from B to A, as B has it

    @classmethod
    def make(cls, *, outer: int = 4, engine: str = "auto", capacity: int = 4096, **changes: Any) -> Pair:
        ends = MemoryPort.pair(capacity)
        a, b = (Site.make(name, end, engine=engine, capacity=capacity) for name, end in zip("ab", ends, strict=True))
        forward = sa_params(A_TO_B, outer=outer, **changes)
        back = as_inbound(replace(sa_params(B_TO_A, outer=outer, **changes)))
        if forward.mode is Mode.TUNNEL:
            a.plane.publish_spd(protect(1))
            b.plane.publish_spd(protect(1, SITE_B, SITE_A))
        pair = cls(a, b, forward, back)
        pair.install(forward, back)
        return pair

    def install(self, forward: SaParams, back: SaParams) -> None:
        """Inbound first, as RFC 7296 s2.8 has it."""
        self.b.plane.install_inbound(as_inbound(forward))
        self.a.plane.install_inbound(as_inbound(back))
        for site, params in ((self.a, forward), (self.b, back)):
            site.plane.install_outbound(params)
            site.plane.activate_outbound(params.reqid, params.spi)

    def step(self) -> None:
        while self.a.step() + self.b.step():
            pass

    def carry(self, packets: Iterable[bytes]) -> list[bytes]:
        """From A's hosts to B's."""
        self.a.put(packets)
        self.step()
        return self.b.received()

    def check_conservation(self) -> None:
        self.a.check_conservation()
        self.b.check_conservation()

    def close(self) -> None:
        for site in (self.a, self.b):
            site.plane.close()
            site.inner.close()
            site.outer.close()
