"""IKE_AUTH (RFC 7296 s1.2, s2.15): identities, their proof (`proof`), and the first Child SA.

HDR, SK {IDi, [CERT+], [N(INITIAL_CONTACT)], [CERTREQ], [IDr], AUTH, SAi2, TSi, TSr}  -->
                         <--  HDR, SK {IDr, [CERT+], AUTH, SAr2, TSi, TSr}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipsecfast.configured import ChildConfig
from ipsecfast.identity import Identity
from ipsecfast.ike import evidence
from ipsecfast.ike.constants import (
    AuthenticationFailed,
    ExchangeType,
    InvalidSyntax,
    NoAdditionalSas,
    NotifyError,
    NotifyType,
    PayloadType,
)
from ipsecfast.ike.credential import pad
from ipsecfast.ike.credential.proof import prove, verify
from ipsecfast.ike.credential.wishes import announcements, requests, take_wishes
from ipsecfast.ike.diagnosis import refused_proof
from ipsecfast.ike.exchange.base import (
    Exchange,
    PeerError,
    Request,
    error_code,
    error_notify,
    raise_for_errors,
    require,
)
from ipsecfast.ike.exchange.child_offer import (
    ChildOffer,
    ChildRequest,
    agree,
    answer_payloads,
    build_child,
    offers_child,
)
from ipsecfast.ike.exchange.create_child_sa import CreateChild
from ipsecfast.ike.exchange.informational import DeleteOffered
from ipsecfast.ike.extension import auth_lifetime, childless, ppk, redirect, resumption
from ipsecfast.ike.extension.quick_crash import own_token, take_token
from ipsecfast.ike.extension.tickets import Session
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.mismatch import Field, Mismatch
from ipsecfast.ike.wire.payloads import AuthPayload, IdPayload, NotifyPayload, Payload, SaPayload
from ipsecfast.ike.work import Steps
from ipsecfast.model import Acquire

if TYPE_CHECKING:
    from ipsecfast.ike.connection import Connection
    from ipsecfast.ike.sa import IkeSa

# s1.2: with one of these the IKE SA stands and only its first Child SA is missing.
CHILD_ERRORS = frozenset(
    {
        NotifyType.NO_PROPOSAL_CHOSEN,
        NotifyType.TS_UNACCEPTABLE,
        NotifyType.SINGLE_PAIR_REQUIRED,
        NotifyType.INTERNAL_ADDRESS_FAILURE,
        NotifyType.FAILED_CP_REQUIRED,
        NotifyType.NO_ADDITIONAL_SAS,
    }
)


class Authentication(Exchange):
    """The initiator's side, however the two ends prove who they are."""

    type = ExchangeType.IKE_AUTH
    states = frozenset({IkeState.CONNECTING})

    def __init__(self, child: ChildConfig, packet: Acquire | None) -> None:
        self.child = child
        self.packet = packet
        self._offer: ChildOffer | None = None

    @staticmethod
    def raise_fatal(message: Message) -> None:
        """What ends the IKE SA, not only the Child SA."""
        fatal = [n for n in message.errors() if n.notify_type not in CHILD_ERRORS]
        if fatal or message.get(AuthPayload) is None:
            raise_for_errors(message)

    def stands(self, sa: IkeSa, message: Message, now: float) -> None:
        """The peer is who it should be."""
        if away := redirect.in_auth(sa, message):
            self.abandoned(sa, now)
            redirect.leave_unserved(sa, away, now)
            return
        sa.establish(now, initial_contact=message.notify(NotifyType.INITIAL_CONTACT) is not None)  # s2.4: either may
        resumption.take(sa, message)
        auth_lifetime.obey(sa, message, now)
        self._child(sa, message, now)

    def _child(self, sa: IkeSa, message: Message, now: float) -> None:
        if self._offer is None:
            sa.start(CreateChild(self.child, self.packet), now, first=True)
            return
        try:
            raise_for_errors(message)
            terms = self._offer.accept(sa, message)
        except NotifyError as error:
            if message.get(SaPayload) is not None:  # the peer has it installed: take it back
                sa.start(DeleteOffered(self._offer.spi), now, first=True)
            else:
                sa.context.children.spis.release(self._offer.spi)
            if error_code(error) == NotifyType.SINGLE_PAIR_REQUIRED and self.packet is not None:
                sa.start(CreateChild(self.child, self.packet, single=True), now)
            else:
                text, why = (
                    f"{error}; we offered {self._offer}",
                    error.mismatch or self._offer.refusal(error_code(error)),
                )
                sa.child_refused(self.child, text, now, why)
            return
        child = build_child(sa, terms, sa.nonces, initiator=True, now=now)
        sa.install(child, activate=True)

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        """The IKE SA does not come about. If the fault is the peer's, it believes otherwise: tell it (s2.21.2)."""
        self.abandoned(sa, now)
        detail = ""
        if isinstance(error, PeerError) and error.code == NotifyType.AUTHENTICATION_FAILED and sa.local_id:
            detail, mismatch = refused_proof(sa.connection.config, sa.local_id)
            error.about(mismatch)
        sa.authentication_failed(error, now, detail)

    def abandoned(self, sa: IkeSa, now: float) -> None:
        if self._offer is not None:
            sa.context.children.spis.release(self._offer.spi)
        sa.unserved.append((self.child, self.packet))


class IkeAuth(Authentication):
    """The initiator's side after IKE_SA_INIT: by a secret, or by a signature and a certificate."""

    def request(self, sa: IkeSa, now: float) -> Steps[Request]:
        config = sa.connection.config
        sa.local_id = pad.local_identity(config, sa.path.local)
        sa.remote_id = pad.known_peer(config)
        id_i = IdPayload(PayloadType.IDi, sa.local_id)
        try:
            certificates, auth, with_ppk = yield from ppk.prove_initiator(sa, config, id_i, sa.remote_id, now)
        except AuthenticationFailed as error:
            sa.fail(now, str(error), error.mismatch)
            return None
        if not sa.childless:
            self._offer = ChildOffer.make(sa, self.child, ke=False, packet=self.packet)
            if self._offer is None:
                sa.fail(now, "all inbound SPIs are in use")
                return None
        return (
            id_i,
            *certificates,
            *((NotifyPayload(NotifyType.INITIAL_CONTACT),) if sa.connection.first_contact(sa) else ()),
            *requests((config,)),
            *announcements(sa, (config,)),
            *((IdPayload(PayloadType.IDr, sa.remote_id),) if sa.remote_id else ()),
            auth,
            *own_token(sa),
            *(self._offer.payloads() if self._offer else ()),
            *with_ppk,
            *resumption.ask(sa),
        )

    def response(self, sa: IkeSa, message: Message, now: float) -> Steps[None]:
        """First who the peer is (s2.15), then whether the Child SA came about too."""
        self.raise_fatal(message)
        identity = require(message, IdPayload, PayloadType.IDr).identity
        if not pad.peer_rank(sa.connection.config, identity):
            wanted = sa.connection.config.remote.identity
            text = f"the peer is {identity}, configured here as remote.id is {wanted}"
            raise AuthenticationFailed(text).about(Mismatch(Field.PEER_IDENTITY, str(wanted), str(identity), wanted))
        ppk.settle_initiator(sa, message)
        now = yield from verify(sa, sa.connection.config, message, PayloadType.IDr, now)
        sa.remote_id, sa.peer_token = identity, take_token(message)
        resumption.note_proof(sa, message)
        self.stands(sa, message, now)


def respond(sa: IkeSa, message: Message, now: float) -> Steps[Sequence[Payload]]:
    """The responder's side. A wrong proof ends the IKE SA; a Child SA that can't be does not (s1.2, s2.21.2)."""
    if sa.additional:  # RFC 9370 s2.2.2
        raise InvalidSyntax(f"IKE_AUTH before the additional key exchanges {sa.additional}")
    if sa.session.resumed is not None:
        return _respond_resumed(sa, sa.session.resumed, message, now)
    identity = require(message, IdPayload, PayloadType.IDi).identity
    sa.context.ike_sas.assign(sa, _choose_connection(sa, message, identity))
    config = sa.connection.config
    childless.admit(sa, message)
    take_wishes(sa.credentials, message)
    with_ppk, now = yield from ppk.verify_initiator(sa, config, message, now)
    sa.remote_id, sa.local_id = identity, pad.local_identity(config, sa.path.local)
    id_r = IdPayload(PayloadType.IDr, sa.local_id)
    (certificates, auth), now = yield from prove(sa, config, id_r, identity, now)
    initial_contact = message.notify(NotifyType.INITIAL_CONTACT) is not None
    if not (initial_contact or sa.connection.admits(sa)):  # last: another IKE SA of this peer may have come meanwhile
        raise AuthenticationFailed(f"{identity} is already connected and unique = {config.unique}")
    sa.peer_token = take_token(message)
    sa.establish(now, initial_contact=initial_contact)
    resumption.note_proof(sa, message)
    return (id_r, *certificates, auth, *own_token(sa), *_serve(sa, message, now), *with_ppk)


def _respond_resumed(sa: IkeSa, session: Session, message: Message, now: float) -> Sequence[Payload]:
    """RFC 5723 s4.3.3: who has the keys of the old IKE SA is who it was; it takes the old one's place."""
    resumption.verify(sa, session, message)
    resumption.spend(sa, session, now)
    sa.peer_token = take_token(message)
    sa.establish(now)
    id_r = IdPayload(PayloadType.IDr, session.id_r)
    return (id_r, resumption.prove(sa), *own_token(sa), *_serve(sa, message, now))


def _serve(sa: IkeSa, message: Message, now: float) -> Sequence[Payload]:
    """A Child SA and a ticket, or the way to another gateway."""
    if away := redirect.authenticated(sa, now):
        return away
    return (*_respond_child(sa, message, now), *resumption.grant(sa, message), *auth_lifetime.announce(sa, now))


def _respond_child(sa: IkeSa, message: Message, now: float) -> Sequence[Payload]:
    if message.get(SaPayload) is None:
        return ()
    try:
        request = ChildRequest.parse(sa, message)
        if sa.closing:
            raise NoAdditionalSas("this IKE SA is about to be closed")
        terms = agree(sa, request, ke=False)
    except InvalidSyntax:
        raise
    except NotifyError as error:
        sa.peer_child_refused(error, now)
        return (error_notify(error),)
    child = build_child(sa, terms, sa.nonces, initiator=False, now=now)
    evidence.install_first(sa, child, now)
    return answer_payloads(request, terms)


def _choose_connection(sa: IkeSa, message: Message, identity: Identity) -> Connection:
    """Of the connections for these addresses with this IKE proposal the one whose identities are those claimed, the
    most exact before patterns and anyone; of several the first that has a child for the selectors asked for."""
    wanted = message.get(IdPayload, PayloadType.IDr)
    matching = [c for c in sa.candidates if _is_meant(sa, c, identity, wanted) and c.takes(sa.suite.proposal)]
    if len(matching) > 1 and message.get(SaPayload) is not None:
        request = ChildRequest.parse(sa, message)
        matching.sort(key=lambda c: (-pad.peer_rank(c.config, identity), not offers_child(sa, c.config, request)))
    if matching:
        return matching[0]
    known = ", ".join(
        f"{c.config.name} (we are {pad.local_identity(c.config, sa.path.local)}, the peer "
        f"{c.config.remote.identity or 'anyone'})"
        for c in sa.candidates
    )
    asked = f", asks for {wanted.identity}" if wanted else ""
    text = f"the peer says it is {identity}{asked}; that fits no connection: {known}"
    raise AuthenticationFailed(text).about(_identity_mismatch(sa, identity, wanted))


def _identity_mismatch(sa: IkeSa, identity: Identity, wanted: IdPayload | None) -> Mismatch | None:
    """Where there is one connection only, it is clear which of the two identities is not as it should be."""
    if len(sa.candidates) > 1:
        return None
    config = sa.candidates[0].config
    if not pad.peer_rank(config, identity):
        ours = config.remote.identity
        return Mismatch(Field.PEER_IDENTITY, str(ours), str(identity), ours)
    local = pad.local_identity(config, sa.path.local)
    return Mismatch(Field.OUR_IDENTITY, str(local), str(wanted.identity) if wanted else "", local)


def _is_meant(sa: IkeSa, connection: Connection, identity: Identity, wanted: IdPayload | None) -> bool:
    names_us = wanted is None or wanted.identity.same_as(pad.local_identity(connection.config, sa.path.local))
    return names_us and pad.peer_rank(connection.config, identity) > 0
