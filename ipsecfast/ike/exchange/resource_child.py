"""CREATE_CHILD_SA for one more Child SA with the same selectors, for one worker (RFC 9611 s3). Responder: `agree`.

HDR, SK {N(SA_RESOURCE_INFO), SA, Ni, [KEi], TSi, TSr}  -->
                         <--  HDR, SK {N(SA_RESOURCE_INFO), SA, Nr, [KEr], TSi, TSr}

It is made on demand: a worker that sends by the SA for all asks for its own (s6). What fails leaves that one as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecfast.configured import ChildConfig
from ipsecfast.ike.child import ChildSa
from ipsecfast.ike.constants import NotifyError
from ipsecfast.ike.exchange.base import Request, error_code
from ipsecfast.ike.exchange.child_exchange import ChildExchange
from ipsecfast.ike.exchange.ike_followup_ke import TEMPORARY
from ipsecfast.ike.extension.resources import fallback, wanted_resources
from ipsecfast.ike.work import Steps
from ipsecfast.model import Acquire

if TYPE_CHECKING:
    from ipsecfast.ike.context import Context
    from ipsecfast.ike.sa import IkeSa


class CreateResourceChild(ChildExchange):
    """The initiator's side."""

    def __init__(self, child: ChildConfig, reqid: int, resource: int) -> None:
        super().__init__(child)
        self.reqid = reqid
        self.resource = resource

    def create(self, sa: IkeSa, now: float) -> Request | Steps[Request]:
        beside = fallback(sa, self.reqid)
        if beside is None or sa.context.children.occupied(self.reqid, self.resource):
            self._over(sa)
            return None
        sa.context.children.asked[self.reqid, self.resource] = True
        return self.propose(sa, now, beside=beside, resource=self.resource)

    def created(self, sa: IkeSa, child: ChildSa, now: float) -> None:
        self._over(sa)
        sa.install(child, activate=True)

    def vanished(self, sa: IkeSa, now: float) -> None:
        self._over(sa)

    def refused(self, sa: IkeSa, error: NotifyError, text: str, now: float) -> None:
        """Whatever the reason: the peer is not asked again while there are Child SAs of the reqid (s5.2)."""
        if error_code(error) in TEMPORARY:
            sa.context.children.asked[self.reqid, self.resource] = False
            sa.retry_later(self, now)
            return
        self._over(sa)
        sa.context.children.crowded.add(self.reqid)
        name = self.child.name
        sa.note("resources-refused", f"{name}: no further per-resource Child SA: {text}", child=name)

    def abandoned(self, sa: IkeSa, now: float) -> None:
        super().abandoned(sa, now)
        self._over(sa)

    def _over(self, sa: IkeSa) -> None:
        sa.context.children.asked.pop((self.reqid, self.resource), None)


def acquire(context: Context, event: Acquire, now: float) -> None:
    """A worker sends by the Child SA for all. It is told nothing: it asks again, later."""
    table, place = context.children, (event.reqid, event.resource)
    beside = table.active(event.reqid)
    if beside is None or beside.resource is None or not beside.ike.usable:
        return
    known = place in table.asked or table.occupied(*place)
    if known or event.reqid in table.crowded or event.resource > wanted_resources(beside.config):
        return
    table.asked[place] = False
    beside.ike.start(CreateResourceChild(beside.config, event.reqid, event.resource), now)
