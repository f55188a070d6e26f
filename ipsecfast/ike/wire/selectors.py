"""Traffic selectors in negotiation: `dynamic`, the triggering packet first, narrowing (RFC 7296 s2.9)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from ipsecfast.configured import ChildConfig
from ipsecfast.model import IPAddress, Mode, TrafficSelector

# More selectors than this in an answer only cost: narrowing may always leave some out.
MAX_SELECTORS = 32
MAX_COMMON = 256  # intersections that are looked at for them

Selectors = tuple[TrafficSelector, ...]


@dataclass(frozen=True, slots=True)
class SelectorPair:
    """Both ends of a Child SA's traffic, from this gateway's point of view."""

    local: Selectors
    remote: Selectors

    def __str__(self) -> str:
        return f"{selectors_text(self.local)} === {selectors_text(self.remote)}"


def selectors_text(selectors: Iterable[TrafficSelector]) -> str:
    return ", ".join(map(str, selectors)) or "nothing"


def host(address: IPAddress) -> TrafficSelector:
    """Everything to and from one address."""
    return TrafficSelector(address, address)


def resolve(configured: Sequence[TrafficSelector | None], address: IPAddress) -> Selectors:
    """Configured selectors; None (`dynamic`) is the address of the IKE SA at that end."""
    return tuple(host(address) if selector is None else selector for selector in configured)


def resolve_pair(config: ChildConfig, local: IPAddress, remote: IPAddress) -> SelectorPair:
    return SelectorPair(resolve(config.local_ts, local), resolve(config.remote_ts, remote))


def packet_first(packet: TrafficSelector | None, selectors: Selectors) -> Selectors:
    """s2.9: the first selector is that of the packet which triggered the negotiation, if the rest covers it."""
    if packet is None or packet in selectors or not any(s.contains(packet) for s in selectors):
        return selectors
    return (packet, *selectors)


def narrow(offered: Sequence[TrafficSelector], configured: Sequence[TrafficSelector]) -> Selectors:
    """What both sides allow, in the order offered, nothing twice and nothing that another part already covers."""
    common = tuple(dict.fromkeys(islice(_common(offered, configured), MAX_COMMON)))
    if len(common) < 2:
        return common
    kept: list[TrafficSelector] = []
    for selector in common:
        if any(other.contains(selector) for other in kept):
            continue
        kept = [other for other in kept if not selector.contains(other)]
        kept.append(selector)
        if len(kept) == MAX_SELECTORS:
            break
    return tuple(kept)


def _common(offered: Sequence[TrafficSelector], configured: Sequence[TrafficSelector]) -> Iterator[TrafficSelector]:
    """The intersections of all pairs that have one. A peer may send 255 selectors, and most pairs are told apart by
    their addresses, so these are turned into numbers once."""
    ranges = [(int(b.start), int(b.end), b.version, b) for b in configured]
    for a in offered:
        start, end, version = int(a.start), int(a.end), a.version
        for other_start, other_end, other_version, b in ranges:
            if start <= other_end and other_start <= end and version == other_version:
                both = a.intersect(b)
                if both is not None:
                    yield both


def narrow_pair(offered: SelectorPair, configured: SelectorPair) -> SelectorPair | None:
    """None when nothing is left on one side: TS_UNACCEPTABLE."""
    local, remote = narrow(offered.local, configured.local), narrow(offered.remote, configured.remote)
    return SelectorPair(local, remote) if local and remote else None


def within(answer: SelectorPair, offered: SelectorPair) -> bool:
    """Whether a responder's answer is a subset of what was offered (s2.9)."""
    pairs = ((answer.local, offered.local), (answer.remote, offered.remote))
    return all(part and _all_in(part, whole) for part, whole in pairs)


def _all_in(part: Selectors, whole: Selectors) -> bool:
    """Most of what a peer answers stands in our offer as it is."""
    known = frozenset(whole)
    return all(a in known or any(o.contains(a) for o in whole) for a in part)


def choose_child(
    offered: SelectorPair, children: Sequence[ChildConfig], mode: Mode, local: IPAddress, remote: IPAddress
) -> tuple[ChildConfig, SelectorPair] | None:
    """The configured child for a peer's request: of the wanted mode, exact selectors before the triggering packet's
    before any overlap, then in the configured order."""
    best: tuple[int, ChildConfig, SelectorPair] | None = None
    for config in children:
        configured = resolve_pair(config, local, remote)
        common = narrow_pair(offered, configured)
        if common is None or config.mode != mode:
            continue
        rank = _rank(offered, configured)
        if best is None or rank > best[0]:
            best = (rank, config, common)
    return best[1:] if best else None


def _rank(offered: SelectorPair, configured: SelectorPair) -> int:
    pairs = ((configured.local, offered.local), (configured.remote, offered.remote))
    if all(one in theirs for ours, theirs in pairs for one in ours):
        return 2
    first = SelectorPair(offered.local[:1], offered.remote[:1])
    return 1 if within(first, configured) else 0


def with_address(selectors: Selectors, address: IPAddress) -> Selectors:
    """s2.23.1: selectors of one host, moved to the address under which the NAT shows or reaches that host."""
    return tuple(
        replace(s, start=address, end=address) if s.start == s.end and s.version == address.version else s
        for s in selectors
    )
