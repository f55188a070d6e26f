"""A day that jumps, a peer that answers late, twice or falsely, a NAT that rebinds: the tunnel goes on (RFC 7296)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

import pytest
from simulation import Lifetime, Link, Nat, Pair, child, connection, run_quiet
from test_certificate_auth import by_certificate

from ipsecfast.configured import ConnectionConfig
from ipsecfast.ike.actions import Transmit
from ipsecfast.ike.context import Outcome, Settings
from ipsecfast.ike.timers import Backoff
from ipsecfast.model import Path

OFTEN = Lifetime(rekey_time=20.0, life_time=60.0, rand_time=5.0)
ANEW = Lifetime(rekey_time=45.0, life_time=120.0, rand_time=5.0)
Make = Callable[..., ConnectionConfig]


def busy(make: Make = connection, **options: object) -> Pair:
    """Two gateways that rekey, authenticate anew and ask for each other all the time."""
    ends = {
        me: make(
            me,
            children=(child("net", me, lifetime=replace(OFTEN, rekey_time=13.0)),),
            lifetime=OFTEN,
            reauth=ANEW,
            dpd_delay=5.0,
        )
        for me in "ab"
    }
    return Pair(ends["a"], ends["b"], **options).up()


# -- the day -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [timedelta(days=9000), timedelta(days=-9000), timedelta(seconds=-1)], ids=str)
def test_the_day_has_no_part_in_the_protocol(jump: timedelta) -> None:
    """Timers, cookies, windows and limits go by a clock that never jumps."""
    pair = busy()
    pair.traffic(100.0, every=0.1)
    for _ in range(10):
        pair.wall_clock += jump if pair.now < 160.0 else -jump
        pair.run(10.0)
    run_quiet(pair)
    assert pair.lost == 0
    assert "reauthenticated" in pair.a.events() + pair.b.events()
    assert not {"peer-dead", "ike-expired", "reauth-failed"} & set(pair.a.events() + pair.b.events())
    assert pair.a.established


def test_certificates_go_by_the_day() -> None:
    """A day beyond their end: what stands goes on and is rekeyed; who is to prove itself anew can't, until the day is
    right again."""
    pair = busy(by_certificate)
    pair.traffic(60.0, every=0.1)
    before = pair.a.established
    pair.wall_clock += timedelta(days=9000)
    pair.run(60.0)
    assert "reauth-failed" in pair.a.events() + pair.b.events()
    assert "ike-rekeyed" in pair.a.events() + pair.b.events()
    assert pair.a.established != before
    pair.wall_clock -= timedelta(days=9000)
    pair.run(60.0)
    assert "reauthenticated" in pair.a.events() + pair.b.events()
    assert pair.lost == 0


# -- answers -----------------------------------------------------------------------------------------------------------


def test_answers_come_later_than_the_question_is_repeated() -> None:
    """Each round trip takes longer than the first three retransmissions: every request is answered several times."""
    patient = Settings(retransmit=Backoff(timeout=1.0, base=1.1, tries=30), half_open_timeout=120.0)
    pair = Pair(link=Link(delay=2.0), settings=patient)
    pair.a.initiate()
    pair.run(30.0)
    assert pair.a.established
    for what in (None, "net"):
        pair.b.rekey(what)
        pair.run(60.0)
    assert pair.b.endpoint.counters["duplicates"] > 3
    assert pair.a.endpoint.counters["outside the window"] > 3
    pair.check_converged(children=1)


@pytest.mark.parametrize("seed", range(5))
def test_everything_comes_twice(seed: int) -> None:
    pair = busy(seed=seed, link=Link(delay=0.02, jitter=0.5, duplicate=1.0))
    pair.traffic(100.0, every=0.1)
    pair.run(100.0)
    pair.link = Link()
    run_quiet(pair)
    assert pair.lost == 0
    assert pair.a.established


def test_what_was_sent_once_means_nothing_later() -> None:
    """All datagrams of a life, again, in every order, from where they came and from elsewhere: nothing changes, nobody
    moves, and no more than the last answers are repeated."""
    pair = Pair(connection("a", children=(child("net", "a"),))).up()
    for what in (None, "net"):
        pair.a.rekey(what)
        pair.run(5.0)
    sent = [x.data for x in pair.a.performed if isinstance(x, Transmit)]
    pair.run(60.0)
    was = {sa.own_spi: sa.path for sa in pair.b.ike_sas}, set(pair.b.dataplane.inbound)
    stranger = ip_address("203.0.113.66")
    for data in (*sent, *reversed(sent)):
        for remote in (pair.a.address, stranger):
            pair.b.endpoint.receive_datagram(data, Path(pair.b.address, 500, remote, 500), pair.now)
    assert ({sa.own_spi: sa.path for sa in pair.b.established}, set(pair.b.dataplane.inbound)) == was
    counters = pair.b.endpoint.counters
    assert counters["datagrams"] == sum(counters[o] for o in Outcome)
    pair.b.perform_silently()
    pair.run(60.0)
    assert pair.b.established[0].path.remote == pair.a.address


# -- a NAT -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1.0, 3.7, 11.0])
def test_a_nat_that_rebinds_all_the_time(every: float) -> None:
    """s2.23: b follows a by what is authentic, IKE or ESP, while both rekey and authenticate anew."""
    ends = {
        "a": connection("a", lifetime=OFTEN, reauth=ANEW, dpd_delay=5.0),
        "b": connection("b", lifetime=OFTEN, dpd_delay=5.0, remote_addrs=()),
    }
    pair = Pair(ends["a"], ends["b"], nat=Nat()).up()
    pair.traffic(90.0, every=0.1)
    for _ in range(int(90 / every)):
        assert pair.nat is not None
        pair.nat.rebind()
        pair.run(every)
    run_quiet(pair)
    assert "peer-moved" in pair.b.events()
    assert "reauthenticated" in pair.a.events()
    received = pair.a.dataplane.received
    pair.traffic(2.0, every=0.1)
    pair.run(5.0)
    assert pair.a.dataplane.received - received >= 19, "b reaches a"
    assert pair.a.established
