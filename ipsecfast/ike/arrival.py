"""What has arrived for an IKE SA, opened: it is handled at once, or held while another message's work is under way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipsecfast.ike.actions import Notify
from ipsecfast.ike.constants import (
    AuthenticationFailed,
    ExchangeType,
    InvalidKePayload,
    InvalidSyntax,
    NotifyError,
    TemporaryFailure,
)
from ipsecfast.ike.context import INFO, WARNING
from ipsecfast.ike.states import IkeState, Role
from ipsecfast.ike.wire.message import Header, Message
from ipsecfast.model import Path

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


@dataclass(frozen=True, slots=True)
class Arrived:
    """An authentic message, or what is wrong with an authentic one; `datagram` stands for it in the window."""

    header: Header
    message: Message | NotifyError
    datagram: bytes
    path: Path


def role_of(header: Header) -> Role:
    """Ours, in the exchange that the message belongs to."""
    return Role.INITIATOR if header.is_response else Role.RESPONDER


def is_fatal(state: IkeState, error: NotifyError) -> bool:
    """RFC 7296 s2.21.2: any error ends an IKE SA that is not authenticated, s2.21.3: INVALID_SYNTAX one that is."""
    return state is IkeState.CONNECTING or isinstance(error, (InvalidSyntax, AuthenticationFailed))


def tell_refusal(sa: IkeSa, exchange: int, error: NotifyError, now: float) -> None:
    """What we answer with an error, for the log; before the peer is authenticated at a limited rate."""
    name = ExchangeType(exchange).name
    text = f"{sa}: {name} request answered with {error.notify_type.name}: {error}"
    level = INFO if isinstance(error, (InvalidKePayload, TemporaryFailure)) else WARNING
    if level == WARNING:
        text = sa.record("request-refused", text, now, error.mismatch)
    if sa.state is IkeState.CONNECTING:
        sa.context.complain(now, "request-refused", text, f"{name} {sa.path.remote}", level)
    else:
        sa.context.emit(Notify("request-refused", text, level, sa.connection.config.name, key=name))
