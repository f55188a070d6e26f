"""ipsecfast on both ends: every kind of tunnel, rekeys under traffic, and what goes wrong in the field.

host A            gateway A                    gateway B            host B
10.1.0.2/24 ----- 10.1.0.1   192.0.2.1 ======= 192.0.2.2   10.2.0.1 ----- 10.2.0.2/24
fd00:a::2/64      fd00:a::1  fd00:2::1/64      fd00:2::2   fd00:b::1      fd00:b::2/64
"""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from conftest import StartGateway

from ipsecfast.lab.netns import A, B, Namespace, TwoSites
from ipsecfast.lab.testbed import (
    GatewayProcess,
    NumberedFlow,
    SteadyPing,
    Stream,
    TestbedError,
    tunnel_config,
    wait_for,
)
from ipsecfast.lab.traffic import ping

VERSIONS = {4: 0, 6: 1}
FLOW_RATE = 20_000  # packets a second: what two cores carry beside everything else of a test run
ESN = ["aes128gcm16-esn"]
PFS = ["aes128gcm16-x25519"]


class Pair:
    """Gateways A and B with the same settings, mirrored."""

    def __init__(self, sites: TwoSites, start: StartGateway, **options: Any) -> None:
        self.sites = sites
        self.a = start(sites.a.gateway, tunnel_config(A, B, **options))
        self.b = start(sites.b.gateway, tunnel_config(B, A, **options))

    def up(self) -> Pair:
        self.a.command("initiate", "net")
        for gateway in (self.a, self.b):
            wait_for("the Child SA is there", gateway.child)
        return self

    def ping(self, version: int = 4, count: int = 3, **options: Any) -> list[float | None]:
        return self.sites.a.host.run(ping, B.host[VERSIONS[version]], count, 0.05, **options)

    def both(self) -> tuple[GatewayProcess, GatewayProcess]:
        return self.a, self.b


@pytest.mark.parametrize("encap", [False, True], ids=["bare-esp", "esp-in-udp"])
@pytest.mark.parametrize("outer", [4, 6], ids=["outer-v4", "outer-v6"])
def test_tunnel_carries_both_families(sites: TwoSites, start_gateway: StartGateway, outer: int, encap: bool) -> None:
    pair = Pair(sites, start_gateway, outer=outer, inner=(4, 6), connection={"encap": encap}).up()
    for version in (4, 6):
        assert None not in pair.ping(version)
    for gateway in pair.both():
        child = gateway.child()
        assert child is not None
        assert child.udp_encap is encap
        assert child.packets == 12
        assert gateway.status()["drops"] == {}  # and nothing of the device's own: no MLD, no router solicitation


def test_extended_sequence_numbers(sites: TwoSites, start_gateway: StartGateway) -> None:
    pair = Pair(sites, start_gateway, child={"esp_proposals": ESN}).up()
    assert None not in pair.ping()
    assert all(gateway.expect_child().esn for gateway in pair.both())


def test_trap_keeps_the_first_packet(sites: TwoSites, start_gateway: StartGateway) -> None:
    pair = Pair(sites, start_gateway, child={"start_action": "trap"})
    assert pair.a.child() is None
    assert None not in pair.ping(count=1, timeout=5.0)
    assert pair.a.expect_child().packets >= 2


def test_transport_mode(sites: TwoSites, start_gateway: StartGateway) -> None:
    transport = {"mode": "transport", "local_ts": ["dynamic"], "remote_ts": ["dynamic"]}
    pair = Pair(sites, start_gateway, child=transport).up()
    before = pair.b.expect_child().packets
    assert None not in sites.a.gateway.run(ping, B.outer[0], 3, 0.05)
    assert pair.b.expect_child().packets >= before + 6


@pytest.mark.parametrize("side", ["initiator", "responder"])
@pytest.mark.parametrize(("what", "proposals"), [("child", ["aes128gcm16"]), ("child-pfs", PFS), ("ike", PFS)])
def test_rekey_loses_nothing(
    sites: TwoSites, start_gateway: StartGateway, what: str, proposals: list[str], side: str
) -> None:
    pair = Pair(sites, start_gateway, child={"esp_proposals": proposals}).up()
    by = pair.a if side == "initiator" else pair.b
    flow = NumberedFlow(sites.a.host, sites.b.host, B.host[0], rate=FLOW_RATE)
    back = NumberedFlow(sites.b.host, sites.a.host, A.host[0], rate=FLOW_RATE // 4)
    for _ in range(3):
        rekey(by, what)
    time.sleep(0.5)
    results = [flow.finish(), back.finish()]
    assert [(result.lost, result.duplicates) for result in results] == [(0, 0), (0, 0)], results


def rekey(gateway: GatewayProcess, what: str) -> None:
    """Rekeys the Child SA or the IKE SA and waits until the new one is in place and the old one gone."""
    before = gateway.expect_child()
    if what == "ike":
        gateway.command("rekey", "net")
        wait_for("a new IKE SA", lambda: gateway.expect_child().ike_spi != before.ike_spi)
    else:
        gateway.command("rekey", "net", "net")
        wait_for("a new Child SA", lambda: gateway.expect_child().spi_in != before.spi_in)
    wait_for("one IKE SA with one Child SA", lambda: gateway.counts() == (1, 1))


def test_tcp_does_not_stall(sites: TwoSites, start_gateway: StartGateway) -> None:
    pair = Pair(sites, start_gateway).up()
    stream = Stream(sites.a.host, sites.b.host, B.host[0])
    for what in ("child", "ike"):
        rekey(pair.a, what)
        rekey(pair.b, what)
    time.sleep(1.0)
    intervals = stream.finish()
    assert len(intervals) >= 2
    assert min(intervals) > 0, intervals


@pytest.mark.parametrize("version", [4, 6])
def test_path_mtu_is_told_to_the_host(sites: TwoSites, start_gateway: StartGateway, version: int) -> None:
    pair = Pair(sites, start_gateway, inner=(4, 6)).up()
    mtu = sites.a.host.run(learn_mtu, B.host[VERSIONS[version]])
    assert 1280 <= mtu < 1500
    assert sites.b.host.run(learn_mtu, A.host[VERSIONS[version]]) == mtu
    headers = 28 if version == 4 else 48
    assert None not in pair.ping(version, size=mtu - headers)  # exactly what fits
    assert None not in pair.ping(version, size=3000)  # more than one packet: fragments of the host


IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU, IPV6_MTU = 10, 2, 14, 24


def learn_mtu(address: str) -> int:
    """Sends 1,500-byte packets that may not be fragmented until the kernel has learned the MTU of the path."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    headers = 28 if family == socket.AF_INET else 48
    level, option = (socket.IPPROTO_IP, IP_MTU) if family == socket.AF_INET else (socket.IPPROTO_IPV6, IPV6_MTU)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.connect((address, 9))

        def smaller_mtu() -> int:
            with suppress(OSError):  # EMSGSIZE: it was told
                sock.send(bytes(1500 - headers))
            mtu = sock.getsockopt(level, option)
            return mtu if mtu < 1500 else 0

        return wait_for("an ICMP error that names the MTU", smaller_mtu, seconds=3.0)


@pytest.mark.parametrize("side", ["initiator", "responder"])
def test_terminate_ends_both_ends(sites: TwoSites, start_gateway: StartGateway, side: str) -> None:
    pair = Pair(sites, start_gateway).up()
    by = pair.a if side == "initiator" else pair.b
    by.command("terminate", "net")
    for gateway in pair.both():
        wait_for("no SA is left", lambda gateway=gateway: gateway.counts() == (0, 0))
    assert pair.ping(count=1, timeout=0.3) == [None]
    pair.a.command("initiate", "net")
    assert None not in pair.ping(count=3)


def test_sigterm_leaves_nothing(sites: TwoSites, start_gateway: StartGateway) -> None:
    before = network_state(sites.a.gateway)
    pair = Pair(sites, start_gateway, inner=(4, 6)).up()
    assert network_state(sites.a.gateway) != before
    assert pair.a.close() == 0
    assert network_state(sites.a.gateway) == before
    assert not pair.a.control.exists()
    wait_for("the other end was told", lambda: pair.b.counts() == (0, 0))


def network_state(place: Namespace) -> str:
    commands = ("link", "rule", "-6 rule", "route show table all", "-6 route show table all")
    return "\n".join(place.check_output(["ip", "-o", *command.split()]) for command in commands)


def test_a_killed_gateway_comes_back(sites: TwoSites, start_gateway: StartGateway) -> None:
    pair = Pair(sites, start_gateway).up()
    pair.a.process.send_signal(signal.SIGKILL)
    pair.a.process.wait()
    again = start_gateway(sites.a.gateway, tunnel_config(A, B))
    again.command("initiate", "net")
    assert None not in pair.ping()
    wait_for("INITIAL_CONTACT replaced the old SAs", lambda: pair.b.counts() == (1, 1))


def test_a_dead_peer_is_noticed(sites: TwoSites, start_gateway: StartGateway) -> None:
    pair = Pair(sites, start_gateway, connection={"dpd_delay": "1s"}).up()
    pair.b.process.send_signal(signal.SIGKILL)
    pair.b.process.wait()
    wait_for("a liveness check is repeated", lambda: pair.a.status()["ike"].get("retransmissions"), seconds=15)
    again = start_gateway(sites.b.gateway, tunnel_config(B, A))
    again.command("initiate", "net")
    assert None not in pair.ping()
    wait_for("INITIAL_CONTACT replaced the old SAs", lambda: pair.a.counts() == (1, 1))


FITTING = {"connection": {"proposals": ["aes128gcm16-prfsha256-x25519"]}, "child": {"esp_proposals": ["aes128gcm16"]}}
# A key of the initiator's configuration, a value that does not fit, and what each of the two logs says of it.
WRONG: Mapping[str, tuple[str, Any, str, str]] = {
    "secret": ("secrets.net.secret", "another one", "AUTHENTICATION_FAILED", "AUTHENTICATION_FAILED"),
    "identity": ("connections.net.local.id", "who.test", "AUTHENTICATION_FAILED", "AUTHENTICATION_FAILED"),
    "ike-proposals": (
        "connections.net.proposals", ["aes256gcm16-prfsha384-ecp384"],
        "accepts none of our IKE proposals", "NO_PROPOSAL_CHOSEN.*aes256gcm16",
    ),
    "esp-proposals": (
        "connections.net.children.net.esp_proposals", ["aes256gcm16"],
        "NO_PROPOSAL_CHOSEN", "NO_PROPOSAL_CHOSEN.*aes256gcm16",
    ),
    "selectors": (
        "connections.net.children.net.local_ts", ["10.77.0.0/24"],
        "TS_UNACCEPTABLE", "TS_UNACCEPTABLE.*10.77.0.0/24",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_what_does_not_fit_is_named(sites: TwoSites, start_gateway: StartGateway, mistake: str) -> None:
    key, value, initiator_says, responder_says = WRONG[mistake]
    config = tunnel_config(A, B, **FITTING)
    *tables, last = key.split(".")
    table = config
    for name in tables:
        table = table[name]
    table[last] = value
    a = start_gateway(sites.a.gateway, config)
    b = start_gateway(sites.b.gateway, tunnel_config(B, A, **FITTING))
    with pytest.raises(TestbedError, match=initiator_says):
        a.command("initiate", "net")
    for gateway, says in ((a, initiator_says), (b, responder_says)):
        wait_for(f"the log says {says}", lambda gateway=gateway, says=says: re.search(says, gateway.log_text()))
        assert gateway.child() is None


def test_garbage_does_not_disturb(sites: TwoSites, start_gateway: StartGateway) -> None:
    pair = Pair(sites, start_gateway).up()
    sites.a.gateway.run(send_garbage, B.outer[0])
    assert None not in pair.ping()
    assert pair.b.process.poll() is None


def send_garbage(address: str) -> None:
    """Short, empty and senseless datagrams to both ports, and ESP of an unknown SPI."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for port in (500, 4500):
            for data in (b"", b"\xff", b"\0" * 4, b"\0" * 28, b"\xff" * 64, bytes(range(256)) * 5, b"\0" * 1400):
                sock.sendto(data, (address, port))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 50) as raw:
        for data in (b"\x01", b"\x01" * 8, b"\x02" * 100, b"\xfe" * 1400):
            raw.sendto(data, (address, 0))


def test_pings_survive_every_rekey(sites: TwoSites, start_gateway: StartGateway) -> None:
    pair = Pair(sites, start_gateway).up()
    pings = SteadyPing(sites.a.host, B.host[0])
    for gateway in pair.both():
        for what in ("child", "ike"):
            rekey(gateway, what)
    assert pings.finish() == 0
