"""What an input of the endpoint's target looks like, and how it is changed: by payloads, not by octets of the whole.

state (1), then records: how (1), exchange (1), first payload (1), length (2), chain of payloads
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from ipsecfast.ike.wire.message import GENERIC_HEADER

MAX_RECORDS = 6
RECORD_HEADER = 5
WHIM = 0x80


@dataclass(frozen=True)
class Record:
    """One message of the hostile peer: `how` chooses victim, IKE SA, role, message ID, fragments, and how long it is
    waited afterwards. With an `exchange` from `WHIM` on it is something that the victim does of itself (`whims`)."""

    how: int
    exchange: int
    first: int
    chain: bytes

    def encode(self) -> bytes:
        chain = self.chain[:0xFFFF]
        return bytes((self.how, self.exchange, self.first)) + len(chain).to_bytes(2, "big") + chain


def decode(data: bytes) -> tuple[int, list[Record]]:
    """Any octets are an input."""
    records, offset = [], 1
    while offset + RECORD_HEADER <= len(data) and len(records) < MAX_RECORDS:
        how, exchange, first = data[offset : offset + 3]
        length = int.from_bytes(data[offset + 3 : offset + 5], "big")
        offset += RECORD_HEADER
        records.append(Record(how, exchange, first, data[offset : offset + length]))
        offset += length
    return data[0] if data else 0, records


def encode(state: int, records: list[Record]) -> bytes:
    return bytes((state,)) + b"".join(r.encode() for r in records)


def payloads_of(record: Record) -> list[tuple[int, int, bytes]]:
    """(type, flags, body) of each payload, as far as the chain can be followed."""
    found, kind, rest = [], record.first, record.chain
    while kind and len(rest) >= GENERIC_HEADER.size:
        following, flags, length = GENERIC_HEADER.unpack_from(rest)
        if not GENERIC_HEADER.size <= length <= len(rest):
            break
        found.append((kind, flags, rest[GENERIC_HEADER.size : length]))
        kind, rest = following, rest[length:]
    return found


def chained(record: Record, payloads: list[tuple[int, int, bytes]]) -> Record:
    """With lengths and types as they should be."""
    kinds = [kind for kind, _, _ in payloads] + [0]
    parts = (
        GENERIC_HEADER.pack(kinds[n + 1], flags, GENERIC_HEADER.size + len(body)) + body
        for n, (_, flags, body) in enumerate(payloads)
        if len(body) < 0xFF00
    )
    return replace(record, first=kinds[0], chain=b"".join(parts))


def mutate(data: bytes, max_size: int, seed: int, octets: Callable[[bytes, int], bytes]) -> bytes:
    """One change of a record, or of a payload in it; `octets` changes a string of octets."""
    rng = random.Random(seed)
    state, records = decode(data)
    if not records or rng.random() < 0.03:
        return octets(data, max_size)
    at = rng.randrange(len(records))
    match rng.randrange(9):
        case 8:
            records.insert(at, Record(rng.randrange(256), rng.randrange(WHIM, 256), 0, b""))
        case 0:
            state = rng.randrange(256)
        case 1:
            records[at] = replace(records[at], how=rng.randrange(256))
        case 2:
            records.insert(at, records[rng.randrange(len(records))])
        case 3 if len(records) > 1:
            del records[at]
        case 4:
            records[at] = replace(records[at], chain=octets(records[at].chain, 2000))
        case _:
            records[at] = with_changed_payload(records[at], rng, octets)
    return encode(state, records)[:max_size]


def with_changed_payload(record: Record, rng: random.Random, octets: Callable[[bytes, int], bytes]) -> Record:
    payloads = payloads_of(record)
    if not payloads:
        return replace(record, exchange=rng.randrange(34, 45), first=rng.randrange(33, 56))
    at = rng.randrange(len(payloads))
    kind, flags, body = payloads[at]
    match rng.randrange(6):
        case 0:
            del payloads[at]
        case 1:
            payloads.insert(rng.randrange(len(payloads) + 1), payloads[at])
        case 2:
            payloads[at] = (rng.randrange(33, 56), flags, body)
        case 3:
            other = rng.randrange(len(payloads))
            payloads[at], payloads[other] = payloads[other], payloads[at]
        case _:
            payloads[at] = (kind, flags ^ (0x80 if rng.random() < 0.05 else 0), octets(body, len(body) + 40))
    return chained(record, payloads)
