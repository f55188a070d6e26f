"""The exchanges when nothing goes wrong, in the RFC's own notation, with the SPIs that get installed."""

from __future__ import annotations

import pytest
from simulation import Link, Pair, StartAction, child, connection, run_quiet

from ipsecfast.ike.actions import ActivateOutbound, InstallSa, RemoveSa, Transmit
from ipsecfast.ike.child import ChildState, OutboundState
from ipsecfast.ike.constants import ExchangeType
from ipsecfast.ike.wire.message import Message

NOTIFIES = "N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), N(IKEV2_FRAGMENTATION_SUPPORTED)"


def kinds(actions: list) -> list[type]:
    return [type(a) for a in actions if isinstance(a, (ActivateOutbound, InstallSa, RemoveSa, Transmit))]


def test_initial_exchanges() -> None:
    """RFC 7296 s1.2."""
    pair = Pair().up()
    assert pair.exchange() == [
        f"a --> IKE_SA_INIT {{SA, KE, Ni, {NOTIFIES}}}",
        f"<-- b IKE_SA_INIT {{SA, KE, Nr, {NOTIFIES}, N(CHILDLESS_IKEV2_SUPPORTED)}}",
        "a --> IKE_AUTH {IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr}",
        "<-- b IKE_AUTH {IDr, AUTH, SA, TSi, TSr}",
    ]
    a, b = pair.a.the_child(), pair.b.the_child()
    assert (a.spi_in, a.spi_out) == (b.spi_out, b.spi_in)
    assert (a.inbound.key, a.outbound.key) == (b.outbound.key, b.inbound.key)
    assert a.inbound.key != a.outbound.key
    assert (a.outbound_state, b.outbound_state) == (OutboundState.ACTIVE, OutboundState.REGISTERED)
    assert not a.outbound.udp_encap
    assert a.outbound.path.remote_port == 0
    pair.check_converged(children=1)


def test_responder_of_a_first_child_installs_before_it_answers_and_sends_after() -> None:
    pair = Pair().up()
    assert kinds(pair.b.performed)[1:] == [InstallSa, Transmit]
    pair.a.dataplane.send(1)
    pair.run(1.0)
    assert kinds(pair.b.performed)[3:] == [ActivateOutbound]


@pytest.mark.parametrize("trapped", [False, True])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_the_responder_has_packets_before_the_initiator_has_its_answer(lost: int, trapped: bool) -> None:
    """s2.8: they are held until the initiator shows that it has the Child SA; it is asked when there is one."""
    action = StartAction.TRAP if trapped else StartAction.NONE
    ends = {x: connection(x, children=(child("net", x, start_action=action),)) for x in "ab"}
    pair = Pair(ends["a"], ends["b"]).start()
    left = [lost]

    def drop(by: str, message: Message | None) -> bool:
        lose = by == "b" and message.exchange == ExchangeType.IKE_AUTH and left[0] > 0
        left[0] -= lose
        return lose

    pair.link = Link(drop=drop)
    pair.a.initiate()
    pair.run(0.07)
    (child_of_b,) = pair.b.children
    mark = pair.mark()
    for _ in range(8):
        pair.b.dataplane.send(child_of_b.reqid)
        pair.run(1.0)
    run_quiet(pair)
    assert pair.exchange(mark)[0] == "<-- b INFORMATIONAL {}"
    assert (pair.lost, pair.a.dataplane.received) == (0, 8)
    pair.check_converged(children=1)


def test_what_the_responder_holds_leaves_within_a_round_trip() -> None:
    """The initiator has nothing to send: an answer from it lets the packets go."""
    pair = Pair().up()
    pair.b.dataplane.send(1)
    pair.run(2.9 * pair.link.delay)
    assert pair.a.dataplane.received == 0
    pair.run(0.2 * pair.link.delay)
    assert pair.a.dataplane.received == 1


@pytest.mark.parametrize("pfs", [False, True])
def test_child_rekey(pfs: bool) -> None:
    """s1.3.3, s2.8: the responder installs before it answers; the initiator deletes the old SA."""
    esp = ("aes128gcm16-x25519",) if pfs else ("aes128gcm16",)
    pair = Pair(
        connection("a", children=(child("net", "a", esp=esp),)), connection("b", children=(child("net", "b", esp=esp),))
    )
    pair.up()
    old = pair.a.the_child()
    pair.traffic(1.0)
    pair.run(0.2)
    mark, before = pair.mark(), len(pair.b.performed)
    pair.a.rekey("net")
    run_quiet(pair)
    ke = "KE, " if pfs else ""
    assert pair.exchange(mark) == [
        f"a --> CREATE_CHILD_SA {{N(REKEY_SA), SA, Ni, {ke}TSi, TSr}}",
        f"<-- b CREATE_CHILD_SA {{SA, Nr, {ke}TSi, TSr}}",
        "a --> INFORMATIONAL {D}",
        "<-- b INFORMATIONAL {D}",
    ]
    assert kinds(pair.b.performed[before:]) == [InstallSa, Transmit, ActivateOutbound, Transmit, RemoveSa]
    new = pair.a.the_child()
    assert old.state is ChildState.CLOSED
    assert old.successor is new
    assert new.reqid == old.reqid
    assert pair.lost == 0
    pair.check_converged(children=1)


def test_without_traffic_the_delete_of_the_old_sa_activates_the_new_one() -> None:
    """s2.8: the responder may also take the DELETE as the sign that the initiator is ready."""
    pair = Pair().up()
    pair.a.rekey("net")
    pair.run(0.05)
    new = [c for c in pair.b.children if c.state is ChildState.INSTALLED]
    assert [c.outbound_state for c in new] == [OutboundState.REGISTERED]
    run_quiet(pair)
    assert pair.b.the_child().outbound_state is OutboundState.ACTIVE


def test_ike_rekey_keeps_the_children() -> None:
    """s1.3.2, s2.8."""
    pair = Pair().up()
    old, kept = pair.a.established[0], pair.a.the_child()
    mark = pair.mark()
    pair.traffic(1.0)
    pair.b.rekey(None)
    run_quiet(pair)
    assert pair.exchange(mark) == [
        "<-- b CREATE_CHILD_SA {SA, Ni, KE}",
        "a --> CREATE_CHILD_SA {SA, Nr, KE}",
        "<-- b INFORMATIONAL {D}",
        "a --> INFORMATIONAL {}",
    ]
    new = pair.a.established[0]
    assert new is not old
    assert not new.initiator
    assert pair.a.the_child() is kept
    assert kept.ike is new
    assert pair.lost == 0
    pair.check_converged(children=1)


def test_many_rekeys_under_traffic_lose_nothing() -> None:
    pair = Pair().up()
    pair.traffic(30.0, every=0.002)
    for turn in range(20):
        (pair.a, pair.b)[turn % 2].rekey("net")
        pair.run(0.9)
        if turn % 4 == 3:
            (pair.b, pair.a)[turn % 2].rekey(None)
            pair.run(0.4)
    run_quiet(pair)
    sent = pair.a.dataplane.sent, pair.b.dataplane.sent
    assert (pair.b.dataplane.received, pair.a.dataplane.received) == sent
    assert pair.lost == 0
    pair.check_converged(children=1)


def test_second_child_comes_with_create_child_sa() -> None:
    """s1.3.1."""
    children = {x: (child("net1", x), child("net2", x)) for x in "ab"}
    pair = Pair(connection("a", children=children["a"]), connection("b", children=children["b"]))
    pair.a.initiate(None)
    run_quiet(pair)
    assert pair.exchange()[4:] == [
        "a --> CREATE_CHILD_SA {SA, Ni, TSi, TSr}",
        "<-- b CREATE_CHILD_SA {SA, Nr, TSi, TSr}",
    ]
    assert {c.reqid for c in pair.a.children} == {1, 2}
    pair.check_converged(children=2)


def test_child_delete_names_the_pair() -> None:
    """s1.4.1: each end names the SA that it receives on."""
    pair = Pair().up()
    mark = pair.mark()
    pair.b.terminate("net")
    pair.run(1.0)
    assert pair.exchange(mark) == ["<-- b INFORMATIONAL {D}", "a --> INFORMATIONAL {D}"]
    assert not pair.a.children
    assert pair.a.established
    pair.check_converged(children=0)


def test_ike_delete_takes_the_children_along() -> None:
    pair = Pair().up()
    mark = pair.mark()
    pair.a.terminate()
    pair.run(1.0)
    assert pair.exchange(mark) == ["a --> INFORMATIONAL {D}", "<-- b INFORMATIONAL {}"]
    assert not pair.a.ike_sas
    assert not pair.b.ike_sas
    assert pair.a.endpoint.idle
    pair.check_converged(children=0)
    run_quiet(pair)
    assert len(pair.a.endpoint.context.timers) == len(pair.b.endpoint.context.timers) == 0
    assert not pair.b.endpoint.context.ike_sas
    assert not pair.b.endpoint.context.by_request


def test_liveness() -> None:
    """s2.4: asked only when nothing was heard, and ESP counts as heard."""
    pair = Pair(connection("a", dpd_delay=10.0)).up()
    mark = pair.mark()
    pair.run(35.0)
    assert pair.exchange(mark) == ["a --> INFORMATIONAL {}", "<-- b INFORMATIONAL {}"] * 3
    mark = pair.mark()
    pair.traffic(50.0, every=1.0)
    pair.run(50.0)
    assert pair.exchange(mark) == []


def test_shutdown_takes_leave() -> None:
    pair = Pair().up()
    pair.b.endpoint.shutdown(pair.now)
    pair.run(1.0)
    assert pair.b.endpoint.idle
    assert not pair.a.ike_sas


def test_status_shows_what_is_there() -> None:
    pair = Pair().up()
    (shown,) = pair.a.endpoint.status(pair.now)
    (sa,) = shown.ike_sas
    (net,) = sa.children
    assert (shown.name, sa.state, sa.initiator, sa.remote_id) == ("ab", "established", True, "b.test")
    assert (net.name, net.mode, net.algorithm, net.local_ts) == ("net", "tunnel", "aes128gcm16", ("10.1.0.0/24",))
    assert net.spi_in == pair.b.the_child().spi_out
