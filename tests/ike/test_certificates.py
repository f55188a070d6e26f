"""Certificates of peers: paths to an authority, what breaks them, and whose they are (RFC 5280 s6, RFC 4945)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.x509.oid import NameOID

from ipsecfast.identity import Identity
from ipsecfast.ike.constants import AuthenticationFailed, IdType, InvalidSyntax
from ipsecfast.ike.credential import certificates
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import CertPayload
from ipsecfast.pki import Issued, KeyType, make_authority, make_certificate

NOW = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)  # later than what the tests are about to make, however slowly
NAME = "gw.example.org"
KINDS = [KeyType.ECDSA256, KeyType.RSA2048, KeyType.ED25519, KeyType.ED448, KeyType.ML_DSA_65]
BOTH_WAYS = pytest.mark.parametrize("kind", [KeyType.ECDSA256, KeyType.ED25519], ids=["library", "walked"])


@dataclass
class Chain:
    root: Issued
    middle: Issued
    leaf: Issued


def chain(kind: KeyType) -> Chain:
    root = make_authority("Root", kind)
    middle = make_authority("Middle", kind, issuer=root)
    return Chain(root, middle, make_certificate([NAME], kind, middle))


def path(*given: Issued, authorities: list[Issued], at: dt.datetime = NOW) -> list[str]:
    leaf, *others = (one.certificate for one in given)
    found = certificates.trusted_path(leaf, others, [a.certificate for a in authorities], at)
    return [certificates.name_text(c.subject) for c in found]


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_over_an_authority_in_between(kind: KeyType) -> None:
    c = chain(kind)
    assert path(c.leaf, c.middle, authorities=[c.root]) == [f"CN={NAME}", "CN=Middle", "CN=Root"]


@BOTH_WAYS
def test_one_of_several_anchors(kind: KeyType) -> None:
    c, other = chain(kind), make_authority("Other", kind)
    assert path(c.leaf, c.middle, authorities=[other, c.root])[-1] == "CN=Root"
    assert path(c.leaf, authorities=[c.middle])[-1] == "CN=Middle"


def test_kinds_of_keys_may_be_mixed_in_a_path() -> None:
    root = make_authority("Root", KeyType.RSA2048)
    middle = make_authority("Middle", KeyType.ED25519, issuer=root)
    leaf = make_certificate([NAME], KeyType.ECDSA384, middle)
    assert len(path(leaf, middle, authorities=[root])) == 3


@BOTH_WAYS
def test_an_authority_of_the_same_name_with_another_key(kind: KeyType) -> None:
    c, false = chain(kind), make_authority("Root", kind)
    with pytest.raises(AuthenticationFailed, match="no path from the certificate of"):
        path(c.leaf, c.middle, authorities=[false])


@BOTH_WAYS
def test_what_is_missing_is_named(kind: KeyType) -> None:
    c = chain(kind)
    with pytest.raises(AuthenticationFailed) as caught:
        path(c.leaf, authorities=[c.root])
    assert all(word in str(caught.value) for word in (f'"CN={NAME}"', "issued by CN=Middle", '"CN=Root"'))
    with pytest.raises(AuthenticationFailed, match="no authority is configured"):
        path(c.leaf, c.middle, authorities=[])


@BOTH_WAYS
@pytest.mark.parametrize(("days", "words"), [(-1, "is valid from"), (800, "expired on")])
def test_out_of_time(kind: KeyType, days: int, words: str) -> None:
    c = chain(kind)
    with pytest.raises(AuthenticationFailed, match=words):
        path(c.leaf, c.middle, authorities=[c.root], at=NOW + dt.timedelta(days=days))


@BOTH_WAYS
def test_an_authority_that_is_out_of_time(kind: KeyType) -> None:
    root = make_authority("Root", kind, days=1)
    leaf = make_certificate([NAME], kind, root, days=100)
    with pytest.raises(AuthenticationFailed):
        path(leaf, authorities=[root], at=NOW + dt.timedelta(days=2))


@BOTH_WAYS
def test_a_gateway_is_no_authority(kind: KeyType) -> None:
    """The mistake that lets every customer of an authority be anyone."""
    c = chain(kind)
    forged = make_certificate(["other.example.org"], kind, c.leaf)
    with pytest.raises(AuthenticationFailed):
        path(forged, c.leaf, c.middle, authorities=[c.root])


@BOTH_WAYS
def test_a_path_longer_than_an_authority_allows(kind: KeyType) -> None:
    c = chain(kind)  # below Middle no other authority may stand
    below = make_authority("Below", kind, issuer=c.middle)
    leaf = make_certificate([NAME], kind, below)
    with pytest.raises(AuthenticationFailed):
        path(leaf, below, c.middle, authorities=[c.root])


def built(kind: KeyType, issuer: Issued, *extensions: tuple[x509.ExtensionType, bool]) -> Issued:
    """A leaf with just these extensions."""
    made = make_certificate([NAME], kind, issuer)
    builder = x509.CertificateBuilder(
        issuer.certificate.subject, made.certificate.subject, made.certificate.public_key(), 5,
        made.certificate.not_valid_before_utc, made.certificate.not_valid_after_utc,
    )  # fmt: skip
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    digest = hashes.SHA256() if isinstance(issuer.key, ec.EllipticCurvePrivateKey) else None
    return Issued(builder.sign(issuer.key, digest), made.key)


@BOTH_WAYS
def test_a_critical_extension_that_nobody_understands(kind: KeyType) -> None:
    root = make_authority("Root", kind)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    with pytest.raises(AuthenticationFailed):
        path(built(kind, root, (unknown, True)), authorities=[root])
    assert path(built(kind, root, (unknown, False)), authorities=[root])


@BOTH_WAYS
def test_a_key_that_may_not_sign(kind: KeyType) -> None:
    root = make_authority("Root", kind)
    usage = x509.KeyUsage(False, False, False, False, True, False, False, False, False)
    with pytest.raises(AuthenticationFailed, match="does not allow signatures"):
        path(built(kind, root, (usage, True)), authorities=[root])


def test_keys_that_are_not_taken() -> None:
    key = dsa.generate_private_key(2048)
    root = make_authority("Root", KeyType.ECDSA256)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dsa")])
    certificate = x509.CertificateBuilder(
        root.certificate.subject, name, key.public_key(), 7, NOW, NOW + dt.timedelta(1)
    ).sign(root.key, hashes.SHA256())  # type: ignore[arg-type]
    with pytest.raises(AuthenticationFailed, match="not taken"):
        certificates.public_key_of(certificate)


# -- identity ----------------------------------------------------------------------------------------------------------

NAMES = ["gw.example.org", "192.0.2.1", "2001:db8::1", "admin@example.org"]
CERTIFICATE = make_certificate(NAMES, KeyType.ECDSA256, make_authority("Root", KeyType.ECDSA256)).certificate


def identity(kind: IdType, data: bytes) -> Identity:
    return Identity(int(kind), data)


@pytest.mark.parametrize(
    "one",
    [
        identity(IdType.ID_FQDN, b"gw.example.org"),
        identity(IdType.ID_FQDN, b"GW.Example.ORG"),
        identity(IdType.ID_RFC822_ADDR, b"admin@example.org"),
        identity(IdType.ID_IPV4_ADDR, ip_address("192.0.2.1").packed),
        identity(IdType.ID_IPV6_ADDR, ip_address("2001:db8::1").packed),
        certificates.subject_identity(CERTIFICATE),
        identity(
            IdType.ID_KEY_ID, CERTIFICATE.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        ),
    ],
    ids=str,
)
def test_identities_of_a_certificate(one: Identity) -> None:
    assert certificates.has_identity(CERTIFICATE, one)


@pytest.mark.parametrize(
    "one",
    [
        identity(IdType.ID_FQDN, b"example.org"),
        identity(IdType.ID_FQDN, b"gw.example.org."),
        identity(IdType.ID_FQDN, b"192.0.2.1"),
        identity(IdType.ID_RFC822_ADDR, b"gw.example.org"),
        identity(IdType.ID_IPV4_ADDR, ip_address("192.0.2.2").packed),
        identity(IdType.ID_DER_ASN1_DN, b""),
        identity(IdType.ID_KEY_ID, b""),
        identity(IdType.ID_DER_ASN1_GN, b"gw.example.org"),
    ],
    ids=repr,
)
def test_identities_of_others(one: Identity) -> None:
    assert not certificates.has_identity(CERTIFICATE, one)


def test_the_common_name_alone_is_no_identity() -> None:
    """RFC 4945 s3.1.2: only what stands in subjectAltName counts."""
    root = make_authority("Root", KeyType.ECDSA256)
    assert not certificates.has_identity(
        built(KeyType.ECDSA256, root).certificate, identity(IdType.ID_FQDN, NAME.encode())
    )


# -- on the wire -------------------------------------------------------------------------------------------------------


def message(*payloads: CertPayload) -> Message:
    return Message(b"i" * 8, b"r" * 8, 35, 1, False, True, payloads)


def test_certificates_travel_in_their_order() -> None:
    c = chain(KeyType.ECDSA256)
    given = [c.leaf.certificate, c.middle.certificate]
    payloads = certificates.certificate_payloads(given)
    other = CertPayload(12, b"a URL")
    assert certificates.received_certificates(message(*payloads, other)) == given


def test_certificates_that_are_none() -> None:
    with pytest.raises(InvalidSyntax, match="holds no certificate"):
        certificates.received_certificates(message(CertPayload(4, b"\x30\x03abc")))
    with pytest.raises(InvalidSyntax, match="10 are accepted"):
        certificates.received_certificates(message(*[CertPayload(4, b"")] * 11))


def test_authorities_are_named_by_the_hash_of_their_keys() -> None:
    """s3.7; two certificates with one key are one authority."""
    root = make_authority("Root", KeyType.ECDSA256).certificate
    (request,) = certificates.request_payloads([root, root])
    assert request.data == certificates.authority_hash(root)
    assert len(request.data) == certificates.AUTHORITY_HASH_LENGTH
    assert certificates.request_payloads([]) == ()
