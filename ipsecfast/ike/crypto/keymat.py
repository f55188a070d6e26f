"""Key material (RFC 7296 s2.13-2.18): prf+, the seven keys of an IKE SA, the keys of a Child SA."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ipsecfast.ike.crypto.algorithms import BY_TRANSFORM
from ipsecfast.ike.crypto.primitives import Prf
from ipsecfast.model import Transform

MAX_BLOCKS = 255  # s2.13: the counter of prf+ is one octet


def prf_plus(prf: Prf, key: bytes, seed: bytes, length: int) -> bytes:
    """s2.13: T1 | T2 | ..., cut to `length` octets; Tn = prf(key, Tn-1 | seed | n)."""
    if length > MAX_BLOCKS * prf.output_length:
        raise ValueError(f"prf+ can't yield {length} octets")
    stream, block = b"", b""
    for counter in range(1, -(-length // prf.output_length) + 1):
        block = prf.compute(key, block + seed + bytes([counter]))
        stream += block
    return stream[:length]


@dataclass(frozen=True, slots=True)
class IkeKeys:
    """s2.14: the keys of one IKE SA; `*i` protect what its original initiator sends, `*r` what the responder sends."""

    sk_d: bytes = field(repr=False)
    sk_ai: bytes = field(repr=False)
    sk_ar: bytes = field(repr=False)
    sk_ei: bytes = field(repr=False)
    sk_er: bytes = field(repr=False)
    sk_pi: bytes = field(repr=False)
    sk_pr: bytes = field(repr=False)


def derive_ike_keys(
    prf: Prf,
    encr: Transform,
    integ: Transform | None,
    shared: bytes,
    nonce_i: bytes,
    nonce_r: bytes,
    spi_i: bytes,
    spi_r: bytes,
) -> IkeKeys:
    """s2.14: SKEYSEED = prf(Ni | Nr, g^ir), and the keys from it. `integ` is None for an AEAD."""
    skeyseed = prf.compute(nonce_i + nonce_r, shared)
    return _expand(prf, encr, integ, skeyseed, nonce_i + nonce_r + spi_i + spi_r)


def derive_rekeyed_ike_keys(
    old_prf: Prf,
    old_sk_d: bytes,
    prf: Prf,
    encr: Transform,
    integ: Transform | None,
    shared: bytes,
    nonce_i: bytes,
    nonce_r: bytes,
    spi_i: bytes,
    spi_r: bytes,
    additional: bytes = b"",
) -> IkeKeys:
    """s2.18: SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr) with the old SA's PRF; the keys with the new one's.

    Nonces and SPIs are those of the rekeying exchange; its initiator is the new SA's original initiator. `additional`
    are the secrets of the additional key exchanges, SK(1) | ... | SK(n) (RFC 9370 s2.2.4).

    An IKE SA that is being set up changes its keys by the same formula (RFC 9370 s2.2.2): `shared` is SK(n) then, old
    and new PRF are one, nonces and SPIs those of IKE_SA_INIT.
    """
    skeyseed = old_prf.compute(old_sk_d, shared + nonce_i + nonce_r + additional)
    return _expand(prf, encr, integ, skeyseed, nonce_i + nonce_r + spi_i + spi_r)


def mix_ppk(prf: Prf, ppk: bytes, keys: IkeKeys) -> IkeKeys:
    """RFC 8784 s3: SK_d, SK_pi and SK_pr become prf+(PPK, SK_d), prf+(PPK, SK_pi) and prf+(PPK, SK_pr)."""

    def mixed(key: bytes) -> bytes:
        return prf_plus(prf, ppk, key, prf.key_length)

    return replace(keys, sk_d=mixed(keys.sk_d), sk_pi=mixed(keys.sk_pi), sk_pr=mixed(keys.sk_pr))


def derive_resumed_ike_keys(
    prf: Prf,
    old_sk_d: bytes,
    encr: Transform,
    integ: Transform | None,
    nonce_i: bytes,
    nonce_r: bytes,
    spi_i: bytes,
    spi_r: bytes,
) -> IkeKeys:
    """RFC 5723 s5.1: SKEYSEED = prf(SK_d (old), "Resumption" | Ni | Nr), and all keys from it; nonces and SPIs are
    those of IKE_SESSION_RESUME, the algorithms those of the old IKE SA."""
    skeyseed = prf.compute(old_sk_d, b"Resumption" + nonce_i + nonce_r)
    return _expand(prf, encr, integ, skeyseed, nonce_i + nonce_r + spi_i + spi_r)


def derive_ppk_ike_keys(
    prf: Prf,
    encr: Transform,
    integ: Transform | None,
    ppk: bytes,
    sk_d: bytes,
    nonce_i: bytes,
    nonce_r: bytes,
    spi_i: bytes,
    spi_r: bytes,
) -> IkeKeys:
    """RFC 9867 s3.1.2: SKEYSEED' = prf+(PPK, SK_d), and all keys from it as in s2.14; nonces and SPIs those of
    IKE_SA_INIT."""
    skeyseed = prf_plus(prf, ppk, sk_d, prf.key_length)
    return _expand(prf, encr, integ, skeyseed, nonce_i + nonce_r + spi_i + spi_r)


def _expand(prf: Prf, encr: Transform, integ: Transform | None, skeyseed: bytes, seed: bytes) -> IkeKeys:
    row = BY_TRANSFORM[encr]
    key_a = 0 if row.aead or integ is None else BY_TRANSFORM[integ].key_length
    lengths = (prf.key_length, key_a, key_a, row.key_length, row.key_length, prf.key_length, prf.key_length)
    return IkeKeys(*_cut(prf_plus(prf, skeyseed, seed, sum(lengths)), lengths))


def derive_child_keys(
    prf: Prf, sk_d: bytes, encr: Transform, nonce_i: bytes, nonce_r: bytes, shared: bytes = b"", additional: bytes = b""
) -> tuple[bytes, bytes]:
    """s2.17: KEYMAT = prf+(SK_d, [g^ir |] Ni | Nr [| SK(1) | ... | SK(n)]) (RFC 9370 s2.2.4), as the keys of what the
    exchange's initiator and responder send.

    For AES-GCM each is the AES key followed by 4 octets of salt (RFC 4106 s8.1), as `SaParams.key` wants it.
    """
    length = BY_TRANSFORM[encr].key_length
    keymat = prf_plus(prf, sk_d, shared + nonce_i + nonce_r + additional, 2 * length)
    return keymat[:length], keymat[length:]


def _cut(stream: bytes, lengths: tuple[int, ...]) -> list[bytes]:
    parts, offset = [], 0
    for length in lengths:
        parts.append(stream[offset : offset + length])
        offset += length
    return parts
