"""1 to N workers at full speed, without a kernel's ports: what more cores give.

Every worker has a source of packets in memory on one side and a sink on the other, and a core of its own. `outbound` is
everything from an IP packet to an ESP datagram; with `an SA each` the workers share nothing but the SPD, with `one SA`
they share its sequence numbers. `inbound` opens packets that were sealed before, each worker those of the SA that it
owns; the same packets come again and again, so these SAs have no anti-replay window (`bench stages` measures it).
What is counted in a slice of time is what the sinks got; CPU time is that of the workers' threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

import click

from ipsecfast.bench.command import Settings, benchmark, finish
from ipsecfast.bench.results import BenchError, Better, Figure, Reading, Requirement, ratio
from ipsecfast.bench.workload import BATCH, inbound, packet, parse_engines, parse_sizes, sa_params, sizes_in_turn
from ipsecfast.dataplane import ENGINES, DataPlane, GeneratorPort, OutboundSa, PacketBatch, Worker, choose_engine
from ipsecfast.model import Policy, PolicyAction, SaParams, TrafficSelector

ROW_LABELS = ("engine", "direction", "bytes", "workers")
OUTBOUND_EACH, OUTBOUND_SHARED, INBOUND_EACH = "outbound, an SA each", "outbound, one SA", "inbound, an SA each"
DIRECTIONS = (OUTBOUND_EACH, OUTBOUND_SHARED, INBOUND_EACH)
OWNER_SHIFT = 20  # the bits of an SPI that say its owner (csrc/steer.h): SA k belongs to worker k
ENDLESS = 1 << 40  # packets: more than any slice takes
WARM_UP_SECONDS, SLICE_SECONDS = 0.02, 0.15
MAX_WORKERS = 8
ACCEPTED_SCALING = 1.8


@dataclass(frozen=True, slots=True)
class Crew:
    """So many workers on one job. A measurement makes a data plane of its own, and ends it."""

    engine: str
    direction: str
    size: str
    workers: int
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.engine} {self.direction} {self.size} x{self.workers}"

    def measure(self) -> Iterator[Reading]:
        packets, octets, cpu, elapsed = self._slice()
        row = (self.engine, self.direction, self.size, str(self.workers))
        if not packets:
            raise BenchError(f"{self.name}: nothing came out")
        yield Reading(row, "rate", "Mpps", Better.HIGHER, packets / elapsed / 1e6)
        yield Reading(row, "of inner packets", "Gbit/s", Better.HIGHER, octets * 8 / elapsed / 1e9)
        yield Reading(row, "CPU", "ns/packet", Better.LOWER, cpu * 1e9 / packets)

    def _slice(self) -> tuple[int, float, float, float]:
        """Packets, bytes of inner packets, CPU seconds, seconds."""
        plane, sources, sinks = DataPlane(engine=self.engine), [], []
        crew: list[Worker] = []
        for number in range(self.workers):
            source, sink = self._source(number), GeneratorPort()
            inner, outer = (sink, source) if self.direction == INBOUND_EACH else (source, sink)
            crew.append(plane.add_worker(f"w{number}", inner, [outer]))
            sources.append(source)
            sinks.append(sink)
        self._install(plane)
        threads = [
            threading.Thread(target=_run_on, args=(worker, core)) for worker, core in zip(crew, _cores(), strict=False)
        ]
        try:
            for thread, source in zip(threads, sources, strict=True):
                source.grant(ENDLESS)
                thread.start()
            time.sleep(WARM_UP_SECONDS)
            before = self._now(plane, sinks)
            time.sleep(self.seconds)
            after = self._now(plane, sinks)
            _check_drops(self.name, plane)
        finally:
            plane.close()
            for thread in threads:
                thread.join()
        packets = after[0] - before[0]
        mean = sum(sizes_in_turn(self.size)) / len(sizes_in_turn(self.size))
        return packets, packets * mean, after[1] - before[1], after[2] - before[2]

    def _now(self, plane: DataPlane, sinks: Sequence[GeneratorPort]) -> tuple[int, float, float]:
        return (
            sum(sink.counts["sent"] for sink in sinks),
            sum(worker["cpu"] for worker in plane.worker_stats()),
            time.perf_counter(),
        )

    def _params(self, number: int) -> SaParams:
        spi = number << OWNER_SHIFT | 0x1001
        params = sa_params(0 if self.direction == INBOUND_EACH else 2048, spi=spi, reqid=number + 1)
        if self.direction == OUTBOUND_SHARED:
            return params
        return replace(params, remote_ts=(TrafficSelector.from_network(ip_network(f"10.2.{number}.0/24")),))

    def _source(self, number: int) -> GeneratorPort:
        """A batch of flows to the network of the worker's SA; for inbound, sealed."""
        site = 0 if self.direction == OUTBOUND_SHARED else number
        sizes = sizes_in_turn(self.size)
        plain = [packet(sizes[i % len(sizes)], port=5000 + number * BATCH + i, site=site) for i in range(BATCH)]
        batch = PacketBatch.from_packets(plain)
        if self.direction != INBOUND_EACH:
            return GeneratorPort(batch)
        params = self._params(number)
        sealed, reasons = OutboundSa(params, engine=self.engine).seal(batch)
        if reasons.any():
            raise BenchError(f"{self.name}: packets were dropped while they were sealed")
        return GeneratorPort(sealed, inbound(params).path)

    def _install(self, plane: DataPlane) -> None:
        count = 1 if self.direction == OUTBOUND_SHARED else self.workers
        policies = []
        for params in map(self._params, range(count)):
            if self.direction == INBOUND_EACH:
                plane.install_inbound(inbound(params))
                continue
            plane.install_outbound(params)
            plane.activate_outbound(params.reqid, params.spi)
            policies.append(Policy(params.local_ts[0], params.remote_ts[0], PolicyAction.PROTECT, params.reqid))
        plane.publish_spd(policies)


def _run_on(worker: Worker, core: int) -> None:
    os.sched_setaffinity(0, {core})  # of this thread
    worker.run()


def _cores() -> list[int]:
    """One for each worker; again from the first when there are more workers than cores."""
    return sorted(os.sched_getaffinity(0)) * MAX_WORKERS


def _check_drops(name: str, plane: DataPlane) -> None:
    drops: list[dict[str, Any]] = [worker["drops"] for worker in plane.worker_stats() if worker["drops"]]
    if drops:
        raise BenchError(f"{name}: packets were dropped, the figures would mean nothing: {drops}")


def scaling(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """Behind each rate what it is of one worker's; and what it would be were the cores given to nobody else.

    The second follows from CPU time: so many times the packets that one second of CPU carries. Where it is high and the
    first is low, others had the cores; where both are low, the workers are in each other's way.
    """
    found: dict[str, Figure] = {}
    for figure in figures.values():
        found[figure.name] = figure
        *same, workers = figure.row
        single = figures["/".join((*same, "1", figure.column))]
        if figure.column == "rate":
            one = ratio(figure.row, "of one worker", figure, single)
            found[one.name] = one
        elif figure.column == "CPU":
            a_core = ratio(figure.row, "by CPU time", single, figure)
            found[a_core.name] = replace(a_core, samples=tuple(int(workers) * value for value in a_core.samples))
    return found


def requirements(engine: str, sizes: Sequence[str], workers: int) -> Iterator[Requirement]:
    if workers < 2:
        raise BenchError("--require judges two workers beside one: this machine, or --workers, gives one")
    for size in sizes:
        for direction in DIRECTIONS:
            row = f"{engine}/{direction}/{size}/2"
            yield Requirement(f"{row}/of one worker", ACCEPTED_SCALING, "two workers beside one")


@click.command()
@click.option(
    "--workers", type=click.IntRange(1, MAX_WORKERS), help="Up to so many. [default: as many as there are cores]"
)
@click.option(
    "--sizes", default="64,1400,imix", show_default=True, help="Bytes of the inner packets, as of bench stages."
)
@click.option("--engines", help="Engines to compare. [default: the fastest]")
@benchmark(rounds=15, quick_rounds=3, time_limit=300)
def command(settings: Settings, workers: int | None, sizes: str, engines: str | None) -> None:
    """Workers over memory, 1 to N: packets and bits a second, and what each more adds."""
    chosen, most = parse_sizes(sizes), workers or min(MAX_WORKERS, len(os.sched_getaffinity(0)))
    kinds = parse_engines(engines or choose_engine(), ENGINES)
    required = tuple(requirements(kinds[0], chosen, most)) if settings.require else ()
    crews = [
        Crew(engine, direction, size, count, SLICE_SECONDS)
        for engine in kinds
        for direction in DIRECTIONS
        for size in chosen
        for count in range(1, most + 1)
    ]
    outcome = settings.runner.run("memory", crews, settings.rounds)
    parameters = {"sizes": list(chosen), "engines": list(kinds), "workers": most, "slice": SLICE_SECONDS}
    finish(
        settings, "memory", figures=scaling(outcome.figures), rounds=outcome.rounds, parameters=parameters,
        row_labels=ROW_LABELS, axis="workers", notes=outcome.notes, requirements=required,
    )  # fmt: skip
