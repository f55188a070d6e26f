"""What can be negotiated: the one table of algorithms, their keywords (strongSwan's) and their sizes.

A new algorithm of IKE is a row here and its primitive in `crypto`; a cipher of ESP is one of the data plane too.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from ipsecfast.ike.constants import ADDITIONAL_KES, EncrId, IntegId, KeGroup, PrfId, SequenceNumbersId
from ipsecfast.model import Transform, TransformType


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One row of the table. Lengths in bytes; those that a transform type doesn't have are 0.

    `key_length` is what is taken from the key material: for AES-GCM the salt is part of it (RFC 5282 s7.1).
    `icv_length` is that of the AEAD, or of the truncated MAC. `esp` tells that the data plane can run it too.
    `implied_prf` is the PRF that an IKE proposal without one gets from this integrity algorithm.
    `missing`: why it can't be used here although it has a name.
    """

    keyword: str
    transform: Transform
    key_length: int = 0
    iv_length: int = 0
    block_length: int = 1
    icv_length: int = 0
    salt_length: int = 0
    esp: bool = False
    implied_prf: PrfId | None = None
    aliases: tuple[str, ...] = ()
    missing: str = ""

    @property
    def aead(self) -> bool:
        """True for combined-mode encryption, which takes no integrity algorithm (RFC 5282 s8)."""
        return self.transform.type == TransformType.ENCR and self.icv_length > 0


def _gcm(bits: int) -> Algorithm:
    transform = Transform(TransformType.ENCR, EncrId.ENCR_AES_GCM_16, bits)
    key_length, aliases = bits // 8 + 4, (f"aes{bits}gcm128",)
    return Algorithm(
        f"aes{bits}gcm16", transform, key_length, 8, icv_length=16, salt_length=4, esp=True, aliases=aliases
    )


def _cbc(bits: int, *aliases: str) -> Algorithm:
    transform = Transform(TransformType.ENCR, EncrId.ENCR_AES_CBC, bits)
    return Algorithm(f"aes{bits}", transform, bits // 8, 16, block_length=16, aliases=aliases)


def _prf(keyword: str, prf: PrfId, length: int) -> Algorithm:
    return Algorithm(keyword, Transform(TransformType.PRF, prf), length)


def _integ(keyword: str, integ: IntegId, key: int, prf: PrfId, *aliases: str) -> Algorithm:
    transform = Transform(TransformType.INTEG, integ)
    return Algorithm(keyword, transform, key, icv_length=key // 2, implied_prf=prf, aliases=aliases)


def _ke(keyword: str, group: KeGroup, *aliases: str, missing: str = "") -> Algorithm:
    return Algorithm(keyword, Transform(TransformType.KE, group), esp=True, aliases=aliases, missing=missing)


def _esn(keyword: str, esn: SequenceNumbersId) -> Algorithm:
    return Algorithm(keyword, Transform(TransformType.SN, esn), esp=True)


_BASE: tuple[Algorithm, ...] = (
    _gcm(128),
    _gcm(192),
    _gcm(256),
    _cbc(128, "aes"),
    _cbc(192),
    _cbc(256),
    _prf("prfsha256", PrfId.PRF_HMAC_SHA2_256, 32),
    _prf("prfsha384", PrfId.PRF_HMAC_SHA2_384, 48),
    _prf("prfsha512", PrfId.PRF_HMAC_SHA2_512, 64),
    _integ("sha256", IntegId.AUTH_HMAC_SHA2_256_128, 32, PrfId.PRF_HMAC_SHA2_256, "sha2_256"),
    _integ("sha384", IntegId.AUTH_HMAC_SHA2_384_192, 48, PrfId.PRF_HMAC_SHA2_384, "sha2_384"),
    _integ("sha512", IntegId.AUTH_HMAC_SHA2_512_256, 64, PrfId.PRF_HMAC_SHA2_512, "sha2_512"),
    _ke("x25519", KeGroup.CURVE25519, "curve25519"),
    _ke("ecp256", KeGroup.ECP_256),
    _ke("x448", KeGroup.CURVE448, "curve448"),
    _ke("ecp384", KeGroup.ECP_384),
    _ke("ecp521", KeGroup.ECP_521),
    _ke("ecp256bp", KeGroup.BRAINPOOL_P256R1),
    _ke("ecp384bp", KeGroup.BRAINPOOL_P384R1),
    _ke("ecp512bp", KeGroup.BRAINPOOL_P512R1),
    _ke("modp2048", KeGroup.MODP_2048),
    _ke("modp3072", KeGroup.MODP_3072),
    _ke("modp4096", KeGroup.MODP_4096),
    _ke("modp6144", KeGroup.MODP_6144),
    _ke("modp8192", KeGroup.MODP_8192),
    _ke("mlkem512", KeGroup.ML_KEM_512, missing="the Python package cryptography has no ML-KEM-512, only 768 and 1024"),
    _ke("mlkem768", KeGroup.ML_KEM_768),
    _ke("mlkem1024", KeGroup.ML_KEM_1024),
    _esn("esn", SequenceNumbersId.PARTIALLY_TRANSMITTED_64),
    _esn("noesn", SequenceNumbersId.SEQUENTIAL_32),
)


def _additional(number: int, kind: TransformType) -> tuple[Algorithm, ...]:
    """Every key exchange method once more, as `ke<number>_<keyword>`, and `ke<number>_none` (RFC 9370 s2.2.2)."""
    prefix = f"ke{number}_"
    rows = tuple(
        Algorithm(
            prefix + row.keyword,
            Transform(kind, row.transform.id),
            esp=True,
            aliases=tuple(prefix + alias for alias in row.aliases),
            missing=row.missing,
        )
        for row in _BASE
        if row.transform.type == TransformType.KE
    )
    return (*rows, Algorithm(f"{prefix}none", Transform(kind, KeGroup.NONE), esp=True))


ALGORITHMS: tuple[Algorithm, ...] = (
    *_BASE,
    *(row for number, kind in enumerate(ADDITIONAL_KES, 1) for row in _additional(number, kind)),
)

BY_KEYWORD: MappingProxyType[str, Algorithm] = MappingProxyType(
    {word: row for row in ALGORITHMS for word in (row.keyword, *row.aliases)}
)
BY_TRANSFORM: MappingProxyType[Transform, Algorithm] = MappingProxyType({row.transform: row for row in ALGORITHMS})
