"""What must hold after every step, and what must hold when all is quiet. A broken one prints the whole transcript."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ipsecfast.ike.actions import InstallSa
from ipsecfast.ike.child import ChildState
from ipsecfast.ike.constants import HEADER_LENGTH, PayloadType
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.timers import Timer
from ipsecfast.model import SaParams, SpiRank

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa
    from simulation.network import Network
    from simulation.node import Gateway


OUTCOMES = tuple(Outcome)
NEXT_PAYLOAD_AT, EXCHANGE_AT, LENGTH_AT = 16, 18, 24  # octets of the IKE header (RFC 7296 s3.1)
SK_HEADER, SKF_HEADER = 4, 8  # octets before the IV (s3.14, RFC 7383 s2.5)
IV_SHOWN = 8  # all of a counter mode's


class Keys:
    """All keys of a network. Each is agreed on by two gateways, one of which receives under it and one sends."""

    def __init__(self) -> None:
        self._child: dict[bytes, dict[str, str]] = {}  # key -> "in" or "out" -> gateway
        self._inbound: set[tuple[int, bytes]] = set()
        self._ike: dict[bytes, dict[str, bytes]] = {}  # SK_d -> gateway -> own SPI
        self.honest = True  # False where a hostile peer installs nothing of what it negotiates

    def installed(self, name: str, action: InstallSa) -> None:
        for direction, params in (("in", action.inbound), ("out", action.outbound)):
            users = self._child.setdefault(params.key, {})
            assert direction not in users, f"{name}: the key of {params.spi:08x} was used before, {users}"
            assert name not in users.values(), f"{name}: one key for both directions"
            users[direction] = name
        self._inbound.add((action.inbound.spi, action.inbound.key))

    def activated(self, name: str, params: SaParams) -> None:
        """RFC 7296 s2.8: after a rekey nobody sends on what the peer has not installed before. The responder of a first
        Child SA may, though the answer that lets the peer install it can be lost."""
        if self.honest:
            assert (params.spi, params.key) in self._inbound, f"{name} sends on {params.spi:08x}, installed nowhere"

    def agreed(self, name: str, sa: IkeSa) -> None:
        users = self._ike.setdefault(sa.keys.sk_d, {})
        assert name not in users, f"{name}: keys of an IKE SA are used twice"
        users[name] = sa.own_spi


class Sendings:
    """All that was sent under keys. What is sent again is bit by bit the same (RFC 7296 s2.1); what is not has an IV of
    its own: with a counter mode a second message under one IV would show both, and the authentication key."""

    def __init__(self) -> None:
        self._messages: dict[bytes, bytes] = {}  # own SPI, exchange, flags, message ID, fragment -> datagram
        self._ivs: set[bytes] = set()  # own SPI, IV

    def sealed(self, name: str, own_spi: bytes, data: bytes) -> None:
        cut = data[NEXT_PAYLOAD_AT] == PayloadType.SKF
        body = HEADER_LENGTH + (SKF_HEADER if cut else SK_HEADER)
        number = data[HEADER_LENGTH + SK_HEADER : body]  # RFC 7383 s2.5: of the fragment, and of how many
        message = own_spi + data[EXCHANGE_AT:LENGTH_AT] + number
        if (before := self._messages.get(message)) is not None:
            assert before == data, f"{name}: a message is sent again, and it is another one"
            return
        self._messages[message] = data
        iv = own_spi + data[body : body + IV_SHOWN]
        assert iv not in self._ivs, f"{name}: two messages have one IV"
        self._ivs.add(iv)


# -- after every step --------------------------------------------------------------------------------------------------


def check_gateway(gateway: Gateway) -> None:
    """What one gateway can be held against alone."""
    plane, context = gateway.dataplane, gateway.endpoint.context
    for reqid, spi in (*plane.active.items(), *((place[0], spi) for place, spi in plane.own.items())):
        assert spi in plane.outbound[reqid], f"{gateway.name} sends on an SA that is gone"
    assert context.children.by_spi.keys() == plane.inbound.keys(), f"{gateway.name}: table and data plane differ"
    gateway.ike_spis.update(context.ike_sas)
    for sa in context.ike_sas.values():
        _check_progress(sa)
    for child in context.children.by_spi.values():
        if child.reqid not in plane.active and child.live and not child.resource:
            # Packets are held, until the initiator has surely installed the first.
            siblings = context.children.of_reqid(child.reqid)
            waits = any(context.timers.deadline(c, Timer.ACTIVATE) is not None or c in c.ike.unproved for c in siblings)
            assert waits, f"{gateway.name}: {child} is up and its selectors have no SA"
    if any(plane.held.values()):
        _check_held(gateway)
    _check_ranks(gateway)
    _check_counters(gateway)


def _check_held(gateway: Gateway) -> None:
    """A host's packet waits only where a Child SA is on its way; in its first moment nobody knows of it."""
    plane, context = gateway.dataplane, gateway.endpoint.context
    for reqid, count in plane.held.items():
        owner = context.reqids.owner(reqid)
        if count and owner is not None and plane.held_since[reqid] < gateway.network.now:
            connection = gateway.endpoint.connections[owner[0]]
            config = connection.child(owner[1])
            left = any(c.state is not ChildState.CLOSED for c in context.children.of_reqid(reqid))
            to_come = config.name in connection.waiting or left
            for sa in connection.ike_sas():
                to_come |= sa.negotiates(config) or any(wanted is config for wanted, _ in sa.unserved)
            assert to_come, f"{gateway.name}: packets of {config.name} are held, and nobody negotiates"


def _check_ranks(gateway: Gateway) -> None:
    """Messages for an IKE SA that is up go before those for one that is not; those for none come last."""
    sas = gateway.endpoint.context.ike_sas
    assert gateway.ranks.keys() == sas.keys(), f"{gateway.name}: SPIs that are known and those that exist differ"
    for spi, sa in sas.items():
        if sa.usable or gateway.ranks[spi] is SpiRank.PROVEN:
            assert gateway.ranks[spi] is SpiRank.PROVEN, f"{gateway.name}: {sa}"
            assert sa.established_at is not None, f"{gateway.name}: {sa}"


def _check_counters(gateway: Gateway) -> None:
    """Each datagram that was delivered is counted once, under what became of it."""
    counters = gateway.endpoint.counters
    if counters["datagrams"] == gateway.counted:
        return
    gateway.counted = counters["datagrams"]
    assert gateway.counted == sum(map(counters.__getitem__, OUTCOMES)), f"{gateway.name}: an outcome is missing"


def _check_progress(sa: IkeSa) -> None:
    """Whatever an IKE SA waits for ends by itself: every request is answered or given up."""
    waits = sa.context.timers.deadline
    if sa.closed:
        assert waits(sa, Timer.LINGER) is not None, f"{sa} is closed and never goes"
        assert not sa.children, f"{sa} is closed and has Child SAs"
        assert not any((sa.queue, sa.delayed, sa.current, sa.pending, sa.job, sa.held)), f"{sa} is closed and waits"
        return
    if sa.window.outstanding is not None:
        assert waits(sa, Timer.RETRANSMIT) is not None, f"{sa}: a request is neither repeated nor given up"
        assert sa.current is not None, f"{sa}: a request without an exchange"
    if sa.queue:
        assert sa.current is not None or sa.job is not None, f"{sa}: {sa.queue} waits for nothing"
    if sa.held is not None or sa.answering:
        assert sa.job is not None, f"{sa}: {sa.held} waits for nothing"
    if sa.delayed:
        assert waits(sa, Timer.RETRY) is not None, f"{sa}: {sa.delayed} waits for ever"
    if sa.pending is not None:
        under_way = sa.job is not None or waits(sa, Timer.FOLLOW_UP) is not None
        assert under_way, f"{sa}: {sa.pending} waits for ever"
    if sa.state is IkeState.REKEYED or sa.redundant:
        ends = sa.window.outstanding is not None or waits(sa, Timer.EXPIRE) is not None
        assert ends, f"{sa} is replaced and stays for ever"


def undeleted(gateway: Gateway) -> list[str]:
    """IKE SAs that were replaced and end now because the peer, which had to delete them (s2.8.2), did not. A peer that
    heard the DELETE of the old one before the response to its own rekey forgot that (s2.25.2) and never had it."""
    context, network = gateway.endpoint.context, gateway.network
    found = []
    for sa in gateway.ike_sas:
        if (sa.state is IkeState.REKEYED or sa.redundant) and sa.reauth.superseded_at is None:
            until, peer = context.timers.deadline(sa, Timer.EXPIRE), network.gateway_at(sa.path.remote)
            if (
                until is not None
                and until <= network.now
                and peer is not None
                and (sa.spi_r if sa.initiator else sa.spi_i) in peer.ike_spis
            ):
                found.append(str(sa))
    return found


def is_quiet(gateway: Gateway) -> bool:
    """Nothing is under way at this gateway: what is to come are liveness checks, keepalives and lifetimes."""
    timers = gateway.endpoint.context.timers._deadlines
    if any(sa.current or sa.queue or sa.job for sa in gateway.ike_sas):
        return False
    return all(_is_routine(owner, timer, deadline) for (owner, timer), deadline in timers.items())


def _is_routine(owner: Any, timer: Timer, deadline: float) -> bool:
    match timer:
        case Timer.LIVENESS | Timer.KEEPALIVE:
            return True
        case Timer.REKEY:  # else it is the next try after one that failed
            return owner.rekey_at == deadline
        case Timer.EXPIRE:  # else it is replaced
            return owner.expires_at == deadline
        case _:
            return False


# -- all quiet ---------------------------------------------------------------------------------------------------------


def check_pair_converged(one: Gateway, other: Gateway, children: int | None = None) -> None:
    """The same IKE SAs and Child SAs at both ends, no duplicates, every half its other half."""
    ike = [sorted((sa.spi_i, sa.spi_r, sa.state.value) for sa in _between(g, h)) for g, h in _both(one, other)]
    assert ike[0] == ike[1], f"IKE SAs of {one.name} and {other.name} differ: {ike}"
    assert len(ike[0]) <= 1, f"IKE SAs of {one.name} and {other.name} twice: {ike[0]}"
    mine = [c for sa in _between(one, other) for c in sa.children.values()]
    theirs = [c for sa in _between(other, one) for c in sa.children.values()]
    pairs = sorted((c.spi_in, c.spi_out) for c in mine), sorted((c.spi_out, c.spi_in) for c in theirs)
    assert pairs[0] == pairs[1], f"Child SAs of {one.name} and {other.name} differ: {pairs}"
    names = Counter(c.config.name for c in mine if not c.resource)
    assert all(n == 1 for n in names.values()), f"Child SAs of {one.name} and {other.name} twice: {names}"
    if children is not None:
        assert len(names) == children, f"{len(names)} Child SAs between {one.name} and {other.name}"


def check_converged(network: Network, children: int | None) -> None:
    for one, other in combinations(network.gateways.values(), 2):
        check_pair_converged(one, other, children)
    for gateway in network.gateways.values():
        _check_plane(gateway)


def _both(one: Gateway, other: Gateway) -> tuple[tuple[Gateway, Gateway], tuple[Gateway, Gateway]]:
    return (one, other), (other, one)


def _between(gateway: Gateway, peer: Gateway) -> list[IkeSa]:
    """The IKE SAs that `gateway` has with `peer`, wherever a NAT makes it appear."""
    return [sa for sa in gateway.ike_sas if gateway.network.gateway_at(sa.path.remote) is peer]


def _check_plane(gateway: Gateway) -> None:
    """The data plane has what IKE has, each SA is the peer's other half, all are used."""
    plane, children = gateway.dataplane, gateway.children
    installed = sorted(plane.inbound)
    assert installed == sorted(c.spi_in for c in children), f"{gateway.name}: an SA lingers"
    reserved = gateway.endpoint.context.children.spis._used
    assert reserved == set(installed), f"{gateway.name}: SPIs are not given back: {reserved}"
    for child in children:
        peer = gateway.network.gateway_at(child.outbound.path.remote)
        assert peer is not None, f"{gateway.name}: {child} leads nowhere"
        half = peer.dataplane.inbound.get(child.spi_out)
        assert half is not None, f"{gateway.name}: {child} has no other half at {peer.name}"
        assert half.key == child.outbound.key, f"{gateway.name}: keys of {child} differ"
    first = {c.reqid for c in children if not c.resource}
    unused = {c.reqid for c in children if c in c.ike.unproved}  # nobody has sent a packet yet
    assert set(plane.active) | unused == first | unused, f"{gateway.name}: no outbound SA is active"
    installed_out = {spi for table in plane.outbound.values() for spi in table}
    assert len(installed_out) <= len(installed), f"{gateway.name}: an outbound SA lingers"


def check_forgotten(gateway: Gateway) -> None:
    """Nothing is kept of what is over, half a minute after its end."""
    context = gateway.endpoint.context
    alive = set(gateway.ike_sas)
    assert set(context.ike_sas.values()) == alive, f"{gateway.name}: closed IKE SAs are kept"
    assert set(context.by_request.values()) <= alive, f"{gateway.name}: requests of closed IKE SAs are kept"
    assert not context.half_open, f"{gateway.name}: half-open IKE SAs are kept"
    for sa in alive:
        assert not any((sa.queue, sa.delayed, sa.current, sa.pending)), f"{gateway.name}: {sa} still waits"
        assert sa.state is IkeState.ESTABLISHED, f"{gateway.name}: {sa} is {sa.state.value}"
