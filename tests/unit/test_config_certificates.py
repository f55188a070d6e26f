"""Certificates and keys in the configuration, and each mistake with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsecfast.config import load_config, values
from ipsecfast.configured import AuthKind
from ipsecfast.errors import ConfigError, PkiError
from ipsecfast.identity import Identity, distinguished_name
from ipsecfast.ike.certificates import subject_identity
from ipsecfast.pki import Issued, KeyType, make_authority, make_certificate

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
