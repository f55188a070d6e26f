"""When an SA ends: soft and hard limits of bytes and packets, sequence numbers that never wrap (RFC 4303 s3.3.3)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from samples import as_inbound, counted, datagram, packets_of, sa_params, seal_all
from sites import A_TO_B, Pair

from ipsecfast.dataplane import InboundSa, OutboundSa, PacketBatch
from ipsecfast.errors import DataPlaneError
from ipsecfast.model import HardLifetime, SoftLifetime

BATCH = PacketBatch.from_packets([datagram(i, 200) for i in range(100)])


@pytest.mark.parametrize(("esn", "last"), [(False, 2**32 - 1), (True, 2**64 - 1)], ids=["32", "esn"])
def test_the_sequence_number_never_wraps(esn: bool, last: int) -> None:
    sa = OutboundSa(sa_params(esn=esn, initial_sequence=last - 60))
    sealed, reasons = sa.seal(BATCH)
    assert counted(reasons) == {"none": 60, "sequence-exhausted": 40}
    assert list(reasons[:60]) == [0] * 60
    assert sa.sequence == last
    assert int.from_bytes(sealed[59][4:8].tobytes()) == last & 0xFFFFFFFF
    assert [len(packet) for packet in packets_of(sealed)[60:]] == [0] * 40
    for _ in range(3):
        assert counted(sa.seal(BATCH)[1]) == {"sequence-exhausted": 100}
    assert sa.sequence == last


def test_the_last_packets_of_a_32_bit_sa_are_received() -> None:
    params = sa_params(initial_sequence=2**32 - 11)
    sealed = seal_all(OutboundSa(params), [datagram(i) for i in range(10)])
    receiver = InboundSa(as_inbound(params))
    batch = PacketBatch.from_packets(sealed)
    assert counted(receiver.open(batch)[1]) == {"none": 10}
    assert counted(receiver.open(batch)[1]) == {"replay": 10}


def test_an_initial_sequence_beyond_the_last_is_refused() -> None:
    for make in (OutboundSa, InboundSa):
        with pytest.raises(DataPlaneError, match="SA 0x00001001"):
            make(sa_params(initial_sequence=2**32))


def test_what_was_before_a_take_over_counts_as_seen() -> None:
    """A window that starts at 1,000 knows nothing of 990: it must not accept it twice."""
    params = sa_params()
    sealed = seal_all(OutboundSa(replace(params, initial_sequence=980)), [datagram(i) for i in range(40)])
    taken_over = InboundSa(as_inbound(replace(params, initial_sequence=1000)))
    assert counted(taken_over.open(PacketBatch.from_packets(sealed))[1]) == {"replay": 20, "none": 20}


def test_exhaustion_asks_for_a_rekey_in_time_and_tells_the_end() -> None:
    """Three quarters of the numbers are the soft limit; at the last one the SA carries nothing more."""
    pair = Pair.make(initial_sequence=3 * 2**30 - 50)
    pair.carry([datagram(i) for i in range(200)])
    assert pair.a.events() == [SoftLifetime(1, A_TO_B, False)]
    pair.close()
    pair = Pair.make(initial_sequence=2**32 - 1 - 50)
    assert len(pair.carry([datagram(i) for i in range(200)])) == 50
    assert pair.a.events() == [SoftLifetime(1, A_TO_B, False), HardLifetime(1, A_TO_B, False)]
    assert pair.a.drops == {"sequence-exhausted": 150}
    pair.check_conservation()
    pair.close()


@pytest.mark.parametrize("unit", ["bytes", "packets"])
def test_outbound_limits_are_told_once_and_end_the_sa(unit: str) -> None:
    """100 packets of 200 bytes soft, 150 hard; a batch in which the limit lies may end a little before or behind it."""
    scale = 200 if unit == "bytes" else 1
    limits = {f"soft_{unit}": 100 * scale, f"hard_{unit}": 150 * scale}
    pair = Pair.make()
    new = replace(pair.forward, spi=0x1002, **limits)  # type: ignore[arg-type]
    pair.b.plane.install_inbound(as_inbound(replace(pair.forward, spi=0x1002)))
    pair.a.plane.install_outbound(new)
    pair.a.plane.activate_outbound(1, 0x1002)
    assert len(pair.carry([datagram(i, 200) for i in range(99)])) == 99
    assert pair.a.events() == []
    assert len(pair.carry([datagram(i, 200) for i in range(20)])) == 20
    assert pair.a.events() == [SoftLifetime(1, 0x1002, False)]
    passed = len(pair.carry([datagram(i, 200) for i in range(100)]))
    assert 31 <= passed <= 31 + 64
    assert pair.a.events() == [HardLifetime(1, 0x1002, False)]
    assert pair.carry([datagram(i, 200) for i in range(10)]) == []
    assert pair.a.events() == []
    assert pair.a.drops == {"sa-expired": 100 - passed + 10}
    pair.check_conservation()
    pair.close()


@pytest.mark.parametrize("unit", ["bytes", "packets"])
def test_inbound_limits_are_told_once_and_end_the_sa(unit: str) -> None:
    scale = 200 if unit == "bytes" else 1
    limits = {f"soft_{unit}": 100 * scale, f"hard_{unit}": 150 * scale}
    pair = Pair.make()
    new = replace(pair.forward, spi=0x1002)
    pair.b.plane.install_inbound(as_inbound(replace(new, **limits)))  # type: ignore[arg-type]
    pair.a.plane.install_outbound(new)
    pair.a.plane.activate_outbound(1, 0x1002)
    pair.carry([datagram(i, 200) for i in range(99)])
    pair.b.events()
    pair.carry([datagram(i, 200) for i in range(20)])
    assert pair.b.events() == [SoftLifetime(1, 0x1002, True)]
    passed = len(pair.carry([datagram(i, 200) for i in range(100)]))
    assert 31 <= passed <= 31 + 64
    assert pair.b.events() == [HardLifetime(1, 0x1002, True)]
    assert pair.carry([datagram(i, 200) for i in range(10)]) == []
    assert pair.b.drops == {"sa-expired": 100 - passed + 10}
    pair.check_conservation()
    pair.close()
