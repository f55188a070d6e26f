"""INFORMATIONAL (RFC 7296 s1.4): deletes, liveness, error notifies.

HDR, SK {[N,] [D,] ...}  -->
                         <--  HDR, SK {[N,] [D,] ...}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipsecfast.ike.child import ChildSa, ChildState
from ipsecfast.ike.constants import (
    ESP_SPI_LENGTH,
    ExchangeType,
    NotifyError,
    NotifyType,
    error_meaning,
    is_error,
    notify_name,
)
from ipsecfast.ike.exchange.base import Exchange
from ipsecfast.ike.extension import auth_lifetime, redirect, resumption
from ipsecfast.ike.extension.quick_crash import replace_token
from ipsecfast.ike.states import Cause, IkeState
from ipsecfast.ike.succession import settle_rekey
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import DeletePayload, NotifyPayload, Payload
from ipsecfast.model import ProtocolId

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

# Errors that the peer tells of an established IKE SA: it is of no use any more (s2.21.2, s2.21.3).
FATAL = frozenset({NotifyType.AUTHENTICATION_FAILED, NotifyType.INVALID_SYNTAX})


class Liveness(Exchange):
    """s2.4: an empty request; that it is answered is all we want to know."""

    type = ExchangeType.INFORMATIONAL
    states = frozenset({IkeState.ESTABLISHED})
    moves = False

    def request(self, sa: IkeSa, now: float) -> Sequence[Payload]:
        return ()

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        """The window has noted that the peer lives."""


class Report(Exchange):
    """An error notify of its own (s1.5, s2.21.2): `fatal` ends the IKE SA once it is answered."""

    type = ExchangeType.INFORMATIONAL
    states = frozenset({IkeState.ESTABLISHED, IkeState.DELETING})

    def __init__(self, notify: NotifyPayload, *, fatal: bool = False) -> None:
        self.notify = notify
        self.fatal = fatal

    def request(self, sa: IkeSa, now: float) -> Sequence[Payload]:
        return (self.notify,)

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        if self.fatal:
            sa.close(Cause.REFUSED, now)

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        if self.fatal:  # it was heard, whatever the answer says
            sa.close(Cause.REFUSED, now)


class DeleteIke(Exchange):
    """s1.4.1: the IKE SA and with it all its Child SAs."""

    type = ExchangeType.INFORMATIONAL
    states = frozenset({IkeState.ESTABLISHED, IkeState.REKEYED})
    moves = False

    def __init__(self, cause: Cause) -> None:
        self.cause = cause

    def request(self, sa: IkeSa, now: float) -> Sequence[Payload]:
        sa.state = IkeState.DELETING
        return (DeletePayload(ProtocolId.IKE),)

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        sa.close(self.cause, now)

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        sa.close(self.cause, now)  # an authentic answer, if a malformed one: the DELETE arrived


class DeleteChild(Exchange):
    """s1.4.1: our inbound SPI; the response names the peer's. Then both halves are gone."""

    type = ExchangeType.INFORMATIONAL
    states = frozenset({IkeState.ESTABLISHED})

    def __init__(self, child: ChildSa, cause: Cause) -> None:
        self.child = child
        self.cause = cause

    def request(self, sa: IkeSa, now: float) -> Sequence[Payload] | None:
        if self.child.state == ChildState.CLOSED:
            return None
        self.child.state = ChildState.DELETING
        sa.context.children.stand_aside(self.child)
        return (_delete_esp(self.child.spi_in),)

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        sa.close_child(self.child, self.cause, now)

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        sa.close_child(self.child, self.cause, now)


class DeleteOffered(Exchange):
    """A Child SA that we can't take (s1.3.1, s2.9): it only exists at the peer, under the SPI that we offered."""

    type = ExchangeType.INFORMATIONAL
    states = frozenset({IkeState.ESTABLISHED})

    def __init__(self, spi: int) -> None:
        self.spi = spi

    def request(self, sa: IkeSa, now: float) -> Sequence[Payload]:
        return (_delete_esp(self.spi),)

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        sa.context.children.spis.release(self.spi)

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        sa.context.children.spis.release(self.spi)

    def abandoned(self, sa: IkeSa, now: float) -> None:
        sa.context.children.spis.release(self.spi)


def _delete_esp(*spis: int) -> DeletePayload:
    return DeletePayload(ProtocolId.ESP, tuple(spi.to_bytes(ESP_SPI_LENGTH, "big") for spi in spis))


def respond(sa: IkeSa, message: Message, now: float) -> Sequence[Payload]:
    """Whatever the peer reports or deletes; an empty request is a liveness check and gets an empty response."""
    deletes = message.all(DeletePayload)
    if any(d.protocol == ProtocolId.IKE for d in deletes):
        return _peer_deletes_ike(sa, now)
    for notify in message.all(NotifyPayload):
        _reported(sa, notify, now)
        if sa.state == IkeState.CLOSED:
            return ()
    auth_lifetime.obey(sa, message, now)
    spis = [spi for d in deletes if d.protocol == ProtocolId.ESP for spi in d.spis]
    deleted = _peer_deletes_children(sa, spis, now) if spis else ()
    return (*deleted, *resumption.grant(sa, message))


def respond_closing(sa: IkeSa, message: Message, now: float) -> Sequence[Payload]:
    """While the IKE SA goes: its DELETE from the other end, liveness; Child SAs go with it (s2.25.2)."""
    if any(d.protocol == ProtocolId.IKE for d in message.all(DeletePayload)):
        return _peer_deletes_ike(sa, now)
    return ()


def _peer_deletes_ike(sa: IkeSa, now: float) -> Sequence[Payload]:
    """Answered with an empty response, and the IKE SA is gone; our own DELETE or rekey is forgotten (s2.25.2)."""
    settle_rekey(sa, now)  # s2.8.2: after a rekey the Child SAs live on
    if sa.state == IkeState.REKEYED or sa.redundant or sa.rekey_unsettled:
        sa.close(Cause.REKEYED, now)
    elif sa.state == IkeState.DELETING:
        sa.close(sa.closing or Cause.REKEYED, now)
    else:
        sa.close(sa.closing or (Cause.REDIRECTED if sa.manners.sent_away else Cause.PEER_DELETED), now)
    return ()


def _peer_deletes_children(sa: IkeSa, spis: Sequence[bytes], now: float) -> Sequence[Payload]:
    """s1.4.1: the SPIs are our outbound ones; the response names the inbound SA of each pair, but not of a pair whose
    DELETE we have sent ourselves."""
    ours = []
    for spi in dict.fromkeys(spis):
        number = int.from_bytes(spi, "big")
        child = sa.child_by_outbound(number)
        if child is None:  # s1.4.1: deleted before; or made for a request whose response we don't have yet
            if sa.current is not None:
                sa.current.peer_deleted(number)
            continue
        if child.state != ChildState.DELETING:
            ours.append(child.spi_in)
        replaced = child.state in (ChildState.REKEYED, ChildState.REDUNDANT) or child.collision is not None
        sa.close_child(child, Cause.REKEYED if replaced else Cause.PEER_DELETED, now)
    return (_delete_esp(*ours),) if ours else ()


def _reported(sa: IkeSa, notify: NotifyPayload, now: float) -> None:
    """An error notify in a request of its own. Status notifies that we don't know mean nothing to us (s3.10.1)."""
    if notify.notify_type == NotifyType.QUICK_CRASH_DETECTION:
        replace_token(sa, notify)
    elif notify.notify_type == NotifyType.REDIRECT:
        redirect.leave(sa, notify, now)
    if not is_error(notify.notify_type):
        return
    name, meaning = notify_name(notify.notify_type), error_meaning(notify.notify_type)
    sa.note("peer-error", f"the peer reports {name}: {meaning}", warning=True)
    if notify.notify_type in FATAL:
        sa.close(Cause.REFUSED, now)
    elif notify.notify_type == NotifyType.INVALID_SPI and len(notify.data) == ESP_SPI_LENGTH:
        # s1.5, authentic: the peer lost a Child SA that we use. If it did, CHILD_SA_NOT_FOUND makes us start anew. A
        # young one it may not have had yet when our first packet came.
        child = sa.child_by_outbound(int.from_bytes(notify.data, "big"))
        if child is not None and now - child.established_at >= sa.context.settings.retry[0]:
            sa.rekey_child(child, now)
