"""Families that bring a connection up: by one end, by both at once, with certificates, in fragments, under attack."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

from simulation import ADDRESS, IKE_PROPOSAL, NAT_ADDRESS, Link, Network, Pair

from ipsecfast.configured import AuthConfig, AuthKind
from ipsecfast.identity import Identity
from ipsecfast.ike.wire.message import HEADER
from ipsecfast.model import IKE_PORT, Path, StartAction
from ipsecfast.pki import Issued, KeyType, make_authority, make_certificate
from schedules.schedule import HYBRID_ESP, HYBRID_IKE, PATIENT, Schedule, all_deleted, at_rest, family

SUITES = (
    IKE_PROPOSAL,
    IKE_PROPOSAL,
    HYBRID_IKE,
    "aes256gcm16-prfsha384-ecp384",
    "aes128-sha256-x25519",
    "aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke2_x448",
)
KEY_TYPES = (KeyType.ECDSA256, KeyType.ED25519, KeyType.ECDSA384)


@family
def set_up(schedule: Schedule) -> Network:
    """a initiates over a bad link and goes on trying; in the end both children are there."""
    pair = schedule.pair(ike=schedule.rng.choice(SUITES), nat=schedule.chance(0.2))
    pair.link = schedule.bad_link()
    pair.a.initiate(None)
    pair.run(schedule.rng.choice([5.0, 60.0]))
    schedule.rest(pair)
    all_deleted(pair)
    return at_rest(pair, children=2)


@family
def first_packets(schedule: Schedule) -> Network:
    """s2.8: hosts send as soon as their gateway has a Child SA for them. The responder has one before its answer comes
    to the initiator, which may be late or lost; none of its packets is."""
    pair = schedule.pair(child_start_action=schedule.rng.choice([StartAction.NONE, StartAction.TRAP]))
    pair.link = schedule.bad_link()
    pair.a.initiate("net0")
    silent = schedule.chance(0.5)  # the initiator's hosts have nothing to say
    gateways = (pair.b,) if silent else (pair.a, pair.b)
    for _ in range(schedule.rng.randint(20, 60)):
        for gateway in gateways:
            for reqid in [r for r, table in gateway.dataplane.outbound.items() if table]:
                gateway.dataplane.send(reqid)
        pair.run(schedule.rng.choice([0.0, 0.01, 0.1, 1.0]))
    schedule.rest(pair)
    with pair.explained():
        assert pair.lost == 0, f"{pair.lost} packets met no SA"
        assert sum(g.dataplane.sent - g.dataplane.received for g in (pair.a, pair.b)) == 0
    return at_rest(pair, children=1)


@family
def simultaneous_set_up(schedule: Schedule) -> Network:
    """Both begin within a round trip of each other, often of the same moment; one IKE SA and one of each child stay."""
    pair = schedule.pair(child_start_action=StartAction.TRAP)
    pair.link = schedule.bad_link()
    for gateway in schedule.rng.sample((pair.a, pair.b), 2):
        gateway.initiate(schedule.rng.choice([None, "net0", "net1"]))
        pair.run(schedule.rng.choice([0.0, 0.0, 0.01, 0.04, 0.1, 0.5]))
    pair.run(60.0)
    schedule.rest(pair)
    pair.a.initiate(None)
    pair.traffic(5.0, every=0.5)
    schedule.rest(pair, 60.0)
    all_deleted(pair)
    return at_rest(pair, children=2)


@functools.cache
def authority(kind: KeyType) -> Issued:
    return make_authority("Root", kind)


@functools.cache
def issued(me: str, kind: KeyType) -> Issued:
    return make_certificate([f"{me}.test", str(ADDRESS[me])], kind, authority(kind))


def side(name: str, kind: KeyType, *, local: bool) -> AuthConfig:
    identity = Identity(2, f"{name}.test".encode())
    if not local:
        return AuthConfig(identity, AuthKind.PUBKEY, authorities=(authority(kind).certificate,))
    mine = issued(name, kind)
    return AuthConfig(identity, AuthKind.PUBKEY, certificates=(mine.certificate,), key=mine.key)


@family
def certificates(schedule: Schedule) -> Network:
    """Both prove themselves by certificates, which makes IKE_AUTH long; rekeys follow."""
    kinds = {x: schedule.rng.choice(KEY_TYPES) for x in "ab"}
    ends = {
        x: replace(c, local=side(x, kinds[x], local=True), remote=side(y, kinds[y], local=False))
        for (x, c), y in zip(schedule.ends().items(), "ba", strict=True)
    }
    pair = Pair(ends["a"], ends["b"], seed=schedule.seed, settings=schedule.settings()).start()
    pair.link = schedule.bad_link()
    for gateway in schedule.rng.sample((pair.a, pair.b), schedule.rng.choice([1, 2])):
        gateway.initiate(None)
    pair.run(30.0)
    pair.a.endpoint.rekey("ab", None, pair.now)
    pair.run(30.0)
    schedule.rest(pair)
    all_deleted(pair)
    return at_rest(pair, children=2)


@family
def fragmentation(schedule: Schedule) -> Network:
    """Every message is cut (RFC 7383), on a path that takes nothing longer; fragments are lost and change places."""
    size = schedule.rng.choice([180, 240, 576])
    settings = replace(PATIENT, fragment_size={4: size, 6: size})
    pair = schedule.pair(settings=settings, esp=HYBRID_ESP, ike="aes128gcm16-prfsha256-x25519-ke1_mlkem768")
    pair.a.initiate(None)
    pair.run(0.05)  # IKE_SA_INIT can't be cut
    pair.link = replace(schedule.bad_link(), mtu=size - 28)
    pair.run(60.0)
    for gateway in schedule.rng.sample((pair.a, pair.b), 2):
        gateway.endpoint.rekey("ab", schedule.rng.choice([None, "net0"]), pair.now)
        pair.run(schedule.rng.choice([0.0, 0.1, 30.0]))
    pair.run(60.0)
    schedule.rest(pair)
    all_deleted(pair)
    return at_rest(pair, children=2)


def spoofed_request(rng: random.Random, genuine: bytes) -> bytes:
    """An IKE_SA_INIT that looks like `genuine`, from an initiator that does not exist."""
    _, spi_r, *rest = HEADER.unpack_from(genuine)
    return HEADER.pack(rng.randbytes(8), spi_r, *rest) + genuine[HEADER.size :]


def flood(pair: Pair, genuine: bytes, count: int, rng: random.Random) -> None:
    """`count` requests with spoofed senders; all that comes back goes to addresses where nobody is."""
    for number in range(count):
        sender = NAT_ADDRESS + 1 + number % 50000
        pair.b.receive(spoofed_request(rng, genuine), Path(ADDRESS["b"], IKE_PORT, sender, IKE_PORT))


@family
def cookies_under_attack(schedule: Schedule) -> Network:
    """Strangers begin with b all the time; a gets through all the same, by a cookie, and its rekeys too."""
    settings = schedule.settings(cookie_threshold=3, half_open_limit=100)
    pair = schedule.pair(settings=settings, child_start_action=StartAction.NONE, ike=IKE_PROPOSAL, anyone=True)
    sent = Link(drop=lambda *_: True)
    pair.link = sent
    pair.a.initiate("net0")
    genuine = pair.transcript[-1].data  # type: ignore[union-attr]
    pair.link = schedule.bad_link()

    def attack() -> None:
        flood(pair, genuine, 8, schedule.rng)
        if schedule.chance(0.2):
            pair.a.initiate(None)
        if schedule.chance(0.1):
            pair.a.endpoint.rekey("ab", None, pair.now)

    schedule.moments(pair, attack, times=15, waits=[0.01, 0.3, 2.0, 10.0])
    with pair.explained():
        assert pair.b.endpoint.counters["cookies sent"], "no cookie was asked for"
        assert len(pair.b.endpoint.context.half_open) <= 4
    schedule.rest(pair)
    pair.a.initiate(None)
    schedule.rest(pair, 60.0)
    all_deleted(pair)
    return at_rest(pair, children=2)
