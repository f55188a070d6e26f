"""What simulated gateways are configured with, in a line or two a test."""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from ipsecfast.configured import AuthConfig, ChildConfig, ConnectionConfig, PresharedKey
from ipsecfast.identity import Identity
from ipsecfast.ike.wire.proposal import parse_proposal
from ipsecfast.model import ProtocolId, TrafficSelector

ADDRESS = {"a": ip_address("192.0.2.1"), "b": ip_address("192.0.2.2")}
NETWORK = {"a": "10.1.0.0/24", "b": "10.2.0.0/24"}
SECRET = b"a secret that both ends know"
IKE_PROPOSAL = "aes128gcm16-prfsha256-x25519"
ESP_PROPOSAL = "aes128gcm16"
FQDN = 2  # RFC 7296 s3.5


def replay_seed() -> int | None:
    text = os.environ.get("IPSECFAST_SIM_SEED")
    return int(text) if text else None


def selector(text: str) -> TrafficSelector:
    return TrafficSelector.from_network(ip_network(text))


def proposals(words: Iterable[str], protocol: ProtocolId) -> tuple:
    return tuple(parse_proposal(w, protocol) for w in words)


def child(name: str, me: str = "a", *, esp: tuple[str, ...] = (ESP_PROPOSAL,), **options: object) -> ChildConfig:
    """A child between the networks of both ends, from the point of view of `me`."""
    peer = "b" if me == "a" else "a"
    third = str(int(name[-1]) if name[-1].isdigit() else 0)
    local, remote = (NETWORK[x].replace(".0.0/", f".{third}.0/") for x in (me, peer))
    settings: dict = {"local_ts": (selector(local),), "remote_ts": (selector(remote),)} | options
    return ChildConfig(name=name, esp_proposals=proposals(esp, ProtocolId.ESP), **settings)


def connection(
    me: str,
    *,
    children: tuple[ChildConfig, ...] | None = None,
    ike: tuple[str, ...] = (IKE_PROPOSAL,),
    secret: bytes = SECRET,
    **options: object,
) -> ConnectionConfig:
    """The connection `ab` as the gateway `me` configures it."""
    peer = "b" if me == "a" else "a"
    ids = {x: Identity(FQDN, f"{x}.test".encode()) for x in "ab"}
    settings: dict = {
        "name": "ab",
        "local_addrs": (ADDRESS[me],),
        "remote_addrs": (ADDRESS[peer],),
        "local": AuthConfig(ids[me]),
        "remote": AuthConfig(ids[peer]),
        "secrets": (PresharedKey((ids["a"], ids["b"]), secret),),
        "children": children if children is not None else (child("net", me),),
        "proposals": proposals(ike, ProtocolId.IKE),
    } | options
    return ConnectionConfig(**settings)
