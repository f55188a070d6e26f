"""What ESP costs on top of its cipher: the engine alone, then seal and open of the library, side by side on one core.

`raw seal` and `raw open` are the engine on as many bytes, in place, with a fresh IV and 8 bytes of AAD each. `seal` and
`open` are all of RFC 4303 around it, in place as in a gateway's buffers: parse, sequence number, padding, header, ICV;
window, trailer, selectors, ECN. All work on batches of 64, caches warm. The ratio is the figure: both are measured in
the same round, each shorter than a scheduler's slice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from time import perf_counter_ns

import click
import numpy as np

from ipsecfast.bench.command import Settings, benchmark, finish
from ipsecfast.bench.results import BenchError, Better, Figure, Reading, ratio
from ipsecfast.bench.workload import (
    BATCH,
    IMIX_NAME,
    KEY,
    SIZES,
    inbound,
    packets,
    parse_engines,
    parse_sizes,
    sa_params,
)
from ipsecfast.dataplane import ENGINES, InboundSa, OutboundSa, PacketBatch, raw_open, raw_seal

ROW_LABELS = ("engine", "bytes", "stage")
SLICE_NS = 400_000  # one measurement: shorter than the time that a scheduler gives to another process
STAGES = ("seal", "open")


class EngineAtSize:
    """One engine at one size of packets."""

    def __init__(self, engine: str, size: str) -> None:
        self.engine, self.size = engine, size
        self.name = f"{engine} {size}"
        inner = packets(size)
        self.sizes = [len(one) for one in inner]
        self.batch = PacketBatch.with_room(inner)
        self.reasons = np.zeros(BATCH, np.uint8)
        self.sender = OutboundSa(sa_params(), engine=engine)
        self.receiver = InboundSa(inbound(sa_params()), engine=engine)
        self.memory = {size: np.zeros(BATCH * _stride(size), np.uint8) for size in set(self.sizes)}
        self.batches = max(1, int(SLICE_NS / (self._raw(raw_seal, 20) * BATCH)))

    def measure(self) -> Iterator[Reading]:
        """Nanoseconds a packet: the engine alone, then what stands on it."""
        seal, unseal = self._there_and_back()
        times = {"raw seal": self._raw(raw_seal, self.batches), "seal": seal}
        times |= {"raw open": self._raw(raw_open, self.batches), "open": unseal}
        for stage, nanoseconds in times.items():
            yield Reading((self.engine, self.size, stage), "time", "ns", Better.LOWER, nanoseconds)

    def _raw(self, work: Callable[..., None], batches: int) -> float:
        """Of one size; for a mix the mean of its sizes, each by how often it occurs."""
        spent = 0.0
        for size, memory in self.memory.items():
            began = perf_counter_ns()
            work(self.engine, KEY, memory, size, _stride(size), batches)
            spent += (perf_counter_ns() - began) * self.sizes.count(size) / BATCH
        return spent / batches / BATCH

    def _there_and_back(self) -> tuple[float, float]:
        """Seals and opens in turn, for a window opens nothing twice, each timed for itself."""
        seal, unseal, reasons, now = self.sender.seal, self.receiver.open, self.reasons, perf_counter_ns
        batch = self.batch
        sealing = opening = 0
        for _ in range(self.batches):
            began = now()
            seal(batch, batch, reasons=reasons)
            between = now()
            unseal(batch, batch, reasons=reasons)
            opening += now() - between
            sealing += between - began
        if reasons.any():
            raise BenchError(f"{self.name} bytes: packets were dropped, the figures would mean nothing")
        return sealing / self.batches / BATCH, opening / self.batches / BATCH


def _stride(size: int) -> int:
    """From packet to packet: room for the ICV, and whole cache lines."""
    return (size + 127) // 64 * 64


def ratios(figures: dict[str, Figure]) -> dict[str, Figure]:
    """Beside each stage the engine's part of it, and what is around the engine, in ns."""
    found: dict[str, Figure] = {}
    for figure in figures.values():
        found[figure.name] = figure
        engine, size, stage = figure.row
        alone = figures.get(f"{engine}/{size}/raw {stage}/time")
        if alone is not None:
            share = ratio(figure.row, "raw/ours", alone, figure)
            around = tuple(a - b for a, b in zip(figure.samples, alone.samples, strict=True))
            for one in (share, Figure(figure.row, "around the AEAD", "ns", Better.LOWER, around)):
                found[one.name] = one
    return found


@click.command()
@click.option(
    "--sizes",
    default=",".join([*map(str, SIZES), IMIX_NAME]),
    show_default=True,
    help="Bytes of the inner packets; imix: 7 of 64, 4 of 576, 1 of 1,500.",
)
@click.option("--engines", default=",".join(ENGINES), show_default=True, help="Engines to compare.")
@benchmark(rounds=101, time_limit=300)  # fmt: skip
def command(settings: Settings, sizes: str, engines: str) -> None:
    """Each stage of the packet path beside the engine alone, in ns a packet, on one core."""
    chosen, kinds = parse_sizes(sizes), parse_engines(engines, tuple(ENGINES))
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    variants = [EngineAtSize(engine, size) for size in chosen for engine in kinds]
    outcome = settings.runner.run("stages", variants, settings.rounds)
    parameters = {"sizes": list(chosen), "engines": list(kinds), "batch": BATCH, "cipher": "AES-128-GCM-16"}
    finish(
        settings, "stages", figures=ratios(outcome.figures), rounds=outcome.rounds, parameters=parameters,
        row_labels=ROW_LABELS, axis="bytes", notes=outcome.notes,
    )  # fmt: skip
