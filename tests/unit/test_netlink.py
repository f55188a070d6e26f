"""Links, rules and routes against a real kernel, in a network namespace that vanishes with the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pyroute2
import pytest

from ipsecfast.config.values import fixed_selector
from ipsecfast.errors import NetlinkError
from ipsecfast.lab.netns import Namespace
from ipsecfast.model import Policy, PolicyAction
from ipsecfast.netlink import OUR_PROTOCOL, TX_QUEUE_LENGTH, Netlink, Route, TunNetwork

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and links need root")

MARK = 0x1234
TABLE = 220
DEVICE = "tun-test"
V4, V6 = ip_network("10.2.0.0/16"), ip_network("2001:db8:2::/48")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    namespace = Namespace("netlink")
    namespace.run(make_tun, DEVICE)
    yield namespace
    namespace.close()


@pytest.fixture
def netlink(namespace: Namespace) -> Iterator[Netlink]:
    netlink = namespace.run(Netlink)
    yield netlink
    netlink.close()


@pytest.fixture
def network(namespace: Namespace, netlink: Netlink) -> TunNetwork:
    namespace.sysctl(net__ipv6__conf__default__disable_ipv6=0)
    network = TunNetwork(netlink, device=DEVICE, table=TABLE, mark=MARK)
    namespace.run(network.bring_up, 1390)
    return network


def make_tun(name: str) -> None:
    with pyroute2.IPRoute() as kernel:
        kernel.link("add", ifname=name, kind="tuntap", mode="tun")


def output(namespace: Namespace, *command: str) -> list[str]:
    return [" ".join(line.split()) for line in namespace.check_output(["ip", *command]).splitlines()]


def our_rules(namespace: Namespace, version: str = "-4") -> list[str]:
    """A machine without /etc/protocols has numbers for the protocols' names."""
    rules = [line for line in output(namespace, version, "rule") if line.startswith(f"{TABLE}:")]
    return [rule.replace("ipproto-6 ", "tcp ").replace("ipproto-17 ", "udp ") for rule in rules]


def our_routes(namespace: Namespace, version: str = "-4") -> list[str]:
    """Nobody has opened the TUN device, so the kernel sees no carrier."""
    routes = output(namespace, version, "route", "show", "table", str(TABLE))
    return [route.replace(" linkdown", "") for route in routes]


def test_the_device_is_up_with_mtu_and_a_long_queue(namespace: Namespace, network: TunNetwork) -> None:
    (first, *_) = output(namespace, "link", "show", DEVICE)
    assert "mtu 1390 " in first
    assert f"qlen {TX_QUEUE_LENGTH}" in first
    assert ",UP" in first
    assert not any("inet6" in line for line in output(namespace, "address", "show", DEVICE))


def test_a_router_sends_no_multicast_into_the_device(namespace: Namespace, netlink: Netlink) -> None:
    namespace.sysctl(net__ipv6__conf__all__forwarding=1, net__ipv6__conf__default__disable_ipv6=0)
    namespace.check_output(["ip", "link", "delete", DEVICE])
    namespace.run(make_tun, DEVICE)
    namespace.run(TunNetwork(netlink, device=DEVICE, table=TABLE, mark=MARK).bring_up, 1390)
    groups = " ".join(output(namespace, "-6", "maddress", "show", "dev", DEVICE))
    assert "ff02::1" in groups.split()
    assert "ff02::2" not in groups.split()
    assert "MULTICAST" not in output(namespace, "link", "show", DEVICE)[0]
    assert namespace.check_output(["cat", f"/proc/sys/net/ipv6/conf/{DEVICE}/forwarding"]) == "1\n"


def test_sysctls_that_can_not_be_set_are_told_and_the_device_works(
    namespace: Namespace, netlink: Netlink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipsecfast.netlink.sysctl_path", lambda tree, device, key: tmp_path)  # a folder: not writable
    sentences = TunNetwork(netlink, device=DEVICE, table=TABLE, mark=MARK).bring_up(1390)
    assert len(sentences) == 4
    assert all("could not be set to" in sentence for sentence in sentences)
    assert ",UP" in output(namespace, "link", "show", DEVICE)[0]


def test_a_device_that_is_not_there(netlink: Netlink) -> None:
    with pytest.raises(NetlinkError, match="nowhere has vanished"):
        TunNetwork(netlink, device="nowhere", table=TABLE, mark=MARK).bring_up(1400)


def test_the_kernels_reason_is_told(network: TunNetwork) -> None:
    with pytest.raises(NetlinkError, match="can't take tun-test up with MTU 100000: Invalid argument"):
        network.bring_up(100000)


def test_rules_lead_all_but_our_own_packets_to_the_table(namespace: Namespace, network: TunNetwork) -> None:
    network.add_rules((), {4, 6})
    rule = f"{TABLE}: not from all fwmark {MARK:#x} lookup {TABLE} proto {OUR_PROTOCOL}"
    assert our_rules(namespace) == [rule]
    assert our_rules(namespace, "-6") == [rule]


def test_explicit_policies_become_rules_before_it(namespace: Namespace, network: TunNetwork) -> None:
    policies = [
        Policy(fixed_selector("10.1.0.0/24[tcp/22]"), fixed_selector("0.0.0.0/0"), PolicyAction.BYPASS),
        Policy(fixed_selector("0.0.0.0/0"), fixed_selector("10.9.0.0-10.9.1.127"), PolicyAction.DISCARD),
        Policy(fixed_selector("0.0.0.0/0"), fixed_selector("10.8.0.0/16[icmp/8]"), PolicyAction.DISCARD),
        Policy(fixed_selector("::/0"), fixed_selector("2001:db8::/32[udp/53-60]"), PolicyAction.BYPASS),
    ]
    network.add_rules(policies, {4, 6})
    proto = f"proto {OUR_PROTOCOL}"
    assert our_rules(namespace)[:-1] == [
        f"{TABLE}: from 10.1.0.0/24 ipproto tcp sport 22 lookup main {proto}",
        f"{TABLE}: from all to 10.9.0.0/24 blackhole {proto}",
        f"{TABLE}: from all to 10.9.1.0/25 blackhole {proto}",
    ]
    assert our_rules(namespace, "-6")[:-1] == [
        f"{TABLE}: from all to 2001:db8::/32 ipproto udp dport 53-60 lookup main {proto}"
    ]


def test_routes_follow_what_is_wanted(namespace: Namespace, network: TunNetwork) -> None:
    namespace.add_address("lo", "10.1.0.1/32")
    source = ip_address("10.1.0.1")
    network.set_routes({Route(V4, source), Route(ip_network("10.2.5.0/24"), throw=True), Route(V6)})
    assert our_routes(namespace) == [
        f"10.2.0.0/16 dev {DEVICE} proto {OUR_PROTOCOL} scope link src 10.1.0.1",
        f"throw 10.2.5.0/24 proto {OUR_PROTOCOL}",
    ]
    assert our_routes(namespace, "-6") == [f"{V6} dev {DEVICE} proto {OUR_PROTOCOL} metric 1024 pref medium"]
    network.set_routes({Route(V4), Route(ip_network("0.0.0.0/0"))})
    assert our_routes(namespace) == [
        f"default dev {DEVICE} proto {OUR_PROTOCOL} scope link",
        f"10.2.0.0/16 dev {DEVICE} proto {OUR_PROTOCOL} scope link",
    ]
    assert our_routes(namespace, "-6") == []


def test_close_takes_everything_down(namespace: Namespace, network: TunNetwork) -> None:
    before = output(namespace, "rule"), output(namespace, "-6", "rule")
    network.add_rules([Policy(fixed_selector("10.7.0.0/16"), fixed_selector("0.0.0.0/0"), PolicyAction.BYPASS)], {4, 6})
    network.set_routes({Route(V4), Route(V6), Route(ip_network("10.2.5.0/24"), throw=True)})
    assert network.close() == []
    assert (output(namespace, "rule"), output(namespace, "-6", "rule")) == before
    assert our_routes(namespace) + our_routes(namespace, "-6") == []


def test_close_goes_on_after_a_failure_and_tells_it(namespace: Namespace, network: TunNetwork) -> None:
    network.add_rules((), {4, 6})
    network.set_routes({Route(V4), Route(V6)})
    namespace.check_output(["ip", "rule", "del", "priority", str(TABLE)])
    (failure,) = network.close()
    assert "can't remove a rule of table 220" in str(failure)
    assert our_routes(namespace) + our_routes(namespace, "-6") + our_rules(namespace, "-6") == []


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else(namespace: Namespace, network: TunNetwork) -> None:
    policies = [
        Policy(fixed_selector("10.1.0.0/24[tcp/22]"), fixed_selector("0.0.0.0/0"), PolicyAction.BYPASS),
        Policy(fixed_selector("0.0.0.0/0"), fixed_selector("10.9.0.0/16"), PolicyAction.DISCARD),
    ]
    network.add_rules(policies, {4, 6})
    network.set_routes({Route(V4), Route(ip_network("10.2.5.0/24"), throw=True), Route(V6)})
    namespace.check_output(["ip", "rule", "add", "priority", str(TABLE), "to", "10.77.0.0/16", "lookup", "main"])
    assert network.other_user() is None
    assert TunNetwork(network.netlink, device=DEVICE, table=TABLE, mark=MARK).remove_leftovers() == 7
    assert our_rules(namespace) == [f"{TABLE}: from all to 10.77.0.0/16 lookup main"]
    assert our_routes(namespace) + our_routes(namespace, "-6") + our_rules(namespace, "-6") == []


def test_another_gateways_table_is_noticed(network: TunNetwork) -> None:
    network.set_routes({Route(V4)})
    assert TunNetwork(network.netlink, device="ipsec9", table=TABLE, mark=MARK).other_user() == DEVICE


def test_paths_to_peers(namespace: Namespace, network: TunNetwork) -> None:
    namespace.run(make_tun, "outer")
    namespace.set_link("outer", mtu=1480, state="up")
    namespace.add_address("outer", "192.0.2.1/24")
    network.add_rules((), {4})
    network.set_routes({Route(ip_network("0.0.0.0/0"))})
    path = network.netlink.path_to(ip_address("192.0.2.2"), MARK)
    assert path is not None
    assert (path.source, path.mtu, path.device) == (ip_address("192.0.2.1"), 1480, "outer")
    assert network.netlink.path_to(ip_address("198.51.100.1"), MARK) is None


def test_addresses_and_links(namespace: Namespace, netlink: Netlink) -> None:
    namespace.add_address("lo", "10.1.0.1/32")
    assert {ip_address("127.0.0.1"), ip_address("::1"), ip_address("10.1.0.1")} <= set(netlink.addresses())
    assert netlink.link_names()[netlink.link_index(DEVICE) or 0] == DEVICE
    assert netlink.link_index("nowhere") is None
