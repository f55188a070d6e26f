"""strongSwan 5.9 with its own ESP in user space at the other end: ESP in UDP, because it pretends a NAT.

host A --- gateway A: ipsecfast === UDP 4500 === gateway B: charon, kernel-libipsec --- host B
10.1.0.2             192.0.2.1                   192.0.2.2                              10.2.0.2
fd00:a::2                                                                               fd00:b::2
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from against_strongswan import OURS, THEIRS, Tunnel, our_config, their_connection
from conftest import StartGateway
from strongswan import StrongSwan

from ipsecfast.lab.netns import A, B, TwoSites
from ipsecfast.lab.testbed import TRAFFIC, TestbedError
from ipsecfast.pki import KeyType, make_authority, make_certificate

PFS = {"ours": ["aes128gcm16-x25519"], "theirs": "aes128gcm16-x25519"}
PLAIN = {"ours": ["aes128gcm16"], "theirs": "aes128gcm16"}


@pytest.fixture(scope="module", autouse=True)
def sinks(sites: TwoSites) -> None:
    """Host B takes TCP streams on both addresses."""
    for address in B.host:
        sites.b.host.start([*TRAFFIC, "tcp-receive", address, "7001"], stdout=-3)


@pytest.fixture
def tunnel(sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan) -> Iterator[Tunnel]:
    strongswan_b.load(their_connection(inner=(4, 6)))
    yield Tunnel(start_gateway(sites.a.gateway, our_config(inner=(4, 6))), strongswan_b, sites.a.host)
    strongswan_b.swanctl("--terminate", "--ike", "net", "--force", check=False)


@pytest.mark.parametrize("side", [OURS, THEIRS])
def test_up_and_deleted_from_both_sides(tunnel: Tunnel, side: str) -> None:
    tunnel.up(side)
    child = tunnel.ours.expect_child()
    assert child.udp_encap
    tunnel.answers(*B.host)
    tunnel.down(OURS if side == THEIRS else THEIRS)
    tunnel.up(side)
    tunnel.answers(*B.host)
    tunnel.down(side, "child")


@pytest.mark.parametrize("esp", [PLAIN, PFS], ids=["no-pfs", "pfs"])
@pytest.mark.parametrize("version", [4, 6])
def test_rekeys_under_ping_and_tcp(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, esp: dict[str, str], version: int
) -> None:
    strongswan_b.load(their_connection(inner=(4, 6), esp_proposals=esp["theirs"]))
    ours = start_gateway(sites.a.gateway, our_config(inner=(4, 6), child={"esp_proposals": esp["ours"]}))
    tunnel = Tunnel(ours, strongswan_b, sites.a.host)
    tunnel.up(OURS if version == 4 else THEIRS)
    tunnel.rekeys_under_traffic(B.host[0 if version == 4 else 1])
    tunnel.down(OURS)


@pytest.mark.parametrize(
    "ike",
    [
        "aes128gcm16-prfsha256-x25519",
        "aes256gcm16-prfsha384-ecp384",
        "aes128gcm16-prfsha256-ecp256",
        "aes256-sha256-modp2048",
        "aes128-sha512-modp3072",
    ],
)
def test_ike_algorithms(sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, ike: str) -> None:
    strongswan_b.load(their_connection(proposals=ike, esp_proposals="aes256gcm16"))
    config = our_config(connection={"proposals": [ike]}, child={"esp_proposals": ["aes256gcm16"]})
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
    tunnel.up(OURS)
    tunnel.rekey("ike", OURS)
    tunnel.answers(B.host[0])
    tunnel.down(THEIRS)


def test_group_is_corrected(sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan) -> None:
    """INVALID_KE_PAYLOAD (RFC 7296 s1.2): our first guess is x25519, strongSwan takes ECP-256 alone."""
    strongswan_b.load(their_connection(proposals="aes128gcm16-prfsha256-ecp256"))
    config = our_config(connection={"proposals": ["aes128gcm16-prfsha256-x25519-ecp256"]})
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
    tunnel.up(OURS)
    tunnel.answers(B.host[0])
    tunnel.down(OURS)


@pytest.mark.parametrize("side", [OURS, THEIRS])
def test_defaults_meet(sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, side: str) -> None:
    """Release 5.9 passes over our first proposal, which has an additional key exchange (RFC 9370)."""
    strongswan_b.load(their_connection(proposals="default", esp_proposals="default"))
    config = our_config()
    del config["connections"]["net"]["proposals"]
    config["connections"]["net"]["children"]["net"].pop("esp_proposals", None)
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
    tunnel.up(side)
    (ike_sa,) = tunnel.ours.status()["connections"][0]["ike_sas"]
    assert not ike_sa["quantum_resistant"]
    tunnel.rekey("ike", OURS)
    tunnel.rekey("child", OURS)
    tunnel.answers(B.host[0])
    tunnel.down(OURS)


def test_selectors_are_narrowed(sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan) -> None:
    strongswan_b.load(their_connection(local_ts="10.2.0.0/25", remote_ts="10.0.0.0/8"))
    tunnel = Tunnel(start_gateway(sites.a.gateway, our_config()), strongswan_b, sites.a.host)
    tunnel.up(OURS)
    assert tunnel.ours.expect_child().remote_ts == ("10.2.0.0/25",)
    tunnel.answers(B.host[0])
    tunnel.down(OURS)


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        ({"secret": "another one"}, "AUTHENTICATION_FAILED"),
        ({"proposals": "aes256gcm16-prfsha384-ecp384"}, "accepts none of our IKE proposals"),
        ({"esp_proposals": "aes256gcm16"}, "NO_PROPOSAL_CHOSEN"),
        ({"local_ts": "10.77.0.0/24"}, "TS_UNACCEPTABLE"),
    ],
)
def test_refusals_are_named(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, theirs: dict[str, str], says: str
) -> None:
    strongswan_b.load(their_connection(**theirs))
    ours = start_gateway(sites.a.gateway, our_config(child={"esp_proposals": ["aes128gcm16"]}))
    with pytest.raises(TestbedError, match=says):
        ours.command("initiate", "net")
    assert ours.child() is None
    strongswan_b.swanctl("--terminate", "--ike", "net", "--force", check=False)


@pytest.mark.parametrize("side", [OURS, THEIRS])
def test_ike_messages_in_fragments(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, side: str
) -> None:
    """RFC 7383: thirty-two IPv6 selectors make an IKE_AUTH longer than 1,280 octets, in both directions."""
    ours = [A.networks[1], *(f"fd00:a:{n:x}::/64" for n in range(1, 32))]
    strongswan_b.load(their_connection(inner=(6,), remote_ts=",".join(ours)))
    config = our_config(inner=(6,), child={"local_ts": ours})
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
    tunnel.up(side)
    tunnel.answers(B.host[1])
    assert tunnel.ours.status()["ike"]["fragments kept"] >= 1
    assert "splitting IKE message" in strongswan_b.log_text()
    assert "reassembled fragmented IKE message" in strongswan_b.log_text()
    tunnel.rekey("child", THEIRS)
    tunnel.rekey("child", OURS)
    tunnel.down(OURS)


@pytest.mark.parametrize("side", [OURS, THEIRS])
@pytest.mark.parametrize(
    ("kind", "pss"),
    [
        (KeyType.RSA2048, False),
        (KeyType.RSA3072, True),
        (KeyType.ECDSA256, False),
        (KeyType.ECDSA384, False),
        (KeyType.ECDSA521, False),
        (KeyType.ED25519, False),
        (KeyType.ED448, False),
    ],
    ids=str,
)
def test_certificates(
    sites: TwoSites,
    start_gateway: StartGateway,
    strongswan_b: StrongSwan,
    tmp_path: Path,
    kind: KeyType,
    pss: bool,
    side: str,
) -> None:
    """RFC 7427 with every kind of key, an authority in between on both sides."""
    root = make_authority("Root", kind)
    middle = make_authority("Middle", kind, issuer=root)
    root.save(tmp_path / "root.pem", tmp_path / "root.key")
    middle.save(tmp_path / "middle.pem", tmp_path / "middle.key")
    for name in "ab":
        make_certificate([f"{name}.test"], kind, middle).save(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    files = {name: str(tmp_path / f"{name}.pem") for name in ("root", "middle", "a", "b")}
    strongswan_b.load(
        their_connection(
            auth="pubkey" if not pss else "ike:rsa/pss-sha256",
            certs=f"{files['b']}, {files['middle']}",
            cacert=files["root"],
            key=str(tmp_path / "b.key"),
        )
    )
    config = our_config()
    ours = config["connections"]["net"]
    ours["local"] |= {
        "auth": "pubkey", "certs": [files["a"], files["middle"]], "key": str(tmp_path / "a.key"), "rsa_pss": pss
    }  # fmt: skip
    ours["remote"] |= {"auth": "pubkey", "cacerts": [files["root"]]}
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
    tunnel.up(side)
    tunnel.answers(B.host[0])
    tunnel.rekey("ike", THEIRS if side == OURS else OURS)
    tunnel.down(OURS)


@pytest.mark.parametrize(
    "group",
    ["ecp384", "ecp521", "ecp256bp", "ecp384bp", "ecp512bp", "x448", "modp2048", "modp4096", "modp6144", "modp8192"],
)
def test_key_exchange_methods(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, group: str
) -> None:
    """IKE SA, and the Child SA's rekey with a key exchange of its own."""
    ike, esp = f"aes256gcm16-prfsha384-{group}", f"aes256gcm16-{group}"
    strongswan_b.load(their_connection(proposals=ike, esp_proposals=esp))
    config = our_config(connection={"proposals": [ike]}, child={"esp_proposals": [esp]})
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
    tunnel.up(OURS)
    tunnel.rekey("child", THEIRS)
    tunnel.rekey("child", OURS)
    tunnel.answers(B.host[0])
    tunnel.down(THEIRS)


@pytest.mark.parametrize("side", [OURS, THEIRS])
def test_several_selectors_with_ports_are_narrowed(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, side: str
) -> None:
    """RFC 7296 s2.9: what both ends allow, the same whoever asks, and after rekeys by both."""
    a, b = A.networks[0], B.networks[0]
    child = {"local_ts": [f"{a}[tcp]", f"{a}[udp/5000-5010]"], "remote_ts": [f"{b}[tcp]", f"{b}[udp]"]}
    local_ts, remote_ts = f"{b}[tcp/80],{b}[udp]", f"{a}[tcp],{a}[udp/5005-5020]"
    strongswan_b.load(their_connection(local_ts=local_ts, remote_ts=remote_ts))
    tunnel = Tunnel(start_gateway(sites.a.gateway, our_config(child=child)), strongswan_b, sites.a.host)
    tunnel.up(side)
    for rekey in (None, OURS, THEIRS):
        if rekey:
            tunnel.rekey("child", rekey)
        (sa,) = tunnel.ours.status()["connections"][0]["ike_sas"][0]["child_sas"]
        assert set(sa["local_ts"]) == {f"{a}[6]", f"{a}[17/5005-5010]"}
        assert set(sa["remote_ts"]) == {f"{b}[6/80]", f"{b}[17]"}
    tunnel.down(OURS)
