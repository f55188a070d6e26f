"""The header, the chain of payloads and the SK payload around them."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ipsecfast.identity import Identity
from ipsecfast.ike.constants import (
    ExchangeType,
    IntegrityError,
    InvalidMajorVersion,
    InvalidSyntax,
    NotifyType,
    PayloadType,
    UnsupportedCriticalPayload,
)
from ipsecfast.ike.crypto.primitives import SkCipher
from ipsecfast.ike.wire.message import (
    MAX_PAYLOADS,
    Message,
    encode_message,
    open_message,
    parse_header,
    parse_message,
    seal_message,
)
from ipsecfast.ike.wire.payloads import (
    AuthPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsPayload,
    UnknownPayload,
    VendorIdPayload,
)
from ipsecfast.ike.wire.proposal import parse_proposal
from ipsecfast.model import ProtocolId, TrafficSelector, Transform, TransformType, parse_address

SPI_I, SPI_R = bytes(range(1, 9)), bytes(range(0xA1, 0xA9))
PROPOSAL = parse_proposal("aes128gcm16-aes256gcm16-prfsha256-x25519-ecp256", ProtocolId.IKE)
INIT = Message(
    SPI_I,
    bytes(8),
    ExchangeType.IKE_SA_INIT,
    0,
    response=False,
    initiator=True,
    payloads=(
        SaPayload((PROPOSAL, replace(PROPOSAL, number=2))),
        KePayload(31, bytes(32)),
        NoncePayload(bytes(range(32))),
        NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20)),
        NotifyPayload(NotifyType.NAT_DETECTION_DESTINATION_IP, bytes(20)),
        VendorIdPayload(b"ipsecfast"),
    ),
)
NETWORK = TrafficSelector(parse_address("10.1.0.0"), parse_address("10.1.0.255"))
AUTH = Message(
    SPI_I,
    SPI_R,
    ExchangeType.IKE_AUTH,
    1,
    response=True,
    initiator=False,
    payloads=(
        IdPayload(PayloadType.IDr, Identity(2, b"b.test")),
        AuthPayload(2, bytes(32)),
        SaPayload((replace(parse_proposal("aes128gcm16-esn", ProtocolId.ESP), spi=b"\xc0\x01\x02\x03"),)),
        TsPayload(PayloadType.TSi, (NETWORK,)),
        TsPayload(PayloadType.TSr, (NETWORK,)),
    ),
)
GCM = SkCipher(Transform(TransformType.ENCR, 20, 128), None, bytes(range(20)), b"")
CBC = SkCipher(
    Transform(TransformType.ENCR, 12, 256), Transform(TransformType.INTEG, 12), bytes(range(32)), bytes(range(32))
)
CIPHERS = pytest.mark.parametrize("cipher", [GCM, CBC], ids=["aes-gcm", "aes-cbc + hmac"])


def seal(message: Message, cipher: SkCipher) -> bytes:
    return seal_message(message, cipher, bytes(range(cipher.iv_length)))


def header(next_payload: int, body: bytes, *, version: int = 0x20, length: int | None = None) -> bytes:
    total = 28 + len(body) if length is None else length
    return SPI_I + SPI_R + struct.pack(">BBBBII", next_payload, version, 37, 0x28, 5, total) + body


def generic(next_payload: int, body: bytes, *, critical: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">BBH", next_payload, critical, 4 + len(body) if length is None else length) + body


# -- in clear ------------------------------------------------------------------------------------------------------


def test_clear_round_trip() -> None:
    assert parse_message(encode_message(INIT)) == INIT


def test_header_fields_stand_where_rfc_7296_puts_them() -> None:
    data = encode_message(INIT)
    assert data[:16] == SPI_I + bytes(8)
    assert data[16:20] == bytes([33, 0x20, 34, 0x08])
    assert data[20:28] == bytes(4) + len(data).to_bytes(4, "big")
    answer = encode_message(replace(INIT, response=True, initiator=False, message_id=7))
    assert answer[19] == 0x20
    assert answer[23] == 7
    parsed = parse_header(answer)
    assert parsed.is_response
    assert not parsed.from_initiator


def test_scapy_reads_the_same() -> None:
    ikev2 = pytest.importorskip("scapy.contrib.ikev2")
    packet = ikev2.IKEv2(encode_message(INIT))
    assert (packet.init_SPI, packet.exch_type, packet.flags, packet.length) == (SPI_I, 34, 8, len(encode_message(INIT)))
    kinds = []
    while packet.payload and hasattr(packet.payload, "next_payload"):
        packet = packet.payload
        kinds.append(type(packet).__name__)
        if kinds[-1] == "IKEv2_KE":
            assert (packet.group, packet.ke) == (31, bytes(32))
        if kinds[-1] == "IKEv2_Nonce":
            assert packet.nonce == bytes(range(32))
    wanted = ["SA", "KE", "Nonce", "Notify", "Notify", "VendorID"]
    assert kinds == [f"IKEv2_{name}" for name in wanted]


def test_scapy_writes_what_we_read() -> None:
    ikev2 = pytest.importorskip("scapy.contrib.ikev2")
    transforms = ikev2.IKEv2_Transform(transform_type=1, transform_id=20, key_length=128, length=12, next_payload=3)
    transforms /= ikev2.IKEv2_Transform(transform_type=4, transform_id=31)
    proposal = ikev2.IKEv2_Proposal(trans_nb=2, proto="IKE", trans=transforms)
    packet = ikev2.IKEv2(init_SPI=SPI_I, exch_type=34, flags="Initiator") / ikev2.IKEv2_SA(prop=proposal)
    packet /= ikev2.IKEv2_Nonce(nonce=bytes(32))
    message = parse_message(bytes(packet))
    sa = message.get(SaPayload)
    assert sa is not None
    assert sa.proposals[0].transforms == (Transform(TransformType.ENCR, 20, 128), Transform(TransformType.KE, 31))
    assert message.get(NoncePayload) == NoncePayload(bytes(32))


@pytest.mark.parametrize("length", range(28))
def test_shorter_than_a_header(length: int) -> None:
    with pytest.raises(InvalidSyntax):
        parse_header(encode_message(INIT)[:length])


@pytest.mark.parametrize("claimed", [0, 27, 28, 31, 33, 2**32 - 1])
def test_header_length_must_be_the_datagrams(claimed: int) -> None:
    with pytest.raises(InvalidSyntax):
        parse_header(header(0, bytes(4), length=claimed))


@pytest.mark.parametrize("version", [0x00, 0x10, 0x1F, 0x30, 0xF0])
def test_other_major_versions(version: int) -> None:
    with pytest.raises(InvalidMajorVersion):
        parse_header(header(0, b"", version=version))


def test_minor_versions_and_unknown_flags_are_passed_over() -> None:
    data = bytearray(encode_message(INIT))
    data[17], data[19] = 0x2F, 0xDF
    assert parse_message(bytes(data)) == INIT


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(3),
        generic(0, b"abc", length=3),
        generic(0, b"abc", length=8),
        generic(0, b"abc") + b"x",
        generic(43, b"abc"),
    ],
    ids=["none", "cut", "length 3", "beyond the message", "octets behind", "next one is missing"],
)
def test_broken_chains(body: bytes) -> None:
    with pytest.raises(InvalidSyntax):
        parse_message(header(43, body))


def test_a_message_has_only_so_many_payloads() -> None:
    most = replace(INIT, payloads=(VendorIdPayload(b"v"),) * MAX_PAYLOADS)
    assert len(parse_message(encode_message(most)).payloads) == MAX_PAYLOADS
    with pytest.raises(InvalidSyntax):
        parse_message(encode_message(replace(most, payloads=(*most.payloads, VendorIdPayload(b"v")))))


def test_octets_without_a_payload() -> None:
    with pytest.raises(InvalidSyntax):
        parse_message(header(0, b"x"))


@pytest.mark.parametrize("kind", [PayloadType.SK, PayloadType.SKF])
def test_encrypted_payloads_are_not_read_in_clear(kind: PayloadType) -> None:
    with pytest.raises(InvalidSyntax):
        parse_message(header(kind, generic(0, bytes(64))))


def test_critical_bit() -> None:
    """s2.5: unknown and critical is refused with its type, unknown is passed over, known ones ignore the bit."""
    with pytest.raises(UnsupportedCriticalPayload) as caught:
        parse_message(header(200, generic(0, b"x", critical=0x80)))
    assert caught.value.notify_data == bytes([200])
    assert parse_message(header(200, generic(0, b"x", critical=0x7F))).payloads == (UnknownPayload(200, False, b"x"),)
    assert parse_message(header(43, generic(0, b"x", critical=0x80))).payloads == (VendorIdPayload(b"x"),)


def test_unknown_payloads_are_encoded_with_their_critical_bit() -> None:
    with pytest.raises(UnsupportedCriticalPayload):
        parse_message(encode_message(replace(INIT, payloads=(UnknownPayload(200, True, b"x"),))))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_second_payload_of_a_kind_that_stands_once(index: int) -> None:
    twice = replace(INIT, payloads=(*INIT.payloads, INIT.payloads[index]))
    with pytest.raises(InvalidSyntax):
        parse_message(encode_message(twice))


def test_finding_payloads() -> None:
    assert AUTH.get(TsPayload, PayloadType.TSr) == TsPayload(PayloadType.TSr, (NETWORK,))
    assert AUTH.get(IdPayload, PayloadType.IDi) is None
    assert AUTH.get(KePayload) is None
    assert len(INIT.all(NotifyPayload)) == 2
    assert INIT.notify(NotifyType.NAT_DETECTION_SOURCE_IP) == INIT.payloads[3]
    assert INIT.notify(NotifyType.COOKIE) is None
    unknown_error = NotifyPayload(16383)
    assert replace(INIT, payloads=(NotifyPayload(16384), unknown_error)).errors() == (unknown_error,)


# -- protected -----------------------------------------------------------------------------------------------------


@CIPHERS
@pytest.mark.parametrize("message", [AUTH, replace(AUTH, payloads=())], ids=["IKE_AUTH", "empty INFORMATIONAL"])
def test_protected_round_trip(cipher: SkCipher, message: Message) -> None:
    data = seal(message, cipher)
    assert parse_header(data).next_payload == PayloadType.SK
    assert open_message(data, cipher) == message


@given(st.lists(st.binary(max_size=40).map(VendorIdPayload), max_size=5), st.sampled_from([GCM, CBC]))
def test_every_length_survives_padding(payloads: list[Payload], cipher: SkCipher) -> None:
    message = replace(AUTH, payloads=tuple(payloads))
    assert open_message(seal(message, cipher), cipher) == message


@CIPHERS
def test_every_flipped_bit_is_an_integrity_error(cipher: SkCipher) -> None:
    data = seal(replace(AUTH, payloads=(VendorIdPayload(b"x"),)), cipher)
    for bit in range(8 * len(data)):
        mutated = bytearray(data)
        mutated[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            open_message(bytes(mutated), cipher)


@CIPHERS
def test_every_truncation_is_an_integrity_error(cipher: SkCipher) -> None:
    data = seal(AUTH, cipher)
    for length in range(len(data)):
        whole = data[:length]
        with pytest.raises(IntegrityError):
            open_message(whole, cipher)
        if length >= 32:  # with lengths that fit again
            fixed = bytearray(whole)
            fixed[24:28] = length.to_bytes(4, "big")
            fixed[30:32] = (length - 28).to_bytes(2, "big")
            with pytest.raises(IntegrityError):
                open_message(bytes(fixed), cipher)


@CIPHERS
def test_another_key_is_an_integrity_error(cipher: SkCipher) -> None:
    other = SkCipher(Transform(TransformType.ENCR, 20, 128), None, bytes(20), b"")
    with pytest.raises(IntegrityError):
        open_message(seal(AUTH, cipher), other)


def sealed_raw(first: int, chain: bytes, before: bytes = b"", before_type: int = 0) -> bytes:
    """A message with an authentic SK payload around octets that `seal_message` would not make."""
    length = GCM.sealed_length(len(chain))
    sk_header = struct.pack(">BBH", first, 0, 4 + length)
    aad = header(before_type or 46, before + sk_header, length=32 + len(before) + length)
    return aad + GCM.seal(bytes(8), aad, chain)


def test_authentic_but_malformed_is_not_an_integrity_error() -> None:
    with pytest.raises(InvalidSyntax):
        open_message(sealed_raw(40, generic(0, bytes(15))), GCM)
    with pytest.raises(UnsupportedCriticalPayload):
        open_message(sealed_raw(200, generic(0, b"", critical=0x80)), GCM)
    with pytest.raises(InvalidSyntax):
        open_message(sealed_raw(46, generic(0, bytes(64))), GCM)


def test_nothing_follows_the_sk_payload() -> None:
    data = bytearray(seal(AUTH, GCM) + b"x")
    data[24:28] = len(data).to_bytes(4, "big")
    with pytest.raises(IntegrityError):
        open_message(bytes(data), GCM)


def test_no_sk_payload() -> None:
    with pytest.raises(IntegrityError):
        open_message(encode_message(INIT), GCM)


def test_payloads_before_the_sk_payload_are_authenticated_and_passed_over() -> None:
    inner = generic(0, b"inner")
    assert open_message(sealed_raw(43, inner, generic(46, b"outer"), 43), GCM).payloads == (VendorIdPayload(b"inner"),)
    with pytest.raises(UnsupportedCriticalPayload):
        open_message(sealed_raw(43, inner, generic(46, b"outer", critical=0x80), 200), GCM)
    forged = sealed_raw(43, inner, generic(46, b"outer"), 43).replace(b"outer", b"Outer")
    with pytest.raises(IntegrityError):
        open_message(forged, GCM)


@pytest.mark.parametrize("pad", [1, 255])
def test_pad_length_beyond_the_plaintext(pad: int) -> None:
    aad = header(46, struct.pack(">BBH", 0, 0, 4 + 8 + 1 + 16), length=32 + 8 + 1 + 16)
    sealed = AESGCM(bytes(range(16))).encrypt(bytes(range(16, 20)) + bytes(8), bytes([pad]), aad)
    with pytest.raises(IntegrityError):
        open_message(aad + bytes(8) + sealed, GCM)


def test_longer_padding_than_needed_is_accepted() -> None:
    """s3.14: the sender may choose any padding of up to 255 octets, with any content."""
    plaintext = generic(0, b"x") + bytes([7]) * 255 + bytes([255])
    length = 4 + 8 + len(plaintext) + 16
    aad = header(46, struct.pack(">BBH", 43, 0, length), length=28 + length)
    sealed = AESGCM(bytes(range(16))).encrypt(bytes(range(16, 20)) + bytes(8), plaintext, aad)
    assert open_message(aad + bytes(8) + sealed, GCM).payloads == (VendorIdPayload(b"x"),)
