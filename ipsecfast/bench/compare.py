"""A report against an older one: which figures became worse by more than their noise.

Figures are paired by name. One is a regression when its median is worse by more than the greatest of 5 %, the noise of
the old and the noise of the new (noise: the distance of the quartiles as a part of the median). Between different
processors only ratios are judged, for nothing else says anything there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ipsecfast.bench.results import RATIO, BenchError, Better, Figure, Report
from ipsecfast.bench.table import number

TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both reports. `gain` is the change as a part of the old, above 0 when it is better."""

    old: Figure
    new: Figure

    @property
    def gain(self) -> float:
        if not self.old.median:
            return 0.0
        change = self.new.median / self.old.median - 1
        return -change if self.old.better is Better.LOWER else change

    @property
    def bound(self) -> float:
        return max(TOLERANCE, self.old.noise, self.new.noise)

    @property
    def is_regression(self) -> bool:
        return self.old.better is not Better.NEITHER and self.gain < -self.bound

    @property
    def is_improvement(self) -> bool:
        return self.old.better is not Better.NEITHER and self.gain > self.bound


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs that can be judged, and what stands in one report only."""

    changes: tuple[Change, ...]
    unpaired: tuple[str, ...]
    same_processor: bool

    @property
    def regressions(self) -> list[Change]:
        return [change for change in self.changes if change.is_regression]


def compare(old: Report, new: Report, *, ratios_only: bool = False) -> Comparison:
    """Raises BenchError for reports that say nothing about each other."""
    if old.benchmark != new.benchmark:
        raise BenchError(f"one is of bench {old.benchmark}, the other of bench {new.benchmark}")
    before, after = old.by_name(), new.by_name()
    same = old.machine.get("cpu") == new.machine.get("cpu")
    pairs = [Change(before[name], after[name]) for name in before if name in after]
    if wrong := [
        pair.old.name for pair in pairs if (pair.old.unit, pair.old.better) != (pair.new.unit, pair.new.better)
    ]:
        raise BenchError(f"not in the same unit: {', '.join(wrong)}")
    judged = [pair for pair in pairs if pair.old.unit == RATIO or (same and not ratios_only)]
    if not judged:
        raise BenchError("no ratio stands in both" if pairs else "no figure stands in both")
    return Comparison(tuple(judged), tuple(sorted(before.keys() ^ after.keys())), same)


def print_comparison(comparison: Comparison, console: Console) -> None:
    table = Table(show_edge=False, pad_edge=False)
    for head in ("figure", "old", "± old", "new", "± new", "better by", "beyond noise"):
        table.add_column(head, justify="left" if head == "figure" else "right")
    for change in sorted(comparison.changes, key=lambda one: one.gain):
        style, word = _judgement(change)
        table.add_row(change.old.name, *_cells(change), word, style=style)
    console.print(table)
    if not comparison.same_processor:
        console.print("different processors: only ratios are compared", style="yellow")
    if comparison.unpaired:
        _list(console, "in one report only", comparison.unpaired)
    worse = comparison.regressions
    console.print(f"{len(worse)} of {len(comparison.changes)} figures are worse beyond noise", highlight=False)


def _cells(change: Change) -> tuple[str, ...]:
    old, new = change.old, change.new
    return number(old.median), f"{old.noise:.0%}", number(new.median), f"{new.noise:.0%}", f"{change.gain:+.1%}"


def _judgement(change: Change) -> tuple[str, str]:
    if change.is_regression:
        return "bold red", "worse"
    return ("green", "better") if change.is_improvement else ("", "")


def _list(console: Console, what: str, names: Sequence[str]) -> None:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    console.print(f"{what}: {shown}", style="dim", highlight=False)
