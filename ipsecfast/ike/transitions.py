"""What is allowed in each state of an IKE SA (RFC 7296 s1.2-1.4, s2.25): (state, exchange, our role in it) -> handler.

What is absent is refused. A request's handler returns the payloads of the response, or a generator that does, where it
has to wait for something (`work`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from ipsecfast.ike.constants import IN_CLEAR, ExchangeType
from ipsecfast.ike.exchange import (
    create_child_sa,
    ike_auth,
    ike_followup_ke,
    ike_intermediate,
    ike_sa_init,
    ike_session_resume,
    informational,
)
from ipsecfast.ike.states import IkeState, Role
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import Payload
from ipsecfast.ike.work import Steps

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

Answer: TypeAlias = Sequence[Payload] | Steps[Sequence[Payload]]
Handler: TypeAlias = Callable[["IkeSa", Message, float], Answer]
# Only the original initiator begins these.
OPENING = IN_CLEAR | {ExchangeType.IKE_INTERMEDIATE, ExchangeType.IKE_AUTH}


def conclude(sa: IkeSa, message: Message, now: float) -> Answer:
    """The response belongs to the exchange that we began; it asks for none."""
    assert sa.current is not None
    steps = sa.current.response(sa, message, now)
    return _conclude(steps) if steps is not None else ()


def _conclude(steps: Steps[None]) -> Steps[Sequence[Payload]]:
    yield from steps
    return ()


TRANSITIONS: Mapping[tuple[IkeState, int, Role], Handler] = MappingProxyType(
    {
        (IkeState.CONNECTING, ExchangeType.IKE_SA_INIT, Role.RESPONDER): ike_sa_init.respond,
        (IkeState.CONNECTING, ExchangeType.IKE_SA_INIT, Role.INITIATOR): conclude,
        (IkeState.CONNECTING, ExchangeType.IKE_SESSION_RESUME, Role.RESPONDER): ike_session_resume.respond,
        (IkeState.CONNECTING, ExchangeType.IKE_SESSION_RESUME, Role.INITIATOR): conclude,
        (IkeState.CONNECTING, ExchangeType.IKE_INTERMEDIATE, Role.RESPONDER): ike_intermediate.respond,
        (IkeState.CONNECTING, ExchangeType.IKE_INTERMEDIATE, Role.INITIATOR): conclude,
        (IkeState.CONNECTING, ExchangeType.IKE_AUTH, Role.RESPONDER): ike_auth.respond,
        (IkeState.CONNECTING, ExchangeType.IKE_AUTH, Role.INITIATOR): conclude,
        (IkeState.ESTABLISHED, ExchangeType.CREATE_CHILD_SA, Role.RESPONDER): create_child_sa.respond,
        (IkeState.ESTABLISHED, ExchangeType.CREATE_CHILD_SA, Role.INITIATOR): conclude,
        (IkeState.ESTABLISHED, ExchangeType.IKE_FOLLOWUP_KE, Role.RESPONDER): ike_followup_ke.respond,
        (IkeState.ESTABLISHED, ExchangeType.IKE_FOLLOWUP_KE, Role.INITIATOR): conclude,
        (IkeState.ESTABLISHED, ExchangeType.INFORMATIONAL, Role.RESPONDER): informational.respond,
        (IkeState.ESTABLISHED, ExchangeType.INFORMATIONAL, Role.INITIATOR): conclude,
        (IkeState.REKEYED, ExchangeType.CREATE_CHILD_SA, Role.RESPONDER): create_child_sa.respond_closing,
        (IkeState.REKEYED, ExchangeType.CREATE_CHILD_SA, Role.INITIATOR): conclude,
        (IkeState.REKEYED, ExchangeType.IKE_FOLLOWUP_KE, Role.RESPONDER): create_child_sa.respond_closing,
        (IkeState.REKEYED, ExchangeType.IKE_FOLLOWUP_KE, Role.INITIATOR): conclude,
        (IkeState.REKEYED, ExchangeType.INFORMATIONAL, Role.RESPONDER): informational.respond_closing,
        (IkeState.REKEYED, ExchangeType.INFORMATIONAL, Role.INITIATOR): conclude,
        (IkeState.DELETING, ExchangeType.CREATE_CHILD_SA, Role.RESPONDER): create_child_sa.respond_closing,
        (IkeState.DELETING, ExchangeType.IKE_FOLLOWUP_KE, Role.RESPONDER): create_child_sa.respond_closing,
        (IkeState.DELETING, ExchangeType.INFORMATIONAL, Role.RESPONDER): informational.respond_closing,
        (IkeState.DELETING, ExchangeType.INFORMATIONAL, Role.INITIATOR): conclude,
    }
)
