"""What each stage of the data plane costs a packet, measured in C over batches in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self, final

STAGES: tuple[str, ...]
STAGE_HELP: dict[str, str]

class StageCost(NamedTuple):
    """Per packet: nanoseconds, and cycles of the time stamp counter (None where the machine has none that we know)."""

    ns: float
    cycles: float | None

@final
class StageBench:
    """The stages of both journeys over prepared packets, on one core, without ports; for benchmarks."""
    def __new__(
        cls,
        *,
        engine: str = "auto",
        sizes: Sequence[int] = (1400,),
        key: bytes = ...,
        policies: int = 1000,
        flows: int = 64,
        sas: int = 1,
        batch: int = 64,
        replay_window: int = 2048,
        esn: bool = False,
    ) -> Self: ...
    @property
    def engine(self) -> str: ...
    def measure(self, batches: int = 100) -> dict[str, StageCost]: ...
