"""A report as a picture: a panel a quantity, lines along the report's axis or bars, with the range of the samples.

Rows that are nothing but ratios of others are left to the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipsecfast.bench.machine import describe
from ipsecfast.bench.results import BenchError, Figure, Report, derived_rows

SUFFIXES = (".png", ".svg")
PANEL = (5.2, 3.4)  # inches
MAX_COLUMNS = 3
INSTALL = "a picture needs matplotlib: pip install 'ipsecfast[bench]'"


def check_picture(file: str) -> None:
    """Raises BenchError, before anything is measured, if the picture could not be drawn afterwards."""
    if Path(file).suffix not in SUFFIXES:
        raise BenchError(f"{file}: a picture ends in {' or '.join(SUFFIXES)}")
    _pyplot()


def draw(report: Report, file: str) -> None:
    check_picture(file)
    pyplot = _pyplot()
    drawn = [figure for figure in report.figures if figure.row not in derived_rows(report)] or report.figures
    columns = list(dict.fromkeys((figure.column, figure.unit) for figure in drawn))
    colours = _colours(pyplot, report, drawn)
    wide = min(MAX_COLUMNS, len(columns))
    high = -(-len(columns) // wide)
    canvas, axes = pyplot.subplots(high, wide, figsize=(PANEL[0] * wide, PANEL[1] * high + 0.6), squeeze=False,
                                   layout="constrained")  # fmt: skip
    panels = [panel for line in axes for panel in line]
    for panel, (column, unit) in zip(panels, columns, strict=False):
        figures = [figure for figure in drawn if (figure.column, figure.unit) == (column, unit)]
        panel.set_title(f"{column}, {unit}" if unit else column, fontsize=10)
        if report.axis:
            _lines(panel, report, figures, colours)
        else:
            _bars(panel, figures)
        panel.grid(alpha=0.3)
    for panel in panels[len(columns) :]:
        panel.set_visible(False)
    _legend(canvas, pyplot, colours)
    canvas.suptitle(f"ipsecfast bench {report.benchmark}\n{describe(report.machine)}", fontsize=8)
    try:
        canvas.savefig(file, dpi=120)
    except OSError as error:
        raise BenchError(f"{file}: {error}") from error
    finally:
        pyplot.close(canvas)


def _lines(panel: Any, report: Report, figures: Sequence[Figure], colours: Mapping[tuple[str, ...], Any]) -> None:
    """One line for all rows that differ along the axis only; what is no number there (IMIX) stands at its end."""
    at = report.row_labels.index(report.axis)
    places = list(dict.fromkeys(figure.row[at] for figure in figures))
    groups: dict[tuple[str, ...], list[Figure]] = {}
    for figure in figures:
        groups.setdefault(_rest(report, figure), []).append(figure)
    for rest, group in groups.items():
        x = [places.index(figure.row[at]) for figure in group]
        y = [one.median for one in group]
        panel.errorbar(x, y, yerr=_ranges(group), marker="o", markersize=3, capsize=2, color=colours[rest])
    panel.set_xticks(range(len(places)), places, fontsize=8)
    panel.set_xlabel(report.axis, fontsize=8)
    panel.set_ylim(bottom=0)


def _rest(report: Report, figure: Figure) -> tuple[str, ...]:
    """The row without its place on the axis: what one line stands for."""
    at = report.row_labels.index(report.axis)
    return figure.row[:at] + figure.row[at + 1 :]


def _colours(pyplot: Any, report: Report, drawn: Sequence[Figure]) -> dict[tuple[str, ...], Any]:
    """One colour a line, the same in every panel."""
    lines = list(dict.fromkeys(_rest(report, figure) for figure in drawn)) if report.axis else []
    palette = pyplot.get_cmap("tab20").colors
    return {rest: palette[index % len(palette)] for index, rest in enumerate(lines)}


def _legend(canvas: Any, pyplot: Any, colours: Mapping[tuple[str, ...], Any]) -> None:
    handles = [pyplot.Line2D([], [], color=colour, label=" ".join(rest)) for rest, colour in colours.items() if rest]
    if handles:
        canvas.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=7)


def _bars(panel: Any, figures: Sequence[Figure]) -> None:
    names = [" ".join(figure.row) for figure in figures]
    colours = ["tab:blue" if name.startswith("ours") else "silver" for name in names]
    panel.barh(names, [figure.median for figure in figures], xerr=_ranges(figures), capsize=2, color=colours)
    panel.invert_yaxis()
    panel.tick_params(axis="y", labelsize=7)


def _ranges(figures: Sequence[Figure]) -> list[list[float]]:
    return [
        [figure.median - figure.minimum for figure in figures],
        [figure.maximum - figure.median for figure in figures],
    ]


def _pyplot() -> Any:
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        raise BenchError(INSTALL) from error
    matplotlib.use("Agg")  # no display is needed
    return importlib.import_module("matplotlib.pyplot")
