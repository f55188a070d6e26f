"""Who a peer is (RFC 7296 s3.5): identities, printed for people and compared, and patterns of them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

EXACT = 1 << 16  # more than any pattern has octets
WILDCARD = "*"


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
        """Equal bytes, or the same name in another case, or distinguished name in another encoding (RFC 5280 s7.1)."""
        if self == other:
            return True
        if self.type != other.type or self.type not in (2, 3, 9):
            return False
        if self.type != 9:
            return self.data.lower() == other.data.lower()
        ours, theirs = ([(o, v.casefold()) for o, v in distinguished_name(i.data)] for i in (self, other))
        return ours == theirs != []

    @property
    def is_pattern(self) -> bool:
        """Written by the operator, it stands for many, as swanctl has it: a name that begins with `*`, a distinguished
        name with `*` for the value of an attribute."""
        if self.type in (2, 3):
            return self.data.startswith(b"*")
        return self.type == 9 and any(value == WILDCARD for _, value in distinguished_name(self.data))

    def covers(self, other: Identity) -> int:
        """How exactly this, as the operator wrote it, means `other`: EXACT, or less as a pattern (the more of it is
        fixed, the more exactly), or 0: not at all."""
        if self.same_as(other):
            return EXACT
        if self.type != other.type or not self.is_pattern:
            return 0
        if self.type != 9:
            fixed = self.data[1:].lower()
            longer = len(other.data) > len(fixed)
            return 1 + len(fixed) if longer and other.data.lower().endswith(fixed) else 0
        return _covers_name(distinguished_name(self.data), distinguished_name(other.data))


def _covers_name(pattern: list[tuple[bytes, str]], name: list[tuple[bytes, str]]) -> int:
    if [oid for oid, _ in pattern] != [oid for oid, _ in name]:
        return 0
    fixed = [(mine, theirs) for (_, mine), (_, theirs) in zip(pattern, name, strict=True) if mine != WILDCARD]
    same = all(mine.casefold() == theirs.casefold() for mine, theirs in fixed)
    return 1 + sum(len(mine) for mine, _ in fixed) if same else 0


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
