"""An IKE SA in whose place another one with the same peer has come (RFC 7296 s2.8.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ipsecfast.ike.states import Cause
from ipsecfast.ike.timers import Timer

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

RETIRE_PAUSE = 1.0  # seconds between the move of the traffic and the DELETE
MAX_SUPERSEDED = 4  # IKE SAs with one peer that wait for the peer's DELETE


def with_peer(sa: IkeSa) -> Iterator[IkeSa]:
    """The IKE SAs between the same two, those that are closed left out."""
    return (other for other in sa.context.ike_sas.between(sa.local_id, sa.remote_id) if not other.closed)


def give_way(loser: IkeSa, winner: IkeSa, now: float) -> None:
    """Of two between the same ends the other one stays (`origin`). Where both set the first one up at once, the end
    that began the loser deletes it as soon as the peer surely has the other one."""
    supersede(loser, winner, now)
    first = loser.origin.before is None and not winner.origin.comes_after(loser.origin)
    if first and loser.origin.began:
        loser.context.timers.set(loser, Timer.EXPIRE, now + RETIRE_PAUSE)


def supersede(old: IkeSa, new: IkeSa, now: float) -> None:
    """The peer has another IKE SA with us now. If that was reauthentication, it deletes the old one when it has moved
    its Child SAs; if it was not, nobody misses it. Nothing new is made on it."""
    before = [sa for sa in with_peer(old) if sa.reauth.superseded_at is not None and sa.closing is None]
    if len(before) >= MAX_SUPERSEDED:  # it authenticates itself again and again
        before[0].delete(Cause.DUPLICATE, now)
    old.reauth.superseded_at, old.reauth.superseded_by = now, new
    old.redundant = True
    old.context.timers.clear(old, Timer.REAUTH)
    old.context.timers.set(old, Timer.EXPIRE, now + old.context.settings.supersede_pause)
