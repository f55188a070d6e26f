"""Instructions for each byte of TCP: ours beside Linux's own IPsec and WireGuard, each in an emulated guest.

One stream through the lab's topology, host A to host B, both gateways, sender and receiver on the guest's one CPU; all
instructions that programs and kernel execute meanwhile, and nothing of an idle time, are counted (see `counting`). So
the figures do not depend on how busy or how fast this machine is, and on the kernel only as far as the guest's differs.
They tell nothing of caches and memory. Each way has a guest of its own; a known loop is counted first, in every guest.

Emulated string instructions (rep movsb) count once a byte, where a processor moves 32 or more bytes a cycle. So all
copies in kernel and C library weigh more than they cost, in all ways alike; `--cpu max,-erms` makes both copy by words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ipsecfast.bench.command import Settings, benchmark, finish
from ipsecfast.bench.counting import is_right
from ipsecfast.bench.guest import Guest, GuestError, Kernel, default_cache, fetch_kernel, missing
from ipsecfast.bench.kernel_ways import WAYS, Ours
from ipsecfast.bench.results import BenchError, Better, Figure, Reading, Requirement, ratio
from ipsecfast.bench.runner import VariantFailed
from ipsecfast.dataplane import ENGINES

GUEST_MODULE = "ipsecfast.bench.kernel_guest"
COLUMN, OF_KERNEL = "instr/byte", "of XFRM"
CONTEXTS = ("sender", "gateway A", "gateway B", "receiver", "kernel threads")  # columns, in the same unit
READY_SECONDS, ROUND_SECONDS = 400.0, 400.0
ACCEPTED, MOST, BASE = "ours-udp", 20, "xfrm"
ROUNDS, QUICK_MEGABYTES, MEGABYTES = 5, 8, 32


class WayInGuest:
    """One way in its guest, which boots beside the others and then waits."""

    def __init__(self, name: str, kernel: Kernel, count: int, cpu: str) -> None:
        self.name, self._count, self._ready = name, count, False
        self.guest = Guest(kernel, GUEST_MODULE, name, str(count), str(kernel.folder), cpu=cpu)

    def measure(self) -> Iterator[Reading]:
        try:
            if not self._ready:
                check_loop(self._answer(READY_SECONDS))
                self._ready = True
            self.guest.ask("go")
            yield from readings(self.name, self._count, self._answer(ROUND_SECONDS))
        except GuestError as error:
            raise VariantFailed(str(error)) from error

    def _answer(self, seconds: float) -> dict[str, Any]:
        text = self.guest.answer(seconds)
        try:
            line: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise GuestError(f"the guest said: {text}") from error
        if "error" in line:
            raise GuestError(line["error"])
        return line


def check_loop(line: dict[str, Any]) -> None:
    """Raises GuestError if a loop of known instructions was not counted right."""
    expected, found = line["expected"], line["counted"]
    if not is_right(expected, found):
        raise GuestError(f"instructions can't be counted here: a loop of {expected} was counted as {found}")


def readings(name: str, count: int, line: dict[str, Any]) -> Iterator[Reading]:
    """What one measurement of `count` bytes says, in instructions a byte: in all, then by context."""
    row = (WAYS[name].title,)
    yield Reading(row, COLUMN, "", Better.LOWER, line["instructions"] / count)
    for context in CONTEXTS:
        if context in line["contexts"]:
            yield Reading(row, context, "", Better.NEITHER, line["contexts"][context] / count)


def with_ratios(figures: dict[str, Figure]) -> dict[str, Figure]:
    """Beside each way its part of the kernel's own as it comes, where that was measured."""
    found = dict(figures)
    base = figures.get(f"{WAYS[BASE].title}/{COLUMN}")
    for figure in figures.values():
        if base is not None and figure.column == COLUMN:
            share = ratio(figure.row, OF_KERNEL, figure, base, Better.LOWER)
            found[share.name] = share
    return found


def requirements() -> tuple[Requirement, ...]:
    title = WAYS[ACCEPTED].title
    return (
        Requirement(f"{title}/{COLUMN}", MOST, "instructions a byte", at_least=False),
        Requirement(f"{title}/{OF_KERNEL}", 1, "below the kernel's as it comes", at_least=False),
    )


def parse_ways(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(WAYS):
        raise BenchError(f"no way {', '.join(sorted(unknown))}; there is: {', '.join(WAYS)}")
    return names


@click.command()
@click.option("--ways", default=",".join(WAYS), show_default=True, help="Ways through the topology to compare.")
@click.option("--megabytes", type=click.IntRange(1, 1024), help=f"A round, each way. [default: {MEGABYTES}; quick: 8]")
@click.option("--cpu", default="max", show_default=True, help="The guest's processor, as qemu names it.")
@click.option(
    "--kernel-deb",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The guest's kernel, a package file. [default: the newest linux-image-*-cloud-amd64 of apt]",
)
@benchmark(rounds=ROUNDS, quick_rounds=1, time_limit=1200)
def command(settings: Settings, ways: str, megabytes: int | None, cpu: str, kernel_deb: Path | None) -> None:
    """Instructions a byte of TCP, beside Linux's own IPsec, in emulated guests (needs qemu and root)."""
    names, notes = parse_ways(ways), list[str]()
    reason = missing()
    if reason is not None:
        raise BenchError(reason)
    for name in list(names):
        way = WAYS[name]
        if isinstance(way, Ours) and way.engine not in ENGINES:
            names.remove(name)
            notes.append(f"{name} is left out: the engine {way.engine} is not built in")
    kernel = fetch_kernel(default_cache(), kernel_deb)
    amount = megabytes or (QUICK_MEGABYTES if settings.quick else MEGABYTES)
    with ExitStack() as undo:
        variants = []
        for name in names:
            variants.append(WayInGuest(name, kernel, amount << 20, cpu))
            undo.callback(variants[-1].guest.close)
        outcome = settings.runner.run("kernel", variants, settings.rounds, warm_up=False)
    about = f"Linux {kernel.release} in the guest; sender to kernel threads: whose instructions, in whose context"
    parameters = {"ways": names, "megabytes": amount, "cpu": cpu, "guest": kernel.release, "cipher": "AES-128-GCM-16"}
    finish(
        settings, "kernel", figures=with_ratios(outcome.figures), rounds=outcome.rounds, parameters=parameters,
        row_labels=("way",), notes=[about, *notes, *outcome.notes],
        requirements=requirements(),
    )  # fmt: skip
