"""Who gets which selectors where one connection serves many peers (RFC 4301 s4.4.3), and what the operator ends."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from simulation import Pair, child, connection, run_quiet, selector

from ipsecfast.configured import AuthConfig, ChildConfig, PresharedKey
from ipsecfast.identity import Identity
from ipsecfast.ike.child import ChildSa
from ipsecfast.ike.claims import Claims
from ipsecfast.ike.connection import Connection
from ipsecfast.ike.constants import TsUnacceptable
from ipsecfast.ike.states import Cause
from ipsecfast.ike.wire.selectors import SelectorPair
from ipsecfast.model import TrafficSelector

SHARED = (PresharedKey((), b"shared"),)


def many_peers(first: ChildConfig, second: ChildConfig, b: ChildConfig) -> Pair:
    """b takes anyone; a is two peers in one: `ab` as a.test, `two` as a2.test."""
    anyone = connection("b", remote_addrs=(), remote=AuthConfig(None), secrets=SHARED, children=(b,))
    pair = Pair(connection("a", secrets=SHARED, children=(first,)), anyone).up()
    other = connection(
        "a",
        name="two",
        local=AuthConfig(Identity(2, b"a2.test")),
        secrets=SHARED,
        children=(second,),
        unique="never",
    )
    pair.a.endpoint.connections["two"] = Connection(other, pair.a.endpoint.context)
    return pair


def owners(pair: Pair) -> list[str]:
    return sorted(str(c.ike.remote_id) for c in pair.b.children)


WIDE = child("net", "b", remote_ts=(selector("10.1.0.0/16"),))


@pytest.mark.parametrize("wanted", ["10.1.0.0/24", "10.1.0.128/25", "10.1.0.0/16"])
def test_another_peer_does_not_get_what_one_has(wanted: str) -> None:
    pair = many_peers(child("net"), child("net", local_ts=(selector(wanted),)), WIDE)
    mark = pair.mark()
    pair.a.initiate("net", "two")
    pair.run(2.0)
    assert "<-- b IKE_AUTH {IDr, AUTH, N(TS_UNACCEPTABLE)}" in pair.exchange(mark)
    assert owners(pair) == ["a.test"]
    assert any("a2.test asks for" in n.message and "but a.test has" in n.message for n in pair.b.log)


def test_it_does_when_the_first_is_gone() -> None:
    pair = many_peers(child("net"), child("net"), WIDE)
    pair.a.rekey("net")
    run_quiet(pair)
    pair.a.terminate()
    run_quiet(pair)
    pair.a.initiate("net", "two")
    pair.run(2.0)
    assert owners(pair) == ["a2.test"]


def test_who_comes_back_gets_its_own() -> None:
    """The same identity from a new IKE SA, before the old one is noticed to be dead."""
    pair = many_peers(child("net"), child("net"), WIDE)
    pair.a.endpoint.context.ike_sas.clear()
    pair.a.endpoint.context.children.by_spi.clear()
    pair.a.dataplane.inbound.clear()
    pair.a.dataplane.active.clear()
    pair.a.ranks.clear()
    pair.a.initiate("net")
    pair.run(5.0)
    assert owners(pair) == ["a.test"]


def test_other_ports_are_other_selectors() -> None:
    http, ssh = (replace(selector("10.1.0.0/24"), protocol=6, port_start=p, port_end=p) for p in (80, 22))
    pair = many_peers(child("net", local_ts=(http,)), child("net", local_ts=(ssh,)), WIDE)
    pair.a.initiate("net", "two")
    pair.run(2.0)
    assert owners(pair) == ["a.test", "a2.test"]


@pytest.mark.parametrize("seed", range(20))
def test_the_index_answers_as_a_list_does(seed: int) -> None:
    rng = random.Random(seed)
    claims = Claims()
    known: list[ChildSa] = []

    def some_range() -> TrafficSelector:
        start = rng.randrange(1 << 12)
        base = int(ip_address("10.0.0.0"))
        end = start + rng.choice([0, 1, 15, 255, 2000])
        return TrafficSelector(ip_address(base + start), ip_address(base + end))

    for number in range(300):
        pair = SelectorPair((some_range(),), tuple(some_range() for _ in range(rng.randint(1, 3))))
        peer = Identity(2, bytes([rng.randrange(5)]))
        refused = any(
            c.ike.remote_id != peer
            and any(x.intersect(y) for x in pair.local for y in c.selectors.local)
            and any(x.intersect(y) for x in pair.remote for y in c.selectors.remote)
            for c in known
        )
        if refused:
            with pytest.raises(TsUnacceptable):
                claims.check(peer, pair)
        else:
            claims.check(peer, pair)
            made = SimpleNamespace(spi_in=number, selectors=pair, ike=SimpleNamespace(remote_id=peer))
            claims.add(made)  # type: ignore[arg-type]
            known.append(made)  # type: ignore[arg-type]
        if known and rng.random() < 0.4:
            gone = known.pop(rng.randrange(len(known)))
            claims.discard(gone)
            claims.discard(gone)


# -- what the operator ends while it is being replaced -----------------------------------------------------------------


@pytest.mark.parametrize("ender", ["a", "b"])
@pytest.mark.parametrize("rekeyed_by", ["a", "b", "ab"])
@pytest.mark.parametrize("after", [0.0, 0.01, 0.03, 0.05, 0.07])
def test_terminate_ends_the_successor_too(rekeyed_by: str, ender: str, after: float) -> None:
    """Whoever rekeys, and wherever the rekey is when the operator ends the child."""
    pair = Pair().up()
    for name in rekeyed_by:
        pair.gateways[name].rekey("net")
    pair.run(after)
    pair.gateways[ender].terminate("net")
    run_quiet(pair)
    pair.check_converged(children=0)
    assert len(pair.a.established) == 1


def test_terminate_of_what_the_peer_lost_starts_nothing_anew() -> None:
    """CHILD_SA_NOT_FOUND answers the rekey that was under way."""
    pair = Pair().up()
    pair.b.endpoint.context.timers.clear_all(pair.b.the_child())
    pair.b.established[0].close_child(pair.b.the_child(), Cause.DUPLICATE, pair.now)
    pair.a.rekey("net")
    pair.a.terminate("net")
    run_quiet(pair)
    pair.check_converged(children=0)
