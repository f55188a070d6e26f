"""`ipsecfast bench tunnel` in its shortest form, with plain veth and one of ours; and the arithmetic of its report."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from reports import figure

from ipsecfast.bench.contenders import Contender
from ipsecfast.bench.results import BenchError, Better, read_report
from ipsecfast.bench.rivals import RIVALS
from ipsecfast.bench.tunnel import PLAIN, TESTS, best, ratios, requirements, set_up
from ipsecfast.cli import main
from ipsecfast.lab.testbed import TestbedError
from ipsecfast.values import ENGINES


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "tunnel", *arguments])


@pytest.fixture
def topologies() -> None:
    if os.geteuid() != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("namespaces and TUN devices need root")
    if not shutil.which("iperf3"):
        pytest.skip("iperf3 is not installed")


@pytest.mark.timeout(180)
def test_every_test_gives_its_figures_for_plain_veth_and_for_ours(topologies: None, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    result = run("--quick", "--seconds", "1", "--ours", ENGINES[0], "--rivals", "none", "--json", str(file))
    assert result.exit_code == 0, result.output
    report = read_report(str(file))
    figures = report.by_name()
    for who in (PLAIN, best()):
        for column in ("TCP 1", "TCP 4", "TCP 1 back", "TCP 4 back", "UDP 64 received", "UDP 1400 received",
                       "UDP 64 no loss", "ping idle, p50", "ping in TCP, p99"):  # fmt: skip
            assert figures[f"{who}/{column}"].median > 0, column
    one, plain = figures[f"{best()}/TCP 1"], figures[f"{PLAIN}/TCP 1"]
    assert figures[f"{best()} : {PLAIN}/TCP 1"].median == pytest.approx(one.median / plain.median)
    assert figures[f"{PLAIN}/gateways' CPU"].median == 0 < figures[f"{best()}/gateways' CPU"].median


@pytest.mark.timeout(120)
@pytest.mark.parametrize("rival", RIVALS)
def test_each_rival_that_is_installed_carries_packets(topologies: None, rival: str, tmp_path: Path) -> None:
    if reason := RIVALS[rival].missing():
        pytest.skip(reason)
    contender = RIVALS[rival](rival, tmp_path)
    try:
        assert contender.version
        assert all(Path(f"/proc/{pid}").exists() for pid in contender.pids)
        assert len(contender.pids) == 2
    finally:
        contender.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in contender.pids)


def contenders(*names: str) -> list[Any]:
    return [SimpleNamespace(name=name, kind="ours" if name.startswith("ours") else "rival") for name in names]


def test_ratios_are_ours_beside_the_others_round_by_round() -> None:
    rates = {
        who: figure(who, samples=samples, column="TCP 1", unit="Gbit/s", better=Better.HIGHER)
        for who, samples in ((best(), (4, 1)), ("ours other", (2, 1)), ("rival", (1, 1)))
    }
    pings = figure("rival", samples=(1, 1), column="ping idle, p50", unit="ms")
    given = {one.name: one for one in (*rates.values(), pings)}
    found = ratios(given, contenders(best(), "ours other", "rival"))
    assert {name: one.samples for name, one in found.items() if name not in given} == {
        f"{best()} : rival/TCP 1": (4, 1),
        f"ours other : {best()}/TCP 1": (0.5, 1),
        "ours other : rival/TCP 1": (2, 1),
    }


def test_four_streams_are_held_against_one() -> None:
    figures = [
        figure(best(), samples=samples, column=column, unit="Gbit/s", better=Better.HIGHER)
        for column, samples in (("TCP 1", (4, 2)), ("TCP 4", (5, 2)))
    ]
    found = ratios({one.name: one for one in figures}, contenders(best()))
    assert found[f"{best()} : itself/TCP 4 : TCP 1"].samples == (1.25, 1)


def test_only_what_is_measured_is_required() -> None:
    assert not list(requirements(["latency"]))
    assert {one.figure.rpartition("/")[2] for one in requirements(["udp"])} == {
        "UDP 64 received", "UDP 1400 received", "ping in UDP 64, p50", "ping in UDP 1400, p50",
    }  # fmt: skip
    assert len(list(requirements(list(TESTS)))) > len(list(requirements(["udp"])))


def test_who_does_not_come_up_is_left_out_with_the_reason_but_not_the_best_of_ours(tmp_path: Path) -> None:
    def fails(name: str, folder: Path) -> Contender:
        raise TestbedError("no such\ndevice")

    notes: list[str] = []
    with ExitStack() as undo:
        assert set_up({"xdp": fails}, tmp_path, undo, notes) == []
        assert notes == ["xdp is left out: no such device"]
        with pytest.raises(BenchError, match=ENGINES[0]):
            set_up({ENGINES[0]: fails}, tmp_path, undo, notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--only", "icmp"), "no test icmp"),
        (("--rivals", "vpp"), "no rival vpp"),
        (("--ours", "abacus"), "no kind of ours abacus"),
    ],
)
def test_unknown_names_are_said_with_the_known_ones(options: tuple[str, str], said: str) -> None:
    result = run(*options)
    assert result.exit_code == 1
    assert said in result.output
    assert "there is: " in result.output
