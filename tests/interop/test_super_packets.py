"""Super-packets end to end: what a host sends as one piece of 64 KB crosses as many packets and arrives as it was.

host A            gateway A                    gateway B            host B
10.1.0.2/24 ----- 10.1.0.1   192.0.2.1 ======= 192.0.2.2   10.2.0.1 ----- 10.2.0.2/24
fd00:a::2/64      fd00:a::1  fd00:2::1/64      fd00:2::2   fd00:b::1      fd00:b::2/64
"""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from contextlib import closing
from itertools import count

import pytest
from conftest import StartGateway
from pyroute2 import IPRoute

from ipsecfast.lab.netns import A, B, Namespace, TwoSites
from ipsecfast.lab.testbed import GatewayProcess, tunnel_config, wait_for

VERSIONS = {4: 0, 6: 1}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
STREAM_BYTES = 48 << 20
UDP_SEGMENT = 103
SOL_UDP = 17


class Pair:
    """Two gateways with a tunnel for both families."""

    def __init__(self, sites: TwoSites, start: StartGateway, *, encap: bool = True) -> None:
        self.sites = sites
        ends = ((sites.a.gateway, A, B), (sites.b.gateway, B, A))
        self.gateways = [
            start(place, tunnel_config(own, peer, inner=(4, 6), connection={"encap": encap}))
            for place, own, peer in ends
        ]
        self.gateways[0].command("initiate", "net")
        for gateway in self.gateways:
            wait_for("the Child SA is there", gateway.child)

    def carried(self) -> tuple[int, int]:
        """Gateway A, outbound: packets of the wire, and pieces that came through the TUN device."""
        packets = sum(worker["outbound"]["tx_packets"] for worker in self.gateways[0].status()["workers"])
        return packets, self.sites.a.gateway.run(tun_pieces, "tx_packets")

    def joined(self) -> tuple[int, int]:
        """Gateway B, inbound: packets of the wire, and pieces that the TUN device took."""
        packets = sum(worker["inbound"]["tx_packets"] for worker in self.gateways[1].status()["workers"])
        return packets, self.sites.b.gateway.run(tun_pieces, "rx_packets")

    def drops(self) -> list[dict[str, int]]:
        return [gateway.status()["drops"] for gateway in self.gateways]


def tun_pieces(counter: str) -> int:
    with IPRoute() as kernel:
        links = [link for link in kernel.get_links() if (link.get_attr("IFLA_LINKINFO") or {}).get("attrs")]
        tuns = [link for link in links if link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "tun"]
        (found,) = tuns
        return int(found.get_attr("IFLA_STATS64")[counter])


def listener(place: Namespace, version: int, kind: socket.SocketKind) -> socket.socket:
    def make() -> socket.socket:
        sock = socket.socket(FAMILIES[version], kind)
        if kind == socket.SOCK_DGRAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((B.host[VERSIONS[version]], 0))
        sock.settimeout(10)
        return sock

    return place.run(make)


def connected(place: Namespace, version: int, kind: socket.SocketKind, port: int) -> socket.socket:
    def make() -> socket.socket:
        sock = socket.socket(FAMILIES[version], kind)
        sock.settimeout(20)
        sock.connect((B.host[VERSIONS[version]], port))
        return sock

    return place.run(make)


class Transfer:
    """A TCP stream of random bytes from host A to host B, until `finish`, which returns both ends' hashes."""

    def __init__(self, sites: TwoSites, version: int) -> None:
        self._server = listener(sites.b.host, version, socket.SOCK_STREAM)
        self._server.listen(1)
        self._client = connected(sites.a.host, version, socket.SOCK_STREAM, self._server.getsockname()[1])
        self._hashes: dict[str, str] = {}
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        block = random.Random(1).randbytes(1 << 20)
        told = hashlib.sha256()
        with self._client:
            for number in count():
                if self._enough.is_set() and number >= STREAM_BYTES >> 20:
                    break
                piece = number.to_bytes(4, "big") + block[4:]
                told.update(piece)
                self._client.sendall(piece)
        self._hashes["sent"] = told.hexdigest()

    def _receive(self) -> None:
        seen = hashlib.sha256()
        connection, _ = self._server.accept()
        connection.settimeout(20)
        with self._server, connection:
            while piece := connection.recv(1 << 20):
                seen.update(piece)
        self._hashes["received"] = seen.hexdigest()

    def finish(self) -> tuple[str | None, str | None]:
        self._enough.set()
        for thread in self._threads:
            thread.join(60)
        return self._hashes.get("sent"), self._hashes.get("received")


@pytest.fixture(params=[True, False], ids=["esp-in-udp", "bare-esp"])
def pair(request: pytest.FixtureRequest, sites: TwoSites, start_gateway: StartGateway) -> Pair:
    return Pair(sites, start_gateway, encap=request.param)


@pytest.mark.parametrize("version", [4, 6])
def test_a_stream_arrives_as_it_was_sent(pair: Pair, version: int) -> None:
    sent, received = Transfer(pair.sites, version).finish()
    assert sent is not None
    assert sent == received
    packets, pieces = pair.carried()
    assert packets > STREAM_BYTES // 1500
    assert pieces * 4 < packets, "the kernel gave few super-packets"
    packets, pieces = pair.joined()
    assert pieces * 2 < packets, "few packets were joined"
    assert pair.drops() == [{}, {}]


def datagrams(count: int, size: int) -> list[bytes]:
    return [random.Random(number).randbytes(size) for number in range(count)]


def expect(server: socket.socket, wanted: list[bytes]) -> None:
    for number, datagram in enumerate(wanted):
        got = server.recv(65535)
        assert got == datagram, f"datagram {number}: {len(got)} bytes instead of {len(datagram)}, or other bytes"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("size", "last"), [(1000, 1000), (1200, 7), (64, 64), (1, 1)])
def test_udp_segments_keep_their_boundaries(pair: Pair, version: int, size: int, last: int) -> None:
    with (
        closing(listener(pair.sites.b.host, version, socket.SOCK_DGRAM)) as server,
        closing(connected(pair.sites.a.host, version, socket.SOCK_DGRAM, server.getsockname()[1])) as client,
    ):
        client.setsockopt(SOL_UDP, UDP_SEGMENT, size)
        before = pair.carried()
        for _ in range(10):
            wanted = [*datagrams(39, size), random.Random("last").randbytes(last)]
            client.send(b"".join(wanted))
            expect(server, wanted)
        packets, pieces = (after - first for after, first in zip(pair.carried(), before, strict=True))
        assert packets >= 400
        assert pieces < 100, "the kernel cut what the data plane could have taken whole"
        assert pair.drops() == [{}, {}]


@pytest.mark.parametrize("version", [4, 6])
def test_checksums_that_the_kernel_leaves_to_us(pair: Pair, version: int) -> None:
    """Every length: host B's kernel drops what has a wrong one."""
    with (
        closing(listener(pair.sites.b.host, version, socket.SOCK_DGRAM)) as server,
        closing(connected(pair.sites.a.host, version, socket.SOCK_DGRAM, server.getsockname()[1])) as client,
    ):
        for size in [*range(70), *range(1290, 1330)]:
            (datagram,) = datagrams(1, size)
            client.send(datagram)
            expect(server, [datagram])


def rekey(gateway: GatewayProcess, *what: str) -> None:
    """The Child SA ("net", "net") or the IKE SA ("net"): until the new one alone is there."""
    before = gateway.expect_child()

    def fresh() -> bool:
        now = gateway.expect_child()
        return now.spi_in != before.spi_in if len(what) == 2 else now.ike_spi != before.ike_spi

    gateway.command("rekey", *what)
    wait_for("the new SA is there", fresh)
    wait_for("one IKE SA with one Child SA", lambda: gateway.counts() == (1, 1))


def test_rekeys_under_a_stream_change_nothing_in_it(sites: TwoSites, start_gateway: StartGateway) -> None:
    pair = Pair(sites, start_gateway)
    transfer = Transfer(sites, 4)
    rekey(pair.gateways[0], "net", "net")
    rekey(pair.gateways[1], "net", "net")
    rekey(pair.gateways[0], "net")
    sent, received = transfer.finish()
    assert sent is not None
    assert sent == received
    assert pair.drops() == [{}, {}]
