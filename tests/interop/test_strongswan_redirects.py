"""Redirects (RFC 5685) to and from strongSwan 5.9 with its own ESP; the addresses: `second_gateways`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from against_strongswan import our_config, their_connection
from conftest import StartGateway
from second_gateways import OURS, THEIRS, add_second_addresses, moved, twice
from strongswan import StrongSwan

from ipsecfast.lab.netns import A, B, TwoSites
from ipsecfast.lab.testbed import wait_for
from ipsecfast.lab.traffic import ping


@pytest.fixture(scope="module")
def second(sites: TwoSites) -> TwoSites:
    return add_second_addresses(sites)


@pytest.fixture
def strongswan(second: TwoSites, strongswan_b: StrongSwan) -> Iterator[StrongSwan]:
    yield strongswan_b
    strongswan_b.swanctl("--terminate", "--ike", "net", "--force", check=False)


def test_strongswan_goes_where_it_is_sent(
    second: TwoSites, start_gateway: StartGateway, strongswan: StrongSwan
) -> None:
    """In IKE_SA_INIT."""
    ours = start_gateway(second.a.gateway, twice(our_config(), OURS, redirect_to=OURS))
    strongswan.load(their_connection())
    strongswan.initiate()
    moved(ours, OURS)
    assert ours.status()["ike"]["redirected"] == 1
    assert None not in second.a.host.run(ping, B.host[0], 3, 0.05)


def test_strongswan_goes_away_when_it_is_told_to(
    second: TwoSites, start_gateway: StartGateway, strongswan: StrongSwan
) -> None:
    """From a tunnel that stands: `ipsecfast redirect`."""
    ours = start_gateway(second.a.gateway, twice(our_config(), OURS))
    strongswan.load(their_connection())
    strongswan.initiate()
    moved(ours, A.outer[0])
    told = ours.command("redirect", "net", gateway=OURS)["message"]
    assert told == f"net: 1 peers went to {OURS}, new ones are sent there"
    moved(ours, OURS)
    assert None not in second.a.host.run(ping, B.host[0], 3, 0.05)


def test_strongswan_sends_us_away(second: TwoSites, start_gateway: StartGateway, strongswan: StrongSwan) -> None:
    """From a tunnel that stands: its command `--redirect`."""
    strongswan.load(replace(their_connection(), local=f"{B.outer[0]},{THEIRS}"))
    ours = start_gateway(second.a.gateway, our_config())
    ours.command("initiate", "net")
    moved(ours, B.outer[0], remote=True)
    strongswan.swanctl("--redirect", "--ike", "net", "--gateway", THEIRS)
    moved(ours, THEIRS, remote=True)
    assert None not in second.a.host.run(ping, B.host[0], 3, 0.05)
    wait_for("one IKE SA", lambda: ours.counts() == (1, 1))
