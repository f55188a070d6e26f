"""Some hundreds of seeded schedules, a few of each family; `make schedules` runs as many as there is time for.

One again, with its transcript: `ci/schedules --family F --seed N`.
"""

from __future__ import annotations

import pytest
from schedules import FAMILIES, run_schedule
from simulation import replay_seed

FEW = {"mesh": 6, "lifetimes": 4, "limits": 6}
SEEDS = 12

# Schedules that once failed, by what was wrong.
REGRESSIONS = {
    "children of an IKE SA that goes took over each other's traffic": ("restarts", 8),
    "the same after an outage": ("outage", 27),
    "a redundant IKE SA neither repeated its request nor gave it up": ("rekeys-and-deletes", 29),
}


def some(family: str) -> list[int]:
    return [replay_seed()] if replay_seed() is not None else list(range(FEW.get(family, SEEDS)))


@pytest.mark.parametrize(("family", "seed"), [(f, s) for f in FAMILIES for s in some(f)])
def test_schedule(family: str, seed: int) -> None:
    run_schedule(family, seed)


@pytest.mark.parametrize(("family", "seed"), REGRESSIONS.values(), ids=REGRESSIONS.keys())
def test_what_once_failed(family: str, seed: int) -> None:
    run_schedule(family, seed)


def test_a_schedule_is_a_function_of_its_seed() -> None:
    one, other, third = (run_schedule("any-rekeys", seed).exchange() for seed in (3, 3, 4))
    assert one == other != third
