"""What a configuration will do, in a few lines: the answer of `ipsecfast check` to a file that is right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ipsecfast.config import GatewayConfig
from ipsecfast.configured import ChildConfig, ConnectionConfig
from ipsecfast.model import PolicyAction, StartAction

_WHEN = {
    StartAction.START: "negotiated at start",
    StartAction.TRAP: "negotiated for its first packet",
    StartAction.NONE: "negotiated when the peer or `ipsecfast initiate` asks for it",
}


def summary(config: GatewayConfig) -> Iterator[str]:
    mtu = f"MTU {config.mtu}" if config.mtu else "MTU from the route to the peer"
    yield f"device {config.tun} ({mtu}), routing table {config.table}, engine {config.engine}, control {config.control}"
    for policy in config.policies:
        verb = "never enters a tunnel" if policy.action is PolicyAction.BYPASS else "is dropped"
        yield f"{policy.source} -> {policy.destination} {verb}"
    for connection in config.connections:
        yield _connection_line(connection)
        for child in connection.children:
            yield _child_line(child)


def _connection_line(connection: ConnectionConfig) -> str:
    local = f"{connection.local.identity} at {_listed(connection.local_addrs, '%any')}"
    remote = f"{connection.remote.identity or 'anyone with the secret'} at {_listed(connection.remote_addrs, '%any')}"
    return f"{connection.name}: {local} <-> {remote}, pre-shared key"


def _child_line(child: ChildConfig) -> str:
    local, remote = _listed(child.local_ts, "dynamic"), _listed(child.remote_ts, "dynamic")
    return f"  {child.name}: {local} === {remote}, {child.mode.value} mode, {_WHEN[child.start_action]}"


def _listed(entries: Iterable[object], absent: str) -> str:
    return ", ".join(absent if entry is None else str(entry) for entry in entries) or absent
