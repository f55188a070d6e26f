"""What proves who and where a peer is: AUTH by pre-shared key, NAT detection, cookies."""

from __future__ import annotations

import hmac
from hashlib import sha1

from cryptography.hazmat.primitives import constant_time

from ipsecfast.ike.crypto.primitives import Prf
from ipsecfast.ike.wire.payloads import IdPayload
from ipsecfast.model import IPAddress

COOKIE_LENGTH = 32
MAX_COOKIE = 64  # RFC 7296 s2.6
KEY_PAD = b"Key Pad for IKEv2"


def signed_octets(
    message_bytes: bytes, nonce_peer: bytes, prf: Prf, sk_p: bytes, id_payload: IdPayload, intauth: bytes = b""
) -> bytes:
    """RFC 7296 s2.15: what one side's AUTH covers.

    `message_bytes` is the IKE_SA_INIT message that this side sent, from the IKE header on; `nonce_peer` the nonce that
    it received; `sk_p` and `id_payload` its own (SK_pi and IDi for the initiator); `intauth` is `IntAuth.octets()`.
    """
    return message_bytes + nonce_peer + prf.compute(sk_p, id_payload.encode()) + intauth


class IntAuth:
    """RFC 9242 s3.3: what both AUTH payloads cover of the IKE_INTERMEDIATE exchanges: a running MAC over the requests,
    one over the responses, and the message ID of the IKE_AUTH request that comes after them."""

    __slots__ = ("_exchanges", "_macs")

    def __init__(self) -> None:
        self._macs = {False: b"", True: b""}  # IntAuth_i over requests, IntAuth_r over responses
        self._exchanges = 0

    def add(self, prf: Prf, sk_p: bytes, octets: bytes, *, response: bool) -> None:
        """s3.3.2: one message; `sk_p` is the sender's SK_p* while the exchange runs, `octets` is A | P."""
        self._macs[response] = prf.compute(sk_p, self._macs[response] + octets)
        self._exchanges += not response

    def octets(self) -> bytes:
        """IntAuth_iN | IntAuth_rN | IKE_AUTH_MID; nothing, when there was no such exchange."""
        if not self._exchanges:
            return b""
        after_init = 1 + self._exchanges  # IKE_SA_INIT had message ID 0
        return self._macs[False] + self._macs[True] + after_init.to_bytes(4, "big")


def psk_auth(prf: Prf, secret: bytes, octets: bytes) -> bytes:
    """s2.15: AUTH = prf(prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets>)."""
    return prf.compute(prf.compute(secret, KEY_PAD), octets)


def verify_psk(prf: Prf, secret: bytes, octets: bytes, received: bytes) -> bool:
    """Whether `received` is the AUTH of who has `secret`; the time it takes says nothing about the right value."""
    return constant_time.bytes_eq(psk_auth(prf, secret, octets), received)


def nat_detection_hash(spi_i: bytes, spi_r: bytes, address: IPAddress, port: int) -> bytes:
    """s2.23: the data of NAT_DETECTION_SOURCE_IP and NAT_DETECTION_DESTINATION_IP: SHA-1(SPIs | IP address | port)."""
    return sha1(spi_i + spi_r + address.packed + port.to_bytes(2, "big"), usedforsecurity=False).digest()


def make_cookie(secret: bytes, nonce_i: bytes, address: IPAddress, spi_i: bytes, asked: bytes = b"") -> bytes:
    """s2.6: 32 octets that only who holds `secret` can make, over what an initiator must repeat, Ni, IPi and SPIi, and
    over what was asked of it, which follows them.

    Only the nonce's length is open, so it stands last and no two requests share an input.
    """
    start = bytes([len(address.packed), len(asked)]) + asked
    return hmac.digest(secret, start + address.packed + spi_i + nonce_i, "sha256") + asked


def verify_cookie(secret: bytes, cookie: bytes, nonce_i: bytes, address: IPAddress, spi_i: bytes) -> bool:
    """Whether we made `cookie` for this request with `secret`; ask again with the secret before the last change."""
    asked = cookie[COOKIE_LENGTH:]
    return len(cookie) <= MAX_COOKIE and constant_time.bytes_eq(
        make_cookie(secret, nonce_i, address, spi_i, asked), cookie
    )
