"""Figures, ratios, verdicts and the JSON file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from reports import figure, report

from ipsecfast.bench.results import (
    SCHEMA,
    BenchError,
    Better,
    Reading,
    Report,
    Requirement,
    gather,
    ratio,
    read_report,
)


def test_a_figure_tells_median_range_and_the_distance_of_its_quartiles() -> None:
    one = figure("a", samples=(10, 40, 20, 30, 25))
    assert (one.name, one.median, one.minimum, one.maximum) == ("a/time", 25, 10, 40)
    assert one.noise == pytest.approx((30 - 20) / 25)
    assert figure("a", samples=(7,)).noise == 0


def test_readings_of_rounds_become_figures_in_their_order() -> None:
    rounds = [
        [Reading(("x",), "time", "ns", Better.LOWER, base), Reading(("y",), "rate", "Mpps", Better.HIGHER, base + 1)]
        for base in (1.0, 2.0, 3.0)
    ]
    figures = gather(rounds)
    assert list(figures) == ["x/time", "y/rate"]
    assert figures["x/time"].samples == (1, 2, 3)
    assert figures["y/rate"].samples == (2, 3, 4)


def test_a_ratio_is_taken_round_by_round_not_of_the_medians() -> None:
    """Both are slow in the same round: the ratio does not see it."""
    ours, other = figure("ours", samples=(10, 2, 9)), figure("other", samples=(5, 1, 9))
    one = ratio(("ours",), "of other", ours, other)
    assert one.samples == (2, 2, 1)
    assert (one.median, one.unit, one.better) == (2, "ratio", Better.HIGHER)
    assert ours.median / other.median != one.median


def test_a_ratio_of_different_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="not of the same rounds"):
        ratio(("x",), "r", figure("a", samples=(1, 2)), figure("b", samples=(1,)))


@pytest.mark.parametrize(("bound", "at_least", "held"), [(2.0, True, True), (2.1, True, False), (2.0, False, True),
                                                         (1.9, False, False)])  # fmt: skip
def test_a_requirement_judges_the_median(bound: float, at_least: bool, held: bool) -> None:
    figures = {"a/time": figure("a", samples=(1, 2, 9))}
    verdict = Requirement("a/time", bound, "fast", at_least).judge(figures)
    assert (verdict.held, verdict.found) == (held, "2 ns")


def test_what_was_not_measured_is_not_held() -> None:
    verdict = Requirement("b/time", 1.0, "fast").judge({})
    assert (verdict.held, verdict.found) == (False, "not measured")


def test_a_report_comes_back_from_its_json_as_it_was() -> None:
    one = replace(
        report(figure("a", samples=(1.5, 2.5)), figure("b", samples=(3, 4), column="rate", better=Better.HIGHER)),
        verdicts=(Requirement("a/time", 9, "fast", at_least=False).judge({}),),
        notes=("something was left out",),
    )
    assert Report.from_json(one.to_json()) == one


def test_the_json_has_what_its_schema_says() -> None:
    entry = json.loads(report(figure("a", samples=(1, 2, 3))).to_json())
    assert entry["schema"] == SCHEMA
    assert set(entry) == {"schema", "benchmark", "date", "seconds", "rounds", "machine", "parameters", "row_labels",
                          "axis", "figures", "verdicts", "notes"}  # fmt: skip
    assert entry["figures"] == [{"row": ["a"], "column": "time", "unit": "ns", "better": "lower", "median": 2.0,
                                 "minimum": 1.0, "maximum": 3.0, "noise": 0.5, "samples": [1.0, 2.0, 3.0]}]  # fmt: skip


SIDEWAYS = report(figure("a", samples=(1,))).to_json().replace("lower", "sideways")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": "ipsecfast-bench/9"}', f'{{"schema": "{SCHEMA}"}}', SIDEWAYS]
)
def test_what_is_no_report_is_refused_with_the_files_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(BenchError, match=r"r\.json: "):
        read_report(str(file))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(BenchError, match="absent"):
        read_report("/absent/r.json")
