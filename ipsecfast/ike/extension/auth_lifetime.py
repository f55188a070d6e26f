"""When an IKE SA is to be authenticated anew (RFC 7296 s2.8.3), by our configuration or by the peer's wish (RFC 4478).

                         <--  HDR, SK {IDr, [CERT+], AUTH, SAr2, TSi, TSr, N(AUTH_LIFETIME)}

The original responder tells in IKE_AUTH, or later in INFORMATIONAL, when the initiator is to begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ipsecfast.ike.constants import NotifyType
from ipsecfast.ike.extension import resumption
from ipsecfast.ike.timers import Timer
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import NotifyPayload, Payload

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

LIFETIME_LENGTH = 4
SHORTEST: Final = 5.0  # seconds: a peer that announces less would keep us at nothing else
MARGIN = (0.05, 0.1)  # of the peer's AUTH_LIFETIME: we are done before it is over


@dataclass(slots=True)
class Reauth:
    """Of one IKE SA. Rekeying changes none of it: the peer has proved nothing by it."""

    at: float | None = None
    until: float | None = None  # it ends then
    replaces: IkeSa | None = None  # the one for which this one is made
    superseded_at: float | None = None  # the peer has authenticated itself anew on another one
    superseded_by: IkeSa | None = None


def arm(sa: IkeSa, now: float) -> None:
    """The IKE SA stands: by IKE_AUTH, by a ticket, which goes on from the proof before, or by a rekey, which leaves the
    times as they were."""
    before, wanted = sa.predecessor, sa.connection.config.reauth
    if before is not None:
        sa.reauth.at, sa.reauth.until = before.reauth.at, before.reauth.until
    elif wanted.rekey_time:
        proved = now - resumption.age_of_proof(sa)
        sa.reauth.at = max(now, proved + wanted.rekey_time - wanted.rand_time * sa.context.fraction())
        sa.reauth.until = max(now, proved + wanted.life_time)
    _set_timers(sa)


def _set_timers(sa: IkeSa) -> None:
    at, until = sa.reauth.at, sa.reauth.until
    if at is not None:
        sa.context.timers.set(sa, Timer.REAUTH, at)
    if until is not None and (sa.expires_at is None or until < sa.expires_at):
        sa.expires_at = until
        sa.context.timers.set(sa, Timer.EXPIRE, until)


def announce(sa: IkeSa, now: float) -> tuple[Payload, ...]:
    """RFC 4478 s3: the original responder's wish, in its last IKE_AUTH response."""
    if sa.reauth.at is None:
        return ()
    seconds = max(1, int(sa.reauth.at - now))
    return (NotifyPayload(NotifyType.AUTH_LIFETIME, seconds.to_bytes(LIFETIME_LENGTH, "big")),)


def obey(sa: IkeSa, message: Message, now: float) -> None:
    """The peer's wish, in IKE_AUTH or INFORMATIONAL: begin before its time is over, if we don't do so earlier."""
    notify = message.notify(NotifyType.AUTH_LIFETIME)
    if notify is None or len(notify.data) != LIFETIME_LENGTH:
        return
    seconds = int.from_bytes(notify.data, "big")
    at = now + max(SHORTEST, seconds * (1.0 - sa.context.between(*MARGIN)))
    if sa.reauth.at is None or at < sa.reauth.at:
        sa.reauth.at = at
        sa.note("auth-lifetime", f"the peer wants reauthentication within {seconds} s, begun in {at - now:.0f} s")
        _set_timers(sa)
