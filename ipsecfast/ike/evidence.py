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
from ipsecfast.model import Acquire

if TYPE_CHECKING:
    from ipsecfast.ike.child import ChildSa
    from ipsecfast.ike.context import Context
    from ipsecfast.ike.sa import IkeSa


def install_first(sa: IkeSa, child: ChildSa, now: float) -> None:
    """A responder's new Child SA: our packets are held until the initiator sent one, or has shown otherwise that it has
    the response. Of IKE_AUTH we ask for that as soon as there is a packet (`awaited`); of CREATE_CHILD_SA nothing that
    we ask would show it, so the initiator has a moment for its installing. Where another Child SA carries our packets
    (s2.8.3) there is no haste: we wait until it has shown that it has the new one, or has given up.
    One of several (RFC 9611) waits for the initiator however long: there is one that all may use."""
    sa.install(child, activate=False)
    if sa.context.children.carrier(child) is not None:
        await_proof(sa, child, now)
    elif child.nonces == sa.origin.nonces:
        sa.unproved.append(child)
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
        sa.first_inbound(child, now)


def awaited(context: Context, packet: Acquire, now: float) -> bool:
    """The packet is for a Child SA that stands, if the peer has it: a question shows that."""
    for child in context.children.of_reqid(packet.reqid):
        unused = child.live and context.children.carrier(child) is None
        if unused and child in child.ike.unproved and child.ike.usable:
            if not any(config is child.config for config, _ in child.ike.unserved):
                child.ike.unserved.append((child.config, packet))  # if it does not come to that
            ask(child.ike, now)
            return True
    return False


def ask(sa: IkeSa, now: float) -> None:
    """A liveness check, whose answer shows something."""
    asked = any(isinstance(e, Liveness) for e in (sa.current, *sa.queue))
    if sa.usable and not asked:
        sa.start(Liveness(), now)
