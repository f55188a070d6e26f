"""Announced authentication methods (RFC 9593): each end says how the other may prove itself, so that one with several
credentials takes the right one.

                         <--  HDR, SAr1, KEr, Nr, [CERTREQ], N(SUPPORTED_AUTH_METHODS)
HDR, SK {IDi, CERT, [CERTREQ], AUTH, SAi2, TSi, TSr, N(SUPPORTED_AUTH_METHODS)}  -->
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ipsecfast.configured import AuthKind, ConnectionConfig
from ipsecfast.ike.constants import AuthMethod, NotifyType
from ipsecfast.ike.crypto.signature import OLDER_METHODS, SCHEMES
from ipsecfast.ike.wire.payloads import NotifyPayload, Payload

MAX_ANNOUNCEMENTS = 64  # of a peer that are kept
_SHORT = 2  # octets of an announcement that says the method alone
_LINKED = 3  # and with a link to an authority


@dataclass(frozen=True, slots=True)
class Announcement:
    """s3.2: one way to prove oneself. `link`: only with certificates of that authority of the CERTREQ payloads, counted
    from 1; 0: of any. `identifier`: the AlgorithmIdentifier of a DIGITAL_SIGNATURE."""

    method: int
    link: int = 0
    identifier: bytes = b""

    def encode(self) -> bytes:
        if self.method in (AuthMethod.SHARED_KEY_MIC, AuthMethod.NULL):
            return bytes([_SHORT, self.method])
        return bytes([_LINKED + len(self.identifier), self.method, self.link]) + self.identifier


def payloads(configs: Sequence[ConnectionConfig]) -> tuple[Payload, ...]:
    """What a peer of any of these connections may do; nothing where all do it by a shared secret and have no choice."""
    kinds = frozenset(config.remote.method for config in configs)
    return (_payload(kinds),) if AuthKind.PUBKEY in kinds else ()


def _payload(kinds: frozenset[AuthKind]) -> Payload:
    data = b"".join(announcement.encode() for announcement in _announcements(kinds))
    return NotifyPayload(NotifyType.SUPPORTED_AUTH_METHODS, data)


def _announcements(kinds: frozenset[AuthKind]) -> Iterator[Announcement]:
    """Any of our signatures may come with a certificate of any authority that we trust: no links."""
    for scheme in SCHEMES:
        yield Announcement(AuthMethod.DIGITAL_SIGNATURE, 0, scheme.identifiers[0])
    for method in OLDER_METHODS:
        yield Announcement(method)
    if AuthKind.PSK in kinds:
        yield Announcement(AuthMethod.SHARED_KEY_MIC)


def parse(data: bytes) -> tuple[Announcement, ...]:
    """s3.2: what is not understood is passed over; behind a length that can't be there is nothing to be understood."""
    found: list[Announcement] = []
    at = 0
    while at < len(data) and len(found) < MAX_ANNOUNCEMENTS:
        length = data[at]
        if length < _SHORT or at + length > len(data):
            break
        one = data[at : at + length]
        if length == _SHORT:
            found.append(Announcement(one[1]))
        elif (one[1] == AuthMethod.DIGITAL_SIGNATURE) == (length > _LINKED):
            found.append(Announcement(one[1], one[2], one[_LINKED:]))
        at += length
    return tuple(found)
