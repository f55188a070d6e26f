"""Reauthentication, make before break (RFC 7296 s2.8.3, RFC 4478): the data plane counts that nothing is lost."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from simulation import Gateway, Lifetime, Link, Pair, child, connection, replay_seed, run_quiet
from simulation.transcript import Sent, message_text

from ipsecfast.configured import PresharedKey
from ipsecfast.identity import Identity
from ipsecfast.ike.constants import AuthenticationFailed, ExchangeType, NotifyType
from ipsecfast.ike.context import Settings
from ipsecfast.ike.exchange.informational import Report
from ipsecfast.ike.timers import Backoff
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import DeletePayload, NotifyPayload

SEEDS = [replay_seed()] if replay_seed() is not None else list(range(60))
PATIENT = Settings(retransmit=Backoff(timeout=2.0, base=1.3, tries=12))
EVERY_MINUTE = Lifetime(rekey_time=60.0, life_time=90.0, rand_time=5.0)


def pair(*, children: int = 2, seed: int = 1, settings: Settings | None = None, **options: object) -> Pair:
    """Both ends up; options with a_ or b_ are for one end."""
    ends = {}
    for me in "ab":
        own = {key[2:]: value for key, value in options.items() if key.startswith(f"{me}_")}
        common = {key: value for key, value in options.items() if key[:2] not in ("a_", "b_")}
        made = tuple(child(f"net{n}", me) for n in range(children))
        ends[me] = connection(me, children=made, **common, **own)
    found = Pair(ends["a"], ends["b"], seed=seed, settings=settings)
    found.a.initiate(None)
    found.run(2.0)
    assert found.a.established, found.text()
    return found


def reauthenticate(gateway: Gateway) -> None:
    assert gateway.endpoint.reauthenticate("ab", gateway.network.now)
    gateway.perform()


def arrived(found: Pair, since: int) -> list[str]:
    """The exchanges without what was lost of them, each by its name; a DELETE as that."""
    sent = [line for line in found.transcript[since:] if isinstance(line, Sent) and not line.fate]
    return [f"{line.arrow} {message_text(line.message).replace(' {D}', ' D').split(' {')[0]}" for line in sent]


def spis(gateway: Gateway) -> set[bytes]:
    return {sa.own_spi for sa in gateway.established}


# -- who begins --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["a", "b"])
def test_the_exchanges(who: str) -> None:
    """A new IKE SA with all Child SAs, without INITIAL_CONTACT; then the DELETE of the old one."""
    found = pair()
    old = spis(found.a)
    found.traffic(4.0, every=0.01)
    found.run(1.0)
    mark = found.mark()
    reauthenticate(found.gateways[who])
    found.run(2.0)
    there, back = ("a -->", "<-- b") if who == "a" else ("<-- b", "a -->")
    assert [line.split(" {")[0] for line in found.exchange(mark)] == [
        f"{there} IKE_SA_INIT",
        f"{back} IKE_SA_INIT",
        f"{there} IKE_AUTH",
        f"{back} IKE_AUTH",
        f"{there} CREATE_CHILD_SA",
        f"{back} CREATE_CHILD_SA",
        f"{there} INFORMATIONAL",
        f"{back} INFORMATIONAL",
    ]
    assert "INITIAL_CONTACT" not in "".join(found.exchange(mark))
    run_quiet(found)
    assert found.lost == 0
    assert not spis(found.a) & old
    found.check_converged(children=2)
    found.check_forgotten()


def test_by_time() -> None:
    """`reauth_time`, through many rekeys: an IKE SA that was rekeyed is as old as the first one."""
    found = pair(a_reauth=EVERY_MINUTE, a_lifetime=Lifetime(rekey_time=17.0, life_time=30.0, rand_time=2.0))
    found.traffic(300.0, every=0.05)
    found.run(300.0)
    assert 4 <= found.a.events().count("reauthenticated") <= 6
    assert found.a.events().count("ike-rekeyed") > 10
    run_quiet(found)
    assert found.lost == 0
    found.check_converged(children=2)


@pytest.mark.parametrize("unique", ["replace", "keep", "never"])
def test_with_every_policy_of_uniqueness(unique: str) -> None:
    found = pair(reauth=EVERY_MINUTE, unique=unique)
    found.traffic(200.0, every=0.05)
    found.run(200.0)
    assert found.a.events().count("reauthenticated") + found.b.events().count("reauthenticated") >= 2
    run_quiet(found)
    assert found.lost == 0
    found.check_converged(children=2)


# -- AUTH_LIFETIME (RFC 4478) ------------------------------------------------------------------------------------------


def test_the_responder_announces_and_the_initiator_obeys() -> None:
    found = pair(b_reauth=EVERY_MINUTE)
    assert found.exchange()[3] == "<-- b IKE_AUTH {IDr, AUTH, SA, TSi, TSr, N(AUTH_LIFETIME)}"
    found.run(70.0)
    assert "auth-lifetime" in found.a.events()
    assert "reauthenticated" in found.a.events()
    assert "reauthenticating" not in found.b.events(), "the initiator is in time"
    run_quiet(found)
    found.check_converged(children=2)


def test_an_initiator_that_does_not_obey(monkeypatch: pytest.MonkeyPatch) -> None:
    """The responder begins itself."""
    monkeypatch.setattr("ipsecfast.ike.extension.auth_lifetime.obey", lambda *_: None)
    found = pair(b_reauth=EVERY_MINUTE)
    found.traffic(80.0, every=0.05)
    found.run(80.0)
    assert "reauthenticated" in found.b.events()
    run_quiet(found)
    assert found.lost == 0
    found.check_converged(children=2)


@pytest.mark.parametrize(("data", "within"), [(b"\0\0\0\0", 7.0), (b"\0\0\0\x3c", 60.0), (b"\0\0", None), (b"", None)])
def test_told_later(data: bytes, within: float | None) -> None:
    """In INFORMATIONAL; a lifetime of nothing is not taken literally, one that is malformed not at all."""
    found = pair()
    notify = NotifyPayload(NotifyType.AUTH_LIFETIME, data)
    found.b.established[0].start(Report(notify), found.now)
    found.run(within or 100.0)
    assert ("reauthenticated" in found.a.events()) == (within is not None)
    run_quiet(found)
    found.check_converged(children=2)


def test_a_peer_that_must_begin_and_does_not() -> None:
    """A NAT before the peer, which does not react: the IKE SA ends with its time."""
    found = pair(b_reauth=EVERY_MINUTE)
    (sa,) = found.b.established
    sa.remote_nat = True
    found.a.established[0].reauth.at = None
    found.a.endpoint.context.timers.clear_all(found.a.established[0])
    found.run(100.0)
    assert {"reauth-awaited", "ike-expired"} <= set(found.b.events())


# -- both at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1])
@pytest.mark.parametrize("loser", ["a", "b"])
def test_both_begin(loser: str, delay: float) -> None:
    """As where both set an IKE SA up at once: the lowest nonce loses."""
    found = pair()
    old = spis(found.a)
    found.gateways[loser].next_nonces(b"\x00" * 32, b"\xff" * 32)
    found.gateways[found.gateways[loser].peer_name].next_nonces(b"\x40" * 32, b"\x80" * 32)
    found.traffic(4.0, every=0.01)
    reauthenticate(found.a)
    found.run(delay)
    if any(sa.usable for sa in found.b.established):
        found.b.endpoint.reauthenticate("ab", found.now)
        found.b.perform()
    run_quiet(found)
    assert found.lost == 0
    assert not spis(found.a) & old
    found.check_converged(children=2)
    found.check_forgotten()


def test_both_begin_and_one_begins_again_before_the_other_gets_through() -> None:
    """b's first new IKE SA would win against a's, its second loses. b does not compare the first any more: for a the
    second has taken its place, so a deletes nothing that b could wait for."""
    found = pair(settings=PATIENT)
    found.traffic(30.0, every=0.05)
    late = {("a", ExchangeType.IKE_AUTH)}
    found.link = Link(drop=lambda by, m: m is not None and not m.response and (by, m.exchange) in late)
    found.a.next_nonces(b"\x01" * 32)
    reauthenticate(found.a)
    reauthenticate(found.b)
    found.run(1.5)
    assert len(found.b.established) == 1
    late.add(("b", ExchangeType.CREATE_CHILD_SA))  # net1
    found.b.next_nonces(b"\x00" * 32)
    reauthenticate(found.b)
    found.run(0.3)
    assert len(found.b.established) == 2
    late.discard(("a", ExchangeType.IKE_AUTH))
    found.run(3.0)
    late.clear()
    run_quiet(found)
    found.run(PATIENT.retransmit.total)
    assert found.lost == 0
    found.check_converged(children=2)
    found.check_forgotten()


# By the nonce of a's and by whose IKE_AUTH comes first. What loses is deleted by whichever end finds it without traffic
# when `supersede_pause` is over, here by both at once.
BESIDE_AND_AFTER = {
    (0x01, "a"): [
        "<-- b IKE_SA_INIT",
        "a --> IKE_SA_INIT",
        "a --> IKE_AUTH",
        "<-- b IKE_AUTH",
        "<-- b IKE_AUTH",
        "a --> IKE_AUTH",
        "<-- b CREATE_CHILD_SA",
        "a --> CREATE_CHILD_SA",
        "<-- b INFORMATIONAL D",  # of a's
        "a --> INFORMATIONAL D",
        "a --> INFORMATIONAL",
        "<-- b INFORMATIONAL",
        "<-- b INFORMATIONAL D",  # of b's first
        "a --> INFORMATIONAL",
    ],
    (0x01, "b"): [
        "<-- b IKE_SA_INIT",
        "a --> IKE_SA_INIT",
        "<-- b IKE_AUTH",
        "a --> IKE_AUTH",
        "<-- b CREATE_CHILD_SA",
        "a --> CREATE_CHILD_SA",
        "<-- b INFORMATIONAL D",  # of b's first
        "a --> INFORMATIONAL",
        "a --> IKE_AUTH",
        "<-- b IKE_AUTH",
        "<-- b INFORMATIONAL D",  # of a's
        "a --> INFORMATIONAL D",
        "a --> INFORMATIONAL",
        "<-- b INFORMATIONAL",
    ],
    (0xFF, "a"): [
        "<-- b IKE_SA_INIT",
        "a --> IKE_SA_INIT",
        "a --> IKE_AUTH",
        "<-- b IKE_AUTH",
        "a --> CREATE_CHILD_SA",
        "<-- b CREATE_CHILD_SA",
        "<-- b IKE_AUTH",
        "a --> IKE_AUTH",
        "<-- b INFORMATIONAL D",  # of b's first
        "a --> INFORMATIONAL D",
        "a --> INFORMATIONAL",
        "<-- b INFORMATIONAL",
        "a --> INFORMATIONAL D",  # of b's second
        "<-- b INFORMATIONAL D",
        "<-- b INFORMATIONAL",
        "a --> INFORMATIONAL",
    ],
    (0xFF, "b"): [
        "<-- b IKE_SA_INIT",
        "a --> IKE_SA_INIT",
        "<-- b IKE_AUTH",
        "a --> IKE_AUTH",
        "<-- b CREATE_CHILD_SA",
        "a --> CREATE_CHILD_SA",
        "<-- b INFORMATIONAL D",  # of b's first
        "a --> INFORMATIONAL",
        "a --> IKE_AUTH",
        "<-- b IKE_AUTH",
        "a --> CREATE_CHILD_SA",
        "<-- b CREATE_CHILD_SA",
        "<-- b INFORMATIONAL D",  # of b's second
        "a --> INFORMATIONAL D",
        "a --> INFORMATIONAL",
        "<-- b INFORMATIONAL",
    ],
}


@pytest.mark.parametrize("first", ["a", "b"])
@pytest.mark.parametrize(("nonce", "stays"), [(b"\x01" * 32, "b"), (b"\xff" * 32, "a")], ids=["lower", "higher"])
def test_the_second_one_of_b_is_judged_by_its_first(nonce: bytes, stays: str, first: str) -> None:
    """a's new IKE SA and b's first were begun beside each other, b's second came after its first. So a's, with `nonce`,
    is held against b's first alone, whichever of it and b's second comes to stand first."""
    found = pair(settings=PATIENT)
    found.traffic(30.0, every=0.05)
    held = {"a"}
    found.link = Link(drop=lambda by, m: m.exchange == ExchangeType.IKE_AUTH and not m.response and by in held)
    found.a.next_nonces(nonce)
    found.b.next_nonces(b"\x80" * 32, b"\x81" * 32, b"\x00" * 32)
    reauthenticate(found.a)
    reauthenticate(found.b)
    found.run(2.0)
    held.add("b")
    mark = found.mark()
    reauthenticate(found.b)
    found.run(0.5)
    for name in sorted("ab", key=first.__ne__):
        held.discard(name)
        found.run(8.0)
    run_quiet(found)
    assert arrived(found, mark) == BESIDE_AND_AFTER[nonce[0], first]
    assert found.lost == 0
    assert found.a.established[0].origin.began is (stays == "a")
    found.check_converged(children=2)
    found.check_forgotten()


@pytest.mark.parametrize("what", [None, "net0", "net1"])
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.05, 0.07, 0.09, 0.11, 0.13])
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_rekey_meanwhile(who: str, delay: float, what: str | None) -> None:
    found = pair()
    found.traffic(4.0, every=0.01)
    found.run(0.5)
    reauthenticate(found.a)
    found.run(delay)
    found.gateways[who].endpoint.rekey("ab", what, found.now)
    found.gateways[who].perform()
    run_quiet(found)
    assert found.lost == 0
    found.check_converged(children=2)
    found.check_forgotten()


def test_what_rekeys_make_of_the_old_one_goes_too() -> None:
    """Both rekey it, the answers come when it is replaced already: what takes its place then is not wanted either."""
    found = pair(children=1, settings=PATIENT)
    found.traffic(20.0, every=0.05)
    held = [True]
    rekeys = ExchangeType.CREATE_CHILD_SA
    found.link = Link(drop=lambda by, m: held[0] and m is not None and m.response and m.exchange == rekeys)
    found.a.rekey(None)
    found.b.rekey(None)
    found.run(1.5)
    reauthenticate(found.b)
    found.run(0.2)
    assert "reauthenticated" in found.b.events()
    held[0] = False
    run_quiet(found)
    assert "ike-rekeyed" in found.a.events()
    assert "ike-rekeyed" in found.b.events()
    assert found.lost == 0
    found.check_converged(children=1)
    found.check_forgotten()


@pytest.mark.parametrize("seed", SEEDS)
def test_on_a_bad_link(seed: int) -> None:
    """Loss, duplicates, reordering; both reauthenticate and rekey by time and by command: no packet meets no SA."""
    rng = random.Random(seed)
    times = Lifetime(rekey_time=40.0, life_time=200.0, rand_time=15.0)
    found = pair(
        seed=seed,
        settings=PATIENT,
        reauth=times,
        lifetime=Lifetime(rekey_time=35.0, life_time=200.0, rand_time=15.0),
        a_unique=rng.choice(["replace", "keep"]),
        b_unique=rng.choice(["replace", "keep"]),
    )
    found.link = Link(delay=0.03, jitter=rng.choice([0.0, 0.1]), loss=rng.choice([0.05, 0.2]), duplicate=0.1)
    found.traffic(300.0, every=0.3)
    for _ in range(8):
        gateway = rng.choice([found.a, found.b])
        if rng.random() < 0.5:
            gateway.endpoint.reauthenticate("ab", found.now)
        else:
            gateway.endpoint.rekey("ab", rng.choice([None, "net0", "net1"]), found.now)
        gateway.perform()
        found.run(rng.choice([0.0, 0.02, 0.1, 10.0, 45.0]))
    found.run(150.0)
    found.link = Link()
    run_quiet(found)
    while any(len(g.dataplane.inbound) > 2 or len(g.ike_sas) > 1 for g in (found.a, found.b)):  # it goes on by time
        found.run(1.0)
    assert found.lost == 0, found.text()
    assert "reauthenticated" in found.a.events() + found.b.events()
    found.check_converged(children=2)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_failure_is_tried_again_until_the_time_is_over() -> None:
    """The secret was changed at the peer: the tunnel goes on until the hard limit, and says why not longer."""
    found = pair(a_reauth=EVERY_MINUTE, b_unique="replace")
    ids = tuple(Identity(2, f"{x}.test".encode()) for x in "ab")
    there = found.b.endpoint.connections["ab"]
    there.config = replace(there.config, secrets=(PresharedKey(ids, b"another one"),))
    found.traffic(85.0, every=0.05)
    found.run(85.0)
    assert found.a.events().count("reauth-failed") >= 1
    assert found.a.events().count("auth-failed") == found.a.events().count("reauth-failed")
    assert found.lost == 0
    assert len(found.a.established) == 1
    found.run(20.0)
    assert "ike-expired" in found.a.events()


def test_the_initiator_refuses_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """s2.21.2: the responder has it up already, and goes back to the old one."""

    def refuse(*_: object) -> object:
        raise AuthenticationFailed("not today")
        yield

    found = pair()
    (old,) = found.b.established
    monkeypatch.setattr("ipsecfast.ike.exchange.ike_auth.verify", refuse)
    found.traffic(4.0, every=0.01)
    reauthenticate(found.a)
    found.run(1.0)
    monkeypatch.undo()
    assert "reauth-failed" in found.a.events()
    assert found.b.established == [old]
    assert old.usable
    found.run(4.0)
    assert found.lost == 0
    found.a.rekey(None)
    run_quiet(found)
    found.check_converged(children=2)
    found.check_forgotten()


def test_the_peer_vanishes_meanwhile() -> None:
    found = pair(a_reauth=EVERY_MINUTE, dpd_delay=10.0, settings=Settings(retransmit=Backoff(2.0, 1.3, 3)))
    found.link.down = True
    found.run(120.0)
    assert not found.a.established
    assert not found.a.dataplane.inbound


def test_a_child_that_the_peer_refuses_now() -> None:
    """It is told; the others live on."""
    found = pair()
    refusing = connection("b", children=(child("net0", "b"),))
    found.b.endpoint.connections["ab"].config = refusing
    reauthenticate(found.a)
    run_quiet(found)
    assert "child-failed" in found.a.events()
    found.check_converged(children=1)


def test_a_child_that_comes_up_meanwhile_is_not_left_behind() -> None:
    found = pair(children=3)
    found.a.terminate("net2")
    found.run(5.0)
    found.traffic(4.0, every=0.01)
    held = [True]
    found.link = Link(drop=lambda by, m: held[0] and is_new_ike(m))
    reauthenticate(found.a)
    found.a.initiate("net2")
    found.run(1.0)
    held[0] = False
    run_quiet(found)
    assert found.lost == 0
    assert "reauthenticated" in found.a.events()
    found.check_converged(children=3)


def is_new_ike(message: Message | None) -> bool:
    return message is not None and message.exchange in (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH)


def test_the_peer_forgets_to_delete_the_old_one() -> None:
    """Then we do, when it has had its time."""
    found = pair()
    (old,) = found.b.established
    found.link = Link(drop=lambda by, m: by == "a" and m is not None and m.get(DeletePayload) is not None)
    reauthenticate(found.a)
    found.run(5.0)
    assert not old.closed
    found.run(10.0)
    found.link = Link()
    run_quiet(found)
    assert old.closed
    found.check_converged(children=2)


def test_the_operator_ends_it_meanwhile() -> None:
    found = pair()
    found.keys.honest = False  # b can't know that a has given the new one up, when the DELETE of the old one comes
    reauthenticate(found.a)
    found.run(0.05)
    found.a.terminate()
    run_quiet(found)
    assert not found.a.ike_sas
    assert not found.b.ike_sas
    assert not found.a.dataplane.inbound


def test_nothing_to_reauthenticate_for() -> None:
    found = pair(children=1)
    found.a.terminate("net0")
    found.run(5.0)
    reauthenticate(found.a)
    run_quiet(found)
    assert not found.a.ike_sas
    assert not found.b.ike_sas
