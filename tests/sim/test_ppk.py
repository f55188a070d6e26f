"""Post-quantum pre-shared keys in IKE_AUTH (RFC 8784) and in IKE_INTERMEDIATE (RFC 9867)."""

from __future__ import annotations

from dataclasses import replace
from hmac import digest

import pytest
from simulation import IKE_PROPOSAL, Pair, connection

from ipsecfast.configured import Fragmentation, PostquantumKey
from ipsecfast.ike.constants import InvalidSyntax, NotifyType
from ipsecfast.ike.extension import ppk
from ipsecfast.ike.snapshot import ike_sa_status
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import NotifyPayload

ONE = PostquantumKey(b"ppk-1", b"one key against quantum computers, 32 octets or more")
TWO = PostquantumKey(b"ppk-2", b"another key against quantum computers")
OTHER_ONE = PostquantumKey(b"ppk-1", b"the same name and another secret, by mistake")
HYBRID = "aes128gcm16-prfsha256-x25519-ke1_mlkem768"
NAT = "N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP)"


def pair(
    a: tuple[PostquantumKey, ...] = (ONE,),
    b: tuple[PostquantumKey, ...] = (ONE,),
    *,
    required: str = "",
    ike: str = IKE_PROPOSAL,
) -> Pair:
    made = {
        name: connection(name, ike=(ike,), ppks=keys, ppk_required=name in required, fragmentation=Fragmentation.NO)
        for name, keys in (("a", a), ("b", b))
    }
    return Pair(made["a"], made["b"])


def old_style(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The gateway `name` knows RFC 8784 alone: as strongSwan does."""
    if name == "a":
        notifies = (NotifyPayload(NotifyType.USE_PPK),)
        monkeypatch.setattr(ppk, "offer", lambda config: notifies if config.ppks else ())
    else:
        answer = ppk.answer
        monkeypatch.setattr(ppk, "answer", lambda sa, message, intermediate: answer(sa, message, intermediate=False))


def resistance(found: Pair) -> list[tuple[bool, bool, str]]:
    """At both ends: the IKE SA, its Child SA, and the name of the PPK."""
    shown = [ike_sa_status(g.established[0], found.now) for g in (found.a, found.b)]
    return [(s.quantum_resistant, s.children[0].quantum_resistant, s.ppk) for s in shown]


def refused(found: Pair, name: str, event: str) -> str:
    found.a.initiate()
    found.run(1.0)
    assert not found.a.established
    assert not found.b.established
    (line,) = [n.message for n in found.gateways[name].log if n.event == event]
    return line


# -- RFC 9867 ----------------------------------------------------------------------------------------------------------


def test_in_ike_intermediate() -> None:
    """RFC 9867 s3.1: both ends can, so all keys from IKE_AUTH on have it."""
    found = pair().up()
    assert found.exchange() == [
        f"a --> IKE_SA_INIT {{SA, KE, Ni, {NAT}, N(INTERMEDIATE_EXCHANGE_SUPPORTED), N(USE_PPK), N(USE_PPK_INT)}}",
        f"<-- b IKE_SA_INIT {{SA, KE, Nr, {NAT}, N(INTERMEDIATE_EXCHANGE_SUPPORTED), N(USE_PPK_INT), "
        "N(CHILDLESS_IKEV2_SUPPORTED)}",
        "a --> IKE_INTERMEDIATE {N(PPK_IDENTITY_KEY)}",
        "<-- b IKE_INTERMEDIATE {N(PPK_IDENTITY)}",
        "a --> IKE_AUTH {IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr}",
        "<-- b IKE_AUTH {IDr, AUTH, SA, TSi, TSr}",
    ]
    assert resistance(found) == [(True, True, "ppk-1")] * 2
    found.b.rekey(None)
    found.run(1.0)
    assert resistance(found) == [(True, True, "ppk-1")] * 2
    found.check_converged(children=1)


def test_with_the_last_additional_key_exchange() -> None:
    found = pair(ike=f"{HYBRID}-ke2_x448").up()
    rounds = [line for line in found.exchange() if "IKE_INTERMEDIATE {" in line]
    assert rounds == [
        "a --> IKE_INTERMEDIATE {KE}",
        "<-- b IKE_INTERMEDIATE {KE}",
        "a --> IKE_INTERMEDIATE {KE, N(PPK_IDENTITY_KEY)}",
        "<-- b IKE_INTERMEDIATE {KE, N(PPK_IDENTITY)}",
    ]
    assert resistance(found) == [(True, True, "ppk-1")] * 2
    found.check_converged(children=1)


def test_the_responder_takes_the_first_that_it_has_too() -> None:
    assert resistance(pair((TWO, ONE), (ONE,)).up()) == [(True, True, "ppk-1")] * 2
    assert resistance(pair((ONE, TWO), (OTHER_ONE, TWO)).up()) == [(True, True, "ppk-2")] * 2


@pytest.mark.parametrize("theirs", [TWO, OTHER_ONE], ids=["another-name", "another-secret"])
def test_without_a_common_one(theirs: PostquantumKey) -> None:
    """The confirmation tells the wrong secret from the right one, before anything is lost by it."""
    found = pair((ONE,), (theirs,)).up()
    assert found.exchange()[3] == "<-- b IKE_INTERMEDIATE {}"
    assert resistance(found) == [(False, False, "")] * 2
    found.check_converged(children=1)
    says = refused(pair((ONE,), (theirs,), required="a"), "a", "ike-failed")
    assert "the peer has not got the PPK ppk-1, or has another secret under that name" in says
    says = refused(pair((ONE,), (theirs,), required="b"), "b", "request-refused")
    assert "ppk_required = true" in says


def test_keys_follow_the_rfc() -> None:
    """RFC 9867 s3.1.2, written from the RFC with a MAC alone (one block of prf+ is enough for SK_d)."""
    found = pair().up()
    before, after = found.a.keys[found.a.established[0].own_spi]
    sa = found.a.established[0]
    seed = b"".join((*sa.nonces, sa.spi_i, sa.spi_r))
    skeyseed = digest(ONE.secret, before.sk_d + b"\1", "sha256")
    assert after.sk_d == digest(skeyseed, seed + b"\1", "sha256")
    assert after.sk_ei != before.sk_ei
    assert found.b.keys[found.b.established[0].own_spi] == [before, after]


# -- RFC 8784 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", ["a", "b"])
def test_in_ike_auth(monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    """RFC 8784 s3: only SK_d has it, so the first IKE SA is not quantum-resistant; what comes of it is."""
    old_style(monkeypatch, old)
    found = pair().up()
    assert found.exchange()[-2:] == [
        "a --> IKE_AUTH {IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr, N(PPK_IDENTITY), N(NO_PPK_AUTH)}",
        "<-- b IKE_AUTH {IDr, AUTH, SA, TSi, TSr, N(PPK_IDENTITY)}",
    ]
    assert resistance(found) == [(False, True, "ppk-1")] * 2
    found.a.rekey(None)
    found.run(1.0)
    assert resistance(found) == [(True, True, "ppk-1")] * 2
    found.check_converged(children=1)


def test_no_ppk_auth_where_the_responder_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """s3: the responder does not know the name and goes by NO_PPK_AUTH; both end up without."""
    old_style(monkeypatch, "b")
    found = pair((ONE,), (TWO,)).up()
    assert "N(PPK_IDENTITY)" not in found.exchange()[-1]
    assert resistance(found) == [(False, False, "")] * 2
    assert "ppk-unused" in found.a.events()
    found.a.rekey("net")
    found.run(5.0)
    found.check_converged(children=1)


def test_another_secret_under_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8784 has no confirmation: AUTH is wrong then."""
    old_style(monkeypatch, "b")
    assert "AUTHENTICATION_FAILED" in refused(pair((ONE,), (OTHER_ONE,)), "a", "auth-failed")


@pytest.mark.parametrize(
    ("a", "b", "required", "who", "event", "says"),
    [
        ((ONE,), (TWO,), "a", "b", "request-refused", "the peer insists on the PPK ppk-1, which we have not got"),
        ((ONE,), (TWO,), "b", "b", "request-refused", "the peer uses no PPK that we have"),
        ((ONE,), (), "a", "a", "ike-failed", "the peer uses no PPK, and ppk_required = true here"),
        ((), (ONE,), "b", "b", "request-refused", "the peer uses no PPK that we have"),
    ],
)
def test_the_table_of_the_rfc(
    monkeypatch: pytest.MonkeyPatch,
    a: tuple[PostquantumKey, ...],
    b: tuple[PostquantumKey, ...],
    required: str,
    who: str,
    event: str,
    says: str,
) -> None:
    """s3: what ends the negotiation."""
    old_style(monkeypatch, "b")
    assert says in refused(pair(a, b, required=required), who, event)


@pytest.mark.parametrize(("a", "b"), [((ONE,), ()), ((), (ONE,)), ((), ())])
def test_where_one_end_has_none(a: tuple[PostquantumKey, ...], b: tuple[PostquantumKey, ...]) -> None:
    found = pair(a, b).up()
    assert resistance(found) == [(False, False, "")] * 2
    found.check_converged(children=1)


@pytest.mark.parametrize("old", ["", "b"])
def test_a_ppk_of_another_connection_is_not_enough(monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    """The responder answers before it knows who asks; the identity decides whose PPK counts."""
    if old:
        old_style(monkeypatch, old)
    ours = connection("b", ppks=(TWO,), ppk_required=True)
    other = connection("b", name="other", remote=replace(ours.remote, identity=None), ppks=(ONE,))
    found = Pair(connection("a", ppks=(ONE,)), (ours, other))
    says = refused(found, "b", "request-refused")
    assert "ppk_required" in says or "is not for ab" in says


# -- what strangers send -----------------------------------------------------------------------------------------------


def test_an_end_that_chooses_what_was_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pair()
    choose = ppk.choose

    def lie(*arguments: object) -> tuple:
        keys, _ = choose(*arguments)
        return keys, (NotifyPayload(NotifyType.PPK_IDENTITY, ppk.encode_ppk_id(b"\x1b[2Jsomebody's")),)

    monkeypatch.setattr(ppk, "choose", lie)
    found.a.initiate()
    found.run(1.0)
    assert not found.a.established
    (line,) = [n.message for n in found.a.log if n.event == "ike-failed"]
    assert "which we did not offer" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("data", [b"", b"\2", b"\1opaque", b"\2ppk-1", b"\2ppk-1" + bytes(8), bytes(range(40))])
def test_malformed_candidates_are_no_candidates(data: bytes) -> None:
    found = pair().up()
    sa = found.b.established[0]
    notify = NotifyPayload(NotifyType.PPK_IDENTITY_KEY, data)
    message = Message(sa.spi_i, sa.spi_r, 43, 1, False, True, (notify,))
    try:
        keys, payloads = ppk.choose(sa, message, sa.keys)
    except InvalidSyntax:
        assert len(data) < ppk.CONFIRMATION_LENGTH + 2
    else:
        assert (keys, payloads) == (sa.keys, ())
