"""What one value of the configuration may look like. Each parser returns the typed value or raises ValueError with a
sentence that says what would be right; none of them prints the value itself, so that a secret can't leak."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import TypeAlias, TypeVar
from urllib.parse import urlsplit

from cryptography import x509

from ipsecfast.config.gateway import Carrier, RingChoice, RingKind
from ipsecfast.identity import Identity
from ipsecfast.ike.extension.gateway_identity import parse_target
from ipsecfast.ike.wire.proposal import parse_proposal
from ipsecfast.model import (
    MAX_PORT,
    MAX_TFC_PADDING,
    PROTOCOL_ICMP,
    PROTOCOL_ICMPV6,
    IPAddress,
    IPNetwork,
    Proposal,
    ProtocolId,
    TrafficSelector,
)

AddressEntry: TypeAlias = IPAddress | IPNetwork
Number: TypeAlias = Callable[[object], float]
E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")

ANY = "%any"
MAX_DSCP = 63  # RFC 2474 s3
MAX_WORKERS = 64  # of the data plane
NOT_PINNED: bool | tuple[int, ...] = False

# RFC 7296 s3.5.
ID_IPV4_ADDR, ID_FQDN, ID_RFC822_ADDR, ID_IPV6_ADDR, ID_DER_ASN1_DN, ID_KEY_ID = 1, 2, 3, 5, 9, 11

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MAX_SECONDS = 10 * 365 * 86400.0
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MAX_COUNT = (1 << 63) - 1
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)i?B?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SELECTOR = re.compile(r"([^\[\]]+)(?:\[([^\[\]]*)\])?")
_MAX_INTERFACE_NAME = 15  # IFNAMSIZ - 1
_MAX_SOCKET_PATH = 103  # sizeof sun_path - 1, and 4 for the name before it is ready

_PROTOCOLS = {
    "any": 0, "icmp": PROTOCOL_ICMP, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "ipv6": 41, "gre": 47, "esp": 50,
    "ah": 51, "icmpv6": PROTOCOL_ICMPV6, "ipv6-icmp": PROTOCOL_ICMPV6, "ospf": 89, "vrrp": 112, "l2tp": 115,
    "sctp": 132, "udplite": 136,
}  # fmt: skip


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError('expected a text in quotes, such as "abc"')
    if not value:
        raise ValueError("the text is empty")
    return value


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def integer(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return parse


def per_cpu_sas(value: object) -> int | None:
    """0: none; None: one for each worker."""
    if isinstance(value, bool):
        return None if value else 0
    if not isinstance(value, int) or not 1 <= value <= MAX_WORKERS:
        ports = ' ("encap", a UDP port for each SA, is not to be had: SPIs tell workers apart)' * (value == "encap")
        raise ValueError(f"expected true, false, or for how many workers: 1 to {MAX_WORKERS}{ports}")
    return value


def tfc_padding(value: object) -> int:
    """Octets, 0: none; `mtu`: as many as there may be."""
    if value == "mtu":
        return MAX_TFC_PADDING
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TFC_PADDING:
        raise ValueError(f'expected "mtu" or a number of octets from 0 to {MAX_TFC_PADDING}')
    return value


def dscp_classes(value: object) -> tuple[tuple[int, ...], ...]:
    """Classes of DSCPs, each DSCP in one class only."""
    entries = value if isinstance(value, list) else [value]
    classes = tuple(tuple(entry) if isinstance(entry, list) else (entry,) for entry in entries)
    numbers = [number for entry in classes for number in entry]
    known = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= MAX_DSCP for n in numbers)
    if not (known and all(classes) and len(set(numbers)) == len(numbers)):
        raise ValueError(f"expected classes of DSCPs from 0 to {MAX_DSCP}, each once, such as [[46], [34, 36, 38]]")
    return classes


def workers(value: object) -> int | None:
    """None: as many as CPUs."""
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_WORKERS:
        raise ValueError(f'expected "auto" or a whole number from 1 to {MAX_WORKERS}')
    return value


def pin(value: object) -> bool | tuple[int, ...]:
    if isinstance(value, bool):
        return value
    numbers = value if isinstance(value, list) else []
    if not numbers or any(isinstance(cpu, bool) or not isinstance(cpu, int) or cpu < 0 for cpu in numbers):
        raise ValueError("expected true, false or a list of CPU numbers, such as [2, 3]")
    if len(set(numbers)) < len(numbers) or len(numbers) > MAX_WORKERS:
        raise ValueError(f"expected up to {MAX_WORKERS} CPU numbers, each once")
    return tuple(numbers)


def optional(parse: Callable[[object], T]) -> Callable[[object], T | None]:
    """The same parser, for a key that may be absent."""
    return parse


def choice(kind: type[E], *, without: frozenset[E] = frozenset()) -> Callable[[object], E]:
    allowed = [member for member in kind if member not in without]

    def parse(value: object) -> E:
        for member in allowed:
            if value == member.value:
                return member
        raise ValueError(f"expected one of: {', '.join(member.value for member in allowed)}")

    return parse


def word(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"expected one of: {', '.join(allowed)}")
        return value

    return parse


def duration(value: object) -> float:
    """Seconds as a number, or a text with a unit: 90, "90s", "15m", "4h", "1d". 0 turns the limit off."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError('expected seconds or a time with a unit, such as 90, "90s", "15m", "4h" or "1d"')
        seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError("expected a time from 0 to ten years")
    return seconds


def size(value: object) -> int:
    """Bytes as a number, or a text with a unit of 1024: 1000000, "500M", "10G". 0 turns the limit off."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError('expected bytes or a size with a unit, such as 1000000, "500M" or "10G"')
    match = _SIZE.fullmatch(str(value))
    if match is None:
        raise ValueError('expected bytes or a size with a unit, such as 1000000, "500M" or "10G"')
    count = int(match[1]) * _BYTES[match[2].upper()]
    if count > _MAX_COUNT:
        raise ValueError("expected less than 8 EiB")
    return count


def packets(value: object) -> int:
    return integer(0, _MAX_COUNT)(value)


def name(value: str) -> str:
    """A connection's or child's name: it stands in commands as CONNECTION/CHILD."""
    if not _NAME.fullmatch(value):
        raise ValueError("a name is made of letters, digits, '_', '-' and '.', and starts with a letter or digit")
    return value


def interface_name(value: object) -> str:
    """A name the kernel takes for a network device (15 characters)."""
    device = text(value)
    if len(device.encode()) > _MAX_INTERFACE_NAME:
        raise ValueError(f"a device name has at most {_MAX_INTERFACE_NAME} characters, this has {len(device)}")
    if device in (".", "..") or re.search(r"[\s/:%]", device):
        raise ValueError("a device name has no blank, '/', ':' or '%', and is not '.' or '..'")
    return device


def ring(value: object) -> RingChoice | None:
    """`packet:DEVICE` or `xdp:DEVICE`; None if it is neither."""
    kind, colon, device = text(value).partition(":")
    if not colon or kind not in list(RingKind):
        return None
    return RingChoice(RingKind(kind), interface_name(device))


def outer(value: object) -> Carrier | RingChoice:
    chosen = ring(value)
    if chosen is not None:
        return chosen
    if value not in list(Carrier):
        raise ValueError('expected "auto", "udp", "raw", or a kind of port and its device, such as "packet:eth0"')
    return Carrier(text(value))


def inner(value: object) -> RingChoice | None:
    """None is the TUN device alone."""
    chosen = ring(value)
    if chosen is None and value != "tun":
        raise ValueError('expected "tun", or a kind of port and its device, such as "packet:eth1"')
    return chosen


def absolute_path(value: object) -> str:
    path = text(value)
    if not path.startswith("/"):
        raise ValueError("expected an absolute path, such as /var/lib/ipsecfast")
    return path


def socket_path(value: object) -> str:
    path = text(value)
    if not path.startswith("/"):
        raise ValueError("expected an absolute path, such as /run/ipsecfast/ipsecfast.sock")
    if len(path.encode()) > _MAX_SOCKET_PATH:
        raise ValueError(f"a socket path has at most {_MAX_SOCKET_PATH} bytes")
    return path


def http_uri(value: object) -> str:
    """Where a CRL or an OCSP responder is. What comes from there is signed, so it needs no TLS."""
    uri = text(value)
    try:
        parts = urlsplit(uri)
        usable = parts.scheme == "http" and bool(parts.hostname) and (parts.port or 80) > 0
    except ValueError:
        usable = False
    if not usable or not uri.isascii() or not uri.isprintable() or " " in uri:
        raise ValueError("expected an http URI such as http://crl.example.org/ca.crl")
    return uri


def address_entry(value: object) -> AddressEntry | None:
    """An address, a prefix, or None for %any."""
    entry = text(value)
    if entry == ANY:
        return None
    return _network(entry) if "/" in entry else _address(entry)


def _address(entry: str) -> IPAddress:
    try:
        address = ip_address(entry)
    except ValueError:
        raise ValueError("expected an address such as 192.0.2.1 or 2001:db8::1 (names aren't looked up)") from None
    if address.version == 6 and address.scope_id:
        raise ValueError("expected an address without a zone: link-local addresses can't be endpoints here")
    return address


def _network(entry: str) -> IPNetwork:
    try:
        return ip_network(entry)
    except ValueError:
        pass
    try:
        loose = ip_network(entry, strict=False)
    except ValueError:
        raise ValueError("expected a prefix such as 10.1.0.0/24 or 2001:db8:1::/64") from None
    host = entry.partition("/")[0]
    raise ValueError(f"bits are set beyond the prefix length: write {loose} for the network or {host} for the host")


def selector(value: object) -> TrafficSelector | None:
    """swanctl's notation: `10.1.0.0/24`, `10.1.0.5-10.1.0.9`, `...[tcp/80]`, `...[udp/5000-5010]`, `...[icmp/8]`,
    `...[icmp/3/4]`; None for `dynamic`, the address that IKE itself uses."""
    entry = text(value)
    match = _SELECTOR.fullmatch(entry.strip())
    if match is None:
        raise ValueError("expected an address, a prefix, a range a-b or dynamic, with [proto/port] behind it if wanted")
    addresses, protocol_and_port = match[1].strip(), match[2]
    if addresses == "dynamic":
        if protocol_and_port is not None:
            raise ValueError("dynamic can't have a protocol or port here: write the address instead of dynamic")
        return None
    start, end = _address_range(addresses)
    protocol, low, high = (0, 0, MAX_PORT) if protocol_and_port is None else _protocol_ports(protocol_and_port)
    if (protocol == PROTOCOL_ICMP and start.version == 6) or (protocol == PROTOCOL_ICMPV6 and start.version == 4):
        raise ValueError("icmp belongs to IPv4 addresses, icmpv6 to IPv6 addresses")
    return TrafficSelector(start, end, protocol, low, high)


def fixed_selector(value: object) -> TrafficSelector:
    """A selector of an explicit policy: there is no IKE address that `dynamic` could stand for."""
    parsed = selector(value)
    if parsed is None:
        raise ValueError("expected addresses: dynamic has no meaning outside of a connection")
    return parsed


def _address_range(addresses: str) -> tuple[IPAddress, IPAddress]:
    if "/" in addresses:
        network = _network(addresses)
        return network.network_address, network.broadcast_address
    first, dash, last = (part.strip() for part in addresses.partition("-"))
    start = _address(first)
    end = _address(last) if dash else start
    if start.version != end.version or int(start) > int(end):
        raise ValueError("a range goes from the lower to the higher address of one family")
    return start, end


def _protocol_ports(spec: str) -> tuple[int, int, int]:
    protocol_text, *port_parts = spec.strip().lower().split("/")
    protocol = _protocol(protocol_text)
    if not port_parts or port_parts == ["any"] or port_parts == [""]:
        return protocol, 0, MAX_PORT
    if protocol in (PROTOCOL_ICMP, PROTOCOL_ICMPV6):
        return protocol, *_icmp_type_code(port_parts)
    if len(port_parts) > 1:
        raise ValueError("expected [protocol/port] or [protocol/low-high], such as [tcp/80] or [udp/5000-5010]")
    if port_parts == ["opaque"]:
        return protocol, MAX_PORT, 0
    return protocol, *_port_range(port_parts[0])


def _protocol(protocol_text: str) -> int:
    if protocol_text in _PROTOCOLS:
        return _PROTOCOLS[protocol_text]
    if protocol_text.isdecimal() and int(protocol_text) <= 255:
        return int(protocol_text)
    raise ValueError("unknown protocol: expected a number to 255 or one of " + ", ".join(_PROTOCOLS))


def _icmp_type_code(parts: list[str]) -> tuple[int, int]:
    """RFC 7296 s3.13.1: the type is the upper, the code the lower half of a port."""
    if len(parts) > 2 or not all(part.isdecimal() and int(part) <= 255 for part in parts):
        raise ValueError("expected [icmp/type] or [icmp/type/code], each from 0 to 255, such as [icmp/8] or [icmp/3/4]")
    icmp_type = int(parts[0]) << 8
    if len(parts) == 1:
        return icmp_type, icmp_type | 0xFF
    return icmp_type | int(parts[1]), icmp_type | int(parts[1])


def _port_range(ports: str) -> tuple[int, int]:
    low, dash, high = ports.partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise ValueError("expected a port or a range of ports as numbers, such as [tcp/80] or [udp/5000-5010]")
    first, last = int(low), int(high or low)
    if not first <= last <= MAX_PORT:
        raise ValueError(f"ports go from the lower to the higher number, up to {MAX_PORT}")
    return first, last


def gateway(value: object) -> IPAddress | str:
    """An address, or a host name."""
    return parse_target(text(value))


def identity(value: object) -> Identity | None:
    """An address, a name, `user@host`, a distinguished name, or `@#` and hexadecimal digits for a key ID; None for %any
    (RFC 7296 s3.5)."""
    entry = text(value)
    if entry == ANY:
        return None
    if entry.startswith("@#"):
        return Identity(ID_KEY_ID, _hexadecimal(entry[2:]))
    try:
        address = ip_address(entry)
    except ValueError:
        return _name_identity(entry)
    return address_identity(address)


def _name_identity(entry: str) -> Identity:
    if "=" in entry:
        return _distinguished_name(entry)
    fqdn = entry.removeprefix("@")
    if not fqdn or re.search(r"\s", fqdn):
        raise ValueError(
            "expected an address, a name such as gw.example.org, user@host, a distinguished name such as "
            "CN=gw, O=Example, or @# and hexadecimal digits"
        )
    return Identity(ID_RFC822_ADDR if "@" in fqdn else ID_FQDN, fqdn.encode())


def _distinguished_name(entry: str) -> Identity:
    """In the order of the certificate, the country first or last as there (swanctl's notation)."""
    parts = [part.strip() for part in re.split(r"(?<!\\),", entry)]
    try:
        name = x509.Name([x509.Name.from_rfc4514_string(part).rdns[0] for part in parts])
    except (IndexError, ValueError) as error:
        raise ValueError('expected a distinguished name such as "C=CH, O=Example, CN=gw"') from error
    return Identity(ID_DER_ASN1_DN, name.public_bytes())


def address_identity(address: IPAddress) -> Identity:
    return Identity(ID_IPV4_ADDR if address.version == 4 else ID_IPV6_ADDR, address.packed)


def identity_or_pattern(value: object) -> Identity:
    """One, or those that `*` stands for: `*.example.org`, `*@example.org`, `C=CH, O=Example, CN=*`."""
    parsed = identity(value)
    if parsed is None:
        raise ValueError("expected an identity or a pattern such as *.example.org: %any is for the remote side only")
    return parsed


def required_identity(value: object) -> Identity:
    parsed = identity(value)
    if parsed is None or parsed.is_pattern:
        raise ValueError("expected one identity: %any is for the remote side only, and so are patterns")
    return parsed


def secret(value: object) -> bytes:
    """swanctl's notation: plain text, 0x and hexadecimal digits, or 0s and base64."""
    entry = text(value)
    if entry.startswith("0x"):
        return _hexadecimal(entry[2:])
    if not entry.startswith("0s"):
        return entry.encode()
    try:
        decoded = base64.b64decode(entry[2:], validate=True)
    except binascii.Error:
        decoded = b""
    if not decoded:
        raise ValueError("0s is to be followed by base64")
    return decoded


def _hexadecimal(digits: str) -> bytes:
    try:
        decoded = bytes.fromhex(digits)
    except ValueError:
        decoded = b""
    if not decoded:
        raise ValueError("expected an even number of hexadecimal digits")
    return decoded


def ike_proposal(value: object) -> Proposal:
    return parse_proposal(text(value), ProtocolId.IKE)


def esp_proposal(value: object) -> Proposal:
    return parse_proposal(text(value), ProtocolId.ESP)
