"""The configuration as the gateway takes it: all of it checked, nothing left to parse."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ipsecfast.configured import ConnectionConfig
from ipsecfast.errors import ConfigProblem
from ipsecfast.model import Policy

DEFAULT_CONTROL = "/run/ipsecfast/ipsecfast.sock"
DEFAULT_TUN = "ipsec0"
DEFAULT_PUZZLE_LIMIT = 18
DEFAULT_TABLE = 220
DEFAULT_MARK = 0x69707366  # "ipsf"


class Engine(StrEnum):
    """The AEAD engines by the names of the data plane; `auto` takes the fastest, measured at the start."""

    AUTO = "auto"
    OPENSSL = "openssl"
    IPSEC_MB = "ipsec-mb"


class PollMode(StrEnum):
    """What a worker does when nothing is there: it sleeps until something comes, or looks again at once."""

    SLEEP = "sleep"
    BUSY = "busy"


class Carrier(StrEnum):
    """How ESP travels: `auto` in UDP where there is a NAT, else bare; `udp` always in UDP; `raw` always bare."""

    AUTO = "auto"
    UDP = "udp"
    RAW = "raw"


class RingKind(StrEnum):
    """The ports that carry whole Ethernet frames past the kernel's stack."""

    PACKET = "packet"
    XDP = "xdp"


@dataclass(frozen=True, slots=True)
class RingChoice:
    """`packet:eth0`, `xdp:eth0`: the kind of port and its interface."""

    kind: RingKind
    interface: str

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.interface}"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """One gateway. `mtu` None: computed from the routes to the peers. `table` is the number of our routing table and
    the priority of our rules; `mark` is the firewall mark of our outer packets. `policies` stand before the tunnels'.
    `workers` None: as many as CPUs. `pin`: whether each worker keeps to one CPU, or which ones.
    `puzzle_limit`: bits of a puzzle that is solved for a peer under attack (RFC 8019).
    `state` is the directory of what outlives a restart, None: nothing does.
    `outer` and `inner` are the ring ports beside the sockets and beside the TUN device, None: there is none.
    """

    file: str
    connections: tuple[ConnectionConfig, ...]
    policies: tuple[Policy, ...] = ()
    tun: str = DEFAULT_TUN
    state: str | None = None
    control: str = DEFAULT_CONTROL
    engine: str = "auto"
    mtu: int | None = None
    table: int = DEFAULT_TABLE
    mark: int = DEFAULT_MARK
    workers: int | None = None
    poll: PollMode = PollMode.SLEEP
    pin: bool | tuple[int, ...] = False
    puzzle_limit: int = DEFAULT_PUZZLE_LIMIT
    outer: RingChoice | None = None
    inner: RingChoice | None = None
    warnings: tuple[ConfigProblem, ...] = ()
