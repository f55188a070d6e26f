"""What the demo shows: a picture that moves on a terminal, plain lines elsewhere, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

FRAMES_A_SECOND = 8
BAR_WIDTH = 16
WIRE = "· · · · · · "


class State(Enum):
    """Of a step: the mark and the colour that stand for it."""

    WAITING = (" ", "dim")
    RUNNING = (">", "cyan")
    HELD = ("✓", "green")
    FAILED = ("✗", "bold red")

    @property
    def mark(self) -> str:
        return self.value[0]

    @property
    def style(self) -> str:
        return self.value[1]


@dataclass(slots=True)
class Step:
    """One thing the demo does. `text` is what is seen meanwhile, then what came out."""

    title: str
    state: State = State.WAITING
    text: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class GatewayView:
    """What is shown of one gateway: SPIs in hexadecimal, packets and bits a second of its tunnel."""

    name: str
    ike_spi: str
    child_spis: str
    packets: int
    bits_a_second: float
    drops: int


@dataclass(slots=True)
class Display:
    """Steps and gateways; on a terminal drawn eight times a second between `__enter__` and `__exit__`."""

    steps: list[Step]
    console: Console = field(default_factory=lambda: Console(highlight=False))
    gateways: Sequence[GatewayView] = ()
    peak: float = 1.0
    _live: Live | None = None
    _spinner: Spinner = field(default_factory=lambda: Spinner("dots", style="cyan"))

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=FRAMES_A_SECOND, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def begin(self, step: Step) -> None:
        step.state, step.seconds = State.RUNNING, time.monotonic()

    def end(self, step: Step, *, held: bool, text: str) -> None:
        step.state = State.HELD if held else State.FAILED
        step.text, step.seconds = text, time.monotonic() - step.seconds
        if self._live is None:
            word = "ok" if held else "FAILED"
            self.console.print(Text(f"{word:6} {step.title}: {text}"), soft_wrap=True)

    def show_gateways(self, gateways: Sequence[GatewayView]) -> None:
        self.gateways = gateways
        self.peak = max([self.peak, *(one.bits_a_second for one in gateways)])

    def __rich__(self) -> RenderableType:
        return Panel(Group(self._topology(), self._gateway_table(), self._step_table()), title="ipsecfast demo")

    def summary(self) -> None:
        """The table at the end."""
        table = Table(title="ipsecfast demo", title_justify="left")
        for column in ("", "step", "result", "seconds"):
            table.add_column(column, justify="right" if column == "seconds" else "left")
        for step in self.steps:
            seconds = f"{step.seconds:.1f}" if step.state in (State.HELD, State.FAILED) else ""
            text = step.text.partition("\n")[0] if step.state is not State.WAITING else "not reached"
            table.add_row(Text(step.state.mark, step.state.style), step.title, Text(text), seconds)
        self.console.print(table)

    def details(self, title: str, text: str) -> None:
        """What a person needs who looks for the reason of a failure."""
        self.console.print(Text(f"---- {title}\n{text.rstrip()}"), soft_wrap=True)

    def _topology(self) -> RenderableType:
        moving = any(one.bits_a_second > 0 for one in self.gateways)
        shift = int(time.monotonic() * FRAMES_A_SECOND) % 2 if moving else 0
        wire = WIRE[shift:] + WIRE[:shift]
        tunnel = wire.replace("·", "=") if self.gateways and self.gateways[0].child_spis else " " * len(wire)
        line = Text.assemble(
            "host A 10.1.0.2 ", (wire, "dim"), ("gateway A", "bold"), " ", (tunnel, "green"), ("gateway B", "bold"),
            " ", (wire, "dim"), "10.2.0.2 host B",
        )  # fmt: skip
        line.no_wrap = True
        return line

    def _gateway_table(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for _ in range(6):
            table.add_column(no_wrap=True)
        for one in self.gateways:
            filled = round(BAR_WIDTH * one.bits_a_second / self.peak)
            table.add_row(
                one.name,
                Text(f"IKE {one.ike_spi or '-'}", "cyan"),
                Text(f"ESP {one.child_spis or '-'}", "magenta"),
                Text("█" * filled + "░" * (BAR_WIDTH - filled), "green"),
                f"{one.bits_a_second / 1e9:.2f} Gbit/s",
                f"{one.packets:,} packets, {one.drops:,} dropped",
            )
        return table

    def _step_table(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for step in self.steps:
            running = step.state is State.RUNNING
            mark: RenderableType = self._spinner if running else Text(step.state.mark, step.state.style)
            table.add_row(mark, Text(step.title, "" if step.state is not State.WAITING else "dim"), Text(step.text))
        return table
