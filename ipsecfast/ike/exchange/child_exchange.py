"""CREATE_CHILD_SA as far as new Child SAs and rekeyed ones are alike (RFC 7296 s1.3.1, s1.3.3), both roles."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ipsecfast.configured import ChildConfig
from ipsecfast.ike.child import ChildSa
from ipsecfast.ike.constants import InvalidKePayload, InvalidSyntax, NotifyError, NotifyType, TemporaryFailure
from ipsecfast.ike.crypto.primitives import KeyExchange
from ipsecfast.ike.exchange import key_exchange
from ipsecfast.ike.exchange.base import Request, error_code, require
from ipsecfast.ike.exchange.child_offer import (
    ChildOffer,
    ChildRequest,
    ChildTerms,
    agree,
    answer_payloads,
    build_child,
    outbound_spi,
)
from ipsecfast.ike.exchange.ike_followup_ke import KeyedExchange, hold
from ipsecfast.ike.exchange.informational import DeleteOffered
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import KePayload, NoncePayload, Payload, SaPayload
from ipsecfast.ike.wire.proposal import additional_groups, key_exchange_groups
from ipsecfast.ike.work import Steps
from ipsecfast.model import Acquire, Proposal

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


MAX_DELETED = 64  # SPIs that a peer can delete before they are made: one of them is meant


class ChildExchange(KeyedExchange):
    """The initiator's side: offer, nonce, key exchange where a proposal has one, once more with the peer's group."""

    def __init__(self, child: ChildConfig) -> None:
        super().__init__()
        self.child = child
        self.offer: ChildOffer | None = None
        self.deleted: set[int] = set()  # unknown SPIs that the peer deleted meanwhile: the response may name one
        self._group: int | None = None
        self._nonce = b""
        self._key_exchange: KeyExchange | None = None
        self._agreed: tuple[ChildTerms, bytes, bytes] | None = None  # with Nr and g^ir

    def propose(
        self,
        sa: IkeSa,
        now: float,
        *before: Payload,
        packet: Acquire | None = None,
        single: bool = False,
        old: ChildSa | None = None,
        beside: ChildSa | None = None,
        resource: int = 0,
    ) -> Steps[Request]:
        """`before`, then the offer. None when no SPI is free."""
        self.offer = ChildOffer.make(
            sa, self.child, ke=True, packet=packet, single=single, old=old, beside=beside, resource=resource
        )
        if self.offer is None:
            sa.child_refused(self.child, "all inbound SPIs are in use", now)
            return None
        offer = self.offer
        self._nonce = sa.context.nonce()
        ke = yield from self._ke_payload(sa, offer)
        return (*before, *offer.payloads(NoncePayload(self._nonce), *ke))

    def _ke_payload(self, sa: IkeSa, offer: ChildOffer) -> Steps[tuple[Payload, ...]]:
        groups = key_exchange_groups(offer.proposals)
        if not groups:
            self._key_exchange = None
            return ()
        self._key_exchange, _ = yield from key_exchange.generate(sa.context, self._group or groups[0])
        return (KePayload(self._key_exchange.group, self._key_exchange.public),)

    def agree(self, sa: IkeSa, message: Message, now: float) -> Steps[tuple[tuple[int, ...], float]]:
        assert self.offer is not None
        try:
            terms = self.offer.accept(sa, message)
            nonce = require(message, NoncePayload).data
            shared, now = yield from self._shared_secret(terms.proposal, message, now)
        except NotifyError:
            if message.get(SaPayload) is not None:  # the peer has it installed
                self.take_back(sa, now)
            raise
        self._agreed = terms, nonce, shared
        return additional_groups((terms.proposal,)), now

    def complete(self, sa: IkeSa, additional: bytes, now: float) -> None:
        assert self._agreed is not None
        terms, nonce, shared = self._agreed
        if terms.spi_out in self.deleted:  # its response came later than its DELETE
            self._release(sa)
            self.vanished(sa, now)
            return
        try:
            outbound_spi(sa, terms.proposal, terms.reqid)  # still nobody else's, after the key exchanges in between
        except NotifyError:
            self.take_back(sa, now)
            raise
        self.offer = None  # its SPI is the Child SA's now
        nonces = self._nonce, nonce
        self.created(sa, build_child(sa, terms, nonces, shared, additional, initiator=True, now=now), now)

    def take_back(self, sa: IkeSa, now: float) -> None:
        assert self.offer is not None
        sa.start(DeleteOffered(self.offer.spi), now, first=True)
        self.offer = None

    def _shared_secret(self, proposal: Proposal, message: Message, now: float) -> Steps[tuple[bytes, float]]:
        """g^ir (new) of s2.17 when the responder chose a group, else nothing."""
        groups = key_exchange_groups((proposal,))
        if not groups:
            return b"", now
        ke = require(message, KePayload)
        if self._key_exchange is None or ke.group != self._key_exchange.group or ke.group not in groups:
            raise InvalidSyntax(f"the peer answered with key exchange group {ke.group}, which we did not send")
        return (yield from key_exchange.shared_secret(self._key_exchange, ke.data))

    @abstractmethod
    def created(self, sa: IkeSa, child: ChildSa, now: float) -> None:
        """The peer has the new Child SA installed; it is not installed here yet."""

    @abstractmethod
    def vanished(self, sa: IkeSa, now: float) -> None:
        """The peer made the new Child SA and deleted it again before we heard of it."""

    @abstractmethod
    def refused(self, sa: IkeSa, error: NotifyError, text: str, now: float) -> None:
        """No Child SA, and asking again at once would not change it. `text` says what both sides want."""

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        text = f"{error}; we offered {self.offer}" if self.offer else str(error)
        if self.offer and error.mismatch is None:
            error.about(self.offer.refusal(error_code(error)))
        offered = self.offer.proposals if self.offer else ()
        self._release(sa)
        if error_code(error) == NotifyType.INVALID_KE_PAYLOAD and self._group is None:
            group = int.from_bytes(error.notify_data, "big")
            if group in key_exchange_groups(offered):
                self._group = group
                sa.start(self, now, first=True)
                return
        self.refused(sa, error, text, now)

    def peer_deleted(self, spi: int) -> None:
        if len(self.deleted) < MAX_DELETED:
            self.deleted.add(spi)

    def abandoned(self, sa: IkeSa, now: float) -> None:
        self._release(sa)

    def _release(self, sa: IkeSa) -> None:
        self._begin_anew()
        if self.offer is not None:
            sa.context.children.spis.release(self.offer.spi)
            self.offer = None


def admit_child(sa: IkeSa) -> None:
    """Whether the peer may make a Child SA now (s2.25.2)."""
    if sa.closing is not None:
        raise TemporaryFailure("this IKE SA is about to be closed")
    if sa.reauth.superseded_at is not None:
        raise TemporaryFailure("another IKE SA takes the place of this one")
    if sa.begins_rekey:
        raise TemporaryFailure("the IKE SA is being rekeyed")


def answer_child(
    sa: IkeSa,
    message: Message,
    now: float,
    admit: Callable[[], ChildSa | None],
    created: Callable[[ChildSa, float], None],
) -> Steps[Sequence[Payload]]:
    """The responder's side: the payloads of the response. `admit` says whether it may be, and which Child SA the new
    one is to replace; `created` gets the new one, not installed yet, after the additional key exchanges if there are
    any. What was admitted before them must still be so after them.

    Raises:
        NoProposalChosen, TsUnacceptable, InvalidKePayload, NoAdditionalSas, InvalidSyntax, and what `admit` raises.
    """
    old = admit()
    nonce_i = require(message, NoncePayload).data
    request = ChildRequest.parse(sa, message)
    terms = agree(sa, request, ke=True, old=old)
    try:
        (ke, shared), now = yield from _answer_key_exchange(sa, terms, message, now)
        _still_agreed(sa, terms, admit, old)
    except BaseException:  # the IKE SA may be closed while the work is waited for
        sa.context.children.spis.release(terms.spi_in)
        raise
    nonce_r = sa.context.nonce()
    payloads = answer_payloads(request, terms, NoncePayload(nonce_r), *ke)

    def make(additional: bytes, now: float) -> None:
        nonces = nonce_i, nonce_r
        created(build_child(sa, terms, nonces, shared, additional, initiator=False, now=now), now)

    def finish(additional: bytes, now: float) -> None:
        _still_agreed(sa, terms, admit, old)
        make(additional, now)

    groups = additional_groups((terms.proposal,))
    if not groups:
        make(b"", now)
        return payloads
    return (*payloads, hold(sa, groups, finish, lambda: sa.context.children.spis.release(terms.spi_in), now))


def _still_agreed(sa: IkeSa, terms: ChildTerms, admit: Callable[[], ChildSa | None], old: ChildSa | None) -> None:
    """After a wait: the new Child SA may still be, and replaces the same one as before."""
    if admit() is not old:
        raise TemporaryFailure("the Child SA to be replaced is another one now")
    outbound_spi(sa, terms.proposal, terms.reqid)


def _answer_key_exchange(
    sa: IkeSa, terms: ChildTerms, message: Message, now: float
) -> Steps[tuple[tuple[tuple[Payload, ...], bytes], float]]:
    """KEr and g^ir where the chosen proposal has a group (s1.3.1)."""
    groups = key_exchange_groups((terms.proposal,))
    if not groups:
        return ((), b""), now
    ke = message.get(KePayload)
    if ke is None or ke.group != groups[0]:
        sent = f"group {ke.group}" if ke else "no key exchange"
        raise InvalidKePayload(groups[0], f"the peer sent {sent}, we take group {groups[0]}")
    (public, shared), now = yield from key_exchange.respond(sa.context, ke.group, ke.data)
    return ((KePayload(ke.group, public),), shared), now
