"""The stage benchmark: what it measures is there, plausible, and wrong settings are refused."""

from __future__ import annotations

import pytest

from ipsecfast.errors import DataPlaneError
from ipsecfast.measure import STAGE_HELP, STAGES, StageBench
from ipsecfast.values import ENGINES, choose_engine


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("sizes", "policies", "flows", "sas", "batch"),
    [([64], 1, 1, 1, 1), ([28, 1400, 65_000], 1000, 100, 7, 64), ([576], 64, 3, 64, 5), ([100], 300, 5000, 300, 64)],
)
@pytest.mark.parametrize("esn", [False, True])
def test_every_stage_has_a_figure(
    engine: str, sizes: list[int], policies: int, flows: int, sas: int, batch: int, esn: bool
) -> None:
    bench = StageBench(
        engine=engine, sizes=sizes, policies=policies, flows=flows, sas=sas, batch=batch, esn=esn, key=bytes(32)
    )
    for _ in range(3):
        costs = bench.measure(20)
        assert tuple(costs) == STAGES == tuple(STAGE_HELP)
        assert all(0 < cost.ns < 10_000_000 for cost in costs.values())
        assert all(cost.cycles is None or cost.cycles > 0 for cost in costs.values())
    assert bench.engine == engine


def test_the_whole_costs_more_than_its_engine() -> None:
    bench = StageBench(sizes=[1400])
    rounds = [bench.measure(20) for _ in range(11)]
    for whole, raw in (("outbound", "raw-seal"), ("inbound", "raw-open")):
        assert sorted(costs[whole].ns / costs[raw].ns for costs in rounds)[5] > 0.95
    assert bench.engine == choose_engine()


@pytest.mark.parametrize(
    "wrong",
    [
        {"engine": "none"},
        {"sizes": []},
        {"sizes": [27]},
        {"sizes": [65_001]},
        {"sizes": [-1]},
        {"flows": 0},
        {"flows": 65_537},
        {"sas": 0},
        {"sas": 2, "policies": 1},
        {"policies": 1 << 21},
        {"batch": 65},
        {"batch": 0},
        {"key": bytes(15)},
        {"replay_window": 7},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(DataPlaneError):
        StageBench(**wrong)  # type: ignore[arg-type]


def test_no_batches_are_no_measurement() -> None:
    with pytest.raises(DataPlaneError):
        StageBench().measure(0)
