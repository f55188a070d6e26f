"""Families in which the world changes: NATs rebind, links go down, gateways restart, configurations differ."""

from __future__ import annotations

from dataclasses import replace

from simulation import Gateway, Link, Network

from ipsecfast.ike.timers import Backoff
from ipsecfast.model import StartAction
from schedules.schedule import LEAST_REST, PATIENT, Schedule, at_rest, family

BRIEF = replace(PATIENT, retransmit=Backoff(timeout=2.0, base=1.5, tries=4))


@family
def nat_rebinding(schedule: Schedule) -> Network:
    """s2.23: the NAT before a forgets its mapping; whatever a sends next leads b to the new one."""
    pair = schedule.up(schedule.pair(nat=True))
    assert pair.nat is not None
    pair.link = schedule.bad_link()
    pair.traffic(200.0, every=1.0)

    def disturb() -> None:
        if schedule.chance(0.6):
            pair.nat.rebind()
        gateway = pair.a if schedule.chance(0.7) else pair.b
        gateway.endpoint.rekey("ab", schedule.rng.choice([None, "net0", "net1"]), pair.now)

    schedule.moments(pair, disturb, times=6, waits=[0.0, 0.05, 1.0, 25.0])
    pair.run(60.0)
    schedule.rest(pair)
    pair.a.initiate(None)
    schedule.rest(pair, 60.0)
    at_rest(pair, children=2)
    before = pair.a.dataplane.received
    pair.traffic(1.0, every=0.1)
    pair.run(2.0)
    with pair.explained():
        assert pair.a.dataplane.received - before == 20, "b does not reach a after the last rebinding"
    return pair


@family
def outage(schedule: Schedule) -> Network:
    """s2.4: the link is gone for longer or shorter than requests are repeated; hosts' packets bring it up again."""
    pair = schedule.up(schedule.pair(settings=BRIEF, dpd_delay=schedule.rng.choice([5.0, 15.0])))

    def cut() -> None:
        pair.link = replace(schedule.bad_link(), down=schedule.chance(0.6))
        for gateway in (pair.a, pair.b):
            if schedule.chance(0.4):
                gateway.endpoint.rekey("ab", schedule.rng.choice([None, "net0"]), pair.now)
            for reqid in gateway.dataplane.traps:
                gateway.dataplane.send(reqid)

    schedule.moments(pair, cut, times=6, waits=[0.1, 5.0, 30.0, 60.0])
    return hosts_bring_it_up(schedule, pair)


@family
def restarts(schedule: Schedule) -> Network:
    """A gateway, or both, starts anew without a farewell, at any moment: after a set-up, in it, in a rekey."""
    start = schedule.rng.choice([StartAction.TRAP, StartAction.START])
    pair = schedule.pair(settings=BRIEF, child_start_action=start, child_dpd_action=start, child_close_action=start)
    pair.a.initiate(None)
    pair.run(schedule.rng.choice([0.03, 0.06, 3.0]))
    pair.link = schedule.bad_link()

    def disturb() -> None:
        gateway = schedule.rng.choice((pair.a, pair.b))
        gateway.endpoint.rekey("ab", schedule.rng.choice([None, "net0"]), pair.now)
        pair.run(schedule.rng.choice([0.0, 0.02, 0.05, 0.1]))
        if schedule.chance(0.6):
            schedule.rng.choice((pair.a, pair.b)).restart()

    schedule.moments(pair, disturb, times=5, waits=[0.0, 0.05, 1.0, 20.0, 70.0])
    return hosts_bring_it_up(schedule, pair)


@family
def reconfiguration(schedule: Schedule) -> Network:
    """A gateway restarts with another configuration, its peer later with the matching one."""
    pair = schedule.pair(settings=BRIEF)
    pair.a.initiate(None)
    pair.run(3.0)
    pair.link = schedule.bad_link()
    ends = schedule.ends(children=schedule.rng.choice([1, 2, 3]))
    for gateway in schedule.rng.sample((pair.a, pair.b), 2):
        gateway.restart((ends[gateway.name],))
        send_everywhere(gateway)
        pair.run(schedule.rng.choice([0.0, 0.1, 10.0, 60.0]))
    return hosts_bring_it_up(schedule, pair)


@family
def anything(schedule: Schedule) -> Network:
    """All that the operator and the world can do, in any order."""
    nat = schedule.chance(0.3)
    pair = schedule.pair(
        nat=nat, settings=schedule.settings(retransmit=schedule.rng.choice([PATIENT, BRIEF]).retransmit)
    )
    pair.link = schedule.bad_link()

    def disturb() -> None:
        gateway: Gateway = schedule.rng.choice((pair.a, pair.a if nat else pair.b))
        what = schedule.rng.choice([None, "net0", "net1"])
        endpoint = gateway.endpoint
        schedule.rng.choice([endpoint.initiate, endpoint.rekey, endpoint.rekey, endpoint.rekey, endpoint.terminate])(
            "ab", what, pair.now
        )
        if schedule.chance(0.05):
            gateway.restart()
        if schedule.chance(0.2):
            pair.link = replace(schedule.bad_link(), down=schedule.chance(0.3))
        if nat and schedule.chance(0.1):
            pair.nats["a"].rebind()
        if schedule.chance(0.3):
            send_everywhere(gateway)

    schedule.moments(pair, disturb, times=12, waits=[0.0, 0.02, 0.05, 0.5, 10.0, 30.0])
    return hosts_bring_it_up(schedule, pair)


def send_everywhere(gateway: Gateway) -> None:
    """One packet for each child that has a policy."""
    for reqid in gateway.dataplane.traps | gateway.dataplane.active.keys():
        gateway.dataplane.send(reqid)


def hosts_bring_it_up(schedule: Schedule, pair: Network) -> Network:
    """Good links, time, and packets: all children stand. Then nothing more happens, and both ends agree."""
    pair.link = Link()
    for _ in range(4):
        pair.run_until_quiet(LEAST_REST, 150.0)
        for gateway in pair.gateways.values():
            if gateway.name not in ("b",) or "a" not in pair.nats:
                send_everywhere(gateway)
    schedule.rest(pair)
    wanted = {len(g.configured[0].children) for g in pair.gateways.values()}
    return at_rest(pair, children=max(wanted))
