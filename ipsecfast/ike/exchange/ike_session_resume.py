"""IKE_SESSION_RESUME (RFC 5723 s4.3) in place of IKE_SA_INIT: no key exchange, the keys come from those of before.

HDR(A,0), [N(COOKIE)], Ni, N(TICKET_OPAQUE), N(NAT_DETECTION_*), [N(IKEV2_FRAGMENTATION_SUPPORTED)]  -->
                         <--  HDR(A,B), Nr, N(NAT_DETECTION_*), [N(IKEV2_FRAGMENTATION_SUPPORTED)]
HDR, SK {IDi, IDr, AUTH, SAi2, TSi, TSr, [N(TICKET_REQUEST)]}  -->
                         <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr, [N(TICKET_LT_OPAQUE)]}

A gateway that does not take the ticket answers N(TICKET_NACK), and IKE_SA_INIT follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipsecfast.configured import ChildConfig
from ipsecfast.ike.constants import (
    ExchangeType,
    InvalidSyntax,
    NotifyError,
    NotifyType,
    PayloadType,
)
from ipsecfast.ike.crypto.keymat import derive_resumed_ike_keys
from ipsecfast.ike.crypto.suite import Suite
from ipsecfast.ike.exchange.base import Exchange, require
from ipsecfast.ike.exchange.child_offer import ChildOffer
from ipsecfast.ike.exchange.ike_auth import Authentication
from ipsecfast.ike.exchange.ike_sa_init import (
    MAX_RESTARTS,
    IkeSaInit,
    agree_on_fragmentation,
    detect_nat,
    fragmentation_offer,
    nat_detection,
    use_nat_port,
)
from ipsecfast.ike.extension import redirect, resumption
from ipsecfast.ike.extension.quick_crash import own_token, take_token
from ipsecfast.ike.extension.resumption import Ticket
from ipsecfast.ike.extension.tickets import Session, fingerprint, unseal
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.wire.message import ZERO_SPI, Message
from ipsecfast.ike.wire.payloads import IdPayload, NoncePayload, NotifyPayload, Payload
from ipsecfast.model import Acquire

if TYPE_CHECKING:
    from ipsecfast.ike.connection import Connection
    from ipsecfast.ike.sa import IkeSa


class IkeSessionResume(Exchange):
    """The initiator's side."""

    type = ExchangeType.IKE_SESSION_RESUME
    states = frozenset({IkeState.CONNECTING})

    def __init__(self, child: ChildConfig, packet: Acquire | None, ticket: Ticket) -> None:
        self.child = child
        self.packet = packet
        self._ticket = ticket
        self._cookie: NotifyPayload | None = None
        self._nonce = b""
        self._restarts = 0

    def request(self, sa: IkeSa, now: float) -> Sequence[Payload]:
        self._nonce = self._nonce or sa.context.nonce()
        return (
            *((self._cookie,) if self._cookie else ()),
            NoncePayload(self._nonce),
            NotifyPayload(NotifyType.TICKET_OPAQUE, self._ticket.opaque),
            *nat_detection(sa, ZERO_SPI),
            *fragmentation_offer(sa),
            *redirect.offer(sa),
        )

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        """As with IKE_SA_INIT anyone on the path could have made this; any refusal leads to IKE_SA_INIT (s4.3.2)."""
        if (cookie := message.notify(NotifyType.COOKIE)) and self._restarts < MAX_RESTARTS:
            self._cookie = NotifyPayload(NotifyType.COOKIE, cookie.data)
            self._restarts += 1
            sa.restart(self)
        elif away := message.notify(NotifyType.REDIRECT):
            redirect.in_init(sa, away, self._nonce, now)
        elif message.notify(NotifyType.TICKET_NACK) or message.errors() or cookie:
            sa.note("resume-refused", "the peer does not take our ticket: a full negotiation follows")
            sa.restart(IkeSaInit(self.child, self.packet))
        else:
            self._accept(sa, message, now)

    def _accept(self, sa: IkeSa, message: Message, now: float) -> None:
        nonce = require(message, NoncePayload).data
        if message.spi_r == ZERO_SPI:
            raise InvalidSyntax("the peer has no SPI")
        sa.spi_r = message.spi_r
        resume(sa, self._ticket.session, (self._nonce, nonce))
        detect_nat(sa, message)
        agree_on_fragmentation(sa, message)
        use_nat_port(sa)
        sa.request_concluded()
        sa.proceed(ResumedAuth(self.child, self.packet), now)

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        sa.context.complain(now, "bad-response", f"{sa}: response passed over: {error}", "resume-response")

    def abandoned(self, sa: IkeSa, now: float) -> None:
        sa.unserved.append((self.child, self.packet))


class ResumedAuth(Authentication):
    """The initiator's IKE_AUTH: the identities of the ticket, and no certificates (s4.3.3)."""

    def request(self, sa: IkeSa, now: float) -> Sequence[Payload] | None:
        session = resumed_session(sa)
        self._offer = ChildOffer.make(sa, self.child, ke=False, packet=self.packet)
        if self._offer is None:
            sa.fail(now, "all inbound SPIs are in use")
            return None
        return (
            IdPayload(PayloadType.IDi, session.id_i),
            IdPayload(PayloadType.IDr, session.id_r),
            resumption.prove(sa),
            *own_token(sa),
            *self._offer.payloads(),
            *resumption.ask(sa),
        )

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        self.raise_fatal(message)
        resumption.verify(sa, resumed_session(sa), message)
        sa.peer_token = take_token(message)
        self.stands(sa, message, now)


def resumed_session(sa: IkeSa) -> Session:
    assert sa.session.resumed is not None
    return sa.session.resumed


def respond(sa: IkeSa, message: Message, now: float) -> Sequence[Payload]:
    """The responder's side. A ticket that can't be taken is no error: the initiator has another way."""
    opaque = message.notify(NotifyType.TICKET_OPAQUE)
    nonce_i = require(message, NoncePayload).data
    session = unseal(sa.context, opaque.data) if opaque is not None else None
    connection = _connection(sa, session) if session is not None else None
    if session is None or connection is None:
        return (NotifyPayload(NotifyType.TICKET_NACK),)
    sa.context.ike_sas.assign(sa, connection)
    nonce_r = sa.context.nonce()
    sa.spi_i, sa.spi_r = message.spi_i, sa.own_spi
    resume(sa, session, (nonce_i, nonce_r))
    redirect.note_support(sa, message)
    detect_nat(sa, message)
    agree_on_fragmentation(sa, message)
    return (
        NoncePayload(nonce_r),
        *nat_detection(sa, sa.spi_r),
        *(fragmentation_offer(sa) if sa.fragments_in else ()),
    )


def _connection(sa: IkeSa, session: Session) -> Connection | None:
    """The connection that the ticket was given for, as long as it is configured as it was; None: not here, not any
    more, or not a second time."""
    if session in sa.context.spent or session.expires <= sa.context.wall_clock().timestamp():
        return None
    found = next((c for c in sa.candidates if c.config.name == session.connection and c.config.resumption), None)
    if found is None or not found.takes(session.proposal) or fingerprint(found.config) != session.fingerprint:
        return None
    return found


def resume(sa: IkeSa, session: Session, nonces: tuple[bytes, bytes]) -> None:
    """s5.1: all keys from the old SK_d and the nonces."""
    suite = Suite.of(session.proposal)
    sa.nonces, sa.session.resumed = nonces, session
    sa.quantum_resistant = session.quantum_resistant
    keys = derive_resumed_ike_keys(suite.prf, session.sk_d, suite.encr, suite.integ, *nonces, sa.spi_i, sa.spi_r)
    sa.install_keys(suite, keys)
