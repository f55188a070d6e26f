"""Gateways on virtual time, joined by links. `run` is the only thing that moves time; it jumps from event to event.

Everything random comes from one seed, so a schedule is a function of it. After every step the invariants are checked
of each gateway that had part in it.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from typing import Self, TypeAlias

from ipsecfast.ike.actions import Source
from ipsecfast.ike.channel import NAT_KEEPALIVE
from ipsecfast.model import Path
from simulation import invariants
from simulation.invariants import Keys, Sendings
from simulation.link import Link, Nat
from simulation.node import Gateway
from simulation.plane import EspPacket
from simulation.transcript import LINES_SHOWN, Sent, message_text

START = 100.0
QUIET_STEP = 5.0
Route: TypeAlias = tuple[Gateway, Path] | None  # who gets it, and the path as that one sees it
Touched: TypeAlias = tuple[Gateway, ...] | None  # whose endpoint an event may have called; None: all


class Network:
    """`gateways` by name, `nats` by the name of the gateway behind each; `link` joins those that `links` don't."""

    def __init__(self, seed: int, link: Link | None = None) -> None:
        self.wall_clock = datetime.now(UTC)  # of this schedule, not of the run: certificates are made meanwhile
        self.seed = seed
        self.now = START
        self.rng = random.Random(seed)
        self.link = link or Link()
        self.links: dict[frozenset[str], Link] = {}
        self.nats: dict[str, Nat] = {}
        self.computing = 0.0  # seconds that a gateway takes at most for what it does not compute at once
        self.web: dict[str, Callable[[Source], bytes | str]] = {}  # what answers under each URI
        self.fetched: list[str] = []
        self.fetching = 0.0  # seconds that it takes at most to fetch
        self.gateways: dict[str, Gateway] = {}
        self.keys = Keys()
        self.sendings = Sendings()
        self.transcript: list[Sent | str] = []
        self.steps = 0
        self._events: list[tuple[float, int, Touched, Callable[[], None] | None]] = []
        self._order = count()
        self._hosts_until = START  # they send for so long
        self._esp_free_at: dict[tuple[str, str], float] = {}
        self._at: dict[object, Gateway] = {}
        self._routes: dict[tuple[str, int], tuple[Path, Route]] = {}  # by sender and path, whose hash would cost more
        self._explained = Explained(self)

    def add(self, gateway: Gateway) -> Gateway:
        self.gateways[gateway.name] = gateway
        self._at[gateway.address] = gateway
        self._routes.clear()
        return gateway

    def fetch(self, source: Source) -> bytes | str:
        self.fetched.append(source.uri)
        answer = self.web.get(source.uri)
        return answer(source) if answer else f"{source.uri}: nobody answers"

    # -- time ----------------------------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None], gateway: Gateway | None = None) -> None:
        """`what` concerns the endpoint of `gateway` alone, or, without one, perhaps all."""
        self._push(when, (gateway,) if gateway else None, what)

    def _push(self, when: float, touched: Touched, what: Callable[[], None] | None) -> None:
        heapq.heappush(self._events, (when, next(self._order), touched, what))

    def touch(self, gateway: Gateway) -> None:
        """Something happened to it: perform what it wants, check it, see when it wants to be called."""
        with self.explained():
            gateway.perform()
            invariants.check_gateway(gateway)
        wakes_at = gateway.endpoint.next_timeout()
        if wakes_at is not None and wakes_at != gateway.wakes_at:
            self._push(wakes_at, (gateway,), None)
        gateway.wakes_at = wakes_at

    def step(self, until: float) -> bool:
        """The next event, not later than `until`."""
        while self._events and self._events[0][0] <= until:
            when, _, touched, what = heapq.heappop(self._events)
            self.now = max(self.now, when)
            if what is not None:
                with self.explained():
                    what()
            elif touched and touched[0].wakes_at == when:
                touched[0].wake()
            else:
                continue  # the timer was moved meanwhile
            self.steps += 1
            for gateway in tuple(self.gateways.values()) if touched is None else touched:
                self.touch(gateway)
            return True
        self.now = until
        return False

    def run(self, seconds: float = 1.0) -> Self:
        until = self.now + seconds
        for gateway in tuple(self.gateways.values()):
            self.touch(gateway)
        while self.step(until):
            pass
        return self

    def run_until_quiet(self, least: float, most: float) -> Self:
        """Until nothing is under way any more, and the hosts are silent. In `least` seconds each IKE SA is asked if
        it lives, so that what only one end has comes to light."""
        until = self.now + most
        self.run(least)
        while self.now < until and not self.is_quiet:
            self.run(min(QUIET_STEP, until - self.now))
        return self

    @property
    def is_quiet(self) -> bool:
        return self.now >= self._hosts_until and all(map(invariants.is_quiet, self.gateways.values()))

    def start(self) -> Self:
        for gateway in self.gateways.values():
            gateway.endpoint.start(self.now)
        return self.run(0.0)

    def traffic(self, seconds: float, every: float = 0.005) -> None:
        """All hosts send all the time, over every reqid that has a Child SA now or gets one."""
        self._hosts_until = max(self._hosts_until, self.now + seconds)
        for index in range(int(seconds / every)):
            self._push(self.now + index * every, (), self._traffic_once)

    def _traffic_once(self) -> None:
        for gateway in self.gateways.values():
            plane = gateway.dataplane
            for reqid in tuple(plane.active):
                for worker in range(plane.workers(reqid)):
                    plane.send(reqid, worker)

    # -- the links -----------------------------------------------------------------------------------------------------

    def gateway_at(self, address: IPv4Address | IPv6Address) -> Gateway | None:
        """Who gets what is sent there, behind a NAT or not."""
        for name, nat in self.nats.items():
            if nat.address == address:
                return self.gateways[name]
        return self._at.get(address)

    def route(self, sender: Gateway, path: Path) -> Route:
        if self.nats:  # their mappings change
            return self._translate(sender, path)
        key = sender.name, id(path)
        known = self._routes.get(key)
        if known is None:  # it keeps the path, so that the number stays this one's
            known = self._routes[key] = path, self._translate(sender, path)
        return known[1]

    def _translate(self, sender: Gateway, path: Path) -> Route:
        source, source_port, to, to_port = sender.address, path.local_port, path.remote, path.remote_port
        receiver = self.gateway_at(to)
        if receiver is None or receiver is sender:
            return None
        if nat := self.nats.get(sender.name):
            source, source_port = nat.address, nat.outside(source_port) if source_port else 0
        if nat := self.nats.get(receiver.name):
            port = nat.inside(to_port) if to_port else 0
            if to != nat.address or port is None:
                return None
            to, to_port = receiver.address, port
        return receiver, Path(to, to_port, source, source_port)

    def link_between(self, one: Gateway, other: Gateway) -> Link:
        return self.links.get(frozenset((one.name, other.name)), self.link) if self.links else self.link

    def carry_ike(self, sender: Gateway, path: Path, data: bytes) -> None:
        target = self.route(sender, path)
        receiver = target[0] if target else None
        ring = None if data == NAT_KEEPALIVE else sender.rings.get(sender.own_spi_of(data))
        sent = Sent(self.now, sender.name, receiver.name if receiver else str(path.remote), data, ring)
        self.transcript.append(sent)
        if target is None:
            sent.fate = "   ...lost, nobody is there"
            return
        receiver, seen = target
        link = self.link_between(sender, receiver)
        drop = link.drop is not None and link.drop(sender.name, sent.message)
        fates = [] if drop else link.fates(self.rng, data)
        if len(fates) != 1 or fates[0][1] != data:
            sent.fate = "   ...damaged or doubled" if fates else "   ...lost"
        for delay, arrived in fates:
            self.at(self.now + delay, lambda d=arrived: receiver.receive(d, seen), receiver)

    def carry_esp(self, sender: Gateway, packet: EspPacket) -> None:
        """First in, first out, and now and then slower than IKE."""
        target = self.route(sender, packet.path)
        if target is None:
            return
        receiver, seen = target
        link = self.link_between(sender, receiver)
        if link.down:
            return
        direction = sender.name, receiver.name
        arrival = max(self.now + link.delay + link.jitter * self.rng.random(), self._esp_free_at.get(direction, 0.0))
        self._esp_free_at[direction] = arrival
        self._push(arrival, (), lambda: receiver.dataplane.receive(packet, seen))

    # -- what tests ask ------------------------------------------------------------------------------------------------

    def check_converged(self, *, children: int | None = None) -> None:
        """All quiet: the same SAs at both ends of each link, `children` of them, no duplicates, nothing left over."""
        with self.explained():
            invariants.check_converged(self, children)

    def check_forgotten(self) -> None:
        """A while after all is quiet nothing is kept of what is over."""
        with self.explained():
            for gateway in self.gateways.values():
                invariants.check_forgotten(gateway)

    @property
    def lost(self) -> int:
        """Packets that met no SA. Those of a gateway before its restart are not counted."""
        return sum(len(g.dataplane.lost) for g in self.gateways.values())

    # -- words ---------------------------------------------------------------------------------------------------------

    def explained(self) -> Explained:
        return self._explained

    def remark(self, text: str) -> None:
        self.transcript.append(f"{self.now:10.3f}      {text}")

    def text(self) -> str:
        """The transcript, with the seed that makes it again."""
        return "\n".join([f"seed {self.seed}", *map(str, self.transcript[-LINES_SHOWN:])])

    def exchange(self, since: int = 0) -> list[str]:
        """The messages in the RFC's notation, such as `a --> CREATE_CHILD_SA {N(REKEY_SA), SA, Ni, TSi, TSr}`."""
        sent = [line for line in self.transcript[since:] if isinstance(line, Sent)]
        return [f"{line.arrow} {message_text(line.message)}" for line in sent]

    def mark(self) -> int:
        return len(self.transcript)


class Explained:
    """A context in which a broken invariant is told with the transcript that led to it."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, AssertionError) and not getattr(error, "explained", False):
            told = AssertionError(f"{error}\n{self._network.text()}")
            told.explained = True  # type: ignore[attr-defined]
            raise told from error
