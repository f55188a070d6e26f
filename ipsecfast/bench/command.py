"""`ipsecfast bench`: the group, the options that every benchmark has, and what is done with a report.

A benchmark is a module of this package whose `command` is a click command; its line in COMMANDS makes it known. Modules
are imported when they are asked for, so that the command line stays quick.
"""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from ipsecfast.bench.results import BenchError, Figure, Report, Requirement, read_report
from ipsecfast.bench.runner import Runner

COMMANDS = ("stages", "memory", "scale", "tunnel", "ike", "kernel")  # each a module here
QUICK_ROUNDS = 5
INCOMPARABLE = 2
FILE_WIDTH = 140


class Group(click.Group):
    """The commands written here, and those of the benchmarks' modules."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*COMMANDS, *super().list_commands(context)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return super().get_command(context, name)
        command: click.Command = importlib.import_module(f"ipsecfast.bench.{name}").command
        return command


@click.group(cls=Group)
def bench() -> None:
    """Measure: each stage of the packet path, workers, whole tunnels beside their rivals, and large numbers of SAs."""


@dataclass(slots=True)
class Settings:
    """What every benchmark is told. `rounds` and `time_limit` (seconds) are already those of --quick, if asked for."""

    rounds: int
    time_limit: float
    quick: bool
    require: bool
    json: str | None
    picture: str | None
    console: Console
    runner: Runner = field(init=False)
    date: str = field(init=False)
    machine: Mapping[str, str | int] = field(init=False)  # as it was before a benchmark took one core of it

    def __post_init__(self) -> None:
        from ipsecfast.bench.machine import machine

        self.machine = machine()
        self.runner = Runner(self.time_limit, self.console, time.monotonic)
        self.date = datetime.now(UTC).isoformat(timespec="seconds")


def benchmark(
    *, rounds: int, quick_rounds: int = QUICK_ROUNDS, time_limit: float
) -> Callable[[Callable[..., None]], Any]:
    """Makes `f(settings, **its own options)` a command's function: adds the shared options, turns errors into text."""
    shared = (
        click.option("--rounds", type=click.IntRange(1, 10_000),
                     help=f"Rounds. [default: {rounds}; quick: {quick_rounds}]"),
        click.option("--time-limit", type=click.FloatRange(1), default=time_limit, show_default=True,
                     help="Seconds after which no round begins."),
        click.option("--quick", is_flag=True, help="A short run, to see that it works."),
        click.option("--require", is_flag=True, help="Judge what is accepted; exit status 1 if it does not hold."),
        click.option("--json", metavar="FILE", help='Write every sample here ("-": standard output, no table).'),
        click.option("--picture", metavar="FILE", help="Draw the figures: .png or .svg (needs ipsecfast[bench])."),
    )  # fmt: skip

    def decorate(function: Callable[..., None]) -> Any:
        @wraps(function)
        def wrapped(
            rounds: int | None,
            time_limit: float,
            quick: bool,
            require: bool,
            json: str | None,
            picture: str | None,
            **own: Any,
        ) -> None:
            console = Console(stderr=True, highlight=False)
            chosen = rounds or (quick_rounds if quick else default)
            with errors_as_text():
                if picture is not None:
                    _check_picture(picture)
                function(Settings(chosen, time_limit, quick, require, json, picture, console), **own)

        default = rounds
        command: Callable[..., None] = wrapped
        for option in reversed(shared):
            command = option(command)
        return command

    return decorate


@contextmanager
def errors_as_text() -> Iterator[None]:
    """A BenchError ends the program with its sentence and status 1."""
    try:
        yield
    except BenchError as error:
        fail(str(error))


def output_console() -> Console:
    """Standard output; wide enough for tables where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=FILE_WIDTH)


def fail(message: str, code: int = 1) -> NoReturn:
    click.echo(f"ipsecfast bench: {message}", err=True)
    sys.exit(code)


def finish(
    settings: Settings,
    benchmark: str,
    *,
    figures: Mapping[str, Figure],
    rounds: int,
    parameters: Mapping[str, Any],
    row_labels: Sequence[str],
    axis: str = "",
    notes: Sequence[str] = (),
    requirements: Sequence[Requirement] = (),
    always_judge: bool = False,
) -> None:
    """Makes the report, shows and writes it; ends the program with 1 if --require was given and something did not hold.

    `always_judge`: the verdicts stand in the report without --require too.
    """
    from ipsecfast.bench.table import print_report

    judged = requirements if settings.require or always_judge else ()
    verdicts = [requirement.judge(figures) for requirement in judged]
    report = Report(
        benchmark=benchmark,
        date=settings.date,
        seconds=round(settings.runner.elapsed, 1),
        rounds=rounds,
        machine=settings.machine,
        parameters=dict(parameters),
        row_labels=tuple(row_labels),
        axis=axis,
        figures=tuple(figures.values()),
        verdicts=tuple(verdicts),
        notes=tuple(notes),
    )
    if settings.json == "-":
        click.echo(report.to_json())
    else:
        print_report(report, output_console())
    if settings.json not in (None, "-"):
        _write(str(settings.json), report.to_json() + "\n")
    if settings.picture is not None:
        _draw(report, settings.picture)
    if settings.require and not all(verdict.held for verdict in verdicts):
        sys.exit(1)


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text)
    except OSError as error:
        raise BenchError(str(error)) from error


def _check_picture(file: str) -> None:
    from ipsecfast.bench.picture import check_picture

    check_picture(file)


def _draw(report: Report, file: str) -> None:
    from ipsecfast.bench.picture import draw

    draw(report, file)


# ---- what is done with reports ----


@bench.command()
@click.argument("old")
@click.argument("new")
@click.option("--ratios", is_flag=True, help="Judge ratios only, which a slower hour of the machine changes least.")
def compare(old: str, new: str, ratios: bool) -> None:
    """Hold the report NEW against the report OLD, figure by figure, with the noise of both.

    Exit status 1 if a figure is worse by more than the greatest of 5 %, its old noise and its new noise; 2 if the files
    can't be compared.
    """
    from ipsecfast.bench.compare import compare as hold_against
    from ipsecfast.bench.compare import print_comparison

    try:
        comparison = hold_against(read_report(old), read_report(new), ratios_only=ratios)
    except BenchError as error:
        fail(str(error), INCOMPARABLE)
    print_comparison(comparison, output_console())
    sys.exit(1 if comparison.regressions else 0)


@bench.command()
@click.argument("file")
@click.option("--markdown", is_flag=True, help="For a document: medians alone.")
@click.option("--only", metavar="REGEX", default="", help="Figures whose name (row/column) it is found in.")
def table(file: str, markdown: bool, only: str) -> None:
    """Show the report FILE again."""
    from ipsecfast.bench import table as tables

    with errors_as_text():
        report = _filtered(read_report(file), only)
        if markdown:
            click.echo(tables.markdown(report))
        else:
            tables.print_report(report, output_console())


def _filtered(report: Report, only: str) -> Report:
    """The report with these figures alone; raises BenchError if there is none, or for what is no expression."""
    try:
        chosen = tuple(figure for figure in report.figures if re.search(only, figure.name))
    except re.error as error:
        raise BenchError(f"--only {only!r}: {error}") from error
    if not chosen:
        raise BenchError(f"--only {only!r}: no figure has such a name; there is {report.figures[0].name!r}")
    return replace(report, figures=chosen)


@bench.command()
@click.argument("file")
@click.argument("picture_file", metavar="PICTURE")
def picture(file: str, picture_file: str) -> None:
    """Draw the report FILE as PICTURE (.png or .svg)."""
    with errors_as_text():
        _draw(read_report(file), picture_file)
