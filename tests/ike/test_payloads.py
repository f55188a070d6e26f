"""Payload bodies: round trips, and every length that lies."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsecfast.identity import Identity
from ipsecfast.ike.constants import InvalidSyntax, NotifyType, PayloadType
from ipsecfast.ike.wire.payloads import (
    PARSERS,
    AuthPayload,
    CertPayload,
    CertreqPayload,
    ConfigAttribute,
    ConfigPayload,
    DeletePayload,
    EapPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsPayload,
    UnknownSelector,
    VendorIdPayload,
)
from ipsecfast.model import Proposal, ProtocolId, TrafficSelector, Transform, TransformType

octets = st.binary(max_size=64)
u8, u16 = st.integers(0, 255), st.integers(0, 65535)


@st.composite
def transforms(draw: st.DrawFn) -> Transform:
    other = draw(st.sampled_from([b"", b"\x80\x0f\x00\x01", b"\x00\x10\x00\x03abc"]))
    return Transform(TransformType(draw(u8)), draw(u16), draw(u16), other)


@st.composite
def proposals(draw: st.DrawFn) -> Proposal:
    protocol = ProtocolId(draw(u8))
    size = {ProtocolId.IKE: draw(st.sampled_from([0, 8])), ProtocolId.AH: 4, ProtocolId.ESP: 4}.get(protocol, 3)
    return Proposal(protocol, tuple(draw(st.lists(transforms(), max_size=5))), bytes(range(size)), draw(u8))


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    kinds: list[tuple[type[IPv4Address] | type[IPv6Address], int]] = [(IPv4Address, 32), (IPv6Address, 128)]
    cls, bits = draw(st.sampled_from(kinds))
    start, end = sorted(draw(st.tuples(*[st.integers(0, 2**bits - 1)] * 2)))
    ports = draw(st.one_of(st.just((65535, 0)), st.tuples(u16, u16).map(lambda pair: tuple(sorted(pair)))))
    return TrafficSelector(cls(start), cls(end), draw(u8), *ports)


@st.composite
def ts_payloads(draw: st.DrawFn) -> TsPayload:
    known = draw(st.lists(selectors(), min_size=1, max_size=5))
    unknown = draw(st.lists(st.builds(UnknownSelector, st.integers(9, 255), u8, octets), max_size=2))
    return TsPayload(draw(st.sampled_from([PayloadType.TSi, PayloadType.TSr])), tuple(known), tuple(unknown))


identities = st.one_of(
    st.builds(Identity, st.sampled_from([2, 3, 9, 11, 200]), octets),
    st.builds(Identity, st.just(1), st.binary(min_size=4, max_size=4)),
    st.builds(Identity, st.just(5), st.binary(min_size=16, max_size=16)),
)
ids = st.builds(IdPayload, st.sampled_from([PayloadType.IDi, PayloadType.IDr]), identities)
attributes = st.lists(st.builds(ConfigAttribute, st.integers(0, 0x7FFF), octets), max_size=4).map(tuple)
esp_deletes = st.lists(st.binary(min_size=4, max_size=4), max_size=5).map(lambda s: DeletePayload(3, tuple(s)))
payloads: st.SearchStrategy[Payload] = st.one_of(
    st.lists(proposals(), min_size=1, max_size=4).map(lambda p: SaPayload(tuple(p))),
    st.builds(KePayload, u16, st.binary(min_size=1, max_size=64)),
    ids,
    st.builds(CertPayload, u8, octets),
    st.builds(CertreqPayload, u8, octets),
    st.builds(AuthPayload, u8, octets),
    st.builds(NoncePayload, st.binary(min_size=16, max_size=256)),
    st.builds(NotifyPayload, u16, octets, u8, octets),
    esp_deletes,
    st.just(DeletePayload(ProtocolId.IKE)),
    st.builds(VendorIdPayload, octets),
    ts_payloads(),
    st.builds(ConfigPayload, u8, attributes),
    octets.map(lambda data: EapPayload(b"\x02\x07" + (len(data) + 4).to_bytes(2, "big") + data)),
)


@given(payloads)
def test_round_trip(payload: Payload) -> None:
    parsed = PARSERS[payload.type](payload.encode())
    assert parsed == payload
    assert parsed.encode() == payload.encode()


@given(payloads, st.data())
def test_a_body_cut_short_is_refused_or_means_something_else(payload: Payload, data: st.DataObject) -> None:
    body = payload.encode()
    cut = body[: data.draw(st.integers(0, max(0, len(body) - 1)))]
    with contextlib.suppress(InvalidSyntax):
        assert PARSERS[payload.type](cut).encode() == cut


def test_every_payload_type_has_its_parser() -> None:
    encrypted = {PayloadType.NONE, PayloadType.SK, PayloadType.SKF}
    assert set(PARSERS) == set(PayloadType) - encrypted


def hexed(text: str) -> bytes:
    return bytes.fromhex(text.replace("|", " "))


# One line a mistake: payload type, body. What is right with the field named is in the round trips above.
MALFORMED = {
    "SA without a proposal": (PayloadType.SA, ""),
    "proposal header cut": (PayloadType.SA, "00 00 00 08 01 01 00"),
    "proposal length below its header": (PayloadType.SA, "00 00 00 07 01 01 00 00"),
    "proposal length beyond the payload": (PayloadType.SA, "00 00 00 09 01 01 00 00"),
    "octets after the last proposal": (PayloadType.SA, "00 00 00 08 01 01 00 00 | ff"),
    "more proposals announced than there are": (PayloadType.SA, "02 00 00 08 01 01 00 00"),
    "neither more nor last": (PayloadType.SA, "01 00 00 08 01 01 00 00"),
    "SPI longer than the proposal": (PayloadType.SA, "00 00 00 08 01 01 08 00"),
    "ESP proposal with an SPI of 2 octets": (PayloadType.SA, "00 00 00 0a 01 03 02 00 | aa bb"),
    "ESP proposal without an SPI": (PayloadType.SA, "00 00 00 08 01 03 00 00"),
    "IKE proposal with an SPI of 4 octets": (PayloadType.SA, "00 00 00 0c 01 01 04 00 | 01 02 03 04"),
    "transform announced, none there": (PayloadType.SA, "00 00 00 08 01 01 00 01"),
    "transform there, none announced": (PayloadType.SA, "00 00 00 10 01 01 00 00 | 00 00 00 08 02 00 00 05"),
    "last transform not marked": (PayloadType.SA, "00 00 00 10 01 01 00 01 | 03 00 00 08 02 00 00 05"),
    "last mark too early": (
        PayloadType.SA,
        "00 00 00 18 01 01 00 02 | 00 00 00 08 02 00 00 05 | 00 00 00 08 02 00 00 06",
    ),
    "transform length below its header": (PayloadType.SA, "00 00 00 10 01 01 00 01 | 00 00 00 07 02 00 00 05"),
    "transform length beyond the proposal": (PayloadType.SA, "00 00 00 10 01 01 00 01 | 00 00 00 0c 02 00 00 05"),
    "attribute cut": (PayloadType.SA, "00 00 00 12 01 01 00 01 | 00 00 00 0a 01 00 00 14 | 80 0e"),
    "long attribute beyond the transform": (
        PayloadType.SA,
        "00 00 00 14 01 01 00 01 | 00 00 00 0c 01 00 00 14 | 00 0e 00 01",
    ),
    "KE cut": (PayloadType.KE, "00 1f 00"),
    "KE without data": (PayloadType.KE, "00 1f 00 00"),
    "IDi cut": (PayloadType.IDi, "02 00 00"),
    "IPv4 identity of 5 octets": (PayloadType.IDi, "01 00 00 00 | 01 02 03 04 05"),
    "IPv6 identity of 4 octets": (PayloadType.IDr, "05 00 00 00 | 01 02 03 04"),
    "CERT empty": (PayloadType.CERT, ""),
    "CERTREQ empty": (PayloadType.CERTREQ, ""),
    "AUTH cut": (PayloadType.AUTH, "02 00 00"),
    "nonce of 15 octets": (PayloadType.NONCE, "00" * 15),
    "nonce of 257 octets": (PayloadType.NONCE, "00" * 257),
    "NOTIFY cut": (PayloadType.NOTIFY, "00 00 40"),
    "NOTIFY with an SPI beyond it": (PayloadType.NOTIFY, "03 04 40 09 | 01 02 03"),
    "DELETE cut": (PayloadType.DELETE, "03 04 00"),
    "DELETE with fewer SPIs": (PayloadType.DELETE, "03 04 00 02 | 01 02 03 04"),
    "DELETE with more SPIs": (PayloadType.DELETE, "03 04 00 00 | 01 02 03 04"),
    "DELETE of ESP with SPIs of 8 octets": (PayloadType.DELETE, "03 08 00 01 | 01 02 03 04 05 06 07 08"),
    "DELETE of ESP with SPIs of 0 octets": (PayloadType.DELETE, "03 00 ff ff"),
    "DELETE of the IKE SA with an SPI": (PayloadType.DELETE, "01 08 00 01 | 01 02 03 04 05 06 07 08"),
    "TSi without selectors": (PayloadType.TSi, "00 00 00 00"),
    "TSi cut": (PayloadType.TSi, "01 00 00"),
    "selector cut": (PayloadType.TSi, "01 00 00 00 | 07 00 00"),
    "selector of length 0": (PayloadType.TSi, "01 00 00 00 | 07 00 00 00"),
    "IPv4 selector of 12 octets": (PayloadType.TSi, "01 00 00 00 | 07 00 00 0c 00 00 ff ff 0a 00 00 00"),
    "IPv6 selector with IPv4 addresses": (
        PayloadType.TSr,
        "01 00 00 00 | 08 00 00 10 00 00 ff ff 0a 00 00 00 0a 00 00 ff",
    ),
    "selector beyond the payload": (PayloadType.TSr, "01 00 00 00 | 07 00 00 11 00 00 ff ff 0a 00 00 00 0a 00 00 ff"),
    "two selectors announced, one there": (
        PayloadType.TSr,
        "02 00 00 00 | 07 00 00 10 00 00 ff ff 0a 00 00 00 0a 00 00 ff",
    ),
    "one selector announced, octets behind it": (
        PayloadType.TSr,
        "01 00 00 00 | 07 00 00 10 00 00 ff ff 0a 00 00 00 0a 00 00 ff | 00",
    ),
    "address range backwards": (PayloadType.TSr, "01 00 00 00 | 07 00 00 10 00 00 ff ff 0a 00 00 ff 0a 00 00 00"),
    "port range backwards": (PayloadType.TSr, "01 00 00 00 | 07 11 00 10 00 50 00 4f 0a 00 00 00 0a 00 00 ff"),
    "CP cut": (PayloadType.CP, "01 00"),
    "CP attribute cut": (PayloadType.CP, "01 00 00 00 | 00 01 00"),
    "CP attribute beyond the payload": (PayloadType.CP, "01 00 00 00 | 00 01 00 04 | 0a 00 00"),
    "EAP cut": (PayloadType.EAP, "03 01 00"),
    "EAP of another length": (PayloadType.EAP, "03 01 00 05"),
}


@pytest.mark.parametrize(("kind", "body"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(kind: PayloadType, body: str) -> None:
    with pytest.raises(InvalidSyntax):
        PARSERS[kind](hexed(body))


def test_key_length_and_unknown_attributes_are_told_apart() -> None:
    known = "00 00 00 0c 01 00 00 14 | 80 0e 00 80"
    unknown = "00 00 00 0c 01 00 00 14 | 80 0f 00 80"
    twice = "00 00 00 10 01 00 00 14 | 80 0e 00 80 | 80 0e 01 00"
    zero = "00 00 00 0c 01 00 00 14 | 80 0e 00 00"
    aes128 = Transform(TransformType.ENCR, 20, 128)
    assert transform_of(known) == aes128
    for other in (unknown, twice, zero):
        assert transform_of(other) != aes128
        assert transform_of(other).other_attributes


def transform_of(text: str) -> Transform:
    transform = hexed(text)
    proposal = bytes([0, 0, 0, 8 + len(transform), 1, 1, 0, 1]) + transform
    return SaPayload.parse(proposal).proposals[0].transforms[0]


def test_unknown_numbers_keep_their_number_and_get_a_name() -> None:
    body = hexed("00 00 00 14 07 63 04 01 | 01 02 03 04 | 00 00 00 08 f1 00 03 e8")
    (proposal,) = SaPayload.parse(body).proposals
    assert (proposal.protocol, proposal.protocol.name, proposal.number) == (99, "UNKNOWN_99", 7)
    assert proposal.transforms == (Transform(TransformType(241), 1000),)
    assert proposal.transforms[0].type.name == "UNKNOWN_241"


def test_opaque_and_icmp_selectors_of_rfc_7296() -> None:
    body = hexed("02 00 00 00 | 07 01 00 10 08 00 08 ff 0a 00 00 00 0a 00 00 ff")
    body += hexed("07 11 00 10 ff ff 00 00 0a 00 00 00 0a 00 00 ff")
    echo, opaque = TsPayload.parse(body, PayloadType.TSi).selectors
    assert (echo.port_start, echo.port_end) == (8 << 8, 8 << 8 | 255)
    assert opaque.opaque


def test_selectors_of_unknown_types_are_legal_and_kept_apart() -> None:
    body = hexed("02 00 00 00 | 0a 00 00 06 61 62 | 07 00 00 10 00 00 ff ff 0a 00 00 00 0a 00 00 ff")
    payload = TsPayload.parse(body, PayloadType.TSr)
    assert payload.selectors == (TrafficSelector(ip_address("10.0.0.0"), ip_address("10.0.0.255")),)
    assert payload.unknown == (UnknownSelector(10, 0, b"ab"),)
    only_unknown = TsPayload.parse(hexed("01 00 00 00 | 0a 00 00 04"), PayloadType.TSr)
    assert only_unknown.selectors == ()


def test_notify_of_a_child_sa() -> None:
    payload = NotifyPayload(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=b"\x01\x02\x03\x04")
    assert payload.encode() == hexed("03 04 40 09 | 01 02 03 04")


def test_delete_as_rfc_7296_draws_it() -> None:
    assert DeletePayload(ProtocolId.IKE).encode() == hexed("01 00 00 00")
    assert DeletePayload(ProtocolId.ESP, (b"abcd", b"efgh")).encode() == hexed("03 04 00 02") + b"abcdefgh"


@pytest.mark.parametrize("name", [b"a\nForged line", b"\x1b[2J", b"\xff\xfe", "a\u202eb".encode(), b"\0"])
def test_an_identity_cannot_write_into_a_log(name: bytes) -> None:
    shown = str(IdPayload.parse(b"\x02\0\0\0" + name).identity)
    assert shown.isprintable()
    assert "\\" in shown


def test_a_name_is_shown_as_it_is() -> None:
    assert str(IdPayload.parse(b"\x02\0\0\0" + "gä.test".encode()).identity) == "gä.test"
