"""ESP against scapy, an implementation that has nothing in common with ours: each seals what the other opens."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import ip_address
from itertools import product

import pytest
from samples import (
    ENGINES,
    GATEWAYS,
    HOSTS,
    KEY_BITS,
    as_inbound,
    datagram,
    host_params,
    ipv4,
    ipv6,
    open_all,
    sa_params,
    seal_all,
    udp,
)

from ipsecfast.dataplane import InboundSa, OutboundSa
from ipsecfast.model import Mode, SaParams

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.layers.ipsec import ESP, SecurityAssociation  # noqa: E402

SIZES = (60, 61, 62, 63, 64, 127, 576, 1400)
TUNNELS = list(product(KEY_BITS, (4, 6), (4, 6)))  # key, outer version, inner version


def oracle(params: SaParams, outer: int) -> SecurityAssociation:
    """The same SA in scapy. Tunnel mode has the outer header of the path from A to B."""
    source, destination = GATEWAYS[outer]
    header = IP(src=source, dst=destination) if outer == 4 else IPv6(src=source, dst=destination)
    return SecurityAssociation(
        ESP,
        spi=params.spi,
        crypt_algo="AES-GCM",
        crypt_key=params.key,
        tunnel_header=header if params.mode is Mode.TUNNEL else None,
        nat_t_header=UDP(sport=4500, dport=4500) if params.udp_encap else None,
        esn_en=params.esn,
    )


def parsed(packet: bytes) -> IP | IPv6:
    return IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)


def carried(esp: bytes, outer: int, udp_encap: bool) -> IP | IPv6:
    """What the port would send: the datagram behind its UDP and IP header."""
    build = ipv4 if outer == 4 else ipv6
    payload = udp(4500, 4500, esp) if udp_encap else esp
    return parsed(build(*GATEWAYS[outer], 17 if udp_encap else 50, payload))


def bare(packet: IP | IPv6) -> bytes:
    """The ESP datagram without IP and UDP header."""
    return bytes(packet[ESP])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("bits", "outer", "inner"), TUNNELS)
@pytest.mark.parametrize("udp_encap", [False, True], ids=["bare", "udp"])
def test_scapy_opens_what_we_seal_in_tunnel_mode(
    engine: str, bits: int, outer: int, inner: int, udp_encap: bool
) -> None:
    params = sa_params(bits=bits, outer=outer, udp_encap=udp_encap)
    packets = [datagram(i, size, inner) for i, size in enumerate(SIZES)]
    sealed = seal_all(OutboundSa(params, engine=engine), packets)
    other = oracle(params, outer)
    assert [bytes(other.decrypt(carried(esp, outer, udp_encap))) for esp in sealed] == packets
    assert [int.from_bytes(esp[4:8]) for esp in sealed] == list(range(1, len(SIZES) + 1))
    assert all(len(esp) % 4 == 0 for esp in sealed)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("bits", "outer", "inner"), TUNNELS)
@pytest.mark.parametrize("udp_encap", [False, True], ids=["bare", "udp"])
def test_we_open_what_scapy_seals_in_tunnel_mode(
    engine: str, bits: int, outer: int, inner: int, udp_encap: bool
) -> None:
    params = sa_params(bits=bits, outer=outer, udp_encap=udp_encap)
    packets = [datagram(i, size, inner) for i, size in enumerate(SIZES)]
    other = oracle(params, outer)
    sealed = [bare(other.encrypt(parsed(packet), iv=i.to_bytes(8))) for i, packet in enumerate(packets)]
    opened, reasons = open_all(InboundSa(as_inbound(params), engine=engine), sealed)
    assert reasons == ["none"] * len(packets)
    assert opened == packets


def host_datagram(number: int, size: int, version: int) -> bytes:
    """Between the gateways themselves."""
    build, head = (ipv4, 20) if version == 4 else (ipv6, 40)
    return build(*GATEWAYS[version], 17, udp(5000, 6000, bytes([number]) * (size - head - 8)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("bits", "outer"), list(product(KEY_BITS, (4, 6))))
def test_transport_mode_agrees_with_scapy_both_ways(engine: str, bits: int, outer: int) -> None:
    params = host_params(bits=bits, outer=outer, udp_encap=False)
    packets = [host_datagram(i, size, outer) for i, size in enumerate(SIZES)]
    ours = seal_all(OutboundSa(params, engine=engine), packets)
    other = oracle(params, outer)
    assert [bytes(other.decrypt(parsed(one))) for one in ours] == packets
    theirs = [bytes(other.encrypt(parsed(packet), iv=i.to_bytes(8))) for i, packet in enumerate(packets)]
    opened, reasons = open_all(InboundSa(as_inbound(params), engine=engine), theirs)
    assert reasons == ["none"] * len(packets)
    assert opened == packets


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("start", [0, 2**32 - 4, 7 * 2**32 - 3, 2**40], ids=hex)
def test_esn_agrees_with_scapy_across_the_carry(engine: str, start: int) -> None:
    """RFC 4303 s2.2.1, RFC 4106 s5: the AAD holds all 64 bits, the header the lower 32."""
    params = sa_params(esn=True, initial_sequence=start, udp_encap=False)
    packets = [datagram(i) for i in range(8)]
    numbers = range(start + 1, start + 9)
    ours = seal_all(OutboundSa(params, engine=engine), packets)
    other = oracle(params, 4)
    for number, esp, packet in zip(numbers, ours, packets, strict=True):
        assert int.from_bytes(esp[8:16]) == number
        assert bytes(other.decrypt(carried(esp, 4, False), esn_en=True, esn=number >> 32)) == packet
    theirs = []
    for number, packet in zip(numbers, packets, strict=True):
        other.seq_num = number & 0xFFFFFFFF  # an argument of 0 would mean "the next"
        theirs.append(bare(other.encrypt(parsed(packet), iv=number.to_bytes(8), esn_en=True, esn=number >> 32)))
    assert open_all(InboundSa(as_inbound(params), engine=engine), theirs) == (packets, ["none"] * 8)


@pytest.mark.parametrize("bits", KEY_BITS)
def test_engines_agree_bit_for_bit(bits: int) -> None:
    params = sa_params(bits=bits)
    packets = [datagram(i, size) for i, size in enumerate(range(60, 1460, 7))]
    results = [seal_all(OutboundSa(params, engine=engine), packets) for engine in ENGINES]
    assert all(result == results[0] for result in results)
    for engine in ENGINES:
        assert open_all(InboundSa(as_inbound(params), engine=engine), results[0]) == (packets, ["none"] * len(packets))


def test_a_wrong_key_opens_nothing() -> None:
    params = sa_params()
    sealed = seal_all(OutboundSa(params), [datagram(i) for i in range(5)])
    wrong = replace(params, key=bytes(20))
    assert open_all(InboundSa(as_inbound(wrong)), sealed) == ([b""] * 5, ["integrity"] * 5)


def test_the_salt_is_part_of_the_nonce() -> None:
    params = sa_params()
    sealed = seal_all(OutboundSa(params), [datagram()])
    other_salt = replace(params, key=params.key[:-1] + bytes([params.key[-1] ^ 1]))
    assert open_all(InboundSa(as_inbound(other_salt)), sealed) == ([b""], ["integrity"])


def test_extra_traffic_flow_padding_is_cut_off() -> None:
    """RFC 4303 s2.7: bytes behind the inner packet, known by its own length, in front of the ESP trailer."""
    params = sa_params(udp_encap=False)
    packet = datagram(size=80)
    padded = ipv4(*HOSTS[4], 17, packet[20:] + bytes(100))
    longer = padded[:2] + packet[2:4] + padded[4:10] + packet[10:12] + padded[12:]
    sealed = bytes(oracle(params, 4).encrypt(parsed(longer), iv=bytes(8))[ESP])
    assert ip_address(HOSTS[4][0]).packed in longer
    assert open_all(InboundSa(as_inbound(params)), [sealed]) == ([packet], ["none"])
