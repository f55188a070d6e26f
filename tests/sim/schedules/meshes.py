"""Meshes: every gateway has a connection to every other one, and all of them begin at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

from simulation import ESP_PROPOSAL, IKE_PROPOSAL, Gateway, Link, Network, proposals

from ipsecfast.configured import AuthConfig, ChildConfig, ConnectionConfig, PresharedKey
from ipsecfast.identity import Identity
from ipsecfast.ike.context import Settings
from ipsecfast.ike.timers import Backoff
from ipsecfast.model import ProtocolId, StartAction, TrafficSelector
from schedules.schedule import PATIENT, Schedule, at_rest, family

MESH_SETTINGS = replace(PATIENT, retransmit=Backoff(timeout=2.0, base=1.3, tries=8))
FIRST = ip_address("203.0.113.0")
DEAD_AFTER = 30.0  # dpd_delay


def name_of(number: int) -> str:
    return f"g{number}"


def identity(number: int) -> Identity:
    return Identity(2, f"{name_of(number)}.test".encode())


def network_of(number: int) -> TrafficSelector:
    return TrafficSelector.from_network(ip_network(f"10.{number}.0.0/24"))


def connection(me: int, peer: int) -> ConnectionConfig:
    """The connection of two of the mesh, as `me` configures it: up from the start and for good."""
    start = StartAction.START
    child = ChildConfig(
        name="net",
        local_ts=(network_of(me),),
        remote_ts=(network_of(peer),),
        esp_proposals=proposals((ESP_PROPOSAL,), ProtocolId.ESP),
        start_action=start,
        dpd_action=start,
        close_action=start,
    )
    return ConnectionConfig(
        name=name_of(peer),
        local_addrs=(FIRST + me,),
        remote_addrs=(FIRST + peer,),
        proposals=proposals((IKE_PROPOSAL,), ProtocolId.IKE),
        local=AuthConfig(identity(me)),
        remote=AuthConfig(identity(peer)),
        children=(child,),
        secrets=(PresharedKey((identity(me), identity(peer)), f"{min(me, peer)}-{max(me, peer)}".encode() * 4),),
        keyingtries=0,
        dpd_delay=DEAD_AFTER,
    )


def make_mesh(size: int, seed: int, link: Link, settings: Settings = MESH_SETTINGS) -> Network:
    mesh = Network(seed, link)
    for me in range(size):
        connections = [connection(me, peer) for peer in range(size) if peer != me]
        mesh.add(Gateway(mesh, name_of(me), FIRST + me, connections, settings))
    return mesh


def run_until_converged(mesh: Network, limit: float = 3600.0) -> float:
    """Seconds until each two have exactly one IKE SA and one Child SA with each other, checked twice a minute."""
    began = mesh.now
    while mesh.now - began < limit:
        mesh.run(30.0)
        if is_converged(mesh):
            return mesh.now - began
    mesh.check_converged(children=1)
    raise AssertionError(f"not quiet after {limit} s")


def is_converged(mesh: Network) -> bool:
    peers = len(mesh.gateways) - 1
    return all(
        len(g.ike_sas) == len(g.established) == len(g.children) == len(g.dataplane.inbound) == peers
        for g in mesh.gateways.values()
    )


def restart_a_third(mesh: Network, schedule: Schedule) -> None:
    names = sorted(mesh.gateways)
    for name in schedule.rng.sample(names, max(1, len(names) // 3)):
        mesh.gateways[name].restart()


def converge_twice(
    schedule: Schedule, size: int, link: Link, tell: Callable[[str, float], None] = lambda *_: None
) -> Network:
    """From nothing, and again after a third of the gateways restarted. Loss never ends. `tell` gets what was waited
    for, and how many seconds."""
    mesh = make_mesh(size, schedule.seed, link)
    mesh.start()
    tell("from nothing", run_until_converged(mesh))
    mesh.check_converged(children=1)
    restart_a_third(mesh, schedule)
    mesh.run(DEAD_AFTER)
    tell("after a third of them restarted", DEAD_AFTER + run_until_converged(mesh))
    mesh.check_converged(children=1)
    schedule.rest(mesh, 100.0)
    return at_rest(mesh, children=1)


@family
def mesh(schedule: Schedule) -> Network:
    """Three to six gateways with 10 % loss or worse."""
    link = schedule.bad_link()
    link.loss = max(link.loss, 0.1)
    return converge_twice(schedule, schedule.rng.randint(3, 6), link)
