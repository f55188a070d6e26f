"""Minutes of traffic through two gateways of ours: `make soak`. Prints its figures.

host A --- gateway A ======= gateway B --- host B
10.1.0.2   192.0.2.1         192.0.2.2     10.2.0.2
"""

from __future__ import annotations

import json
import shutil
import time

import pytest
from conftest import StartGateway

from ipsecfast.lab.netns import A, B, TwoSites
from ipsecfast.lab.testbed import GatewayProcess, NumberedFlow, tunnel_config, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

STREAM_SECONDS = 60
RATE = 50_000
CHILD_REKEYS, IKE_REKEYS = 20, 5
PAUSE = 0.5  # seconds between rekeys, so that each stands in the middle of traffic


@pytest.fixture
def gateways(sites: TwoSites, start_gateway: StartGateway) -> tuple[GatewayProcess, GatewayProcess]:
    a = start_gateway(sites.a.gateway, tunnel_config(A, B))
    b = start_gateway(sites.b.gateway, tunnel_config(B, A))
    a.command("initiate", "net")
    wait_for("both ends have the Child SA", lambda: a.child() and b.child())
    return a, b


def test_a_minute_of_tcp_has_no_stall(sites: TwoSites, gateways: tuple[GatewayProcess, GatewayProcess]) -> None:
    if not shutil.which("iperf3"):
        pytest.skip("there is no iperf3 (package iperf3)")
    server = sites.b.host.start(["iperf3", "--server", "--one-off"], stdout=-3)
    wait_for("iperf3 listens", lambda: ":5201" in sites.b.host.check_output(["ss", "-ltn"]))
    command = ["iperf3", "--client", B.host[0], "--json", "--time", str(STREAM_SECONDS), "--interval", "1"]
    result = json.loads(sites.a.host.check_output(command, timeout=STREAM_SECONDS + 30))
    server.wait(10)
    rates = [interval["sum"]["bits_per_second"] / 1e9 for interval in result["intervals"]]
    total = result["end"]["sum_received"]["bits_per_second"] / 1e9
    print(f"\nTCP {STREAM_SECONDS} s: {total:.2f} Gbit/s, slowest second {min(rates):.2f}, {len(rates)} intervals")
    assert len(rates) >= STREAM_SECONDS
    assert min(rates) > 0


def test_rekeys_under_a_numbered_stream(sites: TwoSites, gateways: tuple[GatewayProcess, GatewayProcess]) -> None:
    flow = NumberedFlow(sites.a.host, sites.b.host, B.host[0], rate=RATE)
    for number in range(CHILD_REKEYS):
        rekey_child(gateways[number % 2])
    for number in range(IKE_REKEYS):
        rekey_ike(gateways[number % 2])
    result = flow.finish()
    print(f"\n{CHILD_REKEYS} child rekeys, {IKE_REKEYS} IKE rekeys: {result}")
    assert (result.lost, result.duplicates) == (0, 0)
    assert result.rate > RATE * 0.95


def rekey_child(gateway: GatewayProcess) -> None:
    before = gateway.expect_child().spi_in
    gateway.command("rekey", "net", "net")
    wait_for("a new Child SA", lambda: gateway.expect_child().spi_in != before)
    time.sleep(PAUSE)


def rekey_ike(gateway: GatewayProcess) -> None:
    before = gateway.expect_child().ike_spi
    gateway.command("rekey", "net")
    wait_for("a new IKE SA", lambda: gateway.expect_child().ike_spi != before)
    time.sleep(PAUSE)
