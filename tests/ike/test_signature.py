"""Signatures of AUTH payloads (RFC 7427, RFC 4754, RFC 8420), against `cryptography` and the RFC's own examples."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa

from ipsecfast.configured import PrivateKey
from ipsecfast.ike.constants import AuthenticationFailed, AuthMethod, HashAlgorithm
from ipsecfast.ike.crypto import signature
from ipsecfast.pki import KeyType, make_authority

OCTETS = b"IKE_SA_INIT, nonce, identity"
ALL = frozenset(signature.SUPPORTED_HASHES)
RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, PrivateKey] = {
    "rsa": RSA,
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "brainpool": ec.generate_private_key(ec.BrainpoolP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ed448": ed448.Ed448PrivateKey.generate(),
    "mldsa65": mldsa.MLDSA65PrivateKey.generate(),
}
# RFC 7427 app. A: the whole AlgorithmIdentifier.
IDENTIFIERS = {
    "RSASSA-PKCS1-v1_5 with SHA2_256": "300d06092a864886f70d01010b0500",
    "RSASSA-PKCS1-v1_5 with SHA2_384": "300d06092a864886f70d01010c0500",
    "RSASSA-PKCS1-v1_5 with SHA2_512": "300d06092a864886f70d01010d0500",
    "ECDSA with SHA2_256": "300a06082a8648ce3d040302",
    "ECDSA with SHA2_384": "300a06082a8648ce3d040303",
    "ECDSA with SHA2_512": "300a06082a8648ce3d040304",
    "RSASSA-PSS with SHA2_256": "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886"
    "f70d010108300d06096086480165030402010500a203020120",
    "Ed25519": "300506032b6570",
    "Ed448": "300506032b6571",
}


def test_identifiers_are_those_of_the_rfcs() -> None:
    known = {scheme.name: scheme.identifiers[0].hex() for scheme in signature.SCHEMES}
    assert {name: known[name] for name in IDENTIFIERS} == IDENTIFIERS


@pytest.mark.parametrize("pss", [False, True])
@pytest.mark.parametrize("name", KEYS)
def test_signed_and_verified(name: str, pss: bool) -> None:
    key = KEYS[name]
    method, data = signature.sign(key, OCTETS, ALL, pss=pss)
    assert method == AuthMethod.DIGITAL_SIGNATURE
    used = signature.verify(key.public_key(), method, data, OCTETS)
    assert ("PSS" in used) == (pss and name == "rsa")
    for wrong in (data[:-1], data + b"\0", data[:-1] + bytes([data[-1] ^ 1]), data[:1], b""):
        with pytest.raises(AuthenticationFailed):
            signature.verify(key.public_key(), method, wrong, OCTETS)
    with pytest.raises(AuthenticationFailed):
        signature.verify(key.public_key(), method, data, OCTETS + b"!")
    other = next(k for n, k in KEYS.items() if n != name)
    with pytest.raises(AuthenticationFailed):
        signature.verify(other.public_key(), method, data, OCTETS)


@pytest.mark.parametrize(
    ("name", "hashes_known", "used"),
    [
        ("p256", [2, 3, 4], "ECDSA with SHA2_256"),
        ("p384", [2, 3, 4], "ECDSA with SHA2_384"),
        ("p521", [2, 3, 4], "ECDSA with SHA2_512"),
        ("p384", [2], "ECDSA with SHA2_256"),
        ("rsa", [1, 4], "RSASSA-PKCS1-v1_5 with SHA2_512"),
        ("ed25519", [1, 2, 5], "Ed25519"),
    ],
)
def test_the_hash_is_one_that_the_peer_knows(name: str, hashes_known: list[int], used: str) -> None:
    method, data = signature.sign(KEYS[name], OCTETS, hashes_known, pss=False)
    assert signature.verify(KEYS[name].public_key(), method, data, OCTETS) == used


@pytest.mark.parametrize(("name", "hashes_known"), [("rsa", [1]), ("ed25519", [2, 3]), ("p256", [1, 5])])
def test_nothing_in_common(name: str, hashes_known: list[int]) -> None:
    with pytest.raises(AuthenticationFailed, match="takes signatures with"):
        signature.sign(KEYS[name], OCTETS, hashes_known, pss=False)


@pytest.mark.parametrize(("name", "method", "size"), [("p256", 9, 64), ("p384", 10, 96), ("p521", 11, 132)])
def test_a_peer_without_rfc_7427_gets_the_older_methods(name: str, method: int, size: int) -> None:
    used, data = signature.sign(KEYS[name], OCTETS, frozenset(), pss=False)
    assert (used, len(data)) == (method, size)
    assert signature.verify(KEYS[name].public_key(), used, data, OCTETS).startswith("ECDSA")
    for wrong in (data[:-1], bytes(size), data[1:] + data[:1]):
        with pytest.raises(AuthenticationFailed):
            signature.verify(KEYS[name].public_key(), used, wrong, OCTETS)
    with pytest.raises(AuthenticationFailed, match="takes a key on"):
        signature.verify(RSA.public_key(), used, data, OCTETS)


def test_rsa_without_rfc_7427_would_mean_sha1() -> None:
    with pytest.raises(AuthenticationFailed, match="RFC 7427"):
        signature.sign(RSA, OCTETS, frozenset(), pss=False)
    data = RSA.sign(OCTETS, padding.PKCS1v15(), hashes.SHA1())
    with pytest.raises(AuthenticationFailed, match="method 1"):
        signature.verify(RSA.public_key(), AuthMethod.RSA_DIGITAL_SIGNATURE, data, OCTETS)


def test_pss_parameters_without_null() -> None:
    """RFC 7427 app. A.4: both encodings are seen."""
    (scheme,) = [s for s in signature.SCHEMES if s.name == "RSASSA-PSS with SHA2_256"]
    made = scheme.sign(RSA, OCTETS)
    for identifier in scheme.identifiers:
        data = bytes([len(identifier)]) + identifier + made
        assert signature.verify(RSA.public_key(), AuthMethod.DIGITAL_SIGNATURE, data, OCTETS) == scheme.name


def test_short_rsa_keys_are_refused() -> None:
    short = rsa.generate_private_key(65537, 1024)
    method, data = signature.sign(short, OCTETS, [HashAlgorithm.SHA2_256], pss=False)
    with pytest.raises(AuthenticationFailed, match="too short"):
        signature.verify(short.public_key(), method, data, OCTETS)


@pytest.mark.parametrize(
    ("kind", "oid"),
    [(KeyType.ML_DSA_44, 17), (KeyType.ML_DSA_65, 18), (KeyType.ML_DSA_87, 19)],
)
def test_ml_dsa_as_the_draft_has_it(kind: KeyType, oid: int) -> None:
    """draft-ietf-ipsecme-ikev2-pqc-auth: method 14, the OID of the parameter set without parameters (RFC 9881), the
    octets themselves (Identity hash, pure ML-DSA), an empty context; only for a peer that knows the Identity hash."""
    key = make_authority("Root", kind).key
    method, data = signature.sign(key, b"octets", {HashAlgorithm.IDENTITY}, pss=False)
    identifier = bytes.fromhex(f"300b06096086480165030403{oid:02x}")
    assert (method, data[0], data[1:14]) == (AuthMethod.DIGITAL_SIGNATURE, 13, identifier)
    public = key.public_key()
    assert isinstance(public, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey)
    public.verify(data[14:], b"octets", b"")
    with pytest.raises(InvalidSignature):
        public.verify(data[14:], b"octets", b"a context")
    with pytest.raises(AuthenticationFailed, match="can make none"):
        signature.sign(key, b"octets", {HashAlgorithm.SHA2_256}, pss=False)
