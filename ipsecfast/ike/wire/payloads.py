"""The payloads of IKEv2 (RFC 7296 s3.3-3.16): checked bytes in, frozen values out, and back.

Every class has `type`, `parse(body)` and `encode()`; a body is what follows the generic payload header. `parse` checks
the whole body before it makes a value, and raises `InvalidSyntax` for whatever does not fit.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import ClassVar, TypeAlias

from ipsecfast.identity import Identity
from ipsecfast.ike.constants import (
    ESP_SPI_LENGTH,
    MAX_NONCE,
    MIN_NONCE,
    IdType,
    InvalidSyntax,
    PayloadType,
    TsType,
)
from ipsecfast.ike.wire.proposal import decode_proposals, encode_proposals
from ipsecfast.model import Proposal, ProtocolId, TrafficSelector

KE_HEADER = struct.Struct(">H2x")  # group
TYPED_HEADER = struct.Struct(">B3x")  # ID type, authentication method, CFG type or number of selectors
NOTIFY_HEADER = struct.Struct(">BBH")  # protocol, SPI size, notify type
DELETE_HEADER = struct.Struct(">BBH")  # protocol, SPI size, number of SPIs
SELECTOR_HEADER = struct.Struct(">BBHHH")  # TS type, protocol, length, first and last port
SELECTOR_PREFIX = 4  # TS type, protocol and length are common to all types
CONFIG_ATTRIBUTE = struct.Struct(">HH")  # type, length
EAP_HEADER_LENGTH = 4
MAX_ATTRIBUTES = 1024  # of one CP payload

_ADDRESS_LENGTH: dict[int, int] = {IdType.ID_IPV4_ADDR: 4, IdType.ID_IPV6_ADDR: 16}
_SELECTOR_ADDRESS: dict[int, tuple[type[IPv4Address] | type[IPv6Address], int]] = {
    TsType.TS_IPV4_ADDR_RANGE: (IPv4Address, 4),
    TsType.TS_IPV6_ADDR_RANGE: (IPv6Address, 16),
}


def _require(body: bytes, length: int, what: str) -> None:
    if len(body) < length:
        raise InvalidSyntax(f"{what} payload of {len(body)} octets, at least {length} are needed")


@dataclass(frozen=True, slots=True)
class SaPayload:
    """s3.3."""

    type: ClassVar[PayloadType] = PayloadType.SA
    proposals: tuple[Proposal, ...]

    @classmethod
    def parse(cls, body: bytes) -> SaPayload:
        return cls(decode_proposals(body))

    def encode(self) -> bytes:
        return encode_proposals(self.proposals)


@dataclass(frozen=True, slots=True)
class KePayload:
    """s3.4. The length of `data` is checked against the group where the shared secret is made."""

    type: ClassVar[PayloadType] = PayloadType.KE
    group: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> KePayload:
        _require(body, KE_HEADER.size + 1, "KE")
        (group,) = KE_HEADER.unpack_from(body)
        return cls(group, body[KE_HEADER.size :])

    def encode(self) -> bytes:
        return KE_HEADER.pack(self.group) + self.data


@dataclass(frozen=True, slots=True)
class IdPayload:
    """s3.5: IDi or IDr, told apart by `kind`."""

    kind: PayloadType
    identity: Identity

    @property
    def type(self) -> PayloadType:
        return self.kind

    @classmethod
    def parse(cls, body: bytes, kind: PayloadType = PayloadType.IDi) -> IdPayload:
        _require(body, TYPED_HEADER.size, kind.name)
        identity = Identity(body[0], body[TYPED_HEADER.size :])
        if len(identity.data) != _ADDRESS_LENGTH.get(identity.type, len(identity.data)):
            raise InvalidSyntax(f"{kind.name} payload: an address of {len(identity.data)} octets")
        return cls(kind, identity)

    def encode(self) -> bytes:
        return TYPED_HEADER.pack(self.identity.type) + self.identity.data


@dataclass(frozen=True, slots=True)
class CertPayload:
    """s3.6."""

    type: ClassVar[PayloadType] = PayloadType.CERT
    encoding: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> CertPayload:
        _require(body, 1, "CERT")
        return cls(body[0], body[1:])

    def encode(self) -> bytes:
        return bytes([self.encoding]) + self.data


@dataclass(frozen=True, slots=True)
class CertreqPayload:
    """s3.7: `data` are the hashes of acceptable authorities."""

    type: ClassVar[PayloadType] = PayloadType.CERTREQ
    encoding: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> CertreqPayload:
        _require(body, 1, "CERTREQ")
        return cls(body[0], body[1:])

    def encode(self) -> bytes:
        return bytes([self.encoding]) + self.data


@dataclass(frozen=True, slots=True)
class AuthPayload:
    """s3.8."""

    type: ClassVar[PayloadType] = PayloadType.AUTH
    method: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> AuthPayload:
        _require(body, TYPED_HEADER.size, "AUTH")
        return cls(body[0], body[TYPED_HEADER.size :])

    def encode(self) -> bytes:
        return TYPED_HEADER.pack(self.method) + self.data


@dataclass(frozen=True, slots=True)
class NoncePayload:
    """s3.9: 16 to 256 octets."""

    type: ClassVar[PayloadType] = PayloadType.NONCE
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> NoncePayload:
        if not MIN_NONCE <= len(body) <= MAX_NONCE:
            raise InvalidSyntax(f"a nonce of {len(body)} octets; {MIN_NONCE} to {MAX_NONCE} are allowed")
        return cls(body)

    def encode(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class NotifyPayload:
    """s3.10: `notify_type` is a `NotifyType` or a number that we don't know (of an error: the request failed)."""

    type: ClassVar[PayloadType] = PayloadType.NOTIFY
    notify_type: int
    data: bytes = b""
    protocol: int = 0
    spi: bytes = b""

    @classmethod
    def parse(cls, body: bytes) -> NotifyPayload:
        _require(body, NOTIFY_HEADER.size, "NOTIFY")
        protocol, spi_size, notify_type = NOTIFY_HEADER.unpack_from(body)
        data_start = NOTIFY_HEADER.size + spi_size
        _require(body, data_start, "NOTIFY")
        return cls(notify_type, body[data_start:], protocol, body[NOTIFY_HEADER.size : data_start])

    def encode(self) -> bytes:
        return NOTIFY_HEADER.pack(self.protocol, len(self.spi), self.notify_type) + self.spi + self.data


@dataclass(frozen=True, slots=True)
class DeletePayload:
    """s3.11: the Child SAs that the sender no longer receives on; for protocol IKE, without SPIs, the IKE SA itself."""

    type: ClassVar[PayloadType] = PayloadType.DELETE
    protocol: int
    spis: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, body: bytes) -> DeletePayload:
        _require(body, DELETE_HEADER.size, "DELETE")
        protocol, size, count = DELETE_HEADER.unpack_from(body)
        if size != (0 if protocol == ProtocolId.IKE else ESP_SPI_LENGTH):
            raise InvalidSyntax(f"DELETE payload: SPIs of {size} octets for protocol {protocol}")
        if len(body) != DELETE_HEADER.size + size * count:
            raise InvalidSyntax(f"DELETE payload: {count} SPIs of {size} octets in {len(body)}")
        starts = range(DELETE_HEADER.size, len(body), size) if size else ()
        return cls(protocol, tuple(body[start : start + size] for start in starts))

    def encode(self) -> bytes:
        size = len(self.spis[0]) if self.spis else 0 if self.protocol == ProtocolId.IKE else ESP_SPI_LENGTH
        return DELETE_HEADER.pack(self.protocol, size, len(self.spis)) + b"".join(self.spis)


@dataclass(frozen=True, slots=True)
class VendorIdPayload:
    """s3.12."""

    type: ClassVar[PayloadType] = PayloadType.VENDOR_ID
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> VendorIdPayload:
        return cls(body)

    def encode(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class PuzzleSolutionPayload:
    """RFC 8019 s8.2: keys of one length, one after the other."""

    type: ClassVar[PayloadType] = PayloadType.PS
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> PuzzleSolutionPayload:
        return cls(body)

    def encode(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class UnknownSelector:
    """A traffic selector of a type that we don't negotiate: legal, passed over (s2.9). `body` follows the length."""

    ts_type: int
    protocol: int
    body: bytes


@dataclass(frozen=True, slots=True)
class TsPayload:
    """s3.13: TSi or TSr, told apart by `kind`. `unknown` keeps selectors of other types; they are encoded last."""

    kind: PayloadType
    selectors: tuple[TrafficSelector, ...]
    unknown: tuple[UnknownSelector, ...] = ()

    @property
    def type(self) -> PayloadType:
        return self.kind

    @classmethod
    def parse(cls, body: bytes, kind: PayloadType = PayloadType.TSi) -> TsPayload:
        _require(body, TYPED_HEADER.size, kind.name)
        parsed: list[TrafficSelector | UnknownSelector] = []
        offset = TYPED_HEADER.size
        while offset < len(body):
            length = _selector_length(body, offset)
            parsed.append(_decode_selector(body[offset : offset + length]))
            offset += length
        if len(parsed) != body[0] or not parsed:
            raise InvalidSyntax(f"{kind.name} payload: {len(parsed)} selectors, {body[0]} were announced")
        known = tuple(s for s in parsed if isinstance(s, TrafficSelector))
        return cls(kind, known, tuple(s for s in parsed if isinstance(s, UnknownSelector)))

    def encode(self) -> bytes:
        header = TYPED_HEADER.pack(len(self.selectors) + len(self.unknown))
        known = b"".join(_encode_selector(s) for s in self.selectors)
        return header + known + b"".join(_encode_unknown_selector(s) for s in self.unknown)


def _selector_length(body: bytes, offset: int) -> int:
    if offset + SELECTOR_PREFIX > len(body):
        raise InvalidSyntax("a traffic selector is cut short")
    length = int.from_bytes(body[offset + 2 : offset + 4], "big")
    if not SELECTOR_PREFIX <= length <= len(body) - offset:
        raise InvalidSyntax(f"a traffic selector of {length} octets does not fit")
    return length


def _decode_selector(data: bytes) -> TrafficSelector | UnknownSelector:
    if data[0] not in _SELECTOR_ADDRESS:
        return UnknownSelector(data[0], data[1], data[SELECTOR_PREFIX:])
    address, size = _SELECTOR_ADDRESS[data[0]]
    if len(data) != SELECTOR_HEADER.size + 2 * size:
        raise InvalidSyntax(f"a traffic selector of type {data[0]} with {len(data)} octets")
    _, protocol, _, port_start, port_end = SELECTOR_HEADER.unpack_from(data)
    middle = SELECTOR_HEADER.size + size
    start, end = address(data[SELECTOR_HEADER.size : middle]), address(data[middle:])
    try:
        return TrafficSelector(start, end, protocol, port_start, port_end)
    except ValueError as error:
        raise InvalidSyntax(f"traffic selector: {error}") from error


def _encode_selector(selector: TrafficSelector) -> bytes:
    kind = TsType.TS_IPV4_ADDR_RANGE if selector.version == 4 else TsType.TS_IPV6_ADDR_RANGE
    addresses = selector.start.packed + selector.end.packed
    length = SELECTOR_HEADER.size + len(addresses)
    return SELECTOR_HEADER.pack(kind, selector.protocol, length, selector.port_start, selector.port_end) + addresses


def _encode_unknown_selector(selector: UnknownSelector) -> bytes:
    length = SELECTOR_PREFIX + len(selector.body)
    return bytes([selector.ts_type, selector.protocol]) + length.to_bytes(2, "big") + selector.body


@dataclass(frozen=True, slots=True)
class ConfigAttribute:
    """s3.15.1: an empty value asks for one."""

    type: int
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class ConfigPayload:
    """s3.15."""

    type: ClassVar[PayloadType] = PayloadType.CP
    cfg_type: int
    attributes: tuple[ConfigAttribute, ...] = ()

    @classmethod
    def parse(cls, body: bytes) -> ConfigPayload:
        _require(body, TYPED_HEADER.size, "CP")
        attributes: list[ConfigAttribute] = []
        offset = TYPED_HEADER.size
        while offset < len(body):
            if offset + CONFIG_ATTRIBUTE.size > len(body) or len(attributes) == MAX_ATTRIBUTES:
                raise InvalidSyntax("CP payload: an attribute is cut short, or one too many")
            kind, length = CONFIG_ATTRIBUTE.unpack_from(body, offset)
            offset += CONFIG_ATTRIBUTE.size
            if length > len(body) - offset:
                raise InvalidSyntax(f"CP payload: an attribute of {length} octets does not fit")
            attributes.append(ConfigAttribute(kind & 0x7FFF, body[offset : offset + length]))  # bit 15 is reserved
            offset += length
        return cls(body[0], tuple(attributes))

    def encode(self) -> bytes:
        attributes = b"".join(CONFIG_ATTRIBUTE.pack(a.type, len(a.value)) + a.value for a in self.attributes)
        return TYPED_HEADER.pack(self.cfg_type) + attributes


@dataclass(frozen=True, slots=True)
class EapPayload:
    """s3.16: one EAP message, code and identifier included."""

    type: ClassVar[PayloadType] = PayloadType.EAP
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> EapPayload:
        _require(body, EAP_HEADER_LENGTH, "EAP")
        length = int.from_bytes(body[2:4], "big")
        if length != len(body):
            raise InvalidSyntax(f"an EAP message of {length} octets in {len(body)}")
        return cls(body)

    def encode(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class UnknownPayload:
    """s2.5: a payload of a type that we don't know. Without the critical bit it is passed over."""

    payload_type: int
    critical: bool
    data: bytes

    @property
    def type(self) -> int:
        return self.payload_type

    def encode(self) -> bytes:
        return self.data


Payload: TypeAlias = (
    SaPayload
    | KePayload
    | IdPayload
    | CertPayload
    | CertreqPayload
    | AuthPayload
    | NoncePayload
    | NotifyPayload
    | DeletePayload
    | VendorIdPayload
    | PuzzleSolutionPayload
    | TsPayload
    | ConfigPayload
    | EapPayload
    | UnknownPayload
)

PARSERS: MappingProxyType[int, Callable[[bytes], Payload]] = MappingProxyType(
    {
        PayloadType.SA: SaPayload.parse,
        PayloadType.KE: KePayload.parse,
        PayloadType.IDi: lambda body: IdPayload.parse(body, PayloadType.IDi),
        PayloadType.IDr: lambda body: IdPayload.parse(body, PayloadType.IDr),
        PayloadType.CERT: CertPayload.parse,
        PayloadType.CERTREQ: CertreqPayload.parse,
        PayloadType.AUTH: AuthPayload.parse,
        PayloadType.NONCE: NoncePayload.parse,
        PayloadType.NOTIFY: NotifyPayload.parse,
        PayloadType.DELETE: DeletePayload.parse,
        PayloadType.VENDOR_ID: VendorIdPayload.parse,
        PayloadType.PS: PuzzleSolutionPayload.parse,
        PayloadType.TSi: lambda body: TsPayload.parse(body, PayloadType.TSi),
        PayloadType.TSr: lambda body: TsPayload.parse(body, PayloadType.TSr),
        PayloadType.CP: ConfigPayload.parse,
        PayloadType.EAP: EapPayload.parse,
    }
)
