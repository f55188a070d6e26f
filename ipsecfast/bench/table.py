"""A report as a table: rows as the benchmark names them, a column a quantity, medians in the cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from ipsecfast.bench.machine import describe
from ipsecfast.bench.results import RATIO, Figure, Report

Cells = list[Figure | None]


def heads(report: Report) -> list[str]:
    """The columns, with their units, in the order in which they first appear."""
    units = {figure.column: figure.unit for figure in report.figures}
    return [column if unit in (RATIO, "") else f"{column}, {unit}" for column, unit in units.items()]


def rows(report: Report) -> Iterator[tuple[tuple[str, ...], Cells]]:
    columns = list({figure.column: None for figure in report.figures})
    found: dict[tuple[str, ...], dict[str, Figure]] = {}
    for figure in report.figures:
        found.setdefault(figure.row, {})[figure.column] = figure
    for row, cells in found.items():
        yield row, [cells.get(column) for column in columns]


def number(value: float) -> str:
    """Four digits at most that say something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.01 or not value else f"{value:.2g}"


def print_report(report: Report, console: Console) -> None:
    console.print(f"[bold]ipsecfast bench {report.benchmark}[/bold]  {report.date}", highlight=False)
    console.print(describe(report.machine), highlight=False)
    console.print(
        f"medians of {report.rounds} rounds; ± is the distance of the quartiles as a part of the median",
        highlight=False,
    )
    table = Table(show_edge=False, pad_edge=False)
    for label in report.row_labels:
        table.add_column(label, no_wrap=True)
    for head in heads(report):
        table.add_column(head, justify="right")
    for row, cells in rows(report):
        table.add_row(*row, *(_cell(figure) for figure in cells))
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    for verdict in report.verdicts:
        mark, style = ("held  ", "green") if verdict.held else ("FAILED", "bold red")
        console.print(f"{mark} {verdict.text}: {verdict.found}", style=style, highlight=False, markup=False)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    text = number(figure.median)
    return f"{text} [dim]±{figure.noise:.0%}[/dim]" if len(figure.samples) > 1 else text


def markdown(report: Report) -> str:
    """The same for a document: medians alone."""
    labels: Sequence[str] = [*report.row_labels, *heads(report)]
    lines = [_line(labels), "|" + "---|" * len(labels)]
    lines += [
        _line([*row, *("" if one is None else number(one.median) for one in cells)]) for row, cells in rows(report)
    ]
    about = f"{describe(report.machine)}; {report.date[:10]}, medians of {report.rounds} rounds."
    return "\n".join([*lines, "", about])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
