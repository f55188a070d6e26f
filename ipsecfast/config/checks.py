"""Checks that need more than one key: what can't work together is refused before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, product
from typing import TypeAlias

from ipsecfast.config.gateway import GatewayConfig
from ipsecfast.config.lines import KeyPath
from ipsecfast.config.section import Report
from ipsecfast.configured import AuthKind, ChildConfig, ConnectionConfig
from ipsecfast.model import MIN_IPV6_MTU, IPAddress, IPNetwork, Mode, Policy, StartAction, TrafficSelector

Selectors: TypeAlias = Sequence[TrafficSelector | None]

_BOTH_FAMILIES = frozenset({4, 6})


def check_connection(connection: ConnectionConfig, path: KeyPath, report: Report) -> None:
    """One connection whose single values are all right."""
    families = outer_families(connection)
    if not families:
        report.problem(
            (*path, "remote_addrs"), _texts(connection.remote_addrs),
            f"no address family in common with local_addrs = {_texts(connection.local_addrs)}",
        )  # fmt: skip
    if connection.redirect_to is not None and connection.redirect_to in connection.local_addrs:
        here = _texts(connection.local_addrs)
        report.problem((*path, "redirect_to"), str(connection.redirect_to), f"that is here: local_addrs = {here}")
    _check_life(connection, path, report)
    for child in connection.children:
        child_path = (*path, "children", child.name)
        _check_families(child, families, child_path, report)
        _check_actions(connection, child, child_path, report)
        if child.mode is Mode.TRANSPORT:
            _check_transport(connection, child, child_path, report)


def outer_families(connection: ConnectionConfig) -> frozenset[int]:
    """The IP versions in which both ends have an address."""
    return _families(connection.local_addrs) & _families(connection.remote_addrs)


def concrete_remote(connection: ConnectionConfig) -> IPAddress | None:
    """The first single address of the peer: where an initiator sends its first message."""
    return next((entry for entry in connection.remote_addrs if isinstance(entry, IPAddress)), None)


def _families(addresses: Sequence[IPAddress | IPNetwork]) -> frozenset[int]:
    return frozenset(address.version for address in addresses) or _BOTH_FAMILIES


def _texts(entries: Iterable[object]) -> list[str]:
    return ["dynamic" if entry is None else str(entry) for entry in entries] or ["%any"]


def check_secrets(connection: ConnectionConfig, path: KeyPath, report: Report) -> None:
    """A connection without a key for its identities can't authenticate anyone; a PPK that is named must be there."""
    if connection.ppk_id is not None and not connection.ppks:
        report.problem(
            (*path, "ppk_id"), connection.ppk_id,
            f'no secret has that id: add [secrets.{connection.name}-ppk] with type = "ppk", '
            f'ids = ["{connection.ppk_id}"] and a secret',
        )  # fmt: skip
    if connection.secrets or AuthKind.PSK not in (connection.local.method, connection.remote.method):
        return
    local, remote = connection.local.identity, connection.remote.identity
    report.problem(
        (*path, "remote", "id"), str(remote) if remote else "%any",
        f'no secret for {local} and {remote or "anyone"}: add [secrets.{connection.name}] with '
        f'ids = ["{remote or local}"] and a secret, or a secret without ids',
    )  # fmt: skip


def _check_life(connection: ConnectionConfig, path: KeyPath, report: Report) -> None:
    lifetime = connection.lifetime
    if lifetime.rekey_time and lifetime.life_time <= lifetime.rekey_time:
        report.problem((*path, "over_time"), 0, "must be longer than 0, or the IKE SA ends before it can be rekeyed")
    reauth = connection.reauth
    if reauth.rekey_time and reauth.life_time <= reauth.rekey_time:
        report.problem((*path, "over_time"), 0, "must be longer than 0, or the IKE SA ends before there is a new one")


def _check_families(child: ChildConfig, outer: frozenset[int], path: KeyPath, report: Report) -> None:
    """Each selector needs one of the same family at the other end; `dynamic` is as the outer addresses are."""
    sides = (("local_ts", child.local_ts, child.remote_ts), ("remote_ts", child.remote_ts, child.local_ts))
    for key, own, other in sides:
        other_families = _selector_families(other, outer)
        for selector in own:
            if selector is not None and selector.version not in other_families:
                other_key = "remote_ts" if key == "local_ts" else "local_ts"
                report.problem((*path, key), str(selector), f"no IPv{selector.version} selector in {other_key}")


def _selector_families(selectors: Selectors, outer: frozenset[int]) -> set[int]:
    return {version for one in selectors for version in (outer if one is None else (one.version,))}


def _check_actions(connection: ConnectionConfig, child: ChildConfig, path: KeyPath, report: Report) -> None:
    actions = {"start_action": child.start_action, "dpd_action": child.dpd_action, "close_action": child.close_action}
    for key, action in actions.items():
        if action is not StartAction.NONE and concrete_remote(connection) is None:
            report.problem(
                (*path, key), action.value,
                f"this gateway can't begin: remote_addrs = {_texts(connection.remote_addrs)} names no single address",
            )  # fmt: skip
    if child.dpd_action is not StartAction.NONE and not connection.dpd_delay:
        report.problem((*path, "dpd_action"), child.dpd_action.value, "needs a dpd_delay above 0 in the connection")


def _check_transport(connection: ConnectionConfig, child: ChildConfig, path: KeyPath, report: Report) -> None:
    """RFC 4301 s4.1: transport mode protects the two hosts' own traffic, so the selectors are the IKE addresses."""
    local = ("local_ts", child.local_ts, connection.local_addrs)
    remote = ("remote_ts", child.remote_ts, connection.remote_addrs)
    for key, selectors, addresses in (local, remote):
        for selector in selectors:
            if selector is not None and not _is_endpoint(selector, addresses):
                report.problem(
                    (*path, key), str(selector),
                    f'transport mode protects the IKE addresses themselves: "dynamic" or one of {_texts(addresses)}',
                )  # fmt: skip


def _is_endpoint(selector: TrafficSelector, addresses: Sequence[IPAddress | IPNetwork]) -> bool:
    if selector.start != selector.end:
        return False
    return not addresses or any(
        selector.start == entry if isinstance(entry, IPAddress) else selector.start in entry for entry in addresses
    )


def check_connections(connections: Sequence[ConnectionConfig], report: Report) -> None:
    """Warnings about entries that hide one another."""
    for first, second in combinations(connections, 2):
        if _same_peer(first, second):
            report.warning(
                ("connections", second.name), None,
                f"a peer can't tell it from connections.{first.name}: same addresses and identities; the first answers",
            )  # fmt: skip
    children = [(connection, child) for connection in connections for child in connection.children]
    for (connection, child), (other, hidden) in combinations(children, 2):
        if _covers(child, hidden):
            report.warning(
                ("connections", other.name, "children", hidden.name), None,
                f"{connection.name}/{child.name} comes first and has all of its selectors: its packets take that one "
                "while both are up",
            )  # fmt: skip


def _same_peer(a: ConnectionConfig, b: ConnectionConfig) -> bool:
    return (a.local_addrs, a.remote_addrs, a.local, a.remote) == (b.local_addrs, b.remote_addrs, b.local, b.remote)


def _covers(child: ChildConfig, hidden: ChildConfig) -> bool:
    selectors = (*child.local_ts, *child.remote_ts, *hidden.local_ts, *hidden.remote_ts)
    if child.mode is not hidden.mode or None in selectors:
        return False
    pairs = product(hidden.local_ts, hidden.remote_ts)
    return all(
        any(_contains(own, local) and _contains(peer, remote) for own, peer in product(child.local_ts, child.remote_ts))
        for local, remote in pairs
    )


def _contains(outer: TrafficSelector | None, inner: TrafficSelector | None) -> bool:
    return outer is not None and inner is not None and outer.contains(inner)


def check_gateway(config: GatewayConfig, report: Report) -> None:
    selectors = [one for c in config.connections for child in c.children for one in (*child.local_ts, *child.remote_ts)]
    has_ipv6 = any(selector is not None and selector.version == 6 for selector in selectors)
    if config.mtu is not None and config.mtu < MIN_IPV6_MTU and has_ipv6:
        report.problem(("gateway", "mtu"), config.mtu, f"IPv6 selectors need an MTU of at least {MIN_IPV6_MTU}")
    for index, policy in enumerate(config.policies):
        for connection in config.connections:
            for child in connection.children:
                if _hides(policy, child):
                    report.warning(
                        ("policies", index), None,
                        f"takes all packets of {connection.name}/{child.name} away from its tunnel",
                    )  # fmt: skip


def _hides(policy: Policy, child: ChildConfig) -> bool:
    pairs = [(a, b) for a, b in product(child.local_ts, child.remote_ts) if a is not None and b is not None]
    return bool(pairs) and all(
        policy.source.contains(local) and policy.destination.contains(remote) for local, remote in pairs
    )
