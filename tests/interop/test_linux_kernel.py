"""The ESP of a real Linux kernel at the other end: strongSwan in user-mode Linux does IKE, its kernel the packets.

host A --- gateway A: ipsecfast === tap === guest: charon, Linux XFRM; dummy0 has host B's addresses
10.1.0.2             192.0.2.1             192.0.2.2                          10.2.0.2
fd00:a::2            fd00:2::1             fd00:2::2                          fd00:b::2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from against_strongswan import OURS, THEIRS, Tunnel, our_config, their_connection
from conftest import StartGateway
from linux_guest import LinuxGuest
from strongswan import StrongSwan

from ipsecfast.lab.netns import A, B, Site
from ipsecfast.lab.testbed import TRAFFIC

SINKS = (*B.host, *B.outer)
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def sinks(guest: LinuxGuest) -> None:
    """The guest takes TCP streams on each of its addresses."""
    for address in SINKS:
        guest.start("env", f"PYTHONPATH={PROJECT}", *TRAFFIC, "tcp-receive", address, "7001")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of tunnel: both ends' settings, and what the kernel's SAs must then show."""

    outer: int = 4
    encap: bool = False
    esp: str = "aes128gcm16"
    mode: str = "tunnel"
    shows: tuple[str, ...] = ()
    connection: Mapping[str, Any] = field(default_factory=dict)

    @property
    def at(self) -> int:
        return 0 if self.outer == 4 else 1

    def ours(self) -> dict[str, Any]:
        child: dict[str, Any] = {"esp_proposals": [self.esp], "mode": self.mode}
        if self.mode == "transport":
            child |= {"local_ts": ["dynamic"], "remote_ts": ["dynamic"]}
        return our_config(outer=self.outer, inner=(4, 6), connection={"encap": self.encap}, child=child)

    def theirs(self) -> dict[str, str]:
        options = {"esp_proposals": self.esp, "mode": self.mode, "encap": "yes" if self.encap else "no"}
        if self.mode == "transport":
            options |= {"local_ts": "dynamic", "remote_ts": "dynamic"}
        return options

    def addresses(self) -> tuple[str, ...]:
        return (B.outer[self.at],) if self.mode == "transport" else B.host


KINDS = {
    "bare-esp": Kind(shows=("mode tunnel", "rfc4106(gcm(aes))")),
    "esn": Kind(esp="aes128gcm16-esn", shows=("esn",)),
    "pfs-aes256": Kind(esp="aes256gcm16-ecp256", shows=("rfc4106(gcm(aes))",)),
    "udp-encap": Kind(encap=True, shows=("encap type espinudp",)),
    "outer-v6": Kind(outer=6, shows=("src fd00:2::",)),
    "outer-v6-udp-encap": Kind(outer=6, encap=True, shows=("encap type espinudp", "src fd00:2::")),
    "transport": Kind(mode="transport", shows=("mode transport",)),
    "transport-v6-esn": Kind(mode="transport", outer=6, esp="aes128gcm16-esn", shows=("mode transport", "esn")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_life_of_a_tunnel(
    site_a: Site, guest: LinuxGuest, start_gateway: StartGateway, strongswan_guest: StrongSwan, kind: str
) -> None:
    setting = KINDS[kind]
    strongswan_guest.load(their_connection(outer=setting.outer, inner=(4, 6), **setting.theirs()))
    host = site_a.gateway if setting.mode == "transport" else site_a.host
    tunnel = Tunnel(start_gateway(site_a.gateway, setting.ours()), strongswan_guest, host)
    for side, other in ((OURS, THEIRS), (THEIRS, OURS)):
        tunnel.up(side)
        state = guest.run("ip", "-d", "xfrm", "state")
        assert [word for word in setting.shows if word not in state] == [], state
        tunnel.answers(*setting.addresses())
        if side == THEIRS:
            tunnel.rekeys_under_traffic(setting.addresses()[-1])
        tunnel.down(other)
        assert guest.run("ip", "xfrm", "state").strip() == ""
        assert A.outer[setting.at] not in guest.run("ip", "xfrm", "policy")
