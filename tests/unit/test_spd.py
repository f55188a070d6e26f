"""The order of the SPD's policies, and the routes that follow from them."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address, ip_network

import pytest

from ipsecfast.config.values import fixed_selector
from ipsecfast.configured import AuthConfig, ChildConfig, ConnectionConfig
from ipsecfast.model import IPAddress, Path, Policy, PolicyAction, SaParams, TrafficSelector
from ipsecfast.netlink import Route, networks_of
from ipsecfast.spd import SpdBook, needs_forwarding, resolve_selectors

PATH = Path(ip_address("192.0.2.1"), 0, ip_address("192.0.2.2"), 0)
BYPASS = Policy(fixed_selector("10.1.0.9"), fixed_selector("0.0.0.0/0"), PolicyAction.BYPASS)


def selectors(*texts: str) -> tuple[TrafficSelector, ...]:
    return tuple(fixed_selector(text) for text in texts)


def connection(*children: ChildConfig) -> ConnectionConfig:
    nobody = AuthConfig(None)
    return ConnectionConfig("b", (), (), (), nobody, nobody, children)


def child(name: str, local: str = "10.1.0.0/24", remote: str = "10.2.0.0/24") -> ChildConfig:
    return ChildConfig(name, selectors(local), selectors(remote), ())


def inbound(spi: int, reqid: int, local: str = "10.1.0.0/24", remote: str = "10.2.0.0/24") -> SaParams:
    return SaParams(spi, reqid, 20, b"", PATH, selectors(local), selectors(remote))


@pytest.fixture
def book() -> SpdBook:
    return SpdBook((BYPASS,), [connection(child("first"), child("second"))])


def routes(book: SpdBook, ours: Collection[IPAddress] = ()) -> set[Route]:
    book.routes.changes(ours)
    return book.routes.routes()


def shown(book: SpdBook) -> list[tuple[str, str, int]]:
    return [(str(policy.source), str(policy.destination), policy.reqid) for policy in book.policies()]


def test_explicit_policies_come_first_then_children_as_configured(book: SpdBook) -> None:
    book.add_sa(("b", "second"), inbound(2, 2, remote="10.3.0.0/24"))
    book.add_sa(("b", "first"), inbound(1, 1))
    assert shown(book) == [
        ("10.1.0.9/32", "0.0.0.0/0", 0),
        ("10.1.0.0/24", "10.2.0.0/24", 1),
        ("10.1.0.0/24", "10.3.0.0/24", 2),
    ]


def test_selectors_leave_with_the_last_sa_of_a_reqid(book: SpdBook) -> None:
    book.add_sa(("b", "first"), inbound(1, 1))
    book.add_sa(("b", "first"), inbound(7, 1))
    assert len(book.policies()) == 2  # a rekey doesn't double them
    book.remove_sa(1, 1)
    assert len(book.policies()) == 2
    book.remove_sa(1, 7)
    assert book.policies() == [BYPASS]
    assert routes(book) == set()


def test_a_trap_holds_packets_while_there_is_no_sa_and_gives_way_to_narrowed_selectors(book: SpdBook) -> None:
    book.add_trap(("b", "first"), 1, *((selectors("10.1.0.0/16"), selectors("10.2.0.0/16"))))
    (_, trap) = book.policies()
    assert trap.hold
    book.add_sa(("b", "first"), inbound(1, 1))
    assert shown(book)[1:] == [("10.1.0.0/24", "10.2.0.0/24", 1)]
    assert {route.network for route in routes(book)} == {ip_network("10.2.0.0/16"), ip_network("10.2.0.0/24")}
    book.remove_sa(1, 1)
    assert book.policies() == [BYPASS, trap]


def test_packets_are_held_while_the_outbound_sa_is_not_active_yet(book: SpdBook) -> None:
    book.add_sa(("b", "first"), inbound(1, 1))
    assert [policy.hold for policy in book.policies()] == [False, True]


def test_only_selectors_that_one_packet_can_match_become_policies(book: SpdBook) -> None:
    local = selectors("10.1.0.0/24[tcp]", "2001:db8:1::/64")
    remote = selectors("10.2.0.0/24[udp/53]", "10.2.0.0/24", "2001:db8:2::/64")
    book.add_trap(("b", "first"), 1, local, remote)
    assert shown(book)[1:] == [
        ("10.1.0.0/24[6]", "10.2.0.0/24", 1),
        ("2001:db8:1::/64", "2001:db8:2::/64", 1),
    ]


def test_routes_prefer_our_address_inside_the_local_selector(book: SpdBook) -> None:
    book.add_sa(("b", "first"), inbound(1, 1))
    ours = [ip_address(text) for text in ("127.0.0.1", "192.0.2.1", "fe80::1", "10.1.0.1")]
    assert routes(book, ours) == {Route(ip_network("10.2.0.0/24"), ip_address("10.1.0.1"))}


def test_ranges_become_prefixes(book: SpdBook) -> None:
    book.add_sa(("b", "first"), inbound(1, 1, remote="10.2.0.4-10.2.0.10"))
    networks = {str(route.network) for route in routes(book)}
    assert networks == {"10.2.0.4/30", "10.2.0.8/31", "10.2.0.10/32"}
    assert networks_of(fixed_selector("::/0")) == (ip_network("::/0"),)


def test_local_networks_inside_a_wider_tunnel_are_thrown_back(book: SpdBook) -> None:
    book.add_sa(("b", "first"), inbound(1, 1, remote="0.0.0.0/0"))
    assert routes(book) == {Route(ip_network("0.0.0.0/0")), Route(ip_network("10.1.0.0/24"), throw=True)}


def test_a_network_that_is_led_into_the_tunnel_is_not_thrown_back(book: SpdBook) -> None:
    book.add_sa(("b", "first"), inbound(1, 1, local="0.0.0.0/0", remote="10.2.0.0/24"))
    book.add_sa(("b", "second"), inbound(2, 2, local="10.2.0.0/24", remote="10.0.0.0/8"))
    assert not any(route.throw for route in routes(book))


def test_dynamic_selectors_become_the_ike_address() -> None:
    address = ip_address("192.0.2.1")
    assert resolve_selectors((None, *selectors("10.1.0.0/24")), address) == selectors("192.0.2.1", "10.1.0.0/24")
    assert resolve_selectors((None,), None) == ()


def test_forwarding_is_needed_for_networks_and_for_other_hosts() -> None:
    ours = [ip_address("192.0.2.1")]
    assert needs_forwarding([connection(child("net"))], ours) == {4}
    assert needs_forwarding([connection(child("host", local="192.0.2.1"))], ours) == set()
    assert needs_forwarding([connection(child("host", local="2001:db8::5", remote="2001:db8:2::/64"))], ours) == {6}
