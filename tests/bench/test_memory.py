"""`ipsecfast bench memory`, as short as it can be."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from reports import figure

from ipsecfast.bench.memory import DIRECTIONS, scaling
from ipsecfast.bench.results import Better, read_report
from ipsecfast.cli import main
from ipsecfast.values import ENGINES


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "memory", *arguments])


def test_every_direction_and_number_of_workers_has_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As short as a busy machine takes to give each thread its turn.
    monkeypatch.setattr("ipsecfast.bench.memory.SLICE_SECONDS", 0.1)
    file = tmp_path / "r.json"
    result = run(
        "--rounds", "1", "--workers", "2", "--sizes", "imix", "--engines", ",".join(ENGINES), "--json", str(file)
    )
    assert result.exit_code == 0, result.output
    figures = read_report(str(file)).by_name()
    for engine in ENGINES:
        for direction in DIRECTIONS:
            for workers in ("1", "2"):
                row = f"{engine}/{direction}/imix/{workers}"
                rate, bits, cpu = (figures[f"{row}/{name}"].median for name in ("rate", "of inner packets", "CPU"))
                mean = (7 * 64 + 4 * 576 + 1500) / 12
                assert bits == pytest.approx(rate * 1e6 * mean * 8 / 1e9)
                assert cpu > 0
            assert figures[f"{engine}/{direction}/imix/1/of one worker"].median == 1
            assert figures[f"{engine}/{direction}/imix/2/of one worker"].median > 0


def test_scaling_is_told_by_the_clock_and_by_cpu_time() -> None:
    rows = {workers: ("e", "out", "64", str(workers)) for workers in (1, 2)}
    rates = {1: (10.0, 10.0), 2: (12.0, 19.0)}
    cpus = {1: (50.0, 50.0), 2: (50.0, 100.0)}
    given = [
        one
        for workers, row in rows.items()
        for one in (
            figure(*row, samples=rates[workers], column="rate", unit="Mpps", better=Better.HIGHER),
            figure(*row, samples=cpus[workers], column="CPU", unit="ns/packet"),
        )
    ]
    found = scaling({one.name: one for one in given})
    assert found["e/out/64/2/of one worker"].samples == (1.2, 1.9)
    assert found["e/out/64/2/by CPU time"].samples == (2, 1)


def test_one_worker_can_not_be_required_to_scale() -> None:
    result = run("--quick", "--workers", "1", "--require")
    assert result.exit_code == 1
    assert "judges two workers" in result.output
