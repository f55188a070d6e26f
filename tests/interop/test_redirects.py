"""Redirects (RFC 5685) between two ipsecfast; the addresses: `second_gateways`."""

from __future__ import annotations

import pytest
from conftest import StartGateway
from second_gateways import OURS, add_second_addresses, moved, twice

from ipsecfast.lab.netns import A, B, TwoSites
from ipsecfast.lab.testbed import TestbedError, tunnel_config
from ipsecfast.lab.traffic import ping


@pytest.fixture(scope="module")
def second(sites: TwoSites) -> TwoSites:
    return add_second_addresses(sites)


def test_two_of_ours(second: TwoSites, start_gateway: StartGateway) -> None:
    """Drained and taken back into service."""
    ours = start_gateway(second.a.gateway, twice(tunnel_config(A, B), OURS))
    other = start_gateway(second.b.gateway, tunnel_config(B, A))
    other.command("initiate", "net")
    moved(ours, A.outer[0])
    ours.command("redirect", "net", gateway=OURS)
    moved(ours, OURS)
    assert None not in second.a.host.run(ping, B.host[0], 3, 0.05)
    assert ours.command("redirect", "net")["message"] == "net: peers are served here again"
    other.command("terminate", "net")
    other.command("initiate", "net")
    moved(ours, A.outer[0])


def test_a_name_is_resolved(second: TwoSites, start_gateway: StartGateway) -> None:
    """`localhost` is a name that every machine knows, and no gateway: the next attempt is made where it was."""
    start_gateway(second.a.gateway, twice(tunnel_config(A, B), OURS, redirect_to="localhost"))
    other = start_gateway(second.b.gateway, tunnel_config(B, A))
    with pytest.raises(TestbedError, match="the gateway localhost has no address for us"):
        other.command("initiate", "net", timeout=5.0)
    assert other.log_text().count("initiating to 192.0.2.1") >= 2
    assert "a loop" in other.log_text()
