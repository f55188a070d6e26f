"""Whose selectors are whose, where one connection serves many peers (RFC 4301 s4.4.3, RFC 7296 s2.9).

Each peer of such a connection proves who it is, and any of them may ask for any selectors of the configuration. What
one of them has, another does not get as long as it is up: the first keeps it, the second hears TS_UNACCEPTABLE. So no
authenticated peer can draw another one's traffic to itself. Who comes back under its own identity gets its own again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import product

from ipsecfast.identity import Identity
from ipsecfast.ike.child import ChildSa
from ipsecfast.ike.constants import TsUnacceptable
from ipsecfast.ike.wire.selectors import SelectorPair, Selectors
from ipsecfast.model import TrafficSelector


class Claims:
    """The Child SAs of one connection by their remote selectors: thousands of peers, and a question costs little.

    Sorted by first address; `_longest` says how far before a selector one may begin that still reaches into it.
    """

    def __init__(self) -> None:
        self._sorted: list[tuple[int, int, int, int]] = []  # version, first and last address, our SPI
        self._children: dict[int, ChildSa] = {}
        self._longest = 0

    def add(self, child: ChildSa) -> None:
        self._children[child.spi_in] = child
        for selector in child.selectors.remote:
            insort(self._sorted, _entry(selector, child.spi_in))
            self._longest = max(self._longest, int(selector.end) - int(selector.start))

    def discard(self, child: ChildSa) -> None:
        if self._children.pop(child.spi_in, None) is None:
            return
        for selector in child.selectors.remote:
            del self._sorted[bisect_left(self._sorted, _entry(selector, child.spi_in))]

    def check(self, peer: Identity | None, selectors: SelectorPair) -> None:
        """Raises TsUnacceptable if another peer has any of this."""
        for child in self._near(selectors.remote):
            owner = child.ike.remote_id
            same = peer is not None and owner is not None and owner.same_as(peer)
            if not same and _overlap(selectors, child.selectors):
                raise TsUnacceptable(f"{peer} asks for {selectors}, but {owner} has {child.selectors}")

    def _near(self, selectors: Selectors) -> Iterator[ChildSa]:
        for selector in selectors:
            version, start, end, _ = _entry(selector, 0)
            first = bisect_left(self._sorted, (version, start - self._longest))
            last = bisect_right(self._sorted, (version, end + 1))
            for _, _, entry_end, spi in self._sorted[first:last]:
                if entry_end >= start:
                    yield self._children[spi]


def _entry(selector: TrafficSelector, spi: int) -> tuple[int, int, int, int]:
    return selector.version, int(selector.start), int(selector.end), spi


def _overlap(one: SelectorPair, two: SelectorPair) -> bool:
    return _meet(one.local, two.local) and _meet(one.remote, two.remote)


def _meet(one: Selectors, two: Selectors) -> bool:
    return any(a.intersect(b) is not None for a, b in product(one, two))
