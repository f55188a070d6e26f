"""What our log and `status` say when a negotiation with strongSwan fails, and that it is right: the remedy is obeyed.

strongSwan is configured otherwise than we are. Whoever initiates, our sentence names the field, what each side has, and
the lines of its swanctl.conf that fit; those lines are written there, and the tunnel comes up. It says whose product it
is by its vendor ID (`charon.send_vendor_id`).

host A --- gateway A: ipsecfast === UDP 4500 === gateway B: charon, kernel-libipsec --- host B
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import strongswan
from against_strongswan import OURS, THEIRS, Tunnel, our_config, their_connection
from conftest import StartGateway
from strongswan import Connection, StrongSwan
from test_strongswan_credentials import Authority

from ipsecfast.ike.wire.mismatch import Field
from ipsecfast.lab.netns import TwoSites
from ipsecfast.lab.testbed import GatewayProcess, TestbedError, wait_for
from ipsecfast.pki import Pointers

ESP = "aes128gcm16"
STRONGSWAN = "what fits on the other gateway (strongSwan, swanctl.conf): "
UNNAMED = "what fits on the other gateway: "  # a NO_PROPOSAL_CHOSEN to IKE_SA_INIT brings no vendor ID
ALL_OF_IT = f"{STRONGSWAN}remote.id = a.test, local.id = b.test, remote.auth = "
BY_SECRET = f"{ALL_OF_IT}psk, the secret that has the ids of both ends (a.test and b.test)"
THE_CHILD = "local_ts = 10.2.0.0/24 and remote_ts = 10.1.0.0/24 of the child"
IKE = "proposals = aes128gcm16-prfsha256-x25519"


@dataclass(frozen=True)
class Kind:
    """What they have otherwise; what we say, by who initiates: the field, a part of the sentence, the remedy."""

    theirs: dict[str, str]
    says: dict[str, tuple[Field, str, str]]
    connection: dict[str, Any] = field(default_factory=dict)  # of ours, and our child
    child: dict[str, Any] = field(default_factory=dict)
    certificates: bool = False
    obeyed: bool = True  # their ESP in user space has no tunnel between the gateways' own addresses


KINDS = {
    "pre-shared key": Kind(
        {"secret": "another"},
        {
            OURS: (Field.PROOF, "we said that we are a.test and asked for b.test, and proved it by the", BY_SECRET),
            THEIRS: (
                Field.SECRET,
                "b.test has another secret than we have for us as a.test",
                f"{STRONGSWAN}the secret that has the ids of both ends (a.test and b.test)",
            ),
        },
    ),
    "their identity": Kind(
        {"local_id": "c.test"},
        {
            OURS: (Field.PROOF, "asked for b.test", BY_SECRET),
            THEIRS: (Field.PEER_IDENTITY, "the peer says it is c.test", f"{STRONGSWAN}local.id = b.test"),
        },
    ),
    "our identity": Kind(
        {"remote_id": "c.test"},
        {
            OURS: (Field.PROOF, "we said that we are a.test", BY_SECRET),
            THEIRS: (Field.OUR_IDENTITY, "asks for c.test", f"{STRONGSWAN}remote.id = a.test"),
        },
    ),
    "encryption of the IKE SA": Kind(
        {"proposals": "aes256gcm16-prfsha256-x25519"},
        {
            OURS: (Field.PROPOSAL, "accepts none of our IKE proposals aes128gcm16-prfsha256-x25519", UNNAMED + IKE),
            THEIRS: (Field.ENCRYPTION, "the peer offers aes256gcm16; configured: aes128gcm16", STRONGSWAN + IKE),
        },
    ),
    "PRF": Kind(
        {"proposals": "aes128gcm16-prfsha384-x25519"},
        {THEIRS: (Field.PRF, "the peer offers prfsha384; configured: prfsha256", STRONGSWAN + IKE)},
    ),
    "key exchange": Kind(
        {"proposals": "aes128gcm16-prfsha256-ecp384"},
        {THEIRS: (Field.KEY_EXCHANGE, "the peer offers ecp384; configured: x25519", STRONGSWAN + IKE)},
    ),
    "product that the operator named": Kind(
        {"proposals": "aes128gcm16-prfsha256-ecp384"},
        {OURS: (Field.PROPOSAL, "or has no connection for our addresses", STRONGSWAN + IKE)},
        connection={"vendor": "strongswan"},
    ),
    "encryption of the Child SA": Kind(
        {"esp_proposals": "aes256gcm16"},
        {
            OURS: (
                Field.PROPOSAL,
                "we offered 10.1.0.0/24 === 10.2.0.0/24 with aes128gcm16",
                f"{STRONGSWAN}esp_proposals = aes128gcm16 of the child",
            ),
            THEIRS: (
                Field.ENCRYPTION,
                "the peer offers aes256gcm16; configured: aes128gcm16",
                f"{STRONGSWAN}esp_proposals = aes128gcm16 of the child",
            ),
        },
    ),
    "traffic selectors": Kind(
        {"remote_ts": "10.9.0.0/24"},
        {
            OURS: (Field.SELECTORS, "we offered 10.1.0.0/24 === 10.2.0.0/24", STRONGSWAN + THE_CHILD),
            THEIRS: (
                Field.SELECTORS,
                "the peer wants 10.9.0.0/24 === 10.2.0.0/24 in tunnel mode; configured: net 10.1.0.0/24 === ",
                STRONGSWAN + THE_CHILD,
            ),
        },
    ),
    "mode": Kind(
        {"mode": "transport", "local_ts": "dynamic", "remote_ts": "dynamic"},
        {
            THEIRS: (
                Field.MODE,
                "the peer wants 192.0.2.1/32 === 192.0.2.2/32 in transport mode",
                f"{STRONGSWAN}mode = tunnel of the child",
            )
        },
        child={"local_ts": "dynamic", "remote_ts": "dynamic"},
        obeyed=False,
    ),
    "kind of proof": Kind(
        {"auth": "psk"},
        {
            OURS: (
                Field.PROOF,
                "proved it by the signature of our certificate",
                f"{ALL_OF_IT}pubkey with our authority in cacerts",
            ),
            THEIRS: (
                Field.AUTHENTICATION,
                "b.test proves itself by a shared secret, not by a certificate as remote.auth is configured here",
                f"{STRONGSWAN}local.auth = pubkey",
            ),
        },
        certificates=True,
    ),
    "version": Kind(
        {"more": "version = 1", "proposals": "aes128-sha256-modp2048"},
        {THEIRS: (Field.VERSION, "192.0.2.2: IKE version 1.0; only IKEv2 is spoken here", f"{UNNAMED}version = 2")},
        connection={"proposals": ["aes128-sha256-modp2048"]},
    ),
}
CASES = [pytest.param(kind, side, id=f"{name}-{side}") for name, kind in KINDS.items() for side in kind.says]


@pytest.fixture(scope="module")
def peer(sites: TwoSites, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrongSwan]:
    reason = strongswan.missing(libipsec=True)
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("charon")
    daemon = strongswan.in_namespace(sites.b.gateway, folder, settings="send_vendor_id = yes")
    yield daemon
    daemon.close()


def both(kind: Kind, folder: Path) -> tuple[dict[str, Any], Connection]:
    """Our configuration, and theirs before it is put right."""
    if kind.certificates:
        made = Authority.make(folder, Pointers())
        config, theirs = made.ours(), made.theirs(esp_proposals=ESP)
    else:
        config, theirs = our_config(), their_connection(esp_proposals=ESP)
    net = config["connections"]["net"]
    net |= kind.connection
    net["children"]["net"] |= {"esp_proposals": [ESP], **kind.child}
    return config, replace(theirs, **kind.theirs)


def obeying(remedy: str, wrong: Connection) -> Connection:
    """Their configuration once their administrator has done what we say."""
    words = {key.replace(".", "_"): value for key, value in re.findall(r"([a-z_.]+) = ([^\s,]+)", remedy)}
    auth = words.pop("local_auth", words.pop("remote_auth", wrong.auth))
    if "version" in words:
        words["more"] = f"version = {words.pop('version')}"
    if "the secret that has the ids of both ends" in remedy:
        words["secret"] = Connection.__dataclass_fields__["secret"].default
    return replace(wrong, auth=auth, **words)


def begin(ours: GatewayProcess, peer: StrongSwan, side: str) -> None:
    if side == OURS:
        with pytest.raises(TestbedError):
            ours.command("initiate", "net")
    else:
        peer.swanctl("--initiate", "--child", "net", "--timeout", "3", check=False)


@pytest.mark.parametrize(("kind", "side"), CASES)
def test_the_sentence_helps(
    sites: TwoSites, start_gateway: StartGateway, peer: StrongSwan, tmp_path: Path, kind: Kind, side: str
) -> None:
    config, wrong = both(kind, tmp_path)
    peer.load(wrong)
    ours = start_gateway(sites.a.gateway, config)
    begin(ours, peer, side)
    failures = wait_for("a failure in status", lambda: ours.status()["connections"][0]["failures"])
    where, sentence, remedy = kind.says[side]
    assert failures[-1]["field"] == where, failures
    assert sentence in failures[-1]["message"]
    assert failures[-1]["remedy"] == remedy
    assert failures[-1]["message"].endswith(remedy)
    assert failures[-1]["message"] in ours.log_text()
    peer.swanctl("--terminate", "--ike", "net", "--force", check=False)
    with suppress(TestbedError):  # there may be nothing
        ours.command("terminate", "net")
    if kind.obeyed:
        peer.load(obeying(remedy, wrong))
        tunnel = Tunnel(ours, peer, sites.a.host)
        tunnel.up(side)
        assert not ours.status()["connections"][0]["failures"]
        tunnel.down(side)
