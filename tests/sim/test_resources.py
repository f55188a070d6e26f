"""Per-resource Child SAs (RFC 9611): on demand, each rekeyed by itself, refused, unknown to the peer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulation import Gateway, Pair, child, connection, run_quiet

from ipsecfast.ike.child import LANES, SLOT_BITS, ChildState
from ipsecfast.ike.constants import NotifyType, TsMaxQueue
from ipsecfast.ike.extension.resources import SHARE, choose_resource, serves
from ipsecfast.ike.states import Cause
from ipsecfast.model import Acquire, FirstInbound, StartAction

REQID = 1


def pair_of(a: int, b: int, *, esp: tuple[str, ...] = ("aes128gcm16",), seed: int = 1, **options: object) -> Pair:
    """So many workers at each end."""
    sides = ((me, connection(me, children=(child("net", me, esp=esp, per_cpu_sas=count, **options),)))
             for me, count in (("a", a), ("b", b)))  # fmt: skip
    return Pair(**dict(sides), seed=seed)


def in_use(pair: Pair) -> None:
    """The first Child SA, which has carried a packet of a."""
    pair.up()
    pair.b.event(FirstInbound(pair.b.the_child().spi_in))
    pair.run(0.0)


def resources(gateway: Gateway) -> list[int | None]:
    return sorted((c.resource for c in gateway.children if c.live), key=lambda r: -1 if r is None else r)


def asks(gateway: Gateway, worker: int) -> None:
    gateway.event(Acquire(REQID, *gateway.packet_selectors(REQID), worker + 1))


def test_an_sa_for_all_then_one_for_a_worker() -> None:
    """s3."""
    pair = pair_of(2, 2)
    pair.up()
    assert pair.exchange()[-2:] == [
        "a --> IKE_AUTH {IDi, N(INITIAL_CONTACT), IDr, AUTH, N(SA_RESOURCE_INFO), SA, TSi, TSr}",
        "<-- b IKE_AUTH {IDr, AUTH, N(SA_RESOURCE_INFO), SA, TSi, TSr}",
    ]
    assert resources(pair.a) == resources(pair.b) == [0]
    (first,) = pair.a.children
    mark = pair.mark()
    asks(pair.a, 1)
    run_quiet(pair, 1.0)
    assert pair.exchange(mark) == [
        "a --> CREATE_CHILD_SA {N(SA_RESOURCE_INFO), SA, Ni, TSi, TSr}",
        "<-- b CREATE_CHILD_SA {N(SA_RESOURCE_INFO), SA, Nr, TSi, TSr}",
    ]
    assert resources(pair.a) == [0, 2]
    assert resources(pair.b) == [0, 1]  # each end has its own numbers (s5.1)
    own = next(c for c in pair.a.children if c.resource)
    assert (own.selectors, own.reqid, own.proposal.transforms) == (first.selectors, REQID, first.proposal.transforms)
    assert (own.spi_in >> SLOT_BITS) % LANES == 1  # worker 1 opens what comes for it (csrc/steer.h)
    assert (own.outbound.resource, first.outbound.resources) == (2, 2)
    pair.check_converged(children=1)


def test_under_traffic_every_worker_gets_its_own_and_nothing_is_lost() -> None:
    pair = pair_of(3, 3)
    pair.up()
    pair.traffic(3.0)
    run_quiet(pair)
    assert pair.lost == 0
    assert len(pair.a.children) <= 1 + 3 * SHARE  # both ends ask at once: one more than needed is no harm (s6)
    for gateway in (pair.a, pair.b):
        assert set(resources(gateway)) == {0, 1, 2, 3}
        assert {worker for _, worker in gateway.dataplane.own} == {0, 1, 2}
    assert (pair.b.dataplane.received, pair.a.dataplane.received) == (pair.a.dataplane.sent, pair.b.dataplane.sent)
    pair.check_converged(children=1)


@pytest.mark.parametrize(("a", "b", "both"), [(1, 4, 4), (4, 1, 1 * SHARE)])
def test_different_numbers_of_workers(a: int, b: int, both: int) -> None:
    """s4, s6: who has fewer takes all up to twice as many as it has, and spreads them."""
    pair = pair_of(a, b)
    pair.up()
    pair.traffic(3.0)
    run_quiet(pair)
    counts = [len(resources(g)) - 1 for g in (pair.a, pair.b)]
    assert counts == [min(both, SHARE * min(a, b))] * 2
    assert pair.lost == 0
    pair.check_converged(children=1)


def test_the_peer_knows_nothing_of_it() -> None:
    pair = pair_of(2, 0)
    pair.up()
    assert resources(pair.a) == resources(pair.b) == [None]
    assert pair.a.the_child().outbound.resources == 0
    asks(pair.a, 0)
    run_quiet(pair)
    pair.check_converged(children=1)


def test_an_ordinary_child_in_place_of_a_further_one_is_taken_back() -> None:
    pair = pair_of(2, 2)
    pair.up()
    mark = pair.mark()
    for connection_ in pair.b.endpoint.connections.values():  # as if its configuration had changed
        children = tuple(replace(c, per_cpu_sas=0) for c in connection_.config.children)
        connection_.config = replace(connection_.config, children=children)
    asks(pair.a, 0)
    run_quiet(pair)
    assert pair.exchange(mark)[2:] == ["a --> INFORMATIONAL {D}", "<-- b INFORMATIONAL {D}"]
    assert "resources-refused" in pair.a.events()
    assert resources(pair.a) == [0]


def test_no_more_with_ts_max_queue() -> None:
    """s5.2: then the peer is not asked again; what there is works on."""
    pair = pair_of(4, 1)
    pair.up()
    for worker in range(4):
        asks(pair.a, worker)
        run_quiet(pair, 1.0)
    assert "<-- b CREATE_CHILD_SA {N(TS_MAX_QUEUE)}" in pair.exchange()
    assert resources(pair.a) == [0, 1, 2]
    assert resources(pair.b) == [0, 1, 1]
    mark = pair.mark()
    asks(pair.a, 3)
    run_quiet(pair, 1.0)
    assert not pair.exchange(mark)
    pair.traffic(0.2)
    run_quiet(pair)
    assert pair.lost == 0
    assert resources(pair.a) == [0, 1, 2]


def test_who_has_none_for_all_gets_one_beyond_the_limit() -> None:
    """Which one is for all is each end's own affair: a may have lost its own where b has one, and enough others."""
    pair = pair_of(4, 1)
    in_use(pair)
    for worker in (0, 1):
        asks(pair.a, worker)
        run_quiet(pair, 1.0)
    assert resources(pair.b) == [0, *([1] * SHARE)]
    first = next(c for c in pair.b.children if not c.resource)
    with pytest.raises(TsMaxQueue):
        choose_resource(first.ike, first.config, first, b"\0\0\0\2")
    assert choose_resource(first.ike, first.config, first, b"") == 1


def test_both_ends_ask_at_once() -> None:
    """s4: each end counts what it has asked for when it chooses a worker for the other's."""
    pair = pair_of(2, 2)
    in_use(pair)
    asks(pair.a, 0)
    asks(pair.b, 0)
    run_quiet(pair, 1.0)
    assert resources(pair.a) == resources(pair.b) == [0, 1, 2]
    pair.check_converged(children=1)


def test_each_is_rekeyed_by_itself() -> None:
    """s3: the successor is for the same resource, at both ends."""
    pair = pair_of(2, 2, esp=("aes128gcm16-x25519",))
    in_use(pair)
    pair.traffic(1.0)
    run_quiet(pair, 2.0)
    before = {c.spi_in: c.resource for c in pair.a.children}
    chosen = next(c for c in pair.a.children if c.resource == 2)
    pair.traffic(1.0)
    chosen.ike.rekey_child(chosen, pair.now)
    run_quiet(pair, 20.0)
    after = {c.spi_in: c.resource for c in pair.a.children}
    assert sorted(after.values()) == [0, 1, 2]
    assert len(after.keys() & before.keys()) == 2
    new = next(c for c in pair.a.children if c.resource == 2)
    assert new.spi_in >> SLOT_BITS & (LANES - 1) == chosen.spi_in >> SLOT_BITS & (LANES - 1)
    assert pair.lost == 0
    pair.check_converged(children=1)


def test_many_rekeys_of_all_under_traffic_lose_nothing() -> None:
    pair = pair_of(2, 2)
    in_use(pair)
    pair.traffic(20.0)
    run_quiet(pair, 1.0)
    for turn in range(12):
        (pair.a, pair.b)[turn % 2].rekey("net")
        pair.run(1.2)
        if turn % 4 == 3:
            (pair.b, pair.a)[turn % 2].rekey(None)
            pair.run(0.4)
    run_quiet(pair)
    assert resources(pair.a) == resources(pair.b) == [0, 1, 2]
    assert pair.lost == 0
    pair.check_converged(children=1)


def test_one_that_the_peer_closes_leaves_the_others_and_is_not_made_anew_at_once() -> None:
    """s6: else two gateways could go on for ever."""
    pair = pair_of(2, 2, close_action=StartAction.START)
    in_use(pair)
    pair.traffic(0.5)
    run_quiet(pair, 1.0)
    victim = next(c for c in pair.b.children if c.resource == 1)
    mark = pair.mark()
    victim.ike.delete_child(victim, Cause.OPERATOR, pair.now)
    run_quiet(pair)
    assert pair.exchange(mark) == ["<-- b INFORMATIONAL {D}", "a --> INFORMATIONAL {D}"]
    assert len(resources(pair.a)) == 2
    asks(pair.a, next(r for r in (1, 2) if r not in resources(pair.a)) - 1)
    run_quiet(pair, 1.0)
    assert resources(pair.a) == resources(pair.b) == [0, 1, 2]


def test_terminate_closes_them_together() -> None:
    pair = pair_of(2, 2)
    pair.up()
    pair.traffic(0.5)
    run_quiet(pair, 1.0)
    pair.a.terminate("net")
    run_quiet(pair)
    assert not pair.a.children
    assert not pair.b.children
    pair.check_converged(children=0)


def test_other_algorithms_or_selectors_than_of_the_first_are_refused() -> None:
    """s3: identical properties."""
    pair = pair_of(2, 2)
    pair.up()
    config = pair.a.endpoint.connections["ab"].config.children[0]
    other = child("net", "a", esp=("aes256gcm16",), per_cpu_sas=2)
    first = pair.a.the_child()
    first.proposal = replace(first.proposal, transforms=other.esp_proposals[0].transforms)
    first.config = replace(config, esp_proposals=other.esp_proposals)
    asks(pair.a, 0)
    run_quiet(pair, 5.0)
    assert resources(pair.b) == [0]
    assert f"<-- b CREATE_CHILD_SA {{N({NotifyType.NO_PROPOSAL_CHOSEN.name})}}" in pair.exchange()


def test_classes_of_packets() -> None:
    """RFC 4301 s4.1: a resource is a class of DSCPs at one end, and a worker at the other."""
    classes = child("net", "a", dscp_classes=((46,), (34, 36)))
    pair = Pair(connection("a", children=(classes,)), connection("b", children=(child("net", "b", per_cpu_sas=2),)))
    pair.up()
    (first,) = pair.a.children
    assert (first.outbound.resources, first.outbound.dscp) == (2, ((46, 1), (34, 2), (36, 2)))
    asks(pair.a, 1)
    run_quiet(pair, 1.0)
    found = {c.resource: c for c in pair.a.children}
    assert [serves(found[resource]) for resource in (0, 2)] == ["all other DSCPs", "DSCP 34, 36"]
    assert [serves(c) for c in pair.b.children] == ["all workers", "worker 0"]
    pair.check_converged(children=1)


def test_a_worker_that_does_not_exist_asks_in_vain() -> None:
    pair = pair_of(2, 2)
    pair.up()
    mark = pair.mark()
    asks(pair.a, 7)
    pair.a.event(Acquire(99, *pair.a.packet_selectors(REQID), 1))
    run_quiet(pair, 1.0)
    assert not pair.exchange(mark)


def test_a_delete_of_what_both_rekeyed_leaves_its_inbound_half_for_packets_under_way() -> None:
    """RFC 7296 s2.25.1: our own rekey of it is lost on its way, and the peer's has come through."""
    pair = pair_of(1, 1)
    pair.up()
    asks(pair.a, 0)
    run_quiet(pair, 1.0)
    old = next(c for c in pair.a.children if c.resource == 1)
    theirs = next(c for c in pair.b.children if c.spi_in == old.spi_out)
    pair.link.drop = lambda sender, _: sender == "a" and old.collision is None
    old.ike.rekey_child(old, pair.now)
    theirs.ike.rekey_child(theirs, pair.now)
    pair.run(0.01)
    pair.link.drop = lambda sender, message: sender == "a" and not message.response
    pair.run(0.2)
    new = old.collision
    assert new is not None
    assert old.state is ChildState.CLOSED
    assert pair.a.dataplane.own[REQID, 0] == new.spi_out
    assert old.spi_in in pair.a.dataplane.inbound
    pair.link.drop = None
    run_quiet(pair)
    assert resources(pair.a) == resources(pair.b) == [0, 1]
    pair.check_converged(children=1)
