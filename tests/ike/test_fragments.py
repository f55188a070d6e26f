"""Fragments of IKE messages by themselves (RFC 7383 s2.5, s2.6)."""

from __future__ import annotations

import random
from itertools import count

import pytest

from ipsecfast.errors import ProtocolError
from ipsecfast.ike.constants import IntegrityError, InvalidSyntax
from ipsecfast.ike.crypto.primitives import SkCipher
from ipsecfast.ike.wire.fragments import MAX_FRAGMENTS, Fragment, Reassembly, open_fragment, seal_datagrams
from ipsecfast.ike.wire.message import Message, open_message, parse_header
from ipsecfast.ike.wire.payloads import NoncePayload, VendorIdPayload
from ipsecfast.model import Transform, TransformType

GCM = SkCipher(Transform(TransformType.ENCR, 20, 128), None, bytes(20), b"")
CBC = SkCipher(Transform(TransformType.ENCR, 12, 128), Transform(TransformType.INTEG, 12), bytes(16), bytes(32))
CIPHERS = pytest.mark.parametrize("cipher", [GCM, CBC], ids=["aes-gcm", "aes-cbc + hmac"])


def message(size: int, message_id: int = 1) -> Message:
    content = random.Random(size).randbytes(size)
    return Message(b"i" * 8, b"r" * 8, 35, message_id, False, True, (NoncePayload(bytes(32)), VendorIdPayload(content)))


def cut(size: int, limit: int, cipher: SkCipher = GCM, message_id: int = 1) -> tuple[bytes, ...]:
    numbers = count(1)
    return seal_datagrams(
        message(size, message_id), cipher, lambda: next(numbers).to_bytes(cipher.iv_length, "big"), limit
    )


def fragments(size: int, limit: int = 300, message_id: int = 1) -> list[Fragment]:
    return [open_fragment(datagram, GCM) for datagram in cut(size, limit, message_id=message_id)]


@CIPHERS
@pytest.mark.parametrize(
    ("size", "limit"), [(0, 120), (50, 120), (1000, 120), (1000, 300), (5000, 300), (5000, 576 - 28), (5000, 1232)]
)
def test_pieces_fit_and_make_the_message_again(size: int, limit: int, cipher: SkCipher) -> None:
    datagrams = cut(size, limit, cipher)
    assert all(len(datagram) <= limit for datagram in datagrams)
    if len(datagrams) == 1:
        assert open_message(datagrams[0], cipher) == message(size)
        return
    pieces = [open_fragment(datagram, cipher) for datagram in datagrams]
    assert [(p.number, p.total) for p in pieces] == [(n, len(pieces)) for n in range(1, len(pieces) + 1)]
    random.Random(limit).shuffle(pieces)
    box = Reassembly()
    results = [box.add(piece) for piece in pieces]
    assert results[:-1] == [None] * (len(pieces) - 1)
    assert results[-1] == (message(size), datagrams[0])


def test_what_fits_is_not_cut() -> None:
    whole = cut(500, 1 << 16)
    assert len(whole) == 1
    assert cut(500, len(whole[0])) == whole
    assert len(cut(500, len(whole[0]) - 1)) == 2


def test_limits_of_the_sender() -> None:
    with pytest.raises(ValueError, match="nothing fits"):
        cut(500, 60)
    with pytest.raises(ValueError, match="64 are allowed"):
        cut(20_000, 200)


@CIPHERS
def test_every_flipped_bit_is_an_integrity_error(cipher: SkCipher) -> None:
    datagram = cut(300, 200, cipher)[1]
    for position in range(len(datagram) * 8):
        mutated = bytearray(datagram)
        mutated[position // 8] ^= 1 << position % 8
        with pytest.raises(IntegrityError):
            open_fragment(bytes(mutated), cipher)
    for length in range(len(datagram)):
        with pytest.raises(IntegrityError):
            open_fragment(datagram[:length], cipher)


@pytest.mark.parametrize(("number", "total"), [(0, 2), (3, 2), (1, MAX_FRAGMENTS + 1), (0, 0)])
def test_numbers_that_cannot_be(number: int, total: int) -> None:
    """s2.5: numbering begins at 1 and ends at the total; authentic or not, such a fragment is of no use."""
    datagram = cut(300, 200)[0]
    body = datagram[:32] + number.to_bytes(2, "big") + total.to_bytes(2, "big")
    sealed = GCM.seal(bytes(8), body, b"x" * (len(datagram) - len(body) - 8 - 17))
    assert parse_header(body + sealed)
    with pytest.raises(IntegrityError, match=f"fragment {number} of {total}"):
        open_fragment(body + sealed, GCM)


def test_doubles_are_passed_over() -> None:
    box = Reassembly()
    first, second = fragments(300)
    assert [box.add(piece) for piece in (first, first, first)] == [None] * 3
    whole = box.add(second)
    assert whole is not None
    assert whole[0] == message(300)


def test_a_smaller_cut_replaces_and_a_larger_one_is_passed_over() -> None:
    """s2.6: of two totals the larger one counts."""
    wide, narrow = fragments(600, 400), fragments(600, 200)
    assert len(narrow) > len(wide)
    box = Reassembly()
    assert box.add(wide[0]) is None
    for piece in narrow[:-1]:
        assert box.add(piece) is None
        assert box.add(wide[1]) is None
    whole = box.add(narrow[-1])
    assert whole is not None
    assert whole[0] == message(600)


def test_another_message_forgets_the_first() -> None:
    box = Reassembly()
    assert box.add(fragments(300, message_id=1)[0]) is None
    assert box.add(fragments(300, message_id=2)[1]) is None
    whole = box.add(fragments(300, message_id=2)[0])
    assert whole is not None
    assert whole[0].message_id == 2


def test_what_is_kept_is_bounded() -> None:
    pieces = [
        Fragment(parse_header(cut(300, 200)[0]), number, MAX_FRAGMENTS, 0, 28, bytes(2048), b"")
        for number in range(1, MAX_FRAGMENTS + 1)
    ]
    box = Reassembly()
    assert [box.add(piece) for piece in pieces[:32]] == [None] * 32
    with pytest.raises(InvalidSyntax, match="65536"):
        box.add(pieces[32])


def test_wrong_payloads_are_found_when_all_is_there() -> None:
    box = Reassembly()
    first, second = fragments(300)
    spoiled = Fragment(second.header, 2, 2, 0, 28, second.piece[:-1], b"")
    assert box.add(first) is None
    with pytest.raises(ProtocolError):
        box.add(spoiled)
