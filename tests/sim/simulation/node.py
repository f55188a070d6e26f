"""A gateway: an endpoint, a pretended data plane, and the shell between them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from ipsecfast.configured import ConnectionConfig
from ipsecfast.ike.actions import (
    Action,
    ActivateOutbound,
    Compute,
    Fetch,
    InstallSa,
    InstallTrap,
    MovePeer,
    Notify,
    RankSpi,
    ReleaseHeld,
    RemoveSa,
    Transmit,
)
from ipsecfast.ike.channel import NAT_KEEPALIVE
from ipsecfast.ike.child import ChildSa
from ipsecfast.ike.constants import Flags, NotifyError, PayloadType
from ipsecfast.ike.context import Settings
from ipsecfast.ike.crypto.keymat import IkeKeys
from ipsecfast.ike.endpoint import IkeEndpoint
from ipsecfast.ike.lasting import FORGETFUL, Lasting
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.wire.message import HEADER_LENGTH
from ipsecfast.model import SpiRank, TrafficSelector
from simulation import invariants
from simulation.invariants import NEXT_PAYLOAD_AT
from simulation.plane import DataPlane
from simulation.transcript import KeyRing

if TYPE_CHECKING:
    from simulation.network import Network

HOST = 5  # hosts behind gateways have this number in their networks
INITIATOR = int(Flags.INITIATOR)
RESPONSE = int(Flags.RESPONSE)
SEALED = (PayloadType.SK, PayloadType.SKF)
FLAGS_AT = 19  # octet of the IKE header (RFC 7296 s3.1)
TCP = 6


class Gateway:
    """One node of a network. After `restart` it is the same gateway with another endpoint and an empty data plane."""

    def __init__(
        self,
        network: Network,
        name: str,
        address: IPv4Address | IPv6Address,
        connections: Iterable[ConnectionConfig],
        settings: Settings | None,
        lasting: Lasting = FORGETFUL,
    ) -> None:
        self.network = network
        self.name = name
        self.address = address
        self.settings = settings
        self.lasting = lasting
        self.configured = tuple(connections)
        self.boots = 0
        self.owed: set[bytes] = set()  # own SPIs of IKE SAs whose next datagram is a response
        self.counted = 0  # datagrams of this endpoint that were held against its outcomes
        self.wakes_at: float | None = None
        self.ike_spis: set[bytes] = set()  # own ones of all IKE SAs that it ever had
        self.undeleted: list[str] = []
        self.log: list[Notify] = []
        self.performed: list[Action] = []
        self.rings: dict[bytes, KeyRing] = {}  # by own IKE SPI
        self._boot()

    def _boot(self) -> None:
        number = f" boot {self.boots}" if self.boots else ""
        self.rng = random.Random(f"{self.name} {self.network.seed}{number}")
        self.endpoint = IkeEndpoint(
            self.configured,
            random=self.rng.randbytes,
            wall_clock=lambda: self.network.wall_clock,
            settings=self.settings,
            lasting=self.lasting,
        )
        self.dataplane = DataPlane(self)
        self.owed.clear()
        self.ranks: dict[bytes, SpiRank] = {}  # of our SPIs, as they were told
        self.counted = 0

    @property
    def pair(self) -> Network:
        """The network, where it is one of two gateways."""
        return self.network

    @property
    def peer_name(self) -> str:
        """The other one of two."""
        (name,) = (n for n in self.network.gateways if n != self.name)
        return name

    def event(self, event: object) -> None:
        """Data plane events arrive in the next moment, as from the ring; those of before a restart never."""
        endpoint, network = self.endpoint, self.network

        def arrive() -> None:
            if endpoint is self.endpoint:
                endpoint.handle_data_plane(event, network.now)

        network.at(network.now, arrive, self)

    def receive(self, data: bytes, path: object) -> None:
        self.endpoint.receive_datagram(data, path, self.network.now)

    def wake(self) -> None:
        """What it waited for has come."""
        self.wakes_at = None
        self.undeleted += invariants.undeleted(self)
        self.endpoint.handle_timeout(self.network.now)

    def perform(self) -> None:
        while actions := self.endpoint.actions():
            for action in actions:
                self._perform(action)
        assert not self.owed, f"{self.name}: a Child SA is installed after the answer that tells the peer of it"

    def perform_silently(self) -> None:
        """All but what would leave."""
        for action in self.endpoint.actions():
            if not isinstance(action, Transmit):
                self._perform(action)

    def _perform(self, action: Action) -> None:
        self.performed.append(action)
        match action:
            case Transmit(path, data):
                self._look_at(data)
                self.network.carry_ike(self, path, data)
            case InstallSa():
                self.dataplane.install(action)
                self._owe_answer(action.inbound.spi)
            case ActivateOutbound(reqid, spi):
                self.dataplane.activate(reqid, spi)
            case RemoveSa():
                self.dataplane.remove(action)
            case MovePeer():
                self.dataplane.move(action)
            case InstallTrap(_, _, reqid):
                self.dataplane.traps.add(reqid)
            case ReleaseHeld(reqid):
                self.dataplane.released[reqid] += self.dataplane.held.pop(reqid, 0)
            case RankSpi(spi, rank):
                self.ranks[spi] = rank
                if rank is SpiRank.UNKNOWN:
                    del self.ranks[spi]
            case Compute(job, call):
                self._compute(job, call)
            case Fetch(job, sources):
                self._deliver(job, tuple(map(self.network.fetch, sources)), self.network.fetching)
            case Notify():
                self.log.append(action)
                self.network.remark(f"{self.name}: {action.event}: {action.message}")

    def _compute(self, job: int, call: Callable[[], object]) -> None:
        """Done at once, or after a while that the seed decides: what comes first need not be done first."""
        try:
            result = call()
        except NotifyError as error:
            result = error
        self._deliver(job, result, self.network.computing)

    def _deliver(self, job: int, result: object, within: float) -> None:
        endpoint, network = self.endpoint, self.network

        def deliver() -> None:
            if endpoint is self.endpoint:  # not those of before a restart
                endpoint.handle_result(job, result, network.now)

        if within:
            network.at(network.now + within * self.rng.random(), deliver, self)
        else:
            deliver()

    def _owe_answer(self, spi: int) -> None:
        """RFC 7296 s2.8: where we are the responder, the response comes after this, on the same IKE SA."""
        child = self.endpoint.context.children.by_spi.get(spi)
        if child is not None and not child.initiator:
            self.owed.add(child.ike.own_spi)

    def _look_at(self, data: bytes) -> None:
        """Each IKE SA shows its keys with every datagram, so none that it used is missed."""
        if data == NAT_KEEPALIVE or len(data) < HEADER_LENGTH:
            return
        own_spi = self.own_spi_of(data)
        if data[NEXT_PAYLOAD_AT] in SEALED:
            self.network.sendings.sealed(self.name, own_spi, data)
        if data[FLAGS_AT] & RESPONSE:
            self.owed.discard(own_spi)
        sa = self.endpoint.context.ike_sas.get(own_spi)
        if sa is None or not sa.has_keys:
            return
        ring = self.rings.setdefault(sa.own_spi, KeyRing(sa.initiator, sa.suite, []))
        if sa.keys not in ring.keys:
            self.network.keys.agreed(self.name, sa)
            ring.keys.append(sa.keys)

    @staticmethod
    def own_spi_of(data: bytes) -> bytes:
        """The sender's SPI in a datagram that it sends (RFC 7296 s3.1)."""
        return data[:8] if data[FLAGS_AT] & INITIATOR else data[8:16]

    # -- what tests ask ------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> dict[bytes, list[IkeKeys]]:
        """By IKE SPI all that an IKE SA had (RFC 9370 s2.2.2)."""
        return {spi: ring.keys for spi, ring in self.rings.items()}

    @property
    def ike_sas(self) -> list[IkeSa]:
        return [sa for sa in self.endpoint.context.ike_sas.values() if not sa.closed]

    @property
    def established(self) -> list[IkeSa]:
        return [sa for sa in self.ike_sas if sa.state is IkeState.ESTABLISHED]

    @property
    def children(self) -> list[ChildSa]:
        return [c for sa in self.ike_sas for c in sa.children.values()]

    def the_child(self, name: str = "net") -> ChildSa:
        (found,) = [c for c in self.children if c.config.name == name]
        return found

    def events(self) -> list[str]:
        return [n.event for n in self.log]

    def packet_selectors(self, reqid: int) -> tuple[TrafficSelector, TrafficSelector]:
        """A packet of the hosts behind both ends, for which a Child SA is asked."""
        owner = self.endpoint.context.reqids.owner(reqid)
        assert owner is not None
        connection = self.endpoint.connections[owner[0]]
        child = connection.child(owner[1])
        assert child is not None
        ends = [
            ts.start + HOST if ts else addresses[0]
            for ts, addresses in (
                (child.local_ts[0], connection.config.local_addrs),
                (child.remote_ts[0], connection.config.remote_addrs),
            )
        ]
        return TrafficSelector(ends[0], ends[0], TCP, 1234, 1234), TrafficSelector(ends[1], ends[1], TCP, 80, 80)

    # -- what tests do -------------------------------------------------------------------------------------------------

    def restart(self, connections: Iterable[ConnectionConfig] | None = None) -> None:
        """As after a power cut: no DELETE, nothing remembered, perhaps another configuration. It starts at once."""
        self.boots += 1
        self.configured = self.configured if connections is None else tuple(connections)
        self.lasting = self.endpoint.context.lasting
        self.network.remark(f"{self.name}: restarts")
        self._boot()
        self.wakes_at = None
        self.endpoint.start(self.network.now)
        self.network.touch(self)

    def initiate(self, name: str | None = "net", connection: str = "ab") -> None:
        self.endpoint.initiate(connection, name, self.network.now)
        self.perform()

    def rekey(self, name: str | None, connection: str = "ab") -> None:
        assert self.endpoint.rekey(connection, name, self.network.now)
        self.perform()

    def terminate(self, name: str | None = None, connection: str = "ab") -> None:
        self.endpoint.terminate(connection, name, self.network.now)
        self.perform()

    def next_nonces(self, *nonces: bytes) -> None:
        """Decide collisions: the next nonces that this gateway makes."""
        prepared, draw = list(nonces), self.endpoint.context.random
        self.endpoint.context.nonce = lambda: prepared.pop(0) if prepared else draw(32)  # type: ignore[method-assign]
