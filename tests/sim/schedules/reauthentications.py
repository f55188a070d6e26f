"""Families in which both ends prove anew who they are (RFC 7296 s2.8.3), over a bad link: no packet is lost."""

from __future__ import annotations

from simulation import Network

from schedules.rekeys import SOON, WHILE
from schedules.schedule import Schedule, at_rest, family, nothing_lost


@family
def reauthentications(schedule: Schedule) -> Network:
    """By one end or by both, at once or not, with rekeys of both kinds in between."""
    pair = schedule.up(schedule.pair(unique=schedule.rng.choice(["replace", "keep"])))
    pair.link = schedule.bad_link()
    pair.traffic(60.0, every=0.25)
    both = schedule.chance(0.6)
    for _ in range(schedule.rng.randint(2, 6)):
        for gateway in schedule.rng.sample((pair.a, pair.b), 2) if both else (pair.a,):
            if schedule.chance(0.6):
                gateway.endpoint.reauthenticate("ab", pair.now)
            else:
                gateway.endpoint.rekey("ab", schedule.rng.choice([None, "net0", "net1"]), pair.now)
            pair.run(schedule.rng.choice(SOON))
        pair.run(schedule.rng.choice(WHILE))
    pair.run(60.0)
    schedule.rest(pair)
    nothing_lost(pair)
    return at_rest(pair, children=2)
