"""IKE_FOLLOWUP_KE behind CREATE_CHILD_SA (RFC 9370 s2.2.4): rekeys of both kinds, collisions, what is given up."""

from __future__ import annotations

import hmac

import pytest
from simulation import Link, Pair, child, connection, run_quiet
from test_collisions import lose_first, lowest_is

from ipsecfast.configured import Fragmentation
from ipsecfast.ike.child import ChildState
from ipsecfast.ike.constants import ExchangeType
from ipsecfast.ike.context import Settings
from ipsecfast.ike.exchange import child_exchange, ike_followup_ke, key_exchange
from ipsecfast.ike.exchange.base import Exchange
from ipsecfast.ike.exchange.create_child_sa import CreateChild
from ipsecfast.ike.exchange.informational import Liveness
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.timers import Timer
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import KePayload, NoncePayload, NotifyPayload

HYBRID = "aes256gcm16-prfsha384-x25519-ke1_mlkem768"
TRIPLE = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke4_x448"
ESP = "aes128gcm16-x25519-ke1_mlkem768"
LINK = "N(ADDITIONAL_KEY_EXCHANGE)"


def make(ike: str = HYBRID, esp: tuple[str, ...] = (ESP,), *, seed: int = 1, link: Link | None = None) -> Pair:
    ends = [
        connection(x, ike=(ike,), children=(child("net", x, esp=esp),), fragmentation=Fragmentation.NO) for x in "ab"
    ]
    return Pair(*ends, seed=seed, link=link)


def is_followup(message: Message) -> bool:
    return message.exchange == ExchangeType.IKE_FOLLOWUP_KE


def spis_in_use(pair: Pair) -> list[int]:
    return [len(g.endpoint.context.children.spis._used) for g in (pair.a, pair.b)]


# -- what goes over the wire, and what comes of it ------------------------------------------------------------------


def test_ike_rekey() -> None:
    pair = make().up()
    mark = pair.mark()
    pair.b.rekey(None)
    run_quiet(pair)
    assert pair.exchange(mark) == [
        "<-- b CREATE_CHILD_SA {SA, Ni, KE}",
        f"a --> CREATE_CHILD_SA {{SA, Nr, KE, {LINK}}}",
        f"<-- b IKE_FOLLOWUP_KE {{KE, {LINK}}}",
        "a --> IKE_FOLLOWUP_KE {KE}",
        "<-- b INFORMATIONAL {D}",
        "a --> INFORMATIONAL {}",
    ]
    assert pair.a.established[0].proposal_words == HYBRID
    assert pair.a.established[0].quantum_resistant
    pair.check_converged(children=1)


def test_child_rekey_with_two_additional_key_exchanges() -> None:
    pair = make(esp=("aes128gcm16-x25519-ke1_mlkem768-ke4_x448",)).up()
    mark = pair.mark()
    pair.traffic(3.0)
    pair.a.rekey("net")
    run_quiet(pair)
    assert pair.exchange(mark) == [
        "a --> CREATE_CHILD_SA {N(REKEY_SA), SA, Ni, KE, TSi, TSr}",
        f"<-- b CREATE_CHILD_SA {{SA, Nr, KE, TSi, TSr, {LINK}}}",
        f"a --> IKE_FOLLOWUP_KE {{KE, {LINK}}}",
        f"<-- b IKE_FOLLOWUP_KE {{KE, {LINK}}}",
        f"a --> IKE_FOLLOWUP_KE {{KE, {LINK}}}",
        "<-- b IKE_FOLLOWUP_KE {KE}",
        "a --> INFORMATIONAL {D}",
        "<-- b INFORMATIONAL {D}",
    ]
    assert pair.lost == 0
    pair.check_converged(children=1)


def test_new_child() -> None:
    children = {x: (child("net1", x), child("net2", x, esp=(ESP,))) for x in "ab"}
    pair = Pair(*(connection(x, children=children[x], fragmentation=Fragmentation.NO) for x in "ab"))
    pair.a.initiate("net1")
    pair.run(1.0)
    mark = pair.mark()
    pair.a.initiate("net2")
    pair.run(1.0)
    assert [line.split(" {")[0] for line in pair.exchange(mark)][::2] == [
        "a --> CREATE_CHILD_SA",
        "a --> IKE_FOLLOWUP_KE",
    ]
    pair.check_converged(children=2)


def test_an_ike_sa_becomes_quantum_resistant_by_its_rekey() -> None:
    """Set up without, by a peer that offers it from the rekey on."""
    both = "aes256gcm16-prfsha384-x25519", HYBRID
    pair = Pair(connection("a", ike=both[:1]), connection("b", ike=(both[1], both[0]))).up()
    assert not pair.b.established[0].quantum_resistant
    connections = [pair.b.endpoint.connections["ab"], pair.a.endpoint.connections["ab"]]
    connections[1].proposals = connections[0].proposals
    pair.b.rekey(None)
    run_quiet(pair)
    assert [g.established[0].quantum_resistant for g in (pair.a, pair.b)] == [True, True]
    assert not pair.a.the_child().quantum_resistant, "its keys are from before"
    pair.a.rekey("net")
    run_quiet(pair)
    assert [g.the_child().quantum_resistant for g in (pair.a, pair.b)] == [True, True]
    pair.check_converged(children=1)


def test_a_child_can_be_quantum_resistant_by_itself() -> None:
    pair = make("aes256gcm16-prfsha384-x25519").up()
    assert not pair.a.the_child().quantum_resistant
    pair.a.rekey("net")
    run_quiet(pair)
    assert [g.the_child().quantum_resistant for g in (pair.a, pair.b)] == [True, True]
    assert not pair.a.established[0].quantum_resistant


class Secrets:
    """Records what the responder's side of each key exchange yields."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[bytes] = []
        answer = key_exchange.answer_key_exchange

        def recorded(group: int, private: bytes, peer_public: bytes) -> tuple[bytes, bytes]:
            public, secret = answer(group, private, peer_public)
            self.all.append(secret)
            return public, secret

        monkeypatch.setattr(key_exchange, "answer_key_exchange", recorded)


def prf_plus(key: bytes, seed: bytes, length: int, name: str = "sha384") -> bytes:
    stream = block = b""
    for n in range(1, 20):
        block = hmac.digest(key, block + seed + bytes([n]), name)
        stream += block
    return stream[:length]


def nonces(pair: Pair, mark: int) -> bytes:
    """Ni | Nr of what came after `mark`."""
    messages = [m for line in pair.transcript[mark:] if (m := getattr(line, "message", None)) is not None]
    return b"".join(p.data for m in messages for p in m.payloads if isinstance(p, NoncePayload))


def test_the_keys_of_a_rekeyed_ike_sa(monkeypatch: pytest.MonkeyPatch) -> None:
    """SKEYSEED = prf(SK_d, SK(0) | Ni | Nr | SK(1) | SK(2)), written from RFC 9370 s2.2.4."""
    pair = make(TRIPLE).up()
    old, mark = pair.a.established[0], pair.mark()
    secrets = Secrets(monkeypatch)
    pair.a.rekey(None)
    run_quiet(pair)
    zero, *more = secrets.all
    assert len(more) == 2
    both = nonces(pair, mark)
    seed = hmac.digest(old.keys.sk_d, zero + both + b"".join(more), "sha384")
    new = pair.a.established[0]
    assert new.keys.sk_d == prf_plus(seed, both + new.spi_i + new.spi_r, 48)


def test_the_keys_of_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """KEYMAT = prf+(SK_d, SK(0) | Ni | Nr | SK(1))."""
    pair = make().up()
    mark, secrets = pair.mark(), Secrets(monkeypatch)
    pair.a.rekey("net")
    run_quiet(pair)
    zero, one = secrets.all
    keymat = prf_plus(pair.a.established[0].keys.sk_d, zero + nonces(pair, mark) + one, 40)
    new = pair.a.the_child()
    assert new.outbound.key + new.inbound.key == keymat


# -- fallback --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", ["a", "b"])
def test_a_child_without(without: str) -> None:
    esp = {x: ("aes128gcm16-x25519",) if x == without else (ESP, "aes128gcm16-x25519") for x in "ab"}
    pair = Pair(*(connection(x, children=(child("net", x, esp=esp[x]),)) for x in "ab")).up()
    mark = pair.mark()
    pair.a.rekey("net")
    pair.b.rekey(None)
    run_quiet(pair)
    assert "IKE_FOLLOWUP_KE" not in "\n".join(pair.exchange(mark))
    pair.check_converged(children=1)


# -- collisions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loser", ["a", "b"])
@pytest.mark.parametrize("what", ["net", None])
def test_simultaneous_rekey(loser: str, what: str | None) -> None:
    """RFC 7296 s2.8.1 and s2.8.2 as usual, once all key exchanges are done."""
    pair = make().up()
    lowest_is(pair, pair.gateways[loser])
    pair.traffic(2.0)
    pair.run(0.2)
    mark = pair.mark()
    pair.a.rekey(what)
    pair.b.rekey(what)
    run_quiet(pair)
    winner = pair.gateways[pair.gateways[loser].peer_name]
    assert (winner.the_child() if what else winner.established[0]).initiator
    assert len(pair.exchange(mark)) == 12
    assert pair.lost == 0
    assert spis_in_use(pair) == [1, 1]
    pair.check_converged(children=1)


@pytest.mark.parametrize("loser", ["a", "b"])
@pytest.mark.parametrize("lost_by", ["a", "b"])
@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize("what", ["net", None])
def test_simultaneous_rekey_with_a_followup_lost(loser: str, lost_by: str, response: bool, what: str | None) -> None:
    pair = make().up()
    lowest_is(pair, pair.gateways[loser])
    pair.link = lose_first(lost_by, lambda m: is_followup(m) and m.response is response)
    pair.traffic(20.0, every=0.02)
    pair.run(0.2)
    pair.a.rekey(what)
    pair.b.rekey(what)
    run_quiet(pair)
    assert pair.lost == 0
    assert spis_in_use(pair) == [1, 1]
    pair.check_converged(children=1)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.05, 0.07])
@pytest.mark.parametrize(("first", "second"), [("net", None), (None, "net"), ("net", "net"), (None, None)])
def test_the_other_end_rekeys_a_little_later(delay: float, first: str | None, second: str | None) -> None:
    pair = make().up()
    pair.traffic(30.0, every=0.02)
    pair.run(0.2)
    pair.a.rekey(first)
    pair.run(delay)
    pair.b.rekey(second)
    run_quiet(pair)
    assert pair.lost == 0
    assert spis_in_use(pair) == [1, 1]
    assert not any(sa.pending for g in (pair.a, pair.b) for sa in g.ike_sas)
    pair.check_converged(children=1)


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.05, 0.07])
@pytest.mark.parametrize(
    ("what", "who", "gone"),
    [("net", "a", None), ("net", "b", "net"), ("net", "b", None)] + [(None, w, g) for w in "ab" for g in ("net", None)],
)
def test_a_delete_in_between(delay: float, what: str | None, who: str, gone: str | None) -> None:
    """Whoever deletes wins, and nothing that was half made remains."""
    pair = make().up()
    pair.a.rekey(what)
    pair.run(delay)
    pair.gateways[who].terminate(gone)
    run_quiet(pair)
    assert spis_in_use(pair) == [0, 0]
    pair.check_converged(children=0)


# -- what is given up --------------------------------------------------------------------------------------------------


def lonely_rekey(pair: Pair, seconds: float) -> IkeSa:
    """a's CREATE_CHILD_SA gets through, no IKE_FOLLOWUP_KE does."""
    pair.link = Link(drop=lambda by, m: m is not None and is_followup(m))
    pair.a.rekey("net")
    pair.run(seconds)
    return pair.b.established[0]


def test_what_is_not_followed_up_is_dropped() -> None:
    pair = make().up()
    sa = lonely_rekey(pair, 1.0)
    assert sa.pending is not None
    assert spis_in_use(pair) == [2, 2]
    pair.run(60.0)
    assert sa.pending is None
    assert spis_in_use(pair)[1] == 1
    pair.link = Link()
    run_quiet(pair)
    assert "<-- b IKE_FOLLOWUP_KE {N(STATE_NOT_FOUND)}" in pair.exchange()
    assert spis_in_use(pair) == [1, 1]
    assert pair.a.the_child().state is ChildState.INSTALLED
    assert "rekey-failed" not in pair.a.events(), "it is begun anew without a word"
    pair.check_converged(children=1)


def test_one_waits_at_a_time() -> None:
    """What a peer makes us keep is bounded: the next one takes the place of what waits."""
    pair = make().up()
    sa, dropped = pair.b.established[0], []
    for name in ("first", "second"):
        ike_followup_ke.hold(sa, (36,), lambda *_: None, lambda name=name: dropped.append(name), pair.now)
    assert dropped == ["first"]
    pair.run(sa.context.settings.follow_up_timeout)
    assert dropped == ["first", "second"]
    assert sa.pending is None


def test_a_closed_ike_sa_gives_back_what_waits() -> None:
    pair = make().up()
    sa = lonely_rekey(pair, 1.0)
    pair.b.terminate()
    run_quiet(pair)
    assert sa.pending is None
    assert pair.b.endpoint.context.timers.deadline(sa, Timer.FOLLOW_UP) is None
    assert spis_in_use(pair) == [0, 0]


class Raw(Exchange):
    """A request of any payloads."""

    states = CreateChild.states

    def __init__(self, *payloads: object) -> None:
        self.type, self.payloads = ExchangeType.IKE_FOLLOWUP_KE, payloads

    def request(self, sa: IkeSa, now: float) -> tuple:
        return self.payloads

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        pass


@pytest.mark.parametrize(
    ("payloads", "answer"),
    [
        ((KePayload(36, bytes(1184)), NotifyPayload(16441, b"a link of its own")), "STATE_NOT_FOUND"),
        ((KePayload(36, bytes(1184)), NotifyPayload(16441, b"")), "STATE_NOT_FOUND"),
        ((NotifyPayload(16441, b"link"),), "INVALID_SYNTAX"),
    ],
)
def test_a_followup_of_nothing(payloads: tuple[object, ...], answer: str) -> None:
    pair = make().up()
    raw = Raw(*payloads)
    pair.a.established[0].start(raw, pair.now)
    pair.run(1.0)
    assert f"<-- b IKE_FOLLOWUP_KE {{N({answer})}}" in pair.exchange()


@pytest.mark.parametrize(("group", "length"), [(36, 1), (36, 1185), (37, 1568)])
def test_a_wrong_value_ends_it(group: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7296 s2.21.3: who sends that can't be talked to."""
    pair = make().up()
    make_one = key_exchange.make_key_exchange
    wrong = KePayloadOf(group, bytes(length))
    monkeypatch.setattr(
        key_exchange, "make_key_exchange", lambda g, private: wrong if g == 36 else make_one(g, private)
    )
    pair.a.rekey("net")
    run_quiet(pair)
    assert "<-- b IKE_FOLLOWUP_KE {N(INVALID_SYNTAX)}" in pair.exchange()
    assert spis_in_use(pair) == [0, 0]
    pair.check_converged(children=0)


class KePayloadOf:
    def __init__(self, group: int, public: bytes) -> None:
        self.group, self.public = group, public


def test_a_response_without_a_link_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make().up()
    monkeypatch.setattr(child_exchange, "hold", lambda *_: NotifyPayload(16441, b""))
    pair.a.rekey("net")
    pair.run(1.0)
    assert spis_in_use(pair)[0] <= 2
    run_quiet(pair)
    assert "does not say how they go on" in "".join(n.message for n in pair.a.log)


def test_liveness_may_stand_between() -> None:
    """Other exchanges of the peer go on; what waits is found by its link."""
    pair = make().up()
    pair.a.rekey("net")
    pair.run(0.03)
    pair.b.established[0].start(Liveness(), pair.now)
    run_quiet(pair)
    pair.check_converged(children=1)


@pytest.mark.parametrize("seed", range(15))
def test_bad_link(seed: int) -> None:
    settings = Settings()
    assert settings.follow_up_timeout < settings.retransmit.total
    pair = make(TRIPLE, seed=seed).up()
    pair.link = Link(loss=0.2, duplicate=0.2, jitter=0.1)
    pair.traffic(60.0, every=0.1)
    for _ in range(3):
        pair.a.rekey("net")
        pair.b.rekey(None)
        pair.run(20.0)
    pair.link = Link()
    run_quiet(pair)
    assert pair.lost == 0
    assert spis_in_use(pair) == [1, 1], pair.text()
    pair.check_converged(children=1)
