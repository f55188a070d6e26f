"""Digital signatures in AUTH payloads: RFC 7427 with the hashes that both ends know, and RFC 4754 where a peer knows no
other way. Which algorithm it was stands in the payload itself, as the DER of an AlgorithmIdentifier.

RSA: PKCS#1 v1.5 and PSS; ECDSA; Ed25519 and Ed448 (RFC 8420); ML-DSA (draft-ietf-ipsecme-ikev2-pqc-auth).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from ipsecfast.configured import PrivateKey, PublicKey
from ipsecfast.ike.constants import AuthenticationFailed, AuthMethod, HashAlgorithm

MIN_RSA_BITS = 2048  # RFC 8247 s4.1.1

_HASHES: dict[HashAlgorithm, hashes.HashAlgorithm] = {
    HashAlgorithm.SHA2_256: hashes.SHA256(),
    HashAlgorithm.SHA2_384: hashes.SHA384(),
    HashAlgorithm.SHA2_512: hashes.SHA512(),
}
SUPPORTED_HASHES = (*_HASHES, HashAlgorithm.IDENTITY)  # what we announce; SHA-1 is not among them (RFC 8247 s4.2)

# -- AlgorithmIdentifiers (RFC 7427 app. A, RFC 8420, RFC 9881) --------------------------------------------------------


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return bytes([tag, len(content)]) + content


def _oid(hexadecimal: str) -> bytes:
    return _der(0x06, bytes.fromhex(hexadecimal))


_NULL = b"\x05\x00"
_HASH_OIDS = {
    HashAlgorithm.SHA2_256: _oid("608648016503040201"),
    HashAlgorithm.SHA2_384: _oid("608648016503040202"),
    HashAlgorithm.SHA2_512: _oid("608648016503040203"),
}
_PKCS1_OIDS = {
    HashAlgorithm.SHA2_256: _oid("2a864886f70d01010b"),
    HashAlgorithm.SHA2_384: _oid("2a864886f70d01010c"),
    HashAlgorithm.SHA2_512: _oid("2a864886f70d01010d"),
}
_ECDSA_OIDS = {
    HashAlgorithm.SHA2_256: _oid("2a8648ce3d040302"),
    HashAlgorithm.SHA2_384: _oid("2a8648ce3d040303"),
    HashAlgorithm.SHA2_512: _oid("2a8648ce3d040304"),
}
_PSS_OID, _MGF1_OID = _oid("2a864886f70d01010a"), _oid("2a864886f70d010108")
_INTRINSIC_OIDS: dict[type[PublicKey], bytes] = {
    ed25519.Ed25519PublicKey: _oid("2b6570"),
    ed448.Ed448PublicKey: _oid("2b6571"),
    mldsa.MLDSA44PublicKey: _oid("608648016503040311"),
    mldsa.MLDSA65PublicKey: _oid("608648016503040312"),
    mldsa.MLDSA87PublicKey: _oid("608648016503040313"),
}


def _pss_identifier(digest: HashAlgorithm, hash_null: bytes, mgf_null: bytes) -> bytes:
    """RFC 7427 app. A.4: hash, MGF1 with the same hash, a salt as long as the hash. NULL parameters may be left out."""
    hash_name = _der(0x30, _HASH_OIDS[digest], hash_null)
    mgf = _der(0x30, _MGF1_OID, _der(0x30, _HASH_OIDS[digest], mgf_null))
    salt = _der(0x02, bytes([_HASHES[digest].digest_size]))
    return _der(0x30, _PSS_OID, _der(0x30, _der(0xA0, hash_name), _der(0xA1, mgf), _der(0xA2, salt)))


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to sign: the key it takes, its hash, its AlgorithmIdentifiers (the first is what we send)."""

    name: str
    key: type[PublicKey]
    hash: HashAlgorithm
    identifiers: tuple[bytes, ...]
    sign: Callable[[PrivateKey, bytes], bytes]
    verify: Callable[[PublicKey, bytes, bytes], None]


def _rsa(digest: HashAlgorithm, *, pss: bool) -> Scheme:
    chosen = _HASHES[digest]
    pad = padding.PSS(padding.MGF1(chosen), chosen.digest_size) if pss else padding.PKCS1v15()

    def sign(key: PrivateKey, data: bytes) -> bytes:
        assert isinstance(key, rsa.RSAPrivateKey)
        return key.sign(data, pad, chosen)

    def verify(key: PublicKey, signature: bytes, data: bytes) -> None:
        assert isinstance(key, rsa.RSAPublicKey)
        key.verify(signature, data, pad, chosen)

    identifiers = (
        tuple(_pss_identifier(digest, a, b) for a, b in product((_NULL, b""), repeat=2))
        if pss
        else (_der(0x30, _PKCS1_OIDS[digest], _NULL), _der(0x30, _PKCS1_OIDS[digest]))
    )
    kind = "RSASSA-PSS" if pss else "RSASSA-PKCS1-v1_5"
    return Scheme(f"{kind} with {digest.name}", rsa.RSAPublicKey, digest, identifiers, sign, verify)


def _ecdsa(digest: HashAlgorithm) -> Scheme:
    algorithm = ec.ECDSA(_HASHES[digest])

    def sign(key: PrivateKey, data: bytes) -> bytes:
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key.sign(data, algorithm)

    def verify(key: PublicKey, signature: bytes, data: bytes) -> None:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(signature, data, algorithm)

    identifiers = (_der(0x30, _ECDSA_OIDS[digest]),)
    return Scheme(f"ECDSA with {digest.name}", ec.EllipticCurvePublicKey, digest, identifiers, sign, verify)


def _intrinsic(kind: type[PublicKey], oid: bytes) -> Scheme:
    """The message goes in as it is: the "Identity" hash (RFC 8420 s2)."""

    def sign(key: PrivateKey, data: bytes) -> bytes:
        assert not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        return key.sign(data)

    def verify(key: PublicKey, signature: bytes, data: bytes) -> None:
        assert not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
        key.verify(signature, data)

    name = kind.__name__.removesuffix("PublicKey")
    return Scheme(name, kind, HashAlgorithm.IDENTITY, (_der(0x30, oid),), sign, verify)


SCHEMES: tuple[Scheme, ...] = (
    *(_rsa(digest, pss=False) for digest in _HASHES),
    *(_rsa(digest, pss=True) for digest in _HASHES),
    *(_ecdsa(digest) for digest in _HASHES),
    *(_intrinsic(kind, oid) for kind, oid in _INTRINSIC_OIDS.items()),
)
_BY_IDENTIFIER = {identifier: scheme for scheme in SCHEMES for identifier in scheme.identifiers}

# RFC 4754 s3: the curve and the hash that each of the older methods means; the signature is r and s, of fixed length.
_OLDER_ECDSA: dict[int, tuple[str, HashAlgorithm, int]] = {
    AuthMethod.ECDSA_SHA256_P256: ("secp256r1", HashAlgorithm.SHA2_256, 32),
    AuthMethod.ECDSA_SHA384_P384: ("secp384r1", HashAlgorithm.SHA2_384, 48),
    AuthMethod.ECDSA_SHA512_P521: ("secp521r1", HashAlgorithm.SHA2_512, 66),
}

OLDER_METHODS = tuple(_OLDER_ECDSA)

# -- signing -----------------------------------------------------------------------------------------------------------


def sign(
    key: PrivateKey, octets: bytes, peer_hashes: Collection[int], *, pss: bool, announced: Collection[bytes] = ()
) -> tuple[AuthMethod, bytes]:
    """Method and data of our AUTH payload. `peer_hashes`: what the peer announced, empty where it knows no RFC 7427;
    `announced`: the AlgorithmIdentifiers that it would like best (RFC 9593).

    Raises:
        AuthenticationFailed: the peer takes no signature that this key can make.
    """
    if not peer_hashes:
        return _sign_older(key, octets)
    scheme = _choose(key.public_key(), peer_hashes, pss=pss, announced=announced)
    identifier = next((i for i in scheme.identifiers if i in announced), scheme.identifiers[0])
    return AuthMethod.DIGITAL_SIGNATURE, bytes([len(identifier)]) + identifier + scheme.sign(key, octets)


def takes(key: PublicKey, peer_hashes: Collection[int], announced: Collection[bytes], methods: Collection[int]) -> bool:
    """Whether the peer has announced one of the ways by which `key` can sign (RFC 9593): by a hash that it knows, or,
    where it knows none, by one of the older `methods`."""
    if peer_hashes:
        return any(i in announced for s in _schemes(key, peer_hashes) for i in s.identifiers)
    return any(
        isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == curve and method in methods
        for method, (curve, _, _) in _OLDER_ECDSA.items()
    )


def _schemes(key: PublicKey, peer_hashes: Collection[int]) -> list[Scheme]:
    return [s for s in SCHEMES if isinstance(key, s.key) and s.hash in peer_hashes]


def _choose(key: PublicKey, peer_hashes: Collection[int], *, pss: bool, announced: Collection[bytes]) -> Scheme:
    """What the peer has announced; RSA as configured; the hash that fits the key's strength, else the next one that the
    peer knows."""
    usable = _schemes(key, peer_hashes)
    usable = [s for s in usable if any(i in announced for i in s.identifiers)] or usable
    if isinstance(key, rsa.RSAPublicKey):
        usable = [s for s in usable if ("PSS" in s.name) == pss] or usable
    if not usable:
        known = ", ".join(HashAlgorithm(h).name if h in list(HashAlgorithm) else str(h) for h in peer_hashes)
        raise AuthenticationFailed(f"the peer takes signatures with {known} only; our {key_text(key)} can make none")
    if isinstance(key, ec.EllipticCurvePublicKey):
        return min(usable, key=lambda s: abs(_HASHES[s.hash].digest_size * 8 - key.curve.key_size))
    return usable[0]


def _sign_older(key: PrivateKey, octets: bytes) -> tuple[AuthMethod, bytes]:
    for method, (curve, digest, size) in _OLDER_ECDSA.items():
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == curve:
            r, s = decode_dss_signature(key.sign(octets, ec.ECDSA(_HASHES[digest])))
            return AuthMethod(method), r.to_bytes(size, "big") + s.to_bytes(size, "big")
    raise AuthenticationFailed(
        f"the peer knows no signature hashes (RFC 7427); without them our {key_text(key.public_key())} can't be used"
    )


# -- verifying ---------------------------------------------------------------------------------------------------------


def verify(key: PublicKey, method: int, data: bytes, octets: bytes) -> str:
    """The name of the algorithm by which the owner of `key` has signed `octets`.

    Raises:
        AuthenticationFailed: it has not, or by a way that we don't take.
    """
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise AuthenticationFailed(f"{key_text(key)} is too short: at least {MIN_RSA_BITS} bits")
    try:
        if method == AuthMethod.DIGITAL_SIGNATURE:
            return _verify_named(key, data, octets)
        if method in _OLDER_ECDSA:
            return _verify_older(key, method, data, octets)
    except InvalidSignature as error:
        raise AuthenticationFailed(f"the signature is not by this {key_text(key)}") from error
    raise AuthenticationFailed(f"it proves itself by method {method}, not by a signature that is taken here")


def _verify_named(key: PublicKey, data: bytes, octets: bytes) -> str:
    """RFC 7427 s3: the length of the AlgorithmIdentifier in one octet, itself, the signature."""
    length = data[0] if data else 0
    identifier, signature = data[1 : 1 + length], data[1 + length :]
    scheme = _BY_IDENTIFIER.get(identifier)
    if scheme is None:
        raise AuthenticationFailed(f"signature algorithm {identifier.hex()} is not taken here")
    if not isinstance(key, scheme.key):
        raise AuthenticationFailed(f"it signs by {scheme.name}, but its key is {key_text(key)}")
    scheme.verify(key, signature, octets)
    return scheme.name


def _verify_older(key: PublicKey, method: int, data: bytes, octets: bytes) -> str:
    curve, digest, size = _OLDER_ECDSA[method]
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != curve:
        raise AuthenticationFailed(f"method {method} takes a key on {curve}, not {key_text(key)}")
    if len(data) != 2 * size:
        raise AuthenticationFailed(f"a signature of {len(data)} octets; method {method} has {2 * size}")
    signature = encode_dss_signature(int.from_bytes(data[:size], "big"), int.from_bytes(data[size:], "big"))
    key.verify(signature, octets, ec.ECDSA(_HASHES[digest]))
    return f"ECDSA with {digest.name}"


class Seconds(NamedTuple):
    """What one signature costs, in seconds of one CPU of 2.5 GHz."""

    sign: float
    verify: float


_RSA_SECONDS = {2048: Seconds(0.0004, 0.00004), 3072: Seconds(0.0011, 0.00006), 4096: Seconds(0.0021, 0.0001)}
_SECONDS: dict[str, Seconds] = {
    "secp256r1": Seconds(0.00005, 0.00015),
    "secp384r1": Seconds(0.0004, 0.0009),
    "secp521r1": Seconds(0.0005, 0.001),
    "brainpoolP256r1": Seconds(0.0007, 0.0007),
    "brainpoolP384r1": Seconds(0.0012, 0.0012),
    "brainpoolP512r1": Seconds(0.0024, 0.002),
    "Ed25519": Seconds(0.00007, 0.0002),
    "Ed448": Seconds(0.0003, 0.0002),
    "MLDSA44": Seconds(0.0006, 0.0002),
    "MLDSA65": Seconds(0.0009, 0.0002),
    "MLDSA87": Seconds(0.0012, 0.0003),
}
_UNKNOWN_SECONDS = Seconds(0.01, 0.001)


def seconds(key: PublicKey) -> Seconds:
    """What signing and verifying cost with a key, about; more than they do where that is not known."""
    if isinstance(key, rsa.RSAPublicKey):
        return next((cost for bits, cost in _RSA_SECONDS.items() if key.key_size <= bits), _UNKNOWN_SECONDS)
    name = (
        key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.removesuffix("PublicKey")
    )
    return _SECONDS.get(name, _UNKNOWN_SECONDS)


def is_supported(key: PublicKey) -> bool:
    return any(isinstance(key, scheme.key) for scheme in SCHEMES)


def key_text(key: PublicKey) -> str:
    """A key in a sentence, e.g. "RSA key of 2048 bits"."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA key of {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA key on {key.curve.name}"
    return f"{type(key).__name__.removesuffix('PublicKey')} key"
