"""ECN, DSCP and DF between inner and outer header: RFC 6040, RFC 4301 s5.1.2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from samples import as_inbound, checksum, datagram, reverse, sa_params, seal_all
from sites import A_TO_B, Pair

from ipsecfast.dataplane import OutboundSa
from ipsecfast.model import CopyField

NOT_ECT, ECT1, ECT0, CE = range(4)  # as they stand in the header (RFC 3168 s5)
DROP = None
# RFC 6040 s4.2, figure 4: inner -> what arrives for each outer (Not-ECT, ECT(0), ECT(1), CE).
FIGURE_4 = {
    NOT_ECT: (NOT_ECT, NOT_ECT, NOT_ECT, DROP),
    ECT0: (ECT0, ECT0, ECT1, CE),
    ECT1: (ECT1, ECT1, ECT1, CE),
    CE: (CE, CE, CE, CE),
}
TABLE = [
    (inner, outer, result)
    for inner, row in FIGURE_4.items()
    for outer, result in zip((NOT_ECT, ECT0, ECT1, CE), row, strict=True)
]


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair.make()
    yield made
    made.check_conservation()
    made.close()


def tos_of(packet: bytes) -> int:
    return packet[1] if packet[0] >> 4 == 4 else (packet[0] << 4 | packet[1] >> 4) & 0xFF


def arrive(pair: Pair, packet: bytes, outer_tos: int, **changes: object) -> list[bytes]:
    """`packet` sealed by A's peer in the library, put before B with a TOS byte as the network left it."""
    params = replace(pair.forward, spi=0x4001, **changes)  # type: ignore[arg-type]
    pair.b.plane.install_inbound(as_inbound(params))
    (esp,) = seal_all(OutboundSa(params), [packet])
    assert pair.b.outer.put(esp, reverse(params.path), outer_tos)
    pair.step()
    return pair.b.received()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("inner", "outer", "result"), TABLE)
def test_decapsulation_follows_figure_4(pair: Pair, version: int, inner: int, outer: int, result: int | None) -> None:
    packet = datagram(version=version, tos=0xB8 | inner)
    arrived = arrive(pair, packet, 0x20 | outer)
    if result is DROP:
        assert arrived == []
        assert pair.b.drops == {"ecn": 1}
        return
    assert arrived == [datagram(version=version, tos=0xB8 | result)]
    if version == 4:
        assert checksum(arrived[0][:20]) == 0


@pytest.mark.parametrize(("inner", "outer"), list(product(range(4), repeat=2)))
def test_without_copy_ecn_the_inner_field_stays(pair: Pair, inner: int, outer: int) -> None:
    assert arrive(pair, datagram(tos=inner), outer, copy_ecn=False) == [datagram(tos=inner)]


def sent_tos(pair: Pair, packet: bytes, **changes: object) -> int:
    """The outer TOS byte with which A sends `packet`."""
    pair.a.plane.remove_outbound(1, A_TO_B)
    pair.a.plane.install_outbound(replace(pair.forward, **changes))  # type: ignore[arg-type]
    pair.a.plane.activate_outbound(1, A_TO_B)
    pair.a.put([packet])
    pair.a.step()
    esp_path_tos = pair.a.outer.get()
    assert esp_path_tos is not None
    assert esp_path_tos[1] == pair.forward.path
    return esp_path_tos[2]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ecn", range(4))
@pytest.mark.parametrize(
    ("copy_ecn", "copy_dscp", "mask"),
    [(True, CopyField.OUT, 0xFF), (True, CopyField.YES, 0xFF), (True, CopyField.NO, 0x03), (True, CopyField.IN, 0x03),
     (False, CopyField.OUT, 0xFC), (False, CopyField.NO, 0x00)],
)  # fmt: skip
def test_encapsulation_copies_what_the_sa_says(
    pair: Pair, version: int, ecn: int, copy_ecn: bool, copy_dscp: CopyField, mask: int
) -> None:
    """RFC 6040 s4.1: normal mode copies the whole field, CE included; without it the outer field is Not-ECT."""
    packet = datagram(version=version, tos=0xB8 | ecn)
    assert sent_tos(pair, packet, copy_ecn=copy_ecn, copy_dscp=copy_dscp) == (0xB8 | ecn) & mask


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("copy_dscp", "arrives"),
    [(CopyField.OUT, 0xB8), (CopyField.NO, 0xB8), (CopyField.IN, 0x20), (CopyField.YES, 0x20)],
)
def test_dscp_comes_in_only_where_the_sa_says(pair: Pair, version: int, copy_dscp: CopyField, arrives: int) -> None:
    (packet,) = arrive(pair, datagram(version=version, tos=0xB8), 0x20, copy_dscp=copy_dscp)
    assert tos_of(packet) == arrives


def test_hops_are_left_alone() -> None:
    """The kernel counted this hop when it forwarded the packet to the TUN device (RFC 4301 s5.1.2)."""
    pair = Pair.make()
    packets = [datagram(ttl=1), datagram(ttl=64), datagram(ttl=255)]
    assert pair.carry(packets) == packets
    pair.check_conservation()
    pair.close()


def test_the_library_seals_the_inner_header_untouched() -> None:
    packet = datagram(tos=0xB9)
    assert len(seal_all(OutboundSa(sa_params()), [packet])[0]) >= len(packet)
