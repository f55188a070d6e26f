"""Hundreds of seeded schedules: both ends rekey, delete and initiate at random moments over a bad link; every fifth
with additional key exchanges, every third with messages in fragments.

After each the link is good again and both ends must agree on what there is. One seed again:
`IPSECFAST_SIM_SEED=17 IPSECFAST_SIM_TRANSCRIPT=1 pytest -s tests/sim/test_schedules.py`.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest
from simulation import ESP_PROPOSAL, IKE_PROPOSAL, Link, Nat, Pair, child, connection, replay_seed, run_quiet

from ipsecfast.ike.context import Settings
from ipsecfast.ike.timers import Backoff
from ipsecfast.model import Lifetime, StartAction

SEEDS = [replay_seed()] if replay_seed() is not None else list(range(250))
PATIENT = Settings(retransmit=Backoff(timeout=2.0, base=1.3, tries=12))
FRAGMENTED = replace(PATIENT, fragment_size={4: 180, 6: 200})  # every message of some length is cut (RFC 7383)


def make(seed: int, link: Link, *, nat: bool = False, start: StartAction = StartAction.TRAP, **options: object) -> Pair:
    hybrid = seed % 5 == 0
    esp = ("aes128gcm16-x25519-ke1_mlkem768",) if hybrid else (ESP_PROPOSAL,)
    ends = {
        x: connection(
            x,
            children=tuple(
                child(f"net{n}", x, esp=esp, start_action=start, dpd_action=start, close_action=start) for n in (0, 1)
            ),
            ike=("aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke2_mlkem1024",) if hybrid else (IKE_PROPOSAL,),
            dpd_delay=15.0,
            keyingtries=0,
            remote_addrs=() if nat and x == "b" else connection(x).remote_addrs,
            **options,
        )
        for x in "ab"
    }
    settings = FRAGMENTED if seed % 3 == 0 else PATIENT
    return Pair(ends["a"], ends["b"], seed=seed, link=link, nat=Nat() if nat else None, settings=settings)


def finish(pair: Pair) -> None:
    if os.environ.get("IPSECFAST_SIM_TRANSCRIPT"):
        print(pair.text())


@pytest.mark.parametrize("seed", SEEDS)
def test_rekeys_on_a_bad_link_lose_no_packet(seed: int) -> None:
    """Loss, duplicates and reordering of IKE messages; rekeys from both ends, mostly at the same time."""
    rng = random.Random(seed)
    pair = make(seed, Link())
    pair.start()
    pair.a.initiate(None)
    pair.run(2.0)
    pair.link = Link(delay=0.03, jitter=rng.choice([0.0, 0.1]), loss=rng.choice([0.05, 0.2]), duplicate=0.1)
    pair.traffic(100.0, every=0.1)
    for _ in range(6):
        for gateway in (pair.a, pair.b):
            if rng.random() < 0.7:
                gateway.endpoint.rekey("ab", rng.choice([None, "net0", "net1"]), pair.now)
        pair.run(rng.choice([0.0, 0.02, 0.05, 0.5, 10.0]))
    pair.run(60.0)
    pair.link = Link()
    run_quiet(pair)
    finish(pair)
    assert pair.lost == 0, pair.text()
    pair.check_converged(children=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_anything_at_any_time_ends_in_agreement(seed: int) -> None:
    """Initiations, rekeys and deletes from both ends, corruption, a link that goes down for a while, a NAT."""
    rng = random.Random(seed * 7 + 1)
    nat = seed % 3 == 0
    pair = make(seed, Link(delay=0.03, jitter=0.05, loss=0.1, duplicate=0.1, corrupt=0.05), nat=nat)
    pair.start()
    for _ in range(12):
        gateway = rng.choice((pair.a, pair.a if nat else pair.b))
        name = rng.choice([None, "net0", "net1"])
        what = rng.choice([gateway.endpoint.initiate, gateway.endpoint.rekey, gateway.endpoint.rekey])
        if rng.random() < 0.15:
            what = gateway.endpoint.terminate
        what("ab", name, pair.now)
        if rng.random() < 0.1 and pair.nat:
            pair.nat.rebind()
        pair.link.down = rng.random() < 0.1
        pair.run(rng.choice([0.0, 0.02, 0.05, 0.5, 10.0, 30.0]))
    pair.link = Link()
    pair.run(600.0)
    finish(pair)
    pair.check_converged()


@pytest.mark.parametrize("seed", SEEDS[:60])
def test_lifetimes_go_round_for_hours(seed: int) -> None:
    """Timed rekeys of both ends with jitter, four hours of them, on a link that loses a tenth."""
    lifetime = Lifetime(rekey_time=1000.0, life_time=1100.0, rand_time=100.0)
    ends = {
        x: connection(
            x,
            children=(child("net", x, lifetime=Lifetime(rekey_time=400.0, life_time=500.0, rand_time=60.0)),),
            lifetime=lifetime,
        )
        for x in "ab"
    }
    pair = Pair(ends["a"], ends["b"], seed=seed, settings=PATIENT)
    pair.up()
    pair.link = Link(loss=0.1, jitter=0.1)
    pair.traffic(14400.0, every=60.0)
    pair.run(14400.0)
    pair.link = Link()
    pair.run(60.0)
    finish(pair)
    assert pair.lost == 0, pair.text()
    assert "ike-expired" not in pair.a.events() + pair.b.events()
    assert "child-expired" not in pair.a.events() + pair.b.events()
    assert pair.a.dataplane.received > 200
    assert len(pair.a.established) == 1
