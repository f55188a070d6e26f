"""Which AEAD engine `auto` means on this machine: each seals for a moment when a gateway starts, the fastest is taken.

The C core knows no clock; a library user's "auto" goes by the order of its table (`csrc/aead.c`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from ipsecfast.dataplane import ENGINES, choose_engine, raw_seal

AUTO = "auto"
SIZES = (64, 1400)  # bytes: an acknowledgement and the data that it acknowledges
KEY = bytes(range(16))
PACKETS = 16  # a try
STRIDE = 1536
TRIES = 9


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """Nanoseconds that an engine takes to seal a packet, for each of SIZES."""

    engine: str
    nanoseconds: tuple[float, ...]

    def __str__(self) -> str:
        times = " and ".join(f"{time:.0f} ns" for time in self.nanoseconds)
        return f"{self.engine} {times}"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine, and why it is this one."""

    engine: str
    why: str


def measure_engine(engine: str, clock: Callable[[], int] = perf_counter_ns) -> EngineSpeed:
    """The best of a few short tries: what disturbs only makes slower. About 0.1 ms; `clock` counts nanoseconds."""
    memory = np.zeros(PACKETS * STRIDE, np.uint8)

    def one_try(size: int) -> float:
        began = clock()
        raw_seal(engine, KEY, memory, size, STRIDE)
        return (clock() - began) / PACKETS

    one_try(max(SIZES))  # what the first call sets up
    return EngineSpeed(engine, tuple(min(one_try(size) for _ in range(TRIES)) for size in SIZES))


def fastest(speeds: Sequence[EngineSpeed]) -> EngineChoice:
    """The engine that takes least for one packet of each size; of equal ones the first."""
    best = min(speeds, key=lambda speed: sum(speed.nanoseconds))
    sizes = " and ".join(f"{size:,}" for size in SIZES)
    return EngineChoice(
        best.engine, f"the fastest here: sealing packets of {sizes} bytes takes {', '.join(map(str, speeds))}"
    )


def resolve_engine(configured: str) -> EngineChoice:
    """What the configuration's word means. Raises DataPlaneError when the engine that it names isn't built in."""
    if configured != AUTO:
        return EngineChoice(choose_engine(configured), "as configured")
    if len(ENGINES) == 1:
        return EngineChoice(choose_engine(), "the only one that is built in")
    return fastest([measure_engine(engine) for engine in ENGINES])
