"""The gateway's SPD as a book: which policies stand in it, in which order, and which routes follow from them.

The order (RFC 4301 s4.4.1, the first that matches decides): the explicit policies, then child by child as configured
the negotiated selectors of its SAs, or, while it has none, the configured selectors of its trap. Nothing here touches
the kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TypeAlias

from ipsecfast.model import (
    ConnectionConfig,
    IPAddress,
    IPNetwork,
    Mode,
    Policy,
    PolicyAction,
    SaParams,
    TrafficSelector,
)
from ipsecfast.netlink import Route, networks_of

ChildKey: TypeAlias = tuple[str, str]
Selectors: TypeAlias = tuple[TrafficSelector, ...]


@dataclass(slots=True)
class _Entry:
    """What one reqid has in the SPD: its live SAs by inbound SPI, and its trap."""

    reqid: int
    sas: dict[int, tuple[Selectors, Selectors]] = field(default_factory=dict)
    trap: tuple[Selectors, Selectors] | None = None


class SpdBook:
    """Keeps account of SAs and traps; `policies` and `routes` say what SPD and routing table should hold now."""

    def __init__(self, explicit: Sequence[Policy], connections: Iterable[ConnectionConfig]) -> None:
        self._explicit = tuple(explicit)
        children = [(connection.name, child.name) for connection in connections for child in connection.children]
        self._entries: dict[ChildKey, dict[int, _Entry]] = {key: {} for key in children}

    def add_trap(self, child: ChildKey, reqid: int, local_ts: Selectors, remote_ts: Selectors) -> None:
        self._entry(child, reqid).trap = (local_ts, remote_ts)

    def add_sa(self, child: ChildKey, inbound: SaParams) -> None:
        self._entry(child, inbound.reqid).sas[inbound.spi] = (inbound.local_ts, inbound.remote_ts)

    def remove_sa(self, reqid: int, inbound_spi: int) -> None:
        """Takes the SA out; its selectors go with the last SA of the reqid."""
        for entries in self._entries.values():
            entry = entries.get(reqid)
            if entry is None:
                continue
            entry.sas.pop(inbound_spi, None)
            if not entry.sas and entry.trap is None:
                del entries[reqid]

    def _entry(self, child: ChildKey, reqid: int) -> _Entry:
        return self._entries.setdefault(child, {}).setdefault(reqid, _Entry(reqid))

    def trapped(self) -> list[ChildKey]:
        """The children that have a trap."""
        return [key for key, entries in self._entries.items() if any(entry.trap for entry in entries.values())]

    def policies(self) -> list[Policy]:
        """The whole SPD in its order, each policy once."""
        entries = (entry for by_reqid in self._entries.values() for entry in by_reqid.values())
        protect = (policy for entry in entries for policy in _policies(entry))
        return list(dict.fromkeys((*self._explicit, *protect)))

    def routes(self, our_addresses: Collection[IPAddress]) -> set[Route]:
        """The routes into the tunnel for all traps and SAs, and `throw` routes for local networks inside of them.

        A trap's route stays while its SA is narrower: what the peer refused is dropped by the SPD and doesn't leave the
        machine in the clear.
        """
        pairs = [pair for by_reqid in self._entries.values() for entry in by_reqid.values() for pair in _pairs(entry)]
        into_tunnel: dict[IPNetwork, Route] = {}
        for local, remote in pairs:
            source = _preferred_source(local, our_addresses)
            for network in networks_of(remote):
                known = into_tunnel.get(network)
                if known is None or known.source is None:
                    into_tunnel[network] = Route(network, source)
        local_networks = {network for local, _ in pairs for network in networks_of(local)}
        thrown = {network for network in local_networks if _lies_inside(network, into_tunnel)}
        return {*into_tunnel.values(), *(Route(network, throw=True) for network in thrown)}


def _policies(entry: _Entry) -> list[Policy]:
    """Packets are held for a trap's negotiation, and for a responder's SA whose outbound half isn't active yet."""
    sets = list(entry.sas.values()) or ([entry.trap] if entry.trap else [])
    return [
        Policy(local, remote, PolicyAction.PROTECT, entry.reqid, hold=True)
        for local_ts, remote_ts in sets
        for local, remote in product(local_ts, remote_ts)
        if _go_together(local, remote)
    ]


def _pairs(entry: _Entry) -> list[tuple[TrafficSelector, TrafficSelector]]:
    sets = [*entry.sas.values(), *([entry.trap] if entry.trap else [])]
    return [pair for local_ts, remote_ts in sets for pair in product(local_ts, remote_ts) if _go_together(*pair)]


def _go_together(local: TrafficSelector, remote: TrafficSelector) -> bool:
    """Whether one packet can match both."""
    same_protocol = not local.protocol or not remote.protocol or local.protocol == remote.protocol
    return local.version == remote.version and same_protocol


def _preferred_source(local: TrafficSelector, our_addresses: Collection[IPAddress]) -> IPAddress | None:
    """An address of this machine inside the local selector: what the gateway itself sends is protected, too."""
    inside = (
        address
        for address in our_addresses
        if address.version == local.version and int(local.start) <= int(address) <= int(local.end)
        if not address.is_loopback and not address.is_link_local
    )
    return next(inside, None)


def _lies_inside(network: IPNetwork, into_tunnel: dict[IPNetwork, Route]) -> bool:
    """Strictly inside a network that is led into the tunnel, and not led there itself."""
    if network in into_tunnel:
        return False
    return any(network != wider and _is_subnet(network, wider) for wider in into_tunnel)


def _is_subnet(network: IPNetwork, wider: IPNetwork) -> bool:
    return (
        network.version == wider.version
        and network.prefixlen > wider.prefixlen
        and int(wider.network_address) <= int(network.network_address) <= int(wider.broadcast_address)
    )


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
