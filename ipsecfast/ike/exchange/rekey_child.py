"""Rekeying a Child SA (RFC 7296 s1.3.3, s2.8) and what happens when both ends do it at once (s2.8.1, s2.25.1).

    HDR, SK {N(REKEY_SA), [N(USE_TRANSPORT_MODE)], SA, Ni, [KEi], TSi, TSr}  -->
                             <--  HDR, SK {[N(USE_TRANSPORT_MODE)], SA, Nr, [KEr], TSi, TSr}
    HDR, SK {D(old)}  -->
                             <--  HDR, SK {D(old)}

The initiator sends on the new SA from the response on. The responder receives on it before it answers, and sends on it
when the initiator did, or deletes the old one: so at no moment does a packet meet an SA that is not there yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipsecfast.ike.child import ChildSa, ChildState
from ipsecfast.ike.constants import (
    ESP_SPI_LENGTH,
    ChildSaNotFound,
    InvalidSyntax,
    NotifyError,
    NotifyType,
    TemporaryFailure,
)
from ipsecfast.ike.exchange.base import Request, error_code
from ipsecfast.ike.exchange.child_exchange import ChildExchange, admit_child, answer_child
from ipsecfast.ike.exchange.ike_followup_ke import TEMPORARY
from ipsecfast.ike.exchange.informational import DeleteChild
from ipsecfast.ike.states import Cause
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import NotifyPayload, Payload
from ipsecfast.ike.work import Steps
from ipsecfast.model import ProtocolId

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


class RekeyChild(ChildExchange):
    """The initiator's side."""

    def __init__(self, old: ChildSa) -> None:
        super().__init__(old.config)
        self.old = old

    def create(self, sa: IkeSa, now: float) -> Steps[Request]:
        if not self.old.live or self.old.unwanted:  # the peer rekeyed or deleted it meanwhile, or we will
            return None
        spi = self.old.spi_in.to_bytes(ESP_SPI_LENGTH, "big")  # s1.3.3: the one that we receive on
        self.old.state = ChildState.REKEYING
        payloads = yield from self.propose(
            sa, now, NotifyPayload(NotifyType.REKEY_SA, b"", ProtocolId.ESP, spi), old=self.old
        )
        if payloads is None:
            self.old.state = ChildState.INSTALLED
        return payloads

    def created(self, sa: IkeSa, child: ChildSa, now: float) -> None:
        """s2.8.1: of two successors that with the lowest of the four nonces goes, deleted by the end that made it."""
        old, theirs = self.old, self.old.collision
        if theirs is not None and min(child.nonces) < min(theirs.nonces):
            sa.install(child, activate=False, replaces=old)
            child.state = ChildState.REDUNDANT
            old.successor = theirs
            if old.state == ChildState.REKEYING:
                old.state = ChildState.REKEYED
            sa.start(DeleteChild(child, Cause.REKEYED), now, first=True)
            _end_too(sa, old, theirs, now)
            return
        if theirs is not None and theirs.live:
            theirs.state = ChildState.REDUNDANT
        sa.install(child, activate=True, replaces=old)
        old.successor = child
        if old.state == ChildState.REKEYING:
            old.state = ChildState.REKEYED
            sa.start(DeleteChild(old, Cause.REKEYED), now, first=True)
        _end_too(sa, old, child, now)

    def vanished(self, sa: IkeSa, now: float) -> None:
        """Then the old one isn't wanted either; we began the rekey, so its DELETE is ours to send."""
        if self.old.state == ChildState.REKEYING:
            self.old.state = ChildState.REKEYED
            sa.start(DeleteChild(self.old, Cause.PEER_DELETED), now, first=True)

    def refused(self, sa: IkeSa, error: NotifyError, text: str, now: float) -> None:
        old, code = self.old, error_code(error)
        if old.state != ChildState.REKEYING:
            return  # the peer's own rekey or DELETE has settled it
        if old.collision is not None:  # s2.25.1: ours came too late; the peer's successor stands
            old.state, old.successor = ChildState.REKEYED, old.collision
            _end_too(sa, old, old.collision, now)
        elif code == NotifyType.CHILD_SA_NOT_FOUND:
            sa.lost_child(old, now)
        else:
            old.state = ChildState.INSTALLED
            temporary = code in TEMPORARY
            sa.retry_rekey(old, now, soon=temporary)
            if not temporary:
                sa.report("rekey-failed", f"{old.config.name}: rekey failed: {text}", error.mismatch, now, child=old)

    def abandoned(self, sa: IkeSa, now: float) -> None:
        super().abandoned(sa, now)
        if self.old.state == ChildState.REKEYING and sa.closed:
            self.old.state = ChildState.INSTALLED


def _end_too(sa: IkeSa, old: ChildSa, new: ChildSa, now: float) -> None:
    """The old one was to go already while its successor was on its way."""
    if old.unwanted:
        sa.delete_child(new, old.unwanted, now)


def respond(sa: IkeSa, rekeyed: NotifyPayload, message: Message, now: float) -> Steps[Sequence[Payload]]:
    """The responder's side; `rekeyed` names the SA by the SPI that the peer receives on, our outbound one."""
    if rekeyed.protocol != ProtocolId.ESP or len(rekeyed.spi) != ESP_SPI_LENGTH:
        raise InvalidSyntax("REKEY_SA names no ESP SA")
    old = _find(sa, rekeyed)

    def created(child: ChildSa, now: float) -> None:
        # s2.8: inbound before the response leaves, outbound on FirstInbound or with the DELETE of the old one.
        del now
        sa.install(child, activate=False, replaces=old)
        if old.state == ChildState.REKEYING:
            old.collision = child  # s2.25.1: as usual; the response to our own rekey brings the other two nonces
        else:
            old.state, old.successor = ChildState.REKEYED, child

    return answer_child(sa, message, now, lambda: _find(sa, rekeyed), created)


def _find(sa: IkeSa, rekeyed: NotifyPayload) -> ChildSa:
    admit_child(sa)
    if sa.rekey_unsettled:  # s2.8.2: the Child SAs may come to this IKE SA in a moment
        raise TemporaryFailure("the IKE SA was rekeyed by both ends at once")
    old = sa.child_by_outbound(int.from_bytes(rekeyed.spi, "big"))
    if old is None:
        if isinstance(sa.current, ChildExchange):  # it may be what the response on its way to us has made
            raise TemporaryFailure("a Child SA is being negotiated")
        raise ChildSaNotFound(f"no Child SA has the outbound SPI {rekeyed.spi.hex()}", rekeyed.spi)
    if not old.live or old.unwanted or old.collision is not None:  # s2.25.1: it has a successor, or we are closing it
        raise TemporaryFailure(f"the Child SA {old.spi_in:08x} is {old.state.value}")
    return old
