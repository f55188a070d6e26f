"""What happens over time: lost messages, dead peers, lifetimes, the actions that follow, what strangers can cause."""

from __future__ import annotations

import gc
import itertools
import weakref
from ipaddress import ip_address

import pytest
from simulation import Link, Pair, StartAction, child, connection, run_quiet

from ipsecfast.ike.actions import InstallTrap, ReleaseHeld, Transmit
from ipsecfast.ike.child import ChildState
from ipsecfast.ike.constants import ExchangeType, Flags, NotifyType
from ipsecfast.ike.context import Settings
from ipsecfast.ike.wire.message import HEADER, Message, encode_message, parse_header, parse_message
from ipsecfast.ike.wire.payloads import NotifyPayload
from ipsecfast.model import HardLifetime, Lifetime, Path, SoftLifetime


def times_sent(pair: Pair, since: int = 0) -> list[float]:
    return [round(line.time - 100.0, 1) for line in pair.transcript[since:] if hasattr(line, "message")]


# -- retransmission ----------------------------------------------------------------------------------------------------


def test_retransmission_backs_off_and_gives_up() -> None:
    """s2.1, s2.4: six times the same octets, 165 s less the jitter."""
    pair = Pair(link=Link(down=True))
    pair.a.initiate()
    pair.run(170.0)
    sent = [x.data for x in pair.a.performed if isinstance(x, Transmit)]
    assert len(sent) == 6
    assert len(set(sent)) == 1
    gave_up_at = float(str(pair.transcript[-1]).split()[0]) - 100.0
    assert 148.0 < gave_up_at < 165.5
    assert pair.a.events() == ["connecting", "peer-dead", "gave-up"]
    assert pair.a.endpoint.counters["retransmissions"] == 5
    assert not pair.a.ike_sas


@pytest.mark.parametrize("lost", [True, False])
def test_a_lost_response_is_answered_from_the_cache(lost: bool) -> None:
    """s2.1: the responder does not do the work twice."""
    pair = Pair().up()
    pair.link.drop = lambda by, message: lost and by == "b" and pair.now < 102.0
    pair.a.rekey("net")
    run_quiet(pair)
    assert pair.b.endpoint.counters["duplicates"] == int(lost)
    assert pair.a.endpoint.counters["retransmissions"] == int(lost)
    pair.check_converged(children=1)


def test_the_response_to_a_delete_can_be_repeated_after_the_end() -> None:
    """The IKE SA is closed, but who deleted it may have lost the answer."""
    pair = Pair().up()
    pair.link.drop = lambda by, message: by == "b" and pair.now < 102.0
    pair.a.terminate()
    pair.run(10.0)
    assert pair.b.endpoint.counters["duplicates"] == 1
    assert pair.a.endpoint.idle


# -- attempts ----------------------------------------------------------------------------------------------------------


def test_keyingtries() -> None:
    pair = Pair(connection("a", keyingtries=3), link=Link(down=True))
    pair.a.initiate()
    pair.run(2000.0)
    assert pair.a.events().count("connecting") == 3
    assert pair.a.events().count("retrying") == 2
    assert pair.a.events().count("gave-up") == 1
    assert sum(isinstance(x, Transmit) for x in pair.a.performed) == 18


def test_keyingtries_forever_comes_up_when_the_peer_does() -> None:
    start = child("net", "a", start_action=StartAction.START)
    pair = Pair(connection("a", keyingtries=0, children=(start,)), link=Link(down=True)).start()
    pair.run(3000.0)
    assert not pair.a.established
    pair.link.down = False
    pair.run(600.0)
    pair.check_converged(children=1)


def test_pauses_between_attempts_grow() -> None:
    pair = Pair(connection("a", keyingtries=0), connection("b", secret=b"another"))
    pair.a.initiate()
    pair.run(1000.0)
    inits = [
        t for t, text in zip(times_sent(pair), pair.exchange(), strict=True) if text.startswith("a --> IKE_SA_INIT")
    ]
    pauses = [later - earlier for earlier, later in itertools.pairwise(inits)]
    assert len(pauses) >= 5
    assert pauses[0] < 6
    assert all(earlier < later for earlier, later in itertools.pairwise(pauses) if later < 200)
    assert max(pauses) <= 301


def test_a_connection_without_a_peer_address_only_responds() -> None:
    pair = Pair(connection("a", remote_addrs=()))
    pair.a.initiate()
    assert pair.a.events() == ["no-address"]
    assert [x for x in pair.a.performed if isinstance(x, ReleaseHeld)]
    pair.b.initiate()
    pair.run(1.0)
    pair.check_converged(children=1)


def test_unknown_names_are_the_callers_mistake() -> None:
    pair = Pair()
    with pytest.raises(KeyError):
        pair.a.endpoint.initiate("ba", None, pair.now)
    with pytest.raises(KeyError):
        pair.a.endpoint.rekey("ab", "nothing", pair.now)


def test_start_installs_traps_then_negotiates() -> None:
    children = tuple(child(f"net{n}", "a", start_action=action) for n, action in enumerate(StartAction))
    pair = Pair(
        connection("a", children=children), connection("b", children=tuple(child(f"net{n}", "b") for n in range(3)))
    )
    pair.start()
    assert [x.child for x in pair.a.performed if isinstance(x, InstallTrap)] == ["net1", "net2"]
    run_quiet(pair)
    assert [c.config.name for c in pair.a.children] == ["net2"]


# -- dead peers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", list(StartAction))
def test_dpd_action(action: StartAction) -> None:
    """s2.4: what is done about the Child SAs of a dead peer."""
    options = {"dpd_delay": 10.0, "keyingtries": 0, "children": (child("net", "a", dpd_action=action),)}
    pair = Pair(connection("a", **options)).up()
    before = len(pair.a.performed)
    pair.link.down = True
    pair.run(190.0)
    assert "peer-dead" in pair.a.events()
    assert not pair.a.dataplane.inbound
    traps = [x for x in pair.a.performed[before:] if isinstance(x, InstallTrap)]
    assert bool(traps) == (action is not StartAction.NONE)
    assert bool(pair.a.ike_sas) == (action is StartAction.START)
    pair.link.down = False
    run_quiet(pair)
    assert bool(pair.a.established) == (action is StartAction.START)
    if action is StartAction.START:
        pair.check_converged(children=1)


@pytest.mark.parametrize("action", list(StartAction))
@pytest.mark.parametrize("what", ["net", None])
def test_close_action(action: StartAction, what: str | None) -> None:
    """The peer deletes the Child SA, or the IKE SA with it."""
    pair = Pair(connection("a", children=(child("net", "a", close_action=action),))).up()
    before = len(pair.a.performed)
    pair.b.terminate(what)
    run_quiet(pair)
    assert bool([x for x in pair.a.performed[before:] if isinstance(x, InstallTrap)]) == (
        action is not StartAction.NONE
    )
    pair.check_converged(children=1 if action is StartAction.START else 0)


def test_two_gateways_that_disagree_do_not_spin() -> None:
    """One closes what the other starts: not more than one attempt in five seconds."""
    pair = Pair(connection("a", children=(child("net", "a", close_action=StartAction.START),))).up()
    mark = pair.mark()
    for _ in range(600):
        if pair.b.established:
            pair.b.terminate()
        pair.run(0.1)
    inits = [text for text in pair.exchange(mark) if text.startswith("a --> IKE_SA_INIT")]
    assert 5 <= len(inits) <= 14


def test_what_the_operator_ends_stays_ended() -> None:
    always = {"start_action": StartAction.START, "close_action": StartAction.START, "dpd_action": StartAction.START}
    pair = Pair(connection("a", children=(child("net", "a", **always),))).start()
    pair.run(1.0)
    assert pair.a.established
    pair.a.terminate()
    run_quiet(pair)
    assert not pair.a.ike_sas


def test_a_refusal_after_the_operator_has_ended_it_begins_nothing_anew() -> None:
    """The operator ends it while IKE_AUTH is under way, whose answer is AUTHENTICATION_FAILED."""
    pair = Pair(connection("a", keyingtries=0), connection("b", secret=b"another secret"))
    pair.a.initiate()
    pair.run(0.045)
    pair.a.terminate()
    mark = pair.mark()
    run_quiet(pair)
    assert pair.exchange(mark) == ["<-- b IKE_AUTH {N(AUTHENTICATION_FAILED)}"]
    assert "retrying" not in pair.a.events()
    assert not pair.a.ike_sas


@pytest.mark.parametrize("what", [None, "net"])
def test_packets_that_wait_for_the_next_try_go_when_the_operator_ends_it(what: str | None) -> None:
    """Nobody negotiates for them any more, and the next packet asks anew."""
    trap = child("net", "a", start_action=StartAction.TRAP)
    pair = Pair(connection("a", keyingtries=0, children=(trap,)), link=Link(down=True)).start()
    pair.a.dataplane.send(1)
    while "retrying" not in pair.a.events():
        pair.run(1.0)
    pair.link.down = False
    pair.a.terminate(what)
    assert pair.a.dataplane.released[1] == 1
    pair.run(20.0)
    assert not pair.a.ike_sas
    pair.a.dataplane.send(1)
    run_quiet(pair)
    assert pair.b.dataplane.received == 1
    pair.check_converged(children=1)


def test_packets_that_wait_for_the_initiator_get_through_before_the_operator_ends_the_child() -> None:
    """s2.8: a responder holds them until the initiator surely has its half. It has asked when the operator comes: the
    DELETE goes behind the question."""
    trap = child("net", "a", start_action=StartAction.TRAP)
    pair = Pair(connection("a", children=(trap,))).start()
    pair.b.initiate()
    while not pair.a.children:
        pair.step(10.0 + pair.now)
    pair.a.dataplane.send(1)
    pair.run(0.01)
    assert not pair.b.dataplane.received
    pair.a.terminate("net")
    run_quiet(pair)
    assert not pair.a.children
    assert pair.b.dataplane.received == 1
    pair.a.dataplane.send(1)
    run_quiet(pair)
    assert pair.b.dataplane.received == 2
    pair.check_converged(children=1)


# -- lifetimes ---------------------------------------------------------------------------------------------------------


def test_a_first_child_sa_that_is_rekeyed_at_once_carries_our_packets() -> None:
    """The responder has held them, for it did not know whether the initiator has it; who rekeys it has."""
    pair = Pair()
    pair.a.initiate()
    pair.run(0.085)
    assert not pair.b.dataplane.active
    pair.link.drop = lambda sender, message: message is not None and message.exchange == ExchangeType.INFORMATIONAL
    pair.a.rekey("net")
    pair.run(1.0)
    assert pair.b.dataplane.active
    pair.link.drop = None
    run_quiet(pair)
    pair.check_converged(children=1)


def with_lifetimes(**options: object) -> Pair:
    life = Lifetime(rekey_time=100.0, life_time=120.0, rand_time=20.0, **options)
    return Pair(connection("a", children=(child("net", "a", lifetime=life),))).up()


def test_timed_rekeys_have_jitter() -> None:
    pair = with_lifetimes()
    pair.run(1000.0)
    rekeys = [t for t, text in zip(times_sent(pair), pair.exchange(), strict=True) if "REKEY_SA" in text]
    pauses = [later - earlier for earlier, later in itertools.pairwise(rekeys)]
    assert all(79.9 <= pause <= 100.2 for pause in pauses)
    assert len({round(p, 1) for p in pauses}) > 1
    pair.check_converged(children=1)


def test_limits_of_bytes_and_packets_go_to_the_data_plane() -> None:
    pair = with_lifetimes(
        rekey_bytes=10000, life_bytes=12000, rand_bytes=500, rekey_packets=100, life_packets=110, rand_packets=10
    )
    params = pair.a.the_child().outbound
    assert 9500 < params.soft_bytes <= 10000
    assert 90 < params.soft_packets <= 100
    assert (params.hard_bytes, params.hard_packets) == (12000, 110)
    assert pair.b.the_child().outbound.soft_bytes == 0


@pytest.mark.parametrize("inbound", [True, False])
def test_soft_limit_rekeys_once(inbound: bool) -> None:
    pair = Pair().up()
    old = pair.a.the_child()
    for _ in range(3):
        pair.a.endpoint.handle_data_plane(
            SoftLifetime(old.reqid, old.spi_in if inbound else old.spi_out, inbound), pair.now
        )
    run_quiet(pair)
    assert old.successor is pair.a.the_child()
    assert sum("REKEY_SA" in text for text in pair.exchange()) == 1
    pair.check_converged(children=1)


def test_hard_limit_deletes_and_start_makes_it_anew() -> None:
    pair = Pair(connection("a", children=(child("net", "a", start_action=StartAction.START),))).up()
    old = pair.a.the_child()
    pair.a.endpoint.handle_data_plane(HardLifetime(old.reqid, old.spi_out, False), pair.now)
    run_quiet(pair)
    assert old.state is ChildState.CLOSED
    assert pair.a.the_child() is not old
    pair.check_converged(children=1)


def test_an_sa_that_cannot_be_rekeyed_ends_at_its_hard_limit() -> None:
    """The peer refuses for good: tried again until the hard limit, then deleted."""
    pair = with_lifetimes()
    pair.b.the_child().config = child("net", "b", esp=("aes256gcm16",))
    mark = pair.mark()
    pair.run(125.0)
    assert "child-expired" in pair.a.events()
    assert "<-- b CREATE_CHILD_SA {N(NO_PROPOSAL_CHOSEN)}" in pair.exchange(mark)
    pair.check_converged(children=0)


@pytest.mark.parametrize("by", ["a", "b"])
def test_nothing_is_kept_of_what_was_rekeyed(by: str) -> None:
    """However often: the last IKE SA does not hold those before it, nor their keys."""
    pair = Pair().up()
    gone = []
    for _ in range(5):
        gone += [weakref.ref(gateway.established[0]) for gateway in (pair.a, pair.b)]
        pair.gateways[by].rekey(None)
        run_quiet(pair)
    gc.collect()
    assert [sa() for sa in gone] == [None] * 10
    pair.check_converged(children=1)


def test_ike_lifetimes() -> None:
    life = Lifetime(rekey_time=200.0, life_time=250.0, rand_time=20.0)
    pair = Pair(connection("a", lifetime=life)).up()
    pair.run(1000.0)
    assert pair.a.events().count("ike-rekeyed") >= 5
    pair.check_converged(children=1)


# -- strangers ---------------------------------------------------------------------------------------------------------

STRANGE = Path(ip_address("192.0.2.1"), 500, ip_address("203.0.113.9"), 500)


def unknown_message(exchange: int, *payloads: NotifyPayload, response: bool = False) -> bytes:
    return encode_message(Message(b"\x01" * 8, b"\x02" * 8, exchange, 7, response, True, payloads))


def answers(pair: Pair) -> list[bytes]:
    return [x.data for x in pair.a.endpoint.actions() if isinstance(x, Transmit)]


def test_an_unknown_ike_spi_is_answered_now_and_then() -> None:
    """s2.21.4, unprotected, with the SPIs and the message ID of the request."""
    pair = Pair()
    for _ in range(100):
        pair.a.endpoint.receive_datagram(unknown_message(ExchangeType.CREATE_CHILD_SA), STRANGE, pair.now)
    sent = answers(pair)
    assert len(sent) == Settings().unprotected.burst
    message = parse_message(sent[0])
    assert message.response
    assert (message.spi_i, message.spi_r, message.message_id) == (b"\x01" * 8, b"\x02" * 8, 7)
    assert [n.notify_type for n in message.errors()] == [NotifyType.INVALID_IKE_SPI]
    assert pair.a.endpoint.counters["unknown IKE SPI"] == 100


def test_answers_are_not_answered() -> None:
    pair = Pair()
    pair.a.endpoint.receive_datagram(unknown_message(ExchangeType.INFORMATIONAL, response=True), STRANGE, pair.now)
    error = NotifyPayload(NotifyType.INVALID_SPI, b"1234")
    pair.a.endpoint.receive_datagram(unknown_message(ExchangeType.INFORMATIONAL, error), STRANGE, pair.now)
    assert answers(pair) == []
    assert pair.a.endpoint.counters["unprotected notifies"] == 1


def test_an_unprotected_error_only_makes_us_ask() -> None:
    """s1.5: a liveness check over the IKE SA; nothing else happens."""
    pair = Pair().up()
    mark = pair.mark()
    from_peer = Path(pair.a.address, 500, pair.b.address, 500)
    error = NotifyPayload(NotifyType.INVALID_SPI, b"1234")
    pair.a.endpoint.receive_datagram(unknown_message(ExchangeType.INFORMATIONAL, error), from_peer, pair.now)
    pair.run(1.0)
    assert pair.exchange(mark) == ["a --> INFORMATIONAL {}", "<-- b INFORMATIONAL {}"]
    pair.check_converged(children=1)


@pytest.mark.parametrize(("version", "answered"), [(0x30, True), (0x10, False)])
def test_other_versions(version: int, answered: bool) -> None:
    """s2.5: a newer one is told what we speak; IKEv1 would not understand."""
    pair = Pair()
    data = HEADER.pack(b"\x01" * 8, bytes(8), 0, version, ExchangeType.IKE_SA_INIT, Flags.INITIATOR, 0, 28)
    pair.a.endpoint.receive_datagram(data, STRANGE, pair.now)
    sent = answers(pair)
    assert bool(sent) == answered
    assert not sent or parse_header(sent[0]).version == 0x20
    assert pair.a.endpoint.counters["unsupported major version"] == 1


def test_log_lines_of_strangers_are_few() -> None:
    pair = Pair()
    for number in range(1000):
        pair.a.endpoint.receive_datagram(bytes([number % 256]) * 50, STRANGE, pair.now)
    pair.a.perform()
    assert len(pair.a.log) == Settings().complaints.burst
    assert all(n.key for n in pair.a.log)
    assert pair.a.endpoint.counters["malformed"] + pair.a.endpoint.counters["unsupported major version"] == 1000


def test_replayed_messages_do_nothing() -> None:
    """All that a sent, once more after a while, from the same place."""
    pair = Pair().up()
    pair.a.rekey("net")
    run_quiet(pair)
    mark, installed = pair.mark(), set(pair.b.dataplane.inbound)
    for action in [x for x in pair.a.performed if isinstance(x, Transmit)]:
        pair.b.endpoint.receive_datagram(action.data, Path(pair.b.address, 500, pair.a.address, 500), pair.now)
    pair.run(60.0)
    assert set(pair.b.dataplane.inbound) == installed
    assert len(pair.exchange(mark)) <= 1
    pair.check_converged(children=1)
