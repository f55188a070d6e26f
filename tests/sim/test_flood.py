"""IKE_SA_INIT requests from spoofed addresses by the thousand (RFC 7296 s2.6): who is established notices nothing."""

from __future__ import annotations

import random

import pytest
from schedules.schedule import Schedule, nothing_lost
from schedules.setups import flood
from simulation import Link, Pair, Sent

from ipsecfast.ike.outcome import Outcome
from ipsecfast.model import Lifetime, StartAction

SECONDS = 600
LIFETIME = Lifetime(rekey_time=60.0, life_time=75.0, rand_time=5.0)
CHILD_LIFETIME = Lifetime(rekey_time=40.0, life_time=50.0, rand_time=5.0)


def under_attack(requests: int) -> Pair:
    """`requests` in ten minutes, while two gateways rekey both kinds of SAs once a minute and send all the time."""
    schedule = Schedule("flood", 1)
    pair = schedule.pair(
        anyone=True, lifetime=LIFETIME, child_lifetime=CHILD_LIFETIME, child_start_action=StartAction.NONE
    )
    schedule.up(pair)
    genuine = next(line.data for line in pair.transcript if isinstance(line, Sent))
    pair.link = Link(loss=0.1, jitter=0.05)
    pair.traffic(SECONDS, every=1.0)
    rng = random.Random(1)
    for second in range(SECONDS):
        pair.at(pair.now + second, lambda: flood(pair, genuine, requests // SECONDS, rng), pair.b)
    pair.run(SECONDS)
    pair.link = Link()
    pair.run(10.0)
    return pair


def check(pair: Pair, requests: int) -> None:
    events = pair.a.events() + pair.b.events()
    assert not {"ike-expired", "child-expired", "ike-down", "peer-dead"} & set(events)
    assert events.count("ike-rekeyed") >= 2 * SECONDS // 75
    assert events.count("child-rekeyed") >= 2 * 2 * SECONDS // 50
    nothing_lost(pair)
    counters, context = pair.b.endpoint.counters, pair.b.endpoint.context
    attack = (Outcome.COOKIE_SENT, Outcome.HALF_OPEN_REFUSED, Outcome.PROCESSED)
    assert sum(counters[o] for o in attack) >= requests // SECONDS * SECONDS
    settings = context.settings
    without_cookie = settings.cookie_threshold * (SECONDS / settings.half_open_timeout + 1)
    assert counters[Outcome.COOKIE_SENT] >= requests - without_cookie
    assert len(context.half_open) <= settings.cookie_threshold
    assert len(context.ike_sas) <= 2 * settings.cookie_threshold + 3  # those that ended linger for half a minute
    assert len(context.timers._heap) < 1000


def test_a_flood_leaves_established_tunnels_alone() -> None:
    check(under_attack(6_000), 6_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_flood_of_a_hundred_thousand() -> None:
    check(under_attack(100_000), 99_600)
