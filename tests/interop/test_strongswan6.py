"""strongSwan 6 with its own ESP in user space: additional key exchanges with ML-KEM (RFC 9242, RFC 9370).

host A --- gateway A: ipsecfast === UDP 4500 === gateway B: charon, kernel-libipsec --- host B
10.1.0.2             192.0.2.1                   192.0.2.2                              10.2.0.2
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import strongswan
from against_strongswan import GENTLE, OURS, THEIRS, Tunnel, our_config, their_connection
from conftest import StartGateway
from revocations import octets, response_of
from strongswan import Release, StrongSwan
from test_gateway_workers import own_sas
from test_strongswan_credentials import Authority, finding, refused, responder

from ipsecfast.lab.netns import B, TwoSites
from ipsecfast.lab.testbed import TRAFFIC, GatewayProcess, Stream, wait_for
from ipsecfast.pki import Pointers

pytestmark = pytest.mark.matrix
HYBRID = "aes256gcm16-prfsha384-x25519-ke1_mlkem768"


@pytest.fixture(scope="module", autouse=True)
def sinks(sites: TwoSites) -> None:
    """Host B takes TCP streams."""
    sites.b.host.start([*TRAFFIC, "tcp-receive", B.host[0], "7001"], stdout=-3)


@pytest.fixture(scope="module")
def peer(sites: TwoSites) -> Iterator[StrongSwan]:
    release = strongswan.release_6()
    if not isinstance(release, Release):
        pytest.skip(release)
    with tempfile.TemporaryDirectory(prefix="ipsecfast-", dir=release.root / "tmp") as folder:
        daemon = strongswan.in_namespace(sites.b.gateway, Path(folder), release)
        yield daemon
        daemon.close()


@pytest.mark.parametrize("side", [OURS, THEIRS])
@pytest.mark.parametrize(
    "ike",
    [
        HYBRID,
        "aes256gcm16-prfsha384-x25519-ke1_mlkem1024",
        "aes128-sha256-ecp256-ke1_mlkem768-ke2_x448",
        "aes256gcm16-prfsha384-mlkem768",
        "aes128gcm16-prfsha256-x25519",
    ],
)
def test_ike_sa(sites: TwoSites, start_gateway: StartGateway, peer: StrongSwan, ike: str, side: str) -> None:
    peer.load(their_connection(proposals=ike))
    tunnel = Tunnel(start_gateway(sites.a.gateway, our_config(connection={"proposals": [ike]})), peer, sites.a.host)
    tunnel.up(side)
    (ike_sa,) = tunnel.ours.status()["connections"][0]["ike_sas"]
    assert ike_sa["quantum_resistant"] == ("mlkem" in ike)
    tunnel.answers(B.host[0])
    tunnel.down(OURS)


@pytest.mark.parametrize(
    ("esp", "side"),
    [
        ("aes128gcm16", OURS),
        ("aes128gcm16-x25519", THEIRS),
        ("aes128gcm16-x25519-ke1_mlkem768", OURS),
        ("aes256gcm16-ecp256-ke1_mlkem1024-ke2_x25519", THEIRS),
    ],
)
def test_rekeys_under_ping_and_tcp(
    sites: TwoSites, start_gateway: StartGateway, peer: StrongSwan, esp: str, side: str
) -> None:
    """Child SA and IKE SA, by both sides, with IKE_FOLLOWUP_KE; no packet is lost."""
    peer.load(their_connection(proposals=HYBRID, esp_proposals=esp))
    config = our_config(connection={"proposals": [HYBRID]}, child={"esp_proposals": [esp]})
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), peer, sites.a.host)
    tunnel.up(side)
    tunnel.rekeys_under_traffic(B.host[0])
    (ike_sa,) = tunnel.ours.status()["connections"][0]["ike_sas"]
    assert (ike_sa["quantum_resistant"], ike_sa["proposal"]) == (True, HYBRID)
    assert ike_sa["child_sas"][0]["proposal"] == esp
    tunnel.down(THEIRS)


@pytest.mark.parametrize("side", [OURS, THEIRS])
def test_defaults_meet(sites: TwoSites, start_gateway: StartGateway, peer: StrongSwan, side: str) -> None:
    """What we offer when nothing is configured, and strongSwan's default."""
    peer.load(their_connection(proposals="default", esp_proposals="default"))
    config = our_config()
    del config["connections"]["net"]["proposals"]
    config["connections"]["net"]["children"]["net"].pop("esp_proposals", None)
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), peer, sites.a.host)
    tunnel.up(side)
    tunnel.answers(B.host[0])
    tunnel.down(OURS)


@pytest.mark.parametrize("side", [OURS, THEIRS])
def test_per_resource_child_sas(sites: TwoSites, start_gateway: StartGateway, peer: StrongSwan, side: str) -> None:
    """RFC 9611: `per_cpu_sas` at both ends; each of our workers gets its own, rekeyed by both sides under TCP."""
    peer.load(their_connection(proposals="aes128gcm16-prfsha256-x25519", per_cpu_sas="yes"))
    config = our_config(child={"per_cpu_sas": True})
    config["gateway"]["workers"] = 2
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), peer, sites.a.host)
    tunnel.up(side)
    streams = [
        Stream(sites.a.host, sites.b.host, B.host[0], port=7400 + i + 10 * (side == OURS), pace=GENTLE // 8)
        for i in range(8)
    ]
    wait_for("a Child SA for each worker", lambda: set(own_sas(tunnel.ours)) == {0, 1, 2}, every=0.2)
    wait_for("the peer has them too", lambda: peer.child_spis() == spis(tunnel.ours), every=0.2)
    assert peer.log_text().count("as one of several") >= 2
    ours, theirs = ("rekey", "net", "net"), ("--rekey", "--child", "net")
    for rekey in (partial(tunnel.ours.command, *ours), partial(peer.swanctl, *theirs)):
        before = spis(tunnel.ours)
        rekey()
        wait_for("successors of all three", partial(renewed, tunnel.ours, before), every=0.2)
        wait_for("the peer has them too", lambda: peer.child_spis() == spis(tunnel.ours), every=0.2)
    for stream in streams:
        stream.goes_on()
        stream.finish()
    # "unknown-spi" may be: on a busy machine their packets are under way for longer than we keep an SA that is deleted.
    assert not {"replay", "selector"} & tunnel.ours.status()["drops"].keys()
    tunnel.down(THEIRS)


def spis(gateway: GatewayProcess) -> set[str]:
    """Our outbound SPIs of the Child SAs that are in use, which are the peer's inbound ones."""
    return {child["spi_out"] for child in own_sas(gateway).values()}


def renewed(gateway: GatewayProcess, before: set[str]) -> bool:
    return len(own_sas(gateway)) == len(before) and not spis(gateway) & before


# -- OCSP inside IKE (RFC 4806), which release 5.9 has not -------------------------------------------------------------

THEIR_OWN = "http://127.0.0.1:8081"  # of their gateway alone: what we know of it came inside IKE


@pytest.fixture
def authority(peer: StrongSwan) -> Iterator[Authority]:
    """Where both daemons see it."""
    with tempfile.TemporaryDirectory(prefix="authority-", dir=peer.folder) as folder:
        yield Authority.make(Path(folder), Pointers((), (THEIR_OWN,)))


@pytest.mark.parametrize("side", [OURS, THEIRS])
def test_they_bring_an_ocsp_response(
    sites: TwoSites, start_gateway: StartGateway, peer: StrongSwan, authority: Authority, side: str
) -> None:
    """We ask and are strict; they fetch it from a responder that we can't reach."""
    peer.load(authority.theirs(peer.release, more="ocsp = reply"))
    config = authority.ours(revocation="strict")
    config["connections"]["net"]["ocsp"] = "request"
    with responder(sites.b.gateway, authority):
        tunnel = Tunnel(start_gateway(sites.a.gateway, config), peer, sites.a.host)
        tunnel.up(side)
        assert 'says the OCSP response by "CN=Root" of ' in finding(tunnel.ours)["text"]
        tunnel.down(OURS)


@pytest.mark.parametrize("side", [OURS, THEIRS])
def test_we_bring_an_ocsp_response(
    sites: TwoSites, start_gateway: StartGateway, peer: StrongSwan, authority: Authority, side: str
) -> None:
    """They ask and are strict, and no responder answers: ours comes from a file. Another one's is not enough."""
    peer.load(authority.theirs(peer.release, more="ocsp = request", more_remote="revocation = strict"))
    response = authority.folder / "a.ocsp"
    config = authority.ours()
    config["connections"]["net"]["local"]["ocsp_responses"] = [str(response)]
    for certificate, enough in ((authority.b.certificate, False), (authority.a.certificate, True)):
        response.write_bytes(octets(response_of(certificate, authority.ca)))
        tunnel = Tunnel(start_gateway(sites.a.gateway, config), peer, sites.a.host)
        if enough:
            tunnel.up(side)
            tunnel.down(OURS)
        else:
            assert "AUTHENTICATION_FAILED" in refused(tunnel.ours)
            tunnel.ours.close()
