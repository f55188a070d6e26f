"""The primitives against the vectors of the RFCs and of NIST, and against plain code written from the RFC."""

from __future__ import annotations

import hashlib
import hmac as std_hmac
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ipsecfast.ike.constants import ADDITIONAL_KES, IntegrityError, InvalidSyntax, KeGroup, PrfId
from ipsecfast.ike.crypto.algorithms import ALGORITHMS, BY_TRANSFORM
from ipsecfast.ike.crypto.primitives import (
    ECP_GROUPS,
    MODP_GROUPS,
    ModpKeyExchange,
    Prf,
    SkCipher,
    X448KeyExchange,
    X25519KeyExchange,
    draw_private,
    generate_key_exchange,
    respond_key_exchange,
)
from ipsecfast.model import Transform, TransformType

GROUPS = [14, 15, 16, 17, 18, 19, 20, 21, 28, 29, 30, 31, 32]
HASHES = {PrfId.PRF_HMAC_SHA2_256: "sha256", PrfId.PRF_HMAC_SHA2_384: "sha384", PrfId.PRF_HMAC_SHA2_512: "sha512"}


def vectors(path: str) -> str:
    root = pytest.importorskip("cryptography_vectors").__file__
    return (Path(root).parent / path).read_text()


def records(text: str, first: str) -> Iterator[dict[str, str]]:
    """The `name = value` blocks of a NIST file that begin with `first`; a lone FAIL is a name without a value."""
    for block in re.split(rf"^(?={first} = )", text, flags=re.MULTILINE)[1:]:
        lines = [line for line in block.split("\n") if line and line[0] not in "[#"]
        yield {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def seeded(seed: int = 1) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def fixed(*values: bytes) -> Callable[[int], bytes]:
    """A source of random bytes that yields these values, each asked for with its own length."""
    queue = list(values)

    def draw(length: int) -> bytes:
        value = queue.pop(0)
        assert len(value) == length
        return value

    return draw


# -- PRF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prf_id", "name"), HASHES.items())
def test_prf_rfc_4231(prf_id: int, name: str) -> None:
    cases = list(records(vectors(f"HMAC/rfc-4231-{name}.txt"), "Len"))
    assert len(cases) >= 5
    for case in cases:
        computed = Prf(prf_id).compute(bytes.fromhex(case["Key"]), bytes.fromhex(case["Msg"]))
        assert computed == bytes.fromhex(case["MD"])


def test_prf_lengths() -> None:
    assert [(Prf(i).key_length, Prf(i).output_length) for i in HASHES] == [(32, 32), (48, 48), (64, 64)]
    with pytest.raises(ValueError, match="PRF"):
        Prf(2)


def test_every_row_of_the_table_has_its_primitive() -> None:
    for row in ALGORITHMS:
        if row.missing:
            with pytest.raises(ValueError, match="no key exchange method"):
                generate_key_exchange(row.transform.id, seeded())
            continue
        match row.transform.type:
            case kind if kind in ADDITIONAL_KES:
                assert row.transform.id == 0 or Transform(TransformType.KE, row.transform.id) in BY_TRANSFORM
            case TransformType.PRF:
                assert Prf(row.transform.id).key_length == row.key_length
            case TransformType.KE:
                assert generate_key_exchange(row.transform.id, seeded()).group == row.transform.id
            case TransformType.ENCR:
                integ = None if row.aead else Transform(TransformType.INTEG, 12)
                cipher = SkCipher(row.transform, integ, bytes(row.key_length), b"" if row.aead else bytes(32))
                assert (cipher.iv_length, cipher.iv_is_counter) == (row.iv_length, row.aead)
            case TransformType.INTEG:
                cbc = Transform(TransformType.ENCR, 12, 128)
                assert SkCipher(cbc, row.transform, bytes(16), bytes(row.key_length)).icv_length == row.icv_length


# -- SK payloads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_gcm_nist_cavp(bits: int) -> None:
    """Each decryption with a 96-bit IV and a 128-bit tag; the last octet of the plaintext is the pad length to us."""
    opened = refused = 0
    for case in records(vectors(f"ciphers/AES/GCM/gcmDecrypt{bits}.rsp"), "Count"):
        key, iv, text, aad, tag = (bytes.fromhex(case[name]) for name in ("Key", "IV", "CT", "AAD", "Tag"))
        if len(iv) != 12 or len(tag) != 16 or not text:
            continue
        cipher = SkCipher(Transform(TransformType.ENCR, 20, bits), None, key + iv[:4], b"")
        body = iv[4:] + text + tag
        plain = bytes.fromhex(case.get("PT", ""))
        if "FAIL" in case or plain[-1] >= len(plain):
            refused += 1
            with pytest.raises(IntegrityError):
                cipher.open(aad, body)
        else:
            opened += 1
            unpadded = plain[: -1 - plain[-1]]
            assert cipher.open(aad, body) == unpadded
            if plain[-1] == 0:
                assert cipher.seal(iv[4:], aad, unpadded) == body
    assert opened > 5
    assert refused > 50


def test_gcm_seal_is_rfc_5282() -> None:
    """Nonce: salt and IV. Plaintext: payloads, padding, pad length. Body: IV, ciphertext, ICV of 16 octets."""
    key, salt, iv, aad = bytes(range(32)), b"salt", bytes(range(8)), b"header"
    body = SkCipher(Transform(TransformType.ENCR, 20, 256), None, key + salt, b"").seal(iv, aad, b"payloads")
    encryptor = Cipher(algorithms.AES(key), modes.GCM(salt + iv)).encryptor()
    encryptor.authenticate_additional_data(aad)
    ciphertext = encryptor.update(b"payloads\0") + encryptor.finalize()
    assert body == iv + ciphertext + encryptor.tag


@pytest.mark.parametrize(
    ("integ", "name", "key_length", "icv"), [(12, "sha256", 32, 16), (13, "sha384", 48, 24), (14, "sha512", 64, 32)]
)
@pytest.mark.parametrize("bits", [128, 192, 256])
def test_cbc_hmac_is_rfc_7296(bits: int, integ: int, name: str, key_length: int, icv: int) -> None:
    key_e, key_a, iv, aad = bytes(range(bits // 8)), bytes(range(key_length)), bytes(range(16)), b"header"
    encr = Transform(TransformType.ENCR, 12, bits)
    cipher = SkCipher(encr, Transform(TransformType.INTEG, integ), key_e, key_a)
    for length in range(40):
        plain = bytes(range(length))
        padding = 15 - length % 16
        encryptor = Cipher(algorithms.AES(key_e), modes.CBC(iv)).encryptor()
        sealed = iv + encryptor.update(plain + bytes(padding) + bytes([padding])) + encryptor.finalize()
        mac = std_hmac.new(key_a, aad + sealed, getattr(hashlib, name)).digest()[:icv]
        assert cipher.seal(iv, aad, plain) == sealed + mac
        assert cipher.sealed_length(length) == len(sealed + mac)
        assert cipher.open(aad, sealed + mac) == plain


def test_cbc_of_another_length_than_blocks_is_refused_before_it_is_decrypted() -> None:
    encr, integ = Transform(TransformType.ENCR, 12, 128), Transform(TransformType.INTEG, 12)
    cipher = SkCipher(encr, integ, bytes(16), bytes(32))
    for length in range(100):
        with pytest.raises(IntegrityError):
            cipher.open(b"", bytes(length))


def test_cipher_refuses_keys_and_ivs_of_another_length() -> None:
    gcm, cbc = Transform(TransformType.ENCR, 20, 128), Transform(TransformType.ENCR, 12, 128)
    mac = Transform(TransformType.INTEG, 12)
    for arguments in [
        (gcm, None, bytes(16), b""),
        (gcm, None, bytes(20), bytes(32)),
        (cbc, mac, bytes(20), bytes(32)),
        (cbc, mac, bytes(16), bytes(16)),
        (cbc, None, bytes(16), b""),
        (mac, mac, bytes(32), bytes(32)),
        (Transform(TransformType.ENCR, 20, 64), None, bytes(12), b""),
    ]:
        with pytest.raises(ValueError, match=r"keys of|needs an integrity|no algorithm of type"):
            SkCipher(*arguments)
    with pytest.raises(ValueError, match="IV"):
        SkCipher(gcm, None, bytes(20), b"").seal(bytes(12), b"", b"")


def test_keys_are_not_shown() -> None:
    secret = b"\xabSECRET KEY BYTE"
    shown = repr(SkCipher(Transform(TransformType.ENCR, 20, 128), None, secret + b"salt", b""))
    shown += repr(generate_key_exchange(31, fixed(secret * 2))) + repr(ModpKeyExchange(14, b"public", 123456789))
    assert "SECRET" not in shown
    assert "123456789" not in shown


# -- key exchange --------------------------------------------------------------------------------------------------

RFC_5903 = {
    19: (
        "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
        "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180"
        "5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
        "C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53",
        "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63"
        "56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
        "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
    ),
    20: (
        "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194",
        "667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6DE3AC808ACB4BDB4C88732AEE95F41AA"
        "9482ED1FC0EEB9CAFC4984625CCFC23F65032149E0E144ADA024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C",
        "41CB0779B4BDB85D47846725FBEC3C9430FAB46CC8DC5060855CC9BDA0AA2942E0308312916B8ED2960E4BD55A7448FC",
        "E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571"
        "DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
        "11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746",
    ),
}


@pytest.mark.parametrize("group", RFC_5903)
def test_ecp_rfc_5903(group: int) -> None:
    i, public_i, r, public_r, secret = (bytes.fromhex(value) for value in RFC_5903[group])
    ours, theirs = generate_key_exchange(group, fixed(i)), generate_key_exchange(group, fixed(r))
    assert (ours.public, theirs.public) == (public_i, public_r)
    assert ours.shared_secret(public_r) == theirs.shared_secret(public_i) == secret


def test_ecp_nist_validity_test() -> None:
    """Every peer's key that NIST spoiled is refused, every case that NIST passes gives NIST's secret."""
    text = vectors("asymmetric/ECDH/KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_init.fax")
    sections = dict(re.findall(r"^\[(E[CD]) - SHA\d+\]$(.*?)(?=^\[E. - |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    for label, group in (("EC", 19), ("ED", 20)):
        length = ECP_GROUPS[KeGroup(group)].length
        passed = refused = 0
        for case in records(sections[label], "COUNT"):
            x, y, private = (int(case[name], 16).to_bytes(length, "big") for name in ("QsCAVSx", "QsCAVSy", "dsIUT"))
            exchange = generate_key_exchange(group, fixed(private))
            if "CAVS's Static public key" in case["Result"]:
                refused += 1
                with pytest.raises(InvalidSyntax):
                    exchange.shared_secret(x + y)
            elif case["Result"].startswith("P"):
                passed += 1
                assert exchange.shared_secret(x + y) == bytes.fromhex(case["Z"])
        assert passed >= 5
        assert refused >= 3


@pytest.mark.parametrize(("name", "method"), [("X25519", X25519KeyExchange), ("X448", X448KeyExchange)])
def test_montgomery_curves_rfc_7748(name: str, method: type[X25519KeyExchange | X448KeyExchange]) -> None:
    cases = list(records(vectors(f"asymmetric/{name}/rfc7748.txt"), "COUNT"))
    assert len(cases) >= 2
    for case in cases:
        scalar, peer = bytes.fromhex(case["INPUT_SCALAR"]), bytes.fromhex(case["INPUT_U"])
        assert method.of(scalar).shared_secret(peer) == bytes.fromhex(case["OUTPUT_U"])


def test_brainpool_vectors() -> None:
    """RFC 7027: the secret of both sides."""
    groups = {"brainpoolP256r1": 28, "brainpoolP384r1": 29, "brainpoolP512r1": 30}
    seen = set()
    for case in records(vectors("asymmetric/ECDH/brainpool.txt"), "COUNT"):
        if case["curve"] not in groups:
            continue
        group = groups[case["curve"]]
        length = ECP_GROUPS[KeGroup(group)].length
        d, x, y, z = (int(case[name], 16).to_bytes(length, "big") for name in ("dA", "x_qB", "y_qB", "x_Z"))
        assert generate_key_exchange(group, fixed(d)).shared_secret(x + y) == z
        seen.add(group)
    assert seen == {28, 29, 30}


@pytest.mark.parametrize("group", MODP_GROUPS)
def test_modp_groups_are_rfc_3526(group: int) -> None:
    cases = list(records(vectors("asymmetric/DH/rfc3526.txt"), "COUNT"))
    primes = [int(case["P"], 16) for case in cases if case["G"] == "2"]
    assert MODP_GROUPS[KeGroup(group)].prime in primes
    assert 8 * MODP_GROUPS[KeGroup(group)].length == {14: 2048, 15: 3072, 16: 4096, 17: 6144, 18: 8192}[group]


@pytest.mark.parametrize("group", MODP_GROUPS)
def test_modp_is_the_power(group: int) -> None:
    prime, length = MODP_GROUPS[KeGroup(group)].prime, MODP_GROUPS[KeGroup(group)].length
    ours = generate_key_exchange(group, seeded())
    assert isinstance(ours, ModpKeyExchange)
    exponent = ours._exponent
    assert exponent.bit_length() == 8 * MODP_GROUPS[KeGroup(group)].exponent_length
    assert ours.public == pow(2, exponent, prime).to_bytes(length, "big")
    for peer in (2, 4, pow(2, 77, prime)):
        wanted = pow(peer, exponent, prime).to_bytes(length, "big")
        assert ours.shared_secret(peer.to_bytes(length, "big")) == wanted


def test_modp_secret_keeps_its_leading_zeros() -> None:
    """s2.14: g^ir is as long as the prime; about one secret in 256 begins with a zero octet."""
    prime = MODP_GROUPS[KeGroup.MODP_2048].prime
    exponent = next(e for e in range(2048, 10000) if pow(2, e, prime) >> 2040 == 0)
    secret = ModpKeyExchange(14, b"", exponent).shared_secret((2).to_bytes(256, "big"))
    assert len(secret) == 256
    assert secret[0] == 0
    assert int.from_bytes(secret, "big") == pow(2, exponent, prime)


@pytest.mark.parametrize("group", GROUPS)
def test_both_sides_agree_and_the_source_of_randomness_decides(group: int) -> None:
    a, b = generate_key_exchange(group, seeded(1)), generate_key_exchange(group, seeded(2))
    assert a.group == group
    assert a.shared_secret(b.public) == b.shared_secret(a.public)
    assert generate_key_exchange(group, seeded(1)).public == a.public != b.public


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_public_value_of_another_length_is_refused(group: int, change: int) -> None:
    ours = generate_key_exchange(group, seeded())
    public = ours.public[:-1] if change < 0 else ours.public + b"\0"
    for value in (public, b""):
        with pytest.raises(InvalidSyntax):
            ours.shared_secret(value)


@pytest.mark.parametrize("group", MODP_GROUPS)
def test_modp_values_that_rfc_6989_refuses(group: int) -> None:
    prime, length = MODP_GROUPS[KeGroup(group)].prime, MODP_GROUPS[KeGroup(group)].length
    ours = generate_key_exchange(group, seeded())
    for value in (0, 1, prime - 1, prime, prime + 1, 2 ** (8 * length) - 1):
        with pytest.raises(InvalidSyntax):
            ours.shared_secret(value.to_bytes(length, "big"))


@pytest.mark.parametrize("group", ECP_GROUPS)
def test_ecp_points_that_rfc_6989_refuses(group: int) -> None:
    length = ECP_GROUPS[KeGroup(group)].length
    ours = generate_key_exchange(group, seeded())
    off_curve = bytearray(ours.public)
    off_curve[-1] ^= 1
    swapped = ours.public[length:] + ours.public[:length]
    for value in (bytes(off_curve), bytes(2 * length), b"\xff" * 2 * length, swapped):
        with pytest.raises(InvalidSyntax):
            ours.shared_secret(value)


# RFC 7748 s6.1: the points of small order, for which the shared secret would be zero.
SMALL_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
]


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_x25519_points_of_small_order(point: str) -> None:
    with pytest.raises(InvalidSyntax):
        generate_key_exchange(31, seeded()).shared_secret(bytes.fromhex(point))


def test_ecp_scalars_out_of_range_are_drawn_again() -> None:
    order = ECP_GROUPS[KeGroup.ECP_256].order
    draws = [bytes(32), order.to_bytes(32, "big"), b"\xff" * 32, (5).to_bytes(32, "big")]
    assert draw_private(19, fixed(*draws)) == draws[-1]


def test_unknown_group() -> None:
    for group in (0, 2, 22, 35, 999):
        with pytest.raises(ValueError, match=str(group)):
            generate_key_exchange(group, seeded())


# -- ML-KEM (FIPS 203) -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "words"), [(36, "768"), (37, "1024")])
def test_ml_kem_known_answers(group: int, words: str) -> None:
    """The key from its seed, the secret from the ciphertext, and the secret of implicit rejection."""
    tried = 0
    for case in records(vectors(f"asymmetric/MLKEM/kat_MLKEM_{words}.rsp"), "count"):
        octets = {name: bytes.fromhex(case[name]) for name in ("d", "z", "pk", "ct", "ss", "ct_n", "ss_n")}
        ours = generate_key_exchange(group, fixed(octets["d"] + octets["z"]))
        assert ours.public == octets["pk"]
        assert ours.shared_secret(octets["ct"]) == octets["ss"]
        assert ours.shared_secret(octets["ct_n"]) == octets["ss_n"]
        tried += 1
    assert tried == 1000


@pytest.mark.parametrize(("group", "key", "ciphertext"), [(36, 1184, 1088), (37, 1568, 1568)])
def test_ml_kem(group: int, key: int, ciphertext: int) -> None:
    """The sides differ: an encapsulation key one way, a ciphertext the other."""
    ours = generate_key_exchange(group, seeded())
    public, secret = respond_key_exchange(group, ours.public, seeded())
    assert (len(ours.public), len(public), len(secret)) == (key, ciphertext, 32)
    assert ours.shared_secret(public) == secret
    assert generate_key_exchange(group, seeded()).public == ours.public, "from the caller's randomness alone"
    assert respond_key_exchange(group, ours.public, seeded()) != (public, secret)


@pytest.mark.parametrize("group", [36, 37])
def test_ml_kem_values_that_can_not_be(group: int) -> None:
    """Lengths, and for the encapsulation key the modulus check of FIPS 203 s7.2."""
    ours = generate_key_exchange(group, seeded())
    public, secret = respond_key_exchange(group, ours.public, seeded())
    for value in (b"", public[:-1], public + b"\0"):
        with pytest.raises(InvalidSyntax, match="ciphertext"):
            ours.shared_secret(value)
    for value in (b"", ours.public[:-1], ours.public + b"\0", b"\xff" * len(ours.public)):
        with pytest.raises(InvalidSyntax, match="encapsulation key"):
            respond_key_exchange(group, value, seeded())
    damaged = bytes([public[0] ^ 1]) + public[1:]
    assert ours.shared_secret(damaged) not in (secret, b""), "implicit rejection"


def test_the_responders_half_of_classic_methods() -> None:
    for group in (31, 19, 14):
        ours = generate_key_exchange(group, seeded(1))
        public, secret = respond_key_exchange(group, ours.public, seeded(2))
        assert secret == ours.shared_secret(public)
