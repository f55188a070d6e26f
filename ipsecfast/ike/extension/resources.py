"""Several Child SAs with the same selectors, each for one resource (RFC 9611): here a resource is a worker, or a class
of packets by their DSCP (RFC 4301 s4.1), which the network may deliver in another order than the others.

The first one, the fallback SA, is for all; every further one is for one worker or class of this gateway, whatever the
peer uses it for. So a peer's resource identifiers mean nothing here (s5.1), and ours are for its log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ipsecfast.configured import ChildConfig
from ipsecfast.ike.child import ChildSa
from ipsecfast.ike.constants import NotifyType, TsMaxQueue
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import NotifyPayload
from ipsecfast.ike.wire.proposal import restricted
from ipsecfast.ike.wire.selectors import SelectorPair
from ipsecfast.model import Proposal

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

SHARE = 2  # s6: at the very least twice as many Child SAs as there are resources are taken
IDENTIFIER_LENGTH = 4


def wanted_resources(config: ChildConfig) -> int:
    """How many workers or classes get a Child SA of their own."""
    return len(config.dscp_classes) or config.per_cpu_sas or 0


def dscp_resources(config: ChildConfig) -> tuple[tuple[int, int], ...]:
    """The resource of each DSCP that has one."""
    return tuple((dscp, number) for number, dscps in enumerate(config.dscp_classes, 1) for dscp in dscps)


def serves(child: ChildSa) -> str:
    """Whom it is for, in words; "" where there is one Child SA only."""
    if child.resource is None:
        return ""
    classes = child.config.dscp_classes
    if not child.resource:
        return "all other DSCPs" if classes else "all workers"
    return f"DSCP {', '.join(map(str, classes[child.resource - 1]))}" if classes else f"worker {child.resource - 1}"


def fallback(sa: IkeSa, reqid: int, selectors: SelectorPair | None = None) -> ChildSa | None:
    """The Child SA for all workers that further ones of a reqid (with these selectors, if given) may join. The peer may
    have handed it over to this IKE SA already when we still wait (s2.8.2 of RFC 7296)."""
    before = sa.predecessor.children if sa.predecessor and sa.rekey_unsettled else {}
    known = (*sa.children.values(), *before.values())
    found = (c for c in known if c.reqid == reqid and c.resource == 0 and c.live)
    return next((c for c in found if selectors in (None, c.selectors)), None)


def choose_resource(sa: IkeSa, config: ChildConfig, beside: ChildSa | None, info: bytes) -> int | None:
    """For a request with SA_RESOURCE_INFO: None where we don't want several Child SAs, 0 for the first, then the worker
    that has the fewest (s4), the one that we are asking the peer for at the moment included.

    Who names no resource may have lost its Child SA for all (each end has one of its own choice, `settle_first`),
    without which most of its workers have none: it gets one beyond the limit.

    Raises:
        TsMaxQueue: there are enough.
    """
    resources = wanted_resources(config)
    if not resources or beside is None:
        return 0 if resources else None
    table = sa.context.children
    taken = Counter(c.resource for c in table.of_reqid(beside.reqid) if c.live and c.resource)
    if taken.total() >= SHARE * resources + (not info):
        raise TsMaxQueue(f"{config.name} has {taken.total()} Child SAs for {resources} workers already")
    taken.update(resource for (reqid, resource), sent in table.asked.items() if sent and reqid == beside.reqid)
    return min(range(1, resources + 1), key=lambda resource: taken[resource])


def settle_first(sa: IkeSa, child: ChildSa) -> None:
    """Both ends made the one for all at once, or one end knew of the other's already: here the later one is for a
    worker. Which of them is the first is each end's own affair, so none needs to go."""
    first = fallback(sa, child.reqid, child.selectors)
    if child.resource == 0 and first is not None and first is not child:
        used = Counter(c.resource for c in sa.context.children.of_reqid(child.reqid) if c.live)
        child.resource = min(range(1, wanted_resources(child.config) + 1), key=lambda resource: used[resource])
        child.inbound = replace(child.inbound, resource=child.resource, resources=0, dscp=())
        child.outbound = replace(child.outbound, resource=child.resource, resources=0, dscp=())


def allocate_spi(sa: IkeSa, resource: int | None, old: ChildSa | None) -> int | None:
    """An inbound SPI, of a worker's own Child SA one that this worker owns. None: there is none left."""
    worker = resource - 1 if resource and not old else None
    return sa.context.children.spis.allocate(old.spi_in if old else None, worker=worker)


def proposals_beside(proposals: Sequence[Proposal], beside: ChildSa | None) -> tuple[Proposal, ...]:
    """s3: the same algorithms as of the fallback SA. Key exchanges are each one's own."""
    if beside is None:
        return tuple(proposals)
    return tuple(same for p in proposals if (same := restricted(p, beside.proposal)) is not None)


def resource_notify(resource: int | None) -> tuple[NotifyPayload, ...]:
    """SA_RESOURCE_INFO (s5.1), of a worker's own Child SA with an identifier, which is for debugging only."""
    if resource is None:
        return ()
    identifier = (resource - 1).to_bytes(IDENTIFIER_LENGTH, "big") if resource else b""
    return (NotifyPayload(NotifyType.SA_RESOURCE_INFO, identifier),)


def accepted_resource(offered: int | None, response: Message) -> int | None:
    """What became of our offer: a peer that knows nothing of it makes the first an ordinary Child SA, and no second.

    Raises:
        TsMaxQueue: it made an ordinary one where there is one already.
    """
    if offered is None or response.notify(NotifyType.SA_RESOURCE_INFO) is not None:
        return offered
    if offered:
        raise TsMaxQueue("the peer made an ordinary Child SA in the place of a per-resource one")
    return None
