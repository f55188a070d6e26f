"""Reports made by hand."""

from __future__ import annotations

from collections.abc import Iterable

from ipsecfast.bench.results import Better, Figure, Report

MACHINE = {"cpu": "Example 9000", "cores": 2, "kernel": "6.1.0", "python": "3.11.2", "openssl": "OpenSSL 3.0.19",
           "ipsec-mb": "1.3.0", "ipsecfast": "0.1.0", "commit": "0123456789ab"}  # fmt: skip


def figure(
    *row: str,
    samples: Iterable[float],
    column: str = "time",
    unit: str = "ns",
    better: Better = Better.LOWER,
) -> Figure:
    return Figure(row, column, unit, better, tuple(float(sample) for sample in samples))


def report(*figures: Figure, benchmark: str = "stages", cpu: str = "Example 9000", axis: str = "") -> Report:
    labels = ("what", "bytes", "stage")[: len(figures[0].row)] if figures else ("what",)
    return Report(
        benchmark=benchmark, date="2026-01-02T03:04:05+00:00", seconds=1.5,
        rounds=len(figures[0].samples) if figures else 0, machine={**MACHINE, "cpu": cpu}, parameters={"batch": 64},
        row_labels=labels, axis=axis, figures=figures,
    )  # fmt: skip
