"""The sockets of IKE: which address a datagram came to, from which one it leaves, and what stands before it."""

from __future__ import annotations

import os
import select
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from ipsecfast.dataplane import IkeGate, UdpPort
from ipsecfast.errors import DataPlaneError
from ipsecfast.lab.netns import Namespace
from ipsecfast.model import Path, SpiRank
from ipsecfast.sockets import (
    NAT_KEEPALIVE,
    NON_ESP_MARKER,
    IkeSocket,
    MarkedIkeSocket,
    Reception,
    open_port_500,
    open_port_4500,
)

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


# -- the gate ----------------------------------------------------------------------------------------------------------

OURS = {SpiRank.PROVEN: b"proven!!", SpiRank.BEGUN: b"begun!!!", SpiRank.UNKNOWN: b"unknown!"}
FROM_INITIATOR = 0x08


@pytest.fixture
def gate() -> IkeGate:
    try:
        gate = IkeGate()
    except DataPlaneError as error:
        pytest.skip(f"no BPF here: {error}")
    for rank, spi in OURS.items():
        gate.rank(spi, rank)
    return gate


def message(rank: SpiRank, text: bytes = b"") -> bytes:
    """The beginning of a message of an initiator for an SPI of ours of this rank."""
    return b"initiato" + OURS[rank] + bytes(3) + bytes([FROM_INITIATOR]) + text.ljust(8)


def turn(reception: Reception) -> list[bytes]:
    select.select([reception], [], [], 2.0)
    return [data for received in reception.turn() for data, _ in received]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_each_rank_has_a_socket_and_the_lowest_goes_first(
    place: Namespace, gate: IkeGate, version: int, workers: int
) -> None:
    ours, theirs = map(ip_address, ADDRESSES[version])
    port, marker = (4500, NON_ESP_MARKER) if workers else (500, b"")
    reception, udp = Reception(Counter()), []
    if workers:
        udp = place.run(UdpPort.group, version, workers)
        marked: Any = place.run(MarkedIkeSocket, version, udp[0].fileno())
        sockets: Any = place.run(open_port_4500, version, MARK, gate, marked, workers)
    else:
        sockets = place.run(open_port_500, version, MARK, gate)
    reception.add(sockets)
    peer: Any = place.run(IkeSocket, version, mark=MARK, port=7000)
    for rank in reversed(SpiRank):
        peer.send(marker + message(rank), Path(theirs, 7000, ours, port))
    assert turn(reception) == [message(rank) for rank in SpiRank]
    for one in (peer, reception, *udp):
        one.close()


def test_a_full_queue_of_strangers_costs_established_peers_nothing(place: Namespace, gate: IkeGate) -> None:
    ours, theirs = map(ip_address, ADDRESSES[4])
    reception = Reception(Counter())
    reception.add(place.run(open_port_500, 4, MARK, gate))
    peer: Any = place.run(IkeSocket, 4, mark=MARK, port=7000)
    for number in range(5_000):  # far more than a queue holds
        peer.send(message(SpiRank.UNKNOWN, b"%d" % number), Path(theirs, 7000, ours, 500))
    for number in range(100):
        peer.send(message(SpiRank.PROVEN, b"%d" % number), Path(theirs, 7000, ours, 500))
    first, second = turn(reception), turn(reception)
    assert first[:64] + second[:36] == [message(SpiRank.PROVEN, b"%d" % number) for number in range(100)]
    assert len(first) == 64 + 16  # strangers have their turn too
    peer.close()
    reception.close()


def test_without_a_gate_one_socket_serves_all(place: Namespace) -> None:
    ours, theirs = map(ip_address, ADDRESSES[4])
    reception = Reception(Counter())
    sockets: Any = place.run(open_port_500, 4, MARK, None)
    reception.add(sockets)
    peer: Any = place.run(IkeSocket, 4, mark=MARK, port=7000)
    peer.send(message(SpiRank.UNKNOWN), Path(theirs, 7000, ours, 500))
    assert len(sockets) == 1
    assert turn(reception) == [message(SpiRank.UNKNOWN)]
    peer.close()
    reception.close()


def test_what_is_not_ike_on_port_4500_is_counted(place: Namespace) -> None:
    """Before the gate stands, anything may come to a socket of the group."""
    ours, theirs = map(ip_address, ADDRESSES[4])
    counters: Counter[str] = Counter()
    reception = Reception(counters)
    reception.add([place.run(IkeSocket, 4, mark=MARK, port=4500)])
    peer: Any = place.run(IkeSocket, 4, mark=MARK, port=7000)
    for data in (b"\1\2\3\4 is ESP", NON_ESP_MARKER + message(SpiRank.BEGUN)):
        peer.send(data, Path(theirs, 7000, ours, 4500))
    assert turn(reception) == [message(SpiRank.BEGUN)]
    assert counters.total() == 1
    peer.close()
    reception.close()


def test_port_500_that_another_program_shares_is_refused(place: Namespace, gate: IkeGate) -> None:
    other: Any = place.run(IkeSocket, 4, mark=MARK, port=500, joins=True)
    with pytest.raises(OSError, match="in use"):
        place.run(open_port_500, 4, MARK, gate)
    other.close()


def test_an_spi_has_eight_octets_and_a_rank(gate: IkeGate) -> None:
    for spi, rank in ((b"1234567", 0), (b"123456789", 0), (b"12345678", 3)):
        with pytest.raises(ValueError, match="SPI"):
            gate.rank(spi, rank)
