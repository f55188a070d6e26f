"""Instructions, counted in an emulated guest: its clock is the number of instructions that its one CPU has executed.

qemu's `-icount shift=0` moves the virtual clock by one nanosecond an instruction, and while the CPU halts by the time
that passes. So between two moments

    instructions = nanoseconds of CLOCK_MONOTONIC_RAW - nanoseconds idle

Idle time is the kernel's own account of it (`tick_sched`, in nanoseconds, in /proc/timer_list). `calibrate` holds this
against a loop whose instructions are known, with a sleep in the middle.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TIMER_LIST = Path("/proc/timer_list")
IDLE_FIELDS = (".idle_sleeptime", ".iowait_sleeptime")
LOOP = b"\xb9%b\xff\xc9\x75\xfc\xc3"  # x86: mov ecx, N; L: dec ecx; jnz L; ret
LOOP_TURNS = 20_000_000
SLEEP_SECONDS = 0.05
TOLERANCE = 0.01


class CountingError(RuntimeError):
    """Instructions can't be counted here; the text says why."""


@dataclass(slots=True)
class Count:
    """What `counted` found, valid when its block is left."""

    instructions: int = 0


def idle_nanoseconds(text: str) -> int:
    """How long the CPUs were idle since the boot, from the text of /proc/timer_list."""
    values = [line.partition(":")[2].split()[0] for line in text.splitlines() if line.strip().startswith(IDLE_FIELDS)]
    if not values:
        raise CountingError("/proc/timer_list does not tell how long the CPU was idle")
    return sum(map(int, values))


@contextmanager
def counted() -> Iterator[Count]:
    """Counts the instructions that all programs and the kernel execute during the block."""
    count = Count()
    idle = idle_nanoseconds(TIMER_LIST.read_text())
    start = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    yield count
    end = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    count.instructions = end - start - (idle_nanoseconds(TIMER_LIST.read_text()) - idle)


def calibrate(turns: int = LOOP_TURNS, tries: int = 20) -> tuple[int, int]:
    """The instructions of a loop and a sleep: how many there are, and how many were counted.

    Tried until it is right, for a guest that has just booted has other work too: modules test themselves.
    """
    loop, expected = _loop(turns), 2 * (2 * turns + 2)
    for _ in range(tries):
        with counted() as count:
            loop()
            time.sleep(SLEEP_SECONDS)
            loop()
        if is_right(expected, count.instructions):
            break
    return expected, count.instructions


def is_right(expected: int, found: int) -> bool:
    """The timer's ticks meanwhile, and reading the clocks, are counted too."""
    return expected <= found <= expected * (1 + TOLERANCE)


def _loop(turns: int) -> Callable[[], None]:
    """A function of 2 * turns + 2 instructions."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(LOOP % struct.pack("<I", turns))
    function = ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    function.memory = memory  # type: ignore[attr-defined]  # lives as long as the function
    return function
