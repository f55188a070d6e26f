"""1 to N workers at full speed, without a kernel's ports: what more cores give.

Every worker has a source of packets in memory on one side and a sink on the other, and a core of its own. `outbound` is
everything from an IP packet to an ESP datagram; with `an SA each` the workers share nothing but the SPD, with `one SA`
they share its sequence numbers. `one tunnel, an SA a worker` is both directions at once, as per-resource Child SAs (RFC
9611) have it: one policy, and of that tunnel each worker seals by its own SA and opens what came for its own. `inbound`
opens packets that were sealed before, each worker those of the SA that it
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
from ipsecfast.bench.workload import (
    BATCH,
    answer_to,
    inbound,
    packet,
    parse_engines,
    parse_sizes,
    sa_params,
    sizes_in_turn,
)
from ipsecfast.dataplane import ENGINES, DataPlane, GeneratorPort, OutboundSa, PacketBatch, Worker, choose_engine
from ipsecfast.model import Policy, PolicyAction, SaParams, TrafficSelector

ROW_LABELS = ("engine", "direction", "bytes", "workers")
OUTBOUND_EACH, OUTBOUND_SHARED, INBOUND_EACH = "outbound, an SA each", "outbound, one SA", "inbound, an SA each"
BOTH_OWN = "one tunnel, an SA a worker"
DIRECTIONS = (OUTBOUND_EACH, OUTBOUND_SHARED, INBOUND_EACH, BOTH_OWN)
FALLBACK_SPI = 0xFFFF_0001
OWNER_SHIFT = 20  # the bits of an SPI that say its owner (csrc/steer.h): SA k belongs to worker k
FIRST_SLOT = 0x1001  # the bits below say its place in the SAD: one of its own for each SA, as IKE gives them
ENDLESS = 1 << 40  # packets: more than any slice takes
WARM_UP_SECONDS, SLICE_SECONDS = 0.02, 0.15
MAX_WORKERS = 8
ACCEPTED_SCALING = 1.8
ACCEPTED_TUNNEL_SCALING = 1.6  # of one tunnel, both directions


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
        plane = DataPlane(engine=self.engine)
        pairs = [self._ports(number) for number in range(self.workers)]
        crew = [plane.add_worker(f"w{number}", inner, [outer]) for number, (inner, outer) in enumerate(pairs)]
        self._install(plane)
        threads = [
            threading.Thread(target=_run_on, args=(worker, core)) for worker, core in zip(crew, _cores(), strict=False)
        ]
        try:
            for thread, (inner, outer) in zip(threads, pairs, strict=True):
                for source in (inner,) * self._seals + (outer,) * self._opens:
                    source.grant(ENDLESS)
                thread.start()
            time.sleep(WARM_UP_SECONDS)
            before = self._now(plane, pairs)
            time.sleep(self.seconds)
            after = self._now(plane, pairs)
            _check_drops(self.name, plane)
        finally:
            plane.close()
            for thread in threads:
                thread.join()
        packets = after[0] - before[0]
        mean = sum(sizes_in_turn(self.size)) / len(sizes_in_turn(self.size))
        return packets, packets * mean, after[1] - before[1], after[2] - before[2]

    @staticmethod
    def _now(plane: DataPlane, pairs: Sequence[tuple[GeneratorPort, GeneratorPort]]) -> tuple[int, float, float]:
        return (
            sum(port.counts["sent"] for pair in pairs for port in pair),
            sum(worker["cpu"] for worker in plane.worker_stats()),
            time.perf_counter(),
        )

    @property
    def _seals(self) -> bool:
        return self.direction != INBOUND_EACH

    @property
    def _opens(self) -> bool:
        return self.direction in (INBOUND_EACH, BOTH_OWN)

    def _params(self, number: int, *, back: bool = False) -> SaParams:
        """The SA by which worker `number` seals; `back`: the one by which the peer sealed what comes to it."""
        spi = number << OWNER_SHIFT | (FIRST_SLOT + number)
        if self.direction == BOTH_OWN:
            params = sa_params(0 if back else 2048, spi=spi)
            ends = replace(params, local_ts=params.remote_ts, remote_ts=params.local_ts) if back else params
            return replace(ends, resource=0 if back else number + 1)
        params = sa_params(0 if back else 2048, spi=spi, reqid=number + 1)
        if self.direction == OUTBOUND_SHARED:
            return params
        return replace(params, remote_ts=(TrafficSelector.from_network(ip_network(f"10.2.{number}.0/24")),))

    def _ports(self, number: int) -> tuple[GeneratorPort, GeneratorPort]:
        """Inner and outer port of a worker."""
        inner = GeneratorPort(self._packets(number)) if self._seals else GeneratorPort()
        if not self._opens:
            return inner, GeneratorPort()
        params = self._params(number, back=True)
        sealed, reasons = OutboundSa(params, engine=self.engine).seal(self._packets(number, back=True))
        if reasons.any():
            raise BenchError(f"{self.name}: packets were dropped while they were sealed")
        return inner, GeneratorPort(sealed, inbound(params).path)

    def _packets(self, number: int, *, back: bool = False) -> PacketBatch:
        """A batch of flows to the network of the worker's SA; `back`: of one tunnel, what its peer sends."""
        site = number if self.direction in (OUTBOUND_EACH, INBOUND_EACH) else 0
        sizes = sizes_in_turn(self.size)
        plain = [packet(sizes[i % len(sizes)], port=5000 + number * BATCH + i, site=site) for i in range(BATCH)]
        if back and self.direction == BOTH_OWN:
            plain = [answer_to(one) for one in plain]
        return PacketBatch.from_packets(plain)

    def _install(self, plane: DataPlane) -> None:
        crew = range(1 if self.direction == OUTBOUND_SHARED else self.workers)
        if self._opens:
            for number in crew:
                plane.install_inbound(inbound(self._params(number, back=True)))
        if not self._seals:
            return
        sas = [self._params(number) for number in crew]
        if self.direction == BOTH_OWN:  # with the one that all may use, and that nobody needs (RFC 9611)
            sas.append(replace(sas[0], spi=FALLBACK_SPI, resource=0, resources=self.workers))
        for params in sas:
            plane.install_outbound(params)
            plane.activate_outbound(params.reqid, params.spi)
        pairs = dict.fromkeys((params.local_ts[0], params.remote_ts[0], params.reqid) for params in sas)
        plane.publish_spd([Policy(local, remote, PolicyAction.PROTECT, reqid) for local, remote, reqid in pairs])


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
            accepted = ACCEPTED_TUNNEL_SCALING if direction == BOTH_OWN else ACCEPTED_SCALING
            yield Requirement(f"{row}/of one worker", accepted, "two workers beside one")


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
