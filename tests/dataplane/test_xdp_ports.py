"""AF_XDP ports on veth pairs: what they carry, what they leave to the kernel, what is left of them."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path as FilePath
from typing import Any

import pytest
from ring_sites import Kind, RingGateway, two_gateways

from ipsecfast.dataplane import DataPlane, MemoryPort, XdpPort
from ipsecfast.errors import DataPlaneError
from ipsecfast.lab.netns import Namespace, TwoSites, join
from ipsecfast.model import IkeDatagram

AF_XDP = 44
JUMBO = 3600  # above what veth's own XDP takes: the kernel runs the program itself
NON_ESP_MARKER = bytes(4)
HOST_B = ("10.2.0.2", "fd00:b::2")


def missing() -> str | None:
    if os.geteuid() != 0:
        return "namespaces and AF_XDP need root"
    if shutil.which("ping") is None:
        return "ping is not installed (package iputils-ping)"
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW, 0).close()
    except OSError as error:
        return f"this kernel has no AF_XDP: {error.strerror}"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


# ---- traffic ----


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def udp_socket(namespace: Namespace, address: str, port: int = 0) -> socket.socket:
    sock: socket.socket = namespace.run(socket.socket, family_of(address), socket.SOCK_DGRAM)
    sock.settimeout(2.0)
    sock.bind((address, port))
    return sock


def exchange_udp(sites: TwoSites, count: int = 200, size: int = 300) -> None:
    """Numbered datagrams from host A to host B and back, both families, one after the other."""
    ends = zip(sites.a.addresses.host, sites.b.addresses.host, strict=True)
    for here, there in ends:
        with udp_socket(sites.a.host, here) as a, udp_socket(sites.b.host, there, 7000) as b:
            for number in range(count):
                payload = number.to_bytes(4, "big") * (size // 4)
                a.sendto(payload, (there, 7000))
                data, sender = b.recvfrom(2000)
                assert data == payload
                b.sendto(data[::-1], sender)
                assert a.recv(2000) == payload[::-1]


def exchange_tcp(sites: TwoSites, size: int = 2_000_000) -> None:
    """A stream from host A to host B, both families, unchanged at its end."""
    for address in sites.b.addresses.host:
        listener: socket.socket = sites.b.host.run(socket.create_server, (address, 7001), family=family_of(address))
        with listener:
            sender: socket.socket = sites.a.host.run(socket.create_connection, (address, 7001), 5.0)
            receiver, _ = listener.accept()
            with sender, receiver:
                receiver.settimeout(5.0)
                assert transfer(sender, receiver, os.urandom(65536), size)


def transfer(sender: socket.socket, receiver: socket.socket, block: bytes, size: int) -> bool:
    sent, got = 0, bytearray()
    while len(got) < size:
        if sent < size and sent - len(got) < 65536:
            sent += sender.send(block[sent % 65536 :][: size - sent])
        got += receiver.recv(65536)
    return bytes(got) == (block * (size // 65536 + 1))[:size]


def ping(namespace: Namespace, address: str, *options: str) -> None:
    namespace.check_output(["ping", "-c", "3", "-i", "0.05", "-W", "2", *options, address])


# ---- what the kernel has seen ----


def snmp(namespace: Namespace) -> dict[str, int]:
    """The counters of the namespace's IP stacks: "Ip.ForwDatagrams", "Ip6InReceives"."""
    found: dict[str, int] = {}
    lines = namespace.check_output(["cat", "/proc/net/snmp"]).splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        table = names.split()[0].rstrip(":")
        found |= {f"{table}.{k}": int(v) for k, v in zip(names.split()[1:], values.split()[1:], strict=True)}
    for line in namespace.check_output(["cat", "/proc/net/snmp6"]).splitlines():
        name, value = line.split()
        found[name] = int(value)
    return found


def attached(namespace: Namespace, link: str) -> bool:
    return "prog/xdp" in namespace.check_output(["ip", "link", "show", "dev", link])


def unaccounted(worker: dict[str, Any]) -> int:
    received = worker["outbound"]["rx_packets"] + worker["inbound"]["rx_packets"]
    sent = worker["outbound"]["tx_packets"] + worker["inbound"]["tx_packets"]
    return int(received - sent - sum(worker["drops"].values()) - worker["consumed"] - worker["held"])


def check_conserved(gateway: RingGateway) -> None:
    """As soon as nothing is on its way any more."""
    until = time.monotonic() + 2.0
    while any(map(unaccounted, gateway.plane.worker_stats())) and time.monotonic() < until:
        time.sleep(0.01)
    assert [unaccounted(worker) for worker in gateway.plane.worker_stats()] == [0, 0]


def only_expected_drops(gateway: RingGateway) -> None:
    """The kernel's own router solicitations into TUN have no policy."""
    assert set(gateway.stats()["drops"]) <= {"no-policy"}
    check_conserved(gateway)


# ---- what they carry ----

KINDS = {
    "both borders": (Kind(), Kind()),
    "bare ESP": (Kind(udp=False), Kind(udp=False)),
    "transmit rings": (Kind(ring=True), Kind(ring=True)),
    "transmit rings, bare ESP": (Kind(ring=True, udp=False), Kind(ring=True, udp=False)),
    "against sockets": (Kind(), Kind(inner=False, outer=False)),
    "inner XDP, outer sockets": (Kind(outer=False), Kind()),
    "outer XDP, inner TUN": (Kind(inner=False), Kind(ring=True)),
}


@pytest.mark.parametrize("name", KINDS)
def test_udp_tcp_and_ping_pass_in_both_families(name: str) -> None:
    with two_gateways(*KINDS[name]) as (sites, a, b):
        assert all(port.mode == "native" for port in a.rings + b.rings)
        before = snmp(sites.a.gateway)
        for address in HOST_B:
            ping(sites.a.host, address)
        exchange_udp(sites)
        after = snmp(sites.a.gateway)
        exchange_tcp(sites)
        for gateway in (a, b):
            only_expected_drops(gateway)
            assert gateway.stats()["outbound"]["tx_packets"] > 400
        if (
            a.inner is not None and a.outer is not None
        ):  # nothing of what is taken goes through the stack, nor is answered by it
            assert after["Ip.ForwDatagrams"] == before["Ip.ForwDatagrams"]
            assert after["Ip.InUnknownProtos"] == before["Ip.InUnknownProtos"]
            assert after["Udp.InDatagrams"] == before["Udp.InDatagrams"]
            assert after["Ip6OutForwDatagrams"] == before["Ip6OutForwDatagrams"]
            assert after["Icmp.OutDestUnreachs"] == before["Icmp.OutDestUnreachs"]


@pytest.mark.parametrize("udp", [True, False])
def test_where_the_driver_does_not_run_the_program_the_kernel_does(udp: bool) -> None:
    """Super-packets come as they are then: TCP's are segments like others, UDP's go their old way."""
    with two_gateways(Kind(udp=udp), Kind(udp=udp), mtu=JUMBO) as (sites, a, b):
        assert [port.mode for port in a.rings + b.rings] == ["generic"] * 4
        for address in HOST_B:
            ping(sites.a.host, address)
        exchange_udp(sites)
        exchange_tcp(sites)
        only_expected_drops(a)
        only_expected_drops(b)
        assert a.stats()["outbound"]["tx_packets"] > 400


def test_a_hop_is_counted_once_and_the_last_is_answered_by_the_kernel() -> None:
    with two_gateways(Kind(), Kind()) as (sites, a, _):
        output = sites.a.host.check_output(["ping", "-c", "1", "-W", "2", HOST_B[0]])
        assert "ttl=62" in output  # two routers
        before = a.stats()["outbound"]["rx_packets"]
        with pytest.raises(subprocess.CalledProcessError) as error:
            sites.a.host.check_output(["ping", "-c", "1", "-W", "2", "-t", "1", HOST_B[0]])
        assert "Time to live exceeded" in error.value.output
        assert a.stats()["outbound"]["rx_packets"] == before


def test_a_packet_that_is_too_long_is_answered_by_the_kernel() -> None:
    with two_gateways(Kind(), Kind()) as (sites, _, _b), pytest.raises(subprocess.CalledProcessError) as error:
        sites.a.host.check_output(["ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1450", HOST_B[0]])
    assert "Frag needed" in error.value.output


# ---- what they leave to the kernel ----


def test_neighbours_ike_and_what_is_for_the_gateway_itself_go_on_as_ever() -> None:
    with two_gateways(Kind(), Kind()) as (sites, a, b):
        taken = a.stats()["outbound"]["rx_packets"]
        for namespace in (sites.a.host, sites.a.gateway, sites.b.gateway):
            namespace.check_output(["ip", "neigh", "flush", "all"])
        for address in sites.a.addresses.inner:
            ping(sites.a.host, address)
        for address in sites.a.addresses.outer:
            ping(sites.b.gateway, address)
        listener = sites.a.gateway.run(socket.create_server, (sites.a.addresses.inner[0], 22))
        with listener, sites.a.host.run(socket.create_connection, (sites.a.addresses.inner[0], 22), 2.0):
            listener.accept()[0].close()
        with udp_socket(sites.b.gateway, "0.0.0.0") as sender:
            sender.sendto(NON_ESP_MARKER + b"an IKE message", (sites.a.addresses.outer[0], 4500))
            sender.sendto(b"\xff", (sites.a.addresses.outer[0], 4500))
            event = next_ike(a)
        assert event.data == b"an IKE message"
        assert a.stats()["outbound"]["rx_packets"] - taken <= 4  # what TUN brings is the kernel's own
        only_expected_drops(b)


def next_ike(gateway: RingGateway) -> IkeDatagram:
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        for event in gateway.plane.events():
            if isinstance(event, IkeDatagram):
                return event
        time.sleep(0.01)
    raise AssertionError("the IKE message did not come")


def test_a_prefix_can_be_left_to_the_kernel_and_taken_again() -> None:
    with two_gateways(Kind(), Kind()) as (sites, a, _):
        assert a.inner is not None
        before = snmp(sites.a.gateway)["Ip.ForwDatagrams"]
        a.inner.take(ip_network(f"{HOST_B[0]}/32"), 0)
        ping(sites.a.host, HOST_B[0])  # through TUN
        passed = snmp(sites.a.gateway)["Ip.ForwDatagrams"]
        assert passed >= before + 3
        a.inner.leave(ip_network(f"{HOST_B[0]}/32"))
        ping(sites.a.host, HOST_B[0])
        assert snmp(sites.a.gateway)["Ip.ForwDatagrams"] == passed


# ---- bad times ----


@contextmanager
def veth_end(**attributes: Any) -> Iterator[tuple[Namespace, Namespace]]:
    """A namespace with the link `here`, and that of its other end, `there`."""
    near, far = Namespace("near"), Namespace("far")
    try:
        join(near, "here", far, "there")
        if attributes:
            far.set_link("there", **attributes)
            near.set_link("here", **attributes)
        yield near, far
    finally:
        near.close()
        far.close()


def test_what_the_rings_could_not_hold_is_counted() -> None:
    """No worker runs while 6,000 packets come to a ring of 4,096."""
    count = 6000
    with veth_end() as (near, far):
        (port,) = near.run(XdpPort.group, "here", 1, outer=False)
        other, _kept = MemoryPort.pair()
        plane = DataPlane()
        worker = plane.add_worker("w", port, [other], outbound=True, inbound=False)
        port.set_address(bytes.fromhex(near.mac("here").replace(":", "")))
        port.take(ip_network("10.9.0.0/16"), 1400)
        near.add_address("here", "10.8.0.1/24")
        far.add_address("there", "10.8.0.2/24")
        far.add_route("10.9.0.0/16", "10.8.0.1")
        with udp_socket(far, "10.8.0.2") as sender:
            for _ in range(count):
                sender.sendto(b"x" * 64, ("10.9.0.1", 9))
                time.sleep(0)
        time.sleep(0.2)
        while worker.step():
            pass
        stats = plane.worker_stats()[0]
        plane.close()
        port.close()
        other.close()
    assert stats["drops"]["rx-overflow"] == count - 4096
    assert stats["outbound"]["rx_packets"] == count
    assert stats["drops"]["no-policy"] == 4096


def test_an_interface_that_goes_down_comes_back() -> None:
    with two_gateways(Kind(), Kind(ring=True)) as (sites, a, b):
        exchange_udp(sites, count=10)
        for site in (sites.a, sites.b):
            site.gateway.set_link("outer", state="down")
        with udp_socket(sites.a.host, sites.a.addresses.host[0]) as sender:
            for _ in range(5):
                sender.sendto(b"lost", (HOST_B[0], 7000))
        time.sleep(0.1)
        assert a.stats()["drops"].get("port-error", 0) == 5
        for site in (sites.a, sites.b):
            site.gateway.set_link("outer", state="up")
        sites.a.gateway.run(time.sleep, 0.1)
        with (
            udp_socket(sites.a.host, sites.a.addresses.host[0]) as one,
            udp_socket(sites.b.host, HOST_B[0], 7000) as other,
        ):
            one.sendto(b"there again", (HOST_B[0], 7000))
            data, sender = other.recvfrom(100)
            other.sendto(data, sender)
            assert one.recv(100) == b"there again"
        check_conserved(a)
        check_conserved(b)


def test_an_interface_that_vanishes_ends_its_worker_with_a_word() -> None:
    """The kernel wakes nobody for it; the worker learns it when it looks."""
    with veth_end() as (near, _far):
        (port,) = near.run(XdpPort.group, "here", 1, outer=False)
        other, _kept = MemoryPort.pair()
        plane = DataPlane()
        worker = plane.add_worker("w", port, [other], outbound=True, inbound=False)
        near.check_output(["ip", "link", "delete", "here"])
        with pytest.raises(DataPlaneError, match=os.strerror(errno.ENETDOWN)):
            worker.step()
        plane.close()
        port.close()
        other.close()


def test_programs_go_with_the_ports() -> None:
    with two_gateways(Kind(), Kind()) as (sites, a, _):
        assert attached(sites.a.gateway, "outer")
        assert attached(sites.a.gateway, "inner")
        a.close()
        assert not attached(sites.a.gateway, "outer")
        assert not attached(sites.a.gateway, "inner")
        ping(sites.b.gateway, sites.a.addresses.outer[0])


KILLED = """
import sys, time
from ipaddress import ip_network
from ipsecfast.dataplane import XdpPort
(port,) = XdpPort.group("here", 1, outer=True)
port.set_address(bytes.fromhex(sys.argv[1].replace(":", "")))
port.take(ip_network("10.8.0.1/32"))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_process_leaves_no_program_behind() -> None:
    with veth_end() as (near, far):
        near.add_address("here", "10.8.0.1/24")
        far.add_address("there", "10.8.0.2/24")
        command = [sys.executable, "-c", KILLED, near.mac("here")]
        path = str(FilePath(__file__).parents[2])
        process = near.start(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert attached(near, "here")
        process.send_signal(signal.SIGKILL)
        process.wait(5.0)
        until = time.monotonic() + 2.0
        while attached(near, "here") and time.monotonic() < until:
            time.sleep(0.01)
        assert not attached(near, "here")
        ping(far, "10.8.0.1")


def test_there_are_no_more_ports_than_queues() -> None:
    with veth_end() as (near, _):
        ports = near.run(XdpPort.group, "here", 4, outer=True)  # it has one queue
        assert [port.name for port in ports] == ["xdp:here/0"]
        ports[0].close()


def test_what_can_not_be_had_is_refused_with_its_reason() -> None:
    with veth_end() as (near, _):
        assert not attached(near, "here")
        ports = near.run(XdpPort.group, "here", 1, outer=True)
        with pytest.raises(DataPlaneError, match=os.strerror(errno.EBUSY)):
            near.run(XdpPort.group, "here", 1, outer=False)
        ports[0].close()
        near.run(XdpPort.group, "here", 1, outer=False)[0].close()
        with pytest.raises(DataPlaneError, match=os.strerror(errno.ENODEV)):
            near.run(XdpPort.group, "nowhere", 1, outer=False)
    with veth_end(mtu=3700) as (near, _), pytest.raises(DataPlaneError, match=os.strerror(errno.EMSGSIZE)):
        near.run(XdpPort.group, "here", 1, outer=True)
