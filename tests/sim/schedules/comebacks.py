"""Families in which gateways come back by tokens and tickets (RFC 6290, RFC 5723) or send peers away (RFC 5685)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

from simulation import ADDRESS, Gateway, Link, Network

from ipsecfast.ike.lasting import Lasting
from ipsecfast.model import StartAction
from schedules.disturbances import BRIEF, hosts_bring_it_up, send_everywhere
from schedules.schedule import Schedule, at_rest, family

C = ip_address("192.0.2.3")


def remember(schedule: Schedule, *gateways: Gateway) -> None:
    """Most of them have a state directory."""
    for gateway in gateways:
        if schedule.chance(0.8):
            gateway.endpoint.context.lasting = Lasting(crash_secret=gateway.name.encode() * 32)


@family
def comebacks(schedule: Schedule) -> Network:
    """Restarts at any moment, of gateways that keep their secrets or lose them, while the day goes on."""
    start = schedule.rng.choice([StartAction.TRAP, StartAction.START])
    actions = dict.fromkeys(("child_start_action", "child_dpd_action", "child_close_action"), start)
    pair = schedule.pair(settings=BRIEF, resumption=schedule.chance(0.8), **actions)
    remember(schedule, pair.a, pair.b)
    pair.a.initiate(None)
    pair.run(schedule.rng.choice([0.03, 0.06, 3.0]))
    pair.link = replace(schedule.bad_link(), late=0.0)  # first Child SAs go by time (s2.8), rekeyed ones do not

    def disturb() -> None:
        pair.wall_clock += timedelta(hours=schedule.rng.choice([0, 0, 0, 1, 30]))
        for gateway in (pair.a, pair.b):
            send_everywhere(gateway)
        gateway = schedule.rng.choice((pair.a, pair.b))
        gateway.endpoint.rekey("ab", schedule.rng.choice([None, None, "net0"]), pair.now)
        pair.run(schedule.rng.choice([0.0, 0.02, 0.05, 0.1, 8.0]))
        if schedule.chance(0.7):
            gateway = schedule.rng.choice((pair.a, pair.b))
            gateway.restart()
            if schedule.chance(0.2):
                gateway.endpoint.context.lasting = Lasting(crash_secret=b"another secret")

    schedule.moments(pair, disturb, times=6, waits=[0.0, 0.05, 1.0, 8.0, 70.0])
    return hosts_bring_it_up(schedule, pair)


@family
def drained_gateways(schedule: Schedule) -> Network:
    """Two gateways of one identity send a client to each other, in any stage; it ends with one of them."""
    ends = schedule.ends(redirect=True, resumption=schedule.chance(0.3))
    network = Network(schedule.seed)
    there = [replace(ends["b"], local_addrs=(at,), keyingtries=1) for at in (ADDRESS["b"], C)]  # a does not know C
    a = network.add(Gateway(network, "a", ADDRESS["a"], (ends["a"],), BRIEF))
    b = network.add(Gateway(network, "b", ADDRESS["b"], there[:1], BRIEF))
    c = network.add(Gateway(network, "c", C, there[1:], BRIEF))
    network.start()
    remember(schedule, a, b, c)
    a.initiate(None)
    network.run(schedule.rng.choice([0.03, 0.06, 3.0]))
    network.link = schedule.bad_link()

    def disturb() -> None:
        gateway, other = schedule.rng.choice([(b, c), (c, b)])
        target = schedule.rng.choice([other.address, other.address, None])
        gateway.endpoint.send_away("ab", target, network.now)
        network.run(schedule.rng.choice([0.0, 0.02, 0.05, 0.1, 2.0]))
        schedule.rng.choice((a, b, c)).endpoint.rekey("ab", schedule.rng.choice([None, "net0"]), network.now)
        if schedule.chance(0.2):
            schedule.rng.choice((a, b, c)).restart()
        send_everywhere(a)

    schedule.moments(network, disturb, times=6, waits=[0.0, 0.05, 1.0, 8.0, 70.0])
    network.link = Link()
    for gateway in (b, c):
        gateway.endpoint.send_away("ab", None, network.now)
    for _ in range(5):
        network.run(200.0)
        send_everywhere(a)
    schedule.rest(network)
    at_rest(network)
    with network.explained():
        names = Counter(child.config.name for child in a.children)
        assert names == {"net0": 1, "net1": 1}, f"a has {names}"
    return network
