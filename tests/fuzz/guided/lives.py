"""Pairs of gateways in the states that an input may meet, and the messages of their lives as first inputs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from simulation import Lifetime, Pair, Sent, child, connection, selector

from ipsecfast.configured import AuthConfig, AuthKind, Childless, ConnectionConfig, PostquantumKey
from ipsecfast.identity import Identity
from ipsecfast.ike.constants import ExchangeType, PayloadType
from ipsecfast.ike.context import Settings
from ipsecfast.ike.lasting import Lasting
from ipsecfast.ike.timers import Backoff
from ipsecfast.ike.wire.message import encode_chain, encode_message, first_type
from ipsecfast.ike.wire.payloads import UnknownPayload
from ipsecfast.pki import KeyType, make_authority, make_certificate

SETTINGS = Settings(retransmit=Backoff(timeout=2.0, base=1.5, tries=3))
ATTACKED = replace(SETTINGS, cookie_threshold=0)
PLAIN, HYBRID = "aes128gcm16-prfsha256-x25519", "aes128gcm16-prfsha256-x25519-ke1_mlkem768"
AUTHORITY = make_authority("Root", KeyType.ECDSA256)
ISSUED = {x: make_certificate([f"{x}.test"], KeyType.ECDSA256, AUTHORITY) for x in "ab"}


def plain(me: str) -> ConnectionConfig:
    return connection(me, ike=(PLAIN,), children=tuple(child(f"net{n}", me) for n in (0, 1)))


def hybrid(me: str) -> ConnectionConfig:
    esp = ("aes128gcm16-x25519-ke1_mlkem768", "aes128gcm16-x25519", "aes128gcm16")
    ppk = PostquantumKey(b"ppk", b"p" * 32)
    children = tuple(child(f"net{n}", me, esp=esp) for n in (0, 1))
    return connection(
        me, ike=(HYBRID, PLAIN), children=children, ppk_id="ppk", ppks=(ppk,), resumption=True, keyingtries=0
    )


def certified(me: str) -> ConnectionConfig:
    peer = "b" if me == "a" else "a"
    mine = ISSUED[me]
    local = AuthConfig(
        Identity(2, f"{me}.test".encode()), AuthKind.PUBKEY, certificates=(mine.certificate,), key=mine.key
    )
    remote = AuthConfig(Identity(2, f"{peer}.test".encode()), AuthKind.PUBKEY, authorities=(AUTHORITY.certificate,))
    return replace(plain(me), local=local, remote=remote, secrets=())


def lasting(me: str) -> ConnectionConfig:
    """Tickets, redirects, reauthentication, AES-CBC with a MAC of its own, X25519 in ESP."""
    children = tuple(child(f"net{n}", me, esp=("aes256gcm16-x25519-esn", "aes128gcm16-x25519")) for n in (0, 1))
    return connection(
        me,
        ike=("aes128-sha256-x25519", PLAIN),
        children=children,
        resumption=True,
        redirect=True,
        keyingtries=0,
        dpd_delay=20.0,
        reauth=Lifetime(rekey_time=300.0, life_time=400.0, rand_time=10.0),
    )


def several(me: str) -> ConnectionConfig:
    """A Child SA for each worker, several selectors, none in IKE_AUTH."""
    networks = tuple(selector(n) for n in ("10.1.0.0/24", "10.1.7.0/25"))
    peers = tuple(selector(n) for n in ("10.2.0.0/24", "10.2.9.0/25"))
    mine, theirs = (networks, peers) if me == "a" else (peers, networks)
    children = (
        child("net0", me, local_ts=mine, remote_ts=theirs, per_cpu_sas=2),
        child("net1", me, dscp_classes=((46,), (8, 10))),
    )
    return connection(me, ike=(PLAIN,), children=children, childless=Childless.PREFER, keyingtries=0)


CONFIGURATIONS: tuple[Callable[[str], ConnectionConfig], ...] = (plain, hybrid, certified, lasting, several)


def fresh(number: int) -> Pair:
    made = CONFIGURATIONS[number % len(CONFIGURATIONS)]
    pair = Pair(made("a"), made("b"), seed=number % len(CONFIGURATIONS), settings=SETTINGS)
    pair.keys.honest = False
    for gateway in (pair.a, pair.b):
        gateway.endpoint.context.lasting = Lasting(crash_secret=b"q" * 32)
    pair.a.initiate(None)
    return pair


def up(pair: Pair) -> None:
    pair.run(1.0)


def asked(pair: Pair) -> None:
    """IKE_SA_INIT is on its way to a gateway that asks for cookies."""
    pair.b.endpoint.context.settings = ATTACKED


def opened(pair: Pair) -> None:
    """b has answered IKE_SA_INIT, a waits for the answer."""
    pair.run(0.03)


def continued(pair: Pair) -> None:
    """The request after IKE_SA_INIT is under way."""
    pair.run(0.045)


def proved(pair: Pair) -> None:
    """The exchange after that is under way, or its response."""
    pair.run(0.075)


def rekeying_child(pair: Pair) -> None:
    up(pair)
    pair.b.rekey("net0")
    pair.run(0.01)


def rekeying_ike(pair: Pair) -> None:
    up(pair)
    pair.a.rekey(None)
    pair.run(0.025)


def rekeyed(pair: Pair) -> None:
    """Both are being rekeyed by both, or by the next key exchange."""
    up(pair)
    pair.a.rekey("net0")
    pair.b.rekey("net0")
    pair.run(0.045)


def succeeded(pair: Pair) -> None:
    """The IKE SA has a successor and is not yet deleted."""
    up(pair)
    pair.b.rekey(None)
    pair.run(0.045)


def deleting(pair: Pair) -> None:
    up(pair)
    pair.a.rekey("net1")
    pair.b.terminate(None)


def reauthenticating(pair: Pair) -> None:
    up(pair)
    pair.a.endpoint.reauthenticate("ab", pair.now)
    pair.run(0.07)


def resuming(pair: Pair) -> None:
    """b has forgotten everything; a is about to find that out, or comes back with its ticket."""
    up(pair)
    pair.b.restart()
    for reqid in pair.a.dataplane.active:
        pair.a.dataplane.send(reqid)
    pair.run(0.13)


STATES = (
    up,
    asked,
    opened,
    continued,
    proved,
    rekeying_child,
    rekeying_ike,
    rekeyed,
    succeeded,
    deleting,
    reauthenticating,
    resuming,
)
KINDS = len(CONFIGURATIONS) * len(STATES)


def kind_of(number: int) -> int:
    """Equal numbers are equal configurations and states."""
    return number % KINDS


def pair_in_state(number: int) -> Pair:
    """One of `CONFIGURATIONS` in one of `STATES`."""
    pair = fresh(number)
    STATES[number // len(CONFIGURATIONS) % len(STATES)](pair)
    return pair


def life(number: int) -> Pair:
    """Everything that two gateways do with each other, from the set-up to the last DELETE."""
    pair = fresh(number)
    pair.run(1.0)
    rng = random.Random(number)
    for what in ("net0", None, "net1", None):
        for gateway in rng.sample((pair.a, pair.b), rng.choice([1, 2])):
            gateway.endpoint.rekey("ab", what, pair.now)
        pair.run(20.0)
    pair.b.endpoint.reauthenticate("ab", pair.now)
    pair.run(20.0)
    pair.b.restart()  # a learns of it, and comes back with its ticket if it has one
    for reqid in pair.a.dataplane.active:
        pair.a.dataplane.send(reqid)
    pair.run(30.0)
    pair.a.endpoint.terminate("ab", "net0", pair.now)
    pair.run(1.0)
    pair.b.terminate(None)
    pair.run(1.0)
    return pair


def messages(number: int) -> list[tuple[str, int, bool, int, bytes]]:
    """(sender, exchange, response, first payload type, payloads in clear) of a life; fragments are left out."""
    found = []
    for line in life(number).transcript:
        message = line.message if isinstance(line, Sent) else None
        if message is None or any(
            isinstance(p, UnknownPayload) and p.type == PayloadType.SKF for p in message.payloads
        ):
            continue
        chain = encode_chain(message.payloads)
        found.append((line.sender, message.exchange, message.response, first_type(message.payloads), chain))
    return found


def datagrams(number: int) -> list[bytes]:
    """As they were sent, and in clear, so that every payload is among them."""
    sent = [line for line in life(number).transcript if isinstance(line, Sent)]
    return [line.data for line in sent] + [encode_message(line.message) for line in sent if line.message is not None]


def is_in_clear(exchange: int) -> bool:
    return exchange in (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_SESSION_RESUME)
