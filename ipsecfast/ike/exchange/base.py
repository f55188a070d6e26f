"""What every exchange that we begin looks like to the IKE SA that carries it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from ipsecfast.ike.constants import ERRORS, ExchangeType, InvalidSyntax, NotifyError, PayloadType, error_meaning
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.wire.message import Message, P
from ipsecfast.ike.wire.payloads import NotifyPayload, Payload
from ipsecfast.ike.work import Steps

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


Request: TypeAlias = Sequence[Payload] | None


class Exchange(ABC):
    """One request of ours and what its response means. It waits in the queue of its IKE SA: the window is 1."""

    type: ExchangeType
    states: ClassVar[frozenset[IkeState]]  # in which the request may leave; it waits while the SA is CONNECTING
    moves: ClassVar[bool] = True  # while it waits, it goes over to the successor of its IKE SA

    @abstractmethod
    def request(self, sa: IkeSa, now: float) -> Request | Steps[Request]:
        """The payloads of the request, or None: what was wanted is no longer needed. A generator, where work must be
        waited for (`work`): then the request counts as sent already, as for one that is slow on its way."""

    @abstractmethod
    def response(self, sa: IkeSa, message: Message, now: float) -> Steps[None] | None:
        """Take an authentic response (IKE_SA_INIT: any), all at once or as a generator.

        Raises:
            NotifyError: the response can't be used; then `failed` follows.
        """

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        """The peer refused, or its response is unusable."""
        sa.note("exchange-failed", f"{self.type.name} failed: {error}", warning=True)

    def peer_deleted(self, spi: int) -> None:
        """The peer deletes a Child SA that we don't know, while we wait for the response."""
        del spi

    def abandoned(self, sa: IkeSa, now: float) -> None:
        """The IKE SA went before there was a response: give back what was reserved."""
        del sa, now


class PeerError(NotifyError):
    """The peer answered with an error notify. `code` is its type, which may be one that we don't know (s3.10.1)."""

    def __init__(self, notify: NotifyPayload) -> None:
        meaning = error_meaning(notify.notify_type)
        name = ERRORS[notify.notify_type].notify_type.name if notify.notify_type in ERRORS else str(notify.notify_type)
        super().__init__(f"the peer answers {name}: {meaning}", notify.data)
        self.code = notify.notify_type


def error_code(error: NotifyError) -> int:
    """The notify type: of the peer's answer, or of what we found wrong with it."""
    return error.code if isinstance(error, PeerError) else error.notify_type


def raise_for_errors(message: Message) -> None:
    """Raise the first error notify of a response."""
    for notify in message.errors():
        raise PeerError(notify)


def require(message: Message, payload: type[P], kind: PayloadType | None = None) -> P:
    """A payload without which the message makes no sense."""
    found = message.get(payload, kind)
    if found is None:
        name = kind.name if kind else payload.__name__.removesuffix("Payload").upper()
        raise InvalidSyntax(f"no {name} payload")
    return found


def error_notify(error: NotifyError) -> NotifyPayload:
    """The notify that answers a request (s2.21)."""
    return NotifyPayload(error.notify_type, error.notify_data)
