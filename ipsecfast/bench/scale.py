"""What N costs: policies, SAs and tunnels, to a hundred thousand.

Every measurement is a process of its own (`scale_child`). `compile` is the whole SPD from a numpy array, `load SAs` N
pairs of them from arrays; `insert a connection` is a pair of SAs and a policy more, in the midst, beside all that is
there. `lookup, hit` is of flows that the flow cache knows, `lookup, miss` of the snapshot for many flows in turn,
`lookup, random` of the snapshot for destinations all over it, so that memory is what it waits for. Memory of SAs and
tunnels is what the process grew by. Tunnels are Python's: a connection, its IKE SA and Child SA at one end, negotiated
with an end in the same process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from ipsecfast.bench.command import Settings, benchmark, finish
from ipsecfast.bench.results import BenchError, Better, Reading, Requirement

ROW_LABELS = ("of", "N")
POLICIES, TUNNELS = "policies", "tunnels"
UNITS = {
    "compile": "ms", "load SAs": "ms", "insert a connection": "ms", "set-up a tunnel and end": "ms",
    "bytes a policy": "bytes", "bytes a pair of SAs": "bytes", "bytes a tunnel and end": "bytes",
    "lookup, hit": "ns", "lookup, miss": "ns", "lookup, random": "ns",
}  # fmt: skip
ACCEPTED_AT = 100_000
ACCEPTED = {
    "compile": 2000, "load SAs": 1000, "insert a connection": 10, "lookup, hit": 30, "lookup, miss": 300,
    "bytes a policy": 512, "bytes a pair of SAs": 1024,
}  # fmt: skip
CHILD_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Child:
    """One size of one kind; a process each time."""

    kind: str
    n: int

    @property
    def name(self) -> str:
        return f"{self.n:,} {self.kind}"

    def measure(self) -> Iterator[Reading]:
        command = [sys.executable, "-m", "ipsecfast.bench.scale_child", self.kind, str(self.n)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=CHILD_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{self.name}: not done within {CHILD_SECONDS} s") from error
        except subprocess.CalledProcessError as error:
            raise BenchError(f"{self.name}: {error.stderr.strip()[-500:]}") from error
        for column, value in json.loads(done.stdout).items():
            yield Reading((self.kind, str(self.n)), column, UNITS[column], Better.LOWER, value)


def numbers(text: str) -> tuple[int, ...]:
    """ "1000,10000"; "" is none. Raises BenchError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if wrong := [part for part in parts if not part.isdecimal() or not 1 <= int(part) <= 100_000]:
        raise BenchError(f"{wrong[0]!r}: numbers from 1 to 100000, behind commas")
    return tuple(int(part) for part in parts)


def requirements(sizes: Sequence[int]) -> Iterator[Requirement]:
    """What is accepted at a hundred thousand, where that is measured."""
    if ACCEPTED_AT in sizes:
        for column, bound in ACCEPTED.items():
            yield Requirement(f"{POLICIES}/{ACCEPTED_AT}/{column}", bound, "accepted", at_least=False)


@click.command()
@click.option("--policies", help="Numbers of policies and of pairs of SAs. [default: 1000,10000,100000]")
@click.option("--tunnels", help="Numbers of tunnels. [default: 100,1000; quick: 100]")
@benchmark(rounds=5, quick_rounds=1, time_limit=900)
def command(settings: Settings, policies: str | None, tunnels: str | None) -> None:
    """Policies, SAs and tunnels by the hundred thousand: time and memory of each, beside what is accepted."""
    sizes = numbers("1000,10000,100000" if policies is None else policies)
    ends = numbers(("100" if settings.quick else "100,1000") if tunnels is None else tunnels)
    required = tuple(requirements(sizes))
    if settings.require and not required:
        raise BenchError(f"--require judges {ACCEPTED_AT} policies, which are not measured")
    children = [Child(POLICIES, n) for n in sizes] + [Child(TUNNELS, n) for n in ends]
    if not children:
        raise BenchError("nothing is to be measured: --policies and --tunnels are empty")
    outcome = settings.runner.run("scale", children, settings.rounds, warm_up=False)
    finish(
        settings, "scale", figures=outcome.figures, rounds=outcome.rounds,
        parameters={"policies": list(sizes), "tunnels": list(ends)}, row_labels=ROW_LABELS, axis="N",
        notes=outcome.notes, requirements=required, always_judge=True,
    )  # fmt: skip
