"""Families with per-resource Child SAs (RFC 9611): each end has workers of its own number, which ask for their own."""

from __future__ import annotations

from dataclasses import replace

from simulation import Network, Pair

from ipsecfast.configured import ConnectionConfig
from ipsecfast.ike.states import Cause
from schedules.rekeys import SOON, WHILE, under_traffic
from schedules.schedule import Schedule, at_rest, family


def with_workers(config: ConnectionConfig, count: int) -> ConnectionConfig:
    return replace(config, children=tuple(replace(c, per_cpu_sas=count) for c in config.children))


def many(schedule: Schedule) -> Pair:
    """One to four workers at each end; now and then one end wants none of it."""
    ends = {x: with_workers(config, schedule.rng.choice([1, 2, 2, 3, 4])) for x, config in schedule.ends().items()}
    if schedule.chance(0.1):
        ends["b"] = with_workers(ends["b"], 0)
    return Pair(ends["a"], ends["b"], seed=schedule.seed, settings=schedule.settings()).start()


@family
def resource_rekeys(schedule: Schedule) -> Network:
    """s3: both ends ask for more and rekey what there is, Child SAs and the IKE SA; nothing is lost."""
    return under_traffic(schedule, many(schedule), [None, "net0", "net1"], both=schedule.chance(0.6), waits=WHILE)


@family
def resource_deletes(schedule: Schedule) -> Network:
    """s6: some are deleted by either end, while others are made or rekeyed; both ends agree on what is left."""
    pair = schedule.up(many(schedule))
    pair.link = schedule.bad_link()
    pair.traffic(30.0, every=0.1)

    def change() -> None:
        for gateway in schedule.rng.sample((pair.a, pair.b), 2):
            live = [c for c in gateway.children if c.live and c.ike.usable]
            if live and schedule.chance(0.5):
                chosen = schedule.rng.choice(live)
                chosen.ike.delete_child(chosen, Cause.OPERATOR, pair.now)
            else:
                gateway.endpoint.rekey("ab", schedule.rng.choice([None, "net0", "net1"]), pair.now)
            gateway.dataplane.asked.clear()  # as after some seconds
            pair.run(schedule.rng.choice(SOON))

    schedule.moments(pair, change, times=6, waits=WHILE)
    pair.run(60.0)
    schedule.rest(pair)
    at_rest(pair)
    pair.a.initiate(None)
    pair.run(60.0)
    return at_rest(pair, children=2)
