"""Strangers' bytes: whatever arrives, only ProtocolError leaves the parsers of IKE, and what they accept is consistent.

The seed of a run is in its name; `IPSECFAST_FUZZ_ROUNDS` multiplies the number of mutations.
"""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecfast.errors import ProtocolError
from ipsecfast.identity import Identity
from ipsecfast.ike.constants import IntegrityError, NoProposalChosen, NotifyType, PayloadType
from ipsecfast.ike.crypto.primitives import SkCipher, generate_key_exchange
from ipsecfast.ike.extension.gateway_identity import gateway_id, parse_gateway_id
from ipsecfast.ike.extension.tickets import LABEL, unseal
from ipsecfast.ike.lasting import Lasting, TicketKey
from ipsecfast.ike.wire.message import Message, encode_message, open_message, parse_header, parse_message, seal_message
from ipsecfast.ike.wire.payloads import (
    PARSERS,
    AuthPayload,
    CertPayload,
    ConfigAttribute,
    ConfigPayload,
    DeletePayload,
    EapPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    PuzzleSolutionPayload,
    SaPayload,
    TsPayload,
    UnknownPayload,
    VendorIdPayload,
)
from ipsecfast.ike.wire.proposal import mismatch_text, parse_proposal, proposal_text, select
from ipsecfast.model import ProtocolId, TrafficSelector, Transform, TransformType, parse_address

ROUNDS = int(os.environ.get("IPSECFAST_FUZZ_ROUNDS", "1"))
IKE_PROPOSALS = [
    parse_proposal("aes128gcm16-aes256gcm16-prfsha256-x25519-ecp256", ProtocolId.IKE),
    parse_proposal("aes128-sha256-modp2048", ProtocolId.IKE, 2),
]
ESP_PROPOSAL = replace(parse_proposal("aes128gcm16-x25519-esn-noesn", ProtocolId.ESP), spi=b"\xc0\x01\x02\x03")
V4 = TrafficSelector(parse_address("10.1.0.0"), parse_address("10.1.0.255"), 6, 80, 80)
V6 = TrafficSelector(parse_address("2001:db8::"), parse_address("2001:db8::ffff"))
GCM = SkCipher(Transform(TransformType.ENCR, 20, 128), None, bytes(range(20)), b"")
CBC = SkCipher(Transform(TransformType.ENCR, 12, 128), Transform(TransformType.INTEG, 12), bytes(16), bytes(32))


def message(exchange: int, *payloads: Payload, response: bool = False) -> Message:
    return Message(b"initiatr", b"respondr", exchange, 1, response, not response, payloads)


MESSAGES = [
    message(
        34,
        SaPayload(tuple(IKE_PROPOSALS)),
        KePayload(31, bytes(range(32))),
        NoncePayload(bytes(32)),
        NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20)),
        NotifyPayload(NotifyType.COOKIE, b"cookie"),
        VendorIdPayload(b"vendor"),
        PuzzleSolutionPayload(bytes(range(32))),
        NotifyPayload(NotifyType.PUZZLE, b"\0\5\x0a"),
    ),
    message(
        35,
        IdPayload(PayloadType.IDi, Identity(2, b"a.test")),
        IdPayload(PayloadType.IDr, Identity(1, b"\xc0\x00\x02\x02")),
        CertPayload(4, b"certificate"),
        AuthPayload(2, bytes(32)),
        ConfigPayload(1, (ConfigAttribute(1), ConfigAttribute(8, bytes(17)))),
        SaPayload((ESP_PROPOSAL,)),
        TsPayload(PayloadType.TSi, (V4, V6)),
        TsPayload(PayloadType.TSr, (V6,)),
    ),
    message(
        37,
        DeletePayload(ProtocolId.ESP, (b"spi1", b"spi2")),
        DeletePayload(ProtocolId.IKE),
        NotifyPayload(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=b"spi1"),
        EapPayload(b"\x03\x01\x00\x04"),
        UnknownPayload(200, False, b"unknown"),
        response=True,
    ),
]
# Values that sit at the edges of counters and lengths, more telling than random ones.
EDGES = [0, 1, 2, 3, 4, 7, 8, 16, 40, 127, 128, 200, 254, 255]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes of a datagram; mostly the header's length is made to fit again, so that parsing goes on."""
    octets = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(octets) + 1)
        match rng.randrange(6):
            case 0:
                octets[at : at + 1] = bytes([rng.choice(EDGES)])
            case 1:
                octets[at : at + 1] = rng.randbytes(1)
            case 2:
                octets[at : at + 2] = rng.choice([0, 1, 3, 4, 5, 8, 0x7FFF, 0xFFFF, len(octets)]).to_bytes(2, "big")
            case 3:
                del octets[at : at + rng.randint(1, 16)]
            case 4:
                octets[at:at] = rng.randbytes(rng.randint(1, 16))
            case 5:
                start = rng.randrange(len(octets) + 1)
                octets[at:at] = octets[start : start + rng.randint(1, 40)]
    if rng.random() < 0.9 and len(octets) >= 28:
        octets[17] = 0x20
        octets[24:28] = len(octets).to_bytes(4, "big")
    return bytes(octets)


def use(parsed: Message) -> None:
    """What an exchange does with a message before it believes any of it; and what was read can be written."""
    sa = parsed.get(SaPayload)
    if sa is not None:
        assert all(isinstance(proposal_text(p), str) for p in sa.proposals)
        assert 0 < len(mismatch_text(sa.proposals, IKE_PROPOSALS)) < 1000
        with contextlib.suppress(NoProposalChosen):
            assert select(sa.proposals, [*IKE_PROPOSALS, ESP_PROPOSAL]).transforms
    assert all(str(p.identity) is not None for p in parsed.all(IdPayload))
    again = parse_message(encode_message(parsed))
    assert again == parsed


def survives(data: bytes) -> bool:
    try:
        use(parse_message(data))
    except ProtocolError:
        return False
    return True


@pytest.mark.parametrize("seed", range(4))
def test_mutated_messages_in_clear(seed: int) -> None:
    rng = random.Random(seed)
    valid = [encode_message(m) for m in MESSAGES]
    accepted = sum(survives(mutate(rng.choice(valid), rng)) for _ in range(10_000 * ROUNDS))
    assert 0 < accepted < 10_000 * ROUNDS


@pytest.mark.parametrize("cipher", [GCM, CBC], ids=["aes-gcm", "aes-cbc + hmac"])
def test_mutated_protected_messages_are_integrity_errors(cipher: SkCipher) -> None:
    rng = random.Random(5)
    valid = [seal_message(m, cipher, bytes(cipher.iv_length)) for m in MESSAGES]
    for _ in range(4_000 * ROUNDS):
        mutated = mutate(rng.choice(valid), rng)
        if mutated not in valid:
            with pytest.raises(IntegrityError):
                open_message(mutated, cipher)


@pytest.mark.parametrize("seed", range(2))
def test_mutated_payloads_of_an_authentic_peer(seed: int) -> None:
    """A peer with the right keys may still send anything inside the SK payload."""
    rng = random.Random(seed)
    chains = [encode_message(m) for m in MESSAGES]
    for _ in range(4_000 * ROUNDS):
        mutated = mutate(rng.choice(chains), rng)
        if len(mutated) < 28:
            continue
        first, chain = mutated[16], mutated[28:]
        length = 32 + GCM.sealed_length(len(chain))
        aad = mutated[:16] + bytes([46, 0x20]) + mutated[18:24] + length.to_bytes(4, "big")
        aad += bytes([first, 0]) + (length - 28).to_bytes(2, "big")
        datagram = aad + GCM.seal(bytes(8), aad, chain)
        try:
            use(open_message(datagram, GCM))
        except IntegrityError:
            pytest.fail(f"seed {seed}: an authentic message was called forged: {datagram.hex()}")
        except ProtocolError:
            continue


@given(st.binary(max_size=200))
@settings(max_examples=300 * ROUNDS)
def test_garbage(data: bytes) -> None:
    assert not survives(data)


@given(st.binary(max_size=80))
def test_garbage_gateways(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        target, rest = parse_gateway_id(data)
        assert gateway_id(target) + rest == data


@given(st.binary(max_size=300))
def test_garbage_tickets(data: bytes) -> None:
    """Also when it was sealed with our own key, by another version of us."""
    key = TicketKey(b"8 octets", b"k" * 32, 0.0)
    context = SimpleNamespace(lasting=Lasting(ticket_keys=(key,)))
    assert unseal(context, data) is None
    sealed = key.number + b"n" * 12 + AESGCM(key.key).encrypt(b"n" * 12, data, LABEL + key.number)
    assert unseal(context, sealed) is None or data


@given(st.sampled_from(sorted(PARSERS)), st.binary(max_size=120))
@settings(max_examples=1500 * ROUNDS)
def test_garbage_payloads(kind: int, body: bytes) -> None:
    try:
        payload = PARSERS[kind](body)
    except ProtocolError:
        return
    assert PARSERS[kind](payload.encode()) == payload


@pytest.mark.parametrize("group", [14, 15, 19, 20, 31])
def test_garbage_public_values(group: int) -> None:
    rng = random.Random(group)
    ours = generate_key_exchange(group, rng.randbytes)
    for _ in range(30 * ROUNDS):
        value = rng.randbytes(rng.choice([0, 1, len(ours.public) - 1, len(ours.public), len(ours.public) + 1, 700]))
        try:
            assert ours.shared_secret(value)
        except ProtocolError:
            continue


@pytest.mark.parametrize("data", [b"", bytes(27), bytes(28), b"\xff" * 28, b"\xff" * 65507])
def test_headers(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_header(data)


def many_transforms(proposals: int) -> Message:
    """As many transforms as fit: 255 of 8 octets, all types and numbers, in each proposal."""
    transforms = tuple(Transform(TransformType(n), n) for n in range(255))
    offered = (replace(IKE_PROPOSALS[0], transforms=transforms, number=n) for n in range(proposals))
    return message(34, SaPayload(tuple(offered)))


def test_long_offers() -> None:
    """A stranger may make us parse 8192 octets of the smallest substructures, a peer with keys 65,535."""
    assert survives(encode_message(many_transforms(3)))
    assert not survives(encode_message(many_transforms(5)))
    sa = open_message(seal_message(many_transforms(31), GCM, bytes(8)), GCM).get(SaPayload)
    assert sa is not None
    with pytest.raises(NoProposalChosen) as refused:
        select(sa.proposals, IKE_PROPOSALS)
    assert len(str(refused.value)) < 300
