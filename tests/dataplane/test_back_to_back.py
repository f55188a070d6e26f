"""Two gateways' data planes: traffic, rekeys, holding and releasing, and the law that no packet is lost unseen."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from samples import (
    ENGINES,
    GATEWAYS,
    HOSTS,
    SITE_A,
    SITE_B,
    as_inbound,
    datagram,
    host_params,
    ipv4,
    open_all,
    path_of,
    reverse,
    sa_params,
    udp,
)
from sites import A_TO_B, B_TO_A, Pair, protect

from ipsecfast.dataplane import InboundSa
from ipsecfast.errors import DataPlaneError
from ipsecfast.model import (
    Acquire,
    FirstInbound,
    IkeDatagram,
    Path,
    PeerMoved,
    Policy,
    PolicyAction,
    TrafficSelector,
    UnknownSpi,
)

MIXED = Path(ip_address("::1"), 4500, ip_address("192.0.2.2"), 4500)
WHOLE_IPV4 = TrafficSelector(ip_address("0.0.0.0"), ip_address("255.255.255.255"))


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair.make()
    yield made
    made.check_conservation()
    made.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("udp_encap", [False, True], ids=["bare", "udp"])
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("inner", [4, 6])
def test_packets_cross_the_tunnel_both_ways(engine: str, udp_encap: bool, outer: int, inner: int) -> None:
    pair = Pair.make(outer=outer, engine=engine, udp_encap=udp_encap)
    there = [datagram(i, 60 + i * 9, inner) for i in range(150)]
    back = [datagram(i, 60 + i * 9, inner, back=True) for i in range(150)]
    pair.a.put(there)
    pair.b.put(back)
    pair.step()
    assert pair.b.received() == there
    assert pair.a.received() == back
    assert pair.a.drops == pair.b.drops == {}
    pair.check_conservation()
    pair.close()


@pytest.mark.parametrize("inner", [4, 6])
def test_tfc_padding_makes_all_packets_as_long_as_the_longest(inner: int) -> None:
    """RFC 4303 s2.7; what is longer stays as it is, and B gets what A's hosts sent."""
    pair = Pair.make(tfc_padding=1000)
    there = [datagram(i, 60 + i * 9, inner) for i in range(120)]
    pair.a.put(there)
    pair.a.step()
    sent = [(bytes(esp), path) for esp, path, _ in iter(pair.a.outer.get, None)]
    short = [len(esp) for (esp, _), packet in zip(sent, there, strict=True) if len(packet) <= 1000]
    assert len(short) > 100
    assert set(short) == {16 + 1000 + 4 + 16}
    opened = InboundSa(as_inbound(pair.forward))
    assert open_all(opened, [esp for esp, _ in sent]) == (there, ["none"] * len(there))
    pair.close()


def test_what_leaves_is_bare_esp_on_the_path_of_the_sa(pair: Pair) -> None:
    """UDP and IP headers are the business of the port."""
    pair.a.put([datagram()])
    pair.a.step()
    sent = pair.a.outer.get()
    assert sent is not None
    esp, path, tos = sent
    assert esp[:16] == struct.pack("!IIQ", A_TO_B, 1, 1)
    assert (path, tos) == (pair.forward.path, 0)


def test_counters_tell_packets_and_bytes(pair: Pair) -> None:
    packets = [datagram(i, 500) for i in range(70)]
    assert pair.carry(packets) == packets
    out, into = pair.a.plane.worker_stats()[0]["outbound"], pair.b.plane.worker_stats()[0]["inbound"]
    assert (out["rx_packets"], out["rx_bytes"]) == (70, 70 * 500)
    assert (into["tx_packets"], into["tx_bytes"]) == (70, 70 * 500)
    assert out["tx_bytes"] == into["rx_bytes"] > 70 * 500
    sent, received = pair.a.sa(A_TO_B), pair.b.sa(A_TO_B)
    assert (sent["packets"], sent["bytes"], sent["sequence"], sent["active"]) == (70, 35_000, 70, True)
    assert (received["packets"], received["bytes"], received["sequence"], received["inbound"]) == (70, 35_000, 70, True)


def test_replayed_datagrams_are_dropped_and_counted(pair: Pair) -> None:
    pair.a.plane.remove_outbound(1, A_TO_B)
    pair.a.plane.install_outbound(pair.forward)
    pair.a.plane.activate_outbound(1, A_TO_B)
    packets = [datagram(i) for i in range(10)]
    assert pair.carry(packets) == packets
    again = replace(pair.forward, initial_sequence=0)
    pair.a.plane.remove_outbound(1, A_TO_B)
    pair.a.plane.install_outbound(again)
    pair.a.plane.activate_outbound(1, A_TO_B)
    assert pair.carry(packets) == []
    assert pair.b.drops == {"replay": 10}
    assert pair.b.sa(A_TO_B)["drops"] == {"replay": 10}


def test_a_wrong_key_is_an_integrity_failure_and_no_sign_of_life(pair: Pair) -> None:
    pair.a.plane.remove_outbound(1, A_TO_B)
    pair.a.plane.install_outbound(replace(pair.forward, key=bytes(20)))
    pair.a.plane.activate_outbound(1, A_TO_B)
    assert pair.carry([datagram(i) for i in range(3)]) == []
    assert pair.b.drops == {"integrity": 3}
    assert pair.b.events() == []


def test_an_unknown_spi_is_counted_and_told(pair: Pair) -> None:
    pair.b.plane.remove_inbound(A_TO_B)
    assert pair.carry([datagram(i) for i in range(5)]) == []
    assert pair.b.drops == {"unknown-spi": 5}
    told = pair.b.events()
    assert told
    assert set(told) == {UnknownSpi(A_TO_B, reverse(path_of()))}


def test_first_inbound_is_told_once(pair: Pair) -> None:
    pair.carry([datagram(i) for i in range(100)])
    assert pair.b.events() == [FirstInbound(A_TO_B)]
    pair.carry([datagram(i) for i in range(100)])
    assert pair.b.events() == []


def test_a_moved_peer_is_told_and_followed(pair: Pair) -> None:
    """RFC 7296 s2.23: only the newest authentic packet moves a peer; what B then sends goes where A is."""
    pair.carry([datagram()])
    pair.b.events()
    moved = replace(pair.forward.path, local=ip_address("192.0.2.99"), local_port=61000)
    pair.a.plane.move_peer(1, B_TO_A, A_TO_B, moved)
    pair.carry([datagram(1)])
    assert pair.b.events() == [PeerMoved(A_TO_B, reverse(moved))]
    pair.b.plane.move_peer(1, A_TO_B, B_TO_A, reverse(moved))
    pair.b.put([datagram(back=True)])
    pair.step()
    assert pair.a.received() == [datagram(back=True)]
    pair.carry([datagram(2)])
    assert pair.b.events() == []


def test_rekeying_under_traffic_loses_nothing(pair: Pair) -> None:
    """RFC 7296 s2.8: install both inbound SAs, switch, then delete; what is under way on the old SA still arrives."""
    sent, arrived = [], []
    for generation in range(1, 21):
        new = replace(pair.forward, spi=A_TO_B + generation, key=bytes([generation]) * 20)
        pair.b.plane.install_inbound(as_inbound(new))
        pair.a.plane.install_outbound(new)
        batch = [datagram(generation * 1000 + i) for i in range(200)]
        pair.a.put(batch[:100])
        pair.a.step()
        pair.a.plane.activate_outbound(1, new.spi)
        pair.a.plane.remove_outbound(1, new.spi - 1)
        pair.a.put(batch[100:])
        pair.a.step()
        pair.b.step()
        pair.b.plane.remove_inbound(new.spi - 1)
        sent += batch
        arrived += pair.b.received()
    assert arrived == sent
    assert pair.a.drops == pair.b.drops == {}
    assert {sa["spi"] for sa in pair.b.plane.sa_stats() if sa["inbound"]} == {A_TO_B + 20}


def test_a_registered_sa_carries_nothing(pair: Pair) -> None:
    new = replace(pair.forward, spi=A_TO_B + 1)
    pair.a.plane.install_outbound(new)
    pair.carry([datagram(i) for i in range(5)])
    assert pair.a.sa(A_TO_B + 1)["packets"] == 0
    assert not pair.a.sa(A_TO_B + 1)["active"]
    assert pair.a.sa(A_TO_B)["packets"] == 5


def test_without_an_active_sa_packets_are_dropped(pair: Pair) -> None:
    pair.a.plane.remove_outbound(1, A_TO_B)
    assert pair.carry([datagram(i) for i in range(5)]) == []
    assert pair.a.drops == {"no-sa": 5}


def test_held_packets_ask_for_an_sa_and_leave_by_it_in_order(pair: Pair) -> None:
    """RFC 4301 s5.1, start_action trap: the first packets are not lost."""
    pair.a.plane.publish_spd(protect(7, hold=True))
    packets = [datagram(i) for i in range(10)]
    assert pair.carry(packets) == []
    assert pair.a.plane.worker_stats()[0]["held"] == 10
    (event,) = pair.a.events()
    assert isinstance(event, Acquire)
    assert event.reqid == 7
    assert (str(event.source.start), str(event.destination.start)) == HOSTS[4]
    assert (event.source.protocol, event.source.port_start, event.destination.port_start) == (17, 5000, 6000)
    new = replace(pair.forward, spi=0x7001, reqid=7)
    pair.b.plane.install_inbound(as_inbound(new))
    pair.a.plane.install_outbound(new)
    pair.a.plane.activate_outbound(7, new.spi)
    pair.step()
    assert pair.b.received() == packets
    assert pair.a.plane.worker_stats()[0]["held"] == 0
    assert pair.a.drops == {}


def test_held_packets_of_a_child_that_never_comes_are_released_and_counted(pair: Pair) -> None:
    pair.a.plane.publish_spd(protect(7, hold=True))
    pair.carry([datagram(i) for i in range(10)])
    pair.a.plane.release_held(7)
    pair.step()
    assert pair.a.plane.worker_stats()[0]["held"] == 0
    assert pair.a.drops == {"hold-released": 10}


def test_holding_has_an_end(pair: Pair) -> None:
    pair.a.plane.publish_spd(protect(7, hold=True))
    pair.carry([datagram(i) for i in range(2000)])
    held = pair.a.plane.worker_stats()[0]["held"]
    assert 0 < held < 2000
    assert pair.a.drops == {"hold-full": 2000 - held}
    pair.a.plane.release_held(7)
    pair.step()
    assert pair.a.drops == {"hold-full": 2000 - held, "hold-released": held}


def test_policies_decide_in_their_order(pair: Pair) -> None:
    """RFC 4301 s4.4.1: the first that matches; what none matches is dropped."""
    discard = TrafficSelector(ip_address("10.2.0.2"), ip_address("10.2.0.2"), 17, 6001, 6001)
    pair.a.plane.publish_spd([Policy(SITE_A[0], discard, PolicyAction.DISCARD), *protect(1)])
    to_6001 = ipv4(*HOSTS[4], 17, udp(5000, 6001, b"x" * 20))
    elsewhere = ipv4("10.1.0.2", "10.3.0.1", 17, udp(5000, 6001, b"x" * 20))
    assert pair.carry([datagram(), to_6001, elsewhere, datagram(1)]) == [datagram(), datagram(1)]
    assert pair.a.drops == {"policy-discard": 1, "no-policy": 1}


def test_what_the_sa_does_not_cover_is_refused_after_decapsulation(pair: Pair) -> None:
    """RFC 4301 s5.2: A's SPD lets through what B never agreed to."""
    pair.a.plane.publish_spd([Policy(WHOLE_IPV4, WHOLE_IPV4, PolicyAction.PROTECT, 1)])
    stranger = ipv4("172.16.0.1", HOSTS[4][1], 17, udp(1, 2, b"spoofed"))
    assert pair.carry([stranger, datagram()]) == [datagram()]
    assert pair.b.drops == {"selector": 1}
    assert pair.b.sa(A_TO_B)["drops"] == {"selector": 1}


def test_fragments_whose_ports_decide_are_dropped(pair: Pair) -> None:
    """RFC 4301 s7: a later fragment shows no ports; policies without ports carry it."""
    later = ipv4(*HOSTS[4], 17, bytes(64), flags=0x2010)
    assert pair.carry([later]) == [later]
    narrow = TrafficSelector(SITE_B[0].start, SITE_B[0].end, 17, 6000, 6000)
    pair.a.plane.publish_spd(protect(1, SITE_A, [narrow]))
    assert pair.carry([later, datagram()]) == [datagram()]
    assert pair.a.drops == {"fragment": 1}


def test_ike_behind_the_marker_and_keepalives_are_consumed(pair: Pair) -> None:
    """RFC 3948 s2.2, s2.3."""
    path = reverse(pair.forward.path)
    message = bytes(range(200))
    assert pair.b.outer.put(bytes(4) + message, path)
    assert pair.b.outer.put(b"\xff", path)
    pair.step()
    assert pair.b.events() == [IkeDatagram(path, message)]
    assert pair.b.plane.worker_stats()[0]["consumed"] == 2
    assert pair.b.drops == {}


def test_lying_and_short_datagrams_have_their_reasons(pair: Pair) -> None:
    path = reverse(pair.forward.path)
    short = [bytes([1]) * size for size in (0, 1, 3, 4, 7, 8, 16, 31)]
    for datagram_ in short:
        assert pair.b.outer.put(datagram_, path)
    lying = [
        datagram()[:-1],
        datagram()[:10],
        b"\x45" + bytes(60),
        b"\x60" + bytes(60),
        b"\x00" * 40,
        b"\x4f" + bytes(30),
    ]
    pair.b.put(lying)
    pair.step()
    drops = pair.b.drops
    assert drops.pop("malformed") == len(lying)
    assert sum(drops.values()) == len(short)
    assert set(drops) <= {"too-short", "unknown-spi"}


def test_transport_mode_rebuilds_the_header_from_the_path() -> None:
    """RFC 4303 s3.1.1: between the gateways themselves, the addresses travel as the outer ones."""
    pair = Pair.make()
    forward = host_params(0x3001, reqid=3)
    pair.b.plane.install_inbound(as_inbound(forward))
    pair.a.plane.install_outbound(forward)
    pair.a.plane.activate_outbound(3, forward.spi)
    pair.a.plane.publish_spd(protect(3, forward.local_ts, forward.remote_ts))
    packet = ipv4(*GATEWAYS[4], 17, udp(1, 2, b"between the gateways"))
    (arrived,) = pair.carry([packet])
    assert arrived[12:] == packet[12:]
    assert arrived[9] == 17
    assert len(arrived) == len(packet)
    pair.check_conservation()
    pair.close()


def test_a_full_port_drops_and_counts() -> None:
    pair = Pair.make(capacity=64)
    pair.a.put([datagram(i) for i in range(64)])
    pair.a.step()
    pair.a.put([datagram(i) for i in range(40)])
    pair.a.step()
    assert pair.a.drops == {"port-full": 40}
    pair.check_conservation()
    pair.close()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (lambda plane: plane.activate_outbound(1, 0x9999), "activate outbound SA .*0x00009999.*no such"),
        (lambda plane: plane.remove_inbound(0x9999), "remove inbound SA .*0x00009999"),
        (lambda plane: plane.remove_outbound(1, 0x9999), "remove outbound SA"),
        (lambda plane: plane.move_peer(1, 0x8888, 0x9999, path_of()), "move SAs 0x00008888, 0x00009999"),
        (lambda plane: plane.install_inbound(as_inbound(sa_params(A_TO_B))), "inbound SA 0x00001001: .*already"),
        (lambda plane: plane.install_inbound(sa_params(0x5001, key=bytes(19))), "install inbound SA 0x00005001"),
        (lambda plane: plane.install_inbound(sa_params(0x5001, replay_window=63)), "0x00005001"),
        (lambda plane: plane.install_outbound(sa_params(0x5001, encryption=12)), "install outbound SA 0x00005001"),
        (lambda plane: plane.install_outbound(sa_params(1 << 32)), "spi is 4294967296"),
        (lambda plane: plane.install_outbound(sa_params(key=bytes(37))), "at most 36 bytes"),
        (lambda plane: plane.install_outbound(sa_params(path=MIXED)), "one IP version"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_commands_that_cannot_be_are_refused_with_a_reason(pair: Pair, command, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataPlaneError, match=text):
        command(pair.b.plane)
