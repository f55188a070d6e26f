"""Resumption (RFC 5723) by Libreswan 5 after our restart: our ticket keys outlive it. The rest is in the matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import StartGateway
from libreswan import Libreswan
from linux_guest import LinuxGuest
from peer import Trial, fetched

from ipsecfast.lab.netns import B, Site
from ipsecfast.lab.testbed import wait_for
from ipsecfast.lab.traffic import ping

pytestmark = pytest.mark.matrix


@pytest.fixture
def peer(ready_guest: LinuxGuest) -> Iterator[Libreswan]:
    root = fetched("libreswan5")
    if isinstance(root, str):
        pytest.skip(root)
    made = Libreswan(ready_guest, root)
    yield made
    made.close()


def test_a_restarted_gateway_takes_its_ticket(
    peer: Libreswan, start_gateway: StartGateway, site_a: Site, tmp_path: Path
) -> None:
    trial = Trial(name="resumption after a restart", row="resumption", connection={"resumption": True})
    config = trial.our_config(None)
    config["gateway"]["state"] = str(tmp_path / "state")
    peer.load(trial, None)
    ours = start_gateway(site_a.gateway, config)
    peer.initiate()
    before = ours.expect_child()
    wait_for("its ticket", lambda: "received v2N_TICKET_LT_OPAQUE" in peer.log_text())
    peer.suspend()
    wait_for("nothing is up", lambda: ours.counts() == (0, 0))
    ours.close()
    ours = start_gateway(site_a.gateway, config)
    peer.initiate()
    child = ours.expect_child()
    assert child.ike_spi != before.ike_spi
    assert "as responder, resumed, with b.test" in ours.log_text()
    assert "authenticated peer using authby=session-resume" in peer.log_text()
    assert None not in site_a.host.run(ping, B.host[0], 3, 0.05)
