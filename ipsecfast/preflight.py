"""What this machine must offer before the gateway touches anything, and what the operator may want to change on it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

from ipsecfast.config import GatewayConfig, concrete_remote
from ipsecfast.configured import ConnectionConfig
from ipsecfast.errors import ConfigProblem, SetupError
from ipsecfast.model import IPAddress, IPNetwork, TrafficSelector
from ipsecfast.netlink import Netlink, PathToPeer, TunNetwork, sysctl_path
from ipsecfast.spd import needs_forwarding

TUN_DEVICE = Path("/dev/net/tun")
# capabilities(7): what each is needed for.
CAPABILITIES = {
    10: ("CAP_NET_BIND_SERVICE", "UDP port 500"),
    12: ("CAP_NET_ADMIN", "the TUN device, routes and rules"),
    13: ("CAP_NET_RAW", "bare ESP"),
}
ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
STRICT_RP_FILTER = 1


def check_privileges() -> None:
    """Raises SetupError with everything that is missing."""
    held = _effective_capabilities()
    missing = [f"{name} ({use})" for bit, (name, use) in CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        raise SetupError(f"this needs {', '.join(missing)}: run it as root, or with these capabilities")
    if not TUN_DEVICE.exists():
        raise SetupError(f"{TUN_DEVICE} is missing: load the kernel's module (modprobe tun)")


def _effective_capabilities() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return int(line.split()[1], 16)


def check_machine(config: GatewayConfig, netlink: Netlink) -> None:
    """Raises SetupError if the names and numbers that the configuration gives are taken."""
    if netlink.link_index(config.tun) is not None:
        raise SetupError(
            f"a device {config.tun} exists already: another gateway may be running; choose another gateway.tun, "
            f"or remove it (ip link delete {config.tun})"
        )
    network = TunNetwork(netlink, device=config.tun, table=config.table, mark=config.mark)
    other = network.other_user()
    if other is not None:
        raise SetupError(
            f"the routing table {config.table} holds routes to {other}: another gateway may be running; "
            "choose another gateway.table"
        )


def foreign_local_addresses(config: GatewayConfig, addresses: Collection[IPAddress]) -> list[ConfigProblem]:
    """Connections none of whose local addresses are on this machine."""
    return [
        ConfigProblem(
            config.file,
            f"connections.{connection.name}.local_addrs",
            ", ".join(map(str, connection.local_addrs)),
            "is not an address of this machine (ip address shows them; %any takes whatever there is)",
        )
        for connection in config.connections
        if connection.local_addrs and not _present(connection.local_addrs, addresses)
    ]


def _present(entries: Sequence[IPAddress | IPNetwork], addresses: Collection[IPAddress]) -> list[IPAddress]:
    """The addresses of this machine that the entries mean."""
    return [
        address
        for entry in entries
        for address in addresses
        if (address == entry if isinstance(entry, IPAddress) else address.version == entry.version and address in entry)
    ]


def with_local_address(
    connection: ConnectionConfig, addresses: Collection[IPAddress], path: PathToPeer | None
) -> ConnectionConfig:
    """The connection with an address to initiate from: its own on this machine, else that of the route to the peer.

    Where any address (or any of a network) is allowed, it stays allowed for the responder.
    """
    single = [entry for entry in connection.local_addrs if isinstance(entry, IPAddress) and entry in addresses]
    networks = [entry for entry in connection.local_addrs if not isinstance(entry, IPAddress)]
    if not connection.local_addrs:
        networks = list(ANYWHERE)
    if not single and path is not None and path.source is not None and _present(networks, [path.source]):
        single = [path.source]
    return replace(connection, local_addrs=(*single, *networks) if single else connection.local_addrs)


def has_ipv6() -> bool:
    return Path("/proc/net/if_inet6").exists()


def advice(config: GatewayConfig, netlink: Netlink, addresses: Collection[IPAddress]) -> Iterator[str]:
    """Settings that would stop packets and are the operator's to decide, each with the line that mends it."""
    for version in sorted(needs_forwarding(config.connections, addresses)):
        tree, key = ("net.ipv4", "ip_forward") if version == 4 else ("net.ipv6.conf.all", "forwarding")
        if _sysctl(Path("/proc/sys", *tree.split("."), key)) == 0:
            yield f"this machine doesn't forward IPv{version} packets of others: sysctl -w {tree}.{key}=1"
    yield from _strict_filters(config, netlink)


def _strict_filters(config: GatewayConfig, netlink: Netlink) -> Iterator[str]:
    """A peer whose address lies in its own `remote_ts`: a strict reverse path filter drops what comes from it."""
    strict_everywhere = _sysctl(sysctl_path("net.ipv4.conf", "all", "rp_filter")) == STRICT_RP_FILTER
    devices: dict[str, None] = {}
    for connection in config.connections:
        peer = concrete_remote(connection)
        selectors = [selector for child in connection.children for selector in child.remote_ts]
        if peer is None or peer.version != 4 or not any(_covers(selector, peer) for selector in selectors):
            continue
        path = netlink.path_to(peer, config.mark)
        if path is not None:
            devices[path.device] = None
    for device in devices:
        own = _sysctl(sysctl_path("net.ipv4.conf", device, "rp_filter"))
        if own == STRICT_RP_FILTER or (own == 0 and strict_everywhere):
            yield (
                f"the strict reverse path filter of {device} drops the packets of a peer inside its own remote_ts: "
                f"sysctl -w net.ipv4.conf.{device}.rp_filter=2"
            )


def _covers(selector: TrafficSelector | None, peer: IPAddress) -> bool:
    """`dynamic` (None) is the peer's address itself."""
    if selector is None:
        return True
    return selector.version == peer.version and int(selector.start) <= int(peer) <= int(selector.end)


def _sysctl(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
