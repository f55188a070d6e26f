"""The test bed itself: it counts what is lost and what comes twice, and nothing of it outlives its process.

host A --- gateway A --- gateway B --- host B     (plain routes, no tunnel)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipsecfast.lab.netns import A, B, TwoSites
from ipsecfast.lab.testbed import TRAFFIC, NumberedFlow, Stream, wait_for
from ipsecfast.lab.traffic import ping

RATE = 5_000


@pytest.fixture(scope="module")
def plain(sites: TwoSites) -> Iterator[TwoSites]:
    for site, peer in ((sites.a, B), (sites.b, A)):
        for network, gateway in zip(peer.networks, peer.outer, strict=True):
            site.gateway.add_route(network, gateway)
    return sites


def test_every_address_answers(plain: TwoSites) -> None:
    for address in (*B.host, *B.inner, *B.outer):
        assert None not in plain.a.host.run(ping, address, 2, 0.01)
    assert plain.a.host.run(ping, "10.2.0.9", 1, timeout=0.1) == [None]


def test_an_undisturbed_flow_is_whole(plain: TwoSites) -> None:
    flow = NumberedFlow(plain.a.host, plain.b.host, B.host[0], rate=RATE)
    result = flow.finish()
    assert result.sent > 0
    assert (result.lost, result.duplicates, result.reordered) == (0, 0, 0)


def test_losses_are_counted(plain: TwoSites) -> None:
    flow = NumberedFlow(plain.a.host, plain.b.host, B.host[0], rate=RATE)
    plain.b.gateway.sysctl(net__ipv4__ip_forward=0)
    time.sleep(0.2)
    plain.b.gateway.sysctl(net__ipv4__ip_forward=1)
    count = flow.received
    wait_for("packets arrive again", lambda: flow.received > count)
    result = flow.finish()
    assert result.lost > 0
    assert result.longest_gap > 0
    assert result.duplicates == 0


def test_duplicates_are_counted(plain: TwoSites) -> None:
    flow = NumberedFlow(plain.a.host, plain.b.host, B.host[0], rate=RATE)
    again = [*TRAFFIC, "udp-send", B.host[0], "7000", "--rate", "100", "--seconds", "0.5"]
    plain.a.host.check_output(again)
    assert flow.finish().duplicates > 0


def test_a_stream_runs(plain: TwoSites) -> None:
    stream = Stream(plain.a.host, plain.b.host, B.host[1])
    time.sleep(1.0)
    assert min(stream.finish()) > 0


HOLDER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell starts with it ignored
from ipsecfast.lab.netns import TwoSites
with TwoSites() as sites:
    child = sites.a.host.start(["sleep", "1000"])
    print(sites.a.host.run(lambda: __import__("os").readlink("/proc/thread-self/ns/net")), child.pid, flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_process(namespaces: None, number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        namespace, child = holder.stdout.readline().split()
        assert namespace in namespaces_in_use()
        holder.send_signal(number)
        holder.wait(timeout=20)
    wait_for("the child is gone", lambda: not Path("/proc", child).exists() or is_zombie(child))
    wait_for("the namespace is gone", lambda: namespace not in namespaces_in_use())


def is_zombie(pid: str) -> bool:
    return Path("/proc", pid, "stat").read_text().rpartition(") ")[2].startswith("Z")


def namespaces_in_use() -> set[str]:
    """The network namespaces of all threads, and those held open by a descriptor."""
    found = set()
    for link in (*Path("/proc").glob("[0-9]*/task/*/ns/net"), *Path("/proc").glob("[0-9]*/fd/*")):
        try:
            found.add(os.readlink(link))
        except OSError:
            continue
    return found
