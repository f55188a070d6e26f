"""`ipsecfast bench scale`, with few of everything: that each number gets its figures, and what is judged."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ipsecfast.bench.results import Requirement, read_report
from ipsecfast.bench.scale import ACCEPTED, UNITS
from ipsecfast.cli import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "scale", *arguments])


def test_every_number_has_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    result = run("--rounds", "1", "--policies", "300,700", "--tunnels", "5", "--json", str(file))
    assert result.exit_code == 0, result.output
    report = read_report(str(file))
    figures = report.by_name()
    tunnel = {column for column in UNITS if "tunnel" in column}
    for n in ("300", "700"):
        assert {one.column for one in report.figures if one.row == ("policies", n)} == UNITS.keys() - tunnel
    assert {one.column for one in report.figures if one.row[0] == "tunnels"} == tunnel
    assert all(one.median > 0 for one in figures.values() if one.unit in ("ms", "ns"))
    assert not report.verdicts


def test_what_is_accepted_stands_beside_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipsecfast.bench.scale.ACCEPTED_AT", 300)
    file = tmp_path / "r.json"
    options = ("--rounds", "1", "--policies", "300", "--tunnels", "", "--json", str(file))
    monkeypatch.setattr("ipsecfast.bench.scale.ACCEPTED", {"compile": -1.0, "lookup, hit": 1e9})
    assert run(*options).exit_code == 0
    assert [one.held for one in read_report(str(file)).verdicts] == [False, True]
    assert run(*options, "--require").exit_code == 1


def test_every_accepted_quantity_is_measured() -> None:
    assert ACCEPTED.keys() <= UNITS.keys()
    assert not Requirement("policies/100000/compile", 1, "x", at_least=False).judge({}).held


@pytest.mark.parametrize("text", ["many", "0", "100001", "-5"])
def test_other_numbers_are_refused(text: str) -> None:
    result = run("--quick", "--policies", text)
    assert result.exit_code == 1
    assert repr(text) in result.output


def test_only_what_is_measured_can_be_required() -> None:
    result = run("--quick", "--require", "--policies", "10")
    assert result.exit_code == 1
    assert "100000 policies, which are not measured" in result.output
