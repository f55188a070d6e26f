"""What went over the links, in clear and in the RFC's notation: `a --> CREATE_CHILD_SA {SA, Ni, TSi, TSr}`.

Messages are opened with the sender's own keys, and only when somebody looks: thousands of schedules are never read.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from ipsecfast.ike.channel import NAT_KEEPALIVE, Channel
from ipsecfast.ike.constants import ExchangeType, IntegrityError, PayloadType, notify_name
from ipsecfast.ike.crypto.keymat import IkeKeys
from ipsecfast.ike.crypto.primitives import SkCipher
from ipsecfast.ike.crypto.suite import Suite
from ipsecfast.ike.wire.fragments import is_fragment, open_fragment
from ipsecfast.ike.wire.message import Header, Message, open_message, parse_header, parse_message
from ipsecfast.ike.wire.payloads import DeletePayload, NotifyPayload, UnknownPayload

LINES_SHOWN = 4000  # of a transcript that is longer the end


@dataclass
class KeyRing:
    """All keys that an IKE SA had, as its owner knows them."""

    initiator: bool
    suite: Suite
    keys: list[IkeKeys]

    def own_cipher(self, keys: IkeKeys) -> SkCipher:
        own = (keys.sk_ei, keys.sk_ai) if self.initiator else (keys.sk_er, keys.sk_ar)
        return self.suite.cipher(*own)

    def open(self, header: Header, data: bytes) -> Message:
        """What the owner sealed."""
        for keys in reversed(self.keys):
            with suppress(IntegrityError):
                return self._open_with(self.own_cipher(keys), header, data)
        raise AssertionError("sealed with keys that the sender never had")

    @staticmethod
    def _open_with(cipher: SkCipher, header: Header, data: bytes) -> Message:
        if is_fragment(header):
            piece = open_fragment(data, cipher)
            payload = UnknownPayload(PayloadType.SKF, False, f"{piece.number}/{piece.total}".encode())
            spis = header.spi_i, header.spi_r
            from_initiator = header.from_initiator
            return Message(*spis, header.exchange, header.message_id, header.is_response, from_initiator, (payload,))
        return open_message(data, cipher)


@dataclass
class Sent:
    """One line of the transcript: what `sender` put on the link. `ring` has the keys of its IKE SA."""

    time: float
    sender: str
    receiver: str
    data: bytes
    ring: KeyRing | None
    fate: str = ""

    @cached_property
    def message(self) -> Message | None:
        """In clear; None is a NAT keepalive."""
        if self.data == NAT_KEEPALIVE:
            return None
        header = parse_header(self.data)
        if header.next_payload not in (PayloadType.SK, PayloadType.SKF):
            return parse_message(self.data)
        assert self.ring is not None, "sealed by an IKE SA that the sender never had"
        return self.ring.open(header, self.data)

    @property
    def arrow(self) -> str:
        if {self.sender, self.receiver} == {"a", "b"}:
            return arrow(self.sender)
        return f"{self.sender} --> {self.receiver}"

    def __str__(self) -> str:
        return f"{self.time:10.3f}  {self.arrow}  {message_text(self.message)}{self.fate}"


def own_cipher(sa: Channel, keys: IkeKeys | None = None) -> SkCipher:
    return KeyRing(sa.initiator, sa.suite, []).own_cipher(keys or sa.keys)


def arrow(sender: str) -> str:
    return "a -->" if sender == "a" else "<-- b"


def message_text(message: Message | None) -> str:
    if message is None:
        return "NAT keepalive"
    known = message.exchange in ExchangeType.__members__.values()
    name = ExchangeType(message.exchange).name if known else f"exchange {message.exchange}"
    body = ", ".join(payload_text(p, message) for p in message.payloads)
    return f"{name} {{{body}}}"


def payload_text(payload: object, message: Message) -> str:
    if isinstance(payload, NotifyPayload):
        return f"N({notify_name(payload.notify_type)})"
    if isinstance(payload, DeletePayload):
        return "D"
    kind = PayloadType(payload.type)
    if isinstance(payload, UnknownPayload) and kind is PayloadType.SKF:
        return f"SKF {payload.data.decode()}"
    if kind is PayloadType.NONCE:
        return "Nr" if message.response else "Ni"
    return kind.name
