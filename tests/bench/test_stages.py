"""`ipsecfast bench stages`, as short as it can be: that it measures what it says, never how fast."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ipsecfast.bench.results import read_report
from ipsecfast.bench.stages import ACCEPTED_ENGINE, ENGINE_ALONE
from ipsecfast.bench.workload import IMIX, sizes_in_turn
from ipsecfast.cli import main
from ipsecfast.measure import STAGES
from ipsecfast.values import ENGINES


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
            for stage, alone in ENGINE_ALONE.items():
                ours, raw = names[f"{engine}/{size}/{stage}/time"], names[f"{engine}/{size}/{alone}/time"]
                assert len(ours.samples) == 2
                assert ours.minimum > 0
                pairs = list(zip(raw.samples, ours.samples, strict=True))
                share, around = (
                    names[f"{engine}/{size}/{stage}/{column}"] for column in ("raw/ours", "around the AEAD")
                )
                assert share.samples == pytest.approx([a / b for a, b in pairs])
                assert around.samples == pytest.approx([b - a for a, b in pairs])
            for stage in STAGES:
                assert names[f"{engine}/{size}/{stage}/time"].median > 0


def test_json_goes_to_standard_output_alone() -> None:
    result = run("--rounds", "1", "--sizes", "64", "--engines", "openssl", "--json", "-")
    assert json.loads(result.stdout)["parameters"]["sizes"] == ["64"]


@pytest.mark.parametrize(("options", "said"), [(("--sizes", "63"), "'63'"), (("--sizes", "64,big"), "'big'"),
                                               (("--engines", "abacus"), "no engine abacus")])  # fmt: skip
def test_what_can_not_be_measured_is_said(options: tuple[str, str], said: str) -> None:
    result = run("--quick", *options)
    assert result.exit_code == 1
    assert said in result.output


@pytest.mark.skipif(ACCEPTED_ENGINE not in ENGINES, reason="the judged engine is not built in")
def test_what_is_required_is_judged_and_the_exit_status_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--rounds", "1", "--sizes", "1400", "--engines", ACCEPTED_ENGINE, "--require", "--json")
    for bound, status in ((1e9, 0), (-1e9, 1)):
        monkeypatch.setattr("ipsecfast.bench.stages.ACCEPTED_AROUND_NS", bound)
        monkeypatch.setattr("ipsecfast.bench.stages.ACCEPTED_SHARE", {"1400": 0.0})
        assert run(*arguments, str(tmp_path / "r.json")).exit_code == status
        verdicts = read_report(str(tmp_path / "r.json")).verdicts
        assert [one.held for one in verdicts] == [True, not status] * 2


def test_what_is_not_measured_can_not_be_required() -> None:
    result = run("--quick", "--require", "--engines", "openssl")
    assert result.exit_code == 1
    assert "judges ipsec-mb" in result.output


def test_the_mix_has_its_shares() -> None:
    sizes = sizes_in_turn("imix")
    assert len(sizes) == sum(count for _, count in IMIX)
    for octets, count in IMIX:
        assert sizes.count(octets) == count
