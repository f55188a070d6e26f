"""A look at the peer's certificates long after IKE_AUTH: one may have been revoked since (RFC 5280, RFC 6960).

Nothing goes to the peer. It waits for its turn among the requests of the IKE SA, as it may end with a DELETE, and asks
the same places as in IKE_AUTH (`standing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecfast.ike.constants import AuthenticationFailed, ExchangeType
from ipsecfast.ike.credential.standing import examine_again
from ipsecfast.ike.exchange.base import Exchange, Request
from ipsecfast.ike.states import Cause, IkeState
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.work import Steps

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


class Recheck(Exchange):
    type = ExchangeType.INFORMATIONAL
    states = frozenset({IkeState.ESTABLISHED})

    def request(self, sa: IkeSa, now: float) -> Steps[Request]:
        try:
            yield from examine_again(sa, now)
        except AuthenticationFailed as error:
            sa.report("revoked", f"the IKE SA ends: {error}", error.mismatch, now)
            sa.delete(Cause.REFUSED, now)
        return None

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        raise AssertionError("nothing was asked of the peer")


def after_rekey(sa: IkeSa, now: float) -> None:
    """In some seconds, when both ends have done with the old IKE SA."""
    if sa.credentials.path:
        sa.retry_later(Recheck(), now)
