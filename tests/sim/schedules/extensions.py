"""Families with what came after RFC 7296: each schedule has some of it, in any combination."""

from __future__ import annotations

from dataclasses import replace

from simulation import Network, Pair

from ipsecfast.configured import Childless, PostquantumKey
from ipsecfast.ike.context import Settings
from ipsecfast.ike.lasting import Lasting
from ipsecfast.model import StartAction
from schedules.disturbances import BRIEF, hosts_bring_it_up, send_everywhere
from schedules.rekeys import SOON, WHILE, under_traffic
from schedules.schedule import PATIENT, Schedule, at_rest, family, nothing_lost

SLOW = replace(PATIENT, offload_from=0.0)  # nothing expensive is computed at once


def extended(schedule: Schedule, settings: Settings = PATIENT, **options: object) -> Pair:
    """Tickets (RFC 5723), crash tokens (RFC 6290), PPKs (RFC 8784, 9867), IKE SAs without Child SAs (RFC 6023), and
    computations that take their time, each at both ends or not at all."""
    ppks = (PostquantumKey(b"ppk", b"p" * 32),) if schedule.chance(0.4) else ()
    more = {
        "resumption": schedule.chance(0.5),
        "childless": schedule.rng.choice(list(Childless)[1:]),
        "ppk_id": "ppk" if ppks else None,
        "ppks": ppks,
        "ppk_required": bool(ppks) and schedule.chance(0.5),
    }
    secret = schedule.chance(0.5)
    slow = schedule.chance(0.5)
    made = replace(settings, offload_from=0.0) if slow else settings
    ends = schedule.ends(**(more | options))
    pair = Pair(ends["a"], ends["b"], seed=schedule.seed, settings=made)
    pair.computing = schedule.rng.choice([0.01, 0.3, 1.0]) if slow else 0.0
    for name, gateway in pair.gateways.items():
        if secret:
            gateway.endpoint.context.lasting = Lasting(crash_secret=name.encode() * 32)
    return pair.start()


@family
def extensions(schedule: Schedule) -> Network:
    """Set-up, rekeys, deletes and restarts with all of them."""
    pair = extended(schedule, BRIEF)
    pair.link = schedule.bad_link()

    def disturb() -> None:
        gateway = schedule.rng.choice((pair.a, pair.b))
        endpoint, what = gateway.endpoint, schedule.rng.choice([None, "net0", "net1"])
        change = [endpoint.initiate, endpoint.initiate, endpoint.rekey, endpoint.rekey, endpoint.terminate]
        schedule.rng.choice(change)("ab", what, pair.now)
        if schedule.chance(0.2):
            gateway.restart()
        if schedule.chance(0.3):
            send_everywhere(gateway)

    schedule.moments(pair, disturb, times=10, waits=[0.0, 0.02, 0.05, 0.5, 10.0, 40.0])
    return hosts_bring_it_up(schedule, pair)


@family
def slow_computations(schedule: Schedule) -> Network:
    """Key exchanges and signatures are done beside the event loop, and late; rekeys lose nothing all the same."""
    pair = schedule.pair(settings=SLOW)
    pair.computing = schedule.rng.choice([0.01, 0.3, 1.0])
    what: list[str | None] = schedule.rng.choice([[None], ["net0"], [None, "net0", "net1"]])
    return under_traffic(schedule, pair, what, both=schedule.chance(0.7), waits=WHILE)


@family
def set_up_with_extensions(schedule: Schedule) -> Network:
    """Both begin, or one of them, with any of the extensions, over a bad link."""
    pair = extended(schedule, child_start_action=schedule.rng.choice([StartAction.TRAP, StartAction.START]))
    pair.link = schedule.bad_link()
    for gateway in schedule.rng.sample((pair.a, pair.b), schedule.rng.choice([1, 2])):
        gateway.initiate(None)
        pair.run(schedule.rng.choice(SOON))
    pair.run(60.0)
    schedule.rest(pair)
    pair.a.initiate(None)
    schedule.rest(pair, 60.0)
    return at_rest(pair, children=2)


@family
def reauthentication(schedule: Schedule) -> Network:
    """s2.8.3: a new IKE SA before the old one goes, asked for by either end or both, among rekeys; nothing is lost."""
    pair = schedule.up(schedule.pair(settings=PATIENT))
    pair.link = replace(schedule.bad_link(corrupt=False), late=0.0)
    pair.traffic(45.0, every=0.25)
    for _ in range(3):
        for gateway in schedule.rng.sample((pair.a, pair.b), schedule.rng.choice([1, 2])):
            if schedule.chance(0.6):
                gateway.endpoint.reauthenticate("ab", pair.now)
            else:
                gateway.endpoint.rekey("ab", schedule.rng.choice([None, "net0"]), pair.now)
            pair.run(schedule.rng.choice(SOON))
        pair.run(schedule.rng.choice(WHILE))
    pair.run(60.0)
    schedule.rest(pair)
    nothing_lost(pair)
    return at_rest(pair, children=2)
