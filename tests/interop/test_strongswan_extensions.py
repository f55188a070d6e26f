"""What beyond RFC 7296 strongSwan 5.9 has too: PPKs (RFC 8784), childless IKE SAs (RFC 6023).

Its ESP is in user space, as in the other tests:

host A --- gateway A: ipsecfast === UDP 4500 === gateway B: charon, kernel-libipsec --- host B
"""

from __future__ import annotations

from typing import Any

import pytest
from against_strongswan import OURS, THEIRS, Tunnel, our_config, their_connection
from conftest import StartGateway
from strongswan import StrongSwan

from ipsecfast.lab.netns import B, TwoSites
from ipsecfast.lab.testbed import TestbedError

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


def test_ppk_mismatches_are_refused(sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan) -> None:
    strongswan_b.load(their_connection(**their_ppk()))
    ours = start_gateway(sites.a.gateway, with_ppk(OTHER_PPK))
    with pytest.raises(TestbedError, match="AUTHENTICATION_FAILED"):
        ours.command("initiate", "net")
    strongswan_b.load(their_connection())
    ours.close()
    ours = start_gateway(sites.a.gateway, with_ppk(ppk_required=True))
    with pytest.raises(TestbedError, match="the peer uses no PPK"):
        ours.command("initiate", "net")


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
