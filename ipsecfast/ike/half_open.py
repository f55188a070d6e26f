"""IKE SAs that nobody has authenticated yet: how many there are, of whom, and what that asks of the next (RFC 8019 s4).

A source is an IPv4 address, or a /64 of IPv6, which one attacker may have as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING, Final

from ipsecfast.model import IPAddress

if TYPE_CHECKING:
    from ipsecfast.ike.context import Settings
    from ipsecfast.ike.sa import IkeSa

IPV6_PREFIX_LENGTH = 8  # octets
EASIEST: Final = 10  # bits of the first puzzle: some milliseconds
HARDEST: Final = 17  # bits; about a second for an honest initiator


@dataclass(frozen=True, slots=True)
class Demand:
    """What the next initiator must bring: a cookie, and the solution of a puzzle of so many bits (0: none). `lenient`:
    one that knows no puzzles (most don't) is let in all the same."""

    cookie: bool
    difficulty: int = 0
    lenient: bool = True


class HalfOpen:
    """The half-open IKE SAs of an endpoint, counted by source."""

    def __init__(self) -> None:
        self._sas: dict[IkeSa, bytes] = {}
        self._sources: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._sas)

    def __iter__(self) -> Iterator[IkeSa]:
        return iter(self._sas)

    def add(self, sa: IkeSa) -> None:
        source = self._sas.setdefault(sa, _source(sa.path.remote))
        self._sources[source] += 1

    def discard(self, sa: IkeSa) -> None:
        source = self._sas.pop(sa, None)
        if source is not None:
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]

    def of(self, address: IPAddress) -> int:
        """How many its source has."""
        return self._sources[_source(address)]

    def demand(self, address: IPAddress, settings: Settings) -> Demand:
        """s4.4: nothing as long as there are few; a cookie from `cookie_threshold` on, or from a quarter of what one
        source may have; from twice of either on a puzzle, two bits harder with each doubling. Those who know no puzzles
        share half of the places, one for each source."""
        source, total = self.of(address), len(self)
        quarter = max(1, settings.half_open_per_source // 4)
        if total < settings.cookie_threshold and source < quarter:
            return Demand(cookie=False)
        pressure = max(total / max(1, settings.cookie_threshold), source / quarter)
        if pressure < 2:
            return Demand(cookie=True)
        difficulty = min(HARDEST, EASIEST + 2 * (int(log2(pressure)) - 1))
        return Demand(True, difficulty, lenient=not source and total < settings.half_open_limit // 2)


def _source(address: IPAddress) -> bytes:
    return address.packed if address.version == 4 else address.packed[:IPV6_PREFIX_LENGTH]
