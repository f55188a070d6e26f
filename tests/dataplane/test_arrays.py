"""Policies and SAs as numpy arrays: the same as one by one, as strict, and all or none."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import numpy as np
import pytest
from samples import SITE_A, SITE_B, as_inbound, datagram, host_params, sa_params
from sites import A_TO_B, Pair, protect

from ipsecfast.arrays import POLICY_DTYPE, SA_COUNT_DTYPE, SA_DTYPE, policy_array, sa_array
from ipsecfast.dataplane import DataPlane, Spd
from ipsecfast.errors import DataPlaneError
from ipsecfast.model import CopyField, Policy, PolicyAction, SaParams, TrafficSelector

BITS = (128, 192, 256)


def net(text: str, protocol: int = 0, *ports: int) -> TrafficSelector:
    return TrafficSelector.from_network(ip_network(text), protocol, *ports)


ORDERED = [
    Policy(net("10.1.0.0/16", 6), net("10.2.0.0/16", 6, 443, 443), PolicyAction.DISCARD),
    Policy(net("10.1.0.0/16"), net("10.2.0.0/16"), PolicyAction.PROTECT, 7, hold=True),
    Policy(net("fd01::/64"), net("fd02::/64"), PolicyAction.BYPASS),
]


def one_selector(spi: int, bits: int = 128) -> SaParams:
    return replace(
        sa_params(spi, bits), local_ts=SITE_A[:1], remote_ts=SITE_B[:1], esn=True, replay_window=128, hard_packets=9,
        copy_dscp=CopyField.YES, tfc_padding=500,
    )  # fmt: skip


def test_policies_go_there_and_mean_the_same() -> None:
    array = policy_array(ORDERED)
    assert array.dtype == POLICY_DTYPE
    assert array["reqid"].tolist() == [0, 7, 0]
    assert array["hold"].tolist() == [False, True, False]
    assert array["destination"]["port_first"].tolist() == [443, 0, 0]
    assert bytes(array["source"]["first"]["bytes"][0][:4]) == bytes([10, 1, 0, 0])
    spd = Spd(array)
    assert len(spd) == 3
    assert spd.nbytes > 0
    flows = (["10.1.0.1"] * 3, ["10.2.0.1"] * 3, [6, 6, 17], [1] * 3, [443, 80, 443])
    assert spd.lookup(*flows).tolist() == Spd(ORDERED).lookup(*flows).tolist() == [0, 1, 1]


def test_every_second_row_of_a_larger_array_is_an_array() -> None:
    doubled = np.repeat(policy_array(ORDERED), 2)
    assert len(Spd(doubled[::2])) == 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"reqid": 0}, "policy 1: it protects, but names no reqid"),
        ({"action": 3}, "policy 1: its action is 3"),
        ({"source": {"first": {"version": 6}}}, "policy 1: .*different IP versions"),
        ({"destination": {"first": {"version": 5}, "last": {"version": 5}}}, "policy 1: .*different IP versions"),
        ({"source": {"protocol": 6}, "destination": {"protocol": 17}}, "policy 1: .*different protocols, 6 and 17"),
        ({"source": {"port_first": 9, "port_last": 8}}, "policy 1: a range"),
        ({"source": {"first": {"bytes": 255}}}, "policy 1: a range"),
    ],
)
def test_a_bad_row_is_named(change: dict[str, object], text: str) -> None:
    array = policy_array(ORDERED)
    _put(array, 1, change)
    with pytest.raises(DataPlaneError, match=text):
        Spd(array)
    plane = DataPlane()
    plane.publish_spd(ORDERED)
    with pytest.raises(DataPlaneError, match=text):
        plane.replace_policies(0, 3, array)
    assert plane.policy_count == 3
    plane.close()


def _put(array: np.ndarray, row: int, change: dict[str, object]) -> None:
    for name, value in change.items():
        if isinstance(value, dict):
            _put(array[name], row, value)
        else:
            array[name][row] = value


def test_arrays_of_another_form_are_refused() -> None:
    with pytest.raises(TypeError, match="POLICY_DTYPE, not uint8"):
        Spd(np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="one dimension"):
        Spd(np.zeros((2, 2), POLICY_DTYPE))
    plane = DataPlane()
    with pytest.raises(TypeError, match="SA_DTYPE, not list"):
        plane.install_sas_array([], inbound=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="SA_DTYPE, not uint64"):
        plane.install_sas_array(np.zeros(1, np.uint64), inbound=True)
    plane.close()


def test_sas_go_there_and_carry_packets() -> None:
    pair = Pair.make()
    pair.a.plane.publish_spd(policy_array(protect(2)))
    array = sa_array([replace(one_selector(0x5001), reqid=2)])
    pair.a.plane.install_sas_array(array, inbound=False, activate=True)
    arriving = array.copy()
    arriving["local_ts"], arriving["remote_ts"] = array["remote_ts"], array["local_ts"]
    arriving["path"]["local"], arriving["path"]["remote"] = array["path"]["remote"], array["path"]["local"]
    pair.b.plane.install_sas_array(arriving, inbound=True)
    packets = [datagram(i) for i in range(20)]
    assert pair.carry(packets) == packets[:9]  # hard_packets
    assert pair.a.sa(0x5001)["sequence"] == 9
    pair.check_conservation()
    pair.close()


@pytest.mark.parametrize("bits", BITS)
def test_a_row_says_all_that_params_say(bits: int) -> None:
    (row,) = sa_array([one_selector(0x5001, bits)])
    assert (row["spi"], row["encryption"], row["key_length"], row["mode"]) == (0x5001, 20, bits // 8 + 4, 0)
    assert bytes(row["key"][: row["key_length"]]) == one_selector(0x5001, bits).key
    assert (row["esn"], row["replay_window"], row["hard_packets"], row["copy_dscp"]) == (True, 128, 9, 3)
    assert sa_array([host_params()])["mode"].tolist() == [1]
    with pytest.raises(DataPlaneError, match="SA 0: a row has one local and one remote selector"):
        sa_array([sa_params()])


def test_all_sas_or_none_and_the_row_that_was_refused() -> None:
    plane = DataPlane()
    array = sa_array([one_selector(0x5000 + i) for i in range(5)])
    bad = array.copy()
    bad["key_length"][3] = 21
    for inbound in (True, False):
        with pytest.raises(DataPlaneError, match=r"install SA 3 \(SPI 0x00005003, reqid 1\)"):
            plane.install_sas_array(bad, inbound=inbound)
        assert plane.sa_stats() == []
        plane.install_sas_array(array, inbound=inbound)
        with pytest.raises(DataPlaneError, match="install SA 0"):
            plane.install_sas_array(array, inbound=inbound)
        assert len(plane.sa_stats()) == 5
        for i in range(5):
            plane.remove_inbound(0x5000 + i) if inbound else plane.remove_outbound(1, 0x5000 + i)
    assert plane.sa_stats_array().tolist() == []
    plane.close()


def test_counts_are_those_of_the_statistics() -> None:
    pair = Pair.make()
    pair.carry([datagram(i) for i in range(5)])
    pair.b.outer.put(b"\0\0\x10\x01" + bytes(60), pair.back.path)
    pair.step()
    for site in (pair.a, pair.b):
        counts = site.plane.sa_stats_array()
        assert counts.dtype == SA_COUNT_DTYPE
        for count, told in zip(counts, site.plane.sa_stats(), strict=True):
            names = ("spi", "reqid", "inbound", "active", "packets", "bytes", "sequence")
            assert [count[name] for name in names] == [told[name] for name in names]
            assert count["drops"] == sum(told["drops"].values())
    assert pair.b.sa(A_TO_B)["packets"] == 5
    pair.close()
    with pytest.raises(DataPlaneError, match="closed"):
        pair.a.plane.sa_stats_array()


def test_a_hundred_thousand_of_each() -> None:
    """Whole arrays in one call; that it is quick is a figure, that it works is this test."""
    number, count = np.arange(100_000), 100_000
    policies = np.repeat(policy_array(ORDERED[1:2]), count)
    policies["reqid"] = number + 1
    for end in ("first", "last"):
        policies["destination"][end]["bytes"][:, :3] = np.stack(
            [20 + (number >> 16), number >> 8 & 255, number & 255], 1
        )
    policies["destination"]["first"]["bytes"][:, 3], policies["destination"]["last"]["bytes"][:, 3] = 0, 255
    sas = np.repeat(sa_array([as_inbound(one_selector(0x5000))]), count)
    sas["spi"], sas["reqid"] = 0x100000 + number, number + 1
    assert sas.dtype == SA_DTYPE
    plane = DataPlane()
    plane.publish_spd(policies)
    plane.install_sas_array(sas, inbound=True)
    plane.install_sas_array(sas, inbound=False, activate=True)
    assert plane.policy_count == count
    counts = plane.sa_stats_array()
    assert sorted(counts["spi"][counts["inbound"]].tolist()) == sas["spi"].tolist()
    assert counts["active"].all()
    plane.close()
