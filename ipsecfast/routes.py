"""Which routes lead into the tunnel, followed pair by pair as selectors come and go: a change costs what it changes."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import TypeAlias

from ipsecfast.model import IPAddress, IPNetwork, TrafficSelector
from ipsecfast.netlink import Route, networks_of

RouteChanges: TypeAlias = dict[IPNetwork, Route | None]
_Range: TypeAlias = tuple[int, int, int]  # IP version, first, last
_Place: TypeAlias = tuple[
    int, int, int
]  # IP version, network address, prefix length: networks inside of one stand together

NOWHERE = 1 << 30  # the place of no address


class RouteBook:
    """Routes into the tunnel for all pairs of a local and a remote selector, and `throw` routes for local networks
    inside of the remote ones.

    The source of a route is the first of our addresses inside a local selector of its network: what the gateway itself
    sends is protected, too.
    """

    def __init__(self) -> None:
        self._ours: Sequence[IPAddress] = ()
        self._remote: dict[IPNetwork, Counter[_Range]] = {}
        self._source: dict[IPNetwork, int] = {}  # place among our addresses, or NOWHERE
        self._lengths: Counter[tuple[int, int]] = Counter()  # of the remote networks: version, prefix length
        self._local: Counter[IPNetwork] = Counter()
        self._places: list[_Place] = []  # of the local networks
        self._network_at: dict[_Place, IPNetwork] = {}
        self._wanted: dict[IPNetwork, Route] = {}
        self._touched: set[IPNetwork] = set()

    @property
    def touched(self) -> bool:
        """Whether `changes` may have something to tell."""
        return bool(self._touched)

    def add(self, local: TrafficSelector, remote: TrafficSelector) -> None:
        addresses = _range_of(local)
        for network in networks_of(remote):
            if network not in self._remote:
                self._add_remote(network)
            ranges = self._remote[network]
            ranges[addresses] += 1
            if ranges[addresses] == 1:
                self._set_source(network, min(self._source[network], self._first_inside(addresses)))
        for network in networks_of(local):
            self._local[network] += 1
            if self._local[network] == 1:
                insort(self._places, _place_of(network))
                self._network_at[_place_of(network)] = network
                self._touched.add(network)

    def remove(self, local: TrafficSelector, remote: TrafficSelector) -> None:
        """A pair that was added."""
        addresses = _range_of(local)
        for network in networks_of(remote):
            ranges = self._remote[network]
            ranges[addresses] -= 1
            if not ranges[addresses]:
                del ranges[addresses]
                if not ranges:
                    self._remove_remote(network)
                elif self._source[network] == self._first_inside(addresses):
                    self._set_source(network, self._first_of(ranges))
        for network in networks_of(local):
            self._local[network] -= 1
            if not self._local[network]:
                del self._local[network]
                place = _place_of(network)
                del self._places[bisect_left(self._places, place)], self._network_at[place]
                self._touched.add(network)

    def changes(self, our_addresses: Collection[IPAddress]) -> RouteChanges:
        """What has changed since the last call: the route that a network shall have now, or None."""
        ours = [address for address in our_addresses if not address.is_loopback and not address.is_link_local]
        if ours != self._ours:
            self._ours = ours
            self._source = {network: self._first_of(ranges) for network, ranges in self._remote.items()}
            self._touched.update(self._remote)
        changed: RouteChanges = {}
        for network in self._touched:
            route = self._route_of(network)
            if route != self._wanted.get(network):
                changed[network] = route
                if route is None:
                    del self._wanted[network]
                else:
                    self._wanted[network] = route
        self._touched.clear()
        return changed

    def routes(self) -> set[Route]:
        """All that is wanted as of the last call of `changes`."""
        return set(self._wanted.values())

    def _add_remote(self, network: IPNetwork) -> None:
        self._remote[network] = Counter()
        self._source[network] = NOWHERE
        self._lengths[network.version, network.prefixlen] += 1
        self._touched.add(network)
        self._touched.update(self._local_inside(network))

    def _remove_remote(self, network: IPNetwork) -> None:
        del self._remote[network], self._source[network]
        length = network.version, network.prefixlen
        self._lengths[length] -= 1
        if not self._lengths[length]:
            del self._lengths[length]
        self._touched.add(network)
        self._touched.update(self._local_inside(network))

    def _set_source(self, network: IPNetwork, place: int) -> None:
        if self._source[network] != place:
            self._source[network] = place
            self._touched.add(network)

    def _first_inside(self, addresses: _Range) -> int:
        version, first, last = addresses
        inside = (i for i, one in enumerate(self._ours) if one.version == version and first <= int(one) <= last)
        return next(inside, NOWHERE)

    def _first_of(self, ranges: Counter[_Range]) -> int:
        return min(map(self._first_inside, ranges))

    def _local_inside(self, network: IPNetwork) -> Iterator[IPNetwork]:
        """The local networks that are a part of this one, but not all of it."""
        version, last = network.version, int(network.broadcast_address)
        at = bisect_left(self._places, (version, int(network.network_address), network.prefixlen + 1))
        for place in self._places[at : bisect_left(self._places, (version, last + 1, 0))]:
            if place[2] > network.prefixlen:
                yield self._network_at[place]

    def _route_of(self, network: IPNetwork) -> Route | None:
        if network in self._remote:
            place = self._source[network]
            return Route(network, None if place == NOWHERE else self._ours[place])
        if network in self._local and self._led_away(network):
            return Route(network, throw=True)
        return None

    def _led_away(self, network: IPNetwork) -> bool:
        """Whether a wider network is led into the tunnel."""
        return any(
            version == network.version
            and length < network.prefixlen
            and network.supernet(new_prefix=length) in self._remote
            for version, length in self._lengths
        )


def _range_of(selector: TrafficSelector) -> _Range:
    return selector.version, int(selector.start), int(selector.end)


def _place_of(network: IPNetwork) -> _Place:
    return network.version, int(network.network_address), network.prefixlen
