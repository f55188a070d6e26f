"""Certificates and keys in the configuration, and each mistake with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipsecfast.config import load_config, values
from ipsecfast.configured import AuthKind, OcspUse, RevocationPolicy
from ipsecfast.errors import ConfigError, PkiError
from ipsecfast.identity import Identity, distinguished_name
from ipsecfast.ike.credential.certificates import subject_identity
from ipsecfast.pki import Issued, KeyType, make_authority, make_certificate
from ipsecfast.pki_crl import make_crl, save_crl

TEXT = """
[connections.b]
remote_addrs = "192.0.2.2"
[connections.b.local]
auth = "pubkey"
id = "a.test"
certs = "a.pem"
key = "a.key"
[connections.b.remote]
auth = "pubkey"
id = "b.test"
cacerts = "ca.pem"
[connections.b.children.net]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = make_authority("CA", KeyType.ECDSA256)
    authority.save(tmp_path / "ca.pem", tmp_path / "ca.key")
    make_certificate(["a.test", "192.0.2.1"], KeyType.ED25519, authority).save(tmp_path / "a.pem", tmp_path / "a.key")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    file = folder / "gw.toml"
    file.write_text(text)
    return file


def test_files_stand_beside_the_configuration(folder: Path) -> None:
    (connection,) = load_config(write(folder, TEXT)).connections
    ours, issuer = (Issued.load(folder / f"{n}.pem", folder / f"{n}.key") for n in ("a", "ca"))
    assert connection.local.method is connection.remote.method is AuthKind.PUBKEY
    assert connection.local.certificates == (ours.certificate,)
    assert connection.remote.authorities == (issuer.certificate,)
    assert connection.local.key is not None
    assert connection.local.key.public_key() == ours.key.public_key()
    assert "key=" not in repr(connection)


def test_without_an_identity_the_subject_is_ours(folder: Path) -> None:
    (connection,) = load_config(write(folder, TEXT.replace('id = "a.test"\n', ""))).connections
    assert connection.local.identity == subject_identity(connection.local.certificates[0])
    assert str(connection.local.identity) == "CN=a.test"


@pytest.mark.parametrize(
    ("right", "wrong", "key", "words"),
    [
        ('certs = "a.pem"', 'certs = "no.pem"', "local.certs", "No such file"),
        ('certs = "a.pem"', 'certs = "a.key"', "local.certs", "holds no certificate"),
        ('certs = "a.pem"\n', "", "local.certs", "missing"),
        ('key = "a.key"', 'key = "a.pem"', "local.key", "can use it"),
        ('key = "a.key"', 'key = "ca.key"', "local.key", "is not the private key of the first certificate"),
        ('key = "a.key"\n', "", "local.key", "missing"),
        ('id = "a.test"', 'id = "c.test"', "local.id", "which is for a.test, 192.0.2.1"),
        ('cacerts = "ca.pem"\n', "", "remote.cacerts", "missing"),
        ('cacerts = "ca.pem"', 'cacerts = ["ca.pem", "ca.key"]', "remote.cacerts[1]", "holds no certificate"),
        ('auth = "pubkey"\nid = "b', 'auth = "psk"\nid = "b', "remote.cacerts", "is for auth"),
        ('auth = "pubkey"', 'auth = "eap"', "local.auth", "psk"),
    ],
)
def test_one_mistake_is_named(folder: Path, right: str, wrong: str, key: str, words: str) -> None:
    assert right in TEXT
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, TEXT.replace(right, wrong, 1)))
    found = {problem.key.removeprefix("connections.b."): problem.message for problem in caught.value.problems}
    assert words in found[key]


def test_pki_overwrites_nothing(folder: Path) -> None:
    with pytest.raises(PkiError, match="is there already"):
        make_authority("CA", KeyType.ECDSA256).save(folder / "ca.pem", folder / "ca.key")


def test_pki_keys_are_their_owners_only(folder: Path) -> None:
    assert (folder / "a.key").stat().st_mode & 0o777 == 0o600


def test_pki_of_another_key(folder: Path) -> None:
    with pytest.raises(PkiError, match="is not the key of"):
        Issued.load(folder / "ca.pem", folder / "a.key")


@pytest.mark.parametrize("text", ["CN=a.test", "CN=A.TEST"])
def test_a_distinguished_name_in_the_configuration(folder: Path, text: str) -> None:
    config = load_config(write(folder, TEXT.replace('id = "a.test"', f'id = "{text}"')))
    identity = config.connections[0].local.identity
    assert identity is not None
    assert identity.same_as(subject_identity(config.connections[0].local.certificates[0]))


def test_distinguished_names_in_their_order() -> None:
    identity = values.identity(r"C=CH, O=Example\, Inc., CN=gw")
    assert identity is not None
    assert distinguished_name(identity.data) == [
        (bytes.fromhex("550406"), "CH"), (bytes.fromhex("55040a"), "Example, Inc."), (bytes.fromhex("550403"), "gw")
    ]  # fmt: skip
    assert not identity.same_as(values.required_identity("CN=gw, C=CH"))
    assert not identity.same_as(values.required_identity("gw"))


@pytest.mark.parametrize(
    "der", ["", "30", "3080", "30051234", "3005310330010c", "31003100", "300d310b300906035504030c02c3"]
)
def test_names_that_are_none(der: str) -> None:
    assert distinguished_name(bytes.fromhex(der)) == []
    assert str(Identity(9, bytes.fromhex(der))).startswith("keyid:")


# -- revocation and raw keys -------------------------------------------------------------------------------------------

REVOCATION = """
[authorities.ca]
cacert = "ca.pem"
crls = "ca.crl"
crl_uris = ["http://crl.test/ca.crl"]
ocsp_uris = "http://ocsp.test"
"""


@pytest.fixture
def with_crl(folder: Path) -> Path:
    save_crl(make_crl(Issued.load(folder / "ca.pem", folder / "ca.key"), None), folder / "ca.crl")
    return folder


def test_authorities(with_crl: Path) -> None:
    text = TEXT.replace(
        'cacerts = "ca.pem"', 'cacerts = "ca.pem"\nrevocation = "strict"\nrecheck_revocation = true'
    ).replace('remote_addrs = "192.0.2.2"', 'remote_addrs = "192.0.2.2"\nocsp = "both"')
    (connection,) = load_config(write(with_crl, text + REVOCATION)).connections
    (authority,) = connection.authorities
    assert authority.certificate == Issued.load(with_crl / "ca.pem", with_crl / "ca.key").certificate
    assert authority.crl_uris == ((with_crl / "ca.crl").as_uri(), "http://crl.test/ca.crl")
    assert authority.ocsp_uris == ("http://ocsp.test",)
    assert connection.remote.revocation is RevocationPolicy.STRICT
    assert connection.remote.recheck_revocation
    assert connection.ocsp is OcspUse.BOTH
    (connection,) = load_config(write(with_crl, TEXT)).connections
    assert (connection.remote.revocation, connection.ocsp) == (RevocationPolicy.RELAXED, OcspUse.REPLY)


@pytest.mark.parametrize(
    ("right", "wrong", "key", "words"),
    [
        ('cacert = "ca.pem"\n', "", "authorities.ca.cacert", "missing"),
        ('crls = "ca.crl"', 'crls = "ca.pem"', "authorities.ca.crls", "holds no CRL"),
        ('crls = "ca.crl"', 'crls = "no.crl"', "authorities.ca.crls", "No such file"),
        ("http://crl", "https://crl", "authorities.ca.crl_uris[0]", "expected an http URI"),
        ("http://ocsp.test", "http://[::1", "authorities.ca.ocsp_uris", "expected an http URI"),
        ("http://ocsp.test", "ldap://x", "authorities.ca.ocsp_uris", "expected an http URI"),
        ('cacerts = "ca.pem"', 'certs = "a.pem"\nrecheck_revocation = true', "connections.b.remote.recheck_revocation",
         "needs cacerts"),
        ('cacerts = "ca.pem"', 'revocation = "soft"', "connections.b.remote.revocation", "strict, ifuri, relaxed"),
        ('cacerts = "ca.pem"', 'certs = "a.pem"\nrevocation = "strict"', "connections.b.remote.revocation",
         "needs cacerts"),
        ('certs = "a.pem"', 'certs = "a.pem"\nocsp_responses = "ca.crl"', "connections.b.local.ocsp_responses",
         "holds no OCSP response"),
        ('certs = "a.pem"', 'pubkeys = "a.pem"', "connections.b.local.pubkeys", "holds no raw public key"),
        ('certs = "a.pem"', 'pubkeys = "ca.pub"', "connections.b.local.key",
         "is not the private key of any of pubkeys"),
    ],
)  # fmt: skip
def test_one_mistake_about_revocation_is_named(with_crl: Path, right: str, wrong: str, key: str, words: str) -> None:
    (with_crl / "ca.pub").write_bytes(raw_key(with_crl, "ca"))
    assert right in TEXT + REVOCATION
    with pytest.raises(ConfigError) as caught:
        load_config(write(with_crl, (TEXT + REVOCATION).replace(right, wrong, 1)))
    found = {problem.key: problem.message for problem in caught.value.problems}
    assert words in found[key]


def raw_key(folder: Path, name: str) -> bytes:
    public = Issued.load(folder / f"{name}.pem", folder / f"{name}.key").certificate.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_raw_keys(folder: Path) -> None:
    (folder / "a.pub").write_bytes(raw_key(folder, "a"))
    (folder / "ca.pub").write_bytes(raw_key(folder, "ca"))
    text = TEXT.replace('certs = "a.pem"', 'pubkeys = "a.pub"').replace('cacerts = "ca.pem"', 'pubkeys = ["ca.pub"]')
    (connection,) = load_config(write(folder, text)).connections
    assert connection.local.key is not None
    assert connection.local.pubkeys == (connection.local.key.public_key(),)
    assert connection.remote.pubkeys == (Issued.load(folder / "ca.pem", folder / "ca.key").certificate.public_key(),)
    with pytest.raises(ConfigError, match="a raw key says nothing of who we are"):
        load_config(write(folder, text.replace('id = "a.test"\n', "")))


def test_several_credentials(folder: Path) -> None:
    """`certs` in any order; what belongs to none of the keys leads to the authority of all."""
    authority = Issued.load(folder / "ca.pem", folder / "ca.key")
    middle = make_authority("Middle", KeyType.ECDSA256, issuer=authority)
    middle.save(folder / "m.pem", folder / "m.key")
    make_certificate(["a.test"], KeyType.ECDSA256, middle).save(folder / "a2.pem", folder / "a2.key")
    text = TEXT.replace('certs = "a.pem"', 'certs = ["m.pem", "a.pem", "a2.pem"]')
    text = text.replace('key = "a.key"', 'key = ["a2.key", "a.key"]')
    (connection,) = load_config(write(folder, text)).connections
    one, two = connection.local.credentials
    a, a2, m = (Issued.load(folder / f"{n}.pem", folder / f"{n}.key").certificate for n in ("a", "a2", "m"))
    assert (one.certificates, two.certificates) == ((a2, m), (a, m))
    assert one.key.public_key() == a2.public_key()
    with pytest.raises(ConfigError, match="is not the private key of any certificate"):
        load_config(write(folder, text.replace('"a2.key"', '"ca.key"')))
    with pytest.raises(ConfigError, match="is not in our certificate"):
        load_config(write(folder, text.replace('id = "a.test"', 'id = "192.0.2.1"')))
