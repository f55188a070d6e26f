"""Variants in turn: order, warm-up, failures and the bound in time, with a clock of its own."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from ipsecfast.bench.results import BenchError, Better, Reading
from ipsecfast.bench.runner import Runner, VariantFailed


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Fake:
    """Takes `seconds` a measurement and gives 1, 2, 3, ...; fails at the measurement number `fails_at`."""

    name: str
    clock: Clock
    trace: list[str] = field(default_factory=list)
    seconds: float = 1.0
    fails_at: int = 0
    count: int = 0

    def measure(self) -> Iterator[Reading]:
        self.count += 1
        self.trace.append(self.name)
        self.clock.now += self.seconds
        if self.count == self.fails_at:
            raise VariantFailed("it broke")
        yield Reading((self.name,), "value", "", Better.NEITHER, float(self.count))


def runner(clock: Callable[[], float], limit: float = 1000.0) -> Runner:
    return Runner(limit, Console(file=io.StringIO()), clock)


def test_variants_are_interleaved_and_each_round_begins_with_another() -> None:
    clock, trace = Clock(), list[str]()
    outcome = runner(clock).run("x", [Fake("a", clock, trace), Fake("b", clock, trace)], 3)
    assert trace == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert outcome.rounds == 3
    assert list(outcome.figures) == ["a/value", "b/value"]


def test_the_first_round_warms_up_and_does_not_count() -> None:
    clock = Clock()
    assert runner(clock).run("x", [Fake("a", clock)], 3).figures["a/value"].samples == (2, 3, 4)
    assert runner(clock).run("x", [Fake("a", clock)], 3, warm_up=False).figures["a/value"].samples == (1, 2, 3)


def test_no_round_begins_that_would_end_too_late_but_one_is_always_measured() -> None:
    clock = Clock()
    outcome = runner(clock, limit=10).run("x", [Fake("a", clock, seconds=3)], 100)
    assert (outcome.rounds, clock.now) == (2, 9)
    assert "after 2 of 100 rounds" in outcome.notes[0]
    assert runner(clock, limit=0.5).run("x", [Fake("a", clock)], 5).rounds == 1


def test_of_several_runs_each_leaves_the_others_their_part_of_the_time() -> None:
    clock = Clock()
    one = runner(clock, limit=100)
    assert one.run("x", [Fake("a", clock)], 1000, parts=2, warm_up=False).rounds == 50
    assert one.run("y", [Fake("a", clock)], 1000, parts=1, warm_up=False).rounds == 50


def test_a_variant_that_fails_is_left_out_of_all_rounds_with_its_reason() -> None:
    clock = Clock()
    outcome = runner(clock).run("x", [Fake("a", clock), Fake("b", clock, fails_at=3)], 4)
    assert list(outcome.figures) == ["a/value"]
    assert outcome.figures["a/value"].samples == (2, 3, 4, 5)
    assert outcome.notes == ("b is left out: it broke",)


def test_with_nobody_left_the_benchmark_fails() -> None:
    clock = Clock()
    with pytest.raises(BenchError, match="a is left out: it broke"):
        runner(clock).run("x", [Fake("a", clock, fails_at=2)], 4)
