"""The primitives of IKEv2, all from `cryptography`: PRF, the protection of SK payloads, key exchange methods.

Nothing here draws randomness: private keys and IVs come from the caller. The one exception is what ML-KEM's responder
encapsulates, for which `cryptography` takes none.
"""

from __future__ import annotations

import hmac
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import ClassVar, Protocol, TypeAlias

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import constant_time
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x448, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ipsecfast.ike.constants import IntegId, IntegrityError, InvalidSyntax, KeGroup, PrfId
from ipsecfast.ike.crypto.algorithms import BY_TRANSFORM, Algorithm
from ipsecfast.model import Transform, TransformType

with warnings.catch_warnings():  # cryptography 50 announces the end of these; MODP 14 and 15 stay IKEv2's common ground
    warnings.simplefilter("ignore")
    from cryptography.hazmat.primitives.asymmetric.dh import DHParameterNumbers, DHPrivateNumbers, DHPublicNumbers

RandomBytes = Callable[[int], bytes]

# By OpenSSL's names. `hmac.digest` of the standard library costs a third of what an HMAC object of `cryptography` does.
_PRF_HASHES: dict[int, tuple[str, int]] = {
    PrfId.PRF_HMAC_SHA2_256: ("sha256", 32),
    PrfId.PRF_HMAC_SHA2_384: ("sha384", 48),
    PrfId.PRF_HMAC_SHA2_512: ("sha512", 64),
}
_INTEG_HASHES: dict[int, str] = {
    IntegId.AUTH_HMAC_SHA2_256_128: "sha256",
    IntegId.AUTH_HMAC_SHA2_384_192: "sha384",
    IntegId.AUTH_HMAC_SHA2_512_256: "sha512",
}


class Prf:
    """A pseudorandom function (RFC 7296 s2.13): HMAC-SHA2, whose preferred key is as long as its output, in octets."""

    __slots__ = ("_hash", "id", "output_length")

    def __init__(self, prf_id: int) -> None:
        if prf_id not in _PRF_HASHES:
            raise ValueError(f"no PRF has the number {prf_id} here")
        self.id = prf_id
        self._hash, self.output_length = _PRF_HASHES[prf_id]

    @property
    def key_length(self) -> int:
        return self.output_length

    def compute(self, key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, self._hash)


class _Gcm:
    """AES-GCM with a 16-octet ICV (RFC 5282): the nonce is salt and IV."""

    def __init__(self, row: Algorithm, key_e: bytes) -> None:
        self._aead = AESGCM(key_e[: -row.salt_length])
        self._salt = key_e[-row.salt_length :]

    def seal(self, iv: bytes, aad: bytes, padded: bytes) -> bytes:
        return self._aead.encrypt(self._salt + iv, padded, aad)

    def open(self, iv: bytes, aad: bytes, sealed: bytes) -> bytes:
        try:
            return self._aead.decrypt(self._salt + iv, sealed, aad)
        except InvalidTag as error:
            raise IntegrityError("the ICV is wrong") from error


class _CbcHmac:
    """AES-CBC, then a truncated HMAC over the whole message before the ICV (RFC 7296 s3.14)."""

    def __init__(self, integ: Algorithm, key_e: bytes, key_a: bytes) -> None:
        self._aes, self._key_a = algorithms.AES(key_e), key_a
        self._hash, self._icv_length = _INTEG_HASHES[integ.transform.id], integ.icv_length

    def seal(self, iv: bytes, aad: bytes, padded: bytes) -> bytes:
        encryptor = Cipher(self._aes, modes.CBC(iv)).encryptor()
        ciphertext = encryptor.update(padded) + encryptor.finalize()
        return ciphertext + self._mac(aad, iv, ciphertext)

    def open(self, iv: bytes, aad: bytes, sealed: bytes) -> bytes:
        ciphertext, icv = sealed[: -self._icv_length], sealed[-self._icv_length :]
        if not constant_time.bytes_eq(self._mac(aad, iv, ciphertext), icv):
            raise IntegrityError("the ICV is wrong")
        decryptor = Cipher(self._aes, modes.CBC(iv)).decryptor()
        return decryptor.update(ciphertext) + decryptor.finalize()

    def _mac(self, aad: bytes, iv: bytes, ciphertext: bytes) -> bytes:
        return hmac.digest(self._key_a, b"".join((aad, iv, ciphertext)), self._hash)[: self._icv_length]


class SkCipher:
    """One direction of an IKE SA: seals and opens the body of SK payloads, which is IV, ciphertext and ICV.

    `encr` and `integ` are transforms of the table; `key_e` holds the salt after the key for AES-GCM (RFC 5282 s7.1),
    `key_a` is empty for it. AES-GCM takes an IV that must never repeat under one key, a counter (`iv_is_counter`);
    AES-CBC takes one that nobody can predict (RFC 7296 s3.14). All lengths in octets.
    """

    __slots__ = ("_box", "_encr", "icv_length", "iv_is_counter", "iv_length")

    def __init__(self, encr: Transform, integ: Transform | None, key_e: bytes, key_a: bytes) -> None:
        self._encr = row = _row(encr, TransformType.ENCR)
        mac = _row(integ, TransformType.INTEG) if integ is not None and not row.aead else None
        if not row.aead and mac is None:
            raise ValueError(f"{row.keyword} needs an integrity algorithm")
        if len(key_e) != row.key_length or len(key_a) != (mac.key_length if mac else 0):
            raise ValueError(f"{row.keyword}: keys of {len(key_e)} and {len(key_a)} octets")
        self._box = _CbcHmac(mac, key_e, key_a) if mac else _Gcm(row, key_e)
        self.iv_length = row.iv_length
        self.icv_length = mac.icv_length if mac else row.icv_length
        self.iv_is_counter = row.aead

    def sealed_length(self, length: int) -> int:
        """How many octets `seal` makes of `length` octets: IV, padding, pad length and ICV added."""
        return self.iv_length + length + self._padding(length) + 1 + self.icv_length

    def seal(self, iv: bytes, aad: bytes, plaintext: bytes) -> bytes:
        """The body of an SK payload. `aad` is the message up to it, SK's own header included (RFC 5282 s5.1)."""
        if len(iv) != self.iv_length:
            raise ValueError(f"an IV of {len(iv)} octets instead of {self.iv_length}")
        padding = self._padding(len(plaintext))
        return iv + self._box.seal(iv, aad, plaintext + bytes(padding) + bytes([padding]))

    def open(self, aad: bytes, body: bytes) -> bytes:
        """The plaintext without its padding.

        Raises:
            IntegrityError: too short, no whole number of blocks, a wrong ICV, or a pad length beyond the plaintext.
        """
        ciphertext_length = len(body) - self.iv_length - self.icv_length
        if ciphertext_length < 1 or ciphertext_length % self._encr.block_length:
            raise IntegrityError(f"an SK payload of {len(body)} octets can't hold what {self._encr.keyword} makes")
        padded = self._box.open(body[: self.iv_length], aad, body[self.iv_length :])
        end = len(padded) - 1 - padded[-1]
        if end < 0:
            raise IntegrityError(f"{padded[-1]} octets of padding in {len(padded)} octets")
        return padded[:end]

    def _padding(self, length: int) -> int:
        return -(length + 1) % self._encr.block_length


def _row(transform: Transform, kind: TransformType) -> Algorithm:
    row = BY_TRANSFORM.get(transform)
    if row is None or row.transform.type != kind:
        raise ValueError(f"no algorithm of type {kind.name} here: {transform}")
    return row


# -- key exchange (RFC 7296 s3.4; checks of the peer's value: RFC 6989) -----------------------------------------------


class KeyExchange(Protocol):
    """The initiator's half of one key exchange. `public` goes into its KE payload; use it for one SA only. The
    responder's half is `answer_key_exchange`, as a KEM's two sides differ."""

    @property
    def group(self) -> int: ...

    @property
    def public(self) -> bytes: ...

    def shared_secret(self, peer_public: bytes) -> bytes:
        """g^ir, or what the KEM's ciphertext holds. Raises InvalidSyntax for a value that RFC 6989 or FIPS 203
        refuses."""


@dataclass(frozen=True, slots=True)
class X25519KeyExchange:
    """Group 31 (RFC 8031)."""

    group: ClassVar[int] = KeGroup.CURVE25519
    _private: x25519.X25519PrivateKey = field(repr=False)

    @classmethod
    def of(cls, private: bytes) -> X25519KeyExchange:
        return cls(x25519.X25519PrivateKey.from_private_bytes(private))

    @property
    def public(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    def shared_secret(self, peer_public: bytes) -> bytes:
        try:
            return self._private.exchange(x25519.X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:  # another length, or a point of small order: the secret would be 0 (RFC 7748 s6.1)
            raise InvalidSyntax("KE payload: no acceptable X25519 value") from error


@dataclass(frozen=True, slots=True)
class X448KeyExchange:
    """Group 32 (RFC 8031)."""

    group: ClassVar[int] = KeGroup.CURVE448
    _private: x448.X448PrivateKey = field(repr=False)

    @classmethod
    def of(cls, private: bytes) -> X448KeyExchange:
        return cls(x448.X448PrivateKey.from_private_bytes(private))

    @property
    def public(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    def shared_secret(self, peer_public: bytes) -> bytes:
        try:
            return self._private.exchange(x448.X448PublicKey.from_public_bytes(peer_public))
        except ValueError as error:  # as for X25519 (RFC 7748 s6.2)
            raise InvalidSyntax("KE payload: no acceptable X448 value") from error


@dataclass(frozen=True, slots=True)
class EcpGroup:
    """A curve of RFC 5903 or RFC 6954; `length`: octets of a coordinate and of a scalar."""

    curve: ec.EllipticCurve

    @property
    def order(self) -> int:
        return self.curve.group_order

    @property
    def length(self) -> int:
        return (self.curve.key_size + 7) // 8


ECP_GROUPS = {
    KeGroup.ECP_256: EcpGroup(ec.SECP256R1()),
    KeGroup.ECP_384: EcpGroup(ec.SECP384R1()),
    KeGroup.ECP_521: EcpGroup(ec.SECP521R1()),
    KeGroup.BRAINPOOL_P256R1: EcpGroup(ec.BrainpoolP256R1()),
    KeGroup.BRAINPOOL_P384R1: EcpGroup(ec.BrainpoolP384R1()),
    KeGroup.BRAINPOOL_P512R1: EcpGroup(ec.BrainpoolP512R1()),
}


@dataclass(frozen=True, slots=True)
class EcpKeyExchange:
    """Groups 19 to 21 and 28 to 30: both coordinates on the wire, x is the secret (RFC 5903 s7, RFC 6954 s2)."""

    group: int
    _private: ec.EllipticCurvePrivateKey = field(repr=False)

    @staticmethod
    def draw(group: int, random: RandomBytes) -> bytes:
        """A scalar."""
        parameters = ECP_GROUPS[KeGroup(group)]
        scalar = 0
        while not 1 <= scalar < parameters.order:  # rejected, not reduced: every scalar is equally likely
            scalar = int.from_bytes(random(parameters.length), "big") & ((1 << parameters.order.bit_length()) - 1)
        return scalar.to_bytes(parameters.length, "big")

    @classmethod
    def of(cls, group: int, private: bytes) -> EcpKeyExchange:
        return cls(group, ec.derive_private_key(int.from_bytes(private, "big"), ECP_GROUPS[KeGroup(group)].curve))

    @property
    def public(self) -> bytes:
        numbers = self._private.public_key().public_numbers()
        length = ECP_GROUPS[KeGroup(self.group)].length
        return numbers.x.to_bytes(length, "big") + numbers.y.to_bytes(length, "big")

    def shared_secret(self, peer_public: bytes) -> bytes:
        parameters = ECP_GROUPS[KeGroup(self.group)]
        if len(peer_public) != 2 * parameters.length:
            raise InvalidSyntax(f"KE payload: {len(peer_public)} octets for group {self.group}")
        x, y = (int.from_bytes(half, "big") for half in _halves(peer_public))
        try:
            peer = ec.EllipticCurvePublicNumbers(x, y, parameters.curve).public_key()
        except ValueError as error:  # RFC 6989 s2.3: not a point of the curve
            raise InvalidSyntax(f"KE payload: not a point of the curve of group {self.group}") from error
        return self._private.exchange(ec.ECDH(), peer)


def _halves(data: bytes) -> tuple[bytes, bytes]:
    middle = len(data) // 2
    return data[:middle], data[middle:]


@dataclass(frozen=True, slots=True)
class ModpGroup:
    """A safe prime of RFC 3526, generator 2, as its formula: `constant` is the number that makes it a safe prime.
    Exponents have as many octets as the upper estimate of its s8 asks for."""

    bits: int
    constant: int
    exponent_length: int

    @property
    def prime(self) -> int:
        return _modp_prime(self.bits, self.constant)

    @property
    def length(self) -> int:
        return self.bits // 8


@cache
def _modp_prime(bits: int, constant: int) -> int:
    """RFC 3526 s2 to s7: 2^n - 2^(n - 64) - 1 + 2^64 * ([2^(n - 130) * pi] + constant)."""
    return (1 << bits) - (1 << bits - 64) - 1 + (_pi(bits - 130) + constant << 64)


def _pi(bits: int) -> int:
    """[2^bits * pi] by Machin's formula, with 64 bits to spare for what the divisions cut off."""
    one = 1 << bits + 64

    def arctan_of_inverse(x: int) -> int:
        term = total = one // x
        for n in count(3, 2):
            term //= x * x
            if term == 0:
                break
            total += term // n if n % 4 == 1 else -(term // n)
        return total

    return 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239)) >> 64


MODP_GROUPS = {
    KeGroup.MODP_2048: ModpGroup(2048, 124476, 40),
    KeGroup.MODP_3072: ModpGroup(3072, 1690314, 54),
    KeGroup.MODP_4096: ModpGroup(4096, 240904, 60),
    KeGroup.MODP_6144: ModpGroup(6144, 929484, 68),
    KeGroup.MODP_8192: ModpGroup(8192, 4743158, 78),
}
_GENERATOR = 2


@dataclass(frozen=True, slots=True)
class ModpKeyExchange:
    """Groups 14 to 18 (RFC 3526)."""

    group: int
    public: bytes
    _exponent: int = field(repr=False)

    @staticmethod
    def draw(group: int, random: RandomBytes) -> bytes:
        """An exponent of full length, never 0."""
        first, *rest = random(MODP_GROUPS[KeGroup(group)].exponent_length)
        return bytes([first | 0x80, *rest])

    @classmethod
    def of(cls, group: int, private: bytes) -> ModpKeyExchange:
        exponent = int.from_bytes(private, "big")
        return cls(group, _modp_power(group, _GENERATOR, exponent), exponent)

    def shared_secret(self, peer_public: bytes) -> bytes:
        parameters = MODP_GROUPS[KeGroup(self.group)]
        value = int.from_bytes(peer_public, "big")
        if len(peer_public) != parameters.length or not 1 < value < parameters.prime - 1:  # RFC 6989 s2.1
            raise InvalidSyntax(f"KE payload: no acceptable value for group {self.group}")
        return _modp_power(self.group, value, self._exponent)


def _modp_power(group: int, base: int, exponent: int) -> bytes:
    """base ^ exponent mod prime in constant time, as long as the prime (s2.14): OpenSSL's, not Python's pow()."""
    numbers = DHPublicNumbers(base, DHParameterNumbers(MODP_GROUPS[KeGroup(group)].prime, _GENERATOR))
    try:
        return DHPrivateNumbers(exponent, numbers).private_key().exchange(numbers.public_key())
    except ValueError as error:  # not of the subgroup of prime order
        raise InvalidSyntax(f"KE payload: no acceptable value for group {group}") from error


_MlKemKeys: TypeAlias = (
    tuple[type[mlkem.MLKEM768PrivateKey], type[mlkem.MLKEM768PublicKey]]
    | tuple[type[mlkem.MLKEM1024PrivateKey], type[mlkem.MLKEM1024PublicKey]]
)
_ML_KEM_KEYS: dict[int, _MlKemKeys] = {
    KeGroup.ML_KEM_768: (mlkem.MLKEM768PrivateKey, mlkem.MLKEM768PublicKey),
    KeGroup.ML_KEM_1024: (mlkem.MLKEM1024PrivateKey, mlkem.MLKEM1024PublicKey),
}
_ML_KEM_SEED = 64  # FIPS 203 s7.1: d and z


def _has_ml_kem() -> bool:
    try:
        mlkem.MLKEM768PrivateKey.from_seed_bytes(bytes(_ML_KEM_SEED))
    except UnsupportedAlgorithm:
        return False
    return True


HAS_ML_KEM = _has_ml_kem()  # not with every OpenSSL that `cryptography` can be built on


@dataclass(frozen=True, slots=True)
class MlKemKeyExchange:
    """Methods 36 and 37 (FIPS 203; draft-ietf-ipsecme-ikev2-mlkem): our encapsulation key goes out, its use for a
    secret comes back. `cryptography` has no ML-KEM-512."""

    group: int
    _private: mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey = field(repr=False)

    @classmethod
    def of(cls, group: int, private: bytes) -> MlKemKeyExchange:
        return cls(group, _ML_KEM_KEYS[group][0].from_seed_bytes(private))

    @property
    def public(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    def shared_secret(self, peer_public: bytes) -> bytes:
        """A damaged ciphertext of the right length yields a secret that nobody has: AUTH will fail (FIPS 203 s6.3)."""
        try:
            return self._private.decapsulate(peer_public)
        except ValueError as error:
            raise InvalidSyntax(f"KE payload: no ciphertext of method {self.group}") from error


def _encapsulate(group: int, peer_public: bytes) -> tuple[bytes, bytes]:
    """The ciphertext and the secret in it. FIPS 203 s7.2: the key's length and its coefficients are checked."""
    try:
        secret, ciphertext = _ML_KEM_KEYS[group][1].from_public_bytes(peer_public).encapsulate()
    except ValueError as error:
        raise InvalidSyntax(f"KE payload: no encapsulation key of method {group}") from error
    return ciphertext, secret


def draw_private(group: int, random: RandomBytes) -> bytes:
    """What is random about a fresh private key of `group`, made from `random(length)`.

    Raises:
        ValueError: a group that we don't have; `select` and `key_exchange_groups` name only those that we configured.
    """
    if group in _PRIVATE_LENGTHS:
        return random(_PRIVATE_LENGTHS[group])
    if group in ECP_GROUPS:
        return EcpKeyExchange.draw(group, random)
    if group in MODP_GROUPS:
        return ModpKeyExchange.draw(group, random)
    raise ValueError(f"no key exchange method has the number {group} here")


_PRIVATE_LENGTHS: dict[int, int] = {
    KeGroup.CURVE25519: 32,
    KeGroup.CURVE448: 56,
    KeGroup.ML_KEM_768: _ML_KEM_SEED,
    KeGroup.ML_KEM_1024: _ML_KEM_SEED,
}


def make_key_exchange(group: int, private: bytes) -> KeyExchange:
    """From what `draw_private` made for the group; nothing else goes into it."""
    if group == KeGroup.CURVE25519:
        return X25519KeyExchange.of(private)
    if group == KeGroup.CURVE448:
        return X448KeyExchange.of(private)
    if group in ECP_GROUPS:
        return EcpKeyExchange.of(group, private)
    if group in MODP_GROUPS:
        return ModpKeyExchange.of(group, private)
    return MlKemKeyExchange.of(group, private)


def answer_key_exchange(group: int, private: bytes, peer_public: bytes) -> tuple[bytes, bytes]:
    """The responder's half: what goes into its KE payload, and the shared secret.

    Raises:
        InvalidSyntax: the initiator's value can't be used.
    """
    if group in _ML_KEM_KEYS:
        return _encapsulate(group, peer_public)
    ours = make_key_exchange(group, private)
    return ours.public, ours.shared_secret(peer_public)


def respond_key_exchange(group: int, peer_public: bytes, random: RandomBytes) -> tuple[bytes, bytes]:
    """`draw_private` and `answer_key_exchange` in one."""
    return answer_key_exchange(group, draw_private(group, random), peer_public)


def generate_key_exchange(group: int, random: RandomBytes) -> KeyExchange:
    """`draw_private` and `make_key_exchange` in one."""
    return make_key_exchange(group, draw_private(group, random))
