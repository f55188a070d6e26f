"""Several workers of one data plane, stepped by hand: who owns an SA, what is handed over, that all of it is counted.

test -- a.inner[i] | A, N workers | a.outer[i] -- test, as the network -- b.outer[j] | B, N workers | b.inner[j] -- test
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from samples import as_inbound, ipv4, reverse, sa_params, udp
from sites import protect

from ipsecfast.dataplane import DataPlane, MemoryPort, Worker
from ipsecfast.errors import DataPlaneError
from ipsecfast.model import FirstInbound, SaParams, TrafficSelector

OWNER_SHIFT = 20  # csrc/steer.h


class Plane:
    """A data plane with `count` workers, each with an inner and an outer port of its own."""

    def __init__(self, count: int) -> None:
        self.plane = DataPlane()
        self.inner = [MemoryPort.pair()[0] for _ in range(count)]
        self.outer = [MemoryPort.pair()[0] for _ in range(count)]
        ports = zip(self.inner, self.outer, strict=True)
        self.workers: list[Worker] = [
            self.plane.add_worker(f"w{i}", inner, [outer]) for i, (inner, outer) in enumerate(ports)
        ]

    def step(self) -> None:
        while sum(worker.step() for worker in self.workers):
            pass

    def received(self) -> list[list[bytes]]:
        """What each worker gave its hosts."""
        return [[packet for packet, _, _ in iter(port.get, None)] for port in self.inner]

    def stats(self) -> list[dict[str, Any]]:
        return self.plane.worker_stats()

    def check_conservation(self) -> None:
        total = 0
        for stats in self.stats():
            total += stats["outbound"]["rx_packets"] + stats["inbound"]["rx_packets"]
            total -= stats["outbound"]["tx_packets"] + stats["inbound"]["tx_packets"]
            total -= sum(stats["drops"].values()) + stats["consumed"] + stats["held"]
        assert total == 0, self.stats()
        assert sum(stats["handed_over"] - stats["taken_over"] for stats in self.stats()) == 0


def sa_of_lane(lane: int) -> SaParams:
    return replace(sa_params(lane << OWNER_SHIFT | 0x1001), reqid=lane + 1)


def host_selectors(lane: int) -> tuple[list[TrafficSelector], list[TrafficSelector]]:
    local, remote = ip_network(f"10.1.{lane}.0/24"), ip_network("10.2.0.0/16")
    return [TrafficSelector.from_network(local)], [TrafficSelector.from_network(remote)]


def packet(lane: int, number: int) -> bytes:
    return ipv4(f"10.1.{lane}.2", "10.2.0.2", 17, udp(5000, 6000, number.to_bytes(60, "big")))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("aside", [0, 1])
def test_the_owner_opens_wherever_packets_arrive(count: int, aside: int) -> None:
    """`aside`: how many workers beside the owner the network brings them."""
    a, b = Plane(count), Plane(count)
    sas = [sa_of_lane(lane) for lane in range(2 * count)]
    a.plane.publish_spd([policy for lane in range(len(sas)) for policy in protect(lane + 1, *host_selectors(lane))])
    for params in sas:
        b.plane.install_inbound(as_inbound(params))
        a.plane.install_outbound(params)
        a.plane.activate_outbound(params.reqid, params.spi)
    for number in range(20):
        for lane in range(len(sas)):
            assert a.inner[lane % count].put(packet(lane, number))
    a.step()
    for port in a.outer:
        for sealed, path, tos in iter(port.get, None):
            lane = sealed[1] >> 4 | (sealed[0] & 15) << 4
            assert path is not None
            assert b.outer[(lane + aside) % count].put(sealed, reverse(path), tos)
    b.step()
    for worker, packets in enumerate(b.received()):
        for lane in range(worker, len(sas), count):
            assert [one for one in packets if one[14] == lane] == [packet(lane, number) for number in range(20)]
        assert len(packets) == 40
    assert [stats["handed_over"] for stats in b.stats()] == [40 * aside] * count
    assert [stats["taken_over"] for stats in b.stats()] == [40 * aside] * count
    events = [event for event in b.plane.events() if isinstance(event, FirstInbound)]
    assert sorted(event.spi for event in events) == [params.spi for params in sas]
    for plane in (a, b):
        plane.check_conservation()
        plane.plane.close()


def test_a_worker_after_the_first_sa_is_refused() -> None:
    plane = Plane(2)
    plane.plane.install_inbound(as_inbound(sa_params()))
    with pytest.raises(DataPlaneError, match="all workers must be added before the first SA"):
        plane.plane.add_worker("late", MemoryPort.pair()[0], [MemoryPort.pair()[0]])
    plane.plane.close()
