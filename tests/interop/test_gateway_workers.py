"""Gateways with several workers each: flows both ways over all of them, rekeys, order, idleness.

host A -- gateway A == gateway B -- host B                    the two sites of ipsecfast.lab.netns
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from conftest import StartGateway
from test_two_gateways import rekey

from ipsecfast.lab.netns import A, B, TwoSites
from ipsecfast.lab.testbed import GatewayProcess, NumberedFlow, Stream, tunnel_config, wait_for

FLOWS = 6  # each way; that all of both ways hash to one worker of two happens once in a thousand runs
RATE = 2_000  # packets a second and flow


def start_pair(
    sites: TwoSites, start: StartGateway, gateway: dict[str, Any], **options: Any
) -> tuple[GatewayProcess, GatewayProcess]:
    ends = []
    for site, own, peer in ((sites.a, A, B), (sites.b, B, A)):
        config = tunnel_config(own, peer, **options)
        config["gateway"].update(gateway)
        ends.append(start(site.gateway, config))
    ends[0].command("initiate", "net")
    for end in ends:
        wait_for("the Child SA is there", end.child)
    return ends[0], ends[1]


def check_books(gateway: GatewayProcess) -> list[dict[str, Any]]:
    """Over all workers a packet counts once: what came in went out, was dropped or consumed."""
    workers: list[dict[str, Any]] = gateway.status()["workers"]
    came = sum(worker[way]["rx_packets"] for worker in workers for way in ("outbound", "inbound"))
    went = sum(worker[way]["tx_packets"] for worker in workers for way in ("outbound", "inbound"))
    dropped = sum(sum(worker["drops"].values()) for worker in workers)
    assert came == went + dropped + sum(worker["consumed"] + worker["held"] for worker in workers), workers
    assert sum(worker["handed_over"] - worker["taken_over"] for worker in workers) == 0, workers
    return workers


@pytest.mark.parametrize("encap", [False, True], ids=["bare-esp", "esp-in-udp"])
@pytest.mark.parametrize("count", [2, 4])
def test_flows_stay_in_order_while_sas_are_rekeyed(
    sites: TwoSites, start_gateway: StartGateway, count: int, encap: bool
) -> None:
    ends = start_pair(sites, start_gateway, {"workers": count}, connection={"encap": encap})
    flows = [
        flow
        for i in range(FLOWS)
        for flow in (
            NumberedFlow(sites.a.host, sites.b.host, B.host[0], port=7000 + i, rate=RATE),
            NumberedFlow(sites.b.host, sites.a.host, A.host[0], port=7000 + i, rate=RATE),
        )
    ]
    for end in ends:
        rekey(end, "child")
    results = [flow.finish() for flow in flows]
    assert [(result.lost, result.duplicates, result.reordered) for result in results] == [(0, 0, 0)] * len(flows), (
        results
    )
    spread = 0
    for end in ends:
        workers = check_books(end)
        assert [worker["name"] for worker in workers] == [f"ipsf-worker{i}" for i in range(count)]
        assert sum(worker["inbound"]["rx_packets"] > 1000 for worker in workers) == 1, "one SA, one owner"
        assert sum(worker["handed_over"] for worker in workers) < 1000, "the kernel brings packets to the owner"
        spread = max(spread, sum(worker["outbound"]["rx_packets"] > 100 for worker in workers))
    assert spread > 1, "flows are spread"


def test_tcp_both_ways(sites: TwoSites, start_gateway: StartGateway) -> None:
    ends = start_pair(sites, start_gateway, {"workers": 2}, connection={"encap": True})
    streams = [
        Stream(sites.a.host, sites.b.host, B.host[0], port=7100),
        Stream(sites.b.host, sites.a.host, A.host[0], port=7101),
    ]
    time.sleep(1.0)
    for stream in streams:
        assert min(stream.finish()) > 0
    for end in ends:
        check_books(end)


def cpu_share(gateway: GatewayProcess, seconds: float) -> float:
    """Of one CPU, over all workers."""
    before = sum(worker["cpu"] for worker in gateway.status()["workers"])
    time.sleep(seconds)
    return (sum(worker["cpu"] for worker in gateway.status()["workers"]) - before) / seconds


def test_idle_workers_sleep(sites: TwoSites, start_gateway: StartGateway) -> None:
    ends = start_pair(sites, start_gateway, {"workers": 2, "pin": True})
    time.sleep(0.5)
    assert all(cpu_share(end, 1.0) < 0.01 for end in ends)


def test_busy_workers_do_not(sites: TwoSites, start_gateway: StartGateway) -> None:
    end, _ = start_pair(sites, start_gateway, {"workers": 1, "poll": "busy", "pin": [0]})
    assert cpu_share(end, 0.5) > 0.1


def own_sas(gateway: GatewayProcess) -> dict[int, dict[str, Any]]:
    """The Child SAs that are in use, by their resource."""
    ike_sas = [ike for connection in gateway.status()["connections"] for ike in connection["ike_sas"]]
    children = [child for ike in ike_sas for child in ike["child_sas"] if child["state"] == "installed"]
    return {child["resource"]: child for child in children if child["outbound"] == "active"}


def test_each_worker_has_a_child_sa_of_its_own(sites: TwoSites, start_gateway: StartGateway) -> None:
    """RFC 9611: one tunnel fills all workers in both directions, also while its Child SAs are rekeyed one by one."""
    ends = start_pair(sites, start_gateway, {"workers": 2}, connection={"encap": True}, child={"per_cpu_sas": True})
    first = [
        flow
        for i in range(FLOWS)
        for flow in (
            NumberedFlow(sites.a.host, sites.b.host, B.host[0], port=7200 + i, rate=RATE),
            NumberedFlow(sites.b.host, sites.a.host, A.host[0], port=7200 + i, rate=RATE),
        )
    ]
    for end in ends:
        wait_for("a Child SA for each worker and one for all", lambda end=end: set(own_sas(end)) == {0, 1, 2})
    results = [flow.finish() for flow in first]
    assert [(result.lost, result.duplicates) for result in results] == [(0, 0)] * len(first), results
    before = [check_books(end) for end in ends]
    flows = [
        flow
        for i in range(FLOWS)
        for flow in (
            NumberedFlow(sites.a.host, sites.b.host, B.host[0], port=7300 + i, rate=RATE),
            NumberedFlow(sites.b.host, sites.a.host, A.host[0], port=7300 + i, rate=RATE),
        )
    ]
    for end in ends:
        known = {child["spi_in"] for child in own_sas(end).values()}
        end.command("rekey", "net", "net")
        wait_for(
            "new Child SAs",
            lambda end=end, known=known: len({c["spi_in"] for c in own_sas(end).values()} - known) == len(known),
        )
    results = [flow.finish() for flow in flows]
    assert [(result.lost, result.duplicates, result.reordered) for result in results] == [(0, 0, 0)] * len(flows), (
        results
    )
    for end, then in zip(ends, before, strict=True):
        for worker, was in zip(check_books(end), then, strict=True):
            assert worker["inbound"]["rx_packets"] - was["inbound"]["rx_packets"] > 1000, "each opens its own"
            assert worker["handed_over"] == was["handed_over"], "the kernel brings packets to the owner"
        sas = own_sas(end)
        assert set(sas) == {0, 1, 2}
        assert sas[0]["out"]["packets"] == 0, "the one for all is not needed"
