"""Variants measured one after the other, round by round, so that a slow moment of the machine meets all of them.

The order changes from round to round: nobody is always measured behind the same neighbour. A round counts when every
variant has measured; a variant that fails is left out of the whole run with its reason. Time is bounded: another round
begins only if it will end in time, judged by the longest one so far, and the first one always does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ipsecfast.bench.results import BenchError, Figure, Reading, gather


class VariantFailed(Exception):
    """This variant can't go on; the text says why. The others can."""


class Variant(Protocol):
    """One thing that is measured beside others."""

    @property
    def name(self) -> str: ...

    def measure(self) -> Iterable[Reading]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: figures by name, all of the same rounds, and why some of what was asked is missing."""

    figures: dict[str, Figure]
    rounds: int
    notes: tuple[str, ...]


@dataclass(slots=True)
class Runner:
    """`time_limit` is in seconds, from construction to the last round's end, and holds for all runs of it together."""

    time_limit: float
    console: Console
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def elapsed(self) -> float:
        return self.clock() - self._began

    def run(
        self,
        what: str,
        variants: Sequence[Variant],
        rounds: int,
        *,
        warm_up: bool = True,
        parts: int = 1,
    ) -> Outcome:
        """Takes a `parts`-th of the time that is left at most. Raises BenchError if no variant is left."""
        end = self.elapsed + max(0.0, self.time_limit - self.elapsed) / parts
        alive, notes = list(variants), list[str]()
        kept: list[dict[str, list[Reading]]] = []
        longest = 0.0
        with self._progress() as progress:
            task = progress.add_task(what, total=(rounds + warm_up) * len(variants))
            for number in range(rounds + warm_up):
                if kept and self.elapsed + longest > end:
                    notes.append(f"{what}: its time was over after {len(kept)} of {rounds} rounds")
                    break
                before = self.clock()
                readings = self._round(alive, number, notes, lambda name: progress.update(task, description=name))
                longest = max(longest, self.clock() - before)
                progress.update(task, completed=(number + 1) * len(variants), description=what)
                if number or not warm_up:
                    kept.append(readings)
        names = {variant.name for variant in alive}
        complete = [[one for name in entry if name in names for one in entry[name]] for entry in kept]
        return Outcome(_in_order(gather(complete), alive, kept), len(kept), tuple(notes))

    def _round(
        self, alive: list[Variant], number: int, notes: list[str], say: Callable[[str], None]
    ) -> dict[str, list[Reading]]:
        readings: dict[str, list[Reading]] = {}
        start = number % len(alive)
        for variant in alive[start:] + alive[:start]:
            say(variant.name)
            try:
                readings[variant.name] = list(variant.measure())
            except VariantFailed as error:
                notes.append(f"{variant.name} is left out: {error}")
                alive.remove(variant)
        if not alive:
            raise BenchError("nothing could be measured: " + "; ".join(notes))
        return readings

    def _progress(self) -> Progress:
        columns = (
            TextColumn("{task.description:36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(),
        )  # fmt: skip
        return Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)


def _in_order(
    figures: dict[str, Figure], variants: Iterable[Variant], rounds: Sequence[dict[str, list[Reading]]]
) -> dict[str, Figure]:
    """By the order of the variants, not by that of the first round."""
    names = [one.name for variant in variants for one in rounds[0][variant.name]] if rounds else []
    return {name: figures[name] for name in names}
