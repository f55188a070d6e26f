"""Runs families over all cores and says how many schedules held; or one schedule again, with its transcript."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from simulation import Link

from schedules import FAMILIES, Schedule, run_schedule
from schedules.meshes import converge_twice

CHUNK = 20
WHOLE_MESH = 50
SHOWN = 5  # failing seeds of a family that are named


def run_chunk(work: tuple[str, range]) -> tuple[str, int, list[tuple[int, str]], float]:
    """(family, schedules run, failing seeds with the first line of why, seconds of CPU)."""
    name, seeds = work
    failures = []
    gc.disable()  # the networks of a chunk go together
    began = time.process_time()
    for seed in seeds:
        try:
            run_schedule(name, seed)
        except Exception as error:  # whatever is raised belongs to the seed that did it
            failures.append((seed, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"))
    spent = time.process_time() - began
    gc.collect()
    return name, len(seeds), failures, spent


def chunks(names: Sequence[str], first: int, count: int) -> Iterator[tuple[str, range]]:
    """The families take turns, so that an interrupted run has seen something of each."""
    for start in range(first, first + count, CHUNK):
        for name in names:
            yield name, range(start, min(start + CHUNK, first + count))


def run_many(names: Sequence[str], first: int, count: int, workers: int) -> int:
    """The exit status: 1 when a schedule failed."""
    done: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    failed: dict[str, list[tuple[int, str]]] = {}
    began = time.monotonic()
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for name, number, failures, seconds in pool.imap_unordered(run_chunk, chunks(names, first, count)):
            done[name] += number
            spent[name] += seconds
            for seed, why in failures:
                failed.setdefault(name, []).append((seed, why))
                print(f"failed: ci/schedules --family {name} --seed {seed}    {why}", flush=True)
            if sys.stderr.isatty():
                print(f"\r{done.total()} of {count * len(names)} schedules", end="", file=sys.stderr)
            elif done.total() % 1000 < number:
                print(f"{done.total()} of {count * len(names)} schedules, {time.monotonic() - began:.0f} s", flush=True)
    for name in names:
        bad = failed.get(name, [])
        each = 1000 * spent[name] / max(1, done[name])
        print(f"{name:28} {done[name]:7} schedules  {len(bad):4} failed  {each:6.0f} ms each")
    total = sum(map(len, failed.values()))
    print(f"{done.total()} schedules, {total} failed, in {time.monotonic() - began:.0f} s")
    return 1 if total else 0


def run_mesh(size: int, seed: int) -> int:
    """The whole mesh: too slow for a family, and one of it is enough."""
    print(f"a mesh of {size} gateways, {size * (size - 1) // 2} tunnels, 10 % loss", flush=True)

    def tell(what: str, seconds: float) -> None:
        print(f"converged without duplicates {what}: {seconds:.0f} s of virtual time", flush=True)

    began = time.process_time()
    try:
        mesh = converge_twice(Schedule("mesh", seed), size, Link(loss=0.1, jitter=0.05, duplicate=0.02), tell)
    except AssertionError as error:
        print(f"failed: ci/schedules --mesh {size} --seed {seed}    {str(error).partition(chr(10))[0]}")
        return 1
    print(f"{mesh.steps} steps, {time.process_time() - began:.0f} s of CPU")
    return 0


def run_one(name: str, seed: int) -> int:
    """Its transcript, whether it holds or not."""
    try:
        network = run_schedule(name, seed)
    except AssertionError as error:
        print(error)
        return 1
    print(network.text())
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="ci/schedules", description=__doc__)
    parser.add_argument("--family", action="append", choices=sorted(FAMILIES), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, help="this schedule alone, with its transcript")
    parser.add_argument("--seeds", type=int, default=1000, help="how many of each family")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--mesh", type=int, default=0, help="only a mesh of so many gateways")
    options = parser.parse_args()
    if options.mesh:
        sys.exit(run_mesh(options.mesh, options.seed or 1))
    names = options.family or list(FAMILIES)
    if options.seed is not None:
        if len(names) != 1:
            parser.error("--seed needs one --family")
        sys.exit(run_one(names[0], options.seed))
    status = run_many(names, options.first, options.seeds, options.workers)
    sys.exit(status if options.family else status | run_mesh(WHOLE_MESH, options.first or 1))
