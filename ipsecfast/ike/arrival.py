"""What has arrived for an IKE SA, opened: it is handled at once, or held while another message's work is under way."""

from __future__ import annotations

from dataclasses import dataclass

from ipsecfast.ike.constants import AuthenticationFailed, InvalidSyntax, NotifyError
from ipsecfast.ike.message import Header, Message
from ipsecfast.ike.states import IkeState, Role
from ipsecfast.model import Path


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
