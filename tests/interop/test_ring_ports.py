"""Ring ports: what a tunnel carries goes past the kernel's stack, and all else goes on as ever.

host A            gateway A                    gateway B            host B
10.1.0.2/24 ----- inner  outer =============== outer  inner ------- 10.2.0.2/24
                  the names of the devices; addresses as in lab/netns.py
"""

from __future__ import annotations

import errno
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import StartGateway

from ipsecfast.lab.netns import A, B, Namespace, TwoSites
from ipsecfast.lab.testbed import NumberedFlow, Stream, tunnel_config, wait_for
from ipsecfast.lab.traffic import ping

KINDS = ("packet", "xdp")
RATE = 5_000  # packets a second: it is shown where they go, not how fast
VERSIONS = {4: 0, 6: 1}
PORTS = count(7100)  # a listener keeps its own until the topology goes
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU = 10, 2, 14


def rings(kind: str, *, outer: bool = True, inner: bool = True) -> dict[str, str]:
    return {key: f"{kind}:{key}" for key, wanted in (("outer", outer), ("inner", inner)) if wanted}


class Ends:
    """Both gateways with a tunnel between them; the second may have other ports."""

    def __init__(
        self,
        sites: TwoSites,
        start: StartGateway,
        ports: Mapping[str, str],
        other: Mapping[str, str] | None = None,
        policies: list[dict[str, str]] | None = None,
        **options: Any,
    ) -> None:
        self.sites = sites
        second = ports if other is None else other
        self.a = start(sites.a.gateway, _with(tunnel_config(A, B, **options), ports, policies))
        self.b = start(sites.b.gateway, _with(tunnel_config(B, A, **options), second, None))
        self.a.command("initiate", "net")
        for gateway in (self.a, self.b):
            wait_for("the Child SA is there", gateway.child)
        self.warm(options.get("inner", (4,)))

    def warm(self, versions: tuple[int, ...] = (4,)) -> None:
        """Until all neighbours are known and nothing passes the TUN devices any more."""
        for version in versions:

            def past_the_devices(version: int = version) -> bool:
                before = self.through_devices()
                answered = None not in self.ping(version, 1)
                return answered and self.through_devices() == before

            wait_for(f"IPv{version} goes past the TUN devices", past_the_devices)

    def ping(self, version: int = 4, times: int = 3, **options: Any) -> list[float | None]:
        return self.sites.a.host.run(ping, B.host[VERSIONS[version]], times, 0.05, **options)

    def through_devices(self) -> list[int]:
        """Packets that the gateways with an inner ring port had on their TUN devices."""
        places = ((self.sites.a.gateway, self.a), (self.sites.b.gateway, self.b))
        return [place.run(device_packets, "ipsec0") for place, gateway in places if "inner" in gateway.file.read_text()]

    def drops(self) -> dict[str, int]:
        return {**self.a.status()["drops"], **self.b.status()["drops"]}


def _with(config: dict[str, Any], ports: Mapping[str, str], policies: list[dict[str, str]] | None) -> dict[str, Any]:
    return {**config, "gateway": dict(ports)} | ({"policies": policies} if policies else {})


def device_packets(device: str) -> int:
    """Received and sent by a device of this thread's namespace."""
    line = next(
        line for line in Path("/proc/thread-self/net/dev").read_text().splitlines() if f" {device}:" in f" {line}"
    )
    fields = line.split(":")[1].split()
    return int(fields[1]) + int(fields[9])


def stack_counters() -> dict[str, int]:
    """What the stack of this thread's namespace has received, and what it answered."""
    lines = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()]
    table = {
        f"{names[0]}{name}": int(value)
        for names, values in zip(lines[::2], lines[1::2], strict=True)
        for name, value in zip(names[1:], values[1:], strict=True)
    }
    return {
        key: table[key]
        for key in ("Ip:InReceives", "Ip:InUnknownProtos", "Udp:NoPorts", "Udp:InDatagrams", "Icmp:OutMsgs")
    }


@contextmanager
def unseen_by_stack(*places: Namespace) -> Iterator[None]:
    """Nothing of what happens meanwhile reaches the stacks, but for a stray packet of IKE or neighbour discovery."""
    before = [place.run(stack_counters) for place in places]
    yield
    for place, old in zip(places, before, strict=True):
        new = place.run(stack_counters)
        assert new["Ip:InUnknownProtos"] == old["Ip:InUnknownProtos"]
        assert new["Icmp:OutMsgs"] == old["Icmp:OutMsgs"]
        assert new["Ip:InReceives"] - old["Ip:InReceives"] < 20, (place.name, old, new)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("carrier", ["raw", "udp"])
@pytest.mark.parametrize("outer", [4, 6], ids=["outer-v4", "outer-v6"])
def test_both_families_past_the_stack(
    sites: TwoSites, start_gateway: StartGateway, outer: int, carrier: str, kind: str
) -> None:
    ends = Ends(sites, start_gateway, rings(kind), outer=outer, inner=(4, 6), connection={"outer": carrier})
    before = ends.through_devices()
    for version in (4, 6):
        assert None not in ends.ping(version, 10)
    assert ends.through_devices() == before
    assert ends.a.expect_child().udp_encap is (carrier == "udp")
    assert ends.drops() == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outer", "inner"), [(True, False), (False, True), (True, True)])
def test_beside_sockets_and_tun(
    sites: TwoSites, start_gateway: StartGateway, outer: bool, inner: bool, kind: str
) -> None:
    """Any mixture carries UDP without loss or reordering, and TCP, to a peer without ring ports."""
    ends = Ends(sites, start_gateway, rings(kind, outer=outer, inner=inner), {})
    for source, sink, address in ((sites.a, sites.b, B.host[0]), (sites.b, sites.a, A.host[0])):
        flow = NumberedFlow(source.host, sink.host, address, rate=RATE)
        time.sleep(0.5)
        result = flow.finish()
        assert result.lost == result.duplicates == result.reordered == 0, result
    stream = Stream(sites.a.host, sites.b.host, B.host[0], port=next(PORTS))
    time.sleep(1.0)
    assert sum(stream.finish()) > 1_000_000
    assert ends.drops() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_reaches_the_stack_twice(sites: TwoSites, start_gateway: StartGateway, kind: str) -> None:
    Ends(sites, start_gateway, rings(kind))
    with unseen_by_stack(sites.a.gateway, sites.b.gateway):
        flow = NumberedFlow(sites.a.host, sites.b.host, B.host[0], rate=RATE)
        time.sleep(1.0)
        result = flow.finish()
    assert result.lost == result.duplicates == result.reordered == 0, result


@pytest.mark.parametrize("kind", KINDS)
def test_the_gateway_itself_is_reached_as_ever(sites: TwoSites, start_gateway: StartGateway, kind: str) -> None:
    ends = Ends(sites, start_gateway, rings(kind))
    inner = Stream(sites.a.host, sites.a.gateway, A.inner[0], port=next(PORTS))
    outer = Stream(sites.a.gateway, sites.b.gateway, B.outer[0], port=next(PORTS))
    time.sleep(0.5)
    assert sum(inner.finish()) > 100_000
    assert sum(outer.finish()) > 100_000
    assert None not in sites.a.host.run(ping, A.inner[0], 3, 0.05)
    ends.a.command("rekey", "net")  # IKE passes beside
    assert None not in ends.ping()


@pytest.mark.parametrize("kind", KINDS)
def test_too_long_packets_are_answered(sites: TwoSites, start_gateway: StartGateway, kind: str) -> None:
    ends = Ends(sites, start_gateway, rings(kind))
    mtu = ends.a.status()["mtu"]
    assert sites.a.host.run(discovered_mtu, B.host[0], 1400 + 60) == mtu


def discovered_mtu(address: str, size: int) -> int:
    """Sends with DF until the path says that it is too long; what MTU it said."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        probe.connect((address, 7200))
        for _ in range(20):
            try:
                probe.send(bytes(size))
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    return probe.getsockopt(socket.IPPROTO_IP, IP_MTU)
                if error.errno != errno.ECONNREFUSED:
                    raise
            time.sleep(0.05)
    return 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["outer", "inner"])
def test_a_next_hop_changes_its_address(sites: TwoSites, start_gateway: StartGateway, where: str, kind: str) -> None:
    ends = Ends(sites, start_gateway, rings(kind))
    place, link = (sites.b.gateway, "outer") if where == "outer" else (sites.b.host, "eth0")
    old = place.mac(link)
    new = "02:00:5e:00:00:" + ("01" if old[-2:] != "01" else "02")
    place.set_link(link, address=new)
    # Its neighbours hear of it as they would of any other host: by the next packet that it sends itself.
    place.run(ping, A.outer[0] if where == "outer" else B.inner[0], 2, 0.05)
    wait_for("pings are answered again", lambda: None not in ends.ping(times=1))
    ends.warm()
    assert None not in ends.ping(times=5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", ["outer", "inner"])
def test_a_device_goes_down_and_comes_back(sites: TwoSites, start_gateway: StartGateway, link: str, kind: str) -> None:
    ends = Ends(sites, start_gateway, rings(kind))
    sites.a.gateway.set_link(link, state="down")
    assert set(ends.ping(times=2, timeout=0.2)) == {None}
    sites.a.gateway.set_link(link, state="up")
    for address, length in zip((*A.outer, *A.inner), (24, 64, 24, 64), strict=True):
        if ":" in address:  # IPv6 addresses go with the link
            device = "outer" if address in A.outer else "inner"
            if device == link:
                sites.a.gateway.add_address(device, f"{address}/{length}")
    wait_for("pings are answered again", lambda: None not in ends.ping(times=1))
    ends.warm()


@pytest.fixture(scope="module")
def way_in_the_clear(sites: TwoSites) -> None:
    sites.a.gateway.add_route("10.2.0.0/24", B.outer[0])
    sites.b.gateway.add_route("10.1.0.0/24", A.outer[0])


@pytest.mark.usefixtures("way_in_the_clear")
@pytest.mark.parametrize("kind", KINDS)
def test_explicit_policies_stay_with_the_kernel(sites: TwoSites, start_gateway: StartGateway, kind: str) -> None:
    """A BYPASS policy for one address: its packets are forwarded in the clear, untouched by the ring port."""
    policy = {"action": "bypass", "destination": f"{B.host[0]}/32"}
    ends = Ends.__new__(Ends)
    ends.sites = sites
    ends.a = start_gateway(sites.a.gateway, _with(tunnel_config(A, B), rings(kind), [policy]))
    before = sites.a.gateway.run(stack_counters)["Ip:InReceives"]
    assert None not in ends.ping(times=5)
    assert sites.a.gateway.run(stack_counters)["Ip:InReceives"] >= before + 10
    assert ends.a.status()["drops"] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_gateway_takes_nothing_any_more(sites: TwoSites, start_gateway: StartGateway, kind: str) -> None:
    ends = Ends(sites, start_gateway, rings(kind))
    ends.b.process.send_signal(signal.SIGKILL)
    ends.b.process.wait()
    before = sites.b.gateway.run(stack_counters)["Ip:InReceives"]
    ends.ping(times=5, timeout=0.1)
    assert sites.b.gateway.run(stack_counters)["Ip:InReceives"] >= before + 5
    assert None not in sites.b.host.run(ping, B.inner[0], 2, 0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("key", "device"), [("outer", "nowhere"), ("inner", "lo")])
def test_a_device_that_will_not_do_is_named(
    sites: TwoSites, start_gateway: StartGateway, tmp_path: Path, key: str, device: str, kind: str
) -> None:
    with pytest.raises(Exception, match=f"gateway.{key}.*{kind}:{device}"):
        start_gateway(sites.a.gateway, _with(tunnel_config(A, B), {key: f"{kind}:{device}"}, None))
