"""From an IKE SA to the one that replaces it (RFC 7296 s2.8): Child SAs, and whatever waits, go over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecfast.ike import resumption
from ipsecfast.ike.exchange.ike_followup_ke import drop_pending
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.timers import Timer

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


def hand_over(old: IkeSa, new: IkeSa, now: float) -> None:
    """s2.8: the Child SAs and all that waits go to the successor; the old one only waits for its DELETE."""
    for child in old.children.values():
        child.ike = new
    new.children |= old.children
    old.children = {}
    moving = [e for e in (*old.queue, *old.delayed) if e.moves]
    old.queue.clear()
    old.delayed.clear()
    old.state = IkeState.REKEYED
    drop_pending(old)
    old.context.timers.clear_all(old)
    old.go_on_waiting(now)
    old.context.timers.set(old, Timer.EXPIRE, now + old.context.settings.retransmit.total)
    new.note("ike-rekeyed", f"took the place of {old}")
    resumption.renew(new, now)
    if old.closing is not None:
        new.delete(old.closing, now)
    for exchange in moving:
        new.start(exchange, now)


def settle_rekey(sa: IkeSa, now: float) -> None:
    """The peer's successor stands and ours does not: it gets the Child SAs."""
    theirs = sa.peer_successor
    if theirs is not None and sa.state is IkeState.ESTABLISHED and theirs.state is IkeState.ESTABLISHED:
        hand_over(sa, theirs, now)


def await_delete(sa: IkeSa, now: float) -> None:
    """The peer made it, another one is used, and the peer deletes it; should that not come, it goes by itself."""
    sa.redundant = True
    sa.context.timers.set(sa, Timer.EXPIRE, now + sa.context.settings.retransmit.total)


def retire_redundant(sa: IkeSa, now: float) -> None:
    """s2.8.2: of two successors the one that does not stay."""
    sa.redundant = True
    sa.context.timers.clear_all(sa)
    if sa.state is not IkeState.CLOSED:
        sa.go_on_waiting(now)
        await_delete(sa, now)
    else:
        sa.context.timers.set(sa, Timer.LINGER, now + sa.context.settings.half_open_timeout)
