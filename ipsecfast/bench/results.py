"""What a benchmark hands back: figures with every sample of them, and the JSON file that holds them.

A figure is one cell of a table: `row` says of what (engine, size, ...), `column` of which quantity. Its samples are one
a round, in the rounds' order, so that two figures of one report give a ratio round by round.

The JSON file is one object:

    schema      "ipsecfast-bench/1"
    benchmark   the command that made it: "stages", "memory", "tunnel", "scale"
    date        when it began, ISO 8601, UTC
    seconds     how long it took
    rounds      how many rounds each figure has samples of
    machine     what figures depend on: cpu, cores, kernel, versions, commit (see `machine`)
    parameters  what was asked for: sizes, engines, seconds of a measurement, ...
    row_labels  what the parts of a figure's row are called
    axis        the one of row_labels that a picture draws along the x axis, or ""
    figures     list of {row: [text], column, unit, better: "lower" | "higher" | "neither", samples: [number],
                and for readers of the file median, minimum, maximum, noise}
    verdicts    list of {text, held, found}: what was required
    notes       what was left out and why, and what was counted how
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ipsecfast.errors import IpsecError

SCHEMA = "ipsecfast-bench/1"
RATIO = "ratio"


class BenchError(IpsecError):
    """A benchmark can't run, or a file of results can't be read."""


class Better(StrEnum):
    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one round."""

    row: tuple[str, ...]
    column: str
    unit: str
    better: Better
    value: float

    @property
    def name(self) -> str:
        return figure_name(self.row, self.column)


@dataclass(frozen=True, slots=True)
class Figure:
    """All samples of one cell. `noise` is the distance of the quartiles, as a part of the median."""

    row: tuple[str, ...]
    column: str
    unit: str
    better: Better
    samples: tuple[float, ...]

    @property
    def name(self) -> str:
        return figure_name(self.row, self.column)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def minimum(self) -> float:
        return min(self.samples)

    @property
    def maximum(self) -> float:
        return max(self.samples)

    @property
    def noise(self) -> float:
        if len(self.samples) < 2 or not self.median:
            return 0.0
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return (third - first) / abs(self.median)


def figure_name(row: Sequence[str], column: str) -> str:
    return "/".join((*row, column))


def gather(rounds: Iterable[Iterable[Reading]]) -> dict[str, Figure]:
    """The figures of complete rounds by name, in the order of their first reading."""
    samples: dict[str, list[float]] = {}
    first: dict[str, Reading] = {}
    for readings in rounds:
        for one in readings:
            first.setdefault(one.name, one)
            samples.setdefault(one.name, []).append(one.value)
    return {
        name: Figure(one.row, one.column, one.unit, one.better, tuple(samples[name])) for name, one in first.items()
    }


def ratio(row: Sequence[str], column: str, over: Figure, under: Figure, better: Better = Better.HIGHER) -> Figure:
    """The quotient of two figures, round by round; rounds without a divisor give 0."""
    if len(over.samples) != len(under.samples):
        raise ValueError(f"{over.name} and {under.name} are not of the same rounds")
    pairs = zip(over.samples, under.samples, strict=True)
    return Figure(tuple(row), column, RATIO, better, tuple(a / b if b else 0.0 for a, b in pairs))


@dataclass(frozen=True, slots=True)
class Requirement:
    """What is accepted: the median of a figure on the right side of a bound."""

    figure: str
    bound: float
    why: str
    at_least: bool = True

    def judge(self, figures: Mapping[str, Figure]) -> Verdict:
        sign = ">=" if self.at_least else "<="
        text = f"{self.why}: {self.figure} {sign} {self.bound:g}"
        figure = figures.get(self.figure)
        if figure is None:
            return Verdict(text, False, "not measured")
        found = figure.median
        held = found >= self.bound if self.at_least else found <= self.bound
        unit = "" if figure.unit == RATIO else f" {figure.unit}"
        return Verdict(text, held, f"{found:.4g}{unit}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a requirement held, and what was found."""

    text: str
    held: bool
    found: str


@dataclass(frozen=True, slots=True)
class Report:
    """One run of one benchmark."""

    benchmark: str
    date: str
    seconds: float
    rounds: int
    machine: Mapping[str, str | int]
    parameters: Mapping[str, Any]
    row_labels: tuple[str, ...]
    axis: str
    figures: tuple[Figure, ...]
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()

    def by_name(self) -> dict[str, Figure]:
        return {figure.name: figure for figure in self.figures}

    def to_json(self) -> str:
        own = {name: getattr(self, name) for name in _PLAIN}
        lists = {
            "row_labels": list(self.row_labels),
            "figures": [_figure_entry(figure) for figure in self.figures],
            "verdicts": [{"text": one.text, "held": one.held, "found": one.found} for one in self.verdicts],
            "notes": list(self.notes),
        }
        return json.dumps({"schema": SCHEMA, **own, **lists}, indent=1)

    @staticmethod
    def from_json(text: str) -> Report:
        """Raises BenchError with what is wrong with it."""
        try:
            entry = json.loads(text)
            if not isinstance(entry, dict) or entry.get("schema") != SCHEMA:
                raise BenchError(f"not a report of this version: no schema {SCHEMA!r}")
            return _report(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise BenchError(f"not a report: {type(error).__name__}: {error}") from error


def derived_rows(report: Report) -> set[tuple[str, ...]]:
    """Rows with nothing but ratios: they follow from others."""
    return {figure.row for figure in report.figures} - {figure.row for figure in report.figures if figure.unit != RATIO}


_PLAIN = ("benchmark", "date", "seconds", "rounds", "machine", "parameters", "axis")


def _figure_entry(figure: Figure) -> dict[str, Any]:
    return {
        "row": list(figure.row),
        "column": figure.column,
        "unit": figure.unit,
        "better": figure.better.value,
        "median": figure.median,
        "minimum": figure.minimum,
        "maximum": figure.maximum,
        "noise": round(figure.noise, 4),
        "samples": list(figure.samples),
    }


def _figure(entry: Mapping[str, Any]) -> Figure:
    samples = tuple(float(value) for value in entry["samples"])
    if not samples:
        raise ValueError("a figure without samples")
    row = tuple(str(part) for part in entry["row"])
    return Figure(row, str(entry["column"]), str(entry["unit"]), Better(entry["better"]), samples)


def _report(entry: Mapping[str, Any]) -> Report:
    return Report(
        **{name: entry[name] for name in _PLAIN},
        row_labels=tuple(entry["row_labels"]),
        figures=tuple(_figure(one) for one in entry["figures"]),
        verdicts=tuple(Verdict(one["text"], one["held"], one["found"]) for one in entry["verdicts"]),
        notes=tuple(entry["notes"]),
    )


def read_report(file: str) -> Report:
    """Raises BenchError, which names the file."""
    try:
        return Report.from_json(Path(file).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{file}: {error}") from error
    except BenchError as error:
        raise BenchError(f"{file}: {error}") from error
