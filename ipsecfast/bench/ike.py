"""IKE alone: handshakes for each second of one CPU, ours beside charon of strongSwan in the same run, and many tunnels.

A subject, which is the daemon that is measured, keeps to the first CPU, the load generator (`ike_load`) to the second;
each in a namespace of its own. A handshake is IKE_SA_INIT and IKE_AUTH with a first Child SA, whose SAs, policies and
routes are installed. "handshakes" counts them for a second of CPU time that the subject used, all its threads together:
that is what one core could do, whatever else the machine does and however quick the generator is. `--against` makes
the generator a program of its own, against any responder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ipsecfast.bench.command import Settings, benchmark, finish, output_console
from ipsecfast.bench.ike_flood import FORGED, prepare
from ipsecfast.bench.ike_load import Plan
from ipsecfast.bench.ike_subjects import LOAD_ADDRESS, SUBJECT_ADDRESS, SUBJECTS, Charon, Ours, Proof, Sampled, Subject
from ipsecfast.bench.results import BenchError, Better, Figure, Reading, Requirement, ratio
from ipsecfast.bench.runner import VariantFailed
from ipsecfast.lab.netns import Namespace, join
from ipsecfast.lab.testbed import TestbedError
from ipsecfast.model import IKE_PORT, NAT_T_PORT

ROW_LABELS = ("proof", "subject is")
KINDS = ("psk", "ecdsa")
ROLES = ("responder", "initiator")
WARM_UP = 5  # handshakes before those that count
PARALLEL = 8
OF_CHARON = 0.5
MAX_TUNNEL_BYTES = 60_000
FLOOD_TUNNELS = 10
FLOOD_RATE = 10_000  # requests a second
REKEYS_BEFORE = 10  # of each tunnel
REKEY_MEANWHILE = "rekey meanwhile, p99"
ON_TIME = 1000.0  # milliseconds: a request that got lost would be sent again after 3,600
BESIDE_CHARON = "ipsecfast / charon"
SHARES = ("psk", "responder, CPU time")
SAMPLED = 4  # times the handshakes, so that there are a thousand samples


S = TypeVar("S", bound=Subject)


class Load:
    """The load generator in its namespace, on the second CPU."""

    def __init__(self, place: Namespace | None, plan: Plan) -> None:
        command = [sys.executable, "-m", "ipsecfast.bench.ike_load"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        if place is None:
            self._process = subprocess.Popen(command, text=True, **pipes)
        else:
            self._process = place.start(["taskset", "-c", "1", *command], **pipes)
        self.ask(json.dumps(asdict(plan)))

    def ask(self, command: str) -> Mapping[str, Any]:
        """The answer to a command. Raises TestbedError if the generator ended."""
        self.tell(command)
        return self.hear()

    def tell(self, command: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()

    def hear(self) -> Mapping[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise TestbedError(f"the load generator ended with {self._process.wait()}")
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    def all(self, command: str, count: int) -> Mapping[str, Any]:
        """Raises TestbedError if fewer than `count` came about."""
        answer = self.ask(command)
        if answer["done"] < count:
            raise TestbedError(f"{command!r}: {answer['done']} of {count} within {answer['seconds']:.0f} s")
        return answer

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(10)


@contextmanager
def stage(kind: type[S], proof: str, peers: int, *, encap: bool = True) -> Iterator[tuple[S, Namespace]]:
    """A subject that runs, with connections to initiate to `peers` of them, and the namespace of the generator."""
    with ExitStack() as undo:
        here, there = Namespace("subject"), Namespace("load")
        undo.callback(here.close)
        undo.callback(there.close)
        join(here, "outer", there, "outer")
        here.add_address("outer", f"{SUBJECT_ADDRESS}/24")
        here.add_address("lo", "10.1.0.1/24")
        here.sysctl(net__ipv4__ip_forward=1)
        there.add_address("outer", f"{LOAD_ADDRESS}/24")
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="ipsecfast-bench-")))
        subject = kind(here, folder / kind.name, Proof.make(proof), peers, encap=encap)
        undo.callback(subject.close)
        yield subject, there


@dataclass(frozen=True, slots=True)
class Handshakes:
    """One subject, one proof, one role."""

    kind: type[Subject]
    proof: str
    role: str
    count: int

    @property
    def name(self) -> str:
        return f"{self.kind.name}, {self.proof}, {self.role}"

    def measure(self) -> Iterator[Reading]:
        try:
            seconds = self._respond() if self.role == "responder" else self._initiate()
        except (TestbedError, OSError, subprocess.SubprocessError) as error:
            raise VariantFailed(str(error)) from error
        yield Reading((self.proof, self.role), self.kind.name, "handshakes/s", Better.HIGHER, self.count / seconds)

    def _respond(self) -> float:
        with stage(self.kind, self.proof, 0) as (subject, there):
            load = Load(there, subject.plan(initiator=True, peers=WARM_UP + self.count, parallel=PARALLEL))
            load.all(f"up {WARM_UP}", WARM_UP)
            before = subject.cpu()
            load.all(f"up {self.count}", self.count)
            used = subject.cpu() - before
            load.close()
            return used

    def _initiate(self) -> float:
        with stage(self.kind, self.proof, WARM_UP + self.count) as (subject, there):
            load = Load(there, subject.plan(initiator=False, peers=1, parallel=1))
            load.tell(f"up {WARM_UP + self.count}")
            for number in range(WARM_UP):
                subject.initiate(number)
            before = subject.cpu()
            for number in range(WARM_UP, WARM_UP + self.count):
                subject.initiate(number)
            used = subject.cpu() - before
            load.hear()
            load.close()
            return used


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the CPU time of our gateway as responder, how much goes where (`ike_profile`), in percent."""

    count: int

    @property
    def name(self) -> str:
        return f"{Sampled.name}, {self.count:,} handshakes"

    def measure(self) -> Iterator[Reading]:
        with stage(Sampled, "psk", 0) as (subject, there):
            load = Load(there, subject.plan(initiator=True, peers=WARM_UP + self.count, parallel=PARALLEL))
            load.all(f"up {WARM_UP}", WARM_UP)
            subject.begin()
            load.all(f"up {self.count}", self.count)
            counts = subject.end()
            load.close()
        total = max(1, sum(counts.values()))
        for group, samples in counts.items():
            yield Reading(SHARES, group, "%", Better.NEITHER, 100 * samples / total)


@dataclass(frozen=True, slots=True)
class Tunnels:
    """Many tunnels of one subject: how long it takes to set them up and to rekey them, and the memory of each."""

    kind: type[Subject]
    count: int

    @property
    def name(self) -> str:
        return f"{self.kind.name}, {self.count:,} tunnels"

    def measure(self) -> Iterator[Reading]:
        try:
            yield from self._measure()
        except (TestbedError, OSError, subprocess.SubprocessError) as error:
            raise VariantFailed(str(error)) from error

    def _measure(self) -> Iterator[Reading]:
        row = ("psk", f"{self.count} tunnels")
        with stage(self.kind, "psk", 0) as (subject, there):
            load = Load(there, subject.plan(initiator=True, peers=WARM_UP + self.count, parallel=PARALLEL))
            load.all(f"up {WARM_UP}", WARM_UP)
            before = subject.memory()
            up = load.all(f"up {self.count}", self.count)
            each = (subject.memory() - before) / self.count
            name = self.kind.name
            yield Reading(row, f"{name}, memory each", "bytes", Better.LOWER, each)
            yield Reading(row, f"{name}, up", "s", Better.LOWER, up["seconds"])
            for what, text in (("child", "Child SAs rekeyed"), ("ike", "IKE SAs rekeyed")):
                done = load.all(f"rekey {what}", self.count)
                yield Reading(row, f"{name}, {text}", "s", Better.LOWER, done["seconds"])
            load.close()


@dataclass(frozen=True, slots=True)
class Flood:
    """Our gateway with a few tunnels under `count` requests from as many forged addresses, tunnels and requests on the
    same `port`: how long its peers' rekeys take meanwhile, beside those before, and what memory is gone afterwards."""

    count: int
    port: int

    @property
    def name(self) -> str:
        return f"{Ours.name}, flood of {self.count:,} to port {self.port}"

    @property
    def row(self) -> tuple[str, str]:
        return "psk", f"under {self.count} requests to port {self.port}"

    def measure(self) -> Iterator[Reading]:
        with stage(Ours, "psk", 0, encap=self.port == NAT_T_PORT) as (subject, there):
            there.run(prepare)
            subject.place.add_route(str(FORGED), LOAD_ADDRESS)
            load = Load(there, subject.plan(initiator=True, peers=FLOOD_TUNNELS, parallel=1))
            load.all(f"up {FLOOD_TUNNELS}", FLOOD_TUNNELS)
            before = [time for _ in range(REKEYS_BEFORE) for time in load.all("rekey child", FLOOD_TUNNELS)["times"]]
            memory = subject.memory()
            command = ["taskset", "-c", "1", sys.executable, "-m", "ipsecfast.bench.ike_flood"]
            flood = there.start([*command, SUBJECT_ADDRESS, str(self.port), str(self.count), str(FLOOD_RATE)])
            meanwhile, again = [], 0
            while flood.poll() is None:
                rekeyed = load.all("rekey child", FLOOD_TUNNELS)
                meanwhile += rekeyed["times"]
                again += rekeyed["retransmissions"]
            yield Reading(self.row, "rekey before, p99", "ms", Better.LOWER, hundredth(before))
            yield Reading(self.row, REKEY_MEANWHILE, "ms", Better.LOWER, hundredth(meanwhile))
            yield Reading(self.row, "rekeys meanwhile", "", Better.NEITHER, len(meanwhile))
            yield Reading(self.row, "requests of theirs sent again", "", Better.LOWER, again)
            yield Reading(self.row, "memory grown", "MB", Better.LOWER, (subject.memory() - memory) / 1e6)
            load.close()


def hundredth(times: Sequence[float]) -> float:
    """What the quickest of the slowest hundredth took."""
    return sorted(times)[len(times) * 99 // 100]


def ratios(figures: Mapping[str, Figure]) -> Iterator[Figure]:
    for proof in KINDS:
        for role in ROLES:
            ours, theirs = (figures.get(f"{proof}/{role}/{kind.name}") for kind in (Ours, Charon))
            if ours is not None and theirs is not None:
                yield ratio((proof, role), BESIDE_CHARON, ours, theirs)


def requirements(tunnels: int, floods: Sequence[Flood]) -> Iterator[Requirement]:
    for role in ROLES:
        yield Requirement(f"psk/{role}/{BESIDE_CHARON}", OF_CHARON, "accepted")
    if tunnels:
        name = f"psk/{tunnels} tunnels/{Ours.name}, memory each"
        yield Requirement(name, MAX_TUNNEL_BYTES, "accepted", at_least=False)
    for flood in floods:
        yield Requirement("/".join((*flood.row, REKEY_MEANWHILE)), ON_TIME, "accepted", at_least=False)


def charge(plan: Plan, count: int, say: Callable[[str], None]) -> None:
    """The generator against a responder that is there already."""
    load = Load(None, plan)
    try:
        up = load.ask(f"up {count}")
        say(
            f"{up['done']} of {count} IKE SAs with a Child SA in {up['seconds']:.2f} s, "
            f"{up['done'] / max(up['seconds'], 1e-9):.0f} a second; half within {up['p50']:.1f} ms, "
            f"99 of 100 within {up['p99']:.1f} ms; {up['retransmissions']} retransmissions; "
            f"the generator used {up['cpu']:.2f} s of CPU"
        )
        if up["done"] < count:
            raise BenchError(f"{count - up['done']} did not come about; the responder's log tells why")
    finally:
        load.close()


@click.command()
@click.option("--handshakes", type=click.IntRange(1, 20_000), help="Of each measurement. [default: 500; quick: 60]")
@click.option("--tunnels", type=click.IntRange(0, 50_000), help="Set up, rekeyed. [default: 5000; quick: 200]")
@click.option("--flood", type=click.IntRange(0, 1_000_000), help="Forged requests. [default: 100000; quick: 5000]")
@click.option("--against", metavar="ADDRESS", help="Load this responder instead, from port 500 of this machine.")
@click.option(
    "--id", "identity", default="peer{}.bench.test", show_default=True, help="With --against: ours, {} a number."
)
@click.option("--remote-id", default="", help="With --against: the responder's. [default: its address]")
@click.option("--secret", default="", help="With --against: the pre-shared key.")
@click.option("--remote-ts", default="10.1.0.0/24", show_default=True, help="With --against: the network behind it.")
@click.option("--parallel", type=click.IntRange(1, 1000), default=PARALLEL, show_default=True, help="At a time.")
@benchmark(rounds=5, quick_rounds=1, time_limit=1200)
def command(settings: Settings, **options: Any) -> None:
    """Handshakes for a second of one CPU, ours beside strongSwan's charon; thousands of tunnels; a load generator."""
    count = options["handshakes"] or (60 if settings.quick else 500)
    tunnels = (200 if settings.quick else 5000) if options["tunnels"] is None else options["tunnels"]
    flood = (5000 if settings.quick else 100_000) if options["flood"] is None else options["flood"]
    if options["against"] is not None:
        if options["local"] is None:
            raise BenchError("--against needs --local, the address that the responder's answers go to")
        plan = Plan(
            initiator=True, peers=count, local=options["local"], remote=options["against"],
            identity=options["identity"], remote_identity=options["remote_id"] or options["against"],
            secret=options["secret"], remote_network=options["remote_ts"], parallel=options["parallel"],
        )  # fmt: skip
        charge(plan, count, output_console().print)
        return
    notes = [f"{kind.name} is left out: {why}" for kind in SUBJECTS if (why := kind.missing())]
    present = [kind for kind in SUBJECTS if kind.missing() is None]
    handshakes = [Handshakes(kind, proof, role, count) for proof in KINDS for role in ROLES for kind in present]
    first = settings.runner.run("handshakes", handshakes, settings.rounds, warm_up=False, parts=2 if tunnels else 1)
    figures = first.figures | {figure.name: figure for figure in ratios(first.figures)}
    notes += first.notes
    figures |= settings.runner.run("shares", [Shares(SAMPLED * count)], 1, warm_up=False).figures
    if tunnels:
        many = settings.runner.run("tunnels", [Tunnels(kind, tunnels) for kind in present], 1, warm_up=False)
        figures |= many.figures
        notes += many.notes
    floods = [Flood(flood, port) for port in (IKE_PORT, NAT_T_PORT)] if flood else []
    if floods:
        figures |= settings.runner.run("flood", floods, 1, warm_up=False).figures
    finish(
        settings, "ike", figures=figures, rounds=first.rounds, row_labels=ROW_LABELS,
        parameters={
            "handshakes": count, "tunnels": tunnels, "flood": flood,
            "charon": Charon.version() if len(present) > 1 else "",
        },
        notes=notes, requirements=tuple(requirements(tunnels, floods)),
    )  # fmt: skip
