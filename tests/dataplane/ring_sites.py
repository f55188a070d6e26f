"""Two gateways over veth pairs, their SAs set by hand, with ring ports beside TUN and sockets.

    host A -- inner [gateway A] outer -- outer [gateway B] inner -- host B          (addresses: ipsecfast.lab.netns)

A gateway's ring ports know the way to its host and to the other gateway; what they can't carry goes through TUN and
sockets.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

from ipsecfast.dataplane import DataPlane, Port, RawEspPort, RingPort, TunPort, UdpPort, XdpPort
from ipsecfast.lab.netns import Site, TwoSites
from ipsecfast.model import NAT_T_PORT, NextHop, Path, Policy, PolicyAction, SaParams, TrafficSelector
from ipsecfast.netlink import TX_QUEUE_LENGTH

AES_GCM_16 = 20
TUNNEL_MTU = 1400
SPI_V4, SPI_V6 = 0x1000, 0x2000  # what A sends; B sends one more


@dataclass(frozen=True, slots=True)
class Kind:
    """What the ports of a gateway are: XDP or not at the inner and at the outer border; how it sends."""

    inner: bool = True
    outer: bool = True
    udp: bool = True
    ring: bool = False  # frames leave by the transmit ring


class RingGateway:
    """One gateway, alive from construction to `close`. Its SAs: one a family, inside and outside the same."""

    def __init__(self, site: Site, other: Site, kind: Kind) -> None:
        self.site, self.other, self.kind = site, other, kind
        self._undo = ExitStack()
        with ExitStack() as undo:
            self.plane = DataPlane()
            undo.callback(self.plane.close)
            self.inner: XdpPort | None = None
            self.outer: XdpPort | None = None
            site.gateway.run(self._open_ports, undo)
            self._start(undo)
            self._install()
            self._publish()
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    @property
    def rings(self) -> list[XdpPort]:
        return [port for port in (self.inner, self.outer) if port is not None]

    def stats(self) -> dict[str, Any]:
        """Both workers together: drops, packets each way."""
        workers = self.plane.worker_stats()
        drops: dict[str, int] = {}
        for worker in workers:
            for reason, count in worker["drops"].items():
                drops[reason] = drops.get(reason, 0) + count
        outbound, inbound = workers[0]["outbound"], workers[1]["inbound"]
        return {"drops": {k: v for k, v in drops.items() if v}, "outbound": outbound, "inbound": inbound}

    # ---- ports and workers ----

    def _open_ports(self, undo: ExitStack) -> None:
        self.tun = TunPort("ipsec0")
        undo.callback(self.tun.close)
        self.sockets: list[Port] = [make(version) for version in (4, 6) for make in (UdpPort, RawEspPort)]
        for port in self.sockets:
            undo.callback(port.close)
        if self.kind.outer:
            (self.outer,) = XdpPort.group("outer", 1, outer=True, ring=self.kind.ring)
            undo.callback(self.outer.close)
        if self.kind.inner:
            (self.inner,) = XdpPort.group(
                "inner", 1, outer=False, ring=self.kind.ring, beside=[self.outer] if self.outer else None
            )
            undo.callback(self.inner.close)

    def _start(self, undo: ExitStack) -> None:
        inner = [self.tun, self.inner] if self.inner else [self.tun]
        outer = [self.outer, *self.sockets] if self.outer else self.sockets
        for name, outbound in (("outbound", True), ("inbound", False)):
            worker = self.plane.add_worker(name, inner, outer, outbound=outbound, inbound=not outbound)
            thread = threading.Thread(target=worker.run, name=f"{name}-{self.site.addresses.letter}")
            thread.start()
            undo.callback(thread.join)
            undo.callback(worker.stop)
        self.site.gateway.set_link("ipsec0", mtu=TUNNEL_MTU, txqlen=TX_QUEUE_LENGTH, state="up")
        for network in self.other.addresses.networks:
            self.site.gateway.add_device_route(network, "ipsec0")

    # ---- what it knows ----

    def _params(self, version: int, *, ours: bool) -> SaParams:
        """The SA that we send with, or the one that the other sends with, as we have it."""
        family = 0 if version == 4 else 1
        here, there = self.site.addresses, self.other.addresses
        sender = here if ours else there
        spi = (SPI_V4 if version == 4 else SPI_V6) + (sender.letter == "B")
        port = NAT_T_PORT if self.kind.udp else 0
        path = Path(ip_address(here.outer[family]), port, ip_address(there.outer[family]), port)
        local = TrafficSelector.from_network(ip_network(here.networks[family]))
        remote = TrafficSelector.from_network(ip_network(there.networks[family]))
        key = bytes((spi + i) & 0xFF for i in range(20))
        params = SaParams(spi, version, AES_GCM_16, key, path, (local,), (remote,), udp_encap=self.kind.udp)
        return replace(params, replay_window=4096)

    def _install(self) -> None:
        policies = []
        for version in (4, 6):
            inbound, outbound = self._params(version, ours=False), self._params(version, ours=True)
            self.plane.install_inbound(inbound)
            self.plane.install_outbound(outbound)
            self.plane.activate_outbound(version, outbound.spi)
            policies.append(Policy(outbound.local_ts[0], outbound.remote_ts[0], PolicyAction.PROTECT, version))
        self.plane.publish_spd(policies)

    def _publish(self) -> None:
        if self.outer is not None:
            self._teach(self.outer, "outer", self.other.addresses.outer, self.other, "outer", 1500)
            for address in self.site.addresses.outer:
                self.outer.take(ip_network(address))
        if self.inner is not None:
            self._teach(self.inner, "inner", self.site.addresses.host, self.site, "eth0", 1500)
            for network in self.other.addresses.networks:
                self.inner.take(ip_network(network), TUNNEL_MTU)

    def _teach(self, port: RingPort, link: str, neighbours: Sequence[str], there: Site, far: str, mtu: int) -> None:
        ours = mac_of(self.site.gateway.mac(link))
        where = there.gateway if far == "outer" else there.host
        theirs = mac_of(where.mac(far))
        port.set_address(ours)
        self.plane.publish_hops(port, [NextHop(ip_network(text), theirs, ours, mtu) for text in neighbours])


def mac_of(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


@contextmanager
def two_gateways(a: Kind, b: Kind, mtu: int = 1500) -> Iterator[tuple[TwoSites, RingGateway, RingGateway]]:
    with ExitStack() as undo:
        sites = undo.enter_context(TwoSites())
        for site in (sites.a, sites.b):
            for namespace, link in ((site.host, "eth0"), (site.gateway, "inner"), (site.gateway, "outer")):
                namespace.set_link(link, mtu=mtu)
        gateways = []
        for site, other, kind in ((sites.a, sites.b, a), (sites.b, sites.a, b)):
            gateway = RingGateway(site, other, kind)
            undo.callback(gateway.close)
            gateways.append(gateway)
        yield sites, gateways[0], gateways[1]
