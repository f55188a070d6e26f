"""The topologies of the interop tests, each made once for the tests of a module. They need root and /dev/net/tun."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import linux_guest
import pytest
import strongswan
from linux_guest import LinuxGuest
from matrix_page import Matrix
from peer import Peer
from strongswan import StrongSwan

from ipsecfast.lab.netns import A, B, Namespace, Site, TwoSites
from ipsecfast.lab.testbed import TRAFFIC, GatewayProcess

MATRIX = pytest.StashKey[Matrix]()
PROJECT = Path(__file__).parents[2]
GATEWAYS = pytest.StashKey[list[GatewayProcess]]()
StartGateway = Callable[[Namespace, Mapping[str, Any]], GatewayProcess]


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skips where no namespaces can be made."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/net/tun to open")


@pytest.fixture(scope="module")
def sites(namespaces: None) -> Iterator[TwoSites]:
    with TwoSites() as topology:
        yield topology


@pytest.fixture
def start_gateway(request: pytest.FixtureRequest) -> Iterator[StartGateway]:
    """Starts gateways; they end with the test."""
    started: list[GatewayProcess] = []
    request.node.stash[GATEWAYS] = started
    with tempfile.TemporaryDirectory(prefix="ipsecfast-") as folder:  # short: the path of a socket has 107 bytes

        def start(place: Namespace, config: Mapping[str, Any]) -> GatewayProcess:
            gateway = GatewayProcess(place, Path(folder, str(len(started))), config)
            started.append(gateway)
            return gateway

        yield start
        for gateway in started:
            gateway.close()


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    config.stash[MATRIX] = Matrix()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The report of a failed test shows what its gateways and its peer logged; that of a cell goes into the matrix.

    IPSECFAST_MATRIX_PART names the file that the results are saved in, for `matrix_page`.
    """
    report = yield
    if report.when == "call" and report.failed:
        for gateway in item.stash.get(GATEWAYS, []):
            report.sections.append((str(gateway.log), gateway.log_text()))
        peer = getattr(item, "funcargs", {}).get("peer")
        if isinstance(peer, Peer):
            report.sections.append((peer.title, peer.log_text()))
    if isinstance(item, pytest.Function) and item.originalname == "test_cell":
        matrix, part = item.config.stash[MATRIX], os.environ.get("IPSECFAST_MATRIX_PART")
        matrix.take(item, report)
        if part and report.when == "teardown":
            matrix.save(Path(part))
    return report


@pytest.fixture(scope="module")
def strongswan_b(sites: TwoSites, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrongSwan]:
    """strongSwan with its own ESP as gateway B."""
    reason = strongswan.missing(libipsec=True)
    if reason:
        pytest.skip(reason)
    daemon = strongswan.in_namespace(sites.b.gateway, tmp_path_factory.mktemp("charon"))
    yield daemon
    daemon.close()


@pytest.fixture(scope="module")
def site_a(namespaces: None) -> Iterator[Site]:
    """Host A and gateway A; the other end is the guest."""
    site = Site(A)
    yield site
    site.close()


@pytest.fixture(scope="module")
def guest(site_a: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinuxGuest]:
    """A Linux kernel as gateway B and host B in one: its dummy0 has the addresses of host B."""
    reason = linux_guest.missing()
    if reason:
        pytest.skip(reason)
    kernel = LinuxGuest(site_a.gateway, tmp_path_factory.mktemp("guest"))
    site_a.add_outer_addresses()
    for address, length in zip(B.outer, (24, 64), strict=True):
        kernel.run("ip", "address", "add", f"{address}/{length}", "dev", "vec0")
    for address, length in zip(B.host, (24, 64), strict=True):
        kernel.run("ip", "address", "add", f"{address}/{length}", "dev", "dummy0")
    yield kernel
    kernel.close()


@pytest.fixture(scope="module")
def strongswan_guest(guest: LinuxGuest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrongSwan]:
    """strongSwan with the kernel's ESP in the guest."""
    reason = strongswan.missing(libipsec=False)
    if reason:
        pytest.skip(reason)
    daemon = strongswan.in_guest(guest, tmp_path_factory.mktemp("charon"))
    yield daemon
    daemon.close()


@pytest.fixture(scope="module")
def ready_guest(site_a: Site, guest: LinuxGuest) -> LinuxGuest:
    """The guest takes TCP streams, and knows the way back to host A."""
    for address in (*B.host, *B.outer):
        guest.start("env", f"PYTHONPATH={PROJECT}", *TRAFFIC, "tcp-receive", address, "7001")
    for network, via, source in zip(A.networks, A.outer, B.host, strict=True):
        guest.run("ip", "route", "add", network, "via", via, "src", source)
    return guest
