"""Redirect (RFC 5685): a client, a gateway b that sends it away, and a gateway c that serves it.

a (192.0.2.1)  --- b (192.0.2.2), identity b.test
               --- c (192.0.2.3), the same identity
"""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from simulation import ADDRESS, Gateway, Network, StartAction, child, connection

from ipsecfast.configured import AuthConfig
from ipsecfast.identity import Identity
from ipsecfast.ike.actions import ResolveName, Transmit
from ipsecfast.ike.constants import ExchangeType, InvalidSyntax, NotifyType
from ipsecfast.ike.extension.gateway_identity import gateway_id, parse_gateway_id, parse_target
from ipsecfast.ike.extension.redirect import MAX_REDIRECTS
from ipsecfast.ike.wire.message import Message, encode_message, parse_message
from ipsecfast.ike.wire.payloads import NotifyPayload
from ipsecfast.model import Path

C = ip_address("192.0.2.3")
D = ip_address("192.0.2.4")
START = (child("net", "a", start_action=StartAction.START),)


class Three(Network):
    def __init__(self, *, a: dict | None = None, b: dict | None = None, c: dict | None = None, seed: int = 1) -> None:
        super().__init__(seed)
        a = {"redirect": True, "keyingtries": 0} | (a or {})
        self.a = self.add(Gateway(self, "a", ADDRESS["a"], (connection("a", **a),), None))
        self.b = self.add(Gateway(self, "b", ADDRESS["b"], (connection("b", **(b or {})),), None))
        self.c = self.add(Gateway(self, "c", C, (connection("b", local_addrs=(C,), **(c or {})),), None))

    def up(self) -> Three:
        self.a.initiate()
        return self.run(2.0)

    def send_away(self, gateway: Gateway, target: object = C) -> tuple[int, int]:
        counts = gateway.endpoint.send_away("ab", target, self.now)
        gateway.perform()
        return counts

    def serves(self, gateway: Gateway) -> None:
        """`gateway` has the one tunnel of a, and nobody else has anything."""
        self.run(200.0)
        for other in {self.b, self.c} - {gateway}:
            assert not other.ike_sas, self.text()
            assert not other.dataplane.inbound
        (sa,), (theirs,) = self.a.established, gateway.established
        assert (sa.spi_i, sa.spi_r) == (theirs.spi_i, theirs.spi_r)
        assert sa.path.remote == gateway.address
        assert self.a.the_child().spi_in == gateway.the_child().spi_out
        assert set(self.a.dataplane.inbound) == {self.a.the_child().spi_in}


def brief(network: Network, since: int = 0) -> list[str]:
    """Exchange and the notifies about redirects alone."""
    shown = []
    for line in network.exchange(since):
        head, _, body = line.partition(" {")
        words = [word.removeprefix("N(").removesuffix(")") for word in body.removesuffix("}").split(", ")]
        shown.append(" ".join([head, *(word for word in words if word.startswith("REDIRECT"))]))
    return shown


# -- IKE_SA_INIT -------------------------------------------------------------------------------------------------------


def test_in_ike_sa_init() -> None:
    """s3: without any state at the first gateway."""
    three = Three(b={"redirect_to": C}).up()
    assert brief(three) == [
        "a --> IKE_SA_INIT REDIRECT_SUPPORTED",
        "<-- b IKE_SA_INIT REDIRECT",
        "a --> c IKE_SA_INIT REDIRECTED_FROM",
        "c --> a IKE_SA_INIT",
        "a --> c IKE_AUTH",
        "c --> a IKE_AUTH",
    ]
    assert three.b.endpoint.counters["redirected"] == 1
    three.serves(three.c)


def test_who_does_not_know_redirects_is_served() -> None:
    three = Three(a={"redirect": False}, b={"redirect_to": C}).up()
    assert not any("REDIRECT" in line for line in brief(three))
    three.serves(three.b)


def test_two_gateways_that_point_at_each_other_serve() -> None:
    """Who comes from where it would be sent stays."""
    three = Three(b={"redirect_to": C}, c={"redirect_to": ADDRESS["b"]}).up()
    three.serves(three.c)


@pytest.mark.parametrize("nonce", [b"", b"x" * 32])
def test_a_redirect_with_another_nonce_is_passed_over(nonce: bytes) -> None:
    """s3: who did not see the request can't move us."""
    three = Three()
    three.a.initiate()
    (init,) = [parse_message(x.data) for x in three.a.performed if isinstance(x, Transmit)]
    notify = NotifyPayload(NotifyType.REDIRECT, gateway_id(C) + nonce)
    forged = encode_message(Message(init.spi_i, bytes(8), ExchangeType.IKE_SA_INIT, 0, True, False, (notify,)))
    three.a.receive(forged, Path(ADDRESS["a"], 500, ADDRESS["b"], 500))
    three.run(2.0)
    assert three.a.endpoint.counters["unusable responses"] == 1
    three.serves(three.b)


def test_who_did_not_offer_does_not_follow() -> None:
    three = Three(a={"redirect": False})
    three.a.initiate()
    (init,) = [parse_message(x.data) for x in three.a.performed if isinstance(x, Transmit)]
    nonce = init.payloads[2].data
    notify = NotifyPayload(NotifyType.REDIRECT, gateway_id(C) + nonce)
    forged = encode_message(Message(init.spi_i, bytes(8), ExchangeType.IKE_SA_INIT, 0, True, False, (notify,)))
    three.a.receive(forged, Path(ADDRESS["a"], 500, ADDRESS["b"], 500))
    three.serves(three.b)


def test_a_gateway_that_is_not_there_costs_one_attempt() -> None:
    """The next one goes where the configuration says; by then b serves."""
    three = Three(b={"redirect_to": D}).up()
    three.send_away(three.b, None)
    three.run(400.0)
    three.serves(three.b)


def test_a_loop_ends() -> None:
    """At most five in five minutes; then pauses like those after other failures."""
    three = Three(a={"children": START}, b={"redirect_to": C}, c={"redirect_to": D}, seed=3)
    d = three.add(Gateway(three, "d", D, (connection("b", local_addrs=(D,), redirect_to=ADDRESS["b"]),), None))
    three.start()
    three.run(299.0)
    redirects = [line for line in brief(three) if line.endswith("IKE_SA_INIT REDIRECT")]
    followed = three.a.events().count("redirected")
    assert followed == MAX_REDIRECTS
    assert len(redirects) < 20
    assert "redirect-refused" in three.a.events()
    three.send_away(d, None)
    three.run(1000.0)
    assert three.a.established
    assert three.a.established[0].path.remote == D


@pytest.mark.parametrize("target", ["127.0.0.1", "224.0.0.1", "0.0.0.0", "2001:db8::3"])
def test_where_no_gateway_can_be_nobody_goes(target: str) -> None:
    three = Three(b={"redirect_to": ip_address(target)}).up()
    assert three.a.events()[:3] == ["connecting", "redirect-refused", "ike-failed"]
    assert "retrying" in three.a.events()
    three.send_away(three.b, None)
    three.serves(three.b)


# -- IKE_AUTH ----------------------------------------------------------------------------------------------------------


def two_connections(target: object) -> tuple:
    """Only the identity tells b that a is not to be served here."""
    other = connection("b", name="other", remote=AuthConfig(Identity(2, b"other.test")), children=(child("net", "b"),))
    return other, connection("b", redirect_to=target)


def test_in_ike_auth() -> None:
    """s6: the gateway proves itself, there is no Child SA, and the IKE SA goes."""
    three = Three()
    three.b.restart(two_connections(C))
    three.up()
    assert brief(three)[:8] == [
        "a --> IKE_SA_INIT REDIRECT_SUPPORTED",
        "<-- b IKE_SA_INIT",
        "a --> IKE_AUTH",
        "<-- b IKE_AUTH REDIRECT",
        "a --> c IKE_SA_INIT REDIRECTED_FROM",
        "a --> INFORMATIONAL",
        "c --> a IKE_SA_INIT",
        "<-- b INFORMATIONAL",
    ]
    three.serves(three.c)


def test_a_client_that_does_not_go_is_let_go() -> None:
    three = Three()
    three.b.restart(two_connections(C))
    three.link.drop = lambda by, m: by == "a" and m.exchange == ExchangeType.INFORMATIONAL and not m.response
    three.a.initiate()
    three.run(59.0)
    assert three.b.established
    three.run(10.0)
    assert not three.b.ike_sas


def test_a_redirect_to_itself_in_ike_auth_is_an_attempt_that_failed() -> None:
    three = Three(a={"keyingtries": 2})
    three.b.restart(two_connections(ADDRESS["b"]))
    three.up()
    three.run(60.0)
    assert three.a.events().count("redirect-refused") == 2
    assert three.a.events()[-1] != "connecting"
    assert not three.a.ike_sas
    assert not three.a.endpoint.context.children.spis._used


# -- an established gateway --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rekeyed_by", ["", "a", "b"])
def test_an_established_gateway_sends_its_peers_away(rekeyed_by: str) -> None:
    """s5: what b carried goes to c without a gap, then a takes leave of b; whoever rekeyed before."""
    three = Three(a={"children": tuple(child(n) for n in ("net1", "net2"))})
    three.b.restart([connection("b", children=tuple(child(n, "b") for n in ("net1", "net2")))])
    three.c.restart([connection("b", local_addrs=(C,), children=tuple(child(n, "b") for n in ("net1", "net2")))])
    three.a.initiate(None)
    three.run(2.0)
    for name in rekeyed_by:
        three.gateways[name].rekey(None)
        three.run(5.0)
    mark = three.mark()
    three.traffic(6.0)
    three.run(1.0)
    assert three.send_away(three.b) == (1, 0)
    three.run(60.0)
    assert brief(three, mark)[:5] == [
        "<-- b INFORMATIONAL REDIRECT",
        "a --> c IKE_SA_INIT REDIRECTED_FROM",
        "a --> INFORMATIONAL",
        "c --> a IKE_SA_INIT",
        "a --> c IKE_AUTH",
    ]
    assert not three.b.ike_sas
    assert sorted(c.config.name for c in three.c.children) == ["net1", "net2"]
    assert {c.path.remote for c in three.a.established} == {C}
    assert three.lost == 0


def test_a_rekey_under_way_leaves_too() -> None:
    """The successor of what is to go is no reason to stay; and what comes up on it meanwhile goes along."""
    both = {"children": tuple(child(n) for n in ("net1", "net2"))}
    theirs = {"children": tuple(child(n, "b") for n in ("net1", "net2"))}
    three = Three(a=both, b=theirs, c=theirs)
    three.a.initiate("net1")
    three.run(2.0)
    three.a.initiate("net2")
    three.a.rekey(None)
    three.run(0.01)
    three.send_away(three.b)
    three.run(60.0)
    assert not three.b.ike_sas
    assert sorted(c.config.name for c in three.c.children) == ["net1", "net2"]
    assert {sa.path.remote for sa in three.a.established} == {C}


def test_close_action_does_not_fetch_back_who_was_sent_away() -> None:
    three = Three(b={"children": (child("net", "b", close_action=StartAction.START),)}).up()
    three.send_away(three.b)
    three.serves(three.c)


def test_when_the_new_gateway_is_not_there_the_old_one_goes_on() -> None:
    three = Three(a={"keyingtries": 1}).up()
    three.send_away(three.b, D)
    three.run(50.0)
    assert three.a.the_child().spi_in == three.b.the_child().spi_out
    three.traffic(5.0)
    three.run(5.0)
    assert three.lost == 0
    three.run(30.0)
    assert not three.b.ike_sas  # it had a minute


def test_who_did_not_offer_stays_and_is_counted() -> None:
    three = Three(a={"redirect": False}).up()
    assert three.send_away(three.b) == (0, 1)
    three.serves(three.b)


def test_what_cannot_be_read_in_a_redirect_is_told_and_changes_nothing() -> None:
    three = Three().up()
    sa = three.b.established[0]

    class Odd:
        def __call__(self, target: object) -> bytes:
            return b"\x07\x01x"

    from ipsecfast.ike.extension import redirect as module

    real = module.gateway_id
    module.gateway_id = Odd()  # type: ignore[assignment]
    try:
        three.send_away(three.b)
    finally:
        module.gateway_id = real
    three.run(1.0)
    assert "redirect-refused" in three.a.events()
    assert three.a.established
    assert sa.manners.sent_away


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_name_is_resolved_and_followed() -> None:
    three = Three(b={"redirect_to": "c.example.org"})
    three.a.initiate()
    three.run(1.0)
    (asked,) = [x for x in three.a.performed if isinstance(x, ResolveName)]
    assert asked == ResolveName("ab", "c.example.org")
    three.a.endpoint.resolved(asked, (ip_address("2001:db8::3"), C), three.now)
    three.run(1.0)
    three.serves(three.c)


@pytest.mark.parametrize("answer", [None, ()])
def test_a_name_that_cannot_be_resolved_leads_back(answer: tuple | None) -> None:
    """No answer within seconds, or none that is of use: the next attempt is at b, which serves by now."""
    three = Three(b={"redirect_to": "c.example.org"})
    three.a.initiate()
    three.run(1.0)
    (asked,) = [x for x in three.a.performed if isinstance(x, ResolveName)]
    three.send_away(three.b, None)
    if answer is not None:
        three.a.endpoint.resolved(asked, answer, three.now)
    three.run(10.0)
    if answer is None:
        three.a.endpoint.resolved(asked, (C,), three.now)  # too late
    three.serves(three.b)


# -- what stands on the wire -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["192.0.2.3", "2001:db8::3", "gw2.example.org", "gw2"])
def test_gateway_identities(text: str) -> None:
    target = parse_target(text)
    assert parse_gateway_id(gateway_id(target) + b"nonce") == (target, b"nonce")
    assert gateway_id(ip_address("192.0.2.3")) == b"\x01\x04\xc0\x00\x02\x03"
    assert gateway_id("gw")[:2] == b"\x03\x02"


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", b"\x01\x04\xc0", b"\x01\x03\xc0\x00\x02", b"\x02\x04\xc0\x00\x02\x03", b"\x00\x00", b"\x03\x00",
     b"\x03\x03a b", b"\x03\x03a\x00b", b"\x03\x02\xc3\xa4", b"\x04\x04\xc0\x00\x02\x03"],
)  # fmt: skip
def test_what_names_no_gateway(data: bytes) -> None:
    with pytest.raises(InvalidSyntax):
        parse_gateway_id(data)


@pytest.mark.parametrize("text", ["", "a b", "192.0.2", "-x", "a..b", "x" * 64, "%any"])
def test_what_an_operator_cannot_mean(text: str) -> None:
    with pytest.raises(ValueError, match="address or the host name"):
        parse_target(text)
