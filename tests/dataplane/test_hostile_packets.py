"""What strangers send: a million mutated ESP packets, inner packets with lying lengths, TFC dummies, broken trailers.

Each packet has its reason and nothing crashes; what the crypto finds authentic is what the peer has sealed, unchanged.
"""

from __future__ import annotations

import logging
import struct

import numpy as np
import pytest
from samples import (
    ENGINES,
    HOSTS,
    REASON,
    as_inbound,
    counted,
    datagram,
    ipv4,
    names_of,
    open_all,
    packets_of,
    sa_pair,
    sa_params,
    seal_all,
    udp,
)

from ipsecfast.dataplane import DROP_REASONS, InboundSa, OutboundSa, PacketBatch

logging.getLogger("scapy").setLevel(logging.ERROR)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402

MILLION = 1_000_000
CHUNK = 50_000
MUTATIONS = ("none", "bit", "byte", "truncate", "spi", "sequence", "zero", "garbage")


def mutate(batch: PacketBatch, random: np.random.Generator) -> tuple[PacketBatch, np.ndarray]:
    """A copy of the batch in which each packet met one of MUTATIONS; and which one."""
    data, lengths, n = batch.data.copy(), batch.lengths.copy(), len(batch)
    kind = random.integers(0, len(MUTATIONS), n)
    where = (random.random(n) * lengths).astype(np.uint64)
    starts = batch.offsets
    for name, position, change in (
        ("bit", where, np.uint8(1) << random.integers(0, 8, n, np.uint8)),
        ("byte", where, random.integers(1, 256, n, np.uint8)),
        ("spi", where % np.uint64(4), random.integers(1, 256, n, np.uint8)),
        ("sequence", 4 + where % np.uint64(4), random.integers(1, 256, n, np.uint8)),
    ):
        hit = kind == MUTATIONS.index(name)
        data[(starts + position)[hit]] ^= change[hit]
    hit = kind == MUTATIONS.index("truncate")
    lengths[hit] = where[hit]
    lengths[kind == MUTATIONS.index("zero")] = 0
    for i in np.flatnonzero(kind == MUTATIONS.index("garbage")):
        data[starts[i] : starts[i] + lengths[i]] = random.integers(0, 256, lengths[i], np.uint8)
    return PacketBatch(data, starts, lengths), kind


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.timeout(110)
def test_a_million_mutated_packets_are_each_accounted_for(engine: str) -> None:
    random = np.random.default_rng(4303)
    sender, receiver = sa_pair(sa_params(), engine)
    inner = PacketBatch.from_packets([datagram(i, 48 + i % 200) for i in range(CHUNK)])
    total = np.zeros(len(DROP_REASONS), np.uint64)
    for _ in range(MILLION // CHUNK // len(ENGINES)):
        sealed, _ = sender.seal(inner)
        mutated, kind = mutate(sealed, random)
        opened, reasons = receiver.open(mutated)
        intact = kind == MUTATIONS.index("none")
        assert not reasons[intact].any()
        assert reasons[~intact].all()
        assert (opened.lengths[~intact] == 0).all()
        assert (opened.lengths[intact] == inner.lengths[intact]).all()
        for i in np.flatnonzero(intact)[:50]:
            assert (opened[i] == inner[i]).all()
        total += np.bincount(reasons, minlength=len(DROP_REASONS)).astype(np.uint64)
    seen = {DROP_REASONS[i]: int(count) for i, count in enumerate(total) if count}
    assert sum(seen.values()) == MILLION // len(ENGINES)
    assert set(seen) == {"none", "integrity", "too-short", "malformed", "unknown-spi", "replay"}


def forge(plain: bytes, sequence: int, *, spi: int = 0x1001) -> bytes:
    """ESP around any plaintext, trailer included, as a peer with the key and no manners would send it."""
    key = sa_params(spi).key
    header, iv = struct.pack("!II", spi, sequence), sequence.to_bytes(8)
    return header + iv + AESGCM(key[:-4]).encrypt(key[-4:] + iv, plain, header)


def trailer(pad: int, next_header: int, *, claims: int | None = None) -> bytes:
    return bytes(range(1, pad + 1)) + bytes([pad if claims is None else claims, next_header])


PACKET = datagram(0, 98)
LIES = {
    "total length beyond the packet": PACKET[:2] + struct.pack("!H", 200) + PACKET[4:],
    "total length below the header": PACKET[:2] + struct.pack("!H", 10) + PACKET[4:],
    "header length beyond the packet": b"\x4f" + PACKET[1:30],
    "header length too small": b"\x44" + PACKET[1:],
    "no IP version": b"\x55" + PACKET[1:],
    "one byte": b"\x45",
    "IPv6 header cut off": b"\x60" + bytes(30),
    "IPv6 payload length beyond the packet": b"\x60" + bytes(3) + b"\xff\xff\x11\x40" + bytes(40),
    "ports cut off": ipv4(*HOSTS[4], 17, b"\x13"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("lie", LIES)
def test_inner_packets_that_lie_are_malformed(engine: str, lie: str) -> None:
    inner = LIES[lie]
    version = 41 if inner[0] >> 4 == 6 else 4
    pad = -(len(inner) + 2) % 4
    receiver = InboundSa(as_inbound(sa_params()), engine=engine)
    opened, reasons = open_all(receiver, [forge(inner + trailer(pad, version), 1)])
    assert opened == [b""]
    assert set(reasons) <= {"malformed", "bad-trailer", "selector"}


@pytest.mark.parametrize("lie", LIES)
def test_packets_that_lie_are_not_sealed(lie: str) -> None:
    sa = OutboundSa(sa_params())
    _, reasons = sa.seal(PacketBatch.from_packets([LIES[lie], b"", PACKET]))
    assert names_of(reasons) == ["malformed", "malformed", "none"]
    assert sa.sequence <= 3


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        (trailer(2, 59), "dummy"),                                    # RFC 4303 s2.6
        (bytes(1000) + trailer(2, 59), "dummy"),
        (PACKET + trailer(0, 4), "none"),
        (PACKET + trailer(252, 4), "none"),                           # s2.4: up to 255 bytes of padding
        (PACKET + bytes(100) + trailer(0, 4), "none"),                # s2.7: TFC padding
        (PACKET + trailer(0, 41), "bad-trailer"),                     # says IPv6, is IPv4
        (PACKET + trailer(0, 6), "bad-trailer"),                      # TCP, in tunnel mode
        (PACKET + trailer(0, 4, claims=255), "bad-trailer"),          # padding longer than all
        (PACKET + trailer(0, 4, claims=200), "bad-trailer"),
        (trailer(2, 4), "malformed"),
        (PACKET + trailer(1, 4), "malformed"),                        # s2.4: the trailer ends on a 4-byte boundary
    ],
)  # fmt: skip
def test_trailers(plain: bytes, reason: str) -> None:
    opened, reasons = open_all(InboundSa(as_inbound(sa_params())), [forge(plain, 1)])
    assert opened == [PACKET if reason == "none" else b""]
    if reason == "bad-trailer":
        assert reasons[0] in {"bad-trailer", "malformed"}
    else:
        assert reasons == [reason]


def test_padding_is_one_two_three() -> None:
    """RFC 4303 s2.4: what we send; a receiver may look at it."""
    key = sa_params().key
    for esp in seal_all(OutboundSa(sa_params()), [datagram(i, 60 + i) for i in range(8)]):
        plain = AESGCM(key[:-4]).decrypt(key[-4:] + esp[8:16], esp[16:], esp[:8])
        pad = plain[-2]
        assert plain[-1] == 4
        assert plain[-2 - pad : -2] == bytes(range(1, pad + 1))


def test_a_selector_violation_is_no_reason_to_trust_the_rest() -> None:
    outside = ipv4("10.9.0.1", HOSTS[4][1], 17, udp(1, 2, b"x" * 30))
    inside = datagram()
    plains = [outside, inside, outside]
    sealed = [forge(one + trailer(-(len(one) + 2) % 4, 4), i + 1) for i, one in enumerate(plains)]
    opened, reasons = open_all(InboundSa(as_inbound(sa_params())), sealed)
    assert opened == [b"", inside, b""]
    assert reasons == ["selector", "none", "selector"]


def test_a_packet_that_is_not_authentic_does_not_move_the_window() -> None:
    """RFC 4303 s3.4.3: the window is updated only after the ICV was found right."""
    sender, receiver = sa_pair(sa_params())
    sealed = seal_all(sender, [datagram(i) for i in range(10)])
    forged = [esp[:4] + struct.pack("!I", 2**31 + i) + esp[8:] for i, esp in enumerate(sealed)]
    assert open_all(receiver, forged)[1] == ["integrity"] * 10
    assert open_all(receiver, sealed)[1] == ["none"] * 10


def test_too_long_for_an_ip_datagram_is_refused() -> None:
    sa = OutboundSa(sa_params())
    longest = datagram(0, 65_535)
    _, reasons = sa.seal(PacketBatch.from_packets([longest, PACKET]))
    assert names_of(reasons) == ["too-long", "none"]


def test_duplicates_within_one_batch_open_once() -> None:
    sender, receiver = sa_pair(sa_params())
    sealed = seal_all(sender, [datagram(i) for i in range(4)])
    opened, reasons = receiver.open(PacketBatch.from_packets([sealed[0], sealed[1], sealed[0], sealed[2], sealed[1]]))
    assert names_of(reasons) == ["none", "none", "replay", "none", "replay"]
    assert packets_of(opened)[2] == b""


def test_with_the_window_off_a_replay_is_accepted() -> None:
    sender, receiver = sa_pair(sa_params(replay_window=0))
    batch = PacketBatch.from_packets(seal_all(sender, [datagram(i) for i in range(4)]))
    assert [counted(receiver.open(batch)[1]) for _ in range(2)] == [{"none": 4}] * 2


def test_reasons_are_the_names_of_the_table() -> None:
    assert DROP_REASONS[0] == "none"
    assert REASON["integrity"] == DROP_REASONS.index("integrity")
    assert len(set(DROP_REASONS)) == len(DROP_REASONS)
