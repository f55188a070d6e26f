"""Some hundreds of seeded schedules, a few of each family; `make schedules` runs as many as there is time for.

One again, with its transcript: `ci/schedules --family F --seed N`.
"""

from __future__ import annotations

import pytest
from schedules import FAMILIES, run_schedule
from simulation import replay_seed

FEW = {"mesh": 6, "lifetimes": 4, "limits": 6}
SEEDS = 12


def some(family: str) -> list[int]:
    return [replay_seed()] if replay_seed() is not None else list(range(FEW.get(family, SEEDS)))


@pytest.mark.parametrize(("family", "seed"), [(f, s) for f in FAMILIES for s in some(f)])
def test_schedule(family: str, seed: int) -> None:
    run_schedule(family, seed)


def test_a_schedule_is_a_function_of_its_seed() -> None:
    one, other, third = (run_schedule("any-rekeys", seed).exchange() for seed in (3, 3, 4))
    assert one == other != third
