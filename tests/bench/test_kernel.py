"""`ipsecfast bench kernel`: what it makes of a guest's answers, which kernel it takes, how idle time is read.

One test boots a guest and sends a megabyte through it, if one can run here (-m slow).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ipsecfast.bench import guest
from ipsecfast.bench.counting import CountingError, idle_nanoseconds
from ipsecfast.bench.guest import GuestError, newest
from ipsecfast.bench.kernel import CONTEXTS, check_loop, parse_ways, readings, requirements, with_ratios
from ipsecfast.bench.kernel_guest import KERNEL, OTHERS, grown, task_times
from ipsecfast.bench.kernel_ways import WAYS
from ipsecfast.bench.results import BenchError, gather
from ipsecfast.cli import main

TIMER_LIST = """Timer List Version: v0.9
cpu: 0
  .nohz          : 1
  .idle_calls     : 3
  .idle_sleeptime : 1500000123 nsecs
  .iowait_sleeptime: 7000 nsecs
  .last_jiffies   : 4294892709
cpu: 1
  .idle_sleeptime : 5 nsecs
"""


def test_idle_time_is_that_of_all_cpus_with_and_without_io() -> None:
    assert idle_nanoseconds(TIMER_LIST) == 1_500_007_128


def test_a_kernel_that_does_not_tell_its_idle_time_is_refused() -> None:
    with pytest.raises(CountingError, match="idle"):
        idle_nanoseconds("Timer List Version: v0.9\n")


def test_the_newest_cloud_kernel_is_taken() -> None:
    names = [
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.12.9+deb12-cloud-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64",
        "linux-image-6.12.118+deb12-cloud-amd64-unsigned",
        "linux-image-6.12.118+deb12-amd64",
        "linux-image-cloud-amd64",
    ]
    assert newest(names) == "linux-image-6.12.117+deb12-cloud-amd64"


def test_no_kernel_is_an_error_that_says_what_helps() -> None:
    with pytest.raises(GuestError, match="apt-get update"):
        newest(["linux-image-amd64"])


def test_a_package_without_a_kernel_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = tmp_path / "broken.deb"
    broken.write_bytes(b"no package")
    with pytest.raises(GuestError, match="dpkg"):
        guest.fetch_kernel(tmp_path / "cache", broken)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("counted", "right"), [(1000, True), (1009, True), (999, False), (1011, False)])
def test_a_loop_counted_wrong_stops_the_measurement(counted: int, right: bool) -> None:
    line = {"expected": 1000, "counted": counted}
    if right:
        check_loop(line)
    else:
        with pytest.raises(GuestError, match="a loop of 1000"):
            check_loop(line)


def proc_entry(proc: Path, pid: int, cmdline: str, times: dict[int, int]) -> None:
    for task, spent in times.items():
        folder = proc / str(pid) / "task" / str(task)
        folder.mkdir(parents=True)
        (folder / "schedstat").write_text(f"{spent} 17 3\n")
    (proc / str(pid) / "cmdline").write_text(cmdline)


def test_time_is_told_by_label_and_by_thread(tmp_path: Path) -> None:
    proc_entry(tmp_path, 2, "", {2: 10})
    proc_entry(tmp_path, 900, "python", {900: 100, 901: 1000})
    proc_entry(tmp_path, 950, "sh", {950: 7})
    (tmp_path / "timer_list").write_text("")
    before = task_times({900: "gateway A"}, tmp_path)
    assert before == {"2": (KERNEL, 10), "900": ("gateway A", 100), "901": ("gateway A", 1000), "950": (OTHERS, 7)}
    proc_entry(tmp_path, 960, "late", {960: 50})
    (tmp_path / "900" / "task" / "901" / "schedstat").write_text("1500 1 1\n")
    after = task_times({900: "gateway A"}, tmp_path)
    assert grown(before, after) == {KERNEL: 0, "gateway A": 500, OTHERS: 50}


def answer(total: int, **contexts: int) -> dict[str, object]:
    return {"instructions": total, "contexts": contexts}


def test_figures_are_instructions_a_byte_and_parts_of_the_kernels_own() -> None:
    rounds = [
        [*readings("xfrm", 100, answer(2400, sender=2000)), *readings("ours-udp", 100, answer(1800, receiver=300))],
        [*readings("xfrm", 100, answer(2500, sender=2000)), *readings("ours-udp", 100, answer(2000, receiver=200))],
    ]
    figures = with_ratios(gather(rounds))
    ours = WAYS["ours-udp"].title
    assert figures[f"{ours}/instr/byte"].samples == (18.0, 20.0)
    assert figures[f"{ours}/receiver"].samples == (3.0, 2.0)
    assert figures[f"{ours}/of XFRM"].samples == (0.75, 0.8)
    verdicts = [requirement.judge(figures) for requirement in requirements()]
    assert [verdict.held for verdict in verdicts] == [True, True]


def test_what_was_not_measured_is_not_accepted() -> None:
    figures = with_ratios(gather([list(readings("plain", 100, answer(400)))]))
    assert not any(requirement.judge(figures).held for requirement in requirements())


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(BenchError, match=r"no way pigeon; there is: plain, ours-udp"):
        parse_ways("plain,pigeon")


def test_without_qemu_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest.os, "geteuid", lambda: 0)
    monkeypatch.setattr(guest.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", "")
    result = CliRunner().invoke(main, ["bench", "kernel", "--quick"])
    assert result.exit_code == 1
    assert "apt-get install" in result.output
    assert "qemu-system-x86" in result.output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_guest_counts(tmp_path: Path) -> None:
    reason = guest.missing()
    if reason is not None:
        pytest.skip(reason)
    file = tmp_path / "r.json"
    options = ["--rounds", "2", "--megabytes", "1", "--ways", "plain,xfrm,ours-udp", "--json", str(file)]
    result = CliRunner().invoke(main, ["bench", "kernel", *options])
    assert result.exit_code == 0, result.output
    entries = json.loads(file.read_text())["figures"]
    medians = {entry["row"][0]: entry["median"] for entry in entries if entry["column"] == "instr/byte"}
    plain, xfrm, ours = (medians[WAYS[name].title] for name in ("plain", "xfrm", "ours-udp"))
    assert 0.5 < plain < xfrm < 200
    assert plain < ours < 200
    parts = {entry["column"] for entry in entries if entry["row"] == [WAYS["ours-udp"].title]}
    assert set(CONTEXTS) <= parts
