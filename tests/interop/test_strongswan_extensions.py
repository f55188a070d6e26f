"""What beyond RFC 7296 strongSwan 5.9 has too: PPKs (RFC 8784), childless IKE SAs (RFC 6023), reauthentication.

Its ESP is in user space, as in the other tests:

host A --- gateway A: ipsecfast === UDP 4500 === gateway B: charon, kernel-libipsec --- host B
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from against_strongswan import OURS, THEIRS, Tunnel, our_config, their_connection
from conftest import StartGateway
from strongswan import StrongSwan

from ipsecfast.lab.netns import B, TwoSites
from ipsecfast.lab.testbed import SteadyPing, TestbedError, wait_for

PPK = "0x" + bytes(range(32)).hex()
OTHER_PPK = "0x" + bytes(32).hex()
SIDES = pytest.mark.parametrize("side", [OURS, THEIRS])


def ike_sa(tunnel: Tunnel) -> dict[str, Any]:
    (found,) = tunnel.ours.status()["connections"][0]["ike_sas"]
    return found


def with_ppk(secret: str = PPK, name: str = "ppk-1", **options: Any) -> dict[str, Any]:
    config = our_config(connection={"ppk_id": name, **options})
    config["secrets"]["quantum"] = {"type": "ppk", "ids": [name], "secret": secret}
    return config


def their_ppk(name: str = "ppk-1", *, required: str = "no") -> dict[str, str]:
    return {
        "more": f"ppk_id = {name}\nppk_required = {required}",
        "more_secrets": f"ppk-1 {{\n id = {name}\n secret = {PPK}\n}}",
    }


@SIDES
@pytest.mark.parametrize("required", [False, True], ids=["optional", "required"])
def test_ppk(sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, side: str, required: bool) -> None:
    """RFC 8784: in SK_d from IKE_AUTH on, so the Child SA is quantum-resistant, and the IKE SA once it is rekeyed."""
    strongswan_b.load(their_connection(**their_ppk(required="yes" if required else "no")))
    tunnel = Tunnel(start_gateway(sites.a.gateway, with_ppk(ppk_required=required)), strongswan_b, sites.a.host)
    tunnel.up(side)
    found = ike_sa(tunnel)
    assert (found["ppk"], found["quantum_resistant"]) == ("ppk-1", False)
    assert found["child_sas"][0]["quantum_resistant"]
    tunnel.answers(B.host[0])
    for rekeying in (OURS, THEIRS):
        tunnel.rekey("child", rekeying)
        tunnel.rekey("ike", rekeying)
    assert ike_sa(tunnel)["quantum_resistant"]
    tunnel.answers(B.host[0])
    tunnel.down(side)


@SIDES
def test_without_a_common_ppk(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, side: str
) -> None:
    """NO_PPK_AUTH: neither insists, so both go on without. (A wrong ppk_id is refused by strongSwan whatever it says of
    ppk_required; so the name is right and its secret missing.)"""
    theirs = their_ppk()
    strongswan_b.load(
        their_connection(more=theirs["more"], more_secrets=theirs["more_secrets"].replace("id = ppk-1", "id = ppk-2"))
    )
    tunnel = Tunnel(start_gateway(sites.a.gateway, with_ppk()), strongswan_b, sites.a.host)
    tunnel.up(side)
    assert ike_sa(tunnel)["ppk"] == ""
    assert not ike_sa(tunnel)["child_sas"][0]["quantum_resistant"]
    tunnel.answers(B.host[0])
    tunnel.down(side)


@SIDES
def test_childless(sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, side: str) -> None:
    """RFC 6023: the first Child SA by CREATE_CHILD_SA, with a key exchange of its own; both insist on it."""
    strongswan_b.load(their_connection(more="childless = force", esp_proposals="aes128gcm16-x25519"))
    config = our_config(connection={"childless": "force"}, child={"esp_proposals": ["aes128gcm16-x25519"]})
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
    tunnel.up(side)
    assert ike_sa(tunnel)["child_sas"][0]["proposal"] == "aes128gcm16-x25519"
    tunnel.answers(B.host[0])
    tunnel.down(side)


@pytest.mark.parametrize("unique", ["replace", "never"])
def test_reauthentication_begun_here(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, unique: str
) -> None:
    """RFC 7296 s2.8.3, make before break: a new IKE SA beside the old one. As responder strongSwan sends on the new
    Child SA at once, so an answer may overtake its IKE_AUTH response; no more than that one is lost each time."""
    strongswan_b.load(their_connection())
    tunnel = Tunnel(
        start_gateway(sites.a.gateway, our_config(connection={"unique": unique})), strongswan_b, sites.a.host
    )
    tunnel.up(OURS)
    pings = SteadyPing(sites.a.host, B.host[0])
    for _ in range(3):
        before = tunnel.ours.expect_child()
        tunnel.ours.command("reauthenticate", "net")
        tunnel.agree()
        after = tunnel.ours.expect_child()
        assert after.ike_spi != before.ike_spi
        assert after.spi_in != before.spi_in
    assert pings.finish() <= 3
    tunnel.down(THEIRS)


@SIDES
def test_reauthentication_begun_there(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, side: str
) -> None:
    """By time at their end, as often as there is any: strongSwan makes before it breaks too, where it is told to."""
    strongswan_b.load(their_connection(more="reauth_time = 3s\nrand_time = 0s\nover_time = 10s"))
    tunnel = Tunnel(start_gateway(sites.a.gateway, our_config()), strongswan_b, sites.a.host)
    tunnel.up(side)
    pings = SteadyPing(sites.a.host, B.host[0])
    seen = set()
    deadline = time.monotonic() + 30
    while len(seen) < 4 and time.monotonic() < deadline:
        seen |= {sa["spi_i"] for sa in tunnel.ours.status()["connections"][0]["ike_sas"]}
        time.sleep(0.2)
    strongswan_b.load(their_connection())
    assert len(seen) >= 4
    assert pings.finish() == 0


def test_auth_lifetime_is_obeyed_there(sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan) -> None:
    """RFC 4478: we answer with the time we want, they begin before it is over."""
    strongswan_b.load(their_connection(more="over_time = 5s"))  # their margin: reauthentication begins so much earlier
    config = our_config(connection={"reauth_time": 15, "rand_time": 0, "over_time": 20})
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
    tunnel.up(THEIRS)
    before = tunnel.ours.expect_child().ike_spi
    assert "received AUTH_LIFETIME" in strongswan_b.log_text()
    pings = SteadyPing(sites.a.host, B.host[0])
    wait_for("a new IKE SA", lambda: tunnel.ours.expect_child().ike_spi != before, seconds=30)
    tunnel.agree()
    assert pings.finish() == 0
    tunnel.down(OURS)


def test_ppk_mismatches_are_refused(sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan) -> None:
    """Last, as their half of what we gave up stays for a while."""
    strongswan_b.load(their_connection(**their_ppk()))
    ours = start_gateway(sites.a.gateway, with_ppk(OTHER_PPK))
    with pytest.raises(TestbedError, match="AUTHENTICATION_FAILED"):
        ours.command("initiate", "net")
    strongswan_b.load(their_connection())
    ours.close()
    ours = start_gateway(sites.a.gateway, with_ppk(ppk_required=True))
    with pytest.raises(TestbedError, match="the peer uses no PPK"):
        ours.command("initiate", "net")
