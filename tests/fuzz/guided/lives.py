"""Pairs of gateways in the states that an input may meet, and the messages of their lives as first inputs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from simulation import Pair, Sent, child, connection

from ipsecfast.configured import AuthConfig, AuthKind, ConnectionConfig, PostquantumKey
from ipsecfast.identity import Identity
from ipsecfast.ike.constants import ExchangeType, PayloadType
from ipsecfast.ike.context import Settings
from ipsecfast.ike.lasting import Lasting
from ipsecfast.ike.timers import Backoff
from ipsecfast.ike.wire.message import encode_chain, encode_message, first_type
from ipsecfast.ike.wire.payloads import UnknownPayload
from ipsecfast.pki import KeyType, make_authority, make_certificate

SETTINGS = Settings(retransmit=Backoff(timeout=2.0, base=1.5, tries=3))
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


CONFIGURATIONS: tuple[Callable[[str], ConnectionConfig], ...] = (plain, hybrid, certified)


def fresh(number: int) -> Pair:
    made = CONFIGURATIONS[number % len(CONFIGURATIONS)]
    pair = Pair(made("a"), made("b"), seed=number, settings=SETTINGS)
    pair.keys.honest = False
    for gateway in (pair.a, pair.b):
        gateway.endpoint.context.lasting = Lasting(crash_secret=b"q" * 32)
    pair.a.initiate(None)
    return pair


def connecting(pair: Pair) -> None:
    pair.run(0.045)


def established(pair: Pair) -> None:
    pair.run(1.0)


def rekeying_child(pair: Pair) -> None:
    pair.run(1.0)
    pair.b.rekey("net0")
    pair.run(0.01)


def rekeying_ike(pair: Pair) -> None:
    pair.run(1.0)
    pair.a.rekey(None)
    pair.run(0.025)


def deleting(pair: Pair) -> None:
    pair.run(1.0)
    pair.a.rekey("net1")
    pair.b.terminate(None)


STATES = (established, connecting, rekeying_child, rekeying_ike, deleting)


def kind_of(number: int) -> int:
    """Equal numbers are equal configurations and states."""
    return number % (len(CONFIGURATIONS) * len(STATES))


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
    pair.b.restart()  # a learns of it, and comes back with its ticket if it has one
    for reqid in pair.a.dataplane.active:
        pair.a.dataplane.send(reqid)
    pair.run(30.0)
    pair.a.endpoint.terminate("ab", "net0", pair.now)
    pair.run(1.0)
    pair.b.terminate(None)
    pair.run(1.0)
    return pair


def messages(number: int) -> list[tuple[int, bool, int, bytes]]:
    """(exchange, response, first payload type, chain of payloads in clear) of a life; fragments are left out."""
    found = []
    for line in life(number).transcript:
        message = line.message if isinstance(line, Sent) else None
        if message is None or any(
            isinstance(p, UnknownPayload) and p.type == PayloadType.SKF for p in message.payloads
        ):
            continue
        found.append((message.exchange, message.response, first_type(message.payloads), encode_chain(message.payloads)))
    return found


def datagrams(number: int) -> list[bytes]:
    """As they were sent, and in clear, so that every payload is among them."""
    sent = [line for line in life(number).transcript if isinstance(line, Sent)]
    return [line.data for line in sent] + [encode_message(line.message) for line in sent if line.message is not None]


def is_in_clear(exchange: int) -> bool:
    return exchange in (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_SESSION_RESUME)
