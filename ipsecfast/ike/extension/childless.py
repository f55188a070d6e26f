"""IKE SAs without a first Child SA (RFC 6023): all of them by CREATE_CHILD_SA, each with a key exchange of its own.

                         <--  HDR, SAr1, KEr, Nr, N(CHILDLESS_IKEV2_SUPPORTED)
HDR, SK {IDi, [CERT+], [CERTREQ], [IDr], AUTH}  -->
                         <--  HDR, SK {IDr, [CERT+], AUTH}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecfast.configured import Childless
from ipsecfast.ike.constants import AuthenticationFailed, InvalidSyntax, NotifyType
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import NotifyPayload, Payload, SaPayload

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


def answer(sa: IkeSa) -> tuple[Payload, ...]:
    """s3: the responder of IKE_SA_INIT would take one."""
    allowed = any(connection.config.childless is not Childless.NEVER for connection in sa.candidates)
    return (NotifyPayload(NotifyType.CHILDLESS_IKEV2_SUPPORTED),) if allowed else ()


def take_answer(sa: IkeSa, message: Message) -> None:
    """Whether the initiator begins without a Child SA.

    Raises:
        AuthenticationFailed: it insists on that and the peer can't.
    """
    supported = message.notify(NotifyType.CHILDLESS_IKEV2_SUPPORTED) is not None
    wanted = sa.connection.config.childless
    if wanted is Childless.FORCE and not supported:
        raise AuthenticationFailed(
            'the peer takes no IKE SA without a Child SA (RFC 6023), and childless = "force" here: '
            'allow it at the peer, or write childless = "prefer"'
        )
    sa.childless = supported and wanted in (Childless.PREFER, Childless.FORCE)


def admit(sa: IkeSa, message: Message) -> None:
    """Whether the initiator of IKE_AUTH asks for a Child SA, and whether the connection has it so.

    Raises:
        InvalidSyntax: it may not do so, or must; the IKE SA ends.
    """
    asks, wanted = message.get(SaPayload) is not None, sa.connection.config.childless
    if not asks and wanted is Childless.NEVER:
        raise InvalidSyntax('no SA payload in IKE_AUTH, and childless = "never" here')
    if asks and wanted is Childless.FORCE:
        raise InvalidSyntax('the peer asks for a Child SA in IKE_AUTH, and childless = "force" here')
