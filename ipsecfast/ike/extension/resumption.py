"""Session resumption (RFC 5723): how tickets are asked for, given and kept, and what proves an IKE SA that is resumed.

    HDR, SK {IDi, ..., AUTH, SAi2, TSi, TSr, N(TICKET_REQUEST)}  -->
                             <--  HDR, SK {IDr, ..., AUTH, SAr2, TSi, TSr, N(TICKET_LT_OPAQUE)}

After a rekey the ticket of the old IKE SA is replaced by one of the new: N(TICKET_REQUEST) in INFORMATIONAL (s4.1). How
a ticket is presented: `exchange.ike_session_resume`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import constant_time

from ipsecfast.ike.constants import AuthenticationFailed, AuthMethod, ExchangeType, NotifyType, PayloadType
from ipsecfast.ike.credential import certificates
from ipsecfast.ike.exchange.base import Exchange, require
from ipsecfast.ike.extension.tickets import Session, fingerprint, seal
from ipsecfast.ike.states import Cause, IkeState
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import AuthPayload, IdPayload, NotifyPayload, Payload

if TYPE_CHECKING:
    from ipsecfast.ike.connection import Connection
    from ipsecfast.ike.sa import IkeSa

LIFETIME_LENGTH = 4  # octets before the ticket in TICKET_LT_OPAQUE (s7.2)
MIN_LIFETIME = 1.0
# After these the peer may take up where it was; whoever deletes an IKE SA means it (s4.3.4).
UNINTENDED = frozenset({Cause.PEER_DEAD, Cause.PEER_RESTARTED})


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a client keeps: the gateway's octets, and what they stand for."""

    opaque: bytes = field(repr=False)
    session: Session


@dataclass(slots=True)
class SessionState:
    """Of one IKE SA. `resumed`: what it took up again; `granted`: the ticket that the peer has of it; `held`: we have
    one. `proved_at`: when the two ends proved who they are; `proved_until`: how long the peer's certificate says so."""

    resumed: Session | None = None
    granted: Session | None = None
    held: bool = False
    proved_at: float = 0.0
    proved_until: float = float("inf")


# -- IKE_AUTH as ever --------------------------------------------------------------------------------------------------


def note_proof(sa: IkeSa, message: Message) -> None:
    """The peer has just proved who it is in `message`."""
    sa.session.proved_at = sa.context.wall_clock().timestamp()
    sent = certificates.received_certificates(message)[:1]
    for certificate in sent or sa.connection.config.remote.certificates:
        sa.session.proved_until = min(sa.session.proved_until, certificate.not_valid_after_utc.timestamp())


def ask(sa: IkeSa) -> tuple[Payload, ...]:
    """s4.1."""
    return (NotifyPayload(NotifyType.TICKET_REQUEST),) if sa.connection.config.resumption else ()


def grant(sa: IkeSa, message: Message) -> tuple[Payload, ...]:
    """s4.2: a ticket, where one is asked for; TICKET_NACK where there is none to be had."""
    if message.notify(NotifyType.TICKET_REQUEST) is None:
        return ()
    lifetime = _lifetime(sa)
    if not sa.connection.config.resumption or lifetime < MIN_LIFETIME or sa.closing is not None:
        return (NotifyPayload(NotifyType.TICKET_NACK),)
    if sa.session.granted is not None:  # an IKE SA has one
        sa.context.spent.add(sa.session.granted, sa.context.wall_clock().timestamp())
    sa.session.granted = _session(sa, lifetime, holder_is_peer=True)
    data = int(lifetime).to_bytes(LIFETIME_LENGTH, "big") + seal(sa.context, sa.session.granted)
    return (NotifyPayload(NotifyType.TICKET_LT_OPAQUE, data),)


def _lifetime(sa: IkeSa) -> float:
    """s6.2: not longer than the certificate of the peer, nor than a proof of who it is may be old, nor than until it is
    to be given anew (RFC 7296 s2.8.3)."""
    settings, now = sa.context.settings, sa.context.wall_clock().timestamp()
    longest = min(settings.session_lifetime, sa.connection.config.reauth.life_time or settings.session_lifetime)
    oldest = sa.session.proved_at + longest - now
    return min(settings.ticket_lifetime, sa.session.proved_until - now, oldest)


def _session(sa: IkeSa, lifetime: float, *, holder_is_peer: bool) -> Session:
    assert sa.local_id is not None
    assert sa.remote_id is not None
    holder, giver = (sa.remote_id, sa.local_id) if holder_is_peer else (sa.local_id, sa.remote_id)
    return Session(
        connection=sa.connection.config.name,
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        id_i=holder,
        id_r=giver,
        proposal=sa.suite.proposal,
        sk_d=sa.keys.sk_d,
        fingerprint=fingerprint(sa.connection.config),
        expires=sa.context.wall_clock().timestamp() + lifetime,
        authenticated=sa.session.proved_at,
        quantum_resistant=sa.sk_d_resistant,
    )


def take(sa: IkeSa, message: Message) -> None:
    """A client keeps the ticket with what it stands for; it lasts as long as our own rules allow too."""
    notify = message.notify(NotifyType.TICKET_LT_OPAQUE)
    if notify is None or not sa.connection.config.resumption or len(notify.data) <= LIFETIME_LENGTH:
        return
    given = int.from_bytes(notify.data[:LIFETIME_LENGTH], "big")
    lifetime = min(float(given), _lifetime(sa))
    sa.session.held = True
    ticket = Ticket(notify.data[LIFETIME_LENGTH:], _session(sa, lifetime, holder_is_peer=False))
    sa.connection.ticket = ticket if lifetime >= MIN_LIFETIME else None


class RequestTicket(Exchange):
    """s4.1: for an IKE SA that a rekey made. The old ticket would lead back to the old keys."""

    type = ExchangeType.INFORMATIONAL
    states = frozenset({IkeState.ESTABLISHED})
    moves = False

    def request(self, sa: IkeSa, now: float) -> Sequence[Payload] | None:
        return ask(sa) or None

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        take(sa, message)


# -- what becomes of tickets -------------------------------------------------------------------------------------------


def usable_ticket(connection: Connection) -> Ticket | None:
    """The ticket, which is gone with that: one use (s4.3.4)."""
    ticket, connection.ticket = connection.ticket, None
    if ticket is None or ticket.session.expires <= connection.context.wall_clock().timestamp():
        return None
    return ticket


def ended(sa: IkeSa, cause: Cause) -> None:
    """An IKE SA is gone. If that was meant, its ticket is void: at the gateway, when that deleted it; a client that did
    may still come back with it, as Libreswan does after `suspend`, but ours forgets it."""
    if cause in UNINTENDED or cause is Cause.REKEYED:
        return
    ticket = sa.connection.ticket
    if ticket is not None and (ticket.session.spi_i, ticket.session.spi_r) == (sa.spi_i, sa.spi_r):
        sa.connection.ticket = None
    if sa.session.granted is not None and cause not in (Cause.DUPLICATE, Cause.PEER_DELETED):
        sa.context.spent.add(sa.session.granted, sa.context.wall_clock().timestamp())


def age_of_proof(sa: IkeSa) -> float:
    """Seconds since the two ends last proved who they are; 0 where they have just done so."""
    if sa.session.resumed is None:
        return 0.0
    return max(0.0, sa.context.wall_clock().timestamp() - sa.session.proved_at)


def inherit(old: IkeSa, new: IkeSa) -> None:
    """By a rekey: the proof stays what it was; a ticket is for one IKE SA."""
    new.session = replace(old.session, resumed=None)


def renew(sa: IkeSa, now: float) -> None:
    """The successor of an IKE SA for which we hold a ticket."""
    if sa.session.held:
        sa.start(RequestTicket(), now)


# -- IKE_AUTH of an IKE SA that is resumed (s4.3.3) --------------------------------------------------------------------


def prove(sa: IkeSa) -> AuthPayload:
    """s5.1: AUTH = prf(SK_px, our IKE_SESSION_RESUME message); nobody but who had the old IKE SA knows SK_p."""
    sk_p = sa.keys.sk_pi if sa.initiator else sa.keys.sk_pr
    return AuthPayload(AuthMethod.SHARED_KEY_MIC, sa.prf.compute(sk_p, sa.init_sent))


def verify(sa: IkeSa, session: Session, message: Message) -> None:
    """The identities are those of the ticket, and AUTH shows the keys.

    Raises:
        AuthenticationFailed: not so.
    """
    kind = PayloadType.IDr if sa.initiator else PayloadType.IDi
    identity, expected = require(message, IdPayload, kind).identity, session.id_r if sa.initiator else session.id_i
    other = message.get(IdPayload, PayloadType.IDr)
    if identity != expected or (other is not None and other.identity != session.id_r):
        raise AuthenticationFailed(f"the peer says it is {identity}, the ticket was {expected}'s")
    auth, sk_p = require(message, AuthPayload), sa.keys.sk_pr if sa.initiator else sa.keys.sk_pi
    if not constant_time.bytes_eq(sa.prf.compute(sk_p, sa.init_received), auth.data):
        raise AuthenticationFailed(f"{identity} does not have the keys of the IKE SA that it wants to resume")
    sa.local_id, sa.remote_id = (session.id_i, session.id_r) if sa.initiator else (session.id_r, session.id_i)
    sa.session.proved_at = session.authenticated


def spend(sa: IkeSa, session: Session, now: float) -> None:
    """The responder has seen the proof: the ticket is used up, and the IKE SA that it was given for silently gone.

    Raises:
        AuthenticationFailed: somebody was quicker with the same ticket.
    """
    if session in sa.context.spent:
        raise AuthenticationFailed(f"{session.id_i} uses a ticket a second time")
    sa.context.spent.add(session, sa.context.wall_clock().timestamp())
    for old in sa.context.ike_sas.between(sa.local_id, sa.remote_id):
        if (old.spi_i, old.spi_r) == (session.spi_i, session.spi_r):
            old.close(Cause.DUPLICATE, now)
