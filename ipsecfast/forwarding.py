"""The data plane of a gateway and what surrounds it: ports, worker threads, TUN device, SPD, routes.

Knows nothing of IKE: `gateway` tells it what to install, in the words of `model`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipsecfast.arrays import SA_COUNT_DTYPE
from ipsecfast.config import GatewayConfig, concrete_remote, outer_families
from ipsecfast.configured import ChildConfig, ConnectionConfig
from ipsecfast.dataplane import (
    DROP_HELP,
    DROP_REASONS,
    DataPlane,
    Port,
    RawEspPort,
    TunPort,
    UdpPort,
    esp_overhead,
)
from ipsecfast.engines import resolve_engine
from ipsecfast.errors import DataPlaneError
from ipsecfast.model import MIN_IPV6_MTU, DataPlaneEvent, IPAddress, Path, SaParams, TransformType
from ipsecfast.netlink import Netlink, TunNetwork
from ipsecfast.rings import Rings
from ipsecfast.spd import ChildKey, Selectors, SpdBook, SpdChange
from ipsecfast.steps import Steps
from ipsecfast.threads import start_workers, worker_count

UNKNOWN_PATH_MTU = 1500  # to a peer that may be anywhere


class Forwarding:
    """One gateway's packets. `open` sets up and records in `steps` how each step is undone."""

    def __init__(self, config: GatewayConfig, connections: Sequence[ConnectionConfig], netlink: Netlink) -> None:
        self.config = config
        self.mtu = 0
        self.workers = worker_count(config)
        self.engine = resolve_engine(config.engine)
        self.data_plane = DataPlane(engine=self.engine.engine)
        self._connections = connections
        self._netlink = netlink
        self._network = TunNetwork(netlink, device=config.tun, table=config.table, mark=config.mark)
        self._book = SpdBook(config.policies, connections)
        self._spd_behind = self._routes_behind = True  # nothing is published yet
        self._peers: dict[tuple[int, int], IPAddress] = {}
        self._refused: set[tuple[int, int]] = set()  # pairs that IKE has and the data plane did not take
        self._rings = Rings(
            config, netlink, self.data_plane, lambda: set(self._peers.values()), self._book.routes.routes
        )
        self.rings_stale = False  # what `refresh_rings` would read has changed
        self._udp_ports: dict[int, UdpPort] = {}
        self._inbound = np.zeros(0, SA_COUNT_DTYPE)  # as `seen_inbound` saw them last

    # ---- setting up ----

    def open(self, steps: Steps, outer: Iterable[int], inner: Iterable[int]) -> list[str]:
        """Ports for the IP versions `outer`, the device, rules for the IP versions `inner`.

        Returns what the operator should know, in sentences. Raises DataPlaneError, NetlinkError or OSError.
        """
        steps.add("data plane", self.data_plane.close)
        outer_rings, inner_rings = self._rings.open(steps, self.workers)
        sockets = self._open_outer(steps, outer)
        self._outer_ports = [[*ring, *others] for ring, others in zip(outer_rings, sockets, strict=True)]
        removed = self._network.remove_leftovers()
        told = [f"removed {removed} rules and routes of a run that was killed"] if removed else []
        tuns = TunPort.group(self.config.tun, self.workers)
        steps.add(f"device {self.config.tun}", partial(_close, tuns))
        if not tuns[0].steered:
            told.append("the kernel takes no BPF program: what one SA carries will not be spread over all workers")
        self._inner_ports = [[tun, *ring] for tun, ring in zip(tuns, inner_rings, strict=True)]
        self.mtu = self.config.mtu or self._compute_mtu()
        versions = tuple(inner)
        told += self._network.bring_up(self.mtu, versions)
        steps.add("routes and rules", self._close_network)
        self._network.add_rules(self.config.policies, versions)
        self._publish(None)
        return told

    def _open_outer(self, steps: Steps, versions: Iterable[int]) -> list[list[Port]]:
        """For each worker one port of every kind."""
        groups: list[Sequence[Port]] = []
        for version in versions:
            udp = UdpPort.group(version, self.workers, mark=self.config.mark)
            steps.add(f"UDP port 4500, IPv{version}", partial(_close, udp))
            self._udp_ports[version] = udp[0]
            raw = RawEspPort.group(version, self.workers, mark=self.config.mark)
            steps.add(f"ESP, IPv{version}", partial(_close, raw))
            groups += [udp, raw]
        return [list(ports) for ports in zip(*groups, strict=True)]

    def _close_network(self) -> None:
        for failure in self._network.close():
            raise failure

    def _compute_mtu(self) -> int:
        """The largest inner packet that fits through every connection, encapsulated in UDP as behind a NAT."""
        children = ((connection, child) for connection in self._connections for child in connection.children)
        return max(MIN_IPV6_MTU, min(self._inner_mtu(*pair) for pair in children))

    def _inner_mtu(self, connection: ConnectionConfig, child: ChildConfig) -> int:
        peer = concrete_remote(connection)
        path = self._netlink.path_to(peer, self.config.mark) if peer is not None else None
        version = peer.version if peer is not None else max(outer_families(connection))
        ciphers = {t.id for p in child.esp_proposals for t in p.transforms if t.type == TransformType.ENCR}
        overhead = max(esp_overhead(cipher, child.mode.value, True, version) for cipher in ciphers)
        return (path.mtu if path is not None else UNKNOWN_PATH_MTU) - overhead

    def start_workers(self, steps: Steps, failed: Callable[[BaseException], None]) -> None:
        """`failed` is called in the thread if one ends by an exception."""
        ports = list(zip(self._inner_ports, self._outer_ports, strict=True))
        start_workers(self.data_plane, self.config, ports, steps, failed)

    # ---- what comes out of the data plane ----

    @property
    def event_fd(self) -> int:
        return self.data_plane.event_fd

    def events(self, limit: int) -> list[DataPlaneEvent]:
        return self.data_plane.events(limit)

    def udp_fileno(self, version: int) -> int:
        """The first socket of port 4500, which IKE shares."""
        return self._udp_ports[version].fileno()

    def seen_inbound(self) -> list[int]:
        """The inbound SPIs on which authentic packets arrived since the last call."""
        counts = self.data_plane.sa_stats_array()
        known, self._inbound = self._inbound, counts[counts["inbound"]]
        return grown_since(known, self._inbound)

    # ---- what goes in ----

    def install(self, child: ChildKey, inbound: SaParams, outbound: SaParams, *, activate: bool) -> None:
        """Both SAs, then the SPD and routes for their selectors, then, if asked, the switch to the outbound SA. No TFC
        padding makes a packet longer than the device could be given."""
        outbound = replace(outbound, tfc_padding=min(outbound.tfc_padding, self.mtu))
        try:
            self._install_pair(inbound, outbound)
        except (DataPlaneError, ValueError):
            self._refused.add((outbound.reqid, outbound.spi))
            raise
        self._peers[outbound.reqid, outbound.spi] = outbound.path.remote
        self.rings_stale = True
        self._publish(self._book.add_sa(child, inbound))
        if activate:
            self.data_plane.activate_outbound(outbound.reqid, outbound.spi)

    def _install_pair(self, inbound: SaParams, outbound: SaParams) -> None:
        """Both or none."""
        self.data_plane.install_inbound(inbound)
        try:
            self.data_plane.install_outbound(outbound)
        except (DataPlaneError, ValueError):
            self.data_plane.remove_inbound(inbound.spi)
            raise

    def activate(self, reqid: int, spi: int) -> None:
        if (reqid, spi) in self._refused:
            return  # told then; its end is under way
        self.data_plane.activate_outbound(reqid, spi)

    def remove(self, reqid: int, inbound_spi: int, outbound_spi: int) -> None:
        if (reqid, outbound_spi) in self._refused:
            self._refused.remove((reqid, outbound_spi))
            return
        self.data_plane.remove_outbound(reqid, outbound_spi)
        self.data_plane.remove_inbound(inbound_spi)
        self._peers.pop((reqid, outbound_spi), None)
        self._publish(self._book.remove_sa(reqid, inbound_spi))

    def move(self, reqid: int, inbound_spi: int, outbound_spi: int, path: Path) -> None:
        if (reqid, outbound_spi) in self._refused:
            return
        self.data_plane.move_peer(reqid, inbound_spi, outbound_spi, path)
        self._peers[reqid, outbound_spi] = path.remote
        self.rings_stale = True

    def trap(self, child: ChildKey, reqid: int, local_ts: Selectors, remote_ts: Selectors) -> None:
        self._publish(self._book.add_trap(child, reqid, local_ts, remote_ts))

    def release_held(self, reqid: int) -> None:
        self.data_plane.release_held(reqid)

    def _publish(self, change: SpdChange | None) -> None:
        """SPD first, routes second: a packet that a new route leads here meets its policy.

        What the data plane or the kernel refused is made good, as a whole, with the next change.
        """
        if self._spd_behind or change is not None:
            behind, self._spd_behind = self._spd_behind, True
            if behind or change is None:
                self.data_plane.publish_spd(self._book.policies())
            else:
                self.data_plane.replace_policies(change.index, change.removed, change.policies)
            self._spd_behind = False
        if self._routes_behind or self._book.routes.touched:
            behind, self._routes_behind = self._routes_behind, True
            changes = self._book.routes.changes(self._netlink.recent_addresses())
            if behind:
                self._network.set_routes(self._book.routes.routes())
            else:
                self._network.change_routes(changes)
            self._routes_behind = False
            self.rings_stale = True

    @property
    def has_rings(self) -> bool:
        return self._rings.present

    def refresh_rings(self) -> None:
        """Tells the ring ports what the kernel and our SAs say now of next hops and destinations."""
        self.rings_stale = False
        self._rings.refresh(self.mtu)

    def traps(self) -> list[ChildKey]:
        return self._book.trapped()

    # ---- what it has counted ----

    def sa_stats(self) -> list[dict[str, Any]]:
        return self.data_plane.sa_stats()

    @staticmethod
    def drop_help() -> dict[str, str]:
        """What each drop reason means and what to look at."""
        return dict(zip(DROP_REASONS, DROP_HELP, strict=True))

    def worker_stats(self) -> list[dict[str, Any]]:
        return self.data_plane.worker_stats()


def _close(ports: Iterable[Port]) -> None:
    for port in ports:
        port.close()


def grown_since(before: NDArray[np.void], now: NDArray[np.void]) -> list[int]:
    """The SPIs of those SAs (SA_COUNT_DTYPE, each SPI once) that have more packets than before, or any and are new."""
    known, packets = before["spi"], np.zeros(len(now), np.uint64)
    if len(known):
        order = np.argsort(known)
        place = order[np.searchsorted(known, now["spi"], sorter=order) % len(known)]
        packets = np.where(known[place] == now["spi"], before["packets"][place], 0)
    grown: list[int] = now["spi"][now["packets"] > packets].tolist()
    return grown
