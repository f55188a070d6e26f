"""The two targets: whatever they are given, nothing is raised, nothing takes long, nothing is kept."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterable
from zlib import crc32

from simulation import Gateway, Network, Pair

from guided.hostile import datagrams
from guided.lives import kind_of, pair_in_state
from guided.records import Record, decode
from guided.rewind import Snapshot, reachable
from guided.whims import WHIMS
from ipsecfast.errors import ProtocolError
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.wire.message import encode_message, parse_message
from ipsecfast.model import Path

MAX_SECONDS = 0.05  # of CPU for one datagram
MAX_KEPT = 64  # SAs and the like of one endpoint after a handful of datagrams
MAX_LEFT = 100  # objects that a pair has more of when all is over than one to which nothing was sent
ONE_IN = 32  # inputs is sent over and over, and then followed to the end
TIMES = 8


class Clock:
    """The slowest call so far, in CPU seconds."""

    def __init__(self) -> None:
        self.slowest = 0.0

    def note(self, seconds: float, what: Callable[[], str]) -> None:
        if seconds > self.slowest:
            self.slowest = seconds
            print(f"slowest so far: {1000 * seconds:.1f} ms, {what()}", flush=True)


class Stage:
    """A pair in one state, which is put back before each input."""

    def __init__(self, number: int) -> None:
        self.pair = pair_in_state(number)
        self.snapshot = Snapshot(self.pair)
        see_out(self.pair)
        self.left = kept_by(self.pair)
        gc.collect()
        gc.freeze()  # it is for good: collections that look through all stages would take longer than any datagram

    def reset(self) -> Pair:
        self.snapshot.restore()
        return self.pair


CLOCK = Clock()
STAGES: dict[int, Stage] = {}  # by kind of state


def parser(data: bytes) -> None:
    """What is accepted can be written again and then reads the same."""
    with contextlib.suppress(ProtocolError):
        message = parse_message(data)
        again = parse_message(encode_message(message))
        assert again.payloads == message.payloads


def endpoint(data: bytes) -> None:
    """A life that is cut short by what `data` says; a datagram that took long is tried twice more."""
    times = [run(data)]
    while times[-1] > MAX_SECONDS and len(times) < 3:
        times.append(run(data))
    assert min(times) <= MAX_SECONDS, f"a datagram takes {1000 * min(times):.0f} ms"


def run(data: bytes) -> float:
    """Seconds of the slowest datagram."""
    state, records = decode(data)
    kind = kind_of(state)
    if kind not in STAGES:
        STAGES[kind] = Stage(kind)
    pair = STAGES[kind].reset()
    slowest = meet_all(pair, records)
    for gateway in (pair.a, pair.b):
        check_bounded(gateway, MAX_KEPT)
    if crc32(data) % ONE_IN == 0:
        follow(STAGES[kind], records)
    return slowest


def follow(stage: Stage, records: list[Record]) -> None:
    """The same again and again; then both ends take leave, and nothing of it all is left."""
    pair = stage.pair
    for _ in range(TIMES):
        meet_all(pair, records)
    for gateway in (pair.a, pair.b):
        check_bounded(gateway, MAX_KEPT * TIMES)
    see_out(pair)
    for gateway in (pair.a, pair.b):
        check_gone(gateway)
    left = kept_by(pair)
    assert left <= stage.left + MAX_LEFT, f"{left} objects are left, {stage.left} without the input"


def kept_by(pair: Pair) -> int:
    """Objects of both endpoints, without what the simulation remembers of them."""
    return len(reachable(pair.a.endpoint, pair.b.endpoint, beyond=(Network, Gateway)))


def see_out(pair: Pair) -> None:
    for gateway in (pair.a, pair.b):
        gateway.endpoint.shutdown(pair.now)
    pair.run(120.0)


def check_bounded(gateway: Gateway, most: int) -> None:
    context = gateway.endpoint.context
    kept = len(context.ike_sas), len(context.children.by_spi), len(context.half_open), len(context.timers)
    assert max(kept) < most, f"{gateway.name} keeps {kept}"


def check_gone(gateway: Gateway) -> None:
    counters, context = gateway.endpoint.counters, gateway.endpoint.context
    assert counters["datagrams"] == sum(counters[o] for o in Outcome)
    assert gateway.endpoint.idle, "an IKE SA does not go"
    assert not context.ike_sas, "a closed IKE SA is kept"
    assert not gateway.dataplane.inbound, "a Child SA is kept"
    assert not context.by_request
    assert not context.jobs.waiting


def meet_all(pair: Pair, records: Iterable[Record]) -> float:
    return max((meet(pair, record) for record in records), default=0.0)


def meet(pair: Pair, record: Record) -> float:
    """The victim gets the message, or does what it does of itself; CPU seconds of the slowest datagram."""
    victim = pair.b if record.how & 2 else pair.a
    if record.exchange >= 0x80:
        WHIMS[record.exchange % len(WHIMS)](pair, victim, record.chain)
        pair.touch(victim)
        return 0.0
    slowest = 0.0
    for octets, path in datagrams(pair, victim, record):
        slowest = max(slowest, deliver(victim, octets, path, pair.now))
    CLOCK.note(slowest, lambda: f"exchange {record.exchange}, {len(record.chain)} octets")
    pair.touch(victim)
    if record.how & 32:
        pair.run(1.0 if record.how & 64 else 0.03)
    return slowest


def deliver(victim: Gateway, octets: bytes, path: Path, now: float) -> float:
    began = time.process_time()
    victim.endpoint.receive_datagram(octets, path, now)
    return time.process_time() - began
