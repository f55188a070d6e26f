"""The choice of the AEAD engine: by name, or the one that is fastest, and why."""

from __future__ import annotations

from itertools import count

import pytest

from ipsecfast.dataplane import ENGINES
from ipsecfast.engines import SIZES, EngineSpeed, fastest, measure_engine, resolve_engine
from ipsecfast.errors import DataPlaneError


@pytest.mark.parametrize("engine", ENGINES)
def test_a_name_means_itself(engine: str) -> None:
    choice = resolve_engine(engine)
    assert (choice.engine, choice.why) == (engine, "as configured")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(DataPlaneError, match="rot13"):
        resolve_engine("rot13")


def test_auto_takes_one_of_those_there_are_and_says_why() -> None:
    choice = resolve_engine("auto")
    assert choice.engine in ENGINES
    assert len(ENGINES) == 1 or all(engine in choice.why for engine in ENGINES)


def test_the_fastest_is_the_one_with_the_least_sum() -> None:
    a, b, c = EngineSpeed("a", (30.0, 500.0)), EngineSpeed("b", (200.0, 300.0)), EngineSpeed("c", (90.0, 410.0))
    assert [fastest(order).engine for order in ([a, b, c], [c, b, a], [a, c])] == ["b", "c", "c"]
    assert fastest([a, b]).why == (
        "the fastest here: sealing packets of 64 and 1,400 bytes takes a 30 ns and 500 ns, b 200 ns and 300 ns"
    )


def test_what_disturbs_a_try_does_not_count() -> None:
    ticks = count(0, 1600)  # of each try 1,600 ns, but for the third: a second

    def clock() -> int:
        now = next(ticks)
        return now + 1_000_000_000 if now == 5 * 1600 else now

    assert measure_engine(ENGINES[0], clock) == EngineSpeed(ENGINES[0], (100.0,) * len(SIZES))


@pytest.mark.parametrize("engine", ENGINES)
def test_longer_packets_take_longer(engine: str) -> None:
    small, large = measure_engine(engine).nanoseconds
    assert 0 < small < large < 1_000_000
