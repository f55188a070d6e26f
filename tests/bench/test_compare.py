"""`ipsecfast bench compare` on files made by hand: what counts as worse, and its exit statuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from reports import figure, report

from ipsecfast.bench.compare import compare
from ipsecfast.bench.results import Better, Report
from ipsecfast.cli import main

QUIET = (100, 100, 100, 100, 100)


def scaled(factor: float, samples: tuple[float, ...] = QUIET) -> tuple[float, ...]:
    return tuple(factor * sample for sample in samples)


def run(folder: Path, old: Report | str, new: Report | str, *options: str) -> Result:
    for name, one in (("old.json", old), ("new.json", new)):
        (folder / name).write_text(one if isinstance(one, str) else one.to_json())
    return CliRunner().invoke(main, ["bench", "compare", str(folder / "old.json"), str(folder / "new.json"), *options])


@pytest.mark.parametrize(
    ("better", "factor", "status"),
    [
        (Better.LOWER, 1.04, 0),
        (Better.LOWER, 1.06, 1),
        (Better.LOWER, 0.5, 0),
        (Better.HIGHER, 0.96, 0),
        (Better.HIGHER, 0.94, 1),
        (Better.HIGHER, 2.0, 0),
        (Better.NEITHER, 3.0, 0),
    ],
)
def test_worse_by_more_than_five_percent_is_a_regression(
    tmp_path: Path, better: Better, factor: float, status: int
) -> None:
    old, new = (report(figure("a", samples=samples, better=better)) for samples in (QUIET, scaled(factor)))
    result = run(tmp_path, old, new)
    assert result.exit_code == status, result.output
    assert f"{status} of 1 figures are worse beyond noise" in result.output


@pytest.mark.parametrize("noisy_side", ["old", "new"])
def test_the_noise_of_either_widens_what_is_forgiven(tmp_path: Path, noisy_side: str) -> None:
    noisy = (80, 90, 100, 110, 120)  # quartiles at 90 and 110: 20 %
    samples = (noisy, scaled(1.15)) if noisy_side == "old" else (QUIET, scaled(1.15, noisy))
    assert run(tmp_path, *(report(figure("a", samples=one)) for one in samples)).exit_code == 0
    worse = (noisy, scaled(1.25)) if noisy_side == "old" else (QUIET, scaled(1.25, noisy))
    assert run(tmp_path, *(report(figure("a", samples=one)) for one in worse)).exit_code == 1


def test_one_regression_among_many_is_found_and_the_unpaired_are_named(tmp_path: Path) -> None:
    old = report(figure("a", samples=QUIET), figure("b", samples=QUIET), figure("gone", samples=QUIET))
    new = report(figure("a", samples=QUIET), figure("b", samples=scaled(2)), figure("new", samples=QUIET))
    result = run(tmp_path, old, new)
    assert result.exit_code == 1
    assert "gone/time, new/time" in result.output
    assert "1 of 2 figures" in result.output


def test_between_processors_only_ratios_are_judged(tmp_path: Path) -> None:
    ratios = figure("a", column="share", unit="ratio", better=Better.HIGHER, samples=QUIET)
    old = report(ratios, figure("a", samples=QUIET))
    new = report(ratios, figure("a", samples=scaled(5)), cpu="Other 1")
    result = run(tmp_path, old, new)
    assert result.exit_code == 0
    assert "only ratios" in result.output
    assert run(tmp_path, report(figure("a", samples=QUIET)), new).exit_code == 2


def test_only_ratios_when_asked(tmp_path: Path) -> None:
    ratios = figure("a", column="share", unit="ratio", better=Better.HIGHER, samples=QUIET)
    old, new = report(ratios, figure("a", samples=QUIET)), report(ratios, figure("a", samples=scaled(5)))
    assert run(tmp_path, old, new).exit_code == 1
    assert run(tmp_path, old, new, "--ratios").exit_code == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("no json", report(figure("a", samples=QUIET))),
        (report(figure("a", samples=QUIET)), report(figure("b", samples=QUIET))),
        (report(figure("a", samples=QUIET)), report(figure("a", samples=QUIET), benchmark="tunnel")),
        (report(figure("a", samples=QUIET)), report(figure("a", samples=QUIET, unit="s"))),
    ],
)
def test_what_can_not_be_compared_gives_2_and_a_sentence(tmp_path: Path, old: Report | str, new: Report | str) -> None:
    result = run(tmp_path, old, new)
    assert result.exit_code == 2
    assert "ipsecfast bench: " in result.output


def test_a_gain_is_above_zero_when_it_is_better() -> None:
    faster = compare(report(figure("a", samples=QUIET)), report(figure("a", samples=scaled(0.5)))).changes[0]
    assert faster.gain == pytest.approx(0.5)
    assert faster.is_improvement
