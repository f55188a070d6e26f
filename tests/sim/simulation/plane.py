"""What the real data plane does with SAs, without packets' bytes: knows which SPI may be used, counts what is lost."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ipsecfast.ike.actions import InstallSa, MovePeer, RemoveSa
from ipsecfast.ike.child import REPLACED, SLOT_MASK
from ipsecfast.model import (
    Acquire,
    FirstInbound,
    HardLifetime,
    InboundSeen,
    Path,
    PeerMoved,
    SaParams,
    SoftLifetime,
    UnknownSpi,
)

if TYPE_CHECKING:
    from simulation.node import Gateway

TOLD_EVERY = 1.0  # seconds between two InboundSeen of an SPI
PACKET_OCTETS = 1000  # each packet counts as many towards limits in bytes


class EspPacket(NamedTuple):
    spi: int
    key: bytes
    number: int
    path: Path


class DataPlane:
    """`sent` + `over_limit` + `unroutable` + those held or released are all packets that hosts gave it."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.inbound: dict[int, SaParams] = {}
        self.outbound: dict[int, dict[int, SaParams]] = {}
        self.active: dict[int, int] = {}
        self.own: dict[tuple[int, int], int] = {}  # RFC 9611: of (reqid, worker)
        self.asked: set[tuple[int, int]] = set()
        self.replacing: defaultdict[int, set[int]] = defaultdict(set)  # by reqid, outbound SPIs that a rekey has made
        self.traps: set[int] = set()
        self.held: Counter[int] = Counter()
        self.held_since: dict[int, float] = {}  # when the first of them came
        self.released: Counter[int] = Counter()
        self.seen: set[int] = set()
        self.told: dict[int, float] = {}  # when the last InboundSeen of an SPI was
        self.sent = self.received = self.unroutable = self.over_limit = 0
        self.lost: list[tuple[float, EspPacket]] = []
        self.used: Counter[tuple[bool, int, bytes]] = Counter()  # packets of each SA: inbound, SPI, key

    def install(self, action: InstallSa) -> None:
        name = self.gateway.name
        self.gateway.network.keys.installed(name, action)
        slots = {spi & SLOT_MASK for spi in self.inbound}
        assert action.inbound.spi & SLOT_MASK not in slots, "two inbound SAs in one slot"
        assert action.inbound.spi >> 20, "the upper bits of an SPI are not to be zero"
        table = self.outbound.setdefault(action.outbound.reqid, {})
        assert action.outbound.spi not in table, f"{name}: an outbound SPI is used twice at once"
        siblings = self.gateway.endpoint.context.children.of_reqid(action.inbound.reqid)
        if any(c.state in REPLACED and (c.resource or 0) == (action.inbound.resource or 0) for c in siblings):
            self.replacing[action.outbound.reqid].add(action.outbound.spi)
        self.inbound[action.inbound.spi] = action.inbound
        table[action.outbound.spi] = action.outbound
        if action.activate_outbound:
            self.activate(action.outbound.reqid, action.outbound.spi)

    def activate(self, reqid: int, spi: int) -> None:
        assert spi in self.outbound[reqid], "an outbound SA was activated before it was installed"
        params = self.outbound[reqid][spi]
        if spi in self.replacing[reqid]:
            self.gateway.network.keys.activated(self.gateway.name, params)
        if params.resource:
            self.own[reqid, params.resource - 1] = spi
            return
        self.active[reqid] = spi
        for _ in range(self.held.pop(reqid, 0)):
            self.send(reqid)

    def remove(self, action: RemoveSa) -> None:
        del self.inbound[action.inbound_spi]
        del self.outbound[action.reqid][action.outbound_spi]
        self.replacing[action.reqid].discard(action.outbound_spi)
        self.seen.discard(action.inbound_spi)
        if self.active.get(action.reqid) == action.outbound_spi:
            del self.active[action.reqid]
        gone = action.reqid, action.outbound_spi
        self.own = {place: spi for place, spi in self.own.items() if (place[0], spi) != gone}
        if not self.outbound[action.reqid] and action.reqid not in self.traps:  # its selectors leave the SPD
            self.released[action.reqid] += self.held.pop(action.reqid, 0)

    def move(self, action: MovePeer) -> None:
        self.inbound[action.inbound_spi] = replace(self.inbound[action.inbound_spi], path=action.path)
        table = self.outbound[action.reqid]
        table[action.outbound_spi] = replace(table[action.outbound_spi], path=action.path)

    def workers(self, reqid: int) -> int:
        """How many of them carry packets of this reqid."""
        return max(1, self.outbound[reqid][self.active[reqid]].resources)

    def _choose(self, reqid: int, worker: int) -> int | None:
        """The worker's own outbound SA, or that of all: then it asks for its own, once."""
        spi = self.own.get((reqid, worker), self.active.get(reqid))
        place = reqid, worker + 1
        if spi is not None and worker < self.outbound[reqid][spi].resources and place not in self.asked:
            self.asked.add(place)
            self.gateway.event(Acquire(reqid, *self.gateway.packet_selectors(reqid), worker + 1))
        return spi

    def send(self, reqid: int, worker: int = 0) -> None:
        """One packet of the host behind this gateway."""
        spi = self._choose(reqid, worker)
        if spi is None:
            self._without_sa(reqid)
            return
        params = self.outbound[reqid][spi]
        if not self._count(params, inbound=False):
            self.over_limit += 1
            return
        self.sent += 1
        self.gateway.network.carry_esp(self.gateway, EspPacket(spi, params.key, self.sent, params.path))

    def _without_sa(self, reqid: int) -> None:
        if reqid not in self.traps and not self.outbound.get(reqid):
            self.unroutable += 1
            return
        self.held[reqid] += 1
        if self.held[reqid] == 1:
            self.held_since[reqid] = self.gateway.network.now
            self.gateway.event(Acquire(reqid, *self.gateway.packet_selectors(reqid)))

    def _count(self, params: SaParams, *, inbound: bool) -> bool:
        """Whether one more packet may pass: each limit is told once, and the hard one holds."""
        key = inbound, params.spi, params.key
        number = self.used[key] + 1
        if not (params.soft_packets or params.hard_packets or params.soft_bytes or params.hard_bytes):
            self.used[key] = number
            return True
        limits = (params.hard_packets, -(-params.hard_bytes // PACKET_OCTETS))
        if any(limit and number > limit for limit in limits):
            return False
        self.used[key] = number
        if number in limits:
            self.gateway.event(HardLifetime(params.reqid, params.spi, inbound))
        elif number in (params.soft_packets, -(-params.soft_bytes // PACKET_OCTETS)):
            self.gateway.event(SoftLifetime(params.reqid, params.spi, inbound))
        return True

    def receive(self, packet: EspPacket, path: Path) -> None:
        params = self.inbound.get(packet.spi)
        if params is None or params.key != packet.key:
            self.lost.append((self.gateway.network.now, packet))
            self.gateway.event(UnknownSpi(packet.spi, path))
            return
        if not self._count(params, inbound=True):
            self.over_limit += 1
            return
        self.received += 1
        if packet.spi not in self.seen:
            self.seen.add(packet.spi)
            self.gateway.event(FirstInbound(packet.spi))
        elif self.gateway.network.now - self.told.get(packet.spi, 0.0) >= TOLD_EVERY:
            self.told[packet.spi] = self.gateway.network.now
            self.gateway.event(InboundSeen(packet.spi))
        if params.udp_encap and path != params.path:
            self.gateway.event(PeerMoved(packet.spi, path))
