"""The vocabulary that both cores share: frozen values, named as the RFCs name them.

Nothing here knows a socket, a clock or a file. The IKE core (`ipsecfast.ike`), the configuration and the
binding of the data plane all speak in these types; a value made by one is handed to the other unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network

IKE_PORT = 500
NAT_T_PORT = 4500
MAX_TFC_PADDING = 16384  # octets; IPSF_TFC_MAX of the data plane
MAX_PORT = 65535
MIN_IPV6_MTU = 1280  # RFC 8200 s5

# IP protocol numbers whose "port" selector is a type and a code (RFC 4301 s4.4.1.1, RFC 7296 s3.13.1).
PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
PROTOCOL_ESP = 50
PROTOCOL_ICMPV6 = 58


class Mode(StrEnum):
    """RFC 4301 s4.1: what of the inner packet ESP protects."""

    TUNNEL = "tunnel"
    TRANSPORT = "transport"


class StartAction(StrEnum):
    """When a Child SA is negotiated: never by itself, for its first packet, or as soon as the gateway runs."""

    NONE = "none"
    TRAP = "trap"
    START = "start"


class PolicyAction(IntEnum):
    """What the SPD says of a packet (RFC 4301 s4.4.1)."""

    DISCARD = 0
    BYPASS = 1
    PROTECT = 2


class SpiRank(IntEnum):
    """What a message for an SPI of ours is worth: the lower goes before the higher."""

    PROVEN = 0  # its IKE SA's peer has shown who it is
    BEGUN = 1  # a half-open IKE SA
    UNKNOWN = 2  # no IKE SA of ours: whatever anyone sends


class CopyField(StrEnum):
    """Whether a field of the inner header is carried to the outer one (OUT), back (IN), both (YES) or neither."""

    YES = "yes"
    NO = "no"
    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class Path:
    """Where datagrams of one peer go: both addresses, both UDP ports. Ports are 0 for bare ESP."""

    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int

    @property
    def nat_t(self) -> bool:
        """True on the NAT traversal port, where IKE carries the non-ESP marker (RFC 3948 s2.2)."""
        return self.local_port == NAT_T_PORT

    def __str__(self) -> str:
        return f"{_endpoint(self.local, self.local_port)} -> {_endpoint(self.remote, self.remote_port)}"


def _endpoint(address: IPAddress, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """One range of addresses, one protocol (0: any), one range of ports (RFC 7296 s3.13.1).

    For ICMP and ICMPv6 a "port" is `type << 8 | code`. OPAQUE is the range (65535, 0).
    """

    start: IPAddress
    end: IPAddress
    protocol: int = 0
    port_start: int = 0
    port_end: int = MAX_PORT

    def __post_init__(self) -> None:
        if self.start.version != self.end.version or int(self.start) > int(self.end):
            raise ValueError(f"no address range: {self.start} to {self.end}")
        if not 0 <= self.protocol <= 255:
            raise ValueError(f"no IP protocol: {self.protocol}")
        if not (0 <= self.port_start <= MAX_PORT and 0 <= self.port_end <= MAX_PORT):
            raise ValueError(f"no port range: {self.port_start} to {self.port_end}")
        if self.port_start > self.port_end and not self.opaque:
            raise ValueError(f"no port range: {self.port_start} to {self.port_end}")

    @classmethod
    def from_network(
        cls, network: IPNetwork, protocol: int = 0, port_start: int = 0, port_end: int = MAX_PORT
    ) -> TrafficSelector:
        return cls(network.network_address, network.broadcast_address, protocol, port_start, port_end)

    @property
    def version(self) -> int:
        return self.start.version

    @property
    def opaque(self) -> bool:
        return (self.port_start, self.port_end) == (MAX_PORT, 0)

    @property
    def any_port(self) -> bool:
        return (self.port_start, self.port_end) == (0, MAX_PORT)

    def contains(self, other: TrafficSelector) -> bool:
        """Whether what both allow is `other`; found without making it: a peer can make us ask thousands of times."""
        if int(other.start) < int(self.start) or int(other.end) > int(self.end) or self.version != other.version:
            return False
        if self.protocol not in (0, other.protocol):
            return False
        if self.opaque or other.opaque:
            return other.opaque and (self.opaque or self.any_port)
        return self.port_start <= other.port_start and other.port_end <= self.port_end

    def intersect(self, other: TrafficSelector) -> TrafficSelector | None:
        """What both allow, or None (RFC 7296 s2.9: narrowing)."""
        start, end = max(int(self.start), int(other.start)), min(int(self.end), int(other.end))
        if start > end or self.version != other.version:
            return None
        if self.protocol and other.protocol and self.protocol != other.protocol:
            return None
        if self.opaque or other.opaque:
            ports = _intersect_opaque(self, other)
        else:
            ports = (max(self.port_start, other.port_start), min(self.port_end, other.port_end))
        if ports is None or (ports[0] > ports[1] and ports != (MAX_PORT, 0)):
            return None
        limits = start, end, self.protocol or other.protocol, *ports
        for whole in (self, other):
            if limits == whole._limits:
                return whole
        kind = type(self.start)
        return TrafficSelector(kind(start), kind(end), *limits[2:])

    @property
    def _limits(self) -> tuple[int, int, int, int, int]:
        return int(self.start), int(self.end), self.protocol, self.port_start, self.port_end

    def __str__(self) -> str:
        text = _range_text(self.start, self.end)
        if self.protocol == 0 and self.any_port:
            return text
        ports = "" if self.any_port else "/opaque" if self.opaque else f"/{_ports_text(self)}"
        return f"{text}[{self.protocol or 'any'}{ports}]"


def _intersect_opaque(a: TrafficSelector, b: TrafficSelector) -> tuple[int, int] | None:
    both_allow_opaque = all(s.opaque or s.any_port for s in (a, b))
    return (MAX_PORT, 0) if both_allow_opaque else None


def _range_text(start: IPAddress, end: IPAddress) -> str:
    length = start.max_prefixlen - (int(start) ^ int(end)).bit_length()
    host_bits = (1 << (start.max_prefixlen - length)) - 1
    is_prefix = int(start) & host_bits == 0 and int(end) & host_bits == host_bits
    return f"{start}/{length}" if is_prefix else f"{start}-{end}"


def _ports_text(selector: TrafficSelector) -> str:
    low, high = selector.port_start, selector.port_end
    return str(low) if low == high else f"{low}-{high}"


def parse_address(text: str) -> IPAddress:
    return ip_address(text)


@dataclass(frozen=True, slots=True)
class Policy:
    """One entry of the SPD for outbound packets (RFC 4301 s4.4.1); the first that matches decides.

    `reqid` names the child whose active outbound SA a PROTECT policy uses; `hold` keeps its first packets
    (and asks for the SA by an `Acquire`) while there is no such SA, instead of dropping them.
    """

    source: TrafficSelector
    destination: TrafficSelector
    action: PolicyAction
    reqid: int = 0
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When an SA is rekeyed (soft) and when it ends (hard). 0 means: no limit of that kind.

    Times in seconds, `rand_*` is the width of the jitter that is subtracted from the soft limit.
    """

    rekey_time: float = 0.0
    life_time: float = 0.0
    rand_time: float = 0.0
    rekey_bytes: int = 0
    life_bytes: int = 0
    rand_bytes: int = 0
    rekey_packets: int = 0
    life_packets: int = 0
    rand_packets: int = 0


@dataclass(frozen=True, slots=True)
class NextHop:
    """Who sends on what goes to a network over an Ethernet link: hardware addresses (6 bytes each) and the largest IP
    packet in bytes. `mtu` 0: the network stays with the kernel, whatever wider entries say."""

    network: IPNetwork
    destination: bytes = bytes(6)
    source: bytes = bytes(6)
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class SaParams:
    """One ESP SA, one direction, as negotiated: the value that travels from IKE to the data plane.

    `encryption` is the IANA transform ID of type 1 (20: ENCR_AES_GCM_16). `key` is what RFC 7296 s2.17 yields
    for it, for AES-GCM the AES key followed by 4 bytes of salt (RFC 4106 s8.1). `soft_*` and `hard_*` are counted by
    the data plane (0: unlimited). `local_ts` and `remote_ts` are from this gateway's point of view in both directions.
    `initial_sequence` is for an SA that is taken over from elsewhere: the last sequence number that was used
    (outbound), or the highest that was accepted, with all before it (inbound). A new SA has 0.
    Per-resource SAs (RFC 9611), outbound: `resource` i is for worker i - 1 alone, 0 for all; of one for all, so many
    workers as `resources` says ask for their own. With `dscp`, pairs of DSCP and resource, a resource is a class of
    packets instead (RFC 4301 s4.1). `tfc_padding`, outbound: octets that an inner packet is padded to (RFC 4303 s2.7).
    """

    spi: int
    reqid: int
    encryption: int
    key: bytes = field(repr=False)
    path: Path
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    mode: Mode = Mode.TUNNEL
    udp_encap: bool = False
    esn: bool = False
    replay_window: int = 2048
    soft_bytes: int = 0
    hard_bytes: int = 0
    soft_packets: int = 0
    hard_packets: int = 0
    copy_df: bool = True
    copy_ecn: bool = True
    copy_dscp: CopyField = CopyField.OUT
    tfc_padding: int = 0
    initial_sequence: int = 0
    resource: int = 0
    resources: int = 0
    dscp: tuple[tuple[int, int], ...] = ()


# What the data plane tells the control plane. The C table csrc/tables/events.def has one entry for each.


@dataclass(frozen=True, slots=True)
class Acquire:
    """A packet matched a PROTECT policy that has no SA; the packet is held (RFC 4301 s5.1).

    With `resource` i it is not: it left by the SA for all workers, and worker i - 1 has none of its own (RFC 9611 s6).
    """

    reqid: int
    source: TrafficSelector
    destination: TrafficSelector
    resource: int = 0


@dataclass(frozen=True, slots=True)
class FirstInbound:
    """The first packet with a good ICV arrived on this inbound SA (RFC 7296 s2.8)."""

    spi: int


@dataclass(frozen=True, slots=True)
class PeerMoved:
    """An authentic packet came from another address or port than the SA's path (RFC 7296 s2.23)."""

    spi: int
    path: Path


@dataclass(frozen=True, slots=True)
class SoftLifetime:
    """An SA passed its soft limit of bytes or packets, or three quarters of its sequence numbers, in or out."""

    reqid: int
    spi: int
    inbound: bool


@dataclass(frozen=True, slots=True)
class HardLifetime:
    """An SA passed its hard limit or its last sequence number: it carries nothing more."""

    reqid: int
    spi: int
    inbound: bool


@dataclass(frozen=True, slots=True)
class InboundSeen:
    """Since the last report authentic packets arrived on this inbound SA: the peer is alive."""

    spi: int


@dataclass(frozen=True, slots=True)
class UnknownSpi:
    """ESP arrived for an SPI that is not ours (RFC 7296 s1.5: INVALID_SPI)."""

    spi: int
    path: Path


@dataclass(frozen=True, slots=True)
class IkeDatagram:
    """An IKE message that came in on the data plane's socket, the non-ESP marker already removed."""

    path: Path
    data: bytes


DataPlaneEvent: TypeAlias = (
    Acquire | FirstInbound | PeerMoved | SoftLifetime | HardLifetime | InboundSeen | UnknownSpi | IkeDatagram
)


# What the operator configures, already checked. `config.py` makes these from TOML; the IKE core takes them as they are.


class WireEnum(IntEnum):
    """IANA numbers of one octet. One that we don't know becomes a member named `UNKNOWN_<number>`.

    So what a peer offers survives parsing, has a name in logs, and equals nothing that we configured (RFC 7296 s3.3.6).
    """

    @classmethod
    def _missing_(cls, value: object) -> WireEnum | None:
        if not isinstance(value, int) or not 0 <= value <= 255:
            return None
        member = int.__new__(cls, value)
        member._name_, member._value_ = f"UNKNOWN_{value}", value
        return member


class TransformType(WireEnum):
    """RFC 7296 s3.3.2; SN, once ESN: RFC 9827; ADDKE*: RFC 9370 s2.2.1."""

    ENCR = 1
    PRF = 2
    INTEG = 3
    KE = 4
    SN = 5
    ADDKE1 = 6
    ADDKE2 = 7
    ADDKE3 = 8
    ADDKE4 = 9
    ADDKE5 = 10
    ADDKE6 = 11
    ADDKE7 = 12


class ProtocolId(WireEnum):
    """RFC 7296 s3.3.1."""

    NONE = 0
    IKE = 1
    AH = 2
    ESP = 3


@dataclass(frozen=True, slots=True, order=True)
class Transform:
    """One algorithm of a proposal: type, IANA number, key length in bits (0: it has no Key Length attribute).

    `other_attributes` holds attributes that we don't understand, as they stand on the wire: a transform with any of
    them equals none that we configured, as RFC 7296 s3.3.6 wants.
    """

    type: TransformType
    id: int
    key_bits: int = 0
    other_attributes: bytes = b""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A choice of transforms for one protocol (RFC 7296 s3.3.1): of each type one is to be chosen, in this order."""

    protocol: ProtocolId
    transforms: tuple[Transform, ...]
    spi: bytes = b""
    number: int = 1
