"""Redirect (RFC 5685): a gateway sends a peer to another one, before it is served, or away from what it has.

    HDR(A,0), SAi1, KEi, Ni, N(REDIRECT_SUPPORTED)  -->
                             <--  HDR(A,0), N(REDIRECT, new gateway, Ni data)             s3
    HDR, SK {IDi, AUTH, SAi2, TSi, TSr}  -->
                             <--  HDR, SK {IDr, AUTH, N(REDIRECT, new gateway)}           s6
                             <--  HDR, SK {N(REDIRECT, new gateway)}                      s5
    HDR, SK {}  -->

What goes to the new gateway has N(REDIRECTED_FROM, old gateway) in place of N(REDIRECT_SUPPORTED).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ipsecfast.configured import ConnectionConfig
from ipsecfast.ike.actions import ResolveName
from ipsecfast.ike.constants import ExchangeType, InvalidSyntax, NotifyType
from ipsecfast.ike.credential import pad
from ipsecfast.ike.exchange.base import Exchange
from ipsecfast.ike.extension.gateway_identity import Target, gateway_id, parse_gateway_id
from ipsecfast.ike.states import Cause, IkeState
from ipsecfast.ike.timers import Timer
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import NoncePayload, NotifyPayload, Payload
from ipsecfast.model import IPAddress

if TYPE_CHECKING:
    from ipsecfast.ike.connection import Connection
    from ipsecfast.ike.sa import IkeSa

MAX_REDIRECTS = 5  # within REDIRECT_LOOP_DETECT_PERIOD seconds: more are a loop
REDIRECT_LOOP_DETECT_PERIOD = 300.0


@dataclass(slots=True)
class Manners:
    """What the two ends of an IKE SA agreed on; its successors share it."""

    follows: bool = False  # we said that we go where the peer sends us
    peer_follows: bool = False
    came_from: IPAddress | None = None  # who sent us to this peer
    sent_away: bool = False  # the peer has heard that it is to go


# -- who goes where it is sent -----------------------------------------------------------------------------------------


class Redirection:
    """Where the next attempt of a connection goes, and how often it was sent on. The attempt after it goes where the
    configuration says: a gateway that does not answer may have been named by nobody that we know."""

    def __init__(self) -> None:
        self.target: IPAddress | None = None
        self.resolving = ""
        self.came_from: IPAddress | None = None
        self.any_leaves = False  # an IKE SA of the connection is `leaving`, or was
        self._times: deque[float] = deque(maxlen=MAX_REDIRECTS)

    def loops(self, now: float) -> bool:
        """Sent on as often as one may be, within so short a time."""
        return len(self._times) == MAX_REDIRECTS and now - self._times[0] < REDIRECT_LOOP_DETECT_PERIOD

    def go(self, came_from: IPAddress, target: Target, now: float) -> None:
        self._times.append(now)
        self.came_from = came_from
        named = isinstance(target, str)
        self.resolving, self.target = (target, None) if named else ("", target)  # type: ignore[assignment]

    def resolved(self, target: IPAddress | None) -> None:
        self.resolving, self.target = "", target

    def take(self, config: ConnectionConfig) -> tuple[tuple[IPAddress, IPAddress], IPAddress] | None:
        """Both addresses of the next attempt, and who sent us there; None: those of the configuration."""
        target, came_from, self.target, self.resolving = self.target, self.came_from, None, ""
        addresses = addresses_to(config, target) if target else None
        return (addresses, came_from) if addresses and came_from else None


def addresses_to(config: ConnectionConfig, target: IPAddress) -> tuple[IPAddress, IPAddress] | None:
    """Our address and that one; None where we have none of its family, or where no gateway can be."""
    if target.is_loopback or target.is_multicast or target.is_unspecified:
        return None
    return pad.peer_addresses(replace(config, remote_addrs=(target,)))


def resolved(connection: Connection, name: str, addresses: Sequence[IPAddress], now: float) -> None:
    """The shell knows the gateway's name; the first address that we can reach by its family is tried."""
    if connection.redirection.resolving != name:
        return  # too late: the attempt goes where the configuration says
    target = next((a for a in addresses if addresses_to(connection.config, a)), None)
    if target is None:
        connection.note("redirect-refused", f"the gateway {name} has no address for us", warning=True)
    connection.redirection.resolved(target)
    connection.want_waiting(now)


def offer(sa: IkeSa) -> tuple[Payload, ...]:
    """s3: for our IKE_SA_INIT request."""
    manners = sa.manners
    manners.follows = sa.connection.config.redirect
    if not manners.follows:
        return ()
    if manners.came_from is not None:
        return (NotifyPayload(NotifyType.REDIRECTED_FROM, gateway_id(manners.came_from)),)
    return (NotifyPayload(NotifyType.REDIRECT_SUPPORTED),)


def follow(sa: IkeSa, notify: NotifyPayload, nonce: bytes, now: float) -> bool:
    """Whether the connection goes where the peer says; then `sa` is of no more use. The log has why not.

    Raises:
        InvalidSyntax: no gateway, or without the nonce that only who saw our request could know (s3).
    """
    target, rest = parse_gateway_id(notify.data)
    if rest != nonce:
        raise InvalidSyntax("a redirect that does not repeat our nonce")
    connection = sa.connection
    refusal = _refusal(connection, target, sa, now)
    if refusal:
        sa.note("redirect-refused", f"the peer sends us to {target}: {refusal}", warning=True)
        return False
    sa.note("redirected", f"the peer sends us to {target}")
    connection.redirection.go(sa.path.remote, target, now)
    if isinstance(target, str):
        sa.context.emit(ResolveName(connection.config.name, target))
    return True


def _refusal(connection: Connection, target: Target, sa: IkeSa, now: float) -> str:
    if connection.redirection.loops(now):
        return f"that is the redirect after {MAX_REDIRECTS} within {REDIRECT_LOOP_DETECT_PERIOD:.0f} s, a loop"
    if target == sa.path.remote:
        return "that is where it is itself"
    if not isinstance(target, str) and addresses_to(connection.config, target) is None:
        return "no gateway can be there, or we have no address of that family"
    return ""


def in_init(sa: IkeSa, notify: NotifyPayload, nonce: bytes, now: float) -> None:
    """s3: not authentic yet; the new gateway will have to prove that it is who the configuration wants."""
    if not sa.manners.follows:
        raise InvalidSyntax("a redirect that we did not say we would follow")
    if follow(sa, notify, nonce, now):
        sa.close(Cause.REDIRECTED, now)
    else:
        sa.fail(now, "the peer does not serve us itself, and where it sends us we do not go")


def in_auth(sa: IkeSa, message: Message) -> NotifyPayload | None:
    """s6: the peer is authentic and will not have a Child SA with us."""
    return message.notify(NotifyType.REDIRECT) if sa.manners.follows else None


def leave_unserved(sa: IkeSa, notify: NotifyPayload, now: float) -> None:
    """s6: the IKE SA, which stands at the other end, is deleted before it was of any use."""
    goes = _follow_authentic(sa, notify, now)
    sa.state = IkeState.ESTABLISHED
    sa.delete(Cause.REDIRECTED if goes else Cause.REFUSED, now)  # gives back what was wanted of it
    sa.established_at = now


def _follow_authentic(sa: IkeSa, notify: NotifyPayload, now: float) -> bool:
    try:
        return follow(sa, notify, b"", now)
    except InvalidSyntax as error:
        sa.note("redirect-refused", f"a redirect that can't be followed: {error}", warning=True)
        return False


def leave(sa: IkeSa, notify: NotifyPayload, now: float) -> None:
    """s5: the gateway wants to be rid of us. What it carries moves to the new one first, then the IKE SA is deleted."""
    if not sa.manners.follows or sa.leaving or not _follow_authentic(sa, notify, now):
        return
    sa.leaving = sa.connection.redirection.any_leaves = True
    moving = [child.config for child in sa.children.values() if child.live]
    for config in moving:
        sa.connection.want(config, now)
    if not moving:
        sa.delete(Cause.REDIRECTED, now)


def arrived(connection: Connection, now: float) -> None:
    """The new IKE SA stands; in a moment its Child SAs do."""
    for old in connection.ike_sas() if connection.redirection.any_leaves else ():
        if old.leaving:
            old.context.timers.set(old, Timer.LEAVE, now + old.context.settings.redirect_grace)


def hand_over(old: IkeSa, new: IkeSa) -> None:
    """By a rekey that was under way: what was to go still goes."""
    new.leaving = old.leaving
    deadline = old.context.timers.deadline(old, Timer.LEAVE)
    if deadline is not None:
        old.context.timers.set(new, Timer.LEAVE, deadline)


def stay(connection: Connection) -> None:
    """The new gateway could not be had: the old one goes on serving, until it deletes us."""
    for old in connection.ike_sas():
        if old.leaving:
            old.leaving = False
            old.context.timers.clear(old, Timer.LEAVE)


# -- who sends away ----------------------------------------------------------------------------------------------------


def supports(message: Message) -> bool:
    return any(message.notify(kind) is not None for kind in (NotifyType.REDIRECT_SUPPORTED, NotifyType.REDIRECTED_FROM))


def sends_away(message: Message, connections: Iterable[Connection]) -> NotifyPayload | None:
    """s3: without any state, where all connections that the request may be for send their peers to one gateway. Who
    comes from there is not sent back: two gateways that point at each other would never serve anyone."""
    targets = {connection.redirect_to for connection in connections}
    target, nonce = targets.pop(), message.get(NoncePayload)
    if targets or target is None or nonce is None or not supports(message):
        return None
    came_from = message.notify(NotifyType.REDIRECTED_FROM)
    if came_from is not None and came_from.data == gateway_id(target):
        return None
    return NotifyPayload(NotifyType.REDIRECT, gateway_id(target) + nonce.data)


def authenticated(sa: IkeSa, now: float) -> tuple[Payload, ...]:
    """s6: in place of a Child SA, where only the identity tells that the peer is not to be served here."""
    target = sa.connection.redirect_to
    if target is None or not sa.manners.peer_follows or sa.manners.came_from == target:
        return ()
    sa.note("sent-away", f"the peer was sent to {target}")
    sa.manners.sent_away = True
    sa.context.timers.set(sa, Timer.LEAVE, now + sa.context.settings.redirect_patience)
    return (NotifyPayload(NotifyType.REDIRECT, gateway_id(target)),)


def note_support(sa: IkeSa, message: Message) -> None:
    """What an IKE_SA_INIT request says of it."""
    sa.manners.peer_follows = supports(message)
    came_from = message.notify(NotifyType.REDIRECTED_FROM)
    if came_from is not None:
        target, _ = parse_gateway_id(came_from.data)
        sa.manners.came_from = None if isinstance(target, str) else target


class SendAway(Exchange):
    """s5: the peer of an established IKE SA is to go; if it has not gone after a while, we delete it."""

    type = ExchangeType.INFORMATIONAL
    states = frozenset({IkeState.ESTABLISHED})

    def __init__(self, target: Target) -> None:
        self.target = target

    def request(self, sa: IkeSa, now: float) -> Sequence[Payload]:
        sa.manners.sent_away = True
        sa.note("sent-away", f"the peer is sent to {self.target}")
        return (NotifyPayload(NotifyType.REDIRECT, gateway_id(self.target)),)

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        sa.context.timers.set(sa, Timer.LEAVE, now + sa.context.settings.redirect_patience)


def send_away(connection: Connection, target: Target | None, now: float) -> tuple[int, int]:
    """From now on peers of this connection are sent there (None: nowhere); how many IKE SAs were asked to move, and
    how many have peers that don't know how."""
    connection.redirect_to = target
    if target is None:
        return 0, 0
    standing = [sa for sa in connection.ike_sas() if sa.usable]
    able = [sa for sa in standing if sa.manners.peer_follows]
    for sa in able:
        sa.start(SendAway(target), now)
    return len(able), len(standing) - len(able)
