"""Reauthentication (RFC 7296 s2.8.3): identities and secrets are shown anew, by a new IKE SA beside the old one.

Make before break: the new IKE SA gets all Child SAs of the old one, traffic goes over to them, then the old one is
deleted. Until then both stand, so nothing is lost. The end that begins it, whichever that is, deletes the old one; the
other end gives it a moment for that (`supersession`).

When: `auth_lifetime`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecfast.configured import ChildConfig
from ipsecfast.ike import evidence
from ipsecfast.ike.constants import ExchangeType
from ipsecfast.ike.exchange.base import Exchange
from ipsecfast.ike.exchange.create_child_sa import CreateChild
from ipsecfast.ike.exchange.informational import Liveness
from ipsecfast.ike.states import Cause, IkeState
from ipsecfast.ike.supersession import RETIRE_PAUSE, supersede, with_peer
from ipsecfast.ike.timers import Timer
from ipsecfast.ike.wire.message import Message
from ipsecfast.model import IKE_PORT, Path

if TYPE_CHECKING:
    from ipsecfast.ike.child import ChildSa
    from ipsecfast.ike.sa import IkeSa

LEFT_BEHIND = 3  # times `supersede_pause`: then what the peer has not made on the new one is ours to make
RETRY_FAILED = 4  # times the pause after TEMPORARY_FAILURE


# -- the end that begins -----------------------------------------------------------------------------------------------


def begin(sa: IkeSa, now: float) -> bool:
    """Make the new IKE SA; False if that can't be just now."""
    if any(standing(other.reauth.replaces) is sa for other in sa.connection.ike_sas()):
        return True
    under_way = sa.connection.connecting() or any(o.reauth.superseded_at is not None for o in with_peer(sa))
    if not sa.usable or under_way:
        _again(sa, now, 1)  # it is being rekeyed, or what either end has begun is not over
        return False
    if not sa.origin.proved:
        sa.start(ProveBoth(), now)
        return True
    children = [config for config in sa.connection.config.children if _has(sa, config)]
    if not children:
        sa.note("reauth-needless", "it has no Child SA: closed instead of authenticated anew")
        sa.delete(Cause.EXPIRED, now)
        return True
    addresses = sa.connection.addresses or (sa.path.local, sa.path.remote)
    if sa.remote_nat and not sa.initiator:
        text = "the peer is behind a NAT and must begin to prove itself anew; if it does not, the IKE SA ends"
        sa.note("reauth-awaited", text, warning=True)
        return False
    sa.note("reauthenticating", f"beginning anew for {', '.join(child.name for child in children)}")
    path = Path(addresses[0], IKE_PORT, addresses[1], IKE_PORT)
    new = sa.connection.open(tuple((child, None) for child in children), path, now, replaces=sa)
    return not new.closed


def _again(sa: IkeSa, now: float, times: int) -> None:
    if not sa.closed and sa.reauth.superseded_at is None:
        pause = sa.context.between(*sa.context.settings.retry) * times
        sa.context.timers.set(sa, Timer.REAUTH, now + pause)


def failed(new: IkeSa, now: float) -> bool:
    """The new IKE SA did not come about. True if the old one goes on, and another is tried in a moment."""
    old = standing(new.reauth.replaces)
    if old is None or not old.usable:
        return False
    ends = "" if old.reauth.until is None else f"; it ends in {max(0.0, old.reauth.until - now):.0f} s"
    old.note("reauth-failed", f"not authenticated anew, tried again in a moment{ends}", warning=True)
    _again(old, now, RETRY_FAILED)
    return True


def standing(sa: IkeSa | None) -> IkeSa | None:
    """What rekeying has made of it."""
    while sa is not None and sa.heir is not None:
        sa = sa.heir
    return sa


def _has(sa: IkeSa, config: ChildConfig) -> bool:
    """Or will have: what is on its way is not to be left behind."""
    return sa.has_child(config) or sa.negotiates(config)


class ProveBoth(Liveness):
    """What has never seen an exchange after IKE_AUTH may not stand at both ends yet (`origin`): first one, then the new
    IKE SA."""

    moves = True

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        begin(sa, now)


class RetireOld(Exchange):
    """The last thing that waits on a new IKE SA: no message of its own, but the DELETE of the old one, once every Child
    SA has its counterpart here."""

    type = ExchangeType.INFORMATIONAL
    states = frozenset({IkeState.ESTABLISHED})

    def __init__(self, old: IkeSa) -> None:
        self.old = old
        self._asked: set[ChildConfig] = set()
        self._since: float | None = None

    def request(self, sa: IkeSa, now: float) -> None:
        old = standing(self.old)
        if old is None or old.closed or old.closing is not None or sa.reauth.superseded_at is not None:
            return
        missing = {c for c in old.connection.config.children if _has(old, c) and not sa.has_child(c)}
        fresh = missing - self._asked  # come up on the old one meanwhile, or deleted by the peer
        self._asked |= missing
        if fresh:
            sa.queue.extend(CreateChild(config) for config in fresh if not sa.negotiates(config))
            sa.queue.append(self)
        elif any(sa.negotiates(config) for config in missing) or self._carries(old, now):
            sa.retry_later(self, now)
        else:
            old.note("reauthenticated", f"{sa} took its place")
            sa.reauth.replaces = None
            supersede(old, sa, now)
            old.context.timers.set(old, Timer.EXPIRE, now + RETIRE_PAUSE)  # what is on its way comes before the DELETE

    def _carries(self, old: IkeSa, now: float) -> bool:
        """What the peer made on the new one, and may not have our response to, does not carry its traffic yet."""
        self._since = now if self._since is None else self._since
        waited = now - self._since >= old.context.settings.retransmit.total
        return not waited and carries(old)

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        raise AssertionError("no message was sent")


# -- the end that is begun with ----------------------------------------------------------------------------------------


def restore(new: IkeSa) -> None:
    """The peer has refused us on the new one (s2.21.2), so it goes on with what it replaced here."""
    new.origin.void = True
    for old in with_peer(new):
        if old.reauth.superseded_by is new and old.closing is None:
            old.reauth.superseded_at = old.reauth.superseded_by = None
            old.redundant = False
            old.context.timers.clear(old, Timer.EXPIRE)
            if old.expires_at is not None:
                old.context.timers.set(old, Timer.EXPIRE, old.expires_at)
            if old.reauth.at is not None:
                old.context.timers.set(old, Timer.REAUTH, old.reauth.at)


def has_moved(sa: IkeSa, child: ChildSa) -> bool:
    """It came about on an IKE SA that goes, or is known to the peer only now, and traffic has moved to another one."""
    carrier = sa.context.children.carrier(child)
    return (sa.closing is not None or sa.redundant) and carrier is not None and carrier.ike is not sa


def carries(old: IkeSa) -> bool:
    """Whether traffic still leaves through its Child SAs."""
    return any(_carried(old, c.config) for c in old.children.values())


def _carried(old: IkeSa, config: ChildConfig) -> bool:
    """By a Child SA of it that is live, or by one whose successor the peer may not have yet."""
    carrier = old.context.children.carrier
    return any(carrier(c) is c for c in old.children.values() if c.config is config)


def expire_superseded(old: IkeSa, now: float) -> None:
    """The peer has not deleted it: we do, but not while it carries what the peer has not got on the new one."""
    assert old.reauth.superseded_at is not None
    settings = old.context.settings
    if not carries(old) or now >= old.reauth.superseded_at + settings.retransmit.total:
        old.delete(Cause.DUPLICATE, now)
        return
    for sa in with_peer(old):
        if sa.unproved:
            evidence.ask(sa, now)
    if now >= old.reauth.superseded_at + settings.supersede_pause * LEFT_BEHIND:
        _fetch_left(old, now)
    old.context.timers.set(old, Timer.EXPIRE, now + settings.supersede_pause / 10)  # soon: that is asked for


def _fetch_left(old: IkeSa, now: float) -> None:
    """Child SAs that nobody makes on the IKE SA that stays: they came up when the old one was to stay itself."""
    for new in with_peer(old):
        if new.usable and new.connection is old.connection:
            for config in new.connection.config.children:
                if _carried(old, config) and not _has(new, config):
                    new.start(CreateChild(config), now)
