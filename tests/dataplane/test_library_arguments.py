"""The library's edges: what arrays it takes, whose memory it writes to, what it says about wrong ones."""

from __future__ import annotations

import numpy as np
import pytest
from samples import (
    AES_GCM_16,
    ENGINES,
    GATEWAYS,
    as_inbound,
    counted,
    datagram,
    host_params,
    ipv4,
    key_of,
    names_of,
    packets_of,
    sa_pair,
    sa_params,
    udp,
)

from ipsecfast.dataplane import (
    DROP_HELP,
    DROP_REASONS,
    InboundSa,
    OutboundSa,
    PacketBatch,
    choose_engine,
    esp_overhead,
    raw_open,
    raw_seal,
)
from ipsecfast.errors import DataPlaneError

PACKETS = [datagram(i, 60 + i) for i in range(100)]


def arrays(n: int = 4, size: int = 400) -> list[np.ndarray]:
    return [np.zeros(size, np.uint8), np.arange(n, dtype=np.uint64) * 100, np.full(n, 100, np.uint32)]


def test_a_batch_is_a_view_of_the_callers_memory() -> None:
    data, offsets, lengths = arrays()
    batch = PacketBatch(data, offsets, lengths)
    assert batch.data is data
    assert batch.offsets is offsets
    assert batch.lengths is lengths
    data[150] = 7
    assert batch[1][50] == 7
    batch[-1][0] = 9
    assert data[300] == 9


def test_packets_go_in_and_come_out() -> None:
    batch = PacketBatch.from_packets(PACKETS)
    assert len(batch) == 100
    assert packets_of(batch) == PACKETS
    with pytest.raises(IndexError, match="packet 100 of 100"):
        batch[100]
    assert len(PacketBatch.from_packets([])) == 0


@pytest.mark.parametrize(
    ("place", "value", "error", "text"),
    [
        (0, b"bytes", TypeError, "data is a numpy array, not bytes"),
        (0, np.zeros(400, np.int8), TypeError, "data is of dtype uint8, not int8"),
        (0, np.zeros((4, 100), np.uint8), ValueError, r"data has one dimension .*\(4, 100\)"),
        (0, np.zeros(800, np.uint8)[::2], ValueError, "data has one dimension and is contiguous"),
        (1, np.zeros(4, np.int64), TypeError, "offsets is of dtype uint64, not int64"),
        (1, np.zeros(4, ">u8"), TypeError, "offsets is of dtype uint64, not >u8"),
        (1, np.zeros(3, np.uint64), ValueError, "3 offsets and 4 lengths"),
        (2, np.zeros(4, np.uint64), TypeError, "lengths is of dtype uint32, not uint64"),
        (1, np.array([0, 1, 2, 301], np.uint64), ValueError, "packet 3 lies at 301, 100 bytes long; data has 400"),
        (1, np.array([0, 1, 2**64 - 1, 3], np.uint64), ValueError, "packet 2 lies at 18446744073709551615"),
    ],
)  # fmt: skip
def test_arrays_of_the_wrong_form_are_refused(place: int, value: object, error: type[Exception], text: str) -> None:
    given: list[object] = list(arrays())
    given[place] = value
    with pytest.raises(error, match=text):
        PacketBatch(*given)  # type: ignore[arg-type]


def test_offsets_that_were_changed_later_are_seen() -> None:
    batch = PacketBatch.from_packets(PACKETS)
    batch.offsets[5] = 2**40
    with pytest.raises(ValueError, match="packet 5 lies at 1099511627776"):
        OutboundSa(sa_params()).seal(batch)


def test_results_go_where_the_caller_wants_them() -> None:
    sender, receiver = sa_pair(sa_params())
    batch = PacketBatch.from_packets(PACKETS)
    out = PacketBatch.empty(100, len(batch.data) + 6400)
    reasons = np.full(100, 99, np.uint8)
    sealed, why = sender.seal(batch, out, reasons=reasons)
    assert sealed is out
    assert why is reasons
    assert not reasons.any()
    again = PacketBatch.empty(100, int(out.lengths.sum()))
    opened, _ = receiver.open(out, again)
    assert opened is again
    assert packets_of(opened) == PACKETS


def test_room_that_does_not_suffice_is_named() -> None:
    sa, batch = OutboundSa(sa_params()), PacketBatch.from_packets(PACKETS)
    needed = len(batch.data) + 6400
    with pytest.raises(ValueError, match=f"out.data has {needed - 1} bytes, {needed} are needed"):
        sa.seal(batch, PacketBatch.empty(100, needed - 1))
    with pytest.raises(ValueError, match="out has room for 99 packets, there are 100"):
        sa.seal(batch, PacketBatch.empty(99, needed))
    with pytest.raises(ValueError, match="reasons has 99 places, there are 100"):
        sa.seal(batch, reasons=np.zeros(99, np.uint8))
    with pytest.raises(TypeError, match="reasons is of dtype uint8, not int32"):
        sa.seal(batch, reasons=np.zeros(100, np.int32))  # type: ignore[arg-type]
    read_only = PacketBatch.empty(100, needed)
    read_only.data.flags.writeable = False
    with pytest.raises(ValueError, match="out is written to, but one of its arrays is read-only"):
        sa.seal(batch, read_only)
    assert sa.sequence == 0


def test_output_must_not_lie_in_the_input() -> None:
    sa = OutboundSa(sa_params())
    memory = np.zeros(20_000, np.uint8)
    batch = PacketBatch(memory[:400], *arrays()[1:])
    overlapping = PacketBatch(memory[300:], np.zeros(4, np.uint64), np.zeros(4, np.uint32))
    with pytest.raises(ValueError, match="overlap"):
        sa.seal(batch, overlapping)
    shared_lengths = PacketBatch(memory[400:], np.zeros(4, np.uint64), batch.lengths)
    with pytest.raises(ValueError, match="overlap"):
        sa.seal(batch, shared_lengths)


def test_sealing_and_opening_in_place_moves_nothing() -> None:
    sender, receiver = sa_pair(sa_params())
    batch = PacketBatch.with_room(PACKETS)
    starts = batch.offsets.copy()
    copied = packets_of(OutboundSa(sa_params()).seal(PacketBatch.from_packets(PACKETS))[0])
    for _ in range(3):
        sealed, reasons = sender.seal(batch, batch)
        assert sealed is batch
        assert (batch.offsets == starts - np.uint64(16)).all()
        assert not reasons.any()
        if sender.sequence == len(PACKETS):
            assert packets_of(batch) == copied
        assert not receiver.open(batch, batch)[1].any()
        assert packets_of(batch) == PACKETS
        assert (batch.offsets == starts).all()


@pytest.mark.parametrize("udp_encap", [False, True])
def test_transport_mode_in_place(udp_encap: bool) -> None:
    packets = [ipv4(*GATEWAYS[4], 17, udp(1, 2, bytes(i))) for i in range(100)]
    sender, receiver = sa_pair(host_params(udp_encap=udp_encap))
    batch = PacketBatch.with_room(packets)
    assert not sender.seal(batch, batch)[1].any()
    assert not receiver.open(batch, batch)[1].any()
    assert [one[20:] for one in packets_of(batch)] == [one[20:] for one in packets]


def test_bad_packets_in_place_keep_their_offsets() -> None:
    sender, receiver = sa_pair(sa_params())
    batch = PacketBatch.with_room([PACKETS[0], b"no IP packet at all", PACKETS[2]])
    offsets = batch.offsets.copy()
    assert names_of(sender.seal(batch, batch)[1]) == ["none", "malformed", "none"]
    assert packets_of(batch)[1] == b""
    assert names_of(receiver.open(batch, batch)[1]) == ["none", "too-short", "none"]
    assert (batch.offsets == offsets).all()


def test_in_place_needs_room() -> None:
    sa = OutboundSa(sa_params())
    batch = PacketBatch.with_room(PACKETS)
    close = PacketBatch(batch.data, batch.offsets.copy(), batch.lengths)
    close.offsets[7] -= 1
    short = PacketBatch(batch.data[:-1], batch.offsets, batch.lengths)
    disorder = PacketBatch(batch.data, batch.offsets[::-1].copy(), batch.lengths[::-1].copy())
    for wrong in (close, short, disorder, PacketBatch.from_packets(PACKETS)):
        with pytest.raises(
            ValueError, match="in place, packets stand in the order of their offsets, each with 16 bytes"
        ):
            sa.seal(wrong, wrong)
    batch.offsets[3] = 2**50
    with pytest.raises(ValueError, match="packet 3 lies at"):
        sa.seal(batch, batch)
    assert sa.sequence == 0


def test_read_only_input_is_sealed() -> None:
    batch = PacketBatch.from_packets(PACKETS)
    batch.data.flags.writeable = False
    before = batch.data.tobytes()
    sender, receiver = sa_pair(sa_params())
    sealed, reasons = sender.seal(batch)
    sealed.data.flags.writeable = False
    assert packets_of(receiver.open(sealed)[0]) == PACKETS
    assert not reasons.any()
    assert batch.data.tobytes() == before


def test_packets_may_lie_in_any_order_and_apart() -> None:
    data = np.zeros(100 * 256, np.uint8)
    order = np.random.default_rng(3).permutation(100)
    offsets, lengths = (order * 256).astype(np.uint64), np.array([len(one) for one in PACKETS], np.uint32)
    for packet, offset in zip(PACKETS, offsets, strict=True):
        data[offset : offset + len(packet)] = np.frombuffer(packet, np.uint8)
    sender, receiver = sa_pair(sa_params())
    sealed, _ = sender.seal(PacketBatch(data, offsets, lengths))
    assert packets_of(receiver.open(sealed)[0]) == PACKETS


def test_an_empty_batch_is_sealed_to_nothing() -> None:
    sealed, reasons = OutboundSa(sa_params()).seal(PacketBatch.from_packets([]))
    assert len(sealed) == len(reasons) == 0


def test_good_and_bad_packets_keep_their_places() -> None:
    sender, receiver = sa_pair(sa_params())
    mixed = [packet if i % 3 else b"\x00garbage" for i, packet in enumerate(PACKETS)]
    sealed, reasons = sender.seal(PacketBatch.from_packets(mixed))
    assert counted(reasons) == {"none": 66, "malformed": 34}
    opened, reasons = receiver.open(sealed)
    assert counted(reasons) == {"none": 66, "too-short": 34}
    assert packets_of(opened) == [packet if i % 3 else b"" for i, packet in enumerate(PACKETS)]


@pytest.mark.parametrize("make", [OutboundSa, InboundSa])
@pytest.mark.parametrize(
    "changes",
    [{"key": bytes(n)} for n in (0, 16, 19, 21, 24, 32, 35)]
    + [{"encryption": n} for n in (0, 12, 65_535)],
    ids=str,
)  # fmt: skip
def test_parameters_that_make_no_sa_are_refused(make: type, changes: dict[str, object]) -> None:
    with pytest.raises(DataPlaneError, match="SA 0x00001001: a value is out of its range"):
        make(as_inbound(sa_params(**changes)))


@pytest.mark.parametrize("size", [1, 63, 65_537])
def test_a_window_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(DataPlaneError, match="inbound SA 0x00001001: a value is out of its range"):
        InboundSa(as_inbound(sa_params(replay_window=size)))


def test_engines() -> None:
    assert "openssl" in ENGINES
    assert choose_engine() in ENGINES
    assert all(choose_engine(engine) == engine for engine in ENGINES)
    with pytest.raises(DataPlaneError, match="no engine 'rot13' on this machine; there is: auto, "):
        choose_engine("rot13")
    with pytest.raises(DataPlaneError, match="rot13"):
        OutboundSa(sa_params(), engine="rot13")


def test_every_reason_has_a_word_and_a_sentence() -> None:
    assert len(DROP_REASONS) == len(DROP_HELP)
    assert all(reason == reason.strip().lower() and " " not in reason for reason in DROP_REASONS)
    assert all(sentence.endswith((".", ")")) for sentence in DROP_HELP)


@pytest.mark.parametrize(
    ("mode", "udp_encap", "outer", "expected"),
    [("tunnel", True, 4, 20 + 8 + 16 + 3 + 2 + 16), ("tunnel", False, 6, 40 + 16 + 3 + 2 + 16)],
)
def test_overhead_of_a_tunnel(mode: str, udp_encap: bool, outer: int, expected: int) -> None:
    assert esp_overhead(AES_GCM_16, mode, udp_encap, outer) == expected


def test_overhead_of_what_does_not_exist() -> None:
    for arguments in ((12, "tunnel", True, 4), (AES_GCM_16, "beet", True, 4), (AES_GCM_16, "tunnel", True, 5)):
        with pytest.raises(DataPlaneError):
            esp_overhead(*arguments)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_raw_engine_changes_the_text(engine: str) -> None:
    data = np.zeros(64 * 1500, np.uint8)
    raw_seal(engine, key_of(128)[:16], data, 1400, 1500)
    assert data[:1400].any()
    assert not data[1416:1500].any()
    raw_open(engine, key_of(128)[:16], data, 1400, 1500, rounds=2)
    for wrong in ((1500, 1500), (1437, 1500), (0, 1500)):
        with pytest.raises(ValueError, match="length"):
            raw_seal(engine, key_of(128)[:16], data, *wrong)
    with pytest.raises(DataPlaneError, match="out of its range"):
        raw_seal(engine, bytes(17), data, 1400, 1500)
