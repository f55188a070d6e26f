"""For redirects (RFC 5685): a second address of the same machine stands for the other gateway.

host A --- gateway A: 192.0.2.1, 192.0.2.11 ====== 192.0.2.2, 192.0.2.12 :gateway B --- host B
"""

from __future__ import annotations

from typing import Any

from ipsecfast.lab.netns import TwoSites
from ipsecfast.lab.testbed import GatewayProcess, wait_for

OURS, THEIRS = "192.0.2.11", "192.0.2.12"


def add_second_addresses(sites: TwoSites) -> TwoSites:
    """Each gateway has another address."""
    sites.a.gateway.add_address("outer", f"{OURS}/24")
    sites.b.gateway.add_address("outer", f"{THEIRS}/24")
    return sites


def twice(config: dict[str, Any], address: str, **options: Any) -> dict[str, Any]:
    """The connection `net` with `options`, and the same as `moved` on the second address."""
    net = config["connections"]["net"]
    return config | {"connections": {"net": net | options, "moved": net | {"local_addrs": [address]}}}


def serving(gateway: GatewayProcess, remote: bool = False) -> set[str]:
    """The addresses of our end, or of the other one, of the IKE SAs that have a Child SA."""
    end = "remote" if remote else "local"
    ike_sas = [ike for connection in gateway.status()["connections"] for ike in connection["ike_sas"]]
    return {ike[end].rpartition(":")[0] for ike in ike_sas if ike["child_sas"]}


def moved(gateway: GatewayProcess, to: str, *, remote: bool = False) -> None:
    wait_for(f"the tunnel is at {to}", lambda: serving(gateway, remote) == {to}, seconds=15.0)
