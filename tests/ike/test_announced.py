"""Announced authentication methods (RFC 9593): their octets, and which of several credentials they choose."""

from __future__ import annotations

import functools

import pytest
from simulation import connection

from ipsecfast.configured import AuthConfig, AuthKind, Credential
from ipsecfast.ike.constants import AuthMethod, HashAlgorithm
from ipsecfast.ike.credential import announced
from ipsecfast.ike.credential import wishes as credentials
from ipsecfast.ike.credential.announced import Announcement
from ipsecfast.ike.credential.certificates import authority_hash
from ipsecfast.ike.credential.wishes import Credentials
from ipsecfast.ike.crypto import signature
from ipsecfast.ike.wire.payloads import NotifyPayload
from ipsecfast.pki import Issued, KeyType, make_authority, make_certificate

ALL_HASHES = frozenset(signature.SUPPORTED_HASHES)
PUBKEY = AuthConfig(None, AuthKind.PUBKEY)


def identifier(kind: KeyType) -> bytes:
    key = issued(kind)[1].key.public_key()
    return next(s.identifiers[0] for s in signature.SCHEMES if isinstance(key, s.key))


@functools.cache
def issued(kind: KeyType) -> tuple[Issued, Issued]:
    authority = make_authority(f"Root {kind}", kind)
    return authority, make_certificate(["a.test"], kind, authority)


# -- octets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "octets"),
    [
        (Announcement(AuthMethod.SHARED_KEY_MIC), "0202"),
        (Announcement(AuthMethod.NULL), "020d"),
        (Announcement(AuthMethod.ECDSA_SHA256_P256, 2), "030902"),
        (Announcement(AuthMethod.DIGITAL_SIGNATURE, 1, bytes.fromhex("300506032b6570")), "0a0e01300506032b6570"),
    ],
)
def test_octets(one: Announcement, octets: str) -> None:
    """s3.2.1 to s3.2.3: of two, three and more octets."""
    assert one.encode().hex() == octets
    assert announced.parse(bytes.fromhex(octets)) == (one,)


def test_what_is_not_understood_is_passed_over() -> None:
    known = Announcement(AuthMethod.ECDSA_SHA256_P256)
    for strange in ("04fe0000", "030e00", "0502000102", "02ff"):
        parsed = announced.parse(bytes.fromhex(strange) + known.encode())
        assert parsed[-1] == known
    for broken in ("00", "01", "ff09", "0309"):
        assert announced.parse(known.encode() + bytes.fromhex(broken)) == (known,)
    assert announced.parse(b"") == ()
    assert len(announced.parse(known.encode() * 1000)) == announced.MAX_ANNOUNCEMENTS


def test_what_we_announce() -> None:
    """Every signature that we take; a shared secret where any of the connections takes one."""
    (payload,) = announced.payloads([connection("a", remote=PUBKEY)])
    assert isinstance(payload, NotifyPayload)
    found = announced.parse(payload.data)
    assert [a.identifier for a in found if a.identifier] == [s.identifiers[0] for s in signature.SCHEMES]
    assert {a.method for a in found} == {9, 10, 11, 14}
    assert not any(a.link for a in found)
    assert len(payload.data) < 500  # it travels in IKE_SA_INIT, which is not fragmented
    (payload,) = announced.payloads([connection("a", remote=PUBKEY), connection("a")])
    assert AuthMethod.SHARED_KEY_MIC in {a.method for a in announced.parse(payload.data)}  # type: ignore[union-attr]
    assert announced.payloads([connection("a")]) == ()


# -- the choice --------------------------------------------------------------------------------------------------------

KINDS = (KeyType.ECDSA256, KeyType.ED25519, KeyType.ML_DSA_65)


def chosen(kept: Credentials, *kinds: KeyType, trusted: bool = True) -> KeyType:
    """Of the credentials of `kinds`, in this order, by an authority each."""
    kinds = kinds or KINDS
    first, *others = (Credential(issued(kind)[1].key, (issued(kind)[1].certificate,)) for kind in kinds)
    local = AuthConfig(None, AuthKind.PUBKEY, key=first.key, certificates=first.certificates, others=tuple(others))
    authorities = tuple(issued(kind)[0].certificate for kind in kinds) if trusted else ()
    remote = AuthConfig(None, AuthKind.PUBKEY, authorities=authorities)
    found = credentials.choose(kept, connection("a", local=local, remote=remote))
    return next(kind for kind in kinds if issued(kind)[1].key is found.key)


def digital(kind: KeyType, link: int = 0) -> Announcement:
    return Announcement(AuthMethod.DIGITAL_SIGNATURE, link, identifier(kind))


def test_a_peer_that_announces_nothing_gets_the_first() -> None:
    for kept in (Credentials(ALL_HASHES), Credentials(ALL_HASHES, announced=())):
        assert chosen(kept) is KeyType.ECDSA256


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_announced_is_chosen(kind: KeyType) -> None:
    assert chosen(Credentials(ALL_HASHES, announced=(digital(kind),))) is kind


def test_of_several_our_preference_counts() -> None:
    said = (digital(KeyType.ML_DSA_65), digital(KeyType.ED25519))
    assert chosen(Credentials(ALL_HASHES, announced=said)) is KeyType.ED25519


def test_a_hash_that_the_peer_does_not_know_is_no_choice() -> None:
    """SIGNATURE_HASH_ALGORITHMS counts too (RFC 7427 s4)."""
    said = (digital(KeyType.ED25519), digital(KeyType.ECDSA256))
    kept = Credentials(frozenset({HashAlgorithm.SHA2_256}), announced=said)
    assert chosen(kept, KeyType.ED25519, KeyType.ECDSA256) is KeyType.ECDSA256


def test_older_methods() -> None:
    """Without RFC 7427 the method alone says curve and hash."""
    kept = Credentials(announced=(Announcement(AuthMethod.ECDSA_SHA384_P384),))
    assert chosen(kept, KeyType.ECDSA256, KeyType.ECDSA384) is KeyType.ECDSA384


def test_an_announcement_for_certificates_of_one_authority() -> None:
    """s3.2: the link counts the authorities of the CERTREQ payloads from 1."""
    hashes = tuple(authority_hash(issued(kind)[0].certificate) for kind in (KeyType.ED25519, KeyType.ML_DSA_65))
    said = tuple(digital(kind, 2) for kind in KINDS)
    assert chosen(Credentials(ALL_HASHES, announced=said, authorities=hashes)) is KeyType.ML_DSA_65
    said = tuple(digital(kind, 9) for kind in KINDS)
    assert chosen(Credentials(ALL_HASHES, announced=said, authorities=hashes)) is KeyType.ED25519


def test_without_announcements_the_authority_decides() -> None:
    trusted = (authority_hash(issued(KeyType.ML_DSA_65)[0].certificate),)
    assert chosen(Credentials(ALL_HASHES, authorities=trusted)) is KeyType.ML_DSA_65
    assert chosen(Credentials(ALL_HASHES, authorities=(b"x" * 20,))) is KeyType.ECDSA256


def test_the_signature_is_one_that_was_announced() -> None:
    """Among the algorithms of one key too: PSS as the peer writes it, though PKCS#1 is configured."""
    key = make_certificate(["a"], KeyType.RSA2048, issued(KeyType.ECDSA256)[0]).key
    schemes = [s for s in signature.SCHEMES if s.name == "RSASSA-PSS with SHA2_384"]
    for name in schemes[0].identifiers:
        _, data = signature.sign(key, b"octets", ALL_HASHES, pss=False, announced={name})
        assert data[1 : 1 + data[0]] == name
        assert signature.verify(key.public_key(), 14, data, b"octets") == schemes[0].name
    _, data = signature.sign(key, b"octets", ALL_HASHES, pss=True, announced={identifier(KeyType.ED25519)})
    assert signature.verify(key.public_key(), 14, data, b"octets") == "RSASSA-PSS with SHA2_256"
