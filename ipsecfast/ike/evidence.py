"""What shows that the peer has an IKE SA, or a Child SA, that we have as responders (RFC 7296 s2.3, s2.8).

It can't read our packets before it has our response. ESP on the new Child SA shows that it has (`IkeSa.first_inbound`);
so does its next request on this IKE SA, as it has one under way at a time. An answer to a request of ours only shows
that it has our response of IKE_AUTH.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ipsecfast.ike.constants import NotifyError
from ipsecfast.ike.exchange.informational import Liveness
from ipsecfast.ike.timers import Timer
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import DeletePayload

if TYPE_CHECKING:
    from ipsecfast.ike.child import ChildSa
    from ipsecfast.ike.sa import IkeSa


def install_first(sa: IkeSa, child: ChildSa, now: float) -> None:
    """A responder's new Child SA: our packets wait until the initiator sent one, or a moment for its installing.
    They are held meanwhile, as the initiator could not read them before it has the response; where another Child SA
    carries them (s2.8.3) there is no haste: we wait until the initiator has shown that it has it, or has given up.
    One of several (RFC 9611) waits for the initiator however long: there is one that all may use."""
    sa.install(child, activate=False)
    if sa.context.children.carrier(child) is not None:
        await_proof(sa, child, now)
    elif not child.resource:
        sa.context.timers.set(child, Timer.ACTIVATE, now + sa.context.settings.activate_delay)


def await_proof(sa: IkeSa, child: ChildSa, now: float) -> None:
    """That the initiator has it."""
    if child not in sa.unproved:
        sa.unproved.append(child)
    if not child.resource:
        sa.context.timers.set(child, Timer.ACTIVATE, now + sa.context.settings.retransmit.total)


def request_came(sa: IkeSa, message: Message | NotifyError, now: float) -> None:
    """Unless it says that all was for nothing."""
    if sa.origin.stands is None or not isinstance(message, Message) or message.errors():
        return
    sa.origin.proved |= not sa.origin.began
    deleted = {int.from_bytes(spi, "big") for d in message.all(DeletePayload) for spi in d.spis}
    _proved(sa, [c for c in sa.unproved if c.spi_out not in deleted], now)


def response_came(sa: IkeSa, now: float) -> None:
    """The Child SA of IKE_AUTH has the same nonces as the IKE SA had then."""
    if sa.origin.stands is None:
        return
    sa.origin.proved = True
    _proved(sa, [c for c in sa.unproved if c.nonces == sa.origin.nonces], now)


def _proved(sa: IkeSa, children: Iterable[ChildSa], now: float) -> None:
    for child in children:
        sa.unproved.remove(child)
        sa.first_inbound(child, now)


def ask(sa: IkeSa, now: float) -> None:
    """A liveness check, whose answer shows something."""
    asked = any(isinstance(e, Liveness) for e in (sa.current, *sa.queue))
    if sa.usable and not asked:
        sa.start(Liveness(), now)
