"""Tables and pictures from a stored report, and what the commands say when they can't."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from reports import figure, report

from ipsecfast.bench.results import Better, Report, Requirement
from ipsecfast.bench.table import number
from ipsecfast.cli import main

SAMPLE = report(
    figure("openssl", "64", samples=(300, 310, 305)),
    figure("openssl", "64", samples=(0.8, 0.82, 0.81), column="share", unit="ratio", better=Better.HIGHER),
    figure("openssl", "1400", samples=(1804, 1810, 1805)),
    figure("ipsec-mb", "64", samples=(31, 32, 30)),
    axis="bytes",
)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *(str(argument) for argument in arguments)])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    file = tmp_path / "sample.json"
    file.write_text(SAMPLE.to_json())
    return file


def test_the_table_has_a_row_a_subject_and_a_column_a_quantity(stored: Path) -> None:
    lines = run("table", stored, "--markdown").output.splitlines()
    assert lines[:5] == [
        "| what | bytes | time, ns | share |",
        "|---|---|---|---|",
        "| openssl | 64 | 305 | 0.81 |",
        "| openssl | 1400 | 1,805 |  |",
        "| ipsec-mb | 64 | 31.0 |  |",
    ]
    assert "Example 9000, 2 cores; Linux 6.1.0" in lines[-1]


def test_some_figures_of_a_report_are_chosen_by_name(stored: Path) -> None:
    lines = run("table", stored, "--markdown", "--only", "openssl/.*/time").output.splitlines()
    assert lines[0] == "| what | bytes | time, ns |"
    assert [line for line in lines if "ipsec-mb |" in line] == []
    for wrong, said in (("absent", "no figure has such a name"), ("(", "unterminated")):
        result = run("table", stored, "--only", wrong)
        assert result.exit_code == 1
        assert said in result.output


def test_the_table_for_people_shows_the_noise(stored: Path) -> None:
    output = run("table", stored).output
    assert "305 ±2%" in output
    assert "medians of 3 rounds" in output


def test_verdicts_and_notes_stand_below_the_table(stored: Path) -> None:
    verdicts = tuple(
        Requirement("openssl/64/time", bound, "quick", at_least=False).judge(SAMPLE.by_name()) for bound in (400, 200)
    )
    entry = Report(**{**{name: getattr(SAMPLE, name) for name in SAMPLE.__slots__}, "verdicts": verdicts,
                      "notes": ("a rival is not here",)})  # fmt: skip
    stored.write_text(entry.to_json())
    output = run("table", stored).output
    assert "note: a rival is not here" in output
    assert "held   quick: openssl/64/time <= 400: 305 ns" in output
    assert "FAILED quick: openssl/64/time <= 200: 305 ns" in output


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"),
                                             (0, "0.00"), (0.00123, "0.0012"), (-50, "-50.0")])  # fmt: skip
def test_numbers_have_the_digits_that_say_something(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("axis", ["bytes", ""])
def test_a_picture_is_drawn(stored: Path, tmp_path: Path, axis: str) -> None:
    pytest.importorskip("matplotlib")
    stored.write_text(SAMPLE.to_json().replace('"axis": "bytes"', f'"axis": "{axis}"'))
    assert run("picture", stored, tmp_path / "p.png").exit_code == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert run("picture", stored, tmp_path / "p.svg").exit_code == 0
    assert ElementTree.parse(tmp_path / "p.svg").getroot().tag.endswith("svg")


def test_without_matplotlib_the_command_says_what_to_install(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("picture", stored, "p.png")
    assert result.exit_code == 1
    assert "pip install 'ipsecfast[bench]'" in result.output


def test_a_picture_of_another_kind_is_refused_before_anything_is_measured() -> None:
    result = run("stages", "--quick", "--picture", "p.gif")
    assert result.exit_code == 1
    assert "a picture ends in .png or .svg" in result.output


def test_the_group_lists_benchmarks_and_what_is_done_with_reports() -> None:
    output = run("--help").output
    for command in ("stages", "compare", "table", "picture"):
        assert f"\n  {command}" in output
