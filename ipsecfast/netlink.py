"""What the gateway sets up in the kernel: the TUN device, a routing table of its own, the rules that lead there.

The routes of the tunnels stand in our own table. One rule a family leads everything there but our own outer packets:

    220:  from SRC to DST ... lookup main        one for each explicit BYPASS policy
    220:  from SRC to DST ... blackhole          one for each explicit DISCARD policy
    220:  not from all fwmark MARK lookup 220    all else; our sockets set MARK (SO_MARK)

So a peer whose own address lies in `remote_ts` (0.0.0.0/0, or transport mode) is still reached outside of the tunnel.
Local networks inside of a wider `remote_ts` get `throw` routes, which send their packets back to the other tables.
All that is ours carries the protocol number `OUR_PROTOCOL`, by which the leftovers of a killed run are recognised.

pyroute2's synchronous calls don't work in a thread that runs an event loop, so a thread of its own makes them.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network, summarize_address_range
from pathlib import Path
from typing import Any, TypeVar

import pyroute2
from pyroute2.netlink.exceptions import NetlinkError as KernelError

from ipsecfast.errors import NetlinkError
from ipsecfast.model import (
    MIN_IPV6_MTU,
    PROTOCOL_ICMP,
    PROTOCOL_ICMPV6,
    IPAddress,
    IPNetwork,
    Policy,
    PolicyAction,
    TrafficSelector,
)
from ipsecfast.route_messages import RouteMessage, RouteSocket

T = TypeVar("T")

ADDRESSES_FRESH = 1.0  # seconds
OUR_PROTOCOL = 86  # no routing daemon uses it (iproute2's rt_protos)
MAIN_TABLE = 254
FIB_RULE_INVERT = 2
SCOPE_LINK = 253
IFF_MULTICAST = 0x1000
TX_QUEUE_LENGTH = (
    1000  # packets: 20 ms of 50,000 a second; under a flood what a ping waits behind, 5 ms at 200,000 a second
)
MAX_SEGMENTS = 64  # of a super-packet: what the data plane seals at once (IPSF_GSO_SEGMENTS)

ARPHRD_ETHER = 1
RTN_UNICAST = 1
ETHERNET_ADDRESS = 6  # bytes
IFF_UP = 1
NUD_STALE = 0x04
NUD_VALID = 0xDE  # REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT
NTF_USE = 1
# linux/rtnetlink.h: links, neighbours, addresses and routes of both IP versions.
CHANGE_GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

# Ours to decide, because the device is ours. No link-local address, and no multicast: nothing but tunnel traffic enters
# the device. Loose reverse path filter: the data plane has already checked the source against the SA's selectors.
_DEVICE_SYSCTLS = (
    ("ipv6", "addr_gen_mode", "1"),
    ("ipv6", "accept_ra", "0"),
    ("ipv4", "rp_filter", "2"),
    ("ipv4", "send_redirects", "0"),
)


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of our table: into the TUN device with a preferred source, or (`throw`) back to the other tables."""

    network: IPNetwork
    source: IPAddress | None = None
    throw: bool = False


@dataclass(frozen=True, slots=True)
class PathToPeer:
    """How the kernel reaches an address: our address on the way, the MTU in bytes, the device's name, and the router
    if there is one between (None also where it is of the other IP version)."""

    source: IPAddress | None
    mtu: int
    device: str
    gateway: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. `address` is its hardware address, empty unless it is Ethernet; `queued`: frames wait in a
    queueing discipline before they leave."""

    index: int
    name: str
    address: bytes
    mtu: int
    up: bool
    queued: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An address on a link whose hardware address the kernel knows; `stale`: it would ask before it relies on it."""

    address: IPAddress
    hardware: bytes
    stale: bool


@dataclass(frozen=True, slots=True)
class RouteVia:
    """A route of the main table: over which device (its number, 0: none, or several), and by which router."""

    network: IPNetwork
    index: int
    gateway: IPAddress | None


class Netlink:
    """Questions to the kernel, and the thread that asks them. `close` ends the thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._kernel: pyroute2.IPRoute = self._thread.submit(pyroute2.IPRoute).result()
        self._addresses: tuple[float, tuple[IPAddress, ...]] | None = None

    def close(self) -> None:
        self._thread.submit(self._kernel.close).result()
        self._thread.shutdown()

    def call(self, what: str, command: Callable[[pyroute2.IPRoute], T]) -> T:
        """Runs `command` in the thread. Raises NetlinkError: what was to be done and the kernel's reason."""
        try:
            return self._thread.submit(command, self._kernel).result()
        except KernelError as error:
            raise NetlinkError(f"can't {what}: {error.args[1] if len(error.args) > 1 else error}") from error
        except OSError as error:
            raise NetlinkError(f"can't {what}: {error.strerror or error}") from error

    def addresses(self) -> tuple[IPAddress, ...]:
        """All addresses of this machine (of this network namespace)."""
        entries = self.call("read the addresses", lambda kernel: list(kernel.get_addr()))
        texts = (entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS") for entry in entries)
        return tuple(ip_address(text) for text in texts)

    def recent_addresses(self) -> tuple[IPAddress, ...]:
        """As `addresses`, asked for once a second at most: a thousand tunnels may come in that time."""
        now = time.monotonic()
        if self._addresses is None or now - self._addresses[0] > ADDRESSES_FRESH:
            self._addresses = now, self.addresses()
        return self._addresses[1]

    def link_index(self, name: str) -> int | None:
        """The number of a device, or None if there is none of that name."""
        found = self.call(f"look for the device {name}", lambda kernel: kernel.link_lookup(ifname=name))
        return found[0] if found else None

    def link_names(self) -> dict[int, str]:
        links = self.call("read the devices", lambda kernel: list(kernel.get_links()))
        return {link["index"]: link.get_attr("IFLA_IFNAME") for link in links}

    def path_to(self, address: IPAddress, mark: int) -> PathToPeer | None:
        """The way to an address for a packet with our mark; None if there is none."""
        try:
            (route,) = self.call(
                f"find the route to {address}",
                lambda kernel: kernel.route("get", dst=str(address), family=FAMILIES[address.version], mark=mark),
            )
        except NetlinkError:  # ENETUNREACH, EHOSTUNREACH, or blackholed: all mean that there is no way now
            return None
        source = route.get_attr("RTA_PREFSRC")
        metrics = route.get_attr("RTA_METRICS")
        (link,) = self.call("read a device", lambda kernel: kernel.get_links(route.get_attr("RTA_OIF")))
        mtu = (metrics.get_attr("RTAX_MTU") if metrics else None) or link.get_attr("IFLA_MTU")
        gateway = route.get_attr("RTA_GATEWAY")
        return PathToPeer(
            source=ip_address(source) if source else None,
            mtu=mtu,
            device=link.get_attr("IFLA_IFNAME"),
            gateway=ip_address(gateway) if gateway else None,
        )

    def link(self, name: str) -> Link | None:
        """The device of that name, or None."""
        index = self.link_index(name)
        if index is None:
            return None
        (link,) = self.call(f"read the device {name}", lambda kernel: kernel.get_links(index))
        text = link.get_attr("IFLA_ADDRESS") or ""
        ethernet = link["ifi_type"] == ARPHRD_ETHER
        return Link(
            index=index,
            name=name,
            address=bytes.fromhex(text.replace(":", "")) if ethernet else b"",
            mtu=link.get_attr("IFLA_MTU"),
            up=link.get_attr("IFLA_OPERSTATE") in ("UP", "UNKNOWN") and bool(link["flags"] & IFF_UP),
            queued=link.get_attr("IFLA_QDISC") != "noqueue",
        )

    def neighbours(self, index: int) -> list[Neighbour]:
        """Those of a device that packets may be sent to now (NUD_VALID)."""
        entries = self.call("read the neighbours", lambda kernel: list(kernel.get_neighbours(ifindex=index)))
        found = []
        for entry in entries:
            hardware = bytes.fromhex((entry.get_attr("NDA_LLADDR") or "").replace(":", ""))
            if (
                entry["state"] & NUD_VALID
                and entry["family"] in FAMILIES.values()
                and len(hardware) == ETHERNET_ADDRESS
            ):
                found.append(
                    Neighbour(ip_address(entry.get_attr("NDA_DST")), hardware, bool(entry["state"] & NUD_STALE))
                )
        return found

    def use_neighbour(self, index: int, address: IPAddress) -> None:
        """Tells the kernel that packets go to this neighbour past its stack: it asks whether a stale one is there
        still, as it would if it sent them itself (NTF_USE)."""
        family = FAMILIES[address.version]
        self.call(
            f"ask for the neighbour {address}",
            lambda kernel: kernel.neigh("set", family=family, ifindex=index, dst=str(address), flags=NTF_USE, state=0),
        )

    def main_routes(self) -> list[RouteVia]:
        """The main tables of both IP versions."""
        return [_route_via(route, version) for version in FAMILIES for route in self.routes(version, MAIN_TABLE)]

    def rules(self, version: int) -> list[Any]:
        return self.call("read the rules", lambda kernel: list(kernel.get_rules(family=FAMILIES[version])))

    def routes(self, version: int, table: int) -> list[Any]:
        return self.call(
            f"read the routing table {table}",
            lambda kernel: list(kernel.get_routes(family=FAMILIES[version], table=table)),
        )


class Changes:
    """Readable when links, addresses, neighbours or routes have changed. It tells no more: who hears it reads anew, so
    that a burst of changes, even one that the kernel could not deliver, costs one reading."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.bind((0, CHANGE_GROUPS))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> None:
        """Forgets what has been told."""
        try:
            while self._socket.recv(65536):
                pass
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some were lost: the same news
                raise


class TunNetwork:
    """What surrounds the TUN device: link settings, routes, rules. `close` removes what was made, last made first."""

    def __init__(self, netlink: Netlink, *, device: str, table: int, mark: int) -> None:
        self.netlink = netlink
        self.device = device
        self.table = table
        self.mark = mark
        self._index = 0
        self._rules: list[dict[str, Any]] = []
        self._routes: dict[IPNetwork, Route] = {}
        # Made in the thread that asks the kernel, whose network namespace it is of.
        self._route_socket = netlink.call("open a socket for routes", lambda _: RouteSocket())

    # ---- leftovers ----

    def other_user(self) -> str | None:
        """The device of another running gateway that has our routing table; None if it is free (or holds leftovers)."""
        names = self.netlink.link_names()
        for version in FAMILIES:
            for route in self.netlink.routes(version, self.table):
                name = names.get(route.get_attr("RTA_OIF"))
                if name is not None and name != self.device:
                    return name
        return None

    def remove_leftovers(self) -> int:
        """Removes rules and routes that a killed run left behind; how many there were."""
        removed = 0
        for version, family in FAMILIES.items():
            for rule in self.netlink.rules(version):
                ours = rule.get_attr("FRA_PRIORITY") == self.table and rule.get_attr("FRA_PROTOCOL") == OUR_PROTOCOL
                if ours:
                    self._command("remove a leftover rule", "rule", "del", **_rule_again(rule, family))
                    removed += 1
            for route in self.netlink.routes(version, self.table):
                if route["proto"] == OUR_PROTOCOL:
                    self._command("remove a leftover route", "route", "del", **_route_again(route, family, self.table))
                    removed += 1
        return removed

    # ---- the device ----

    def bring_up(self, mtu: int, versions: Collection[int] = (4, 6)) -> list[str]:
        """Sets MTU and queue length of the (existing) device and takes it up for packets of these IP versions.

        It vanishes with its owner's file. Returns a sentence for each sysctl that could not be set, as in a container
        whose /proc/sys is read-only: the device works without them.
        """
        index = self.netlink.link_index(self.device)
        if index is None:
            raise NetlinkError(f"the device {self.device} has vanished")
        self._index = index
        sysctls = list(_DEVICE_SYSCTLS)
        if 6 not in versions:  # or the kernel sends multicast listener reports into it
            sysctls.append(("ipv6", "disable_ipv6", "1"))
        what = f"take {self.device} up with MTU {mtu}"
        self._forget_multicast(index)
        self._command(what, "link", "set", index=index, mtu=mtu)
        refused = [sentence for family, key, value in sysctls for sentence in self._set_sysctl(family, key, value)]
        self._command(what, "link", "set", index=index, txqlen=TX_QUEUE_LENGTH, gso_max_segs=MAX_SEGMENTS, state="up")
        return refused

    def _forget_multicast(self, index: int) -> None:
        """A router joins the group of all routers on each device that knows multicast, and reports it there. Below its
        least MTU the kernel drops all that IPv6 had on the device, and begins anew when the MTU is set."""
        what = f"take multicast from {self.device}"
        self._command(what, "link", "set", index=index, flags=0, change=IFF_MULTICAST, mtu=MIN_IPV6_MTU - 1)

    def _set_sysctl(self, family: str, key: str, value: str) -> list[str]:
        path = sysctl_path(f"net.{family}.conf", self.device, key)
        if not path.exists():  # a kernel without IPv6
            return []
        try:
            path.write_text(value)
        except OSError as error:
            return [f"{path} could not be set to {value}: {error.strerror}"]
        return []

    # ---- rules ----

    def add_rules(self, policies: Sequence[Policy], versions: Collection[int]) -> None:
        """The rules of the explicit policies in their order, then the one that leads to our table, for each family."""
        for version in sorted(versions):
            for policy in policies:
                for selectors in _rule_selectors(policy) if policy.source.version == version else ():
                    self._add_rule(version, **_verdict(policy), **selectors)
            self._add_rule(version, table=self.table, fwmark=self.mark, flags=FIB_RULE_INVERT)

    def _add_rule(self, version: int, **rule: Any) -> None:
        rule |= {"family": FAMILIES[version], "priority": self.table, "protocol": OUR_PROTOCOL}
        self._command(f"add the IPv{version} rule of table {self.table}", "rule", "add", **rule)
        self._rules.append(rule)

    # ---- routes ----

    def set_routes(self, wanted: Collection[Route]) -> None:
        """Makes our table hold exactly these routes."""
        changes: dict[IPNetwork, Route | None] = dict.fromkeys(self._routes)
        self.change_routes(changes | {route.network: route for route in wanted})

    def change_routes(self, changes: Mapping[IPNetwork, Route | None]) -> None:
        """The route that a network shall have from now on, or None, for some networks; others keep what they have.

        New ones come before old ones go: no packet misses its tunnel.
        """
        new = {n: r for n, r in changes.items() if r is not None and self._routes.get(n) != r}
        failures = []
        for message, failure in self._route_socket.replace(map(self._message, new.values())):
            if failure is None:
                self._routes[message.network] = new[message.network]
            else:
                failures.append(failure)
        if not failures:
            old = [self._routes.pop(n) for n, r in changes.items() if r is None and n in self._routes]
            failures = self._remove_routes(old)
        if failures:
            raise failures[0]

    def _remove_routes(self, routes: Iterable[Route]) -> list[NetlinkError]:
        removed = self._route_socket.remove(map(self._message, routes))
        return [failure for _, failure in removed if failure is not None]

    def _message(self, route: Route) -> RouteMessage:
        return RouteMessage(route.network, self.table, OUR_PROTOCOL, None if route.throw else self._index, route.source)

    # ---- the end ----

    def close(self) -> list[NetlinkError]:
        """Removes routes and rules, last made first; goes on after a failure and returns what failed."""
        failures = self._remove_routes(tuple(reversed(self._routes.values())))
        self._routes.clear()
        self._route_socket.close()
        while self._rules:
            failures += self._attempt(self._delete_rule, self._rules.pop())
        return failures

    def _delete_rule(self, rule: dict[str, Any]) -> None:
        self._command(f"remove a rule of table {self.table}", "rule", "del", **rule)

    def _attempt(self, action: Callable[[T], None], argument: T) -> list[NetlinkError]:
        try:
            action(argument)
        except NetlinkError as error:
            return [error]
        return []

    def _command(self, what: str, kind: str, verb: str, **arguments: Any) -> None:
        self.netlink.call(what, lambda kernel: getattr(kernel, kind)(verb, **arguments))


def networks_of(selector: TrafficSelector) -> tuple[IPNetwork, ...]:
    """The prefixes that make up the selector's range of addresses."""
    first, last = selector.start, selector.end
    host_bits = (int(first) ^ int(last)).bit_length()
    if int(last) - int(first) == (1 << host_bits) - 1:  # one prefix, as nearly all are
        kind = IPv4Network if first.version == 4 else IPv6Network
        return (kind((int(first), first.max_prefixlen - host_bits)),)
    return tuple(summarize_address_range(first, last))


def sysctl_path(tree: str, device: str, key: str) -> Path:
    """`net.ipv4.conf` of a device; its name may hold dots."""
    return Path("/proc/sys", *tree.split("."), device, key)


def _verdict(policy: Policy) -> dict[str, Any]:
    if policy.action is PolicyAction.BYPASS:
        return {"table": MAIN_TABLE}
    return {"action": "blackhole"}


def _rule_selectors(policy: Policy) -> list[dict[str, Any]]:
    """The policy in the words of routing rules, one for each pair of prefixes.

    Rules know protocols and ports but no ICMP types and no OPAQUE ports: such a policy is the data plane's alone, and
    acts on the packets that a route leads into the tunnel device.
    """
    source, destination = policy.source, policy.destination
    protocol = source.protocol or destination.protocol
    ports: dict[str, Any] = {"ip_proto": protocol} if protocol else {}
    for key, end in (("sport_range", source), ("dport_range", destination)):
        if not end.any_port:
            if end.opaque or protocol in (0, PROTOCOL_ICMP, PROTOCOL_ICMPV6):
                return []
            ports[key] = f"{end.port_start}:{end.port_end}"
    return [
        {**_prefix("src", from_network), **_prefix("dst", to_network), **ports}
        for from_network in networks_of(source)
        for to_network in networks_of(destination)
    ]


def _prefix(key: str, network: IPNetwork) -> dict[str, str]:
    return {key: str(network)} if network.prefixlen else {}


def _rule_again(rule: Any, family: int) -> dict[str, Any]:
    """A rule that the kernel told, as the request that removes it."""
    names = {
        "FRA_TABLE": "table", "FRA_PRIORITY": "priority", "FRA_PROTOCOL": "protocol", "FRA_FWMARK": "fwmark",
        "FRA_IP_PROTO": "ip_proto", "FRA_SPORT_RANGE": "sport_range", "FRA_DPORT_RANGE": "dport_range",
    }  # fmt: skip
    request: dict[str, Any] = {"family": family, "flags": rule["flags"], "action": rule["action"]}
    for attribute, name in names.items():
        value = rule.get_attr(attribute)
        if value:
            request[name] = value
    for attribute, name, length in (("FRA_SRC", "src", rule["src_len"]), ("FRA_DST", "dst", rule["dst_len"])):
        if length:
            request[name] = f"{rule.get_attr(attribute)}/{length}"
    return request


def _route_again(route: Any, family: int, table: int) -> dict[str, Any]:
    everywhere = "0.0.0.0" if family == socket.AF_INET else "::"  # noqa: S104 - a prefix, not a binding
    request = {
        "family": family,
        "dst": f"{route.get_attr('RTA_DST') or everywhere}/{route['dst_len']}",
        "table": table,
        "proto": OUR_PROTOCOL,
        "type": route["type"],
        "scope": route["scope"],
    }
    oif = route.get_attr("RTA_OIF")
    return request | ({"oif": oif} if oif and route["type"] == 1 else {})


def _route_via(route: Any, version: int) -> RouteVia:
    anywhere = "0.0.0.0" if version == 4 else "::"  # noqa: S104 (a destination)
    gateway = route.get_attr("RTA_GATEWAY")
    return RouteVia(
        network=ip_network(f"{route.get_attr('RTA_DST') or anywhere}/{route['dst_len']}"),
        index=route.get_attr("RTA_OIF") or 0 if route["type"] == RTN_UNICAST else 0,
        gateway=ip_address(gateway) if gateway else None,
    )
