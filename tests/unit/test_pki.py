"""`ipsecfast pki`: an authority, certificates, their revocation; what it writes, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ipsecfast.cli import main
from ipsecfast.ike.credential import revocation
from ipsecfast.ike.credential.revocation import Evidence, Link


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pki(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["pki", *arguments])


def done(*arguments: str) -> str:
    result = pki(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def certificate(name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(f"{name}.pem").read_bytes())


def state(name: str) -> str:
    """What the authority's CRL says now."""
    crl = x509.load_der_x509_crl(Path("ca.crl").read_bytes())
    return revocation.find(Link(certificate(name), certificate("ca")), Evidence((crl,)), datetime.now(UTC)).state


def test_from_an_authority_to_a_revoked_certificate() -> None:
    done("ca", "Example CA")
    done("cert", "a.test", "192.0.2.1")
    done("cert", "b.test", "--type", "ed25519")
    assert "ca.crl: 0 revoked, good until " in done("crl")
    assert (state("a.test"), state("b.test")) == ("good", "good")
    assert "1 revoked" in done("revoke", "a.test.pem", "--reason", "key-compromise")
    assert (state("a.test"), state("b.test")) == ("revoked", "good")
    assert "2 revoked" in done("revoke", "b.test.pem")
    assert "2 revoked" in done("crl", "--days", "3")
    assert (state("a.test"), state("b.test")) == ("revoked", "revoked")
    assert not Path("ca.crl.new").exists()


def test_certificates_say_where_to_ask() -> None:
    done("ca", "CA")
    done("cert", "a.test", "--crl-uri", "http://crl.test/", "--ocsp-uri", "http://o1.test/", "--ocsp-uri", "http://o2/")
    link = Link(certificate("a.test"), certificate("ca"))
    assert revocation.crl_uris(link, ()) == ("http://crl.test/",)
    assert revocation.ocsp_uris(link, ()) == ("http://o1.test/", "http://o2/")


@pytest.mark.parametrize("name", ["a.test.pem", "a.test.key"])
def test_a_raw_public_key(name: str) -> None:
    done("ca", "CA")
    done("cert", "a.test")
    assert load_pem_public_key(done("pub", name).encode()) == certificate("a.test").public_key()


def test_what_is_refused() -> None:
    done("ca", "CA")
    done("ca", "Other", "--out", "other")
    done("cert", "a.test", "--ca", "other")
    Path("garbage.pem").write_text("nothing")
    for arguments, words in (
        (("revoke", "a.test.pem"), "this authority did not issue that certificate"),
        (("revoke", "no.pem"), "no.pem can't be read: No such file"),
        (("pub", "garbage.pem"), "garbage.pem: "),
        (("ca", "CA"), "is there already"),
    ):
        result = pki(*arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("ipsecfast: ")
        assert words in result.stderr
    done("crl", "--ca", "other")
    Path("other.crl").rename("ca.crl")
    assert "is not by this authority" in pki("crl").stderr
