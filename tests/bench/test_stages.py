"""`ipsecfast bench stages`, as short as it can be: that it measures what it says, never how fast."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ipsecfast.bench.results import read_report
from ipsecfast.bench.workload import BATCH, IMIX, packets
from ipsecfast.cli import main
from ipsecfast.dataplane import ENGINES


@pytest.fixture(autouse=True)
def own_cores() -> Iterator[None]:
    """A benchmark takes one core; the tests after it shall have all."""
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "stages", *arguments])


def test_every_engine_size_and_stage_has_a_figure_a_round(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    result = run("--rounds", "2", "--sizes", "64,imix", "--json", str(file))
    assert result.exit_code == 0, result.output
    report = read_report(str(file))
    assert (report.benchmark, report.rounds) == ("stages", 2)
    names = report.by_name()
    for engine in ENGINES:
        for size in ("64", "imix"):
            for stage in ("seal", "open"):
                ours, alone = names[f"{engine}/{size}/{stage}/time"], names[f"{engine}/{size}/raw {stage}/time"]
                share = names[f"{engine}/{size}/{stage}/raw/ours"]
                assert len(ours.samples) == 2
                assert ours.minimum > 0
                expected = [a / b for a, b in zip(alone.samples, ours.samples, strict=True)]
                assert share.samples == pytest.approx(expected)


def test_json_goes_to_standard_output_alone() -> None:
    result = run("--rounds", "1", "--sizes", "64", "--engines", "openssl", "--json", "-")
    assert json.loads(result.stdout)["parameters"]["sizes"] == ["64"]


@pytest.mark.parametrize(("options", "said"), [(("--sizes", "63"), "'63'"), (("--sizes", "64,big"), "'big'"),
                                               (("--engines", "abacus"), "no engine abacus")])  # fmt: skip
def test_what_can_not_be_measured_is_said(options: tuple[str, str], said: str) -> None:
    result = run("--quick", *options)
    assert result.exit_code == 1
    assert said in result.output


def test_the_mix_has_its_shares() -> None:
    sizes = [len(one) for one in packets("imix")]
    assert len(sizes) == BATCH
    for octets, count in IMIX:
        assert sizes[:60].count(octets) == count * 5
