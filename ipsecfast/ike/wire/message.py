"""IKE messages (RFC 7296 s3.1, s3.2, s3.14): the header, the chain of payloads, and the SK payload around them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from ipsecfast.errors import ProtocolError
from ipsecfast.ike.constants import (
    GENERIC_HEADER_LENGTH,
    HEADER_LENGTH,
    MAJOR_VERSION,
    MAX_CLEAR_LENGTH,
    SPI_LENGTH,
    ExchangeType,
    Flags,
    IntegrityError,
    InvalidMajorVersion,
    InvalidSyntax,
    NotifyType,
    PayloadType,
    UnsupportedCriticalPayload,
    is_error,
)
from ipsecfast.ike.crypto.primitives import SkCipher
from ipsecfast.ike.wire.payloads import PARSERS, NotifyPayload, Payload, UnknownPayload

HEADER = struct.Struct(">8s8sBBBBII")  # SPIs, next payload, version, exchange, flags, message ID, length
GENERIC_HEADER = struct.Struct(">BBH")  # next payload, critical bit, length
VERSION_OCTET = MAJOR_VERSION << 4
CRITICAL = 0x80
MAX_PAYLOADS = 512  # of one message: no honest one comes near, and each costs
_NEXT_PAYLOAD, _LENGTH = 16, 24  # where they stand in the header
ZERO_SPI = bytes(SPI_LENGTH)

P = TypeVar("P", bound=Payload)

# Of these a message holds at most one; two would leave open which of them was checked and which was used.
_SINGLE = frozenset(
    {
        PayloadType.SA,
        PayloadType.KE,
        PayloadType.IDi,
        PayloadType.IDr,
        PayloadType.AUTH,
        PayloadType.NONCE,
        PayloadType.TSi,
        PayloadType.TSr,
        PayloadType.CP,
        PayloadType.EAP,
    }
)


_RESPONSE, _INITIATOR = int(Flags.RESPONSE), int(Flags.INITIATOR)  # of each datagram; operations of enums are slow


@dataclass(frozen=True, slots=True)
class Header:
    """s3.1: the 28 octets before all payloads. SPIs are 8 octets, `exchange` may be a number that we don't know."""

    spi_i: bytes
    spi_r: bytes
    next_payload: int
    version: int
    exchange: int
    flags: int
    message_id: int
    length: int

    @property
    def is_response(self) -> bool:
        return self.flags & _RESPONSE != 0

    @property
    def from_initiator(self) -> bool:
        """True when the sender is the original initiator of the IKE SA."""
        return self.flags & _INITIATOR != 0


@dataclass(frozen=True, slots=True)
class Message:
    """One request or response in clear. `initiator`: the sender is the original initiator of the IKE SA. `covered`:
    of an IKE_INTERMEDIATE message that came what AUTH covers (`covered_octets`)."""

    spi_i: bytes
    spi_r: bytes
    exchange: int
    message_id: int
    response: bool
    initiator: bool
    payloads: tuple[Payload, ...] = ()
    covered: bytes = field(default=b"", repr=False, compare=False)

    def get(self, cls: type[P], kind: PayloadType | None = None) -> P | None:
        """The first payload of a class; `kind` tells IDi from IDr and TSi from TSr."""
        for payload in self.payloads:
            if isinstance(payload, cls) and (kind is None or payload.type == kind):
                return payload
        return None

    def all(self, cls: type[P], kind: PayloadType | None = None) -> tuple[P, ...]:
        return tuple([p for p in self.payloads if isinstance(p, cls) and (kind is None or p.type == kind)])

    def notify(self, notify_type: NotifyType) -> NotifyPayload | None:
        for payload in self.payloads:
            if isinstance(payload, NotifyPayload) and payload.notify_type == notify_type:
                return payload
        return None

    def errors(self) -> tuple[NotifyPayload, ...]:
        """The error notifies, of types that we don't know too (s3.10.1)."""
        return tuple(n for n in self.all(NotifyPayload) if is_error(n.notify_type))


def parse_header(data: bytes) -> Header:
    """The header of a whole datagram, the non-ESP marker already removed.

    Raises:
        InvalidSyntax: too short, or another length than the header says.
        InvalidMajorVersion: not IKEv2 (s2.5).
    """
    if len(data) < HEADER_LENGTH:
        raise InvalidSyntax(f"an IKE message of {len(data)} octets")
    header = Header(*HEADER.unpack_from(data))
    if header.version >> 4 != MAJOR_VERSION:
        raise InvalidMajorVersion(f"IKE version {header.version >> 4}.{header.version & 15}")
    if header.length != len(data):
        raise InvalidSyntax(f"an IKE message of {len(data)} octets that claims {header.length}")
    return header


def parse_message(data: bytes, header: Header | None = None) -> Message:
    """An unprotected message (IKE_SA_INIT, or an error notify for an IKE SA that does not exist), not overlong.
    `header` is its own, where that is parsed already.

    Raises:
        InvalidSyntax, InvalidMajorVersion, UnsupportedCriticalPayload.
    """
    header = header or parse_header(data)
    if len(data) > MAX_CLEAR_LENGTH:
        raise InvalidSyntax(f"an unprotected message of {len(data)} octets; {MAX_CLEAR_LENGTH} are accepted")
    return message_of_chain(header, header.next_payload, data[HEADER_LENGTH:])


def encode_message(message: Message) -> bytes:
    """The octets of an unprotected message."""
    chain = encode_chain(message.payloads)
    return encode_header(message, first_type(message.payloads), len(chain)) + chain


def seal_message(message: Message, cipher: SkCipher, iv: bytes) -> bytes:
    """The octets of a message whose payloads stand in one SK payload (s3.14; AES-GCM: RFC 5282).

    `iv` is the sender's next counter value where `cipher.iv_is_counter`, else random: `cipher.iv_length` octets.
    """
    return seal_chain(message, encode_chain(message.payloads), cipher, iv)


def seal_chain(message: Message, chain: bytes, cipher: SkCipher, iv: bytes) -> bytes:
    """The same; `chain` are the message's payloads as octets."""
    body_length = cipher.sealed_length(len(chain))
    sk_length = GENERIC_HEADER_LENGTH + body_length
    sk_header = GENERIC_HEADER.pack(first_type(message.payloads), 0, sk_length)
    aad = encode_header(message, PayloadType.SK, sk_length) + sk_header
    return aad + cipher.seal(iv, aad, chain)


def open_message(data: bytes, cipher: SkCipher, header: Header | None = None) -> Message:
    """A protected message with the payloads that stood in its SK payload. `header` is its own, where that is parsed
    already.

    Payloads before the SK payload are covered by the ICV but are not secret, and no exchange defines any: they are
    passed over. What precedes the check of the ICV raises IntegrityError only, so that whatever else is raised is
    authentic and may be answered (s2.21).

    Raises:
        IntegrityError: not authentic, or no SK payload as the last one.
        InvalidSyntax, UnsupportedCriticalPayload: authentic, but wrong.
    """
    try:
        header = header or parse_header(data)
        clear, sk_start = find_protected(header.next_payload, data, PayloadType.SK)
    except ProtocolError as error:
        raise IntegrityError(f"not a protected message: {error}") from error
    body_start = sk_start + GENERIC_HEADER_LENGTH
    chain = cipher.open(data[:body_start], data[body_start:])
    for payload_type, critical in clear:
        if critical and payload_type not in PARSERS:
            raise UnsupportedCriticalPayload(payload_type)
    return message_of_chain(header, data[sk_start], chain, covered_octets(header, data, sk_start, chain))


def covered_octets(header: Header, data: bytes, start: int, chain: bytes) -> bytes:
    """RFC 9242 s3.3.2: A | P of an IKE_INTERMEDIATE message, for other exchanges nothing: the datagram (of fragments
    the first) up to the header of the SK payload at `start`, as if `chain`, the payloads in clear, followed in it."""
    if header.exchange != ExchangeType.IKE_INTERMEDIATE:
        return b""
    clear = bytearray(data[: start + GENERIC_HEADER_LENGTH])
    names, following = _NEXT_PAYLOAD, HEADER_LENGTH
    while following < start:
        names, following = following, following + int.from_bytes(clear[following + 2 : following + 4], "big")
    clear[names] = PayloadType.SK
    clear[_LENGTH:HEADER_LENGTH] = (len(clear) + len(chain)).to_bytes(4, "big")
    clear[start + 2 :] = (GENERIC_HEADER_LENGTH + len(chain)).to_bytes(2, "big")
    return bytes(clear) + chain


def covered_octets_of(message: Message) -> bytes:
    """The same of a message that we send."""
    chain = encode_chain(message.payloads)
    length = GENERIC_HEADER_LENGTH + len(chain)
    return (
        encode_header(message, PayloadType.SK, length)
        + GENERIC_HEADER.pack(first_type(message.payloads), 0, length)
        + chain
    )


def find_protected(first: int, data: bytes, wanted: PayloadType) -> tuple[list[tuple[int, bool]], int]:
    """Types and critical bits of the payloads before the SK or SKF payload, and where that, the last one, begins."""
    clear, offset = [], HEADER_LENGTH
    kind = first
    while kind != wanted:
        if kind in (PayloadType.NONE, PayloadType.SK, PayloadType.SKF):
            raise InvalidSyntax(f"no {wanted.name} payload")
        following, critical, body = _generic(data, offset)
        clear.append((kind, critical))
        offset, kind = offset + GENERIC_HEADER_LENGTH + len(body), following
    _, _, body = _generic(data, offset)
    if offset + GENERIC_HEADER_LENGTH + len(body) != len(data):
        raise InvalidSyntax(f"octets after the {wanted.name} payload")
    return clear, offset


def _generic(data: bytes, offset: int) -> tuple[int, bool, bytes]:
    """Next payload, critical bit and body of the payload at `offset` (s3.2)."""
    if len(data) - offset < GENERIC_HEADER_LENGTH:
        raise InvalidSyntax("a payload header is cut short")
    following, critical, length = GENERIC_HEADER.unpack_from(data, offset)
    if not GENERIC_HEADER_LENGTH <= length <= len(data) - offset:
        raise InvalidSyntax(f"a payload of {length} octets where {len(data) - offset} are left")
    return following, bool(critical & CRITICAL), data[offset + GENERIC_HEADER_LENGTH : offset + length]


def _parse_chain(first: int, data: bytes) -> tuple[Payload, ...]:
    payloads = tuple([_parse_payload(*raw) for raw in islice(_walk(first, data), MAX_PAYLOADS + 1)])
    if len(payloads) > MAX_PAYLOADS:
        raise InvalidSyntax(f"a message of more than {MAX_PAYLOADS} payloads")
    singles = [p.type for p in payloads if p.type in _SINGLE]
    if len(set(singles)) != len(singles):
        raise InvalidSyntax("a payload that may stand once stands twice")
    return payloads


def _walk(first: int, data: bytes) -> Iterator[tuple[int, bool, bytes]]:
    kind, offset = first, 0
    while kind != PayloadType.NONE:
        following, critical, body = _generic(data, offset)
        yield kind, critical, body
        kind, offset = following, offset + GENERIC_HEADER_LENGTH + len(body)
    if offset != len(data):
        raise InvalidSyntax(f"{len(data) - offset} octets after the last payload")


def _parse_payload(kind: int, critical: bool, body: bytes) -> Payload:
    parse = PARSERS.get(kind)
    if parse is not None:
        return parse(body)  # s2.5: the critical bit of payloads that we know says nothing
    if kind in (PayloadType.SK, PayloadType.SKF):
        raise InvalidSyntax("an encrypted payload where none can be")
    if critical:
        raise UnsupportedCriticalPayload(kind)
    return UnknownPayload(kind, critical, body)


def message_of_chain(header: Header, first: int, chain: bytes, covered: bytes = b"") -> Message:
    """A message from its header and its payloads in clear, the first of type `first`.

    Raises:
        InvalidSyntax, UnsupportedCriticalPayload.
    """
    return Message(
        header.spi_i,
        header.spi_r,
        header.exchange,
        header.message_id,
        header.is_response,
        header.from_initiator,
        _parse_chain(first, chain),
        covered,
    )


def first_type(payloads: tuple[Payload, ...]) -> int:
    return payloads[0].type if payloads else PayloadType.NONE


def encode_header(message: Message, next_payload: int, body_length: int) -> bytes:
    flags = (_RESPONSE if message.response else 0) | (_INITIATOR if message.initiator else 0)
    return HEADER.pack(
        message.spi_i,
        message.spi_r,
        next_payload,
        VERSION_OCTET,
        message.exchange,
        flags,
        message.message_id,
        HEADER_LENGTH + body_length,
    )


def encode_chain(payloads: tuple[Payload, ...]) -> bytes:
    parts = []
    following = int(PayloadType.NONE)
    for payload in reversed(payloads):
        body = payload.encode()
        critical = CRITICAL if isinstance(payload, UnknownPayload) and payload.critical else 0
        parts += [body, GENERIC_HEADER.pack(following, critical, GENERIC_HEADER_LENGTH + len(body))]
        following = payload.type
    return b"".join(reversed(parts))
