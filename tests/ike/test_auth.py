"""AUTH by pre-shared key, NAT detection hashes and cookies, each against a line of the standard library."""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import ip_address

import pytest

from ipsecfast.identity import Identity
from ipsecfast.ike.auth import (
    IntAuth,
    make_cookie,
    nat_detection_hash,
    psk_auth,
    signed_octets,
    verify_cookie,
    verify_psk,
)
from ipsecfast.ike.constants import PayloadType
from ipsecfast.ike.crypto.primitives import Prf
from ipsecfast.ike.wire.payloads import IdPayload

NAMES = {5: "sha256", 6: "sha384", 7: "sha512"}
SPI_I, SPI_R = b"initiatr", b"respondr"


def prf(name: str, key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, getattr(hashlib, name)).digest()


@pytest.mark.parametrize(("prf_id", "name"), NAMES.items())
def test_auth_is_rfc_7296_s2_15(prf_id: int, name: str) -> None:
    identity = IdPayload(PayloadType.IDi, Identity(2, b"a.test"))
    octets = signed_octets(b"message 1", b"nonce of the responder", Prf(prf_id), b"sk_pi", identity)
    rest_of_id = b"\x02\x00\x00\x00a.test"
    assert octets == b"message 1" + b"nonce of the responder" + prf(name, b"sk_pi", rest_of_id)
    wanted = prf(name, prf(name, b"secret", b"Key Pad for IKEv2"), octets)
    assert psk_auth(Prf(prf_id), b"secret", octets) == wanted
    assert verify_psk(Prf(prf_id), b"secret", octets, wanted)


def test_auth_of_another_secret_message_or_length_is_refused() -> None:
    good = psk_auth(Prf(5), b"secret", b"octets")
    assert not verify_psk(Prf(5), b"Secret", b"octets", good)
    assert not verify_psk(Prf(5), b"secret", b"octet", good)
    for received in (b"", good[:-1], good + b"\0", bytes(32)):
        assert not verify_psk(Prf(5), b"secret", b"octets", received)


def test_intauth_is_rfc_9242_s3_3() -> None:
    intauth = IntAuth()
    assert intauth.octets() == b""
    for number in (1, 2):
        intauth.add(Prf(5), b"sk_pi%d" % number, b"request %d" % number, response=False)
        intauth.add(Prf(5), b"sk_pr%d" % number, b"response %d" % number, response=True)
    of_i = prf("sha256", b"sk_pi2", prf("sha256", b"sk_pi1", b"request 1") + b"request 2")
    of_r = prf("sha256", b"sk_pr2", prf("sha256", b"sk_pr1", b"response 1") + b"response 2")
    assert intauth.octets() == of_i + of_r + b"\0\0\0\3"
    identity = IdPayload(PayloadType.IDi, Identity(2, b"a.test"))
    without = signed_octets(b"message 1", b"nonce", Prf(5), b"sk_pi", identity)
    octets = signed_octets(b"message 1", b"nonce", Prf(5), b"sk_pi", identity, intauth.octets())
    assert octets == without + of_i + of_r + b"\0\0\0\3"


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_nat_detection_is_rfc_7296_s2_23(address: str) -> None:
    ip = ip_address(address)
    wanted = hashlib.sha1(SPI_I + SPI_R + ip.packed + b"\x01\xf4").digest()
    assert nat_detection_hash(SPI_I, SPI_R, ip, 500) == wanted
    assert nat_detection_hash(SPI_I, SPI_R, ip, 4500) != wanted


def test_a_cookie_is_good_for_its_request_and_secret_only() -> None:
    here, there = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    cookie = make_cookie(b"secret", b"n" * 32, here, SPI_I)
    assert 1 <= len(cookie) <= 64
    assert verify_cookie(b"secret", cookie, b"n" * 32, here, SPI_I)
    assert not verify_cookie(b"another", cookie, b"n" * 32, here, SPI_I)
    assert not verify_cookie(b"secret", cookie, b"m" * 32, here, SPI_I)
    assert not verify_cookie(b"secret", cookie, b"n" * 32, there, SPI_I)
    assert not verify_cookie(b"secret", cookie, b"n" * 32, here, SPI_R)
    for wrong in (b"", cookie[:-1], cookie + b"\0"):
        assert not verify_cookie(b"secret", wrong, b"n" * 32, here, SPI_I)


def test_addresses_of_both_versions_do_not_collide() -> None:
    """16 octets of IPv6 are not 4 of IPv4 and 12 of what follows."""
    v6 = ip_address(b"\xc0\x00\x02\x01" + SPI_I + b"nnnn")
    assert make_cookie(b"s", b"n" * 28, v6, b"nnnnnnnn") != make_cookie(b"s", b"n" * 40, ip_address("192.0.2.1"), SPI_I)
