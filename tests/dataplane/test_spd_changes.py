"""Policies that come and go in a data plane, beside a plain Python list; packets tell which of them decides."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import ipv4, ipv6, sa_params, udp

from ipsecfast.dataplane import DataPlane, MemoryPort
from ipsecfast.errors import DataPlaneError
from ipsecfast.model import Policy, PolicyAction, TrafficSelector

REQIDS = 4
HOSTS = {4: "10.1.0.{}", 6: "fd01::{}"}
NETWORKS = {
    4: ("10.1.0.0/24", "10.1.0.0/28", "10.1.0.0/30", "10.1.0.4/30"),
    6: ("fd01::/64", "fd01::/124", "fd01::4/126"),
}


class Gateway:
    """One SA a reqid; the SPI of what leaves names the reqid. `ordered` is the list that the SPD must answer as."""

    def __init__(self) -> None:
        self.plane = DataPlane()
        self.inner, self._host = MemoryPort.pair(64)
        self.outer, self._peer = MemoryPort.pair(64)
        self.worker = self.plane.add_worker("w", self.inner, [self.outer])
        self.ordered: list[Policy] = []
        for reqid in range(1, REQIDS + 1):
            self.plane.install_outbound(replace(sa_params(0x1000 + reqid), reqid=reqid))
            self.plane.activate_outbound(reqid, 0x1000 + reqid)

    def replace(self, index: int, removed: int, policies: list[Policy]) -> None:
        self.plane.replace_policies(index, removed, policies)
        self.ordered[index : index + removed] = policies
        assert self.plane.policy_count == len(self.ordered)

    def reqid_of(self, version: int, source: int, destination: int, port: int) -> int:
        """By which SA a packet leaves; 0: it doesn't."""
        ends = HOSTS[version].format(source), HOSTS[version].format(destination)
        build = ipv4 if version == 4 else ipv6
        assert self.inner.put(build(*ends, 17, udp(1000, port, bytes(8))))
        self.worker.step()
        sent = self.outer.get()
        return int.from_bytes(sent[0][:4]) - 0x1000 if sent else 0

    def expected(self, version: int, source: int, destination: int, port: int) -> int:
        for policy in self.ordered:
            ends = ((policy.source, source), (policy.destination, destination))
            inside = all(int(one.start) & 0xFF <= host <= int(one.end) & 0xFF for one, host in ends)
            inside = inside and policy.destination.port_start <= port <= policy.destination.port_end
            if inside and policy.source.version == version:
                return policy.reqid if policy.action is PolicyAction.PROTECT else 0
        return 0

    def close(self) -> None:
        self.plane.close()
        for port in (self.inner, self._host, self.outer, self._peer):
            port.close()


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    version = draw(st.sampled_from([4, 4, 6]))
    source, destination = (ip_network(draw(st.sampled_from(NETWORKS[version]))) for _ in range(2))
    ports = draw(st.sampled_from([(0, 65535), (0, 65535), (7, 7), (5, 9)]))
    reqid = draw(st.integers(0, REQIDS))
    action = PolicyAction.PROTECT if reqid else PolicyAction.DISCARD
    return Policy(
        TrafficSelector.from_network(source), TrafficSelector.from_network(destination, 17, *ports), action, reqid
    )


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_sequence_of_changes_answers_as_the_list_does(data: st.DataObject) -> None:
    gateway = Gateway()
    try:
        for _ in range(data.draw(st.integers(1, 8))):
            count = len(gateway.ordered)
            index = data.draw(st.integers(0, count))
            removed = data.draw(st.integers(0, count - index))
            gateway.replace(index, removed, data.draw(st.lists(policies(), max_size=6)))
            for _ in range(4):
                version = data.draw(st.sampled_from([4, 6]))
                source, destination = (data.draw(st.integers(1, 9)) for _ in range(2))
                packet = (version, source, destination, data.draw(st.sampled_from([6, 7, 20])))
                assert gateway.reqid_of(*packet) == gateway.expected(*packet)
    finally:
        gateway.close()


def test_what_is_refused_leaves_the_spd_as_it_was() -> None:
    gateway = Gateway()
    net = TrafficSelector.from_network(ip_network("10.1.0.0/24"))
    gateway.replace(0, 0, [Policy(net, net, PolicyAction.PROTECT, 2)])
    for index, removed in ((2, 0), (0, 2), (1, 1)):
        with pytest.raises(DataPlaneError, match="put 0 policies in the place of"):
            gateway.plane.replace_policies(index, removed, [])
    for index, removed in ((-1, 0), (0, 1 << 32)):
        with pytest.raises(DataPlaneError, match="right is 0 to"):
            gateway.plane.replace_policies(index, removed, [])
    with pytest.raises(DataPlaneError, match="put 1 policies in the place of 0 at 0"):
        gateway.plane.replace_policies(0, 0, [Policy(net, net, PolicyAction.PROTECT, 0)])
    assert gateway.plane.policy_count == 1
    assert gateway.plane.policy_bytes > 0
    assert gateway.reqid_of(4, 1, 2, 7) == 2
    gateway.close()
    with pytest.raises(DataPlaneError, match="closed"):
        gateway.plane.replace_policies(0, 0, [])
