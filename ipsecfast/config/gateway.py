"""The configuration as the gateway takes it: all of it checked, nothing left to parse."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ipsecfast.errors import ConfigProblem
from ipsecfast.model import ConnectionConfig, Policy

DEFAULT_CONTROL = "/run/ipsecfast/ipsecfast.sock"
DEFAULT_TUN = "ipsec0"
DEFAULT_TABLE = 220
DEFAULT_MARK = 0x69707366  # "ipsf"


class Engine(StrEnum):
    """The AEAD engines by the names of the data plane; `auto` takes the fastest that is built in."""

    AUTO = "auto"
    OPENSSL = "openssl"
    IPSEC_MB = "ipsec-mb"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """One gateway. `mtu` None: computed from the routes to the peers. `table` is the number of our routing table and
    the priority of our rules; `mark` is the firewall mark of our outer packets. `policies` stand before the tunnels'.
    """

    file: str
    connections: tuple[ConnectionConfig, ...]
    policies: tuple[Policy, ...] = ()
    tun: str = DEFAULT_TUN
    control: str = DEFAULT_CONTROL
    engine: str = "auto"
    mtu: int | None = None
    table: int = DEFAULT_TABLE
    mark: int = DEFAULT_MARK
    warnings: tuple[ConfigProblem, ...] = ()
