"""What a victim does of itself between two messages: its operator, its timers, its data plane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

from simulation import Gateway, Pair

from ipsecfast.ike.child import ChildSa
from ipsecfast.model import (
    Acquire,
    FirstInbound,
    HardLifetime,
    InboundSeen,
    Path,
    PeerMoved,
    SoftLifetime,
    UnknownSpi,
)

Whim = Callable[[Pair, Gateway, bytes], None]
ELSEWHERE = ip_address("192.0.2.3")


def asks(name: str, *arguments: object) -> Whim:
    """A method of the endpoint."""

    def act(pair: Pair, victim: Gateway, _: bytes) -> None:
        getattr(victim.endpoint, name)(*arguments, pair.now)

    return act


def waits(seconds: float) -> Whim:
    def act(pair: Pair, _: Gateway, __: bytes) -> None:
        pair.run(seconds)

    return act


def hears(made: Callable[[ChildSa], object]) -> Whim:
    """An event of the data plane about the newest Child SA."""

    def act(pair: Pair, victim: Gateway, _: bytes) -> None:
        for child in victim.children[-1:]:
            victim.endpoint.handle_data_plane(made(child), pair.now)

    return act


def acquires(pair: Pair, victim: Gateway, octets: bytes) -> None:
    for child in victim.children[:1]:
        resource = (octets[0] if octets else 0) % 4
        wanted = Acquire(child.reqid, *victim.packet_selectors(child.reqid), resource)
        victim.endpoint.handle_data_plane(wanted, pair.now)


def meets_unknown_spi(pair: Pair, victim: Gateway, _: bytes) -> None:
    for sa in victim.ike_sas[-1:]:
        victim.endpoint.handle_data_plane(UnknownSpi(0xC0FFEE00, sa.path), pair.now)


def gets_octets(pair: Pair, victim: Gateway, octets: bytes) -> None:
    """Whatever they are."""
    peer = pair.a if victim is pair.b else pair.b
    victim.endpoint.receive_datagram(octets, Path(victim.address, 500, peer.address, 500), pair.now)


WHIMS: tuple[Whim, ...] = (
    asks("rekey", "ab", None),
    asks("rekey", "ab", "net0"),
    asks("rekey", "ab", "net1"),
    asks("reauthenticate", "ab"),
    asks("initiate", "ab", None),
    asks("terminate", "ab", "net1"),
    asks("terminate", "ab", None),
    asks("send_away", "ab", ELSEWHERE),
    asks("status"),
    waits(0.03),
    waits(10.0),
    waits(400.0),
    hears(lambda c: HardLifetime(c.reqid, c.spi_in, inbound=True)),
    hears(lambda c: SoftLifetime(c.reqid, c.spi_out, inbound=False)),
    hears(lambda c: FirstInbound(c.spi_in)),
    hears(lambda c: InboundSeen(c.spi_in)),
    hears(lambda c: PeerMoved(c.spi_in, replace(c.outbound.path, remote=ELSEWHERE))),
    acquires,
    meets_unknown_spi,
    gets_octets,
)
