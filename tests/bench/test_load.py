"""What the loads of `bench tunnel` count: latencies, rates without loss, packets that are right."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP

from ipsecfast.bench.generator import PORT, udp_packet
from ipsecfast.bench.load import LOSS_ALLOWED, Latency, highest_rate


def test_what_had_no_answer_counts_as_the_timeout() -> None:
    assert Latency.of([0.001, 0.003, 0.002]) == Latency(2, 3)
    assert Latency.of([0.001, None, None]) == Latency(1000, 1000)


@pytest.mark.parametrize("capacity", [1_000, 37_000, 99_000])
def test_bisection_finds_the_rate_of_a_path_that_carries_so_much(capacity: float) -> None:
    asked: list[float] = []

    def trial(rate: float) -> tuple[float, float]:
        asked.append(rate)
        sent = rate or 100_000
        return sent, min(sent, capacity)

    found = highest_rate(trial, trials=12)
    assert capacity * 0.9 <= found <= capacity / (1 - LOSS_ALLOWED)
    assert (asked[0], len(asked)) == (0.0, 12)


def test_a_path_that_carries_all_that_can_be_sent_needs_one_trial() -> None:
    assert highest_rate(lambda rate: (rate or 5000, rate or 5000), trials=1) == 5000


def test_overload_that_leaves_less_than_the_path_can_carry_is_left_behind() -> None:
    """Receive livelock: under the flood only a tenth comes through."""

    def trial(rate: float) -> tuple[float, float]:
        sent = rate or 100_000
        return sent, sent if sent <= 50_000 else 5_000

    assert 45_000 <= highest_rate(trial, trials=10) <= 50_000


def test_a_path_that_always_loses_has_no_rate_without_loss() -> None:
    assert highest_rate(lambda rate: (rate or 1000, (rate or 1000) * 0.5), trials=6) == 0


def test_the_generators_packets_are_right() -> None:
    data = udp_packet("10.1.0.2", "10.2.0.2", 20_001, 36)
    packet = IP(data)
    assert (packet.len, packet.src, packet.dst, packet[UDP].sport, packet[UDP].dport) == (
        64, "10.1.0.2", "10.2.0.2", 20_001, PORT,
    )  # fmt: skip
    assert packet[UDP].len == 44
    stated = packet.chksum
    del packet.chksum
    assert IP(bytes(packet)).chksum == stated


def test_a_sender_that_is_held_up_is_asked_for_more() -> None:
    """It sends half of what is asked for, where other work takes its core; 90,000 a second pass."""

    def trial(rate: float) -> tuple[float, float]:
        sent = min(rate / 2, 119_000) if rate else 119_000.0
        return sent, min(sent, 90_000)

    assert 80_000 <= highest_rate(trial) <= 90_000 / (1 - LOSS_ALLOWED)
