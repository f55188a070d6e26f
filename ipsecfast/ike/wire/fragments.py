"""IKE fragmentation (RFC 7383): a message too long for one datagram leaves in pieces, each sealed by itself.

What comes is authentic before it is kept, and what is kept is bounded: one message a direction, `MAX_FRAGMENTS` pieces.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from ipsecfast.errors import ProtocolError
from ipsecfast.ike.constants import GENERIC_HEADER_LENGTH, HEADER_LENGTH, IntegrityError, InvalidSyntax, PayloadType
from ipsecfast.ike.crypto.primitives import SkCipher
from ipsecfast.ike.wire.message import (
    GENERIC_HEADER,
    Header,
    Message,
    covered_octets,
    encode_chain,
    encode_header,
    find_protected,
    first_type,
    message_of_chain,
    parse_header,
    seal_chain,
)

NUMBERS = struct.Struct(">HH")  # s2.5: fragment number, from 1, and total fragments
BODY_START = GENERIC_HEADER_LENGTH + NUMBERS.size
MAX_FRAGMENTS = 64  # of a message: more than 64 KiB makes no sense, with the smallest datagrams too
MAX_REASSEMBLED = 1 << 16


@dataclass(frozen=True, slots=True)
class Fragment:
    """One authentic piece. `first_type` is the type of the message's first payload, known from fragment 1 only; `start`
    is where the SKF payload begins in the datagram."""

    header: Header
    number: int
    total: int
    first_type: int
    start: int
    piece: bytes
    datagram: bytes = field(repr=False)


def seal_datagrams(message: Message, cipher: SkCipher, next_iv: Callable[[], bytes], limit: int) -> tuple[bytes, ...]:
    """The message in one SK payload if that fits into `limit` octets, else in as many SKF payloads as it takes.

    Raises:
        ValueError: `limit` leaves no room for anything, or the message needs more than `MAX_FRAGMENTS`.
    """
    chain = encode_chain(message.payloads)
    if HEADER_LENGTH + GENERIC_HEADER_LENGTH + cipher.sealed_length(len(chain)) <= limit:
        return (seal_chain(message, chain, cipher, next_iv()),)
    room = _room(cipher, limit)
    pieces = [chain[at : at + room] for at in range(0, len(chain), room)]
    if len(pieces) > MAX_FRAGMENTS:
        raise ValueError(f"a message of {len(chain)} octets needs {len(pieces)} fragments; {MAX_FRAGMENTS} are allowed")
    return tuple(
        _seal_piece(message, cipher, next_iv(), number, len(pieces), piece) for number, piece in enumerate(pieces, 1)
    )


def _room(cipher: SkCipher, limit: int) -> int:
    """How many octets of payloads fit beside everything that a fragment carries, padding at its longest."""
    most = limit - HEADER_LENGTH - BODY_START
    room = most
    while room > 0 and cipher.sealed_length(room) > most:
        room -= 1
    if room <= 0:
        raise ValueError(f"nothing fits into an IKE datagram of {limit} octets")
    return room


def _seal_piece(message: Message, cipher: SkCipher, iv: bytes, number: int, total: int, piece: bytes) -> bytes:
    """s2.5: only the first fragment names the type of the first payload."""
    length = BODY_START + cipher.sealed_length(len(piece))
    following = first_type(message.payloads) if number == 1 else PayloadType.NONE
    head = GENERIC_HEADER.pack(following, 0, length) + NUMBERS.pack(number, total)
    aad = encode_header(message, PayloadType.SKF, length) + head
    return aad + cipher.seal(iv, aad, piece)


def is_fragment(header: Header) -> bool:
    return header.next_payload == PayloadType.SKF


def open_fragment(data: bytes, cipher: SkCipher) -> Fragment:
    """One datagram whose payload is an SKF payload.

    Raises:
        IntegrityError: not authentic, or numbers that can't be (s2.6: such a fragment is discarded).
    """
    try:
        header = parse_header(data)
        _, start = find_protected(header.next_payload, data, PayloadType.SKF)
    except ProtocolError as error:
        raise IntegrityError(f"not a fragment: {error}") from error
    body = start + BODY_START
    if len(data) < body:
        raise IntegrityError("a fragment that is cut short")
    number, total = NUMBERS.unpack_from(data, start + GENERIC_HEADER_LENGTH)
    if not 1 <= number <= total <= MAX_FRAGMENTS:
        raise IntegrityError(f"fragment {number} of {total}")
    return Fragment(header, number, total, data[start], start, cipher.open(data[:body], data[body:]), data)


class Reassembly:
    """The fragments of one message that have come (s2.6)."""

    __slots__ = ("_message_id", "_pieces", "_size", "_total")

    def __init__(self) -> None:
        self._pieces: dict[int, Fragment] = {}
        self._message_id = self._total = self._size = 0

    def add(self, fragment: Fragment) -> tuple[Message, bytes] | None:
        """The message and the datagram of its first fragment, once nothing is missing.

        Raises:
            InvalidSyntax: authentic, but the payloads are wrong, or too long.
        """
        if fragment.header.message_id != self._message_id or fragment.total > self._total:
            self.clear()  # another message; or the sender cuts it smaller now, and the old pieces don't fit
            self._message_id, self._total = fragment.header.message_id, fragment.total
        if fragment.total < self._total or fragment.number in self._pieces:
            return None
        self._pieces[fragment.number] = fragment
        self._size += len(fragment.piece)
        if self._size > MAX_REASSEMBLED:
            self.clear()
            raise InvalidSyntax(f"fragments of more than {MAX_REASSEMBLED} octets")
        if len(self._pieces) < self._total:
            return None
        first, chain = self._pieces[1], b"".join(self._pieces[n].piece for n in range(1, self._total + 1))
        self.clear()
        covered = covered_octets(first.header, first.datagram, first.start, chain)
        return message_of_chain(first.header, first.first_type, chain, covered), first.datagram

    def clear(self) -> None:
        self._pieces.clear()
        self._total = self._size = 0
