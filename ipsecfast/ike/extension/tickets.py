"""Tickets by value (RFC 5723 s6.1, appendix A): the state of an IKE SA, sealed by the gateway, kept by the client.

A ticket is number of the key | nonce | AES-256-GCM(session). Keys change every day; one goes when no ticket of it can
be valid any more. The session names the configuration that the peer was authenticated by: with another one it is void.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipsecfast.configured import ConnectionConfig, PrivateKey
from ipsecfast.identity import Identity
from ipsecfast.ike.actions import KeepSecrets
from ipsecfast.ike.constants import SPI_LENGTH, NotifyError
from ipsecfast.ike.lasting import TicketKey
from ipsecfast.ike.wire.proposal import decode_proposals, encode_proposals
from ipsecfast.model import Proposal

if TYPE_CHECKING:
    from ipsecfast.ike.context import Context

KEY_LENGTH, NUMBER_LENGTH, NONCE_LENGTH, TAG_LENGTH = 32, 8, 12, 16
ROTATION = 24 * 3600.0  # seconds that a key seals tickets
MAX_SPENT = 100_000  # tickets that were used and might still be presented again; the oldest go first
LABEL = b"ipsecfast ticket 1"  # what follows changes: another number
NUMBERS = struct.Struct(">ddB")


@dataclass(frozen=True, slots=True)
class Session:
    """What both ends know of an IKE SA that may be resumed. Times are seconds of Unix time.

    `id_i` is who holds the ticket, `id_r` who gave it. `authenticated`: when the two last proved who they are.
    """

    connection: str
    spi_i: bytes
    spi_r: bytes
    id_i: Identity
    id_r: Identity
    proposal: Proposal
    sk_d: bytes = field(repr=False)
    fingerprint: bytes = field(repr=False)
    expires: float
    authenticated: float
    quantum_resistant: bool


def seal(context: Context, session: Session) -> bytes:
    """A ticket, by the key of the day."""
    key = _current_key(context)
    nonce = context.random(NONCE_LENGTH)
    return key.number + nonce + AESGCM(key.key).encrypt(nonce, _encode(session), LABEL + key.number)


def unseal(context: Context, ticket: bytes) -> Session | None:
    """What a ticket of ours stands for; None: it is none of ours, or of a key that is gone."""
    number, nonce = ticket[:NUMBER_LENGTH], ticket[NUMBER_LENGTH : NUMBER_LENGTH + NONCE_LENGTH]
    for key in context.lasting.ticket_keys:
        if key.number == number and len(ticket) > NUMBER_LENGTH + NONCE_LENGTH + TAG_LENGTH:
            try:
                plain = AESGCM(key.key).decrypt(nonce, ticket[NUMBER_LENGTH + NONCE_LENGTH :], LABEL + number)
                return _decode(plain)
            except (InvalidTag, ValueError, NotifyError):
                return None
    return None


def _current_key(context: Context) -> TicketKey:
    """The newest, or a new one when that is a day old, or of a time to come: the clock was set back."""
    now = context.wall_clock().timestamp()
    known = context.lasting.ticket_keys
    if known and 0 <= now - known[0].made < ROTATION:
        return known[0]
    made = TicketKey(context.random(NUMBER_LENGTH), context.random(KEY_LENGTH), now)
    longest = ROTATION + context.settings.ticket_lifetime
    context.lasting = replace(
        context.lasting, ticket_keys=(made, *(key for key in known if 0 <= now - key.made < longest))
    )
    context.emit(KeepSecrets(context.lasting))
    return made


# -- one ticket, one use -----------------------------------------------------------------------------------------------


class Spent:
    """s4.3.4: which tickets were used, or belong to an IKE SA that was deleted, until they expire by themselves."""

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def add(self, session: Session, now: float) -> None:
        while self._until and (next(iter(self._until.values())) < now or len(self._until) >= MAX_SPENT):
            self._until.popitem(last=False)
        self._until[_name(session)] = session.expires

    def __contains__(self, session: Session) -> bool:
        return _name(session) in self._until

    def __len__(self) -> int:
        return len(self._until)


def _name(session: Session) -> bytes:
    return sha256(session.spi_i + session.spi_r + session.sk_d).digest()


# -- what stands in a ticket -------------------------------------------------------------------------------------------


def _encode(session: Session) -> bytes:
    parts = (
        session.connection.encode(),
        session.spi_i,
        session.spi_r,
        bytes([session.id_i.type]) + session.id_i.data,
        bytes([session.id_r.type]) + session.id_r.data,
        encode_proposals((session.proposal,)),
        session.sk_d,
        session.fingerprint,
        NUMBERS.pack(session.expires, session.authenticated, session.quantum_resistant),
    )
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def _decode(plain: bytes) -> Session:
    """Raises ValueError or NotifyError for what another version sealed."""
    name, spi_i, spi_r, id_i, id_r, proposal, sk_d, fingerprint, numbers = _parts(plain)
    (agreed,) = decode_proposals(proposal)
    if not len(spi_i) == len(spi_r) == SPI_LENGTH or not id_i or not id_r or len(numbers) != NUMBERS.size:
        raise ValueError("not a session")
    expires, authenticated, resistant = NUMBERS.unpack(numbers)
    holder, giver = (Identity(one[0], one[1:]) for one in (id_i, id_r))
    sealed = sk_d, fingerprint, expires, authenticated, bool(resistant)
    return Session(name.decode(), spi_i, spi_r, holder, giver, agreed, *sealed)


def _parts(plain: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(plain):
        end = at + 2 + int.from_bytes(plain[at : at + 2], "big")
        if end > len(plain):
            raise ValueError("cut short")
        yield plain[at + 2 : end]
        at = end


# -- by which configuration a peer was authenticated -------------------------------------------------------------------


def fingerprint(config: ConnectionConfig) -> bytes:
    """Of all that says who the two ends are and how they prove it. It is secret: pre-shared keys went into it."""
    digest = sha256()
    for part in (config.name, config.local, config.remote, config.secrets, config.ppks, config.ppk_required):
        _digest(digest.update, part)
    return digest.digest()


def _digest(update: Callable[[bytes], object], value: object) -> None:
    """Each value with its type and length before it, so that no two configurations look alike."""
    match value:
        case tuple() | list():
            update(f"({len(value)}".encode())
            for item in value:
                _digest(update, item)
            return
        case x509.Certificate():
            data = value.public_bytes(Encoding.DER)
        case Enum():
            data = str(value.value).encode()
        case bytes():
            data = value
        case _ if is_dataclass(value):
            update(type(value).__name__.encode())
            for one in fields(value):
                _digest(update, getattr(value, one.name))
            return
        case _ if hasattr(value, "public_bytes"):
            data = value.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        case _ if isinstance(value, PrivateKey):
            data = value.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        case _:
            data = repr(value).encode()
    update(f"{type(value).__name__} {len(data)} ".encode() + data)
