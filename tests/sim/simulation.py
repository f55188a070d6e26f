"""Two IKE endpoints and two pretended data planes on virtual time, joined by a seeded link.

    Gateway a  --- Link (delay, loss, duplicates, reordering, corruption, MTU, NAT) ---  Gateway b

Nothing here waits: `Pair.run` jumps from event to event. Everything random comes from one seed. A failing schedule
prints its seed; `IPSECFAST_SIM_SEED=<seed> pytest tests/sim` runs only that one again, and `IPSECFAST_SIM_TRANSCRIPT=1`
prints what went over the link, decrypted, also when nothing fails.
"""

from __future__ import annotations

import heapq
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from itertools import count

from ipsecfast.configured import AuthConfig, ChildConfig, ConnectionConfig, PresharedKey
from ipsecfast.identity import Identity
from ipsecfast.ike.actions import (
    Action,
    ActivateOutbound,
    InstallSa,
    InstallTrap,
    MovePeer,
    Notify,
    ReleaseHeld,
    RemoveSa,
    Transmit,
)
from ipsecfast.ike.channel import NAT_KEEPALIVE, Channel
from ipsecfast.ike.child import SLOT_MASK, ChildSa
from ipsecfast.ike.constants import ExchangeType, IntegrityError, NotifyType, PayloadType, notify_name
from ipsecfast.ike.context import Settings
from ipsecfast.ike.crypto import SkCipher
from ipsecfast.ike.endpoint import IkeEndpoint
from ipsecfast.ike.fragments import is_fragment, open_fragment
from ipsecfast.ike.keymat import IkeKeys
from ipsecfast.ike.message import Header, Message, open_message, parse_header, parse_message
from ipsecfast.ike.payloads import DeletePayload, NotifyPayload, UnknownPayload
from ipsecfast.ike.proposal import parse_proposal
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.states import IkeState
from ipsecfast.model import (
    Acquire,
    FirstInbound,
    InboundSeen,
    Lifetime,
    Path,
    PeerMoved,
    ProtocolId,
    SaParams,
    StartAction,
    TrafficSelector,
    UnknownSpi,
)

ADDRESS = {"a": ip_address("192.0.2.1"), "b": ip_address("192.0.2.2")}
NAT_ADDRESS = ip_address("198.51.100.7")
NETWORK = {"a": "10.1.0.0/24", "b": "10.2.0.0/24"}
SECRET = b"a secret that both ends know"
IKE_PROPOSAL = "aes128gcm16-prfsha256-x25519"
ESP_PROPOSAL = "aes128gcm16"


def replay_seed() -> int | None:
    text = os.environ.get("IPSECFAST_SIM_SEED")
    return int(text) if text else None


# -- configuration -----------------------------------------------------------------------------------------------------


def selector(text: str) -> TrafficSelector:
    return TrafficSelector.from_network(ip_network(text))


def proposals(words: Iterable[str], protocol: ProtocolId) -> tuple:
    return tuple(parse_proposal(w, protocol) for w in words)


def child(name: str, me: str = "a", *, esp: tuple[str, ...] = (ESP_PROPOSAL,), **options: object) -> ChildConfig:
    """A child between the networks of both ends, from the point of view of `me`."""
    peer = "b" if me == "a" else "a"
    third = str(int(name[-1]) if name[-1].isdigit() else 0)
    local, remote = (NETWORK[x].replace(".0.0/", f".{third}.0/") for x in (me, peer))
    settings: dict = {"local_ts": (selector(local),), "remote_ts": (selector(remote),)} | options
    return ChildConfig(name=name, esp_proposals=proposals(esp, ProtocolId.ESP), **settings)


def connection(
    me: str,
    *,
    children: tuple[ChildConfig, ...] | None = None,
    ike: tuple[str, ...] = (IKE_PROPOSAL,),
    secret: bytes = SECRET,
    **options: object,
) -> ConnectionConfig:
    """The connection `ab` as the gateway `me` configures it."""
    peer = "b" if me == "a" else "a"
    ids = {x: Identity(2, f"{x}.test".encode()) for x in "ab"}
    settings: dict = {
        "name": "ab",
        "local_addrs": (ADDRESS[me],),
        "remote_addrs": (ADDRESS[peer],),
        "local": AuthConfig(ids[me]),
        "remote": AuthConfig(ids[peer]),
        "secrets": (PresharedKey((ids["a"], ids["b"]), secret),),
        "children": children if children is not None else (child("net", me),),
        "proposals": proposals(ike, ProtocolId.IKE),
    } | options
    return ConnectionConfig(**settings)


# -- the link ----------------------------------------------------------------------------------------------------------


@dataclass
class Link:
    """What happens to IKE datagrams; probabilities from 0 to 1, times in seconds. ESP keeps its order and is not lost,
    so that every packet that does not arrive is the fault of the SAs."""

    delay: float = 0.02
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    mtu: int = 65535
    down: bool = False
    drop: Callable[[str, Message | None], bool] | None = None

    def fates(self, rng: random.Random, data: bytes) -> list[tuple[float, bytes]]:
        """(delay, octets) of each copy that arrives."""
        if self.down or len(data) > self.mtu or rng.random() < self.loss:
            return []
        copies = 2 if rng.random() < self.duplicate else 1
        return [(self.delay + self.jitter * rng.random(), self._corrupted(rng, data)) for _ in range(copies)]

    def _corrupted(self, rng: random.Random, data: bytes) -> bytes:
        if rng.random() >= self.corrupt:
            return data
        position = rng.randrange(len(data))
        return data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :]


@dataclass
class Nat:
    """Gateway a is behind this; `rebind` gives it other ports, as a NAT that restarted."""

    address: object = NAT_ADDRESS
    ports: dict[int, int] = field(default_factory=dict)
    base: int = 20000

    def outside(self, port: int) -> int:
        return self.ports.setdefault(port, self.base + port)

    def inside(self, port: int) -> int | None:
        return next((i for i, o in self.ports.items() if o == port), None)

    def rebind(self) -> None:
        self.base += 5000
        self.ports = {}


# -- a gateway ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EspPacket:
    spi: int
    key: bytes
    number: int
    path: Path


class DataPlane:
    """What the real one does with SAs, without packets' bytes: knows which SPI may be used, counts what is lost."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.inbound: dict[int, SaParams] = {}
        self.outbound: dict[int, dict[int, SaParams]] = {}
        self.active: dict[int, int] = {}
        self.traps: set[int] = set()
        self.held: Counter[int] = Counter()
        self.released: Counter[int] = Counter()
        self.seen: set[int] = set()
        self.sent = self.received = self.unroutable = 0
        self.lost: list[tuple[float, EspPacket]] = []
        self.keys: set[bytes] = set()

    def install(self, action: InstallSa) -> None:
        for params in (action.inbound, action.outbound):
            assert params.key not in self.keys, f"{self.gateway.name}: a key is used twice"
            self.keys.add(params.key)
        slots = {spi & SLOT_MASK for spi in self.inbound}
        assert action.inbound.spi & SLOT_MASK not in slots, "two inbound SAs in one slot"
        assert action.inbound.spi >> 20, "the upper bits of an SPI are not to be zero"
        self.inbound[action.inbound.spi] = action.inbound
        self.outbound.setdefault(action.outbound.reqid, {})[action.outbound.spi] = action.outbound
        if action.activate_outbound:
            self.activate(action.outbound.reqid, action.outbound.spi)

    def activate(self, reqid: int, spi: int) -> None:
        assert spi in self.outbound[reqid], "an outbound SA was activated before it was installed"
        self.active[reqid] = spi
        for _ in range(self.held.pop(reqid, 0)):
            self.send(reqid)

    def remove(self, action: RemoveSa) -> None:
        del self.inbound[action.inbound_spi]
        del self.outbound[action.reqid][action.outbound_spi]
        if self.active.get(action.reqid) == action.outbound_spi:
            del self.active[action.reqid]

    def move(self, action: MovePeer) -> None:
        self.inbound[action.inbound_spi] = replace(self.inbound[action.inbound_spi], path=action.path)
        table = self.outbound[action.reqid]
        table[action.outbound_spi] = replace(table[action.outbound_spi], path=action.path)

    def send(self, reqid: int) -> None:
        """One packet of the host behind this gateway."""
        spi = self.active.get(reqid)
        if spi is None:
            if reqid in self.traps:
                self.held[reqid] += 1
                if self.held[reqid] == 1:
                    self.gateway.event(Acquire(reqid, *self.gateway.packet_selectors))
            else:
                self.unroutable += 1
            return
        self.sent += 1
        params = self.outbound[reqid][spi]
        self.gateway.pair.carry_esp(self.gateway, EspPacket(spi, params.key, self.sent, params.path))

    def receive(self, packet: EspPacket, path: Path) -> None:
        params = self.inbound.get(packet.spi)
        if params is None or params.key != packet.key:
            self.lost.append((self.gateway.pair.now, packet))
            self.gateway.event(UnknownSpi(packet.spi, path))
            return
        self.received += 1
        if packet.spi not in self.seen:
            self.seen.add(packet.spi)
            self.gateway.event(FirstInbound(packet.spi))
        else:
            self.gateway.event(InboundSeen(packet.spi))
        if params.udp_encap and path != params.path:
            self.gateway.event(PeerMoved(packet.spi, path))


class Gateway:
    """An endpoint, its data plane, and the shell between them."""

    def __init__(
        self, pair: Pair, name: str, connections: Iterable[ConnectionConfig], seed: int, settings: Settings | None
    ) -> None:
        self.pair = pair
        self.name = name
        self.peer_name = "b" if name == "a" else "a"
        self.address = ADDRESS[name]
        self.rng = random.Random(f"{name} {seed}")
        self.endpoint = IkeEndpoint(
            tuple(connections), random=self.rng.randbytes, wall_clock=lambda: pair.wall_clock, settings=settings
        )
        self.dataplane = DataPlane(self)
        self.log: list[Notify] = []
        self.performed: list[Action] = []
        self.keys: dict[bytes, list[IkeKeys]] = {}  # by IKE SPI, all that it had (RFC 9370 s2.2.2)
        network = [selector(NETWORK[x]) for x in (name, self.peer_name)]
        self.packet_selectors = tuple(
            TrafficSelector(n.start + 5, n.start + 5, 6, 1234 if i == 0 else 80, 1234 if i == 0 else 80)
            for i, n in enumerate(network)
        )

    def event(self, event: object) -> None:
        """Data plane events arrive in the next moment, as from the ring."""
        self.pair.at(self.pair.now, lambda: self.endpoint.handle_data_plane(event, self.pair.now))

    def perform(self) -> None:
        for spi, sa in self.endpoint.context.ike_sas.items():
            had = self.keys.setdefault(spi, [])
            if sa.has_keys and sa.keys not in had:
                had.append(sa.keys)
        for action in self.endpoint.actions():
            self.performed.append(action)
            match action:
                case Transmit(path, data):
                    self.pair.carry_ike(self, path, data)
                case InstallSa():
                    self.dataplane.install(action)
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
                case Notify():
                    self.log.append(action)
                    self.pair.remark(f"{self.name}: {action.event}: {action.message}")

    # -- what tests ask ------------------------------------------------------------------------------------------------

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

    def initiate(self, name: str | None = "net", connection: str = "ab") -> None:
        self.endpoint.initiate(connection, name, self.pair.now)
        self.perform()

    def rekey(self, name: str | None, connection: str = "ab") -> None:
        assert self.endpoint.rekey(connection, name, self.pair.now)
        self.perform()

    def terminate(self, name: str | None = None, connection: str = "ab") -> None:
        self.endpoint.terminate(connection, name, self.pair.now)
        self.perform()

    def next_nonces(self, *nonces: bytes) -> None:
        """Decide collisions: the next nonces that this gateway makes."""
        prepared, draw = list(nonces), self.endpoint.context.random
        self.endpoint.context.nonce = lambda: prepared.pop(0) if prepared else draw(32)  # type: ignore[method-assign]


# -- both --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """One line of the transcript: what `sender` put on the link, in clear."""

    time: float
    sender: str
    message: Message | None
    fate: str

    def __str__(self) -> str:
        return f"{self.time:10.3f}  {arrow(self.sender)}  {message_text(self.message)}{self.fate}"


class Pair:
    """Two gateways and the link. `run` is the only thing that moves time; the day is that of the test."""

    def __init__(
        self,
        a: ConnectionConfig | Iterable[ConnectionConfig] | None = None,
        b: ConnectionConfig | Iterable[ConnectionConfig] | None = None,
        *,
        seed: int = 1,
        link: Link | None = None,
        nat: Nat | None = None,
        settings: Settings | None = None,
        settings_b: Settings | None = None,
    ) -> None:
        self.wall_clock = datetime.now(UTC)  # of this schedule, not of the run: certificates are made meanwhile
        self.seed = seed
        self.now = 100.0
        self.rng = random.Random(seed)
        self.link = link or Link()
        self.nat = nat
        self.transcript: list[Sent | str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._esp_free_at = {"a": 0.0, "b": 0.0}
        a = connection("a") if a is None else a
        b = connection("b") if b is None else b
        a, b = ((x,) if isinstance(x, ConnectionConfig) else tuple(x) for x in (a, b))
        self.a = Gateway(self, "a", a, seed, settings)
        self.b = Gateway(self, "b", b, seed, settings_b or settings)
        self.gateways = {"a": self.a, "b": self.b}

    # -- time ----------------------------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def step(self, until: float) -> bool:
        """The next event, not later than `until`."""
        deadlines = [(t, g) for g in (self.a, self.b) if (t := g.endpoint.next_timeout()) is not None]
        timeout = min(deadlines, key=lambda d: d[0], default=None)
        event = self._events[0][0] if self._events else None
        times = [t for t in (timeout[0] if timeout else None, event) if t is not None]
        if not times or min(times) > until:
            self.now = until
            return False
        self.now = max(self.now, min(times))
        if event is not None and event <= min(times):
            heapq.heappop(self._events)[2]()
        else:
            assert timeout is not None
            timeout[1].endpoint.handle_timeout(self.now)
        for gateway in (self.a, self.b):
            gateway.perform()
        self.check_always()
        return True

    def run(self, seconds: float = 1.0) -> Pair:
        until = self.now + seconds
        for gateway in (self.a, self.b):
            gateway.perform()
        while self.step(until):
            pass
        return self

    def start(self) -> Pair:
        for gateway in (self.a, self.b):
            gateway.endpoint.start(self.now)
        return self.run(0.0)

    def up(self) -> Pair:
        """a initiates; both ends are established."""
        self.a.initiate()
        self.run(1.0)
        assert self.a.established, self.text()
        assert self.b.established, self.text()
        return self

    def traffic(self, seconds: float, every: float = 0.005) -> None:
        """Both hosts send all the time, over every reqid that has a Child SA now or gets one."""
        for index in range(int(seconds / every)):
            self.at(self.now + index * every, self._traffic_once)

    def _traffic_once(self) -> None:
        for gateway in (self.a, self.b):
            for reqid in tuple(gateway.dataplane.active):
                gateway.dataplane.send(reqid)

    # -- the link ------------------------------------------------------------------------------------------------------

    def _translate(self, sender: Gateway, path: Path) -> tuple[Gateway, Path] | None:
        """Who gets it, and the path as that one sees it."""
        receiver = self.gateways[sender.peer_name]
        source, source_port, to, to_port = sender.address, path.local_port, path.remote, path.remote_port
        if self.nat and sender is self.a:
            source, source_port = self.nat.address, self.nat.outside(source_port) if source_port else 0
        if self.nat and sender is self.b:
            port = self.nat.inside(to_port) if to_port else 0
            if to != self.nat.address or port is None:
                return None
            to, to_port = self.a.address, port
        if to != receiver.address:
            return None
        return receiver, Path(to, to_port, source, source_port)

    def carry_ike(self, sender: Gateway, path: Path, data: bytes) -> None:
        target = self._translate(sender, path)
        message = self.decode(sender, data)
        drop = self.link.drop is not None and self.link.drop(sender.name, message)
        fates = [] if target is None or drop else self.link.fates(self.rng, data)
        fate = (
            "" if len(fates) == 1 and fates[0][1] == data else "   ...lost" if not fates else "   ...damaged or doubled"
        )
        self.transcript.append(Sent(self.now, sender.name, message, fate))
        if target is None:
            return
        receiver, seen = target
        for delay, arrived in fates:
            self.at(self.now + delay, lambda d=arrived: receiver.endpoint.receive_datagram(d, seen, self.now))

    def carry_esp(self, sender: Gateway, packet: EspPacket) -> None:
        """First in, first out."""
        target = self._translate(sender, packet.path)
        if target is None or self.link.down:
            return
        receiver, seen = target
        arrival = max(self.now + self.link.delay, self._esp_free_at[sender.name])
        self._esp_free_at[sender.name] = arrival
        self.at(arrival, lambda: receiver.dataplane.receive(packet, seen))

    def decode(self, sender: Gateway, data: bytes) -> Message | None:
        """What the sender sealed, opened with its own key."""
        if data == NAT_KEEPALIVE:
            return None
        header = parse_header(data)
        if header.next_payload not in (PayloadType.SK, PayloadType.SKF):
            return parse_message(data)
        sa = sender.endpoint.context.ike_sas[header.spi_i if header.from_initiator else header.spi_r]
        for keys in reversed(sender.keys[sa.own_spi]):
            with suppress(IntegrityError):
                return self._decode_with(own_cipher(sa, keys), header, data)
        raise AssertionError("sealed with keys that the sender never had")

    def _decode_with(self, cipher: SkCipher, header: Header, data: bytes) -> Message:
        if is_fragment(header):
            piece = open_fragment(data, cipher)
            payload = UnknownPayload(PayloadType.SKF, False, f"{piece.number}/{piece.total}".encode())
            spis = header.spi_i, header.spi_r
            from_initiator = header.from_initiator
            return Message(*spis, header.exchange, header.message_id, header.is_response, from_initiator, (payload,))
        return open_message(data, cipher)

    # -- invariants ----------------------------------------------------------------------------------------------------

    def check_always(self) -> None:
        """After every step: what is used to send was installed to receive, and no packet was lost for want of an SA."""
        for gateway, peer in ((self.a, self.b), (self.b, self.a)):
            plane = gateway.dataplane
            for reqid, spi in plane.active.items():
                assert spi in plane.outbound[reqid], f"{gateway.name} sends on an SA that is gone\n{self.text()}"
            known = gateway.endpoint.context.children.by_spi
            assert set(known) == set(plane.inbound), f"{gateway.name}: table and data plane differ\n{self.text()}"
            del peer

    def check_converged(self, *, children: int | None = None) -> None:
        """All quiet: the same IKE SAs and Child SAs at both ends, no duplicates, every half its other half."""
        text = self.text()
        ike = [sorted((sa.spi_i, sa.spi_r, sa.state.value) for sa in g.ike_sas) for g in (self.a, self.b)]
        assert ike[0] == ike[1], f"IKE SAs differ: {ike}\n{text}"
        assert len(ike[0]) <= 1, f"IKE SAs twice: {ike[0]}\n{text}"
        pairs_a = sorted((c.spi_in, c.spi_out) for c in self.a.children)
        pairs_b = sorted((c.spi_out, c.spi_in) for c in self.b.children)
        assert pairs_a == pairs_b, f"Child SAs differ: {pairs_a} {pairs_b}\n{text}"
        names = Counter(c.config.name for c in self.a.children)
        assert all(n == 1 for n in names.values()), f"Child SAs twice: {names}\n{text}"
        if children is not None:
            assert len(names) == children, f"{len(names)} Child SAs\n{text}"
        self._check_planes(text)

    def _check_planes(self, text: str) -> None:
        for gateway, peer in ((self.a, self.b), (self.b, self.a)):
            plane = gateway.dataplane
            installed = sorted(plane.inbound)
            assert installed == sorted(c.spi_in for c in gateway.children), f"{gateway.name}: an SA lingers\n{text}"
            reserved = gateway.endpoint.context.children.spis._used
            assert reserved == set(installed), f"{gateway.name}: SPIs are not given back: {reserved}\n{text}"
            assert not any(sa.pending for sa in gateway.ike_sas), f"{gateway.name}: a half-made SA lingers\n{text}"
            outbound = {spi: params for table in plane.outbound.values() for spi, params in table.items()}
            for spi, params in outbound.items():
                assert peer.dataplane.inbound[spi].key == params.key, f"keys differ\n{text}"
            assert set(plane.active) == {c.reqid for c in gateway.children}, f"no outbound SA is active\n{text}"

    @property
    def lost(self) -> int:
        return len(self.a.dataplane.lost) + len(self.b.dataplane.lost)

    # -- words ---------------------------------------------------------------------------------------------------------

    def remark(self, text: str) -> None:
        self.transcript.append(f"{self.now:10.3f}      {text}")

    def text(self) -> str:
        """The transcript, with the seed that makes it again."""
        return "\n".join([f"seed {self.seed}", *map(str, self.transcript)])

    def exchange(self, since: int = 0) -> list[str]:
        """The messages in the RFC's notation, such as `a --> CREATE_CHILD_SA {N(REKEY_SA), SA, Ni, TSi, TSr}`."""
        sent = [line for line in self.transcript[since:] if isinstance(line, Sent)]
        return [f"{arrow(line.sender)} {message_text(line.message)}" for line in sent]

    def mark(self) -> int:
        return len(self.transcript)


def own_cipher(sa: Channel, keys: IkeKeys | None = None) -> SkCipher:
    keys = keys or sa.keys
    own = (keys.sk_ei, keys.sk_ai) if sa.initiator else (keys.sk_er, keys.sk_ar)
    return sa.suite.cipher(*own)


def arrow(sender: str) -> str:
    return "a -->" if sender == "a" else "<-- b"


def message_text(message: Message | None) -> str:
    if message is None:
        return "NAT keepalive"
    known = message.exchange in ExchangeType.__members__.values()
    name = ExchangeType(message.exchange).name if known else f"exchange {message.exchange}"
    body = ", ".join(payload_text(p, message) for p in message.payloads)
    return f"{name} {{{body}}}"


def payload_text(payload: object, message: Message) -> str:
    if isinstance(payload, NotifyPayload):
        return f"N({notify_name(payload.notify_type)})"
    if isinstance(payload, DeletePayload):
        return "D"
    kind = PayloadType(payload.type)
    if isinstance(payload, UnknownPayload) and kind is PayloadType.SKF:
        return f"SKF {payload.data.decode()}"
    if kind is PayloadType.NONCE:
        return "Nr" if message.response else "Ni"
    return kind.name


def run_quiet(pair: Pair, seconds: float = 400.0) -> None:
    """Let everything that is under way end: retransmissions, retries, lingering SAs."""
    pair.run(seconds)


__all__ = [
    "ADDRESS",
    "ESP_PROPOSAL",
    "IKE_PROPOSAL",
    "NAT_ADDRESS",
    "SECRET",
    "Gateway",
    "Lifetime",
    "Link",
    "Nat",
    "NotifyType",
    "Pair",
    "StartAction",
    "child",
    "connection",
    "proposals",
    "replay_seed",
    "run_quiet",
    "selector",
]
