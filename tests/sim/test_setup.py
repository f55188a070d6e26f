"""How IKE SAs and first Child SAs come about, or why they don't (RFC 7296 s1.2, s2.6, s2.9, s2.21, s2.23)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from simulation import (
    ADDRESS,
    NAT_ADDRESS,
    SECRET,
    Link,
    Nat,
    Pair,
    StartAction,
    child,
    connection,
    run_quiet,
    selector,
)

from ipsecfast.configured import AuthConfig, PresharedKey
from ipsecfast.identity import Identity
from ipsecfast.ike.actions import ReleaseHeld, Transmit
from ipsecfast.ike.channel import NAT_KEEPALIVE
from ipsecfast.ike.child import ChildSa
from ipsecfast.ike.connection import Connection
from ipsecfast.ike.constants import ExchangeType, NotifyType, PayloadType, SinglePairRequired
from ipsecfast.ike.context import Settings
from ipsecfast.ike.exchange import child_exchange, ike_auth
from ipsecfast.ike.exchange.child_offer import ChildOffer, ChildRequest, ChildTerms, agree
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.wire.message import ZERO_SPI, Message, encode_message
from ipsecfast.ike.wire.payloads import NotifyPayload, Payload, TsPayload
from ipsecfast.model import Acquire, Mode, Path, TrafficSelector, UnknownSpi


def logged(pair: Pair, name: str, event: str) -> str:
    (line,) = [n.message for n in pair.gateways[name].log if n.event == event]
    return line


# -- IKE_SA_INIT -----------------------------------------------------------------------------------------------------


def test_another_group_is_asked_for() -> None:
    """s1.2: INVALID_KE_PAYLOAD names the group; the initiator offered it and tries again."""
    pair = Pair(
        connection("a", ike=("aes128gcm16-prfsha256-ecp256-x25519",)),
        connection("b", ike=("aes128gcm16-prfsha256-x25519",)),
    ).up()
    assert pair.exchange()[1] == "<-- b IKE_SA_INIT {N(INVALID_KE_PAYLOAD)}"
    pair.check_converged(children=1)


@pytest.mark.parametrize(
    "words",
    [
        "aes256gcm16-prfsha384-ecp384",
        "aes128-sha256-modp2048",
        "aes192gcm16-prfsha512-modp3072",
        "aes256-sha512-ecp256",
        "aes128-sha384-x25519",
    ],
)
def test_suites(words: str) -> None:
    pair = Pair(connection("a", ike=(words,)), connection("b", ike=(words,))).up()
    pair.b.rekey(None)
    pair.run(1.0)
    assert pair.a.established[0].proposal_words.startswith(words.split("-")[0])
    pair.check_converged(children=1)


def test_no_common_proposal_names_both_sides() -> None:
    pair = Pair(
        connection("a", ike=("aes128gcm16-prfsha256-x25519",)), connection("b", ike=("aes256gcm16-prfsha256-x25519",))
    )
    pair.a.initiate()
    pair.run(1.0)
    assert pair.exchange()[1] == "<-- b IKE_SA_INIT {N(NO_PROPOSAL_CHOSEN)}"
    assert "aes128gcm16" in logged(pair, "b", "request-refused")
    assert "aes256gcm16" in logged(pair, "b", "request-refused")
    assert "aes128gcm16-prfsha256-x25519" in logged(pair, "a", "ike-failed")
    assert not pair.b.endpoint.context.ike_sas
    assert pair.a.dataplane.released == {1: 0}


def test_unknown_addresses_are_refused() -> None:
    pair = Pair(connection("a"), connection("b", remote_addrs=(NAT_ADDRESS,)))
    pair.a.initiate()
    pair.run(1.0)
    assert pair.b.endpoint.counters["no connection for the addresses"] == 1
    assert "192.0.2.1" in logged(pair, "b", "init-refused")


def test_an_unprotected_error_does_not_end_the_attempt() -> None:
    """s2.21.1: it may be forged; the right response comes later and is taken."""
    pair = Pair()
    pair.a.initiate()
    sa = pair.a.ike_sas[0]
    forged = Message(
        sa.spi_i, ZERO_SPI, ExchangeType.IKE_SA_INIT, 0, True, False, (NotifyPayload(NotifyType.INVALID_SYNTAX),)
    )
    pair.a.endpoint.receive_datagram(encode_message(forged), Path(sa.path.local, 500, sa.path.remote, 500), pair.now)
    assert pair.a.endpoint.counters["unusable responses"] == 1
    pair.run(1.0)
    pair.check_converged(children=1)


def test_cookies_when_half_open_sas_pile_up() -> None:
    """s2.6: stateless until the initiator shows that it receives what we send; cookies survive a change of secret."""
    pair = Pair(settings=Settings(cookie_threshold=0))
    pair.up()
    assert pair.exchange()[1:3] == [
        "<-- b IKE_SA_INIT {N(COOKIE)}",
        "a --> IKE_SA_INIT {N(COOKIE), SA, KE, Ni, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), "
        "N(IKEV2_FRAGMENTATION_SUPPORTED)}",
    ]
    assert pair.b.endpoint.counters["cookies sent"] == 1
    pair.check_converged(children=1)


def test_cookie_and_another_group_in_one_attempt() -> None:
    """s2.6.1."""
    pair = Pair(
        connection("a", ike=("aes128gcm16-prfsha256-ecp256-x25519",)),
        connection("b", ike=("aes128gcm16-prfsha256-x25519",)),
        settings=Settings(cookie_threshold=0),
    ).up()
    assert [line.split()[-1] for line in pair.exchange()[1::2]][:2] == ["{N(COOKIE)}", "{N(INVALID_KE_PAYLOAD)}"]
    pair.check_converged(children=1)


def test_half_open_limit() -> None:
    pair = Pair(settings=Settings(half_open_limit=0))
    pair.a.initiate()
    pair.run(30.0)
    assert pair.b.endpoint.counters["half-open refused"] == pair.b.endpoint.counters["datagrams"] > 0


def test_half_open_sas_go_away() -> None:
    pair = Pair(link=Link(drop=lambda by, m: m is not None and m.exchange == 35))
    pair.a.initiate()
    pair.run(1.0)
    assert len(pair.b.endpoint.context.half_open) == 1
    run_quiet(pair)
    assert not pair.b.endpoint.context.half_open
    assert not pair.b.endpoint.context.ike_sas
    assert not pair.b.endpoint.context.by_request


# -- NAT ---------------------------------------------------------------------------------------------------------------


def behind_nat(**options: object) -> Pair:
    b = connection("b", remote_addrs=(ip_network("0.0.0.0/0"),), **options)
    return Pair(connection("a", **options), b, nat=Nat()).up()


def test_nat_moves_to_4500_and_into_udp() -> None:
    """s2.23: IKE_AUTH comes from another port; ESP takes the same."""
    pair = behind_nat()
    a, b = pair.a.the_child().outbound, pair.b.the_child().outbound
    assert (a.udp_encap, a.path.local_port, a.path.remote_port) == (True, 4500, 4500)
    assert (b.udp_encap, b.path.remote, b.path.remote_port) == (True, NAT_ADDRESS, 24500)
    assert (pair.a.established[0].local_nat, pair.a.established[0].remote_nat) == (True, False)
    assert (pair.b.established[0].local_nat, pair.b.established[0].remote_nat) == (False, True)
    pair.traffic(1.0)
    pair.run(2.0)
    assert pair.lost == 0
    assert pair.b.dataplane.received == pair.a.dataplane.sent


def test_nat_keepalives_of_the_one_behind_it() -> None:
    """RFC 3948 s4: one octet every 20 s, unless something else was sent."""
    pair = behind_nat()
    before = len(pair.a.performed)
    pair.run(101.0)
    sent = [x for x in pair.a.performed[before:] if isinstance(x, Transmit)]
    assert [x.data for x in sent] == [NAT_KEEPALIVE] * 5
    assert pair.b.endpoint.counters["keepalives received"] == 5
    assert pair.b.endpoint.counters["keepalives sent"] == 0


@pytest.mark.parametrize("by", ["esp", "ike"])
def test_nat_that_rebinds(by: str) -> None:
    """s2.23: authentic ESP or IKE from elsewhere moves both."""
    pair = behind_nat()
    assert pair.nat
    pair.nat.rebind()
    if by == "esp":
        pair.traffic(0.5)
    else:
        pair.a.rekey("net")
    pair.run(2.0)
    path = pair.b.established[0].path
    assert path.remote_port == 29500
    assert pair.b.the_child().outbound.path == path
    assert pair.b.dataplane.outbound[1][pair.b.the_child().spi_out].path == path
    pair.traffic(1.0)
    received = pair.a.dataplane.received
    pair.run(2.0)
    assert pair.a.dataplane.received > received


@pytest.mark.parametrize("who", ["a", "b"])
def test_encap_forces_udp_without_a_nat(who: str) -> None:
    options = {x: {"encap": True} if x == who else {} for x in "ab"}
    pair = Pair(connection("a", **options["a"]), connection("b", **options["b"])).up()
    for gateway in (pair.a, pair.b):
        assert gateway.the_child().outbound.udp_encap
        assert gateway.the_child().outbound.path.remote_port == 4500
    assert pair.a.established[0].path.local_port == 4500


def test_without_nat_a_peer_may_use_4500_all_the_same() -> None:
    """s2.23: IKE follows the port, ESP stays bare."""
    pair = Pair().up()
    sa = pair.a.established[0]
    sa.path = replace(sa.path, local_port=4500, remote_port=4500)
    pair.a.rekey("net")
    run_quiet(pair)
    assert pair.b.established[0].path.remote_port == 4500
    assert pair.b.the_child().outbound.path.remote_port == 0
    pair.check_converged(children=1)


# -- IKE_AUTH ----------------------------------------------------------------------------------------------------------


def test_wrong_secret() -> None:
    """s2.21.2: AUTHENTICATION_FAILED, and nothing remains at either end."""
    pair = Pair(connection("a", secret=b"not that one"))
    pair.a.initiate()
    pair.run(1.0)
    assert pair.exchange()[-1] == "<-- b IKE_AUTH {N(AUTHENTICATION_FAILED)}"
    assert "a.test has another secret" in logged(pair, "b", "request-refused")
    assert "AUTHENTICATION_FAILED" in logged(pair, "a", "auth-failed")
    assert not pair.a.ike_sas
    assert not pair.b.ike_sas
    texts = [n.message for g in (pair.a, pair.b) for n in g.log]
    assert not any("secret that both" in t or "not that one" in t for t in texts)


def test_an_identity_that_the_responder_does_not_have() -> None:
    """IDr asks for somebody else: the log of the responder names who."""
    pair = Pair(connection("a", remote=AuthConfig(Identity(2, b"c.test")), secrets=(PresharedKey((), b"anyone's"),)))
    pair.a.initiate()
    pair.run(1.0)
    assert "c.test" in logged(pair, "b", "request-refused")
    assert not pair.a.established
    assert not pair.b.established


def test_impostor_is_told_and_forgotten() -> None:
    """The peer's AUTH is wrong at the initiator: INFORMATIONAL with AUTHENTICATION_FAILED (s2.21.2)."""
    ids = {x: Identity(2, f"{x}.test".encode()) for x in "ab"}
    right, wrong = PresharedKey((ids["a"], ids["b"]), b"right"), PresharedKey((ids["b"],), b"right")
    pair = Pair(connection("a", secrets=(right,), remote=AuthConfig(None)), connection("b", secrets=(wrong,)))
    other = PresharedKey((ids["a"], ids["b"]), b"another")
    pair.a.initiate()
    pair.run(0.05)
    pair.a.endpoint.connections["ab"].config = connection("a", secrets=(other,), remote=AuthConfig(None))
    pair.run(1.0)
    assert pair.exchange()[-2:] == ["a --> INFORMATIONAL {N(AUTHENTICATION_FAILED)}", "<-- b INFORMATIONAL {}"]
    assert "another secret" in logged(pair, "a", "auth-failed")
    assert not pair.a.ike_sas
    assert not pair.b.ike_sas
    run_quiet(pair)
    pair.check_converged(children=0)


def test_remote_id_mismatch_names_both() -> None:
    pair = Pair(connection("a"), connection("b", remote=AuthConfig(Identity(2, b"other.test"))))
    pair.a.initiate()
    pair.run(1.0)
    text = logged(pair, "b", "request-refused")
    assert "a.test" in text
    assert "other.test" in text


def test_the_identity_chooses_among_connections() -> None:
    """Both connections have the same addresses and proposals; who the peer says it is decides."""
    wrong = connection("b", name="wrong", remote=AuthConfig(Identity(2, b"x.test")))
    pair = Pair(connection("a"), (wrong, connection("b"))).up()
    assert pair.b.established[0].connection.config.name == "ab"
    assert pair.b.the_child().ike.connection.config.name == "ab"


def test_child_failure_leaves_the_ike_sa() -> None:
    """s1.2: and the log says what both sides want."""
    pair = Pair(
        connection("a"), connection("b", children=(child("net", "b", remote_ts=(selector("10.9.0.0/24"),)),))
    ).up()
    assert pair.exchange()[-1] == "<-- b IKE_AUTH {IDr, AUTH, N(TS_UNACCEPTABLE)}"
    for text in (logged(pair, "b", "child-refused"), logged(pair, "a", "child-failed")):
        assert "10.1.0.0/24" in text
    assert "10.9.0.0/24" in logged(pair, "b", "child-refused")
    pair.check_converged(children=0)
    assert pair.a.endpoint.context.children.spis.allocate() is not None
    mark = pair.mark()
    pair.a.initiate()
    pair.run(1.0)
    assert pair.exchange(mark)[-1] == "<-- b CREATE_CHILD_SA {N(TS_UNACCEPTABLE)}"


def test_esp_proposal_mismatch() -> None:
    pair = Pair(connection("a"), connection("b", children=(child("net", "b", esp=("aes256gcm16",)),))).up()
    assert pair.exchange()[-1] == "<-- b IKE_AUTH {IDr, AUTH, N(NO_PROPOSAL_CHOSEN)}"
    assert "aes256gcm16" in logged(pair, "b", "child-refused")
    assert "aes128gcm16" in logged(pair, "b", "child-refused")
    pair.check_converged(children=0)


@pytest.mark.parametrize("esp", ["aes128gcm16-esn", "aes128gcm16-esn-noesn", "aes256gcm16-noesn"])
def test_extended_sequence_numbers_are_negotiated(esp: str) -> None:
    ends = {x: connection(x, children=(child("net", x, esp=(esp,)),)) for x in "ab"}
    pair = Pair(ends["a"], ends["b"]).up()
    for gateway in (pair.a, pair.b):
        assert gateway.the_child().inbound.esn == ("-esn" in esp)


def test_pfs_only_from_the_first_rekey_on() -> None:
    """s1.2: the Child SA of IKE_AUTH has no key exchange; another group is asked for where ours differs (s1.3.1)."""
    a, b = child("net", "a", esp=("aes128gcm16-ecp256-x25519",)), child("net", "b", esp=("aes128gcm16-x25519",))
    pair = Pair(connection("a", children=(a,)), connection("b", children=(b,))).up()
    mark = pair.mark()
    pair.a.rekey("net")
    run_quiet(pair)
    assert pair.exchange(mark)[1:4] == [
        "<-- b CREATE_CHILD_SA {N(INVALID_KE_PAYLOAD)}",
        "a --> CREATE_CHILD_SA {N(REKEY_SA), SA, Ni, KE, TSi, TSr}",
        "<-- b CREATE_CHILD_SA {SA, Nr, KE, TSi, TSr}",
    ]
    pair.check_converged(children=1)


# -- selectors, modes, packets -----------------------------------------------------------------------------------------


def test_narrowing() -> None:
    """s2.9: the responder takes what both allow."""
    wide = child("net", "a", local_ts=(selector("10.1.0.0/16"),), remote_ts=(selector("10.0.0.0/8"),))
    pair = Pair(connection("a", children=(wide,))).up()
    assert str(pair.a.the_child().selectors) == "10.1.0.0/24 === 10.2.0.0/24"
    assert pair.a.the_child().outbound.remote_ts == pair.b.the_child().outbound.local_ts


def test_dynamic_selectors_are_the_ike_addresses() -> None:
    ends = {x: connection(x, children=(child("net", x, local_ts=(None,), remote_ts=(None,)),)) for x in "ab"}
    pair = Pair(ends["a"], ends["b"]).up()
    assert str(pair.a.the_child().selectors) == "192.0.2.1/32 === 192.0.2.2/32"


def test_transport_mode() -> None:
    """s1.3.1: USE_TRANSPORT_MODE in request and response."""
    options = {"local_ts": (None,), "remote_ts": (None,), "mode": Mode.TRANSPORT}
    ends = {x: connection(x, children=(child("net", x, **options),)) for x in "ab"}
    pair = Pair(ends["a"], ends["b"]).up()
    assert "N(USE_TRANSPORT_MODE)" in pair.exchange()[2]
    assert "N(USE_TRANSPORT_MODE)" in pair.exchange()[3]
    assert pair.b.the_child().inbound.mode is Mode.TRANSPORT
    for line in pair.exchange()[2:4]:  # there the receiver could not tell padding from payload
        assert "N(USE_TRANSPORT_MODE), N(ESP_TFC_PADDING_NOT_SUPPORTED), SA" in line
    pair.b.rekey("net")
    run_quiet(pair)
    pair.check_converged(children=1)


def test_later_fragments_of_port_specific_sas_are_not_agreed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """s1.3.1: who does not say NON_FIRST_FRAGMENTS_ALSO back neither sends nor takes them."""
    offer = ChildOffer.payloads
    asks = NotifyPayload(NotifyType.NON_FIRST_FRAGMENTS_ALSO)
    monkeypatch.setattr(ChildOffer, "payloads", lambda self, *between: (asks, *offer(self, *between)))
    pair = Pair().up()
    request, response = pair.exchange()[2:4]
    assert "N(NON_FIRST_FRAGMENTS_ALSO)" in request
    assert response == "<-- b IKE_AUTH {IDr, AUTH, SA, TSi, TSr}"
    pair.check_converged(children=1)


def test_transport_mode_behind_a_nat() -> None:
    """s2.23.1: each end has the addresses that it sees itself; those in our messages are the initiator's."""
    options = {"local_ts": (None,), "remote_ts": (None,), "mode": Mode.TRANSPORT}
    pair = Pair(
        connection("a", children=(child("net", "a", **options),)),
        connection("b", children=(child("net", "b", **options),), remote_addrs=()),
        nat=Nat(),
    ).up()
    assert str(pair.a.the_child().selectors) == "192.0.2.1/32 === 192.0.2.2/32"
    assert str(pair.b.the_child().selectors) == f"192.0.2.2/32 === {NAT_ADDRESS}/32"
    pair.b.rekey("net")
    run_quiet(pair)
    pair.check_converged(children=1)


def test_transport_mode_with_a_responder_that_answers_in_its_own_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """s2.23.1: as strongSwan does; the initiator replaces them before it looks whether they are narrower."""
    answer = ike_auth.answer_payloads

    def own_addresses(request: ChildRequest, terms: ChildTerms, *between: Payload) -> tuple[Payload, ...]:
        return answer(replace(request, as_sent=request.selectors), terms, *between)

    for module in (ike_auth, child_exchange):
        monkeypatch.setattr(module, "answer_payloads", own_addresses)
    options = {"local_ts": (None,), "remote_ts": (None,), "mode": Mode.TRANSPORT}
    pair = Pair(
        connection("a", children=(child("net", "a", **options),)),
        connection("b", children=(child("net", "b", **options),), remote_addrs=()),
        nat=Nat(),
    ).up()
    for by in (pair.a, pair.b):
        by.rekey("net")
        run_quiet(pair)
        assert str(pair.a.the_child().selectors) == "192.0.2.1/32 === 192.0.2.2/32"
        assert str(pair.b.the_child().selectors) == f"192.0.2.2/32 === {NAT_ADDRESS}/32"
        pair.check_converged(children=1)


def test_mode_mismatch_is_refused_with_a_reason() -> None:
    options = {"local_ts": (None,), "remote_ts": (None,)}
    a = child("net", "a", mode=Mode.TRANSPORT, **options)
    pair = Pair(connection("a", children=(a,)), connection("b", children=(child("net", "b", **options),))).up()
    assert "transport mode" in logged(pair, "b", "child-refused")
    pair.check_converged(children=0)


def test_a_packet_on_the_heels_of_a_delete_asks_for_nothing() -> None:
    """It met the policies of a Child SA that was gone already; nobody wants that connection for its packets."""
    pair = Pair().up()
    reqid = pair.a.the_child().reqid
    pair.b.terminate()
    pair.run(5.0)
    host = TrafficSelector(ip_address("10.1.0.2"), ip_address("10.1.0.2"))
    pair.a.endpoint.handle_data_plane(Acquire(reqid, host, host), pair.now)
    assert ReleaseHeld(reqid) in pair.a.endpoint.actions()
    pair.run(5.0)
    pair.check_converged(children=0)


def test_a_trapped_packet_is_not_lost() -> None:
    """The first packet asks for the SA, is held, and leaves as soon as there is one; its selectors lead (s2.9)."""
    pair = Pair(connection("a", children=(child("net", "a", start_action=StartAction.TRAP),))).start()
    for _ in range(3):
        pair.a.dataplane.send(1)
    pair.run(2.0)
    assert pair.b.dataplane.received == 3
    assert pair.lost == 0
    offered = [line.message for line in pair.transcript if getattr(line, "message", None)][2]
    assert [str(s) for s in offered.get(TsPayload, PayloadType.TSi).selectors] == ["10.1.0.5/32[6/1234]", "10.1.0.0/24"]
    pair.check_converged(children=1)


def test_packets_held_at_the_responder_are_not_lost_either() -> None:
    """They wait until the initiator has installed the SA."""
    both = {x: connection(x, children=(child("net", x, start_action=StartAction.TRAP),)) for x in "ab"}
    pair = Pair(both["a"], both["b"]).start()
    pair.a.dataplane.send(1)
    for _ in range(5):
        pair.b.dataplane.send(1)
    pair.run(2.0)
    assert (pair.a.dataplane.received, pair.b.dataplane.received) == (5, 1)
    assert pair.lost == 0


def test_packets_are_released_when_there_will_be_no_sa() -> None:
    refusing = child("net", "b", remote_ts=(selector("10.9.0.0/24"),))
    pair = Pair(
        connection("a", children=(child("net", "a", start_action=StartAction.TRAP),)),
        connection("b", children=(refusing,)),
    ).start()
    pair.a.dataplane.send(1)
    pair.run(1.0)
    assert pair.a.dataplane.released[1] == 1
    mark = pair.mark()
    pair.a.dataplane.send(1)
    pair.run(0.5)
    assert pair.exchange(mark) == [], "not again at once"
    assert pair.a.dataplane.released[1] == 2


def test_acquire_for_an_unknown_reqid_is_nothing() -> None:
    pair = Pair()
    host = TrafficSelector(*[pair.a.address] * 2)
    pair.a.endpoint.handle_data_plane(Acquire(99, host, host), pair.now)
    assert pair.a.endpoint.actions() == []


def test_reqids_stay() -> None:
    """Over rekeys and reconnects; each child its own."""
    names = ("net1", "net2")
    ends = {x: connection(x, children=tuple(child(n, x) for n in names)) for x in "ab"}
    pair = Pair(ends["a"], ends["b"])
    pair.a.initiate(None)
    pair.run(2.0)
    before = {c.config.name: c.reqid for c in pair.a.children}
    pair.a.rekey("net2")
    pair.run(5.0)
    pair.a.terminate()
    pair.run(5.0)
    pair.a.initiate(None)
    pair.run(2.0)
    assert {c.config.name: c.reqid for c in pair.a.children} == before == {"net1": 1, "net2": 2}


def test_one_connection_serves_many_peers_with_a_reqid_each() -> None:
    wide = child("net", "b", remote_ts=(selector("10.1.0.0/16"),))
    shared = (PresharedKey((), b"shared"),)
    anyone = connection("b", remote_addrs=(), remote=AuthConfig(None), secrets=shared, children=(wide,))
    pair = Pair((connection("a", secrets=shared),), anyone).up()
    second = connection(
        "a",
        name="two",
        local=AuthConfig(Identity(2, b"a2.test")),
        children=(child("net", local_ts=(selector("10.1.7.0/24"),)),),
        secrets=shared,
        unique="never",
    )
    pair.a.endpoint.connections["two"] = Connection(second, pair.a.endpoint.context)
    pair.a.initiate("net", "two")
    pair.run(2.0)
    assert {c.reqid for c in pair.b.children} == {1, 2}
    assert {str(sa.remote_id) for sa in pair.b.established} == {"a.test", "a2.test"}


@pytest.mark.parametrize(("age", "rekeyed"), [(1.0, False), (10.0, True)])
def test_a_lost_child_sa_is_rekeyed_but_no_young_one(age: float, rekeyed: bool) -> None:
    """s1.5: what the peer reports of a young one was most likely our first packet, quicker than its response."""
    pair = Pair().up()
    pair.run(age - 1.0)
    mark = pair.mark()
    path = pair.b.established[0].esp_path
    pair.b.endpoint.handle_data_plane(UnknownSpi(pair.a.the_child().spi_out, path), pair.now)
    pair.run(5.0)
    assert any("REKEY_SA" in line for line in pair.exchange(mark)) == rekeyed
    pair.check_converged(children=1)


def test_unknown_esp_spi_is_reported_to_the_peer_now_and_then() -> None:
    """s1.5: INVALID_SPI over the IKE SA; at most one in ten seconds."""
    pair = Pair().up()
    mark = pair.mark()
    path = pair.a.established[0].esp_path
    for _ in range(5):
        pair.a.endpoint.handle_data_plane(UnknownSpi(0x12345678, path), pair.now)
        pair.run(1.0)
    assert pair.exchange(mark) == ["a --> INFORMATIONAL {N(INVALID_SPI)}", "<-- b INFORMATIONAL {}"]
    assert pair.a.endpoint.counters["unknown ESP SPI"] == 5


@pytest.mark.parametrize("in_auth", [True, False])
def test_single_pair_required(in_auth: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """s2.9: a responder that takes single pairs only gets the packet's selectors alone."""

    def picky(sa: IkeSa, request: ChildRequest, *, ke: bool, old: ChildSa | None = None) -> ChildTerms:
        if len(request.selectors.local) > 1:
            raise SinglePairRequired
        return agree(sa, request, ke=ke, old=old)

    pair = Pair(connection("a", children=(child("net", "a", start_action=StartAction.TRAP),)))
    if not in_auth:
        pair.up()
        pair.a.terminate("net")
        pair.run(1.0)
    monkeypatch.setattr(ike_auth, "agree", picky)
    monkeypatch.setattr(child_exchange, "agree", picky)
    pair.start()
    pair.a.dataplane.send(1)
    pair.run(1.0)
    assert str(pair.b.the_child().selectors) == "10.2.0.5/32[6/80] === 10.1.0.5/32[6/1234]"
    assert pair.b.dataplane.received == 1


def test_over_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ADDRESS, "a", ip_address("2001:db8::1"))
    monkeypatch.setitem(ADDRESS, "b", ip_address("2001:db8::2"))
    ends = {x: connection(x, children=(child("net", x, local_ts=(None,), remote_ts=(None,)),)) for x in "ab"}
    pair = Pair(ends["a"], ends["b"]).up()
    assert not pair.a.the_child().outbound.udp_encap
    assert str(pair.a.the_child().selectors) == "2001:db8::1/128 === 2001:db8::2/128"
    pair.a.rekey("net")
    pair.b.rekey(None)
    run_quiet(pair)
    pair.check_converged(children=1)


def test_initial_contact_spares_other_connections_with_the_same_peer() -> None:
    """s2.4 goes by identities: with a second connection between the same two it must not be sent."""
    ends = {
        x: (connection(x), connection(x, name="second", children=(child("net2", x),), unique="replace")) for x in "ab"
    }
    pair = Pair(ends["a"], ends["b"]).up()
    mark = pair.mark()
    pair.a.initiate("net2", "second")
    pair.run(2.0)
    assert "INITIAL_CONTACT" not in "".join(pair.exchange(mark))
    assert len(pair.a.established) == 2


def test_the_peer_is_chosen_by_the_most_exact_identity() -> None:
    """A connection for all of *.test, one for a.test alone, in this order: the latter is meant, by PSK each."""
    ids = {name: Identity(2, name.encode()) for name in ("a.test", "b.test", "*.test")}
    secrets = (PresharedKey((ids["*.test"],), b"for all of test"), PresharedKey((ids["a.test"], ids["b.test"]), SECRET))
    many = connection("b", name="many", remote_addrs=(), remote=AuthConfig(ids["*.test"]), secrets=secrets)
    one = connection("b", name="one", remote_addrs=(), remote=AuthConfig(ids["a.test"]), secrets=secrets)
    made = Pair(None, (many, one)).up()
    assert made.b.established[0].connection.config.name == "one"
    made = Pair(None, many).up()
    assert made.b.established[0].remote_id == ids["a.test"]


def test_an_initiator_may_know_its_peer_by_pattern_only() -> None:
    """It asks for nobody (no IDr), and takes whoever the pattern covers."""
    everyone = PresharedKey((), SECRET)
    pattern = AuthConfig(Identity(2, b"*.test"))
    made = Pair(connection("a", remote=pattern, secrets=(everyone,)), connection("b", secrets=(everyone,))).up()
    assert "IDr" not in made.exchange()[2]
    assert str(made.a.established[0].remote_id) == "b.test"
    other = AuthConfig(Identity(2, b"*.example.org"))
    made = Pair(connection("a", remote=other, secrets=(everyone,)), connection("b", secrets=(everyone,)))
    made.a.initiate()
    run_quiet(made)
    assert not made.a.established
    assert any("the peer is b.test, configured here as remote.id is *.example.org" in n.message for n in made.a.log)
