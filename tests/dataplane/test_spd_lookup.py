"""The compiled SPD beside the naive one: walk the ordered list, the first that matches decides (RFC 4301 s4.4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecfast.dataplane import Spd
from ipsecfast.errors import DataPlaneError
from ipsecfast.model import IPAddress, Policy, PolicyAction, TrafficSelector

PROTOCOLS = (0, 1, 6, 17, 50, 58)
WITH_PORTS = {1, 6, 17, 58}  # of those in use here; for ICMP they are type and code


@dataclass(frozen=True)
class Flow:
    source: IPAddress
    destination: IPAddress
    protocol: int
    source_port: int
    destination_port: int


def naive_lookup(policies: Sequence[Policy], flow: Flow) -> int:
    return next((i for i, policy in enumerate(policies) if _matches(policy, flow)), -1)


def _matches(policy: Policy, flow: Flow) -> bool:
    protocol = policy.source.protocol or policy.destination.protocol
    return (
        (not protocol or protocol == flow.protocol)
        and _inside(policy.source, flow.source)
        and _inside(policy.destination, flow.destination)
        and _ports_match(policy, flow)
    )


def _inside(selector: TrafficSelector, address: IPAddress) -> bool:
    return selector.version == address.version and int(selector.start) <= int(address) <= int(selector.end)


def _ports_match(policy: Policy, flow: Flow) -> bool:
    """Ports are in a range or not; a protocol without ports matches where none are asked for, or OPAQUE."""
    pairs = ((policy.source, flow.source_port), (policy.destination, flow.destination_port))
    if flow.protocol in WITH_PORTS:
        return all(selector.port_start <= port <= selector.port_end for selector, port in pairs)
    return all(selector.any_port or selector.opaque for selector, _ in pairs)


def compiled_lookup(policies: Sequence[Policy], flows: Sequence[Flow]) -> list[int]:
    return (
        Spd(policies)
        .lookup(
            [flow.source for flow in flows],
            [flow.destination for flow in flows],
            np.array([flow.protocol for flow in flows], np.uint8),
            np.array([flow.source_port for flow in flows], np.uint16),
            np.array([flow.destination_port for flow in flows], np.uint16),
        )
        .tolist()
    )


# A small world, so that policies overlap and flows hit their edges.
BASE = {4: int(IPv4Address("10.0.0.0")), 6: int(IPv6Address("fd00::"))}
KIND = {4: IPv4Address, 6: IPv6Address}
numbers = st.integers(0, 40)
ports = st.one_of(st.integers(0, 12), st.integers(65530, 65535))


@st.composite
def selectors(draw: st.DrawFn, version: int, protocol: int) -> TrafficSelector:
    low, high = sorted((draw(numbers), draw(numbers)))
    scale = draw(st.sampled_from([1, 1, 256])) if version == 4 else draw(st.sampled_from([1, 1, 2**64, 2**80]))
    low_port, high_port = draw(
        st.one_of(
            st.just((0, 65535)), st.just((65535, 0)), st.tuples(ports, ports).map(lambda pair: tuple(sorted(pair)))
        )
    )
    ends = (KIND[version](BASE[version] + n * scale) for n in (low, high))
    return TrafficSelector(*ends, protocol, low_port, high_port)


@st.composite
def policies(draw: st.DrawFn, version: int) -> Policy:
    protocol = draw(st.sampled_from(PROTOCOLS))
    source = draw(selectors(version, draw(st.sampled_from([0, protocol]))))
    destination = draw(selectors(version, draw(st.sampled_from([0, protocol]))))
    return Policy(source, destination, draw(st.sampled_from(list(PolicyAction))), reqid=1)


@st.composite
def flows(draw: st.DrawFn, version: int) -> Flow:
    scale = draw(st.sampled_from([1, 256] if version == 4 else [1, 2**64, 2**80]))
    source, destination = (KIND[version](BASE[version] + draw(numbers) * scale) for _ in range(2))
    protocol = draw(st.sampled_from([1, 6, 17, 50, 58]))
    return Flow(source, destination, protocol, draw(ports), draw(ports))


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_lookup_finds_what_the_ordered_list_finds(version: int, data: st.DataObject) -> None:
    """Policies of both versions stand in one list; the other version's never match."""
    ordered = data.draw(st.lists(st.one_of(policies(version), policies(version), policies(10 - version)), max_size=30))
    asked = data.draw(st.lists(flows(version), min_size=1, max_size=40))
    assert compiled_lookup(ordered, asked) == [naive_lookup(ordered, flow) for flow in asked]


def test_an_empty_spd_matches_nothing() -> None:
    flow = Flow(ip_address("10.0.0.1"), ip_address("10.0.0.2"), 17, 1, 2)
    assert compiled_lookup([], [flow]) == [-1]
    assert len(Spd([])) == 0


def net(text: str, protocol: int = 0, *port_range: int) -> TrafficSelector:
    return TrafficSelector.from_network(ip_network(text), protocol, *port_range)


def test_all_forms_of_addresses_mean_the_same() -> None:
    spd = Spd([Policy(net("10.1.0.0/16"), net("10.2.0.0/16"), PolicyAction.PROTECT, 1)])
    rest = (np.full(2, 6, np.uint8), np.zeros(2, np.uint16), np.zeros(2, np.uint16))
    texts = (["10.1.2.3", "10.3.2.1"], ["10.2.0.1", "10.2.0.1"])
    objects = tuple([ip_address(text) for text in column] for column in texts)
    integers = tuple(np.array([int(one) for one in column], np.uint32) for column in objects)
    octets = tuple(np.array([list(one.packed) for one in column], np.uint8) for column in objects)
    for source, destination in (texts, objects, integers, octets):
        assert spd.lookup(source, destination, *rest).tolist() == [0, -1]


def test_ipv6_addresses_as_octets() -> None:
    spd = Spd([Policy(net("fd01::/64"), net("fd02::/64"), PolicyAction.BYPASS)])
    source, destination = (np.array([list(ip_address(text).packed)], np.uint8) for text in ("fd01::9", "fd02::9"))
    found = spd.lookup(source, destination, [17], [1], [2])
    assert found.dtype == np.int32
    assert found.tolist() == [0]


def test_icmp_type_and_code_stand_in_the_ports() -> None:
    """RFC 4301 s4.4.1.1: here only echo requests, type 8 and code 0."""
    echo = 8 << 8
    spd = Spd([Policy(net("10.0.0.0/8", 1, echo, echo), net("10.0.0.0/8", 1, echo, echo), PolicyAction.PROTECT, 1)])
    columns = (["10.0.0.1"] * 3, ["10.0.0.2"] * 3, [1, 1, 17], [echo, 0, echo], [echo, 0, echo])
    assert spd.lookup(*columns).tolist() == [0, -1, -1]


def test_one_protocol_of_a_pair_holds_for_both() -> None:
    spd = Spd([Policy(net("10.0.0.0/8", 6), net("10.0.0.0/8"), PolicyAction.PROTECT, 1)])
    assert spd.lookup(["10.0.0.1"] * 2, ["10.0.0.2"] * 2, [6, 17], [1, 1], [2, 2]).tolist() == [0, -1]


def test_contradictory_pairs_are_refused() -> None:
    with pytest.raises(DataPlaneError, match=r"policy 0.*different protocols"):
        Spd([Policy(net("10.0.0.0/8", 6), net("10.0.0.0/8", 17), PolicyAction.PROTECT, 1)])
    with pytest.raises(DataPlaneError, match=r"policy 1.*different IP versions"):
        Spd(
            [
                Policy(net("::/0"), net("::/0"), PolicyAction.BYPASS),
                Policy(net("::/0"), net("10.0.0.0/8"), PolicyAction.BYPASS),
            ]
        )


GOOD = (["10.0.0.1"], ["10.0.0.2"], [6], [1], [2])


@pytest.mark.parametrize(
    ("column", "value", "error", "text"),
    [
        (0, ["10.0.0.1", "10.0.0.2"], ValueError, "source: 2 of IPv4, destination: 1 of IPv4"),
        (0, ["fd00::1"], ValueError, "source: 1 of IPv6, destination: 1 of IPv4"),
        (0, ["10.0.0.1", "fd00::1"], ValueError, "both IP versions"),
        (0, ["10.0.0.256"], ValueError, "10.0.0.256"),
        (0, np.zeros((1, 5), np.uint8), ValueError, r"uint8\[1, 5\]"),
        (0, np.zeros((1, 4), np.int64), TypeError, "int64"),
        (1, np.zeros((1, 4), np.float32), TypeError, "destination .*float32"),
        (2, [256], ValueError, "protocol holds 256 to 256; right is 0 to 255"),
        (2, [1.5], TypeError, "protocol holds integers"),
        (3, [-1], ValueError, "source_port"),
        (4, [65536], ValueError, "destination_port"),
        (4, [1, 2], ValueError, "destination_port has the shape"),
        (4, np.zeros((1, 1), np.uint16), ValueError, "destination_port has the shape"),
    ],
)  # fmt: skip
def test_arrays_of_the_wrong_form_are_refused(column: int, value: object, error: type[Exception], text: str) -> None:
    columns: list[object] = list(GOOD)
    columns[column] = value
    with pytest.raises(error, match=text):
        Spd([]).lookup(*columns)  # type: ignore[arg-type]


def test_a_thousand_policies_answer_a_hundred_thousand_questions() -> None:
    random = np.random.default_rng(7)
    networks = [(f"10.{a}.{b}.0/24", f"10.{255 - a}.{b}.0/24") for a in range(50) for b in range(20)]
    ordered = [
        Policy(net(source), net(destination), PolicyAction.PROTECT, i + 1)
        for i, (source, destination) in enumerate(networks)
    ]
    a, b = random.integers(0, 60, 100_000, np.uint32), random.integers(0, 25, 100_000, np.uint32)
    source, destination = 10 << 24 | a << 16 | b << 8 | 5, 10 << 24 | (255 - a) << 16 | b << 8 | 9
    zeros = np.zeros(100_000, np.uint16)
    found = Spd(ordered).lookup(source, destination, np.full(100_000, 17, np.uint8), zeros, zeros)
    assert (found == np.where((a < 50) & (b < 20), (a * 20 + b).astype(np.int32), -1)).all()
