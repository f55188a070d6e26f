"""What each stage of the packet path costs, beside the engine alone in the same round, on one core.

`raw-seal` and `raw-open` are the AEAD engine on as many bytes. `outbound` and `inbound` are all that the gateway does
between its ports: parse, SPD, replay window, ESP, counters. The others are parts of these (`ipsecfast.measure` says
what each includes). Batches of 64, caches warm. The ratio is the figure: what the engine alone takes, as a part of what
the stage takes around it. Every measurement is shorter than a scheduler's slice, and a round measures all of them one
after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import click

from ipsecfast.bench.command import Settings, benchmark, finish
from ipsecfast.bench.results import BenchError, Better, Figure, Reading, Requirement, ratio
from ipsecfast.bench.workload import BATCH, IMIX_NAME, SIZES, parse_engines, parse_sizes, sizes_in_turn
from ipsecfast.errors import DataPlaneError
from ipsecfast.measure import STAGES, StageBench
from ipsecfast.values import ENGINES

ROW_LABELS = ("engine", "bytes", "stage")
SLICE_NS = 800_000  # one measurement: shorter than the time that a scheduler gives to another process
TRIAL_BATCHES = 20
POLICIES = 1000
ENGINE_ALONE = {"seal": "raw-seal", "outbound": "raw-seal", "open": "raw-open", "inbound": "raw-open"}

ACCEPTED_ENGINE = "ipsec-mb"
ACCEPTED_SHARE = {"1400": 0.90, "64": 0.60}
ACCEPTED_AROUND_NS = 40


class EngineAtSize:
    """One engine at one size of packets, or a mix of them."""

    def __init__(self, engine: str, size: str, policies: int) -> None:
        self.engine, self.size, self.name = engine, size, f"{engine} {size}"
        try:
            self._bench = StageBench(engine=engine, sizes=sizes_in_turn(size), policies=policies, batch=BATCH)
            slowest = max(cost.ns for cost in self._bench.measure(TRIAL_BATCHES).values())
        except DataPlaneError as error:
            raise BenchError(f"{self.name} bytes: {error}") from error
        self._batches = max(1, int(SLICE_NS / (slowest * BATCH)))

    def measure(self) -> Iterator[Reading]:
        """Nanoseconds a packet, and cycles where they are known. A short run before brings code and data near again."""
        self._bench.measure(max(1, self._batches // 4))
        for stage, cost in self._bench.measure(self._batches).items():
            row = (self.engine, self.size, stage)
            yield Reading(row, "time", "ns", Better.LOWER, cost.ns)
            if cost.cycles is not None:
                yield Reading(row, "cycles", "", Better.LOWER, cost.cycles)


def beside_the_engine(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """Behind each stage that has the AEAD in it: the AEAD's part, and what is around it, in ns."""
    found: dict[str, Figure] = {}
    for figure in figures.values():
        found[figure.name] = figure
        engine, size, stage = figure.row
        if figure.column != "time" or stage not in ENGINE_ALONE:
            continue
        alone = figures[f"{engine}/{size}/{ENGINE_ALONE[stage]}/time"]
        around = tuple(a - b for a, b in zip(figure.samples, alone.samples, strict=True))
        for one in (
            ratio(figure.row, "raw/ours", alone, figure),
            Figure(figure.row, "around the AEAD", "ns", Better.LOWER, around),
        ):
            found[one.name] = one
    return found


def requirements(engines: Sequence[str], sizes: Sequence[str]) -> Iterator[Requirement]:
    """What is accepted, of what was measured; the bounds are those of the faster engine."""
    if ACCEPTED_ENGINE not in engines:
        raise BenchError(f"--require judges {ACCEPTED_ENGINE}, which is not measured")
    judged = [size for size in ACCEPTED_SHARE if size in sizes]
    if not judged:
        raise BenchError(f"--require judges packets of {' and '.join(ACCEPTED_SHARE)} bytes, which are not measured")
    for size in judged:
        for stage in ("outbound", "inbound"):
            row = f"{ACCEPTED_ENGINE}/{size}/{stage}"
            yield Requirement(f"{row}/raw/ours", ACCEPTED_SHARE[size], f"whole {stage} at {size} bytes")
            yield Requirement(f"{row}/around the AEAD", ACCEPTED_AROUND_NS, f"work around the AEAD, {stage}", False)


@click.command()
@click.option(
    "--sizes",
    default=",".join([*map(str, SIZES), IMIX_NAME]),
    show_default=True,
    help="Bytes of the inner packets; imix: 7 of 64, 4 of 576, 1 of 1,500.",
)
@click.option("--engines", default=",".join(ENGINES), show_default=True, help="Engines to compare.")
@click.option("--policies", type=click.IntRange(1, 1_000_000), default=POLICIES, show_default=True)
@benchmark(rounds=51, time_limit=300)  # fmt: skip
def command(settings: Settings, sizes: str, engines: str, policies: int) -> None:
    """Each stage of the packet path beside the engine alone: ns and cycles a packet, on one core."""
    chosen, kinds = parse_sizes(sizes), parse_engines(engines, ENGINES)
    required = tuple(requirements(kinds, chosen)) if settings.require else ()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    variants = [EngineAtSize(engine, size, policies) for size in chosen for engine in kinds]
    outcome = settings.runner.run("stages", variants, settings.rounds)
    parameters = {
        "sizes": list(chosen), "engines": list(kinds), "policies": policies, "batch": BATCH, "cipher": "AES-128-GCM-16",
        "stages": list(STAGES),
    }  # fmt: skip
    finish(
        settings, "stages", figures=beside_the_engine(outcome.figures), rounds=outcome.rounds, parameters=parameters,
        row_labels=ROW_LABELS, axis="bytes", notes=outcome.notes, requirements=required,
    )  # fmt: skip
