"""Key material against NIST's vectors for the IKEv2 KDF (SP 800-135) and against HKDF-Expand, which prf+ is."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from ipsecfast.ike.crypto.algorithms import BY_KEYWORD
from ipsecfast.ike.crypto.keymat import (
    IkeKeys,
    derive_child_keys,
    derive_ike_keys,
    derive_rekeyed_ike_keys,
    mix_ppk,
    prf_plus,
)
from ipsecfast.ike.crypto.primitives import Prf

HASHES = {5: hashes.SHA256(), 6: hashes.SHA384(), 7: hashes.SHA512()}
GCM128, GCM256, CBC256 = (BY_KEYWORD[word].transform for word in ("aes128gcm16", "aes256gcm16", "aes256"))
SHA256, SHA512 = BY_KEYWORD["sha256"].transform, BY_KEYWORD["sha512"].transform
NI, NR = bytes(range(32)), bytes(range(32, 80))
SPI_I, SPI_R = b"initiatr", b"respondr"


class Sha1Prf(Prf):
    """HMAC-SHA1, the PRF of NIST's first vectors; not for negotiation, so only the test has it."""

    def __init__(self) -> None:
        self.id = 2

    @property
    def key_length(self) -> int:
        return 20

    @property
    def output_length(self) -> int:
        return 20

    def compute(self, key: bytes, data: bytes) -> bytes:
        context = hmac.HMAC(key, hashes.SHA1())
        context.update(data)
        return context.finalize()


# CAVS, ikev2.rsp, SHA-1, count 0.
NIST_NI, NIST_NR = bytes.fromhex("3651fef5c9c35e93"), bytes.fromhex("c09a8b90a3f04d59")
NIST_SPI_I, NIST_SPI_R = bytes.fromhex("8e5c3ae507221684"), bytes.fromhex("b1f201bb155c3acd")
NIST_GIR = bytes.fromhex(
    "d084a30166a50fb7325c3960874a839449ef9741c2f4f947d0201dd8c1269273d79509f37e3ca3eb4fa2fe2a28254e28"
    "9cd3f34dad4eb4df1a07685a4b8a94fa61e2491f7598b3ce65547ff133b3f63d1ac4175eaa695033f3cedb026a6873a3"
    "6455172a8540b8a5d23a0143bed0390ee49b168269d75fffee9fb62be965993c"
)
NIST_GIR_NEW = bytes.fromhex(
    "52f00ab174c25d5b7139ae5ff4e8e9eddee5992d2e36adf8a559ffd90dab1442e4fbe429d320c0f33552a17d1557fa41"
    "ea70e8fb916c4fa27ed52b5f8ebd8461afa78f1159159a64055ac5f6319e29c28eae58cbc6847770f32c3fed1d047504"
    "84f854790f95e9ec01bc5bc461f24966462e359511329305038e94deb6dd42c2"
)
NIST_SKEYSEED = bytes.fromhex("cd2e8050137832245f1dbacc6e4f0a92f94d45d6")
NIST_DKM = bytes.fromhex(
    "6f1b12cad3cbe097b35430356d869d54cddb0198ec859174d53ceb92dddedbe2436db69f60977c58fa63bbb667f8d369"
    "20b109baae8f6c61a9ac49feda01843225d080ec5539d5881a25521ffb2a0a91874a9c0a27fcc2d717eb8963a9e3a89c"
    "7ab264757284c28cf8c3ca40576f4220b052b1fb8e9ad60ba3c80557323331a8cbb89f20"
)
NIST_CHILD = bytes.fromhex("4727dc0ef94eb326ce131cf282fb652faa638ad0ddae3786a11bcc0309876009f8c485de011ad962")
NIST_CHILD_PFS = bytes.fromhex("b109c21ad4c0797768c1cec9e63554681e48f224bca7f23c20c4ea7041983451e9aa1d5408656c8a")
NIST_SKEYSEED_REKEY = bytes.fromhex("3b03bce748c96d5e8306918d2ff89b68f0648da3")


def concatenated(keys: IkeKeys) -> bytes:
    return keys.sk_d + keys.sk_ai + keys.sk_ar + keys.sk_ei + keys.sk_er + keys.sk_pi + keys.sk_pr


def test_nist_skeyseed_and_ike_keys() -> None:
    prf = Sha1Prf()
    keys = derive_ike_keys(prf, GCM128, None, NIST_GIR, NIST_NI, NIST_NR, NIST_SPI_I, NIST_SPI_R)
    assert prf.compute(NIST_NI + NIST_NR, NIST_GIR) == NIST_SKEYSEED
    assert concatenated(keys) == NIST_DKM[:100]
    assert keys.sk_d == NIST_DKM[:20]
    assert prf_plus(prf, NIST_SKEYSEED, NIST_NI + NIST_NR + NIST_SPI_I + NIST_SPI_R, len(NIST_DKM)) == NIST_DKM


def test_nist_child_keys_without_and_with_key_exchange() -> None:
    sk_d = NIST_DKM[:20]
    assert derive_child_keys(Sha1Prf(), sk_d, GCM128, NIST_NI, NIST_NR) == (NIST_CHILD[:20], NIST_CHILD[20:])
    with_pfs = derive_child_keys(Sha1Prf(), sk_d, GCM128, NIST_NI, NIST_NR, NIST_GIR_NEW)
    assert with_pfs == (NIST_CHILD_PFS[:20], NIST_CHILD_PFS[20:])


def test_nist_rekey() -> None:
    """The seed is NIST's; the keys follow from it as in s2.14."""
    keys = derive_rekeyed_ike_keys(
        Sha1Prf(), NIST_DKM[:20], Prf(5), GCM256, None, NIST_GIR_NEW, NIST_NI, NIST_NR, SPI_I, SPI_R
    )
    length = 3 * 32 + 2 * 36
    expand = HKDFExpand(hashes.SHA256(), length, NIST_NI + NIST_NR + SPI_I + SPI_R)
    assert concatenated(keys) == expand.derive(NIST_SKEYSEED_REKEY)


@pytest.mark.parametrize("prf_id", [5, 6, 7])
@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 64, 65, 200, 1000])
def test_prf_plus_is_hkdf_expand(prf_id: int, length: int) -> None:
    key, seed = bytes(range(64)), b"seed" * 20
    expected = HKDFExpand(HASHES[prf_id], length, seed).derive(key) if length else b""
    assert prf_plus(Prf(prf_id), key, seed, length) == expected


def test_prf_plus_ends_after_255_blocks() -> None:
    assert len(prf_plus(Prf(5), b"key", b"seed", 255 * 32)) == 255 * 32
    with pytest.raises(ValueError, match="8161"):
        prf_plus(Prf(5), b"key", b"seed", 255 * 32 + 1)


@pytest.mark.parametrize("prf_id", [5, 6, 7])
def test_ike_keys_in_the_order_of_rfc_7296(prf_id: int) -> None:
    prf = Prf(prf_id)
    keys = derive_ike_keys(prf, CBC256, SHA512, b"shared", NI, NR, SPI_I, SPI_R)
    lengths = [prf.key_length, 64, 64, 32, 32, prf.key_length, prf.key_length]
    skeyseed = prf.compute(NI + NR, b"shared")
    assert concatenated(keys) == HKDFExpand(HASHES[prf_id], sum(lengths), NI + NR + SPI_I + SPI_R).derive(skeyseed)
    parts = [keys.sk_d, keys.sk_ai, keys.sk_ar, keys.sk_ei, keys.sk_er, keys.sk_pi, keys.sk_pr]
    assert [len(part) for part in parts] == lengths


def test_an_aead_takes_no_integrity_keys() -> None:
    keys = derive_ike_keys(Prf(5), GCM256, SHA256, b"shared", NI, NR, SPI_I, SPI_R)
    assert (keys.sk_ai, keys.sk_ar, len(keys.sk_ei)) == (b"", b"", 36)


def test_rekeyed_keys_use_the_old_prf_for_the_seed_and_the_new_one_for_the_keys() -> None:
    old, new = Prf(6), Prf(5)
    keys = derive_rekeyed_ike_keys(old, b"d" * 48, new, GCM128, None, b"shared", NI, NR, SPI_I, SPI_R)
    skeyseed = old.compute(b"d" * 48, b"shared" + NI + NR)
    assert concatenated(keys) == prf_plus(new, skeyseed, NI + NR + SPI_I + SPI_R, 3 * 32 + 2 * 20)


def test_keys_are_not_shown() -> None:
    keys = derive_ike_keys(Prf(5), GCM128, None, b"shared", NI, NR, SPI_I, SPI_R)
    assert repr(keys) == "IkeKeys()"


@pytest.mark.parametrize("prf", [5, 6, 7])
def test_a_ppk_goes_into_three_keys(prf: int) -> None:
    """RFC 8784 s3; HKDF-Expand is prf+."""
    keys = derive_ike_keys(Prf(prf), GCM128, None, b"shared", NI, NR, SPI_I, SPI_R)
    mixed, ppk, length = mix_ppk(Prf(prf), b"post-quantum", keys), b"post-quantum", Prf(prf).key_length
    for name in ("sk_d", "sk_pi", "sk_pr"):
        assert getattr(mixed, name) == HKDFExpand(HASHES[prf], length, getattr(keys, name)).derive(ppk)
    for name in ("sk_ai", "sk_ar", "sk_ei", "sk_er"):
        assert getattr(mixed, name) == getattr(keys, name)
