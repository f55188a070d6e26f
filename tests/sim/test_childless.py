"""IKE SAs without a first Child SA (RFC 6023)."""

from __future__ import annotations

import pytest
from simulation import Link, Pair, StartAction, child, connection, run_quiet

from ipsecfast.configured import Childless, Fragmentation

NEVER, ALLOW, PREFER, FORCE = Childless


def pair(a: Childless, b: Childless, **options: object) -> Pair:
    ends = {
        name: connection(
            name,
            childless=wanted,
            fragmentation=Fragmentation.NO,
            children=tuple(child(f"net{n}", name, esp=("aes128gcm16-x25519",)) for n in (0, 1)),
        )
        for name, wanted in (("a", a), ("b", b))
    }
    return Pair(ends["a"], ends["b"], **options)


def test_each_child_has_a_key_exchange_of_its_own() -> None:
    found = pair(PREFER, ALLOW)
    found.a.initiate(None)
    found.run(5.0)
    lines = found.exchange()
    assert lines[1].endswith("N(CHILDLESS_IKEV2_SUPPORTED)}")
    assert lines[2:6] == [
        "a --> IKE_AUTH {IDi, N(INITIAL_CONTACT), IDr, AUTH}",
        "<-- b IKE_AUTH {IDr, AUTH}",
        "a --> CREATE_CHILD_SA {SA, Ni, KE, TSi, TSr}",
        "<-- b CREATE_CHILD_SA {SA, Nr, KE, TSi, TSr}",
    ]
    assert [c.config.name for c in found.a.children] == ["net0", "net1"]
    found.check_converged(children=2)


@pytest.mark.parametrize(
    ("a", "b", "without"),
    [
        (NEVER, ALLOW, False),
        (ALLOW, PREFER, False),
        (PREFER, NEVER, False),
        (PREFER, PREFER, True),
        (FORCE, ALLOW, True),
        (FORCE, FORCE, True),
    ],
)
def test_who_gets_along(a: Childless, b: Childless, without: bool) -> None:
    found = pair(a, b)
    found.a.initiate(None)
    found.run(5.0)
    assert ("a --> IKE_AUTH {IDi, N(INITIAL_CONTACT), IDr, AUTH}" in found.exchange()) == without
    found.check_converged(children=2)


@pytest.mark.parametrize(
    ("a", "b", "who", "event", "says"),
    [
        (FORCE, NEVER, "a", "ike-failed", 'childless = "force" here: allow it at the peer'),
        (ALLOW, FORCE, "b", "request-refused", "the peer asks for a Child SA in IKE_AUTH"),
    ],
)
def test_who_does_not(a: Childless, b: Childless, who: str, event: str, says: str) -> None:
    found = pair(a, b)
    found.a.initiate(None)
    found.run(40.0)
    (line,) = [n.message for n in found.gateways[who].log if n.event == event]
    assert says in line
    assert not found.a.established
    assert not found.b.ike_sas


def test_a_request_without_a_child_where_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An initiator that does not wait to be told."""
    monkeypatch.setattr("ipsecfast.ike.extension.childless.take_answer", lambda sa, _: setattr(sa, "childless", True))
    found = pair(ALLOW, NEVER)
    found.a.initiate(None)
    found.run(5.0)
    assert "no SA payload in IKE_AUTH" in "".join(n.message for n in found.b.log)
    assert not found.b.ike_sas


@pytest.mark.parametrize("seed", range(6))
def test_a_bad_link_and_a_trap(seed: int) -> None:
    """The packet that asked is carried once its Child SA is there."""
    trap = child("net", "a", start_action=StartAction.TRAP)
    a = connection("a", childless=FORCE, keyingtries=0, children=(trap,))
    bad = Link(loss=0.2, duplicate=0.2, jitter=0.05)
    found = Pair(a, connection("b", childless=FORCE), seed=seed, link=bad).start()
    (reqid,) = found.a.dataplane.traps
    found.a.dataplane.send(reqid)
    found.run(120.0)
    found.link.loss = 0.0
    run_quiet(found)
    assert found.b.dataplane.received >= 1
    found.check_converged(children=1)
