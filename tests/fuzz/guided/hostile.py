"""What a hostile peer makes of a record: datagrams sealed with the keys that it shares with its victim."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from simulation import Gateway, Pair
from simulation.transcript import KeyRing

from guided.records import Record
from ipsecfast.ike.constants import IN_CLEAR, Flags, PayloadType
from ipsecfast.ike.crypto.primitives import SkCipher
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.wire.fragments import NUMBERS
from ipsecfast.ike.wire.message import GENERIC_HEADER, HEADER, ZERO_SPI
from ipsecfast.model import Path

PIECES = 3
PEER_SPI = b"peer's i"
VERSION = 0x20


def datagrams(pair: Pair, victim: Gateway, record: Record) -> Iterator[tuple[bytes, Path]]:
    """What is sent to `victim`, and on which path."""
    peer = pair.a if victim is pair.b else pair.b
    path = Path(victim.address, 500, peer.address, 500)
    sas = victim.ike_sas
    sa = (sas[-1] if record.how & 16 else sas[0]) if sas else None
    if record.exchange in IN_CLEAR:
        yield in_clear(sa, record), path
    elif sa is not None and sa.has_keys:
        for octets in sealed(sa, record):
            yield octets, sa.path
    else:
        yield record.chain, path


def in_clear(sa: IkeSa | None, record: Record) -> bytes:
    """A request is that of an initiator who comes out of nowhere; a response answers whatever the victim asked."""
    length = HEADER.size + len(record.chain)
    if record.how & 1 and sa is not None:
        head = sa.spi_i, sa.spi_r if sa.spi_r != ZERO_SPI else PEER_SPI
        flags = Flags.RESPONSE
    else:
        head = crc32(record.chain).to_bytes(8, "big")[::-1], ZERO_SPI
        flags = Flags.INITIATOR
    return HEADER.pack(*head, record.first, VERSION, record.exchange, flags, 0, length) + record.chain


def sealed(sa: IkeSa, record: Record, pieces: int = PIECES) -> Iterator[bytes]:
    """For `sa`'s owner, as its peer would send it, with the chain inside of an SK payload, or of several SKF."""
    response = bool(record.how & 1)
    flags = (Flags.RESPONSE if response else 0) | (0 if sa.initiator else Flags.INITIATOR)
    window = sa.window
    if response:
        message_id = window.outstanding.message_id if window.outstanding else max(0, window.next_request - 1)
    else:
        message_id = window.expected_request
    message_id = min(message_id + (1 if record.how & 128 else 0), 0xFFFFFFFF)
    cipher = KeyRing(not sa.initiator, sa.suite, []).own_cipher(sa.keys)
    head = (sa.spi_i, sa.spi_r), record.exchange, flags, message_id
    if record.how & 96 != 64:
        yield seal(cipher, *head, PayloadType.SK, record.first, b"", record.chain)
        return
    room = len(record.chain) // pieces + 1
    for number in range(pieces):
        piece = record.chain[number * room : (number + 1) * room]
        first = record.first if number == 0 else PayloadType.NONE
        yield seal(cipher, *head, PayloadType.SKF, first, NUMBERS.pack(number + 1, pieces), piece)


def seal(
    cipher: SkCipher,
    spis: tuple[bytes, bytes],
    exchange: int,
    flags: int,
    message_id: int,
    kind: int,
    first: int,
    numbers: bytes,
    chain: bytes,
) -> bytes:
    length = GENERIC_HEADER.size + len(numbers) + cipher.sealed_length(len(chain))
    header = HEADER.pack(*spis, kind, VERSION, exchange, flags, message_id, HEADER.size + length)
    header += GENERIC_HEADER.pack(first, 0, length) + numbers
    return header + cipher.seal(bytes(cipher.iv_length), header, chain)
