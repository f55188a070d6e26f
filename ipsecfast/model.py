"""The vocabulary that both cores share: frozen values, named as the RFCs name them.

Nothing here knows a socket, a clock or a file. The IKE core (`ipsecfast.ike`), the configuration and the
binding of the data plane all speak in these types; a value made by one is handed to the other unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.x509 import Certificate

PublicKey: TypeAlias = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
PrivateKey: TypeAlias = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network

IKE_PORT = 500
NAT_T_PORT = 4500
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
        return self.intersect(other) == other

    def intersect(self, other: TrafficSelector) -> TrafficSelector | None:
        """What both allow, or None (RFC 7296 s2.9: narrowing)."""
        if self.version != other.version or (self.protocol and other.protocol and self.protocol != other.protocol):
            return None
        if self.opaque or other.opaque:
            ports = _intersect_opaque(self, other)
        else:
            ports = (max(self.port_start, other.port_start), min(self.port_end, other.port_end))
        start, end = max(int(self.start), int(other.start)), min(int(self.end), int(other.end))
        if ports is None or start > end or (ports[0] > ports[1] and ports != (MAX_PORT, 0)):
            return None
        kind = type(self.start)
        return TrafficSelector(kind(start), kind(end), self.protocol or other.protocol, *ports)

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
    initial_sequence: int = 0


# What the data plane tells the control plane. The C table csrc/tables/events.def has one entry for each.


@dataclass(frozen=True, slots=True)
class Acquire:
    """A packet matched a PROTECT policy that has no SA; the packet is held (RFC 4301 s5.1)."""

    reqid: int
    source: TrafficSelector
    destination: TrafficSelector


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
    """RFC 7296 s3.3.2; ADDKE*: RFC 9370 s2.2.1."""

    ENCR = 1
    PRF = 2
    INTEG = 3
    KE = 4
    ESN = 5
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


@dataclass(frozen=True, slots=True)
class Identity:
    """An IKE identity (RFC 7296 s3.5): ID type and its bytes as on the wire. Equal identities are equal bytes."""

    type: int
    data: bytes

    def __str__(self) -> str:
        if self.type in (1, 5) and len(self.data) in (4, 16):
            return str(ip_address(self.data))
        if self.type == 9 and (attributes := distinguished_name(self.data)):
            return ", ".join(f"{_ATTRIBUTES.get(oid, oid.hex())}={value}" for oid, value in attributes)
        if self.type not in (2, 3):
            return f"keyid:{self.data.hex()}"
        text = self.data.decode("utf-8", "backslashreplace")
        return _printable(text)

    def same_as(self, other: Identity) -> bool:
        """Equal bytes, or the same distinguished name in another encoding or case (RFC 5280 s7.1)."""
        if self == other:
            return True
        if self.type != 9 or other.type != 9:
            return False
        ours, theirs = ([(o, v.casefold()) for o, v in distinguished_name(i.data)] for i in (self, other))
        return ours == theirs != []


def _printable(text: str) -> str:
    """A stranger chose these octets and they stand in logs: no new lines, no control sequences."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


_ATTRIBUTES = {
    bytes.fromhex(oid): name
    for oid, name in (
        ("550403", "CN"), ("550406", "C"), ("550407", "L"), ("550408", "ST"), ("55040a", "O"), ("55040b", "OU"),
        ("550405", "serialNumber"), ("0992268993f22c640119", "DC"), ("2a864886f70d010901", "emailAddress"),
    )
}  # fmt: skip
_STRINGS = {0x0C: "utf-8", 0x13: "ascii", 0x16: "ascii", 0x14: "latin-1", 0x1E: "utf-16-be"}


def distinguished_name(der: bytes) -> list[tuple[bytes, str]]:
    """Object identifiers and values of an X.501 name in DER, in its order; empty where it is none."""
    try:
        (_, names), *rest = _der_items(der)
        pairs = [_der_items(pair) for _, rdn in _der_items(names) for _, pair in _der_items(rdn)]
        return [] if rest else [(o, _printable(value.decode(_STRINGS[tag]))) for (_, o), (tag, value) in pairs]
    except (KeyError, ValueError):
        return []


def _der_items(der: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each item, one after the other. Raises ValueError where lengths contradict the bytes."""
    items, at = [], 0
    while at < len(der):
        if len(der) - at < 2:
            raise ValueError("cut short")
        tag, length, start = der[at], der[at + 1], at + 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(der[at + 2 : start], "big")
        if start + length > len(der):
            raise ValueError("an item longer than what is around it")
        items.append((tag, der[start : start + length]))
        at = start + length
    return items


class AuthKind(StrEnum):
    """How one side proves who it is: by a pre-shared key or by a signature."""

    PSK = "psk"
    PUBKEY = "pubkey"


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """How one side proves who it is. `identity` None (remote only) accepts any identity that has the proof.

    With PUBKEY, local: `certificates` are ours, then those that lead to the authority, `key` its private key. Remote:
    `authorities` may vouch for the peer, or it has one of `certificates` itself.
    """

    identity: Identity | None
    method: AuthKind = AuthKind.PSK
    certificates: tuple[Certificate, ...] = ()
    authorities: tuple[Certificate, ...] = ()
    key: PrivateKey | None = field(default=None, repr=False)
    rsa_pss: bool = False


@dataclass(frozen=True, slots=True)
class PresharedKey:
    """A secret and the identities it belongs to (both ends; empty: any)."""

    identities: tuple[Identity, ...]
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """One Child SA that the operator wants. Selectors None stand for swanctl's `dynamic`: the IKE address itself."""

    name: str
    local_ts: tuple[TrafficSelector | None, ...]
    remote_ts: tuple[TrafficSelector | None, ...]
    esp_proposals: tuple[Proposal, ...]
    mode: Mode = Mode.TUNNEL
    start_action: StartAction = StartAction.NONE
    dpd_action: StartAction = StartAction.NONE
    close_action: StartAction = StartAction.NONE
    lifetime: Lifetime = field(default_factory=Lifetime)
    replay_window: int = 2048
    copy_df: bool = True
    copy_ecn: bool = True
    copy_dscp: CopyField = CopyField.OUT


class Fragmentation(StrEnum):
    """IKE fragmentation (RFC 7383): both ways, only of what we receive, or not at all."""

    YES = "yes"
    ACCEPT = "accept"
    NO = "no"


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """One peer: how to reach it, what to propose, who it must be, which Child SAs it gets. Times in seconds.

    Empty `local_addrs` or `remote_addrs` mean any address (such a connection only responds). `encap`: ESP in UDP even
    without a NAT; `nat_traversal` False: bare ESP even behind one (neither looks for a NAT).
    """

    name: str
    local_addrs: tuple[IPAddress | IPNetwork, ...]
    remote_addrs: tuple[IPAddress | IPNetwork, ...]
    proposals: tuple[Proposal, ...]
    local: AuthConfig
    remote: AuthConfig
    children: tuple[ChildConfig, ...]
    secrets: tuple[PresharedKey, ...] = field(default=(), repr=False)
    encap: bool = False
    nat_traversal: bool = True
    lifetime: Lifetime = field(default_factory=Lifetime)
    dpd_delay: float = 0.0
    keyingtries: int = 1
    unique: str = "replace"
    fragmentation: Fragmentation = Fragmentation.YES
