"""Families that rekey. IKE messages are lost, doubled and late; hosts send all the time, and no packet is lost."""

from __future__ import annotations

from dataclasses import replace

from simulation import Network, Pair

from ipsecfast.model import Lifetime
from schedules.schedule import HYBRID_ESP, HYBRID_IKE, PATIENT, Schedule, all_deleted, at_rest, family, nothing_lost

SOON = [0.0, 0.0, 0.005, 0.02, 0.03, 0.06, 0.1, 0.3]
WHILE = [0.0, 0.05, 0.5, 5.0, 20.0]


def under_traffic(schedule: Schedule, pair: Pair, what: list[str | None], *, both: bool, waits: list[float]) -> Network:
    """Rekeys of `what` on a bad link, by one end or by both."""
    schedule.up(pair)
    pair.link = schedule.bad_link()
    pair.traffic(45.0, every=0.25)
    one = schedule.rng.choice((pair.a, pair.b))
    for _ in range(schedule.rng.randint(2, 6)):
        for gateway in schedule.rng.sample((pair.a, pair.b), 2) if both else (one,):
            gateway.endpoint.rekey("ab", schedule.rng.choice(what), pair.now)
            pair.run(schedule.rng.choice(SOON))
        pair.run(schedule.rng.choice(waits))
    pair.run(60.0)
    schedule.rest(pair)
    nothing_lost(pair)
    all_deleted(pair)
    return at_rest(pair, children=2)


@family
def child_rekey(schedule: Schedule) -> Network:
    """s1.3.3, s2.8: one end rekeys Child SAs."""
    return under_traffic(schedule, schedule.pair(), ["net0", "net1"], both=False, waits=WHILE)


@family
def ike_rekey(schedule: Schedule) -> Network:
    """s1.3.2, s2.18: one end rekeys the IKE SA."""
    return under_traffic(schedule, schedule.pair(), [None], both=False, waits=WHILE)


@family
def simultaneous_child_rekey(schedule: Schedule) -> Network:
    """s2.8.1: both ends rekey the same Child SA within a round trip."""
    return under_traffic(schedule, schedule.pair(), ["net0"], both=True, waits=[5.0, 20.0])


@family
def simultaneous_ike_rekey(schedule: Schedule) -> Network:
    """s2.8.2: both ends rekey the IKE SA within a round trip."""
    return under_traffic(schedule, schedule.pair(), [None], both=True, waits=[5.0, 20.0])


@family
def any_rekeys(schedule: Schedule) -> Network:
    """s2.25: both kinds by both ends, one into the other."""
    return under_traffic(schedule, schedule.pair(), [None, "net0", "net1"], both=True, waits=WHILE)


@family
def follow_up_key_exchanges(schedule: Schedule) -> Network:
    """RFC 9370 s2.2.4: each rekey takes two exchanges or three, into which the other end's may come."""
    esp = schedule.rng.choice([HYBRID_ESP, "aes128gcm16-x25519-ke1_mlkem768-ke2_x448"])
    pair = schedule.pair(esp=esp, ike=HYBRID_IKE)
    return under_traffic(schedule, pair, [None, "net0", "net1"], both=schedule.chance(0.7), waits=WHILE)


@family
def rekeys_and_deletes(schedule: Schedule) -> Network:
    """s2.25.1, s2.25.2: Child SAs and the IKE SA are deleted while they are rekeyed; a packet sets them up again."""
    pair = schedule.up(schedule.pair())
    pair.link = schedule.bad_link()

    def change() -> None:
        for gateway in schedule.rng.sample((pair.a, pair.b), 2):
            what = schedule.rng.choice([None, "net0", "net1"])
            if schedule.chance(0.35):
                gateway.endpoint.terminate("ab", what, pair.now)
            elif schedule.chance(0.2):
                gateway.endpoint.initiate("ab", what, pair.now)
            else:
                gateway.endpoint.rekey("ab", what, pair.now)
            pair.run(schedule.rng.choice(SOON))

    schedule.moments(pair, change, times=6, waits=WHILE)
    pair.run(60.0)
    schedule.rest(pair)
    at_rest(pair)
    pair.a.initiate(None)
    schedule.rest(pair, 60.0)
    return at_rest(pair, children=2)


@family
def lifetimes(schedule: Schedule) -> Network:
    """s2.8: an hour of timed rekeys of both kinds by both ends on a bad link, none of them too late."""
    times = Lifetime(rekey_time=500.0, life_time=620.0, rand_time=60.0)
    child_times = Lifetime(rekey_time=200.0, life_time=290.0, rand_time=40.0)
    pair = schedule.up(schedule.pair(settings=PATIENT, lifetime=times, child_lifetime=child_times))
    pair.link = schedule.bad_link(corrupt=False)
    pair.traffic(3600.0, every=20.0)
    pair.run(3600.0)
    pair.link = type(pair.link)()
    pair.run(50.0)
    nothing_lost(pair)
    with pair.explained():
        events = pair.a.events() + pair.b.events()
        assert not {"ike-expired", "child-expired"} & set(events), "something was not rekeyed in time"
        assert events.count("ike-rekeyed") >= 10
        assert len(pair.a.established) == len(pair.b.established) == 1
    return pair


@family
def limits(schedule: Schedule) -> Network:
    """Lifetimes by bytes and packets, which the data plane watches: soft ones rekey, hard ones are never reached."""
    soft = schedule.rng.randint(40, 90)
    untimed = Lifetime(rekey_time=0.0, life_time=0.0)
    of_packets = replace(untimed, rekey_packets=soft, life_packets=4 * soft, rand_packets=soft // 5)
    of_bytes = replace(untimed, rekey_bytes=1000 * soft, life_bytes=4000 * soft, rand_bytes=200 * soft)
    pair = schedule.up(schedule.pair(child_lifetime=schedule.rng.choice([of_packets, of_bytes])))
    link = schedule.bad_link(corrupt=False)
    link.late = 0.0
    pair.link = link
    pair.traffic(150.0, every=0.5)
    pair.run(150.0)
    schedule.rest(pair)
    nothing_lost(pair)
    with pair.explained():
        assert not any(g.dataplane.over_limit for g in pair.gateways.values())
        assert "child-rekeyed" in pair.a.events()
    return at_rest(pair, children=2)
