"""IKE_FOLLOWUP_KE (RFC 9370 s2.2.4): the additional key exchanges of CREATE_CHILD_SA, one after the other behind it.

HDR, SK {SA, Ni, KEi, ...}  -->
                         <--  HDR, SK {SA, Nr, KEr, ..., N(ADDITIONAL_KEY_EXCHANGE)(link)}
HDR, SK {KEi(1), N(ADDITIONAL_KEY_EXCHANGE)(link)}  -->
                         <--  HDR, SK {KEr(1), [N(ADDITIONAL_KEY_EXCHANGE)(link)]}

Only the last one makes the SA, at both ends; so all that is said of CREATE_CHILD_SA (installs before use, collisions)
holds for its last exchange. Until then the responder keeps what was agreed, for a while and for one SA only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipsecfast.ike.constants import ExchangeType, InvalidSyntax, NotifyError, NotifyType, StateNotFound
from ipsecfast.ike.crypto.primitives import KeyExchange
from ipsecfast.ike.exchange import key_exchange
from ipsecfast.ike.exchange.base import Exchange, Request, raise_for_errors, require
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.timers import Timer
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import KePayload, NotifyPayload, Payload
from ipsecfast.ike.work import Steps

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

LINK_LENGTH = 8
# The exchange as a whole failed for a reason that passes: it is begun anew after a pause.
TEMPORARY = frozenset({NotifyType.TEMPORARY_FAILURE, NotifyType.STATE_NOT_FOUND})


class KeyedExchange(Exchange):
    """The initiator's side of CREATE_CHILD_SA with all that follows it: one `Exchange` whose `type` changes."""

    states = frozenset({IkeState.ESTABLISHED})

    def __init__(self) -> None:
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.type = ExchangeType.CREATE_CHILD_SA
        self._groups: tuple[int, ...] = ()  # the additional key exchanges that are still to come
        self._link = b""
        self._additional = b""  # SK(1) | SK(2) ...
        self._following: KeyExchange | None = None

    def request(self, sa: IkeSa, now: float) -> Request | Steps[Request]:
        return self._follow_up(sa) if self._groups else self.create(sa, now)

    def _follow_up(self, sa: IkeSa) -> Steps[Request]:
        self._following, _ = yield from key_exchange.generate(sa.context, self._groups[0])
        ke = KePayload(self._following.group, self._following.public)
        return (ke, NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, self._link))

    def response(self, sa: IkeSa, message: Message, now: float) -> Steps[None]:
        raise_for_errors(message)
        if self._groups:
            now = yield from self._take_key(sa, message, now)
        else:
            self._groups, now = yield from self.agree(sa, message, now)
        if not self._groups:
            self.complete(sa, self._additional, now)
        elif sa.closing is not None:  # our DELETE waits; the peer forgets the rest with it
            self.abandoned(sa, now)
        else:
            self._link = _link(message)
            self.type = ExchangeType.IKE_FOLLOWUP_KE
            sa.start(self, now, first=True)

    def _take_key(self, sa: IkeSa, message: Message, now: float) -> Steps[float]:
        assert self._following is not None
        try:
            ke = require(message, KePayload)
            if ke.group != self._following.group:
                raise InvalidSyntax(f"the peer answered method {self._following.group} with method {ke.group}")
            shared, now = yield from key_exchange.shared_secret(self._following, ke.data)
            self._additional += shared
        except NotifyError:
            if len(self._groups) == 1:
                self.take_back(sa, now)
            raise
        self._groups = self._groups[1:]
        return now

    @abstractmethod
    def create(self, sa: IkeSa, now: float) -> Request | Steps[Request]:
        """The request of CREATE_CHILD_SA, or None: what was wanted is no longer needed."""

    @abstractmethod
    def agree(self, sa: IkeSa, message: Message, now: float) -> Steps[tuple[tuple[int, ...], float]]:
        """Take the response of CREATE_CHILD_SA, without errors: the additional key exchanges it asks for, and the
        time at which that is done."""

    @abstractmethod
    def complete(self, sa: IkeSa, additional: bytes, now: float) -> None:
        """The peer has the new SA. `additional`: SK(1) | ... | SK(n)."""

    def take_back(self, sa: IkeSa, now: float) -> None:
        """The peer has the new SA, and we can't have it."""
        del sa, now


def _link(message: Message) -> bytes:
    notify = message.notify(NotifyType.ADDITIONAL_KEY_EXCHANGE)
    if notify is None or not notify.data:
        raise InvalidSyntax("additional key exchanges are missing, and the peer does not say how they go on")
    return notify.data


@dataclass(slots=True)
class Pending:
    """The responder's side between CREATE_CHILD_SA and the last key exchange. `finish` makes the SA from
    SK(1) | ... | SK(n) and may still refuse; `drop` gives back what was reserved for it."""

    groups: tuple[int, ...]
    link: bytes
    finish: Callable[[bytes, float], None]
    drop: Callable[[], None]
    additional: bytes = b""


def hold(
    sa: IkeSa, groups: tuple[int, ...], finish: Callable[[bytes, float], None], drop: Callable[[], None], now: float
) -> NotifyPayload:
    """What the response to CREATE_CHILD_SA says of the exchanges to come. One SA waits at a time: what waited before
    is dropped, as a peer with one request under way has given it up."""
    drop_pending(sa)
    sa.pending = Pending(groups, b"", finish, drop)
    return _next_link(sa, sa.pending, now)


def _next_link(sa: IkeSa, pending: Pending, now: float) -> NotifyPayload:
    pending.link = sa.context.random(LINK_LENGTH)
    sa.context.timers.set(sa, Timer.FOLLOW_UP, now + sa.context.settings.follow_up_timeout)
    return NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, pending.link)


def drop_pending(sa: IkeSa) -> None:
    """The peer does not go on, or the IKE SA ends."""
    pending, sa.pending = sa.pending, None
    sa.context.timers.clear(sa, Timer.FOLLOW_UP)
    if pending is not None:
        pending.drop()


def respond(sa: IkeSa, message: Message, now: float) -> Steps[Sequence[Payload]]:
    """The responder's side.

    Raises:
        StateNotFound: nothing waits under this link, or not any more.
        NotifyError: what waited can't be any more.
    """
    pending, ke = sa.pending, require(message, KePayload)
    if pending is None or _link(message) != pending.link:
        raise StateNotFound
    try:
        return (yield from _advance(sa, pending, ke, now))
    except NotifyError:
        sa.pending = None
        pending.drop()
        raise


def _advance(sa: IkeSa, pending: Pending, ke: KePayload, now: float) -> Steps[Sequence[Payload]]:
    sa.context.timers.clear(sa, Timer.FOLLOW_UP)
    if ke.group != pending.groups[0]:
        raise InvalidSyntax(f"a value for method {ke.group} where it is method {pending.groups[0]}'s turn")
    (public, shared), now = yield from key_exchange.respond(sa.context, ke.group, ke.data)
    pending.additional += shared
    pending.groups = pending.groups[1:]
    answer = KePayload(ke.group, public)
    if pending.groups:
        return (answer, _next_link(sa, pending, now))
    sa.pending = None
    pending.finish(pending.additional, now)
    return (answer,)
