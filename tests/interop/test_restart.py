"""A gateway is killed and started again: what its state directory spares the peer.

host A 10.1.0.2 ----- gateway A 192.0.2.1 ======= 192.0.2.2 gateway B ----- 10.2.0.2 host B
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import StartGateway

from ipsecfast.lab.netns import A, B, TwoSites
from ipsecfast.lab.testbed import tunnel_config, wait_for
from ipsecfast.lab.traffic import ping


@pytest.mark.parametrize("resumption", [False, True], ids=["full", "resumed"])
@pytest.mark.parametrize("encap", [False, True], ids=["bare-esp", "esp-in-udp"])
def test_a_killed_gateway_is_noticed_by_the_first_packet(
    sites: TwoSites, start_gateway: StartGateway, tmp_path: Path, encap: bool, resumption: bool
) -> None:
    """RFC 6290, and with tickets RFC 5723, between two processes that know nothing of each other but what is on the
    wire; B never initiates."""

    def config(own: Any, peer: Any) -> dict[str, Any]:
        made = tunnel_config(own, peer, connection={"encap": encap, "resumption": resumption})
        return made | {"gateway": {"state": str(tmp_path / f"state-{own.letter}")}}

    a = start_gateway(sites.a.gateway, config(A, B))
    b = start_gateway(sites.b.gateway, config(B, A))
    a.command("initiate", "net")
    assert None not in sites.a.host.run(ping, B.host[0], 3, 0.05)
    before = a.expect_child()
    b.process.kill()
    b.process.wait()
    b = start_gateway(sites.b.gateway, config(B, A))
    sites.a.host.run(ping, B.host[0], 1, 0.05)
    wait_for("a new tunnel", lambda: a.expect_child().spi_in != before.spi_in, seconds=3.0)
    assert None not in sites.a.host.run(ping, B.host[0], 3, 0.05)
    assert "it has restarted" in a.log_text()
    assert (a.counts(), b.counts()) == ((1, 1), (1, 1))
    assert ("as responder, resumed" in b.log_text()) == resumption
