"""Ring ports and what the kernel knows for them: next hops, addresses, and which traffic to take.

The sockets and the TUN device stay, and the kernel with them: it resolves neighbours, answers with ICMP, carries what
no ring port takes. A ring port is told only what is certain: a neighbour whose hardware address the kernel knows now, a
destination that a tunnel's route covers. All of it is read anew after each change that netlink tells of. The functions
say what follows from what was read; `Rings` reads, and tells the data plane the difference.

Packets that go past the kernel's stack don't keep its neighbour entries fresh. So each entry in use that grows stale is
asked for (NTF_USE), which makes the kernel probe the neighbour as if it sent packets itself; one that doesn't answer
fails, vanishes here, and its packets are the kernel's again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import ip_network

from ipsecfast.config import GatewayConfig, RingChoice, RingKind
from ipsecfast.dataplane import DataPlane, PacketPort, Port, RingPort, XdpPort
from ipsecfast.errors import ConfigProblem, NetlinkError
from ipsecfast.logs import log_event
from ipsecfast.model import IPAddress, IPNetwork, NextHop, Policy
from ipsecfast.netlink import Link, Neighbour, Netlink, PathToPeer, Route, RouteVia, networks_of
from ipsecfast.steps import Steps

Takes = dict[IPNetwork, int]
Peers = Callable[[], Iterable[IPAddress]]
Routes = Callable[[], Collection[Route]]


# ---- what follows from what the kernel knows ----


def outer_hops(
    paths: Mapping[IPAddress, PathToPeer | None], link: Link, known: Mapping[IPAddress, Neighbour]
) -> list[NextHop]:
    """The peers that are reached over this link by a neighbour that is known."""
    hops = []
    for peer, path in paths.items():
        if path is None or path.device != link.name:
            continue
        neighbour = known.get(path.gateway or peer)
        if neighbour is not None:
            hops.append(NextHop(_host(peer), neighbour.hardware, link.address, min(path.mtu, link.mtu)))
    return hops


def inner_hops(
    link: Link, known: Mapping[IPAddress, Neighbour], routes: Iterable[RouteVia], tunnel: Collection[Route]
) -> list[NextHop]:
    """Who is behind this link: its neighbours, and the networks that a known router on it leads to. What the main table
    leads elsewhere or a tunnel takes first stays with the kernel."""
    hops = {_host(address): _next_hop(_host(address), neighbour, link) for address, neighbour in known.items()}
    for route in routes:
        router = known.get(route.gateway) if route.gateway is not None and route.index == link.index else None
        if router is not None:
            hops[route.network] = _next_hop(route.network, router, link)
        elif route.gateway is not None or route.index != link.index:
            hops[route.network] = NextHop(route.network)
        else:  # on the link: its neighbours are known one by one
            hops.setdefault(route.network, NextHop(route.network))
    return [hop if _leads_out(hop.network, tunnel) else NextHop(hop.network) for hop in hops.values()] + [
        NextHop(route.network) for route in tunnel if not route.throw and route.network not in hops
    ]


def _leads_out(network: IPNetwork, tunnel: Collection[Route]) -> bool:
    """Whether our own table, which is asked before the main one, leaves the network's packets to the others."""
    covering = [route for route in tunnel if _inside(network, route.network)]
    longest = max(covering, key=lambda route: route.network.prefixlen, default=None)
    return longest is None or longest.throw


def inner_takes(tunnel: Iterable[Route], ours: Iterable[IPAddress], policies: Sequence[Policy], mtu: int) -> Takes:
    """Which destinations a ring port takes from its link, with the longest packet in bytes; 0: the kernel's. As the
    routing does it: what leads into a tunnel, but for local networks, our own addresses, and all that an explicit
    policy may decide otherwise."""
    kept = {network for policy in policies for network in networks_of(policy.destination)}
    takes = {route.network: 0 if route.throw else mtu for route in tunnel}
    takes |= {_host(address): 0 for address in ours} | dict.fromkeys(kept, 0)
    decided = {
        network: 0 if longest and any(_inside(network, wider) for wider in kept) else longest
        for network, longest in takes.items()
    }
    return decided if any(decided.values()) else {}


def outer_takes(ours: Iterable[IPAddress]) -> Takes:
    """ESP to our own addresses."""
    return {_host(address): 0 for address in ours}


def _next_hop(network: IPNetwork, neighbour: Neighbour, link: Link) -> NextHop:
    return NextHop(network, neighbour.hardware, link.address, link.mtu)


def _host(address: IPAddress) -> IPNetwork:
    return ip_network(address)


def _inside(network: IPNetwork, wider: IPNetwork) -> bool:
    return (
        network.version == wider.version
        and network.prefixlen >= wider.prefixlen
        and int(wider.network_address) <= int(network.network_address) <= int(wider.broadcast_address)
    )


def ring_problems(config: GatewayConfig, netlink: Netlink) -> list[ConfigProblem]:
    """Interfaces that ring ports can't stand on."""
    problems = []
    for key, choice in (("outer", config.outer), ("inner", config.inner)):
        if choice is not None:
            mistake = _mistake(netlink.link(choice.interface), netlink)
            if mistake:
                problems.append(ConfigProblem(config.file, f"gateway.{key}", str(choice), mistake))
    return problems


def _mistake(link: Link | None, netlink: Netlink) -> str:
    if link is None:
        return f"there is no such device; there are {', '.join(sorted(netlink.link_names().values()))}"
    if not link.address:
        return "is no Ethernet device, whose frames a ring port could carry"
    return "" if link.up else f"is down: ip link set {link.name} up"


# ---- reading it, and telling the data plane ----


class _Ring:
    """One interface's ports, and what they have been told."""

    def __init__(self, choice: RingChoice, link: Link, ports: Sequence[RingPort]) -> None:
        self.choice = choice
        self.ports = ports
        self._index = link.index
        self._address = b""
        self._hops: list[NextHop] = []
        self._takes: Takes = {}
        self._nudged: set[IPAddress] = set()

    def link(self, netlink: Netlink) -> Link | None:
        """The interface while it can carry frames. Another one that has taken its name is not it."""
        link = netlink.link(self.choice.interface)
        return link if link is not None and link.up and link.index == self._index else None

    def set_address(self, address: bytes) -> None:
        if address != self._address:
            self.ports[0].set_address(address)
            self._address = address

    def publish(self, plane: DataPlane, hops: list[NextHop]) -> None:
        if hops != self._hops:
            for port in self.ports:
                plane.publish_hops(port, hops)
            self._hops = hops

    def take(self, wanted: Takes) -> None:
        """What the kernel keeps comes first: at no time does a wider network speak for it."""
        for network, longest in sorted(wanted.items(), key=lambda item: item[1]):
            if self._takes.get(network) != longest:
                self.ports[0].take(network, longest)
                self._takes[network] = longest
        gone = [network for network in self._takes if network not in wanted]
        for network in sorted(gone, key=lambda network: -self._takes[network]):
            self.ports[0].leave(network)
            del self._takes[network]

    def keep_fresh(self, netlink: Netlink, known: Mapping[IPAddress, Neighbour], used: Collection[IPAddress]) -> None:
        """Once for each time that a neighbour has grown stale."""
        stale = {address for address in used if known[address].stale}
        for address in stale - self._nudged:
            netlink.use_neighbour(self._index, address)
        self._nudged = stale


class Rings:
    """The ring ports of one gateway. `peers`: the addresses that our SAs lead to; `routes`: what our table holds."""

    def __init__(self, config: GatewayConfig, netlink: Netlink, plane: DataPlane, peers: Peers, routes: Routes) -> None:
        self._config = config
        self._netlink = netlink
        self._plane = plane
        self._peers = peers
        self._routes = routes
        self._outer: _Ring | None = None
        self._inner: _Ring | None = None
        self._failing = False

    def open(self, steps: Steps, workers: int) -> tuple[list[list[Port]], list[list[Port]]]:
        """For each worker its outer ring port and its inner one; none where the configuration names none.

        Raises DataPlaneError with the system's reason.
        """
        self._outer = self._open(steps, self._config.outer, workers, outer=True)
        self._inner = self._open(steps, self._config.inner, workers, outer=False)
        return _for_each(workers, self._outer), _for_each(workers, self._inner)

    def _open(self, steps: Steps, choice: RingChoice | None, workers: int, *, outer: bool) -> _Ring | None:
        link = self._netlink.link(choice.interface) if choice is not None else None
        if choice is None or link is None:
            if choice is not None:
                raise NetlinkError(f"the device {choice.interface} has vanished")
            return None
        beside = self._outer.ports if self._outer is not None and not outer else ()
        ports = _open_ports(choice, workers, link, beside, outer=outer)
        steps.add(f"ring ports {choice}", lambda: _close(ports))
        return _Ring(choice, link, ports)

    @property
    def present(self) -> bool:
        return self._outer is not None or self._inner is not None

    def refresh(self, mtu: int) -> None:
        """Reads what the kernel knows and tells the ports what is new. `mtu`: of the TUN device, bytes.

        A kernel that doesn't answer leaves everything as it was; that is logged once.
        """
        try:
            if self._outer is not None:
                self._refresh_outer(self._outer)
            if self._inner is not None:
                self._refresh_inner(self._inner, mtu)
        except NetlinkError as error:
            if not self._failing:
                log_event(logging.WARNING, "rings", f"next hops can't be brought up to date: {error}")
            self._failing = True
        else:
            self._failing = False

    def _refresh_outer(self, ring: _Ring) -> None:
        link = ring.link(self._netlink)
        if link is None:
            ring.publish(self._plane, [])
            return
        known = self._neighbours(link)
        paths = {peer: self._netlink.path_to(peer, self._config.mark) for peer in self._peers()}
        used = {path.gateway or peer for peer, path in paths.items() if path is not None and path.device == link.name}
        ring.set_address(link.address)
        ring.publish(self._plane, outer_hops(paths, link, known))
        ring.take(outer_takes(self._netlink.addresses()))
        ring.keep_fresh(self._netlink, known, used & known.keys())

    def _refresh_inner(self, ring: _Ring, mtu: int) -> None:
        link = ring.link(self._netlink)
        if link is None:
            ring.publish(self._plane, [])
            return
        known = self._neighbours(link)
        tunnel = self._routes()
        ring.set_address(link.address)
        ring.publish(self._plane, inner_hops(link, known, self._netlink.main_routes(), tunnel))
        ring.take(inner_takes(tunnel, self._netlink.addresses(), self._config.policies, mtu))
        ring.keep_fresh(self._netlink, known, known.keys())

    def _neighbours(self, link: Link) -> dict[IPAddress, Neighbour]:
        return {neighbour.address: neighbour for neighbour in self._netlink.neighbours(link.index)}


def _for_each(workers: int, ring: _Ring | None) -> list[list[Port]]:
    ports: Sequence[Port] = ring.ports if ring is not None else ()
    return [list(ports[index : index + 1]) for index in range(workers)]


def _open_ports(
    choice: RingChoice, workers: int, link: Link, beside: Sequence[RingPort], *, outer: bool
) -> Sequence[RingPort]:
    """Past the queueing discipline only where the interface has none: a queue smooths bursts, and is the operator's.
    XDP: a port for each queue, and where both borders have it, memory in common."""
    if choice.kind is RingKind.PACKET:
        return PacketPort.group(choice.interface, workers, outer=outer, bypass=not link.queued)
    near = [port for port in beside if isinstance(port, XdpPort)]
    ports = XdpPort.group(choice.interface, workers, outer=outer, beside=near or None)
    log_event(logging.INFO, "rings", f"{choice}: {ports[0].mode}, {len(ports)} of its queues, {workers} workers")
    return ports


def _close(ports: Sequence[Port]) -> None:
    for port in ports:
        port.close()
