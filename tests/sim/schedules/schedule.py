"""One schedule: a family and a seed, from which everything random in it comes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from simulation import ESP_PROPOSAL, IKE_PROPOSAL, Link, Nat, Network, Pair, child, connection

from ipsecfast.configured import ConnectionConfig
from ipsecfast.ike.context import Settings
from ipsecfast.ike.timers import Backoff
from ipsecfast.model import StartAction

HYBRID_IKE = "aes128gcm16-prfsha256-x25519-ke1_mlkem768"
HYBRID_ESP = "aes128gcm16-x25519-ke1_mlkem768"
PFS_ESP = "aes128gcm16-x25519"
PATIENT = Settings(retransmit=Backoff(timeout=2.0, base=1.3, tries=12))  # a lossy link is no dead peer
REST = 400.0  # seconds in which every retry and every retransmission has come to its end
LEAST_REST = 75.0  # longer than two liveness checks, and than any datagram is on its way

Family: TypeAlias = Callable[["Schedule"], Network]
FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    """Register a scenario under its name."""
    FAMILIES[function.__name__.replace("_", "-")] = function
    return function


def run_schedule(name: str, seed: int) -> Network:
    """The network as it is at the end.

    Raises:
        AssertionError: an invariant does not hold; the text has the transcript.
    """
    return FAMILIES[name](Schedule(name, seed))


class Schedule:
    """What the families have in common: chance, pairs of gateways, links, and how it ends."""

    def __init__(self, family: str, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(f"{family} {seed}")

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def settings(self, **options: object) -> Settings:
        """A third of the schedules cut every message of some length (RFC 7383)."""
        if self.chance(0.33):
            options = {"fragment_size": {4: self.rng.choice([180, 280, 576]), 6: 200}} | options
        return replace(PATIENT, **options)

    def ends(
        self, *, children: int = 2, esp: str | None = None, ike: str | None = None, **options: object
    ) -> dict[str, ConnectionConfig]:
        """Both ends of one connection, which go on trying. Options of children begin with `child_`."""
        esp = esp or self.rng.choice([ESP_PROPOSAL, ESP_PROPOSAL, PFS_ESP, HYBRID_ESP])
        ike = ike or (HYBRID_IKE if esp == HYBRID_ESP else IKE_PROPOSAL)
        of_child = {k.removeprefix("child_"): v for k, v in options.items() if k.startswith("child_")}
        rest = {k: v for k, v in options.items() if not k.startswith("child_")}
        start = dict.fromkeys(("start_action", "dpd_action", "close_action"), StartAction.TRAP)
        return {
            x: connection(
                x,
                children=tuple(child(f"net{n}", x, esp=(esp,), **(start | of_child)) for n in range(children)),
                ike=(ike,),
                **({"keyingtries": 0, "dpd_delay": 30.0} | rest),
            )
            for x in "ab"
        }

    def pair(
        self, *, nat: bool = False, anyone: bool = False, settings: Settings | None = None, **options: object
    ) -> Pair:
        """Two gateways with traps for all their children; with `nat`, or for `anyone`, b does not know where a is."""
        ends = self.ends(**options)
        if nat or anyone:
            ends["b"] = replace(ends["b"], remote_addrs=())
        made = Pair(
            ends["a"], ends["b"], seed=self.seed, nat=Nat() if nat else None, settings=settings or self.settings()
        )
        return made.start()

    def up(self, pair: Pair) -> Pair:
        """All children, over a good link."""
        pair.a.initiate(None)
        pair.run(20.0 if pair.computing else 3.0)
        assert pair.a.established, pair.text()
        return pair

    def bad_link(self, *, corrupt: bool = True) -> Link:
        """Loss, jitter that reorders, duplicates, damage, and now and then a datagram that comes much later."""
        choose = self.rng.choice
        return Link(
            delay=choose([0.005, 0.03, 0.1]),
            jitter=choose([0.0, 0.05, 0.2]),
            loss=choose([0.0, 0.05, 0.2]),
            duplicate=choose([0.0, 0.1]),
            corrupt=choose([0.0, 0.03]) if corrupt else 0.0,
            late=choose([0.0, 0.0, 0.03]),
        )

    def moments(self, pair: Network, step: Callable[[], None], *, times: int, waits: list[float]) -> None:
        """Do something `times` times, with a pause of one of `waits` after each."""
        for _ in range(times):
            step()
            pair.run(self.rng.choice(waits))

    def rest(self, pair: Network, seconds: float = REST) -> None:
        """The links are good again, and everything that is under way ends."""
        pair.link = Link()
        pair.run_until_quiet(min(LEAST_REST, seconds), seconds)
        for _ in range(20):  # a liveness check may be under way
            if not any(sa.current for g in pair.gateways.values() for sa in g.ike_sas):
                return
            pair.run(0.07)


def nothing_lost(network: Network) -> None:
    """Every packet that a host sent arrived: none met an SA that was not there yet or not there any more."""
    planes = [g.dataplane for g in network.gateways.values()]
    sent, received = sum(p.sent for p in planes), sum(p.received for p in planes)
    with network.explained():
        assert network.lost == 0, f"{network.lost} packets met no SA"
        assert sent == received, f"{sent - received} of {sent} packets did not arrive"
        assert not any(p.unroutable for p in planes), "a host's packet met no policy"
        assert not any(sum(p.held.values()) + sum(p.released.values()) for p in planes), "a host's packet met no SA"


def all_deleted(network: Network) -> None:
    """Whoever had to delete a replaced IKE SA did so; losses alone don't last so long that it ends by itself."""
    with network.explained():
        for gateway in network.gateways.values():
            assert not gateway.undeleted, f"{gateway.name}: nobody deleted {gateway.undeleted}"


def at_rest(network: Network, *, children: int | None = None) -> Network:
    network.check_converged(children=children)
    network.check_forgotten()
    return network
