"""CREATE_CHILD_SA for a new Child SA (RFC 7296 s1.3.1), and the door to the two kinds of rekeying (s1.3.2, s1.3.3).

HDR, SK {[N(USE_TRANSPORT_MODE)], SA, Ni, [KEi], TSi, TSr}  -->
                         <--  HDR, SK {[N(USE_TRANSPORT_MODE)], SA, Nr, [KEr], TSi, TSr}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipsecfast.configured import ChildConfig
from ipsecfast.ike import evidence
from ipsecfast.ike.child import ChildSa, OutboundState
from ipsecfast.ike.constants import NotifyError, NotifyType, TemporaryFailure
from ipsecfast.ike.exchange import rekey_child, rekey_ike
from ipsecfast.ike.exchange.base import Request, error_code, require
from ipsecfast.ike.exchange.child_exchange import ChildExchange, admit_child, answer_child
from ipsecfast.ike.exchange.ike_followup_ke import TEMPORARY
from ipsecfast.ike.exchange.informational import Liveness
from ipsecfast.ike.extension.resources import settle_first
from ipsecfast.ike.states import Cause
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import Payload, SaPayload
from ipsecfast.ike.work import Steps
from ipsecfast.model import Acquire, ProtocolId

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


class CreateChild(ChildExchange):
    """The initiator's side of a new Child SA; `packet` is what asked for it, `single` offers nothing else (s2.9)."""

    def __init__(self, child: ChildConfig, packet: Acquire | None = None, *, single: bool = False) -> None:
        super().__init__(child)
        self.packet = packet
        self.single = single

    def create(self, sa: IkeSa, now: float) -> Request | Steps[Request]:
        if sa.has_child(self.child):  # the peer was quicker
            return None
        if sa.reauth.superseded_at is not None:
            sa.unserved.append((self.child, self.packet))
            return None
        return self.propose(sa, now, packet=self.packet, single=self.single)

    def created(self, sa: IkeSa, child: ChildSa, now: float) -> None:
        settle_first(sa, child)
        sa.install(child, activate=True)
        resolve_twins(sa, child, now)

    def vanished(self, sa: IkeSa, now: float) -> None:
        sa.child_refused(self.child, "the peer deleted it at once", now)

    def refused(self, sa: IkeSa, error: NotifyError, text: str, now: float) -> None:
        code = error_code(error)
        if code in TEMPORARY:
            sa.retry_later(self, now)
        elif code == NotifyType.SINGLE_PAIR_REQUIRED and self.packet is not None and not self.single:
            sa.start(CreateChild(self.child, self.packet, single=True), now)
        else:
            sa.child_refused(self.child, text, now, error.mismatch)

    def abandoned(self, sa: IkeSa, now: float) -> None:
        super().abandoned(sa, now)
        sa.unserved.append((self.child, self.packet))


def respond(sa: IkeSa, message: Message, now: float) -> Steps[Sequence[Payload]]:
    """The responder's side of all three: what is asked for decides."""
    if require(message, SaPayload).proposals[0].protocol == ProtocolId.IKE:
        return rekey_ike.respond(sa, message, now)
    if rekeyed := message.notify(NotifyType.REKEY_SA):
        return rekey_child.respond(sa, rekeyed, message, now)

    def created(child: ChildSa, now: float) -> None:
        settle_first(sa, child)
        evidence.install_first(sa, child, now)
        resolve_twins(sa, child, now)

    return answer_child(sa, message, now, lambda: admit_child(sa), created)


def respond_closing(sa: IkeSa, message: Message, now: float) -> Sequence[Payload]:
    """s2.25.2: nothing new on an IKE SA that is rekeyed or being deleted."""
    raise TemporaryFailure(f"the IKE SA is {sa.state.value}")


def resolve_twins(sa: IkeSa, child: ChildSa, now: float) -> None:
    """Both ends made the same Child SA at once. As in s2.8.1 the one with the lowest nonce goes, deleted by the end
    that made it; both ends see the same four nonces, so they agree whenever each of them looks. It is not deleted
    before the peer has shown that it has the response by which the other one was made, or it would have neither: an
    empty request shows it."""
    for twin in tuple(sa.children.values()):
        same = twin.config is child.config and twin.selectors == child.selectors and twin.live
        several = child.resource or twin.resource  # RFC 9611 s4: both may make some at once
        if same and twin.initiator != child.initiator and not several:
            loser, winner = sorted((child, twin), key=lambda c: min(c.nonces))
            if winner.initiator:
                sa.start(Liveness(), now)
            elif winner.outbound_state is OutboundState.REGISTERED:
                loser.unwanted, winner.twin = Cause.DUPLICATE, loser
                evidence.await_proof(sa, winner, now)
            else:
                sa.delete_child(loser, Cause.DUPLICATE, now)
