"""The Peer Authorization Database (RFC 4301 s4.4.3): which connection is for whom, and which secret proves it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ipsecfast.configured import ConnectionConfig
from ipsecfast.identity import Identity
from ipsecfast.ike.constants import IdType
from ipsecfast.model import IPAddress, IPNetwork, Path


def address_rank(configured: Sequence[IPAddress | IPNetwork], address: IPAddress) -> int:
    """How exactly `address` is meant: 3 by itself, 2 by its network, 1 by "any", 0 not at all."""
    if not configured:
        return 1
    if address in configured:
        return 3
    networks = (n for n in configured if isinstance(n, (IPv4Network, IPv6Network)))
    return 2 if any(address in network for network in networks) else 0


class AddressIndex:
    """The connections by their peers' addresses. Only those for networks, or for any address, are looked at each."""

    def __init__(self, connections: Iterable[ConnectionConfig]) -> None:
        self._by_host: dict[IPAddress, list[tuple[int, ConnectionConfig]]] = {}
        self._wide: list[tuple[int, ConnectionConfig]] = []
        for place, connection in enumerate(connections):
            hosts = set(_hosts(connection.remote_addrs))
            if not connection.remote_addrs or len(hosts) < len(set(connection.remote_addrs)):
                self._wide.append((place, connection))
            else:
                for host in hosts:
                    self._by_host.setdefault(host, []).append((place, connection))

    def for_path(self, path: Path) -> list[ConnectionConfig]:
        """The connections that a datagram on `path` may belong to, the most exact addresses first."""
        ranked = []
        for place, connection in (*self._by_host.get(path.remote, ()), *self._wide):
            remote = address_rank(connection.remote_addrs, path.remote)
            local = address_rank(connection.local_addrs, path.local)
            if remote and local:
                ranked.append((-remote, -local, place, connection))
        return [connection for *_, connection in sorted(ranked, key=lambda r: r[:3])]


def peer_addresses(connection: ConnectionConfig) -> tuple[IPAddress, IPAddress] | None:
    """Our address and the peer's, for a connection that can initiate: the first pair of one family."""
    ours, theirs = _hosts(connection.local_addrs), _hosts(connection.remote_addrs)
    return next(((our, their) for their in theirs for our in ours if our.version == their.version), None)


def _hosts(configured: Sequence[IPAddress | IPNetwork]) -> list[IPAddress]:
    return [a for a in configured if isinstance(a, (IPv4Address, IPv6Address))]


def local_identity(connection: ConnectionConfig, address: IPAddress) -> Identity:
    """Who we are for this peer; without a configured identity, our address."""
    if connection.local.identity is not None:
        return connection.local.identity
    return Identity(IdType.ID_IPV4_ADDR if address.version == 4 else IdType.ID_IPV6_ADDR, address.packed)


def peer_rank(connection: ConnectionConfig, peer: Identity) -> int:
    """How exactly the connection is meant for `peer`: 0 not at all, 1 as for anyone, more by pattern or by name."""
    wanted = connection.remote.identity
    if wanted is None:
        return 1
    rank = wanted.covers(peer)
    return 1 + rank if rank else 0


def known_peer(connection: ConnectionConfig) -> Identity | None:
    """Who the peer will be, where the operator has named one alone."""
    wanted = connection.remote.identity
    return None if wanted is None or wanted.is_pattern else wanted


def find_secret(connection: ConnectionConfig, local: Identity, peer: Identity | None) -> bytes | None:
    """The secret that names both identities before one that names the peer, us, or nobody; by name before by pattern. A
    secret of two or more identities without the peer's belongs to other peers. `peer`: None while unknown."""
    ranked = [
        (rank, s.secret) for s in connection.secrets if (rank := _secret_rank(s.identities, local, peer)) is not None
    ]
    return max(ranked, key=lambda r: r[0])[1] if ranked else None


def _secret_rank(identities: Sequence[Identity], local: Identity, peer: Identity | None) -> tuple[int, int] | None:
    """How exactly the peer is named, then how exactly we are."""
    if not identities:
        return (0, 0)
    ours = max(identity.covers(local) for identity in identities)
    theirs = max(identity.covers(peer) for identity in identities) if peer is not None else 0
    if theirs:
        return (theirs, ours)
    names_us = ours and (len(identities) == 1 or peer is None)
    return (0, ours) if names_us else None
