"""The gateway's SPD as a book: which policies stand in it, in which order, and which routes follow from them.

The order (RFC 4301 s4.4.1, the first that matches decides): the explicit policies, then child by child as configured
the negotiated selectors of its SAs, or, while it has none, the configured selectors of its trap. Nothing here touches
the kernel. Each call tells what it changes, and costs what it changes: a book may hold a hundred thousand children.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, product
from typing import TypeAlias

from ipsecfast.configured import ConnectionConfig
from ipsecfast.model import IPAddress, Mode, Policy, PolicyAction, SaParams, TrafficSelector
from ipsecfast.routes import RouteBook

ChildKey: TypeAlias = tuple[str, str]
Selectors: TypeAlias = tuple[TrafficSelector, ...]
_SelectorPair: TypeAlias = tuple[TrafficSelector, TrafficSelector]

BLOCK = 512  # entries


@dataclass(frozen=True, slots=True)
class SpdChange:
    """`removed` policies from `index` on give way to `policies`, all at once."""

    index: int
    removed: int
    policies: tuple[Policy, ...]


@dataclass(slots=True)
class _Entry:
    """What one reqid has in the SPD: its live SAs by inbound SPI, and its trap. `place` orders the entries."""

    child: ChildKey
    reqid: int
    place: tuple[int, int]
    sas: dict[int, tuple[Selectors, Selectors]] = field(default_factory=dict)
    trap: tuple[Selectors, Selectors] | None = None
    policies: tuple[Policy, ...] = ()


class _Order:
    """Entries by their places, in blocks: where an entry's policies begin is found without walking all of them."""

    def __init__(self) -> None:
        self._blocks: list[list[_Entry]] = [[]]
        self._policies = [0]  # in each block

    def __iter__(self) -> Iterator[_Entry]:
        return (entry for block in self._blocks for entry in block)

    def _find(self, entry: _Entry) -> tuple[int, int]:
        number = max(0, bisect_right(self._blocks, entry.place, key=_first_place) - 1)
        return number, bisect_left(self._blocks[number], entry.place, key=_place)

    def insert(self, entry: _Entry) -> None:
        """An entry that has no policies yet."""
        number, at = self._find(entry)
        block = self._blocks[number]
        block.insert(at, entry)
        if len(block) > BLOCK:
            self._blocks[number : number + 1] = [block[: BLOCK // 2], block[BLOCK // 2 :]]
            self._policies[number : number + 1] = [_count(half) for half in self._blocks[number : number + 2]]

    def remove(self, entry: _Entry) -> None:
        """An entry that has no policies any more."""
        number, at = self._find(entry)
        del self._blocks[number][at]
        if not self._blocks[number] and len(self._blocks) > 1:
            del self._blocks[number], self._policies[number]

    def put(self, entry: _Entry, policies: tuple[Policy, ...]) -> int:
        """Gives the entry these policies; how many stand before them."""
        number, at = self._find(entry)
        self._policies[number] += len(policies) - len(entry.policies)
        entry.policies = policies
        block, before = self._blocks[number], sum(self._policies[:number])
        if at > len(block) // 2:  # whatever comes last is counted from the end
            return before + self._policies[number] - _count(block[at:])
        return before + _count(block[:at])


def _place(entry: _Entry) -> tuple[int, int]:
    return entry.place


def _first_place(block: list[_Entry]) -> tuple[int, int]:
    return block[0].place if block else (0, 0)


def _count(entries: list[_Entry]) -> int:
    return sum(len(entry.policies) for entry in entries)


class SpdBook:
    """Keeps account of SAs and traps. What changes the SPD is returned; what changes the routes, `routes` knows."""

    def __init__(self, explicit: Sequence[Policy], connections: Iterable[ConnectionConfig]) -> None:
        self.routes = RouteBook()
        self._explicit = tuple(dict.fromkeys(explicit))
        children = ((connection.name, child.name) for connection in connections for child in connection.children)
        self._numbers: dict[ChildKey, int] = {}
        for child in children:
            self._numbers.setdefault(child, len(self._numbers))
        self._entries: dict[int, dict[ChildKey, _Entry]] = {}  # by reqid
        self._order = _Order()
        self._serial = count()

    def add_trap(self, child: ChildKey, reqid: int, local_ts: Selectors, remote_ts: Selectors) -> SpdChange | None:
        entry = self._entry(child, reqid)
        self._lead(entry.trap, (local_ts, remote_ts))
        entry.trap = (local_ts, remote_ts)
        return self._update(entry)

    def add_sa(self, child: ChildKey, inbound: SaParams) -> SpdChange | None:
        entry = self._entry(child, inbound.reqid)
        self._lead(entry.sas.get(inbound.spi), (inbound.local_ts, inbound.remote_ts))
        entry.sas[inbound.spi] = (inbound.local_ts, inbound.remote_ts)
        return self._update(entry)

    def remove_sa(self, reqid: int, inbound_spi: int) -> SpdChange | None:
        """Takes the SA out; its selectors go with the last SA of the reqid."""
        for entry in list(self._entries.get(reqid, {}).values()):
            if inbound_spi in entry.sas:
                self._lead(entry.sas.pop(inbound_spi), None)
                return self._update(entry)
        return None

    def trapped(self) -> list[ChildKey]:
        """The children that have a trap."""
        return list(dict.fromkeys(entry.child for entry in self._order if entry.trap))

    def policies(self) -> list[Policy]:
        """The whole SPD in its order, each policy once."""
        return [*self._explicit, *(policy for entry in self._order for policy in entry.policies)]

    def _entry(self, child: ChildKey, reqid: int) -> _Entry:
        known = self._entries.setdefault(reqid, {})
        if child not in known:
            number = self._numbers.setdefault(child, len(self._numbers))
            known[child] = _Entry(child, reqid, (number, next(self._serial)))
            self._order.insert(known[child])
        return known[child]

    def _lead(self, old: tuple[Selectors, Selectors] | None, new: tuple[Selectors, Selectors] | None) -> None:
        """The routes of a trap stay while its SA is narrower: what the peer refused is dropped by the SPD and doesn't
        leave the machine in the clear."""
        for pair in _pairs(new):
            self.routes.add(*pair)
        for pair in _pairs(old):
            self.routes.remove(*pair)

    def _update(self, entry: _Entry) -> SpdChange | None:
        old, new = entry.policies, tuple(dict.fromkeys(_policies(entry)))
        index = len(self._explicit) + self._order.put(entry, new) if new != old else 0
        if not entry.sas and entry.trap is None:
            self._order.remove(entry)
            del self._entries[entry.reqid][entry.child]
            if not self._entries[entry.reqid]:
                del self._entries[entry.reqid]
        return SpdChange(index, len(old), new) if new != old else None


def _policies(entry: _Entry) -> Iterator[Policy]:
    """Packets are held for a trap's negotiation, and for a responder's SA whose outbound half isn't active yet."""
    for selectors in entry.sas.values() or (entry.trap,):
        for local, remote in _pairs(selectors):
            yield Policy(local, remote, PolicyAction.PROTECT, entry.reqid, hold=True)


def _pairs(selectors: tuple[Selectors, Selectors] | None) -> Iterator[_SelectorPair]:
    """Those that one packet can match."""
    if selectors is not None:
        yield from (pair for pair in product(*selectors) if _go_together(*pair))


def _go_together(local: TrafficSelector, remote: TrafficSelector) -> bool:
    """Whether one packet can match both."""
    same_protocol = not local.protocol or not remote.protocol or local.protocol == remote.protocol
    return local.version == remote.version and same_protocol


def resolve_selectors(selectors: Iterable[TrafficSelector | None], address: IPAddress | None) -> Selectors:
    """Configured selectors with `dynamic` (None) replaced by the IKE address of that end, if it is known."""
    resolved = (one or (TrafficSelector(address, address) if address else None) for one in selectors)
    return tuple(selector for selector in resolved if selector is not None)


def needs_forwarding(connections: Iterable[ConnectionConfig], our_addresses: Collection[IPAddress]) -> set[int]:
    """The IP versions in which packets of others pass this machine: a local selector that isn't one address of ours."""
    selectors = (
        selector
        for connection in connections
        for child in connection.children
        if child.mode is Mode.TUNNEL
        for selector in child.local_ts
        if selector is not None
    )
    return {one.version for one in selectors if not (one.start == one.end and one.start in our_addresses)}
