"""Both ends begin at once (RFC 7296 s2.8.1, s2.8.2, s2.25). Chosen nonces decide; traffic runs all the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from simulation import NAT_ADDRESS, Gateway, Link, Pair, StartAction, child, connection, run_quiet

from ipsecfast.ike.actions import ActivateOutbound
from ipsecfast.ike.child import ChildState
from ipsecfast.ike.constants import ExchangeType
from ipsecfast.ike.exchange.create_child_sa import CreateChild
from ipsecfast.ike.exchange.informational import Liveness
from ipsecfast.ike.states import Cause
from ipsecfast.ike.succession import await_delete
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import DeletePayload
from ipsecfast.model import ProtocolId

LOW, HIGH = b"\x00" * 32, b"\xff" * 32
MIDDLE = (b"\x40" * 32, b"\x80" * 32)


def lowest_is(pair: Pair, loser: Gateway) -> None:
    """`loser` gets the lowest nonce as its Ni, so what it makes is redundant; the other's SA wins."""
    winner = pair.gateways[loser.peer_name]
    loser.next_nonces(LOW, HIGH)
    winner.next_nonces(*MIDDLE)


def lose_first(sender: str, wanted: Callable[[Message], bool], times: int = 1) -> Link:
    """A link that loses the first messages of one kind."""
    left = [times]

    def drop(by: str, message: Message | None) -> bool:
        if by == sender and message is not None and left[0] and wanted(message):
            left[0] -= 1
            return True
        return False

    return Link(drop=drop)


def is_rekey_request(message: Message) -> bool:
    return message.exchange == ExchangeType.CREATE_CHILD_SA and not message.response


def is_rekey_response(message: Message) -> bool:
    return message.exchange == ExchangeType.CREATE_CHILD_SA and message.response


@pytest.mark.parametrize("loser", ["a", "b"])
def test_simultaneous_child_rekey(loser: str) -> None:
    """s2.8.1, first figure: both create, the SA with the lowest nonce goes, deleted by who made it."""
    pair = Pair().up()
    old = pair.a.the_child()
    lowest_is(pair, pair.gateways[loser])
    pair.traffic(2.0)
    pair.run(0.2)
    mark = pair.mark()
    pair.a.rekey("net")
    pair.b.rekey("net")
    run_quiet(pair)
    winner = pair.gateways[pair.gateways[loser].peer_name]
    assert winner.the_child().initiator
    assert old.state is ChildState.CLOSED
    exchanges = pair.exchange(mark)
    assert len(exchanges) == 8
    assert sum("REKEY_SA" in line for line in exchanges) == 2
    assert pair.lost == 0
    pair.check_converged(children=1)


@pytest.mark.parametrize("loser", ["a", "b"])
@pytest.mark.parametrize("lost_by", ["a", "b"])
@pytest.mark.parametrize("kind", [is_rekey_request, is_rekey_response])
@pytest.mark.parametrize("what", ["net", None])
def test_simultaneous_rekey_with_a_message_lost(
    loser: str, lost_by: str, kind: Callable[[Message], bool], what: str | None
) -> None:
    """s2.8.1, second and third figure, and the same for the IKE SA: one end may notice only later, or never."""
    pair = Pair().up()
    lowest_is(pair, pair.gateways[loser])
    pair.link = lose_first(lost_by, kind)
    pair.traffic(12.0, every=0.01)
    pair.a.rekey(what)
    pair.b.rekey(what)
    run_quiet(pair)
    assert pair.lost == 0, pair.text()
    pair.check_converged(children=1)


@pytest.mark.parametrize("loser", ["a", "b"])
def test_simultaneous_ike_rekey(loser: str) -> None:
    """s2.8.2: the Child SAs go to the IKE SA that stays; its maker deletes the old one."""
    pair = Pair().up()
    kept = pair.a.the_child()
    lowest_is(pair, pair.gateways[loser])
    pair.traffic(2.0)
    mark = pair.mark()
    pair.a.rekey(None)
    pair.b.rekey(None)
    run_quiet(pair)
    winner = pair.gateways[pair.gateways[loser].peer_name]
    assert winner.established[0].initiator
    assert pair.a.the_child() is kept
    assert len(pair.exchange(mark)) == 8
    assert pair.lost == 0
    pair.check_converged(children=1)


def test_child_rekey_meets_ike_rekey() -> None:
    """s2.25.2: while the IKE SA is rekeyed, Child SAs wait: TEMPORARY_FAILURE, and again later."""
    pair = Pair().up()
    mark = pair.mark()
    pair.traffic(20.0, every=0.01)
    pair.a.rekey("net")
    pair.b.rekey(None)
    run_quiet(pair)
    assert "N(TEMPORARY_FAILURE)" in "\n".join(pair.exchange(mark))
    assert pair.a.the_child().spi_in & 0xFFFFF == 1, "the child was rekeyed in the end"
    assert pair.lost == 0
    pair.check_converged(children=1)


def test_child_rekey_meets_delete_of_that_child() -> None:
    """s2.25.1: who deletes wins."""
    pair = Pair().up()
    mark = pair.mark()
    pair.a.rekey("net")
    pair.b.terminate("net")
    run_quiet(pair)
    assert "<-- b CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}" in pair.exchange(mark)
    pair.check_converged(children=0)


def test_child_delete_from_both_ends() -> None:
    """s1.4.1: whose DELETE is under way does not name the SA again in its response."""
    pair = Pair().up()
    mark = pair.mark()
    pair.a.terminate("net")
    pair.b.terminate("net")
    run_quiet(pair)
    assert sorted(pair.exchange(mark)) == sorted(
        ["a --> INFORMATIONAL {D}", "<-- b INFORMATIONAL {D}", "a --> INFORMATIONAL {}", "<-- b INFORMATIONAL {}"]
    )
    pair.check_converged(children=0)


def test_ike_delete_from_both_ends() -> None:
    """s2.25.2: answered as usual, and one's own request is forgotten."""
    pair = Pair().up()
    pair.a.terminate()
    pair.b.terminate()
    run_quiet(pair)
    assert not pair.a.ike_sas
    assert not pair.b.ike_sas
    pair.check_converged(children=0)


def test_ike_rekey_meets_ike_delete() -> None:
    """s2.25.2: the rekey is forgotten."""
    pair = Pair().up()
    pair.a.rekey(None)
    pair.b.terminate()
    run_quiet(pair)
    assert not pair.a.ike_sas
    assert not pair.b.ike_sas


def test_termination_during_an_ike_rekey_of_ones_own() -> None:
    pair = Pair().up()
    pair.a.rekey(None)
    pair.a.terminate()
    run_quiet(pair)
    assert not pair.a.ike_sas
    assert not pair.b.ike_sas
    pair.check_converged(children=0)


def test_rekey_of_a_child_that_the_peer_lost() -> None:
    """s2.25.1: CHILD_SA_NOT_FOUND; the Child SA goes without a word and another one is made from scratch."""
    pair = Pair().up()
    lost = pair.b.the_child()
    lost.ike.children.pop(lost.spi_in)
    pair.b.endpoint.context.children.close(lost, pair.now)
    mark = pair.mark()
    pair.a.rekey("net")
    run_quiet(pair)
    assert pair.exchange(mark)[1:] == [
        "<-- b CREATE_CHILD_SA {N(CHILD_SA_NOT_FOUND)}",
        "a --> CREATE_CHILD_SA {SA, Ni, TSi, TSr}",
        "<-- b CREATE_CHILD_SA {SA, Nr, TSi, TSr}",
    ]
    pair.check_converged(children=1)


@pytest.mark.parametrize("loser", ["a", "b"])
@pytest.mark.parametrize("count", [1, 2])
def test_both_ends_initiate(loser: str, count: int) -> None:
    """Both have start_action = start and come up at the same moment: one IKE SA and one of each child remain."""
    names = [f"net{n}" for n in range(count)]
    both = {x: tuple(child(n, x, start_action=StartAction.START) for n in names) for x in "ab"}
    pair = Pair(connection("a", children=both["a"]), connection("b", children=both["b"]))
    lowest_is(pair, pair.gateways[loser])
    pair.start()
    run_quiet(pair)
    winner = pair.gateways[pair.gateways[loser].peer_name]
    assert winner.established[0].initiator
    pair.traffic(1.0)
    run_quiet(pair)
    assert pair.lost == 0
    pair.check_converged(children=count)


@pytest.mark.parametrize("loser", ["a", "b"])
def test_both_ends_create_the_same_child(loser: str) -> None:
    """As in s2.8.1, though the RFC leaves it open."""
    both = {x: (child("net1", x), child("net2", x)) for x in "ab"}
    pair = Pair(connection("a", children=both["a"]), connection("b", children=both["b"]))
    pair.a.initiate("net1")
    pair.run(1.0)
    lowest_is(pair, pair.gateways[loser])
    pair.traffic(1.0)
    pair.a.initiate("net2")
    pair.b.initiate("net2")
    run_quiet(pair)
    winner = pair.gateways[pair.gateways[loser].peer_name]
    assert winner.the_child("net2").initiator
    assert pair.lost == 0
    pair.check_converged(children=2)


@pytest.mark.parametrize("lost_by", ["a", "b"])
@pytest.mark.parametrize("loser", ["a", "b"])
def test_the_twin_that_goes_stays_until_the_peer_has_the_other_one(loser: str, lost_by: str) -> None:
    """An answer is lost; the end that misses it would have neither, were the loser deleted as soon as its end knows."""
    both = {x: (child("net1", x), child("net2", x)) for x in "ab"}
    pair = Pair(connection("a", children=both["a"]), connection("b", children=both["b"]))
    pair.a.initiate("net1")
    pair.run(1.0)
    lowest_is(pair, pair.gateways[loser])
    pair.link = lose_first(lost_by, lambda m: m.exchange == ExchangeType.CREATE_CHILD_SA and m.response)
    mark = pair.mark()
    pair.a.initiate("net2")
    pair.b.initiate("net2")
    pair.run(0.2)
    before = pair.a.dataplane.received, pair.b.dataplane.received
    pair.traffic(10.0, every=0.01)
    run_quiet(pair)
    assert pair.lost == 0
    assert (pair.a.dataplane.received - before[0], pair.b.dataplane.received - before[1]) == (2000, 2000)
    winner = pair.gateways[loser].peer_name
    arrow = {"a": "a -->", "b": "<-- b"}
    sent = pair.exchange(mark)
    proof = sent.index(f"{arrow[winner]} INFORMATIONAL {{}}")
    assert sent.index(f"{arrow[loser]} INFORMATIONAL {{D}}") > proof
    assert sent.index(f"{arrow[loser]} CREATE_CHILD_SA {{SA, Nr, TSi, TSr}}") < proof
    pair.check_converged(children=2)


def test_the_twin_that_goes_is_rekeyed_before_its_delete() -> None:
    """s2.25.1: a will delete its own of two that were made at once, but waits for an answer; b must not replace it, or
    there would be two again."""
    both = {x: (child("net1", x), child("net2", x)) for x in "ab"}
    pair = Pair(connection("a", children=both["a"]), connection("b", children=both["b"]))
    pair.a.initiate("net1")
    pair.run(1.0)
    lowest_is(pair, pair.a)
    pair.a.initiate("net2")
    pair.b.initiate("net2")
    pair.a.established[0].start(Liveness(), pair.now)
    pair.run(0.03)
    pair.link = lose_first("a", lambda m: m.exchange == ExchangeType.INFORMATIONAL)
    pair.run(0.1)
    mark = pair.mark()
    pair.b.rekey("net2")
    run_quiet(pair)
    assert "a --> CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}" in pair.exchange(mark)
    pair.check_converged(children=2)


def test_a_late_initiator_joins_the_ike_sa_that_the_peer_made() -> None:
    """b has sent IKE_SA_INIT when a's IKE SA gets through: b drops its attempt and takes that one."""
    pair = Pair()
    pair.link = lose_first("a", lambda m: m.exchange == ExchangeType.IKE_SA_INIT and m.response)
    pair.b.initiate()
    pair.run(1.0)
    pair.a.initiate()
    run_quiet(pair)
    assert len(pair.a.established) == 1
    pair.check_converged(children=1)


def test_initial_contact_clears_what_a_restart_left() -> None:
    """s2.4: b restarts without taking leave; its INITIAL_CONTACT removes a's old SAs without a DELETE."""
    pair = Pair().up()
    old = pair.a.established[0]
    fresh = Pair(seed=2)
    pair.b.endpoint, pair.b.dataplane, pair.b.ranks = fresh.b.endpoint, fresh.b.dataplane, fresh.b.ranks
    pair.b.dataplane.gateway = pair.b
    mark = pair.mark()
    pair.b.initiate()
    run_quiet(pair)
    assert old.closed
    assert not any(isinstance(p, DeletePayload) for p in sent_payloads(pair, mark))
    pair.check_converged(children=1)


@pytest.mark.parametrize(("unique", "left"), [("replace", "new"), ("keep", "new"), ("never", "both")])
def test_unique(unique: str, left: str) -> None:
    """A second IKE SA of the same peer, without INITIAL_CONTACT."""
    pair = Pair(connection("a", unique="never"), connection("b", unique=unique)).up()
    pair.run(1.0)
    old = pair.b.established[0]
    await_delete(pair.a.established[0], pair.now)  # so that a makes another one
    pair.a.initiate()
    pair.run(5.0)
    assert len(pair.b.established) == 2, "it may be reauthentication: the peer moves its Child SAs first"
    pair.run(10.0)
    kept = pair.b.established
    assert {"new": old not in kept and len(kept) == 1, "both": len(kept) == 2}[left]


def test_keep_refuses_who_comes_from_elsewhere() -> None:
    pair = Pair(connection("a", unique="never"), connection("b", unique="keep")).up()
    (old,) = pair.b.established
    old.path = replace(old.path, remote=NAT_ADDRESS)
    await_delete(pair.a.established[0], pair.now)  # so that a makes another one
    pair.a.initiate()
    pair.run(10.0)
    assert pair.b.established == [old]


def sent_payloads(pair: Pair, since: int) -> list[object]:
    messages = (getattr(line, "message", None) for line in pair.transcript[since:])
    return [p for m in messages if m is not None for p in m.payloads]


def test_requests_while_the_ike_sa_closes_are_refused() -> None:
    """s2.25.2: TEMPORARY_FAILURE while our DELETE is under way."""
    pair = Pair().up()
    pair.link = lose_first("b", lambda m: any(isinstance(p, DeletePayload) for p in m.payloads))
    mark = pair.mark()
    pair.b.terminate()
    pair.a.rekey("net")
    run_quiet(pair)
    assert "<-- b CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}" in pair.exchange(mark)
    pair.check_converged(children=0)


@pytest.mark.parametrize("rekey", [True, False])
def test_a_child_that_the_peer_deletes_before_we_hear_of_it(rekey: bool) -> None:
    """The response is lost, the peer's DELETE for what it made comes first: nothing remains at either end."""
    both = {x: (child("net1", x), child("net2", x)) for x in "ab"}
    pair = Pair(connection("a", children=both["a"]), connection("b", children=both["b"]))
    pair.a.initiate("net1")
    pair.run(1.0)
    pair.link = lose_first("b", is_rekey_response)
    if rekey:
        pair.a.rekey("net1")
    else:
        pair.a.initiate("net2")
    pair.run(0.1)
    pair.b.terminate("net1" if rekey else "net2")
    run_quiet(pair)
    assert [c.config.name for c in pair.a.children] == ([] if rekey else ["net1"])
    pair.check_converged(children=0 if rekey else 1)


def test_a_child_that_the_peer_rekeys_before_we_hear_of_it() -> None:
    """Not CHILD_SA_NOT_FOUND, which would make the peer forget it: TEMPORARY_FAILURE, until the response is here."""
    pair = Pair().up()
    pair.link = lose_first("b", is_rekey_response)
    pair.traffic(30.0, every=0.05)
    pair.a.rekey("net")
    pair.run(0.1)
    mark = pair.mark()
    pair.b.rekey("net")
    run_quiet(pair)
    assert pair.exchange(mark)[1] == "a --> CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}"
    assert pair.lost == 0
    pair.check_converged(children=1)


def test_a_child_is_deleted_over_an_ike_sa_that_is_not_settled_yet() -> None:
    """s2.8.2: b, whose rekey went through, deletes a child on the new IKE SA. a still waits for the answer to its own
    rekey and has the child on the old one, whose DELETE is late."""
    pair = Pair().up()

    def drop(by: str, message: Message | None) -> bool:
        late = by == "a" and message is not None and is_rekey_request(message)
        deletes_ike = by == "b" and message is not None and DeletePayload(ProtocolId.IKE) in message.payloads
        return pair.now < 101.5 and (late or deletes_ike)

    pair.link = Link(drop=drop)
    pair.b.rekey(None)
    pair.a.rekey(None)
    pair.run(0.05)
    pair.b.terminate("net")
    run_quiet(pair)
    pair.check_converged(children=0)


def test_a_redundant_ike_sa_whose_delete_never_comes_is_deleted_by_the_other_end() -> None:
    """Both initiate; the DELETE of the IKE SA that loses is lost however often it is sent."""
    pair = Pair()
    lowest_is(pair, pair.a)
    pair.a.initiate()
    pair.b.initiate()
    pair.run(0.05)
    pair.link = lose_first("a", lambda m: any(isinstance(p, DeletePayload) for p in m.payloads), times=100)
    run_quiet(pair)
    assert "peer-dead" not in pair.a.events()
    pair.check_converged(children=1)
    pair.check_forgotten()


def test_a_first_child_is_rekeyed_before_the_responder_uses_it() -> None:
    """The request shows that a has it; with its DELETE its successor is ACTIVE, though nothing came over that yet."""
    pair = Pair()
    pair.a.initiate()
    pair.run(0.085)
    assert not pair.b.dataplane.active
    first = pair.b.the_child().spi_out
    pair.a.rekey("net")
    pair.run(0.05)
    assert "child-rekeyed" in pair.b.events()
    assert list(pair.b.dataplane.active.values()) == [first]
    run_quiet(pair)
    pair.check_converged(children=1)


def test_children_of_an_ike_sa_that_goes_do_not_take_over_from_each_other() -> None:
    """a asks for a rekey and forgets everything; its INITIAL_CONTACT ends both Child SAs of b, the successor too, which
    never carries a packet: a has not installed it."""
    pair = Pair().up()
    pair.a.rekey("net")
    pair.run(0.03)
    assert "child-rekeyed" in pair.b.events()
    mark = len(pair.b.performed)
    pair.a.restart()
    pair.a.initiate()
    pair.run(1.0)
    pair.a.dataplane.send(1)
    run_quiet(pair)
    activated = [x for x in pair.b.performed[mark:] if isinstance(x, ActivateOutbound)]
    assert [x.spi for x in activated] == [pair.a.the_child().spi_in]
    pair.check_converged(children=1)


def test_a_redundant_ike_sa_goes_on_with_the_request_that_is_under_way() -> None:
    """s2.8.2: b asks on the successor that a made whether a lives; then it turns out that b's own successor stays. The
    request is sent again until it is answered."""
    pair = Pair().up()
    lowest_is(pair, pair.a)

    def drop(by: str, message: Message | None) -> bool:
        assert message is not None
        late = by == "a" and is_rekey_response(message) and pair.now < 101.5
        return late or (message.exchange == ExchangeType.INFORMATIONAL and pair.now < 110.0)

    pair.link = Link(drop=drop)
    pair.a.rekey(None)
    pair.b.rekey(None)
    pair.run(0.05)
    (redundant,) = (sa for sa in pair.b.established if sa.predecessor is not None)
    redundant.start(Liveness(), pair.now)
    run_quiet(pair)
    assert redundant.redundant
    pair.check_converged(children=1)
    pair.check_forgotten()


def second_child(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """a makes the same Child SA again, as after a simultaneous set-up."""
    sa = pair.a.established[0]
    monkeypatch.setattr(type(sa), "has_child", lambda self, config: False)
    sa.start(CreateChild(pair.a.the_child().config), pair.now)
    pair.run(0.5)
    monkeypatch.undo()


def test_a_second_child_is_used_when_the_initiator_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """s2.8: the answer that lets the initiator install it can be lost; there is another one meanwhile."""
    pair = Pair().up()
    (first,) = pair.b.children
    second_child(pair, monkeypatch)
    (second,) = (c for c in pair.b.children if c is not first)
    assert pair.b.dataplane.active == {1: first.spi_out}
    pair.a.dataplane.send(1)
    pair.run(0.1)
    assert pair.b.dataplane.active == {1: second.spi_out}


def test_traffic_does_not_go_to_an_unproven_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    """a's active Child SA goes. Of the other one, which b rekeys, the successor may not be installed at b yet."""
    pair = Pair().up()
    (first,) = pair.a.children
    second_child(pair, monkeypatch)
    (second,) = (c for c in pair.a.children if c is not first)
    assert pair.a.dataplane.active == {1: second.spi_out}
    pair.link = Link(drop=lambda by, m: by == "b" and m is not None and DeletePayload in map(type, m.payloads))
    there = next(c for c in pair.b.children if c.spi_in == first.spi_out)
    there.ike.rekey_child(there, pair.now)
    pair.run(0.1)
    second.ike.delete_child(second, Cause.OPERATOR, pair.now)
    pair.run(0.1)
    pair.link = Link()
    pair.b.terminate("net")
    run_quiet(pair)
    activated = [x.spi for x in pair.a.performed if isinstance(x, ActivateOutbound)]
    assert activated[0] == first.spi_out
