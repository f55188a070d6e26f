"""What ring ports are told follows from what the kernel knows: next hops, and which destinations to take."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from ipsecfast.model import IPAddress, NextHop, Policy, PolicyAction, TrafficSelector
from ipsecfast.netlink import Link, Neighbour, PathToPeer, Route, RouteVia
from ipsecfast.rings import inner_hops, inner_takes, outer_hops

LINK = Link(index=3, name="eth0", address=b"\2\0\0\0\0\1", mtu=1500, up=True, queued=False)
MAC = b"\2\0\0\0\0\2"
ROUTER = b"\2\0\0\0\0\3"


def neighbours(**known: bytes) -> dict[IPAddress, Neighbour]:
    """Keys are addresses with "_" for the point."""
    pairs = {ip_address(text.strip("_").replace("_", ".")): mac for text, mac in known.items()}
    return {address: Neighbour(address, mac, stale=False) for address, mac in pairs.items()}


def hop(network: str, mac: bytes, mtu: int = 1500) -> NextHop:
    return NextHop(ip_network(network), mac, LINK.address, mtu)


def path(mtu: int = 1500, device: str = "eth0", gateway: str | None = None) -> PathToPeer:
    return PathToPeer(None, mtu, device, ip_address(gateway) if gateway else None)


def test_peers_by_neighbour_router_and_other_device() -> None:
    paths = {
        ip_address("192.0.2.2"): path(),
        ip_address("198.51.100.1"): path(mtu=1400, gateway="192.0.2.9"),
        ip_address("192.0.2.3"): path(),  # a neighbour that nobody knows yet
        ip_address("203.0.113.1"): path(device="eth1"),
        ip_address("203.0.113.2"): None,
    }
    known = neighbours(_192_0_2_2=MAC, _192_0_2_9=ROUTER)
    assert outer_hops(paths, LINK, known) == [hop("192.0.2.2/32", MAC), hop("198.51.100.1/32", ROUTER, 1400)]


def test_hosts_behind_the_link_and_what_stays_with_the_kernel() -> None:
    known = neighbours(_10_1_0_2=MAC, _10_1_0_9=ROUTER)
    routes = [
        RouteVia(ip_network("10.1.0.0/24"), 3, None),
        RouteVia(ip_network("10.5.0.0/16"), 3, ip_address("10.1.0.9")),
        RouteVia(ip_network("10.6.0.0/16"), 3, ip_address("10.1.0.8")),  # a router that nobody knows yet
        RouteVia(ip_network("10.5.7.0/24"), 4, None),
        RouteVia(ip_network("0.0.0.0/0"), 0, None),  # several ways, or blackholed
    ]
    found = {str(entry.network): entry for entry in inner_hops(LINK, known, routes, set())}
    assert found.pop("10.1.0.2/32") == hop("10.1.0.2/32", MAC)
    assert found.pop("10.1.0.9/32") == hop("10.1.0.9/32", ROUTER)
    assert found.pop("10.5.0.0/16") == hop("10.5.0.0/16", ROUTER)
    assert sorted(found) == ["0.0.0.0/0", "10.1.0.0/24", "10.5.7.0/24", "10.6.0.0/16"]
    assert not any(entry.mtu for entry in found.values())


def test_a_tunnel_goes_before_the_main_table() -> None:
    known = neighbours(_10_1_0_2=MAC, _10_1_0_9=ROUTER)
    routes = [
        RouteVia(ip_network("10.1.0.0/24"), 3, None),
        RouteVia(ip_network("10.5.0.0/16"), 3, ip_address("10.1.0.9")),
    ]
    tunnel = {Route(ip_network("10.0.0.0/8")), Route(ip_network("10.1.0.0/24"), throw=True)}
    found = {str(entry.network): entry.mtu for entry in inner_hops(LINK, known, routes, tunnel)}
    assert found == {"10.1.0.2/32": 1500, "10.1.0.9/32": 1500, "10.1.0.0/24": 0, "10.5.0.0/16": 0, "10.0.0.0/8": 0}


def test_a_host_route_on_the_link_keeps_its_neighbour() -> None:
    routes = [RouteVia(ip_network("10.1.0.2/32"), 3, None)]
    assert inner_hops(LINK, neighbours(_10_1_0_2=MAC), routes, set()) == [hop("10.1.0.2/32", MAC)]


def test_takes_what_leads_into_a_tunnel() -> None:
    tunnel = {Route(ip_network("0.0.0.0/0")), Route(ip_network("10.1.0.0/24"), throw=True)}
    ours = [ip_address("10.1.0.1"), ip_address("fd00::1")]
    takes = {str(network): longest for network, longest in inner_takes(tunnel, ours, [], 1400).items()}
    assert takes == {"0.0.0.0/0": 1400, "10.1.0.0/24": 0, "10.1.0.1/32": 0, "fd00::1/128": 0}


def bypass(destination: str) -> Policy:
    everywhere = TrafficSelector.from_network(ip_network("0.0.0.0/0"))
    return Policy(everywhere, TrafficSelector.from_network(ip_network(destination)), PolicyAction.BYPASS)


def test_explicit_policies_are_the_kernels() -> None:
    tunnel = {Route(ip_network("10.2.0.0/16")), Route(ip_network("10.3.0.0/16"))}
    takes = inner_takes(tunnel, [], [bypass("10.2.5.0/24"), bypass("10.3.0.0/16")], 1400)
    assert takes == {ip_network("10.2.0.0/16"): 1400, ip_network("10.2.5.0/24"): 0, ip_network("10.3.0.0/16"): 0}


def test_nothing_is_taken_where_nothing_is_certain() -> None:
    assert inner_takes([], [ip_address("10.1.0.1")], [], 1400) == {}
    assert inner_takes({Route(ip_network("10.2.0.0/16"))}, [], [bypass("0.0.0.0/0")], 1400) == {}
