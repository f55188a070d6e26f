"""The sockets of IKE: which address a datagram came to, from which one it leaves, and what stands before it."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from ipsecfast.lab.netns import Namespace
from ipsecfast.model import Path
from ipsecfast.sockets import NAT_KEEPALIVE, NON_ESP_MARKER, IkeSocket, MarkedIkeSocket

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="SO_MARK and network namespaces need root")

ADDRESSES = {4: ("127.0.0.5", "127.0.0.6"), 6: ("fd00::5", "fd00::6")}
MARK = 77


@pytest.fixture
def place() -> Iterator[Namespace]:
    place = Namespace("sockets")
    for address in ADDRESSES[6]:
        place.add_address("lo", f"{address}/128")
    yield place
    place.close()


def received(ike_socket: IkeSocket) -> list[tuple[bytes, Path]]:
    select.select([ike_socket], [], [], 2.0)
    return list(ike_socket.receive(10))


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_keeps_both_addresses(place: Namespace, version: int) -> None:
    ours, theirs = map(ip_address, ADDRESSES[version])
    a: Any = place.run(IkeSocket, version, mark=MARK, port=500)
    b: Any = place.run(IkeSocket, version, mark=MARK, port=4500)
    a.send(b"request", Path(ours, 500, theirs, 4500))
    assert received(b) == [(b"request", Path(theirs, 4500, ours, 500))]
    b.send(b"response", Path(theirs, 4500, ours, 500))
    assert received(a) == [(b"response", Path(ours, 500, theirs, 4500))]
    a.close()
    b.close()


def test_an_unspecified_source_is_left_to_the_kernel(place: Namespace) -> None:
    a: Any = place.run(IkeSocket, 4, mark=MARK, port=500)
    a.send(b"x", Path(ip_address("0.0.0.0"), 500, ip_address("127.0.0.6"), 500))
    assert received(a) == [(b"x", Path(ip_address("127.0.0.6"), 500, ip_address("127.0.0.1"), 500))]
    a.close()


def test_the_marker_stands_before_messages_and_not_before_keepalives(place: Namespace) -> None:
    ours, theirs = map(ip_address, ADDRESSES[4])
    plain: Any = place.run(IkeSocket, 4, mark=MARK, port=4500)
    marked: Any = place.run(MarkedIkeSocket, 4, plain.fileno())
    for data in (b"message", NAT_KEEPALIVE):
        marked.send(data, Path(ours, 4500, theirs, 4500))
    assert [data for data, _ in received(plain)] == [NON_ESP_MARKER + b"message", NAT_KEEPALIVE]
    marked.close()
    assert plain.fileno() >= 0  # only its duplicate is closed
    plain.close()


def test_what_the_kernel_refuses_is_raised(place: Namespace) -> None:
    a: Any = place.run(IkeSocket, 4, mark=MARK, port=500)
    with pytest.raises(OSError, match="unreachable"):
        a.send(b"x", Path(ip_address("127.0.0.5"), 500, ip_address("198.51.100.1"), 500))
    a.close()


def test_limits_of_one_turn(place: Namespace) -> None:
    a: Any = place.run(IkeSocket, 4, mark=MARK, port=500)
    path = Path(ip_address("127.0.0.5"), 500, ip_address("127.0.0.5"), 500)
    for number in range(5):
        a.send(bytes([number]), path)
    assert [data for data, _ in a.receive(3)] == [b"\0", b"\1", b"\2"]
    assert len(list(a.receive(3))) == 2
    a.close()
