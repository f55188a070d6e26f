"""The IKE engine of one gateway: datagrams, timers and data plane events in, one ordered stream of actions out.

Pure: the shell owns sockets, clock and randomness. `now` is seconds of any monotonic clock, never going back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256

from ipsecfast.configured import ChildConfig, ConnectionConfig
from ipsecfast.errors import ProtocolError
from ipsecfast.ike.actions import Action, ResolveName, Transmit
from ipsecfast.ike.auth import COOKIE_LENGTH, make_cookie, verify_cookie
from ipsecfast.ike.channel import NAT_KEEPALIVE
from ipsecfast.ike.child import ChildSa
from ipsecfast.ike.connection import Connection
from ipsecfast.ike.constants import (
    ESP_SPI_LENGTH,
    HEADER_LENGTH,
    IN_CLEAR,
    ExchangeType,
    Flags,
    InvalidIkeSpi,
    InvalidMajorVersion,
    NoProposalChosen,
    NotifyError,
    NotifyType,
    error_meaning,
    notify_name,
)
from ipsecfast.ike.context import Context, Settings
from ipsecfast.ike.credential import pad
from ipsecfast.ike.diagnosis import other_version, unknown_addresses
from ipsecfast.ike.exchange import resource_child
from ipsecfast.ike.exchange.base import error_notify
from ipsecfast.ike.exchange.informational import Report
from ipsecfast.ike.extension import puzzles, quick_crash, redirect
from ipsecfast.ike.extension.gateway_identity import Target
from ipsecfast.ike.extension.puzzles import NO_PUZZLE, Puzzle
from ipsecfast.ike.lasting import FORGETFUL, Lasting
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.snapshot import ConnectionStatus, connection_status
from ipsecfast.ike.states import IkeState, Role
from ipsecfast.ike.timers import Bucket, Timer
from ipsecfast.ike.transitions import TRANSITIONS
from ipsecfast.ike.whereabouts import esp_heard, probe
from ipsecfast.ike.wire.message import HEADER, ZERO_SPI, Header, Message, encode_message, parse_header, parse_message
from ipsecfast.ike.wire.payloads import NoncePayload, NotifyPayload, Payload, PuzzleSolutionPayload
from ipsecfast.model import (
    IKE_PORT,
    Acquire,
    DataPlaneEvent,
    FirstInbound,
    HardLifetime,
    IkeDatagram,
    InboundSeen,
    IPAddress,
    Path,
    PeerMoved,
    SoftLifetime,
    UnknownSpi,
)

COOKIE_SECRET_LENGTH = 32
COOKIE_SECRET_LIFETIME = 60.0  # s2.6: the secret changes often; cookies of the one before are still taken
MAX_INVALID_SPI_INTERVAL = 10.0  # seconds between two INVALID_SPI on one IKE SA (s1.5)


class CookieJar:
    """s2.6: stateless proof that the initiator receives what is sent to its address."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._secrets = (random(COOKIE_SECRET_LENGTH), random(COOKIE_SECRET_LENGTH))
        self._changed_at: float | None = None

    def make(self, nonce: bytes, path: Path, spi_i: bytes, now: float, puzzle: Puzzle = NO_PUZZLE) -> bytes:
        if self._changed_at is None:
            self._changed_at = now
        if now - self._changed_at >= COOKIE_SECRET_LIFETIME:
            self._secrets = (self._random(COOKIE_SECRET_LENGTH), self._secrets[0])
            self._changed_at = now
        return make_cookie(self._secrets[0], nonce, path.remote, spi_i, puzzle.encode())

    def accepts(self, cookie: bytes, nonce: bytes, path: Path, spi_i: bytes) -> Puzzle | None:
        """The puzzle with which it was given; None if it was not given for this."""
        if any(verify_cookie(secret, cookie, nonce, path.remote, spi_i) for secret in self._secrets):
            return Puzzle.parse(cookie[COOKIE_LENGTH:])
        return None


class IkeEndpoint:
    """All IKE SAs of one gateway. After each call `actions()` holds what is to be done, in that order.

    `random(n)` returns n unpredictable bytes, `wall_clock()` the time of day with its zone, against which certificates
    are held and nothing else. Nothing that a peer sends makes a method raise: each datagram is counted
    under exactly one `Outcome`.
    """

    def __init__(
        self,
        connections: Sequence[ConnectionConfig],
        *,
        random: Callable[[int], bytes],
        wall_clock: Callable[[], datetime],
        settings: Settings | None = None,
        lasting: Lasting = FORGETFUL,
    ) -> None:
        self.context = Context(settings or Settings(), random, wall_clock, lasting)
        self.connections = {c.name: Connection(c, self.context) for c in connections}
        self._addresses = pad.AddressIndex(connections)
        self._cookies = CookieJar(random)
        self._unknown_spis = Bucket(self.context.settings.unknown_spis)
        self._invalid_spi_sent: dict[bytes, float] = {}

    # -- out -------------------------------------------------------------------------------------------------------

    def actions(self) -> list[Action]:
        """What is to be done since the last call, in the order in which it must be done."""
        return self.context.drain()

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is to be called, if nothing comes before."""
        return self.context.timers.next()

    @property
    def counters(self) -> Counter[str]:
        """Events by name; "datagrams" is the sum of all outcomes."""
        return self.context.counters

    @property
    def idle(self) -> bool:
        """No IKE SA is up, coming or going: after `shutdown` all DELETEs are answered or given up."""
        return all(sa.closed for sa in self.context.ike_sas.values())

    def status(self, now: float) -> tuple[ConnectionStatus, ...]:
        return tuple(connection_status(connection, now) for connection in self.connections.values())

    def status_of(self, connection: str, now: float) -> ConnectionStatus:
        """KeyError for a name that isn't configured."""
        return connection_status(self.connections[connection], now)

    # -- the operator ----------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Traps, and the connections with start_action = start."""
        for connection in self.connections.values():
            connection.start(now)

    def initiate(self, connection: str, child: str | None, now: float) -> None:
        """Negotiate a child, or all of a connection. KeyError for a name that isn't configured."""
        found = self.connections[connection]
        wanted = found.config.children if child is None else (self._child_config(found, child),)
        for config in wanted:
            found.want(config, now)

    def terminate(self, connection: str, child: str | None, now: float) -> int:
        """Delete a child's SAs, or the connection's IKE SAs; how many. KeyError for a name that isn't configured."""
        return self._named(connection, child).terminate(child, now)

    def reauthenticate(self, connection: str, now: float) -> int:
        """Authenticate the IKE SAs anew; how many. KeyError for a name that isn't configured."""
        return self.connections[connection].reauthenticate(now)

    def rekey(self, connection: str, child: str | None, now: float) -> int:
        """Rekey a child's SAs, or the IKE SAs (child None); how many. KeyError for a name that isn't configured."""
        return self._named(connection, child).rekey(child, now)

    def send_away(self, connection: str, target: Target | None, now: float) -> tuple[int, int]:
        """Send the peers of a connection to another gateway, or (None) no longer (RFC 5685); how many IKE SAs were
        asked to move, and how many have peers that don't know how. KeyError for a name that isn't configured."""
        return redirect.send_away(self.connections[connection], target, now)

    def resolved(self, action: ResolveName, addresses: Sequence[IPAddress], now: float) -> None:
        """What the name of a gateway stands for; empty: nothing that can be used."""
        redirect.resolved(self.connections[action.connection], action.name, addresses, now)

    def _named(self, connection: str, child: str | None) -> Connection:
        found = self.connections[connection]
        if child is not None:
            self._child_config(found, child)
        return found

    @staticmethod
    def _child_config(connection: Connection, name: str) -> ChildConfig:
        config = connection.child(name)
        if config is None:
            raise KeyError(name)
        return config

    def shutdown(self, now: float) -> None:
        """Take leave of every peer; `idle` tells when that is done."""
        for connection in self.connections.values():
            connection.terminate(None, now)

    # -- time ------------------------------------------------------------------------------------------------------

    def handle_timeout(self, now: float) -> None:
        while due := self.context.timers.pop_due(now):
            owner, timer = due
            owner.on_timer(timer, now)

    # -- datagrams -------------------------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, path: Path, now: float) -> None:
        """One UDP datagram of port 500, or of 4500 without its non-ESP marker."""
        outcome = self._receive(data, path, now)
        self.counters["datagrams"] += 1
        self.counters[outcome] += 1

    def _receive(self, data: bytes, path: Path, now: float) -> Outcome:
        if data == NAT_KEEPALIVE:
            return Outcome.KEEPALIVE
        try:
            header = parse_header(data)
        except InvalidMajorVersion as error:
            return self._other_version(data, error, path, now)
        except ProtocolError as error:
            self.context.complain(now, "malformed", f"{path.remote}: {error}", f"malformed {path.remote}")
            return Outcome.MALFORMED
        # s3.1: the flag tells which of the two SPIs is the sender's, so the other one is ours.
        sa = self.context.ike_sas.get(header.spi_r if header.from_initiator else header.spi_i)
        if sa is not None:
            clear = quick_crash.is_unprotected_answer(header)
            return quick_crash.heed(sa, data, now) if clear else sa.handle(header, data, path, now)
        if header.exchange in IN_CLEAR and not header.is_response:
            return self._initial_request(header, data, path, now)
        return self._stranger(header, data, path, now)

    def _initial_request(self, header: Header, data: bytes, path: Path, now: float) -> Outcome:
        """Someone begins (s1.2): limits and cookies before any state or any key exchange."""
        digest = sha256(path.remote.packed + path.remote_port.to_bytes(2, "big") + data).digest()
        if known := self.context.by_request.get(digest):
            return known.handle(header, data, path, now)
        settings = self.context.settings
        if len(self.context.half_open) >= settings.half_open_limit:
            return Outcome.HALF_OPEN_REFUSED
        if self.context.half_open.of(path.remote) >= settings.half_open_per_source:
            self.counters["half-open refused by source"] += 1
            return Outcome.HALF_OPEN_REFUSED
        if self.context.jobs.of_strangers >= settings.half_open_work:  # the initiator sends it again (s2.1)
            return Outcome.HALF_OPEN_REFUSED
        fresh = header.message_id == 0 and header.from_initiator and header.spi_r == ZERO_SPI != header.spi_i
        if not fresh:
            return Outcome.MALFORMED
        try:
            message = parse_message(data, header)
            configs = self._addresses.for_path(path)
            if not configs:
                return self._nobody(header, path, now)
        except NotifyError as error:
            return self._refuse_initial(header, error, str(error), path, now)
        if (asked := self._demand(header, message, path, now)) is not None:
            return asked
        if away := redirect.sends_away(message, [self.connections[c.name] for c in configs]):
            self._answer_unprotected(header, path, away)
            return Outcome.REDIRECTED
        return self._accept_initial(header, message, configs, data, digest, path, now)

    def _demand(self, header: Header, message: Message, path: Path, now: float) -> Outcome | None:
        """s2.6, RFC 8019: what the initiator still has to bring; None when it may come in."""
        demand = self.context.half_open.demand(path.remote, self.context.settings)
        if not demand.cookie:
            return None
        nonce, cookie = message.get(NoncePayload), message.notify(NotifyType.COOKIE)
        if nonce is None:
            return Outcome.MALFORMED
        given = self._cookies.accepts(cookie.data, nonce.data, path, header.spi_i) if cookie else None
        puzzle = puzzles.make(message, demand.difficulty)
        if cookie is not None and given is not None:
            if not demand.difficulty or puzzles.solved(given, cookie.data, message.get(PuzzleSolutionPayload)):
                return None
            if given.difficulty or not puzzle.difficulty:  # it was asked, or can't be
                self.counters["without a puzzle's solution"] += 1
                if demand.lenient:
                    return None
            if not puzzle.difficulty:
                return Outcome.HALF_OPEN_REFUSED
        made = NotifyPayload(NotifyType.COOKIE, self._cookies.make(nonce.data, path, header.spi_i, now, puzzle))
        if not puzzle.difficulty:
            self._answer_unprotected(header, path, made)
            return Outcome.COOKIE_SENT
        self._answer_unprotected(header, path, made, NotifyPayload(NotifyType.PUZZLE, puzzle.encode()))
        return Outcome.PUZZLE_SENT

    def _accept_initial(
        self,
        header: Header,
        message: Message,
        configs: Sequence[ConnectionConfig],
        data: bytes,
        digest: bytes,
        path: Path,
        now: float,
    ) -> Outcome:
        sa = IkeSa(self.context, [self.connections[c.name] for c in configs], path, initiator=False, now=now)
        sa.spi_i = header.spi_i
        sa.request_digest = digest
        self.context.ike_sas.add(sa)
        self.context.by_request[digest] = sa
        self.context.half_open.add(sa)
        self.context.timers.set(sa, Timer.HALF_OPEN, now + self.context.settings.half_open_timeout)
        handler = TRANSITIONS[IkeState.CONNECTING, header.exchange, Role.RESPONDER]
        return sa.answer(handler, message, header, data, path, now)

    def _nobody(self, header: Header, path: Path, now: float) -> Outcome:
        configs = (c.config for c in self.connections.values())
        return self._refuse_initial(header, NoProposalChosen(), lambda: unknown_addresses(configs, path), path, now)

    def _refuse_initial(
        self, header: Header, error: NotifyError, why: str | Callable[[], str], path: Path, now: float
    ) -> Outcome:
        def text() -> str:
            return f"IKE_SA_INIT from {path.remote} refused: {why if isinstance(why, str) else why()}"

        self.context.complain(now, "init-refused", text, f"init {path.remote}")
        if self.context.may_answer_stranger(now):
            self._answer_unprotected(header, path, error_notify(error))
        return Outcome.NO_CONNECTION if isinstance(error, NoProposalChosen) else Outcome.MALFORMED

    def _answer_unprotected(self, header: Header, path: Path, *notifies: Payload) -> None:
        """A response outside of any IKE SA, with the request's SPIs and message ID (s1.5, s2.6, s2.21.4)."""
        answer = Message(
            header.spi_i, header.spi_r, header.exchange, header.message_id, True, not header.from_initiator, notifies
        )
        self.context.emit(Transmit(path, encode_message(answer)))

    def _other_version(self, data: bytes, error: InvalidMajorVersion, path: Path, now: float) -> Outcome:
        """s2.5: answered with our version, unless it is an answer itself."""
        header = Header(*HEADER.unpack_from(data[:HEADER_LENGTH]))
        text = f"{path.remote}: {error}; only IKEv2 is spoken here"
        for config in self._addresses.for_path(path)[:1]:
            failure = other_version(config, path, str(error), now)
            self.connections[config.name].failures.setdefault("", failure)
            text = failure.message
        self.context.complain(now, "version", text, f"version {path.remote}")
        newer = header.version >> 4 > 2
        if newer and not header.flags & Flags.RESPONSE and self.context.may_answer_stranger(now):
            self._answer_unprotected(header, path, error_notify(error))
        return Outcome.VERSION

    def _stranger(self, header: Header, data: bytes, path: Path, now: float) -> Outcome:
        """For no IKE SA of ours. An answer is never answered, nor is an unprotected notify (s1.5, s2.21.4)."""
        if header.is_response:
            return Outcome.UNKNOWN_SPI
        if header.exchange == ExchangeType.INFORMATIONAL:
            try:
                errors = parse_message(data, header).errors()
            except NotifyError:
                errors = ()
            if errors:
                return self._hint(errors[0], path, now)
        self.context.complain(
            now, "unknown-ike-spi", f"{path.remote} uses an IKE SA that does not exist here", f"spi {path.remote}"
        )
        if self.context.may_answer_stranger(now):
            lost = quick_crash.confession(self.context, header)
            self._answer_unprotected(header, path, NotifyPayload(InvalidIkeSpi.notify_type), *lost)
        return Outcome.UNKNOWN_SPI

    def _hint(self, notify: NotifyPayload, path: Path, now: float) -> Outcome:
        """s1.5: an unprotected error proves nothing; it is a reason to ask the peer whether it still knows us."""
        name, meaning = notify_name(notify.notify_type), error_meaning(notify.notify_type)
        self.context.complain(now, "hint", f"{path.remote} says unprotected {name}: {meaning}", f"hint {path.remote}")
        if self.context.may_answer_stranger(now):
            for sa in self._sas_of(path):
                probe(sa, now)
        return Outcome.UNPROTECTED

    def _sas_of(self, path: Path) -> list[IkeSa]:
        sas = self.context.ike_sas.values()
        return [sa for sa in sas if sa.usable and sa.path.remote == path.remote]

    # -- work (`work`) ----------------------------------------------------------------------------------------------

    def handle_result(self, job: int, result: object, now: float) -> None:
        """What an action with this job number has yielded: its result, or the exception that it raised."""
        self.context.jobs.resume(job, result, now)

    # -- the data plane --------------------------------------------------------------------------------------------

    def handle_data_plane(self, event: DataPlaneEvent, now: float) -> None:
        match event:
            case IkeDatagram(path, data):
                self.receive_datagram(data, path, now)
            case Acquire(resource=resource) if resource:
                resource_child.acquire(self.context, event, now)
            case Acquire(reqid):
                self._acquire(event, reqid, now)
            case SoftLifetime(reqid, spi, inbound):
                if child := self.context.children.find(reqid, spi, inbound):
                    child.ike.rekey_child(child, now)
            case HardLifetime(reqid, spi, inbound):
                if child := self.context.children.find(reqid, spi, inbound):
                    child.ike.expire_child(child, now)
            case UnknownSpi(spi, path):
                self._unknown_esp_spi(spi, path, now)
            case FirstInbound(spi) | InboundSeen(spi) | PeerMoved(spi):
                if child := self.context.children.by_spi.get(spi):
                    self._authentic_esp(event, child, now)

    def _authentic_esp(self, event: FirstInbound | InboundSeen | PeerMoved, child: ChildSa, now: float) -> None:
        child.ike.last_heard = now
        child.ike.origin.proved |= not child.ike.origin.began
        if isinstance(event, FirstInbound):
            child.ike.first_inbound(child, now)
        elif isinstance(event, PeerMoved):
            esp_heard(child.ike, event.path)

    def _acquire(self, event: Acquire, reqid: int, now: float) -> None:
        owner = self.context.reqids.owner(reqid)
        if owner is None:
            return
        connection = self.connections[owner[0]]
        child = connection.child(owner[1])
        if child is not None:
            connection.acquire(event, child, now)

    def _unknown_esp_spi(self, spi: int, path: Path, now: float) -> None:
        """s1.5: tell the peer, over its IKE SA and not too often; without an IKE SA in clear: it will ask whether we
        still know it."""
        self.counters["unknown ESP SPI"] += 1
        if not self._unknown_spis.take(now):
            return
        notify = NotifyPayload(NotifyType.INVALID_SPI, spi.to_bytes(ESP_SPI_LENGTH, "big"))
        sas = self._sas_of(path)
        if not sas:
            self._disown(notify, path, now)
        for sa in sas[-1:]:
            if now - self._invalid_spi_sent.get(sa.own_spi, float("-inf")) >= MAX_INVALID_SPI_INTERVAL:
                self._invalid_spi_sent = {k: t for k, t in self._invalid_spi_sent.items() if k in self.context.ike_sas}
                self._invalid_spi_sent[sa.own_spi] = now
                sa.start(Report(notify), now)

    def _disown(self, notify: NotifyPayload, path: Path, now: float) -> None:
        """s1.5: one message that is no request and has no SPIs of its own; only to where a peer may be."""
        ports = path if path.local_port else replace(path, local_port=IKE_PORT, remote_port=IKE_PORT)
        known = self._addresses.for_path(path)
        if known and self.context.may_answer_stranger(now):
            message = Message(ZERO_SPI, ZERO_SPI, ExchangeType.INFORMATIONAL, 0, False, True, (notify,))
            self.context.emit(Transmit(ports, encode_message(message)))
