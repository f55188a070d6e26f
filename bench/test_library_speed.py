"""The library's calls under pytest-benchmark: `python -m pytest bench`. Sizes of one call stand in the names."""

from __future__ import annotations

from ipaddress import ip_network

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ipsecfast.bench.workload import inbound, packet, sa_params
from ipsecfast.dataplane import ENGINES, InboundSa, OutboundSa, PacketBatch, ReplayWindow, Spd
from ipsecfast.model import Policy, PolicyAction, TrafficSelector

BATCH = 64
QUESTIONS = 10_000


@pytest.mark.parametrize("size", [64, 1400, 8900])
@pytest.mark.parametrize("engine", ENGINES)
def test_seal_64_packets(benchmark: BenchmarkFixture, engine: str, size: int) -> None:
    sa, plain = OutboundSa(sa_params(), engine=engine), PacketBatch.from_packets([packet(size)] * BATCH)
    sealed, reasons = PacketBatch.empty(BATCH, BATCH * (size + 64)), np.zeros(BATCH, np.uint8)
    benchmark(sa.seal, plain, sealed, reasons=reasons)
    assert not reasons.any()


@pytest.mark.parametrize("size", [64, 1400, 8900])
@pytest.mark.parametrize("engine", ENGINES)
def test_open_64_packets(benchmark: BenchmarkFixture, engine: str, size: int) -> None:
    """Without anti-replay, so that one batch can be opened again and again."""
    params = sa_params(window=0)
    sealed, _ = OutboundSa(params, engine=engine).seal(PacketBatch.from_packets([packet(size)] * BATCH))
    sa, reasons = InboundSa(inbound(params), engine=engine), np.zeros(BATCH, np.uint8)
    opened = PacketBatch.empty(BATCH, BATCH * (size + 64))
    benchmark(sa.open, sealed, opened, reasons=reasons)
    assert not reasons.any()


def site_policies(n: int) -> list[Policy]:
    """Pairs of /24 networks, each with one port of its own."""
    networks = [
        TrafficSelector.from_network(ip_network((10 << 24 | i << 8, 24)), 17, 1000, 1000 + i % 100) for i in range(n)
    ]
    anywhere = TrafficSelector.from_network(ip_network("0.0.0.0/0"))
    return [Policy(anywhere, network, PolicyAction.PROTECT, i + 1) for i, network in enumerate(networks)]


@pytest.mark.parametrize("policies", [1, 100, 10_000])
def test_ask_the_spd_10000_questions(benchmark: BenchmarkFixture, policies: int) -> None:
    spd, random = Spd(site_policies(policies)), np.random.default_rng(5)
    source = random.integers(0, 2**32, QUESTIONS, np.uint32)
    destination = (10 << 24 | random.integers(0, policies, QUESTIONS, np.uint32) << 8 | 7).astype(np.uint32)
    protocol, ports = np.full(QUESTIONS, 17, np.uint8), np.full(QUESTIONS, 1000, np.uint16)
    found = benchmark(spd.lookup, source, destination, protocol, ports, ports)
    assert (found == (destination >> 8) - (10 << 16)).all()


@pytest.mark.parametrize("size", [64, 2048, 65_536])
def test_accept_10000_sequence_numbers_in_disorder(benchmark: BenchmarkFixture, size: int) -> None:
    """Neighbours swapped, always new: each call goes on where the last one ended."""
    window = ReplayWindow(size, esn=True)
    order = np.arange(1, QUESTIONS + 1, dtype=np.uint64).reshape(-1, 2)[:, ::-1].ravel()

    def accept() -> np.ndarray:
        return window.accept(order + np.uint64(window.top))

    assert benchmark(accept).all()
