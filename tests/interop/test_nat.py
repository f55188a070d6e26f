"""A real NAT in the path (RFC 7296 s2.23): detection, ESP in UDP, rekeys from both ends, and a mapping that changes.

host A --- gateway A             NAT                      gateway B --- host B
10.1.0.2   172.31.0.2 --- 172.31.0.1  192.0.2.1, .7 === 192.0.2.2       10.2.0.2
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest
from conftest import StartGateway
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from ipsecfast.lab.netns import A, B, Namespace, Site, join
from ipsecfast.lab.testbed import GatewayProcess, NumberedFlow, Stream, tunnel_config, wait_for
from ipsecfast.lab.traffic import ping

PRIVATE = "172.31.0.2"
FIRST, SECOND = "192.0.2.1:10000-19999", "192.0.2.7:20000-29999"


class Nat(Namespace):
    """A router whose way to gateway B rewrites the source of UDP."""

    def map_to(self, source: str) -> None:
        """Every flow gets a new mapping, as after a restart of the router."""
        rule = f'add rule ip nat out oifname "outside" meta l4proto udp snat to {source}'
        self.check_output(["nft", f"flush table ip nat; {rule}"])
        self.run(forget_flows)


def forget_flows() -> None:
    with NFCTSocket() as conntrack:
        conntrack.flush()


class NattedSites:
    def __init__(self) -> None:
        self.a, self.b, self.nat = Site(A), Site(B), Nat("nat")
        join(self.a.gateway, "outer", self.nat, "inside")
        join(self.nat, "outside", self.b.gateway, "outer")
        for place, link, address in (
            (self.a.gateway, "outer", f"{PRIVATE}/24"),
            (self.nat, "inside", "172.31.0.1/24"),
            (self.nat, "outside", "192.0.2.1/24"),
            (self.nat, "outside", "192.0.2.7/24"),
            (self.b.gateway, "outer", f"{B.outer[0]}/24"),
        ):
            place.add_address(link, address)
        self.a.gateway.add_route("0.0.0.0/0", "172.31.0.1")
        self.nat.sysctl(net__ipv4__ip_forward=1)
        chain = "{ type nat hook postrouting priority srcnat; }"
        self.nat.check_output(["nft", f"add table ip nat; add chain ip nat out {chain}"])
        self.nat.map_to(FIRST)

    def close(self) -> None:
        for part in (self.a, self.b, self.nat):
            part.close()


@pytest.fixture
def natted(namespaces: None) -> Iterator[NattedSites]:
    if shutil.which("nft") is None:
        pytest.skip("there is no nft: the package nftables is not installed")
    sites = NattedSites()
    yield sites
    sites.close()


def start_both(natted: NattedSites, start: StartGateway) -> tuple[GatewayProcess, GatewayProcess]:
    b = start(natted.b.gateway, tunnel_config(B, A, connection={"remote_addrs": "%any"}))
    a = start(natted.a.gateway, tunnel_config(A, B, connection={"local_addrs": "%any"}))
    a.command("initiate", "net")
    wait_for("the Child SA is there", b.child)
    return a, b


def paths(gateway: GatewayProcess) -> str:
    return str(gateway.status()["connections"][0]["ike_sas"])


def test_esp_goes_through_a_nat_and_follows_it(natted: NattedSites, start_gateway: StartGateway) -> None:
    a, b = start_both(natted, start_gateway)
    assert a.expect_child().udp_encap
    assert b.expect_child().udp_encap
    assert None not in natted.a.host.run(ping, B.host[0], 3, 0.05)

    natted.nat.map_to(SECOND)
    natted.a.host.run(ping, B.host[0], 1, 0.05)  # what A sends shows B where it is now
    wait_for("B has followed", lambda: "192.0.2.7" in paths(b))
    assert None not in natted.a.host.run(ping, B.host[0], 3, 0.05)
    assert None not in natted.b.host.run(ping, A.host[0], 3, 0.05)


def test_rekeys_from_both_ends_of_a_nat_lose_nothing(natted: NattedSites, start_gateway: StartGateway) -> None:
    gateways = start_both(natted, start_gateway)
    flow = NumberedFlow(natted.a.host, natted.b.host, B.host[0], rate=5000)
    for gateway in gateways:
        for target in (("net", "net"), ("net",)):
            gateway.command("rekey", *target)
            wait_for("one IKE SA with one Child SA", lambda gateway=gateway: gateway.counts() == (1, 1))
    result = flow.finish()
    assert (result.lost, result.duplicates) == (0, 0), result


def test_transport_mode_through_a_nat(natted: NattedSites, start_gateway: StartGateway) -> None:
    """s2.23.1: each end has the addresses that it sees; RFC 3948 s3.1.2: TCP checksums are right again."""
    child = {"mode": "transport", "local_ts": "dynamic", "remote_ts": "dynamic"}
    b = start_gateway(natted.b.gateway, tunnel_config(B, A, connection={"remote_addrs": "%any"}, child=child))
    a = start_gateway(natted.a.gateway, tunnel_config(A, B, connection={"local_addrs": "%any"}, child=child))
    a.command("initiate", "net")
    wait_for("the Child SA is there", b.child)
    stream = Stream(natted.a.gateway, natted.b.gateway, B.outer[0], port=7500)
    for gateway in (a, b):
        gateway.command("rekey", "net", "net")
        wait_for("one Child SA", lambda gateway=gateway: gateway.counts() == (1, 1))
    time.sleep(1.0)
    assert sum(stream.finish()[-3:]) > 0
    assert None not in natted.b.gateway.run(ping, "192.0.2.1", 3, 0.05)
    assert not a.status()["drops"]
    assert not b.status()["drops"]
