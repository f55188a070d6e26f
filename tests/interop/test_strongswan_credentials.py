"""Certificates that may be revoked, and raw public keys, with strongSwan 5.9 at the other end.

host A --- gateway A: ipsecfast === UDP 4500 === gateway B: charon, kernel-libipsec --- host B
                        192.0.2.1                192.0.2.2, and on it a web server (8080) and an OCSP responder (8081)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from against_strongswan import OURS, THEIRS, Tunnel, our_config, their_connection
from conftest import StartGateway
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from strongswan import Release, StrongSwan

from ipsecfast.lab.netns import B, Namespace, TwoSites, stop
from ipsecfast.lab.testbed import GatewayProcess, TestbedError, wait_for
from ipsecfast.pki import Issued, KeyType, Pointers, make_authority, make_certificate
from ipsecfast.pki_crl import Reason, load_crl, make_crl, revoke, save_crl

SIDES = pytest.mark.parametrize("side", [OURS, THEIRS])
CRL_URI = f"http://{B.outer[0]}:8080/ca.crl"
OCSP_URI = f"http://{B.outer[0]}:8081"


@dataclass
class Authority:
    """Both ends' certificates and the authority's list, in a folder; the web server shows the list."""

    folder: Path
    ca: Issued
    a: Issued
    b: Issued

    @classmethod
    def make(cls, folder: Path, pointers: Pointers) -> Authority:
        ca = make_authority("Root", KeyType.ECDSA256)
        a, b = (make_certificate([f"{name}.test"], KeyType.ECDSA256, ca, pointers=pointers) for name in "ab")
        for name, one in (("ca", ca), ("a", a), ("b", b)):
            one.save(folder / f"{name}.pem", folder / f"{name}.key")
        (folder / "public").mkdir()
        made = cls(folder, ca, a, b)
        made.revoke()
        return made

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def revoke(self, *certificates: x509.Certificate) -> None:
        path = self.folder / "public" / "ca.crl"
        entries = [revoke(certificate, self.ca, Reason.KEY_COMPROMISE) for certificate in certificates]
        save_crl(make_crl(self.ca, load_crl(path), entries), path)

    def ours(self, **remote: str) -> dict[str, Any]:
        config = our_config()
        net = config["connections"]["net"]
        net["local"] |= {"auth": "pubkey", "certs": [self.file("a.pem")], "key": self.file("a.key")}
        net["remote"] |= {"auth": "pubkey", "cacerts": [self.file("ca.pem")], **remote}
        return config

    def theirs(self, release: Release | None = None, **options: str) -> Any:
        """`release`: whose daemon has another root."""
        at = (release or Release()).inside(self.folder)
        return their_connection(
            auth="pubkey", certs=f"{at}/b.pem", cacert=f"{at}/ca.pem", key=self.file("b.key"), **options
        )


@contextmanager
def serving(place: Namespace, port: int, *command: str) -> Iterator[None]:
    """A server of gateway B, as soon as it listens."""
    process = place.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"a server on port {port}", lambda: f":{port} " in place.check_output(["ss", "-ltn"]))
        yield
    finally:
        stop(process)


def web(place: Namespace, folder: Path) -> Any:
    server = ("-m", "http.server", "--bind", B.outer[0], "--directory", str(folder), "8080")
    return serving(place, 8080, sys.executable, *server)


def responder(place: Namespace, made: Authority, *revoked: x509.Certificate) -> Any:
    """`openssl ocsp`, by the authority's own key."""
    lines = []
    for one in (made.a.certificate, made.b.certificate):
        until, number = f"{one.not_valid_after_utc:%y%m%d%H%M%SZ}", f"{one.serial_number:040X}"
        state, since = ("R", f"{one.not_valid_before_utc:%y%m%d%H%M%SZ}") if one in revoked else ("V", "")
        lines.append(f"{state}\t{until}\t{since}\t{number}\tunknown\t/CN={number}\n")
    (made.folder / "index.txt").write_text("".join(lines))
    ca, key = made.file("ca.pem"), made.file("ca.key")
    return serving(
        place, 8081, "openssl", "ocsp", "-index", made.file("index.txt"), "-port", "8081", "-CA", ca,
        "-rsigner", ca, "-rkey", key, "-nmin", "5", "-ignore_err",
    )  # fmt: skip


def finding(gateway: GatewayProcess) -> dict[str, str]:
    (ike_sa,) = gateway.status()["connections"][0]["ike_sas"]
    (found,) = ike_sa["revocation"]
    return dict(found)


def refused(gateway: GatewayProcess) -> str:
    with pytest.raises(TestbedError) as caught:
        gateway.command("initiate", "net")
    return str(caught.value)


def test_a_crl_over_http(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, tmp_path: Path
) -> None:
    """strict: up with an empty list, refused once the list has the peer, or when nobody answers."""
    made = Authority.make(tmp_path, Pointers((CRL_URI,)))
    strongswan_b.load(made.theirs())
    config = made.ours(revocation="strict")
    with web(sites.b.gateway, tmp_path / "public"):
        tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
        tunnel.up(OURS)
        found = finding(tunnel.ours)
        assert found["state"] == "good"
        assert found["text"].startswith('"CN=b.test" is not revoked, says the CRL of "CN=Root" of ')
        tunnel.answers(B.host[0])
        tunnel.rekey("ike", THEIRS)
        assert finding(tunnel.ours) == found
        tunnel.down(OURS)
        tunnel.ours.close()
        made.revoke(made.b.certificate)
        text = refused(start_gateway(sites.a.gateway, config))
        assert 'the certificate of "CN=b.test", serial number ' in text
        assert "(key compromise), says the CRL of" in text


def test_what_is_fetched_does_not_wait_for_the_tunnel(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, tmp_path: Path
) -> None:
    """All traffic is to be protected, that to the web server too; it asks for the tunnel that waits for the list."""
    made = Authority.make(tmp_path, Pointers((CRL_URI,)))
    strongswan_b.load(made.theirs(local_ts="0.0.0.0/0"))
    config = made.ours(revocation="strict")
    child = config["connections"]["net"]["children"]["net"]
    child |= {"local_ts": ["0.0.0.0/0"], "remote_ts": ["0.0.0.0/0"], "start_action": "trap"}
    with web(sites.b.gateway, tmp_path / "public"):
        tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
        tunnel.up(OURS)
        assert finding(tunnel.ours)["state"] == "good"
        tunnel.down(OURS)


def test_nobody_answers(sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, tmp_path: Path) -> None:
    made = Authority.make(tmp_path, Pointers((CRL_URI,)))
    strongswan_b.load(made.theirs())
    ours = start_gateway(sites.a.gateway, made.ours(revocation="ifuri"))
    assert f"{CRL_URI}: Connection refused (revocation = ifuri)" in refused(ours)
    ours.close()
    tunnel = Tunnel(start_gateway(sites.a.gateway, made.ours()), strongswan_b, sites.a.host)
    tunnel.up(OURS)
    assert finding(tunnel.ours)["state"] == "unknown"
    assert "relaxed goes on" in tunnel.ours.log_text()
    tunnel.down(OURS)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to answer as an OCSP responder")
@SIDES
def test_ocsp(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, tmp_path: Path, side: str
) -> None:
    made = Authority.make(tmp_path, Pointers((), (OCSP_URI,)))
    strongswan_b.load(made.theirs())
    config = made.ours(revocation="strict")
    with responder(sites.b.gateway, made):
        tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
        tunnel.up(side)
        assert finding(tunnel.ours)["text"].startswith(
            '"CN=b.test" is not revoked, says the OCSP response by "CN=Root"'
        )
        tunnel.answers(B.host[0])
        tunnel.down(OURS)
        tunnel.ours.close()
    with responder(sites.b.gateway, made, made.b.certificate):
        text = refused(start_gateway(sites.a.gateway, config))
        assert "is revoked since " in text
        assert 'says the OCSP response by "CN=Root"' in text


def test_strongswan_reads_our_crl(
    sites: TwoSites, start_gateway: StartGateway, strongswan_b: StrongSwan, tmp_path: Path
) -> None:
    """A list that `ipsecfast pki` signed: strict on their side."""
    made = Authority.make(tmp_path, Pointers())
    strict = {"more_remote": "revocation = strict", "crl": made.file("public/ca.crl")}
    strongswan_b.load(made.theirs(**strict))
    tunnel = Tunnel(start_gateway(sites.a.gateway, made.ours()), strongswan_b, sites.a.host)
    tunnel.up(THEIRS)
    tunnel.down(OURS)
    made.revoke(made.a.certificate)
    strongswan_b.load(made.theirs(**strict))
    assert "AUTHENTICATION_FAILED" in refused(tunnel.ours)
    assert "certificate was revoked on" in strongswan_b.log_text()


def raw_key(one: Issued, path: Path) -> str:
    public = one.certificate.public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(path)


@pytest.mark.parametrize(
    ("kind", "side"),
    [(KeyType.ECDSA256, OURS), (KeyType.ECDSA256, THEIRS), (KeyType.RSA2048, OURS), (KeyType.ED25519, THEIRS)],
)
def test_raw_public_keys(
    sites: TwoSites,
    start_gateway: StartGateway,
    strongswan_b: StrongSwan,
    tmp_path: Path,
    kind: KeyType,
    side: str,
) -> None:
    """swanctl's `pubkeys` at both ends. strongSwan sends no CERT of a raw key; ours (RFC 7670) it passes over."""
    a, b = (make_authority(name, kind) for name in "ab")
    keys = {name: raw_key(one, tmp_path / f"{name}.pub") for name, one in (("a", a), ("b", b))}
    for name, one in (("a", a), ("b", b)):
        one.save(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    strongswan_b.load(
        their_connection(
            auth="pubkey", key=str(tmp_path / "b.key"), more_local=f"pubkeys = {keys['b']}",
            more_remote=f"pubkeys = {keys['a']}",
        )
    )  # fmt: skip
    config = our_config()
    net = config["connections"]["net"]
    net["local"] |= {"auth": "pubkey", "pubkeys": [keys["a"]], "key": str(tmp_path / "a.key")}
    net["remote"] |= {"auth": "pubkey", "pubkeys": [keys["b"]]}
    tunnel = Tunnel(start_gateway(sites.a.gateway, config), strongswan_b, sites.a.host)
    tunnel.up(side)
    tunnel.answers(B.host[0])
    tunnel.rekey("ike", THEIRS if side == OURS else OURS)
    tunnel.down(OURS)
