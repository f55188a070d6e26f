"""How a redirect names a gateway (RFC 5685): by an address or by a host name."""

from __future__ import annotations

import re
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from ipsecfast.ike.constants import InvalidSyntax
from ipsecfast.model import IPAddress

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")

Target: TypeAlias = IPAddress | str  # an address, or a name that the shell resolves


class GatewayIdType(IntEnum):
    """How a REDIRECT or REDIRECTED_FROM names a gateway."""

    IPV4 = 1
    IPV6 = 2
    FQDN = 3


LENGTHS = {GatewayIdType.IPV4: 4, GatewayIdType.IPV6: 16}


def parse_target(text: str) -> Target:
    """What an operator writes. Raises ValueError if it is neither an address nor a host name."""
    try:
        return ip_address(text)
    except ValueError:
        if HOST_NAME.fullmatch(text) is None or text.replace(".", "").isdecimal():
            raise ValueError("expected the address or the host name of another gateway") from None
        return text


def gateway_id(target: Target) -> bytes:
    """The data of REDIRECTED_FROM, and of REDIRECT without a nonce: type, length, identity."""
    if isinstance(target, str):
        kind, data = GatewayIdType.FQDN, target.encode("ascii")
    else:
        kind, data = GatewayIdType.IPV4 if target.version == 4 else GatewayIdType.IPV6, target.packed
    return bytes([kind, len(data)]) + data


def parse_gateway_id(data: bytes) -> tuple[Target, bytes]:
    """The gateway, and what follows it: the nonce of a REDIRECT in IKE_SA_INIT.

    Raises:
        InvalidSyntax: no gateway that we could go to.
    """
    if len(data) < 2 or len(data) < 2 + data[1]:
        raise InvalidSyntax(f"a gateway identity of {len(data)} octets that claims more")
    kind, identity, rest = data[0], data[2 : 2 + data[1]], data[2 + data[1] :]
    if len(identity) != LENGTHS.get(kind, len(identity)):  # type: ignore[call-overload]
        raise InvalidSyntax(f"a gateway identity of type {kind} with {len(identity)} octets")
    match kind:
        case GatewayIdType.IPV4:
            return IPv4Address(identity), rest
        case GatewayIdType.IPV6:
            return IPv6Address(identity), rest
        case GatewayIdType.FQDN if HOST_NAME.fullmatch(name := identity.decode("ascii", "replace")):
            return name, rest
    raise InvalidSyntax(f"a gateway identity of type {kind} that names no gateway")
