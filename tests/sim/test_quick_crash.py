"""Quick crash detection (RFC 6290), and what a restart means without it (RFC 7296 s1.5, s2.4)."""

from __future__ import annotations

import pytest
from simulation import Gateway, Link, Pair, StartAction, child, connection, own_cipher, run_quiet

from ipsecfast.ike.actions import Transmit
from ipsecfast.ike.constants import ExchangeType, NotifyType
from ipsecfast.ike.context import Settings
from ipsecfast.ike.extension.quick_crash import make_token
from ipsecfast.ike.lasting import FORGETFUL, Lasting
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.wire.message import Message, encode_message, parse_message, seal_message
from ipsecfast.ike.wire.payloads import NotifyPayload
from ipsecfast.model import Path, ProtocolId

LASTING = {x: Lasting(crash_secret=x.encode() * 32) for x in "ab"}


def pair_with_secrets(a: object = None, b: object = None, *, keep: str = "ab", **options: object) -> Pair:
    """Both ends, or those that `keep` names, have a secret that survives."""
    pair = Pair(a, b, **options)
    for name in keep:
        pair.gateways[name].endpoint.context.lasting = LASTING[name]
    return pair


def test_the_exchange() -> None:
    pair = pair_with_secrets().up()
    assert pair.exchange()[2:] == [
        "a --> IKE_AUTH {IDi, N(INITIAL_CONTACT), IDr, AUTH, N(QUICK_CRASH_DETECTION), SA, TSi, TSr}",
        "<-- b IKE_AUTH {IDr, AUTH, N(QUICK_CRASH_DETECTION), SA, TSi, TSr}",
    ]
    (a,), (b,) = pair.a.established, pair.b.established
    assert a.peer_token == make_token(b"b" * 32, a.spi_i, a.spi_r, initiator=False)
    assert b.peer_token == make_token(b"a" * 32, a.spi_i, a.spi_r, initiator=True)


def test_without_a_secret_nothing_is_sent() -> None:
    pair = Pair().up()
    assert not any("QUICK_CRASH" in text for text in pair.exchange())
    pair.a.rekey(None)
    run_quiet(pair)
    assert not any("QUICK_CRASH" in text for text in pair.exchange())


def test_after_a_restart_traffic_is_back_within_round_trips() -> None:
    """The ESP that the restarted end can't read makes it say so; the question that follows gets the token."""
    pair = pair_with_secrets().up()
    pair.b.restart()
    mark, began = pair.mark(), pair.now
    pair.a.dataplane.send(1)
    pair.run(1.0)
    assert pair.exchange(mark)[:4] == [
        "<-- b INFORMATIONAL {N(INVALID_SPI)}",
        "a --> INFORMATIONAL {}",
        "<-- b INFORMATIONAL {N(INVALID_IKE_SPI), N(QUICK_CRASH_DETECTION)}",
        "a --> IKE_SA_INIT {SA, KE, Ni, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), "
        "N(IKEV2_FRAGMENTATION_SUPPORTED)}",
    ]
    assert pair.a.established[0].established_at - began < 5 * 2 * pair.link.delay
    pair.a.dataplane.send(1)
    pair.run(1.0)
    assert pair.b.dataplane.received == 1
    pair.check_converged(children=1)


def test_without_a_token_it_takes_all_retransmissions() -> None:
    pair = pair_with_secrets(connection("a", children=(child("net", "a", dpd_action=StartAction.START),)), keep="").up()
    pair.b.restart()
    pair.a.dataplane.send(1)
    pair.run(100.0)
    assert pair.b.established == []
    pair.run(200.0)
    pair.check_converged(children=1)


@pytest.mark.parametrize("restarted", ["a", "b"])
@pytest.mark.parametrize("rekeyed_by", ["a", "b", "both", None])
def test_each_end_may_restart_also_after_a_rekey(restarted: str, rekeyed_by: str | None) -> None:
    """s4.3: a rekeyed IKE SA has tokens of its own: the responder's in the response, the initiator's right after it."""
    pair = pair_with_secrets().up()
    mark = pair.mark()
    for name in {"both": "ab", None: ""}.get(rekeyed_by, rekeyed_by):
        pair.gateways[name].rekey(None)
    run_quiet(pair)
    if rekeyed_by == "a":
        assert pair.exchange(mark)[1:4] == [
            "<-- b CREATE_CHILD_SA {SA, Nr, KE, N(QUICK_CRASH_DETECTION)}",
            "a --> INFORMATIONAL {N(QUICK_CRASH_DETECTION)}",
            "a --> INFORMATIONAL {D}",
        ]
    pair.check_converged(children=1)
    pair.gateways[restarted].restart()
    other = pair.gateways["b" if restarted == "a" else "a"]
    other.dataplane.send(1)
    pair.run(1.0)
    assert other.events().count("peer-restarted") == 1
    pair.check_converged(children=1)


def test_through_a_lossy_link_too() -> None:
    for seed in range(20):
        pair = pair_with_secrets(seed=seed, link=Link(loss=0.2, duplicate=0.1, jitter=0.05))
        pair.a.initiate()
        pair.run(60.0)
        pair.b.restart()
        pair.traffic(20.0, every=0.5)
        run_quiet(pair)
        pair.check_converged(children=1)


def test_what_the_operator_ends_stays_ended() -> None:
    pair = pair_with_secrets().up()
    pair.b.restart()
    pair.a.terminate()
    pair.run(1.0)
    assert pair.a.events()[-3:] == ["peer-restarted", "ike-down", "child-down"]
    assert not pair.a.ike_sas


# -- what an attacker would like to ------------------------------------------------------------------------------------


def request_of(sa: IkeSa, *, spis: tuple[bytes, bytes] | None = None, initiator: bool | None = None) -> bytes:
    """A protected request with the SPIs and the initiator flag of the attacker's choice; nobody can open it."""
    spi_i, spi_r = spis or (sa.spi_i, sa.spi_r)
    flag = sa.initiator if initiator is None else initiator
    cipher = own_cipher(sa)
    message = Message(spi_i, spi_r, ExchangeType.INFORMATIONAL, 7, False, flag)
    return seal_message(message, cipher, bytes(cipher.iv_length))


def answers(gateway: Gateway) -> list[Message]:
    return [parse_message(x.data) for x in gateway.endpoint.actions() if isinstance(x, Transmit)]


def tokens(messages: list[Message]) -> list[bytes]:
    return [n.data for m in messages for n in m.all(NotifyPayload) if n.notify_type == NotifyType.QUICK_CRASH_DETECTION]


def from_a(pair: Pair) -> Path:
    return Path(pair.b.address, 500, pair.a.address, 500)


@pytest.mark.parametrize("initiator", [True, False])
@pytest.mark.parametrize("swapped", [True, False])
def test_nobody_gets_the_token_of_a_living_ike_sa(initiator: bool, swapped: bool) -> None:
    """s9.2, whichever way the SPIs and the flag are turned."""
    pair = pair_with_secrets().up()
    sa = pair.a.established[0]
    spis = (sa.spi_r, sa.spi_i) if swapped else (sa.spi_i, sa.spi_r)
    pair.b.endpoint.receive_datagram(request_of(sa, spis=spis, initiator=initiator), from_a(pair), pair.now)
    assert sa.peer_token not in tokens(answers(pair.b))
    half_known = request_of(sa, spis=(sa.spi_i, b"another!"))
    pair.b.endpoint.receive_datagram(half_known, from_a(pair), pair.now)
    assert sa.peer_token not in tokens(answers(pair.b))


def test_tokens_leave_at_a_limited_rate() -> None:
    pair = pair_with_secrets().up()
    data = request_of(pair.a.established[0])
    pair.b.restart()
    for _ in range(100):
        pair.b.endpoint.receive_datagram(data, from_a(pair), pair.now)
    assert len(tokens(answers(pair.b))) == Settings().unprotected.burst


def test_a_request_in_clear_gets_no_token() -> None:
    pair = pair_with_secrets().up()
    sa = pair.a.established[0]
    pair.b.restart()
    data = encode_message(Message(sa.spi_i, sa.spi_r, ExchangeType.INFORMATIONAL, 7, False, True))
    pair.b.endpoint.receive_datagram(data, from_a(pair), pair.now)
    sent = answers(pair.b)
    assert [n.notify_type for m in sent for n in m.errors()] == [NotifyType.INVALID_IKE_SPI]
    assert tokens(sent) == []


@pytest.mark.parametrize("token", [b"", b"x" * 16, b"x" * 32, b"x" * 200])
def test_a_wrong_token_changes_nothing(token: bytes) -> None:
    pair = pair_with_secrets().up()
    sa = pair.a.established[0]
    notifies = NotifyPayload(NotifyType.INVALID_IKE_SPI), NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, token, 1)
    data = encode_message(Message(sa.spi_i, sa.spi_r, ExchangeType.INFORMATIONAL, 2, True, False, notifies))
    pair.a.endpoint.receive_datagram(data, Path(pair.a.address, 500, pair.b.address, 500), pair.now)
    assert pair.a.endpoint.counters["unprotected notifies"] == 1
    pair.run(1.0)
    pair.check_converged(children=1)


def test_an_end_that_took_no_token_believes_none() -> None:
    """An empty token in the answer is not the token that was never given."""
    pair = Pair().up()
    sa = pair.a.established[0]
    token = NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, b"", ProtocolId.IKE)
    data = encode_message(Message(sa.spi_i, sa.spi_r, ExchangeType.INFORMATIONAL, 2, True, False, (token,)))
    pair.a.endpoint.receive_datagram(data, Path(pair.a.address, 500, pair.b.address, 500), pair.now)
    assert pair.a.established == [sa]


def test_a_forgetful_gateway_says_only_that_it_forgot() -> None:
    pair = pair_with_secrets().up()
    pair.b.endpoint.context.lasting = FORGETFUL
    pair.b.restart()
    mark = pair.mark()
    pair.a.rekey("net")
    pair.run(1.0)
    assert pair.exchange(mark)[1] == "<-- b CREATE_CHILD_SA {N(INVALID_IKE_SPI)}"
    assert pair.a.established
