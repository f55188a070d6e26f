"""Narrowing (RFC 7296 s2.9) against a naive oracle; which connection and which secret belong to a peer."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import product

import pytest
from simulation import child, connection, selector

from ipsecfast.configured import AuthConfig, PresharedKey
from ipsecfast.identity import Identity
from ipsecfast.ike.child import LANES, SLOT_MASK, InboundSpis, Reqids
from ipsecfast.ike.credential import pad
from ipsecfast.ike.wire.selectors import (
    MAX_SELECTORS,
    SelectorPair,
    choose_child,
    narrow,
    packet_first,
    with_address,
    within,
)
from ipsecfast.model import Mode, Path, TrafficSelector


def small(rng: random.Random) -> TrafficSelector:
    """A selector of a world with 8 addresses, 2 protocols and 4 ports."""
    start, port = rng.randrange(8), rng.randrange(4)
    return TrafficSelector(
        IPv4Address(start), IPv4Address(rng.randrange(start, 8)), rng.choice((0, 6, 17)), port, rng.randrange(port, 4)
    )


def packets(selectors: tuple[TrafficSelector, ...]) -> set[tuple[int, int, int]]:
    return {
        (address, protocol, port)
        for s in selectors
        for address in range(int(s.start), int(s.end) + 1)
        for protocol in ((6, 17) if s.protocol == 0 else (s.protocol,))
        for port in range(s.port_start, s.port_end + 1)
    }


@pytest.mark.parametrize("seed", range(200))
def test_narrowing_is_the_intersection(seed: int) -> None:
    rng = random.Random(seed)
    offered = tuple(small(rng) for _ in range(rng.randint(1, 4)))
    configured = tuple(small(rng) for _ in range(rng.randint(1, 4)))
    assert packets(narrow(offered, configured)) == packets(offered) & packets(configured)


def test_containing_is_having_the_other_as_what_both_allow() -> None:
    rng = random.Random(1)
    wide = TrafficSelector(IPv4Address(0), IPv4Address(7))
    some = [small(rng) for _ in range(60)]
    some += [replace(s, port_start=0, port_end=65535) for s in some[:20]]
    some += [replace(s, port_start=65535, port_end=0) for s in some[:20]]
    some += [wide, replace(wide, protocol=6), TrafficSelector(IPv6Address(0), IPv6Address(7))]
    for one, other in product(some, some):
        assert one.contains(other) == (one.intersect(other) == other), f"{one} and {other}"


def test_narrowing_keeps_no_part_twice_and_not_too_many() -> None:
    net = selector("10.0.0.0/24")
    assert narrow((selector("10.0.0.5/32"), net, net), (net,)) == (net,)
    hosts = tuple(selector(f"10.0.0.{n}/32") for n in range(200))
    assert len(narrow(hosts, (net,))) == MAX_SELECTORS


def test_the_packet_comes_first_only_if_it_is_covered() -> None:
    net, host = selector("10.0.0.0/24"), selector("10.0.0.7/32")
    assert packet_first(host, (net,)) == (host, net)
    assert packet_first(selector("10.9.0.7/32"), (net,)) == (net,)
    assert packet_first(None, (net,)) == (net,)
    assert packet_first(net, (net,)) == (net,)


def test_an_answer_must_lie_within_the_offer() -> None:
    net, host = (selector("10.0.0.0/24"),), (selector("10.0.0.7/32"),)
    assert within(SelectorPair(host, net), SelectorPair(net, net))
    assert not within(SelectorPair(net, net), SelectorPair(host, net))
    assert not within(SelectorPair((), net), SelectorPair(net, net))


def test_children_are_chosen_by_exact_then_by_packet_then_by_order() -> None:
    wide = child("wide", local_ts=(selector("10.1.0.0/16"),), remote_ts=(selector("10.2.0.0/16"),))
    exact = child("exact", local_ts=(selector("10.1.5.0/24"),), remote_ts=(selector("10.2.5.0/24"),))
    here, there = ip_address("192.0.2.1"), ip_address("192.0.2.2")

    def chosen(local: str, remote: str, mode: Mode = Mode.TUNNEL) -> str | None:
        offered = SelectorPair((selector(local),), (selector(remote),))
        found = choose_child(offered, (wide, exact), mode, here, there)
        return found[0].name if found else None

    assert chosen("10.1.5.0/24", "10.2.5.0/24") == "exact"
    assert chosen("10.1.9.0/24", "10.2.9.0/24") == "wide"
    assert chosen("10.1.0.0/16", "10.2.0.0/16") == "wide"
    assert chosen("10.8.0.0/16", "10.2.0.0/16") is None
    assert chosen("10.1.5.0/24", "10.2.5.0/24", Mode.TRANSPORT) is None


def test_addresses_behind_a_nat_are_replaced_for_hosts_only() -> None:
    seen = ip_address("198.51.100.7")
    assert with_address((selector("10.0.0.1/32"),), seen) == (selector("198.51.100.7/32"),)
    assert with_address((selector("10.0.0.0/24"),), seen) == (selector("10.0.0.0/24"),)


def test_inbound_spis_carry_the_lowest_free_slot() -> None:
    spis = InboundSpis(random.Random(1).randbytes)
    first = [spis.allocate() for _ in range(5)]
    assert [spi & SLOT_MASK for spi in first] == [0, 1, 2, 3, 4]
    assert all(spi >> 20 for spi in first)
    spis.release(first[3])
    spis.release(first[1])
    spis.release(first[1])
    again = [spis.allocate() for _ in range(3)]
    assert [spi & SLOT_MASK for spi in again] == [1, 3, 5]
    assert not set(again) & set(first), "another tag in the same slot"


def test_inbound_spis_go_round_the_lanes_and_a_successor_keeps_its_own() -> None:
    spis = InboundSpis(random.Random(1).randbytes)
    first = [spis.allocate() or 0 for _ in range(LANES + 2)]
    assert [lane_of(spi) for spi in first] == [*range(LANES), 0, 1]
    generation = first[5]
    for _ in range(100):
        successor = spis.allocate(generation) or 0
        assert lane_of(successor) == 5
        assert successor != generation
        spis.release(generation)
        generation = successor
    assert lane_of(spis.allocate() or 0) == 2


def lane_of(spi: int) -> int:
    return (spi >> 20) % LANES


def test_reqids_are_kept() -> None:
    reqids = Reqids()
    numbers = [
        reqids.get("c", "x", ""),
        reqids.get("c", "y", ""),
        reqids.get("c", "x", "peer"),
        reqids.get("c", "x", ""),
    ]
    assert numbers == [1, 2, 3, 1]
    assert reqids.owner(3) == ("c", "x", "peer")
    assert reqids.owner(9) is None


def test_the_most_exact_connection_comes_first() -> None:
    host, net, anyone = (
        connection("b", name=n, remote_addrs=a)
        for n, a in (("host", (ip_address("192.0.2.1"),)), ("net", (ip_network("192.0.2.0/24"),)), ("any", ()))
    )
    path = Path(ip_address("192.0.2.2"), 500, ip_address("192.0.2.1"), 500)
    assert [c.name for c in pad.AddressIndex((anyone, net, host)).for_path(path)] == ["host", "net", "any"]
    elsewhere = Path(ip_address("192.0.2.2"), 500, ip_address("203.0.113.1"), 500)
    assert [c.name for c in pad.AddressIndex((anyone, net, host)).for_path(elsewhere)] == ["any"]
    assert pad.AddressIndex((host,)).for_path(Path(ip_address("192.0.2.9"), 500, ip_address("192.0.2.1"), 500)) == []


def test_secrets_of_both_before_the_peers_before_ours_before_anyones() -> None:
    me, peer, other = (Identity(2, name) for name in (b"me", b"peer", b"other"))
    both, theirs, ours = (
        PresharedKey((me, peer), b"both"),
        PresharedKey((peer,), b"theirs"),
        PresharedKey((me,), b"ours"),
    )
    anyone, foreign = PresharedKey((), b"anyone"), PresharedKey((me, other), b"foreign")

    def found(*secrets: PresharedKey) -> bytes | None:
        return pad.find_secret(connection("a", secrets=secrets), me, peer)

    assert found(anyone, ours, theirs, foreign, both) == b"both"
    assert found(anyone, ours, theirs, foreign) == b"theirs"
    assert found(anyone, ours, foreign) == b"ours"
    assert found(foreign, anyone) == b"anyone"
    assert found(foreign) is None


def test_secrets_by_name_before_secrets_by_pattern() -> None:
    """As swanctl: what names the peer most exactly, then what names us most exactly."""
    me, peer = Identity(2, b"hq.example.org"), Identity(2, b"gw.lab.example.org")
    wide, narrow, exact, both = (
        PresharedKey((Identity(2, b"*.example.org"),), b"wide"),
        PresharedKey((Identity(2, b"*.lab.example.org"),), b"narrow"),
        PresharedKey((peer,), b"exact"),
        PresharedKey((me, Identity(2, b"*.lab.example.org")), b"both"),
    )
    anyone = PresharedKey((), b"anyone")

    def found(*secrets: PresharedKey, who: Identity | None = peer) -> bytes | None:
        return pad.find_secret(connection("a", secrets=secrets), me, who)

    assert found(anyone, wide, narrow, both, exact) == b"exact"
    assert found(anyone, wide, narrow, both) == b"both"
    assert found(anyone, wide, narrow) == b"narrow"
    assert found(anyone, wide) == b"wide"
    assert found(narrow, anyone, who=Identity(2, b"gw.other.org")) == b"anyone"


def test_how_exactly_a_connection_is_meant_for_a_peer() -> None:
    peer = Identity(2, b"gw.example.org")
    ranks = [
        pad.peer_rank(connection("a", remote=AuthConfig(wanted)), peer)
        for wanted in (Identity(2, b"x.org"), None, Identity(2, b"*.org"), Identity(2, b"*.example.org"), peer)
    ]
    assert ranks[0] == 0
    assert ranks == sorted(set(ranks))
    assert pad.known_peer(connection("a", remote=AuthConfig(Identity(2, b"*.org")))) is None
    assert pad.known_peer(connection("a", remote=AuthConfig(peer))) == peer
