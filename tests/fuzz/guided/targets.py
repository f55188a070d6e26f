"""The two targets: whatever they are given, nothing is raised, nothing takes long, nothing is kept."""

from __future__ import annotations

import contextlib
import time

from simulation import Gateway, Pair, own_cipher

from guided.lives import is_in_clear, kind_of, pair_in_state
from guided.records import Record, decode
from ipsecfast.errors import ProtocolError
from ipsecfast.ike.constants import Flags, PayloadType
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.wire.message import GENERIC_HEADER, HEADER, encode_message, parse_message
from ipsecfast.model import Path

MAX_SECONDS = 0.05  # of CPU for one datagram
MAX_USED = 200  # actions of a pair after which another one is made
MAX_KEPT = 64  # SAs and the like of one endpoint after a handful of datagrams


class Clock:
    """The slowest call so far, in CPU seconds."""

    def __init__(self) -> None:
        self.slowest = 0.0
        self.calls = 0

    def note(self, seconds: float, what: str) -> None:
        self.calls += 1
        if seconds > self.slowest:
            self.slowest = seconds
            print(f"slowest so far: {1000 * seconds:.1f} ms, {what}", flush=True)


CLOCK = Clock()
USED: dict[int, Pair] = {}  # by kind of state, pairs that go on


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
    pair = USED.pop(kind_of(state), None) or pair_in_state(state)
    slowest = max((meet(pair, record) for record in records), default=0.0)
    for gateway in (pair.a, pair.b):
        context = gateway.endpoint.context
        kept = len(context.ike_sas), len(context.children.by_spi), len(context.half_open), len(context.timers)
        assert max(kept) < MAX_KEPT, f"{gateway.name} keeps {kept}"
    if goes_on(pair):
        USED[kind_of(state)] = pair
        return slowest
    for gateway in (pair.a, pair.b):
        gateway.endpoint.shutdown(pair.now)
    pair.run(120.0)
    for gateway in (pair.a, pair.b):
        check_gone(gateway)
    return slowest


def goes_on(pair: Pair) -> bool:
    """Both ends still have the one IKE SA that they began with, and nothing under way: it serves the next input too."""
    ends = [g.ike_sas for g in (pair.a, pair.b)]
    quiet = all(len(sas) == 1 and sas[0].state is IkeState.ESTABLISHED and not sas[0].current for sas in ends)
    return quiet and len(pair.a.performed) < MAX_USED


def check_gone(gateway: Gateway) -> None:
    counters, context = gateway.endpoint.counters, gateway.endpoint.context
    assert counters["datagrams"] == sum(counters[o] for o in Outcome)
    assert gateway.endpoint.idle, "an IKE SA does not go"
    assert not context.ike_sas, "a closed IKE SA is kept"
    assert not gateway.dataplane.inbound, "a Child SA is kept"
    assert not context.by_request


def meet(pair: Pair, record: Record) -> float:
    """The victim gets the message, sealed with the keys of its peer; CPU seconds that it takes."""
    sender, victim = (pair.a, pair.b) if record.how & 2 else (pair.b, pair.a)
    if record.how & 4:
        victim.endpoint.rekey("ab", None if record.how & 8 else "net0", pair.now)
        victim.perform()
    usable = [sa for sa in sender.ike_sas if sa.has_keys]
    if not usable:
        sender.initiate(None)
        pair.run(0.045)
        return 0.0
    sa = usable[-1] if record.how & 16 else usable[0]
    octets = sealed(sa, record)
    path = Path(victim.address, 500, sender.address, 500)
    began = time.process_time()
    victim.endpoint.receive_datagram(octets, path, pair.now)
    seconds = time.process_time() - began
    CLOCK.note(seconds, f"exchange {record.exchange}, {len(octets)} octets")
    pair.touch(victim)
    if record.how & 32:
        pair.run(1.0 if record.how & 64 else 0.03)
    return seconds


def sealed(sa: IkeSa, record: Record) -> bytes:
    """A datagram of `sa`'s owner with the chain inside of its SK payload, whatever that is."""
    response = bool(record.how & 1)
    flags = (Flags.RESPONSE if response else 0) | (Flags.INITIATOR if sa.initiator else 0)
    window = sa.window
    message_id = window.expected_request - 1 if response else window.next_request
    message_id = max(0, message_id + (1 if record.how & 128 else 0))
    spis = sa.spi_i, sa.spi_r
    if is_in_clear(record.exchange):
        length = HEADER.size + len(record.chain)
        return HEADER.pack(*spis, record.first, 0x20, record.exchange, flags, message_id, length) + record.chain
    cipher = own_cipher(sa)
    length = GENERIC_HEADER.size + cipher.sealed_length(len(record.chain))
    header = HEADER.pack(*spis, PayloadType.SK, 0x20, record.exchange, flags, message_id, HEADER.size + length)
    header += GENERIC_HEADER.pack(record.first, 0, length)
    return header + cipher.seal(bytes(cipher.iv_length), header, record.chain)
