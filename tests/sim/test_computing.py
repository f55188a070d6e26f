"""Handlers that wait for work beside the event loop (`ike/work.py`): what waits, what goes on, what ends.

Here nothing is computed at once, and everything takes up to `computing` seconds, in any order.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from simulation import Link, Pair, child, connection, replay_seed, run_quiet
from test_certificate_auth import by_certificate

from ipsecfast.configured import ConnectionConfig
from ipsecfast.ike.actions import Compute
from ipsecfast.ike.context import Settings
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.states import Cause, IkeState
from ipsecfast.ike.timers import Backoff
from ipsecfast.ike.whereabouts import probe
from ipsecfast.model import IKE_PORT, Path, StartAction

SLOW = Settings(offload_from=0.0, retransmit=Backoff(timeout=2.0, base=1.3, tries=12))
HYBRID = "aes128gcm16-prfsha256-x25519-ke1_mlkem768"
ESP_HYBRID = "aes128gcm16-x25519-ke1_mlkem768"


def make(computing: float = 1.0, *, seed: int = 1, hybrid: bool = False, settings: Settings = SLOW) -> Pair:
    ike, esp = ((HYBRID,), (ESP_HYBRID,)) if hybrid else (("aes128gcm16-prfsha256-x25519",), ("aes128gcm16-x25519",))
    ends = [connection(x, ike=ike, children=(child("net", x, esp=esp),)) for x in "ab"]
    pair = Pair(*ends, seed=seed, settings=settings)
    pair.computing = computing
    return pair


def up(pair: Pair) -> Pair:
    pair.a.initiate()
    run_quiet(pair, 30.0)
    assert pair.a.established, pair.text()
    return pair


@pytest.mark.parametrize("hybrid", [False, True])
def test_all_that_is_expensive_may_be_late(hybrid: bool) -> None:
    pair = up(make(hybrid=hybrid))
    for name in ("net", None):
        pair.a.rekey(name)
        run_quiet(pair, 30.0)
        pair.b.rekey(name)
        run_quiet(pair, 30.0)
    pair.check_converged(children=1)
    for gateway in (pair.a, pair.b):
        assert sum(isinstance(action, Compute) for action in gateway.performed) >= 5
        assert gateway.endpoint.counters[Outcome.DEFERRED] == 0


def test_signatures_and_paths_too() -> None:
    pair = Pair(by_certificate("a"), by_certificate("b"), settings=SLOW)
    pair.computing = 1.0
    up(pair)
    pair.check_converged(children=1)


def test_the_exchange_is_the_same_as_ever() -> None:
    """What is late changes nothing that is said."""
    slow, quick = up(make(0.3)), make(0.0, settings=Settings())
    assert up(quick).exchange() == slow.exchange()


def test_requests_that_come_again_meanwhile_are_not_computed_again() -> None:
    pair = make(20.0)
    pair.link = Link(duplicate=1.0)
    pair.a.initiate()
    pair.run(100.0)
    for gateway in (pair.a, pair.b):
        numbers = [action.job for action in gateway.performed if isinstance(action, Compute)]
        assert len(numbers) == len(set(numbers)) <= 4, pair.text()
    assert pair.b.endpoint.counters[Outcome.DUPLICATE]
    pair.check_converged(children=1)


def test_a_message_waits_for_the_work_of_another_one() -> None:
    """The peer asks whether we live while we compute the key exchange of our own rekey: answered when that is done."""
    pair = up(make(0.0))
    pair.computing = 5.0
    pair.a.endpoint.rekey("ab", "net", pair.now)
    pair.a.perform()
    probe(pair.b.established[0], pair.now)
    pair.b.perform()
    pair.run(0.1)
    assert pair.a.established[0].held is not None
    assert pair.a.endpoint.counters[Outcome.DEFERRED] == 1
    run_quiet(pair, 60.0)
    assert pair.a.endpoint.counters[Outcome.DEFERRED] == 0
    pair.check_converged(children=1)


@pytest.mark.parametrize("what", ["operator", "timeout", "peer"])
def test_an_ike_sa_that_closes_takes_its_work_along(what: str) -> None:
    pair = up(make(0.0))
    pair.computing = 5.0
    pair.a.endpoint.rekey("ab", "net", pair.now)
    pair.a.perform()
    sa = pair.a.established[0]
    assert sa.job is not None
    if what == "operator":
        pair.a.terminate()
    else:
        sa.close(Cause.PEER_DEAD if what == "timeout" else Cause.PEER_DELETED, pair.now)
        assert sa.job is None
        assert not pair.a.endpoint.context.jobs.waiting
    run_quiet(pair)
    assert not pair.a.ike_sas
    assert not pair.a.endpoint.context.children.spis._used, "the SPI that was reserved is given back"


def test_a_responder_gives_back_what_it_reserved() -> None:
    pair = up(make(0.0))
    pair.a.rekey("net")
    pair.computing = 5.0
    pair.run(0.1)
    sa = pair.b.established[0]
    assert sa.answering
    sa.close(Cause.PEER_DEAD, pair.now)
    assert not pair.b.endpoint.context.children.spis._used
    assert pair.b.endpoint.counters[Outcome.ABANDONED] == 1


def test_a_half_open_ike_sa_expires_while_it_computes() -> None:
    pair = make(0.0, settings=replace(SLOW, half_open_timeout=1.0))
    pair.a.initiate()
    pair.run(0.01)
    pair.computing = 1000.0
    pair.run(1.5)
    assert not pair.b.ike_sas
    assert not pair.b.endpoint.context.half_open
    assert pair.b.endpoint.context.jobs.of_strangers == 0


def test_strangers_work_is_bounded() -> None:
    """Computations for half-open IKE SAs don't queue without bound; one that is turned away comes again."""
    pair = make(0.0, settings=replace(SLOW, half_open_work=3, cookie_threshold=100))
    pair.a.initiate()
    (first,) = [line.data for line in pair.transcript if hasattr(line, "data")]
    pair.computing = 1000.0
    for number in range(1, 11):
        data = number.to_bytes(8, "big") + first[8:]
        pair.b.receive(data, Path(pair.b.address, IKE_PORT, pair.a.address, IKE_PORT))
    assert pair.b.endpoint.context.jobs.of_strangers == 3
    assert pair.b.endpoint.counters[Outcome.HALF_OPEN_REFUSED] == 7
    pair.b.perform()
    jobs = [action for action in pair.b.performed if isinstance(action, Compute)]
    assert [job.urgent for job in jobs] == [False] * 3


def test_what_can_not_be_computed_is_a_temporary_failure() -> None:
    pair = up(make(0.0))
    pair.a.rekey("net")
    pair.computing = 1.0
    pair.run(0.03)
    (job,) = pair.b.endpoint.context.jobs.waiting
    pair.b.endpoint.handle_result(job, MemoryError("no room"), pair.now)
    pair.b.perform()
    assert pair.exchange()[-1] == "<-- b CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}"
    run_quiet(pair)
    pair.check_converged(children=1)


def busy(me: str) -> ConnectionConfig:
    start = StartAction.TRAP
    children = tuple(
        child(f"net{n}", me, esp=(ESP_HYBRID,), start_action=start, dpd_action=start, close_action=start)
        for n in (0, 1)
    )
    return connection(me, ike=(HYBRID,), children=children, dpd_delay=15.0, keyingtries=0)


@pytest.mark.parametrize("seed", [replay_seed()] if replay_seed() is not None else range(60))
def test_any_order_ends_in_agreement(seed: int) -> None:
    """Rekeys, initiations and deletes by both ends, each computation takes its time."""
    rng = random.Random(seed)
    pair = Pair(busy("a"), busy("b"), seed=seed, link=Link(jitter=0.05, loss=0.1, duplicate=0.1), settings=SLOW)
    pair.computing = rng.choice([0.05, 0.5, 3.0])
    pair.keys.honest = False  # who needs so long to take the first response has no SA yet when the peer's packets come
    pair.start()
    for _ in range(12):
        gateway = rng.choice((pair.a, pair.b))
        name = rng.choice([None, "net0", "net1"])
        what = rng.choice([gateway.endpoint.initiate, gateway.endpoint.rekey, gateway.endpoint.rekey])
        if rng.random() < 0.15:
            what = gateway.endpoint.terminate
        what("ab", name, pair.now)
        pair.run(rng.choice([0.0, 0.02, 0.05, 0.5, 10.0, 30.0]))
    pair.link = Link()
    pair.computing = 0.01
    for gateway in (pair.a, pair.b):
        for reqid in gateway.dataplane.traps:
            gateway.dataplane.send(reqid)
    run_quiet(pair)
    pair.check_converged()


def test_the_order_of_packets_and_work_loses_nothing() -> None:
    pair = up(make(0.0))
    pair.computing = 0.7
    pair.traffic(60.0, every=0.05)
    for _ in range(5):
        for gateway in (pair.a, pair.b):
            gateway.endpoint.rekey("ab", None, pair.now)
            gateway.endpoint.rekey("ab", "net", pair.now)
        pair.run(10.0)
    run_quiet(pair)
    assert pair.lost == 0, pair.text()
    pair.check_converged(children=1)
    assert all(sa.state is IkeState.ESTABLISHED for sa in pair.a.ike_sas)
