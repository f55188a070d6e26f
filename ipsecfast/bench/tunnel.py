"""End to end: two hosts, two gateways, and between these nothing, ipsecfast or a rival, interleaved round by round.

    host A --- gateway A ===== gateway B --- host B      everything on the cores of this machine, senders included

Every contender stands in a topology of its own (`contenders`), and all stand at the same time, so that each round meets
them all in the same minute. Senders, receivers and their options are the same for everybody (`load`). What counts are
the ratios within a round; absolute figures say much about the machine.

What is counted as CPU: user and system time of the gateways' processes with all threads, and beside it the time that
the whole machine spent in softirqs (the kernel's own forwarding, senders and receivers included), each by the Gbit that
one TCP stream carried. A rival that does its work in the kernel would show in the second only.

What is received of a UDP flood is what iperf3's receiver took out of its socket buffer (208 KB). Through fast gateways
most of the loss is there, not in them: the figure is then the CPU that sender and gateways leave to the receiver.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from ipsecfast.bench.command import Settings, benchmark, finish
from ipsecfast.bench.contenders import Contender, Ipsecfast, Maker, PlainVeth, first_line
from ipsecfast.bench.load import Counted, CpuTime, Latency, highest_rate, in_tcp, ping_for, tcp, udp_flood
from ipsecfast.bench.results import BenchError, Better, Figure, Reading, Requirement, ratio
from ipsecfast.bench.rivals import RIVALS
from ipsecfast.errors import IpsecError
from ipsecfast.lab.testbed import TestbedError
from ipsecfast.values import ENGINES

PLAIN = "plain veth"
SIZES = (64, 1400)
TRIAL_SECONDS = 0.4
RINGS = ("packet", "xdp")
REASON = 300  # characters of why somebody is left out: the end of a log


# ---- what is measured of one contender, in one visit ----


def _rate(contender: Contender, column: str, unit: str, value: float) -> Reading:
    return Reading((contender.name,), column, unit, Better.HIGHER, value)


def _latency(contender: Contender, when: str, latency: Latency) -> Iterator[Reading]:
    for name, value in (("p50", latency.p50), ("p99", latency.p99)):
        yield Reading((contender.name,), f"ping {when}, {name}", "ms", Better.LOWER, value)


def measure_tcp(contender: Contender, seconds: float) -> Iterator[Reading]:
    before = CpuTime.now(contender.pids)
    rate = tcp(contender.sites, 1, seconds)
    spent = CpuTime.now(contender.pids).since(before)
    yield _rate(contender, "TCP 1", "Gbit/s", rate)
    yield _rate(contender, "TCP 4", "Gbit/s", tcp(contender.sites, 4, seconds))
    yield _rate(contender, "TCP 1 back", "Gbit/s", tcp(contender.sites, 1, seconds, back=True))
    yield _rate(contender, "TCP 4 back", "Gbit/s", tcp(contender.sites, 4, seconds, back=True))
    gigabits = rate * seconds
    for column, cpu in (("gateways' CPU", spent.processes), ("softirq", spent.softirq)):
        yield Reading((contender.name,), column, "s/Gbit", Better.LOWER, cpu / gigabits if gigabits else 0.0)


def measure_udp(contender: Contender, seconds: float) -> Iterator[Reading]:
    for size in SIZES:
        received, latency = udp_flood(contender.sites, size, seconds)
        yield _rate(contender, f"UDP {size} received", "kpps", received)
        yield from _latency(contender, f"in UDP {size}", latency)


def measure_lossless(contender: Contender, seconds: float) -> Iterator[Reading]:
    for size in SIZES:
        found = highest_rate(Counted(contender.sites, size, min(seconds, TRIAL_SECONDS)).trial)
        yield _rate(contender, f"UDP {size} no loss", "kpps", found / 1000)


def measure_latency(contender: Contender, seconds: float) -> Iterator[Reading]:
    yield from _latency(contender, "idle", ping_for(contender.sites, seconds))
    yield from _latency(contender, "in TCP", in_tcp(contender.sites, seconds))


TESTS: Mapping[str, Callable[[Contender, float], Iterator[Reading]]] = {
    "tcp": measure_tcp,
    "udp": measure_udp,
    "lossless": measure_lossless,
    "latency": measure_latency,
}


@dataclass(frozen=True, slots=True)
class Visit:
    """One test of one contender, as the runner sees it."""

    contender: Contender
    test: Callable[[Contender, float], Iterator[Reading]]
    seconds: float

    @property
    def name(self) -> str:
        return self.contender.name

    def measure(self) -> list[Reading]:
        return list(self.test(self.contender, self.seconds))


# ---- who is measured ----


def our_kinds() -> dict[str, Maker]:
    """Ours by name: each engine over sockets and TUN, and each ring port on both sides with the first engine."""
    sockets = {engine: _gateways({"engine": engine}) for engine in ENGINES}
    rings = {
        ring: _gateways({"engine": ENGINES[0], "outer": f"{ring}:outer", "inner": f"{ring}:inner"}) for ring in RINGS
    }
    return sockets | rings


def _gateways(settings: Mapping[str, str]) -> Maker:
    return lambda name, folder: Ipsecfast(f"ours {name}", folder, settings)


def makers(ours: Sequence[str], rivals: Sequence[str]) -> tuple[dict[str, Maker], list[str]]:
    """Those that can stand here, and why the others can't."""
    found: dict[str, Maker] = {PLAIN: PlainVeth}
    found |= {name: maker for name, maker in our_kinds().items() if name in ours}
    notes = []
    for name in rivals:
        rival = RIVALS[name]
        if reason := rival.missing():
            notes.append(f"{name} is left out: {reason}")
        else:
            found[name] = rival
    return found, notes


def choose(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    """ "all", "none" or names behind commas."""
    if text in ("all", "none"):
        return tuple(known) if text == "all" else ()
    names = tuple(part.strip() for part in text.split(","))
    if unknown := [name for name in names if name not in known]:
        raise BenchError(f"no {what} {', '.join(unknown)}; there is: {', '.join(known)}")
    return names


def set_up(found: Mapping[str, Maker], folder: Path, undo: ExitStack, notes: list[str]) -> list[Contender]:
    """Contenders with packets passing. One that does not come up is left out, but for the two that all is about."""
    standing: list[Contender] = []
    for name, maker in found.items():
        try:
            contender = maker(name, folder / name.replace(" ", "-"))
        except (TestbedError, OSError, IpsecError) as error:
            if name in (PLAIN, ENGINES[0]):
                raise BenchError(f"{name}: {error}") from error
            notes.append(f"{name} is left out: {' '.join(str(error).split())[-REASON:]}")
            continue
        undo.callback(contender.close)
        standing.append(contender)
    return standing


def why_not() -> str | None:
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun to open"
    return None if shutil.which("iperf3") else "iperf3 is not installed"


# ---- what follows from it ----


def ratios(figures: Mapping[str, Figure], contenders: Sequence[Contender]) -> dict[str, Figure]:
    """Each of ours beside the others and beside the best of ours, and its 4 streams beside its 1, round by round."""
    found = dict(figures)
    for ours in (one for one in contenders if one.kind == "ours"):
        beside = [one for one in contenders if one.kind != "ours" or one.name == best()]
        mine = [figure for figure in figures.values() if figure.row == (ours.name,)]
        for other in beside:
            pairs = [(one, figures.get(f"{other.name}/{one.column}")) for one in mine if one.better is Better.HIGHER]
            for one, theirs in pairs:
                if other is not ours and theirs is not None:
                    quotient = ratio((f"{ours.name} : {other.name}",), one.column, one, theirs)
                    found[quotient.name] = quotient
        four, single = (figures.get(f"{ours.name}/TCP {streams}") for streams in (4, 1))
        if four is not None and single is not None:
            quotient = ratio((f"{ours.name} : itself",), "TCP 4 : TCP 1", four, single)
            found[quotient.name] = quotient
    return found


def best() -> str:
    """The kind of ours that is held to what is accepted: the first engine, over sockets and TUN."""
    return f"ours {ENGINES[0]}"


def requirements(tests: Sequence[str]) -> Iterator[Requirement]:
    """What is accepted, of the chosen tests."""
    ours = best()
    if "tcp" in tests:
        for other, bound in (("wireguard-go", 2.5), ("strongswan", 12.0), (PLAIN, 0.18)):
            yield Requirement(f"{ours} : {other}/TCP 1", bound, "TCP, 1 stream")
        yield Requirement(f"{ours} : itself/TCP 4 : TCP 1", 0.95, "4 streams no lower, within 5 %")
        if len(ENGINES) > 1:
            yield Requirement(f"ours openssl : {ours}/TCP 1", 0.85, "with OpenSSL alone")
    if "udp" in tests:
        for size, of_plain in ((64, 0.60), (1400, 0.40)):
            column = f"UDP {size} received"
            yield Requirement(f"{ours} : {PLAIN}/{column}", of_plain, "UDP flood")
            yield Requirement(f"{ours} : wireguard-go/{column}", 3.0, "UDP flood")
            yield Requirement(f"{ours}/ping in UDP {size}, p50", 5.0, "ping meanwhile", at_least=False)
    if "lossless" in tests:
        for ring in RINGS:
            yield Requirement(f"ours {ring} : {ours}/UDP 64 no loss", 2.0, "rings beside sockets and TUN")


@click.command()
@click.option("--ours", default="all", show_default=True, help="Kinds of ours, by name.")
@click.option("--rivals", default="all", show_default=True, help='Rivals by name, "all" that are installed, or "none".')
@click.option("--only", default="all", show_default=True, help="Tests by name: " + ", ".join(TESTS) + ".")
@click.option("--seconds", type=click.FloatRange(1, 60), help="Of one measurement. [default: 3; quick: 1]")
@benchmark(rounds=5, quick_rounds=1, time_limit=3600)
def command(settings: Settings, ours: str, rivals: str, only: str, seconds: float | None) -> None:
    """Whole tunnels between two hosts of this machine, beside every rival that is installed. Needs root."""
    tests = choose(only, tuple(TESTS), "test")
    found, notes = makers(choose(ours, tuple(our_kinds()), "kind of ours"), choose(rivals, tuple(RIVALS), "rival"))
    if reason := why_not():
        raise BenchError(reason)
    chosen = seconds or (1.0 if settings.quick else 3.0)
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory(prefix="ipsecfast-bench-") as folder, ExitStack() as undo:
        settings.console.print("starting " + ", ".join(found), style="dim")
        contenders = set_up(found, Path(folder), undo, notes)
        versions = {one.name: one.version for one in contenders} | {"iperf3": first_line(["iperf3", "--version"])}
        for number, test in enumerate(tests):
            visits = [Visit(one, TESTS[test], chosen) for one in contenders]
            outcome = settings.runner.run(
                test, visits, settings.rounds, warm_up=not settings.quick, parts=len(tests) - number
            )
            figures |= outcome.figures
            notes += outcome.notes
    finish(
        settings, "tunnel", figures=ratios(figures, contenders), rounds=settings.rounds,
        parameters={"tests": list(tests), "seconds": chosen, "versions": versions},
        row_labels=("who",), notes=notes, requirements=tuple(requirements(tests)),
    )  # fmt: skip
