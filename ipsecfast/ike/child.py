"""Child SAs (RFC 7296 s1.3, s2.8, s2.17): one pair of ESP SAs, and the table of all that one endpoint has.

Inbound and outbound count apart: the inbound SA takes packets from the moment it is installed until after its DELETE,
the outbound SA only carries them while it is the ACTIVE one of its reqid. That is what makes a rekey lose nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from ipsecfast.configured import ChildConfig
from ipsecfast.ike.actions import Action, ActivateOutbound, InstallSa, MovePeer, RemoveSa
from ipsecfast.ike.states import Cause
from ipsecfast.ike.timers import Timer
from ipsecfast.ike.wire.proposal import has_ml_kem
from ipsecfast.ike.wire.selectors import SelectorPair
from ipsecfast.model import Path, Proposal, SaParams

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

SLOT_BITS = 20  # the data plane's SAD takes the slot from these bits of an inbound SPI
SLOT_MASK = (1 << SLOT_BITS) - 1
LANES = 1 << 8  # the next bits say which of its workers owns the SA
TAGS = (1 << 32) // LANES // (1 << SLOT_BITS) - 1  # upper bits are 1 to TAGS: every SPI is above 255 (RFC 4303 s2.1)


class ChildState(Enum):
    """What this end knows of the pair; the peer may know more."""

    INSTALLED = "installed"
    REKEYING = "rekeying"  # our CREATE_CHILD_SA for its successor is under way
    REKEYED = "rekeyed"  # it has a successor; who made that one deletes this one
    REDUNDANT = "redundant"  # it lost a simultaneous rekey (s2.8.1); who made it deletes it
    DELETING = "deleting"  # our DELETE is under way
    CLOSED = "closed"  # after the DELETE; the inbound SA may stay a moment for packets under way


LIVE = frozenset({ChildState.INSTALLED, ChildState.REKEYING})
REPLACED = frozenset({ChildState.REKEYING, ChildState.REKEYED})


class OutboundState(Enum):
    """s2.8: a responder registers its new outbound SA and activates it when the initiator uses its own."""

    REGISTERED = "registered"
    ACTIVE = "active"
    INACTIVE = "inactive"


class ChildSa:
    """One pair of ESP SAs. `initiator`: we began the exchange that made it; `nonces`: those of that exchange.

    `resource`: None where there is one such Child SA only; of several with the same selectors (RFC 9611) 0 is the one
    that every worker may use, i that of worker i - 1.
    """

    __slots__ = (
        "collision",
        "config",
        "established_at",
        "expires_at",
        "ike",
        "inbound",
        "initiator",
        "nonces",
        "outbound",
        "outbound_state",
        "proposal",
        "quantum_resistant",
        "rekey_at",
        "resource",
        "selectors",
        "state",
        "successor",
        "twin",
        "unwanted",
    )

    def __init__(
        self,
        ike: IkeSa,
        config: ChildConfig,
        proposal: Proposal,
        selectors: SelectorPair,
        inbound: SaParams,
        outbound: SaParams,
        *,
        initiator: bool,
        nonces: tuple[bytes, bytes],
        now: float,
        resource: int | None = None,
    ) -> None:
        self.ike = ike
        self.config = config
        self.proposal = proposal
        self.quantum_resistant = ike.sk_d_resistant or has_ml_kem(proposal)  # for good, whatever the IKE SA becomes
        self.selectors = selectors
        self.inbound = inbound
        self.outbound = outbound
        self.initiator = initiator
        self.nonces = nonces
        self.resource = resource
        self.state = ChildState.INSTALLED
        self.outbound_state = OutboundState.REGISTERED
        self.successor: ChildSa | None = None
        self.unwanted: Cause | None = None  # the operator ends it, or a twin stays: what takes its place goes too
        self.twin: ChildSa | None = None  # of the same kind, made by us at once: it goes when the peer has this one
        self.collision: ChildSa | None = None  # what the peer made of this one while our own rekey was under way
        self.established_at = now
        lifetime = config.lifetime
        jitter = lifetime.rand_time * ike.context.fraction()
        self.rekey_at = now + max(0.0, lifetime.rekey_time - jitter) if lifetime.rekey_time else None
        self.expires_at = now + lifetime.life_time if lifetime.life_time else None

    @property
    def spi_in(self) -> int:
        return self.inbound.spi

    @property
    def spi_out(self) -> int:
        return self.outbound.spi

    @property
    def reqid(self) -> int:
        return self.inbound.reqid

    @property
    def place(self) -> tuple[int, int]:
        """Whose outbound traffic it carries: of which reqid, of all its workers (0) or of one."""
        return self.reqid, self.resource or 0

    @property
    def live(self) -> bool:
        """It is what traffic should use, as far as this end knows."""
        return self.state in LIVE

    def on_timer(self, timer: Timer, now: float) -> None:
        match timer:
            case Timer.REKEY | Timer.RETRY:
                self.ike.rekey_child(self, now)
            case Timer.EXPIRE:
                self.ike.expire_child(self, now)
            case Timer.ACTIVATE:
                self.ike.activate_first(self, now)
            case Timer.LINGER:
                self.ike.context.children.remove(self)
            case _:
                raise AssertionError(f"a Child SA has no timer {timer}")

    def __repr__(self) -> str:
        return f"<ChildSa {self.config.name} {self.spi_in:08x}/{self.spi_out:08x} {self.state.value}>"


class InboundSpis:
    """Our inbound ESP SPIs: the lowest free slot below, so that the SAD is indexed, not hashed; a lane above, by which
    the data plane divides SAs among its workers (csrc/steer.h); a random tag above that.

    New SAs take the lanes in turn, that of one worker (RFC 9611) its own lane, a successor its predecessor's: packets
    of a flow stay in order while its SA is rekeyed. A slot's tag and lane differ from its last ones: ESP for the SA
    before meets an SPI that does not exist, not another key.
    """

    __slots__ = ("_free", "_lane", "_next", "_random", "_tags", "_used")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._free: list[int] = []
        self._next = 0
        self._lane = 0
        self._tags: dict[int, int] = {}
        self._used: set[int] = set()

    def allocate(self, predecessor: int | None = None, *, worker: int | None = None) -> int | None:
        """A new SPI, or None when all slots are taken. `predecessor` is the SPI of the SA that is rekeyed, `worker` the
        one that is to own the new one."""
        if not self._free and self._next > SLOT_MASK:
            return None
        if self._free:
            slot = heapq.heappop(self._free)
        else:
            slot, self._next = self._next, self._next + 1
        if worker is not None:
            lane = worker % LANES
        elif predecessor is None:
            lane, self._lane = self._lane, (self._lane + 1) % LANES
        else:
            lane = (predecessor >> SLOT_BITS) % LANES
        tag = 1 + int.from_bytes(self._random(4), "big") % TAGS
        if tag * LANES + lane == self._tags.get(slot):
            tag = 1 + tag % TAGS
        self._tags[slot] = tag * LANES + lane
        spi = self._tags[slot] << SLOT_BITS | slot
        self._used.add(spi)
        return spi

    def release(self, spi: int) -> None:
        """Free again; nothing happens when it already is."""
        if spi in self._used:
            self._used.remove(spi)
            heapq.heappush(self._free, spi & SLOT_MASK)


class ChildTable:
    """All Child SAs of the endpoint by inbound SPI, and of each place the one that carries outbound traffic.

    Of per-resource ones (RFC 9611) `asked` are the places for which our own requests wait or, True, are under way,
    `crowded` the reqids of which the peer wants no more.
    """

    def __init__(self, emit: Callable[[Action], None], random: Callable[[int], bytes]) -> None:
        self._emit = emit
        self.spis = InboundSpis(random)
        self.by_spi: dict[int, ChildSa] = {}
        self.asked: dict[tuple[int, int], bool] = {}
        self.crowded: set[int] = set()
        self._active: dict[tuple[int, int], ChildSa] = {}
        self._of_reqid: dict[int, list[ChildSa]] = {}

    def of_reqid(self, reqid: int) -> Iterator[ChildSa]:
        """Oldest first, lingering ones included."""
        return iter(tuple(self._of_reqid.get(reqid, ())))

    def active(self, reqid: int) -> ChildSa | None:
        """The one for all workers."""
        return self._active.get((reqid, 0))

    def carrier(self, child: ChildSa) -> ChildSa | None:
        """The pair that carries the traffic which `child` is made for."""
        return self._active.get(child.place)

    def occupied(self, reqid: int, resource: int) -> bool:
        """There is a Child SA at this place, in use yet or not."""
        return any(c.live and c.place == (reqid, resource) for c in self.of_reqid(reqid))

    def find(self, reqid: int, spi: int, inbound: bool) -> ChildSa | None:
        """The pair that has this SPI in this direction; outbound SPIs are the peers' choice, unique with reqid."""
        if inbound:
            return self.by_spi.get(spi)
        return next((c for c in self.of_reqid(reqid) if c.spi_out == spi and c.state != ChildState.CLOSED), None)

    def install(self, child: ChildSa, *, activate: bool) -> None:
        """Inbound ACTIVE; outbound ACTIVE too, or REGISTERED until `activate` (s2.8)."""
        self.by_spi[child.spi_in] = child
        self._of_reqid.setdefault(child.reqid, []).append(child)
        connection = child.ike.connection.config.name
        self._emit(InstallSa(connection, child.config.name, child.inbound, child.outbound, activate))
        if activate:
            self._make_active(child)
        timers = child.ike.context.timers
        if child.rekey_at is not None:
            timers.set(child, Timer.REKEY, child.rekey_at)
        if child.expires_at is not None:
            timers.set(child, Timer.EXPIRE, child.expires_at)

    def activate(self, child: ChildSa) -> None:
        """Outbound traffic of its place leaves through this pair from now on."""
        if self._active.get(child.place) is not child:
            self._emit(ActivateOutbound(child.reqid, child.spi_out))
            self._make_active(child)

    def _make_active(self, child: ChildSa) -> None:
        before = self._active.get(child.place)
        if before is not None and before is not child:
            before.outbound_state = OutboundState.INACTIVE
        self._active[child.place] = child
        child.outbound_state = OutboundState.ACTIVE

    def close(self, child: ChildSa, now: float, *, linger: float = 0.0) -> None:
        """The pair's DELETE is done. Its traffic goes on over another live pair of its place where there is one; only
        then its inbound SA lingers, because without one the outbound half must not stay in use either."""
        if child.state == ChildState.CLOSED:
            return
        child.state = ChildState.CLOSED
        timers = child.ike.context.timers
        timers.clear_all(child)
        unused = self._active.get(child.place) in (child, None)  # None: not even the first one was ACTIVE yet
        if unused and (heir := self._heir(child)):
            self.activate(heir)
        if linger and self._active.get(child.place) not in (child, None):
            timers.set(child, Timer.LINGER, now + linger)
        else:
            self.remove(child)

    def stand_aside(self, child: ChildSa) -> None:
        """Our DELETE leaves, and the peer may be without it long before we hear so: what the peer surely has takes
        over, if there is any."""
        if self._active.get(child.place) is child:
            siblings = [c for c in self.of_reqid(child.reqid) if c.place == child.place and c.live]
            proved = [c for c in siblings if c.outbound_state is not OutboundState.REGISTERED]
            if proved:
                self.activate(proved[-1])

    def _heir(self, child: ChildSa) -> ChildSa | None:
        """Who carries the traffic when `child`, which did, is gone: its successor, ours or the peer's (s2.25.1), which
        the peer has if it deletes this one; else the latest that the peer has used; else the latest, but not before its
        predecessor, if that is still there (s2.8). Of one worker only what the peer surely has: there is the one for
        all."""
        successor = child.successor or child.collision
        while successor is not None and not successor.live:
            successor = successor.successor
        siblings = tuple(c for c in self.of_reqid(child.reqid) if c.place == child.place)
        live = [c for c in siblings if c.live]
        proved = [c for c in live if c.outbound_state is not OutboundState.REGISTERED]
        latest = successor or next(reversed(proved or live), None)
        if latest is None or successor or proved:
            return latest
        replaced = (c for c in siblings if latest in (c.successor, c.collision) and c.state in REPLACED)
        return next(replaced, None if child.resource else latest)

    def remove(self, child: ChildSa) -> None:
        """Nothing of the pair is left."""
        self.by_spi.pop(child.spi_in, None)
        siblings = self._of_reqid[child.reqid]
        siblings.remove(child)
        if not siblings:
            del self._of_reqid[child.reqid]
            self.crowded.discard(child.reqid)
        if self._active.get(child.place) is child:
            del self._active[child.place]
        self.spis.release(child.spi_in)
        self._emit(RemoveSa(child.reqid, child.spi_in, child.spi_out))

    def move(self, child: ChildSa, path: Path) -> None:
        """The peer has another address or port (s2.23)."""
        if path != child.outbound.path:
            child.inbound = replace(child.inbound, path=path)
            child.outbound = replace(child.outbound, path=path)
            self._emit(MovePeer(child.reqid, child.spi_in, child.spi_out, path))


class Reqids:
    """A number for each (connection, child, peer), kept over rekeys and reconnects (RFC 4301: the SPD entry's own)."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._owners: dict[int, tuple[str, str, str]] = {}

    def get(self, connection: str, child: str, peer: str) -> int:
        """`peer` is empty for a connection to one peer, its identity where a connection serves many."""
        owner = (connection, child, peer)
        if owner not in self._numbers:
            self._numbers[owner] = len(self._numbers) + 1
            self._owners[self._numbers[owner]] = owner
        return self._numbers[owner]

    def owner(self, reqid: int) -> tuple[str, str, str] | None:
        return self._owners.get(reqid)
