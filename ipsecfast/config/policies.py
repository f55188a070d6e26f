"""`[[policies]]`: explicit BYPASS and DISCARD entries of the SPD, before those of the tunnels (RFC 4301 s4.4.1)."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_network

from ipsecfast.config import values
from ipsecfast.config.section import Section
from ipsecfast.model import Policy, PolicyAction, TrafficSelector


class ExplicitAction(StrEnum):
    BYPASS = "bypass"
    DISCARD = "discard"


_ACTIONS = {ExplicitAction.BYPASS: PolicyAction.BYPASS, ExplicitAction.DISCARD: PolicyAction.DISCARD}
_EVERYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def read_policies(root: Section) -> tuple[Policy, ...]:
    return tuple(policy for section in root.array("policies") if (policy := _read_policy(section)) is not None)


def _read_policy(section: Section) -> Policy | None:
    action = section.require("action", values.choice(ExplicitAction), ExplicitAction.DISCARD, "bypass or discard")
    source = section.take("source", values.fixed_selector, None)
    destination = section.take("destination", values.fixed_selector, None)
    section.finish()
    if source is None and destination is None:
        if "source" not in section and "destination" not in section:
            section.problem("destination", None, "missing: a policy needs a source, a destination or both")
        return None
    source = source or _everywhere(destination)
    destination = destination or _everywhere(source)
    if source.version != destination.version:
        section.problem("destination", str(destination), f"is not of the same address family as the source {source}")
    if source.protocol and destination.protocol and source.protocol != destination.protocol:
        section.problem("destination", str(destination), f"is for another protocol than the source {source}")
    return Policy(source, destination, _ACTIONS[action])


def _everywhere(other: TrafficSelector | None) -> TrafficSelector:
    """All addresses of the family of the other end."""
    assert other is not None  # noqa: S101 - the caller has one of the two
    return TrafficSelector.from_network(_EVERYWHERE[other.version])
