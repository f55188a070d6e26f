"""A load generator for IKE: many peers in one process, each with its own identity, over the ports 500 and 4500.

`python -m ipsecfast.bench.ike_load` reads a `Plan` as JSON from its first line of input, then a command a line:

    up N           initiator: N more IKE SAs, each with a Child SA, `parallel` at a time; responder: wait for N more
    rekey child    rekey every Child SA, `parallel` at a time; `rekey ike`: every IKE SA

and answers each with a line of JSON, `Answer`. It carries no packets: what a data plane would do is only counted.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

from ipsecfast.configured import AuthConfig, AuthKind, ChildConfig, ConnectionConfig, PresharedKey
from ipsecfast.identity import Identity
from ipsecfast.ike.actions import Action, Compute, InstallSa, Notify, Transmit
from ipsecfast.ike.constants import IdType
from ipsecfast.ike.context import Settings
from ipsecfast.ike.endpoint import IkeEndpoint
from ipsecfast.ike.wire.proposal import parse_proposal
from ipsecfast.model import IKE_PORT, NAT_T_PORT, ProtocolId, TrafficSelector
from ipsecfast.pki import Issued, KeyType, make_certificate
from ipsecfast.sockets import NAT_KEEPALIVE, NON_ESP_MARKER, IkeSocket

FIRST_PEER_NETWORK = int(IPv4Address("10.128.0.0"))  # behind peer i: 10.128.0.0 + i, one address
GENEROUS = 1_000_000  # half-open IKE SAs, without a cookie: it measures, it does not defend itself
DATAGRAMS_AT_ONCE = 64
MARK = 0
LONGEST_WAIT = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """`peers` of them at `local`, each named `identity` with its number for {}. With `authority`, the files of an
    authority's certificate and key, they have certificates, else the secret."""

    initiator: bool
    peers: int
    local: str
    remote: str
    identity: str = "peer{}.bench.test"
    remote_identity: str = "subject.bench.test"
    proposal: str = "aes128gcm16-prfsha256-x25519"
    esp_proposal: str = "aes128gcm16"
    remote_network: str = "10.1.0.0/24"
    network: str = "10.128.0.0/9"  # behind a responder; behind the initiator number i it is 10.128.0.0 + i
    secret: str = ""
    authority: tuple[str, str] | None = None
    parallel: int = 8
    encap: bool = True  # after IKE_SA_INIT over port 4500, as behind a NAT; else over port 500
    patience: float = 60.0  # seconds for one command

    def connections(self) -> Iterator[ConnectionConfig]:
        """One a peer as initiator; as responder one for all that come."""
        issuer = Issued.load(*map(Path, self.authority)) if self.authority else None
        for number in range(self.peers if self.initiator else 1):
            yield self._connection(number, issuer)

    def _connection(self, number: int, issuer: Issued | None) -> ConnectionConfig:
        name = self.identity.format(number)
        inner = ip_address(FIRST_PEER_NETWORK + number)
        ours = TrafficSelector.from_network(ip_network(inner if self.initiator else self.network))
        theirs = TrafficSelector.from_network(ip_network(self.remote_network))
        local, remote = AuthConfig(_fqdn(name)), AuthConfig(_fqdn(self.remote_identity))
        if issuer is not None:
            issued = make_certificate([name], KeyType.ECDSA256, issuer)
            local = AuthConfig(_fqdn(name), AuthKind.PUBKEY, certificates=(issued.certificate,), key=issued.key)
            authorities = (issuer.certificate,)
            remote = AuthConfig(_fqdn(self.remote_identity), AuthKind.PUBKEY, authorities=authorities)
        return ConnectionConfig(
            name=str(number),
            local_addrs=(ip_address(self.local),),
            remote_addrs=(ip_address(self.remote),),
            proposals=(parse_proposal(self.proposal, ProtocolId.IKE),),
            local=local,
            remote=remote,
            children=(ChildConfig("net", (ours,), (theirs,), (parse_proposal(self.esp_proposal, ProtocolId.ESP),)),),
            secrets=() if issuer else (PresharedKey((), self.secret.encode()),),
            unique="never",
            encap=self.encap,
        )


def _fqdn(name: str) -> Identity:
    return Identity(IdType.ID_FQDN, name.encode())


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a command: how many of what was wanted, in how many seconds, of which the generator's own CPU took
    `cpu`; the slowest hundredth of the single ones took `p99`, half of them `p50`, in milliseconds; `times`: each."""

    done: int
    seconds: float
    cpu: float
    p50: float = 0.0
    p99: float = 0.0
    retransmissions: int = 0
    times: tuple[float, ...] = ()


class Generator:
    """The endpoint of all peers, its sockets, and the loop between them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        settings = Settings(
            cookie_threshold=GENEROUS, half_open_limit=GENEROUS, half_open_per_source=GENEROUS, half_open_work=GENEROUS
        )
        self._connections = tuple(plan.connections())
        self._endpoint = IkeEndpoint(
            self._connections, random=os.urandom, wall_clock=partial(datetime.now, UTC), settings=settings
        )
        self._sockets = {port: IkeSocket(4, mark=MARK, port=port) for port in (IKE_PORT, NAT_T_PORT)}
        self._selector = selectors.DefaultSelector()
        for ike_socket in self._sockets.values():
            self._selector.register(ike_socket.fileno(), selectors.EVENT_READ, ike_socket)
        self._up = 0
        self._began: dict[str, float] = {}  # when each connection began what is measured
        self._ended: dict[str, float] = {}
        self._ends: Callable[[Action], str | None] = _installs

    # -- commands --------------------------------------------------------------------------------------------------

    def up(self, count: int) -> Answer:
        if not self.plan.initiator:
            return self._measure(count, (), lambda name: None, _installs)
        names = [c.name for c in self._connections[self._up : self._up + count]]
        self._up += len(names)
        return self._measure(len(names), names, lambda n: self._endpoint.initiate(n, None, _now()), _installs)

    def rekey(self, what: str) -> Answer:
        names = [c.name for c in self._connections[: self._up]]
        child, ends = ("net", _installs) if what == "child" else (None, _rekeys)
        return self._measure(len(names), names, lambda n: self._endpoint.rekey(n, child, _now()), ends)

    # -- the loop --------------------------------------------------------------------------------------------------

    def _measure(
        self, count: int, names: Sequence[str], begin: Callable[[str], object], ends: Callable[[Action], str | None]
    ) -> Answer:
        """Begins what `names` are to do, `parallel` at a time, until `count` of them have done it."""
        waiting = deque(names)
        self._began, self._ended, self._ends = {}, {}, ends
        sent, cpu, started = self._endpoint.counters["retransmissions"], time.process_time(), _now()
        while len(self._ended) < count and _now() < started + self.plan.patience:
            while waiting and len(self._began) - len(self._ended) < self.plan.parallel:
                self._began[waiting[0]] = _now()
                begin(waiting.popleft())
                self._perform()
            self._serve()
        took = sorted(self._ended[name] - self._began.get(name, started) for name in self._ended) or [0.0]
        return Answer(
            len(self._ended),
            max(self._ended.values(), default=_now()) - min(self._began.values(), default=started),
            time.process_time() - cpu,
            1000 * took[len(took) // 2],
            1000 * took[len(took) * 99 // 100],
            self._endpoint.counters["retransmissions"] - sent,
            tuple(round(1000 * t, 3) for t in took),
        )

    def _serve(self) -> None:
        """Whatever comes next: datagrams, or a timer."""
        deadline = self._endpoint.next_timeout()
        wait = LONGEST_WAIT if deadline is None else min(LONGEST_WAIT, max(0.0, deadline - _now()))
        for key, _ in self._selector.select(wait):
            for data, path in key.data.receive(DATAGRAMS_AT_ONCE):
                message = data.removeprefix(NON_ESP_MARKER) if path.local_port == NAT_T_PORT else data
                self._endpoint.receive_datagram(message, path, _now())
                self._perform()
        self._endpoint.handle_timeout(_now())
        self._perform()

    def _perform(self) -> None:
        while actions := self._endpoint.actions():
            for action in actions:
                if isinstance(action, Transmit):
                    self._send(action)
                elif isinstance(action, Compute):
                    self._endpoint.handle_result(action.job, action.call(), _now())
                elif (name := self._ends(action)) is not None:
                    # A responder's one connection serves all peers: each SA counts by itself.
                    self._ended[name if self.plan.initiator else str(len(self._ended))] = _now()

    def _send(self, action: Transmit) -> None:
        nat_t = action.path.nat_t
        marked = nat_t and action.data != NAT_KEEPALIVE
        self._sockets[NAT_T_PORT if nat_t else IKE_PORT].send(
            NON_ESP_MARKER + action.data if marked else action.data, action.path
        )


def _now() -> float:
    return time.monotonic()


def _installs(action: Action) -> str | None:
    """The connection that has got a Child SA."""
    return action.connection if isinstance(action, InstallSa) else None


def _rekeys(action: Action) -> str | None:
    """The connection that has got another IKE SA."""
    return action.connection if isinstance(action, Notify) and action.event == "ike-rekeyed" else None


def main() -> None:
    raw = json.loads(sys.stdin.readline())
    authority = tuple(raw.pop("authority") or ()) or None
    generator = Generator(Plan(**raw, authority=authority))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        verb, _, argument = line.strip().partition(" ")
        answer = generator.up(int(argument)) if verb == "up" else generator.rekey(argument)
        print(json.dumps(asdict(answer)), flush=True)


if __name__ == "__main__":
    main()
