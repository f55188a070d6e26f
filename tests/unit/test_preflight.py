"""From which address a connection initiates, and which configured addresses this machine doesn't have."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from ipsecfast.config import GatewayConfig
from ipsecfast.config.values import AddressEntry
from ipsecfast.configured import AuthConfig, ConnectionConfig
from ipsecfast.netlink import PathToPeer
from ipsecfast.preflight import ANYWHERE, foreign_local_addresses, with_local_address

OURS = (ip_address("192.0.2.1"), ip_address("10.1.0.1"), ip_address("2001:db8::1"))
PATH = PathToPeer(ip_address("192.0.2.1"), 1500, "eth0")


def connection(*local: str) -> ConnectionConfig:
    entries: tuple[AddressEntry, ...] = tuple(ip_network(one) if "/" in one else ip_address(one) for one in local)
    nobody = AuthConfig(None)
    return ConnectionConfig("b", entries, (ip_address("192.0.2.2"),), (), nobody, nobody, ())


@pytest.mark.parametrize(
    ("local", "resolved"),
    [
        (("192.0.2.1",), ("192.0.2.1",)),
        (("198.51.100.1", "10.1.0.1"), ("10.1.0.1",)),
        (("192.0.2.0/24",), ("192.0.2.1", "192.0.2.0/24")),
        (("198.51.100.0/24",), ("198.51.100.0/24",)),
    ],
)
def test_the_address_to_initiate_from(local: tuple[str, ...], resolved: tuple[str, ...]) -> None:
    found = with_local_address(connection(*local), OURS, PATH)
    assert tuple(map(str, found.local_addrs)) == resolved


def test_any_address_becomes_that_of_the_route_and_still_answers_on_all() -> None:
    assert with_local_address(connection(), OURS, PATH).local_addrs == (PATH.source, *ANYWHERE)


def test_any_address_stays_so_without_a_route() -> None:
    assert with_local_address(connection(), OURS, None).local_addrs == ()


@pytest.mark.parametrize(
    ("local", "foreign"),
    [
        ((), False),
        (("192.0.2.1",), False),
        (("198.51.100.1", "2001:db8::1"), False),
        (("10.1.0.0/24",), False),
        (("198.51.100.1",), True),
        (("198.51.100.0/24", "2001:db8::2"), True),
    ],
)
def test_addresses_of_other_machines(local: tuple[str, ...], foreign: bool) -> None:
    problems = foreign_local_addresses(GatewayConfig("gw.toml", (connection(*local),)), OURS)
    assert [problem.key for problem in problems] == (["connections.b.local_addrs"] if foreign else [])
