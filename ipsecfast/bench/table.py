"""A report as a table: what was measured, then the ratios of it; medians in the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ipsecfast.bench.machine import describe
from ipsecfast.bench.results import RATIO, Figure, Report, derived_rows, figure_name

Cells = list[Figure | None]


@dataclass(frozen=True, slots=True)
class Block:
    """A table: what stands at the head of each column, and its rows, whose first cells are names."""

    heads: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], Cells], ...]


def blocks(report: Report) -> list[Block]:
    """The rows that are measured, then those that are nothing but ratios of them."""
    by_row: dict[tuple[str, ...], list[Figure]] = {}
    for figure in report.figures:
        by_row.setdefault(figure.row, []).append(figure)
    derived = derived_rows(report)
    parts = ([by_row[row] for row in by_row if (row in derived) is ratios] for ratios in (False, True))
    return [_block(report.row_labels, part) for part in parts if part]


def _block(labels: tuple[str, ...], part: Sequence[Sequence[Figure]]) -> Block:
    """A row a subject, or, where that would be wider than long, a row a quantity."""
    units = {figure.column: figure.unit for figures in part for figure in figures}
    names = {column: column if unit in (RATIO, "") else f"{column}, {unit}" for column, unit in units.items()}
    cells = {figure.name: figure for figures in part for figure in figures}
    rows = [figures[0].row for figures in part]
    if len(names) > len(rows):
        heads = ("", *(" ".join(row) for row in rows))
        turned = [((name,), [cells.get(figure_name(row, column)) for row in rows]) for column, name in names.items()]
        return Block(heads, tuple(turned))
    straight = [(row, [cells.get(figure_name(row, column)) for column in names]) for row in rows]
    return Block((*labels, *names.values()), tuple(straight))


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
    for block in blocks(report):
        console.print(_table(block))
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    for verdict in report.verdicts:
        mark, style = ("held  ", "green") if verdict.held else ("FAILED", "bold red")
        console.print(f"{mark} {verdict.text}: {verdict.found}", style=style, highlight=False, markup=False)


def _table(block: Block) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    names = len(block.rows[0][0])
    for index, head in enumerate(block.heads):
        table.add_column(head, no_wrap=index < names, justify="left" if index < names else "right")
    for row, cells in block.rows:
        table.add_row(*row, *(_cell(figure) for figure in cells))
    return table


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    text = number(figure.median)
    return f"{text} [dim]±{figure.noise:.0%}[/dim]" if len(figure.samples) > 1 else text


def markdown(report: Report) -> str:
    """The same for a document: medians alone."""
    lines: list[str] = []
    for block in blocks(report):
        lines += [_line(block.heads), "|" + "---|" * len(block.heads)]
        for row, cells in block.rows:
            lines.append(_line([*row, *("" if one is None else number(one.median) for one in cells)]))
        lines.append("")
    about = f"{describe(report.machine)}; {report.date[:10]}, medians of {report.rounds} rounds."
    return "\n".join([*lines, about])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
