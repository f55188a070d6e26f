"""Routes by messages of our own: what the kernel has afterwards, as pyroute2 reads it, and what it refuses."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pyroute2
import pytest

from ipsecfast.lab.netns import Namespace, join
from ipsecfast.route_messages import AT_ONCE, RouteMessage, RouteSocket

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and routes need root")

TABLE, HIGH_TABLE, PROTOCOL = 220, 1220, 86


@pytest.fixture
def place() -> Iterator[Namespace]:
    first, second = Namespace("first"), Namespace("second")
    join(first, "outer", second, "outer")
    first.add_address("outer", "192.0.2.1/24")
    first.add_address("outer", "fd00::1/64")
    yield first
    first.close()
    second.close()


def in_the_kernel(place: Namespace, table: int, family: int) -> dict[str, object]:
    def read() -> dict[str, object]:
        with pyroute2.IPRoute() as kernel:
            return {f"{r.get_attr('RTA_DST')}/{r['dst_len']}": r for r in kernel.get_routes(table=table, family=family)}

    return place.run(read)


def device(place: Namespace) -> int:
    return place.run(socket.if_nametoindex, "outer")


def test_as_pyroute2_reads_them(place: Namespace) -> None:
    index, routes = device(place), place.run(RouteSocket)
    source = ip_address("192.0.2.1")
    many = [
        RouteMessage(ip_network(f"10.{n // 256}.{n % 256}.0/24"), TABLE, PROTOCOL, index, source) for n in range(200)
    ]
    assert len(many) > 2 * AT_ONCE
    six = RouteMessage(ip_network("fd01::/64"), TABLE, PROTOCOL, index)
    throws = [RouteMessage(ip_network(n), HIGH_TABLE, PROTOCOL, None) for n in ("10.0.0.0/8", "fd02::/64")]
    for _ in range(2):  # a second time they take their own place
        assert [failure for _, failure in routes.replace([*many, six, *throws])] == [None] * 203
    found = in_the_kernel(place, TABLE, socket.AF_INET)
    assert len(found) == 200
    one = found["10.0.7.0/24"]
    assert (one["proto"], one["scope"], one["type"]) == (PROTOCOL, 253, 1)  # type: ignore[index]
    assert (one.get_attr("RTA_OIF"), one.get_attr("RTA_PREFSRC")) == (index, "192.0.2.1")  # type: ignore[attr-defined]
    assert list(in_the_kernel(place, TABLE, socket.AF_INET6)) == ["fd01::/64"]
    for family in (socket.AF_INET, socket.AF_INET6):
        assert [r["type"] for r in in_the_kernel(place, HIGH_TABLE, family).values()] == [9]  # type: ignore[index]
    assert [failure for _, failure in routes.remove([*many, six, *throws])] == [None] * 203
    assert not in_the_kernel(place, TABLE, socket.AF_INET)
    assert not in_the_kernel(place, TABLE, socket.AF_INET6)
    routes.close()


def test_what_the_kernel_refuses_is_told_of_that_route_alone(place: Namespace) -> None:
    index, routes = device(place), place.run(RouteSocket)
    good = RouteMessage(ip_network("10.1.0.0/24"), TABLE, PROTOCOL, index)
    bad = RouteMessage(ip_network("10.2.0.0/24"), TABLE, PROTOCOL, 999)
    results = dict(routes.replace([bad, good]))
    assert results[good] is None
    assert str(results[bad]) == "can't add the route to 10.2.0.0/24: No such device"
    assert "10.2.0.0/24: No such process" in str(dict(routes.remove([good, bad]))[bad])
    assert not in_the_kernel(place, TABLE, socket.AF_INET)
    routes.close()
