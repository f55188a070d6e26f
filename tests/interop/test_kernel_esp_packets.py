"""Packets of the library against the ESP of a Linux kernel, with SAs set by hand on both: no IKE, no gateway.

this process: OutboundSa.seal, InboundSa.open === raw ESP, tap === guest: ip xfrm state, answers echo requests
outer 192.0.2.1  fd00:2::1                                         192.0.2.2  fd00:2::2
inner 10.1.0.2   fd00:a::2                                         10.2.0.2   fd00:b::2
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest
from linux_guest import LinuxGuest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.packet import Packet, Raw

from ipsecfast.dataplane import InboundSa, OutboundSa, PacketBatch
from ipsecfast.lab.netns import A, B, Site
from ipsecfast.model import Mode, Path, SaParams, TrafficSelector

ESP = 50
ENCR_AES_GCM_16 = 20
OUR_SPI, THEIR_SPI = 0x11112222, 0x33334444
COUNT = 20


@dataclass(frozen=True, slots=True)
class Kind:
    key_bits: int
    mode: Mode
    outer: int
    inner: int
    esn: bool

    def __str__(self) -> str:
        esn = "-esn" if self.esn else ""
        return f"aes{self.key_bits}-{self.mode.value}-v{self.inner}-in-v{self.outer}{esn}"


KINDS = [
    *(Kind(bits, Mode.TUNNEL, 4, 4, esn) for bits in (128, 192, 256) for esn in (False, True)),
    *(Kind(128, Mode.TUNNEL, outer, inner, True) for outer, inner in ((4, 6), (6, 4), (6, 6))),
    *(Kind(128, Mode.TRANSPORT, version, version, esn) for version in (4, 6) for esn in (False, True)),
]


def key_of(kind: Kind) -> bytes:
    return bytes(range(1, kind.key_bits // 8 + 5))


def our_params(kind: Kind, spi: int) -> SaParams:
    at = 0 if kind.outer == 4 else 1
    if kind.mode is Mode.TRANSPORT:
        local, remote = (ip_network(side.outer[at]) for side in (A, B))
    else:
        at_inner = 0 if kind.inner == 4 else 1
        local, remote = (ip_network(side.networks[at_inner]) for side in (A, B))
    return SaParams(
        spi=spi,
        reqid=1,
        encryption=ENCR_AES_GCM_16,
        key=key_of(kind),
        path=Path(ip_address(A.outer[at]), 0, ip_address(B.outer[at]), 0),
        local_ts=(TrafficSelector.from_network(local),),
        remote_ts=(TrafficSelector.from_network(remote),),
        mode=kind.mode,
        esn=kind.esn,
    )


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest, guest: LinuxGuest) -> Iterator[Kind]:
    """The guest has the SAs and policies of that kind."""
    wanted: Kind = request.param
    at, at_inner = (0 if version == 4 else 1 for version in (wanted.outer, wanted.inner))
    ours, theirs = A.outer[at], B.outer[at]
    window = ("replay-window", "128", "flag", "esn") if wanted.esn else ("replay-window", "32")
    if wanted.inner != wanted.outer:
        window += ("af-unspec",) if wanted.esn else ("flag", "af-unspec")
    for source, destination, spi in ((ours, theirs, THEIR_SPI), (theirs, ours, OUR_SPI)):
        guest.run(
            "ip", "xfrm", "state", "add", "src", source, "dst", destination, "proto", "esp", "spi", hex(spi), "reqid",
            "1", "mode", wanted.mode.value, *window, "aead", "rfc4106(gcm(aes))", f"0x{key_of(wanted).hex()}", "128",
        )  # fmt: skip
    inside = wanted.mode is Mode.TUNNEL
    near, far = (A.networks[at_inner], B.networks[at_inner]) if inside else (ours, theirs)
    for direction, source, destination, ends in (("in", near, far, (ours, theirs)), ("out", far, near, (theirs, ours))):
        guest.run(
            "ip", "xfrm", "policy", "add", "src", source, "dst", destination, "dir", direction, "tmpl", "src", ends[0],
            "dst", ends[1], "proto", "esp", "reqid", "1", "mode", wanted.mode.value,
        )  # fmt: skip
    yield wanted
    guest.run("ip", "xfrm", "policy", "flush")
    guest.run("ip", "xfrm", "state", "flush")


@pytest.fixture(scope="module", autouse=True)
def routes(guest: LinuxGuest) -> None:
    guest.run("ip", "route", "add", A.networks[0], "via", A.outer[0])
    guest.run("ip", "-6", "route", "add", A.networks[1], "via", A.outer[1])


def echo_request(kind: Kind, number: int) -> bytes:
    at = 0 if kind.inner == 4 else 1
    inside = kind.mode is Mode.TUNNEL
    source, destination = (side.host[at] if inside else side.outer[at] for side in (A, B))
    data = Raw(bytes(number * 7 % 200))
    packet: Packet = (
        IP(src=source, dst=destination) / ICMP(id=7, seq=number) / data
        if kind.inner == 4
        else IPv6(src=source, dst=destination) / ICMPv6EchoRequest(id=7, seq=number) / data
    )
    return bytes(packet)


def exchange(kind: Kind, sealed: list[bytes]) -> list[bytes]:
    """Sends ESP to the guest and gathers what comes back, both as the library has it: ESP alone in tunnel mode, behind
    its IP header in transport mode. The raw socket takes no IP header, and gives one only with IPv4.
    """
    family, at, header = (socket.AF_INET, 0, 20) if kind.outer == 4 else (socket.AF_INET6, 1, 40)
    with_header = kind.mode is Mode.TRANSPORT
    with socket.socket(family, socket.SOCK_RAW, ESP) as raw:
        raw.bind((A.outer[at], 0))
        raw.connect((B.outer[at], 0))
        for packet in sealed:
            raw.send(packet[header:] if with_header else packet)
        raw.settimeout(5.0)
        answers = [raw.recv(65535) for _ in sealed]
    if kind.outer == 4:
        return answers if with_header else [answer[header:] for answer in answers]
    return [bytes(IPv6(src=B.outer[at], dst=A.outer[at], nh=ESP) / Raw(a)) if with_header else a for a in answers]


def test_the_kernel_opens_ours_and_we_open_the_kernels(site_a: Site, guest: LinuxGuest, kind: Kind) -> None:
    out, into = OutboundSa(our_params(kind, THEIR_SPI)), InboundSa(our_params(kind, OUR_SPI))
    sealed, refused = out.seal(PacketBatch.from_packets([echo_request(kind, number) for number in range(COUNT)]))
    assert not refused.any()
    try:
        answers = site_a.gateway.run(exchange, kind, [bytes(packet) for packet in sealed])
    except TimeoutError:
        pytest.fail(f"no answer from the kernel:\n{guest.run('cat', '/proc/net/xfrm_stat')}")
    opened, dropped = into.open(PacketBatch.from_packets(answers))
    assert not dropped.any()
    assert sorted(reply_number(kind, bytes(packet)) for packet in opened) == list(range(COUNT))


def reply_number(kind: Kind, packet: bytes) -> int:
    if kind.inner == 4:
        reply = IP(packet)
        assert reply[ICMP].type == 0
        assert len(reply[ICMP].payload) == reply[ICMP].seq * 7 % 200
        return int(reply[ICMP].seq)
    reply6 = IPv6(packet)
    assert len(reply6[ICMPv6EchoReply].data) == reply6[ICMPv6EchoReply].seq * 7 % 200
    return int(reply6[ICMPv6EchoReply].seq)
